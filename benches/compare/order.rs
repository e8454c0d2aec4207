//! What the parent tells a load process, and what that answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What each connection of the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Connects, says hello, reads a short reply, closes, and again.
    Connect,
    /// Sends so many bytes, reads them back, and again on the same connection.
    PingPong(usize),
    /// Reads as fast as it can.
    Down,
    /// Writes as fast as it can, then finishes its sending half and must get its byte count back.
    Up,
    /// Reads one short reply and then stays open until the parent closes our standard input.
    Hold,
}

/// An order to a load process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) work: Work,
    pub(crate) to: SocketAddr,
    /// Open at the same time.
    pub(crate) connections: usize,
    /// From the last connection's start to the measured time.
    pub(crate) warm: Duration,
    /// The measured time.
    pub(crate) measure: Duration,
    /// The proxy, whose CPU time the load reads itself: on a busy machine nobody else is in time.
    pub(crate) watch: Option<u32>,
    /// The CPU that the proxy has for itself. Under load the kernel leaves received packets to a thread of
    /// its own there, now and then: that time is the proxy's too.
    pub(crate) own_cpu: Option<usize>,
}

/// What a load process did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Connections, round trips or bytes in the measured time.
    pub(crate) operations: u64,
    /// The same from start to end.
    pub(crate) total: u64,
    /// CPU seconds of the proxy in the measured time; 0 if there is none.
    pub(crate) cpu: f64,
    /// The same by the names of its threads.
    pub(crate) threads: BTreeMap<String, f64>,
    /// The measured time, in seconds.
    pub(crate) seconds: f64,
    /// Microseconds of a connection or round trip; 0 where the work has none.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    /// Microseconds of the slowest one in a thousand; 0 where the work has none.
    pub(crate) p999: u32,
    /// Connections that failed, stood still, or got other bytes than they should have.
    pub(crate) errors: u64,
    /// The first of these, in words.
    pub(crate) fault: Option<String>,
}

/// Printed when every connection rests.
pub(crate) const RESTING: &str = "resting";
