//! The comparison of the keys in force, except keys whose effect the status or the routes show.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::node::{Node, by_name};
use super::values::{Difference, first_of, grouped, odd_nodes, one_line, said, whole};
use crate::cli::admin_client::shortened;

/// The tables and keys that concern one node alone.
const OF_ONE_NODE: [&str; 10] = [
    "access_log",
    "admin",
    "handover",
    "log",
    "max_connections",
    "process",
    "shutdown",
    "workers",
    "zone",
    "zones",
];

/// The value of a key that a node does not have.
const UNWRITTEN: &str = "not written";

/// The keys of one node.
struct Keys<'a> {
    node: &'a str,
    values: BTreeMap<String, String>,
    /// The routes of each listener, as their keys and values.
    routes: BTreeMap<String, BTreeSet<String>>,
    /// The prefixes of the keys of the node's listeners and pools.
    tables: BTreeSet<String>,
}

/// Returns the keys that differ. Nodes without the page, or with more keys than a page has, are left out.
pub(super) fn differences(nodes: &[Node]) -> Vec<Difference> {
    let all: BTreeSet<_> = nodes.iter().flat_map(tables).collect();
    let nodes: Vec<_> = nodes.iter().filter_map(|node| Keys::of(node, &all)).collect();
    let keys: BTreeSet<_> = nodes.iter().flat_map(|node| node.values.keys()).collect();
    let listeners: BTreeSet<_> = nodes.iter().flat_map(|node| node.routes.keys()).collect();
    let keys = keys.into_iter().filter_map(|key| of_key(&nodes, key, &all));
    keys.chain(listeners.into_iter().filter_map(|listener| of_routes(&nodes, listener))).collect()
}

impl<'a> Keys<'a> {
    /// Returns the keys of a node, or `None` if it does not have all. `all` are the tables of all nodes.
    fn of(node: &'a Node, all: &BTreeSet<String>) -> Option<Self> {
        let list = node.config["keys"].as_array()?;
        if node.config["left_out"].as_u64().is_some_and(|count| count > 0) {
            return None;
        }
        let mut keys =
            Self { node: &node.name, values: BTreeMap::new(), routes: BTreeMap::new(), tables: tables(node) };
        let mut routes: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for entry in list {
            let (key, value) = (whole(&entry["key"]), written(entry));
            if let Some((listener, rest)) = key.split_once(".routes[") {
                let (number, rest) = rest.split_once(']').unwrap_or((rest, ""));
                let part = format!("{} = {value}", rest.trim_start_matches('.'));
                routes.entry((listener.to_owned(), number.to_owned())).or_default().push(part);
            } else if let Some(value) = compared(&key, value, all) {
                keys.values.insert(key, value);
            }
        }
        for ((listener, _), mut parts) in routes {
            parts.sort();
            keys.routes.entry(listener).or_default().insert(parts.join(", "));
        }
        Some(keys)
    }

    /// Returns false for the keys of a listener or pool that the node does not have at all.
    fn has_table_of(&self, key: &str, all: &BTreeSet<String>) -> bool {
        table_of(key, all).is_none_or(|table| self.tables.contains(table))
    }
}

fn tables(node: &Node) -> BTreeSet<String> {
    let names = |kind: &str, list: &Value| -> Vec<String> {
        by_name(list).into_keys().map(|name| format!("{kind}.{name}.")).collect()
    };
    let listeners = names("listener", &node.status["listeners"]);
    listeners.into_iter().chain(names("pool", &node.status["pools"])).collect()
}

/// Returns the longest table that begins a key: names may have dots, so `pool.a.` begins the keys of a pool `a.b` too.
fn table_of<'t>(key: &str, tables: &'t BTreeSet<String>) -> Option<&'t String> {
    let starts = key.match_indices('.').map(|(dot, _)| &key[..=dot]);
    starts.rev().find_map(|start| tables.get(start))
}

/// Returns the value of a key without an override: overrides are compared on their own. Secrets are equal here; the digests
/// of pools show another `hash_key`.
fn written(entry: &Value) -> String {
    let entry = if entry["origin"] == "override" { &entry["otherwise"] } else { entry };
    match &entry["value"] {
        _ if entry["hidden"] == true => "not shown".to_owned(),
        Value::Null => said(&entry["text"]),
        value => one_line(&value.to_string()),
    }
}

/// Returns the value to compare; `None` if a key is not compared. Backends are compared by name. Of the addresses of a
/// listener only the ports are compared, because each node has addresses of its own.
fn compared(key: &str, value: String, all: &BTreeSet<String>) -> Option<String> {
    let kind = first_name(key);
    let behind_table = table_of(key, all).map(|table| first_name(&key[table.len()..]));
    match (kind, behind_table) {
        _ if OF_ONE_NODE.contains(&kind) => None,
        ("pool", Some("backends")) => None,
        ("listener", Some("bind")) if value.contains("unix:") => None,
        ("listener", Some("bind")) => Some(
            value
                .rsplit_once(':')
                .map_or(value.clone(), |(_, port)| format!("port {}", port.trim_end_matches('"'))),
        ),
        _ => Some(value),
    }
}

/// Returns the path up to its first dot or index.
fn first_name(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

fn of_key(nodes: &[Keys<'_>], key: &str, all: &BTreeSet<String>) -> Option<Difference> {
    let with = nodes.iter().filter(|node| node.has_table_of(key, all));
    let value = |node: &Keys<'_>| node.values.get(key).cloned().unwrap_or_else(|| UNWRITTEN.to_owned());
    let values = grouped(with.map(|node| (node.node, value(node))))?;
    let effect = odd_nodes(
        &values,
        "the configuration has another value at ",
        "the nodes have different values of this key",
    );
    Some(Difference { kind: "key", subject: format!("key {}", shortened(key)), values, effect })
}

/// Compares the written routes of a listener, with their conditions and shares.
fn of_routes(nodes: &[Keys<'_>], listener: &str) -> Option<Difference> {
    let with: Vec<_> = nodes.iter().filter(|node| node.tables.contains(&format!("{listener}."))).collect();
    let none = BTreeSet::new();
    let routes = |node: &&Keys<'_>| node.routes.get(listener).unwrap_or(&none).clone();
    let common = with.iter().map(routes).reduce(|all, of_node| &all & &of_node)?;
    let own = |node: &Keys<'_>| {
        let own: Vec<_> = (&routes(&node) - &common).into_iter().collect();
        if own.is_empty() { "only the routes that all have".to_owned() } else { first_of(&own) }
    };
    let values = grouped(with.iter().map(|node| (node.node, own(node))))?;
    let effect = odd_nodes(
        &values,
        "clients are routed by other names, conditions or shares at ",
        "clients are routed by other names, conditions or shares, depending on the node",
    );
    Some(Difference { kind: "key", subject: format!("keys {}.routes", shortened(listener)), values, effect })
}
