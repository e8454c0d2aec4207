//! The states of a connection's entry, each changed by its events alone. Pure.

use std::collections::BTreeMap;

/// The stage of an open connection, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenStage {
    /// Its first bytes are being read.
    Reading,
    /// It waits for a slot of a backend, in the queue of its pool.
    Queued,
    /// It is on its way to a backend: its first bytes were read, or nothing reads them.
    Dialing,
    /// Its client is being refused.
    Refusing,
    /// Its backend is connected.
    Relaying,
}

impl OpenStage {
    /// Every stage, in the order of a connection's life.
    pub const ALL: [Self; 5] = [Self::Reading, Self::Queued, Self::Dialing, Self::Refusing, Self::Relaying];

    /// The word in the API and in messages between programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Queued => "queued",
            Self::Dialing => "dialing",
            Self::Refusing => "refusing",
            Self::Relaying => "relaying",
        }
    }
}

/// The numbers of open connections by stage. A stage without connections is missing.
pub type StageCounts = BTreeMap<OpenStage, u64>;

/// The stage of a connection, from its accept to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionStage {
    /// Its first bytes are being read.
    Reading,
    /// On its way to a backend: its first bytes were read, or nothing reads them.
    Connecting {
        /// True while it waits in the queue of a pool.
        is_queued: bool,
    },
    /// Its client is being refused.
    Refusing,
    /// Its backend is connected.
    Established,
    /// It has left this worker.
    Gone,
}

/// The queues in which a connection waits for its turn to be closed. Each cause has a queue of its own, so that the end of
/// one cause changes nothing for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CloseQueues {
    /// True while it waits in the queue of its backend.
    pub(super) has_notice: bool,
    /// The number of orders in whose queues it waits.
    pub(super) orders: u32,
}

impl CloseQueues {
    /// Returns true if it waits in a queue.
    pub(super) fn is_waiting(self) -> bool {
        self.has_notice || self.orders > 0
    }
}

impl ConnectionStage {
    /// The stage of a connection on its way to a backend.
    pub(super) const CONNECTING: Self = Self::Connecting { is_queued: false };

    /// Returns the stage when the reading of first bytes begins or ends.
    pub(super) fn with_reading(self, reading: bool) -> Self {
        match self {
            Self::Reading | Self::Connecting { .. } if reading => Self::Reading,
            Self::Reading => Self::CONNECTING,
            Self::Connecting { .. } | Self::Refusing | Self::Established | Self::Gone => self,
        }
    }

    /// Returns the stage when the wait in a queue begins or ends.
    pub(super) fn with_queued(self, is_queued: bool) -> Self {
        match self {
            Self::Connecting { .. } => Self::Connecting { is_queued },
            Self::Reading | Self::Refusing | Self::Established | Self::Gone => self,
        }
    }

    /// Returns the stage of a connection whose client is to be refused from now on.
    pub(super) fn refused(self) -> Self {
        match self {
            Self::Reading | Self::Connecting { .. } => Self::Refusing,
            Self::Refusing | Self::Established | Self::Gone => self,
        }
    }

    /// Returns the stage as operators see it; `None` once the connection has left this worker.
    pub(super) fn open(self) -> Option<OpenStage> {
        match self {
            Self::Reading => Some(OpenStage::Reading),
            Self::Connecting { is_queued: true } => Some(OpenStage::Queued),
            Self::Connecting { is_queued: false } => Some(OpenStage::Dialing),
            Self::Refusing => Some(OpenStage::Refusing),
            Self::Established => Some(OpenStage::Relaying),
            Self::Gone => None,
        }
    }
}

/// The next check of the peers' acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerCheck {
    /// No check is scheduled. The next byte that moves schedules a check.
    None,
    /// After this number of sweeps, at least 1.
    In(u8),
    /// Now.
    Due,
}

/// Sweeps from the first byte that moves until the relay checks whether the peers have acknowledged it: 5 s.
pub(super) const FIRST_CHECK: u8 = 10;

impl PeerCheck {
    /// Returns the schedule after a sweep that counted `moved` bytes.
    pub(super) fn after_sweep(self, moved: u64) -> Self {
        match self {
            Self::None if moved > 0 => Self::In(FIRST_CHECK),
            Self::None => Self::None,
            Self::In(0 | 1) | Self::Due => Self::Due,
            Self::In(sweeps) => Self::In(sweeps - 1),
        }
    }
}

/// The demand of a relay for ticks, with the age of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TickDemand {
    /// No sweep has counted the connection. The connection may soon be over, so the first sweep sends no tick.
    New {
        /// True if later sweeps are to send a tick.
        wanted: bool,
    },
    /// A sweep has counted the connection.
    Settled {
        /// True if the next sweep is to send a tick.
        wanted: bool,
    },
}

impl TickDemand {
    /// Returns the state in which ticks are wanted or not.
    pub(super) fn with_wanted(self, wanted: bool) -> Self {
        match self {
            Self::New { .. } => Self::New { wanted },
            Self::Settled { .. } => Self::Settled { wanted },
        }
    }

    /// Returns the state after a sweep.
    pub(super) fn after_sweep(self) -> Self {
        let (Self::New { wanted } | Self::Settled { wanted }) = self;
        Self::Settled { wanted }
    }

    /// Returns true if a sweep sends a tick in this state.
    pub(super) fn is_due(self) -> bool {
        self == Self::Settled { wanted: true }
    }
}
