//! The cost of a list of addresses: for a connection that is looked up in the list, and for loading a file of
//! entries or of countries.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(missing_docs)]

mod inputs;

#[path = "../tests/it/support/country_file.rs"]
mod country_file;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use country_file::{CountryFile, at, by_code};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pointsman::config::{self, ListReader, NearReader};
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
            // The order is one that no cache can predict.
            let asked: Vec<_> = networks.iter().step_by(7).map(inputs::near).collect();
            let mut addresses = asked.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| set.contains(*black_box(addresses.next().expect("no end"))));
            });
        }
    }
}

/// Loads a file in the form in which such lists are published, up to a set that can be searched.
fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("list/load");
    group.sample_size(10);
    for count in COUNTS {
        let path = std::env::temp_dir().join(format!("pointsman-bench-{}-{count}.txt", std::process::id()));
        let line = |network: &IpPrefix| format!("{network} ; SBL{count}\n");
        fs::write(&path, inputs::networks_v4(count).iter().map(line).collect::<String>()).expect("a file");
        let reader = reader(&path, "");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| reader.read().expect("a good file"));
        });
        fs::remove_file(path).expect("the file");
    }
}

/// Returns the reader of a list with this file and these further keys.
fn reader(path: &Path, keys: &str) -> ListReader {
    let text = format!(
        "listener.a = {{ bind = ':2', pool = 'a', deny = 'bad' }}\npool.a.backends = ['127.0.0.1:1']\n\
         [list.bad]\nfile = '{}'\n{keys}",
        path.display()
    );
    let (config, _) = config::parse("bench", &text).expect("a configuration");
    ListReader::all(&config).remove(0)
}

/// Builds a file of countries like the real ones: a million networks in 240 countries that lie side by side.
/// Each network of IPv4 /16 or of IPv6 /32 has eight parts, from a half to 1/128 of it.
fn countries_file() -> Vec<u8> {
    let mut file = CountryFile::new();
    let code = |n: u8| [b'A' + n / 26, b'A' + n % 26].map(char::from).iter().collect::<String>();
    let records: Vec<_> = (0..240).map(|n| file.record(&by_code(&code(n)))).collect();
    let v4 = (1..224 << 8).map(|n: u128| (n << 16, 96 + 16));
    let v6 = (0..1 << 16).map(|n: u128| (0x2a00 << 112 | n << 96, 32));
    for (n, (start, length)) in v4.chain(v6).enumerate() {
        for half in 0..8 {
            // The last part gets the rest, and so has the size of the part before it.
            let longer = length + 1 + half.min(6);
            let bits = if half == 0 { 0 } else { ((1_u128 << half) - 1) << (128 - length - half) };
            let record = records[(n * 31 + usize::from(half)) / 3 % records.len()];
            file.put_bits(start | bits, longer, record);
        }
    }
    file.bytes()
}

/// Reads a database of a million networks with coordinates, up to a table with the order of eight sites for each.
fn load_places(c: &mut Criterion) {
    let mut group = c.benchmark_group("near/read");
    group.sample_size(10);
    let path = std::env::temp_dir().join(format!("pointsman-bench-{}-near.mmdb", std::process::id()));
    let mut file = CountryFile::new();
    for n in 0..1_000_000_u32 {
        let (north, east) = inputs::place_of(n);
        // Real files have some 100,000 places.
        let record = if n < 100_000 {
            file.record(&at(north, east))
        } else {
            (n as usize % 100_000) * at(0.0, 0.0).len()
        };
        file.put_bits(u128::from(n) << 12, 96 + 20, record);
    }
    fs::write(&path, file.bytes()).expect("a file");
    let zones = || (0..inputs::SITES.len()).map(|n| format!("zone{n}"));
    let backends =
        zones().map(|zone| format!("{{ address = '127.0.0.1:1', name = '{zone}', zone = '{zone}' }}"));
    let sites = zones().zip(inputs::SITES).map(|(zone, (north, east))| format!("{zone} = [{north}, {east}]"));
    let text = format!(
        "listener.a = {{ bind = ':2', pool = 'a' }}\n[pool.a]\nbackends = [{}]\n\
         near = {{ database = '{}', sites = {{ {} }} }}",
        backends.collect::<Vec<_>>().join(", "),
        path.display(),
        sites.collect::<Vec<_>>().join(", ")
    );
    let (config, _) = config::parse("bench", &text).expect("a configuration");
    let reader = NearReader::all(&config).remove(0);
    group.bench_function("a_million", |b| b.iter(|| reader.read().expect("a good file")));
    fs::remove_file(path).expect("the file");
}

/// Loads a database, up to a set that can be searched.
fn load_countries(c: &mut Criterion) {
    let mut group = c.benchmark_group("list/countries");
    group.sample_size(10);
    let path = std::env::temp_dir().join(format!("pointsman-bench-{}.mmdb", std::process::id()));
    fs::write(&path, countries_file()).expect("a file");
    for count in [1, 30] {
        let codes: Vec<_> = (0..count)
            .map(|n| format!("'{}{}'", char::from(b'A' + n % 8), char::from(b'A' + n / 8)))
            .collect();
        let reader = reader(&path, &format!("countries = [{}]", codes.join(", ")));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| reader.read().expect("a good file"));
        });
    }
    fs::remove_file(path).expect("the file");
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = look_up, load, load_countries, load_places
}
criterion_main!(benches);
