//! The data about clients that a pool sends to its backends, in a PROXY header.

use crate::wire::proxy_protocol::{HeaderVersion, Tlv};

/// The PROXY header that a pool sends to its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceSpec {
    /// Its form. Version 1 has room for addresses only: everything below is then off.
    pub version: HeaderVersion,
    /// True if the server name of the client's hello is sent. Default: no.
    pub authority: bool,
    /// True if the ALPN protocol of the client is sent; it is sent only if the client offers exactly one. Default:
    /// no.
    pub alpn: bool,
    /// True if the connection gets an id: the id that came with the connection, else a new id. Default: no.
    pub unique_id: bool,
    /// True if the header has a checksum. Default: no.
    pub crc32c: bool,
    /// Further TLVs that are sent for every connection, kinds distinct. Default: none.
    pub tlvs: Vec<Tlv>,
    /// The TLVs of the client's own PROXY header that are passed on to the backend. Default: none.
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
    /// All kinds.
    All,
    /// These kinds.
    Kinds(Vec<u8>),
}

impl Passed {
    /// Returns true if a TLV of this kind is passed on. Checksums and padding are never passed on, because they
    /// belong to one header.
    pub fn contains(&self, kind: u8) -> bool {
        let is_one = match self {
            Self::All => true,
            Self::Kinds(kinds) => kinds.contains(&kind),
        };
        is_one && !matches!(kind, Tlv::CRC32C | Tlv::NOOP)
    }
}
