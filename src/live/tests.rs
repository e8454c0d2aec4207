use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::stage::{CloseTurn, ConnectionStage, FIRST_CHECK};
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
    matches!(entry.stage(), ConnectionStage::Established { close: CloseTurn::Queued, .. })
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
    let established = |close| ConnectionStage::Established { close };
    let (_registry, entry) = one();
    let check = |event: fn(&ConnectionEntry), expected| {
        event(&entry);
        assert_eq!(entry.stage(), expected);
    };
    check(|_| {}, ConnectionStage::CONNECTING);
    check(|entry| entry.set_reading(true), ConnectionStage::Reading);
    check(|entry| entry.set_close_turn(CloseTurn::Queued), ConnectionStage::Reading);
    check(|entry| entry.set_queued(true), ConnectionStage::Reading);
    check(|entry| entry.set_reading(false), ConnectionStage::CONNECTING);
    check(|entry| entry.set_queued(true), ConnectionStage::Connecting { is_queued: true });
    check(|entry| entry.set_queued(false), ConnectionStage::CONNECTING);
    check(ConnectionEntry::establish, established(CloseTurn::None));
    check(|entry| entry.set_close_turn(CloseTurn::Queued), established(CloseTurn::Queued));
    check(|entry| entry.set_close_turn(CloseTurn::None), established(CloseTurn::None));
    check(ConnectionEntry::refuse, established(CloseTurn::None));
    check(ConnectionEntry::depart, ConnectionStage::Gone);
    check(ConnectionEntry::refuse, ConnectionStage::Gone);
    check(|entry| entry.set_reading(true), ConnectionStage::Gone);
    check(|entry| entry.set_close_turn(CloseTurn::Queued), ConnectionStage::Gone);
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

/// An entry is a part of the memory of each idle connection. The names of a connection take 72 bytes of it, and the time of
/// its accept 16: the record of the connection had 32 bytes of these before.
#[test]
fn an_entry_is_small() {
    assert!(size_of::<ConnectionEntry>() <= 280, "{}", size_of::<ConnectionEntry>());
}

/// The tasks of requests, run to their end beside the connections.
mod requests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::live::requests;

    /// The number of connections in a slice, and some more.
    const MANY: u64 = 3 * super::super::walk::SLICE as u64 + 7;

    /// A registry with this many connected connections of the pool `p`; those with an odd number have the backend `b`.
    fn filled(count: u64) -> (Rc<ConnectionRegistry>, Vec<RegistryGuard>) {
        let metrics = Metrics::new().listener("l");
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let connect = |id: u64| {
            let entry = registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics));
            entry.note(|card| {
                card.pool = Some("p".into());
                card.backend = (id % 2 == 1).then(|| "b".into());
            });
            entry.establish();
            entry
        };
        let entries = (0..count).map(connect).collect();
        (registry, entries)
    }

    fn query(limit: usize) -> ConnectionQuery {
        ConnectionQuery {
            filter: ConnectionFilter::default(),
            sort: ConnectionSort::Age,
            limit,
            now: std::time::Instant::now(),
        }
    }

    fn of_backend() -> ConnectionFilter {
        let backend = Some(BackendFilter { pool: Some("p".into()), name: "b".into() });
        ConnectionFilter { backend, ..ConnectionFilter::default() }
    }

    async fn listed(registry: &Rc<ConnectionRegistry>, query: ConnectionQuery) -> ConnectionPage {
        let (to, page) = oneshot::channel();
        requests::list(Rc::clone(registry), query, to).await;
        page.await.unwrap()
    }

    #[test]
    fn a_list_has_the_oldest_and_counts_the_rest() {
        run(async {
            let (registry, _entries) = filled(MANY);
            let page = listed(&registry, query(3)).await;
            assert_eq!((page.open, page.matched), (MANY, MANY));
            assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [0, 1, 2]);
            let row = &page.rows[1];
            assert_eq!((row.card.pool.as_deref(), row.card.backend.as_deref()), (Some("p"), Some("b")));
            let filtered = listed(&registry, ConnectionQuery { filter: of_backend(), ..query(9) }).await;
            assert_eq!((filtered.open, filtered.matched, filtered.rows.len()), (MANY, MANY / 2, 9));
        });
    }

    /// Connections end and begin between two slices. The registry moves the last connection into each free slot.
    #[test]
    fn a_walk_visits_each_connection_once_that_stays_open() {
        let (registry, mut entries) = filled(MANY);
        let walk = registry.walk(std::time::Instant::now());
        let mut seen = Vec::new();
        let mut turn = 0;
        while walk.visit(|_, view| seen.push(view.id)) {
            turn += 1;
            // Those that were visited first end, so the last ones take their slots.
            entries.drain(..50);
            // Some that were not visited end too.
            let behind = entries.len() - 100;
            entries.drain(behind..behind + 20);
            if turn < 3 {
                let metrics = Metrics::new().listener("l");
                entries.push(registry.register(10_000 + turn, LISTENER, registry.worker_slot(), metrics));
            }
        }
        assert!(turn >= 3, "{turn} slices");
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), seen.len(), "a connection was visited twice");
        let missed: Vec<_> = entries.iter().filter(|entry| !seen.contains(&entry.id())).collect();
        assert!(missed.is_empty(), "{} connections were missed", missed.len());
        drop(walk);
        assert_eq!(registry.walks_under_way(), 0);
    }

    #[test]
    fn a_list_gives_the_other_tasks_turns() {
        run(async {
            let (registry, _entries) = filled(MANY);
            let (to, mut page) = oneshot::channel();
            crate::executor::spawn(requests::list(Rc::clone(&registry), query(1), to));
            let mut turns = 0;
            while page.try_recv().is_err() {
                turns += 1;
                assert!(turns < 1000, "the list did not end");
                yield_now().await;
            }
            assert!(turns > 3, "{turns} turns of another task");
        });
    }

    /// A list for the counts by source. Requests that come while one is made share the next one.
    #[test]
    fn all_connections_are_listed_for_the_counts() {
        run(async {
            let (registry, _entries) = filled(MANY);
            let mut channels = Vec::new();
            for _ in 0..3 {
                let (to, listed) = oneshot::channel();
                crate::executor::spawn(requests::list_open(Rc::clone(&registry), to));
                channels.push(listed);
                yield_now().await;
            }
            let mut lists = Vec::new();
            for listed in channels {
                lists.push(listed.await.unwrap());
            }
            assert!(lists.iter().all(|list| list.len() as u64 == MANY));
            assert!(!Arc::ptr_eq(&lists[0], &lists[1]) && Arc::ptr_eq(&lists[1], &lists[2]));
            let (to, listed) = oneshot::channel();
            crate::executor::spawn(requests::list_open(Rc::clone(&registry), to));
            assert_eq!(listed.await.unwrap().len() as u64, MANY, "a later request begins anew");
        });
    }

    #[test]
    fn one_connection_is_closed_and_the_others_stay() {
        run(async {
            let (registry, entries) = filled(MANY);
            let (to, closed) = oneshot::channel();
            requests::close(Rc::clone(&registry), MANY - 1, to).await;
            assert_eq!(closed.await.unwrap().id, MANY - 1);
            let closed = ConnectionCommand::Close(CloseReason::ClosedByOperator);
            for entry in &entries {
                let expected = (entry.id() == MANY - 1).then_some(closed);
                assert_eq!(command(entry), expected, "{}", entry.id());
            }
            let (to, missing) = oneshot::channel();
            requests::close(Rc::clone(&registry), MANY, to).await;
            assert!(missing.await.is_err());
        });
    }

    #[test]
    fn a_connection_describes_itself_and_has_no_sockets_before_its_relay() {
        run(async {
            let (registry, entries) = filled(2);
            let (to, described) = oneshot::channel();
            crate::executor::spawn(requests::describe(Rc::clone(&registry), 1, to));
            let asked = std::future::poll_fn(|cx| entries[1].poll_command(cx)).await;
            assert_eq!(asked, ConnectionCommand::Describe);
            let legs = ConnectionLegs {
                client: ConnectionLeg { is_blocked: true, ..ConnectionLeg::default() },
                ..ConnectionLegs::default()
            };
            entries[1].describe(&legs);
            let found = described.await.unwrap();
            assert_eq!((found.row.id, found.legs), (1, Some(legs)));
            let reading =
                registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
            let (to, described) = oneshot::channel();
            requests::describe(Rc::clone(&registry), 9, to).await;
            let found = described.await.unwrap();
            assert_eq!((found.row.stage, found.legs), (OpenStage::Dialing, None));
            assert_eq!(command(&reading), None);
        });
    }

    /// A connection that ends, or whose task does something else, leaves no request behind.
    #[test]
    fn a_request_without_an_answer_ends() {
        run(async {
            let (registry, entries) = filled(2);
            let began = std::time::Instant::now();
            let (to, described) = oneshot::channel();
            requests::describe(Rc::clone(&registry), 0, to).await;
            assert_eq!(described.await.unwrap().legs, None);
            assert!(began.elapsed() < Duration::from_secs(5));
            let _later = registry.describe(&entries[1]);
            assert_eq!(registry.requests_to_describe(), 1);
        });
    }

    #[test]
    fn an_order_closes_its_connections_at_its_pace() {
        run(async {
            let (registry, entries) = filled(8);
            let (to, count) = oneshot::channel();
            let order = CloseOrder::new(of_backend(), ClosePace::new(50));
            let began = std::time::Instant::now();
            requests::close_in_order(Rc::clone(&registry), Arc::clone(&order), to).await;
            assert_eq!(count.await.unwrap(), 4);
            assert!(is_queued(&entries[1]) && !is_queued(&entries[2]));
            let closed = ConnectionCommand::Close(CloseReason::ClosedByOperator);
            for expected in [1, 3, 5, 7] {
                assert_eq!(next_command(&entries).await, (expected, closed));
            }
            assert!(began.elapsed() >= Duration::from_millis(60), "the fourth has the fourth part");
            while Arc::strong_count(&order) > 1 {
                yield_now().await;
            }
            assert!(entries.iter().all(|entry| command(entry).is_none()));
        });
    }

    /// An order is about the connections that were meant when it was given, as long as they look so.
    #[test]
    fn a_connection_that_no_longer_passes_stays() {
        run(async {
            let (registry, entries) = filled(4);
            let (to, count) = oneshot::channel();
            let order = CloseOrder::new(of_backend(), ClosePace::new(20));
            requests::close_in_order(Rc::clone(&registry), Arc::clone(&order), to).await;
            assert_eq!(count.await.unwrap(), 2);
            entries[3].note(|card| card.backend = Some("other".into()));
            entries[2].note(|card| card.backend = Some("b".into()));
            let closed = ConnectionCommand::Close(CloseReason::ClosedByOperator);
            assert_eq!(next_command(&entries).await, (1, closed));
            while Arc::strong_count(&order) > 1 {
                yield_now().await;
            }
            assert!(entries.iter().all(|entry| command(entry).is_none()));
            assert!(!is_queued(&entries[3]));
        });
    }

    /// Its queue is in this worker.
    #[test]
    fn a_stream_that_waits_to_be_closed_stays_in_its_worker() {
        let registry = ConnectionRegistry::new(Loads::new(2), 0);
        let metrics = Metrics::new().listener("l");
        let streams: Vec<_> = (0..4)
            .map(|id| {
                let stream = registry.register(id, LISTENER, registry.worker_slot(), Arc::clone(&metrics));
                stream.establish();
                stream.moved(Direction::FromBackend, Engine::Spliced, loads::BUSY);
                stream
            })
            .collect();
        streams[0].set_close_turn(CloseTurn::Queued);
        registry.sweep();
        registry.give_streams_away();
        let moves: Vec<_> = streams.iter().map(|stream| command(stream).is_some()).collect();
        assert_eq!(moves, [false, true, true, false]);
    }

    #[test]
    fn names_and_the_time_of_the_accept_move_to_another_worker() {
        let (registry, mut entries) = filled(2);
        let entry = entries.remove(1);
        entry.set_client(&crate::sys::Address::Tcp("192.0.2.1:5".parse().unwrap()));
        entry.note(|card| card.sni = Some("a.example".into()));
        let (began, card) = (entry.began(), entry.card().clone());
        let migrating = entry.leave();
        assert_eq!((migrating.began(), migrating.card()), (began, &card));
        let entry = registry.readmit(migrating, registry.worker_slot());
        assert_eq!((entry.began(), &*entry.card()), (began, &card));
        let client = entry.view(std::time::Instant::now(), |view| view.client).unwrap();
        assert_eq!(client, "192.0.2.1:5".parse().ok());
    }
}
