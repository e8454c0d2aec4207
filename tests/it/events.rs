//! The events that make records in the access log: the start of a relay, each interval, the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::process::{Folder, Program};
use crate::records::LogFile;
use crate::support::hello::hello;
use crate::support::pair::{expect_bytes, patient};
use crate::support::recorder::{Recorder, ask, list};
use crate::support::{Backend, PATIENCE, Proxy, config, pattern, wait_for};

/// Returns a configuration with these keys of the access log.
fn text(log: &Path, keys: &str, backend: SocketAddr) -> String {
    format!(
        "workers = 2\naccess_log = {{ to = {log:?}, {keys} }}\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = ['{backend}']\nhealth.check = 'off'\n"
    )
}

fn proxy(log: &LogFile, keys: &str, backend: &Backend) -> Proxy {
    Proxy::start(config(&text(log.path().as_ref(), keys, backend.address)))
}

/// Returns the records of a file so far. The last line may be incomplete.
pub(crate) fn records(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a file has this many records of an event, and returns them.
pub(crate) fn wait_for_records(log: &Path, event: &str, count: usize) -> Vec<Value> {
    let of_event = || records(log).into_iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    wait_for(&format!("{count} records of {event}"), || of_event().len() >= count);
    of_event()
}

/// Checks that the new bytes of all records of each connection add up to the totals of its end. Returns the number of
/// records by connection.
#[track_caller]
pub(crate) fn check_sums(records: &[Value]) -> BTreeMap<u64, usize> {
    let mut sums: BTreeMap<u64, (usize, [u64; 2])> = BTreeMap::new();
    for record in records {
        let (count, bytes) = sums.entry(record["id"].as_u64().unwrap()).or_default();
        *count += 1;
        for (sum, direction) in bytes.iter_mut().zip(["client", "backend"]) {
            *sum += record[format!("delta_from_{direction}_bytes")].as_u64().unwrap();
            let total = &record[format!("from_{direction}_bytes")];
            if record["event"] != "start" {
                assert_eq!(total, *sum, "{record}");
            }
        }
    }
    sums.into_iter().map(|(id, (count, _))| (id, count)).collect()
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect_bytes(stream, bytes);
}

#[test]
fn a_connection_has_a_record_at_its_start_at_each_interval_and_at_its_end() {
    let (log, backend) = (LogFile::new(), Backend::echo());
    let file: &Path = log.path().as_ref();
    let proxy = proxy(&log, "events = ['start', 'interval', 'end'], interval = '1s'", &backend);
    let mut client = proxy.connect();
    let start = wait_for_records(file, "start", 1).remove(0);
    assert_eq!(
        (&start["id"], &start["backend"]),
        (&1.into(), &backend.address.to_string().into()),
        "{start}"
    );
    assert!(start["connect_seconds"].is_number() && start["close"].is_null(), "{start}");
    exchange(&mut client, &[1; 1000]);
    wait_for_records(file, "interval", 1);
    exchange(&mut client, &[2; 50]);
    let intervals = wait_for_records(file, "interval", 2);
    let seconds = |record: &Value| record["total_seconds"].as_f64().unwrap();
    assert!(seconds(&intervals[0]) >= 1.0 && seconds(&intervals[1]) >= 2.0, "{intervals:?}");
    exchange(&mut client, &[3; 7]);
    drop(client);
    let end = wait_for_records(file, "end", 1).remove(0);
    assert_eq!((&end["from_client_bytes"], &end["close"]), (&1057.into(), &"client_fin".into()), "{end}");
    let all = records(file);
    assert_eq!(check_sums(&all).len(), 1);
    let events: Vec<_> = all.iter().map(|record| record["event"].as_str().unwrap()).collect();
    let between = vec!["interval"; events.len() - 2];
    assert_eq!(events, [vec!["start"], between, vec!["end"]].concat());
    let keys = |record: &Value| record.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(all.iter().all(|record| keys(record) == keys(&end)), "{all:?}");
}

/// The hello is sent with the connect, so it belongs to no relay before the start.
#[test]
fn the_first_bytes_are_counted_once() {
    let (log, backend) = (LogFile::new(), Recorder::start("one"));
    let proxy = Proxy::start(config(&format!(
        "workers = 1\naccess_log = {{ to = {:?}, events = ['start', 'end'] }}\n[listener.main]\nbind = '127.0.0.1:0'\n\
         protocol = 'tls'\nunmatched = 'p'\n[pool.p]\nbackends = {}\nhealth.check = 'off'\n",
        log.path(),
        list([&backend])
    )));
    let first = hello(b"a.example");
    assert_eq!(ask(&proxy, &first).as_deref(), Ok("one"));
    let records = log.records(2);
    let (start, end) = (&records[0], &records[1]);
    assert_eq!((&start["event"], &start["sni"]), (&"start".into(), &"a.example".into()), "{start}");
    assert_eq!(
        (&start["from_client_bytes"], &start["delta_from_client_bytes"]),
        (&first.len().into(), &0.into())
    );
    assert_eq!((&end["event"], &end["delta_from_client_bytes"]), (&"end".into(), &first.len().into()));
    check_sums(&records);
}

#[test]
fn the_default_is_one_record_for_each_connection() {
    let (log, backend) = (LogFile::new(), Backend::echo());
    let proxy = proxy(&log, "format = 'json'", &backend);
    for _ in 0..3 {
        exchange(&mut proxy.connect(), b"hello");
    }
    proxy.wait_for_metric("pointsman_access_log_written_total", 3.0);
    let records = log.records(3);
    assert!(records.iter().all(|record| record["event"] == "end"), "{records:?}");
    assert!(check_sums(&records).values().all(|count| *count == 1));
}

/// Refused connections have no start and no interval.
#[test]
fn without_the_end_no_end_is_written() {
    let (log, backend) = (LogFile::new(), Backend::echo());
    let keys = "events = ['start']";
    let text = text(log.path().as_ref(), keys, backend.address)
        .replace("pool = 'app'", "pool = 'app'\nmax_connections = 1");
    let proxy = Proxy::start(config(&text));
    let mut served = proxy.connect();
    exchange(&mut served, b"hello");
    assert!(!matches!(proxy.connect().read(&mut [0]), Ok(1..)), "a second connection is refused");
    drop(served);
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
    exchange(&mut proxy.connect(), b"hello");
    let records = log.records(2);
    assert!(records.iter().all(|record| record["event"] == "start"), "{records:?}");
    let unlogged = r#"pointsman_access_log_unlogged_refusals_total{listener="main"}"#;
    assert_eq!(proxy.metric(unlogged), 0.0, "no line is missing");
}

/// The kernel decides which worker gets a connection. So the streams are repeated until one has moved.
#[test]
fn bytes_add_up_over_a_move_between_workers() {
    const MOVED: &str = r#"pointsman_connections_moved_total{what="stream"}"#;
    let block = pattern(256 * 1024 - 1, 3);
    let sent = block.clone();
    let backend = Backend::serve(move |mut stream| while stream.write_all(&sent).is_ok() {});
    let log = LogFile::new();
    let file: &Path = log.path().as_ref();
    let proxy = proxy(&log, "events = ['interval', 'end'], interval = '1s'", &backend);
    let begun = Instant::now();
    let has_moved = || proxy.metric(MOVED) > 0.0;
    let mut streams = 0;
    while !has_moved() {
        assert!(begun.elapsed() < 5 * PATIENCE, "no stream moved");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..5 {
                let (mut stream, is_over, mut buffer) = (proxy.connect(), &is_over, vec![0; 64 * 1024]);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        stream.read_exact(&mut buffer).unwrap();
                    }
                });
            }
            streams += 5;
            // Each stream has a record before the move and a record behind it.
            let intervals = records(file).len();
            wait_for("records of all streams", || records(file).len() >= intervals + 15);
            is_over.store(true, Ordering::Relaxed);
        });
    }
    let ends = wait_for_records(file, "end", streams);
    assert!(
        ends.iter().all(|end| end["delta_from_backend_bytes"].as_u64() < end["from_backend_bytes"].as_u64())
    );
    assert_eq!(check_sums(&records(file)).len(), streams);
}

#[test]
fn a_reload_changes_the_events_of_open_connections() {
    let (folder, backend) = (Folder::new("events-reload"), Backend::echo());
    let log = folder.path("access.log");
    let with = |keys: &str| folder.write("config.toml", &text(&log, keys, backend.address));
    let mut program = Program::serve(&with("events = ['end']"));
    let mut client = patient(TcpStream::connect(program.address("main")).unwrap());
    exchange(&mut client, b"hello");
    with("events = ['start', 'interval', 'end'], interval = '1s'");
    program.signal("HUP");
    program.stderr.wait_for("changed access_log");
    let first = wait_for_records(&log, "interval", 1).remove(0);
    assert_eq!((&first["id"], &first["delta_from_client_bytes"]), (&1.into(), &5.into()), "{first}");
    assert!(
        records(&log).iter().all(|record| record["event"] == "interval"),
        "its start was before the reload"
    );
    with("events = ['start', 'end']");
    program.signal("HUP");
    program.stderr.wait_for_nth(2, "changed access_log");
    let mut other = patient(TcpStream::connect(program.address("main")).unwrap());
    exchange(&mut other, b"again");
    for client in [client, other] {
        client.shutdown(Shutdown::Write).unwrap();
    }
    wait_for_records(&log, "end", 2);
    program.expect_end_by("TERM");
    let all = records(&log);
    let events = |id: u64| -> Vec<_> {
        all.iter()
            .filter(|record| record["id"] == id)
            .map(|record| record["event"].as_str().unwrap())
            .collect()
    };
    assert_eq!((events(1).last(), events(2)), (Some(&"end"), vec!["start", "end"]));
    check_sums(&all);
}
