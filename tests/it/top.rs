//! The server names and sources with the most new connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;

use pointsman::admin;
use serde_json::Value;

use crate::support::hello::{hello, nameless};
use crate::support::pair::connect_from;
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

/// A proxy with the listeners `tls`, `open` (its `unmatched` is a pool) and `main` (TCP, with PROXY headers and sources of
/// 24 bits).
struct Fixture {
    proxy: Proxy,
    admin: SocketAddr,
}

impl Fixture {
    fn start() -> Self {
        let backend = Backend::echo().address;
        let (proxy, admin) = Proxy::start_with_admin(config(&format!(
            "workers = 2\naccess_log.to = 'off'\nlimits.source_prefix.v4 = 24\n\
             [listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\nproxy_protocol = {{ mode = 'accept', trusted = \
             '127.0.0.1' }}\nper_source.connections = 1000\n\
             [listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nroutes = [{{ sni = 'a.example', pool = 'app' }}, \
             {{ sni = '*.b.example', pool = 'app' }}, {{ sni = 'no.example', action = 'reject' }}]\n\
             [listener.open]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nroutes = [{{ sni = 'a.example', pool = 'app' }}]\n\
             unmatched = 'app'\n\
             [pool.app]\nbackends = ['{backend}']\nhealth.check = 'off'\n"
        )));
        Self { proxy, admin }
    }

    /// Sends bytes to a listener from this address, and waits for the first answer or the end.
    fn send(&self, source: &str, listener: &str, bytes: &[u8]) {
        let mut client = connect_from(source.parse().unwrap(), self.proxy.address(listener));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(bytes).unwrap();
        let _ = client.read(&mut [0]);
    }

    fn send_name(&self, listener: &str, name: &str) {
        self.send("127.0.0.1", listener, &hello(name.as_bytes()));
    }

    fn page(&self, query: &str) -> Value {
        let (code, body) = admin::ask(self.admin, &format!("/api/v1/top{query}"), PATIENCE).unwrap();
        assert_eq!(code, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// Waits until a kind has these counts, without an error.
    fn wait_for_counts(&self, kind: &str, expected: &[(&str, u64)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let mut found = BTreeMap::new();
        let has_come = crate::support::find_in_time(|| {
            found = counts(&self.page("?top=1000")[kind]);
            (found == expected).then_some(())
        });
        assert!(has_come.is_some(), "{kind}: {found:?}, not {expected:?}");
    }
}

/// Returns the exact counts of a kind.
fn counts(kind: &Value) -> BTreeMap<String, u64> {
    let entries = kind["top"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            assert_eq!(entry["error"], 0, "{kind}");
            (entry["name"].as_str().unwrap().to_owned(), entry["connections"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn names_with_and_without_a_route_are_counted_apart() {
    let fixture = Fixture::start();
    for (listener, name) in [
        ("tls", "a.example"),
        ("tls", "A.Example"),
        ("tls", "x.b.example"),
        ("tls", "no.example"),
        ("tls", "other.example"),
        ("open", "a.example"),
        ("open", "other.example"),
        ("open", "third.example"),
    ] {
        fixture.send_name(listener, name);
    }
    fixture.wait_for_counts("names", &[("a.example", 3), ("x.b.example", 1), ("no.example", 1)]);
    fixture.wait_for_counts("unknown_names", &[("other.example", 2), ("third.example", 1)]);
    fixture.wait_for_counts("sources", &[("127.0.0.1", 8)]);
    let page = fixture.page("?top=1");
    assert_eq!(
        page["names"]["top"],
        serde_json::json!([{"name": "a.example", "connections": 3, "error": 0}])
    );
    assert_eq!((&page["names"]["connections"], &page["names"]["slots"]), (&5.into(), &896.into()), "{page}");
    assert_eq!((&page["names"]["error_bound"], &page["workers_silent"]), (&0.into(), &0.into()), "{page}");
    let since = humantime::parse_rfc3339(page["since"].as_str().unwrap()).unwrap();
    assert!(since <= std::time::SystemTime::now(), "{page}");
}

/// A client is counted by its address in the header, and as its listener counts sources.
#[test]
fn sources_are_counted_as_their_listeners_count_them() {
    let fixture = Fixture::start();
    fixture.send("127.0.0.1", "main", b"PROXY TCP4 198.51.100.7 192.0.2.1 5 6\r\nhello");
    fixture.send("127.0.0.1", "main", b"PROXY TCP4 198.51.100.8 192.0.2.1 5 6\r\nhello");
    fixture.send("127.0.9.7", "main", b"hello");
    fixture.send("127.0.9.7", "tls", &hello(b"a.example"));
    fixture.send("127.0.9.8", "tls", &nameless());
    let expected = [("198.51.100.0", 2), ("127.0.9.0", 1), ("127.0.9.7", 1), ("127.0.9.8", 1)];
    fixture.wait_for_counts("sources", &expected);
    fixture.wait_for_counts("names", &[("a.example", 1)]);
    fixture.wait_for_counts("unknown_names", &[]);
}

#[test]
fn hostile_names_are_no_names_or_stay_whole() {
    let fixture = Fixture::start();
    let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    fixture.send_name("tls", &longest);
    fixture.send_name("tls", "_-_.xn--p1ai");
    for broken in [&b"a\"b.example"[..], b"a\nb.example", b"\xff.example", b"a b.example", b"", &[b'a'; 300]]
    {
        fixture.send("127.0.7.7", "tls", &hello(broken));
    }
    fixture.send("127.0.0.1", "tls", b"GET / HTTP/1.1\r\n\r\n");
    fixture.send_name("tls", "a.example");
    fixture.wait_for_counts("names", &[("a.example", 1)]);
    fixture.wait_for_counts("unknown_names", &[(&longest, 1), ("_-_.xn--p1ai", 1)]);
    assert_eq!(counts(&fixture.page("")["sources"]).get("127.0.0.1"), Some(&3));
}

/// More random names than there are slots do not displace a name that is frequent among them.
#[test]
fn a_flood_of_random_names_hides_nothing() {
    let fixture = Fixture::start();
    fixture.send_name("tls", "a.example");
    for number in 0..2500 {
        fixture.send_name(
            "tls",
            &if number % 5 == 0 { "scan.example".to_owned() } else { format!("r{number}.example") },
        );
    }
    wait_for("all names", || fixture.page("")["unknown_names"]["connections"] == 2500);
    fixture.wait_for_counts("names", &[("a.example", 1)]);
    let unknown = &fixture.page("")["unknown_names"];
    let first = &unknown["top"][0];
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(first["name"], "scan.example", "{unknown}");
    let (count, error) = (number(&first["connections"]), number(&first["error"]));
    assert!(count - error <= 500 && 500 <= count, "{unknown}");
    assert!(error <= number(&unknown["error_bound"]), "{unknown}");
    assert!(number(&unknown["error_bound"]) <= 2500 / 896, "{unknown}");
}

#[test]
fn a_bad_query_is_refused_with_what_is_allowed() {
    let fixture = Fixture::start();
    for query in ["?top=0", "?top=1001", "?top=x", "?top", "?most=1", "?top=1&top=2"] {
        let (code, body) = admin::ask(fixture.admin, &format!("/api/v1/top{query}"), PATIENCE).unwrap();
        let expected = (400, "the query may only have `top`, a number from 1 to 1000\n");
        assert_eq!((code, body.as_str()), expected, "{query}");
    }
}
