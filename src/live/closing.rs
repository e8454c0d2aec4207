//! Closes the connections of a backend one after the other.
//!
//! Clients that lose a connection connect again. Many of them at the same moment may be more than the
//! remaining backends can take. So each connection has its turn, at a pace that all workers share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::command::ConnectionCommand;
use super::entry::ConnectionEntry;
use super::stage::CloseTurn;
use crate::executor::{self, sleep_until};
use crate::ids::BackendId;
use crate::telemetry::CloseReason;

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
        let part = Duration::from_secs(1) / rate.max(1);
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

/// The connections of one worker that wait for their turn to be closed.
pub(super) struct CloseQueue {
    notice: Arc<CloseNotice>,
    waiting: RefCell<VecDeque<Rc<ConnectionEntry>>>,
    /// True while a task closes them.
    has_task: Cell<bool>,
}

impl CloseQueue {
    pub(super) fn new(notice: Arc<CloseNotice>) -> Rc<Self> {
        Rc::new(Self { notice, waiting: RefCell::default(), has_task: Cell::new(false) })
    }

    /// Adds a connection to the queue.
    pub(super) fn add(&self, entry: &Rc<ConnectionEntry>) {
        entry.set_close_turn(CloseTurn::Queued);
        self.waiting.borrow_mut().push_back(Rc::clone(entry));
    }

    /// Returns true if the notice was withdrawn.
    pub(super) fn is_over(&self) -> bool {
        self.notice.is_withdrawn()
    }

    /// Removes all waiting connections; they stay open.
    pub(super) fn clear(&self) {
        self.waiting.borrow_mut().drain(..).for_each(|entry| entry.set_close_turn(CloseTurn::None));
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

    /// Returns the next connection that is still open.
    fn next(&self) -> Option<Rc<ConnectionEntry>> {
        let mut waiting = self.waiting.borrow_mut();
        std::iter::from_fn(|| waiting.pop_front()).find(|entry| !entry.is_gone())
    }
}

/// Closes the queued connections, each in its turn.
async fn close_all_in_turn(closing: Rc<CloseQueue>) {
    let CloseNotice { reason, pace, .. } = &*closing.notice;
    while let Some(entry) = closing.next() {
        sleep_until(pace.turn(Instant::now())).await;
        if closing.is_over() {
            entry.set_close_turn(CloseTurn::None);
            break;
        }
        entry.send_command(ConnectionCommand::Close(*reason));
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
