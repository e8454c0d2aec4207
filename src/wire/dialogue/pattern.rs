//! Regular expressions for the answers of servers.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// The largest size of a compiled expression in bytes. The time of a search can grow with it. An expression of fifty
/// alternatives of ten letters is smaller.
const LARGEST: usize = 32 * 1024;

/// A regular expression for bytes. The time of a search is linear in their number for every expression.
#[derive(Clone)]
pub struct BytePattern {
    text: Box<str>,
    compiled: Regex,
}

/// The fault of a text that cannot be used as an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// The text is not an expression; the message of the parser, in several lines.
    #[error("{0}")]
    Syntax(Box<str>),
    /// The compiled expression is too large.
    #[error("it takes more than {LARGEST} bytes when compiled")]
    TooLarge,
    /// The expression matches an empty answer.
    #[error("it matches an empty answer, so every server would pass")]
    Empty,
}

impl BytePattern {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// Returns a fault if the text is not an expression, is too large when compiled, or matches an empty answer.
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

    /// Returns true if the expression matches anywhere in `bytes`.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        self.compiled.is_match(bytes)
    }

    /// Returns the earliest end of a match.
    pub(super) fn end_in(&self, bytes: &[u8]) -> Option<usize> {
        #[cfg(test)]
        SEARCHED.set(SEARCHED.get() + bytes.len());
        self.compiled.shortest_match(bytes)
    }
}

#[cfg(test)]
std::thread_local! {
    /// The number of bytes in which this thread has searched for the end of a match.
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
    fn useless_expressions_are_refused() {
        assert_eq!(BytePattern::new("a*").unwrap_err(), PatternFault::Empty);
        assert_eq!(BytePattern::new("a{9999}{99}").unwrap_err(), PatternFault::TooLarge);
        let names: Vec<_> = (0..100).map(|number| format!("name{number:06}")).collect();
        assert!(BytePattern::new(&names[..50].join("|")).is_ok());
        assert_eq!(BytePattern::new(&names.join("|")).unwrap_err(), PatternFault::TooLarge);
        assert!(matches!(BytePattern::new("("), Err(PatternFault::Syntax(_))));
    }
}
