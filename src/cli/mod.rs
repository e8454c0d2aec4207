//! The command line: arguments to calls, results to exit codes.
//!
//! Exit codes: 0 success, 1 a failure while running, 2 a fault in the configuration or the usage, 3 a connection that
//! `explain` explains is refused.

mod admin_client;
mod connections;
mod explain;
mod explain_text;
mod fleet_check;
mod fleet_rules;
mod fleet_rules_text;
mod list;
mod routes;
mod running_config;
mod status;
mod steer;
mod steer_text;
mod steer_wait;
#[cfg(feature = "top")]
mod top;
mod top_args;
mod upgrade;

use std::future::{self, Future};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, Instant};

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tokio::runtime::Builder;

use crate::admin::AdminListener;
use crate::config::{self, Config, Faults, Warnings};
use crate::listener::InheritedSockets;
use crate::pool::PoolSpec;
use crate::server::handover::{self, HandoverSocket, Reporter, Takeover};
use crate::server::{EarlySignals, Server, Signals, confine, tproxy_rules, wait_for_addresses};
use crate::sys::{Address, memory};
use crate::telemetry::{COMMIT, ProgramLog, VERSION, VERSION_AND_COMMIT, program_log};
use admin_client::{AdminArgs, show_page, show_status};
use connections::ConnectionsArgs;
use explain::ExplainArgs;
use fleet_check::FleetCheckArgs;
use fleet_rules::FleetRulesArgs;
use list::ListCommand;
use routes::RoutesArgs;
use running_config::ConfigArgs;
use status::Extent;
use steer::{
    AdminOnly, BackendArgs, LeaveArgs, LogArgs, PauseArgs, ReadyArgs, RebalanceArgs, ReloadArgs, ResumeArgs,
    SplitArgs, WeightArgs,
};
use top_args::TopArgs;
use upgrade::{TakeOverArgs, UpgradeArgs};

/// The longest time in which the program's log writes its queued lines when the process ends. The reader of
/// standard error may have stopped. The access log has the same time.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A failure while running.
const FAILED: u8 = 1;

/// A fault in the configuration or the usage.
const FAULTY: u8 = 2;

/// The exit code of a command that a bound of its arguments refuses.
const BOUNDED: u8 = 3;

/// A layer-4 TCP and TLS-passthrough load balancer: reads the server name, never decrypts.
#[derive(Parser)]
#[command(name = "pointsman", version = VERSION_AND_COMMIT, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve connections, with a configuration file or with --listen and --backend
    Run(RunArgs),
    /// Move the sockets and the open connections of the running pointsman to this program
    Upgrade(UpgradeArgs),
    /// Check a configuration file and report all its faults; binds no address
    Check {
        /// The configuration file; `-` is standard input
        file: PathBuf,
    },
    /// Check that a running pointsman is alive; the exit code is then 0, else 1, and 2 for wrong arguments
    Health {
        #[command(flatten)]
        admin: AdminArgs,
        /// Check instead that pointsman is ready: that /ready answers 200. Otherwise the reason is printed
        #[arg(long)]
        ready: bool,
    },
    /// Print the state of a running pointsman: problems, listeners, pools, backends, the last events
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        /// Print the state as JSON
        #[arg(long)]
        json: bool,
        /// Print all backends that are up, and all events
        #[arg(long, conflicts_with = "json")]
        all: bool,
    },
    /// Show a running pointsman in the terminal: problems, charts, pools, connections; drain, pause and close by keys
    Top(TopArgs),
    /// Add entries to the lists of a running pointsman, remove them, or show the lists
    List {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Send no new connections to a backend; open connections stay
    Drain(BackendArgs),
    /// Send no new connections to a backend and pause its checks; open connections stay
    Maintenance(BackendArgs),
    /// Put a backend in use again, after `drain` or `maintenance`
    Ready(ReadyArgs),
    /// Change the weight of a backend
    Weight(WeightArgs),
    /// Change the shares of pools in a route, such as for a canary
    Split(SplitArgs),
    /// Let new connections of a pool wait, such as for the failover of a database
    Pause(PauseArgs),
    /// End the pause of a pool
    Resume(ResumeArgs),
    /// Close the connections of a pool that would go to another backend now, one after the other
    Rebalance(RebalanceArgs),
    /// Answer 503 at /ready, so that balancers in front send new clients elsewhere; all else goes on
    Leave(LeaveArgs),
    /// Answer at /ready as before `leave`
    Join(AdminOnly),
    /// Read the configuration file again, and print the changes
    Reload(ReloadArgs),
    /// Change the level of the log
    Log(LogArgs),
    /// Print the changes that operators made at run time, as JSON
    Overrides(AdminOnly),
    /// Print the keys that are in force in a running pointsman, with the origins of their values
    Config(ConfigArgs),
    /// Show what happens to a connection and why: lists, route, backend; the exit code is 3 if it is refused
    Explain(ExplainArgs),
    /// List the open connections of a running pointsman, show one, or close some
    Connections(Box<ConnectionsArgs>),
    /// List the routes of a running pointsman with the time of their last use
    Routes(RoutesArgs),
    /// Compare the nodes of a fleet, and print what differs; the exit code is 0 if they are equal, else 1
    FleetCheck(FleetCheckArgs),
    /// Print a shell script with the network rules that `source = "client"` needs
    TproxyRules {
        /// The configuration file
        file: PathBuf,
    },
    /// Print the rules by which several nodes serve one address, so that a node that leaves breaks no connection
    FleetRules(FleetRulesArgs),
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a script that completes the commands and options of pointsman in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args)]
#[command(override_usage = "pointsman run <FILE>
       pointsman run --take-over <FILE>
       pointsman run --listen <ADDRESS>... --backend <ADDRESS>...")]
struct RunArgs {
    /// The configuration file; SIGHUP reads it again
    #[arg(required_unless_present = "listen", conflicts_with_all = ["listen", "backends"])]
    file: Option<PathBuf>,
    /// Without a file: an address to listen on, such as `:5432` or `127.0.0.1:5432`; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "backends")]
    listen: Vec<String>,
    /// Without a file: a backend, such as `10.0.0.1:5432` or `db1:5432`; may be repeated
    #[arg(long = "backend", value_name = "ADDRESS", requires = "listen")]
    backends: Vec<String>,
    /// A further admin listener, beside those of the file: `unix:/PATH` or an address
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Address>,
    #[command(flatten)]
    take_over: TakeOverArgs,
}

/// Reads the arguments and runs the command.
pub fn run() -> ExitCode {
    match Cli::try_parse().unwrap_or_else(|fault| with_suggestion(fault).exit()).command {
        Command::Run(args) => serve(&args),
        Command::Upgrade(args) => upgrade::upgrade(&args),
        Command::Check { file } => check(&file),
        Command::Health { admin, ready } => show_page(&admin, if ready { "/ready" } else { "/healthz" }),
        Command::Status { admin, json: true, .. } => show_page(&admin, "/api/v1/status"),
        Command::Status { admin, all, .. } => {
            show_status(&admin, if all { Extent::All } else { Extent::Some })
        }
        Command::Top(args) => top_args::top(&args),
        Command::List { command } => list::list(&command),
        Command::Drain(args) => steer::take_out(&args, "drain"),
        Command::Maintenance(args) => steer::take_out(&args, "maintenance"),
        Command::Ready(args) => steer::put_in(&args),
        Command::Weight(args) => steer::weight(&args),
        Command::Split(args) => steer::split(&args),
        Command::Pause(args) => steer::pause(&args),
        Command::Resume(args) => steer::resume(&args),
        Command::Rebalance(args) => steer::rebalance(&args),
        Command::Leave(args) => steer::leave(&args),
        Command::Join(args) => steer::join(&args),
        Command::Reload(args) => steer::reload(&args),
        Command::Log(args) => steer::log(&args),
        Command::Overrides(args) => steer::overrides(&args),
        Command::Config(args) => running_config::config(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Connections(args) => connections::connections(&args),
        Command::Routes(args) => routes::routes(&args),
        Command::FleetCheck(args) => fleet_check::fleet_check(&args),
        Command::TproxyRules { file } => match read(Some(&file), &[], &[], &complain) {
            Ok(config) => answer(&tproxy_rules(&config)),
            Err(code) => code,
        },
        Command::FleetRules(args) => fleet_rules::fleet_rules(&args),
        Command::Schema => answer(config::SCHEMA),
        Command::Completions { shell } => answer(&completions(shell)),
    }
}

/// Returns the whole command line, for the manual page and the completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Returns the completions for a shell.
fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "pointsman", &mut script);
    String::from_utf8(script).expect("the commands are text")
}

/// Returns the table that `pointsman status` prints for a page of `/api/v1/status`, or `None` if the page is not a
/// status.
pub fn status_table(page: &str) -> Option<String> {
    status::table(page, Extent::Some)
}

/// Adds a suggestion to the fault of an unknown command. The library makes none for two swapped letters.
fn with_suggestion(mut fault: clap::Error) -> clap::Error {
    let unknown = match fault.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(unknown)) => unknown.clone(),
        _ => return fault,
    };
    let command = command();
    let names = || command.get_subcommands().map(clap::Command::get_name);
    if fault.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(meant) = config::did_you_mean(&unknown, names())
    {
        fault.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant.to_owned()]));
    }
    fault
}

fn check(file: &Path) -> ExitCode {
    match report_faults(config::check_given(file), &complain) {
        Ok(config) => answer(&format!("{}\n", good(file, &config))),
        Err(code) => code,
    }
}

/// Returns the result of a check without faults.
fn good(file: &Path, config: &Config) -> String {
    format!(
        "{}: good: {}, {}, {}",
        file.display(),
        count(config.listeners.len(), "listener"),
        count(config.pools.len(), "pool"),
        count(config.pools.iter().map(PoolSpec::written).sum(), "backend")
    )
}

/// Returns a count such as `1 pool` or `2 pools`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Reads a configuration, and passes its faults and warnings to `complain`.
fn read(
    file: Option<&Path>,
    listen: &[String],
    backends: &[String],
    complain: &dyn Fn(&str),
) -> Result<Config, ExitCode> {
    let read = match file {
        Some(file) => config::load_given(file),
        None => config::one_liner(listen, backends).map(|config| (config, Warnings::default())),
    };
    report_faults(read, complain)
}

/// Returns the configuration, or the exit code of its faults. Faults and warnings go to `complain`.
fn report_faults<T>(found: Result<(T, Warnings), Faults>, complain: &dyn Fn(&str)) -> Result<T, ExitCode> {
    let color = io::stderr().is_terminal();
    match found {
        Ok((found, warnings)) => {
            if !warnings.is_empty() {
                complain(&warnings.render(color));
            }
            Ok(found)
        }
        Err(faults) => {
            complain(&faults.render(color));
            Err(ExitCode::from(FAULTY))
        }
    }
}

/// Serves until the process is to end. All output to standard error goes through the log, so that no other thread waits
/// for its reader.
fn serve(args: &RunArgs) -> ExitCode {
    // It must be set before the configuration is read, which may take hundreds of megabytes for a while.
    memory::bound_free_end();
    let log = LogAtEnd(ProgramLog::new());
    let complain = |text: &str| log.0.complain(text);
    let reporter = match args.take_over.reporter() {
        Ok(reporter) => reporter,
        Err(error) => {
            complain(&format!("--report: standard input cannot be used: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    match try_serve(args, &log.0, &reporter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeFault::Reported(code)) => {
            reporter.fail("the new program did not start; its log has the reason");
            ExitCode::from(code)
        }
        Err(ServeFault::Early(fault, code)) => {
            complain(&fault);
            reporter.fail(&fault);
            ExitCode::from(code)
        }
        Err(ServeFault::Late(error)) => {
            tracing::error!("{error}");
            reporter.fail(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// The reason why `run` ends with a failure.
enum ServeFault {
    /// The log has the faults already. The exit code follows.
    Reported(u8),
    /// A fault before the log takes events, with the exit code.
    Early(String, u8),
    /// A fault after that.
    Late(String),
}

fn try_serve(args: &RunArgs, log: &ProgramLog, reporter: &Reporter) -> Result<(), ServeFault> {
    use ServeFault::{Early, Late, Reported};
    let complain = |text: &str| log.complain(text);
    // It must be set before the first file is read, because reading may take long.
    let early =
        EarlySignals::catch().map_err(|error| Early(format!("cannot catch signals: {error}"), FAILED))?;
    let mut config =
        read(args.file.as_deref(), &args.listen, &args.backends, &complain).map_err(|_| Reported(FAULTY))?;
    if let Some(address) = &args.admin {
        admin_client::give(&mut config, address).map_err(|fault| Early(fault, FAULTY))?;
    }
    // The program's log goes to standard error: standard output may have the access log.
    let control = program_log::send_events(config.log, log.clone())
        .map_err(|fault| Early(fault.to_string(), FAULTY))?;
    program_log::log_panics();
    tracing::info!(version = VERSION, commit = COMMIT, "starting");
    // Landlock would keep the socket of the running program out of reach.
    let takeover = args.take_over.take_over(&config).map_err(|fault| match fault {
        (fault, FAILED) => Late(fault),
        (fault, code) => Early(fault, code),
    })?;
    // Threads inherit the confinement, so it comes before the first thread, which is the log's.
    confine(&config, args.file.as_deref()).map_err(|fault| Late(fault.to_string()))?;
    log.start().map_err(|error| Late(format!("cannot start the log: {error}")))?;
    let signals = Signals::Obey { early, file: args.file.clone(), log: Some(control) };
    serve_config(config, signals, takeover, reporter).map_err(|error| Late(error.to_string()))
}

/// Writes the queued lines of the log when it is dropped.
struct LogAtEnd(ProgramLog);

impl Drop for LogAtEnd {
    fn drop(&mut self) {
        // Lines that are not written by then are lost. No output is left to report that.
        let _ = self.0.finish(LAST_LINES);
    }
}

/// Connects the admin listener to the server, and serves until the end.
fn serve_config(
    config: Config,
    signals: Signals,
    takeover: Option<Takeover>,
    reporter: &Reporter,
) -> Result<(), Box<dyn std::error::Error>> {
    Builder::new_current_thread().enable_time().build()?.block_on(wait_for_addresses(&config));
    let asked = Instant::now();
    let path = config.handover.socket();
    let mut inheritance = takeover.map(handover::receive).transpose()?;
    let sockets =
        inheritance.as_mut().map(|inheritance| std::mem::take(&mut inheritance.sockets)).unwrap_or_default();
    let count = sockets.len();
    let mut inherited = InheritedSockets::new(sockets);
    let admin: Vec<_> = config.admins().cloned().collect();
    let mut server = Server::start_with(config, &mut inherited)?;
    // The admin listeners bind last: if an address is in both, the listener gets it and clients are served.
    let admin = admin.into_iter().map(|spec| AdminListener::open(spec, &mut inherited));
    let admin = admin.collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = path
        && let Some(socket) = HandoverSocket::inherit_or_open(&path, &mut inherited)
    {
        server.set_handover_socket(socket);
    }
    if let Some(inheritance) = inheritance {
        server.take_over(inheritance, count, asked, reporter.clone());
    }
    let view = std::sync::Arc::clone(server.remote().view());
    let mut serving: Vec<_> =
        admin.into_iter().map(|listener| Box::pin(listener.serve(std::sync::Arc::clone(&view)))).collect();
    // None of these futures ever ends.
    let also = future::poll_fn(move |cx| {
        serving.iter_mut().for_each(|listener| _ = listener.as_mut().poll(cx));
        Poll::Pending
    });
    Ok(server.run(signals, also)?)
}

/// Writes an answer to standard output, which may be a full disk or a pipe without a reader.
fn answer(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Writes to standard error. If that fails, no output is left to report it.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
