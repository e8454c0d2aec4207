//! What is remembered of a connection until it is written down.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Surroundings;
use crate::limit::Permit;
use crate::live::Registered;
use crate::pool::Lease;
use crate::snapshot::Policy;
use crate::sys::Address;
use crate::telemetry::{
    ActiveConnection, ClientAddr, CloseReason, Direction, HelloOutcome, ListenerMetrics, Record,
};
use crate::wire::ServerName;

/// The growing record of a connection, and all that it holds: its place, its entry, its backend.
///
/// However the connection ends, that is counted and logged exactly once: by [`Story::close`], or when
/// the story is dropped because its task panicked or its worker ended.
pub(super) struct Story {
    /// Only `finish` takes it.
    entry: Option<Registered>,
    _active: ActiveConnection,
    permit: Option<Permit>,
    lease: Option<Lease>,
    began: Instant,
    accepted: SystemTime,
    client: Address,
    listener: Arc<str>,
    metrics: Arc<ListenerMetrics>,
    /// What only the access log wants; `None` where there is no log.
    told: Option<Box<Told>>,
    around: Rc<Surroundings>,
}

#[derive(Default)]
struct Told {
    sni: Option<Box<str>>,
    route: Option<Arc<str>>,
    pool: Option<Arc<str>>,
    attempts: u8,
    hello: Option<Duration>,
    connect: Option<Duration>,
}

impl Story {
    pub(super) fn begin(
        client: Address,
        policy: &Policy,
        entry: Registered,
        around: &Rc<Surroundings>,
    ) -> Self {
        Self {
            _active: policy.metrics.accepted(),
            entry: Some(entry),
            permit: None,
            lease: None,
            began: Instant::now(),
            accepted: SystemTime::now(),
            client,
            listener: Arc::clone(&policy.listener),
            metrics: Arc::clone(&policy.metrics),
            told: None,
            around: Rc::clone(around),
        }
    }

    /// The connection among those of its worker.
    pub(super) fn entry(&self) -> &Registered {
        self.entry.as_ref().expect("only the end of the story takes the entry")
    }

    pub(super) fn client(&self) -> &Address {
        &self.client
    }

    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// A whole hello came, with or without a name.
    pub(super) fn heard(&mut self, name: Option<&ServerName>) {
        self.metrics.hello(if name.is_some() { HelloOutcome::Sni } else { HelloOutcome::NoSni });
        let took = self.age();
        self.metrics.hello_seconds.record(took);
        self.tell(|told| {
            told.hello = Some(took);
            told.sni = name.map(|name| name.as_str().into());
        });
    }

    /// No whole hello came.
    pub(super) fn not_heard(&mut self, outcome: Option<HelloOutcome>) {
        if let Some(outcome) = outcome {
            self.metrics.hello(outcome);
        }
    }

    pub(super) fn routed(&mut self, route: &Arc<str>) {
        self.tell(|told| told.route = Some(Arc::clone(route)));
    }

    pub(super) fn asked(&mut self, pool: &Arc<str>) {
        self.tell(|told| told.pool = Some(Arc::clone(pool)));
    }

    pub(super) fn attempted(&mut self) {
        self.tell(|told| told.attempts = told.attempts.saturating_add(1));
    }

    pub(super) fn connected(&mut self, lease: Lease, took: Duration) {
        self.entry().join(lease.backend().number());
        self.tell(|told| told.connect = Some(took));
        self.lease = Some(lease);
    }

    /// How long ago the connection was accepted.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends the story.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.finish(reason);
    }

    /// Notes something for the access log, if there is one.
    fn tell(&mut self, note: impl FnOnce(&mut Told)) {
        if self.around.access_log.is_on() {
            note(self.told.get_or_insert_default());
        }
    }

    fn finish(&mut self, reason: CloseReason) {
        let Some(entry) = self.entry.take() else { return };
        let total = self.began.elapsed();
        self.metrics.closed(reason, total);
        if !self.around.access_log.is_on() {
            return;
        }
        let told = self.told.take().map(|told| *told).unwrap_or_default();
        let backend = self.lease.as_ref().map(Lease::backend);
        self.around.access_log.push(Record {
            id: entry.id(),
            accepted: self.accepted,
            client: ClientAddr(self.client.clone()),
            listener: Arc::clone(&self.listener),
            sni: told.sni,
            route: told.route,
            pool: told.pool,
            backend: backend.map(|backend| Arc::clone(backend.name())),
            backend_address: backend.map(|backend| backend.address().clone()),
            attempts: told.attempts,
            from_client: entry.total(Direction::FromClient),
            from_backend: entry.total(Direction::FromBackend),
            dropped: entry.total_dropped(),
            hello: told.hello,
            connect: told.connect,
            total,
            close: reason,
        });
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if self.entry.is_none() {
            return;
        }
        if std::thread::panicking() {
            self.around.metrics.process().panics.increment(1);
            tracing::error!(client = %self.client, listener = %self.listener, "a connection panicked; the others live on");
            self.finish(CloseReason::Internal);
        } else {
            self.finish(CloseReason::DrainDeadline);
        }
    }
}
