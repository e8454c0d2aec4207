use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::*;
use crate::balance::Algorithm;
use crate::pool::CheckTarget;
use crate::pool::{
    AgentReport, AgentSpec, CheckFault, CheckOutcome, CheckReport, HealthSpec, Lease, OperatorState, Pool,
    PoolSpec, QueueSpec, Unavailable,
};
use crate::wire::agent::AgentDirective;

/// Backends written as `name@zone`, with `!` after backups and `*n` after those of another weight.
fn backends(text: &str) -> Vec<BackendSpec> {
    text.split_whitespace()
        .enumerate()
        .map(|(at, word)| {
            let (word, weight) = word.split_once('*').unwrap_or((word, "1"));
            let (place, backup) = word.strip_suffix('!').map_or((word, false), |place| (place, true));
            let (name, zone) = place.split_once('@').unwrap_or((place, ""));
            BackendSpec {
                weight: weight.parse().unwrap(),
                zone: (!zone.is_empty()).then(|| zone.into()),
                backup,
                ..BackendSpec::new(name, format!("10.0.0.{}:1", at + 1).parse().unwrap())
            }
        })
        .collect()
}

/// A pool of a node in zone `a` that prefers zone `b` next.
fn spec(text: &str) -> PoolSpec {
    PoolSpec {
        hash_key: [7; 16],
        health: Some(HealthSpec { rise: 1, fall: 1, ..HealthSpec::default() }),
        tiers: TierSpec { zone: Some("a".into()), zones: vec!["b".into()], ..TierSpec::default() },
        ..PoolSpec::new("p".into(), backends(text))
    }
}

fn build(spec: PoolSpec) -> Pool {
    Pool::build(spec, None, 0)
}

fn turn(pool: &Pool, name: &str, outcome: CheckOutcome) {
    let backend = Arc::clone(pool.backend(name).unwrap());
    let report = CheckReport { pool: "p".into(), backend, found: outcome.into(), took: Duration::ZERO };
    assert!(pool.apply(&report, Instant::now()).is_some(), "{name} was so before");
}

fn take_down(pool: &Pool, names: &str) {
    for name in names.split_whitespace() {
        turn(pool, name, CheckOutcome::Failed(CheckFault::Refused));
    }
}

fn bring_up(pool: &Pool, names: &str) {
    for name in names.split_whitespace() {
        turn(pool, name, CheckOutcome::Passed);
    }
}

const CLIENTS: u32 = 4000;

fn client(number: u32) -> Option<SocketAddr> {
    Some(SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 1))
}

fn picked(pool: &Pool) -> Vec<String> {
    let pick = |number| match pool.pick(client(number), None, &[]) {
        Ok(lease) => lease.backend().name().to_string(),
        Err(Unavailable::NoneUp) => "-".to_owned(),
        Err(Unavailable::Full) => "full".to_owned(),
    };
    (0..CLIENTS).map(pick).collect()
}

/// The names that clients are sent to, with the percentage of them, rounded to tens.
fn spread(pool: &Pool) -> String {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for name in picked(pool) {
        *counts.entry(name).or_default() += 1;
    }
    let tens = |count: u32| (count * 10 + CLIENTS / 2) / CLIENTS * 10;
    counts.into_iter().map(|(name, count)| format!("{name}{}", tens(count))).collect::<Vec<_>>().join(" ")
}

fn check(text: &str, down: &str, expected: &str) {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin] {
        let pool = build(PoolSpec { algorithm, ..spec(text) });
        take_down(&pool, down);
        assert_eq!(spread(&pool), expected, "{text} without {down}, {algorithm:?}");
    }
}

#[test]
fn the_own_zone_comes_first() {
    check("one@a two@b", "", "one100");
    check("one@a two@a three@b", "", "one50 two50");
    check("one@b two@c", "", "one100");
    check("one@c two@d three", "", "one30 three30 two30");
    check("one two", "", "one50 two50");
}

#[test]
fn what_the_own_zone_cannot_bear_spills_over() {
    check("one@a two@b", "one", "two100");
    check("one@a two@b three@c", "one two", "three100");
    // Half of the weight carries seven tenths of the load.
    check("one@a two@a three@b", "one", "three30 two70");
    check("one@a*3 two@a three@b", "two", "one100");
    check("one@a two@a three@b four@b five@c", "one three", "four30 two70");
    check("one@a two@b", "one two", "-100");
}

#[test]
fn backups_come_when_no_primary_is_up() {
    check("one@a two@b three@a!", "", "one100");
    check("one@a two@b three@a!", "one", "two100");
    check("one@a two@a three@b three'@a!", "one two", "three100");
    check("one@a two@b three@a!", "one two", "three100");
    check("one@a two@b! three@a!", "one", "three100");
    check("one@a two@b! three@a! four@a!", "one three", "four70 two30");
    check("one! two!", "", "one50 two50");
    check("one@a*0 two@b!", "", "two100");
}

#[test]
fn a_client_that_found_all_primaries_dead_gets_a_backup() {
    let pool = build(spec("one@a two@b three@a!"));
    let mut tried = Vec::new();
    for expected in ["one", "two", "three"] {
        let lease = pool.pick(client(1), None, &tried).unwrap();
        assert_eq!(&**lease.backend().name(), expected);
        tried.push(Arc::clone(lease.backend()));
    }
    assert_eq!(pool.pick(client(1), None, &tried).unwrap_err(), Unavailable::NoneUp);
}

#[test]
fn a_key_whose_owner_is_up_never_moves_for_another_tier() {
    let pool = build(spec("a1@a a2@a a3@a a4@a b1@b b2@b c1@c c2@c"));
    let before = picked(&pool);
    for down in ["b1 c1", "a1", "a2", "a3", "b2", "c2"] {
        take_down(&pool, down);
        let now = picked(&pool);
        let mut moved = 0;
        for (before, now) in before.iter().zip(&now) {
            assert!(before == now || !pool.backend(before).unwrap().is_available(), "{before} to {now}");
            moved += u32::from(before != now);
        }
        assert_eq!(moved > 0, !pool.backend("a1").unwrap().is_available());
    }
    bring_up(&pool, "b1 c1 a1 a2 a3 b2 c2");
    assert_eq!(picked(&pool), before, "and all come back");
}

#[test]
fn nodes_of_one_zone_agree_whatever_the_order_in_their_files() {
    let [one, two] = ["a1@a a2@a b1@b c1@c", "c1@c b1@b a2@a a1@a"].map(|text| build(spec(text)));
    for down in ["", "a1", "b1"] {
        take_down(&one, down);
        take_down(&two, down);
        assert_eq!(picked(&one), picked(&two));
    }
    assert_eq!(one.digest(), two.digest());
    let elsewhere = TierSpec { zone: Some("b".into()), zones: Vec::new(), ..TierSpec::default() };
    let elsewhere = build(PoolSpec { tiers: elsewhere, ..spec("a1@a a2@a b1@b c1@c") });
    assert_ne!(one.digest(), elsewhere.digest());
}

fn in_panic(text: &str, percent: u8, down: &str) -> Pool {
    let mut spec = spec(text);
    spec.tiers.panic_threshold = Some(percent);
    let pool = build(spec);
    take_down(&pool, down);
    pool
}

fn check_panic(text: &str, percent: u8, down: &str, expected: &str) {
    let pool = in_panic(text, percent, down);
    let (was, is_panic) = (pool.panic_picks(), pool.is_in_panic());
    let mark = if is_panic { "panic: " } else { "" };
    assert_eq!(format!("{mark}{}", spread(&pool)), expected, "{text} {percent} without {down}");
    assert_eq!(pool.panic_picks() - was, if is_panic { CLIENTS.into() } else { 0 });
}

#[test]
fn below_the_threshold_all_are_used() {
    check_panic("one two three", 50, "", "one30 three30 two30");
    check_panic("one two", 50, "one", "two100");
    check_panic("one two", 51, "one", "panic: one50 two50");
    check_panic("one two", 100, "", "one50 two50");
    check_panic("one*4 two", 50, "one", "panic: one80 two20");
    check_panic("one two", 1, "one two", "panic: one50 two50");
    check_panic("one@a two@b three@b", 50, "one two", "panic: one30 three30 two30");
    check_panic("one@a two@b three@b", 50, "one", "three50 two50");
    check_panic("one two*0", 50, "one", "panic: one100");
}

#[test]
fn panic_is_of_the_kind_in_use() {
    check_panic("one two three!", 60, "one", "panic: one50 two50");
    check_panic("one two three!", 60, "one two", "three100");
    check_panic("one two three! four!", 60, "one two three", "panic: four50 three50");
    check_panic("one two three!", 60, "one two three", "panic: one50 two50");
}

/// The operator took these backends out of use, so a check has not failed at them.
#[test]
fn who_is_drained_is_not_missed() {
    let mut spec = spec("one two three");
    spec.tiers.panic_threshold = Some(50);
    spec.backends[0].operator_state = OperatorState::Drain;
    spec.backends[1].operator_state = OperatorState::Maintenance;
    let pool = build(spec);
    assert_eq!((pool.is_in_panic(), &*spread(&pool)), (false, "three100"));
    take_down(&pool, "three");
    assert_eq!((pool.is_in_panic(), &*spread(&pool)), (true, "three100"));
}

#[test]
fn a_word_that_a_stronger_state_hides_counts_at_once() {
    let agent = AgentSpec { target: CheckTarget::default(), interval: TIMEOUT, timeout: TIMEOUT, send: None };
    let mut spec = PoolSpec { agent: Some(agent), ..spec("one two") };
    spec.tiers.panic_threshold = Some(60);
    let pool = build(spec);
    take_down(&pool, "one");
    assert!(pool.is_in_panic());
    let backend = Arc::clone(pool.backend("one").unwrap());
    let report = AgentReport { pool: "p".into(), backend, heard: Ok(vec![AgentDirective::Drain]) };
    assert_eq!(pool.apply_agent_report(&report, Instant::now()), [], "it stays down");
    assert!(!pool.is_in_panic());
}

#[test]
fn panic_ends() {
    let pool = in_panic("one two three", 50, "one two");
    assert!(pool.is_in_panic());
    bring_up(&pool, "one");
    assert!(!pool.is_in_panic());
    assert_eq!(spread(&pool), "one50 three50");
}

#[test]
fn tiers_can_be_seen() {
    let pool = build(spec("one@a two@a*3 three@b four@c five@a!"));
    take_down(&pool, "two");
    let views: Vec<_> = pool
        .tiers()
        .iter()
        .map(|tier| {
            let mark = if tier.is_backup { "!" } else { "" };
            let Capacity { up, total } = tier.capacity;
            format!("{}{mark} {up}/{total} {:.2}", tier.name, tier.share)
        })
        .collect();
    assert_eq!(views, ["a 1/4 0.35", "b 1/1 0.65", "* 1/1 0.00", "a! 1/1 0.00"]);
    take_down(&pool, "one three four");
    assert_eq!(pool.tiers().iter().map(|tier| tier.share).collect::<Vec<_>>(), [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn entries_are_those_of_each_tier() {
    let pool = build(spec("one@a two@b three@a"));
    let entries = pool.entries().unwrap();
    assert_eq!((entries[0] + entries[2], entries[1]), (65537, 65537));
}

#[test]
fn tables_of_tiers_that_stay_are_kept() {
    let old = build(spec("one@a two@b three@c"));
    let new = Pool::build(spec("three@c four@b one@a"), Some(&old), 0);
    let balancers = |pool: &Pool| -> Vec<_> {
        pool.tiers.own().list().iter().map(|tier| Arc::as_ptr(&tier.balancer)).collect()
    };
    let (old, new) = (balancers(&old), balancers(&new));
    assert_eq!([old[0] == new[0], old[1] == new[1], old[2] == new[2]], [true, false, true]);
}

const TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of two backends with room for two connections each, and three in the queue.
fn limited() -> PoolSpec {
    let mut spec = spec("one two");
    spec.queue = Some(QueueSpec { length: 3, timeout: TIMEOUT });
    for backend in &mut spec.backends {
        backend.max_connections = Some(2);
    }
    spec
}

fn fill(pool: &Pool) -> Vec<Lease> {
    std::iter::from_fn(|| pool.pick(None, None, &[]).ok()).collect()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn who_is_full_is_passed_over() {
    let pool = build(limited());
    let leases = fill(&pool);
    let names: HashSet<_> = leases.iter().map(|lease| lease.backend().name()).collect();
    assert_eq!((leases.len(), names.len()), (4, 2), "though all have one key");
    assert_eq!(pool.pick(None, None, &[]).unwrap_err(), Unavailable::Full);
    take_down(&pool, "one two");
    assert_eq!(pool.pick(None, None, &[]).unwrap_err(), Unavailable::NoneUp);
}

#[test]
fn a_full_primary_is_not_what_backups_are_for() {
    let mut spec = spec("one@a two@b three!");
    spec.backends[0].max_connections = Some(1);
    spec.backends[1].max_connections = Some(1);
    let pool = build(spec);
    let leases = fill(&pool);
    let names: Vec<_> = leases.iter().map(|lease| &**lease.backend().name()).collect();
    assert_eq!(names, ["one", "two"], "but other zones are");
    assert_eq!(pool.pick(None, None, &[]).unwrap_err(), Unavailable::Full);
    let tried = leases.iter().map(|lease| Arc::clone(lease.backend())).collect::<Vec<_>>();
    assert_eq!(pool.pick(None, None, &tried[..1]).unwrap_err(), Unavailable::Full);
    assert_eq!(&**pool.pick(None, None, &tried).unwrap().backend().name(), "three");
}

#[test]
fn a_lease_given_back_goes_to_who_waits() {
    let pool = build(limited());
    let mut leases = fill(&pool);
    let mut turns: Vec<_> = (0..3).map(|_| Box::pin(pool.wait(None, None, &[]).unwrap())).collect();
    assert!(pool.wait(None, None, &[]).is_err(), "the queue is full");
    assert!(turns.iter_mut().all(|turn| poll(turn).is_pending()));
    leases.pop();
    assert_eq!(pool.pick(None, None, &[]).unwrap_err(), Unavailable::Full, "it is meant for who waits");
    let Poll::Ready(Ok(lease)) = poll(&mut turns[0]) else { panic!("the first got nothing") };
    assert!(turns[1..].iter_mut().all(|turn| poll(turn).is_pending()));
    assert_eq!(pool.waiting(), 2);
    drop(lease);
    // The waiter is called, and leaves.
    drop(turns.remove(1));
    assert!(matches!(poll(&mut turns[1]), Poll::Ready(Ok(_))));
    assert_eq!((pool.waiting(), leases.len()), (0, 3));
}

#[test]
fn who_waits_hears_of_every_change() {
    let pool = build(limited());
    take_down(&pool, "two");
    let leases = fill(&pool);
    let mut turn = Box::pin(pool.wait(None, None, &[]).unwrap());
    assert!(poll(&mut turn).is_pending());
    bring_up(&pool, "two");
    assert!(matches!(poll(&mut turn), Poll::Ready(Ok(_))), "a backend came up");

    let _more = fill(&pool);
    let mut turns: Vec<_> = (0..2).map(|_| Box::pin(pool.wait(None, None, &[]).unwrap())).collect();
    assert!(turns.iter_mut().all(|turn| poll(turn).is_pending()));
    let mut wider = limited();
    wider.backends[0].max_connections = Some(9);
    let next = Pool::build(wider, Some(&pool), 0);
    assert_eq!(next.waiting(), 2, "the queue is the pool's, whatever the snapshot");
    for turn in &mut turns {
        assert!(matches!(poll(turn), Poll::Ready(Ok(_))), "a reload made room");
    }

    let _most = fill(&next);
    let mut turn = Box::pin(next.wait(None, None, &[]).unwrap());
    assert!(poll(&mut turn).is_pending());
    take_down(&next, "one two");
    assert!(matches!(poll(&mut turn), Poll::Ready(Err(Unavailable::NoneUp))), "no backend is left");
    drop(leases);
}

/// The pool with other backends, in force.
fn follow(pool: &Pool, backends: Vec<BackendSpec>) -> Arc<Pool> {
    let next = Arc::new(Pool::build(PoolSpec { backends, ..pool.spec().clone() }, Some(pool), 0));
    next.settle(Instant::now());
    next
}

#[test]
fn who_waits_gets_what_comes_later_in_turn() {
    let pool = Arc::new(build(limited()));
    pool.settle(Instant::now());
    let _leases = fill(&pool);
    let mut early = Box::pin(pool.wait(None, None, &[]).unwrap());
    assert!(poll(&mut early).is_pending());
    let mut three = backends("one two three");
    three.iter_mut().for_each(|backend| backend.max_connections = Some(2));
    three[2].max_connections = Some(1);
    let next = follow(&pool, three.clone());
    let mut late = Box::pin(next.wait(None, None, &[]).unwrap());
    assert!(poll(&mut late).is_pending());
    let Poll::Ready(Ok(lease)) = poll(&mut early) else { panic!("the new backend is idle") };
    assert_eq!(&**lease.backend().name(), "three");
    drop(lease);
    assert!(matches!(poll(&mut late), Poll::Ready(Ok(_))));
}

#[test]
fn who_waits_gets_nothing_of_what_is_gone() {
    let pool = Arc::new(build(limited()));
    pool.settle(Instant::now());
    let leases = fill(&pool);
    let mut early = Box::pin(pool.wait(None, None, &[]).unwrap());
    assert!(poll(&mut early).is_pending());
    let mut other = backends("one two three").split_off(2);
    other[0].max_connections = Some(1);
    let next = follow(&pool, other);
    drop(leases);
    let Poll::Ready(Ok(lease)) = poll(&mut early) else { panic!("the new backend is idle") };
    assert_eq!(&**lease.backend().name(), "three");
    assert_eq!(next.backends()[0].active(), 1);
}

/// Connections to the old backend report to the present waiters, and count for the present limit.
#[test]
fn what_comes_back_is_limited_as_it_is_now() {
    let mut spec = PoolSpec { backends: backends("one"), ..limited() };
    spec.backends[0].max_connections = Some(1);
    let left = Arc::clone(build(spec.clone()).backend("one").unwrap());
    let old = Lease::take(&left).unwrap();
    spec.backends[0].max_connections = Some(2);
    let mut pool = build(spec);
    pool.take_back(&left);
    assert_eq!((pool.backends()[0].limit(), pool.backends()[0].active()), (Some(2), 1));
    let _more = fill(&pool);
    let mut turn = Box::pin(pool.wait(None, None, &[]).unwrap());
    assert!(poll(&mut turn).is_pending());
    drop(old);
    assert!(matches!(poll(&mut turn), Poll::Ready(Ok(_))));
}

#[test]
fn without_a_queue_nobody_waits() {
    let pool = build(PoolSpec { queue: None, ..limited() });
    let _leases = fill(&pool);
    assert!(pool.wait(None, None, &[]).is_err());
}

/// A pool reads its backends again after its own changes, not after those of another pool.
#[test]
fn a_change_in_one_pool_is_none_in_another() {
    let one = build(spec("a@a b@b"));
    let other = build(PoolSpec { name: "q".into(), ..spec("a@a b@b") });
    let known = other.tier_health();
    for _ in 0..3 {
        take_down(&one, "a");
        bring_up(&one, "a");
    }
    assert!(Arc::ptr_eq(&known, &other.tier_health()), "it was read again");
    let other_a = Arc::clone(other.backend("a").unwrap());
    other_a.allow(AgentDirective::Share(0));
    assert!(!Arc::ptr_eq(&known, &other.tier_health()), "it was not read again");
}

/// After a reload, two pools share the backends, and each must see their changes.
#[test]
fn a_change_is_seen_by_earlier_and_later_pools() {
    let old = build(spec("a@a b@b"));
    let new = Pool::build(spec("a@a b@b c@c"), Some(&old), 0);
    for pool in [&old, &new] {
        assert_eq!(pool.tiers()[0].capacity.up, 1);
    }
    take_down(&new, "a");
    for pool in [&old, &new] {
        assert_eq!(pool.tiers()[0].capacity.up, 0);
    }
}
