<<<<<<< HEAD
//! The metrics as docs/reference/metrics.md has them.
=======
//! The metrics as a table for the documentation.
>>>>>>> prose2

use std::fmt::Write as _;

use super::families::{METRICS, MetricDoc};

<<<<<<< HEAD
/// The metrics as a Markdown table, one row each, as docs/reference/metrics.md has it.
=======
/// Returns the metrics as a Markdown table, one row each, for the documentation.
>>>>>>> prose2
pub fn markdown_table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for MetricDoc { name, kind, labels, meaning } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        _ = writeln!(table, "| `{name}` | {} | {labels} | {meaning} |", kind.word());
    }
    table
}
