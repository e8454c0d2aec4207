//! Lists of addresses: the clients that they admit, the reading of changed files, and entries for a time.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use pointsman::admin;
use pointsman::config::{self, AdminSpec, Config};
use serde_json::{Value, json};

use crate::records::LogFile;
use crate::support::country_file::CountryFile;
use crate::support::hello::hello;
use crate::support::pair::connect_from;
use crate::support::recorder::{Recorder, ask_on};
use crate::support::{PATIENCE, Proxy, config, find_in_time, wait_for};

const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const TLS: &str = "protocol = \"tls\"\nunmatched = \"p\"\nno_sni = \"p\"";
const TCP: &str = "pool = \"p\"";

/// Returns a configuration: a listener named `main` with these keys, a pool `p`, and these further tables.
fn text(log: &str, listener: &str, tables: &str, backend: &Recorder) -> String {
    format!(
        r#"
        workers = 2
        access_log.to = "{log}"
        [listener.main]
        bind = "127.0.0.1:0"
        {listener}
        [pool.p]
        backends = [{}]
        health.check = "off"
        {tables}
        "#,
        backend.written()
    )
}

fn proxy(listener: &str, tables: &str, backend: &Recorder) -> Proxy {
    Proxy::start(config(&text("off", listener, tables, backend)))
}

/// A file for one test, in a folder of its own.
struct ListFile(PathBuf);

impl ListFile {
    fn new(text: impl AsRef<[u8]>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pointsman-lists-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = Self(folder.join("bad.txt"));
        file.write(text);
        file
    }

    /// Replaces the file in one step.
    fn write(&self, text: impl AsRef<[u8]>) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// Returns a configuration beside the file that names it `bad`.
    fn config(&self, listener: &str, tables: &str, backend: &Recorder) -> Config {
        self.config_with("", listener, tables, backend)
    }

    /// Returns the same configuration with further keys of the list.
    fn config_with(&self, keys: &str, listener: &str, tables: &str, backend: &Recorder) -> Config {
        let path = self.0.with_file_name("config.toml");
        let tables = format!("{tables}\n[list.bad]\nfile = \"bad.txt\"\n{keys}");
        fs::write(&path, text("off", listener, &tables, backend)).unwrap();
        config::load(&path).unwrap_or_else(|faults| panic!("{faults}")).0
    }
}

impl Drop for ListFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// Returns the greeting of the backend for a silent client from this source; `None` if the client is refused.
fn greeting(proxy: &Proxy, source: &str) -> Option<String> {
    greeting_of(connect_from(source.parse().unwrap(), proxy.address("main")), b"")
}

fn greeting_of(mut client: TcpStream, words: &[u8]) -> Option<String> {
    // A client may be refused before its write. The write then gets the error of the refusal.
    let _ = client.write_all(words);
    let mut answer = Vec::new();
    let mut byte = [0];
    loop {
        match client.read(&mut byte) {
            Ok(1) if byte == *b"\n" => return Some(String::from_utf8(answer).unwrap()),
            Ok(1) => answer.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer in time"),
            Ok(_) | Err(_) => {
                assert!(answer.is_empty(), "refused without a word: {answer:?}");
                return None;
            }
        }
    }
}

fn check(proxy: &Proxy, source: &str, may: bool) {
    assert_eq!(greeting(proxy, source).as_deref(), may.then_some("b"), "{source}");
}

fn series_of(family: &str, reason: &str) -> String {
    format!(r#"pointsman_connections_{family}_total{{listener="main",reason="{reason}"}}"#)
}

/// Waits for a count: a client may see its end before the count.
fn counted(proxy: &Proxy, family: &str, reason: &str, count: f64) {
    proxy.wait_for_metric(&series_of(family, reason), count);
}

fn page(admin: SocketAddr, path: &str) -> Value {
    let (code, body) = admin::ask(admin, path, PATIENCE).unwrap();
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

/// Starts a proxy whose admin listener accepts changes on a loopback address.
fn start_with_changes(config: Config) -> (Proxy, SocketAddr) {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (proxy, address) =
        Proxy::start_with(config, AdminSpec { open_changes: true, ..AdminSpec::new(address) });
    (proxy, address.tcp().unwrap())
}

fn change(admin: SocketAddr, method: &'static str, path: &str) -> (u16, String) {
    admin::change(admin, method, path, PATIENCE).unwrap()
}

fn series(admin: SocketAddr, series: &str) -> f64 {
    let (_, text) = admin::ask(admin, "/metrics", PATIENCE).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[test]
fn deny_and_allow_are_asked_at_the_accept() {
    let backend = Recorder::start("b");
    let keys = "allow = [\"near\", \"127.0.3.0/24\"]\ndeny = [\"bad\", \"127.0.2.3\"]";
    let tables =
        "[list.near]\nentries = [\"127.0.0.0/24\", \"127.0.2.0/24\"]\n[list.bad]\nentries = \"127.0.2.2\"";
    let listener = format!("{TCP}\n{keys}");
    let proxy = proxy(&listener, tables, &backend);
    check(&proxy, "127.0.0.1", true);
    check(&proxy, "127.0.3.1", true);
    check(&proxy, "127.0.2.1", true);
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.2.3", false);
    check(&proxy, "127.0.4.1", false);
    counted(&proxy, "rejected", "denied", 2.0);
    counted(&proxy, "closed", "not_allowed", 1.0);
    let total = proxy.metric(r#"pointsman_connections_total{listener="main"}"#);
    assert_eq!(total, 6.0, "who is refused is counted as accepted too");
}

#[test]
fn who_is_denied_takes_no_place() {
    let backend = Recorder::start("b");
    let proxy = proxy(&format!("{TCP}\ndeny = \"127.0.2.2\"\nmax_connections = 1"), "", &backend);
    let mut held = connect_from("127.0.0.1".parse().unwrap(), proxy.address("main"));
    held.read_exact(&mut [0; 2]).unwrap();
    check(&proxy, "127.0.2.2", false);
    counted(&proxy, "closed", "denied", 1.0);
    check(&proxy, "127.0.0.1", false);
    counted(&proxy, "closed", "listener_full", 1.0);
}

#[test]
fn every_listener_denies_what_is_denied_for_all() {
    let backend = Recorder::start("b");
    let tables = "[lists]\ndeny = [\"bad\", \"127.0.2.3\"]\n[list.bad]\nentries = [\"127.0.2.2\"]";
    let proxy = proxy(TCP, tables, &backend);
    check(&proxy, "127.0.0.1", true);
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.2.3", false);
}

#[test]
fn clients_of_tls_are_told_unless_nothing_is_to_be_said() {
    let backend = Recorder::start("b");
    let tell = |refused: &str| {
        let proxy = proxy(&format!("{TLS}\ndeny = \"127.0.2.2\"\nrefused = \"{refused}\""), "", &backend);
        let ask = |source: &str| {
            let mut client = connect_from(source.parse().unwrap(), proxy.address("main"));
            let _ = client.write_all(&hello(b"a.example"));
            let mut answer = Vec::new();
            let mut byte = [0];
            while let Ok(1) = client.read(&mut byte) {
                answer.push(byte[0]);
                if byte == *b"\n" {
                    break;
                }
            }
            answer
        };
        assert_eq!(ask("127.0.0.1"), b"b\n");
        let answer = ask("127.0.2.2");
        counted(&proxy, "closed", "denied", 1.0);
        answer
    };
    assert_eq!(tell("reject"), ACCESS_DENIED);
    assert_eq!(tell("drop"), b"");
}

#[test]
fn behind_a_proxy_the_client_is_asked_for() {
    let backend = Recorder::start("b");
    let keys = "proxy_protocol = { trusted = \"127.0.0.0/16\" }\n\
                allow = [\"198.51.100.0/24\", \"2001:db8::/32\"]\ndeny = [\"198.51.100.7\", \"127.0.2.2\"]";
    let proxy = proxy(&format!("{TCP}\n{keys}"), "", &backend);
    let ask = |peer: &str, family: &str, client: &str| {
        let header = format!("PROXY {family} {client} {client} 4711 443\r\n");
        greeting_of(connect_from(peer.parse().unwrap(), proxy.address("main")), header.as_bytes())
    };
    // The proxy itself need not be in the allowed list.
    assert_eq!(ask("127.0.0.1", "TCP4", "198.51.100.1").as_deref(), Some("b"));
    assert_eq!(ask("127.0.0.1", "TCP6", "2001:db8::1").as_deref(), Some("b"));
    assert_eq!(ask("127.0.0.1", "TCP4", "198.51.100.7"), None);
    counted(&proxy, "closed", "denied", 1.0);
    assert_eq!(ask("127.0.0.1", "TCP4", "203.0.113.1"), None);
    counted(&proxy, "closed", "not_allowed", 1.0);
    // But the proxy may be denied, whatever its client is.
    assert_eq!(ask("127.0.2.2", "TCP4", "198.51.100.1"), None);
    counted(&proxy, "closed", "denied", 2.0);
    // If a proxy names no client, the proxy is the client.
    let local =
        greeting_of(connect_from("127.0.0.1".parse().unwrap(), proxy.address("main")), b"PROXY UNKNOWN\r\n");
    assert_eq!(local, None);
    counted(&proxy, "closed", "not_allowed", 2.0);
}

#[test]
fn a_client_that_a_header_tells_of_gets_an_alert_too() {
    let backend = Recorder::start("b");
    let keys = "proxy_protocol = { trusted = \"127.0.0.0/8\" }\ndeny = \"198.51.100.0/24\"";
    let proxy = proxy(&format!("{TLS}\n{keys}"), "", &backend);
    let ask = |client: &str| {
        let mut words = format!("PROXY TCP4 {client} 203.0.113.1 4711 443\r\n").into_bytes();
        words.extend(hello(b"a.example"));
        ask_on(proxy.connect(), &words)
    };
    assert_eq!(ask("192.0.2.1").as_deref(), Ok("b"));
    assert_eq!(ask("198.51.100.7"), Err(ACCESS_DENIED.to_vec()));
    proxy.wait_for_metric(r#"pointsman_connections_rejected_total{listener="main",reason="denied"}"#, 1.0);
}

#[test]
fn refusals_are_in_the_access_log() {
    let backend = Recorder::start("b");
    let log = LogFile::new();
    let proxy =
        Proxy::start(config(&text(log.path(), &format!("{TCP}\ndeny = \"127.0.2.2\""), "", &backend)));
    check(&proxy, "127.0.2.2", false);
    let records = log.records(1);
    let record = &records[0];
    assert!(record["client"].as_str().unwrap().starts_with("127.0.2.2:"), "{record}");
    assert_eq!((&record["close"], &record["phase"]), (&json!("denied"), &json!("accept")));
    assert_eq!((&record["listener"], &record["backend"]), (&json!("main"), &Value::Null));
}

#[test]
fn a_file_is_swapped_alone_while_connections_go_on() {
    let backend = Recorder::start("b");
    let file = ListFile::new("# nobody yet\n");
    let listener = format!("{TCP}\ndeny = \"bad\"");
    let config = file.config_with("allow_empty = true", &listener, "", &backend);
    let (proxy, admin) = Proxy::start_with_admin(config);
    let mut client = connect_from("127.0.2.2".parse().unwrap(), proxy.address("main"));
    client.read_exact(&mut [0; 2]).unwrap();

    file.write("127.0.2.0/24 ; SBL1\n::1 # x\n");
    wait_for("the new entries", || greeting(&proxy, "127.0.2.2").is_none());
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.0.1", true);
    assert_eq!(series(admin, r#"pointsman_list_entries{list="bad",part="file"}"#), 2.0);
    assert_eq!(
        series(admin, r#"pointsman_list_refusals_total{list="bad"}"#),
        proxy.metric(&series_of("closed", "denied"))
    );
    let is = page(admin, "/api/v1/lists/bad?address=127.0.2.9");
    assert_eq!(is["by"], json!([{ "part": "file", "entry": "127.0.2.0-127.0.2.255", "ttl_seconds": null }]));

    file.write("127.0.0.1\n127.0.0\n");
    let failed = r#"pointsman_list_loads_total{list="bad",result="failed"}"#;
    wait_for("a failed load", || series(admin, failed) == 1.0);
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.0.1", true);
    fs::remove_file(&file.0).unwrap();
    wait_for("another failed load", || series(admin, failed) == 2.0);
    check(&proxy, "127.0.2.2", false);

    file.write("");
    wait_for("the empty file", || greeting(&proxy, "127.0.2.2").is_some());
    assert!(series(admin, r#"pointsman_list_last_load_timestamp_seconds{list="bad"}"#) > 1.7e9);
    client.write_all(b"still here").unwrap();
    drop(client);
    find_in_time(|| (backend.received() == b"still here").then_some(())).expect("it went on all the time");
}

/// An empty file, which a failed download leaves, changes nothing at each moment at which a file is read.
#[test]
fn a_file_without_entries_changes_nothing() {
    let backend = Recorder::start("b");
    let file = ListFile::new("127.0.2.2\n");
    let listener = format!("{TCP}\ndeny = \"bad\"");
    let (proxy, admin) = Proxy::start_with_admin(file.config(&listener, "", &backend));
    check(&proxy, "127.0.2.2", false);
    let empty = r#"pointsman_list_loads_total{list="bad",result="empty"}"#;
    for (count, text) in [(1.0, ""), (2.0, "# only a remark\n"), (3.0, "\u{feff}\r\n")] {
        file.write(text);
        wait_for("its count", || series(admin, empty) == count);
        check(&proxy, "127.0.2.2", false);
    }
    assert_eq!(page(admin, "/api/v1/lists/bad")["empty_loads"], 3);
    assert_eq!(series(admin, r#"pointsman_list_entries{list="bad",part="file"}"#), 1.0);
    assert_eq!(series(admin, r#"pointsman_list_loads_total{list="bad",result="failed"}"#), 0.0);
    let path = file.0.with_file_name("config.toml");
    let fault = config::load(&path).unwrap_err().render(false);
    assert!(
        fault.contains("the file of the list has no entries") && fault.contains("allow_empty"),
        "{fault}"
    );

    proxy.remote.reload(file.config_with("allow_empty = true", &listener, "", &backend)).unwrap();
    check(&proxy, "127.0.2.2", true);
}

/// A program that writes in place has the file open while only half of the text is in it.
#[test]
fn a_half_written_file_is_not_taken_by_a_reload() {
    let backend = Recorder::start("b");
    let file = ListFile::new("127.0.2.1\n127.0.2.2\n");
    let listener = format!("{TCP}\ndeny = \"bad\"");
    let (proxy, admin) = Proxy::start_with_admin(file.config(&listener, "", &backend));
    let mut half = fs::File::create(&file.0).unwrap();
    half.write_all(b"127.0.2.1\n").unwrap();
    proxy.remote.reload(file.config(&listener, "", &backend)).unwrap();
    check(&proxy, "127.0.2.2", false);
    half.write_all(b"127.0.2.3\n").unwrap();
    drop(half);
    wait_for("the whole file", || greeting(&proxy, "127.0.2.2").is_some());
    check(&proxy, "127.0.2.3", false);
    assert_eq!(series(admin, r#"pointsman_list_entries{list="bad",part="file"}"#), 2.0);
}

#[test]
fn a_country_is_denied_until_the_file_says_otherwise() {
    let backend = Recorder::start("b");
    let file = ListFile::new(CountryFile::of(&[("127.0.0.0/8", "DE"), ("192.0.2.0/24", "AT")]));
    let listener = format!("{TCP}\ndeny = \"bad\"");
    let config =
        |countries: &str| file.config_with(&format!("countries = {countries}"), &listener, "", &backend);
    let (proxy, admin) = Proxy::start_with_admin(config("[\"de\"]"));
    check(&proxy, "127.0.0.1", false);
    let denied = || series(admin, r#"pointsman_list_refusals_total{list="bad"}"#);
    wait_for("the refusal in the metrics", || denied() == 1.0);
    let one = page(admin, "/api/v1/lists/bad");
    assert_eq!((&one["countries"], &one["entries"]["file"]), (&json!(["DE"]), &json!(1)));
    let is = page(admin, "/api/v1/lists/bad?address=127.0.2.9");
    assert_eq!(is["by"][0]["entry"], "127.0.0.0-127.255.255.255");

    // Half a file changes nothing.
    let elsewhere = CountryFile::of(&[("127.0.0.0/8", "AT"), ("192.0.2.0/24", "DE")]);
    file.write(&elsewhere[..elsewhere.len() / 2]);
    let failed = r#"pointsman_list_loads_total{list="bad",result="failed"}"#;
    wait_for("a failed load", || series(admin, failed) == 1.0);
    check(&proxy, "127.0.0.1", false);

    file.write(&elsewhere);
    wait_for("the new file", || greeting(&proxy, "127.0.0.1").is_some());
    assert_eq!(page(admin, "/api/v1/lists/bad?address=192.0.2.1")["listed"], true);

    // A file that has no network for the country changes nothing either.
    file.write(CountryFile::of(&[("127.0.0.0/8", "AT")]));
    wait_for("another failed load", || series(admin, failed) == 2.0);
    check(&proxy, "127.0.0.1", true);

    file.write(elsewhere);
    proxy.remote.reload(config("[\"AT\", \"DE\"]")).unwrap();
    check(&proxy, "127.0.0.1", false);
}

#[test]
fn a_country_is_asked_for_behind_a_proxy_too() {
    let backend = Recorder::start("b");
    let file = ListFile::new(CountryFile::of(&[("192.0.2.0/24", "DE"), ("2001:db8::/32", "DE")]));
    let keys = "proxy_protocol = { trusted = \"127.0.0.0/8\" }\nallow = \"bad\"";
    let config = file.config_with("countries = \"DE\"", &format!("{TCP}\n{keys}"), "", &backend);
    let proxy = Proxy::start(config);
    let ask = |family: &str, client: &str| {
        let header = format!("PROXY {family} {client} {client} 4711 443\r\n");
        greeting_of(proxy.connect(), header.as_bytes())
    };
    assert_eq!(ask("TCP4", "192.0.2.1").as_deref(), Some("b"));
    assert_eq!(ask("TCP6", "2001:db8::1").as_deref(), Some("b"));
    assert_eq!(ask("TCP4", "198.51.100.1"), None);
    // This is the 6to4 address of 192.0.2.1. The file leads from there to IPv4, and yet the address is not in
    // that country.
    assert_eq!(ask("TCP6", "2002:c000:201::1"), None);
    counted(&proxy, "closed", "not_allowed", 2.0);
}

#[test]
fn a_file_that_cannot_be_read_is_told_at_the_start() {
    let backend = Recorder::start("b");
    let file = ListFile::new("10.0.0.1\n10.0.0.300\n");
    let path = file.0.with_file_name("broken.toml");
    fs::write(&path, text("off", TCP, "[lists]\ndeny = \"bad\"\n[list.bad]\nfile = \"bad.txt\"", &backend))
        .unwrap();
    let faults = config::load(&path).unwrap_err().render(false);
    assert!(faults.contains("bad.txt:2:1") && faults.contains("\"10.0.0.300\" is not a network"), "{faults}");
    fs::remove_file(&file.0).unwrap();
    let faults = config::load(&path).unwrap_err().render(false);
    assert!(faults.contains("the file of the list cannot be read: there is no such file"), "{faults}");
}

#[test]
fn entries_are_added_for_a_time_and_removed() {
    let backend = Recorder::start("b");
    let text =
        text("off", &format!("{TCP}\ndeny = \"bad\""), "[list.bad]\nentries = \"127.0.9.9\"", &backend);
    let (proxy, admin) = start_with_changes(config(&text));
    let bad = |entry: &str| format!("/api/v1/lists/bad/{entry}");
    check(&proxy, "127.0.2.2", true);
    let (code, body) = change(admin, "POST", &bad("127.0.2.0/24?ttl=1h"));
    assert_eq!(code, 200, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        told,
        json!({ "list": "bad", "entry": "127.0.2.0/24", "result": "added", "ttl_seconds": 3600 })
    );
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.0.1", true);

    // A reload keeps the added entries.
    proxy.remote.reload(config(&text.replace("127.0.9.9", "127.0.9.8"))).unwrap();
    check(&proxy, "127.0.2.2", false);
    check(&proxy, "127.0.9.8", false);
    check(&proxy, "127.0.9.9", true);
    let one = page(admin, "/api/v1/lists/bad");
    assert_eq!(one["entries"], json!({ "written": 1, "file": 0, "added": 1 }));
    assert_eq!(one["added"][0]["entry"], "127.0.2.0/24");
    assert_eq!(page(admin, "/api/v1/lists")[0]["name"], "bad");
    let is = page(admin, "/api/v1/lists/bad?address=::ffff:127.0.2.7");
    assert_eq!((&is["listed"], &is["address"]), (&json!(true), &json!("127.0.2.7")));
    assert_eq!(is["by"][0]["part"], "added");
    assert_eq!(page(admin, "/api/v1/lists/bad?address=127.0.0.1")["listed"], false);

    assert_eq!(change(admin, "DELETE", &bad("127.0.2.0/24")).0, 200);
    check(&proxy, "127.0.2.2", true);
    assert!(change(admin, "DELETE", &bad("127.0.2.0/24")).1.contains("absent"));
    assert_eq!(change(admin, "POST", &bad("127.0.2.2?ttl=200ms")).0, 200);
    wait_for("the end of an entry", || greeting(&proxy, "127.0.2.2").is_some());
    assert_eq!(page(admin, "/api/v1/lists/bad")["added"], json!([]));
}

#[test]
fn bad_requests_change_nothing() {
    let backend = Recorder::start("b");
    let text = text("off", &format!("{TCP}\ndeny = \"bad\""), "[list.bad]", &backend);
    let (_proxy, admin) = start_with_changes(config(&text));
    let check = |method: &'static str, path: &str, code: u16, words: &str| {
        let (answered, body) = change(admin, method, path);
        assert_eq!(answered, code, "{method} {path}: {body}");
        assert!(body.contains(words), "{method} {path}: {body}");
    };
    check("POST", "/api/v1/lists/worse/10.0.0.1", 404, "no list");
    check("GET", "/api/v1/lists/worse", 404, "no list");
    check("POST", "/api/v1/lists/bad/10.0.0.1/8", 400, "did you mean 10.0.0.0/8?");
    check("POST", "/api/v1/lists/bad/evil.example", 400, "a network is");
    check("POST", "/api/v1/lists/bad/10.0.0.1?ttl=0s", 400, "ttl");
    check("POST", "/api/v1/lists/bad/10.0.0.1?ttl=367days", 400, "ttl");
    check("POST", "/api/v1/lists/bad/10.0.0.1?ttl=", 400, "ttl");
    check("POST", "/api/v1/lists/bad/10.0.0.1?tll=1h", 400, "ttl and force");
    for wide in ["0.0.0.0/0", "10.0.0.0/7", "::/0", "2000::/15"] {
        check("POST", &format!("/api/v1/lists/bad/{wide}"), 400, "needs force=true");
        check("POST", &format!("/api/v1/lists/bad/{wide}?force=false&ttl=1h"), 400, "needs force=true");
    }
    check("POST", "/api/v1/lists/bad/10.0.0.0/7?force=yes", 400, "true or false");
    check("DELETE", "/api/v1/lists/bad/x", 400, "a network is");
    check("DELETE", "/api/v1/lists/bad/10.0.0.1?ttl=1h", 400, "nothing");
    check("GET", "/api/v1/lists/bad?address=x", 400, "IP address");
    check("PUT", "/api/v1/lists/bad/10.0.0.1", 405, "method");
    check("POST", "/api/v1/lists", 405, "method");
    assert_eq!(page(admin, "/api/v1/lists/bad")["added"], json!([]));
}

#[test]
fn what_is_said_in_content_is_not_passed_over() {
    let backend = Recorder::start("b");
    let text = text("off", &format!("{TCP}\ndeny = \"bad\""), "[list.bad]", &backend);
    let (_proxy, admin) = start_with_changes(config(&text));
    let check = |method: &str, content: &str, code: u16, words: &str| {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let line = format!("{method} /api/v1/lists/bad/10.0.0.1 HTTP/1.1\r\nHost: localhost\r\n");
        let kind = "Content-Type: application/json\r\nConnection: close\r\n";
        stream.write_all(format!("{line}{kind}{content}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {content}: {answer}");
        assert!(answer.contains(words), "{method} {content}: {answer}");
    };
    let with_ttl = "Content-Length: 12\r\n\r\n{\"ttl\":\"1h\"}";
    check("POST", with_ttl, 400, "POST /api/v1/lists/NAME/ENTRY?ttl=1h");
    check("POST", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "no content");
    check("DELETE", with_ttl, 400, "no content");
    check("PUT", with_ttl, 405, "method");
    assert_eq!(page(admin, "/api/v1/lists/bad")["added"], json!([]));
    check("POST", "Content-Length: 0\r\n\r\n", 200, "added");
    check("DELETE", "\r\n", 200, "removed");
}

#[test]
fn escapes_in_questions_are_read() {
    let backend = Recorder::start("b");
    let text = text("off", &format!("{TCP}\ndeny = \"bad\""), "[list.bad]", &backend);
    let (_proxy, admin) = start_with_changes(config(&text));
    let bad = |rest: &str| format!("/api/v1/lists/bad{rest}");
    let (code, body) = change(admin, "POST", &bad("/2001%3Adb8%3A%3A1?ttl=1h%2030m"));
    assert_eq!((code, body.contains("\"ttl_seconds\": 5400")), (200, true), "{body}");
    assert_eq!(page(admin, &bad("?address=2001%3Adb8%3A%3A1"))["listed"], true);
    let (code, body) = change(admin, "GET", &bad("?address=2001%3"));
    assert_eq!((code, body.contains("two hexadecimal digits")), (400, true), "{body}");
}

#[test]
fn the_command_line_adds_shows_and_removes() {
    let backend = Recorder::start("b");
    let text = text("off", &format!("{TCP}\ndeny = \"bad\""), "[list.bad]", &backend);
    let (proxy, admin) = start_with_changes(config(&text));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let output =
            command.arg("list").args(arguments).args(["--admin", &admin.to_string()]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let check_run = |arguments: &[&str], code: i32, words: &str| {
        let (ended, text) = run(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    };
    check_run(&["add", "bad", "127.0.2.2", "--ttl", "1h 30m"], 0, "\"ttl_seconds\": 5400");
    check(&proxy, "127.0.2.2", false);
    check_run(&["add", "bad", "2001:db8::/32"], 0, "\"result\": \"added\"");
    check_run(&["show"], 0, "\"added\": 2");
    check_run(&["show", "bad"], 0, "2001:db8::/32");
    check_run(&["show", "bad", "--address", "2001:db8::1"], 0, "\"listed\": true");
    check_run(&["remove", "bad", "127.0.2.2"], 0, "removed");
    check(&proxy, "127.0.2.2", true);
    check_run(&["remove", "bad", "127.0.2.2"], 0, "absent");
    check_run(&["add", "bad", "2000::/3", "--ttl", "1h"], 1, "needs force=true, or --force");
    check_run(&["add", "bad", "2000::/3", "--ttl", "1h", "--force"], 0, "\"ttl_seconds\": 3600");
    check_run(&["remove", "bad", "2000::/3"], 0, "removed");
    check_run(&["add", "worse", "127.0.2.2"], 1, "there is no list");
    check_run(&["add", "bad", "127.0.2"], 1, "a network is");
    check_run(&["show", "--address", "::1"], 2, "");
}
