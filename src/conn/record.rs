//! The record of a connection, with the permit and the lease that the connection holds until it ends.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::WorkerContext;
use crate::limit::{GatePass, Link, Moment, Permit, SourceName, SourcePass};
use crate::live::{ConnectionEntry, MigratingEntry, RegistryGuard, WorkerSlot};
use crate::pool::forward::ForwardMark;
use crate::pool::{Backend, FailureReport, Lease, SessionGuard, Trouble};
use crate::snapshot::Policy;
use crate::sys::Address;
use crate::telemetry::record::raw_name;
use crate::telemetry::{
    AccessRecord, ActiveConnection, ClientAddr, ClientOpening, CloseKind, CloseReason, Direction, Engine,
    HelloOutcome, ListenerMetrics, Offered, PoolMetrics, ProxyOutcome, RouteCounts, Saturation,
    SaturationScope,
};
use crate::wire::ServerName;
use crate::wire::proxy_protocol::{HeaderOrigin, HeaderVersion, ProxyHeader, Tlv};

/// The growing record of a connection, and all that it holds: its permit, its entry in the registry, its
/// lease.
///
/// The end of a connection is counted and logged exactly once. [`ConnectionRecord::close`] does this, or the drop
/// of the record after its task panicked or its worker ended.
pub(super) struct ConnectionRecord {
    /// `None` only once the record has ended.
    open: Option<OpenRecord>,
    context: Rc<WorkerContext>,
}

/// A record that has not ended.
struct OpenRecord {
    entry: RegistryGuard,
    state: RecordState,
}

/// A backend that resets a connection within this time of its accept, and before it has sent a byte, fails
/// its client. A connection that was silent for longer was not in use, so its reset is no failure.
const EARLY: Duration = Duration::from_secs(10);

const OPEN: &str = "only the end of a record takes it";

/// The part of a record that moves to another worker.
pub(super) struct MigratingRecord {
    entry: MigratingEntry,
    state: RecordState,
}

/// The facts of a connection, and what it holds.
struct RecordState {
    /// Counts the connection as active, and has the metrics and name of its listener.
    listener: ActiveConnection,
    permit: Option<Permit>,
    lease: Option<Lease>,
    /// Boxed, as most connections have none.
    marks: Option<Box<SessionMarks>>,
    began: Instant,
    /// The time at which its backend was connected, in microseconds after `began`; at most 71 minutes.
    connected: u32,
    /// Milliseconds since 1970: half the size of a `SystemTime`.
    accepted: u64,
    client: Address,
    /// The last pool that was to serve it.
    pool: Option<Arc<str>>,
    /// Facts that only the access log needs; `None` if there is no log.
    log_fields: Option<Box<LogFields>>,
}

/// The marks by which an open connection is found.
#[derive(Default)]
struct SessionMarks {
    /// Set while it is forwarded by its name, so that a loop back to this process is detected.
    mark: Option<ForwardMark>,
    /// Set while it may be a session whose query can be cancelled.
    session: Option<SessionGuard>,
}

/// The facts of PROXY headers, the received one and the sent one.
#[derive(Default)]
struct ProxyFields {
    /// The peer that sent the header, if the header names a client.
    peer: Option<Address>,
    authority: Option<Box<str>>,
    alpn: Option<Box<str>>,
    unique_id: Option<Box<str>>,
    private_link: Option<Box<str>>,
}

#[derive(Default)]
struct LogFields {
    /// Boxed, as most connections have none.
    proxy_fields: Option<Box<ProxyFields>>,
    sni: Option<Box<str>>,
    route: Option<Arc<str>>,
    attempts: u8,
    /// True if the client sent bytes that no backend received.
    has_sent: bool,
    /// The last backend tried, until one is connected. From then on the lease has it.
    tried: Option<Arc<Backend>>,
    /// The target of the last attempt, if that is not the backend's own address.
    dialled: Option<SocketAddr>,
    offered: Option<Box<Offered>>,
    hello: Option<Duration>,
    queue: Option<Duration>,
    connect: Option<Duration>,
}

impl ConnectionRecord {
    pub(super) fn begin(
        client: Address,
        policy: &Policy,
        entry: RegistryGuard,
        context: &Rc<WorkerContext>,
    ) -> Self {
        let state = RecordState {
            listener: policy.metrics.accepted(),
            permit: None,
            lease: None,
            marks: None,
            began: Instant::now(),
            connected: 0,
            accepted: unix_millis(),
            client,
            pool: None,
            log_fields: None,
        };
        Self { open: Some(OpenRecord { entry, state }), context: Rc::clone(context) }
    }

    /// Takes the record out of this worker.
    pub(super) fn detach(mut self) -> MigratingRecord {
        let OpenRecord { entry, state } = self.open.take().expect(OPEN);
        MigratingRecord { entry: entry.leave(), state }
    }

    /// Continues the record in this worker.
    pub(super) fn attach(
        migrating: MigratingRecord,
        worker_slot: WorkerSlot,
        context: &Rc<WorkerContext>,
    ) -> Self {
        let entry = context.registry.readmit(migrating.entry, worker_slot);
        Self { open: Some(OpenRecord { entry, state: migrating.state }), context: Rc::clone(context) }
    }

    /// The entry of the connection in its worker's registry.
    pub(super) fn entry(&self) -> &RegistryGuard {
        &self.open.as_ref().expect(OPEN).entry
    }

    pub(super) fn context(&self) -> Rc<WorkerContext> {
        Rc::clone(&self.context)
    }

    fn state(&self) -> &RecordState {
        &self.open.as_ref().expect(OPEN).state
    }

    fn state_mut(&mut self) -> &mut RecordState {
        &mut self.open.as_mut().expect(OPEN).state
    }

    pub(super) fn client(&self) -> &Address {
        &self.state().client
    }

    pub(super) fn hold(&mut self, permit: Permit) {
        self.state_mut().permit = Some(permit);
    }

    /// Holds a slot of its source too.
    pub(super) fn hold_source(&mut self, pass: Option<SourcePass>) {
        if let Some(permit) = &mut self.state_mut().permit {
            permit.hold_source(pass);
        }
    }

    /// Holds a slot of its route too.
    pub(super) fn hold_route(&mut self, pass: GatePass) {
        if let Some(permit) = &mut self.state_mut().permit {
            permit.hold_route(pass);
        }
    }

    /// Holds a slot of its pool too.
    pub(super) fn hold_pool(&mut self, pass: GatePass) {
        if let Some(permit) = &mut self.state_mut().permit {
            permit.hold_pool(pass);
        }
    }

    /// Returns the slots of its route and pool. A refused connection must not hold them while its client gets
    /// an answer.
    pub(super) fn leave_target(&mut self) {
        if let Some(permit) = &mut self.state_mut().permit {
            permit.leave_target();
        }
    }

    /// Records that its first bytes were read.
    pub(super) fn was_read(&mut self) {
        self.entry().set_reading(false);
        if let Some(permit) = &mut self.state_mut().permit {
            permit.was_read();
        }
    }

    /// Counts the result of the search for a PROXY header.
    pub(super) fn proxy_header(&self, outcome: ProxyOutcome) {
        self.state().listener.proxy_header(outcome);
    }

    /// Counts a connection that is served and that would be refused if headers were required.
    pub(super) fn shadowed(&self, reason: CloseReason) {
        self.state().listener.proxy_shadowed(reason == CloseReason::ProxyMissing);
        tracing::debug!(peer = %self.client(), %reason, "a peer would be refused for its PROXY header");
    }

    /// Records a trusted PROXY header: from now on `client` is the address that it names.
    pub(super) fn proxied(&mut self, header: &ProxyHeader) {
        let client = match &header.origin {
            HeaderOrigin::Tcp { source, .. } => Some(Address::Tcp(*source)),
            HeaderOrigin::Unix { source, .. } => Some(unix(source)),
            HeaderOrigin::Sender | HeaderOrigin::Unknown => None,
        };
        self.proxy_header(match (&client, header.version) {
            (None, _) => ProxyOutcome::Local,
            (Some(_), HeaderVersion::V1) => ProxyOutcome::V1,
            (Some(_), HeaderVersion::V2) => ProxyOutcome::V2,
        });
        let state = self.state_mut();
        let peer = state.client.clone();
        state.client = client.unwrap_or_else(|| peer.clone());
        let OpenRecord { entry, state } = self.open.as_ref().expect(OPEN);
        entry.set_client(&state.client);
        self.set_log_fields(|log_fields| {
            log_fields.proxy_fields = Some(Box::new(ProxyFields {
                peer: Some(peer),
                authority: header.tlv(Tlv::AUTHORITY).map(raw_name),
                alpn: header.tlv(Tlv::ALPN).map(raw_name),
                unique_id: header.tlv(Tlv::UNIQUE_ID).map(raw_name),
                private_link: header.private_link().map(|(_, id)| id.into()),
            }));
        });
    }

    /// Records the identifier that its backend is sent.
    pub(super) fn announced_id(&mut self, unique_id: &[u8]) {
        self.set_log_fields(|log_fields| {
            log_fields.proxy_fields.get_or_insert_default().unique_id = Some(raw_name(unique_id))
        });
    }

    /// Records a whole hello, with or without a name.
    pub(super) fn hello_received(&mut self, name: Option<&ServerName>) {
        let took = self.age();
        let metrics = &self.state().listener;
        metrics.hello(if name.is_some() { HelloOutcome::Sni } else { HelloOutcome::NoSni });
        metrics.hello_seconds.record(took);
        self.set_log_fields(|log_fields| {
            log_fields.hello = Some(took);
            log_fields.sni = name.map(|name| name.as_str().into());
        });
    }

    /// Counts the opening that the client used.
    pub(super) fn opened(&self, opening: ClientOpening) {
        self.state().listener.opening(opening);
    }

    /// Counts a hello that did not become whole.
    pub(super) fn hello_failed(&mut self, outcome: Option<HelloOutcome>) {
        if let Some(outcome) = outcome {
            self.state().listener.hello(outcome);
        }
    }

    /// Records a server name that is no host name. `name` is called only if the log needs it.
    pub(super) fn invalid_name(&mut self, name: impl FnOnce() -> Option<Box<[u8]>>) {
        self.set_log_fields(|log_fields| log_fields.sni = name().map(|name| raw_name(&name)));
    }

    /// Returns true if the connection may be logged.
    pub(super) fn may_be_logged(&self) -> bool {
        self.context.access_log.is_on()
    }

    /// Records the offer of the hello.
    pub(super) fn offered(&mut self, offered: Offered) {
        self.set_log_fields(|log_fields| log_fields.offered = Some(Box::new(offered)));
    }

    pub(super) fn routed(&mut self, route: &Arc<str>, counts: Option<&Arc<RouteCounts>>) {
        if let Some(counts) = counts {
            counts.take();
            self.entry().tallies().follow(counts);
        }
        self.set_log_fields(|log_fields| log_fields.route = Some(Arc::clone(route)));
    }

    /// Counts the connection for a pool.
    pub(super) fn belongs_to(&self, pool: &Arc<PoolMetrics>) {
        self.entry().tallies().ask(pool);
    }

    pub(super) fn set_pool(&mut self, pool: &Arc<str>) {
        self.state_mut().pool = Some(Arc::clone(pool));
    }

    /// Records the total time in a queue.
    pub(super) fn waited(&mut self, time: Duration) {
        self.set_log_fields(|log_fields| log_fields.queue = Some(time));
    }

    /// Records an attempt at a backend. From now on the connection is closed with the connections of this
    /// backend.
    pub(super) fn begin_attempt(&mut self, backend: &Arc<Backend>) {
        self.entry().join(backend.id());
        self.set_log_fields(|log_fields| {
            log_fields.attempts = log_fields.attempts.saturating_add(1);
            log_fields.tried = Some(Arc::clone(backend));
        });
    }

    /// Records that the client ended before a backend was connected, and had sent bytes.
    pub(super) fn has_sent(&mut self) {
        self.set_log_fields(|log_fields| log_fields.has_sent = true);
    }

    /// Holds the mark of a connection that is forwarded by its name.
    pub(super) fn hold_forward_mark(&mut self, mark: ForwardMark) {
        self.state_mut().marks.get_or_insert_default().mark = Some(mark);
    }

    /// Holds the session by which requests to cancel a query find its backend.
    pub(super) fn hold_session(&mut self, session: SessionGuard) {
        self.state_mut().marks.get_or_insert_default().session = Some(session);
    }

    /// Records the target of an attempt, an address of the name that the client requested.
    pub(super) fn set_target_address(&mut self, address: SocketAddr) {
        self.set_log_fields(|log_fields| log_fields.dialled = Some(address));
    }

    /// Records a connected backend: the time since the first was picked, and the number of first bytes that
    /// it has.
    pub(super) fn connected(&mut self, lease: Lease, took: Duration, sent: usize) {
        self.entry().establish();
        self.entry().tallies().connect(lease.backend().traffic().counts());
        let connected = u32::try_from(self.age().as_micros()).unwrap_or(u32::MAX);
        self.entry().moved(Direction::FromClient, Engine::Copied, sent as u64);
        self.set_log_fields(|log_fields| {
            log_fields.connect = Some(took);
            log_fields.tried = None;
        });
        let state = self.state_mut();
        state.connected = connected;
        state.lease = Some(lease);
    }

    /// Counts a failed connect for which the backend is responsible.
    pub(super) fn not_connected(&self, lease: &Lease, reason: CloseReason) {
        lease.backend().traffic().counts().close(CloseKind::of(reason));
        self.report(lease.met(Trouble::Connect));
    }

    /// Reports the first byte of the backend to its lease, when it has come.
    pub(super) fn report_first_byte(&self) {
        if self.entry().take_first_byte()
            && let Some(lease) = &self.state().lease
            && lease.spoke()
            && let Some(pool) = self.entry().tallies().pool()
        {
            let connected = Duration::from_micros(self.state().connected.into());
            pool.first_byte.observe(self.age().saturating_sub(connected));
        }
    }

    /// Counts a reset by the backend as a failure if it came early and the backend had sent nothing.
    pub(super) fn reset_by_backend(&self) {
        if let Some(lease) = &self.state().lease
            && self.entry().total(Direction::FromBackend) == 0
            && self.age() <= EARLY
        {
            self.report(lease.met(Trouble::EarlyReset));
        }
    }

    /// Sends a failure report to control. If the channel is full the report is lost; further failures cause
    /// the next one.
    fn report(&self, failure_report: Option<FailureReport>) {
        if let Some(failure_report) = failure_report {
            let _ = self.context.failure_reports.try_send(failure_report);
        }
    }

    /// Counts a resource of this host that was used up.
    pub(super) fn note_saturation(&self, kind: Saturation) {
        let OpenRecord { entry, state } = self.open.as_ref().expect(OPEN);
        let source = source(&state.client, entry.link(), &self.context);
        note_saturation(kind, source, &state.listener.name, state.pool.as_ref(), &self.context);
    }

    /// The time since the connection was accepted.
    pub(super) fn age(&self) -> Duration {
        self.state().began.elapsed()
    }

    /// Ends the record.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.finish(reason);
    }

    /// Sets fields for the access log. Does nothing without an access log.
    fn set_log_fields(&mut self, set: impl FnOnce(&mut LogFields)) {
        if self.context.access_log.is_on() {
            set(self.state_mut().log_fields.get_or_insert_default());
        }
    }

    fn finish(&mut self, reason: CloseReason) {
        let Some(OpenRecord { entry, state }) = self.open.take() else { return };
        let total = state.began.elapsed();
        state.listener.closed(reason, total);
        let is_silent = state.lease.as_ref().is_some_and(Lease::is_waiting);
        entry.tallies().close(CloseKind::of(reason), is_silent);
        if let Some(kind) = Saturation::of(reason) {
            let source = source(&state.client, entry.link(), &self.context);
            note_saturation(kind, source, &state.listener.name, state.pool.as_ref(), &self.context);
        }
        let has_sent = state.log_fields.as_ref().is_some_and(|log_fields| log_fields.has_sent);
        let is_left_out = !has_sent && is_empty(reason, &entry) && self.context.access_log.leaves_out_empty();
        if is_left_out || !is_logged(reason, &state.listener, &self.context) {
            return;
        }
        let log_fields = state.log_fields.map(|log_fields| *log_fields).unwrap_or_default();
        let proxy_fields = log_fields.proxy_fields.map(|proxy_fields| *proxy_fields).unwrap_or_default();
        let backend = state.lease.as_ref().map(Lease::backend).or(log_fields.tried.as_ref());
        self.context.access_log.push(AccessRecord {
            id: entry.id(),
            accepted: UNIX_EPOCH + Duration::from_millis(state.accepted),
            client: ClientAddr(state.client),
            peer: proxy_fields.peer,
            listener: Arc::clone(&state.listener.name),
            sni: log_fields.sni,
            proxy_authority: proxy_fields.authority,
            proxy_alpn: proxy_fields.alpn,
            unique_id: proxy_fields.unique_id,
            private_link: proxy_fields.private_link,
            route: log_fields.route,
            pool: state.pool,
            backend: backend.map(|backend| Arc::clone(backend.name())),
            backend_address: log_fields
                .dialled
                .map(Address::Tcp)
                .or_else(|| backend.map(|backend| backend.address().clone())),
            attempts: log_fields.attempts,
            from_client: entry.total(Direction::FromClient),
            from_backend: entry.total(Direction::FromBackend),
            dropped: entry.total_dropped(),
            offered: log_fields.offered,
            hello: log_fields.hello,
            queue: log_fields.queue,
            connect: log_fields.connect,
            total,
            close: reason,
        });
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let Some(OpenRecord { state, .. }) = &self.open else { return };
        if std::thread::panicking() {
            self.context.metrics.process().panics.increment(1);
            let (client, listener) = (&state.client, &state.listener.name);
            tracing::error!(%client, %listener, "a connection panicked and is closed; all others go on");
            self.finish(CloseReason::Internal);
        } else {
            self.finish(CloseReason::DrainDeadline);
        }
    }
}

/// Logs and counts a connection that was refused at its accept.
pub(super) fn refused(
    id: u64,
    client: Address,
    reason: CloseReason,
    policy: &Policy,
    context: &WorkerContext,
) {
    let listener = policy.metrics.accepted();
    listener.closed(reason, Duration::ZERO);
    if let Some(kind) = Saturation::of(reason) {
        note_saturation(kind, source(&client, None, context), &listener.name, None, context);
    }
    if is_logged(reason, &listener, context) {
        let listener = Arc::clone(&listener.name);
        context.access_log.push(AccessRecord::refused(
            id,
            SystemTime::now(),
            ClientAddr(client),
            listener,
            reason,
        ));
    }
}

/// The source that a refusal is counted for: the private link where the listener counts by links, else the client's
/// network; `None` for a client of a Unix socket.
fn source(client: &Address, link: Option<&Arc<Link>>, context: &WorkerContext) -> Option<SourceName> {
    match link {
        Some(link) => Some(SourceName::Link(Arc::clone(link))),
        None => client.tcp().map(|address| SourceName::of(address.ip(), context.bounds.saturation.prefix())),
    }
}

/// Counts a refusal for the limit that caused it. Every refused connection comes here once.
fn note_saturation(
    kind: Saturation,
    source: Option<SourceName>,
    listener: &Arc<str>,
    pool: Option<&Arc<str>>,
    context: &WorkerContext,
) {
    let thing = match kind.scope() {
        SaturationScope::Process => None,
        SaturationScope::Listener => Some(listener),
        SaturationScope::Pool => pool,
    };
    context.bounds.saturation.note(kind, thing, source, Moment::now());
}

/// Returns true if the client ended without a byte in either direction.
fn is_empty(reason: CloseReason, entry: &ConnectionEntry) -> bool {
    let has_bytes = Direction::ALL.into_iter().any(|direction| entry.total(direction) > 0);
    reason.is_of_a_client_that_left() && !has_bytes && entry.total_dropped() == 0
}

/// Returns true if the access log gets a record. The access log has a limit of records a second for the reasons
/// that a flood can cause.
fn is_logged(reason: CloseReason, listener: &ListenerMetrics, context: &WorkerContext) -> bool {
    if !context.access_log.is_on() {
        return false;
    }
    let is_logged = !reason.is_sampled() || listener.refusal_lines.admit(Moment::now());
    if !is_logged {
        listener.unlogged_refusals.increment(1);
    }
    is_logged
}

/// Returns the address of a client of a Unix socket, which mostly has no path.
fn unix(path: &[u8]) -> Address {
    Address::Unix(Path::new(OsStr::from_bytes(path)).into())
}

/// Returns the milliseconds since 1970; 0 if the clock is before that.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
