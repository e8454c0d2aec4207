//! Moves bytes both ways until both sides are done.

use std::time::Duration;

/// How a relay works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// Which engine moves the bytes. Default [`EngineChoice::Auto`].
    pub engine: EngineChoice,
    /// Closed when no byte moved either way for so long. Default 1 h.
    pub idle_timeout: Duration,
    /// Closed when one side is finished and the other silent for so long. Default 60 s.
    pub half_closed_timeout: Duration,
    /// After a reset: how long what was already read may still be delivered. Default 1 s.
    pub reset_linger: Duration,
}

/// Which engine moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Copies what is small and splices what streams.
    Auto,
    /// Splices from the first byte.
    Splice,
    /// Copies always.
    Copy,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            idle_timeout: Duration::from_secs(3600),
            half_closed_timeout: Duration::from_secs(60),
            reset_linger: Duration::from_secs(1),
        }
    }
}
