//! The backends of a pool, and the keys that events move between them.

use std::time::Duration;

use pointsman::balance::{Candidates, FULL_SHARE, Maglev, Member};

use crate::pickers::{KETAMA_POINTS, Rendezvous, Ring};
use crate::seeded::hash;

/// The key of the tables.
const HASH_KEY: [u8; 16] = [7; 16];

/// The most scores of rendezvous hashing in a run: each pick scores all backends.
const SCORES: usize = 200_000_000;

/// A change of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendEvent {
    /// A check finds a backend down, or an operator drains it. Its return moves the same keys back.
    GoesDown,
    /// A new configuration does not have a backend. Its return moves the same keys back.
    IsRemoved,
    /// The weight of a backend doubles.
    Doubles,
    /// A new configuration has one backend more.
    IsAdded,
}

impl BackendEvent {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GoesDown => "a backend goes down, or comes up",
            Self::IsRemoved => "a backend is removed, or returns",
            Self::Doubles => "the weight of a backend doubles",
            Self::IsAdded => "one more backend",
        }
    }
}

/// The keys that an event moved, as parts of all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moved {
    /// From or to the changed backend.
    pub(crate) needed: f64,
    /// Between other backends.
    pub(crate) needless: f64,
}

/// The effect of an event by each way to pick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRow {
    pub(crate) backends: usize,
    pub(crate) event: BackendEvent,
    pub(crate) maglev: Moved,
    /// `None` if it was not simulated.
    pub(crate) ring: Option<Moved>,
    pub(crate) rendezvous: Option<Moved>,
}

/// The largest share of a backend above the average, in a pool of equal backends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadRow {
    pub(crate) backends: usize,
    pub(crate) table: usize,
    pub(crate) maglev: f64,
    pub(crate) ring: f64,
}

/// All backends but those of a set accept.
pub(crate) struct AllBut<'a>(pub(crate) &'a [usize]);

impl Candidates for AllBut<'_> {
    fn accepts(&self, index: usize) -> bool {
        !self.0.contains(&index)
    }

    fn active(&self, _: usize) -> u64 {
        0
    }

    fn share(&self, _: usize) -> u32 {
        FULL_SHARE
    }

    fn latency(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

/// Returns the names of backends.
pub(crate) fn identities(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("backend-{number:06}")).collect()
}

/// Returns the members of a pool. The weight of each depends on its number.
pub(crate) fn members(identities: &[String], weight: impl Fn(usize) -> u32) -> Vec<Member<'_>> {
    identities
        .iter()
        .enumerate()
        .map(|(number, name)| Member { identity: name.as_bytes(), weight: weight(number) })
        .collect()
}

pub(crate) fn table(members: &[Member<'_>]) -> Maglev {
    Maglev::build(members, &HASH_KEY)
}

pub(crate) fn sized_table(members: &[Member<'_>], size: u64) -> Maglev {
    Maglev::build_sized(members, &HASH_KEY, size)
}

/// Counts keys by two owners.
fn moved(
    keys: usize,
    owners: impl Iterator<Item = (usize, usize)>,
    is_needed: impl Fn(usize, usize) -> bool,
) -> Moved {
    let (mut needed, mut needless) = (0_usize, 0_usize);
    for (old, new) in owners.filter(|(old, new)| old != new) {
        *if is_needed(old, new) { &mut needed } else { &mut needless } += 1;
    }
    Moved { needed: needed as f64 / keys as f64, needless: needless as f64 / keys as f64 }
}

/// Returns the effects of the events in a pool of equal backends, and its load.
pub(crate) fn simulate(backends: usize, keys: usize) -> (Vec<EventRow>, LoadRow) {
    let names = identities(backends);
    let pool = members(&names, |_| 1);
    let base = table(&pool);
    // One in the middle, because members are sorted.
    let changed = backends / 2;
    let ring = Ring::new(backends, KETAMA_POINTS);
    let on_ring = ring_without(&ring, changed, keys);
    let scored = rendezvous(backends, changed, keys);
    let rows = vec![
        EventRow {
            backends,
            event: BackendEvent::GoesDown,
            maglev: goes_down(&base, changed, keys),
            ring: Some(on_ring),
            rendezvous: scored.map(|(down, _)| down),
        },
        EventRow {
            backends,
            event: BackendEvent::IsRemoved,
            maglev: rebuilt(&base, &names, |number| u32::from(number != changed), changed),
            ring: Some(on_ring),
            rendezvous: scored.map(|(down, _)| down),
        },
        EventRow {
            backends,
            event: BackendEvent::Doubles,
            maglev: rebuilt(&base, &names, |number| 1 + u32::from(number == changed), changed),
            ring: Some(ring_doubled(&ring, changed, keys)),
            rendezvous: scored.map(|(_, doubled)| doubled),
        },
    ];
    let average = 1.0 / backends as f64;
    let most_entries = f64::from(base.entries().into_iter().max().unwrap_or(0)) / base.size() as f64;
    let most_arcs = ring.shares(backends).into_iter().fold(0.0, f64::max);
    let load = LoadRow {
        backends,
        table: base.size(),
        maglev: most_entries / average - 1.0,
        ring: most_arcs / average - 1.0,
    };
    (rows, load)
}

/// Returns the effect of one more backend on a Maglev table. It may need a larger table, which moves nearly all keys.
pub(crate) fn one_more(backends: usize, keys: usize) -> EventRow {
    let names = identities(backends + 1);
    let all = members(&names, |_| 1);
    let (old, new) = (table(&all[..backends]), table(&all));
    let owners = key_hashes(keys).filter_map(|key| Some((old.owner(key)?, new.owner(key)?)));
    let maglev = moved(keys, owners, |_, new| new == backends);
    EventRow { backends, event: BackendEvent::IsAdded, maglev, ring: None, rendezvous: None }
}

fn key_hashes(keys: usize) -> impl Iterator<Item = u64> {
    (0..keys as u64).map(|number| hash(4, number))
}

/// The table stays, and picks skip the backend.
fn goes_down(base: &Maglev, changed: usize, keys: usize) -> Moved {
    let down = [changed];
    let owners = key_hashes(keys).filter_map(|key| Some((base.owner(key)?, base.pick(key, &AllBut(&down))?)));
    moved(keys, owners, |old, _| old == changed)
}

/// The table is built anew. Its slots are compared, so no key is sampled.
fn rebuilt(base: &Maglev, names: &[String], weight: impl Fn(usize) -> u32, changed: usize) -> Moved {
    let rebuilt = table(&members(names, weight));
    if rebuilt.size() == base.size() {
        return moved(base.size(), base.slots().zip(rebuilt.slots()), |old, new| {
            old == changed || new == changed
        });
    }
    let keys = 100_000;
    let owners = key_hashes(keys).filter_map(|key| Some((base.owner(key)?, rebuilt.owner(key)?)));
    moved(keys, owners, |old, new| old == changed || new == changed)
}

fn ring_without(ring: &Ring, changed: usize, keys: usize) -> Moved {
    let owners = key_hashes(keys).map(|key| (ring.backend(key, None), ring.backend(key, Some(changed))));
    moved(keys, owners, |old, _| old == changed)
}

fn ring_doubled(ring: &Ring, changed: usize, keys: usize) -> Moved {
    let further = Ring::further_points(changed, KETAMA_POINTS);
    let owners = key_hashes(keys).map(|key| {
        let old = ring.backend(key, None);
        (old, if ring.doubled_takes(key, changed, &further) { changed } else { old })
    });
    moved(keys, owners, |_, new| new == changed)
}

/// Returns the keys that move if a backend goes, and if its weight doubles; `None` if there are too many backends for enough
/// keys.
fn rendezvous(backends: usize, changed: usize, keys: usize) -> Option<(Moved, Moved)> {
    let keys = keys.min(SCORES / backends);
    if keys < backends {
        return None;
    }
    let picks: Vec<_> = key_hashes(keys).map(|key| Rendezvous::of(key, backends, changed)).collect();
    let down =
        picks.iter().map(|pick| (pick.first, if pick.first == changed { pick.second } else { pick.first }));
    let doubled =
        picks.iter().map(|pick| (pick.first, if pick.doubled_takes { changed } else { pick.first }));
    Some((moved(keys, down, |old, _| old == changed), moved(keys, doubled, |_, new| new == changed)))
}
