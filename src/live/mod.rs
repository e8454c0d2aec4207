//! The registry of a worker's connections, with their live counts and a command slot for each.
//!
//! Everything belongs to one worker thread. A sweep at every [`TICK`] replaces a timer and an atomic for each
//! connection: it adds the bytes moved to the shared metrics, notices silence, and wakes a relay only if the
//! relay has work to do. Drain deadlines and closes go through the command slots.
//!
//! A worker that has much more to do than another gives connections away (`loads`). The connections of a
//! backend that is down are closed one after the other (`closing`).

mod closing;
mod loads;
mod peer_timeouts;
mod tallies;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ids::{BackendId, ListenerId};
use crate::limit::Link;
use crate::sys::Address;
use crate::telemetry::{CloseReason, Direction, Engine, ListenerMetrics};
use closing::CloseQueue;
pub use closing::{CloseNotice, ClosePace};
pub use loads::{Loads, WorkerSlot};
pub use peer_timeouts::PeerTimeouts;
pub use tallies::ConnectionTallies;

/// The time between two sweeps. Idle timeouts are exact to this time. Late socket options are set at the
/// second sweep.
pub const TICK: Duration = Duration::from_millis(500);

/// A connection that moves this many bytes in a tick is worth moving to another worker: about 0.5 MiB/s.
const STREAM: u64 = 256 * 1024;

/// A wait that no sweep has counted yet. The first sweep sets it to 0, as if a byte had moved: the sweep may come
/// at once, and a wait must not end too early.
const FRESH: u32 = u32::MAX;

/// Sweeps from the first byte that moves until the relay checks whether the peers have acknowledged it: 5 s.
const LOOK: u8 = 10;

/// A command to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCommand {
    /// Set late socket options, and check stuck peers.
    Tick,
    /// No byte moved for the time limit.
    Expire,
    /// End for this reason.
    Close(CloseReason),
    /// Go on in the worker with this number.
    Move(usize),
}

impl ConnectionCommand {
    /// Returns the rank. A waiting command is replaced only by one of a higher rank. A lost tick is sent
    /// again.
    fn rank(self) -> u8 {
        match self {
            Self::Tick => 0,
            Self::Move(_) => 1,
            Self::Expire => 2,
            Self::Close(_) => 3,
        }
    }
}

/// The most connections that a worker lists: more than any worker has, and a bound for the memory of a list
/// (48 MiB).
const MOST_LISTED: usize = 1 << 20;

/// A connection in the list of those that are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// The client's address; `None` for a client of a Unix socket.
    pub client: Option<IpAddr>,
    /// The private link that it counts for, where its listener counts by links.
    pub link: Option<Arc<Link>>,
    /// Its listener.
    pub listener: ListenerId,
    /// Its backend, if one was picked.
    pub backend: Option<BackendId>,
    /// True while its first bytes are being read.
    pub is_reading: bool,
}

/// The connections of one listener, or those of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionGroup {
    /// Those that were accepted at this listener.
    Listener(ListenerId),
    /// Those whose backend, or last attempt, is this one.
    Backend(BackendId),
}

/// The open connections of a worker. All requests between two sweeps share a list.
pub type OpenConnections = Arc<Vec<OpenConnection>>;

/// One connection in its worker's registry. Held by the registry and by the connection's task.
pub struct ConnectionEntry {
    id: u64,
    listener: ListenerId,
    /// The backend of the last attempt.
    backend: Cell<Option<BackendId>>,
    /// The client's address; `None` for a client of a Unix socket.
    client: Cell<Option<IpAddr>>,
    /// The private link that the connection counts for, if its listener counts by links.
    link: OnceCell<Arc<Link>>,
    /// True while its first bytes are being read.
    reading: Cell<bool>,
    /// The index of this connection in the registry's list.
    slot: Cell<usize>,
    totals: [Cell<u64>; 2],
    dropped: Cell<u64>,
    /// Bytes moved and not yet added to the shared metrics, by direction and engine.
    unflushed: [[Cell<u64>; 2]; 2],
    /// Bytes moved in the last tick.
    recent: Cell<u64>,
    /// Sweeps in a row that counted no byte; [`FRESH`] until the first one.
    quiet: Cell<u32>,
    quiet_limit: Cell<u32>,
    needs_tick: Cell<bool>,
    /// Sweeps until [`ConnectionEntry::look_is_due`]; 0 is never.
    look_in: Cell<u8>,
    look_due: Cell<bool>,
    /// True once a sweep has counted it. A connection younger than a [`TICK`] may soon be over.
    settled: Cell<bool>,
    /// True once its backend is connected.
    established: Cell<bool>,
    /// True once the first byte of its backend was reported.
    reported: Cell<bool>,
    /// True while it waits for its turn to be closed.
    under_notice: Cell<bool>,
    /// True once it has left this worker.
    gone: Cell<bool>,
    command: Cell<Option<ConnectionCommand>>,
    waker: Cell<Option<Waker>>,
    metrics: Arc<ListenerMetrics>,
    tallies: ConnectionTallies,
}

impl ConnectionEntry {
    fn new(id: u64, listener: ListenerId, metrics: Arc<ListenerMetrics>, tallies: ConnectionTallies) -> Self {
        Self {
            id,
            listener,
            backend: Cell::new(None),
            client: Cell::new(None),
            link: OnceCell::new(),
            reading: Cell::new(false),
            slot: Cell::new(0),
            totals: Default::default(),
            dropped: Cell::new(0),
            unflushed: Default::default(),
            recent: Cell::new(0),
            quiet: Cell::new(FRESH),
            quiet_limit: Cell::new(u32::MAX),
            needs_tick: Cell::new(false),
            look_in: Cell::new(0),
            look_due: Cell::new(false),
            settled: Cell::new(false),
            established: Cell::new(false),
            reported: Cell::new(false),
            under_notice: Cell::new(false),
            gone: Cell::new(false),
            command: Cell::new(None),
            waker: Cell::new(None),
            metrics,
            tallies,
        }
    }

    /// Returns the counts of its route, pool and backend.
    pub fn tallies(&self) -> &ConnectionTallies {
        &self.tallies
    }

    /// The connection's number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Counts bytes delivered.
    pub fn moved(&self, direction: Direction, engine: Engine, bytes: u64) {
        let total = &self.totals[direction as usize];
        total.set(total.get() + bytes);
        let unflushed = &self.unflushed[direction as usize][engine as usize];
        unflushed.set(unflushed.get() + bytes);
    }

    /// The bytes delivered in one direction since the start.
    pub fn total(&self, direction: Direction) -> u64 {
        self.totals[direction as usize].get()
    }

    /// Counts bytes that were read and could not be delivered.
    pub fn dropped(&self, bytes: u64) {
        self.dropped.set(self.dropped.get() + bytes);
        self.metrics.bytes_dropped.increment(bytes);
    }

    /// The number of bytes that were read and could not be delivered.
    pub fn total_dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Sets the address of its client.
    pub fn set_client(&self, client: &Address) {
        self.client.set(client.tcp().map(|address| address.ip()));
    }

    /// Stores the private link that the connection counts for. The first one stays.
    pub fn counts_for(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    /// The private link that the connection counts for, if its listener counts by links.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.link.get()
    }

    /// Sets whether its first bytes are being read.
    pub fn set_reading(&self, reading: bool) {
        self.reading.set(reading);
    }

    fn listed(&self) -> OpenConnection {
        OpenConnection {
            client: self.client.get(),
            link: self.link.get().cloned(),
            listener: self.listener,
            backend: self.backend.get(),
            is_reading: self.reading.get(),
        }
    }

    /// Makes it a connection of this backend.
    pub fn join(&self, backend: BackendId) {
        self.backend.set(Some(backend));
    }

    /// Returns the groups to which it belongs.
    fn groups(&self) -> impl Iterator<Item = ConnectionGroup> {
        let backend = self.backend.get().map(ConnectionGroup::Backend);
        std::iter::once(ConnectionGroup::Listener(self.listener)).chain(backend)
    }

    /// Marks the backend as connected. From now on the connection can be closed in turn ([`CloseNotice`]).
    /// Before that it may still try another backend.
    pub fn establish(&self) {
        self.established.set(true);
    }

    /// Returns true, once, if the backend has sent bytes.
    pub fn take_first_byte(&self) -> bool {
        !self.reported.get() && self.total(Direction::FromBackend) > 0 && !self.reported.replace(true)
    }

    /// Starts a new wait for silence: [`ConnectionCommand::Expire`] comes after `limit` without a byte.
    pub fn expire_after(&self, limit: Duration) {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis());
        self.quiet.set(FRESH);
        self.quiet_limit.set(u32::try_from(ticks).unwrap_or(u32::MAX));
    }

    /// Sets whether [`ConnectionCommand::Tick`] comes at the next sweep, or at the second sweep of a new
    /// connection.
    pub fn needs_tick(&self, wanted: bool) {
        self.needs_tick.set(wanted);
    }

    /// Schedules the next check of the peers: after this number of sweeps [`ConnectionEntry::look_is_due`] is
    /// true and [`ConnectionCommand::Tick`] comes. If no check is scheduled, a byte that moves schedules one
    /// after `LOOK` sweeps (10).
    pub fn look_again(&self, sweeps: u8) {
        self.look_in.set(sweeps);
    }

    /// Returns true, once, if the relay is to check that the peers acknowledge the bytes sent to them.
    pub fn look_is_due(&self) -> bool {
        self.look_due.take()
    }

    /// Counts a sweep, and returns true if the check is due.
    fn count_to_look(&self, moved: u64) -> bool {
        match self.look_in.get() {
            0 if moved > 0 => self.look_in.set(LOOK),
            0 => {}
            1 => {
                self.look_in.set(0);
                self.look_due.set(true);
            }
            sweeps => self.look_in.set(sweeps - 1),
        }
        self.look_due.get()
    }

    /// Takes the waiting command, or registers for a wakeup by the next one.
    pub fn poll_command(&self, cx: &mut Context<'_>) -> Poll<ConnectionCommand> {
        if let Some(command) = self.command.take() {
            return Poll::Ready(command);
        }
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waker.set(Some(waker));
        Poll::Pending
    }

    /// Waits for [`ConnectionCommand::Close`] and returns its reason.
    ///
    /// # Cancel safety
    ///
    /// No command is lost.
    pub async fn closed(&self) -> CloseReason {
        loop {
            if let ConnectionCommand::Close(reason) = std::future::poll_fn(|cx| self.poll_command(cx)).await {
                return reason;
            }
        }
    }

    fn send_command(&self, command: ConnectionCommand) {
        if self.command.get().is_none_or(|waiting| waiting.rank() < command.rank()) {
            self.command.set(Some(command));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Adds the bytes moved to the shared counters. Returns their number.
    fn flush(&self) -> u64 {
        let mut sum = 0;
        for direction in Direction::ALL {
            let mut both = 0;
            for engine in Engine::ALL {
                let bytes = self.unflushed[direction as usize][engine as usize].take();
                if bytes > 0 {
                    self.metrics.bytes(direction, engine).increment(bytes);
                    both += bytes;
                }
            }
            if both > 0 {
                self.tallies.moved(direction, both);
                sum += both;
            }
        }
        sum
    }

    /// Counts a sweep, and returns the bytes moved since the last one.
    fn sweep(&self) -> u64 {
        let moved = self.flush();
        self.recent.set(moved);
        let quiet = if moved > 0 { 0 } else { self.quiet.get().wrapping_add(1) };
        self.quiet.set(quiet);
        let settled = self.settled.replace(true);
        let look = self.count_to_look(moved);
        if quiet >= self.quiet_limit.get() {
            self.send_command(ConnectionCommand::Expire);
        } else if (settled && self.needs_tick.get()) || look {
            self.send_command(ConnectionCommand::Tick);
        }
        moved
    }
}

/// The connections of one worker.
pub struct ConnectionRegistry {
    entries: RefCell<Vec<Rc<ConnectionEntry>>>,
    /// The connections that are closed in turn, by their backend.
    closings: RefCell<HashMap<BackendId, Rc<CloseQueue>>>,
    loads: Arc<Loads>,
    worker: usize,
    emptied: tokio::sync::Notify,
    /// The channels to which the next sweep sends the list of connections.
    listings: RefCell<Vec<oneshot::Sender<OpenConnections>>>,
}

impl ConnectionRegistry {
    /// Returns the empty registry of a worker.
    pub fn new(loads: Arc<Loads>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            entries: RefCell::default(),
            closings: RefCell::default(),
            loads,
            worker,
            emptied: tokio::sync::Notify::new(),
            listings: RefCell::default(),
        })
    }

    /// Takes a seat at this worker.
    pub fn worker_slot(&self) -> WorkerSlot {
        WorkerSlot::take(&self.loads, self.worker)
    }

    /// Takes a seat at another worker, if this one has too many connections.
    pub fn worker_slot_elsewhere(&self) -> Option<(usize, WorkerSlot)> {
        let worker = self.loads.less_loaded(self.worker)?;
        Some((worker, self.worker_slot_at(worker)))
    }

    /// Takes a seat at the worker with this number.
    pub fn worker_slot_at(&self, worker: usize) -> WorkerSlot {
        WorkerSlot::take(&self.loads, worker)
    }

    /// Adds a connection of a listener. It is removed when the guard is dropped.
    pub fn register(
        self: &Rc<Self>,
        id: u64,
        listener: ListenerId,
        worker_slot: WorkerSlot,
        metrics: Arc<ListenerMetrics>,
    ) -> RegistryGuard {
        self.enter(ConnectionEntry::new(id, listener, metrics, ConnectionTallies::default()), worker_slot)
    }

    /// Adds a connection that comes from another worker.
    pub fn readmit(self: &Rc<Self>, migrating: MigratingEntry, worker_slot: WorkerSlot) -> RegistryGuard {
        let entry =
            ConnectionEntry::new(migrating.id, migrating.listener, migrating.metrics, migrating.tallies);
        entry.backend.set(migrating.backend);
        entry.client.set(migrating.client);
        migrating.link.into_iter().for_each(|link| entry.counts_for(link));
        entry.dropped.set(migrating.dropped);
        for (total, before) in entry.totals.iter().zip(migrating.totals) {
            total.set(before);
        }
        // Only connected connections migrate, and the other worker has reported the first byte.
        entry.establish();
        entry.take_first_byte();
        self.enter(entry, worker_slot)
    }

    fn enter(self: &Rc<Self>, entry: ConnectionEntry, worker_slot: WorkerSlot) -> RegistryGuard {
        let entry = Rc::new(entry);
        let mut entries = self.entries.borrow_mut();
        entry.slot.set(entries.len());
        entries.push(Rc::clone(&entry));
        // From now on the guard counts the connection.
        self.loads.arrive(self.worker);
        drop(worker_slot);
        RegistryGuard { registry: Rc::clone(self), entry }
    }

    /// The number of open connections.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Returns true if no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sweeps every connection once. The worker calls it at each [`TICK`].
    pub fn sweep(&self) {
        let entries = self.entries.borrow();
        let moved = match self.listings.take() {
            none if none.is_empty() => entries.iter().map(|entry| entry.sweep()).sum(),
            listings => {
                let mut listed = Vec::with_capacity(entries.len().min(MOST_LISTED));
                let sweep = |entry: &Rc<ConnectionEntry>| {
                    if listed.len() < MOST_LISTED {
                        listed.push(entry.listed());
                    }
                    entry.sweep()
                };
                let moved = entries.iter().map(sweep).sum();
                let listed = Arc::new(listed);
                listings.into_iter().for_each(|to| _ = to.send(Arc::clone(&listed)));
                moved
            }
        };
        drop(entries);
        self.loads.moved(self.worker, moved);
        self.give_notice();
    }

    /// Sends the list of open connections with the next sweep, which visits each of them anyway.
    pub fn list(&self, to: oneshot::Sender<OpenConnections>) {
        self.listings.borrow_mut().push(to);
    }

    /// Closes the established connections of a backend one after the other, and also later ones, until the
    /// notice is withdrawn.
    ///
    /// # Panics
    ///
    /// On a thread without an executor.
    pub fn close_in_turn(&self, notice: Arc<CloseNotice>) {
        let backend = notice.backend();
        if let Some(earlier) = self.closings.borrow_mut().insert(backend, CloseQueue::new(notice)) {
            earlier.clear();
        }
        self.give_notice();
    }

    /// Queues the connections that have not been given notice yet.
    fn give_notice(&self) {
        let mut closings = self.closings.borrow_mut();
        if closings.is_empty() {
            return;
        }
        closings.retain(|_, closing| {
            if closing.is_over() {
                closing.clear();
            }
            !closing.is_over()
        });
        for entry in self.entries.borrow().iter() {
            if entry.established.get()
                && !entry.under_notice.get()
                && let Some(backend) = entry.backend.get()
                && let Some(closing) = closings.get(&backend)
            {
                closing.add(entry);
            }
        }
        closings.values().for_each(CloseQueue::run);
    }

    /// Moves some streams to a worker that moves far fewer bytes, if there is one.
    ///
    /// A stream that is blocked most of the time moves too: the command to move replaces the tick that it
    /// waits for, and the other worker sends the tick again. A stream moves only if it does not carry more
    /// than the amount that evens both workers out. So the only stream of a worker stays, and no stream moves
    /// back and forth.
    pub fn give_streams_away(&self) {
        let Some((worker, mut surplus)) = self.loads.less_busy(self.worker) else { return };
        for entry in self.entries.borrow().iter() {
            let recent = entry.recent.get();
            let is_free = matches!(entry.command.get(), None | Some(ConnectionCommand::Tick));
            if is_free && recent >= STREAM && recent <= surplus {
                surplus -= recent;
                entry.send_command(ConnectionCommand::Move(worker));
            }
        }
    }

    /// Closes every connection, as the time of the drain is over.
    pub fn close_all(&self) {
        for entry in self.entries.borrow().iter() {
            entry.send_command(ConnectionCommand::Close(CloseReason::DrainDeadline));
        }
    }

    /// Closes the connections of these listeners and backends for the same reason.
    pub fn close_groups(&self, groups: &[ConnectionGroup]) {
        // Discovery may remove thousands of backends at once, while as many connections are open.
        let groups: HashSet<ConnectionGroup> = groups.iter().copied().collect();
        for entry in self.entries.borrow().iter() {
            if entry.groups().any(|group| groups.contains(&group)) {
                entry.send_command(ConnectionCommand::Close(CloseReason::DrainDeadline));
            }
        }
    }

    /// Returns true if a connection is at this worker or on its way to it.
    pub fn worker_slots_taken(&self) -> bool {
        self.loads.connections(self.worker) > 0
    }

    /// Waits until the last connection of the registry has been removed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; check [`ConnectionRegistry::is_empty`] and call it again.
    pub async fn emptied(&self) {
        self.emptied.notified().await;
    }

    fn remove(&self, entry: &ConnectionEntry) {
        let mut entries = self.entries.borrow_mut();
        let slot = entry.slot.get();
        entries.swap_remove(slot);
        if let Some(moved) = entries.get(slot) {
            moved.slot.set(slot);
        }
        if entries.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

/// Keeps a connection in the registry. On drop the connection is removed and its last bytes are counted.
pub struct RegistryGuard {
    registry: Rc<ConnectionRegistry>,
    entry: Rc<ConnectionEntry>,
}

/// The parts of an entry that move to another worker.
#[derive(Debug)]
pub struct MigratingEntry {
    id: u64,
    listener: ListenerId,
    backend: Option<BackendId>,
    client: Option<IpAddr>,
    link: Option<Arc<Link>>,
    totals: [u64; 2],
    dropped: u64,
    metrics: Arc<ListenerMetrics>,
    tallies: ConnectionTallies,
}

impl RegistryGuard {
    /// Takes the connection out of this worker.
    pub fn leave(self) -> MigratingEntry {
        MigratingEntry {
            id: self.entry.id,
            listener: self.entry.listener,
            backend: self.entry.backend.get(),
            client: self.entry.client.get(),
            link: self.entry.link.get().cloned(),
            totals: [0, 1].map(|at: usize| self.entry.totals[at].get()),
            dropped: self.entry.dropped.get(),
            metrics: Arc::clone(&self.entry.metrics),
            tallies: self.entry.tallies.clone(),
        }
    }

    /// Returns a second handle to the entry, which does not keep the connection in the registry.
    pub fn share(&self) -> Rc<ConnectionEntry> {
        Rc::clone(&self.entry)
    }
}

impl std::ops::Deref for RegistryGuard {
    type Target = ConnectionEntry;

    fn deref(&self) -> &ConnectionEntry {
        &self.entry
    }
}

impl Drop for RegistryGuard {
    fn drop(&mut self) {
        self.entry.flush();
        self.entry.gone.set(true);
        self.registry.remove(&self.entry);
        self.registry.loads.leave(self.registry.worker);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::executor::{Executor, yield_now};
    use crate::telemetry::Metrics;

    const CLOSE: ConnectionCommand = ConnectionCommand::Close(CloseReason::DrainDeadline);

    const LISTENER: ListenerId = ListenerId::nth(0);

    fn command(entry: &ConnectionEntry) -> Option<ConnectionCommand> {
        match entry.poll_command(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(command) => Some(command),
            Poll::Pending => None,
        }
    }

    fn one() -> (Rc<ConnectionRegistry>, RegistryGuard) {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
        (registry, entry)
    }

    #[test]
    fn silence_expires_and_bytes_prolong() {
        let (registry, entry) = one();
        entry.expire_after(TICK * 2);
        registry.sweep();
        assert_eq!(command(&entry), None);
        entry.moved(Direction::FromClient, Engine::Copied, 1);
        registry.sweep();
        registry.sweep();
        assert_eq!(command(&entry), None, "the byte started a new wait");
        registry.sweep();
        assert_eq!(command(&entry), Some(ConnectionCommand::Expire));
        assert_eq!(entry.total(Direction::FromClient), 1);
    }

    /// A sweep may come right after the start of a wait. The time from the start of the wait to this sweep was then
    /// shorter than a tick.
    #[test]
    fn a_wait_is_never_shorter_than_its_limit() {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
        for ticks in 1..4 {
            entry.expire_after(TICK * ticks);
            for _ in 0..ticks {
                registry.sweep();
                assert_eq!(command(&entry), None, "{ticks}");
            }
            registry.sweep();
            assert_eq!(command(&entry), Some(ConnectionCommand::Expire), "{ticks}");
        }
    }

    #[test]
    fn entries_leave_in_any_order() {
        let metrics = Metrics::new().listener("l");
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let mut all: Vec<_> = (0..5)
            .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
            .collect();
        for victim in [0, 2, 0, 1, 0] {
            drop(all.remove(victim));
            registry.close_all();
            for entry in &all {
                assert_eq!(command(entry), Some(CLOSE), "{}", entry.id());
            }
            assert_eq!(registry.len(), all.len());
        }
        assert!(registry.is_empty());
    }

    #[test]
    fn a_connection_younger_than_a_tick_is_left_alone() {
        let (registry, entry) = one();
        entry.needs_tick(true);
        registry.sweep();
        assert_eq!(command(&entry), None);
        registry.sweep();
        assert_eq!(command(&entry), Some(ConnectionCommand::Tick));
    }

    #[test]
    fn a_close_is_not_overwritten_by_a_tick() {
        let (registry, entry) = one();
        registry.sweep();
        entry.needs_tick(true);
        registry.close_all();
        registry.sweep();
        assert_eq!(command(&entry), Some(CLOSE));
        registry.sweep();
        assert_eq!(command(&entry), Some(ConnectionCommand::Tick));
    }

    #[test]
    fn a_look_is_due_once_after_bytes_moved() {
        let (registry, entry) = one();
        let mut looks = Vec::new();
        for sweep in 0..40 {
            if sweep == 5 {
                entry.moved(Direction::FromClient, Engine::Copied, 1);
            }
            registry.sweep();
            if entry.look_is_due() {
                assert_eq!(command(&entry), Some(ConnectionCommand::Tick), "{sweep}");
                looks.push(sweep);
            }
            assert_eq!(command(&entry), None, "{sweep}");
        }
        assert_eq!(looks, [15]);
        // Bytes that move all the time do not delay the check.
        for _ in 0..2 * usize::from(LOOK) {
            entry.moved(Direction::FromClient, Engine::Copied, 1);
            registry.sweep();
        }
        assert!(entry.look_is_due() && !entry.look_is_due());
        entry.look_again(2);
        registry.sweep();
        assert!(!entry.look_is_due());
        registry.sweep();
        assert!(entry.look_is_due());
    }

    #[test]
    fn a_command_is_replaced_by_one_of_a_higher_rank_only() {
        let (_registry, entry) = one();
        let ranked = [ConnectionCommand::Tick, ConnectionCommand::Move(1), ConnectionCommand::Expire, CLOSE];
        for (rank, weak) in ranked.into_iter().enumerate() {
            for strong in &ranked[rank..] {
                for (first, second) in [(weak, *strong), (*strong, weak)] {
                    entry.send_command(first);
                    entry.send_command(second);
                    assert_eq!(command(&entry), Some(*strong), "{first:?} {second:?}");
                }
            }
        }
    }

    /// A blocked stream waits for a tick at each sweep.
    #[test]
    fn blocked_streams_leave_too() {
        let metrics = Metrics::new().listener("l");
        let registry = ConnectionRegistry::new(Loads::new(2), 0);
        let streams: Vec<_> = (0..4)
            .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
            .collect();
        for _ in 0..2 {
            for stream in &streams {
                stream.needs_tick(true);
                stream.moved(Direction::FromBackend, Engine::Spliced, loads::BUSY);
            }
            registry.sweep();
        }
        registry.give_streams_away();
        let commands: Vec<_> = streams.iter().map(|entry| command(entry)).collect();
        let count = |expected| commands.iter().filter(|command| **command == Some(expected)).count();
        assert_eq!(
            (count(ConnectionCommand::Move(1)), count(ConnectionCommand::Tick)),
            (2, 2),
            "{commands:?}"
        );
    }

    #[test]
    fn streams_leave_until_both_workers_are_even() {
        let metrics = Metrics::new().listener("l");
        let loads = Loads::new(2);
        let registry = ConnectionRegistry::new(Arc::clone(&loads), 0);
        let streams: Vec<_> = (0..8)
            .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
            .collect();
        let idle = registry.register(9, LISTENER, registry.worker_slot(), metrics);
        for stream in &streams {
            stream.moved(Direction::FromBackend, Engine::Spliced, loads::BUSY);
        }
        registry.sweep();
        registry.give_streams_away();
        let moving =
            streams.iter().filter(|entry| command(entry) == Some(ConnectionCommand::Move(1))).count();
        assert_eq!(moving, 4);
        assert_eq!(command(&idle), None);
        registry.give_streams_away();
        drop(streams);
    }

    #[test]
    fn the_only_stream_stays() {
        let loads = Loads::new(2);
        let registry = ConnectionRegistry::new(loads, 0);
        let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
        entry.moved(Direction::FromClient, Engine::Spliced, 100 * loads::BUSY);
        registry.sweep();
        registry.give_streams_away();
        assert_eq!(command(&entry), None);
    }

    #[test]
    fn a_migrating_entry_keeps_its_counts() {
        let loads = Loads::new(2);
        let (here, there) =
            (ConnectionRegistry::new(Arc::clone(&loads), 0), ConnectionRegistry::new(Arc::clone(&loads), 1));
        let metrics = Metrics::new();
        let entry = here.register(7, LISTENER, here.worker_slot(), metrics.listener("l"));
        let backend = Arc::default();
        entry.tallies().connect(&backend);
        entry.tallies().ask(&metrics.pool("p"));
        entry.join(BackendId::nth(4));
        entry.moved(Direction::FromClient, Engine::Copied, 10);
        entry.dropped(2);
        let worker_slot = here.worker_slot_at(1);
        let entry = there.readmit(entry.leave(), worker_slot);
        assert_eq!((here.len(), there.len()), (0, 1));
        assert_eq!((loads.connections(0), loads.connections(1)), (0, 1));
        assert_eq!((entry.id(), entry.total(Direction::FromClient), entry.total_dropped()), (7, 10, 2));
        there.close_groups(&[ConnectionGroup::Backend(BackendId::nth(4))]);
        assert_eq!(command(&entry), Some(CLOSE));
        entry.moved(Direction::FromClient, Engine::Spliced, 5);
        assert_eq!(backend.bytes(Direction::FromClient), 10);
        there.sweep();
        assert_eq!(backend.bytes(Direction::FromClient), 15);
        let page = metrics.render();
        assert!(
            page.contains(r#"pointsman_pool_bytes_total{pool="p",direction="from_client"} 15"#),
            "{page}"
        );
    }

    #[test]
    fn the_first_byte_of_a_backend_is_reported_once() {
        let (registry, entry) = one();
        assert!(!entry.take_first_byte());
        entry.moved(Direction::FromClient, Engine::Copied, 1);
        assert!(!entry.take_first_byte());
        entry.moved(Direction::FromBackend, Engine::Copied, 1);
        assert!(entry.take_first_byte() && !entry.take_first_byte());
        let worker_slot = registry.worker_slot();
        let entry = registry.readmit(entry.leave(), worker_slot);
        assert!(!entry.take_first_byte(), "the other worker reported it");
    }

    const DOWN: ConnectionCommand = ConnectionCommand::Close(CloseReason::BackendDown);

    /// A registry with established connections of these backends.
    fn connected_to(backends: &[u32]) -> (Rc<ConnectionRegistry>, Vec<RegistryGuard>) {
        let metrics = Metrics::new().listener("l");
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let connect = |(id, backend): (usize, &u32)| {
            let entry = registry.register(id as u64, LISTENER, registry.worker_slot(), Arc::clone(&metrics));
            entry.join(BackendId::nth(*backend));
            entry.establish();
            entry
        };
        let entries = backends.iter().enumerate().map(connect).collect();
        (registry, entries)
    }

    fn notice(backend: u32, rate: u32) -> Arc<CloseNotice> {
        CloseNotice::new(BackendId::nth(backend), CloseReason::BackendDown, ClosePace::new(rate))
    }

    /// Waits until one of these gets a command. Returns its number and the command.
    async fn next_command(entries: &[RegistryGuard]) -> (u64, ConnectionCommand) {
        std::future::poll_fn(|cx| {
            for entry in entries {
                if let Poll::Ready(command) = entry.poll_command(cx) {
                    return Poll::Ready((entry.id(), command));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn run(test: impl Future<Output = ()>) {
        Executor::new().unwrap().block_on(test).unwrap();
    }

    #[test]
    fn a_backends_connections_are_closed_in_turn() {
        run(async {
            let (registry, entries) = connected_to(&[7, 8, 7, 7]);
            let began = std::time::Instant::now();
            registry.close_in_turn(notice(7, 50));
            for expected in [0, 2, 3] {
                assert_eq!(next_command(&entries).await, (expected, DOWN));
            }
            assert!(began.elapsed() >= Duration::from_millis(40), "the third has the third part");
            assert_eq!(command(&entries[1]), None);
        });
    }

    #[test]
    fn a_later_connection_is_given_notice_by_the_sweep() {
        run(async {
            let (registry, mut entries) = connected_to(&[8]);
            registry.close_in_turn(notice(7, 1000));
            let dialling =
                registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
            dialling.join(BackendId::nth(7));
            registry.sweep();
            assert!(!dialling.under_notice.get(), "it may still turn to another backend");
            dialling.establish();
            registry.sweep();
            registry.sweep();
            entries.push(dialling);
            assert_eq!(next_command(&entries).await, (9, DOWN));
        });
    }

    #[test]
    fn a_closed_connection_has_no_turn() {
        run(async {
            let (registry, mut entries) = connected_to(&[7; 100]);
            registry.close_in_turn(notice(7, 20));
            entries.drain(..98);
            let began = std::time::Instant::now();
            assert_eq!(next_command(&entries).await.1, DOWN);
            assert_eq!(next_command(&entries).await.1, DOWN);
            assert!(began.elapsed() < Duration::from_secs(2), "the turns of 98 others were waited for");
        });
    }

    #[test]
    fn a_withdrawn_notice_lets_the_others_stay() {
        run(async {
            let (registry, entries) = connected_to(&[7; 5]);
            let first = notice(7, 20);
            registry.close_in_turn(Arc::clone(&first));
            next_command(&entries).await;
            first.withdraw();
            registry.sweep();
            assert!(registry.closings.borrow().is_empty());
            while entries[1..].iter().any(|entry| entry.under_notice.get()) {
                yield_now().await;
            }
            assert!(entries.iter().all(|entry| command(entry).is_none()));
            // The connections can be given notice again. The first one did not obey its command, so it gets another
            // command.
            registry.close_in_turn(notice(7, 1000));
            let mut again = Vec::new();
            for _ in 0..4 {
                again.push(next_command(&entries).await.0);
            }
            again.sort_unstable();
            assert_eq!(again, [1, 2, 3, 4]);
        });
    }
}
