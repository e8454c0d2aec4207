//! The opening of IMAP up to STARTTLS.

use super::{AwaitedReply, CommandReply, StarttlsAnswer, line, word};

/// The command of the client role, with its tag.
pub(super) const STARTTLS: &str = "p1 STARTTLS\r\n";

/// The tag of the command.
const TAG: &[u8] = b"p1";

const CAPABILITIES: &str = "IMAP4rev1 STARTTLS LOGINDISABLED";

/// The longest tag that is repeated to its client; usual tags have about ten bytes.
const LONGEST_TAG: usize = 64;

pub(super) fn greeting(name: &str) -> String {
    format!("* OK [CAPABILITY {CAPABILITIES}] {name} ready\r\n")
}

pub(super) fn reply(line: &[u8]) -> CommandReply {
    let (tag, rest) = word(line);
    let Some(tag) = printable(tag) else {
        return CommandReply::Text("* BAD a command begins with its tag\r\n".to_owned());
    };
    let (command, argument) = word(rest);
    let is = |name: &str| command.eq_ignore_ascii_case(name.as_bytes()) && argument.is_empty();
    if is("CAPABILITY") {
        CommandReply::Text(format!("* CAPABILITY {CAPABILITIES}\r\n{tag} OK CAPABILITY completed\r\n"))
    } else if is("STARTTLS") {
        CommandReply::Tls(format!("{tag} OK Begin TLS negotiation now\r\n"))
    } else if is("NOOP") {
        CommandReply::Text(format!("{tag} OK NOOP completed\r\n"))
    } else if is("LOGOUT") {
        CommandReply::Quit(format!("* BYE logging out\r\n{tag} OK LOGOUT completed\r\n"))
    } else if command.is_empty() {
        CommandReply::Text(format!("{tag} BAD a command is missing\r\n"))
    } else {
        // RFC 5530, section 3.
        CommandReply::Text(format!("{tag} NO [PRIVACYREQUIRED] Must issue STARTTLS first\r\n"))
    }
}

/// Returns the tag if it may be repeated to the client (RFC 9051, section 9, `tag`).
fn printable(tag: &[u8]) -> Option<&str> {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !br#"(){%*"\+"#.contains(byte);
    let is_tag = (1..=LONGEST_TAG).contains(&tag.len()) && tag.iter().all(fits);
    if is_tag { std::str::from_utf8(tag).ok() } else { None }
}

pub(super) fn answer(received: &[u8], awaited: AwaitedReply) -> StarttlsAnswer {
    // A line begins with a star or with the tag.
    if received
        .first()
        .is_some_and(|&byte| byte != b'*' && (awaited == AwaitedReply::Greeting || byte != TAG[0]))
    {
        return StarttlsAnswer::Unexpected;
    }
    let Some((text, used)) = line(received) else { return StarttlsAnswer::More };
    let (tag, rest) = word(text);
    let (status, _) = word(rest);
    let is = |word: &str| status.eq_ignore_ascii_case(word.as_bytes());
    match awaited {
        // PREAUTH means that the client is already logged in, and BYE that the server refuses it.
        AwaitedReply::Greeting if tag == b"*" && is("OK") => StarttlsAnswer::Good { used },
        AwaitedReply::Greeting => StarttlsAnswer::Unexpected,
        _ if tag == b"*" && is("BYE") => StarttlsAnswer::Unexpected,
        _ if tag == b"*" => StarttlsAnswer::Pass { used },
        _ if tag == TAG && is("OK") => StarttlsAnswer::Good { used },
        _ if tag == TAG && (is("NO") || is("BAD")) => StarttlsAnswer::Refused,
        _ => StarttlsAnswer::Unexpected,
    }
}
