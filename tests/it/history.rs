//! The history of the last ten minutes: its connections, bytes and ends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use pointsman::admin;
use serde_json::Value;

use crate::support::hello::hello;
use crate::support::pair::{connect_from, expect_bytes};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

/// Starts a proxy with the listeners `main` and `tls`, which refuses names without a route. Returns the address of admin.
fn start() -> (Proxy, SocketAddr) {
    let backend = Backend::echo().address;
    Proxy::start_with_admin(config(&format!(
        "workers = 2\naccess_log.to = 'off'\n\
         [listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [listener.closed]\nbind = '127.0.0.1:0'\npool = 'app'\ndeny = ['127.0.0.0/8']\n\
         [listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nroutes = [{{ sni = 'a.example', pool = 'app' }}]\n\
         [pool.app]\nbackends = ['{backend}']\nhealth.check = 'off'\n"
    )))
}

fn page(admin: SocketAddr, query: &str) -> Value {
    let (code, body) = admin::ask(admin, &format!("/api/v1/history{query}"), PATIENCE).unwrap();
    assert_eq!(code, 200, "{query}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

fn series(values: &Value) -> Vec<u64> {
    values.as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).collect()
}

fn sum(values: &Value) -> u64 {
    series(values).iter().sum()
}

/// Waits until the sum of a series has this value.
fn wait_for_sum(admin: SocketAddr, value: impl Fn(&Value) -> &Value, expected: u64) {
    wait_for(&format!("a sum of {expected}"), || sum(value(&page(admin, ""))) == expected);
}

#[test]
fn a_history_has_the_connections_of_all_listeners() {
    let (proxy, admin) = start();
    let connect = |listener: &str| connect_from("127.0.0.1".parse().unwrap(), proxy.address(listener));
    let mut first = connect("main");
    first.write_all(b"hello").unwrap();
    expect_bytes(&first, b"hello");
    wait_for("the open connection", || series(&page(admin, "")["open"]).last() == Some(&1));
    wait_for_sum(admin, |page| &page["from_client_bytes"], 5);
    wait_for_sum(admin, |page| &page["from_backend_bytes"], 5);
    first.shutdown(Shutdown::Write).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    // Both are refused: one before its first bytes are read, one because of its name.
    let mut denied = connect("closed");
    let _ = denied.read(&mut [0]);
    let mut unmatched = connect("tls");
    unmatched.write_all(&hello(b"b.example")).unwrap();
    let _ = unmatched.read_to_end(&mut Vec::new());
    wait_for_sum(admin, |page| &page["accepted"], 3);
    wait_for_sum(admin, |page| &page["ended"]["fin"], 1);
    wait_for_sum(admin, |page| &page["ended"]["unavailable"], 2);
    wait_for("no open connection", || series(&page(admin, "")["open"]).last() == Some(&0));
    let page = page(admin, "");
    let words: Vec<_> = page["ended"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "backend_reset",
        "client_gone",
        "client_reset",
        "closed",
        "fin",
        "lost",
        "refused",
        "timeout",
        "unavailable",
        "unreachable",
    ];
    assert_eq!(words, expected);
    let count = page["open"].as_array().unwrap().len();
    let ended = page["ended"].as_object().unwrap().values();
    let others = [&page["accepted"], &page["from_client_bytes"], &page["from_backend_bytes"]];
    for values in ended.chain(others) {
        assert_eq!(values.as_array().unwrap().len(), count, "{page}");
    }
    assert_eq!(page["interval_seconds"], 1);
    assert!(series(&page["open"]).contains(&1), "{page}");
}

#[test]
fn a_history_grows_by_a_sample_a_second() {
    let (_proxy, admin) = start();
    let end = |page: &Value| humantime::parse_rfc3339(page["end"].as_str().unwrap()).unwrap();
    let first = page(admin, "");
    let (began, count) = (end(&first), first["open"].as_array().unwrap().len());
    wait_for("three samples", || page(admin, "")["open"].as_array().unwrap().len() >= count + 3);
    let last = page(admin, "");
    let grown = last["open"].as_array().unwrap().len() - count;
    let seconds = end(&last).duration_since(began).unwrap().as_secs_f64();
    assert!((seconds - grown as f64).abs() < 1.0, "{seconds} s for {grown} samples");
    let two = page(admin, "?seconds=2");
    assert_eq!(two["open"].as_array().unwrap().len(), 2);
    assert_eq!(two["ended"]["fin"].as_array().unwrap().len(), 2);
}

#[test]
fn a_bad_query_is_refused_with_what_is_allowed() {
    let (_proxy, admin) = start();
    for query in ["?seconds=0", "?seconds=601", "?seconds=x", "?minutes=1", "?seconds=1&seconds=2"] {
        let (code, body) = admin::ask(admin, &format!("/api/v1/history{query}"), PATIENCE).unwrap();
        let expected = (400, "the query may only have `seconds`, a number from 1 to 600\n");
        assert_eq!((code, body.as_str()), expected, "{query}");
    }
    assert!(TcpStream::connect(admin).is_ok());
}
