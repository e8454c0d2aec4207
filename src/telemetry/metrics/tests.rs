use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::sys::process::Figures;
use crate::telemetry::{CloseKind, CloseReason, Direction, Engine, Exposition};

/// Returns the text of a scrape with one listener, one pool and one backend.
fn whole(metrics: &Metrics) -> String {
    let mut text = Exposition::after(metrics.render());
    let backend = [("pool", "p"), ("backend", "b")];
    let pool = [("pool", "p")];
    text.family(&families::OVERRIDES).sample(&[("kind", "state")], 0.0);
    text.family(&families::READY).sample(&[("reason", "ready")], 0.0);
    text.family(&families::QUEUE_LENGTH).sample(&pool, 0.0);
    text.family(&families::POOL_PANIC).sample(&pool, 0.0);
    text.family(&families::PANIC_PICKS).sample(&pool, 0.0);
    text.family(&families::TIER_SHARE).sample(&[("pool", "p"), ("tier", "*"), ("kind", "primary")], 0.0);
    text.family(&families::NEAR_LOADS).sample(&[("pool", "p"), ("result", "ok")], 0.0);
    text.family(&families::NEAR_LAST_LOAD).sample(&pool, 0.0);
    text.family(&families::BACKEND_UP).sample(&backend, 0.0);
    text.family(&families::BACKEND_CONNECTIONS_LIMIT).sample(&backend, 0.0);
    let of_backend = |label| [("pool", "p"), ("backend", "b"), (label, "up")];
    text.family(&families::BACKEND_STATE).sample(&backend, 0.0);
    text.family(&families::BACKEND_FAULT).sample(&of_backend("fault"), 0.0);
    text.family(&families::BACKEND_STATE_CHANGES).sample(&of_backend("state"), 0.0);
    text.family(&families::BACKEND_TROUBLES).sample(&of_backend("kind"), 0.0);
    text.family(&families::BACKEND_CONNECTIONS_ACTIVE).sample(&backend, 0.0);
    text.family(&families::BACKEND_CONNECTIONS).sample(&backend, 0.0);
    text.family(&families::BACKEND_AGENT_SHARE).sample(&backend, 0.0);
    text.family(&families::BACKEND_CHECKS)
        .sample(&[("pool", "p"), ("backend", "b"), ("result", "passed")], 0.0);
    let pool = [("pool", "p")];
    text.family(&families::FIRST_BYTE_SECONDS).distribution(&pool, &metrics.pool("p").first_byte);
    text.family(&families::BACKEND_BYTES).sample(&of_backend("direction"), 0.0);
    text.family(&families::BACKEND_CLOSED).sample(&of_backend("reason"), 0.0);
    text.family(&families::BACKEND_WAITING).sample(&backend, 0.0);
    text.family(&families::BACKEND_CHECK_SECONDS).sample(&backend, 0.0);
    let route = [("listener", "l"), ("route", "r")];
    text.family(&families::ROUTE_CONNECTIONS).sample(&route, 0.0);
    text.family(&families::ROUTE_BYTES).sample(&[("listener", "l"), ("route", "r"), ("direction", "x")], 0.0);
    text.family(&families::DISCOVERY_BACKENDS).sample(&pool, 0.0);
    text.family(&families::DISCOVERY_FAILURES).sample(&pool, 0.0);
    text.family(&families::DISCOVERY_FAILING).sample(&pool, 0.0);
    text.family(&families::DISCOVERY_LAST_SUCCESS).sample(&pool, 0.0);
    text.family(&families::FORWARD_LOOKUPS).sample(&[("pool", "p"), ("result", "cached")], 0.0);
    text.family(&families::FORWARD_NAMES).sample(&pool, 0.0);
    let list = [("list", "l")];
    text.family(&families::LIST_ENTRIES).sample(&[("list", "l"), ("part", "file")], 0.0);
    text.family(&families::LIST_LOADS).sample(&[("list", "l"), ("result", "ok")], 0.0);
    text.family(&families::LIST_LAST_LOAD).sample(&list, 0.0);
    text.family(&families::LIST_REFUSALS).sample(&list, 0.0);
    text.family(&families::HASH_TABLE_INFO).sample(&[("pool", "p"), ("digest", "00")], 1.0);
    text.family(&families::POOL_INFO).sample(&[("pool", "p"), ("balance", "maglev")], 1.0);
    text.family(&families::BACKEND_WEIGHT).sample(&backend, 0.0);
    text.family(&families::BACKEND_SHARE).sample(&backend, 0.0);
    text.family(&families::HASH_OVERFLOWS).sample(&[("pool", "p")], 0.0);
    text.family(&families::HASH_TABLE_ENTRIES).sample(&backend, 0.0);
    text.process(&Figures::default());
    text.finish()
}

/// Returns metrics with a listener and a pool where every event can happen.
pub(super) fn fresh() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let (listener, pool) = (metrics.listener("l"), metrics.pool("p"));
    CloseReason::ALL.iter().for_each(|&reason| listener.may_close(reason));
    ClientOpening::ALL.iter().for_each(|&opening| listener.may_open(opening));
    listener.may_read_hellos();
    listener.may_have_proxy_headers();
    listener.may_shadow();
    listener.may_read_routes();
    ConnectOutcome::ALL.iter().for_each(|&outcome| pool.may_connect(outcome));
    pool.may_queue();
    pool.may_eject();
    pool.may_check();
    pool.may_ask_agents();
    metrics
}

/// Returns the values of samples by name, labels included.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(k, v)| (k, v.parse().unwrap())).collect()
}

/// Checks the value of one sample.
fn check(metrics: &Metrics, sample: &str, expected: f64) {
    let text = metrics.render();
    assert_eq!(samples(&text).get(sample), Some(&expected), "{sample} in\n{text}");
}

#[test]
fn what_is_rendered_is_what_is_documented() {
    let text = whole(&fresh());
    let heads = |word: &str| {
        let prefix = format!("# {word} ");
        text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect::<Vec<_>>()
    };
    let unique = |lines: Vec<String>| {
        let set: BTreeSet<_> = lines.iter().cloned().collect();
        assert_eq!(set.len(), lines.len(), "a family has one head");
        set
    };
    let helps = METRICS.iter().map(|metric| format!("{} {}", metric.name, metric.meaning)).collect();
    assert_eq!(unique(heads("HELP")), helps);
    let types = METRICS.iter().map(|metric| format!("{} {}", metric.name, metric.kind.word())).collect();
    assert_eq!(unique(heads("TYPE")), types);
}

#[test]
fn what_can_happen_is_there_with_zero() {
    let text = whole(&fresh());
    let samples = samples(&text);
    for metric in METRICS {
        let suffix = if matches!(metric.kind, MetricKind::Histogram(_)) { "_count" } else { "" };
        let name = format!("{}{suffix}", metric.name);
        let own: Vec<_> =
            samples.iter().filter(|(sample, _)| sample.split('{').next() == Some(&name)).collect();
        assert!(!own.is_empty(), "{name} in\n{text}");
        let expected = if name.ends_with("_info") { 1.0 } else { 0.0 };
        for (sample, value) in own {
            assert_eq!(*value, expected, "{sample}");
            let labels = sample.split_once('{').map_or(vec![], |(_, labels)| {
                labels.split(',').map(|label| label.split('=').next().unwrap()).collect()
            });
            assert_eq!(labels, metric.labels, "{sample}");
        }
    }
    let count = |name: &str| samples.keys().filter(|sample| sample.starts_with(name)).count();
    assert_eq!(count("pointsman_connections_closed_total{"), CloseReason::ALL.len());
    assert_eq!(count("pointsman_connections_rejected_total{"), 51);
    assert_eq!(count("pointsman_client_hello_total{"), 8);
    assert_eq!(count("pointsman_bytes_total{"), 4);
    assert_eq!(count("pointsman_connect_attempts_total{"), 8);
    assert_eq!(count("pointsman_connect_seconds_bucket{"), 17);
    assert_eq!(count("pointsman_first_byte_seconds_bucket{"), 13);
    assert_eq!(count("pointsman_pool_connections_closed_total{"), CloseKind::ALL.len());
    assert_eq!(count("pointsman_ejections_total{"), 3);
    assert_eq!(count("pointsman_check_failures_total{"), 10);
    assert_eq!(count("pointsman_agent_checks_total{"), 3);
}

#[test]
fn what_cannot_happen_is_absent_until_it_does() {
    let metrics = Metrics::new();
    let (listener, pool) = (metrics.listener("l"), metrics.pool("p"));
    listener.may_close(CloseReason::ClientFin);
    listener.may_close(CloseReason::NoBackend);
    let families = || -> BTreeMap<String, usize> {
        let text = metrics.render();
        let mut families = BTreeMap::new();
        for sample in samples(&text).into_keys().filter(|sample| sample.contains(['l', 'p'])) {
            let owner = [r#"listener="l""#, r#"pool="p""#].iter().any(|owner| sample.contains(owner));
            *families.entry(sample.split('{').next().unwrap().to_owned()).or_default() += usize::from(owner);
        }
        families
    };
    let before = families();
    assert_eq!(before["pointsman_connections_closed_total"], 2);
    assert_eq!(before["pointsman_connections_rejected_total"], 1);
    let absent = ["client_hello_total", "client_openings_total", "queued_total", "ejections_total"];
    for family in absent {
        assert!(!before.contains_key(&format!("pointsman_{family}")), "{family}");
    }
    listener.hello(HelloOutcome::Sni);
    listener.closed(CloseReason::ProxyMissing, Duration::ZERO);
    pool.queued.increment(1);
    let after = families();
    assert_eq!(after["pointsman_client_hello_total"], 1);
    assert_eq!(after["pointsman_queued_total"], 1);
    assert_eq!(after["pointsman_connections_closed_total"], 3);
    check(&metrics, r#"pointsman_connections_rejected_total{listener="l",reason="proxy_missing"}"#, 1.0);
}

#[test]
fn labels_index_their_arrays() {
    fn check<T: Copy + PartialEq + fmt::Debug>(
        all: &[T],
        index: impl Fn(T) -> usize,
        word: impl Fn(T) -> &'static str,
    ) {
        let words: BTreeSet<_> = all.iter().map(|value| word(*value)).collect();
        assert_eq!(words.len(), all.len());
        for (position, value) in all.iter().enumerate() {
            assert_eq!(index(*value), position, "{value:?}");
        }
    }
    check(&ClientOpening::ALL, |value| value as usize, ClientOpening::word);
    check(&HelloOutcome::ALL, |value| value as usize, HelloOutcome::word);
    check(&ProxyOutcome::ALL, |value| value as usize, ProxyOutcome::word);
    check(&ConnectOutcome::ALL, |value| value as usize, ConnectOutcome::word);
    check(&EjectionOutcome::ALL, |value| value as usize, EjectionOutcome::word);
    check(&FailedCheck::ALL, |value| value as usize, FailedCheck::word);
    check(&AgentAnswer::ALL, |value| value as usize, AgentAnswer::word);
    check(&PipeFallback::ALL, |value| value as usize, PipeFallback::word);
    check(&ReloadOutcome::ALL, |value| value as usize, ReloadOutcome::word);
    check(&Direction::ALL, |value| value as usize, Direction::word);
    check(&CloseKind::ALL, |value| value as usize, CloseKind::word);
    check(&Engine::ALL, |value| value as usize, Engine::word);
}

#[test]
fn one_name_is_one_set_of_series() {
    let metrics = Metrics::new();
    assert!(Arc::ptr_eq(&metrics.listener("a"), &metrics.listener("a")));
    assert!(!Arc::ptr_eq(&metrics.listener("a"), &metrics.listener("b")));
    assert!(Arc::ptr_eq(&metrics.pool("a"), &metrics.pool("a")));
    let other = Metrics::new();
    metrics.pool("a").no_backend.increment(1);
    other.pool("a");
    check(&metrics, r#"pointsman_no_backend_total{pool="a"}"#, 1.0);
    check(&other, r#"pointsman_no_backend_total{pool="a"}"#, 0.0);
}

#[test]
fn a_connection_is_active_until_its_guard_is_gone() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    let (first, second) = (listener.accepted(), listener.accepted());
    drop(first);
    check(&metrics, r#"pointsman_connections_active{listener="l"}"#, 1.0);
    drop(second);
    check(&metrics, r#"pointsman_connections_active{listener="l"}"#, 0.0);
    check(&metrics, r#"pointsman_connections_total{listener="l"}"#, 2.0);
}

#[test]
fn every_reason_counts_itself_and_only_rejections_count_twice() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    for reason in CloseReason::ALL {
        listener.closed(reason, Duration::from_millis(200));
        let word = reason.word();
        check(
            &metrics,
            &format!(r#"pointsman_connections_closed_total{{listener="l",reason="{word}"}}"#),
            1.0,
        );
        let rejected = format!(r#"pointsman_connections_rejected_total{{listener="l",reason="{word}"}}"#);
        let expected = reason.is_rejection().then_some(1.0);
        assert_eq!(samples(&metrics.render()).get(&*rejected).copied(), expected, "{rejected}");
    }
    check(&metrics, r#"pointsman_connection_seconds_bucket{listener="l",le="0.1"}"#, 0.0);
    check(
        &metrics,
        r#"pointsman_connection_seconds_bucket{listener="l",le="0.5"}"#,
        CloseReason::ALL.len() as f64,
    );
}

#[test]
fn what_happens_is_counted_where_it_belongs() {
    let metrics = Metrics::new();
    let (listener, pool, process) = (metrics.listener("l"), metrics.pool("p"), metrics.process());
    listener.hello(HelloOutcome::BadName);
    listener.opening(ClientOpening::Silent);
    check(&metrics, r#"pointsman_client_hello_total{listener="l",outcome="bad_name"}"#, 1.0);
    listener.moved(Direction::FromBackend, Engine::Spliced, 7);
    let bytes = r#"pointsman_bytes_total{listener="l",direction="from_backend",engine="spliced"}"#;
    check(&metrics, bytes, 7.0);
    pool.connect(ConnectOutcome::Timeout);
    check(&metrics, r#"pointsman_connect_attempts_total{pool="p",outcome="timeout"}"#, 1.0);
    pool.connect_seconds.record(Duration::from_micros(300));
    check(&metrics, r#"pointsman_connect_seconds_sum{pool="p"}"#, 0.0003);
    process.pipe_fallback(PipeFallback::Eperm);
    check(&metrics, r#"pointsman_pipe_fallbacks_total{reason="eperm"}"#, 1.0);
}

#[test]
fn a_reload_is_noted_whichever_way_it_ends() {
    let metrics = Metrics::new();
    let process = metrics.process();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    process.started(at(10));
    check(&metrics, "pointsman_config_last_reload_success", 1.0);
    check(&metrics, r#"pointsman_config_reloads_total{result="ok"}"#, 0.0);
    process.reloaded(ReloadOutcome::Failed, at(20), Duration::from_millis(2));
    check(&metrics, "pointsman_config_last_reload_success", 0.0);
    check(&metrics, "pointsman_config_last_reload_timestamp_seconds", 20.0);
    check(&metrics, r#"pointsman_config_reloads_total{result="failed"}"#, 1.0);
    process.reloaded(ReloadOutcome::Ok, SystemTime::UNIX_EPOCH - Duration::from_secs(1), Duration::ZERO);
    check(&metrics, "pointsman_config_last_reload_success", 1.0);
    check(&metrics, "pointsman_config_last_reload_timestamp_seconds", 0.0);
    check(&metrics, "pointsman_config_reload_seconds_count", 2.0);
}

#[test]
fn upkeep_keeps_what_was_observed() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    for _ in 0..3 {
        (0..1000).for_each(|_| listener.hello_seconds.record(Duration::from_millis(3)));
        metrics.upkeep();
    }
    check(&metrics, r#"pointsman_client_hello_seconds_count{listener="l"}"#, 3000.0);
    check(&metrics, r#"pointsman_client_hello_seconds_bucket{listener="l",le="0.0025"}"#, 0.0);
    check(&metrics, r#"pointsman_client_hello_seconds_bucket{listener="l",le="0.005"}"#, 3000.0);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_no_fault() {
    let metrics = fresh();
    metrics.listener("a \"quoted\" name\\");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(whole(&metrics).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && printed.is_empty(), "{printed}");
}
