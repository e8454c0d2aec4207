//! The events of a connection that its record counts and keeps for the log, in their order.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::fields::ProxyFields;
use super::record::ConnectionRecord;
use crate::limit::SourceName;
use crate::pool::{Backend, Lease, Trouble};
use crate::snapshot::Policy;
use crate::sys::Address;
use crate::telemetry::record::raw_name;
use crate::telemetry::{
    ClientOpening, CloseKind, CloseReason, Direction, Engine, HelloOutcome, Offered, PoolMetrics,
    ProxyOutcome, RouteCounts,
};
use crate::wire::proxy_protocol::{HeaderOrigin, HeaderVersion, ProxyHeader, Tlv};
use crate::wire::{ServerName, TunnelTarget};

impl ConnectionRecord {
    /// Records that the first bytes of the connection were read.
    pub(super) fn was_read(&mut self) {
        self.entry().set_reading(false);
        self.permit().was_read();
    }

    /// Counts the result of the search for a PROXY header.
    pub(super) fn proxy_header(&self, outcome: ProxyOutcome) {
        self.holds().listener.proxy_header(outcome);
    }

    /// Records the reason for which the connection would be refused if headers were required. It is counted once the
    /// connection is served.
    pub(super) fn shadow(&mut self, reason: CloseReason) {
        self.fields_mut().shadowed = Some(reason);
    }

    /// Counts a connection that is served and that would be refused if headers were required.
    fn count_shadowed(&self) {
        if let Some(reason) = self.fields().shadowed {
            self.holds().listener.proxy_shadowed(reason == CloseReason::ProxyMissing);
            tracing::debug!(peer = %self.client(), %reason, "a peer would be refused for its PROXY header");
        }
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
        let fields = self.fields_mut();
        let peer = fields.client.clone();
        fields.client = client.unwrap_or_else(|| peer.clone());
        self.entry().set_client(self.client());
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

    /// Records the identifier that is sent to the backend.
    pub(super) fn announced_id(&mut self, unique_id: &[u8]) {
        self.set_log_fields(|log_fields| {
            log_fields.proxy_fields.get_or_insert_default().unique_id = Some(raw_name(unique_id))
        });
    }

    /// Records a whole hello, with or without a name.
    pub(super) fn hello_received(&mut self, name: Option<&ServerName>) {
        let took = self.age();
        let metrics = &self.holds().listener;
        metrics.hello(if name.is_some() { HelloOutcome::Sni } else { HelloOutcome::NoSni });
        metrics.hello_seconds.record(took);
        self.entry().note(|card| card.sni = name.map(|name| name.as_str().into()));
        self.set_log_fields(|log_fields| log_fields.hello = Some(took));
    }

    /// Records a whole request for a tunnel. Its host takes the place of the server name.
    pub(super) fn requested(&mut self, target: &TunnelTarget) {
        let took = self.age();
        self.entry().note(|card| card.sni = Some(target.host.to_string().into()));
        self.set_log_fields(|log_fields| {
            log_fields.hello = Some(took);
            log_fields.port = Some(target.port);
        });
    }

    /// Counts the opening that the client used.
    pub(super) fn opened(&self, opening: ClientOpening) {
        self.holds().listener.opening(opening);
    }

    /// Counts a hello that did not become whole.
    pub(super) fn hello_failed(&mut self, outcome: Option<HelloOutcome>) {
        if let Some(outcome) = outcome {
            self.holds().listener.hello(outcome);
        }
    }

    /// Records a server name that is no host name. `name` is called only if the log needs it.
    pub(super) fn invalid_name(&mut self, name: impl FnOnce() -> Option<Box<[u8]>>) {
        if self.may_be_logged() {
            self.entry().note(|card| card.sni = name().map(|name| raw_name(&name)));
        }
    }

    /// Records the offer of the hello.
    pub(super) fn offered(&mut self, offered: Offered) {
        self.set_log_fields(|log_fields| log_fields.offered = Some(Box::new(offered)));
    }

    /// Counts the connection for its source, as its listener counts sources. A client of a Unix socket has none.
    pub(super) fn count_source(&self, policy: &Policy) {
        let prefix = policy.admission.as_ref().map(|admission| admission.spec.prefix).unwrap_or_default();
        let address = || self.client().tcp().map(|client| SourceName::of(client.ip(), prefix));
        if let Some(source) = self.entry().link().cloned().map(SourceName::Link).or_else(address) {
            self.registry().top().count_source(&source);
        }
    }

    /// Counts the connection for its server name.
    pub(super) fn count_name(&self, name: &ServerName, has_route: bool) {
        let registry = self.registry();
        match has_route {
            true => registry.top().count_name(name.as_str()),
            false => registry.top().count_unknown_name(name.as_str()),
        }
    }

    /// Records the route of the connection.
    pub(super) fn routed(&mut self, route: &Arc<str>, counts: Option<&Arc<RouteCounts>>) {
        if let Some(counts) = counts {
            counts.take(SystemTime::now());
            // Only routes with a name count bytes.
            if counts.is_named() {
                self.entry().tallies().follow(counts);
            }
        }
        self.entry().note(|card| card.route = Some(Arc::clone(route)));
    }

    /// Counts the connection for a pool.
    pub(super) fn belongs_to(&self, pool: &Arc<PoolMetrics>) {
        self.entry().tallies().ask(pool);
    }

    /// Records the pool that is to serve the connection.
    pub(super) fn set_pool(&mut self, pool: &Arc<str>) {
        self.entry().note(|card| card.pool = Some(Arc::clone(pool)));
    }

    /// Records the host name of a PROXY header that the pool hashes.
    pub(super) fn hashed(&self, authority: &ServerName) {
        self.entry().note(|card| card.authority = Some(Box::new(authority.clone())));
    }

    /// Records the total time in a queue.
    pub(super) fn waited(&mut self, time: Duration) {
        self.set_log_fields(|log_fields| log_fields.queue = Some(time));
    }

    /// Records an attempt at a backend. From now on the connection is closed with the connections of this
    /// backend.
    pub(super) fn begin_attempt(&mut self, backend: &Arc<Backend>) {
        self.entry().join(backend.id());
        self.entry().note(|card| card.backend = Some(Arc::clone(backend.name())));
        self.set_log_fields(|log_fields| {
            log_fields.attempts = log_fields.attempts.saturating_add(1);
            log_fields.tried = Some(Arc::clone(backend));
        });
    }

    /// Records that the client had sent bytes when it ended, before a backend was connected.
    pub(super) fn has_sent(&mut self) {
        self.set_log_fields(|log_fields| log_fields.has_sent = true);
    }

    /// Records the target of an attempt, an address of the name that the client requested.
    pub(super) fn set_target_address(&mut self, address: SocketAddr) {
        self.set_log_fields(|log_fields| log_fields.dialled = Some(address));
    }

    /// Records the reason for which the rules of a forwarding pool would refuse the connection, if they only report.
    pub(super) fn reported(&mut self, reason: CloseReason) {
        self.set_log_fields(|log_fields| log_fields.reported = Some(reason));
    }

    /// Records a connected backend. `took` is the time since the first pick, and `sent` is the number of first
    /// bytes that the backend has.
    pub(super) fn connected(&mut self, lease: Lease, took: Duration, sent: usize) {
        self.entry().establish();
        self.entry().tallies().connect(lease.backend().traffic().counts());
        self.entry().moved(Direction::FromClient, Engine::Copied, sent as u64);
        self.set_log_fields(|log_fields| {
            log_fields.connect = Some(took);
            log_fields.tried = None;
        });
        let began = self.entry().began();
        self.fields_mut().set_connected(began);
        self.holds_mut().lease = Some(lease);
        self.count_shadowed();
        self.log_start();
    }

    /// Counts a failed connect for which the backend is responsible.
    pub(super) fn not_connected(&self, lease: &Lease, reason: CloseReason) {
        lease.backend().traffic().counts().close(CloseKind::of(reason));
        self.report(lease.met(Trouble::Connect));
    }
}

/// Returns the address of a client of a Unix socket, which mostly has no path.
fn unix(path: &[u8]) -> Address {
    Address::Unix(Path::new(OsStr::from_bytes(path)).into())
}
