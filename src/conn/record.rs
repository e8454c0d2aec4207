//! What is remembered of a connection until it is written down.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::WorkerContext;
use crate::limit::{GatePass, Link, Moment, Permit, SourceName, SourcePass};
use crate::live::{ConnectionEntry, MigratingEntry, RegistryGuard, Seat};
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

/// The growing record of a connection, and all that it holds: its place, its entry, its backend.
///
/// However the connection ends, that is counted and logged exactly once: by [`ConnectionRecord::close`], or when
/// the story is dropped because its task panicked or its worker ended.
pub(super) struct ConnectionRecord {
    /// Only the end of the story takes it.
    open: Option<OpenRecord>,
    context: Rc<WorkerContext>,
}

/// A story that has not ended.
struct OpenRecord {
    entry: RegistryGuard,
    state: RecordState,
}

/// A backend that resets a connection within this time of its accept, and before it has sent a byte, fails
/// its client. What was silent for longer was not used, and says nothing of the backend.
const EARLY: Duration = Duration::from_secs(10);

const OPEN: &str = "only the end of a story takes it";

/// What a story takes along when it goes on in another worker.
pub(super) struct MigratingRecord {
    left: MigratingEntry,
    state: RecordState,
}

/// What is known of a connection, and what it holds.
struct RecordState {
    /// Counts the connection as active; the way to its listener's metrics and name.
    listener: ActiveConnection,
    permit: Option<Permit>,
    lease: Option<Lease>,
    /// Boxed, as most connections have nothing of it.
    marks: Option<Box<SessionMarks>>,
    began: Instant,
    /// When its backend was connected, in microseconds after `began`; at most 71 minutes.
    connected: u32,
    /// Milliseconds since 1970: half the size of a `SystemTime`.
    accepted: u64,
    client: Address,
    /// The pool that was asked last.
    pool: Option<Arc<str>>,
    /// What only the access log wants; `None` where there is no log.
    log_fields: Option<Box<LogFields>>,
}

/// By what a connection is found while it is open.
#[derive(Default)]
struct SessionMarks {
    /// While it is forwarded by its name, so that it is known if it comes in again.
    mark: Option<ForwardMark>,
    /// While it may be a session whose query is to be cancelled.
    session: Option<SessionGuard>,
}

/// What PROXY headers tell, the one that came in and the one that goes out.
#[derive(Default)]
struct ProxyFields {
    /// Who connected, if that told of a client.
    peer: Option<Address>,
    authority: Option<Box<str>>,
    alpn: Option<Box<str>>,
    unique_id: Option<Box<str>>,
    private_link: Option<Box<str>>,
}

#[derive(Default)]
struct LogFields {
    /// Boxed, as most connections have nothing of it.
    proxy_fields: Option<Box<ProxyFields>>,
    sni: Option<Box<str>>,
    route: Option<Arc<str>>,
    attempts: u8,
    /// Whether the client sent bytes that no backend got.
    has_sent: bool,
    /// The last backend tried, until one is connected: from then on the lease has it.
    tried: Option<Arc<Backend>>,
    /// Where the last attempt went, if that is not the backend's own address.
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

    /// Leaves this worker.
    pub(super) fn detach(mut self) -> MigratingRecord {
        let OpenRecord { entry, state } = self.open.take().expect(OPEN);
        MigratingRecord { left: entry.leave(), state }
    }

    /// Goes on in this worker.
    pub(super) fn attach(packed: MigratingRecord, seat: Seat, context: &Rc<WorkerContext>) -> Self {
        let entry = context.registry.readmit(packed.left, seat);
        Self { open: Some(OpenRecord { entry, state: packed.state }), context: Rc::clone(context) }
    }

    /// The connection among those of its worker.
    pub(super) fn entry(&self) -> &RegistryGuard {
        &self.open.as_ref().expect(OPEN).entry
    }

    pub(super) fn context(&self) -> Rc<WorkerContext> {
        Rc::clone(&self.context)
    }

    fn state(&self) -> &RecordState {
        &self.open.as_ref().expect(OPEN).state
    }

    fn plot_mut(&mut self) -> &mut RecordState {
        &mut self.open.as_mut().expect(OPEN).state
    }

    pub(super) fn client(&self) -> &Address {
        &self.state().client
    }

    pub(super) fn hold(&mut self, permit: Permit) {
        self.plot_mut().permit = Some(permit);
    }

    /// Holds the place of its source too.
    pub(super) fn hold_source(&mut self, pass: Option<SourcePass>) {
        if let Some(permit) = &mut self.plot_mut().permit {
            permit.hold_source(pass);
        }
    }

    /// Holds a place of its route too.
    pub(super) fn hold_route(&mut self, pass: GatePass) {
        if let Some(permit) = &mut self.plot_mut().permit {
            permit.hold_route(pass);
        }
    }

    /// Holds a place of its pool too.
    pub(super) fn hold_pool(&mut self, pass: GatePass) {
        if let Some(permit) = &mut self.plot_mut().permit {
            permit.hold_pool(pass);
        }
    }

    /// It is refused: what is still said to its client takes no place of a route or a pool.
    pub(super) fn leave_target(&mut self) {
        if let Some(permit) = &mut self.plot_mut().permit {
            permit.leave_target();
        }
    }

    /// Its first bytes are read.
    pub(super) fn was_read(&mut self) {
        self.entry().is_reading(false);
        if let Some(permit) = &mut self.plot_mut().permit {
            permit.was_read();
        }
    }

    /// What stood where a PROXY header is read.
    pub(super) fn proxy_header(&self, outcome: ProxyOutcome) {
        self.state().listener.proxy_header(outcome);
    }

    /// It is served, and would not be if headers were required.
    pub(super) fn shadowed(&self, reason: CloseReason) {
        self.state().listener.proxy_shadowed(reason == CloseReason::ProxyMissing);
        tracing::debug!(peer = %self.client(), %reason, "a peer would be refused for its PROXY header");
    }

    /// A header came that is believed: the client is whom it tells. From now on that one is meant by its
    /// address.
    pub(super) fn announced(&mut self, header: &ProxyHeader) {
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
        let state = self.plot_mut();
        let peer = state.client.clone();
        state.client = client.unwrap_or_else(|| peer.clone());
        let OpenRecord { entry, state } = self.open.as_ref().expect(OPEN);
        entry.is_of(&state.client);
        self.tell(|log_fields| {
            log_fields.proxy_fields = Some(Box::new(ProxyFields {
                peer: Some(peer),
                authority: header.tlv(Tlv::AUTHORITY).map(raw_name),
                alpn: header.tlv(Tlv::ALPN).map(raw_name),
                unique_id: header.tlv(Tlv::UNIQUE_ID).map(raw_name),
                private_link: header.private_link().map(|(_, id)| id.into()),
            }));
        });
    }

    /// Its backend is told this name of it.
    pub(super) fn is_called(&mut self, unique_id: &[u8]) {
        self.tell(|log_fields| {
            log_fields.proxy_fields.get_or_insert_default().unique_id = Some(raw_name(unique_id))
        });
    }

    /// A whole hello came, with or without a name.
    pub(super) fn heard(&mut self, name: Option<&ServerName>) {
        let took = self.age();
        let metrics = &self.state().listener;
        metrics.hello(if name.is_some() { HelloOutcome::Sni } else { HelloOutcome::NoSni });
        metrics.hello_seconds.record(took);
        self.tell(|log_fields| {
            log_fields.hello = Some(took);
            log_fields.sni = name.map(|name| name.as_str().into());
        });
    }

    /// The client began in this way, of several.
    pub(super) fn opened(&self, opening: ClientOpening) {
        self.state().listener.opening(opening);
    }

    /// No whole hello came.
    pub(super) fn not_heard(&mut self, outcome: Option<HelloOutcome>) {
        if let Some(outcome) = outcome {
            self.state().listener.hello(outcome);
        }
    }

    /// The hello asked for what is no host name. That is looked for only if it will be written down.
    pub(super) fn asked_badly(&mut self, name: impl FnOnce() -> Option<Box<[u8]>>) {
        self.tell(|log_fields| log_fields.sni = name().map(|name| raw_name(&name)));
    }

    /// Whether what is known of the connection will be written down.
    pub(super) fn is_told(&self) -> bool {
        self.context.access_log.is_on()
    }

    /// What the hello offers.
    pub(super) fn offered(&mut self, offered: Offered) {
        self.tell(|log_fields| log_fields.offered = Some(Box::new(offered)));
    }

    pub(super) fn routed(&mut self, route: &Arc<str>, counts: Option<&Arc<RouteCounts>>) {
        if let Some(counts) = counts {
            counts.take();
            self.entry().tallies().follow(counts);
        }
        self.tell(|log_fields| log_fields.route = Some(Arc::clone(route)));
    }

    /// It is one of the connections of a pool.
    pub(super) fn belongs_to(&self, pool: &Arc<PoolMetrics>) {
        self.entry().tallies().ask(pool);
    }

    pub(super) fn asked(&mut self, pool: &Arc<str>) {
        self.plot_mut().pool = Some(Arc::clone(pool));
    }

    /// It has waited for a place at a backend, for so long in all.
    pub(super) fn waited(&mut self, time: Duration) {
        self.tell(|log_fields| log_fields.queue = Some(time));
    }

    /// A backend is about to be tried. From now on the connection is one of those that end with it.
    pub(super) fn attempts(&mut self, backend: &Arc<Backend>) {
        self.entry().join(backend.number());
        self.tell(|log_fields| {
            log_fields.attempts = log_fields.attempts.saturating_add(1);
            log_fields.tried = Some(Arc::clone(backend));
        });
    }

    /// The client left before a backend was connected, and had sent bytes.
    pub(super) fn has_sent(&mut self) {
        self.tell(|log_fields| log_fields.has_sent = true);
    }

    /// The connection is being forwarded by its name.
    pub(super) fn keep(&mut self, mark: ForwardMark) {
        self.plot_mut().marks.get_or_insert_default().mark = Some(mark);
    }

    /// Requests to cancel a query of this connection find its backend.
    pub(super) fn sessions(&mut self, session: SessionGuard) {
        self.plot_mut().marks.get_or_insert_default().session = Some(session);
    }

    /// The attempt goes to this address of the name that the client asked for.
    pub(super) fn dials(&mut self, address: SocketAddr) {
        self.tell(|log_fields| log_fields.dialled = Some(address));
    }

    /// A backend is connected, so long after the first was chosen, and has so many of the first bytes.
    pub(super) fn connected(&mut self, lease: Lease, took: Duration, sent: usize) {
        self.entry().establish();
        self.entry().tallies().connect(lease.backend().counts());
        let connected = u32::try_from(self.age().as_micros()).unwrap_or(u32::MAX);
        self.entry().moved(Direction::FromClient, Engine::Copied, sent as u64);
        self.tell(|log_fields| {
            log_fields.connect = Some(took);
            log_fields.tried = None;
        });
        let state = self.plot_mut();
        state.connected = connected;
        state.lease = Some(lease);
    }

    /// A backend could not be connected, by its own fault.
    pub(super) fn not_connected(&self, lease: &Lease, reason: CloseReason) {
        lease.backend().counts().close(CloseKind::of(reason));
        self.report(lease.met(Trouble::Connect));
    }

    /// Tells the backend when it has sent its first byte.
    pub(super) fn listen(&self) {
        if self.entry().hears_backend()
            && let Some(lease) = &self.state().lease
            && lease.spoke()
            && let Some(pool) = self.entry().tallies().pool()
        {
            let connected = Duration::from_micros(self.state().connected.into());
            pool.first_byte.observe(self.age().saturating_sub(connected));
        }
    }

    /// The backend reset the connection. If that was soon and it had sent nothing, the client was failed.
    pub(super) fn was_reset(&self) {
        if let Some(lease) = &self.state().lease
            && self.entry().total(Direction::FromBackend) == 0
            && self.age() <= EARLY
        {
            self.report(lease.met(Trouble::EarlyReset));
        }
    }

    /// Passes a sighting on. Where too many wait already this one is lost; as clients go on to fail, the next
    /// one comes.
    fn report(&self, failure_report: Option<FailureReport>) {
        if let Some(failure_report) = failure_report {
            let _ = self.context.failure_reports.try_send(failure_report);
        }
    }

    /// This host has run out of something for the connection.
    pub(super) fn note_saturation(&self, kind: Saturation) {
        let OpenRecord { entry, state } = self.open.as_ref().expect(OPEN);
        let source = source(&state.client, entry.link(), &self.context);
        note_saturation(kind, source, &state.listener.name, state.pool.as_ref(), &self.context);
    }

    /// How long ago the connection was accepted.
    pub(super) fn age(&self) -> Duration {
        self.state().began.elapsed()
    }

    /// Ends the story.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.finish(reason);
    }

    /// Notes something for the access log, if there is one.
    fn tell(&mut self, note: impl FnOnce(&mut LogFields)) {
        if self.context.access_log.is_on() {
            note(self.plot_mut().log_fields.get_or_insert_default());
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
            tracing::error!(client = %state.client, listener = %state.listener.name, "a connection panicked; the others live on");
            self.finish(CloseReason::Internal);
        } else {
            self.finish(CloseReason::DrainDeadline);
        }
    }
}

/// Writes down a connection that was refused at its accept.
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

/// Whether a client came and left without a byte, and none came for it.
fn is_empty(reason: CloseReason, entry: &ConnectionEntry) -> bool {
    let has_bytes = Direction::ALL.into_iter().any(|direction| entry.total(direction) > 0);
    reason.is_of_a_client_that_left() && !has_bytes && entry.total_dropped() == 0
}

/// Whether the access log gets a record. Of those that a flood can cause it gets no more than so many a second.
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

/// The address of a client of a Unix socket, which mostly has no path.
fn unix(path: &[u8]) -> Address {
    Address::Unix(Path::new(OsStr::from_bytes(path)).into())
}

/// The time of day; 0 where the clock stands before 1970.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
