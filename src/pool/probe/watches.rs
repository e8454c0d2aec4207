//! The tasks of one pool's backends: each new backend gets one, and it ends with the backend.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::pool::spec::Targets;
use crate::pool::{Backend, Pool};
use crate::sys::Address;

/// The tasks by their backends' names. They end when it is dropped.
#[derive(Debug, Default)]
pub(in crate::pool) struct Watches(HashMap<Arc<str>, Task>);

impl Watches {
    /// Ends all of them.
    pub(in crate::pool) fn clear(&mut self) {
        self.0.clear();
    }

    /// Starts a task for each backend that is new or is asked elsewhere than before, and ends those of
    /// backends that are gone. `address_of` says where a backend is asked; where it cannot say, which the
    /// configuration rules out, the backend itself is.
    pub(in crate::pool) fn follow(
        &mut self,
        pool: &Pool,
        address_of: impl Fn(&Targets, &Address) -> Option<Address>,
        mut start: impl FnMut(&Arc<Backend>, Address) -> AbortHandle,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for (backend, spec) in pool.backends().iter().zip(&pool.spec().backends) {
            let address =
                address_of(&spec.targets, backend.address()).unwrap_or_else(|| backend.address().clone());
            let kept = before
                .remove(backend.name())
                .filter(|task| task.address == address && backend.shares_health(&task.backend));
            let task = kept.unwrap_or_else(|| Task {
                handle: start(backend, address.clone()),
                backend: Arc::clone(backend),
                address,
            });
            self.0.insert(Arc::clone(backend.name()), task);
        }
    }

    /// The task of that backend.
    #[cfg(test)]
    pub(super) fn id(&self, name: &str) -> Option<tokio::task::Id> {
        self.0.get(name).map(|task| task.handle.id())
    }

    /// Whether there are none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One backend's task, ended on drop.
#[derive(Debug)]
struct Task {
    backend: Arc<Backend>,
    address: Address,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
