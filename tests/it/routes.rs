//! Routes from names to pools, and picks from clients to backends.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use pointsman::pool::BackendState;
use rustls::version::{TLS12, TLS13};
use socket2::{Domain, Socket, Type};

use crate::support::hello::{hello, nameless};
use crate::support::recorder::{Recorder, ask, ask_on, list};
use crate::support::tls::{self, TlsBackend};
use crate::support::{PATIENCE, Proxy, config, wait_for};

const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const MISSING_EXTENSION: &[u8] = &[21, 3, 3, 0, 2, 2, 109];
const INTERNAL_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

/// Starts a `tls` listener named `main`, with these keys, and these further tables.
fn proxy(keys: &str, tables: &str) -> Proxy {
    Proxy::start(config(&format!(
        r#"
        workers = 2
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        {keys}
        {tables}
        "#
    )))
}

/// Returns a pool with the name of its one backend.
fn alone(backend: &Recorder) -> String {
    pool(&backend.name, &list([backend]), "")
}

fn pool(name: &str, backends: &str, keys: &str) -> String {
    format!("[pool.{name}]\nbackends = {backends}\nhealth.check = \"off\"\n{keys}\n")
}

/// Starts a listener that sends every name to one pool.
fn one_pool(backends: &str, keys: &str) -> Proxy {
    proxy("unmatched = \"p\"\nno_sni = \"p\"", &pool("p", backends, keys))
}

/// Connects from one of the many loopback addresses.
fn connect_from(proxy: &Proxy, source: Ipv4Addr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&proxy.address("main").into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Returns an address at which connections are refused until the socket is dropped.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn source(number: usize) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1 + high, low, 7)
}

/// Counts the answers of each backend.
fn tally(answers: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    answers.into_iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer).or_default() += 1;
        counts
    })
}

/// Returns the sum of a family's series of the pool `p` with this word in their labels.
fn attempts(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_connect_attempts_total{{pool="p",outcome="{outcome}"}}"#))
}

#[test]
fn the_most_specific_route_wins() {
    let pools = ["exact", "pinned", "apps", "wide", "com"].map(Recorder::start);
    let proxy = proxy(
        r#"
        routes = [
            { sni = "*.com", pool = "com" },
            { sni = "*.example.com", pool = "wide" },
            { sni = ["Mail.Example.com", "imap.example.com."], pool = "exact" },
            { sni = "pinned.apps.example.com", pool = "pinned" },
            { sni = "*.apps.example.com", pool = "apps" },
            { sni = "localhost", pool = "exact" },
        ]
        "#,
        &pools.iter().map(alone).collect::<String>(),
    );
    let check = |name: &str, expected: &str| {
        assert_eq!(ask(&proxy, &hello(name.as_bytes())).as_deref(), Ok(expected), "{name}");
    };
    check("mail.example.com", "exact");
    check("imap.example.com", "exact");
    check("MAIL.EXAMPLE.COM", "exact");
    check("mail.example.com.", "exact");
    check("localhost", "exact");
    check("LocalHost.", "exact");
    check("other.example.com", "wide");
    check("apps.example.com", "wide");
    check("a.b.c.d.e.f.example.com", "wide");
    check("xapps.example.com", "wide");
    check("a.apps.example.com", "apps");
    check("a.b.APPS.example.com.", "apps");
    check("pinned.apps.example.com", "pinned");
    check("a.pinned.apps.example.com", "apps");
    check("a.mail.example.com", "wide");
    check("example.com", "com");
    check("_x.com", "com");
    let refused = |name: &str| {
        assert_eq!(ask(&proxy, &hello(name.as_bytes())), Err(UNRECOGNIZED_NAME.to_vec()), "{name}");
    };
    refused("com");
    refused("example.org");
    refused("localhost.localdomain");
    refused("a.localhost");
    refused("mail-example.net");
    refused("mail.example.comx");
}

#[test]
fn clients_without_a_name_and_names_without_a_route_can_have_a_pool() {
    let pools = ["named", "nameless", "others"].map(Recorder::start);
    let proxy = proxy(
        r#"
        routes = [{ sni = "a.example", pool = "named" }]
        no_sni = "nameless"
        unmatched = "others"
        "#,
        &pools.iter().map(alone).collect::<String>(),
    );
    assert_eq!(ask(&proxy, &hello(b"a.example")).as_deref(), Ok("named"));
    assert_eq!(ask(&proxy, &nameless()).as_deref(), Ok("nameless"));
    assert_eq!(ask(&proxy, &hello(b"b.example")).as_deref(), Ok("others"));
}

#[test]
fn clients_without_a_name_and_names_without_a_route_are_rejected_by_default() {
    let named = Recorder::start("named");
    let proxy = proxy(r#"routes = [{ sni = "a.example", pool = "named" }]"#, &alone(&named));
    assert_eq!(ask(&proxy, &nameless()), Err(MISSING_EXTENSION.to_vec()));
    assert_eq!(ask(&proxy, &hello(b"b.example")), Err(UNRECOGNIZED_NAME.to_vec()));
    assert_eq!(named.connections(), 0);
}

#[test]
fn a_client_sees_the_certificate_of_its_backend() {
    let mail = TlsBackend::echo(&["mail.example.com"]);
    let apps = TlsBackend::echo(&["a.apps.example.com", "b.c.apps.example.com"]);
    let proxy = proxy(
        r#"
        routes = [
            { sni = "mail.example.com", pool = "mail" },
            { sni = "*.apps.example.com", pool = "apps" },
        ]
        "#,
        &[("mail", &mail), ("apps", &apps)]
            .map(|(name, backend)| pool(name, &format!("[\"{}\"]", backend.address), ""))
            .concat(),
    );
    for version in [&TLS12, &TLS13] {
        for (name, backend) in
            [("mail.example.com", &mail), ("a.apps.example.com", &apps), ("b.c.apps.example.com", &apps)]
        {
            let mut client = tls::client(proxy.connect(), name, version, &[&mail, &apps]);
            tls::check_echo(&mut client);
            let seen = client.conn.peer_certificates().unwrap();
            assert_eq!(seen, std::slice::from_ref(&backend.certificate), "{name}");
            assert_eq!(client.conn.protocol_version(), Some(version.version));
            tls::check_end(client);
        }
        let mut client = tls::client(proxy.connect(), "other.example", version, &[&mail, &apps]);
        let error = client.conn.complete_io(&mut client.sock).unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    proxy.wait_for_metric(r#"pointsman_client_hello_total{listener="main",outcome="sni"}"#, 8.0);
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
}

#[test]
fn a_name_stays_on_one_backend() {
    let backends = Recorder::several("b", 4);
    let proxy = one_pool(&list(&backends), r#"hash_on = "sni""#);
    let mut seen = HashSet::new();
    for number in 0..40 {
        let name = format!("name-{number}.example");
        let folded = ask_on(connect_from(&proxy, source(number)), &hello(name.as_bytes())).unwrap();
        let upper = format!("{}.", name.to_ascii_uppercase());
        let other = ask_on(connect_from(&proxy, source(1000 + number)), &hello(upper.as_bytes())).unwrap();
        assert_eq!(folded, other, "{name}");
        seen.insert(folded);
    }
    assert_eq!(seen.len(), backends.len());
}

#[test]
fn without_a_name_the_source_is_hashed() {
    let backends = Recorder::several("b", 4);
    let proxy = one_pool(&list(&backends), r#"hash_on = "sni""#);
    let mut seen = HashSet::new();
    for number in 0..40 {
        let [one, two] = [(); 2].map(|()| ask_on(connect_from(&proxy, source(number)), &nameless()).unwrap());
        assert_eq!(one, two);
        seen.insert(one);
    }
    assert_eq!(seen.len(), backends.len());
}

#[test]
fn a_source_stays_on_one_backend_whatever_the_order_of_the_list() {
    let backends = Recorder::several("b", 4);
    let proxies = [list(&backends), list(backends.iter().rev())].map(|list| one_pool(&list, ""));
    let mut seen = HashSet::new();
    for number in 0..40 {
        let mut answers = HashSet::new();
        for (proxy, name) in [(&proxies[0], "a.example"), (&proxies[1], "b.example")] {
            answers.insert(ask_on(connect_from(proxy, source(number)), &hello(name.as_bytes())).unwrap());
        }
        assert_eq!(answers.len(), 1, "{}", source(number));
        seen.extend(answers);
    }
    assert_eq!(seen.len(), backends.len());
}

#[test]
fn a_prefix_stays_together() {
    let backends = Recorder::several("b", 4);
    let proxy = one_pool(&list(&backends), "source_prefix = { v4 = 24 }");
    let mut seen = HashSet::new();
    for net in 0..20 {
        let answers: HashSet<_> = [1, 100, 254]
            .map(|host| {
                let source = Ipv4Addr::new(127, 3, net, host);
                ask_on(connect_from(&proxy, source), &nameless()).unwrap()
            })
            .into();
        assert_eq!(answers.len(), 1, "network {net}");
        seen.extend(answers);
    }
    assert_eq!(seen.len(), backends.len());
}

#[test]
fn ports_of_one_source_spread_when_they_are_hashed() {
    let backends = Recorder::several("b", 2);
    let proxy = one_pool(&list(&backends), r#"hash_on = "source-ip-port""#);
    // The kernel chooses the ports, so the test cannot fix them. It fails by chance with a probability of
    // 2^-63.
    let counts = tally((0..64).map(|_| ask(&proxy, &nameless()).unwrap()));
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[test]
fn round_robin_takes_exact_turns_by_weight() {
    let backends = Recorder::several("b", 3);
    let weights = backends.iter().zip([1, 2, 0]).map(|(backend, weight)| backend.weighing(weight));
    let written = format!("[{}]", weights.collect::<Vec<_>>().join(", "));
    let proxy = one_pool(&written, r#"balance = "round-robin""#);
    let counts = tally((0..30).map(|_| ask(&proxy, &hello(b"a.example")).unwrap()));
    assert_eq!(counts, BTreeMap::from([("b0".to_owned(), 10), ("b1".to_owned(), 20)]));
}

#[test]
fn maglev_shares_by_weight() {
    let backends = Recorder::several("b", 2);
    let written = format!("[{}, {}]", backends[0].weighing(1), backends[1].weighing(3));
    let proxy = one_pool(&written, "");
    let counts =
        tally((0..200).map(|number| ask_on(connect_from(&proxy, source(number)), &nameless()).unwrap()));
    // The result is the same in each run: sources, names and the key are fixed. 50 is expected, with a
    // deviation of 6.
    assert!((30..=70).contains(&counts["b0"]), "{counts:?}");
}

#[test]
fn a_dead_backend_costs_no_client() {
    let living = Recorder::start("living");
    let (_kept, dead) = refusing();
    for balance in ["maglev", "round-robin"] {
        let backends = format!(r#"["{dead}", {}]"#, living.written());
        let proxy = one_pool(&backends, &format!("balance = \"{balance}\""));
        for number in 0..60 {
            let answer = ask_on(connect_from(&proxy, source(number)), &hello(b"a.example"));
            assert_eq!(answer.as_deref(), Ok("living"));
        }
        assert_eq!(attempts(&proxy, "ok"), 60.0);
        assert!((10.0..=60.0).contains(&attempts(&proxy, "refused")), "{balance} asked the dead one too");
        let closed = |reason: &str| {
            proxy.metric(&format!(
                r#"pointsman_connections_closed_total{{listener="main",reason="{reason}"}}"#
            ))
        };
        wait_for("all are closed", || closed("client_fin") + closed("backend_fin") == 60.0);
    }
}

#[test]
fn a_pool_that_refuses_says_so_in_tls() {
    let (_kept, dead) = refusing();
    let proxy = one_pool(&format!(r#"["{dead}"]"#), "");
    assert_eq!(ask(&proxy, &hello(b"a.example")), Err(INTERNAL_ERROR.to_vec()));
    proxy.wait_for_metric(
        r#"pointsman_connections_closed_total{listener="main",reason="connect_refused"}"#,
        1.0,
    );
    assert_eq!(attempts(&proxy, "refused"), 1.0);
    assert_eq!(proxy.metric(r#"pointsman_no_backend_total{pool="p"}"#), 0.0);
}

#[test]
fn when_nobody_is_healthy_clients_are_told_at_once() {
    let (_kept, dead) = refusing();
    let tables = format!(
        r#"
        [pool.p]
        backends = ["{dead}"]
        health = {{ interval = "10ms", fall = 1 }}
        "#
    );
    let proxy = proxy("unmatched = \"p\"", &tables);
    wait_for("the backend is down", || {
        proxy.remote.view().snapshot.load().pools["p"].pool.backends()[0].state() == BackendState::Down
    });
    // Unread bytes behind the hello must not replace the alert by a reset.
    let mut first = hello(b"a.example");
    first.resize(100_000, 0xaa);
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &first), Err(INTERNAL_ERROR.to_vec()));
    }
    proxy.wait_for_metric(r#"pointsman_connections_closed_total{listener="main",reason="no_backend"}"#, 10.0);
    assert_eq!(
        proxy.metric(r#"pointsman_connections_rejected_total{listener="main",reason="no_backend"}"#),
        10.0
    );
    assert_eq!(proxy.metric(r#"pointsman_no_backend_total{pool="p"}"#), 10.0);
    assert_eq!(attempts(&proxy, "refused"), 0.0);
}

/// If a client sends its destination address as the server name, it counts as a client without a name.
#[test]
fn an_address_in_place_of_a_name_goes_to_no_sni() {
    let (none, other) = (Recorder::start("none"), Recorder::start("other"));
    let routes = "routes = [{ sni_regex = \"[0-9.:\\\\[\\\\]a-f]+\", pool = \"other\" }]";
    let keys = format!("{routes}\nno_sni = \"none\"\nunmatched = \"other\"");
    let proxy = proxy(&keys, &(alone(&none) + &alone(&other)));
    for address in ["192.0.2.10", "192.0.2.10.", "2001:db8::1", "[2001:db8::1]", "127.0.0.1", "fe80::1%2"] {
        assert_eq!(ask(&proxy, &hello(address.as_bytes())).as_deref(), Ok("none"), "{address}");
    }
    assert_eq!(ask(&proxy, &hello(b"a.example")).as_deref(), Ok("other"));
}
