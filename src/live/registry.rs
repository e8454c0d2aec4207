//! The registry: the list of a worker's connections, its sweep, and the commands to many connections at once.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::closing::{CloseCause, CloseNotice, CloseQueue};
use super::command::{ConnectionCommand, MoveTarget};
use super::entry::{ConnectionEntry, ConnectionGroup, MigratingEntry};
use super::intervals::{LogInterval, LogRound};
use super::legs::ConnectionLegs;
use super::listing::OpenConnections;
use super::loads::{Loads, WorkerSlot};
use super::stage::StageCounts;
use super::tallies::ConnectionTallies;
use super::top::TopCounts;
use super::view::ConnectionView;
use super::walk::WalkPlace;
use crate::ids::{BackendId, ListenerId};
use crate::telemetry::{CloseReason, ListenerMetrics};

/// A connection that moves this many bytes in a tick is worth moving to another worker: about 0.5 MiB/s.
const STREAM: u64 = 256 * 1024;

const SLOTS: &str = "a worker has fewer than 2^32 connections";

/// The connections of one worker.
pub struct ConnectionRegistry {
    entries: RefCell<Vec<Rc<ConnectionEntry>>>,
    /// The connections that are closed in turn, by their backend.
    closings: RefCell<HashMap<BackendId, Rc<CloseQueue>>>,
    loads: Arc<Loads>,
    worker: usize,
    emptied: tokio::sync::Notify,
    /// The channels to which the next list of connections is sent.
    listings: RefCell<Vec<oneshot::Sender<OpenConnections>>>,
    /// True while a task makes these lists.
    has_list_task: Cell<bool>,
    /// The walks under way.
    walks: RefCell<Vec<Rc<WalkPlace>>>,
    /// The interval of the records of open connections; `None` if there are none.
    log_interval: Cell<Option<LogInterval>>,
    /// True while a task orders these records.
    has_log_task: Cell<bool>,
    /// The requests for the sockets of connections, by the numbers of the connections.
    describing: RefCell<Vec<(u64, oneshot::Sender<ConnectionLegs>)>>,
    /// The index of the connection at which the next orders to leave for the successor begin.
    next_to_leave: Cell<usize>,
    /// The names and sources with the most connections.
    top: RefCell<TopCounts>,
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
            has_list_task: Cell::new(false),
            walks: RefCell::default(),
            log_interval: Cell::default(),
            has_log_task: Cell::new(false),
            describing: RefCell::default(),
            next_to_leave: Cell::new(0),
            top: RefCell::new(TopCounts::new(Instant::now())),
        })
    }

    /// The number of the worker.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Takes a slot at this worker.
    pub fn worker_slot(&self) -> WorkerSlot {
        WorkerSlot::take(&self.loads, self.worker)
    }

    /// Takes a slot at another worker, if this worker has too many connections.
    pub fn worker_slot_elsewhere(&self) -> Option<(usize, WorkerSlot)> {
        let worker = self.loads.less_loaded(self.worker)?;
        Some((worker, self.worker_slot_at(worker)))
    }

    /// Takes a slot at the worker with this number.
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
        self.enter(ConnectionEntry::readmitted(migrating, self.has_intervals()), worker_slot)
    }

    fn enter(self: &Rc<Self>, entry: ConnectionEntry, worker_slot: WorkerSlot) -> RegistryGuard {
        let entry = Rc::new(entry);
        let mut entries = self.entries.borrow_mut();
        entry.slot.set(u32::try_from(entries.len()).expect(SLOTS));
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

    /// Sweeps every connection once. The worker calls it at each [`TICK`](super::TICK).
    pub fn sweep(&self) {
        let moved = self.entries.borrow().iter().map(|entry| entry.sweep()).sum();
        self.loads.moved(self.worker, moved);
        self.give_notice();
        self.top().rotate(Instant::now());
    }

    /// Returns the counts of names and sources. No borrow may last longer than a statement.
    pub fn top(&self) -> RefMut<'_, TopCounts> {
        self.top.borrow_mut()
    }

    /// Adds a request for the list of open connections. Returns true if no task makes such lists: the caller becomes this
    /// task.
    pub(super) fn add_listing(&self, to: oneshot::Sender<OpenConnections>) -> bool {
        self.listings.borrow_mut().push(to);
        !self.has_list_task.replace(true)
    }

    /// Takes the requests for the list of open connections. Without a request the task that makes the lists is over.
    pub(super) fn take_listings(&self) -> Vec<oneshot::Sender<OpenConnections>> {
        let listings = self.listings.take();
        self.has_list_task.set(!listings.is_empty());
        listings
    }

    /// Closes the established connections of a backend one after the other, and also later connections, until
    /// the notice is withdrawn.
    ///
    /// # Panics
    ///
    /// On a thread without an executor.
    pub fn close_in_turn(&self, notice: Arc<CloseNotice>) {
        let backend = notice.backend();
        if let Some(earlier) =
            self.closings.borrow_mut().insert(backend, CloseQueue::new(CloseCause::Notice(notice)))
        {
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
            if let Some(backend) = entry.backend_to_close()
                && let Some(closing) = closings.get(&backend)
            {
                closing.add(entry);
            }
        }
        closings.values().for_each(CloseQueue::run);
    }

    #[cfg(test)]
    pub(super) fn walks_under_way(&self) -> usize {
        self.walks.borrow().len()
    }

    #[cfg(test)]
    pub(super) fn has_log_round(&self) -> bool {
        self.has_log_task.get()
    }

    #[cfg(test)]
    pub(super) fn requests_to_describe(&self) -> usize {
        self.describing.borrow().len()
    }

    #[cfg(test)]
    pub(super) fn has_no_close_queue(&self) -> bool {
        self.closings.borrow().is_empty()
    }

    /// Moves some streams to a worker that moves far fewer bytes. Does nothing without such a worker.
    ///
    /// A stream that is blocked most of the time moves too. The command to move replaces the tick for which the
    /// stream waits, and the other worker sends the tick again. A stream moves only if it does not carry more than
    /// the amount that evens both workers out. So the only stream of a worker stays, and no stream moves back and
    /// forth.
    pub fn give_streams_away(&self) {
        let Some((worker, mut surplus)) = self.loads.less_busy(self.worker) else { return };
        let worker = u32::try_from(worker).expect("a process has fewer than 2^32 workers");
        for entry in self.entries.borrow().iter() {
            let recent = entry.recent();
            // The queue that closes a connection is in this worker.
            let is_free = is_free(entry) && !entry.waits_to_be_closed();
            if is_free && recent >= STREAM && recent <= surplus {
                surplus -= recent;
                entry.send_command(ConnectionCommand::Move(MoveTarget::Worker(worker)));
            }
        }
    }

    /// Sends at most `most` connections to the successor, by a command to each. Returns the number of commands.
    ///
    /// A connection that cannot move ignores the command: it dials, or has answered its client. So each call begins behind
    /// the connections of the last one, and those that can surely move come first.
    pub fn hand_over(&self, most: usize) -> usize {
        let entries = self.entries.borrow();
        let begin = self.next_to_leave.get().checked_rem(entries.len()).unwrap_or_default();
        let (before, after) = entries.split_at(begin);
        let in_turn = || after.iter().chain(before).enumerate();
        let ready = in_turn().filter(|(_, entry)| is_free(entry) && entry.can_be_handed_over());
        let others = in_turn().filter(|(_, entry)| is_free(entry) && entry.is_connecting());
        let mut sent = 0;
        for (at, entry) in ready.chain(others).take(most) {
            entry.send_command(ConnectionCommand::Move(MoveTarget::Successor));
            self.next_to_leave.set(begin + at + 1);
            sent += 1;
        }
        sent
    }

    /// Begins a round of interval records. Returns `None` if there are no such records, or if an earlier round is under
    /// way.
    pub(super) fn begin_log_round(&self, interval: Option<Duration>) -> Option<LogRound> {
        if self.has_log_task.get() {
            return None;
        }
        let interval = interval.and_then(LogInterval::of);
        let before = self.log_interval.replace(interval);
        let round = interval.map(|interval| match before == Some(interval) {
            true => LogRound::Order(interval),
            false => LogRound::Skip,
        });
        self.has_log_task.set(round.is_some());
        round
    }

    /// Returns true if there are interval records.
    fn has_intervals(&self) -> bool {
        self.log_interval.get().is_some()
    }

    /// Ends a round of interval records.
    pub(super) fn end_log_round(&self) {
        self.has_log_task.set(false);
    }

    /// Begins a walk over the connections, which shows their figures at this moment.
    pub(super) fn walk(self: &Rc<Self>, now: Instant) -> RegistryWalk {
        let place = Rc::new(WalkPlace::default());
        self.walks.borrow_mut().push(Rc::clone(&place));
        RegistryWalk { registry: Rc::clone(self), place, now }
    }

    /// Requests the sockets of a connection from its task. No answer comes if the connection ends, or if a command of a higher
    /// rank comes first. So the caller bounds its wait.
    pub(super) fn describe(&self, entry: &ConnectionEntry) -> oneshot::Receiver<ConnectionLegs> {
        let (to, described) = oneshot::channel();
        let mut describing = self.describing.borrow_mut();
        describing.retain(|(_, to)| !to.is_closed());
        describing.push((entry.id(), to));
        drop(describing);
        entry.send_command(ConnectionCommand::Describe);
        described
    }

    /// Returns the numbers of open connections by stage.
    pub fn stages(&self) -> StageCounts {
        let mut counts = StageCounts::new();
        for stage in self.entries.borrow().iter().filter_map(|entry| entry.stage().open()) {
            *counts.entry(stage).or_default() += 1;
        }
        counts
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
        entries.swap_remove(slot as usize);
        if let Some(moved) = entries.get(slot as usize) {
            moved.slot.set(slot);
            let from = entries.len();
            self.walks.borrow().iter().for_each(|walk| walk.moved(moved, from, slot as usize));
        }
        if entries.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

/// Returns true if the connection may get a command to move.
fn is_free(entry: &Rc<ConnectionEntry>) -> bool {
    entry.waiting_command().is_none_or(ConnectionCommand::comes_again)
}

/// A walk over the connections of a registry, in slices. Between two slices other tasks have their turns.
pub(super) struct RegistryWalk {
    registry: Rc<ConnectionRegistry>,
    place: Rc<WalkPlace>,
    now: Instant,
}

impl RegistryWalk {
    /// Visits the connections of the next slice. Returns false at the end of the walk.
    pub(super) fn visit(&self, mut see: impl FnMut(&Rc<ConnectionEntry>, &ConnectionView<'_>)) -> bool {
        let slice = self.place.slice(&self.registry.entries.borrow());
        for entry in &slice {
            entry.view(self.now, |view| see(entry, view));
        }
        !slice.is_empty()
    }
}

impl Drop for RegistryWalk {
    fn drop(&mut self) {
        self.registry.walks.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
    }
}

/// Keeps a connection in the registry. On drop the connection is removed and its last bytes are counted.
pub struct RegistryGuard {
    registry: Rc<ConnectionRegistry>,
    entry: Rc<ConnectionEntry>,
}

impl RegistryGuard {
    /// Takes the connection out of this worker.
    pub fn leave(self) -> MigratingEntry {
        self.entry.migrating(self.registry.has_intervals())
    }

    /// Sends the state of its sockets to those who asked for it.
    pub fn describe(&self, legs: &ConnectionLegs) {
        let mut describing = self.registry.describing.borrow_mut();
        for (_, to) in describing.extract_if(.., |(id, _)| *id == self.entry.id()) {
            // A request that timed out needs no answer.
            let _ = to.send(legs.clone());
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
        self.entry.depart();
        self.registry.remove(&self.entry);
        self.registry.loads.leave(self.registry.worker);
    }
}
