//! What a health agent on a backend's host says: one line of words, as HAProxy's agent check has them.
//!
//! A line ends with `\n` or `\r`. Its words are parted by spaces, tabs and commas, and case does not count;
//! what follows a `#` is a remark for people. Words that are not known are passed over, so that an agent may
//! say more to others than we understand.

/// Bytes that a line may have.
pub const LONGEST_LINE: usize = 1024;

/// One thing that an agent asks for. What it does not mention stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentDirective {
    /// `up`: it works, and takes connections if its checks agree.
    Up,
    /// `down`, `fail`, `failed`, `stopped`: it does not work.
    Down,
    /// `ready`: neither drained nor in maintenance.
    Ready,
    /// `drain`: no new connections.
    Drain,
    /// `maint`: none at all, and its checks pause.
    Maintenance,
    /// `75%`: so much of its weight, 0 to 100; what is above counts as 100.
    Share(u8),
    /// `maxconn:30`: so many connections at once.
    MaxConnections(u32),
}

/// Why an agent's answer means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentFault {
    /// The line does not end.
    #[error("the line is longer than {LONGEST_LINE} bytes")]
    TooLong,
    /// None of its words is known.
    #[error("no known word")]
    Nothing,
}

/// Reads the first line of `heard`, all that was received so far. `Ok(None)`: it is not whole yet.
///
/// # Errors
///
/// See [`AgentFault`].
pub fn read(heard: &[u8]) -> Result<Option<Vec<AgentDirective>>, AgentFault> {
    let end = heard.iter().take(LONGEST_LINE).position(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(end) = end else {
        return if heard.len() < LONGEST_LINE { Ok(None) } else { Err(AgentFault::TooLong) };
    };
    let line = heard[..end].split(|&byte| byte == b'#').next().unwrap_or_default();
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

/// A number of digits alone; what is too large counts as the largest.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use AgentDirective::{Down, Drain, Maintenance, MaxConnections, Ready, Share, Up};

    fn check(heard: &str, expected: &[AgentDirective]) {
        assert_eq!(read(heard.as_bytes()), Ok(Some(expected.to_vec())), "{heard:?}");
        for end in 0..heard.find(['\r', '\n']).unwrap() {
            assert_eq!(read(&heard.as_bytes()[..end]), Ok(None), "{heard:?} cut at {end}");
        }
    }

    fn check_fault(heard: &[u8], expected: AgentFault) {
        assert_eq!(read(heard), Err(expected), "{heard:?}");
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
    fn what_says_nothing_is_a_fault() {
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
        fn more_bytes_never_change_an_answer(heard in proptest::collection::vec(any::<u8>(), 0..200), end in 0_usize..200) {
            let early = read(&heard[..end.min(heard.len())]);
            if early != Ok(None) {
                prop_assert_eq!(read(&heard), early);
            }
        }
    }
}
