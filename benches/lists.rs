//! What a list of addresses costs: a connection that is looked up in it, and the load of its file.
#![allow(missing_docs)]

mod inputs;

use std::fs;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::config::{self, ListReader};
use pointsman::route::{IpPrefix, PrefixSet};

const COUNTS: [u32; 3] = [1000, 100_000, 1_000_000];

fn look_up(c: &mut Criterion) {
    for (family, networks) in
        [("v4", inputs::networks_v4 as fn(u32) -> Vec<IpPrefix>), ("v6", inputs::networks_v6)]
    {
        let mut group = c.benchmark_group(format!("list/{family}"));
        for count in COUNTS {
            let networks = networks(count);
            let set: PrefixSet = networks.iter().collect();
            // In an order that no cache expects.
            let asked: Vec<_> = networks.iter().step_by(7).map(inputs::near).collect();
            let mut addresses = asked.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| set.contains(*black_box(addresses.next().expect("no end"))));
            });
        }
    }
}

/// From a file in the form that others publish to a set that can be asked.
fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("list/load");
    group.sample_size(10);
    for count in COUNTS {
        let path = std::env::temp_dir().join(format!("pointsman-bench-{}-{count}.txt", std::process::id()));
        let line = |network: &IpPrefix| format!("{network} ; SBL{count}\n");
        fs::write(&path, inputs::networks_v4(count).iter().map(line).collect::<String>()).expect("a file");
        let text = format!(
            "listener.a = {{ bind = ':1', pool = 'a', deny = 'bad' }}\npool.a.backends = ['127.0.0.1:1']\nlist.bad.file = '{}'",
            path.display()
        );
        let (config, _) = config::parse("bench", &text).expect("a configuration");
        let reader = ListReader::all(&config).remove(0);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| reader.read().expect("a good file"));
        });
        fs::remove_file(path).expect("the file");
    }
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = look_up, load
}
criterion_main!(benches);
