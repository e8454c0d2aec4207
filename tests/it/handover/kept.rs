//! The state that a hand-over keeps: limits, bans, the health of backends, idle times, marks of departing listeners.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pointsman::admin;
use pointsman::sys::Address;
use serde_json::Value;

use super::stage::{Generations, check_end, program};
use crate::process::{Folder, Program};
use crate::support::pair::{connect_from, expect_bytes, patient};
use crate::support::{Backend, PATIENCE, own_address, wait_for};

/// A folder with a file, the address of the listener `main`, and the access log.
struct Place {
    folder: Folder,
    main: SocketAddr,
    access_log: PathBuf,
}

impl Place {
    fn new(test: &str) -> Self {
        let folder = Folder::new(test);
        let access_log = folder.path("access.log");
        Self { folder, main: own_address(), access_log }
    }

    fn admin(&self) -> Address {
        format!("unix:{}", self.folder.path("admin.sock").display()).parse().unwrap()
    }

    /// Writes a file: keys of the process, of the listener and of the pool, and further tables.
    fn write(&self, process: &str, listener: &str, pool: &str, tables: &str) -> PathBuf {
        let text = format!(
            "{process}\n[admin]\nlisten = \"{}\"\n[access_log]\nto = {:?}\n[handover]\nsocket = \
             {:?}\n[listener.main]\nbind = \"{}\"\npool = \"main\"\n{listener}\n[pool.main]\n{pool}\n{tables}\n",
            self.admin(),
            self.access_log,
            self.folder.path("handover.sock"),
            self.main,
        );
        self.folder.write("config.toml", &text)
    }

    fn metrics(&self) -> String {
        admin::ask(self.admin(), "/metrics", PATIENCE).unwrap().1
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics().lines().any(|other| other == line)
    }

    /// Connects and exchanges a message. Returns `None` if the connection is refused.
    fn client(&self, source: IpAddr) -> Option<TcpStream> {
        let mut stream = patient(connect_from(source, self.main));
        exchange(&mut stream).then_some(stream)
    }
}

/// Exchanges a message. Returns false if the connection has ended.
fn exchange(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
}

fn local(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 5, last])
}

fn echo_pool(backend: &Backend) -> String {
    format!("backends = [\"{}\"]\nhealth.check = \"off\"", backend.address)
}

/// Opens clients from these sources, and checks which of them are served.
#[track_caller]
fn open(place: &Place, sources: &[(u8, bool)]) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for (source, is_served) in sources {
        let client = place.client(local(*source));
        assert_eq!(client.is_some(), *is_served, "a client of {source}");
        clients.extend(client);
    }
    clients
}

/// Fills a limit, hands over, and checks that the limit is full as before and has room again when a client leaves.
fn limit_stays_full(test: &str, process: &str, listener: &str, pool: &str, one_source: bool) {
    let (place, backend) = (Place::new(test), Backend::echo());
    let pool = format!("{}\n{pool}", echo_pool(&backend));
    let mut generations = Generations::start(&place.write(process, listener, &pool, ""));
    let source = |number: u8| if one_source { 1 } else { number };
    let mut clients =
        open(&place, &[(source(1), true), (source(2), true), (source(3), true), (source(4), false)]);
    for _ in 0..2 {
        generations.take_over();
        assert!(clients.iter_mut().all(exchange), "{test}: a client was lost");
        open(&place, &[(source(5), false)]);
        drop(clients.pop());
        // The slot is free when the end of the connection was noticed.
        let mut next = None;
        wait_for("a free slot", || {
            next = place.client(local(source(6)));
            next.is_some()
        });
        clients.extend(next);
        open(&place, &[(source(7), false)]);
    }
    assert!(clients.iter_mut().all(exchange), "{test}: a client was lost");
}

#[test]
fn limits_are_full_before_and_after() {
    limit_stays_full("kept-listener", "workers = 2", "max_connections = 3", "", false);
    limit_stays_full("kept-process", "workers = 2\nmax_connections = 3", "", "", false);
    limit_stays_full("kept-source", "workers = 2", "per_source = { connections = 3 }", "", true);
    limit_stays_full("kept-backend", "workers = 2", "", "max_connections = 3", false);
    limit_stays_full("kept-pool", "workers = 2", "", "limits = { connections = 3 }", false);
}

/// The file of the successor may have a lower limit. What is open goes on.
#[test]
fn connections_move_past_a_lower_limit() {
    let (place, backend) = (Place::new("kept-lower"), Backend::echo());
    let pool = echo_pool(&backend);
    let mut generations = Generations::start(&place.write("workers = 2", "max_connections = 5", &pool, ""));
    let sources: Vec<_> = (1..=5).map(|number| (number, true)).collect();
    let mut clients = open(&place, &sources);
    place.write("workers = 2\nmax_connections = 4", "max_connections = 2", &pool, "");
    generations.take_over();
    assert!(clients.iter_mut().all(exchange));
    open(&place, &[(6, false)]);
    clients.truncate(2);
    wait_for("three ends", || place.has_metric("pointsman_connections_active{listener=\"main\"} 2"));
    open(&place, &[(6, false)]);
    clients.truncate(1);
    wait_for("room", || place.client(local(7)).is_some());
    assert!(clients.iter_mut().all(exchange));
}

#[test]
fn the_admin_api_has_the_last_hand_over() {
    let (place, backend) = (Place::new("kept-report"), Backend::echo());
    let file = place.write("workers = 2", "", &echo_pool(&backend), "");
    let mut generations = Generations::start(&file);
    let _clients = open(&place, &[(1, true), (2, true)]);
    let page = |path: &str| -> serde_json::Value {
        serde_json::from_str(&admin::ask(place.admin(), path, PATIENCE).unwrap().1).unwrap()
    };
    assert!(page("/api/v1/upgrade").is_null());
    generations.take_over();
    wait_for("the end of the incumbent", || page("/api/v1/upgrade")["is_over"] == true);
    let last = page("/api/v1/upgrade");
    assert_eq!((&last["role"], &last["result"]), (&"successor".into(), &"ok".into()), "{last}");
    assert_eq!((&last["moved"], &last["remaining"]), (&2.into(), &0.into()), "{last}");
    assert_eq!(last["other_pid"], generations.pids[0], "{last}");
    assert!(last["longest_pause_seconds"].as_f64().unwrap() > 0.0 && last["fault"].is_null(), "{last}");
    assert_eq!(page("/api/v1/status")["upgrade"], last);
}

#[test]
fn a_source_over_its_rate_stays_over_it() {
    let (place, backend) = (Place::new("kept-rate"), Backend::echo());
    let listener = "per_source = { rate = \"1/m\", burst = 2 }";
    let file = place.write("workers = 2", listener, &echo_pool(&backend), "");
    let mut generations = Generations::start(&file);
    let _clients = open(&place, &[(1, true), (1, true), (1, false), (2, true)]);
    generations.take_over();
    open(&place, &[(1, false), (3, true), (3, true), (3, false)]);
}

#[test]
fn bans_that_were_added_stay_in_force() {
    let (place, backend) = (Place::new("kept-bans"), Backend::echo());
    let file = place.write("workers = 2", "deny = \"bans\"", &echo_pool(&backend), "[list.bans]\n");
    let mut generations = Generations::start(&file);
    let _clients = open(&place, &[(1, true), (2, true)]);
    for entry in ["127.0.5.1", "127.0.5.2?ttl=1h"] {
        let path = format!("/api/v1/lists/bans/{entry}");
        assert_eq!(admin::change(place.admin(), "POST", &path, PATIENCE).unwrap().0, 200);
    }
    open(&place, &[(1, false), (2, false), (3, true)]);
    for _ in 0..2 {
        generations.take_over();
        open(&place, &[(1, false), (2, false), (3, true)]);
    }
    let (_, list) = admin::ask(place.admin(), "/api/v1/lists/bans", PATIENCE).unwrap();
    assert!(list.contains("127.0.5.1") && list.contains("127.0.5.2"), "{list}");
    let path = "/api/v1/lists/bans/127.0.5.1";
    assert_eq!(admin::change(place.admin(), "DELETE", path, PATIENCE).unwrap().0, 200);
    open(&place, &[(1, true)]);
}

/// A backend that greets checks if it is well, and serves clients in any case.
struct CheckedBackend {
    address: SocketAddr,
    is_well: Arc<AtomicBool>,
    clients: Arc<AtomicUsize>,
}

impl CheckedBackend {
    fn start() -> Self {
        let (is_well, clients) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (well, count) = (Arc::clone(&is_well), Arc::clone(&clients));
        let backend = Backend::serve(move |mut stream| {
            if well.load(Ordering::Relaxed) {
                let _ = stream.write_all(b"well\n");
            }
            let mut buffer = [0; 100];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(&buffer[..n]);
            }
        });
        Self { address: backend.address, is_well, clients }
    }
}

/// The first check of the successor takes as long as its time limit, because the backend answers nothing. Until then
/// only the state of the incumbent keeps clients away.
#[test]
fn a_backend_that_is_down_gets_no_client() {
    let place = Place::new("kept-down");
    let (good, bad) = (CheckedBackend::start(), CheckedBackend::start());
    let pool = format!(
        "balance = \"round-robin\"\nbackends = [\"{}\", {{ name = \"bad\", address = \"{}\" }}]\nhealth = {{ check = \
         \"send-expect\", steps = [{{ expect = \"well\" }}], interval = \"1s\", timeout = \"1s\", fall = 2, rise = 2 }}",
        good.address, bad.address
    );
    let mut generations = Generations::start(&place.write("workers = 2", "", &pool, ""));
    bad.is_well.store(false, Ordering::Relaxed);
    let is_down = "pointsman_backend_up{pool=\"main\",backend=\"bad\"} 0";
    wait_for("the backend is down", || place.has_metric(is_down));
    let before = bad.clients.load(Ordering::Relaxed);
    for round in 0..3 {
        generations.take_over();
        assert!(place.has_metric(is_down), "round {round}: {}", place.metrics());
        for number in 0..20 {
            let mut client = patient(connect_from(local(number), place.main));
            expect_bytes(&client, b"well\n");
            assert!(exchange(&mut client));
        }
        assert_eq!(bad.clients.load(Ordering::Relaxed), before, "round {round}");
    }
    bad.is_well.store(true, Ordering::Relaxed);
    wait_for("the backend is up", || !place.has_metric(is_down));
}

/// Pointsman has greeted the client, so the dialogue goes on in the process that greeted. Another process would greet again.
#[test]
fn a_dialogue_before_tls_stays_where_it_began() {
    let (place, backend, mail) = (Place::new("kept-mail"), Backend::echo(), own_address());
    let listener = format!(
        "[listener.mail]\nbind = \"{mail}\"\nprotocol = \"smtp\"\nunmatched = \"main\"\nhostname = \"mx.example.com\""
    );
    let mut generations =
        Generations::start(&place.write("workers = 1", "", &echo_pool(&backend), &listener));
    let mut client = patient(connect_from(local(1), mail));
    expect_bytes(&client, b"220 mx.example.com ESMTP\r\n");
    client.write_all(b"EHLO client\r\n").unwrap();
    expect_bytes(&client, b"250-mx.example.com\r\n250 STARTTLS\r\n");
    let retired = generations.take_over_by(Path::new(env!("CARGO_BIN_EXE_pointsman")));
    generations.current.stderr.wait_for("took over from the program before");
    let (_, last) = admin::ask(place.admin(), "/api/v1/upgrade", PATIENCE).unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["remaining_by_stage"], serde_json::json!({ "reading": 1 }), "{last}");
    client.write_all(b"STARTTLS\r\n").unwrap();
    expect_bytes(&client, b"220 2.0.0 Ready to start TLS\r\n");
    drop(client);
    check_end(retired);
}

/// The connection ends although it is moved again and again: the silence so far moves with it.
#[test]
fn an_idle_timeout_is_not_prolonged_by_moves() {
    let (place, backend) = (Place::new("kept-idle"), Backend::echo());
    let listener = "idle_timeout = \"6s\"";
    let mut generations = Generations::start(&place.write("workers = 2", listener, &echo_pool(&backend), ""));
    let mut client = place.client(local(1)).unwrap();
    let reason = "pointsman_connections_closed_total{listener=\"main\",reason=\"idle_timeout\"} 1";
    let (began, mut moves) = (Instant::now(), 0);
    while !place.has_metric(reason) {
        // The moves themselves may take longer than the timeout on a busy machine, but no move begins it again.
        assert!(began.elapsed() < PATIENCE.max(Duration::from_secs(30)), "it is open after {moves} moves");
        generations.take_over();
        moves += 1;
    }
    assert!(moves >= 3, "it ended after {moves} moves: the moves show nothing");
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0), "it is closed");
}

/// A listener that the file of the successor does not have is closed; its connections go on until the drain is over.
#[test]
fn connections_of_a_listener_that_is_gone_go_on() {
    let (place, backend, other) = (Place::new("kept-gone"), Backend::echo(), own_address());
    let further = format!("[listener.other]\nbind = \"{other}\"\npool = \"main\"\n");
    let pool = echo_pool(&backend);
    let mut generations = Generations::start(&place.write("workers = 2", "", &pool, &further));
    let mut client = patient(TcpStream::connect(other).unwrap());
    assert!(exchange(&mut client));
    place.write("workers = 2", "", &pool, "");
    generations.take_over();
    assert!(exchange(&mut client));
    wait_for("a refusal", || TcpStream::connect(other).is_err());
    assert!(exchange(&mut client));
}

/// The clients of a paused pool would wait in the old process, where no operator could resume them.
#[test]
fn overrides_stay_in_force() {
    let (place, backend) = (Place::new("kept-overrides"), Backend::echo());
    let mut generations = Generations::start(&place.write("workers = 2", "", &echo_pool(&backend), ""));
    let change = |method, path: &str| {
        let (code, body) =
            admin::change(place.admin(), method, &format!("/api/v1/overrides/{path}"), PATIENCE).unwrap();
        assert_eq!(code, 200, "{path}: {body}");
    };
    let page = || -> serde_json::Value {
        serde_json::from_str(&admin::ask(place.admin(), "/api/v1/overrides", PATIENCE).unwrap().1).unwrap()
    };
    change("POST", "leave");
    change("POST", &format!("weight?pool=main&backend={}&value=9", backend.address));
    change("POST", "pause?pool=main&for=1h");
    let mut refused = generations.spawn_successor(Path::new(env!("CARGO_BIN_EXE_pointsman")));
    refused.stderr.wait_for("pool main is paused");
    assert_eq!(refused.end().code(), Some(1));
    let mut client = patient(connect_from(local(1), place.main));
    wait_for("a waiter", || page()[1]["waiting"] == 1);
    change("DELETE", "pause?pool=main");
    assert!(exchange(&mut client));
    change("POST", "log?value=debug&for=1h");
    let before = page();
    for _ in 0..2 {
        generations.take_over();
        let after = page();
        assert_eq!(after.as_array().unwrap().len(), 3, "{after}");
        for name in ["kind", "pool", "backend", "value", "since", "by"] {
            let all = |page: &serde_json::Value| -> Vec<_> {
                page.as_array().unwrap().iter().map(|set| set[name].clone()).collect()
            };
            assert_eq!(all(&after), all(&before), "{name}");
        }
        assert!((3000..=3600).contains(&after[2]["ends_in_seconds"].as_u64().unwrap()), "{after}");
        let (code, body) = admin::ask(place.admin(), "/ready", PATIENCE).unwrap();
        assert_eq!((code, &*body), (503, "leaving\n"));
    }
    assert!(exchange(&mut client));
}

/// A node that does not know its times would be ready again in the successor, and withdraw again after its floor.
#[test]
fn the_readiness_stays() {
    let place = Place::new("kept-ready");
    let pool = format!("backends = [\"{}\"]\nhealth = {{ interval = \"50ms\", fall = 1 }}", own_address());
    let write = |after: &str, floor: &str| {
        let keys = format!(
            "workers = 2\nready_needs = \"main\"\nready_needs_after = \"{after}\"\nready_floor = \"{floor}\""
        );
        place.write(&keys, "", &pool, "")
    };
    let answer = || admin::ask(place.admin(), "/ready", PATIENCE).unwrap();
    let readiness = || -> Value {
        let (_, page) = admin::ask(place.admin(), "/api/v1/status", PATIENCE).unwrap();
        serde_json::from_str::<Value>(&page).unwrap()["readiness"].clone()
    };
    let mut generations = Generations::start(&write("100ms", "20h"));
    wait_for("a node that is not ready", || answer().0 == 503);
    let lacks = "needs: pool main has no available backend\n";
    let since = |readiness: Value| humantime::parse_rfc3339(readiness["since"].as_str().unwrap()).unwrap();
    let before = since(readiness());
    // The successor would wait for an hour.
    write("1h", "20h");
    for _ in 0..2 {
        generations.take_over();
        assert_eq!(answer(), (503, lacks.to_owned()));
        let after = since(readiness());
        let apart = after.max(before).duration_since(after.min(before)).unwrap();
        assert!(apart < Duration::from_secs(5), "{before:?} {after:?}");
    }
    // Its floor is over, and stays over in the next process.
    let check_excused = || {
        assert_eq!((answer().0, readiness()["excused"][0]["pool"].as_str()), (200, Some("main")));
    };
    write("100ms", "100ms");
    generations.take_over();
    wait_for("the end of the floor", || answer().0 == 200);
    check_excused();
    write("100ms", "20h");
    generations.take_over();
    check_excused();
}

/// A server that speaks last: each process in a row hands its connection to the next.
#[test]
fn a_connection_lives_through_ten_processes() {
    let (place, backend) = (Place::new("kept-ten"), Backend::echo());
    let mut generations = Generations::start(&place.write("workers = 2", "", &echo_pool(&backend), ""));
    let mut client = place.client(local(1)).unwrap();
    let own = std::path::Path::new(env!("CARGO_BIN_EXE_pointsman"));
    for _ in 0..10 {
        check_end(generations.take_over_by(own));
        assert!(exchange(&mut client));
    }
    drop(client);
    wait_for("one record", || {
        std::fs::read_to_string(place.folder.path("access.log")).is_ok_and(|text| text.lines().count() == 1)
    });
    let text = std::fs::read_to_string(place.folder.path("access.log")).unwrap();
    let record: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (record["from_client_bytes"].as_u64(), record["from_backend_bytes"].as_u64()),
        (Some(55), Some(55))
    );
}

/// The clients of one source each, up to [`CROWD`].
const CROWD: u8 = 100;

/// A disk that is full takes no record. Connections move nevertheless.
#[test]
fn connections_move_while_the_disk_of_the_access_log_is_full() {
    let (mut place, backend) = (Place::new("kept-full-disk"), Backend::echo());
    place.access_log = "/dev/full".into();
    let mut generations = Generations::start(&place.write("workers = 2", "", &echo_pool(&backend), ""));
    let mut clients: Vec<_> = (1..=CROWD).map(|source| place.client(local(source)).unwrap()).collect();
    drop(place.client(local(101)));
    wait_for("a lost record", || place.has_metric("pointsman_access_log_dropped_total 1"));
    for _ in 0..3 {
        generations.take_over();
        assert!(clients.iter_mut().all(exchange));
    }
    let active = format!("pointsman_connections_active{{listener=\"main\"}} {CROWD}");
    assert!(place.has_metric(&active), "{}", place.metrics());
}

/// A route keeps its last use, and one that was never used the time since which it is counted. The frequent names and the
/// history begin again.
#[test]
fn the_last_use_of_routes_is_kept() {
    let (place, backend) = (Place::new("kept-routes"), Backend::echo());
    let keys = "routes = [{ source = \"127.0.5.1\", name = \"used\", pool = \"main\" }, { source = \"127.0.6.0/24\", \
                pool = \"main\" }]";
    let mut generations = Generations::start(&place.write("workers = 2", keys, &echo_pool(&backend), ""));
    let page = |path: &str| -> Value {
        let (code, body) = admin::ask(place.admin(), path, PATIENCE).unwrap();
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    let mut clients = open(&place, &[(1, true), (2, true)]);
    let rows = || {
        let page = page("/api/v1/routes");
        let keys = ["route", "connections", "last_used", "since"];
        let rows = page["routes"].as_array().unwrap().iter();
        rows.map(|row| keys.map(|key| row[key].clone())).collect::<Vec<_>>()
    };
    let before = rows();
    assert_eq!((&before[0][0], &before[0][1], &before[0][2]), (&"*+source".into(), &0.into(), &Value::Null));
    assert_eq!((&before[1][0], &before[1][1]), (&"used".into(), &1.into()));
    assert!(before[1][2].is_string(), "{before:?}");
    assert_eq!(page("/api/v1/top")["sources"]["connections"], 2);
    for _ in 0..2 {
        generations.take_over();
        assert_eq!(rows(), before);
    }
    assert!(clients.iter_mut().all(exchange));
    assert_eq!(page("/api/v1/top")["sources"]["connections"], 0);
    let sum = |values: &Value| values.as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    wait_for("the open connections", || {
        let history = page("/api/v1/history");
        let open = history["open"].as_array().unwrap().last().and_then(Value::as_u64);
        open == Some(2) && sum(&history["accepted"]) == 0 && sum(&history["from_client_bytes"]) == 10
    });
    clients.extend(open(&place, &[(1, true)]));
    wait_for("one use more", || rows()[1][1] == 2);
}

/// Returns the command of a program that is process 1 of a PID namespace, as in a container. The command itself waits for
/// its end.
fn as_process_one(arguments: &[&str], file: &Path) -> Command {
    let own = env!("CARGO_BIN_EXE_pointsman");
    let mut command =
        program(Path::new("unshare"), &["--pid", "--mount-proc", "--fork", "--kill-child", own]);
    command.args(arguments).arg(file);
    command
}

/// Each container hands over to the next. Its process 1 must not end by itself: the container would be started again, and
/// would take over back.
#[test]
#[ignore = "needs root and util-linux"]
fn process_one_of_a_container_stays_until_it_is_stopped() {
    let (place, backend) = (Place::new("kept-containers"), Backend::echo());
    let file = place.write("workers = 2", "", &echo_pool(&backend), "");
    let start = |arguments: &[&str]| {
        let program = Program::start(&mut as_process_one(arguments, &file));
        program.stderr.wait_for("serving");
        program
    };
    let mut containers = vec![start(&["run", "--take-over"])];
    let mut clients: Vec<_> = (1..=CROWD).map(|source| place.client(local(source)).unwrap()).collect();
    for _ in 0..3 {
        containers.push(start(&["run", "--take-over"]));
        let [.., before, _] = &containers[..] else { unreachable!("there are two containers") };
        before.stderr.wait_for("this process stays, without connections, until it is stopped");
        assert!(clients.iter_mut().all(exchange));
    }
    let active = format!("pointsman_connections_active{{listener=\"main\"}} {CROWD}");
    assert!(place.has_metric(&active), "{}", place.metrics());
    let last = containers.pop().unwrap();
    for mut container in containers {
        assert_eq!(container.child.try_wait().unwrap(), None, "it has ended");
        let id = container.child.id();
        let child = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        run_to_end("kill", &["-s", "TERM", child.trim()]);
        assert_eq!(container.end().code(), Some(0), "{}", container.stderr.all().join("\n"));
    }
    assert!(clients.iter_mut().all(exchange));
    drop(last);
}

#[track_caller]
fn run_to_end(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
