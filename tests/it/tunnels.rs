//! Clients that request tunnels by SOCKS and CONNECT: the hosts that they reach, and the hosts that they never reach.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;

use serde_json::Value;

use crate::support::dns::{Dns, DnsAnswer};
use crate::support::hello::{hello, nameless};
use crate::support::pair::{FullListener, closed, expect_bytes, expect_end, patient};
use crate::support::recorder::{Recorder, finish};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

const NAME: &str = "api.test";

const LOOPBACK: &str = "allow_private = '127.0.0.0/8'";

const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Starts a listener `main` of this protocol, whose clients go to hosts at `port`.
fn start(protocol: &str, dns: &Dns, port: u16, forward: &str, listener: &str) -> Proxy {
    Proxy::start(config(&text(protocol, dns, port, forward, listener)))
}

fn text(protocol: &str, dns: &Dns, port: u16, forward: &str, listener: &str) -> String {
    let resolver = dns.address;
    format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\nprotocol = '{protocol}'\n\
         pool = 'egress'\n{listener}\n[pool.egress]\nconnect_timeout = '2s'\n[pool.egress.forward]\n\
         to = 'requested'\nallow = ['{NAME}', '*.example.test']\nports = {port}\nresolvers = '{resolver}'\n{forward}\n"
    )
}

fn connect_head(target: &str) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: test\r\n\r\n").into_bytes()
}

fn socks_name(name: &str, port: u16) -> Vec<u8> {
    let length = [u8::try_from(name.len()).unwrap()];
    [&[5, 1, 0, 3][..], &length, name.as_bytes(), &port.to_be_bytes()].concat()
}

fn socks_v4(ip: Ipv4Addr, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 1][..], &ip.octets(), &port.to_be_bytes()].concat()
}

/// Requests a tunnel by SOCKS. Returns the client and the code of the reply.
fn socks(proxy: &Proxy, request: &[u8]) -> (TcpStream, u8) {
    let mut client = proxy.connect();
    client.write_all(&[5, 1, 0]).unwrap();
    expect_bytes(&client, &[5, 0]);
    client.write_all(request).unwrap();
    let mut reply = [0; 10];
    client.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]), "no address in it");
    (client, reply[1])
}

/// Requests a tunnel by CONNECT. Returns the client and the status.
fn connect(proxy: &Proxy, head: &[u8]) -> (TcpStream, String) {
    let mut client = proxy.connect();
    client.write_all(head).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].to_owned();
    assert!(status == "200" || answer.contains("\r\nProxy-Status: pointsman; error="), "{answer}");
    (client, status)
}

/// Checks that a client that requests this by SOCKS and by CONNECT is refused with this code and status.
#[track_caller]
fn refused(proxies: [&Proxy; 2], host: &str, port: u16, [code, status]: [&str; 2], reason: &str) {
    let [by_socks, by_connect] = proxies;
    let before = proxies.map(|proxy| proxy.metric(&closed(reason)));
    let request = match host.parse() {
        Ok(ip) => socks_v4(ip, port),
        Err(_) => socks_name(host, port),
    };
    let (client, found) = socks(by_socks, &request);
    assert_eq!(found.to_string(), code, "{host}:{port}");
    expect_end(&client);
    let (client, found) = connect(by_connect, &connect_head(&format!("{host}:{port}")));
    assert_eq!(found, status, "{host}:{port}");
    expect_end(&client);
    for (proxy, before) in proxies.into_iter().zip(before) {
        proxy.wait_for_metric(&closed(reason), before + 1.0);
    }
}

/// Starts a listener for each of the two protocols.
fn both(dns: &Dns, port: u16, forward: &str) -> [Proxy; 2] {
    ["socks5", "connect"].map(|protocol| start(protocol, dns, port, forward, ""))
}

/// Starts a host with the name [`NAME`]. Returns it behind its resolver, with its port.
fn host_with_name() -> (Dns, Recorder, u16) {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_addresses(NAME, &[host.address.ip()]);
    let port = host.address.port();
    (dns, host, port)
}

#[test]
fn a_client_reaches_the_host_that_it_requests() {
    let (dns, host, port) = host_with_name();
    let [by_socks, by_connect] = both(&dns, port, LOOPBACK);
    let (mut client, code) = socks(&by_socks, &socks_name("API.test.", port));
    assert_eq!(code, 0);
    expect_bytes(&client, b"host\n");
    client.write_all(b"by socks").unwrap();
    finish(client).unwrap();
    assert_eq!(host.received(), b"by socks");
    let (mut client, status) = connect(&by_connect, &connect_head(&format!("{NAME}:{port}")));
    assert_eq!(status, "200");
    expect_bytes(&client, b"host\n");
    client.write_all(b"by connect").unwrap();
    finish(client).unwrap();
    assert_eq!(host.received(), b"by connect", "the host gets no byte of the head");
    by_socks.wait_for_metric(r#"pointsman_client_openings_total{listener="main",kind="socks5"}"#, 1.0);
    by_connect.wait_for_metric(r#"pointsman_client_openings_total{listener="main",kind="connect"}"#, 1.0);
}

#[test]
fn bytes_that_come_with_the_request_are_the_tunnels() {
    let (dns, host, port) = host_with_name();
    let [by_socks, by_connect] = both(&dns, port, LOOPBACK);
    let behind = b"GET / HTTP/1.1\r\nHost: inner.test\r\n\r\n".repeat(100);
    let mut client = by_connect.connect();
    client.write_all(&[&connect_head(&format!("{NAME}:{port}")), &behind[..]].concat()).unwrap();
    expect_bytes(&client, &[GRANTED, b"host\n"].concat());
    finish(client).unwrap();
    assert_eq!(host.received(), behind);
    let mut client = by_socks.connect();
    client.write_all(&[&[5, 1, 0][..], &socks_name(NAME, port), &behind].concat()).unwrap();
    expect_bytes(&client, &[&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"host\n"].concat());
    finish(client).unwrap();
    assert_eq!(host.received(), behind);
    // A request that comes byte by byte is the same request.
    let mut client = patient(by_connect.connect());
    for byte in connect_head(&format!("{NAME}:{port}")) {
        client.write_all(&[byte]).unwrap();
    }
    expect_bytes(&client, GRANTED);
}

#[test]
fn success_is_answered_after_the_connect_only() {
    let dns = Dns::new();
    dns.set_addresses(NAME, &[Ipv4Addr::LOCALHOST.into()]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let [by_socks, by_connect] = both(&dns, nobody, LOOPBACK);
    refused([&by_socks, &by_connect], NAME, nobody, ["5", "502"], "connect_refused");
}

#[test]
fn the_rules_refuse_hosts_and_ports() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let port = host.address.port();
    let rules = "deny = 'bad.example.test'\nallow_networks = ['127.0.0.1', '192.0.2.0/24']\n\
                 deny_networks = ['127.0.0.2', '192.0.2.9']\nallow_private = '127.0.0.0/8'";
    let [by_socks, by_connect] = both(&dns, port, rules);
    let both = [&by_socks, &by_connect];
    for name in ["other.test", "example.test", "bad.example.test"] {
        dns.set_addresses(name, &[host.address.ip()]);
        refused(both, name, port, ["2", "403"], "name_not_allowed");
    }
    assert_eq!(dns.questions(), 0, "only names that are allowed are looked up");
    refused(both, NAME, port.wrapping_add(1).max(1), ["2", "403"], "port_not_allowed");
    refused(both, "127.0.0.3", port, ["2", "403"], "address_not_allowed");
    refused(both, "192.0.2.9", port, ["2", "403"], "address_not_allowed");
    dns.set_addresses(NAME, &["127.0.0.2".parse().unwrap()]);
    refused(both, NAME, port, ["2", "403"], "address_not_allowed");
    dns.set_answer("no.example.test", DnsAnswer::Code(3));
    refused(both, "no.example.test", port, ["4", "502"], "name_not_resolved");
    assert_eq!(host.connections(), 0);
    let (client, code) = socks(&by_socks, &socks_v4(Ipv4Addr::LOCALHOST, port));
    assert_eq!(code, 0, "an address of `allow_networks`");
    expect_bytes(&client, b"host\n");
}

#[test]
fn inner_addresses_are_refused_by_name_and_by_address() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let port = host.address.port();
    let all = "allow_networks = ['0.0.0.0/0', '::/0']";
    let [by_socks, by_connect] = both(&dns, port, all);
    let both = [&by_socks, &by_connect];
    for ip in
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
    {
        refused(both, ip, port, ["2", "403"], "address_refused");
    }
    let inside: [&[&str]; 6] = [
        &["127.0.0.1"],
        &["10.0.0.1", "192.168.1.1", "172.16.0.1"],
        &["169.254.169.254", "fd00:ec2::254"],
        &["::ffff:127.0.0.1", "::1", "::"],
        &["64:ff9b::127.0.0.1", "2002:7f00:1::1", "2001:0:1::1"],
        &["ff02::1", "fe80::1"],
    ];
    for (at, addresses) in inside.into_iter().enumerate() {
        let name = format!("n{at}.example.test");
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        dns.set_addresses(&name, &addresses);
        refused(both, &name, port, ["2", "403"], "address_refused");
    }
    assert_eq!(host.connections(), 0);
}

/// The owner of an allowed name tries to lead clients to an inner host.
#[test]
fn a_name_that_changes_its_address_leads_to_no_inner_host() {
    let (dns, inner) = (Dns::new(), Recorder::start("inner"));
    let port = inner.address.port();
    let [by_socks, by_connect] = both(&dns, port, "");
    let both = [&by_socks, &by_connect];
    // An alias of an inner name.
    dns.set_answer("alias.example.test", DnsAnswer::Alias("intranet.internal", vec![inner.address.ip()]));
    refused(both, "alias.example.test", port, ["2", "403"], "address_refused");
    // The first answer is the address of a host that may be reached; the later answers are another address. Each
    // connection has one look-up, so the address that was judged is the one that is dialled.
    let outer = Backend::serve_on("127.0.0.3:0", |mut stream| {
        let _ = stream.write_all(b"outer\n");
    });
    let port = outer.address.port();
    let inner = TcpListener::bind(("127.0.0.2", port)).unwrap();
    inner.set_nonblocking(true).unwrap();
    dns.set_addresses("rebind.example.test", &[outer.address.ip()]);
    let proxy = start("connect", &dns, port, "allow_private = '127.0.0.3'", "");
    let head = connect_head(&format!("rebind.example.test:{port}"));
    let (client, status) = connect(&proxy, &head);
    assert_eq!(status, "200");
    expect_bytes(&client, b"outer\n");
    dns.set_addresses("rebind.example.test", &["127.0.0.2".parse().unwrap()]);
    wait_for("the end of the first answer", || connect(&proxy, &head).1 == "403");
    assert!(inner.accept().is_err(), "nobody came");
}

/// Of mixed answers only the allowed addresses are dialled.
#[test]
fn mixed_answers_lead_to_the_allowed_addresses() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let port = host.address.port();
    let inner = TcpListener::bind(("127.0.0.2", port)).unwrap();
    inner.set_nonblocking(true).unwrap();
    dns.set_addresses(NAME, &["127.0.0.2".parse().unwrap(), host.address.ip()]);
    let [by_socks, _] = both(&dns, port, "allow_private = '127.0.0.1'");
    let (client, code) = socks(&by_socks, &socks_name(NAME, port));
    assert_eq!(code, 0);
    expect_bytes(&client, b"host\n");
    assert!(inner.accept().is_err(), "nobody came");
}

/// A client must not request one name and send a hello for another name.
#[test]
fn the_hello_in_a_tunnel_has_the_requested_name() {
    let dns = Dns::new();
    let (keep, received) = mpsc::channel();
    let host = Backend::serve(move |mut stream| {
        let mut bytes = vec![0; 16 * 1024];
        let read = stream.read(&mut bytes).unwrap_or(0);
        let _ = stream.write_all(b"host\n");
        let _ = keep.send(bytes[..read].to_vec());
    });
    let (port, greeter) = (host.address.port(), Recorder::start("greeter"));
    dns.set_addresses(NAME, &[host.address.ip()]);
    let ports = format!("ports = [{port}, {}]", greeter.address.port());
    let text = text(
        "connect",
        &dns,
        port,
        &format!("{LOOPBACK}\nverify_sni = true\nallow_networks = '127.0.0.1'"),
        "hello_timeout = '1s'",
    );
    let proxy = Proxy::start(config(&text.replace(&format!("ports = {port}"), &ports)));
    let head = connect_head(&format!("{NAME}:{port}"));
    let passes = |head: &[u8], bytes: &[u8]| {
        let (mut client, status) = connect(&proxy, head);
        assert_eq!(status, "200");
        client.write_all(bytes).unwrap();
        expect_bytes(&client, b"host\n");
        assert_eq!(received.recv_timeout(PATIENCE).unwrap(), bytes);
    };
    passes(&head, &hello(NAME.as_bytes()));
    passes(&head, b"GET / HTTP/1.1\r\n\r\n");
    passes(&connect_head(&format!("127.0.0.1:{port}")), &hello(b"other.test"));
    // The hello may come with the request.
    let mut client = proxy.connect();
    client.write_all(&[&head[..], &hello(NAME.as_bytes())].concat()).unwrap();
    expect_bytes(&client, &[GRANTED, b"host\n"].concat());
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), hello(NAME.as_bytes()));
    for (at, bytes) in [hello(b"other.test"), nameless()].into_iter().enumerate() {
        let (mut client, status) = connect(&proxy, &head);
        assert_eq!(status, "200");
        client.write_all(&bytes).unwrap();
        expect_bytes(&client, &[21, 3, 3, 0, 2, 2, 112]);
        expect_end(&client);
        proxy.wait_for_metric(&closed("sni_mismatch"), at as f64 + 1.0);
        assert_eq!(received.recv_timeout(PATIENCE).unwrap(), b"", "the host gets no byte");
    }
    let (mut client, _) = connect(&proxy, &head);
    client.write_all(&hello(NAME.as_bytes())[..50]).unwrap();
    proxy.wait_for_metric(&closed("hello_timeout"), 1.0);
    drop(client);
    // A server that sends first is not delayed.
    let (client, status) = connect(&proxy, &connect_head(&format!("{NAME}:{}", greeter.address.port())));
    assert_eq!(status, "200");
    expect_bytes(&client, b"greeter\n");
}

/// An address that does not answer costs a part of a second, not a timeout.
#[test]
fn an_address_that_does_not_answer_holds_no_client_up() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let port = host.address.port();
    let silent = FullListener::at(SocketAddr::from(([127, 0, 0, 2], port)));
    dns.set_addresses(NAME, &[silent.address.ip(), host.address.ip()]);
    let text = text("socks5", &dns, port, LOOPBACK, "");
    let text = text.replace("connect_timeout = '2s'", "connect_timeout = '15s'\ndial_timeout = '15s'");
    let log = Log::new();
    let proxy = Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))));
    let request = [&[5, 1, 0][..], &socks_name(NAME, port), b"first bytes"].concat();
    let mut client = proxy.connect();
    client.write_all(&request).unwrap();
    expect_bytes(&client, &[&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"host\n"].concat());
    finish(client).unwrap();
    assert_eq!(host.received(), b"first bytes");
    let record = log.records(1).remove(0);
    assert_eq!(
        (&record["attempts"], &record["backend_address"]),
        (&2.into(), &host.address.to_string().into())
    );
    let attempts = |outcome: &str| {
        proxy.metric(&format!(r#"pointsman_connect_attempts_total{{pool="egress",outcome="{outcome}"}}"#))
    };
    assert_eq!((attempts("ok"), attempts("aborted")), (1.0, 1.0));
}

#[test]
fn our_own_sockets_are_refused() {
    let dns = Dns::new();
    dns.set_addresses(NAME, &[Ipv4Addr::LOCALHOST.into()]);
    for protocol in ["socks5", "connect"] {
        let proxy = start(protocol, &dns, 443, LOOPBACK, "");
        let port = proxy.address("main").port();
        proxy.remote.reload(config(&text(protocol, &dns, port, LOOPBACK, ""))).unwrap();
        match protocol {
            "socks5" => assert_eq!(socks(&proxy, &socks_name(NAME, port)).1, 2),
            _ => assert_eq!(connect(&proxy, &connect_head(&format!("{NAME}:{port}"))).1, "403"),
        }
        proxy.wait_for_metric(&closed("address_refused"), 1.0);
    }
}

#[test]
fn requests_that_are_not_served_get_their_answer() {
    let dns = Dns::new();
    let [by_socks, by_connect] = both(&dns, 443, "");
    let check = |proxy: &Proxy, send: &[u8], begins: &[u8], reason: &str| {
        let before = proxy.metric(&closed(reason));
        let mut client = proxy.connect();
        client.write_all(send).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert!(
            heard.starts_with(begins),
            "{:?}: {:?}",
            send.escape_ascii().to_string(),
            heard.escape_ascii().to_string()
        );
        assert_eq!(heard.is_empty(), begins.is_empty());
        proxy.wait_for_metric(&closed(reason), before + 1.0);
    };
    check(&by_socks, &[5, 1, 2], &[5, 255], "auth_method_refused");
    check(&by_socks, &[5, 1, 0, 5, 2, 0, 1], &[5, 0, 5, 7], "request_unsupported");
    check(&by_socks, &[5, 1, 0, 5, 3, 0, 1], &[5, 0, 5, 7], "request_unsupported");
    check(&by_socks, &[5, 1, 0, 5, 1, 0, 9], &[5, 0, 5, 8], "request_unsupported");
    check(&by_socks, &[4, 1], &[0, 91], "request_unsupported");
    check(&by_socks, &[&[5, 1, 0][..], &socks_name("a b", 443)].concat(), &[5, 0, 5, 1], "bad_name");
    check(&by_socks, b"GET / HTTP/1.1\r\n\r\n", b"", "opening_malformed");
    check(
        &by_connect,
        b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
        b"HTTP/1.1 405 ",
        "request_unsupported",
    );
    check(&by_connect, b"CONNECT api.test HTTP/1.1\r\n", b"HTTP/1.1 400 ", "bad_name");
    check(
        &by_connect,
        b"CONNECT api.test:443 HTTP/1.1\nHost: api.test\n\n",
        b"HTTP/1.1 400 ",
        "opening_malformed",
    );
    check(&by_connect, &[22, 3, 1, 2, 0], b"HTTP/1.1 400 ", "opening_malformed");
    check(
        &by_connect,
        &[&connect_head("api.test:443")[..5], &[b'x'; 20_000]].concat(),
        b"HTTP/1.1 431 ",
        "opening_malformed",
    );
    assert_eq!(dns.questions(), 0);
}

#[test]
fn half_spoken_requests_are_bounded() {
    let dns = Dns::new();
    let times = "first_byte_timeout = '400ms'\nhello_timeout = '200ms'";
    let [by_socks, by_connect] = ["socks5", "connect"].map(|protocol| start(protocol, &dns, 443, "", times));
    let check = |proxy: &Proxy, send: &[u8], begins: &[u8], reason: &str| {
        let before = proxy.metric(&closed(reason));
        let mut client = proxy.connect();
        client.write_all(send).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert!(heard.starts_with(begins), "{heard:?}");
        proxy.wait_for_metric(&closed(reason), before + 1.0);
    };
    check(&by_socks, b"", b"", "first_byte_timeout");
    check(&by_socks, &[5], b"", "opening_timeout");
    check(&by_socks, &[5, 1, 0], &[5, 0, 5, 1], "opening_timeout");
    check(&by_socks, &[5, 1, 0, 5, 1], &[5, 0, 5, 1], "opening_timeout");
    check(&by_connect, b"", b"HTTP/1.1 408 ", "first_byte_timeout");
    check(&by_connect, b"CONNECT api.test:443", b"HTTP/1.1 408 ", "opening_timeout");
    let mut client = by_connect.connect();
    client.write_all(b"CONNECT api").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    by_connect.wait_for_metric(&closed("opening_truncated"), 1.0);
}

#[test]
fn version_4_of_socks_is_served_if_allowed() {
    let (dns, _host, port) = host_with_name();
    let proxy = start("socks5", &dns, port, LOOPBACK, "legacy = true");
    let head = [&[4, 1][..], &port.to_be_bytes(), &[0, 0, 0, 1]].concat();
    let mut client = proxy.connect();
    client.write_all(&[&head[..], b"ann\0api.test\0"].concat()).unwrap();
    expect_bytes(&client, &[&[0, 90, 0, 0, 0, 0, 0, 0][..], b"host\n"].concat());
    let mut client = proxy.connect();
    client.write_all(&[&head[..], b"ann\0other.test\0"].concat()).unwrap();
    expect_bytes(&client, &[0, 91, 0, 0, 0, 0, 0, 0]);
    expect_end(&client);
}

#[test]
fn routes_choose_by_the_requested_name() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    let port = host.address.port();
    for name in [NAME, "a.example.test", "no.example.test"] {
        dns.set_addresses(name, &[host.address.ip()]);
    }
    let routes = "routes = [{ sni = 'no.example.test', action = 'reject' }, \
                  { sni = '*.example.test', pool = 'egress', name = 'wide' }]";
    let [by_socks, by_connect] =
        ["socks5", "connect"].map(|protocol| start(protocol, &dns, port, LOOPBACK, routes));
    refused([&by_socks, &by_connect], "no.example.test", port, ["2", "403"], "route_rejected");
    let log = Log::new();
    let text = text("socks5", &dns, port, LOOPBACK, routes);
    let proxy = Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))));
    for name in ["a.example.test", NAME] {
        let (client, code) = socks(&proxy, &socks_name(name, port));
        assert_eq!(code, 0);
        expect_bytes(&client, b"host\n");
        finish(client).unwrap();
    }
    let mut routes: Vec<_> = log.records(2).iter().map(|record| record["route"].clone()).collect();
    routes.sort_unstable_by_key(Value::to_string);
    assert_eq!(routes, ["wide".into(), Value::Null]);
}

#[test]
fn one_port_serves_tunnels_and_other_protocols() {
    let (dns, host, web) = (Dns::new(), Recorder::start("host"), Backend::echo());
    dns.set_addresses(NAME, &[host.address.ip()]);
    let (port, resolver) = (host.address.port(), dns.address);
    let layout = |detect: &str| {
        format!(
            "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\nprotocol = 'auto'\n\
             detect = {{ http = 'web', other = 'web', {detect} }}\n[pool.web]\nbackends = ['{}']\nhealth.check = 'off'\n\
             [pool.egress.forward]\nto = 'requested'\nallow = '{NAME}'\nports = {port}\nresolvers = '{resolver}'\n{LOOPBACK}\n",
            web.address
        )
    };
    let proxy = Proxy::start(config(&layout("socks5 = 'egress', connect = 'egress'")));
    let (client, code) = socks(&proxy, &socks_name(NAME, port));
    assert_eq!(code, 0);
    expect_bytes(&client, b"host\n");
    let (client, status) = connect(&proxy, &connect_head(&format!("{NAME}:{port}")));
    assert_eq!(status, "200");
    expect_bytes(&client, b"host\n");
    assert_eq!(connect(&proxy, &connect_head("other.test:1")).1, "403");
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    expect_bytes(&client, b"GET / HTTP/1.1\r\n\r\n");
    // Without these keys such clients are clients of the other protocols.
    let unused = "socks5 = 'reject', connect = 'reject'";
    let text = layout(unused).split("[pool.egress").next().unwrap().to_owned();
    let proxy = Proxy::start(config(&text));
    for head in [connect_head("a.test:443"), vec![5, 1, 0]] {
        let mut client = proxy.connect();
        client.write_all(&head).unwrap();
        expect_bytes(&client, &head);
    }
}

#[test]
fn rules_that_only_report_refuse_nobody_but_inner_hosts() {
    let (dns, host) = (Dns::new(), Recorder::start("host"));
    dns.set_addresses("other.test", &[host.address.ip()]);
    dns.set_addresses("inner.test", &["10.0.0.1".parse().unwrap()]);
    let port = host.address.port();
    let log = Log::new();
    let text = text("connect", &dns, port, "mode = 'report'\nallow_private = '127.0.0.1'", "");
    let proxy = Proxy::start(config(&text.replace("'off'", &format!("'{}'", log.0.display()))));
    let (client, status) = connect(&proxy, &connect_head(&format!("other.test:{port}")));
    assert_eq!(status, "200");
    expect_bytes(&client, b"host\n");
    finish(client).unwrap();
    let record = log.records(1).remove(0);
    assert_eq!((&record["host"], &record["port"]), (&"other.test".into(), &port.into()));
    assert_eq!((&record["reported"], &record["sni"]), (&"name_not_allowed".into(), &Value::Null));
    assert_eq!(record["backend_address"], host.address.to_string());
    assert_eq!(connect(&proxy, &connect_head(&format!("inner.test:{port}"))).1, "403");
    let record = log.records(2).remove(1);
    assert_eq!((&record["close"], &record["host"]), (&"address_refused".into(), &"inner.test".into()));
}

#[test]
fn a_client_that_leaves_before_the_answer_is_gone() {
    let dns = Dns::new();
    dns.set_answer(NAME, DnsAnswer::Silence);
    let proxy = start("connect", &dns, 443, "", "");
    let mut client = proxy.connect();
    client.write_all(&connect_head("api.test:443")).unwrap();
    wait_for("a question", || dns.questions() > 0);
    drop(client);
    proxy.wait_for_metric(&closed("client_gone"), 1.0);
}

#[test]
fn tunnels_are_served_on_a_unix_socket() {
    let (dns, _host, port) = host_with_name();
    let path = std::env::temp_dir().join(format!("pointsman-tunnels-{}.sock", std::process::id()));
    let text = text("connect", &dns, port, LOOPBACK, "");
    let _proxy = Proxy::start(config(&text.replace("127.0.0.1:0", &format!("unix:{}", path.display()))));
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.write_all(&connect_head(&format!("{NAME}:{port}"))).unwrap();
    let mut answer = vec![0; GRANTED.len() + 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [GRANTED, b"host\n"].concat());
}

/// A file for the access log; it is removed when dropped.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("pointsman-tunnels-{}-{number}.log", std::process::id())))
    }

    /// Returns the records, once there are `count` of them.
    fn records(&self, count: usize) -> Vec<Value> {
        let read = || fs::read_to_string(&self.0).unwrap_or_default();
        wait_for("the records", || read().ends_with('\n') && read().lines().count() >= count);
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
