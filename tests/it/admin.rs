//! The HTTP requests of an operator, on a running server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pointsman::admin;
use pointsman::balance::Algorithm;
use pointsman::config::{AdminSpec, Config};
use pointsman::pool::{BackendState, HealthSpec};
use pointsman::relay::EngineChoice;
use pointsman::telemetry::COMMIT;
use pointsman::telemetry::metrics::METRICS;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{Backend, PATIENCE, Proxy, tcp, wait_for};

fn start() -> (Proxy, SocketAddr, Backend) {
    let backend = Backend::echo();
    // Changes are allowed, so that the test shows which paths accept which methods.
    let spec = AdminSpec::new("127.0.0.1:0".parse::<SocketAddr>().unwrap());
    let spec = AdminSpec { open_changes: true, ..spec };
    let (proxy, address) = Proxy::start_with(tcp(&[backend.address], EngineChoice::Auto), spec);
    (proxy, address.tcp().unwrap(), backend)
}

fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    admin::ask(address, path, PATIENCE).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn check(address: SocketAddr, path: &str, code: u16, body: &str) {
    assert_eq!(ask(address, path), (code, body.to_owned()), "{path}");
}

/// Returns the whole answer to these bytes, or the part before the connection was closed.
fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

fn check_raw(address: SocketAddr, request: &str, first_line: &str) -> String {
    let answer = raw(address, request);
    assert_eq!(answer.lines().next(), Some(first_line), "{request:?} gave {answer:?}");
    answer
}

/// Connects a client through the proxy and exchanges bytes with the backend.
fn connect_through(proxy: &Proxy) -> TcpStream {
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    client
}

fn status(address: SocketAddr) -> Value {
    let (code, body) = ask(address, "/api/v1/status");
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

/// Returns the samples of /metrics by name and labels. Checks the text first: each sample is in the family
/// whose HELP and TYPE precede it, and no family and no series is there twice.
fn metrics(address: SocketAddr) -> BTreeMap<String, f64> {
    let (code, text) = ask(address, "/metrics");
    assert_eq!(code, 200);
    assert!(text.ends_with('\n'));
    let mut families = BTreeSet::new();
    let mut samples = BTreeMap::new();
    let (mut family, mut helped, mut kind) = (String::new(), String::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split_once(' ').expect("a help text").0.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, word) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped, "HELP stands before TYPE");
            assert!(["counter", "gauge", "histogram"].contains(&word), "{line}");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            (family, kind) = (name.to_owned(), word.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let name = series.split('{').next().unwrap();
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} in the family {family}"));
        match kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let labels = &series[name.len()..];
        assert!(labels.is_empty() || labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
    }
    let documented: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let unknown: Vec<_> = families.difference(&documented).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    samples
}

#[test]
fn health_and_readiness() {
    let (_proxy, address, _backend) = start();
    check(address, "/healthz", 200, "ok\n");
    check(address, "/ready", 200, "ready\n");
    check(address, "/api/v1/upgrade", 200, "null\n");
}

#[test]
fn ready_turns_when_it_stops_and_goes_on_being_answered() {
    let backend = Backend::echo();
    let mut config = tcp(&[backend.address], EngineChoice::Auto);
    config.shutdown.grace = PATIENCE;
    let (proxy, address) = Proxy::start_with_admin(config);
    check(address, "/ready", 200, "ready\n");
    proxy.remote.stop();
    wait_for("draining", || ask(address, "/ready") == (503, "draining\n".to_owned()));
    check(address, "/healthz", 200, "ok\n");
    assert_eq!(status(address)["life"], "draining");
    connect_through(&proxy);
}

#[test]
fn status_tells_what_is_there() {
    let (proxy, address, backend) = start();
    let client = connect_through(&proxy);
    let mut status = status(address);
    let (_, text) = ask(address, "/api/v1/status");
    assert!(!status["host"].take().as_str().unwrap().is_empty());
    let started = status["started"].take();
    assert!(started.as_str().unwrap().ends_with('Z'), "{started}");
    assert!(status["uptime_seconds"].take().is_u64());
    assert!(status["connections"]["limit"].take().as_u64() > Some(0));
    assert!(status["connections"]["limit_from_descriptors"].take().as_u64() > Some(0));
    assert!(status["pools"][0]["backends"][0]["since_seconds"].take().is_u64());
    let since = status["pools"][0]["backends"][0]["since"].take();
    assert!(since.as_str().unwrap().ends_with('Z'), "{since}");
    assert!(status["pools"][0]["backends"][0]["latency_seconds"].take().as_f64() > Some(0.0));
    assert!(status["pools"][0]["backends"][0]["connections"]["waiting"].take().is_u64());
    // The keys are removed one by one, because together they exceed the bounds of the macro.
    let mut remove = |key: &str| status.as_object_mut().unwrap().remove(key).unwrap();
    let (mut config, problems, events) = (remove("config"), remove("problems"), remove("events"));
    assert!(config["loaded"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(config, json!({ "file": null, "loaded": null, "last_reload": null }));
    assert_eq!((&problems, events.as_array().unwrap().len()), (&json!([]), 1));
    let event = &events[0];
    assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
    assert_eq!(
        (&event["kind"], &event["severity"], &event["text"]),
        (&json!("process"), &json!("info"), &json!("serving"))
    );
    let verdict = ["verdict", "standing", "saturation", "access_log_fault"].map(&mut remove);
    assert_eq!(verdict, [json!("all is well"), json!([]), json!([]), json!(null)]);
    let digest = status["pools"][0]["digest"].take();
    assert_eq!(digest.as_str().unwrap().len(), 16, "{digest}");
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "host": null,
        "started": null,
        "uptime_seconds": null,
        "upgrade": null,
        "overrides": [],
        "life": "serving",
        "readiness": { "ready": true, "reason": "ready", "text": "ready", "since": null, "excused": [] },
        "workers": 2,
        "connections": { "open": 1, "limit": null, "limit_from_descriptors": null },
        "listeners": [{
            "name": "main",
            "addresses": [proxy.address("main")],
            "protocol": "tcp",
            "routes": 0,
            "proxy_protocol": null,
            "connections": { "open": 1 },
        }],
        "pools": [{
            "name": "main",
            "balance": "maglev",
            "proxy_protocol": null,
            "digest": null,
            "panic": false,
            "available": 1,
            "serves": true,
            "queue": { "waiting": 0, "length": null },
            "tiers": [{ "zone": "*", "backup": false, "weight_up": 1, "weight": 1, "share": 1.0 }],
            "discovery": [],
            "near": null,
            "forward": null,
            "backends": [{
                "name": backend.address.to_string(),
                "address": backend.address.to_string(),
                "origin": "configuration",
                "weight": 1,
                "zone": null,
                "backup": false,
                "share": 1.0,
                "latency_seconds": null,
                "state": "up",
                "reason": null,
                "since": null,
                "since_seconds": null,
                "connections": { "active": 1, "waiting": null, "limit": null, "total": 1, "recent": 1 },
                "checks": { "passed": 0, "failed": 0, "not_made": 0, "fault": null, "heard": null },
                "troubles": { "connects": 0, "early_resets": 0, "recent": 0, "recent_resets": 0 },
                "ejection": null,
                "agent": null,
            }],
        }],
    });
    assert_eq!(status, expected);
    let keys = [
        "version",
        "started",
        "life",
        "workers",
        "connections",
        "config",
        "problems",
        "listeners",
        "pools",
        "events",
    ];
    let positions: Vec<_> = keys
        .map(|key| text.find(&format!("\n  \"{key}\":")).unwrap_or_else(|| panic!("no {key} in {text}")))
        .into();
    assert!(positions.is_sorted(), "the keys have one order: {text}");
    drop(client);
}

#[test]
fn names_from_the_configuration_stay_in_their_strings() {
    let backend = Backend::echo();
    let mut config = tcp(&[backend.address], EngineChoice::Auto);
    let name = "a\"b\\c\nd";
    config.pools[0].backends[0].name = name.into();
    let (_proxy, address) = Proxy::start_with_admin(config);
    assert_eq!(status(address)["pools"][0]["backends"][0]["name"], name);
    assert_eq!(metrics(address)[r#"pointsman_backend_up{pool="main",backend="a\"b\\c\nd"}"#], 1.0);
}

#[test]
fn metrics_are_well_formed_and_have_the_backends() {
    let (proxy, address, backend) = start();
    let client = connect_through(&proxy);
    let (digest, samples) = (status(address)["pools"][0]["digest"].clone(), metrics(address));
    let of_backend =
        |family: &str| samples[&format!("{family}{{pool=\"main\",backend=\"{}\"}}", backend.address)];
    assert_eq!(of_backend("pointsman_backend_up"), 1.0);
    let labelled = |family: &str, label: &str, word: &str| {
        samples[&format!("{family}{{pool=\"main\",backend=\"{}\",{label}=\"{word}\"}}", backend.address)]
    };
    assert_eq!(of_backend("pointsman_backend_state"), f64::from(BackendState::Up.number()));
    let is_of =
        |family: &str| samples.keys().any(|series| series.starts_with(&format!("pointsman_{family}{{")));
    for family in ["backend_state_changes_total", "backend_checks_total", "backend_share_ratio"] {
        assert!(!is_of(family), "{family}: there are no checks, no agents and no slow start");
    }
    assert_eq!(labelled("pointsman_backend_troubles_total", "kind", "early_reset"), 0.0);
    assert_eq!(of_backend("pointsman_backend_connections_active"), 1.0);
    assert_eq!(of_backend("pointsman_backend_connections_total"), 1.0);
    assert_eq!(of_backend("pointsman_hash_table_entries"), 65537.0);
    assert_eq!(of_backend("pointsman_backend_weight"), 1.0);
    assert_eq!(samples[r#"pointsman_pool_info{pool="main",balance="maglev"}"#], 1.0);
    let digest = digest.as_str().unwrap();
    assert_eq!(samples[&format!("pointsman_hash_table_info{{pool=\"main\",digest=\"{digest}\"}}")], 1.0);
    assert_eq!(samples["pointsman_hello_memory_bytes"], 0.0);
    assert_eq!(samples[r#"pointsman_connections_active{listener="main"}"#], 1.0);
    assert!(samples["process_resident_memory_bytes"] > 1e5);
    assert!(samples["process_open_fds"] > 3.0);
    drop(client);
}

#[test]
fn checks_are_counted_by_their_result() {
    let alive = Backend::echo();
    let (_held, gone) = closed_port();
    let mut config = tcp(&[alive.address, gone], EngineChoice::Auto);
    config.pools[0].health = Some(HealthSpec {
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        ..HealthSpec::default()
    });
    let (_proxy, address) = Proxy::start_with_admin(config);
    let series = |backend: SocketAddr, result: &str| {
        format!(r#"pointsman_backend_checks_total{{pool="main",backend="{backend}",result="{result}"}}"#)
    };
    wait_for("checks", || {
        let samples = metrics(address);
        samples[&series(alive.address, "passed")] > 1.0 && samples[&series(gone, "failed")] > 1.0
    });
    let samples = metrics(address);
    assert_eq!(samples[&series(alive.address, "failed")], 0.0);
    assert_eq!(samples[&series(gone, "passed")], 0.0);
    assert!(!samples.contains_key(&series(gone, "not_made")));
    let took =
        samples[&format!(r#"pointsman_backend_check_seconds{{pool="main",backend="{}"}}"#, alive.address)];
    assert!(took > 0.0 && took < 5.0, "{took}");
    assert!(samples[r#"pointsman_check_seconds_count{pool="main"}"#] > 2.0);
    assert_eq!(samples[&format!(r#"pointsman_backend_up{{pool="main",backend="{gone}"}}"#)], 0.0);
    let state = |at: usize| status(address)["pools"][0]["backends"][at]["state"].clone();
    assert_eq!((state(0), state(1)), (json!("up"), json!("down")));
}

/// Returns an address where no socket listens, and none can while the returned socket is held.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn series_of_removed_backends_go() {
    let (first, second) = (Backend::echo(), Backend::echo());
    let config = |address| -> Config {
        let mut config = tcp(&[address], EngineChoice::Auto);
        config.pools[0].algorithm = Algorithm::RoundRobin;
        config
    };
    let (proxy, address) = Proxy::start_with_admin(config(first.address));
    let backends = || -> Vec<String> {
        metrics(address).into_keys().filter(|series| series.starts_with("pointsman_backend_up")).collect()
    };
    let only = |address| vec![format!(r#"pointsman_backend_up{{pool="main",backend="{address}"}}"#)];
    assert_eq!(backends(), only(first.address));
    proxy.remote.reload(config(second.address)).unwrap();
    assert_eq!(backends(), only(second.address));
    let pool = &status(address)["pools"][0];
    assert_eq!((&pool["balance"], &pool["digest"]), (&json!("round-robin"), &Value::Null));
}

#[test]
fn answers_have_their_headers() {
    let (_proxy, address, _backend) = start();
    let check = |path: &str, kind: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = check_raw(address, &request, "HTTP/1.1 200 OK").to_ascii_lowercase();
        assert!(answer.contains(&format!("\r\ncontent-type: {kind}\r\n")), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    };
    check("/metrics", "text/plain; version=0.0.4; charset=utf-8");
    check("/api/v1/status", "application/json");
    check("/healthz", "text/plain; charset=utf-8");
    check("/", "text/html; charset=utf-8");
}

#[test]
fn the_page_has_the_headers_that_confine_it() {
    let (_proxy, address, _backend) = start();
    let answer = check_raw(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 OK");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    for header in [
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(&format!("\r\n{header}")), "{header} is not in {head}");
    }
    let policy = head.split("content-security-policy: ").nth(1).unwrap().lines().next().unwrap();
    let parts: Vec<_> = policy.split("; ").collect();
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ] {
        assert!(parts.contains(&part), "{part} is not in {policy}");
    }
    assert!(body.starts_with("<!doctype html>") && body.ends_with("</html>\n"));
}

#[test]
fn what_is_not_there_is_told() {
    let (_proxy, address, _backend) = start();
    for path in ["/index.html", "/metrics/", "/api/v2/status", "/%2e%2e/etc/passwd"] {
        let (code, body) = ask(address, path);
        assert_eq!(code, 404, "{path}");
        for endpoint in ["/metrics", "/healthz", "/ready", "/api/v1/status"] {
            assert!(body.contains(endpoint), "{endpoint} is not in {body}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        let answer = check_raw(address, &request, "HTTP/1.1 405 Method Not Allowed");
        assert!(answer.to_ascii_lowercase().contains("\r\nallow: get,head\r\n"), "{answer}");
    }
    let head = check_raw(address, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 OK");
    assert!(head.ends_with("\r\n\r\n"), "a HEAD has no body: {head}");
    check_raw(address, "nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request");
}

/// Asks for each path of the OpenAPI document with each method. The router is made of the same list, so it has no other.
#[test]
fn each_endpoint_takes_its_methods_and_no_others() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/openapi.json");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (_proxy, address, _backend) = start();
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let mut listed: BTreeSet<_> =
            operations.as_object().unwrap().keys().map(|word| word.to_uppercase()).collect();
        if listed.contains("GET") {
            listed.insert("HEAD".to_owned());
        }
        let path = path.replace("{name}", "no-list").replace("{entry}", "192.0.2.0/24");
        let path = path.replace("{id}", "1").replace("{kind}", "state");
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let answer = raw(address, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let is_taken = !answer.starts_with("HTTP/1.1 405 ");
            assert_eq!(is_taken, listed.contains(method), "{method} {path}: {answer}");
            assert!(
                answer.starts_with("HTTP/1.1 ") && !answer.contains("this path does not exist"),
                "{answer}"
            );
            if !is_taken {
                let allowed = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
                let allowed: BTreeSet<_> = allowed.split(',').map(str::to_owned).collect();
                assert_eq!(allowed, listed, "{path}");
            }
            seen += 1;
        }
    }
    assert!(seen > 150, "only {seen} requests");
}

#[test]
fn a_name_that_a_web_page_can_have_is_refused() {
    let (_proxy, address, _backend) = start();
    let get = |host: &str| format!("GET /api/v1/status HTTP/1.1\r\n{host}\r\n");
    for host in ["", "Host: localhost\r\n", "Host: 127.0.0.1:9100\r\n", "Host: [::1]:9100\r\n"] {
        check_raw(address, &get(host), "HTTP/1.1 200 OK");
    }
    for host in ["Host: evil.example\r\n", "Host: localhost\r\nHost: evil.example\r\n"] {
        let answer = check_raw(address, &get(host), "HTTP/1.1 421 Misdirected Request");
        assert!(!answer.contains("pools"), "{answer}");
    }
}

#[test]
fn who_says_nothing_blocks_nobody() {
    let (_proxy, address, _backend) = start();
    let most = usize::try_from(admin::MOST_CONNECTIONS).unwrap();
    let connect = || TcpStream::connect(address).unwrap();
    let mut silent: Vec<_> = (1..most).map(|_| connect()).collect();
    check(address, "/healthz", 200, "ok\n");
    // When all slots are taken, one more connection is closed. Returned slots are taken again. The connection
    // of the question before may still hold a slot.
    wait_for("a full house", || {
        silent.push(connect());
        admin::ask(address, "/healthz", PATIENCE).is_err()
    });
    drop(silent);
    wait_for("room", || admin::ask(address, "/healthz", PATIENCE).is_ok());
}

#[test]
fn a_clash_names_the_address() {
    let (_proxy, address, _backend) = start();
    let message = admin::bind(AdminSpec::new(address)).unwrap_err().to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("something listens there already"), "{message}");
}

#[test]
#[ignore = "needs promtool"]
fn promtool_takes_the_metrics() {
    let (proxy, address, _backend) = start();
    connect_through(&proxy);
    let (_, text) = ask(address, "/metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
