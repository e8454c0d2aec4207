//! The parser for the body of a ClientHello (RFC 8446, section 4.1.2). Every length must fit into its parent's.
//!
//! This module has its own parser of extensions. A parser that stops at unknown contents would miss a server name
//! after them, and clients send extensions in any order. Contents that routing does not need are skipped; their
//! length is always checked.

use tls_parser::{SNIType, TlsExtensionType, parse_tls_extension_sni_hostname};

use super::{HelloFault, Malformed};
use crate::wire::server_name::ServerName;

/// The longest session id (RFC 8446, section 4.1.2).
const MAX_SESSION_ID: usize = 32;

/// Returns the server name in a hello with this body, or `None`. An IP address is not a name (RFC 6066, section 3):
/// some clients send the address that they connect to.
///
/// The structure is checked to its end before the name, so a malformed hello never has a name.
pub(super) fn server_name(body: &[u8]) -> Result<Option<ServerName>, HelloFault> {
    let Some(name) = sent_name(body).map_err(HelloFault::Malformed)? else { return Ok(None) };
    match ServerName::from_client(name) {
        Ok(name) => Ok(Some(name)),
        Err(_) if ServerName::is_address(name) => Ok(None),
        Err(fault) => Err(HelloFault::BadName(fault)),
    }
}

/// Returns the server name in a hello with this body, without a check of its bytes.
pub(super) fn sent_name(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    server_name_extension(body)?.map(host_name).transpose()
}

/// Returns the content of the server name extension, if the hello has one.
fn server_name_extension(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some(block) = extensions(body)? else { return Ok(None) };
    match find_server_name::<SIEVE>(block) {
        Err(Malformed::DuplicateExtension) => find_server_name::<EXACT>(block),
        answer => answer,
    }
}

/// Reads all extensions and returns the content of the server name extension. If `WORDS` is less than [`EXACT`], two
/// types may share a bit. The second type is then reported as a duplicate of the first.
fn find_server_name<const WORDS: usize>(block: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = FieldReader(block);
    let mut seen = TypeSet::<WORDS>::new();
    let mut found = None;
    while !fields.is_empty() {
        let kind = fields.number().ok_or(Malformed::Extension)?;
        let content = fields.vector16().ok_or(Malformed::Extension)?;
        if !seen.insert(kind) {
            return Err(Malformed::DuplicateExtension);
        }
        if kind == TlsExtensionType::ServerName.0 {
            found = Some(content);
        }
    }
    Ok(found)
}

/// Returns the block of extensions; `None` if the hello ends before it, as the hellos of old clients do.
pub(super) fn extensions(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = FieldReader(body);
    fields.bytes(2 + 32).ok_or(Malformed::Random)?;
    let session_id = fields.vector8().ok_or(Malformed::SessionId)?;
    if session_id.len() > MAX_SESSION_ID {
        return Err(Malformed::SessionId);
    }
    let suites = fields.vector16().ok_or(Malformed::CipherSuites)?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(Malformed::CipherSuites);
    }
    let compression = fields.vector8().ok_or(Malformed::Compression)?;
    if compression.is_empty() {
        return Err(Malformed::Compression);
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let block = fields.vector16().ok_or(Malformed::Extensions)?;
    if fields.is_empty() { Ok(Some(block)) } else { Err(Malformed::TrailingBytes) }
}

/// Returns the one host name in a server name extension (RFC 6066, section 3).
///
/// The list must have one entry, of type `host_name`. An entry of another type cannot be skipped, because its length
/// is not defined. It is refused, as in OpenSSL but not in rustls; otherwise a backend could find a name that routing
/// did not use.
fn host_name(content: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = FieldReader(content);
    let list = fields.vector16().filter(|_| fields.is_empty()).ok_or(Malformed::ServerName)?;
    match parse_tls_extension_sni_hostname(list) {
        Ok(([], (SNIType::HostName, name))) => Ok(name),
        _ => Err(Malformed::ServerName),
    }
}

/// The unread rest of a part of the message. Every method returns `None` if too few bytes are left.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Reads a number of two bytes.
    pub(super) fn number(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Reads a vector after its length of one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.bytes(usize::from(length))
    }

    /// Reads a vector after its length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(usize::from(length))
    }
}

/// The number of words with one bit for each type. These words take 8 KiB. If each hello cleared them, this would be
/// more than a third of the cost of the hello.
const EXACT: usize = 1024;

/// The number of words with which no two types in use share a bit, so that few hellos are read twice.
const SIEVE: usize = 16;

/// A set of extension types with one bit for each; types that are equal modulo the number of bits share a bit. So
/// thousands of extensions in one hello cost neither an allocation nor a search.
struct TypeSet<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> TypeSet<WORDS> {
    fn new() -> Self {
        TypeSet([0; WORDS])
    }

    /// Adds a type; returns false if the set already has the type, or one with the same bit.
    fn insert(&mut self, kind: u16) -> bool {
        let word = &mut self.0[usize::from(kind / 64) % WORDS];
        let bit = 1 << (kind % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_in_use_differ_in_the_sieve() {
        // The types that IANA has numbered consecutively, and GREASE (RFC 8701).
        let numbered = 0..=64;
        let grease = (0..16).map(|n| 0x0a0a + 0x1010 * n);
        // Protocol settings of two generations, ECH and its name lists, renegotiation, ESNI, QUIC's draft, channel
        // ids and next protocols.
        let others = [0x4469, 0x44cd, 0xfe0d, 0xfd00, 0xff01, 0xffce, 0xffa5, 0x7550, 0x3374];
        let mut seen = TypeSet::<SIEVE>::new();
        for kind in numbered.chain(grease).chain(others) {
            assert!(seen.insert(kind), "{kind:#06x}");
        }
    }

    #[test]
    fn only_the_sieve_takes_one_type_for_another() {
        let (mut sieve, mut exact) = (TypeSet::<SIEVE>::new(), TypeSet::<EXACT>::new());
        for kind in 0..=u16::MAX {
            assert_eq!(sieve.insert(kind), kind < 1024, "{kind}");
            assert!(exact.insert(kind), "{kind}");
        }
        assert!((0..=u16::MAX).all(|kind| !exact.insert(kind)));
    }
}
