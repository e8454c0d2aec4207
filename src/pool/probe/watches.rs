//! The tasks of one pool's backends: each new backend gets a task, which ends with the backend.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::endpoint::CheckEndpoint;
use super::limit::CheckLimit;
use super::schedule::{RandomNumbers, Schedule};
use crate::pool::backend::Backend;
use crate::pool::check_target::{CheckTargets, Endpoint};
use crate::pool::discover::CheckNames;
use crate::pool::pool_in_use::Pool;
use crate::sys::Address;

/// The tasks by their backends' names, and the spec `S` of their queries. They end when this is dropped.
#[derive(Debug)]
pub(in crate::pool) struct Watches<S> {
    spec: Option<S>,
    tasks: HashMap<Arc<str>, CheckTask>,
}

/// The inputs of the task of one backend. The task sends reports `R`.
pub(in crate::pool) struct Watch<S, R> {
    pub(in crate::pool) backend: Arc<Backend>,
    pub(in crate::pool) asked: CheckEndpoint,
    pub(in crate::pool) spec: S,
    pub(in crate::pool) limit: Arc<CheckLimit>,
    pub(in crate::pool) reports: mpsc::Sender<R>,
    pub(in crate::pool) schedule: Schedule,
}

/// The inputs that all tasks of a pool share.
pub(in crate::pool) struct Shared<'a, R> {
    /// The host names of checks and agents.
    pub(in crate::pool) names: &'a CheckNames,
    pub(in crate::pool) limit: &'a Arc<CheckLimit>,
    pub(in crate::pool) reports: &'a mpsc::Sender<R>,
    /// Any random number.
    pub(in crate::pool) randomness: u64,
}

impl<S> Default for Watches<S> {
    fn default() -> Self {
        Self { spec: None, tasks: HashMap::new() }
    }
}

impl<S: Clone + PartialEq> Watches<S> {
    /// Starts a task for each backend that is new or has another endpoint than before, and ends the tasks of removed
    /// backends. If the spec has changed, all tasks are replaced. `endpoint_of` returns the endpoint of a backend. If
    /// it returns `None`, which the configuration rules out, the endpoint is the backend itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(in crate::pool) fn follow<R, F>(
        &mut self,
        pool: &Pool,
        spec: Option<&S>,
        shared: &Shared<'_, R>,
        endpoint_of: impl Fn(&S, &CheckTargets, &Address) -> Option<Endpoint>,
        run: impl Fn(Watch<S, R>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut before = std::mem::take(&mut self.tasks);
        if self.spec.as_ref() != spec {
            before.clear();
            self.spec = spec.cloned();
        }
        let Some(spec) = spec else { return };
        let mut randomness = RandomNumbers::new(shared.randomness);
        for (backend, of_backend) in pool.backends().iter().zip(&pool.spec().backends) {
            let endpoint = endpoint_of(spec, &of_backend.targets, backend.address())
                .unwrap_or_else(|| Endpoint::Address(backend.address().clone()));
            let asked = CheckEndpoint::named(endpoint, shared.names);
            let kept = before
                .remove(backend.name())
                .filter(|task| task.asked == asked && backend.shares_health(&task.backend));
            let task = kept.unwrap_or_else(|| {
                let watch = Watch {
                    backend: Arc::clone(backend),
                    asked: asked.clone(),
                    spec: spec.clone(),
                    limit: Arc::clone(shared.limit),
                    reports: shared.reports.clone(),
                    schedule: Schedule::new(RandomNumbers::new(randomness.next())),
                };
                let handle = tokio::spawn(run(watch)).abort_handle();
                CheckTask { backend: Arc::clone(backend), asked, handle }
            });
            self.tasks.insert(Arc::clone(backend.name()), task);
        }
    }

    /// The task of that backend.
    #[cfg(test)]
    pub(super) fn id(&self, name: &str) -> Option<tokio::task::Id> {
        self.tasks.get(name).map(|task| task.handle.id())
    }

    /// Returns true if there are no tasks.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// The task of one backend, ended on drop.
#[derive(Debug)]
struct CheckTask {
    backend: Arc<Backend>,
    asked: CheckEndpoint,
    handle: AbortHandle,
}

impl Drop for CheckTask {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
