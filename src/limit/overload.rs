//! Whether the process is near one of its limits: connections, memory of hellos, descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::gate::Gate;
use super::rate::Moment;
use super::shortage::Shortage;

/// When the process counts as overloaded, and who is refused then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadSpec {
    /// Percent of the process's connections and of its memory for hellos, 1 to 100. Default 90.
    pub at: u8,
    /// Whether new connections of the heaviest sources are refused then. Default: only a full process refuses,
    /// whoever comes.
    pub sheds_heaviest: bool,
    /// Whether /ready goes on to answer as if it were not. Default true.
    pub is_ready: bool,
}

impl Default for OverloadSpec {
    fn default() -> Self {
        Self { at: 90, sheds_heaviest: false, is_ready: true }
    }
}

impl OverloadSpec {
    /// How much of `limit` must be in use for a process to be overloaded.
    pub fn mark(&self, limit: u64) -> u64 {
        (u128::from(limit) * u128::from(self.at)).div_ceil(100) as u64
    }
}

/// Whether the process is overloaded. Shared by its workers; a reload changes it.
#[derive(Debug)]
pub struct Overload {
    connections: NearLimit,
    hello_memory: NearLimit,
    /// Whether descriptors or memory have run out.
    pub shortage: Shortage,
    sheds_heaviest: AtomicBool,
    is_ready: AtomicBool,
}

/// A gate, and how much in it is near its limit.
#[derive(Debug)]
struct NearLimit {
    gate: Arc<Gate>,
    mark: AtomicU64,
}

impl NearLimit {
    fn new(gate: &Arc<Gate>) -> Self {
        Self { gate: Arc::clone(gate), mark: AtomicU64::new(u64::MAX) }
    }

    fn set(&self, spec: &OverloadSpec) {
        self.mark.store(spec.mark(self.gate.limit()), Ordering::Relaxed);
    }

    fn is_near(&self) -> bool {
        self.gate.inside() >= self.mark.load(Ordering::Relaxed)
    }
}

impl Overload {
    /// Looks at the process's connections and at its memory for hellos. It goes by nothing before it is
    /// [set](Self::set).
    pub fn new(connections: &Arc<Gate>, hello_memory: &Arc<Gate>) -> Self {
        Self {
            connections: NearLimit::new(connections),
            hello_memory: NearLimit::new(hello_memory),
            shortage: Shortage::default(),
            sheds_heaviest: AtomicBool::new(false),
            is_ready: AtomicBool::new(true),
        }
    }

    /// Changes what it goes by. The gates have their limits already.
    pub fn set(&self, spec: &OverloadSpec) {
        self.connections.set(spec);
        self.hello_memory.set(spec);
        self.sheds_heaviest.store(spec.sheds_heaviest, Ordering::Relaxed);
        self.is_ready.store(spec.is_ready, Ordering::Relaxed);
    }

    /// Whether new connections of the heaviest sources are refused now.
    pub fn sheds_heaviest(&self, now: Moment) -> bool {
        self.sheds_heaviest.load(Ordering::Relaxed) && self.is_on(now)
    }

    /// Whether /ready says now that the process is ready.
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
        assert_eq!(OverloadSpec::default().mark(1000), 900);
        assert_eq!(OverloadSpec { at: 100, ..OverloadSpec::default() }.mark(u64::MAX), u64::MAX);
        assert_eq!(
            OverloadSpec { at: 1, ..OverloadSpec::default() }.mark(5),
            1,
            "with nobody there nothing is overloaded"
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
        overload.shortage.strike(at(1));
        check(true, false);
        assert!(overload.is_ready(at(20)) && !overload.sheds_heaviest(at(20)));
    }
}
