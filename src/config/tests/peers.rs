//! Tests of the timeouts of peers: their values, and warnings about contradictions.

use super::*;

/// Returns the timeouts of a listener and of a pool with these keys, and ignores warnings.
fn both(keys: &str) -> PeerTimeouts {
    let parse = |text: &str| parse("test.toml", text).unwrap().0;
    let listener = parse(&whole(keys, "", "")).listeners[0].policy.relay;
    let pool = parse(&whole("", keys, "")).pools.remove(0).dial.peer_timeouts;
    assert_eq!(listener.client, *pool, "{keys}");
    // The keys of one side have no effect on the other.
    assert_eq!(*parse(&whole(keys, "", "")).pools[0].dial.peer_timeouts, PeerTimeouts::default());
    *pool
}

fn check_both(keys: &str, expected: &[&str]) {
    check_listener(keys, expected);
    check_pool(keys, expected);
}

#[test]
fn keepalive_follows_from_its_first_key() {
    let seconds = Duration::from_secs;
    let check = |keys: &str, expected: Option<(u64, u64, u32)>| {
        let expected = expected.map(|(idle, interval, count)| Keepalive {
            idle: seconds(idle),
            interval: seconds(interval),
            count,
        });
        assert_eq!(both(keys).keepalive, expected, "{keys}");
    };
    check("", Some((60, 15, 4)));
    check("keepalive = '10m'", Some((600, 150, 4)));
    check("keepalive = '4s'", Some((4, 1, 4)));
    check("keepalive = '8s'\nkeepalive_count = 7", Some((8, 2, 7)));
    check("keepalive_interval = '20s'", Some((60, 20, 4)));
    check("keepalive_count = 1", Some((60, 15, 1)));
    check("keepalive = 'off'", None);
    assert_eq!(both("").keepalive.map(|keepalive| keepalive.longest()), Some(seconds(120)));
}

#[test]
fn neither_a_user_timeout_nor_a_stall_timeout_is_set_by_default() {
    assert_eq!((both("").user_timeout, both("").stall_timeout), (None, None));
    let written = both("user_timeout = '2m'\nstall_timeout = '1m'");
    let seconds = Duration::from_secs;
    assert_eq!((written.user_timeout, written.stall_timeout), (Some(seconds(120)), Some(seconds(60))));
    assert_eq!(both("user_timeout = 'off'\nstall_timeout = 'off'"), both(""));
}

#[test]
fn contradictions_are_told() {
    check_both("keepalive = 'off'\nkeepalive_interval = '5s'\nkeepalive_count = 3", &["C0402", "C0402"]);
    check_both("keepalive = 'off'\nuser_timeout = '5s'", &[]);
    // The limit is 60 s plus four times 15 s.
    check_both("user_timeout = '119s'", &["C0403"]);
    check_both("user_timeout = '60s'", &["C0403"]);
    check_both("user_timeout = '120s'", &[]);
    check_both("keepalive = '20s'\nuser_timeout = '60s'", &[]);
    check_both("keepalive = '20s'\nkeepalive_count = 9\nuser_timeout = '60s'", &["C0403"]);
    check_both("keepalive_count = 3\nuser_timeout = '120s'", &["C0402"]);
    check_both("stall_timeout = '5m'", &[]);
    check_both("stall_timeout = '5m'\nuser_timeout = '5m'", &["C0402"]);
    check_both("stall_timeout = '5m'\nuser_timeout = '6m'", &[]);
    check_listener("stall_timeout = '1h'", &["C0402"]);
    check_listener("stall_timeout = '59m'", &[]);
    check_listener("stall_timeout = '5m'\nidle_timeout = '4m'", &["C0402"]);
    check_listener("stall_timeout = '5m'\nidle_timeout = '6m'", &[]);
    // A pool may serve listeners with several idle timeouts.
    check_pool("stall_timeout = '2h'", &[]);
}

#[test]
fn unix_sockets_have_neither_probes_nor_a_user_timeout() {
    let keys = "keepalive = '10s'\nkeepalive_count = 3\nuser_timeout = '5s'";
    let listener = |bind: &str| {
        format!("[listener.a]\nbind = [{bind}]\npool = 'a'\n{keys}\n[pool.a]\nbackends = ['10.0.0.1:1']")
    };
    check(&listener("'unix:/a'"), &["C0402", "C0402", "C0402"]);
    check(&listener("'unix:/a', ':2'"), &["C0403"]);
    check(&listener("'unix:/a'").replace("user_timeout", "stall_timeout"), &["C0402", "C0402"]);
    let pool = |backends: &str| {
        format!("[listener.a]\nbind = ':2'\npool = 'a'\n[pool.a]\nbackends = [{backends}]\n{keys}")
    };
    check(&pool("'unix:/b'"), &["C0402", "C0402", "C0402"]);
    check(&pool("'unix:/b', '10.0.0.1:1'"), &["C0403"]);
}

#[test]
fn one_lost_probe_is_named() {
    let label = |limit: &str| {
        let found = diagnostics(&whole(&format!("user_timeout = '{limit}'"), "", ""));
        found[0].labels[0].text.clone()
    };
    assert_eq!(label("75s"), "one lost probe closes an idle connection");
    assert_eq!(label("80s"), "an idle connection is closed after 1m 20s without an answer");
}
