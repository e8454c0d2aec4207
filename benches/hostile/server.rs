//! The attacked server: it is started with the settings of a case and measured from outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::child::{Program, pause};
use crate::metrics::Metrics;
use crate::proc;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(20);

/// The longest time from SIGTERM to the end, with the drain of one second.
const END: Duration = Duration::from_secs(20);

/// The user id of a user without files of its own.
const UNPRIVILEGED_USER: &str = "65534";

/// Listeners and their lines; all route to the same backends.
const LISTENERS: [(&str, &str); 4] = [
    ("tls", "protocol = \"tls\""),
    ("proxied", "protocol = \"tls\"\nproxy_protocol = { trusted = [\"127.0.0.0/8\"] }"),
    ("postgres", "protocol = \"postgres\""),
    ("smtp", "protocol = \"smtp\"\nhostname = \"mx.bench.test\""),
];

/// The settings of the server that are special to a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerSettings {
    /// Lines before all tables.
    pub(crate) lines: &'static str,
    /// Lines of each listener.
    pub(crate) listeners: &'static str,
    /// Lines of the pool.
    pub(crate) pool: &'static str,
    /// The most descriptors of the server.
    pub(crate) descriptors: Option<u32>,
    /// True if the server runs as an ordinary user without capabilities.
    pub(crate) is_ordinary: bool,
    /// True if the access log is on a disk of 256 KiB, or is /dev/full if no disk can be mounted.
    pub(crate) is_disk_small: bool,
    /// The library that moves the wall clock of the server.
    pub(crate) clock: Option<PathBuf>,
}

/// The directory and the addresses that all cases of a run use.
#[derive(Clone, Copy)]
pub(crate) struct RunContext<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) backends: &'a [SocketAddr],
    /// Further lines of each listener.
    pub(crate) further: &'a str,
}

/// A running server; it is stopped when dropped.
pub(crate) struct Server {
    program: Program,
    log: PathBuf,
    clock: PathBuf,
    addresses: BTreeMap<String, SocketAddr>,
    pub(crate) admin: SocketAddr,
}

impl Server {
    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// Returns an error with the log if the server does not serve in time.
    pub(crate) fn start(settings: &ServerSettings, context: RunContext<'_>) -> io::Result<Self> {
        let directory = context.directory;
        let (file, log) = (directory.join("hostile.toml"), directory.join("hostile.log"));
        let (disk, clock) = (directory.join("disk"), directory.join("clock"));
        fs::create_dir_all(&disk)?;
        step_clock(&clock, 0)?;
        let is_mountable = settings.is_disk_small && can_mount();
        let access_log = match (settings.is_disk_small, is_mountable) {
            (false, _) => PathBuf::from("/dev/null"),
            (true, false) => PathBuf::from("/dev/full"),
            (true, true) => disk.join("access.log"),
        };
        fs::write(&file, configuration(settings, context, &access_log))?;
        // The program is in a directory that every user may list.
        let binary = directory.join("pointsman");
        if !binary.exists() {
            let named = std::env::var_os("POINTSMAN").unwrap_or(env!("CARGO_BIN_EXE_pointsman").into());
            fs::copy(named, &binary)?;
        }
        let mut arguments: Vec<String> = Vec::new();
        if let Some(most) = settings.descriptors {
            arguments.extend(shell(&format!("ulimit -n {most}")));
        }
        if is_mountable {
            arguments.extend(unshare().iter().map(|word| (*word).to_owned()));
            arguments.extend(shell(&format!("mount -t tmpfs -o size=256k none '{}'", disk.display())));
        }
        if settings.is_ordinary && geteuid().is_root() {
            let user = [format!("--reuid={UNPRIVILEGED_USER}"), format!("--regid={UNPRIVILEGED_USER}")];
            arguments.push("setpriv".to_owned());
            arguments.extend(user);
            arguments.extend(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"].map(str::to_owned));
        }
        arguments.extend([binary, "run".into(), file].map(|path: PathBuf| path.display().to_string()));
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]);
        if let Some(library) = &settings.clock {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut program = Program::start(command, None, &log)?;
        let (addresses, admin) = serving(&mut program, &log)?;
        Ok(Self { program, log, clock, addresses, admin })
    }

    /// Returns the address of a listener.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        if listener == "admin" { self.admin } else { self.addresses[listener] }
    }

    /// Returns the number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        proc::own_descriptors(self.program.pid())
    }

    /// Returns the resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Returns the CPU time since the start, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        proc::CpuTimes::by(&[self.program.pid()]).seconds()
    }

    /// Returns the time for which threads were ready and had no CPU, in seconds. It shows the load of the
    /// machine.
    pub(crate) fn waited(&self) -> f64 {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.program.pid())).into_iter().flatten().flatten();
        let waited = |task: fs::DirEntry| -> Option<u64> {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse().ok()
        };
        tasks.filter_map(waited).sum::<u64>() as f64 / 1e9
    }

    /// Moves the wall clock, if the server was started with such a clock.
    pub(crate) fn step_clock(&self, seconds: i64) -> io::Result<()> {
        step_clock(&self.clock, seconds)
    }

    /// Scrapes the metrics. If admin is under attack, several attempts may be needed.
    pub(crate) fn metrics(&self, patience: Duration) -> io::Result<Metrics> {
        let until = Instant::now() + patience;
        loop {
            match Metrics::fetch(self.admin) {
                Err(_) if Instant::now() < until => pause(Duration::from_millis(100)),
                result => return result,
            }
        }
    }

    /// Returns an error if the server has ended.
    pub(crate) fn check_alive(&mut self) -> io::Result<()> {
        match self.program.ended() {
            Some(status) => Err(io::Error::other(format!("the server ended, {status}: {}", end(&self.log)))),
            None => Ok(()),
        }
    }

    /// Stops the server, and returns an error if it does not stop cleanly.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.check_alive()?;
        self.program.signal(Signal::SIGTERM);
        if !self.program.ends_within(END) {
            return Err(io::Error::other(format!("the server does not end: {}", end(&self.log))));
        }
        match self.program.ended() {
            Some(status) if !status.success() => {
                Err(io::Error::other(format!("the server ended with {status}: {}", end(&self.log))))
            }
            _ => Ok(()),
        }
    }
}

fn shell(before: &str) -> [String; 4] {
    ["sh", "-c", &format!("{before} && exec \"$@\""), "sh"].map(str::to_owned)
}

fn unshare() -> &'static [&'static str] {
    if geteuid().is_root() { &["unshare", "--mount"] } else { &["unshare", "--mount", "--map-root-user"] }
}

/// Returns `true` if a private file system can be mounted.
fn can_mount() -> bool {
    let arguments = unshare();
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).args(["mount", "-t", "tmpfs", "none", "/tmp"]);
    command.output().is_ok_and(|output| output.status.success())
}

fn step_clock(file: &Path, seconds: i64) -> io::Result<()> {
    // The file is renamed, so that no reader sees a half-written file.
    let next = file.with_extension("next");
    fs::write(&next, format!("{seconds:+}s\n"))?;
    fs::rename(next, file)
}

fn configuration(settings: &ServerSettings, context: RunContext<'_>, access_log: &Path) -> String {
    let mut text = format!(
        "{}\n[admin]\nlisten = \"127.0.0.1:0\"\n[access_log]\nto = \"{}\"\n[shutdown]\ndrain = \"1s\"\n",
        settings.lines,
        access_log.display()
    );
    if settings.is_disk_small {
        // Without this setting there would be too few lines to fill the disk.
        text = text.replace("[access_log]\n", "[access_log]\nrefused_per_second = 1000000\n");
    }
    for (name, lines) in LISTENERS {
        let _ = write!(
            text,
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\n{lines}\nroutes = [{{ sni = \"*.bench.test\", pool = \"bench\" \
             }}]\n{}\n{}\n",
            settings.listeners, context.further
        );
    }
    let backends: Vec<String> = context.backends.iter().map(|address| format!("\"{address}\"")).collect();
    let _ = write!(text, "[pool.bench]\nbackends = [{}]\n{}\n", backends.join(", "), settings.pool);
    text
}

fn serving(program: &mut Program, log: &Path) -> io::Result<(BTreeMap<String, SocketAddr>, SocketAddr)> {
    const ADMIN: &str = "admin listens address=";
    let until = Instant::now() + START;
    loop {
        let text = fs::read_to_string(log)?;
        let admin = text.lines().find_map(|line| line.split_once(ADMIN)?.1.trim().parse().ok());
        if let (Some(addresses), Some(admin)) = (served(&text), admin) {
            return Ok((addresses, admin));
        }
        if program.ended().is_some() || Instant::now() > until {
            return Err(io::Error::other(format!("it does not serve: {text}")));
        }
        pause(Duration::from_millis(1));
    }
}

/// Returns the listeners of the log line that reports them: `"tls": [127.0.0.1:1], "smtp": [127.0.0.1:2]`.
fn served(log: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let (_, line) = log.lines().find_map(|line| line.split_once(" serving "))?;
    let quoted: Vec<&str> = line.split('"').collect();
    let pairs =
        quoted.chunks_exact(2).filter_map(|pair| pair.get(1).copied()).zip(quoted.iter().skip(2).step_by(2));
    let address = |text: &str| text.split(['[', ']', ',']).find_map(|word| word.trim().parse().ok());
    Some(pairs.filter_map(|(name, text)| Some((name.to_owned(), address(text)?))).collect())
}

/// Returns the last lines of a log.
fn end(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
