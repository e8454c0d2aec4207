//! The answers to a scrape: their format, the number of series, and their values.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use flate2::read::GzDecoder;
use pointsman::relay::EngineChoice;
use pointsman::telemetry::metrics::{METRICS, MetricDoc, MetricKind};

use crate::support::{Backend, PATIENCE, Proxy, config, own_address, tcp, wait_for};

/// Returns the head and the body of the answer to a request for `/metrics` with these header lines.
fn scrape(address: SocketAddr, method: &str, headers: &str) -> (String, Vec<u8>) {
    get(address, method, "/metrics", headers)
}

fn get(address: SocketAddr, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

#[test]
fn a_page_is_compressed_for_clients_that_accept_it() {
    let backend = Backend::echo();
    let (_proxy, address) = Proxy::start_with_admin(tcp(&[backend.address], EngineChoice::Auto));
    let (plain_head, plain) = scrape(address, "GET", "");
    let (head, body) = scrape(address, "GET", "Accept-Encoding: gzip;q=0.9, identity\r\n");
    assert!(!plain_head.contains("content-encoding"), "{plain_head}");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    for head in [&plain_head, &head] {
        assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
    }
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    assert!(body.len() * 3 < text.len(), "{} of {}", body.len(), text.len());
    // The families come in any order.
    let names = |text: &str| {
        let mut names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert!(names(&text) == names(std::str::from_utf8(&plain).unwrap()), "{text}");
    let (head, body) = scrape(address, "HEAD", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n") && body.is_empty(), "{head}");
    let (head, _) = scrape(address, "GET", "Accept-Encoding: gzip;q=0\r\n");
    assert!(!head.contains("content-encoding"), "{head}");
}

/// A browser reads these pages every two seconds.
#[test]
fn the_long_pages_in_json_are_compressed_too() {
    let backend = Backend::echo();
    let (_proxy, address) = Proxy::start_with_admin(tcp(&[backend.address], EngineChoice::Auto));
    let (head, body) = get(address, "GET", "/api/v1/status", "Accept-Encoding: gzip, deflate\r\n");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["life"], "serving");
    for path in ["/api/v1/status", "/api/v1/history"] {
        let (head, _) = get(address, "GET", path, "");
        assert!(!head.contains("content-encoding"), "{head}");
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
    }
}

/// Returns a configuration with 20 listeners, half of them for TLS, and as many pools with 50 checked
/// backends each.
fn large() -> String {
    let mut text = String::from("access_log.to = \"off\"\n");
    for at in 0..20 {
        let protocol = if at % 2 == 0 {
            format!("protocol = \"tls\"\nunmatched = \"p{at}\"")
        } else {
            format!("pool = \"p{at}\"")
        };
        let backends: Vec<_> = (1..=50).map(|backend| format!("\"127.0.{at}.{backend}:9\"")).collect();
        let backends = backends.join(", ");
        _ = write!(
            text,
            "[listener.l{at}]\nbind = \"127.0.0.1:0\"\n{protocol}\n\
             [pool.p{at}]\nbackends = [{backends}]\nhealth = {{ interval = \"1h\" }}\n"
        );
    }
    text
}

/// Returns the number of samples of each family.
fn counted(page: &[u8]) -> BTreeMap<String, usize> {
    let text = std::str::from_utf8(page).unwrap();
    let mut families = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        *families.entry(line.split(['{', ' ']).next().unwrap().to_owned()).or_default() += 1;
    }
    families
}

/// There were 26,271 series when each state of each backend and each reason of each listener had one.
#[test]
fn a_thousand_backends_have_a_bounded_number_of_series() {
    let (_proxy, address) = Proxy::start_with_admin(config(&large()));
    let (_, page) = scrape(address, "GET", "");
    let families = counted(&page);
    assert_eq!(families["pointsman_backend_up"], 1000);
    assert_eq!(families["pointsman_backend_state"], 1000);
    let of_backends =
        families.iter().filter(|(_, count)| **count >= 1000).map(|(_, count)| count).sum::<usize>();
    let all = families.values().sum::<usize>();
    assert!(of_backends <= 16_500, "{of_backends} of backends: {families:#?}");
    assert!(all <= 19_500, "{all} in all: {families:#?}");
}

/// Returns the samples of a page by name and labels.
fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let (_, page) = scrape(address, "GET", "");
    let text = String::from_utf8(page).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
        .collect()
}

/// Starts a listener with a named route, and one pool with these backends. They are named `b0`, `b1` and so
/// on, in their order of preference.
fn routed(backends: &[SocketAddr]) -> (Proxy, SocketAddr) {
    let backends: Vec<_> = backends
        .iter()
        .enumerate()
        .map(|(at, address)| format!("{{ name = \"b{at}\", address = \"{address}\" }}"))
        .collect();
    Proxy::start_with_admin(config(&format!(
        r#"
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        routes = [{{ source = "127.0.0.0/8", name = "near", pool = "p" }}]
        [pool.p]
        backends = [{}]
        balance = "failover"
        health.check = "off"
        "#,
        backends.join(", ")
    )))
}

#[track_caller]
fn check(samples: &BTreeMap<String, f64>, series: &str, expected: Option<f64>) {
    assert_eq!(samples.get(&format!("pointsman_{series}")).copied(), expected, "{series} in {samples:#?}");
}

/// Sends this many bytes through an echo and reads them back.
fn exchange(client: &mut TcpStream, count: usize) {
    client.write_all(&vec![b'x'; count]).unwrap();
    client.read_exact(&mut vec![0; count]).unwrap();
}

#[test]
fn pools_backends_and_named_routes_count_what_they_moved() {
    let (gone, echo) = (own_address(), Backend::echo());
    let (proxy, address) = routed(&[gone, echo.address]);
    let mut open = proxy.connect();
    exchange(&mut open, 1000);
    // Bytes of an open connection are counted at the next sweep.
    let of_backend = r#"pointsman_backend_bytes_total{pool="p",backend="b1",direction="from_client"}"#;
    wait_for("bytes of an open connection", || samples(address)[of_backend] == 1000.0);
    exchange(&mut open, 500);
    open.shutdown(Shutdown::Write).unwrap();
    open.read_to_end(&mut Vec::new()).unwrap();
    proxy.wait_for_metric(r#"pointsman_pool_connections_closed_total{pool="p",reason="fin"}"#, 1.0);
    let samples = samples(address);
    for direction in ["from_client", "from_backend"] {
        let series = |family: &str, labels: &str| format!("{family}{{{labels},direction=\"{direction}\"}}");
        check(&samples, &series("pool_bytes_total", r#"pool="p""#), Some(1500.0));
        check(&samples, &series("backend_bytes_total", r#"pool="p",backend="b1""#), Some(1500.0));
        check(&samples, &series("backend_bytes_total", r#"pool="p",backend="b0""#), Some(0.0));
        check(&samples, &series("route_bytes_total", r#"listener="main",route="near""#), Some(1500.0));
    }
    check(&samples, r#"route_connections_total{listener="main",route="near"}"#, Some(1.0));
    let closed = |backend: &str, reason: &str| {
        format!(r#"backend_connections_closed_total{{pool="p",backend="{backend}",reason="{reason}"}}"#)
    };
    check(&samples, &closed("b0", "refused"), Some(1.0));
    check(&samples, &closed("b1", "fin"), Some(1.0));
    check(&samples, &closed("b1", "backend_reset"), Some(0.0));
    check(&samples, &closed("b1", "client_reset"), None);
    check(&samples, r#"pool_connections_closed_total{pool="p",reason="refused"}"#, Some(0.0));
}

#[test]
fn it_shows_which_backend_resets() {
    let reset = Backend::serve(|mut stream| {
        _ = stream.read(&mut [0; 100]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let (proxy, address) = routed(&[reset.address, Backend::echo().address]);
    for _ in 0..3 {
        let mut client = proxy.connect();
        client.write_all(b"x").unwrap();
        _ = client.read_to_end(&mut Vec::new());
    }
    proxy.wait_for_metric(r#"pointsman_pool_connections_closed_total{pool="p",reason="backend_reset"}"#, 3.0);
    let samples = samples(address);
    for (backend, resets) in [("b0", 3.0), ("b1", 0.0)] {
        let series = format!(
            r#"backend_connections_closed_total{{pool="p",backend="{backend}",reason="backend_reset"}}"#
        );
        check(&samples, &series, Some(resets));
    }
    check(&samples, r#"silent_connections_total{pool="p"}"#, Some(3.0));
}

#[test]
fn a_backend_that_sends_nothing_shows() {
    let silent = Backend::serve(|mut stream| while let Ok(1..) = stream.read(&mut [0; 100]) {});
    let (proxy, address) = routed(&[silent.address]);
    let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    let waiting = r#"pointsman_backend_connections_waiting{pool="p",backend="b0"}"#;
    wait_for("three that wait", || samples(address)[waiting] == 3.0);
    let ended = r#"pointsman_silent_connections_total{pool="p"}"#;
    let seen = samples(address);
    assert_eq!((seen[ended], seen[r#"pointsman_first_byte_seconds_count{pool="p"}"#]), (0.0, 0.0));
    drop(clients);
    wait_for("all have left", || samples(address)[waiting] == 0.0);
    assert_eq!(samples(address)[ended], 3.0);
}

#[test]
fn the_first_byte_of_a_backend_is_timed_once() {
    let (proxy, address) = routed(&[Backend::echo().address]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        exchange(&mut client, 10);
    }
    let seen = samples(address);
    assert_eq!(seen[r#"pointsman_backend_connections_waiting{pool="p",backend="b0"}"#], 0.0);
    assert_eq!(seen[r#"pointsman_first_byte_seconds_count{pool="p"}"#], 1.0);
    assert_eq!(seen[r#"pointsman_first_byte_seconds_bucket{pool="p",le="+Inf"}"#], 1.0);
    assert!(seen[r#"pointsman_first_byte_seconds_sum{pool="p"}"#] < PATIENCE.as_secs_f64());
    drop(client);
    proxy.wait_for_metric(r#"pointsman_pool_connections_closed_total{pool="p",reason="fin"}"#, 1.0);
    assert_eq!(samples(address)[r#"pointsman_silent_connections_total{pool="p"}"#], 0.0);
}

#[test]
fn counts_of_routes_outlive_reloads_and_go_with_the_route() {
    let echo = Backend::echo();
    let (proxy, address) = routed(&[echo.address]);
    exchange(&mut proxy.connect(), 10);
    let taken = |name: &str| {
        samples(address)
            .get(&format!(r#"pointsman_route_connections_total{{listener="main",route="{name}"}}"#))
            .copied()
    };
    assert_eq!(taken("near"), Some(1.0));
    let reload = |name: &str, source: &str| {
        let text = format!(
            r#"
            access_log.to = "off"
            [listener.main]
            bind = "127.0.0.1:0"
            pool = "p"
            routes = [{{ source = "{source}", name = "{name}", pool = "p" }}]
            [pool.p]
            backends = ["{}"]
            health.check = "off"
            "#,
            echo.address
        );
        proxy.remote.reload(config(&text)).unwrap();
    };
    reload("near", "127.0.0.0/16");
    assert_eq!(taken("near"), Some(1.0));
    reload("far", "127.0.0.0/16");
    assert_eq!((taken("near"), taken("far")), (None, Some(0.0)));
}

/// Checks that an expression uses only existing metrics, and returns their number.
fn check_names(text: &str) -> usize {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("pointsman_") || word.starts_with("process_"));
    // This name is a close reason.
    let names: Vec<_> = names.filter(|name| *name != "process_full").collect();
    for name in &names {
        let is_one = |metric: &MetricDoc| match metric.kind {
            MetricKind::Histogram(_) => name.strip_suffix("_bucket") == Some(metric.name),
            _ => *name == metric.name,
        };
        assert!(METRICS.iter().any(is_one), "{name} in {text}");
    }
    names.len()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let read = |file: &str| std::fs::read_to_string(dist.join(file)).unwrap();
    assert!(check_names(&read("prometheus/pointsman.rules.yml")) > 30);
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana/pointsman.json")).unwrap();
    let mut seen = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            seen += check_names(target["expr"].as_str().unwrap());
        }
    }
    assert!(seen > 20, "only {seen}");
}

#[test]
fn a_source_that_fails_shows_until_it_is_well_again() {
    let file = std::env::temp_dir().join(format!("pointsman-failing-{}.json", std::process::id()));
    std::fs::write(&file, "no JSON").unwrap();
    let (_proxy, address) = Proxy::start_with_admin(config(&format!(
        r#"
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        [pool.p]
        discover = {{ file = {file:?} }}
        health.check = "off"
        "#
    )));
    // Before the first look-up there is no source yet.
    let failing = || samples(address).get(r#"pointsman_discovery_failing{pool="p"}"#).copied();
    wait_for("a failing source", || failing() == Some(1.0));
    std::fs::write(&file, r#"{ "version": 1, "backends": [{ "address": "127.0.0.1:9" }] }"#).unwrap();
    wait_for("a source that is well", || failing() == Some(0.0));
    std::fs::remove_file(&file).unwrap();
}
