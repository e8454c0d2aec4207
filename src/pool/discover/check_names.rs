//! The host names that the checks and agents of a pool connect to.

use std::collections::HashMap;
use std::sync::Arc;

use super::discovery::Discovery;
use crate::pool::check_target::Endpoint;

/// The host names that the checks and agents of a pool connect to, each with the state of its discovery.
#[derive(Debug, Default)]
pub struct CheckNames(pub(super) HashMap<Arc<str>, Arc<Discovery>>);

impl CheckNames {
    /// Returns the state of the discovery of an endpoint's host name, if the endpoint has a host name.
    pub(in crate::pool) fn host(&self, endpoint: &Endpoint) -> Option<Arc<Discovery>> {
        match endpoint {
            Endpoint::Name { name, .. } => self.0.get(name).cloned(),
            Endpoint::Address(_) => None,
        }
    }
}
