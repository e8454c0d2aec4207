//! What comes before a hello, from its spec to what lives.

use std::collections::HashMap;
use std::sync::Arc;

use super::build::BuildFault;
use crate::snapshot::front::{DetectFront, Front, FrontSpec, Greet, PostgresFront};
use crate::snapshot::{Action, Place, Target, TargetSpec};
use crate::wire::BackendGreeting;

/// Builds a front; `place` finds a pool's place by its name.
pub(super) fn front(
    spec: &FrontSpec,
    place: impl Fn(&Arc<str>) -> Result<Arc<Place>, BuildFault>,
) -> Result<Front, BuildFault> {
    let to = |pool: &Arc<str>, route: &str| {
        Ok(Target { route: route.into(), action: Action::Pool(place(pool)?), limits: None, counts: None })
    };
    let target = |spec: &TargetSpec, route: &str| match spec {
        TargetSpec::Pool(pool) => to(pool, route).map(Some),
        TargetSpec::Reject => Ok(None),
    };
    let named = |names: &[(Arc<str>, Arc<str>)], key: &str| {
        let targets = names
            .iter()
            .map(|(name, pool)| Ok((name.as_bytes().into(), to(pool, &format!("{key}.{name}"))?)));
        targets.collect::<Result<HashMap<Box<[u8]>, Target>, BuildFault>>()
    };
    Ok(match spec {
        FrontSpec::Straight => Front::Straight,
        FrontSpec::Postgres { plaintext, databases, users, cancel, greeting_timeout } => {
            Front::Postgres(Box::new(PostgresFront {
                plaintext: target(plaintext, "plaintext")?,
                databases: named(databases, "databases")?,
                users: named(users, "users")?,
                cancel: target(cancel, "cancel")?,
                greet: Greet { greeting: BackendGreeting::Postgres, timeout: *greeting_timeout },
            }))
        }
        FrontSpec::Starttls { protocol, hostname, greeting_timeout } => Front::Starttls(Box::new(Greet {
            greeting: BackendGreeting::Starttls { protocol: *protocol, name: Arc::clone(hostname) },
            timeout: *greeting_timeout,
        })),
        FrontSpec::Detect(spec) => Front::Detect(Box::new(DetectFront {
            ssh: target(&spec.ssh, "ssh")?,
            http: target(&spec.http, "http")?,
            postgres: target(&spec.postgres, "postgres")?,
            other: target(&spec.other, "other")?,
            on_timeout: target(&spec.on_timeout, "on_timeout")?,
            timeout: spec.timeout,
        })),
    })
}
