//! States of backends: ejection by failures of clients, open connections of failed backends, and the operator
//! state.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pointsman::config::Config;
use pointsman::pool::{BackendState, Trouble};

use crate::life::{StoppableBackend, ask, backend, connect_any, connect_to, named};
use crate::support::pair::{closed, expect_reset, reset};
use crate::support::{Backend, Proxy, config, own_address, wait_for};

/// Returns a configuration: a listener `main` in front of a round-robin pool `p` with these backends and
/// keys.
fn pool(backends: &[String], keys: &str) -> Config {
    config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [pool.p]\nbalance = \"round-robin\"\nbackends = [{}]\n{keys}\n",
        backends.join(", ")
    ))
}

fn quoted(address: SocketAddr) -> String {
    format!("\"{address}\"")
}

/// Returns a pool whose backends are not checked but ejected, with these keys.
fn ejecting(backends: &[SocketAddr], ejection: &str) -> Config {
    let backends: Vec<_> = backends.iter().map(|address| quoted(*address)).collect();
    pool(&backends, &format!("health.check = \"off\"\nejection = {{ {ejection} }}"))
}

fn state(proxy: &Proxy, address: SocketAddr) -> BackendState {
    backend(proxy, "p", address).state()
}

fn wait_for_state(proxy: &Proxy, address: SocketAddr, expected: BackendState) {
    wait_for(&format!("{address} {expected}"), || state(proxy, address) == expected);
}

fn ejections(outcome: &str) -> String {
    format!(r#"pointsman_ejections_total{{pool="p",outcome="{outcome}"}}"#)
}

/// Starts a backend that sends this text, and resets each client that sends a byte.
fn resetting(says: &'static [u8]) -> Backend {
    Backend::serve(move |mut stream| {
        let _ = stream.write_all(says);
        let _ = stream.read(&mut [0]);
        reset(stream);
    })
}

// Ejection.

#[test]
fn a_backend_that_refuses_is_ejected_and_not_asked_again() {
    let (gone, b) = (own_address(), named(b'b'));
    let proxy = Proxy::start(ejecting(
        &[gone, b.address],
        "consecutive_failures = 3, base_time = \"1h\", max_time = \"1h\"",
    ));
    while backend(&proxy, "p", gone).traffic().troubles(Trouble::Connect) < 3 {
        assert_eq!(connect_any(proxy.address("main")).1, 'b', "no client notices");
    }
    wait_for_state(&proxy, gone, BackendState::Ejected);
    for _ in 0..20 {
        assert_eq!(connect_any(proxy.address("main")).1, 'b');
    }
    assert_eq!(backend(&proxy, "p", gone).traffic().troubles(Trouble::Connect), 3);
    assert_eq!(proxy.metric(&ejections("ejected")), 1.0);
    assert_eq!(proxy.metric(&ejections("last_one")), 0.0);
}

#[test]
fn an_ejected_backend_comes_back_in_time() {
    let mut a = StoppableBackend::new(b'a');
    let b = named(b'b');
    a.stop();
    let proxy =
        Proxy::start(ejecting(&[a.address, b.address], "consecutive_failures = 2, base_time = \"100ms\""));
    let met = backend(&proxy, "p", a.address);
    wait_for("a second ejection in a row", || {
        assert_eq!(connect_any(proxy.address("main")).1, 'b', "no client notices");
        met.health().entered(BackendState::Ejected) >= 2
    });
    a.start();
    wait_for_state(&proxy, a.address, BackendState::Up);
    connect_to(proxy.address("main"), 'a');
    let ejected = met.health().entered(BackendState::Ejected);
    for _ in 0..20 {
        connect_any(proxy.address("main"));
    }
    assert_eq!((met.state(), met.health().entered(BackendState::Ejected)), (BackendState::Up, ejected));
}

#[test]
fn a_backend_that_resets_at_once_is_ejected() {
    let (bad, b) = (resetting(b""), named(b'b'));
    let proxy = Proxy::start(ejecting(&[bad.address, b.address], "base_time = \"1h\", max_time = \"1h\""));
    connect_until_answered(&proxy, bad.address);
    let met = backend(&proxy, "p", bad.address);
    // One more client may have come before the fifth reset was counted.
    assert!(
        met.traffic().troubles(Trouble::EarlyReset) >= 5 && met.traffic().troubles(Trouble::Connect) == 0
    );
    for _ in 0..20 {
        assert_eq!(connect_any(proxy.address("main")).1, 'b');
    }
    assert_eq!(
        met.health().ejection().map(|ejection| (ejection.trouble, ejection.in_a_row)),
        Some((Trouble::EarlyReset, 1))
    );
}

/// Connects one client after the other until a backend is ejected.
fn connect_until_answered(proxy: &Proxy, bad: SocketAddr) {
    wait_for("the ejection", || {
        let before = backend(proxy, "p", bad).traffic().troubles(Trouble::EarlyReset);
        let mut client = proxy.connect();
        let answered = client.write_all(b"?").and_then(|()| client.read_exact(&mut [0])).is_ok();
        // The reset is counted a moment after the client gets it.
        wait_for("the count", || {
            answered || backend(proxy, "p", bad).traffic().troubles(Trouble::EarlyReset) > before
        });
        state(proxy, bad) == BackendState::Ejected
    });
}

#[test]
fn a_backend_that_speaks_before_it_resets_is_not() {
    let (bad, b) = (resetting(b"x"), named(b'b'));
    let proxy = Proxy::start(ejecting(&[bad.address, b.address], "consecutive_failures = 2"));
    for _ in 0..20 {
        let (client, name) = connect_any(proxy.address("main"));
        if name == 'x' {
            expect_reset(client);
        }
    }
    proxy.wait_for_metric(&closed("backend_reset"), 10.0);
    let met = backend(&proxy, "p", bad.address);
    assert_eq!((met.state(), met.traffic().troubles(Trouble::EarlyReset)), (BackendState::Up, 0));
}

#[test]
fn the_last_one_is_never_ejected() {
    let backends = [own_address(), own_address()];
    let proxy = Proxy::start(ejecting(
        &backends,
        "consecutive_failures = 1, base_time = \"1h\", max_time = \"1h\", max_ejected = 100",
    ));
    wait_for("an ejection withheld", || {
        let mut client = proxy.connect();
        client.read(&mut [0]).expect_err("both refuse");
        proxy.metric(&ejections("last_one")) > 0.0
    });
    let states = backends.map(|address| state(&proxy, address));
    assert!(states.contains(&BackendState::Up) && states.contains(&BackendState::Ejected), "{states:?}");
    let left = backends[states.iter().position(|state| *state == BackendState::Up).unwrap()];
    let _back = Backend::serve_on(&left.to_string(), |mut stream| {
        let _ = stream.write_all(b"back");
    });
    let mut answer = Vec::new();
    proxy.connect().read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"back");
}

#[test]
fn only_so_many_are_ejected_at_once() {
    let b = named(b'b');
    let backends = [own_address(), own_address(), b.address];
    let proxy =
        Proxy::start(ejecting(&backends, "consecutive_failures = 1, base_time = \"1h\", max_time = \"1h\""));
    wait_for("an ejection withheld", || {
        assert_eq!(connect_any(proxy.address("main")).1, 'b');
        proxy.metric(&ejections("max_ejected")) > 0.0
    });
    assert_eq!(proxy.metric(&ejections("ejected")), 1.0);
}

#[test]
fn checks_bring_back_what_could_not_be_connected() {
    let mut a = StoppableBackend::new(b'a');
    let b = named(b'b');
    let backends = [quoted(a.address), quoted(b.address)];
    let proxy = Proxy::start(pool(
        &backends,
        "health = { interval = \"20ms\", fall = 1000 }\n\
         ejection = { consecutive_failures = 2, base_time = \"1h\", max_time = \"1h\" }",
    ));
    let met = backend(&proxy, "p", a.address);
    wait_for("the first check", || met.health().checks_passed() > 0);
    a.stop();
    connect_until_ejected(&proxy, a.address);
    a.start();
    wait_for_state(&proxy, a.address, BackendState::Up);
    connect_to(proxy.address("main"), 'a');
}

#[test]
fn an_ejection_survives_a_reload_and_ends_when_it_is_switched_off() {
    let (gone, b) = (own_address(), named(b'b'));
    let with = |weight: u16, keys: &str| {
        let heavy = format!("{{ address = \"{gone}\", weight = {weight} }}");
        pool(&[heavy, quoted(b.address)], &format!("health.check = \"off\"\n{keys}"))
    };
    let ejection = "ejection = { consecutive_failures = 2, base_time = \"1h\", max_time = \"1h\" }";
    let proxy = Proxy::start(with(1, ejection));
    connect_until_ejected(&proxy, gone);
    proxy.remote.reload(with(2, ejection)).unwrap();
    let met = backend(&proxy, "p", gone);
    assert_eq!(
        (met.state(), met.weight(), met.health().entered(BackendState::Ejected)),
        (BackendState::Ejected, 2, 1)
    );
    proxy.remote.reload(with(2, "")).unwrap();
    assert_eq!(state(&proxy, gone), BackendState::Up);
}

fn connect_until_ejected(proxy: &Proxy, gone: SocketAddr) {
    wait_for("the ejection", || {
        connect_any(proxy.address("main"));
        state(proxy, gone) == BackendState::Ejected
    });
}

// Open connections of a backend that goes down.

/// Starts two backends that are checked often, and opens connections to the first, which can be stopped.
fn with_connections(keys: &str, count: usize) -> (Proxy, StoppableBackend, Backend, Vec<TcpStream>) {
    let (a, b) = (StoppableBackend::new(b'a'), named(b'b'));
    let checks = "health = { interval = \"20ms\", fall = 1, rise = 1 }";
    let config = pool(&[quoted(a.address), quoted(b.address)], &format!("{checks}\n{keys}"));
    let proxy = Proxy::start(config);
    let open = (0..count).map(|_| connect_to(proxy.address("main"), 'a')).collect();
    (proxy, a, b, open)
}

#[test]
fn what_is_open_is_closed_at_a_pace() {
    let (proxy, mut a, _b, open) = with_connections("on_down = \"close\"\nclose_rate = 20", 20);
    let mut elsewhere = connect_to(proxy.address("main"), 'b');
    let stopped = Instant::now();
    a.stop();
    open.into_iter().for_each(expect_reset);
    assert!(stopped.elapsed() >= Duration::from_millis(900), "{:?} for 20 at 20 a second", stopped.elapsed());
    proxy.wait_for_metric(&closed("backend_down"), 20.0);
    assert_eq!(ask(&mut elsewhere), 'b');
    wait_for("no connection", || backend(&proxy, "p", a.address).active() == 0);
}

#[test]
fn who_is_still_open_when_it_comes_back_stays() {
    let (proxy, mut a, _b, open) = with_connections("on_down = \"close\"\nclose_rate = 2", 20);
    a.stop();
    wait_for("the first to be closed", || proxy.metric(&closed("backend_down")) > 0.0);
    a.start();
    wait_for_state(&proxy, a.address, BackendState::Up);
    let before = proxy.metric(&closed("backend_down"));
    let began = Instant::now();
    let mut staying: Vec<_> =
        open.into_iter().filter_map(|mut open| still_there(&mut open).then_some(open)).collect();
    while began.elapsed() < Duration::from_millis(1100) {
        staying.iter_mut().for_each(|open| assert_eq!(ask(open), 'a'));
    }
    assert!(staying.len() > 10, "{} stay", staying.len());
    // One connection may have been closed while the backend came up.
    assert!(proxy.metric(&closed("backend_down")) <= before + 1.0);
}

fn still_there(open: &mut TcpStream) -> bool {
    open.write_all(b"?").and_then(|()| open.read_exact(&mut [0])).is_ok()
}

#[test]
fn what_is_open_is_kept_unless_the_pool_says_otherwise() {
    let (proxy, mut a, b, mut open) = with_connections("", 5);
    a.stop();
    wait_for_state(&proxy, a.address, BackendState::Down);
    // The default is to keep connections; the reload changes this.
    open.iter_mut().for_each(|open| assert_eq!(ask(open), 'a'));
    let checks = "health = { interval = \"20ms\", fall = 1, rise = 1 }\non_down = \"close\"";
    proxy.remote.reload(pool(&[quoted(a.address), quoted(b.address)], checks)).unwrap();
    open.into_iter().for_each(expect_reset);
    proxy.wait_for_metric(&closed("backend_down"), 5.0);
}

/// In panic mode clients are sent to this backend, so closed clients would come back to it again and again.
#[test]
fn nothing_is_closed_in_panic() {
    let keys = "on_down = \"close\"\nclose_rate = 1000\npanic_threshold = \"60%\"";
    let (proxy, mut a, b, mut open) = with_connections(keys, 5);
    a.stop();
    wait_for_state(&proxy, a.address, BackendState::Down);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1100) {
        open.iter_mut().for_each(|open| assert_eq!(ask(open), 'a'));
    }
    let keys = "health = { interval = \"20ms\", fall = 1, rise = 1 }\non_down = \"close\"";
    proxy.remote.reload(pool(&[quoted(a.address), quoted(b.address)], keys)).unwrap();
    open.into_iter().for_each(expect_reset);
}

// The operator state.

#[test]
fn what_the_operator_says_comes_with_a_reload() {
    let (a, b) = (named(b'a'), named(b'b'));
    let say = |word: &str| {
        let first = format!("{{ address = \"{}\", state = \"{word}\" }}", a.address);
        pool(&[first, quoted(b.address)], "health.interval = \"20ms\"")
    };
    let proxy = Proxy::start(say("ready"));
    let mut open = connect_to(proxy.address("main"), 'a');
    for (word, expected) in [("drain", BackendState::Draining), ("maintenance", BackendState::Maintenance)] {
        let changes = proxy.remote.reload(say(word)).unwrap();
        assert_eq!(changes.changed, ["pool p"]);
        assert_eq!(state(&proxy, a.address), expected);
        for _ in 0..10 {
            assert_eq!(connect_any(proxy.address("main")).1, 'b');
        }
        assert_eq!(ask(&mut open), 'a', "what is open stays");
    }
    proxy.remote.reload(say("ready")).unwrap();
    assert_eq!(state(&proxy, a.address), BackendState::Up);
    connect_to(proxy.address("main"), 'a');
    let met = backend(&proxy, "p", a.address);
    assert_eq!(
        [BackendState::Draining, BackendState::Maintenance, BackendState::Up]
            .map(|state| met.health().entered(state)),
        [1, 1, 1]
    );
}

#[test]
fn a_word_said_at_the_start_is_obeyed_at_once() {
    let (a, b) = (named(b'a'), named(b'b'));
    let first = format!("{{ address = \"{}\", state = \"drain\" }}", a.address);
    let proxy = Proxy::start(pool(&[first, quoted(b.address)], ""));
    for _ in 0..10 {
        assert_eq!(connect_any(proxy.address("main")).1, 'b');
    }
}

#[test]
fn a_drain_does_not_hide_that_a_backend_is_down() {
    let (mut a, b) = (StoppableBackend::new(b'a'), named(b'b'));
    let first = format!("{{ address = \"{}\", state = \"drain\" }}", a.address);
    let proxy = Proxy::start(pool(&[first, quoted(b.address)], "health = { interval = \"20ms\", fall = 1 }"));
    a.stop();
    wait_for_state(&proxy, a.address, BackendState::Down);
    a.start();
    wait_for_state(&proxy, a.address, BackendState::Draining);
}
