//! The comparison of routes.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Named, Node, by_name};
use super::values::{Difference, grouped, odd_nodes, said};
use crate::cli::status::items;

/// The value of a route that a node does not have.
const NO_ROUTE: &str = "no such route";

/// The targets of the routes of one node, by listener and route.
type Targets = BTreeMap<(String, String), String>;

/// A node with its listeners and the targets of its routes.
struct Routed<'a> {
    name: &'a str,
    listeners: Named<'a>,
    targets: Targets,
}

/// Returns the routes that differ. If a page cannot have all routes, only their numbers are compared.
pub(super) fn differences(nodes: &[Node]) -> Vec<Difference> {
    let with: Vec<_> = nodes.iter().filter(|node| node.routes["routes"].is_array()).collect();
    if with.iter().any(|node| node.routes["cut"] == true) {
        return number(&with).into_iter().collect();
    }

    let nodes: Vec<_> = with
        .iter()
        .map(|node| Routed {
            name: &node.name,
            listeners: by_name(&node.status["listeners"]),
            targets: targets(node),
        })
        .collect();
    let routes: BTreeSet<_> = nodes.iter().flat_map(|node| node.targets.keys()).collect();
    routes.into_iter().filter_map(|route| of_route(&nodes, route)).collect()
}

fn number(nodes: &[&Node]) -> Option<Difference> {
    let values = grouped(nodes.iter().map(|node| (&*node.name, said(&node.routes["total"]))))?;
    let effect = "some clients reach another pool, or none, depending on the node".to_owned();
    Some(Difference { kind: "route", subject: "number of routes".to_owned(), values, effect })
}

/// Returns the targets of the routes of a node. Several routes may have one name and different conditions.
fn targets(node: &Node) -> Targets {
    let mut lists: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for row in items(&node.routes["routes"]) {
        let target = match (row["pool"].as_str(), row["split"].as_array()) {
            (Some(_), _) => format!("pool {}", said(&row["pool"])),
            (None, Some(pools)) => {
                format!("split over {}", pools.iter().map(said).collect::<Vec<_>>().join(", "))
            }
            (None, None) => said(&row["action"]),
        };
        lists.entry((said(&row["listener"]), said(&row["route"]))).or_default().push(target);
    }
    let joined = |mut targets: Vec<String>| {
        // The page has the routes in the order of their last use.
        targets.sort();
        targets.join("; ")
    };
    lists.into_iter().map(|(route, targets)| (route, joined(targets))).collect()
}

/// Compares a route on the nodes that have its listener. A missing listener is a difference of its own.
fn of_route(nodes: &[Routed<'_>], route: &(String, String)) -> Option<Difference> {
    let (listener, name) = route;
    let target = |node: &Routed<'_>| node.targets.get(route).cloned().unwrap_or_else(|| NO_ROUTE.to_owned());
    let with = nodes.iter().filter(|node| node.listeners.contains_key(listener));
    let values = grouped(with.map(|node| (node.name, target(node))))?;
    let effect = odd_nodes(
        &values,
        "its clients reach another pool, or none, through ",
        "its clients reach another pool, or none, depending on the node",
    );
    Some(Difference { kind: "route", subject: format!("listener {listener}, route {name}"), values, effect })
}
