//! What the checks of a backend have found.

use std::sync::Arc;

use super::{ChangeReason, CheckFault, CheckOutcome};
use crate::pool::HealthSpec;

/// What a failed check met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// The kind of fault.
    pub fault: CheckFault,
    /// The first words of the backend's answer, cut and not escaped, or what is wrong with it; `None` if it sent nothing.
    pub heard: Option<Arc<str>>,
}

impl From<CheckFault> for CheckFailure {
    fn from(fault: CheckFault) -> Self {
        Self { fault, heard: None }
    }
}

/// The finding of a backend's checks.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    up: bool,
    /// False while no result stands behind `up`: it is a guess.
    known: bool,
    /// Results in a row that speak against `up`.
    against: u32,
    /// What the last failed check met. Kept while the finding is down, also behind a check that passed.
    failure: Option<CheckFailure>,
}

impl Checked {
    /// Nothing was found yet.
    pub(super) const UNKNOWN: Self = Self { up: true, known: false, against: 0, failure: None };

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// What the last failed check met; `None` if the last one passed and the finding is up.
    pub(super) fn failure(&self) -> Option<&CheckFailure> {
        self.failure.as_ref()
    }

    /// Adds the words that the backend sent in the check that was observed last.
    pub(super) fn add_words(&mut self, heard: Option<Arc<str>>) {
        if let Some(failure) = &mut self.failure {
            failure.heard = heard;
        }
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
    pub(super) fn observe(&mut self, outcome: CheckOutcome, spec: &HealthSpec) -> Option<ChangeReason> {
        let (says_up, reason) = match outcome {
            CheckOutcome::Passed => (true, ChangeReason::ChecksPassed),
            CheckOutcome::Failed(CheckFault::Local) => return None,
            CheckOutcome::Failed(fault) => (false, ChangeReason::ChecksFailed(fault)),
        };
        if let CheckOutcome::Failed(fault) = outcome {
            self.failure = Some(CheckFailure { fault, heard: None });
        }
        let first = !self.known;
        self.known = true;
        if says_up == self.up {
            self.against = 0;
            self.failure = self.failure.take().filter(|_| !says_up);
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if says_up { spec.rise } else { spec.fall };
        if !first && self.against < needed {
            return None;
        }
        let failure = self.failure.take().filter(|_| !says_up);
        *self = Self { up: says_up, known: true, against: 0, failure };
        Some(reason)
    }
}
