//! The view of the running server for other threads, and the requests that they may send to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::admin_sockets::AdminSockets;
use super::changes::Changes;
use super::close_orders::CloseOrders;
use super::events::{ConfigState, EventLog};
use super::faults::ReloadFault;
use super::history::SharedHistory;
use super::needed_pools::SharedNeeds;
use super::overrides::{OverrideChange, OverrideOutcome, OverrideRefusal, OverrideRequest, Overrides};
use super::reload_queue::{ReloadReply, ReloadRules};
use super::standing::StandingFaults;
use super::upgrade_state::UpgradeState;
use crate::config::{Config, HandoverSpec, WrittenKeys};
use crate::conn::ProcessBounds;
use crate::snapshot::Snapshot;
use crate::sys::Address;
use crate::sys::address::as_ranges;
use crate::telemetry::{AccessLog, Metrics};
use crate::worker::WorkerHandle;

/// The stages of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LifeStage {
    /// The addresses are bound. The process waits for backends before it accepts clients.
    Starting,
    /// The process serves.
    Serving,
    /// A stop was requested: new connections are refused soon or already.
    Draining,
}

/// The view of the server for the admin listener and tests. Shared; it may be kept after the server has ended.
pub struct View {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The limits of the process and their usage.
    pub bounds: Arc<ProcessBounds>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time at which the process started to serve.
    pub started: SystemTime,
    /// The number of workers.
    pub workers: usize,
    /// The handles of the workers, for queries.
    pub(super) inboxes: Vec<WorkerHandle>,
    /// The last events.
    pub events: EventLog,
    /// The faults that last.
    pub standing: StandingFaults,
    /// The access log.
    pub access_log: AccessLog,
    /// The last hand-over.
    pub upgrade: UpgradeState,
    /// The overrides of operators.
    pub overrides: Overrides,
    /// The pools without which the node is not ready.
    pub(super) needs: SharedNeeds,
    /// The channel of requests to control.
    pub(super) requests: mpsc::UnboundedSender<ControlRequest>,
    /// The sockets of the admin listeners.
    pub admin_sockets: AdminSockets,
    /// The orders to close connections.
    pub(super) close_orders: CloseOrders,
    /// The last ten minutes.
    pub history: SharedHistory,
    /// Locked for a moment by a reload and by each reader.
    pub(super) config: Mutex<ConfigState>,
    /// The keys of the configuration in force.
    pub(super) keys: ArcSwap<KeysInForce>,
    pub(super) life: AtomicU8,
    /// The addresses of the listeners. Locked for a moment by a reload and by each reader.
    pub(super) addresses: Mutex<BTreeMap<Arc<str>, Vec<Address>>>,
}

/// The keys of a configuration, and further origins of their values.
#[derive(Clone, Debug)]
pub struct KeysInForce {
    /// The keys as they are written. A key that only a restart can change is that of the start.
    pub written: WrittenKeys,
    /// The address of the admin listener from the command line.
    pub given_admin: Option<Address>,
    /// The hand-over.
    pub handover: HandoverSpec,
}

impl KeysInForce {
    pub(super) fn of(config: &Config) -> Self {
        let given_admin = config.given_admin.as_ref().map(|admin| admin.listen.clone());
        Self { written: config.written.clone(), given_admin, handover: config.handover.clone() }
    }
}

impl View {
    /// Puts a snapshot in force, and counts its routes.
    pub(super) fn put_in_force(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Arc::clone(&snapshot));
        count_routes(&snapshot);
    }

    /// Returns the stage of the process.
    pub fn life(&self) -> LifeStage {
        match self.life.load(Ordering::Relaxed) {
            life if life == LifeStage::Starting as u8 => LifeStage::Starting,
            life if life == LifeStage::Serving as u8 => LifeStage::Serving,
            _ => LifeStage::Draining,
        }
    }

    /// Returns the state of the configuration in force.
    pub fn config(&self) -> ConfigState {
        self.config_state().clone()
    }

    /// Returns the keys of the configuration in force.
    pub fn keys(&self) -> Arc<KeysInForce> {
        self.keys.load_full()
    }

    /// Reads the configuration file again by these rules, and puts it in force.
    ///
    /// # Errors
    ///
    /// The reason why the running configuration stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the reload goes on.
    pub async fn reload_file(&self, rules: ReloadRules) -> Result<Changes, ReloadFault> {
        let (reply, result) = oneshot::channel();
        let _ = self.requests.send(ControlRequest::ReloadFile(rules, reply));
        result.await.unwrap_or(Err(ReloadFault::Stopping))
    }

    /// Changes an override.
    ///
    /// # Errors
    ///
    /// The reason why no override changed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change may be made nevertheless.
    pub async fn override_part(&self, change: OverrideChange) -> Result<OverrideOutcome, OverrideRefusal> {
        let (reply, outcome) = oneshot::channel();
        let _ = self.requests.send(ControlRequest::Override(OverrideRequest { change, reply }));
        outcome.await.unwrap_or(Err(OverrideRefusal::Stopping))
    }

    pub(super) fn config_state(&self) -> MutexGuard<'_, ConfigState> {
        // No state is ever half changed.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses of each listener, by name.
    pub fn addresses(&self) -> BTreeMap<Arc<str>, Vec<Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the same addresses for the log. In the log, a thousand ports in a row are one text.
    pub(super) fn shown_addresses(&self) -> BTreeMap<Arc<str>, Vec<UnquotedText>> {
        let addresses = self.addresses().into_iter();
        addresses.map(|(name, own)| (name, as_ranges(&own).into_iter().map(UnquotedText).collect())).collect()
    }

    /// Sets the addresses of the listeners and of the admin listener.
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

/// A request to a running server.
pub(super) enum ControlRequest {
    Reload(Box<Config>, oneshot::Sender<Result<Changes, ReloadFault>>),
    ReloadFile(ReloadRules, ReloadReply),
    Override(OverrideRequest),
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

    /// Returns the view of the server.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Puts a new configuration in force, all or nothing.
    ///
    /// # Errors
    ///
    /// The reason why the running configuration stays.
    ///
    /// # Panics
    ///
    /// If it is called within an asynchronous context, because it blocks.
    pub fn reload(&self, config: Config) -> Result<Changes, ReloadFault> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(ControlRequest::Reload(Box::new(config), reply));
        answer.blocking_recv().unwrap_or(Err(ReloadFault::Stopping))
    }

    /// Requests a drain and the end of the process. Each further request ends the present wait: first the
    /// grace, then the drain.
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
