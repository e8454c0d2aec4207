//! Backends with a limit, and the queue before them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pointsman::admin;
use pointsman::pool::BackendSpec;

use crate::support::pair::{closed, expect_reset, reset};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

fn configuration(backend: SocketAddr, pool: &str) -> pointsman::config::Config {
    config(&format!(
        r#"
        workers = 2
        access_log.to = "off"
        shutdown.drain = "10s"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "main"
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        {pool}
        "#
    ))
}

fn proxy(backend: &Backend, pool: &str) -> Proxy {
    Proxy::start(configuration(backend.address, pool))
}

fn waiting(proxy: &Proxy) -> usize {
    proxy.remote.view().snapshot.load().pools["main"].pool.waiting()
}

fn wait_for_waiting(proxy: &Proxy, count: usize) {
    wait_for(&format!("{count} who wait"), || waiting(proxy) == count);
}

fn active(proxy: &Proxy) -> u64 {
    proxy.remote.view().snapshot.load().pools["main"].pool.backends()[0].active()
}

/// Returns a client that reached the backend.
fn served(proxy: &Proxy) -> TcpStream {
    let mut client = proxy.connect();
    ask(&mut client);
    client
}

fn ask(client: &mut TcpStream) {
    client.write_all(b"?").unwrap();
    client.read_exact(&mut [0]).expect("the client is served");
}

fn metric(proxy: &Proxy, name: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_{name}{{pool="main"}}"#))
}

/// Starts a backend that echoes. It counts the clients that are connected at once, and the most of them.
fn counting() -> (Backend, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let backend = Backend::serve(move |mut stream| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..n]);
        }
        now.fetch_sub(1, Ordering::SeqCst);
    });
    (backend, most)
}

/// Runs many clients at once; every seventh ends by `leave`. Returns the most clients that were at the
/// backend at once.
fn run_many_clients(leave: impl Fn(TcpStream) + Sync) -> usize {
    const THREADS: usize = 40;
    const ROUNDS: usize = 15;
    let (backend, most) = counting();
    let proxy = proxy(&backend, "max_connections = 5\nqueue = { length = 100, timeout = '20s' }");
    thread::scope(|threads| {
        for thread in 0..THREADS {
            let (proxy, leave) = (&proxy, &leave);
            threads.spawn(move || {
                for round in 0..ROUNDS {
                    let mut client = proxy.connect();
                    if (thread + round) % 7 == 0 {
                        // The client waits, or was just served.
                        leave(client);
                        continue;
                    }
                    ask(&mut client);
                }
            });
        }
    });
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
    assert_eq!((waiting(&proxy), active(&proxy)), (0, 0));
    assert!(metric(&proxy, "queued_total") > 100.0);
    assert_eq!(metric(&proxy, "queue_timeouts_total") + metric(&proxy, "queue_refused_total"), 0.0);
    most.load(Ordering::SeqCst)
}

#[test]
fn a_limit_is_held_under_a_crowd() {
    assert_eq!(run_many_clients(drop), 5, "all places are used, and no more");
}

/// The backend gets a reset late and so counts too many clients; only the counts of the proxy are exact here.
#[test]
fn no_place_is_lost_to_those_who_break_off() {
    assert!(run_many_clients(reset) >= 5);
}

#[test]
fn who_comes_first_is_served_first() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "max_connections = 1\nqueue = { length = 10, timeout = '20s' }");
    let mut clients = vec![served(&proxy)];
    for count in 1..=8 {
        let mut client = proxy.connect();
        client.write_all(b"?").unwrap();
        clients.push(client);
        wait_for_waiting(&proxy, count);
    }
    for number in 1..clients.len() {
        drop(clients.remove(0));
        clients[0].read_exact(&mut [0]).unwrap_or_else(|error| panic!("client {number}: {error}"));
        for other in &clients[1..] {
            other.set_nonblocking(true).unwrap();
            let error = other.peek(&mut [0]).expect_err("nobody else is served");
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            other.set_nonblocking(false).unwrap();
        }
    }
    assert_eq!(metric(&proxy, "queued_total"), 8.0);
    assert_eq!(metric(&proxy, "queue_seconds_count"), 8.0);
}

#[test]
fn a_wait_ends_at_its_timeout() {
    let backend = Backend::echo();
    // The time of the connect begins after the wait, so it may be shorter.
    let keys = "max_connections = 1\nqueue = { length = 10, timeout = '300ms' }\n\
                connect_timeout = '100ms'\ndial_timeout = '100ms'";
    let proxy = proxy(&backend, keys);
    let _first = served(&proxy);
    let began = Instant::now();
    expect_reset(&proxy.connect());
    assert!(began.elapsed() >= Duration::from_millis(300));
    proxy.wait_for_metric(&closed("queue_timeout"), 1.0);
    assert_eq!((waiting(&proxy), active(&proxy)), (0, 1));
    assert_eq!(metric(&proxy, "queue_timeouts_total"), 1.0);
    assert_eq!(metric(&proxy, "no_backend_total"), 0.0);
}

#[test]
fn time_in_the_queue_is_not_time_of_the_dial() {
    let backend = Backend::echo();
    let keys = "max_connections = 1\nqueue = { length = 10, timeout = '20s' }\n\
                connect_timeout = '200ms'\ndial_timeout = '200ms'";
    let proxy = proxy(&backend, keys);
    let first = served(&proxy);
    let mut second = proxy.connect();
    wait_for_waiting(&proxy, 1);
    let began = Instant::now();
    wait_for("the time of a dial", || began.elapsed() > Duration::from_millis(300));
    drop(first);
    ask(&mut second);
}

#[test]
fn a_full_queue_refuses() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "max_connections = 1\nqueue = { length = 2, timeout = '20s' }");
    let first = served(&proxy);
    let mut queued: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    wait_for_waiting(&proxy, 2);
    expect_reset(&proxy.connect());
    proxy.wait_for_metric(&closed("queue_full"), 1.0);
    assert_eq!(metric(&proxy, "queue_refused_total"), 1.0);
    drop(first);
    wait_for_waiting(&proxy, 1);
    queued.push(proxy.connect());
    wait_for_waiting(&proxy, 2);
}

#[test]
fn without_a_queue_a_full_backend_refuses() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "max_connections = 2");
    let _clients = [served(&proxy), served(&proxy)];
    expect_reset(&proxy.connect());
    proxy.wait_for_metric(&closed("queue_full"), 1.0);
    assert_eq!(metric(&proxy, "queued_total"), 0.0);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "max_connections = 1\nqueue = { length = 2, timeout = '20s' }");
    let first = served(&proxy);
    let leaver = proxy.connect();
    wait_for_waiting(&proxy, 1);
    let mut patient = proxy.connect();
    wait_for_waiting(&proxy, 2);
    reset(leaver);
    proxy.wait_for_metric(&closed("client_gone"), 1.0);
    assert_eq!(waiting(&proxy), 1);
    drop(first);
    ask(&mut patient);
}

#[test]
fn a_drain_ends_the_wait() {
    let backend = Backend::echo();
    let mut config =
        configuration(backend.address, "max_connections = 1\nqueue = { length = 2, timeout = '60s' }");
    config.shutdown.drain = Duration::from_millis(100);
    let proxy = Proxy::start(config);
    let _first = served(&proxy);
    let mut second = proxy.connect();
    wait_for_waiting(&proxy, 1);
    proxy.remote.stop();
    assert!(matches!(second.read(&mut [0]), Ok(0) | Err(_)));
    let metrics = Arc::clone(&proxy.remote.view().metrics);
    proxy.end().expect("an orderly end");
    assert!(metrics.render().contains(&format!("{} 2", closed("drain_deadline"))));
}

#[test]
fn a_reload_that_makes_room_lets_them_in() {
    let backend = Backend::echo();
    let queue = "queue = { length = 9, timeout = '20s' }";
    let proxy = proxy(&backend, &format!("max_connections = 1\n{queue}"));
    let _first = served(&proxy);
    let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    wait_for_waiting(&proxy, 3);
    proxy.remote.reload(configuration(backend.address, &format!("max_connections = 3\n{queue}"))).unwrap();
    wait_for_waiting(&proxy, 1);
    assert_eq!(active(&proxy), 3);
    proxy.remote.reload(configuration(backend.address, "")).unwrap();
    clients.iter_mut().for_each(ask);
    assert_eq!((waiting(&proxy), active(&proxy)), (0, 4));
}

#[test]
fn a_reload_that_brings_a_backend_lets_them_in() {
    let (full, new) = (Backend::echo(), Backend::echo());
    let keys = "max_connections = 1\nqueue = { length = 9, timeout = '20s' }";
    let proxy = proxy(&full, keys);
    let _first = served(&proxy);
    let mut waits = proxy.connect();
    wait_for_waiting(&proxy, 1);
    let mut config = configuration(full.address, keys);
    config.pools[0].backends.push(BackendSpec::new("new", new.address.into()));
    proxy.remote.reload(config).unwrap();
    ask(&mut waits);
}

#[test]
fn who_waits_and_how_many_may_can_be_seen() {
    let backend = Backend::echo();
    let (proxy, address) = Proxy::start_with_admin(configuration(
        backend.address,
        "max_connections = 1\nqueue = { length = 7, timeout = '20s' }",
    ));
    let _first = served(&proxy);
    let _second = proxy.connect();
    wait_for_waiting(&proxy, 1);
    let (_, text) = admin::ask(address, "/metrics", PATIENCE).unwrap();
    for line in [
        r#"pointsman_queue_length{pool="main"} 1"#.to_owned(),
        format!(r#"pointsman_backend_connections_limit{{pool="main",backend="{}"}} 1"#, backend.address),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let (_, status) = admin::ask(address, "/api/v1/status", PATIENCE).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pool = &status["pools"][0];
    assert_eq!(pool["queue"], serde_json::json!({ "waiting": 1, "length": 7 }));
    assert_eq!(pool["backends"][0]["connections"]["limit"], 1);
}
