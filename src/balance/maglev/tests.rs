use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::balance::testing::{TestCandidates, accepting};

const KEY: [u8; 16] = *b"0123456789abcdef";

fn identities(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.0.{}.{}:443", n / 256, n % 256)).collect()
}

fn members<'a>(identities: &'a [String], weight: impl Fn(usize) -> u32) -> Vec<Member<'a>> {
    let member =
        |(n, identity): (usize, &'a String)| Member { identity: identity.as_bytes(), weight: weight(n) };
    identities.iter().enumerate().map(member).collect()
}

/// A table of members with equal weight.
fn equal(count: usize) -> Maglev {
    Maglev::build(&members(&identities(count), |_| 1), &KEY)
}

fn by_weights(weights: &[u32]) -> Maglev {
    Maglev::build(&members(&identities(weights.len()), |n| weights[n]), &KEY)
}

/// A changed value here is a breaking change: nodes of two versions would send one client to two backends.
/// A second program, written only from the contract in the module documentation, computed the same values.
#[test]
fn golden_vectors() {
    fn check(maglev: &Maglev, digest: u64, owners: [usize; 8], second: [usize; 4]) {
        let keys = [0, 1, 2, 3, 1000, 0xc0a8_0001, u64::MAX - 1, u64::MAX];
        assert_eq!(format!("{:016x}", maglev.digest()), format!("{digest:016x}"));
        assert_eq!(keys.map(|key| maglev.owner(key).unwrap()), owners);
        let without_owner =
            |key| maglev.pick(key, &accepting(|member| Some(member) != maglev.owner(key))).unwrap();
        assert_eq!([0, 1, 2, 3].map(without_owner), second);
    }
    let zero = Maglev::build(&members(&identities(3), |_| 1), &[0; 16]);
    check(&zero, 0x0748_98dd_b522_573d, [1, 2, 0, 1, 2, 2, 1, 1], [2, 0, 1, 0]);
    let weighted = by_weights(&[1, 2, 0, 5]);
    check(&weighted, 0xa118_bc44_e7a3_5f6d, [0, 0, 3, 1, 3, 3, 3, 3], [3, 3, 1, 3]);
    check(&equal(100), 0x9a1e_6f3a_dede_984f, [49, 62, 88, 64, 11, 12, 29, 49], [25, 96, 42, 83]);
    // More than 655 members: the next size.
    check(&equal(700), 0xa1e9_7c09_487c_f4c2, [659, 683, 191, 625, 180, 457, 39, 285], [324, 273, 645, 38]);
}

/// The order of the scan is part of the contract too. Here all draws fail, so the scan decides.
#[test]
fn golden_scan() {
    let maglev = equal(700);
    let queried: Vec<usize> = (0..3)
        .map(|key| {
            let mut queried = BTreeSet::new();
            maglev.pick(key, &accepting(|member| queried.insert(member) && queried.len() > 40)).unwrap()
        })
        .collect();
    assert_eq!(queried, [250, 281, 54]);
}

/// The keys that a member takes at the beginning of its slow start are part of the contract too. Another
/// implementation of SipHash computed the values.
#[test]
fn golden_shares() {
    let maglev = equal(3);
    let least_share = |key| [0, 1, 2].map(|member| maglev.hash.share(key, maglev.names[member]) >> 54);
    assert_eq!(least_share(0), [298, 88, 412]);
    assert_eq!(least_share(1), [920, 537, 117]);
    assert_eq!(least_share(1000), [732, 188, 695]);
    assert_eq!(least_share(u64::MAX), [810, 499, 44]);
}

#[test]
fn a_partial_share_is_that_part_of_the_own_keys() {
    let maglev = equal(4);
    let own: Vec<u64> = (0..40_000).filter(|&key| maglev.owner(key) == Some(2)).collect();
    for share in [0, 102, 512, 1000, FULL_SHARE] {
        let candidates = TestCandidates::new([0; 4]).sharing([FULL_SHARE, FULL_SHARE, share, FULL_SHARE]);
        let kept = own.iter().filter(|&&key| maglev.pick(key, candidates.anew()) == Some(2)).count();
        let part = kept as f64 / own.len() as f64 * 1024.0;
        assert!((part - f64::from(share)).abs() < 20.0, "{share}: {part}");
    }
}

#[test]
fn skipped_members_are_queried_if_no_other_accepts() {
    let maglev = equal(5);
    let candidates = TestCandidates::new([0; 5]).sharing([0; 5]);
    for key in 0..50 {
        assert_eq!(maglev.pick(key, candidates.anew()), maglev.owner(key), "the order is kept");
        let last = candidates.clone().refusing([true, true, true, false, true]);
        assert_eq!(maglev.pick(key, last.anew()), Some(3));
        let none = candidates.clone().refusing([true; 5]);
        assert_eq!(maglev.pick(key, none.anew()), None);
    }
}

fn bounded(count: usize, percent: u32) -> Maglev {
    equal(count).bounded(MaxLoad::of_percent(percent), &members(&identities(count), |_| 1))
}

#[test]
fn a_bound_moves_no_key_while_there_is_room() {
    let (free, bounded) = (equal(10), bounded(10, 125));
    assert_eq!((free.digest(), free.overflows()), (bounded.digest(), None));
    let candidates = TestCandidates::new([100; 10]);
    assert!((0..1000).all(|key| bounded.pick(key, candidates.anew()) == free.owner(key)));
    assert_eq!(bounded.overflows(), Some(0));
}

#[test]
fn the_overflow_spreads_over_all_others() {
    let maglev = bounded(10, 125);
    let mut active = [100; 10];
    active[4] = 200;
    let candidates = TestCandidates::new(active);
    let own: Vec<u64> = (0..40_000).filter(|&key| maglev.owner(key) == Some(4)).collect();
    let mut heirs = [0_usize; 10];
    own.iter().for_each(|&key| heirs[maglev.pick(key, candidates.anew()).unwrap()] += 1);
    assert_eq!(heirs[4], 0);
    assert_eq!(maglev.overflows(), Some(own.len() as u64));
    for (member, &heir) in heirs.iter().enumerate().filter(|(member, _)| *member != 4) {
        assert!(heir * 9 > own.len() * 8 / 10 && heir * 9 < own.len() * 12 / 10, "{member}: {heirs:?}");
    }
}

#[test]
fn a_key_whose_owner_refuses_is_no_overflow() {
    let maglev = bounded(2, 125);
    let candidates = TestCandidates::new([100, 0]).refusing([true, false]);
    assert!((0..100).all(|key| maglev.pick(key, candidates.anew()) == Some(1)));
    assert_eq!(maglev.overflows(), Some(0));
}

/// One key with all connections: no member gets more than the bound allows.
#[test]
fn one_busy_key_fills_no_member() {
    for percent in [101, 125, 200] {
        let maglev = bounded(7, percent);
        let mut candidates = TestCandidates::new([0; 7]);
        for total in 1..=500_u64 {
            let picked = maglev.pick(42, candidates.anew()).unwrap();
            candidates.active[picked] += 1;
            let slots = (total * u64::from(percent)).div_ceil(700).max(1);
            assert!(
                candidates.active.iter().all(|&active| active <= slots),
                "{percent} {total}: {:?}",
                candidates.active
            );
        }
        let owner = maglev.owner(42).unwrap();
        assert!(
            candidates.active.iter().all(|&active| active <= candidates.active[owner]),
            "the owner has the most"
        );
    }
}

#[test]
fn the_size_is_a_prime_that_grows_by_doubling() {
    fn check(members: u64, size: u64) {
        assert_eq!(table_size(members), size, "{members}");
        assert!(size > 100 * members);
    }
    check(1, 65_537);
    check(655, 65_537);
    check(656, 131_101);
    check(1310, 131_101);
    check(1311, 262_147);
    check(10_000, 1_048_583);
    check(100_000, 16_777_259);
}

#[test]
fn primes_are_recognized() {
    let primes: Vec<u64> = (0..50).filter(|&n| is_prime(n)).collect();
    assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
    assert!(!is_prime(65_535) && is_prime(65_537) && !is_prime(257 * 257));
}

#[test]
fn equal_members_own_floor_or_ceiling_of_their_share() {
    for count in [1, 2, 3, 7, 100, 655, 656, 1000] {
        let maglev = equal(count);
        let (floor, entries) = ((maglev.size() / count) as u32, maglev.entries());
        assert_eq!(entries.len(), count);
        assert_eq!(entries.iter().sum::<u32>() as usize, maglev.size());
        assert!(entries.iter().all(|&own| own == floor || own == floor + 1), "{count}");
    }
}

#[test]
fn equal_shares_are_within_one_percent() {
    for count in [10, 100, 655, 656] {
        let entries = equal(count).entries();
        let (most, least) = (entries.iter().max().unwrap(), entries.iter().min().unwrap());
        assert!(f64::from(*most) / f64::from(*least) <= 1.01, "{count}: {most} / {least}");
    }
}

#[test]
fn turns_give_the_weights() {
    fn check(weights: &[u32], entries: &[u32]) {
        assert_eq!(by_weights(weights).entries(), entries, "{weights:?}");
    }
    check(&[1], &[65_537]);
    check(&[u32::MAX], &[65_537]);
    check(&[1, 2], &[21_846, 43_691]);
    check(&[10, 20], &[21_846, 43_691]);
    check(&[0, 1, 0, 1], &[0, 32_769, 0, 32_768]);
    check(&[1, u32::MAX], &[1, 65_536]);
}

#[test]
fn without_a_weight_there_is_no_owner() {
    for weights in [&[][..], &[0], &[0, 0, 0]] {
        let maglev = by_weights(weights);
        assert_eq!((maglev.size(), maglev.owner(7), maglev.pick(7, &accepting(|_| true))), (0, None, None));
        assert_eq!(maglev.entries(), weights);
    }
}

#[test]
fn weight_zero_is_never_queried() {
    let maglev = by_weights(&[1, 0, 3, 0]);
    let mut queried = BTreeSet::new();
    for key in 0..1000 {
        let pick = maglev.pick(
            key,
            &accepting(|member| {
                queried.insert(member);
                false
            }),
        );
        assert_eq!(pick, None);
    }
    assert_eq!(queried, BTreeSet::from([0, 2]));
}

/// Returns the part of the slots that changed their owner although the removed member is neither the old nor the new
/// one.
fn moved_needlessly(count: usize, removed: usize) -> f64 {
    let identities = identities(count);
    let before = members(&identities, |_| 1);
    let mut after = before.clone();
    after.remove(removed);
    let (old, new) = (Maglev::build(&before, &KEY), Maglev::build(&after, &KEY));
    assert_eq!(old.size(), new.size());
    let slots = old.slots.iter().zip(new.slots.iter());
    let moved = slots.filter(|&(old, new)| old != removed && before[old] != after[new]).count();
    moved as f64 / old.size() as f64
}

/// Removes the first, a middle and the last of `count` members.
fn check_removals(count: usize, at_most: f64) {
    for removed in [0, count / 3, count - 1] {
        let moved = moved_needlessly(count, removed);
        assert!(moved < at_most, "{removed} of {count}: {moved}");
    }
}

/// The bounds are 1.5 times the measured values: 0.01 %, 0.3 % and 0.6 % of all slots.
#[test]
fn a_removal_moves_few_slots_between_the_remaining_members() {
    check_removals(3, 0.0002);
    check_removals(10, 0.004);
    check_removals(100, 0.009);
}

/// The bounds are 1.5 times the measured values: 0.8 % and 0.5 % of all slots.
#[test]
#[ignore = "takes long in a debug build"]
fn a_removal_from_many_members_moves_few_slots() {
    check_removals(650, 0.012);
    check_removals(1000, 0.008);
}

#[test]
fn the_keys_of_a_refused_member_spread_over_the_others() {
    let maglev = equal(10);
    let mut heirs = HashMap::new();
    for key in (0..40_000).filter(|&key| maglev.owner(key) == Some(4)) {
        *heirs.entry(maglev.pick(key, &accepting(|member| member != 4)).unwrap()).or_insert(0_u32) += 1;
    }
    let (keys, least, most) = (heirs.values().sum::<u32>(), heirs.values().min(), heirs.values().max());
    assert_eq!(heirs.len(), 9);
    assert!(*least.unwrap() * 9 > keys * 8 / 10 && *most.unwrap() * 9 < keys * 12 / 10, "{heirs:?}");
}

#[test]
fn each_member_is_reached_if_all_others_are_refused() {
    let maglev = equal(700);
    for last in 0..700 {
        assert_eq!(maglev.pick(42, &accepting(|member| member == last)), Some(last));
    }
}

#[test]
fn the_digest_tells_tables_apart() {
    let base = by_weights(&[1, 2, 3]).digest();
    let other_key = Maglev::build(&members(&identities(3), |n| n as u32 + 1), &[0; 16]).digest();
    let digests = [
        base,
        other_key,
        by_weights(&[1, 2, 4]).digest(),
        by_weights(&[1, 2, 3, 0]).digest(),
        by_weights(&[2, 4, 6]).digest(),
        equal(3).digest(),
        equal(2).digest(),
        by_weights(&[]).digest(),
    ];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
}

#[test]
fn debug_is_short_and_keeps_the_key() {
    let shown = format!("{:?}", equal(2));
    assert!(shown.len() < 100 && shown.contains("size: 65537"), "{shown}");
}

/// Fills a table round by round, literally as the contract describes it.
fn fill_round_by_round(members: &[Member<'_>], hash: &KeyedHash) -> Vec<u32> {
    let size = table_size(members.len() as u64);
    let heaviest = members.iter().map(|member| u64::from(member.weight)).max().unwrap();
    let mut slots = vec![FREE; size as usize];
    let mut states: Vec<(u64, u64)> = vec![(0, 0); members.len()];
    let mut taken = 0;
    for round in 1.. {
        for ((rank, member), (target, j)) in (0..).zip(members).zip(&mut states) {
            if taken == size {
                return slots;
            }
            if round * u64::from(member.weight) < *target {
                continue;
            }
            *target += heaviest;
            taken += 1;
            let (offset, skip) =
                (hash.offset(member.identity) % size, hash.skip(member.identity) % (size - 1) + 1);
            while slots[((offset + *j * skip) % size) as usize] != FREE {
                *j += 1;
            }
            slots[((offset + *j * skip) % size) as usize] = rank;
        }
    }
    unreachable!("the rounds end when the table is full")
}

/// Generates a set of refused members.
fn refusals() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(any::<bool>(), 12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_order_of_members_does_not_matter(
        shuffled in Just((0..20).collect::<Vec<usize>>()).prop_shuffle(),
        weights in prop::collection::vec(0_u32..10, 20),
        key: [u8; 16],
        refused in prop::collection::vec(any::<bool>(), 20),
    ) {
        let identities = identities(20);
        let sorted = members(&identities, |n| weights[n]);
        let other: Vec<Member<'_>> = shuffled.iter().map(|&n| sorted[n]).collect();
        let (a, b) = (Maglev::build(&sorted, &key), Maglev::build(&other, &key));
        prop_assert_eq!(a.digest(), b.digest());
        for key in 0..200 {
            let of_a = a.pick(key, &accepting(|member| !refused[member]));
            let of_b = b.pick(key, &accepting(|member| !refused[shuffled[member]]));
            prop_assert_eq!(of_a, of_b.map(|member| shuffled[member]));
        }
    }

    #[test]
    fn shares_follow_the_weights(weights in prop::collection::vec(1_u32..200, 1..60)) {
        let maglev = by_weights(&weights);
        let sum: u32 = weights.iter().sum();
        for (&weight, own) in weights.iter().zip(maglev.entries()) {
            let exact = maglev.size() as f64 * f64::from(weight) / f64::from(sum);
            prop_assert!((f64::from(own) - exact).abs() <= 1.0 + exact * 0.01, "{own} for {exact}");
        }
    }

    #[test]
    fn a_key_whose_owner_is_accepted_never_moves_and_others_come_back(
        states in prop::collection::vec(refusals(), 1..6),
        keys in prop::collection::vec(any::<u64>(), 50),
    ) {
        let maglev = equal(12);
        for refused in &states {
            for &key in &keys {
                let owner = maglev.owner(key).unwrap();
                let picked = maglev.pick(key, &accepting(|member| !refused[member]));
                if !refused[owner] {
                    prop_assert_eq!(picked, Some(owner));
                }
                prop_assert_eq!(picked.is_none(), refused.iter().all(|&refused| refused));
                prop_assert!(picked.is_none_or(|member| !refused[member]));
            }
        }
        for key in keys {
            prop_assert_eq!(maglev.pick(key, &accepting(|_| true)), maglev.owner(key));
        }
    }

    /// A refusal moves only the keys that went to the refused member.
    #[test]
    fn one_more_refusal_moves_only_its_own_keys(mut refused in refusals(), one in 0..12_usize, key: u64) {
        let maglev = equal(12);
        refused[one] = false;
        let before = maglev.pick(key, &accepting(|member| !refused[member]));
        refused[one] = true;
        let after = maglev.pick(key, &accepting(|member| !refused[member]));
        prop_assert!(before == Some(one) || before == after);
    }

    /// A key that a member takes during its slow start stays with it. A growing share never moves a key to a member
    /// that does not own it.
    #[test]
    fn a_growing_share_moves_keys_to_their_owner_alone(mut shares in prop::collection::vec(0..=FULL_SHARE, 2..6), key: u64) {
        let maglev = equal(8);
        shares.sort_unstable();
        let mut had = None;
        for share in shares {
            let mut all = [FULL_SHARE; 8];
            all[5] = share;
            let picked = maglev.pick(key, &TestCandidates::new([0; 8]).sharing(all));
            prop_assert!(had.is_none() || picked == had || picked == Some(5));
            prop_assert!(picked != Some(5) || maglev.owner(key) == Some(5));
            had = picked;
        }
    }

    #[test]
    fn a_bounded_pick_finds_a_member_that_accepts(
        members in prop::collection::vec((0_u64..30, 0..=FULL_SHARE, any::<bool>()), 12),
        keys in prop::collection::vec(any::<u64>(), 20),
    ) {
        let maglev = bounded(12, 110);
        let candidates = TestCandidates::new(members.iter().map(|member| member.0).collect::<Vec<_>>())
            .sharing(members.iter().map(|member| member.1).collect::<Vec<_>>())
            .refusing(members.iter().map(|member| member.2).collect::<Vec<_>>());
        for key in keys {
            let picked = maglev.pick(key, candidates.anew());
            prop_assert_eq!(picked.is_none(), candidates.refused.iter().all(|&refused| refused));
            prop_assert!(picked.is_none_or(|member| !candidates.refused[member]));
        }
    }

    #[test]
    fn each_member_is_queried_once(count in 1..90_usize, key: u64) {
        let mut queried = Vec::new();
        let maglev = equal(count);
        prop_assert_eq!(maglev.pick(key, &accepting(|member| { queried.push(member); false })), None);
        prop_assert_eq!(queried.first().copied(), maglev.owner(key));
        queried.sort_unstable();
        prop_assert_eq!(queried, (0..count).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn the_table_is_the_one_of_the_contract(weights in prop::collection::vec(1_u32..2000, 1..12), key: [u8; 16]) {
        let identities = identities(weights.len());
        let mut members = members(&identities, |n| weights[n]);
        members.sort_by_key(|member| member.identity);
        let hash = KeyedHash(SipHasher24::new_with_key(&key));
        let size = table_size(members.len() as u64);
        prop_assert_eq!(fill(&members, size, &hash), fill_round_by_round(&members, &hash));
    }
}
