//! Who is here: the connections of a worker, their live counts and a command slot for each.
//!
//! Everything belongs to one worker thread. A sweep on every [`TICK`] does what a timer and an atomic
//! per connection would do: it adds the bytes moved to the shared metrics, notices silence, and wakes
//! a relay only when there is something for it to do. Drain deadlines and closing go through the
//! command slots.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::telemetry::{Direction, Engine, ListenerMetrics};

/// Time between two sweeps: how exact idle timeouts are, and how soon late socket options come.
pub const TICK: Duration = Duration::from_millis(500);

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Look after socket options and stuck peers.
    Tick,
    /// Nothing moved for as long as allowed.
    Expire,
    /// The time for draining is over.
    Close,
}

/// One connection as its worker sees it. Held by the registry and by the connection's task.
pub struct Entry {
    id: u64,
    /// The listener and the backend this connection belongs to, by their numbers; 0 is none.
    groups: Cell<[u64; 2]>,
    /// Where this connection stands in the registry's list.
    slot: Cell<usize>,
    totals: [Cell<u64>; 2],
    dropped: Cell<u64>,
    /// Bytes moved and not yet added to the shared metrics, by direction and engine.
    unflushed: [[Cell<u64>; 2]; 2],
    quiet: Cell<u32>,
    quiet_limit: Cell<u32>,
    wants_tick: Cell<bool>,
    command: Cell<Option<Command>>,
    waker: Cell<Option<Waker>>,
    metrics: Arc<ListenerMetrics>,
}

impl Entry {
    fn new(id: u64, group: u64, metrics: Arc<ListenerMetrics>) -> Self {
        Self {
            id,
            groups: Cell::new([group, 0]),
            slot: Cell::new(0),
            totals: Default::default(),
            dropped: Cell::new(0),
            unflushed: Default::default(),
            quiet: Cell::new(0),
            quiet_limit: Cell::new(u32::MAX),
            wants_tick: Cell::new(false),
            command: Cell::new(None),
            waker: Cell::new(None),
            metrics,
        }
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

    /// Bytes delivered in one direction since the start.
    pub fn total(&self, direction: Direction) -> u64 {
        self.totals[direction as usize].get()
    }

    /// Counts bytes that were read and could not be delivered.
    pub fn dropped(&self, bytes: u64) {
        self.dropped.set(self.dropped.get() + bytes);
        self.metrics.bytes_dropped.increment(bytes);
    }

    /// Bytes that were read and could not be delivered.
    pub fn total_dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Makes the connection one of a backend's, by the backend's number.
    pub fn join(&self, backend: u64) {
        let [listener, _] = self.groups.get();
        self.groups.set([listener, backend]);
    }

    /// Starts a new wait for silence: [`Command::Expire`] comes after `limit` without a byte.
    pub fn expire_after(&self, limit: Duration) {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis());
        self.quiet.set(0);
        self.quiet_limit.set(u32::try_from(ticks).unwrap_or(u32::MAX));
    }

    /// Whether [`Command::Tick`] comes at the next sweep.
    pub fn wants_tick(&self, wanted: bool) {
        self.wants_tick.set(wanted);
    }

    /// Takes the command that is waiting, or arranges to be woken by the next one.
    pub fn poll_command(&self, cx: &mut Context<'_>) -> Poll<Command> {
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

    /// Waits for [`Command::Close`].
    ///
    /// # Cancel safety
    ///
    /// A command that has not come is not lost.
    pub async fn closed(&self) {
        while std::future::poll_fn(|cx| self.poll_command(cx)).await != Command::Close {}
    }

    fn tell(&self, command: Command) {
        // A close must not be overwritten by a tick.
        if self.command.get() != Some(Command::Close) {
            self.command.set(Some(command));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Adds what moved to the shared counters; says whether anything did.
    fn flush(&self) -> bool {
        let mut any = false;
        for direction in Direction::ALL {
            for engine in Engine::ALL {
                let bytes = self.unflushed[direction as usize][engine as usize].take();
                if bytes > 0 {
                    self.metrics.bytes(direction, engine).increment(bytes);
                    any = true;
                }
            }
        }
        any
    }

    fn sweep(&self) {
        let quiet = if self.flush() { 0 } else { self.quiet.get().saturating_add(1) };
        self.quiet.set(quiet);
        if quiet >= self.quiet_limit.get() {
            self.tell(Command::Expire);
        } else if self.wants_tick.get() {
            self.tell(Command::Tick);
        }
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct Registry {
    entries: RefCell<Vec<Rc<Entry>>>,
    emptied: tokio::sync::Notify,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Adds a connection of a listener, by the listener's number; it leaves when the guard is dropped.
    pub fn register(self: &Rc<Self>, id: u64, group: u64, metrics: Arc<ListenerMetrics>) -> Registered {
        let entry = Rc::new(Entry::new(id, group, metrics));
        let mut entries = self.entries.borrow_mut();
        entry.slot.set(entries.len());
        entries.push(Rc::clone(&entry));
        Registered { registry: Rc::clone(self), entry }
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks after every connection once; the worker calls it on each [`TICK`].
    pub fn sweep(&self) {
        for entry in self.entries.borrow().iter() {
            entry.sweep();
        }
    }

    /// Tells every connection to close.
    pub fn close_all(&self) {
        for entry in self.entries.borrow().iter() {
            entry.tell(Command::Close);
        }
    }

    /// Tells the connections of these listeners and backends to close.
    pub fn close_groups(&self, groups: &[u64]) {
        for entry in self.entries.borrow().iter() {
            if entry.groups.get().iter().any(|group| groups.contains(group)) {
                entry.tell(Command::Close);
            }
        }
    }

    /// Waits until nobody is here.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn emptied(&self) {
        while !self.is_empty() {
            self.emptied.notified().await;
        }
    }

    fn remove(&self, entry: &Entry) {
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

/// Keeps a connection in the registry; on drop it leaves, and its last bytes are counted.
pub struct Registered {
    registry: Rc<Registry>,
    entry: Rc<Entry>,
}

impl Registered {
    /// A second handle on the entry, which does not keep the connection in the registry.
    pub fn share(&self) -> Rc<Entry> {
        Rc::clone(&self.entry)
    }
}

impl std::ops::Deref for Registered {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.entry.flush();
        self.registry.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::telemetry::Metrics;

    fn command(entry: &Entry) -> Option<Command> {
        match entry.poll_command(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(command) => Some(command),
            Poll::Pending => None,
        }
    }

    #[test]
    fn silence_expires_and_bytes_prolong() {
        let metrics = Metrics::new().listener("l");
        let registry = Registry::new();
        let entry = registry.register(1, 1, metrics);
        entry.expire_after(TICK * 2);
        registry.sweep();
        assert_eq!(command(&entry), None);
        entry.moved(Direction::FromClient, Engine::Copied, 1);
        registry.sweep();
        registry.sweep();
        assert_eq!(command(&entry), None, "the byte started a new wait");
        registry.sweep();
        assert_eq!(command(&entry), Some(Command::Expire));
        assert_eq!(entry.total(Direction::FromClient), 1);
    }

    #[test]
    fn entries_leave_in_any_order() {
        let metrics = Metrics::new().listener("l");
        let registry = Registry::new();
        let mut all: Vec<_> = (0..5).map(|id| registry.register(id, 1, Arc::clone(&metrics))).collect();
        for victim in [0, 2, 0, 1, 0] {
            drop(all.remove(victim));
            registry.close_all();
            for entry in &all {
                assert_eq!(command(entry), Some(Command::Close), "{}", entry.id());
            }
            assert_eq!(registry.len(), all.len());
        }
        assert!(registry.is_empty());
    }

    #[test]
    fn a_close_is_not_overwritten_by_a_tick() {
        let metrics = Metrics::new().listener("l");
        let registry = Registry::new();
        let entry = registry.register(1, 1, metrics);
        entry.wants_tick(true);
        registry.close_all();
        registry.sweep();
        assert_eq!(command(&entry), Some(Command::Close));
        registry.sweep();
        assert_eq!(command(&entry), Some(Command::Tick));
    }
}
