//! The wait of `drain`, `maintenance`, `pause` and `leave` until the connections that the change concerns have ended.

use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::admin_client::{AdminArgs, QueryFault, ask_page, complain_of, query};
use super::{FAILED, answer, complain};
use crate::telemetry::program_log::as_text;

/// The time between two queries for the open connections.
const PAUSE: Duration = Duration::from_millis(500);

/// The most listeners that a message lists.
const LISTED: usize = 10;

/// The kind, the pool and the backend of an override.
pub(super) type Subject<'a> = (&'a str, &'a str, &'a str);

/// The end of a wait for open connections.
pub(super) enum WaitEnd {
    /// No connection is open.
    Empty,
    /// Connections are left at the end of the time.
    Left,
    /// The number of connections is not known, or the override has ended. The reason is printed.
    Unknown,
}

impl WaitEnd {
    pub(super) fn code(self) -> ExitCode {
        match self {
            Self::Empty => ExitCode::SUCCESS,
            Self::Left | Self::Unknown => ExitCode::from(FAILED),
        }
    }
}

/// Waits after a change until no connection is open, if this is wanted.
pub(super) fn follow(
    code: ExitCode,
    wait: Option<Duration>,
    admin: &AdminArgs,
    subject: Subject<'_>,
) -> ExitCode {
    match wait {
        Some(wait) if code == ExitCode::SUCCESS => wait_until_empty(wait, admin, subject).code(),
        _ => code,
    }
}

/// Waits until no connection of the subject of an override is open.
pub(super) fn wait_until_empty(wait: Duration, admin: &AdminArgs, subject: Subject<'_>) -> WaitEnd {
    let deadline = Instant::now().checked_add(wait);
    // The number of open connections in the last answer.
    let mut open = None;
    loop {
        match open_connections(admin, subject) {
            Ok(Some(0)) => {
                let _ = answer("no connection is open\n");
                return WaitEnd::Empty;
            }
            Ok(Some(count)) => open = Some(count),
            Ok(None) => {
                complain(
                    "the change was ended meanwhile, by its time or by another operator; `pointsman status` has the event",
                );
                return WaitEnd::Unknown;
            }
            Err(QueryFault::Unanswered(_, error)) if subject.0 == "leave" && is_ended(&error) => {
                let _ = answer(&after_the_end(open));
                return WaitEnd::Empty;
            }
            // The next query shows whether the process is busy or gone.
            Err(QueryFault::Unanswered(_, error)) if is_broken_off(&error) => {}
            Err(fault) => {
                complain_of(fault);
                return WaitEnd::Unknown;
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let left = match open {
                None => {
                    "the process did not answer, so the number of open connections is not known".to_owned()
                }
                Some(open) => {
                    let place = if subject.0 == "leave" { by_listener(admin) } else { String::new() };
                    format!("{} still open{place}", are_connections(open))
                }
            };
            complain(&format!("{left}, and the change stays in force: {}", ways_on(subject)));
            return WaitEnd::Left;
        }
        thread::park_timeout(PAUSE);
    }
}

/// Returns the text for a process whose admin listener is closed, by the number of open connections in its last answer. A
/// process that got SIGTERM closes this listener first, and lets its connections end.
fn after_the_end(open: Option<u64>) -> String {
    let end = "the admin listener is closed: the process has ended, or it drains after a request to stop";
    match open {
        Some(open) if open > 0 => format!("{end}; at the last answer, {} open\n", are_connections(open)),
        _ => format!("{end}\n"),
    }
}

fn are_connections(count: u64) -> String {
    if count == 1 { "1 connection is".to_owned() } else { format!("{count} connections are") }
}

/// Returns the commands to use after a wait that reached its deadline.
fn ways_on((kind, pool, backend): Subject<'_>) -> String {
    match kind {
        "state" => format!(
            "`pointsman connections --pool {pool} --backend {backend}` lists them, --then-close closes them, \
             `pointsman ready {pool}/{backend}` ends the change"
        ),
        "pause" => {
            format!(
                "`pointsman connections --pool {pool}` lists them, `pointsman resume {pool}` ends the pause"
            )
        }
        _ => "`pointsman connections` lists them, `pointsman join` ends the leave".to_owned(),
    }
}

/// Returns true if an error shows that no process listens any more.
fn is_ended(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Returns true if an error shows only that this query got no answer: the process is busy, or it ended or closed
/// its admin listener meanwhile.
fn is_broken_off(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(error.kind(), TimedOut | ConnectionReset | BrokenPipe | UnexpectedEof)
}

/// Returns the open connections of each listener, such as ` (3 of listener tls, 1 of listener mail)`; nothing without an
/// answer.
fn by_listener(admin: &AdminArgs) -> String {
    match ask_page(admin, "/api/v1/status") {
        Ok((200, page)) => listed_by_listener(&page),
        _ => String::new(),
    }
}

/// Returns that text for a page of the status. The listeners with the most connections come first.
fn listed_by_listener(page: &str) -> String {
    let page: Value = serde_json::from_str(page).unwrap_or_default();
    let of = |listener: &Value| {
        let open = listener["connections"]["open"].as_u64()?;
        Some((open, listener["name"].as_str()?.to_owned()))
    };
    let mut all: Vec<_> = page["listeners"].as_array().into_iter().flatten().filter_map(of).collect();
    all.retain(|(open, _)| *open > 0);
    all.sort_by(|(a, name), (b, other)| b.cmp(a).then_with(|| name.cmp(other)));
    let more = all.len().saturating_sub(LISTED);
    let mut listed: Vec<_> =
        all.iter().take(LISTED).map(|(open, name)| format!("{open} of listener {}", as_text(name))).collect();
    if more > 0 {
        listed.push(format!("more of {more} other listeners"));
    }
    if listed.is_empty() { String::new() } else { format!(" ({})", listed.join(", ")) }
}

/// Returns the open connections of the subject of an override, also those of backends that were removed; `None` if there is
/// no such override.
fn open_connections(admin: &AdminArgs, subject: Subject<'_>) -> Result<Option<u64>, QueryFault> {
    let (code, page) = ask_page(admin, "/api/v1/overrides")?;
    if code != 200 {
        complain(page.trim_end());
        return Err(QueryFault::Reported(ExitCode::from(FAILED)));
    }
    let Some(of_process) = open(&page, subject) else { return Ok(None) };
    let (kind, pool, backend) = subject;
    if kind == "leave" {
        return Ok(Some(of_process));
    }
    let mut count = 0;
    for stage in ["relaying", "dialing"] {
        let backend = Some(backend).filter(|name| !name.is_empty());
        let filter =
            [("pool", Some(pool)), ("backend", backend), ("stage", Some(stage)), ("limit", Some("1"))];
        let path = format!("/api/v1/connections{}", query(filter));
        // A pool or a backend that is gone and has no connection is unknown.
        if let (200, page) = ask_page(admin, &path)? {
            let page: Value = serde_json::from_str(&page).unwrap_or_default();
            count += page["matched"].as_u64().unwrap_or_default();
        }
    }
    Ok(Some(count))
}

/// Finds the open connections of a subject in the page of all overrides; 0 if the subject does not exist. `None` if there is
/// no such override.
fn open(page: &str, (kind, pool, backend): Subject<'_>) -> Option<u64> {
    let page: Value = serde_json::from_str(page).ok()?;
    let is_it = |set: &&Value| {
        let is = |name: &str, wanted: &str| set[name].as_str().unwrap_or_default() == wanted;
        is("kind", kind) && is("pool", pool) && is("backend", backend)
    };
    let set = page.as_array()?.iter().find(is_it)?;
    Some(set["open"].as_u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_connections_are_found() {
        let page = r#"[{"kind": "state", "pool": "p", "backend": "b", "open": 3},
            {"kind": "pause", "pool": "p", "backend": null, "open": 7},
            {"kind": "state", "pool": "p", "backend": "gone", "open": null}]"#;
        assert_eq!(open(page, ("state", "p", "b")), Some(3));
        assert_eq!(open(page, ("pause", "p", "")), Some(7));
        assert_eq!(open(page, ("state", "p", "gone")), Some(0));
        assert_eq!(open(page, ("state", "p", "c")), None);
        assert_eq!(open("no page", ("state", "p", "b")), None);
    }

    #[test]
    fn the_open_connections_are_listed_by_listener() {
        let check = |listeners: &str, expected: &str| {
            assert_eq!(listed_by_listener(&format!(r#"{{"listeners": [{listeners}]}}"#)), expected);
        };
        let of =
            |name: &str, open: u64| format!(r#"{{"name": "{name}", "connections": {{"open": {open}}}}}"#);
        check("", "");
        check(&of("a", 0), "");
        let some = [of("a", 1), of("b", 0), of("c", 3), of("0", 1)].join(", ");
        check(&some, " (3 of listener c, 1 of listener 0, 1 of listener a)");
        let many: Vec<_> = (0..13).map(|number| of(&format!("l{number}"), 100 - number)).collect();
        let listed = listed_by_listener(&format!(r#"{{"listeners": [{}]}}"#, many.join(", ")));
        assert!(listed.ends_with(", 91 of listener l9, more of 3 other listeners)"), "{listed}");
        assert_eq!(listed_by_listener("no page"), "");
    }
}
