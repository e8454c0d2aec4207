//! The order of zones for each network of clients: the result of a database and the sites of a pool.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::sites::{ClientPlace, Sites, ZoneRank};
use crate::reclaim;
use crate::route::PrefixMap;

/// The most ranges of addresses in a table: some 60 MB for IPv4, 100 MB for IPv6, 180 MB for
/// networks of IPv6 longer than /64. The reader needs about four times as much for a moment.
pub const MOST_PLACE_RANGES: usize = 5_000_000;

/// The most different orders in a table: at most 34 MB with as many sites as a pool may have.
pub const MOST_ORDERS: usize = 1 << 18;

/// The order of zones for each network of clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PlaceTable {
    /// The orders, one after the other, each of `width` ranks.
    orders: Box<[ZoneRank]>,
    width: usize,
    /// The networks with the numbers of their orders.
    networks: PrefixMap,
    digest: u64,
}

/// The number of an order in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct OrderId(u32);

/// The different orders of the zones, which are collected for a table.
#[derive(Debug)]
pub struct ZoneOrders<'a> {
    sites: &'a Sites,
    /// The numbers of the orders.
    known: HashMap<Box<[ZoneRank]>, u32>,
}

/// The reason for which a table is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceTableFault {
    /// It would have too many ranges.
    #[error("it has more than {MOST_PLACE_RANGES} ranges of addresses with different orders of zones")]
    Ranges,
    /// It would have too many orders.
    #[error("it has more than {MOST_ORDERS} different orders of zones")]
    Orders,
}

impl Drop for PlaceTable {
    /// Frees the table on the reclaim thread: any worker may hold the last reference.
    fn drop(&mut self) {
        reclaim::free_later((std::mem::take(&mut self.orders), std::mem::take(&mut self.networks)));
    }
}

impl PlaceTable {
    /// Returns the order for the client at an address; `None` if its place is not known.
    pub(in super::super) fn order_of(&self, address: IpAddr) -> Option<OrderId> {
        self.networks.number(address).map(OrderId)
    }

    /// Returns the ranks of the zones in an order of this table.
    pub(in super::super) fn ranks(&self, order: OrderId) -> &[ZoneRank] {
        let begin = order.0 as usize * self.width;
        &self.orders[begin..begin + self.width]
    }

    /// Returns true if the other table has the same content, by the digests.
    pub fn is_same(&self, other: &Self) -> bool {
        let facts = |table: &Self| (table.digest, table.ranges(), table.orders.len());
        facts(self) == facts(other)
    }

    /// The number of ranges of addresses. Adjacent networks with the same order are one range.
    pub fn ranges(&self) -> usize {
        self.networks.len()
    }

    /// The number of different orders.
    pub fn orders(&self) -> usize {
        self.orders.len().checked_div(self.width).unwrap_or(0)
    }

    /// A fingerprint, equal on nodes where each client has the same order. It was computed when the table was made.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

impl<'a> ZoneOrders<'a> {
    /// Starts without an order, for these sites.
    pub fn new(sites: &'a Sites) -> Self {
        Self { sites, known: HashMap::new() }
    }

    /// Returns the number of the order for clients at a place; `None` if the place decides nothing.
    ///
    /// # Errors
    ///
    /// There are too many orders.
    pub fn number(&mut self, place: ClientPlace) -> Result<Option<u32>, PlaceTableFault> {
        let Some(order) = self.sites.order(place) else { return Ok(None) };
        if let Some(number) = self.known.get(&order) {
            return Ok(Some(*number));
        }
        let number = u32::try_from(self.known.len()).map_err(|_| PlaceTableFault::Orders)?;
        if self.known.len() >= MOST_ORDERS {
            return Err(PlaceTableFault::Orders);
        }
        self.known.insert(order, number);
        Ok(Some(number))
    }

    /// Returns the table of these networks, whose numbers are those of the orders.
    pub fn with_networks(self, networks: PrefixMap) -> PlaceTable {
        let mut orders: Vec<_> = self.known.into_iter().collect();
        orders.sort_unstable_by_key(|(_, number)| *number);
        let orders: Box<[ZoneRank]> = orders.iter().flat_map(|(order, _)| order).copied().collect();
        // The numbers of orders follow from the file, so equal files and sites have equal numbers.
        let mut hasher = SipHasher24::new();
        self.sites.names().for_each(|name| name.hash(&mut hasher));
        orders.iter().for_each(|rank| rank.index().hash(&mut hasher));
        hasher.write_u64(networks.digest());
        PlaceTable { width: self.sites.len() + 1, orders, networks, digest: hasher.finish() }
    }
}
