//! POP3 up to STLS, which is what STARTTLS is called there.

use super::{AwaitedReply, CommandReply, StarttlsAnswer, line, word};

pub(super) fn greeting(name: &str) -> String {
    format!("+OK {name} ready\r\n")
}

pub(super) fn reply(line: &[u8]) -> CommandReply {
    let (command, argument) = word(line);
    let is = |name: &str| command.eq_ignore_ascii_case(name.as_bytes()) && argument.is_empty();
    let say = |words: &str| CommandReply::Say(words.to_owned());
    if is("CAPA") {
        say("+OK Capability list follows\r\nSTLS\r\n.\r\n")
    } else if is("STLS") {
        CommandReply::Tls("+OK Begin TLS negotiation\r\n".to_owned())
    } else if is("QUIT") {
        CommandReply::Quit("+OK bye\r\n".to_owned())
    } else {
        say("-ERR Must issue STLS first\r\n")
    }
}

pub(super) fn answer(heard: &[u8], awaited: AwaitedReply) -> StarttlsAnswer {
    if heard.first().is_some_and(|byte| !b"+-".contains(byte)) {
        return StarttlsAnswer::Unexpected;
    }
    let Some((text, used)) = line(heard) else { return StarttlsAnswer::More };
    match (word(text).0, awaited) {
        (b"+OK", _) => StarttlsAnswer::Good { used },
        (b"-ERR", AwaitedReply::GoAhead) => StarttlsAnswer::Refused,
        _ => StarttlsAnswer::Unexpected,
    }
}
