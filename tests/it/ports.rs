//! Listeners with a range of ports, and backends without a port of their own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::dns::Dns;
use crate::support::{PATIENCE, Proxy, config, own_address, wait_for};

/// The number of ports in the ranges of these tests.
const PORTS: u16 = 4;

/// Returns two addresses that no other test has, and a port from which a range is free at both.
fn free_range() -> (IpAddr, IpAddr, u16) {
    loop {
        let (here, there) = (own_address(), own_address().ip());
        let is_free = |port: u16| [here.ip(), there].iter().all(|ip| TcpListener::bind((*ip, port)).is_ok());
        if let Some(last) = here.port().checked_add(PORTS)
            && (here.port()..last).all(is_free)
        {
            return (here.ip(), there, here.port());
        }
    }
}

/// Answers each connection with its destination port.
fn answer_with_port(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = write!(stream, "{}", address.port());
        }
    });
}

fn answer(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn text(bind: &str, backend: IpAddr, log: &str) -> String {
    format!(
        "workers = 2\naccess_log.to = \"{log}\"\n[listener.main]\nbind = \"{bind}\"\npool = \"p\"\n\
         [pool.p]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n"
    )
}

#[test]
fn each_port_leads_to_the_same_port_of_the_backend() {
    let (here, there, first) = free_range();
    let folder = crate::process::Folder::new("port-range");
    let log = folder.path("access.log");
    let range = |last: u16| format!("{here}:{first}-{last}");
    (first..first + PORTS).for_each(|port| answer_with_port(SocketAddr::new(there, port)));
    let proxy = Proxy::start(config(&text(&range(first + 2), there, log.to_str().unwrap())));
    for port in first..first + 3 {
        assert_eq!(answer(SocketAddr::new(here, port)), port.to_string());
    }
    // The range is one listener.
    proxy.wait_for_metric(r#"pointsman_connections_total{listener="main"}"#, 3.0);
    let dialled = |port: u16| format!("\"{}\"", SocketAddr::new(there, port));
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_for("the log", || (first..first + 3).all(|port| lines().contains(&dialled(port))));
    // A reload makes the range longer and keeps the other sockets.
    assert!(TcpStream::connect(SocketAddr::new(here, first + 3)).is_err());
    proxy.remote.reload(config(&text(&range(first + 3), there, log.to_str().unwrap()))).unwrap();
    assert_eq!(answer(SocketAddr::new(here, first + 3)), (first + 3).to_string());
    assert_eq!(answer(SocketAddr::new(here, first)), first.to_string());
}

#[test]
fn a_host_name_without_a_port_leads_to_the_same_port() {
    let (here, there, first) = free_range();
    let other = own_address().ip();
    for ip in [there, other] {
        (first..first + 3).for_each(|port| answer_with_port(SocketAddr::new(ip, port)));
    }
    let dns = Dns::new();
    dns.set_addresses("db1.test", &[there]);
    let range = format!("{here}:{first}-{}", first + 2);
    let resolve =
        format!("resolve = {{ resolvers = \"{}\", min_ttl = \"100ms\", hold = \"0s\" }}\n", dns.address);
    let text = text(&range, there, "off").replace(&format!("[\"{there}\"]"), "[\"db1.test\"]") + &resolve;
    let (proxy, admin) = Proxy::start_with_admin(config(&text));
    let status = || -> serde_json::Value {
        let (_, body) = pointsman::admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
        serde_json::from_str(&body).unwrap()
    };
    for port in first..first + 3 {
        assert_eq!(answer(SocketAddr::new(here, port)), port.to_string());
    }
    let one = status()["pools"][0]["backends"][0].clone();
    assert_eq!(one["name"], format!("db1.test/{there}"));
    assert_eq!((&one["address"], &one["origin"]), (&format!("{there}:*").into(), &"host_name".into()));
    assert_eq!(status()["pools"][0]["discovery"][0]["source"], "dns db1.test");
    // Another number of addresses changes no name.
    let backends = || proxy.remote.view().snapshot.load().pools["p"].pool.backends().to_vec();
    let before = backends();
    dns.set_addresses("db1.test", &[other, there]);
    wait_for("the second address", || backends().len() == 2);
    assert!(backends().iter().any(|backend| backend.is_same(&before[0])));
    dns.set_addresses("db1.test", &[other]);
    wait_for("the other address", || {
        backends().iter().map(|one| one.name().to_string()).eq([format!("db1.test/{other}")])
    });
    assert_eq!(answer(SocketAddr::new(here, first + 1)), (first + 1).to_string());
}

#[test]
fn status_has_a_range_in_one_word() {
    let (here, there, first) = free_range();
    let range = format!("{here}:{first}-{}", first + 2);
    let (_proxy, admin) = Proxy::start_with_admin(config(&text(&range, there, "off")));
    let (_, body) = pointsman::admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["listeners"][0]["addresses"], serde_json::json!([range]));
    assert_eq!(status["pools"][0]["backends"][0]["address"], format!("{there}:*"));
}

/// Each worker, port and family has a socket.
#[test]
fn too_many_ports_for_the_descriptors_are_refused_before_they_are_bound() {
    let folder = crate::process::Folder::new("port-range-limit");
    let file = folder.write("config.toml", &text(":30000-30999", "10.0.0.1".parse().unwrap(), "off"));
    let program = env!("CARGO_BIN_EXE_pointsman");
    let command = format!("ulimit -n 1024; exec {program} run {}", file.display());
    let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("may open 1024 descriptors, and needs 4018"), "{told}");
    assert!(!told.contains("cannot listen"), "{told}");
}
