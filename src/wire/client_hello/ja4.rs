//! JA4, a public fingerprint of TLS clients: the offer of a hello, sorted and hashed.
//!
//! The code was written from the public description (FoxIO, BSD 3-clause); of the JA4+ family only JA4 is free.
//! A fingerprint is `t`, the highest version, `d` or `i` for a hello with or without a name, the numbers of cipher
//! suites and extensions, and the first and last character of the first protocol name. A hash of the sorted suites
//! follows, then a hash of the sorted extensions, except name and protocols, and of the signature algorithms in their
//! order. GREASE values are ignored. A fingerprint identifies a kind of client, not a client, and can be forged.

use std::fmt;

use sha2::{Digest as _, Sha256};
use tls_parser::TlsExtensionType;

use super::offer::{Offer, each_extension, is_grease, numbers};

/// The number of characters in a fingerprint.
const LENGTH: usize = 36;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The number of characters that are kept of a hash.
const HASH_LENGTH: usize = 12;

/// A JA4 fingerprint, such as `t13d1516h2_8daaf6152771_e5627efa2ab1`.
///
/// It has lower-case letters, digits and `_`. Two of its characters are from the first ALPN name that the client
/// offers. These two may be upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; LENGTH]);

impl Ja4 {
    /// The number of characters in a fingerprint.
    pub const LENGTH: usize = LENGTH;

    /// Returns the fingerprint with this text, or `None` if the text has another length or is not ASCII.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes: [u8; LENGTH] = text.as_bytes().try_into().ok()?;
        bytes.is_ascii().then_some(Self(bytes))
    }

    /// Computes the fingerprint of a hello.
    pub fn of(offer: &Offer<'_>) -> Self {
        let mut suites: Vec<u16> = numbers(offer.ciphers).filter(|&suite| !is_grease(suite)).collect();
        let mut kinds: Vec<u16> =
            each_extension(offer.extensions).map(|(kind, _)| kind).filter(|&kind| !is_grease(kind)).collect();
        let counts = [suites.len(), kinds.len()];
        let separate = [TlsExtensionType::ServerName, TlsExtensionType::ApplicationLayerProtocolNegotiation];
        kinds.retain(|kind| separate.iter().all(|other| other.0 != *kind));
        suites.sort_unstable();
        kinds.sort_unstable();

        let mut text = [b'_'; LENGTH];
        text[0] = b't';
        text[1..3].copy_from_slice(version(offer));
        text[3] = if offer.has_name { b'd' } else { b'i' };
        text[4..6].copy_from_slice(&two_digits(counts[0]));
        text[6..8].copy_from_slice(&two_digits(counts[1]));
        text[8..10].copy_from_slice(&ends(offer.alpn().next().unwrap_or_default()));
        text[11..23].copy_from_slice(&hash(suites, None));
        text[24..].copy_from_slice(&hash(kinds, offer.signature_algorithms));
        Self(text)
    }

    /// Returns the fingerprint as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a fingerprint is ASCII")
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the two characters of the highest version that is offered.
fn version(offer: &Offer<'_>) -> &'static [u8; 2] {
    match offer.versions().max().map_or(0, |version| version.0) {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        _ => b"00",
    }
}

/// Returns the first and the last character of a name. If one of them is neither a letter nor a digit, both are taken
/// from the hexadecimal form of the name.
fn ends(name: &[u8]) -> [u8; 2] {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else { return *b"00" };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last];
    }
    [DIGITS[usize::from(first >> 4)], DIGITS[usize::from(last & 15)]]
}

/// Returns the two digits of a count; a count above 99 is written as 99.
fn two_digits(count: usize) -> [u8; 2] {
    let count = count.min(99) as u8;
    [b'0' + count / 10, b'0' + count % 10]
}

/// Returns the first characters of one hash over the sorted numbers and the signature algorithms after them. Returns
/// zeros if there are no numbers.
fn hash(sorted: Vec<u16>, algorithms: Option<&[u8]>) -> [u8; HASH_LENGTH] {
    if sorted.is_empty() {
        return [b'0'; HASH_LENGTH];
    }
    let mut hasher = Sha256::new();
    add(&mut hasher, sorted.into_iter(), "");
    // The list follows its length of two bytes.
    let algorithms = algorithms.and_then(|content| content.get(2..)).unwrap_or_default();
    add(&mut hasher, numbers(algorithms).filter(|&algorithm| !is_grease(algorithm)), "_");
    let digest = hasher.finalize();
    std::array::from_fn(|at| {
        let byte = digest[at / 2];
        DIGITS[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })]
    })
}

/// Hashes each number as four hexadecimal digits. `before` comes before the first number, a comma between two numbers.
fn add(hasher: &mut Sha256, numbers: impl Iterator<Item = u16>, before: &str) {
    let mut separator = before;
    for number in numbers {
        hasher.update(separator);
        let digit = |shift: u16| DIGITS[usize::from(number >> shift & 15)];
        hasher.update([digit(12), digit(8), digit(4), digit(0)]);
        separator = ",";
    }
}
