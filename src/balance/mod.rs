//! Candidates to index, pure: which backend a connection goes to. Randomness is passed in.
//!
//! A balancer knows its members by position, identity and weight alone. What holds only now (is a member
//! healthy, is it full, was it tried, how many connections has it?) it asks of the caller's [`Candidates`].

mod bounded_load;
pub mod failover;
mod indices;
pub mod least_connections;
mod load;
pub mod maglev;
mod random_sequence;
pub mod random_two;
pub mod round_robin;
#[cfg(test)]
mod testing;
pub mod tiers;

use std::time::Duration;

pub use failover::Failover;
pub use least_connections::LeastConnections;
pub use maglev::Maglev;
pub use random_two::{Measure, RandomTwo};
pub use round_robin::RoundRobin;

/// The share of a member that takes all it usually takes.
pub const FULL_SHARE: u32 = 1024;

/// How a pool spreads its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing by a Maglev table (NSDI 2016, section 3.4).
    Maglev,
    /// Each in turn, by weight, evenly interleaved.
    RoundRobin,
    /// The fewest connections for its weight, of all.
    LeastConnections,
    /// The fewest connections for its weight, of two drawn by luck.
    RandomTwo,
    /// The first in written order that can.
    Failover,
    /// The shortest connect time for its connections, of two drawn by luck.
    LeastLatency,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 6] = [
        Self::Maglev,
        Self::RoundRobin,
        Self::LeastConnections,
        Self::RandomTwo,
        Self::Failover,
        Self::LeastLatency,
    ];

    /// Its word in the configuration, the status and the metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::RandomTwo => "random-two",
            Self::Failover => "failover",
            Self::LeastLatency => "least-latency",
        }
    }
}

/// The most connections that a member of a hash table may have, against its share of all by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLoad(u32);

impl MaxLoad {
    /// In hundredths: 125 is a quarter above the average. 100 and less count as 101, as there must be room
    /// for one more somewhere.
    pub const fn of_percent(percent: u32) -> Self {
        Self(if percent > 100 { percent } else { 101 })
    }

    /// In hundredths.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

/// One candidate. A pick answers with its position in the slice that the balancer was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// What names this member on every node, whatever its position: distinct within a pool.
    pub identity: &'a [u8],
    /// Its share relative to the others; 0 is never picked.
    pub weight: u32,
}

/// What a balancer may ask of its candidates, by their positions; asked anew for each pick.
///
/// Answers should not change within one pick.
pub trait Candidates {
    /// Whether it can take this connection: asked at most once for each candidate in one pick. It only looks:
    /// one that was accepted need not be the one that is picked.
    fn accepts(&self, index: usize) -> bool;

    /// Connections that are open to it.
    fn active(&self, index: usize) -> u64;

    /// How much of its usual share it takes now, [`FULL_SHARE`] or less: while it starts slowly, by an
    /// agent's word.
    fn share(&self, index: usize) -> u32;

    /// Its connect time of late; zero while nothing is known.
    fn latency(&self, index: usize) -> Duration;
}

/// What picks a pool's backend.
#[derive(Debug)]
pub enum Balancer {
    /// By the key: equal keys go to the same member.
    Maglev(Maglev),
    /// By turns, whatever the key.
    RoundRobin(RoundRobin),
    /// By the connections of all.
    LeastConnections(LeastConnections),
    /// By the connections or the connect times of two.
    RandomTwo(RandomTwo),
    /// By the written order.
    Failover(Failover),
}

impl Balancer {
    /// Builds what `algorithm` names. Only Maglev looks at `hash_key`, which all nodes share; only round
    /// robin looks at `start`, a random number that keeps nodes and reloads from all beginning at one member.
    pub fn build(algorithm: Algorithm, members: &[Member<'_>], hash_key: &[u8; 16], start: u64) -> Self {
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        match algorithm {
            Algorithm::Maglev => Self::Maglev(Maglev::build(members, hash_key)),
            Algorithm::RoundRobin => Self::RoundRobin(RoundRobin::build(&weights, start)),
            Algorithm::LeastConnections => Self::LeastConnections(LeastConnections::build(&weights)),
            Algorithm::RandomTwo => Self::RandomTwo(RandomTwo::build(&weights, Measure::Connections)),
            Algorithm::Failover => Self::Failover(Failover::build(&weights)),
            Algorithm::LeastLatency => Self::RandomTwo(RandomTwo::build(&weights, Measure::Latency)),
        }
    }

    /// The same with a bound on what each of its `members` holds, if there is one. It binds Maglev alone; the
    /// others look at what is open anyway, or are not meant to.
    #[must_use]
    pub fn bounded(self, max_load: Option<MaxLoad>, members: &[Member<'_>]) -> Self {
        match (self, max_load) {
            (Self::Maglev(maglev), Some(max_load)) => Self::Maglev(maglev.bounded(max_load, members)),
            (other, _) => other,
        }
    }

    /// The member for a connection with this key, or `None` when every member with a weight is refused.
    ///
    /// `random_sequence` is any number that differs from pick to pick; it is mixed here, so a counter will do.
    pub fn pick(&self, key: u64, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        match self {
            Self::Maglev(maglev) => maglev.pick(key, candidates),
            Self::RoundRobin(round_robin) => round_robin.pick(randomness, candidates),
            Self::LeastConnections(least_connections) => least_connections.pick(randomness, candidates),
            Self::RandomTwo(random_two) => random_two.pick(randomness, candidates),
            Self::Failover(failover) => failover.pick(randomness, candidates),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{TestCandidates, accepting};
    use super::*;

    fn members() -> [Member<'static>; 3] {
        [(&b"a"[..], 1), (b"b", 0), (b"c", 2)].map(|(identity, weight)| Member { identity, weight })
    }

    fn built(algorithm: Algorithm) -> Balancer {
        Balancer::build(algorithm, &members(), &[0; 16], 7)
    }

    #[test]
    fn each_algorithm_gives_its_balancer() {
        let name = |algorithm| format!("{:?}", built(algorithm));
        assert!(name(Algorithm::Maglev).starts_with("Maglev"));
        assert!(name(Algorithm::RoundRobin).starts_with("RoundRobin"));
        assert!(name(Algorithm::LeastConnections).starts_with("LeastConnections"));
        assert!(name(Algorithm::RandomTwo).contains("measure: Connections"));
        assert!(name(Algorithm::Failover).starts_with("Failover"));
        assert!(name(Algorithm::LeastLatency).contains("measure: Latency"));
    }

    #[test]
    fn a_pick_is_a_position_with_weight_that_was_accepted() {
        for algorithm in Algorithm::ALL {
            let balancer = built(algorithm);
            for key in 0..100 {
                assert!(matches!(balancer.pick(key, key, &accepting(|_| true)), Some(0 | 2)));
                assert_eq!(balancer.pick(key, key, &accepting(|index| index != 2)), Some(0));
                assert_eq!(balancer.pick(key, key, &accepting(|_| false)), None);
            }
        }
    }

    #[test]
    fn nobody_is_asked_twice_whatever_the_shares() {
        for algorithm in Algorithm::ALL {
            for max_load in [None, Some(MaxLoad::of_percent(125))] {
                let balancer = built(algorithm).bounded(max_load, &members());
                for key in 0..200 {
                    let share = [key as u32 % 1025, FULL_SHARE, key as u32 * 7 % 1025];
                    let crowd = TestCandidates::new([key % 5, 0, key % 3]).sharing(share);
                    let refused = crowd.clone().refusing([key % 2 == 0, true, key % 2 == 1]);
                    assert!(balancer.pick(key, key, &crowd).is_some(), "{algorithm:?}");
                    assert_eq!(balancer.pick(key, key, &refused), Some(if key % 2 == 0 { 2 } else { 0 }));
                }
            }
        }
    }

    #[test]
    fn only_maglev_is_bounded() {
        for algorithm in Algorithm::ALL {
            let balancer = built(algorithm).bounded(Some(MaxLoad::of_percent(150)), &members());
            let Balancer::Maglev(maglev) = balancer else { continue };
            assert_eq!(maglev.overflows(), Some(0));
        }
        assert_eq!(
            [0, 100, 101, 125].map(|percent| MaxLoad::of_percent(percent).percent()),
            [101, 101, 101, 125]
        );
    }
}
