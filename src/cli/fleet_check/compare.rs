//! The comparison of nodes: a pure function of their pages.

use std::collections::BTreeSet;

use serde_json::Value;

use super::keys;
use super::node::{Fleet, Named, Node, all_names, by_name, having};
use super::pooled_backends;
use super::route_targets;
use super::values::{Difference, NodesOfValue, first_of, grouped, odd_nodes, said, whole};
use crate::cli::status::{duration, items, moment};

/// The value of a thing that a node does not have.
pub(super) const MISSING: &str = "missing";
/// The value of a thing that a node has, if only this matters.
pub(super) const PRESENT: &str = "present";

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) differences: Vec<Difference>,
    /// The parts that were not compared, and possible causes of differences.
    pub(super) notes: Vec<String>,
}

impl Comparison {
    /// Compares the nodes that answered.
    pub(super) fn of(fleet: &Fleet) -> Self {
        let nodes = &*fleet.nodes;
        let mut differences: Vec<_> = version(nodes).into_iter().chain(life(nodes)).collect();
        let overrides = overrides(nodes);
        let overridden: BTreeSet<_> = overrides.iter().map(|one| one.subject.clone()).collect();
        differences.extend(overrides);
        differences.extend(listeners(nodes));
        differences.extend(route_targets::differences(nodes));
        differences.extend(pooled_backends::differences(nodes, &overridden));
        differences.extend(keys::differences(nodes));
        Self { differences, notes: nodes.iter().flat_map(notes).collect() }
    }

    /// Returns true if all nodes answered and are equal, and there is more than one.
    pub(super) fn agrees(&self, fleet: &Fleet) -> bool {
        self.differences.is_empty() && fleet.faults.is_empty() && fleet.nodes.len() > 1
    }
}

/// Compares one value of each node.
fn of_each(
    nodes: &[Node],
    (kind, subject): (&'static str, &str),
    value: impl Fn(&Value) -> String,
    effect: impl FnOnce(&[NodesOfValue]) -> String,
) -> Option<Difference> {
    let values = grouped(nodes.iter().map(|node| (&*node.name, value(&node.status))))?;
    Some(Difference { kind, subject: subject.to_owned(), effect: effect(&values), values })
}

fn version(nodes: &[Node]) -> Option<Difference> {
    let value = |status: &Value| format!("{} ({})", said(&status["version"]), said(&status["commit"]));
    of_each(nodes, ("version", "version"), value, |_| {
        "the hash tables of all versions are the same; keys, defaults and limits may differ".to_owned()
    })
}

fn life(nodes: &[Node]) -> Option<Difference> {
    of_each(
        nodes,
        ("life", "state of the process"),
        |status| said(&status["life"]),
        |_| {
            "a node that is starting or draining takes no new clients, or will soon stop taking them"
                .to_owned()
        },
    )
}

/// Returns the overrides that are not in force on all nodes. Their subjects are like those of other differences.
fn overrides(nodes: &[Node]) -> Vec<Difference> {
    let lists: Vec<(&str, Named<'_>)> = nodes
        .iter()
        .map(|node| {
            let set = items(&node.status["overrides"]);
            (&*node.name, set.iter().map(|one| (override_subject(one), one)).collect())
        })
        .collect();
    let differing = |subject: String| {
        let value =
            |things: &Named<'_>| things.get(&subject).map_or("none".to_owned(), |set| whole(&set["value"]));
        let mut values = grouped(lists.iter().map(|(node, things)| (*node, value(things))))?;
        let set = having(&lists, &subject);
        let kind = said(&set.first()?.1["kind"]);
        let with: Vec<_> = set.iter().map(|(node, _)| (*node).to_owned()).collect();
        for group in &mut values {
            if let Some((_, first)) = set.iter().find(|(node, _)| group.nodes.iter().any(|name| name == node))
            {
                group.value += &setting(first);
            }
        }
        let effect =
            format!("an operator set this at run time: {}", override_effect(&kind, &first_of(&with)));
        Some(Difference { kind: "override", subject, values, effect })
    };
    all_names(&lists).into_iter().filter_map(differing).collect()
}

/// Returns the subject of an override, such as `override state of pool db, backend b1`.
fn override_subject(set: &Value) -> String {
    let part = |key: &str| set[key].as_str().map(|_| format!("{key} {}", said(&set[key])));
    let parts: Vec<_> = ["pool", "listener", "backend", "route"].into_iter().filter_map(part).collect();
    let of = if parts.is_empty() { "" } else { " of " };
    format!("override {}{of}{}", said(&set["kind"]), parts.join(", "))
}

/// Returns the operator, the time and the end of an override.
fn setting(set: &Value) -> String {
    let end = set["ends_in_seconds"].as_u64().map(|seconds| format!(", ends in {}", duration(seconds)));
    format!(" (by {} since {}{})", said(&set["by"]), time(&set["since"]), end.unwrap_or_default())
}

/// Returns a time to the second, in one line.
fn time(value: &Value) -> String {
    said(&moment(value).into())
}

fn override_effect(kind: &str, nodes: &str) -> String {
    match kind {
        "state" => format!("through {nodes}, new clients of the backend are not those of the configuration"),
        "weight" => format!("the backends of the pool have other shares through {nodes}"),
        "pause" => format!("new clients of the pool wait at {nodes}"),
        "split" => format!("the pools of the route have other shares through {nodes}"),
        "leave" => format!("/ready answers 503, so balancers in front send no new clients to {nodes}"),
        "log" => format!("the log has another level at {nodes}; clients are not affected"),
        _ => format!("it is in force at {nodes} only"),
    }
}

/// Returns the difference between nodes with and without a thing.
pub(super) fn presence(
    lists: &[(&str, Named<'_>)],
    name: &str,
    (kind, subject): (&'static str, String),
    effect: impl FnOnce(&str) -> String,
) -> Option<Difference> {
    let value = |things: &Named<'_>| if things.contains_key(name) { PRESENT } else { MISSING }.to_owned();
    let values = grouped(lists.iter().map(|(node, things)| (*node, value(things))))?;
    let without = values.iter().find(|group| group.value == MISSING);
    let effect = effect(&without.map_or(String::new(), |group| first_of(&group.nodes)));
    Some(Difference { kind, subject, values, effect })
}

fn listeners(nodes: &[Node]) -> Vec<Difference> {
    let lists: Vec<_> = nodes.iter().map(|node| (&*node.name, by_name(&node.status["listeners"]))).collect();
    let mut differences = Vec::new();
    for name in all_names(&lists) {
        let subject = format!("listener {name}");
        differences.extend(presence(&lists, &name, ("listener", subject), |nodes| {
            format!("clients of this listener are refused at {nodes}")
        }));
        let having = having(&lists, &name);
        let protocol = grouped(having.iter().map(|(node, listener)| (*node, said(&listener["protocol"]))));
        differences.extend(protocol.map(|values| Difference {
            kind: "listener",
            subject: format!("listener {name}: protocol"),
            effect: odd_nodes(
                &values,
                "the listener reads another protocol at ",
                "the listener reads another protocol, depending on the node",
            ),
            values,
        }));
    }
    differences
}

/// Returns possible causes of differences, and the parts that were not compared.
fn notes(node: &Node) -> Vec<String> {
    let mut notes = Vec::new();
    let (name, reload) = (&node.name, &node.status["config"]["last_reload"]);
    if reload["result"] == "failed" {
        notes.push(format!(
            "{name}: the last reload failed at {}, so the configuration before it is in force",
            time(&reload["time"])
        ));
    }
    for fault in &node.faults {
        notes.push(format!("{name}: this page is missing, so its contents are not compared: {fault}"));
    }
    if node.routes["cut"] == true {
        notes.push(format!(
            "{name}: it has more routes than a page can list; only the numbers of routes are compared"
        ));
    }
    if node.config["left_out"].as_u64().is_some_and(|keys| keys > 0) {
        notes.push(format!("{name}: it has more keys than a page can list; its keys are not compared"));
    }
    notes
}
