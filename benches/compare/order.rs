//! The order that the parent sends to a load process, and the answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The work of each connection of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Connects, sends the hello, reads a short reply, closes, and begins again.
    Connect,
    /// Sends this many bytes, reads them back, and begins again on the same connection.
    PingPong(usize),
    /// Reads as fast as it can.
    Down,
    /// Writes as fast as it can, then finishes its sending half. The backend must send the right byte count
    /// back.
    Up,
    /// Reads one short reply and stays open until the parent closes our standard input.
    Hold,
}

/// An order to a load process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) work: Work,
    pub(crate) to: SocketAddr,
    /// The number of connections that are open at the same time.
    pub(crate) connections: usize,
    /// The time from the start of the last connection to the measured time.
    pub(crate) warm: Duration,
    /// The measured time.
    pub(crate) measure: Duration,
    /// The process id of the proxy. The load reads its CPU time itself: on a busy machine another process
    /// would be late.
    pub(crate) watch: Option<u32>,
    /// The CPU that the proxy is pinned to. Under load the kernel sometimes handles received packets in a
    /// thread of its own on this CPU. That time counts as the proxy's too.
    pub(crate) own_cpu: Option<usize>,
}

/// The results of a load process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Connections, round trips or bytes in the measured time.
    pub(crate) operations: u64,
    /// Connections, round trips or bytes from start to end.
    pub(crate) total: u64,
    /// CPU seconds of the proxy in the measured time; 0 if there is none.
    pub(crate) cpu: f64,
    /// The CPU seconds by the names of the threads.
    pub(crate) threads: BTreeMap<String, f64>,
    /// The measured time, in seconds.
    pub(crate) seconds: f64,
    /// The median latency of a connection or a round trip, in microseconds; 0 if the work has none.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    /// The latency of the slowest one in a thousand, in microseconds; 0 if the work has none.
    pub(crate) p999: u32,
    /// The connections that failed, made no progress, or got wrong bytes.
    pub(crate) errors: u64,
    /// The text of the first error.
    pub(crate) fault: Option<String>,
}

/// The line that is printed when every connection is idle.
pub(crate) const ALL_IDLE: &str = "all-idle";
