//! Lets admin connections in and bounds each: how many at once, how many bytes a request may have, how
//! long the request and the answer may take.
//!
//! The bounds are in the socket as the HTTP library sees it: a read or a write after the deadline fails,
//! and the library then gives the connection up. So they hold whatever the client sends or leaves unread. Whoever
//! meets one is counted, and told where there is still something to say.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, Sleep, sleep};

use super::AdminSocket;
use super::refusal::{Refusals, said};
use crate::limit::{Gate, GatePass};
use crate::sys::Address;
use crate::telemetry::AdminRefusal;

/// Admin connections at once; more are closed unanswered. A few scrapers and operators need a handful,
/// and the descriptors that are kept from the connections' limit suffice for these.
pub const MOST_CONNECTIONS: u64 = 64;

/// The time from the accept to the answer's first byte, which the request and the rendering share. It is
/// also the default of Prometheus for a whole scrape.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The time for the whole answer: megabytes over a slow line, but not for ever.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Bytes that are read of a client, the head of its request and what follows. A request here has a few
/// hundred; proxies and browsers add cookies and the like.
const REQUEST_SIZE: usize = 16 * 1024;

/// What is still read of a client whose request is too large, and for how long: closed before it has sent all, it
/// would meet a reset instead of the answer.
const LINGER_SIZE: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The rest after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_secs(1);

/// What one client may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientLimits {
    /// Connections at once.
    pub(super) connections: u64,
    /// From the accept to the answer's first byte.
    pub(super) request_time: Duration,
    /// From there to the answer's end.
    pub(super) answer_time: Duration,
    /// Bytes read.
    pub(super) request_size: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: MOST_CONNECTIONS,
            request_time: REQUEST_TIME,
            answer_time: ANSWER_TIME,
            request_size: REQUEST_SIZE,
        }
    }
}

/// A listening socket, registered with the runtime.
#[derive(Debug)]
enum AcceptSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AcceptSocket {
    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, AdminPeer)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Box::new(stream), AdminPeer::Tcp(peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let known = stream.peer_cred();
                let uid = known.as_ref().ok().map(UCred::uid);
                let pid = known.ok().and_then(|known| known.pid());
                (Box::new(stream), AdminPeer::Unix { uid, pid })
            }
        })
    }
}

/// The other end of an admin connection, as far as the kernel knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdminPeer {
    /// An address.
    Tcp(SocketAddr),
    /// The user and the process that connected to the Unix socket.
    Unix { uid: Option<u32>, pid: Option<i32> },
}

impl fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid, pid } => {
                f.write_str("unix")?;
                uid.map_or(Ok(()), |uid| write!(f, " uid={uid}"))?;
                pid.map_or(Ok(()), |pid| write!(f, " pid={pid}"))
            }
        }
    }
}

/// What bytes come and go on.
trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug> ByteStream for T {}

/// The listening socket of admin.
pub(super) struct AdminAcceptor {
    listener: AcceptSocket,
    address: Address,
    gate: Arc<Gate>,
    limits: ClientLimits,
    refusals: Arc<Refusals>,
    /// So that a lasting lack of descriptors is logged once.
    failing: bool,
}

impl AdminAcceptor {
    /// Registers a non-blocking listening socket with the current runtime.
    pub(super) fn open(
        socket: AdminSocket,
        address: Address,
        limits: ClientLimits,
        refusals: Arc<Refusals>,
    ) -> io::Result<Self> {
        let listener = match socket {
            AdminSocket::Tcp(listener) => AcceptSocket::Tcp(TcpListener::from_std(listener)?),
            AdminSocket::Unix(listener) => AcceptSocket::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Self { listener, address, gate: Gate::new(limits.connections), limits, refusals, failing: false })
    }

    async fn pause(&mut self, error: io::Error) {
        if is_of_the_client(&error) {
            return;
        }
        if !self.failing {
            tracing::warn!(%error, "admin cannot accept; trying on");
        }
        self.failing = true;
        sleep(PAUSE).await;
    }
}

/// Whether the accept failed because the client had left already.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl axum::serve::Listener for AdminAcceptor {
    type Io = AdminConnection;
    type Addr = AdminPeer;

    async fn accept(&mut self) -> (AdminConnection, AdminPeer) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.pause(error).await;
                    continue;
                }
            };
            self.failing = false;
            match self.gate.enter() {
                Some(pass) => {
                    let refusals = Arc::clone(&self.refusals);
                    return (AdminConnection::new(stream, peer, pass, &self.limits, refusals), peer);
                }
                None => self.refusals.note(AdminRefusal::Busy, &peer),
            }
        }
    }

    fn local_addr(&self) -> io::Result<AdminPeer> {
        // The library asks for it in the type of peers; nothing uses it.
        Ok(self.address.tcp().map_or(AdminPeer::Unix { uid: None, pid: None }, AdminPeer::Tcp))
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestStage {
    /// The request comes, or its answer is made, which will then have so long.
    Asking(Duration),
    /// The answer goes out.
    Answering,
    /// It was too large. What was said of it goes out while the rest comes in.
    Refused,
}

/// One admin connection. Its reads and writes fail when its time or its bytes are used up.
pub(super) struct AdminConnection {
    stream: Box<dyn ByteStream>,
    peer: AdminPeer,
    stage: RequestStage,
    /// The end of the stage.
    deadline: Pin<Box<Sleep>>,
    /// Bytes that may still be read; a read that begins within them may pass them by one buffer.
    left: usize,
    /// A part of the answer waits for the client to take what it has.
    is_unread: bool,
    refusals: Arc<Refusals>,
    _pass: GatePass,
}

impl AdminConnection {
    fn new(
        stream: Box<dyn ByteStream>,
        peer: AdminPeer,
        pass: GatePass,
        limits: &ClientLimits,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self {
            stream,
            peer,
            stage: RequestStage::Asking(limits.answer_time),
            deadline: Box::pin(sleep(limits.request_time)),
            left: limits.request_size,
            is_unread: false,
            refusals,
            _pass: pass,
        }
    }

    /// Fails when the time is over; else the task is woken when it is.
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Counts, and says why as far as that can be written at once: nothing else was written before.
    fn refuse(&mut self, refusal: AdminRefusal, cx: &mut Context<'_>) {
        self.refusals.note(refusal, &self.peer);
        let (code, why) = said(refusal);
        let length = why.len();
        let answer = format!(
            "HTTP/1.1 {code}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{why}"
        );
        let _ = Pin::new(&mut *self.stream).poll_write(cx, answer.as_bytes());
        let _ = Pin::new(&mut *self.stream).poll_shutdown(cx);
    }

    /// Reads to the end of what comes, or to the bounds of that, and fails then.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        while self.left > 0 && self.check_time(cx).is_ok() {
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut buffer))?;
            let length = buffer.filled().len();
            self.left = if length == 0 { 0 } else { self.left.saturating_sub(length) };
        }
        Poll::Ready(Err(too_large()))
    }

    /// Whether a part of the answer may be written.
    fn check_answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.stage == RequestStage::Refused {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.answer();
        let checked = self.check_time(cx);
        if checked.is_err() && self.is_unread {
            self.refusals.note(AdminRefusal::Timeout, &self.peer);
        }
        checked
    }

    /// A first byte is to be written: from here the answer's own time counts.
    fn answer(&mut self) {
        if let RequestStage::Asking(answer_time) = self.stage {
            self.stage = RequestStage::Answering;
            self.deadline.as_mut().reset(Instant::now() + answer_time);
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the request is too large")
}

impl AsyncRead for AdminConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stage == RequestStage::Refused {
            return self.poll_rest(cx);
        }
        let is_asking = matches!(self.stage, RequestStage::Asking(_));
        if let Err(error) = self.check_time(cx) {
            if is_asking {
                self.refuse(AdminRefusal::Timeout, cx);
            } else if self.is_unread {
                self.refusals.note(AdminRefusal::Timeout, &self.peer);
            }
            return Poll::Ready(Err(error));
        }
        if self.left == 0 {
            if !is_asking {
                return Poll::Ready(Err(too_large()));
            }
            self.refuse(AdminRefusal::TooLarge, cx);
            self.stage = RequestStage::Refused;
            self.left = LINGER_SIZE;
            self.deadline.as_mut().reset(Instant::now() + LINGER_TIME);
            return self.poll_rest(cx);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_answer(cx)?;
        let written = Pin::new(&mut *self.stream).poll_write(cx, bytes);
        self.is_unread = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_answer(cx)?;
        let written = Pin::new(&mut *self.stream).poll_write_vectored(cx, slices);
        self.is_unread = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream as StdStream};
    use std::thread;

    use axum::Router;
    use axum::routing::get;

    use super::*;
    use crate::telemetry::Metrics;

    /// Long enough for a whole exchange on this host, short enough to wait for.
    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);
    /// More bytes than the buffers of two sockets hold.
    const LARGE: usize = 64 << 20;

    fn limits() -> ClientLimits {
        ClientLimits { request_time: LONG, answer_time: LONG, ..ClientLimits::default() }
    }

    /// Runs a door whose answer at `/` is one line and at `/large` has [`LARGE`] bytes.
    fn open(limits: ClientLimits) -> SocketAddr {
        open_counted(limits).0
    }

    fn open_counted(limits: ClientLimits) -> (SocketAddr, Arc<Metrics>) {
        let metrics = Metrics::new();
        let refusals = Refusals::new(Arc::clone(&metrics));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let large = || async { "x".repeat(LARGE) };
                let router = Router::new().route("/", get("answer\n")).route("/large", get(large));
                let acceptor =
                    AdminAcceptor::open(AdminSocket::Tcp(listener), address.into(), limits, refusals)
                        .unwrap();
                let _ = axum::serve(acceptor, router).await;
            });
        });
        (address, metrics)
    }

    /// What comes after `request` until the connection ends, one way or the other.
    fn answer(stream: &mut StdStream, request: &[u8]) -> String {
        stream.set_read_timeout(Some(LONG)).unwrap();
        // The door may close before it has read all.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("not closed: {error}"),
            _ => String::from_utf8(answer).unwrap(),
        }
    }

    fn refused(metrics: &Metrics, reason: &str) -> u64 {
        let series = format!("pointsman_admin_requests_refused_total{{reason=\"{reason}\"}} ");
        let text = metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    /// What is said to this request, and that it is counted once, for this reason.
    fn check_refused(limits: ClientLimits, request: &[u8], code: &str, reason: &str) {
        let (address, metrics) = open_counted(limits);
        let answer = answer(&mut StdStream::connect(address).unwrap(), request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer:?}");
        assert!(answer.contains("Connection: close\r\n"), "{answer:?}");
        assert_eq!(refused(&metrics, reason), 1, "{reason}");
        let others = ["busy", "too_large", "timeout"].map(|reason| refused(&metrics, reason));
        assert_eq!(others.iter().sum::<u64>(), 1, "{reason}");
    }

    fn check(limits: ClientLimits, request: &[u8], answered: bool) {
        let mut stream = StdStream::connect(open(limits)).unwrap();
        let answer = answer(&mut stream, request);
        assert_eq!(answer.ends_with("answer\n"), answered, "{answer:?}");
    }

    #[test]
    fn a_request_is_answered() {
        check(limits(), b"GET / HTTP/1.0\r\n\r\n", true);
    }

    #[test]
    fn who_says_nothing_or_half_a_request_is_closed() {
        let limits = ClientLimits { request_time: SHORT, ..limits() };
        check(limits, b"", false);
        check(limits, b"GET / HTTP/1.0\r\n", false);
        check(limits, b"GET / HTTP/1.0\r\nA: ", false);
        check_refused(limits, b"", "408", "timeout");
        check_refused(limits, b"GET / HTTP/1.0\r\nA: ", "408", "timeout");
    }

    #[test]
    fn an_answered_connection_does_not_stay_for_ever() {
        check(ClientLimits { answer_time: SHORT, ..limits() }, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true);
    }

    #[test]
    fn a_large_request_is_closed() {
        let mut request = b"GET / HTTP/1.0\r\n".to_vec();
        for n in 0..40 {
            request.extend(format!("Cookie-{n}: {}\r\n", "c".repeat(1024)).into_bytes());
        }
        request.extend(b"\r\n");
        check(limits(), &request, false);
        check_refused(limits(), &request, "431", "too_large");
        check(ClientLimits { request_size: 1 << 20, ..limits() }, &request, true);
    }

    #[test]
    fn who_does_not_read_is_closed() {
        let limits = ClientLimits { connections: 1, answer_time: SHORT, ..limits() };
        let (address, metrics) = open_counted(limits);
        let mut deaf = StdStream::connect(address).unwrap();
        deaf.write_all(b"GET /large HTTP/1.0\r\n\r\n").unwrap();
        // The one place is free again once it was closed, with most of its answer unsent.
        while answer(&mut StdStream::connect(address).unwrap(), b"GET / HTTP/1.0\r\n\r\n").is_empty() {}
        let length = answer(&mut deaf, b"").len();
        assert!(length < LARGE, "{length} bytes came");
        assert_eq!(refused(&metrics, "timeout"), 1);
    }

    #[test]
    fn no_more_than_the_limit_are_let_in() {
        let (address, metrics) = open_counted(ClientLimits { connections: 2, ..limits() });
        let silent = [StdStream::connect(address).unwrap(), StdStream::connect(address).unwrap()];
        assert_eq!(answer(&mut StdStream::connect(address).unwrap(), b""), "");
        assert_eq!(refused(&metrics, "busy"), 1);
        for stream in &silent {
            stream.shutdown(Shutdown::Both).unwrap();
        }
        while answer(&mut StdStream::connect(address).unwrap(), b"GET / HTTP/1.0\r\n\r\n").is_empty() {}
    }
}
