//! Relays in an executor of the test, which controls their ticks and interruptions.

mod pauses;

use std::cell::{Cell, RefCell};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::sync::oneshot;

use super::peer_watch::GONE_AFTER;
use super::*;
use crate::executor::{self, Executor, timeout, yield_now};
use crate::ids::ListenerId;
use crate::live::{ConnectionRegistry, Loads, PeerTimeouts, TICK};
use crate::sys::tcp;
use crate::telemetry::{Engine, Metrics};

const PATIENCE: Duration = Duration::from_secs(20);
const ENGINES: [EngineChoice; 3] = [EngineChoice::Copy, EngineChoice::Splice, EngineChoice::Auto];

fn run<T>(test: impl Future<Output = T>) -> T {
    let executor = Executor::new().unwrap();
    executor.block_on(async { timeout(PATIENCE, test).await.expect("the test hangs") }).unwrap()
}

/// Starts a task and returns the channel for its result.
fn start<T: 'static>(work: impl Future<Output = T> + 'static) -> oneshot::Receiver<T> {
    let (sender, result) = oneshot::channel();
    executor::spawn(async {
        let _ = sender.send(work.await);
    });
    result
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Unix,
}

/// Two ends of one connection, not yet registered with a reactor.
fn pair(kind: Kind) -> (OwnedFd, OwnedFd) {
    match kind {
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            (near.into(), far.into())
        }
        Kind::Unix => {
            let (near, far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            (near.into(), far.into())
        }
    }
}

/// The engines and registry of a worker, and a client and a backend connected through a relay.
struct RelayFixture {
    metrics: Arc<Metrics>,
    registry: Rc<ConnectionRegistry>,
    entry: RegistryGuard,
    engines: Rc<Engines>,
    settings: RelaySettings,
    client: Rc<Stream>,
    backend: Rc<Stream>,
    /// Further handles to the relay's own sockets.
    inner: RefCell<Vec<OwnedFd>>,
}

impl RelayFixture {
    fn new(engine: EngineChoice, kind: Kind, pipes: usize) -> (Self, Relay) {
        let listener = Arc::new(RelayOptions { engine, ..RelayOptions::default() });
        Self::with(RelaySettings { listener, backend: Arc::default() }, kind, pipes)
    }

    fn with(settings: RelaySettings, kind: Kind, pipes: usize) -> (Self, Relay) {
        let metrics = Metrics::new();
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let entry = registry.register(1, ListenerId::nth(0), registry.worker_slot(), metrics.listener("l"));
        let engines = Rc::new(Engines::new(PipePool::new(pipes, Arc::clone(&metrics))));
        let (client, inner_client) = pair(kind);
        let (inner_backend, backend) = pair(kind);
        let inner = vec![inner_client.try_clone().unwrap(), inner_backend.try_clone().unwrap()].into();
        let parts = RelayParts::new(
            Stream::register(inner_client).unwrap(),
            Stream::register(inner_backend).unwrap(),
            Vec::new(),
            NodelayDue::SecondWrite,
        );
        let relay = Relay::new(parts, settings.clone(), Rc::clone(&engines));
        let client = Rc::new(Stream::register(client).unwrap());
        let backend = Rc::new(Stream::register(backend).unwrap());
        (Self { metrics, registry, entry, engines, settings, client, backend, inner }, relay)
    }

    /// Ends a relay as its task does: both sockets are closed.
    fn close(&self, relay: Relay) {
        self.inner.borrow_mut().clear();
        drop(relay);
    }

    fn fallbacks(&self, reason: &str) -> f64 {
        let series = format!("pointsman_pipe_fallbacks_total{{reason=\"{reason}\"}} ");
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn send_all(to: &Rc<Stream>, bytes: Vec<u8>, chunk: usize) -> oneshot::Receiver<()> {
    let to = Rc::clone(to);
    start(async move {
        for chunk in bytes.chunks(chunk) {
            let mut sent = 0;
            while sent < chunk.len() {
                sent += to.send(&chunk[sent..]).await.unwrap();
            }
        }
        to.finish().unwrap();
    })
}

fn read_all(from: &Rc<Stream>, buffer: usize) -> oneshot::Receiver<Vec<u8>> {
    // Another task may wait for the same stream.
    let from = Stream::register(from.as_fd().try_clone_to_owned().unwrap()).unwrap();
    start(async move {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; buffer];
        loop {
            match from.recv(&mut buffer).await.unwrap() {
                0 => return bytes,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
            yield_now().await;
        }
    })
}

/// The traffic of one case of the property.
#[derive(Clone, Debug)]
struct Traffic {
    engine: EngineChoice,
    kind: Kind,
    sizes: [usize; 2],
    chunks: [usize; 2],
    buffers: [usize; 2],
    /// The numbers of executor turns after which the relay is stopped, one after another.
    turns: Vec<usize>,
    pipes: usize,
}

fn traffic() -> impl Strategy<Value = Traffic> {
    (
        prop::sample::select(ENGINES.to_vec()),
        prop::sample::select(vec![Kind::Tcp, Kind::Unix]),
        [0..3_000_000_usize, 0..300_000],
        [1000..200_000_usize, 1000..200_000],
        [500..200_000_usize, 500..200_000],
        prop::collection::vec(0..20_usize, 1..8),
        0..3_usize,
    )
        .prop_map(|(engine, kind, sizes, chunks, buffers, turns, pipes)| Traffic {
            engine,
            kind,
            sizes,
            chunks,
            buffers,
            turns,
            pipes,
        })
}

/// Stops and resumes a relay under traffic until it has ended. Returns the number of stops.
async fn interrupt(case: &Traffic) -> usize {
    let (fixture, mut relay) = RelayFixture::new(case.engine, case.kind, case.pipes);
    let sent = [pattern(case.sizes[0], 1), pattern(case.sizes[1], 2)];
    let writing = [
        send_all(&fixture.client, sent[0].clone(), case.chunks[0]),
        send_all(&fixture.backend, sent[1].clone(), case.chunks[1]),
    ];
    let reading = [read_all(&fixture.backend, case.buffers[0]), read_all(&fixture.client, case.buffers[1])];
    let mut stops = 0;
    let end = loop {
        let turns = case.turns[stops % case.turns.len()];
        let end = tokio::select! {
            biased;
            end = relay.run(&fixture.entry) => Some(end),
            () = async { for _ in 0..turns { yield_now().await } } => None,
        };
        if let Some(end) = end {
            break end;
        }
        stops += 1;
        let mut parts = relay.stop().unwrap();
        for StoppedFlow { held, .. } in [&parts.from_client, &parts.from_backend] {
            assert!(held.len() <= 1 << 20, "{} bytes held", held.len());
        }
        if stops.is_multiple_of(2) {
            // A new descriptor, as in another process.
            parts.client = Stream::register(parts.client.into_fd()).unwrap();
            parts.backend = Stream::register(parts.backend.into_fd()).unwrap();
        }
        relay = Relay::new(parts, fixture.settings.clone(), Rc::clone(&fixture.engines));
        // With a case of no turns at all, the peers must still get a turn.
        yield_now().await;
    };
    assert!(matches!(end, RelayEnd::Finished { .. }), "{end:?}");
    fixture.close(relay);
    for (reading, sent) in reading.into_iter().zip(&sent) {
        let received = reading.await.unwrap();
        assert!(received == *sent, "{} of {} bytes, or others", received.len(), sent.len());
    }
    for writing in writing {
        writing.await.unwrap();
    }
    let totals = [Direction::FromClient, Direction::FromBackend].map(|way| fixture.entry.total(way));
    // Bytes that a stop takes out of a pipe or buffer were read, and are counted when they are written.
    assert_eq!(totals, sent.map(|bytes| bytes.len() as u64));
    assert_eq!(fixture.entry.total_dropped(), 0);
    stops
}

#[test]
fn a_relay_stopped_at_any_moment_loses_nothing() {
    let stops = Cell::new(0);
    let config = ProptestConfig { cases: 48, ..ProptestConfig::default() };
    proptest!(config, |(case in traffic())| {
        stops.set(stops.get() + run(interrupt(&case)));
    });
    assert!(stops.get() > 48, "stopped {} times only", stops.get());
}

/// A direction that has ended stays ended over a stop, and the other goes on.
#[test]
fn a_half_closed_relay_goes_on_half_closed() {
    for engine in ENGINES {
        run(async {
            let (fixture, mut relay) = RelayFixture::new(engine, Kind::Tcp, 4);
            let mut buffer = [0; 16];
            fixture.client.finish().unwrap();
            tokio::select! {
                end = relay.run(&fixture.entry) => panic!("{end:?}"),
                ended = fixture.backend.recv(&mut buffer) => assert_eq!(ended.unwrap(), 0),
            }
            let parts = relay.stop().unwrap();
            assert_eq!((&*parts.from_client.held, parts.from_client.stage), (&[][..], FlowStage::Done));
            assert_eq!((&*parts.from_backend.held, parts.from_backend.stage), (&[][..], FlowStage::Open));
            let mut relay = Relay::new(parts, fixture.settings.clone(), Rc::clone(&fixture.engines));
            let sending = send_all(&fixture.backend, b"answer".to_vec(), 3);
            let reading = read_all(&fixture.client, 4);
            assert_eq!(relay.run(&fixture.entry).await, RelayEnd::Finished { first: Side::Client });
            fixture.close(relay);
            assert_eq!(reading.await.unwrap(), b"answer");
            sending.await.unwrap();
        });
    }
}

/// The end of a stream is level-triggered for a reader, so no reader may poll it again and again.
#[test]
fn a_half_closed_relay_is_not_polled_without_reason() {
    for engine in ENGINES {
        for client_ends in [true, false] {
            run(async {
                let (fixture, mut relay) = RelayFixture::new(engine, Kind::Tcp, 4);
                let (ender, other) = match client_ends {
                    true => (&fixture.client, &fixture.backend),
                    false => (&fixture.backend, &fixture.client),
                };
                ender.finish().unwrap();
                let polls = Rc::new(Cell::new(0));
                let counter = Rc::clone(&polls);
                let entry = fixture.entry;
                // A task of its own is polled only when it was woken.
                let running = start(async move {
                    let mut running = pin!(relay.run(&entry));
                    std::future::poll_fn(|cx| {
                        counter.set(counter.get() + 1);
                        running.as_mut().poll(cx)
                    })
                    .await
                });
                assert_eq!(other.recv(&mut [0]).await.unwrap(), 0);
                for _ in 0..10_000 {
                    yield_now().await;
                }
                assert!((1..10).contains(&polls.get()), "{} polls", polls.get());
                other.finish().unwrap();
                assert!(matches!(running.await.unwrap(), RelayEnd::Finished { .. }));
            });
        }
    }
}

/// Without pipes, or with fewer pipes than directions, all bytes that cannot be spliced are copied and
/// counted.
#[test]
fn streams_are_copied_when_pipes_have_run_out() {
    for (pipes, spliced) in [(0, false), (1, true)] {
        run(async {
            let (fixture, mut relay) = RelayFixture::new(EngineChoice::Splice, Kind::Tcp, pipes);
            let sent = [pattern(3 << 20, 3), pattern(3 << 20, 4)];
            let writing = [
                send_all(&fixture.client, sent[0].clone(), 100_000),
                send_all(&fixture.backend, sent[1].clone(), 100_000),
            ];
            let reading = [read_all(&fixture.backend, 50_000), read_all(&fixture.client, 50_000)];
            let end = relay.run(&fixture.entry).await;
            assert!(matches!(end, RelayEnd::Finished { .. }));
            fixture.close(relay);
            for (reading, sent) in reading.into_iter().zip(&sent) {
                assert!(reading.await.unwrap() == *sent);
            }
            for writing in writing {
                writing.await.unwrap();
            }
            assert!(fixture.engines.pipes.open() <= pipes);
            assert!(fixture.fallbacks("limit") >= 1.0);
            fixture.registry.sweep();
            let bytes = |engine| {
                let text = fixture.metrics.render();
                let of_engine = format!("engine=\"{engine}\"");
                let lines = text
                    .lines()
                    .filter(|line| line.starts_with("pointsman_bytes_total{") && line.contains(&of_engine));
                lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
            };
            assert_eq!(bytes("copied") + bytes("spliced"), (6 << 20) as f64);
            assert_eq!(bytes("spliced") > 0.0, spliced);
            assert!(bytes("copied") > 0.0);
        });
    }
    assert_eq!(Engine::ALL.len(), 2, "an engine that this test does not know");
}

/// The first sweep may come at once; the second one sets the options that a short connection does not pay
/// for.
#[test]
fn the_second_sweep_sets_the_late_options() {
    run(async {
        let (fixture, mut relay) = RelayFixture::new(EngineChoice::Auto, Kind::Tcp, 4);
        let inner = fixture.inner.take();
        let backend = SockRef::from(&inner[1]);
        let mut running = pin!(relay.run(&fixture.entry));
        let mut poll = async || {
            tokio::select! {
                biased;
                end = &mut running => panic!("{end:?}"),
                () = yield_now() => {}
            }
        };
        poll().await;
        fixture.registry.sweep();
        poll().await;
        assert!(!backend.keepalive().unwrap());
        fixture.registry.sweep();
        poll().await;
        assert!(backend.keepalive().unwrap());
        assert_eq!(backend.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(backend.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(backend.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(backend.tcp_user_timeout().unwrap(), None, "it would replace the count");
        assert!(backend.tcp_nodelay().unwrap());
    });
}

/// TCP_NODELAY comes with the second write to the backend, not with the first.
#[test]
fn the_second_write_to_a_backend_goes_without_delay() {
    run(async {
        let (fixture, mut relay) = RelayFixture::new(EngineChoice::Auto, Kind::Tcp, 4);
        let inner = fixture.inner.take();
        let backend = SockRef::from(&inner[1]);
        for (round, nodelay) in [(1, false), (2, true)] {
            fixture.client.send(b"x").await.unwrap();
            let mut buffer = [0; 16];
            tokio::select! {
                end = relay.run(&fixture.entry) => panic!("{end:?}"),
                read = fixture.backend.recv(&mut buffer) => assert_eq!(read.unwrap(), 1),
            }
            assert_eq!(backend.tcp_nodelay().unwrap(), nodelay, "write {round}");
        }
    });
}

/// The owner of a relay that counts the notes of a first byte and the interval records.
struct NotingOwner {
    entry: RegistryGuard,
    first_bytes: Cell<u32>,
    records: Cell<u32>,
}

impl RelayOwner for NotingOwner {
    fn entry(&self) -> &RegistryGuard {
        &self.entry
    }

    fn first_byte(&self) {
        self.first_bytes.set(self.first_bytes.get() + 1);
    }

    fn log(&self) {
        self.records.set(self.records.get() + 1);
    }
}

#[test]
fn the_first_byte_of_a_backend_is_noted_once() {
    run(async {
        let (RelayFixture { entry, client, backend, .. }, mut relay) =
            RelayFixture::new(EngineChoice::Auto, Kind::Tcp, 4);
        let owner = NotingOwner { entry, first_bytes: Cell::new(0), records: Cell::new(0) };
        let mut buffer = [0; 16];
        for (from, to, noted) in [(&client, &backend, 0), (&backend, &client, 1), (&backend, &client, 1)] {
            from.send(b"x").await.unwrap();
            tokio::select! {
                end = relay.run(&owner) => panic!("{end:?}"),
                read = to.recv(&mut buffer) => assert_eq!(read.unwrap(), 1),
            }
            assert_eq!(owner.first_bytes.get(), noted);
        }
        let mut running = pin!(relay.run(&owner));
        for _ in 0..2 {
            backend.send(b"x").await.unwrap();
            tokio::select! {
                end = &mut running => panic!("{end:?}"),
                read = client.recv(&mut buffer) => assert_eq!(read.unwrap(), 1),
            }
        }
        assert_eq!(owner.first_bytes.get(), 1);
    });
}

/// The command may come before and after the first byte of the backend.
#[test]
fn a_command_to_log_makes_a_record_and_the_relay_goes_on() {
    run(async {
        let (RelayFixture { entry, client, backend, .. }, mut relay) =
            RelayFixture::new(EngineChoice::Auto, Kind::Tcp, 4);
        let owner = NotingOwner { entry, first_bytes: Cell::new(0), records: Cell::new(0) };
        let mut running = pin!(relay.run(&owner));
        let mut buffer = [0; 16];
        for (from, to, records) in [(&client, &backend, 1), (&backend, &client, 2), (&client, &backend, 3)] {
            owner.entry.send_log();
            from.send(b"x").await.unwrap();
            tokio::select! {
                end = &mut running => panic!("{end:?}"),
                read = to.recv(&mut buffer) => assert_eq!(read.unwrap(), 1),
            }
            assert_eq!(owner.records.get(), records);
        }
        assert_eq!(owner.first_bytes.get(), 1);
    });
}

/// A run is a part of the memory of each idle connection.
#[test]
fn a_run_is_small() {
    assert_eq!(size_of::<RelayRun<'_, RegistryGuard>>(), 3 * size_of::<usize>());
}

/// A commanded close while bytes wait resets both sides and counts the lost bytes.
#[test]
fn an_ordered_close_resets_both_sides() {
    for engine in ENGINES {
        run(async {
            let (fixture, mut relay) = RelayFixture::new(engine, Kind::Tcp, 4);
            fixture.registry.close_all();
            let closed = RelayEnd::Closed { reason: CloseReason::DrainDeadline };
            assert_eq!(relay.run(&fixture.entry).await, closed);
            drop((relay, fixture.inner));
            for end in [&fixture.client, &fixture.backend] {
                let error = end.recv(&mut [0]).await.expect_err("a reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        });
    }
}
