//! The details of a row: all facts of its JSON, also those of a later version.

use serde_json::Value;

use super::clean::wrap;
use super::state::{TextKind, TextPage, TopState};
use super::table::{RowSubject, TopRow};
use super::tables;
use super::values::shown;
use crate::cli::connections::{bytes, precise};

/// The most facts that are shown of one row.
const MOST_FACTS: usize = 500;

/// The deepest values that are shown by their parts.
const DEEPEST: usize = 6;

/// The facts that come first. The others follow in the order of their names.
const FIRST: [&str; 10] =
    ["name", "kind", "source", "address", "state", "value", "reason", "since_seconds", "time", "text"];

/// Opens the details of the selected row.
pub(super) fn open(state: &mut TopState) {
    let Some(row) = tables::selected_row(state) else { return };
    let kind = match row.subject {
        RowSubject::Connection(id) => TextKind::Connection { id, facts: "asking for its sockets".to_owned() },
        _ => TextKind::Details { facts: facts(&row), key: row.key },
    };
    state.page = Some(TextPage { kind, top: 0 });
}

/// Brings the details up to date after an answer. The facts of a row that is gone stay.
pub(super) fn refresh(state: &mut TopState) {
    let Some(TextPage { kind: TextKind::Details { key, .. }, .. }) = &state.page else { return };
    let Some(found) = tables::row_of(state, key).map(|row| facts(&row)) else { return };
    if let Some(TextPage { kind: TextKind::Details { facts, .. }, .. }) = &mut state.page {
        *facts = found;
    }
}

/// Returns the names and values of a row.
fn facts(row: &TopRow<'_>) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let Value::Object(parts) = row.value else { return vec![(String::new(), shown(row.value))] };
    let place = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|(key, _)| place(key));
    for (key, value) in parts {
        // The backends of a pool have rows of their own.
        if !(matches!(row.subject, RowSubject::Pool(_)) && key == "backends")
            && key != "top"
            && key != "heaviest"
        {
            add(key, value, 0, &mut facts);
        }
    }
    facts
}

fn add(name: &str, value: &Value, depth: usize, facts: &mut Vec<(String, String)>) {
    if facts.len() >= MOST_FACTS {
        return;
    }
    match value {
        Value::Null => {}
        Value::Object(parts) if depth < DEEPEST => {
            parts.iter().for_each(|(key, value)| add(&format!("{name} {key}"), value, depth + 1, facts));
        }
        Value::Array(items) if depth < DEEPEST && items.iter().any(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                add(&format!("{name} {}", at + 1), item, depth + 1, facts);
            }
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(shown).collect();
            facts.push((label(name), items.join(", ")));
        }
        _ => facts.push(fact(name, value)),
    }
}

/// Returns a fact with the unit of its value.
fn fact(name: &str, value: &Value) -> (String, String) {
    let with_unit = if let Some(name) = name.strip_suffix("_seconds") {
        value.as_f64().map(|_| (label(name), precise(value)))
    } else if let Some(name) = name.strip_suffix("_bytes") {
        value.as_u64().map(|_| (label(name), bytes(value)))
    } else {
        None
    };
    with_unit.unwrap_or_else(|| {
        let text = match value {
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            // Its line ends are those of the page.
            Value::String(text) => text.clone(),
            other => shown(other),
        };
        (label(name), text)
    })
}

fn label(name: &str) -> String {
    name.replace('_', " ")
}

/// Returns the lines of facts, with the values in one column.
pub(super) fn lines(facts: &[(String, String)], width: usize) -> Vec<String> {
    let widest = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(width / 2).min(32);
    let mut lines = Vec::new();
    for (name, value) in facts {
        lines.extend(wrap(&format!("{name:<widest$}  {value}"), width, widest + 2));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::top::style::Tone;

    fn check(value: &Value, subject: RowSubject, expected: &[&str]) {
        let row = TopRow { key: String::new(), cells: Vec::new(), tone: Tone::Plain, subject, value };
        assert_eq!(lines(&facts(&row), 40), expected);
    }

    #[test]
    fn all_facts_are_shown_with_their_units() {
        let value = json!({
            "name": "app", "digest": null, "panic": false, "queue": { "waiting": 3, "length": null },
            "tiers": [{ "zone": "a", "share": 0.5 }, { "zone": "*" }], "addresses": ["::1", "::2"],
            "latency_seconds": 0.0021, "sent_bytes": 2048, "backends": [{ "name": "b1" }],
        });
        check(
            &value,
            RowSubject::Pool("app".to_owned()),
            &[
                "name           app",
                "addresses      ::1, ::2",
                "latency        2.100ms",
                "panic          no",
                "queue waiting  3",
                "sent           2.0 KiB",
                "tiers 1 share  0.5",
                "tiers 1 zone   a",
                "tiers 2 zone   *",
            ],
        );
    }

    #[test]
    fn long_and_hostile_values_are_broken_and_escaped() {
        let value = json!({ "text": "first\nsecond \u{1b}[2J and more than a line has" });
        let expected = ["text  first", "      second \\u{1b}[2J and more than a", "      line has"];
        check(&value, RowSubject::Other, &expected);
        check(&json!("\u{202e}"), RowSubject::Other, &["  \\u{202e}"]);
    }
}
