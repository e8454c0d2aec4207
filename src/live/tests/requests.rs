//! The tasks of requests, run to their end beside the connections.

use tokio::sync::oneshot;

use super::*;
use crate::live::requests;

/// The number of connections in a slice, and some more.
const MANY: u64 = 3 * crate::live::walk::SLICE as u64 + 7;

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

fn order(filter: ConnectionFilter, pace: Arc<ClosePace>) -> Arc<CloseOrder> {
    CloseOrder::new(Box::new(filter), CloseReason::ClosedByOperator, pace, u64::MAX)
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
        let reading = registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
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
        let order = order(of_backend(), ClosePace::new(50));
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

#[test]
fn an_order_closes_no_more_than_its_places() {
    run(async {
        let (registry, entries) = filled(8);
        let (to, count) = oneshot::channel();
        let order = CloseOrder::new(Box::new(of_backend()), CloseReason::Rebalanced, ClosePace::new(1000), 3);
        requests::close_in_order(Rc::clone(&registry), Arc::clone(&order), to).await;
        assert_eq!(count.await.unwrap(), 4, "the order is about more than it may close");
        for expected in [1, 3, 5] {
            let closed = ConnectionCommand::Close(CloseReason::Rebalanced);
            assert_eq!(next_command(&entries).await, (expected, closed));
        }
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
        let order = order(of_backend(), ClosePace::new(20));
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

/// An order and a backend that is down are two causes. The end of one changes nothing for the other.
#[test]
fn an_order_does_not_hold_back_a_notice() {
    run(async {
        let (registry, entries) = filled(4);
        entries.iter().for_each(|entry| entry.join(BackendId::nth(7)));
        let (to, count) = oneshot::channel();
        let slow = order(of_backend(), ClosePace::with_interval(Duration::from_secs(3600)));
        requests::close_in_order(Rc::clone(&registry), Arc::clone(&slow), to).await;
        assert_eq!(count.await.unwrap(), 2);
        let down = notice(7, 1000);
        registry.close_in_turn(Arc::clone(&down));
        let mut closed = Vec::new();
        for _ in 0..4 {
            let (id, command) = next_command(&entries).await;
            assert_eq!(command, DOWN);
            closed.push(id);
        }
        closed.sort_unstable();
        assert_eq!(closed, [0, 1, 2, 3]);
        slow.cancel();
        while Arc::strong_count(&slow) > 1 {
            yield_now().await;
        }
        assert!(is_queued(&entries[1]), "the notice has not ended");
    });
}

/// An order is about connections in every stage. Its queue is in this program.
#[test]
fn a_connection_that_waits_to_be_closed_stays_in_this_program() {
    run(async {
        let (registry, mut entries) = filled(2);
        for id in [11, 12] {
            let other = registry.register(id, LISTENER, registry.worker_slot(), Metrics::new().listener("l"));
            other.set_reading(id == 11);
            entries.push(other);
        }
        let (to, count) = oneshot::channel();
        let order = order(ConnectionFilter::default(), ClosePace::with_interval(Duration::from_secs(3600)));
        requests::close_in_order(Rc::clone(&registry), Arc::clone(&order), to).await;
        assert_eq!((count.await.unwrap(), registry.hand_over(10)), (4, 0));
        order.cancel();
        while Arc::strong_count(&order) > 1 {
            yield_now().await;
        }
        assert_eq!(registry.hand_over(10), 4);
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
    streams[0].set_close_queues(|queues| queues.orders = 1);
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
