//! Checks of each kind against servers that work and servers that do not; the addresses of checks, their
//! number at once, and agents.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pointsman::config::Config;
use pointsman::pool::{self, BackendState};

use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

/// Returns a configuration: a `tcp` listener named `main` in front of these backends, with these keys of its
/// pool.
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

fn wait_for_state(proxy: &Proxy, at: usize, state: BackendState) {
    wait_for(&format!("{state:?}"), || backend(proxy, at).state() == state);
}

/// A server that sends one answer to checks while it is well, and another while it is not.
struct SwitchableServer {
    backend: Backend,
    is_well: Arc<AtomicBool>,
}

impl SwitchableServer {
    /// Starts the server. It waits for bytes that contain `wants` before it answers.
    fn serve(wants: &'static [u8], well: &'static [u8], unwell: &'static [u8]) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let well_now = Arc::clone(&is_well);
        let backend = Backend::serve(move |mut stream| {
            if !reads(&mut stream, wants) {
                return;
            }
            let is_well = well_now.load(Ordering::SeqCst);
            let _ = stream.write_all(if is_well { well } else { unwell });
            // A server that is well waits for the next bytes of the client.
            if !is_well {
                let _ = stream.shutdown(Shutdown::Write);
            }
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

/// Reads until these bytes came. Returns false if the end came first.
fn reads(stream: &mut TcpStream, wants: &[u8]) -> bool {
    let mut received = Vec::new();
    let mut chunk = [0; 1024];
    while !wants.is_empty() && !received.windows(wants.len()).any(|window| window == wants) {
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => received.extend_from_slice(&chunk[..count]),
            _ => return false,
        }
    }
    true
}

/// Checks that the two answers of the server to this check take its backend down and bring it up again.
fn check(words: &str, server: &SwitchableServer, fault: &str) {
    let intervals = "interval = '200ms', fast_interval = '20ms', down_interval = '20ms'";
    let keys = format!("health = {{ {intervals}, rise = 2, fall = 2, {words} }}");
    let proxy = Proxy::start(checked(&format!("'{}'", server.address()), &keys));
    wait_for(&format!("a check by {words}"), || backend(&proxy, 0).health().checks_passed() > 1);
    assert_eq!(
        (backend(&proxy, 0).state(), backend(&proxy, 0).health().checks_failed()),
        (BackendState::Up, 0),
        "{words}"
    );
    server.is_well(false);
    wait_for_state(&proxy, 0, BackendState::Down);
    let series = format!(r#"pointsman_check_failures_total{{pool="main",fault="{fault}"}}"#);
    assert!(proxy.metric(&series) >= 2.0, "{words}: {series}");
    server.is_well(true);
    wait_for_state(&proxy, 0, BackendState::Up);
}

#[test]
fn each_kind_of_check_takes_down_and_brings_up() {
    type Case = (&'static str, &'static [u8], &'static [u8], &'static [u8], &'static str);
    // The keys of the check, the bytes that the server waits for, its answers while well and while not, and
    // the fault.
    let cases: [Case; 16] = [
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
        (
            "check = 'http', method = 'POST', headers = { X-A = 'b' }, expect = ['200', '429']",
            b"Content-Length: 0\r\nX-A: b\r\n",
            b"HTTP/1.1 429 Standby\r\n\r\n",
            b"HTTP/1.1 204 No\r\n\r\n",
            "unexpected",
        ),
        (
            "check = 'http', body = 'role=primary'",
            b"GET / ",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nrole=primary\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nrole=replica",
            "unexpected",
        ),
        (
            "check = 'http', body_regex = '^(ok|fine)$'",
            b"GET / ",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfind",
            "unexpected",
        ),
        ("check = 'postgres'", b"\x04\xd2\x16\x2f", b"N", b"", "closed"),
        ("check = 'postgres'", b"\x04\xd2\x16\x2f", b"S", b"SERVER BUSY\r\n", "unexpected"),
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
        (
            "check = 'send-expect', steps = [{ expect_regex = 'role:(master|primary)' }, { refuse = 'loading:1' }]",
            b"",
            b"role:primary loading:0",
            b"role:primary loading:1",
            "unexpected",
        ),
    ];
    thread::scope(|scope| {
        for (words, wants, well, unwell, fault) in cases {
            scope.spawn(move || check(words, &SwitchableServer::serve(wants, well, unwell), fault));
        }
    });
}

#[test]
fn a_mysql_user_logs_in_and_out() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&said);
    let server = Backend::serve(move |mut stream| {
        let _ = stream.write_all(b"\x07\0\0\0\x0a8.0.1\0");
        let mut bytes = vec![0; 36 + b"mon\0\0mysql_native_password\0".len()];
        if stream.read_exact(&mut bytes).is_ok() {
            let _ = stream.write_all(b"\x07\0\0\x02\0\0\0\x02\0\0\0");
            let _ = stream.read_to_end(&mut bytes);
            *received.lock().unwrap() = bytes;
        }
    });
    let keys = "health = { check = 'mysql', user = 'mon', interval = '200ms' }";
    let proxy = Proxy::start(checked(&format!("'{}'", server.address), keys));
    wait_for("a login", || {
        backend(&proxy, 0).health().checks_passed() > 0 && !said.lock().unwrap().is_empty()
    });
    let said = said.lock().unwrap().clone();
    assert!(said[36..].starts_with(b"mon\0\0mysql_native_password\0\x01\0\0\0\x01"), "{said:?}");
}

#[test]
fn checks_go_where_they_are_told() {
    // No server listens at the addresses of the backends.
    let (first, second) = (own_address(), own_address());
    let (of_pool, of_one) = (
        SwitchableServer::serve(b"", b"220\r\n", b"421\r\n"),
        SwitchableServer::serve(b"", b"220\r\n", b"421\r\n"),
    );
    let backends =
        format!("'{first}', {{ address = '{second}', health = {{ port = {} }} }}", of_one.address().port());
    let keys =
        format!("health = {{ check = 'smtp', interval = '100ms', address = '{}' }}", of_pool.address());
    let proxy = Proxy::start(checked(&backends, &keys));
    wait_for("checks", || (0..2).all(|at| backend(&proxy, at).health().checks_passed() > 1));
    of_one.is_well(false);
    wait_for_state(&proxy, 1, BackendState::Down);
    assert_eq!(
        (backend(&proxy, 0).state(), backend(&proxy, 0).health().checks_failed()),
        (BackendState::Up, 0)
    );
    of_pool.is_well(false);
    wait_for_state(&proxy, 0, BackendState::Down);
}

/// Checks of backends that hang take all slots. The other backends are checked all the same, only later.
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
    let works = SwitchableServer::serve(b"", b"220\r\n", b"421\r\n");
    let mut backends: Vec<_> =
        (0..20).map(|n| format!("{{ name = 'h{n}', address = '{}' }}", hanging.address)).collect();
    backends.push(format!("'{}'", works.address()));
    let keys = "health = { check = 'smtp', interval = '100ms', timeout = '100ms' }";
    let mut config = checked(&backends.join(","), keys);
    config.max_checks = MOST;
    let proxy = Proxy::start(config);
    wait_for("all that hang are down", || {
        (0..20).all(|at| backend(&proxy, at).state() == BackendState::Down)
    });
    wait_for("what works is checked", || backend(&proxy, 20).health().checks_passed() > 1);
    wait_for_state(&proxy, 20, BackendState::Up);
    assert!(proxy.metric("pointsman_checks_delayed_total") > 10.0);
    // A thread of the server may see the end of one check after the beginning of the next.
    let most = most.load(Ordering::SeqCst);
    assert!((1..=2 * MOST).contains(&most), "{most} at once");
}

/// An agent whose line can be changed.
struct Agent {
    address: SocketAddr,
    line: Arc<Mutex<String>>,
}

impl Agent {
    fn serve(line: &str) -> Self {
        let line = Arc::new(Mutex::new(line.to_owned()));
        let answered_line = Arc::clone(&line);
        let server = Backend::serve(move |mut stream| {
            let line = answered_line.lock().unwrap().clone();
            let _ = stream.write_all(line.as_bytes());
        });
        Self { address: server.address, line }
    }

    fn set_line(&self, line: &str) {
        *self.line.lock().unwrap() = line.to_owned();
    }
}

/// Starts a backend that sends a letter.
fn letter(letter: u8) -> Backend {
    Backend::serve(move |mut stream| {
        let _ = stream.write_all(&[letter]);
    })
}

/// Returns the number of clients that the backend with this letter served.
fn served(proxy: &Proxy, letter: u8, clients: usize) -> usize {
    let count = (0..clients).filter(|_| {
        let mut answer = [0];
        proxy.connect().read_exact(&mut answer).unwrap();
        answer == [letter]
    });
    count.count()
}

/// Returns a configuration with two backends `a` and `b`; `a` has an agent.
fn with_agent(a: &Backend, b: &Backend, agent: &Agent, words: &str) -> Config {
    let backends = format!(
        "{{ name = 'a', address = '{}' }}, {{ name = 'b', address = '{}', agent = {{ port = 1 }} }}",
        a.address, b.address
    );
    let agent = format!("agent = {{ port = {}, interval = '20ms' {words} }}", agent.address.port());
    checked(&backends, &format!("health.check = 'off'\n{agent}"))
}

#[test]
fn an_agent_is_obeyed() {
    let (a, b, agent) = (letter(b'a'), letter(b'b'), Agent::serve("up\n"));
    let proxy = Proxy::start(with_agent(&a, &b, &agent, ""));
    let received = |result: &str| format!(r#"pointsman_agent_checks_total{{pool="main",result="{result}"}}"#);
    wait_for("words", || proxy.metric(&received("heard")) > 1.0);
    assert!(served(&proxy, b'a', 20) > 5);

    for (line, state) in [
        ("down\n", BackendState::Down),
        ("up drain\n", BackendState::Draining),
        ("maint\n", BackendState::Maintenance),
    ] {
        agent.set_line(line);
        wait_for_state(&proxy, 0, state);
        assert_eq!(served(&proxy, b'a', 10), 0, "{line}");
        // The state stays while the agent is silent or repeats itself.
        agent.set_line("#\n");
        let before = proxy.metric(&received("nonsense"));
        wait_for("nonsense", || proxy.metric(&received("nonsense")) > before + 2.0);
        assert_eq!(backend(&proxy, 0).state(), state, "{line}");
    }
    agent.set_line("ready\n");
    wait_for_state(&proxy, 0, BackendState::Up);
    assert!(served(&proxy, b'a', 20) > 5);
    // The agent of the other backend is not there, which changes nothing.
    assert!(proxy.metric(&received("silent")) > 1.0);
    assert_eq!(backend(&proxy, 1).state(), BackendState::Up);
}

#[test]
fn an_agent_says_how_much_its_backend_bears() {
    let (a, b, agent) = (letter(b'a'), letter(b'b'), Agent::serve("0%\n"));
    let (proxy, admin) = Proxy::start_with_admin(with_agent(&a, &b, &agent, ""));
    let wait_for_share =
        |share: u8| wait_for("a share", || backend(&proxy, 0).health().agent_share() == share);
    wait_for_share(0);
    assert_eq!(served(&proxy, b'a', 20), 0);
    agent.set_line("30%\n");
    wait_for_share(30);
    let some = served(&proxy, b'a', 400);
    assert!((20..150).contains(&some), "{some} of 400");
    let page = |path: &str| pointsman::admin::ask(admin, path, PATIENCE).unwrap().1;
    let series = "pointsman_backend_agent_share_ratio{pool=\"main\",backend=\"a\"} 0.3\n";
    assert!(page("/metrics").contains(series), "{}", page("/metrics"));
    let status: serde_json::Value = serde_json::from_str(&page("/api/v1/status")).unwrap();
    let expected = serde_json::json!({ "share_percent": 30, "max_connections": null });
    assert_eq!(status["pools"][0]["backends"][0]["agent"], expected);
    agent.set_line("100% maxconn:0\n");
    wait_for_share(100);
    assert_eq!(served(&proxy, b'a', 20), 0);
    agent.set_line("maxconn:100\n");
    wait_for("more", || backend(&proxy, 0).health().agent_max_connections() == Some(100));
    assert!(served(&proxy, b'a', 20) > 5);
}

#[test]
fn an_agent_that_is_no_longer_asked_is_forgotten() {
    let (a, b, agent) = (letter(b'a'), letter(b'b'), Agent::serve("drain 50% maxconn:3\n"));
    let proxy = Proxy::start(with_agent(&a, &b, &agent, ", send = 'a\\n'"));
    wait_for_state(&proxy, 0, BackendState::Draining);
    let mut without = with_agent(&a, &b, &agent, "");
    without.pools[0].agent = None;
    proxy.remote.reload(without).unwrap();
    wait_for_state(&proxy, 0, BackendState::Up);
    let backend = backend(&proxy, 0);
    assert_eq!((backend.health().agent_share(), backend.health().agent_max_connections()), (100, None));
    assert!(served(&proxy, b'a', 20) > 5);
}

/// A server that accepts only headers of clients, as some do.
#[test]
fn a_server_that_closes_on_local_is_checked_in_the_form_of_a_client() {
    let server = Backend::serve(|mut stream| {
        let mut header = [0; 28];
        let from = stream.peer_addr().unwrap();
        if stream.read_exact(&mut header[..16]).is_err() || header[12..14] != [0x21, 0x11] {
            return;
        }
        stream.read_exact(&mut header[16..]).unwrap();
        // The two ends of the connection of the check.
        let SocketAddr::V4(from) = from else { panic!("it is IPv4") };
        let (source, port) = (from.ip().octets(), from.port().to_be_bytes());
        if (&header[16..20], &header[24..26]) == (&source[..], &port[..]) {
            let _ = stream.write_all(b"+OK\r\n");
        }
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let start = |form: &str| {
        let health =
            format!("check = 'send-expect', steps = [{{ expect = '+OK' }}], interval = '100ms'{form}");
        let keys = format!("proxy_protocol = 'v2'\nhealth = {{ {health} }}");
        Proxy::start(checked(&format!("'{}'", server.address), &keys))
    };
    let (local, client) = (start(""), start(", proxy_protocol = 'proxy'"));
    wait_for_state(&local, 0, BackendState::Down);
    wait_for("checks", || backend(&client, 0).health().checks_passed() > 1);
    assert_eq!(backend(&client, 0).state(), BackendState::Up);
}
