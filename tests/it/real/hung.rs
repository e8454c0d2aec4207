//! File systems that no longer answer. A FUSE mount whose server answers no request stands for a network
//! server that is gone. It is mounted over files that the program has read before.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use pointsman::admin;

use super::{ChildGuard, Directory, Lines, Program};
use crate::support::{Backend, PATIENCE, wait_for};

/// Mounts a file system that does not answer, until its standard input ends.
const MOUNT: &str = r#"
import ctypes, os, sys
device = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"gone", sys.argv[1].encode(), b"fuse", 0, options) != 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
sys.stdin.read()
"#;

/// A program in a mount namespace of its own, with some of its files in the directory `far`.
struct HungProgram {
    program: Program,
    /// The process of the mount; the file system hangs while it runs.
    mount: Option<ChildGuard>,
}

impl HungProgram {
    /// Starts the program with these files in `far`.
    fn start(config: &str, files: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_pointsman")]);
        Self::start_by(command, directory, config, files)
    }

    fn start_by(command: Command, directory: Directory, config: &str, files: &[(&str, &str)]) -> Self {
        Self::start_with(command, directory, "", config, files)
    }

    fn start_with(
        command: Command,
        directory: Directory,
        admin: &str,
        config: &str,
        files: &[(&str, &str)],
    ) -> Self {
        fs::create_dir_all(directory.file("far")).unwrap();
        for (name, text) in files {
            directory.write(&format!("far/{name}"), text);
        }
        let backend = Backend::echo().address;
        let common = format!("[pool.p]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n");
        Self {
            program: Program::start_with(command, directory, admin, &format!("{common}{config}")),
            mount: None,
        }
    }

    /// Makes all later calls for files in `far` hang.
    fn hang(&mut self) {
        let pid = self.program.process.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "python3", "-c", MOUNT]);
        command.arg(self.program.directory.file("far")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mount = ChildGuard::spawn(&mut command);
        Lines::follow(mount.0.stdout.take().unwrap()).wait_for("mounted");
        self.mount = Some(mount);
    }

    /// Returns the number of threads of the program that wait for the file system.
    fn waiting(&self) -> usize {
        let threads = fs::read_dir(format!("/proc/{}/task", self.program.process.0.id())).unwrap();
        let waits = |path: &Path| fs::read_to_string(path.join("wchan")).is_ok_and(|at| at.contains("fuse"));
        threads.filter(|thread| waits(&thread.as_ref().unwrap().path())).count()
    }

    fn serves(&self, listener: SocketAddr) {
        let mut client = TcpStream::connect(listener).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }

    fn health(&self) {
        assert_eq!(admin::ask(self.program.admin, "/healthz", PATIENCE).unwrap().0, 200);
    }

    /// Checks that the program serves, reloads, and ends at SIGTERM.
    fn expect_life(mut self, threads: usize) {
        let listener = self.program.address("l");
        wait_for("a thread that waits", || self.waiting() >= threads);
        self.health();
        self.serves(listener);
        for _ in 0..3 {
            self.program.process.signal("HUP");
        }
        self.health();
        self.serves(listener);
        assert_eq!(self.waiting(), threads, "of each file one call is under way");
        self.program.process.signal("TERM");
        assert_eq!(self.program.process.wait().code(), Some(0), "{:?}", self.program.log.lines);
    }
}

const LISTENER: &str = "[listener.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n";

fn check(config: &str, file: (&str, &str)) {
    let mut hung = HungProgram::start(config, &[file]);
    hung.hang();
    hung.expect_life(1);
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn control_goes_on_without_the_file_of_a_list() {
    let config = format!("{LISTENER}deny = \"drop\"\n[list.drop]\nfile = \"far/drop.txt\"\n");
    check(&config, ("drop.txt", "203.0.113.0/24\n"));
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn control_goes_on_without_a_file_of_routes() {
    check(&format!("{LISTENER}routes_file = \"far/r.toml\"\n"), ("r.toml", "routes = []\n"));
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn control_goes_on_without_a_file_of_discovery() {
    let config = format!("{LISTENER}[pool.q]\ndiscover.file = \"far/b.json\"\n");
    check(&config, ("b.json", r#"{"version": 1, "backends": []}"#));
}

/// More files hang than the runtime has threads by default, and a further file is read all the same.
#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn many_files_that_hang_take_no_thread_from_others() {
    const FILES: usize = 600;
    let mut config = format!("{LISTENER}deny = \"near\"\n[list.near]\nfile = \"near.txt\"\n");
    for number in 0..FILES {
        writeln!(config, "[pool.q{number}]\ndiscover.file = \"far/{number}.json\"").unwrap();
    }
    let directory = Directory::new();
    directory.write("near.txt", "203.0.113.1\n");
    fs::create_dir(directory.file("far")).unwrap();
    for number in 0..FILES {
        directory.write(&format!("far/{number}.json"), r#"{"version": 1, "backends": []}"#);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_pointsman")]);
    let mut hung = HungProgram::start_by(command, directory, &config, &[]);
    hung.hang();
    wait_for("a thread for each file", || hung.waiting() == FILES);
    hung.program.directory.write("near.txt", "203.0.113.1\n203.0.113.2\n");
    hung.program.log.wait_for("the list was read again");
    hung.expect_life(FILES);
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn admin_says_that_the_token_cannot_be_read() {
    let directory = Directory::new();
    let token = directory.file("far/token");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_pointsman")]);
    let keys = format!("token_file = {token:?}\ntoken_for = \"changes\"\n");
    let mut hung =
        HungProgram::start_with(command, directory, &keys, LISTENER, &[("token", "0123456789abcdef\n")]);
    hung.hang();
    let ask = || {
        let mut change = TcpStream::connect(hung.program.admin).unwrap();
        change.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            "POST /api/v1/lists/bad/10.0.0.1 HTTP/1.0\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n";
        change.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        change.read_to_string(&mut answer).unwrap();
        answer
    };
    for _ in 0..2 {
        let answer = ask();
        assert!(answer.starts_with("HTTP/1.0 500"), "{answer}");
    }
    hung.program.log.wait_for("its file system did not answer within 2 s");
    assert_eq!(hung.waiting(), 1, "the second request has waited without a thread");
    hung.expect_life(1);
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn an_access_log_that_is_opened_again_delays_nothing() {
    let directory = Directory::new();
    let log = directory.file("far/access.log");
    fs::create_dir(directory.file("far")).unwrap();
    std::os::unix::fs::symlink(log, directory.file("access.log")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_pointsman")]);
    let mut hung = HungProgram::start_by(command, directory, LISTENER, &[("access.log", "")]);
    hung.hang();
    hung.program.process.signal("USR1");
    hung.expect_life(1);
}

#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn control_goes_on_without_the_files_of_the_resolver() {
    let directory = Directory::new();
    let (etc, far) = (directory.file("etc"), directory.file("far"));
    fs::create_dir(&etc).unwrap();
    std::os::unix::fs::symlink(far.join("resolv.conf"), etc.join("resolv.conf")).unwrap();
    directory.write("etc/hosts", "127.0.0.1 localhost\n");
    let mut command = Command::new("unshare");
    let run = format!("mount --bind {etc:?} /etc && exec {} \"$@\"", env!("CARGO_BIN_EXE_pointsman"));
    command.args(["--mount", "--propagation", "private", "sh", "-c", &run, "pointsman"]);
    let discover = "discover = { dns = \"app.test\", port = 1, min_ttl = \"1s\", max_ttl = \"1s\" }";
    let config = format!("[process]\nlandlock = false\n{LISTENER}[pool.q]\n{discover}\n");
    // No DNS server listens there.
    let mut hung =
        HungProgram::start_by(command, directory, &config, &[("resolv.conf", "nameserver 127.0.0.1\n")]);
    hung.hang();
    hung.expect_life(1);
}

/// Starts the program with a backend on a Unix socket in `far`. Returns the program, the listener `u` of that
/// backend, and the socket of the backend.
fn with_unix_backend() -> (HungProgram, SocketAddr, UnixListener) {
    let directory = Directory::new();
    fs::create_dir(directory.file("far")).unwrap();
    let socket = directory.file("far/backend.sock");
    let backend = UnixListener::bind(&socket).unwrap();
    let config = format!(
        "{LISTENER}[listener.u]\nbind = \"127.0.0.1:0\"\npool = \"u\"\n\
         [pool.u]\nbackends = [\"unix:{}\"]\nhealth = {{ interval = \"200ms\", timeout = \"200ms\" }}\n\
         connect_timeout = \"500ms\"\ndial_timeout = \"1s\"\n",
        socket.display()
    );
    let hung = HungProgram::start_by(in_own_namespace(), directory, &config, &[]);
    let listener = hung.program.address("u");
    (hung, listener, backend)
}

fn in_own_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_pointsman")]);
    command
}

/// Connects of clients and of checks wait on one thread, and fail at their timeouts.
#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn workers_go_on_without_the_directory_of_a_unix_backend() {
    let (mut hung, listener, _backend) = with_unix_backend();
    hung.hang();
    for _ in 0..8 {
        let mut client = TcpStream::connect(listener).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Once the backend is down, the client may be reset before it writes.
        let _ = client.write_all(b"hello");
        let refused = client.read(&mut [0; 5]);
        assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
        hung.serves(hung.program.address("l"));
    }
    hung.program.log.wait_for("backend down");
    hung.expect_life(1);
}

/// A reload that removes a Unix socket waits one second for its file. A reload that adds a socket does not
/// block the control loop.
#[test]
#[ignore = "needs root, unshare, nsenter and python3"]
fn control_goes_on_without_the_directories_of_unix_listeners() {
    let directory = Directory::new();
    let socket = |name: &str| format!("unix:{}", directory.file(&format!("far/{name}")).display());
    let unix = |name: &str| format!("[listener.{name}]\nbind = {:?}\npool = \"p\"\n", socket(name));
    let (old, new) = (unix("old"), unix("new"));
    let mut hung = HungProgram::start_by(in_own_namespace(), directory, &format!("{LISTENER}{old}"), &[]);
    hung.hang();
    let write = |hung: &HungProgram, more: &str| {
        let path = hung.program.directory.file("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        let kept = text.split("[listener.old]").next().unwrap().split("[listener.new]").next().unwrap();
        fs::write(&path, format!("{kept}{more}")).unwrap();
        hung.program.process.signal("HUP");
    };
    write(&hung, "");
    hung.program.log.wait_for("removed listener old");
    let listener = hung.program.address("l");
    hung.serves(listener);
    write(&hung, &new);
    wait_for("two threads that wait", || hung.waiting() == 2);
    hung.health();
    hung.serves(listener);
    hung.program.process.signal("TERM");
    assert_eq!(hung.program.process.wait().code(), Some(0), "{:?}", hung.program.log.lines);
    hung.program.log.wait_for("not reloaded: the process is about to end");
}
