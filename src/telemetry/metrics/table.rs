//! The metrics as the table of docs/reference/metrics.md.

use std::fmt::Write as _;

use super::families::{METRICS, MetricDoc};

/// Returns the metrics as a Markdown table, one row each, for docs/reference/metrics.md.
pub fn markdown_table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for MetricDoc { name, kind, labels, meaning } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        _ = writeln!(table, "| `{name}` | {} | {labels} | {meaning} |", kind.word());
    }
    table
}
