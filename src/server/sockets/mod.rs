//! The listening sockets of the process. A new configuration changes all of them or none.
//!
//! A bind of a Unix socket, and the removal of its file, may wait for a file system. So a reload does both on blocking
//! threads: it binds the addresses that [`Sockets::missing`] returns and makes the [`FileChanges`] there.
//!
//! Control has each socket beside the workers. So it can lend the sockets to a successor, stop the workers without
//! closing a socket, and give them the same sockets again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::in_force::InForce;
use super::work::{Work, on_thread};
use crate::config::Config;
use crate::listener::{
    self, BindFault, BindRequest, BoundSockets, InheritedSockets, ListenerSpec, SocketPart,
};
use crate::snapshot::SocketId;
use crate::sys::listen::{self, BindTo, ListenOptions};
use crate::sys::{Address, SocketFile};
use crate::wire::handover::HandedSocket;
use crate::worker::{Worker, WorkerCommand};

/// The time that the removal of socket files may delay the close of their sockets.
const FILES_TIMEOUT: Duration = Duration::from_secs(1);

/// The sockets of one address, which the workers have too.
#[derive(Clone, Debug)]
struct ListeningSocket {
    listener: Arc<str>,
    /// The position in the listener, and the address as configured.
    index: usize,
    bind: Address,
    address: Address,
    /// One for each worker, or more. Workers may share a socket. A socket is closed when control and the workers have
    /// dropped it.
    descriptors: Vec<Arc<OwnedFd>>,
    options: ListenOptions,
    mode: Option<u32>,
    /// The file of a Unix socket, shared by the open sockets and the planned ones. The file is removed with the
    /// last of these sockets.
    file: Option<Arc<SocketFile>>,
}

impl ListeningSocket {
    /// Passes the sockets to the workers. Sets the options before, because another program may have set others, and
    /// because sockets that are bound beside inherited ones do not listen yet.
    fn serve(&mut self, id: &SocketId, workers: &[Worker]) {
        for at in 0..self.descriptors.len() {
            let socket = &self.descriptors[at];
            if let Err(error) = listen::reconfigure(socket, &self.options) {
                tracing::warn!(%error, socket = %id, "the options of a listening socket are not set");
                if listen::address_of(socket).is_err() {
                    // It does not listen. The first socket does, or none does.
                    self.descriptors[at] = Arc::clone(&self.descriptors[0]);
                }
            }
        }
        self.file.iter().for_each(|file| file.own());
        for (socket, worker) in self.descriptors.iter().zip(workers.iter().cycle()) {
            worker.order(WorkerCommand::Listen { id: id.clone(), socket: Arc::clone(socket) });
        }
    }

    /// Returns the description of the sockets for a successor.
    fn handed(&self) -> HandedSocket {
        let identity = self.file.as_ref().map(|file| file.identity());
        HandedSocket {
            part: SocketPart::Listener.word().to_owned(),
            listener: self.listener.to_string(),
            configured: self.bind.to_string(),
            address: self.address.to_string(),
            device: identity.map_or(0, |identity| identity.device),
            inode: identity.map_or(0, |identity| identity.inode),
        }
    }
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
    /// The sockets that the workers do not have yet. If the plan is dropped, they are closed.
    fresh: Vec<SocketId>,
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

/// Binds addresses for `workers` workers, or takes their sockets out of the inherited ones. It may wait for a file
/// system. `ours` are the addresses that are bound already.
///
/// # Errors
///
/// The fault of the first address that cannot be bound and may not be left out. No socket stays bound then.
pub(super) fn bind_missing(
    missing: Vec<MissingSocket>,
    mut ours: Vec<Address>,
    inherited: &mut InheritedSockets,
    workers: usize,
) -> Result<NewSockets, BindFault> {
    // The incumbent has these addresses too, also those that are not in this configuration.
    ours.extend(inherited.addresses(SocketPart::Listener).cloned());
    let mut fresh = NewSockets::new();
    for MissingSocket { id, name, address, mode, to, options, may_leave_out } in missing {
        let request = BindRequest { address: &address, mode, to, options: &options };
        let taken = inherited.take(SocketPart::Listener, &name, &address);
        let bound = match taken.and_then(|inherited| inherited.for_workers(request, workers)) {
            Some(bound) => Ok(bound),
            None => listener::bind(request, &ours, workers),
        };
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
                let (address, descriptors, file) = match (self.open.get(&id), fresh.remove(&id)) {
                    (Some(socket), _) => {
                        (socket.address.clone(), socket.descriptors.clone(), socket.file.clone())
                    }
                    (None, Some(Ok(BoundSockets { address, sockets, file }))) => {
                        plan.fresh.push(id.clone());
                        (address, sockets, file.map(Arc::new))
                    }
                    (None, Some(Err(fault))) => {
                        missing.push(fault);
                        continue;
                    }
                    (None, None) => continue,
                };
                let listener = Arc::clone(&spec.name);
                let (bind, mode) = (bind.clone(), spec.mode);
                let socket =
                    ListeningSocket { listener, index, bind, address, descriptors, options, mode, file };
                plan.next.insert(id, socket);
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
        for id in plan.fresh.drain(..) {
            if let Some(socket) = self.open.get_mut(&id) {
                socket.serve(&id, workers);
            }
        }
        for (id, mut was) in old {
            let now = self.open.get(&id).map(|socket| socket.options);
            // A removed socket is closed when the last worker drops it.
            was.descriptors.clear();
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

    /// Returns each listening socket with its description, in the order of the configuration. The sockets stay open as
    /// long as the result exists.
    pub(super) fn lend(&self) -> Vec<(HandedSocket, Arc<OwnedFd>)> {
        let mut sockets: Vec<_> = self.open.values().collect();
        sockets.sort_by_key(|socket| (&socket.listener, socket.index));
        let mut lent: Vec<(HandedSocket, Arc<OwnedFd>)> = Vec::new();
        for socket in sockets {
            let begin = lent.len();
            for descriptor in &socket.descriptors {
                if lent[begin..].iter().all(|(_, other)| !Arc::ptr_eq(other, descriptor)) {
                    lent.push((socket.handed(), Arc::clone(descriptor)));
                }
            }
        }
        lent
    }

    /// Makes the workers accept no more connections. The sockets stay open, and clients wait in the kernel's queues. The
    /// returned channel ends when no worker accepts any more.
    pub(super) fn leave(&self, workers: &[Worker]) -> mpsc::Receiver<Infallible> {
        let (left, all_left) = mpsc::channel(1);
        workers.iter().for_each(|worker| worker.order(WorkerCommand::LeaveSockets { left: left.clone() }));
        all_left
    }

    /// Makes the workers accept again after [`Sockets::leave`].
    pub(super) fn resume(&mut self, workers: &[Worker]) {
        self.open.iter_mut().for_each(|(id, socket)| socket.serve(id, workers));
    }

    /// Drops the sockets. A socket stays open as long as a worker or a successor has it.
    pub(super) fn close(&mut self) {
        self.open.values_mut().for_each(|socket| socket.descriptors.clear());
    }

    /// Drops the sockets and leaves the files of Unix sockets to a successor. The workers must have
    /// [left](Self::leave) the sockets.
    pub(super) fn disarm(&mut self) {
        self.close();
        self.open.values_mut().filter_map(|socket| socket.file.take()).for_each(|file| file.disown());
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

#[cfg(test)]
mod tests;
