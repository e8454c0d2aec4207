//! The pick for a request to cancel a query: it goes to the server of its session, which the request does not name.
//!
//! The request is a connection of its own, from the address of the session. It has a secret that only the
//! server of the session can check. So pools that get such requests store the backends at which each source has
//! connections. If all connections of a source are at one backend, the request goes to this backend. The state
//! and the limit of the backend do not matter, and the backend may have left the pool. Otherwise the request
//! goes to the backend that a new session would get if no backend were full. The request goes to one backend
//! only.

use std::net::SocketAddr;
use std::sync::Arc;

use super::backend::Backend;
use super::hash_on;
use super::lease::Lease;
use super::pick::{LimitRule, PickRequest, Unavailable};
use super::pool_in_use::Pool;
use super::sessions::SessionGuard;
use crate::wire::ServerName;

impl Pool {
    /// Picks the backend for a request to cancel a query, and holds it. The arguments are the same as for
    /// [`Pool::pick`] of the session.
    ///
    /// Ignores limits and the queue: the request is short, and its own session may be the reason why the backend is
    /// full. The request is counted there.
    ///
    /// # Errors
    ///
    /// [`Unavailable::NoneUp`] if the backend of the session is not known and no backend of several is up.
    pub fn pick_of_session(
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
            (None, _) => self.pick_now(
                &PickRequest { source, server_name, tried: &[], returned: None },
                LimitRule::Passed,
            ),
        }
    }

    /// Stores a connection of this client to a backend, for requests to cancel; `None` for a pool that gets none.
    pub fn session(&self, source: Option<SocketAddr>, backend: &Arc<Backend>) -> Option<SessionGuard> {
        let sessions = self.sessions.as_ref()?;
        Some(sessions.store(hash_on::network_key(&self.spec, source), backend))
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

    /// Checks that the request of each of a hundred clients goes to the backend of its first session, alone in the
    /// pool.
    fn check_full(spec: PoolSpec) {
        let pool = Pool::build(spec, None, 0);
        for number in 0..100 {
            let session = pool.pick(client(number), None, &[]).unwrap();
            let cancel = pool.pick_of_session(client(number), None).unwrap();
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

    /// A backend in drain keeps its sessions. If it is the only backend, the session must be there.
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
        assert!(pool("a").pick_of_session(client(1), None).is_ok());
        assert_eq!(pool("a b").pick_of_session(client(1), None).err(), Some(Unavailable::NoneUp));
    }

    /// Any client may send a request, with more bytes after it, and servers reset such a connection.
    #[test]
    fn what_becomes_of_it_says_nothing_of_the_backend() {
        let pool = Pool::build(PoolSpec::new("p".into(), backends("a")), None, 0);
        for trouble in Trouble::ALL {
            let cancel = pool.pick_of_session(client(1), None).unwrap();
            assert!(cancel.met(trouble).is_none());
            assert_eq!(cancel.backend().traffic().troubles(trouble), 0);
            drop(cancel);
            let session = pool.pick(client(2), None, &[]).unwrap();
            let _ = session.met(trouble);
            assert_eq!(session.backend().traffic().troubles(trouble), 1);
        }
    }

    #[test]
    fn who_waits_in_the_queue_is_passed_by() {
        let queue = Some(QueueSpec { length: 9, timeout: std::time::Duration::from_secs(1) });
        let pool = Pool::build(PoolSpec { queue, ..PoolSpec::new("p".into(), backends("a")) }, None, 0);
        let _session = pool.pick(client(1), None, &[]).unwrap();
        let _turn = pool.wait(client(2), None, &[]).unwrap();
        assert_eq!(pool.waiting(), 1);
        assert!(pool.pick_of_session(client(1), None).is_ok());
    }

    fn remembering(algorithm: Algorithm, names: &str) -> Pool {
        let spec = PoolSpec { gets_cancels: true, algorithm, ..PoolSpec::new("p".into(), backends(names)) };
        Pool::build(spec, None, 0)
    }

    fn cancelled_at(pool: &Pool, source: Option<SocketAddr>) -> String {
        pool.pick_of_session(source, None).unwrap().backend().name().to_string()
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
            assert!(pool.sessions.as_ref().unwrap().is_empty());
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

    /// The server drains, gets another weight, and leaves the pool; the session stays at it.
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
