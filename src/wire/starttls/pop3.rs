//! The opening of POP3 up to STLS, the STARTTLS command of POP3.

use super::{AwaitedReply, CommandReply, StarttlsAnswer, line, word};

pub(super) fn greeting(name: &str) -> String {
    format!("+OK {name} ready\r\n")
}

pub(super) fn reply(line: &[u8]) -> CommandReply {
    let (command, argument) = word(line);
    let is = |name: &str| command.eq_ignore_ascii_case(name.as_bytes()) && argument.is_empty();
    let text = |text: &str| CommandReply::Text(text.to_owned());
    if is("CAPA") {
        text("+OK Capability list follows\r\nSTLS\r\n.\r\n")
    } else if is("STLS") {
        CommandReply::Tls("+OK Begin TLS negotiation\r\n".to_owned())
    } else if is("QUIT") {
        CommandReply::Quit("+OK bye\r\n".to_owned())
    } else {
        text("-ERR Must issue STLS first\r\n")
    }
}

pub(super) fn answer(received: &[u8], awaited: AwaitedReply) -> StarttlsAnswer {
    if received.first().is_some_and(|byte| !b"+-".contains(byte)) {
        return StarttlsAnswer::Unexpected;
    }
    let Some((text, used)) = line(received) else { return StarttlsAnswer::More };
    match (word(text).0, awaited) {
        (b"+OK", _) => StarttlsAnswer::Good { used },
        (b"-ERR", AwaitedReply::GoAhead) => StarttlsAnswer::Refused,
        _ => StarttlsAnswer::Unexpected,
    }
}
