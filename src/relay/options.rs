//! The options of a relay.

use std::sync::Arc;
use std::time::Duration;

use crate::live::PeerTimeouts;

/// The options of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The engine that moves the bytes. Default [`EngineChoice::Auto`].
    pub engine: EngineChoice,
    /// The connection is closed if no byte moved in either direction for this time. Default 1 h.
    pub idle_timeout: Duration,
    /// The connection is closed if one side has finished and the other side was silent for this time. Default
    /// 60 s.
    pub half_closed_timeout: Duration,
    /// After a reset: the time in which bytes that were already read may still be delivered. Default 1 s.
    pub reset_linger: Duration,
    /// The timeouts of a client that does not answer or does not read.
    pub client: PeerTimeouts,
}

/// The choice of the engine that moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Copies small messages and splices streams.
    Auto,
    /// Splices from the first byte.
    Splice,
    /// Always copies.
    Copy,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            idle_timeout: Duration::from_secs(3600),
            half_closed_timeout: Duration::from_secs(60),
            reset_linger: Duration::from_secs(1),
            client: PeerTimeouts::default(),
        }
    }
}

/// The settings of a relay: the options of its listener, and the timeouts of its pool for the backend.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// The options of the listener.
    pub listener: Arc<RelayOptions>,
    /// The timeouts of the pool.
    pub backend: Arc<PeerTimeouts>,
}
