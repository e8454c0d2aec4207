//! The preview of a pick: the backends that a connection would get, for an operator. It takes the decision of a pick and
//! has none of its effects: no lease, no turn, no count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::pick::{CandidateRules, Draw, LimitRule, PickKind, PickRequest, TierCandidates, Unavailable};
use super::pool_in_use::Pool;
use super::tiers::{Tier, Tiers};
use crate::balance::FULL_SHARE;
use crate::wire::ServerName;

/// The backends that a connection would get.
#[derive(Debug)]
pub struct PickPreview {
    /// The first backend, then the backends of the later attempts if each attempt fails. At least one.
    pub picks: Vec<PreviewedPick>,
    /// True if each connection with these properties gets these backends while their states stay the same. False if the
    /// pick also depends on counts of connections, on a share that grows, on turns or on chance.
    pub is_certain: bool,
}

/// One backend that a connection would get.
#[derive(Clone, Debug)]
pub struct PreviewedPick {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The slot of the connection's key in the hash table; `None` for a balancer without a table.
    pub slot: Option<OwnedSlot>,
}

/// A slot of a hash table and its owner.
#[derive(Clone, Debug)]
pub struct OwnedSlot {
    /// The position of the slot in the table.
    pub position: usize,
    /// The number of slots.
    pub slots: usize,
    /// The backend to which the slot belongs.
    pub owner: Arc<Backend>,
}

impl Pool {
    /// Returns the backends that a connection would get now: at most `most`. The other arguments are the same as for
    /// [`Pool::pick`].
    ///
    /// # Errors
    ///
    /// The reason for which there is no backend, as [`Pool::pick`] returns it.
    pub fn preview(
        &self,
        source: Option<SocketAddr>,
        server_name: Option<&ServerName>,
        most: usize,
    ) -> Result<PickPreview, Unavailable> {
        if self.must_wait() {
            return Err(Unavailable::Full);
        }
        let kind = PreviewKind(self);
        let mut tried: Vec<Arc<Backend>> = Vec::new();
        let mut picks: Vec<PreviewedPick> = Vec::new();
        while picks.len() < most.max(1) {
            let request = PickRequest { source, server_name, tried: &tried, returned: None };
            match self.pick_by(&request, LimitRule::Obeyed, &kind) {
                Ok(pick) => {
                    tried.push(Arc::clone(&pick.backend));
                    picks.push(pick);
                }
                Err(unavailable) if picks.is_empty() => return Err(unavailable),
                Err(_) => break,
            }
        }
        Ok(PickPreview { picks, is_certain: self.is_certain() })
    }

    /// Returns true if each connection has an order in which backends are picked. Otherwise a preview has the backends
    /// that the balancer picks from, in written order.
    pub fn is_ordered(&self) -> bool {
        self.tiers.own().list().iter().all(|tier| tier.balancer.is_ordered())
    }

    /// Returns true if picks depend only on the connection and the states of the backends.
    fn is_certain(&self) -> bool {
        let now = Instant::now();
        let mut available = self.backends.iter().filter(|backend| backend.is_available());
        self.is_ordered()
            && self.spec.max_load.is_none()
            && available.all(|backend| backend.share(self.spec.slow_start, || now) == FULL_SHARE)
    }
}

/// The kind of a pick that only looks.
pub(super) struct PreviewKind<'a>(pub(super) &'a Pool);

impl PickKind for PreviewKind<'_> {
    type Picked = PreviewedPick;

    fn choose(&self, tier: &Tier, draw: &Draw<'_>, candidates: &TierCandidates<'_>) -> Option<usize> {
        tier.balancer.preview(draw.key, tier.members().len(), candidates)
    }

    fn take(
        &self,
        tier: &Tier,
        draw: &Draw<'_>,
        backend: &Arc<Backend>,
        _: CandidateRules,
    ) -> Option<PreviewedPick> {
        let slot = tier.maglev().and_then(|maglev| {
            let owner = &self.0.backends[tier.members()[maglev.owner(draw.key)?]];
            Some(OwnedSlot {
                position: maglev.slot(draw.key)?,
                slots: maglev.size(),
                owner: Arc::clone(owner),
            })
        });
        Some(PreviewedPick { backend: Arc::clone(backend), slot })
    }

    fn picked_in_panic(&self, _: &Tiers) {}
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::balance::{Algorithm, MaxLoad};
    use crate::pool::{
        BackendSpec, CheckFault, CheckOutcome, CheckReport, HealthSpec, OperatorState, PoolSpec, TierSpec,
    };

    fn backends() -> Vec<BackendSpec> {
        let address = || "10.0.0.1:5432".parse().unwrap();
        let mut backends: Vec<_> =
            ["a", "b", "c", "d", "e"].map(|name| BackendSpec::new(name, address())).into();
        backends[1].weight = 3;
        backends[2].operator_state = OperatorState::Maintenance;
        backends[4].zone = Some("far".into());
        backends
    }

    fn client(number: u32) -> Option<SocketAddr> {
        Some((Ipv4Addr::from(0x0a00_0000 + number), 1).into())
    }

    /// Checks that picks follow the preview, also after failed attempts, and that the preview changes nothing.
    fn check(spec: PoolSpec) {
        check_pool(&Pool::build(spec, None, 7));
    }

    fn check_pool(pool: &Pool) {
        let mut seen = 0;
        for number in 0..500 {
            let preview = pool.preview(client(number), None, 3).unwrap();
            assert_eq!(preview.is_certain, pool.spec().max_load.is_none());
            assert!(pool.backends().iter().all(|backend| backend.active() == 0), "the preview holds nothing");
            let mut tried = Vec::new();
            for pick in &preview.picks {
                let lease = pool.pick(client(number), None, &tried).unwrap();
                assert_eq!(lease.backend().name(), pick.backend.name(), "{number}: {:?}", pool.spec());
                tried.push(Arc::clone(lease.backend()));
                seen += 1;
            }
        }
        assert_eq!(seen, 1500);
    }

    #[test]
    fn picks_are_those_of_the_preview() {
        let zone = TierSpec { zones: vec!["far".into()], ..TierSpec::default() };
        for algorithm in [Algorithm::Maglev, Algorithm::Failover] {
            let spec = || PoolSpec { algorithm, ..PoolSpec::new("p".into(), backends()) };
            check(spec());
            check(PoolSpec { tiers: zone.clone(), ..spec() });
        }
        check(PoolSpec { max_load: Some(MaxLoad::of_percent(200)), ..PoolSpec::new("p".into(), backends()) });
    }

    /// The weight that is up is below the threshold, so picks ignore the checks.
    #[test]
    fn picks_in_panic_mode_are_those_of_the_preview() {
        let tiers = TierSpec { panic_threshold: Some(90), ..TierSpec::default() };
        let health = Some(HealthSpec { rise: 1, fall: 1, ..HealthSpec::default() });
        let pool = Pool::build(PoolSpec { tiers, health, ..PoolSpec::new("p".into(), backends()) }, None, 7);
        let backend = Arc::clone(pool.backend("b").unwrap());
        let found = CheckOutcome::Failed(CheckFault::Refused).into();
        let report = CheckReport { pool: "p".into(), backend, found, took: Duration::ZERO };
        assert!(pool.apply(&report, Instant::now()).is_some() && pool.is_in_panic());
        pool.preview(client(1), None, 3).unwrap();
        assert_eq!(pool.panic_picks(), 0, "the preview counts nothing");
        check_pool(&pool);
        assert_eq!(pool.panic_picks(), 1500);
    }

    #[test]
    fn the_preview_counts_nothing() {
        let spec =
            PoolSpec { max_load: Some(MaxLoad::of_percent(101)), ..PoolSpec::new("p".into(), backends()) };
        let pool = Pool::build(spec, None, 7);
        let held = [0; 20].map(|_| pool.pick(client(1), None, &[]).unwrap());
        let counted = pool.overflows();
        assert!(counted > Some(0), "{counted:?}");
        let first = pool.preview(client(1), None, 1).unwrap().picks.remove(0);
        for _ in 0..50 {
            assert!(pool.preview(client(1), None, 1).unwrap().picks[0].backend.is_same(&first.backend));
        }
        assert_eq!(pool.overflows(), counted);
        assert_eq!(pool.backends().iter().map(|backend| backend.active()).sum::<u64>(), held.len() as u64);
    }

    #[test]
    fn a_balancer_with_turns_has_candidates() {
        for algorithm in Algorithm::ALL {
            let spec = PoolSpec { algorithm, ..PoolSpec::new("p".into(), backends()) };
            let is_certain = matches!(algorithm, Algorithm::Maglev | Algorithm::Failover);
            let pool = Pool::build(spec.clone(), None, 7);
            let preview = pool.preview(client(1), None, 9).unwrap();
            assert_eq!((preview.is_certain, pool.is_ordered()), (is_certain, is_certain), "{algorithm:?}");
            assert_eq!(preview.picks.len(), 4, "c is in maintenance");
            assert_eq!(preview.picks[0].slot.is_some(), algorithm == Algorithm::Maglev);
            if algorithm == Algorithm::RoundRobin {
                // The turns go on as if there had been no preview.
                let other = Pool::build(spec, None, 7);
                for _ in 0..10 {
                    let [one, two] = [&pool, &other].map(|pool| pool.pick(client(1), None, &[]).unwrap());
                    assert_eq!(one.backend().name(), two.backend().name());
                }
            }
        }
    }

    #[test]
    fn the_owner_of_a_slot_is_named_if_it_is_out() {
        let pool = Pool::build(PoolSpec::new("p".into(), backends()), None, 7);
        let mut out = 0;
        for number in 0..100 {
            let picks = pool.preview(client(number), None, 1).unwrap().picks;
            let slot = picks[0].slot.as_ref().unwrap();
            assert_eq!(slot.slots, 65537);
            if slot.owner.is_same(&picks[0].backend) {
                continue;
            }
            assert_eq!(&**slot.owner.name(), "c");
            out += 1;
        }
        assert!(out > 5, "{out}");
        let mut all = backends();
        all.iter_mut().for_each(|backend| backend.operator_state = OperatorState::Drain);
        let pool = Pool::build(PoolSpec::new("p".into(), all), None, 7);
        assert_eq!(pool.preview(client(1), None, 3).unwrap_err(), Unavailable::NoneUp);
    }
}
