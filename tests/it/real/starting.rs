//! Starts in networks that differ from the configuration: an address that comes later or is tentative, a
//! kernel without IPv6, a kernel that refuses to watch a socket.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ChildGuard, Directory, Program, finish, run, said};
use crate::support::wait_for;

/// A namespace with two ends of a link, `near` and `far`.
struct Host(String);

impl Host {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let host = Self(format!("pointsman-start-{}-{number}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &host.0]));
        for arguments in
            ["link set lo up", "link add near type veth peer name far", "link set near up", "link set far up"]
        {
            host.ip(arguments);
        }
        host
    }

    fn ip(&self, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.0]).args(arguments.split(' ')))
    }

    /// Returns a command that runs on this host. Its process becomes that of the program.
    fn at(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn start(&self, bind: &str) -> Program {
        Program::start_by(self.at(env!("CARGO_BIN_EXE_pointsman")), Directory::new(), &config(bind))
    }

    /// Returns true if a connection from this host reaches a listener.
    fn reaches(&self, address: &str) -> bool {
        let mut socat = self.at("socat");
        finish(socat.args(["-T", "5", "-", &format!("TCP:{address},connect-timeout=5")]), b"")
            .status
            .success()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

/// Returns a listener with these keys. Its clients are accepted, and there is no backend for them.
fn config(bind: &str) -> String {
    format!(
        "[listener.main]\n{bind}\npool = \"main\"\n[pool.main]\nbackends = [\"127.0.0.1:9\"]\nhealth.check = \"off\"\n"
    )
}

/// Returns the output of the program for a configuration with which it does not start.
fn refused(command: &mut Command, bind: &str) -> String {
    let directory = Directory::new();
    let file = directory.write("config.toml", format!("access_log.to = \"off\"\n{}", config(bind)));
    let output = finish(command.arg("run").arg(file), b"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    said(&output)
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn an_address_that_comes_later_is_served_when_it_comes() {
    let host = Host::new();
    let said = refused(&mut host.at(env!("CARGO_BIN_EXE_pointsman")), "bind = \"192.0.2.50:9000\"");
    assert!(said.contains("free_bind = true") && said.contains("net.ipv4.ip_nonlocal_bind"), "{said}");
    for (bind, address, net) in [
        ("bind = \"192.0.2.50:9000\"\nfree_bind = true", "192.0.2.50:9000", "192.0.2.50/32"),
        ("bind = \"[2001:db8::50]:9000\"\nfree_bind = true", "[2001:db8::50]:9000", "2001:db8::50/128"),
    ] {
        let program = host.start(bind);
        assert!(!host.reaches(address));
        host.ip(&format!("addr add {net} dev near"));
        wait_for("the address", || host.reaches(address));
        program.stop();
    }
}

#[test]
#[ignore = "needs root and iproute2"]
fn a_tentative_address_is_waited_for() {
    let host = Host::new();
    let bind = |address: &str| format!("bind = \"[{address}]:9000\"");
    // This number of probes, one second each, gives enough time for the start.
    run(host.at("sh").args(["-c", "echo 4 >/proc/sys/net/ipv6/conf/near/dad_transmits"]));
    host.ip("addr add 2001:db8::5/64 dev near");
    let program = host.start(&bind("2001:db8::5"));
    program.log.wait_for("(they are tentative); binding waits for at most 10 s addresses={2001:db8::5}");
    // A reload waits as well, and control goes on meanwhile.
    host.ip("addr add 2001:db8::6/64 dev near");
    program.reload(&config(&bind("2001:db8::6")));
    program.log.wait_for("binding waits for at most 10 s addresses={2001:db8::6}");
    program.log.wait_for("reloaded changes=");
    // SIGTERM ends such a wait.
    host.ip("addr add 2001:db8::7/64 dev near");
    program.reload(&config(&bind("2001:db8::7")));
    program.log.wait_for("binding waits for at most 10 s addresses={2001:db8::7}");
    program.stop();
}

#[test]
#[ignore = "needs python3"]
fn without_ipv6_a_port_listens_on_what_there_is() {
    let program = env!("CARGO_BIN_EXE_pointsman");
    let without = || {
        let mut command = Command::new("python3");
        command.args(["-c", WITHOUT_IPV6, program]);
        command
    };
    let running = Program::start_by(without(), Directory::new(), &config("bind = \":0\""));
    running.log.wait_for("address=[::]:0");
    assert!(running.address("main").is_ipv4());
    // The log has the warning once, and a reload writes one more.
    running.reload(&(config("bind = \":0\"") + "[listener.other]\nbind = \":0\"\npool = \"main\"\n"));
    running.log.wait_for("reloaded changes=added listener other");
    assert!(running.address("other").is_ipv4());
    let warnings =
        running.log.lines.lock().unwrap().iter().filter(|line| line.contains("is left out")).count();
    assert_eq!(warnings, 1);
    running.stop();
    let said = refused(&mut without(), "bind = \"[::]:0\"");
    assert!(said.contains("this host has no IPv6") && said.contains("0.0.0.0:0"), "{said}");
}

/// Runs a program without IPv6: a filter of system calls refuses such sockets.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, platform, struct, sys
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
load, equal, give = 0x20, 0x15, 0x06
code = [(load, 0, 0, 0), (equal, 0, 3, number), (load, 0, 0, 16), (equal, 0, 1, 10), (give, 0, 0, 0x00050000 | 97),
        (give, 0, 0, 0x7FFF0000)]
buffer = b"".join(struct.pack("HBBI", *line) for line in code)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(Filter(len(code), buffer)), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
#[ignore = "needs root and strace"]
fn a_socket_that_cannot_be_watched_is_tried_again() {
    let program = Program::start(&config("bind = \"127.0.0.1:0\""));
    let trace = program.directory.file("trace");
    let pid = program.process.0.id().to_string();
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-e",
        "trace=epoll_ctl",
        "-e",
        "inject=epoll_ctl:error=ENOSPC",
        "-p",
        &pid,
        "-o",
    ]);
    let strace = ChildGuard::spawn(strace.arg(&trace).stdin(Stdio::null()).stderr(Stdio::null()));
    wait_for("strace", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        tasks.into_iter().all(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    });
    let new = "[listener.new]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n";
    program.reload(&(config("bind = \"127.0.0.1:0\"") + new));
    program.log.wait_for("reloaded changes=added listener new");
    program.log.wait_for("a worker cannot watch a listening socket");
    strace.signal("INT");
    drop(strace);
    program.log.wait_for("a worker now watches a listening socket");
    let address = program.address("new");
    let stream = std::net::TcpStream::connect(address).unwrap();
    program.wait_for_record("the client of the new listener", |record| record["listener"] == "new");
    drop(stream);
    program.stop();
}
