use std::io::{self, ErrorKind as Kind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::talking::{fault, first_words};
use super::*;
use crate::pool::{BackendSpec, ChangeReason, CheckKind, OperatorState, PoolSpec, StateChange};
use crate::pool::{CheckTarget, Endpoint};
use crate::telemetry::Counter;
use crate::wire::Script;

const REFUSED: CheckOutcome = CheckOutcome::Failed(CheckFault::Refused);

fn health(interval: Duration) -> HealthSpec {
    HealthSpec {
        interval,
        fast_interval: interval,
        down_interval: interval,
        timeout: Duration::from_secs(5),
        ..HealthSpec::default()
    }
}

fn many() -> Arc<CheckLimit> {
    CheckLimit::new(100, Counter::noop())
}

fn pool(addresses: &[SocketAddr], health: Option<HealthSpec>, previous: Option<&Pool>) -> Pool {
    let backends = addresses.iter().map(|&address| BackendSpec::new(address.to_string(), address.into()));
    let spec = PoolSpec { health, ..PoolSpec::new("p".into(), backends.collect()) };
    Pool::build(spec, previous, 0)
}

fn listen() -> (TcpListener, SocketAddr) {
    listen_on("127.0.0.1")
}

/// A test that closes its port needs a host of its own, because another test may open that port.
fn listen_on(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn unix(path: &str) -> CheckEndpoint {
    CheckEndpoint::new(Endpoint::Address(Address::Unix(std::path::Path::new(path).into())), None)
}

/// Applies reports until `name` changes its state.
async fn next_change(pool: &Pool, name: &str, reports: &mut mpsc::Receiver<CheckReport>) -> StateChange {
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
    let outcome = check(&address.into(), &health(Duration::from_secs(1)), [0; 64]).await.outcome;
    assert_eq!(outcome, CheckOutcome::Passed);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(io::copy(&mut stream, &mut io::sink()).unwrap(), 0);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (listener, address) = listen_on("127.77.0.1");
    drop(listener);
    assert_eq!(check(&address.into(), &health(Duration::from_secs(1)), [0; 64]).await.outcome, REFUSED);
}

#[tokio::test]
async fn a_missing_unix_socket_is_refused() {
    let address = unix("/nonexistent/pointsman.sock");
    assert_eq!(check(&address, &health(Duration::from_secs(1)), [0; 64]).await.outcome, REFUSED);
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
    assert_eq!(
        check(&address.into(), &spec, [0; 64]).await.outcome,
        CheckOutcome::Failed(CheckFault::Timeout)
    );
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
        (code(28), CheckFault::Local),
        (code(11), CheckFault::Local),
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
    checks.follow(&pool, &CheckNames::default(), &reports, &many(), 7);

    let first = received.recv().await.unwrap();
    assert_eq!((&*first.pool, first.found.outcome), ("p", CheckOutcome::Passed));
    assert_eq!(pool.apply(&first, std::time::Instant::now()), None);

    drop(listener);
    let change = next_change(&pool, &name, &mut received).await;
    assert_eq!((change.from, change.to), (BackendState::Up, BackendState::Down));
    // The check that is under way when the listener closes may get a reset; all later ones are refused.
    let reasons = [CheckFault::Refused, CheckFault::Closed].map(ChangeReason::ChecksFailed);
    assert!(reasons.contains(&change.reason), "{:?}", change.reason);
    let backend = pool.backend(&name).unwrap();
    assert!(!backend.is_available() && backend.health().checks_failed() > 0);

    let _listener = TcpListener::bind(address).unwrap();
    let change = next_change(&pool, &name, &mut received).await;
    assert_eq!(
        change,
        StateChange { from: BackendState::Down, to: BackendState::Up, reason: ChangeReason::ChecksPassed }
    );
    assert!(backend.is_available() && backend.health().checks_passed() >= 2);
    assert_eq!(pool.backends()[1].health().checks_failed(), 0);
}

#[tokio::test]
async fn a_backend_in_maintenance_is_not_asked() {
    let (_one, resting) = listen();
    let (_two, busy) = listen();
    let with = |operator_state, previous: Option<&Pool>| {
        let mut spec = pool(&[resting, busy], Some(health(Duration::from_millis(1))), None).spec().clone();
        spec.backends[0].operator_state = operator_state;
        let pool = Arc::new(Pool::build(spec, previous, 0));
        pool.settle(std::time::Instant::now());
        pool
    };
    let (reports, mut received) = mpsc::channel(1);
    let mut checks = Checks::new();
    let before = with(OperatorState::Maintenance, None);
    checks.follow(&before, &CheckNames::default(), &reports, &many(), 1);
    for _ in 0..20 {
        let report = received.recv().await.unwrap();
        assert_eq!(**report.backend.name(), *busy.to_string());
    }
    let after = with(OperatorState::Ready, Some(&before));
    checks.follow(&after, &CheckNames::default(), &reports, &many(), 2);
    while **received.recv().await.unwrap().backend.name() != *resting.to_string() {}
}

/// Drops every sender of reports, and returns once the tasks have ended.
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
    checks.follow(
        &pool(&[address], Some(health(Duration::from_millis(1))), None),
        &CheckNames::default(),
        &reports,
        &many(),
        1,
    );
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
    checks.follow(&old, &CheckNames::default(), &reports, &many(), 1);
    let task = |checks: &Checks, address: SocketAddr| checks.0.id(&address.to_string());
    let before = (task(&checks, a), task(&checks, b), task(&checks, c));
    assert!(before.0.is_some() && before.1.is_some() && before.2.is_none());

    let new = pool(&[b, c], hour, Some(&old));
    checks.follow(&new, &CheckNames::default(), &reports, &many(), 2);
    assert_eq!((task(&checks, a), task(&checks, b)), (None, before.1));
    let of_c = task(&checks, c);
    assert!(of_c.is_some());

    let newer = pool(&[b, c], Some(health(Duration::from_secs(7200))), Some(&new));
    checks.follow(&newer, &CheckNames::default(), &reports, &many(), 3);
    assert!(task(&checks, c).is_some() && task(&checks, c) != of_c);

    checks.follow(&pool(&[b, c], None, Some(&newer)), &CheckNames::default(), &reports, &many(), 4);
    assert!(checks.0.is_empty());
    ended(checks, reports, received).await;
}

#[tokio::test]
async fn a_backend_that_is_checked_elsewhere_gets_another_task() {
    let (_own, own) = listen();
    let (elsewhere, address) = listen();
    let spec = HealthSpec {
        target: CheckTarget { port: Some(address.port()), ..CheckTarget::default() },
        ..health(Duration::from_millis(1))
    };
    let (reports, mut received) = mpsc::channel(1);
    let mut checks = Checks::new();
    let old = pool(&[own], Some(spec), None);
    checks.follow(&old, &CheckNames::default(), &reports, &many(), 1);
    assert_eq!(received.recv().await.unwrap().found.outcome, CheckOutcome::Passed);
    elsewhere.accept().unwrap();

    let before = checks.0.id(&own.to_string());
    let mut spec = old.spec().clone();
    spec.backends[0].targets.health.port = Some(own.port());
    let new = Pool::build(spec, Some(&old), 0);
    checks.follow(&new, &CheckNames::default(), &reports, &many(), 2);
    assert_ne!(checks.0.id(&own.to_string()), before);
    ended(checks, reports, received).await;
}

#[tokio::test]
async fn checks_wait_for_a_place() {
    let (_listener, address) = listen();
    let (reports, mut received) = mpsc::channel(1);
    let limit = CheckLimit::new(1, Counter::noop());
    let place = limit.enter().await;
    let mut checks = Checks::new();
    checks.follow(
        &pool(&[address], Some(health(Duration::from_millis(1))), None),
        &CheckNames::default(),
        &reports,
        &limit,
        1,
    );
    let early = tokio::time::timeout(Duration::from_millis(50), received.recv()).await;
    assert!(early.is_err(), "{early:?}");
    drop(place);
    assert!(received.recv().await.is_some());
    ended(checks, reports, received).await;
}

/// The results of checks as letters, `p`assed, `f`ailed, `l`ocal; lower case while the backend is up, upper case
/// while it is down. The intervals after them are `n`ormal, `f`ast or `d`own.
fn check_intervals(results: &str, expected: &str) {
    let millis = Duration::from_millis;
    let spec = HealthSpec {
        interval: millis(3),
        fast_interval: millis(1),
        down_interval: millis(9),
        ..HealthSpec::default()
    };
    let mut row = ResultRun::default();
    let mut found = String::new();
    for letter in results.chars() {
        let outcome = match letter.to_ascii_lowercase() {
            'p' => CheckOutcome::Passed,
            'f' => CheckOutcome::Failed(CheckFault::Timeout),
            _ => CheckOutcome::Failed(CheckFault::Local),
        };
        let state = if letter.is_ascii_lowercase() { BackendState::Up } else { BackendState::Down };
        found.push(match row.interval(&spec, outcome, state).as_millis() {
            1 => 'f',
            3 => 'n',
            _ => 'd',
        });
    }
    assert_eq!(found, expected, "{results}");
}

#[test]
fn the_interval_follows_results_and_state() {
    check_intervals("ppp", "nnn");
    check_intervals("pffF", "nffd");
    check_intervals("pfff", "nffd");
    check_intervals("pfp", "nfn");
    check_intervals("FFF", "ddd");
    check_intervals("FPPp", "dfnn");
    check_intervals("FPFPP", "dfdfn");
    check_intervals("lLfl", "nnfn");
    // Down for another reason than checks.
    check_intervals("ppPPP", "nnnnn");
    check_intervals("PPP", "fnn");
}

/// Checks a server that reads `expected` bytes, sends `answer` and closes.
async fn check_talk(script: Script, expected: usize, answer: &'static [u8], outcome: CheckOutcome) {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = vec![0; expected];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(answer).unwrap();
        // Bytes that the client sends after the answer must not turn the server's close into a reset.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
        heard
    });
    let spec = HealthSpec {
        check: CheckKind::Dialogue(script.clone()),
        timeout: Duration::from_secs(20),
        ..HealthSpec::default()
    };
    assert_eq!(check(&address.into(), &spec, [0; 64]).await.outcome, outcome, "{script:?}");
    server.join().unwrap();
}

#[tokio::test]
async fn a_dialogue_decides() {
    let failed = CheckOutcome::Failed;
    check_talk(Script::Redis, 14, b"+PONG\r\n", CheckOutcome::Passed).await;
    check_talk(Script::Redis, 14, b"-LOADING\r\n", failed(CheckFault::Unexpected)).await;
    check_talk(Script::Redis, 14, b"+PO", failed(CheckFault::Closed)).await;
    check_talk(Script::Smtp, 0, b"220 hello\r\n", CheckOutcome::Passed).await;
    let tls = || Script::Tls { server_name: None };
    check_talk(tls(), 1, b"\x15\x03\x03\0\x02\x02\x28", failed(CheckFault::TlsAlert(40))).await;
    check_talk(tls(), 1, b"", failed(CheckFault::Closed)).await;
}

#[test]
fn the_first_words_are_text_and_cut() {
    let check = |heard: &[u8], expected: Option<&str>| {
        assert_eq!(first_words(heard).as_deref(), expected, "{}", heard.escape_ascii());
    };
    check(b"HTTP/1.0 503 Service Unavailable\r\nServer: x\r\n", Some("HTTP/1.0 503 Service Unavailable"));
    check(b"-LOADING \"a\"\n", Some("-LOADING \"a\""));
    check(b"\x15\x03\xff\x1b[31m", Some("\x15\x03\u{ff}\x1b[31m"));
    check("é \\".as_bytes(), Some("é \\"));
    check(&[&[b'x'; 95][..], "é".as_bytes()].concat(), Some(&"x".repeat(95)));
    check(&[&[b'x'; 95][..], b"\xc3"].concat(), Some(&format!("{}\u{c3}", "x".repeat(95))));
    check(&[b'x'; 1000], Some(&"x".repeat(96)));
    check(b"\r\n 421 busy", Some("421 busy"));
    check(b"", None);
    check(b"\r\n", None);
}

#[tokio::test]
async fn what_was_heard_is_told_of_failures() {
    async fn heard(answer: &'static [u8]) -> Option<String> {
        let (listener, address) = listen();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let spec = HealthSpec {
            check: CheckKind::Dialogue(Script::Smtp),
            timeout: Duration::from_millis(300),
            ..HealthSpec::default()
        };
        let found = check(&address.into(), &spec, [0; 64]).await;
        server.join().unwrap();
        found.heard.map(|words| words.to_string())
    }
    assert_eq!(heard(b"421 too busy\r\n").await.as_deref(), Some("421 too busy"));
    // The line has no end, so the greeting is not complete.
    assert_eq!(heard(b"220 hel").await.as_deref(), Some("220 hel"));
    assert_eq!(heard(b"220 hello\r\n").await, None);
}

#[tokio::test]
async fn silence_behind_an_answer_is_told_apart() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"N").unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let spec = HealthSpec {
        check: CheckKind::Dialogue(Script::Postgres { user: None }),
        ..health(Duration::from_secs(5))
    };
    let found = check(&address.into(), &spec, [0; 64]).await;
    assert_eq!((found.outcome, found.listened), (CheckOutcome::Passed, Duration::from_millis(100)));
    server.join().unwrap();
}

#[tokio::test]
async fn a_reset_is_an_early_close() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        crate::sys::socket::reset_on_close(&stream).unwrap();
    });
    let spec = HealthSpec { check: CheckKind::Dialogue(Script::Ssh), ..health(Duration::from_secs(5)) };
    let outcome = check(&address.into(), &spec, [0; 64]).await.outcome;
    assert_eq!(outcome, CheckOutcome::Failed(CheckFault::Closed));
    server.join().unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_times_out() {
    let (_listener, address) = listen();
    let spec = HealthSpec {
        check: CheckKind::Dialogue(Script::Smtp),
        timeout: Duration::from_millis(30),
        ..HealthSpec::default()
    };
    let outcome = check(&address.into(), &spec, [0; 64]).await.outcome;
    assert_eq!(outcome, CheckOutcome::Failed(CheckFault::Timeout));
}

#[tokio::test]
async fn a_unix_socket_is_talked_to() {
    let path = std::env::temp_dir().join(format!("pointsman-check-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-x\r\n").unwrap();
    });
    let spec = HealthSpec { check: CheckKind::Dialogue(Script::Ssh), ..health(Duration::from_secs(5)) };
    let address = unix(path.to_str().unwrap());
    let outcome = check(&address, &spec, [0; 64]).await.outcome;
    std::fs::remove_file(path).unwrap();
    assert_eq!(outcome, CheckOutcome::Passed);
    server.join().unwrap();
}
