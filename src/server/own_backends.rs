//! Refuses backends that lead back to their own pools. It uses the addresses of this host.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::config::cycles::{Cycle, Graph};
use crate::pool::{NameOrigin, PoolSpec};
use crate::sys::Address;
use crate::sys::address::of_this_host;

/// The fault of a configuration in which a backend leads back to its own pool for certain.
#[derive(Debug, thiserror::Error)]
#[error(
    "a backend of pool `{pool}` leads back to the pool itself: {cycle}; each client would go through this cycle until \
     the process has no connection left, so this configuration is not in force: remove the backend, or write the \
     address of the intended server"
)]
pub struct CycleFault {
    /// The pool.
    pool: Arc<str>,
    /// The path back to the pool.
    cycle: Cycle,
}

/// Refuses written backends that lead back to their own pools on this host.
///
/// # Errors
///
/// The first written backend that leads back to its own pool.
pub(super) fn refuse_cycles(config: &Config) -> Result<(), CycleFault> {
    let host = host();
    let graph = Graph::new(&config.listeners, &config.pools, &host);
    let mut own: Vec<_> = graph.own_backends().collect();
    own.sort();
    let mut cycles = own.into_iter().filter_map(|(pool, address)| Some((pool, graph.cycle(pool, address)?)));
    match cycles.find(|(_, cycle)| cycle.is_certain) {
        Some((pool, cycle)) => Err(CycleFault { pool: pool.into(), cycle }),
        None => Ok(()),
    }
}

/// Removes the discovered backends of a pool that lead back to the pool itself. Written addresses stay.
pub(super) fn leave_out_cycles(spec: &mut PoolSpec, config: &Config) {
    let host = host();
    let graph = Graph::new(&config.listeners, &config.pools, &host);
    let name = Arc::clone(&spec.name);
    let is_good = |address: &Address| match graph.cycle(&name, address).filter(|cycle| cycle.is_certain) {
        Some(cycle) => {
            tracing::warn!(pool = %name, backend = address.known_part(), %cycle, "a discovered backend leads back to its own pool and is left out; correct the source that names it");
            false
        }
        None => true,
    };
    spec.backends.retain(|backend| backend.origin == NameOrigin::Configuration || is_good(&backend.address));
}

/// Returns the addresses of this host, or none if the kernel does not report them. Loopback addresses need no entry.
fn host() -> Vec<IpAddr> {
    of_this_host().unwrap_or_default()
}
