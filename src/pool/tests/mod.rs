mod ejections;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::balance::{Algorithm, MaxLoad};
use crate::wire::agent::AgentDirective;

fn spec(algorithm: Algorithm, backends: &[(&str, &str, u16)]) -> PoolSpec {
    let backends = backends.iter().map(|&(name, address, weight)| BackendSpec {
        weight,
        ..BackendSpec::new(name, address.parse().unwrap())
    });
    PoolSpec { algorithm, hash_key: [7; 16], ..PoolSpec::new("p".into(), backends.collect()) }
}

const THREE: [(&str, &str, u16); 3] =
    [("a", "10.0.0.1:1", 1), ("b", "10.0.0.2:1", 1), ("c", "10.0.0.3:1", 2)];

fn build(algorithm: Algorithm, backends: &[(&str, &str, u16)]) -> Pool {
    Pool::build(spec(algorithm, backends), None, 0)
}

fn report(pool: &Pool, name: &str, outcome: CheckOutcome) -> CheckReport {
    let backend = Arc::clone(pool.backend(name).unwrap());
    CheckReport { pool: Arc::clone(&pool.spec().name), backend, found: outcome.into(), took: Duration::ZERO }
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
        .filter_map(|number| Some(pool.pick(client(number), None, tried).ok()?.backend().name().to_string()))
        .collect();
    names.sort();
    names.dedup();
    names.concat()
}

#[test]
fn a_pick_passes_over_what_cannot_be_used() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::LeastLatency] {
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
    assert!(pool.pick(None, None, &[]).is_ok());
}

#[test]
fn a_lease_counts_until_it_is_dropped() {
    let pool = build(Algorithm::RoundRobin, &THREE[..1]);
    let backend = Arc::clone(pool.backend("a").unwrap());
    let (one, two) = (pool.pick(None, None, &[]).unwrap(), pool.pick(None, None, &[]).unwrap());
    one.connected(Duration::ZERO);
    assert_eq!((backend.active(), backend.traffic().connections_total()), (2, 1));
    drop(two);
    drop(pool);
    assert_eq!(backend.active(), 1);
    drop(one);
    assert_eq!((backend.active(), backend.traffic().connections_total()), (0, 1));
}

#[test]
fn leases_of_many_threads_all_come_back() {
    let pool = build(Algorithm::Maglev, &THREE);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let pool = &pool;
            threads.spawn(move || {
                for number in 0..1000 {
                    pool.pick(client(thread * 1000 + number), None, &[]).unwrap().connected(Duration::ZERO);
                }
            });
        }
    });
    assert!(pool.backends().iter().all(|backend| backend.active() == 0));
    assert_eq!(
        pool.backends().iter().map(|backend| backend.traffic().connections_total()).sum::<u64>(),
        4000
    );
}

#[test]
fn rise_and_fall_move_a_backend() {
    let pool = build(Algorithm::Maglev, &THREE);
    let passed = report(&pool, "a", CheckOutcome::Passed);
    let failed = report(&pool, "a", CheckOutcome::Failed(CheckFault::Timeout));
    let apply = |report| pool.apply(report, Instant::now()).map(|change| change.to);
    let results = [&passed, &failed, &failed, &failed, &passed, &passed].map(apply);
    assert_eq!(results, [None, None, None, Some(BackendState::Down), None, Some(BackendState::Up)]);
}

/// Rebuilds [`THREE`] as `spec`, with `a` down and a lease on each of its backends. Checks each backend of
/// the new pool: its name, `-` for down, and its leases.
fn check_rebuild(new: PoolSpec, expected: &str) {
    let old = build(Algorithm::Maglev, &THREE);
    let _leases: Vec<_> = old.backends().iter().map(|backend| Lease::take(backend).unwrap()).collect();
    take_down(&old, "a");
    let new = Arc::new(Pool::build(new, Some(&old), 0));
    assert!(!old.backend("a").unwrap().is_available(), "the old pool is in force until the new one is");
    new.settle(Instant::now());
    let found: Vec<_> = new
        .backends()
        .iter()
        .map(|backend| {
            let mark = if backend.state() == BackendState::Down { "-" } else { "" };
            format!("{}{mark}{}", backend.name(), backend.active())
        })
        .collect();
    assert_eq!(found.join(" "), expected);
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

#[test]
fn the_operators_word_comes_into_force_with_its_pool() {
    let say = |operator_state, previous: &Pool| {
        let mut spec = spec(Algorithm::Maglev, &THREE);
        spec.backends[0].operator_state = operator_state;
        Arc::new(Pool::build(spec, Some(previous), 0))
    };
    let ready = build(Algorithm::Maglev, &THREE);
    let drain = say(OperatorState::Drain, &ready);
    assert_eq!(picked(&drain, &[]), "abc", "not yet");
    let changes = drain.settle(Instant::now());
    let told: Vec<_> = changes.iter().map(|(backend, change)| (&**backend.name(), change.to)).collect();
    assert_eq!(told, [("a", BackendState::Draining)]);
    assert_eq!(picked(&drain, &[]), "bc");
    assert!(drain.settle(Instant::now()).is_empty(), "said once");
    let maintenance = say(OperatorState::Maintenance, &drain);
    assert_eq!(
        maintenance.settle(Instant::now())[0].1.reason,
        ChangeReason::Operator(OperatorState::Maintenance)
    );
    let failed = report(&maintenance, "a", CheckOutcome::Failed(CheckFault::Refused));
    assert_eq!(maintenance.apply(&failed, Instant::now()), None);
    let back = say(OperatorState::Ready, &maintenance);
    assert_eq!(back.settle(Instant::now())[0].1.to, BackendState::Up);
    assert_eq!(picked(&back, &[]), "abc");
    take_down(&back, "a");
}

/// Backend `a` leaves and another one replaces it: checks if the new one takes over the counts of `a`.
fn check_take_back(again: (&str, &str, u16), taken: bool) {
    let before = build(Algorithm::Maglev, &THREE);
    take_down(&before, "a");
    let left = Arc::clone(before.backend("a").unwrap());
    assert!(left.hold());
    let without = Pool::build(spec(Algorithm::Maglev, &THREE[1..]), Some(&before), 0);
    let mut pool = Pool::build(spec(Algorithm::Maglev, &[again, THREE[1]]), Some(&without), 0);
    pool.take_back(&left);
    let found = &pool.backends()[0];
    assert_eq!(found.is_same(&left), taken, "{again:?}");
    assert_eq!((found.active(), found.weight()), (u64::from(taken), again.2));
    assert_eq!(found.state(), BackendState::Up, "it was not checked meanwhile");
    assert_eq!(pool.backends()[1].id(), before.backend("b").unwrap().id());
}

#[test]
fn what_comes_back_goes_on() {
    check_take_back(("a", "10.0.0.1:1", 1), true);
    check_take_back(("a", "10.0.0.1:1", 7), true);
    check_take_back(("a", "10.0.0.1:2", 1), false);
    check_take_back(("d", "10.0.0.1:1", 1), false);
}

/// A pool that discovers its backends has none before it has found the first.
#[test]
fn the_first_of_a_pool_do_not_begin_slowly() {
    let spec = |backends| PoolSpec {
        slow_start: Some(Duration::from_secs(60)),
        ..spec(Algorithm::Maglev, backends)
    };
    let shares = |pool: &Pool| -> Vec<bool> {
        pool.backends().iter().map(|backend| pool.share(backend, Instant::now()) == 1.0).collect()
    };
    let first = Pool::build(spec(&THREE[..2]), Some(&Pool::build(spec(&[]), None, 0)), 0);
    assert_eq!(shares(&first), [true, true]);
    assert_eq!(shares(&Pool::build(spec(&THREE), Some(&first), 0)), [true, true, false]);
}

/// Checks if a change of the spec keeps the balancer.
fn check_balancer(algorithm: Algorithm, new: PoolSpec, kept: bool) {
    let old = build(algorithm, &THREE);
    let new = Pool::build(new, Some(&old), 1);
    let balancer = |pool: &Pool| Arc::clone(&pool.tiers.own().list()[0].balancer);
    assert_eq!(Arc::ptr_eq(&balancer(&old), &balancer(&new)), kept, "{:?}", new.spec);
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
        check_balancer(algorithm, PoolSpec { hash_on: HashOn::Sni.into(), ..same }, true);
        check_balancer(algorithm, spec(algorithm, &moved), true);
        check_balancer(algorithm, spec(algorithm, &heavier), false);
        check_balancer(algorithm, spec(algorithm, &THREE[..2]), false);
        check_balancer(algorithm, spec(algorithm, &[THREE[1], THREE[0], THREE[2]]), false);
    }
    check_balancer(Maglev, PoolSpec { hash_key: [8; 16], ..spec(Maglev, &THREE) }, false);
    check_balancer(Maglev, spec(RoundRobin, &THREE), false);
    let bounded = PoolSpec { max_load: Some(MaxLoad::of_percent(125)), ..spec(Maglev, &THREE) };
    check_balancer(Maglev, bounded, false);
    check_balancer(Maglev, PoolSpec { slow_start: Some(Duration::ZERO), ..spec(Maglev, &THREE) }, true);
}

/// Returns the number of connections that each backend gets if they all stay open.
fn held(pool: &Pool, connections: u32) -> Vec<u64> {
    let leases: Vec<_> =
        (0..connections).map(|number| pool.pick(client(number), None, &[]).unwrap()).collect();
    assert_eq!(leases.len(), connections as usize);
    pool.backends().iter().map(|backend| backend.active()).collect()
}

#[test]
fn open_connections_are_looked_at() {
    assert_eq!(held(&build(Algorithm::LeastConnections, &THREE), 100), [25, 25, 50]);
    assert_eq!(held(&build(Algorithm::Failover, &THREE), 100), [100, 0, 0]);
    let two = held(&build(Algorithm::RandomTwo, &THREE), 400);
    assert!(two.iter().zip([100, 100, 200]).all(|(found, exact)| found.abs_diff(exact) < 20), "{two:?}");
}

#[test]
fn a_bound_holds_one_client_back() {
    let free = spec(Algorithm::Maglev, &[THREE[0], THREE[1]]);
    let bounded = PoolSpec { max_load: Some(MaxLoad::of_percent(125)), ..free.clone() };
    let leases = |pool: &Pool| -> (Vec<u64>, Option<u64>) {
        let leases: Vec<_> = (0..80).map(|_| pool.pick(client(1), None, &[]).unwrap()).collect();
        assert_eq!(leases.len(), 80);
        (pool.backends().iter().map(|backend| backend.active()).collect(), pool.overflows())
    };
    let (mut active, overflows) = leases(&Pool::build(free, None, 0));
    active.sort_unstable();
    assert_eq!((&active[..], overflows), (&[0, 80][..], None));
    let (mut active, overflows) = leases(&Pool::build(bounded, None, 0));
    active.sort_unstable();
    assert_eq!((&active[..], overflows), (&[30, 50][..], Some(30)));
}

#[test]
fn the_quicker_backend_gets_more() {
    let pool = build(Algorithm::LeastLatency, &[THREE[0], THREE[1]]);
    for (backend, millis) in pool.backends().iter().zip([1, 9]) {
        Lease::take(backend).unwrap().connected(Duration::from_millis(millis));
    }
    let active = held(&pool, 100);
    assert!((85..=95).contains(&active[0]), "a ninth of the time is nine times the share: {active:?}");
}

#[test]
fn what_a_reload_adds_begins_slowly() {
    let slow = |backends: &[(&str, &str, u16)]| PoolSpec {
        slow_start: Some(Duration::from_secs(3600)),
        ..spec(Algorithm::RoundRobin, backends)
    };
    let shares = |pool: &Pool| -> Vec<f64> {
        let now = Instant::now();
        pool.backends().iter().map(|backend| (pool.share(backend, now) * 10.0).round() / 10.0).collect()
    };
    let first = Pool::build(slow(&THREE[..2]), None, 0);
    assert_eq!(shares(&first), [1.0, 1.0], "no backend is ahead at the start");
    let second = Pool::build(slow(&THREE), Some(&first), 0);
    assert_eq!(shares(&second), [1.0, 1.0, 0.1]);
    assert_eq!(shares(&Pool::build(spec(Algorithm::RoundRobin, &THREE), Some(&second), 0)), [1.0; 3]);
    let mut counts = HashMap::new();
    for number in 0..4000 {
        let lease = second.pick(client(number), None, &[]).unwrap();
        *counts.entry(lease.backend().name().to_string()).or_insert(0_u32) += 1;
    }
    // Twice the weight, a tenth of the share.
    let (one, new) = (counts["a"], counts["c"]);
    assert!((100..300).contains(&(new * 1000 / one)), "{counts:?}");
}

#[test]
fn only_a_hash_table_has_a_digest() {
    let maglev = build(Algorithm::Maglev, &THREE);
    assert!(maglev.digest().is_some());
    assert_eq!(maglev.entries().map(|entries| entries.len()), Some(3));
    let round_robin = build(Algorithm::RoundRobin, &THREE);
    assert_eq!((round_robin.digest(), round_robin.entries()), (None, None));
}

fn agent_report(pool: &Pool, name: &str, words: &[AgentDirective]) -> AgentReport {
    let backend = Arc::clone(pool.backend(name).unwrap());
    AgentReport { pool: Arc::clone(&pool.spec().name), backend, heard: Ok(words.to_vec()) }
}

fn with_agent(algorithm: Algorithm, backends: &[(&str, &str, u16)]) -> PoolSpec {
    let agent = AgentSpec {
        target: CheckTarget::default(),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        send: None,
    };
    PoolSpec { agent: Some(agent), ..spec(algorithm, backends) }
}

#[test]
fn the_agents_word_is_remembered_by_the_pool() {
    let pool = Pool::build(with_agent(Algorithm::Maglev, &THREE), None, 0);
    let said = agent_report(&pool, "b", &[AgentDirective::Drain, AgentDirective::Share(20)]);
    let now = Instant::now();
    assert_eq!(pool.apply_agent_report(&said, now).len(), 1);
    let again = Arc::new(Pool::build(with_agent(Algorithm::Maglev, &THREE[1..]), Some(&pool), 0));
    assert!(again.settle(now).is_empty());
    assert_eq!(picked(&again, &[]), "c");
    assert_eq!(again.backend("b").unwrap().health().agent_share(), 20);
    let without = Pool::build(with_agent(Algorithm::Maglev, &THREE[..1]), Some(&pool), 0);
    assert_eq!(without.apply_agent_report(&said, now), []);
}

/// Checks the states of `a` after these directives, and the backends that are picked then.
fn check_agent(words: &[AgentDirective], states: &[BackendState], expected: &str) {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
        let pool = Pool::build(with_agent(algorithm, &THREE), None, 0);
        let now = Instant::now();
        let changes = pool.apply_agent_report(&agent_report(&pool, "a", words), now);
        assert_eq!(changes.iter().map(|change| change.to).collect::<Vec<_>>(), states, "{words:?}");
        assert_eq!(picked(&pool, &[]), expected, "{words:?}");

        // Without agents no report is applied, and their demands are dropped.
        let without = Arc::new(Pool::build(spec(algorithm, &THREE), Some(&pool), 0));
        without.settle(now);
        assert_eq!(picked(&without, &[]), "abc", "{words:?}");
        assert_eq!(without.apply_agent_report(&agent_report(&without, "a", words), now), []);
        assert_eq!(picked(&without, &[]), "abc", "{words:?}");
    }
}

#[test]
fn an_agent_is_obeyed() {
    check_agent(&[AgentDirective::Up], &[], "abc");
    check_agent(&[AgentDirective::Down], &[BackendState::Down], "bc");
    check_agent(&[AgentDirective::Down, AgentDirective::Up], &[BackendState::Down, BackendState::Up], "abc");
    check_agent(&[AgentDirective::Drain, AgentDirective::Share(50)], &[BackendState::Draining], "bc");
    check_agent(&[AgentDirective::Maintenance], &[BackendState::Maintenance], "bc");
    check_agent(
        &[AgentDirective::Maintenance, AgentDirective::Ready],
        &[BackendState::Maintenance, BackendState::Up],
        "abc",
    );
    check_agent(&[AgentDirective::Share(0)], &[], "bc");
    check_agent(&[AgentDirective::Share(50)], &[], "abc");
    check_agent(&[AgentDirective::MaxConnections(0)], &[], "bc");
    check_agent(&[AgentDirective::MaxConnections(1)], &[], "abc");
}

/// The number of 1000 clients that are sent to `a` when its agent allows this percentage.
fn part_of_a(algorithm: Algorithm, percent: u8, backends: &[(&str, &str, u16)]) -> usize {
    let pool = build(algorithm, backends);
    pool.backend("a").unwrap().allow(AgentDirective::Share(percent));
    let picks = (0..1000).map(|number| pool.pick(client(number), None, &[]).unwrap());
    picks.filter(|lease| &**lease.backend().name() == "a").count()
}

#[test]
fn a_part_of_the_share_is_a_part_of_the_clients() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
        let two = &THREE[..2];
        let half = part_of_a(algorithm, 50, two);
        let tenth = part_of_a(algorithm, 10, two);
        assert!((150..400).contains(&half) && (20..150).contains(&tenth), "{half} {tenth}");
        // The only backend takes them all.
        assert_eq!(part_of_a(algorithm, 10, &THREE[..1]), 1000);
    }
}

/// The target of an SRV record has other names with one address than with several.
#[test]
fn a_discovered_backend_that_is_renamed_goes_on_by_its_address() {
    let spec = |backends: &[(&str, &str, u16)]| {
        let mut spec = spec(Algorithm::Maglev, backends);
        spec.backends.iter_mut().for_each(|backend| backend.origin = NameOrigin::Discovery);
        spec
    };
    let one = [("t:1", "10.0.0.1:1", 1), THREE[1]];
    let pool = Pool::build(spec(&one), None, 0);
    take_down(&pool, "t:1");
    let lease = pool.pick(None, None, &[]).unwrap();
    assert_eq!(&**lease.backend().name(), "b");
    let two = [("10.0.0.1:1", "10.0.0.1:1", 1), ("10.0.0.9:1", "10.0.0.9:1", 1), THREE[1]];
    let renamed = Pool::build(spec(&two), Some(&pool), 0);
    let (before, now) = (pool.backend("t:1").unwrap(), renamed.backend("10.0.0.1:1").unwrap());
    assert!(now.is_same(before) && now.shares_health(before) && now.state() == BackendState::Down);
    assert_eq!(renamed.backend("10.0.0.9:1").unwrap().state(), BackendState::Up);
    let back = Pool::build(spec(&one), Some(&renamed), 0);
    assert!(back.backend("t:1").unwrap().is_same(before));
    // A name that has moved is another server. The backend that has its address now starts with zero counts.
    let moved = [("t:1", "10.0.0.7:1", 1), ("u:1", "10.0.0.1:1", 1), THREE[1]];
    let moved = Pool::build(spec(&moved), Some(&pool), 0);
    assert!(["t:1", "u:1"].iter().all(|name| !moved.backend(name).unwrap().is_same(before)));
    // Backends in the configuration are identified by their names alone.
    let written = Pool::build(self::spec(Algorithm::Maglev, &two), Some(&pool), 0);
    assert!(!written.backend("10.0.0.1:1").unwrap().is_same(before));
}
