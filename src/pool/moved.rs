//! The share of the keys that go to another backend when a pool is replaced.

use std::collections::HashMap;

use super::pool_in_use::Pool;
use super::tiers::Tier;
use crate::balance::Maglev;
use crate::sys::Address;

impl Pool {
    /// Returns the share of the keys of this pool that go to another server in `new`, 0 to 1, while all backends of the first
    /// tier are up. `None` if this pool does not hash. A pool that does not hash any more keeps no key.
    ///
    /// For tables of one size it is exact. Otherwise the key hashes are independent numbers in both tables, and the share
    /// is that of independent draws.
    pub fn moved_keys(&self, new: &Pool) -> Option<f64> {
        let before = self.first_table()?;
        let Some(after) = new.first_table() else { return Some(1.0) };
        let is_comparable = before.0.size() == after.0.size() && self.hashes_as(new);
        Some(if is_comparable { exact(&before, &after) } else { independent(&before, &after) })
    }

    /// Returns true if both pools compute the same key for each connection.
    fn hashes_as(&self, other: &Pool) -> bool {
        let hashed = |pool: &Pool| (pool.spec.hash_key, pool.spec.hash_on, pool.spec.source_prefix);
        hashed(self) == hashed(other)
    }

    /// Returns the hash table of the first tier, with the names of its members.
    fn first_table(&self) -> Option<NamedTable<'_>> {
        let tier: &Tier = self.tiers.own().list().first()?;
        let maglev = tier.maglev().filter(|maglev| maglev.size() > 0)?;
        let server = |&at: &usize| (&**self.backends[at].name(), self.backends[at].address());
        Some((maglev, tier.members().iter().map(server).collect()))
    }
}

/// A hash table with the names of its members.
type NamedTable<'a> = (&'a Maglev, Vec<ServerName<'a>>);

/// A backend by its name and its address: a key moves too if its backend has another address.
type ServerName<'a> = (&'a str, &'a Address);

/// Returns the share of the entries that have another owner.
fn exact((before, old_names): &NamedTable<'_>, (after, new_names): &NamedTable<'_>) -> f64 {
    let moved =
        before.slots().zip(after.slots()).filter(|(old, new)| old_names[*old] != new_names[*new]).count();
    moved as f64 / before.size() as f64
}

/// Returns the share of keys with another owner if each key is drawn anew.
fn independent(before: &NamedTable<'_>, after: &NamedTable<'_>) -> f64 {
    let (before, after) = (shares(before), shares(after));
    let stay: f64 =
        before.iter().map(|(name, share)| share * after.get(name).copied().unwrap_or_default()).sum();
    1.0 - stay
}

/// Returns the share of the entries that each backend has.
fn shares<'a>((maglev, names): &NamedTable<'a>) -> HashMap<ServerName<'a>, f64> {
    let size = maglev.size() as f64;
    let shares = names.iter().copied().zip(maglev.entries());
    shares.map(|(name, entries)| (name, f64::from(entries) / size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Algorithm;
    use crate::pool::{BackendSpec, PoolSpec};

    fn pool(names: &[&str], key: u8) -> Pool {
        let backends =
            names.iter().map(|name| BackendSpec::new(*name, "10.0.0.1:1".parse().unwrap())).collect();
        Pool::build(PoolSpec { hash_key: [key; 16], ..PoolSpec::new("p".into(), backends) }, None, 0)
    }

    #[track_caller]
    fn check(before: &Pool, after: &Pool, expected: std::ops::RangeInclusive<f64>) {
        let moved = before.moved_keys(after).unwrap();
        assert!(expected.contains(&moved), "{moved}");
    }

    #[test]
    fn the_keys_that_move_are_counted() {
        let three = pool(&["a", "b", "c"], 0);
        check(&three, &pool(&["a", "b", "c"], 0), 0.0..=0.0);
        check(&three, &pool(&["c", "a", "b"], 0), 0.0..=0.0);
        // A fourth backend gets a quarter, and few others move.
        check(&three, &pool(&["a", "b", "c", "d"], 0), 0.25..=0.30);
        check(&three, &pool(&["a", "b"], 0), 0.33..=0.40);
        check(&three, &pool(&["x", "y", "z"], 0), 1.0..=1.0);
        let mut elsewhere = PoolSpec { hash_key: [0; 16], ..three.spec().clone() };
        elsewhere.backends[0].address = "10.0.0.2:1".parse().unwrap();
        check(&three, &Pool::build(elsewhere, None, 0), 0.33..=0.34);
        // With another key two of three keys move.
        check(&three, &pool(&["a", "b", "c"], 1), 0.66..=0.67);
    }

    #[test]
    fn a_pool_without_a_table_has_no_keys() {
        let mut spec = PoolSpec::new("p".into(), vec![BackendSpec::new("a", "10.0.0.1:1".parse().unwrap())]);
        spec.algorithm = Algorithm::RoundRobin;
        let other = Pool::build(spec, None, 0);
        assert_eq!(pool(&["a"], 0).moved_keys(&other), Some(1.0));
        assert_eq!(other.moved_keys(&pool(&["a"], 0)), None);
    }
}
