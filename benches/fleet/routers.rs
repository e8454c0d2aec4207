//! The ways in which a router spreads connections over the next hops of one route: over nodes.

use crate::seeded::scaled;

/// A next hop: a node and its weight. A node that is not announced is in no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) node: usize,
    pub(crate) weight: u64,
}

/// A router that chooses by the hash of a connection.
pub(crate) trait Router {
    /// Takes over the announced nodes. `is_idle` has for each bucket whether no packet came for the idle time; routers
    /// without buckets ignore it.
    fn announce(&mut self, hops: &[NextHop], is_idle: &[bool]);

    /// Returns the node for a hash. At least one node must be announced.
    fn node(&self, hash: u64) -> usize;

    /// Returns the bucket of a hash and the number of all; `None` for a router without buckets.
    fn bucket(&self, hash: u64) -> Option<(usize, usize)> {
        let _ = hash;
        None
    }
}

/// The rest of a division by the number of next hops. A next hop of weight 2 is two next hops.
#[derive(Default)]
pub(crate) struct Modulo {
    nodes: Vec<usize>,
}

impl Router for Modulo {
    fn announce(&mut self, hops: &[NextHop], _: &[bool]) {
        let repeated = |hop: &NextHop| std::iter::repeat_n(hop.node, hop.weight as usize);
        self.nodes = hops.iter().flat_map(repeated).collect();
    }

    fn node(&self, hash: u64) -> usize {
        self.nodes[(hash % self.nodes.len() as u64) as usize]
    }
}

/// The hash-threshold algorithm of RFC 2992: each next hop has one range of the hashes, in the order of the list. Linux has
/// it for ordinary multipath routes.
#[derive(Default)]
pub(crate) struct HashThreshold {
    /// The nodes with the ends of their ranges, as sums of the weights.
    ends: Vec<(u64, usize)>,
}

impl Router for HashThreshold {
    fn announce(&mut self, hops: &[NextHop], _: &[bool]) {
        let mut sum = 0;
        let end = |hop: &NextHop| {
            sum += hop.weight;
            (sum, hop.node)
        };
        self.ends = hops.iter().map(end).collect();
    }

    fn node(&self, hash: u64) -> usize {
        let total = self.ends.last().expect("a node is announced").0;
        let at = scaled(hash, total);
        self.ends[self.ends.partition_point(|(end, _)| *end <= at)].1
    }
}

/// The rule for busy buckets of next hops that have too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BusyBuckets {
    /// They stay (`unbalanced_timer 0`, the default).
    Stay,
    /// They move after the unbalanced timer.
    Move,
}

/// A resilient next hop group of Linux (Documentation/networking/nexthop-group-resilient.rst): a table of buckets, of which
/// only those of removed next hops and idle ones of next hops with too many buckets move.
pub(crate) struct Resilient {
    buckets: Vec<Option<usize>>,
    pub(crate) busy: BusyBuckets,
}

impl Resilient {
    pub(crate) fn new(buckets: usize, busy: BusyBuckets) -> Self {
        Self { buckets: vec![None; buckets], busy }
    }

    fn index(&self, hash: u64) -> usize {
        (hash % self.buckets.len() as u64) as usize
    }
}

impl Router for Resilient {
    fn announce(&mut self, hops: &[NextHop], is_idle: &[bool]) {
        let nodes = hops.iter().map(|hop| hop.node + 1).max().unwrap_or(0);
        let known = self.buckets.iter().flatten().map(|node| node + 1).max().unwrap_or(0);
        // The buckets that each node lacks; negative if it has too many.
        let mut lacks = vec![0_i64; nodes.max(known)];
        let total: u64 = hops.iter().map(|hop| hop.weight).sum();
        let (mut sum, mut before) = (0, 0);
        for hop in hops {
            sum += hop.weight;
            // Rounded sums, so that all buckets are given out.
            let end = (sum * self.buckets.len() as u64 + total / 2) / total;
            lacks[hop.node] = (end - before) as i64;
            before = end;
        }
        self.buckets.iter().flatten().for_each(|node| lacks[*node] -= 1);
        let mut is_announced = vec![false; lacks.len()];
        hops.iter().for_each(|hop| is_announced[hop.node] = true);
        let mut receivers = hops.iter().map(|hop| hop.node).peekable();
        for (bucket, holder) in self.buckets.iter_mut().enumerate() {
            let may_move = match *holder {
                None => true,
                Some(node) if !is_announced[node] => true,
                Some(node) => {
                    let is_free =
                        self.busy == BusyBuckets::Move || is_idle.get(bucket).is_none_or(|idle| *idle);
                    lacks[node] < 0 && is_free
                }
            };
            if !may_move {
                continue;
            }
            while receivers.next_if(|node| lacks[*node] <= 0).is_some() {}
            let Some(&to) = receivers.peek() else { break };
            if let Some(node) = holder.replace(to) {
                lacks[node] += 1;
            }
            lacks[to] -= 1;
        }
    }

    fn node(&self, hash: u64) -> usize {
        self.buckets[self.index(hash)].expect("a node is announced")
    }

    fn bucket(&self, hash: u64) -> Option<(usize, usize)> {
        Some((self.index(hash), self.buckets.len()))
    }
}
