//! Candidates to index, pure: which backend a connection goes to. Randomness is passed in.

/// How a pool spreads its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing by a Maglev table (NSDI 2016, section 3.4).
    Maglev,
    /// Each in turn, by weight, evenly interleaved.
    RoundRobin,
}
