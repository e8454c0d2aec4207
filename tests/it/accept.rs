//! The accept of connections: limits of the process and of listeners, and lacking descriptors.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use pointsman::relay::EngineChoice;

use crate::child::Child;
use crate::support::pair::{closed, expect_bytes, expect_end, expect_reset, with_each_engine};
use crate::support::{Backend, PATIENCE, Proxy, pattern, tcp, wait_for};

const PAUSES: &str = r#"pointsman_accept_pauses_total{listener="main"}"#;
const ACTIVE: &str = r#"pointsman_connections_active{listener="main"}"#;

fn check_echo(mut client: &TcpStream) {
    client.write_all(b"ping").unwrap();
    expect_bytes(client, b"ping");
}

#[test]
fn four_hundred_at_once_are_all_served() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[backend.address], engine);
        let clients: Vec<_> = (0..400).map(|_| proxy.connect()).collect();
        for mut client in &clients {
            client.write_all(b"ping").unwrap();
        }
        for client in &clients {
            expect_bytes(client, b"ping");
            client.shutdown(Shutdown::Write).unwrap();
        }
        clients.iter().for_each(expect_end);
        proxy.wait_for_metric(&closed("client_fin"), 400.0);
    });
}

/// Checks that two clients are served and the third is reset, and that a client is served again after one has
/// left.
fn check_limit(proxy: &Proxy, reason: &str) {
    let first = proxy.connect();
    let second = proxy.connect();
    check_echo(&first);
    check_echo(&second);
    for surplus in 1..=5 {
        // The reset may come before the client's connect returns. The connect then fails with it.
        match TcpStream::connect(proxy.address("main")) {
            Ok(client) => {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                expect_reset(&client);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        proxy.wait_for_metric(&closed(reason), f64::from(surplus));
    }
    check_echo(&first);
    drop(second);
    proxy.wait_for_metric(ACTIVE, 1.0);
    // The slot is returned a moment after the connection counts as closed.
    wait_for("a place", || proxy.remote.view().bounds.connections.inside() == 1);
    check_echo(&proxy.connect());
}

#[test]
fn surplus_of_a_listener_is_reset() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let mut config = tcp(&[backend.address], engine);
        config.listeners[0].policy.max_connections = Some(2);
        check_limit(&Proxy::start(config), "listener_full");
    });
}

#[test]
fn surplus_of_the_process_is_reset() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let mut config = tcp(&[backend.address], engine);
        config.max_connections = Some(2);
        check_limit(&Proxy::start(config), "process_full");
    });
}

/// While no descriptor is left for the next client, open connections are served and no thread spins. Streams
/// are copied instead of spliced. When descriptors are free again, new clients are served.
#[test]
fn a_listener_survives_without_descriptors() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        // Four connections need two descriptors each.
        let child = Child::start(backend.address, engine, Some(8));
        let mut open: Vec<_> = (0..4).map(|_| child.connect()).collect();
        open.iter().for_each(check_echo);
        assert!(child.is_ready());
        // The kernel accepts these connections; the server has no descriptor for them.
        let waiting: Vec<_> = (0..3).map(|_| child.connect()).collect();
        for mut client in &waiting {
            client.write_all(b"ping").unwrap();
        }
        wait_for("a pause", || child.metric(PAUSES) >= 1.0);
        assert!(!child.is_ready());
        let (began, ticks, pauses) = (Instant::now(), child.cpu_ticks(), child.metric(PAUSES));
        // No metrics are scraped meanwhile, because the server needs time to write them.
        let mut unserved = &waiting[0];
        unserved.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert_eq!(unserved.read(&mut [0]).expect_err("nobody serves it").kind(), ErrorKind::WouldBlock);
        let (used, passed) = (child.cpu_ticks() - ticks, began.elapsed());
        unserved.set_read_timeout(Some(PATIENCE)).unwrap();
        // A second has 100 ticks, so this is half of the processor time.
        assert!(u128::from(used) * 10 < passed.as_millis() / 2, "{used} ticks in {passed:?}");
        wait_for("five more pauses", || child.metric(PAUSES) >= pauses + 5.0);
        let passed = began.elapsed();
        assert!(passed > Duration::from_millis(400), "five pauses in {passed:?}");

        let sent = pattern(1 << 20, 11);
        std::thread::scope(|scope| {
            let mut writer = &open[0];
            let bytes = &sent;
            scope.spawn(move || writer.write_all(bytes).unwrap());
            expect_bytes(&open[0], &sent);
        });
        if engine != EngineChoice::Copy {
            // The relay either found a pipe that had been opened before, or was copied and counted.
            let copied = child.metric(r#"pointsman_pipe_fallbacks_total{reason="limit"}"#);
            assert!(copied > 0.0 || child.metric("pointsman_pipes_open") > 0.0);
        }

        drop(open.split_off(1));
        for client in &waiting {
            expect_bytes(client, b"ping");
        }
        check_echo(&open[0]);
        let pauses = child.metric(PAUSES);
        let _surplus = child.connect();
        wait_for("another pause", || child.metric(PAUSES) > pauses);
        assert_eq!(child.logged("new connections wait"), 1.0, "said once");
        assert_eq!(child.logged("accepted again"), 0.0, "it may go on at any moment");
    });
}

/// With one descriptor left, a client is accepted and its backend cannot be dialled. The backend does not
/// count as failed.
#[test]
fn a_lack_of_descriptors_is_not_the_backends_fault() {
    let backend = Backend::echo();
    let child = Child::start(backend.address, EngineChoice::Auto, Some(1));
    expect_reset(&child.connect());
    child.wait_for_metric(&closed("out_of_resources"), 1.0);
    let rejected = r#"pointsman_connections_rejected_total{listener="main",reason="out_of_resources"}"#;
    assert_eq!(child.metric(rejected), 1.0);
    let attempts = r#"pointsman_connect_attempts_total{pool="main",outcome="local"}"#;
    assert!(child.metric(attempts) >= 1.0);
    assert_eq!(child.metric(&closed("connect_failed")), 0.0);
}
