//! The connections of a pool that would go elsewhere if they came now. It takes the decision of a pick and has none of its
//! effects.
//!
//! A hash table names the backend of each connection. Other balancers do not: there a backend has a fair share of the
//! connections, and the connections above it are too many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::pick::{LimitRule, PickRequest};
use super::pool_in_use::Pool;
use super::preview::PreviewKind;
use super::tiers::Tier;
use crate::balance::Balancer;
use crate::ids::BackendId;
use crate::wire::ServerName;

/// A sum of shares may exceed a whole number by less than this.
const ROUNDING: f64 = 1e-6;

impl Pool {
    /// Returns true if each connection has a backend by its key.
    pub fn is_hashed(&self) -> bool {
        self.tiers.own().list().first().is_some_and(|tier| tier.maglev().is_some())
    }

    /// Returns the other backend to which a connection of `backend` would go now. The first two arguments are the same as
    /// for [`Pool::pick`]. The slot of the connection itself does not count.
    ///
    /// `None` if the connection is at its place, would get no backend or would have to wait. If the pool does not hash
    /// ([`Pool::is_hashed`]), use [`Pool::fair_counts`] instead. A backend may have room for fewer connections than would go
    /// to it ([`Pool::rooms`]).
    pub fn other_place(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        backend: BackendId,
    ) -> Option<BackendId> {
        let request = PickRequest { source, server_name, tried: &[], returned: Some(backend) };
        if self.must_wait() {
            return None;
        }
        let pick = self.pick_by(&request, LimitRule::Obeyed, &PreviewKind(self)).ok()?;
        Some(pick.backend.id()).filter(|other| *other != backend)
    }

    /// Returns the numbers of further connections that the backends take within their limits and `max_load`, in the order of
    /// [`Pool::backends`].
    pub fn rooms(&self) -> Vec<u64> {
        let fair = self.spec.max_load.and_then(|max_load| Some((max_load, self.fair_counts()?)));
        let room = |(at, backend): (usize, &Arc<Backend>)| {
            let bound = fair.as_ref().map_or(u64::MAX, |(max_load, fair)| {
                fair[at].saturating_mul(max_load.percent().into()).div_ceil(100).max(1)
            });
            backend.connection_limit().min(bound).saturating_sub(backend.active())
        };
        self.backends.iter().enumerate().map(room).collect()
    }

    /// Returns the numbers of connections that the backends would have if all open connections came again, in the order of
    /// [`Pool::backends`]. They are rounded up, so that no connection is too many if all backends have equally many.
    ///
    /// With tiers by distance, a tier keeps as many connections as it has: their clients' places are not known here.
    ///
    /// `None` if no backend takes connections: they could go nowhere.
    pub fn fair_counts(&self) -> Option<Vec<u64>> {
        let is_panic = self.is_in_panic();
        let takes = |backend: &Backend| if is_panic { backend.is_wanted() } else { backend.is_available() };
        if !self.backends.iter().any(|backend| takes(backend)) {
            return None;
        }
        let all: u64 = self.backends.iter().map(|backend| backend.active()).sum();
        let mut counts = vec![0; self.backends.len()];
        let mut spread = |tier: &Tier, all: f64| {
            for (&at, count) in tier.members().iter().zip(self.fair_in(tier, all, takes)) {
                counts[at] = (count - ROUNDING).ceil().max(0.0) as u64;
            }
        };
        match self.tiers.near() {
            Some(near) => near.list().iter().for_each(|tier| spread(tier, self.active_in(tier) as f64)),
            None => {
                let both = self.tiers.own().list().iter().zip(self.tiers());
                both.for_each(|(tier, view)| spread(tier, all as f64 * view.share));
            }
        }
        Some(counts)
    }

    /// Returns the open connections of a tier.
    fn active_in(&self, tier: &Tier) -> u64 {
        tier.members().iter().map(|&at| self.backends[at].active()).sum()
    }

    /// Spreads this many connections over the backends of a tier.
    fn fair_in(&self, tier: &Tier, all: f64, takes: impl Fn(&Backend) -> bool) -> Vec<f64> {
        let now = Instant::now();
        let part = |&at: &usize| {
            let backend = &self.backends[at];
            let weight = if takes(backend) { f64::from(backend.weight()) } else { 0.0 };
            FairPart { weight: weight * self.share(backend, now), most: backend.connection_limit() as f64 }
        };
        let parts: Vec<_> = tier.members().iter().map(part).collect();
        match *tier.balancer {
            Balancer::Failover(_) => in_written_order(all, &parts),
            _ => by_weight(all, &parts),
        }
    }
}

/// The part of one backend in a tier.
#[derive(Clone, Copy, Debug)]
struct FairPart {
    /// Its weight; 0 if it takes no connections.
    weight: f64,
    /// The most connections that it takes.
    most: f64,
}

/// Gives each backend as many connections as it takes, in written order.
fn in_written_order(all: f64, parts: &[FairPart]) -> Vec<f64> {
    let mut left = all;
    let mut give = |part: &FairPart| {
        let given = if part.weight > 0.0 { left.min(part.most) } else { 0.0 };
        left -= given;
        given
    };
    parts.iter().map(&mut give).collect()
}

/// Spreads connections by weight. What is too much for a backend goes to the others.
fn by_weight(all: f64, parts: &[FairPart]) -> Vec<f64> {
    let mut counts = vec![0.0; parts.len()];
    let mut is_full = vec![false; parts.len()];
    let mut left = all;
    loop {
        let open = || (0..parts.len()).filter(|&at| !is_full[at]);
        let whole: f64 = open().map(|at| parts[at].weight).sum();
        if whole <= 0.0 {
            return counts;
        }
        let share = |at: usize| left * parts[at].weight / whole;
        let over: Vec<_> = open().filter(|&at| share(at) > parts[at].most).collect();
        if over.is_empty() {
            open().for_each(|at| counts[at] = share(at));
            return counts;
        }
        for at in over {
            counts[at] = parts[at].most;
            left -= parts[at].most;
            is_full[at] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::{Algorithm, MaxLoad};
    use crate::pool::{BackendSpec, Lease, OperatorState, PoolSpec, TierSpec};

    /// A backend of a test: its weight, its zone, and its operator state.
    type Written = (u16, Option<&'static str>, bool, OperatorState);

    fn spec(algorithm: Algorithm, written: &[Written]) -> PoolSpec {
        let backend = |(at, &(weight, zone, backup, operator_state)): (usize, &Written)| BackendSpec {
            weight,
            zone: zone.map(Into::into),
            backup,
            operator_state,
            ..BackendSpec::new(format!("b{at}"), "10.0.0.1:1".parse().unwrap())
        };
        let backends = written.iter().enumerate().map(backend).collect();
        let tiers = TierSpec { zone: Some("near".into()), ..TierSpec::default() };
        PoolSpec { algorithm, tiers, ..PoolSpec::new("p".into(), backends) }
    }

    fn client(number: u32) -> Option<SocketAddr> {
        Some((Ipv4Addr::from(0x0a00_0000 + number), 1).into())
    }

    /// Returns the pool that replaces another.
    fn settled(spec: PoolSpec, old: &Pool) -> Arc<Pool> {
        let pool = Arc::new(Pool::build(spec, Some(old), 0));
        pool.settle(Instant::now());
        pool
    }

    /// Opens connections of these clients, as long as there is a backend.
    fn open(pool: &Pool, count: u32) -> Vec<(u32, Lease)> {
        (0..count).filter_map(|number| Some((number, pool.pick(client(number), None, &[]).ok()?))).collect()
    }

    fn misplaced(pool: &Pool, (number, lease): &(u32, Lease)) -> bool {
        pool.other_place(client(*number), None, lease.backend().id()).is_some()
    }

    fn written() -> impl Strategy<Value = Vec<Written>> {
        let state = prop_oneof![
            4 => Just(OperatorState::Ready),
            1 => Just(OperatorState::Drain),
            1 => Just(OperatorState::Maintenance),
        ];
        let zone = prop_oneof![Just(None), Just(Some("near")), Just(Some("far"))];
        prop::collection::vec((1_u16..5, zone, prop::bool::weighted(0.2), state), 1..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        /// Connections were opened before a change of the pool. Those are misplaced, and only those, that a new connection of
        /// the same client does not follow. Once they have come again, none is misplaced.
        #[test]
        fn misplaced_connections_are_those_that_a_new_one_would_not_follow(
            before in written(),
            after in written(),
        ) {
            let algorithm = Algorithm::Maglev;
            let old = Pool::build(spec(algorithm, &before), None, 0);
            let connections = open(&old, 200);
            let pool = settled(spec(algorithm, &after), &old);
            let mut again = Vec::new();
            for connection in connections {
                let is_misplaced = misplaced(&pool, &connection);
                let expected = match pool.pick(client(connection.0), None, &[]) {
                    Ok(lease) => !lease.backend().is_same(connection.1.backend()),
                    Err(_) => false,
                };
                prop_assert_eq!(is_misplaced, expected);
                if is_misplaced {
                    drop(connection.1);
                    again.push((connection.0, pool.pick(client(connection.0), None, &[]).unwrap()));
                } else {
                    again.push(connection);
                }
            }
            prop_assert!(again.iter().all(|connection| !misplaced(&pool, connection)));
        }

        /// The fair counts are those of an even spread, and a bound of a backend gives the rest to the others.
        #[test]
        fn fair_counts_add_up(
            counts in prop::collection::vec(0_u64..200, 1..6),
            backends in prop::collection::vec((1_u16..5, prop::option::of(1_u64..100)), 6),
        ) {
            let backends = &backends[..counts.len()];
            let written: Vec<Written> =
                backends.iter().map(|backend| (backend.0, None, false, OperatorState::Ready)).collect();
            let mut bounded = spec(Algorithm::RoundRobin, &written);
            for (spec, backend) in bounded.backends.iter_mut().zip(backends) {
                spec.max_connections = backend.1;
            }
            let pool = Pool::build(bounded, None, 0);
            let both = || pool.backends().iter().zip(&counts);
            let hold = |(backend, &count): (&Arc<Backend>, &u64)| {
                (0..count).map(|_| Lease::take_past_limits(backend)).collect::<Vec<_>>()
            };
            let _held: Vec<_> = both().flat_map(hold).collect();
            let all: u64 = counts.iter().sum();
            let fair = pool.fair_counts().unwrap();
            let most: u64 = backends.iter().map(|backend| backend.1.unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
            let sum: u64 = fair.iter().sum();
            // Each is rounded up.
            prop_assert!((all.min(most)..all.min(most) + counts.len() as u64).contains(&sum), "{fair:?}");
            for ((one, count), at) in backends.iter().zip(&fair).zip(0..) {
                prop_assert!(one.1.is_none_or(|most| *count <= most));
                for (other, other_count) in backends.iter().zip(&fair).skip(at + 1) {
                    if one.1.is_none() && other.1.is_none() {
                        let [by_one, by_other] =
                            [count * u64::from(other.0), other_count * u64::from(one.0)];
                        // Each differs from its exact share by less than 1.
                        prop_assert!(by_one.abs_diff(by_other) < u64::from(one.0.max(other.0)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_connection_at_a_full_backend_is_not_misplaced() {
        let mut limited = spec(Algorithm::Maglev, &[(1, None, false, OperatorState::Ready); 2]);
        limited.backends[0].max_connections = Some(3);
        limited.backends[1].max_connections = Some(3);
        let pool = Pool::build(limited, None, 0);
        let connections = open(&pool, 100);
        assert_eq!(connections.len(), 6);
        // Some are at the owner of their key, and the owner of the others is full.
        assert!(!connections.iter().any(|connection| misplaced(&pool, connection)));
    }

    #[test]
    fn a_backend_has_room_within_its_bounds() {
        let ready = (1, None, false, OperatorState::Ready);
        let mut limited = spec(Algorithm::Maglev, &[ready; 3]);
        limited.backends[0].max_connections = Some(5);
        let hold = |pool: &Pool, counts: [u64; 3]| -> Vec<Lease> {
            let both = pool.backends().iter().zip(counts);
            both.flat_map(|(backend, count)| (0..count).map(|_| Lease::take_past_limits(backend))).collect()
        };
        let pool = Pool::build(limited.clone(), None, 0);
        let _held = hold(&pool, [4, 4, 4]);
        assert_eq!(pool.rooms(), [1, u64::MAX - 4, u64::MAX - 4]);
        limited.max_load = Some(MaxLoad::of_percent(150));
        let pool = Pool::build(limited, None, 0);
        let _held = hold(&pool, [6, 2, 4]);
        // A limited backend takes 4 of 12, and the others too: half more is 6.
        assert_eq!(pool.rooms(), [0, 4, 2]);
    }

    #[test]
    fn the_bound_of_the_load_does_not_misplace_a_key_at_its_owner() {
        let mut bounded = spec(Algorithm::Maglev, &[(1, None, false, OperatorState::Ready); 3]);
        bounded.max_load = Some(MaxLoad::of_percent(110));
        let pool = Pool::build(bounded, None, 0);
        let connections = open(&pool, 300);
        let at_owner = connections
            .iter()
            .filter(|connection| pool.preview_owner(client(connection.0)) == connection.1.backend().id());
        let mut seen = 0;
        for connection in at_owner {
            assert!(!misplaced(&pool, connection));
            seen += 1;
        }
        assert!(seen > 200, "{seen}");
    }

    impl Pool {
        /// Returns the owner of the key of a client.
        fn preview_owner(&self, source: Option<SocketAddr>) -> BackendId {
            let request = PickRequest { source, server_name: None, tried: &[], returned: None };
            let pick = self.pick_by(&request, LimitRule::Passed, &PreviewKind(self)).ok();
            pick.unwrap().slot.unwrap().owner.id()
        }
    }

    #[test]
    fn without_a_backend_nothing_is_misplaced() {
        let all_out: [Written; 2] = [(1, None, false, OperatorState::Drain); 2];
        for algorithm in Algorithm::ALL {
            let old = Pool::build(spec(algorithm, &[(1, None, false, OperatorState::Ready); 2]), None, 0);
            let connections = open(&old, 20);
            let pool = settled(spec(algorithm, &all_out), &old);
            assert_eq!(connections.len(), 20);
            assert!(!connections.iter().any(|connection| misplaced(&pool, connection)), "{algorithm:?}");
            assert_eq!(pool.fair_counts(), None, "{algorithm:?}");
        }
    }

    #[test]
    fn a_backend_that_takes_nothing_has_no_fair_share() {
        let ready = (1, None, false, OperatorState::Ready);
        let old = Pool::build(spec(Algorithm::RoundRobin, &[ready; 2]), None, 0);
        let _connections = open(&old, 20);
        let drained = spec(Algorithm::RoundRobin, &[ready, (1, None, false, OperatorState::Drain)]);
        assert_eq!(settled(drained, &old).fair_counts(), Some(vec![20, 0]));
    }

    #[test]
    fn the_first_backend_in_written_order_gets_all_that_it_takes() {
        let ready = (1, None, false, OperatorState::Ready);
        let old = Pool::build(spec(Algorithm::RoundRobin, &[ready; 4]), None, 0);
        let _connections = open(&old, 20);
        let out = (1, None, false, OperatorState::Drain);
        let mut ordered = spec(Algorithm::Failover, &[out, ready, ready, ready]);
        ordered.backends[1].max_connections = Some(15);
        assert_eq!(settled(ordered, &old).fair_counts(), Some(vec![0, 15, 5, 0]));
    }

    #[test]
    fn tiers_have_their_shares() {
        let ready = |zone| (1, zone, false, OperatorState::Ready);
        let old = Pool::build(spec(Algorithm::LeastConnections, &[ready(None); 4]), None, 0);
        let _connections = open(&old, 40);
        let near = [ready(Some("near")), ready(Some("near")), ready(None), ready(None)];
        assert_eq!(
            settled(spec(Algorithm::LeastConnections, &near), &old).fair_counts(),
            Some(vec![20, 20, 0, 0])
        );
    }
}
