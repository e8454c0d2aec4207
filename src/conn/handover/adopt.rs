//! Connections that come from another program: from messages to migrations.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::words;
use crate::conn::accepted::HeldPolicy;
use crate::conn::context::ProcessBounds;
use crate::conn::fields::{LogFields, ProxyFields, RecordFields};
use crate::conn::holds::Holds;
use crate::conn::migration::{
    MigratingRecord, Migration, MigrationContent, MigrationSenders, StoppedReading, StoppedRelay,
};
use crate::conn::reading::{FirstBytes, StoppedClient};
use crate::ids::ListenerId;
use crate::limit::{AdmissionRequest, Gate, Link, Moment, Permit, SourceKey};
use crate::live::{
    ConnectionCard, ConnectionTallies, HandedEntry, Loads, LoggedProgress, MigratingEntry, WorkerSlot,
};
use crate::pool::forward::ForwardMark;
use crate::pool::{Backend, Lease};
use crate::relay::{RelaySettings, StoppedFlow};
use crate::snapshot::{Policy, Snapshot, UsageLimit};
use crate::sys::Address;
use crate::telemetry::{CloseReason, Metrics, RouteCounts};
use crate::wire::handover::{
    Batch, HandedConnection, HandedFlow, HandedIntervals, HandedLog, HandedReading, HandedRelay,
};

/// The fault of a batch that cannot be adopted. The connections go on in the program that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptFault {
    /// The frame has other descriptors than its connections need.
    #[error("the batch has fewer or more descriptors than its connections need")]
    Descriptors,
    /// The frame has other bytes than its connections hold.
    #[error("the batch has fewer or more bytes than its connections hold")]
    Bytes,
    /// A connection is neither read nor relayed.
    #[error("a connection of the batch is in an unknown stage")]
    Stage,
    /// A connection has an option that the batch does not have.
    #[error("a connection of the batch refers to options that are missing")]
    Options,
}

/// The parts of this program that adopted connections use.
pub struct AdopterResources {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The limits of the process.
    pub bounds: Arc<ProcessBounds>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The channels to the workers.
    pub senders: Arc<MigrationSenders>,
    /// The loads of the workers.
    pub loads: Arc<Loads>,
}

/// A listener that this program's configuration does not have.
#[derive(Clone, Debug)]
pub struct DepartedListener {
    /// Its id here.
    pub id: ListenerId,
    /// Its open connections.
    pub gate: Arc<Gate>,
}

/// Listeners and backends that the configuration of this program does not have. Their connections drain.
#[derive(Default)]
pub struct DepartedParts {
    /// The listeners, by name.
    pub listeners: HashMap<Arc<str>, DepartedListener>,
    /// The backends.
    pub backends: Vec<Arc<Backend>>,
}

impl DepartedParts {
    /// Returns true if there is neither a listener nor a backend.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.backends.is_empty()
    }
}

/// Makes connections of this program from those of another program.
pub struct Adopter {
    resources: AdopterResources,
    departed: DepartedParts,
    /// The parts of `departed` that were added since they were taken last.
    new: DepartedParts,
    table: AdoptionTable,
    /// The settings of relays, by their options.
    settings: HashMap<crate::wire::handover::HandedOptions, RelaySettings>,
}

/// The listeners of a snapshot, by name.
#[derive(Default)]
struct AdoptionTable {
    snapshot: Arc<Snapshot>,
    listeners: HashMap<Arc<str>, ListenerParts>,
}

/// A listener and its routes with limits or names.
struct ListenerParts {
    policy: Arc<Policy>,
    routes: HashMap<Arc<str>, RouteUse>,
}

/// The limits and the counts of a route.
type RouteUse = (Option<UsageLimit>, Option<Arc<RouteCounts>>);

/// Connections that this program can serve, before a worker has them. If this is dropped, their sockets are closed here,
/// and they go on in the program that sent them.
#[must_use = "the connections are not served before they are delivered"]
pub struct AdoptedConnections {
    adopted: Vec<MigrationContent>,
    declined: Vec<u64>,
}

impl AdoptedConnections {
    /// The number of connections.
    pub fn count(&self) -> usize {
        self.adopted.len()
    }

    /// The numbers of the connections of the batch that this program cannot serve. They go on where they came from.
    pub fn declined(&self) -> &[u64] {
        &self.declined
    }
}

#[cfg(test)]
impl AdoptedConnections {
    /// Returns the connections as a worker gives them to the queue of a successor.
    pub(crate) fn into_leaving(self, loads: &Arc<Loads>) -> Vec<crate::conn::leaving::LeavingConnection> {
        let leave = |content| crate::conn::leaving::LeavingConnection {
            worker: 0,
            migration: Migration { worker_slot: WorkerSlot::take(loads, 0), content },
            left: Instant::now(),
        };
        self.adopted.into_iter().map(leave).collect()
    }
}

impl Adopter {
    /// Returns an adopter. `departed` has the listeners and backends that drain already.
    pub fn new(resources: AdopterResources, departed: DepartedParts) -> Self {
        let (new, table, settings) = (DepartedParts::default(), AdoptionTable::default(), HashMap::new());
        Self { resources, departed, new, table, settings }
    }

    /// Returns the listeners and backends that this program does not have and whose connections came since the last
    /// call.
    pub fn take_departed(&mut self) -> DepartedParts {
        std::mem::take(&mut self.new)
    }

    /// Makes connections of a batch. No byte of them moves yet.
    ///
    /// # Errors
    ///
    /// A batch whose parts do not fit together. None of its connections is adopted then.
    pub fn adopt(
        &mut self,
        batch: Batch,
        raw: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<AdoptedConnections, AdoptFault> {
        self.renew();
        let settings: Vec<_> = batch.options.iter().map(|options| self.settings(options)).collect();
        let mut parts = BatchParts { raw: &raw, descriptors: descriptors.into_iter() };
        let (mut adopted, mut declined) = (Vec::new(), Vec::new());
        for connection in batch.connections {
            let id = connection.id;
            match self.connection(connection, &settings, &mut parts)? {
                Some(content) => adopted.push(content),
                None => declined.push(id),
            }
        }
        parts.end()?;
        Ok(AdoptedConnections { adopted, declined })
    }

    /// Gives connections to the workers, the next one to the worker that has the fewest. Returns the number of connections
    /// that no worker took, because all have ended; these are closed.
    pub fn deliver(&self, adopted: AdoptedConnections) -> usize {
        let AdopterResources { senders, loads, .. } = &self.resources;
        let mut lost = 0;
        for content in adopted.adopted {
            if let Some(record) = content.record() {
                record.holds.listener.adopted();
            }
            let first = loads.fewest();
            let workers = (0..senders.count()).map(|next| (first + next) % senders.count());
            let refused = workers.into_iter().try_fold(content, |content, worker| {
                let worker_slot = WorkerSlot::take(loads, worker);
                match senders.send(worker, Migration { worker_slot, content }) {
                    Ok(()) => Err(()),
                    Err(returned) => Ok(returned.content),
                }
            });
            lost += usize::from(refused.is_ok());
        }
        lost
    }

    /// Takes the listeners of the snapshot in force.
    fn renew(&mut self) {
        let snapshot = self.resources.snapshot.load_full();
        if Arc::ptr_eq(&snapshot, &self.table.snapshot) && !self.table.listeners.is_empty() {
            return;
        }
        let mut listeners: HashMap<Arc<str>, ListenerParts> = HashMap::new();
        for policy in snapshot.policies.values() {
            listeners.entry(Arc::clone(&policy.listener)).or_insert_with(|| {
                let targets = policy.protocol.routes().targets.iter();
                let counted =
                    targets.filter(|target| target.limits.is_some() || target.named_counts().is_some());
                let routes = counted.map(|target| {
                    (Arc::clone(&target.route), (target.limits.clone(), target.named_counts().cloned()))
                });
                ListenerParts { policy: Arc::clone(policy), routes: routes.collect() }
            });
        }
        self.table = AdoptionTable { snapshot, listeners };
    }

    fn settings(&mut self, options: &crate::wire::handover::HandedOptions) -> RelaySettings {
        self.settings.entry(options.clone()).or_insert_with(|| words::read_options(options)).clone()
    }

    fn connection(
        &mut self,
        mut handed: HandedConnection,
        settings: &[RelaySettings],
        parts: &mut BatchParts<'_>,
    ) -> Result<Option<MigrationContent>, AdoptFault> {
        name(&mut handed);
        let log = handed.log.take().map(|log| Box::new(read_log(*log)));
        let (reading, relay) = (handed.reading.take(), handed.relay.take());
        match (reading, relay) {
            (Some(reading), None) => self.reading(handed, log, reading, parts),
            (None, Some(relay)) => self.relay(handed, log, *relay, settings, parts).map(Some),
            _ => Err(AdoptFault::Stage),
        }
    }

    /// Returns `None` if this program does not have the listener, whose policy the client needs.
    fn reading(
        &mut self,
        handed: HandedConnection,
        log: Option<Box<LogFields>>,
        reading: HandedReading,
        parts: &mut BatchParts<'_>,
    ) -> Result<Option<MigrationContent>, AdoptFault> {
        let client = parts.descriptor()?;
        let bytes = parts.bytes(reading.bytes)?;
        let begun = reading.begun_us.and_then(|age| Instant::now().checked_sub(Duration::from_micros(age)));
        let first = FirstBytes { header: reading.header.min(bytes.len()), bytes, begun };
        let Some(listener) = self.table.listeners.get(&*handed.listener) else { return Ok(None) };
        let through = self.table.snapshot.policies.keys().find(|id| id.to_string() == reading.socket);
        let through = through.or_else(|| {
            let mut policies = self.table.snapshot.policies.iter();
            policies.find(|(_, policy)| Arc::ptr_eq(policy, &listener.policy)).map(|(id, _)| id)
        });
        let Some(through) = through.cloned() else { return Ok(None) };
        let policy = HeldPolicy { through, current: Arc::clone(&listener.policy) };
        let record = self.record(&handed, log, None);
        let client = StoppedClient { client, first };
        Ok(Some(MigrationContent::Reading(Box::new(StoppedReading { client, policy, record }))))
    }

    fn relay(
        &mut self,
        handed: HandedConnection,
        log: Option<Box<LogFields>>,
        relay: HandedRelay,
        settings: &[RelaySettings],
        parts: &mut BatchParts<'_>,
    ) -> Result<MigrationContent, AdoptFault> {
        let settings = settings.get(relay.options).ok_or(AdoptFault::Options)?.clone();
        let (client, backend) = (parts.descriptor()?, parts.descriptor()?);
        let from_client = read_flow(&relay.from_client, parts)?;
        let from_backend = read_flow(&relay.from_backend, parts)?;
        let record = self.record(&handed, log, Some(&relay));
        let stopped = StoppedRelay { client, backend, from_client, from_backend, settings, record };
        Ok(MigrationContent::Relay(Box::new(stopped)))
    }

    /// Returns the record of a connection, with all that the connection holds here.
    fn record(
        &mut self,
        handed: &HandedConnection,
        log: Option<Box<LogFields>>,
        relay: Option<&HandedRelay>,
    ) -> MigratingRecord {
        let (listener, gate) = self.listener(&handed.listener);
        let client = words::read_client(&handed.client);
        let mut permit = self.permit(handed.source.as_deref(), listener, &gate, relay.is_none());
        let tallies = ConnectionTallies::default();
        let lease = relay.map(|relay| self.lease(relay));
        if let Some(relay) = relay {
            self.hold_target(handed, relay, &mut permit, &tallies);
        }
        lease.iter().for_each(|lease| tallies.connect(lease.backend().traffic().counts()));
        let metrics = self.resources.metrics.listener(&handed.listener);
        let entry = HandedEntry {
            id: handed.id,
            listener,
            backend: lease.as_ref().map(|lease| lease.backend().id()),
            client: client.tcp(),
            began: began(handed),
            card: read_card(handed, relay),
            link: handed.link.as_ref().map(|(kind, id)| Arc::new(Link::new(*kind, id))),
            totals: relay.map_or([0; 2], |relay| [relay.total_from_client, relay.total_from_backend]),
            dropped: relay.map_or(0, |relay| relay.dropped),
            logged: read_progress(relay),
            quiet: Duration::from_millis(handed.quiet_ms),
            metrics: Arc::clone(&metrics),
            tallies,
        };
        let mut holds = Holds::handed(metrics.handed(), permit, lease, entry.into());
        if let Some(relay) = relay {
            self.hold_marks(relay, &client, &mut holds);
        }
        let fields = RecordFields {
            connected: relay.map_or(0, |relay| relay.connected_us),
            accepted: handed.accepted_ms,
            client,
            shadowed: None,
            log,
        };
        MigratingRecord { holds, fields }
    }

    /// Takes the slots of the process, the listener and the source, also beyond their limits.
    fn permit(&self, source: Option<&str>, listener: ListenerId, gate: &Arc<Gate>, is_read: bool) -> Permit {
        let bounds = &self.resources.bounds;
        let mut permit = Permit::past_limits(&bounds.connections, gate);
        if let Some(bits) = source.and_then(|bits| u128::from_str_radix(bits, 16).ok()) {
            let (source, now) = (SourceKey::from_bits(bits), Moment::now());
            let request = AdmissionRequest { listener, source, is_read, now };
            permit.hold_source(bounds.sources.admit_past_limits(&request));
        }
        permit
    }

    /// Holds the marks by which the connection is found.
    fn hold_marks(&self, relay: &HandedRelay, client: &Address, holds: &mut Holds<MigratingEntry>) {
        if let Some(lease) = holds.lease.as_ref().filter(|_| relay.is_session)
            && let Some(served) = self.table.snapshot.pools.get(lease.backend().pool())
            && let Some(session) = served.pool.session(client.tcp(), lease.backend())
        {
            holds.hold_session(session);
        }
        if let Some(mark) = self.forward_mark(relay) {
            holds.hold_forward(mark);
        }
    }

    /// Returns the mark of a connection that is forwarded by its name.
    fn forward_mark(&self, relay: &HandedRelay) -> Option<ForwardMark> {
        let served = self.table.snapshot.pools.get(&*relay.pool)?;
        Some(served.pool.forward()?.restore_mark(relay.forward_mark?))
    }

    /// Returns the id of a listener and the gate that counts its connections.
    fn listener(&mut self, name: &str) -> (ListenerId, Arc<Gate>) {
        if let Some(found) = self.table.listeners.get(name) {
            return (found.policy.listener_id, Arc::clone(&found.policy.gate));
        }
        let departed = match self.departed.listeners.get(name) {
            Some(departed) => departed.clone(),
            None => {
                let departed = DepartedListener { id: ListenerId::next(), gate: Gate::new(u64::MAX) };
                self.departed.listeners.insert(name.into(), departed.clone());
                self.new.listeners.insert(name.into(), departed.clone());
                departed
            }
        };
        (departed.id, departed.gate)
    }

    /// Returns the lease of the backend.
    fn lease(&mut self, relay: &HandedRelay) -> Lease {
        let address = words::read_client(&relay.backend_address);
        let backend = self.backend(&relay.pool, &relay.backend, &address);
        Lease::handed(&backend, relay.reports_troubles, relay.waits_for_first_byte)
    }

    fn backend(&mut self, pool: &str, name: &str, address: &Address) -> Arc<Backend> {
        let of_pool = self.table.snapshot.pools.get(pool).map(|served| &served.pool);
        let same = of_pool.and_then(|pool| pool.backend(name)).filter(|backend| backend.address() == address);
        // A discovered backend may have another name here.
        let at = || of_pool?.backends().iter().find(|backend| backend.address() == address);
        if let Some(backend) = same.or_else(at) {
            return Arc::clone(backend);
        }
        let is_it = |backend: &&Arc<Backend>| {
            (&**backend.pool(), &**backend.name(), backend.address()) == (pool, name, address)
        };
        if let Some(backend) = self.departed.backends.iter().find(is_it) {
            return Arc::clone(backend);
        }
        let backend = Backend::detached(&pool.into(), name.into(), address.clone());
        self.departed.backends.push(Arc::clone(&backend));
        self.new.backends.push(Arc::clone(&backend));
        backend
    }

    /// Takes the slots of its route and its pool, and counts it there.
    fn hold_target(
        &self,
        handed: &HandedConnection,
        relay: &HandedRelay,
        permit: &mut Permit,
        tallies: &ConnectionTallies,
    ) {
        let route = relay
            .route
            .as_deref()
            .and_then(|route| self.table.listeners.get(&*handed.listener)?.routes.get(route));
        if let Some((limits, counts)) = route {
            if let Some(limits) = limits.as_ref().filter(|_| relay.holds_route) {
                permit.hold_route(limits.quota.enter_past_limit());
            }
            if let Some(counts) = counts {
                tallies.follow(counts);
            }
        }
        let limits = self.table.snapshot.pools.get(&*relay.pool).and_then(|served| served.limits.as_ref());
        if let Some(limits) = limits.filter(|_| relay.holds_pool) {
            permit.hold_pool(limits.quota.enter_past_limit());
        }
        tallies.ask(&self.resources.metrics.pool(&relay.pool));
    }
}

/// The descriptors and the bytes of a batch that no connection has taken yet.
struct BatchParts<'a> {
    raw: &'a [u8],
    descriptors: std::vec::IntoIter<OwnedFd>,
}

impl BatchParts<'_> {
    fn descriptor(&mut self) -> Result<OwnedFd, AdoptFault> {
        self.descriptors.next().ok_or(AdoptFault::Descriptors)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, AdoptFault> {
        let (taken, rest) = self.raw.split_at_checked(count).ok_or(AdoptFault::Bytes)?;
        self.raw = rest;
        Ok(taken.to_vec())
    }

    fn end(self) -> Result<(), AdoptFault> {
        match (self.descriptors.len(), self.raw.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(AdoptFault::Bytes),
            _ => Err(AdoptFault::Descriptors),
        }
    }
}

fn read_flow(handed: &HandedFlow, parts: &mut BatchParts<'_>) -> Result<StoppedFlow, AdoptFault> {
    let held = parts.bytes(handed.held)?;
    let stage = words::read_stage(&handed.stage).ok_or(AdoptFault::Stage)?;
    Ok(StoppedFlow { held, stage, nodelay: words::read_nodelay(&handed.nodelay) })
}

/// Takes names from the fields of a log line, which an earlier version sends alone.
fn name(handed: &mut HandedConnection) {
    if let Some(log) = &mut handed.log {
        handed.sni = handed.sni.take().or_else(|| log.sni.take());
        handed.route = handed.route.take().or_else(|| log.route.take());
    }
}

/// Returns the time of the accept.
fn began(handed: &HandedConnection) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_micros(handed.age_us)).unwrap_or(now)
}

/// Returns the names of a connection.
fn read_card(handed: &HandedConnection, relay: Option<&HandedRelay>) -> ConnectionCard {
    let pool = handed.pool.as_deref().or(relay.map(|relay| &*relay.pool));
    let route = handed.route.as_deref().or(relay.and_then(|relay| relay.route.as_deref()));
    ConnectionCard {
        sni: handed.sni.as_deref().map(Into::into),
        route: route.map(Into::into),
        pool: pool.map(Into::into),
        backend: relay.map(|relay| relay.backend.as_str().into()),
        authority: handed.authority.as_deref().and_then(|name| name.parse().ok()).map(Box::new),
    }
}

/// Returns the progress of the interval records, which a program without such records does not send.
fn read_progress(relay: Option<&HandedRelay>) -> LoggedProgress {
    let Some(intervals) = relay.and_then(|relay| relay.intervals.as_ref()) else {
        return LoggedProgress::default();
    };
    let HandedIntervals { after_s, from_client, from_backend } = *intervals;
    LoggedProgress { after: after_s, counted: [from_client, from_backend] }
}

fn read_log(handed: HandedLog) -> LogFields {
    let text = |text: Option<String>| text.map(String::into_boxed_str);
    let micros = |micros: Option<u64>| micros.map(Duration::from_micros);
    let proxy = ProxyFields {
        peer: handed.peer.as_deref().map(words::read_client),
        authority: text(handed.proxy_authority),
        alpn: text(handed.proxy_alpn),
        unique_id: text(handed.unique_id),
        private_link: text(handed.private_link),
    };
    LogFields {
        proxy_fields: proxy.is_known().then(|| Box::new(proxy)),
        attempts: handed.attempts,
        has_sent: false,
        tried: None,
        dialled: handed.dialled.and_then(|address| address.parse().ok()),
        reported: handed.reported.as_deref().and_then(CloseReason::of_word),
        port: handed.port,
        offered: handed.offered.and_then(words::read_offer).map(Box::new),
        hello: micros(handed.hello_us),
        queue: micros(handed.queue_us),
        connect: micros(handed.connect_us),
    }
}
