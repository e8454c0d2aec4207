//! May it come in? Counts and bounds, handed back by guards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count with an upper bound that can change while it is in use.
#[derive(Debug)]
pub struct Gate {
    inside: AtomicU64,
    limit: AtomicU64,
}

impl Gate {
    /// A gate that lets `limit` in at once; `u64::MAX` is no limit.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { inside: AtomicU64::new(0), limit: AtomicU64::new(limit) })
    }

    /// Lets somebody in, or not. What is inside when the limit falls may stay.
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        self.enter_with(1)
    }

    /// Lets `weight` in at once, or nothing.
    pub fn enter_with(self: &Arc<Self>, weight: u64) -> Option<Pass> {
        let before = self.inside.fetch_add(weight, Ordering::Relaxed);
        // The guard exists first, so that a refusal gives back what was just counted.
        let pass = Pass { gate: Arc::clone(self), weight };
        (before.saturating_add(weight) <= self.limit()).then_some(pass)
    }

    /// How much is inside now.
    pub fn inside(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the bound.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// Somebody inside a gate; leaves on drop.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    weight: u64,
}

impl Pass {
    /// Takes more room, or none: then the pass is as before.
    pub fn grow(&mut self, by: u64) -> bool {
        let Some(mut more) = self.gate.enter_with(by) else { return false };
        self.weight += by;
        more.weight = 0;
        true
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// Why a connection may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its listener has as many connections as it may.
    ListenerFull,
    /// The process has as many connections as it may.
    ProcessFull,
}

/// A connection that was let in; gives its places back on drop.
#[derive(Debug)]
pub struct Permit {
    _process: Pass,
    _listener: Pass,
}

impl Permit {
    /// Asks the process and the listener for a place.
    ///
    /// # Errors
    ///
    /// The first that has none.
    pub fn ask(process: &Arc<Gate>, listener: &Arc<Gate>) -> Result<Self, Refusal> {
        let process = process.enter().ok_or(Refusal::ProcessFull)?;
        let listener = listener.enter().ok_or(Refusal::ListenerFull)?;
        Ok(Self { _process: process, _listener: listener })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts_in_and_out() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        assert_eq!(gate.inside(), 2, "a refusal leaves nothing behind");
        drop(first);
        assert!(gate.enter().is_some());
        gate.set_limit(0);
        assert!(gate.enter().is_none());
        drop(second);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_pass_grows_within_the_limit() {
        let gate = Gate::new(100);
        let mut pass = gate.enter_with(60).unwrap();
        assert!(pass.grow(40));
        assert!(!pass.grow(1));
        assert_eq!(gate.inside(), 100);
        drop(pass);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_refused_listener_gives_the_process_its_place_back() {
        let (process, listener) = (Gate::new(5), Gate::new(0));
        assert_eq!(Permit::ask(&process, &listener).unwrap_err(), Refusal::ListenerFull);
        assert_eq!(process.inside(), 0);
        assert_eq!(Permit::ask(&Gate::new(0), &listener).unwrap_err(), Refusal::ProcessFull);
    }
}
