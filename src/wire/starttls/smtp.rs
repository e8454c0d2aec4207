//! The opening of SMTP up to STARTTLS.

use super::{AwaitedReply, CommandReply, StarttlsAnswer, line, word};
use crate::wire::opening::Farewell;

pub(super) fn greeting(name: &str) -> String {
    format!("220 {name} ESMTP\r\n")
}

/// Answers a command. A command succeeds only if RFC 3207, section 4 allows the command before STARTTLS.
pub(super) fn reply(line: &[u8], name: &str) -> CommandReply {
    let (command, argument) = word(line);
    let is = |name: &str| command.eq_ignore_ascii_case(name.as_bytes());
    let text = |text: &str| CommandReply::Text(text.to_owned());
    if is("EHLO") || is("LHLO") {
        CommandReply::Text(format!("250-{name}\r\n250 STARTTLS\r\n"))
    } else if is("HELO") {
        CommandReply::Text(format!("250 {name}\r\n"))
    } else if is("STARTTLS") && argument.is_empty() {
        CommandReply::Tls("220 2.0.0 Ready to start TLS\r\n".to_owned())
    } else if is("STARTTLS") {
        text("501 5.5.4 STARTTLS takes no parameters\r\n")
    } else if is("NOOP") || is("RSET") {
        text("250 2.0.0 OK\r\n")
    } else if is("QUIT") {
        CommandReply::Quit(format!("221 2.0.0 {name} closing connection\r\n"))
    } else {
        text("530 5.7.0 Must issue a STARTTLS command first\r\n")
    }
}

pub(super) fn farewell(farewell: Farewell, reason: &str, name: &str) -> String {
    match farewell {
        Farewell::Timeout => format!("421 4.4.2 {name} {reason}\r\n"),
        Farewell::Busy => format!("421 4.3.2 {name} {reason}\r\n"),
        Farewell::Pipelined => format!("554 5.5.0 {reason}\r\n"),
        Farewell::TooLong => format!("500 5.5.2 {reason}\r\n"),
        Farewell::TooMany => format!("421 4.7.0 {name} {reason}\r\n"),
    }
}

pub(super) fn answer(received: &[u8], awaited: AwaitedReply) -> StarttlsAnswer {
    let (code, offers_tls, used) = match reply_lines(received) {
        Ok(Some(reply)) => reply,
        Ok(None) => return StarttlsAnswer::More,
        Err(()) => return StarttlsAnswer::Unexpected,
    };
    match (awaited, &code) {
        (AwaitedReply::Greeting, b"220") | (AwaitedReply::GoAhead, b"220") => StarttlsAnswer::Good { used },
        (AwaitedReply::Capabilities, b"250") if offers_tls => StarttlsAnswer::Good { used },
        (AwaitedReply::Capabilities, b"250") | (AwaitedReply::GoAhead, _) => StarttlsAnswer::Refused,
        _ => StarttlsAnswer::Unexpected,
    }
}

/// Returns the code of a whole reply, true if one of its lines offers STARTTLS, and its length.
fn reply_lines(received: &[u8]) -> Result<Option<([u8; 3], bool, usize)>, ()> {
    let (mut code, mut offers_tls, mut used) = (None, false, 0);
    loop {
        // The first bytes of a line show that it is not a reply, so an endless line is refused at once.
        if received[used..].iter().take(3).any(|byte| !byte.is_ascii_digit()) {
            return Err(());
        }
        let Some((text, length)) = line(&received[used..]) else { return Ok(None) };
        let own = *text.first_chunk::<3>().ok_or(())?;
        if *code.get_or_insert(own) != own {
            return Err(());
        }
        used += length;
        let rest = &text[3..];
        offers_tls |= rest.get(1..).is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS"));
        match rest.first() {
            Some(b'-') => {}
            None | Some(b' ') => return Ok(Some((own, offers_tls, used))),
            Some(_) => return Err(()),
        }
    }
}
