//! Connections to nodes behind a router, and the events that break them.
//!
//! A connection belongs to the node that accepted it. It breaks if its packets come to another node, which resets it, or if
//! the process of its node is gone. With the rules of pointsman a node forwards a packet without a socket to the next node of
//! the ring, so it breaks only in the second case.

use crate::routers::{BusyBuckets, HashThreshold, Modulo, NextHop, Resilient, Router};
use crate::seeded::{hash, part};

/// The part of the connections that send nothing for the idle time of buckets (120 s by default).
const SILENT: f64 = 0.2;

/// The most nodes with rules: the number of a node is in the DSCP field.
pub(crate) const MOST_NODES: usize = 63;

/// The most buckets of a resilient group.
const MOST_BUCKETS: usize = 65_535;

/// The buckets for each node, if there are few nodes.
const BUCKETS_OF_NODE: usize = 128;

/// The most nodes to which an event happens, each in a trial of its own.
const TRIALS: usize = 8;

/// A connection of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    hash: u64,
    is_silent: bool,
}

/// Returns the connections of a run.
pub(crate) fn flows(count: usize) -> Vec<Flow> {
    let flow = |number| Flow { hash: hash(1, number), is_silent: part(hash(2, number)) < SILENT };
    (0..count as u64).map(flow).collect()
}

/// A way to send connections to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Modulo,
    HashThreshold,
    /// A resilient group whose busy buckets stay.
    Resilient,
    /// A resilient group with an unbalanced timer.
    ResilientForced,
    /// The hash-threshold algorithm, and nodes that forward.
    Forward,
    /// A resilient group whose busy buckets stay, and nodes that forward.
    ResilientForward,
}

impl Scheme {
    pub(crate) const ALL: [Self; 6] = [
        Self::Modulo,
        Self::HashThreshold,
        Self::Resilient,
        Self::ResilientForced,
        Self::Forward,
        Self::ResilientForward,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Modulo => "ECMP, modulo",
            Self::HashThreshold => "ECMP, hash-threshold",
            Self::Resilient => "resilient group",
            Self::ResilientForced => "resilient group, unbalanced timer",
            Self::Forward => "ECMP, hash-threshold, and rules",
            Self::ResilientForward => "resilient group and rules",
        }
    }

    fn router(self, nodes: usize) -> Box<dyn Router> {
        let buckets = (BUCKETS_OF_NODE * nodes).next_power_of_two().min(MOST_BUCKETS);
        match self {
            Self::Modulo => Box::new(Modulo::default()),
            Self::HashThreshold | Self::Forward => Box::new(HashThreshold::default()),
            Self::Resilient | Self::ResilientForward => Box::new(Resilient::new(buckets, BusyBuckets::Stay)),
            Self::ResilientForced => Box::new(Resilient::new(buckets, BusyBuckets::Move)),
        }
    }

    /// Returns true if the scheme works with so many nodes.
    pub(crate) fn reaches(self, nodes: usize) -> bool {
        !self.forwards() || nodes <= MOST_NODES
    }

    /// Returns true if nodes have the rules of pointsman.
    pub(crate) fn forwards(self) -> bool {
        matches!(self, Self::Forward | Self::ResilientForward)
    }
}

/// A change of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeEvent {
    /// The route of a node goes; its process keeps its connections.
    Leaves,
    /// The route of a node comes back; all connections were opened without it.
    Returns,
    /// A process or its machine dies, and then its route goes.
    Dies,
    /// The weight of a node doubles.
    Doubles,
    /// Every node leaves and returns, one after the other.
    EachInTurn,
}

impl NodeEvent {
    pub(crate) const ALL: [Self; 5] =
        [Self::Leaves, Self::Returns, Self::Dies, Self::Doubles, Self::EachInTurn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leaves => "a node leaves",
            Self::Returns => "a node returns",
            Self::Dies => "a node dies",
            Self::Doubles => "the weight of a node doubles",
            Self::EachInTurn => "each node leaves and returns in turn",
        }
    }
}

/// The effect of an event, as parts of all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The broken connections of the node to which the event happens.
    pub(crate) own: f64,
    /// The broken connections of other nodes.
    pub(crate) others: f64,
    /// The connections that live because nodes forward their packets.
    pub(crate) forwarded: f64,
    /// The nodes that a packet of these passes, on average, beside the one where it arrives.
    pub(crate) hops: f64,
    /// The new connections of the node after the event, as a part of its fair share.
    pub(crate) fair_share: f64,
}

/// Sums of trials.
#[derive(Default)]
struct Sums {
    own: usize,
    others: usize,
    forwarded: usize,
    hops: usize,
    fair_share: f64,
}

impl Sums {
    fn outcome(&self, flows: usize, trials: usize) -> Outcome {
        let of_all = |count: usize| count as f64 / (flows * trials) as f64;
        Outcome {
            own: of_all(self.own),
            others: of_all(self.others),
            forwarded: of_all(self.forwarded),
            hops: if self.forwarded == 0 { 0.0 } else { self.hops as f64 / self.forwarded as f64 },
            fair_share: self.fair_share / trials as f64,
        }
    }
}

/// Returns the effect of an event, averaged over nodes at some places of the route; `None` if the scheme does not work with so
/// many nodes.
pub(crate) fn simulate(scheme: Scheme, event: NodeEvent, nodes: usize, flows: &[Flow]) -> Option<Outcome> {
    if !scheme.reaches(nodes) {
        return None;
    }
    let mut sums = Sums::default();
    if event == NodeEvent::EachInTurn {
        in_turn(scheme, nodes, flows, &mut sums);
        return Some(sums.outcome(flows.len(), 1));
    }
    let trials = nodes.min(TRIALS);
    for trial in 0..trials {
        let changed = trial * (nodes - 1) / (trials - 1).max(1);
        one_event(scheme, event, (nodes, changed), flows, &mut sums);
    }
    Some(sums.outcome(flows.len(), trials))
}

/// Returns the next hops of all nodes but one.
fn without(nodes: usize, left: Option<usize>) -> Vec<NextHop> {
    (0..nodes).filter(|node| Some(*node) != left).map(|node| NextHop { node, weight: 1 }).collect()
}

fn one_event(
    scheme: Scheme,
    event: NodeEvent,
    (nodes, changed): (usize, usize),
    flows: &[Flow],
    sums: &mut Sums,
) {
    let mut router = scheme.router(nodes);
    router.announce(&without(nodes, None), &[]);
    if event == NodeEvent::Returns {
        router.announce(&without(nodes, Some(changed)), &[]);
    }
    let owners: Vec<usize> = flows.iter().map(|flow| router.node(flow.hash)).collect();
    let idle = idle_buckets(&*router, flows);
    let mut after = without(nodes, None);
    let mut weight = 1.0;
    match event {
        NodeEvent::Leaves | NodeEvent::Dies => after = without(nodes, Some(changed)),
        NodeEvent::Doubles => (after[changed].weight, weight) = (2, 2.0),
        NodeEvent::Returns | NodeEvent::EachInTurn => {}
    }
    router.announce(&after, &idle);
    let mut arrived = 0;
    for (flow, owner) in flows.iter().zip(owners) {
        let at = router.node(flow.hash);
        arrived += usize::from(at == changed);
        let is_dead = event == NodeEvent::Dies && owner == changed;
        if at == owner && !is_dead {
            continue;
        }
        if scheme.forwards() && !is_dead {
            sums.forwarded += 1;
            sums.hops += ring_distance(at, owner, nodes);
        } else if owner == changed {
            sums.own += 1;
        } else {
            sums.others += 1;
        }
    }
    let total = nodes as f64 - 1.0 + weight;
    sums.fair_share += arrived as f64 / flows.len() as f64 * total / weight;
}

/// Counts the connections that break while each node leaves and returns. A broken connection is not counted twice.
fn in_turn(scheme: Scheme, nodes: usize, flows: &[Flow], sums: &mut Sums) {
    let mut router = scheme.router(nodes);
    router.announce(&without(nodes, None), &[]);
    let mut alive: Vec<(u64, usize)> = flows.iter().map(|flow| (flow.hash, router.node(flow.hash))).collect();
    let idle = idle_buckets(&*router, flows);
    for step in 0..2 * nodes {
        let left = (step % 2 == 0).then_some(step / 2);
        router.announce(&without(nodes, left), &idle);
        if scheme.forwards() {
            // Each arrives at its owner in the end.
            alive.iter().for_each(|(hash, owner)| _ = ring_distance(router.node(*hash), *owner, nodes));
            continue;
        }
        let before = alive.len();
        alive.retain(|(hash, owner)| router.node(*hash) == *owner);
        sums.others += before - alive.len();
    }
}

/// Returns for each bucket whether all its connections are silent.
fn idle_buckets(router: &dyn Router, flows: &[Flow]) -> Vec<bool> {
    let mut idle = Vec::new();
    for flow in flows {
        let Some((bucket, count)) = router.bucket(flow.hash) else { return idle };
        idle.resize(count, true);
        idle[bucket] &= flow.is_silent;
    }
    idle
}

/// Returns the number of times that a packet is forwarded from the node where it arrives to its owner. The ring has the nodes in
/// the order of their numbers.
///
/// # Panics
///
/// If it would go once around without an owner.
pub(crate) fn ring_distance(at: usize, owner: usize, nodes: usize) -> usize {
    assert!(at < nodes && owner < nodes, "the ring of {nodes} has no node {at} or {owner}");
    (owner + nodes - at) % nodes
}
