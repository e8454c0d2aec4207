//! The results of a backend's checks.

use std::sync::Arc;

use super::change::ChangeReason;
use super::outcome::{CheckFault, CheckOutcome};
use crate::pool::HealthSpec;
use crate::telemetry::FailedCheck;
use crate::wire::handover::{HandedChecks, HandedFailure};

/// The failure of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// The kind of fault.
    pub fault: CheckFault,
    /// The first words of the backend's answer, cut and not escaped, or the fault of this answer; `None` if the
    /// backend sent nothing.
    pub heard: Option<Arc<str>>,
}

impl From<CheckFault> for CheckFailure {
    fn from(fault: CheckFault) -> Self {
        Self { fault, heard: None }
    }
}

/// The state of a backend by its checks.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    up: bool,
    /// False while `up` is a guess, because no check has ended.
    known: bool,
    /// The number of results in a row that contradict `up`.
    against: u32,
    /// The failure of the last failed check. Kept while `up` is false, also after a check that passed.
    failure: Option<CheckFailure>,
}

impl Checked {
    /// The state before the first check.
    pub(super) const UNKNOWN: Self = Self { up: true, known: false, against: 0, failure: None };

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// The failure of the last check; `None` if the last check passed and `up` is true.
    pub(super) fn failure(&self) -> Option<&CheckFailure> {
        self.failure.as_ref()
    }

    /// Adds the text that the backend sent in the last check.
    pub(super) fn add_words(&mut self, heard: Option<Arc<str>>) {
        if let Some(failure) = &mut self.failure {
            failure.heard = heard;
        }
    }

    /// Makes the state a guess, because its results are old. The next result decides.
    pub(super) fn doubt(&mut self) {
        self.known = false;
        self.against = 0;
    }

    /// Applies the result of one check. Returns the reason if the result changed `up`.
    ///
    /// `rise` and `fall` are read from `spec` at each call, so a reload may change them and the state stays; a 0
    /// there works as 1.
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

    /// Returns the state for a hand-over.
    pub(super) fn hand_over(&self) -> HandedChecks {
        let failure = self.failure.as_ref().map(|failure| HandedFailure {
            fault: failure.fault.failed_check().word().to_owned(),
            alert: match failure.fault {
                CheckFault::TlsAlert(alert) => Some(alert),
                _ => None,
            },
            heard: failure.heard.as_deref().map(str::to_owned),
        });
        HandedChecks { is_down: !self.up, is_known: self.known, against: self.against, failure }
    }

    /// Returns the state that was handed over.
    pub(super) fn restored(handed: &HandedChecks) -> Self {
        let fault = |failure: &HandedFailure| {
            let kind = FailedCheck::ALL.into_iter().find(|kind| kind.word() == failure.fault);
            CheckFault::of_failed_check(kind.unwrap_or(FailedCheck::Other), failure.alert)
        };
        let failure = handed.failure.as_ref().map(|failure| CheckFailure {
            fault: fault(failure),
            heard: failure.heard.as_deref().map(Arc::from),
        });
        Self { up: !handed.is_down, known: handed.is_known, against: handed.against, failure }
    }
}
