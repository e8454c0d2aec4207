//! Divides the descriptors that the process may open.
//!
//! Connections get the descriptors that are left after all other shares. If the limit is small, the other shares shrink
//! with it, so that the process can still serve some clients.

use std::io;
use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::conn::ProcessBounds;
use crate::limit::OverLimit;
use crate::pool::forward::NAMES_AT_ONCE;
use crate::sys::{descriptors, process};

/// The descriptors kept for everything that is not a connection: the control thread, some checks, files, admin.
const RESERVED: u64 = 256;

/// The least value of this reserve. Half of the reserve is in use at once: the standard streams, the runtime of
/// the control thread, a log, an admin listener.
const LEAST_RESERVED: u64 = 24;

/// The pipes of the whole process. Each takes two descriptors, and at most 1 MiB of kernel memory while it holds bytes.
const MOST_PIPES: u64 = 256;

/// The limit of connections below which the log warns and gives the reason.
const FEW_CONNECTIONS: u64 = 200;

/// The descriptors of the process.
#[derive(Clone, Copy)]
pub(super) struct Descriptors {
    limit: u64,
    workers: usize,
}

impl Descriptors {
    /// Raises the limit of the process as far as allowed.
    ///
    /// # Errors
    ///
    /// If the limit cannot be read.
    pub(super) fn of_process(workers: usize) -> io::Result<Self> {
        Ok(Self { limit: process::raise_descriptor_limit()?, workers })
    }

    /// Returns the number of descriptors that the process may have open.
    pub(super) fn limit(self) -> u64 {
        self.limit
    }

    /// Returns the descriptors that are kept for all uses without a separate share below. In addition, each
    /// worker has two descriptors.
    fn reserved(self) -> u64 {
        RESERVED.min((self.limit / 4).max(LEAST_RESERVED))
    }

    fn pipes(self) -> u64 {
        MOST_PIPES.min(self.limit / 16).max(self.workers as u64)
    }

    pub(super) fn pipes_of_a_worker(self) -> usize {
        usize::try_from((self.pipes() / self.workers as u64).max(1)).unwrap_or(1)
    }

    /// Returns the number of refused clients that may be held: as configured, but at most an eighth of the descriptors.
    fn tarpit(self, config: &Config) -> u64 {
        if holds_refused(config) { config.limits.tarpit.min(self.limit / 8) } else { 0 }
    }

    /// Returns the number of checks that may run at once: as configured, but at most an eighth of the descriptors.
    pub(super) fn checks_at_once(self, config: &Config) -> usize {
        config.max_checks.min(usize::try_from(self.limit / 8).unwrap_or(usize::MAX)).max(1)
    }

    /// Returns the descriptors that checks may take in addition to the reserve.
    fn checks(self, config: &Config) -> u64 {
        let wanted = config.pools.iter().map(|pool| {
            let kinds = usize::from(pool.health.is_some()) + usize::from(pool.agent.is_some());
            kinds * pool.backends.len()
        });
        let most = wanted.sum::<usize>().min(self.checks_at_once(config));
        (most as u64).saturating_sub(self.checks_of_the_reserve())
    }

    fn checks_of_the_reserve(self) -> u64 {
        self.reserved() / 4
    }

    /// Returns the number of descriptors that connections leave free even if `max_connections` is too high. These
    /// are the descriptors of checks and look-ups, and a share for admin and files. That share is as large as the
    /// share of checks in the reserve.
    fn kept(self, config: &Config) -> u64 {
        2 * self.checks_of_the_reserve() + self.checks(config) + self.names(config)
    }

    /// Returns the descriptors for the look-ups of forwarding pools: two queries for each name, and the queries
    /// whose answers are late.
    fn names(self, config: &Config) -> u64 {
        let pools = config.pools.iter().filter(|pool| pool.forward.is_some()).count();
        (3 * (NAMES_AT_ONCE * pools) as u64).min(self.limit / 8)
    }

    /// Puts the process limits of a configuration in force.
    pub(super) fn bound(self, bounds: &ProcessBounds, config: &Config, connections: u64) {
        bounds.connections.set_limit(connections);
        let source = if config.max_connections.is_none() { self.limit } else { 0 };
        bounds.descriptors.store(source, Ordering::Relaxed);
        descriptors::keep_from_connections(self.limit, self.kept(config));
        bounds.hello_memory.set_limit(config.limits.hello_memory);
        bounds.overload.set(&config.limits.overload);
        bounds.tarpit.set_limit(self.tarpit(config));
        bounds.sources.set_when_full(config.limits.when_full);
        let mut listeners = config.listeners.iter().filter_map(|spec| spec.policy.admission.as_ref());
        // All listeners have the same prefix.
        let prefix = listeners.clone().next().map(|admission| admission.prefix);
        bounds.saturation.set_prefix(prefix.unwrap_or_default());
        if listeners.any(|admission| admission.per_source.is_some()) {
            bounds.sources.prepare();
        }
    }

    /// Checks that the descriptors suffice for one connection.
    ///
    /// # Errors
    ///
    /// The number of descriptors that are needed, if the process may not open as many.
    pub(super) fn suffice(self, config: &Config) -> Result<(), u64> {
        let sockets: u64 = config.listeners.iter().map(|spec| spec.binds.len() as u64).sum();
        let least = LEAST_RESERVED / 2 + (sockets + 2) * self.workers as u64 + 2;
        if self.limit < least { Err(least) } else { Ok(()) }
    }

    /// Returns the number of connections that fit: each takes two descriptors.
    fn room(self, config: &Config) -> u64 {
        let sockets: u64 = config.listeners.iter().map(|spec| spec.binds.len() as u64).sum();
        let others = self.reserved()
            + (sockets + 2) * self.workers as u64
            + 2 * self.pipes()
            + self.checks(config)
            + self.names(config)
            + self.tarpit(config);
        (self.limit.saturating_sub(others) / 2).max(1)
    }

    /// Returns the limit of connections: `max_connections`, or the number that fits. Logs a warning if few fit.
    pub(super) fn connections(self, config: &Config) -> u64 {
        let most = self.room(config);
        match config.max_connections {
            Some(wanted) if wanted > most => tracing::warn!(
                max_connections = wanted,
                descriptors = self.limit,
                enough_for = most,
                "the descriptors do not suffice for max_connections; raise LimitNOFILE"
            ),
            None if most < FEW_CONNECTIONS => tracing::warn!(
                max_connections = most,
                descriptors = self.limit,
                "few connections fit at one time: the process may open few descriptors, and each connection takes \
                 two; raise the hard limit of open files (LimitNOFILE= of a unit, `ulimit -Hn`, --ulimit nofile of a \
                 container), or write max_connections to avoid this warning"
            ),
            _ => {}
        }
        config.max_connections.unwrap_or(most)
    }
}

/// Returns true if refused clients are held anywhere.
fn holds_refused(config: &Config) -> bool {
    let listeners = || config.listeners.iter().map(|spec| &spec.policy);
    let admissions =
        listeners().filter_map(|policy| policy.admission.as_ref()).map(|admission| admission.over);
    let routes =
        listeners().flat_map(|policy| policy.protocol.routes()).filter_map(|route| route.limits.as_ref());
    let pools = config.pools.iter().filter_map(|pool| pool.limits.as_ref());
    let mut all = admissions.chain(routes.chain(pools).map(|quota| quota.over));
    all.any(|over| matches!(over, OverLimit::Tarpit(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the connections that fit with this limit and this many checked backends.
    fn room(limit: u64, workers: usize, backends: usize) -> u64 {
        let (descriptors, config) = (Descriptors { limit, workers }, config(backends));
        let room = descriptors.room(&config);
        if room > 1 {
            // The other descriptors, with two listening sockets for each worker, do not exceed the bound.
            let others = 10 + 4 * workers as u64 + 2 * descriptors.pipes();
            let bound = limit - descriptors.kept(&config);
            assert!(2 * room + others <= bound, "{limit}: {room} connections, bound {bound}");
        }
        room
    }

    fn config(backends: usize) -> Config {
        let backends: Vec<_> = (1..=backends).map(|port| format!("10.0.0.1:{port}")).collect();
        let text = format!(
            "access_log.to = 'off'\n[listener.a]\nbind = ':1'\npool = 'a'\n[pool.a]\nbackends = {backends:?}\n"
        );
        crate::config::parse("test.toml", &text).unwrap().0
    }

    #[test]
    fn a_start_needs_the_descriptors_of_one_connection() {
        let check = |limit: u64, workers: usize, expected| {
            assert_eq!(Descriptors { limit, workers }.suffice(&config(1)), expected, "{limit} {workers}");
        };
        check(18, 1, Ok(()));
        check(17, 1, Err(18));
        check(22, 2, Ok(()));
        check(16, 2, Err(22));
    }

    #[test]
    fn few_descriptors_serve_few_clients_and_not_one() {
        let check = |limit: u64, least: u64, most: u64| {
            let room = room(limit, 2, 1);
            assert!((least..=most).contains(&room), "{limit}: {room}");
        };
        check(1_048_576, 520_000, 524_288);
        check(1024, 300, 320);
        check(400, 100, 150);
        check(256, 60, 90);
        check(200, 50, 70);
        check(64, 10, 15);
        check(16, 1, 1);
        // Neither many workers nor many checks take all descriptors.
        assert!(room(1024, 64, 1) > 100, "{}", room(1024, 64, 1));
        assert!(room(1024, 2, 5000) > 200, "{}", room(1024, 2, 5000));
        assert!(room(256, 2, 5000) > 60, "{}", room(256, 2, 5000));
    }

    #[test]
    fn more_descriptors_never_serve_fewer_clients() {
        let rooms: Vec<_> = (1..200).map(|step| room(step * 16, 4, 100)).collect();
        assert!(rooms.is_sorted(), "{rooms:?}");
    }
}
