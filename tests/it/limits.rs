//! Limits of sources, listeners, routes and pools: the refused clients, the form of the refusal, and the
//! return of all slots.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use pointsman::admin;
use pointsman::config::Config;
use pointsman::limit::{PrefixLengths, SourceKey};
use pointsman::pool::OperatorState;
use pointsman::wire::proxy_protocol::{HeaderVersion, OutgoingHeader};
use socket2::{Domain, Socket, Type};

use crate::records::LogFile;
use crate::support::hello::hello;
use crate::support::pair::{closed, reset};
use crate::support::{Backend, PATIENCE, Proxy, config, find_in_time, wait_for};

const TCP: &str = "pool = \"main\"";
const TLS: &str = "protocol = \"tls\"\nunmatched = \"main\"";

/// Returns a configuration: a listener with these keys in front of a pool with those. `process` comes first.
fn configuration(backend: &Backend, process: &str, listener: &str, pool: &str) -> Config {
    let backend = backend.address;
    let log = if process.contains("access_log") { "" } else { "access_log.to = \"off\"" };
    config(&format!(
        r#"
        workers = 2
        shutdown.drain = "10s"
        {log}
        {process}
        [listener.main]
        bind = "127.0.0.1:0"
        {listener}
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        {pool}
        "#
    ))
}

fn proxy(backend: &Backend, process: &str, listener: &str, pool: &str) -> Proxy {
    Proxy::start(configuration(backend, process, listener, pool))
}

/// Connects a client from an address of this host.
fn connect_from(proxy: &Proxy, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect(&proxy.address("main").into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Checks that a client gets these bytes back.
fn echoed(mut client: TcpStream, words: &[u8]) -> TcpStream {
    client.write_all(words).unwrap();
    client.read_exact(&mut vec![0; words.len()]).expect("the client is served");
    client
}

fn served(proxy: &Proxy) -> TcpStream {
    echoed(proxy.connect(), b"?")
}

/// Returns true if the client is refused, which can show at any step.
fn is_refused(mut client: TcpStream, words: &[u8]) -> bool {
    let _ = client.write_all(words);
    let mut byte = [0];
    match client.read(&mut byte) {
        Ok(0) => true,
        // The first byte of an alert.
        Ok(_) => byte[0] != words[0] || words.len() > 1 && byte[0] == 0x15,
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither served nor refused"),
        Err(_) => true,
    }
}

fn open_of(proxy: &Proxy, ip: IpAddr) -> u32 {
    let view = proxy.remote.view();
    let listener = view.snapshot.load().policies.values().next().unwrap().listener_id;
    view.bounds.sources.open_of(listener, SourceKey::of(ip, PrefixLengths::default()))
}

const US: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Checks that no connection is open, and none is counted as open.
fn check_nothing_left(proxy: &Proxy) {
    let bounds = &proxy.remote.view().bounds;
    wait_for("the last place", || {
        let sources = &bounds.sources;
        (bounds.connections.inside(), sources.open(), sources.occupied()) == (0, 0, 0)
    });
    assert!(bounds.sources.heaviest(10).is_empty());
}

#[test]
fn a_source_has_so_many_connections() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "", &format!("{TCP}\nper_source.connections = 2"), "");
    let (first, second) = (served(&proxy), served(&proxy));
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("source_connections"), 1.0);
    assert_eq!(open_of(&proxy, US), 2);
    let other = echoed(connect_from(&proxy, 2), b"?");
    drop(first);
    wait_for("a free place", || open_of(&proxy, US) == 1);
    let third = served(&proxy);
    drop((second, third, other));
    check_nothing_left(&proxy);
}

#[test]
fn a_source_comes_so_fast() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "", &format!("{TCP}\nper_source = {{ rate = \"1/m\", burst = 3 }}"), "");
    for _ in 0..3 {
        drop(served(&proxy));
    }
    assert!(is_refused(proxy.connect(), b"?"));
    drop(echoed(connect_from(&proxy, 2), b"?"));
    assert_eq!(proxy.metric(&closed("source_rate")), 1.0);
    check_nothing_left(&proxy);
}

#[test]
fn a_source_has_so_many_unread_hellos() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "", &format!("{TLS}\nper_source.hellos = 2"), "");
    let words = hello(b"a.test");
    let served: Vec<_> = (0..5).map(|_| echoed(proxy.connect(), &words)).collect();
    let mut slow: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    slow[0].write_all(&words[..20]).unwrap();
    wait_for("those who are slow", || open_of(&proxy, US) == 7);
    assert!(is_refused(proxy.connect(), &words));
    proxy.wait_for_metric(&closed("source_hellos"), 1.0);
    let mut first = slow.remove(0);
    first.write_all(&words[20..]).unwrap();
    first.read_exact(&mut vec![0; words.len()]).unwrap();
    drop(echoed(proxy.connect(), &words));
    drop((served, first, slow));
    check_nothing_left(&proxy);
}

#[test]
fn a_listener_takes_so_many_a_second() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "", &format!("{TCP}\nrate = \"1/m\"\nburst = 2"), "");
    drop(served(&proxy));
    drop(echoed(connect_from(&proxy, 2), b"?"));
    assert!(is_refused(connect_from(&proxy, 3), b"?"));
    assert_eq!(proxy.metric(&closed("listener_rate")), 1.0);
    check_nothing_left(&proxy);
}

/// A client that comes while the listener is full takes no token of the rate limit.
#[test]
fn who_finds_no_place_does_not_count_for_the_rate() {
    let backend = Backend::echo();
    let proxy = proxy(&backend, "", &format!("{TCP}\nmax_connections = 1\nrate = \"1/m\"\nburst = 2"), "");
    let first = served(&proxy);
    for _ in 0..5 {
        assert!(is_refused(proxy.connect(), b"?"));
    }
    proxy.wait_for_metric(&closed("listener_full"), 5.0);
    drop(first);
    wait_for("a place", || proxy.remote.view().bounds.connections.inside() == 0);
    drop(served(&proxy));
    check_nothing_left(&proxy);
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("listener_rate"), 1.0);
    check_nothing_left(&proxy);
}

/// A client that its pool refuses takes no token from the rate limit of its route either.
#[test]
fn who_is_refused_by_its_pool_does_not_count_for_the_rate_of_its_route() {
    let backend = Backend::echo();
    let routes = r#"
        routes = [
            { sni = "a.test", pool = "main", limits = { rate = "1/m" } },
            { sni = "b.test", pool = "main" },
        ]"#;
    let proxy = proxy(&backend, "", &format!("{TLS}\n{routes}"), "limits = { connections = 1 }");
    let held = echoed(proxy.connect(), &hello(b"b.test"));
    for _ in 0..3 {
        assert!(is_refused(proxy.connect(), &hello(b"a.test")));
    }
    proxy.wait_for_metric(&closed("pool_full"), 3.0);
    drop(held);
    check_nothing_left(&proxy);
    drop(echoed(proxy.connect(), &hello(b"a.test")));
    check_nothing_left(&proxy);
    assert!(is_refused(proxy.connect(), &hello(b"a.test")));
    proxy.wait_for_metric(&closed("route_rate"), 1.0);
}

#[test]
fn a_name_has_its_own_limits() {
    let backend = Backend::echo();
    let routes = r#"
        routes = [
            { sni = ["a.test", "b.test"], pool = "main", limits = { connections = 2 } },
            { sni = "c.test", pool = "main", limits = { rate = "1/m" } },
        ]"#;
    let proxy = proxy(&backend, "", &format!("{TLS}\n{routes}"), "");
    let ask = |name: &[u8]| echoed(proxy.connect(), &hello(name));
    let (first, second) = (ask(b"a.test"), ask(b"b.test"));
    let mut client = proxy.connect();
    client.write_all(&hello(b"a.test")).unwrap();
    let mut alert = Vec::new();
    let _ = client.read_to_end(&mut alert);
    assert_eq!(alert[..5], [0x15, 3, 3, 0, 2], "an alert");
    proxy.wait_for_metric(&closed("route_full"), 1.0);
    let others: Vec<_> = (0..5).map(|_| ask(b"d.test")).collect();
    drop(ask(b"c.test"));
    assert!(is_refused(proxy.connect(), &hello(b"c.test")));
    proxy.wait_for_metric(&closed("route_rate"), 1.0);
    drop(first);
    let again = find_in_time(|| {
        let mut client = proxy.connect();
        client.write_all(&hello(b"b.test")).unwrap();
        let mut byte = [0];
        (client.read_exact(&mut byte).is_ok() && byte[0] == 0x16).then_some(client)
    });
    drop((second, others, again.expect("a place that was given back")));
    check_nothing_left(&proxy);
}

#[test]
fn a_pool_has_its_own_limits() {
    let backend = Backend::echo();
    let proxy =
        proxy(&backend, "", TCP, "limits = { connections = 1 }\nmax_connections = 9\nqueue = { length = 5 }");
    let first = served(&proxy);
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("pool_full"), 1.0);
    let fresh =
        configuration(&backend, "", TCP, "limits = { connections = 2, rate = \"1/m\", over = \"drop\" }");
    proxy.remote.reload(fresh).unwrap();
    let second = served(&proxy);
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("pool_full"), 2.0);
    drop(second);
    let refused = || {
        let _ = is_refused(proxy.connect(), b"?");
        proxy.metric(&closed("pool_rate")) >= 1.0
    };
    wait_for("the rate of the pool", refused);
    drop(first);
    check_nothing_left(&proxy);
}

/// While its client reads the refusal, a refused connection holds no slot of its route.
#[test]
fn who_is_refused_by_its_pool_has_no_place_of_its_route() {
    let backend = Backend::echo();
    let routes = r#"
        routes = [
            { sni = "a.test", pool = "main", limits = { connections = 1 } },
            { sni = "b.test", pool = "main" },
        ]"#;
    let proxy = proxy(&backend, "", &format!("{TLS}\n{routes}"), "limits = { connections = 1 }");
    let held = echoed(proxy.connect(), &hello(b"b.test"));
    let told = [(); 2].map(|()| {
        let mut client = proxy.connect();
        client.write_all(&hello(b"a.test")).unwrap();
        let mut alert = [0; 7];
        client.read_exact(&mut alert).unwrap();
        assert_eq!(alert[..5], [0x15, 3, 3, 0, 2], "an alert");
        client
    });
    drop((held, told));
    proxy.wait_for_metric(&closed("pool_full"), 2.0);
    check_nothing_left(&proxy);
    assert_eq!(proxy.metric(&closed("route_full")), 0.0);
}

/// A reload changes limits and keeps all counts.
#[test]
fn a_reload_keeps_what_was_counted() {
    let backend = Backend::echo();
    let with = |more: &str| configuration(&backend, "", &format!("{TCP}\nper_source = {{ {more} }}"), "");
    let proxy = Proxy::start(with("connections = 3, rate = \"1/m\", burst = 3"));
    let held: Vec<_> = (0..3).map(|_| served(&proxy)).collect();
    proxy.remote.reload(with("connections = 3, rate = \"1/m\", burst = 2")).unwrap();
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("source_connections"), 1.0);
    proxy.remote.reload(with("connections = 9, rate = \"1/m\", burst = 2")).unwrap();
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("source_rate"), 1.0);
    proxy.remote.reload(with("connections = 9")).unwrap();
    drop(served(&proxy));
    wait_for("the three", || open_of(&proxy, US) == 3);
    let mut restart = with("connections = 9");
    restart.limits.sources = 100;
    let changes = proxy.remote.reload(restart).unwrap();
    assert_eq!(changes.needs_restart, ["limits.sources"]);
    drop(held);
    check_nothing_left(&proxy);
}

/// A route is the same as long as it keeps one of its names. If a route is split, the first part keeps the
/// counts.
#[test]
fn a_route_keeps_what_was_counted() {
    let backend = Backend::echo();
    let with =
        |routes: &str| configuration(&backend, "", &format!("protocol = \"tls\"\nroutes = [{routes}]"), "");
    let route =
        |names: &str| format!("{{ sni = [{names}], pool = \"main\", limits = {{ connections = 1 }} }}");
    let proxy = Proxy::start(with(&route("\"b.test\", \"c.test\"")));
    let ask = |name: &str| is_refused(proxy.connect(), &hello(name.as_bytes()));
    let held = echoed(proxy.connect(), &hello(b"b.test"));
    assert!(ask("c.test"));
    proxy.remote.reload(with(&route("\"a.test\", \"b.test\", \"c.test\""))).unwrap();
    assert!(ask("a.test"), "a new name in front of the others takes nothing away");
    let split = format!("{}, {}", route("\"b.test\""), route("\"c.test\""));
    proxy.remote.reload(with(&split)).unwrap();
    assert!(ask("b.test"));
    let other = echoed(proxy.connect(), &hello(b"c.test"));
    assert!(ask("c.test"), "each counts for itself");
    drop((held, other));
    check_nothing_left(&proxy);
}

/// If a reload removes a limit and another reload adds it again, its counts continue.
#[test]
fn what_comes_back_keeps_what_was_counted() {
    let backend = Backend::echo();
    let listener = "protocol = \"tls\"\nrate = \"1/m\"\nburst = 3\nunmatched = \"main\"\n\
        routes = [{ sni = \"a.test\", pool = \"main\", limits = { connections = 1 } }]";
    let pool = "limits = { connections = 2 }";
    let proxy = proxy(&backend, "", listener, pool);
    let held = ["a.test", "b.test"].map(|name| echoed(proxy.connect(), &hello(name.as_bytes())));
    let mut other = configuration(&backend, "", TCP, "");
    other.listeners[0].name = "other".into();
    other.pools[0].name = "other".into();
    let pointsman::snapshot::ProtocolSpec::Tcp { pool: target, .. } = &mut other.listeners[0].policy.protocol
    else {
        unreachable!("it is a tcp listener")
    };
    *target = "other".into();
    proxy.remote.reload(other).unwrap();
    proxy.remote.reload(configuration(&backend, "", listener, pool)).unwrap();
    assert!(is_refused(proxy.connect(), &hello(b"a.test")));
    proxy.wait_for_metric(&closed("route_full"), 1.0);
    let refused = || {
        let _ = is_refused(proxy.connect(), &hello(b"b.test"));
        proxy.metric(&closed("listener_rate")) >= 1.0
    };
    wait_for("the rate of the listener", refused);
    let widened =
        listener.replace("burst = 3", "burst = 100").replace("connections = 1 ", "connections = 9 ");
    proxy.remote.reload(configuration(&backend, "", &widened, pool)).unwrap();
    assert!(is_refused(proxy.connect(), &hello(b"a.test")));
    proxy.wait_for_metric(&closed("pool_full"), 1.0);
    drop(held);
    check_nothing_left(&proxy);
}

fn header(client: &str) -> Vec<u8> {
    let endpoints = Some((client.parse().unwrap(), "203.0.113.1:443".parse().unwrap()));
    OutgoingHeader { version: HeaderVersion::V2, endpoints, tlvs: Vec::new(), crc32c: false }.write()
}

/// Behind a proxy, the clients of the proxy are the sources. The proxy itself is none.
#[test]
fn the_source_is_whom_the_header_tells() {
    let backend = Backend::echo();
    let trusting = "proxy_protocol = { trusted = \"127.0.0.1\", mode = \"accept\" }";
    let limits = "per_source = { connections = 2 }\nover = \"tarpit\"";
    let proxy =
        proxy(&backend, "limits.tarpit_timeout = \"100ms\"", &format!("{TCP}\n{trusting}\n{limits}"), "");
    let told = |client: &str| {
        let mut stream = proxy.connect();
        stream.write_all(&header(client)).unwrap();
        stream
    };
    let served: Vec<_> = (0..10).map(|n| echoed(told(&format!("198.51.100.{}:1", n / 2)), b"?")).collect();
    assert!(is_refused(told("198.51.100.1:9"), b"?"));
    proxy.wait_for_metric(&closed("source_connections"), 1.0);
    assert_eq!(open_of(&proxy, US), 0);
    assert_eq!(open_of(&proxy, "198.51.100.1".parse().unwrap()), 2);
    // A peer that is not trusted is a source itself.
    let strangers: Vec<_> = (0..2).map(|_| echoed(connect_from(&proxy, 7), b"?")).collect();
    assert!(is_refused(connect_from(&proxy, 7), b"?"));
    proxy.wait_for_metric(&closed("source_connections"), 2.0);
    drop((served, strangers));
    check_nothing_left(&proxy);
}

#[test]
fn who_is_held_gets_nothing_and_then_a_reset() {
    let backend = Backend::echo();
    let limits = "limits = { tarpit = 1, tarpit_timeout = \"1h\" }";
    let proxy = proxy(&backend, limits, &format!("{TCP}\nper_source.connections = 1\nover = \"tarpit\""), "");
    let first = served(&proxy);
    let mut held = proxy.connect();
    proxy.wait_for_metric(&closed("source_connections"), 1.0);
    let tarpits = |outcome: &str| proxy.metric(&format!("pointsman_tarpits_total{{outcome=\"{outcome}\"}}"));
    wait_for("the one who is held", || tarpits("held") == 1.0);
    // There is no slot for a second one.
    assert!(is_refused(proxy.connect(), b"?"));
    assert_eq!((tarpits("held"), tarpits("full")), (1.0, 1.0));
    held.write_all(b"anything").unwrap();
    held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silence = held.read(&mut [0]).unwrap_err();
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    assert_eq!(proxy.remote.view().bounds.connections.inside(), 1, "it is no connection any more");
    let mut soon =
        configuration(&backend, "", &format!("{TCP}\nper_source.connections = 1\nover = \"tarpit\""), "");
    soon.limits.tarpit = 2;
    soon.listeners[0].policy.admission.as_mut().unwrap().over =
        pointsman::limit::OverLimit::Tarpit(Duration::from_millis(50));
    proxy.remote.reload(soon).unwrap();
    assert!(is_refused(proxy.connect(), b"?"), "in the end it is reset");
    assert_eq!((tarpits("held"), tarpits("full")), (2.0, 1.0));
    wait_for("its place", || proxy.remote.view().bounds.tarpit.inside() == 1);
    drop(first);
    check_nothing_left(&proxy);
}

#[test]
fn a_table_without_room_passes_or_refuses() {
    let backend = Backend::echo();
    let with = |when_full: &str| {
        let limits = format!("limits = {{ sources = 8, when_full = \"{when_full}\" }}");
        configuration(&backend, &limits, &format!("{TCP}\nper_source.connections = 1"), "")
    };
    let proxy = Proxy::start(with("pass"));
    let mut held: Vec<_> = (10..18).map(|last| echoed(connect_from(&proxy, last), b"?")).collect();
    held.extend((0..3).map(|_| echoed(connect_from(&proxy, 100), b"?")));
    assert_eq!(proxy.remote.view().bounds.sources.full(), 3);
    proxy.remote.reload(with("refuse")).unwrap();
    assert!(is_refused(connect_from(&proxy, 101), b"?"));
    proxy.wait_for_metric(&closed("source_table_full"), 1.0);
    assert!(is_refused(connect_from(&proxy, 10), b"?"));
    proxy.wait_for_metric(&closed("source_connections"), 1.0);
    drop(held);
    check_nothing_left(&proxy);
}

#[test]
fn admin_tells_the_heaviest_sources() {
    let backend = Backend::echo();
    let (proxy, address) = Proxy::start_with_admin(configuration(
        &backend,
        "",
        &format!("{TLS}\nper_source.connections = 9"),
        "",
    ));
    let words = hello(b"a.test");
    let mut held: Vec<_> = (0..3).map(|_| echoed(connect_from(&proxy, 2), &words)).collect();
    held.push(connect_from(&proxy, 3));
    held.push(connect_from(&proxy, 3));
    wait_for("the two that say nothing", || open_of(&proxy, "127.0.0.3".parse().unwrap()) == 2);
    let ask = |path: &str| admin::ask(address, path, PATIENCE).unwrap();
    let (code, body) = ask("/api/v1/sources");
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &page["open"], &page["limit"]), (200, &2.into(), &65_536.into()));
    let expected = serde_json::json!([
        { "source": "127.0.0.2", "private_link": null, "listener": "main", "open": 3, "hellos": 0 },
        { "source": "127.0.0.3", "private_link": null, "listener": "main", "open": 2, "hellos": 2 },
    ]);
    assert_eq!(page["heaviest"], expected);
    let (_, one) = ask("/api/v1/sources?top=1");
    assert!(one.contains("127.0.0.2") && !one.contains("127.0.0.3"));
    assert_eq!(ask("/api/v1/sources?top=x").0, 400);
    let (_, metrics) = ask("/metrics");
    assert!(metrics.contains("pointsman_sources{state=\"open\"} 2"), "{metrics}");
    drop(held);
    check_nothing_left(&proxy);
}

/// Near the limit the heaviest source is refused, and other sources are served.
#[test]
fn the_heaviest_are_refused_first() {
    let backend = Backend::echo();
    let process = r#"
        max_connections = 20
        limits = { overload = "heaviest", overload_at = "50%", ready_when_overloaded = false }
    "#;
    let (proxy, address) = Proxy::start_with_admin(configuration(&backend, process, TCP, ""));
    let ready = || admin::ask(address, "/ready", PATIENCE).unwrap();
    let heavy: Vec<_> = (0..9).map(|_| served(&proxy)).collect();
    let mut light: Vec<_> = [2].map(|last| echoed(connect_from(&proxy, last), b"?")).into();
    assert_eq!(ready(), (503, "overloaded\n".to_owned()));
    assert!(is_refused(proxy.connect(), b"?"));
    proxy.wait_for_metric(&closed("overloaded"), 1.0);
    light.extend((3..8).map(|last| echoed(connect_from(&proxy, last), b"?")));
    drop(heavy);
    wait_for("room", || ready() == (200, "ready\n".to_owned()));
    drop(light);
    check_nothing_left(&proxy);
}

/// A source that fills the memory of hellos is refused early, so that other clients can still send a hello in
/// pieces.
#[test]
fn hellos_in_pieces_overload_the_process() {
    let backend = Backend::echo();
    let process = |memory: u64| {
        format!(
            "limits = {{ overload = \"heaviest\", overload_at = \"1%\", ready_when_overloaded = false, hello_memory = {memory} }}\n\
             max_connections = 1000"
        )
    };
    let with = |memory: u64| configuration(&backend, &process(memory), TLS, "");
    let (proxy, address) = Proxy::start_with_admin(with(1 << 20));
    let ready = || admin::ask(address, "/ready", PATIENCE).unwrap();
    let words = hello(b"a.test");
    let mut slow: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    slow.iter_mut().for_each(|client| client.write_all(&words[..20]).unwrap());
    wait_for("overload", || ready() == (503, "overloaded\n".to_owned()));
    let other = echoed(connect_from(&proxy, 2), &words);
    assert!(is_refused(proxy.connect(), &words));
    proxy.wait_for_metric(&closed("overloaded"), 1.0);
    proxy.remote.reload(with(4 << 20)).unwrap();
    assert_eq!(ready(), (200, "ready\n".to_owned()), "there is more now");
    proxy.remote.reload(with(1 << 20)).unwrap();
    assert_eq!(ready().0, 503);
    drop(slow);
    wait_for("memory", || ready().0 == 200);
    drop((other, echoed(proxy.connect(), &words)));
    check_nothing_left(&proxy);
}

/// In a flood the log has few lines of refusals. Each has the client and the reason, and the rest is counted.
#[test]
fn a_flood_of_refusals_does_not_flood_the_log() {
    const FLOOD: usize = 60;
    let (log, backend) = (LogFile::new(), Backend::echo());
    let access_log = format!("access_log = {{ to = \"{}\", refused_per_second = 1 }}", log.path());
    let proxy =
        proxy(&backend, &access_log, &format!("{TCP}\nper_source = {{ rate = \"1/m\", burst = 1 }}"), "");
    drop(served(&proxy));
    for _ in 0..FLOOD {
        assert!(is_refused(proxy.connect(), b"?"));
    }
    proxy.wait_for_metric(&closed("source_rate"), FLOOD as f64);
    let unlogged = proxy.metric(r#"pointsman_access_log_unlogged_refusals_total{listener="main"}"#) as usize;
    assert!(unlogged > 0 && unlogged < FLOOD, "{unlogged}");
    // The record of the served client, and the written records of refusals.
    let records = log.records(1 + FLOOD - unlogged);
    let refused: Vec<_> = records.iter().filter(|record| record["close"] == "source_rate").collect();
    assert_eq!(refused.len(), FLOOD - unlogged);
    assert!(refused.iter().all(|record| record["client"].as_str().unwrap().starts_with("127.0.0.1:")));
    check_nothing_left(&proxy);
}

/// Clients that send nothing, and clients without a backend, cause no more lines than refused clients.
#[test]
fn neither_silence_nor_a_pool_that_is_down_floods_the_log() {
    const FLOOD: usize = 30;
    for (close, words) in [("no_data", &b""[..]), ("no_backend", &hello(b"a.test"))] {
        let (log, backend) = (LogFile::new(), Backend::echo());
        let access_log = format!("access_log = {{ to = \"{}\", refused_per_second = 1 }}", log.path());
        let mut config = configuration(&backend, &access_log, TLS, "");
        config.pools[0].backends[0].operator_state = OperatorState::Maintenance;
        let proxy = Proxy::start(config);
        for _ in 0..FLOOD {
            let mut client = proxy.connect();
            client.write_all(words).unwrap();
            // A client that has sent its hello gets an alert; a client that ends before that has another close reason.
            if words.is_empty() {
                client.shutdown(Shutdown::Write).unwrap();
            }
            let _ = client.read_to_end(&mut Vec::new());
        }
        proxy.wait_for_metric(&closed(close), FLOOD as f64);
        let unlogged =
            proxy.metric(r#"pointsman_access_log_unlogged_refusals_total{listener="main"}"#) as usize;
        assert!(unlogged > 0 && unlogged < FLOOD, "{close}: {unlogged}");
        assert_eq!(log.records(FLOOD - unlogged).len(), FLOOD - unlogged, "{close}");
    }
}

/// Many clients end in many ways, most of them above some limit. All slots are returned.
#[test]
fn a_crowd_above_all_limits_leaves_nothing_behind() {
    const THREADS: u8 = 6;
    let backend = Backend::echo();
    let routes =
        "routes = [{ sni = \"a.test\", pool = \"main\", limits = { connections = 3, over = \"tarpit\" } }]";
    let limits = "per_source = { connections = 4, hellos = 2 }";
    let process = "max_connections = 12\nlimits = { overload = \"heaviest\", overload_at = \"40%\", tarpit = 3, tarpit_timeout = \"100ms\" }";
    let pool = "limits = { connections = 6 }";
    let proxy = proxy(&backend, process, &format!("{TLS}\n{routes}\n{limits}"), pool);
    let words = [hello(b"a.test"), hello(b"b.test")];
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (proxy, words) = (&proxy, &words);
            scope.spawn(move || {
                let mut kept = Vec::new();
                for turn in 0..60_usize {
                    let mut client = connect_from(proxy, 50 + number / 2);
                    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    let words = &words[turn % 2];
                    match turn % 5 {
                        0 => drop(client),
                        1 => {
                            let _ = client.write_all(&words[..9]);
                            kept.push(client);
                        }
                        2 => {
                            let _ = client.write_all(words);
                            reset(client);
                        }
                        _ => {
                            let _ = client.write_all(words);
                            let _ = client.read(&mut [0; 100]);
                            kept.push(client);
                        }
                    }
                    if kept.len() > 3 {
                        kept.remove(0);
                    }
                }
            });
        }
    });
    check_nothing_left(&proxy);
    wait_for("the tarpit", || proxy.remote.view().bounds.tarpit.inside() == 0);
    let accepted = proxy.metric(r#"pointsman_connections_total{listener="main"}"#);
    assert_eq!(accepted, f64::from(THREADS) * 60.0);
    drop(echoed(connect_from(&proxy, 2), &words[0]));
}
