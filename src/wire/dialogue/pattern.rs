//! Regular expressions over what a server says.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that a compiled expression may take. The time of a search can grow with them. Fifty alternatives of ten letters
/// fit.
const LARGEST: usize = 32 * 1024;

/// A regular expression over bytes. Its time is linear in their number, whatever it says.
#[derive(Clone)]
pub struct BytePattern {
    text: Box<str>,
    compiled: Regex,
}

/// Why a text is no expression that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// It is not one; what the parser says, in several lines.
    #[error("{0}")]
    Syntax(Box<str>),
    /// It is too large when compiled.
    #[error("it takes more than {LARGEST} bytes when compiled")]
    TooLarge,
    /// It matches what holds nothing.
    #[error("it matches an empty answer, so it shows nothing")]
    Empty,
}

impl BytePattern {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn new(text: &str) -> Result<Self, PatternFault> {
        let builder = &mut RegexBuilder::new(text);
        let compiled = builder.unicode(false).size_limit(LARGEST).nest_limit(50).build().map_err(
            |error| match error {
                regex::Error::CompiledTooBig(_) => PatternFault::TooLarge,
                other => PatternFault::Syntax(other.to_string().into()),
            },
        )?;
        if compiled.is_match(b"") {
            return Err(PatternFault::Empty);
        }
        Ok(Self { text: text.into(), compiled })
    }

    /// Whether it stands anywhere in `bytes`.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        self.compiled.is_match(bytes)
    }

    /// Where the earliest end of a match is.
    pub(super) fn end_in(&self, bytes: &[u8]) -> Option<usize> {
        #[cfg(test)]
        SEARCHED.set(SEARCHED.get() + bytes.len());
        self.compiled.shortest_match(bytes)
    }
}

#[cfg(test)]
std::thread_local! {
    /// Bytes in which this thread has searched for the end of a match.
    pub(super) static SEARCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl PartialEq for BytePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for BytePattern {}

impl fmt::Debug for BytePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_in_bytes() {
        let end = |text: &str, bytes: &[u8]| BytePattern::new(text).unwrap().end_in(bytes);
        assert_eq!(end("role:(master|primary)", b"x\r\nrole:master\r\n"), Some(14));
        assert_eq!(end("a+", b"xaaa"), Some(2));
        assert_eq!(end(r"\xff\d", b"\xff7"), Some(2));
        assert_eq!(end("MASTER", b"master"), None);
        assert_eq!(end("(?i)MASTER", b"master"), Some(6));
    }

    #[test]
    fn what_shows_nothing_is_refused() {
        assert_eq!(BytePattern::new("a*").unwrap_err(), PatternFault::Empty);
        assert_eq!(BytePattern::new("a{9999}{99}").unwrap_err(), PatternFault::TooLarge);
        let names: Vec<_> = (0..100).map(|number| format!("name{number:06}")).collect();
        assert!(BytePattern::new(&names[..50].join("|")).is_ok());
        assert_eq!(BytePattern::new(&names.join("|")).unwrap_err(), PatternFault::TooLarge);
        assert!(matches!(BytePattern::new("("), Err(PatternFault::Syntax(_))));
    }
}
