//! The parts of the status other than listeners, pools and backends: the configuration, problems, the last
//! events.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use pointsman::admin;
use serde_json::Value;

use crate::process::{Folder, Program, run};
use crate::support::pair::{patient, reset};
use crate::support::{Backend, PATIENCE, own_address, wait_for};

fn text(backends: &str) -> String {
    format!(
        "access_log.to = 'off'\nworkers = 1\nshutdown.drain = '0s'\nadmin.listen = 'unix:admin.sock'\n[list.bans]\n\
         [listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\ndeny = 'bans'\n[pool.app]\nbackends = [{backends}]\n\
         health = {{ interval = '100ms', fall = 1 }}\n"
    )
}

struct Fixture {
    folder: Folder,
    program: Program,
    admin: String,
}

impl Fixture {
    fn start(name: &str, backends: &str) -> Self {
        let folder = Folder::new(name);
        let admin = format!("unix:{}", folder.path("admin.sock").display());
        let path = folder.write("config.toml", &text(backends).replace("unix:admin.sock", &admin));
        let program = Program::serve(&path);
        program.stderr.wait_for("admin listens");
        Self { folder, program, admin }
    }

    fn reload(&self, text: &str) {
        self.folder.write("config.toml", &text.replace("unix:admin.sock", &self.admin));
        self.program.signal("HUP");
    }

    fn status(&self) -> Value {
        let address: pointsman::sys::Address = self.admin.parse().unwrap();
        let (code, body) = admin::ask(address, "/api/v1/status", PATIENCE).unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Returns the output of the command with these options.
    fn shown(&self, options: &[&str]) -> String {
        let output = run(&[&["status", "--admin", &self.admin], options].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the kinds and texts of problems or events.
    fn listed(&self, what: &str) -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let status = self.status();
        let items = status[what].as_array().unwrap().iter();
        items.map(|item| (word(&item["kind"]), word(&item["text"]))).collect()
    }

    fn wait_for(&self, what: &str, kind: &str, part: &str) {
        wait_for(&format!("{part} in {what}"), || {
            self.listed(what).iter().any(|(of, text)| of == kind && text.contains(part))
        });
    }
}

#[test]
fn a_reload_that_failed_is_a_problem_until_one_succeeds() {
    let backend = Backend::echo();
    let one = format!("'{}'", backend.address);
    let fixture = Fixture::start("status-reload", &one);
    let config = &fixture.status()["config"];
    assert!(config["file"].as_str().unwrap().ends_with("config.toml"), "{config}");
    assert_eq!(config["last_reload"], Value::Null);
    wait_for("all is well", || fixture.shown(&[]).contains("all is well"));
    fixture.reload(&(text(&one) + "oops = 1\n"));
    fixture.wait_for("problems", "reload", "oops");
    fixture.wait_for("events", "reload", "not reloaded: unknown key `oops`");
    let reload = &fixture.status()["config"]["last_reload"];
    assert_eq!(reload["result"], "failed");
    assert!(reload["fault"].as_str().unwrap().contains("config.toml:"), "{reload}");
    let shown = fixture.shown(&[]);
    let at = |part: &str| shown.find(part).unwrap_or_else(|| panic!("no {part} in\n{shown}"));
    assert!(at("last reload: failed") < at("NOT WELL") && at("NOT WELL") < at("oops"), "{shown}");
    assert!(
        at("oops") < at("LISTENER") && at("LISTENER") < at("POOL") && at("BACKEND") < at("EVENT"),
        "{shown}"
    );
    fixture.reload(&text(&one));
    fixture.wait_for("events", "reload", "reloaded: nothing changed");
    assert_eq!(fixture.status()["config"]["last_reload"]["result"], "ok");
    assert!(fixture.listed("problems").is_empty());
}

/// A line of the file may have a secret, also if the fault is that its key is not recognized. `pointsman check` shows the
/// lines, and the status does not.
#[test]
fn the_fault_of_a_reload_shows_no_lines_of_the_file() {
    const SECRET: &str = "S3cretOfTheChecks";
    let backend = Backend::echo();
    let one = format!("'{}'", backend.address);
    let fixture = Fixture::start("status-secret", &one);
    let header = format!("headers = {{ Authorization = 'Bearer {SECRET}' }}");
    for broken in [
        format!("hash_key = '{SECRET}'\n{}", text(&one)),
        format!("hashkey = '{SECRET}'\n{}", text(&one)),
        format!("hash_key = '{SECRET}\n{}", text(&one)),
        text(&one) + &format!("health = {{ check = 'http', {header}, intervall = '5s' }}\n"),
        text(&one) + &format!("[pool.other]\nhash_key = '{SECRET}'\noops = 1\n"),
    ] {
        let shown = pointsman::config::parse("config.toml", &broken).unwrap_err().render(false);
        assert!(shown.contains(SECRET), "the test shows nothing: {shown}");
        fixture.reload(&broken);
        let reload = || fixture.status()["config"]["last_reload"].clone();
        wait_for("the fault", || reload()["result"] == "failed");
        let fault = reload()["fault"].as_str().unwrap().to_owned();
        assert!(fault.contains("config.toml:") && fault.contains("error["), "{fault}");
        let status = fixture.status().to_string() + &fixture.shown(&["--all"]);
        assert!(!status.contains(SECRET), "{status}");
        let log = fixture.program.stderr.all().join("\n");
        assert!(log.contains("not reloaded") && !log.contains(SECRET), "{log}");
        fixture.reload(&text(&one));
        wait_for("a good reload", || reload()["result"] == "ok");
    }
}

/// Old events are dropped; standing faults stay until they are over.
#[test]
fn broken_files_and_settings_that_need_a_restart_are_problems() {
    let backend = Backend::echo();
    let one = format!("'{}'", backend.address);
    let fixture = Fixture::start("status-files", &one);
    let (bans, routes) = ("192.0.2.1\n", "routes = [{ source = '192.0.2.2', pool = 'app' }]\n");
    fixture.folder.write("bans.txt", bans);
    fixture.folder.write("routes.toml", routes);
    let with_files = text(&one)
        .replace("[list.bans]", "[list.bans]\nfile = 'bans.txt'")
        .replace("deny =", "routes_file = 'routes.toml'\ndeny =");
    fixture.reload(&with_files.replace("workers = 1", "workers = 2"));
    fixture.wait_for("problems", "restart", "a restart is needed for workers; until then");
    let severity = |part: &str| {
        let status = fixture.status();
        let events = status["events"].as_array().unwrap();
        let event = events.iter().find(|event| event["text"].as_str().unwrap().contains(part));
        event.unwrap()["severity"].as_str().unwrap().to_owned()
    };
    assert_eq!(severity("a restart is needed for workers"), "warning");
    fixture.folder.write("bans.txt", "nonsense\n");
    fixture.wait_for("problems", "list", "the list keeps its entries: error[C");
    fixture.folder.write("routes.toml", "routes = 1\n");
    fixture.wait_for("problems", "routes", "the routes stay as they are: error[C");
    let is_over = |of: &str| fixture.listed("problems").iter().all(|(kind, _)| kind != of);
    fixture.folder.write("bans.txt", bans);
    wait_for("the list is good", || is_over("list"));
    assert!(!is_over("routes") && !is_over("restart"));
    fixture.folder.write("routes.toml", routes);
    wait_for("the routes are good", || is_over("routes"));
    fixture.reload(&with_files);
    wait_for("all is well", || fixture.listed("problems").is_empty());
    assert_eq!(severity("reloaded: "), "info", "the newest");
    // A list without a file cannot have a broken file.
    fixture.folder.write("bans.txt", "");
    fixture.wait_for("problems", "list", "the file of list bans has no entries");
    fixture.reload(&text(&one));
    wait_for("all is well", || fixture.listed("problems").is_empty());
}

#[test]
fn changes_of_states_and_lists_and_saturation_are_events() {
    let backend = Backend::echo();
    let closed = own_address();
    let fixture = Fixture::start("status-events", &format!("'{}', '{closed}'", backend.address));
    fixture.wait_for("problems", "backend", "down for");
    fixture.wait_for("events", "backend", &format!("app/{closed} is down"));
    for (command, said) in [("add", "added"), ("remove", "removed")] {
        let output = run(&["list", command, "bans", "192.0.2.1", "--admin", &fixture.admin]);
        assert!(output.status.success(), "{output:?}");
        fixture.wait_for("events", "list", said);
    }
    let limited = format!("max_connections = 1\n{}", text(&format!("'{}'", backend.address)));
    fixture.reload(&limited);
    fixture.wait_for("events", "reload", "max_connections");
    let address = fixture.program.address("main");
    let _held: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    fixture.wait_for("problems", "saturation", "process_full");
    fixture.wait_for("events", "saturation", "process_full: new connections are refused");
    let events = fixture.listed("events");
    assert_eq!(
        events.last().unwrap(),
        &("process".to_owned(), "serving".to_owned()),
        "the oldest is the last"
    );
    let json: Value = serde_json::from_str(&fixture.shown(&["--json"])).unwrap();
    assert!(json["events"].as_array().unwrap().len() >= events.len());
}

/// Checks that only connect find nothing, and no connect fails: the resets come later.
#[test]
fn a_backend_that_resets_open_connections_is_a_problem() {
    let resets = Backend::serve(|mut stream| {
        let _ = stream.write_all(b"!");
        let _ = stream.read(&mut [0; 100]);
        reset(stream);
    });
    let fixture = Fixture::start("status-resets", &format!("'{}'", resets.address));
    let address = fixture.program.address("main");
    for _ in 0..5 {
        let mut client = patient(TcpStream::connect(address).unwrap());
        client.read_exact(&mut [0]).unwrap();
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0]).expect_err("the backend resets");
    }
    fixture.wait_for("problems", "backend", "it counts as up, and it reset 5 connections within two minutes");
    let status = fixture.status();
    let problem = &status["problems"][0];
    assert_eq!(problem["name"], format!("app/{}", resets.address), "{problem}");
    let backend = &status["pools"][0]["backends"][0];
    let connections = &backend["connections"];
    assert_eq!((&backend["troubles"]["recent"], &connections["recent"]), (&0.into(), &5.into()), "{backend}");
}

/// The limit of connections follows from the descriptors, until the configuration has one.
#[test]
fn the_limit_of_connections_has_its_origin() {
    let backend = Backend::echo();
    let one = format!("'{}'", backend.address);
    let fixture = Fixture::start("status-limit", &one);
    let connections = fixture.status()["connections"].clone();
    let descriptors = connections["limit_from_descriptors"].as_u64().unwrap();
    assert!(descriptors > connections["limit"].as_u64().unwrap(), "{connections}");
    fixture.reload(&format!("max_connections = 1\n{}", text(&one)));
    fixture.wait_for("events", "reload", "max_connections");
    let _held = TcpStream::connect(fixture.program.address("main")).unwrap();
    fixture.wait_for("problems", "saturation", "the limit of 1 is max_connections of the configuration");
    assert_eq!(fixture.status()["connections"]["limit_from_descriptors"], Value::Null);
}

/// A backend that accepts and then sends nothing passes a check that only connects; the status shows it.
#[test]
fn connections_that_wait_for_a_backend_are_shown() {
    let (backend, silent) = (Backend::echo(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = silent.local_addr().unwrap();
    let fixture = Fixture::start("status-waiting", &format!("'{}', '{address}'", backend.address));
    let text = text(&format!("'{}', '{address}'", backend.address));
    fixture.reload(&text.replace("[pool.app]\n", "[pool.app]\nbalance = 'round-robin'\n"));
    fixture.wait_for("events", "reload", "reloaded");
    let waiting = || -> Vec<u64> {
        let backends = fixture.status()["pools"][0]["backends"].clone();
        let of = |backend: &Value| backend["connections"]["waiting"].as_u64();
        backends.as_array().unwrap().iter().filter_map(of).collect()
    };
    assert_eq!(waiting(), [0, 0]);
    assert!(!fixture.shown(&[]).contains("NO BYTE"));
    let held: Vec<_> = (0..40)
        .map(|_| {
            let mut client = TcpStream::connect(fixture.program.address("main")).unwrap();
            client.write_all(b"?").unwrap();
            client
        })
        .collect();
    let of_silent = || fixture.status()["pools"][0]["backends"][1]["connections"]["active"].as_u64().unwrap();
    wait_for("every connection to have its backend", || {
        let status = fixture.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap().clone();
        backends.iter().map(|one| one["connections"]["active"].as_u64().unwrap()).sum::<u64>() == 40
    });
    wait_for("the echoes", || waiting()[0] == 0);
    assert!(of_silent() > 5 && waiting()[1] == of_silent(), "{:?}", waiting());
    let shown = fixture.shown(&[]);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(&format!("app/{name} "))).unwrap();
    assert!(shown.contains("  OPEN  NO BYTE  LIMIT  "), "{shown}");
    let row: Vec<_> = line(&address.to_string()).split_whitespace().collect();
    assert_eq!((row[3], row[4]), (&*of_silent().to_string(), &*of_silent().to_string()), "{shown}");
    let at = |name: &str| shown.find(&format!("app/{name} ")).unwrap();
    assert!(
        at(&address.to_string()) < at(&backend.address.to_string()),
        "those that wait come first: {shown}"
    );
    // In this protocol clients may wait for long, so silence is no fault of the backend.
    assert!(fixture.listed("problems").is_empty(), "{shown}");
    drop((held, silent));
    wait_for("nobody to wait", || waiting() == [0, 0]);
}

/// The warning of `check` comes again when a file with routes has the fault, once for each such change of the
/// file.
#[test]
fn a_file_with_routes_that_leaves_a_name_to_a_wider_route_is_reported() {
    let backend = Backend::echo();
    let fixture = Fixture::start("status-leak", &format!("'{}'", backend.address));
    let routes = |of: &str| {
        fixture
            .folder
            .write("routes.new", &format!("routes = [{{ sni = '*.example', pool = 'app' }}, {of}]\n"));
        std::fs::rename(fixture.folder.path("routes.new"), fixture.folder.path("routes.toml")).unwrap();
    };
    let narrow = |name: &str, weight: u32| {
        format!(
            "{{ sni = '{name}.example', source = '10.0.0.0/8', pool = 'app', limits = {{ connections = {weight} }} }}"
        )
    };
    routes("{ sni = 'a.example', pool = 'app' }");
    fixture.reload(
        &text(&format!("'{}'", backend.address))
            .replace("deny =", "protocol = 'tls'\nroutes_file = 'routes.toml'\ndeny =")
            .replace("pool = 'app'\nprotocol", "protocol"),
    );
    fixture.wait_for("events", "reload", "reloaded");
    let told = || {
        let lines = fixture.program.stderr.all();
        lines.into_iter().filter(|line| line.contains("C0451")).collect::<Vec<_>>()
    };
    let read = |nth| fixture.program.stderr.wait_for_nth(nth, "the routes were read again");
    routes(&narrow("a", 1));
    read(1);
    let line = fixture.program.stderr.wait_for("C0451");
    assert!(line.contains(" WARN ") && line.contains("listener=main"), "{line}");
    assert!(
        line.contains("connections for `a.example` that do not match `source` go to `*.example`"),
        "{line}"
    );
    fixture.wait_for(
        "events",
        "routes",
        "connections for `a.example` that do not match `source` go to `*.example`",
    );
    // These other routes have the same finding.
    routes(&narrow("a", 2));
    read(2);
    // There is a second finding beside the first.
    routes(&[narrow("a", 2), narrow("b", 2)].join(", "));
    read(3);
    fixture.program.stderr.wait_for("connections for `b.example`");
    assert_eq!(told().len(), 2, "{:?}", told());
    // The fault is removed, and then comes again.
    routes("{ sni = 'a.example', pool = 'app' }");
    read(4);
    routes(&narrow("a", 1));
    read(5);
    wait_for("the warning again", || told().len() == 3);
    assert!(told()[2].contains("`a.example`"), "{:?}", told());
}

#[test]
fn a_listener_is_shown_with_the_protocol_of_its_configuration() {
    let backend = Backend::echo();
    let words = ["auto", "imap", "pop3", "postgres", "smtp", "tcp", "tls"];
    let listener = |word: &str| {
        let target = match word {
            "tcp" => "pool",
            "postgres" => "cancel = 'reject'\nunmatched",
            _ => "unmatched",
        };
        format!("[listener.{word}]\nbind = '127.0.0.1:0'\nprotocol = '{word}'\n{target} = 'app'\n")
    };
    let one = format!("'{}'", backend.address);
    let fixture = Fixture::start("status-protocols", &one);
    fixture.reload(&(text(&one) + &words.map(listener).concat()));
    fixture.wait_for("events", "reload", "reloaded");
    let status = fixture.status();
    let listeners = status["listeners"].as_array().unwrap().iter();
    let shown: Vec<_> = listeners.map(|one| (one["name"].as_str(), one["protocol"].as_str())).collect();
    let mut expected: Vec<_> = words.iter().map(|word| (Some(*word), Some(*word))).collect();
    expected.insert(2, (Some("main"), Some("tcp")));
    assert_eq!(shown, expected);
    let table = fixture.shown(&[]);
    for word in words {
        let is_row = |line: &&str| line.split_whitespace().filter(|cell| *cell == word).count() == 2;
        assert!(table.lines().any(|line| is_row(&line)), "{word}: {table}");
    }
}
