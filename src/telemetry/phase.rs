//! Who ends connections, and how far they had come.

/// Who ended a connection: the side that acted, or that stopped answering at the level of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This program, by a rule, a bound or a deadline of its own.
    Pointsman,
}

/// How far a connection had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Accepted, nothing read yet.
    Accept,
    /// The first bytes are being read.
    Hello,
    /// A backend is being chosen and connected.
    Dial,
    /// Bytes move.
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
