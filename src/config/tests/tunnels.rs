//! Listeners whose clients request tunnels, and the pools that forward to requested hosts.

use std::time::Duration;

use super::{check, good};
use crate::pool::{ForwardTo, HostPattern, RuleMode};
use crate::snapshot::{HelloSpec, OpeningSpec, ProtocolSpec, TargetSpec, TunnelOpening};

/// Returns a listener on loopback with these keys, and a pool with this `forward`.
fn whole(protocol: &str, listener: &str, forward: &str) -> String {
    format!(
        "[listener.out]\nbind = '127.0.0.1:1080'\nprotocol = '{protocol}'\n{listener}\n\
         [pool.egress]\nforward = {{ to = 'requested', {forward} }}\n"
    )
}

fn check_listener(protocol: &str, listener: &str, expected: &[&str]) {
    check(&whole(protocol, listener, "allow = 'a.test'"), expected);
}

fn check_forward(forward: &str, expected: &[&str]) {
    check(&whole("socks5", "pool = 'egress'", forward), expected);
}

#[test]
fn a_listener_for_tunnels() {
    let listener = |protocol: &str, keys: &str| {
        let config = good(&whole(protocol, keys, "allow = 'a.test'"));
        config.listeners[0].policy.protocol.clone()
    };
    let socks = |reads_version_4| TunnelOpening::Socks { reads_version_4 };
    for (protocol, keys, expected) in [
        ("socks5", "", socks(false)),
        ("socks5", "legacy = true", socks(true)),
        ("connect", "", TunnelOpening::Connect),
    ] {
        let found = listener(protocol, &format!("pool = 'egress'\n{keys}"));
        let ProtocolSpec::Tunnel { opening, pool, routes, hello } = found else { panic!("{protocol}") };
        assert_eq!((opening, &*pool, routes.len()), (expected, "egress", 0));
        assert_eq!(hello, HelloSpec::default());
    }
    let found = listener("connect", "pool = 'egress'\nhello_timeout = '1s'");
    let ProtocolSpec::Tunnel { hello, .. } = found else { panic!("a tunnel") };
    assert_eq!(hello.hello_timeout, Duration::from_secs(1));
}

#[test]
fn keys_of_other_listeners_are_refused() {
    check_listener("socks5", "", &["C0105"]);
    check_listener("connect", "pool = 'egress'\nlegacy = true", &["C0308"]);
    check_listener("connect", "pool = 'egress'\nunmatched = 'reject'", &["C0308"]);
    check_listener("socks5", "pool = 'egress'\nno_sni = 'reject'", &["C0308"]);
    check_listener("socks5", "pool = 'egress'\ndeny_ja4 = 't13d*'", &["C0308"]);
    check_listener("socks5", "pool = 'egress'\nhello_max_size = 16384", &["C0308"]);
    check_listener("socks5", "pool = 'egress'\ndetect = { ssh = 'reject' }", &["C0308"]);
    check_listener("socks", "pool = 'egress'", &["C0201"]);
}

#[test]
fn routes_have_names_and_addresses() {
    let routes = |routes: &str, expected: &[&str]| {
        check_listener("connect", &format!("pool = 'egress'\nroutes = [{routes}]"), expected);
    };
    routes("{ sni = '*.a.test', pool = 'egress' }", &[]);
    routes("{ sni_regex = '^x', pool = 'egress', source = '10.0.0.0/8' }", &[]);
    routes("{ source = '10.0.0.0/8', action = 'reject' }", &[]);
    routes("{ sni = 'a.test', alpn = 'h2', pool = 'egress' }", &["C0308"]);
    routes("{ sni = 'a.test', tls_min = '1.2', pool = 'egress' }", &["C0308"]);
    routes("{ pool = 'egress' }", &["C0105"]);
}

#[test]
fn clients_that_request_hosts_go_to_pools_that_forward_to_them() {
    let backends = "[pool.b]\nbackends = ['10.0.0.1:1']\n";
    let sni = "[pool.b]\nforward = { allow = 'a.test' }\n";
    for pool in [backends, sni] {
        let listener = "[listener.out]\nbind = '127.0.0.1:1'\nprotocol = 'socks5'\npool = 'b'\n";
        check(&format!("{listener}{pool}"), &["C0344"]);
    }
    let requested = "[pool.b]\nforward = { to = 'requested', allow = 'a.test' }\n";
    let others = |listener: &str| {
        check(&format!("[listener.out]\nbind = '127.0.0.1:1'\n{listener}\n{requested}"), &["C0343"])
    };
    others("pool = 'b'");
    others("protocol = 'tls'\nunmatched = 'b'");
    others("protocol = 'tls'\nno_sni = 'b'");
    others("protocol = 'tls'\nroutes = [{ sni = 'a.test', pool = 'b' }]");
    others("protocol = 'auto'\ndetect.http = 'b'");
    others("protocol = 'postgres'\nplaintext = 'b'\ncancel = 'reject'");
}

#[test]
fn tunnels_on_a_port_with_other_protocols() {
    let text = |detect: &str| {
        format!(
            "[listener.out]\nbind = '127.0.0.1:1'\nprotocol = 'auto'\ndetect = {{ {detect} }}\n\
             [pool.egress]\nforward = {{ to = 'requested', allow = 'a.test' }}\n"
        )
    };
    let config = good(&text("socks5 = 'egress', connect = 'egress'"));
    let OpeningSpec::Detect(detect) = &config.listeners[0].policy.opening else { panic!("auto") };
    assert_eq!([&detect.socks5, &detect.connect], [&TargetSpec::Pool("egress".into()); 2]);
    assert_eq!(detect.http, TargetSpec::Reject);
    check(
        &format!("{}[pool.b]\nbackends = ['10.0.0.1:1']\n", text("socks5 = 'egress', connect = 'b'")),
        &["C0344"],
    );
}

#[test]
fn rules_of_requested_hosts() {
    let config = good(&whole(
        "socks5",
        "pool = 'egress'",
        "allow = ['*.a.test', 'b.test'], deny = 'x.a.test', allow_networks = ['192.0.2.0/24', '2001:db8::1'], \
         deny_networks = '192.0.2.9', ports = [443, '8000-8100'], mode = 'report', verify_sni = true",
    )
    .replace("'127.0.0.1:1080'", "'unix:/run/socks'"));
    let forward = config.pools[0].forward.as_ref().unwrap();
    assert_eq!((forward.to, forward.verify_sni), (ForwardTo::Requested, true));
    let rules = &forward.rules;
    assert_eq!((&rules.ports[..], rules.mode), (&[443..=443, 8000..=8100][..], RuleMode::Report));
    assert_eq!((rules.allow.len(), rules.deny.len()), (2, 1));
    assert_eq!((rules.allow_networks.len(), rules.deny_networks.len()), (2, 1));
    let ports = |keys: &str| {
        good(&whole("connect", "pool = 'egress'", keys)).pools[0].forward.clone().unwrap().rules.ports
    };
    assert_eq!(ports("allow = 'a.test'"), [443..=443]);
    assert_eq!(ports("allow = 'a.test', ports = '80'"), [80..=80]);
    let any = good(&whole("connect", "pool = 'egress'", "allow = '*'")).pools[0].forward.clone().unwrap();
    assert_eq!(any.rules.allow, [HostPattern::Any]);
}

#[test]
fn rules_with_faults() {
    check_forward("allow_networks = '192.0.2.0/24'", &[]);
    check_forward("ports = 443", &["C0105"]);
    check_forward("allow = []", &["C0105"]);
    check_forward("allow = 'a.test', ports = []", &["C0105"]);
    check_forward("allow = 'a.test', deny = []", &["C0105"]);
    check_forward("allow = 'a.test', port = 443", &["C0308"]);
    check_forward("allow = '*.*'", &["C0205"]);
    check_forward("allow = '10.0.0.1'", &["C0205"]);
    check_forward("allow = 'a.test', allow_networks = '10.0.0.1/8'", &["C0240"]);
    for ports in ["0", "65536", "'443-80'", "'0-80'", "'1-65536'", "'https'", "'-1'", "'1-2-3'", "-1"] {
        check_forward(&format!("allow = 'a.test', ports = {ports}"), &["C0203"]);
    }
    check_forward("allow = 'a.test', ports = true", &["C0104"]);
}

/// Checks a listener that others can reach.
fn check_open(listener: &str, forward: &str, expected: &[&str]) {
    check(&whole("connect", listener, forward).replace("127.0.0.1:1080", "10.0.0.1:3128"), expected);
}

#[test]
fn an_open_proxy_is_a_fault() {
    let open = &["C0345"];
    check_open("pool = 'egress'", "allow = '*'", open);
    check_open("pool = 'egress'", "allow = ['a.test', '*']", open);
    check_open("pool = 'egress'", "allow = 'a.test', allow_networks = '0.0.0.0/0'", open);
    check_open("pool = 'egress'", "allow = 'a.test', allow_networks = '::/0'", open);
    check_open("pool = 'egress'", "allow = 'a.test', mode = 'report'", open);
    check_open("pool = 'egress'\ndeny = '192.0.2.0/24'", "allow = '*'", open);
    check_open("pool = 'egress'", "allow = '*.a.test'", &[]);
    check_open("pool = 'egress'\nallow = '10.0.0.0/8'", "allow = '*'", &[]);
    check(&whole("connect", "pool = 'egress'", "allow = '*'"), &[]);
    let narrow = "[pool.narrow]\nforward = { to = 'requested', allow = 'a.test' }\n[pool.egress]";
    let routed = |route: &str| {
        whole(
            "connect",
            &format!("pool = 'narrow'\nroutes = [{{ {route}, pool = 'egress' }}]"),
            "allow = '*'",
        )
        .replace("127.0.0.1:1080", "10.0.0.1:3128")
        .replace("[pool.egress]", narrow)
    };
    check(&routed("sni = '*.a.test'"), open);
    check(&routed("source = '10.0.0.0/8'"), &[]);
    let auto = "[listener.out]\nbind = ':1'\nprotocol = 'auto'\ndetect.connect = 'egress'\n";
    check(&format!("{auto}[pool.egress]\nforward = {{ to = 'requested', allow = '*' }}\n"), open);
}
