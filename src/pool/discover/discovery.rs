//! What is known of one source: whether it fails, and what it last found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::source::DiscoverSource;
use super::{DiscoveredSet, LookOutcome};
use crate::sys::Address;

/// What is known of a source. Shared with admin and the metrics, which read it; it ends with the last
/// snapshot that shows it.
#[derive(Debug)]
pub struct Discovery {
    source: DiscoverSource,
    failures: AtomicU64,
    /// In milliseconds of Unix time; 0 is never.
    succeeded: AtomicU64,
    /// What is wrong now. A lock, as it is a text; written by one task and read by a scrape now and then.
    fault: Mutex<Option<Arc<str>>>,
    /// What was last found; `None` before the first report. Checks and agents that ask at a host name read it.
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

    /// What is followed.
    pub fn source(&self) -> &DiscoverSource {
        &self.source
    }

    /// How often it failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When it was last found to be good, whether anything had changed or not.
    pub fn succeeded(&self) -> Option<SystemTime> {
        match self.succeeded.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(UNIX_EPOCH + Duration::from_millis(millis)),
        }
    }

    /// What is wrong with it now.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the addresses that were last found, perhaps none. Before the first report it waits for that.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(in crate::pool) async fn addresses(&self) -> Vec<Address> {
        let mut found = self.found.subscribe();
        match found.wait_for(Option::is_some).await {
            Ok(found) => found.iter().flat_map(DiscoveredSet::iter).map(|one| one.address.clone()).collect(),
            // The sender is this value's own, so this does not come.
            Err(_closed) => Vec::new(),
        }
    }

    /// Notes what holds for the source from now on.
    pub(super) fn publish(&self, found: &Option<DiscoveredSet>) {
        let found = found.clone().unwrap_or_default();
        self.found.send_if_modified(|last| {
            let differs = last.as_ref() != Some(&found);
            *last = Some(found);
            differs
        });
    }

    /// Notes how a look ended, and answers whether that is news.
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
    /// One of a name that has not been heard of.
    pub(in crate::pool) fn unheard() -> Self {
        use super::source::{DnsSpec, RecordKind};
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

    /// One of a host with these addresses, or that does not exist.
    pub(in crate::pool) fn of_host(ips: &[std::net::IpAddr]) -> Self {
        let known = Self::unheard();
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
