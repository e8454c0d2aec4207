//! Where a request to cancel a query goes: to the server of its session, which it does not name.
//!
//! The request is a connection of its own, from the address of the session's, with a secret that only that one
//! server knows. So it goes where the session went if the two were picked alike, and never to a second backend.

use std::net::SocketAddr;

use super::pick::Limits;
use super::{Lease, Pool, Unavailable};
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
    /// [`Unavailable::Nobody`] if no backend is up, unless the pool has but one.
    pub fn pick_for_cancel(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
    ) -> Result<Lease, Unavailable> {
        if let [only] = self.backends() {
            return Ok(Lease::take_past_limits(only));
        }
        self.pick_now(source, server_name, &[], Limits::Passed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::balance::Algorithm;
    use crate::pool::{BackendSpec, Duty, PoolSpec, QueueSpec};

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
            backends(names).into_iter().map(|backend| BackendSpec { duty: Duty::Drain, ..backend }).collect()
        };
        let pool = |names| Pool::build(PoolSpec::new("p".into(), drained(names)), None, 0);
        assert!(pool("a").pick(client(1), None, &[]).is_err());
        assert!(pool("a").pick_for_cancel(client(1), None).is_ok());
        assert_eq!(pool("a b").pick_for_cancel(client(1), None).err(), Some(Unavailable::Nobody));
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
}
