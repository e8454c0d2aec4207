//! Ejections: their bounds, their end, and their way over a reload.

use super::*;

fn ejecting(backends: &[(&str, &str, u16)], spec_of: EjectionSpec) -> PoolSpec {
    PoolSpec { health: None, ejection: Some(spec_of), ..spec(Algorithm::RoundRobin, backends) }
}

fn failure_report(pool: &Pool, name: &str) -> FailureReport {
    FailureReport { backend: Arc::clone(pool.backend(name).unwrap()), trouble: Trouble::Connect }
}

/// Tries to eject these, one after the other, of `count` backends: `!` it is ejected, `m` the most are ejected
/// already, `l` it is the last one, `.` nothing happens.
fn check_eject(count: usize, max_ejected: u8, names: &[usize], expected: &str) {
    let named: Vec<_> =
        (0..count).map(|n| (n.to_string(), format!("10.0.{}.{}:1", n / 250, n % 250))).collect();
    let backends: Vec<_> = named.iter().map(|(name, address)| (&**name, &**address, 1)).collect();
    let ejection = EjectionSpec { max_ejected, ..Default::default() };
    let pool = Pool::build(ejecting(&backends, ejection), None, 0);
    let eject = |name: &usize| match pool.eject(&failure_report(&pool, &name.to_string()), Instant::now()) {
        Ok(Some(change)) => {
            assert_eq!((change.from, change.to), (BackendState::Up, BackendState::Ejected));
            '!'
        }
        Ok(None) => '.',
        Err(EjectionRefusal::MostEjected) => 'm',
        Err(EjectionRefusal::LastOne) => 'l',
    };
    assert_eq!(names.iter().map(eject).collect::<String>(), expected, "{count} {max_ejected} {names:?}");
    assert!(pool.pick(client(1), None, &[]).is_ok());
}

#[test]
fn only_so_many_are_ejected_and_never_the_last() {
    check_eject(1, 100, &[0, 0], "ll");
    check_eject(2, 100, &[0, 1, 0], "!l.");
    check_eject(3, 10, &[2, 2, 1], "!.m");
    check_eject(3, 66, &[0, 1], "!m");
    check_eject(3, 67, &[0, 1, 2], "!!m");
    check_eject(3, 100, &[0, 1, 2], "!!l");
    check_eject(30, 10, &[0, 1, 2, 3], "!!!m");
    check_eject(19, 10, &[5, 6], "!m");
    check_eject(20, 10, &[5, 6, 7], "!!m");
}

#[test]
fn what_takes_no_connections_is_no_other_to_eject_one_for() {
    let mut spec = ejecting(&[THREE[0], ("b", "10.0.0.2:1", 0), THREE[2]], EjectionSpec::default());
    spec.backends[2].operator_state = OperatorState::Drain;
    let pool = Pool::build(spec, None, 0);
    let try_it = |name| pool.eject(&failure_report(&pool, name), Instant::now());
    assert_eq!(try_it("a"), Err(EjectionRefusal::LastOne));
    assert_eq!(try_it("c"), Ok(None), "it is draining already");
    let unconcerned = Pool::build(PoolSpec { ejection: None, ..pool.spec().clone() }, Some(&pool), 0);
    assert_eq!(unconcerned.eject(&failure_report(&pool, "a"), Instant::now()), Ok(None));
}

#[test]
fn an_ejection_and_its_count_outlive_a_reload() {
    let start = Instant::now();
    let seconds = |count| start + Duration::from_secs(count);
    let old = Pool::build(ejecting(&THREE, EjectionSpec::default()), None, 0);
    assert!(old.eject(&failure_report(&old, "a"), start).unwrap().is_some());
    let heavier = [("a", "10.0.0.1:1", 9), THREE[1], THREE[2]];
    let new = Arc::new(Pool::build(ejecting(&heavier, EjectionSpec::default()), Some(&old), 0));
    assert!(new.settle(seconds(1)).is_empty());
    let backend = Arc::clone(new.backend("a").unwrap());
    assert_eq!((backend.state(), backend.weight()), (BackendState::Ejected, 9));
    assert_eq!(new.readmit(&old.backends()[0], seconds(29)), None);
    let change = new.readmit(&old.backends()[0], seconds(30)).unwrap();
    assert_eq!((change.to, change.reason), (BackendState::Up, ChangeReason::EjectionOver));
    assert!(new.eject(&failure_report(&old, "a"), seconds(31)).unwrap().is_some());
    let again = backend.health().ejection().unwrap();
    assert_eq!((again.in_a_row, again.until), (2, seconds(91)));
    assert_eq!(backend.health().entered(BackendState::Ejected), 2);
    let off = PoolSpec { ejection: None, ..new.spec().clone() };
    let changes = Arc::new(Pool::build(off, Some(&new), 0)).settle(seconds(32));
    let reasons: Vec<_> = changes.iter().map(|(_, change)| change.reason).collect();
    assert_eq!(reasons, [ChangeReason::EjectionOff]);
}

/// A reload is built beside the control loop, which goes on to apply reports to the pool in force.
#[test]
fn states_that_change_during_a_build_come_into_force_with_it() {
    let of = |backends: &[(&str, &str, u16)]| PoolSpec {
        ejection: Some(EjectionSpec::default()),
        ..with_agent(Algorithm::RoundRobin, backends)
    };
    let four = [THREE[0], THREE[1], THREE[2], ("d", "10.0.0.4:1", 1)];
    let old = Pool::build(of(&four), None, 0);
    let new = Arc::new(Pool::build(of(&four.map(|(name, address, _)| (name, address, 7))), Some(&old), 0));
    take_down(&old, "a");
    let start = Instant::now();
    assert!(old.eject(&failure_report(&old, "b"), start).unwrap().is_some());
    let said = agent_report(&old, "c", &[AgentDirective::Drain, AgentDirective::Share(30)]);
    assert_eq!(old.apply_agent_report(&said, start).len(), 1);
    assert!(new.settle(start).is_empty(), "nothing changes once more");
    let states: Vec<_> = new.backends().iter().map(|backend| backend.state()).collect();
    let expected = [BackendState::Down, BackendState::Ejected, BackendState::Draining, BackendState::Up];
    assert_eq!(states, expected);
    assert_eq!(new.backend("c").unwrap().health().agent_share(), 30);
    assert_eq!((new.available(), picked(&new, &[])), (1, "d".into()));
    let change = new.readmit(old.backend("b").unwrap(), start + Duration::from_secs(30));
    assert_eq!(change.map(|change| change.to), Some(BackendState::Up));
}

#[test]
fn the_ejection_of_a_backend_that_is_renamed_ends() {
    let start = Instant::now();
    let discovered = |backends: &[(&str, &str, u16)]| {
        let mut spec = ejecting(backends, EjectionSpec::default());
        spec.backends.iter_mut().for_each(|backend| backend.origin = NameOrigin::Discovery);
        spec
    };
    let old = Pool::build(discovered(&[("t:1", "10.0.0.1:1", 1), THREE[1]]), None, 0);
    assert!(old.eject(&failure_report(&old, "t:1"), start).unwrap().is_some());
    let renamed = [("10.0.0.1:1", "10.0.0.1:1", 1), ("10.0.0.9:1", "10.0.0.9:1", 1), THREE[1]];
    let new = Pool::build(discovered(&renamed), Some(&old), 0);
    let change = new.readmit(&old.backends()[0], start + Duration::from_secs(30));
    assert_eq!(change.map(|change| change.to), Some(BackendState::Up));
    // A backend that has the name of another server is not meant.
    let moved = Pool::build(discovered(&[("t:1", "10.0.0.7:1", 1), THREE[1]]), Some(&old), 0);
    assert_eq!(moved.readmit(&old.backends()[0], start + Duration::from_secs(60)), None);
}

#[test]
fn a_row_of_failures_makes_a_sighting() {
    let pool = Pool::build(ejecting(&THREE, EjectionSpec::default()), None, 0);
    let lease = pool.pick(client(1), None, &[]).unwrap();
    let met = (0..10).filter_map(|_| lease.met(Trouble::EarlyReset)).count();
    assert_eq!((met, lease.backend().traffic().troubles(Trouble::EarlyReset)), (2, 10));
    lease.spoke();
    assert!((0..4).all(|_| lease.met(Trouble::EarlyReset).is_none()));
    let failure_report = lease.met(Trouble::EarlyReset).unwrap();
    let change = pool.eject(&failure_report, Instant::now()).unwrap().unwrap();
    assert_eq!(change.reason, ChangeReason::Failures { trouble: Trouble::EarlyReset, failures: 5 });
}
