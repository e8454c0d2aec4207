//! Candidates to index, pure: which backend a connection goes to. Randomness is passed in.
//!
//! A balancer knows its members by position, identity and weight alone. What holds only now (is a member
//! healthy, is it full, was it tried, how many connections has it?) it asks of the caller's [`Candidates`].

mod indices;
pub mod maglev;
pub mod round_robin;

use std::time::Duration;

pub use maglev::Maglev;
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
    ///
    /// `luck` is any number that differs from pick to pick; it is mixed here, so a counter will do.
    pub fn pick(&self, key: u64, luck: u64, candidates: &impl Candidates) -> Option<usize> {
        _ = luck;
        match self {
            Self::Maglev(maglev) => maglev.pick(key, candidates),
            Self::RoundRobin(round_robin) => round_robin.pick(candidates),
        }
    }
}

/// Candidates without connections and with their full share, accepted as a closure says.
#[cfg(test)]
struct Accepting<F>(std::cell::RefCell<F>);

#[cfg(test)]
fn accepting<F: FnMut(usize) -> bool>(accept: F) -> Accepting<F> {
    Accepting(std::cell::RefCell::new(accept))
}

#[cfg(test)]
impl<F: FnMut(usize) -> bool> Candidates for Accepting<F> {
    fn accepts(&self, index: usize) -> bool {
        (self.0.borrow_mut())(index)
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
                assert!(matches!(balancer.pick(key, 0, &accepting(|_| true)), Some(0 | 2)));
                assert_eq!(balancer.pick(key, 0, &accepting(|index| index != 2)), Some(0));
                assert_eq!(balancer.pick(key, 0, &accepting(|_| false)), None);
            }
        }
    }
}
