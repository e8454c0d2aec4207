//! Tries the source addresses of pools on this machine, before a configuration is in force.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::pool::{BackendSpec, DialSource, PoolSpec};
use crate::sys::socket;

/// The mark of the packets that are routed to this process, and the number of their routing table: "pm" in ASCII.
const MARK: u16 = 0x706d;

/// The reason why connections to the backends of a pool cannot have the `source` of the pool.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    /// The process may not use the addresses of clients.
    #[error(
        "pool `{pool}` has source = \"client\", which the kernel does not allow: {source}; the process needs \
         CAP_NET_ADMIN or CAP_NET_RAW: set AmbientCapabilities= in its systemd unit, or run setcap cap_net_admin+ep on \
         the program; a process that started without such a pool has given up these capabilities and needs a restart"
    )]
    Client {
        /// The name of the pool.
        pool: Arc<str>,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error(
        "pool `{pool}` has source = \"{address}\", and no connection can have this source address: {source}; \
         write an address of this machine"
    )]
    Address {
        /// The name of the pool.
        pool: Arc<str>,
        /// The address.
        address: IpAddr,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
}

/// Tries whether connections may have the source addresses of the pools.
pub(super) fn try_sources(config: &Config) -> Result<(), SourceFault> {
    for pool in &config.pools {
        let name = || Arc::clone(&pool.name);
        match pool.dial.source {
            DialSource::Any => {}
            DialSource::Client => {
                socket::may_be_transparent().map_err(|source| SourceFault::Client { pool: name(), source })?
            }
            DialSource::Address(address) => socket::may_come_from(address)
                .map_err(|source| SourceFault::Address { pool: name(), address, source })?,
        }
    }
    Ok(())
}

/// Returns true if the pool has backends of that family, or may get such backends.
fn has_backends_of(pool: &PoolSpec, family: u8) -> bool {
    let is_of = |backend: &BackendSpec| {
        backend.address.tcp().is_some_and(|address| address.ip().to_canonical().is_ipv4() == (family == 4))
    };
    !pool.discover.is_empty() || pool.forward.is_some() || pool.backends.iter().any(is_of)
}

/// Returns a shell script that routes the answers of backends to this process if their destination is a client.
/// The script may run again. It has rules for the families of the backends, and for both families if backends
/// are found later. If no pool needs rules, the script is only a comment.
pub fn tproxy_rules(config: &Config) -> String {
    let concerned = || config.pools.iter().filter(|pool| pool.dial.source == DialSource::Client);
    let pools: Vec<&str> = concerned().map(|pool| &*pool.name).collect();
    if pools.is_empty() {
        return "# No pool has source = \"client\": nothing is needed.\n".to_owned();
    }
    let mut script = format!(
        "#!/bin/sh\n\
         # For source = \"client\" in: {}.\n\
         # Run it as root after each boot. The route of the backends to their clients must lead through this machine.\n\
         set -e\n\
         nft -f - <<'END'\n\
         table inet pointsman\n\
         delete table inet pointsman\n\
         table inet pointsman {{\n\
         \x20   chain answers {{\n\
         \x20       type filter hook prerouting priority mangle; policy accept;\n\
         \x20       meta l4proto tcp socket transparent 1 meta mark set {MARK:#x}\n\
         \x20   }}\n\
         }}\n\
         END\n",
        pools.join(", ")
    );
    // A family without backends may be off in the kernel, which would then refuse its rules.
    for (family, all) in [(4, "0.0.0.0/0"), (6, "::/0")] {
        if !concerned().any(|pool| has_backends_of(pool, family)) {
            continue;
        }
        _ = write!(
            script,
            "ip -{family} rule del fwmark {MARK:#x} lookup {MARK} 2>/dev/null || true\n\
             ip -{family} rule add fwmark {MARK:#x} lookup {MARK}\n\
             ip -{family} route replace local {all} dev lo table {MARK}\n"
        );
    }
    script
}
