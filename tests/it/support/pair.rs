//! One connection with both its ends held by the test, and actions on the ends.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use pointsman::config::Config;
use pointsman::relay::EngineChoice;
use socket2::{Domain, SockRef, Socket, Type};

use super::{PATIENCE, Proxy, tcp, wait_for};

/// Runs a test with each engine.
pub(crate) fn with_each_engine(test: impl Fn(EngineChoice)) {
    for engine in [EngineChoice::Copy, EngineChoice::Splice, EngineChoice::Auto] {
        test(engine);
    }
}

/// Runs a test that mostly waits with all engines at once.
pub(crate) fn with_all_engines(test: impl Fn(EngineChoice) + Sync) {
    thread::scope(|scope| {
        for engine in [EngineChoice::Copy, EngineChoice::Splice, EngineChoice::Auto] {
            let test = &test;
            scope.spawn(move || test(engine));
        }
    });
}

/// Returns the series of connections of the listener `main` that ended for a reason.
pub(crate) fn closed(reason: &str) -> String {
    format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#)
}

/// A proxy with one connection through it; the test holds both ends.
pub(crate) struct Pair {
    pub(crate) proxy: Proxy,
    pub(crate) listener: TcpListener,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    pub(crate) fn new(engine: EngineChoice) -> Self {
        Self::with(engine, |_| {})
    }

    /// Starts a proxy with a changed configuration.
    pub(crate) fn with(engine: EngineChoice, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = tcp(&[listener.local_addr().unwrap()], engine);
        change(&mut config);
        let proxy = Proxy::start(config);
        let (client, server) = another(&proxy, &listener);
        Self { proxy, listener, client, server }
    }

    /// Makes one more connection through the same proxy.
    pub(crate) fn another(&self) -> (TcpStream, TcpStream) {
        another(&self.proxy, &self.listener)
    }

    pub(crate) fn wait_for_close(&self, reason: &str) {
        self.proxy.wait_for_metric(&closed(reason), 1.0);
    }
}

fn another(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = proxy.connect();
    let (server, _) = listener.accept().unwrap();
    (patient(client), patient(server))
}

/// Sets timeouts for reads and writes of a stream, and makes it send small writes at once.
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects from one of the many loopback addresses.
pub(crate) fn connect_from(source: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    patient(socket.into())
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until the kernel of the peer has all bytes that were written.
pub(crate) fn wait_until_acknowledged(stream: &TcpStream) {
    wait_for("the acknowledgement", || pointsman::sys::socket::unacknowledged(stream).unwrap() == 0);
}

/// Reads the next bytes and compares them.
pub(crate) fn expect_bytes(mut stream: impl Read, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == expected, "{} bytes are not what was sent", expected.len());
}

/// Checks that the stream ends here, in order.
pub(crate) fn expect_end(mut stream: impl Read) {
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

/// Checks that the stream is reset here.
pub(crate) fn expect_reset(mut stream: impl Read) {
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// An address whose queue is full, so that a connect to it gets no answer.
pub(crate) struct FullListener {
    pub(crate) address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl FullListener {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            waiting.push(stream);
            assert!(waiting.len() < 100, "a queue of length 0 that never fills");
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}
