//! Accepts admin connections. Bounds the number of connections, the bytes of a request, and the time for the
//! request and for the answer.
//!
//! The bounds are in the socket that the HTTP library uses. A read or a write after the deadline fails, and the
//! library then closes the connection. So the bounds hold for any bytes that the client sends or leaves unread.
//! Each refusal is counted, and answered if an answer is still possible.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::refusal::{Refusals, answer_to};
use crate::limit::{Gate, GatePass};
use crate::server::AdminStage;
use crate::sys::ControlListening;
use crate::sys::listen::Accepted;
use crate::telemetry::AdminRefusal;

/// The most admin connections at once. Further connections are closed without an answer. Scrapers and operators need
/// few connections. The descriptors that clients leave free are enough for them.
pub const MOST_CONNECTIONS: u64 = 64;

/// The time from the accept to the first byte of the answer, for the request and the rendering together. It
/// is also the default of Prometheus for a whole scrape.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The time for the whole answer, enough for megabytes over a slow line.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// The most bytes that are read of a client: the head of its request and anything after it. A request to this
/// listener has a few hundred bytes; proxies and browsers add cookies and other headers.
const REQUEST_SIZE: usize = 16 * 1024;

/// The bytes that are still read of a client whose request is too large, and the time for these reads. If the socket
/// were closed before the client has sent everything, the client would get a reset instead of the answer.
const LINGER_SIZE: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The pause after an accept that failed for lack of descriptors or memory.
const PAUSE: Duration = Duration::from_secs(1);

/// The limits of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientLimits {
    /// Connections at once.
    pub(super) connections: u64,
    /// The time from the accept to the first byte of the answer.
    pub(super) request_time: Duration,
    /// The time from the first byte of the answer to its end.
    pub(super) answer_time: Duration,
    /// The most bytes that are read.
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

/// Turns an accepted connection into a stream of the current runtime.
fn stream_of(accepted: Accepted) -> io::Result<(Box<dyn ByteStream>, AdminPeer)> {
    let Some(peer) = accepted.peer.tcp() else {
        let stream = UnixStream::from_std(accepted.socket.into())?;
        let credentials = stream.peer_cred();
        let uid = credentials.as_ref().ok().map(UCred::uid);
        let pid = credentials.ok().and_then(|credentials| credentials.pid());
        return Ok((Box::new(stream), AdminPeer::Unix { uid, pid }));
    };
    let stream = TcpStream::from_std(accepted.socket.into())?;
    Ok((Box::new(stream), AdminPeer::Tcp(peer)))
}

/// The other end of an admin connection, as the kernel reports it.
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

/// The byte stream of a connection.
trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug> ByteStream for T {}

/// The listening socket of admin.
pub(super) struct AdminAcceptor {
    listener: ControlListening,
    stage: watch::Receiver<AdminStage>,
    gate: Arc<Gate>,
    limits: ClientLimits,
    refusals: Arc<Refusals>,
    /// True after a failed accept, so that a lasting lack of descriptors is logged once.
    failing: bool,
}

impl AdminAcceptor {
    /// Registers a non-blocking listening socket with the current runtime.
    pub(super) fn open(
        socket: Arc<OwnedFd>,
        stage: watch::Receiver<AdminStage>,
        limits: ClientLimits,
        refusals: Arc<Refusals>,
    ) -> io::Result<Self> {
        let listener = ControlListening::register(socket)?;
        Ok(Self { listener, stage, gate: Gate::new(limits.connections), limits, refusals, failing: false })
    }

    /// Accepts a connection in the stage [`AdminStage::Accepting`], and waits in any other stage.
    async fn accept_in_stage(&mut self) -> io::Result<(Box<dyn ByteStream>, AdminPeer)> {
        loop {
            // An error means that the server is gone; the wait below finds that too.
            let _ = self.stage.wait_for(|stage| *stage == AdminStage::Accepting).await;
            tokio::select! {
                biased;
                changed = self.stage.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                accepted = self.listener.accept() => return stream_of(accepted?),
            }
        }
    }

    async fn pause(&mut self, error: io::Error) {
        if is_of_the_client(&error) {
            return;
        }
        if !self.failing {
            tracing::warn!(%error, "admin cannot accept connections; it retries each second");
        }
        self.failing = true;
        sleep(PAUSE).await;
    }
}

/// Returns true if the accept failed because the client had already closed the connection.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl axum::serve::Listener for AdminAcceptor {
    type Io = AdminConnection;
    type Addr = AdminPeer;

    async fn accept(&mut self) -> (AdminConnection, AdminPeer) {
        loop {
            let (stream, peer) = match self.accept_in_stage().await {
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
        // The library requires this function with the type of a peer; nothing uses it.
        Ok(AdminPeer::Unix { uid: None, pid: None })
    }
}

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestStage {
    /// The request is read, or its answer is made. The value is the time for the answer, which begins later.
    Reading(Duration),
    /// The answer is written.
    Answering,
    /// The request was too large. The refusal is sent while the rest of the request is read.
    Refused,
}

/// One admin connection. Its reads and writes fail when its time or its bytes are used up.
pub(super) struct AdminConnection {
    stream: Box<dyn ByteStream>,
    peer: AdminPeer,
    stage: RequestStage,
    /// The timer for the end of the stage.
    deadline: Pin<Box<Sleep>>,
    /// Bytes that may still be read. The last read may exceed them by one buffer.
    left: usize,
    /// True while a part of the answer waits until the client reads.
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
            stage: RequestStage::Reading(limits.answer_time),
            deadline: Box::pin(sleep(limits.request_time)),
            left: limits.request_size,
            is_unread: false,
            refusals,
            _pass: pass,
        }
    }

    /// Returns an error if the time is over. Otherwise the task is woken when the time is over.
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Counts a refusal, and writes as much of its reason as fits at once. No bytes were written before.
    fn refuse(&mut self, refusal: AdminRefusal, cx: &mut Context<'_>) {
        self.refusals.note(refusal, &self.peer);
        let (code, why) = answer_to(refusal);
        let length = why.len();
        let answer = format!(
            "HTTP/1.1 {code}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{why}"
        );
        let _ = Pin::new(&mut *self.stream).poll_write(cx, answer.as_bytes());
        let _ = Pin::new(&mut *self.stream).poll_shutdown(cx);
    }

    /// Reads to the end of the request, or until the time or the bytes are used up. Then it fails.
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

    /// Returns an error if no part of the answer may be written.
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

    /// Starts the answer's own time, before its first byte.
    fn answer(&mut self) {
        if let RequestStage::Reading(answer_time) = self.stage {
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
        let is_reading = matches!(self.stage, RequestStage::Reading(_));
        if let Err(error) = self.check_time(cx) {
            if is_reading {
                self.refuse(AdminRefusal::Timeout, cx);
            } else if self.is_unread {
                self.refusals.note(AdminRefusal::Timeout, &self.peer);
            }
            return Poll::Ready(Err(error));
        }
        if self.left == 0 {
            if !is_reading {
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

    /// Runs an acceptor whose answer at `/` is one line and at `/large` has [`LARGE`] bytes.
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
                let (_stage, stage) = watch::channel(AdminStage::Accepting);
                let listener = Arc::new(listener.into());
                let acceptor = AdminAcceptor::open(listener, stage, limits, refusals).unwrap();
                let _ = axum::serve(acceptor, router).await;
            });
        });
        (address, metrics)
    }

    /// Returns the bytes that come after `request` until the connection ends, by a FIN or a reset.
    fn answer(stream: &mut StdStream, request: &[u8]) -> String {
        stream.set_read_timeout(Some(LONG)).unwrap();
        // The acceptor may close before it has read all.
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

    /// Checks the answer to this request, and that it is counted once, for this reason.
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
    fn a_client_without_a_whole_request_is_closed() {
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
    fn a_client_that_does_not_read_is_closed() {
        let limits = ClientLimits { connections: 1, answer_time: SHORT, ..limits() };
        let (address, metrics) = open_counted(limits);
        let mut stalled = StdStream::connect(address).unwrap();
        stalled.write_all(b"GET /large HTTP/1.0\r\n\r\n").unwrap();
        // The one slot is free again once the connection was closed, with most of its answer unsent.
        while answer(&mut StdStream::connect(address).unwrap(), b"GET / HTTP/1.0\r\n\r\n").is_empty() {}
        let length = answer(&mut stalled, b"").len();
        assert!(length < LARGE, "{length} bytes came");
        assert_eq!(refused(&metrics, "timeout"), 1);
    }

    #[test]
    fn no_more_connections_than_the_limit_are_accepted() {
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
