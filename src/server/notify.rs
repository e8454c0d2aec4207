//! What systemd is told: ready, reloading, stopping, and that every worker is alive.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::live::TICK;
use crate::worker::Worker;

/// Tells systemd of a stage; does nothing where there is no systemd.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// Tells systemd that a reload begins, and when: a unit of `Type=notify-reload` ends a service that
/// leaves the moment out.
pub(super) fn tell_of_reload() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The watchdog that systemd asks for by WATCHDOG_USEC.
pub(super) struct Watchdog {
    interval: Option<Interval>,
    /// The beats heard last, by the workers' numbers: in a drain they end one after the other.
    beats: HashMap<usize, u64>,
    /// When they were heard.
    heard: Instant,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|limit| {
            let mut interval = interval((limit / 2).max(Duration::from_millis(100)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { interval, beats: HashMap::new(), heard: Instant::now() }
    }

    /// Waits until it is time to say something; for ever without a watchdog.
    pub(super) async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Says that all is well if every worker has moved since the last time.
    ///
    /// A worker beats once in a [`TICK`], so a watchdog that is asked more often is answered by what was
    /// heard last.
    pub(super) fn beat(&mut self, workers: &[Worker]) {
        if self.heard.elapsed() < 2 * TICK {
            return tell(&[NotifyState::Watchdog]);
        }
        let beats: HashMap<_, _> = workers.iter().map(|worker| (worker.number(), worker.beats())).collect();
        match beats.iter().find(|(worker, now)| self.beats.get(worker) == Some(now)) {
            Some((worker, _)) => tracing::error!(worker, "a worker does not move; the watchdog is not fed"),
            None => tell(&[NotifyState::Watchdog]),
        }
        self.beats = beats;
        self.heard = Instant::now();
    }
}
