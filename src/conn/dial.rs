//! Picks a backend and connects; on failure another one, until the attempts or the time are used up.
//!
//! The client's first bytes are sent with the connect. Only before the connection is made is another
//! backend tried: what a backend has received must not go to a second one.
//!
//! Where every backend is full the connection waits in the pool's queue, if it has one. That time has a bound of
//! its own and is not counted against the deadline of the dial.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::announce::Prologue;
use super::front::{self, NotReady, Wish};
use super::sniff::Sniffed;
use super::story::Story;
use crate::executor::timeout_at;
use crate::pool::{Backend, DialSource, DialSpec, Forward, ForwardFault, Lease, Unavailable};
use crate::relay::{Engines, Parts, Relay, RelaySettings, Stage};
use crate::snapshot::Served;
use crate::snapshot::front::Greet;
use crate::sys::fault::is_out_of_resources;
use crate::sys::socket::{self, ConnectOptions, First, Source};
use crate::sys::{Address, Stream};
use crate::telemetry::{CloseReason, ConnectOutcome};
use crate::wire::opening::Fault;

/// A connected backend, and how many of the client's first bytes it has.
pub(super) struct Dialled {
    backend: Stream,
    sent: usize,
    /// Whether it was written to.
    is_told: bool,
}

impl Dialled {
    /// The relay between the client and this backend, beginning with what is not yet sent.
    pub(super) fn relay(self, sniffed: Sniffed, settings: RelaySettings, engines: Rc<Engines>) -> Relay {
        let Sniffed { client, mut bytes, .. } = sniffed;
        bytes.drain(..self.sent);
        if bytes.is_empty() {
            return Relay::new(client, self.backend, self.is_told, settings, engines);
        }
        let parts = Parts {
            client,
            backend: self.backend,
            from_client: (bytes, Stage::Open),
            from_backend: (Vec::new(), Stage::Open),
        };
        Relay::resume(parts, settings, engines)
    }
}

/// Connects a client to a backend of its pool.
pub(super) async fn dial(
    served: &Served,
    sniffed: &Sniffed,
    story: &mut Story,
) -> Result<Dialled, CloseReason> {
    let spec = &served.pool.spec().dial;
    story.asked(&served.pool.spec().name);
    let prologue = Prologue::new(served.pool.spec().proxy_protocol.as_ref(), sniffed, story);
    let began = Instant::now();
    let mut named = match served.pool.forward() {
        // Boxed, as hardly any connection needs the room.
        Some(forward) => {
            Some(Box::pin(hosts(forward, began + spec.dial_timeout, sniffed, story)).await?.into_iter())
        }
        None => None,
    };
    let mut waited = Duration::ZERO;
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut last = CloseReason::NoBackend;
    let mut attempt_began = if named.is_some() { Instant::now() } else { began };
    // A request to cancel has a secret of one backend: another one has no use for it.
    let attempts = if matches!(sniffed.wish, Wish::Cancel) { 1 } else { spec.attempts };
    for _ in 0..attempts {
        let host = match named.as_mut().map(Iterator::next) {
            None => None,
            Some(Some(address)) => Some(address),
            Some(None) => break,
        };
        let waited_before = waited;
        let lease = match find(served, sniffed, story, &tried, &mut waited).await {
            Ok(lease) => lease,
            // Behind failed attempts, the last of them says more.
            Err(reason) if tried.is_empty() || reason == CloseReason::ClientGone => {
                last = reason;
                break;
            }
            Err(_) => break,
        };
        if waited > waited_before {
            attempt_began = Instant::now();
        }
        let deadline = began + waited + spec.dial_timeout;
        story.attempts(lease.backend());
        let by = deadline.min(attempt_began + spec.connect_timeout);
        if let Some(host) = host {
            story.dials(host);
        }
        let address = host.map_or_else(|| lease.backend().address().clone(), Address::Tcp);
        let way = Way { address: &address, spec, client: story.client().tcp() };
        let attempt = tokio::select! {
            biased;
            attempt = ready(way, &prologue, sniffed.greet.as_ref(), by, deadline) => attempt,
            () = sniffed.client.failed() => {
                served.metrics.connect(ConnectOutcome::Aborted);
                return Err(CloseReason::ClientGone);
            }
        };
        let failure = match attempt {
            Ok(dialled) => {
                served.metrics.connect(ConnectOutcome::Ok);
                let now = Instant::now();
                served.metrics.connect_seconds.record(now - attempt_began);
                lease.connected(now - attempt_began);
                if !matches!(sniffed.wish, Wish::Cancel)
                    && let Some(stay) = served.pool.stay(story.client().tcp(), lease.backend())
                {
                    story.stays(stay);
                }
                story.connected(lease, (now - began).saturating_sub(waited), dialled.sent);
                return Ok(dialled);
            }
            Err(failure) => failure,
        };
        tracing::debug!(pool = %served.pool.spec().name, backend = %lease.backend().name(), outcome = ?failure.outcome, "a backend could not be connected");
        served.metrics.connect(failure.outcome);
        // That a host which a client names cannot be reached says nothing of the pool.
        if failure.outcome != ConnectOutcome::Local && named.is_none() {
            story.not_connected(&lease);
        }
        last = failure.reason;
        lease.failed(attempt_began.elapsed());
        attempt_began = Instant::now();
        if attempt_began >= deadline {
            break;
        }
        if named.is_none() {
            tried.push(Arc::clone(lease.backend()));
        }
    }
    if last == CloseReason::NoBackend {
        served.metrics.no_backend.increment(1);
    }
    Err(last)
}

/// Where the name that the client asks for leads, found by `deadline`.
async fn hosts(
    forward: &Forward,
    deadline: Instant,
    sniffed: &Sniffed,
    story: &mut Story,
) -> Result<Vec<SocketAddr>, CloseReason> {
    let name = sniffed.facts.server_name.as_ref().ok_or(CloseReason::NameNotAllowed)?;
    let Some(mark) = forward.mark(&sniffed.bytes) else {
        tracing::debug!(client = %story.client(), "a forwarded connection has come back: its name leads to this process");
        return Err(CloseReason::ForwardLoop);
    };
    story.keep(mark);
    let own = story.around().bounds.own.load_full();
    let found = tokio::select! {
        biased;
        found = timeout_at(deadline, forward.destinations(name, &own)) => found,
        () = sniffed.client.failed() => return Err(CloseReason::ClientGone),
    };
    found.map_err(|_| CloseReason::NameNotResolved)?.map_err(|fault| {
        tracing::debug!(client = %story.client(), %fault, "a client is not forwarded");
        match fault {
            ForwardFault::NotAllowed => CloseReason::NameNotAllowed,
            ForwardFault::NotResolved(_) => CloseReason::NameNotResolved,
            ForwardFault::Refused => CloseReason::AddressRefused,
        }
    })
}

/// A backend for the client, if need be after a wait, which is added to `waited`.
async fn find(
    served: &Served,
    sniffed: &Sniffed,
    story: &mut Story,
    tried: &[Arc<Backend>],
    waited: &mut Duration,
) -> Result<Lease, CloseReason> {
    let Served { pool, metrics, .. } = served;
    let authority = sniffed.facts.proxy.as_deref().and_then(|header| pool.authority(header));
    let name = authority.as_ref().or(sniffed.facts.server_name.as_ref());
    let source = story.client().tcp();
    if matches!(sniffed.wish, Wish::Cancel) {
        return pool.pick_for_cancel(source, name).map_err(|_| CloseReason::CancelRefused);
    }
    match pool.pick(source, name, tried) {
        Ok(lease) => return Ok(lease),
        Err(Unavailable::Nobody) => return Err(CloseReason::NoBackend),
        Err(Unavailable::Full) => {}
    }
    let Ok(turn) = pool.wait(source, name, tried) else {
        metrics.queue_refused.increment(1);
        return Err(CloseReason::QueueFull);
    };
    metrics.queued.increment(1);
    let began = Instant::now();
    let timeout = pool.spec().queue.map_or(Duration::ZERO, |queue| queue.timeout);
    let ended = tokio::select! {
        biased;
        ended = timeout_at(began + timeout.saturating_sub(*waited), turn) => ended,
        () = sniffed.client.failed() => return Err(CloseReason::ClientGone),
    };
    *waited += began.elapsed();
    story.waited(*waited);
    match ended {
        Ok(Ok(lease)) => {
            metrics.queue_seconds.record(began.elapsed());
            Ok(lease)
        }
        Ok(Err(_)) => Err(CloseReason::NoBackend),
        Err(_) => {
            metrics.queue_timeouts.increment(1);
            Err(CloseReason::QueueTimeout)
        }
    }
}

/// One attempt at one backend: connected by `by`, and ready for the first bytes by `deadline`.
async fn ready(
    way: Way<'_>,
    prologue: &Prologue<'_>,
    greet: Option<&Greet>,
    by: Instant,
    deadline: Instant,
) -> Result<Dialled, Failure> {
    let connect = async |prologue: &Prologue<'_>| match timeout_at(by, attempt(way, prologue)).await {
        Ok(attempted) => attempted.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::TIMEOUT),
    };
    let Some(greet) = greet else { return connect(prologue).await };
    let (own, clients) = prologue.split();
    let Dialled { backend, .. } = connect(&own).await?;
    let deadline = deadline.min(Instant::now() + greet.timeout);
    match timeout_at(deadline, Box::pin(front::greet(&backend, greet))).await {
        Ok(Ok(())) => {}
        Ok(Err(not_ready)) => return Err(Failure::greeting(&not_ready)),
        Err(_) => return Err(Failure::GREETING_TIMEOUT),
    }
    // Its buffer is empty, so this does not wait; what breaks now breaks before it has the hello.
    let sent = backend.send(clients).await.map_err(|error| Failure::greeting(&error.into()))?;
    Ok(Dialled { backend, sent, is_told: true })
}

/// How a backend is dialled.
#[derive(Clone, Copy)]
struct Way<'a> {
    address: &'a Address,
    spec: &'a DialSpec,
    client: Option<SocketAddr>,
}

/// One attempt at one backend.
async fn attempt(way: Way<'_>, prologue: &Prologue<'_>) -> io::Result<Dialled> {
    let Way { address, spec, client } = way;
    let options = ConnectOptions { source: source(spec.source, client, address)?, buffers: spec.buffers };
    let first = &*prologue.bytes;
    if first.is_empty() {
        let fd = socket::start_connect(address, options, First::Unknown)?;
        let backend = Stream::register_connecting(fd)?;
        backend.connected().await?;
        return Ok(Dialled { backend, sent: 0, is_told: false });
    }
    let fd = socket::start_connect(address, options, First::Ours)?;
    // On a near network the connection is made by now. If not, the kernel says so and is asked again
    // when the socket is writable; the write tells then whether it worked.
    let (backend, mut sent) = match socket::send(&fd, first) {
        Ok(sent) => (Stream::register(fd)?, sent),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let backend = Stream::register_connecting(fd)?;
            let sent = backend.send(first).await?;
            (backend, sent)
        }
        Err(error) => return Err(error),
    };
    // What is not the client's is no business of the relay.
    while sent < prologue.own {
        sent += backend.send(&first[sent..prologue.own]).await?;
    }
    Ok(Dialled { backend, sent: sent - prologue.own, is_told: true })
}

/// Where a connection to that backend comes from.
fn source(wanted: DialSource, client: Option<SocketAddr>, backend: &Address) -> io::Result<Source> {
    match (wanted, client, backend) {
        (DialSource::Any, ..) => Ok(Source::Any),
        (DialSource::Address(ip), ..) => Ok(Source::Own(ip)),
        (DialSource::Client, Some(client), Address::Tcp(_)) => Ok(Source::Foreign(client.ip())),
        // Never as ourselves instead: the backend may trust us more than its clients.
        (DialSource::Client, ..) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// What a failed attempt means.
struct Failure {
    outcome: ConnectOutcome,
    reason: CloseReason,
}

impl Failure {
    const TIMEOUT: Self = Self { outcome: ConnectOutcome::Timeout, reason: CloseReason::ConnectTimeout };

    const GREETING_TIMEOUT: Self =
        Self { outcome: ConnectOutcome::Greeting, reason: CloseReason::GreetingTimeout };

    fn greeting(not_ready: &NotReady) -> Self {
        let reason = match not_ready {
            NotReady::Fault(Fault::Refused) => CloseReason::BackendRefusedTls,
            NotReady::Fault(_) | NotReady::Io(_) => CloseReason::GreetingFailed,
        };
        tracing::debug!(error = %not_ready, "a backend did not open TLS");
        Self { outcome: ConnectOutcome::Greeting, reason }
    }

    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset | Kind::BrokenPipe => {
                Self { outcome: ConnectOutcome::Refused, reason: CloseReason::ConnectRefused }
            }
            Kind::TimedOut => Self::TIMEOUT,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::NotFound => {
                Self::other(ConnectOutcome::Unreachable)
            }
            // Out of free ports, descriptors or memory: no backend's fault.
            Kind::AddrNotAvailable => Self::other(ConnectOutcome::Local),
            _ if is_out_of_resources(error) => Self::other(ConnectOutcome::Local),
            _ => Self::other(ConnectOutcome::Other),
        }
    }

    fn other(outcome: ConnectOutcome) -> Self {
        Self { outcome, reason: CloseReason::ConnectFailed }
    }
}

#[cfg(test)]
mod tests {
    use io::ErrorKind as Kind;

    use super::*;

    fn check(error: impl Into<io::Error>, outcome: ConnectOutcome, reason: CloseReason) {
        let error = error.into();
        let failure = Failure::of(&error);
        assert_eq!((failure.outcome, failure.reason), (outcome, reason), "{error}");
    }

    /// What is discovered may be a Unix socket too, to which we could only come as ourselves.
    #[test]
    fn who_should_come_as_the_client_never_comes_as_us() {
        let check = |client: &str, backend: &str, expected: Result<Source, Kind>| {
            let client = client.parse::<Address>().unwrap().tcp();
            let found = source(DialSource::Client, client, &backend.parse().unwrap());
            assert_eq!(found.map_err(|error| error.kind()), expected, "{backend}");
        };
        check("192.0.2.7:1", "10.0.0.1:1", Ok(Source::Foreign("192.0.2.7".parse().unwrap())));
        check("192.0.2.7:1", "unix:/run/a", Err(Kind::AddrNotAvailable));
        check("unix:/run/b", "10.0.0.1:1", Err(Kind::AddrNotAvailable));
        check("unix:/run/b", "unix:/run/a", Err(Kind::AddrNotAvailable));
        let own = source(DialSource::Any, None, &"unix:/run/a".parse().unwrap());
        assert_eq!(own.unwrap(), Source::Any);
    }

    fn check_number(errno: i32, outcome: ConnectOutcome) {
        check(io::Error::from_raw_os_error(errno), outcome, CloseReason::ConnectFailed);
    }

    #[test]
    fn failures_have_their_words() {
        check(Kind::ConnectionRefused, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::ConnectionReset, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::BrokenPipe, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::TimedOut, ConnectOutcome::Timeout, CloseReason::ConnectTimeout);
        check(Kind::HostUnreachable, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        check(Kind::NetworkUnreachable, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        // Every local port to this backend is taken.
        check(Kind::AddrNotAvailable, ConnectOutcome::Local, CloseReason::ConnectFailed);
        check_number(24 /* EMFILE */, ConnectOutcome::Local);
        check_number(12 /* ENOMEM */, ConnectOutcome::Local);
        check(Kind::NetworkDown, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        // A rule of this host's firewall forbids it.
        check(Kind::PermissionDenied, ConnectOutcome::Other, CloseReason::ConnectFailed);
    }
}
