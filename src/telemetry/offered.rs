//! The values that a client offered in its hello, as the access log writes them.

use std::fmt::Write as _;

use crate::wire::{Ja4, Offer};

/// The most characters of a list that are written; the rest is cut.
const LIMIT: usize = 255;

/// The values that a client offered in its hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The protocols inside TLS (ALPN), separated by commas. In each name `,`, `%` and all bytes that are not visible
    /// ASCII are written as `%` and two hexadecimal digits. `None` if there are none.
    pub alpn: Option<Box<str>>,
    /// The versions of TLS, in the client's order, separated by commas, such as `1.3,1.2`.
    pub tls_versions: Option<Box<str>>,
    /// The JA4 fingerprint.
    pub ja4: Ja4,
    /// True if Encrypted ClientHello was offered.
    pub ech: bool,
    /// The number of reads in which the hello came.
    pub segments: u32,
    /// The number of TLS records in which the hello came.
    pub records: u32,
}

impl Offered {
    /// Returns the log fields of an offer.
    pub fn new(offer: &Offer<'_>, ja4: Ja4, segments: u32, records: u32) -> Self {
        let tls_versions = offer.versions().map(|version| version.to_string());
        Self {
            alpn: listed(offer.alpn().map(escaped)),
            tls_versions: listed(tls_versions),
            ja4,
            ech: offer.ech(),
            segments,
            records,
        }
    }
}

/// Joins the items with commas and cuts the result to the limit. All items are ASCII.
fn listed(items: impl Iterator<Item = String>) -> Option<Box<str>> {
    let mut list = String::new();
    for item in items {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&item);
        if list.len() > LIMIT {
            break;
        }
    }
    list.truncate(LIMIT);
    (!list.is_empty()).then(|| list.into())
}

fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' | b',' => _ = write!(text, "%{byte:02X}"),
            0x21..=0x7e => text.push(char::from(byte)),
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_names_stay_inside_their_list() {
        let check = |names: &[&[u8]], expected: Option<&str>| {
            assert_eq!(listed(names.iter().map(|name| escaped(name))).as_deref(), expected);
        };
        check(&[b"h2", b"http/1.1"], Some("h2,http/1.1"));
        check(&[b"a,b", b"50%"], Some("a%2Cb,50%25"));
        check(&[b"\0\n \xff\""], Some("%00%0A%20%FF\""));
        check(&[], None);
        let long = [b'x'; 200];
        check(&[&long, &long, &long], Some(&format!("{0},{1}", "x".repeat(200), "x".repeat(54))));
    }
}
