//! The PROXY protocol, versions 1 and 2: how a proxy tells the next one, or a server, who its client is.
//!
//! [`read()`] is shown all bytes that have arrived so far and answers in one of three ways: not yet, what
//! was [`HeaderSearch`], or a [`HeaderFault`]. The answer depends on the bytes alone, never on how they were cut.
//! [`OutgoingHeader`] writes a header.
//!
//! "No header" and "a broken header" are different answers: what begins like a header and does not end
//! like one is never taken for a client's own words. Whether the sender may be believed is not decided here.

mod crc32c;
pub mod private_link;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::net::SocketAddr;

pub use read::{begins_like_one, read};
pub use write::{OutgoingHeader, local, own};

/// The first bytes of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// The first bytes of version 2.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, the version and command, the family and protocol, the length.
const V2_FIXED: usize = 16;

/// The longest line of version 1, its end included.
pub const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is read or written. The protocol would allow 64 KiB more; what is
/// in use, AF_UNIX addresses and a chain of certificates' names included, stays far below this.
pub const LONGEST_V2: usize = 4096;

/// The most TLVs that are read: each takes memory beyond its bytes.
pub const MOST_TLVS: usize = 128;

/// The longest value of [`Tlv::UNIQUE_ID`].
pub const LONGEST_UNIQUE_ID: usize = 128;

/// Which form a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderVersion {
    /// A line of text.
    V1,
    /// Bytes, with room for TLVs.
    V2,
}

impl HeaderVersion {
    /// The word in the file and in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// What stands in front of a client's own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSearch {
    /// No header: these bytes are the client's own.
    Nothing,
    /// A header, and how many bytes of the input it takes.
    Header(ProxyHeader, usize),
}

/// A header that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its form.
    pub version: HeaderVersion,
    /// Whose connection it is.
    pub origin: HeaderOrigin,
    /// What else is told, in the sender's order; without CRC32C and padding. Always empty in version 1, and
    /// where the origin is [`HeaderOrigin::Sender`].
    pub tlvs: Vec<Tlv>,
}

impl ProxyHeader {
    /// The value of the first TLV of a kind.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|tlv| tlv.kind == kind).map(|tlv| &*tlv.value)
    }
}

/// Whose connection a header announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderOrigin {
    /// The sender's own, such as a health check (LOCAL): the addresses are those of the connection itself.
    Sender,
    /// A client's whose addresses cannot be told (UNKNOWN, UNSPEC, or not a stream): as a last resort the
    /// addresses are those of the connection itself.
    Unknown,
    /// A TCP client's.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// A client's of a Unix socket; both may be empty, and hold what their owner likes except NUL bytes.
    Unix {
        /// The client's path, mostly empty.
        source: Box<[u8]>,
        /// The path it connected to.
        destination: Box<[u8]>,
    },
}

/// One more thing that is told: a kind and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// The kind, by the numbers below.
    pub kind: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

impl Tlv {
    /// The protocol above, as ALPN names it.
    pub const ALPN: u8 = 0x01;
    /// The host name the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// A checksum of the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// A name of the connection, the same at each proxy it passes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// What a proxy that ended TLS says of it.
    pub const SSL: u8 = 0x20;
    /// The sender's network namespace.
    pub const NETNS: u8 = 0x30;
    /// The private link of Google Cloud that the connection came through (Private Service Connect).
    pub const GCP: u8 = 0xe0;
    /// The one of AWS (PrivateLink).
    pub const AWS: u8 = 0xea;
    /// The one of Azure (Private Link).
    pub const AZURE: u8 = 0xee;

    /// A TLV with this value.
    pub fn new(kind: u8, value: impl Into<Box<[u8]>>) -> Self {
        Self { kind, value: value.into() }
    }

    /// Whether a kind is for whatever applications agree on, so that an operator may choose its value.
    pub const fn is_free(kind: u8) -> bool {
        matches!(kind, 0xe0..=0xf7)
    }
}

/// Why bytes that begin like a header are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The line does not end within [`LONGEST_V1`] bytes.
    #[error("the line does not end within {LONGEST_V1} bytes")]
    LongLine,
    /// The line says something else than the protocol allows.
    #[error("the line is malformed")]
    Line,
    /// The version is neither 1 nor 2.
    #[error("the version is unknown")]
    Version,
    /// The command is neither LOCAL nor PROXY.
    #[error("the command is unknown")]
    Command,
    /// The address family or the transport protocol is none of the protocol's.
    #[error("the address family or transport protocol is unknown")]
    Family,
    /// The header is longer than [`LONGEST_V2`] bytes.
    #[error("the header is longer than {LONGEST_V2} bytes")]
    TooLong,
    /// The header has no room for the addresses of its family.
    #[error("the addresses do not fit into the header")]
    Addresses,
    /// A TLV is cut off, or its value cannot be one of its kind, or there are more than [`MOST_TLVS`].
    #[error("a TLV is malformed, or there are too many")]
    Tlv,
    /// The checksum is another than that of the bytes.
    #[error("the checksum is wrong")]
    Checksum,
}
