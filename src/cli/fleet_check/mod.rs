//! `pointsman fleet-check`: compares the nodes of a fleet, and prints each difference with its effect on clients.
//!
//! It reads three pages of each node: /api/v1/status, /api/v1/routes and /api/v1/config. No key of these pages is
//! required, so the nodes may have different versions. It changes nothing.

mod compare;
mod keys;
mod node;
mod page;
mod pooled_backends;
mod route_targets;
mod show;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Args;
use serde_json::Value;

use super::admin_client::{TIMEOUT, given_token, shortened};
use super::{FAILED, FAULTY, answer, complain};
use crate::admin::{self, AdminTarget};
use crate::sys::Address;
use crate::telemetry::program_log::as_text;
use compare::Comparison;
use node::{Fleet, Node, NodeFault};

/// The most nodes that are queried at once. A node that does not answer takes [`TIMEOUT`] for each page.
const AT_ONCE: usize = 32;

/// The arguments of `fleet-check`.
#[derive(Args)]
pub(super) struct FleetCheckArgs {
    /// The admin listeners of at least two nodes: addresses such as `10.0.0.1:10190`, or `unix:/PATH`
    #[arg(required = true, num_args = 2.., value_name = "NODE")]
    nodes: Vec<Address>,
    /// The file with the token of the admin listeners: the file of admin.token_file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Compares the nodes. The exit code is 0 only if all nodes answered and are equal.
pub(super) fn fleet_check(args: &FleetCheckArgs) -> ExitCode {
    let mut seen = BTreeSet::new();
    if let Some(twice) = args.nodes.iter().find(|node| !seen.insert(node.to_string())) {
        complain(&format!(
            "the node {twice} is named twice: a node that is compared with itself always agrees; name each node once"
        ));
        return ExitCode::from(FAULTY);
    }
    let token = match given_token(args.token_file.as_deref()) {
        Ok(token) => token,
        Err(code) => return code,
    };
    let fleet = ask_all(&args.nodes, token.as_deref());
    let comparison = Comparison::of(&fleet);
    let shown = if args.json { show::json(&fleet, &comparison) } else { show::text(&fleet, &comparison) };
    let printed = answer(&as_text(&shown));
    if comparison.agrees(&fleet) { printed } else { ExitCode::from(FAILED) }
}

/// Queries all nodes. The nodes of the result are in the order of the addresses.
fn ask_all(addresses: &[Address], token: Option<&str>) -> Fleet {
    let mut fleet = Fleet::default();
    for group in addresses.chunks(AT_ONCE) {
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                group.iter().map(|address| scope.spawn(move || ask_node(address, token))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a query does not panic")).collect()
        });
        for answer in answers {
            match answer {
                Ok(node) => fleet.nodes.push(node),
                Err(fault) => fleet.faults.push(fault),
            }
        }
    }
    fleet
}

/// Queries the pages of a node. Only a missing status is a fault: an older program has no other page.
fn ask_node(address: &Address, token: Option<&str>) -> Result<Node, NodeFault> {
    let name = address.to_string();
    let page = |path: &str| page(address, token, path);
    let status = match page("/api/v1/status") {
        Ok(status) if status.get("life").is_some() => status,
        Ok(_) => return Err(NodeFault { name, text: "its answer is no status of pointsman".to_owned() }),
        Err(text) => return Err(NodeFault { name, text }),
    };
    let mut faults = Vec::new();
    let mut further = |path: &str| {
        page(path).unwrap_or_else(|fault| {
            faults.push(format!("{path}: {fault}"));
            Value::Null
        })
    };
    let (routes, config) = (further("/api/v1/routes?limit=10000"), further("/api/v1/config"));
    Ok(Node { name, status, routes, config, faults })
}

/// Queries a page of JSON.
///
/// # Errors
///
/// The reason for which there is none. It has no line end.
fn page(address: &Address, token: Option<&str>, path: &str) -> Result<Value, String> {
    let at = AdminTarget { address: address.clone(), token: token.map(str::to_owned) };
    match admin::ask(at, path, TIMEOUT) {
        Ok((200, page)) => page::parse(&page),
        Ok((status, page)) => {
            Err(values::one_line(&format!("it answered {status}: {}", shortened(page.trim_end()))))
        }
        Err(error) => Err(format!("no answer: {error}")),
    }
}
