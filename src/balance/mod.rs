//! Candidates to index, pure: which backend a connection goes to. Randomness is passed in.
//!
//! A balancer knows its members by position, identity and weight alone. Whether a member can take a
//! connection now (is it healthy, is it full, was it tried?) is the caller's `accept`, asked at most once
//! for each member in one pick.

mod indices;
pub mod round_robin;

pub use round_robin::RoundRobin;

/// How a pool spreads its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing by a Maglev table (NSDI 2016, section 3.4).
    Maglev,
    /// Each in turn, by weight, evenly interleaved.
    RoundRobin,
}
