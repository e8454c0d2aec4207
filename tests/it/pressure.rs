//! Bounded memory, and the return of all resources.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use pointsman::live::{PeerTimeouts, TICK};
use pointsman::relay::EngineChoice;
use pointsman::sys::socket::KernelBuffers;
use socket2::SockRef;

use crate::child::Child;
use crate::support::pair::{
    Pair, expect_bytes, expect_end, expect_reset, patient, reset, with_all_engines, with_each_engine,
};
use crate::support::{Backend, pattern, wait_for};

const ACTIVE: &str = r#"pointsman_connections_active{listener="main"}"#;
const PIPES: &str = "pointsman_pipes_open";

/// Returns a bound of the bytes that are accepted while the reader is stalled: the buffers of the four
/// sockets on the way, and the buffers of the proxy. The rest that is added here is more than the latter.
fn most() -> usize {
    let largest = |name: &str| -> usize {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().last().unwrap().parse().unwrap()
    };
    // The receive buffer of the stalled reader does not grow, because its process does not read.
    largest("tcp_rmem") + 2 * largest("tcp_wmem") + (2 << 20)
}

#[test]
fn a_reader_that_stands_still_stops_the_writer() {
    let bytes = pattern(most() + (8 << 20), 41);
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        for server_sends in [true, false] {
            let (client, server) = pair.another();
            let (mut from, to) = if server_sends { (&server, &client) } else { (&client, &server) };
            from.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut taken = 0;
            while taken < bytes.len() {
                match from.write(&bytes[taken..]) {
                    Ok(n) => taken += n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(taken < most(), "{taken} bytes were taken");
            from.shutdown(Shutdown::Write).unwrap();
            expect_bytes(to, &bytes[..taken]);
            expect_end(to);
        }
    });
}

/// By default a peer that acknowledges and does not read keeps its connection. `stall_timeout` closes this
/// connection, and that of the other side.
#[test]
fn a_peer_that_does_not_read_is_closed_by_its_stall_timeout() {
    let block = pattern(1 << 20, 53);
    let timeouts = PeerTimeouts { stall_timeout: Some(2 * TICK), ..PeerTimeouts::default() };
    with_all_engines(|engine| {
        let clients = Pair::with(engine, |config| config.listeners[0].policy.relay.client = timeouts);
        let backends = Pair::with(engine, |config| config.pools[0].dial.peer_timeouts = timeouts.into());
        let neither = Pair::new(engine);
        for (pair, mut from) in
            [(&clients, &clients.server), (&backends, &backends.client), (&neither, &neither.server)]
        {
            from.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            while from.write(&block).is_ok() {}
            assert_eq!(pair.proxy.metric(ACTIVE), 1.0, "{engine:?}");
        }
        clients.wait_for_close("client_stalled");
        backends.wait_for_close("backend_stalled");
        expect_reset(&clients.server);
        expect_reset(&backends.client);
        assert_eq!(neither.proxy.metric(ACTIVE), 1.0, "{engine:?}");
    });
}

/// Without the bound the kernel holds megabytes for each such client. These clients could then use up the TCP
/// memory of the host.
#[test]
fn little_waits_for_a_client_that_does_not_read() {
    const UNSENT: u32 = 64 * 1024;
    // The client's own buffer, and the excess of one send above the bound.
    const MOST: f64 = (1 << 20) as f64;
    let bytes = pattern(most() + (8 << 20), 43);
    with_each_engine(|engine| {
        let pair = Pair::with(engine, |config| config.listeners[0].buffers.max_unsent = Some(UNSENT));
        pair.server.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut taken = 0;
        while taken < bytes.len()
            && let Ok(count) = (&pair.server).write(&bytes[taken..])
        {
            taken += count;
        }
        let moved = || {
            let series = |engine| {
                format!(
                    r#"pointsman_bytes_total{{listener="main",direction="from_backend",engine="{engine}"}}"#
                )
            };
            pair.proxy.metric(&series("copied")) + pair.proxy.metric(&series("spliced"))
        };
        wait_for("a sweep", || moved() > 0.0);
        assert!(moved() < MOST, "{} bytes wait with {engine:?}", moved());
        pair.server.shutdown(Shutdown::Write).unwrap();
        expect_bytes(&pair.client, &bytes[..taken]);
        expect_end(&pair.client);
    });
}

/// In both directions: the bytes that wait for a side that does not read.
#[test]
fn little_waits_of_a_side_whose_other_side_does_not_read() {
    const BOUND: u32 = 64 * 1024;
    // Beside the four bounded buffers of the kernel: a pipe, and the buffers of the test's own sockets.
    const MOST: usize = (3 << 20) + 4 * BOUND as usize;
    let bytes = pattern(most() + (8 << 20), 47);
    let buffers = KernelBuffers { max_unsent: Some(BOUND), max_unread: Some(BOUND) };
    with_each_engine(|engine| {
        let pair = Pair::with(engine, |config| {
            config.listeners[0].buffers = buffers;
            config.pools[0].dial.buffers = buffers;
        });
        for server_sends in [true, false] {
            let (client, server) = pair.another();
            let (mut from, to) = if server_sends { (&server, &client) } else { (&client, &server) };
            SockRef::from(from).set_send_buffer_size(BOUND as usize).unwrap();
            from.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut taken = 0;
            while taken < bytes.len()
                && let Ok(count) = from.write(&bytes[taken..])
            {
                taken += count;
            }
            assert!((1..MOST).contains(&taken), "{taken} bytes wait with {engine:?}");
            from.shutdown(Shutdown::Write).unwrap();
            expect_bytes(to, &bytes[..taken]);
            expect_end(to);
        }
    });
}

/// Returns true if the kernel has a keepalive timer for a connection, by /proc/net/tcp.
fn has_keepalive_timer(local: SocketAddr, peer: SocketAddr) -> bool {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => panic!("the tests use IPv4"),
    };
    let (local, peer) = (hex(local), hex(peer));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1] == local && fields[2] == peer).then(|| fields[5].to_owned())
    });
    row.is_some_and(|timer| timer.starts_with("02:"))
}

/// The peers of the proxy's two sockets are the sockets of the test.
#[test]
fn both_sockets_have_keepalive() {
    let pair = Pair::new(EngineChoice::Auto);
    for end in [&pair.client, &pair.server] {
        let (ours, theirs) = (end.local_addr().unwrap(), end.peer_addr().unwrap());
        wait_for("the timer of keepalive", || has_keepalive_timer(theirs, ours));
        assert!(!has_keepalive_timer(ours, theirs), "the test's own sockets have none");
    }
}

/// Starts a backend that does the action of the first byte.
fn obedient() -> Backend {
    Backend::serve(|mut stream| {
        let mut order = [0];
        match stream.read(&mut order) {
            Ok(1) => {}
            _ => return,
        }
        match order[0] {
            b'r' => reset(stream),
            b's' => {
                let _ = stream.write_all(&[b'x'; 300_000]);
            }
            b'e' => {
                let _ = stream.write_all(b"answer");
                let _ = stream.read(&mut order);
            }
            _ => {
                let _ = stream.read(&mut order);
            }
        }
    })
}

/// Makes one connection, which ends in one of many ways.
fn end_somehow(way: usize, mut client: TcpStream) {
    let mut rest = Vec::new();
    match way % 8 {
        0 => drop(client),
        1 => reset(client),
        2 => {
            client.shutdown(Shutdown::Write).unwrap();
            let _ = client.read_to_end(&mut rest);
        }
        3 => {
            let _ = client.write_all(b"r");
            let _ = client.read_to_end(&mut rest);
        }
        4 => {
            client.write_all(b"s").unwrap();
            client.read_to_end(&mut rest).unwrap();
            assert_eq!(rest.len(), 300_000);
        }
        5 => {
            // The client leaves in the middle of a stream.
            client.write_all(b"s").unwrap();
            client.read_exact(&mut [0; 1000]).unwrap();
            drop(client);
        }
        6 => {
            client.write_all(b"e").unwrap();
            expect_bytes(&client, b"answer");
            reset(client);
        }
        _ => {
            client.write_all(b"w").unwrap();
            let _ = client.write_all(&[0; 100_000]);
            reset(client);
        }
    }
}

fn check_that_everything_comes_back(engine: EngineChoice, connections: usize) {
    const THREADS: usize = 8;
    let backend = obedient();
    let child = Child::start(backend.address, engine, None);
    wait_for("the pipes of the first connection", || child.metric(PIPES) == 0.0);
    let before = child.descriptors();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let child = &child;
            scope.spawn(move || {
                for way in 0..connections / THREADS {
                    end_somehow(way + number, patient(child.connect()));
                }
            });
        }
    });
    wait_for("the last end", || child.metric(ACTIVE) == 0.0);
    wait_for("the pipes", || child.metric(PIPES) == 0.0);
    wait_for("the descriptors", || child.descriptors() == before);
    let accepted = child.metric(r#"pointsman_connections_total{listener="main"}"#);
    assert!(accepted >= connections as f64, "{accepted}");
}

/// Tests the figure of docs/operate/when-things-fail.md, in bytes of the proxy's own memory.
#[test]
fn an_idle_connection_costs_less_than_a_kibibyte() {
    const STEP: usize = 1000;
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = Child::start(backend.local_addr().unwrap(), EngineChoice::Auto, None);
    // The first connection, which the child made itself.
    let mut held = vec![backend.accept().unwrap().0];
    let mut grow = || {
        for _ in 0..STEP {
            let mut client = child.connect();
            let mut server = backend.accept().unwrap().0;
            client.write_all(b"hello").unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
            held.extend([client, server]);
        }
        child.memory()
    };
    let (first, second) = (grow(), grow());
    let each = (second - first) / STEP;
    assert!((100..1024).contains(&each), "{each} bytes");
    assert_eq!(child.metric(ACTIVE), (2 * STEP) as f64);
}

#[test]
fn two_thousand_connections_leave_nothing_behind() {
    with_each_engine(|engine| check_that_everything_comes_back(engine, 2000));
}

#[test]
#[ignore = "takes a minute"]
fn a_hundred_thousand_connections_leave_nothing_behind() {
    check_that_everything_comes_back(EngineChoice::Auto, 100_000);
}
