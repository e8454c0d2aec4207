//! Host names as clients send them in a ClientHello and as operators write them in a route.
//!
//! Both follow one set of rules, so a client can send every name that a route table can have. A name has ASCII
//! letters, digits, hyphens and underscores, in labels of 1 to 63 characters, at most 253 characters in all. Names
//! are stored in lower case and without the trailing dot, so equal names are equal bytes. Patterns
//! (`*.example.com`) and internationalised spellings (`bücher.example`) are not names.

use std::borrow::Borrow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::{self, FromStr};

/// The longest name without its trailing dot: 255 on the DNS wire, less the first length byte and the
/// root's (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// The longest label: its length has six bits on the DNS wire (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// A valid host name: lower-case ASCII, no trailing dot, never an IP address.
///
/// It borrows as `str`, so a lookup by text in a map keyed by names does not allocate. The text must be in lower
/// case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// The fault of a text that is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// The name is empty, or only a dot.
    #[error("the name is empty")]
    Empty,
    /// The name has more than 253 characters, not counting a trailing dot.
    #[error("the name is longer than {MAX_NAME} characters")]
    TooLong,
    /// A label is empty: there is nothing before the first dot, or between two dots.
    #[error("the name has an empty label: two dots in a row, or a dot at the start")]
    EmptyLabel,
    /// A label has more than 63 characters.
    #[error("a label of the name is longer than {MAX_LABEL} characters")]
    LabelTooLong,
    /// The name has a NUL byte, which a reader of C strings would take as the end of another name.
    #[error("the name contains a NUL byte")]
    Nul,
    /// The name has another control character: a line feed, a tab, DEL.
    #[error("the name contains a control character")]
    Control,
    /// The name has a byte above 127.
    #[error("the name is not ASCII; write an international name in its `xn--` form")]
    NotAscii,
    /// The name has a space.
    #[error("the name contains a space")]
    Space,
    /// The name has a `*`: a pattern was written where one name is required.
    #[error("`*` is not allowed here, this is one name and not a pattern")]
    Wildcard,
    /// The name is an IP address, which RFC 6066, section 3 forbids. A name whose last label is a decimal or
    /// hexadecimal number is a fault too: many resolvers read it as an IPv4 address.
    #[error("the name is an IP address, or its last label is a number; a host name is needed")]
    IpLiteral,
    /// The name has another character that no label may have, such as the `:` of a port or the `/` of a URL.
    #[error("`{0}` is not allowed in a host name (only letters, digits, `-`, `_` and dots)")]
    Character(char),
}

impl ServerName {
    /// Parses the name that a client sent. Upper case is folded, and one trailing dot is dropped.
    ///
    /// # Errors
    ///
    /// Returns the first fault found.
    pub fn from_client(bytes: &[u8]) -> Result<ServerName, NameFault> {
        let name = bytes.strip_suffix(b".").unwrap_or(bytes);
        if name.is_empty() {
            return Err(NameFault::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(NameFault::TooLong);
        }
        if let Some(&byte) = name.iter().find(|byte| !is_allowed(**byte)) {
            return Err(disallowed(name, byte));
        }
        let mut last = name;
        for label in name.split(|&byte| byte == b'.') {
            check_label(label)?;
            last = label;
        }
        if is_number(last) {
            return Err(NameFault::IpLiteral);
        }
        let name = str::from_utf8(name).map_err(|_| NameFault::NotAscii)?;
        Ok(ServerName(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// Returns true if a client sent an IP address instead of a name, which RFC 6066, section 3 forbids. The address
    /// may be in brackets, with a scope or with a trailing dot. Other names that end in a number are not addresses.
    pub(super) fn is_address(bytes: &[u8]) -> bool {
        let Ok(text) = str::from_utf8(bytes) else { return false };
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_ipv6 = |text: &str| {
            let (address, scope) = text.split_once('%').unwrap_or((text, "0"));
            !scope.is_empty() && address.parse::<Ipv6Addr>().is_ok()
        };
        inside.map_or_else(
            || is_ipv6(text) || text.strip_suffix('.').unwrap_or(text).parse::<Ipv4Addr>().is_ok(),
            is_ipv6,
        )
    }

    /// Returns the name in lower case and without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = NameFault;

    /// Parses the name that an operator wrote, by the same rules as [`ServerName::from_client`].
    fn from_str(text: &str) -> Result<ServerName, NameFault> {
        ServerName::from_client(text.as_bytes())
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Returns the fault of a byte that no name may have.
fn disallowed(name: &[u8], byte: u8) -> NameFault {
    match byte {
        0 => NameFault::Nul,
        b' ' => NameFault::Space,
        b'*' => NameFault::Wildcard,
        b':' if is_ipv6(name) => NameFault::IpLiteral,
        _ if !byte.is_ascii() => NameFault::NotAscii,
        _ if byte.is_ascii_control() => NameFault::Control,
        _ => NameFault::Character(char::from(byte)),
    }
}

fn check_label(label: &[u8]) -> Result<(), NameFault> {
    match label.len() {
        0 => Err(NameFault::EmptyLabel),
        1..=MAX_LABEL => Ok(()),
        _ => Err(NameFault::LabelTooLong),
    }
}

fn is_ipv6(name: &[u8]) -> bool {
    str::from_utf8(name).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Returns true if some resolver reads a name with this last label as an IPv4 address. `inet_aton` accepts `1.2.3.4`,
/// `10.1` and `0x7f000001`; browsers refuse such names by the WHATWG URL rule "ends in a number".
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(input: impl AsRef<[u8]>, expected: Result<&str, NameFault>) {
        let name = ServerName::from_client(input.as_ref());
        assert_eq!(name.as_ref().map(ServerName::as_str).map_err(|fault| *fault), expected);
    }

    #[test]
    fn names_are_folded() {
        check("example.com", Ok("example.com"));
        check("MAIL.Example.COM", Ok("mail.example.com"));
        check("example.com.", Ok("example.com"));
        check("localhost", Ok("localhost"));
        check("a", Ok("a"));
        check("_imap._tcp.example.com", Ok("_imap._tcp.example.com"));
        check("-x-.example", Ok("-x-.example"));
        check("xn--bcher-kva.example", Ok("xn--bcher-kva.example"));
        check("1.2.3.4.example", Ok("1.2.3.4.example"));
        check("10.in-addr.arpa", Ok("10.in-addr.arpa"));
        check("7zip", Ok("7zip"));
        check("0xg", Ok("0xg"));
        check("a.1e", Ok("a.1e"));
    }

    #[test]
    fn lengths_are_held() {
        let label = "l".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "l".repeat(61));
        assert_eq!(longest.len(), 253);
        check(&longest, Ok(&longest));
        check(format!("{longest}."), Ok(&longest));
        check(format!("{longest}l"), Err(NameFault::TooLong));
        check(&label, Ok(&label));
        check(format!("{label}l"), Err(NameFault::LabelTooLong));
        check(format!("a.{label}l.b"), Err(NameFault::LabelTooLong));
        check(vec![0; 65_535], Err(NameFault::TooLong));
    }

    #[test]
    fn faults_are_named() {
        check("", Err(NameFault::Empty));
        check(".", Err(NameFault::Empty));
        check("..", Err(NameFault::EmptyLabel));
        check("a..", Err(NameFault::EmptyLabel));
        check("a..b", Err(NameFault::EmptyLabel));
        check(".a", Err(NameFault::EmptyLabel));
        check("example.com\0", Err(NameFault::Nul));
        check("good.example\0.evil.example", Err(NameFault::Nul));
        check("a\nb", Err(NameFault::Control));
        check("a\x7fb", Err(NameFault::Control));
        check("bücher.example", Err(NameFault::NotAscii));
        check(b"\xff", Err(NameFault::NotAscii));
        check(b"a\x80.example", Err(NameFault::NotAscii));
        check("a b", Err(NameFault::Space));
        check("*.example.com", Err(NameFault::Wildcard));
        check("example.com:443", Err(NameFault::Character(':')));
        check("https://example.com", Err(NameFault::Character(':')));
        check("[::1]", Err(NameFault::Character('[')));
        check("a@b", Err(NameFault::Character('@')));
    }

    #[test]
    fn addresses_are_not_names() {
        check("1.2.3.4", Err(NameFault::IpLiteral));
        check("1.2.3.4.", Err(NameFault::IpLiteral));
        check("1.2.3.999", Err(NameFault::IpLiteral));
        check("127.1", Err(NameFault::IpLiteral));
        check("2130706433", Err(NameFault::IpLiteral));
        check("0x7f000001", Err(NameFault::IpLiteral));
        check("127.0.0.0X1", Err(NameFault::IpLiteral));
        check("1.0x", Err(NameFault::IpLiteral));
        check("example.5", Err(NameFault::IpLiteral));
        check("::1", Err(NameFault::IpLiteral));
        check("::ffff:1.2.3.4", Err(NameFault::IpLiteral));
    }

    #[test]
    fn addresses_in_place_of_names_are_known() {
        let check = |text: &str, expected: bool| {
            assert_eq!(ServerName::is_address(text.as_bytes()), expected, "{text}");
            assert!(!expected || ServerName::from_client(text.as_bytes()).is_err(), "{text}");
        };
        for text in ["1.2.3.4", "1.2.3.4.", "::1", "[::1]", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1%eth0"] {
            check(text, true);
        }
        for text in ["", ".", "[]", "[", "1.2.3", "127.1", "2130706433", "1.2.3.4.5", "1.2.3.999", "01.2.3.4"]
        {
            check(text, false);
        }
        for text in ["[1.2.3.4]", "[::1", "::1]", "[[::1]]", "fe80::1%", "a.example", "1.2.3.4:443", "::1/64"]
        {
            check(text, false);
        }
        assert!(!ServerName::is_address(b"::1\xff"));
    }

    #[test]
    fn a_map_is_looked_up_by_text() {
        let name: ServerName = "Mail.example.com".parse().unwrap();
        let map = HashMap::from([(name, 7)]);
        assert_eq!(map.get("mail.example.com"), Some(&7));
    }

    #[test]
    fn a_name_is_two_words() {
        assert_eq!(size_of::<ServerName>(), 2 * size_of::<usize>());
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_its_own_name(bytes in "[a-zA-Z0-9._:* -]{0,80}") {
            if let Ok(name) = ServerName::from_client(bytes.as_bytes()) {
                prop_assert_eq!(name.as_str().parse::<ServerName>(), Ok(name.clone()));
                prop_assert_eq!(name.as_str(), bytes.strip_suffix('.').unwrap_or(&bytes).to_ascii_lowercase());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = ServerName::from_client(&bytes) {
                prop_assert!(name.as_str().bytes().all(|byte| is_allowed(byte) && !byte.is_ascii_uppercase()));
            }
        }
    }
}
