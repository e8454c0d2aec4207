//! Sources as operators read them: an address, or a private link.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use super::{PrefixLengths, SourceKey};

/// A private link, by the kind of its TLV and its id.
///
/// It is written as `link:0xEA:vpce-08d2bf15fac5001c9`, which is no address. The id comes from a peer and may have
/// characters that have a meaning in a log. So all characters but letters, digits, `-`, `_` and `.` are written as `%`
/// and two hexadecimal digits. A long id is cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    kind: u8,
    id: Box<str>,
}

impl Link {
    /// Characters of a written id; it is cut there. The ids of all clouds are shorter.
    const WRITTEN: usize = 64;

    /// A link, by the kind of its TLV and its id.
    pub fn new(kind: u8, id: &str) -> Self {
        Self { kind, id: id.into() }
    }

    /// The kind of its TLV.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The id as the cloud writes it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The source under which limits count the link.
    pub fn source(&self) -> SourceKey {
        SourceKey::of_link(self.kind, &self.id)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = String::with_capacity(Self::WRITTEN);
        let mut end = "";
        for byte in self.id.bytes() {
            let before = written.len();
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    written.push(char::from(byte))
                }
                _ => write!(written, "%{byte:02X}")?,
            }
            if written.len() > Self::WRITTEN {
                written.truncate(before);
                end = "...";
                break;
            }
        }
        write!(f, "link:{:#04X}:{written}{end}", self.kind)
    }
}

/// The name of a source, by which a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceName {
    /// A network, by its first address.
    Network(IpAddr),
    /// A private link.
    Link(Arc<Link>),
}

impl SourceName {
    /// The name of the network of an address.
    pub fn of(ip: IpAddr, prefix: PrefixLengths) -> Self {
        Self::Network(SourceKey::of(ip, prefix).ip())
    }

    /// The private link, or `None` for a network.
    pub fn link(&self) -> Option<&Link> {
        match self {
            Self::Network(_) => None,
            Self::Link(link) => Some(link),
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(ip) => ip.fmt(f),
            Self::Link(link) => link.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_as_what_is_no_address() {
        let check = |kind, id: &str, expected: &str| {
            let name = SourceName::Link(Link::new(kind, id).into());
            assert_eq!(name.to_string(), expected);
            assert!(name.to_string().parse::<IpAddr>().is_err());
            assert_eq!(name.link().map(Link::id), Some(id));
        };
        check(0xea, "vpce-08d2bf15fac5001c9", "link:0xEA:vpce-08d2bf15fac5001c9");
        check(0xee, "305419896", "link:0xEE:305419896");
        check(0xe0, "::1", "link:0xE0:%3A%3A1");
        check(0xea, "a, 10.0.0.9 with 7\n\"%", "link:0xEA:a%2C%2010.0.0.9%20with%207%0A%22%25");
        check(0x05, "", "link:0x05:");
        check(0xea, &"x".repeat(64), &format!("link:0xEA:{}", "x".repeat(64)));
        check(0xea, &"x".repeat(65), &format!("link:0xEA:{}...", "x".repeat(64)));
        check(0xea, &format!("{},", "x".repeat(62)), &format!("link:0xEA:{}...", "x".repeat(62)));
        assert_eq!(
            SourceName::of("10.1.2.3".parse().unwrap(), PrefixLengths { v4: 8, v6: 64 }).to_string(),
            "10.0.0.0"
        );
    }
}
