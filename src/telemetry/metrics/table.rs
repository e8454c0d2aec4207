//! The metrics as docs/reference/metrics.md has them.

use std::fmt::Write as _;

use super::families::{METRICS, MetricDoc};

/// The metrics as a Markdown table, one row each, as docs/reference/metrics.md has it.
pub fn markdown_table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for MetricDoc { name, kind, labels, meaning } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        _ = writeln!(table, "| `{name}` | {} | {labels} | {meaning} |", kind.word());
    }
    table
}
