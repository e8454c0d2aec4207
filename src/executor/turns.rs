//! The order of turns: short turns first.
//!
//! A task that wakes itself has used up its turn and has more to do. An example is a stream whose bytes have
//! arrived. Such a task is *long* until it has had [`SHORT_AGAIN`] turns that it did not use up. In a pass the
//! other tasks come first. The long tasks then run for as long as the other tasks took, or for [`SLICE`],
//! whichever is longer. So a small request beside many streams waits for one slice only, not for a turn of each
//! stream. The streams still have at least half of the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The least time that the long tasks of a pass have together. A stream has several turns in this time. After each
/// pass the reactor polls the kernel, which costs about a hundredth of this time.
const SLICE: Duration = Duration::from_micros(200);

/// A long task becomes short after this number of turns in a row that it did not use up. A stream whose source
/// is empty for a moment stays long.
const SHORT_AGAIN: u8 = 2;

/// The length of a task's last turns: long or short.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnLength(u8);

impl TurnLength {
    /// Notes that the task woke itself in its turn.
    pub(super) fn used_up(&mut self) {
        self.0 = SHORT_AGAIN;
    }

    /// Notes that the task ended its turn without waking itself.
    pub(super) fn ended(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    fn is_long(self) -> bool {
        self.0 > 0
    }
}

/// The keys of the tasks that wait for a turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    ready: VecDeque<u32>,
    /// Tasks that have not run yet.
    fresh: VecDeque<u32>,
    long: VecDeque<u32>,
}

/// The rest of a pass.
#[derive(Debug)]
pub(super) struct PassBounds {
    ready: usize,
    long: usize,
    /// The start of the pass. Set only if long tasks wait: all other passes do not read the clock.
    began: Option<Instant>,
    /// Set with the first long task of the pass.
    long_until: Option<Instant>,
}

impl Turns {
    pub(super) fn push(&mut self, key: u32, length: TurnLength) {
        if length.is_long() { self.long.push_back(key) } else { self.ready.push_back(key) }
    }

    pub(super) fn push_fresh(&mut self, key: u32) {
        self.fresh.push_back(key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.fresh.is_empty() && self.long.is_empty()
    }

    /// Begins a pass over the tasks that wait now. Fresh tasks join the pass at any time.
    pub(super) fn begin_pass(&self, now: impl FnOnce() -> Instant) -> PassBounds {
        let long = self.long.len();
        PassBounds { ready: self.ready.len(), long, began: (long > 0).then(now), long_until: None }
    }

    /// Returns the next task of a pass, or `None` at its end.
    pub(super) fn next(&mut self, pass: &mut PassBounds, now: impl FnOnce() -> Instant) -> Option<u32> {
        if let Some(left) = pass.ready.checked_sub(1) {
            pass.ready = left;
            return self.ready.pop_front();
        }
        self.fresh.pop_front().or_else(|| self.next_long(pass, now))
    }

    fn next_long(&mut self, pass: &mut PassBounds, now: impl FnOnce() -> Instant) -> Option<u32> {
        pass.long = pass.long.checked_sub(1)?;
        let (began, now) = (pass.began?, now());
        let until = *pass.long_until.get_or_insert(now + SLICE.max(now - began));
        if now < until { self.long.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the keys of a pass in which each task takes the time of `turn`.
    fn pass(turns: &mut Turns, turn: impl Fn(u32) -> Duration) -> Vec<u32> {
        let mut now = Instant::now();
        let mut pass = turns.begin_pass(|| now);
        let mut keys = Vec::new();
        while let Some(key) = turns.next(&mut pass, || now) {
            now += turn(key);
            keys.push(key);
        }
        keys
    }

    fn long() -> TurnLength {
        let mut length = TurnLength::default();
        length.used_up();
        length
    }

    #[test]
    fn short_turns_come_first_and_long_ones_have_a_slice() {
        let mut turns = Turns::default();
        (10..20).for_each(|key| turns.push(key, long()));
        turns.push(1, TurnLength::default());
        turns.push_fresh(2);
        // Three turns of 80 us are the first to reach the slice of 200 us.
        let took = |key| Duration::from_micros(if key < 10 { 5 } else { 80 });
        assert_eq!(pass(&mut turns, took), [1, 2, 10, 11, 12]);
        turns.push(3, TurnLength::default());
        assert_eq!(pass(&mut turns, took), [3, 13, 14, 15]);
        assert_eq!(pass(&mut turns, took), [16, 17, 18]);
        assert_eq!(pass(&mut turns, took), [19]);
        assert!(turns.is_empty());
    }

    #[test]
    fn long_tasks_have_as_much_time_as_the_others() {
        let mut turns = Turns::default();
        (0..100).for_each(|key| turns.push(key, TurnLength::default()));
        (100..200).for_each(|key| turns.push(key, long()));
        let keys = pass(&mut turns, |_| Duration::from_micros(50));
        assert_eq!(keys, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn each_pass_gives_a_long_task_a_turn() {
        let mut turns = Turns::default();
        turns.push(1, long());
        turns.push(2, long());
        let took = |_| Duration::from_secs(1);
        assert_eq!(pass(&mut turns, took), [1]);
        assert_eq!(pass(&mut turns, took), [2]);
    }

    /// A task that is pushed during a pass waits for the next pass, so that the kernel is polled in between.
    #[test]
    fn a_pass_has_an_end() {
        let mut turns = Turns::default();
        turns.push(1, TurnLength::default());
        turns.push(2, long());
        let now = Instant::now();
        let mut pass = turns.begin_pass(|| now);
        let mut seen = Vec::new();
        while let Some(key) = turns.next(&mut pass, || now) {
            turns.push(key, if key == 1 { TurnLength::default() } else { long() });
            seen.push(key);
        }
        assert_eq!(seen, [1, 2]);
        assert!(!turns.is_empty());
    }

    #[test]
    fn a_long_task_becomes_short_by_turns_that_end() {
        let mut length = long();
        length.ended();
        assert!(length.is_long());
        length.ended();
        assert!(!length.is_long());
        length.ended();
        length.used_up();
        assert!(length.is_long());
    }
}
