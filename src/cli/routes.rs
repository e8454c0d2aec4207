//! `pointsman routes`: the routes with the time of their last use, so that an operator finds names that are no longer used.
//!
//! It reads the JSON of /api/v1/routes and requires no key, so it can query another version. The process checks names and
//! durations, because it knows them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArgs, fetch, query};
use super::answer;
use super::status::{TextTable, duration, text};
use crate::telemetry::program_log::as_text;

#[derive(Args)]
pub(super) struct RoutesArgs {
    /// Routes of this listener
    #[arg(long, value_name = "LISTENER")]
    listener: Option<String>,
    /// Routes without a connection for at least this time, such as `7d` or `12h`
    #[arg(long, value_name = "TIME")]
    unused: Option<String>,
    /// The most routes to list, from 1 to 10000; the default is 1000
    #[arg(long, value_name = "NUMBER")]
    limit: Option<String>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
pub(super) fn routes(args: &RoutesArgs) -> ExitCode {
    match fetch(&args.admin, "GET", &format!("/api/v1/routes{}", args.query())) {
        Ok(page) => {
            let shown = if args.json { page } else { table(&page, args.unused.as_deref()).unwrap_or(page) };
            answer(&format!("{}\n", as_text(shown.trim_end())))
        }
        Err(code) => code,
    }
}

impl RoutesArgs {
    fn query(&self) -> String {
        let parameters = [("listener", &self.listener), ("unused", &self.unused), ("limit", &self.limit)];
        query(parameters.map(|(name, value)| (name, value.as_deref())))
    }
}

/// Returns the table of a list; `None` if the page is no list.
fn table(page: &str, unused: Option<&str>) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let rows = page.get("routes")?.as_array()?;
    let (total, matched) = (text(&page["total"]), text(&page["matched"]));
    let since = text(&page["since"]);
    let mut out = match unused {
        Some(time) => {
            let time = text(&Value::from(time));
            format!("{matched} of {total} routes were not used for {time}; counted since {since}")
        }
        None => format!("{total} routes; counted since {since}"),
    };
    if page["cut"] == true {
        _ = write!(out, "; the first {} of them follow, --limit shows more", rows.len());
    }
    out.push('\n');
    let mut table = TextTable::new(["LISTENER", "ROUTE", "TO", "CONNECTIONS", "LAST USED"]);
    for row in rows {
        table.add([
            text(&row["listener"]),
            text(&row["route"]),
            target(row),
            text(&row["connections"]),
            last_used(row),
        ]);
    }
    table.write(&mut out);
    Some(out)
}

/// Returns the pools of a route, or its action.
fn target(row: &Value) -> String {
    match (row["pool"].as_str(), row["split"].as_array()) {
        (Some(_), _) => text(&row["pool"]),
        (None, Some(pools)) => pools.iter().map(text).collect::<Vec<_>>().join(" "),
        (None, None) => text(&row["action"]),
    }
}

fn last_used(row: &Value) -> String {
    let Some(seconds) = row["unused_seconds"].as_u64() else { return text(&row["last_used"]) };
    let time = duration(seconds);
    if row["last_used"].is_null() { format!("never in {time}") } else { format!("{time} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &[Value], cut: bool) -> String {
        let (total, matched) = (9, if cut { 7 } else { rows.len() });
        serde_json::json!({
            "since": "2026-11-30T10:02:00Z", "total": total, "matched": matched, "cut": cut, "routes": rows,
        })
        .to_string()
    }

    #[test]
    fn a_list_is_a_table() {
        let rows = [
            serde_json::json!({
                "listener": "tls", "route": "old.example", "action": "pool", "pool": "app", "split": null,
                "connections": 0, "last_used": null, "since": "2026-11-30T10:02:00Z", "unused_seconds": 90_000,
            }),
            serde_json::json!({
                "listener": "tls", "route": "a\u{1b}[2J.example", "action": "split", "pool": null, "split": ["a", "b"],
                "connections": 12, "last_used": "2026-11-30T10:03:00Z", "unused_seconds": 61,
            }),
            serde_json::json!({"listener": "tls", "route": "no.example", "action": "reject"}),
        ];
        let expected = "\
9 routes; counted since 2026-11-30T10:02:00Z

LISTENER  ROUTE                 TO      CONNECTIONS  LAST USED
tls       old.example           app     0            never in 1d 1h
tls       a\\u{1b}[2J.example  a b     12           1m 1s ago
tls       no.example            reject
";
        let squeezed = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(squeezed(&table(&page(&rows, false), None).unwrap()), squeezed(expected));
        assert_eq!(
            table(&page(&rows[..1], true), Some("7d")).unwrap().lines().next().unwrap(),
            "7 of 9 routes were not used for 7d; counted since 2026-11-30T10:02:00Z; the first 1 of them follow, --limit \
             shows more"
        );
        assert_eq!(table("{}", None), None);
        assert_eq!(table("no JSON", None), None);
    }

    #[test]
    fn options_become_a_query() {
        #[derive(clap::Parser)]
        struct Whole {
            #[command(flatten)]
            routes: RoutesArgs,
        }
        let check = |arguments: &[&str], expected: &str| {
            let whole = <Whole as clap::Parser>::parse_from([&["pointsman"], arguments].concat());
            assert_eq!(whole.routes.query(), expected, "{arguments:?}");
        };
        check(&[], "");
        check(&["--unused", "7d"], "?unused=7d");
        check(
            &["--listener", "a b", "--unused", "1d 2h", "--limit", "5"],
            "?listener=a%20b&unused=1d%202h&limit=5",
        );
    }
}
