//! The path of a key or an item in a configuration, such as `pool.db.backends[2].weight`.

use std::fmt;

/// The longest name in a path, in bytes. The names of databases and headers come from the operator, without a bound of
/// their own.
const LONGEST_NAME: usize = 256;

/// The path of a key or an item. Paths are ordered as the parsed document: by name in a table, by index in an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(Vec<KeyStep>);

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStep {
    /// A key of a table. A name with characters that a listener or a pool cannot have is in quotes.
    Name(String),
    /// An item of an array, from 0.
    Index(usize),
    /// An item that no array has, by its name: a backend that was discovered.
    Member(String),
}

impl KeyPath {
    /// Returns the path of names that are separated by dots.
    pub fn of_names(names: &str) -> Self {
        Self(names.split('.').map(|name| KeyStep::Name(name.to_owned())).collect())
    }

    /// Returns the path of the backends of a pool.
    pub fn backends(pool: &str) -> Self {
        let names = ["pool", pool, "backends"];
        Self(names.iter().map(|name| KeyStep::Name((*name).to_owned())).collect())
    }

    /// Returns the steps.
    pub fn steps(&self) -> &[KeyStep] {
        &self.0
    }

    /// Adds a step.
    #[must_use]
    pub fn with(mut self, step: KeyStep) -> Self {
        self.push(step);
        self
    }

    pub(in crate::config) fn push(&mut self, step: KeyStep) {
        self.0.push(step);
    }

    pub(in crate::config) fn pop(&mut self) {
        self.0.pop();
    }

    /// Returns the path of the first steps.
    pub(in crate::config) fn first(&self, steps: usize) -> Self {
        Self(self.0[..steps].to_vec())
    }

    /// Returns the number of steps that two paths have in common at their start.
    pub(in crate::config) fn in_common(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).take_while(|(own, other)| own == other).count()
    }

    /// Returns true if the path is that of a key, or of a value below it. The key has names that are separated by dots;
    /// `*` is any name. Items of arrays have the path of their array.
    pub(in crate::config) fn is_in(&self, key: &str) -> bool {
        let mut names = self.0.iter().filter_map(|step| match step {
            KeyStep::Name(name) => Some(name),
            KeyStep::Index(_) | KeyStep::Member(_) => None,
        });
        key.split('.').all(|wanted| names.next().is_some_and(|name| wanted == "*" || name == wanted))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            let dot = if at > 0 && matches!(step, KeyStep::Name(_)) { "." } else { "" };
            write!(f, "{dot}{step}")?;
        }
        Ok(())
    }
}

impl KeyStep {
    /// Returns the step of a key as it is in the document.
    pub(super) fn of_key(key: &str) -> Self {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        match !key.is_empty() && key.len() <= LONGEST_NAME && key.bytes().all(is_plain) {
            true => Self::Name(key.to_owned()),
            false => Self::Name(serde_json::Value::from(cut(key, LONGEST_NAME)).to_string()),
        }
    }

    /// Returns the step whose text this is.
    pub(super) fn of_text(text: &str) -> Self {
        let index = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')?.parse().ok());
        index.map_or_else(|| Self::Name(text.to_owned()), Self::Index)
    }
}

impl fmt::Display for KeyStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Member(name) => write!(f, "[{name}]"),
        }
    }
}

/// Returns a text of at most so many bytes. A text that was cut ends with dots.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[&str]) -> KeyPath {
        KeyPath(steps.iter().map(|step| KeyStep::of_text(step)).collect())
    }

    #[test]
    fn a_path_has_dots_and_brackets() {
        let check = |steps: &[&str], expected: &str| assert_eq!(path(steps).to_string(), expected);
        check(&[], "");
        check(&["workers"], "workers");
        check(&["pool", "db.internal", "backends", "[2]", "weight"], "pool.db.internal.backends[2].weight");
        check(&["a", "[0]", "[1]"], "a[0][1]");
        let discovered = path(&["pool", "p", "backends"]).with(KeyStep::Member("10.0.0.1:443".into()));
        assert_eq!(discovered.to_string(), "pool.p.backends[10.0.0.1:443]");
    }

    #[test]
    fn keys_cannot_be_read_as_other_steps() {
        let check = |key: &str, expected: &str| assert_eq!(KeyStep::of_key(key).to_string(), expected);
        check("idle_timeout", "idle_timeout");
        check("db-1.internal", "db-1.internal");
        check("", "\"\"");
        check("[0]", "\"[0]\"");
        check("a\tb\n\u{1b}", r#""a\tb\n\u001b""#);
        check(&"é".repeat(200), &format!("\"{}...\"", "é".repeat(128)));
    }

    #[test]
    fn paths_have_the_order_of_the_document() {
        let mut paths = [
            path(&["pool", "p", "backends", "[10]"]),
            path(&["pool", "p", "backends", "[9]", "weight"]),
            path(&["pool", "p", "backends", "[9]"]),
            path(&["pool", "p", "attempts"]),
            path(&["log", "level"]),
        ];
        paths.sort();
        let sorted = paths.map(|path| path.to_string());
        let expected = [
            "log.level",
            "pool.p.attempts",
            "pool.p.backends[9]",
            "pool.p.backends[9].weight",
            "pool.p.backends[10]",
        ];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_path_is_in_a_key() {
        let check = |steps: &[&str], key: &str, expected: bool| {
            assert_eq!(path(steps).is_in(key), expected, "{steps:?} {key}");
        };
        check(&["hash_key"], "hash_key", true);
        check(&["hash_key"], "hash", false);
        check(&["pool", "a.b", "health", "steps", "[1]", "send"], "pool.*.health.steps", true);
        check(&["pool", "p", "health"], "pool.*.health.steps", false);
        check(&["pool", "p", "agent", "send"], "pool.*.health", false);
        check(&["limits", "sources"], "limits.sources", true);
        check(&["limits", "source_prefix", "v4"], "limits.sources", false);
    }
}
