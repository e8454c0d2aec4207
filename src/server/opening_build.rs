//! Builds the policies of the messages before a hello from their specs.

use std::collections::HashMap;
use std::sync::Arc;

use super::build_fault::BuildFault;
use crate::relay::RelayOptions;
use crate::snapshot::opening_policy::{
    CancelPolicy, DetectPolicy, GreetingPolicy, OpeningPolicy, PostgresPolicy,
};
use crate::snapshot::{Action, OpeningSpec, PoolSlot, RouteTarget, TargetSpec};
use crate::wire::BackendGreeting;

/// Builds the policy of an opening. `relay` has the relay options of the listener; `pool_slot` returns the slot of a
/// pool.
pub(super) fn build(
    spec: &OpeningSpec,
    relay: &RelayOptions,
    pool_slot: impl Fn(&Arc<str>) -> Result<Arc<PoolSlot>, BuildFault>,
) -> Result<OpeningPolicy, BuildFault> {
    let to = |pool: &Arc<str>, route: &str| {
        Ok(RouteTarget {
            route: route.into(),
            action: Action::Pool(pool_slot(pool)?),
            limits: None,
            counts: None,
        })
    };
    let target = |spec: &TargetSpec, route: &str| match spec {
        TargetSpec::Pool(pool) => to(pool, route).map(Some),
        TargetSpec::Reject => Ok(None),
    };
    let named = |names: &[(Arc<str>, Arc<str>)], key: &str| {
        let targets = names
            .iter()
            .map(|(name, pool)| Ok((name.as_bytes().into(), to(pool, &format!("{key}.{name}"))?)));
        targets.collect::<Result<HashMap<Box<[u8]>, RouteTarget>, BuildFault>>()
    };
    Ok(match spec {
        OpeningSpec::Straight => OpeningPolicy::Straight,
        OpeningSpec::Postgres { plaintext, databases, users, cancel, greeting_timeout } => {
            OpeningPolicy::Postgres(Box::new(PostgresPolicy {
                plaintext: target(plaintext, "plaintext")?,
                databases: named(databases, "databases")?,
                users: named(users, "users")?,
                cancel: target(cancel, "cancel")?.map(|target| CancelPolicy::new(target, relay)),
                greet: GreetingPolicy { greeting: BackendGreeting::Postgres, timeout: *greeting_timeout },
            }))
        }
        OpeningSpec::Starttls { protocol, hostname, greeting_timeout } => {
            OpeningPolicy::Starttls(Box::new(GreetingPolicy {
                greeting: BackendGreeting::Starttls { protocol: *protocol, name: Arc::clone(hostname) },
                timeout: *greeting_timeout,
            }))
        }
        OpeningSpec::Detect(spec) => OpeningPolicy::Detect(Box::new(DetectPolicy {
            socks5: target(&spec.socks5, "socks5")?,
            connect: target(&spec.connect, "connect")?,
            ssh: target(&spec.ssh, "ssh")?,
            http: target(&spec.http, "http")?,
            postgres: target(&spec.postgres, "postgres")?,
            other: target(&spec.other, "other")?,
            on_timeout: target(&spec.on_timeout, "on_timeout")?,
            timeout: spec.timeout,
        })),
    })
}
