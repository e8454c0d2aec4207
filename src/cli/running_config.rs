//! `pointsman config`: the keys that are in force in a running pointsman, with the origins of their values.
//!
//! It reads the JSON of /api/v1/config and requires no key, so it can query another version.

use std::iter;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::admin_client::{AdminArgs, ask_page, complain_of, query};
use super::explain::UNKNOWN_PATH;
use super::status::{duration, escaped, moment, text};
use super::{FAILED, FAULTY, answer, complain};
use crate::telemetry::program_log::as_text;

/// The widest cell that the other cells of its column are padded to, in columns of a terminal.
const WIDEST: usize = 48;

/// The arguments of `config`.
#[derive(Args)]
pub(super) struct ConfigArgs {
    /// A key or a table, such as `log.level` or `pool.db`; the default is all
    key: Option<String>,
    /// Print also the keys that are not written, with their defaults
    #[arg(long)]
    all: bool,
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Prints the keys in force.
pub(super) fn config(args: &ConfigArgs) -> ExitCode {
    let query = query([("prefix", args.key.as_deref()), ("all", args.all.then_some("true"))]);
    let (status, page) = match ask_page(&args.admin, &format!("/api/v1/config{query}")) {
        Ok(answered) => answered,
        Err(fault) => return complain_of(fault),
    };
    match status {
        200 if args.json => answer(&format!("{}\n", as_text(page.trim_end()))),
        200 => answer(&table(&page).unwrap_or_else(|| format!("{}\n", as_text(page.trim_end())))),
        404 if page.starts_with(UNKNOWN_PATH) => {
            complain(
                "the running pointsman cannot show its configuration: its version is older than this command",
            );
            ExitCode::from(FAILED)
        }
        status => {
            complain(&as_text(page.trim_end()));
            ExitCode::from(if matches!(status, 400 | 404) { FAULTY } else { FAILED })
        }
    }
}

/// Returns the keys as lines; `None` if the page has no keys.
fn table(page: &str) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let keys = page["keys"].as_array()?;
    let rows: Vec<_> = keys.iter().map(|key| [text(&key["key"]), value(key), origin(key)]).collect();
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| escaped(&cell, |_| false))).collect();
    let widths = [0, 1].map(|column| {
        let of_column = rows.iter().map(|row| row[column].width()).filter(|width| *width <= WIDEST);
        of_column.max().unwrap_or_default()
    });
    let mut out = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            out.push_str(cell);
            out.extend(iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
        }
        out.push_str(&row[2]);
        out.push('\n');
    }
    let left_out = page["left_out"].as_u64().unwrap_or_default();
    if left_out > 0 {
        out.push_str(&format!(
            "and {left_out} keys more; name a part of them, such as `pointsman config pool.NAME`\n"
        ));
    }
    Some(out)
}

/// Returns a value as it would be in a file, or the description of a default.
fn value(value: &Value) -> String {
    match &value["value"] {
        _ if value["hidden"] == true => "(not shown)".to_owned(),
        Value::Null => text(&value["text"]),
        value => value.to_string(),
    }
}

/// Returns the origin of a value, and the values behind it.
fn origin(key: &Value) -> String {
    let mut origin = place(key);
    if key["by"].is_string() {
        origin += &format!(" by {} since {}", text(&key["by"]), moment(&key["since"]));
    }
    if let Some(seconds) = key["ends_in_seconds"].as_u64() {
        origin += &format!(", ends in {}", duration(seconds));
    }
    if key["otherwise"].is_object() {
        origin += &format!(" ({}: {})", place(&key["otherwise"]), value(&key["otherwise"]));
    }
    if key["after_restart"].is_object() {
        let new = &key["after_restart"];
        origin += &format!("; after a restart {} ({})", value(new), place(new));
    }
    origin
}

/// Returns the origin of one value: `config.toml:14`, `environment POINTSMAN_LOG`, `default`.
fn place(value: &Value) -> String {
    let place = text(&value["place"]);
    match text(&value["origin"]).as_str() {
        "file" => place,
        // A value that the process computed has its description here.
        "default" if !value["value"].is_null() && value["text"].is_string() => {
            format!("default ({})", text(&value["text"]))
        }
        origin => format!("{} {place}", origin.replace('_', " ")).trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str, value: Value, origin: &str, place: Value) -> Value {
        json!({ "key": name, "value": value, "text": null, "hidden": false, "origin": origin, "place": place })
    }

    fn with(mut key: Value, fields: Value) -> Value {
        let fields = fields.as_object().unwrap().clone();
        key.as_object_mut().unwrap().extend(fields);
        key
    }

    #[test]
    fn each_origin_has_its_words() {
        let written = json!({ "value": 1, "origin": "file", "place": "config.toml:9" });
        let keys = [
            key("listener.tls.bind", ":443".into(), "file", "config.toml:3".into()),
            with(
                key("pool.db.backends[0].weight", 5.into(), "override", Value::Null),
                json!({ "by": "unix uid=0", "since": "2026-11-30T10:41:00.123Z", "ends_in_seconds": 7200, "otherwise": written }),
            ),
            with(
                key("log.level", "debug".into(), "environment", "POINTSMAN_LOG".into()),
                json!({ "otherwise": { "value": "info", "origin": "default" } }),
            ),
            with(key("hash_key", Value::Null, "file", "config.toml:1".into()), json!({ "hidden": true })),
            key("admin.listen[--admin]", "127.0.0.1:9".into(), "command_line", "--admin".into()),
            with(
                key("workers", 2.into(), "file", "config.toml:2".into()),
                json!({ "after_restart": written }),
            ),
            with(key("max_connections", 100.into(), "default", Value::Null), json!({ "text": "half" })),
            with(key("zones", Value::Null, "default", Value::Null), json!({ "text": "none" })),
        ];
        let page = json!({ "keys": keys, "left_out": 7 }).to_string();
        let expected = "\
listener.tls.bind           \":443\"         config.toml:3
pool.db.backends[0].weight  5              override by unix uid=0 since 2026-11-30 10:41:00, ends in 2h (config.toml:9: 1)
log.level                   \"debug\"        environment POINTSMAN_LOG (default: \"info\")
hash_key                    (not shown)    config.toml:1
admin.listen[--admin]       \"127.0.0.1:9\"  command line --admin
workers                     2              config.toml:2; after a restart 1 (config.toml:9)
max_connections             100            default (half)
zones                       none           default
and 7 keys more; name a part of them, such as `pointsman config pool.NAME`
";
        assert_eq!(table(&page).unwrap(), expected);
    }

    #[test]
    fn no_text_of_a_file_controls_the_terminal() {
        let long = "x".repeat(WIDEST + 10);
        let keys = [
            key("a.\u{1b}[2J", "\u{9b}31m\u{202e}\n".into(), "file", "\u{7}:1".into()),
            key("b", long.into(), "file", "c.toml:1".into()),
            key("c", 1.into(), "file", "c.toml:2".into()),
        ];
        let shown = table(&json!({ "keys": keys }).to_string()).unwrap();
        let is_bad = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
        assert!(!shown.contains(is_bad) && shown.lines().count() == 3, "{shown:?}");
        // One long value does not pad all others.
        assert!(shown.lines().last().unwrap().len() < WIDEST + 30, "{shown}");
    }

    #[test]
    fn other_pages_have_no_keys() {
        for page in ["", "[]", "{}", "null", "{\"keys\": 1}"] {
            assert_eq!(table(page), None, "{page}");
        }
        assert!(table("{\"keys\": [{}]}").is_some(), "fields may be missing");
    }
}
