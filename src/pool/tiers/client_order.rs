//! The tiers of a pool for one client, and their order.
//!
//! A client whose place is known gets the tiers by distance. Every other client gets the tiers of the node. Both are tiers
//! of the same backends with the same rules: only the order of the zones differs. A tier with the same backends in both
//! has one balancer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::Guard;

use super::super::near::{OrderId, PlaceTable, Places, ZoneRank};
use super::{Tier, Tiers};
use crate::balance::Maglev;

/// All tiers of a pool.
#[derive(Debug)]
pub(in super::super) struct PoolTiers {
    own: Tiers,
    near: Option<NearTiers>,
}

/// The tiers by distance: one for each site, and one for all zones without a site.
#[derive(Debug)]
struct NearTiers {
    tiers: Tiers,
    places: Arc<Places>,
}

/// The tiers for one client, with the order of its zones.
pub(in super::super) struct ClientTiers<'a> {
    /// The tiers.
    pub(in super::super) tiers: &'a Tiers,
    /// The order by distance in the table in force; `None` for the order of the node.
    near: Option<(Guard<Arc<PlaceTable>>, OrderId)>,
}

impl PoolTiers {
    /// Creates the tiers of a pool; `near` are the tiers by distance, with the places of clients.
    pub(in super::super) fn new(own: Tiers, near: Option<(Tiers, Arc<Places>)>) -> Self {
        Self { own, near: near.map(|(tiers, places)| NearTiers { tiers, places }) }
    }

    /// The tiers of the node, for clients whose place is not known.
    pub(in super::super) fn own(&self) -> &Tiers {
        &self.own
    }

    /// The tiers by distance.
    pub(in super::super) fn near(&self) -> Option<&Tiers> {
        self.near.as_ref().map(|near| &near.tiers)
    }

    /// The places of clients, for a pool with tiers by distance.
    pub(in super::super) fn places(&self) -> Option<&Arc<Places>> {
        self.near.as_ref().map(|near| &near.places)
    }

    /// The only tier, if there is nothing to decide for any client.
    pub(in super::super) fn only(&self) -> Option<&Tier> {
        if self.near.is_none() { self.own.only() } else { None }
    }

    /// Returns the tiers for the client at this address; `None` for a Unix socket.
    pub(in super::super) fn of_client(&self, source: Option<SocketAddr>) -> ClientTiers<'_> {
        let own = ClientTiers { tiers: &self.own, near: None };
        let (Some(near), Some(source)) = (&self.near, source) else { return own };
        let table = near.places.table();
        match table.order_of(source.ip()) {
            Some(order) => ClientTiers { tiers: &near.tiers, near: Some((table, order)) },
            None => own,
        }
    }

    /// Returns the zones with backends in the order of a client; `None` if the client gets the order of the node.
    pub(in super::super) fn zones_of(&self, source: Option<SocketAddr>) -> Option<Vec<Arc<str>>> {
        let client = self.of_client(source);
        client.near.as_ref()?;
        let zone = |rank: &ZoneRank| client.tiers.list().iter().find(|tier| tier.plan.rank == *rank);
        Some(client.order().iter().filter_map(zone).map(|tier| Arc::clone(&tier.plan.name)).collect())
    }

    /// All tiers: those of the node, then those by distance.
    pub(in super::super) fn all(&self) -> impl Iterator<Item = &Tier> {
        self.own.list().iter().chain(self.near().map_or(&[][..], Tiers::list))
    }

    /// The hash tables of all tiers, each table once.
    pub(in super::super) fn tables(&self) -> impl Iterator<Item = &Maglev> {
        let mut seen = BTreeSet::new();
        self.all().filter(move |tier| seen.insert(Arc::as_ptr(&tier.balancer))).filter_map(Tier::maglev)
    }

    /// Takes the tiers and their tables out of a pool that is being dropped.
    pub(in super::super) fn take_lists(&mut self) -> (Box<[Tier]>, Option<Box<[Tier]>>) {
        (self.own.take_list(), self.near.as_mut().map(|near| near.tiers.take_list()))
    }
}

impl ClientTiers<'_> {
    /// The ranks of the zones in the order of the client.
    pub(in super::super) fn order(&self) -> &[ZoneRank] {
        match &self.near {
            Some((table, order)) => table.ranks(*order),
            None => self.tiers.own_order(),
        }
    }
}
