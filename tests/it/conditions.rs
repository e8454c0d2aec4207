//! Routes with conditions beside the name, their files, and the records of their connections.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pointsman::config::{self, Config};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::support::hello::{fixture, hello, message, nameless, records, server_name};
use crate::support::pair::connect_from;
use crate::support::recorder::{Recorder, ask, ask_on};
use crate::support::{Proxy, config, find_in_time, wait_for};

const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// Returns a configuration: a listener named `main` with these keys, and a pool for each of these backends.
fn text(keys: &str, backends: &[Recorder]) -> String {
    let pool = |backend: &Recorder| {
        let (name, written) = (&backend.name, backend.written());
        format!("[pool.{name}]\nbackends = [{written}]\nhealth.check = \"off\"\n")
    };
    let pools: String = backends.iter().map(pool).collect();
    format!("workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\n{keys}\n{pools}")
}

fn proxy(keys: &str, backends: &[Recorder]) -> Proxy {
    Proxy::start(config(&text(keys, backends)))
}

fn recorders<const N: usize>(names: [&str; N]) -> [Recorder; N] {
    names.map(Recorder::start)
}

/// Returns the hello of a real client, which offers only these protocols and this version.
fn rustls_hello(name: &str, alpn: &[&str], version: &'static SupportedProtocolVersion) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn closed(reason: &str) -> String {
    format!(r#"pointsman_connections_rejected_total{{listener="main",reason="{reason}"}}"#)
}

#[test]
fn what_a_hello_offers_chooses_the_pool() {
    let backends = recorders(["plain", "acme", "web", "modern", "ech", "curl", "node"]);
    let proxy = proxy(
        r#"
        protocol = "tls"
        routes = [
            { sni = "a.example", pool = "plain" },
            { sni = "a.example", alpn = "acme-tls/1", pool = "acme" },
            { sni = "a.example", alpn = ["h2", "http/1.1"], pool = "web" },
            { sni = "b.example", tls_min = "1.3", pool = "modern" },
            { sni = "c.example", tls_min = "1.3", pool = "modern" },
            { sni = "c.example", pool = "plain" },
            { sni = "shop.example.com", ech = true, pool = "ech" },
            { sni = "shop.example.com", pool = "plain" },
            { sni = "*.example.org", ja4 = "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6", pool = "curl" },
            { sni_regex = 'NODE[0-9]*\.example\.com', ja4 = "t13d*", pool = "node" },
            { sni = "*.example", pool = "plain" },
        ]
        "#,
        &backends,
    );
    let check = |hello: &[u8], expected: &str| assert_eq!(ask(&proxy, hello).as_deref(), Ok(expected));
    check(&rustls_hello("a.example", &[], &TLS13), "plain");
    check(&rustls_hello("a.example", &["acme-tls/1"], &TLS13), "acme");
    check(&rustls_hello("a.example", &["http/1.1"], &TLS12), "web");
    check(&rustls_hello("a.example", &["h2", "acme-tls/1"], &TLS13), "web");
    check(&rustls_hello("a.example", &["imap"], &TLS13), "plain");
    check(&rustls_hello("b.example", &[], &TLS13), "modern");
    check(&rustls_hello("c.example", &[], &TLS12), "plain");
    check(&rustls_hello("c.example", &[], &TLS13), "modern");
    check(&fixture("chromium"), "ech");
    check(&fixture("curl"), "curl");
    check(&fixture("node"), "node");
    // A client whose version is too old for the route of its name does not get a wider route.
    assert_eq!(ask(&proxy, &rustls_hello("b.example", &[], &TLS12)), Err(PROTOCOL_VERSION.to_vec()));
    proxy.wait_for_metric(&closed("tls_too_old"), 1.0);
    let other = hello(b"x.node1.example.com");
    assert_eq!(ask(&proxy, &other), Err(UNRECOGNIZED_NAME.to_vec()));
    assert_eq!(proxy.metric(r#"pointsman_routes{listener="main"}"#), 11.0);
}

#[test]
fn a_fingerprint_is_denied_whatever_the_routes_say() {
    let backends = recorders(["all"]);
    let keys = r#"
        protocol = "PROTOCOL"
        deny_ja4 = ["t13d3112h2_*", "t12*"]
        routes = [
            { sni = "*.example.org", ja4 = "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6", pool = "all" },
            { sni = "*.example", pool = "all" },
        ]
        unmatched = "all"
        "#;
    for protocol in ["tls", "auto", "postgres"] {
        let keys = keys.replace("PROTOCOL", protocol);
        let proxy = proxy(&keys, &backends);
        let alert = Err(ACCESS_DENIED.to_vec());
        assert_eq!(ask(&proxy, &fixture("curl")), alert, "{protocol}");
        assert_eq!(ask(&proxy, &rustls_hello("a.example", &[], &TLS12)), alert, "{protocol}");
        proxy.wait_for_metric(&closed("denied"), 2.0);
        if protocol == "tls" {
            assert_eq!(ask(&proxy, &fixture("chromium")).as_deref(), Ok("all"));
            proxy.remote.reload(config(&text(&format!("refused = \"drop\"\n{keys}"), &backends))).unwrap();
            let mut client = proxy.connect();
            client.write_all(&fixture("curl")).unwrap();
            let error = client.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            proxy.wait_for_metric(&closed("denied"), 3.0);
        }
    }
    assert_eq!(backends[0].connections(), 1);
}

#[test]
fn a_source_and_where_it_came_choose_the_pool() {
    let backends = recorders(["inner", "one", "others"]);
    let proxy = proxy(
        r#"
        protocol = "tls"
        no_sni = "others"
        routes = [
            { sni = "a.example", source = "127.1.0.0/16", pool = "inner" },
            { sni = "a.example", source = ["127.1.2.3", "::1"], pool = "one" },
            { sni = "a.example", source = "127.6.6.6", action = "drop" },
            { sni = "a.example", pool = "others" },
            { sni = "b.example", destination = "127.0.0.2", pool = "one" },
            { sni = "b.example", action = "reject" },
            { source = "127.1.0.0/16", pool = "inner" },
        ]
        "#,
        &backends,
    );
    let from = |source: [u8; 4], hello: &[u8]| {
        ask_on(connect_from(Ipv4Addr::from(source).into(), proxy.address("main")), hello)
    };
    assert_eq!(from([127, 0, 0, 1], &hello(b"a.example")).as_deref(), Ok("others"));
    assert_eq!(from([127, 1, 0, 1], &hello(b"a.example")).as_deref(), Ok("inner"));
    assert_eq!(from([127, 1, 2, 3], &hello(b"a.example")).as_deref(), Ok("one"));
    assert_eq!(from([127, 1, 2, 3], &nameless()).as_deref(), Ok("inner"));
    assert_eq!(from([127, 0, 0, 1], &nameless()).as_deref(), Ok("others"));
    assert_eq!(from([127, 1, 0, 1], &hello(b"other.example")).as_deref(), Ok("inner"));
    assert_eq!(from([127, 0, 0, 1], &hello(b"other.example")), Err(UNRECOGNIZED_NAME.to_vec()));
    assert_eq!(from([127, 0, 0, 1], &hello(b"b.example")), Err(ACCESS_DENIED.to_vec()));
    let mut dropped = connect_from(Ipv4Addr::new(127, 6, 6, 6).into(), proxy.address("main"));
    dropped.write_all(&hello(b"a.example")).unwrap();
    let error = dropped.read(&mut [0]).expect_err("a reset and no alert");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    proxy.wait_for_metric(&closed("route_dropped"), 1.0);
    proxy.wait_for_metric(&closed("route_rejected"), 1.0);
}

#[test]
fn the_address_that_a_client_reached_is_a_condition() {
    let backends = recorders(["first", "second", "third"]);
    let written = text(
        r#"
        pool = "third"
        routes = [
            { destination = "127.0.0.1", pool = "first" },
            { destination = ["127.0.0.2", ":1"], source = "127.0.0.0/8", pool = "second" },
        ]
        "#,
        &backends,
    );
    let proxy = Proxy::start(config(
        &written.replace(r#""127.0.0.1:0""#, r#"["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]"#),
    ));
    let addresses = proxy.remote.view().addresses()["main"].clone();
    let answers = addresses.iter().map(|address| {
        let answer = ask_on(TcpStream::connect(address.tcp().unwrap()).unwrap(), b"").unwrap();
        (address.tcp().unwrap().ip().to_string(), answer)
    });
    let mut answers: Vec<_> = answers.collect();
    answers.sort();
    let expected = [("127.0.0.1", "first"), ("127.0.0.2", "second"), ("127.0.0.3", "third")];
    assert_eq!(answers, expected.map(|(address, pool)| (address.to_owned(), pool.to_owned())));
}

#[test]
fn a_tcp_listener_rejects_by_source() {
    let backends = recorders(["all"]);
    let proxy =
        proxy("pool = \"all\"\nroutes = [{ source = \"127.6.0.0/16\", action = \"reject\" }]", &backends);
    assert_eq!(ask(&proxy, b"").as_deref(), Ok("all"));
    let mut rejected = connect_from(Ipv4Addr::new(127, 6, 0, 1).into(), proxy.address("main"));
    assert_eq!(rejected.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    proxy.wait_for_metric(&closed("route_rejected"), 1.0);
}

#[test]
fn a_split_keeps_its_clients() {
    let backends = recorders(["most", "few"]);
    let proxy = proxy(
        r#"
        pool = "few"
        routes = [{
            source = "127.0.0.0/8",
            split = [{ pool = "most", weight = 3 }, { pool = "few" }],
        }]
        "#,
        &backends,
    );
    let mut most = 0;
    for number in 0..60 {
        let source = Ipv4Addr::new(127, 9, 1, number);
        let [one, two] =
            [(); 2].map(|()| ask_on(connect_from(source.into(), proxy.address("main")), b"").unwrap());
        assert_eq!(one, two);
        most += usize::from(one == "most");
    }
    assert!((30..58).contains(&most), "{most} of 60");
}

/// A directory with a configuration and its file with routes; removed when it is dropped.
struct Files(PathBuf);

impl Files {
    fn new(keys: &str, backends: &[Recorder], routes: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pointsman-conditions-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let files = Self(path);
        fs::write(files.0.join("main.toml"), text(keys, backends)).unwrap();
        files.replace(routes);
        files
    }

    /// Replaces the file with routes by a rename.
    fn replace(&self, routes: &str) {
        let new = self.0.join("routes.new");
        fs::write(&new, routes).unwrap();
        fs::rename(new, self.0.join("routes.toml")).unwrap();
    }

    fn config(&self) -> Config {
        match config::load(&self.0.join("main.toml")) {
            Ok((config, _)) => config,
            Err(faults) => panic!("{faults}"),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_with_routes_is_followed() {
    let backends = recorders(["one", "two"]);
    let files = Files::new(
        "protocol = \"tls\"\nroutes = [{ sni = \"w.example\", pool = \"one\" }]\nroutes_file = \"routes.toml\"",
        &backends,
        "routes = [{ sni = 'a.example', pool = 'one' }]",
    );
    let proxy = Proxy::start(files.config());
    let reads =
        |result: &str| format!(r#"pointsman_routes_file_reads_total{{listener="main",result="{result}"}}"#);
    let routes = r#"pointsman_routes{listener="main"}"#;
    assert_eq!(proxy.metric(routes), 2.0);
    assert_eq!(ask(&proxy, &hello(b"a.example")).as_deref(), Ok("one"));
    proxy.wait_for_metric(&reads("ok"), 1.0);

    files.replace(
        "[[routes]]\nsni = 'a.example'\npool = 'two'\n[[routes]]\nsni = '*.b.example'\npool = 'two'",
    );
    proxy.wait_for_metric(routes, 3.0);
    assert_eq!(ask(&proxy, &hello(b"a.example")).as_deref(), Ok("two"));
    assert_eq!(ask(&proxy, &hello(b"x.b.example")).as_deref(), Ok("two"));
    assert_eq!(ask(&proxy, &hello(b"w.example")).as_deref(), Ok("one"));

    // The faults are: a tie with a route of the configuration, an unknown pool, no TOML, an empty file.
    for (broken, failures) in [
        ("routes = [{ sni = 'w.example', pool = 'two' }]", 1.0),
        ("routes = [{ sni = 'c.example', pool = 'three' }]", 2.0),
        ("routes = [", 3.0),
        ("", 4.0),
    ] {
        files.replace(broken);
        proxy.wait_for_metric(&reads("failed"), failures);
        assert_eq!(ask(&proxy, &hello(b"x.b.example")).as_deref(), Ok("two"), "{broken}");
    }
    files.replace("routes = []");
    proxy.wait_for_metric(routes, 1.0);
    assert_eq!(ask(&proxy, &hello(b"a.example")), Err(UNRECOGNIZED_NAME.to_vec()));

    // A reload of the configuration reads the file too, and continues to follow it.
    files.replace("routes = [{ sni = 'd.example', pool = 'one' }]");
    proxy.remote.reload(files.config()).unwrap();
    assert_eq!(ask(&proxy, &hello(b"d.example")).as_deref(), Ok("one"));
    files.replace("routes = [{ sni = 'd.example', pool = 'two' }]");
    wait_for("the other pool", || ask(&proxy, &hello(b"d.example")).as_deref() == Ok("two"));
}

/// A tarpit has slots as soon as a file with routes needs some, before the next reload.
#[test]
fn a_file_with_routes_may_hold_whom_it_refuses() {
    let backends = recorders(["one", "two"]);
    let route = |more: &str| format!("routes = [{{ sni = 'a.example', pool = 'one'{more} }}]");
    let files = Files::new("protocol = \"tls\"\nroutes_file = \"routes.toml\"", &backends, &route(""));
    let proxy = Proxy::start(files.config());
    let room = || proxy.remote.view().bounds.tarpit.limit();
    assert_eq!(room(), 0);
    files.replace(&route(", limits = { rate = '1/m', over = 'tarpit' }"));
    wait_for("room for those who are refused", || room() > 0);
}

/// Tests the recipe in docs/start/recipes.md, with addresses of this machine.
#[test]
fn the_recipe_works_as_written() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/start/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, recipe) = page.split_once("<!-- recipe: routes -->\n```toml\n").unwrap();
    let (recipe, _) = recipe.split_once("```").unwrap();
    let backends = recorders(["web", "acme", "next", "more"]);
    let mut recipe = recipe.replace("\":443\"", "\"127.0.0.1:0\"").replace("10.0.0.0/8", "127.1.0.0/16");
    for (backend, address) in backends.iter().zip(["10.0.1.11:443", "10.0.1.12:443", "10.0.1.13:443"]) {
        assert!(recipe.contains(address), "{recipe}");
        recipe = recipe.replace(&format!("\"{address}\""), &backend.written());
    }
    let more = "routes = [{ sni = 'more.example.com', pool = 'acme' }]";
    let files = Files::new("pool = \"web\"", &backends, "");
    fs::write(files.0.join("main.toml"), format!("access_log.to = 'off'\n{recipe}")).unwrap();
    fs::write(files.0.join("more-routes.toml"), more).unwrap();
    let proxy = Proxy::start(Config { workers: 2, ..files.config() });
    let ask_from = |source: Ipv4Addr, name: &str, alpn: &[&str]| {
        ask_on(connect_from(source.into(), proxy.address("tls")), &rustls_hello(name, alpn, &TLS13))
    };
    let ask = |name: &str, alpn: &[&str]| ask_from(Ipv4Addr::new(127, 1, 0, 9), name, alpn);
    assert_eq!(ask("www.example.com", &["h2"]).as_deref(), Ok("web"));
    assert_eq!(ask("www.example.com", &["acme-tls/1"]).as_deref(), Ok("acme"));
    assert_eq!(ask("admin.example.com", &[]).as_deref(), Ok("web"));
    let outside = ask_from(Ipv4Addr::new(127, 2, 0, 9), "admin.example.com", &[]);
    assert_eq!(outside, Err(ACCESS_DENIED.to_vec()));
    assert_eq!(ask("more.example.com", &[]).as_deref(), Ok("acme"));
    assert!(["web", "next"].contains(&ask("a.example.com", &[]).unwrap().as_str()));
}

#[test]
fn many_routes_of_a_file_are_read_and_found() {
    let backends = recorders(["one", "two"]);
    let routes = |count: usize, pool: &str| {
        let routes = (0..count).map(|n| format!("  {{ sni = 'h{n}.example', pool = '{pool}' }},\n"));
        format!("routes = [\n{}]", routes.collect::<String>())
    };
    let keys = "protocol = \"tls\"\nroutes_file = \"routes.toml\"";
    let files = Files::new(keys, &backends, &routes(5000, "one"));
    let proxy = Proxy::start(files.config());
    assert_eq!(ask(&proxy, &hello(b"h4999.example")).as_deref(), Ok("one"));
    files.replace(&routes(6000, "two"));
    proxy.wait_for_metric(r#"pointsman_routes{listener="main"}"#, 6000.0);
    assert_eq!(ask(&proxy, &hello(b"h5999.example")).as_deref(), Ok("two"));
}

#[test]
fn facts_of_a_hello_are_in_the_log() {
    let backends = recorders(["all"]);
    let folder = std::env::temp_dir().join(format!("pointsman-facts-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let log = folder.join("access.log");
    let keys = r#"
        protocol = "tls"
        routes = [
            { sni = "shop.example.com", name = "browsers", ech = true, pool = "all" },
            { sni = "*.example.com", alpn = ["h2", "imap"], tls_min = "1.2", pool = "all" },
            { sni_regex = '[a-z]+\.example\.net', pool = "all" },
        ]
        unmatched = "all"
    "#;
    let written =
        text(keys, &backends).replace("\"off\"\n[listener", &format!("\"{}\"\n[listener", log.display()));
    let proxy = Proxy::start(config(&written));
    let record = |hello: &[u8]| -> Value {
        let before = fs::read_to_string(&log).unwrap_or_default().lines().count();
        ask(&proxy, hello).unwrap();
        let line = find_in_time(|| fs::read_to_string(&log).ok()?.lines().nth(before).map(str::to_owned));
        serde_json::from_str(&line.expect("a record")).unwrap()
    };
    let check = |hello: &[u8], expected: Value| {
        let record = record(hello);
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&record[key], value, "{key} in {record}");
        }
    };
    check(
        &fixture("chromium"),
        json!({
            "sni": "shop.example.com", "route": "browsers", "alpn": "h2,http/1.1", "tls_versions": "1.3,1.2",
            "ja4": "t13d1517h2_8daaf6152771_cb7bf5808d99", "ech": true, "records": 1,
        }),
    );
    check(
        &fixture("openssl-tls12"),
        json!({
            "route": "*.example.com+alpn+tls_min", "alpn": "imap,h2", "tls_versions": "1.2",
            "ja4": "t12d2808ip_d943125447b4_e7e480e5a997", "ech": false, "segments": 1, "records": 1,
        }),
    );
    check(&fixture("gnutls"), json!({ "route": "/[a-z]+\\.example\\.net/", "alpn": null }));
    let names: Vec<u8> = [[&[4][..], b"\0\n,\""].concat(), vec![2, 0xff, b'%']].concat();
    let list = [&(names.len() as u16).to_be_bytes()[..], &names].concat();
    let hostile = [server_name(b"x.example"), crate::support::hello::extension(16, &list)].concat();
    check(
        &records(&message(&hostile), &[5, 1]),
        json!({ "route": "unmatched", "alpn": "%00%0A%2C\",%FF%25", "records": 3 }),
    );
    let _ = fs::remove_dir_all(folder);
}
