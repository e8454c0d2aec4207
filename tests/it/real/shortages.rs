//! Resources that this host lacks for connections to backends. The log has a warning when clients are refused
//! for a shortage, and a line at the end of the shortage. The host is a network namespace, so no other
//! process has the shortage.

use std::io::Write;

use serde_json::Value;

use super::network::{Network, PROGRAM};
use super::{Program, run};

/// Each connection has a child of its own, in front of an echo.
const ECHO: &[&str] = &["-b", "4096", "TCP4-LISTEN:9001,reuseaddr,fork", "PIPE"];

/// Connects a client during a shortage and waits for its record. Returns the rest of the warning behind the
/// word.
fn refused(network: &Network, program: &Program, word: &str) -> String {
    let mut client = network.client(PROGRAM);
    // The client may be reset before it writes.
    let _ = client.to.write_all(b"are you there");
    let record = program.wait_for_record("the refusal", |record| record["close"] == "out_of_resources");
    assert_eq!((&record["pool"], &record["closed_by"]), (&"main".into(), &"pointsman".into()), "{record}");
    program.log.wait_for(&format!("saturation=\"{word}\""))
}

/// Returns the log line for the end of the shortage, which comes 10 s after the last refusal.
fn over(network: &Network, program: &Program, message: &str, word: &str) {
    let rest = program.log.wait_for(&format!("INFO {message} saturation=\"{word}\" pool=\"main\" refused="));
    assert!(rest.contains(" lasted="), "{rest}");
    // The admin listener is in the namespace too.
    let mut command = network.at("program", env!("CARGO_BIN_EXE_pointsman"));
    let status = run(command.args(["status", "--json", "--admin", &program.admin.to_string()]));
    let status: Value = serde_json::from_str(&status).unwrap();
    let texts = |what: &str| -> Vec<String> {
        let items = status[what].as_array().unwrap().iter();
        items.map(|item| item["text"].as_str().unwrap().to_owned()).collect()
    };
    assert!(texts("events")[0].starts_with(&format!("{word} of pool main is over after ")), "{status}");
    assert!(texts("problems").is_empty(), "{status}");
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_host_without_local_ports_says_so() {
    let network = Network::new();
    let (program, _backend) = network.program("", ECHO);
    // The range is set after the start, because the admin listener needs a port of its own.
    let range = |ports: &str| {
        let write = format!("echo {ports} > /proc/sys/net/ipv4/ip_local_port_range");
        run(network.at("program", "sh").args(["-c", &write]));
    };
    range("40000 40000");
    let mut held = network.client(PROGRAM);
    held.greet();
    let rest = refused(&network, &program, "ports");
    assert!(rest.starts_with(" pool=\"main\" refused="), "{rest}");
    assert!(rest.contains("heaviest=10.77.1.2 with ") && rest.contains("most_refused=10.77.1.2 "), "{rest}");
    assert!(
        program
            .log
            .have("WARN clients are refused: this host has no local port left for connections to backends")
    );
    range("40000 40100");
    network.client(PROGRAM).greet();
    over(&network, &program, "the limit is no longer reached: for 10 s no connection was refused", "ports");
    held.greet();
    drop(held);
    program.stop();
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_host_that_lost_the_address_of_a_pool_says_so() {
    let network = Network::new();
    network.ip("program", "addr add 10.77.2.9/24 dev to-backend");
    let (program, _backend) =
        network.program_to("", "backends = [\"10.77.2.2:9001\"]\nsource = \"10.77.2.9\"", ECHO);
    network.client(PROGRAM).greet();
    network.ip("program", "addr del 10.77.2.9/24 dev to-backend");
    let rest = refused(&network, &program, "source_address");
    assert!(rest.starts_with(" pool=\"main\" refused="), "{rest}");
    assert!(program.log.have(
        "WARN clients are refused: this host no longer has the address that the pool's `source` names"
    ));
    network.ip("program", "addr add 10.77.2.9/24 dev to-backend");
    network.client(PROGRAM).greet();
    over(
        &network,
        &program,
        "the source address is usable again: for 10 s no connection to a backend lacked it",
        "source_address",
    );
    program.stop();
}
