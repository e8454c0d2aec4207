//! What a reload changes, and why a reload fails.

use std::collections::BTreeMap;
use std::fmt;

use super::build::BuildFault;
use super::own_backends::CycleFault;
use super::source::SourceFault;
use crate::config::{Config, Faults};
use crate::limit::LimitsSpec;
use crate::listener::{BindFault, ListenerSpec};
use crate::pool::PoolSpec;
use crate::snapshot::ListSpec;

/// Why a reload did not happen; the running configuration stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// A new address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// The configuration cannot be built.
    #[error(transparent)]
    Build(#[from] BuildFault),
    /// Connections cannot come from where a pool says.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// A backend leads back to its own pool.
    #[error(transparent)]
    Cycle(#[from] CycleFault),
    /// The file is not good.
    #[error("the configuration has faults:\n{0}")]
    File(Faults),
    /// A file system did not answer for a minute.
    #[error(
        "a file system did not answer within a minute: it has the configuration, a file that the configuration names, or a Unix socket to bind"
    )]
    NoAnswer,
    /// An earlier reload still waits for a file system.
    #[error(
        "an earlier reload still waits for a file system that does not answer: it has the configuration, a file that the configuration names, or a Unix socket to bind"
    )]
    StillWaiting,
    /// The process is about to end.
    #[error("the server is stopping")]
    Stopping,
}

/// What a reload changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners, pools and lists that are new, as `listener NAME`, `pool NAME` or `list NAME`.
    pub added: Vec<String>,
    /// Those that are gone; their connections drain.
    pub removed: Vec<String>,
    /// Those that are different; also `max_connections`, `limits` and `shutdown`.
    pub changed: Vec<String>,
    /// What only a restart can change, and so stayed.
    pub needs_restart: Vec<&'static str>,
}

impl Changes {
    /// Compares two configurations. With a million routes that takes a while, so the control thread must not call it.
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
            ("shutdown", old.shutdown != new.shutdown),
            ("limits", old.limits != LimitsSpec { sources: old.limits.sources, ..new.limits }),
        ];
        changes
            .changed
            .extend(processes.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()));
        let restarts = [
            ("workers", old.workers != new.workers),
            ("admin", old.admin != new.admin),
            ("process", old.landlock != new.landlock),
            ("access_log", old.access_log != new.access_log),
            ("log", old.log != new.log),
            ("limits.sources", old.limits.sources != new.limits.sources),
        ];
        changes.needs_restart =
            restarts.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
        changes
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The spec of one name in a configuration.
#[derive(PartialEq)]
enum NamedSpec<'a> {
    Listener(&'a ListenerSpec),
    Pool(&'a PoolSpec),
    /// Two lists are equal if they name the same file: other entries in the file, perhaps a million, are no change of
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
                write!(f, "{separator}{word} {}", names.join(", "))?;
                separator = "; ";
            }
        }
        if !self.needs_restart.is_empty() {
            write!(f, "{separator}a restart is needed for {}", self.needs_restart.join(", "))?;
        }
        Ok(())
    }
}
