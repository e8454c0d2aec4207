//! The changes of a reload, by name, for the log and the status.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::limit::LimitsSpec;
use crate::listener::ListenerSpec;
use crate::pool::{Backend, Pool, PoolSpec};
use crate::snapshot::{ListSpec, Snapshot};

/// The most backends of a pool that a text names. Further backends are only counted.
const NAMED: usize = 20;

/// The changes of a reload, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The new listeners, pools and lists, as `listener NAME`, `pool NAME` or `list NAME`.
    pub added: Vec<String>,
    /// The removed listeners, pools and lists. Their connections drain.
    pub removed: Vec<String>,
    /// The changed listeners, pools and lists; also `max_connections`, `ready_needs`, `limits`, `shutdown`, `access_log` and `log`.
    pub changed: Vec<String>,
    /// The keys that differ but keep their values, as only a restart can change them.
    pub needs_restart: Vec<&'static str>,
    /// Details of removed or changed listeners and pools, by the names above.
    details: BTreeMap<String, ChangeDetail>,
}

/// The changes of the connections and backends of one listener or pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChangeDetail {
    /// The open connections of a removed listener.
    open: Option<u64>,
    /// The new backends.
    added: Vec<String>,
    /// The removed backends, with their open connections.
    removed: Vec<String>,
    /// The changed backends.
    changed: Vec<String>,
}

impl Changes {
    /// Compares two configurations. A million routes take a while, so the control thread must not call it.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut changes = Self::default();
        let (before, after) = (named(old), named(new));
        for (name, spec) in &after {
            match before.get(name) {
                None => changes.added.push(name.clone()),
                Some(was) if was != spec => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed = before.into_keys().filter(|name| !after.contains_key(name)).collect();
        let processes = [
            ("max_connections", old.max_connections != new.max_connections),
            ("ready_needs", old.ready != new.ready),
            ("shutdown", old.shutdown != new.shutdown),
            ("access_log", old.access_log != new.access_log),
            ("log", old.log != new.log),
            ("limits", old.limits != LimitsSpec { sources: old.limits.sources, ..new.limits }),
        ];
        changes
            .changed
            .extend(processes.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()));
        let restarts = [
            ("workers", old.workers != new.workers),
            ("admin", old.admin != new.admin),
            ("process", old.landlock != new.landlock),
            ("handover", old.handover != new.handover),
            ("limits.sources", old.limits.sources != new.limits.sources),
        ];
        changes.needs_restart =
            restarts.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
        changes
    }

    /// Finds the changes of backends, and the open connections of removed listeners and backends.
    pub(super) fn add_details(&mut self, old: &Snapshot, new: &Snapshot) {
        for policy in old.policies.values() {
            let name = format!("listener {}", policy.listener);
            if self.removed.contains(&name) {
                self.details.insert(
                    name,
                    ChangeDetail { open: Some(policy.gate.inside()), ..ChangeDetail::default() },
                );
            }
        }
        for (name, served) in &old.pools {
            let after = new.pools.get(name);
            if after.is_some_and(|after| Arc::ptr_eq(after, served)) {
                continue;
            }
            let detail = ChangeDetail::of(&served.pool, after.map(|after| &*after.pool));
            if detail != ChangeDetail::default() {
                self.details.insert(format!("pool {name}"), detail);
            }
        }
    }

    /// Returns true if nothing is different.
    pub fn is_empty(&self) -> bool {
        // Overrides of operators may differ between two snapshots of one configuration: they are in the details only.
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.needs_restart.is_empty()
    }
}

impl ChangeDetail {
    /// Compares the backends of a pool. `after` is `None` for a removed pool.
    fn of(before: &Pool, after: Option<&Pool>) -> Self {
        let other = |pool: Option<&Pool>, backend: &Backend| {
            pool.and_then(|pool| pool.backend(backend.name()).filter(|other| other.is_same(backend)).cloned())
        };
        let specs: HashMap<_, _> = before.spec().backends.iter().map(|spec| (&spec.name, spec)).collect();
        let mut detail = Self::default();
        for backend in before.backends() {
            if other(after, backend).is_none() {
                detail.removed.push(format!("{} ({} open)", backend.name(), backend.active()));
            }
        }
        let Some(after) = after else { return detail };
        for (backend, spec) in after.backends().iter().zip(&after.spec().backends) {
            match other(Some(before), backend) {
                None => detail.added.push(backend.name().to_string()),
                Some(_) if specs.get(&spec.name).is_some_and(|was| *was != spec) => {
                    detail.changed.push(backend.name().to_string());
                }
                Some(_) => {}
            }
        }
        detail
    }
}

impl fmt::Display for ChangeDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(open) = self.open {
            write!(f, "{open} open")?;
            separator = "; ";
        }
        for (word, names) in [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)]
        {
            if !names.is_empty() {
                write!(
                    f,
                    "{separator}{word} {}",
                    names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ")
                )?;
                if names.len() > NAMED {
                    write!(f, " and {} more", names.len() - NAMED)?;
                }
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// The spec of one name in a configuration.
#[derive(PartialEq)]
enum NamedSpec<'a> {
    Listener(&'a ListenerSpec),
    Pool(&'a PoolSpec),
    /// Two lists are equal if they name the same file. Other entries in the file, perhaps a million, are no change of
    /// the configuration.
    List(&'a ListSpec),
}

fn named(config: &Config) -> BTreeMap<String, NamedSpec<'_>> {
    let listeners =
        config.listeners.iter().map(|spec| (format!("listener {}", spec.name), NamedSpec::Listener(spec)));
    let pools = config.pools.iter().map(|spec| (format!("pool {}", spec.name), NamedSpec::Pool(spec)));
    let lists = config.lists.iter().map(|spec| (format!("list {}", spec.name), NamedSpec::List(spec)));
    listeners.chain(pools).chain(lists).collect()
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut separator = "";
        for (word, names) in [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)]
        {
            if !names.is_empty() {
                let names = names.iter().map(|name| match self.details.get(name) {
                    Some(detail) => format!("{name} [{detail}]"),
                    None => name.clone(),
                });
                write!(f, "{separator}{word} {}", names.collect::<Vec<_>>().join(", "))?;
                separator = "; ";
            }
        }
        if !self.needs_restart.is_empty() {
            write!(f, "{separator}a restart is needed for {}", self.needs_restart.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, RESTART_KEYS};

    /// The keys as they are written stay those of the start for exactly these keys.
    #[test]
    fn each_key_that_needs_a_restart_is_named_as_in_the_configuration() {
        let with = |keys: &str| {
            let text = format!(
                "{keys}\n[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n"
            );
            config::parse("test.toml", &text).unwrap().0
        };
        let new = with(
            "workers = 77\nadmin.listen = '127.0.0.1:9'\nprocess.landlock = false\nhandover.socket = '/h'\n\
             limits.sources = 8",
        );
        let changes = Changes::between(&with(""), &new);
        assert_eq!(changes.needs_restart, RESTART_KEYS);
        assert!(changes.changed.is_empty(), "{changes}");
    }
}
