//! What the checks of a backend have found.

use super::{CheckFault, CheckOutcome, Reason};
use crate::pool::HealthSpec;

/// The finding of a backend's checks.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    up: bool,
    /// False while no result stands behind `up`: it is a guess.
    known: bool,
    /// Results in a row that speak against `up`.
    against: u32,
}

impl Checked {
    /// Nothing was found yet.
    pub(super) const UNKNOWN: Self = Self { up: true, known: false, against: 0 };

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// What was found is long ago: a guess, until the next result decides.
    pub(super) fn doubt(&mut self) {
        self.known = false;
        self.against = 0;
    }

    /// Takes in the result of one check; the reason, if that turned the finding.
    ///
    /// `rise` and `fall` are read from `spec` at each call, so a reload may change them and what is
    /// known stays; a 0 there works as 1.
    pub(super) fn observe(&mut self, outcome: CheckOutcome, spec: &HealthSpec) -> Option<Reason> {
        let (says_up, reason) = match outcome {
            CheckOutcome::Passed => (true, Reason::ChecksPassed),
            CheckOutcome::Failed(CheckFault::Local) => return None,
            CheckOutcome::Failed(fault) => (false, Reason::ChecksFailed(fault)),
        };
        let first = !self.known;
        self.known = true;
        if says_up == self.up {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if says_up { spec.rise } else { spec.fall };
        if !first && self.against < needed {
            return None;
        }
        *self = Self { up: says_up, known: true, against: 0 };
        Some(reason)
    }
}
