//! The found backends of sources, for another process that begins with them.
//!
//! A source of the new process begins as if it had found these backends itself, and is asked at once. So a start with
//! them waits for no answer, and if the source fails then, the backends stay.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::discovery::Discovery;
use super::hold::{HeldBackends, Hold};
use super::set::{Discovered, DiscoveredSet, MOST_BACKENDS};
use super::{Discoveries, SourceSlot};
use crate::pool::destination;
use crate::pool::discover_spec::DiscoverSource;
use crate::wire::handover::{HandedDiscovered, HandedDiscovery, HandedHold, from_millis, left_millis};

/// The word for the host names of checks and agents.
const CHECK: &str = "check";

/// The longest name of a backend that is accepted. Names of hosts are shorter.
const LONGEST_NAME: usize = 512;

/// A source with the backends that it found last. To make it costs little; another thread does the rest.
#[derive(Debug)]
pub struct SourceCopy {
    pool: Arc<str>,
    part: &'static str,
    state: Arc<Discovery>,
    found: DiscoveredSet,
    held: HeldBackends,
}

impl SourceCopy {
    /// Returns the source for a hand-over to another process.
    pub fn hand_over(&self, now: Instant) -> HandedDiscovery {
        let held = self.held.iter().map(|(backend, until)| HandedHold {
            backend: to_handed(backend),
            left_ms: left_millis(until.saturating_duration_since(now)),
        });
        HandedDiscovery {
            pool: self.pool.to_string(),
            part: self.part.to_owned(),
            source: self.state.source().to_string(),
            found: self.found.iter().map(to_handed).collect(),
            held: held.collect(),
            succeeded_ms: self.state.succeeded_millis(),
            failures: self.state.failures(),
        }
    }
}

fn to_handed(backend: &Discovered) -> HandedDiscovered {
    HandedDiscovered {
        name: backend.name.to_string(),
        address: backend.address.to_string(),
        weight: backend.weight,
        zone: backend.zone.as_deref().map(str::to_owned),
        backup: backend.backup,
    }
}

/// Returns a backend of another process. `None` if its address is no address of a backend, or, for the host of a check,
/// no address of a host; also if its name cannot be shown.
fn from_handed(handed: &HandedDiscovered, part: &str) -> Option<Discovered> {
    let address = handed.address.parse().ok()?;
    let checked = match part {
        CHECK => destination::check_host(&address),
        _ => destination::check(&address),
    };
    let is_shown = |text: &str| text.len() <= LONGEST_NAME && !text.chars().any(char::is_control);
    if checked.is_err() || !is_shown(&handed.name) || !handed.zone.as_deref().is_none_or(is_shown) {
        return None;
    }
    Some(Discovered {
        name: handed.name.as_str().into(),
        address,
        weight: handed.weight,
        zone: handed.zone.as_deref().map(Arc::from),
        backup: handed.backup,
    })
}

/// Returns the word for the use of a source.
fn part(slot: &SourceSlot) -> &'static str {
    match slot {
        SourceSlot::Host(_) => "host",
        SourceSlot::Listed(_) => "listed",
        SourceSlot::CheckName(_) => CHECK,
    }
}

impl Discoveries {
    /// Returns the sources in force that have found something.
    pub fn copies(&self) -> Vec<SourceCopy> {
        let sources =
            self.in_force.iter().flat_map(|(pool, own)| own.iter().map(move |source| (pool, source)));
        let copies = sources.filter_map(|(pool, source)| {
            Some(SourceCopy {
                pool: Arc::clone(pool),
                part: part(&source.slot),
                state: Arc::clone(&source.state),
                found: source.found.clone()?,
                held: Arc::clone(&source.held),
            })
        });
        copies.collect()
    }

    /// Stores the backends that another process found. The sources that are prepared first begin with them.
    pub fn restore(&mut self, handed: Vec<HandedDiscovery>) {
        self.seeds = SourceSeeds(handed);
    }
}

/// The sources of another process.
#[derive(Debug, Default)]
pub(super) struct SourceSeeds(Vec<HandedDiscovery>);

impl SourceSeeds {
    /// Removes and returns the source of another process that is the same source.
    pub(super) fn take(
        &mut self,
        pool: &str,
        source: &DiscoverSource,
        slot: &SourceSlot,
    ) -> Option<HandedSeed> {
        if self.0.is_empty() {
            return None;
        }
        let source = source.to_string();
        let is_it = |seed: &HandedDiscovery| {
            (&*seed.pool, &*seed.part, &*seed.source) == (pool, part(slot), &*source)
        };
        let at = self.0.iter().position(is_it)?;
        Some(HandedSeed(self.0.swap_remove(at)))
    }
}

/// The backends with which a source begins.
pub(super) struct HandedSeed(HandedDiscovery);

impl HandedSeed {
    /// Publishes the backends. Returns them, and the state of their holds.
    pub(super) fn begin(self, state: &Discovery, time: Duration, now: Instant) -> (DiscoveredSet, Hold) {
        let Self(seed) = self;
        let found = seed.found.iter().filter_map(|one| from_handed(one, &seed.part)).take(MOST_BACKENDS);
        let found = DiscoveredSet::new(found.collect());
        let held: Vec<_> = seed
            .held
            .iter()
            .take(MOST_BACKENDS)
            .filter_map(|held| {
                // A hold of this process is at most as long as the configuration allows.
                Some((from_handed(&held.backend, &seed.part)?, now + from_millis(held.left_ms).min(time)))
            })
            .collect();
        let is_answered = |one: &&Discovered| !held.iter().any(|(held, _)| held.name == one.name);
        let last = DiscoveredSet::new(found.iter().filter(is_answered).cloned().collect());
        state.restore(seed.failures, seed.succeeded_ms, SystemTime::now());
        state.publish(&Some(found.clone()));
        (found, Hold::restored(time, last, held))
    }
}
