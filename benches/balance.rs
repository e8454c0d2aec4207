//! The cost of the verdict and the pick for a connection, and of the balancer tables for a reload.
#![allow(missing_docs)]

mod inputs;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::balance::{Algorithm, Balancer, Maglev, MaxLoad};
use pointsman::pool::HashOn;
use pointsman::route::ConnectionFacts;

fn pick(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("pick/{}", algorithm.word()));
        for count in [3, 100, 10_000] {
            let identities = inputs::identities(count);
            let balancer = Balancer::build(algorithm, &inputs::members(&identities), &inputs::HASH_KEY, 1);
            let mut key = 0_u64;
            group.bench_function(BenchmarkId::new("accepted", count), |b| {
                b.iter(|| {
                    key += 1;
                    balancer.pick(black_box(key), key, &inputs::Accepting(|_| true))
                });
            });
            group.bench_function(BenchmarkId::new("half_refused", count), |b| {
                b.iter(|| {
                    key += 1;
                    balancer.pick(black_box(key), key, &inputs::Accepting(|member| member % 2 == 0))
                });
            });
        }
    }
}

/// Picks by a table whose members may have a quarter more than their share. Most members have room, as in a
/// pool that is not full of one client.
fn bounded(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick/maglev, bounded");
    for count in [3, 100, 10_000] {
        let identities = inputs::identities(count);
        let members = inputs::members(&identities);
        let maglev = Maglev::build(&members, &inputs::HASH_KEY).bounded(MaxLoad::of_percent(125), &members);
        let mut key = 0_u64;
        group.bench_function(BenchmarkId::new("accepted", count), |b| {
            b.iter(|| {
                key += 1;
                maglev.pick(black_box(key), &inputs::Accepting(|_| true))
            });
        });
    }
}

/// Does all the work of a pool for one connection: the hash key, the pick, and the lease.
fn pool(c: &mut Criterion) {
    let names = inputs::names();
    for (kind, algorithm, hash_on) in [
        ("source_ip", Algorithm::Maglev, HashOn::SourceIp),
        ("source_ip_port", Algorithm::Maglev, HashOn::SourceIpPort),
        ("sni", Algorithm::Maglev, HashOn::Sni),
        ("round_robin", Algorithm::RoundRobin, HashOn::SourceIp),
        ("least_connections", Algorithm::LeastConnections, HashOn::SourceIp),
        ("random_two", Algorithm::RandomTwo, HashOn::SourceIp),
        ("failover", Algorithm::Failover, HashOn::SourceIp),
        ("least_latency", Algorithm::LeastLatency, HashOn::SourceIp),
    ] {
        let mut group = c.benchmark_group(format!("pool/{kind}"));
        for count in [3, 100, 10_000] {
            let pool = inputs::pool(algorithm, hash_on, count);
            let mut clients = (0..).map(inputs::client).zip(names.iter().cycle());
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| {
                    let (source, name) = clients.next().expect("no end");
                    pool.pick(black_box(Some(source)), black_box(Some(name)), &[]).expect("all are up")
                });
            });
        }
    }
}

/// Does the work of a pool with zones for one connection: in the order of the node, and by distance with a table of so many
/// networks.
fn zones(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool/zones");
    for networks in [None, Some(1000), Some(100_000), Some(1_000_000)] {
        let pool = inputs::zoned_pool(networks);
        let mut clients = (0..).map(inputs::scattered_client);
        let name = networks.map_or("node".to_owned(), |count| format!("near {count}"));
        group.bench_function(name, |b| {
            b.iter(|| {
                let source = clients.next().expect("no end");
                pool.pick(black_box(Some(source)), None, &[]).expect("all are up")
            });
        });
    }
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build/Maglev");
    group.sample_size(10);
    for count in [3, 1000, 10_000] {
        let identities = inputs::identities(count);
        let members = inputs::members(&identities);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| Maglev::build(black_box(&members), &inputs::HASH_KEY));
        });
    }
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [10, 1000, 100_000] {
        let patterns = inputs::patterns(count);
        let table = inputs::routes(&patterns);
        let last = count - 1;
        let names = [
            ("exact", format!("host{}.example.com", last - 1)),
            ("wildcard", format!("a.b.apps{last}.example.com")),
            ("unmatched", "a.b.c.example.org".to_owned()),
        ];
        for (kind, name) in names {
            let name = inputs::name(&name);
            group.bench_function(BenchmarkId::new(kind, count), |b| {
                b.iter(|| table.find(Some(black_box(&name)), &ConnectionFacts::default()))
            });
        }
    }
    group.sample_size(10);
    let patterns = inputs::patterns(100_000);
    group.bench_function(BenchmarkId::new("build", 100_000), |b| {
        b.iter(|| inputs::routes(&patterns));
    });
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = pick, bounded, pool, zones, build, route
}
criterion_main!(benches);
