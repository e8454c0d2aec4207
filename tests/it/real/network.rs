//! Client, program and backend on three machines, as far as the kernel is concerned: network namespaces
//! with links between them that can be cut.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Directory, Guarded, Program, run};
use crate::support::{pattern, wait_for};

/// Three namespaces: client `10.77.1.2` and `fd77:1::2`, program `.1` on both links, backend `10.77.2.2`.
struct Network {
    prefix: String,
}

impl Network {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("pointsman-{}-{number}", std::process::id()) };
        for place in ["client", "program", "backend"] {
            run(Command::new("ip").args(["netns", "add", &network.name(place)]));
            network.ip(place, "link set lo up");
        }
        for (link, place) in [(1, "client"), (2, "backend")] {
            let there = network.name(place);
            network.ip("program", &format!("link add to-{place} type veth peer name line netns {there}"));
            for (at, device, end) in [("program", format!("to-{place}"), 1), (place, "line".to_owned(), 2)] {
                network.ip(at, &format!("addr add 10.77.{link}.{end}/24 dev {device}"));
                network.ip(at, &format!("addr add fd77:{link}::{end}/64 dev {device} nodad"));
                network.ip(at, &format!("link set {device} up"));
            }
        }
        network
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    fn ip(&self, place: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(place)]).args(arguments.split(' ')));
    }

    /// A command that runs in a place; its process becomes the program's.
    fn at(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    fn cut(&self, place: &str) {
        self.ip(place, "link set line down");
    }

    fn mend(&self, place: &str) {
        self.ip(place, "link set line up");
    }

    /// The program, in front of what `socat` serves at the backend's port 9001.
    fn program(&self, listener: &str, served: &[&str]) -> (Program, Guarded) {
        let mut socat = self.at("backend", "socat");
        socat.args(served).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let backend = Guarded::spawn(&mut socat);
        wait_for("the backend", || {
            !run(self.at("backend", "ss").args(["-Hltn", "sport", "=", ":9001"])).is_empty()
        });
        let config = format!(
            "[listener.main]\nbind = \":9000\"\npool = \"main\"\n{listener}\n\
             [pool.main]\nbackends = [\"10.77.2.2:9001\"]\nhealth.check = \"off\"\n"
        );
        let program = self.at("program", env!("CARGO_BIN_EXE_pointsman"));
        (Program::start_by(program, Directory::new(), &config), backend)
    }

    /// A client; what it gets and gives are its process's input and output.
    fn client(&self, address: &str) -> Client {
        let mut socat = self.at("client", "socat");
        socat
            .args(["-t", "60", "-", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Guarded::spawn(&mut socat);
        let (to, from) = (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
        Client { process, to, from }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in ["client", "program", "backend"] {
            let _ =
                Command::new("ip").args(["netns", "del", &self.name(place)]).stderr(Stdio::null()).status();
        }
    }
}

struct Client {
    process: Guarded,
    to: ChildStdin,
    from: ChildStdout,
}

impl Client {
    fn greet(&mut self) {
        self.to.write_all(b"are you there").unwrap();
        let mut answer = [0; 13];
        self.from.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"are you there");
    }
}

const PROGRAM: &str = "TCP:10.77.1.1:9000";
// One connection each, in one process: a child that talks to a vanished peer would outlive its parent.
// In blocks of a page: a larger one does not always fit into a pipe that select calls writable, and socat
// then waits for itself.
const ECHO: &[&str] = &["-b", "4096", "TCP4-LISTEN:9001,reuseaddr", "PIPE"];
const ENDLESS: &[&str] = &["-U", "TCP4-LISTEN:9001,reuseaddr", "OPEN:/dev/zero,rdonly"];

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn both_families_are_bound_side_by_side() {
    let network = Network::new();
    let (program, _backend) = network.program("", &["TCP4-LISTEN:9001,reuseaddr,fork", "PIPE"]);
    for address in [PROGRAM, "TCP6:[fd77:1::1]:9000"] {
        network.client(address).greet();
    }
    for source in ["10.77.1.2:", "[fd77:1::2]:"] {
        program.wait_for_record(source, |record| record["client"].as_str().unwrap().starts_with(source));
    }
    program.stop();
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_blackout_only_delays() {
    for engine in ["copy", "splice"] {
        let network = Network::new();
        let (program, _backend) = network.program(&format!("engine = \"{engine}\""), ECHO);
        let Client { mut process, mut to, mut from } = network.client(PROGRAM);
        // More than all the buffers on the way can hold.
        let sent = pattern(64 << 20, 3);
        let mut received = vec![0; 4 << 20];
        thread::scope(|scope| {
            scope.spawn(|| {
                to.write_all(&sent).unwrap();
                drop(to);
            });
            from.read_exact(&mut received).unwrap();
            network.cut("backend");
            let begin = Instant::now();
            let rest = &mut received;
            let resumed = scope.spawn(move || {
                from.read_to_end(rest).unwrap();
                begin.elapsed()
            });
            wait_for("the end of the blackout", || begin.elapsed() > Duration::from_secs(3));
            assert!(!resumed.is_finished());
            network.mend("backend");
            let took = resumed.join().unwrap();
            assert!(took > Duration::from_secs(3) && took < Duration::from_secs(30), "{took:?}");
        });
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
        assert!(process.wait().success());
        program.wait_for_record("the end", |record| record["close"] == "client_fin");
        program.stop();
    }
}

/// Cuts a link for good when some bytes have come, and waits for the reason.
fn check_vanished(listener: &str, served: &[&str], place: &str, close: &str) -> Value {
    let network = Network::new();
    let (program, _backend) = network.program(listener, served);
    let mut client = network.client(PROGRAM);
    if served == ECHO {
        client.greet();
    } else {
        client.from.read_exact(&mut vec![0; 1 << 20]).unwrap();
    }
    network.cut(place);
    let record = program.wait_for_record(close, |record| record["close"] == close);
    program.stop();
    record
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_client_is_noticed_by_unacknowledged_bytes() {
    for engine in ["copy", "splice"] {
        let listener = format!("user_timeout = \"2s\"\nkeepalive = \"off\"\nengine = \"{engine}\"");
        let record = check_vanished(&listener, ENDLESS, "client", "client_vanished");
        assert_eq!(record["closed_by"], "client");
        let took = record["total_seconds"].as_f64().unwrap();
        assert!((2.0..12.0).contains(&took), "{took}");
    }
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_client_is_noticed_by_keepalive() {
    check_vanished("user_timeout = \"2s\"\nkeepalive = \"4s\"", ECHO, "client", "client_vanished");
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_backend_is_noticed_by_keepalive() {
    // The backend's socket gets its options some seconds after the start.
    check_vanished("user_timeout = \"2s\"\nkeepalive = \"4s\"", ECHO, "backend", "backend_vanished");
}
