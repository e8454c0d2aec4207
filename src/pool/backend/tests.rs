use super::*;
use crate::pool::{CheckFault, CheckOutcome, EjectionSpec, HealthSpec, OperatorState, Trouble};

fn spec(address: &str, weight: u16) -> BackendSpec {
    BackendSpec { weight, ..BackendSpec::new("b", address.parse().unwrap()) }
}

fn health_spec() -> HealthSpec {
    HealthSpec::default()
}

fn observe(backend: &Backend, outcome: CheckOutcome, now: Instant) -> Option<StateChange> {
    backend.observe(outcome.into(), HealthRules { health: Some(&health_spec()), ejection: None }, now)
}

/// A backend that is down, with one lease held and one connection made.
fn used(now: Instant) -> Arc<Backend> {
    let backend = Arc::new(Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default()));
    assert!(backend.hold());
    backend.traffic().connected(Duration::from_millis(3));
    let fault = CheckOutcome::Failed(CheckFault::Refused);
    assert!(observe(&backend, fault, now + Duration::from_millis(1500)).is_some());
    backend
}

fn check(pool: &str, next: BackendSpec, expected: (BackendState, u64, u64, u64)) {
    let now = Instant::now();
    let old = used(now);
    let new = Backend::new(&pool.into(), &next, now + Duration::from_secs(9), &Arc::default());
    let new = new.succeed(&old);
    let found = (new.state(), new.active(), new.traffic().connections_total(), new.health().checks_failed());
    assert_eq!(found, expected, "{pool} {next:?}");
    assert_eq!(new.weight(), next.weight);
    assert_eq!(*new.address(), next.address);
    assert_eq!(new.is_same(&old), new.active() == 1);
    assert_eq!(new.shares_health(&old), new.state() == BackendState::Down);
}

#[test]
fn what_is_taken_over() {
    check("p", spec("10.0.0.1:1", 1), (BackendState::Down, 1, 1, 1));
    check("p", spec("10.0.0.1:1", 5), (BackendState::Down, 1, 1, 1));
    check("p", spec("10.0.0.1:1", 0), (BackendState::Down, 1, 1, 1));
    check("p", spec("10.0.0.1:2", 1), (BackendState::Up, 0, 0, 0));
    check("q", spec("10.0.0.1:1", 1), (BackendState::Up, 0, 0, 0));
    check("p", BackendSpec { name: "c".into(), ..spec("10.0.0.1:1", 1) }, (BackendState::Up, 0, 0, 0));
}

#[test]
fn an_unchanged_one_is_the_same_value() {
    let now = Instant::now();
    let old = used(now);
    let new = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default()).succeed(&old);
    assert!(Arc::ptr_eq(&old, &new));
}

#[test]
fn the_state_has_a_beginning() {
    let now = Instant::now();
    let backend = used(now);
    assert_eq!(backend.health().since(), now + Duration::from_millis(1500));
    assert!(!backend.is_available());
    let later = now + Duration::from_secs(7);
    assert_eq!(observe(&backend, CheckOutcome::Passed, later), None);
    assert_eq!(backend.health().since(), now + Duration::from_millis(1500));
    assert!(observe(&backend, CheckOutcome::Passed, later).is_some());
    assert_eq!(backend.health().since(), later);
    assert!(backend.is_available());
}

/// Checks the shares of a backend that has been in a state for so many milliseconds, with a window of a second.
fn check_share(backend: &Backend, since: Instant, expected: [u32; 3]) {
    let shares = [0, 500, 1000]
        .map(|millis| backend.share(Some(Duration::from_secs(1)), || since + Duration::from_millis(millis)));
    assert_eq!(shares, expected);
}

#[test]
fn what_comes_up_beside_others_begins_slowly() {
    const SLOWLY: [u32; 3] = [102, 563, 1024];
    let now = Instant::now();
    let fresh = || Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default());
    check_share(&fresh(), now, [1024; 3]);
    check_share(&fresh().starting_slowly(), now, SLOWLY);
    let backend = used(now);
    check_share(&backend, backend.health().since(), [1024; 3]);
    let later = now + Duration::from_secs(7);
    for _ in 0..2 {
        observe(&backend, CheckOutcome::Passed, later);
    }
    assert!(backend.is_available());
    check_share(&backend, later, SLOWLY);
    let at = |address, weight| Backend::new(&"p".into(), &spec(address, weight), later, &Arc::default());
    check_share(&at("10.0.0.1:1", 9).succeed(&backend), later, SLOWLY);
    check_share(&at("10.0.0.1:2", 1).succeed(&backend), later, SLOWLY);
}

#[test]
fn its_latency_is_that_of_its_connections() {
    let backend = used(Instant::now());
    let millis = || backend.traffic().latency(Instant::now()).as_secs_f64() * 1000.0;
    assert!((2.5..=3.0).contains(&millis()), "{}", millis());
    backend.traffic().failed(Duration::from_micros(10));
    assert!(millis() > 2.5);
    backend.traffic().failed(Duration::from_secs(5));
    assert!(millis() > 4000.0);
}

#[test]
fn checks_are_counted_by_their_end() {
    let now = Instant::now();
    let backend = used(now);
    for outcome in [CheckOutcome::Passed, CheckOutcome::Failed(CheckFault::Local), CheckOutcome::Passed] {
        observe(&backend, outcome, now);
    }
    assert_eq!(
        (
            backend.health().checks_passed(),
            backend.health().checks_failed(),
            backend.health().checks_not_made()
        ),
        (2, 1, 1)
    );
}

#[test]
fn a_limit_is_held_exactly() {
    let limited = BackendSpec { max_connections: Some(3), ..spec("10.0.0.1:1", 1) };
    let backend = Backend::new(&"p".into(), &limited, Instant::now(), &Arc::default());
    let taken: Vec<bool> = (0..4).map(|_| backend.hold()).collect();
    assert_eq!(taken, [true, true, true, false]);
    assert_eq!((backend.active(), backend.limit(), backend.is_full()), (3, Some(3), true));
    backend.release();
    assert!(!backend.is_full() && backend.hold() && !backend.hold());
}

#[test]
fn the_limit_in_force_is_the_lower_one() {
    let check = |own: Option<u64>, of_agent: Option<u32>, expected: Option<u64>| {
        let spec = BackendSpec { max_connections: own, ..spec("10.0.0.1:1", 1) };
        let backend = Backend::new(&"p".into(), &spec, Instant::now(), &Arc::default());
        if let Some(most) = of_agent {
            backend.allow(AgentDirective::MaxConnections(most));
        }
        assert_eq!(backend.limit_in_force(), expected, "{own:?} {of_agent:?}");
        backend.allow_all();
        assert_eq!((backend.limit_in_force(), backend.limit()), (own, own));
    };
    check(None, None, None);
    check(Some(5), None, Some(5));
    check(None, Some(30), Some(30));
    check(Some(5), Some(30), Some(5));
    check(Some(50), Some(30), Some(30));
}

#[test]
fn threads_at_once_hold_no_more_than_the_limit() {
    let limited = BackendSpec { max_connections: Some(5), ..spec("10.0.0.1:1", 1) };
    let backend = Backend::new(&"p".into(), &limited, Instant::now(), &Arc::default());
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..2000 {
                    if backend.hold() {
                        assert!((1..=5).contains(&backend.active()));
                        backend.release();
                    }
                }
            });
        }
    });
    assert_eq!(backend.active(), 0);
}

/// The server is the same, so a new limit applies to all of its leases, also to those of its old `Backend`.
#[test]
fn a_new_limit_holds_at_once() {
    let now = Instant::now();
    let limited = |limit| BackendSpec { max_connections: limit, ..spec("10.0.0.1:1", 1) };
    let old = Arc::new(Backend::new(&"p".into(), &limited(Some(1)), now, &Arc::default()));
    assert!(old.hold() && !old.hold());
    let new = Backend::new(&"p".into(), &limited(Some(2)), now, &Arc::default()).succeed(&old);
    assert!(old.hold() && !new.hold());
    let lower = Backend::new(&"p".into(), &limited(Some(1)), now, &Arc::default()).succeed(&new);
    old.release();
    assert!(lower.is_full() && !lower.hold(), "what was taken before may stay, nothing comes");
    let free = Backend::new(&"p".into(), &limited(None), now, &Arc::default()).succeed(&lower);
    assert!(free.hold() && free.limit().is_none());
}

#[test]
fn weight_0_is_never_available() {
    let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 0), Instant::now(), &Arc::default());
    assert_eq!((backend.state(), backend.is_available()), (BackendState::Up, false));
}

#[test]
fn a_new_backend_begins_in_its_operator_state() {
    for (operator_state, state) in [
        (OperatorState::Drain, BackendState::Draining),
        (OperatorState::Maintenance, BackendState::Maintenance),
    ] {
        let spec = BackendSpec { operator_state, ..spec("10.0.0.1:1", 1) };
        let backend = Backend::new(&"p".into(), &spec, Instant::now(), &Arc::default());
        assert_eq!((backend.state(), backend.is_available()), (state, false));
    }
}

#[test]
fn states_are_counted_as_they_are_entered() {
    let now = Instant::now();
    let backend = used(now);
    for _ in 0..2 {
        observe(&backend, CheckOutcome::Passed, now);
    }
    let on = |event| backend.on(event, HealthRules::default(), now);
    assert!(
        on(HealthEvent::Operator(OperatorState::Drain)).is_some()
            && on(HealthEvent::Operator(OperatorState::Drain)).is_none()
    );
    assert_eq!(BackendState::ALL.map(|state| backend.health().entered(state)), [1, 1, 1, 0, 0]);
}

/// Checks which of these events complete a row of three: `c`onnect failed, `C`onnected, early `r`eset, first byte
/// (`s`).
fn check_rows(happens: &str, expected: &str) {
    let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), Instant::now(), &Arc::default());
    backend.traffic().tolerate(3);
    let meet = |letter| match letter {
        'c' => backend.traffic().met(Trouble::Connect),
        'r' => backend.traffic().met(Trouble::EarlyReset),
        'C' => {
            backend.traffic().connected(Duration::ZERO);
            false
        }
        _ => {
            backend.traffic().went_well(Trouble::EarlyReset);
            false
        }
    };
    let full: String = happens.chars().map(|letter| if meet(letter) { '!' } else { '.' }).collect();
    assert_eq!(full, expected, "{happens}");
    let count = |letter| happens.chars().filter(|&other| other == letter).count() as u64;
    assert_eq!(backend.traffic().troubles(Trouble::Connect), count('c'));
    assert_eq!(backend.traffic().troubles(Trouble::EarlyReset), count('r'));
}

#[test]
fn a_row_is_broken_by_what_goes_well() {
    check_rows("ccc", "..!");
    check_rows("cccccc", "..!..!");
    check_rows("ccCccc", ".....!");
    check_rows("CrCrCr", ".....!");
    check_rows("CrCrCsCr", "........");
    check_rows("ccsc", "...!");
    check_rows("ccrrc", "....!");
}

#[test]
fn without_a_bound_every_row_is_borne() {
    let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), Instant::now(), &Arc::default());
    assert!(!(0..100).any(|_| backend.traffic().met(Trouble::Connect)));
    assert_eq!(backend.traffic().troubles(Trouble::Connect), 100);
}

#[test]
fn an_ejection_begins_and_ends_without_a_row() {
    let now = Instant::now();
    let backend = Backend::new(&"p".into(), &spec("10.0.0.1:1", 1), now, &Arc::default());
    backend.traffic().tolerate(2);
    let rules = HealthRules { health: None, ejection: Some(&EjectionSpec::default()) };
    assert!(!backend.traffic().met(Trouble::EarlyReset));
    assert!(backend.on(HealthEvent::Failures(Trouble::Connect), rules, now).is_some());
    assert!(!backend.traffic().met(Trouble::EarlyReset));
    assert!(backend.on(HealthEvent::Time, rules, now + Duration::from_secs(30)).is_some());
    assert!(!backend.traffic().met(Trouble::EarlyReset) && backend.traffic().met(Trouble::EarlyReset));
}
