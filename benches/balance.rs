//! What a connection pays for its verdict and its backend, and a reload for the tables behind them.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::balance::{Algorithm, Balancer, Maglev, Member};
use pointsman::route::{NamePattern, RouteId, RouteTable};
use pointsman::wire::ServerName;

/// Weights differ, so that the round robin has a cycle of some length.
fn members(identities: &[String]) -> Vec<Member<'_>> {
    let weighted = identities.iter().zip((1..=5).cycle());
    weighted.map(|(identity, weight)| Member { identity: identity.as_bytes(), weight }).collect()
}

fn identities(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.0.{}.{}:443", n / 256, n % 256)).collect()
}

fn pick(c: &mut Criterion) {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
        let mut group = c.benchmark_group(format!("pick/{algorithm:?}"));
        for count in [3, 100, 10_000] {
            let identities = identities(count);
            let balancer = Balancer::build(algorithm, &members(&identities), &[7; 16], 1);
            let mut key = 0_u64;
            group.bench_function(BenchmarkId::new("accepted", count), |b| {
                b.iter(|| {
                    key += 1;
                    balancer.pick(black_box(key), |_| true)
                });
            });
            group.bench_function(BenchmarkId::new("half_refused", count), |b| {
                b.iter(|| {
                    key += 1;
                    balancer.pick(black_box(key), |member| member % 2 == 0)
                });
            });
        }
    }
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build/Maglev");
    group.sample_size(10);
    for count in [3, 1000, 10_000] {
        let identities = identities(count);
        let members = members(&identities);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| Maglev::build(black_box(&members), &[7; 16]));
        });
    }
}

/// Half exact names, half wildcards.
fn patterns(count: u32) -> Vec<(NamePattern, RouteId)> {
    let pattern =
        |n| if n % 2 == 0 { format!("host{n}.example.com") } else { format!("*.apps{n}.example.com") };
    (0..count).map(|n| (pattern(n).parse().expect("a valid pattern"), RouteId(n))).collect()
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [10, 1000, 100_000] {
        let patterns = patterns(count);
        let table = RouteTable::build(patterns.iter().cloned()).expect("no pattern twice");
        let last = count - 1;
        let names = [
            ("exact", format!("host{}.example.com", last - 1)),
            ("wildcard", format!("a.b.apps{last}.example.com")),
            ("unmatched", "a.b.c.example.org".to_owned()),
        ];
        for (kind, name) in names {
            let name: ServerName = name.parse().expect("a valid name");
            group.bench_function(BenchmarkId::new(kind, count), |b| b.iter(|| table.find(black_box(&name))));
        }
    }
    group.sample_size(10);
    let patterns = patterns(100_000);
    group.bench_function(BenchmarkId::new("build", 100_000), |b| {
        b.iter(|| RouteTable::build(patterns.iter().cloned()));
    });
}

criterion_group!(benches, pick, build, route);
criterion_main!(benches);
