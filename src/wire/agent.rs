//! The reports of health agents: one line of words, compatible with HAProxy's agent check.
//!
//! A line ends with `\n` or `\r`. Spaces, tabs and commas separate its words, and case does not count. The text after
//! a `#` is a comment. Unknown words are ignored, so that an agent may send words that only other programs use.

/// The longest line in bytes.
pub const LONGEST_LINE: usize = 1024;

/// One directive of an agent. Settings that a report does not mention are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentDirective {
    /// `up`: the backend works, and takes connections if its checks pass.
    Up,
    /// `down`, `fail`, `failed`, `stopped`: the backend does not work.
    Down,
    /// `ready`: the backend is neither in drain nor in maintenance.
    Ready,
    /// `drain`: the backend takes no new connections.
    Drain,
    /// `maint`: the backend takes no connections, and its checks pause.
    Maintenance,
    /// `75%`: the share of the backend's weight, 0 to 100; a greater number counts as 100.
    Share(u8),
    /// `maxconn:30`: the limit of open connections.
    MaxConnections(u32),
}

/// The fault of a report without a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentFault {
    /// The line does not end.
    #[error("the line is longer than {LONGEST_LINE} bytes")]
    TooLong,
    /// The line has no known word.
    #[error("no known word")]
    Nothing,
}

/// Parses the first line of `received`, which are all bytes received so far. Returns `None` if the line is not whole.
///
/// # Errors
///
/// Returns an [`AgentFault`] if the line is too long or has no known word.
pub fn read(received: &[u8]) -> Result<Option<Vec<AgentDirective>>, AgentFault> {
    let end = received.iter().take(LONGEST_LINE).position(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(end) = end else {
        return if received.len() < LONGEST_LINE { Ok(None) } else { Err(AgentFault::TooLong) };
    };
    let line = received[..end].split(|&byte| byte == b'#').next().unwrap_or_default();
    let words: Vec<_> = line.split(|byte| b" \t,".contains(byte)).filter_map(word).collect();
    if words.is_empty() { Err(AgentFault::Nothing) } else { Ok(Some(words)) }
}

fn word(bytes: &[u8]) -> Option<AgentDirective> {
    let text = std::str::from_utf8(bytes).ok()?.to_ascii_lowercase();
    Some(match text.as_str() {
        "up" => AgentDirective::Up,
        "down" | "fail" | "failed" | "stopped" => AgentDirective::Down,
        "ready" => AgentDirective::Ready,
        "drain" => AgentDirective::Drain,
        "maint" => AgentDirective::Maintenance,
        _ => {
            if let Some(percent) = text.strip_suffix('%') {
                AgentDirective::Share(u8::try_from(number(percent)?.min(100)).unwrap_or(100))
            } else {
                AgentDirective::MaxConnections(number(text.strip_prefix("maxconn:")?)?)
            }
        }
    })
}

/// Parses a number that consists of digits alone; a number that is too large counts as the largest.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use AgentDirective::{Down, Drain, Maintenance, MaxConnections, Ready, Share, Up};

    fn check(received: &str, expected: &[AgentDirective]) {
        assert_eq!(read(received.as_bytes()), Ok(Some(expected.to_vec())), "{received:?}");
        for end in 0..received.find(['\r', '\n']).unwrap() {
            assert_eq!(read(&received.as_bytes()[..end]), Ok(None), "{received:?} cut at {end}");
        }
    }

    fn check_fault(received: &[u8], expected: AgentFault) {
        assert_eq!(read(received), Err(expected), "{received:?}");
    }

    #[test]
    fn words_are_read() {
        check("up\n", &[Up]);
        check("UP\r\n", &[Up]);
        check("ready up 75%\n", &[Ready, Up, Share(75)]);
        check("down#disk is full, sorry\n", &[Down]);
        check("drain # up\n", &[Drain]);
        check("failed\n", &[Down]);
        check("fail\n", &[Down]);
        check("stopped\n", &[Down]);
        check("maint\n", &[Maintenance]);
        check("0%\n", &[Share(0)]);
        check("100%\n", &[Share(100)]);
        check("250%\n", &[Share(100)]);
        check("99999999999999999999%\n", &[Share(100)]);
        check("maxconn:30\n", &[MaxConnections(30)]);
        check("maxconn:99999999999\n", &[MaxConnections(u32::MAX)]);
        check(" \t,up,,50%\tmaxconn:0 \n", &[Up, Share(50), MaxConnections(0)]);
        check("up weather:fine -3% %\n", &[Up]);
        check("up\ndown\n", &[Up]);
    }

    #[test]
    fn a_line_without_a_directive_is_a_fault() {
        check_fault(b"\n", AgentFault::Nothing);
        check_fault(b"#up\n", AgentFault::Nothing);
        check_fault(b"upp\n", AgentFault::Nothing);
        check_fault(b"\xff\xfe\n", AgentFault::Nothing);
        check_fault(b"HTTP/1.1 400 Bad Request\r\n", AgentFault::Nothing);
        check_fault(&[b'x'; LONGEST_LINE], AgentFault::TooLong);
        let late = [&[b' '; LONGEST_LINE][..], b"up\n"].concat();
        check_fault(&late, AgentFault::TooLong);
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(received in proptest::collection::vec(any::<u8>(), 0..200), end in 0_usize..200) {
            let early = read(&received[..end.min(received.len())]);
            if early != Ok(None) {
                prop_assert_eq!(read(&received), early);
            }
        }
    }
}
