//! The order of zones by the distance of clients: with a database that the tests write.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use pointsman::admin;
use pointsman::config::{self, Config};
use pointsman::pool::BackendState;
use serde_json::{Value, json};

use crate::process::{Folder, run};
use crate::support::country_file::{CountryFile, at, by_code};
use crate::support::pair::connect_from;
use crate::support::{PATIENCE, Proxy, wait_for};
use crate::tiers::{Server, wait_until};

/// The sites of the tests, from west to east on the equator.
const SITES: &str = "west = [0, 0], mid = [0.0, 40], east = [0, 100.0]";

/// Networks of clients with their longitudes on the equator: one near each site.
const NETWORKS: &[(&str, f64)] = &[("127.1.0.0/16", 1.0), ("127.2.0.0/16", 45.0), ("127.3.0.0/16", 120.0)];

fn cities(networks: &[(&str, f64)]) -> Vec<u8> {
    let mut file = CountryFile::new();
    for (network, longitude) in networks {
        let record = file.record(&at(0.0, *longitude));
        file.put(network, record);
    }
    file.bytes()
}

/// A folder with a database and a configuration.
struct Fixture(Folder);

impl Fixture {
    fn new(test: &str, database: &[u8]) -> Self {
        let fixture = Self(Folder::new(test));
        fixture.replace(database);
        fixture
    }

    fn database(&self) -> PathBuf {
        self.0.path("geo.mmdb")
    }

    /// Replaces the database in one step.
    fn replace(&self, bytes: &[u8]) {
        let new = self.0.path("geo.new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.database()).unwrap();
    }

    /// Writes a configuration of a node in the zone `east`, with these backends and their zones.
    fn write(&self, sites: &str, backends: &[(SocketAddr, &str)]) -> PathBuf {
        let backends =
            backends.iter().map(|(address, zone)| format!("{{ address = '{address}', zone = '{zone}' }}"));
        let text = format!(
            r#"
            workers = 2
            zone = "east"
            access_log.to = "off"
            [listener.main]
            bind = "127.0.0.1:0"
            pool = "main"
            [pool.main]
            backends = [{}]
            health = {{ interval = "10ms", rise = 1, fall = 1 }}
            near = {{ database = "geo.mmdb", sites = {{ {sites} }} }}
            "#,
            backends.collect::<Vec<_>>().join(", ")
        );
        self.0.write("config.toml", &text)
    }

    fn load(&self, sites: &str, backends: &[(SocketAddr, &str)]) -> Config {
        config::load(&self.write(sites, backends)).unwrap_or_else(|faults| panic!("{faults}")).0
    }
}

/// Returns the name of the server that a client at this address gets.
fn answer(proxy: &Proxy, source: &str) -> String {
    let mut client = connect_from(source.parse::<IpAddr>().unwrap(), proxy.address("main"));
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the client is served");
    answer
}

/// Checks the servers of one client of each network, and of a client in no network.
fn check(proxy: &Proxy, expected: &str) {
    let answers = ["127.1.0.9", "127.2.0.9", "127.3.0.9", "127.9.0.9"].map(|source| answer(proxy, source));
    assert_eq!(answers.join(" "), expected);
}

fn asked(admin: SocketAddr, path: &str) -> Value {
    let (code, page) = admin::ask(admin, path, PATIENCE).unwrap();
    assert_eq!(code, 200, "{page}");
    serde_json::from_str(&page).unwrap()
}

#[test]
fn clients_reach_the_nearest_zone_and_then_the_next() {
    let fixture = Fixture::new("near-zones", &cities(NETWORKS));
    let (mut west, mut mid, east) = (Server::start("west"), Server::start("mid"), Server::start("east"));
    let backends = [(west.address, "west"), (mid.address, "mid"), (east.address, "east")];
    let proxy = Proxy::start(fixture.load(SITES, &backends));
    check(&proxy, "west mid east east");
    mid.stop();
    wait_until(&proxy, mid.address, BackendState::Down);
    check(&proxy, "west west east east");
    west.stop();
    wait_until(&proxy, west.address, BackendState::Down);
    check(&proxy, "east east east east");
    let mid = Server::start_at(mid.address, "mid");
    wait_until(&proxy, mid.address, BackendState::Up);
    check(&proxy, "mid mid east east");
    let west = Server::start_at(west.address, "west");
    wait_until(&proxy, west.address, BackendState::Up);
    check(&proxy, "west mid east east");
}

/// Before the checks notice that a zone is dead, the next attempt of a client goes to the next zone.
#[test]
fn an_attempt_after_a_failure_goes_to_the_next_zone() {
    let fixture = Fixture::new("near-attempts", &cities(NETWORKS));
    let (mut west, mid, east) = (Server::start("west"), Server::start("mid"), Server::start("east"));
    let backends = [(west.address, "west"), (mid.address, "mid"), (east.address, "east")];
    let mut config = fixture.load(SITES, &backends);
    config.pools[0].health = None;
    let proxy = Proxy::start(config);
    check(&proxy, "west mid east east");
    west.stop();
    check(&proxy, "mid mid east east");
}

#[test]
fn a_replaced_database_is_used_and_a_broken_one_is_not() {
    let fixture = Fixture::new("near-files", &cities(NETWORKS));
    let (west, mid, east) = (Server::start("west"), Server::start("mid"), Server::start("east"));
    let backends = [(west.address, "west"), (mid.address, "mid"), (east.address, "east")];
    let (proxy, admin) = Proxy::start_with_admin(fixture.load(SITES, &backends));
    check(&proxy, "west mid east east");
    let near = || asked(admin, "/api/v1/status")["pools"][0]["near"].clone();
    let standing = || asked(admin, "/api/v1/status")["standing"].clone();
    let before = near();
    assert_eq!((&before["ranges"], &before["orders"]), (&3.into(), &3.into()), "{before}");

    let moved = [("127.1.0.0/16", 120.0), ("127.9.0.0/16", 1.0)];
    fixture.replace(&cities(&moved));
    wait_for("the new database", || answer(&proxy, "127.1.0.9") == "east");
    check(&proxy, "east east east west");
    assert_ne!(near()["digest"], before["digest"]);

    let whole = cities(&moved);
    fixture.replace(&whole[..whole.len() / 2]);
    wait_for("the fault", || standing() != Value::Array(Vec::new()));
    let fault = standing()[0].clone();
    assert_eq!((&fault["kind"], &fault["name"]), (&"near".into(), &"main".into()), "{fault}");
    assert!(
        fault["text"].as_str().unwrap().contains("geo.mmdb is broken; each client keeps its order"),
        "{fault}"
    );
    check(&proxy, "east east east west");
    let failed = r#"pointsman_near_loads_total{pool="main",result="failed"}"#;
    let (_, page) = admin::ask(admin, "/metrics", PATIENCE).unwrap();
    let failed = page.lines().find_map(|line| line.strip_prefix(failed)).unwrap_or_else(|| panic!("{page}"));
    assert!(failed.trim().parse::<f64>().unwrap() > 0.0, "{failed}");
    fs::remove_file(fixture.database()).unwrap();
    check(&proxy, "east east east west");

    fixture.replace(&cities(NETWORKS));
    wait_for("the end of the fault", || standing() == Value::Array(Vec::new()));
    check(&proxy, "west mid east east");
    assert_eq!(near()["digest"], before["digest"]);
    let loaded = near()["last_load"].clone();
    assert!(loaded.is_string(), "{loaded}");
}

#[test]
fn a_reload_keeps_the_table_and_changes_the_sites() {
    let fixture = Fixture::new("near-reload", &cities(NETWORKS));
    let (west, mid, east) = (Server::start("west"), Server::start("mid"), Server::start("east"));
    let backends = [(west.address, "west"), (mid.address, "mid"), (east.address, "east")];
    let proxy = Proxy::start(fixture.load(SITES, &backends));
    check(&proxy, "west mid east east");
    let places =
        |proxy: &Proxy| proxy.remote.view().snapshot.load().pools["main"].pool.places().unwrap().clone();
    let before = places(&proxy);
    let other_zones = [(west.address, "west"), (mid.address, "east"), (east.address, "mid")];
    proxy.remote.reload(fixture.load(SITES, &other_zones)).unwrap();
    check(&proxy, "west east mid mid");
    assert!(std::sync::Arc::ptr_eq(&before, &places(&proxy)));
    // Without the site in the middle its zone comes last.
    proxy.remote.reload(fixture.load("west = [0, 0], east = [0, 100]", &backends)).unwrap();
    check(&proxy, "west west east east");
}

/// Discovered backends bring their zones. A site without backends is skipped until it has some.
#[test]
fn the_zones_of_discovered_backends_are_ordered() {
    let fixture = Fixture::new("near-discovery", &cities(NETWORKS));
    let (west, mid, east) = (Server::start("west"), Server::start("mid"), Server::start("east"));
    let all = [(west.address, "west"), (mid.address, "mid"), (east.address, "east")];
    let list = |backends: &[(SocketAddr, &str)]| {
        let backends = backends.iter().map(|(address, zone)| json!({ "address": address, "zone": zone }));
        let new = fixture.0.write(
            "backends.new",
            &json!({ "version": 1, "backends": backends.collect::<Vec<_>>() }).to_string(),
        );
        fs::rename(new, fixture.0.path("backends.json")).unwrap();
    };
    list(&all[..2]);
    let text = fs::read_to_string(fixture.write(SITES, &[])).unwrap();
    let file =
        fixture.0.write("config.toml", &text.replace("backends = []", "discover.file = 'backends.json'"));
    let proxy = Proxy::start(config::load(&file).unwrap_or_else(|faults| panic!("{faults}")).0);
    wait_for("the first backends", || {
        proxy.remote.view().snapshot.load().pools["main"].pool.backends().len() == 2
    });
    let own = answer(&proxy, "127.9.0.9");
    check(&proxy, &format!("west mid mid {own}"));
    list(&all);
    wait_for("the last backend", || answer(&proxy, "127.3.0.9") == "east");
    check(&proxy, "west mid east east");
    list(&all[1..]);
    wait_for("the loss of a backend", || answer(&proxy, "127.1.0.9") == "mid");
    check(&proxy, "mid mid east east");
}

#[test]
fn a_database_of_countries_works_with_countries() {
    let networks = [("127.1.0.0/16", "US"), ("127.2.0.0/16", "DE"), ("127.3.0.0/16", "JP")];
    let fixture = Fixture::new("near-countries", &CountryFile::of(&networks));
    let (west, east) = (Server::start("west"), Server::start("east"));
    let backends = [(west.address, "west"), (east.address, "east")];
    let proxy = Proxy::start(fixture.load("west = ['US', 'DE'], east = 'JP'", &backends));
    check(&proxy, "west west east east");
}

/// Returns the code and the output of a command.
fn said(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn explain_has_the_order_and_its_reason() {
    let fixture = Fixture::new("near-explain", &cities(NETWORKS));
    let [one, two] = ["10.0.0.1:1", "10.0.0.2:1"].map(|address| address.parse().unwrap());
    let file = fixture.write(SITES, &[(one, "west"), (two, "mid"), ("10.0.0.3:1".parse().unwrap(), "east")]);
    let zones = |source: &str| {
        let (code, text) =
            said(&["explain", file.to_str().unwrap(), "--listener", "main", "--source", source]);
        assert_eq!(code, Some(0), "{text}");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("zones"));
        line.unwrap_or_else(|| panic!("no zones in\n{text}")).trim().to_owned()
    };
    assert_eq!(zones("127.2.0.1"), "mid, west, east, by the distance of the client");
    assert_eq!(zones("127.3.0.1"), "east, mid, west, by the distance of the client");
    assert_eq!(zones("192.0.2.1"), "the order of the node: the database does not place the client at a site");
    assert_eq!(zones("unix"), "the order of the node: the client has no address");
}

#[test]
fn check_refuses_what_cannot_be_ordered() {
    let fixture = Fixture::new("near-check", &cities(NETWORKS));
    let backends: [(SocketAddr, &str); 1] = [("10.0.0.1:1".parse().unwrap(), "east")];
    let check = |sites: &str, expected: &str| {
        let file = fixture.write(sites, &backends);
        let (code, text) = said(&["check", file.to_str().unwrap()]);
        assert_eq!(code, Some(if expected.is_empty() { 0 } else { 2 }), "{sites}: {text}");
        assert!(text.contains(expected), "{sites}: no {expected:?} in\n{text}");
    };
    check("east = [0, 0]", "");
    check("east = [0, 0], wets = [1, 1]", "no backend has zone \"wets\"");
    check("east = ['DE']", "no country that a site lists");
    fixture.replace(&{
        let mut file = CountryFile::new();
        let record = file.record(&by_code("DE"));
        file.put("127.1.0.0/16", record);
        file.bytes()
    });
    check("east = ['DE']", "");
    check("east = [0, 0]", "has no coordinates");
    fixture.replace(b"10.0.0.0/8\n");
    check("east = [0, 0]", "not in MaxMind's format");
    fs::remove_file(fixture.database()).unwrap();
    check("east = [0, 0]", "geo.mmdb");
}
