//! The results of a load: connections, failures by kind, and the progress of each client that never pauses.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// The most failures that are kept as text. All are counted.
const MOST_KEPT: usize = 40;

/// The result that a backend has of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackendReport {
    /// The bytes of the client that were right.
    pub(crate) received: u64,
    /// The bytes that were sent.
    pub(crate) sent: u64,
    /// The error that ended the connection.
    pub(crate) fault: Option<String>,
}

/// Counts the steps of a client that never pauses. After its drop, no further step of this client is awaited.
pub(crate) struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Counts a step.
    pub(crate) fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.fetch_add(ENDED, Ordering::Relaxed);
    }
}

/// The steps of a client that has ended are more than these.
const ENDED: u64 = 1 << 32;

/// The results of a load.
#[derive(Default)]
pub(crate) struct Tally {
    /// The connections that a client has made.
    connections: AtomicU64,
    /// The clients that came to their end as they should.
    finished: AtomicU64,
    /// The bytes that were compared, of both directions.
    verified: AtomicU64,
    /// The failures, by the name of the client's kind and of the error.
    failed: Mutex<BTreeMap<String, u64>>,
    /// The first failures.
    texts: Mutex<Vec<String>>,
    /// The steps of each client that never pauses.
    beats: Mutex<Vec<(u64, Arc<AtomicU64>)>>,
    /// The reports of the backends, by the seed of the connection.
    reports: Mutex<BTreeMap<u64, BackendReport>>,
    /// The backend of each session, by its key, and the requests to cancel that came there.
    sessions: Mutex<BTreeMap<u64, (u8, usize)>>,
    /// The connections that the scarce backend has open, and the most that it had open at once.
    scarce: Mutex<(u64, u64)>,
}

impl Tally {
    /// Counts a connection that was made.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a client.
    pub(crate) fn ended(&self, kind: &str, seed: u64, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.finished.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                *self.failed.lock().unwrap().entry(format!("{kind}: {:?}", error.kind())).or_default() += 1;
                let mut texts = self.texts.lock().unwrap();
                if texts.len() < MOST_KEPT {
                    texts.push(format!("{kind} {seed}: {error}"));
                }
            }
        }
    }

    /// Counts bytes that were right.
    pub(crate) fn verified(&self, bytes: usize) {
        self.verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the counter of a new client that never pauses.
    pub(crate) fn beat(&self, seed: u64) -> Beat {
        let steps = Arc::default();
        self.beats.lock().unwrap().push((seed, Arc::clone(&steps)));
        Beat(steps)
    }

    /// Keeps the report of a backend.
    pub(crate) fn report(&self, seed: u64, report: BackendReport) {
        self.reports.lock().unwrap().insert(seed, report);
    }

    /// Returns the report of a backend, as soon as it is there.
    pub(crate) async fn reported(&self, seed: u64) -> BackendReport {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
        loop {
            if let Some(report) = self.reports.lock().unwrap().remove(&seed) {
                return report;
            }
            tick.tick().await;
        }
    }

    /// Notes the backend of a session.
    pub(crate) fn session(&self, key: u64, backend: u8) {
        self.sessions.lock().unwrap().insert(key, (backend, 0));
    }

    /// Notes a request to cancel, if it came to the backend of its session.
    pub(crate) fn cancelled(&self, key: u64, backend: u8) {
        if let Some(session) =
            self.sessions.lock().unwrap().get_mut(&key).filter(|session| session.0 == backend)
        {
            session.1 += 1;
        }
    }

    /// Returns the number of requests to cancel that came to the backend of a session.
    pub(crate) fn cancels(&self, key: u64) -> usize {
        self.sessions.lock().unwrap().get(&key).map_or(0, |session| session.1)
    }

    /// Counts a connection of the scarce backend.
    pub(crate) fn scarce_opened(&self) {
        let mut scarce = self.scarce.lock().unwrap();
        scarce.0 += 1;
        scarce.1 = scarce.1.max(scarce.0);
    }

    /// Counts the end of such a connection.
    pub(crate) fn scarce_closed(&self) {
        self.scarce.lock().unwrap().0 -= 1;
    }

    /// Returns the most connections that the scarce backend had at once.
    pub(crate) fn most_scarce(&self) -> u64 {
        self.scarce.lock().unwrap().1
    }

    /// Returns the number of connections that were made.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the number of clients that ended as they should.
    pub(crate) fn finished_clients(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Returns the number of failures.
    pub(crate) fn failures(&self) -> u64 {
        self.failed.lock().unwrap().values().sum()
    }

    /// Returns true if a client of a kind has failed.
    pub(crate) fn has_failed(&self, kind: &str) -> bool {
        self.failed.lock().unwrap().keys().any(|key| key.starts_with(&format!("{kind}: ")))
    }

    /// Returns the failures and the counts as text.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} connections, {} clients ended in order, {} MiB compared, failures {:?}\n{}",
            self.connections(),
            self.finished_clients(),
            self.verified.load(Ordering::Relaxed) >> 20,
            self.failed.lock().unwrap(),
            self.texts.lock().unwrap().join("\n"),
        )
    }

    /// Panics if a client has failed.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.failures(), 0, "{}", self.text());
    }

    /// Waits until each client that never pauses has taken further steps, or has ended.
    #[track_caller]
    pub(crate) fn wait_for_progress(&self) {
        let beats = self.beats.lock().unwrap().clone();
        assert!(!beats.is_empty(), "no client runs");
        // A client may end at any time from here on, with or without a failure.
        let steps = |beat: &AtomicU64| Some(beat.load(Ordering::Relaxed)).filter(|steps| *steps < ENDED);
        let goals: Vec<_> =
            beats.iter().filter_map(|(seed, beat)| Some((seed, beat, steps(beat)? + 3))).collect();
        let late = || -> Vec<u64> {
            let late = goals.iter().filter(|(_, beat, goal)| steps(beat).is_some_and(|steps| steps < *goal));
            late.map(|(seed, ..)| **seed).collect()
        };
        // With many clients on a busy machine, this takes longer than one answer may.
        let until = Instant::now() + 3 * PATIENCE;
        while !late().is_empty() {
            assert!(Instant::now() < until, "clients without progress: {:?}; {}", late(), self.text());
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}
