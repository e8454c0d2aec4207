//! Finds listeners that would be open proxies: each machine that can connect could reach each host.

use std::sync::Arc;

use crate::config::code::Code;
use crate::config::fault::Diagnostic;
use crate::config::file::Listener;
use crate::config::findings::Findings;
use crate::config::read::{Key, NamedTable, NamedTables};
use crate::listener::ListenerSpec;
use crate::pool::{ForwardTo, PoolSpec};
use crate::snapshot::{ActionSpec, DetectSpec, OpeningSpec, ProtocolSpec, RouteSpec, TargetSpec};

/// Adds a fault for each listener that others than this machine can reach, that admits every source, and that leads to a
/// pool whose rules allow every host.
pub(super) fn check(
    written: &Key<NamedTables<Listener>>,
    listeners: &[ListenerSpec],
    pools: &[PoolSpec],
    found: &mut Findings<'_>,
) {
    for NamedTable { name, place, .. } in written.value().map_or(&[][..], |named| &named.0) {
        let Some(listener) = listeners.iter().find(|listener| *listener.name == **name) else { continue };
        if !admits_all_sources(listener) {
            continue;
        }
        let Some(pool) = pools_of_all_sources(listener, pools).find(|pool| is_open(pool)) else { continue };
        let pool = &pool.name;
        let message = format!(
            "listener `{name}` would be an open proxy: each machine that can connect could reach every host through pool \
             `{pool}`, in the name of this machine"
        );
        let fault = Diagnostic::new(Code::OpenProxy, format!("listener.{name}.allow"), message);
        found.add(
            fault
                .label(*place, "it has no `allow`, and not only this machine can connect")
                .help("limit the sources: allow = [\"10.0.0.0/8\"] in the listener")
                .help(format!(
                    "or limit the hosts: allow = [\"*.example.org\"] in the `forward` of pool `{pool}`"
                )),
        );
    }
}

/// Returns true if other machines can connect, and `allow` limits no sources.
fn admits_all_sources(listener: &ListenerSpec) -> bool {
    let is_reached = listener
        .binds
        .iter()
        .any(|address| address.tcp().is_some_and(|tcp| !tcp.ip().to_canonical().is_loopback()));
    is_reached && listener.policy.access.as_ref().is_none_or(|access| access.allow.is_none())
}

/// Returns the pools that a client of any source may come to. A file with routes may lead to any pool.
fn pools_of_all_sources<'p>(
    listener: &ListenerSpec,
    pools: &'p [PoolSpec],
) -> impl Iterator<Item = &'p PoolSpec> {
    let policy = &listener.policy;
    let has_file = policy.routes_file.is_some() && matches!(policy.protocol, ProtocolSpec::Tunnel { .. });
    let mut names: Vec<&Arc<str>> =
        policy.protocol.routes().iter().filter(|route| !has_source(route)).flat_map(pools_of).collect();
    if let ProtocolSpec::Tunnel { pool, .. } = &policy.protocol {
        names.push(pool);
    }
    if let OpeningSpec::Detect(DetectSpec { socks5, connect, .. }) = &policy.opening {
        names.extend([socks5, connect].into_iter().filter_map(|target| match target {
            TargetSpec::Pool(pool) => Some(pool),
            TargetSpec::Reject => None,
        }));
    }
    let names: Vec<Arc<str>> = names.into_iter().map(Arc::clone).collect();
    pools.iter().filter(move |pool| has_file || names.contains(&pool.name))
}

fn has_source(route: &RouteSpec) -> bool {
    route.conditions.as_ref().is_some_and(|conditions| !conditions.source.is_empty())
}

fn pools_of(route: &RouteSpec) -> &[Arc<str>] {
    match &route.action {
        ActionSpec::Pool(pool) => std::slice::from_ref(pool),
        ActionSpec::Split(_, pools) => pools,
        ActionSpec::Reject | ActionSpec::Drop => &[],
    }
}

fn is_open(pool: &PoolSpec) -> bool {
    pool.forward.as_ref().is_some_and(|forward| forward.to == ForwardTo::Requested && forward.rules.is_open())
}
