//! The states of a connection's entry, each changed by its events alone. Pure.

/// The stage of a connection, from its accept to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionStage {
    /// Its first bytes are being read.
    Reading,
    /// On its way to a backend: its first bytes were read, or nothing reads them.
    Connecting,
    /// Its backend is connected.
    Established {
        /// The place in the queue of connections that are closed in turn.
        close: CloseTurn,
    },
    /// It has left this worker.
    Gone,
}

/// The place of a connection in the queue of connections that are closed one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseTurn {
    /// It is in no queue.
    None,
    /// It waits for its turn.
    Queued,
}

impl ConnectionStage {
    /// Returns the stage of a connection whose backend was just connected.
    pub(super) const ESTABLISHED: Self = Self::Established { close: CloseTurn::None };

    /// Returns the stage when the reading of first bytes begins or ends.
    pub(super) fn with_reading(self, reading: bool) -> Self {
        match self {
            Self::Reading | Self::Connecting if reading => Self::Reading,
            Self::Reading | Self::Connecting => Self::Connecting,
            Self::Established { .. } | Self::Gone => self,
        }
    }

    /// Returns the stage with this place in the queue. Only an established connection has a place.
    pub(super) fn with_close(self, close: CloseTurn) -> Self {
        match self {
            Self::Established { .. } => Self::Established { close },
            Self::Reading | Self::Connecting | Self::Gone => self,
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
