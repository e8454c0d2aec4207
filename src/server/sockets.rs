//! The listening sockets of the process. A new configuration changes all of them or none.
//!
//! A bind of a Unix socket, and the removal of its file, may wait for a file system. So a reload does both on blocking
//! threads: it binds the addresses that [`Sockets::missing`] returns and makes the [`FileChanges`] there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::in_force::InForce;
use super::work::{Work, on_thread};
use crate::config::Config;
use crate::listener::{self, BindFault, BindRequest, BoundSockets, ListenerSpec};
use crate::snapshot::SocketId;
use crate::sys::listen::{BindTo, ListenOptions};
use crate::sys::{Address, SocketFile};
use crate::worker::{Worker, WorkerCommand};

/// The time that the removal of socket files may delay the close of their sockets.
const FILES_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket that the workers have.
#[derive(Clone, Debug)]
struct ListeningSocket {
    listener: Arc<str>,
    address: Address,
    options: ListenOptions,
    mode: Option<u32>,
    /// The file of a Unix socket, shared by the open sockets and the planned ones. The file is removed with the
    /// last of these sockets.
    file: Option<Arc<SocketFile>>,
}

/// The listening sockets of the process.
#[derive(Default)]
pub(super) struct Sockets {
    open: BTreeMap<SocketId, ListeningSocket>,
    /// The addresses that are left out because this host does not have their family. The log has a warning for each.
    left_out: BTreeSet<Address>,
}

/// The sockets of a new configuration, before it comes into force.
#[derive(Default)]
pub(super) struct SocketPlan {
    next: BTreeMap<SocketId, ListeningSocket>,
    /// The sockets that are bound already. If the plan is dropped, they are closed.
    fresh: Vec<(SocketId, BoundSockets)>,
    left_out: BTreeSet<Address>,
}

/// An address that is to be bound.
pub(super) struct MissingSocket {
    id: SocketId,
    /// The name of its listener.
    name: Arc<str>,
    address: Address,
    mode: Option<u32>,
    to: BindTo,
    options: ListenOptions,
    may_leave_out: bool,
}

/// The sockets of new addresses, or the fault of an address that may be left out.
pub(super) type NewSockets = BTreeMap<SocketId, Result<BoundSockets, BindFault>>;

/// Binds addresses for `workers` workers. It may wait for a file system. `ours` are the addresses that are bound
/// already.
///
/// # Errors
///
/// The fault of the first address that cannot be bound and may not be left out. No socket stays bound then.
pub(super) fn bind_missing(
    missing: Vec<MissingSocket>,
    mut ours: Vec<Address>,
    workers: usize,
) -> Result<NewSockets, BindFault> {
    let mut fresh = NewSockets::new();
    for MissingSocket { id, name, address, mode, to, options, may_leave_out } in missing {
        let request = BindRequest { address: &address, mode, to, options: &options };
        let bound = listener::bind(request, &ours, workers);
        let bound = match bound.map_err(|fault| fault.of_listener(&name)) {
            Err(fault) if may_leave_out && fault.is_of_a_missing_family() => Err(fault),
            bound => {
                let bound = bound?;
                ours.push(bound.address.clone());
                Ok(bound)
            }
        };
        fresh.insert(id, bound);
    }
    Ok(fresh)
}

impl Sockets {
    /// Returns the addresses of a configuration that are not bound yet.
    pub(super) fn missing(&self, config: &Config) -> Vec<MissingSocket> {
        let mut missing = Vec::new();
        for spec in &config.listeners {
            for (index, bind) in spec.binds.iter().enumerate() {
                let id = SocketId::new(&spec.name, index, bind);
                if !self.open.contains_key(&id) {
                    missing.push(MissingSocket {
                        id,
                        name: Arc::clone(&spec.name),
                        address: bind.clone(),
                        mode: spec.mode,
                        to: spec.bind_to(),
                        options: spec.options(),
                        may_leave_out: spec.may_leave_out(bind),
                    });
                }
            }
        }
        missing
    }

    /// Returns the addresses that are bound.
    pub(super) fn bound(&self) -> Vec<Address> {
        self.open.values().map(|socket| socket.address.clone()).collect()
    }

    /// Plans the sockets of a configuration. `fresh` holds the sockets of all [missing](Self::missing) addresses. Open
    /// sockets do not change.
    pub(super) fn plan(&self, config: &Config, mut fresh: NewSockets) -> Result<SocketPlan, BindFault> {
        let mut plan = SocketPlan::default();
        for spec in &config.listeners {
            let options = spec.options();
            let mut missing: Vec<BindFault> = Vec::new();
            for (index, bind) in spec.binds.iter().enumerate() {
                let id = SocketId::new(&spec.name, index, bind);
                let (address, file) = match (self.open.get(&id), fresh.remove(&id)) {
                    (Some(socket), _) => (socket.address.clone(), socket.file.clone()),
                    (None, Some(Ok(mut bound))) => {
                        let found = (bound.address.clone(), bound.file.take().map(Arc::new));
                        plan.fresh.push((id.clone(), bound));
                        found
                    }
                    (None, Some(Err(fault))) => {
                        missing.push(fault);
                        continue;
                    }
                    (None, None) => continue,
                };
                let listener = Arc::clone(&spec.name);
                plan.next.insert(id, ListeningSocket { listener, address, options, mode: spec.mode, file });
            }
            self.leave_out(missing, spec, &mut plan)?;
        }
        Ok(plan)
    }

    /// Leaves out addresses of `:PORT` whose family this host does not have. If the host has neither family,
    /// this is a fault.
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

    /// Takes out the files of Unix sockets that a plan does not keep, and returns them with the permissions
    /// that the plan changes.
    pub(super) fn file_changes(&mut self, plan: &SocketPlan) -> FileChanges {
        let mut changes = FileChanges::default();
        for (id, was) in &mut self.open {
            let Some(file) = &was.file else { continue };
            match plan.next.get(id) {
                None => changes.removed.extend(was.file.take()),
                Some(now) if now.mode != was.mode => {
                    changes.modes.extend(now.mode.map(|mode| (Arc::clone(file), mode)));
                }
                Some(_) => {}
            }
        }
        changes
    }

    /// Passes new sockets to the workers and removes old ones. The returned channel ends when the removed sockets are
    /// closed. `_` is the proof that the snapshot with the policies of the new sockets is in force.
    pub(super) fn carry_out(
        &mut self,
        mut plan: SocketPlan,
        workers: &[Worker],
        _: &InForce,
    ) -> mpsc::Receiver<Infallible> {
        let (closed, all_closed) = mpsc::channel(1);
        self.left_out = std::mem::take(&mut plan.left_out);
        let old = std::mem::replace(&mut self.open, std::mem::take(&mut plan.next));
        for (id, bound) in plan.fresh.drain(..) {
            for (worker, socket) in workers.iter().zip(bound.sockets) {
                worker.order(WorkerCommand::Listen { id: id.clone(), socket });
            }
        }
        for (id, was) in old {
            let now = self.open.get(&id).map(|socket| socket.options);
            for worker in workers {
                let id = id.clone();
                match now {
                    None => worker.order(WorkerCommand::StopListening { id, closed: closed.clone() }),
                    Some(options) if options != was.options => {
                        worker.order(WorkerCommand::Reconfigure { id, options })
                    }
                    Some(_) => {}
                }
            }
        }
        all_closed
    }

    /// Returns the addresses of each listener.
    pub(super) fn addresses(&self) -> Addresses {
        addresses(&self.open)
    }

    /// Takes out the files of Unix sockets. Each file is removed when its value is dropped.
    pub(super) fn take_files(&mut self) -> Vec<Arc<SocketFile>> {
        self.open.values_mut().filter_map(|socket| socket.file.take()).collect()
    }
}

impl SocketPlan {
    /// Returns the addresses that each listener will have.
    pub(super) fn addresses(&self) -> Addresses {
        addresses(&self.next)
    }
}

impl Drop for SocketPlan {
    /// Removes the files of sockets that did not come into force.
    fn drop(&mut self) {
        let sockets = std::mem::take(&mut self.next).into_values();
        let files: Vec<_> = sockets.filter_map(|socket| socket.file).collect();
        match Handle::try_current() {
            Ok(runtime) if !files.is_empty() => drop(runtime.spawn_blocking(move || drop(files))),
            // There is no file, or the process starts and has no control thread yet.
            _ => drop(files),
        }
    }
}

/// The changes of the files of Unix sockets. A file system may not answer, so the control thread must not make them.
#[derive(Default)]
pub(super) struct FileChanges {
    /// Each file is removed when its value is dropped.
    removed: Vec<Arc<SocketFile>>,
    modes: Vec<(Arc<SocketFile>, u32)>,
}

impl FileChanges {
    /// Starts to make the changes on a thread, and waits at most 1 s for them; then they go on without the caller.
    /// Returns `None` if there is nothing to change.
    pub(super) fn make(self) -> Option<Work<()>> {
        if self.removed.is_empty() && self.modes.is_empty() {
            return None;
        }
        let making = on_thread(move || self.make_here());
        Some(Work::new(async move { timeout(FILES_TIMEOUT, making).await.unwrap_or_default() }))
    }

    fn make_here(self) {
        for (file, mode) in self.modes {
            if let Err(error) = file.set_mode(mode) {
                tracing::warn!(%error, path = %file.path().display(), "the permissions of a socket stay as they were");
            }
        }
    }
}

type Addresses = BTreeMap<Arc<str>, Vec<Address>>;

fn addresses(sockets: &BTreeMap<SocketId, ListeningSocket>) -> Addresses {
    let mut addresses = Addresses::new();
    for socket in sockets.values() {
        addresses.entry(Arc::clone(&socket.listener)).or_default().push(socket.address.clone());
    }
    addresses
}
