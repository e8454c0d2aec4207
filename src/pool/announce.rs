//! What a pool's backends are told of their clients, in a PROXY header.

use crate::wire::proxy_protocol::{HeaderVersion, Tlv};

/// The PROXY header that a pool sends to its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceSpec {
    /// Its form. Version 1 has room for addresses only: everything below is then off.
    pub version: HeaderVersion,
    /// Whether the name that the client asked for is told. Default: no.
    pub authority: bool,
    /// Whether the protocol that the client offers by ALPN is told, if it is one alone. Default: no.
    pub alpn: bool,
    /// Whether the connection is given a name: the one that came with it, else a fresh one. Default: no.
    pub unique_id: bool,
    /// Whether there is a checksum. Default: no.
    pub crc32c: bool,
    /// What else is told of every connection, kinds distinct. Default: nothing.
    pub tlvs: Vec<Tlv>,
    /// Which of the TLVs that came with a connection go on to the backend. Default: none.
    pub pass: Passed,
}

impl AnnounceSpec {
    /// A header with addresses alone.
    pub fn new(version: HeaderVersion) -> Self {
        let pass = Passed::Kinds(Vec::new());
        let (authority, alpn, unique_id, crc32c) = (false, false, false, false);
        Self { version, authority, alpn, unique_id, crc32c, tlvs: Vec::new(), pass }
    }
}

/// Kinds of TLVs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// All of them.
    All,
    /// These.
    Kinds(Vec<u8>),
}

impl Passed {
    /// Whether a kind is among them. Checksums and padding belong to one header and never are.
    pub fn contains(&self, kind: u8) -> bool {
        let is_one = match self {
            Self::All => true,
            Self::Kinds(kinds) => kinds.contains(&kind),
        };
        is_one && !matches!(kind, Tlv::CRC32C | Tlv::NOOP)
    }
}
