//! Tests of written addresses.

use super::*;

/// Checks a pool with these backends.
#[track_caller]
fn check_backends(backends: &str, expected: &[&str]) {
    check(
        &format!("[listener.db]\nbind = ':5432'\npool = 'db'\n[pool.db]\nbackends = [{backends}]"),
        expected,
    );
}

#[test]
fn backends_are_hosts() {
    check_backends("'127.0.0.1:1', '[::1]:1', '[fe80::1%2]:1', '[fe80::1%eth0]:1', 'unix:/x'", &[]);
    for address in
        ["0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1%2]:80", "255.255.255.255:80", "[fe80::1]:80"]
    {
        check_backends(&format!("'{address}'"), &["C0204"]);
        check_backends(&format!("'10.0.0.1:80', {{ name = 'b', address = '{address}' }}"), &["C0204"]);
    }
    let [fault] = &diagnostics(
        "[listener.db]\nbind = ':5432'\npool = 'db'\n[pool.db]\nbackends = ['[fe80::1]:80']",
    )[..] else {
        panic!("one fault")
    };
    assert!(fault.labels[0].text.contains("[fe80::1%eth0]:443"), "{fault:?}");
}

#[test]
fn an_ipv4_mapped_address_is_that_of_ipv4() {
    check_backends("'127.0.0.1:80', '[::ffff:127.0.0.1]:80'", &["C0306"]);
    let config =
        good("[listener.db]\nbind = ':5432'\npool = 'db'\n[pool.db]\nbackends = ['[::ffff:10.0.0.1]:80']");
    assert_eq!(config.pools[0].backends[0].address.to_string(), "10.0.0.1:80");
    assert_eq!(&*config.pools[0].backends[0].name, "10.0.0.1:80");
}

#[test]
fn binds_are_addresses_of_a_host() {
    let bind = |address: &str| {
        format!("[listener.db]\nbind = '{address}'\npool = 'db'\n[pool.db]\nbackends = ['10.0.0.1:1']")
    };
    for address in ["0.0.0.0:1", "[::]:1", "[fe80::1%eth0]:1", "[fe80::1%3]:1", ":1", "unix:/x"] {
        check(&bind(address), &[]);
    }
    for address in ["[fe80::1]:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1", "[::ffff:10.0.0.1]:1"] {
        check(&bind(address), &["C0204"]);
    }
    let admin =
        |address: &str| format!("[admin]\nlisten = '{address}'\ntoken_file = '/t'\n{}", whole("", "", ""));
    check(&admin("[fe80::1]:9"), &["C0204"]);
    let config = diagnostics(&admin("[fe80::1%eth0]:9"));
    assert!(config.iter().all(|found| found.code != Code::BadAddress), "{config:?}");
}

#[test]
fn targets_of_checks_are_hosts() {
    for key in ["health", "agent"] {
        let of = |address: &str| format!("{key} = {{ address = '{address}', port = 5 }}");
        let written = |address: &str| format!("{key} = {{ address = '{address}' }}");
        check(&whole("", &of("10.0.0.9"), ""), &[]);
        check(&whole("", &written("[fe80::1%eth0]:5"), ""), &[]);
        check(&whole("", &of("0.0.0.0"), ""), &["C0204"]);
        check(&whole("", &of("fe80::1"), ""), &["C0204"]);
        check(&whole("", &written("224.0.0.1:5"), ""), &["C0204"]);
    }
}

#[test]
fn the_command_line_takes_the_same() {
    let with = |listen: &str, backend: &str| one_liner(&[listen.to_owned()], &[backend.to_owned()]);
    assert!(with(":1", "[fe80::1%eth0]:2").is_ok());
    assert!(with("[fe80::1%eth0]:1", "10.0.0.1:2").is_ok());
    assert!(with(":1", "[fe80::1]:2").is_err());
    assert!(with(":1", "0.0.0.0:2").is_err());
}

/// Returns a listener with this `bind`, and a pool with these backends and keys.
fn ranged(bind: &str, backends: &str, keys: &str) -> String {
    format!("[listener.db]\nbind = {bind}\npool = 'db'\n[pool.db]\nbackends = [{backends}]\n{keys}\n")
}

#[test]
fn a_range_of_ports_is_all_of_its_addresses() {
    let off = "health.check = 'off'";
    let binds = |bind: &str| good(&ranged(bind, "'10.0.0.1'", off)).listeners.remove(0).binds;
    let texts = |bind: &str| binds(bind).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts("'10.0.0.9:1-3'"), ["10.0.0.9:1", "10.0.0.9:2", "10.0.0.9:3"]);
    assert_eq!(texts("':1-2'"), ["0.0.0.0:1", "0.0.0.0:2", "[::]:1", "[::]:2"]);
    assert_eq!(texts("'[2001:db8::1]:8-9'"), ["[2001:db8::1]:8", "[2001:db8::1]:9"]);
    assert_eq!(texts("['[::]:8-9', '10.0.0.9:1']"), ["[::]:8", "[::]:9", "10.0.0.9:1"]);
    assert_eq!(binds("':30000-30999'").len(), 2000);
    let config = good(&ranged("':1-2'", "'10.0.0.1', '[2001:db8::7]', '2001:db8::8'", off));
    assert_eq!(config.listeners[0].ports_of_any_family, [1, 2]);
    let names: Vec<_> = config.pools[0].backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["10.0.0.1", "2001:db8::7", "2001:db8::8"]);
    for bind in ["':30000-31000'", "':2-1'", "':0-1'", "':1-70000'", "':1-1'", "'x:1-2'", "'224.0.0.1:1-2'"] {
        check(&ranged(bind, "'10.0.0.1:5'", ""), &["C0204"]);
        // The range is the fault; whether the backend needs a port depends on its correction.
        check(&ranged(bind, "'10.0.0.1'", off), &["C0204"]);
        check(&ranged(&format!("[{bind}, ':5']"), "'10.0.0.1'", off), &["C0204"]);
    }
    check(&ranged("[':1-9', '10.0.0.9:9']", "'10.0.0.1'", off), &[]);
    check(&ranged("[':1-9', '0.0.0.0:9']", "'10.0.0.1'", off), &["C0307"]);
}

#[test]
fn backends_without_a_port_need_a_range_of_ports() {
    let off = "health.check = 'off'";
    check(&ranged("':1'", "'10.0.0.1'", off), &["C0204"]);
    check(&ranged("':1-2'", "'10.0.0.1'", off), &[]);
    check(&ranged("':1-2'", "'10.0.0.1', { address = '10.0.0.2', weight = 2 }, '10.0.0.3:5'", off), &[]);
    // The port of checks cannot be the port of a client.
    check(&ranged("':1-2'", "'10.0.0.1', '10.0.0.2'", ""), &["C0105"]);
    check(&ranged("':1'", "'db1'", off), &["C0204"]);
    check(&ranged("':1-2'", "'db1', 'db2.internal.', { address = 'db3', weight = 2 }, 'db1:5'", off), &[]);
    check(&ranged("':1-2'", "'db1', 'db2'", ""), &["C0105"]);
    check(&ranged("':1-2'", "'db1'", "health = { port = 9 }"), &[]);
    check(&ranged("':1-2'", "'db1'", "health = { address = 'probe' }"), &["C0105"]);
    check(&ranged("':1-2'", "'db1'", "health = { address = 'probe:9' }"), &[]);
    check(&ranged("':1-2'", "'10.0.0.300'", off), &["C0204"]);
    check(&ranged("':1-2'", "'10.0.0.1', '10.0.0.2'", "health = { port = 9 }"), &[]);
    check(&ranged("':1-2'", "{ address = '10.0.0.1', health = { port = 9 } }", ""), &[]);
    check(&ranged("':1-2'", "'10.0.0.1'", "health.check = 'off'\nagent = { interval = '1s' }"), &["C0105"]);
    check(&ranged("[':1-2', 'unix:/s']", "'10.0.0.1'", off), &["C0204"]);
    check(&ranged("':1-2'", "'[2001:db8::1:8]'", off), &[]);
    for address in ["2001:db8::1:8", "0.0.0.0", "::", "224.0.0.1", "fe80::1", "[::1", "10.0.0"] {
        check(&ranged("':1-2'", &format!("'{address}'"), off), &["C0204"]);
    }
    // The backend would be the listener itself.
    check(&ranged("':1-2'", "'127.0.0.1'", off), &["C0314"]);
    check(&ranged("'10.0.0.9:1-2'", "'10.0.0.9'", off), &["C0314"]);
    check(&ranged("'10.0.0.9:1-2'", "'127.0.0.1'", off), &[]);
}
