//! The first bytes to a backend: a PROXY header if its pool sends one, then the first bytes of the client.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::LazyLock;

use super::record::ConnectionRecord;
use super::sniffed::SniffedClient;
use crate::pool::AnnounceSpec;
use crate::sys::socket;
use crate::wire::Offer;
use crate::wire::proxy_protocol::{HeaderOrigin, OutgoingHeader, ProxyHeader, Tlv};

/// The first bytes of a connection to any backend of a pool.
pub(super) struct BackendPreface<'a> {
    /// All bytes of the preface.
    pub(super) bytes: Cow<'a, [u8]>,
    /// The number of leading bytes that do not come from the client.
    pub(super) own: usize,
}

impl<'a> BackendPreface<'a> {
    /// Returns the preface for a pool with these settings for PROXY headers. `announce` is `None` for a pool
    /// that sends no header.
    pub(super) fn new(
        announce: Option<&AnnounceSpec>,
        sniffed: &'a SniffedClient,
        record: &mut ConnectionRecord,
    ) -> Self {
        let Some(announce) = announce else {
            return Self { bytes: Cow::Borrowed(&sniffed.bytes), own: 0 };
        };
        let mut bytes = header(announce, sniffed, record);
        let own = bytes.len();
        bytes.extend_from_slice(&sniffed.bytes);
        Self { bytes: Cow::Owned(bytes), own }
    }

    /// Splits the preface. The first result is a preface of the leading bytes only. The second result is the
    /// client's bytes.
    pub(super) fn split(&self) -> (BackendPreface<'_>, &[u8]) {
        let (own, clients) = self.bytes.split_at(self.own);
        (BackendPreface { bytes: Cow::Borrowed(own), own: own.len() }, clients)
    }
}

/// Returns the PROXY header for a client.
fn header(announce: &AnnounceSpec, sniffed: &SniffedClient, record: &mut ConnectionRecord) -> Vec<u8> {
    let came = sniffed.facts.proxy.as_deref();
    let tlv = |kind| came.and_then(|header| header.tlv(kind));
    let authority = sniffed.facts.server_name.as_ref().map(|name| name.as_str().as_bytes());
    let authority = authority.or_else(|| tlv(Tlv::AUTHORITY)).filter(|_| announce.authority);
    let id = announce.unique_id.then(|| match tlv(Tlv::UNIQUE_ID) {
        // The identifier of the received header is passed on, so the connection has one identifier on its
        // whole path.
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(unique_id(record.entry().id()).into_bytes()),
    });
    if let Some(id) = &id {
        record.announced_id(id);
    }
    let alpn = announce.alpn.then(|| offered(sniffed).or_else(|| tlv(Tlv::ALPN).map(Vec::from))).flatten();
    let mut tlvs: Vec<(u8, &[u8])> = Vec::new();
    tlvs.extend(alpn.as_deref().map(|protocol| (Tlv::ALPN, protocol)));
    tlvs.extend(authority.map(|name| (Tlv::AUTHORITY, name)));
    tlvs.extend(id.as_deref().map(|id| (Tlv::UNIQUE_ID, id)));
    tlvs.extend(announce.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)));
    let own: Vec<u8> = tlvs.iter().map(|(kind, _)| *kind).collect();
    let passed = came.map_or(&[][..], |header| &header.tlvs).iter();
    let passed = passed.filter(|tlv| announce.pass.contains(tlv.kind) && !own.contains(&tlv.kind));
    tlvs.extend(passed.map(|tlv| (tlv.kind, &*tlv.value)));
    let endpoints = record.client().tcp().zip(destination(came, sniffed));
    OutgoingHeader { version: announce.version, endpoints, tlvs, crc32c: announce.crc32c }.write()
}

/// Returns the protocol that a client offers by ALPN, if the client offers exactly one. Of several protocols
/// the backend picks one, and this choice is encrypted.
fn offered(sniffed: &SniffedClient) -> Option<Vec<u8>> {
    let message = sniffed.message()?;
    let mut protocols = Offer::of(&message)?.alpn();
    protocols.next().filter(|_| protocols.next().is_none()).map(Vec::from)
}

/// Returns the address that the client connected to: the destination in its PROXY header, or else an address of
/// this host.
pub(super) fn destination(came: Option<&ProxyHeader>, sniffed: &SniffedClient) -> Option<SocketAddr> {
    match came {
        Some(ProxyHeader { origin: HeaderOrigin::Tcp { destination, .. }, .. }) => Some(*destination),
        _ => socket::local_address(&sniffed.client).ok(),
    }
}

/// Returns an identifier that no other connection has, on any host. The identifier consists of a random number
/// of this process and the number of the connection.
fn unique_id(connection: u64) -> String {
    /// A random number from the seed of the standard library's hash maps. The number is not secret. It must
    /// only differ between processes.
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    format!("{:016x}{connection:016x}", *PROCESS)
}
