//! Picks a backend and connects to it. If the connect fails, tries another backend, until the attempts or the time are
//! used up.
//!
//! The client's first bytes are sent with the connect. Another backend is tried only before a connection exists: bytes
//! that a backend has received must not go to a second backend. No backend is dialled for a client that is known to be
//! gone.
//!
//! If every backend is full, the connection waits in the pool's queue, if the pool has a queue. The wait has a
//! bound of its own and does not count against the deadline of the dial.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::announce::BackendPreface;
use super::attempt::{self, AttemptFailure, ConnectedBackend, DialTarget, ready};
use super::gone::WaitStage;
use super::hosts;
use super::plan::{DialPlan, PickRule, RoutedClient};
use super::race::{Race, RaceEvent, RaceSpec};
use super::record::ConnectionRecord;
use super::sniffed::SniffedClient;
use crate::executor::{Elapsed, timeout_at};
use crate::pool::{Backend, DialSpec, Forward, Lease, Unavailable};
use crate::relay::{Engines, Relay};
use crate::sys::{Address, socket};
use crate::telemetry::{CloseReason, ConnectOutcome, PoolMetrics};
use crate::wire::ServerName;

/// A client and its connected backend.
pub(super) struct DialledClient {
    pub(super) routed: RoutedClient,
    pub(super) backend: ConnectedBackend,
}

impl DialledClient {
    /// Returns the relay between the client and its backend, which begins with the bytes that are not yet sent.
    pub(super) fn relay(self, engines: Rc<Engines>) -> Relay {
        let RoutedClient { sniffed, plan } = self.routed;
        self.backend.relay(sniffed, plan.relay, engines)
    }
}

/// Connects a client to a backend of its pool, or refuses the client.
#[allow(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
pub(super) fn dial(
    routed: RoutedClient,
    record: &mut ConnectionRecord,
) -> impl Future<Output = Result<DialledClient, CloseReason>> {
    async move {
        match backend(&routed, record).await {
            Ok(backend) => {
                if let Some(request) = &routed.plan.request {
                    // Nothing was sent but short messages, so this does not wait. The relay reports a client that is gone.
                    let _ = routed.sniffed.client.send_all(request.protocol.granted()).await;
                }
                Ok(DialledClient { routed, backend })
            }
            Err(reason) => {
                record.entry().refuse();
                record.permit().leave_target();
                let has_sent = routed.plan.request.is_some() || routed.sniffed.has_bytes();
                if reason == CloseReason::ClientGone && has_sent {
                    record.has_sent();
                }
                Err(routed.sniffed.refuse(reason).await)
            }
        }
    }
}

/// Connects to a backend for a client.
async fn backend(
    routed: &RoutedClient,
    record: &mut ConnectionRecord,
) -> Result<ConnectedBackend, CloseReason> {
    let plan = &routed.plan;
    let spec = plan.served.pool.spec();
    record.set_pool(&spec.name);
    let preface = BackendPreface::new(spec.proxy_protocol.as_ref(), &routed.sniffed, record);
    let mut dial = Dial::begin(routed, record);
    if let Some(forward) = plan.served.pool.forward() {
        // Boxed, as hardly any connection needs this memory.
        Box::pin(dial.find_hosts(forward)).await?;
        if dial.may_race() {
            return Box::pin(dial.race(&preface)).await;
        }
    }
    for _ in 0..plan.attempts {
        let Some(lease) = dial.next_lease().await else { break };
        let Some(attempted) = dial.attempt(&lease, &preface).await else {
            return Err(CloseReason::ClientGone);
        };
        match attempted {
            Ok(backend) => return Ok(dial.connected(lease, backend)),
            Err(failure) => dial.note(&lease, &failure),
        }
        if dial.is_over() {
            break;
        }
    }
    Err(dial.failed())
}

/// All attempts for one connection.
struct Dial<'a> {
    routed: &'a RoutedClient,
    record: &'a mut ConnectionRecord,
    began: Instant,
    /// The total time in the queue. It does not count against the time of the dial.
    waited: Duration,
    /// The part of this time that counts against the timeout of the queue: pauses of the pool do not.
    queued: Duration,
    attempt_began: Instant,
    /// The addresses of the host that the client named, without the addresses that were already tried.
    hosts: std::vec::IntoIter<SocketAddr>,
    /// The backends that could not be reached.
    tried: Vec<Arc<Backend>>,
    /// The reason for which there is no connected backend.
    last: CloseReason,
}

impl<'a> Dial<'a> {
    fn begin(routed: &'a RoutedClient, record: &'a mut ConnectionRecord) -> Self {
        let began = Instant::now();
        Self {
            routed,
            record,
            began,
            waited: Duration::ZERO,
            queued: Duration::ZERO,
            attempt_began: began,
            hosts: Vec::new().into_iter(),
            tried: Vec::new(),
            last: CloseReason::NoBackend,
        }
    }

    /// The time at which the dial ends.
    fn deadline(&self) -> Instant {
        self.began + self.waited + self.spec().dial_timeout
    }

    fn spec(&self) -> &'a DialSpec {
        &self.routed.plan.served.pool.spec().dial
    }

    fn metrics(&self) -> &'a PoolMetrics {
        &self.routed.plan.served.metrics
    }

    /// Finds the addresses of the host that the client named. The first attempt begins now.
    async fn find_hosts(&mut self, forward: &Forward) -> Result<(), CloseReason> {
        let deadline = self.deadline();
        self.hosts = hosts::find(self.routed, forward, deadline, self.record).await?.into_iter();
        self.attempt_began = Instant::now();
        Ok(())
    }

    /// Returns true if connects to several addresses of a host may be in progress at once.
    fn may_race(&self) -> bool {
        self.hosts.len() > 1 && self.routed.plan.attempts > 1 && self.routed.plan.greeting.is_none()
    }

    /// Connects to one of the addresses of the host that the client named.
    async fn race(mut self, preface: &BackendPreface<'_>) -> Result<ConnectedBackend, CloseReason> {
        let Some(lease) = self.next_lease().await else { return Err(self.failed()) };
        let client = self.record.client().tcp();
        let spec = RaceSpec { dial: self.spec(), client, deadline: self.deadline() };
        let mut race = Race::new(spec, std::mem::take(&mut self.hosts), self.routed.plan.attempts);
        loop {
            let event = tokio::select! {
                biased;
                event = race.next() => event,
                () = self.routed.gone(WaitStage::Dial) => {
                    self.abort(race.in_progress());
                    return Err(CloseReason::ClientGone);
                }
            };
            match event {
                None => return Err(self.failed()),
                Some(RaceEvent::Begun(host)) => {
                    self.record.begin_attempt(lease.backend());
                    self.record.set_target_address(host);
                }
                Some(RaceEvent::Ended(host, began, result)) => {
                    self.record.set_target_address(host);
                    self.attempt_began = began;
                    let failure = match result {
                        Ok(backend) => {
                            self.abort(race.in_progress());
                            match attempt::send_first(backend, preface).await {
                                Ok(backend) => return Ok(self.connected(lease, backend)),
                                // The host may have some of the bytes, so no other host gets them.
                                Err(failure) => {
                                    self.note(&lease, &failure);
                                    return Err(self.failed());
                                }
                            }
                        }
                        Err(failure) => failure,
                    };
                    self.note(&lease, &failure);
                }
            }
        }
    }

    /// Counts attempts that end without a result.
    fn abort(&self, attempts: usize) {
        (0..attempts).for_each(|_| self.metrics().connect(ConnectOutcome::Aborted));
    }

    /// Returns a lease of the backend for the next attempt, or `None` if no backend can be picked.
    async fn next_lease(&mut self) -> Option<Lease> {
        if self.routed.plan.pick == PickRule::Named && self.hosts.len() == 0 {
            return None;
        }
        match self.pick().await {
            Ok(lease) => Some(lease),
            Err(reason) => {
                // After a failed attempt, the reason of that attempt is reported, because it has more
                // information.
                if self.tried.is_empty() || reason == CloseReason::ClientGone {
                    self.last = reason;
                }
                None
            }
        }
    }

    /// Picks a backend for the client, if necessary after a wait in the queue.
    async fn pick(&mut self) -> Result<Lease, CloseReason> {
        let RoutedClient { sniffed, plan } = self.routed;
        if self.routed.is_gone(WaitStage::Dial) {
            return Err(CloseReason::ClientGone);
        }
        let pool = &plan.served.pool;
        let authority = sniffed.facts.proxy.as_deref().and_then(|header| pool.authority(header));
        let name = authority.as_ref().or(sniffed.facts.server_name.as_ref());
        if let Some(authority) = &authority {
            self.record.hashed(authority);
        }
        let source = self.record.client().tcp();
        if let PickRule::OfSession { missing } = plan.pick {
            return pool.pick_of_session(source, name).map_err(|_| missing);
        }
        match pool.pick(source, name, &self.tried) {
            Ok(lease) => Ok(lease),
            Err(Unavailable::NoneUp) => Err(CloseReason::NoBackend),
            Err(Unavailable::Full) => self.wait(source, name).await,
        }
    }

    /// Waits in the queue for a backend. The next attempt begins after the wait.
    async fn wait(
        &mut self,
        source: Option<SocketAddr>,
        name: Option<&ServerName>,
    ) -> Result<Lease, CloseReason> {
        let (routed, metrics) = (self.routed, self.metrics());
        let pool = &routed.plan.served.pool;
        if routed.is_gone(WaitStage::Queue) {
            return Err(CloseReason::ClientGone);
        }
        let Ok(waiter) = pool.wait(source, name, &self.tried) else {
            // A pause may have ended since the pick.
            if let Ok(lease) = pool.pick(source, name, &self.tried) {
                return Ok(lease);
            }
            metrics.queue_refused.increment(1);
            return Err(CloseReason::QueueFull);
        };
        metrics.queued.increment(1);
        let began = Instant::now();
        self.record.entry().set_queued(true);
        let ended = self.turn(waiter, began).await;
        self.record.entry().set_queued(false);
        self.attempt_began = Instant::now();
        self.waited += self.attempt_began - began;
        self.queued +=
            self.attempt_began.saturating_duration_since(pool.counts_from(began, self.attempt_began));
        self.record.waited(self.waited);
        match ended.ok_or(CloseReason::ClientGone)? {
            Ok(Ok(lease)) => {
                metrics.queue_seconds.record(self.attempt_began - began);
                Ok(lease)
            }
            Ok(Err(_)) => Err(CloseReason::NoBackend),
            Err(_) => {
                metrics.queue_timeouts.increment(1);
                Err(CloseReason::QueueTimeout)
            }
        }
    }

    /// Waits for the turn of a waiter whose wait began at `began`. Returns `None` if the client has left meanwhile. A
    /// pause of the pool may move the deadline, so the deadline is computed again when it has come.
    async fn turn<T>(&self, waiter: impl Future<Output = T>, began: Instant) -> Option<Result<T, Elapsed>> {
        let (routed, pool) = (self.routed, &self.routed.plan.served.pool);
        let mut waiter = pin!(waiter);
        let mut now = began;
        loop {
            let deadline = pool.wait_deadline(began, self.queued, now);
            // The client is polled first. If the client ends in the same moment in which it gets a slot, the slot goes to
            // the next waiter.
            let ended = tokio::select! {
                biased;
                () = routed.gone(WaitStage::Queue) => return None,
                ended = timeout_at(deadline, waiter.as_mut()) => ended,
            };
            now = Instant::now();
            if ended.is_ok() || pool.wait_deadline(began, self.queued, now) <= now {
                return Some(ended);
            }
        }
    }

    /// Makes one attempt at a backend. Returns `None` if the client has left meanwhile.
    async fn attempt(
        &mut self,
        lease: &Lease,
        preface: &BackendPreface<'_>,
    ) -> Option<Result<ConnectedBackend, AttemptFailure>> {
        let RoutedClient { sniffed, plan } = self.routed;
        let (spec, deadline) = (self.spec(), self.deadline());
        self.record.begin_attempt(lease.backend());
        let host = self.hosts.next().or_else(|| same_port(lease.backend(), sniffed));
        if let Some(host) = host {
            self.record.set_target_address(host);
        }
        let address = host.map_or_else(|| lease.backend().address().clone(), Address::Tcp);
        let target = DialTarget { address: &address, spec, client: self.record.client().tcp() };
        let by = deadline.min(self.attempt_began + spec.connect_timeout);
        // The attempt is polled first: if the backend is connected, the relay passes the client's reset on as a reset.
        tokio::select! {
            biased;
            attempted = ready(target, preface, plan.greeting.as_ref(), by, deadline) => Some(attempted),
            () = self.routed.gone(WaitStage::Dial) => {
                self.metrics().connect(ConnectOutcome::Aborted);
                None
            }
        }
    }

    /// Records a connected backend.
    fn connected(self, lease: Lease, backend: ConnectedBackend) -> ConnectedBackend {
        let DialPlan { served, pick, .. } = &self.routed.plan;
        let now = Instant::now();
        let took = now - self.attempt_began;
        served.metrics.connect(ConnectOutcome::Ok);
        served.metrics.connect_seconds.record(took);
        lease.connected(took);
        if !matches!(pick, PickRule::OfSession { .. })
            && let Some(session) = served.pool.session(self.record.client().tcp(), lease.backend())
        {
            self.record.holds_mut().mark_session(session);
        }
        self.record.connected(lease, (now - self.began).saturating_sub(self.waited), backend.sent);
        backend
    }

    /// Records a failed attempt. The next attempt begins now.
    fn note(&mut self, lease: &Lease, failure: &AttemptFailure) {
        let DialPlan { served, pick, .. } = &self.routed.plan;
        let (pool, backend) = (&served.pool.spec().name, lease.backend().name());
        tracing::debug!(%pool, %backend, outcome = ?failure.outcome, "a connect to a backend failed");
        served.metrics.connect(failure.outcome);
        if let Some(shortage) = failure.shortage {
            self.record.note_saturation(shortage);
        }
        // A failure to reach a host that a client named is no failure of the pool.
        if failure.is_of_backend && *pick != PickRule::Named {
            self.record.not_connected(lease, failure.reason);
        }
        self.last = failure.reason;
        lease.failed(self.attempt_began.elapsed());
        self.attempt_began = Instant::now();
        if *pick != PickRule::Named {
            self.tried.push(Arc::clone(lease.backend()));
        }
    }

    /// Returns true if there is no time for another attempt.
    fn is_over(&self) -> bool {
        self.attempt_began >= self.deadline()
    }

    /// Returns the reason for which no backend is connected.
    fn failed(self) -> CloseReason {
        if self.last == CloseReason::NoBackend {
            self.metrics().no_backend.increment(1);
        }
        self.last
    }
}

/// Returns the address of a backend that is configured without a port. Its port is the port that the client
/// connected to.
fn same_port(backend: &Backend, sniffed: &SniffedClient) -> Option<SocketAddr> {
    let ip = backend.address().tcp().filter(|tcp| tcp.port() == 0)?.ip();
    Some(SocketAddr::new(ip, socket::local_address(&sniffed.client).ok()?.port()))
}
