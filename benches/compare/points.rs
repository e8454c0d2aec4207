//! The points of a run: the figures of one proxy in one test of one round.

use clap::ValueEnum;

use crate::peers::Peer;

/// A proxy with a number of workers, as it takes part in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProxyVariant {
    pub(crate) peer: Peer,
    pub(crate) workers: usize,
}

impl ProxyVariant {
    /// Returns the name in the tables. The name has the number of workers if the variants differ in it.
    pub(crate) fn name(self, show_workers: ShowWorkers) -> String {
        match show_workers {
            ShowWorkers::No => self.peer.name().to_owned(),
            ShowWorkers::Yes => format!("{}, {}", self.peer.name(), count(self.workers)),
        }
    }
}

/// The choice to show the number of workers in names, because the variants of a run differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShowWorkers {
    Yes,
    No,
}

/// Returns this number of workers in words.
pub(crate) fn count(workers: usize) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}

/// The reference that a variant is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// This peer with as many workers.
    Peer(Peer),
    /// The same proxy with this many workers.
    Own(usize),
}

impl Reference {
    /// Returns the reference for `variant`.
    pub(crate) fn beside(self, variant: ProxyVariant) -> ProxyVariant {
        match self {
            Self::Peer(peer) => ProxyVariant { peer, ..variant },
            Self::Own(workers) => ProxyVariant { workers, ..variant },
        }
    }

    /// Returns the name in the title of a column.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Peer(peer) => peer.name().to_owned(),
            Self::Own(workers) => format!("own with {}", count(workers)),
        }
    }
}

/// A test that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Test {
    /// Short connections: connect, hello, 64 bytes back, close.
    Conn,
    /// Ping-pong of 64 bytes.
    Pp64,
    /// Ping-pong of 4 KiB.
    Pp4k,
    /// Streams from the backend.
    Down,
    /// Streams to the backend, each ended by a half-close and answered with its byte count.
    Up,
    /// Ping-pong of 64 bytes on few connections, beside many streams from the backend.
    Beside,
    /// Connections that do nothing.
    Idle,
}

/// The result of one test in one round.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) variant: ProxyVariant,
    pub(crate) round: usize,
    pub(crate) test: Test,
    pub(crate) errors: u64,
    pub(crate) figures: Figures,
}

#[derive(Clone, Debug)]
pub(crate) enum Figures {
    Load(LoadFigures),
    Idle(IdleFigures),
}

/// The figures of a test that moves bytes.
#[derive(Clone, Debug)]
pub(crate) struct LoadFigures {
    /// Operations in a second: connections, round trips or bytes. In [`Test::Beside`] these are the bytes of
    /// the streams.
    pub(crate) rate: f64,
    /// CPU seconds of the proxy for one operation; `None` without a proxy.
    pub(crate) cpu: Option<f64>,
    /// The result of the calibration around the test; a larger number is a slower machine.
    pub(crate) pace: f64,
    /// Microseconds; `None` for streams.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
}

/// The figures of a test with idle connections.
#[derive(Clone, Debug)]
pub(crate) struct IdleFigures {
    pub(crate) connections: usize,
    /// KiB for each connection, beyond the memory of the proxy before.
    pub(crate) pss: Option<f64>,
    /// MiB before the first connection.
    pub(crate) base: Option<f64>,
    /// The descriptors for each connection.
    pub(crate) descriptors: Option<f64>,
    /// KiB of the kernel's slabs for each connection. Sockets of the load, of the backend and of other
    /// programs are in this number too.
    pub(crate) kernel: f64,
}
