//! The cost of reading the hello of a connection, for several cuts of the bytes.
#![allow(missing_docs)]

mod inputs;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::wire::ServerName;

/// The bytes that fit in one segment on an Ethernet; a hello with a post-quantum key share does not.
const SEGMENT: usize = 1448;

/// Reads a hello that arrives whole.
fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("hello/one_segment");
    for (file, raw) in inputs::HELLOS {
        group.bench_function(BenchmarkId::from_parameter(file), |b| {
            b.iter(|| inputs::read_hello(black_box(raw), raw.len()));
        });
    }
}

fn cut(c: &mut Criterion) {
    let mut group = c.benchmark_group("hello/segments");
    for (kind, file, step) in [
        ("two", "chromium", SEGMENT),
        ("one_byte", "chromium", 1),
        ("one_byte", "openssl-tls13", 1),
        ("one_byte", "openssl-records", 1),
    ] {
        let raw = inputs::hello(file);
        group.bench_function(BenchmarkId::new(kind, file), |b| {
            b.iter(|| inputs::read_hello(black_box(raw), step));
        });
    }
}

/// Reads a hello in three records, as a real client can send it, and in records of one byte. The latter is
/// the worst case.
fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("hello/records");
    let three = inputs::hello("openssl-records");
    group.bench_function("three", |b| b.iter(|| inputs::read_hello(black_box(three), three.len())));
    for file in ["openssl-tls13", "chromium"] {
        let raw = inputs::in_one_byte_records(inputs::hello(file));
        group.bench_function(BenchmarkId::new("one_byte", file), |b| {
            b.iter(|| inputs::read_hello(black_box(&raw), raw.len()));
        });
    }
}

fn server_name(c: &mut Criterion) {
    let mut group = c.benchmark_group("server_name");
    let longest = ["a".repeat(61).as_str(); 4].join(".");
    for (kind, name) in [("lower", "mail.example.com"), ("upper", "MAIL.Example.COM."), ("long", &longest)] {
        group.bench_function(kind, |b| b.iter(|| ServerName::from_client(black_box(name.as_bytes()))));
    }
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = whole, cut, records, server_name
}
criterion_main!(benches);
