use std::io::ErrorKind as Kind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::balance::Algorithm;
use crate::pool::{BackendSpec, Change, DialSpec, HashOn, PoolSpec, Reason, SourcePrefix, State};

const REFUSED: CheckOutcome = CheckOutcome::Failed(CheckFault::Refused);

fn health(interval: Duration) -> HealthSpec {
    HealthSpec { check: CheckKind::Tcp, interval, timeout: Duration::from_secs(5), rise: 2, fall: 3 }
}

fn pool(addresses: &[SocketAddr], health: Option<HealthSpec>, previous: Option<&Pool>) -> Pool {
    let backends = addresses.iter().map(|&address| BackendSpec {
        name: address.to_string().into(),
        address: address.into(),
        weight: 1,
    });
    let spec = PoolSpec {
        name: "p".into(),
        algorithm: Algorithm::RoundRobin,
        hash_on: HashOn::SourceIp,
        source_prefix: SourcePrefix::default(),
        hash_key: [0; 16],
        backends: backends.collect(),
        discover: None,
        health,
        dial: DialSpec::default(),
    };
    Pool::build(spec, previous, 0)
}

fn listen() -> (TcpListener, SocketAddr) {
    listen_on("127.0.0.1")
}

/// A test that closes its port needs a host of its own, or another test may open that port.
fn listen_on(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Applies reports until `name` changes its state.
async fn next_change(pool: &Pool, name: &str, reports: &mut mpsc::Receiver<CheckReport>) -> Change {
    loop {
        let report = reports.recv().await.expect("the checks run");
        let now = std::time::Instant::now();
        if let Some(change) = pool.apply(&report, now)
            && **report.backend.name() == *name
        {
            return change;
        }
    }
}

#[tokio::test]
async fn a_listener_passes_and_hears_nothing() {
    let (listener, address) = listen();
    let outcome = check(&address.into(), &health(Duration::from_secs(1))).await;
    assert_eq!(outcome, CheckOutcome::Passed);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(io::copy(&mut stream, &mut io::sink()).unwrap(), 0);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (listener, address) = listen_on("127.77.0.1");
    drop(listener);
    assert_eq!(check(&address.into(), &health(Duration::from_secs(1))).await, REFUSED);
}

#[tokio::test]
async fn a_missing_unix_socket_is_refused() {
    let address = "unix:/nonexistent/pointsman.sock".parse().unwrap();
    assert_eq!(check(&address, &health(Duration::from_secs(1))).await, REFUSED);
}

#[tokio::test]
async fn a_full_accept_queue_times_out() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // A queue of "0" holds one; from then on the kernel drops what arrives.
    let _first = TcpStream::connect(address).unwrap();
    let spec = HealthSpec { timeout: Duration::from_millis(50), ..health(Duration::from_secs(1)) };
    assert_eq!(check(&address.into(), &spec).await, CheckOutcome::Failed(CheckFault::Timeout));
}

#[test]
fn whose_fault_an_error_is() {
    let code = io::Error::from_raw_os_error;
    for (error, expected) in [
        (code(111), CheckFault::Refused),
        (code(2), CheckFault::Refused),
        (code(113), CheckFault::Unreachable),
        (code(101), CheckFault::Unreachable),
        (code(100), CheckFault::Unreachable),
        (code(110), CheckFault::Timeout),
        (code(23), CheckFault::Local),
        (code(24), CheckFault::Local),
        (code(105), CheckFault::Local),
        (code(12), CheckFault::Local),
        (code(99), CheckFault::Local),
        (code(1), CheckFault::Other),
        (code(13), CheckFault::Other),
        (code(104), CheckFault::Other),
        (Kind::ConnectionRefused.into(), CheckFault::Refused),
        (Kind::Other.into(), CheckFault::Other),
    ] {
        assert_eq!(fault(&error), expected, "{error}");
    }
}

#[tokio::test]
async fn a_stopped_backend_goes_down_and_comes_back() {
    let (listener, address) = listen_on("127.77.0.2");
    let (_other, other_address) = listen();
    let name = address.to_string();
    let pool = pool(&[address, other_address], Some(health(Duration::from_millis(5))), None);
    let (reports, mut received) = mpsc::channel(8);
    let mut checks = Checks::new();
    checks.follow(&pool, &reports, 7);

    let first = received.recv().await.unwrap();
    assert_eq!((&*first.pool, first.outcome), ("p", CheckOutcome::Passed));
    assert_eq!(pool.apply(&first, std::time::Instant::now()), None);

    drop(listener);
    let change = next_change(&pool, &name, &mut received).await;
    let reason = Reason::ChecksFailed(CheckFault::Refused);
    assert_eq!(change, Change { from: State::Up, to: State::Down, reason });
    let backend = pool.backend(&name).unwrap();
    assert!(!backend.is_available() && backend.checks_failed() > 0);

    let _listener = TcpListener::bind(address).unwrap();
    let change = next_change(&pool, &name, &mut received).await;
    assert_eq!(change, Change { from: State::Down, to: State::Up, reason: Reason::ChecksPassed });
    assert!(backend.is_available() && backend.checks_passed() >= 2);
    assert_eq!(pool.backends()[1].checks_failed(), 0);
}

/// Lets go of everything that sends, and returns once the tasks are gone.
async fn ended(
    checks: Checks,
    reports: mpsc::Sender<CheckReport>,
    mut received: mpsc::Receiver<CheckReport>,
) {
    drop((checks, reports));
    while received.recv().await.is_some() {}
}

#[tokio::test]
async fn checks_end_when_dropped() {
    let (_listener, address) = listen();
    let (reports, mut received) = mpsc::channel(1);
    let mut checks = Checks::new();
    checks.follow(&pool(&[address], Some(health(Duration::from_millis(1))), None), &reports, 1);
    assert!(received.recv().await.is_some());
    ended(checks, reports, received).await;
}

#[tokio::test]
async fn a_reload_touches_only_what_changed() {
    let listeners: Vec<_> = (0..3).map(|_| listen()).collect();
    let [a, b, c] = [listeners[0].1, listeners[1].1, listeners[2].1];
    let hour = Some(health(Duration::from_secs(3600)));
    let (reports, received) = mpsc::channel(1);
    let mut checks = Checks::new();

    let old = pool(&[a, b], hour.clone(), None);
    checks.follow(&old, &reports, 1);
    let task = |checks: &Checks, address: SocketAddr| {
        checks.watches.get(&*address.to_string()).map(|watch| watch.task.id())
    };
    let before = (task(&checks, a), task(&checks, b), task(&checks, c));
    assert!(before.0.is_some() && before.1.is_some() && before.2.is_none());

    let new = pool(&[b, c], hour, Some(&old));
    checks.follow(&new, &reports, 2);
    assert_eq!((task(&checks, a), task(&checks, b)), (None, before.1));
    let of_c = task(&checks, c);
    assert!(of_c.is_some());

    let newer = pool(&[b, c], Some(health(Duration::from_secs(7200))), Some(&new));
    checks.follow(&newer, &reports, 3);
    assert!(task(&checks, c).is_some() && task(&checks, c) != of_c);

    checks.follow(&pool(&[b, c], None, Some(&newer)), &reports, 4);
    assert!(checks.watches.is_empty());
    ended(checks, reports, received).await;
}

#[test]
fn the_schedule_spreads() {
    let interval = Duration::from_secs(2);
    let mut schedule = Schedule::new(interval, Luck::new(5));
    let (mut early, mut late, mut short, mut long) = (0, 0, 0, 0);
    for _ in 0..1000 {
        let first = schedule.first();
        assert!(first < interval);
        early += u32::from(first < interval / 10);
        late += u32::from(first > interval / 10 * 9);
        let period = schedule.period();
        assert!(period >= interval / 10 * 9 && period <= interval / 10 * 11, "{period:?}");
        short += u32::from(period < interval);
        long += u32::from(period > interval);
    }
    assert!(early > 50 && late > 50 && short > 400 && long > 400, "{early} {late} {short} {long}");
}

#[test]
fn the_schedule_follows_from_its_luck() {
    let first = |luck| Schedule::new(Duration::from_secs(2), Luck::new(luck)).first();
    assert_eq!(first(3), first(3));
    assert_ne!(first(3), first(4));
}

#[test]
fn no_interval_panics_or_spins() {
    for interval in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let period = Schedule::new(interval, Luck::new(1)).period();
        assert!(period >= SHORTEST / 10 * 9 && period <= LONGEST * 2, "{period:?}");
        assert!(Instant::now().checked_add(period).is_some());
    }
}
