//! The orders for interval records, run to their end beside the connections.

use std::time::Instant;

use super::*;
use crate::live::log_orders;

const INTERVAL: Duration = Duration::from_secs(5);

/// Orders the records that are due at an interval.
async fn order(registry: &Rc<ConnectionRegistry>, interval: Duration) {
    log_orders::order(registry, Some(interval));
    while registry.has_log_round() {
        yield_now().await;
    }
}

/// Returns a connection with a backend whose accept was this time ago. Its last record was made that time after it.
fn aged(registry: &Rc<ConnectionRegistry>, age: Duration, after: Option<u32>) -> RegistryGuard {
    let handed = HandedEntry {
        id: 1,
        listener: LISTENER,
        backend: Some(BackendId::next()),
        client: None,
        began: Instant::now().checked_sub(age).expect("this host runs for longer"),
        card: ConnectionCard::default(),
        link: None,
        totals: [10, 20],
        dropped: 0,
        logged: LoggedProgress { after, counted: [1, 2] },
        quiet: Duration::ZERO,
        metrics: Metrics::new().listener("l"),
        tallies: ConnectionTallies::default(),
    };
    registry.readmit(handed.into(), registry.worker_slot())
}

#[test]
fn a_record_is_ordered_until_it_is_made() {
    run(async {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        order(&registry, INTERVAL).await;
        let age = INTERVAL + TICK;
        let (due, young) = (aged(&registry, age, Some(0)), aged(&registry, TICK, Some(0)));
        let (late, read) = (
            aged(&registry, age, None),
            registry.register(9, LISTENER, registry.worker_slot(), Metrics::new().listener("l")),
        );
        for _ in 0..2 {
            order(&registry, INTERVAL).await;
            let commands = [&due, &young, &late, &read].map(|entry| command(entry));
            assert_eq!(commands, [Some(ConnectionCommand::Log), None, None, None]);
        }
        assert_eq!(due.unlogged(), [9, 18]);
        due.logged(false);
        assert_eq!(due.unlogged(), [9, 18], "a record that was lost counts nothing");
        due.logged(true);
        assert_eq!(due.unlogged(), [0, 0]);
        order(&registry, INTERVAL).await;
        assert_eq!(command(&due), None);
    });
}

/// Else all connections would have a record at once.
#[test]
fn a_new_interval_begins_without_records() {
    run(async {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let entries: Vec<_> = (0..3).map(|times| aged(&registry, INTERVAL * times, Some(0))).collect();
        for interval in [INTERVAL, INTERVAL - Duration::from_secs(2)] {
            for _ in 0..2 {
                order(&registry, interval).await;
                assert!(entries.iter().all(|entry| command(entry).is_none()), "{interval:?}");
            }
        }
        log_orders::order(&registry, None);
        assert!(!registry.has_log_round());
    });
}

#[test]
fn the_progress_moves_to_another_worker() {
    run(async {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        let age = INTERVAL + TICK;
        let entry = aged(&registry, age, Some(2));
        assert_eq!(entry.leave().log_progress(), LoggedProgress { after: None, counted: [1, 2] });
        order(&registry, INTERVAL).await;
        let progress = aged(&registry, age, Some(2)).leave().log_progress();
        assert_eq!(progress, LoggedProgress { after: Some(2), counted: [1, 2] });
    });
}

#[test]
fn a_round_sees_each_connection_in_slices() {
    run(async {
        let registry = ConnectionRegistry::new(Loads::new(1), 0);
        order(&registry, INTERVAL).await;
        let count = 2 * crate::live::walk::SLICE + 7;
        let entries: Vec<_> = (0..count).map(|_| aged(&registry, INTERVAL, Some(0))).collect();
        order(&registry, INTERVAL).await;
        assert!(entries.iter().all(|entry| command(entry) == Some(ConnectionCommand::Log)));
    });
}
