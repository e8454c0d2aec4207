//! Relays with each engine: bytes arrive whole, in order and without stalls.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::pair::{Pair, closed, expect_bytes, expect_end, reset, with_each_engine};
use crate::support::{Backend, Proxy, pattern, wait_for};

#[test]
fn a_small_message_comes_back() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[backend.address], engine);
        let mut client = proxy.connect();
        for round in 0..3 {
            let message = format!("hello {round}");
            client.write_all(message.as_bytes()).unwrap();
            let mut answer = vec![0; message.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, message.as_bytes());
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        proxy.wait_for_metric(&closed("client_fin"), 1.0);
    });
}

#[test]
fn much_comes_back_unchanged() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[backend.address], engine);
        let mut client = proxy.connect();
        let sent = pattern(32 << 20, 42);
        let mut writer = client.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
    });
}

#[test]
fn the_server_may_speak_first() {
    with_each_engine(|engine| {
        let mut pair = Pair::new(engine);
        pair.server.write_all(b"220 ready\r\n").unwrap();
        expect_bytes(&pair.client, b"220 ready\r\n");
        pair.client.write_all(b"HELO\r\n").unwrap();
        expect_bytes(&pair.server, b"HELO\r\n");
    });
}

#[test]
fn many_one_byte_writes_stay_intact() {
    with_each_engine(|engine| {
        let mut pair = Pair::new(engine);
        let sent = pattern(4000, 1);
        for byte in &sent {
            pair.client.write_all(&[*byte]).unwrap();
            pair.server.write_all(&[!*byte]).unwrap();
        }
        expect_bytes(&pair.server, &sent);
        expect_bytes(&pair.client, &sent.iter().map(|byte| !byte).collect::<Vec<_>>());
    });
}

/// If a second small write waits for the acknowledgement of the first, it waits for 40 ms.
#[test]
fn small_writes_do_not_wait_for_acknowledgements() {
    const ROUNDS: u32 = 400;
    with_each_engine(|engine| {
        let mut pair = Pair::new(engine);
        let began = Instant::now();
        for _ in 0..ROUNDS {
            pair.client.write_all(b"a").unwrap();
            pair.client.write_all(b"b").unwrap();
            expect_bytes(&pair.server, b"ab");
            pair.server.write_all(b"c").unwrap();
            pair.server.write_all(b"d").unwrap();
            expect_bytes(&pair.client, b"cd");
        }
        assert!(began.elapsed() < Duration::from_millis(40) * ROUNDS / 2, "{:?}", began.elapsed());
    });
}

#[test]
fn urgent_bytes_stay_in_their_place() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        // The sockets of the test must not take the byte out of the stream either.
        for end in [&pair.client, &pair.server] {
            SockRef::from(end).set_out_of_band_inline(true).unwrap();
        }
        for (mut from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
            for _ in 0..3 {
                from.write_all(b"abc").unwrap();
                SockRef::from(from).send_out_of_band(b"d").unwrap();
                from.write_all(b"ef").unwrap();
                expect_bytes(to, b"abcdef");
            }
        }
        // All bytes are written at once, with an end behind them.
        for (mut from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
            from.write_all(b"abc").unwrap();
            SockRef::from(from).send_out_of_band(b"d").unwrap();
            from.write_all(b"ef").unwrap();
            from.shutdown(Shutdown::Write).unwrap();
            expect_bytes(to, b"abcdef");
            expect_end(to);
        }
    });
}

/// Urgent bytes of a client that closes before its first byte is read.
#[test]
fn urgent_bytes_of_a_client_that_has_left_arrive() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let mut seen = 0;
        for _ in 0..50 {
            let (mut client, server) = pair.another();
            SockRef::from(&server).set_out_of_band_inline(true).unwrap();
            client.write_all(&[b'x'; 3000]).unwrap();
            SockRef::from(&client).send_out_of_band(b"d").unwrap();
            client.write_all(b"ef").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            expect_bytes(&server, &[[b'x'; 3000].as_slice(), b"def"].concat());
            expect_end(&server);
            seen += 1;
        }
        assert_eq!(seen, 50);
    });
}

/// The slots of a pipe are full long before its bytes. The kernel then returns the same error as for an empty
/// socket.
#[test]
fn small_segments_and_then_silence_leave_nothing_behind() {
    with_each_engine(|engine| {
        for size in [1, 100, 700, 1400] {
            let pair = Pair::new(engine);
            let sent = pattern(3000 * size, size as u64);
            for (mut from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
                for segment in sent.chunks(size) {
                    from.write_all(segment).unwrap();
                }
                // No more bytes are sent, and no end is closed.
                expect_bytes(to, &sent);
            }
        }
    });
}

/// The same case, but a thread sends the segments while the other end is read. A stream before them makes the
/// engine splice.
#[test]
fn small_segments_behind_a_stream_leave_nothing_behind() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let sent = pattern((8 << 20) + 777, 5);
        let (stream, segments) = sent.split_at(8 << 20);
        thread::scope(|scope| {
            let mut from = &pair.server;
            scope.spawn(move || {
                from.write_all(stream).unwrap();
                segments.chunks(3).for_each(|segment| from.write_all(segment).unwrap());
            });
            expect_bytes(&pair.client, &sent);
        });
    });
}

/// A pipe that holds bytes of one client must not be lent to another.
#[test]
fn aborted_streams_leave_no_residue() {
    with_each_engine(|engine| {
        let pair = Pair::new(engine);
        let junk = vec![0xEE; 16 << 20];
        for round in 0..40_u32 {
            let (client, server) = pair.another();
            client.set_nonblocking(true).unwrap();
            let mut sent = 0;
            // The loop ends when the buffers of the kernel and of the proxy are full, after at least one
            // write.
            while let Ok(n @ 1..) = (&client).write(&junk[sent..]) {
                sent += n;
                if sent == junk.len() {
                    break;
                }
            }
            assert!(sent > 0);
            if round.is_multiple_of(2) {
                reset(client);
                drop(server);
            } else {
                reset(server);
                drop(client);
            }
        }
        let (client, server) = pair.another();
        let sent = pattern(4 << 20, 99);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&sent).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            expect_bytes(&server, &sent);
            expect_end(&server);
        });
    });
}

#[test]
fn bytes_are_counted_while_they_move() {
    with_each_engine(|engine| {
        let mut pair = Pair::new(engine);
        let bytes = |proxy: &Proxy| -> f64 {
            ["copied", "spliced"]
                .map(|engine| {
                    proxy.metric(&format!(
                        r#"pointsman_bytes_total{{listener="main",direction="from_client",engine="{engine}"}}"#
                    ))
                })
                .iter()
                .sum()
        };
        let sent = pattern(1 << 20, 3);
        for round in 1..=2 {
            thread::scope(|scope| {
                scope.spawn(|| pair.client.write_all(&sent).unwrap());
                expect_bytes(&pair.server, &sent);
            });
            let expected = (round * sent.len()) as f64;
            wait_for("the count of an open connection", || bytes(&pair.proxy) == expected);
        }
        assert_eq!(pair.proxy.metric(r#"pointsman_connections_active{listener="main"}"#), 1.0);
    });
}
