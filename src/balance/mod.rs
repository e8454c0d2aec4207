//! Candidates to index, pure: which backend a connection goes to. Randomness is passed in.
//!
//! A balancer knows its members by position, identity and weight alone. Whether a member can take a
//! connection now (is it healthy, is it full, was it tried?) is the caller's `accept`, asked at most once
//! for each member in one pick.

mod indices;
pub mod maglev;
pub mod round_robin;

pub use maglev::Maglev;
pub use round_robin::RoundRobin;

/// How a pool spreads its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing by a Maglev table (NSDI 2016, section 3.4).
    Maglev,
    /// Each in turn, by weight, evenly interleaved.
    RoundRobin,
}

/// One candidate. A pick answers with its position in the slice that the balancer was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// What names this member on every node, whatever its position: distinct within a pool.
    pub identity: &'a [u8],
    /// Its share relative to the others; 0 is never picked.
    pub weight: u32,
}

/// What picks a pool's backend.
#[derive(Debug)]
pub enum Balancer {
    /// By the key: equal keys go to the same member.
    Maglev(Maglev),
    /// By turns, whatever the key.
    RoundRobin(RoundRobin),
}

impl Balancer {
    /// Builds what `algorithm` names. Only Maglev looks at `hash_key`, which all nodes share; only round
    /// robin looks at `start`, a random number that keeps nodes and reloads from all beginning at one member.
    pub fn build(algorithm: Algorithm, members: &[Member<'_>], hash_key: &[u8; 16], start: u64) -> Self {
        match algorithm {
            Algorithm::Maglev => Self::Maglev(Maglev::build(members, hash_key)),
            Algorithm::RoundRobin => {
                let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
                Self::RoundRobin(RoundRobin::build(&weights, start))
            }
        }
    }

    /// The member for a connection with this key, or `None` when every member with a weight is refused.
    pub fn pick(&self, key: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Maglev(maglev) => maglev.pick(key, accept),
            Self::RoundRobin(round_robin) => round_robin.pick(accept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> [Member<'static>; 3] {
        [(&b"a"[..], 1), (b"b", 0), (b"c", 2)].map(|(identity, weight)| Member { identity, weight })
    }

    #[test]
    fn each_algorithm_gives_its_balancer() {
        let built = |algorithm| Balancer::build(algorithm, &members(), &[0; 16], 7);
        assert!(matches!(built(Algorithm::Maglev), Balancer::Maglev(_)));
        assert!(matches!(built(Algorithm::RoundRobin), Balancer::RoundRobin(_)));
    }

    #[test]
    fn a_pick_is_a_position_with_weight_that_was_accepted() {
        for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
            let balancer = Balancer::build(algorithm, &members(), &[0; 16], 7);
            for key in 0..100 {
                assert!(matches!(balancer.pick(key, |_| true), Some(0 | 2)));
                assert_eq!(balancer.pick(key, |index| index != 2), Some(0));
                assert_eq!(balancer.pick(key, |_| false), None);
            }
        }
    }
}
