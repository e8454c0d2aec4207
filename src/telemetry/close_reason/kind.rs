//! Close reasons grouped into a few kinds, for pools and backends, of which there are many.

use super::CloseReason;

/// The kind of end of a connection, as its pool and its backend count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseKind {
    /// Both sides finished.
    Fin,
    /// The client reset the connection.
    ClientReset,
    /// The backend reset the connection.
    BackendReset,
    /// A side no longer answered, or took no byte for its stall timeout.
    Lost,
    /// No byte moved for the idle timeout, or for the half-closed timeout after a half-close.
    Timeout,
    /// The backend refused the connection, or refused TLS.
    Refused,
    /// The backend could not be connected in time or at all, or did not begin TLS.
    Unreachable,
    /// No backend was tried, or this host could not try one.
    Unavailable,
    /// The client left before a backend was connected.
    ClientGone,
    /// This program closed the connection: at the end of a drain, because its backend went down, by an
    /// order of an operator, or by a fault.
    Closed,
}

impl CloseKind {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 10] = [
        Self::Fin,
        Self::ClientReset,
        Self::BackendReset,
        Self::Lost,
        Self::Timeout,
        Self::Refused,
        Self::Unreachable,
        Self::Unavailable,
        Self::ClientGone,
        Self::Closed,
    ];

    /// Returns the value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unavailable => "unavailable",
            Self::ClientGone => "client_gone",
            Self::Closed => "closed",
        }
    }

    /// Returns the kind of a reason. A connection that is refused before its pool is known counts at no pool.
    pub const fn of(reason: CloseReason) -> Self {
        use CloseReason as Reason;
        match reason {
            Reason::ClientFin | Reason::BackendFin => Self::Fin,
            Reason::ClientReset => Self::ClientReset,
            Reason::BackendReset => Self::BackendReset,
            Reason::ClientVanished
            | Reason::BackendVanished
            | Reason::ClientStalled
            | Reason::BackendStalled => Self::Lost,
            Reason::IdleTimeout | Reason::HalfClosedTimeout => Self::Timeout,
            Reason::ConnectRefused | Reason::BackendRefusedTls => Self::Refused,
            Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::GreetingTimeout
            | Reason::GreetingFailed => Self::Unreachable,
            Reason::ClientGone => Self::ClientGone,
            Reason::BackendDown
            | Reason::SniMismatch
            | Reason::DrainDeadline
            | Reason::ClosedByOperator
            | Reason::Rebalanced
            | Reason::Internal => Self::Closed,
            _ => Self::Unavailable,
        }
    }
}
