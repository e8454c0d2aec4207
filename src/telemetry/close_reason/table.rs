//! The table of close reasons in the README.

use std::fmt::Write as _;

use super::CloseReason;

/// The reasons as a Markdown table, one row each, as the README shows it.
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| `close` | ended by | phase | rejected | sampled | meaning |\n|---|---|---|---|---|---|\n",
    );
    for reason in CloseReason::ALL {
        let yes = |is_so| if is_so { "yes" } else { "" };
        let (rejected, sampled) = (yes(reason.is_rejection()), yes(reason.is_sampled()));
        let (word, who, phase) = (reason.word(), reason.who().word(), reason.phase().word());
        _ = writeln!(table, "| `{word}` | {who} | {phase} | {rejected} | {sampled} | {} |", reason.meaning());
    }
    table
}
