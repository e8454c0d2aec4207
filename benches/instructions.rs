//! Single operations, to be counted in instructions: a count does not know how busy the machine is.
//!
//! With the name of a case and a number it does that case as often as the number says; without, it lists
//! the cases. `.ci/instructions` counts what is done inside of [`repeat`], so neither the start of the
//! process nor what a case sets up is in it, and compares that with `instructions.txt`.
#![allow(missing_docs)]

mod inputs;

use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use pointsman::balance::{Algorithm, Balancer, Maglev, MaxLoad};
use pointsman::limit::{Gate, Permit};
use pointsman::pool::HashOn;
use pointsman::route::{ConnectionFacts, IpPrefix, PrefixSet};
use pointsman::telemetry::{
    AccessLogFormat, CloseReason, ConnectOutcome, Direction, Engine, HelloOutcome, Metrics,
};
use pointsman::wire::ServerName;

/// A name, and what does the operation a number of times.
type Case = (&'static str, fn(u64));

const CASES: &[Case] = &[
    ("hello/openssl", |times| hello("openssl-tls13", usize::MAX, times)),
    ("hello/chromium", |times| hello("chromium", usize::MAX, times)),
    ("hello/many_extensions", many_extensions),
    ("hello/one_byte_segments", |times| hello("openssl-tls13", 1, times)),
    ("hello/one_byte_records", one_byte_records),
    ("hello/told", told),
    ("server_name", server_name),
    ("pick/maglev", |times| pick(Algorithm::Maglev, 0, times)),
    ("pick/maglev_10_refused", |times| pick(Algorithm::Maglev, 10, times)),
    ("pick/maglev_bounded", bounded),
    ("pick/round_robin", |times| pick(Algorithm::RoundRobin, 0, times)),
    ("pick/least_connections", |times| pick(Algorithm::LeastConnections, 0, times)),
    ("pick/random_two", |times| pick(Algorithm::RandomTwo, 0, times)),
    ("pick/failover", |times| pick(Algorithm::Failover, 0, times)),
    ("pick/least_latency", |times| pick(Algorithm::LeastLatency, 0, times)),
    ("pool/source_ip", |times| pool(Algorithm::Maglev, HashOn::SourceIp, times)),
    ("pool/sni", |times| pool(Algorithm::Maglev, HashOn::Sni, times)),
    ("pool/random_two", |times| pool(Algorithm::RandomTwo, HashOn::SourceIp, times)),
    ("route/exact", |times| route(0, "", times)),
    ("route/wildcard", |times| route(1, "a.b.", times)),
    ("list/v4", |times| listed(inputs::networks_v4(100_000), times)),
    ("list/v6", |times| listed(inputs::networks_v6(100_000), times)),
    ("permit/gates", gates),
    ("permit/whole", permit),
    ("source/known", |times| source(60_000, times)),
    ("source/a_million", |times| source(1_000_000, times)),
    ("source/refused", refused),
    ("record/json", |times| record(AccessLogFormat::Json, times)),
    ("record/text", |times| record(AccessLogFormat::Text, times)),
    ("metrics/bytes", bytes),
    ("metrics/connection", connection),
];

fn main() -> ExitCode {
    // Flags are meant for the benches beside this one; cargo itself passes `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [wanted, times] = arguments.as_slice() else {
        list();
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|(name, _)| name == wanted);
    let (Some((_, run)), Ok(times)) = (case, times.parse()) else {
        return ExitCode::from(2);
    };
    run(times);
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "it is what the program is asked for")]
fn list() {
    CASES.iter().for_each(|(name, _)| println!("{name}"));
}

/// Does `operation` for the numbers below `times`. Counting begins and ends with this function, which is
/// found by its name.
#[inline(never)]
fn repeat<T>(times: u64, mut operation: impl FnMut(u64) -> T) {
    for n in 0..times {
        black_box(operation(black_box(n)));
    }
}

fn hello(file: &str, step: usize, times: u64) {
    let raw = inputs::hello(file);
    repeat(times, |_| inputs::read_hello(black_box(raw), step.min(raw.len())));
}

/// The most extensions that fit the largest hello: what one packet of a hostile client can cost.
fn many_extensions(times: u64) {
    let raw = inputs::in_empty_extensions(4000);
    repeat(times, |_| inputs::read_hello(black_box(&raw), raw.len()));
}

/// What the access log adds to a hello: its offer and its fingerprint.
fn told(times: u64) {
    repeat(times, |_| inputs::offered(black_box("openssl-tls13")));
}

fn one_byte_records(times: u64) {
    let raw = inputs::in_one_byte_records(inputs::hello("openssl-tls13"));
    repeat(times, |_| inputs::read_hello(black_box(&raw), raw.len()));
}

fn server_name(times: u64) {
    repeat(times, |_| ServerName::from_client(black_box(b"mail.example.com")));
}

/// A pick among 100 where the first `refused` that are asked about are refused.
fn pick(algorithm: Algorithm, refused: u32, times: u64) {
    let identities = inputs::identities(100);
    let balancer = Balancer::build(algorithm, &inputs::members(&identities), &inputs::HASH_KEY, 1);
    repeat(times, |key| {
        let left = Cell::new(black_box(refused));
        let accept = |_| left.replace(left.get().saturating_sub(1)) == 0;
        balancer.pick(key, key, &inputs::Accepting(accept)).expect("most are accepted")
    });
}

/// A pick among 100 that may have a quarter more than their share; every sixth pick looks at all of them.
fn bounded(times: u64) {
    let identities = inputs::identities(100);
    let members = inputs::members(&identities);
    let maglev = Maglev::build(&members, &inputs::HASH_KEY).bounded(MaxLoad::of_percent(125), &members);
    repeat(times, |key| maglev.pick(key, &inputs::Accepting(|_| true)).expect("all accept"));
}

/// The key that a connection is hashed by, a pick among 100, and a lease taken and given back.
fn pool(algorithm: Algorithm, hash_on: HashOn, times: u64) {
    let pool = inputs::pool(algorithm, hash_on, 100);
    let names = inputs::names();
    repeat(times, |n| {
        let name = &names[n as usize % names.len()];
        pool.pick(Some(inputs::client(n)), Some(name), &[]).expect("all are up")
    });
}

/// A look-up among 1000 routes. Each process hashes with keys of its own, so single names meet more or
/// fewer strangers on their way; all names together always meet about as many.
fn route(first: usize, prefix: &str, times: u64) {
    let table = inputs::routes(&inputs::patterns(1000));
    let name = |n| match first {
        0 => inputs::name(&format!("{prefix}host{n}.example.com")),
        _ => inputs::name(&format!("{prefix}apps{n}.example.com")),
    };
    let names: Vec<ServerName> = (first..1000).step_by(2).map(name).collect();
    let what = ConnectionFacts::default();
    repeat(times, |n| table.find(Some(&names[n as usize % names.len()]), &what));
}

/// A look-up among 100,000 networks, of addresses inside and outside of them.
fn listed(networks: Vec<IpPrefix>, times: u64) {
    let set: PrefixSet = networks.iter().collect();
    let asked: Vec<_> = networks.iter().step_by(97).map(inputs::near).collect();
    repeat(times, |n| set.contains(asked[n as usize % asked.len()]));
}

/// The two gates that every connection passes.
fn gates(times: u64) {
    let (process, listener) = (Gate::new(10), Gate::new(10));
    repeat(times, |_| (black_box(&process).enter(), black_box(&listener).enter()));
}

/// The same as a connection of a listener without further limits holds them.
fn permit(times: u64) {
    let (process, listener) = (Gate::new(10), Gate::new(10));
    repeat(times, |_| Permit::ask(black_box(&process), black_box(&listener)));
}

/// A connection is counted in and out in a table that is full: of a source that is remembered, or of ever new
/// ones, each of which displaces another.
fn source(known: u64, times: u64) {
    let (table, limits) = (inputs::full_sources(), inputs::source_limits());
    repeat(times, |n| table.admit(&inputs::coming(n * 611_953 % known), &limits).map(drop));
}

/// What a flood of one source costs.
fn refused(times: u64) {
    let (table, limits) = (inputs::full_sources(), inputs::source_limits());
    while table.admit(&inputs::coming(7), &limits).is_ok() {}
    repeat(times, |_| table.admit(&inputs::coming(black_box(7)), &limits).is_err());
}

/// A line in a batch that has room for it, as in the access log.
fn record(format: AccessLogFormat, times: u64) {
    let record = inputs::record();
    let mut batch = Vec::with_capacity(1024);
    repeat(times, |_| {
        batch.clear();
        black_box(&record).write(format, &mut batch);
        batch.len()
    });
}

/// One counter found and added to, as the relay does at each tick.
fn bytes(times: u64) {
    let metrics = Metrics::new().listener("tls");
    repeat(times, |n| {
        metrics.bytes(black_box(Direction::FromBackend), black_box(Engine::Spliced)).increment(n)
    });
}

/// All that is counted of a connection that was served, from its accept to its end.
fn connection(times: u64) {
    let metrics = Metrics::new();
    let (listener, pool) = (metrics.listener("tls"), metrics.pool("mail"));
    let took = Duration::from_micros(300);
    repeat(times, |n| {
        let active = listener.accepted();
        active.hello(HelloOutcome::Sni);
        active.hello_seconds.record(took);
        pool.connect(ConnectOutcome::Ok);
        pool.connect_seconds.record(took);
        for direction in Direction::ALL {
            active.bytes(direction, Engine::Copied).increment(n);
        }
        active.closed(CloseReason::ClientFin, took);
    });
}
