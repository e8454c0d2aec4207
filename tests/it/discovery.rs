//! Backends from the DNS or from a file, which are added and removed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pointsman::admin;
use pointsman::config::{self, Config};
use pointsman::server::LifeStage;
use pointsman::snapshot::ServedPool;
use serde_json::{Value, json};

use crate::support::dns::{Dns, DnsAnswer};
use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

const NAME: &str = "app.test";

/// Starts a backend that answers each byte with its name.
fn named_on(address: SocketAddr, name: u8) -> SocketAddr {
    Backend::serve_on(&address.to_string(), move |mut stream| {
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&vec![name; n]).is_err() {
                return;
            }
        }
    })
    .address
}

/// Starts `N` of these backends, named from `a` on, at one port and several addresses.
fn named<const N: usize>() -> [SocketAddr; N] {
    let first = own_address();
    let mut name = b'a'..;
    std::array::from_fn(|at| {
        let ip = if at == 0 { first.ip() } else { own_address().ip() };
        named_on(SocketAddr::new(ip, first.port()), name.next().unwrap())
    })
}

fn ips(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    addresses.iter().map(SocketAddr::ip).collect()
}

/// Returns a configuration of one `tcp` listener `main`, whose pool has these keys.
fn layout(pool: &str) -> Config {
    config(&text(pool))
}

fn text(pool: &str) -> String {
    format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nbalance = 'round-robin'\nhealth.check = 'off'\n{pool}\n"
    )
}

fn by_dns(dns: &Dns, port: u16) -> Config {
    let resolver = dns.address;
    layout(&format!(
        "discover = {{ dns = '{NAME}.', port = {port}, resolvers = '{resolver}', min_ttl = '100ms', hold = '0s' }}"
    ))
}

fn served(proxy: &Proxy) -> Arc<ServedPool> {
    Arc::clone(&proxy.remote.view().snapshot.load().pools["main"])
}

/// Returns the addresses of the pool's backends, in order.
fn backends(proxy: &Proxy) -> Vec<String> {
    let mut addresses: Vec<_> =
        served(proxy).pool.backends().iter().map(|backend| backend.address().to_string()).collect();
    addresses.sort();
    addresses
}

fn wait_for_backends(proxy: &Proxy, expected: &[SocketAddr]) {
    let mut expected: Vec<_> = expected.iter().map(SocketAddr::to_string).collect();
    expected.sort();
    wait_for(&format!("{expected:?}"), || backends(proxy) == expected);
}

/// Does something that makes the source fail, and waits until it has failed.
fn fail(proxy: &Proxy, reason: &str, how: impl FnOnce()) {
    let discovery = served(proxy).discovery[0].clone();
    let before = discovery.failures();
    how();
    wait_for(reason, || {
        discovery.failures() > before && discovery.fault().is_some_and(|fault| fault.contains(reason))
    });
}

fn try_ask(stream: &mut TcpStream) -> std::io::Result<char> {
    stream.write_all(b"?")?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0].into())
}

fn ask(stream: &mut TcpStream) -> char {
    try_ask(stream).expect("the connection is open")
}

/// Returns a connection to the backend of that name.
fn connect_to(proxy: &Proxy, wanted: char) -> TcpStream {
    for _ in 0..1000 {
        let mut stream = proxy.connect();
        if ask(&mut stream) == wanted {
            return stream;
        }
    }
    panic!("{wanted} is never met");
}

/// Returns the names of the backends that a few clients reach, each once.
fn reached(proxy: &Proxy) -> String {
    let mut names: Vec<char> = (0..20).map(|_| ask(&mut proxy.connect())).collect();
    names.sort();
    names.dedup();
    names.into_iter().collect()
}

#[test]
fn addresses_come_and_go_with_the_answers() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = named();
    dns.set_addresses(NAME, &ips(&all[..1]));
    let proxy = Proxy::start(by_dns(&dns, all[0].port()));
    // The start has waited for these backends.
    assert_eq!(reached(&proxy), "a");
    dns.set_addresses(NAME, &ips(&all));
    wait_for_backends(&proxy, &all);
    assert_eq!(reached(&proxy), "abc");
    dns.set_addresses(NAME, &ips(&all[1..]));
    wait_for_backends(&proxy, &all[1..]);
    assert_eq!(reached(&proxy), "bc");
}

/// Some servers never answer a question for AAAA. The addresses of IPv4 are used and followed all the same.
#[test]
fn a_family_that_is_never_answered_holds_up_nothing() {
    let dns = Dns::new();
    let all: [SocketAddr; 2] = named();
    let v4 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => DnsAnswer::OnlyV4(ip),
        IpAddr::V6(_) => unreachable!("the backends are on IPv4"),
    };
    dns.set_answer(NAME, v4(all[0]));
    let proxy = Proxy::start(by_dns(&dns, all[0].port()));
    assert_eq!(reached(&proxy), "a", "the start has waited for what there is");
    let discovery = served(&proxy).discovery[0].clone();
    dns.set_answer(NAME, v4(all[1]));
    wait_for_backends(&proxy, &all[1..]);
    assert_eq!(discovery.failures(), 0, "it is followed before the question for AAAA is given up");

    let changes = format!(
        "[pool.main]\ndiscover = {{ dns = '_a._tcp.test', type = 'srv', resolvers = '{}' }}",
        dns.address
    );
    dns.set_answer("_a._tcp.test", DnsAnswer::Services(vec![(1, 1, all[0].port(), NAME)]));
    dns.set_answer(NAME, v4(all[0]));
    let text = text("").replace("[pool.main]", &changes);
    proxy.remote.reload(config(&text)).unwrap();
    assert_eq!(reached(&proxy), "a", "a reload waits for the first answers of targets, and no longer");
}

#[test]
fn a_family_that_is_late_joins() {
    let dns = Dns::new();
    let [v4] = named();
    let v6 = SocketAddr::new("::1".parse().unwrap(), v4.port());
    // The second round is minutes later.
    dns.hold(3600);
    let IpAddr::V4(ip) = v4.ip() else { unreachable!("the backend is on IPv4") };
    dns.set_answer(NAME, DnsAnswer::OnlyV4(ip));
    let proxy = Proxy::start(by_dns(&dns, v4.port()));
    wait_for_backends(&proxy, &[v4]);
    // The resolver library asks again, and this question is answered.
    dns.set_addresses(NAME, &[v4.ip(), v6.ip()]);
    wait_for_backends(&proxy, &[v4, v6]);
}

/// Some servers answer with a changing part of all addresses. An address that an answer lacks is held.
#[test]
fn what_an_answer_leaves_out_is_held() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = named();
    dns.set_addresses(NAME, &ips(&all[..2]));
    let held = |hold: &str| {
        let mut config = by_dns(&dns, all[0].port());
        config.pools[0].discover[0].drain = Some(std::time::Duration::ZERO);
        config.pools[0].discover[0].hold = humantime::parse_duration(hold).unwrap();
        config
    };
    let proxy = Proxy::start(held("1h"));
    let mut open = connect_to(&proxy, 'a');
    dns.set_addresses(NAME, &ips(&all[1..]));
    wait_for_backends(&proxy, &all);
    assert_eq!((reached(&proxy), ask(&mut open)), ("abc".to_owned(), 'a'), "it goes on in all ways");
    drop(proxy);
    dns.set_addresses(NAME, &ips(&all[..2]));
    let proxy = Proxy::start(held("300ms"));
    let mut open = connect_to(&proxy, 'a');
    dns.set_addresses(NAME, &ips(&all[1..2]));
    wait_for_backends(&proxy, &all[1..2]);
    let end = open.read(&mut [0]);
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "its time is over");
}

/// RFC 2782: the service is decidedly not available.
#[test]
fn a_service_that_is_not_there_takes_nothing_new_and_keeps_what_is_open() {
    let dns = Dns::new();
    let [a] = named();
    dns.set_addresses("one.test", &[a.ip()]);
    let there = || DnsAnswer::Services(vec![(1, 1, a.port(), "one.test")]);
    dns.set_answer("_app._tcp.test", there());
    let resolver = dns.address;
    let proxy = Proxy::start(layout(&format!(
        "discover = {{ dns = '_app._tcp.test', type = 'srv', resolvers = '{resolver}', min_ttl = '100ms', drain = '0s', hold = '0s' }}"
    )));
    let mut open = connect_to(&proxy, 'a');
    dns.set_answer("_app._tcp.test", DnsAnswer::Services(vec![(0, 0, 0, "")]));
    wait_for("no share", || served(&proxy).pool.backends().iter().all(|backend| backend.weight() == 0));
    let refused = proxy.connect().read(&mut [0]);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(ask(&mut open), 'a');
    assert_eq!(served(&proxy).discovery[0].failures(), 0);
    dns.set_answer("_app._tcp.test", there());
    wait_for("its share", || served(&proxy).pool.backends().iter().all(|backend| backend.weight() == 1));
    assert_eq!((reached(&proxy), ask(&mut open)), ("a".to_owned(), 'a'));
}

/// A target with one address has its own name; a target with several has the names of its addresses.
#[test]
fn a_target_that_gets_a_second_address_keeps_its_connections() {
    let dns = Dns::new();
    let all: [SocketAddr; 2] = named();
    dns.set_addresses("one.test", &ips(&all[..1]));
    dns.set_answer("_app._tcp.test", DnsAnswer::Services(vec![(1, 1, all[0].port(), "one.test")]));
    let resolver = dns.address;
    let proxy = Proxy::start(layout(&format!(
        "discover = {{ dns = '_app._tcp.test', type = 'srv', resolvers = '{resolver}', min_ttl = '100ms', drain = '0s', hold = '0s' }}"
    )));
    let mut open = connect_to(&proxy, 'a');
    let before = Arc::clone(&served(&proxy).pool.backends()[0]);
    assert_eq!(**before.name(), *format!("one.test:{}", all[0].port()));
    for count in [2, 1, 2] {
        dns.set_addresses("one.test", &ips(&all[..count]));
        wait_for_backends(&proxy, &all[..count]);
        let now = served(&proxy).pool.backends().to_vec();
        let same = now.iter().find(|backend| backend.is_same(&before)).expect("it is the same server");
        assert_eq!(same.name() == before.name(), count == 1);
        assert_eq!((ask(&mut open), ask(&mut connect_to(&proxy, 'a'))), ('a', 'a'), "{count}");
        wait_for("the other client's end", || same.active() == 1);
    }
}

/// A held backend of such a service gets no new connections either.
#[test]
fn what_is_held_of_a_service_that_is_not_there_takes_nothing_new() {
    let dns = Dns::new();
    let [a, b] = named();
    dns.set_addresses("one.test", &[a.ip()]);
    dns.set_addresses("two.test", &[b.ip()]);
    let both = vec![(1, 1, a.port(), "one.test"), (1, 1, b.port(), "two.test")];
    dns.set_answer("_app._tcp.test", DnsAnswer::Services(both.clone()));
    let resolver = dns.address;
    let proxy = Proxy::start(layout(&format!(
        "discover = {{ dns = '_app._tcp.test', type = 'srv', resolvers = '{resolver}', min_ttl = '100ms' }}"
    )));
    wait_for_backends(&proxy, &[a, b]);
    dns.set_answer("_app._tcp.test", DnsAnswer::Services(both[..1].to_vec()));
    let asked = dns.questions();
    wait_for("two more rounds", || dns.questions() >= asked + 7);
    dns.set_answer("_app._tcp.test", DnsAnswer::Services(vec![(0, 0, 0, "")]));
    let weights =
        || served(&proxy).pool.backends().iter().map(|backend| backend.weight()).collect::<Vec<_>>();
    wait_for("no share", || weights() == [0, 0]);
}

#[test]
fn another_order_changes_nothing() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = named();
    let mut order = ips(&all);
    dns.set_addresses(NAME, &order);
    let proxy = Proxy::start(by_dns(&dns, all[0].port()));
    wait_for_backends(&proxy, &all);
    let before = served(&proxy);
    for _ in 0..3 {
        order.rotate_left(1);
        dns.set_addresses(NAME, &order);
        let asked = dns.questions();
        // A round has two questions, and one of them may belong to the round before.
        wait_for("two more rounds", || dns.questions() >= asked + 5);
    }
    assert!(Arc::ptr_eq(&before, &served(&proxy)), "the pool is the same value");
}

#[test]
fn a_failure_keeps_what_was_found() {
    let dns = Dns::new();
    let all: [SocketAddr; 2] = named();
    dns.set_addresses(NAME, &ips(&all));
    let proxy = Proxy::start(by_dns(&dns, all[0].port()));
    wait_for_backends(&proxy, &all);
    let failures = [
        (DnsAnswer::Code(3), "NXDOMAIN"),
        (DnsAnswer::Addresses(Vec::new()), "no usable record"),
        (DnsAnswer::Code(2), "resolver answered"),
        (DnsAnswer::Silence, "in time"),
    ];
    for (said, reason) in failures {
        fail(&proxy, reason, || dns.set_answer(NAME, said));
        assert_eq!(reached(&proxy), "ab", "{reason}");
    }
    dns.set_addresses(NAME, &ips(&all[1..]));
    wait_for_backends(&proxy, &all[1..]);
    wait_for("no fault", || served(&proxy).discovery[0].fault().is_none());
}

#[test]
fn services_have_ports_weights_and_targets() {
    let dns = Dns::new();
    let (one, two) = (own_address(), own_address());
    named_on(one, b'a');
    named_on(two, b'b');
    dns.set_addresses("one.test", &[one.ip()]);
    dns.set_addresses("two.test", &[two.ip()]);
    let services = |weights: (u16, u16)| {
        DnsAnswer::Services(vec![
            (1, weights.0, one.port(), "one.test"),
            (1, weights.1, two.port(), "two.test"),
        ])
    };
    dns.set_answer("_app._tcp.test", services((1, 3)));
    let resolver = dns.address;
    let proxy = Proxy::start(layout(&format!(
        "discover = {{ dns = '_app._tcp.test', type = 'srv', resolvers = ['{resolver}'], min_ttl = '100ms', hold = '0s' }}"
    )));
    let described = || -> Vec<_> {
        let served = served(&proxy);
        served.pool.backends().iter().map(|b| format!("{}*{}", b.name(), b.weight())).collect()
    };
    let expected = |weights: (u16, u16)| {
        vec![
            format!("one.test:{}*{}", one.port(), weights.0),
            format!("two.test:{}*{}", two.port(), weights.1),
        ]
    };
    wait_for("the services", || described() == expected((1, 3)));
    let names: Vec<char> = (0..40).map(|_| ask(&mut proxy.connect())).collect();
    assert_eq!(names.iter().filter(|name| **name == 'b').count(), 30, "{names:?}");
    dns.set_answer("_app._tcp.test", services((2, 1)));
    wait_for("other weights", || described() == expected((2, 1)));
    // If a target cannot be resolved, it keeps its last address.
    fail(&proxy, "NXDOMAIN", || dns.set_answer("two.test", DnsAnswer::Code(3)));
    assert_eq!(described(), expected((2, 1)));
    let has_event = |part: &str| {
        let events = proxy.remote.view().events.newest_first();
        events.iter().any(|event| event.text.starts_with(&format!("discovery of pool main {part}: ")))
    };
    wait_for("an event of the fault", || has_event("failed"));
    assert!(!has_event("works again"));
    // If a target gets another address, it is the same backend by its name.
    let moved = own_address().ip();
    named_on(SocketAddr::new(moved, two.port()), b'c');
    dns.set_addresses("two.test", &[moved]);
    wait_for("the new address", || {
        backends(&proxy).contains(&SocketAddr::new(moved, two.port()).to_string())
    });
    wait_for("an event of the end of the fault", || has_event("works again"));
    assert_eq!(described(), expected((2, 1)));
    assert_eq!(reached(&proxy), "ac");
}

#[test]
fn what_is_written_stays_beside_what_is_found() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = named();
    let [written, _, _] = all;
    dns.set_addresses(NAME, &ips(&all));
    let mut config = by_dns(&dns, written.port());
    config.pools[0].backends = layout(&format!("backends = ['{written}']")).pools[0].backends.clone();
    let (proxy, admin) = Proxy::start_with_admin(config);
    wait_for_backends(&proxy, &all);
    assert_eq!(reached(&proxy), "abc");

    let status = status(admin);
    let pool = &status["pools"][0];
    let origin = |at: usize| (&pool["backends"][at]["address"], &pool["backends"][at]["origin"]);
    assert_eq!(origin(0), (&json!(written), &json!("configuration")));
    assert_eq!(origin(1).1, "discovery");
    let discovery = &pool["discovery"][0];
    assert_eq!(discovery["source"], format!("dns {NAME}. port {}", written.port()));
    assert!(discovery["last_success"].as_str().is_some_and(|time| time.ends_with('Z')), "{discovery}");
    assert_eq!((&discovery["failures"], &discovery["fault"]), (&json!(0), &Value::Null));

    let series = |name: &str| -> f64 {
        let (_, text) = admin::ask(admin, "/metrics", PATIENCE).unwrap();
        let series = format!("pointsman_discovery_{name}{{pool=\"main\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    };
    assert_eq!((series("backends"), series("failures_total")), (2.0, 0.0));
    assert!(series("last_success_timestamp_seconds") > 1_700_000_000.0);
    dns.set_answer(NAME, DnsAnswer::Code(3));
    wait_for("a failure", || series("failures_total") > 0.0);
    assert_eq!(series("backends"), 2.0);
    assert_eq!(reached(&proxy), "abc");
}

fn status(admin: SocketAddr) -> Value {
    let (code, body) = admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap()
}

/// A directory of a test, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pointsman-discovery-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("app.json")
    }

    /// Replaces the file by a rename.
    fn replace(&self, content: &str) {
        let new = self.0.join("app.json.new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn replace_by(&self, backends: &[SocketAddr]) {
        self.replace(&document(backends));
    }

    fn config(&self, more: &str) -> Config {
        layout(&format!("discover = {{ file = '{}'{more} }}", self.file().display()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn document(backends: &[SocketAddr]) -> String {
    let backends: Vec<_> = backends.iter().map(|address| json!({ "address": address })).collect();
    json!({ "version": 1, "backends": backends }).to_string()
}

#[test]
fn a_file_is_followed() {
    let directory = Directory::new();
    let all: [SocketAddr; 3] = named();
    directory.replace_by(&all[..1]);
    let proxy = Proxy::start(directory.config(""));
    assert_eq!(reached(&proxy), "a");
    directory.replace_by(&all);
    wait_for_backends(&proxy, &all);
    assert_eq!(reached(&proxy), "abc");
    fs::write(directory.file(), document(&all[1..])).unwrap();
    wait_for_backends(&proxy, &all[1..]);
    directory.replace(
        &json!({ "version": 1, "backends": [
            { "address": all[0], "name": "first", "weight": 3 },
            { "address": all[1], "weight": 0 },
        ]})
        .to_string(),
    );
    wait_for_backends(&proxy, &all[..2]);
    assert_eq!(reached(&proxy), "a");
    let served = served(&proxy);
    let first = served.pool.backend("first").expect("it has its name");
    assert_eq!((first.weight(), first.address()), (3, &all[0].into()));
}

#[test]
fn a_broken_file_keeps_what_was_found() {
    let directory = Directory::new();
    let all: [SocketAddr; 2] = named();
    directory.replace_by(&all[..1]);
    let proxy = Proxy::start(directory.config(""));
    wait_for_backends(&proxy, &all[..1]);
    for (content, reason) in [
        ("{", "EOF while parsing"),
        ("", "EOF while parsing"),
        (r#"{"version": 2, "backends": []}"#, "its version is 2"),
        (r#"{"version": 1, "backends": [{"address": "a:1"}]}"#, "is not an address"),
    ] {
        fail(&proxy, reason, || directory.replace(content));
        assert_eq!(reached(&proxy), "a", "{content}");
    }
    let discovery = served(&proxy).discovery[0].clone();
    fs::remove_file(directory.file()).unwrap();
    wait_for("its absence", || discovery.fault().is_some_and(|fault| fault.contains("cannot be read")));
    assert_eq!(reached(&proxy), "a");
    directory.replace_by(&all);
    wait_for_backends(&proxy, &all);
    wait_for("no fault", || discovery.fault().is_none());
}

/// A mounted volume replaces files in this way: the file is a link, and its path has another link, which is
/// replaced.
#[test]
fn a_turned_link_is_seen() {
    let directory = Directory::new();
    let all: [SocketAddr; 2] = named();
    let version = |number: usize, backends: &[SocketAddr]| {
        let version = directory.0.join(format!("..{number}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("app.json"), document(backends)).unwrap();
        std::os::unix::fs::symlink(format!("..{number}"), directory.0.join("..new")).unwrap();
        fs::rename(directory.0.join("..new"), directory.0.join("..data")).unwrap();
    };
    version(1, &all[..1]);
    std::os::unix::fs::symlink("..data/app.json", directory.file()).unwrap();
    let proxy = Proxy::start(directory.config(""));
    wait_for_backends(&proxy, &all[..1]);
    version(2, &all);
    wait_for_backends(&proxy, &all);
}

#[test]
fn an_empty_list_empties_the_pool() {
    let directory = Directory::new();
    let [backend] = named();
    directory.replace_by(&[backend]);
    let proxy = Proxy::start(directory.config(""));
    wait_for_backends(&proxy, &[backend]);
    let mut open = connect_to(&proxy, 'a');
    directory.replace_by(&[]);
    wait_for_backends(&proxy, &[]);
    let refused = proxy.connect().read(&mut [0]);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(ask(&mut open), 'a');
}

#[test]
fn what_vanishes_drains() {
    let directory = Directory::new();
    let all: [SocketAddr; 2] = named();
    directory.replace_by(&all);
    let proxy = Proxy::start(directory.config(", drain = '500ms'"));
    wait_for_backends(&proxy, &all);
    let mut leaving = connect_to(&proxy, 'a');
    let mut staying = connect_to(&proxy, 'b');
    directory.replace_by(&all[1..]);
    wait_for_backends(&proxy, &all[1..]);
    assert_eq!(reached(&proxy), "b");
    // This connection was open when its backend was removed. It continues until the deadline, and no longer.
    assert_eq!(ask(&mut leaving), 'a');
    let end = leaving.read(&mut [0]);
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(ask(&mut staying), 'b');
}

#[test]
fn what_comes_back_in_time_goes_on() {
    let directory = Directory::new();
    let all: [SocketAddr; 2] = named();
    directory.replace_by(&all);
    let proxy = Proxy::start(directory.config(", drain = '1h'"));
    wait_for_backends(&proxy, &all);
    let mut open = connect_to(&proxy, 'a');
    let of_a = || {
        let served = served(&proxy);
        served.pool.backend(&all[0].to_string()).map(|backend| (backend.id(), backend.active()))
    };
    let before = of_a();
    assert!(before.is_some());
    directory.replace_by(&all[1..]);
    wait_for_backends(&proxy, &all[1..]);
    directory.replace_by(&all);
    wait_for_backends(&proxy, &all);
    assert_eq!(of_a(), before, "its number and what is open to it");
    assert_eq!(ask(&mut open), 'a');
}

#[test]
fn a_reload_keeps_what_was_found() {
    let dns = Dns::new();
    let directory = Directory::new();
    let all: [SocketAddr; 2] = named();
    dns.set_addresses(NAME, &ips(&all));
    let mut config = by_dns(&dns, all[0].port());
    let proxy = Proxy::start(config.clone());
    wait_for_backends(&proxy, &all);
    let mut open = connect_to(&proxy, 'a');

    config.pools[0].dial.attempts = 2;
    dns.set_answer(NAME, DnsAnswer::Code(3));
    proxy.remote.reload(config.clone()).unwrap();
    assert_eq!(served(&proxy).pool.spec().dial.attempts, 2);
    wait_for_backends(&proxy, &all);

    // A source without a good answer keeps the backends of the source before it.
    config.pools[0].discover = directory.config("").pools[0].discover.clone();
    proxy.remote.reload(config.clone()).unwrap();
    wait_for_backends(&proxy, &all);
    directory.replace_by(&all[..1]);
    wait_for_backends(&proxy, &all[..1]);
    assert_eq!(ask(&mut open), 'a');

    config.pools[0].discover = Vec::new();
    config.pools[0].backends = layout(&format!("backends = ['{}']", all[0])).pools[0].backends.clone();
    proxy.remote.reload(config).unwrap();
    wait_for_backends(&proxy, &all[..1]);
    assert!(served(&proxy).discovery.is_empty());
    assert_eq!((reached(&proxy), ask(&mut open)), ("a".to_owned(), 'a'));
}

/// The file is beside the configuration that names it.
#[test]
fn a_path_is_relative_to_the_configuration() {
    let directory = Directory::new();
    let [backend] = named();
    directory.replace_by(&[backend]);
    let path = directory.0.join("pointsman.toml");
    fs::write(&path, text("discover.file = 'app.json'")).unwrap();
    let (config, _) = config::load(&path).unwrap();
    let proxy = Proxy::start(config);
    wait_for_backends(&proxy, &[backend]);
}

#[test]
fn clients_of_the_start_wait_for_the_first_backends() {
    let directory = Directory::new();
    let [backend] = named();
    let (proxy, admin) = Proxy::start_with_admin(directory.config(""));
    assert_eq!(proxy.remote.view().life(), LifeStage::Starting);
    let mut early = proxy.connect();
    early.write_all(b"?").unwrap();
    let ready = || admin::ask(admin, "/ready", PATIENCE).unwrap();
    assert_eq!(ready(), (503, "starting\n".to_owned()));
    directory.replace_by(&[backend]);
    let mut name = [0];
    early.read_exact(&mut name).unwrap();
    assert_eq!((name, ready()), (*b"a", (200, "ready\n".to_owned())));
}

/// The start waits for the backends, but not without end.
#[test]
fn a_start_without_backends_turns_clients_away() {
    let dns = Dns::new();
    let all: [SocketAddr; 1] = named();
    let (proxy, admin) = Proxy::start_with_admin(by_dns(&dns, all[0].port()));
    wait_for("readiness", || admin::ask(admin, "/ready", PATIENCE).unwrap().0 == 200);
    let refused = proxy.connect().read(&mut [0]);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    proxy.wait_for_metric(r#"pointsman_no_backend_total{pool="main"}"#, 1.0);
    dns.set_addresses(NAME, &ips(&all));
    wait_for_backends(&proxy, &all);
    assert_eq!(reached(&proxy), "a");
}

/// A discovered backend that is our own listener is left out, because it would send each client back to the
/// same pool.
#[test]
fn a_discovered_backend_that_leads_back_is_left_out() {
    let (directory, own, [a]) = (Directory::new(), own_address(), named::<1>());
    fs::write(directory.file(), document(&[own, a])).unwrap();
    let config = |path: &str| {
        config(&format!(
            "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '{own}'\npool = 'main'\n\
             [pool.main]\nhealth.check = 'off'\ndiscover.file = '{path}'\n"
        ))
    };
    let proxy = Proxy::start(config(&directory.file().display().to_string()));
    wait_for_backends(&proxy, &[a]);
    assert_eq!(reached(&proxy), "a");
    // It is left out as well if it is discovered later.
    let b = named_on(own_address(), b'b');
    directory.replace(&document(&[b, own]));
    wait_for_backends(&proxy, &[b]);
}
