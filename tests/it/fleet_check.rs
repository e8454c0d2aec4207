//! `pointsman fleet-check` with running programs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::thread;

use serde_json::Value;

use crate::process::{Folder, Program, command, run};
use crate::support::own_address;

/// A running program with an admin socket in its folder.
struct RunningNode {
    folder: Folder,
    _program: Program,
}

impl RunningNode {
    fn start(test: &str, weight: u16, more: &str) -> Self {
        let folder = Folder::new(&format!("fleet-check-{test}"));
        let text = format!(
            r#"{more}
[admin]
listen = "unix:{}"
[listener.main]
bind = "127.0.0.1:0"
pool = "db"
[pool.db]
health.check = "off"
backends = [{{ name = "a", address = "127.0.0.1:1", weight = {weight} }}, {{ name = "b", address = "127.0.0.1:2" }}]
"#,
            folder.path("admin.sock").display()
        );
        let file = folder.write("config.toml", &text);
        let program = Program::start(command(&["run"]).arg(file));
        program.stderr.wait_for("serving");
        Self { folder, _program: program }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.folder.path("admin.sock").display())
    }
}

/// Compares nodes. Returns the exit code and the output.
#[track_caller]
fn compared(nodes: &[&RunningNode]) -> (Option<i32>, String) {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    let arguments: Vec<&str> =
        std::iter::once("fleet-check").chain(addresses.iter().map(String::as_str)).collect();
    let Output { status, stdout, stderr } = run(&arguments);
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[track_caller]
fn check(nodes: &[&RunningNode], code: i32, parts: &[&str]) {
    let (found, text) = compared(nodes);
    assert_eq!(found, Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn three_nodes_with_one_file_agree() {
    let nodes = ["equal-1", "equal-2", "equal-3"].map(|name| RunningNode::start(name, 2, ""));
    let agreement = "the 3 nodes that answered agree: 1 listener, 0 routes, 1 pool, 2 backends";
    check(&nodes.each_ref(), 0, &[agreement, "serving"]);
}

#[test]
fn another_weight_is_named_with_its_effect() {
    let nodes = [("weight-1", 2), ("weight-2", 2), ("weight-3", 7)]
        .map(|(name, weight)| RunningNode::start(name, weight, ""));
    let odd = nodes[2].address();
    let effect = format!(
        "clients of pool db reach other backends through {odd}; the differences of its backends below"
    );
    let value = format!("7 at {odd}");
    check(&nodes.each_ref(), 1, &["pool db: hash table", &effect, "pool db, backend a: weight", &value]);
}

#[test]
fn another_key_and_a_further_pool_are_named() {
    let one = RunningNode::start("pool-1", 2, "");
    let other = RunningNode::start(
        "pool-2",
        2,
        "hash_key = '00000000000000000000000000000001'\n[pool.mail]\nbackends = ['127.0.0.1:3']\n[listener.mail]\n\
         bind = '127.0.0.1:0'\npool = 'mail'",
    );
    let (present, missing) =
        (format!("present at {}", other.address()), format!("missing at {}", one.address()));
    let parts = ["pool mail\n", "listener mail\n", &present, &missing, "another `hash_key` is the cause"];
    check(&[&one, &other], 1, &parts);
}

#[test]
fn an_override_of_one_node_is_named_as_an_override() {
    let nodes = ["drain-1", "drain-2"].map(|name| RunningNode::start(name, 2, ""));
    check(&nodes.each_ref(), 0, &["agree"]);
    let odd = nodes[1].address();
    let drained = run(&["drain", "db/a", "--for", "1h", "--admin", &odd]);
    assert!(drained.status.success(), "{drained:?}");
    let effect = format!("through {odd}, new clients of the backend are not those of the configuration");
    let parts =
        ["override state of pool db, backend a", "none at ", "drain (by unix uid=", "ends in ", &effect];
    check(&nodes.each_ref(), 1, &parts);
    let (_, text) = compared(&nodes.each_ref());
    assert!(!text.contains("backend a: state"), "the override explains the state: {text}");
    let ended = run(&["ready", "db/a", "--admin", &odd]);
    assert!(ended.status.success(), "{ended:?}");
    check(&nodes.each_ref(), 0, &["agree"]);
}

#[test]
fn a_node_without_an_answer_is_a_failure_and_the_others_are_compared() {
    let nodes = ["silent-1", "silent-2"].map(|name| RunningNode::start(name, 2, ""));
    let gone = own_address().to_string();
    let [one, two] = nodes.each_ref().map(RunningNode::address);
    let output = run(&["fleet-check", "--json", &one, &gone, &two]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&page["agree"], page["differences"].as_array().unwrap().len()), (&false.into(), 0));
    let found: Vec<_> =
        page["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect();
    assert_eq!(found, [&one, &two, &gone]);
    assert!(page["nodes"][2]["fault"].as_str().unwrap().contains("refused"), "{page}");
}

#[test]
fn a_token_is_needed_and_sent() {
    let tokens = Folder::new("fleet-check-token");
    let token = tokens.write("token", "0123456789abcdef\n");
    let file = |name: &str| {
        let text = format!(
            "[admin]\nlisten = '127.0.0.1:0'\ntoken_file = '{}'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'db'\n\
             [pool.db]\nhealth.check = 'off'\nbackends = ['127.0.0.1:1']",
            token.display()
        );
        tokens.write(name, &text)
    };
    let programs = ["one.toml", "two.toml"].map(|name| Program::start(command(&["run"]).arg(file(name))));
    let addresses = programs.each_ref().map(|program| {
        let line = program.stderr.wait_for("admin listens");
        line.split_once("address=").unwrap().1.split_whitespace().next().unwrap().to_owned()
    });
    let [one, two] = addresses.each_ref().map(String::as_str);
    let without = run(&["fleet-check", one, two]);
    let text = String::from_utf8(without.stdout).unwrap();
    assert_eq!(without.status.code(), Some(1), "{text}");
    assert!(text.contains("it answered 401") && text.contains("no node answered"), "{text}");
    let with = run(&["fleet-check", "--token-file", token.to_str().unwrap(), one, two]);
    let text = String::from_utf8(with.stdout).unwrap();
    assert_eq!(with.status.code(), Some(0), "{text}");
}

#[test]
fn another_program_cannot_speak_to_the_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.0 500 x\r\n\r\n\x1b[2J\nall is well").unwrap();
    });
    let output = run(&["fleet-check", &address, &own_address().to_string()]);
    other.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("it answered 500: \\u{1b}[2J\\nall is well"), "{text}");
}

#[test]
fn a_wrong_usage_has_its_exit_code() {
    let check = |arguments: &[&str], expected: &str| {
        let output = run(&[&["fleet-check"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(expected), "{text}");
    };
    check(&[], "<NODE>");
    check(&["127.0.0.1:1"], "2");
    check(&["127.0.0.1:1", "127.0.0.1:1"], "is named twice");
    check(&["127.0.0.1:1", "nowhere"], "nowhere");
}
