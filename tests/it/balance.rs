//! The spread of real connections by the balancers.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::support::hello::hello;
use crate::support::pair::connect_from;
use crate::support::recorder::{Recorder, ask_on, list};
use crate::support::{PATIENCE, Proxy, config, wait_for};

fn text(backends: &str, keys: &str) -> String {
    format!(
        r#"
        workers = 2
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        [pool.p]
        backends = {backends}
        health.check = "off"
        {keys}
        "#
    )
}

/// A `tcp` listener named `main` in front of a pool with these keys.
fn proxy(backends: &str, keys: &str) -> Proxy {
    Proxy::start(config(&text(backends, keys)))
}

fn weighing(backends: &[Recorder], weights: &[u16]) -> String {
    let written: Vec<_> = backends.iter().zip(weights).map(|(one, &weight)| one.weighing(weight)).collect();
    format!("[{}]", written.join(", "))
}

/// Reads the greeting of a connection; returns the name in it with the connection.
fn greeted(stream: TcpStream) -> (String, TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut name = String::new();
    reader.read_line(&mut name).expect("a greeting");
    (name.trim_end().to_owned(), reader.into_inner())
}

/// Opens this many connections, one after the other. Returns the count of each backend while all are open.
fn held(proxy: &Proxy, connections: usize) -> BTreeMap<String, usize> {
    let open: Vec<_> = (0..connections).map(|_| greeted(proxy.connect())).collect();
    open.iter().fold(BTreeMap::new(), |mut counts, (name, _)| {
        *counts.entry(name.clone()).or_default() += 1;
        counts
    })
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn least_connections_counts_what_is_open() {
    let backends = Recorder::several("b", 3);
    let proxy = proxy(&weighing(&backends, &[1, 2, 0]), r#"balance = "least-connections""#);
    assert_eq!(held(&proxy, 30), counts(&[("b0", 10), ("b1", 20)]));
}

#[test]
fn least_connections_fills_what_was_left() {
    let backends = Recorder::several("b", 2);
    let proxy = proxy(&list(&backends), r#"balance = "least-connections""#);
    let mut open: Vec<_> = (0..20).map(|_| greeted(proxy.connect())).collect();
    open.retain(|(name, _)| name == "b0");
    assert_eq!(open.len(), 10);
    let active = |at: usize| proxy.remote.view().snapshot.load().pools["p"].pool.backends()[at].active();
    wait_for("b1 is left", || active(1) == 0);
    assert_eq!(held(&proxy, 10), counts(&[("b1", 10)]));
}

#[test]
fn the_better_of_two_comes_close_to_even() {
    let backends = Recorder::several("b", 4);
    for balance in ["random-two", "least-latency"] {
        let proxy = proxy(&list(&backends), &format!("balance = \"{balance}\""));
        let counts = held(&proxy, 80);
        assert_eq!(counts.len(), 4, "{balance}: {counts:?}");
        // Connect times on loopback differ by chance, so the test of least-latency only checks that all are
        // used.
        let most = if balance == "random-two" { 28 } else { 77 };
        assert!(counts.values().all(|&count| count <= most), "{balance}: {counts:?}");
    }
}

#[test]
fn failover_keeps_to_the_written_order() {
    let backends = Recorder::several("b", 2);
    let proxy = proxy(&list(&backends), r#"balance = "failover""#);
    assert_eq!(held(&proxy, 10), counts(&[("b0", 10)]));

    let gone = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    gone.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let refusing = gone.local_addr().unwrap().as_socket().unwrap();
    let written = format!("[\"{refusing}\", {}, {}]", backends[0].written(), backends[1].written());
    let proxy = self::proxy(&written, r#"balance = "failover""#);
    assert_eq!(held(&proxy, 10), counts(&[("b0", 10)]));
}

#[test]
fn a_bound_spreads_a_client_with_many_connections() {
    let backends = Recorder::several("b", 4);
    let free = proxy(&list(&backends), "");
    assert_eq!(held(&free, 40).len(), 1);
    let bounded = proxy(&list(&backends), "max_load = 1.25");
    let counts = held(&bounded, 40);
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|&count| count <= 13), "{counts:?}");
    let overflows = bounded.remote.view().snapshot.load().pools["p"].pool.overflows();
    assert_eq!(overflows, Some(40 - 13));
}

#[test]
fn name_and_source_are_hashed_together() {
    let backends = Recorder::several("b", 4);
    let text = text(&list(&backends), r#"hash_on = ["sni", "source-ip"]"#)
        .replace("pool = \"p\"", "protocol = \"tls\"\nunmatched = \"p\"");
    let proxy = Proxy::start(config(&text));
    let answer = |source: usize, name: usize| {
        let [.., low] = source.to_be_bytes();
        let stream = connect_from(Ipv4Addr::new(127, 5, 0, low).into(), proxy.address("main"));
        ask_on(stream, &hello(format!("name-{name}.example").as_bytes())).unwrap()
    };
    let (mut by_source, mut by_name) = (HashSet::new(), HashSet::new());
    for number in 1..=20 {
        by_source.insert(answer(number, 7));
        by_name.insert(answer(7, number));
        assert_eq!(answer(number, number), answer(number, number));
    }
    assert_eq!((by_source.len(), by_name.len()), (4, 4));
}

#[test]
fn a_backend_that_a_reload_adds_begins_slowly() {
    let backends = Recorder::several("b", 2);
    let keys = "balance = \"round-robin\"\nslow_start = \"1h\"";
    let proxy = proxy(&list(&backends[..1]), keys);
    assert_eq!(held(&proxy, 5), counts(&[("b0", 5)]));
    let mut both = config(&text(&list(&backends), keys));
    proxy.remote.reload(both.clone()).unwrap();
    let slow = held(&proxy, 200);
    // A tenth of the picks of the other backend is expected. The probability of more than 50 is 10^-9.
    assert!(slow["b1"] < 50, "{slow:?}");
    both.pools[0].slow_start = None;
    proxy.remote.reload(both).unwrap();
    assert_eq!(held(&proxy, 40), counts(&[("b0", 20), ("b1", 20)]));
}
