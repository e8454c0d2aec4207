//! Countries, as operators write them.

use std::fmt;
use std::str::FromStr;

/// A country by its two letters (ISO 3166-1 alpha-2), such as `DE`. Any two letters are accepted: assigned codes
/// change, and country files have codes of their own, such as `XK`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// The fault of a text that is not the code of a country.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a country as its two letters of ISO 3166-1, such as \"DE\"")]
pub struct CountryFault;

impl Country {
    /// Returns the probably intended country for a frequent wrong code, such as `GB` for `UK`.
    pub fn meant(self) -> Option<Self> {
        match &self.0 {
            b"UK" => Some(Self(*b"GB")),
            b"EL" => Some(Self(*b"GR")),
            _ => None,
        }
    }
}

/// Parses two letters of either case.
impl FromStr for Country {
    type Err = CountryFault;

    fn from_str(text: &str) -> Result<Self, CountryFault> {
        let letters: [u8; 2] = text.as_bytes().try_into().map_err(|_| CountryFault)?;
        let are_letters = letters.iter().all(u8::is_ascii_alphabetic);
        are_letters.then_some(Self(letters.map(|letter| letter.to_ascii_uppercase()))).ok_or(CountryFault)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0.map(char::from);
        write!(f, "{first}{second}")
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let country = text.parse::<Country>().ok().map(|country| country.to_string());
        assert_eq!(country.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn two_letters_are_a_country() {
        check("DE", Some("DE"));
        check("de", Some("DE"));
        check("xK", Some("XK"));
        check("", None);
        check("D", None);
        check("DEU", None);
        check("D1", None);
        check("--", None);
        check(" DE", None);
        check("ä", None);
        assert_eq!("uk".parse::<Country>().unwrap().meant(), Some("GB".parse().unwrap()));
        assert_eq!("GB".parse::<Country>().unwrap().meant(), None);
    }
}
