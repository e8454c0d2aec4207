//! What others may see of the running server, and ask of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::changes::Changes;
use super::events::{ConfigState, EventLog};
use super::reload::ReloadFault;
use super::standing::StandingFaults;
use crate::config::Config;
use crate::conn::ProcessBounds;
use crate::snapshot::Snapshot;
use crate::sys::Address;
use crate::sys::address::as_ranges;
use crate::telemetry::{AccessLog, Metrics};
use crate::worker::WorkerHandle;

/// The stages of a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LifeStage {
    /// Its addresses are bound, and it looks for backends before it lets anybody in.
    Starting,
    /// It serves.
    Serving,
    /// It was told to stop: new connections are turned away soon or already.
    Draining,
}

/// The server as the admin listener and tests see it. Shared; it outlives the server harmlessly.
pub struct View {
    /// The living configuration.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The bounds of the process and how far they are used.
    pub bounds: Arc<ProcessBounds>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// When the process started to serve.
    pub started: SystemTime,
    /// Threads that serve.
    pub workers: usize,
    /// The ways to them, to ask.
    pub(super) inboxes: Vec<WorkerHandle>,
    /// What happened of late.
    pub events: EventLog,
    /// Faults that last.
    pub standing: StandingFaults,
    /// The access log.
    pub access_log: AccessLog,
    /// Locked for a moment by a reload and by each reader.
    pub(super) config: Mutex<ConfigState>,
    pub(super) life: AtomicU8,
    /// Where the listeners listen. Locked for a moment by a reload and by who asks.
    pub(super) addresses: Mutex<BTreeMap<Arc<str>, Vec<Address>>>,
}

impl View {
    /// Puts a snapshot in force, and counts its routes.
    pub(super) fn put_in_force(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Arc::clone(&snapshot));
        count_routes(&snapshot);
    }

    /// The stage of life.
    pub fn life(&self) -> LifeStage {
        match self.life.load(Ordering::Relaxed) {
            life if life == LifeStage::Starting as u8 => LifeStage::Starting,
            life if life == LifeStage::Serving as u8 => LifeStage::Serving,
            _ => LifeStage::Draining,
        }
    }

    /// Which configuration is in force.
    pub fn config(&self) -> ConfigState {
        self.config_state().clone()
    }

    pub(super) fn config_state(&self) -> MutexGuard<'_, ConfigState> {
        // No state is ever half changed.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where each listener listens, by name.
    pub fn addresses(&self) -> BTreeMap<Arc<str>, Vec<Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the same for the log, where a thousand ports in a row are one text.
    pub(super) fn shown_addresses(&self) -> BTreeMap<Arc<str>, Vec<UnquotedText>> {
        let addresses = self.addresses().into_iter();
        addresses.map(|(name, own)| (name, as_ranges(&own).into_iter().map(UnquotedText).collect())).collect()
    }

    /// Says where the listeners listen, and the admin listener.
    pub(super) fn set_addresses(&self, addresses: BTreeMap<Arc<str>, Vec<Address>>, config: &Config) {
        let admin = config.admins().filter_map(|admin| admin.listen.tcp());
        let own = addresses.values().flatten().filter_map(Address::tcp).chain(admin);
        self.bounds.own.store(Arc::new(own.collect()));
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// A text that the log shows without quotes.
pub(super) struct UnquotedText(String);

impl fmt::Debug for UnquotedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What can be asked of a running server.
pub(super) enum ControlRequest {
    Reload(Box<Config>, oneshot::Sender<Result<Changes, ReloadFault>>),
    Stop,
}

/// A handle on a running server, for other threads.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) requests: mpsc::UnboundedSender<ControlRequest>,
    view: Arc<View>,
}

impl ServerHandle {
    pub(super) fn new(requests: mpsc::UnboundedSender<ControlRequest>, view: Arc<View>) -> Self {
        Self { requests, view }
    }

    /// The server as others see it.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Puts a new configuration in force, all or nothing.
    ///
    /// # Errors
    ///
    /// Why the running configuration stays.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context: it blocks.
    pub fn reload(&self, config: Config) -> Result<Changes, ReloadFault> {
        let (tell, told) = oneshot::channel();
        let _ = self.requests.send(ControlRequest::Reload(Box::new(config), tell));
        told.blocking_recv().unwrap_or(Err(ReloadFault::Stopping))
    }

    /// Tells the server to drain and end; told again, it cuts short what it waits
    /// for then: first the grace, next the drain.
    pub fn stop(&self) {
        let _ = self.requests.send(ControlRequest::Stop);
    }
}

/// Sets the number of routes of each listener in the metrics.
pub(super) fn count_routes(snapshot: &Snapshot) {
    for policy in snapshot.policies.values() {
        policy.metrics.routes.set(policy.protocol.routes().len() as f64);
    }
}
