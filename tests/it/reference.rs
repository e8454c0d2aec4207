//! The page of all keys, printed from the JSON Schema of the configuration.

use std::fmt::Write;

use serde_json::Value;

use crate::tidy_docs::anchor;

/// The pattern of durations in the schema, by its end: it accepts a number and a unit, such as `"5s"`.
const DURATION_END: &str = r"[A-Za-zµ]+\s*)+$";

/// The pattern of percentages.
const PERCENT: &str = "^[0-9]+%$";

/// Returns a table of keys for each table that the file can have, in the order in which they are nested.
pub(crate) fn configuration(schema: &Value) -> String {
    let mut page = String::new();
    table("", schema, &mut page);
    page
}

/// Writes the table of `path` and those within it.
fn table(path: &str, schema: &Value, page: &mut String) {
    let title = if path.is_empty() { "The whole file".to_owned() } else { format!("`{path}`") };
    let _ = writeln!(page, "## {title}\n");
    if let Some(text) = schema["description"].as_str() {
        let _ = writeln!(page, "{text}\n");
    }
    let _ = writeln!(page, "| key | value | meaning |\n|---|---|---|");
    let keys = schema["properties"].as_object().expect("a table has keys");
    let required = schema["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|one| one == key));
    let mut inner = Vec::new();
    for (key, value) in keys {
        let named = value["additionalProperties"].is_object();
        let path = match (path.is_empty(), named) {
            (true, false) => key.clone(),
            (true, true) => format!("{key}.NAME"),
            (false, _) => format!("{path}.{key}"),
        };
        let tables: Vec<_> = tables(value).collect();
        let mut kinds = Vec::new();
        kind(value, &mut kinds);
        let mut kinds = kinds.join(" or ");
        let meaning = value["description"].as_str().unwrap_or_default();
        if let Some(first) = tables.first() {
            kinds = kinds.replace("table", &format!("[table](#{})", anchor(&path)));
            inner.push((path, *first));
        }
        // Most descriptions have these bounds.
        if let (Some(least), Some(most)) = (value["minimum"].as_u64(), value["maximum"].as_u64())
            && !meaning.contains(&most.to_string())
        {
            let _ = write!(kinds, ", {least} to {most}");
        }
        let needed = if is_required(key) { ", required" } else { "" };
        let meaning = match tables.first() {
            Some(first) if meaning.is_empty() => first["description"].as_str().unwrap_or_default(),
            _ => meaning,
        };
        let _ = writeln!(page, "| `{key}` | {kinds}{needed} | {} |", cell(meaning));
    }
    page.push('\n');
    for (path, schema) in inner {
        table(&path, schema, page);
    }
}

/// Returns the schemas of the tables that a value can be or hold.
fn tables(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    if value["properties"].is_object() {
        return Box::new(std::iter::once(value));
    }
    let choices = value["anyOf"].as_array().into_iter().flatten();
    Box::new(choices.chain(value.get("items")).chain(value.get("additionalProperties")).flat_map(tables))
}

/// Collects the kinds of a value, in words.
fn kind(value: &Value, kinds: &mut Vec<String>) {
    let mut add = |kind: String| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    if let Some(choices) = value["anyOf"].as_array() {
        choices.iter().for_each(|choice| kind(choice, kinds));
    } else if let Some(words) = value["enum"].as_array() {
        words.iter().for_each(|word| add(format!("`{word}`")));
    } else if let Some(word) = value.get("const") {
        add(format!("`{word}`"));
    } else {
        let pattern = value["pattern"].as_str().unwrap_or_default();
        match value["type"].as_str().unwrap_or_default() {
            "array" => {
                let mut items = Vec::new();
                kind(&value["items"], &mut items);
                add(format!("array of {}", items.join(" or ")));
            }
            "object" => add("table".to_owned()),
            "string" if pattern.ends_with(DURATION_END) => add("time".to_owned()),
            "string" if pattern == PERCENT => add("percentage".to_owned()),
            other => {
                assert!(["string", "integer", "number", "boolean"].contains(&other), "{value}");
                add(other.to_owned());
            }
        }
    }
}

/// Returns a text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[test]
fn each_key_is_on_the_page() {
    let schema = serde_json::json!({
        "description": "All.",
        "properties": {
            "a": { "type": "integer", "minimum": 1, "maximum": 9, "description": "One | two." },
            "b": { "additionalProperties": {
                "properties": { "c": { "anyOf": [
                    { "type": "string", "pattern": PERCENT },
                    { "type": "array", "items": { "properties": { "d": { "enum": ["x", "y"] } }, "type": "object" } },
                ] } },
                "required": ["c"],
                "type": "object",
            }, "type": "object" },
        },
    });
    let expected = "## The whole file\n\nAll.\n\n| key | value | meaning |\n|---|---|---|\n\
        | `a` | integer, 1 to 9 | One \\| two. |\n| `b` | [table](#bname) |  |\n\n\
        ## `b.NAME`\n\n| key | value | meaning |\n|---|---|---|\n\
        | `c` | percentage or array of [table](#bnamec), required |  |\n\n\
        ## `b.NAME.c`\n\n| key | value | meaning |\n|---|---|---|\n| `d` | `\"x\"` or `\"y\"` |  |\n\n";
    assert_eq!(configuration(&schema), expected);
}
