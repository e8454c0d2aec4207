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
    /// Returns the state with this word, or `None` for an unknown word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Ready, Self::Drain, Self::Maintenance].into_iter().find(|state| state.word() == word)
    }
}
