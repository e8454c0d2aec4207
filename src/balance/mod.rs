//! Balancers: pure functions from candidates to an index. Randomness is an argument.
//!
//! A balancer stores only the position, the identity and the weight of its members. It queries the caller's
//! [`Candidates`] for all that changes: health, room, earlier attempts, open connections.

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

/// The full share of a member: no slow start and no agent reduces it.
pub const FULL_SHARE: u32 = 1024;

/// The algorithm by which a pool spreads its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing by a Maglev table (NSDI 2016, section 3.4).
    Maglev,
    /// Every member in turn, by weight, evenly interleaved.
    RoundRobin,
    /// The member with the fewest connections for its weight.
    LeastConnections,
    /// The member with fewer connections for its weight, of two drawn at random.
    RandomTwo,
    /// The first member in written order that accepts.
    Failover,
    /// The member with the shorter connect time for its connections, of two drawn at random.
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

    /// Returns the word for the algorithm in the configuration, the status and the metrics.
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

/// The upper bound of a hash table member's connections, relative to the member's share of all by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLoad(u32);

impl MaxLoad {
    /// Creates the bound from hundredths: 125 is a quarter above the average. A value of 100 or less counts as
    /// 101, because at least one member must have room for the next connection.
    pub const fn of_percent(percent: u32) -> Self {
        Self(if percent > 100 { percent } else { 101 })
    }

    /// Returns the bound in hundredths.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

/// One backend as a balancer sees it. A pick returns its position in the slice that the balancer was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name of this member, equal on every node and independent of its position; distinct within a pool.
    pub identity: &'a [u8],
    /// The member's share relative to the others; a member of weight 0 is never picked.
    pub weight: u32,
}

/// The present state of the candidates by position, which a balancer queries in each pick.
///
/// Answers should not change within one pick.
pub trait Candidates {
    /// Returns true if the candidate can take this connection. A pick calls this at most once for each candidate.
    /// The call must change nothing: a candidate that accepts is not always picked.
    fn accepts(&self, index: usize) -> bool;

    /// Returns the number of connections that are open to the candidate.
    fn active(&self, index: usize) -> u64;

    /// Returns the part of its usual share that the candidate takes now, at most [`FULL_SHARE`]. Slow start and
    /// agents reduce it.
    fn share(&self, index: usize) -> u32;

    /// Returns the candidate's recent connect time; zero before the first measurement.
    fn latency(&self, index: usize) -> Duration;
}

/// The balancer of a pool: picks the backend for each connection.
#[derive(Debug)]
pub enum Balancer {
    /// Picks by the key: equal keys go to the same member.
    Maglev(Maglev),
    /// Picks by turns; ignores the key.
    RoundRobin(RoundRobin),
    /// Picks by the connections of all members.
    LeastConnections(LeastConnections),
    /// Picks by the connections or the connect times of two members.
    RandomTwo(RandomTwo),
    /// Picks by the written order.
    Failover(Failover),
}

impl Balancer {
    /// Builds the balancer for `algorithm`. Only Maglev uses `hash_key`, which all nodes share. Only round
    /// robin uses `start`, a random number: without it all nodes and reloads would begin at the same member.
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

    /// Adds a bound on the connections of each of the `members`, if `max_load` is given. Only Maglev uses it: the
    /// others count open connections anyway or ignore them on purpose.
    #[must_use]
    pub fn bounded(self, max_load: Option<MaxLoad>, members: &[Member<'_>]) -> Self {
        match (self, max_load) {
            (Self::Maglev(maglev), Some(max_load)) => Self::Maglev(maglev.bounded(max_load, members)),
            (other, _) => other,
        }
    }

    /// Returns the member for a connection with this key, or `None` if no member with a weight accepts.
    ///
    /// `randomness` is any number that differs from pick to pick. It is mixed here, so a counter suffices.
    pub fn pick(&self, key: u64, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        match self {
            Self::Maglev(maglev) => maglev.pick(key, candidates),
            Self::RoundRobin(round_robin) => round_robin.pick(randomness, candidates),
            Self::LeastConnections(least_connections) => least_connections.pick(randomness, candidates),
            Self::RandomTwo(random_two) => random_two.pick(randomness, candidates),
            Self::Failover(failover) => failover.pick(randomness, candidates),
        }
    }

    /// Returns the member that a pick would return now, without an effect on later picks. If picks do not depend on the
    /// key and the candidates alone ([`Balancer::is_ordered`]), returns the first of the `members` that accepts.
    pub fn preview(&self, key: u64, members: usize, candidates: &impl Candidates) -> Option<usize> {
        match self {
            Self::Maglev(maglev) => maglev.preview(key, candidates),
            Self::Failover(failover) => failover.pick(0, candidates),
            Self::RoundRobin(_) | Self::LeastConnections(_) | Self::RandomTwo(_) => {
                (0..members).find(|&member| candidates.accepts(member))
            }
        }
    }

    /// Returns true if each key has an order in which members are picked. Turns, chance and counts of connections give no
    /// such order.
    pub fn is_ordered(&self) -> bool {
        matches!(self, Self::Maglev(_) | Self::Failover(_))
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
    fn no_member_is_queried_twice_whatever_the_shares() {
        for algorithm in Algorithm::ALL {
            for max_load in [None, Some(MaxLoad::of_percent(125))] {
                let balancer = built(algorithm).bounded(max_load, &members());
                for key in 0..200 {
                    let share = [key as u32 % 1025, FULL_SHARE, key as u32 * 7 % 1025];
                    let candidates = TestCandidates::new([key % 5, 0, key % 3]).sharing(share);
                    let refused = candidates.clone().refusing([key % 2 == 0, true, key % 2 == 1]);
                    assert!(balancer.pick(key, key, &candidates).is_some(), "{algorithm:?}");
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
