//! Hellos: their bytes reach the backend unchanged, and every bad hello is closed with its reason.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hello::{extension, fixture, hello, message, nameless, records, server_name};
use crate::support::recorder::{Recorder, ask, ask_on, list};
use crate::support::{PATIENCE, Proxy, config, pattern, wait_for};

const ENGINES: [&str; 3] = ["copy", "splice", "auto"];

const FIXTURES: [&str; 14] = [
    "chromium",
    "curl",
    "firefox",
    "gnutls",
    "java",
    "node",
    "openssl-early-data",
    "openssl-no-name",
    "openssl-records",
    "openssl-tls12",
    "openssl-tls13",
    "openssl-upper",
    "psql",
    "python",
];

/// The alerts of RFC 8446, section 6, that are sent here.
const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

/// Starts a `tls` listener named `main` with these keys, in front of a backend.
fn proxy(backend: &Recorder, keys: &str) -> Proxy {
    Proxy::start(config(&format!(
        r#"
        workers = 2
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        {keys}
        [pool.p]
        backends = {}
        health.check = "off"
        balance = "round-robin"
        "#,
        list([backend])
    )))
}

/// Starts a proxy that serves all names, and clients without a name.
fn open(backend: &Recorder, engine: &str) -> Proxy {
    proxy(backend, &format!("unmatched = \"p\"\nno_sni = \"p\"\nengine = \"{engine}\""))
}

/// Starts a proxy that serves one name.
fn guarded(backend: &Recorder, keys: &str) -> Proxy {
    proxy(backend, &format!("routes = [{{ sni = \"good.example\", pool = \"p\" }}]\n{keys}"))
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#))
}

fn heard(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_client_hello_total{{listener="main",outcome="{outcome}"}}"#))
}

/// Returns the sum of all series whose name and labels begin in this way.
fn sum(proxy: &Proxy, series: &str) -> f64 {
    let text = proxy.remote.view().metrics.render();
    let values = text.lines().filter(|line| line.starts_with(series));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn hello_memory(proxy: &Proxy) -> u64 {
    proxy.remote.view().bounds.hello_memory.inside()
}

fn alert(code: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, code]
}

/// The expected result of a bad hello.
struct Expected {
    /// The label of the hello counter, if the hello is counted.
    outcome: Option<&'static str>,
    reason: &'static str,
    /// The alert that the client reads. Without an alert it reads nothing and may be reset.
    alert: Option<u8>,
}

const fn expect(outcome: &'static str, reason: &'static str, alert: u8) -> Expected {
    Expected { outcome: Some(outcome), reason, alert: Some(alert) }
}

/// Checks one bad client, from its connect to its counts.
#[track_caller]
fn check_bad(keys: &str, expected: &Expected, act: impl FnOnce(&mut TcpStream)) {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, keys);
    let mut client = proxy.connect();
    act(&mut client);
    let mut answer = Vec::new();
    let end = client.read_to_end(&mut answer);
    drop(client);
    match expected.alert {
        Some(code) => {
            assert_eq!((answer, end.expect("an alert and no reset")), (alert(code), 7));
        }
        None => assert_eq!(answer, b"", "{end:?}"),
    }
    let Expected { outcome, reason, .. } = *expected;
    wait_for(reason, || sum(&proxy, r#"pointsman_connections_closed_total{listener="main""#) == 1.0);
    assert_eq!(closed(&proxy, reason), 1.0, "{}", proxy.remote.view().metrics.render());
    let outcomes = sum(&proxy, r#"pointsman_client_hello_total{listener="main""#);
    assert_eq!(outcomes, if outcome.is_some() { 1.0 } else { 0.0 });
    if let Some(outcome) = outcome {
        assert_eq!(heard(&proxy, outcome), 1.0, "{outcome}");
    }
    assert_eq!(sum(&proxy, "pointsman_connect_attempts_total"), 0.0);
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
    assert_eq!(backend.connections(), 0);
    assert_eq!(hello_memory(&proxy), 0);
}

#[track_caller]
fn check_bytes(bytes: impl AsRef<[u8]>, expected: &Expected) {
    check_bad("", expected, |client| client.write_all(bytes.as_ref()).unwrap());
    // Unread bytes behind the hello do not change the answer.
    if expected.alert.is_some() {
        let more = [bytes.as_ref(), &[0xaa; 100_000]].concat();
        check_bad("", expected, |client| client.write_all(&more).unwrap());
    }
}

#[test]
fn real_hellos_reach_the_backend_as_they_are() {
    let backend = Recorder::start("b");
    for engine in ENGINES {
        let proxy = open(&backend, engine);
        for name in FIXTURES {
            let bytes = fixture(name);
            assert_eq!(ask(&proxy, &bytes).as_deref(), Ok("b"), "{name}");
            assert!(backend.received() == bytes, "{name} by {engine}");
        }
        assert_eq!((heard(&proxy, "sni"), heard(&proxy, "no_sni")), (13.0, 1.0));
    }
}

#[test]
fn the_split_into_segments_does_not_matter() {
    let backend = Recorder::start("b");
    let bytes = fixture("openssl-records");
    for engine in ENGINES {
        let proxy = open(&backend, engine);
        for at in [1, 4, 5, 6, 9, 11, 43, 516, 517, 518, 522, 1000, 1530] {
            let mut client = proxy.connect();
            client.write_all(&bytes[..at]).unwrap();
            wait_for("the first piece is read", || hello_memory(&proxy) > 0);
            assert_eq!(ask_on(client, &bytes[at..]).as_deref(), Ok("b"));
            assert!(backend.received() == bytes, "cut at {at}");
        }
        let mut client = proxy.connect();
        client.set_nodelay(true).unwrap();
        for byte in &bytes {
            client.write_all(&[*byte]).unwrap();
        }
        assert_eq!(ask_on(client, b"").as_deref(), Ok("b"));
        assert!(backend.received() == bytes);
        assert_eq!(heard(&proxy, "sni"), 14.0);
    }
}

#[test]
fn the_split_into_records_does_not_matter() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    let whole = message(&[extension(21, &[0; 300]), server_name(b"good.example")].concat());
    let splits: [&[usize]; 5] = [&[], &[1], &[4, 1, 90], &[300, 40, 1], &[1; 400]];
    for lengths in splits {
        let bytes = records(&whole, lengths);
        assert_eq!(ask(&proxy, &bytes).as_deref(), Ok("b"), "{lengths:?}");
        assert!(backend.received() == bytes, "{lengths:?}");
    }
}

#[test]
fn a_hello_of_one_full_record_is_accepted() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    let rest = server_name(b"good.example");
    let padding = 16_384 - message(&rest).len() - extension(21, &[]).len();
    let largest = message(&[extension(21, &vec![0; padding]), rest].concat());
    assert_eq!(largest.len(), 16_384);
    for lengths in [&[][..], &[1; 16_384][..]] {
        let bytes = records(&largest, lengths);
        assert_eq!(ask(&proxy, &bytes).as_deref(), Ok("b"));
        assert!(backend.received() == bytes);
    }
}

#[test]
fn what_follows_the_hello_follows_it_to_the_backend() {
    let backend = Recorder::start("b");
    for engine in ENGINES {
        let proxy = open(&backend, engine);
        let bytes = [fixture("openssl-tls13"), pattern(3_000_000, 7)].concat();
        let client = proxy.connect();
        assert_eq!(ask_on(client, &bytes).as_deref(), Ok("b"));
        assert!(backend.received() == bytes, "{engine}");
    }
}

#[test]
fn what_is_not_tls_gets_no_answer() {
    let expected = Expected { outcome: Some("not_tls"), reason: "not_tls", alert: None };
    check_bytes("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", &expected);
    check_bytes("SSH-2.0-OpenSSH_9.2\r\n", &expected);
    check_bytes(pattern(5000, 3), &expected);
    check_bytes("\0", &expected);
    // An unexpected PROXY header has a reason of its own.
    let unexpected = Expected { outcome: Some("not_tls"), reason: "proxy_unexpected", alert: None };
    check_bytes("PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n", &unexpected);
    // An SSL 2 hello, an alert, application data.
    check_bytes([0x80, 0x2e, 1, 0, 2], &expected);
    check_bytes(alert(0), &expected);
    check_bytes([23, 3, 3, 0, 1, 0], &expected);
    check_bytes([22, 2], &expected);
}

#[test]
fn broken_hellos_get_the_alert_of_their_fault() {
    let malformed = |code| expect("malformed", "hello_malformed", code);
    check_bytes([22, 3, 1, 0, 0], &malformed(DECODE_ERROR));
    check_bytes([22, 3, 1, 0x40, 1], &malformed(RECORD_OVERFLOW));
    check_bytes([22, 3, 1, 0, 4, 2, 0, 0, 0], &malformed(UNEXPECTED_MESSAGE));
    let good = message(&server_name(b"good.example"));
    let first = records(&good[..20], &[]);
    check_bytes([first.as_slice(), &[23, 3, 3]].concat(), &malformed(UNEXPECTED_MESSAGE));
    check_bytes([first.as_slice(), &[22, 4]].concat(), &malformed(DECODE_ERROR));
    let mut cut = good.clone();
    cut[3] -= 1;
    check_bytes(records(&cut, &[]), &malformed(DECODE_ERROR));
    let name = server_name(b"good.example");
    let padding = extension(21, &[0]);
    let twice = [padding.as_slice(), &name, &padding].concat();
    check_bytes(records(&message(&twice), &[]), &malformed(DECODE_ERROR));
    let two_names = [name.as_slice(), &server_name(b"evil.example")].concat();
    check_bytes(records(&message(&two_names), &[]), &malformed(DECODE_ERROR));
    let entry = [&[0, 0, 12], b"good.example".as_slice()].concat();
    let list = [&[0, 30], entry.as_slice(), &entry].concat();
    check_bytes(records(&message(&extension(0, &list)), &[]), &malformed(DECODE_ERROR));
    // A length that ends behind its parent, although the bytes are there.
    let over = [&[0, 15, 0, 0, 20], b"good.example".as_slice(), &[0; 40]].concat();
    check_bytes(records(&message(&extension(0, &over)), &[]), &malformed(DECODE_ERROR));
    check_bytes(records(&message(&extension(0, b"")), &[]), &malformed(DECODE_ERROR));
}

#[test]
fn hellos_that_are_too_large_get_an_alert() {
    let expected = expect("too_large", "hello_too_large", DECODE_ERROR);
    check_bytes([22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfd], &expected);
    check_bytes([22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], &expected);
    check_bytes(records(&[1, 0, 0x3f, 0xfd], &[1, 1, 1]), &expected);
}

#[test]
fn names_that_are_no_host_names_get_an_alert() {
    let expected = expect("bad_name", "bad_name", UNRECOGNIZED_NAME);
    let label = "l".repeat(63);
    let long = [label.as_str(); 4].join(".");
    let names: [&[u8]; 15] = [
        b"",
        b".",
        b"good.example\0",
        b"good.example\0.evil.example",
        b"1.2.3.999",
        b"127.1",
        b"0x7f000001",
        b"good..example",
        b".good.example",
        b"*.good.example",
        b"good example",
        b"good.example\r\nGET /",
        b"g\xc3\xb6\xc3\xb6d.example",
        b"good.example:443",
        long.as_bytes(),
    ];
    for name in names {
        check_bad("", &expected, |client| client.write_all(&hello(name)).unwrap());
    }
    // The result is the same if all names and clients without a name are served.
    let anywhere = "unmatched = \"p\"\nno_sni = \"p\"";
    for name in names {
        check_bad(anywhere, &expected, |client| client.write_all(&hello(name)).unwrap());
    }
}

/// RFC 6066, section 3: an address is no server name. So `no_sni` decides, and neither routes nor `unmatched`
/// do.
#[test]
fn addresses_in_place_of_names_are_no_names() {
    let refused = expect("no_sni", "no_sni", MISSING_EXTENSION);
    for address in ["192.0.2.1", "127.0.0.1.", "::1", "[2001:db8::1]", "fe80::1%eth0"] {
        check_bad("unmatched = \"p\"", &refused, |client| {
            client.write_all(&hello(address.as_bytes())).unwrap()
        });
    }
}

#[test]
fn refused_names_get_an_alert() {
    check_bytes(nameless(), &expect("no_sni", "no_sni", MISSING_EXTENSION));
    check_bytes(hello(b"evil.example"), &expect("sni", "unmatched_sni", UNRECOGNIZED_NAME));
    check_bytes(hello(b"a.good.example"), &expect("sni", "unmatched_sni", UNRECOGNIZED_NAME));
}

#[test]
fn clients_that_leave_within_their_hello_are_told_from_silent_ones() {
    let no_data = Expected { outcome: None, reason: "no_data", alert: None };
    check_bad("", &no_data, |client| client.shutdown(Shutdown::Write).unwrap());
    let truncated = expect("truncated", "hello_truncated", DECODE_ERROR);
    for length in [1, 5, 9, 100] {
        check_bad("", &truncated, |client| {
            client.write_all(&fixture("openssl-tls13")[..length]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
    }
}

#[test]
fn a_reset_within_the_hello_is_a_client_that_left() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    let reset = |client: TcpStream| {
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    };
    reset(proxy.connect());
    wait_for("no_data", || closed(&proxy, "no_data") == 1.0);
    let mut client = proxy.connect();
    client.write_all(&hello(b"good.example")[..20]).unwrap();
    wait_for("the hello is being read", || hello_memory(&proxy) > 0);
    reset(client);
    wait_for("hello_truncated", || closed(&proxy, "hello_truncated") == 1.0);
    assert_eq!(heard(&proxy, "truncated"), 1.0);
    assert_eq!(sum(&proxy, r#"pointsman_connections_closed_total{listener="main""#), 2.0);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn silent_clients_are_closed_after_the_first_byte_timeout() {
    let expected = Expected { outcome: Some("timeout"), reason: "first_byte_timeout", alert: None };
    let began = Instant::now();
    check_bad("first_byte_timeout = \"100ms\"\nhello_timeout = \"1h\"", &expected, |_| {});
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_byte_now_and_then_does_not_prolong_the_hello_timeout() {
    let expected = expect("timeout", "hello_timeout", DECODE_ERROR);
    let mut bytes = fixture("chromium").into_iter();
    let mut sent = 0;
    check_bad("hello_timeout = \"300ms\"", &expected, |client| {
        let began = Instant::now();
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            client.write_all(&[bytes.next().unwrap()]).unwrap();
            sent += 1;
            assert!(began.elapsed() < PATIENCE / 2);
        }
        assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert!(sent > 1);
}

#[test]
fn a_client_that_never_stops_is_cut_off() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    for endless in [&[0xaa; 4096][..], &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff][..]] {
        let mut client = proxy.connect();
        let mut sent = 0;
        let error = loop {
            match client.write(endless) {
                Ok(n) => sent += n,
                Err(error) => break error,
            }
            assert!(sent < 64 << 20, "bounded by the kernel's buffers and what is thrown away");
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    }
    wait_for("both are closed", || closed(&proxy, "not_tls") + closed(&proxy, "hello_too_large") == 2.0);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn silent_clients_take_no_hello_memory() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    proxy.remote.view().bounds.hello_memory.set_limit(4096);
    let silent: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 20.0);
    assert_eq!(ask(&proxy, &hello(b"good.example")).as_deref(), Ok("b"));
    assert_eq!(closed(&proxy, "hello_memory"), 0.0);
    drop(silent);
}

#[test]
fn half_read_hellos_have_a_bound_in_the_whole_process() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    proxy.remote.view().bounds.hello_memory.set_limit(6000);
    let padded = |padding: usize| {
        let extensions = [extension(21, &vec![0; padding]), server_name(b"good.example")].concat();
        records(&message(&extensions), &[])
    };
    let bytes = padded(3000);
    let half = || {
        let mut client = proxy.connect();
        client.write_all(&bytes[..1000]).unwrap();
        client
    };
    let mut one = half();
    wait_for("one is being read", || hello_memory(&proxy) == 2048);
    let two = half();
    wait_for("two are being read", || hello_memory(&proxy) == 4096);
    // There is no memory for a third, nor for one of the two to grow. But a hello that comes whole needs
    // none.
    assert_eq!(ask(&proxy, &bytes[..1000]), Err(alert(INTERNAL_ERROR)));
    assert_eq!(ask(&proxy, &hello(b"good.example")).as_deref(), Ok("b"));
    one.write_all(&bytes[1000..]).unwrap();
    let mut answer = Vec::new();
    one.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, alert(INTERNAL_ERROR));
    drop(one);
    wait_for("both are closed", || closed(&proxy, "hello_memory") == 2.0);
    wait_for("its memory is given back", || hello_memory(&proxy) == 2048);
    assert_eq!(ask_on(two, &bytes[1000..]).as_deref(), Ok("b"));
    assert_eq!(hello_memory(&proxy), 0);
}

#[test]
fn the_memory_of_a_hello_is_bounded() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "");
    let rest = server_name(b"good.example");
    let large = message(&[extension(21, &[0; 16_000]), rest].concat());
    let bytes = records(&large, &vec![1; large.len()]);
    let mut client = proxy.connect();
    client.write_all(&bytes[..bytes.len() - 1]).unwrap();
    wait_for("nearly all is read", || hello_memory(&proxy) >= bytes.len() as u64 - 1);
    assert_eq!(hello_memory(&proxy), 6 * 16_384, "the most that a hello may take");
    assert_eq!(ask_on(client, &bytes[bytes.len() - 1..]).as_deref(), Ok("b"));
    assert!(backend.received() == bytes);
    assert_eq!(hello_memory(&proxy), 0);
}

#[test]
fn bad_clients_beside_good_ones_harm_none() {
    let backend = Recorder::start("b");
    let proxy = guarded(&backend, "hello_timeout = \"200ms\"");
    thread::scope(|scope| {
        for seed in 0..3 {
            let proxy = &proxy;
            scope.spawn(move || {
                for round in 0..40 {
                    let mut client = proxy.connect();
                    let garbage = pattern(1 + round * 37, seed * 100 + round as u64);
                    let prefix = &fixture("chromium")[..round * 40 % 1900];
                    let _ = client.write_all(prefix);
                    let _ = client.write_all(&garbage);
                    drop(client);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                assert_eq!(ask(&proxy, &hello(b"good.example")).as_deref(), Ok("b"));
            }
        });
    });
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
    assert_eq!(sum(&proxy, "pointsman_connections_total"), 160.0);
    assert_eq!(sum(&proxy, r#"pointsman_connections_closed_total{listener="main""#), 160.0);
    assert_eq!(proxy.metric("pointsman_panics_total"), 0.0);
    assert_eq!(backend.connections(), 40);
}
