//! The last use of routes: kept over reloads, listed by time, filtered.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::SystemTime;

use pointsman::admin;
use pointsman::config::Config;
use serde_json::Value;

use crate::process::run;
use crate::support::hello::hello;
use crate::support::pair::connect_from;
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

const PAGE: &str = "/api/v1/routes";

/// A proxy with the listeners `tls` and `main`, and the pools `app` and `web`.
struct Fixture {
    backend: Backend,
    proxy: Proxy,
    admin: SocketAddr,
}

impl Fixture {
    fn start(routes: &str) -> Self {
        let backend = Backend::echo();
        let (proxy, admin) = Proxy::start_with_admin(Self::config(&backend, routes));
        Self { backend, proxy, admin }
    }

    fn config(backend: &Backend, routes: &str) -> Config {
        config(&format!(
            "workers = 2\naccess_log.to = 'off'\n\
             [listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nroutes = [{routes}]\nunmatched = 'app'\n\
             [listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\nroutes = [{{ source = '127.0.2.0/24', pool = 'web' }}]\n\
             [pool.app]\nbackends = ['{address}']\nhealth.check = 'off'\n\
             [pool.web]\nbackends = ['{address}']\nhealth.check = 'off'\n",
            address = backend.address
        ))
    }

    /// Sends bytes to a listener from this address, and waits for the first answer or the end.
    fn send(&self, source: &str, listener: &str, bytes: &[u8]) {
        let mut client = connect_from(source.parse().unwrap(), self.proxy.address(listener));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(bytes).unwrap();
        let _ = client.read(&mut [0]);
    }

    fn send_name(&self, name: &str) {
        self.send("127.0.0.1", "tls", &hello(name.as_bytes()));
    }

    fn ask(&self, query: &str) -> (u16, String) {
        admin::ask(self.admin, &format!("{PAGE}{query}"), PATIENCE).unwrap()
    }

    fn page(&self, query: &str) -> Value {
        let (code, body) = self.ask(query);
        assert_eq!(code, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// Returns the routes of a list with their connections, in the order of the list.
    fn routes(&self, query: &str) -> Vec<(String, u64)> {
        let page = self.page(query);
        let rows = page["routes"].as_array().unwrap().iter();
        rows.map(|row| (text(row, "route"), row["connections"].as_u64().unwrap())).collect()
    }

    /// Returns the row of a route.
    fn row(&self, route: &str) -> Value {
        let page = self.page("");
        let rows = page["routes"].as_array().unwrap().iter();
        rows.clone()
            .find(|row| row["route"] == route)
            .unwrap_or_else(|| panic!("no {route} in {page}"))
            .clone()
    }
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_else(|| panic!("no {key} in {row}")).to_owned()
}

fn time(row: &Value, key: &str) -> SystemTime {
    humantime::parse_rfc3339(&text(row, key)).unwrap()
}

fn owned(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(route, count)| ((*route).to_owned(), *count)).collect()
}

const ROUTES: &str = "{ sni = ['a.example', 'b.example'], pool = 'app' }, { sni = ['n1.example', 'n2.example'], name = \
                      'both', pool = 'web' }, { sni = 'no.example', action = 'reject' }, { sni = 'split.example', split = \
                      [{ pool = 'app', weight = 1 }, { pool = 'web', weight = 1 }] }";

#[test]
fn each_name_of_a_route_without_a_name_has_its_last_use() {
    let before = SystemTime::now();
    let fixture = Fixture::start(ROUTES);
    let unused = ["*+source", "a.example", "b.example", "both", "no.example", "split.example"];
    let mut routes = fixture.routes("");
    routes.sort();
    let mut expected = owned(&unused.map(|route| (route, 0)));
    expected.sort();
    assert_eq!(routes, expected);
    for name in ["a.example", "n1.example", "n2.example", "no.example", "split.example", "unknown.example"] {
        fixture.send_name(name);
    }
    fixture.send("127.0.2.2", "main", b"hello");
    fixture.send("127.0.3.3", "main", b"hello");
    wait_for("all uses", || fixture.routes("").iter().map(|(_, count)| count).sum::<u64>() == 6);
    let routes = fixture.routes("");
    assert_eq!(routes[0], ("b.example".to_owned(), 0), "a route that was never used is the first one");
    let listed = |listener: &str| {
        let mut routes = fixture.routes(&format!("?listener={listener}"));
        routes.sort();
        routes
    };
    let expected = [("a.example", 1), ("b.example", 0), ("both", 2), ("no.example", 1), ("split.example", 1)];
    assert_eq!(listed("tls"), owned(&expected));
    assert_eq!(listed("main").len(), 1);
    assert_eq!(listed("main")[0].1, 1, "only the route counts, not the pool of the listener");
    let row = fixture.row("a.example");
    assert_eq!(
        (&row["listener"], &row["action"], &row["pool"], &row["split"]),
        (&"tls".into(), &"pool".into(), &"app".into(), &Value::Null)
    );
    let second = std::time::Duration::from_secs(1);
    assert!(
        time(&row, "last_used") + second >= before && time(&row, "last_used") <= SystemTime::now(),
        "{row}"
    );
    assert!(
        time(&row, "since") + second >= before && time(&row, "since") <= time(&row, "last_used"),
        "{row}"
    );
    let never = fixture.row("b.example");
    assert_eq!((&never["last_used"], &never["connections"]), (&Value::Null, &0.into()), "{never}");
    assert!(never["unused_seconds"].is_u64(), "{never}");
    let split = fixture.row("split.example");
    assert_eq!(
        (&split["action"], &split["split"]),
        (&"split".into(), &serde_json::json!(["app", "web"])),
        "{split}"
    );
    assert_eq!(fixture.row("no.example")["action"], "reject");
}

#[test]
fn routes_that_are_not_used_are_found() {
    let fixture = Fixture::start(ROUTES);
    // Nothing is known about the time before the start.
    let page = fixture.page("?unused=1h");
    assert_eq!(
        (&page["matched"], &page["total"], &page["routes"]),
        (&0.into(), &6.into(), &serde_json::json!([]))
    );
    wait_for("the first second", || {
        fixture.send_name("a.example");
        let routes = fixture.routes("?unused=2s&listener=tls");
        routes.len() == 4 && routes.iter().all(|(route, count)| route != "a.example" && *count == 0)
    });
    let page = fixture.page("?limit=2");
    assert_eq!(
        (&page["total"], &page["matched"], &page["cut"]),
        (&6.into(), &6.into(), &true.into()),
        "{page}"
    );
    assert_eq!(page["routes"].as_array().unwrap().len(), 2);
    assert_eq!(fixture.page("?limit=6")["cut"], false);
    let since = time(&page, "since");
    assert!(since <= SystemTime::now(), "{page}");
}

#[test]
fn the_last_use_is_kept_over_a_reload() {
    let fixture = Fixture::start(ROUTES);
    fixture.send_name("a.example");
    fixture.send_name("n1.example");
    wait_for("both uses", || fixture.routes("").iter().map(|(_, count)| count).sum::<u64>() == 2);
    let [used, named, unused] = ["a.example", "both", "b.example"].map(|route| fixture.row(route));
    // The name `n1.example` is gone, and `a.example` leads to another pool.
    let routes = "{ sni = 'n2.example', name = 'both', pool = 'web' }, { sni = 'new.example', pool = 'app' }, { sni = \
                  ['b.example', 'a.example'], pool = 'web' }, { sni = 'both', pool = 'app' }";
    fixture.proxy.remote.reload(Fixture::config(&fixture.backend, routes)).unwrap();
    for (before, keys) in [(&used, "web"), (&named, "web"), (&unused, "web")] {
        let route = text(before, "route");
        let page = fixture.page("?listener=tls");
        let rows = page["routes"].as_array().unwrap().iter();
        let row = rows.clone().find(|row| row["route"] == *route && row["pool"] == keys).unwrap();
        for key in ["connections", "last_used", "since"] {
            assert_eq!(row[key], before[key], "{key} of {route}");
        }
    }
    let new = fixture.row("new.example");
    assert_eq!((&new["connections"], &new["last_used"]), (&0.into(), &Value::Null), "{new}");
    let both: Vec<_> = fixture.routes("").into_iter().filter(|(route, _)| route == "both").collect();
    assert_eq!(both, owned(&[("both", 0), ("both", 1)]), "a name and a key share nothing");
    fixture.send_name("a.example");
    wait_for("the third use", || fixture.row("a.example")["connections"] == 2);
}

#[test]
fn bad_queries_are_refused_with_what_is_allowed() {
    let fixture = Fixture::start(ROUTES);
    let check = |query: &str, code: u16, part: &str| {
        let (found, body) = fixture.ask(query);
        assert_eq!(found, code, "{query}: {body}");
        assert!(body.contains(part) && body.ends_with('\n'), "{query}: {body}");
    };
    check(
        "?listener=tsl",
        404,
        "no listener is named `tsl`; did you mean `tls`? the listeners are `main`, `tls`",
    );
    check("?unused=7", 400, "`unused` must be a duration such as 12h, 7d or 30days");
    check("?limit=10001", 400, "`limit` must be a number from 1 to 10000");
    check(
        "?unused",
        400,
        "the query may only have each of these once, with a value: listener, unused, limit",
    );
    check("?pool=app", 400, "listener, unused, limit");
    check("?listener=%zz", 400, "two hexadecimal digits");
}

#[test]
fn the_command_lists_routes() {
    let fixture = Fixture::start(ROUTES);
    fixture.send_name("a.example");
    wait_for("the use", || fixture.row("a.example")["connections"] == 1);
    let admin = fixture.admin.to_string();
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        let output = run(&[&["routes"], arguments, &["--admin", &admin]].concat());
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {texts:?}");
        for part in parts {
            assert!(texts.concat().contains(part), "{arguments:?}: no {part} in {texts:?}");
        }
    };
    check(
        &[],
        0,
        &["6 routes; counted since ", "LISTENER", "LAST USED", "b.example", "never in ", "s ago", "app web"],
    );
    check(&["--unused", "1h"], 0, &["0 of 6 routes were not used for 1h; counted since "]);
    check(
        &["--listener", "tls", "--limit", "1"],
        0,
        &["5 routes; ", "; the first 1 of them follow, --limit shows more"],
    );
    check(&["--json", "--unused", "0s"], 0, &["\"matched\": 6", "\"last_used\": null"]);
    check(&["--listener", "tsl"], 2, &["did you mean `tls`?"]);
    check(&["--unused", "x"], 2, &["`unused` must be a duration"]);
    check(&["--limit", "0"], 2, &["from 1 to 10000"]);
}
