//! The commands that change what runs: the states and weights of backends, pauses of pools, the readiness of the process.
//!
//! Each change is an override: it stays in force over reloads and upgrades until it is ended.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArgs, ask_page, change, change_within, complain_of, escaped, show_page};
use super::{FAILED, answer, complain};

/// The time that a reload may take to answer: the running program answers within 10 s.
const RELOAD: Duration = Duration::from_secs(12);

/// The time between two queries for the open connections.
const PAUSE: Duration = Duration::from_millis(500);

/// The arguments of `drain`, `maintenance` and `ready`.
#[derive(Args)]
pub(super) struct BackendArgs {
    /// The pool and the backend, as the configuration and `pointsman status` name them
    #[arg(value_name = "POOL/BACKEND", value_parser = parse_backend)]
    backend: (String, String),
    /// The time after which the change ends by itself, such as `2h`; the default is until `ready`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
    /// Wait until the backend has no open connection, at most this time, such as `10m`; without a time as long as it takes.
    /// The exit code is then 0, or 1 if connections are left
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "", value_parser = parse_wait)]
    wait: Option<Duration>,
    /// Then close the connections that are left, so many in a second, such as `20/s`
    #[arg(long, value_name = "RATE")]
    then_close: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `ready`.
#[derive(Args)]
pub(super) struct ReadyArgs {
    /// The pool and the backend
    #[arg(value_name = "POOL/BACKEND", value_parser = parse_backend)]
    backend: (String, String),
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `weight`.
#[derive(Args)]
pub(super) struct WeightArgs {
    /// The pool and the backend
    #[arg(value_name = "POOL/BACKEND", value_parser = parse_backend)]
    backend: (String, String),
    /// The weight, 1 to 65535, or `file` for the weight of the configuration
    weight: String,
    /// The time after which the weight of the configuration is back, such as `2h`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `pause`.
#[derive(Args)]
pub(super) struct PauseArgs {
    /// The pool
    pool: String,
    /// The longest time of the pause, such as `60s`
    #[arg(long = "for", value_name = "TIME")]
    time: String,
    /// Wait until the pool has no open connection, at most this time; without a time as long as the pause lasts. The exit
    /// code is then 0, or 1 if connections are left
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "", value_parser = parse_wait)]
    wait: Option<Duration>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `resume`.
#[derive(Args)]
pub(super) struct ResumeArgs {
    /// The pool
    pool: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `leave`.
#[derive(Args)]
pub(super) struct LeaveArgs {
    /// The time after which the process is ready again, such as `10m`; the default is until `join`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
    /// Wait until no connection is open, at most this time; without a time as long as it takes. The exit code is then 0, or
    /// 1 if connections are left
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "", value_parser = parse_wait)]
    wait: Option<Duration>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `log`.
#[derive(Args)]
pub(super) struct LogArgs {
    /// The level: error, warn, info, debug or trace; or `file` for the level of the configuration
    level: String,
    /// The time after which the level of the configuration is back, such as `10m`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `reload`.
#[derive(Args)]
pub(super) struct ReloadArgs {
    /// Keep the running configuration if a larger share of the keys of a pool would go to another backend, such as `5%`.
    /// The exit code is then 3
    #[arg(long, value_name = "SHARE")]
    max_moved: Option<String>,
    /// End all overrides: what the configuration says is in force afterwards
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `join` and `overrides`.
#[derive(Args)]
pub(super) struct AdminOnly {
    #[command(flatten)]
    admin: AdminArgs,
}

fn parse_backend(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => {
            Ok((pool.to_owned(), backend.to_owned()))
        }
        _ => {
            Err("write the pool and the backend, such as app/app-1; `pointsman status` lists them".to_owned())
        }
    }
}

/// Reads the time of `--wait`. No time is as long as it takes.
fn parse_wait(text: &str) -> Result<Duration, String> {
    match text {
        "" => Ok(Duration::MAX),
        text => humantime::parse_duration(text).map_err(|_| "write a time such as 10m".to_owned()),
    }
}

/// Takes a backend out of use: `state` is `drain` or `maintenance`.
pub(super) fn take_out(args: &BackendArgs, state: &str) -> ExitCode {
    let (pool, backend) = &args.backend;
    let query = [("pool", Some(pool)), ("backend", Some(backend)), ("value", Some(&state.to_owned()))];
    let query = query.into_iter().chain([("for", args.time.as_ref())]);
    let code = change(&args.admin, "POST", &path("state", query));
    if code != ExitCode::SUCCESS {
        return code;
    }
    let waited = follow(code, args.wait, &args.admin, ("state", pool, backend));
    match &args.then_close {
        Some(rate) if args.wait.is_none() || waited != ExitCode::SUCCESS => {
            let (pool, backend, rate) = (escaped(pool), escaped(backend), escaped(rate));
            let filter = format!("pool={pool}&backend={backend}&rate={rate}");
            change(&args.admin, "POST", &format!("/api/v1/connections/close?{filter}"))
        }
        _ => waited,
    }
}

/// Puts a backend in use again.
pub(super) fn put_in(args: &ReadyArgs) -> ExitCode {
    let (pool, backend) = &args.backend;
    let query = [("pool", Some(pool)), ("backend", Some(backend)), ("value", Some(&"ready".to_owned()))];
    change(&args.admin, "POST", &path("state", query))
}

/// Sets the weight of a backend, or ends the override of its weight.
pub(super) fn weight(args: &WeightArgs) -> ExitCode {
    let (pool, backend) = &args.backend;
    let subject = [("pool", Some(pool)), ("backend", Some(backend))];
    if args.weight == "file" {
        return change(&args.admin, "DELETE", &path("weight", subject));
    }
    let value = [("value", Some(&args.weight)), ("for", args.time.as_ref())];
    change(&args.admin, "POST", &path("weight", subject.into_iter().chain(value)))
}

/// Pauses a pool.
pub(super) fn pause(args: &PauseArgs) -> ExitCode {
    let code =
        change(&args.admin, "POST", &path("pause", [("pool", Some(&args.pool)), ("for", Some(&args.time))]));
    follow(code, args.wait, &args.admin, ("pause", &args.pool, ""))
}

/// Ends the pause of a pool.
pub(super) fn resume(args: &ResumeArgs) -> ExitCode {
    change(&args.admin, "DELETE", &path("pause", [("pool", Some(&args.pool))]))
}

/// Makes the process not ready.
pub(super) fn leave(args: &LeaveArgs) -> ExitCode {
    let code = change(&args.admin, "POST", &path("leave", [("for", args.time.as_ref())]));
    follow(code, args.wait, &args.admin, ("leave", "", ""))
}

/// Makes the process ready again.
pub(super) fn join(args: &AdminOnly) -> ExitCode {
    change(&args.admin, "DELETE", &path("leave", []))
}

/// Sets the level of the log, or ends its override.
pub(super) fn log(args: &LogArgs) -> ExitCode {
    if args.level == "file" {
        return change(&args.admin, "DELETE", &path("log", []));
    }
    let query = [("value", Some(&args.level)), ("for", args.time.as_ref())];
    change(&args.admin, "POST", &path("log", query))
}

/// Reloads the configuration file.
pub(super) fn reload(args: &ReloadArgs) -> ExitCode {
    let moved = args.max_moved.as_ref().map(|share| format!("max_moved={}", escaped(share)));
    let query: Vec<_> = moved.into_iter().chain(args.reset.then(|| "reset=true".to_owned())).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    change_within(&args.admin, "POST", &format!("/api/v1/reload{mark}{}", query.join("&")), RELOAD)
}

/// Prints all overrides.
pub(super) fn overrides(args: &AdminOnly) -> ExitCode {
    show_page(&args.admin, "/api/v1/overrides")
}

/// Returns the path of an override, with the parameters that have a value.
fn path<'a>(kind: &str, query: impl IntoIterator<Item = (&'static str, Option<&'a String>)>) -> String {
    let given = query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?))));
    let query: Vec<_> = given.collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/api/v1/overrides/{kind}{mark}{}", query.join("&"))
}

/// The kind, the pool and the backend of an override.
type Subject<'a> = (&'a str, &'a str, &'a str);

/// Waits after a change until no connection is open, if this is wanted.
fn follow(code: ExitCode, wait: Option<Duration>, admin: &AdminArgs, subject: Subject<'_>) -> ExitCode {
    let Some(wait) = wait.filter(|_| code == ExitCode::SUCCESS) else { return code };
    let deadline = Instant::now().checked_add(wait);
    loop {
        let (status, page) = match ask_page(admin, "/api/v1/overrides") {
            Ok(answered) => answered,
            // A process that has left and ended has no connection.
            Err(_) if subject.0 == "leave" => return ExitCode::SUCCESS,
            Err(fault) => return complain_of(fault),
        };
        if status != 200 {
            complain(&format!("the open connections are not known: the answer was {status}"));
            return ExitCode::from(FAILED);
        }
        let open = match open(&page, subject) {
            Some(OpenCount::Count(open)) => open,
            Some(OpenCount::Gone) => 0,
            None => {
                complain(
                    "the change was ended meanwhile, by its time or by another operator; `pointsman status` has the event",
                );
                return ExitCode::from(FAILED);
            }
        };
        if open == 0 {
            return answer("no connection is open\n");
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            complain(&format!("{open} connections are still open"));
            return ExitCode::from(FAILED);
        }
        thread::park_timeout(PAUSE);
    }
}

/// The open connections of the subject of an override.
#[derive(Debug, PartialEq, Eq)]
enum OpenCount {
    Count(u64),
    /// The pool or the backend does not exist any more.
    Gone,
}

/// Finds the open connections of a subject in the page of all overrides. `None` if there is no such override.
fn open(page: &str, (kind, pool, backend): Subject<'_>) -> Option<OpenCount> {
    let page: Value = serde_json::from_str(page).ok()?;
    let is_it = |set: &&Value| {
        let is = |name: &str, wanted: &str| set[name].as_str().unwrap_or_default() == wanted;
        is("kind", kind) && is("pool", pool) && is("backend", backend)
    };
    let set = page.as_array()?.iter().find(is_it)?;
    Some(set["open"].as_u64().map_or(OpenCount::Gone, OpenCount::Count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_by_its_pool() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let found = parse_backend(text).ok();
            let expected = expected.map(|(pool, backend)| (pool.to_owned(), backend.to_owned()));
            assert_eq!(found, expected, "{text}");
        };
        check("app/app-1", Some(("app", "app-1")));
        check("app/10.0.0.1:443", Some(("app", "10.0.0.1:443")));
        check("app/unix:/run/app.sock", Some(("app", "unix:/run/app.sock")));
        check("app", None);
        check("app/", None);
        check("/a", None);
    }

    #[test]
    fn a_path_has_the_parameters_that_are_given() {
        let (pool, time) = ("a b&c".to_owned(), "2h".to_owned());
        assert_eq!(path("leave", [("for", None)]), "/api/v1/overrides/leave");
        let found = path("pause", [("pool", Some(&pool)), ("for", Some(&time))]);
        assert_eq!(found, "/api/v1/overrides/pause?pool=a%20b%26c&for=2h");
    }

    #[test]
    fn the_open_connections_are_found() {
        let page = r#"[{"kind": "state", "pool": "p", "backend": "b", "open": 3},
            {"kind": "pause", "pool": "p", "backend": null, "open": 7},
            {"kind": "state", "pool": "p", "backend": "gone", "open": null}]"#;
        assert_eq!(open(page, ("state", "p", "b")), Some(OpenCount::Count(3)));
        assert_eq!(open(page, ("pause", "p", "")), Some(OpenCount::Count(7)));
        assert_eq!(open(page, ("state", "p", "gone")), Some(OpenCount::Gone));
        assert_eq!(open(page, ("state", "p", "c")), None);
        assert_eq!(open("no page", ("state", "p", "b")), None);
    }
}
