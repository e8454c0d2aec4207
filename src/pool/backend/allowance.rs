//! The load that the agent of a backend allows.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::wire::agent::AgentDirective;

/// The load that an agent allows its backend. Read by each pick.
#[derive(Debug)]
pub(super) struct Allowance {
    /// The allowed share, in percent.
    share: AtomicU8,
    connections: AtomicU64,
}

impl Allowance {
    /// The whole load.
    pub(super) fn full() -> Self {
        Self { share: AtomicU8::new(100), connections: AtomicU64::new(u64::MAX) }
    }

    /// Applies a directive, if it is about the load. Returns true if the allowance changed.
    pub(super) fn take_in(&self, word: AgentDirective) -> bool {
        match word {
            AgentDirective::Share(percent) => {
                let percent = percent.min(100);
                self.share.swap(percent, Ordering::SeqCst) != percent
            }
            AgentDirective::MaxConnections(most) => self.allow(most.into()),
            AgentDirective::Up
            | AgentDirective::Down
            | AgentDirective::Ready
            | AgentDirective::Drain
            | AgentDirective::Maintenance => false,
        }
    }

    /// Removes all limits. Returns true if there were any.
    pub(super) fn forget(&self) -> bool {
        self.take_in(AgentDirective::Share(100)) | self.allow(u64::MAX)
    }

    fn allow(&self, most: u64) -> bool {
        self.connections.swap(most, Ordering::SeqCst) != most
    }

    /// The allowed percentage of its usual share, 0 to 100.
    pub(super) fn share(&self) -> u8 {
        self.share.load(Ordering::Relaxed)
    }

    /// The allowed connections at once; `u64::MAX` is no limit.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_what_was_said_last() {
        let allowance = Allowance::full();
        assert_eq!((allowance.share(), allowance.connections()), (100, u64::MAX));
        for word in [
            AgentDirective::Share(30),
            AgentDirective::MaxConnections(7),
            AgentDirective::Down,
            AgentDirective::Ready,
        ] {
            allowance.take_in(word);
        }
        assert_eq!((allowance.share(), allowance.connections()), (30, 7));
        allowance.forget();
        assert_eq!((allowance.share(), allowance.connections()), (100, u64::MAX));
    }
}
