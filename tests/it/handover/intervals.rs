//! The interval records of connections that move to other programs.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;

use super::stage::Generations;
use crate::events::{check_sums, records, wait_for_records};
use crate::process::Folder;
use crate::support::pair::{expect_bytes, patient};
use crate::support::{Backend, own_address, wait_for};

fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect_bytes(stream, bytes);
}

/// Each program has a log of its own, which the file names anew before each hand-over.
#[test]
fn the_bytes_of_all_records_add_up_over_two_hand_overs() {
    let (folder, backend, main) = (Folder::new("handover-intervals"), Backend::echo(), own_address());
    let log = |number: usize| -> PathBuf { folder.path(&format!("access-{number}.log")) };
    let write = |number: usize, events: &str| {
        let text = format!(
            "workers = 2\naccess_log = {{ to = {:?}, interval = '1s', events = {events} }}\n[handover]\nsocket = {:?}\n\
             [listener.main]\nbind = '{main}'\npool = 'main'\n[pool.main]\nbackends = ['{}']\nhealth.check = 'off'\n",
            log(number),
            folder.path("handover.sock"),
            backend.address
        );
        folder.write("config.toml", &text)
    };
    let all = "['start', 'interval', 'end']";
    let mut generations = Generations::start(&write(0, all));
    let mut clients: Vec<_> = (0..5).map(|_| patient(TcpStream::connect(main).unwrap())).collect();
    let mut written = Vec::new();
    for number in 0..3 {
        clients.iter_mut().for_each(|client| exchange(client, &[number as u8; 1234]));
        wait_for("an interval record of each client, by this program", || {
            let records = records(&log(number));
            let has_one = |id: u64| records.iter().any(|one| one["event"] == "interval" && one["id"] == id);
            (1..=5).all(has_one)
        });
        clients.iter_mut().for_each(|client| exchange(client, b"after the record"));
        if number < 2 {
            write(number + 1, all);
            generations.take_over();
            written.extend(records(&log(number)));
        }
    }
    let bytes = 3 * (1234 + "after the record".len());
    drop(clients);
    let ends = wait_for_records(&log(2), "end", 5);
    written.extend(records(&log(2)));
    assert!(ends.iter().all(|end| end["from_client_bytes"] == bytes), "{ends:?}");
    let starts = written.iter().filter(|record| record["event"] == "start").count();
    assert_eq!((starts, ends.len()), (5, 5), "a move is neither a start nor an end");
    let counts = check_sums(&written);
    assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
}

/// A program that makes no such records sends no progress. Its old connections must not have a record each at once, and
/// their first record has all their bytes.
#[test]
fn records_begin_after_a_hand_over() {
    let (folder, backend, main) = (Folder::new("handover-first-intervals"), Backend::echo(), own_address());
    let log = folder.path("access.log");
    let write = |keys: &str| {
        let text = format!(
            "workers = 1\naccess_log = {{ to = {log:?}, {keys} }}\n[handover]\nsocket = {:?}\n[listener.main]\nbind = '{main}'\n\
             pool = 'main'\n[pool.main]\nbackends = ['{}']\nhealth.check = 'off'\n",
            folder.path("handover.sock"),
            backend.address
        );
        folder.write("config.toml", &text)
    };
    let mut generations = Generations::start(&write("events = 'end'"));
    let mut client = patient(TcpStream::connect(main).unwrap());
    exchange(&mut client, &[7; 777]);
    write("events = ['interval', 'end'], interval = '1s'");
    generations.take_over();
    let first = wait_for_records(&log, "interval", 1).remove(0);
    assert_eq!(first["delta_from_client_bytes"], 777, "{first}");
    exchange(&mut client, b"more");
    drop(client);
    wait_for_records(&log, "end", 1);
    check_sums(&records(&log));
}
