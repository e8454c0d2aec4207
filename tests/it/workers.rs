//! Workers: connections are spread over them, and no bytes are lost in a migration.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Instant;

use pointsman::live::TICK;
use pointsman::relay::EngineChoice;
use socket2::SockRef;

use crate::support::{Backend, PATIENCE, Proxy, pattern, wait_for};

const MOVED: &str = r#"pointsman_connections_moved_total{what="stream"}"#;

/// Sends one block again and again, until the reader ends.
fn endless(block: &[u8]) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let block = block.to_vec();
    move |mut stream| while stream.write_all(&block).is_ok() {}
}

/// Reads blocks, which must all be the same, until `enough` returns true.
fn read_blocks(mut stream: TcpStream, block: &[u8], enough: impl Fn() -> bool) {
    let mut buffer = vec![0; block.len()];
    while !enough() {
        for _ in 0..16 {
            stream.read_exact(&mut buffer).unwrap();
            assert!(buffer == block, "a block was changed");
        }
    }
    for _ in 0..64 {
        stream.read_exact(&mut buffer).unwrap();
        assert!(buffer == block, "a block was changed behind the move");
    }
}

/// The kernel decides which worker gets a connection. Sometimes nearly all are at one worker, and then some
/// have to move.
#[test]
fn a_stream_moves_to_an_idle_worker_and_loses_nothing() {
    for engine in [EngineChoice::Copy, EngineChoice::Auto] {
        let block = pattern(256 * 1024 - 1, 3);
        let backend = Backend::serve(endless(&block));
        let proxy = Proxy::tcp(&[backend.address], engine);
        let begun = std::time::Instant::now();
        while proxy.metric(MOVED) == 0.0 {
            assert!(begun.elapsed() < 5 * PATIENCE, "no stream moved");
            let round = std::time::Instant::now();
            thread::scope(|scope| {
                for _ in 0..5 {
                    let (stream, proxy, block) = (proxy.connect(), &proxy, &block);
                    let enough = move || {
                        proxy.metric(MOVED) > 0.0 || round.elapsed() > std::time::Duration::from_millis(2200)
                    };
                    scope.spawn(move || read_blocks(stream, block, enough));
                }
            });
        }
    }
}

/// Reads more slowly than the sender writes, so that the stream is blocked nearly all the time.
fn read_slowly(mut stream: TcpStream, enough: impl Fn() -> bool) {
    const BYTES_PER_MILLISECOND: u128 = 12_000;
    let begun = Instant::now();
    let mut buffer = vec![0; 256 * 1024];
    let mut got = 0;
    while !enough() {
        got += stream.read(&mut buffer).unwrap() as u128;
        wait_for("the next block", || begun.elapsed().as_millis() * BYTES_PER_MILLISECOND >= got);
    }
}

/// Bulk streams are blocked most of the time, because their readers are slower than the proxy.
#[test]
fn a_stream_whose_reader_is_slow_moves_to_an_idle_worker_too() {
    let block = pattern(256 * 1024, 3);
    let backend = Backend::serve(endless(&block));
    let proxy = Proxy::tcp(&[backend.address], EngineChoice::Auto);
    let begun = Instant::now();
    while proxy.metric(MOVED) == 0.0 {
        assert!(begun.elapsed() < 5 * PATIENCE, "no stream moved");
        let round = Instant::now();
        thread::scope(|scope| {
            for _ in 0..5 {
                let (stream, proxy) = (proxy.connect(), &proxy);
                SockRef::from(&stream).set_recv_buffer_size(128 * 1024).unwrap();
                scope.spawn(move || {
                    read_slowly(stream, || proxy.metric(MOVED) > 0.0 || round.elapsed() > 5 * TICK);
                });
            }
        });
    }
}

#[test]
fn a_crowd_at_one_worker_overflows_to_the_others() {
    let backend = Backend::echo();
    let proxy = Proxy::tcp(&[backend.address], EngineChoice::Auto);
    // Whichever worker the kernel prefers, no two workers may differ by much more than the bound.
    let mut clients: Vec<_> = (0..400).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.write_all(b"here").unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"here");
    }
    for client in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
}
