//! The fault of a configuration that cannot be built.

use std::sync::Arc;

/// The fault of a configuration that passed its checks and still cannot be built. It is a fault of pointsman.
#[derive(Debug, thiserror::Error)]
pub enum BuildFault {
    /// No pool has this name.
    #[error("pool `{0}` is not in the configuration")]
    Pool(Arc<str>),
    /// Two routes are equal.
    #[error("two routes of listener `{0}` are equal")]
    Routes(Arc<str>),
    /// No list has this name.
    #[error("list `{0}` is not in the configuration")]
    List(Arc<str>),
}
