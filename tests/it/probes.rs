//! What asks about backends: each kind of check against servers that work and servers that do not, where
//! checks go, and how many at once.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pointsman::config::Config;
use pointsman::pool::{self, State};

use crate::support::{Backend, Proxy, config, own_address, wait_for};

/// A `tcp` listener named `main` in front of these backends, with these keys of its pool.
fn checked(backends: &str, keys: &str) -> Config {
    config(&format!(
        r#"
        workers = 1
        access_log.to = "off"
        shutdown.drain = "10s"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "main"
        [pool.main]
        backends = [{backends}]
        balance = "round-robin"
        {keys}
        "#
    ))
}

fn backend(proxy: &Proxy, at: usize) -> Arc<pool::Backend> {
    Arc::clone(&proxy.remote.view().snapshot.load().pools["main"].pool.backends()[at])
}

fn wait_for_state(proxy: &Proxy, at: usize, state: State) {
    wait_for(&format!("{state:?}"), || backend(proxy, at).state() == state);
}

/// A server that answers what a check says by one thing while it is well, and by another while it is not.
struct Moody {
    backend: Backend,
    is_well: Arc<AtomicBool>,
}

impl Moody {
    /// It waits for bytes that contain `wants` before it answers.
    fn serve(wants: &'static [u8], well: &'static [u8], unwell: &'static [u8]) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let well_now = Arc::clone(&is_well);
        let backend = Backend::serve(move |mut stream| {
            if !hears(&mut stream, wants) {
                return;
            }
            let answer = if well_now.load(Ordering::SeqCst) { well } else { unwell };
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        Self { backend, is_well }
    }

    fn address(&self) -> SocketAddr {
        self.backend.address
    }

    fn is_well(&self, well: bool) {
        self.is_well.store(well, Ordering::SeqCst);
    }
}

/// Reads until these bytes came; false if the end came first.
fn hears(stream: &mut TcpStream, wants: &[u8]) -> bool {
    let mut heard = Vec::new();
    let mut chunk = [0; 1024];
    while !wants.is_empty() && !heard.windows(wants.len()).any(|window| window == wants) {
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => heard.extend_from_slice(&chunk[..count]),
            _ => return false,
        }
    }
    true
}

/// Takes a backend down and brings it up again by what it says to this check.
fn check(words: &str, server: &Moody, fault: &str) {
    let intervals = "interval = '200ms', fast_interval = '20ms', down_interval = '20ms'";
    let keys = format!("health = {{ {intervals}, rise = 2, fall = 2, {words} }}");
    let proxy = Proxy::start(checked(&format!("'{}'", server.address()), &keys));
    wait_for(&format!("a check by {words}"), || backend(&proxy, 0).checks_passed() > 1);
    assert_eq!((backend(&proxy, 0).state(), backend(&proxy, 0).checks_failed()), (State::Up, 0), "{words}");
    server.is_well(false);
    wait_for_state(&proxy, 0, State::Down);
    let series = format!(r#"pointsman_check_failures_total{{pool="main",fault="{fault}"}}"#);
    assert!(proxy.metric(&series) >= 2.0, "{words}: {series}");
    server.is_well(true);
    wait_for_state(&proxy, 0, State::Up);
}

#[test]
fn each_kind_of_check_takes_down_and_brings_up() {
    type Case = (&'static str, &'static [u8], &'static [u8], &'static [u8], &'static str);
    // What is in the file, what the server waits for, what it says while it is well and while not, the fault.
    let cases: [Case; 11] = [
        (
            "check = 'tls', server_name = 'a.example.com'",
            b"a.example.com",
            b"\x16\x03\x03\0\x50\x02\0\0\x4c",
            b"\x15\x03\x03\0\x02\x02\x70",
            "tls_alert",
        ),
        (
            "check = 'http', path = '/up', host = 'x:1'",
            b"GET /up HTTP/1.1\r\nHost: x:1\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 503 No\r\n\r\n",
            "unexpected",
        ),
        ("check = 'postgres'", b"\x04\xd2\x16\x2f", b"N", b"", "closed"),
        (
            "check = 'postgres', user = 'mon'",
            b"user\0mon\0",
            b"R\0\0\0\x08\0\0\0\0",
            b"E\0\0\0\x0cC57P03\0\0",
            "unexpected",
        ),
        ("check = 'mysql'", b"", b"\x07\0\0\0\x0a8.0.1\0", b"\x05\0\0\0\xff\x69\x04no", "unexpected"),
        ("check = 'redis'", b"PING", b"+PONG\r\n", b"-LOADING wait\r\n", "unexpected"),
        ("check = 'smtp'", b"", b"220 hello\r\n", b"421 no\r\n", "unexpected"),
        ("check = 'mqtt'", b"MQTT", b"\x20\x02\0\0", b"\x20\x02\0\x03", "unexpected"),
        ("check = 'ssh'", b"", b"SSH-2.0-x\r\n", b"Exceeded MaxStartups\r\n", "closed"),
        (
            "check = 'send-expect', steps = [{ send = \"are you well?\" }, { expect_hex = '79 65 73' }]",
            b"well?",
            b"oh yes",
            b"no",
            "closed",
        ),
        ("check = 'send-expect', steps = [{ expect = 'hello' }]", b"", b"I say hello", b"", "closed"),
    ];
    thread::scope(|scope| {
        for (words, wants, well, unwell, fault) in cases {
            scope.spawn(move || check(words, &Moody::serve(wants, well, unwell), fault));
        }
    });
}

#[test]
fn a_mysql_user_logs_in_and_out() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let server = Backend::serve(move |mut stream| {
        let _ = stream.write_all(b"\x07\0\0\0\x0a8.0.1\0");
        let mut bytes = vec![0; 36 + b"mon\0\0mysql_native_password\0".len()];
        if stream.read_exact(&mut bytes).is_ok() {
            let _ = stream.write_all(b"\x07\0\0\x02\0\0\0\x02\0\0\0");
            let _ = stream.read_to_end(&mut bytes);
            *heard.lock().unwrap() = bytes;
        }
    });
    let keys = "health = { check = 'mysql', user = 'mon', interval = '200ms' }";
    let proxy = Proxy::start(checked(&format!("'{}'", server.address), keys));
    wait_for("a login", || backend(&proxy, 0).checks_passed() > 0 && !said.lock().unwrap().is_empty());
    let said = said.lock().unwrap().clone();
    assert!(said[36..].starts_with(b"mon\0\0mysql_native_password\0\x01\0\0\0\x01"), "{said:?}");
}

#[test]
fn checks_go_where_they_are_told() {
    // Nobody listens where the backends themselves are.
    let (first, second) = (own_address(), own_address());
    let (of_pool, of_one) =
        (Moody::serve(b"", b"220\r\n", b"421\r\n"), Moody::serve(b"", b"220\r\n", b"421\r\n"));
    let backends =
        format!("'{first}', {{ address = '{second}', health = {{ port = {} }} }}", of_one.address().port());
    let keys =
        format!("health = {{ check = 'smtp', interval = '100ms', address = '{}' }}", of_pool.address());
    let proxy = Proxy::start(checked(&backends, &keys));
    wait_for("checks", || (0..2).all(|at| backend(&proxy, at).checks_passed() > 1));
    of_one.is_well(false);
    wait_for_state(&proxy, 1, State::Down);
    assert_eq!((backend(&proxy, 0).state(), backend(&proxy, 0).checks_failed()), (State::Up, 0));
    of_pool.is_well(false);
    wait_for_state(&proxy, 0, State::Down);
}

/// Backends that hang take every place there is; the others are checked all the same, only later.
#[test]
fn no_more_checks_are_under_way_than_may_be() {
    const MOST: usize = 3;
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&open), Arc::clone(&most));
    let hanging = Backend::serve(move |mut stream| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _ = io::copy(&mut stream, &mut io::sink());
        now.fetch_sub(1, Ordering::SeqCst);
    });
    let works = Moody::serve(b"", b"220\r\n", b"421\r\n");
    let mut backends: Vec<_> =
        (0..20).map(|n| format!("{{ name = 'h{n}', address = '{}' }}", hanging.address)).collect();
    backends.push(format!("'{}'", works.address()));
    let keys = "health = { check = 'smtp', interval = '100ms' }";
    let mut config = checked(&backends.join(","), keys);
    config.max_checks = MOST;
    let proxy = Proxy::start(config);
    wait_for("all that hang are down", || (0..20).all(|at| backend(&proxy, at).state() == State::Down));
    wait_for("what works is checked", || backend(&proxy, 20).checks_passed() > 1);
    wait_for_state(&proxy, 20, State::Up);
    assert!(proxy.metric("pointsman_checks_delayed_total") > 10.0);
    // A thread of the server may see the end of one check after the beginning of the next.
    let most = most.load(Ordering::SeqCst);
    assert!((1..=2 * MOST).contains(&most), "{most} at once");
}
