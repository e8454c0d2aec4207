//! The first bytes to a backend: a PROXY header if its pool sends one, then the first bytes of the client.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::LazyLock;

use super::record::ConnectionRecord;
use super::sniffed::SniffedClient;
use crate::pool::AnnounceSpec;
use crate::sys::socket;
use crate::wire::proxy_protocol::{HeaderOrigin, OutgoingHeader, ProxyHeader, Tlv};
use crate::wire::{Offer, ServerName};

/// The first bytes of a connection to any backend of a pool.
pub(super) struct BackendPreface<'a> {
    /// All bytes of the preface.
    pub(super) bytes: Cow<'a, [u8]>,
    /// The number of leading bytes that do not come from the client.
    pub(super) own: usize,
}

impl BackendPreface<'static> {
    /// The preface of a connection that is made before its first bytes may be sent.
    pub(super) const EMPTY: Self = Self { bytes: Cow::Borrowed(&[]), own: 0 };
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
    let id = announce.unique_id.then(|| match tlv(Tlv::UNIQUE_ID) {
        // The identifier of the received header is passed on, so the connection has one identifier on its
        // whole path.
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(unique_id(record.entry().id()).into_bytes()),
    });
    if let Some(id) = &id {
        record.announced_id(id);
    }
    let message = if announce.alpn { sniffed.message() } else { None };
    let facts = HeaderFacts {
        came,
        server_name: sniffed.facts.server_name.as_ref(),
        message: message.as_deref(),
        unique_id: id.as_deref(),
    };
    let tlvs = facts.tlvs(announce);
    let endpoints = record.client().tcp().zip(destination(came, sniffed));
    OutgoingHeader { version: announce.version, endpoints, tlvs, crc32c: announce.crc32c }.write()
}

/// The facts about a client that a PROXY header may have, besides its addresses.
pub(super) struct HeaderFacts<'a> {
    /// The PROXY header that came with the client.
    pub(super) came: Option<&'a ProxyHeader>,
    /// The server name in the hello.
    pub(super) server_name: Option<&'a ServerName>,
    /// The message of the hello.
    pub(super) message: Option<&'a [u8]>,
    /// The identifier of the connection.
    pub(super) unique_id: Option<&'a [u8]>,
}

impl<'a> HeaderFacts<'a> {
    /// Returns the TLVs of the header, as the settings of a pool select them.
    pub(super) fn tlvs(&self, announce: &'a AnnounceSpec) -> Vec<(u8, &'a [u8])> {
        let tlv = |kind| self.came.and_then(|header| header.tlv(kind));
        let authority = self.server_name.map(|name| name.as_str().as_bytes());
        let authority = authority.or_else(|| tlv(Tlv::AUTHORITY)).filter(|_| announce.authority);
        let alpn = announce.alpn.then(|| self.message.and_then(offered).or_else(|| tlv(Tlv::ALPN)));
        let mut tlvs: Vec<(u8, &[u8])> = Vec::new();
        tlvs.extend(alpn.flatten().map(|protocol| (Tlv::ALPN, protocol)));
        tlvs.extend(authority.map(|name| (Tlv::AUTHORITY, name)));
        tlvs.extend(self.unique_id.map(|id| (Tlv::UNIQUE_ID, id)));
        tlvs.extend(announce.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)));
        let own: Vec<u8> = tlvs.iter().map(|(kind, _)| *kind).collect();
        let passed = self.came.map_or(&[][..], |header| &header.tlvs).iter();
        let passed = passed.filter(|tlv| announce.pass.contains(tlv.kind) && !own.contains(&tlv.kind));
        tlvs.extend(passed.map(|tlv| (tlv.kind, &*tlv.value)));
        tlvs
    }
}

/// Returns the protocol that a hello offers by ALPN, if the hello offers exactly one. Of several protocols the backend
/// picks one, and this choice is encrypted.
fn offered(message: &[u8]) -> Option<&[u8]> {
    let mut protocols = Offer::of(message)?.alpn();
    protocols.next().filter(|_| protocols.next().is_none())
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
