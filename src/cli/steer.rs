//! The commands that change what runs: the states and weights of backends, the shares of pools in routes, pauses of pools,
//! the readiness of the process.
//!
//! Each such change is an override: it stays in force over reloads and upgrades until it is ended. A reload and a rebalance
//! are no overrides: they are done once.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::admin_client::{AdminArgs, QueryFault, change_page, complain_of, fetch, query, show_page};
use super::connections::closed;
use super::steer_text::{changed, rebalanced};
use super::steer_wait::{WaitEnd, follow, wait_until_empty};
use super::{BOUNDED, FAILED, FAULTY, answer, complain};
use crate::telemetry::program_log::as_text;

/// The time that a reload may take to answer: the running program answers within 10 s.
const RELOAD: Duration = Duration::from_secs(12);

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
    /// Close the connections that are left after the wait, so many in a second, such as `20/s`; without --wait at once
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    then_close: Option<String>,
    /// Take the backend out of use even if it is the last one of its pool that takes connections
    #[arg(long)]
    force: bool,
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

/// The arguments of `split`.
#[derive(Args)]
pub(super) struct SplitArgs {
    /// The listener and the route, as the access log names it, such as tls/www.example.com
    #[arg(value_name = "LISTENER/ROUTE", value_parser = parse_route)]
    route: (String, String),
    /// The shares of pools, such as `canary=10%`: the other pools of the route share the rest. `file` for the shares of the
    /// configuration
    #[arg(required = true, value_name = "POOL=SHARE")]
    shares: Vec<String>,
    /// The time after which the shares of the configuration are back, such as `2h`
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
    /// Wait until no connection is open or the process has ended, at most this time, such as `30s`; without a time as long
    /// as it takes. The exit code is then 0, or 1 if connections are left; their numbers by listener are printed
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "", value_parser = parse_wait)]
    wait: Option<Duration>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The arguments of `rebalance`.
#[derive(Args)]
pub(super) struct RebalanceArgs {
    /// The pool
    pool: String,
    /// The pace, such as `20/s`, `100/m` or `5/h`; the default is 20/s
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<String>,
    /// Close nothing if a larger part of the pool's connections would go elsewhere; the default is 10%. The exit code is
    /// then 3
    #[arg(long, value_name = "SHARE")]
    most: Option<String>,
    /// Close nothing, and print the number of connections that would go elsewhere
    #[arg(long)]
    dry_run: bool,
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

fn parse_route(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((listener, route)) if !listener.is_empty() && !route.is_empty() => {
            Ok((listener.to_owned(), route.to_owned()))
        }
        _ => Err("write the listener and the route, such as tls/www.example.com".to_owned()),
    }
}

/// Checks a rate, before anything is changed.
fn parse_rate(text: &str) -> Result<String, String> {
    let is_number = |number: &str| number.parse::<u32>().is_ok_and(|number| number > 0);
    match text.split_once('/') {
        Some((number, "s" | "m" | "h")) if is_number(number) => Ok(text.to_owned()),
        _ => Err("write a rate such as 20/s, 100/m or 500/h".to_owned()),
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
    let state = state.to_owned();
    let subject = [("pool", Some(pool)), ("backend", Some(backend)), ("value", Some(&state))];
    let force = args.force.then(|| "true".to_owned());
    let change = subject.into_iter().chain([("for", args.time.as_ref()), ("force", force.as_ref())]);
    let code = request(&args.admin, "POST", &path("state", change));
    if code != ExitCode::SUCCESS {
        return code;
    }
    let waited = args.wait.map(|wait| wait_until_empty(wait, &args.admin, ("state", pool, backend)));
    match (&args.then_close, waited) {
        (Some(rate), None | Some(WaitEnd::Left)) => {
            let filter = [("pool", Some(&**pool)), ("backend", Some(backend)), ("rate", Some(rate))];
            close_left(&args.admin, &format!("/api/v1/connections/close{}", query(filter)))
        }
        (_, waited) => waited.map_or(ExitCode::SUCCESS, WaitEnd::code),
    }
}

/// Closes the connections that are left.
fn close_left(admin: &AdminArgs, path: &str) -> ExitCode {
    match fetch(admin, "POST", path) {
        Ok(page) => answer(&format!("{}\n", as_text(closed(&page).unwrap_or(page).trim_end()))),
        Err(code) => code,
    }
}

/// Puts a backend in use again.
pub(super) fn put_in(args: &ReadyArgs) -> ExitCode {
    let (pool, backend) = &args.backend;
    let state = "ready".to_owned();
    let query = [("pool", Some(pool)), ("backend", Some(backend)), ("value", Some(&state))];
    request(&args.admin, "POST", &path("state", query))
}

/// Sets the weight of a backend, or ends the override of its weight.
pub(super) fn weight(args: &WeightArgs) -> ExitCode {
    let (pool, backend) = &args.backend;
    let subject = [("pool", Some(pool)), ("backend", Some(backend))];
    if args.weight == "file" {
        return request(&args.admin, "DELETE", &path("weight", subject));
    }
    let value = [("value", Some(&args.weight)), ("for", args.time.as_ref())];
    request(&args.admin, "POST", &path("weight", subject.into_iter().chain(value)))
}

/// Sets the shares of pools in a route, or ends the override of its shares.
pub(super) fn split(args: &SplitArgs) -> ExitCode {
    let (listener, route) = &args.route;
    let subject = [("listener", Some(listener)), ("route", Some(route))];
    if args.shares == ["file"] {
        return request(&args.admin, "DELETE", &path("split", subject));
    }
    let shares = args.shares.join(",");
    let value = [("value", Some(&shares)), ("for", args.time.as_ref())];
    request(&args.admin, "POST", &path("split", subject.into_iter().chain(value)))
}

/// Pauses a pool.
pub(super) fn pause(args: &PauseArgs) -> ExitCode {
    let code =
        request(&args.admin, "POST", &path("pause", [("pool", Some(&args.pool)), ("for", Some(&args.time))]));
    follow(code, args.wait, &args.admin, ("pause", &args.pool, ""))
}

/// Ends the pause of a pool.
pub(super) fn resume(args: &ResumeArgs) -> ExitCode {
    request(&args.admin, "DELETE", &path("pause", [("pool", Some(&args.pool))]))
}

/// Closes the connections of a pool that would go elsewhere.
pub(super) fn rebalance(args: &RebalanceArgs) -> ExitCode {
    let query = query([
        ("pool", Some(&*args.pool)),
        ("rate", args.rate.as_deref()),
        ("most", args.most.as_deref()),
        ("dry_run", args.dry_run.then_some("true")),
    ]);
    let path = format!("/api/v1/rebalance{query}");
    let (status, page) = match change_page(&args.admin, "POST", &path, RELOAD) {
        Ok(answered) => answered,
        Err(fault) => return complain_of(fault),
    };
    bounded(status, &rebalanced(&page).unwrap_or(page))
}

/// Makes the process not ready.
pub(super) fn leave(args: &LeaveArgs) -> ExitCode {
    let code = request(&args.admin, "POST", &path("leave", [("for", args.time.as_ref())]));
    follow(code, args.wait, &args.admin, ("leave", "", ""))
}

/// Makes the process ready again.
pub(super) fn join(args: &AdminOnly) -> ExitCode {
    request(&args.admin, "DELETE", &path("leave", []))
}

/// Sets the level of the log, or ends its override.
pub(super) fn log(args: &LogArgs) -> ExitCode {
    if args.level == "file" {
        return request(&args.admin, "DELETE", &path("log", []));
    }
    let query = [("value", Some(&args.level)), ("for", args.time.as_ref())];
    request(&args.admin, "POST", &path("log", query))
}

/// Reloads the configuration file.
pub(super) fn reload(args: &ReloadArgs) -> ExitCode {
    let reset = args.reset.then_some("true");
    let query = query([("max_moved", args.max_moved.as_deref()), ("reset", reset)]);
    reload_file(&args.admin, &format!("/api/v1/reload{query}"))
}

/// Prints all overrides.
pub(super) fn overrides(args: &AdminOnly) -> ExitCode {
    show_page(&args.admin, "/api/v1/overrides")
}

/// Returns the path of an override, with the parameters that have a value.
pub(super) fn path<'a>(
    kind: &str,
    parameters: impl IntoIterator<Item = (&'static str, Option<&'a String>)>,
) -> String {
    let parameters = parameters.into_iter().map(|(name, value)| (name, value.map(String::as_str)));
    format!("/api/v1/overrides/{kind}{}", query(parameters))
}

/// Requests a change and prints it in a sentence. A request that is wrong has the exit code of a wrong usage.
fn request(admin: &AdminArgs, method: &'static str, path: &str) -> ExitCode {
    match change_page(admin, method, path, RELOAD) {
        Ok((status, page)) => bounded(status, &changed(&page).unwrap_or(page)),
        Err(QueryFault::Unanswered(_, error)) if error.kind() == io::ErrorKind::TimedOut => {
            complain(
                "no answer came in time, and the change may be in force: `pointsman overrides` shows it",
            );
            ExitCode::from(FAILED)
        }
        Err(fault) => complain_of(fault),
    }
}

/// Requests a reload and prints its result, with all faults of the file.
fn reload_file(admin: &AdminArgs, path: &str) -> ExitCode {
    let (status, page) = match change_page(admin, "POST", path, RELOAD) {
        Ok(answered) => answered,
        Err(fault) => return complain_of(fault),
    };
    if status == 202 {
        complain("the reload is still under way: `pointsman status` shows its result");
        return ExitCode::from(FAILED);
    }
    bounded(status, &page)
}

/// Prints the answer to a change that a bound may refuse.
fn bounded(status: u16, page: &str) -> ExitCode {
    let page = as_text(page.trim_end()).into_owned();
    let code = match status {
        200 => return answer(&format!("{page}\n")),
        400 | 404 | 422 => FAULTY,
        412 => BOUNDED,
        _ => FAILED,
    };
    complain(&page);
    ExitCode::from(code)
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
        let route = ("tls".to_owned(), "www.example/a".to_owned());
        assert_eq!(parse_route("tls/www.example/a"), Ok(route));
        assert!(parse_route("tls").is_err() && parse_route("tls/").is_err() && parse_route("/a").is_err());
    }

    #[test]
    fn a_rate_is_checked_before_the_change() {
        for good in ["20/s", "1/m", "500/h"] {
            assert_eq!(parse_rate(good).as_deref(), Ok(good));
        }
        for bad in ["20", "0/s", "x/s", "20/d", ""] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_has_the_parameters_that_are_given() {
        let (pool, time) = ("a b&c".to_owned(), "2h".to_owned());
        assert_eq!(path("leave", [("for", None)]), "/api/v1/overrides/leave");
        let found = path("pause", [("pool", Some(&pool)), ("for", Some(&time))]);
        assert_eq!(found, "/api/v1/overrides/pause?pool=a%20b%26c&for=2h");
    }
}
