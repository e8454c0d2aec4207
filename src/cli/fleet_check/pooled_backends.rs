//! The comparison of pools and their backends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compare::{MISSING, PRESENT, presence};
use super::node::{Named, Node, all_names, by_name, having};
use super::values::{Difference, NodesOfValue, first_of, grouped, odd_nodes, said};
use crate::cli::status::items;

/// A property of a backend: its key in the status, and its name in a sentence.
struct Property {
    key: &'static str,
    name: &'static str,
    /// True if the hash table depends on it.
    is_of_table: bool,
}

const PROPERTIES: [Property; 5] = [
    Property { key: "address", name: "address", is_of_table: false },
    Property { key: "weight", name: "weight", is_of_table: true },
    Property { key: "zone", name: "zone", is_of_table: true },
    Property { key: "backup", name: "backup", is_of_table: true },
    Property { key: "state", name: "state", is_of_table: false },
];

/// The number of a property, and its values by node. The number of the presence is 0.
type DifferingValues = (usize, Vec<(String, String)>);

/// The backends of one pool that differ in the same way.
#[derive(Default)]
struct BackendGroups {
    /// The names of the backends in each group.
    names: BTreeMap<DifferingValues, Vec<String>>,
}

impl BackendGroups {
    /// Adds the values of a backend, unless all nodes have the same.
    fn add(&mut self, property: usize, backend: &str, values: Vec<(String, String)>) {
        if values.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            self.names.entry((property, values)).or_default().push(backend.to_owned());
        }
    }
}

/// Returns the pools that differ. `overridden` has the subjects of the overrides that differ: these explain the states and
/// weights of their backends.
pub(super) fn differences(nodes: &[Node], overridden: &BTreeSet<String>) -> Vec<Difference> {
    let lists: Vec<_> = nodes.iter().map(|node| (&*node.name, by_name(&node.status["pools"]))).collect();
    let mut differences = Vec::new();
    for name in all_names(&lists) {
        differences.extend(presence(&lists, &name, ("pool", format!("pool {name}")), |nodes| {
            format!("no route of {nodes} leads to this pool")
        }));
        of_pool(&name, &having(&lists, &name), overridden, &mut differences);
    }
    differences
}

fn of_pool(
    name: &str,
    pools: &[(&str, &Value)],
    overridden: &BTreeSet<String>,
    differences: &mut Vec<Difference>,
) {
    let of_each =
        |value: &dyn Fn(&Value) -> String| grouped(pools.iter().map(|(node, pool)| (*node, value(pool))));
    let backends = of_backends(name, pools, overridden);
    if let Some(values) = of_each(&|pool| said(&pool["balance"])) {
        let before = format!("clients of pool {name} are spread by another balancer through ");
        let effect =
            odd_nodes(&values, &before, "clients are spread by another balancer, depending on the node");
        differences.push(Difference {
            kind: "pool",
            subject: format!("pool {name}: balancer"),
            values,
            effect,
        });
    } else if let Some(values) = of_each(&|pool| said(&pool["digest"])) {
        let weight = format!("override weight of pool {name}, backend ");
        let cause = if overridden.iter().any(|subject| subject.starts_with(&weight)) {
            "the override of a weight above is the cause"
        } else {
            cause(&backends, of_each(&zones).is_some())
        };
        differences.push(digest(name, values, cause));
    }
    if let Some(values) = of_each(&zones) {
        let effect = "the nodes are in different zones or list other zones: each prefers the backends of its own zone, \
                      which is right if the nodes are at different places"
            .to_owned();
        let subject = format!("pool {name}: order of zones");
        differences.push(Difference { kind: "pool", subject, values, effect });
    }
    differences.extend(of_each(&|pool| value(&pool["near"]["digest"])).map(|values| near(name, values)));
    differences.extend(backends);
}

/// Returns the zones of a pool in the order in which a node uses them.
fn zones(pool: &Value) -> String {
    let tier = |tier: &Value| {
        let backup = if tier["backup"] == true { " (backup)" } else { "" };
        format!("{}{backup}", said(&tier["zone"]))
    };
    items(&pool["tiers"]).iter().map(tier).collect::<Vec<_>>().join(", ")
}

fn digest(pool: &str, values: Vec<NodesOfValue>, cause: &str) -> Difference {
    let before = format!("clients of pool {pool} reach other backends through ");
    let otherwise = format!("a client of pool {pool} reaches another backend, depending on the node");
    let effect = format!("{}; {cause}", odd_nodes(&values, &before, &otherwise));
    Difference { kind: "digest", subject: format!("pool {pool}: hash table"), values, effect }
}

/// Returns the difference of the orders of zones that the clients of a pool get by their places.
fn near(pool: &str, values: Vec<NodesOfValue>) -> Difference {
    let odd = odd_nodes(
        &values,
        "clients get other zones first through ",
        "a client gets other zones first, depending on the node",
    );
    let effect = format!("{odd}; the databases or the sites of `near` differ");
    Difference { kind: "pool", subject: format!("pool {pool}: order of zones by distance"), values, effect }
}

/// Returns the cause of different hash tables.
fn cause(backends: &[Difference], zones: bool) -> &'static str {
    let of_table = |difference: &&Difference| {
        let is_named = |property: &Property| difference.subject.ends_with(&format!(": {}", property.name));
        !PROPERTIES.iter().any(|property| !property.is_of_table && is_named(property))
    };
    if backends.iter().any(|difference| of_table(&difference)) {
        "the differences of its backends below are the cause"
    } else if zones {
        "the order of zones below is the cause"
    } else {
        "the backends and their weights are equal, so another `hash_key` is the cause"
    }
}

/// Returns the differences of the backends of a pool. Backends that differ in the same way are one difference.
fn of_backends(pool: &str, pools: &[(&str, &Value)], overridden: &BTreeSet<String>) -> Vec<Difference> {
    let lists: Vec<(&str, Named<'_>)> =
        pools.iter().map(|(node, pool)| (*node, by_name(&pool["backends"]))).collect();
    let mut groups = BackendGroups::default();
    for name in all_names(&lists) {
        let presence = |(node, things): &(&str, Named<'_>)| {
            let value = if things.contains_key(&name) { PRESENT } else { MISSING };
            ((*node).to_owned(), value.to_owned())
        };
        groups.add(0, &name, lists.iter().map(presence).collect());
        let having = having(&lists, &name);
        for (number, property) in (1..).zip(&PROPERTIES) {
            let of_override = format!("override {} of pool {pool}, backend {name}", property.key);
            if !overridden.contains(&of_override) {
                let value =
                    |(node, backend): &(&str, &Value)| ((*node).to_owned(), value(&backend[property.key]));
                groups.add(number, &name, having.iter().map(value).collect());
            }
        }
    }
    groups.names.into_iter().filter_map(|(key, names)| of_group(pool, key, &names)).collect()
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => said(other),
    }
}

fn of_group(pool: &str, (number, values): DifferingValues, names: &[String]) -> Option<Difference> {
    let values = grouped(values.iter().map(|(node, value)| (&**node, value.clone())))?;
    let noun = if names.len() == 1 { "backend" } else { "backends" };
    let of = format!("pool {pool}, {noun} {}", first_of(names));
    let property = number.checked_sub(1).and_then(|number| PROPERTIES.get(number));
    let subject = property.map_or(of.clone(), |property| format!("{of}: {}", property.name));
    let effect = match property.map(|property| property.key) {
        None => {
            odd_nodes(&values, "the pool has other backends at ", "the pool has other backends at each node")
        }
        Some("address") => "one name leads to different servers, depending on the node".to_owned(),
        Some("state") => odd_nodes(
            &values,
            "the view of its health differs: its clients may reach another backend through ",
            "the view of its health differs: its clients may reach another backend, depending on the node",
        ),
        Some(_) => odd_nodes(
            &values,
            "the backends have other shares of the new clients through ",
            "the backends have other shares of the new clients, depending on the node",
        ),
    };
    Some(Difference { kind: "backend", subject, values, effect })
}
