//! The inputs of the benches (captured hellos, sets of backends and routes, a pool, a record), and the
//! lengths of their runs.
//!
//! Times and instruction counts have the same inputs, so one explains the other.
#![allow(dead_code, reason = "no bench uses all of it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use criterion::Criterion;
use pointsman::balance::{Algorithm, Candidates, FULL_SHARE, Member};
use pointsman::ids::ListenerId;
use pointsman::limit::{
    AdmissionRequest, Moment, PrefixLengths, Rate, SourceKey, SourceLimits, SourcePass, SourceTable, WhenFull,
};
use pointsman::pool::near::{ClientPlace, Coordinates, NearSource, NearSpec, Sites, ZoneOrders};
use pointsman::pool::{BackendSpec, HashOn, Pool, PoolSpec, TierSpec};
use pointsman::route::{
    AddressRange, IpPrefix, NamePattern, PrefixMapBuilder, RouteEntry, RouteId, RouteTable,
};
use pointsman::sys::Address;
use pointsman::telemetry::{AccessEvent, AccessRecord, ClientAddr, CloseReason, Offered, OpenCounts};
use pointsman::wire::{ClientHello, HelloReader, Ja4, Offer, ServerName};

/// Returns short run times, so that all benches can run at any time. `--measurement-time` and `--sample-size`
/// make a run more exact.
pub(crate) fn brief() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .sample_size(30)
        .nresamples(10_000)
        .without_plots()
}

/// A hash key; all keys cost the same.
pub(crate) const HASH_KEY: [u8; 16] = [7; 16];

/// Makes one row of [`HELLOS`].
macro_rules! hello {
    ($file:literal) => {
        ($file, include_bytes!(concat!("../../tests/fixtures/hello/", $file, ".bin")))
    };
}

/// Hellos that real clients sent; the README beside the files names the clients.
pub(crate) const HELLOS: [(&str, &[u8]); 13] = [
    hello!("chromium"),
    hello!("curl"),
    hello!("gnutls"),
    hello!("java"),
    hello!("node"),
    hello!("openssl-early-data"),
    hello!("openssl-no-name"),
    hello!("openssl-records"),
    hello!("openssl-tls12"),
    hello!("openssl-tls13"),
    hello!("openssl-upper"),
    hello!("psql"),
    hello!("python"),
];

/// Returns the hello in `file`, which is named without its ending.
///
/// # Panics
///
/// Panics if there is no such file.
pub(crate) fn hello(file: &str) -> &'static [u8] {
    HELLOS.iter().find(|(name, _)| *name == file).expect("a captured hello").1
}

/// Reads a hello that arrives `step` bytes at a time, as a connection does.
///
/// # Panics
///
/// If it is not a whole hello.
pub(crate) fn read_hello(raw: &[u8], step: usize) -> ClientHello {
    let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    let ends = (step..raw.len()).step_by(step).chain([raw.len()]);
    let mut answers = ends.map(|end| reader.read(&raw[..end]).expect("a sound hello"));
    answers.find_map(|hello| hello).expect("a whole hello")
}

/// Returns the same hello in records of one byte each, the most records for one hello.
pub(crate) fn in_one_byte_records(raw: &[u8]) -> Vec<u8> {
    let (header, message) = raw.split_at(5);
    message.iter().flat_map(|&byte| [header[0], header[1], header[2], 0, 1, byte]).collect()
}

/// Returns a hello with this many empty extensions, all of different types.
pub(crate) fn in_empty_extensions(count: u16) -> Vec<u8> {
    let before = [&[3, 3], [7; 32].as_slice(), &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let extensions: Vec<u8> = (1..=count).flat_map(|kind| [(kind >> 8) as u8, kind as u8, 0, 0]).collect();
    let body = [before, vector16(extensions)].concat();
    let message = [vec![1, 0], vector16(body)].concat();
    [vec![22, 3, 1], vector16(message)].concat()
}

/// Returns bytes behind their length of two bytes.
fn vector16(content: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short vector");
    [length.to_be_bytes().to_vec(), content].concat()
}

/// Returns a name that is known to be valid.
pub(crate) fn name(text: &str) -> ServerName {
    text.parse().expect("a valid name")
}

/// Returns addresses as the identities of members, like a configuration without names.
pub(crate) fn identities(count: usize) -> Vec<String> {
    (0..count).map(|n| backend_address(n).to_string()).collect()
}

/// Returns members of different weight, so that the round robin has a cycle of some length.
pub(crate) fn members(identities: &[String]) -> Vec<Member<'_>> {
    let weighted = identities.iter().zip((1..=5).cycle());
    weighted.map(|(identity, weight)| Member { identity: identity.as_bytes(), weight }).collect()
}

/// Candidates that are accepted as a function says. Their connections and latencies differ, so that the
/// balancer has something to compare.
pub(crate) struct Accepting<F>(pub(crate) F);

impl<F: Fn(usize) -> bool> Candidates for Accepting<F> {
    fn accepts(&self, index: usize) -> bool {
        (self.0)(index)
    }

    fn active(&self, index: usize) -> u64 {
        index as u64 % 7
    }

    fn share(&self, _: usize) -> u32 {
        FULL_SHARE
    }

    fn latency(&self, index: usize) -> Duration {
        Duration::from_micros(index as u64 % 11)
    }
}

/// Returns a pool whose backends are all up and differ in weight.
pub(crate) fn pool(algorithm: Algorithm, hash_on: HashOn, backends: usize) -> Pool {
    let weights = (1..=5).cycle();
    let backend = |(n, weight)| {
        let address = Address::Tcp(backend_address(n));
        BackendSpec { weight, ..BackendSpec::new(address.to_string(), address) }
    };
    let spec = PoolSpec {
        algorithm,
        hash_on: hash_on.into(),
        hash_key: HASH_KEY,
        health: None,
        ..PoolSpec::new("pool".into(), (0..backends).zip(weights).map(backend).collect())
    };
    Pool::build(spec, None, 1)
}

/// The places of the zones of [`zoned_pool`], all over the Earth.
pub(crate) const SITES: [(f64, f64); 8] = [
    (52.4, 4.9),
    (59.3, 18.1),
    (39.0, -77.5),
    (45.6, -121.2),
    (-23.6, -46.6),
    (19.1, 72.9),
    (35.6, 139.8),
    (-33.9, 151.2),
];

/// Returns a pool with 96 backends in eight zones, which all are up. With networks, each of the first this many networks
/// of IPv4 has a place, and its clients have an order of zones by distance.
pub(crate) fn zoned_pool(networks: Option<u32>) -> Pool {
    let zone = |n: usize| format!("zone{}", n % SITES.len());
    let backend = |n| {
        let address = Address::Tcp(backend_address(n));
        BackendSpec { zone: Some(zone(n).into()), ..BackendSpec::new(address.to_string(), address) }
    };
    let zones: Vec<Arc<str>> = (0..SITES.len()).map(|n| zone(n).into()).collect();
    let near = networks.map(|count| near_spec(&zones, count));
    let spec = PoolSpec {
        hash_key: HASH_KEY,
        health: None,
        tiers: TierSpec { zone: Some(zone(0).into()), zones, near, ..TierSpec::default() },
        ..PoolSpec::new("pool".into(), (0..96).map(backend).collect())
    };
    Pool::build(spec, None, 1)
}

/// Returns the orders of these zones for so many networks of equal size, whose places are pseudorandom.
fn near_spec(zones: &[Arc<str>], networks: u32) -> NearSpec {
    let place = |(north, east): (f64, f64)| Coordinates::new(north, east).expect("in range");
    let sites = zones.iter().zip(SITES).map(|(zone, at)| (Arc::clone(zone), place(at))).collect();
    let sites = Arc::new(Sites::At(sites));
    let (mut orders, mut map) = (ZoneOrders::new(&sites), PrefixMapBuilder::default());
    let length = networks.next_power_of_two().trailing_zeros();
    for n in 0..networks {
        let number = orders.number(ClientPlace::At(place(place_of(n)))).expect("few orders");
        let network = format!("{}/{length}", Ipv4Addr::from_bits(n << (32 - length)));
        map.add(&network.parse().expect("a network"), number.expect("a place"));
    }
    let read = Some(Arc::new(orders.with_networks(map.build())));
    NearSpec { source: NearSource { path: Path::new("bench.mmdb").into(), sites }, read }
}

/// Returns the pseudorandom place of a network.
pub(crate) fn place_of(n: u32) -> (f64, f64) {
    let mixed = n.wrapping_mul(2_654_435_761);
    (f64::from(mixed % 140) - 60.0, f64::from(mixed / 140 % 360) - 180.0)
}

/// Returns the address of client number `n` of [`zoned_pool`], anywhere in IPv4.
pub(crate) fn scattered_client(n: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits((n as u32).wrapping_mul(2_654_435_761)), 50_000))
}

fn backend_address(n: usize) -> SocketAddr {
    let n = u32::try_from(n).expect("fewer backends than addresses");
    SocketAddr::from((Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n), 443))
}

/// Returns the address of client number `n`.
pub(crate) fn client(n: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(n as u32), 50_000))
}

/// Returns server names that clients request, enough to spread over a pool.
pub(crate) fn names() -> Vec<ServerName> {
    (0..1000).map(|n| name(&format!("host{n:03}.example.com"))).collect()
}

/// Returns patterns: half exact names (the even numbers), half wildcards.
pub(crate) fn patterns(count: u32) -> Vec<(NamePattern, RouteId)> {
    let pattern =
        |n| if n % 2 == 0 { format!("host{n}.example.com") } else { format!("*.apps{n}.example.com") };
    (0..count).map(|n| (pattern(n).parse().expect("a valid pattern"), RouteId(n))).collect()
}

/// Returns the table of those patterns.
pub(crate) fn routes(patterns: &[(NamePattern, RouteId)]) -> RouteTable {
    let entries = patterns.iter().cloned().map(|(pattern, route)| RouteEntry::plain(pattern, route));
    RouteTable::build(entries).expect("no pattern twice")
}

/// Returns the offer of a captured hello, as the log shows it.
pub(crate) fn offered(file: &str) -> Offered {
    let raw = hello(file);
    let read = read_hello(raw, raw.len());
    let message = read.message(raw);
    let offer = Offer::of(&message).expect("a sound hello");
    Offered::new(&offer, Ja4::of(&offer), 1, read.records)
}

/// Returns the record of an ordinary connection, in which no value is absent.
pub(crate) fn record() -> AccessRecord {
    AccessRecord {
        id: 123_456,
        accepted: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        peer: None,
        proxy_authority: None,
        proxy_alpn: None,
        unique_id: None,
        private_link: None,
        client: ClientAddr(Address::Tcp(client(0xC633_6407))),
        listener: "tls".into(),
        sni: Some("mail.example.com".into()),
        offered: Some(Box::new(offered("openssl-tls13"))),
        route: Some("mail.example.com".into()),
        pool: Some("mail".into()),
        backend: Some("mail-1".into()),
        backend_address: Some(Address::Tcp(backend_address(1))),
        attempts: 1,
        from_client: 5_170,
        from_backend: 1_234_567,
        dropped: 0,
        hello: Some(Duration::from_micros(1_234)),
        queue: None,
        connect: Some(Duration::from_micros(987)),
        total: Duration::from_millis(36_012),
        event: AccessEvent::End(CloseReason::ClientFin),
        delta: [5_170, 1_234_567],
        reported: None,
        host: None,
        port: None,
        open: OpenCounts::default(),
    }
}

/// Returns networks of four sizes over all of IPv4, as lists of bad addresses have them.
pub(crate) fn networks_v4(count: u32) -> Vec<IpPrefix> {
    let network = |n: u32| {
        let length = [32, 32, 24, 20][n as usize % 4];
        let bits = n.wrapping_mul(2_654_435_761) & (u32::MAX << (32 - length));
        format!("{}/{length}", Ipv4Addr::from_bits(bits)).parse().expect("a network")
    };
    (0..count).map(network).collect()
}

/// Returns networks of IPv6, all within the part that is in use.
pub(crate) fn networks_v6(count: u32) -> Vec<IpPrefix> {
    let network = |n: u32| {
        let bits = 0x2000_u128 << 112 | u128::from(n.wrapping_mul(2_654_435_761)) << 80;
        format!("{}/48", Ipv6Addr::from_bits(bits)).parse().expect("a network")
    };
    (0..count).map(network).collect()
}

/// Returns the last address of a network with an even number, and the address behind other networks.
pub(crate) fn near(network: &IpPrefix) -> IpAddr {
    match network.range() {
        AddressRange::V4(_, last) => Ipv4Addr::from_bits(last.wrapping_add(last & 1)).into(),
        AddressRange::V6(_, last) => Ipv6Addr::from_bits(last.wrapping_add(last >> 80 & 1)).into(),
    }
}

/// Returns limits for the sources of a listener.
pub(crate) fn source_limits() -> SourceLimits {
    // The burst is so high that only the intended source exceeds the rate.
    let rate = Some(Rate::new(50, Duration::from_secs(1), 100_000));
    SourceLimits { connections: Some(100), rate, hellos: Some(20) }
}

/// Returns a connection of the n-th source; all come at one moment.
pub(crate) fn coming(n: u64) -> AdmissionRequest {
    let source = SourceKey::of(client(n).ip(), PrefixLengths::default());
    AdmissionRequest { listener: ListenerId::nth(0), source, is_read: true, now: Moment::from_nanos(1 << 40) }
}

/// Returns the table of the default size after the first 60000 sources came and left, and a million others
/// before them.
pub(crate) fn full_sources() -> Arc<SourceTable> {
    let table = SourceTable::new(65_536, [1, 2], WhenFull::Pass);
    for n in (0..1_060_000).rev() {
        drop(table.admit(&coming(n), &source_limits()));
    }
    table
}

/// Takes and holds a third of the slots of the table.
pub(crate) fn pinned_sources(table: &Arc<SourceTable>) -> Vec<SourcePass> {
    (1_100_000..1_120_000).filter_map(|n| table.admit(&coming(n), &source_limits()).ok()?).collect()
}
