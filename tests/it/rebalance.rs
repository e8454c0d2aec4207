//! `pointsman rebalance`: the connections that would go elsewhere now are closed, and no others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use pointsman::admin;
use pointsman::config::{AdminSpec, Config};
use serde_json::Value;

use crate::process::run;
use crate::support::pair::expect_reset;
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

const CLIENTS: usize = 60;

/// Returns a configuration with these backends of the pool `main`.
fn text(backends: &[&Backend], keys: &str) -> Config {
    let written: Vec<_> = backends.iter().map(|backend| format!("'{}'", backend.address)).collect();
    config(&format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nhealth.check = 'off'\nbackends = [{}]\n{keys}\n[pool.other]\nbackends = ['127.0.0.1:1']\n\
         health.check = 'off'\n[pool.wide]\nforward = {{ to = 'sni', port = 443, allow = ['*.example'] }}\n",
        written.join(", ")
    ))
}

struct Fixture {
    proxy: Proxy,
    admin: SocketAddr,
}

impl Fixture {
    fn start(config: Config) -> Self {
        let spec = AdminSpec::new("127.0.0.1:0".parse::<SocketAddr>().unwrap());
        let (proxy, address) = Proxy::start_with(config, AdminSpec { open_changes: true, ..spec });
        Self { proxy, admin: address.tcp().unwrap() }
    }

    fn clients(&self) -> Vec<TcpStream> {
        (0..CLIENTS).map(|_| self.client()).collect()
    }

    fn client(&self) -> TcpStream {
        let mut client = self.proxy.connect();
        assert!(is_open(&mut client));
        client
    }

    fn ask(&self, query: &str) -> (u16, String) {
        admin::change(self.admin, "POST", &format!("/api/v1/rebalance{query}"), PATIENCE).unwrap()
    }

    fn page(&self, query: &str) -> Value {
        let (code, body) = self.ask(query);
        assert_eq!(code, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let admin = self.admin.to_string();
        let output = run(&[&["rebalance"], arguments, &["--admin", &admin]].concat());
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), texts.concat())
    }

    fn closed(&self) -> f64 {
        self.proxy.metric(r#"pointsman_connections_closed_total{listener="main",reason="rebalanced"}"#)
    }

    /// Returns the numbers of open connections of the backends.
    fn active(&self) -> Vec<u64> {
        let snapshot = self.proxy.remote.view().snapshot.load();
        snapshot.pools["main"].pool.backends().iter().map(|backend| backend.active()).collect()
    }
}

fn is_open(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"?").is_ok() && client.read_exact(&mut byte).is_ok()
}

/// Both backends are hashed. Those clients are misplaced that the second backend would get.
#[test]
fn exactly_the_misplaced_connections_are_closed() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let keys = "hash_on = 'source-ip-port'";
    let fixture = Fixture::start(text(&[&one], keys));
    let clients = fixture.clients();
    assert_eq!(fixture.page("?pool=main")["misplaced"], 0);
    fixture.proxy.remote.reload(text(&[&one, &other], keys)).unwrap();
    let pool = std::sync::Arc::clone(&fixture.proxy.remote.view().snapshot.load().pools["main"].pool);
    let is_misplaced = |client: &TcpStream| {
        let picks = pool.preview(client.local_addr().ok(), None, 1).unwrap().picks;
        picks[0].backend.name() == pool.backends()[1].name()
    };
    let misplaced = clients.iter().filter(|client| is_misplaced(client)).count();
    assert!((10..50).contains(&misplaced), "{misplaced}");

    let counted = fixture.page("?pool=main&dry_run=true");
    let figures =
        |page: &Value| (page["open"].as_u64(), page["misplaced"].as_u64(), page["dry_run"].as_bool());
    assert_eq!(figures(&counted), (Some(CLIENTS as u64), Some(misplaced as u64), Some(true)));
    let (code, text) = fixture.run(&["main", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with(&format!("{misplaced} of {CLIENTS} connections (")), "{text}");
    let (code, text) = fixture.run(&["main"]);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains(&format!("{misplaced} of {CLIENTS} connections are not where new ones would be")),
        "{text}"
    );
    let bound = (100.0 * misplaced as f64 / CLIENTS as f64).ceil();
    let refusal = format!(
        "which is more than 10.0 %: none was closed. `most` sets another bound, such as --most {bound}%;"
    );
    assert!(text.contains(&refusal), "{text}");
    assert_eq!(fixture.closed(), 0.0);

    let (code, text) = fixture.run(&["main", "--rate", "500/s", "--most", "100%"]);
    assert_eq!(code, 0, "{text}");
    wait_for("all misplaced to be closed", || fixture.closed() == misplaced as f64);
    for mut client in clients {
        if is_misplaced(&client) {
            expect_reset(&client);
        } else {
            assert!(is_open(&mut client));
        }
    }
    let again: Vec<_> = fixture.clients();
    let (code, text) = fixture.run(&["main"]);
    assert_eq!((code, text.contains("0 of 60 connections (0.0 %)")), (0, true), "{text}");
    assert_eq!((fixture.closed(), again.len()), (misplaced as f64, CLIENTS));
    let events = fixture.proxy.remote.view().events.newest_first();
    let expected =
        format!("pool main is rebalanced: {misplaced} of {CLIENTS} connections are closed within 0s");
    assert!(events.iter().any(|event| event.text.starts_with(&expected)), "{events:?}");
}

/// Without a hash table the connections above the fair share of a backend are closed.
#[test]
fn the_surplus_of_a_backend_is_closed() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let keys = "balance = 'round-robin'";
    let fixture = Fixture::start(text(&[&one], keys));
    let mut clients = fixture.clients();
    fixture.proxy.remote.reload(text(&[&one, &other], keys)).unwrap();
    let page = fixture.page("?pool=main&most=50%25&rate=500/s");
    assert_eq!(page["misplaced"], 30, "{page}");
    wait_for("the surplus to be closed", || fixture.active() == [30, 0] && fixture.closed() == 30.0);
    assert_eq!(clients.iter_mut().filter_map(|client| is_open(client).then_some(())).count(), 30);
    let again: Vec<_> = (0..30).map(|_| fixture.client()).collect();
    assert_eq!(fixture.active().iter().sum::<u64>(), 60, "{}", again.len());
    // Round robin gave 15 to each.
    assert_eq!(fixture.page("?pool=main&dry_run=true")["misplaced"], 15);
}

/// A free slot at a full backend is room for one connection, not for all that spilled over.
#[test]
fn no_more_connections_are_closed_than_there_is_room() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let written = |limit: &str| {
        config(&format!(
            "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
             [pool.main]\nhealth.check = 'off'\nhash_on = 'source-ip-port'\nbackends = [{{ name = 'one', address = '{}'{limit} }}, \
             {{ name = 'other', address = '{}' }}]\n",
            one.address, other.address
        ))
    };
    let fixture = Fixture::start(written(", max_connections = 5"));
    let _clients = fixture.clients();
    assert_eq!(fixture.active(), [5, 55]);
    assert_eq!(fixture.page("?pool=main&dry_run=true")["misplaced"], 0);
    fixture.proxy.remote.reload(written(", max_connections = 8")).unwrap();
    assert_eq!(fixture.page("?pool=main&most=10%25&rate=500/s")["misplaced"], 3);
    wait_for("three to be closed", || fixture.active() == [5, 52] && fixture.closed() == 3.0);
}

/// The weight of a backend changes while connections wait for their turn. The order goes on with the new pool.
#[test]
fn an_order_goes_on_with_a_pool_that_is_built_anew() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let keys = "hash_on = 'source-ip-port'";
    let fixture = Fixture::start(text(&[&one], keys));
    let _clients = fixture.clients();
    fixture.proxy.remote.reload(text(&[&one, &other], keys)).unwrap();
    let misplaced = fixture.page("?pool=main&most=100%25&rate=20/s")["misplaced"].as_u64().unwrap();
    wait_for("the first to be closed", || fixture.closed() > 0.0);
    let backend = other.address;
    let path = format!("/api/v1/overrides/weight?pool=main&backend={backend}&value=2");
    assert_eq!(admin::change(fixture.admin, "POST", &path, PATIENCE).unwrap().0, 200);
    wait_for("all to be closed", || fixture.closed() == misplaced as f64);
}

#[test]
fn a_wrong_request_closes_nothing_and_says_why() {
    let backend = Backend::echo();
    let fixture = Fixture::start(text(&[&backend], ""));
    let check = |query: &str, code: u16, part: &str| {
        let (found, body) = fixture.ask(query);
        assert!(found == code && body.contains(part), "{query}: {found} {body}");
    };
    check("", 400, "the query takes: pool");
    check("?pool=main&pool=main", 400, "the query takes: pool");
    check(
        "?pool=mian",
        404,
        "there is no pool `mian`; did you mean `main`? The pools are: main, other, wide",
    );
    check("?pool=main&rate=20", 400, "`rate` must be a number");
    check("?pool=main&most=101%25", 400, "`most` must be a percentage");
    check("?pool=main&most=10%", 400, "write 10%25 for 10%");
    check("?pool=main&dry_run=yes", 400, "dry_run (true or false)");
    check("?pool=wide", 409, "forwards clients to the hosts that they request");
    assert_eq!(fixture.run(&["mian"]).0, 2);
    assert_eq!(fixture.run(&["main", "--rate", "fast"]).0, 2);
    assert_eq!(fixture.run(&["main", "--most", "x"]).0, 2);
    let (code, body) =
        admin::change(fixture.admin, "POST", "/api/v1/overrides/pause?pool=main&for=60s", PATIENCE).unwrap();
    assert_eq!(code, 200, "{body}");
    check("?pool=main", 409, "the pool is paused");
}
