//! The ends of connections: each side sees how the other side ends, and no incomplete stream looks complete.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::pair::{
    Pair, closed, expect_bytes, expect_end, expect_reset, reset, wait_until_acknowledged, with_all_engines,
    with_each_engine,
};
use crate::support::{Backend, Proxy, pattern, wait_for};

const DROPPED: &str = r#"pointsman_bytes_dropped_total{listener="main"}"#;

/// Writes all bytes while `read` runs.
fn while_writing(mut to: &TcpStream, bytes: &[u8], read: impl FnOnce()) {
    thread::scope(|scope| {
        scope.spawn(move || to.write_all(bytes).unwrap());
        read();
    });
}

/// Checks a half-close: one side ends, and the other side sees the end and still sends bytes.
fn check_half_close(pair: &Pair, ender: &TcpStream, other: &TcpStream, reason: &str) {
    let mut ender_writes = ender;
    ender_writes.write_all(b"question").unwrap();
    ender.shutdown(Shutdown::Write).unwrap();
    expect_bytes(other, b"question");
    expect_end(other);
    let answer = pattern(4 << 20, 8);
    while_writing(other, &answer, || expect_bytes(ender, &answer));
    other.shutdown(Shutdown::Write).unwrap();
    expect_end(ender);
    pair.wait_for_close(reason);
}

#[test]
fn a_client_that_has_ended_gets_its_answer() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        check_half_close(&pair, &pair.client, &pair.server, "client_fin");
    });
}

#[test]
fn a_server_that_has_ended_is_still_spoken_to() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        check_half_close(&pair, &pair.server, &pair.client, "backend_fin");
    });
}

#[test]
fn clients_that_end_at_once_are_answered() {
    with_each_engine(|engine| {
        let backend = Backend::serve(|mut stream| {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            stream.write_all(b"anonymous").unwrap();
        });
        let proxy = Proxy::tcp(&[backend.address], engine);
        let mut answered = 0;
        for _ in 0..25 {
            let clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
            for client in &clients {
                client.shutdown(Shutdown::Write).unwrap();
            }
            for client in &clients {
                expect_bytes(client, b"anonymous");
                expect_end(client);
                answered += 1;
            }
        }
        assert_eq!(answered, 250);
    });
}

#[test]
fn a_connection_without_a_byte_ends_on_both_sides() {
    with_each_engine(|engine| {
        let Pair { proxy, client, server, .. } = Pair::new(engine);
        drop(client);
        expect_end(&server);
        drop(server);
        proxy.wait_for_metric(&closed("client_fin"), 1.0);
        assert_eq!(proxy.metric(DROPPED), 0.0);
    });
}

#[test]
fn a_reset_by_the_client_reaches_the_server() {
    with_each_engine(|engine| {
        let Pair { proxy, mut client, server, .. } = Pair::new(engine);
        client.write_all(b"x").unwrap();
        expect_bytes(&server, b"x");
        reset(client);
        expect_reset(&server);
        proxy.wait_for_metric(&closed("client_reset"), 1.0);
    });
}

#[test]
fn a_reset_by_the_server_reaches_the_client() {
    with_each_engine(|engine| {
        let Pair { proxy, client, mut server, .. } = Pair::new(engine);
        server.write_all(b"x").unwrap();
        expect_bytes(&client, b"x");
        reset(server);
        expect_reset(&client);
        proxy.wait_for_metric(&closed("backend_reset"), 1.0);
    });
}

/// The relay does not read from a side that has ended. Its reset must be passed on all the same, long before
/// the half-closed timeout.
#[test]
fn a_reset_behind_an_end_is_passed_on() {
    with_all_engines(|engine| {
        let Pair { proxy, client, server, .. } = Pair::new(engine);
        client.shutdown(Shutdown::Write).unwrap();
        expect_end(&server);
        reset(client);
        // A read would return 0 without end, because the end was passed on before. So the test writes.
        wait_for("the reset of the server", || {
            server.take_error().unwrap().is_some_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            })
        });
        proxy.wait_for_metric(&closed("client_reset"), 1.0);
    });
}

#[test]
fn cut_transfers_never_look_complete() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let bytes = pattern(3 << 20, 17);
        let mut cut = 0;
        for round in 0..16 {
            let (client, server) = pair.another();
            let (mut from, to) = if round % 2 == 0 { (server, client) } else { (client, server) };
            let amount = (round + 1) * 190_000;
            let received = thread::scope(|scope| {
                let sent = &bytes[..amount];
                scope.spawn(move || {
                    from.write_all(sent).unwrap();
                    reset(from);
                });
                let mut received = Vec::new();
                let error = (&to).read_to_end(&mut received).expect_err("a cut transfer");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                received
            });
            assert!(bytes.starts_with(&received), "round {round}");
            cut += 1;
        }
        assert_eq!(cut, 16);
    });
}

#[test]
fn an_end_comes_behind_the_last_byte() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let bytes = pattern(1 << 20, 23);
        let sizes = pattern(40, 7);
        for (round, size) in sizes.chunks(2).enumerate() {
            let size = usize::from(u16::from_le_bytes([size[0], size[1]])) * (1 + round % 16);
            let (client, server) = pair.another();
            let (mut from, to) = if round % 2 == 0 { (server, client) } else { (client, server) };
            thread::scope(|scope| {
                let sent = &bytes[..size];
                // The connection is closed right after the last byte.
                scope.spawn(move || from.write_all(sent).unwrap());
                let mut received = Vec::new();
                (&to).read_to_end(&mut received).unwrap();
                assert!(received == sent, "{} of {size} bytes", received.len());
            });
        }
    });
}

#[test]
fn slow_readers_get_all_of_what_was_sent_before_a_close() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let bytes = pattern(6 << 20, 29);
        for server_sends in [true, false] {
            let (client, server) = pair.another();
            let (mut from, to) = if server_sends { (server, client) } else { (client, server) };
            thread::scope(|scope| {
                scope.spawn(|| {
                    from.write_all(&bytes).unwrap();
                    drop(from);
                });
                for chunk in bytes.chunks(32 * 1024) {
                    expect_bytes(&to, chunk);
                    thread::yield_now();
                }
                expect_end(&to);
            });
        }
    });
}

#[test]
fn bytes_sent_before_a_reset_are_delivered() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let bytes = pattern(100_000, 31);
        for server_sends in [true, false, true, false] {
            let (client, server) = pair.another();
            let (mut from, to) = if server_sends { (server, client) } else { (client, server) };
            from.write_all(&bytes).unwrap();
            wait_until_acknowledged(&from);
            reset(from);
            expect_bytes(&to, &bytes);
            expect_reset(&to);
        }
        assert_eq!(pair.proxy.metric(DROPPED), 0.0);
    });
}

/// Fills all buffers between the two ends until no write succeeds. Returns the number of bytes.
fn fill(mut from: &TcpStream) -> usize {
    let block = vec![0xAB; 1 << 20];
    // The timeout is long, so that a delayed proxy has had time to read.
    from.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    loop {
        match from.write(&block) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The relay does not read a direction whose reader is stalled. It passes the reset of the writer on all the
/// same, and counts the bytes that the reader did not take.
#[test]
fn a_reset_is_passed_on_to_a_reader_that_stands_still() {
    with_all_engines(|engine| {
        let pair = Pair::with(engine, |config| {
            config.listeners[0].policy.relay.reset_linger = Duration::from_millis(100);
        });
        for (server_sends, reason) in [(true, "backend_reset"), (false, "client_reset")] {
            let (client, server) = pair.another();
            let (from, to) = if server_sends { (server, client) } else { (client, server) };
            let before = pair.proxy.metric(DROPPED);
            assert!(fill(&from) > 0);
            reset(from);
            pair.wait_for_close(reason);
            assert!(pair.proxy.metric(DROPPED) > before, "bytes were held, and nobody took them");
            let mut rest = Vec::new();
            let error = (&to).read_to_end(&mut rest).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// A server answers before it has read the whole request, and then closes; so it resets the connection. The
/// answer was complete, and the client may read it slowly.
#[test]
fn an_early_answer_is_not_cut_by_the_reset_behind_it() {
    with_each_engine(|engine| {
        let Pair { proxy: _proxy, client, mut server, .. } = Pair::with(engine, |config| {
            config.listeners[0].policy.relay.reset_linger = Duration::from_millis(1);
        });
        let answer = pattern(12 << 20, 37);
        thread::scope(|scope| {
            let uploading = scope.spawn(|| fill(&client));
            let sent = &answer;
            scope.spawn(move || {
                server.write_all(sent).unwrap();
                server.shutdown(Shutdown::Write).unwrap();
                wait_until_acknowledged(&server);
                // The request is unread, so this close is a reset.
                drop(server);
            });
            assert!(uploading.join().unwrap() > 0);
            for chunk in answer.chunks(16 * 1024) {
                expect_bytes(&client, chunk);
            }
            expect_end(&client);
        });
    });
}

fn idle_after(engine: pointsman::relay::EngineChoice, idle: Duration, half_closed: Duration) -> Pair {
    Pair::with(engine, |config| {
        let relay = &mut config.listeners[0].policy.relay;
        relay.idle_timeout = idle;
        relay.half_closed_timeout = half_closed;
    })
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn silence_closes_both_sides() {
    with_all_engines(|engine| {
        let idle = Duration::from_secs(1);
        // The time is taken before the connection is made, because this thread may be delayed after that.
        let began = Instant::now();
        let pair = idle_after(engine, idle, LONG);
        expect_end(&pair.client);
        expect_end(&pair.server);
        assert!(began.elapsed() >= idle, "{:?} is too soon", began.elapsed());
        pair.wait_for_close("idle_timeout");
    });
}

#[test]
fn a_byte_now_and_then_in_one_direction_prevents_the_idle_timeout() {
    with_all_engines(|engine| {
        let mut pair = idle_after(engine, Duration::from_secs(1), LONG);
        let began = Instant::now();
        let mut rounds = 0;
        pair.client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        while began.elapsed() < Duration::from_millis(2500) {
            pair.client.write_all(b"x").unwrap();
            expect_bytes(&pair.server, b"x");
            // No bytes come in this direction; the read is the pause between two writes.
            let error = pair.client.read(&mut [0]).expect_err("silence");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            rounds += 1;
        }
        assert!(rounds > 5);
    });
}

#[test]
fn a_half_closed_connection_has_a_time_of_its_own() {
    with_all_engines(|engine| {
        for client_ends in [true, false] {
            let pair = idle_after(engine, LONG, Duration::from_secs(1));
            let (ender, other) =
                if client_ends { (&pair.client, &pair.server) } else { (&pair.server, &pair.client) };
            ender.shutdown(Shutdown::Write).unwrap();
            expect_end(other);
            // The other side never answers. A side that still waits for an answer must get a reset, because
            // an orderly end looks like an answer.
            expect_reset(ender);
            pair.wait_for_close("half_closed_timeout");
        }
    });
}

/// A reader that never reads keeps its connection no longer than a silent client does.
#[test]
fn a_stalled_reader_is_reaped() {
    with_all_engines(|engine| {
        let pair = idle_after(engine, Duration::from_secs(1), LONG);
        thread::scope(|scope| {
            // The server continues to write, so that the buffers are full until the end.
            scope.spawn(|| {
                let block = vec![0xAB; 1 << 20];
                while (&pair.server).write_all(&block).is_ok() {}
            });
            pair.wait_for_close("idle_timeout");
        });
        assert!(pair.proxy.metric(DROPPED) > 0.0);
        let mut rest = Vec::new();
        let error = (&pair.client).read_to_end(&mut rest).expect_err("a reset: bytes were lost");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}
