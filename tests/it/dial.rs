//! Backends that refuse, hang or come and go while a client waits.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::time::{Duration, Instant};

use pointsman::pool::DialSource;
use pointsman::relay::EngineChoice;
use pointsman::server::Server;

use crate::child::Child;
use crate::support::pair::{
    FullListener, closed, connect_from, expect_bytes, expect_end, expect_reset, reset, with_all_engines,
    with_each_engine,
};
use crate::support::{Backend, Proxy, config, own_address, tcp, wait_for};

fn source(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 77, high, low + 1))
}

fn attempts(outcome: &str) -> String {
    format!(r#"pointsman_connect_attempts_total{{pool="main",outcome="{outcome}"}}"#)
}

#[test]
fn a_fixed_source_is_what_the_backend_sees() {
    let backend = Backend::serve(|mut stream| {
        let _ = write!(stream, "{}", stream.peer_addr().unwrap().ip());
    });
    with_each_engine(|engine| {
        let mut config = tcp(&[backend.address], engine);
        config.pools[0].dial.source = DialSource::Address(source(7));
        let proxy = Proxy::start(config.clone());
        let mut seen = String::new();
        proxy.connect().read_to_string(&mut seen).unwrap();
        assert_eq!(seen, source(7).to_string());
        // No host here has this address: the start fails, and a reload changes nothing.
        config.pools[0].dial.source = DialSource::Address(Ipv4Addr::new(192, 0, 2, 1).into());
        let told = proxy.remote.reload(config.clone()).unwrap_err().to_string();
        assert!(told.contains("write an address of this machine"), "{told}");
        assert!(Server::start(config).is_err());
        proxy.connect().read_to_string(&mut seen).unwrap();
    });
}

#[test]
fn a_backend_that_never_answers_ends_the_client_in_time() {
    with_all_engines(|engine| {
        let hole = FullListener::new();
        let mut config = tcp(&[hole.address], engine);
        config.pools[0].dial.connect_timeout = Duration::from_millis(300);
        let proxy = Proxy::start(config);
        let began = Instant::now();
        expect_reset(&proxy.connect());
        assert!(began.elapsed() >= Duration::from_millis(300));
        proxy.wait_for_metric(&closed("connect_timeout"), 1.0);
        assert_eq!(proxy.metric(&attempts("timeout")), 1.0);
    });
}

#[test]
fn one_deadline_is_over_all_attempts() {
    let holes: Vec<_> = (0..3).map(|_| FullListener::new()).collect();
    let addresses: Vec<_> = holes.iter().map(|hole| hole.address).collect();
    let mut config = tcp(&addresses, EngineChoice::Auto);
    config.pools[0].dial.connect_timeout = Duration::from_millis(400);
    config.pools[0].dial.dial_timeout = Duration::from_millis(600);
    let proxy = Proxy::start(config);
    expect_reset(&proxy.connect());
    proxy.wait_for_metric(&closed("connect_timeout"), 1.0);
    assert_eq!(proxy.metric(&attempts("timeout")), 2.0, "no time was left for the third");
}

#[test]
fn a_backend_that_never_answers_is_passed_over() {
    with_all_engines(|engine| {
        let hole = FullListener::new();
        let backend = Backend::echo();
        let mut config = tcp(&[hole.address, backend.address], engine);
        config.pools[0].dial.connect_timeout = Duration::from_millis(200);
        let proxy = Proxy::start(config);
        let clients: Vec<_> = (0..16).map(|n| connect_from(source(n), proxy.address("main"))).collect();
        for mut client in clients {
            client.write_all(b"x").unwrap();
            expect_bytes(&client, b"x");
        }
        assert!(proxy.metric(&attempts("timeout")) > 0.0, "nobody was sent there");
    });
}

#[test]
fn a_backend_that_refuses_is_passed_over() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[own_address(), backend.address], engine);
        for n in 0..200 {
            let mut client = connect_from(source(n), proxy.address("main"));
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            expect_bytes(&client, b"x");
            expect_end(&client);
        }
        assert!(proxy.metric(&attempts("refused")) > 50.0, "nobody was sent there");
        assert_eq!(proxy.metric(&attempts("ok")), 200.0);
    });
}

#[test]
fn a_client_is_reset_when_the_only_backend_refuses() {
    with_each_engine(|engine| {
        let proxy = Proxy::tcp(&[own_address()], engine);
        for round in 1..=10 {
            expect_reset(&proxy.connect());
            proxy.wait_for_metric(&closed("connect_refused"), f64::from(round));
        }
    });
}

/// A backend goes away and comes back at the same address.
#[test]
fn a_backend_that_returns_is_used_again() {
    let address = own_address();
    let proxy = Proxy::tcp(&[address], EngineChoice::Auto);
    expect_reset(&proxy.connect());
    let _backend = Backend::serve_on(&address.to_string(), |mut stream| {
        let _ = stream.write_all(b"back");
    });
    let mut answer = Vec::new();
    proxy.connect().read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"back");
}

#[test]
fn clients_that_leave_while_a_backend_hangs_give_everything_back() {
    let hole = FullListener::new();
    let child = Child::start(hole.address, EngineChoice::Auto, None);
    let (before, gone) = (child.descriptors(), child.metric(&closed("client_gone")));
    let clients: Vec<_> = (0..30).map(|_| child.connect()).collect();
    wait_for("thirty sockets towards the backend", || child.descriptors() >= before + 60);
    clients.into_iter().for_each(reset);
    // The connect timeout is 5 s; the close comes at once.
    child.wait_for_metric(&closed("client_gone"), gone + 30.0);
    wait_for("the descriptors", || child.descriptors() == before);
}

/// The start compares the backends with the addresses of this host, and refuses a cycle that `check` cannot
/// find.
#[test]
fn a_backend_that_is_its_own_listener_stops_the_start_and_a_reload() {
    let own = own_address();
    let good = config(&format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '{own}'\npool = 'main'\n\
         [pool.main]\nbackends = ['192.0.2.1:1']\nhealth.check = 'off'\n"
    ));
    let mut bad = good.clone();
    bad.pools[0].backends[0].address = own.into();
    let told = Server::start(bad.clone()).map(drop).unwrap_err().to_string();
    let way = format!("listener `main` -> pool `main` -> {own} -> listener `main`");
    assert!(told.contains(&way), "{told}");
    let proxy = Proxy::start(good);
    let told = proxy.remote.reload(bad).unwrap_err().to_string();
    assert!(told.contains(&way), "{told}");
}
