//! Patterns with `*` and `?` for server names.

/// A pattern for a whole server name: `*` stands for any characters, also none and also dots, and `?` for one character.
/// Letters match in both cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameGlob(Box<[char]>);

impl NameGlob {
    /// Returns the pattern of a text. Every text is a pattern.
    pub fn new(text: &str) -> Self {
        Self(text.chars().map(|letter| letter.to_ascii_lowercase()).collect())
    }

    /// Returns true if the pattern matches the whole name.
    ///
    /// The time is at most the product of both lengths: after a mismatch only the last `*` takes one more character.
    pub fn matches(&self, name: &str) -> bool {
        let pattern = &self.0;
        let (mut at, mut rest) = (0, name.chars());
        // The place behind the last `*`, and the part of the name that it has not taken.
        let mut star: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            match (pattern.get(at), rest.next()) {
                (Some('*'), _) => {
                    at += 1;
                    star = Some((at, before.clone()));
                    rest = before;
                }
                (None, None) => return true,
                (Some(expected), Some(letter))
                    if *expected == '?' || *expected == letter.to_ascii_lowercase() =>
                {
                    at += 1;
                }
                _ => {
                    let Some((behind, taken)) = &mut star else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    (at, rest) = (*behind, taken.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(NameGlob::new(pattern).matches(name), expected, "{pattern} {name}");
    }

    #[test]
    fn a_pattern_matches_a_whole_name() {
        check("", "", true);
        check("", "a", false);
        check("*", "", true);
        check("*", "a.example", true);
        check("a.example", "a.example", true);
        check("A.Example", "a.eXample", true);
        check("a.example", "a.example.", false);
        check("a.example", "b.a.example", false);
        check("*.example", "a.b.example", true);
        check("*.example", ".example", true);
        check("*.example", "example", false);
        check("db-?.example", "db-1.example", true);
        check("db-?.example", "db-.example", false);
        check("db-?.example", "db-12.example", false);
        check("*a*b*", "xxaxxbxx", true);
        check("*a*b*", "xxbxxaxx", false);
        check("a*a", "a", false);
        check("a**a", "aa", true);
        check("*ab", "aab", true);
        check("?", "é", true);
        check("*é", "aé", true);
    }

    /// A matcher that tries each `*` anew needs more than 10^20 steps here.
    #[test]
    fn no_pattern_takes_long() {
        let pattern = NameGlob::new(&"*a".repeat(60));
        let name = "a".repeat(5000) + "b";
        assert!(!pattern.matches(&name));
    }
}
