//! The program with other programs: real clients, servers, users and networks.
//!
//! The attribute of each test names what it needs; `.ci/run` installs this and runs all tests. Every child
//! ends with its guard. Every directory and namespace is removed with the test that made it.

mod bulk;
mod certificates;
mod checks;
mod connections;
mod dns;
mod fail2ban;
mod fleet;
mod global;
mod haproxy_log;
mod hung;
mod mail;
mod memory;
mod names;
mod network;
mod peers;
mod postgres;
mod prometheus;
mod protocols;
mod proxied;
mod recipes;
mod shortages;
mod starting;
mod stopped;
mod tls;
mod tunnels;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use pointsman::telemetry::metrics::METRICS;
use serde_json::Value;

use crate::support::{PATIENCE, find_in_time, wait_for};

/// A new directory that all users may enter; it is removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pointsman-real-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process; it is killed by its id when dropped.
struct ChildGuard(Child);

impl ChildGuard {
    /// Starts a command. Panics with the name of the program if it is not installed.
    fn spawn(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    fn signal(&self, name: &str) {
        run(Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]));
    }

    /// Waits for the exit status, which must come soon.
    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of a process", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines that a child writes, as they come.
#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let shared = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                shared.lines.lock().unwrap().push(line);
                shared.more.notify_all();
            }
        });
        lines
    }

    fn have(&self, words: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(words))
    }

    /// Waits for a line with these words and returns the text behind them. Panics with all lines.
    fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some((_, rest)) = lines.iter().find_map(|line| line.split_once(words)) {
                return rest.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {words:?} in\n{}", lines.join("\n"));
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// Runs a command to its end and returns its output. Panics if the command fails.
fn run(command: &mut Command) -> String {
    let output = finish(command, b"");
    let said = said(&output);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}

/// Runs a command to its end, with this on its standard input.
fn finish(command: &mut Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Ok(child) => child,
        Err(error) => panic!("{command:?}: {error}"),
    };
    // A command that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Returns both outputs, one behind the other.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// A running instance of the program under test.
struct Program {
    process: ChildGuard,
    log: Arc<Lines>,
    admin: SocketAddr,
    /// The directory of the configuration and the access log.
    directory: Directory,
}

impl Program {
    fn start(config: &str) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_pointsman")), Directory::new(), config)
    }

    /// Starts the program by a command that lacks only the arguments, with an admin listener and an access
    /// log.
    fn start_by(command: Command, directory: Directory, config: &str) -> Self {
        Self::start_with(command, directory, "", config)
    }

    /// Starts the program in the same way, with further keys of the admin listener.
    fn start_with(mut command: Command, directory: Directory, admin: &str, config: &str) -> Self {
        let file = directory.file("config.toml");
        Self::write_config(&directory, admin, config);
        command.arg("run").arg(file).env_remove("POINTSMAN_LOG").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = ChildGuard::spawn(&mut command);
        let log = Lines::follow(process.0.stderr.take().unwrap());
        let admin = log.wait_for("admin listens address=").parse().unwrap();
        log.wait_for("serving");
        Self { process, log, admin, directory }
    }

    fn write_config(directory: &Directory, admin: &str, config: &str) {
        let access_log = directory.file("access.log");
        let text = format!(
            "workers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n{admin}[access_log]\nto = {access_log:?}\n{config}"
        );
        directory.write("config.toml", text);
    }

    /// Writes another configuration to the file and reloads it.
    fn reload(&self, config: &str) {
        Self::write_config(&self.directory, "", config);
        self.process.signal("HUP");
    }

    fn ask(&self, path: &str) -> String {
        let (code, body) = pointsman::admin::ask(self.admin, path, PATIENCE).unwrap();
        assert_eq!(code, 200, "{path}: {body}");
        body
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask("/api/v1/status")).unwrap()
    }

    /// Returns the first address of a listener.
    fn address(&self, listener: &str) -> SocketAddr {
        let status = self.status();
        let mut listeners = status["listeners"].as_array().unwrap().iter();
        let one = listeners.find(|one| one["name"] == listener).expect("the listener is there");
        one["addresses"][0].as_str().unwrap().parse().unwrap()
    }

    /// Returns the sum of a family, over all series with these words in their labels.
    fn sum(&self, family: &str, label: &str) -> f64 {
        sum(&self.ask("/metrics"), family, label)
    }

    /// Waits for the record of an ended connection that meets the condition.
    fn wait_for_record(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_for_record(&self.directory.file("access.log"), what, is_it)
    }

    /// Stops the program in order.
    fn stop(mut self) {
        self.process.signal("TERM");
        assert_eq!(self.process.wait().code(), Some(0), "{:?}", self.log.lines);
    }
}

fn sum(metrics: &str, family: &str, label: &str) -> f64 {
    let of_family = metrics.lines().filter_map(|line| line.strip_prefix(family));
    let values: Vec<f64> = of_family
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .map(|rest| rest.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    // An event that cannot happen has no series until it happens.
    let name = ["_count", "_sum", "_bucket"].iter().find_map(|suffix| family.strip_suffix(suffix));
    let is_known = |name: &str| METRICS.iter().any(|metric| metric.name == name);
    assert!(is_known(family) || name.is_some_and(is_known), "no family {family} in\n{metrics}");
    values.iter().sum()
}

fn wait_for_record(access_log: &Path, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut text = String::new();
    let find = || {
        text = fs::read_to_string(access_log).unwrap_or_default();
        // The last line may be incomplete.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).find(|record| is_it(record))
    };
    find_in_time(find).unwrap_or_else(|| panic!("{what} did not come, in\n{text}"))
}
