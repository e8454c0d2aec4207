//! Tests of the parts that need no process. The bench has no test harness, so these tests are a program of
//! their own.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(dead_code, clippy::print_stdout, clippy::print_stderr)]

mod arriving_clients;
mod backend;
mod busy;
mod calibrate;
mod checks;
mod child;
mod client;
mod configurations;
mod cpus;
mod custom_proxy;
mod failover;
mod figures;
mod goals;
mod growth;
mod hello;
mod link;
mod load;
mod measure;
mod order;
mod peers;
mod points;
mod poller;
mod proc;
mod programs;
mod proxy;
mod report;
mod roles;
mod scrape;
mod separate_backend;
mod spread;
mod svg;
mod tokio_copy;
mod trace;

use crate::figures::{Results, Spread, Subject};
use crate::goals::{RunKind, RunResults};
use crate::hello::{Command, ParsedHello};
use crate::peers::Peer;
use crate::points::{Figures, IdleFigures, LoadFigures, Point, ProxyVariant, Reference, Test};
use crate::svg::{Lines, Scale};

const HAPROXY: Reference = Reference::Peer(Peer::Haproxy);

fn point(peer: Peer, workers: usize, round: usize, cpu: f64) -> Point {
    let flow =
        LoadFigures { rate: 1000.0, cpu: Some(cpu), pace: 2.0, p50: Some(10.0 * cpu), p99: None, p999: None };
    let variant = ProxyVariant { peer, workers };
    Point { variant, round, test: Test::Conn, errors: 1, figures: Figures::Load(flow) }
}

fn idle_point(connections: usize, pss: f64) -> Point {
    let idle =
        IdleFigures { connections, pss: Some(pss), base: Some(4.0), descriptors: Some(2.0), kernel: 0.0 };
    let figures = Figures::Idle(idle);
    let variant = ProxyVariant { peer: Peer::Pointsman, workers: 1 };
    Point { variant, round: 0, test: Test::Idle, errors: 0, figures }
}

/// Three rounds; the machine is three times slower in the second. pointsman costs 0.8, 0.9 and 0.7 of
/// haproxy.
fn three_rounds() -> Results {
    let pairs = [(0.8, 1.0), (2.7, 3.0), (0.7, 1.0)];
    let points = pairs.iter().enumerate().flat_map(|(round, (own, theirs))| {
        [point(Peer::Pointsman, 1, round, *own), point(Peer::Haproxy, 1, round, *theirs)]
    });
    Results::new(points.collect())
}

#[test]
fn a_spread_is_the_middle_and_the_ends() {
    let check = |values: &[f64], shown: &str| {
        let spread = Spread::of(values.iter().copied());
        assert_eq!(report::show(spread, 1), shown, "{values:?}");
    };
    check(&[], "-");
    check(&[f64::NAN, f64::INFINITY], "-");
    check(&[2.0], "2.0");
    check(&[3.0, 1.0, 2.0], "2.0 [1.0-3.0]");
    check(&[4.0, 1.0, 2.0, 3.0], "2.5 [1.0-4.0]");
    check(&[1.0, f64::NAN], "1.0");
    check(&[1.01, 1.02], "1.0");
}

#[test]
fn the_log_tells_where_a_lone_proxy_serves() {
    let check = |log: &str, expected: Option<&str>| {
        assert_eq!(custom_proxy::served(log), expected.map(|address| address.parse().unwrap()), "{log}");
    };
    check("", None);
    check("2026 INFO pointsman::server: admin listens address=127.0.0.1:9", None);
    check("a\n2026 INFO serving workers=1 listeners={\"main\": [127.0.0.1:80]}\n", Some("127.0.0.1:80"));
    check("2026 INFO serving listeners={\"main\": [[::1]:80, 127.0.0.1:80]}", Some("127.0.0.1:80"));
    check("2026 INFO serving listeners={\"main\": []}", None);
}

#[test]
fn a_ratio_is_made_within_each_round() {
    let subject = Subject { test: Test::Conn, connections: 0 };
    let own = ProxyVariant { peer: Peer::Pointsman, workers: 1 };
    let check = |results: &Results, variant, against, shown: &str| {
        assert_eq!(report::show(results.ratio(subject, variant, against, figures::cpu), 2), shown);
    };
    let results = three_rounds();
    check(&results, own, HAPROXY, "0.80 [0.70-0.90]");
    check(&results, own, Reference::Own(1), "1.00");
    check(&results, own, Reference::Own(2), "-");
    check(&results, own, Reference::Peer(Peer::Envoy), "-");
    let alone = Results::new(vec![point(Peer::Pointsman, 1, 0, 1.0), point(Peer::Haproxy, 1, 1, 1.0)]);
    check(&alone, own, HAPROXY, "-");
    let workers = Results::new(vec![
        point(Peer::Pointsman, 1, 0, 1.0),
        point(Peer::Pointsman, 2, 0, 1.5),
        point(Peer::Haproxy, 2, 0, 3.0),
    ]);
    let two = ProxyVariant { workers: 2, ..own };
    check(&workers, two, Reference::Own(1), "1.50");
    check(&workers, two, HAPROXY, "0.50");
}

#[test]
fn errors_are_those_of_all_rounds() {
    assert_eq!(three_rounds().errors(Peer::Pointsman), Some(3));
    assert_eq!(three_rounds().errors(Peer::Envoy), None);
}

#[test]
fn tables_show_figures_and_the_ratios_to_those_who_took_part() {
    let text = report::tables(&three_rounds(), &[HAPROXY, Reference::Peer(Peer::Envoy)]);
    assert!(
        text.contains("| proxy | conn/s | CPU µs/conn* | p50 µs | p99 µs | p99.9 µs | errors |"),
        "{text}"
    );
    assert!(text.contains("| proxy | CPU / haproxy | p50 / haproxy |"), "{text}");
    assert!(text.contains("| pointsman | 0.80 [0.70-0.90] | 0.80 [0.70-0.90] |"), "{text}");
    assert!(text.contains("| haproxy | 1.00 | 1.00 |"), "{text}");
    let workers = Results::new(vec![point(Peer::Pointsman, 1, 0, 1.0), point(Peer::Pointsman, 2, 0, 1.1)]);
    let text = report::tables(&workers, &[Reference::Own(1), HAPROXY]);
    assert!(text.contains("| proxy | CPU / own with 1 worker | p50 / own with 1 worker |"), "{text}");
    assert!(text.contains("| pointsman, 2 workers | 1.10 | 1.10 |"), "{text}");
}

#[test]
fn goals_stand_beside_what_was_measured() {
    let check = |run: &RunResults<'_>, run_kind, row: &str| {
        let table = goals::table(run, run_kind);
        assert!(table.lines().any(|line| line == row), "{row}\nis not in\n{table}");
    };
    let results = three_rounds();
    let run = RunResults::Results(&results);
    check(
        &run,
        RunKind::Loopback,
        "| short connections, CPU | haproxy | <= 0.90 | <= 0.80 | 0.80 [0.70-0.90] | reach |",
    );
    check(
        &run,
        RunKind::Loopback,
        "| short connections, CPU | sniproxy | <= 1.05 | <= 0.92 | - | not measured |",
    );
    check(&run, RunKind::Workers, "| short connections, CPU | haproxy | <= 0.90 | <= 0.80 | - | no mode |");
    check(&run, RunKind::Packets, "| errors in any test | - | <= 0 | <= 0 | 3 | above |");
    let two = Results::new(vec![point(Peer::Pointsman, 1, 0, 1.0), point(Peer::Pointsman, 2, 0, 1.1)]);
    let two = RunResults::Results(&two);
    check(
        &two,
        RunKind::Workers,
        "| short connections, 2 workers, CPU | own with 1 worker | <= 1.10 | <= 1.00 | 1.10 | must |",
    );
    let idle = Results::new(vec![idle_point(4500, 1.504), idle_point(9000, 1.506)]);
    let idle = RunResults::Results(&idle);
    check(
        &idle,
        RunKind::Loopback,
        "| user memory of 4500 idle connections, KiB each | - | <= 1.50 | <= 1.00 | 1.50 | must |",
    );
    check(
        &idle,
        RunKind::Loopback,
        "| user memory of 9000 idle connections, KiB each | - | <= 1.50 | <= 1.00 | 1.51 | above |",
    );
    let calls = [(Test::Conn, 14.96), (Test::Down, 5.0)];
    let calls = RunResults::Calls(&calls);
    check(
        &calls,
        RunKind::Calls,
        "| system calls of a short connection | - | <= 17.0 | <= 15.0 | 15.0 | reach |",
    );
    check(&calls, RunKind::Calls, "| system calls of a MiB down | - | <= 8.0 | <= 4.3 | 5.0 | must |");
    check(&calls, RunKind::Calls, "| system calls of a MiB up | - | <= 8.0 | <= 4.3 | - | not measured |");
}

#[test]
fn every_kind_of_run_has_goals() {
    let nothing = Results::new(Vec::new());
    for run_kind in [RunKind::Loopback, RunKind::Packets, RunKind::Workers, RunKind::Calls] {
        let table = goals::table(&RunResults::Results(&nothing), run_kind);
        assert!(table.matches("not measured").count() > 1, "{run_kind:?}:\n{table}");
    }
}

#[test]
fn a_hello_carries_its_command() {
    for command in [Command::Echo, Command::Reply(64), Command::Stream(u64::MAX), Command::Count] {
        let bytes = hello::build(command);
        assert_eq!(bytes.len(), hello::HELLO_SIZE);
        for length in 0..bytes.len() {
            assert!(matches!(hello::read(&bytes[..length]), ParsedHello::Incomplete), "{length}");
        }
        let ParsedHello::Whole(length, heard) = hello::read(&bytes) else { panic!("not whole") };
        assert_eq!((length, heard), (bytes.len(), command));
    }
    assert!(matches!(hello::read(&[0x17; 2000]), ParsedHello::Foreign));
}

#[test]
fn what_strace_counts_is_read() {
    let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                 ------ ----------- ----------- --------- --------- ----------------\n\
                 60.00    0.500000           1      4000        12 recvfrom\n\
                 40.00    0.300000           1        21           close\n\
                 ------ ----------- ----------- --------- --------- ----------------\n\
                 100.00    0.800000                  4021        12 total\n";
    let read: Vec<(String, u64)> = trace::parse(table).into_iter().collect();
    assert_eq!(read, [("close".to_owned(), 21), ("recvfrom".to_owned(), 4000)]);
}

#[test]
fn series_are_counted_and_read() {
    let text = "# TYPE a counter\na{b=\"c\"} 7\na{b=\"cd\"} 8\n\n# TYPE d gauge\nd 1.5\n";
    assert_eq!(scrape::series(text), 3);
    assert_eq!(scrape::value(text, "a{b=\"c\"}"), Some(7.0));
    assert_eq!(scrape::value(text, "d"), Some(1.5));
    assert_eq!(scrape::value(text, "a"), None);
}

#[test]
fn nginx_tells_where_its_stream_module_is() {
    let check = |built: &str, module: Option<&str>| {
        assert_eq!(programs::stream_module(built).as_deref(), module, "{built}");
    };
    check("configure arguments: --modules-path=/m --with-stream=dynamic", Some("/m/ngx_stream_module.so"));
    check("configure arguments: --with-stream --modules-path=/m", None);
    check("configure arguments: --with-stream_ssl_preread_module --with-stream", None);
}

#[test]
fn plots_keep_to_their_page() {
    for scale in [Scale::Linear, Scale::Tenfold] {
        let points = vec![(0.0, 0.2), (10.0, 3.0), (100_000.0, 950.0)];
        let drawn = Lines { title: "a < b".to_owned(), scale, series: vec![("c".to_owned(), points)] }.draw();
        assert!(drawn.contains("a &lt; b"));
        let mut circles = 0;
        for dot in drawn.split("<circle ").skip(1) {
            let number = |name: &str| -> f64 {
                let value = dot.split_once(&format!("{name}=\"")).unwrap().1;
                value.split_once('"').unwrap().0.parse().unwrap()
            };
            assert!((0.0..760.0).contains(&number("cx")) && (0.0..384.0).contains(&number("cy")), "{dot}");
            circles += 1;
        }
        assert_eq!(circles, 3);
    }
}
