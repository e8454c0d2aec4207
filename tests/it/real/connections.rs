//! The figures of a shown connection beside those of `ss`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::Value;

use super::{Program, run};
use crate::support::pair::patient;
use crate::support::{Backend, wait_for};

fn config(backend: SocketAddr) -> String {
    format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pool.app]\nbackends = [\"{backend}\"]\n\
         health.check = \"off\"\n"
    )
}

/// Returns the values of a line of `ss -tinH` by their names, such as `rtt:0.035/0.017` or `cwnd:10`.
fn values(line: &str) -> BTreeMap<String, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut values: BTreeMap<_, _> = words
        .iter()
        .filter_map(|word| word.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // The value of a rate comes behind its name.
    for pair in words.windows(2).filter(|pair| pair[0] == "delivery_rate") {
        values.insert(pair[0].to_owned(), pair[1].to_owned());
    }
    values
}

#[test]
#[ignore = "needs ss"]
fn the_figures_are_those_of_ss() {
    let backend = Backend::echo();
    let program = Program::start(&config(backend.address));
    let mut client = patient(TcpStream::connect(program.address("main")).unwrap());
    for _ in 0..20 {
        client.write_all(&[7; 1000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
    }
    let page: Value = serde_json::from_str(&program.ask("/api/v1/connections")).unwrap();
    let id = page["connections"][0]["id"].as_u64().unwrap();
    for side in ["client", "backend"] {
        let mut compared = (Value::Null, BTreeMap::new());
        // A delayed acknowledgement may come between the two.
        wait_for("equal figures", || {
            let shown: Value =
                serde_json::from_str(&program.ask(&format!("/api/v1/connections/{id}"))).unwrap();
            let leg = &shown["legs"][side];
            let filter = leg["ss"].as_str().unwrap().split('\'').nth(1).unwrap().to_owned();
            let found = values(&run(Command::new("ss").args(["-tinH", &filter])));
            let tcp = leg["tcp"].clone();
            let seconds = |key: &str| tcp[key].as_f64().unwrap() * 1000.0;
            let near = |text: &str, millis: f64| (text.parse::<f64>().unwrap() - millis).abs() < 0.002;
            let (rtt, rttvar) = found["rtt"].split_once('/').unwrap();
            let is_equal = near(rtt, seconds("rtt_seconds"))
                && near(rttvar, seconds("rttvar_seconds"))
                && near(&found["minrtt"], seconds("min_rtt_seconds"))
                && found["cwnd"].parse().ok() == tcp["cwnd_segments"].as_u64()
                && found["bytes_sent"].parse().ok() == tcp["sent_bytes"].as_u64()
                && tcp["unacked_segments"] == 0
                && !found.contains_key("unacked");
            compared = (tcp, found);
            is_equal
        });
        let (tcp, found) = compared;
        assert_eq!(tcp["sent_bytes"], 20_000, "{side}: {tcp}");
        assert!(!found.contains_key("retrans") && tcp["retransmits"] == 0, "{side}: {tcp} {found:?}");
        // ss has bits a second.
        let rate: u64 = found["delivery_rate"].trim_end_matches("bps").parse().unwrap();
        assert_eq!(
            tcp["delivery_bytes_per_second"].as_u64().map(|bytes| 8 * bytes),
            Some(rate),
            "{side}: {found:?}"
        );
    }
}
