//! Tests of backends that are listeners of the same file.

use super::*;

/// Returns a `tcp` listener and its pool.
fn chain(name: &str, bind: &str, backends: &str) -> String {
    format!("[listener.{name}]\nbind = '{bind}'\npool = '{name}'\n[pool.{name}]\nbackends = [{backends}]\n")
}

/// Returns a `tls` listener with these routes and other targets, without pools.
fn tls(name: &str, bind: &str, keys: &str) -> String {
    format!("[listener.{name}]\nbind = '{bind}'\nprotocol = 'tls'\n{keys}\n")
}

fn pool(name: &str, backends: &str) -> String {
    format!("[pool.{name}]\nbackends = [{backends}]\n")
}

#[test]
fn a_listener_as_its_own_backend_is_a_fault() {
    check(&chain("a", "127.0.0.1:1", "'127.0.0.1:1'"), &["C0314"]);
    check(&chain("a", "127.0.0.1:1", "'10.0.0.1:1', '[::ffff:127.0.0.1]:1'"), &["C0314"]);
    check(&chain("a", ":1", "'127.0.0.1:1'"), &["C0314"]);
    check(&chain("a", ":1", "'127.9.9.9:1'"), &["C0314"]);
    check(&chain("a", ":1", "'[::1]:1'"), &["C0314"]);
    check(&chain("a", "unix:/a", "'unix:/a'"), &["C0314"]);
    check(&chain("a", "[fe80::1%eth0]:1", "'[fe80::1%eth0]:1'"), &["C0314"]);
    // The backend has another family, port, path, address or link.
    check(&chain("a", "0.0.0.0:1", "'[::1]:1'"), &[]);
    check(&chain("a", ":1", "'127.0.0.1:2'"), &[]);
    check(&chain("a", "unix:/a", "'unix:/b'"), &[]);
    check(&chain("a", "127.0.0.2:1", "'127.0.0.1:1'"), &[]);
    check(&chain("a", "[fe80::1%eth0]:1", "'[fe80::1%eth1]:1'"), &[]);
    // The addresses of the host are not known here.
    check(&chain("a", ":1", "'10.0.0.1:1'"), &[]);
    // The port is the kernel's choice.
    check(&chain("a", "127.0.0.1:0", "'127.0.0.1:1'"), &[]);
}

#[test]
fn a_chain_is_not_a_cycle() {
    let two = |last: &str| chain("a", ":1", "'127.0.0.1:2'") + &chain("b", ":2", last);
    check(&two("'10.0.0.1:1'"), &[]);
    // Both pools lead back to themselves.
    check(&two("'127.0.0.1:1'"), &["C0314", "C0314"]);
    let three = chain("a", ":1", "'127.0.0.1:2'")
        + &chain("b", ":2", "'127.0.0.1:3'")
        + &chain("c", ":3", "'[::1]:1'");
    let told = diagnostics(&three);
    assert_eq!(told.len(), 3, "{told:?}");
    let label = &told[0].labels[0].text;
    assert_eq!(
        label,
        "listener `b` -> pool `b` -> 127.0.0.1:3 -> listener `c` -> pool `c` -> [::1]:1 -> listener `a` -> pool `a` -> \
         127.0.0.1:2 -> listener `b`"
    );
    // A path that only leads into a cycle is not a cycle.
    let tail = chain("z", ":9", "'127.0.0.1:1'") + &two("'10.0.0.1:1'");
    check(&tail, &[]);
}

#[test]
fn names_decide_whether_a_cycle_is_certain() {
    let route = |name: &str, pool: &str| format!("{{ sni = '{name}', pool = '{pool}' }}");
    // The same hello matches the same route again.
    let own = |keys: &str| tls("a", ":1", keys) + &pool("p", "'127.0.0.1:1'");
    check(&own(&format!("routes = [{}]", route("x.test", "p"))), &["C0314"]);
    check(&own("unmatched = 'p'"), &["C0314"]);
    // The split may choose the other pool at the second pass.
    let split = "routes = [{ sni = 'x.test', split = [{ pool = 'p' }, { pool = 'q' }] }]";
    check(&(own(split) + &pool("q", "'10.0.0.1:1'")), &["C0411"]);
    check(&own("no_sni = 'p'"), &["C0314"]);
    check(&own("routes = [{ sni = 'x.test', source = '10.0.0.0/8', pool = 'p' }]"), &["C0411"]);
    let two = |first: &str, second: &str| {
        tls("a", ":1", first)
            + &tls("b", ":2", second)
            + &pool("p", "'127.0.0.1:2'")
            + &pool("q", "'127.0.0.1:1'")
    };
    let routes = |name: &str, pool: &str| format!("routes = [{}]", route(name, pool));
    check(&two(&routes("x.test", "p"), &routes("x.test", "q")), &["C0314", "C0314"]);
    check(&two(&routes("x.test", "p"), &routes("y.test", "q")), &["C0411", "C0411"]);
    check(&two(&routes("x.test", "p"), "unmatched = 'q'"), &["C0411", "C0411"]);
    check(&two("unmatched = 'p'", "unmatched = 'q'"), &["C0314", "C0314"]);
    // A cycle through a `tcp` listener.
    let by_tcp = tls("a", ":1", &routes("x.test", "p"))
        + &pool("p", "'127.0.0.1:2'")
        + &chain("b", ":2", "'127.0.0.1:1'");
    check(&by_tcp, &["C0314", "C0314"]);
}

/// The start finds cycles that `check` cannot find, with the addresses of a host.
#[test]
fn the_addresses_of_a_host_decide_at_its_start() {
    let config = good(&chain("a", ":1", "'10.0.0.1:1'"));
    let cycle = |host: &[&str], address: &str| {
        let host: Vec<std::net::IpAddr> = host.iter().map(|ip| ip.parse().unwrap()).collect();
        let graph = cycles::Graph::new(&config.listeners, &config.pools, &host);
        graph.cycle("a", &address.parse().unwrap()).map(|cycle| cycle.to_string())
    };
    let told = "listener `a` -> pool `a` -> 10.0.0.1:1 -> listener `a`";
    assert_eq!(cycle(&["10.0.0.1"], "10.0.0.1:1").as_deref(), Some(told));
    assert_eq!(cycle(&["10.0.0.2", "fe80::1"], "10.0.0.1:1"), None);
    assert_eq!(cycle(&["10.0.0.1"], "10.0.0.1:2"), None);
}

#[test]
fn a_backend_without_a_port_has_none_in_its_cycle() {
    let text = chain("a", "127.0.0.1:30000-30002", "'127.0.0.1'") + "health.check = 'off'\n";
    let told = diagnostics(&text);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].message, "backend 127.0.0.1 of pool `a` leads back to the pool itself");
    let way = "listener `a` -> pool `a` -> 127.0.0.1 -> listener `a`";
    assert_eq!(told[0].labels[0].text, way);
}

#[test]
fn the_command_line_has_cycles_too() {
    let faults = one_liner(&[":1".to_owned()], &["127.0.0.1:1".to_owned()]).unwrap_err();
    assert!(faults.to_string().contains("leads back"), "{faults}");
}
