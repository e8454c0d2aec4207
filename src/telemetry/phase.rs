//! The side that ended a connection, and the phase in which it ended.

/// The side that ended a connection: the side that acted, or that stopped answering at the level of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This program, by a rule, a limit or a deadline of its own.
    Pointsman,
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The connection was accepted, and no byte was read.
    Accept,
    /// The first bytes are being read.
    Hello,
    /// A backend is being chosen and connected.
    Dial,
    /// The relay moves bytes.
    Relay,
}

impl EndedBy {
    /// The word in the access log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Pointsman => "pointsman",
        }
    }
}

impl Phase {
    /// The word in the access log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Hello => "hello",
            Self::Dial => "dial",
            Self::Relay => "relay",
        }
    }
}
