//! Detects that the process is near one of its limits: connections, memory of hellos, descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::gate::Gate;
use super::rate::Moment;
use super::shortage::Shortage;

/// The settings for overload: its threshold, and its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadSpec {
    /// The threshold in percent of the process's connections and of its hello memory, 1 to 100. Default 90.
    pub at: u8,
    /// True if an overloaded process refuses new connections of the heaviest sources. Default false: only a
    /// full process refuses connections, of any source.
    pub sheds_heaviest: bool,
    /// True if /ready reports an overloaded process as ready. Default true.
    pub is_ready: bool,
}

impl Default for OverloadSpec {
    fn default() -> Self {
        Self { at: 90, sheds_heaviest: false, is_ready: true }
    }
}

impl OverloadSpec {
    /// Returns the use of `limit` at which the process becomes overloaded.
    pub fn threshold(&self, limit: u64) -> u64 {
        (u128::from(limit) * u128::from(self.at)).div_ceil(100) as u64
    }
}

/// The overload state of the process. Shared by its workers; a reload changes its settings.
#[derive(Debug)]
pub struct Overload {
    connections: NearLimit,
    hello_memory: NearLimit,
    /// The shortage of descriptors or memory.
    pub shortage: Shortage,
    sheds_heaviest: AtomicBool,
    is_ready: AtomicBool,
}

/// A gate, and the use at which it is near its limit.
#[derive(Debug)]
struct NearLimit {
    gate: Arc<Gate>,
    threshold: AtomicU64,
}

impl NearLimit {
    fn new(gate: &Arc<Gate>) -> Self {
        Self { gate: Arc::clone(gate), threshold: AtomicU64::new(u64::MAX) }
    }

    fn set(&self, spec: &OverloadSpec) {
        self.threshold.store(spec.threshold(self.gate.limit()), Ordering::Relaxed);
    }

    fn is_near(&self) -> bool {
        self.gate.inside() >= self.threshold.load(Ordering::Relaxed)
    }
}

impl Overload {
    /// Watches the process's connections and its hello memory. The process never counts as overloaded before
    /// the settings are [set](Self::set).
    pub fn new(connections: &Arc<Gate>, hello_memory: &Arc<Gate>) -> Self {
        Self {
            connections: NearLimit::new(connections),
            hello_memory: NearLimit::new(hello_memory),
            shortage: Shortage::default(),
            sheds_heaviest: AtomicBool::new(false),
            is_ready: AtomicBool::new(true),
        }
    }

    /// Changes the settings. The gates must have their limits already.
    pub fn set(&self, spec: &OverloadSpec) {
        self.connections.set(spec);
        self.hello_memory.set(spec);
        self.sheds_heaviest.store(spec.sheds_heaviest, Ordering::Relaxed);
        self.is_ready.store(spec.is_ready, Ordering::Relaxed);
    }

    /// Returns true if new connections of the heaviest sources are refused now.
    pub fn sheds_heaviest(&self, now: Moment) -> bool {
        self.sheds_heaviest.load(Ordering::Relaxed) && self.is_on(now)
    }

    /// Returns true if /ready reports the process as ready now.
    pub fn is_ready(&self, now: Moment) -> bool {
        self.is_ready.load(Ordering::Relaxed) || !self.is_on(now)
    }

    fn is_on(&self, now: Moment) -> bool {
        self.connections.is_near() || self.hello_memory.is_near() || self.shortage.lasts(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_a_part_of_the_limit() {
        assert_eq!(OverloadSpec::default().threshold(1000), 900);
        assert_eq!(OverloadSpec { at: 100, ..OverloadSpec::default() }.threshold(u64::MAX), u64::MAX);
        assert_eq!(
            OverloadSpec { at: 1, ..OverloadSpec::default() }.threshold(5),
            1,
            "without connections nothing is overloaded"
        );
    }

    #[test]
    fn either_limit_and_a_shortage_are_overload() {
        let (connections, memory) = (Gate::new(10), Gate::new(1000));
        let overload = Overload::new(&connections, &memory);
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let check = |sheds: bool, ready: bool| {
            assert_eq!((overload.sheds_heaviest(at(1)), overload.is_ready(at(1))), (sheds, ready));
        };
        overload.set(&OverloadSpec { at: 50, sheds_heaviest: true, is_ready: false });
        check(false, true);
        let share = memory.share(499);
        check(false, true);
        let other = memory.share(1);
        check(true, false);
        drop((share, other));
        let passes: Vec<_> = (0..5).map(|_| connections.enter()).collect();
        check(true, false);
        overload.set(&OverloadSpec::default());
        check(false, true);
        overload.set(&OverloadSpec { at: 50, sheds_heaviest: true, is_ready: false });
        drop(passes);
        check(false, true);
        overload.shortage.record(at(1));
        check(true, false);
        assert!(overload.is_ready(at(20)) && !overload.sheds_heaviest(at(20)));
    }
}
