//! The offer of a whole ClientHello: protocols, versions, Encrypted ClientHello.
//!
//! An offer borrows from the message and parses its lists only when they are used. Most connections are routed by
//! their name only. A field that cannot be parsed offers nothing, so it meets no condition.

use std::fmt;

use tls_parser::TlsExtensionType;

use super::message::{self, FieldReader};

/// The extension type of Encrypted ClientHello (RFC 9849, section 11.1).
pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// A version of TLS by its two bytes on the wire; a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    /// TLS 1.0.
    pub const V1_0: Self = Self(0x0301);
    /// TLS 1.1.
    pub const V1_1: Self = Self(0x0302);
    /// TLS 1.2.
    pub const V1_2: Self = Self(0x0303);
    /// TLS 1.3.
    pub const V1_3: Self = Self(0x0304);
}

impl fmt::Display for TlsVersion {
    /// Writes the version, such as `1.3`; an unknown version by its number, such as `0x7f1c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("ssl3"),
            0x0301..=0x0304 => write!(f, "1.{}", self.0 - 0x0301),
            other => write!(f, "{other:#06x}"),
        }
    }
}

/// The offer of a client in its hello, borrowed from the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer<'a> {
    pub(super) legacy_version: u16,
    pub(super) ciphers: &'a [u8],
    /// The block of extensions.
    pub(super) extensions: &'a [u8],
    alpn: Option<&'a [u8]>,
    versions: Option<&'a [u8]>,
    pub(super) signature_algorithms: Option<&'a [u8]>,
    pub(super) has_name: bool,
    has_ech: bool,
}

impl<'a> Offer<'a> {
    /// Reads the offer of a whole message, including its 4-byte header; `None` if the message is malformed.
    pub fn of(message: &'a [u8]) -> Option<Self> {
        let body = super::body(message);
        let mut fields = FieldReader(body);
        let legacy_version = fields.number()?;
        fields.bytes(32)?;
        fields.vector8()?;
        let ciphers = fields.vector16()?;
        let extensions = message::extensions(body).ok()?.unwrap_or_default();
        let mut offer = Self { legacy_version, ciphers, extensions, ..Self::default() };
        for (kind, content) in each_extension(extensions) {
            match TlsExtensionType(kind) {
                TlsExtensionType::ServerName => offer.has_name = true,
                TlsExtensionType::ApplicationLayerProtocolNegotiation => offer.alpn = Some(content),
                TlsExtensionType::SupportedVersions => offer.versions = Some(content),
                TlsExtensionType::SignatureAlgorithms => offer.signature_algorithms = Some(content),
                TlsExtensionType(ENCRYPTED_CLIENT_HELLO) => offer.has_ech = true,
                _ => {}
            }
        }
        Some(offer)
    }

    /// Returns the names of the protocols inside TLS, the client's preferred one first (RFC 7301, section 3.1). They
    /// may be any bytes and include GREASE (RFC 8701). There are none if the list is malformed.
    pub fn alpn(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let list = self.alpn.and_then(|content| {
            let mut fields = FieldReader(content);
            fields.vector16().filter(|_| fields.is_empty())
        });
        let list = list.filter(|list| are_names(list)).unwrap_or_default();
        let mut fields = FieldReader(list);
        std::iter::from_fn(move || fields.vector8())
    }

    /// Returns the versions in the client's order, without GREASE. Without the extension (RFC 8446, section 4.2.1)
    /// there is one version: the version in the hello itself. It is the highest version that the client supports.
    pub fn versions(&self) -> impl Iterator<Item = TlsVersion> + use<'a> {
        let alone = self.versions.is_none().then_some(self.legacy_version);
        let list = self.versions.and_then(|content| {
            let mut fields = FieldReader(content);
            fields.vector8().filter(|list| fields.is_empty() && list.len() % 2 == 0)
        });
        numbers(list.unwrap_or_default()).chain(alone).filter(|&version| !is_grease(version)).map(TlsVersion)
    }

    /// Returns true if the client offers this version of TLS or a later one. A version number whose first byte is not
    /// the byte of TLS does not count, such as the number of a draft.
    pub fn reaches(&self, least: TlsVersion) -> bool {
        self.versions().any(|version| version.0 >> 8 == 3 && version >= least)
    }

    /// Returns true if Encrypted ClientHello is offered. It may be GREASE: an observer cannot distinguish the two.
    pub fn ech(&self) -> bool {
        self.has_ech
    }
}

/// Returns the extensions of a block that was checked before.
pub(super) fn each_extension(block: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut fields = FieldReader(block);
    std::iter::from_fn(move || Some((fields.number()?, fields.vector16()?)))
}

/// Returns the two-byte numbers of a list; an odd byte at the end is ignored.
pub(super) fn numbers(list: &[u8]) -> impl Iterator<Item = u16> {
    list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// Returns true for the values that clients send so that servers stay tolerant of unknown values (RFC 8701).
pub(super) fn is_grease(number: u16) -> bool {
    number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

/// Returns true if a list consists of whole names, none of them empty.
fn are_names(list: &[u8]) -> bool {
    let mut fields = FieldReader(list);
    while !fields.is_empty() {
        if fields.vector8().is_none_or(<[u8]>::is_empty) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
