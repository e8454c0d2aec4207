//! Checks whether backends lead back to their own pools through listeners of the same file.

use crate::config::address::BackendAddress;
use crate::config::code::Code;
use crate::config::cycles::Graph;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Backend, File};
use crate::config::findings::Findings;
use crate::listener::ListenerSpec;
use crate::pool::PoolSpec;
use crate::sys::Address;

/// Reports the cycles that exist on any host. `check` may run on another host, so the addresses of interfaces are only
/// used at the start.
pub(super) fn check(file: &File, listeners: &[ListenerSpec], pools: &[PoolSpec], found: &mut Findings<'_>) {
    // A file that was read in part does not show how its listeners and pools belong together.
    if found.has_faults() {
        return;
    }
    let graph = Graph::new(listeners, pools, &[]);
    let mut own: Vec<_> = graph.own_backends().collect();
    own.sort();
    for (pool, address) in own {
        let Some(cycle) = graph.cycle(pool, address) else { continue };
        let path = format!("pool.{pool}.backends");
        let shown = address.known_part();
        let diagnostic = if cycle.is_certain {
            let message = format!("backend {shown} of pool `{pool}` leads back to the pool itself");
            Diagnostic::new(Code::BackendCycle, path, message).help(
                "each client would go through this cycle until the process has no connection left: remove the \
                 backend, or write the address of the intended server",
            )
        } else {
            let message = format!("backend {shown} of pool `{pool}` may lead back to the pool itself");
            Diagnostic::new(Code::PossibleCycle, path, message).help(
                "if no route leads a client out of this cycle, the client goes through it until the process has no \
                 connection left",
            )
        };
        found.add(match place(file, pool, address) {
            Some(place) => diagnostic.label(place, cycle.to_string()),
            None => diagnostic.help(cycle.to_string()),
        });
    }
}

/// Returns the position of a backend in the file.
fn place(file: &File, pool: &str, address: &Address) -> Option<Span> {
    let named = file.pool.value()?.0.iter().find(|named| named.name == pool)?;
    let items = &named.table.as_ref()?.backends.value()?.items;
    let is_it = |words: &Backend| matches!(words.address.value(), Some(BackendAddress::Address(found)) if found == address);
    items.iter().find(|item| is_it(&item.value.0)).map(|item| item.at)
}
