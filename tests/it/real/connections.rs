//! The figures of a shown connection beside those of `ss`, and the delay of clients while connections are listed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Program, run};
use crate::support::pair::patient;
use crate::support::{Backend, wait_for};

/// The connections beside which a ping-pong is timed. Each has two descriptors in this process and two in the program.
const MANY: usize = 4200;

/// The round trips of one measurement, which takes about a second.
const ROUND_TRIPS: usize = 20_000;

/// The pairs of measurements, one beside lists and one without.
const ROUNDS: usize = 5;

/// The most by which lists may lengthen the 99th percentile in the best round. Other processes lengthen single rounds; a list
/// that holds its worker up lengthens all of them.
const BOUND: f64 = 1.5;

fn config(backend: SocketAddr) -> String {
    format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pool.app]\nbackends = [\"{backend}\"]\n\
         health.check = \"off\"\n"
    )
}

/// Returns the values of a line of `ss -tinH` by their names, such as `rtt:0.035/0.017` or `cwnd:10`.
fn values(line: &str) -> BTreeMap<String, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut values: BTreeMap<_, _> = words
        .iter()
        .filter_map(|word| word.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // The value of a rate comes behind its name.
    for pair in words.windows(2).filter(|pair| pair[0] == "delivery_rate") {
        values.insert(pair[0].to_owned(), pair[1].to_owned());
    }
    values
}

#[test]
#[ignore = "needs ss"]
fn the_figures_are_those_of_ss() {
    let backend = Backend::echo();
    let program = Program::start(&config(backend.address));
    let mut client = patient(TcpStream::connect(program.address("main")).unwrap());
    for _ in 0..20 {
        client.write_all(&[7; 1000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
    }
    let page: Value = serde_json::from_str(&program.ask("/api/v1/connections")).unwrap();
    let id = page["connections"][0]["id"].as_u64().unwrap();
    for side in ["client", "backend"] {
        let mut compared = (Value::Null, BTreeMap::new());
        // A delayed acknowledgement may come between the two.
        wait_for("equal figures", || {
            let shown: Value =
                serde_json::from_str(&program.ask(&format!("/api/v1/connections/{id}"))).unwrap();
            let leg = &shown["legs"][side];
            let filter = leg["ss"].as_str().unwrap().split('\'').nth(1).unwrap().to_owned();
            let found = values(&run(Command::new("ss").args(["-tinH", &filter])));
            let tcp = leg["tcp"].clone();
            let seconds = |key: &str| tcp[key].as_f64().unwrap() * 1000.0;
            let near = |text: &str, millis: f64| (text.parse::<f64>().unwrap() - millis).abs() < 0.002;
            let (rtt, rttvar) = found["rtt"].split_once('/').unwrap();
            let is_equal = near(rtt, seconds("rtt_seconds"))
                && near(rttvar, seconds("rttvar_seconds"))
                && near(&found["minrtt"], seconds("min_rtt_seconds"))
                && found["cwnd"].parse().ok() == tcp["cwnd_segments"].as_u64()
                && found["bytes_sent"].parse().ok() == tcp["sent_bytes"].as_u64()
                && tcp["unacked_segments"] == 0
                && !found.contains_key("unacked");
            compared = (tcp, found);
            is_equal
        });
        let (tcp, found) = compared;
        assert_eq!(tcp["sent_bytes"], 20_000, "{side}: {tcp}");
        assert!(!found.contains_key("retrans") && tcp["retransmits"] == 0, "{side}: {tcp} {found:?}");
        // ss has bits a second.
        let rate: u64 = found["delivery_rate"].trim_end_matches("bps").parse().unwrap();
        assert_eq!(
            tcp["delivery_bytes_per_second"].as_u64().map(|bytes| 8 * bytes),
            Some(rate),
            "{side}: {found:?}"
        );
    }
}

/// Returns the 99th percentile of round trips over a connection.
fn p99(client: &mut TcpStream) -> Duration {
    let mut trips: Vec<_> = (0..ROUND_TRIPS)
        .map(|_| {
            let began = Instant::now();
            client.write_all(&[7; 64]).unwrap();
            client.read_exact(&mut [0; 64]).unwrap();
            began.elapsed()
        })
        .collect();
    trips.sort_unstable();
    trips[ROUND_TRIPS * 99 / 100]
}

/// A backend that sends back all bytes of its first connection, and holds the others.
fn first_echoes() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while first.read_exact(&mut buffer).is_ok() && first.write_all(&buffer).is_ok() {}
        });
        let held: Vec<_> = listener.incoming().take(MANY).collect();
        thread::park();
        drop(held);
    });
    address
}

#[test]
#[ignore = "opens thousands of connections and measures times"]
fn a_list_delays_no_client() {
    let program = Program::start(&config(first_echoes()));
    let address = program.address("main");
    let mut client = patient(TcpStream::connect(address).unwrap());
    p99(&mut client);
    let held: Vec<_> = (0..MANY).map(|_| TcpStream::connect(address).unwrap()).collect();
    let path = "/api/v1/connections?sort=bytes&limit=1000";
    let matched = || serde_json::from_str::<Value>(&program.ask(path)).unwrap()["matched"].as_u64().unwrap();
    wait_for("all connections", || matched() == MANY as u64 + 1);
    let (listing, stop, lists) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut ratios = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match listing.load(Ordering::Relaxed) {
                    true => {
                        assert_eq!(matched(), MANY as u64 + 1);
                        lists.fetch_add(1, Ordering::Relaxed);
                        // Far more often than an operator lists.
                        thread::park_timeout(Duration::from_millis(50));
                    }
                    false => thread::park_timeout(Duration::from_millis(1)),
                }
            }
        });
        for _ in 0..ROUNDS {
            let without = p99(&mut client);
            listing.store(true, Ordering::Relaxed);
            let before = lists.load(Ordering::Relaxed);
            wait_for("a list", || lists.load(Ordering::Relaxed) > before);
            let beside = p99(&mut client);
            let made = lists.load(Ordering::Relaxed) - before;
            listing.store(false, Ordering::Relaxed);
            println!(
                "p99 {without:?} without lists, {beside:?} beside {made} lists of {} connections",
                MANY + 1
            );
            ratios.push(beside.as_secs_f64() / without.as_secs_f64());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lists.load(Ordering::Relaxed) > 0);
    ratios.sort_unstable_by(f64::total_cmp);
    println!("the ratios are {ratios:.3?}");
    drop(held);
    assert!(ratios[0] < BOUND, "{ratios:?}");
}
