//! The rules in `dist/prometheus`, and the questions that a real Prometheus can answer about a pointsman.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pointsman::admin;
use serde_json::Value;

use super::{ChildGuard, Directory, Lines, Program, run};
use crate::support::{Backend, PATIENCE, find_in_time, wait_for};

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/prometheus")
}

#[test]
#[ignore = "needs promtool"]
fn promtool_takes_the_rules_and_their_incidents() {
    run(Command::new("promtool").args(["check", "rules", "pointsman.rules.yml"]).current_dir(rules()));
    run(Command::new("promtool").args(["test", "rules", "pointsman.rules.test.yml"]).current_dir(rules()));
}

/// A Prometheus that scrapes one pointsman twice a second.
struct Prometheus {
    _process: ChildGuard,
    _directory: Directory,
    address: SocketAddr,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let directory = Directory::new();
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s }}\n\
             rule_files: [{:?}]\n\
             scrape_configs:\n  - job_name: pointsman\n    static_configs: [{{ targets: [\"{target}\"] }}]\n",
            rules().join("pointsman.rules.yml")
        );
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", directory.write("prometheus.yml", config).display()))
            .arg(format!("--storage.tsdb.path={}", directory.file("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = ChildGuard::spawn(&mut command);
        let log = Lines::follow(process.0.stderr.take().unwrap());
        let address = log.wait_for("msg=\"Listening on\" address=").parse().unwrap();
        wait_for("Prometheus", || {
            admin::ask(address, "/-/ready", PATIENCE).is_ok_and(|(code, _)| code == 200)
        });
        Self { _process: process, _directory: directory, address }
    }

    fn ask(&self, path: &str) -> Value {
        let (_, body) = admin::ask(self.address, path, PATIENCE).unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(answer["status"], "success", "{path}: {body}");
        answer["data"].clone()
    }

    /// Returns the series of an expression at present.
    fn query(&self, expression: &str) -> Value {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.ask(&format!("/api/v1/query?query={encoded}"))["result"].clone()
    }

    /// Waits until a query has an answer: this value of this label in its first series.
    fn check(&self, question: &str, label: &str, expected: &str) {
        let mut last = Value::Null;
        let found = find_in_time(|| {
            last = self.query(question);
            (last[0]["metric"][label] == expected).then_some(())
        });
        assert!(found.is_some(), "{question}: {last}");
    }
}

/// Clients that connect one after the other until this is dropped. Clients without an answer stay open.
struct Clients {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        const MOST: usize = 20;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let come = move || {
            let mut waiting = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let mut answer = [0; 1000];
                let _ = client.write_all(&answer);
                let is_silent = client
                    .read_exact(&mut answer)
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
                if is_silent && waiting.len() < MOST {
                    waiting.push(client);
                }
            }
        };
        Self { is_over, thread: Some(thread::spawn(come)) }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Checks that Prometheus can parse each expression of the dashboard.
fn check_dashboard(prometheus: &Prometheus) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/grafana/pointsman.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut answered = 0;
    for target in targets {
        let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "10s");
        let expression =
            ["$job", "$instance", "$pool"].iter().fold(expression, |text, name| text.replace(name, ".*"));
        answered += usize::from(!prometheus.query(&expression).as_array().unwrap().is_empty());
    }
    assert!(answered > 15, "only {answered}");
}

#[test]
#[ignore = "needs prometheus"]
fn prometheus_answers_what_operators_ask() {
    let good = Backend::echo();
    let resets = Backend::serve(|mut stream| {
        // A check sends nothing and leaves.
        if let Ok(1..) = stream.read(&mut [0; 1000]) {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    let silent = Backend::serve(|mut stream| while let Ok(1..) = stream.read(&mut [0; 1000]) {});
    let text = format!(
        r#"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "p"
        routes = [{{ source = "127.0.0.0/8", name = "near", pool = "p" }}]
        [pool.p]
        balance = "round-robin"
        backends = [
            {{ name = "good", address = "{}" }},
            {{ name = "resets", address = "{}" }},
            {{ name = "silent", address = "{}" }},
        ]
        health.interval = "100ms"
        "#,
        good.address, resets.address, silent.address
    );
    let directory = Directory::new();
    let command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let program = Program::start_with(command, directory, "open_metrics = true\n", &text);
    let prometheus = Prometheus::start(program.admin);
    let clients = Clients::start(program.address("main"));
    for (question, label, expected) in [
        // Questions: is the process up, and how many resources are left?
        ("up == 1", "job", "pointsman"),
        ("process_open_fds / process_max_fds", "job", "pointsman"),
        (
            "sum by (job) (pointsman_connections_active) / sum by (job) (pointsman_connections_limit) > 0",
            "job",
            "pointsman",
        ),
        ("pointsman_config_last_reload_success == 1", "job", "pointsman"),
        ("avg by (pool) (pointsman_backend_up) == 1", "pool", "p"),
        ("pointsman_backend_state{backend=\"good\"} == 1", "backend", "good"),
        // Questions: how many connections and bytes come, to which listeners and backends?
        ("sum by (listener) (rate(pointsman_connections_total[10s])) > 0", "listener", "main"),
        ("8 * sum by (pool) (rate(pointsman_pool_bytes_total[10s])) > 0", "pool", "p"),
        ("8 * rate(pointsman_backend_bytes_total{direction=\"from_backend\"}[10s]) > 0", "backend", "good"),
        ("rate(pointsman_route_connections_total[10s]) > 0", "route", "near"),
        ("8 * rate(pointsman_route_bytes_total[10s]) > 0", "route", "near"),
        // Questions: which backend is slow, which resets, which hangs?
        (
            "histogram_quantile(0.99, sum by (pool, le) (rate(pointsman_connect_seconds_bucket[10s]))) > 0",
            "pool",
            "p",
        ),
        (
            "rate(pointsman_check_seconds_sum[10s]) / rate(pointsman_check_seconds_count[10s]) > 0",
            "pool",
            "p",
        ),
        (
            "histogram_quantile(0.9, sum by (pool, le) (rate(pointsman_first_byte_seconds_bucket[10s]))) > 0",
            "pool",
            "p",
        ),
        (
            "rate(pointsman_backend_connections_closed_total{reason=\"backend_reset\"}[10s]) > 0",
            "backend",
            "resets",
        ),
        ("rate(pointsman_backend_troubles_total{kind=\"early_reset\"}[10s]) > 0", "backend", "resets"),
        ("topk(1, min_over_time(pointsman_backend_connections_waiting[2s])) > 0", "backend", "silent"),
        ("sum by (pool) (rate(pointsman_silent_connections_total[10s])) > 0", "pool", "p"),
    ] {
        prometheus.check(question, label, expected);
    }
    check_dashboard(&prometheus);
    let rules = || prometheus.ask("/api/v1/rules")["groups"][0]["rules"].clone();
    wait_for("an evaluation of each rule", || {
        rules().as_array().unwrap().iter().all(|rule| rule["health"] == "ok")
    });
    assert!(rules().as_array().unwrap().len() > 20);
    drop(clients);
    program.stop();
}
