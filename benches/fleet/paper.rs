//! The experiments of section 5.3 of the Maglev paper (Eisenbud et al., NSDI 2016), with the code of this project.

use crate::backends::{AllBut, identities, members, sized_table};
use crate::pickers::{Rendezvous, Ring};
use crate::seeded::hash;

/// The backends of both experiments.
pub(crate) const BACKENDS: usize = 1000;

/// The sizes of the tables.
pub(crate) const SIZES: [u64; 2] = [65_537, 655_373];

/// The points ("views") of each backend for Karger's hash.
const VIEWS: u64 = 1000;

/// The share above the average that the fullest backend has: method, size, in the paper, here. The paper has no number for
/// Maglev: "almost perfect".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overprovision {
    pub(crate) method: &'static str,
    pub(crate) size: u64,
    pub(crate) in_paper: Option<f64>,
    pub(crate) here: f64,
}

/// Fills one table by each method, and counts the entries of the fullest backend (figure 11).
pub(crate) fn overprovisions(sizes: &[u64]) -> Vec<Overprovision> {
    let names = identities(BACKENDS);
    let pool = members(&names, |_| 1);
    let ring = Ring::new(BACKENDS, VIEWS);
    let mut rows = Vec::new();
    for &size in sizes {
        let maglev = sized_table(&pool, size).entries().into_iter().max().unwrap_or(0);
        let by = |backend: &dyn Fn(u64) -> usize| {
            let mut entries = vec![0_u32; BACKENDS];
            (0..size).for_each(|entry| entries[backend(hash(5, entry))] += 1);
            entries.into_iter().max().unwrap_or(0)
        };
        let (karger, rendezvous) = if size == SIZES[0] { (0.297, 0.495) } else { (0.103, 0.123) };
        let here = |most: u32| f64::from(most) * BACKENDS as f64 / size as f64 - 1.0;
        let row = |method, in_paper, most| Overprovision { method, size, in_paper, here: here(most) };
        rows.push(row("Maglev", None, maglev));
        rows.push(row("Karger (ring, 1000 points each)", Some(karger), by(&|key| ring.backend(key, None))));
        let scored = |key| Rendezvous::of(key, BACKENDS, 0).first;
        rows.push(row("rendezvous", Some(rendezvous), by(&scored)));
    }
    rows
}

/// The entries that change when some backends fail at once, as parts of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedRow {
    pub(crate) failed: usize,
    pub(crate) size: u64,
    /// All changed entries if the table is built anew, as in figure 12.
    pub(crate) changed: f64,
    /// Those whose backend had not failed.
    pub(crate) needless: f64,
    /// The keys whose backend had not failed and that move here, where the table stays.
    pub(crate) needless_here: f64,
}

/// Fails random backends together, several times, and averages.
pub(crate) fn failures(failed: usize, size: u64, repeats: u64) -> FailedRow {
    let names = identities(BACKENDS);
    let pool = members(&names, |_| 1);
    let base = sized_table(&pool, size);
    let mut row = FailedRow { failed, size, changed: 0.0, needless: 0.0, needless_here: 0.0 };
    for repeat in 0..repeats {
        let mut order: Vec<usize> = (0..BACKENDS).collect();
        order.sort_by_key(|backend| hash(100 + repeat, *backend as u64));
        order.truncate(failed);
        order.sort_unstable();
        let is_failed = |backend: usize| order.binary_search(&backend).is_ok();
        let rebuilt = sized_table(&members(&names, |number| u32::from(!is_failed(number))), size);
        let changed: Vec<usize> =
            base.slots().zip(rebuilt.slots()).filter(|(old, new)| old != new).map(|(old, _)| old).collect();
        row.changed += changed.len() as f64 / size as f64;
        row.needless += changed.iter().filter(|old| !is_failed(**old)).count() as f64 / size as f64;
        let keys = 20_000;
        let moved = (0..keys).map(|key| hash(6, key)).filter(|key| {
            let owner = base.owner(*key);
            owner.is_some_and(|owner| !is_failed(owner)) && base.pick(*key, &AllBut(&order)) != owner
        });
        row.needless_here += moved.count() as f64 / keys as f64;
    }
    let repeats = repeats as f64;
    FailedRow {
        changed: row.changed / repeats,
        needless: row.needless / repeats,
        needless_here: row.needless_here / repeats,
        ..row
    }
}
