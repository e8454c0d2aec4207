//! The open connections of a running server: listed by each filter, shown with their sockets, closed by an operator.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread;

use pointsman::admin;
use pointsman::config::AdminSpec;
use serde_json::Value;

use crate::process::run;
use crate::records::LogFile;
use crate::support::hello::hello;
use crate::support::pair::{connect_from, expect_bytes, expect_reset};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

const PAGE: &str = "/api/v1/connections";

/// A proxy with the listeners `main` (TCP) and `tls`, the pools `app` and `web`, and an admin listener that accepts changes.
struct Fixture {
    proxy: Proxy,
    admin: SocketAddr,
}

impl Fixture {
    fn start() -> Self {
        Self::with("off", &format!("'{}'", Backend::echo().address))
    }

    /// Starts it with an access log, and with these backends of the pool `app`.
    fn with(log: &str, backends: &str) -> Self {
        let web = Backend::echo().address;
        let text = format!(
            "workers = 2\naccess_log.to = '{log}'\naccess_log.format = 'json'\n\
             [listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
             [listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
             routes = [{{ sni = '*.example', name = 'examples', pool = 'web' }}]\n\
             [pool.app]\nbackends = [{backends}]\nhealth.check = 'off'\n\
             [pool.web]\nbackends = [{{ name = 'web-1', address = '{web}' }}]\nhealth.check = 'off'\n"
        );
        let spec = AdminSpec::new("127.0.0.1:0".parse::<SocketAddr>().unwrap());
        let (proxy, address) = Proxy::start_with(config(&text), AdminSpec { open_changes: true, ..spec });
        Self { proxy, admin: address.tcp().unwrap() }
    }

    /// Connects a client from this address to `main`, and exchanges bytes with the backend.
    fn client(&self, source: &str) -> TcpStream {
        let client = connect_from(source.parse().unwrap(), self.proxy.address("main"));
        exchange(client, b"hello")
    }

    /// Connects a client of this server name to `tls`.
    fn tls_client(&self, name: &str) -> TcpStream {
        let client = connect_from("127.0.0.1".parse().unwrap(), self.proxy.address("tls"));
        exchange(client, &hello(name.as_bytes()))
    }

    fn page(&self, query: &str) -> Value {
        let (code, body) = admin::ask(self.admin, &format!("{PAGE}{query}"), PATIENCE).unwrap();
        assert_eq!(code, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// Returns the clients in a list.
    fn clients(&self, query: &str) -> Vec<String> {
        clients(&self.page(query))
    }

    fn change(&self, method: &'static str, path: &str) -> (u16, String) {
        admin::change(self.admin, method, &format!("{PAGE}{path}"), PATIENCE).unwrap()
    }

    /// Returns the row of a client.
    fn row(&self, client: &TcpStream) -> Value {
        let own = client.local_addr().unwrap().to_string();
        let page = self.page("?limit=1000");
        let rows = page["connections"].as_array().unwrap().iter();
        rows.clone().find(|row| row["client"] == own).unwrap_or_else(|| panic!("no {own} in {page}")).clone()
    }

    fn id(&self, client: &TcpStream) -> u64 {
        self.row(client)["id"].as_u64().unwrap()
    }

    /// Runs the command with these arguments. Returns its exit code and both outputs.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let admin = self.admin.to_string();
        let output = run(&[&["connections"], arguments, &["--admin", &admin]].concat());
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), texts.concat())
    }
}

fn exchange(mut client: TcpStream, bytes: &[u8]) -> TcpStream {
    client.write_all(bytes).unwrap();
    expect_bytes(&client, bytes);
    client
}

fn clients(page: &Value) -> Vec<String> {
    let rows = page["connections"].as_array().unwrap().iter();
    rows.map(|row| row["client"].as_str().unwrap().to_owned()).collect()
}

fn is_open(mut client: &TcpStream) -> bool {
    client.write_all(b"still here").unwrap();
    let mut bytes = [0; 10];
    client.read_exact(&mut bytes).is_ok() && &bytes == b"still here"
}

/// Returns the value of a series of connections that an operator closed.
fn closed(listener: &str) -> String {
    format!(r#"pointsman_connections_closed_total{{listener="{listener}",reason="closed_by_operator"}}"#)
}

#[test]
fn each_filter_finds_its_connections() {
    let fixture = Fixture::start();
    let (near, far) = (fixture.client("127.0.0.1"), fixture.client("127.0.2.2"));
    let tls = fixture.tls_client("a.Example");
    let reading = connect_from("127.0.3.3".parse().unwrap(), fixture.proxy.address("tls"));
    wait_for("the fourth connection", || fixture.page("")["matched"] == 4);
    let [near, far, tls, reading] =
        [&near, &far, &tls, &reading].map(|client| client.local_addr().unwrap().to_string());
    let check = |query: &str, expected: &[&String]| {
        let mut found = fixture.clients(query);
        found.sort_unstable();
        let mut expected: Vec<_> = expected.iter().map(|client| (*client).clone()).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
    };
    check("", &[&near, &far, &tls, &reading]);
    check("?pool=app", &[&near, &far]);
    check("?pool=web", &[&tls]);
    check("?backend=web-1", &[&tls]);
    check("?backend=web/web-1", &[&tls]);
    check("?listener=tls", &[&tls, &reading]);
    check("?source=127.0.2.0/24", &[&far]);
    check("?source=127.0.2.2", &[&far]);
    check("?sni=*.example", &[&tls]);
    check("?sni=?.EXAMPLE", &[&tls]);
    check("?sni=b.*", &[]);
    check("?stage=reading", &[&reading]);
    check("?stage=relaying&listener=main", &[&near, &far]);
    check("?older=1h", &[]);
    check("?older=0s&pool=web", &[&tls]);
    check("?idle=1h", &[]);
    // The bytes of the exchange were counted at most two sweeps ago.
    wait_for("idle connections", || fixture.clients("?idle=1s&pool=app").len() == 2);
    let row = &fixture.page("?pool=web")["connections"][0];
    assert_eq!((&row["sni"], &row["route"]), (&"a.example".into(), &"examples".into()), "{row}");
    assert_eq!(
        (&row["pool"], &row["backend"], &row["stage"]),
        (&"web".into(), &"web-1".into(), &"relaying".into())
    );
    let sent = hello(b"a.Example").len() as u64;
    assert_eq!(
        (row["from_client_bytes"].as_u64(), row["from_backend_bytes"].as_u64()),
        (Some(sent), Some(sent))
    );
    let age = row["age_seconds"].as_f64().unwrap();
    assert!(age > 0.0 && age < PATIENCE.as_secs_f64() * 3.0, "{row}");
}

#[test]
fn lists_are_sorted_and_cut() {
    let fixture = Fixture::start();
    let first = fixture.client("127.0.0.1");
    let heavy = exchange(fixture.client("127.0.0.1"), &[7; 10_000]);
    let last = fixture.client("127.0.0.1");
    let names = [&first, &heavy, &last].map(|client| client.local_addr().unwrap().to_string());
    let page = fixture.page("?sort=age&limit=2");
    assert_eq!(clients(&page), names[..2]);
    assert_eq!(
        (&page["open"], &page["matched"], &page["cut"]),
        (&3.into(), &3.into(), &true.into()),
        "{page}"
    );
    let page = fixture.page("?sort=bytes&limit=1000");
    assert_eq!((clients(&page)[0].as_str(), &page["cut"]), (names[1].as_str(), &false.into()));
    // A connection that moves bytes all the time is the first by its rate, and the last by its idle time.
    let mut heavy = heavy;
    wait_for("the rate of the heavy client", || {
        heavy.write_all(&[7; 4096]).unwrap();
        expect_bytes(&heavy, &[7; 4096]);
        let row = &fixture.page("?sort=rate&limit=1")["connections"][0];
        row["client"] == *names[1] && row["bytes_per_second"].as_u64().unwrap() >= 8192
    });
    wait_for("the idle time of the others", || {
        heavy.write_all(&[7; 4096]).unwrap();
        expect_bytes(&heavy, &[7; 4096]);
        fixture.clients("?sort=idle")[2] == names[1]
    });
}

/// A list also has connections in all workers, while others begin and end.
#[test]
fn lists_are_whole_while_connections_come_and_go() {
    let fixture = Fixture::start();
    let stay: Vec<_> = (0..40).map(|_| fixture.client("127.0.0.1")).collect();
    let expected: Vec<_> = stay.iter().map(|client| client.local_addr().unwrap().to_string()).collect();
    let stop = Mutex::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut count = 0;
            while !*stop.lock().unwrap() {
                drop(fixture.client("127.0.4.4"));
                count += 1;
            }
            count
        });
        for _ in 0..20 {
            let found = fixture.clients("?source=127.0.0.1&limit=1000");
            assert_eq!(found.len(), expected.len());
            assert!(expected.iter().all(|client| found.contains(client)), "{found:?}");
        }
        *stop.lock().unwrap() = true;
        assert!(others.join().unwrap() > 0);
    });
}

#[test]
fn a_connection_is_shown_with_both_sockets() {
    let fixture = Fixture::start();
    let client = fixture.client("127.0.0.1");
    let page = fixture.page(&format!("/{}", fixture.id(&client)));
    let own = client.local_addr().unwrap().to_string();
    let listener = fixture.proxy.address("main").to_string();
    let (near, far) = (&page["legs"]["client"], &page["legs"]["backend"]);
    assert_eq!((&near["local"], &near["peer"]), (&listener.clone().into(), &own.clone().into()), "{page}");
    assert_eq!((&page["client"], &page["pool"]), (&own.clone().into(), &"app".into()), "{page}");
    assert_eq!(far["peer"], page["backend"], "the name of a backend is its address");
    assert_eq!(near["ss"], format!("ss -tinmo 'src {listener} and dst {own}'"));
    let command = near["tcpdump"].as_str().unwrap();
    assert!(command.starts_with("tcpdump -ni any 'tcp and host 127.0.0.1 and port "), "{command}");
    for leg in [near, far] {
        let tcp = &leg["tcp"];
        assert!(tcp["rtt_seconds"].as_f64().unwrap() > 0.0, "{tcp}");
        assert!(tcp["cwnd_segments"].as_u64().unwrap() > 0 && tcp["retransmits"].is_u64(), "{tcp}");
        assert_eq!((tcp["notsent_bytes"].as_u64(), tcp["sent_bytes"].as_u64()), (Some(0), Some(5)), "{tcp}");
        assert_eq!((&leg["blocked"], &leg["ended"]), (&false.into(), &false.into()), "{leg}");
    }
    assert_eq!(page["verdict"], "nothing holds the connection up");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    // The backend ends too, so the connection is over.
    wait_for("the end", || fixture.page("")["open"] == 0);
}

#[test]
fn a_client_whose_first_bytes_are_missing_has_no_sockets_to_show() {
    let fixture = Fixture::start();
    let client = connect_from("127.0.0.1".parse().unwrap(), fixture.proxy.address("tls"));
    wait_for("the connection", || fixture.page("?stage=reading")["matched"] == 1);
    let page = fixture.page(&format!("/{}", fixture.id(&client)));
    assert_eq!((&page["legs"], &page["pool"], &page["sni"]), (&Value::Null, &Value::Null, &Value::Null));
    assert!(
        page["verdict"].as_str().unwrap().starts_with("the client has not sent its first bytes"),
        "{page}"
    );
}

#[test]
fn sockets_of_a_unix_backend_have_no_figures_of_tcp() {
    let path = std::env::temp_dir().join(format!("pointsman-connections-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        while stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes).unwrap();
        }
    });
    let fixture = Fixture::with("off", &format!("'unix:{}'", path.display()));
    let client = fixture.client("127.0.0.1");
    let name = fixture.row(&client)["backend"].as_str().unwrap().to_owned();
    assert_eq!(fixture.clients(&format!("?backend={name}")).len(), 1, "a name with slashes");
    assert_eq!(fixture.clients(&format!("?backend=app/{name}")).len(), 1);
    let page = fixture.page(&format!("/{}", fixture.id(&client)));
    let backend = &page["legs"]["backend"];
    for key in ["local", "peer", "tcp", "ss", "tcpdump"] {
        assert_eq!(backend[key], Value::Null, "{key} in {backend}");
    }
    assert!(page["legs"]["client"]["tcp"].is_object(), "{page}");
    drop(client);
    serving.join().unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_client_that_does_not_read_is_found() {
    let backend = Backend::serve(|mut stream| while stream.write_all(&[7; 65_536]).is_ok() {});
    let fixture = Fixture::with("off", &format!("'{}'", backend.address));
    let client = connect_from("127.0.0.1".parse().unwrap(), fixture.proxy.address("main"));
    wait_for("the connection", || fixture.page("")["matched"] == 1);
    let id = fixture.id(&client);
    let mut page = Value::Null;
    wait_for("the verdict", || {
        page = fixture.page(&format!("/{id}"));
        page["verdict"].as_str().unwrap().starts_with("the client does not read: its window was shut ")
    });
    assert!(page["legs"]["client"]["tcp"]["rwnd_limited_seconds"].as_f64().unwrap() > 0.0, "{page}");
    assert_eq!(page["legs"]["client"]["blocked"], true, "{page}");
}

#[test]
fn a_killed_connection_ends_alone() {
    let log = LogFile::new();
    let fixture = Fixture::with(log.path(), &format!("'{}'", Backend::echo().address));
    let (killed, other) = (fixture.client("127.0.0.1"), fixture.client("127.0.0.1"));
    let (id, own) = (fixture.id(&killed), killed.local_addr().unwrap().to_string());
    let (code, body) = fixture.change("DELETE", &format!("/{id}"));
    assert_eq!(
        (code, body.as_str()),
        (200, &*format!("{{\n  \"id\": {id},\n  \"result\": \"closed\"\n}}\n"))
    );
    expect_reset(&killed);
    assert!(is_open(&other));
    let record = log.record();
    assert_eq!((&record["id"], &record["client"]), (&id.into(), &own.clone().into()), "{record}");
    assert_eq!((&record["close"], &record["closed_by"]), (&"closed_by_operator".into(), &"pointsman".into()));
    assert_eq!((&record["pool"], &record["from_client_bytes"]), (&"app".into(), &5.into()), "{record}");
    fixture.proxy.wait_for_metric(&closed("main"), 1.0);
    let events = fixture.proxy.remote.view().events.newest_first();
    let text = format!("connection {id} of client {own} at listener main was closed, by 127.0.0.1:");
    let event = events.iter().find(|event| event.text.starts_with(&text));
    assert_eq!(event.unwrap_or_else(|| panic!("no {text} in {events:?}")).kind.word(), "connections");
    let (code, body) = fixture.change("DELETE", &format!("/{id}"));
    assert_eq!(
        (code, body.as_str()),
        (404, "no open connection has this id; GET /api/v1/connections lists the open connections\n")
    );
    assert!(is_open(&other));
}

/// A connection without a backend can be closed too.
#[test]
fn a_client_that_is_read_is_killed() {
    let fixture = Fixture::start();
    let mut client = connect_from("127.0.0.1".parse().unwrap(), fixture.proxy.address("tls"));
    wait_for("the connection", || fixture.page("?stage=reading")["matched"] == 1);
    assert_eq!(fixture.change("DELETE", &format!("/{}", fixture.id(&client))).0, 200);
    fixture.proxy.wait_for_metric(&closed("tls"), 1.0);
    match client.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the client is open: {other:?}"),
    }
}

#[test]
fn connections_of_a_filter_are_closed_and_the_others_stay() {
    let fixture = Fixture::start();
    let meant: Vec<_> = (0..5).map(|_| fixture.client("127.0.2.2")).collect();
    let other = fixture.client("127.0.0.1");
    let order = |query: &str| -> Value {
        let (code, body) = fixture.change("POST", &format!("/close?{query}"));
        assert_eq!(code, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    let dry = order("source=127.0.2.0/24&rate=10/s&dry_run=true");
    assert_eq!(
        (&dry["matched"], &dry["dry_run"], &dry["takes_seconds"]),
        (&5.into(), &true.into(), &0.5.into())
    );
    assert!(meant.iter().all(is_open), "a dry run closes nothing");
    assert_eq!(fixture.proxy.metric(&closed("main")), 0.0);
    let order_page = order("source=127.0.2.0/24&rate=100/s");
    assert_eq!((&order_page["matched"], &order_page["dry_run"]), (&5.into(), &false.into()));
    for client in &meant {
        expect_reset(client);
    }
    fixture.proxy.wait_for_metric(&closed("main"), 5.0);
    assert!(is_open(&other));
    let none = order("source=127.0.2.0/24");
    assert_eq!(none["matched"], 0);
    let events = fixture.proxy.remote.view().events.newest_first();
    let orders: Vec<_> = events.iter().filter(|event| event.kind.word() == "connections").collect();
    assert_eq!(orders.len(), 1, "neither a dry run nor an order without effect is an event: {orders:?}");
    assert!(
        orders[0]
            .text
            .starts_with("5 connections (source=127.0.2.0/24&rate=100/s) are closed within 0 s, by ")
    );
}

/// The pace is that of all workers together, and the order goes on while others are listed.
#[test]
fn connections_are_closed_at_a_pace() {
    let fixture = Fixture::start();
    let clients: Vec<_> = (0..4).map(|_| fixture.client("127.0.0.1")).collect();
    let began = std::time::Instant::now();
    let (code, body) = fixture.change("POST", "/close?pool=app&rate=5/s");
    assert_eq!(code, 200, "{body}");
    wait_for("the first to be closed", || fixture.proxy.metric(&closed("main")) >= 1.0);
    fixture.proxy.wait_for_metric(&closed("main"), 4.0);
    // The turn of the last is in the fourth fifth of a second.
    assert!(began.elapsed() >= std::time::Duration::from_millis(590), "{:?}", began.elapsed());
    clients.iter().for_each(expect_reset);
}

/// A turn of the order would come in an hour.
#[test]
fn an_order_to_close_is_cancelled() {
    let fixture = Fixture::start();
    let clients: Vec<_> = (0..4).map(|_| fixture.client("127.0.0.1")).collect();
    let orders = || fixture.change("DELETE", "/close").1;
    assert!(orders().contains("\"cancelled\": 0"));
    for _ in 0..8 {
        let (code, body) = fixture.change("POST", "/close?pool=app&rate=1/h");
        assert_eq!(code, 200, "{body}");
    }
    let (code, body) = fixture.change("POST", "/close?pool=app&rate=1/h");
    assert!(code == 409 && body.contains("pointsman connections close --cancel"), "{code} {body}");
    assert!(orders().contains("\"cancelled\": 8"));
    let (code, body) = fixture.change("POST", "/close?pool=app&rate=1000/s");
    assert_eq!(code, 200, "{body}");
    clients.iter().for_each(expect_reset);
    fixture.proxy.wait_for_metric(&closed("main"), 4.0);
}

#[test]
fn bad_input_is_refused_with_what_exists() {
    let fixture = Fixture::start();
    let client = fixture.client("127.0.0.1");
    let check = |path: &str, code: u16, part: &str| {
        let (found, body) = admin::ask(fixture.admin, &format!("{PAGE}{path}"), PATIENCE).unwrap();
        assert_eq!(found, code, "{path}: {body}");
        assert!(body.contains(part) && body.ends_with('\n'), "{path}: {body}");
    };
    check(
        "?pool=ap",
        404,
        "there is no pool `ap`; did you mean `app`? The pools are: app, web; no open connection has this name either",
    );
    check("?listener=mian", 404, "did you mean `main`? The listeners are: main, tls");
    check("?backend=web-2", 404, "there is no backend `web-2`; did you mean `web-1`?");
    check("?backend=web/x", 404, "there is no backend `x`. The backends are: web-1");
    check("?stage=read", 400, "reading, queued, dialing, refusing, relaying");
    check("?sort=agee", 400, "did you mean \"age\"?");
    check("?limit=0", 400, "from 1 to 1000");
    check("?older=5", 400, "`older` must be a duration");
    check("?source=127.0.0.1/8", 400, "`source` must be an address or a network");
    check("?what=x", 400, "the query may only have, each once and with a value: pool, ");
    check("/x", 400, "\"x\" is not the id of a connection");
    check("/+1", 400, "\"+1\" is not the id of a connection");
    check("/18446744073709551616", 400, "is not the id of a connection");
    check("/999999", 404, "no open connection has this id");
    check("/close", 405, "");
    let refuse = |method: &'static str, path: &str, code: u16, part: &str| {
        let (found, body) = fixture.change(method, path);
        assert_eq!(found, code, "{method} {path}: {body}");
        assert!(body.contains(part), "{method} {path}: {body}");
    };
    refuse("POST", "/close", 400, "the order has no filter, so it would close every connection");
    refuse("POST", "/close?rate=20/s", 400, "older=0s matches every connection");
    refuse("POST", "/close?pool=app&rate=20", 400, "such as 20/s");
    refuse("POST", "/close?pool=app&dry_run=1", 400, "`dry_run` must be true or false");
    refuse("POST", "/close?pool=ap", 404, "did you mean `app`?");
    refuse("DELETE", "/x", 400, "is not the id of a connection");
    refuse("DELETE", "", 405, "");
    refuse("POST", "/1", 405, "");
    assert!(is_open(&client));
}

#[test]
fn orders_are_bounded() {
    let fixture = Fixture::start();
    let client = fixture.client("127.0.0.1");
    for _ in 0..8 {
        assert_eq!(fixture.change("POST", "/close?pool=app&rate=1/h").0, 200);
    }
    let (code, body) = fixture.change("POST", "/close?pool=app&rate=1/h");
    assert_eq!(code, 409, "{body}");
    assert!(body.contains("8 orders to close connections are being carried out"), "{body}");
    assert_eq!(fixture.change("POST", "/close?pool=app&rate=1/h&dry_run=true").0, 200);
    let client = fixture.id(&client);
    assert_eq!(fixture.change("DELETE", &format!("/{client}")).0, 200);
}

#[test]
fn a_change_needs_the_right_to_change() {
    let text = format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = ['{}']\nhealth.check = 'off'\n",
        Backend::echo().address
    );
    let (proxy, admin) = Proxy::start_with_admin(config(&text));
    let client = exchange(proxy.connect(), b"hello");
    let (code, body) = admin::ask(admin, PAGE, PATIENCE).unwrap();
    assert_eq!(code, 200, "reading needs no right on a loopback address: {body}");
    let page: Value = serde_json::from_str(&body).unwrap();
    let id = page["connections"][0]["id"].as_u64().unwrap();
    for (method, path) in [
        ("DELETE", format!("{PAGE}/{id}")),
        ("POST", format!("{PAGE}/close?older=0s")),
        ("POST", format!("{PAGE}/close?older=0s&dry_run=true")),
    ] {
        let (code, body) = admin::change(admin, method, &path, PATIENCE).unwrap();
        assert!(code == 401 && body.contains("changes need a Unix socket"), "{method} {path}: {code} {body}");
    }
    assert!(is_open(&client));
}

/// The answer to these bytes, sent to an admin listener.
fn raw(admin: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn pages_of_other_sites_and_requests_with_content_change_nothing() {
    let fixture = Fixture::start();
    let client = fixture.client("127.0.0.1");
    let id = fixture.id(&client);
    for line in [format!("DELETE {PAGE}/{id}"), format!("POST {PAGE}/close?older=0s")] {
        let answer = raw(fixture.admin, &format!("{line} HTTP/1.0\r\nSec-Fetch-Site: cross-site\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.0 403 "), "{answer}");
        let answer = raw(
            fixture.admin,
            &format!("{line} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"),
        );
        assert!(answer.starts_with("HTTP/1.0 400 ") && answer.contains("takes no content"), "{answer}");
    }
    assert!(is_open(&client));
}

#[test]
fn the_command_lists_shows_and_closes() {
    let fixture = Fixture::start();
    let (client, other) = (fixture.tls_client("a.example"), fixture.client("127.0.2.2"));
    let (id, own) = (fixture.id(&client).to_string(), client.local_addr().unwrap().to_string());
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        let (found, text) = fixture.run(arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: no {part} in {text}");
        }
    };
    check(&[], 0, &["2 of 2 open connections\n", "ID  ", "CLIENT", &own, "a.example", "relaying"]);
    check(&["--pool", "web", "--sort", "bytes", "--limit", "5"], 0, &["1 of 2 open connections\n", &own]);
    check(&["--sni", "*.example", "--json"], 0, &["\"matched\": 1", "\"sni\": \"a.example\""]);
    check(
        &["show", &id],
        0,
        &[&format!("connection {id}: nothing holds"), "TO THE BACKEND", "client: ss -tinmo"],
    );
    check(&["show", &id, "--json"], 0, &["\"verdict\": ", "\"rtt_seconds\": "]);
    check(&["--pool", "wbe"], 2, &["there is no pool `wbe`; did you mean `web`?"]);
    check(&["--older", "5"], 2, &["`older` must be a duration"]);
    check(&["--sort", "agee"], 2, &["'age'"]);
    check(&["--limit", "1001"], 2, &["from 1 to 1000"]);
    check(&["show", "99999"], 2, &["no open connection has this id"]);
    check(&["show", "x"], 2, &["x"]);
    check(&["kill"], 2, &["ID"]);
    check(&["close"], 2, &["the order has no filter"]);
    check(&["close", "--pool", "web", "--dry-run"], 0, &["1 connections would be closed within 1s\n"]);
    check(&["kill", "99999", &id], 2, &[&format!("{id} closed\n"), "no open connection has this id"]);
    expect_reset(&client);
    check(&["close", "--source", "127.0.2.0/24", "--rate", "100/s"], 0, &["1 connections are being closed"]);
    expect_reset(&other);
    check(&["close", "--source", "127.0.2.0/24"], 0, &["no open connection matches\n"]);
    wait_for("no connection", || fixture.page("")["open"] == 0);
    check(&[], 0, &["0 of 0 open connections\n"]);
}

/// Connections that wait for a backend are listed and described.
#[test]
fn a_client_in_the_queue_is_listed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = [{{ name = 'b', address = '{}', max_connections = 1 }}]\nhealth.check = 'off'\n\
         queue = {{ length = 5, timeout = '1h' }}\n",
        listener.local_addr().unwrap()
    );
    let (proxy, admin) = Proxy::start_with_admin(config(&text));
    let _served = proxy.connect();
    let _accepted = listener.accept().unwrap();
    let waiting = proxy.connect();
    let find = |query: &str| -> Value {
        let (_, body) = admin::ask(admin, &format!("{PAGE}{query}"), PATIENCE).unwrap();
        serde_json::from_str(&body).unwrap()
    };
    wait_for("the waiter", || find("?stage=queued")["matched"] == 1);
    let row = &find("?stage=queued")["connections"][0];
    assert_eq!(row["client"], waiting.local_addr().unwrap().to_string());
    let shown = find(&format!("/{}", row["id"]));
    assert_eq!(shown["verdict"], "every backend of the pool \"app\" is full: the client waits in its queue");
}

/// The end of a client, seen by all that watch it, comes once: an order does not count a connection that an operator has
/// killed meanwhile.
#[test]
fn an_order_leaves_out_connections_that_have_ended() {
    let fixture = Fixture::start();
    let clients: Arc<Vec<_>> = Arc::new((0..3).map(|_| fixture.client("127.0.0.1")).collect());
    let last = fixture.id(&clients[2]);
    let (code, body) = fixture.change("POST", "/close?pool=app&rate=3/s");
    assert_eq!(code, 200, "{body}");
    let (code, _) = fixture.change("DELETE", &format!("/{last}"));
    assert!(code == 200 || code == 404, "{code}");
    fixture.proxy.wait_for_metric(&closed("main"), 3.0);
    wait_for("no connection", || fixture.page("")["open"] == 0);
    assert_eq!(fixture.proxy.metric(&closed("main")), 3.0);
}
