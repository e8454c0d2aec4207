use std::time::Duration;

use super::*;
use crate::balance::Algorithm;

fn spec(algorithm: Algorithm, backends: &[(&str, &str, u16)]) -> PoolSpec {
    let second = Duration::from_secs(1);
    let backends = backends.iter().map(|&(name, address, weight)| BackendSpec {
        name: name.into(),
        address: address.parse().unwrap(),
        weight,
    });
    PoolSpec {
        name: "p".into(),
        algorithm,
        hash_on: HashOn::SourceIp,
        source_prefix: SourcePrefix::default(),
        hash_key: [7; 16],
        backends: backends.collect(),
        discover: None,
        health: Some(HealthSpec {
            check: CheckKind::Tcp,
            interval: second,
            timeout: second,
            rise: 2,
            fall: 3,
        }),
        dial: DialSpec::default(),
    }
}

const THREE: [(&str, &str, u16); 3] =
    [("a", "10.0.0.1:1", 1), ("b", "10.0.0.2:1", 1), ("c", "10.0.0.3:1", 2)];

fn build(algorithm: Algorithm, backends: &[(&str, &str, u16)]) -> Pool {
    Pool::build(spec(algorithm, backends), None, 0)
}

fn report(pool: &Pool, name: &str, outcome: CheckOutcome) -> CheckReport {
    let backend = Arc::clone(pool.backend(name).unwrap());
    CheckReport { pool: Arc::clone(&pool.spec().name), backend, outcome, took: Duration::ZERO }
}

fn take_down(pool: &Pool, name: &str) {
    let failed = report(pool, name, CheckOutcome::Failed(CheckFault::Refused));
    assert!((0..3).any(|_| pool.apply(&failed, Instant::now()).is_some()), "{name} was down before");
}

fn client(number: u32) -> Option<SocketAddr> {
    Some(SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 1))
}

/// The names that 300 clients are sent to, sorted, each once.
fn picked(pool: &Pool, tried: &[Arc<Backend>]) -> String {
    let mut names: Vec<_> = (0..300)
        .filter_map(|number| Some(pool.pick(client(number), None, tried)?.backend().name().to_string()))
        .collect();
    names.sort();
    names.dedup();
    names.concat()
}

#[test]
fn a_pick_passes_over_what_cannot_be_used() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
        let pool = build(algorithm, &[THREE[0], THREE[1], THREE[2], ("d", "10.0.0.4:1", 0)]);
        let [a, b, c] = ["a", "b", "c"].map(|name| Arc::clone(pool.backend(name).unwrap()));
        assert_eq!(picked(&pool, &[]), "abc");
        assert_eq!(picked(&pool, &[Arc::clone(&b)]), "ac");
        assert_eq!(picked(&pool, &[Arc::clone(&a), Arc::clone(&c)]), "b");
        take_down(&pool, "a");
        assert_eq!(picked(&pool, &[]), "bc");
        assert_eq!(picked(&pool, &[b, c]), "");
        take_down(&pool, "b");
        take_down(&pool, "c");
        assert_eq!(picked(&pool, &[]), "");
    }
}

#[test]
fn a_client_stays_with_its_backend() {
    let pool = build(Algorithm::Maglev, &THREE);
    for number in 0..100 {
        let first = pool.pick(client(number), None, &[]).unwrap();
        let again = pool.pick(client(number), Some(&"mail.example.com".parse().unwrap()), &[]).unwrap();
        assert_eq!(first.backend().name(), again.backend().name());
    }
    assert!(pool.pick(None, None, &[]).is_some());
}

#[test]
fn a_lease_counts_until_it_is_dropped() {
    let pool = build(Algorithm::RoundRobin, &THREE[..1]);
    let backend = Arc::clone(pool.backend("a").unwrap());
    let (one, two) = (pool.pick(None, None, &[]).unwrap(), pool.pick(None, None, &[]).unwrap());
    one.connected();
    assert_eq!((backend.active(), backend.connections_total()), (2, 1));
    drop(two);
    drop(pool);
    assert_eq!(backend.active(), 1);
    drop(one);
    assert_eq!((backend.active(), backend.connections_total()), (0, 1));
}

#[test]
fn leases_of_many_threads_all_come_back() {
    let pool = build(Algorithm::Maglev, &THREE);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let pool = &pool;
            threads.spawn(move || {
                for number in 0..1000 {
                    pool.pick(client(thread * 1000 + number), None, &[]).unwrap().connected();
                }
            });
        }
    });
    assert!(pool.backends().iter().all(|backend| backend.active() == 0));
    assert_eq!(pool.backends().iter().map(|backend| backend.connections_total()).sum::<u64>(), 4000);
}

#[test]
fn rise_and_fall_move_a_backend() {
    let pool = build(Algorithm::Maglev, &THREE);
    let passed = report(&pool, "a", CheckOutcome::Passed);
    let failed = report(&pool, "a", CheckOutcome::Failed(CheckFault::Timeout));
    let apply = |report| pool.apply(report, Instant::now()).map(|change| change.to);
    let results = [&passed, &failed, &failed, &failed, &passed, &passed].map(apply);
    assert_eq!(results, [None, None, None, Some(State::Down), None, Some(State::Up)]);
}

/// Rebuilds [`THREE`], with `a` down and a lease on each of its backends, as `spec`, and checks what
/// each backend of the new pool is: its name, `-` for down, and its leases.
fn check_rebuild(new: PoolSpec, expected: &str) {
    let old = build(Algorithm::Maglev, &THREE);
    let _leases: Vec<_> = old.backends().iter().map(Lease::new).collect();
    take_down(&old, "a");
    let new = Pool::build(new, Some(&old), 0);
    let found: Vec<_> = new
        .backends()
        .iter()
        .map(|backend| {
            let mark = if backend.state() == State::Down { "-" } else { "" };
            format!("{}{mark}{}", backend.name(), backend.active())
        })
        .collect();
    assert_eq!(found.join(" "), expected);
    // The old pool lives on for the connections that hold it.
    assert!(!old.backend("a").unwrap().is_available());
}

#[test]
fn a_rebuild_takes_over_what_stays() {
    let maglev = |backends: &[(&str, &str, u16)]| spec(Algorithm::Maglev, backends);
    check_rebuild(maglev(&THREE), "a-1 b1 c1");
    check_rebuild(spec(Algorithm::RoundRobin, &THREE), "a-1 b1 c1");
    check_rebuild(maglev(&[THREE[2], THREE[0]]), "c1 a-1");
    check_rebuild(maglev(&[("a", "10.0.0.1:1", 9), THREE[1]]), "a-1 b1");
    check_rebuild(maglev(&[THREE[0], ("d", "10.0.0.4:1", 1)]), "a-1 d0");
    check_rebuild(maglev(&[("a", "10.0.0.1:2", 1), THREE[1]]), "a0 b1");
    check_rebuild(maglev(&[("d", "10.0.0.1:1", 1)]), "d0");
    check_rebuild(PoolSpec { health: None, ..maglev(&THREE) }, "a1 b1 c1");
    check_rebuild(PoolSpec { name: "q".into(), ..maglev(&THREE) }, "a0 b0 c0");
}

#[test]
fn without_checks_a_reload_changes_nothing() {
    let unchecked = PoolSpec { health: None, ..spec(Algorithm::Maglev, &THREE) };
    let old = Pool::build(unchecked.clone(), None, 0);
    let new = Pool::build(unchecked, Some(&old), 0);
    assert!(old.backends().iter().zip(new.backends()).all(|(one, two)| Arc::ptr_eq(one, two)));
}

#[test]
fn reports_about_what_is_gone_are_passed_over() {
    let old = build(Algorithm::Maglev, &THREE);
    let fault = CheckOutcome::Failed(CheckFault::Refused);
    let reports = ["a", "b", "c"].map(|name| report(&old, name, fault));
    let new = spec(Algorithm::Maglev, &[("a", "10.0.0.1:2", 1), ("c", "10.0.0.3:1", 5)]);
    let new = Pool::build(new, Some(&old), 0);
    let changed = reports.each_ref().map(|report| new.apply(report, Instant::now()).is_some());
    assert_eq!(changed, [false, false, true]);
    let unchecked = Pool::build(PoolSpec { health: None, ..new.spec().clone() }, Some(&new), 0);
    assert!(reports.iter().all(|report| unchecked.apply(report, Instant::now()).is_none()));
}

/// Whether a change of the spec keeps the balancer.
/// Backend `a` leaves and something stands in its place: whether that takes up where `a` was.
fn check_take_back(again: (&str, &str, u16), taken: bool) {
    let before = build(Algorithm::Maglev, &THREE);
    take_down(&before, "a");
    let left = Arc::clone(before.backend("a").unwrap());
    left.hold();
    let without = Pool::build(spec(Algorithm::Maglev, &THREE[1..]), Some(&before), 0);
    let mut pool = Pool::build(spec(Algorithm::Maglev, &[again, THREE[1]]), Some(&without), 0);
    pool.take_back(&left);
    let found = &pool.backends()[0];
    assert_eq!(found.is_same(&left), taken, "{again:?}");
    assert_eq!((found.active(), found.weight()), (u64::from(taken), again.2));
    assert_eq!(found.state(), State::Up, "nobody watched it meanwhile");
    assert_eq!(pool.backends()[1].number(), before.backend("b").unwrap().number());
}

#[test]
fn what_comes_back_goes_on() {
    check_take_back(("a", "10.0.0.1:1", 1), true);
    check_take_back(("a", "10.0.0.1:1", 7), true);
    check_take_back(("a", "10.0.0.1:2", 1), false);
    check_take_back(("d", "10.0.0.1:1", 1), false);
}

fn check_balancer(algorithm: Algorithm, new: PoolSpec, kept: bool) {
    let old = build(algorithm, &THREE);
    let new = Pool::build(new, Some(&old), 1);
    assert_eq!(Arc::ptr_eq(&old.balancer, &new.balancer), kept, "{:?}", new.spec);
}

#[test]
fn the_balancer_is_kept_while_its_members_are() {
    use Algorithm::{Maglev, RoundRobin};
    let moved = [("a", "10.9.9.9:1", 1), THREE[1], THREE[2]];
    let heavier = [("a", "10.0.0.1:1", 2), THREE[1], THREE[2]];
    for algorithm in [Maglev, RoundRobin] {
        let same = spec(algorithm, &THREE);
        check_balancer(algorithm, same.clone(), true);
        check_balancer(algorithm, PoolSpec { health: None, ..same.clone() }, true);
        check_balancer(algorithm, PoolSpec { hash_on: HashOn::Sni, ..same }, true);
        check_balancer(algorithm, spec(algorithm, &moved), true);
        check_balancer(algorithm, spec(algorithm, &heavier), false);
        check_balancer(algorithm, spec(algorithm, &THREE[..2]), false);
        check_balancer(algorithm, spec(algorithm, &[THREE[1], THREE[0], THREE[2]]), false);
    }
    check_balancer(Maglev, PoolSpec { hash_key: [8; 16], ..spec(Maglev, &THREE) }, false);
    check_balancer(Maglev, spec(RoundRobin, &THREE), false);
}

#[test]
fn only_a_hash_table_has_a_digest() {
    let maglev = build(Algorithm::Maglev, &THREE);
    assert!(maglev.digest().is_some());
    assert_eq!(maglev.entries().map(|entries| entries.len()), Some(3));
    let round_robin = build(Algorithm::RoundRobin, &THREE);
    assert_eq!((round_robin.digest(), round_robin.entries()), (None, None));
}
