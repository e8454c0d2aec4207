//! The host names at which the checks and agents of a pool ask.

use std::collections::HashMap;
use std::sync::Arc;

use super::Discovery;
use crate::pool::pool_spec::Endpoint;
use crate::pool::probe::CheckEndpoint;

/// The host names at which the checks and agents of a pool ask, each with what is known of it.
#[derive(Debug, Default)]
pub struct CheckNames(pub(super) HashMap<Arc<str>, Arc<Discovery>>);

impl CheckNames {
    /// Returns the endpoint with what is known of its host name, if it has one.
    pub(in crate::pool) fn asked(&self, endpoint: Endpoint) -> CheckEndpoint {
        let host = match &endpoint {
            Endpoint::Name { name, .. } => self.0.get(name).cloned(),
            Endpoint::Address(_) => None,
        };
        CheckEndpoint::new(endpoint, host)
    }
}
