//! Candidates for the tests of all balancers.

use std::cell::RefCell;
use std::time::Duration;

use super::{Candidates, FULL_SHARE};

/// Candidates without connections and with their full share; a closure decides which of them accept.
pub(super) struct Accepting<F>(RefCell<F>);

/// Creates candidates. A candidate accepts if `accept` returns true for it.
pub(super) fn accepting<F: FnMut(usize) -> bool>(accept: F) -> Accepting<F> {
    Accepting(RefCell::new(accept))
}

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

/// Candidates with given figures. A second query of one candidate within a pick panics, so a test calls
/// [`TestCandidates::anew`] before each pick.
#[derive(Clone, Debug)]
pub(super) struct TestCandidates {
    pub(super) active: Vec<u64>,
    pub(super) share: Vec<u32>,
    pub(super) latency: Vec<Duration>,
    pub(super) refused: Vec<bool>,
    queried: RefCell<Vec<bool>>,
}

impl TestCandidates {
    /// Creates candidates with these connections and full shares, which all accept.
    pub(super) fn new(active: impl Into<Vec<u64>>) -> Self {
        let active = active.into();
        let count = active.len();
        Self {
            active,
            share: vec![FULL_SHARE; count],
            latency: vec![Duration::ZERO; count],
            refused: vec![false; count],
            queried: RefCell::new(vec![false; count]),
        }
    }

    pub(super) fn sharing(self, share: impl Into<Vec<u32>>) -> Self {
        Self { share: share.into(), ..self }
    }

    pub(super) fn after(self, latency: impl Into<Vec<Duration>>) -> Self {
        Self { latency: latency.into(), ..self }
    }

    pub(super) fn refusing(self, refused: impl Into<Vec<bool>>) -> Self {
        Self { refused: refused.into(), ..self }
    }

    /// Forgets which candidates were queried and returns `self`, for another pick.
    pub(super) fn anew(&self) -> &Self {
        self.queried.borrow_mut().fill(false);
        self
    }
}

impl Candidates for TestCandidates {
    fn accepts(&self, index: usize) -> bool {
        assert!(!std::mem::replace(&mut self.queried.borrow_mut()[index], true), "{index} was queried twice");
        !self.refused[index]
    }

    fn active(&self, index: usize) -> u64 {
        self.active[index]
    }

    fn share(&self, index: usize) -> u32 {
        self.share[index]
    }

    fn latency(&self, index: usize) -> Duration {
        self.latency[index]
    }
}
