//! Sockets and snapshots from one configuration to the next, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::build::BuildFault;
use super::own_backends::CycleFault;
use super::source::SourceFault;
use crate::config::{Config, Faults};
use crate::limit::LimitsSpec;
use crate::listener::{self, BindFault, Bound, ListenerSpec, Wanted};
use crate::pool::PoolSpec;
use crate::snapshot::{ListSpec, SocketId};
use crate::sys::listen::ListenOptions;
use crate::sys::{Address, SocketFile};
use crate::worker::{Order, Worker};

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
    /// The file, or one that it names, could not be read to its end for a minute.
    #[error(
        "the configuration, or a file that it names, could not be read within a minute: does its file system hang?"
    )]
    Unread,
    /// The read of an earlier reload has not ended.
    #[error(
        "the configuration, or a file that it names, is still being read for an earlier reload: does its file system hang?"
    )]
    StillReading,
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

/// A listening socket that the workers have.
#[derive(Clone, Debug)]
struct Socket {
    listener: Arc<str>,
    address: Address,
    options: ListenOptions,
    mode: Option<u32>,
    /// The file of a Unix socket, shared by what is open and what is planned; with the last it is removed.
    file: Option<Arc<SocketFile>>,
}

impl Socket {
    fn change_mode(&self) {
        let (Some(file), Some(mode)) = (&self.file, self.mode) else { return };
        if let Err(error) = file.set_mode(mode) {
            tracing::warn!(%error, address = %self.address, "the permissions of a socket stay as they were");
        }
    }
}

/// The listening sockets of the process.
#[derive(Default)]
pub(super) struct Sockets {
    open: BTreeMap<SocketId, Socket>,
    /// Addresses that are left out because this host does not have their family; the log has a warning for each.
    left_out: BTreeSet<Address>,
}

/// What becomes of the sockets when a new configuration comes into force.
pub(super) struct SocketPlan {
    next: BTreeMap<SocketId, Socket>,
    /// Bound already; dropped with the plan, they are closed.
    fresh: Vec<(SocketId, Bound)>,
    left_out: BTreeSet<Address>,
}

impl Sockets {
    /// Binds what is new. Nothing that runs is touched.
    pub(super) fn plan(&self, config: &Config, workers: usize) -> Result<SocketPlan, BindFault> {
        let mut plan = SocketPlan { next: BTreeMap::new(), fresh: Vec::new(), left_out: BTreeSet::new() };
        for spec in &config.listeners {
            let options = spec.options();
            let mut missing: Vec<BindFault> = Vec::new();
            for (place, wanted) in spec.binds.iter().enumerate() {
                let id = SocketId::new(&spec.name, place, wanted);
                let (address, file) = match self.open.get(&id) {
                    Some(socket) => (socket.address.clone(), socket.file.clone()),
                    None => {
                        let ours = self.open.values().chain(plan.next.values());
                        let ours = ours.map(|socket| &socket.address);
                        let bind = Wanted {
                            address: wanted,
                            mode: spec.mode,
                            to: spec.bind_to(),
                            options: &options,
                        };
                        let mut bound = match listener::bind(bind, ours, workers) {
                            Err(fault) if spec.may_leave_out(wanted) && fault.is_of_a_missing_family() => {
                                missing.push(fault);
                                continue;
                            }
                            bound => bound?,
                        };
                        let found = (bound.address.clone(), bound.file.take().map(Arc::new));
                        plan.fresh.push((id.clone(), bound));
                        found
                    }
                };
                let listener = Arc::clone(&spec.name);
                plan.next.insert(id, Socket { listener, address, options, mode: spec.mode, file });
            }
            self.leave_out(missing, spec, &mut plan)?;
        }
        Ok(plan)
    }

    /// Leaves out addresses of `:PORT` whose family this host does not have. If it has neither family, that is a fault.
    fn leave_out(
        &self,
        missing: Vec<BindFault>,
        spec: &ListenerSpec,
        plan: &mut SocketPlan,
    ) -> Result<(), BindFault> {
        let mut ports: Vec<u16> = Vec::new();
        for fault in missing {
            let port = fault.address.tcp().map_or(0, |tcp| tcp.port());
            if ports.contains(&port) {
                return Err(fault);
            }
            ports.push(port);
            if !self.left_out.contains(&fault.address) {
                tracing::warn!(
                    listener = %spec.name, address = %fault.address, error = %fault.source,
                    "this host does not have the family of this address: the address is left out, and `:{port}` listens on the other family"
                );
            }
            plan.left_out.insert(fault.address);
        }
        Ok(())
    }

    /// Hands new sockets to the workers and takes old ones away. The snapshot must be in force already.
    /// What it returns ends when those taken away are closed.
    pub(super) fn carry_out(&mut self, plan: SocketPlan, workers: &[Worker]) -> mpsc::Receiver<Infallible> {
        let (closed, all_closed) = mpsc::channel(1);
        self.left_out = plan.left_out;
        let old = std::mem::replace(&mut self.open, plan.next);
        for (id, bound) in plan.fresh {
            for (worker, socket) in workers.iter().zip(bound.sockets) {
                worker.order(Order::Listen { id: id.clone(), socket });
            }
        }
        for (id, was) in old {
            let now = self.open.get(&id);
            if let Some(now) = now.filter(|now| now.mode != was.mode) {
                now.change_mode();
            }
            let now = now.map(|socket| socket.options);
            // Before its sockets close, so that nobody finds the file and is refused.
            drop(was.file);
            for worker in workers {
                let id = id.clone();
                match now {
                    None => worker.order(Order::StopListening { id, closed: closed.clone() }),
                    Some(options) if options != was.options => {
                        worker.order(Order::Reconfigure { id, options })
                    }
                    Some(_) => {}
                }
            }
        }
        all_closed
    }

    /// Where each listener listens.
    pub(super) fn addresses(&self) -> Addresses {
        addresses(&self.open)
    }

    /// Takes out the files of Unix sockets. Each file is removed when its value is dropped.
    pub(super) fn take_files(&mut self) -> Vec<Arc<SocketFile>> {
        self.open.values_mut().filter_map(|socket| socket.file.take()).collect()
    }
}

impl SocketPlan {
    /// Where each listener will listen.
    pub(super) fn addresses(&self) -> Addresses {
        addresses(&self.next)
    }
}

type Addresses = BTreeMap<Arc<str>, Vec<Address>>;

fn addresses(sockets: &BTreeMap<SocketId, Socket>) -> Addresses {
    let mut addresses = Addresses::new();
    for socket in sockets.values() {
        addresses.entry(Arc::clone(&socket.listener)).or_default().push(socket.address.clone());
    }
    addresses
}
