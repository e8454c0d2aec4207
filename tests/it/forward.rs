//! Forwarding pools: the hosts that they reach, and the hosts that they never reach.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use pointsman::config::Config;
use pointsman::server::View;
use serde_json::Value;

use crate::support::dns::{Dns, DnsAnswer};
use crate::support::hello::{hello, nameless};
use crate::support::pair::closed;
use crate::support::recorder::{Recorder, ask, ask_on};
use crate::support::{Backend, Proxy, config, own_address, wait_for};

const NAME: &str = "api.test";

const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

const LOOPBACK: &str = "allow_private = '127.0.0.0/8'";

/// Returns a configuration of one `tls` listener, whose clients all go to the pool `egress`.
fn layout(dns: &Dns, port: u16, forward: &str, others: &str) -> Config {
    config(&text(dns, port, "127.0.0.1:0", forward, others))
}

fn text(dns: &Dns, port: u16, bind: &str, forward: &str, others: &str) -> String {
    let resolver = dns.address;
    format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '{bind}'\nprotocol = 'tls'\n\
         unmatched = 'egress'\n[pool.egress]\n{others}\n\
         [pool.egress.forward]\nto = 'sni'\nport = {port}\nallow = ['{NAME}', '*.example.test']\n\
         resolvers = '{resolver}'\n{forward}\n"
    )
}

fn start(dns: &Dns, port: u16, forward: &str, others: &str) -> Proxy {
    Proxy::start(layout(dns, port, forward, others))
}

/// Returns a hello for a name, with random bytes that no other hello has.
fn fresh(name: &str) -> Vec<u8> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let mut hello = hello(name.as_bytes());
    // The random bytes are behind the headers of the record and of the message, and the version.
    hello[11] = NEXT.fetch_add(1, Ordering::Relaxed);
    hello
}

fn alert(code: u8) -> Result<String, Vec<u8>> {
    Err(vec![21, 3, 3, 0, 2, 2, code])
}

fn forward(view: &View) -> usize {
    view.snapshot.load().pools["egress"].pool.forward().expect("it forwards").known()
}

/// Checks that a client that requests `name` gets the alert `code`, and its connection ends for `reason`.
#[track_caller]
fn refused(proxy: &Proxy, hello: &[u8], code: u8, reason: &str) {
    assert_eq!(ask(proxy, hello), alert(code), "{reason}");
    proxy.wait_for_metric(&closed(reason), 1.0);
}

#[test]
fn a_client_reaches_the_host_it_names() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.hold(600);
    dns.set_addresses(NAME, &[host.address.ip()]);
    dns.set_addresses("a.b.example.test", &[host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "");
    for name in [NAME, NAME, "API.test", "a.b.example.test"] {
        let hello = fresh(name);
        assert_eq!(ask(&proxy, &hello), Ok("host".to_owned()), "{name}");
        assert_eq!(host.received(), hello, "{name}");
    }
    assert_eq!(dns.questions(), 4, "two for each name");
    assert_eq!(forward(proxy.remote.view()), 2);
    proxy.wait_for_metric(&closed("client_fin"), 4.0);
}

#[test]
fn only_names_that_are_allowed_are_looked_up() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_addresses("other.test", &[host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "");
    refused(&proxy, &fresh("other.test"), UNRECOGNIZED_NAME, "name_not_allowed");
    assert_eq!(ask(&proxy, &fresh("example.test")), alert(UNRECOGNIZED_NAME));
    assert_eq!(ask(&proxy, &fresh("x.api.test")), alert(UNRECOGNIZED_NAME));
    assert_eq!(dns.questions(), 0);
    assert!(ask(&proxy, &nameless()).is_err(), "no_sni rejects");
}

#[test]
fn a_name_that_leads_nowhere_is_told() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let proxy = start(&dns, host.address.port(), LOOPBACK, "");
    refused(&proxy, &fresh(NAME), INTERNAL_ERROR, "name_not_resolved");
    let asked = dns.questions();
    assert!(asked > 0);
    assert_eq!(ask(&proxy, &fresh(NAME)), alert(INTERNAL_ERROR));
    assert_eq!(dns.questions(), asked, "that there is none is remembered");
    dns.set_answer("no.example.test", DnsAnswer::Addresses(Vec::new()));
    assert_eq!(ask(&proxy, &fresh("no.example.test")), alert(INTERNAL_ERROR));
    dns.set_answer("bad.example.test", DnsAnswer::Code(2));
    assert_eq!(ask(&proxy, &fresh("bad.example.test")), alert(INTERNAL_ERROR));
    proxy.wait_for_metric(&closed("name_not_resolved"), 4.0);
}

/// Two questions to a resolver that does not answer take longer than the bound of this dial.
#[test]
fn a_family_that_is_never_answered_holds_nobody_up() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_answer(NAME, DnsAnswer::OnlyV4(Ipv4Addr::LOCALHOST));
    let proxy = start(&dns, host.address.port(), LOOPBACK, "connect_timeout = '1s'\ndial_timeout = '3s'");
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
}

#[test]
fn a_resolver_that_is_silent_costs_no_more_than_the_dial() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_answer(NAME, DnsAnswer::Silence);
    let times = "connect_timeout = '200ms'\ndial_timeout = '200ms'";
    let proxy = start(&dns, host.address.port(), LOOPBACK, times);
    refused(&proxy, &fresh(NAME), INTERNAL_ERROR, "name_not_resolved");
    // The worker serves others meanwhile.
    dns.set_addresses("b.example.test", &[host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "");
    let mut waiting = proxy.connect();
    waiting.write_all(&fresh(NAME)).unwrap();
    assert_eq!(ask(&proxy, &fresh("b.example.test")), Ok("host".to_owned()));
}

#[test]
fn addresses_of_the_inside_are_refused() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let proxy = start(&dns, host.address.port(), "", "");
    let inside: [(&str, &[&str]); 5] = [
        ("a", &["127.0.0.1"]),
        ("b", &["10.0.0.1", "192.168.1.1"]),
        ("c", &["169.254.169.254"]),
        ("d", &["::ffff:127.0.0.1", "::1"]),
        ("e", &["64:ff9b::127.0.0.1", "2002:7f00:1::1"]),
    ];
    for (at, (label, addresses)) in inside.into_iter().enumerate() {
        let name = format!("{label}.example.test");
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        dns.set_addresses(&name, &addresses);
        assert_eq!(ask(&proxy, &fresh(&name)), alert(INTERNAL_ERROR), "{name}");
        proxy.wait_for_metric(&closed("address_refused"), at as f64 + 1.0);
    }
    assert_eq!(host.connections(), 0);
}

#[test]
fn what_is_not_opened_is_passed_over() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_addresses(NAME, &["10.0.0.1".parse().unwrap(), host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "attempts = 1");
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
}

#[test]
fn our_own_sockets_are_refused() {
    let dns = Dns::new();
    let here = Ipv4Addr::LOCALHOST;
    dns.set_addresses(NAME, &[here.into()]);
    for bind in ["127.0.0.1:0", "0.0.0.0:0"] {
        let proxy = Proxy::start(config(&text(&dns, 443, bind, LOOPBACK, "")));
        let port = proxy.address("main").port();
        proxy.remote.reload(config(&text(&dns, port, bind, LOOPBACK, ""))).unwrap();
        let client = TcpStream::connect((here, port)).unwrap();
        assert_eq!(ask_on(client, &fresh(NAME)), alert(INTERNAL_ERROR), "{bind}");
        proxy.wait_for_metric(&closed("address_refused"), 1.0);
    }
}

#[test]
fn what_comes_back_by_a_way_around_is_a_loop() {
    let dns = Dns::new();
    let way_around = TcpListener::bind("127.0.0.1:0").unwrap();
    let around = way_around.local_addr().unwrap();
    dns.set_addresses(NAME, &[around.ip()]);
    let proxy = start(&dns, around.port(), LOOPBACK, "");
    let main = proxy.address("main");
    let relay = thread::spawn(move || {
        let (from, _) = way_around.accept().unwrap();
        let to = TcpStream::connect(main).unwrap();
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        let there = copy(from.try_clone().unwrap(), to.try_clone().unwrap());
        let back = copy(to, from);
        there.join().unwrap();
        back.join().unwrap();
    });
    assert_eq!(ask(&proxy, &fresh(NAME)), alert(INTERNAL_ERROR));
    relay.join().unwrap();
    proxy.wait_for_metric(&closed("forward_loop"), 1.0);
}

#[test]
fn the_addresses_of_a_name_are_tried_in_order() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    // No socket listens at that port of the first two addresses.
    let silent = [own_address().ip(), own_address().ip()];
    dns.set_addresses(NAME, &[silent[0], silent[1], host.address.ip()]);
    let log = Log::new();
    let logged = |attempts: &str| {
        let text = text(&dns, host.address.port(), "127.0.0.1:0", LOOPBACK, attempts);
        Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))))
    };
    let proxy = logged("");
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
    let record = log.record();
    assert_eq!(record["backend_address"], host.address.to_string());
    assert_eq!((&record["attempts"], &record["sni"]), (&3.into(), &NAME.into()));
    assert_eq!((&record["pool"], &record["backend"]), (&"egress".into(), &"forward".into()));
    drop(proxy);
    let log = Log::new();
    let text = text(&dns, host.address.port(), "127.0.0.1:0", LOOPBACK, "attempts = 2");
    let proxy = Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))));
    assert_eq!(ask(&proxy, &fresh(NAME)), alert(INTERNAL_ERROR));
    let record = log.record();
    assert_eq!(record["close"], "connect_refused");
    assert_eq!(record["backend_address"], SocketAddr::new(silent[1], host.address.port()).to_string());
}

#[test]
fn an_attempt_is_one_at_an_address() {
    let dns = Dns::new();
    dns.set_addresses(NAME, &[Ipv4Addr::LOCALHOST.into()]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = Log::new();
    let text = text(&dns, nobody, "127.0.0.1:0", LOOPBACK, "attempts = 3");
    let proxy = Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))));
    refused(&proxy, &fresh(NAME), INTERNAL_ERROR, "connect_refused");
    assert_eq!(log.record()["attempts"], 1);
}

#[test]
fn a_reload_keeps_what_is_known() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.hold(600);
    dns.set_addresses(NAME, &[host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "");
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
    let asked = dns.questions();
    proxy.remote.reload(layout(&dns, host.address.port(), LOOPBACK, "attempts = 1")).unwrap();
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
    assert_eq!(dns.questions(), asked);
    // Other resolvers may have other addresses.
    let other = Dns::new();
    other.set_addresses(NAME, &[host.address.ip()]);
    proxy.remote.reload(layout(&other, host.address.port(), LOOPBACK, "")).unwrap();
    assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
    assert_eq!((dns.questions(), other.questions()), (asked, 2));
}

#[test]
fn a_pool_that_forwards_has_its_limit() {
    let dns = Dns::new();
    let host = Backend::echo();
    dns.set_addresses(NAME, &[host.address.ip()]);
    let proxy = start(&dns, host.address.port(), LOOPBACK, "max_connections = 1");
    let mut first = proxy.connect();
    let hello = fresh(NAME);
    first.write_all(&hello).unwrap();
    first.read_exact(&mut vec![0; hello.len()]).unwrap();
    refused(&proxy, &fresh(NAME), INTERNAL_ERROR, "queue_full");
}

#[test]
fn look_ups_are_counted_and_shown() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.hold(600);
    dns.set_addresses(NAME, &[host.address.ip()]);
    let (proxy, admin) =
        Proxy::start_with_admin(layout(&dns, host.address.port(), LOOPBACK, "max_connections = 7"));
    for _ in 0..3 {
        assert_eq!(ask(&proxy, &fresh(NAME)), Ok("host".to_owned()));
    }
    assert_eq!(ask(&proxy, &fresh("gone.example.test")), alert(INTERNAL_ERROR));
    let page = page(admin, "/metrics");
    for (series, value) in [
        (r#"pointsman_forward_lookups_total{pool="egress",result="cached"}"#, 2),
        (r#"pointsman_forward_lookups_total{pool="egress",result="resolved"}"#, 1),
        (r#"pointsman_forward_lookups_total{pool="egress",result="no_name"}"#, 1),
        (r#"pointsman_forward_lookups_total{pool="egress",result="busy"}"#, 0),
        (r#"pointsman_forward_names{pool="egress"}"#, 2),
        (r#"pointsman_backend_connections_total{pool="egress",backend="forward"}"#, 3),
        (r#"pointsman_backend_connections_limit{pool="egress",backend="forward"}"#, 7),
    ] {
        assert!(page.contains(&format!("{series} {value}\n")), "{series} is not {value} in\n{page}");
    }
    let status: Value = serde_json::from_str(&self::page(admin, "/api/v1/status")).unwrap();
    let pool = &status["pools"][0];
    assert_eq!(pool["forward"]["allow"], serde_json::json!([NAME, "*.example.test"]));
    assert_eq!(pool["forward"]["lookups"], serde_json::json!({ "cached": 2, "resolved": 1, "failed": 1 }));
    assert_eq!(pool["backends"][0]["address"], format!("*:{}", host.address.port()));
}

/// Returns a page of the admin listener.
fn page(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

/// A file for the access log; it is removed when dropped.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pointsman-forward-{}-{number}.log", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Returns the record of the only connection.
    fn record(&self) -> Value {
        let read = || fs::read_to_string(&self.0).unwrap_or_default();
        wait_for("the record", || read().ends_with('\n'));
        serde_json::from_str(&read()).unwrap()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
