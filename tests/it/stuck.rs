//! Readers that have stopped reading the program's standard output, standard error or messages to the service
//! manager.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use pointsman::telemetry::{Flushed, ProgramLog, program_log};

use crate::process::{Folder, Lines, Program, ServiceManager, command};
use crate::support::{Backend, PATIENCE, find_in_time, own_address, wait_for};

/// The longest time of the end without a reader: two seconds for each of the logs, and the time of a busy
/// machine.
const END: Duration = Duration::from_secs(15);

/// A program with an admin listener, whose standard error the test chooses.
struct StuckProgram {
    program: Program,
    folder: Folder,
    text: String,
    address: SocketAddr,
    admin: SocketAddr,
}

impl StuckProgram {
    fn start(test: &str, stderr: impl Into<Stdio>, more: impl FnOnce(&mut Command)) -> Self {
        let folder = Folder::new(test);
        let backend = Backend::echo();
        let (address, admin) = (own_address(), own_address());
        let text = format!(
            r#"
            workers = 2
            access_log.to = "off"
            shutdown.drain = "1s"
            [admin]
            listen = "{admin}"
            [listener.main]
            bind = "{address}"
            pool = "main"
            [pool.main]
            backends = ["{}"]
            health.check = "off"
            [pool.dead]
            backends = ["{}"]
            health.interval = "100ms"
            "#,
            backend.address,
            own_address(),
        );
        let path = folder.write("stuck.toml", &text);
        let mut command = command(&["run"]);
        command.arg(&path).stdout(Stdio::null()).stderr(stderr);
        more(&mut command);
        let child = command.spawn().unwrap();
        let program = Program { child, stderr: Lines::default(), stdout: Lines::default() };
        let stuck = Self { program, folder, text, address, admin };
        wait_for("the first answer of admin", || stuck.ask("/ready").is_some());
        stuck
    }

    /// Returns a page of the admin listener, if there is an answer.
    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        page.starts_with("HTTP/1.1 200").then_some(page)
    }

    fn metric(&self, series: &str) -> u64 {
        // Under load admin may still serve the requests before this one.
        let page = find_in_time(|| self.ask("/metrics")).expect("admin answers");
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
    }

    /// Reloads and waits until the reload is counted.
    fn reload(&self, result: &str) {
        let series = format!(r#"pointsman_config_reloads_total{{result="{result}"}}"#);
        let before = self.metric(&series);
        self.program.signal("HUP");
        wait_for("a reload", || self.metric(&series) > before);
    }

    fn expect_to_serve(&self) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }

    /// Checks that the checks of the dead backend go on and fail.
    fn expect_checks(&self) {
        let failed = || {
            let page = find_in_time(|| self.ask("/metrics")).expect("admin answers");
            let is_it =
                |line: &&str| line.contains("checks_total{pool=\"dead\"") && line.contains("\"failed\"");
            let line = page.lines().find(is_it).unwrap_or_else(|| panic!("no checks in\n{page}")).to_owned();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let before = failed();
        wait_for("two more failed checks", || failed() > before + 1);
    }

    /// Writes a configuration whose faults fill some 80 KB of the log.
    fn write_many_faults(&self) {
        let wrong: String = (0..1000).map(|n| format!("wrong_{n} = \"{}\"\n", "x".repeat(100))).collect();
        self.folder.write("stuck.toml", &format!("{wrong}{}", self.text));
    }

    fn write_good(&self) {
        self.folder.write("stuck.toml", &self.text);
    }

    fn expect_end_in_time(&mut self, signals: &[&str]) {
        let began = Instant::now();
        signals.iter().for_each(|signal| self.program.signal(signal));
        assert_eq!(self.program.end().code(), Some(0));
        assert!(began.elapsed() < END, "{:?}", began.elapsed());
    }
}

/// Returns a full pipe and its reader.
fn full_pipe() -> (PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'\n'; usize::try_from(size).unwrap()]).unwrap();
    (reader, writer.into())
}

#[test]
fn a_full_pipe_under_standard_error_stops_nothing() {
    let (reader, writer) = full_pipe();
    // The pipe is full already at the start.
    let mut stuck = StuckProgram::start("stuck-pipe", writer, |_| {});
    stuck.expect_to_serve();
    stuck.reload("ok");
    stuck.write_many_faults();
    // Each reload logs some 80 KB, until the queue is full.
    let is_dropped = |_: &i32| {
        stuck.reload("failed");
        stuck.metric("pointsman_log_lines_dropped_total") > 0
    };
    assert!((0..40).find(is_dropped).is_some(), "the queue takes more than it should");
    stuck.write_good();
    stuck.reload("ok");
    stuck.expect_to_serve();
    stuck.expect_checks();
    let lines = Lines::follow(reader);
    lines.wait_for("serving");
    let report = lines.wait_for("lines of this log were dropped");
    assert!(report.contains("pointsman_log_lines_dropped_total"), "{report}");
    // From now on each line is written again.
    stuck.reload("ok");
    let dropped = stuck.metric("pointsman_log_lines_dropped_total");
    assert!(report.contains(&format!("lines={dropped}")), "{dropped} of {report}");
    stuck.expect_end_in_time(&["TERM"]);
    lines.wait_for("every connection has ended");
}

#[test]
fn the_end_does_not_wait_for_the_reader_of_standard_error() {
    let (reader, writer) = full_pipe();
    let mut stuck = StuckProgram::start("stuck-end", writer, |_| {});
    stuck.write_many_faults();
    stuck.reload("failed");
    let held = TcpStream::connect(stuck.address).unwrap();
    // The first SIGTERM begins the drain, and the second ends it early.
    stuck.expect_end_in_time(&["TERM", "TERM"]);
    drop((held, reader));
}

/// The journal is a stream socket.
#[test]
fn a_full_socket_under_standard_error_stops_nothing() {
    let (reader, writer) = UnixStream::pair().unwrap();
    let mut stuck = StuckProgram::start("stuck-socket", OwnedFd::from(writer), |command| {
        command.env("POINTSMAN_LOG", "debug");
    });
    stuck.write_many_faults();
    for _ in 0..4 {
        stuck.reload("failed");
    }
    stuck.expect_to_serve();
    stuck.expect_end_in_time(&["TERM"]);
    drop(reader);
}

#[test]
fn standard_error_may_be_closed_or_lose_its_reader() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut stuck = StuckProgram::start("no-reader", OwnedFd::from(writer), |_| {});
    stuck.reload("ok");
    assert!(stuck.metric("pointsman_log_lines_dropped_total") > 0);
    stuck.expect_to_serve();
    stuck.expect_end_in_time(&["TERM"]);
    // The shell closes its standard error and then executes the program.
    let mut stuck = StuckProgram::start("closed-stderr", Stdio::null(), |command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(command.get_program()).args(arguments);
        shell.env_remove("NOTIFY_SOCKET").env_remove("POINTSMAN_LOG");
        shell.stdin(Stdio::null()).stdout(Stdio::null());
        *command = shell;
    });
    stuck.reload("ok");
    stuck.expect_to_serve();
    stuck.expect_end_in_time(&["TERM"]);
}

#[test]
fn faults_at_the_start_do_not_wait_for_a_reader() {
    let folder = Folder::new("stuck-fault");
    let path = folder.write("fault.toml", "wrong = 1\n");
    let (reader, writer) = full_pipe();
    let began = Instant::now();
    let child = command(&["run"]).arg(&path).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let mut program = Program { child, stderr: Lines::default(), stdout: Lines::default() };
    assert_eq!(program.end().code(), Some(2));
    assert!(began.elapsed() < END);
    drop(reader);
}

// Panics.

/// Set in the environment of the process that panics.
const PANICS: &str = "POINTSMAN_TEST_PANICS";

#[test]
#[ignore = "it is what the child process runs"]
fn panic_in_threads() {
    let Some(_) = std::env::var_os(PANICS) else { return };
    let log = ProgramLog::new();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    program_log::log_panics();
    log.start().unwrap();
    for number in 0..4 {
        let thread = thread::Builder::new().name(format!("thread-{number}"));
        let panicking = thread.spawn(move || panic!("message {number}")).unwrap();
        assert!(panicking.join().is_err());
    }
    File::create(std::env::var_os(PANICS).unwrap()).unwrap();
    assert_eq!(log.finish(PATIENCE), Flushed::All);
}

#[test]
fn a_panic_does_not_wait_for_the_reader_of_standard_error() {
    for backtrace in ["0", "1"] {
        let folder = Folder::new(&format!("stuck-panic-{backtrace}"));
        let done = folder.path("done");
        let (reader, writer) = full_pipe();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "stuck::panic_in_threads"])
            .env(PANICS, &done)
            .env("RUST_BACKTRACE", backtrace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut program = Program { child, stderr: Lines::default(), stdout: Lines::default() };
        wait_for("the end of the panics", || done.exists());
        let lines = Lines::follow(reader);
        for number in 0..4 {
            let line = lines.wait_for(&format!("message {number}"));
            for part in ["ERROR", "a thread panicked", &format!("thread-{number}"), "tests/it/stuck.rs:"] {
                assert!(line.contains(part), "{line}");
            }
            assert_eq!(line.contains("backtrace="), backtrace == "1", "{line}");
        }
        assert!(program.end().success());
    }
}

// The service manager.

/// Sends to a socket until its queue is full. Returns the number of messages that the socket took.
fn fill(path: &std::path::Path) -> usize {
    let socket = UnixDatagram::unbound().unwrap();
    socket.set_nonblocking(true).unwrap();
    let taken = std::iter::from_fn(|| socket.send_to(b"FILL=1", path).ok()).count();
    assert!(taken > 0);
    taken
}

/// Returns the next stage that the manager receives.
fn next_stage(manager: &ServiceManager) -> Vec<String> {
    let mut stage = None;
    while stage.is_none() {
        stage = Some(manager.receive()).filter(|words| words != &["FILL=1"] && words != &["WATCHDOG=1"]);
    }
    stage.unwrap()
}

#[test]
fn a_service_manager_that_does_not_read_stops_nothing() {
    let manager = ServiceManager::new(&Folder::new("stuck-manager"));
    fill(&manager.path);
    let log = Folder::new("stuck-manager-log");
    let stderr = File::create(log.path("stderr")).unwrap();
    let mut stuck = StuckProgram::start("stuck-notify", stderr, |command| {
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "300000");
    });
    stuck.expect_to_serve();
    wait_for("failures", || stuck.metric("pointsman_notify_failures_total") > 2);
    assert_eq!(next_stage(&manager), ["READY=1"]);
    fill(&manager.path);
    // A manager that reads again receives only the last reload.
    for _ in 0..3 {
        stuck.reload("ok");
    }
    let stage = next_stage(&manager);
    assert!(stage[0] == "RELOADING=1" && stage[1].starts_with("MONOTONIC_USEC="), "{stage:?}");
    assert_eq!(next_stage(&manager), ["READY=1"]);
    fill(&manager.path);
    let held = TcpStream::connect(stuck.address).unwrap();
    stuck.program.signal("TERM");
    wait_for("the drain", || stuck.ask("/ready").is_none());
    assert_eq!(next_stage(&manager), ["STOPPING=1"]);
    fill(&manager.path);
    stuck.expect_end_in_time(&["TERM"]);
    drop(held);
    let said = std::fs::read_to_string(log.path("stderr")).unwrap();
    let streaks = said.matches("does not take notifications").count();
    assert!((1..=4).contains(&streaks), "{said}");
}

#[test]
fn a_service_manager_may_have_an_abstract_socket() {
    let name = format!("pointsman-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let length = find_in_time(|| socket.recv(&mut buffer).ok()).expect("the program notifies");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut stuck = StuckProgram::start("abstract-notify", Stdio::null(), |command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
    });
    assert_eq!(next().trim_end(), "READY=1");
    stuck.expect_end_in_time(&["TERM"]);
    assert_eq!(next().trim_end(), "STOPPING=1");
}
