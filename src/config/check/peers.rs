//! Checks the timeouts of peers. Listeners and pools have the same keys for them.

use std::time::Duration;

use super::or;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::findings::Findings;
use crate::config::read::Key;
use crate::config::words::{Number, Time, TimeOrOff};
use crate::live::PeerTimeouts;
use crate::sys::tcp::Keepalive;

/// The written keys of one listener or pool.
pub(super) struct PeerWords<'a, const I: u64, const J: u64, const K: u64, const L: u64, const U: u64> {
    /// The listener or pool, as messages name it.
    pub(super) owner: String,
    pub(super) path: &'a str,
    /// True if all its sockets are Unix sockets, which have neither keepalive nor a user timeout.
    pub(super) has_only_unix: bool,
    pub(super) keepalive: &'a Key<TimeOrOff<I, J>>,
    pub(super) keepalive_interval: &'a Key<Time<K, J>>,
    pub(super) keepalive_count: &'a Key<Number<1, 127>>,
    pub(super) user_timeout: &'a Key<TimeOrOff<U, L>>,
    pub(super) stall_timeout: &'a Key<TimeOrOff<K, { 30 * 24 * 3600 * 1000 }>>,
}

impl<const I: u64, const J: u64, const K: u64, const L: u64, const U: u64> PeerWords<'_, I, J, K, L, U> {
    /// Returns the timeouts, and warns if one overrides another. `idle` is the idle timeout, if known, and its
    /// position.
    pub(super) fn check(
        &self,
        idle: Option<(Duration, Option<Span>)>,
        found: &mut Findings<'_>,
    ) -> PeerTimeouts {
        let default = PeerTimeouts::default();
        let keepalive = match self.keepalive.value() {
            Some(time) => time.0.map(Keepalive::after),
            None => default.keepalive,
        };
        let keepalive = keepalive.map(|keepalive| Keepalive {
            idle: keepalive.idle,
            interval: or(self.keepalive_interval, |time| time.0, keepalive.interval),
            count: or(self.keepalive_count, |number| u32::try_from(number.0).unwrap_or(127), keepalive.count),
        });
        let timeouts = PeerTimeouts {
            keepalive,
            user_timeout: or(self.user_timeout, |time| time.0, default.user_timeout)
                .filter(|_| !self.has_only_unix),
            stall_timeout: or(self.stall_timeout, |time| time.0, default.stall_timeout),
        };
        match timeouts.keepalive {
            _ if self.has_only_unix => self.warn_of_unix(found),
            None => self.warn_of_keepalive_off(found),
            Some(keepalive) => self.warn_of_user_timeout(&timeouts, keepalive, found),
        }
        self.warn_of_stall_timeout(&timeouts, idle, found);
        timeouts
    }

    fn warn_of_unix(&self, found: &mut Findings<'_>) {
        let keys = [
            ("keepalive", self.keepalive.place()),
            ("keepalive_interval", self.keepalive_interval.place()),
            ("keepalive_count", self.keepalive_count.place()),
            ("user_timeout", self.user_timeout.place()),
        ];
        for (key, place) in keys.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            let message = format!("`{key}` of {} has no effect", self.owner);
            let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message);
            found.add(warning.label(place, "it is for TCP, and all addresses are Unix sockets"));
        }
    }

    fn warn_of_keepalive_off(&self, found: &mut Findings<'_>) {
        let others = [
            ("keepalive_interval", self.keepalive_interval.place()),
            ("keepalive_count", self.keepalive_count.place()),
        ];
        for (key, place) in others.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            let message = format!("`{key}` of {} has no effect", self.owner);
            let warning = Diagnostic::new(Code::IdleSetting, self.key(key), message).label(place, "");
            found.add(match self.keepalive.place() {
                Some(off) => warning.label(off, "no probes are sent"),
                None => warning,
            });
        }
    }

    /// Warns if the user timeout overrides the count of probes. tcp(7): with a user timeout the kernel does not count
    /// probes.
    fn warn_of_user_timeout(&self, timeouts: &PeerTimeouts, keepalive: Keepalive, found: &mut Findings<'_>) {
        let (Some(limit), Some(place)) = (timeouts.user_timeout, self.user_timeout.place()) else { return };
        let owner = &self.owner;
        let time = humantime::format_duration;
        if limit < keepalive.longest() {
            let message = format!("`user_timeout` of {owner} overrides `keepalive_count`");
            let warning = Diagnostic::new(Code::OverriddenTimeout, self.key("user_timeout"), message);
            let label = format!("an idle connection is closed after {} without an answer", time(limit));
            let label = if limit <= keepalive.idle + keepalive.interval {
                "one lost probe closes an idle connection".to_owned()
            } else {
                label
            };
            let help = format!(
                "if `user_timeout` is at least {:?}, {} probes may be lost; pointsman closes peers that do not answer even without `user_timeout`",
                time(keepalive.longest()).to_string(),
                keepalive.count - 1,
            );
            found.add(warning.label(place, label).help(help));
        } else if let Some(count) = self.keepalive_count.place() {
            let message = format!("`keepalive_count` of {owner} has no effect");
            let warning = Diagnostic::new(Code::IdleSetting, self.key("keepalive_count"), message);
            let label = format!("this timeout closes idle connections after {}", time(limit));
            found.add(warning.label(count, "").label(place, label));
        }
    }

    fn warn_of_stall_timeout(
        &self,
        timeouts: &PeerTimeouts,
        idle: Option<(Duration, Option<Span>)>,
        found: &mut Findings<'_>,
    ) {
        let (Some(limit), Some(place)) = (timeouts.stall_timeout, self.stall_timeout.place()) else { return };
        let message = format!("`stall_timeout` of {} has no effect", self.owner);
        let warning = Diagnostic::new(Code::IdleSetting, self.key("stall_timeout"), message).label(place, "");
        let time = humantime::format_duration;
        if let Some(user) = timeouts.user_timeout
            && user <= limit
            && let Some(place) = self.user_timeout.place()
        {
            let label = format!("after {}, the kernel closes peers that do not read", time(user));
            found.add(warning.label(place, label));
        } else if let Some((idle, place)) = idle
            && idle <= limit
        {
            let text = format!("the idle timeout of {} passes first", time(idle));
            found.add(match place {
                Some(place) => warning.label(place, text),
                None => warning.help(text),
            });
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}
