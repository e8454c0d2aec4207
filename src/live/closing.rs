//! Closing the connections of a group one after the other.
//!
//! Whoever loses a connection comes back, and many who come back at the same moment may be more than those
//! who are left can take. So each has its turn, by a pace that all workers share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{ConnectionCommand, ConnectionEntry};
use crate::executor::{self, TaskNext, sleep_until};
use crate::telemetry::CloseReason;

/// So many turns a second, each at a random moment of its part of it. Shared by the workers.
#[derive(Debug)]
pub struct ClosePace {
    /// The part of a second that one turn has.
    part: Duration,
    randomness: RandomState,
    /// Locked for a few instructions for each connection that is closed.
    turns: Mutex<CloseTurns>,
}

#[derive(Debug, Default)]
struct CloseTurns {
    /// Where the next turn's part begins, at the earliest.
    next: Option<Instant>,
    /// How many there were.
    drawn: u64,
}

impl ClosePace {
    /// So many turns a second; 0 works as 1.
    pub fn new(rate: u32) -> Arc<Self> {
        let part = Duration::from_secs(1) / rate.max(1);
        Arc::new(Self { part, randomness: RandomState::new(), turns: Mutex::default() })
    }

    /// The moment of the next turn.
    pub(super) fn turn(&self, now: Instant) -> Instant {
        // A panic in here cannot happen, and would leave nothing half-made.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = turns.next.map_or(now, |next| next.max(now));
        turns.next = Some(begin + self.part);
        turns.drawn += 1;
        // The 53 bits that an f64 holds exactly.
        let fraction = (self.randomness.hash_one(turns.drawn) >> 11) as f64 / (1_u64 << 53) as f64;
        begin + self.part.mul_f64(fraction)
    }
}

/// The notice to leave that a group of connections is given. Held by who gave it, who may withdraw it, and
/// by the workers, until it is withdrawn.
#[derive(Debug)]
pub struct CloseNotice {
    group: u64,
    reason: CloseReason,
    pace: Arc<ClosePace>,
    withdrawn: AtomicBool,
}

impl CloseNotice {
    /// A notice to the established connections of a backend, by its number, those that come later included.
    pub fn new(backend: u64, reason: CloseReason, pace: Arc<ClosePace>) -> Arc<Self> {
        Arc::new(Self { group: backend, reason, pace, withdrawn: AtomicBool::new(false) })
    }

    /// Lets those stay whose turn has not come.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether it was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// The number of the group it is for.
    pub(super) fn group(&self) -> u64 {
        self.group
    }
}

/// Those of one worker who have been given notice.
pub(super) struct CloseQueue {
    notice: Arc<CloseNotice>,
    waiting: RefCell<VecDeque<Rc<ConnectionEntry>>>,
    /// Whether a task calls them up.
    at_work: Cell<bool>,
}

impl CloseQueue {
    pub(super) fn new(notice: Arc<CloseNotice>) -> Rc<Self> {
        Rc::new(Self { notice, waiting: RefCell::default(), at_work: Cell::new(false) })
    }

    /// Puts a connection into the row.
    pub(super) fn add(&self, entry: &Rc<ConnectionEntry>) {
        entry.noticed.set(true);
        self.waiting.borrow_mut().push_back(Rc::clone(entry));
    }

    /// Whether the notice was withdrawn.
    pub(super) fn is_over(&self) -> bool {
        self.notice.is_withdrawn()
    }

    /// Lets go of those who wait.
    pub(super) fn give_up(&self) {
        self.waiting.borrow_mut().drain(..).for_each(|entry| entry.noticed.set(false));
    }

    /// Forgets who has left by himself, and sees to it that the others are called up.
    ///
    /// # Panics
    ///
    /// On a thread without an executor.
    pub(super) fn go_on(self: &Rc<Self>) {
        self.waiting.borrow_mut().retain(|entry| !entry.gone.get());
        if !self.waiting.borrow().is_empty() && !self.at_work.replace(true) {
            executor::spawn(call_up(Rc::clone(self)));
        }
    }

    /// The next one who is still there.
    fn next(&self) -> Option<Rc<ConnectionEntry>> {
        let mut waiting = self.waiting.borrow_mut();
        std::iter::from_fn(|| waiting.pop_front()).find(|entry| !entry.gone.get())
    }
}

/// Tells one after the other to close, as long as somebody waits.
async fn call_up(closing: Rc<CloseQueue>) -> TaskNext {
    let CloseNotice { reason, pace, .. } = &*closing.notice;
    while let Some(entry) = closing.next() {
        sleep_until(pace.turn(Instant::now())).await;
        if closing.is_over() {
            entry.noticed.set(false);
            break;
        }
        entry.tell(ConnectionCommand::Close(*reason));
    }
    closing.at_work.set(false);
    TaskNext::Done
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
                // The end is the nearest nanosecond to what lies just before it.
                assert!(turn >= begin && turn <= begin + part, "{rate} {number}");
                early += u32::from(turn - begin < part / 2);
            }
            assert!((40..160).contains(&early), "{early} of 200 in the first half");
        }
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
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
