//! The answers of the nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::values::said;
use crate::cli::status::items;

/// The nodes of a fleet.
#[derive(Default)]
pub(super) struct Fleet {
    /// The nodes that answered.
    pub(super) nodes: Vec<Node>,
    /// The others.
    pub(super) faults: Vec<NodeFault>,
}

/// The pages of a node.
#[derive(Clone)]
pub(super) struct Node {
    /// The address, as the operator wrote it.
    pub(super) name: String,
    pub(super) status: Value,
    /// Null if the node has no such page.
    pub(super) routes: Value,
    /// Null if the node has no such page.
    pub(super) config: Value,
    /// The faults of the further pages.
    pub(super) faults: Vec<String>,
}

/// A node without a status.
pub(super) struct NodeFault {
    /// The address, as the operator wrote it.
    pub(super) name: String,
    pub(super) text: String,
}

/// The things of one node by their names.
pub(super) type Named<'a> = BTreeMap<String, &'a Value>;

/// Returns the elements of a list by their names.
pub(super) fn by_name(list: &Value) -> Named<'_> {
    items(list).iter().map(|one| (said(&one["name"]), one)).collect()
}

/// Returns the names of all nodes.
pub(super) fn all_names(lists: &[(&str, Named<'_>)]) -> BTreeSet<String> {
    lists.iter().flat_map(|(_, things)| things.keys().cloned()).collect()
}

/// Returns the nodes that have a thing, with the thing.
pub(super) fn having<'n, 'a>(lists: &[(&'n str, Named<'a>)], name: &str) -> Vec<(&'n str, &'a Value)> {
    lists.iter().filter_map(|(node, things)| Some((*node, *things.get(name)?))).collect()
}
