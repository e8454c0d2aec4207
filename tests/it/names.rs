//! Host names among the backends: each of their addresses is a backend.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::config::{self, Config};
use pointsman::pool::Backend as PoolBackend;

use crate::support::dns::{Dns, DnsAnswer};
use crate::support::pair::connect_from;
use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

/// Starts `N` backends that answer each byte with their letter, at one port and several addresses.
fn lettered<const N: usize>() -> [SocketAddr; N] {
    let first = own_address();
    let mut letter = b'a'..;
    std::array::from_fn(|at| {
        let letter = letter.next().unwrap();
        let ip = if at == 0 { first.ip() } else { own_address().ip() };
        let address = SocketAddr::new(ip, first.port());
        Backend::serve_on(&address.to_string(), move |mut stream| {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&vec![letter; n]).is_err() {
                    return;
                }
            }
        })
        .address
    })
}

fn layout(dns: &Dns, backends: &str, keys: &str) -> Config {
    config(&format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nhealth.check = 'off'\nbackends = [{backends}]\n\
         resolve = {{ resolvers = '{}', min_ttl = '100ms', hold = '0s' }}\n{keys}\n",
        dns.address
    ))
}

/// Returns the backends of the pool, in order.
fn backends(proxy: &Proxy) -> Vec<Arc<PoolBackend>> {
    proxy.remote.view().snapshot.load().pools["main"].pool.backends().to_vec()
}

fn wait_for_names(proxy: &Proxy, expected: &[&str]) {
    wait_for(&format!("{expected:?}"), || {
        backends(proxy).iter().map(|backend| backend.name().to_string()).eq(expected.iter().copied())
    });
}

fn name(host: &str, address: SocketAddr) -> String {
    format!("{host}:{}/{}", address.port(), address.ip())
}

fn ask(stream: &mut TcpStream) -> char {
    stream.write_all(b"?").unwrap();
    let mut letter = [0];
    stream.read_exact(&mut letter).unwrap();
    letter[0].into()
}

#[test]
fn each_address_of_a_host_is_a_backend() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = lettered();
    let [one, two, three] = all;
    dns.set_addresses("db1.test", &[one.ip()]);
    dns.set_addresses("db2.test", &[three.ip(), two.ip()]);
    let port = one.port();
    let written = own_address();
    let list = format!(
        "'db1.test:{port}', {{ address = '{written}', weight = 0 }}, \
         {{ address = 'db2.test:{port}', name = 'second', weight = 7, backup = true, max_connections = 5 }}"
    );
    let proxy = Proxy::start(layout(&dns, &list, "balance = 'failover'"));
    let mut second =
        [name("second", two), name("second", three)].map(|name| name.replacen(&format!(":{port}"), "", 1));
    second.sort();
    let first = name("db1.test", one);
    wait_for_names(&proxy, &[&first, &written.to_string(), &second[0], &second[1]]);
    let found = backends(&proxy);
    assert_eq!((found[2].weight(), found[2].is_backup(), found[2].limit()), (7, true, Some(5)));
    assert_eq!((found[0].weight(), found[0].is_backup(), found[0].limit()), (1, false, None));
    assert_eq!(
        ask(&mut proxy.connect()),
        'a',
        "the start has waited for them, and they stand in written order"
    );
}

#[test]
fn another_number_of_addresses_renames_nothing_and_closes_nothing() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = lettered();
    let ips: Vec<IpAddr> = all.iter().map(SocketAddr::ip).collect();
    dns.set_addresses("db.test", &ips[..1]);
    let list = format!("'db.test:{}'", all[0].port());
    let proxy = Proxy::start(layout(&dns, &list, ""));
    let first = name("db.test", all[0]);
    wait_for_names(&proxy, &[&first]);
    let before = backends(&proxy);
    let mut open = proxy.connect();
    assert_eq!(ask(&mut open), 'a');
    for count in [3, 1, 2] {
        dns.set_addresses("db.test", &ips[..count]);
        let mut names: Vec<_> = all[..count].iter().map(|address| name("db.test", *address)).collect();
        names.sort();
        wait_for("the backends", || backends(&proxy).len() == count);
        wait_for_names(&proxy, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let now = backends(&proxy);
        assert!(now.iter().any(|backend| backend.is_same(&before[0])), "{count}: it is the same backend");
        assert_eq!(ask(&mut open), 'a', "{count}");
    }
}

/// Clients keep their backends by their hashes. The bound on other clients that move is that of Maglev
/// itself.
#[test]
fn clients_keep_their_backends_when_an_address_goes_and_returns() {
    const CLIENTS: u8 = 100;
    let dns = Dns::new();
    let all: [SocketAddr; 3] = lettered();
    let ips: Vec<IpAddr> = all.iter().map(SocketAddr::ip).collect();
    dns.set_addresses("db.test", &ips);
    let list = format!("'db.test:{}'", all[0].port());
    let proxy = Proxy::start(layout(&dns, &list, "balance = 'maglev'\nhash_on = 'source-ip'"));
    let backends_are = |count| wait_for("the backends", || backends(&proxy).len() == count);
    let letters = || -> Vec<char> {
        let client = |last| connect_from([127, 9, 0, last].into(), proxy.address("main"));
        (1..=CLIENTS).map(|last| ask(&mut client(last))).collect()
    };
    backends_are(3);
    let before = letters();
    assert!(['a', 'b', 'c'].iter().all(|letter| before.contains(letter)), "{before:?}");
    dns.set_addresses("db.test", &ips[..2]);
    backends_are(2);
    let without = letters();
    assert!(!without.contains(&'c'), "{without:?}");
    let moved = before.iter().zip(&without).filter(|(before, now)| **before != 'c' && before != now).count();
    assert!(moved <= 1, "{moved} clients of the addresses that stayed have moved");
    dns.set_addresses("db.test", &ips);
    backends_are(3);
    assert_eq!(letters(), before);
}

#[test]
fn a_name_that_does_not_resolve_leaves_the_others_alone() {
    let dns = Dns::new();
    let [a, b] = lettered();
    dns.set_addresses("db1.test", &[a.ip()]);
    dns.set_answer("db3.test", DnsAnswer::Code(2));
    let port = a.port();
    let list = format!("'db1.test:{port}', 'db2.test:{port}', 'db3.test:{port}'");
    let proxy = Proxy::start(layout(&dns, &list, ""));
    assert_eq!(ask(&mut proxy.connect()), 'a');
    let first = name("db1.test", a);
    wait_for_names(&proxy, &[&first]);
    dns.set_addresses("db2.test", &[b.ip()]);
    wait_for_names(&proxy, &[&first, &name("db2.test", b)]);
    let discovery = proxy.remote.view().snapshot.load().pools["main"].discovery.clone();
    wait_for("the faults", || {
        let faults: Vec<_> = discovery.iter().map(|source| source.fault().is_some()).collect();
        faults == [false, false, true]
    });
    dns.set_answer("db1.test", DnsAnswer::Code(3));
    wait_for("its fault", || discovery[0].fault().is_some());
    wait_for_names(&proxy, &[&first, &name("db2.test", b)]);
}

/// A start and a reload wait five seconds for the first backends of a pool. They do not wait for an
/// unanswered name beside others.
#[test]
fn a_silent_resolver_delays_no_pool_with_other_backends() {
    const LONGEST_WAIT: Duration = Duration::from_secs(5);
    let dns = Dns::new();
    let [a, b] = lettered();
    dns.set_answer("db1.test", DnsAnswer::Silence);
    dns.set_answer("db2.test", DnsAnswer::Silence);
    let began = Instant::now();
    let proxy = Proxy::start(layout(&dns, &format!("'{a}', 'db1.test:{}'", b.port()), ""));
    assert_eq!(ask(&mut proxy.connect()), 'a');
    assert!(began.elapsed() < LONGEST_WAIT, "the start waited {:?}", began.elapsed());
    let began = Instant::now();
    let more = format!("'{a}', 'db1.test:{0}', 'db2.test:{0}'", b.port());
    proxy.remote.reload(layout(&dns, &more, "")).unwrap();
    assert!(began.elapsed() < LONGEST_WAIT, "the reload waited {:?}", began.elapsed());
    dns.set_addresses("db2.test", &[b.ip()]);
    wait_for_names(&proxy, &[&a.to_string(), &name("db2.test", b)]);
}

#[test]
fn a_reload_changes_what_is_written_of_a_host() {
    let dns = Dns::new();
    let [a, b] = lettered();
    dns.set_addresses("db.test", &[a.ip(), b.ip()]);
    let list = |more: &str| format!("{{ address = 'db.test:{}'{more} }}", a.port());
    let proxy = Proxy::start(layout(&dns, &list(""), ""));
    let mut names = [name("db.test", a), name("db.test", b)];
    names.sort();
    let names = [&*names[0], &names[1]];
    wait_for_names(&proxy, &names);
    let before = backends(&proxy);
    dns.set_answer("db.test", DnsAnswer::Silence);
    proxy.remote.reload(layout(&dns, &list(", weight = 3, state = 'drain'"), "attempts = 2")).unwrap();
    wait_for_names(&proxy, &names);
    let now = backends(&proxy);
    assert!(now.iter().zip(&before).all(|(now, before)| now.is_same(before) && now.weight() == 3));
    wait_for("the state", || now.iter().all(|backend| backend.state().word() == "draining"));
}

#[test]
fn sources_are_followed_side_by_side() {
    let dns = Dns::new();
    let all: [SocketAddr; 3] = lettered();
    let port = all[0].port();
    dns.set_addresses("a.test", &[all[0].ip()]);
    dns.set_addresses("b.test", &[all[1].ip(), all[0].ip()]);
    let resolver = dns.address;
    let source = |name: &str| {
        format!("{{ dns = '{name}.', port = {port}, resolvers = '{resolver}', min_ttl = '100ms' }}")
    };
    let text = format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n[pool.main]\n\
         health.check = 'off'\ndiscover = [{}, {}]\n",
        source("a.test"),
        source("b.test")
    );
    let (proxy, admin) = Proxy::start_with_admin(config(&text));
    let (one, two) = (all[0].to_string(), all[1].to_string());
    wait_for_names(&proxy, &[&one, &two]);
    dns.set_addresses("a.test", &[all[2].ip()]);
    wait_for("the third", || backends(&proxy).len() == 3);
    dns.set_answer("a.test", DnsAnswer::Code(3));
    let (_, text) = pointsman::admin::ask(admin, "/metrics", PATIENCE).unwrap();
    assert!(text.contains("pointsman_discovery_backends{pool=\"main\"} 3"), "one series for all sources");
}

#[test]
fn a_command_line_takes_host_names() {
    let lines = |backends: &[&str]| {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        config::one_liner(&owned(&[":5432"]), &owned(backends))
    };
    assert_eq!(lines(&["db1:5432", "10.0.0.1:5432"]).unwrap().pools[0].written(), 2);
    assert!(lines(&["db1"]).is_err());
}
