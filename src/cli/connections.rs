//! `pointsman connections`: lists open connections, shows one with its sockets, and closes some.
//!
//! It reads the JSON of /api/v1/connections and requires no key, so it can query another version. The process checks names,
//! words and durations, because it knows them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin_client::{AdminArgs, Parameter, fetch, query};
use super::answer;
use super::status::{TextTable, duration, escaped, text};
use crate::live::{ConnectionSort, OpenStage};
use crate::telemetry::program_log::as_text;

/// The page of all connections.
const PAGE: &str = "/api/v1/connections";

/// The arguments of the command: those of a list, or a subcommand.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConnectionsArgs {
    #[command(subcommand)]
    command: Option<ConnectionsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// The order: the largest value comes first; the default is age
    #[arg(long, value_name = "ORDER", value_parser = PossibleValuesParser::new(ConnectionSort::ALL.map(ConnectionSort::word)))]
    sort: Option<String>,
    /// The most connections to list, from 1 to 1000; the default is 100
    #[arg(long, value_name = "NUMBER")]
    limit: Option<String>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The filter of connections. A connection passes if it passes each option.
#[derive(Args)]
struct FilterArgs {
    /// Connections of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Connections of this backend: `BACKEND` in all pools, or `POOL/BACKEND`
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Connections of this listener
    #[arg(long, value_name = "LISTENER")]
    listener: Option<String>,
    /// Connections of clients in this network, such as 192.0.2.0/24
    #[arg(long, value_name = "NETWORK")]
    source: Option<String>,
    /// Connections whose server name matches this pattern, such as `*.example.com`
    #[arg(long, value_name = "PATTERN")]
    sni: Option<String>,
    /// Connections in this stage
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(OpenStage::ALL.map(OpenStage::word)))]
    stage: Option<String>,
    /// Connections that are open for at least this time, such as `1h`
    #[arg(long, value_name = "TIME")]
    older: Option<String>,
    /// Connections without a byte for at least this time, such as `10m`
    #[arg(long, value_name = "TIME")]
    idle: Option<String>,
}

#[derive(Subcommand)]
enum ConnectionsCommand {
    /// Show a connection: its names, the state of both sockets, what holds it up, commands that show more
    Show {
        /// The number of the connection, as in the list
        id: u64,
        /// Print the connection as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Close connections at once: both sides are reset
    Kill {
        /// The numbers of the connections, as in the list
        #[arg(required = true)]
        ids: Vec<u64>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Close all connections that pass a filter, one after the other
    Close {
        #[command(flatten)]
        filter: FilterArgs,
        /// The pace, such as `20/s`, `100/m` or `5/h`; the default is 20/s
        #[arg(long, value_name = "RATE")]
        rate: Option<String>,
        /// Close nothing, and print the number of connections that would be closed
        #[arg(long)]
        dry_run: bool,
        /// Cancel all such orders instead: connections whose turn has not come stay open
        #[arg(long, conflicts_with_all = ["rate", "dry_run", "pool", "backend", "listener", "source", "sni", "stage", "older", "idle"])]
        cancel: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Runs the command.
pub(super) fn connections(args: &ConnectionsArgs) -> ExitCode {
    let done = match &args.command {
        None => list(&args.list),
        Some(ConnectionsCommand::Show { id, json, admin }) => show(*id, *json, admin),
        Some(ConnectionsCommand::Kill { ids, admin }) => return kill(ids, admin),
        Some(ConnectionsCommand::Close { cancel: true, admin, .. }) => {
            fetch(admin, "DELETE", &format!("{PAGE}/close"))
        }
        Some(ConnectionsCommand::Close { filter, rate, dry_run, admin, .. }) => {
            let rate = rate.as_deref();
            let dry_run = dry_run.then_some("true");
            let query = query(filter.parameters().into_iter().chain([("rate", rate), ("dry_run", dry_run)]));
            fetch(admin, "POST", &format!("{PAGE}/close{query}")).map(|page| closed(&page).unwrap_or(page))
        }
    };
    match done {
        Ok(shown) => answer(&format!("{}\n", as_text(shown.trim_end()))),
        Err(code) => code,
    }
}

fn list(args: &ListArgs) -> Result<String, ExitCode> {
    let (sort, limit) = (args.sort.as_deref(), args.limit.as_deref());
    let query = query(args.filter.parameters().into_iter().chain([("sort", sort), ("limit", limit)]));
    let page = fetch(&args.admin, "GET", &format!("{PAGE}{query}"))?;
    Ok(if args.json { page } else { table(&page).unwrap_or(page) })
}

fn show(id: u64, json: bool, admin: &AdminArgs) -> Result<String, ExitCode> {
    let page = fetch(admin, "GET", &format!("{PAGE}/{id}"))?;
    Ok(if json { page } else { details(&page).unwrap_or(page) })
}

/// Closes connections. A connection that is no longer open does not keep the others open.
fn kill(ids: &[u64], admin: &AdminArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        let done = match fetch(admin, "DELETE", &format!("{PAGE}/{id}")) {
            Ok(_) => answer(&format!("{id} closed\n")),
            Err(code) => code,
        };
        if done != ExitCode::SUCCESS {
            code = done;
        }
    }
    code
}

impl FilterArgs {
    fn parameters(&self) -> [Parameter<'_>; 8] {
        [
            ("pool", self.pool.as_deref()),
            ("backend", self.backend.as_deref()),
            ("listener", self.listener.as_deref()),
            ("source", self.source.as_deref()),
            ("sni", self.sni.as_deref()),
            ("stage", self.stage.as_deref()),
            ("older", self.older.as_deref()),
            ("idle", self.idle.as_deref()),
        ]
    }
}

/// Returns the table of a list; `None` if the page is no list.
fn table(page: &str) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let rows = page.get("connections")?.as_array()?;
    let titles = [
        "ID",
        "CLIENT",
        "LISTENER",
        "STAGE",
        "POOL",
        "BACKEND",
        "SNI",
        "ROUTE",
        "AGE",
        "IDLE",
        "FROM CLIENT",
        "FROM BACKEND",
        "PER SECOND",
    ];
    let mut table = TextTable::new(titles);
    for row in rows {
        table.add([
            text(&row["id"]),
            text(&row["client"]),
            text(&row["listener"]),
            text(&row["stage"]),
            text(&row["pool"]),
            text(&row["backend"]),
            text(&row["sni"]),
            text(&row["route"]),
            time(&row["age_seconds"]),
            time(&row["idle_seconds"]),
            bytes(&row["from_client_bytes"]),
            bytes(&row["from_backend_bytes"]),
            bytes(&row["bytes_per_second"]),
        ]);
    }
    let (open, matched) = (text(&page["open"]), text(&page["matched"]));
    let mut out = format!("{matched} of {open} open connections");
    if page["cut"] == true {
        _ = write!(out, ", the first {} of them; --limit shows more", rows.len());
    }
    out.push('\n');
    out.push_str(&silence(&page));
    table.write(&mut out);
    Some(out)
}

/// Returns a line about the workers that did not answer, if there are any.
fn silence(page: &Value) -> String {
    match page["silent_workers"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => {
            format!(
                "{count} workers did not answer in time: their connections are missing, and the log says which do not respond\n"
            )
        }
    }
}

/// Returns the text of one connection; `None` if the page is none.
fn details(page: &str) -> Option<String> {
    details_of(&serde_json::from_str(page).ok()?)
}

/// Returns the text of one connection; `None` if the value is none.
pub(super) fn details_of(page: &Value) -> Option<String> {
    let mut out = format!("connection {}: {}\n\n", text(page.get("id")?), line(&page["verdict"]));
    for (name, key) in [
        ("client", "client"),
        ("listener", "listener"),
        ("stage", "stage"),
        ("server name", "sni"),
        ("route", "route"),
        ("pool", "pool"),
        ("backend", "backend"),
    ] {
        field(&mut out, name, &line(&page[key]));
    }
    field(&mut out, "open for", &time(&page["age_seconds"]));
    field(&mut out, "without a byte", &time(&page["idle_seconds"]));
    field(&mut out, "from client", &bytes(&page["from_client_bytes"]));
    field(&mut out, "from backend", &bytes(&page["from_backend_bytes"]));
    field(&mut out, "per second", &bytes(&page["bytes_per_second"]));
    legs(&page["legs"], &mut out);
    Some(out)
}

/// Writes a line with a name and a value, or nothing without a value.
fn field(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        _ = writeln!(out, "{name:<16}{value}");
    }
}

/// Writes the two sockets side by side, and the commands that show more.
fn legs(legs: &Value, out: &mut String) {
    if !legs.is_object() {
        return;
    }
    let sides = [&legs["client"], &legs["backend"]];
    let mut table = TextTable::new(["SOCKET", "TO THE CLIENT", "TO THE BACKEND"]);
    let mut add = |name: &str, value: &dyn Fn(&Value) -> String| {
        let [client, backend] = sides.map(value);
        if !client.is_empty() || !backend.is_empty() {
            table.add([name.to_owned(), client, backend]);
        }
    };
    add("local", &|leg| text(&leg["local"]));
    add("peer", &|leg| text(&leg["peer"]));
    add("bytes wait for it", &|leg| yes(&leg["blocked"]));
    add("has ended", &|leg| yes(&leg["ended"]));
    for (name, key) in [("round trip", "rtt"), ("variation", "rttvar"), ("least round trip", "min_rtt")] {
        add(name, &|leg| precise(&leg["tcp"][format!("{key}_seconds")]));
    }
    add("sent again", &|leg| text(&leg["tcp"]["retransmits"]));
    add("unacknowledged", &|leg| text(&leg["tcp"]["unacked_segments"]));
    add("not yet sent", &|leg| bytes(&leg["tcp"]["notsent_bytes"]));
    add("congestion window", &|leg| text(&leg["tcp"]["cwnd_segments"]));
    add("window of the peer", &|leg| bytes(&leg["tcp"]["window_bytes"]));
    add("delivered a second", &|leg| bytes(&leg["tcp"]["delivery_bytes_per_second"]));
    for (name, key) in [
        ("last data sent", "last_data_sent"),
        ("last data received", "last_data_received"),
        ("last ack received", "last_ack_received"),
        ("busy", "busy"),
        ("held by the peer", "rwnd_limited"),
        ("held by a buffer", "sndbuf_limited"),
    ] {
        add(name, &|leg| precise(&leg["tcp"][format!("{key}_seconds")]));
    }
    table.write(out);
    for (side, leg) in ["client", "backend"].into_iter().zip(sides) {
        for key in ["ss", "tcpdump"] {
            if let Some(command) = leg[key].as_str() {
                let blank = if (side, key) == ("client", "ss") { "\n" } else { "" };
                _ = writeln!(out, "{blank}{side}: {}", escaped(command, |_| false));
            }
        }
    }
}

/// Returns the text of the effect of an order; `None` if the page is none.
pub(super) fn closed(page: &str) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let matched = page.get("matched")?.as_u64()?;
    let takes = duration(page["takes_seconds"].as_f64().unwrap_or(0.0).ceil() as u64);
    let what = match (matched, page["dry_run"] == true) {
        (0, _) => "no open connection matches".to_owned(),
        (_, true) => format!("{matched} connections would be closed within {takes}"),
        (_, false) => format!("{matched} connections are being closed, the last one within {takes}"),
    };
    Some(format!("{what}\n{}", silence(&page)))
}

/// Returns a text without line ends.
fn line(value: &Value) -> String {
    escaped(&text(value), |_| false)
}

fn yes(value: &Value) -> String {
    if value == true { "yes".to_owned() } else { String::new() }
}

/// Returns a time in its two largest units.
pub(super) fn time(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |seconds| duration(seconds as u64))
}

/// Returns a short time with three digits, and a longer one in its two largest units.
pub(super) fn precise(value: &Value) -> String {
    match value.as_f64() {
        None => String::new(),
        Some(seconds) if seconds >= 60.0 => duration(seconds as u64),
        Some(seconds) if seconds >= 1.0 => format!("{seconds:.1}s"),
        Some(seconds) => format!("{:.3}ms", seconds * 1000.0),
    }
}

/// Returns a number of bytes in the largest unit that leaves a whole number before the point.
pub(super) fn bytes(value: &Value) -> String {
    let Some(count) = value.as_u64() else { return String::new() };
    let (mut count, mut unit) = (count as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if count < 1024.0 {
            break;
        }
        (count, unit) = (count / 1024.0, larger);
    }
    if unit == "B" { format!("{count} B") } else { format!("{count:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Value {
        serde_json::json!({
            "id": 4711, "client": "198.51.100.7:51234", "listener": "tls", "stage": "relaying", "pool": "app",
            "backend": "b1", "sni": "a.example", "route": null, "age_seconds": 3725.5, "idle_seconds": 61.5,
            "from_client_bytes": 517, "from_backend_bytes": 5_242_880, "bytes_per_second": 2048,
        })
    }

    #[test]
    fn a_list_is_a_table() {
        let page = serde_json::json!({
            "open": 9, "matched": 3, "cut": true, "silent_workers": 0, "connections": [row()],
        });
        let expected = "\
3 of 9 open connections, the first 1 of them; --limit shows more

ID    CLIENT              LISTENER  STAGE     POOL  BACKEND  SNI        AGE    IDLE   FROM CLIENT  FROM BACKEND  PER SECOND
4711  198.51.100.7:51234  tls       relaying  app   b1       a.example  1h 2m  1m 1s  517 B        5.0 MiB       2.0 KiB
";
        assert_eq!(table(&page.to_string()).unwrap(), expected);
        let silent = serde_json::json!({ "open": 0, "matched": 0, "silent_workers": 2, "connections": [] });
        let shown = table(&silent.to_string()).unwrap();
        assert!(shown.starts_with("0 of 0 open connections\n2 workers did not answer in time"), "{shown}");
    }

    #[test]
    fn a_hostile_name_stays_a_text() {
        let mut hostile = row();
        hostile["sni"] = "a\u{1b}[2J\nb\u{202e}".into();
        let page = serde_json::json!({ "open": 1, "matched": 1, "connections": [hostile] }).to_string();
        let shown = table(&page).unwrap();
        assert!(shown.contains("a\\u{1b}[2J\\nb\\u{202e}") && shown.lines().count() == 4, "{shown}");
        let shown = details(&hostile.to_string()).unwrap();
        assert!(shown.contains("server name     a\\u{1b}[2J\\nb\\u{202e}\n"), "{shown}");
    }

    #[test]
    fn a_connection_is_shown_with_both_sockets() {
        let mut page = row();
        page["verdict"] = "the client does not read".into();
        page["legs"] = serde_json::json!({
            "client": {
                "local": "192.0.2.1:443", "peer": "198.51.100.7:51234", "blocked": true, "ended": false,
                "tcp": { "rtt_seconds": 0.0421, "retransmits": 3, "busy_seconds": 75.0, "min_rtt_seconds": null },
                "ss": "ss -tinmo 'x'", "tcpdump": "tcpdump -ni any 'y'",
            },
            "backend": { "local": null, "peer": null, "blocked": false, "ended": true, "tcp": null },
        });
        let expected = "\
connection 4711: the client does not read

client          198.51.100.7:51234
listener        tls
stage           relaying
server name     a.example
pool            app
backend         b1
open for        1h 2m
without a byte  1m 1s
from client     517 B
from backend    5.0 MiB
per second      2.0 KiB

SOCKET             TO THE CLIENT       TO THE BACKEND
local              192.0.2.1:443
peer               198.51.100.7:51234
bytes wait for it  yes
has ended                              yes
round trip         42.100ms
sent again         3
busy               1m 15s

client: ss -tinmo 'x'
client: tcpdump -ni any 'y'
";
        assert_eq!(details(&page.to_string()).unwrap(), expected);
    }

    #[test]
    fn an_order_has_a_sentence() {
        let check = |matched: u64, dry_run: bool, expected: &str| {
            let page = serde_json::json!({ "matched": matched, "dry_run": dry_run, "takes_seconds": 89.2 });
            assert_eq!(closed(&page.to_string()).unwrap(), expected);
        };
        check(0, false, "no open connection matches\n");
        check(5, true, "5 connections would be closed within 1m 30s\n");
        check(5, false, "5 connections are being closed, the last one within 1m 30s\n");
    }

    #[test]
    fn other_pages_are_neither_a_list_nor_a_connection() {
        for page in ["", "<html>", "[]", "{}", "null", "{\"connections\": 1}"] {
            assert_eq!((table(page), details(page), closed(page)), (None, None, None), "{page}");
        }
    }

    #[test]
    fn values_are_escaped_in_a_query() {
        let check = |parameters: &[Parameter<'static>], expected: &str| {
            assert_eq!(query(parameters.iter().copied()), expected);
        };
        check(&[], "");
        check(&[("pool", None)], "");
        check(
            &[("pool", None), ("sni", Some("*.a&b=c d#é")), ("rate", Some("20/s"))],
            "?sni=%2A.a%26b%3Dc%20d%23%C3%A9&rate=20/s",
        );
    }

    #[test]
    fn numbers_have_units() {
        let check = |count: u64, expected: &str| assert_eq!(bytes(&count.into()), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_572_864, "1.5 MiB");
        check(u64::MAX, "16777216.0 TiB");
        assert_eq!(precise(&0.000_035.into()), "0.035ms");
        assert_eq!(precise(&1.25.into()), "1.2s");
        assert_eq!(precise(&3661.0.into()), "1h 1m");
    }
}
