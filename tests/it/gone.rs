//! Clients that end before a backend is connected: they leave the queue, and no backend is dialled for them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::records::LogFile;
use crate::support::hello::hello;
use crate::support::pair::{FullListener, closed, expect_bytes, expect_reset};
use crate::support::recorder::Recorder;
use crate::support::{Proxy, config, wait_for};

const TLS: &str = "protocol = \"tls\"\nunmatched = \"p\"\nno_sni = \"p\"";
const TCP: &str = "pool = \"p\"";
const POSTGRES: &str = "protocol = \"postgres\"\nplaintext = \"p\"\ncancel = \"p\"";

/// One slot at the backend and a queue of two.
const QUEUE: &str = "max_connections = 1\nqueue = { length = 2, timeout = '60s' }";

/// Starts a proxy: a listener `main` with these keys in front of a pool `p` with those.
fn proxy(log: &LogFile, listener: &str, backend: &str, pool: &str) -> Proxy {
    Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = \"{}\"\n[listener.main]\nbind = \"127.0.0.1:0\"\n{listener}\n\
         [pool.p]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n{pool}\n",
        log.path()
    )))
}

fn waiting(proxy: &Proxy) -> usize {
    proxy.remote.view().snapshot.load().pools["p"].pool.waiting()
}

fn wait_for_waiting(proxy: &Proxy, count: usize) {
    wait_for(&format!("{count} in the queue"), || waiting(proxy) == count);
}

fn finish_writing(client: &TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
}

/// Connects a client that sends this text and gets the only slot.
fn holder(proxy: &Proxy, says: &[u8]) -> TcpStream {
    let mut client = proxy.connect();
    client.write_all(says).unwrap();
    expect_bytes(&client, b"b\n");
    client
}

fn gone(proxy: &Proxy) -> f64 {
    proxy.metric(&closed("client_gone"))
}

/// Checks that clients that end in the queue leave it. The next client gets the slot, and no backend is
/// dialled for the others.
#[track_caller]
fn check_gone(listener: &str, served: &[u8], leaves: &[u8]) {
    let (log, backend) = (LogFile::new(), Recorder::start("b"));
    let proxy = proxy(&log, listener, &backend.address.to_string(), QUEUE);
    let first = holder(&proxy, served);
    for round in 1..=3 {
        let mut leaver = proxy.connect();
        leaver.write_all(leaves).unwrap();
        wait_for_waiting(&proxy, 1);
        finish_writing(&leaver);
        proxy.wait_for_metric(&closed("client_gone"), f64::from(round));
        assert_eq!(waiting(&proxy), 0);
    }
    let mut patient = proxy.connect();
    patient.write_all(served).unwrap();
    wait_for_waiting(&proxy, 1);
    drop(first);
    expect_bytes(&patient, b"b\n");
    assert_eq!(backend.connections(), 2, "no client that is gone is dialled for");
    assert_eq!(proxy.metric(r#"pointsman_queue_refused_total{pool="p"}"#), 0.0);
    // The three clients that left, and the first client.
    let records = log.records(4);
    let record = records.iter().find(|record| record["close"] == "client_gone").expect("a record");
    assert_eq!(record["closed_by"], "client");
    assert!(record["queue_seconds"].as_f64().is_some_and(|time| time > 0.0), "{record}");
    assert_eq!(record["attempts"], 0);
}

#[test]
fn a_tls_client_that_has_ended_leaves_the_queue() {
    let hello = hello(b"a.example");
    check_gone(TLS, &hello, &hello);
}

/// Bytes behind a hello cannot complete a handshake either.
#[test]
fn so_does_one_that_has_sent_more_than_its_hello() {
    let hello = hello(b"a.example");
    check_gone(TLS, &hello, &[&hello[..], b"more"].concat());
}

#[test]
fn a_tcp_client_that_ends_without_a_byte_leaves_the_queue() {
    check_gone(TCP, b"x", b"");
}

/// Returns the first bytes of a PostgreSQL client for a session without TLS.
fn login() -> Vec<u8> {
    postgres(3 << 16, b"user\0u\0database\0d\0\0")
}

fn postgres(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + rest.len()).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

#[test]
fn a_session_of_postgres_that_has_ended_leaves_the_queue() {
    check_gone(POSTGRES, &login(), &login());
}

#[test]
fn a_request_to_cancel_that_is_whole_still_goes() {
    let (log, backend) = (LogFile::new(), Recorder::start("b"));
    let proxy = proxy(&log, POSTGRES, &backend.address.to_string(), QUEUE);
    let _first = holder(&proxy, &login());
    let request = postgres(80_877_102, &[0, 0, 0, 7, 0, 0, 0, 9]);
    let mut client = proxy.connect();
    client.write_all(&request).unwrap();
    finish_writing(&client);
    assert_eq!(backend.received(), request);
}

/// The request may be whole, and the client may wait for the answer. So the client keeps its place in the
/// queue.
#[test]
fn a_tcp_client_that_has_sent_bytes_keeps_its_place() {
    let (log, backend) = (LogFile::new(), Recorder::start("b"));
    let proxy = proxy(&log, TCP, &backend.address.to_string(), QUEUE);
    let first = holder(&proxy, b"x");
    let mut client = proxy.connect();
    client.write_all(b"a whole request").unwrap();
    wait_for_waiting(&proxy, 1);
    finish_writing(&client);
    // This client comes after the FIN, so the FIN has been seen when this client leaves.
    let leaver = proxy.connect();
    wait_for_waiting(&proxy, 2);
    finish_writing(&leaver);
    proxy.wait_for_metric(&closed("client_gone"), 1.0);
    assert_eq!(waiting(&proxy), 1);
    drop(first);
    expect_bytes(&client, b"b\n");
    assert_eq!(backend.received(), b"x");
    assert_eq!(backend.received(), b"a whole request");
}

/// A client that only reads banners, such as a monitoring script.
#[test]
fn a_tcp_client_that_ends_without_a_byte_is_served_where_a_backend_is_free() {
    let (log, backend) = (LogFile::new(), Recorder::start("b"));
    let proxy = proxy(&log, TCP, &backend.address.to_string(), "");
    for _ in 0..20 {
        let client = proxy.connect();
        finish_writing(&client);
        expect_bytes(&client, b"b\n");
    }
    assert_eq!(gone(&proxy), 0.0);
}

#[test]
fn a_full_queue_has_room_again_when_its_clients_have_gone() {
    let (log, backend) = (LogFile::new(), Recorder::start("b"));
    let proxy = proxy(&log, TLS, &backend.address.to_string(), QUEUE);
    let hello = hello(b"a.example");
    let first = holder(&proxy, &hello);
    let impatient: Vec<_> = (0..2)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(&hello).unwrap();
            client
        })
        .collect();
    wait_for_waiting(&proxy, 2);
    drop(impatient);
    wait_for_waiting(&proxy, 0);
    let mut live = proxy.connect();
    live.write_all(&hello).unwrap();
    wait_for_waiting(&proxy, 1);
    drop(first);
    expect_bytes(&live, b"b\n");
    assert_eq!(backend.connections(), 2);
}

/// The same rules hold for a client that ends while a backend is being connected.
#[test]
fn a_tls_client_that_ends_during_the_connect_is_gone() {
    let (log, hole) = (LogFile::new(), FullListener::new());
    let keys = "connect_timeout = '60s'\ndial_timeout = '60s'";
    let proxy = proxy(&log, TLS, &hole.address.to_string(), keys);
    let mut client = proxy.connect();
    client.write_all(&hello(b"a.example")).unwrap();
    let aborted = r#"pointsman_connect_attempts_total{pool="p",outcome="aborted"}"#;
    wait_for("the attempt", || {
        proxy.remote.view().snapshot.load().pools["p"].pool.backends()[0].active() == 1
    });
    finish_writing(&client);
    proxy.wait_for_metric(aborted, 1.0);
    let record: Value = log.record();
    assert_eq!((&record["close"], &record["attempts"]), (&"client_gone".into(), &1.into()));
    // The refusal is an alert, because a client that has only half closed can read it.
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 80]);
}

/// A client that may wait for a banner waits for the backend.
#[test]
fn a_tcp_client_that_half_closes_during_the_connect_is_not() {
    let (log, hole) = (LogFile::new(), FullListener::new());
    let proxy = proxy(&log, TCP, &hole.address.to_string(), "connect_timeout = '300ms'");
    let client = proxy.connect();
    finish_writing(&client);
    expect_reset(&client);
    proxy.wait_for_metric(&closed("connect_timeout"), 1.0);
    assert_eq!(gone(&proxy), 0.0);
}
