//! Moves the connections of this program to its successor, in batches that the successor acknowledges.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use super::link::{ReceivedMessage, SessionFault, SessionLink, unexpected};
use crate::conn::MigrationSenders;
use crate::conn::handover::{BatchOptions, LeavingConnection, LeavingQueue, RouteNames};
use crate::server::upgrade_state::MoveReport;
use crate::server::view::View;
use crate::wire::handover::{Adopted, Batch, Declined, Message, Rest, micros};
use crate::worker::WorkerHandle;

/// The connections of a batch. A batch stands still while it is sent and read, so it is small.
const BATCH: usize = 32;

/// The bytes of a batch, besides those of its last connection.
const BATCH_BYTES: usize = 4 << 20;

/// The batches that are not acknowledged at the same time.
const WINDOW: usize = 2;

/// The time for which a batch waits for a connection that was ordered to leave: a stream has its turn within it.
const PATIENCE: Duration = Duration::from_millis(2);

/// The number of orders without an effect, beyond one for each connection, after which the other connections count as
/// unable to move.
const FURTHER_ORDERS: usize = 10 * BATCH;

/// The time in which a worker must take an order.
const WORKER: Duration = Duration::from_secs(2);

/// The time between two checks for connections that became able to move.
const PAUSE: Duration = Duration::from_millis(20);

/// The parts by which connections leave.
pub(in crate::server) struct MoverParts {
    /// The workers.
    pub(in crate::server) workers: Vec<WorkerHandle>,
    /// The channels by which connections go back.
    pub(in crate::server) senders: Arc<MigrationSenders>,
}

impl From<&MoveReport> for Rest {
    fn from(report: &MoveReport) -> Self {
        Self {
            moved: report.moved,
            remaining: report.remaining,
            stages: report.stages.clone(),
            moved_in_us: micros(report.took),
            longest_pause_us: micros(report.longest_pause),
            p99_pause_us: micros(report.p99_pause),
        }
    }
}

impl From<Rest> for MoveReport {
    fn from(rest: Rest) -> Self {
        Self {
            moved: rest.moved,
            remaining: rest.remaining,
            stages: rest.stages,
            took: Duration::from_micros(rest.moved_in_us),
            longest_pause: Duration::from_micros(rest.longest_pause_us),
            p99_pause: Duration::from_micros(rest.p99_pause_us),
        }
    }
}

/// The connections of a round over all workers.
struct Round {
    /// Those that were sent.
    sent: usize,
    /// Those that were ordered to leave. Connections that dial ignore the order.
    ordered: usize,
}

/// A batch that was sent and is not acknowledged.
struct SentBatch {
    number: u64,
    connections: Vec<LeavingConnection>,
}

/// Moves the connections.
pub(super) struct Mover<'a> {
    parts: MoverParts,
    queue: Arc<LeavingQueue>,
    link: &'a SessionLink,
    view: &'a View,
    names: RouteNames,
    sent: VecDeque<SentBatch>,
    next_number: u64,
    /// The most connections of a batch. It falls when the successor declines a batch.
    most: usize,
    /// The numbers of connections that the successor does not take.
    declined: HashSet<u64>,
    began: Instant,
    last: Instant,
    pauses: Vec<Duration>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(parts: MoverParts, link: &'a SessionLink, view: &'a View) -> Self {
        let names = RouteNames::of(&view.snapshot.load());
        let now = Instant::now();
        Self {
            parts,
            queue: LeavingQueue::new(),
            link,
            view,
            names,
            sent: VecDeque::new(),
            next_number: 1,
            most: BATCH,
            declined: HashSet::new(),
            began: now,
            last: now,
            pauses: Vec::new(),
        }
    }

    /// Moves all connections that can move. It ends when no worker has one to order, or when every connection was ordered
    /// in vain: some ignore the order, and a stream has its turn later than the others.
    pub(super) fn move_all(&mut self) -> Result<(), SessionFault> {
        let mut in_vain = 0;
        loop {
            let Round { sent, ordered } = self.round()?;
            in_vain = if sent == 0 { in_vain + ordered } else { 0 };
            let all = usize::try_from(self.view.bounds.connections.inside()).unwrap_or(usize::MAX);
            if ordered == 0 || in_vain > all.saturating_add(FURTHER_ORDERS) {
                return self.await_acknowledgements(0);
            }
        }
    }

    /// Moves the connections that become able to move, until no connection is left. With `moves` false the connections
    /// stay, and this waits for their end.
    pub(super) fn move_rest(&mut self, moves: bool) -> Result<(), SessionFault> {
        while self.view.bounds.connections.inside() > 0 {
            if !moves || self.round()?.sent == 0 {
                self.await_acknowledgements(0)?;
                thread::park_timeout(PAUSE);
            }
        }
        self.await_acknowledgements(0)
    }

    /// Sends a batch of each worker.
    fn round(&mut self) -> Result<Round, SessionFault> {
        let mut round = Round { sent: 0, ordered: 0 };
        for at in 0..self.parts.workers.len() {
            let ordered = self.order(at);
            round.ordered += ordered;
            let connections = self.queue.gather(ordered, PATIENCE);
            round.sent += self.send(connections)?;
        }
        Ok(round)
    }

    /// Orders connections of a worker to leave. Returns their number.
    fn order(&self, worker: usize) -> usize {
        let (ordered, answer) = sync_channel(1);
        self.parts.workers[worker].hand_over(Arc::clone(&self.queue), self.most, ordered);
        // A worker that has ended or is stuck orders none.
        answer.recv_timeout(WORKER).unwrap_or_default()
    }

    /// Sends connections in batches. Returns the number of connections that were sent.
    fn send(&mut self, connections: Vec<LeavingConnection>) -> Result<usize, SessionFault> {
        let mut batch = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut rest = connections.into_iter();
        while let Some(connection) = rest.next() {
            if self.declined.contains(&connection.id()) {
                connection.stay(&self.parts.senders);
                continue;
            }
            count += 1;
            bytes += connection.held_bytes().iter().map(|held| held.len()).sum::<usize>();
            batch.push(connection);
            if batch.len() >= self.most || bytes >= BATCH_BYTES {
                bytes = 0;
                if let Err(fault) = self.send_batch(std::mem::take(&mut batch)) {
                    rest.for_each(|connection| connection.give_back(&self.parts.senders));
                    return Err(fault);
                }
            }
        }
        if !batch.is_empty() {
            self.send_batch(batch)?;
        }
        Ok(count)
    }

    fn send_batch(&mut self, connections: Vec<LeavingConnection>) -> Result<(), SessionFault> {
        let number = self.next_number;
        self.next_number += 1;
        let mut options = BatchOptions::default();
        let list =
            connections.iter().map(|connection| connection.message(&self.names, &mut options)).collect();
        let batch = Batch { number, connections: list, options: options.into_list() };
        let message = Message::Batch(batch);
        // Kept before they are sent, so that a fault gives them back.
        self.sent.push_back(SentBatch { number, connections });
        let kept = &self.sent.back().expect("it was just added").connections;
        let raw: Vec<_> = kept.iter().flat_map(LeavingConnection::held_bytes).collect();
        let descriptors: Vec<_> = kept.iter().flat_map(LeavingConnection::descriptors).collect();
        self.link.send_with(&message, &raw, &descriptors)?;
        self.await_acknowledgements(WINDOW - 1)
    }

    /// Waits until at most `left` batches are not acknowledged.
    fn await_acknowledgements(&mut self, left: usize) -> Result<(), SessionFault> {
        while self.sent.len() > left {
            self.acknowledge()?;
        }
        Ok(())
    }

    /// Receives the acknowledgement of the oldest batch.
    fn acknowledge(&mut self) -> Result<(), SessionFault> {
        let ReceivedMessage { message, .. } = self.link.receive()?;
        let is_first = |number: u64| self.sent.front().is_some_and(|batch| batch.number == number);
        match message {
            Message::Adopted(Adopted { number, declined }) if is_first(number) => {
                let Some(batch) = self.sent.pop_front() else { return Ok(()) };
                self.last = Instant::now();
                self.declined.extend(declined);
                for connection in batch.connections {
                    if self.declined.contains(&connection.id()) {
                        connection.stay(&self.parts.senders);
                    } else {
                        self.pauses.push(connection.pause());
                        connection.handed_over();
                    }
                }
                Ok(())
            }
            Message::Declined(Declined { number, reason }) if is_first(number) => {
                let Some(batch) = self.sent.pop_front() else { return Ok(()) };
                tracing::warn!(%reason, connections = batch.connections.len(), "the successor does not take some connections; they go on here");
                if let [only] = &batch.connections[..] {
                    self.declined.insert(only.id());
                }
                self.most = (batch.connections.len() / 4).max(1);
                batch
                    .connections
                    .into_iter()
                    .for_each(|connection| connection.give_back(&self.parts.senders));
                Ok(())
            }
            other => Err(unexpected("Adopted for the oldest batch", &other)),
        }
    }

    /// Ends the move: takes the acknowledgements that have come, and gives back all other connections. Returns the number
    /// of connections that moved.
    pub(super) fn abandon(&mut self) -> u64 {
        // From now on no acknowledgement can be sent, so the successor moves no byte of these connections. Those that were
        // sent before count, also of a successor that died.
        self.link.close_reading();
        while !self.sent.is_empty() && self.acknowledge().is_ok() {}
        let waiting = self.queue.close();
        let unacknowledged = self.sent.drain(..).flat_map(|batch| batch.connections);
        unacknowledged.chain(waiting).for_each(|connection| connection.give_back(&self.parts.senders));
        self.pauses.len() as u64
    }

    /// Returns the numbers of the connections that are left, by the word of their stage.
    fn stages(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for worker in &self.parts.workers {
            let (to, counts) = sync_channel(1);
            worker.count_stages(to);
            // A worker that has ended has no connection.
            for (stage, count) in counts.recv_timeout(WORKER).into_iter().flatten() {
                *all.entry(stage.word().to_owned()).or_default() += count;
            }
        }
        all
    }

    /// Returns the report of the connections that moved so far, and of those that are left.
    pub(super) fn report(&mut self) -> MoveReport {
        self.pauses.sort_unstable();
        let at = (self.pauses.len() * 99).div_ceil(100).saturating_sub(1);
        MoveReport {
            moved: self.pauses.len() as u64,
            remaining: self.view.bounds.connections.inside(),
            stages: self.stages(),
            took: self.last - self.began,
            longest_pause: self.pauses.last().copied().unwrap_or_default(),
            p99_pause: self.pauses.get(at).copied().unwrap_or_default(),
        }
    }
}

impl Drop for Mover<'_> {
    /// Gives back the connections that are still here.
    fn drop(&mut self) {
        self.abandon();
    }
}
