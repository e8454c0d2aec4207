//! Waits for tentative IPv6 addresses. When an interface comes up, the kernel checks that no other host has its
//! address (RFC 4862, 5.4). This takes a second or two. Until then no socket can be bound to the address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::pool::DialSource;
use crate::sys::Address;
use crate::sys::address::{Ipv6State, ipv6_state};

/// The longest wait: several times the duration of the kernel's check with its usual settings.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The time between two queries.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until none of the addresses of a configuration is tentative, but at most 10 s. If an address is still
/// tentative after that, the bind of the address fails and reports the fault.
///
/// # Cancel safety
///
/// Nothing is lost if the future is dropped.
pub async fn wait_for_addresses(config: &Config) {
    let mut tentative = tentative(config);
    if tentative.is_empty() {
        return;
    }
    tracing::info!(
        addresses = ?tentative,
        "the kernel still checks whether other hosts have these addresses (they are tentative); binding waits for at most 10 s"
    );
    let deadline = Instant::now() + LONGEST_WAIT;
    while !tentative.is_empty() && Instant::now() < deadline {
        sleep(PAUSE).await;
        tentative.retain(|address| ipv6_state(*address) == Ipv6State::Tentative);
    }
}

fn tentative(config: &Config) -> BTreeSet<Ipv6Addr> {
    let is_tentative = |address: &Ipv6Addr| ipv6_state(*address) == Ipv6State::Tentative;
    bound(config).filter(is_tentative).collect()
}

/// Returns the IPv6 addresses of a configuration that must be addresses of this host.
fn bound(config: &Config) -> impl Iterator<Item = Ipv6Addr> {
    let listeners = config.listeners.iter().filter(|listener| !listener.free_bind);
    let admin = config.admins().map(|admin| &admin.listen);
    let listen = listeners.flat_map(|listener| &listener.binds).chain(admin);
    let listen = listen.filter_map(Address::tcp).map(|address| address.ip());
    let sources = config.pools.iter().filter_map(|pool| match pool.dial.source {
        DialSource::Address(address) => Some(address),
        DialSource::Any | DialSource::Client => None,
    });
    listen.chain(sources).filter_map(|address| match address {
        IpAddr::V6(address) if !address.is_unspecified() => Some(address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_must_be_there() {
        let text = "access_log.to = 'off'\n[admin]\nlisten = '[::1]:1'\n\
             [listener.a]\nbind = [':2', '[2001:db8::1]:2', '10.0.0.1:3', 'unix:/s']\npool = 'a'\n\
             [listener.b]\nbind = '[2001:db8::2]:2'\npool = 'a'\nfree_bind = true\n\
             [pool.a]\nbackends = ['10.0.0.1:1']\nsource = '2001:db8::3'\n";
        let (config, _) = crate::config::parse("test.toml", text).unwrap();
        let expected: Vec<Ipv6Addr> =
            ["2001:db8::1", "::1", "2001:db8::3"].map(|text| text.parse().unwrap()).into();
        assert_eq!(bound(&config).collect::<Vec<_>>(), expected);
        // None of these addresses is tentative on this host.
        assert!(tentative(&config).is_empty());
    }
}
