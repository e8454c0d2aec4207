//! Where a request to cancel a query goes: to the server of its session, which it does not name.
//!
//! The request is a connection of its own, from the address of the session's, with a secret that only that one
//! server knows. So pools that get such requests remember at which backends each source has connections: if all
//! are at one, that is it, whatever has become of its health, its limits and its place in the pool since. Else
//! the request goes where a session would go that comes now, were nothing full. It goes to one backend only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pick::LimitRule;
use super::{Backend, Lease, Pool, Unavailable, hash_on};
use crate::wire::ServerName;

impl Pool {
    /// Picks the backend for a request to cancel a query, and holds it. What is given is what [`Pool::pick`] is
    /// given for the session.
    ///
    /// Limits and the queue are passed by: the request is short, and it may be the very session it is about
    /// that fills its backend. It is counted there, though.
    ///
    /// # Errors
    ///
    /// [`Unavailable::Nobody`] if it is not known where the session is, and of several backends none is up.
    pub fn pick_for_cancel(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
    ) -> Result<Lease, Unavailable> {
        let known = self
            .sessions
            .as_ref()
            .and_then(|sessions| sessions.only(hash_on::network_key(&self.spec, source)));
        match (known, self.backends()) {
            (Some(backend), _) => Ok(Lease::take_past_limits(&backend)),
            (None, [only]) => Ok(Lease::take_past_limits(only)),
            (None, _) => self.pick_now(source, server_name, &[], LimitRule::Passed),
        }
    }

    /// Remembers a connection of this client to a backend, for requests to cancel; `None` where none come.
    pub fn session(&self, source: Option<SocketAddr>, backend: &Arc<Backend>) -> Option<SessionGuard> {
        let sessions = self.sessions.as_ref()?;
        let place = (hash_on::network_key(&self.spec, source), backend.number());
        sessions.open().entry(place).or_insert_with(|| (Arc::clone(backend), 0)).1 += 1;
        Some(SessionGuard { sessions: Arc::clone(sessions), place })
    }
}

/// At which backends the sources of a pool have connections. Shared by the pools of one name and by all that
/// is remembered; there are never more entries than connections.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    /// By the key of the source and the number of the backend, with how many there are. A lock because any
    /// worker may come; it is held for one look-up.
    open: Mutex<BTreeMap<SessionKey, (Arc<Backend>, u64)>>,
}

type SessionKey = (u64, u64);

impl SessionTable {
    fn open(&self) -> MutexGuard<'_, BTreeMap<SessionKey, (Arc<Backend>, u64)>> {
        // A panic while it was held cannot leave a half-made state behind: each entry is valid alone.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backend of all connections of a source, if they are at one.
    fn only(&self, source: u64) -> Option<Arc<Backend>> {
        let open = self.open();
        let mut backends = open.range((source, 0)..=(source, u64::MAX)).map(|(_, (backend, _))| backend);
        backends.next().filter(|_| backends.next().is_none()).map(Arc::clone)
    }
}

/// A connection that is remembered by its source and its backend, until this is dropped.
#[derive(Debug)]
#[must_use = "what is dropped is forgotten"]
pub struct SessionGuard {
    sessions: Arc<SessionTable>,
    place: SessionKey,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        if let Some((_, count)) = open.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::balance::Algorithm;
    use crate::pool::{BackendSpec, OperatorState, PoolSpec, QueueSpec, Trouble};

    fn backends(names: &str) -> Vec<BackendSpec> {
        let backends = names.split(' ').map(|name| BackendSpec {
            max_connections: Some(1),
            ..BackendSpec::new(name, "10.0.0.1:5432".parse().unwrap())
        });
        backends.collect()
    }

    fn client(number: u32) -> Option<SocketAddr> {
        Some((Ipv4Addr::from(0x0a00_0000 + number), 1).into())
    }

    /// The first session of each of a hundred clients, alone in the pool, is where its request to cancel comes.
    fn check_full(spec: PoolSpec) {
        let pool = Pool::build(spec, None, 0);
        for number in 0..100 {
            let session = pool.pick(client(number), None, &[]).unwrap();
            let cancel = pool.pick_for_cancel(client(number), None).unwrap();
            assert_eq!(cancel.backend().name(), session.backend().name(), "{number}: {:?}", pool.spec());
            assert_eq!(cancel.backend().active(), 2);
            drop(session);
            assert!(cancel.backend().is_full());
        }
        assert!(pool.backends().iter().all(|backend| backend.active() == 0));
    }

    #[test]
    fn it_comes_past_what_is_full() {
        let spec = |names| PoolSpec::new("p".into(), backends(names));
        check_full(spec("a b c"));
        check_full(PoolSpec { algorithm: Algorithm::Failover, ..spec("a b c") });
        let queue = Some(QueueSpec { length: 9, timeout: std::time::Duration::from_secs(1) });
        check_full(PoolSpec { queue, ..spec("a b c") });
        check_full(PoolSpec { algorithm: Algorithm::RoundRobin, queue, ..spec("a") });
    }

    /// What is drained keeps its sessions; where there is nothing else they must be there.
    #[test]
    fn the_only_backend_is_asked_whatever_its_state() {
        let drained = |names| {
            backends(names)
                .into_iter()
                .map(|backend| BackendSpec { operator_state: OperatorState::Drain, ..backend })
                .collect()
        };
        let pool = |names| Pool::build(PoolSpec::new("p".into(), drained(names)), None, 0);
        assert!(pool("a").pick(client(1), None, &[]).is_err());
        assert!(pool("a").pick_for_cancel(client(1), None).is_ok());
        assert_eq!(pool("a b").pick_for_cancel(client(1), None).err(), Some(Unavailable::Nobody));
    }

    /// Anybody may send one, with more behind it, and servers reset that.
    #[test]
    fn what_becomes_of_it_says_nothing_of_the_backend() {
        let pool = Pool::build(PoolSpec::new("p".into(), backends("a")), None, 0);
        for trouble in Trouble::ALL {
            let cancel = pool.pick_for_cancel(client(1), None).unwrap();
            assert!(cancel.met(trouble).is_none());
            assert_eq!(cancel.backend().troubles(trouble), 0);
            drop(cancel);
            let session = pool.pick(client(2), None, &[]).unwrap();
            let _ = session.met(trouble);
            assert_eq!(session.backend().troubles(trouble), 1);
        }
    }

    #[test]
    fn who_waits_in_the_queue_is_passed_by() {
        let queue = Some(QueueSpec { length: 9, timeout: std::time::Duration::from_secs(1) });
        let pool = Pool::build(PoolSpec { queue, ..PoolSpec::new("p".into(), backends("a")) }, None, 0);
        let _session = pool.pick(client(1), None, &[]).unwrap();
        let _turn = pool.wait(client(2), None, &[]).unwrap();
        assert_eq!(pool.waiting(), 1);
        assert!(pool.pick_for_cancel(client(1), None).is_ok());
    }

    fn remembering(algorithm: Algorithm, names: &str) -> Pool {
        let spec = PoolSpec { gets_cancels: true, algorithm, ..PoolSpec::new("p".into(), backends(names)) };
        Pool::build(spec, None, 0)
    }

    fn cancelled_at(pool: &Pool, source: Option<SocketAddr>) -> String {
        pool.pick_for_cancel(source, None).unwrap().backend().name().to_string()
    }

    fn session(pool: &Pool, source: Option<SocketAddr>) -> (Lease, SessionGuard) {
        let lease = pool.pick(source, None, &[]).unwrap();
        let session = pool.session(source, lease.backend()).unwrap();
        (lease, session)
    }

    #[test]
    fn it_finds_the_only_place_of_its_source() {
        for algorithm in Algorithm::ALL {
            let pool = remembering(algorithm, "a b c d e");
            let sessions: Vec<_> = (0..5).map(|number| session(&pool, client(number))).collect();
            for (number, (lease, _)) in sessions.iter().enumerate() {
                assert_eq!(cancelled_at(&pool, client(number as u32)), **lease.backend().name());
            }
            drop(sessions);
            assert!(pool.sessions.as_ref().unwrap().open().is_empty());
        }
    }

    #[test]
    fn where_a_source_has_several_places_the_usual_one_is_asked() {
        let pool = remembering(Algorithm::Failover, "a b c");
        let _others = session(&pool, client(9));
        let [b, c] = [1, 1].map(|number| session(&pool, client(number)));
        assert_eq!([&b, &c].map(|(lease, _)| lease.backend().name().to_string()), ["b", "c"]);
        assert_eq!(cancelled_at(&pool, client(1)), "a");
        drop(b);
        assert_eq!(cancelled_at(&pool, client(1)), "c");
        drop(c);
        assert_eq!(cancelled_at(&pool, client(1)), "a");
    }

    /// The server drains, gets another weight, and is gone from the pool; the session is where it was.
    #[test]
    fn it_finds_its_place_over_reloads() {
        let pool = remembering(Algorithm::Failover, "a b");
        let session = session(&pool, client(1));
        let changed = |backends: Vec<BackendSpec>, old: &Pool| {
            let pool = Pool::build(PoolSpec { backends, ..old.spec().clone() }, Some(old), 0);
            assert_eq!(cancelled_at(&pool, client(1)), "a");
            assert_ne!(cancelled_at(&pool, client(2)), "a");
            pool
        };
        let mut drained = backends("a b");
        drained[0].weight = 0;
        let gone = changed(backends("b"), &changed(drained, &pool));
        drop(session);
        assert_eq!(cancelled_at(&gone, client(1)), "b");
    }

    #[test]
    fn pools_without_requests_remember_nothing() {
        let pool = Pool::build(PoolSpec::new("p".into(), backends("a b")), None, 0);
        let lease = pool.pick(client(1), None, &[]).unwrap();
        assert!(pool.session(client(1), lease.backend()).is_none());
    }
}
