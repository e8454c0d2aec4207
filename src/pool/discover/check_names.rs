//! The host names that the checks and agents of a pool connect to.

use std::collections::HashMap;
use std::sync::Arc;

use super::discovery::Discovery;
use crate::pool::probe::CheckEndpoint;
use crate::pool::probe::target::Endpoint;

/// The host names that the checks and agents of a pool connect to, each with the state of its discovery.
#[derive(Debug, Default)]
pub struct CheckNames(pub(super) HashMap<Arc<str>, Arc<Discovery>>);

impl CheckNames {
    /// Returns the endpoint with the discovery state of its host name, if it has a host name.
    pub(in crate::pool) fn asked(&self, endpoint: Endpoint) -> CheckEndpoint {
        let host = match &endpoint {
            Endpoint::Name { name, .. } => self.0.get(name).cloned(),
            Endpoint::Address(_) => None,
        };
        CheckEndpoint::new(endpoint, host)
    }
}
