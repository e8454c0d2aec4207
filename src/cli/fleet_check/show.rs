//! The result of a comparison as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::compare::Comparison;
use super::node::Fleet;
use super::values::{Difference, said};
use crate::cli::admin_client::shortened;
use crate::cli::count;
use crate::cli::status::{TextTable, items};

/// The most differences in a text. Two nodes with unlike files differ in thousands of keys.
const SHOWN: usize = 100;

/// Returns the result for people.
pub(super) fn text(fleet: &Fleet, comparison: &Comparison) -> String {
    let mut out = nodes(fleet).trim_start().to_owned();
    out.push('\n');
    match fleet.nodes.len() {
        0 => out.push_str("no node answered: nothing is compared\n"),
        1 => out.push_str("only one node answered: nothing is compared\n"),
        _ if comparison.differences.is_empty() => _ = writeln!(out, "{}", agreement(fleet)),
        _ => differences(&comparison.differences, &mut out),
    }
    for fault in &fleet.faults {
        _ = writeln!(out, "\n{} is not compared: {}", fault.name, fault.text);
    }
    if !comparison.notes.is_empty() {
        out.push('\n');
    }
    comparison.notes.iter().for_each(|note| _ = writeln!(out, "{note}"));
    out
}

fn nodes(fleet: &Fleet) -> String {
    let mut table = TextTable::new(["NODE", "HOST", "VERSION", "STATE", "PROBLEMS"]);
    for node in &fleet.nodes {
        let status = &node.status;
        table.add([
            node.name.clone(),
            said(&status["host"]),
            said(&status["version"]),
            said(&status["life"]),
            items(&status["problems"]).len().to_string(),
        ]);
    }
    for fault in &fleet.faults {
        table.add([fault.name.clone(), String::new(), String::new(), "no answer".to_owned(), String::new()]);
    }
    let mut out = String::new();
    table.write(&mut out);
    out
}

/// Returns the sentence about nodes that are equal.
fn agreement(fleet: &Fleet) -> String {
    let first = &fleet.nodes[0];
    let (listeners, pools) = (items(&first.status["listeners"]), items(&first.status["pools"]));
    let backends = pools.iter().map(|pool| items(&pool["backends"]).len()).sum();
    let routes = first.routes["total"].as_u64().map_or_else(String::new, |total| {
        format!(", {}", count(usize::try_from(total).unwrap_or(usize::MAX), "route"))
    });
    format!(
        "the {} that answered agree: {}{routes}, {}, {}",
        count(fleet.nodes.len(), "node"),
        count(listeners.len(), "listener"),
        count(pools.len(), "pool"),
        count(backends, "backend"),
    )
}

fn differences(differences: &[Difference], out: &mut String) {
    out.push_str("THE NODES DIFFER\n");
    for Difference { subject, values, effect, .. } in differences.iter().take(SHOWN) {
        _ = writeln!(out, "\n  {subject}");
        for group in values {
            _ = writeln!(out, "      {} at {}", shortened(&group.value), group.nodes.join(", "));
        }
        _ = writeln!(out, "      effect: {effect}");
    }
    if differences.len() > SHOWN {
        _ = writeln!(out, "\nand {} differences more; --json shows them", differences.len() - SHOWN);
    }
}

/// Returns the result for programs, with a line end.
pub(super) fn json(fleet: &Fleet, comparison: &Comparison) -> String {
    let answered = fleet.nodes.iter().map(|node| {
        let status = &node.status;
        json!({
            "node": node.name, "host": status["host"], "version": status["version"], "commit": status["commit"],
            "life": status["life"], "verdict": status["verdict"], "fault": Value::Null,
        })
    });
    let faults = fleet.faults.iter().map(|fault| json!({ "node": fault.name, "fault": fault.text }));
    let difference = |difference: &Difference| {
        let values: Vec<_> = difference
            .values
            .iter()
            .map(|group| json!({ "value": group.value, "nodes": group.nodes }))
            .collect();
        json!({
            "kind": difference.kind, "subject": difference.subject, "values": values, "effect": difference.effect,
        })
    };
    let page = json!({
        "agree": comparison.agrees(fleet),
        "nodes": answered.chain(faults).collect::<Vec<_>>(),
        "differences": comparison.differences.iter().map(difference).collect::<Vec<_>>(),
        "notes": comparison.notes,
    });
    format!("{page:#}\n")
}
