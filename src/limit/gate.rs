//! Counts with an upper bound that guards return, and the permit that holds the slots of a connection.

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
    /// Returns a gate with `limit` slots; `u64::MAX` is no limit.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { inside: AtomicU64::new(0), limit: AtomicU64::new(limit) })
    }

    /// Takes a slot, or returns `None`. If the limit falls, slots in use stay.
    pub fn enter(self: &Arc<Self>) -> Option<GatePass> {
        self.admits(1).then(|| GatePass(Arc::clone(self)))
    }

    /// Takes a slot, also beyond the limit: for a connection that another program admitted.
    pub fn enter_past_limit(self: &Arc<Self>) -> GatePass {
        self.inside.fetch_add(1, Ordering::Relaxed);
        GatePass(Arc::clone(self))
    }

    /// Takes a share of this weight, or returns `None`.
    pub fn share(self: &Arc<Self>, weight: u64) -> Option<GateShare> {
        self.admits(weight).then(|| GateShare { gate: Arc::clone(self), weight })
    }

    /// Adds a weight if there is room for it.
    fn admits(&self, weight: u64) -> bool {
        let before = self.inside.fetch_add(weight, Ordering::Relaxed);
        let fits = self.fits(before, weight);
        if !fits {
            self.leave(weight);
        }
        fits
    }

    /// Returns true if there is room for a weight beside the weight in use.
    fn fits(&self, inside: u64, weight: u64) -> bool {
        inside.saturating_add(weight) <= self.limit()
    }

    /// Returns true if [`Gate::enter`] would return a slot now. Takes nothing.
    pub fn has_slot(&self) -> bool {
        self.fits(self.inside(), 1)
    }

    fn leave(&self, weight: u64) {
        self.inside.fetch_sub(weight, Ordering::Relaxed);
    }

    /// The weight in use.
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

/// A slot of a gate; returned on drop.
#[derive(Debug)]
pub struct GatePass(Arc<Gate>);

impl GatePass {
    /// Returns the gate of the slot.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.0
    }
}

impl Drop for GatePass {
    fn drop(&mut self) {
        self.0.leave(1);
    }
}

/// A share of a gate's weight; returned on drop.
#[derive(Debug)]
pub struct GateShare {
    gate: Arc<Gate>,
    weight: u64,
}

impl GateShare {
    /// Takes more weight. If there is no room, returns false and the share stays as it was.
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

/// The reason for which a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionRefusal {
    /// Its listener has reached its limit of connections.
    ListenerFull,
    /// The process has reached its limit of connections.
    ProcessFull,
}

/// The slots of an admitted connection; returned on drop.
#[derive(Debug)]
pub struct Permit {
    route: Option<GatePass>,
    pool: Option<GatePass>,
    source: Option<SourcePass>,
    listener: GatePass,
    /// The last field, which is dropped last. So if the gate of the process is empty, all other slots are free too.
    process: GatePass,
}

impl Permit {
    /// Takes a slot of the process and of the listener.
    ///
    /// # Errors
    ///
    /// The first of the two that has no free slot.
    pub fn ask(process: &Arc<Gate>, listener: &Arc<Gate>) -> Result<Self, AdmissionRefusal> {
        let process = process.enter().ok_or(AdmissionRefusal::ProcessFull)?;
        let listener = listener.enter().ok_or(AdmissionRefusal::ListenerFull)?;
        Ok(Self { route: None, pool: None, source: None, listener, process })
    }

    /// Returns the result that [`Permit::ask`] would return now. Takes nothing.
    ///
    /// # Errors
    ///
    /// The first of the two that has no free slot.
    pub fn preview(process: &Gate, listener: &Gate) -> Result<(), AdmissionRefusal> {
        match (process.has_slot(), listener.has_slot()) {
            (false, _) => Err(AdmissionRefusal::ProcessFull),
            (true, false) => Err(AdmissionRefusal::ListenerFull),
            (true, true) => Ok(()),
        }
    }

    /// Takes a slot of the process and of the listener, also beyond their limits: for a connection that another program
    /// admitted.
    pub fn past_limits(process: &Arc<Gate>, listener: &Arc<Gate>) -> Self {
        let (process, listener) = (process.enter_past_limit(), listener.enter_past_limit());
        Self { route: None, pool: None, source: None, listener, process }
    }

    /// The slot of the process.
    pub fn process(&self) -> &GatePass {
        &self.process
    }

    /// The slot of its listener.
    pub fn listener(&self) -> &GatePass {
        &self.listener
    }

    /// The slot of its route, if it holds one.
    pub fn route(&self) -> Option<&GatePass> {
        self.route.as_ref()
    }

    /// Returns true if it holds a slot of its pool.
    pub fn has_pool(&self) -> bool {
        self.pool.is_some()
    }

    /// The slot of its source, if it holds one.
    pub fn source(&self) -> Option<&SourcePass> {
        self.source.as_ref()
    }

    /// Holds a slot of its source too; the slot of an earlier source is returned.
    pub fn hold_source(&mut self, pass: Option<SourcePass>) {
        self.source = pass;
    }

    /// Holds a slot of its route too.
    pub fn hold_route(&mut self, pass: GatePass) {
        self.route = Some(pass);
    }

    /// Holds a slot of its pool too.
    pub fn hold_pool(&mut self, pass: GatePass) {
        self.pool = Some(pass);
    }

    /// Returns the slots of its route and of its pool.
    pub fn leave_target(&mut self) {
        (self.route, self.pool) = (None, None);
    }

    /// Records that its first bytes were read.
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
