//! A connection on its way to a successor.

use serde::{Deserialize, Serialize};

/// A connection. It has a `reading` or a `relay`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedConnection {
    /// Its number in the log.
    pub id: u64,
    /// The name of its listener.
    pub listener: String,
    /// The address of its client, which a PROXY header may have named.
    pub client: String,
    /// The time since it was accepted, in microseconds.
    pub age_us: u64,
    /// The time at which it was accepted, in milliseconds since 1970.
    pub accepted_ms: u64,
    /// The time for which no byte has moved, in milliseconds.
    pub quiet_ms: u64,
    /// The source for which it is counted, as 128 bits in hexadecimal digits.
    pub source: Option<String>,
    /// The kind and the id of the private link for which it is counted.
    pub link: Option<(u8, String)>,
    /// The name of its pool, once that is known.
    pub pool: Option<String>,
    /// The server name in its hello. A program that knows no such field reads it from `log`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The name of the route that took it. A program that knows no such field reads it from `log`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The host name in its PROXY header, if its pool hashes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The fields of its log line, if there is an access log.
    pub log: Option<Box<HandedLog>>,
    /// Set if its first bytes are being read. It has one descriptor.
    pub reading: Option<HandedReading>,
    /// Set if its backend is connected. It has two descriptors.
    pub relay: Option<Box<HandedRelay>>,
}

/// A connection whose first bytes are being read. Nothing was sent to its client, so the successor begins with the first
/// byte again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedReading {
    /// The identity of the listening socket that accepted it.
    pub socket: String,
    /// The number of bytes that were read, in the raw bytes of the frame.
    pub bytes: usize,
    /// The number of these bytes that are a PROXY header, by which the client was admitted.
    pub header: usize,
    /// The time since a hello that is not whole began, in microseconds.
    pub begun_us: Option<u64>,
}

/// A connection whose backend is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedRelay {
    /// The index of its options in the batch.
    pub options: usize,
    /// The direction from the client to the backend.
    pub from_client: HandedFlow,
    /// The direction from the backend to the client.
    pub from_backend: HandedFlow,
    /// The bytes delivered from the client.
    pub total_from_client: u64,
    /// The bytes delivered from the backend.
    pub total_from_backend: u64,
    /// The bytes read that could not be delivered.
    pub dropped: u64,
    /// The name of the pool of its backend.
    pub pool: String,
    /// The name of its backend.
    pub backend: String,
    /// The address of its backend.
    pub backend_address: String,
    /// True if failures of the connection count for the backend.
    pub reports_troubles: bool,
    /// True if the backend has sent nothing.
    pub waits_for_first_byte: bool,
    /// True if a request to cancel a query may belong to it.
    pub is_session: bool,
    /// The mark by which a loop of forwarded connections is found.
    pub forward_mark: Option<u64>,
    /// The name of the route whose limits and counts it uses.
    pub route: Option<String>,
    /// True if it holds a slot of its route.
    pub holds_route: bool,
    /// True if it holds a slot of its pool.
    pub holds_pool: bool,
    /// The time at which its backend was connected, in microseconds after its accept.
    pub connected_us: u32,
    /// Its interval records. `None` if the program makes none and has made none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals: Option<HandedIntervals>,
}

/// The progress of the interval records of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedIntervals {
    /// The time of the last record, in seconds after the accept; 0 before the first. `None` if the program makes no such
    /// records now.
    pub after_s: Option<u32>,
    /// The bytes from the client that the records have counted.
    pub from_client: u64,
    /// The bytes from the backend that the records have counted.
    pub from_backend: u64,
}

/// The state of a direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedFlow {
    /// `open`, `ending` or `done`.
    pub stage: String,
    /// The number of bytes that were read and not written, in the raw bytes of the frame.
    pub held: usize,
    /// The write before which its sink gets TCP_NODELAY: `second`, `next` or `never`.
    pub nodelay: String,
}

/// The options of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedOptions {
    /// `auto`, `splice` or `copy`.
    pub engine: String,
    /// The idle timeout in milliseconds.
    pub idle_ms: u64,
    /// The half-closed timeout in milliseconds.
    pub half_closed_ms: u64,
    /// The linger after a reset in milliseconds.
    pub linger_ms: u64,
    /// The timeouts of the client.
    pub client: HandedPeerTimeouts,
    /// The timeouts of the backend.
    pub backend: HandedPeerTimeouts,
}

/// The timeouts of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedPeerTimeouts {
    /// The probes to an idle peer: the time before the first and between two, in milliseconds, and their number.
    pub keepalive: Option<(u64, u64, u32)>,
    /// The time for which sent bytes may stay unacknowledged, in milliseconds.
    pub user_ms: Option<u64>,
    /// The time for which a peer may take no byte, in milliseconds.
    pub stall_ms: Option<u64>,
}

/// The values that a client offered in its hello.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedOffer {
    /// The protocols inside TLS.
    pub alpn: Option<String>,
    /// The versions of TLS.
    pub tls_versions: Option<String>,
    /// The JA4 fingerprint.
    pub ja4: String,
    /// True if Encrypted ClientHello was offered.
    pub ech: bool,
    /// The number of reads in which the hello came.
    pub segments: u32,
    /// The number of TLS records in which the hello came.
    pub records: u32,
}

/// The fields of a log line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedLog {
    /// The peer that sent a PROXY header.
    pub peer: Option<String>,
    /// The authority of the PROXY header.
    pub proxy_authority: Option<String>,
    /// The ALPN of the PROXY header.
    pub proxy_alpn: Option<String>,
    /// The unique id of the PROXY header.
    pub unique_id: Option<String>,
    /// The id of the private link.
    pub private_link: Option<String>,
    /// The server name.
    pub sni: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// The attempts to connect.
    pub attempts: u8,
    /// The address that was dialled, if it is not the backend's own.
    pub dialled: Option<String>,
    /// The close reason with which rules that only report would have refused the connection.
    pub reported: Option<String>,
    /// The port of a request for a tunnel.
    pub port: Option<u16>,
    /// The offer of the hello.
    pub offered: Option<HandedOffer>,
    /// Microseconds until the hello was read.
    pub hello_us: Option<u64>,
    /// Microseconds in the queue.
    pub queue_us: Option<u64>,
    /// Microseconds of the connect.
    pub connect_us: Option<u64>,
}
