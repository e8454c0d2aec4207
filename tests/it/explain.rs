//! `explain`: its reports are the decisions of real connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use pointsman::admin;
use pointsman::conn::explain::{ExplainRequest, ExplainedHello, Explanation};
use pointsman::server::{LifeStage, explain_running};
use serde_json::Value;

use crate::process::{Folder, Program, run};
use crate::support::hello::{self, hello, nameless};
use crate::support::pair::connect_from;
use crate::support::recorder::{Recorder, list};
use crate::support::{PATIENCE, Proxy, config, wait_for};

/// A listener with each kind of route, in front of pools that pick by the key of a connection.
fn text(backends: &[Recorder], keys: &str) -> String {
    let [all, few, weighted, last] = [
        list(backends),
        list(&backends[..3]),
        format!(
            "[{}]",
            backends
                .iter()
                .zip([1, 2, 0, 5, 3])
                .map(|(one, weight)| one.weighing(weight))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        list(&backends[4..]),
    ];
    format!(
        r#"
        workers = 2
        access_log.to = "off"
        [list.bans]
        entries = ["127.66.0.0/16"]
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        deny = "bans"
        routes = [
          {{ sni = "exact.example.com", pool = "named" }},
          {{ sni = "exact.example.com", source = "127.1.0.0/16", pool = "last" }},
          {{ sni = "*.example.com", pool = "named" }},
          {{ sni = "*.example.com", source = "127.1.0.0/16", pool = "weighted" }},
          {{ sni = "*.deep.example.com", depth = 1, pool = "both" }},
          {{ sni_regex = "h[0-9]*[05]\\.example\\.info", pool = "both" }},
          {{ sni = "*.example.net", split = [{{ pool = "named" }}, {{ pool = "weighted", weight = 2 }}] }},
          {{ sni = "*.shut.example", action = "reject" }},
          {{ source = "127.2.0.0/16", pool = "weighted" }},
        ]
        no_sni = "weighted"
        unmatched = "reject"
        [pool.named]
        hash_on = "sni"
        backends = {all}
        health.check = "off"
        [pool.both]
        hash_on = ["sni", "source-ip"]
        backends = {few}
        health.check = "off"
        [pool.weighted]
        backends = {weighted}
        health.check = "off"
        {keys}
        [pool.last]
        balance = "failover"
        backends = {last}
        health.check = "off"
        "#
    )
}

/// A client with a name and an address that a number decides.
struct Client {
    source: Ipv4Addr,
    name: Option<String>,
}

impl Client {
    fn of(state: &mut u64) -> Self {
        let mut draw = |below: u64| {
            // The multiplier and the increment of Knuth's MMIX.
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 33) % below
        };
        let network = [1, 2, 66, 3, 4, 5, 6, 7][draw(8) as usize];
        let source = Ipv4Addr::new(127, network, draw(256) as u8, 1 + draw(254) as u8);
        let number = draw(1000);
        let name = match draw(11) {
            0 => None,
            1 => Some("exact.example.com".to_owned()),
            2 | 3 => Some(format!("h{number}.example.com")),
            4 => Some(format!("h{number}.deep.example.com")),
            5 => Some(format!("a.h{number}.deep.example.com")),
            6 | 7 => Some(format!("h{number}.example.net")),
            8 => Some(format!("h{number}.shut.example")),
            9 => Some(format!("h{number}.example.info")),
            _ => Some(format!("h{number}.example.org")),
        };
        Self { source, name }
    }

    fn hello(&self) -> Vec<u8> {
        self.name.as_ref().map_or_else(nameless, |name| hello(name.as_bytes()))
    }

    /// Asks the function that the admin listener calls.
    fn explained(&self, proxy: &Proxy) -> Explanation {
        let source = Some(SocketAddr::new(self.source.into(), 0));
        let server_name = self.name.as_ref().map(|name| name.parse().unwrap());
        let hello = ExplainedHello::Made { server_name, alpn: Vec::new() };
        let request = ExplainRequest { source, destination: None, hello, requested: None };
        explain_running(proxy.remote.view(), "main", &request).unwrap()
    }

    /// Asks the admin listener.
    fn asked(&self, admin: SocketAddr) -> Value {
        let name = self.name.as_ref().map(|name| format!("&sni={name}")).unwrap_or_default();
        let path = format!("/api/v1/explain?listener=main&source={}{name}", self.source);
        let (code, page) = admin::ask(admin, &path, PATIENCE).unwrap();
        assert_eq!(code, 200, "{page}");
        serde_json::from_str(&page).unwrap()
    }

    /// Connects, and returns the name of the backend that greets; `None` for a client that is refused.
    fn served(&self, proxy: &Proxy) -> Option<String> {
        let mut stream = connect_from(IpAddr::V4(self.source), proxy.address("main"));
        let mut answer = Vec::new();
        let mut byte = [0];
        // A refused client may be reset before its hello is sent.
        if stream.write_all(&self.hello()).is_ok() {
            while let Ok(1) = stream.read(&mut byte) {
                if byte[0] == b'\n' {
                    return Some(String::from_utf8(answer).unwrap());
                }
                answer.push(byte[0]);
            }
        }
        None
    }
}

/// The results of many clients.
#[derive(Default)]
struct Tally {
    backends: BTreeMap<String, usize>,
    refusals: BTreeMap<&'static str, usize>,
    routes: BTreeSet<String>,
    moved: usize,
}

impl Tally {
    /// Compares the report about a client with its connection.
    fn check(&mut self, client: &Client, proxy: &Proxy, admin: SocketAddr) {
        let explanation = client.explained(proxy);
        let page = client.asked(admin);
        let report = serde_json::to_value(&explanation).unwrap();
        // The counts of open connections change meanwhile, as earlier clients leave.
        for key in ["served", "refused", "server_name", "route", "pool", "sends", "bounds", "notes"] {
            assert_eq!(page[key], report[key], "{key} of the page is that of the report");
        }
        assert_eq!(page["pick"]["backend"]["name"], report["pick"]["backend"]["name"]);
        let served = client.served(proxy);
        let picked = explanation.pick.as_ref().and_then(|pick| pick.backend.as_ref());
        assert_eq!(served.as_ref(), picked.map(|backend| &backend.name), "{explanation:#?}");
        assert_eq!(explanation.served, served.is_some());
        match (served, explanation.refused) {
            (Some(name), None) => *self.backends.entry(name).or_default() += 1,
            (None, Some(refused)) => *self.refusals.entry(refused.close).or_default() += 1,
            (served, refused) => panic!("{served:?} {refused:?}"),
        }
        self.moved += usize::from(explanation.pick.is_some_and(|pick| pick.owner.is_some()));
        self.routes.extend(explanation.route.and_then(|route| route.route));
    }
}

/// Issue 17: explain is the data path.
#[test]
fn a_thousand_clients_go_where_explain_says() {
    let backends = Recorder::several("b", 5);
    let (proxy, admin) = Proxy::start_with_admin(config(&text(&backends, "")));
    wait_until(&proxy, LifeStage::Serving);
    let (mut state, mut tally) = (17, Tally::default());
    for _ in 0..600 {
        tally.check(&Client::of(&mut state), &proxy, admin);
    }
    assert_eq!(tally.moved, 0, "each slot belongs to a backend that is up");
    // One backend of each pool takes no more clients: other backends get the clients of its slots.
    let mut drained = config(&text(&backends, ""));
    for pool in &mut drained.pools {
        let spec = pool.backends.iter_mut().find(|backend| *backend.name == *"b1");
        spec.into_iter().for_each(|backend| backend.operator_state = pointsman::pool::OperatorState::Drain);
    }
    proxy.remote.reload(drained).unwrap();
    for _ in 0..400 {
        tally.check(&Client::of(&mut state), &proxy, admin);
    }
    assert!(tally.moved > 20, "{}", tally.moved);
    assert_eq!(tally.backends.keys().map(String::as_str).collect::<Vec<_>>(), ["b0", "b1", "b2", "b3", "b4"]);
    let routes = [
        "*+source",
        "*.deep.example.com",
        "*.example.com",
        "*.example.com+source",
        "*.example.net",
        "*.shut.example",
        "/h[0-9]*[05]\\.example\\.info/",
        "exact.example.com",
        "exact.example.com+source",
        "no_sni",
    ];
    assert_eq!(tally.routes.iter().map(String::as_str).collect::<Vec<_>>(), routes);
    // The reasons are those of the connections, and a report counts nothing.
    let reasons: Vec<_> = tally.refusals.keys().copied().collect();
    assert_eq!(reasons, ["denied", "route_rejected", "unmatched_sni"]);
    for (reason, count) in tally.refusals {
        proxy.wait_for_metric(
            &format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#),
            count as f64,
        );
    }
    proxy.wait_for_metric(r#"pointsman_connections_total{listener="main"}"#, 1000.0);
}

fn wait_until(proxy: &Proxy, stage: LifeStage) {
    wait_for(&format!("{stage:?}"), || proxy.remote.view().life() == stage);
}

#[test]
fn a_process_that_drains_says_so() {
    let backends = Recorder::several("b", 5);
    let proxy = Proxy::start(config(&format!("shutdown.grace = '1h'\n{}", text(&backends, ""))));
    wait_until(&proxy, LifeStage::Serving);
    assert!(at_home(&proxy, "exact.example.com").0.notes.is_empty());
    proxy.remote.stop();
    wait_until(&proxy, LifeStage::Draining);
    let notes = at_home(&proxy, "exact.example.com").0.notes;
    assert!(notes.len() == 1 && notes[0].starts_with("the process drains"), "{notes:?}");
}

/// Returns the report about a client of 127.0.0.1 with this name, and the word of its refusal.
fn at_home(proxy: &Proxy, name: &str) -> (Explanation, Option<&'static str>) {
    let client = Client { source: Ipv4Addr::LOCALHOST, name: Some(name.to_owned()) };
    let explanation = client.explained(proxy);
    let refused = explanation.refused.as_ref().map(|refused| refused.close);
    (explanation, refused)
}

#[test]
fn limits_that_are_reached_refuse() {
    let backends = Recorder::several("b", 1);
    let start = |listener: &str, pool: &str| {
        let backends = list(&backends);
        Proxy::start(config(&format!(
            "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
             unmatched = 'p'\n{listener}\n[pool.p]\nbackends = {backends}\nhealth.check = 'off'\n{pool}"
        )))
    };
    let cases = [
        ("per_source = { connections = 1 }", "", "source_connections", "source"),
        ("per_source = { rate = '1/m' }", "", "source_rate", "source"),
        ("max_connections = 1", "", "listener_full", "listener"),
        ("rate = '1/m'", "", "listener_rate", "listener"),
        ("", "limits = { connections = 1 }", "pool_full", "pool"),
        ("", "limits = { rate = '1/m' }", "pool_rate", "pool"),
    ];
    for (listener, pool, reason, of) in cases {
        let proxy = start(listener, pool);
        for _ in 0..5 {
            assert_eq!(at_home(&proxy, "a.example").1, None, "{reason}: a report takes nothing");
        }
        let mut stream = proxy.connect();
        stream.write_all(&hello(b"a.example")).unwrap();
        stream.read_exact(&mut [0]).expect("the first client is served");
        let (explanation, refused) = at_home(&proxy, "a.example");
        assert_eq!(refused, Some(reason), "{explanation:#?}");
        let limit = explanation.admission.limits.iter().find(|limit| limit.of == of).unwrap();
        assert_eq!(limit.open, 1, "{limit:?}");
        assert_eq!(
            (limit.connections == Some(1), limit.burst == Some(1)),
            (!reason.ends_with("rate"), reason.ends_with("rate")),
            "{limit:?}"
        );
        let mut second = proxy.connect();
        let answer = second.write_all(&hello(b"a.example")).and_then(|()| second.read(&mut [0; 1]));
        assert!(!matches!(answer, Ok(1)) || reason.starts_with("pool"), "{reason}: {answer:?}");
        proxy.wait_for_metric(
            &format!(r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#),
            1.0,
        );
    }
}

#[test]
fn full_backends_make_clients_wait_or_refuse() {
    let backends = Recorder::several("b", 1);
    let start = |queue: &str| {
        let written = backends[0].written().replace(" }", ", max_connections = 1 }");
        Proxy::start(config(&format!(
            "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
             unmatched = 'p'\n[pool.p]\nbackends = [{written}]\nhealth.check = 'off'\n{queue}"
        )))
    };
    for (queue, expected) in [("", Some("queue_full")), ("queue = { length = 1, timeout = '1h' }", None)] {
        let proxy = start(queue);
        let mut stream = proxy.connect();
        stream.write_all(&hello(b"a.example")).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let (explanation, refused) = at_home(&proxy, "a.example");
        assert_eq!(refused, expected, "{explanation:#?}");
        assert_eq!(explanation.pick.is_some_and(|pick| pick.queued), expected.is_none());
        if expected.is_none() {
            let mut waiter = proxy.connect();
            waiter.write_all(&hello(b"a.example")).unwrap();
            let waiting = || proxy.remote.view().snapshot.load().pools["p"].pool.waiting();
            wait_for("a waiter", || waiting() == 1);
            assert_eq!(at_home(&proxy, "a.example").1, Some("queue_full"), "the queue is full");
        }
    }
}

/// A configuration on the disk, and a process that runs with it.
struct Fixture {
    folder: Folder,
    file: String,
    admin: String,
    _program: Program,
}

impl Fixture {
    fn start(name: &str) -> Self {
        let folder = Folder::new(name);
        let admin = format!("unix:{}", folder.path("admin.sock").display());
        let text = format!(
            "access_log.to = 'off'\nworkers = 1\nshutdown.drain = '0s'\nadmin.listen = '{admin}'\n[list.bans]\n\
             entries = ['192.0.2.0/24']\n[listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\ndeny = 'bans'\n\
             routes = [\n  {{ sni = 'db.example.com', pool = 'app' }},\n  {{ sni = 'h2.example.com', alpn = 'h2', pool = \
             'app' }},\n]\n[pool.app]\nbackends = ['127.0.0.1:1', '127.0.0.1:2']\nhealth.check = 'off'\n"
        );
        let file = folder.write("config.toml", &text);
        let program = Program::serve(&file);
        program.stderr.wait_for("admin listens");
        Self { file: file.display().to_string(), folder, admin, _program: program }
    }

    /// Runs `explain` and returns its exit code, standard output and standard error.
    fn explain(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = run(&[&["explain"], arguments].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn check(&self, arguments: &[&str], code: i32, parts: &[&str]) {
        let (found, stdout, stderr) = self.explain(arguments);
        assert_eq!(found, code, "{arguments:?}: {stdout}{stderr}");
        assert_eq!(stdout.is_empty(), code == 2, "{arguments:?}: {stdout}");
        for part in parts {
            let stream = if code == 2 { &stderr } else { &stdout };
            assert!(stream.contains(part), "{arguments:?}: no {part} in {stream}");
        }
    }

    fn hello(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

#[test]
fn the_command_shows_the_file_and_the_running_process() {
    let fixture = Fixture::start("explain-command");
    let file = &*fixture.file;
    let own = ["--listener", "tls", "--source", "203.0.113.7"];
    let from_file = |more: &[&'static str]| [&[file], &own[..], more].concat();
    let line = format!("\"db.example.com\"   {file}:12");
    let served =
        ["admitted   no list denies 203.0.113.7 (bans)", &line, "pool       app: maglev", "2 of 2 up"];
    fixture.check(&from_file(&["--sni", "db.example.com"]), 0, &served);
    let running = ["--running", "--admin", &fixture.admin];
    let both = [&[file], &own[..], &running, &["--sni", "db.example.com"]].concat();
    fixture.check(&both, 0, &served);
    let alone = [&own[..], &running, &["--sni", "db.example.com"]].concat();
    fixture.check(&alone, 0, &["\"db.example.com\"   it has this name", "limit of the process: "]);
    assert!(!fixture.explain(&alone).1.contains("the configuration alone"));
    fixture.check(&from_file(&["--sni", "other.example"]), 3, &["unmatched_sni", "not \"db.example.com\""]);
    fixture.check(&[&own[..], &running, &["--sni", "other.example"]].concat(), 3, &["unmatched_sni"]);
    let denied = [file, "--listener", "tls", "--source", "192.0.2.7", "--sni", "db.example.com"];
    fixture.check(&denied, 3, &["admitted   no: list bans in `deny` has 192.0.2.7", "refused    denied:"]);
    // ALPN decides a route.
    let h2 = ["--sni", "h2.example.com", "--alpn"];
    fixture.check(&[&from_file(&[])[..], &h2, &["http/1.1,h2"]].concat(), 0, &["\"h2.example.com+alpn\""]);
    fixture.check(&[&from_file(&[])[..], &h2, &["http/1.1"]].concat(), 3, &["(alpn)"]);
    fixture.check(&[&own[..], &running, &h2, &["http/1.1,h2"]].concat(), 0, &["\"h2.example.com+alpn\""]);
    // JSON has the same keys in both forms.
    let keys = |arguments: &[&str]| {
        let (code, stdout, _) =
            fixture.explain(&[arguments, &["--json", "--sni", "db.example.com"]].concat());
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &report["pick"]["certain"]), (0, &Value::Bool(true)), "{stdout}");
        report.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&from_file(&[])), keys(&[&own[..], &running].concat()));
}

#[test]
fn a_captured_hello_decides_the_route() {
    let fixture = Fixture::start("explain-hello");
    let own_hello = hello(b"db.example.com");
    let path = fixture.hello("hello.bin", &own_hello);
    let running = ["--running", "--admin", &fixture.admin];
    let own = ["--listener", "tls", "--source", "203.0.113.7", "--hello"];
    fixture.check(&[&[&*fixture.file], &own[..], &[&path]].concat(), 0, &["\"db.example.com\""]);
    fixture.check(&[&own[..], &[&path], &running].concat(), 0, &["\"db.example.com\""]);
    let chromium = fixture.hello("chromium.bin", &hello::fixture("chromium"));
    for rest in [&[&*fixture.file][..], &running] {
        let (code, stdout, stderr) = fixture.explain(&[rest, &own[..], &[&chromium], &["--json"]].concat());
        let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(code, 3, "{stdout}");
        assert_eq!(report["alpn"], serde_json::json!(["h2", "http/1.1"]), "{stdout}");
        assert!(report["ja4"].as_str().unwrap().starts_with("t13d"), "{stdout}");
    }
    let shown = [&[&*fixture.file], &own[..], &[&path]].concat();
    fixture.check(&shown, 0, &["hello      db.example.com, no ALPN, JA4 t"]);
    // A listener refuses such a hello, so it is no fault of the file.
    let bad = fixture.hello("bad.bin", &hello(b"not a name"));
    fixture.check(&[&own[..], &[&bad], &running].concat(), 3, &["bad_name"]);
    let empty = fixture.hello("empty.bin", b"");
    let text = fixture.hello("text.bin", b"GET / HTTP/1.1\r\n");
    let cut = fixture.hello("cut.bin", &hello::fixture("chromium")[..200]);
    let absent = fixture.folder.path("absent.bin").display().to_string();
    for (path, part) in [
        (&empty, "the hello is not whole: the file has only 0 bytes of it"),
        (&text, "the first bytes are not TLS"),
        (&cut, "the hello is not whole: the file has only 200 bytes of it"),
        (&absent, "it cannot be read: No such file"),
    ] {
        let place = format!("--hello {path}: {part}");
        fixture.check(
            &[&[&*fixture.file], &own[..], &[path]].concat(),
            2,
            &[&place, "as they come over TCP"],
        );
    }
    let large = [own_hello, vec![0; 8000]].concat();
    let large = fixture.hello("large.bin", &large);
    fixture.check(&[&own[..], &[&large], &running].concat(), 2, &["may have 7168", "--sni and --alpn"]);
    fixture.check(&[&[&*fixture.file], &own[..], &[&large]].concat(), 0, &["\"db.example.com\""]);
}

#[test]
fn bad_input_has_exit_code_2() {
    let fixture = Fixture::start("explain-faults");
    let file = &*fixture.file;
    let running = ["--running", "--admin", &*fixture.admin];
    let unknown = ["--listener", "tsl", "--source", "203.0.113.7"];
    let parts = ["no listener is named `tsl`; did you mean `tls`? the only listener is `tls`"];
    fixture.check(&[&[file], &unknown[..]].concat(), 2, &parts);
    fixture.check(&[&unknown[..], &running].concat(), 2, &parts);
    let own = ["--listener", "tls", "--source"];
    for source in ["203.0.113", "203.0.113.0/24", "example.com"] {
        fixture.check(&[&[file], &own[..], &[source]].concat(), 2, &["a source is an address such as"]);
    }
    let with = |more: &[&'static str]| [&[file], &own[..], &["203.0.113.7"], more].concat();
    fixture.check(&with(&["--sni", "a..b"]), 2, &["the name has an empty label"]);
    fixture.check(&with(&["--sni", "a", "--hello", "x"]), 2, &["cannot be used with"]);
    fixture.check(&with(&["--destination", "192.0.2.1"]), 2, &["--destination"]);
    fixture.check(&with(&["--admin", "127.0.0.1:1"]), 2, &["only with --running"]);
    fixture.check(&[&own[..], &["203.0.113.7"]].concat(), 2, &["<FILE>"]);
    let broken = fixture.folder.write("broken.toml", "[listener.tls]\nbind = ':1'\npol = 'x'\n");
    let broken = broken.display().to_string();
    fixture.check(&[&[&*broken], &own[..], &["203.0.113.7"]].concat(), 2, &["unknown key `pol`", "fault"]);
    let absent = [&["/nowhere.toml"], &own[..], &["203.0.113.7"]].concat();
    fixture.check(&absent, 2, &["there is no such file"]);
    // No process is at the address: a failure, and no fault of the usage.
    let nothing = format!("unix:{}", fixture.folder.path("nothing.sock").display());
    let (code, stdout, stderr) =
        fixture.explain(&[&own[..], &["203.0.113.7", "--running", "--admin", &nothing]].concat());
    assert_eq!((code, &*stdout), (1, ""), "{stderr}");
    assert!(stderr.contains("is pointsman running"), "{stderr}");
    assert!(Path::new(file).exists());
}

#[test]
fn a_wrong_request_to_the_page_is_refused() {
    let backends = Recorder::several("b", 5);
    let (_proxy, admin) = Proxy::start_with_admin(config(&text(&backends, "")));
    let check = |query: &str, expected: u16, part: &str| {
        let (code, page) = admin::ask(admin, &format!("/api/v1/explain{query}"), PATIENCE).unwrap();
        assert_eq!(code, expected, "{query}: {page}");
        assert!(page.contains(part), "{query}: no {part} in {page}");
    };
    check("", 400, "the query needs `source`");
    check("?listener=main&source=127.0.0.1", 200, "\"by\": \"no_sni\"");
    check("?listener=mian&source=127.0.0.1", 404, "did you mean `main`? the only listener is `main`");
    check("?listener=main&source=x", 400, "a source is an address");
    check("?listener=main&source=127.0.0.1&top=1", 400, "listener, source, sni");
    check("?listener=main&source=127.0.0.1&sni=%00", 400, "NUL");
    // The command knows an older version by this answer.
    let (code, page) = admin::ask(admin, "/api/v1/explained", PATIENCE).unwrap();
    assert!(code == 404 && page.starts_with("this path does not exist"), "{code} {page}");
    let hex: String = hello(b"exact.example.com").iter().map(|byte| format!("{byte:02x}")).collect();
    check(&format!("?listener=main&source=127.1.0.1&hello={hex}"), 200, "exact.example.com+source");
}
