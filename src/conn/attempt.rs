//! One attempt to connect to a backend, and the meaning of its failure.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use super::announce::BackendPreface;
use super::greet::{self, NotReady};
use super::sniffed::SniffedClient;
use crate::executor::{sleep, timeout_at};
use crate::pool::{DialSource, DialSpec};
use crate::relay::{Engines, NodelayDue, Relay, RelayParts, RelaySettings};
use crate::snapshot::opening_policy::GreetingPolicy;
use crate::sys::fault::is_out_of_resources;
use crate::sys::socket::{self, ConnectOptions, ConnectSource, FirstSpeaker};
use crate::sys::{Address, Stream, self_connect};
use crate::telemetry::{CloseReason, ConnectOutcome, Saturation};
use crate::wire::opening::OpeningFault;

/// A connected backend.
pub(super) struct ConnectedBackend {
    pub(super) backend: Stream,
    pub(super) sent: usize,
    /// The write before which its socket gets TCP_NODELAY.
    nodelay: NodelayDue,
}

impl ConnectedBackend {
    /// Returns the relay between the client and this backend, which begins with the bytes that are not yet sent.
    pub(super) fn relay(
        self,
        sniffed: SniffedClient,
        settings: RelaySettings,
        engines: Rc<Engines>,
    ) -> Relay {
        let SniffedClient { client, mut bytes, .. } = sniffed;
        bytes.drain(..self.sent);
        Relay::new(RelayParts::new(client, self.backend, bytes, self.nodelay), settings, engines)
    }
}

/// Makes one attempt at one backend. It must be connected by `by`, and ready for the first bytes by `deadline`.
pub(super) async fn ready(
    target: DialTarget<'_>,
    preface: &BackendPreface<'_>,
    greeting: Option<&GreetingPolicy>,
    by: Instant,
    deadline: Instant,
) -> Result<ConnectedBackend, AttemptFailure> {
    let connect = async |preface: &BackendPreface<'_>| {
        let is_busy = Cell::new(false);
        match timeout_at(by, attempt(target, preface, &is_busy)).await {
            Ok(attempted) => attempted.map_err(|error| AttemptFailure::of(&error)),
            Err(_) if is_busy.get() => Err(AttemptFailure::BUSY),
            Err(_) => Err(AttemptFailure::TIMEOUT),
        }
    };
    let Some(greeting) = greeting else { return connect(preface).await };
    let (own, clients) = preface.split();
    let ConnectedBackend { backend, .. } = connect(&own).await?;
    let deadline = deadline.min(Instant::now() + greeting.timeout);
    match timeout_at(deadline, Box::pin(greet::greet(&backend, greeting))).await {
        Ok(Ok(())) => {}
        Ok(Err(not_ready)) => return Err(AttemptFailure::greeting(&not_ready)),
        Err(_) => return Err(AttemptFailure::GREETING_TIMEOUT),
    }
    // The send buffer is empty, so this does not wait. A failure here comes before the backend has the hello.
    let sent = backend.send(clients).await.map_err(|error| AttemptFailure::greeting(&error.into()))?;
    Ok(ConnectedBackend { backend, sent, nodelay: NodelayDue::NextWrite })
}

/// Sends the first bytes to a backend that was connected without them.
pub(super) async fn send_first(
    connected: ConnectedBackend,
    preface: &BackendPreface<'_>,
) -> Result<ConnectedBackend, AttemptFailure> {
    let first = &*preface.bytes;
    if first.is_empty() {
        return Ok(connected);
    }
    let backend = connected.backend;
    let mut sent = 0;
    // The send buffer is empty, so this does not wait. The relay sends only bytes of the client, so the other bytes of the
    // preface must all be sent here.
    while sent == 0 || sent < preface.own {
        sent += backend.send(&first[sent..]).await.map_err(|error| AttemptFailure::of(&error))?;
    }
    Ok(ConnectedBackend { backend, sent: sent - preface.own, nodelay: NodelayDue::NextWrite })
}

/// The target of a dial: the address of the backend, the options, and the address of the client. If the pool
/// has `source = "client"`, the client's address is the source address.
#[derive(Clone, Copy)]
pub(super) struct DialTarget<'a> {
    pub(super) address: &'a Address,
    pub(super) spec: &'a DialSpec,
    pub(super) client: Option<SocketAddr>,
}

/// Makes one attempt to connect. `is_busy` is true while the accept queue of the backend's Unix socket is full.
async fn attempt(
    target: DialTarget<'_>,
    preface: &BackendPreface<'_>,
    is_busy: &Cell<bool>,
) -> io::Result<ConnectedBackend> {
    let DialTarget { address, spec, client } = target;
    let options = ConnectOptions { source: source(spec.source, client, address)?, buffers: spec.buffers };
    let first = &*preface.bytes;
    if first.is_empty() {
        let fd = start(address, options, FirstSpeaker::Unknown, is_busy).await?;
        let backend = Stream::register_connecting(fd)?;
        backend.connected().await?;
        self_connect::refuse(&backend, address, options.source)?;
        return Ok(ConnectedBackend { backend, sent: 0, nodelay: NodelayDue::SecondWrite });
    }
    let fd = start(address, options, FirstSpeaker::Ours, is_busy).await?;
    // On a near network the connection exists by now. If it does not exist yet, the kernel returns EAGAIN, and
    // the bytes are sent again when the socket is writable. That write reports whether the connect succeeded.
    let (backend, mut sent) = match socket::send(&fd, first) {
        Ok(sent) => (Stream::register(fd)?, sent),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let backend = Stream::register_connecting(fd)?;
            let sent = backend.send(first).await?;
            (backend, sent)
        }
        Err(error) => return Err(error),
    };
    self_connect::refuse(&backend, address, options.source)?;
    // The relay sends only bytes of the client, so the other bytes of the preface are sent here.
    while sent < preface.own {
        sent += backend.send(&first[sent..preface.own]).await?;
    }
    Ok(ConnectedBackend { backend, sent: sent - preface.own, nodelay: NodelayDue::NextWrite })
}

/// Starts a connect. While the accept queue of a Unix socket is full, it starts the connect again.
///
/// For TCP the kernel repeats the SYN itself. For a non-blocking Unix socket connect(2) returns EAGAIN at once.
async fn start(
    address: &Address,
    options: ConnectOptions,
    first: FirstSpeaker,
    is_busy: &Cell<bool>,
) -> io::Result<OwnedFd> {
    let mut pauses = socket::busy_pauses();
    loop {
        match socket::start_connect(address, options, first).await {
            Err(error) if socket::is_busy(&error, address) => {
                is_busy.set(true);
                sleep(pauses.next().unwrap_or_default()).await;
            }
            result => {
                is_busy.set(false);
                return result;
            }
        }
    }
}

/// Returns the source address of a connection to that backend.
fn source(kind: DialSource, client: Option<SocketAddr>, backend: &Address) -> io::Result<ConnectSource> {
    match (kind, client, backend) {
        (DialSource::Any, ..) => Ok(ConnectSource::Any),
        (DialSource::Address(ip), ..) => Ok(ConnectSource::Own(ip)),
        (DialSource::Client, Some(client), Address::Tcp(_) | Address::Scoped(_)) => {
            Ok(ConnectSource::Foreign(client.ip()))
        }
        // The connect must not use an address of this host instead: the backend may trust such an address more
        // than the client's address.
        (DialSource::Client, ..) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The meaning of a failed attempt.
pub(super) struct AttemptFailure {
    pub(super) outcome: ConnectOutcome,
    pub(super) reason: CloseReason,
    /// True if the failure counts against the backend.
    pub(super) is_of_backend: bool,
    /// The resource of this host that is used up.
    pub(super) shortage: Option<Saturation>,
}

impl AttemptFailure {
    const TIMEOUT: Self = Self::of_backend(ConnectOutcome::Timeout, CloseReason::ConnectTimeout);

    /// The accept queue of a Unix socket stayed full: the backend is busy, not down.
    const BUSY: Self = Self { is_of_backend: false, ..Self::TIMEOUT };

    const GREETING_TIMEOUT: Self = Self::of_backend(ConnectOutcome::Greeting, CloseReason::GreetingTimeout);

    const fn of_backend(outcome: ConnectOutcome, reason: CloseReason) -> Self {
        Self { outcome, reason, is_of_backend: true, shortage: None }
    }

    /// A failure on this side of the connection.
    const fn local(reason: CloseReason) -> Self {
        Self { outcome: ConnectOutcome::Local, reason, is_of_backend: false, shortage: None }
    }

    const fn out_of(shortage: Saturation) -> Self {
        Self { shortage: Some(shortage), ..Self::local(CloseReason::OutOfResources) }
    }

    fn greeting(not_ready: &NotReady) -> Self {
        let reason = match not_ready {
            NotReady::Fault(OpeningFault::Refused) => CloseReason::BackendRefusedTls,
            NotReady::Fault(_) | NotReady::Io(_) => CloseReason::GreetingFailed,
        };
        tracing::debug!(error = %not_ready, "a backend did not open TLS");
        Self::of_backend(ConnectOutcome::Greeting, reason)
    }

    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let failed = |outcome| Self::of_backend(outcome, CloseReason::ConnectFailed);
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset | Kind::BrokenPipe => {
                Self::of_backend(ConnectOutcome::Refused, CloseReason::ConnectRefused)
            }
            Kind::TimedOut => Self::TIMEOUT,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::NotFound => {
                failed(ConnectOutcome::Unreachable)
            }
            Kind::AddrNotAvailable if socket::is_source_missing(error) => {
                Self::out_of(Saturation::SourceAddress)
            }
            // No free port. EAGAIN from a TCP connect means a full routing table.
            Kind::AddrNotAvailable | Kind::WouldBlock => Self::out_of(Saturation::Ports),
            _ if is_out_of_resources(error) => Self::out_of(Saturation::DialDescriptors),
            // The pool has `source = "client"`, and the client has no address of the backend's family.
            Kind::Unsupported => Self::local(CloseReason::ConnectFailed),
            _ => failed(ConnectOutcome::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use io::ErrorKind as Kind;

    use super::*;

    fn check(error: impl Into<io::Error>, outcome: ConnectOutcome, reason: CloseReason) {
        let error = error.into();
        let failure = AttemptFailure::of(&error);
        assert_eq!((failure.outcome, failure.reason), (outcome, reason), "{error}");
        assert_eq!(failure.is_of_backend, outcome != ConnectOutcome::Local, "{error}");
    }

    /// A discovered backend may be a Unix socket too. A connect to it has no source address of a client.
    #[test]
    fn a_dial_with_the_address_of_the_client_never_uses_an_own_one() {
        let check = |client: &str, backend: &str, expected: Result<ConnectSource, Kind>| {
            let client = client.parse::<Address>().unwrap().tcp();
            let found = source(DialSource::Client, client, &backend.parse().unwrap());
            assert_eq!(found.map_err(|error| error.kind()), expected, "{backend}");
        };
        check("192.0.2.7:1", "10.0.0.1:1", Ok(ConnectSource::Foreign("192.0.2.7".parse().unwrap())));
        check("192.0.2.7:1", "unix:/run/a", Err(Kind::Unsupported));
        check("unix:/run/b", "10.0.0.1:1", Err(Kind::Unsupported));
        check("unix:/run/b", "unix:/run/a", Err(Kind::Unsupported));
        let own = source(DialSource::Any, None, &"unix:/run/a".parse().unwrap());
        assert_eq!(own.unwrap(), ConnectSource::Any);
    }

    fn check_shortage(errno: i32) {
        check(io::Error::from_raw_os_error(errno), ConnectOutcome::Local, CloseReason::OutOfResources);
    }

    #[test]
    fn failures_have_their_reasons() {
        check(Kind::ConnectionRefused, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::ConnectionReset, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::BrokenPipe, ConnectOutcome::Refused, CloseReason::ConnectRefused);
        check(Kind::TimedOut, ConnectOutcome::Timeout, CloseReason::ConnectTimeout);
        check(Kind::HostUnreachable, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        check(Kind::NetworkUnreachable, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        check(Kind::Unsupported, ConnectOutcome::Local, CloseReason::ConnectFailed);
        check(Kind::NetworkDown, ConnectOutcome::Unreachable, CloseReason::ConnectFailed);
        // A rule of this host's firewall forbids the connect.
        check(Kind::PermissionDenied, ConnectOutcome::Other, CloseReason::ConnectFailed);
    }

    #[test]
    fn a_shortage_of_this_host_is_not_the_backends() {
        check_shortage(99 /* EADDRNOTAVAIL: every local port to this backend is taken */);
        check_shortage(24 /* EMFILE */);
        check_shortage(23 /* ENFILE */);
        check_shortage(12 /* ENOMEM */);
        check_shortage(105 /* ENOBUFS */);
        check_shortage(28 /* ENOSPC: fs.epoll.max_user_watches */);
        check_shortage(11 /* EAGAIN */);
    }
}
