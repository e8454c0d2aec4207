//! The state of one source: its fault, and the addresses that it found last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::report::LookOutcome;
use super::set::DiscoveredSet;
use crate::pool::discover_spec::DiscoverSource;
use crate::sys::Address;

/// The state of a source. Shared with admin and the metrics, which read it. It is dropped with the last snapshot
/// that has it.
#[derive(Debug)]
pub struct Discovery {
    source: DiscoverSource,
    failures: AtomicU64,
    /// The time of the last success, in milliseconds of Unix time; 0 is never.
    succeeded: AtomicU64,
    /// The fault that lasts. A text, so it needs a lock; control writes it, and scrapes read it.
    fault: Mutex<Option<Arc<str>>>,
    /// The addresses found last; `None` before the first report. Checks and agents of a host name read them.
    found: watch::Sender<Option<DiscoveredSet>>,
}

impl Discovery {
    pub(super) fn new(source: &DiscoverSource) -> Self {
        Self {
            source: source.clone(),
            failures: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            fault: Mutex::default(),
            found: watch::Sender::default(),
        }
    }

    /// Returns the source.
    pub fn source(&self) -> &DiscoverSource {
        &self.source
    }

    /// Returns the number of its failures.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the time of the last success, with or without a change.
    pub fn succeeded(&self) -> Option<SystemTime> {
        match self.succeeded.load(Ordering::Relaxed) {
            0 => None,
            millis => UNIX_EPOCH.checked_add(Duration::from_millis(millis)),
        }
    }

    /// Takes over the counts and the time of the last success, in milliseconds of Unix time, of another process.
    /// A time after `now` counts as `now`.
    pub(super) fn restore(&self, failures: u64, succeeded: u64, now: SystemTime) {
        self.add_failures(failures);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let latest = u64::try_from(now).unwrap_or(u64::MAX);
        self.succeeded.store(succeeded.min(latest), Ordering::Relaxed);
    }

    /// Adds failures that another process counted.
    pub fn add_failures(&self, count: u64) {
        self.failures.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the time of the last success in milliseconds of Unix time; 0 is never.
    pub(super) fn succeeded_millis(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Returns the standing fault of the source, or `None`.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the addresses found last, perhaps none. Waits for the first report.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(in crate::pool) async fn addresses(&self) -> Vec<Address> {
        let mut found = self.found.subscribe();
        match found.wait_for(Option::is_some).await {
            Ok(found) => found.iter().flat_map(DiscoveredSet::iter).map(|one| one.address.clone()).collect(),
            // Unreachable: this value owns the sender.
            Err(_closed) => Vec::new(),
        }
    }

    /// Sets the addresses that count for the source from now on.
    pub(super) fn publish(&self, found: &Option<DiscoveredSet>) {
        let found = found.clone().unwrap_or_default();
        self.found.send_if_modified(|last| {
            let differs = last.as_ref() != Some(&found);
            *last = Some(found);
            differs
        });
    }

    /// Records the outcome of one read of the source. Returns true if the fault has changed.
    pub(super) fn note(&self, outcome: &LookOutcome, now: SystemTime) -> bool {
        if matches!(outcome, LookOutcome::Expired) {
            return false;
        }
        if outcome.fault().is_some() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        if !matches!(outcome, LookOutcome::Failed(_)) {
            let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            self.succeeded.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if matches!(outcome, LookOutcome::Unfinished) {
            return false;
        }
        let fault: Option<Arc<str>> = outcome.fault().map(|fault| fault.to_string().into());
        let mut last = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *last != fault;
        *last = fault;
        is_news
    }
}

#[cfg(test)]
impl Discovery {
    /// Returns the state of a name before its first answer.
    pub(in crate::pool) fn unanswered() -> Self {
        use crate::pool::discover_spec::{DnsSpec, RecordKind};
        let (min_ttl, max_ttl) = (Duration::from_secs(5), Duration::from_secs(300));
        Self::new(&DiscoverSource::Dns(DnsSpec {
            name: "probe.test".into(),
            records: RecordKind::Addresses { port: 0 },
            resolvers: Vec::new(),
            min_ttl,
            max_ttl,
            jitter: 0,
        }))
    }

    /// Returns the state of a host with these addresses. Without addresses, the host does not exist.
    pub(in crate::pool) fn of_host(ips: &[std::net::IpAddr]) -> Self {
        let known = Self::unanswered();
        let found = ips.iter().map(|ip| super::set::Discovered {
            name: ip.to_string().into(),
            address: std::net::SocketAddr::new(*ip, 0).into(),
            weight: 1,
            zone: None,
            backup: false,
        });
        let found = DiscoveredSet::new(found.collect());
        let outcome = match found.is_empty() {
            true => LookOutcome::Failed(super::DnsFault::NoName.into()),
            false => LookOutcome::Good,
        };
        known.note(&outcome, SystemTime::now());
        known.publish(&Some(found));
        known
    }
}
