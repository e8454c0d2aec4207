use std::path::Path;
use std::time::UNIX_EPOCH;

use super::report::LookOutcome;
use super::set::Discovered;
use super::*;
use crate::pool::BackendSpec;
use crate::pool::Endpoint;
use crate::pool::discover_spec::{DiscoverSpec, DnsSpec, NamedHost, RecordKind};
use crate::pool::probe::CheckEndpoint;
use crate::sys::Address;

/// Returns a source that reports nothing by itself: no resolver has that address, and the first retry is much
/// later.
fn silent(name: &str) -> DiscoverSource {
    let hour = Duration::from_secs(3600);
    DiscoverSource::Dns(DnsSpec {
        name: name.into(),
        records: RecordKind::Services,
        resolvers: vec!["192.0.2.1:53".parse().unwrap()],
        min_ttl: hour,
        max_ttl: hour,
        jitter: 0,
    })
}

fn pool(name: &str, source: Option<DiscoverSource>) -> PoolSpec {
    let spec = |source| DiscoverSpec {
        source,
        host: None,
        hold: Duration::ZERO,
        drain: None,
        max_connections: None,
    };
    let discover = source.into_iter().map(spec).collect();
    PoolSpec { discover, health: None, ..PoolSpec::new(name.into(), Vec::new()) }
}

fn set(addresses: &[&str]) -> DiscoveredSet {
    let backend = |address: &&str| Discovered {
        name: (*address).into(),
        address: address.parse().unwrap(),
        weight: 1,
        zone: None,
        backup: false,
    };
    DiscoveredSet::new(addresses.iter().map(backend).collect())
}

/// Returns the backends of a prepared pool or else of the pool in force, or `-` if the pool has no source.
fn held(discoveries: &Discoveries, spec: &PoolSpec) -> String {
    let prepared = discoveries.prepared(spec).or_else(|| discoveries.in_force(spec));
    names(spec, prepared)
}

/// Returns the backends of a pool in force.
fn held_in_force(discoveries: &Discoveries, spec: &PoolSpec) -> String {
    names(spec, discoveries.in_force(spec))
}

fn names(spec: &PoolSpec, found: Option<(Vec<Arc<Discovery>>, Vec<DiscoveredSet>)>) -> String {
    found.map_or("-".to_owned(), |(_, found)| {
        let joined = join(spec, &found);
        joined.backends.iter().map(|backend| backend.name.to_string()).collect::<Vec<_>>().join(" ")
    })
}

fn report(number: u64, found: Option<DiscoveredSet>, fault: Option<DnsFault>) -> DiscoveryReport {
    let outcome = fault.map_or(LookOutcome::Good, |fault| LookOutcome::Failed(fault.into()));
    DiscoveryReport { pool: "p".into(), number, found, held: HeldBackends::default(), outcome }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[tokio::test]
async fn what_is_found_holds_until_something_else_is() {
    let (mut discoveries, _reports) = Discoveries::new();
    let spec = pool("p", Some(silent("a")));
    discoveries.prepare(std::slice::from_ref(&spec));
    assert!(!discoveries.have_reported() && !discoveries.are_found());
    // A report of a prepared source changes no pool.
    assert_eq!(discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5)), None);
    assert!(discoveries.have_reported() && discoveries.are_found());
    assert_eq!(held(&discoveries, &spec), "10.0.0.1:1");
    discoveries.commit();

    let mut check = |report: DiscoveryReport, changes: bool, expected: &str| {
        assert_eq!(discoveries.apply_report(report, at(7)).is_some(), changes, "{expected}");
        assert_eq!(held(&discoveries, &spec), expected);
    };
    check(report(1, Some(set(&["10.0.0.1:1"])), None), false, "10.0.0.1:1");
    check(report(1, Some(set(&["10.0.0.2:1", "10.0.0.1:1"])), None), true, "10.0.0.1:1 10.0.0.2:1");
    check(report(1, Some(set(&["10.0.0.1:1", "10.0.0.2:1"])), None), false, "10.0.0.1:1 10.0.0.2:1");
    check(report(1, None, Some(DnsFault::Timeout)), false, "10.0.0.1:1 10.0.0.2:1");
    check(report(1, None, None), false, "10.0.0.1:1 10.0.0.2:1");
    check(report(9, Some(set(&["10.0.0.3:1"])), None), false, "10.0.0.1:1 10.0.0.2:1");
    check(report(1, Some(set(&[])), None), true, "");
    let changes = discoveries.take_fault_changes();
    let faults: Vec<_> = changes.iter().map(|change| change.fault.as_deref()).collect();
    assert_eq!(faults, [Some(DnsFault::Timeout.to_string().as_str()), None], "{changes:?}");
    assert_eq!((&*changes[0].pool, discoveries.take_fault_changes()), ("p", Vec::new()));
}

#[tokio::test]
async fn a_reload_keeps_what_was_found() {
    let (mut discoveries, _reports) = Discoveries::new();
    let old = pool("p", Some(silent("a")));
    discoveries.prepare(std::slice::from_ref(&old));
    discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5));
    discoveries.commit();

    // The same source goes on.
    discoveries.prepare(std::slice::from_ref(&old));
    assert!(discoveries.have_reported());
    discoveries.commit();
    assert!(discoveries.apply_report(report(1, Some(set(&["10.0.0.2:1"])), None), at(6)).is_some());

    // Another source begins with the backends of the old one. A source that is never committed changes nothing.
    let new = pool("p", Some(silent("b")));
    discoveries.prepare(std::slice::from_ref(&new));
    assert_eq!(held(&discoveries, &new), "10.0.0.2:1");
    discoveries.prepare(std::slice::from_ref(&new));
    assert!(discoveries.apply_report(report(1, Some(set(&["10.0.0.3:1"])), None), at(7)).is_some());
    discoveries.commit();
    assert_eq!(held(&discoveries, &new), "10.0.0.3:1");
    assert_eq!(discoveries.apply_report(report(1, Some(set(&["10.0.0.4:1"])), None), at(8)), None);
    assert!(discoveries.apply_report(report(3, Some(set(&["10.0.0.5:1"])), None), at(8)).is_some());
    assert_eq!(held(&discoveries, &new), "10.0.0.5:1");

    // The pool has no source any more.
    let written = pool("p", None);
    discoveries.prepare(std::slice::from_ref(&written));
    assert_eq!(held(&discoveries, &written), "-");
    discoveries.commit();
    assert!(discoveries.in_force.is_empty());
}

/// Returns a pool with these host names among its backends, and these other sources.
fn pool_of(hosts: &[&str], others: &[&str]) -> PoolSpec {
    let hosts = hosts.iter().map(|name| DiscoverSpec {
        host: Some(NamedHost { place: 0, template: BackendSpec::new(*name, "0.0.0.0:1".parse().unwrap()) }),
        source: silent(name),
        hold: Duration::ZERO,
        drain: None,
        max_connections: None,
    });
    let others = others.iter().map(|name| DiscoverSpec {
        host: None,
        source: silent(name),
        hold: Duration::ZERO,
        drain: None,
        max_connections: None,
    });
    PoolSpec { discover: hosts.chain(others).collect(), ..pool("p", None) }
}

#[tokio::test]
async fn each_source_keeps_what_it_found() {
    let (mut discoveries, _reports) = Discoveries::new();
    let old = pool_of(&["a", "b"], &["x", "y"]);
    discoveries.prepare(std::slice::from_ref(&old));
    for (number, address) in (1..).zip(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]) {
        assert!(!discoveries.have_reported());
        discoveries.apply_report(report(number, Some(set(&[address])), None), at(5));
    }
    assert!(discoveries.have_reported() && discoveries.are_found());
    discoveries.commit();
    assert_eq!(held(&discoveries, &old), "a/10.0.0.1 b/10.0.0.2 10.0.0.3:1 10.0.0.4:1");

    // The sources have another order, and one is missing. No question is repeated.
    let turned = pool_of(&["b", "a"], &["y"]);
    discoveries.prepare(std::slice::from_ref(&turned));
    assert!(discoveries.have_reported());
    assert_eq!(held(&discoveries, &turned), "b/10.0.0.2 a/10.0.0.1 10.0.0.4:1");
    discoveries.commit();
    let heard = discoveries.apply_report(report(1, Some(set(&["10.0.0.9:1"])), None), at(6));
    assert_eq!(heard, Some(("p".into(), 1)), "the source is the second one now");
    assert_eq!(held(&discoveries, &turned), "b/10.0.0.2 a/10.0.0.9 10.0.0.4:1");

    // A source in the slot of another one begins with the backends of that source. A host name does not,
    // because its slot is its name.
    let other = pool_of(&["c", "a"], &["z"]);
    discoveries.prepare(std::slice::from_ref(&other));
    assert_eq!(held(&discoveries, &other), "a/10.0.0.9 10.0.0.4:1");
    discoveries.commit();
    assert_eq!(held(&discoveries, &other), "a/10.0.0.9 10.0.0.4:1");
    assert_eq!(
        discoveries.apply_report(report(2, Some(set(&["10.0.0.7:1"])), None), at(7)),
        None,
        "the source is gone"
    );
}

#[tokio::test]
async fn what_is_prepared_changes_nothing_that_is_in_force() {
    let (mut discoveries, _reports) = Discoveries::new();
    let old = pool_of(&["a", "b"], &[]);
    discoveries.prepare(std::slice::from_ref(&old));
    discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5));
    discoveries.apply_report(report(2, Some(set(&["10.0.0.2:1"])), None), at(5));
    discoveries.commit();
    let turned = pool_of(&["c", "b", "a"], &[]);
    discoveries.prepare(std::slice::from_ref(&turned));
    assert_eq!(
        discoveries.apply_report(report(1, Some(set(&["10.0.0.9:1"])), None), at(6)),
        Some(("p".into(), 0))
    );
    assert_eq!(held_in_force(&discoveries, &old), "a/10.0.0.9 b/10.0.0.2");
    assert_eq!(held(&discoveries, &turned), "b/10.0.0.2 a/10.0.0.9");
    discoveries.abandon();
    assert!(discoveries.have_reported(), "no source is awaited");
    assert_eq!(held(&discoveries, &old), "a/10.0.0.9 b/10.0.0.2");
}

#[tokio::test]
async fn a_source_that_asks_in_another_way_knows_what_was_found() {
    let (mut discoveries, _reports) = Discoveries::new();
    let old = pool_of(&["a"], &["x"]);
    discoveries.prepare(std::slice::from_ref(&old));
    discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5));
    discoveries.apply_report(report(2, Some(set(&["10.0.0.2:1"])), None), at(5));
    discoveries.commit();
    let before = |name: &str, slot: SourceSlot| {
        let spec = &pool_of(&[], &[name]).discover[0];
        discoveries.found_before("p", spec, &slot).len()
    };
    let host = SourceSlot::Host(old.discover[0].source.to_string().into());
    assert_eq!((before("a", host.clone()), before("x", SourceSlot::Listed(0))), (1, 1));
    assert_eq!(
        (before("b", host), before("y", SourceSlot::Listed(0)), before("x", SourceSlot::Listed(1))),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_name_that_is_not_found_leaves_the_others_alone() {
    let (mut discoveries, _reports) = Discoveries::new();
    let spec = pool_of(&["a", "b"], &[]);
    discoveries.prepare(std::slice::from_ref(&spec));
    discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5));
    assert!(!discoveries.are_found(), "the other name may still be found");
    discoveries.apply_report(report(2, None, Some(DnsFault::NoName)), at(5));
    assert!(discoveries.are_found(), "the failed name is not awaited");
    discoveries.commit();
    assert_eq!(held(&discoveries, &spec), "a/10.0.0.1");
    assert_eq!(
        discoveries.apply_report(report(2, Some(set(&["10.0.0.2:1"])), None), at(6)),
        Some(("p".into(), 1))
    );
    assert_eq!(held(&discoveries, &spec), "a/10.0.0.1 b/10.0.0.2");
}

#[tokio::test]
async fn the_names_of_checks_are_followed_and_have_no_backends() {
    let (mut discoveries, _reports) = Discoveries::new();
    let asked = |hold: u64| {
        let mut spec = pool_of(&["a"], &["x"]);
        spec.check_names = pool("p", Some(silent("probe"))).discover;
        spec.check_names[0].hold = Duration::from_secs(hold);
        spec
    };
    let old = asked(0);
    discoveries.prepare(std::slice::from_ref(&old));
    let name = || Endpoint::Name { name: "probe".into(), port: 9 };
    let at_the_start = CheckEndpoint::named(name(), &discoveries.check_names("p"));
    discoveries.apply_report(report(1, Some(set(&["10.0.0.1:1"])), None), at(5));
    discoveries.apply_report(report(2, Some(set(&["10.0.0.2:1"])), None), at(5));
    assert!(discoveries.have_reported() && discoveries.are_found(), "checks wait for their names themselves");
    discoveries.commit();
    assert_eq!(
        CheckEndpoint::named(name(), &discoveries.check_names("p")),
        at_the_start,
        "the checks of the pool go on"
    );
    assert_eq!(CheckEndpoint::named(name(), &discoveries.check_names("q")), CheckEndpoint::new(name(), None));
    let known = |discoveries: &Discoveries, spec: &PoolSpec| {
        let (sources, found) = discoveries.in_force(spec).unwrap();
        let joined = join(spec, &found);
        assert_eq!(joined.backends.len(), 2, "{joined:?}");
        let asked = CheckEndpoint::named(name(), &discoveries.check_names("p"));
        assert_eq!(asked, CheckEndpoint::new(name(), Some(Arc::clone(&sources[2]))));
        Arc::clone(&sources[2])
    };
    let first = known(&discoveries, &old);
    let addresses = |ips: &[&str]| ips.iter().map(|ip| ip.parse::<Address>().unwrap()).collect::<Vec<_>>();
    assert_eq!(discoveries.apply_report(report(3, None, Some(DnsFault::NoName)), at(5)), None);
    assert_eq!(first.addresses().await, [], "a failure without earlier addresses gives none");
    assert_eq!(discoveries.apply_report(report(3, Some(set(&["10.0.0.7:0"])), None), at(6)), None);
    assert_eq!(first.addresses().await, addresses(&["10.0.0.7:0"]));
    assert_eq!(discoveries.apply_report(report(3, None, Some(DnsFault::Timeout)), at(7)), None);
    assert_eq!(first.addresses().await, addresses(&["10.0.0.7:0"]), "a failure keeps the addresses");

    // A changed source begins with the backends of the one before it.
    let new = asked(1);
    discoveries.prepare(std::slice::from_ref(&new));
    discoveries.apply_report(report(4, None, Some(DnsFault::Timeout)), at(8));
    discoveries.commit();
    let second = known(&discoveries, &new);
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(second.addresses().await, addresses(&["10.0.0.7:0"]));
}

#[test]
fn a_source_tells_of_itself() {
    let state = Discovery::new(&DiscoverSource::File(Path::new("/run/mail.json").into()));
    let fault = |fault: DnsFault| LookOutcome::Failed(fault.into());
    let note = |outcome: LookOutcome, now| state.note(&outcome, now);
    assert_eq!((state.succeeded(), state.failures(), state.fault()), (None, 0, None));
    assert!(!note(LookOutcome::Good, at(5)), "a first success is no change");
    assert!(note(fault(DnsFault::Timeout), at(6)));
    assert!(!note(fault(DnsFault::Timeout), at(7)), "a fault that repeats is no change");
    assert!(note(fault(DnsFault::NoName), at(8)));
    assert_eq!((state.succeeded(), state.failures()), (Some(at(5)), 3));
    assert_eq!(state.fault().as_deref(), Some("there is no such name (NXDOMAIN)"));
    assert!(!note(LookOutcome::Unfinished, at(9)), "further answers may have another fault");
    assert_eq!(state.fault().as_deref(), Some("there is no such name (NXDOMAIN)"));
    assert!(note(LookOutcome::Good, at(9)), "the end of a fault is a change");
    assert_eq!((state.succeeded(), state.fault()), (Some(at(9)), None));
    assert!(!note(LookOutcome::Expired, at(20)));
    assert_eq!((state.succeeded(), state.fault()), (Some(at(9)), None), "the end of a hold is no look");
    assert!(note(LookOutcome::Partly(DnsFault::Timeout.into()), at(10)));
    assert_eq!((state.succeeded(), state.failures()), (Some(at(10)), 4), "a part of the answers is good");
}

#[test]
fn sources_have_words() {
    let dns = |records| match silent("app.internal") {
        DiscoverSource::Dns(dns) => DiscoverSource::Dns(DnsSpec { records, ..dns }),
        other => other,
    };
    assert_eq!(dns(RecordKind::Services).to_string(), "dns srv app.internal");
    assert_eq!(dns(RecordKind::Addresses { port: 443 }).to_string(), "dns app.internal port 443");
    assert_eq!(dns(RecordKind::Addresses { port: 0 }).to_string(), "dns app.internal");
    assert_eq!(DiscoverSource::File(Path::new("/run/a").into()).to_string(), "file /run/a");
}

#[tokio::test]
async fn tasks_end_with_their_owner() {
    let (mut discoveries, mut reports) = Discoveries::new();
    discoveries.prepare(&[pool("p", Some(silent("a"))), pool("q", Some(silent("b")))]);
    drop(discoveries);
    while reports.recv().await.is_some() {}
}

/// A source begins with the backends that another process found, and its first answer decides what is held.
#[tokio::test]
async fn a_source_begins_with_what_another_process_found() {
    let (mut old, _reports) = Discoveries::new();
    let spec = pool("p", Some(silent("a")));
    old.prepare(std::slice::from_ref(&spec));
    old.apply_report(report(1, Some(set(&["10.0.0.1:1", "10.0.0.2:1"])), None), at(5));
    old.apply_report(report(1, None, Some(DnsFault::Timeout)), at(6));
    old.commit();
    let now = tokio::time::Instant::now();
    let handed: Vec<_> = old.copies().iter().map(|copy| copy.hand_over(now)).collect();
    assert_eq!((handed.len(), handed[0].failures, handed[0].succeeded_ms), (1, 1, 5000));

    let (mut new, _reports) = Discoveries::new();
    let mut hostile = handed.clone();
    hostile[0].pool = "q".into();
    hostile[0].found[0].address = "nonsense".into();
    hostile[0].found[1].address = "0.0.0.0:1".into();
    (hostile[0].succeeded_ms, hostile[0].failures) = (u64::MAX, u64::MAX);
    let other = pool("q", Some(silent("a")));
    new.restore(handed.iter().cloned().chain(hostile).collect());
    new.prepare(&[other.clone(), spec.clone()]);
    let (states, found) = new.prepared(&other).unwrap();
    assert_eq!((found[0].len(), states[0].succeeded() <= Some(SystemTime::now())), (0, true));
    assert!(new.are_found() && !new.have_reported());
    let (states, _) = new.prepared(&spec).unwrap();
    assert_eq!((states[0].failures(), states[0].succeeded()), (1, Some(at(5))));
    assert_eq!(states[0].addresses().await.len(), 2);
    new.commit();
    assert_eq!(held(&new, &spec), "10.0.0.1:1 10.0.0.2:1");
    // The source fails, and the backends stay. The same backends are no change.
    assert_eq!(new.apply_report(report(2, None, Some(DnsFault::Timeout)), at(7)), None);
    assert_eq!(new.apply_report(report(2, Some(set(&["10.0.0.2:1", "10.0.0.1:1"])), None), at(7)), None);
    assert_eq!(held(&new, &spec), "10.0.0.1:1 10.0.0.2:1");
    assert!(new.apply_report(report(2, Some(set(&["10.0.0.2:1"])), None), at(8)).is_some());
}
