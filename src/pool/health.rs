//! Whether a backend may be used, decided from the results of its checks: a pure state machine.
//!
//! It starts up. Nothing is known of a backend that was just configured, and holding traffic back
//! until its first check would make each start and each added backend an outage of its own. But for
//! the same reason the very first result decides at once: a guess needs no `fall` failures in a row
//! to be given up, so a backend that was never there costs clients one check at the most. From then
//! on `rise` and `fall` results in a row move it.
//!
//! It does not run checks (`probe` does) and holds no clock.

use std::time::Instant;

use super::HealthSpec;

/// Whether a backend takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Up,
    /// Its checks fail: it does not. Open connections stay.
    Down,
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The backend did what was asked.
    Passed,
    /// It did not, or the check could not be made.
    Failed(CheckFault),
}

/// Why a check did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckFault {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the check's time.
    #[error("timed out")]
    Timeout,
    /// No route to the host or its network.
    #[error("unreachable")]
    Unreachable,
    /// This process was out of descriptors, ports or memory. It says nothing about the backend and
    /// never counts against it.
    #[error("out of local resources")]
    Local,
    /// Any other error.
    #[error("failed")]
    Other,
}

/// A backend moved from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state it left.
    pub from: State,
    /// The state it is in now.
    pub to: State,
    /// What moved it.
    pub reason: Reason,
}

/// What moved a backend to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Enough checks passed in a row.
    #[error("checks passed")]
    ChecksPassed,
    /// Enough checks failed in a row; this is the last one's fault.
    #[error("checks failed: {0}")]
    ChecksFailed(CheckFault),
}

/// What is known of one backend's health.
#[derive(Clone, Debug)]
pub(super) struct Health {
    state: State,
    /// When `state` began.
    since: Instant,
    /// False until a first result: the state is a guess.
    known: bool,
    /// Results in a row that speak against `state`.
    against: u32,
}

impl Health {
    /// A backend of which nothing is known: up until its first check says otherwise.
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Up, since: now, known: false, against: 0 }
    }

    /// When the present state began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Takes in the result of one check.
    ///
    /// `rise` and `fall` are read from `spec` at each call, so a reload may change them and what is
    /// known stays; a 0 there works as 1.
    pub(super) fn observe(
        &mut self,
        outcome: CheckOutcome,
        spec: &HealthSpec,
        now: Instant,
    ) -> Option<Change> {
        let (says, reason) = match outcome {
            CheckOutcome::Passed => (State::Up, Reason::ChecksPassed),
            CheckOutcome::Failed(CheckFault::Local) => return None,
            CheckOutcome::Failed(fault) => (State::Down, Reason::ChecksFailed(fault)),
        };
        let first = !self.known;
        self.known = true;
        if says == self.state {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match says {
            State::Up => spec.rise,
            State::Down => spec.fall,
        };
        if !first && self.against < needed {
            return None;
        }
        let from = std::mem::replace(&mut self.state, says);
        self.since = now;
        self.against = 0;
        Some(Change { from, to: says, reason })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::pool::CheckKind;

    fn spec(rise: u32, fall: u32) -> HealthSpec {
        let second = Duration::from_secs(1);
        HealthSpec { check: CheckKind::Tcp, interval: second, timeout: second, rise, fall }
    }

    fn outcome(letter: char) -> CheckOutcome {
        match letter {
            'p' => CheckOutcome::Passed,
            'f' => CheckOutcome::Failed(CheckFault::Refused),
            't' => CheckOutcome::Failed(CheckFault::Timeout),
            'l' => CheckOutcome::Failed(CheckFault::Local),
            other => panic!("no outcome is written {other}"),
        }
    }

    /// Runs `results` and writes the state after each: `U` and `D`.
    fn check(rise: u32, fall: u32, results: &str, expected: &str) {
        let start = Instant::now();
        let mut health = Health::new(start);
        let mut states = String::new();
        for (at, letter) in results.chars().enumerate() {
            let now = start + Duration::from_secs(at as u64 + 1);
            let before = health.state;
            let change = health.observe(outcome(letter), &spec(rise, fall), now);
            assert_eq!(change.is_some(), before != health.state, "{results} at {at}");
            if let Some(change) = change {
                assert_eq!((change.from, change.to), (before, health.state));
                assert_eq!(health.since(), now);
            }
            states.push(if health.state == State::Up { 'U' } else { 'D' });
        }
        assert_eq!(states, expected, "{results} with rise {rise}, fall {fall}");
    }

    #[test]
    fn the_first_result_decides() {
        check(2, 3, "", "");
        check(2, 3, "p", "U");
        check(2, 3, "f", "D");
        check(2, 3, "t", "D");
    }

    #[test]
    fn fall_failures_in_a_row_take_it_down() {
        check(2, 3, "pfff", "UUUD");
        check(2, 3, "pffpfff", "UUUUUUD");
        check(2, 3, "pftf", "UUUD");
        check(2, 1, "pf", "UD");
        check(2, 0, "pf", "UD");
    }

    #[test]
    fn rise_successes_in_a_row_bring_it_up() {
        check(2, 3, "fpp", "DDU");
        check(2, 3, "fpfpp", "DDDDU");
        check(1, 3, "fp", "DU");
        check(0, 3, "fp", "DU");
        check(2, 3, "fppffpfff", "DDUUUUUUD");
    }

    #[test]
    fn our_own_trouble_is_no_result() {
        check(2, 3, "lf", "UD");
        check(2, 3, "pflflf", "UUUUUD");
        check(2, 3, "fplp", "DDDU");
        check(2, 3, "lllll", "UUUUU");
    }

    #[test]
    fn a_change_names_the_last_fault() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let mut last = None;
        for letter in "pfft".chars() {
            last = health.observe(outcome(letter), &spec(2, 3), now);
        }
        let reason = Reason::ChecksFailed(CheckFault::Timeout);
        assert_eq!(last, Some(Change { from: State::Up, to: State::Down, reason }));
    }

    #[test]
    fn thresholds_may_change_between_results() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for letter in "pff".chars() {
            assert_eq!(health.observe(outcome(letter), &spec(2, 5), now), None);
        }
        assert!(health.observe(outcome('f'), &spec(2, 2), now).is_some());
    }

    proptest! {
        #[test]
        fn a_state_never_changes_without_its_count(results in "[pfl]{1,60}", rise in 1_u32..5, fall in 1_u32..5) {
            let now = Instant::now();
            let mut health = Health::new(now);
            let heard: String = results.chars().filter(|&letter| letter != 'l').collect();
            let mut seen = String::new();
            for letter in heard.chars() {
                seen.push(letter);
                if let Some(change) = health.observe(outcome(letter), &spec(rise, fall), now) {
                    let needed = if change.to == State::Up { rise } else { fall } as usize;
                    let row = seen.chars().rev().take_while(|&other| other == letter).count();
                    prop_assert!(row >= needed || seen.len() == 1);
                }
            }
        }
    }
}
