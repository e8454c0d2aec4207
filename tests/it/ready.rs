//! The readiness of a node: `leave --wait`, and the pools that a node needs. The real program, asked by its commands.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};

use pointsman::admin;
use pointsman::sys::Address;
use serde_json::Value;

use crate::process::{Folder, Program, command};
use crate::support::pair::{expect_end, patient};
use crate::support::{Backend, PATIENCE, own_address, wait_for};

/// A program with an admin socket.
struct Node {
    folder: Folder,
    program: Program,
}

impl Node {
    fn start(test: &str, text: &str) -> Self {
        let folder = Folder::new(test);
        let program = Program::serve(&write(&folder, text));
        Self { folder, program }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path("admin.sock")
    }

    /// Returns a command for this node.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("POINTSMAN_ADMIN", format!("unix:{}", self.socket().display()));
        command
    }

    /// Runs a command to its end, and checks its exit code and its output.
    #[track_caller]
    fn run(&self, arguments: &[&str], code: i32, parts: &[&str]) {
        check(&self.command(arguments).output().unwrap(), code, parts);
    }

    fn page(&self, path: &str) -> (u16, String) {
        admin::ask(Address::Unix(self.socket().into()), path, PATIENCE).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.page("/api/v1/status").1).unwrap()
    }

    /// Waits until this is the reason, and checks that all interfaces show it.
    #[track_caller]
    fn wait_for_reason(&self, reason: &str, answer: &str) {
        wait_for(answer, || self.page("/ready").1 == format!("{answer}\n"));
        let is_ready = reason == "ready";
        assert_eq!(self.page("/ready").0, if is_ready { 200 } else { 503 });
        self.run(&["health", "--ready"], if is_ready { 0 } else { 1 }, &[answer]);
        let (_, metrics) = self.page("/metrics");
        let mut series = 0;
        for line in metrics.lines().filter_map(|line| line.strip_prefix("pointsman_ready{reason=\"")) {
            let (word, value) = line.split_once("\"} ").unwrap();
            assert_eq!(value, if word == reason { "1" } else { "0" }, "{line}");
            series += 1;
        }
        assert_eq!(series, 6, "{metrics}");
        let status = self.status();
        let shown = &status["readiness"];
        assert_eq!((&shown["ready"], &shown["reason"]), (&is_ready.into(), &reason.into()), "{shown}");
        assert_eq!(
            (&shown["text"], shown["since"].is_null()),
            (&answer.into(), reason != "needs"),
            "{shown}"
        );
    }

    /// Returns the texts of the problems and the names of their alerts.
    fn problems(&self) -> String {
        let text = |problem: &Value| format!("{}: {} {}", problem["name"], problem["text"], problem["alert"]);
        self.status()["problems"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("\n")
    }
}

fn write(folder: &Folder, text: &str) -> PathBuf {
    let socket = folder.path("admin.sock");
    let admin = format!("[admin]\nlisten = \"unix:{}\"\n", socket.display());
    folder.write("config.toml", &format!("workers = 2\naccess_log.to = \"off\"\n{text}\n{admin}"))
}

#[track_caller]
fn check(output: &Output, code: i32, parts: &[&str]) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part} in {said}");
    }
}

/// Two listeners in front of one backend.
fn two_listeners(backend: SocketAddr) -> String {
    format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n\
         [listener.other]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n\
         [pool.main]\nhealth.check = \"off\"\nbackends = [\"{backend}\"]\n"
    )
}

/// Connects to a listener, and waits until the connection is relayed.
fn connect(node: &Node, listener: &str) -> TcpStream {
    let mut client = patient(TcpStream::connect(node.program.address(listener)).unwrap());
    echo(&mut client);
    client
}

fn echo(client: &mut TcpStream) {
    use std::io::{Read, Write};
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_leave_waits_for_the_last_connection() {
    let backend = Backend::echo();
    let node = Node::start("leave-wait", &two_listeners(backend.address));
    node.wait_for_reason("ready", "ready");
    let mut clients = vec![connect(&node, "other"), connect(&node, "main"), connect(&node, "other")];
    node.run(
        &["leave", "--wait", "10ms"],
        1,
        &[
            "/ready answers 503, and all else goes on; 3 connections stay open",
            "3 connections are still open (2 of listener other, 1 of listener main), and the change stays in force",
            "`pointsman join` ends the leave",
        ],
    );
    node.wait_for_reason("leaving", "leaving");
    let mut waiting = Program::start(&mut node.command(&["leave", "--wait"]));
    waiting.stdout.wait_for("instead of an earlier change");
    // All else goes on: open connections, and new ones.
    clients.push(connect(&node, "main"));
    clients.iter_mut().for_each(echo);
    assert!(waiting.child.try_wait().unwrap().is_none(), "it waits");
    drop(clients);
    assert_eq!(waiting.end().code(), Some(0));
    waiting.stdout.wait_for("no connection is open");
    node.run(&["leave", "--wait", "1h"], 0, &["no connection is open"]);
    node.run(&["join"], 0, &["this process no longer leaves"]);
    node.wait_for_reason("ready", "ready");
}

/// A process that has ended has no connection. A stop, as of a service manager, closes the admin listener; a kill leaves the
/// file of its socket.
#[test]
fn the_end_of_the_process_ends_the_wait() {
    for signal in ["KILL", "TERM"] {
        let backend = Backend::echo();
        let text = format!("shutdown.drain = \"0s\"\n{}", two_listeners(backend.address));
        let node = Node::start(&format!("leave-{signal}"), &text);
        let client = connect(&node, "main");
        let mut waiting = Program::start(&mut node.command(&["leave", "--wait"]));
        waiting.stdout.wait_for("1 connection stays open");
        node.program.signal(signal);
        assert_eq!(waiting.end().code(), Some(0), "{signal}: {:?}", waiting.stderr.all());
        waiting.stdout.wait_for("the admin listener is closed: the process has ended, or it drains");
        let _ = std::io::Read::read(&mut &client, &mut [0]);
    }
}

#[test]
fn a_leave_that_ends_meanwhile_is_no_success() {
    let backend = Backend::echo();
    let node = Node::start("leave-joined", &two_listeners(backend.address));
    let client = connect(&node, "main");
    let mut waiting = Program::start(&mut node.command(&["leave", "--wait"]));
    waiting.stdout.wait_for("1 connection stays open");
    node.run(&["join"], 0, &["no longer leaves"]);
    assert_eq!(waiting.end().code(), Some(1));
    waiting.stderr.wait_for("the change was ended meanwhile");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect_end(client);
}

#[test]
fn a_leave_without_an_admin_listener_says_how_to_set_one() {
    let folder = Folder::new("leave-alone");
    let socket = format!("unix:{}", folder.path("admin.sock").display());
    let output = command(&["leave", "--wait", "--admin", &socket]).output().unwrap();
    let way = "`[admin] listen = \"unix:/run/pointsman/admin.sock\"` in its configuration or `run --admin ADDRESS` sets one";
    check(&output, 1, &[&format!("cannot query {socket}: "), way]);
    check(&command(&["leave", "--wait", "soon"]).output().unwrap(), 2, &["write a time such as 10m"]);
}

/// A configuration whose only pool is needed. Its backend counts as down after one failed check.
fn needing(backend: SocketAddr, floor: &str) -> String {
    format!(
        "ready_needs = \"main\"\nready_needs_after = \"100ms\"\nready_floor = \"{floor}\"\n\
         [listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n\
         [pool.main]\nbackends = [\"{backend}\"]\n\
         health = {{ interval = \"50ms\", timeout = \"50ms\", fall = 1, rise = 1 }}\n"
    )
}

/// Backends count as available before their first check. The node is not ready nevertheless, without a wait.
#[test]
fn a_node_with_a_dead_pool_is_not_ready_after_its_start() {
    let address = own_address();
    let config = needing(address, "2h").replace("after = \"100ms\"", "after = \"1h\"");
    let node = Node::start("needs-start", &config);
    node.program.stderr.wait_for("not ready yet: a pool of ready_needs has no backend that is known to work");
    node.wait_for_reason("needs", "needs: pool main has no available backend");
    let _backend = TcpListener::bind(address).unwrap();
    node.wait_for_reason("ready", "ready");
}

#[test]
fn a_node_withdraws_while_a_needed_pool_is_dead_and_until_the_floor() {
    let address = own_address();
    let alive = || TcpListener::bind(address).unwrap();
    let backend = alive();
    let node = Node::start("needs", &needing(address, "1h"));
    let lacks = "needs: pool main has no available backend";
    node.wait_for_reason("ready", "ready");
    // The pool dies, and comes back.
    drop(backend);
    node.wait_for_reason("needs", lacks);
    node.program.stderr.wait_for("WARN not ready: a pool of ready_needs has no available backend");
    assert!(node.problems().contains("\"PointsmanNotReady\""), "{}", node.problems());
    let backend = alive();
    node.wait_for_reason("ready", "ready");
    node.program.stderr.wait_for("ready: no pool of ready_needs is without a backend");
    assert_eq!(node.problems(), "");
    // It dies again, and the longest time is over.
    drop(backend);
    node.wait_for_reason("needs", lacks);
    write(&node.folder, &needing(address, "100ms"));
    node.run(&["reload"], 0, &["changed ready_needs"]);
    node.wait_for_reason("ready", "ready");
    node.program.stderr.wait_for("WARN ready although a pool of ready_needs has no available backend");
    let excused = node.status()["readiness"]["excused"].clone();
    assert_eq!((excused.as_array().unwrap().len(), &excused[0]["pool"]), (1, &"main".into()));
    let problems = node.problems();
    assert!(
        problems.contains("it is ready although pools of ready_needs have no available backend (main)"),
        "{problems}"
    );
    let events = node.status()["events"].to_string();
    for part in ["not ready: no available backend in main", "ready after", "ready again although main"] {
        assert!(events.contains(part), "no {part} in {events}");
    }
    // A longer floor does not bring the unready time back: only the pool does.
    write(&node.folder, &needing(address, "1h"));
    node.run(&["reload"], 0, &["changed ready_needs"]);
    node.wait_for_reason("ready", "ready");
    assert_eq!(node.status()["readiness"]["excused"], excused);
    // The pool has a backend, so that its next death counts again.
    let backend = alive();
    wait_for("the end of the excuse", || node.status()["readiness"]["excused"] == serde_json::json!([]));
    assert_eq!(node.problems(), "");
    drop(backend);
    node.wait_for_reason("needs", lacks);
    // A leave comes first, because an operator wants it.
    node.run(&["leave"], 0, &["/ready answers 503"]);
    node.wait_for_reason("leaving", "leaving");
    node.run(&["join"], 0, &["no longer leaves"]);
    node.wait_for_reason("needs", lacks);
    // Without needed pools the node is ready at once.
    let text = needing(address, "1h");
    write(
        &node.folder,
        text.split_once("[listener").map(|(_, rest)| format!("[listener{rest}")).as_deref().unwrap(),
    );
    node.run(&["reload"], 0, &["changed ready_needs"]);
    node.wait_for_reason("ready", "ready");
}

/// A new node has no clients to lose: it waits for its first backend, whatever the time for a dead pool.
#[test]
fn a_new_node_is_ready_once_its_pool_is_found() {
    let backend = Backend::echo();
    let folder = Folder::new("needs-found-file");
    let file = folder.path("backends.json");
    let text = format!(
        "ready_needs = [\"main\"]\nready_needs_after = \"1h\"\nready_floor = \"2h\"\n\
         [listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n\
         [pool.main]\nhealth.check = \"off\"\ndiscover = {{ file = \"{}\" }}\n",
        file.display()
    );
    let node = Node::start("needs-found", &text);
    node.wait_for_reason("needs", "needs: pool main has no available backend");
    let found = format!("{{\"version\": 1, \"backends\": [{{\"address\": \"{}\"}}]}}", backend.address);
    folder.write("new.json", &found);
    std::fs::rename(folder.path("new.json"), &file).unwrap();
    node.wait_for_reason("ready", "ready");
    let _client = connect(&node, "main");
    // From now on, the time for a dead pool counts.
    folder.write("new.json", "{\"version\": 1, \"backends\": []}");
    std::fs::rename(folder.path("new.json"), &file).unwrap();
    node.program.stderr.wait_for("pool has no backend left");
    node.wait_for_reason("ready", "ready");
}
