//! The fields of a connection record: what is known of a connection, for its counts and its log line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::holds::Holds;
use crate::pool::{Backend, Lease};
use crate::sys::Address;
use crate::telemetry::{AccessEvent, AccessRecord, ClientAddr, CloseReason, Direction, Offered, OpenCounts};

/// The known facts of a connection, besides its names and the time of its accept, which its entry in the registry has.
#[derive(Clone)]
pub(super) struct RecordFields {
    /// The time at which its backend was connected, in microseconds after the accept; at most 71 minutes.
    pub(super) connected: u32,
    /// Milliseconds since 1970: half the size of a `SystemTime`.
    pub(super) accepted: u64,
    pub(super) client: Address,
    /// The reason for which the connection would be refused if PROXY headers were required. Set only if the
    /// listener counts such connections.
    pub(super) shadowed: Option<CloseReason>,
    /// `None` if there is no access log.
    pub(super) log: Option<Box<LogFields>>,
}

/// The facts of the received PROXY header and of the sent PROXY header.
#[derive(Clone, Default)]
pub(super) struct ProxyFields {
    /// The peer that sent the header, if the header names a client.
    pub(super) peer: Option<Address>,
    pub(super) authority: Option<Box<str>>,
    pub(super) alpn: Option<Box<str>>,
    pub(super) unique_id: Option<Box<str>>,
    pub(super) private_link: Option<Box<str>>,
}

impl ProxyFields {
    /// Returns true if a field is set.
    pub(super) fn is_known(&self) -> bool {
        let Self { peer, authority, alpn, unique_id, private_link } = self;
        peer.is_some() || [authority, alpn, unique_id, private_link].into_iter().any(Option::is_some)
    }
}

/// The fields that only the access log needs.
#[derive(Clone, Default)]
pub(super) struct LogFields {
    /// Boxed, as most connections have none.
    pub(super) proxy_fields: Option<Box<ProxyFields>>,
    pub(super) attempts: u8,
    /// True if the client sent bytes that no backend received.
    pub(super) has_sent: bool,
    /// The last backend tried, until a backend is connected. After that the lease has the backend.
    pub(super) tried: Option<Arc<Backend>>,
    /// The target of the last attempt, if the target is not the backend's own address.
    pub(super) dialled: Option<SocketAddr>,
    /// The reason for which the rules of a forwarding pool would refuse the connection, if they only report.
    pub(super) reported: Option<CloseReason>,
    /// The port of a request for a tunnel. The card of the connection has the host.
    pub(super) port: Option<u16>,
    pub(super) offered: Option<Box<Offered>>,
    pub(super) hello: Option<Duration>,
    pub(super) queue: Option<Duration>,
    pub(super) connect: Option<Duration>,
}

impl RecordFields {
    /// Returns the fields of a connection that begins.
    pub(super) fn new(client: Address) -> Self {
        Self { connected: 0, accepted: unix_millis(), client, shadowed: None, log: None }
    }

    /// Sets the time at which the backend was connected.
    pub(super) fn set_connected(&mut self, began: Instant) {
        self.connected = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
    }

    /// The time since the backend was connected.
    pub(super) fn since_connected(&self, began: Instant) -> Duration {
        began.elapsed().saturating_sub(Duration::from_micros(self.connected.into()))
    }

    /// Returns the record for the access log of an event, `total` after the accept.
    pub(super) fn into_access_record(
        self,
        holds: &Holds,
        event: AccessEvent,
        total: Duration,
    ) -> AccessRecord {
        let log = self.log.map(|log| *log).unwrap_or_default();
        let proxy = log.proxy_fields.map(|proxy| *proxy).unwrap_or_default();
        let card = holds.entry.card().clone();
        let backend = holds.lease.as_ref().map(Lease::backend).or(log.tried.as_ref());
        let own_address = || backend.map(|backend| backend.address().clone());
        let backend_address = log.dialled.map(Address::Tcp).or_else(own_address);
        let (sni, host) = split_names(card.sni, log.port);
        AccessRecord {
            id: holds.entry.id(),
            accepted: UNIX_EPOCH + Duration::from_millis(self.accepted),
            client: ClientAddr(self.client),
            peer: proxy.peer,
            listener: Arc::clone(&holds.listener.name),
            sni,
            proxy_authority: proxy.authority,
            proxy_alpn: proxy.alpn,
            unique_id: proxy.unique_id,
            private_link: proxy.private_link,
            route: card.route,
            pool: card.pool,
            backend: backend.map(|backend| Arc::clone(backend.name())),
            backend_address,
            attempts: log.attempts,
            from_client: holds.entry.total(Direction::FromClient),
            from_backend: holds.entry.total(Direction::FromBackend),
            dropped: holds.entry.total_dropped(),
            offered: log.offered,
            hello: log.hello,
            queue: log.queue,
            connect: log.connect,
            total,
            event,
            delta: holds.entry.unlogged(),
            reported: log.reported,
            host,
            port: log.port,
            open: open(holds),
        }
    }
}

/// Returns the server name and the requested host. The card of a connection has one name for both.
fn split_names(name: Option<Box<str>>, port: Option<u16>) -> (Option<Box<str>>, Option<Box<str>>) {
    if port.is_some() { (None, name) } else { (name, None) }
}

/// Returns the open connections beside a connection, itself included.
fn open(holds: &Holds) -> OpenCounts {
    OpenCounts {
        process: holds.permit.process().gate().inside(),
        listener: holds.permit.listener().gate().inside(),
        backend: holds.lease.as_ref().map_or(0, |lease| lease.backend().traffic().active()),
    }
}

/// Returns the milliseconds since 1970; 0 if the clock shows an earlier time.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
