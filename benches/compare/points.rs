//! What a run is made of: who did what in which round, and with what figures.

use clap::ValueEnum;

use crate::peers::Peer;

/// Who takes part: a proxy with so many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entrant {
    pub(crate) peer: Peer,
    pub(crate) workers: usize,
}

impl Entrant {
    /// As the tables call it; its workers are told where not everyone has the same.
    pub(crate) fn name(self, tell_workers: TellWorkers) -> String {
        match tell_workers {
            TellWorkers::No => self.peer.name().to_owned(),
            TellWorkers::Yes => format!("{}, {}", self.peer.name(), count(self.workers)),
        }
    }
}

/// Whether the entrants of a run differ in their workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TellWorkers {
    Yes,
    No,
}

/// So many workers, in words.
pub(crate) fn count(workers: usize) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}

/// With whom an entrant is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// This peer with as many workers.
    Peer(Peer),
    /// The same proxy with so many workers.
    Own(usize),
}

impl Against {
    /// Who stands beside `entrant`.
    pub(crate) fn beside(self, entrant: Entrant) -> Entrant {
        match self {
            Self::Peer(peer) => Entrant { peer, ..entrant },
            Self::Own(workers) => Entrant { workers, ..entrant },
        }
    }

    /// As a column's title calls it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Peer(peer) => peer.name().to_owned(),
            Self::Own(workers) => format!("own with {}", count(workers)),
        }
    }
}

/// What can be measured.
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

/// What happened in one test of one round.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) entrant: Entrant,
    pub(crate) round: usize,
    pub(crate) test: Test,
    pub(crate) errors: u64,
    pub(crate) figures: Figures,
}

#[derive(Clone, Debug)]
pub(crate) enum Figures {
    Flow(Flow),
    Rest(Rest),
}

/// A test in which something moves.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Operations in a second: connections, round trips or bytes. In [`Test::Beside`] they are those of the streams.
    pub(crate) rate: f64,
    /// CPU seconds of the proxy for one operation; `None` without a proxy.
    pub(crate) cpu: Option<f64>,
    /// The calibration's result around the test: larger is a slower machine.
    pub(crate) pace: f64,
    /// Microseconds; `None` for streams.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
}

/// A test in which nothing does.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub(crate) connections: usize,
    /// KiB for each connection, beyond what the proxy had before.
    pub(crate) pss: Option<f64>,
    /// MiB before the first connection.
    pub(crate) base: Option<f64>,
    /// For each connection.
    pub(crate) descriptors: Option<f64>,
    /// KiB of the kernel's slabs for each connection: sockets of the load and the backend are in it too,
    /// and whatever else the machine does.
    pub(crate) kernel: f64,
}
