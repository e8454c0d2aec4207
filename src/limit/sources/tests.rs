use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const LISTENER: ListenerId = ListenerId::nth(0);

fn source(number: u32) -> SourceKey {
    SourceKey::of(IpAddr::V4(number.into()), PrefixLengths::default())
}

fn request(number: u32, nanos: u64) -> AdmissionRequest {
    AdmissionRequest {
        listener: LISTENER,
        source: source(number),
        is_read: true,
        now: Moment::from_nanos(nanos),
    }
}

fn table(sources: usize) -> Arc<SourceTable> {
    SourceTable::new(sources, [1, 2], WhenFull::Pass)
}

fn rate(number: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(number, Duration::from_secs(1), burst))
}

fn check_source(ip: &str, v4: u8, v6: u8, expected: &str) {
    let found = SourceKey::of(ip.parse().unwrap(), PrefixLengths { v4, v6 });
    assert_eq!(found.ip(), expected.parse::<IpAddr>().unwrap(), "{ip}");
}

#[test]
fn addresses_are_cut_to_their_prefix() {
    check_source("10.1.2.3", 32, 64, "10.1.2.3");
    check_source("10.1.2.3", 24, 64, "10.1.2.0");
    check_source("255.255.255.255", 1, 64, "128.0.0.0");
    check_source("::ffff:10.1.2.3", 24, 64, "10.1.2.0");
    check_source("2001:db8:1:2:3:4:5:6", 32, 64, "2001:db8:1:2::");
    check_source("2001:db8:1:2:3:4:5:6", 32, 128, "2001:db8:1:2:3:4:5:6");
    check_source("2001:db8:1:2:3:4:5:6", 32, 48, "2001:db8:1::");
    check_source("ffff::", 32, 1, "8000::");
}

#[test]
fn each_limit_has_its_refusal() {
    let table = table(64);
    let limits = SourceLimits { connections: Some(3), rate: rate(1, 5), hellos: Some(2) };
    let mut first = table.admit(&request(1, SECOND), &limits).unwrap();
    let second = table.admit(&request(1, SECOND), &limits).unwrap();
    assert_eq!(table.admit(&request(1, SECOND), &limits).unwrap_err(), SourceRefusal::Hellos);
    first.as_mut().unwrap().was_read();
    let third = table.admit(&request(1, SECOND), &limits).unwrap();
    assert_eq!(table.admit(&request(1, SECOND), &limits).unwrap_err(), SourceRefusal::Connections);
    assert_eq!((table.open_of(LISTENER, source(1)), table.occupied(), table.open()), (3, 1, 3));
    let other = table.admit(&request(2, SECOND), &limits).unwrap();
    let elsewhere = AdmissionRequest { listener: ListenerId::nth(1), ..request(1, SECOND) };
    let third_one = table.admit(&elsewhere, &limits).unwrap();
    assert_eq!(table.occupied(), 3, "another source, and the same one at another listener");
    drop((first, second, third));
    drop(table.admit(&request(1, SECOND), &limits).unwrap());
    drop(table.admit(&request(1, SECOND), &limits).unwrap());
    assert_eq!(table.admit(&request(1, SECOND), &limits).unwrap_err(), SourceRefusal::Rate);
    drop(table.admit(&request(1, 3 * SECOND), &limits).unwrap());
    drop((other, third_one));
    assert_eq!((table.open(), table.occupied(), table.known()), (0, 0, 3));
    assert_eq!(table.open_of(LISTENER, source(1)), 0);
}

#[test]
fn a_connection_that_is_not_read_is_no_hello() {
    let table = table(8);
    let limits = SourceLimits { hellos: Some(1), ..SourceLimits::default() };
    let unread = AdmissionRequest { is_read: false, ..request(1, SECOND) };
    let held: Vec<_> = (0..10).map(|_| table.admit(&unread, &limits).unwrap()).collect();
    assert_eq!(table.heaviest(9)[0].hellos, 0);
    drop(held);
    assert_eq!(table.open(), 0);
}

/// A set that is full of sources with open connections lets others pass or refuses them.
#[test]
fn pinned_sources_stay() {
    let table = table(8);
    let limits = SourceLimits::default();
    let held: Vec<_> = (0..8).map(|n| table.admit(&request(n, SECOND), &limits).unwrap().unwrap()).collect();
    assert!(table.admit(&request(100, SECOND), &limits).unwrap().is_none(), "uncounted");
    table.set_when_full(WhenFull::Refuse);
    assert_eq!(table.admit(&request(100, SECOND), &limits).unwrap_err(), SourceRefusal::TableFull);
    assert_eq!((table.full(), table.evictions()), (2, 0));
    assert!((0..8).all(|n| table.open_of(LISTENER, source(n)) == 1));
    drop(held);
    assert!(table.admit(&request(100, SECOND), &limits).unwrap().is_some());
    assert_eq!((table.evictions(), table.known()), (1, 8));
}

/// A source that comes as often as its rate allows, and leaves, gives its slot to a new source. Sources over their
/// rate are evicted after all others, beginning with the one that is admitted again soonest.
#[test]
fn sources_over_their_rate_are_evicted_last() {
    let table = table(8);
    let limits =
        SourceLimits { rate: Some(Rate::new(1, Duration::from_secs(60), 1)), ..SourceLimits::default() };
    let is_known = |n: u32, nanos: u64| {
        let known = table.admit(&request(n, nanos), &limits);
        known.is_err_and(|refusal| refusal == SourceRefusal::Rate)
    };
    let held = table.admit(&request(0, SECOND), &limits).unwrap().unwrap();
    for n in 1..8 {
        drop(table.admit(&request(n, SECOND + u64::from(n)), &limits).unwrap().unwrap());
    }
    assert!((1..8).all(|n| is_known(n, 2 * SECOND)), "all are over their rate");
    drop(table.admit(&request(100, 2 * SECOND), &limits).unwrap().expect("room"));
    assert!((2..8).chain([100]).all(|n| is_known(n, 2 * SECOND)), "the first has made room");
    assert_eq!((table.full(), table.evictions(), table.open_of(LISTENER, source(0))), (0, 1, 1));
    // A source that has recovered is evicted before those that have not, although another one recovers
    // soonest.
    let unlimited = SourceLimits::default();
    let later = 61 * SECOND + 3;
    drop(table.admit(&request(3, later), &unlimited).unwrap().unwrap());
    drop(table.admit(&request(200, later), &limits).unwrap().unwrap());
    assert!((4..8).chain([100, 200]).all(|n| is_known(n, later)), "but 2 or 3");
    drop(held);
}

/// A source that is over its rate in one process is over its rate in the next one, for the same time.
#[test]
fn restored_sources_are_still_over_their_rate() {
    let (old, new) = (table(64), SourceTable::new(640, [3, 4], WhenFull::Pass));
    let limits = SourceLimits { rate: rate(1, 2), ..SourceLimits::default() };
    for _ in 0..2 {
        drop(old.admit(&request(1, SECOND), &limits).unwrap());
    }
    let link = AdmissionRequest { source: SourceKey::of_link(0xea, "vpce-1"), ..request(0, SECOND) };
    drop(old.admit(&link, &limits).unwrap());
    drop(old.admit(&request(2, SECOND), &SourceLimits::default()).unwrap());
    let (then, now) = (Moment::from_nanos(SECOND + SECOND / 2), Moment::from_nanos(90 * SECOND));
    let rates = old.rates(100, then);
    assert_eq!(rates.len(), 2, "a source without a rate is not among them");
    for rate in &rates {
        assert_eq!(SourceKey::from_bits(rate.source.bits()), rate.source);
        new.restore(rate, now);
    }
    assert_eq!((new.known(), new.occupied(), new.open()), (2, 0, 0));
    let mut found = new.rates(100, now);
    found.sort_by_key(|rate| rates.iter().position(|other| other == rate));
    assert_eq!(found, rates);
    let is_admitted = |nanos| new.admit(&request(1, 90 * SECOND + nanos), &limits).is_ok();
    assert!(!is_admitted(SECOND / 2 - 1) && is_admitted(SECOND / 2));
    assert_eq!(
        old.rates(1, then),
        rates.iter().filter(|rate| rate.over_for > 0).copied().collect::<Vec<_>>()
    );
}

/// Restored sources do not evict each other without an order, and no number is too large.
#[test]
fn restored_sources_fill_the_table_and_no_more() {
    let table = table(8);
    let now = Moment::from_nanos(SECOND);
    let limits = SourceLimits { rate: rate(1, 2), ..SourceLimits::default() };
    let held = table.admit(&request(1000, SECOND), &SourceLimits::default()).unwrap().unwrap();
    for n in 0..100 {
        let (recovers_in, over_for) = if n % 2 == 0 { (u64::MAX, u64::MAX) } else { (SECOND, 0) };
        table.restore(&SourceRate { listener: LISTENER, source: source(n), recovers_in, over_for }, now);
    }
    assert_eq!((table.known(), table.evictions(), table.open_of(LISTENER, source(1000))), (8, 0, 1));
    assert!(table.rates(100, now).iter().all(|rate| rate.over_for > 0), "those over their rate stay");
    let first = SourceKey::from_bits(table.rates(1, now)[0].source.bits());
    let again = AdmissionRequest { source: first, ..request(0, 4 * SECOND) };
    assert!(table.admit(&again, &limits).is_err());
    let later = AdmissionRequest { now: Moment::from_nanos(8 * SECOND), ..again };
    assert!(table.admit(&later, &limits).is_ok(), "a burst is the bound of the wait");
    drop(held);
}

/// A fleet of more sources than slots, each at its rate and closed again.
#[test]
fn a_fleet_that_comes_and_leaves_finds_the_table_open() {
    let table = table(64);
    let limits =
        SourceLimits { rate: Some(Rate::new(1, Duration::from_secs(60), 1)), ..SourceLimits::default() };
    let pinned: Vec<_> = (0..8).filter_map(|n| table.admit(&request(n, SECOND), &limits).unwrap()).collect();
    for n in 100..10_000 {
        drop(table.admit(&request(n, 2 * SECOND + u64::from(n)), &limits).unwrap());
    }
    table.set_when_full(WhenFull::Refuse);
    let full = table.full();
    let newcomers =
        (20_000..21_000).filter(|n| table.admit(&request(*n, 3 * SECOND), &limits).is_ok()).count();
    assert_eq!((newcomers, table.full()), (1000, full));
    assert_eq!((table.occupied(), table.open()), (pinned.len() as u64, pinned.len() as u64));
}

/// Sources that come once and leave, 15 times as many as the table has entries.
fn check_flood_of_sources(size: u32) {
    let flood = size * 15;
    let table = table(size as usize);
    let limits = SourceLimits { connections: Some(100), rate: rate(50, 100), hellos: None };
    let heavy: Vec<_> = (0..100).map(|n| table.admit(&request(n, SECOND), &limits).unwrap()).collect();
    let fast: Vec<u32> = (1000..1100).collect();
    for n in &fast {
        while table.admit(&request(*n, SECOND), &limits).is_ok() {}
    }
    let mut passed = 0;
    for n in 0..flood {
        // All within the time of one event, so that fast sources do not recover.
        let now = SECOND + u64::from(n) * 19_000 / u64::from(flood);
        passed += u32::from(table.admit(&request(1 << 24 | n, now), &limits).unwrap().is_some());
    }
    assert!(passed > flood / 1000 * 999, "{passed}");
    assert_eq!(table.capacity(), size as usize);
    assert!(table.known() <= u64::from(size) && table.evictions() > u64::from(flood) / 10 * 9);
    assert!((0..100).all(|n| table.open_of(LISTENER, source(n)) == 1));
    for n in &fast {
        let refused = table.admit(&request(*n, SECOND), &limits).unwrap_err();
        assert_eq!(refused, SourceRefusal::Rate, "it is remembered");
    }
    assert_eq!(table.heaviest(1000).len(), 100);
    drop(heavy);
    assert_eq!((table.open(), table.occupied()), (0, 0));
}

#[test]
fn a_flood_of_sources_evicts_no_source_over_its_rate() {
    check_flood_of_sources(8192);
}

/// The table of the default size, and almost a million sources.
#[test]
#[ignore = "takes long in a debug build"]
fn a_million_sources_evict_no_source_over_its_rate() {
    check_flood_of_sources(65_536);
}

#[test]
fn the_heaviest_are_reported_and_are_heavy() {
    let table = table(4096);
    let limits = SourceLimits::default();
    let admit = |n, times: usize| -> Vec<_> {
        (0..times).map(|_| table.admit(&request(n, SECOND), &limits).unwrap().unwrap()).collect()
    };
    let alone = admit(1, 50);
    assert!(alone[0].is_heavy(), "or it would fill the process before anybody else comes");
    let light: Vec<_> = (2..12).flat_map(|n| admit(n, 2)).collect();
    assert!(alone[0].is_heavy() && !light[0].is_heavy());
    let report = table.heaviest(3);
    assert_eq!(report.iter().map(|report| report.open).collect::<Vec<_>>(), [50, 2, 2]);
    assert_eq!(report[0].ip, IpAddr::V4(1.into()));
    drop(alone);
    assert!(!light[0].is_heavy());
    drop(light);
    assert!(!admit(1, 1)[0].is_heavy(), "one is never too many");
}

#[test]
fn a_faster_rate_does_not_wait_for_a_slower_one() {
    let table = table(8);
    let with = |rate| SourceLimits { rate: Some(rate), ..SourceLimits::default() };
    let slow = with(Rate::new(1, Duration::from_secs(60), 1000));
    let admitted = |now, limits| (0..2000).filter(|_| table.admit(&request(1, now), limits).is_ok()).count();
    assert_eq!(admitted(SECOND, &slow), 1000);
    let fast = with(Rate::new(10, Duration::from_secs(1), 10));
    assert_eq!(admitted(2 * SECOND, &fast), 0, "a burst was used up");
    assert_eq!(admitted(3 * SECOND, &fast), 10);
}

/// A model of the table: a map that evicts nothing.
#[derive(Default)]
struct Model {
    open: HashMap<u32, (u32, u32)>,
}

proptest! {
    /// As long as there are free slots, the table counts as a map does.
    #[test]
    fn it_counts_as_a_map(steps in prop::collection::vec((0_u32..6, 0_u8..4, any::<prop::sample::Index>()), 1..300)) {
        let limits = SourceLimits { connections: Some(5), rate: None, hellos: Some(3) };
        let table = table(4096);
        let mut model = Model::default();
        let mut held: Vec<(u32, bool, SourcePass)> = Vec::new();
        for (number, what, which) in steps {
            match what {
                0 | 1 => {
                    let (open, hellos) = model.open.entry(number).or_default();
                    let expected = match (*open >= 5, *hellos >= 3) {
                        (true, _) => Some(SourceRefusal::Connections),
                        (_, true) => Some(SourceRefusal::Hellos),
                        _ => None,
                    };
                    let found = table.admit(&request(number, SECOND), &limits);
                    prop_assert_eq!(found.as_ref().err(), expected.as_ref());
                    if let Ok(pass) = found {
                        (*open, *hellos) = (*open + 1, *hellos + 1);
                        held.push((number, true, pass.unwrap()));
                    }
                }
                _ if held.is_empty() => {}
                2 => {
                    let at = which.index(held.len());
                    let (number, is_read, pass) = &mut held[at];
                    pass.was_read();
                    model.open.get_mut(number).unwrap().1 -= u32::from(std::mem::take(is_read));
                }
                _ => {
                    let (number, is_read, _) = held.swap_remove(which.index(held.len()));
                    let counts = model.open.get_mut(&number).unwrap();
                    counts.0 -= 1;
                    counts.1 -= u32::from(is_read);
                }
            }
            for (number, (open, _)) in &model.open {
                prop_assert_eq!(table.open_of(LISTENER, source(*number)), *open);
            }
            prop_assert_eq!(table.open(), held.len() as u64);
            prop_assert_eq!(table.occupied(), model.open.values().filter(|(open, _)| *open > 0).count() as u64);
        }
        drop(held);
        prop_assert_eq!((table.open(), table.occupied()), (0, 0));
        prop_assert!(table.heaviest(10).is_empty());
    }
}

/// Many threads use one source: all counts are returned.
#[test]
fn threads_leave_nothing_behind() {
    let table = table(8);
    let limits = SourceLimits { connections: Some(3), ..SourceLimits::default() };
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let once = |n: u32| {
                        table.admit(&request(n % 2, SECOND), &limits).is_ok_and(|mut pass| {
                            pass.as_mut().unwrap().was_read();
                            true
                        })
                    };
                    (0..20_000).filter(|n| once(*n)).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(admitted > 1000, "{admitted}");
    assert_eq!((table.open(), table.occupied(), table.known()), (0, 0, 2));
}
