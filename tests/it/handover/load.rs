//! A load: clients of all kinds and their backends, on two threads of this process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::backends::{self, BackendAddresses};
use super::clients::{ALL, ClientContext, Kind, ListenerAddresses};
use super::tally::Tally;

/// The longest time from the end of the load to the end of its last client.
const LAST_CLIENT: Duration = Duration::from_secs(120);

/// The variable with the number of clients of each kind.
const EACH: &str = "POINTSMAN_LOAD_EACH";

/// The number of clients of each kind.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan(pub(crate) Vec<(Kind, usize)>);

impl LoadPlan {
    /// Returns the plan with all kinds: `each` clients of each, and few of those that fill the processor.
    pub(crate) fn all(each: usize) -> Self {
        let each = std::env::var(EACH).ok().and_then(|text| text.parse().ok()).unwrap_or(each);
        let count = |kind: Kind| match kind {
            Kind::BulkFull => 1,
            // The kernel holds some 10 MiB for each.
            Kind::SlowReader | Kind::SlowBackend => each.min(4),
            Kind::Short | Kind::Bulk(_) => each.min(8),
            // More than the scarce backend serves at once.
            Kind::Queued => each.clamp(5, 20),
            _ => each,
        };
        Self(ALL.into_iter().map(|kind| (kind, count(kind))).collect())
    }

    /// Returns a plan with clients that all need to go on: small, for tests that look at faults.
    pub(crate) fn steady(each: usize) -> Self {
        let kinds = [
            Kind::Bulk(0),
            Kind::Bulk(1),
            Kind::PingPong,
            Kind::HalfClosed,
            Kind::Idle,
            Kind::SlowReader,
            Kind::ServerFirst,
            Kind::LateHello,
            Kind::Unix,
        ];
        let count = |kind: Kind| match kind {
            // As in `all`: many of them keep both sides from all other work.
            Kind::SlowReader | Kind::Bulk(_) => each.min(4),
            _ => each,
        };
        Self(kinds.map(|kind| (kind, count(kind))).into())
    }
}

/// The backends of a load. They run until this value is dropped.
pub(crate) struct LoadBackends {
    pub(crate) addresses: BackendAddresses,
    pub(crate) unix: PathBuf,
    pub(crate) tally: Arc<Tally>,
    over: watch::Sender<bool>,
    /// Its threads end with it.
    runtime: Option<Runtime>,
}

impl LoadBackends {
    /// Starts the backends. The Unix backend listens in this folder.
    pub(crate) fn start(folder: &Path) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (over, is_over) = watch::channel(false);
        let (tally, unix) = (Arc::new(Tally::default()), folder.join("backend.sock"));
        let addresses = runtime.block_on(backends::start(&unix, Arc::clone(&tally), is_over)).unwrap();
        Self { addresses, unix, tally, over, runtime: Some(runtime) }
    }
}

impl Drop for LoadBackends {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Clients that run.
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    over: watch::Sender<bool>,
    switches: watch::Sender<u64>,
    clients: u64,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients of a plan, and waits until each has begun.
    pub(crate) fn start(plan: &LoadPlan, listeners: ListenerAddresses, backends: &LoadBackends) -> Self {
        static SEED: AtomicU64 = AtomicU64::new(1);
        let (switches, switched) = watch::channel(0);
        let context = ClientContext {
            listeners: Arc::new(listeners),
            tally: Arc::clone(&backends.tally),
            over: backends.over.subscribe(),
            switches: switched,
        };
        let kinds: Vec<_> =
            plan.0.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).collect();
        let count = kinds.len() as u64;
        let (begun, is_begun) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for kind in kinds {
                    clients.spawn(context.clone().run(kind, SEED.fetch_add(1, Ordering::Relaxed)));
                }
                begun.send(()).unwrap();
                let mut over = context.over.clone();
                let _ = over.wait_for(|over| *over).await;
                let all = async { while clients.join_next().await.is_some() {} };
                if timeout(LAST_CLIENT, all).await.is_err() {
                    let left = format!("{} clients have no end", clients.len());
                    context.tally.ended(
                        "load",
                        0,
                        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, left)),
                    );
                }
            });
        });
        is_begun.recv().unwrap();
        let tally = Arc::clone(&backends.tally);
        crate::support::wait_for("the connections of the load", || {
            tally.failures() > 0 || tally.connections() >= count
        });
        Self { tally, over: backends.over.clone(), switches, clients: count, thread: Some(thread) }
    }

    /// Notes a switch to another process.
    pub(crate) fn switched(&self) {
        self.switches.send_modify(|number| *number += 1);
    }

    /// Returns the number of clients.
    pub(crate) fn clients(&self) -> u64 {
        self.clients
    }

    /// Ends the load. Each client sends its last bytes.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
    }

    /// Returns true if the last client has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the load, waits for the last client, and returns the results.
    pub(crate) fn finish(mut self) -> Arc<Tally> {
        self.end();
        self.thread.take().unwrap().join().unwrap();
        Arc::clone(&self.tally)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
