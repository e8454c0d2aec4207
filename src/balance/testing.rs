//! Candidates for the tests of all balancers.

use std::cell::RefCell;
use std::time::Duration;

use super::{Candidates, FULL_SHARE};

/// Candidates without connections and with their full share, accepted as a closure says.
pub(super) struct Accepting<F>(RefCell<F>);

/// See [`Accepting`].
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

/// Candidates with figures of their own. Asking one twice in a pick panics: say [`TestCandidates::anew`] before each.
#[derive(Clone, Debug)]
pub(super) struct TestCandidates {
    pub(super) active: Vec<u64>,
    pub(super) share: Vec<u32>,
    pub(super) latency: Vec<Duration>,
    pub(super) refused: Vec<bool>,
    asked: RefCell<Vec<bool>>,
}

impl TestCandidates {
    /// With so many connections each, their full shares and all accepted.
    pub(super) fn new(active: impl Into<Vec<u64>>) -> Self {
        let active = active.into();
        let count = active.len();
        Self {
            active,
            share: vec![FULL_SHARE; count],
            latency: vec![Duration::ZERO; count],
            refused: vec![false; count],
            asked: RefCell::new(vec![false; count]),
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

    /// Itself, for another pick.
    pub(super) fn anew(&self) -> &Self {
        self.asked.borrow_mut().fill(false);
        self
    }
}

impl Candidates for TestCandidates {
    fn accepts(&self, index: usize) -> bool {
        assert!(!std::mem::replace(&mut self.asked.borrow_mut()[index], true), "{index} was asked twice");
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
