//! Single operations whose instructions are counted. The load of the machine does not change such a count.
//!
//! With the name of a case and a number, the program runs the operation of that case that many times. Without
//! arguments it lists the cases. `.ci/instructions` counts the instructions inside of [`repeat`]: neither the
//! start of the process nor the set-up of a case is counted. It compares the counts with `instructions.txt`.
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

/// A name, and a function that does the operation a number of times.
type Case = (&'static str, fn(u64));

const CASES: &[Case] = &[
    ("hello/openssl", |times| hello("openssl-tls13", usize::MAX, times)),
    ("hello/chromium", |times| hello("chromium", usize::MAX, times)),
    ("hello/many_extensions", many_extensions),
    ("hello/one_byte_segments", |times| hello("openssl-tls13", 1, times)),
    ("hello/one_byte_records", one_byte_records),
    ("hello/told", offer_and_fingerprint),
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
    ("pool/zones", |times| zoned_pool(None, times)),
    ("pool/near", |times| zoned_pool(Some(100_000), times)),
    ("route/exact", |times| route(0, "", times)),
    ("route/wildcard", |times| route(1, "a.b.", times)),
    ("list/v4", |times| list_lookup(inputs::networks_v4(100_000), times)),
    ("list/v6", |times| list_lookup(inputs::networks_v6(100_000), times)),
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
    // Flags are for the other benches; cargo itself passes `--bench`.
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

/// Does `operation` for the numbers below `times`. The count begins and ends with this function, which is
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

/// Reads the most extensions that fit in the largest hello: the greatest cost of one packet of a hostile
/// client.
fn many_extensions(times: u64) {
    let raw = inputs::in_empty_extensions(4000);
    repeat(times, |_| inputs::read_hello(black_box(&raw), raw.len()));
}

/// Reads the offer of a hello and makes its fingerprint, as the access log needs them.
fn offer_and_fingerprint(times: u64) {
    repeat(times, |_| inputs::offered(black_box("openssl-tls13")));
}

fn one_byte_records(times: u64) {
    let raw = inputs::in_one_byte_records(inputs::hello("openssl-tls13"));
    repeat(times, |_| inputs::read_hello(black_box(&raw), raw.len()));
}

fn server_name(times: u64) {
    repeat(times, |_| ServerName::from_client(black_box(b"mail.example.com")));
}

/// Picks among 100 candidates, of which the first `refused` that the balancer tries are refused.
fn pick(algorithm: Algorithm, refused: u32, times: u64) {
    let identities = inputs::identities(100);
    let balancer = Balancer::build(algorithm, &inputs::members(&identities), &inputs::HASH_KEY, 1);
    repeat(times, |key| {
        let left = Cell::new(black_box(refused));
        let accept = |_| left.replace(left.get().saturating_sub(1)) == 0;
        balancer.pick(key, key, &inputs::Accepting(accept)).expect("most are accepted")
    });
}

/// Picks among 100 that may have a quarter more than their share; every sixth pick tries all of them.
fn bounded(times: u64) {
    let identities = inputs::identities(100);
    let members = inputs::members(&identities);
    let maglev = Maglev::build(&members, &inputs::HASH_KEY).bounded(MaxLoad::of_percent(125), &members);
    repeat(times, |key| maglev.pick(key, &inputs::Accepting(|_| true)).expect("all accept"));
}

/// Makes the hash key of a connection, picks among 100, and takes and returns a lease.
fn pool(algorithm: Algorithm, hash_on: HashOn, times: u64) {
    let pool = inputs::pool(algorithm, hash_on, 100);
    let names = inputs::names();
    repeat(times, |n| {
        let name = &names[n as usize % names.len()];
        pool.pick(Some(inputs::client(n)), Some(name), &[]).expect("all are up")
    });
}

/// Picks among 96 backends in eight zones: in the order of the node, or with so many networks by distance.
fn zoned_pool(networks: Option<u32>, times: u64) {
    let pool = inputs::zoned_pool(networks);
    repeat(times, |n| pool.pick(Some(inputs::scattered_client(n)), None, &[]).expect("all are up"));
}

/// Looks up a name among 1000 routes. Each process hashes with keys of its own, so the number of collisions
/// differs for a single name. All names together always have about the same number.
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

/// Looks up addresses inside and outside of 100,000 networks.
fn list_lookup(networks: Vec<IpPrefix>, times: u64) {
    let set: PrefixSet = networks.iter().collect();
    let asked: Vec<_> = networks.iter().step_by(97).map(inputs::near).collect();
    repeat(times, |n| set.contains(asked[n as usize % asked.len()]));
}

/// Takes a slot of each of the two gates that every connection passes, and returns it.
fn gates(times: u64) {
    let (process, listener) = (Gate::new(10), Gate::new(10));
    repeat(times, |_| (black_box(&process).enter(), black_box(&listener).enter()));
}

/// Takes and returns the slots of both gates in a permit, as for a listener without further limits.
fn permit(times: u64) {
    let (process, listener) = (Gate::new(10), Gate::new(10));
    repeat(times, |_| Permit::ask(black_box(&process), black_box(&listener)));
}

/// Counts a connection in and out in a full table. The sources are known, or each is new and displaces
/// another.
fn source(known: u64, times: u64) {
    let (table, limits) = (inputs::full_sources(), inputs::source_limits());
    repeat(times, |n| table.admit(&inputs::coming(n * 611_953 % known), &limits).map(drop));
}

/// Refuses connections of one source, as in a flood.
fn refused(times: u64) {
    let (table, limits) = (inputs::full_sources(), inputs::source_limits());
    while table.admit(&inputs::coming(7), &limits).is_ok() {}
    repeat(times, |_| table.admit(&inputs::coming(black_box(7)), &limits).is_err());
}

/// Writes a line to a batch that has room, as the access log does.
fn record(format: AccessLogFormat, times: u64) {
    let record = inputs::record();
    let mut batch = Vec::with_capacity(1024);
    repeat(times, |_| {
        batch.clear();
        black_box(&record).write(format, &mut batch);
        batch.len()
    });
}

/// Finds one counter and adds to it, as the relay does at each tick.
fn bytes(times: u64) {
    let metrics = Metrics::new().listener("tls");
    repeat(times, |n| metrics.moved(black_box(Direction::FromBackend), black_box(Engine::Spliced), n));
}

/// Counts all events of a connection that is served, from its accept to its end.
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
            active.moved(direction, Engine::Copied, n);
        }
        active.closed(CloseReason::ClientFin, took);
    });
}
