//! The commands to a connection. A connection has one slot for them.

use crate::telemetry::CloseReason;

/// The destination of a connection that leaves its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveTarget {
    /// The worker with this number.
    Worker(u32),
    /// The program that takes over from this one.
    Successor,
}

/// A command to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCommand {
    /// Set late socket options, and check stuck peers.
    Tick,
    /// Write a record of the connection to the access log.
    Log,
    /// Send the state of both sockets to the walk that asks for it.
    Describe,
    /// No byte moved for the time limit.
    Expire,
    /// End for this reason.
    Close(CloseReason),
    /// Go on there.
    Move(MoveTarget),
}

impl ConnectionCommand {
    /// Returns the rank. A waiting command is replaced only by a command of a higher rank. A lost tick or
    /// order to log is sent again. A lost request to describe gets no answer, and its
    /// sender bounds the wait.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Tick => 0,
            Self::Log => 1,
            Self::Describe => 2,
            Self::Move(_) => 3,
            Self::Expire => 4,
            Self::Close(_) => 5,
        }
    }

    /// Returns true for a command that is sent again if another command replaces it.
    pub(super) fn comes_again(self) -> bool {
        matches!(self, Self::Tick | Self::Log)
    }
}
