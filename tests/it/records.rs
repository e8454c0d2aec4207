//! The records of connections: the access log and the metrics.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pointsman::telemetry::{CloseReason, ConnectOutcome, Direction, Engine, HelloOutcome};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::hello::{hello, message, nameless, records, server_name};
use crate::support::recorder::{Recorder, ask, finish, list};
use crate::support::{Backend, Proxy, config, pattern, wait_for};

/// A file for the access log in a folder of its own; both are removed when dropped.
pub(crate) struct LogFile(PathBuf);

impl LogFile {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("pointsman-records-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder.join("access.log"))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Returns this many lines, as soon as the file has them.
    fn lines(&self, count: usize) -> Vec<String> {
        let read = || fs::read(&self.0).unwrap();
        wait_for("the lines of the access log", || {
            read().iter().filter(|byte| **byte == b'\n').count() >= count
        });
        let text = String::from_utf8(read()).expect("the access log is ASCII");
        assert_eq!(text.lines().count(), count, "{text}");
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn records(&self, count: usize) -> Vec<Value> {
        self.lines(count).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the record of the only connection.
    pub(crate) fn record(&self) -> Value {
        self.records(1).remove(0)
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// Starts a `tls` listener named `main` that sends `*.good.example` to the pool `p`, which has these keys.
fn proxy(to: &str, format: &str, backends: &str, keys: &str) -> Proxy {
    impatient("1h", to, format, backends, keys)
}

/// Starts the same listener with timeouts for the first byte and for the hello.
fn impatient(patience: &str, to: &str, format: &str, backends: &str, keys: &str) -> Proxy {
    Proxy::start(config(&format!(
        r#"
        workers = 2
        access_log = {{ to = "{to}", format = "{format}" }}
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        routes = [{{ sni = "*.good.example", pool = "p" }}]
        first_byte_timeout = "{patience}"
        hello_timeout = "{patience}"
        [pool.p]
        backends = {backends}
        health.check = "off"
        {keys}
        "#
    )))
}

fn logging(log: &LogFile, backends: &str) -> Proxy {
    proxy(log.path(), "json", backends, "")
}

/// Checks fields of a record; the expected values are written as JSON.
#[track_caller]
fn check(record: &Value, expected: &str) {
    let expected: Value = serde_json::from_str(expected).unwrap();
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(record.get(key), Some(value), "{key} in {record}");
    }
}

fn seconds(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("no {key} in {record}"))
}

/// Returns a socket that is bound and does not listen. Connections to it are refused until it is dropped.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Returns a socket whose queue is full, so that further connections to it get no answer.
fn silent() -> (Vec<Socket>, SocketAddr) {
    let (socket, address) = refusing();
    socket.listen(0).unwrap();
    let mut kept = vec![socket];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address.into());
        kept.push(filler);
    }
    (kept, address)
}

/// Returns the sum of the series that begin in this way, whatever their further labels are.
fn sum(proxy: &Proxy, series: &str) -> f64 {
    let text = proxy.remote.view().metrics.render();
    let values = text.lines().filter(|line| line.starts_with(series));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn wait_until_idle(proxy: &Proxy) {
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
}

#[test]
fn a_served_connection_has_a_full_record() {
    let log = LogFile::new();
    let backend = Recorder::start("one");
    let proxy = logging(&log, &list([&backend]));
    let mut client = proxy.connect();
    let address = client.local_addr().unwrap();
    let first = hello(b"WWW.Good.Example.");
    let rest = pattern(200_000, 5);
    client.write_all(&first).unwrap();
    client.write_all(&rest).unwrap();
    assert_eq!(finish(client).unwrap(), b"one\n");
    let record = log.record();
    let bytes = first.len() + rest.len();
    check(
        &record,
        &format!(
            r#"{{
            "id": 1, "client": "{address}", "listener": "main", "sni": "www.good.example",
            "route": "*.good.example", "pool": "p", "backend": "one", "backend_address": "{}",
            "attempts": 1, "from_client_bytes": {bytes}, "from_backend_bytes": 4, "dropped_bytes": 0,
            "close": "client_fin", "closed_by": "client", "phase": "relay"
            }}"#,
            backend.address
        ),
    );
    let (reading, dialling, total) = (
        seconds(&record, "hello_seconds"),
        seconds(&record, "connect_seconds"),
        seconds(&record, "total_seconds"),
    );
    assert!(reading > 0.0 && dialling > 0.0 && reading + dialling <= total && total < 20.0, "{record}");
    let time = humantime::parse_rfc3339(record["time"].as_str().unwrap()).unwrap();
    assert!(SystemTime::now().duration_since(time).unwrap() < Duration::from_secs(60));
}

#[test]
fn the_first_bytes_are_counted_like_all_others() {
    let log = LogFile::new();
    let backend = Recorder::start("one");
    let proxy = logging(&log, &list([&backend]));
    let first = hello(b"www.good.example");
    assert_eq!(ask(&proxy, &first).as_deref(), Ok("one"));
    assert_eq!(log.record()["from_client_bytes"], first.len());
    wait_until_idle(&proxy);
    let moved = sum(&proxy, r#"pointsman_bytes_total{listener="main",direction="from_client""#);
    assert_eq!(moved, first.len() as f64);
}

/// The result of reading the hello before the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hello {
    Read,
    Unread,
}

#[test]
fn every_early_end_has_its_record() {
    let backend = Recorder::start("one");
    let check_end = |act: &dyn Fn(&mut TcpStream), expected: &str, hello: Hello| {
        let log = LogFile::new();
        let patience = if expected.contains("_timeout") { "100ms" } else { "1h" };
        let proxy = impatient(patience, log.path(), "json", &list([&backend]), "");
        let mut client = proxy.connect();
        act(&mut client);
        let _ = client.read_to_end(&mut Vec::new());
        drop(client);
        let record = log.record();
        check(&record, expected);
        check(
            &record,
            r#"{
            "route": null, "pool": null, "backend": null, "backend_address": null, "attempts": 0,
            "from_client_bytes": 0, "from_backend_bytes": 0, "connect_seconds": null
            }"#,
        );
        assert_eq!(record["hello_seconds"].is_null(), hello == Hello::Unread, "{record}");
        assert!(seconds(&record, "total_seconds") > 0.0);
    };
    let unread = |act: &dyn Fn(&mut TcpStream), expected: &str| check_end(act, expected, Hello::Unread);
    let read = |act: &dyn Fn(&mut TcpStream), expected: &str| check_end(act, expected, Hello::Read);
    unread(
        &|client| client.shutdown(Shutdown::Write).unwrap(),
        r#"{ "sni": null, "close": "no_data", "closed_by": "client", "phase": "hello" }"#,
    );
    unread(&|_| {}, r#"{ "close": "first_byte_timeout", "closed_by": "pointsman", "phase": "hello" }"#);
    unread(
        &|client| client.write_all(&[22]).unwrap(),
        r#"{ "close": "hello_timeout", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    unread(
        &|client| {
            client.write_all(&[22]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        },
        r#"{ "close": "hello_truncated", "closed_by": "client", "phase": "hello" }"#,
    );
    unread(
        &|client| client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap(),
        r#"{ "sni": null, "close": "not_tls", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    unread(
        &|client| client.write_all(&[22, 3, 1, 0, 0]).unwrap(),
        r#"{ "close": "hello_malformed", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    unread(
        &|client| client.write_all(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).unwrap(),
        r#"{ "close": "hello_too_large", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    unread(
        &|client| client.write_all(&hello(b"127.1")).unwrap(),
        r#"{ "sni": "127.1", "close": "bad_name", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    read(
        &|client| client.write_all(&hello(b"192.0.2.1")).unwrap(),
        r#"{ "sni": "192.0.2.1", "close": "no_sni", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    read(
        &|client| client.write_all(&nameless()).unwrap(),
        r#"{ "sni": null, "close": "no_sni", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    read(
        &|client| client.write_all(&hello(b"evil.example")).unwrap(),
        r#"{ "sni": "evil.example", "close": "unmatched_sni", "closed_by": "pointsman", "phase": "hello" }"#,
    );
    assert_eq!(backend.connections(), 0);
}

#[test]
fn hostile_names_stay_inside_their_field() {
    let names: [&[u8]; 6] = [
        b"a\r\n{\"id\":1,\"close\":\"forged\"}\n",
        b"a\" close=forged sni=\"b",
        b"a\x1b[2J\x00\x7f",
        b"a\xff\xfe\xc2\x85",
        b"a=b \\ c",
        &[b'x'; 5000],
    ];
    let backend = Recorder::start("one");
    let log = LogFile::new();
    let json = logging(&log, &list([&backend]));
    let text_log = LogFile::new();
    let text = proxy(text_log.path(), "text", &list([&backend]), "");
    for name in names {
        for proxy in [&json, &text] {
            assert!(ask(proxy, &records(&message(&server_name(name)), &[7])).is_err());
        }
        wait_until_idle(&json);
        wait_until_idle(&text);
    }
    for (record, name) in log.records(names.len()).iter().zip(names) {
        check(record, r#"{ "close": "bad_name" }"#);
        let written: Vec<_> = record["sni"].as_str().unwrap().chars().map(|c| c as u8).collect();
        assert_eq!(written, name[..name.len().min(255)]);
    }
    for line in text_log.lines(names.len()) {
        assert!(line.bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{line}");
        assert!(line.contains(" listener=main sni="), "{line}");
        assert!(line.contains(" close=bad_name closed_by=pointsman phase=hello event=end "), "{line}");
        assert_eq!(line.split(' ').filter(|field| field.starts_with("close=")).count(), 1, "{line}");
    }
}

#[test]
fn the_text_format_says_the_same() {
    let log = LogFile::new();
    let backend = Recorder::start("one");
    let proxy = proxy(log.path(), "text", &list([&backend]), "");
    assert_eq!(ask(&proxy, &hello(b"www.good.example")).as_deref(), Ok("one"));
    let line = log.lines(1).remove(0);
    assert!(line.contains(" listener=main sni=www.good.example tls_versions=1.2 ja4=t12d0101"), "{line}");
    let fields = " ech=false segments=1 records=1 route=*.good.example pool=p backend=one ";
    assert!(line.contains(fields), "{line}");
    let end = " close=client_fin closed_by=client phase=relay event=end delta_from_client_bytes=";
    assert!(line.contains(end), "{line}");
    let keys: Vec<_> = line.split(' ').map(|field| field.split_once('=').unwrap().0).collect();
    assert_eq!(keys.len(), 27, "{line}");
}

#[test]
fn attempts_and_their_time_are_told() {
    let log = LogFile::new();
    let (_kept, dead) = silent();
    let living = Recorder::start("living");
    let backends = format!(r#"[{{ name = "dead", address = "{dead}" }}, {}]"#, living.written());
    let keys = "balance = \"round-robin\"\nconnect_timeout = \"100ms\"";
    let proxy = proxy(log.path(), "json", &backends, keys);
    // One of two connections begins at the dead backend, whichever is first.
    for _ in 0..2 {
        assert_eq!(ask(&proxy, &hello(b"www.good.example")).as_deref(), Ok("living"));
    }
    let records = log.records(2);
    let record = records.iter().find(|record| record["attempts"] == 2).expect("one was tried twice");
    check(record, r#"{ "backend": "living", "close": "client_fin" }"#);
    assert!(seconds(record, "connect_seconds") >= 0.1, "from the first choice: {record}");
    assert!(sum(&proxy, r#"pointsman_connect_attempts_total{pool="p",outcome="timeout""#) >= 1.0);
    let successful = sum(&proxy, r#"pointsman_connect_seconds_sum{pool="p""#);
    let told: f64 = records.iter().map(|record| seconds(record, "connect_seconds")).sum();
    assert!(successful < told - 0.09, "the histogram is of single attempts: {successful} of {told}");
}

#[test]
fn a_backend_that_could_not_be_reached_is_named() {
    let log = LogFile::new();
    let (_kept, dead) = refusing();
    let proxy = logging(&log, &format!(r#"[{{ name = "dead", address = "{dead}" }}]"#));
    assert!(ask(&proxy, &hello(b"www.good.example")).is_err());
    check(
        &log.record(),
        &format!(
            r#"{{
            "sni": "www.good.example", "route": "*.good.example", "pool": "p", "backend": "dead",
            "backend_address": "{dead}", "attempts": 1, "from_client_bytes": 0, "connect_seconds": null,
            "close": "connect_refused", "closed_by": "backend", "phase": "dial"
            }}"#
        ),
    );
}

#[test]
fn a_log_that_is_off_costs_nothing_and_counts_nothing() {
    let backend = Recorder::start("one");
    let proxy = proxy("off", "json", &list([&backend]), "");
    assert_eq!(ask(&proxy, &hello(b"www.good.example")).as_deref(), Ok("one"));
    wait_until_idle(&proxy);
    assert_eq!(proxy.metric("pointsman_access_log_written_total"), 0.0);
    assert_eq!(proxy.metric("pointsman_access_log_dropped_total"), 0.0);
}

#[test]
fn a_full_disk_stops_no_traffic() {
    let backend = Recorder::start("one");
    let proxy = proxy("/dev/full", "json", &list([&backend]), "");
    for _ in 0..20 {
        assert_eq!(ask(&proxy, &hello(b"www.good.example")).as_deref(), Ok("one"));
    }
    proxy.wait_for_metric("pointsman_access_log_dropped_total", 20.0);
    assert_eq!(proxy.metric("pointsman_access_log_written_total"), 0.0);
}

#[test]
fn every_series_is_there_from_the_start() {
    let backend = Recorder::start("one");
    let proxy = proxy("off", "json", &list([&backend]), "");
    let check = |series: String| assert_eq!(proxy.metric(&series), 0.0, "{series}");
    for reason in CloseReason::ALL {
        check(format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#));
        if reason.is_rejection() {
            check(format!(r#"pointsman_connections_rejected_total{{listener="main",reason="{reason}"}}"#));
        }
    }
    for outcome in HelloOutcome::ALL.map(HelloOutcome::word) {
        check(format!(r#"pointsman_client_hello_total{{listener="main",outcome="{outcome}"}}"#));
    }
    for outcome in ConnectOutcome::ALL.map(ConnectOutcome::word) {
        check(format!(r#"pointsman_connect_attempts_total{{pool="p",outcome="{outcome}"}}"#));
    }
    for direction in Direction::ALL.map(Direction::word) {
        for engine in Engine::ALL.map(Engine::word) {
            check(format!(
                r#"pointsman_bytes_total{{listener="main",direction="{direction}",engine="{engine}"}}"#
            ));
        }
    }
    for family in ["connections_total", "connections_active", "bytes_dropped_total", "accept_pauses_total"] {
        check(format!(r#"pointsman_{family}{{listener="main"}}"#));
    }
    for family in ["connection_seconds", "client_hello_seconds"] {
        check(format!(r#"pointsman_{family}_count{{listener="main"}}"#));
        check(format!(r#"pointsman_{family}_bucket{{listener="main",le="+Inf"}}"#));
    }
    check(r#"pointsman_connect_seconds_count{pool="p"}"#.to_owned());
    check(r#"pointsman_no_backend_total{pool="p"}"#.to_owned());
    for family in ["access_log_written_total", "access_log_dropped_total", "panics_total", "pipes_open"] {
        check(format!("pointsman_{family}"));
    }
}

#[test]
fn the_counts_add_up() {
    let log = LogFile::new();
    let backend = Backend::echo();
    let (_kept, dead) = refusing();
    let backends = format!(r#"["{}", "{dead}"]"#, backend.address);
    let proxy = proxy(log.path(), "json", &backends, r#"balance = "round-robin""#);
    let mut connections = 0;
    for round in 0..10 {
        for first in [
            hello(b"www.good.example"),
            hello(b"secret-name.example"),
            hello(b"192.0.2.77"),
            nameless(),
            b"GET /secret-name".to_vec(),
            vec![],
            vec![22, 3, 1],
            vec![22, 3, 1, 0, 0],
        ] {
            let mut client = proxy.connect();
            client.write_all(&first).unwrap();
            if first == hello(b"www.good.example") {
                client.write_all(&pattern(round * 5_000, 9)).unwrap();
                // An end before the backend is connected has another reason.
                client.read_exact(&mut [0]).unwrap();
            }
            let _ = finish(client);
            connections += 1;
        }
    }
    wait_until_idle(&proxy);
    let records = log.records(connections);
    let connections = connections as f64;
    let all = |family: &str| sum(&proxy, &format!("pointsman_{family}{{"));
    assert_eq!(all("connections_total"), connections);
    assert_eq!(all("connections_closed_total"), connections);
    assert_eq!(all("connection_seconds_count"), connections);
    assert_eq!(all("client_hello_total"), connections - 10.0, "all but those without a byte");
    assert_eq!(all("client_hello_seconds_count"), 40.0, "whole hellos");
    assert_eq!(all("connections_rejected_total"), 50.0);
    assert_eq!(all("connect_seconds_count"), 10.0);
    assert_eq!(sum(&proxy, r#"pointsman_connect_attempts_total{pool="p",outcome="ok""#), 10.0);
    let attempts: u64 = records.iter().map(|record| record["attempts"].as_u64().unwrap()).sum();
    assert_eq!(all("connect_attempts_total"), attempts as f64);
    for reason in CloseReason::ALL {
        let told = records.iter().filter(|record| record["close"] == reason.word()).count();
        let series = format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#);
        assert_eq!(proxy.metric(&series), told as f64, "{reason}");
    }
    for direction in Direction::ALL.map(Direction::word) {
        let key = format!("{direction}_bytes");
        let told: u64 = records.iter().map(|record| record[&key].as_u64().unwrap()).sum();
        let series = format!(r#"pointsman_bytes_total{{listener="main",direction="{direction}""#);
        assert!(told >= 225_000, "{told}");
        assert_eq!(sum(&proxy, &series), told as f64, "{direction}");
    }
    assert_eq!(proxy.metric("pointsman_access_log_written_total"), connections);
    let text = proxy.remote.view().metrics.render();
    for secret in ["secret-name", "192.0.2.77", "www.good", "127.0.0.1"] {
        assert!(!text.contains(secret), "what a client sends is no label");
    }
}
