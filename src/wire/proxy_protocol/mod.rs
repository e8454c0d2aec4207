//! The PROXY protocol, versions 1 and 2, by which a proxy sends the addresses of its client to the next proxy or
//! server.
//!
//! [`read()`] parses all bytes that have arrived so far and returns one of three results: incomplete, a
//! [`HeaderSearch`], or a [`HeaderFault`]. The result depends on the bytes alone, never on how they were cut.
//! [`OutgoingHeader`] writes a header.
//!
//! "No header" and "a broken header" are different results: bytes that only begin like a header are never treated
//! as the client's bytes. The caller decides which senders are trusted.

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

/// The length of the fixed part of version 2: signature, version and command, family and protocol, length.
const V2_FIXED: usize = 16;

/// The longest line of version 1, including its end.
pub const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is read or written. The protocol allows 64 KiB more. Headers in use, even with
/// AF_UNIX addresses and the names of a certificate chain, are far shorter.
pub const LONGEST_V2: usize = 4096;

/// The most TLVs that are read. The bound exists because each TLV takes memory beyond its bytes.
pub const MOST_TLVS: usize = 128;

/// The longest value of [`Tlv::UNIQUE_ID`].
pub const LONGEST_UNIQUE_ID: usize = 128;

/// The version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderVersion {
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary, with TLVs.
    V2,
}

impl HeaderVersion {
    /// Returns the word for the version in the configuration and in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The result of the search for a header before the client's own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSearch {
    /// There is no header: these bytes are the client's own.
    Nothing,
    /// A header, and its length in bytes.
    Header(ProxyHeader, usize),
}

/// A received header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version of the header.
    pub version: HeaderVersion,
    /// The origin of the connection.
    pub origin: HeaderOrigin,
    /// The TLVs in the sender's order, without CRC32C and padding. Always empty in version 1, and if the origin is
    /// [`HeaderOrigin::Sender`].
    pub tlvs: Vec<Tlv>,
}

impl ProxyHeader {
    /// Returns the value of the first TLV of a kind.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|tlv| tlv.kind == kind).map(|tlv| &*tlv.value)
    }
}

/// The origin of a connection that a header announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderOrigin {
    /// The sender itself, for example for a health check (LOCAL). The addresses are those of the connection itself.
    Sender,
    /// A client without known addresses (UNKNOWN, UNSPEC, or not a stream). As a last resort, the addresses are those
    /// of the connection itself.
    Unknown,
    /// A TCP client.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
    /// A client of a Unix socket. Both paths may be empty, and may have any bytes except NUL.
    Unix {
        /// The client's path, usually empty.
        source: Box<[u8]>,
        /// The path that the client connected to.
        destination: Box<[u8]>,
    },
}

/// A further value in a header: its kind and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// The kind, one of the numbers below or any other.
    pub kind: u8,
    /// The value.
    pub value: Box<[u8]>,
}

impl Tlv {
    /// The protocol inside the connection, by its ALPN name.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client requested.
    pub const AUTHORITY: u8 = 0x02;
    /// A checksum of the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// A name of the connection, equal at each proxy on its way.
    pub const UNIQUE_ID: u8 = 0x05;
    /// The facts of a TLS session that the sender terminated.
    pub const SSL: u8 = 0x20;
    /// The sender's network namespace.
    pub const NETNS: u8 = 0x30;
    /// The private link of Google Cloud (Private Service Connect) through which the connection came.
    pub const GCP: u8 = 0xe0;
    /// The private link of AWS (PrivateLink).
    pub const AWS: u8 = 0xea;
    /// The private link of Azure (Private Link).
    pub const AZURE: u8 = 0xee;

    /// Creates a TLV with this value.
    pub fn new(kind: u8, value: impl Into<Box<[u8]>>) -> Self {
        Self { kind, value: value.into() }
    }

    /// Returns true if a kind is reserved for the use of applications, so that an operator may choose its value.
    pub const fn is_free(kind: u8) -> bool {
        matches!(kind, 0xe0..=0xf7)
    }
}

/// The fault of bytes that begin like a header but are not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The line does not end within [`LONGEST_V1`] bytes.
    #[error("the line does not end within {LONGEST_V1} bytes")]
    LongLine,
    /// The line is not valid in the protocol.
    #[error("the line is malformed")]
    Line,
    /// The version is neither 1 nor 2.
    #[error("the version is unknown")]
    Version,
    /// The command is neither LOCAL nor PROXY.
    #[error("the command is unknown")]
    Command,
    /// The address family or the transport protocol is not defined in the PROXY protocol.
    #[error("the address family or transport protocol is unknown")]
    Family,
    /// The header is longer than [`LONGEST_V2`] bytes.
    #[error("the header is longer than {LONGEST_V2} bytes")]
    TooLong,
    /// The header has no room for the addresses of its family.
    #[error("the addresses do not fit into the header")]
    Addresses,
    /// A TLV is cut off, or its value is not valid for its kind, or there are more than [`MOST_TLVS`].
    #[error("a TLV is malformed, or there are too many")]
    Tlv,
    /// The checksum does not match the bytes.
    #[error("the checksum is wrong")]
    Checksum,
}
