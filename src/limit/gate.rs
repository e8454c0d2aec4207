//! Counts with an upper bound, handed back by guards, and what a connection holds of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sources::SourcePass;

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
    pub fn enter(self: &Arc<Self>) -> Option<GatePass> {
        self.admits(1).then(|| GatePass(Arc::clone(self)))
    }

    /// Gives a share of so much, or nothing.
    pub fn share(self: &Arc<Self>, weight: u64) -> Option<GateShare> {
        self.admits(weight).then(|| GateShare { gate: Arc::clone(self), weight })
    }

    /// Counts so much in, if there is room.
    fn admits(&self, weight: u64) -> bool {
        let before = self.inside.fetch_add(weight, Ordering::Relaxed);
        let fits = before.saturating_add(weight) <= self.limit();
        if !fits {
            self.leave(weight);
        }
        fits
    }

    fn leave(&self, weight: u64) {
        self.inside.fetch_sub(weight, Ordering::Relaxed);
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
pub struct GatePass(Arc<Gate>);

impl Drop for GatePass {
    fn drop(&mut self) {
        self.0.leave(1);
    }
}

/// A part of what a gate has to give; given back on drop.
#[derive(Debug)]
pub struct GateShare {
    gate: Arc<Gate>,
    weight: u64,
}

impl GateShare {
    /// Takes more, or nothing: then the share is as before.
    pub fn grow(&mut self, by: u64) -> bool {
        let grown = self.gate.admits(by);
        if grown {
            self.weight += by;
        }
        grown
    }
}

impl Drop for GateShare {
    fn drop(&mut self) {
        self.gate.leave(self.weight);
    }
}

/// Why a connection may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionRefusal {
    /// Its listener has as many connections as it may.
    ListenerFull,
    /// The process has as many connections as it may.
    ProcessFull,
}

/// A connection that was let in; gives its places back on drop.
#[derive(Debug)]
pub struct Permit {
    route: Option<GatePass>,
    pool: Option<GatePass>,
    source: Option<SourcePass>,
    _listener: GatePass,
    /// The last, so that whoever sees the process empty sees nothing else used.
    _process: GatePass,
}

impl Permit {
    /// Asks the process and the listener for a place.
    ///
    /// # Errors
    ///
    /// The first that has none.
    pub fn ask(process: &Arc<Gate>, listener: &Arc<Gate>) -> Result<Self, AdmissionRefusal> {
        let process = process.enter().ok_or(AdmissionRefusal::ProcessFull)?;
        let listener = listener.enter().ok_or(AdmissionRefusal::ListenerFull)?;
        Ok(Self { route: None, pool: None, source: None, _listener: listener, _process: process })
    }

    /// Holds the place of its source too; the place of another source is given back.
    pub fn hold_source(&mut self, pass: Option<SourcePass>) {
        self.source = pass;
    }

    /// Holds a place of its route too.
    pub fn hold_route(&mut self, pass: GatePass) {
        self.route = Some(pass);
    }

    /// Holds a place of its pool too.
    pub fn hold_pool(&mut self, pass: GatePass) {
        self.pool = Some(pass);
    }

    /// Gives back the places of its route and of its pool.
    pub fn leave_target(&mut self) {
        (self.route, self.pool) = (None, None);
    }

    /// Its first bytes are read.
    pub fn was_read(&mut self) {
        if let Some(pass) = &mut self.source {
            pass.was_read();
        }
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
    fn a_share_grows_within_the_limit() {
        let gate = Gate::new(100);
        let mut share = gate.share(60).unwrap();
        assert!(share.grow(40));
        assert!(!share.grow(1));
        assert_eq!(gate.inside(), 100);
        drop(share);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_refused_listener_gives_the_process_its_place_back() {
        let (process, listener) = (Gate::new(5), Gate::new(0));
        assert_eq!(Permit::ask(&process, &listener).unwrap_err(), AdmissionRefusal::ListenerFull);
        assert_eq!(process.inside(), 0);
        assert_eq!(Permit::ask(&Gate::new(0), &listener).unwrap_err(), AdmissionRefusal::ProcessFull);
    }
}
