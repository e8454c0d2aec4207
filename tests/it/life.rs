//! Reloads, drains, stops and health, on a server that is in use.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pointsman::config::Config;
use pointsman::pool::{Backend as PoolBackend, BackendState};
use pointsman::server::{Changes, LifeStage, ReloadFault};
use socket2::{Domain, Socket, Type};

use crate::support::pair::expect_reset;
use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

/// Starts a backend that answers each byte with its name.
pub(crate) fn named(name: u8) -> Backend {
    Backend::serve(move |stream| answer_by_name(&stream, name))
}

fn answer_by_name(mut stream: &TcpStream, name: u8) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&vec![name; n]).is_err() {
            return;
        }
    }
}

/// A backend with a name. Its server can be stopped, and started again at its address.
pub(crate) struct StoppableBackend {
    pub(crate) address: SocketAddr,
    name: u8,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl StoppableBackend {
    pub(crate) fn new(name: u8) -> Self {
        let mut backend = Self { address: own_address(), name, running: None };
        backend.start();
        backend
    }

    pub(crate) fn start(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let (stop, name) = (Arc::new(AtomicBool::new(false)), self.name);
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let stream = stream.unwrap();
                thread::spawn(move || answer_by_name(&stream, name));
            }
        });
        self.running = Some((stop, thread));
    }

    /// Closes the listening socket; open connections continue.
    pub(crate) fn stop(&mut self) {
        let Some((stop, thread)) = self.running.take() else { return };
        stop.store(true, Ordering::Relaxed);
        // A connection wakes the accept, so that it sees the flag.
        drop(TcpStream::connect(self.address));
        thread.join().unwrap();
    }
}

impl Drop for StoppableBackend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// Returns the name of the backend at the other end.
fn try_ask(stream: &mut TcpStream) -> io::Result<char> {
    stream.write_all(b"?")?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0].into())
}

pub(crate) fn ask(stream: &mut TcpStream) -> char {
    try_ask(stream).expect("the connection is open")
}

/// Connects through the proxy; returns the connection and the name of its backend.
pub(crate) fn connect_any(address: SocketAddr) -> (TcpStream, char) {
    let mut stream = connect(address);
    let name = ask(&mut stream);
    (stream, name)
}

/// Returns a connection to the backend of that name.
pub(crate) fn connect_to(address: SocketAddr, wanted: char) -> TcpStream {
    for _ in 0..1000 {
        let (stream, name) = connect_any(address);
        if name == wanted {
            return stream;
        }
    }
    panic!("{wanted} is never met");
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Returns a configuration of `tcp` listeners (name, bind, pool) and pools (name, backends). `process` is the
/// text before the tables.
fn layout(process: &str, listeners: &[(&str, String, &str)], pools: &[(&str, &[SocketAddr])]) -> Config {
    use std::fmt::Write as _;
    let mut text = format!("workers = 2\naccess_log.to = \"off\"\n{process}\n");
    for (name, bind, pool) in listeners {
        _ = write!(text, "[listener.{name}]\nbind = {bind:?}\npool = {pool:?}\n");
    }
    for (name, backends) in pools {
        let backends: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
        _ = write!(
            text,
            "[pool.{name}]\nbackends = {backends:?}\nbalance = \"round-robin\"\nhealth.check = \"off\"\n"
        );
    }
    config(&text)
}

/// Returns a configuration with one listener `main`, on a port that the kernel chooses, and one pool.
fn simple(process: &str, backends: &[SocketAddr]) -> Config {
    layout(process, &[("main", any(), "p")], &[("p", backends)])
}

fn any() -> String {
    "127.0.0.1:0".to_owned()
}

fn reload(proxy: &Proxy, config: Config) -> Changes {
    proxy.remote.reload(config).expect("the configuration is taken")
}

pub(crate) fn backend(proxy: &Proxy, pool: &str, address: SocketAddr) -> Arc<PoolBackend> {
    let snapshot = proxy.remote.view().snapshot.load();
    Arc::clone(snapshot.pools[pool].pool.backend(&address.to_string()).expect("it is in the pool"))
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

// Reloads: the state that stays.

#[test]
fn an_unchanged_listener_keeps_its_socket_and_its_connections() {
    let (a, b) = (named(b'a'), named(b'b'));
    let proxy = Proxy::start(simple("", &[a.address]));
    let address = proxy.address("main");
    let (mut before, name) = connect_any(address);
    assert_eq!(name, 'a');
    for round in 0..20 {
        let backends = if round % 2 == 0 { vec![a.address, b.address] } else { vec![a.address] };
        let changes = reload(&proxy, simple("", &backends));
        assert_eq!(changes.changed, words(&["pool p"]));
        assert!(changes.added.is_empty() && changes.removed.is_empty() && changes.needs_restart.is_empty());
        assert_eq!(proxy.address("main"), address);
        assert_eq!(ask(&mut before), 'a', "round {round}");
        let (mut during, name) = connect_any(address);
        assert_eq!(ask(&mut during), name);
    }
    assert!(reload(&proxy, simple("", &[a.address])).is_empty());
    assert_eq!(ask(&mut before), 'a');
    assert_eq!(proxy.metric("pointsman_config_last_reload_success"), 1.0);
    assert_eq!(proxy.metric(r#"pointsman_config_reloads_total{result="ok"}"#), 21.0);
}

#[test]
fn an_unchanged_backend_keeps_its_counts() {
    let (a, b) = (named(b'a'), named(b'b'));
    let proxy = Proxy::start(simple("", &[a.address]));
    let (mut open, _) = connect_any(proxy.address("main"));
    for _ in 0..4 {
        connect_any(proxy.address("main"));
    }
    let old = backend(&proxy, "p", a.address);
    wait_for("one open connection", || old.active() == 1);
    assert_eq!(old.traffic().connections_total(), 5);
    reload(&proxy, simple("", &[b.address, a.address]));
    let new = backend(&proxy, "p", a.address);
    assert_eq!((new.active(), new.traffic().connections_total(), new.id()), (1, 5, old.id()));
    assert_eq!(backend(&proxy, "p", b.address).traffic().connections_total(), 0);
    ask(&mut open);
    drop(open);
    wait_for("none open", || new.active() == 0);
}

#[test]
fn a_changed_pool_is_for_new_connections() {
    let (a, b) = (named(b'a'), named(b'b'));
    let proxy = Proxy::start(simple("", &[a.address]));
    let (mut old, _) = connect_any(proxy.address("main"));
    reload(&proxy, simple("", &[b.address]));
    for _ in 0..10 {
        assert_eq!(connect_any(proxy.address("main")).1, 'b');
    }
    assert_eq!(ask(&mut old), 'a');
}

#[test]
fn a_client_that_has_said_nothing_yet_is_routed_by_what_is_new() {
    let (a, b) = (named(b'a'), named(b'b'));
    let tls = |backend: &Backend| {
        config(&format!(
            r#"
            access_log.to = "off"
            shutdown.drain = "0s"
            [listener.main]
            bind = "127.0.0.1:0"
            protocol = "tls"
            unmatched = "p"
            [pool.p]
            backends = ["{}"]
            health.check = "off"
            "#,
            backend.address
        ))
    };
    let proxy = Proxy::start(tls(&a));
    let mut client = connect(proxy.address("main"));
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 1.0);
    reload(&proxy, tls(&b));
    client.write_all(include_bytes!("../fixtures/hello/openssl-tls13.bin")).unwrap();
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    assert_eq!(char::from(name[0]), 'b');
}

#[test]
fn a_changed_limit_of_the_process_is_in_force_at_once() {
    let a = named(b'a');
    let proxy = Proxy::start(simple("", &[a.address]));
    let (mut open, _) = connect_any(proxy.address("main"));
    let changes = reload(&proxy, simple("max_connections = 1", &[a.address]));
    assert_eq!(changes.changed, ["max_connections"]);
    assert_eq!(proxy.metric("pointsman_connections_limit"), 1.0);
    // This connection is one too many. It is reset, at the latest when it sends.
    try_ask(&mut connect(proxy.address("main"))).expect_err("the process is full");
    assert_eq!(ask(&mut open), 'a');
    reload(&proxy, simple("max_connections = 2", &[a.address]));
    assert_eq!(connect_any(proxy.address("main")).1, 'a');
}

#[test]
fn what_needs_a_restart_is_said_until_it_happens() {
    let a = named(b'a');
    let proxy = Proxy::start(simple("", &[a.address]));
    let more = || {
        let mut config = simple("", &[a.address]);
        config.workers = 3;
        config
    };
    assert_eq!(reload(&proxy, more()).needs_restart, ["workers"]);
    assert_eq!(reload(&proxy, more()).needs_restart, ["workers"], "it still runs with 2");
    assert!(reload(&proxy, simple("", &[a.address])).is_empty());
}

// Reloads: listeners and backends that are added and removed.

#[test]
fn an_added_listener_accepts_and_a_removed_one_refuses() {
    let a = named(b'a');
    let one = || layout("", &[("main", any(), "p")], &[("p", &[a.address])]);
    let two = || layout("", &[("main", any(), "p"), ("extra", any(), "p")], &[("p", &[a.address])]);
    let proxy = Proxy::start(one());
    for _ in 0..10 {
        assert_eq!(reload(&proxy, two()).added, ["listener extra"]);
        let extra = proxy.address("extra");
        let (mut open, _) = connect_any(extra);
        assert_eq!(reload(&proxy, one()).removed, ["listener extra"]);
        assert!(is_refused(extra), "the socket is closed when the reload has happened");
        assert!(!proxy.remote.view().addresses().contains_key("extra"));
        assert_eq!(ask(&mut open), 'a', "what is open drains");
    }
    assert_eq!(connect_any(proxy.address("main")).1, 'a');
}

#[test]
fn a_removed_address_can_be_added_again_at_once() {
    let a = named(b'a');
    let address = own_address();
    let without = || layout("", &[("main", any(), "p")], &[("p", &[a.address])]);
    let with =
        || layout("", &[("main", any(), "p"), ("extra", address.to_string(), "p")], &[("p", &[a.address])]);
    let proxy = Proxy::start(with());
    for _ in 0..50 {
        let (_open, _) = connect_any(address);
        reload(&proxy, without());
        reload(&proxy, with());
    }
    assert_eq!(connect_any(address).1, 'a');
}

#[test]
fn one_address_of_a_port_can_have_a_listener_beside_all_of_it() {
    let (a, b) = (named(b'a'), named(b'b'));
    let all = ("all", "0.0.0.0:0".to_owned(), "p");
    let pools = [("p", &[a.address][..]), ("q", &[b.address][..])];
    let idle = ("main", any(), "q");
    let alone = || layout("", &[all.clone(), idle.clone()], &pools);
    let proxy = Proxy::start(alone());
    let port = proxy.address("all").port();
    let (one, other) = ((own_address().ip(), port).into(), (own_address().ip(), port).into());
    let beside =
        || layout("", &[all.clone(), idle.clone(), ("one", SocketAddr::to_string(&one), "q")], &pools);
    for _ in 0..3 {
        assert_eq!((connect_any(one).1, connect_any(other).1), ('a', 'a'));
        reload(&proxy, beside());
        assert_eq!((connect_any(one).1, connect_any(other).1), ('b', 'a'));
        reload(&proxy, alone());
    }
}

#[test]
fn what_was_removed_is_reset_when_its_time_is_over() {
    let (a, b) = (named(b'a'), named(b'b'));
    let drain = r#"shutdown.drain = "300ms""#;
    let before = layout(
        drain,
        &[("main", any(), "p"), ("extra", any(), "q")],
        &[("p", &[a.address]), ("q", &[a.address, b.address])],
    );
    // The listener `extra` is removed, and the backend `a` is removed from the pool behind `main`.
    let after = layout(drain, &[("main", any(), "p")], &[("p", &[b.address])]);
    let proxy = Proxy::start(before);
    let (on_extra, _) = connect_any(proxy.address("extra"));
    let (mut on_a, name) = connect_any(proxy.address("main"));
    assert_eq!(name, 'a');
    let began = Instant::now();
    reload(&proxy, after);
    let (mut stays, name) = connect_any(proxy.address("main"));
    assert_eq!(name, 'b');
    // The connection continues until the deadline.
    if let Err(error) = try_ask(&mut on_a) {
        assert!(began.elapsed() >= Duration::from_millis(300), "too early: {error}");
    }
    expect_reset(on_a);
    expect_reset(on_extra);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(ask(&mut stays), 'b');
    for listener in ["main", "extra"] {
        let series =
            format!(r#"pointsman_connections_closed_total{{listener="{listener}",reason="drain_deadline"}}"#);
        proxy.wait_for_metric(&series, 1.0);
    }
}

#[test]
fn what_comes_back_in_time_is_not_reset() {
    let (a, b) = (named(b'a'), named(b'b'));
    let drain = r#"shutdown.drain = "500ms""#;
    let with = || {
        layout(
            drain,
            &[("main", any(), "p"), ("extra", any(), "q")],
            &[("p", &[a.address, b.address]), ("q", &[b.address])],
        )
    };
    let without = || layout(drain, &[("main", any(), "p")], &[("p", &[b.address])]);
    let proxy = Proxy::start(with());
    let (mut on_extra, _) = connect_any(proxy.address("extra"));
    let mut on_a = connect_to(proxy.address("main"), 'a');
    let id = backend(&proxy, "p", a.address).id();
    reload(&proxy, without());
    reload(&proxy, with());
    // This is the same backend again, and not another with its name.
    let back = backend(&proxy, "p", a.address);
    assert_eq!((back.id(), back.active()), (id, 1));
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        assert_eq!((ask(&mut on_a), ask(&mut on_extra)), ('a', 'b'));
    }
    // The backend is removed again, and not added any more.
    reload(&proxy, without());
    expect_reset(on_a);
    expect_reset(on_extra);
}

/// A backend whose accept queue is full, so that a connect to it gets no answer.
struct FullBackend {
    address: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl FullBackend {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&own_address().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let queue = (0..4).map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address);
            client
        });
        Self { address: address.as_socket().unwrap(), _queue: queue.collect(), _listener: listener }
    }
}

#[test]
fn a_client_that_waits_for_a_removed_backend_is_let_go_at_the_deadline() {
    let (full, b) = (FullBackend::new(), named(b'b'));
    let drain = r#"shutdown.drain = "100ms""#;
    let proxy = Proxy::start(simple(drain, &[full.address]));
    let mut client = connect(proxy.address("main"));
    let removed = backend(&proxy, "p", full.address);
    wait_for("the dial", || removed.active() == 1);
    let began = Instant::now();
    reload(&proxy, simple(drain, &[b.address]));
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert!(began.elapsed() < Duration::from_secs(4), "the time to connect, 5 s, was waited for");
    proxy.wait_for_metric(
        r#"pointsman_connections_closed_total{listener="main",reason="drain_deadline"}"#,
        1.0,
    );
}

#[test]
fn a_client_that_turns_to_a_removed_backend_late_is_let_go_too() {
    let (full, a) = (FullBackend::new(), named(b'a'));
    let with = |backends: &str| {
        config(&format!(
            "workers = 2\naccess_log.to = \"off\"\nshutdown.drain = \"50ms\"\n\
             [listener.main]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
             [pool.p]\nbackends = [{backends}]\nbalance = \"round-robin\"\nhealth.check = \"off\"\n\
             connect_timeout = \"1500ms\"\ndial_timeout = \"3s\"\n"
        ))
    };
    let stays = format!(r#"{{ address = "{}", weight = 2 }}"#, full.address);
    let proxy = Proxy::start(with(&format!(r#"{stays}, "{}""#, a.address)));
    // The two connections alternate, so at least one waits for the full backend.
    let mut clients = [(); 2].map(|()| connect(proxy.address("main")));
    let waited_for = backend(&proxy, "p", full.address);
    wait_for("the dial", || waited_for.active() > 0);
    reload(&proxy, with(&stays));
    for client in &mut clients {
        match client.read(&mut [0]) {
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(_) => panic!("nobody spoke"),
        }
    }
}

#[test]
fn an_address_that_moves_to_another_listener_keeps_its_socket() {
    let (a, b) = (named(b'a'), named(b'b'));
    let address = own_address();
    let owned_by = |name: &str, pool: &str| {
        layout(
            r#"shutdown.drain = "10s""#,
            &[(name, address.to_string(), pool), ("main", any(), "p"), ("rest", any(), "q")],
            &[("p", &[a.address]), ("q", &[b.address])],
        )
    };
    let proxy = Proxy::start(owned_by("old", "p"));
    let (mut before, name) = connect_any(address);
    assert_eq!(name, 'a');
    // New clients come all the time, so a socket that is closed for a moment would be noticed.
    let clients = Clients::start(2, move || connect_any(address).1);
    for _ in 0..10 {
        reload(&proxy, owned_by("new", "q"));
        assert_eq!(connect_any(address).1, 'b');
        reload(&proxy, owned_by("old", "p"));
        assert_eq!(connect_any(address).1, 'a');
    }
    assert_eq!(ask(&mut before), 'a');
    clients.stop();
}

#[test]
fn an_address_in_use_fails_the_whole_reload() {
    let (a, b) = (named(b'a'), named(b'b'));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap();
    let free = own_address();
    let proxy = Proxy::start(simple("", &[a.address]));
    let address = proxy.address("main");
    let (mut open, _) = connect_any(address);
    let listeners =
        [("main", any(), "p"), ("first", free.to_string(), "p"), ("second", taken_at.to_string(), "p")];
    let fault = proxy.remote.reload(layout("", &listeners, &[("p", &[b.address])])).unwrap_err();
    assert!(matches!(fault, ReloadFault::Bind(_)), "{fault:?}");
    assert!(fault.to_string().contains(&taken_at.to_string()), "{fault}");
    assert_eq!(proxy.remote.view().addresses().len(), 1);
    assert!(is_refused(free), "what was bound on the way is free again");
    assert_eq!((ask(&mut open), connect_any(address).1), ('a', 'a'));
    assert_eq!(proxy.metric("pointsman_config_last_reload_success"), 0.0);
    assert_eq!(proxy.metric(r#"pointsman_config_reloads_total{result="failed"}"#), 1.0);
    drop(taken);
    reload(&proxy, layout("", &listeners, &[("p", &[b.address])]));
    assert_eq!([address, free, taken_at].map(|address| connect_any(address).1), ['b'; 3]);
    assert_eq!(proxy.metric("pointsman_config_last_reload_success"), 1.0);
}

// Reloads under load.

/// Threads that repeat an action; `stop` reports the first panic.
struct Clients {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start<T>(threads: usize, once: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let (stop, done, once) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(once));
        let threads = (0..threads)
            .map(|_| {
                let (stop, done, once) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&once));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        once();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, done, threads }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops the threads, and returns the number of actions.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no client failed");
        }
        self.done.load(Ordering::Relaxed)
    }

    fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

#[test]
fn no_connection_fails_while_reload_follows_reload() {
    let (a, b, c) = (named(b'a'), named(b'b'), named(b'c'));
    let fixed = own_address();
    let layouts: Vec<Box<dyn Fn() -> Config>> = vec![
        Box::new(|| layout("", &[("main", any(), "p")], &[("p", &[a.address, b.address])])),
        Box::new(|| {
            let listeners = [("main", any(), "p"), ("extra", any(), "q"), ("fixed", fixed.to_string(), "q")];
            layout("", &listeners, &[("p", &[b.address, c.address]), ("q", &[a.address])])
        }),
        Box::new(|| layout("", &[("main", any(), "q")], &[("q", &[c.address, a.address])])),
        Box::new(|| {
            let listeners = [("main", any(), "p"), ("other", fixed.to_string(), "p")];
            layout("max_connections = 10000", &listeners, &[("p", &[c.address, b.address, a.address])])
        }),
    ];
    let proxy = Proxy::start(layouts[0]());
    let address = proxy.address("main");
    let mut long: Vec<_> = (0..20).map(|_| connect_any(address)).collect();
    let clients = Clients::start(3, move || {
        let (mut stream, name) = connect_any(address);
        assert_eq!(ask(&mut stream), name);
    });
    let mut reloads = 0;
    while clients.done() < 3000 {
        assert!(!clients.has_failed(), "after {reloads} reloads");
        reloads += 1;
        reload(&proxy, layouts[reloads % layouts.len()]());
    }
    let made = clients.stop();
    assert!(reloads > 50 && made >= 3000, "{made} connections, {reloads} reloads");
    for (stream, name) in &mut long {
        assert_eq!(ask(stream), *name);
    }
    let snapshot = proxy.remote.view().snapshot.load_full();
    drop(long);
    wait_for("every connection to be gone", || {
        snapshot.policies.values().all(|policy| policy.gate.inside() == 0)
            && snapshot.pools.values().all(|served| served.pool.backends().iter().all(|b| b.active() == 0))
            && proxy.remote.view().bounds.connections.inside() == 0
    });
}

// Stops of the process.

#[test]
fn a_drain_lets_open_connections_finish() {
    let a = named(b'a');
    let proxy = Proxy::start(simple(r#"shutdown.drain = "20s""#, &[a.address]));
    let address = proxy.address("main");
    let mut open: Vec<_> = (0..10).map(|_| connect_any(address).0).collect();
    assert_eq!(proxy.remote.view().life(), LifeStage::Serving);
    proxy.remote.stop();
    wait_for("refusal", || is_refused(address));
    assert_eq!(proxy.remote.view().life(), LifeStage::Draining);
    let fault = proxy.remote.reload(simple("", &[a.address])).unwrap_err();
    assert!(matches!(fault, ReloadFault::Stopping));
    while let Some(mut last) = open.pop() {
        assert_eq!(ask(&mut last), 'a');
        assert!(!proxy.has_ended());
    }
    let began = Instant::now();
    proxy.end().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "the end of the last connection ends it");
}

#[test]
fn at_the_deadline_the_rest_is_reset() {
    let a = named(b'a');
    let proxy = Proxy::start(simple(r#"shutdown.drain = "300ms""#, &[a.address]));
    let open: Vec<_> = (0..10).map(|_| connect_any(proxy.address("main")).0).collect();
    let view = Arc::clone(proxy.remote.view());
    let began = Instant::now();
    proxy.remote.stop();
    open.into_iter().for_each(expect_reset);
    assert!(began.elapsed() >= Duration::from_millis(300));
    proxy.end().unwrap();
    assert_eq!(view.bounds.connections.inside(), 0);
    let closed = r#"pointsman_connections_closed_total{listener="main",reason="drain_deadline"} 10"#;
    assert!(view.metrics.render().contains(closed));
}

#[test]
fn at_the_deadline_a_client_that_never_spoke_is_let_go() {
    let a = named(b'a');
    let proxy = Proxy::start(config(&format!(
        r#"
        access_log.to = "off"
        shutdown.drain = "100ms"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        unmatched = "p"
        [pool.p]
        backends = ["{}"]
        health.check = "off"
        "#,
        a.address
    )));
    let mut silent = connect(proxy.address("main"));
    let mut halfway = connect(proxy.address("main"));
    halfway.write_all(&include_bytes!("../fixtures/hello/curl.bin")[..100]).unwrap();
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 2.0);
    proxy.remote.stop();
    for stream in [&mut silent, &mut halfway] {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    proxy.end().unwrap();
}

#[test]
fn a_second_word_cuts_the_drain_short() {
    let a = named(b'a');
    let proxy = Proxy::start(simple(r#"shutdown.drain = "1h""#, &[a.address]));
    let (mut open, _) = connect_any(proxy.address("main"));
    proxy.remote.stop();
    wait_for("refusal", || is_refused(proxy.address("main")));
    assert_eq!(ask(&mut open), 'a');
    proxy.remote.stop();
    expect_reset(open);
    proxy.end().unwrap();
}

#[test]
fn a_grace_goes_on_accepting() {
    let a = named(b'a');
    let process = "shutdown.grace = \"300ms\"\nshutdown.drain = \"20s\"";
    let proxy = Proxy::start(simple(process, &[a.address]));
    let address = proxy.address("main");
    let began = Instant::now();
    proxy.remote.stop();
    wait_for("the end of readiness", || proxy.remote.view().life() == LifeStage::Draining);
    let mut accepted = 0;
    while !is_refused(address) {
        // At this moment a connection may be made and then refused.
        let asked = try_connect(address).and_then(|mut stream| try_ask(&mut stream));
        if began.elapsed() < Duration::from_millis(200) {
            assert_eq!(asked.unwrap(), 'a');
            accepted += 1;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "refused after {:?}", began.elapsed());
    assert!(accepted > 0);
    proxy.end().unwrap();
}

#[test]
fn a_second_word_cuts_the_grace_short() {
    let a = named(b'a');
    let proxy = Proxy::start(simple("shutdown.grace = \"1h\"", &[a.address]));
    proxy.remote.stop();
    proxy.remote.stop();
    proxy.end().unwrap();
}

/// All connects have returned before the server gets the stop. So each client is served, whether it is
/// accepted already or still in the queue of the kernel.
#[test]
fn what_waits_in_the_accept_queue_at_the_stop_is_served() {
    let a = named(b'a');
    for _ in 0..5 {
        let proxy = Proxy::start(simple(r#"shutdown.drain = "20s""#, &[a.address]));
        let address = proxy.address("main");
        let mut streams: Vec<_> = (0..200).map(|_| connect(address)).collect();
        proxy.remote.stop();
        for stream in &mut streams {
            assert_eq!(ask(stream), 'a');
        }
        drop(streams);
        proxy.end().unwrap();
    }
}

/// A connection that was made before the stop is served to its end. A connection that is made while the
/// sockets close may be refused, but never after an answer.
#[test]
fn a_drain_under_load_fails_nobody() {
    let a = named(b'a');
    let proxy = Proxy::start(simple(r#"shutdown.drain = "20s""#, &[a.address]));
    let address = proxy.address("main");
    let stopping = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopping);
    let clients = Clients::start(4, move || {
        let Ok(mut stream) = try_connect(address) else {
            assert!(told.load(Ordering::SeqCst), "refused before the stop");
            return;
        };
        let was_told = told.load(Ordering::SeqCst);
        match try_ask(&mut stream) {
            Ok(name) => assert_eq!((name, ask(&mut stream), ask(&mut stream)), ('a', 'a', 'a')),
            Err(error) => assert!(was_told, "made before the stop, and yet: {error}"),
        }
    });
    wait_for("some connections", || clients.done() > 1000 || clients.has_failed());
    stopping.store(true, Ordering::SeqCst);
    proxy.remote.stop();
    proxy.end().unwrap();
    assert!(clients.stop() > 1000);
}

// Health.

fn checked(backends: &[SocketAddr], algorithm: &str) -> Config {
    let backends: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
    config(&format!(
        r#"
        workers = 2
        access_log.to = "off"
        shutdown.drain = "10s"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        [pool.p]
        backends = {backends:?}
        balance = "{algorithm}"
        hash_on = "source-ip-port"
        health = {{ check = "tcp", interval = "100ms", rise = 2, fall = 2 }}
        "#
    ))
}

/// Counts the answers of each backend.
fn answers(address: SocketAddr, connections: usize) -> BTreeMap<char, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..connections {
        *answers.entry(connect_any(address).1).or_default() += 1;
    }
    answers
}

#[test]
fn a_stopped_backend_goes_down_fails_no_client_and_comes_back() {
    for algorithm in ["round-robin", "maglev"] {
        let (mut a, b) = (StoppableBackend::new(b'a'), StoppableBackend::new(b'b'));
        let config = || checked(&[a.address, b.address], algorithm);
        let proxy = Proxy::start(config());
        let address = proxy.address("main");
        assert_eq!(answers(address, 60).len(), 2, "both serve");
        let mut changed = config();
        let state = |address| backend(&proxy, "p", address).state();
        let mut open = connect_to(address, 'a');
        a.stop();
        // Before a check fails, another attempt serves the client.
        assert_eq!(answers(address, 30), BTreeMap::from([('b', 30)]));
        wait_for("down", || state(a.address) == BackendState::Down);
        let attempts = backend(&proxy, "p", a.address).traffic().connections_total();
        assert_eq!(answers(address, 30), BTreeMap::from([('b', 30)]));
        assert_eq!(ask(&mut open), 'a', "what is open to it stays");

        // The backend stays down in a reload that changes something else.
        changed.pools[0].dial.attempts = 2;
        assert_eq!(reload(&proxy, changed).changed, ["pool p"]);
        assert_eq!(state(a.address), BackendState::Down);
        assert_eq!(answers(address, 30), BTreeMap::from([('b', 30)]));
        assert_eq!(
            backend(&proxy, "p", a.address).traffic().connections_total(),
            attempts,
            "none was sent there"
        );

        a.start();
        wait_for("up", || state(a.address) == BackendState::Up);
        assert_eq!(answers(address, 60).len(), 2, "both serve again");
        assert_eq!(state(b.address), BackendState::Up);
    }
}

#[test]
fn without_a_backend_that_is_up_a_client_is_closed_at_once() {
    let mut a = StoppableBackend::new(b'a');
    let proxy = Proxy::start(checked(&[a.address], "maglev"));
    a.stop();
    wait_for("down", || backend(&proxy, "p", a.address).state() == BackendState::Down);
    let mut stream = connect(proxy.address("main"));
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    proxy.wait_for_metric(r#"pointsman_connections_closed_total{listener="main",reason="no_backend"}"#, 1.0);
    assert!(proxy.metric(r#"pointsman_no_backend_total{pool="p"}"#) >= 1.0);
    a.start();
    wait_for("up", || backend(&proxy, "p", a.address).state() == BackendState::Up);
    assert_eq!(connect_any(proxy.address("main")).1, 'a');
}

/// An accept loop keeps the policy of its last accept, and with it all routes of that policy.
#[test]
fn a_policy_that_was_replaced_ends_where_nobody_connects() {
    let (a, b) = (named(b'a'), named(b'b'));
    let text = |backend: &Backend| {
        format!(
            r#"
            workers = 2
            access_log.to = "off"
            [listener.main]
            bind = ["127.0.0.1:0", "127.0.0.1:0"]
            pool = "main"
            [pool.main]
            backends = ["{}"]
            health.check = "off"
            "#,
            backend.address
        )
    };
    let proxy = Proxy::start(config(&text(&a)));
    let (stream, name) = connect_any(proxy.address("main"));
    assert_eq!(name, 'a');
    let policies =
        || proxy.remote.view().snapshot.load().policies.values().map(Arc::downgrade).collect::<Vec<_>>();
    let old = policies();
    assert_eq!(old.len(), 2);
    proxy.remote.reload(config(&text(&b))).unwrap();
    wait_for("the end of the old policy", || old.iter().all(|policy| policy.upgrade().is_none()));
    assert!(policies().iter().all(|policy| policy.upgrade().is_some()));
    drop(stream);
    assert_eq!(connect_any(proxy.address("main")).1, 'b');
}
