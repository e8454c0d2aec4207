//! The cost of an admission while the table of sources is full, or flooded.
#![allow(missing_docs)]

mod inputs;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::limit::{Moment, Rate, RateGate};

/// Admits a connection and ends it, of a known source and of sources that are always new.
fn source(c: &mut Criterion) {
    let limits = inputs::source_limits();
    let mut group = c.benchmark_group("source");
    for (kind, known) in [("known", 60_000), ("a_million", 1_000_000)] {
        let table = inputs::full_sources();
        let mut n = 0_u64;
        group.bench_function(kind, |b| {
            b.iter(|| {
                // The step has no common factor with the number, so that no cache can predict the next
                // source.
                n = (n + 611_953) % known;
                table.admit(&inputs::coming(black_box(n)), &limits).map(drop)
            });
        });
    }
    let table = inputs::full_sources();
    let pinned = inputs::pinned_sources(&table);
    let mut n = 0_u64;
    group.bench_function("a_million_beside_pinned", |b| {
        b.iter(|| {
            n = (n + 611_953) % 1_000_000;
            table.admit(&inputs::coming(black_box(2_000_000 + n)), &limits).map(drop)
        });
    });
    drop(pinned);
    let table = inputs::full_sources();
    while table.admit(&inputs::coming(7), &limits).is_ok() {}
    group.bench_function("refused", |b| {
        b.iter(|| table.admit(&inputs::coming(black_box(7)), &limits).is_err())
    });
}

fn rate(c: &mut Criterion) {
    let gate = RateGate::new(Some(Rate::new(1_000_000, std::time::Duration::from_secs(1), 1000)));
    c.bench_function("rate", |b| b.iter(|| gate.admit(Moment::now())));
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = source, rate
}
criterion_main!(benches);
