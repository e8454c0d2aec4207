//! `pointsman status`: the status of a running pointsman as a table. Problems come first.
//!
//! It reads the JSON of /api/v1/status and requires no key, so it can query another version.

use std::fmt::Write as _;

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

/// The most backends that are up, and the most events, that are shown without `--all`.
const BACKENDS: usize = 20;
const EVENTS: usize = 10;

/// The extent of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All problems, and some of the rest.
    Some,
    /// Everything.
    All,
}

/// Returns the table; `None` if the page is no status.
pub(super) fn table(page: &str, extent: Extent) -> Option<String> {
    let status: Value = serde_json::from_str(page).ok()?;
    status.get("life")?;
    let mut out = String::new();
    head(&status, &mut out);
    problems(&status, &mut out);
    overrides(&status, &mut out);
    listeners(&status, &mut out);
    pools(&status, &mut out);
    backends(&status, extent, &mut out);
    events(&status, extent, &mut out);
    Some(out)
}

fn head(status: &Value, out: &mut String) {
    let connections = &status["connections"];
    _ = writeln!(
        out,
        "pointsman {}{}: {} for {}, {} workers, {} of {} connections",
        text(&status["version"]),
        status["commit"].as_str().map_or_else(String::new, |_| format!(" ({})", text(&status["commit"]))),
        text(&status["life"]),
        duration(status["uptime_seconds"].as_u64().unwrap_or(0)),
        text(&status["workers"]),
        text(&connections["open"]),
        text(&connections["limit"]),
    );
    let config = &status["config"];
    if config.is_object() {
        let file = config["file"].as_str().unwrap_or("not from a file");
        _ = writeln!(out, "configuration: {file}, in force since {}", moment(&config["loaded"]));
    }
    let reload = &config["last_reload"];
    if reload.is_object() {
        let what = reload["changes"].as_str().unwrap_or("the reasons are below");
        _ = writeln!(out, "last reload: {} at {}: {what}", text(&reload["result"]), moment(&reload["time"]));
    }
}

fn problems(status: &Value, out: &mut String) {
    let problems = items(&status["problems"]);
    if problems.is_empty() {
        out.push_str("\nall is well\n");
        return;
    }
    out.push_str("\nNOT WELL\n");
    for problem in problems {
        let name = text(&problem["name"]);
        let space = if name.is_empty() { "" } else { " " };
        let lines = text(&problem["text"]).replace('\n', "\n      ");
        _ = writeln!(out, "  {}{space}{name}: {}", text(&problem["kind"]), lines.trim_end());
        // An older program has neither.
        let since = problem["since"].as_str().map(|_| format!("since {}", moment(&problem["since"])));
        let command = problem["command"].as_str().map(|_| text(&problem["command"]));
        let further: Vec<_> = since.into_iter().chain(command).collect();
        if !further.is_empty() {
            _ = writeln!(out, "      {}", further.join(": "));
        }
    }
}

/// Lists the overrides in force: they explain why the process differs from its file.
fn overrides(status: &Value, out: &mut String) {
    let mut table = TextTable::new(["OVERRIDE", "OF", "VALUE", "SINCE", "ENDS IN", "BY"]);
    for set in items(&status["overrides"]) {
        let names =
            ["pool", "backend", "listener", "route"].map(|key| set[key].as_str().map(|_| text(&set[key])));
        let names: Vec<_> = names.into_iter().flatten().collect();
        let end = set["ends_in_seconds"].as_u64().map(duration).unwrap_or_default();
        let since = moment(&set["since"]);
        table.add([text(&set["kind"]), names.join("/"), text(&set["value"]), since, end, text(&set["by"])]);
    }
    table.write(out);
}

fn listeners(status: &Value, out: &mut String) {
    let mut table = TextTable::new(["LISTENER", "PROTOCOL", "OPEN", "ROUTES", "ADDRESSES"]);
    for listener in items(&status["listeners"]) {
        let addresses: Vec<_> = items(&listener["addresses"]).iter().map(text).collect();
        table.add([
            text(&listener["name"]),
            text(&listener["protocol"]),
            text(&listener["connections"]["open"]),
            text(&listener["routes"]),
            addresses.join(" "),
        ]);
    }
    table.write(out);
}

fn pools(status: &Value, out: &mut String) {
    let mut table = TextTable::new(["POOL", "BALANCE", "UP", "OPEN", "WAITING"]);
    for pool in items(&status["pools"]) {
        let backends = items(&pool["backends"]);
        let up = backends.iter().filter(|backend| backend["state"] == "up").count();
        let open: u64 = backends.iter().filter_map(|backend| backend["connections"]["active"].as_u64()).sum();
        table.add([
            text(&pool["name"]),
            text(&pool["balance"]),
            format!("{up} of {}", backends.len()),
            open.to_string(),
            text(&pool["queue"]["waiting"]),
        ]);
    }
    table.write(out);
}

/// Returns the rank of a backend in the table; the worst state is 0.
pub(super) fn rank(backend: &Value) -> u8 {
    match backend["state"].as_str().unwrap_or_default() {
        "down" => 0,
        "ejected" => 1,
        "draining" | "drain" => 2,
        "maintenance" => 3,
        "up" if is_silent(backend) => 5,
        "up" => 6,
        _ => 4,
    }
}

/// Returns true if most connections of a backend wait for its first byte: more than five, and more than half of the
/// open connections. The backend may hang, or its clients send first and are idle. So it is listed before the
/// others that are up, and is no problem by itself. The alert in docs/operate/monitoring.md has the same numbers,
/// and a duration that a table cannot have.
pub(super) fn is_silent(backend: &Value) -> bool {
    let count = |key: &str| backend["connections"][key].as_u64().unwrap_or(0);
    count("waiting") > 5 && 2 * count("waiting") > count("active")
}

fn backends(status: &Value, extent: Extent, out: &mut String) {
    let pools = items(&status["pools"]);
    let of_pool = |pool: &'_ Value| -> Vec<_> {
        let name = text(&pool["name"]);
        items(&pool["backends"]).iter().map(|backend| (name.clone(), backend.clone())).collect()
    };
    let mut rows: Vec<_> = pools.iter().flat_map(of_pool).collect();
    // The sort is stable: backends of one rank keep the order of the page.
    rows.sort_by_key(|(_, backend)| rank(backend));
    let well = rows.iter().filter(|(_, backend)| backend["state"] == "up" && !is_silent(backend)).count();
    let left_out = match extent {
        Extent::All => 0,
        Extent::Some => well.saturating_sub(BACKENDS),
    };
    rows.truncate(rows.len() - left_out);
    let titles =
        ["BACKEND", "STATE", "SINCE", "OPEN", "NO BYTE", "LIMIT", "TOTAL", "WEIGHT", "CHECKS", "WHY"];
    let mut table = TextTable::new(titles);
    for (pool, backend) in rows {
        let (connections, checks) = (&backend["connections"], &backend["checks"]);
        table.add([
            format!("{pool}/{}", text(&backend["name"])),
            text(&backend["state"]),
            duration(backend["since_seconds"].as_u64().unwrap_or(0)),
            text(&connections["active"]),
            connections["waiting"]
                .as_u64()
                .filter(|waiting| *waiting > 0)
                .map_or_else(String::new, |waiting| waiting.to_string()),
            connections["limit"].as_u64().map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
            text(&connections["total"]),
            text(&backend["weight"]),
            format!("{} passed, {} failed", text(&checks["passed"]), text(&checks["failed"])),
            why(&backend),
        ]);
    }
    table.write(out);
    if left_out > 0 {
        _ = writeln!(out, "and {left_out} backends more that are up; --all shows them");
    }
}

/// Returns the reason for a backend's state, with the first text of its last check.
pub(super) fn why(backend: &Value) -> String {
    match (text(&backend["reason"]), backend["checks"]["heard"].as_str()) {
        (reason, None) => reason,
        (reason, Some(heard)) if reason.is_empty() => format!("\"{heard}\""),
        (reason, Some(heard)) => format!("{reason}: \"{heard}\""),
    }
}

fn events(status: &Value, extent: Extent, out: &mut String) {
    let events = items(&status["events"]);
    let shown = match extent {
        Extent::All => events.len(),
        Extent::Some => EVENTS.min(events.len()),
    };
    let mut table = TextTable::new(["EVENT", "SEVERITY", "WHAT HAPPENED"]);
    for event in &events[..shown] {
        // One line each: the problems above have the full text.
        let what = text(&event["text"]);
        let first = what.lines().next().unwrap_or_default().to_owned();
        table.add([moment(&event["time"]), text(&event["severity"]), first]);
    }
    table.write(out);
    if shown < events.len() {
        _ = writeln!(out, "and {} events more; --all shows them", events.len() - shown);
    }
}

/// Returns the elements of a list; none of another value.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns a value without quotes; an empty text for null. Characters that control a terminal are escaped, except line
/// ends.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text, |c| c == '\n'),
        other => other.to_string(),
    }
}

/// Escapes control characters, and those that change the direction of text, except the `spared` ones.
pub(super) fn escaped(text: &str, spared: impl Fn(char) -> bool) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) && !spared(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Returns a time to the second: `2026-11-29 14:40:19`.
pub(super) fn moment(value: &Value) -> String {
    let time = text(value);
    match time.split_once('.') {
        Some((seconds, _)) => seconds.replace('T', " "),
        None => time,
    }
}

/// Returns the two largest units: `3h 12m`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if left >= size {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A table with columns as wide as their widest cell. No cell has a line end.
pub(super) struct TextTable<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> TextTable<COLUMNS> {
    pub(super) fn new(titles: [&str; COLUMNS]) -> Self {
        Self { rows: vec![titles.map(str::to_owned)] }
    }

    pub(super) fn add(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row.map(|cell| escaped(&cell, |_| false)));
    }

    /// Writes an empty line and the table, or nothing if it has no rows. A column without a value is left out.
    pub(super) fn write(&self, out: &mut String) {
        if self.rows.len() == 1 {
            return;
        }
        let is_empty = |column: usize| self.rows[1..].iter().all(|row| row[column].is_empty());
        let width = |column: usize| self.rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
        let widths: [_; COLUMNS] = std::array::from_fn(|column| (!is_empty(column)).then(|| width(column)));
        out.push('\n');
        for row in &self.rows {
            let line = row.iter().zip(widths).fold(String::new(), |mut line, (cell, width)| {
                let Some(width) = width else { return line };
                line.push_str(cell);
                // The standard library pads by characters, and a terminal gives some of them two columns or none.
                line.extend(std::iter::repeat_n(' ', width + 2 - cell.width()));
                line
            });
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, state: &str) -> Value {
        serde_json::json!({
            "name": name, "state": state, "since_seconds": 75, "weight": 1,
            "connections": { "active": 2, "limit": null, "total": 9 },
            "reason": (state == "down").then_some("checks failed: refused"),
            "checks": { "passed": 3, "failed": 1, "heard": (state == "down").then_some("503") },
        })
    }

    fn page(problems: &Value, backends: &[Value]) -> String {
        serde_json::json!({
            "version": "1.2.3", "commit": "3f2a91c", "life": "serving", "uptime_seconds": 93_784, "workers": 2,
            "connections": { "open": 7, "limit": 100 },
            "config": {
                "file": "/etc/pointsman/config.toml", "loaded": "2026-01-02T03:04:05.678Z",
                "last_reload": { "time": "2026-01-02T03:04:06.000Z", "result": "failed", "changes": null, "fault": "x" },
            },
            "problems": problems,
            "listeners": [{ "name": "main", "addresses": ["127.0.0.1:1", "[::1]:1"], "protocol": "tcp", "routes": 0,
                "connections": { "open": 7 } }],
            "pools": [{ "name": "app", "balance": "maglev", "queue": { "waiting": 0 }, "backends": backends }],
            "events": [{ "time": "2026-01-02T03:04:06.000Z", "kind": "reload", "severity": "error", "text": "not reloaded:\nx" }],
        })
        .to_string()
    }

    #[test]
    fn problems_come_first() {
        let problem = serde_json::json!([{ "kind": "reload", "name": "", "text": "it failed:\nline" }]);
        let backends = [backend("b1", "up"), backend("b2", "down"), backend("b3", "maintenance")];
        let expected = "\
pointsman 1.2.3 (3f2a91c): serving for 1d 2h, 2 workers, 7 of 100 connections
configuration: /etc/pointsman/config.toml, in force since 2026-01-02 03:04:05
last reload: failed at 2026-01-02 03:04:06: the reasons are below

NOT WELL
  reload: it failed:
      line

LISTENER  PROTOCOL  OPEN  ROUTES  ADDRESSES
main      tcp       7     0       127.0.0.1:1 [::1]:1

POOL  BALANCE  UP      OPEN  WAITING
app   maglev   1 of 3  6     0

BACKEND  STATE        SINCE   OPEN  LIMIT  TOTAL  WEIGHT  CHECKS              WHY
app/b2   down         1m 15s  2     -      9      1       3 passed, 1 failed  checks failed: refused: \"503\"
app/b3   maintenance  1m 15s  2     -      9      1       3 passed, 1 failed
app/b1   up           1m 15s  2     -      9      1       3 passed, 1 failed

EVENT                SEVERITY  WHAT HAPPENED
2026-01-02 03:04:06  error     not reloaded:
";
        assert_eq!(table(&page(&problem, &backends), Extent::Some).unwrap(), expected);
    }

    #[test]
    fn backends_that_send_nothing_come_before_the_others_that_are_up() {
        let with = |name: &str, waiting: u64, active: u64| {
            let mut backend = backend(name, "up");
            backend["connections"] =
                serde_json::json!({ "active": active, "waiting": waiting, "limit": null, "total": 9 });
            backend
        };
        let mut backends: Vec<_> = (0..30).map(|number| with(&format!("b{number}"), 5, 9)).collect();
        backends.extend([with("half", 6, 12), with("hangs", 7, 12), backend("down", "down")]);
        let shown = table(&page(&Value::Null, &backends), Extent::Some).unwrap();
        let row = |name: &str| {
            let row = shown.lines().position(|line| line.starts_with(&format!("app/{name} ")));
            row.unwrap_or_else(|| panic!("no {name} in {shown}"))
        };
        assert!(row("down") < row("hangs") && row("hangs") < row("b0"), "{shown}");
        assert!(!shown.contains("app/half") && shown.contains("and 11 backends more that are up"), "{shown}");
        assert!(
            shown.contains("  OPEN  NO BYTE  LIMIT  ") && shown.contains("  12    7        -  "),
            "{shown}"
        );
        assert!(shown.contains("all is well"), "{shown}");
    }

    #[test]
    fn of_many_backends_those_that_are_up_are_cut() {
        let mut backends: Vec<_> = (0..100).map(|number| backend(&format!("b{number}"), "up")).collect();
        backends.extend((0..30).map(|number| backend(&format!("d{number}"), "down")));
        let some = table(&page(&Value::Null, &backends), Extent::Some).unwrap();
        assert!(some.contains("all is well") && some.contains("app/d29"), "{some}");
        assert!(some.contains("app/b19") && !some.contains("app/b20"), "{some}");
        assert!(some.contains("and 80 backends more that are up; --all shows them"), "{some}");
        assert!(table(&page(&Value::Null, &backends), Extent::All).unwrap().contains("app/b99"));
    }

    #[test]
    fn cells_are_escaped_and_measured_as_a_terminal_shows_them() {
        let mut table = TextTable::new(["NAME", "WHY"]);
        table.add(["\u{65e5}\u{672c}".to_owned(), "a\nb\u{1b}[2J".to_owned()]);
        table.add(["e\u{301}\u{202e}".to_owned(), "c".to_owned()]);
        let mut out = String::new();
        table.write(&mut out);
        let expected = "\nNAME       WHY\n\u{65e5}\u{672c}       a\\nb\\u{1b}[2J\ne\u{301}\\u{202e}  c\n";
        assert_eq!(out, expected);
        let problem = serde_json::json!([{ "kind": "reload", "name": "", "text": "it\u{9b}failed:\nline" }]);
        let shown = super::table(&page(&problem, &[]), Extent::Some).unwrap();
        assert!(shown.contains("  reload: it\\u{9b}failed:\n      line\n"), "{shown}");
    }

    #[test]
    fn other_pages_are_no_status() {
        for page in ["", "<html>", "[]", "{}", "null"] {
            assert_eq!(table(page, Extent::All), None, "{page}");
        }
        assert!(table("{\"life\": 1}", Extent::All).is_some(), "keys may be missing");
    }

    #[test]
    fn durations_have_two_units() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(0, "0s");
        check(59, "59s");
        check(60, "1m");
        check(3600, "1h");
        check(3661, "1h 1m");
        check(90_000, "1d 1h");
    }
}
