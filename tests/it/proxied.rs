//! The PROXY protocol: headers that come with connections, headers that go to backends, and those of checks.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};

use pointsman::wire::proxy_protocol::{
    HeaderOrigin, HeaderSearch, HeaderVersion, OutgoingHeader, ProxyHeader, Tlv, local, read,
};

use crate::process::{Folder, Program};
use crate::records::LogFile;
use crate::support::hello::{extension, hello, message, records, server_name};
use crate::support::pair::patient;
use crate::support::recorder::{Recorder, ask, ask_on, finish, list};
use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

/// The source that headers name.
const CLIENT: &str = "198.51.100.7:4711";
const FRONT: &str = "203.0.113.1:443";

/// Starts a listener named `main` with these keys in front of a pool `p` with those keys.
fn proxy(listener: &str, backends: &str, pool: &str) -> Proxy {
    logging("off", listener, backends, pool)
}

fn logging(log: &str, listener: &str, backends: &str, pool: &str) -> Proxy {
    Proxy::start(config(&format!(
        r#"
        workers = 2
        access_log.to = "{log}"
        [listener.main]
        bind = "127.0.0.1:0"
        {listener}
        [pool.p]
        backends = {backends}
        health.check = "off"
        {pool}
        "#
    )))
}

const TCP: &str = "pool = \"p\"";
const TLS: &str = "protocol = \"tls\"\nunmatched = \"p\"\nno_sni = \"p\"";

/// Starts a listener that trusts the address of the test.
fn trusting(protocol: &str, mode: &str, backend: &Recorder) -> Proxy {
    let keys = format!("{protocol}\nproxy_protocol = {{ mode = \"{mode}\", trusted = \"127.0.0.0/8\" }}");
    proxy(&keys, &list([backend]), "")
}

/// Starts a listener that trusts only other addresses.
fn untrusting(protocol: &str, mode: &str, backend: &Recorder) -> Proxy {
    let keys =
        format!("{protocol}\nproxy_protocol = {{ mode = \"{mode}\", trusted = [\"10.0.0.0/8\", \"::/0\"] }}");
    proxy(&keys, &list([backend]), "")
}

fn header(version: HeaderVersion, source: &str, tlvs: &[(u8, &[u8])], crc32c: bool) -> Vec<u8> {
    let endpoints = Some((source.parse().unwrap(), FRONT.parse().unwrap()));
    OutgoingHeader { version, endpoints, tlvs: tlvs.to_vec(), crc32c }.write()
}

/// Returns headers of all kinds, with the outcome that counts each.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let tlvs: &[(u8, &[u8])] = &[(Tlv::AUTHORITY, b"a.example"), (0xea, &[7; 300])];
    vec![
        (header(HeaderVersion::V1, CLIENT, &[], false), "v1"),
        (header(HeaderVersion::V1, "[2001:db8::7]:1", &[], false), "v1"),
        (header(HeaderVersion::V2, CLIENT, &[], false), "v2"),
        (header(HeaderVersion::V2, CLIENT, tlvs, true), "v2"),
        (local(HeaderVersion::V1, None), "local"),
        (local(HeaderVersion::V2, None), "local"),
        (local_of_unknown_family(), "local"),
    ]
}

/// Returns LOCAL with a family byte that the protocol does not define, and a block that is no list of TLVs.
fn local_of_unknown_family() -> Vec<u8> {
    let mut header = local(HeaderVersion::V2, None);
    header.truncate(13);
    header.extend(b"\xf1\0\x04junk");
    header
}

fn count(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_proxy_headers_total{{listener="main",outcome="{outcome}"}}"#))
}

fn shadowed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_proxy_shadowed_total{{listener="main",reason="{reason}"}}"#))
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#))
}

/// Returns the bytes from clients, by both engines.
fn from_clients(proxy: &Proxy) -> f64 {
    let of = |engine: &str| {
        let labels = format!(r#"listener="main",direction="from_client",engine="{engine}""#);
        proxy.metric(&format!("pointsman_bytes_total{{{labels}}}"))
    };
    of("copied") + of("spliced")
}

/// Sends bytes one by one, each in a packet of its own as far as the kernel allows it.
fn send_byte_by_byte(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        stream.write_all(&[*byte]).unwrap();
    }
}

/// Checks that the bytes of a client behind a header reach the backend, and no other bytes, however they are
/// cut.
fn check_headers(protocol: &str, words: &[u8]) {
    let backend = Recorder::start("b");
    let proxy = trusting(protocol, "require", &backend);
    let mut expected = 0.0;
    for (header, outcome) in headers() {
        let before = count(&proxy, outcome);
        let whole = [&header[..], words].concat();
        assert_eq!(ask(&proxy, &whole).unwrap(), "b");
        assert_eq!(backend.received(), words);
        let mut slow = proxy.connect();
        send_byte_by_byte(&mut slow, &whole);
        assert_eq!(ask_on(slow, b"").unwrap(), "b");
        assert_eq!(backend.received(), words);
        let mut parted = proxy.connect();
        parted.write_all(&header).unwrap();
        wait_for("the header", || count(&proxy, outcome) == before + 3.0);
        assert_eq!(ask_on(parted, words).unwrap(), "b");
        assert_eq!(backend.received(), words);
        expected += 3.0 * words.len() as f64;
    }
    wait_for("the bytes", || from_clients(&proxy) == expected);
    assert_eq!(closed(&proxy, "client_fin") + closed(&proxy, "backend_fin"), 3.0 * headers().len() as f64);
}

#[test]
fn headers_in_front_of_anything() {
    check_headers(TCP, b"some words");
}

#[test]
fn headers_in_front_of_a_hello() {
    check_headers(TLS, &hello(b"a.example"));
}

#[test]
fn a_server_that_speaks_first_is_heard_behind_a_header() {
    let backend = Recorder::start("b");
    let proxy = trusting(TCP, "require", &backend);
    assert_eq!(ask(&proxy, &header(HeaderVersion::V2, CLIENT, &[], false)).unwrap(), "b");
    assert_eq!(backend.received(), b"");
}

/// Checks that a client is refused by a reset and no backend is reached.
#[track_caller]
fn check_refused(proxy: &Proxy, words: &[u8], outcome: &str, reason: &str) {
    let before = (closed(proxy, reason), count(proxy, outcome));
    let mut client = proxy.connect();
    let _ = client.write_all(words);
    if reason == "proxy_truncated" {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer, b"", "{reason}");
    wait_for(reason, || closed(proxy, reason) == before.0 + 1.0);
    assert_eq!(count(proxy, outcome), before.1 + 1.0, "{outcome}");
}

#[test]
fn what_is_refused_is_counted_apart() {
    let mut broken = header(HeaderVersion::V2, CLIENT, &[], true);
    *broken.last_mut().unwrap() ^= 1;
    let unknown = [&header(HeaderVersion::V2, CLIENT, &[], false)[..13], &[0x41, 0, 0]].concat();
    for protocol in [TCP, TLS] {
        let backend = Recorder::start("b");
        for mode in ["require", "accept", "shadow"] {
            let proxy = trusting(protocol, mode, &backend);
            check_refused(&proxy, &broken, "checksum", "proxy_checksum");
            check_refused(&proxy, &unknown, "malformed", "proxy_malformed");
            check_refused(&proxy, b"PROXY TCP4 nonsense\r\n", "malformed", "proxy_malformed");
            check_refused(&proxy, b"PROXY TCP4 10.0", "truncated", "proxy_truncated");
            check_refused(&proxy, &broken[..20], "truncated", "proxy_truncated");
        }
        let proxy = trusting(protocol, "require", &backend);
        check_refused(&proxy, &hello(b"a.example"), "missing", "proxy_missing");
        check_refused(&proxy, b"GET / HTTP/1.1\r\n\r\n", "missing", "proxy_missing");
        let proxy = untrusting(protocol, "require", &backend);
        check_refused(&proxy, &header(HeaderVersion::V2, CLIENT, &[], false), "untrusted", "proxy_untrusted");
        check_refused(&proxy, b"", "untrusted", "proxy_untrusted");
        assert_eq!(backend.connections(), 0);
    }
}

#[test]
fn a_header_that_nobody_believes_is_named() {
    let backend = Recorder::start("b");
    let proxies = [
        proxy(TLS, &list([&backend]), ""),
        untrusting(TLS, "accept", &backend),
        untrusting(TLS, "shadow", &backend),
    ];
    for proxy in proxies {
        for version in [HeaderVersion::V1, HeaderVersion::V2] {
            let words = [header(version, CLIENT, &[], false), hello(b"a.example")].concat();
            check_refused(&proxy, &words, "unexpected", "proxy_unexpected");
        }
        // In the mode that serves and counts, only served clients are counted.
        assert_eq!(shadowed(&proxy, "proxy_untrusted"), 0.0);
    }
    // One header is accepted, not two.
    let proxy = trusting(TLS, "require", &backend);
    let words =
        [header(HeaderVersion::V1, CLIENT, &[], false), header(HeaderVersion::V1, CLIENT, &[], false)]
            .concat();
    check_refused(&proxy, &words, "unexpected", "proxy_unexpected");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_peer_may_come_without_where_none_is_required() {
    for (protocol, words) in [(TCP, b"words".to_vec()), (TLS, hello(b"a.example"))] {
        let backend = Recorder::start("b");
        for mode in ["accept", "shadow"] {
            let is_shadow = f64::from(u8::from(mode == "shadow"));
            let trusting = trusting(protocol, mode, &backend);
            assert_eq!(ask(&trusting, &words).unwrap(), "b");
            assert_eq!(backend.received(), words);
            assert_eq!(count(&trusting, "missing"), 1.0);
            assert_eq!(shadowed(&trusting, "proxy_missing"), is_shadow);
            let whole = [&header(HeaderVersion::V2, CLIENT, &[], false)[..], &words].concat();
            assert_eq!(ask(&trusting, &whole).unwrap(), "b");
            assert_eq!(backend.received(), words);
            let untrusting = untrusting(protocol, mode, &backend);
            assert_eq!(ask(&untrusting, &words).unwrap(), "b");
            assert_eq!(backend.received(), words);
            assert_eq!(count(&untrusting, "untrusted"), 1.0);
            assert_eq!(shadowed(&untrusting, "proxy_untrusted"), is_shadow);
            assert_eq!(shadowed(&trusting, "proxy_missing"), is_shadow);
        }
    }
}

/// Starts a listener with a short timeout for headers.
fn impatient(mode: &str, backend: &Recorder) -> Proxy {
    let keys = format!(
        "{TCP}\nproxy_protocol = {{ mode = \"{mode}\", trusted = \"127.0.0.1\", timeout = \"50ms\" }}"
    );
    proxy(&keys, &list([backend]), "")
}

#[test]
fn a_header_comes_in_time_or_not_at_all() {
    let backend = Recorder::start("b");
    let proxy = impatient("require", &backend);
    check_refused(&proxy, b"", "timeout", "proxy_timeout");
    check_refused(&proxy, b"PROXY ", "timeout", "proxy_timeout");
    assert_eq!(backend.connections(), 0);
    // A client without bytes may wait for the server. A client with half a header is refused.
    for mode in ["accept", "shadow"] {
        let proxy = impatient(mode, &backend);
        check_refused(&proxy, b"\r\n\r\n", "timeout", "proxy_timeout");
        assert_eq!(ask(&proxy, b"").unwrap(), "b");
        assert_eq!(count(&proxy, "missing"), 1.0);
    }
}

#[test]
fn who_leaves_without_a_byte_sent_nothing() {
    let backend = Recorder::start("b");
    let proxy = trusting(TCP, "require", &backend);
    assert_eq!(finish(proxy.connect()).unwrap_or_default(), b"");
    wait_for("no_data", || closed(&proxy, "no_data") == 1.0);
    let proxy = trusting(TCP, "accept", &backend);
    assert_eq!(finish(proxy.connect()).unwrap(), b"b\n");
}

#[test]
fn the_true_source_is_hashed() {
    let backends = Recorder::several("b", 4);
    let keys = format!("{TCP}\nproxy_protocol.trusted = \"127.0.0.1\"");
    let proxy = proxy(&keys, &list(&backends), "");
    let mut seen = HashSet::new();
    for host in 0..20 {
        let asked = [1, 2].map(|port| {
            let source = format!("198.51.100.{host}:{port}");
            ask(&proxy, &header(HeaderVersion::V2, &source, &[], false)).unwrap()
        });
        assert_eq!(asked[0], asked[1], "{host}");
        seen.extend(asked);
    }
    assert!(seen.len() > 2, "{seen:?}");
}

#[test]
fn an_authority_is_hashed_before_the_name_and_the_source() {
    let backends = Recorder::several("b", 4);
    let keys = format!("{TLS}\nproxy_protocol.trusted = \"127.0.0.1\"");
    let proxy = proxy(&keys, &list(&backends), "hash_on = \"proxy-authority\"");
    let asked = |source: &str, authority: &str, name: &str| {
        let tlvs: &[(u8, &[u8])] = &[(Tlv::AUTHORITY, authority.as_bytes())];
        let tlvs = if authority.is_empty() { &[] } else { tlvs };
        ask(&proxy, &[header(HeaderVersion::V2, source, tlvs, false), hello(name.as_bytes())].concat())
            .unwrap()
    };
    let mut seen = HashSet::new();
    for number in 0..20 {
        let name = format!("host-{number}.example");
        let by_authority = asked("198.51.100.1:1", &name, "a.example");
        assert_eq!(by_authority, asked("198.51.100.2:1", &name.to_uppercase(), "b.example"));
        // The same name leads to the same backend, whether a header or a hello has it. A text that is not a
        // name is not used.
        assert_eq!(by_authority, asked("198.51.100.3:1", "", &name));
        assert_eq!(by_authority, asked("198.51.100.3:1", "no name", &name));
        seen.insert(by_authority);
    }
    assert!(seen.len() > 2, "{seen:?}");
}

#[test]
fn the_access_log_has_client_and_peer() {
    let backend = Recorder::start("b");
    let log = LogFile::new();
    let keys = format!("{TLS}\nproxy_protocol = {{ mode = \"accept\", trusted = \"127.0.0.1\" }}");
    let proxy = logging(log.path(), &keys, &list([&backend]), "");
    let tlvs: &[(u8, &[u8])] =
        &[(Tlv::ALPN, b"h2"), (Tlv::AUTHORITY, b"front.example"), (Tlv::UNIQUE_ID, b"id \xff")];
    let mut records = Vec::new();
    for words in [
        [header(HeaderVersion::V2, CLIENT, tlvs, true), hello(b"a.example")].concat(),
        [local(HeaderVersion::V2, None), hello(b"a.example")].concat(),
        hello(b"a.example"),
    ] {
        let stream = proxy.connect();
        let peer = stream.local_addr().unwrap().to_string();
        assert_eq!(ask_on(stream, &words).unwrap(), "b");
        records.push((peer, log.records(records.len() + 1).pop().unwrap()));
    }
    let (peer, record) = &records[0];
    assert_eq!((&record["client"], &record["peer"]), (&CLIENT.into(), &peer.as_str().into()));
    assert_eq!(record["proxy_authority"], "front.example");
    assert_eq!(record["unique_id"], "id \u{ff}");
    assert_eq!((&record["proxy_alpn"], record["alpn"].is_null()), (&"h2".into(), true));
    assert_eq!(record["from_client_bytes"], hello(b"a.example").len());
    let (peer, record) = &records[1];
    assert_eq!((&record["client"], &record["peer"]), (&peer.as_str().into(), &peer.as_str().into()));
    let (peer, record) = &records[2];
    assert_eq!((&record["client"], record["peer"].is_null()), (&peer.as_str().into(), true));
    assert!(record["proxy_authority"].is_null() && record["unique_id"].is_null());
    assert!(record["proxy_alpn"].is_null());
}

/// Parses the bytes that a backend received.
#[track_caller]
fn parse(received: &[u8]) -> (ProxyHeader, &[u8]) {
    match read(received) {
        Ok(Some(HeaderSearch::Header(header, length))) => (header, &received[length..]),
        other => panic!("{other:?}: {}", received.escape_ascii()),
    }
}

/// Returns what the backend of a pool with this header receives when a client sends these bytes.
fn announced(listener: &str, pool: &str, words: &[u8]) -> (ProxyHeader, Vec<u8>, SocketAddr, Proxy) {
    let backend = Recorder::start("b");
    let proxy = proxy(listener, &list([&backend]), &format!("proxy_protocol = {pool}"));
    let stream = proxy.connect();
    let client = stream.local_addr().unwrap();
    assert_eq!(ask_on(stream, words).unwrap(), "b");
    let received = backend.received();
    let (header, rest) = parse(&received);
    (header, rest.to_vec(), client, proxy)
}

#[test]
fn backends_are_told_their_clients() {
    for (listener, words) in [(TCP, b"words".to_vec()), (TCP, Vec::new()), (TLS, hello(b"a.example"))] {
        for (pool, version) in [("\"v1\"", HeaderVersion::V1), ("\"v2\"", HeaderVersion::V2)] {
            let (header, rest, source, proxy) = announced(listener, pool, &words);
            let destination = proxy.address("main");
            let expected =
                ProxyHeader { version, origin: HeaderOrigin::Tcp { source, destination }, tlvs: Vec::new() };
            assert_eq!((header, rest), (expected, words.clone()));
            wait_for("the bytes", || from_clients(&proxy) == words.len() as f64);
        }
    }
}

#[test]
fn backends_are_told_what_came_in() {
    let trusting = format!("{TLS}\nproxy_protocol.trusted = \"127.0.0.1\"");
    let words = hello(b"a.example");
    let came: &[(u8, &[u8])] = &[
        (Tlv::ALPN, b"h2"),
        (Tlv::AUTHORITY, b"front.example"),
        (Tlv::UNIQUE_ID, b"id-7"),
        (Tlv::SSL, &[1, 0, 0, 0, 0]),
        (0xe0, b"theirs"),
        (0xe1, b"more"),
    ];
    let behind = [header(HeaderVersion::V2, CLIENT, came, true), words.clone()].concat();
    let check = |pool: &str, expected: &[(u8, &[u8])]| {
        let (header, rest, ..) = announced(&trusting, pool, &behind);
        let origin =
            HeaderOrigin::Tcp { source: CLIENT.parse().unwrap(), destination: FRONT.parse().unwrap() };
        assert_eq!((&header.origin, &rest), (&origin, &words));
        let tlvs: Vec<_> = header.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)).collect();
        assert_eq!(tlvs, expected, "{pool}");
    };
    check("\"v1\"", &[]);
    check("\"v2\"", &[]);
    check("{ version = \"v2\", pass = true }", came);
    check(
        "{ version = \"v2\", pass = [\"ssl\", \"0xE1\"] }",
        &[(Tlv::SSL, &[1, 0, 0, 0, 0]), (0xe1, b"more")],
    );
    check(
        "{ version = \"v2\", authority = true, unique_id = true, crc32c = true }",
        &[(Tlv::AUTHORITY, b"a.example"), (Tlv::UNIQUE_ID, b"id-7")],
    );
    check("{ version = \"v2\", alpn = true, crc32c = true }", &[(Tlv::ALPN, b"h2")]);
    check(
        "{ version = \"v2\", tlvs = { \"0xE0\" = \"ours\" }, pass = [\"0xE0\", \"alpn\"] }",
        &[(0xe0, b"ours"), (Tlv::ALPN, b"h2")],
    );
}

#[test]
fn the_one_protocol_of_a_hello_is_told() {
    let hello = |protocols: &[u8]| {
        let length = u16::try_from(protocols.len()).unwrap().to_be_bytes();
        let alpn = extension(16, &[&length, protocols].concat());
        records(&message(&[server_name(b"a.example"), alpn].concat()), &[20])
    };
    let check = |words: Vec<u8>, expected: Option<&[u8]>| {
        let (header, rest, ..) = announced(TLS, "{ version = \"v2\", alpn = true }", &words);
        assert_eq!((header.tlv(Tlv::ALPN), rest), (expected, words));
    };
    check(hello(b"\x0apostgresql"), Some(b"postgresql"));
    check(hello(b"\x02h2\x08http/1.1"), None);
    check(hello(b"\x02h"), None);
    check(crate::support::hello::hello(b"a.example"), None);
}

#[test]
fn each_connection_has_a_name_of_its_own() {
    let backend = Recorder::start("b");
    let log = LogFile::new();
    let pool = "proxy_protocol = { version = \"v2\", unique_id = true, authority = true }";
    let proxy = logging(log.path(), TCP, &list([&backend]), pool);
    let mut names = HashSet::new();
    for number in 1..=3 {
        assert_eq!(ask(&proxy, b"words").unwrap(), "b");
        let received = backend.received();
        let (header, _) = parse(&received);
        assert_eq!(header.tlv(Tlv::AUTHORITY), None);
        let name = String::from_utf8(header.tlv(Tlv::UNIQUE_ID).unwrap().to_vec()).unwrap();
        assert_eq!(log.records(number).pop().unwrap()["unique_id"], name.as_str());
        names.insert(name);
    }
    assert_eq!(names.len(), 3);
}

#[test]
fn another_backend_is_told_as_well() {
    let dead = own_address();
    let backend = Recorder::start("b");
    let backends = format!("[\"{dead}\", {}]", backend.written());
    for (listener, words) in [(TCP, b"words".to_vec()), (TLS, hello(b"a.example"))] {
        let proxy = proxy(listener, &backends, "balance = \"failover\"\nproxy_protocol = \"v2\"");
        assert_eq!(ask(&proxy, &words).unwrap(), "b");
        let received = backend.received();
        assert_eq!(parse(&received).1, words);
        wait_for("the bytes", || from_clients(&proxy) == words.len() as f64);
    }
}

/// With one proxy behind another, the last backend gets the address of the first client.
#[test]
fn a_row_of_proxies_tells_the_first_client() {
    let backend = Recorder::start("b");
    for version in ["v1", "v2"] {
        let last = proxy(
            &format!("{TLS}\nproxy_protocol.trusted = [\"127.0.0.1\"]"),
            &list([&backend]),
            &format!("proxy_protocol = \"{version}\""),
        );
        let pool = "proxy_protocol = { version = \"v2\", crc32c = true, unique_id = true }";
        let first = proxy(TCP, &format!("[\"{}\"]", last.address("main")), pool);
        let stream = first.connect();
        let source = stream.local_addr().unwrap();
        assert_eq!(ask_on(stream, &hello(b"a.example")).unwrap(), "b");
        let received = backend.received();
        let (header, rest) = parse(&received);
        let destination = first.address("main");
        assert_eq!(header.origin, HeaderOrigin::Tcp { source, destination });
        assert_eq!(rest, hello(b"a.example"));
    }
}

/// Returns the first bytes that a server gets from a check.
fn checked(pool: &str, greeting: &'static [u8], enough: usize) -> Vec<u8> {
    let (heard, words) = mpsc::channel();
    let heard = Mutex::new(heard);
    let server = Backend::serve(move |mut stream| {
        let _ = stream.write_all(greeting);
        let mut bytes = Vec::new();
        let mut chunk = [0; 256];
        while bytes.len() < enough {
            match stream.read(&mut chunk) {
                Ok(n @ 1..) => bytes.extend_from_slice(&chunk[..n]),
                _ => break,
            }
        }
        let _ = heard.lock().unwrap().send(bytes);
    });
    let _proxy = Proxy::start(config(&format!(
        r#"
        workers = 1
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        [pool.p]
        backends = ["{}"]
        {pool}
        "#,
        server.address
    )));
    words.recv_timeout(PATIENCE).expect("a check came")
}

#[test]
fn checks_begin_with_a_header() {
    let of = |header: &str, health: &str| {
        format!("proxy_protocol = \"{header}\"\nhealth = {{ interval = \"50ms\", {health} }}")
    };
    let own = local(HeaderVersion::V2, None);
    let begun = |health: &str, greeting, words: &[u8]| {
        let expected = [&own[..], words].concat();
        let heard = checked(&of("v2", health), greeting, expected.len());
        assert!(heard.starts_with(&expected), "{health}: {}", heard.escape_ascii());
    };
    begun("check = \"tcp\"", b"", b"");
    begun("check = \"tls\"", b"", &[22, 3]);
    begun("check = \"http\"", b"", b"GET / HTTP/1.1\r\n");
    begun("check = \"postgres\"", b"", &[0, 0, 0, 8, 4, 210, 22, 47]);
    begun("check = \"mysql\"", b"", b"");
    begun("check = \"redis\"", b"", b"*1\r\n$4\r\nPING\r\n");
    begun("check = \"smtp\"", b"220 x\r\n", b"QUIT\r\n");
    begun("check = \"mqtt\"", b"", &[0x10]);
    begun("check = \"ssh\"", b"", b"");
    begun("check = \"send-expect\", steps = [{ send = \"hi\" }, { expect = \"x\" }]", b"", b"hi");
    begun("check = \"send-expect\", steps = [{ expect = \"x\" }, { send = \"hi\" }]", b"x", b"hi");
    let line = checked(&of("v1", "check = \"redis\""), b"", 60);
    let (header, rest) = parse(&line);
    assert!(
        matches!(header.origin, HeaderOrigin::Tcp { source, .. } if source.ip().is_loopback()),
        "{header:?}"
    );
    assert_eq!((header.version, rest), (HeaderVersion::V1, &b"*1\r\n$4\r\nPING\r\n"[..]));
    let heard = checked(&of("v2", "check = \"redis\", proxy_protocol = false"), b"", 14);
    assert_eq!(heard, b"*1\r\n$4\r\nPING\r\n");
}

/// A backend that waits for the header before it greets, as a server-first service behind a proxy does.
#[test]
fn a_backend_that_waits_for_its_header_greets() {
    let backend = Backend::serve(|stream| {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_ok() && line.starts_with("PROXY TCP4 ") {
            let _ = reader.get_mut().write_all(b"220 ready\n");
        }
    });
    let proxy = proxy(TCP, &format!("[\"{}\"]", backend.address), "proxy_protocol = \"v1\"");
    let mut answer = String::new();
    BufReader::new(proxy.connect()).read_line(&mut answer).unwrap();
    assert_eq!(answer, "220 ready\n");
}

/// Ids of private links of AWS, Azure and Google Cloud, as their headers have them and as they are written.
const LINKS: [(u8, &[u8], &str); 3] = [
    (0xea, b"\x01vpce-08d2bf15fac5001c9", "vpce-08d2bf15fac5001c9"),
    (0xee, b"\x01\x78\x56\x34\x12", "305419896"),
    (0xe0, b"\0\0\0\0\0\x01\x02\x03", "66051"),
];

/// Returns the name of the backend that greets a client behind a header with this TLV.
fn ask_behind(proxy: &Proxy, tlvs: &[(u8, &[u8])]) -> Result<String, Vec<u8>> {
    let mut stream = proxy.connect();
    stream.write_all(&header(HeaderVersion::V2, CLIENT, tlvs, false)).unwrap();
    ask_on(stream, b"hello")
}

#[test]
fn private_links_are_logged_and_routed() {
    let backends = Recorder::several("b", 5);
    let routes: Vec<_> = LINKS
        .iter()
        .enumerate()
        .map(|(at, (kind, _, id))| {
            format!("{{ proxy_tlv = {{ \"{kind:#04X}\" = \"{id}\" }}, pool = \"p{at}\" }}")
                .replace("0X", "0x")
        })
        .collect();
    let pools: Vec<_> = (0..4)
        .map(|at| format!("[pool.p{at}]\nbackends = {}\nhealth.check = \"off\"\n", list([&backends[at]])))
        .collect();
    let log = LogFile::new();
    let keys = format!(
        "pool = \"p\"\nproxy_protocol = {{ trusted = \"127.0.0.0/8\" }}\nroutes = [{},\
         {{ proxy_tlv = {{ \"0xEA\" = [\"vpce-1\", \"vpce-2\"], \"0xE5\" = \"blue\" }}, pool = \"p3\" }}]",
        routes.join(", ")
    );
    let proxy = logging(log.path(), &keys, &list([&backends[4]]), &pools.join(""));
    for (at, (kind, value, _)) in LINKS.iter().enumerate() {
        assert_eq!(ask_behind(&proxy, &[(*kind, value)]).unwrap(), format!("b{at}"));
    }
    assert_eq!(ask_behind(&proxy, &[(0xea, b"\x01vpce-2"), (0xe5, b"blue")]).unwrap(), "b3");
    assert_eq!(ask_behind(&proxy, &[(0xea, b"\x01vpce-2"), (0xe5, b"red")]).unwrap(), "b4");
    assert_eq!(ask_behind(&proxy, &[(0xea, b"\x01vpce \n"), (0xe0, b"edge-001")]).unwrap(), "b4");
    let mut records = log.records(6);
    // A connection is logged when it ends, and two connections may end in either order.
    records.sort_by_key(|record| record["id"].as_u64());
    let links: Vec<_> = records.iter().map(|record| record["private_link"].clone()).collect();
    let mut expected: Vec<_> = LINKS.iter().map(|(_, _, id)| serde_json::json!(id)).collect();
    expected.extend([serde_json::json!("vpce-2"), serde_json::json!("vpce-2"), serde_json::Value::Null]);
    assert_eq!(links, expected);
    assert_eq!(records[0]["route"], "*+proxy_tlv");
}

/// All clients of a link share an address, and are one source. Other links of the same address are other
/// sources.
#[test]
fn sources_may_be_private_links() {
    let backend = Recorder::start("b");
    let keys = format!(
        "{TCP}\nproxy_protocol = {{ trusted = \"127.0.0.0/8\" }}\n\
         per_source = {{ by = \"private-link\", connections = 1 }}"
    );
    let proxy = proxy(&keys, &list([&backend]), "");
    let connect = |tlvs: &[(u8, &[u8])]| {
        let mut stream = proxy.connect();
        stream.write_all(&header(HeaderVersion::V2, CLIENT, tlvs, false)).unwrap();
        stream
    };
    let greeted = |stream: &mut TcpStream| stream.read_exact(&mut [0; 2]);
    let mut first = connect(&[(0xea, b"\x01vpce-1")]);
    greeted(&mut first).expect("the first of its link");
    greeted(&mut connect(&[(0xea, b"\x01vpce-1")])).expect_err("the second of its link");
    greeted(&mut connect(&[(0xea, b"\x01vpce-2")])).expect("another link of the same address");
    let mut without = connect(&[]);
    greeted(&mut without).expect("the first of its address");
    greeted(&mut connect(&[])).expect_err("the second of its address");
    let refused = r#"pointsman_connections_closed_total{listener="main",reason="source_connections"}"#;
    proxy.wait_for_metric(refused, 2.0);
}

/// If a limit counts by link, its log names the link, in a form that is not an address.
#[test]
fn saturation_names_private_links() {
    let backend = Recorder::start("b");
    let folder = Folder::new("links");
    let text = format!(
        "access_log.to = 'off'\nworkers = 2\n[admin]\nlisten = '127.0.0.1:0'\n[listener.main]\nbind = '127.0.0.1:0'\n\
         pool = 'app'\nproxy_protocol = {{ trusted = '127.0.0.0/8' }}\n\
         per_source = {{ by = 'private-link', connections = 2 }}\n[pool.app]\nbackends = {}\nhealth.check = 'off'\n",
        list([&backend])
    );
    let program = Program::serve(&folder.write("config.toml", &text));
    let admin = program.stderr.wait_for("admin listens address=");
    let admin: SocketAddr = admin.rsplit('=').next().unwrap().parse().unwrap();
    let connect = |tlvs: &[(u8, &[u8])]| {
        let mut stream = patient(TcpStream::connect(program.address("main")).unwrap());
        stream.write_all(&header(HeaderVersion::V2, CLIENT, tlvs, false)).unwrap();
        stream
    };
    let greeted = |stream: &mut TcpStream| stream.read_exact(&mut [0; 2]);
    let long = [b"\x01vpce-1,10.0.0.9%".as_slice(), &[b'x'; 100]].concat();
    let mut held: Vec<_> = [(0xea, &long[..]), (0xea, &long[..]), (0xe0, b"\0\0\0\0\0\x01\x02\x03")]
        .into_iter()
        .map(|tlv| connect(&[tlv]))
        .chain([connect(&[])])
        .collect();
    held.iter_mut().for_each(|stream| greeted(stream).expect("a place of its source"));
    greeted(&mut connect(&[(0xea, &long)])).expect_err("the third of its link");
    let cut = format!("link:0xEA:vpce-1%2C10.0.0.9%25{}...", "x".repeat(44));
    let line = program.stderr.wait_for("saturation=\"source_connections\"");
    let expected =
        format!("heaviest={cut} with 2, 198.51.100.7 with 1, link:0xE0:66051 with 1 most_refused={cut} 1");
    assert!(line.contains(&expected), "no {expected} in {line}");
    let (_, page) = pointsman::admin::ask(admin, "/api/v1/sources", PATIENCE).unwrap();
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let told: Vec<_> = page["heaviest"].as_array().unwrap().iter().map(|one| &one["source"]).collect();
    assert_eq!(told, [&*cut, "198.51.100.7", "link:0xE0:66051"], "{page}");
    assert_eq!(page["heaviest"][2]["private_link"], "66051");
}
