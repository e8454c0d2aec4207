//! The state that the operator demands of a backend.

/// The state that the operator demands of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatorState {
    /// In use, unless a check, an agent or an ejection takes it out.
    #[default]
    Ready,
    /// No new connections; open connections stay.
    Drain,
    /// As drain, and its checks pause: the server may be switched off.
    Maintenance,
}

impl OperatorState {
    /// The word in the file and in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}
