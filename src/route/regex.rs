//! Server names as a regular expression, for names that no list and no wildcard can describe.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

use crate::wire::ServerName;

/// The largest size of a compiled expression in bytes. Typical expressions are far smaller: hundreds of them take a
/// few megabytes.
const LARGEST: usize = 256 * 1024;

/// A regular expression for whole names: anchored at both ends and case-insensitive. The time of a match is linear in
/// the length of the name for every expression.
#[derive(Clone)]
pub struct NameRegex {
    text: Box<str>,
    compiled: Regex,
}

/// The fault of a text that cannot be used as an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexFault {
    /// The text is not an expression. The value is the parser's message, in several lines.
    #[error("{0}")]
    Syntax(Box<str>),
    /// The compiled expression is too large.
    #[error("it takes more than {LARGEST} bytes when compiled")]
    TooLarge,
}

impl NameRegex {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// Returns a fault if the text is not an expression, or if the compiled expression is too large.
    pub fn new(text: &str) -> Result<Self, RegexFault> {
        // The text is compiled alone first: an extra bracket must not close the group that the anchors need.
        compile(text)?;
        let compiled = compile(&format!(r"\A(?:{text}{})\z", if text.contains('#') { "\n" } else { "" }))?;
        Ok(Self { text: text.into(), compiled })
    }

    /// Returns true if the expression matches the whole name.
    pub fn fits(&self, name: &ServerName) -> bool {
        self.compiled.is_match(name.as_str().as_bytes())
    }

    /// Returns the expression as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn compile(text: &str) -> Result<Regex, RegexFault> {
    // Names are ASCII, so the tables of Unicode are not needed.
    let builder = &mut RegexBuilder::new(text);
    let compiled = builder.unicode(false).case_insensitive(true).size_limit(LARGEST).nest_limit(50).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => RegexFault::TooLarge,
        other => RegexFault::Syntax(other.to_string().into()),
    })
}

impl PartialEq for NameRegex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NameRegex {}

impl fmt::Debug for NameRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_fit_whatever_their_case() {
        let check = |regex: &str, name: &str, expected: bool| {
            let regex = NameRegex::new(regex).unwrap();
            assert_eq!(regex.fits(&name.parse().unwrap()), expected, "{regex:?} {name}");
        };
        check(r"node-\d+\.example\.com", "node-17.example.com", true);
        check(r"node-\d+\.example\.com", "NODE-17.example.com.", true);
        check(r"Node-\d+\.Example\.com", "node-17.example.com", true);
        check(r"node-\d+\.example\.com", "xnode-17.example.com", false);
        check(r"node-\d+\.example\.com", "node-17.example.com.evil.org", false);
        check("a|b", "a", true);
        check("a|b", "ab", false);
        check("a|b", "xb", false);
        check("(?x) a # a comment", "a", true);
        check("(?x) a # a comment", "ab", false);
        check("(?-i)A", "a", false);
        check("^a$", "a", true);
        check("", "a", false);
    }

    #[test]
    fn invalid_expressions_are_refused() {
        for text in ["(", "a)|(?:b", "a)(?:", "[", "*", r"\p{Greek}", r"(a)\1", "(?=a)"] {
            assert!(matches!(NameRegex::new(text), Err(RegexFault::Syntax(_))), "{text}");
        }
        for text in ["(a{1000}){1000}", "[ab]{100000}"] {
            assert_eq!(NameRegex::new(text).unwrap_err(), RegexFault::TooLarge, "{text}");
        }
    }
}
