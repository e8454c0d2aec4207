//! Limits that refuse connections: one warning for each episode, with numbers and the heaviest sources.

use std::net::{SocketAddr, TcpStream};

use pointsman::admin;

use crate::process::{Folder, Program};
use crate::support::pair::{expect_reset, patient};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    patient(socket.into())
}

/// Starts a program with these keys of the process, the listener and the pool.
fn program(name: &str, backend: &Backend, keys: [&str; 3]) -> (Folder, Program) {
    let folder = Folder::new(name);
    let [process, listener, pool] = keys;
    let text = format!(
        "access_log.to = \"off\"\nworkers = 2\n{process}\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n{listener}\n\
         [pool.app]\nbackends = [\"{0}\"]\nhealth.check = \"off\"\n{pool}\n\
         [listener.late]\nbind = \"127.0.0.1:0\"\npool = \"late\"\n\
         [pool.late]\nbackends = [\"{0}\"]\nhealth.check = \"off\"\nmax_connections = 1\n",
        backend.address
    );
    let path = folder.write("config.toml", &text);
    let program = Program::serve(&path);
    (folder, program)
}

/// Opens three connections from 127.0.0.2 and one from 127.0.0.3, which are served, then some that are
/// refused.
fn saturate(program: &Program) -> Vec<TcpStream> {
    let address = program.address("main");
    let held: Vec<_> =
        ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2"].map(|from| connect(from, address)).into();
    held.iter().for_each(echo);
    for _ in 0..5 {
        expect_reset(&connect("127.0.0.4", address));
    }
    held
}

fn echo(mut stream: &TcpStream) {
    use std::io::{Read, Write};
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).expect("the client is served");
}

/// Begins an episode of another pool and waits for its warning. Warnings come one after the other, each after
/// its count of connections. So the warning of an earlier episode would be in the log by then.
fn wait_for_late_episode(program: &Program) {
    use std::io::{Read, Write};
    let address = program.address("late");
    let mut held = None;
    // The slots of the earlier clients become free a little later.
    wait_for("a place for a late client", || {
        let mut client = connect("127.0.0.5", address);
        if client.write_all(b"?").and_then(|()| client.read_exact(&mut [0])).is_ok() {
            held = Some(client);
        }
        held.is_some()
    });
    expect_reset(&connect("127.0.0.5", address));
    program.stderr.wait_for("pool=\"late\"");
}

fn check(name: &str, keys: [&str; 3], expected: &[&str]) {
    let backend = Backend::echo();
    let (_folder, mut program) = program(name, &backend, keys);
    let held = saturate(&program);
    let line = program.stderr.wait_for(&format!("saturation=\"{name}\""));
    assert!(line.contains("WARN"), "{line}");
    for part in expected.iter().chain(&["refused=", "open=4", "sources=2"]) {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(line.contains("heaviest=127.0.0.2 with 3, 127.0.0.3 with 1"), "{line}");
    let address = program.address("main");
    expect_reset(&connect("127.0.0.4", address));
    drop(held);
    wait_for_late_episode(&program);
    let lines = program.stderr.all();
    let is_of_app = |line: &&String| line.contains("saturation=") && !line.contains("pool=\"late\"");
    let told = lines.iter().filter(is_of_app).count();
    assert_eq!(told, 1, "{lines:?}");
    program.signal("KILL");
    program.end();
}

#[test]
fn a_full_process_is_reported_with_the_heaviest_sources() {
    let keys = ["max_connections = 4", "", ""];
    check("process_full", keys, &["used=4", "limit=4", "raise max_connections"]);
}

#[test]
fn a_full_listener_is_reported_with_the_heaviest_sources() {
    let keys = ["", "max_connections = 4", ""];
    check("listener_full", keys, &["listener=\"main\"", "used=4", "limit=4"]);
}

#[test]
fn a_full_pool_is_reported_with_the_heaviest_sources() {
    let keys = ["", "", "limits = { connections = 4 }"];
    check("pool_full", keys, &["pool=\"app\"", "used=4", "limit=4"]);
}

#[test]
fn a_full_queue_is_reported_with_the_heaviest_sources() {
    let keys = ["", "", "max_connections = 4"];
    check("queue_full", keys, &["pool=\"app\"", "used=4", "limit=4"]);
}

#[test]
fn a_source_above_its_limits_is_reported() {
    let backend = Backend::echo();
    for (name, keys) in [("source_connections", "connections = 2"), ("source_rate", "rate = \"2/m\"")] {
        let (_folder, mut program) = program(name, &backend, ["", &format!("per_source = {{ {keys} }}"), ""]);
        let address = program.address("main");
        let held: Vec<_> = (0..2).map(|_| connect("127.0.0.9", address)).collect();
        held.iter().for_each(echo);
        expect_reset(&connect("127.0.0.9", address));
        let line = program.stderr.wait_for(&format!("saturation=\"{name}\""));
        assert!(line.contains("WARN") && line.contains("listener=\"main\""), "{line}");
        assert!(line.contains("heaviest=127.0.0.9 with 2"), "{line}");
        assert!(line.contains("most_refused=127.0.0.9 1"), "{line}");
        program.signal("KILL");
        program.end();
    }
}

/// The warning has the networks that the limit counts, so clients of one network are one source.
#[test]
fn a_source_is_the_network_that_the_limit_counts() {
    let backend = Backend::echo();
    let keys = ["limits.source_prefix = { v4 = 24 }", "per_source = { connections = 2 }", ""];
    let (_folder, program) = program("source-prefix", &backend, keys);
    let address = program.address("main");
    let held = ["127.0.0.8", "127.0.0.9"].map(|from| connect(from, address));
    held.iter().for_each(echo);
    expect_reset(&connect("127.0.0.10", address));
    let line = program.stderr.wait_for("saturation=\"source_connections\"");
    assert!(line.contains("heaviest=127.0.0.0 with 2 most_refused=127.0.0.0 1"), "{line}");
}

/// Sources are counted on request, also if no listener limits them.
#[test]
fn sources_are_counted_without_limits() {
    let backend = Backend::echo();
    let (proxy, address) = Proxy::start_with_admin(config(&format!(
        "access_log.to = 'off'\nworkers = 2\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = ['{}']\nhealth.check = 'off'\n",
        backend.address
    )));
    let held: Vec<_> = (0..5).map(|_| connect("127.0.0.7", proxy.address("main"))).collect();
    held.iter().for_each(echo);
    let (code, body) = admin::ask(address, "/api/v1/sources", PATIENCE).unwrap();
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!([{ "source": "127.0.0.7", "private_link": null, "listener": "main", "open": 5, "hellos": 0 }]);
    assert_eq!((code, &page["heaviest"]), (200, &expected));
    assert_eq!((&page["open"], &page["connections"], &page["known"]), (&1.into(), &5.into(), &0.into()));
    drop(held);
    wait_for("nothing to count", || {
        let (_, body) = admin::ask(address, "/api/v1/sources", PATIENCE).unwrap();
        body.contains("\"connections\": 0")
    });
}

/// The end of an episode is logged 10 s after its last refusal.
#[test]
#[ignore = "it takes ten seconds"]
fn the_end_of_an_episode_is_reported() {
    let backend = Backend::echo();
    let (_folder, mut program) = program("over", &backend, ["max_connections = 4", "", ""]);
    drop(saturate(&program));
    program.stderr.wait_for("saturation=\"process_full\"");
    let line = program.stderr.wait_for("the limit is no longer reached");
    assert!(line.contains("INFO") && line.contains("refused=5") && line.contains("lasted="), "{line}");
    program.expect_end_by("TERM");
}
