//! `pointsman upgrade`: moves listening sockets and open connections from the running program to a new one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::status::duration;
use super::{FAILED, FAULTY, answer, complain, good, report_faults};
use crate::config::{self, Config, HandoverSpec};
use crate::server::handover::{self, AskFault, Reporter, Takeover, UpgradeStep};
use crate::sys::{Address, file, process};
use crate::telemetry::program_log::as_text;
use crate::telemetry::{COMMIT, VERSION};
use crate::wire::handover::{Reloaded, Welcome};

/// The socket of the unit and of the image.
const SOCKET: &str = "/run/pointsman/handover.sock";

/// The commit of a build without a repository.
const UNKNOWN: &str = "unknown";

/// The name of the program among the arguments of the new process.
const PROGRAM: &str = "pointsman";

#[derive(Args)]
pub(super) struct UpgradeArgs {
    /// The configuration file of the new program; the default is the file of the running program
    file: Option<PathBuf>,
    /// Start a new process even if the running program has the same version and file
    #[arg(long)]
    again: bool,
    /// The socket of the running program; the default is `[handover] socket` of the file, else handover.sock in
    /// $RUNTIME_DIRECTORY, else /run/pointsman/handover.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The further admin listener of the new program; the default is that of the running program
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Address>,
}

/// The arguments of `run` for a hand-over.
#[derive(Args)]
pub(super) struct TakeOverArgs {
    /// Take the listening sockets and the open connections of the running pointsman; if none is running, this is an
    /// ordinary start
    #[arg(long)]
    take_over: bool,
    /// The socket of the running pointsman; the default is `[handover] socket`, else handover.sock in $RUNTIME_DIRECTORY
    #[arg(long, value_name = "PATH", requires = "take_over")]
    socket: Option<PathBuf>,
    /// Report each step at standard input, which is a socket of `pointsman upgrade`
    #[arg(long, hide = true, requires = "take_over")]
    report: bool,
}

/// The reason why `upgrade` ends without a success: a message and the exit code.
struct Failure(String, u8);

impl Failure {
    fn faulty(message: impl Into<String>) -> Self {
        Self(message.into(), FAULTY)
    }

    fn failed(message: impl Into<String>) -> Self {
        Self(message.into(), FAILED)
    }
}

/// Upgrades the running program to this one.
pub(super) fn upgrade(args: &UpgradeArgs) -> ExitCode {
    match try_upgrade(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message, code)) => {
            // Parts of the message come from another process.
            if !message.is_empty() {
                complain(&as_text(&message));
            }
            ExitCode::from(code)
        }
    }
}

fn try_upgrade(args: &UpgradeArgs) -> Result<(), Failure> {
    let given = args.file.as_deref().map(checked).transpose()?;
    // The new program runs in the directory of the running program.
    let socket = absolute(&socket_of(args.socket.as_deref(), given.as_ref())?)?;
    let (welcome, outputs) = handover::query(&socket).map_err(|fault| unanswered(&fault))?;
    let (file, config) = match (&args.file, given) {
        (Some(file), Some(config)) => (absolute(file)?, config),
        _ => {
            let file = file_of(&welcome).ok_or_else(|| no_file(&welcome))?;
            let config = checked(&file)?;
            (file, config)
        }
    };
    say(&running(&welcome, SystemTime::now()));
    let is_same = is_same_build(&welcome) && file_of(&welcome).as_ref() == Some(&file);
    if is_same && !args.again && args.admin.is_none() {
        return reloaded(&welcome, handover::reload(&socket).map_err(|fault| unanswered(&fault))?);
    }
    if !handover::is_same_service(&welcome) {
        return Err(Failure::failed(AskFault::OtherService { pid: welcome.pid }.to_string()));
    }
    let start = Start {
        file: &file,
        socket: &socket,
        admin: args.admin.as_ref().map(Address::to_string).or_else(|| welcome.admin.clone()),
        directory: welcome.directory.as_deref(),
        runtime_directory: runtime_directory(&config, &socket),
        // A service manager gives its own outputs to the new process.
        outputs: if welcome.notify_socket.is_none() { outputs } else { Vec::new() },
    };
    let (child, channel) = start.run()?;
    follow(child, channel, &welcome, &socket)
}

/// Checks a configuration, and prints the result.
fn checked(path: &Path) -> Result<Config, Failure> {
    if path == Path::new("-") || file::is_descriptor(path) {
        return Err(Failure::faulty(
            "`upgrade` needs a configuration file with a path: the new program reads it again at each reload",
        ));
    }
    // The faults are printed already.
    let config = report_faults(config::check_given(path), &complain)
        .map_err(|_| Failure::faulty("the running program was not asked"))?;
    say(&format!("checked    {}", good(path, &config)));
    Ok(config)
}

/// Returns the socket of the running program.
fn socket_of(given: Option<&Path>, config: Option<&Config>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let spec = config.map_or(&HandoverSpec::RuntimeDirectory, |config| &config.handover);
    match (spec, spec.socket()) {
        (_, Some(path)) => Ok(path.to_path_buf()),
        (HandoverSpec::Off, None) => Err(Failure::faulty(
            "[handover] socket is \"off\" in this file, so there is no hand-over: restart the program, or name the socket \
             of the running program with --socket",
        )),
        (_, None) => Ok(SOCKET.into()),
    }
}

/// Returns the directory to pass to the new program as its runtime directory, if its socket is to be where the running
/// program has it and nothing else says so.
fn runtime_directory<'p>(config: &Config, socket: &'p Path) -> Option<&'p Path> {
    let is_default = socket.file_name() == Some(OsStr::new(HandoverSpec::NAME));
    let is_unset = config.handover == HandoverSpec::RuntimeDirectory && config.handover.socket().is_none();
    socket.parent().filter(|parent| is_default && is_unset && parent.is_absolute())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::failed(format!("{} cannot be made absolute: {error}", path.display())))
}

/// Returns the absolute path of the configuration file of the running program.
fn file_of(welcome: &Welcome) -> Option<PathBuf> {
    let file = Path::new(welcome.config_file.as_ref()?);
    match &welcome.directory {
        Some(directory) => Some(Path::new(directory).join(file)),
        None => file.is_absolute().then(|| file.to_owned()),
    }
}

fn no_file(welcome: &Welcome) -> Failure {
    Failure::faulty(format!(
        "the running program (pid {}) has no configuration file: name one, with `pointsman upgrade FILE`",
        welcome.pid
    ))
}

fn unanswered(fault: &AskFault) -> Failure {
    match fault.is_absent() {
        true => Failure::failed(format!(
            "{fault}; start it with `pointsman run FILE` or `systemctl start pointsman`; if it runs, its log says where it \
             listens for a hand-over, or why it does not: name another socket with --socket, or restart it once"
        )),
        false => Failure::failed(fault.to_string()),
    }
}

/// Returns true if the running program is this one. Builds without a commit are never known to be the same.
fn is_same_build(welcome: &Welcome) -> bool {
    welcome.version == VERSION && welcome.commit == COMMIT && COMMIT != UNKNOWN
}

/// Returns the line about the running program.
fn running(welcome: &Welcome, now: SystemTime) -> String {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(welcome.started_ms);
    let up = now.duration_since(started).unwrap_or_default().as_secs();
    let Welcome { version, commit, pid, connections, .. } = welcome;
    format!("running    {version} ({commit}) pid {pid}, up {}, {connections} connections", duration(up))
}

/// Prints the result of a reload.
fn reloaded(welcome: &Welcome, result: Reloaded) -> Result<(), Failure> {
    if let Some(fault) = result.fault {
        let pid = welcome.pid;
        return Err(Failure::failed(format!("pid {pid} keeps its earlier configuration: {fault}")));
    }
    let changes = result.changes.filter(|changes| !changes.is_empty());
    let changes = changes.unwrap_or_else(|| "nothing has changed".to_owned());
    say(&format!(
        "reloaded   pid {}: {changes}; the program has this version already; --again starts a new process, which also \
         applies keys that need a restart",
        welcome.pid
    ));
    Ok(())
}

/// The start of the new program.
struct Start<'a> {
    file: &'a Path,
    socket: &'a Path,
    admin: Option<String>,
    directory: Option<&'a str>,
    runtime_directory: Option<&'a Path>,
    /// The standard output and the standard error of the running program, or nothing.
    outputs: Vec<OwnedFd>,
}

impl Start<'_> {
    /// Starts the program. Returns it with the channel of its reports.
    fn run(self) -> Result<(Child, UnixStream), Failure> {
        let program = process::own_program();
        let fault = |error: io::Error| {
            let directory =
                self.directory.map(|path| format!(" in the directory {path}")).unwrap_or_default();
            Failure::failed(format!("cannot start {}{directory}: {error}", program.display()))
        };
        let (ours, theirs) = UnixStream::pair().map_err(fault)?;
        let mut command = Command::new(&program);
        command.arg0(PROGRAM).args(["run", "--take-over", "--report", "--socket"]).arg(self.socket);
        if let Some(admin) = &self.admin {
            command.arg("--admin").arg(admin);
        }
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        if let Some(directory) = self.runtime_directory {
            command.env("RUNTIME_DIRECTORY", directory);
        }
        command.arg("--").arg(self.file).stdin(OwnedFd::from(theirs));
        if let Ok([output, error]) = <[OwnedFd; 2]>::try_from(self.outputs) {
            command.stdout(Stdio::from(output)).stderr(Stdio::from(error));
        }
        let child = command.spawn().map_err(fault)?;
        // The command holds the other end of the channel until it is dropped.
        drop(command);
        Ok((child, ours))
    }
}

/// Prints the steps of the new program up to the last one.
fn follow(mut child: Child, channel: UnixStream, welcome: &Welcome, socket: &Path) -> Result<(), Failure> {
    for line in BufReader::new(channel).lines().map_while(Result::ok) {
        // A step that this version does not know is not needed.
        let Ok(step) = serde_json::from_str::<UpgradeStep>(&line) else { continue };
        if let UpgradeStep::Failed { reason } = step {
            return Err(Failure::failed(format!("no hand-over: {reason}; {}", who_runs(welcome, socket))));
        }
        say(&shown(&step));
        if step.is_last() {
            return Ok(());
        }
    }
    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    Err(Failure::failed(format!(
        "the new program ended ({status}) before it reported its success: its log has the reason; {}",
        who_runs(welcome, socket)
    )))
}

/// Says which program answers at the socket after a hand-over that has failed.
fn who_runs(welcome: &Welcome, socket: &Path) -> String {
    match handover::query(socket) {
        Ok((now, _)) if now.pid == welcome.pid => format!("pid {} still runs", welcome.pid),
        Ok((now, _)) => format!("pid {} runs now", now.pid),
        Err(_) => format!(
            "pid {} no longer answers, so perhaps no program serves: start it with `pointsman run FILE`",
            welcome.pid
        ),
    }
}

/// Returns the lines about a step.
fn shown(step: &UpgradeStep) -> String {
    match step {
        UpgradeStep::Ready { version, commit, pid, after_ms, sockets } => format!(
            "successor  {version} ({commit}) pid {pid}, ready after {after_ms} ms; {sockets} sockets taken over, none \
             closed"
        ),
        UpgradeStep::Moved {
            moved,
            moved_in_us,
            longest_pause_us,
            remaining,
            stages,
            incumbent,
            ends_ms,
        } => {
            let (time, pause) = (moved_in_us.div_ceil(1000), longest_pause_us.div_ceil(1000));
            let moved = match moved {
                0 => "moved      no connection".to_owned(),
                _ => format!(
                    "moved      {moved} connections in {time} ms; none stood still for more than {pause} ms"
                ),
            };
            let ends = SystemTime::UNIX_EPOCH + Duration::from_millis(*ends_ms);
            match remaining {
                0 => format!("{moved}\nremain     none; pid {incumbent} ends"),
                _ => format!(
                    "{moved}\nremain     {remaining} in pid {incumbent}{}; it ends by {}",
                    by_stage(stages),
                    humantime::format_rfc3339_seconds(ends)
                ),
            }
        }
        UpgradeStep::Failed { reason } => format!("failed     {reason}"),
    }
}

/// Returns numbers by stage in parentheses, or nothing: an older program does not send them.
fn by_stage(stages: &BTreeMap<String, u64>) -> String {
    let stages: Vec<_> = stages.iter().map(|(stage, count)| format!("{count} {stage}")).collect();
    if stages.is_empty() { String::new() } else { format!(" ({})", stages.join(", ")) }
}

/// Prints a line about a step. A reader that is gone does not stop the upgrade.
fn say(line: &str) {
    let _ = answer(&format!("{}\n", as_text(line)));
}

impl TakeOverArgs {
    /// Returns the reports to the command that started this process.
    ///
    /// # Errors
    ///
    /// Errors of the kernel.
    pub(super) fn reporter(&self) -> io::Result<Reporter> {
        if self.report { Reporter::from_standard_input() } else { Ok(Reporter::default()) }
    }

    /// Asks the running program for its sockets and connections. The result is `None` for an ordinary start: no
    /// hand-over is wanted, or no program is running.
    ///
    /// # Errors
    ///
    /// The message and the exit code, if the running program refuses.
    pub(super) fn take_over(&self, config: &Config) -> Result<Option<Takeover>, (String, u8)> {
        if !self.take_over {
            return Ok(None);
        }
        let socket = self.socket.clone().or_else(|| config.handover.socket().map(|path| path.to_path_buf()));
        let Some(socket) = socket else {
            let message = match config.handover {
                HandoverSpec::Off => {
                    "--take-over: [handover] socket is \"off\" in this file: set a path, or name the socket of the running \
                     program with --socket"
                }
                _ => {
                    "--take-over: no socket of a running program is known: write [handover] socket, or name the socket \
                     with --socket"
                }
            };
            return Err((message.to_owned(), FAULTY));
        };
        match handover::ask(&socket) {
            Ok(takeover) => Ok(Some(takeover)),
            // `upgrade` had an answer a moment before.
            Err(fault) if fault.is_absent() && self.report => {
                Err((format!("the running program has ended before it was asked: {fault}"), FAILED))
            }
            Err(fault) if fault.is_absent() => {
                tracing::info!(socket = %socket.display(), "no running program to take over from: an ordinary start");
                Ok(None)
            }
            Err(fault) => Err((fault.to_string(), FAILED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(handover: &str) -> Config {
        let text =
            format!("{handover}\n[listener.a]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']");
        config::parse("test.toml", &text).unwrap().0
    }

    #[test]
    fn the_socket_comes_from_the_argument_the_file_or_the_default() {
        let found = |given: Option<&str>, config: Option<&Config>| {
            socket_of(given.map(Path::new), config).map_err(|Failure(message, code)| (message, code))
        };
        let (set, off) = (config("handover.socket = '/a/h'"), config("handover.socket = 'off'"));
        assert_eq!(found(None, None), Ok(SOCKET.into()), "RUNTIME_DIRECTORY is not set in tests");
        assert_eq!(found(None, Some(&config(""))), Ok(SOCKET.into()));
        assert_eq!(found(None, Some(&set)), Ok("/a/h".into()));
        assert_eq!(found(Some("/b/h"), Some(&set)), Ok("/b/h".into()));
        assert_eq!(found(Some("/b/h"), Some(&off)), Ok("/b/h".into()));
        let (message, code) = found(None, Some(&off)).unwrap_err();
        assert!(message.contains("restart the program") && code == FAULTY, "{message}");
    }

    #[test]
    fn the_new_program_listens_where_the_running_program_did() {
        let check = |handover: &str, socket: &str, expected: Option<&str>| {
            let config = config(handover);
            assert_eq!(runtime_directory(&config, Path::new(socket)), expected.map(Path::new), "{socket}");
        };
        check("", "/run/x/handover.sock", Some("/run/x"));
        check("", "/run/x/other", None);
        check("", "x/handover.sock", None);
        check("handover.socket = '/a/h'", "/run/x/handover.sock", None);
    }

    #[test]
    fn the_file_of_the_running_program_is_relative_to_its_directory() {
        let file = |file: Option<&str>, directory: Option<&str>| {
            let (config_file, directory) = (file.map(str::to_owned), directory.map(str::to_owned));
            file_of(&Welcome { config_file, directory, ..Welcome::default() })
        };
        assert_eq!(file(None, Some("/d")), None);
        assert_eq!(file(Some("c.toml"), Some("/d")), Some("/d/c.toml".into()));
        assert_eq!(file(Some("/e/c.toml"), Some("/d")), Some("/e/c.toml".into()));
        assert_eq!(file(Some("/e/c.toml"), None), Some("/e/c.toml".into()));
        assert_eq!(file(Some("c.toml"), None), None);
        assert_eq!(no_file(&Welcome::default()).1, FAULTY);
    }

    #[test]
    fn each_step_is_a_line() {
        let welcome = Welcome {
            version: "0.3.0".to_owned(),
            commit: "3f2a91c".to_owned(),
            pid: 812,
            started_ms: 1000,
            connections: 5012,
            ..Welcome::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(41 * 86_400 + 1);
        let line = running(&welcome, now);
        assert_eq!(line, "running    0.3.0 (3f2a91c) pid 812, up 41d, 5012 connections");
        let ready = UpgradeStep::Ready {
            version: "0.4.0".to_owned(),
            commit: "a77c0de".to_owned(),
            pid: 4711,
            after_ms: 38,
            sockets: 12,
        };
        let line =
            "successor  0.4.0 (a77c0de) pid 4711, ready after 38 ms; 12 sockets taken over, none closed";
        assert_eq!(shown(&ready), line);
        let moved = |moved, remaining, stages| UpgradeStep::Moved {
            moved,
            moved_in_us: 211_001,
            longest_pause_us: 8900,
            remaining,
            stages,
            incumbent: 812,
            ends_ms: 1_796_032_950_000,
        };
        assert_eq!(
            shown(&moved(5009, 3, [("dialing".to_owned(), 1), ("reading".to_owned(), 2)].into())),
            "moved      5009 connections in 212 ms; none stood still for more than 9 ms\n\
             remain     3 in pid 812 (1 dialing, 2 reading); it ends by 2026-11-30T10:02:30Z"
        );
        assert!(shown(&moved(1, 3, BTreeMap::new())).contains("remain     3 in pid 812; it ends by"));
        assert_eq!(
            shown(&moved(0, 0, BTreeMap::new())),
            "moved      no connection\nremain     none; pid 812 ends"
        );
    }

    #[test]
    fn a_reload_that_fails_is_a_failure() {
        let result = |changes: Option<&str>, fault: Option<&str>| {
            let result = Reloaded { changes: changes.map(str::to_owned), fault: fault.map(str::to_owned) };
            reloaded(&Welcome::default(), result).map_err(|Failure(message, code)| (message, code))
        };
        assert_eq!(result(Some("changed: pool a"), None), Ok(()));
        assert_eq!(result(None, None), Ok(()));
        let (message, code) = result(None, Some("the port is in use")).unwrap_err();
        assert!(message.contains("the port is in use") && code == FAILED, "{message}");
    }
}
