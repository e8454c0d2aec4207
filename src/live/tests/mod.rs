mod log_orders;
mod requests;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::stage::{ConnectionStage, FIRST_CHECK};
use super::*;
use crate::executor::{Executor, yield_now};
use crate::ids::{BackendId, ListenerId};
use crate::telemetry::{CloseReason, Direction, Engine, Metrics};

const CLOSE: ConnectionCommand = ConnectionCommand::Close(CloseReason::DrainDeadline);

const LISTENER: ListenerId = ListenerId::nth(0);

fn command(entry: &ConnectionEntry) -> Option<ConnectionCommand> {
    match entry.poll_command(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(command) => Some(command),
        Poll::Pending => None,
    }
}

fn one() -> (Rc<ConnectionRegistry>, RegistryGuard) {
    let registry = ConnectionRegistry::new(Loads::new(1), 0);
    let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
    (registry, entry)
}

#[test]
fn silence_expires_and_bytes_prolong() {
    let (registry, entry) = one();
    entry.expire_after(TICK * 2);
    registry.sweep();
    assert_eq!(command(&entry), None);
    entry.moved(Direction::FromClient, Engine::Copied, 1);
    registry.sweep();
    registry.sweep();
    assert_eq!(command(&entry), None, "the byte started a new wait");
    registry.sweep();
    assert_eq!(command(&entry), Some(ConnectionCommand::Expire));
    assert_eq!(entry.total(Direction::FromClient), 1);
}

/// A wait goes on in another worker or program.
#[test]
fn a_move_neither_prolongs_nor_shortens_a_wait() {
    let (registry, entry) = one();
    entry.establish();
    entry.limit_silence(TICK * 3);
    for _ in 0..2 {
        registry.sweep();
    }
    let migrating = entry.leave();
    assert_eq!(migrating.quiet(), TICK, "the first sweep may come at once, so it does not count");
    let entry = registry.readmit(migrating, registry.worker_slot());
    entry.limit_silence(TICK * 3);
    registry.sweep();
    assert_eq!(command(&entry), None);
    registry.sweep();
    assert_eq!(command(&entry), Some(ConnectionCommand::Expire));
    let entry = registry.readmit(entry.leave(), registry.worker_slot());
    entry.limit_silence(TICK * 3);
    assert_eq!(command(&entry), Some(ConnectionCommand::Expire), "no sweep is needed");
}

/// A sweep may come right after the start of a wait. The time from the start of the wait to this sweep was then
/// shorter than a tick.
#[test]
fn a_wait_is_never_shorter_than_its_limit() {
    let registry = ConnectionRegistry::new(Loads::new(1), 0);
    let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
    for ticks in 1..4 {
        entry.expire_after(TICK * ticks);
        for _ in 0..ticks {
            registry.sweep();
            assert_eq!(command(&entry), None, "{ticks}");
        }
        registry.sweep();
        assert_eq!(command(&entry), Some(ConnectionCommand::Expire), "{ticks}");
    }
}

#[test]
fn entries_leave_in_any_order() {
    let metrics = Metrics::new().listener("l");
    let registry = ConnectionRegistry::new(Loads::new(1), 0);
    let mut all: Vec<_> = (0..5)
        .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
        .collect();
    for victim in [0, 2, 0, 1, 0] {
        drop(all.remove(victim));
        registry.close_all();
        for entry in &all {
            assert_eq!(command(entry), Some(CLOSE), "{}", entry.id());
        }
        assert_eq!(registry.len(), all.len());
    }
    assert!(registry.is_empty());
}

#[test]
fn a_connection_younger_than_a_tick_is_left_alone() {
    let (registry, entry) = one();
    entry.needs_tick(true);
    registry.sweep();
    assert_eq!(command(&entry), None);
    registry.sweep();
    assert_eq!(command(&entry), Some(ConnectionCommand::Tick));
}

#[test]
fn a_close_is_not_overwritten_by_a_tick() {
    let (registry, entry) = one();
    registry.sweep();
    entry.needs_tick(true);
    registry.close_all();
    registry.sweep();
    assert_eq!(command(&entry), Some(CLOSE));
    registry.sweep();
    assert_eq!(command(&entry), Some(ConnectionCommand::Tick));
}

#[test]
fn a_look_is_due_once_after_bytes_moved() {
    let (registry, entry) = one();
    let mut looks = Vec::new();
    for sweep in 0..40 {
        if sweep == 5 {
            entry.moved(Direction::FromClient, Engine::Copied, 1);
        }
        registry.sweep();
        if entry.look_is_due() {
            assert_eq!(command(&entry), Some(ConnectionCommand::Tick), "{sweep}");
            looks.push(sweep);
        }
        assert_eq!(command(&entry), None, "{sweep}");
    }
    assert_eq!(looks, [15]);
    // Bytes that move all the time do not delay the check.
    for _ in 0..2 * usize::from(FIRST_CHECK) {
        entry.moved(Direction::FromClient, Engine::Copied, 1);
        registry.sweep();
    }
    assert!(entry.look_is_due() && !entry.look_is_due());
    entry.look_again(2);
    registry.sweep();
    assert!(!entry.look_is_due());
    registry.sweep();
    assert!(entry.look_is_due());
}

#[test]
fn a_command_is_replaced_by_one_of_a_higher_rank_only() {
    let (_registry, entry) = one();
    let ranked = [
        ConnectionCommand::Tick,
        ConnectionCommand::Log,
        ConnectionCommand::Describe,
        ConnectionCommand::Move(MoveTarget::Worker(1)),
        ConnectionCommand::Expire,
        CLOSE,
    ];
    for (rank, weak) in ranked.into_iter().enumerate() {
        for strong in &ranked[rank..] {
            for (first, second) in [(weak, *strong), (*strong, weak)] {
                entry.send_command(first);
                entry.send_command(second);
                assert_eq!(command(&entry), Some(*strong), "{first:?} {second:?}");
            }
        }
    }
}

/// A blocked stream waits for a tick at each sweep.
#[test]
fn blocked_streams_leave_too() {
    let metrics = Metrics::new().listener("l");
    let registry = ConnectionRegistry::new(Loads::new(2), 0);
    let streams: Vec<_> = (0..4)
        .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
        .collect();
    for _ in 0..2 {
        for stream in &streams {
            stream.needs_tick(true);
            stream.moved(Direction::FromBackend, Engine::Spliced, loads::BUSY);
        }
        registry.sweep();
    }
    registry.give_streams_away();
    let commands: Vec<_> = streams.iter().map(|entry| command(entry)).collect();
    let count = |expected| commands.iter().filter(|command| **command == Some(expected)).count();
    assert_eq!(
        (count(ConnectionCommand::Move(MoveTarget::Worker(1))), count(ConnectionCommand::Tick)),
        (2, 2),
        "{commands:?}"
    );
}

#[test]
fn streams_leave_until_both_workers_are_even() {
    let metrics = Metrics::new().listener("l");
    let loads = Loads::new(2);
    let registry = ConnectionRegistry::new(Arc::clone(&loads), 0);
    let streams: Vec<_> = (0..8)
        .map(|id| registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics)))
        .collect();
    let idle = registry.register(9, LISTENER, registry.worker_slot(), metrics);
    for stream in &streams {
        stream.moved(Direction::FromBackend, Engine::Spliced, loads::BUSY);
    }
    registry.sweep();
    registry.give_streams_away();
    let moving = streams
        .iter()
        .filter(|entry| command(entry) == Some(ConnectionCommand::Move(MoveTarget::Worker(1))))
        .count();
    assert_eq!(moving, 4);
    assert_eq!(command(&idle), None);
    registry.give_streams_away();
    drop(streams);
}

#[test]
fn the_only_stream_stays() {
    let loads = Loads::new(2);
    let registry = ConnectionRegistry::new(loads, 0);
    let entry = registry.register(1, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
    entry.moved(Direction::FromClient, Engine::Spliced, 100 * loads::BUSY);
    registry.sweep();
    registry.give_streams_away();
    assert_eq!(command(&entry), None);
}

#[test]
fn a_migrating_entry_keeps_its_counts() {
    let loads = Loads::new(2);
    let (here, there) =
        (ConnectionRegistry::new(Arc::clone(&loads), 0), ConnectionRegistry::new(Arc::clone(&loads), 1));
    let metrics = Metrics::new();
    let entry = here.register(7, LISTENER, here.worker_slot(), metrics.listener("l"));
    let backend = Arc::default();
    entry.tallies().connect(&backend);
    entry.tallies().ask(&metrics.pool("p"));
    entry.join(BackendId::nth(4));
    entry.moved(Direction::FromClient, Engine::Copied, 10);
    entry.dropped(2);
    let worker_slot = here.worker_slot_at(1);
    let entry = there.readmit(entry.leave(), worker_slot);
    assert_eq!((here.len(), there.len()), (0, 1));
    assert_eq!((loads.connections(0), loads.connections(1)), (0, 1));
    assert_eq!((entry.id(), entry.total(Direction::FromClient), entry.total_dropped()), (7, 10, 2));
    there.close_groups(&[ConnectionGroup::Backend(BackendId::nth(4))]);
    assert_eq!(command(&entry), Some(CLOSE));
    entry.moved(Direction::FromClient, Engine::Spliced, 5);
    assert_eq!(backend.bytes(Direction::FromClient), 10);
    there.sweep();
    assert_eq!(backend.bytes(Direction::FromClient), 15);
    let page = metrics.render();
    assert!(page.contains(r#"pointsman_pool_bytes_total{pool="p",direction="from_client"} 15"#), "{page}");
}

const DOWN: ConnectionCommand = ConnectionCommand::Close(CloseReason::BackendDown);

/// A registry with established connections of these backends.
fn connected_to(backends: &[u32]) -> (Rc<ConnectionRegistry>, Vec<RegistryGuard>) {
    let metrics = Metrics::new().listener("l");
    let registry = ConnectionRegistry::new(Loads::new(1), 0);
    let connect = |(id, backend): (usize, &u32)| {
        let entry = registry.register(id as u64, LISTENER, registry.worker_slot(), Arc::clone(&metrics));
        entry.join(BackendId::nth(*backend));
        entry.establish();
        entry
    };
    let entries = backends.iter().enumerate().map(connect).collect();
    (registry, entries)
}

/// Returns true if a connection waits for its turn to be closed.
fn is_queued(entry: &ConnectionEntry) -> bool {
    entry.waits_to_be_closed()
}

fn notice(backend: u32, rate: u32) -> Arc<CloseNotice> {
    CloseNotice::new(BackendId::nth(backend), CloseReason::BackendDown, ClosePace::new(rate))
}

/// Waits until one of these gets a command. Returns its number and the command.
async fn next_command(entries: &[RegistryGuard]) -> (u64, ConnectionCommand) {
    std::future::poll_fn(|cx| {
        for entry in entries {
            if let Poll::Ready(command) = entry.poll_command(cx) {
                return Poll::Ready((entry.id(), command));
            }
        }
        Poll::Pending
    })
    .await
}

fn run(test: impl Future<Output = ()>) {
    Executor::new().unwrap().block_on(test).unwrap();
}

#[test]
fn a_backends_connections_are_closed_in_turn() {
    run(async {
        let (registry, entries) = connected_to(&[7, 8, 7, 7]);
        let began = std::time::Instant::now();
        registry.close_in_turn(notice(7, 50));
        for expected in [0, 2, 3] {
            assert_eq!(next_command(&entries).await, (expected, DOWN));
        }
        assert!(began.elapsed() >= Duration::from_millis(40), "the third has the third part");
        assert_eq!(command(&entries[1]), None);
    });
}

#[test]
fn a_later_connection_is_given_notice_by_the_sweep() {
    run(async {
        let (registry, mut entries) = connected_to(&[8]);
        registry.close_in_turn(notice(7, 1000));
        let dialling = registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
        dialling.join(BackendId::nth(7));
        registry.sweep();
        assert_eq!(dialling.stage(), ConnectionStage::CONNECTING, "it may still try another backend");
        dialling.establish();
        registry.sweep();
        registry.sweep();
        entries.push(dialling);
        assert_eq!(next_command(&entries).await, (9, DOWN));
    });
}

#[test]
fn a_closed_connection_has_no_turn() {
    run(async {
        let (registry, mut entries) = connected_to(&[7; 100]);
        registry.close_in_turn(notice(7, 20));
        entries.drain(..98);
        let began = std::time::Instant::now();
        assert_eq!(next_command(&entries).await.1, DOWN);
        assert_eq!(next_command(&entries).await.1, DOWN);
        assert!(began.elapsed() < Duration::from_secs(2), "the turns of 98 others were waited for");
    });
}

#[test]
fn a_withdrawn_notice_lets_the_others_stay() {
    run(async {
        let (registry, entries) = connected_to(&[7; 5]);
        let first = notice(7, 20);
        registry.close_in_turn(Arc::clone(&first));
        next_command(&entries).await;
        first.withdraw();
        registry.sweep();
        assert!(registry.has_no_close_queue());
        while entries[1..].iter().any(|entry| is_queued(entry)) {
            yield_now().await;
        }
        assert!(entries.iter().all(|entry| command(entry).is_none()));
        // The connections can be given notice again. The first one did not obey its command, so it gets another
        // command.
        registry.close_in_turn(notice(7, 1000));
        let mut again = Vec::new();
        for _ in 0..4 {
            again.push(next_command(&entries).await.0);
        }
        again.sort_unstable();
        assert_eq!(again, [1, 2, 3, 4]);
    });
}

/// The events of a connection, in the order of its life, and the stages that they lead to.
#[test]
fn a_connection_comes_from_stage_to_stage() {
    let (_registry, entry) = one();
    let check = |event: fn(&ConnectionEntry), expected| {
        event(&entry);
        assert_eq!(entry.stage(), expected);
    };
    check(|_| {}, ConnectionStage::CONNECTING);
    check(|entry| entry.set_reading(true), ConnectionStage::Reading);
    check(|entry| entry.set_queued(true), ConnectionStage::Reading);
    check(|entry| entry.set_reading(false), ConnectionStage::CONNECTING);
    check(|entry| entry.set_queued(true), ConnectionStage::Connecting { is_queued: true });
    check(|entry| entry.set_queued(false), ConnectionStage::CONNECTING);
    check(ConnectionEntry::establish, ConnectionStage::Established);
    check(ConnectionEntry::refuse, ConnectionStage::Established);
    check(ConnectionEntry::depart, ConnectionStage::Gone);
    check(ConnectionEntry::refuse, ConnectionStage::Gone);
    check(|entry| entry.set_reading(true), ConnectionStage::Gone);
}

#[test]
fn connections_are_counted_by_stage() {
    use OpenStage::{Dialing, Queued, Reading, Refusing, Relaying};
    let (registry, _relays) = connected_to(&[7, 7]);
    let add = |event: fn(&ConnectionEntry)| {
        let guard = registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
        event(&guard);
        guard
    };
    let _others = [
        add(|entry| entry.set_reading(true)),
        add(|_| {}),
        add(|entry| entry.set_queued(true)),
        add(ConnectionEntry::refuse),
    ];
    let expected = [(Reading, 1), (Queued, 1), (Dialing, 1), (Refusing, 1), (Relaying, 2)];
    assert_eq!(registry.stages(), StageCounts::from(expected));
}

/// An entry is a part of the memory of each idle connection. The names of a connection take 80 bytes of it, and the time of
/// its accept 16: the record of the connection had 32 bytes of these before. Its interval records take 8.
#[test]
fn an_entry_is_small() {
    assert!(size_of::<ConnectionEntry>() <= 304, "{}", size_of::<ConnectionEntry>());
}
