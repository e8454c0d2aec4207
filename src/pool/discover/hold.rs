//! Holds backends that an answer leaves out, for a time. Pure: the caller passes `now`.
//!
//! Some servers answer with a changing part of the addresses (Route 53, Consul, load balancers of clouds). Without a
//! hold, each answer would add and remove healthy backends, and close their connections.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::set::{Discovered, DiscoveredSet, MOST_BACKENDS};
use crate::sys::Address;

/// The held backends of a source, each with the end of its hold.
pub(super) type HeldBackends = Arc<[(Discovered, Instant)]>;

/// The backends in the last answer of a source, and the backends of earlier answers that the last answer left out.
#[derive(Debug)]
pub(super) struct Hold {
    /// The time for which a backend that is left out stays. Zero is off.
    time: Duration,
    /// The backends of the last answer.
    last: DiscoveredSet,
    /// The held backends by name, each with the end of its hold.
    held: BTreeMap<Arc<str>, (Discovered, Instant)>,
    /// True if the last query of the source succeeded. While queries fail, no hold ends.
    is_good: bool,
    /// True if the held backends take no new connections.
    rests: bool,
}

impl Hold {
    /// Returns a value that holds no backend yet. A backend in `before` is held if the first answer leaves it out.
    pub(super) fn new(time: Duration, before: DiscoveredSet) -> Self {
        Self { time, last: before, held: BTreeMap::new(), is_good: false, rests: false }
    }

    /// Returns a value that goes on with the backends of another process: those in the last answer, and the held ones
    /// with the ends of their holds.
    pub(super) fn restored(
        time: Duration,
        last: DiscoveredSet,
        held: impl IntoIterator<Item = (Discovered, Instant)>,
    ) -> Self {
        let held = held.into_iter().take(MOST_BACKENDS);
        let held = held.map(|(one, until)| (Arc::clone(&one.name), (one, until))).collect();
        Self { held, ..Self::new(time, last) }
    }

    /// Returns the held backends with the ends of their holds.
    pub(super) fn held(&self) -> HeldBackends {
        self.held.values().cloned().collect()
    }

    /// Sets that the held backends take no new connections (`rests`), or that they take them again. Returns true if this
    /// is a change.
    pub(super) fn rest(&mut self, rests: bool) -> bool {
        std::mem::replace(&mut self.rests, rests) != rests
    }

    /// Takes in the backends of an answer, and returns them with the held backends. After a read that failed,
    /// no hold ends.
    pub(super) fn note_answer(&mut self, found: DiscoveredSet, is_good: bool, now: Instant) -> DiscoveredSet {
        if self.time.is_zero() {
            return found;
        }
        self.is_good = is_good;
        for gone in self.last.iter() {
            self.held.entry(Arc::clone(&gone.name)).or_insert_with(|| (gone.clone(), now + self.time));
        }
        self.last = found;
        let names: HashSet<&str> = self.last.iter().map(|one| &*one.name).collect();
        let addresses: HashSet<&Address> = self.last.iter().map(|one| &one.address).collect();
        // A name with another address is the same backend, which has moved.
        self.held.retain(|name, (one, _)| !names.contains(&**name) && !addresses.contains(&one.address));
        self.let_go(now);
        self.all()
    }

    /// Returns the time at which the next hold ends, or `None` if no hold ends.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.held.values().map(|(_, until)| *until).min();
        next.filter(|_| self.is_good)
    }

    /// Removes the backends whose hold has ended, and returns the others.
    pub(super) fn expire(&mut self, now: Instant) -> DiscoveredSet {
        self.let_go(now);
        self.all()
    }

    fn let_go(&mut self, now: Instant) {
        if self.is_good {
            self.held.retain(|_, (_, until)| *until > now);
        }
        // All backends together are at most as many as a source may name. The holds that end first are cut.
        let surplus = self.held.len().saturating_sub(MOST_BACKENDS.saturating_sub(self.last.len()));
        if surplus > 0 {
            let mut order: Vec<_> =
                self.held.iter().map(|(name, (_, until))| (*until, Arc::clone(name))).collect();
            order.sort();
            for (_, name) in &order[..surplus] {
                self.held.remove(name);
            }
        }
    }

    fn all(&self) -> DiscoveredSet {
        if self.held.is_empty() {
            return self.last.clone();
        }
        let held = self.held.values().map(|(one, _)| match self.rests {
            true => Discovered { weight: 0, ..one.clone() },
            false => one.clone(),
        });
        DiscoveredSet::new(self.last.iter().cloned().chain(held).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A set of `name=address` words.
    fn set(text: &str) -> DiscoveredSet {
        let one = |word: &str| {
            let (name, address) = word.split_once('=').unwrap_or((word, word));
            let address = format!("10.0.0.{address}:1").parse().unwrap();
            Discovered { name: name.into(), address, weight: 1, zone: None, backup: false }
        };
        DiscoveredSet::new(text.split_whitespace().map(one).collect())
    }

    fn names(set: &DiscoveredSet) -> String {
        set.iter().map(|one| &*one.name).collect::<Vec<_>>().join(" ")
    }

    /// Checks the backends of a hold of 30 s after each answer: its time in seconds, its text, which begins
    /// with `!` for a failed read, and the expected names.
    fn check(answers: &[(u64, &str, &str)]) {
        let (mut hold, start) =
            (Hold::new(Duration::from_secs(30), DiscoveredSet::default()), Instant::now());
        for (at, answer, expected) in answers {
            let now = start + Duration::from_secs(*at);
            let (answer, is_good) = answer.strip_prefix('!').map_or((*answer, true), |rest| (rest, false));
            assert_eq!(names(&hold.note_answer(set(answer), is_good, now)), *expected, "{at} {answers:?}");
        }
    }

    #[test]
    fn what_is_left_out_stays_for_a_time() {
        check(&[(0, "1 2", "1 2"), (1, "1", "1 2"), (30, "1", "1 2"), (31, "1", "1")]);
        // A backend that several answers leave out is held from the first of them. An answer that has it starts anew.
        check(&[
            (0, "1 2", "1 2"),
            (1, "1", "1 2"),
            (20, "1 2", "1 2"),
            (25, "1", "1 2"),
            (54, "1", "1 2"),
            (55, "1", "1"),
        ]);
        check(&[(0, "1 2", "1 2"), (1, "2 3", "1 2 3"), (2, "3 4", "1 2 3 4"), (32, "4", "3 4")]);
    }

    #[test]
    fn a_name_that_moves_is_not_held_at_its_old_address() {
        check(&[(0, "a=1", "a"), (1, "a=2", "a"), (2, "a=2 b=1", "a b")]);
        check(&[(0, "a=1", "a"), (1, "b=1", "b")]);
    }

    #[test]
    fn nothing_is_let_go_while_looks_fail() {
        check(&[(0, "1 2", "1 2"), (1, "1", "1 2"), (40, "!1", "1 2"), (41, "1", "1")]);
        let (mut hold, start) =
            (Hold::new(Duration::from_secs(30), DiscoveredSet::default()), Instant::now());
        hold.note_answer(set("1 2"), true, start);
        assert_eq!(hold.next(), None);
        hold.note_answer(set("1"), true, start);
        assert_eq!(hold.next(), Some(start + Duration::from_secs(30)));
        hold.note_answer(set("1"), false, start);
        assert_eq!(hold.next(), None);
        hold.note_answer(set("1"), true, start);
        assert_eq!(names(&hold.expire(start + Duration::from_secs(30))), "1");
        assert_eq!(hold.next(), None);
    }

    #[test]
    fn a_changed_source_holds_what_was_found_before() {
        let (mut hold, now) = (Hold::new(Duration::from_secs(30), set("1 2")), Instant::now());
        assert_eq!(names(&hold.note_answer(set("2"), true, now)), "1 2");
        assert_eq!(names(&hold.expire(now + Duration::from_secs(30))), "2");
    }

    /// A move to another process does not make a hold longer.
    #[test]
    fn a_hold_goes_on_in_another_process() {
        let (mut old, start) = (Hold::new(Duration::from_secs(30), set("1 2")), Instant::now());
        old.note_answer(set("2 3"), true, start);
        let held: Vec<_> = old.held().iter().cloned().collect();
        assert_eq!(held.len(), 1);
        let mut new = Hold::restored(Duration::from_secs(30), set("2 3"), held);
        assert_eq!(new.next(), None, "no hold ends before the first answer");
        assert_eq!(names(&new.note_answer(set("3"), true, start + Duration::from_secs(20))), "1 2 3");
        assert_eq!(names(&new.expire(start + Duration::from_secs(30))), "2 3");
    }

    #[test]
    fn what_is_held_rests_with_its_service() {
        let (mut hold, now) = (Hold::new(Duration::from_secs(30), DiscoveredSet::default()), Instant::now());
        let weights = |set: DiscoveredSet| set.iter().map(|one| one.weight).collect::<Vec<_>>();
        hold.note_answer(set("1 2"), true, now);
        hold.note_answer(set("2"), true, now);
        assert!(hold.rest(true) && !hold.rest(true), "a change is one once");
        assert_eq!(
            weights(hold.note_answer(set("2"), true, now)),
            [0, 1],
            "a backend of the answer keeps its weight"
        );
        assert!(hold.rest(false));
        assert_eq!(weights(hold.note_answer(set("2"), true, now)), [1, 1]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let many = |from: usize| {
            let one = |n: usize| Discovered {
                name: format!("{n:06}").into(),
                address: format!("10.{}.{}.{}:1", n / 65536, n / 256 % 256, n % 256).parse().unwrap(),
                weight: 1,
                zone: None,
                backup: false,
            };
            DiscoveredSet::new((from..from + MOST_BACKENDS - 10).map(one).collect())
        };
        let (mut hold, now) = (Hold::new(Duration::from_secs(30), DiscoveredSet::default()), Instant::now());
        hold.note_answer(many(0), true, now);
        assert_eq!(hold.note_answer(many(MOST_BACKENDS), true, now).len(), MOST_BACKENDS);
    }

    #[test]
    fn without_a_time_nothing_is_held() {
        let mut hold = Hold::new(Duration::ZERO, DiscoveredSet::default());
        hold.note_answer(set("1 2"), true, Instant::now());
        assert_eq!(names(&hold.note_answer(set("2"), true, Instant::now())), "2");
    }

    proptest! {
        #[test]
        fn what_is_found_is_always_there(rounds in prop::collection::vec((prop::collection::vec(1_u8..9, 1..5), 0_u64..40), 1..30)) {
            let (mut hold, mut now) = (Hold::new(Duration::from_secs(30), DiscoveredSet::default()), Instant::now());
            for (addresses, wait) in rounds {
                now += Duration::from_secs(wait);
                let text = addresses.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
                let found = set(&text);
                let all = hold.note_answer(found.clone(), true, now);
                prop_assert!(found.iter().all(|one| all.iter().any(|other| one == other)));
                prop_assert!(hold.next().is_none_or(|next| next > now));
            }
        }
    }
}
