//! The program as its operator uses it: arguments, exit codes, signals, logs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Backend, PATIENCE, own_address, wait_for};

/// A folder for one test; it is removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).stdin(Stdio::null());
    for variable in [
        "POINTSMAN_ADMIN",
        "POINTSMAN_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "RUNTIME_DIRECTORY",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn check(arguments: &[&str], code: i32, stdout: &[&str], stderr: &[&str]) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    for (stream, expected) in [(output.stdout, stdout), (output.stderr, stderr)] {
        let text = String::from_utf8(stream).unwrap();
        assert!(!expected.is_empty() || text.is_empty(), "{arguments:?} said: {text}");
        for part in expected {
            assert!(text.contains(part), "{arguments:?}: no {part} in {text}");
        }
    }
}

/// The lines that a running program has written to one of its outputs.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(crate) fn follow(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let written = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                written.0.lock().unwrap().push(line);
            }
        });
        lines
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for this many lines that contain `part`, and returns the last of them.
    pub(crate) fn wait_for_nth(&self, nth: usize, part: &str) -> String {
        let mut found = None;
        let find = || {
            found = self.all().into_iter().filter(|line| line.contains(part)).nth(nth - 1);
            found.is_some()
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(part, find)));
        assert!(result.is_ok(), "no {part} ({nth} times) in\n{}", self.all().join("\n"));
        found.unwrap()
    }

    pub(crate) fn wait_for(&self, part: &str) -> String {
        self.wait_for_nth(1, part)
    }
}

/// A running program; it is killed when dropped, if it has not ended.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) stderr: Lines,
    pub(crate) stdout: Lines,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Lines::follow(child.stderr.take().unwrap());
        let stdout = Lines::follow(child.stdout.take().unwrap());
        Self { child, stderr, stdout }
    }

    /// Starts `run` with a file, and waits until it serves.
    pub(crate) fn serve(file: &Path) -> Self {
        let program = Self::start(command(&["run"]).arg(file));
        program.stderr.wait_for("serving");
        program
    }

    /// Returns the address of a listener, by the log line about it.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let line = self.stderr.wait_for("serving");
        let name = format!("\"{listener}\": [");
        let rest = &line[line.find(&name).unwrap_or_else(|| panic!("no {name} in {line}")) + name.len()..];
        rest[..rest.find([',', ']']).unwrap()].parse().unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of the program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Sends the signal and checks that the program ends in order.
    pub(crate) fn expect_end_by(&mut self, signal: &str) {
        self.signal(signal);
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{status}:\n{}", self.stderr.all().join("\n"));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(process: &str, bind: &str, backend: SocketAddr) -> String {
    format!(
        r#"
        {process}
        workers = 2
        [listener.main]
        bind = "{bind}"
        pool = "main"
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        "#
    )
}

const OFF: &str = "access_log.to = \"off\"";

fn try_echo(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    echo_again(&mut stream)?;
    Ok(stream)
}

fn echo_again(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Makes a connection and checks that it works from end to end.
fn echo(address: SocketAddr) -> TcpStream {
    try_echo(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

// Commands that do not serve.

#[test]
fn help_and_schema_are_printed() {
    check(
        &["--help"],
        0,
        &["Usage: pointsman", "run", "check", "health", "status", "tproxy-rules", "schema", "completions"],
        &[],
    );
    check(&["run", "--help"], 0, &["SIGHUP", "--listen", "--backend"], &[]);
    let schema = run(&["schema"]);
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/config.schema.json");
    assert!(schema.stdout == fs::read(committed).unwrap());
    assert!(schema.status.success());
}

#[test]
fn rules_are_printed_for_who_needs_them() {
    let folder = Folder::new("rules");
    let text = "[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n";
    let path = folder.write("none.toml", text);
    check(&["tproxy-rules", path.to_str().unwrap()], 0, &["nothing is needed"], &[]);
    let path = folder.write("some.toml", &format!("{text}source = 'client'\n"));
    let rules = ["in: p.", "socket transparent 1 meta mark set 0x706d"];
    check(&["tproxy-rules", path.to_str().unwrap()], 0, &rules, &[]);
    // A family that no backend has may be off in the kernel.
    for (pool, v4, v6) in [
        ("backends = ['10.0.0.1:1']", true, false),
        ("backends = ['[2001:db8::1]:1']", false, true),
        ("backends = ['10.0.0.1:1', '[2001:db8::1]:1']", true, true),
        ("discover = { file = 'none.json' }", true, true),
        ("backends = ['10.0.0.1:1']\ndiscover = { file = 'none.json' }", true, true),
    ] {
        let other = "[pool.other]\nbackends = ['[::1]:1', '10.0.0.1:1']";
        let listener = "[listener.l]\nbind = ':1'\npool = 'p'";
        let path =
            folder.write("few.toml", &format!("{listener}\n[pool.p]\nsource = 'client'\n{pool}\n{other}"));
        let told = run(&["tproxy-rules", path.to_str().unwrap()]);
        assert!(told.status.success(), "{told:?}");
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(
            (told.contains("ip -4 rule add"), told.contains("ip -6 route replace")),
            (v4, v6),
            "{pool}: {told}"
        );
    }
    let path = folder.write("bad.toml", "listener = 5");
    check(&["tproxy-rules", path.to_str().unwrap()], 2, &[], &["C0104"]);
}

/// Returns the arguments of `fleet-rules` for a fleet of two nodes.
fn fleet_arguments<'a>(path: &'a str, node: &'a str, format: &'a str) -> Vec<&'a str> {
    let fleet = ["fleet-rules", path, "--vip", "10.9.9.9", "--uplink", "eth0", "--peer", "eth1"];
    [&fleet[..], &["--peers", "1=10.9.2.11", "--node", node, "--format", format]].concat()
}

#[test]
fn the_rules_of_a_fleet_are_printed_whole_or_not_at_all() {
    let folder = Folder::new("fleet");
    let text = |bind: &str| {
        format!("[listener.l]\nbind = '{bind}'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n")
    };
    let good = folder.write("good.toml", &text(":443"));
    let own = folder.write("own.toml", &text("10.9.9.9:443"));
    let [good, own] = [&good, &own].map(|path| path.to_str().unwrap());
    check(&fleet_arguments(good, "2", "sh"), 0, &["#!/bin/sh", "tcp dport { 443 }", "fwmark 0x706e"], &[]);
    check(&fleet_arguments(good, "2", "bird"), 0, &["route 0.0.0.0/0 via 10.9.2.11 bfd;"], &[]);
    check(&["fleet-rules", "--remove"], 0, &["delete table inet pointsman_fleet"], &[]);
    check(&["fleet-rules", "--remove", "--format", "bird"], 0, &["# No ring"], &[]);
    for (arguments, part) in [
        (fleet_arguments(own, "2", "sh"), "bind `:443`, because only then"),
        (fleet_arguments(good, "1", "bird"), "node 1 is this node"),
        (fleet_arguments(good, "64", "sh"), "from 1 to 63"),
        (fleet_arguments("none.toml", "2", "sh"), "none.toml"),
        (vec!["fleet-rules", good], "--vip"),
    ] {
        let output = run(&arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{output:?}");
    }
}

#[test]
fn a_wrong_usage_is_2() {
    check(&[], 2, &[], &["Usage"]);
    check(&["serve"], 2, &[], &["unrecognized subcommand"]);
    check(&["run"], 2, &[], &["required"]);
    check(&["run", "--listen", ":0"], 2, &[], &["--backend"]);
    check(&["run", "x.toml", "--listen", ":0", "--backend", "127.0.0.1:1"], 2, &[], &["cannot be used with"]);
    check(&["run", "--listen", "nowhere", "--backend", "127.0.0.1:1"], 2, &[], &["nowhere", "^"]);
    check(&["check"], 2, &[], &["FILE"]);
}

#[test]
fn a_misspelt_log_level_is_2() {
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9"];
    let output = command(&arguments).env("POINTSMAN_LOG", "warning").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\"warning\"") && text.contains("error, warn, info"), "{text}");
}

#[test]
fn output_that_nobody_reads_is_no_panic() {
    for arguments in [&["schema"][..], &["--help"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(arguments).stdout(full).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        if arguments == ["schema"] {
            assert_eq!(output.status.code(), Some(1));
            assert!(text.contains("No space left"), "{text}");
        }
    }
}

#[test]
fn a_good_file_is_good_and_nothing_is_bound() {
    let folder = Folder::new("good");
    // A program that binds this address would fail.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = file(OFF, &taken.local_addr().unwrap().to_string(), "127.0.0.1:1".parse().unwrap());
    let path = folder.write("good.toml", &text);
    check(&["check", path.to_str().unwrap()], 0, &[": good: 1 listener, 1 pool, 1 backend\n"], &[]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    // Another program writes the discovery file of the example.
    check(&["check", example], 0, &["good"], &["queue.json", "1 warning"]);
}

#[test]
fn a_bad_file_is_2_with_all_its_faults() {
    let folder = Folder::new("bad");
    let own = own_address();
    let text = format!(
        r#"
        [listener.good]
        bind = "{own}"
        pool = "main"
        [listener.bad]
        bnd = "127.0.0.1:0"
        pool = "mian"
        [pool.main]
        backends = ["127.0.0.1:1", "nonsense"]
        "#
    );
    let path = folder.write("bad.toml", &text);
    let path = path.to_str().unwrap();
    let faults = ["bad.toml:6", "`bnd`", "did you mean `bind`", "\"mian\"", "nonsense", "^^^", "3 faults"];
    check(&["check", path], 2, &[], &faults);
    check(&["run", path], 2, &[], &faults);
}

#[test]
fn a_missing_file_is_2() {
    let folder = Folder::new("missing");
    let path = folder.path("nowhere.toml");
    let path = path.to_str().unwrap();
    check(&["check", path], 2, &[], &["nowhere.toml", "there is no such file"]);
    check(&["run", path], 2, &[], &["nowhere.toml", "there is no such file"]);
}

#[test]
fn a_port_in_use_is_1_and_named() {
    let folder = Folder::new("in-use");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = folder.write("in-use.toml", &file(OFF, &address, "127.0.0.1:1".parse().unwrap()));
    check(&["run", path.to_str().unwrap()], 1, &[], &[&address, "in use", "choose another port"]);
    let one_liner = ["run", "--listen", &address, "--backend", "127.0.0.1:1"];
    check(&one_liner, 1, &[], &[&address, "in use"]);
}

#[test]
fn an_access_log_that_cannot_be_opened_is_1_and_named() {
    let folder = Folder::new("no-log");
    let log = "access_log.to = \"/nowhere/at/all.log\"";
    let path = folder.write("no-log.toml", &file(log, "127.0.0.1:0", "127.0.0.1:1".parse().unwrap()));
    check(&["run", path.to_str().unwrap()], 1, &[], &["/nowhere/at/all.log", "No such file"]);
}

#[test]
fn nobody_there_is_not_healthy() {
    let nobody = own_address().to_string();
    check(&["health", "--admin", &nobody], 1, &[], &[&nobody, "is pointsman running"]);
    check(&["health", "--ready", "--admin", &nobody], 1, &[], &[&nobody]);
    check(&["status", "--admin", &nobody], 1, &[], &[&nobody]);
}

// The serving program.

#[test]
fn a_one_liner_serves_and_writes_its_access_log_to_stdout() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let backends = [a.address.to_string(), b.address.to_string()];
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", &backends[0], "--backend", &backends[1]];
    let mut program = Program::start(&mut command(&arguments));
    let address = program.address("main");
    let client = echo(address);
    let own = client.local_addr().unwrap().to_string();
    drop(client);
    drop(echo(address));
    program.stdout.wait_for_nth(2, "\"listener\":\"main\"");
    let line = program.stdout.wait_for(&own);
    let record: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(record["client"], own);
    for bytes in ["from_client_bytes", "from_backend_bytes"] {
        assert_eq!(record[bytes], 5, "{line}");
    }
    assert!(backends.iter().any(|backend| record["backend"] == **backend), "{line}");
    for line in program.stdout.all() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).unwrap().is_object());
    }
    program.signal("HUP");
    program.stderr.wait_for("started without one");
    drop(echo(address));
    program.expect_end_by("TERM");
}

#[test]
fn signals_to_end_drain_first() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new(signal);
        let backend = Backend::echo();
        let path = folder.write("drain.toml", &file(OFF, "127.0.0.1:0", backend.address));
        let mut program = Program::serve(&path);
        let address = program.address("main");
        let mut open = echo(address);
        program.signal(signal);
        wait_for("refusal", || TcpStream::connect(address).is_err());
        echo_again(&mut open).unwrap();
        assert_eq!(program.child.try_wait().unwrap(), None, "it drains");
        drop(open);
        assert_eq!(program.end().code(), Some(0), "{signal}");
        program.stderr.wait_for("every connection has ended");
    }
}

#[test]
fn a_second_signal_ends_the_drain() {
    let folder = Folder::new("second");
    let backend = Backend::echo();
    let process = format!("{OFF}\nshutdown.drain = \"1h\"");
    let path = folder.write("second.toml", &file(&process, "127.0.0.1:0", backend.address));
    let mut program = Program::serve(&path);
    let mut open = echo(program.address("main"));
    program.signal("TERM");
    program.stderr.wait_for("stopping");
    program.expect_end_by("TERM");
    assert!(open.read(&mut [0]).is_err(), "what was open is reset");
}

#[test]
fn a_hangup_reloads_the_file_and_a_bad_file_changes_nothing() {
    let folder = Folder::new("reload");
    let backend = Backend::echo();
    let extra = own_address();
    let one = file(OFF, "127.0.0.1:0", backend.address);
    let two = format!("{one}\n[listener.extra]\nbind = \"{extra}\"\npool = \"main\"\n");
    let path = folder.write("reload.toml", &one);
    let mut program = Program::serve(&path);
    let address = program.address("main");
    let mut open = echo(address);

    folder.write("reload.toml", &two);
    program.signal("HUP");
    let line = program.stderr.wait_for("reloaded");
    assert!(line.contains("added listener extra"), "{line}");
    drop(echo(extra));

    for (nth, bad) in
        [two.replace("pool = \"main\"", "pool = \"mian\""), "[listener".to_owned()].iter().enumerate()
    {
        folder.write("reload.toml", bad);
        program.signal("HUP");
        program.stderr.wait_for_nth(nth + 1, "not reloaded; the running configuration stays");
        drop((echo(address), echo(extra)));
    }
    program.stderr.wait_for("mian");

    fs::remove_file(&path).unwrap();
    program.signal("HUP");
    program.stderr.wait_for("there is no such file");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    folder.write("reload.toml", &two.replace(&extra.to_string(), &in_use));
    program.signal("HUP");
    program.stderr.wait_for(&in_use);
    drop((echo(address), echo(extra)));

    folder.write("reload.toml", &one);
    program.signal("HUP");
    program.stderr.wait_for("removed listener extra");
    assert!(TcpStream::connect(extra).is_err());
    echo_again(&mut open).unwrap();
    drop((open, echo(address)));
    program.expect_end_by("TERM");
}

#[test]
fn a_rotated_access_log_is_opened_again() {
    let folder = Folder::new("rotate");
    let backend = Backend::echo();
    let (log, old) = (folder.path("access.log"), folder.path("access.log.1"));
    let process = format!("access_log.to = {log:?}");
    let path = folder.write("rotate.toml", &file(&process, "127.0.0.1:0", backend.address));
    let mut program = Program::serve(&path);
    let address = program.address("main");
    let lines = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    drop(echo(address));
    wait_for("the first line", || lines(&log) == 1);
    fs::rename(&log, &old).unwrap();
    drop(echo(address));
    wait_for("a line in the file of another name", || lines(&old) == 2);
    program.signal("USR1");
    program.stderr.wait_for("opened again");
    drop(echo(address));
    wait_for("a line in the new file", || lines(&log) == 1);
    assert_eq!(lines(&old), 2);
    drop(echo(address));
    program.expect_end_by("TERM");
    assert_eq!(lines(&log), 2, "the end writes what is queued");
}

#[test]
fn a_full_disk_under_the_logs_stops_nobody() {
    let folder = Folder::new("full");
    let backend = Backend::echo();
    let process = "access_log.to = \"/dev/full\"";
    let path = folder.write("full.toml", &file(process, "127.0.0.1:0", backend.address));
    let mut program = Program::serve(&path);
    let address = program.address("main");
    drop(echo(address));
    let line = program.stderr.wait_for("access log: cannot write");
    assert!(line.contains("No space left"), "{line}");
    for _ in 0..20 {
        drop(echo(address));
    }
    program.expect_end_by("TERM");
}

/// The program's own log may be on that disk too.
#[test]
fn a_full_disk_under_standard_error_stops_nobody() {
    let folder = Folder::new("full-stderr");
    let backend = Backend::echo();
    let bind = own_address();
    let path = folder.write("full.toml", &file(OFF, &bind.to_string(), backend.address));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let manager = ServiceManager::new(&folder);
    let mut command = command(&["run"]);
    command.arg(&path).env("NOTIFY_SOCKET", &manager.path).stdout(Stdio::null()).stderr(full);
    let child = command.spawn().unwrap();
    let mut program = Program { child, stderr: Lines::default(), stdout: Lines::default() };
    assert_eq!(manager.receive(), ["READY=1"]);
    let stream = echo(bind);
    // Each of these events writes to the log.
    program.signal("HUP");
    program.signal("USR1");
    for _ in 0..5 {
        drop(echo(bind));
    }
    drop(stream);
    program.expect_end_by("TERM");
}

// systemd.

/// A service manager that receives the messages of the program.
pub(crate) struct ServiceManager {
    pub(crate) socket: UnixDatagram,
    pub(crate) path: PathBuf,
}

impl ServiceManager {
    pub(crate) fn new(folder: &Folder) -> Self {
        // The socket is here and not in the folder of the target, whose path may be too long: a socket's path
        // has 108 bytes.
        let path =
            std::env::temp_dir().join(format!("pointsman-{}", folder.0.file_name().unwrap().display()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    pub(crate) fn receive(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let n = self.socket.recv(&mut buffer).expect("the program says something");
        String::from_utf8(buffer[..n].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// Returns the next message that is not from the watchdog.
    fn receive_but_watchdog(&self) -> Vec<String> {
        loop {
            let words = self.receive();
            if words != ["WATCHDOG=1"] {
                return words;
            }
        }
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn a_service_manager_hears_of_every_stage() {
    let folder = Folder::new("notify");
    let backend = Backend::echo();
    let path = folder.write("notify.toml", &file(OFF, "127.0.0.1:0", backend.address));
    let manager = ServiceManager::new(&folder);
    let mut program = Program::start(command(&["run"]).arg(&path).env("NOTIFY_SOCKET", &manager.path));
    assert_eq!(manager.receive(), ["READY=1"]);
    drop(echo(program.address("main")));
    for text in [file(OFF, "127.0.0.1:0", backend.address), "broken".to_owned()] {
        folder.write("notify.toml", &text);
        program.signal("HUP");
        let words = manager.receive();
        assert_eq!(words[0], "RELOADING=1");
        // By this value, a manager that waits for the end of a reload distinguishes its signal from an
        // earlier one.
        let moment = words.get(1).and_then(|word| word.strip_prefix("MONOTONIC_USEC="));
        let moment: u64 = moment.unwrap_or_else(|| panic!("no moment in {words:?}")).parse().unwrap();
        assert!(moment > 0);
        assert_eq!(manager.receive(), ["READY=1"], "also of a reload that failed");
    }
    program.signal("TERM");
    assert_eq!(manager.receive(), ["STOPPING=1"]);
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn a_watchdog_is_fed_while_it_serves_and_drains() {
    let folder = Folder::new("watchdog-of-a-service");
    let backend = Backend::echo();
    let path = folder.write("watchdog.toml", &file(OFF, "127.0.0.1:0", backend.address));
    let manager = ServiceManager::new(&folder);
    let mut command = command(&["run"]);
    command.arg(&path).env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2500000");
    let mut program = Program::start(&mut command);
    assert_eq!(manager.receive(), ["READY=1"]);
    for _ in 0..3 {
        assert_eq!(manager.receive(), ["WATCHDOG=1"]);
    }
    let open = echo(program.address("main"));
    program.signal("TERM");
    assert_eq!(manager.receive_but_watchdog(), ["STOPPING=1"]);
    for _ in 0..2 {
        assert_eq!(manager.receive(), ["WATCHDOG=1"]);
    }
    drop(open);
    assert_eq!(program.end().code(), Some(0));
    let said = program.stderr.all().join("\n");
    assert!(!said.contains("does not respond"), "{said}");
}
