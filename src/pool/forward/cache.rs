//! The cache of names, with the connections that wait for an answer. Pure: the caller passes `now`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::wire::ServerName;

/// The most names in the cache of a pool, some 200 bytes each. If the cache is full and no name has expired, an
/// eighth of the names is removed.
const MOST_KNOWN: usize = 10_000;

/// The most names that are looked up, or wait for a look-up, at once.
pub(super) const MOST_ASKED: usize = 1024;

/// The shortest time for which an answer is kept, even if the TTL is shorter. Without this bound, each connection
/// to a busy name could query the DNS.
const LEAST_HOLD: Duration = Duration::from_secs(1);

/// The longest time for which an answer is kept, even if the TTL is longer.
const MOST_HOLD: Duration = Duration::from_secs(3600);

/// The time for which the cache keeps the answer that a name does not exist or has no address.
const NONE_HOLD: Duration = Duration::from_secs(5);

/// The time for which the cache keeps the failure of a question.
const FAILED_HOLD: Duration = Duration::from_secs(1);

/// The fault of a look-up that has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFault {
    /// The name does not exist.
    #[error("there is no such name")]
    NoName,
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No resolver answered in time.
    #[error("no resolver answered in time")]
    Timeout,
    /// The resolvers could not be queried, or answered with an error.
    #[error("the resolvers gave no answer")]
    Failed,
    /// Too many look-ups are in progress.
    #[error("too many names are looked up at once")]
    Busy,
}

/// The addresses of a name in the order of the attempts, at least one, or the fault of the look-up.
pub(super) type CachedAnswer = Result<Arc<[IpAddr]>, LookupFault>;

/// The names of one pool.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    entries: HashMap<ServerName, CacheEntry>,
    /// The number of entries with a look-up in progress.
    asked: usize,
}

#[derive(Debug)]
enum CacheEntry {
    Known {
        answer: CachedAnswer,
        until: Instant,
    },
    /// The connections that wait. Some may have ended.
    Asked(Vec<oneshot::Sender<CachedAnswer>>),
}

/// The result of a query of the cache.
#[derive(Debug)]
pub(super) enum CacheLookup {
    Known(CachedAnswer),
    /// A look-up of the name is already in progress.
    Wait(oneshot::Receiver<CachedAnswer>),
    /// The name is new, and the caller must send the question.
    Ask(oneshot::Receiver<CachedAnswer>),
    /// Too many look-ups are in progress.
    Busy,
}

impl NameCache {
    pub(super) fn look(&mut self, name: &ServerName, now: Instant) -> CacheLookup {
        match self.entries.get_mut(name) {
            Some(CacheEntry::Known { answer, until }) if *until > now => {
                return CacheLookup::Known(answer.clone());
            }
            Some(CacheEntry::Asked(waiting)) => {
                let (tell, told) = oneshot::channel();
                // Remove the connections that have ended, but only when the list is full: each new connection would
                // otherwise check the whole list.
                if waiting.len() == waiting.capacity() {
                    waiting.retain(|waiting| !waiting.is_closed());
                }
                waiting.push(tell);
                return CacheLookup::Wait(told);
            }
            Some(CacheEntry::Known { .. }) | None => {}
        }
        if self.asked >= MOST_ASKED {
            return CacheLookup::Busy;
        }
        let (tell, told) = oneshot::channel();
        self.asked += 1;
        self.entries.insert(name.clone(), CacheEntry::Asked(vec![tell]));
        CacheLookup::Ask(told)
    }

    /// Stores an answer, and sends it to all connections that wait.
    pub(super) fn answer(&mut self, name: &ServerName, answer: CachedAnswer, ttl: Duration, now: Instant) {
        let hold = match &answer {
            Ok(_) => ttl.clamp(LEAST_HOLD, MOST_HOLD),
            Err(LookupFault::NoName | LookupFault::NoAddress) => NONE_HOLD,
            Err(_) => FAILED_HOLD,
        };
        self.make_room(now);
        let known = CacheEntry::Known { answer: answer.clone(), until: now + hold };
        if let Some(CacheEntry::Asked(waiting)) = self.entries.insert(name.clone(), known) {
            self.asked -= 1;
            for tell in waiting {
                let _ = tell.send(answer.clone());
            }
        }
    }

    /// Replaces the addresses of a name, if they have not expired. The expiry stays the same.
    pub(super) fn join(&mut self, name: &ServerName, addresses: Arc<[IpAddr]>, now: Instant) {
        if let Some(CacheEntry::Known { answer, until }) = self.entries.get_mut(name)
            && answer.is_ok()
            && *until > now
        {
            *answer = Ok(addresses);
        }
    }

    /// Removes all answers. Names with a look-up in progress stay.
    pub(super) fn forget(&mut self) {
        self.entries.retain(|_, entry| matches!(entry, CacheEntry::Asked(_)));
    }

    /// Returns the number of stored answers, expired ones included.
    pub(super) fn known(&self) -> usize {
        self.entries.len() - self.asked
    }

    fn make_room(&mut self, now: Instant) {
        if self.known() < MOST_KNOWN {
            return;
        }
        self.entries.retain(|_, entry| match entry {
            CacheEntry::Known { until, .. } => *until > now,
            CacheEntry::Asked(_) => true,
        });
        if self.known() < MOST_KNOWN {
            return;
        }
        let mut surplus = MOST_KNOWN / 8;
        self.entries.retain(|_, entry| {
            let sessions = surplus == 0 || matches!(entry, CacheEntry::Asked(_));
            surplus -= usize::from(!sessions);
            sessions
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn addresses(text: &str) -> CachedAnswer {
        Ok(vec![text.parse().unwrap()].into())
    }

    fn is_known(look: &CacheLookup) -> bool {
        matches!(look, CacheLookup::Known(_))
    }

    #[test]
    fn an_answer_holds_for_its_time() {
        let check = |answer: CachedAnswer, ttl: u64, holds: u64| {
            let (mut cache, now, name) = (NameCache::default(), Instant::now(), name("a.test"));
            assert!(matches!(cache.look(&name, now), CacheLookup::Ask(_)));
            cache.answer(&name, answer.clone(), Duration::from_secs(ttl), now);
            let end = now + Duration::from_secs(holds);
            assert!(is_known(&cache.look(&name, end - Duration::from_millis(1))), "{answer:?} {ttl}");
            assert!(matches!(cache.look(&name, end), CacheLookup::Ask(_)), "{answer:?} {ttl}");
        };
        check(addresses("1.1.1.1"), 0, 1);
        check(addresses("1.1.1.1"), 60, 60);
        check(addresses("1.1.1.1"), 1_000_000, 3600);
        check(Err(LookupFault::NoName), 60, 5);
        check(Err(LookupFault::NoAddress), 0, 5);
        check(Err(LookupFault::Timeout), 60, 1);
        check(Err(LookupFault::Failed), 60, 1);
    }

    #[test]
    fn more_addresses_hold_as_long_as_the_first() {
        let (mut cache, now, name) = (NameCache::default(), Instant::now(), name("a.test"));
        let more: Arc<[IpAddr]> = addresses("1.1.1.2").unwrap();
        let end = now + Duration::from_secs(60);
        cache.join(&name, Arc::clone(&more), now);
        assert!(matches!(cache.look(&name, now), CacheLookup::Ask(_)), "a name without an answer gets none");
        cache.join(&name, Arc::clone(&more), now);
        assert!(
            matches!(cache.look(&name, now), CacheLookup::Wait(_)),
            "a name that is being asked for gets none"
        );
        cache.answer(&name, addresses("1.1.1.1"), Duration::from_secs(60), now);
        cache.join(&name, more, now);
        assert!(
            matches!(cache.look(&name, now), CacheLookup::Known(answer) if answer == addresses("1.1.1.2"))
        );
        assert!(matches!(cache.look(&name, end), CacheLookup::Ask(_)));
    }

    #[test]
    fn what_is_forgotten_is_asked_for_again() {
        let (mut cache, now) = (NameCache::default(), Instant::now());
        cache.answer(&name("a.test"), addresses("1.1.1.1"), Duration::from_secs(60), now);
        let CacheLookup::Ask(mut told) = cache.look(&name("b.test"), now) else { panic!("it is not known") };
        cache.forget();
        assert_eq!(cache.known(), 0);
        assert!(matches!(cache.look(&name("a.test"), now), CacheLookup::Ask(_)));
        cache.answer(&name("b.test"), addresses("1.1.1.2"), Duration::ZERO, now);
        assert_eq!(
            told.try_recv().unwrap(),
            addresses("1.1.1.2"),
            "the connection that waits gets its answer"
        );
    }

    #[test]
    fn one_asks_and_the_others_wait() {
        let (mut cache, now, name) = (NameCache::default(), Instant::now(), name("a.test"));
        let CacheLookup::Ask(mut first) = cache.look(&name, now) else { panic!("the first asks") };
        let CacheLookup::Wait(mut second) = cache.look(&name, now) else { panic!("the second waits") };
        assert_eq!(cache.known(), 0);
        cache.answer(&name, addresses("1.1.1.1"), Duration::ZERO, now);
        assert_eq!(first.try_recv().unwrap(), addresses("1.1.1.1"));
        assert_eq!(second.try_recv().unwrap(), addresses("1.1.1.1"));
        assert_eq!(cache.known(), 1);
    }

    #[test]
    fn those_who_have_left_take_no_room() {
        let (mut cache, now, name) = (NameCache::default(), Instant::now(), name("a.test"));
        for _ in 0..100 {
            drop(cache.look(&name, now));
        }
        let Some(CacheEntry::Asked(waiting)) = cache.entries.get(&name) else { panic!("it is asked for") };
        assert!(waiting.len() < 10, "{}", waiting.len());
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        let (mut cache, now) = (NameCache::default(), Instant::now());
        for number in 0..MOST_ASKED {
            assert!(matches!(cache.look(&name(&format!("a{number}.test")), now), CacheLookup::Ask(_)));
        }
        assert!(matches!(cache.look(&name("b.test"), now), CacheLookup::Busy));
        assert!(
            matches!(cache.look(&name("a0.test"), now), CacheLookup::Wait(_)),
            "this name is asked for already"
        );
        cache.answer(&name("a0.test"), Err(LookupFault::NoName), Duration::ZERO, now);
        assert!(matches!(cache.look(&name("b.test"), now), CacheLookup::Ask(_)));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (mut cache, now) = (NameCache::default(), Instant::now());
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(600));
        let fill = |cache: &mut NameCache, prefix: &str, ttl, now| {
            for number in 0..MOST_KNOWN {
                cache.answer(&name(&format!("{prefix}{number}.test")), addresses("1.1.1.1"), ttl, now);
                assert!(cache.known() <= MOST_KNOWN);
            }
        };
        fill(&mut cache, "a", short, now);
        assert_eq!(cache.known(), MOST_KNOWN);
        let later = now + short;
        cache.answer(&name("b.test"), addresses("1.1.1.1"), long, later);
        assert_eq!(cache.known(), 1, "expired answers are removed first");
        fill(&mut cache, "b", long, later);
        assert!(cache.known() > MOST_KNOWN / 2);
    }
}
