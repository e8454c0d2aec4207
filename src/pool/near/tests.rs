use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::balance::Algorithm;
use crate::pool::{
    BackendSpec, CheckFault, CheckOutcome, CheckReport, HealthSpec, Lease, Pool, PoolSpec, TierSpec,
    Unavailable,
};
use crate::route::PrefixMapBuilder;

/// The sites of most tests, from west to east on the equator.
const SITES: &str = "a=0,0 b=0,40 c=0,100";

/// Clients and their places, of which the last has none.
const CLIENTS: &[(&str, &str)] = &[("10.0.0.0/24", "0,1"), ("10.0.1.0/24", "0,50"), ("10.0.2.0/24", "0,120")];

fn place(text: &str) -> Coordinates {
    let (latitude, longitude) = text.split_once(',').unwrap();
    Coordinates::new(latitude.parse().unwrap(), longitude.parse().unwrap()).unwrap()
}

fn sites(text: &str) -> Arc<Sites> {
    let sites = text.split_whitespace().map(|site| {
        let (name, at) = site.split_once('=').unwrap();
        (name.into(), place(at))
    });
    Arc::new(Sites::At(sites.collect()))
}

fn table(sites: &Sites, clients: &[(&str, &str)]) -> Arc<PlaceTable> {
    let mut orders = ZoneOrders::new(sites);
    let mut networks = PrefixMapBuilder::default();
    for (network, at) in clients {
        let order = orders.number(ClientPlace::At(place(at))).unwrap().unwrap();
        networks.add(&network.parse().unwrap(), order);
    }
    Arc::new(orders.with_networks(networks.build()))
}

/// Backends written as `name@zone`, with `!` after backups.
fn backends(text: &str) -> Vec<BackendSpec> {
    let backend = |(at, word): (usize, &str)| {
        let (word, backup) = word.strip_suffix('!').map_or((word, false), |word| (word, true));
        let (name, zone) = word.split_once('@').unwrap_or((word, ""));
        let zone = (!zone.is_empty()).then(|| zone.into());
        BackendSpec {
            zone,
            backup,
            ..BackendSpec::new(name, format!("10.9.0.{}:1", at + 1).parse().unwrap())
        }
    };
    text.split_whitespace().enumerate().map(backend).collect()
}

fn spec(sites: &Arc<Sites>, read: Option<Arc<PlaceTable>>, text: &str) -> PoolSpec {
    let source = NearSource { path: Path::new("geo.mmdb").into(), sites: Arc::clone(sites) };
    PoolSpec {
        hash_key: [7; 16],
        health: Some(HealthSpec { rise: 1, fall: 1, ..HealthSpec::default() }),
        tiers: TierSpec { near: Some(NearSpec { source, read }), ..TierSpec::default() },
        ..PoolSpec::new("p".into(), backends(text))
    }
}

/// A pool with the usual sites and clients.
fn pool(text: &str) -> Pool {
    let sites = sites(SITES);
    let read = table(&sites, CLIENTS);
    Pool::build(spec(&sites, Some(read), text), None, 0)
}

fn turn(pool: &Pool, name: &str, outcome: CheckOutcome) {
    let backend = Arc::clone(pool.backend(name).unwrap());
    let report = CheckReport { pool: "p".into(), backend, found: outcome.into(), took: Duration::ZERO };
    assert!(pool.apply(&report, Instant::now()).is_some(), "{name} was so before");
}

fn down(pool: &Pool, name: &str) {
    turn(pool, name, CheckOutcome::Failed(CheckFault::Refused));
}

fn client(address: &str) -> Option<SocketAddr> {
    Some((address.parse::<IpAddr>().unwrap(), 1).into())
}

fn pick(pool: &Pool, address: &str) -> Lease {
    pool.pick(client(address), None, &[]).unwrap()
}

/// The backends that one client of each network gets, and last a client without a place.
fn check(pool: &Pool, expected: &str) {
    let clients = ["10.0.0.7", "10.0.1.7", "10.0.2.7", "192.0.2.1"];
    let names = clients.map(|address| pick(pool, address).backend().name().to_string());
    assert_eq!(names.join(" "), expected);
}

/// All backends that a client gets if each attempt fails.
fn attempts(pool: &Pool, source: Option<SocketAddr>) -> String {
    let mut tried = Vec::new();
    while let Ok(lease) = pool.pick(source, None, &tried) {
        tried.push(Arc::clone(lease.backend()));
    }
    tried.iter().map(|backend| backend.name().to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_client_gets_the_nearest_zone_that_is_up() {
    for algorithm in Algorithm::ALL {
        let sites = sites(SITES);
        let near = spec(&sites, Some(table(&sites, CLIENTS)), "one@a two@b three@c");
        let tiers = TierSpec { zone: Some("c".into()), zones: vec!["b".into()], ..near.tiers.clone() };
        let pool = Pool::build(PoolSpec { algorithm, tiers, ..near }, None, 0);
        check(&pool, "one two three three");
        down(&pool, "two");
        check(&pool, "one one three three");
        down(&pool, "three");
        check(&pool, "one one one one");
        turn(&pool, "two", CheckOutcome::Passed);
        check(&pool, "one two two two");
    }
}

#[test]
fn attempts_go_from_near_to_far() {
    let pool = pool("none zone@d one@a two@b three@c far@c!  close@a!");
    assert_eq!(attempts(&pool, client("10.0.0.1")).split(' ').take(3).collect::<String>(), "onetwothree");
    let all = attempts(&pool, client("10.0.2.1"));
    // The zones without a site are alike. Backups come last, in the same order of zones.
    assert!(
        ["three two one none zone far close", "three two one zone none far close"].contains(&&*all),
        "{all}"
    );
    for address in ["10.0.1.1", "::ffff:10.0.1.9"] {
        assert!(attempts(&pool, client(address)).starts_with("two one three "));
    }
}

#[test]
fn a_site_without_backends_is_skipped() {
    let pool = pool("one@a three@c");
    check(&pool, &format!("one one three {}", pick(&pool, "192.0.2.1").backend().name()));
    assert_eq!(attempts(&pool, client("10.0.1.1")), "one three");
}

/// A client without a place gets the same backend as in a pool without places, whatever the states are.
#[test]
fn an_unknown_client_gets_the_order_of_the_node() {
    let text = "one@a two@b three@c four@c five one'@a";
    for (zone, zones) in [(None, vec![]), (Some("b".into()), vec!["a".into()])] {
        let with = pool(text);
        let mut spec = PoolSpec { ..with.spec().clone() };
        spec.tiers.near.as_mut().unwrap().read = Some(Arc::clone(&with.places().unwrap().table()));
        (spec.tiers.zone, spec.tiers.zones) = (zone, zones);
        let mut plain = spec.clone();
        plain.tiers.near = None;
        let (with, without) = (Pool::build(spec, None, 0), Pool::build(plain, None, 0));
        for states in ["", "two", "one'"] {
            states
                .split_whitespace()
                .for_each(|name| [&with, &without].iter().for_each(|pool| down(pool, name)));
            for number in 0..500 {
                let source = client(&format!("192.0.{}.{}", number / 250, number % 250));
                let [one, other] = [&with, &without].map(|pool| pool.pick(source, None, &[]).unwrap());
                assert_eq!(one.backend().name(), other.backend().name());
            }
        }
        assert_eq!(with.tiers.of_client(None).order(), without.tiers.of_client(None).order());
    }
}

/// Half of the nearest zone is down: it keeps seven tenths of its clients, and the others go to the next zone.
#[test]
fn the_rest_spills_over_to_the_next_zone() {
    let pool = pool("one@a one'@a two@b three@c");
    down(&pool, "one");
    let mut counts = std::collections::BTreeMap::new();
    for number in 0..4000 {
        let source = client(&format!("10.0.0.{}", number % 256)).map(|mut source| {
            source.set_port(number);
            source
        });
        let mut spec_by_port = pool.pick(source, None, &[]).unwrap().backend().name().to_string();
        spec_by_port.truncate(5);
        *counts.entry(spec_by_port).or_insert(0) += 1;
    }
    let share = f64::from(counts["one'"]) / 4000.0;
    assert!((0.6..0.8).contains(&share), "{counts:?}");
    assert_eq!(counts["one'"] + counts["two"], 4000, "{counts:?}");
}

/// Nodes of different zones agree on every client whose place is known.
#[test]
fn nodes_agree() {
    let sites = sites(SITES);
    let read = table(&sites, CLIENTS);
    let node = |zone: &str| {
        let mut spec = spec(&sites, Some(Arc::clone(&read)), "one@a one'@a two@b two'@b three@c");
        spec.tiers.zone = Some(zone.into());
        Pool::build(spec, None, 0)
    };
    let nodes = ["a", "b", "c"].map(node);
    nodes.iter().for_each(|node| down(node, "one'"));
    for number in 0..256 {
        for network in 0..3 {
            let address = format!("10.0.{network}.{number}");
            let [first, second, third] = nodes.each_ref().map(|node| attempts(node, client(&address)));
            assert!(first == second && second == third, "{address}: {first}, {second}, {third}");
        }
    }
}

#[test]
fn a_key_stays_while_its_backend_is_up() {
    let pool = pool("one@a one'@a one''@a two@b two'@b three@c");
    let names = || -> Vec<String> {
        (0..256).map(|number| pick(&pool, &format!("10.0.0.{number}")).backend().name().to_string()).collect()
    };
    let before = names();
    ["two", "three"].iter().for_each(|name| down(&pool, name));
    assert_eq!(names(), before, "another zone moves nobody");
    down(&pool, "one");
    let mut moved = 0;
    for (old, new) in before.iter().zip(names()) {
        assert!(*old == new || old == "one");
        moved += usize::from(*old != new);
    }
    assert!(moved > 40, "{moved}");
    turn(&pool, "one", CheckOutcome::Passed);
    assert_eq!(names(), before);
}

#[test]
fn a_preview_is_the_pick_of_the_client() {
    let pool = pool("one@a one'@a two@b two'@b three@c none");
    for number in 0..100 {
        for address in [0, 1, 2, 9].map(|network| format!("10.0.{network}.{number}")) {
            let previewed = pool.preview(client(&address), None, 9).unwrap().picks;
            let previewed: Vec<_> = previewed.iter().map(|pick| pick.backend.name().to_string()).collect();
            assert_eq!(previewed.join(" "), attempts(&pool, client(&address)));
            let lease = pick(&pool, &address);
            assert_eq!(pool.other_place(client(&address), None, lease.backend().id()), None);
        }
    }
}

#[test]
fn a_new_table_is_in_force_for_new_connections() {
    let pool = pool("one@a two@b three@c");
    let places = pool.places().unwrap();
    let held = pick(&pool, "10.0.0.1");
    let now = SystemTime::now();
    assert!(!places.swap(table(&places.source().sites, CLIENTS), now), "it is the same");
    assert!(places.swap(table(&places.source().sites, &[("10.0.0.0/24", "0,99")]), now));
    assert_eq!(&**pick(&pool, "10.0.0.1").backend().name(), "three");
    let three = pool.backend("three").unwrap().id();
    assert_eq!(pool.other_place(client("10.0.0.1"), None, held.backend().id()), Some(three));
    let zones = |address: &str| {
        let zones = pool.zones_of(client(address));
        zones.map(|zones| zones.iter().map(|zone| zone.to_string()).collect::<String>())
    };
    assert_eq!((zones("10.0.0.1"), zones("10.0.1.1")), (Some("cba".to_owned()), None));
}

#[test]
fn a_later_pool_keeps_the_table_of_the_same_source() {
    let old = pool("one@a two@b three@c");
    let unread = spec(&sites(SITES), None, "one@a two@b");
    let kept = Pool::build(unread.clone(), Some(&old), 0);
    assert!(Arc::ptr_eq(kept.places().unwrap(), old.places().unwrap()));
    assert_eq!(&**pick(&kept, "10.0.1.1").backend().name(), "two");
    let other_sites = Pool::build(spec(&sites("a=0,0 b=0,41"), None, "one@a two@b"), Some(&old), 0);
    assert!(other_sites.places().unwrap().table().order_of("10.0.1.1".parse().unwrap()).is_none());
    let read = table(&sites(SITES), &[("10.0.1.0/24", "0,0")]);
    let again = Pool::build(spec(&sites(SITES), Some(read), "one@a two@b"), Some(&old), 0);
    assert_eq!(&**pick(&again, "10.0.1.1").backend().name(), "one");
    assert_eq!(&**pick(&old, "10.0.1.1").backend().name(), "two", "the old pool may still be in force");
}

/// A tier by zone and a tier by distance with the same backends have one table. Each table counts once.
#[test]
fn equal_tiers_share_their_table() {
    let sites = sites(SITES);
    let mut spec = spec(&sites, Some(table(&sites, CLIENTS)), "one@a one'@a two@b three@c");
    spec.tiers.zone = Some("a".into());
    spec.max_load = Some(crate::balance::MaxLoad::of_percent(101));
    let pool = Pool::build(spec, None, 0);
    let held: Vec<_> = (0..20).map(|_| pick(&pool, "10.0.0.1")).collect();
    assert!(pool.overflows().unwrap() > 0 && pool.overflows().unwrap() <= held.len() as u64);
    let all: Vec<_> = pool.tiers.all().map(|tier| Arc::as_ptr(&tier.balancer)).collect();
    assert_eq!((all.len(), all[0] == all[2]), (5, true), "a and the others; a, b, c");
    assert_eq!(pool.tiers.tables().count(), 4);
}

#[test]
fn a_pool_without_hash_is_even_within_each_zone() {
    let sites = sites(SITES);
    let near = spec(&sites, Some(table(&sites, CLIENTS)), "one@a one'@a two@b");
    let pool = Pool::build(PoolSpec { algorithm: Algorithm::RoundRobin, ..near }, None, 0);
    let _held: Vec<_> = (0..10).map(|_| pick(&pool, "10.0.0.1")).collect();
    let _far: Vec<_> = (0..3).map(|_| pick(&pool, "10.0.1.1")).collect();
    assert_eq!(pool.fair_counts(), Some(vec![5, 5, 3]));
}

/// The length of the chord between two places through a sphere of radius 1, as another measure of their distance.
fn chord(one: (f64, f64), other: (f64, f64)) -> f64 {
    let point = |(latitude, longitude): (f64, f64)| {
        let (north, east) = (latitude.to_radians(), longitude.to_radians());
        [north.cos() * east.cos(), north.cos() * east.sin(), north.sin()]
    };
    let [one, other] = [one, other].map(point);
    one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn degrees() -> impl Strategy<Value = (f64, f64)> {
    // Whole degrees, so that different distances differ by more than their rounding.
    (-90_i32..=90, -180_i32..=180).prop_map(|(north, east)| (north.into(), east.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// A client gets the nearest zone with room. A zone has no room if its backend is down or full.
    #[test]
    fn the_first_zone_with_room_is_the_nearest(
        places in prop::collection::vec((degrees(), 0..3_u8), 1..12),
        at in degrees(),
    ) {
        let name = |number: usize| format!("zone{number:02}");
        let written: Vec<_> = places.iter().enumerate().map(|(number, ((north, east), _))| {
            (name(number).into(), Coordinates::new(*north, *east).unwrap())
        }).collect();
        let sites = Arc::new(Sites::At(written));
        let text: Vec<_> = (0..places.len()).map(|number| format!("b{number}@{}", name(number))).collect();
        let read = table(&sites, &[("10.0.0.0/8", &format!("{},{}", at.0, at.1))]);
        let mut spec = spec(&sites, Some(read), &text.join(" "));
        spec.backends.iter_mut().for_each(|backend| backend.max_connections = Some(1));
        let pool = Pool::build(spec, None, 0);
        let mut held = Vec::new();
        for (number, (_, state)) in places.iter().enumerate() {
            match state {
                1 => down(&pool, &format!("b{number}")),
                2 => held.push(Lease::take(&pool.backends()[number]).unwrap()),
                _ => {}
            }
        }
        let open = places.iter().enumerate().filter(|(_, (_, state))| *state == 0);
        let least = open.map(|(_, (place, _))| chord(*place, at)).min_by(f64::total_cmp);
        match (pool.pick(client("10.1.2.3"), None, &[]), least) {
            (Ok(lease), Some(least)) => {
                let number: usize = lease.backend().name()[1..].parse().unwrap();
                prop_assert_eq!(places[number].1, 0);
                let chosen = chord(places[number].0, at);
                prop_assert!(chosen - least < 1e-6, "{} is not {}", chosen, least);
                // Of equally near zones the first by name is chosen.
                let mut before = places[..number].iter().filter(|(_, state)| *state == 0);
                prop_assert!(!before.any(|(place, _)| chord(*place, at) < chosen - 1e-6));
            }
            (Err(Unavailable::Full | Unavailable::NoneUp), None) => {}
            (picked, least) => prop_assert!(false, "{:?} {:?}", picked.is_ok(), least),
        }
    }
}
