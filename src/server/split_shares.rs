//! The shares of pools in a route, as an operator sets them at run time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::route::Split;
use crate::snapshot::ActionSpec;

/// All clients, in hundredths of a percent.
const WHOLE: u32 = 10_000;

/// The most pools in one text.
const MOST: usize = 16;

/// The shares of some pools, such as `canary=10%`. The pools that are written in the route and are not named share the rest,
/// in the proportion of their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitShares(Vec<(Arc<str>, u32)>);

/// The text has no valid shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "shares are written as POOL=10%, with at most two decimals, several with commas between them; each pool once, at most {MOST} \
     pools and 100 % in all"
)]
pub struct SplitFault;

impl SplitShares {
    /// Returns true if no client is left for other pools.
    pub fn is_whole(&self) -> bool {
        self.0.iter().map(|(_, share)| share).sum::<u32>() == WHOLE
    }

    /// Returns the names of the pools.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(pool, _)| &**pool)
    }

    /// Returns the action of a route with these shares: its pools and their parts of the clients. Pools that do not exist
    /// get no share. `None` if the route leads to no pool, or if no pool has a share.
    ///
    /// The written pools keep their order, and new pools come behind them. So only clients in the parts that grow change
    /// their pool.
    pub(super) fn applied(
        &self,
        written: &ActionSpec,
        hash_key: [u8; 16],
        exists: impl Fn(&str) -> bool,
    ) -> Option<ActionSpec> {
        let written: Vec<(Arc<str>, u64)> = match written {
            ActionSpec::Pool(pool) => vec![(Arc::clone(pool), 1)],
            ActionSpec::Split(split, pools) => pools.iter().cloned().zip(split.weights()).collect(),
            ActionSpec::Reject | ActionSpec::Drop => return None,
        };
        let named: Vec<_> = self.0.iter().filter(|(pool, _)| exists(pool)).collect();
        let share = |pool: &str| named.iter().find(|(name, _)| **name == *pool).map(|(_, share)| *share);
        let rest = u64::from(WHOLE - named.iter().map(|(_, share)| share).sum::<u32>());
        let others: u64 =
            written.iter().filter(|(pool, _)| share(pool).is_none()).map(|(_, weight)| weight).sum();
        // Without another pool the shares are relative to each other.
        let unit = others.max(1);
        let weight = |pool: &str, weight: u64| match share(pool) {
            Some(share) => u64::from(share) * unit,
            None => rest * weight,
        };
        let mut shares: Vec<_> =
            written.iter().map(|(pool, written)| (Arc::clone(pool), weight(pool, *written))).collect();
        for (pool, _) in &named {
            if !shares.iter().any(|(known, _)| known == pool) {
                shares.push((Arc::clone(pool), weight(pool, 0)));
            }
        }
        let has_share = shares.iter().any(|(_, weight)| *weight > 0);
        let (pools, weights): (Vec<_>, Vec<_>) = shares.into_iter().unzip();
        has_share.then(|| ActionSpec::Split(Split::new(hash_key, weights), pools))
    }
}

impl FromStr for SplitShares {
    type Err = SplitFault;

    fn from_str(text: &str) -> Result<Self, SplitFault> {
        let mut shares: Vec<(Arc<str>, u32)> = Vec::new();
        for part in text.split(',') {
            let (pool, share) = part.trim().rsplit_once('=').ok_or(SplitFault)?;
            let percent: f64 =
                share.trim().strip_suffix('%').ok_or(SplitFault)?.trim().parse().map_err(|_| SplitFault)?;
            // A share has at most two decimals: a smaller part would be a share of nothing.
            let is_exact = (percent * 100.0 - (percent * 100.0).round()).abs() < 1e-6;
            let is_new = !shares.iter().any(|(known, _)| **known == *pool);
            if pool.is_empty()
                || !(0.0..=100.0).contains(&percent)
                || !is_exact
                || !is_new
                || shares.len() == MOST
            {
                return Err(SplitFault);
            }
            // At most 10,000.
            shares.push((pool.into(), (percent * 100.0).round() as u32));
        }
        let sum: u32 = shares.iter().map(|(_, share)| share).sum();
        if sum > WHOLE { Err(SplitFault) } else { Ok(Self(shares)) }
    }
}

impl fmt::Display for SplitShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (pool, share)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{pool}={}%", f64::from(*share) / 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> SplitShares {
        text.parse().unwrap()
    }

    #[test]
    fn shares_are_read_and_written() {
        for text in ["canary=10%", "a=0%,b=100%", "a=12.5%,b=0.01%", "a=b=3%"] {
            assert_eq!(shares(text).to_string(), text);
        }
        assert_eq!(shares(" a=1 %, b=2% ").to_string(), "a=1%,b=2%");
        for wrong in [
            "",
            "a",
            "a=10",
            "=10%",
            "a=101%",
            "a=-1%",
            "a=NaN%",
            "a=60%,b=41%",
            "a=1%,a=2%",
            "a=1%,",
            "a=0.001%",
        ] {
            assert_eq!(wrong.parse::<SplitShares>(), Err(SplitFault), "{wrong}");
        }
        let many = |count| (0..count).map(|at| format!("p{at}=1%")).collect::<Vec<_>>().join(",");
        assert!(many(MOST).parse::<SplitShares>().is_ok() && many(MOST + 1).parse::<SplitShares>().is_err());
    }

    /// Checks the weights of pools after an override.
    fn check(written: &ActionSpec, text: &str, expected: Option<&[(&str, u64)]>) {
        let applied = shares(text).applied(written, [7; 16], |pool| pool != "gone");
        let found = applied.map(|action| match action {
            ActionSpec::Split(split, pools) => {
                let names = pools.iter().map(|pool| pool.to_string());
                names.zip(split.weights()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        });
        let expected = expected
            .map(|expected| expected.iter().map(|(pool, weight)| ((*pool).to_owned(), *weight)).collect());
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_other_pools_share_the_rest() {
        let one = ActionSpec::Pool("main".into());
        check(&one, "canary=10%", Some(&[("main", 9_000), ("canary", 1_000)]));
        check(&one, "canary=0%", Some(&[("main", 10_000), ("canary", 0)]));
        check(&one, "canary=100%", Some(&[("main", 0), ("canary", 10_000)]));
        check(&one, "main=30%", Some(&[("main", 3_000)]));
        check(&one, "main=0%", None);
        check(&one, "gone=50%", Some(&[("main", 10_000)]));
        let split = ActionSpec::Split(Split::new([1; 16], [3_u32, 1]), vec!["a".into(), "b".into()]);
        check(&split, "b=50%", Some(&[("a", 15_000), ("b", 15_000)]));
        check(&split, "c=20%", Some(&[("a", 24_000), ("b", 8_000), ("c", 8_000)]));
        check(&split, "a=1%,b=1%", Some(&[("a", 100), ("b", 100)]));
        check(&ActionSpec::Reject, "a=1%", None);
        check(&ActionSpec::Drop, "a=1%", None);
    }
}
