//! Changes of a pool in use: the states of its backends.
//!
//! Not for concurrent callers: one task applies all changes. Reports about a backend that a reload has removed or
//! replaced meanwhile are ignored.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::agent::{AgentReport, of_state};
use super::backend::Backend;
use super::health::{BackendState, EjectionSpec, HealthEvent, HealthRules, StateChange, Trouble};
use super::pool_in_use::Pool;
use super::probe::CheckReport;
use crate::wire::agent::AgentDirective;

/// A report that the same trouble happened at a backend many times in a row. Control may then eject the
/// backend.
#[derive(Clone, Debug)]
pub struct FailureReport {
    /// The backend as the last of these clients held it.
    pub backend: Arc<Backend>,
    /// The trouble that happened.
    pub trouble: Trouble,
}

/// The reason for which a backend is not ejected although clients fail there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EjectionRefusal {
    /// The pool is at its limit of ejected backends.
    #[error("the limit of ejected backends is reached")]
    MostEjected,
    /// No other backend of the pool is available.
    #[error("no other backend is available")]
    LastOne,
}

impl Pool {
    /// Applies the result of a check. Returns the change if the state of the backend changed.
    ///
    /// Ignored while the pool has no checks.
    pub fn apply(&self, report: &CheckReport, now: Instant) -> Option<StateChange> {
        self.spec.health.as_ref()?;
        self.mine(&report.backend)?.observe(report.found.clone(), self.rules(), now)
    }

    /// Applies the directives of a backend's agent, one after the other.
    ///
    /// Ignored while the pool has no agents.
    pub fn apply_agent_report(&self, report: &AgentReport, now: Instant) -> Vec<StateChange> {
        let (Some(_), Ok(words), Some(backend)) =
            (&self.spec.agent, &report.heard, self.mine(&report.backend))
        else {
            return Vec::new();
        };
        let take_in = |word: &AgentDirective| {
            backend.allow(*word);
            backend.on(HealthEvent::Agent(of_state(*word)?), self.rules(), now)
        };
        words.iter().filter_map(take_in).collect()
    }

    /// Ejects a backend at which clients failed, if the pool has other backends.
    ///
    /// # Errors
    ///
    /// The reason for which the backend is not ejected.
    pub fn eject(
        &self,
        failure_report: &FailureReport,
        now: Instant,
    ) -> Result<Option<StateChange>, EjectionRefusal> {
        let Some(spec) = &self.spec.ejection else { return Ok(None) };
        let Some(backend) =
            self.mine(&failure_report.backend).filter(|backend| backend.state() == BackendState::Up)
        else {
            return Ok(None);
        };
        let ejected = self.backends.iter().filter(|backend| backend.state() == BackendState::Ejected).count();
        if ejected >= self.most_ejected(spec) {
            return Err(EjectionRefusal::MostEjected);
        }
        if !self.backends.iter().any(|other| other.is_available() && !other.is_same(backend)) {
            return Err(EjectionRefusal::LastOne);
        }
        Ok(backend.on(HealthEvent::Failures(failure_report.trouble), self.rules(), now))
    }

    fn most_ejected(&self, spec: &EjectionSpec) -> usize {
        (self.backends.len() * usize::from(spec.max_ejected) / 100).max(1)
    }

    /// Readmits a backend whose ejection is over.
    pub fn readmit(&self, backend: &Backend, now: Instant) -> Option<StateChange> {
        self.mine(backend)?.on(HealthEvent::Time, self.rules(), now)
    }

    /// Applies the spec to the states of the backends: the operator state of each backend, and the use of checks,
    /// agents and ejections. Must be called after the pool came into force, not before. Backends are shared with
    /// the replaced pool, and waiters are directed to this pool.
    pub fn settle(self: &Arc<Self>, now: Instant) -> Vec<(Arc<Backend>, StateChange)> {
        let checks_off = self.spec.health.is_none().then_some(HealthEvent::ChecksOff);
        let agent_off = self.spec.agent.is_none().then_some(HealthEvent::AgentOff);
        let ejection_off = self.spec.ejection.is_none().then_some(HealthEvent::EjectionOff);
        let tolerated = self.spec.tolerated();
        let mut changes = Vec::new();
        for (backend, spec) in self.backends.iter().zip(&self.spec.backends) {
            backend.traffic().tolerate(tolerated);
            if agent_off.is_some() {
                backend.allow_all();
            }
            for event in
                [Some(HealthEvent::Operator(spec.operator_state)), checks_off, agent_off, ejection_off]
                    .into_iter()
                    .flatten()
            {
                let change = backend.on(event, self.rules(), now);
                changes.extend(change.map(|change| (Arc::clone(backend), change)));
            }
        }
        self.come_into_force();
        changes
    }

    fn come_into_force(self: &Arc<Self>) {
        let before = std::mem::replace(&mut *self.present(), Arc::downgrade(self));
        if !std::ptr::eq(before.as_ptr(), Arc::as_ptr(self)) {
            self.signals.queue.changed();
        }
    }

    /// The pool of this name that is in force.
    pub(super) fn present(&self) -> MutexGuard<'_, Weak<Pool>> {
        // The value is replaced in one step.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the backend of this pool that shares its health with `other`. A discovered backend may have another name
    /// now.
    fn mine(&self, other: &Backend) -> Option<&Arc<Backend>> {
        let is_it = |backend: &&Arc<Backend>| backend.shares_health(other);
        self.backend(other.name()).filter(is_it).or_else(|| self.backends.iter().find(is_it))
    }

    fn rules(&self) -> HealthRules<'_> {
        HealthRules { health: self.spec.health.as_ref(), ejection: self.spec.ejection.as_ref() }
    }
}
