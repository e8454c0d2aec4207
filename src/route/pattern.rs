//! The name patterns that an operator writes in a route.

use std::fmt;
use std::str::FromStr;

use crate::wire::ServerName;
use crate::wire::server_name::NameFault;

/// The name pattern of a route: an exact name, or the names below a suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name only.
    Exact(ServerName),
    /// `*.suffix` with depth 1: exactly one label before the suffix.
    Child(ServerName),
    /// `*.suffix`: one or more whole labels before the suffix, never the suffix itself.
    Below(ServerName),
}

impl NamePattern {
    /// Restricts the star to exactly one label; an exact name is returned unchanged.
    pub fn of_depth_1(self) -> Self {
        match self {
            Self::Below(suffix) => Self::Child(suffix),
            other => other,
        }
    }
}

/// The fault of a text that is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// The text has a star that is not the whole first label, or consists of a star alone.
    #[error("`*` may only be the whole first label, as in `*.example.com`")]
    Star,
    /// The name, or the text after `*.`, is not a host name.
    #[error(transparent)]
    Name(#[from] NameFault),
}

impl FromStr for NamePattern {
    type Err = PatternFault;

    /// Reads `mail.example.com` or `*.apps.example.com`.
    ///
    /// # Errors
    ///
    /// Returns `Star` for a star anywhere but in a leading `*.`, otherwise the fault of the name.
    fn from_str(text: &str) -> Result<Self, PatternFault> {
        let (suffix, name) = match text.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(PatternFault::Star);
        }
        let name = name.parse()?;
        Ok(if suffix { Self::Below(name) } else { Self::Exact(name) })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Child(suffix) | Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(name: &str) -> Result<NamePattern, PatternFault> {
        Ok(NamePattern::Exact(name.parse().unwrap()))
    }

    fn below(name: &str) -> Result<NamePattern, PatternFault> {
        Ok(NamePattern::Below(name.parse().unwrap()))
    }

    #[test]
    fn patterns_are_read() {
        fn check(text: &str, expected: Result<NamePattern, PatternFault>) {
            assert_eq!(text.parse::<NamePattern>(), expected, "{text:?}");
        }
        check("mail.example.com", exact("mail.example.com"));
        check("Mail.Example.COM", exact("mail.example.com"));
        check("mail.example.com.", exact("mail.example.com"));
        check("localhost", exact("localhost"));
        check("*.apps.example.com", below("apps.example.com"));
        check("*.Apps.example.com.", below("apps.example.com"));
        check("*.com", below("com"));
        check("*", Err(PatternFault::Star));
        check("**.example.com", Err(PatternFault::Star));
        check("*.*.example.com", Err(PatternFault::Star));
        check("*example.com", Err(PatternFault::Star));
        check("a*.example.com", Err(PatternFault::Star));
        check("a.*.example.com", Err(PatternFault::Star));
        check("example.*", Err(PatternFault::Star));
        check("", Err(PatternFault::Name(NameFault::Empty)));
        check("*.", Err(PatternFault::Name(NameFault::Empty)));
    }

    #[test]
    fn names_that_no_client_may_send_are_refused() {
        for text in ["10.0.0.1", "*.10.0.0.1", "::1", "*..example.com", "a b", "a..b", "*. example.com"] {
            assert!(matches!(text.parse::<NamePattern>(), Err(PatternFault::Name(_))), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_shows_as_it_is_written() {
        for text in ["mail.example.com", "*.apps.example.com"] {
            assert_eq!(text.parse::<NamePattern>().unwrap().to_string(), text);
        }
    }
}
