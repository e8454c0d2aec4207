//! Peers that pause: the time for which a relay waits for readers that take no bytes.

use super::*;

/// Sends to a side until nothing more fits, so that its peer, which does not read, has a closed window.
async fn fill(from: &Stream) -> usize {
    let mut sent = 0;
    // The relay moves bytes between two calls, so one call does not show that it has moved all.
    while let Ok(count) = timeout(Duration::from_millis(100), from.send(&[7; 65536])).await {
        sent += count.unwrap();
    }
    sent
}

fn settings(engine: EngineChoice, stall_timeout: Option<Duration>) -> RelaySettings {
    let peer = PeerTimeouts { stall_timeout, ..PeerTimeouts::default() };
    let listener = RelayOptions { engine, client: peer, ..RelayOptions::default() };
    RelaySettings { listener: Arc::new(listener), backend: Arc::new(peer) }
}

/// Sweeps and polls a relay whose peer does not read, until it ends or this number of sweeps has passed.
async fn sweep(fixture: &RelayFixture, relay: &mut Relay, sweeps: usize) -> Option<RelayEnd> {
    let mut running = pin!(relay.run(&fixture.entry));
    for _ in 0..sweeps {
        fixture.registry.sweep();
        for _ in 0..4 {
            tokio::select! {
                biased;
                end = &mut running => return Some(end),
                () = yield_now() => {}
            }
        }
    }
    None
}

/// Fills the buffers towards a side that does not read, through the relay.
async fn stall(fixture: &RelayFixture, relay: &mut Relay, stalled: Side) {
    let from = match stalled {
        Side::Client => &fixture.backend,
        Side::Backend => &fixture.client,
    };
    tokio::select! {
        end = relay.run(&fixture.entry) => panic!("{end:?}"),
        sent = fill(from) => assert!(sent > 0),
    }
}

#[test]
fn a_stalled_peer_is_reset_after_its_stall_timeout_only() {
    for (engine, kind, stalled) in [
        (EngineChoice::Copy, Kind::Tcp, Side::Client),
        (EngineChoice::Splice, Kind::Tcp, Side::Backend),
        (EngineChoice::Auto, Kind::Unix, Side::Client),
        (EngineChoice::Auto, Kind::Unix, Side::Backend),
    ] {
        run(async {
            let (fixture, mut relay) = RelayFixture::with(settings(engine, Some(Duration::ZERO)), kind, 4);
            stall(&fixture, &mut relay, stalled).await;
            assert_eq!(sweep(&fixture, &mut relay, 40).await, Some(RelayEnd::Stalled { side: stalled }));
            assert!(fixture.entry.total_dropped() > 0, "what the relay held is counted");
            fixture.close(relay);
            if matches!(kind, Kind::Tcp) {
                let end = if stalled == Side::Client { &fixture.backend } else { &fixture.client };
                let error = end.recv(&mut [0]).await.expect_err("a reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            for timeout in [None, Some(Duration::from_secs(3600))] {
                let (fixture, mut relay) = RelayFixture::with(settings(engine, timeout), kind, 4);
                stall(&fixture, &mut relay, stalled).await;
                assert_eq!(sweep(&fixture, &mut relay, 500).await, None, "{timeout:?}");
            }
        });
    }
}

/// All bytes of the request are in the kernel: the relay holds none.
#[test]
fn a_stalled_peer_is_noticed_where_the_relay_holds_nothing() {
    run(async {
        let (fixture, mut relay) =
            RelayFixture::with(settings(EngineChoice::Auto, Some(Duration::ZERO)), Kind::Unix, 4);
        fixture.client.send(&[7; 100]).await.unwrap();
        assert_eq!(sweep(&fixture, &mut relay, 40).await, Some(RelayEnd::Stalled { side: Side::Backend }));
        assert_eq!(fixture.entry.total_dropped(), 0);
        assert_eq!(fixture.entry.total(Direction::FromClient), 100);
    });
}

/// The stall timeout is for bytes that wait; without them the peer has nothing to read.
#[test]
fn an_idle_peer_is_not_stalled() {
    for kind in [Kind::Tcp, Kind::Unix] {
        run(async {
            let (fixture, mut relay) =
                RelayFixture::with(settings(EngineChoice::Auto, Some(Duration::ZERO)), kind, 4);
            fixture.client.send(&[7; 100]).await.unwrap();
            let mut buffer = [0; 200];
            tokio::select! {
                end = relay.run(&fixture.entry) => panic!("{end:?}"),
                read = fixture.backend.recv(&mut buffer) => assert_eq!(read.unwrap(), 100),
            }
            assert_eq!(sweep(&fixture, &mut relay, 100).await, None);
            assert!(relay.peers.is_none(), "nothing is remembered of drained peers");
        });
    }
}

/// Returns the number of sweeps in this time.
fn sweeps(time: Duration) -> usize {
    time.as_millis().div_ceil(TICK.as_millis()) as usize
}

/// Sends bytes and the end from the backend. Waits until the kernel has sent the client all that it takes
/// unread.
async fn send_last(fixture: &RelayFixture, relay: &mut Relay) {
    let sent = fixture.backend.send(&vec![7; 150_000]).await.unwrap();
    assert!(sent > 0);
    fixture.backend.finish().unwrap();
    let inner = fixture.inner.borrow()[0].try_clone().unwrap();
    let settled = async {
        let is_acknowledged = || tcp::peer_state(&inner).unwrap().is_none_or(|peer| peer.unacknowledged == 0);
        while fixture.entry.total(Direction::FromBackend) < sent as u64 || !is_acknowledged() {
            yield_now().await;
        }
    };
    tokio::select! {
        end = relay.run(&fixture.entry) => panic!("{end:?}"),
        () = settled => {}
    }
}

/// A reader that pauses after the end of a transfer is stalled, not silent: it gets the bytes and the end
/// later.
#[test]
fn a_half_closed_connection_waits_for_its_reader_as_long_as_an_idle_one() {
    for (engine, kind) in [(EngineChoice::Copy, Kind::Tcp), (EngineChoice::Splice, Kind::Unix)] {
        run(async {
            let idle = GONE_AFTER * 10;
            let listener = Arc::new(RelayOptions { engine, idle_timeout: idle, ..RelayOptions::default() });
            let waits = sweeps(listener.half_closed_timeout);
            let settings = RelaySettings { listener, backend: Arc::default() };
            let (fixture, mut relay) = RelayFixture::with(settings.clone(), kind, 4);
            send_last(&fixture, &mut relay).await;
            assert_eq!(sweep(&fixture, &mut relay, 5 * waits).await, None);
            let reading = read_all(&fixture.client, 100_000);
            tokio::select! {
                end = relay.run(&fixture.entry) => panic!("{end:?}"),
                bytes = reading => assert!(!bytes.unwrap().is_empty()),
            }
            let inner = fixture.inner.borrow()[0].try_clone().unwrap();
            while socket::unacknowledged(&inner).unwrap() > 0 {
                yield_now().await;
            }
            // Everything is read, which the next check finds; from then on the client is silent.
            assert_eq!(sweep(&fixture, &mut relay, waits + 15).await, Some(RelayEnd::HalfClosed));

            let (fixture, mut relay) = RelayFixture::with(settings, kind, 4);
            send_last(&fixture, &mut relay).await;
            // On a busy host the kernel may take some more bytes meanwhile, which restarts the wait.
            let end = sweep(&fixture, &mut relay, 3 * sweeps(idle)).await;
            assert_eq!(end, Some(RelayEnd::Idle), "the idle timeout bounds it");
        });
    }
}

/// No byte moves through the relay, but the reader takes what the kernel holds for it.
#[test]
fn a_connection_whose_last_bytes_are_being_read_is_not_idle() {
    run(async {
        let listener = Arc::new(RelayOptions { idle_timeout: TICK * 20, ..RelayOptions::default() });
        let settings = RelaySettings { listener, backend: Arc::default() };
        let (fixture, mut relay) = RelayFixture::with(settings, Kind::Unix, 4);
        fixture.backend.send(&[7; 40_000]).await.unwrap();
        assert_eq!(sweep(&fixture, &mut relay, 15).await, None);
        assert!(fixture.client.recv(&mut vec![0; 50_000]).await.unwrap() > 0);
        assert_eq!(sweep(&fixture, &mut relay, 15).await, None, "it was read, so a new wait began");
        assert_eq!(sweep(&fixture, &mut relay, 45).await, Some(RelayEnd::Idle));
    });
}

/// Such a timeout is over before the relay first checks whether bytes wait in the kernel.
#[test]
fn a_short_idle_timeout_does_not_cut_a_reader_off() {
    run(async {
        let listener = Arc::new(RelayOptions { idle_timeout: TICK * 4, ..RelayOptions::default() });
        let settings = RelaySettings { listener, backend: Arc::default() };
        let (fixture, mut relay) = RelayFixture::with(settings, Kind::Unix, 4);
        fixture.backend.send(&[7; 40_000]).await.unwrap();
        assert_eq!(sweep(&fixture, &mut relay, 7).await, None, "the bytes are found, and may move yet");
        assert!(fixture.client.recv(&mut vec![0; 50_000]).await.unwrap() > 0);
        assert_eq!(sweep(&fixture, &mut relay, 5).await, None, "it was read, so a new wait began");
        assert_eq!(sweep(&fixture, &mut relay, 20).await, Some(RelayEnd::Idle));
    });
}

/// The bytes of a side that finished before it broke are complete, and wait for a reader that pauses.
#[test]
fn the_last_bytes_of_a_broken_side_wait_for_a_paused_reader() {
    for engine in ENGINES {
        run(async {
            let half_closed_timeout = Duration::from_millis(50);
            let listener = Arc::new(RelayOptions { engine, half_closed_timeout, ..RelayOptions::default() });
            let settings = RelaySettings { listener, backend: Arc::default() };
            let (fixture, mut relay) = RelayFixture::with(settings, Kind::Tcp, 4);
            send_last(&fixture, &mut relay).await;
            let RelayFixture { registry, entry, client, backend, inner, .. } = fixture;
            let sent = entry.total(Direction::FromBackend);
            socket::reset_on_close(&*backend).unwrap();
            drop((backend, inner));
            let mut running = start(async move { relay.run(&entry).await });
            for _ in 0..20 {
                registry.sweep();
                let ended = timeout(half_closed_timeout / 5, &mut running).await;
                assert!(ended.is_err(), "the reader had not read everything: {ended:?}");
            }
            let mut received = 0;
            while received < sent {
                received += client.recv(&mut vec![0; 1 << 16]).await.unwrap() as u64;
            }
            assert_eq!(running.await.unwrap(), RelayEnd::Reset { by: Side::Backend });
        });
    }
}
