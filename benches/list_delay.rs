//! The delay of a client while connections are listed: round trips over one of many connections of the program, beside lists
//! and without, as ratios of one run.
//!
//! `cargo bench --bench list_delay`. With `--test` it runs once with few connections.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "it may wait for files and for the program")]
#![allow(clippy::print_stdout, reason = "it prints its figures")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The time that one answer of the program may take.
const PATIENCE: Duration = Duration::from_secs(20);

const LISTS: &str = "/api/v1/connections?sort=bytes&limit=1000";

/// The size of a run.
struct Plan {
    /// The connections besides the one that is measured. Each has two descriptors here and two in the program.
    connections: usize,
    /// The round trips of one measurement.
    trips: usize,
    /// The pairs of measurements, one beside lists and one without.
    rounds: usize,
}

/// The program under test. It is killed when dropped.
struct Program {
    child: Child,
    listener: SocketAddr,
    admin: SocketAddr,
    config: PathBuf,
}

impl Program {
    fn start(backend: SocketAddr) -> Self {
        let config = std::env::temp_dir().join(format!("pointsman-list-delay-{}.toml", std::process::id()));
        let text = format!(
            "workers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
             [pool.app]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n"
        );
        fs::write(&config, text).expect("the configuration is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command
            .arg("run")
            .arg(&config)
            .env_remove("POINTSMAN_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = lines.by_ref().map_while(Result::ok);
        let begin = "admin listens address=";
        let admin = log.filter_map(|line| line.split_once(begin)?.1.parse().ok()).next();
        let admin = admin.expect("the log has the address of the admin listener");
        // The program must be able to write its log.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let mut program = Self { child, listener: admin, admin, config };
        let ready = || pointsman::admin::ask(admin, "/ready", PATIENCE).is_ok_and(|(code, _)| code == 200);
        wait_for(ready);
        let address = program.ask("/api/v1/status")["listeners"][0]["addresses"][0].clone();
        program.listener =
            address.as_str().and_then(|text| text.parse().ok()).expect("the listener has an address");
        program
    }

    fn ask(&self, path: &str) -> Value {
        let (code, body) = pointsman::admin::ask(self.admin, path, PATIENCE).expect("the program answers");
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("the answer is JSON")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "the condition was not met within {PATIENCE:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Starts a backend that sends back all bytes of its first connection, and holds the others.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("a first connection");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while first.read_exact(&mut buffer).is_ok() && first.write_all(&buffer).is_ok() {}
        });
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream);
        }
    });
    address
}

/// Returns the 99th percentile of round trips over a connection.
fn p99(client: &mut TcpStream, trips: usize) -> Duration {
    let mut times: Vec<_> = (0..trips)
        .map(|_| {
            let began = Instant::now();
            client.write_all(&[7; 64]).expect("the client writes");
            client.read_exact(&mut [0; 64]).expect("the backend answers");
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[trips * 99 / 100]
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let plan = match is_test {
        true => Plan { connections: 200, trips: 500, rounds: 1 },
        false => Plan { connections: 4200, trips: 20_000, rounds: 5 },
    };
    let program = Program::start(backend());
    let mut client = TcpStream::connect(program.listener).expect("the program accepts");
    p99(&mut client, plan.trips);
    let connect = |_| TcpStream::connect(program.listener).expect("the program accepts");
    let held: Vec<_> = (0..plan.connections).map(connect).collect();
    let all = held.len() as u64 + 1;
    let matched = || program.ask(LISTS)["matched"].as_u64();
    wait_for(|| matched() == Some(all));
    let (listing, stop, lists) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut ratios = Vec::new();
    thread::scope(|scope| {
        let lister = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if listing.load(Ordering::Relaxed) {
                    assert_eq!(matched(), Some(all));
                    lists.fetch_add(1, Ordering::Relaxed);
                    // Far more often than an operator lists.
                    thread::park_timeout(Duration::from_millis(50));
                } else {
                    thread::park_timeout(Duration::from_millis(1));
                }
            }
        });
        for _ in 0..plan.rounds {
            let without = p99(&mut client, plan.trips);
            listing.store(true, Ordering::Relaxed);
            let before = lists.load(Ordering::Relaxed);
            wait_for(|| lists.load(Ordering::Relaxed) > before);
            let beside = p99(&mut client, plan.trips);
            let made = lists.load(Ordering::Relaxed) - before;
            listing.store(false, Ordering::Relaxed);
            println!("p99 {without:?} without lists, {beside:?} beside {made} lists of {all} connections");
            ratios.push(beside.as_secs_f64() / without.as_secs_f64());
        }
        stop.store(true, Ordering::Relaxed);
        lister.join().expect("each list has all connections");
    });
    ratios.sort_unstable_by(f64::total_cmp);
    println!("the ratios of the p99 beside lists to the p99 without: {ratios:.3?}");
}
