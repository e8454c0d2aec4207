//! The failures that clients meet at a backend.

/// A failure of a client at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Trouble {
    /// The connect failed.
    #[error("connects failed")]
    Connect,
    /// The backend reset a connection early, before it had sent a byte.
    #[error("connections were reset at once")]
    EarlyReset,
}

impl Trouble {
    /// All troubles, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Connect, Self::EarlyReset];

    /// The value of the label `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::EarlyReset => "early_reset",
        }
    }
    /// Returns the trouble with this word, or `None` for an unknown word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trouble| trouble.word() == word)
    }
}
