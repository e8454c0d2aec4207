//! A server to test, and peers for it.

pub(crate) mod country_file;
pub(crate) mod dns;
pub(crate) mod hello;
pub(crate) mod pair;
pub(crate) mod recorder;
pub(crate) mod tls;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pointsman::admin;
use pointsman::config::{self, AdminSpec, Config};
use pointsman::relay::EngineChoice;
use pointsman::server::{Server, ServerHandle, Signals};
use pointsman::sys::Address;
use pointsman::telemetry::metrics::METRICS;

/// The longest wait of a test for an event that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A port of this host that the kernel chooses.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A running server; it is stopped when dropped.
pub(crate) struct Proxy {
    pub(crate) remote: ServerHandle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Proxy {
    pub(crate) fn start(config: Config) -> Self {
        let server = Server::start(config).expect("the server starts");
        let remote = server.remote();
        let thread = thread::spawn(move || server.run(Signals::Ignore, std::future::pending()));
        Self { remote, thread: Some(thread) }
    }

    /// Starts a server with an admin listener, and returns the address of the admin listener.
    pub(crate) fn start_with_admin(config: Config) -> (Self, SocketAddr) {
        let (proxy, address) = Self::start_with(config, AdminSpec::new(LOOPBACK));
        (proxy, address.tcp().expect("it listens on TCP"))
    }

    /// Starts a server with any admin listener.
    pub(crate) fn start_with(config: Config, admin: AdminSpec) -> (Self, Address) {
        let listener = admin::bind(admin).expect("a free address");
        let address = listener.address().clone();
        let server = Server::start(config).expect("the server starts");
        let remote = server.remote();
        let view = Arc::clone(remote.view());
        let thread = thread::spawn(move || server.run(Signals::Ignore, admin::serve(listener, view)));
        (Self { remote, thread: Some(thread) }, address)
    }

    /// Starts a `tcp` listener named `main` in front of these backends.
    pub(crate) fn tcp(backends: &[SocketAddr], engine: EngineChoice) -> Self {
        Self::start(tcp(backends, engine))
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.remote.view().addresses()[listener][0].tcp().expect("it listens on TCP")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address("main")).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Returns true if the server has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the server has ended, without a stop, and returns its result.
    pub(crate) fn end(mut self) -> std::io::Result<()> {
        wait_for("the end of the server", || self.has_ended());
        self.thread.take().unwrap().join().expect("the control loop does not panic")
    }

    /// Returns the value of a series, by its name and labels as they are rendered. Returns 0 if only the
    /// family exists: an event that cannot happen has no series until it happens.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.remote.view().metrics.render();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let Some(line) = line else {
            let family = series.split('{').next().unwrap();
            let is_known = |suffix| METRICS.iter().any(|metric| format!("{}{suffix}", metric.name) == family);
            assert!(["", "_count", "_sum", "_bucket"].iter().any(is_known), "no family {family} in\n{text}");
            return 0.0;
        };
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a series has a value.
    pub(crate) fn wait_for_metric(&self, series: &str, value: f64) {
        wait_for(&format!("{series} = {value}"), || self.metric(series) == value);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The server gets one stop for each stage that can be cut short: the grace, the drain.
        for _ in 0..3 {
            self.remote.stop();
        }
        let Some(thread) = self.thread.take() else { return };
        let result = thread.join();
        if !thread::panicking() {
            result.expect("the control loop does not panic").expect("the server ends in order");
        }
    }
}

/// Returns a configuration from its text.
pub(crate) fn config(text: &str) -> Config {
    match config::parse("test.toml", text) {
        Ok((config, _)) => config,
        Err(faults) => panic!("{}", faults.render(false)),
    }
}

/// Returns a configuration with one `tcp` listener named `main` and its pool, without checks.
pub(crate) fn tcp(backends: &[SocketAddr], engine: EngineChoice) -> Config {
    let engine = match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Splice => "splice",
        EngineChoice::Copy => "copy",
    };
    let backends: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
    config(&format!(
        r#"
        workers = 2
        access_log.to = "off"
        shutdown.drain = "10s"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "main"
        engine = "{engine}"
        [pool.main]
        backends = {backends:?}
        health.check = "off"
        "#
    ))
}

/// Waits until a condition is true. Panics with its name if this takes too long.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!(find_in_time(|| is_so().then_some(())).is_some(), "{what} did not come");
}

/// Returns the first result of `find` that is not `None`, or `None` after [`PATIENCE`].
pub(crate) fn find_in_time<T>(mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = find();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A backend that serves every connection by a function, each on a thread.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) fn serve(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::serve_on("127.0.0.1:0", serve)
    }

    pub(crate) fn serve_on(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address }
    }

    /// Starts a backend that sends back all bytes, and the end behind them.
    pub(crate) fn echo() -> Self {
        Self::serve(|mut stream| {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        })
    }
}

/// Returns an address with a port that no other process binds, for tests that need it before they bind it.
/// All of 127.0.0.0/8 is this host, so each test gets addresses of its own.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = std::process::id();
    let [_, high, middle, low] = process.to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (round, last) = (number / 254, number % 254);
    let network = (high ^ middle).wrapping_add(u8::try_from(round).expect("few are asked for"));
    let ip = Ipv4Addr::new(127, 128 | network, low, 1 + last as u8);
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Returns bytes that show a displaced, lost or repeated block.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Returns the path of a file of the repository.
pub(crate) fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
