//! Backends without a port: each connection goes to the port that its client connected to. They need listeners with a
//! range of ports; with others the port is missing.

use crate::config::address::BackendAddress;
use crate::config::code::Code;
use crate::config::cycles;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{File, Listener};
use crate::config::findings::Findings;
use crate::listener::ListenerSpec;
use crate::pool::{BackendSpec, PoolSpec};

/// Adds a fault for each backend without a port in three cases: no range of ports leads to it, its checks have no
/// port, or its clients have no port.
pub(super) fn check(file: &File, listeners: &[ListenerSpec], pools: &[PoolSpec], found: &mut Findings<'_>) {
    for named in file.pool.value().map_or(&[][..], |pools| &pools.0) {
        let Some(list) = named.table.as_ref().and_then(|words| words.backends.value()) else { continue };
        let mut is_reported = false;
        for item in &list.items {
            let Some(entry) = item.value.0.address.entry() else { continue };
            let host = match &entry.value {
                BackendAddress::Address(address) if address.is_without_port() => address.known_part(),
                BackendAddress::Host(host) if host.port.is_none() => host.to_string(),
                BackendAddress::Address(_) | BackendAddress::Host(_) => continue,
            };
            let path = format!("pool.{}.backends", named.name);
            let leading: Vec<_> = leading(listeners, &named.name).collect();
            if !leading.iter().any(|listener| has_range(file, &listener.name)) {
                found.add(missing(&host, entry.at, path));
                continue;
            }
            if let Some(unix) =
                leading.iter().find(|listener| listener.binds.iter().any(|bind| bind.tcp().is_none()))
            {
                let message = format!(
                    "a backend of pool `{}` has no port, and clients of a Unix socket have no port",
                    named.name
                );
                let fault = Diagnostic::new(Code::BadAddress, &path, message)
                    .label(entry.at, "this backend uses the client's port");
                found.add(
                    fault
                        .help(format!("listener `{}` has a Unix socket: give it a separate pool", unix.name)),
                );
            }
            let spec = pools.iter().find(|pool| *pool.name == *named.name);
            if !is_reported && spec.is_some_and(is_checked_nowhere) {
                is_reported = true;
                let message = format!("the health checks of pool `{}` have no port", named.name);
                let path = format!("pool.{}.health.port", named.name);
                let fault = Diagnostic::new(Code::MissingKey, path, message)
                    .label(entry.at, "it has no port of its own");
                let help = if found.is_of_command_line() { HELP_OF_COMMAND_LINE } else { HELP };
                found.add(fault.help(help));
            }
        }
    }
}

const HELP: &str = "write the port to check: health = { port = 30000 }, or check = \"off\"";
const HELP_OF_COMMAND_LINE: &str = "the command line has no option for checks: write a configuration file, in whose \
                                    pool health.port names the port, or health.check = \"off\"";

fn is_checked_nowhere(spec: &PoolSpec) -> bool {
    let Some(health) = &spec.health else { return false };
    let target = |backend: &BackendSpec| health.target.endpoint(&backend.targets.health, &backend.address);
    let hosts = spec.discover.iter().filter_map(|source| Some(&source.host.as_ref()?.template));
    let mut backends = spec.backends.iter().chain(hosts);
    backends.any(|backend| target(backend).is_some_and(|endpoint| endpoint.is_without_port()))
}

/// Returns the listeners that lead to a pool.
fn leading<'l>(listeners: &'l [ListenerSpec], pool: &str) -> impl Iterator<Item = &'l ListenerSpec> {
    listeners.iter().filter(move |listener| cycles::pools_of(listener).any(|name| **name == *pool))
}

fn has_range(file: &File, listener: &str) -> bool {
    let named = file.listener.value().map_or(&[][..], |listeners| &listeners.0);
    let words = named.iter().find(|named| named.name == listener).and_then(|named| named.table.as_ref());
    words.is_some_and(|Listener { bind, .. }| {
        bind.value().is_some_and(|list| list.0.items.iter().any(|item| item.value.is_range))
    })
}

fn missing(host: &str, at: Span, path: String) -> Diagnostic {
    let example = if host.contains(':') { format!("[{host}]:443") } else { format!("{host}:443") };
    let message = format!("{host:?} is not an address that `{path}` can use");
    Diagnostic::new(Code::BadAddress, path, message)
        .label(at, format!("the port is missing, as in \"{example}\""))
        .help("a backend without a port is for listeners with a range of ports: bind = \":30000-30100\"")
}
