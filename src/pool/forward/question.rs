//! A question for a name, and the cache that its answer goes to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cache::{CachedAnswer, LookupFault, NameCache};
use crate::wire::ServerName;

/// The cache of names. The lock is held briefly: for one look-up for each connection, and one answer for each question.
pub(super) type KnownNames = Arc<Mutex<NameCache>>;

/// A name with a look-up in progress. The waiting connections also get an answer if the value is dropped.
#[derive(Debug)]
pub(super) struct ForwardQuestion {
    pub(super) name: ServerName,
    pub(super) names: KnownNames,
    is_answered: bool,
}

impl ForwardQuestion {
    /// Returns a question that is not answered yet.
    pub(super) fn new(name: ServerName, names: KnownNames) -> Self {
        Self { name, names, is_answered: false }
    }

    /// Stores the answer, for the connections that wait and for later ones.
    pub(super) fn answer(&mut self, answer: CachedAnswer, ttl: Duration) {
        self.is_answered = true;
        lock(&self.names).answer(&self.name, answer, ttl, Instant::now());
    }
}

impl Drop for ForwardQuestion {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer(Err(LookupFault::Failed), Duration::ZERO);
        }
    }
}

/// Locks the cache.
pub(super) fn lock(names: &KnownNames) -> MutexGuard<'_, NameCache> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
