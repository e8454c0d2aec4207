//! The entry of one connection: its counts, its stage, and its command slot.
//!
//! The registry and the task of the connection share an entry, on one thread. The parts that go on in another worker
//! migrate as a [`MigratingEntry`].

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::card::ConnectionCard;
use super::command::{ConnectionCommand, MoveTarget};
use super::intervals::{LogRound, LoggedProgress, LoggedState};
use super::listing::OpenConnection;
use super::stage::{CloseQueues, ConnectionStage, PeerCheck, TickDemand};
use super::tallies::ConnectionTallies;
use super::view::{ConnectionFigures, ConnectionView};
use crate::ids::{BackendId, ListenerId};
use crate::limit::Link;
use crate::sys::Address;
use crate::telemetry::{CloseReason, Direction, Engine, ListenerMetrics};

/// The time between two sweeps. Idle timeouts are exact to this time. Late socket options are set at the
/// second sweep.
pub const TICK: Duration = Duration::from_millis(500);

/// A wait that no sweep has counted yet. The first sweep sets it to 0, as if a byte had moved: the sweep may come
/// at once, and a wait must not end too early.
const FRESH: u32 = u32::MAX;

/// The connections of one listener, or the connections of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionGroup {
    /// The connections that were accepted at this listener.
    Listener(ListenerId),
    /// The connections whose backend is this backend, or whose last attempt was at it.
    Backend(BackendId),
}

/// One connection in its worker's registry. Held by the registry and by the connection's task.
///
/// Each open connection has an entry, so the numbers in an entry have the smallest types that suffice.
pub struct ConnectionEntry {
    id: u64,
    listener: ListenerId,
    /// The backend of the last attempt.
    backend: Cell<Option<BackendId>>,
    /// The client's address; `None` for a client of a Unix socket. The port is beside it, which is smaller.
    client: Cell<Option<IpAddr>>,
    port: Cell<u16>,
    /// The time of the accept.
    began: Instant,
    card: RefCell<ConnectionCard>,
    /// The private link that the connection counts for, if its listener counts by links.
    link: OnceCell<Arc<Link>>,
    /// The index of this connection in the registry's list.
    pub(super) slot: Cell<u32>,
    totals: [Cell<u64>; 2],
    dropped: Cell<u64>,
    /// Bytes moved and not yet added to the shared metrics, by direction and engine.
    unflushed: [[Cell<u64>; 2]; 2],
    /// Bytes moved in the last tick, saturating.
    recent: Cell<u32>,
    /// Sweeps in a row that counted no byte; [`FRESH`] until the first sweep.
    quiet: Cell<u32>,
    quiet_limit: Cell<u32>,
    stage: Cell<ConnectionStage>,
    close_queues: Cell<CloseQueues>,
    /// True if the successor cannot read its first bytes: it goes on here until its backend is connected.
    stays: Cell<bool>,
    peer_check: Cell<PeerCheck>,
    ticks: Cell<TickDemand>,
    logged: LoggedState,
    command: Cell<Option<ConnectionCommand>>,
    waker: Cell<Option<Waker>>,
    metrics: Arc<ListenerMetrics>,
    tallies: ConnectionTallies,
}

/// The parts of an entry that move to another worker.
#[derive(Debug)]
pub struct MigratingEntry {
    id: u64,
    listener: ListenerId,
    backend: Option<BackendId>,
    client: Option<SocketAddr>,
    began: Instant,
    card: ConnectionCard,
    link: Option<Arc<Link>>,
    totals: [u64; 2],
    dropped: u64,
    logged: LoggedProgress,
    quiet: u32,
    stays: bool,
    is_established: bool,
    metrics: Arc<ListenerMetrics>,
    tallies: ConnectionTallies,
}

/// The parts of an entry that another program sends.
#[derive(Debug)]
pub struct HandedEntry {
    /// The connection's number.
    pub id: u64,
    /// Its listener.
    pub listener: ListenerId,
    /// Its connected backend.
    pub backend: Option<BackendId>,
    /// The address of its client.
    pub client: Option<SocketAddr>,
    /// The time of its accept.
    pub began: Instant,
    /// Its names.
    pub card: ConnectionCard,
    /// The private link that it counts for.
    pub link: Option<Arc<Link>>,
    /// The bytes delivered, by direction.
    pub totals: [u64; 2],
    /// The bytes that were read and could not be delivered.
    pub dropped: u64,
    /// The progress of its interval records.
    pub logged: LoggedProgress,
    /// The time for which no byte has moved.
    pub quiet: Duration,
    /// The metrics of its listener.
    pub metrics: Arc<ListenerMetrics>,
    /// The counts of its route, pool and backend.
    pub tallies: ConnectionTallies,
}

impl From<HandedEntry> for MigratingEntry {
    fn from(handed: HandedEntry) -> Self {
        Self {
            id: handed.id,
            listener: handed.listener,
            backend: handed.backend,
            client: handed.client,
            began: handed.began,
            card: handed.card,
            link: handed.link,
            totals: handed.totals,
            dropped: handed.dropped,
            logged: handed.logged,
            quiet: ticks(handed.quiet),
            stays: false,
            is_established: handed.backend.is_some(),
            metrics: handed.metrics,
            tallies: handed.tallies,
        }
    }
}

impl MigratingEntry {
    /// The connection's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The time of its accept.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Returns its names.
    pub fn card(&self) -> &ConnectionCard {
        &self.card
    }

    /// Keeps the connection here until its backend is connected.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// The bytes delivered in one direction since the start.
    pub fn total(&self, direction: Direction) -> u64 {
        self.totals[direction as usize]
    }

    /// The number of bytes that were read and could not be delivered.
    pub fn total_dropped(&self) -> u64 {
        self.dropped
    }

    /// The progress of its interval records.
    pub fn log_progress(&self) -> LoggedProgress {
        self.logged
    }

    /// The private link that the connection counts for.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.link.as_ref()
    }

    /// The time for which no byte has moved.
    pub fn quiet(&self) -> Duration {
        TICK * self.quiet
    }

    /// Returns the counts of its route, pool and backend.
    pub fn tallies(&self) -> &ConnectionTallies {
        &self.tallies
    }
}

/// Returns the number of sweeps in a time, rounded up.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

impl ConnectionEntry {
    pub(super) fn new(
        id: u64,
        listener: ListenerId,
        metrics: Arc<ListenerMetrics>,
        tallies: ConnectionTallies,
    ) -> Self {
        Self {
            id,
            listener,
            backend: Cell::new(None),
            client: Cell::new(None),
            port: Cell::new(0),
            began: Instant::now(),
            card: RefCell::default(),
            link: OnceCell::new(),
            slot: Cell::new(0),
            totals: Default::default(),
            dropped: Cell::new(0),
            unflushed: Default::default(),
            recent: Cell::new(0),
            quiet: Cell::new(FRESH),
            quiet_limit: Cell::new(u32::MAX),
            stage: Cell::new(ConnectionStage::CONNECTING),
            close_queues: Cell::default(),
            stays: Cell::new(false),
            peer_check: Cell::new(PeerCheck::None),
            ticks: Cell::new(TickDemand::New { wanted: false }),
            logged: LoggedState::default(),
            command: Cell::new(None),
            waker: Cell::new(None),
            metrics,
            tallies,
        }
    }

    /// Returns the entry of a connection that comes from another worker. `has_intervals` is true if this worker makes
    /// interval records.
    pub(super) fn readmitted(migrating: MigratingEntry, has_intervals: bool) -> Self {
        let entry = Self::new(migrating.id, migrating.listener, migrating.metrics, migrating.tallies);
        let age = migrating.began.elapsed();
        let logged = LoggedState::restored(migrating.logged, age, has_intervals);
        let card = RefCell::new(migrating.card);
        let entry = Self { began: migrating.began, card, logged, ..entry };
        entry.backend.set(migrating.backend);
        entry.set_client_address(migrating.client);
        migrating.link.into_iter().for_each(|link| entry.counts_for(link));
        entry.dropped.set(migrating.dropped);
        for (total, before) in entry.totals.iter().zip(migrating.totals) {
            total.set(before);
        }
        if migrating.is_established {
            entry.establish();
        }
        entry.stays.set(migrating.stays);
        // A move must not prolong the wait for silence.
        entry.quiet.set(migrating.quiet);
        entry
    }

    /// Returns the parts that move to another worker. `has_intervals` is true if this worker
    /// makes interval records.
    pub(super) fn migrating(&self, has_intervals: bool) -> MigratingEntry {
        MigratingEntry {
            id: self.id,
            listener: self.listener,
            backend: self.backend.get(),
            client: self.client_address(),
            began: self.began,
            card: self.card.take(),
            link: self.link.get().cloned(),
            totals: self.totals(),
            dropped: self.dropped.get(),
            logged: self.logged.progress(has_intervals),
            // A wait that no sweep has counted is shorter than a tick.
            quiet: Some(self.quiet.get()).filter(|&quiet| quiet != FRESH).unwrap_or_default(),
            stays: self.stays.get(),
            is_established: self.stage() == ConnectionStage::Established,
            metrics: Arc::clone(&self.metrics),
            tallies: self.tallies.clone(),
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

    fn totals(&self) -> [u64; 2] {
        Direction::ALL.map(|direction| self.total(direction))
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

    /// Sends [`ConnectionCommand::Log`] if its backend is connected and an interval record is due.
    pub(super) fn order_log(&self, now: Instant, round: LogRound) {
        let age = now.saturating_duration_since(self.began);
        match round {
            LogRound::Skip => self.logged.made(age),
            LogRound::Order(interval) => {
                let is_established = self.stage() == ConnectionStage::Established;
                if is_established && self.logged.is_due(age, interval) {
                    self.send_command(ConnectionCommand::Log);
                }
            }
        }
    }

    /// Returns the bytes that no interval record has counted, by direction.
    pub fn unlogged(&self) -> [u64; 2] {
        self.logged.uncounted(self.totals())
    }

    /// Notes an interval record. If `is_counted` is false, the record was lost, and the next one counts its bytes.
    pub fn logged(&self, is_counted: bool) {
        self.logged.made(self.began.elapsed());
        if is_counted {
            self.logged.count(self.totals());
        }
    }

    /// The bytes moved in the last tick.
    pub(super) fn recent(&self) -> u64 {
        self.recent.get().into()
    }

    /// Sets the address of its client.
    pub fn set_client(&self, client: &Address) {
        self.set_client_address(client.tcp());
    }

    fn set_client_address(&self, client: Option<SocketAddr>) {
        self.client.set(client.map(|address| address.ip()));
        self.port.set(client.map_or(0, |address| address.port()));
    }

    fn client_address(&self) -> Option<SocketAddr> {
        self.client.get().map(|ip| SocketAddr::new(ip, self.port.get()))
    }

    /// The time of its accept.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Returns its names. No borrow may last longer than a statement.
    pub fn card(&self) -> Ref<'_, ConnectionCard> {
        self.card.borrow()
    }

    /// Changes its names.
    pub fn note(&self, change: impl FnOnce(&mut ConnectionCard)) {
        change(&mut self.card.borrow_mut());
    }

    /// Shows the connection for a moment. Returns `None` once it has left this worker.
    pub(super) fn view<T>(&self, now: Instant, see: impl FnOnce(&ConnectionView<'_>) -> T) -> Option<T> {
        let stage = self.stage().open()?;
        let quiet = Some(self.quiet.get()).filter(|quiet| *quiet != FRESH).unwrap_or_default();
        // A second has as many ticks as this.
        let rate = self.recent() * 1000 / TICK.as_millis() as u64;
        let figures = ConnectionFigures {
            age: now.saturating_duration_since(self.began),
            idle: TICK * quiet,
            bytes: self.totals(),
            rate,
        };
        let (id, client, card) = (self.id, self.client_address(), self.card.borrow());
        let (listener, backend) = (&self.metrics.name, self.backend.get());
        Some(see(&ConnectionView { id, client, listener, stage, backend, card: &card, figures }))
    }

    /// Stores the private link that the connection counts for. The first link stays.
    pub fn counts_for(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    /// The private link that the connection counts for, if its listener counts by links.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.link.get()
    }

    pub(super) fn stage(&self) -> ConnectionStage {
        self.stage.get()
    }

    /// Sets whether its first bytes are being read.
    pub fn set_reading(&self, reading: bool) {
        self.stage.set(self.stage().with_reading(reading));
    }

    /// Sets whether it waits in the queue of a pool.
    pub fn set_queued(&self, is_queued: bool) {
        self.stage.set(self.stage().with_queued(is_queued));
    }

    /// Records that its client is refused from now on.
    pub fn refuse(&self) {
        self.stage.set(self.stage().refused());
    }

    /// Returns the connection for the list of open connections.
    pub(super) fn listed(&self) -> OpenConnection {
        OpenConnection {
            client: self.client.get(),
            link: self.link.get().cloned(),
            listener: self.listener,
            backend: self.backend.get(),
            is_reading: self.stage() == ConnectionStage::Reading,
        }
    }

    /// Makes it a connection of this backend.
    pub fn join(&self, backend: BackendId) {
        self.backend.set(Some(backend));
    }

    /// Returns the groups to which it belongs.
    pub(super) fn groups(&self) -> impl Iterator<Item = ConnectionGroup> {
        let backend = self.backend.get().map(ConnectionGroup::Backend);
        std::iter::once(ConnectionGroup::Listener(self.listener)).chain(backend)
    }

    /// Marks the backend as connected. From now on the connection can be closed in turn
    /// ([`CloseNotice`](super::CloseNotice)). Before that it may still try another backend.
    pub fn establish(&self) {
        self.stage.set(ConnectionStage::Established);
        self.stays.set(false);
        self.quiet.set(FRESH);
    }

    /// Returns its connected backend, unless the connection already waits in the queue of this backend.
    pub(super) fn backend_to_close(&self) -> Option<BackendId> {
        match self.stage() {
            ConnectionStage::Established if !self.close_queues.get().has_notice => self.backend.get(),
            _ => None,
        }
    }

    /// Returns true if the connection waits for its turn to be closed.
    pub(super) fn waits_to_be_closed(&self) -> bool {
        self.close_queues.get().is_waiting()
    }

    /// Changes the queues in which the connection waits for its turn to be closed.
    pub(super) fn set_close_queues(&self, change: impl FnOnce(&mut CloseQueues)) {
        let mut queues = self.close_queues.get();
        change(&mut queues);
        self.close_queues.set(queues);
    }

    /// Records that the connection has left this worker, and counts its last bytes.
    pub(super) fn depart(&self) {
        self.flush();
        self.stage.set(ConnectionStage::Gone);
    }

    /// Returns true if it is on its way to a backend, and does not wait for its turn to be closed.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.stage(), ConnectionStage::Connecting { .. }) && !self.waits_to_be_closed()
    }

    /// Returns true once it has left this worker.
    pub(super) fn is_gone(&self) -> bool {
        self.stage() == ConnectionStage::Gone
    }

    /// Starts a new wait for silence: [`ConnectionCommand::Expire`] comes after `limit` without a byte.
    pub fn expire_after(&self, limit: Duration) {
        self.quiet.set(FRESH);
        self.limit_silence(limit);
    }

    /// Sets the limit of the present wait for silence. The time for which no byte has moved counts. If it has reached the
    /// limit, [`ConnectionCommand::Expire`] comes at once: a connection that moves again and again may meet no sweep.
    pub fn limit_silence(&self, limit: Duration) {
        self.quiet_limit.set(ticks(limit));
        let quiet = self.quiet.get();
        if quiet != FRESH && quiet >= self.quiet_limit.get() {
            self.send_command(ConnectionCommand::Expire);
        }
    }

    /// Waits for the command to go on in the successor, and takes it.
    ///
    /// The wait registers for no wakeup. The same task must poll [`ConnectionEntry::closed`] after it, which does so and
    /// discards the command if nothing took it.
    ///
    /// # Cancel safety
    ///
    /// No command is lost.
    pub async fn handed_over(&self) {
        self.handed_over_if(|| true).await;
    }

    /// Waits as [`ConnectionEntry::handed_over`] does, and takes the command only while `may` is true.
    ///
    /// # Cancel safety
    ///
    /// No command is lost.
    pub async fn handed_over_if(&self, may: impl Fn() -> bool) {
        std::future::poll_fn(|_| {
            if !may() || self.command.get() != Some(ConnectionCommand::Move(MoveTarget::Successor)) {
                return Poll::Pending;
            }
            self.command.set(None);
            Poll::Ready(())
        })
        .await
    }

    /// Returns true if the connection can go on in a successor: its first bytes are being read, or its backend is
    /// connected. A connection that waits for its turn to be closed stays.
    pub(super) fn can_be_handed_over(&self) -> bool {
        !self.stays.get()
            && !self.waits_to_be_closed()
            && matches!(self.stage(), ConnectionStage::Reading | ConnectionStage::Established)
    }

    /// Sets whether [`ConnectionCommand::Tick`] comes at the next sweep, or at the second sweep of a new
    /// connection.
    pub fn needs_tick(&self, wanted: bool) {
        self.ticks.set(self.ticks.get().with_wanted(wanted));
    }

    /// Schedules the next check of the peers: after this number of sweeps [`ConnectionEntry::look_is_due`] is
    /// true and [`ConnectionCommand::Tick`] comes. If no check is scheduled, a byte that moves schedules one
    /// after `FIRST_CHECK` sweeps (10).
    pub fn look_again(&self, sweeps: u8) {
        self.peer_check.set(PeerCheck::In(sweeps));
    }

    /// Returns true, once, if the relay is to check that the peers acknowledge the bytes sent to them.
    pub fn look_is_due(&self) -> bool {
        let is_due = self.peer_check.get() == PeerCheck::Due;
        if is_due {
            self.peer_check.set(PeerCheck::None);
        }
        is_due
    }

    /// Takes the waiting command, or registers for a wakeup by the next command.
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

    /// Puts a command in the slot, unless a command of the same or a higher rank waits there. Wakes the
    /// connection's task.
    pub(super) fn send_command(&self, command: ConnectionCommand) {
        if self.command.get().is_none_or(|waiting| waiting.rank() < command.rank()) {
            self.command.set(Some(command));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Sends [`ConnectionCommand::Log`].
    #[cfg(test)]
    pub(crate) fn send_log(&self) {
        self.send_command(ConnectionCommand::Log);
    }

    /// The command that waits in the slot.
    pub(super) fn waiting_command(&self) -> Option<ConnectionCommand> {
        self.command.get()
    }

    /// Adds the bytes moved to the shared counters. Returns their number.
    fn flush(&self) -> u64 {
        let mut sum = 0;
        for direction in Direction::ALL {
            let mut both = 0;
            for engine in Engine::ALL {
                let bytes = self.unflushed[direction as usize][engine as usize].take();
                if bytes > 0 {
                    self.metrics.moved(direction, engine, bytes);
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

    /// Counts a sweep, and returns the bytes moved since the last sweep.
    pub(super) fn sweep(&self) -> u64 {
        let moved = self.flush();
        self.recent.set(u32::try_from(moved).unwrap_or(u32::MAX));
        let quiet = if moved > 0 { 0 } else { self.quiet.get().wrapping_add(1) };
        self.quiet.set(quiet);
        let ticks = self.ticks.get();
        self.ticks.set(ticks.after_sweep());
        let peer_check = self.peer_check.get().after_sweep(moved);
        self.peer_check.set(peer_check);
        if quiet >= self.quiet_limit.get() {
            self.send_command(ConnectionCommand::Expire);
        } else if ticks.is_due() || peer_check == PeerCheck::Due {
            self.send_command(ConnectionCommand::Tick);
        }
        moved
    }
}
