//! The spread of a pool's keys over its tiers. Pure: the input is capacities, the output is shares and choices.
//!
//! A tier is a group of backends that is used before the next group: the backends of the own zone, of the
//! next zone, and so on. A tier is assumed to have capacity for 1.4 times its load, as in Envoy. So a tier keeps
//! all keys while its backends that are up can carry them. Below that, its share is `up / total * 1.4`, and the
//! rest spills over to the next tier by the same rule. If all tiers together cannot carry all keys, the keys
//! are divided among them in proportion.
//!
//! Only keys whose owner in the tier is down leave the tier. There are always enough of these keys: `1 - up / total` of
//! a tier's keys have an owner that is down, and at most this part of the keys must leave. So a key whose owner is up
//! never moves because of another tier.
//!
//! # The contract
//!
//! Nodes choose the same tier for a key if they have the same tiers in the same order, and see the same backends
//! up. Nodes in different zones have their tiers in different orders, so their choices differ; this is the purpose
//! of zones. A client whose place is known has an order of its own, which is the same on all nodes.
//!
//! The choice depends on the key's coin for the n-th tier (from 0): the upper half of `mix(key + (n + 1) * 0x9e3779b97f4a7c15)`, where `mix` is the finalizer of SplitMix64. A change of this formula
//! would move connections in every fleet during its upgrade; golden vectors in the tests detect such a change.

/// All keys. Shares are fractions of this number, exact to one in four thousand million.
pub const WHOLE: u64 = 1 << 32;

/// The load that a tier with all backends up is assumed to carry, as a multiple of its usual load: 1.4.
const OVERPROVISIONED: (u128, u128) = (7, 5);

/// The capacity of a tier, in units of weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The weight of the backends that are up; at most `total`.
    pub up: u64,
    /// The weight of all backends of the tier.
    pub total: u64,
}

impl Capacity {
    /// Returns the share of the keys that the tier can carry; 0 only if no backend is up.
    fn carried(self) -> u64 {
        if self.up == 0 {
            return 0;
        }
        let (times, of) = OVERPROVISIONED;
        let share = u128::from(self.up) * times * u128::from(WHOLE) / (of * u128::from(self.total.max(1)));
        u64::try_from(share).unwrap_or(WHOLE).clamp(1, WHOLE)
    }
}

/// The state of a key's owner in one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    /// The owner is up.
    Up,
    /// The owner is down.
    Down,
    /// Keys have no owner in this tier, or the owner does not count.
    None,
}

/// The capacities of the tiers of a pool. Shares and choices are computed from them for any order of the tiers. A tier is
/// named by its position among the capacities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierSpread {
    parts: Box<[TierPart]>,
    /// The sum over `parts`; above 0.
    sum: u64,
    rule: SpreadRule,
}

/// The part of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TierPart {
    /// The share of the keys that the tier can carry; its weight if health does not count.
    most: u64,
    /// The share of the tier's keys whose owner is up.
    up: u64,
}

/// The rule by which tiers share the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpreadRule {
    /// Each tier in order gets as much as it can carry.
    Preference,
    /// All tiers together cannot carry all keys: they share in proportion.
    Overload,
    /// The tiers share by weight, and owners do not count.
    Weight,
}

/// The odds, out of [`WHOLE`], that a key which left all earlier tiers stays in this tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TierOdds {
    /// The odds of any key.
    any: u64,
    /// The share of the tier's keys whose owner is up.
    up: u64,
    rule: SpreadRule,
}

impl TierSpread {
    /// Spreads the keys over the tiers in order of preference; `None` if no backend is up in any tier.
    pub fn by_preference(tiers: &[Capacity]) -> Option<Self> {
        let part = |tier: &Capacity| TierPart { most: tier.carried(), up: part(tier.up, tier.total) };
        let parts: Box<[_]> = tiers.iter().map(part).collect();
        let sum = parts.iter().map(|part| part.most).sum();
        let rule = if sum < WHOLE { SpreadRule::Overload } else { SpreadRule::Preference };
        (sum > 0).then_some(Self { parts, sum, rule })
    }

    /// Spreads the keys over all tiers by weight, without regard to health or owners; `None` if the total weight
    /// is 0.
    pub fn by_weight(tiers: &[Capacity]) -> Option<Self> {
        let parts: Box<[_]> = tiers.iter().map(|tier| TierPart { most: tier.total, up: 0 }).collect();
        let sum = parts.iter().map(|part| part.most).sum();
        (sum > 0).then_some(Self { parts, sum, rule: SpreadRule::Weight })
    }

    /// Returns the tier of a key, as its place in an `order` of all tiers. Calls `owner` for the tiers in this order until
    /// one is chosen.
    pub fn choose(
        &self,
        order: impl Iterator<Item = usize>,
        key: u64,
        owner: impl Fn(usize) -> KeyOwner,
    ) -> usize {
        let mut walk = SpreadWalk::begin(self);
        let stays = |(place, tier): (usize, usize)| walk.odds(tier).stays(owner(tier), || coin(key, place));
        order.enumerate().position(stays).unwrap_or(0)
    }

    /// Returns the share of each tier, for an `order` of all tiers. The sum of the shares is [`WHOLE`].
    pub fn shares(&self, order: impl Iterator<Item = usize>) -> Vec<u64> {
        let mut walk = SpreadWalk::begin(self);
        let mut shares = vec![0; self.parts.len()];
        order.for_each(|tier| shares[tier] = walk.share(tier));
        shares
    }
}

/// The state of a walk over the tiers in one order.
struct SpreadWalk<'a> {
    spread: &'a TierSpread,
    /// The share of the keys that no earlier tier got.
    left: u64,
    /// The sum of the parts of the earlier tiers.
    before: u64,
}

impl<'a> SpreadWalk<'a> {
    fn begin(spread: &'a TierSpread) -> Self {
        Self { spread, left: WHOLE, before: 0 }
    }

    /// Returns the share of the next tier in the order.
    fn share(&mut self, tier: usize) -> u64 {
        let most = self.spread.parts[tier].most;
        let share = match self.spread.rule {
            SpreadRule::Preference => most.min(self.left),
            SpreadRule::Overload | SpreadRule::Weight => {
                self.before += most;
                (part(self.before, self.spread.sum) + self.left).saturating_sub(WHOLE)
            }
        };
        self.left -= share;
        share
    }

    /// Returns the odds of the next tier in the order.
    fn odds(&mut self, tier: usize) -> TierOdds {
        let left = self.left;
        let share = self.share(tier);
        // This is the usual case, and a division of 128 bits costs more than the rest.
        let any = if share > 0 && share == left { WHOLE } else { part(share, left) };
        TierOdds { any, up: self.spread.parts[tier].up, rule: self.spread.rule }
    }
}

impl TierOdds {
    /// Returns true if a key with such an owner stays in the tier.
    fn stays(self, owner: KeyOwner, coin: impl FnOnce() -> u64) -> bool {
        match owner {
            KeyOwner::Up => self.any > 0,
            _ if self.any >= WHOLE => true,
            KeyOwner::Down => coin() < self.orphan(),
            KeyOwner::None => coin() < self.any,
        }
    }

    /// Returns the odds of a key whose owner is down, if the keys with other owners stay.
    fn orphan(self) -> u64 {
        match self.rule {
            SpreadRule::Weight => self.any,
            _ if self.any >= WHOLE => WHOLE,
            _ => part(self.any.saturating_sub(self.up), WHOLE - self.up.min(self.any)),
        }
    }
}

/// Returns `some / all` as a fraction of [`WHOLE`]; 0 if `all` is 0.
fn part(some: u64, all: u64) -> u64 {
    let part = u128::from(some) * u128::from(WHOLE) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(WHOLE).min(WHOLE)
}

/// Returns the coin of a key for a tier: a pseudorandom number below [`WHOLE`].
fn coin(key: u64, tier: usize) -> u64 {
    let mut mixed = key.wrapping_add((tier as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tiers written as `up/total`.
    fn tiers(text: &str) -> Vec<Capacity> {
        text.split_whitespace()
            .map(|tier| {
                let (up, total) = tier.split_once('/').unwrap();
                Capacity { up: up.parse().unwrap(), total: total.parse().unwrap() }
            })
            .collect()
    }

    /// The shares of the tiers in the order of their capacities.
    fn in_order(spread: &TierSpread) -> Vec<u64> {
        spread.shares(0..spread.parts.len())
    }

    /// The tier of a key, for the order of the capacities.
    fn chosen(spread: &TierSpread, key: u64, owner: impl Fn(usize) -> KeyOwner) -> usize {
        spread.choose(0..spread.parts.len(), key, owner)
    }

    /// The shares in percent, rounded.
    fn percent(spread: Option<&TierSpread>) -> String {
        let Some(spread) = spread else { return "none".into() };
        let percent =
            in_order(spread).into_iter().map(|share| ((share * 100 + WHOLE / 2) / WHOLE).to_string());
        percent.collect::<Vec<_>>().join(" ")
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(percent(TierSpread::by_preference(&tiers(text)).as_ref()), expected, "{text}");
    }

    #[test]
    fn the_first_tier_takes_what_it_can_carry() {
        check("4/4", "100");
        check("1/4", "100");
        check("4/4 4/4", "100 0");
        check("3/4 4/4", "100 0");
        check("5/7 1/1", "100 0");
        check("2/4 4/4", "70 30");
        check("1/4 4/4 4/4", "35 65 0");
        check("1/4 1/4 4/4", "35 35 30");
        check("0/4 4/4", "0 100");
        check("0/4 1/4", "0 100");
        check("0/0 1/1", "0 100");
        check("2/4 0/4 4/4", "70 0 30");
    }

    #[test]
    fn tiers_that_are_too_weak_together_share_in_proportion() {
        check("1/4 1/4", "50 50");
        check("1/4 2/8", "50 50");
        check("1/10 2/10", "33 67");
        check("1/10 0/10 2/10", "33 0 67");
    }

    #[test]
    fn no_backend_up_is_none() {
        check("", "none");
        check("0/4", "none");
        check("0/4 0/9", "none");
    }

    #[test]
    fn by_weight_health_does_not_count() {
        let check =
            |text, expected| assert_eq!(percent(TierSpread::by_weight(&tiers(text)).as_ref()), expected);
        check("1/4 4/4", "50 50");
        check("0/3 0/1", "75 25");
        check("0/0 0/1", "0 100");
        check("", "none");
        check("0/0", "none");
    }

    /// A change here moves clients between the zones of every fleet that is upgraded node by node.
    #[test]
    fn golden_vectors() {
        let check = |key, tier, expected| assert_eq!(coin(key, tier), expected, "{:#x}", coin(key, tier));
        // The first outputs of SplitMix64 seeded with 0 are the coins of key 0.
        check(0, 0, 0xe220_a839);
        check(0, 1, 0x6e78_9e6a);
        check(0, 2, 0x06c4_5d18);
        check(0x9e37_79b9_7f4a_7c15, 0, 0x6e78_9e6a);
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..20_000_u64).map(|n| n.wrapping_mul(0xd134_2543_de82_ef95) ^ (n << 7))
    }

    /// Gives every key a pseudorandom owner in each tier, and returns the owner's state.
    fn owner(tiers: &[Capacity], key: u64) -> impl Fn(usize) -> KeyOwner {
        move |tier| {
            let owner = coin(key.rotate_left(17) ^ 0x5555, tier + 40);
            if owner < part(tiers[tier].up, tiers[tier].total) { KeyOwner::Up } else { KeyOwner::Down }
        }
    }

    /// Checks the measured part of the keys in each tier against the tier's share.
    fn check_measured(text: &str, with_owners: bool) {
        let tiers = tiers(text);
        let spread = TierSpread::by_preference(&tiers).unwrap();
        let mut counts = vec![0_u64; tiers.len()];
        for key in keys() {
            let owner = owner(&tiers, key);
            let tier = chosen(&spread, key, |tier| if with_owners { owner(tier) } else { KeyOwner::None });
            counts[tier] += 1;
            if with_owners && tier > 0 {
                assert_eq!(owner(0), KeyOwner::Down, "{text}: a key left its owner, which is up");
            }
        }
        for (&count, share) in counts.iter().zip(in_order(&spread)) {
            let measured = count as f64 / 20_000.0;
            let expected = share as f64 / WHOLE as f64;
            assert!((measured - expected).abs() < 0.015, "{text}: {measured} for {expected}");
            assert_eq!(count == 0, share == 0, "{text}");
        }
    }

    #[test]
    fn keys_follow_the_shares() {
        for text in
            ["4/4 4/4", "2/4 4/4", "1/4 4/4 4/4", "1/4 1/4 4/4", "1/4 1/4", "0/4 1/2 1/1", "1/10 2/10 0/1"]
        {
            check_measured(text, true);
            check_measured(text, false);
        }
    }

    /// The first tier recovers from `up` of four to `more` of four: a key without an owner may only move back to it.
    #[test]
    fn keys_only_come_back_when_a_tier_heals() {
        let mut came_back = 0;
        for (up, more) in [(0, 1), (1, 2), (2, 3), (1, 4)] {
            let [before, after] = [up, more].map(|up| {
                let tiers = [Capacity { up, total: 4 }, Capacity { up: 4, total: 4 }];
                TierSpread::by_preference(&tiers).unwrap()
            });
            for key in keys() {
                let tiers = [&before, &after].map(|spread| chosen(spread, key, |_| KeyOwner::None));
                assert!(tiers[1] <= tiers[0]);
                came_back += u32::from(tiers[1] < tiers[0]);
            }
        }
        assert!(came_back > 1000);
    }

    fn capacities() -> impl Strategy<Value = Vec<Capacity>> {
        let capacity = (0_u64..=655_350_000).prop_flat_map(|total| {
            prop_oneof![Just(0), Just(total), 0..=total].prop_map(move |up| Capacity { up, total })
        });
        prop::collection::vec(capacity, 0..6)
    }

    proptest! {
        #[test]
        fn shares_sum_up_and_belong_to_tiers_that_are_up(tiers in capacities()) {
            match TierSpread::by_preference(&tiers) {
                None => prop_assert!(tiers.iter().all(|tier| tier.up == 0)),
                Some(spread) => {
                    prop_assert_eq!(in_order(&spread).iter().sum::<u64>(), WHOLE);
                    for (tier, share) in tiers.iter().zip(in_order(&spread)) {
                        prop_assert!(tier.up > 0 || share == 0);
                    }
                }
            }
        }

        /// An order of the tiers has the shares and the choices of tiers that were given in this order.
        #[test]
        fn an_order_is_as_good_as_sorted_tiers(tiers in capacities(), seed: u64, key: u64, is_up: bool) {
            let mut order: Vec<usize> = (0..tiers.len()).collect();
            order.sort_by_key(|tier| coin(seed, *tier));
            let sorted: Vec<Capacity> = order.iter().map(|tier| tiers[*tier]).collect();
            for spread_by in [TierSpread::by_preference, TierSpread::by_weight] {
                let (Some(any), Some(expected)) = (spread_by(&tiers), spread_by(&sorted)) else {
                    prop_assert_eq!(spread_by(&tiers).is_some(), spread_by(&sorted).is_some());
                    continue;
                };
                let shares = any.shares(order.iter().copied());
                let shares: Vec<u64> = order.iter().map(|tier| shares[*tier]).collect();
                prop_assert_eq!(shares, in_order(&expected));
                for owner in [KeyOwner::None, if is_up { KeyOwner::Up } else { KeyOwner::Down }] {
                    let place = any.choose(order.iter().copied(), key, |_| owner);
                    prop_assert_eq!(place, chosen(&expected, key, |_| owner));
                }
            }
        }

        #[test]
        fn no_key_goes_to_a_tier_that_is_down(tiers in capacities(), key: u64, owner_is_up: bool) {
            let Some(spread) = TierSpread::by_preference(&tiers) else { return Ok(()) };
            let owner = |tier: usize| {
                let is_up = owner_is_up && tiers[tier].up > 0 || tiers[tier].up == tiers[tier].total;
                if is_up { KeyOwner::Up } else { KeyOwner::Down }
            };
            prop_assert!(in_order(&spread)[chosen(&spread, key, owner)] > 0);
            prop_assert!(in_order(&spread)[chosen(&spread, key, |_| KeyOwner::None)] > 0);
        }

        #[test]
        fn a_tier_that_recovers_never_gets_less(tiers in capacities(), at: prop::sample::Index, more: u64) {
            if tiers.is_empty() {
                return Ok(());
            }
            let at = at.index(tiers.len());
            let mut healed = tiers.clone();
            healed[at].up += more % (tiers[at].total - tiers[at].up + 1);
            let before = TierSpread::by_preference(&tiers).map_or(0, |spread| in_order(&spread)[at]);
            let after = TierSpread::by_preference(&healed).map_or(0, |spread| in_order(&spread)[at]);
            // One unit is lost to rounding if all tiers together cannot carry all keys.
            prop_assert!(after + 1 >= before, "{} to {}", before, after);
            for later in at + 1..tiers.len() {
                let [before, after] = [&tiers, &healed]
                    .map(|tiers| TierSpread::by_preference(tiers).map_or(0, |spread| in_order(&spread)[later]));
                let was_able = TierSpread::by_preference(&tiers).is_some();
                prop_assert!(!was_able || after <= before + 1, "a later tier got more");
            }
        }

        #[test]
        fn by_weight_is_whole_too(tiers in capacities(), key: u64) {
            let Some(spread) = TierSpread::by_weight(&tiers) else { return Ok(()) };
            prop_assert_eq!(in_order(&spread).iter().sum::<u64>(), WHOLE);
            prop_assert!(tiers[chosen(&spread, key, |_| KeyOwner::None)].total > 0);
        }
    }
}
