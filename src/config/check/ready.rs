//! Checks the pools without which the node is not ready.

use std::sync::Arc;

use humantime::format_duration;

use super::or;
use super::pools::Pools;
use crate::config::ReadySpec;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::File;
use crate::config::findings::Findings;
use crate::config::read::{ArrayItem, TableEntry};

pub(super) fn ready(file: &File, pools: &Pools, found: &mut Findings<'_>) -> ReadySpec {
    let mut needs: Vec<Arc<str>> = Vec::new();
    let items = file.ready_needs.value().map_or(&[][..], |list| &list.0.items);
    for (index, item) in items.iter().enumerate() {
        let path = || match items.len() {
            1 => "ready_needs".to_owned(),
            _ => format!("ready_needs[{index}]"),
        };
        let Some(pool) = needed(item, path, pools, found) else { continue };
        if needs.contains(&pool) {
            let message = format!("pool `{pool}` is listed twice in `ready_needs`");
            let warning = Diagnostic::new(Code::IdleSetting, path(), message);
            found.add(warning.label(item.at, "it is listed already"));
        } else {
            needs.push(pool);
        }
    }
    let after = or(&file.ready_needs_after, |time| time.0, ReadySpec::AFTER);
    let floor = or(&file.ready_floor, |time| time.0, ReadySpec::FLOOR.max(after));
    if let Some(written) = file.ready_floor.entry().filter(|_| floor < after) {
        let message = "`ready_floor` is shorter than `ready_needs_after`";
        let label = format!("shorter than `ready_needs_after`, which is {}", format_duration(after));
        let fault = Diagnostic::new(Code::TimeoutOrder, "ready_floor", message).label(written.at, label);
        let fault = match file.ready_needs_after.entry() {
            Some(other) => fault.label(other.at, ""),
            None => fault,
        };
        found.add(fault.help(
            "`ready_floor` is the time for which a dead pool keeps the node not ready: write a longer one, or a shorter \
             `ready_needs_after`",
        ));
    }
    if items.is_empty() && (file.ready_needs.is_absent() || file.ready_needs.value().is_some()) {
        warn_of_idle("ready_needs_after", file.ready_needs_after.place(), found);
        warn_of_idle("ready_floor", file.ready_floor.place(), found);
    }
    ReadySpec { needs, after, floor }
}

/// Returns the name of a needed pool, or adds a fault.
fn needed(
    item: &ArrayItem<String>,
    path: impl Fn() -> String,
    pools: &Pools,
    found: &mut Findings<'_>,
) -> Option<Arc<str>> {
    let written = TableEntry { key: item.at, at: item.at, value: item.value.clone() };
    let pool = pools.find(&written, &path, found)?;
    let Some(forward) = pool.forwards else { return Some(Arc::clone(&pool.name)) };
    let message = format!("pool `{}` has no backends that may be missing", pool.name);
    let fault = Diagnostic::new(Code::NeededForward, path(), message);
    found.add(
        fault
            .label(item.at, "a pool that forwards")
            .label(forward.at, "it connects to the hosts that clients name")
            .help("write pools with `backends` or `discover` in `ready_needs`"),
    );
    None
}

/// Warns of a time that has no effect without needed pools.
fn warn_of_idle(key: &str, place: Option<Span>, found: &mut Findings<'_>) {
    if let Some(place) = place {
        let warning = Diagnostic::new(Code::IdleSetting, key, format!("`{key}` has no effect"));
        found.add(warning.label(place, "`ready_needs` names no pool"));
    }
}
