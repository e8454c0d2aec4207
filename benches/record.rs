//! The cost of an access record for a connection.
#![allow(missing_docs)]

mod inputs;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::telemetry::record::raw_name;
use pointsman::telemetry::{AccessLogFormat, AccessRecord};

/// Writes the line to the end of a batch that has room, as the access log does.
fn write(c: &mut Criterion) {
    let plain = inputs::record();
    let bare = AccessRecord {
        sni: None,
        route: None,
        pool: None,
        backend: None,
        backend_address: None,
        ..plain.clone()
    };
    // A refused name is written too; here every byte of the name needs an escape.
    let hostile = AccessRecord { sni: Some(raw_name(&[0xff; 255])), ..plain.clone() };
    for format in [AccessLogFormat::Json, AccessLogFormat::Text] {
        let mut group = c.benchmark_group(format!("record/{format:?}"));
        for (kind, record) in [("plain", &plain), ("bare", &bare), ("hostile", &hostile)] {
            let mut batch = Vec::new();
            group.bench_function(BenchmarkId::from_parameter(kind), |b| {
                b.iter(|| {
                    batch.clear();
                    black_box(record).write(format, &mut batch);
                    batch.len()
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = write
}
criterion_main!(benches);
