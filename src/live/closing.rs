//! Closes connections one after the other: those of a backend that is down, or those of an operator's filter.
//!
//! Clients that lose a connection connect again. Many of them at the same moment may be more than the
//! remaining backends can take. So each connection has its turn, at a pace that all workers share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::command::ConnectionCommand;
use super::entry::ConnectionEntry;
use super::filter::ConnectionFilter;
use super::stage::CloseQueues;
use super::view::ConnectionView;
use crate::executor::{self, sleep_until, yield_now};
use crate::ids::BackendId;
use crate::telemetry::CloseReason;

/// The connections that are passed over in one turn of the task.
const PASSED_OVER: usize = 64;

/// The time between two checks whether a cause is over.
const CHECK: Duration = Duration::from_secs(1);

/// A number of turns a second, each at a random moment of its part of the second. Shared by the workers.
#[derive(Debug)]
pub struct ClosePace {
    /// The part of a second that belongs to one turn.
    part: Duration,
    randomness: RandomState,
    /// Locked for a few instructions for each connection that is closed.
    turns: Mutex<CloseTurns>,
}

#[derive(Debug, Default)]
struct CloseTurns {
    /// The earliest start of the next turn's part.
    next: Option<Instant>,
    /// The number of turns so far.
    drawn: u64,
}

impl ClosePace {
    /// Returns a pace of this many turns a second; 0 works as 1.
    pub fn new(rate: u32) -> Arc<Self> {
        Self::with_interval(Duration::from_secs(1) / rate.max(1))
    }

    /// Returns a pace of one turn in each `part`.
    pub fn with_interval(part: Duration) -> Arc<Self> {
        Arc::new(Self { part, randomness: RandomState::new(), turns: Mutex::default() })
    }

    /// Returns the moment of the next turn.
    pub(super) fn turn(&self, now: Instant) -> Instant {
        // Code under the lock cannot panic.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = turns.next.map_or(now, |next| next.max(now));
        turns.next = Some(begin + self.part);
        turns.drawn += 1;
        // The 53 bits that an f64 holds exactly.
        let fraction = (self.randomness.hash_one(turns.drawn) >> 11) as f64 / (1_u64 << 53) as f64;
        begin + self.part.mul_f64(fraction)
    }
}

/// The order to close the connections of a backend. Held by the workers until it is withdrawn, and by its sender,
/// which may withdraw it.
#[derive(Debug)]
pub struct CloseNotice {
    backend: BackendId,
    reason: CloseReason,
    pace: Arc<ClosePace>,
    withdrawn: AtomicBool,
}

impl CloseNotice {
    /// Returns a notice to the established connections of this backend, later ones included.
    pub fn new(backend: BackendId, reason: CloseReason, pace: Arc<ClosePace>) -> Arc<Self> {
        Arc::new(Self { backend, reason, pace, withdrawn: AtomicBool::new(false) })
    }

    /// Withdraws the notice: connections whose turn has not come stay open.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Returns true if it was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Returns the backend whose connections it closes.
    pub(super) fn backend(&self) -> BackendId {
        self.backend
    }
}

/// The connections that an order to close is about.
pub trait CloseSelection: Debug + Send + Sync {
    /// Returns true if a connection that looks so is still to be closed. Called before each connection is closed.
    fn includes(&self, view: &ConnectionView<'_>) -> bool;

    /// Decides once, when the order is given, whether it takes a connection that looks so. May count the connection.
    fn select(&self, view: &ConnectionView<'_>) -> bool {
        self.includes(view)
    }
}

impl CloseSelection for ConnectionFilter {
    fn includes(&self, view: &ConnectionView<'_>) -> bool {
        self.matches(view)
    }
}

/// The order of an operator to close connections that are open now. Held by the workers until each of these connections
/// had its turn or has ended.
#[derive(Debug)]
pub struct CloseOrder {
    selection: Box<dyn CloseSelection>,
    reason: CloseReason,
    pace: Arc<ClosePace>,
    /// The places that are left: the connections that may still be queued.
    left: AtomicU64,
    cancelled: AtomicBool,
}

impl CloseOrder {
    /// Returns an order for these connections, and for no more than `most` of them.
    pub fn new(
        selection: Box<dyn CloseSelection>,
        reason: CloseReason,
        pace: Arc<ClosePace>,
        most: u64,
    ) -> Arc<Self> {
        let (left, cancelled) = (AtomicU64::new(most), AtomicBool::new(false));
        Arc::new(Self { selection, reason, pace, left, cancelled })
    }

    /// Cancels the order: connections whose turn has not come stay open.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Decides whether the order takes a connection. To be called once for each connection.
    pub(super) fn selects(&self, view: &ConnectionView<'_>) -> bool {
        self.selection.select(view)
    }

    /// Takes the place of one connection. Returns false if the order has no place left.
    pub(super) fn take_place(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Returns true if the order is about this connection as it is now. A connection that was idle and is used again may no
    /// longer pass the filter.
    fn includes(&self, entry: &ConnectionEntry) -> bool {
        entry.view(Instant::now(), |view| self.selection.includes(view)).unwrap_or(false)
    }
}

/// The reason for which a queue closes connections.
#[derive(Clone)]
pub(super) enum CloseCause {
    Notice(Arc<CloseNotice>),
    Order(Arc<CloseOrder>),
}

impl CloseCause {
    fn pace(&self) -> &ClosePace {
        match self {
            Self::Notice(notice) => &notice.pace,
            Self::Order(order) => &order.pace,
        }
    }

    fn reason(&self) -> CloseReason {
        match self {
            Self::Notice(notice) => notice.reason,
            Self::Order(order) => order.reason,
        }
    }

    /// Records that a connection waits for this cause.
    fn enter(&self, queues: &mut CloseQueues) {
        match self {
            Self::Notice(_) => queues.has_notice = true,
            Self::Order(_) => queues.orders += 1,
        }
    }

    /// Records that a connection no longer waits for this cause.
    fn leave(&self, queues: &mut CloseQueues) {
        match self {
            Self::Notice(_) => queues.has_notice = false,
            Self::Order(_) => queues.orders -= 1,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Notice(notice) => notice.is_withdrawn(),
            Self::Order(order) => order.cancelled.load(Ordering::Relaxed),
        }
    }

    /// Returns true if the connection is still to be closed.
    fn includes(&self, entry: &ConnectionEntry) -> bool {
        !entry.is_gone()
            && match self {
                Self::Notice(_) => true,
                Self::Order(order) => order.includes(entry),
            }
    }
}

/// The connections of one worker that wait for their turn to be closed.
pub(super) struct CloseQueue {
    cause: CloseCause,
    waiting: RefCell<VecDeque<Rc<ConnectionEntry>>>,
    /// True while a task closes them.
    has_task: Cell<bool>,
}

impl CloseQueue {
    pub(super) fn new(cause: CloseCause) -> Rc<Self> {
        Rc::new(Self { cause, waiting: RefCell::default(), has_task: Cell::new(false) })
    }

    /// Adds a connection to the queue.
    pub(super) fn add(&self, entry: &Rc<ConnectionEntry>) {
        entry.set_close_queues(|queues| self.cause.enter(queues));
        self.waiting.borrow_mut().push_back(Rc::clone(entry));
    }

    /// Returns true if the notice was withdrawn, or the order cancelled.
    pub(super) fn is_over(&self) -> bool {
        self.cause.is_over()
    }

    /// Removes all waiting connections; they stay open.
    pub(super) fn clear(&self) {
        self.waiting.borrow_mut().drain(..).for_each(|entry| self.release(&entry));
    }

    /// Records that a connection left the queue and stays open.
    fn release(&self, entry: &ConnectionEntry) {
        entry.set_close_queues(|queues| self.cause.leave(queues));
    }

    /// Removes connections that have ended, and starts the task that closes the others.
    ///
    /// # Panics
    ///
    /// If the thread has no executor.
    pub(super) fn run(self: &Rc<Self>) {
        self.waiting.borrow_mut().retain(|entry| !entry.is_gone());
        if !self.waiting.borrow().is_empty() && !self.has_task.replace(true) {
            executor::spawn(close_all_in_turn(Rc::clone(self)));
        }
    }

    /// Returns the next connection that is still to be closed. Other tasks have their turns while many are passed over.
    async fn next(&self) -> Option<Rc<ConnectionEntry>> {
        let mut passed_over = 0_usize;
        loop {
            let entry = self.waiting.borrow_mut().pop_front()?;
            if self.cause.includes(&entry) {
                return Some(entry);
            }
            self.release(&entry);
            passed_over += 1;
            if passed_over.is_multiple_of(PASSED_OVER) {
                yield_now().await;
            }
        }
    }
}

/// Closes the queued connections, each in its turn.
async fn close_all_in_turn(closing: Rc<CloseQueue>) {
    let cause = &closing.cause;
    while let Some(entry) = closing.next().await {
        let turn = cause.pace().turn(Instant::now());
        // A turn may be hours away.
        while !closing.is_over() && Instant::now() < turn {
            sleep_until(turn.min(Instant::now() + CHECK)).await;
        }
        if closing.is_over() {
            closing.release(&entry);
            closing.clear();
            break;
        }
        match cause.includes(&entry) {
            true => entry.send_command(ConnectionCommand::Close(cause.reason())),
            false => closing.release(&entry),
        }
    }
    closing.has_task.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lies_in_its_part_of_a_second() {
        for rate in [1, 3, 100, 1_000_000] {
            let pace = ClosePace::new(rate);
            let start = Instant::now();
            let part = Duration::from_secs(1) / rate;
            let mut early = 0;
            for number in 0..200 {
                let turn = pace.turn(start);
                let begin = start + part * number;
                // The end of a turn is rounded to a nanosecond.
                assert!(turn >= begin && turn <= begin + part, "{rate} {number}");
                early += u32::from(turn - begin < part / 2);
            }
            assert!((40..160).contains(&early), "{early} of 200 in the first half");
        }
    }

    #[test]
    fn unused_turns_are_not_saved() {
        let pace = ClosePace::new(10);
        let start = Instant::now();
        pace.turn(start);
        let later = start + Duration::from_secs(60);
        for number in 0..10 {
            assert!(pace.turn(later) >= later + Duration::from_millis(100) * number);
        }
    }

    #[test]
    fn a_rate_of_nothing_is_slow() {
        assert_eq!(ClosePace::new(0).part, Duration::from_secs(1));
    }
}
