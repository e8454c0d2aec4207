//! Tests of pools: their backends, discovery, zones and forwarding.

use super::*;
use crate::pool::CheckHeader;

/// Checks a pool of two backends with these tables.
fn check_two(backends: &str, keys: &str, expected: &[&str]) {
    check_others(
        &format!("[pool.x]\nbackends = [{backends}]\n{keys}\n[listener.x]\nbind = ':1'\npool = 'x'"),
        expected,
    );
}

#[test]
fn states_of_backends() {
    const TWO: &str = "'10.0.0.1:1', '10.0.0.2:1'";
    check_two(TWO, "ejection = {}", &[]);
    check_two(TWO, "ejection = { base_time = '10m' }", &[]);
    check_two(TWO, "ejection = { max_time = '29s' }", &["C0311"]);
    check_two(TWO, "ejection = { base_time = '2s', max_time = '1s' }", &["C0311"]);
    check_two(TWO, "ejection = { max_ejected = 0, consecutive_failures = 0 }", &["C0203", "C0203"]);
    check_two(TWO, "ejection = { max_ejection = 5 }", &["C0102"]);
    check_two(TWO, "ejection = true", &["C0104"]);
    check_two("'10.0.0.1:1'", "ejection = {}", &["C0402"]);
    check_two("'10.0.0.1:1'", "ejection = {}\ndiscover.file = 'more.json'", &[]);
    check_two(TWO, "on_down = 'close'\nclose_rate = 5", &[]);
    check_two(TWO, "on_down = 'close'\nhealth.check = 'off'", &["C0402"]);
    check_two(TWO, "on_down = 'close'\nhealth.check = 'off'\nagent.port = 9", &[]);
    check_two(TWO, "panic_threshold = '5%'\nhealth.check = 'off'", &["C0402"]);
    check_two(TWO, "panic_threshold = '5%'\nhealth.check = 'off'\nejection = {}", &[]);
    check_two(TWO, "on_down = 'kill'", &["C0201"]);
    check_two(TWO, "close_rate = 5", &["C0402"]);
    check_two(TWO, "on_down = 'keep'\nclose_rate = 5", &["C0402"]);
    let two = |one: &str, other: &str| {
        format!("{{ address = '10.0.0.1:1', {one} }}, {{ address = '10.0.0.2:1', {other} }}")
    };
    check_two(&two("state = 'drain'", "state = 'ready'"), "", &[]);
    check_two(&two("state = 'drain'", "state = 'maintenance'"), "", &["C0410"]);
    check_two(&two("state = 'drain'", "weight = 0"), "", &["C0410"]);
    check_two(&two("state = 'down'", "state = 'maint'"), "", &["C0201", "C0201"]);
    let pool = |keys: &str| {
        let mut config =
            good(&format!("[listener.x]\nbind = ':1'\npool = 'x'\n[pool.x]\nbackends = [{TWO}]\n{keys}"));
        config.pools.remove(0)
    };
    assert_eq!(pool("ejection = {}").ejection, Some(EjectionSpec::default()));
    assert_eq!(pool("ejection.base_time = '1h'").ejection.unwrap().max_time, Duration::from_secs(3600));
    assert_eq!(pool("on_down = 'close'").on_down, OnDown::Close { rate: 100 });
}

#[test]
fn tiers_and_queues() {
    /// Checks a whole configuration of a node with these keys, and two backends: one in zone `a`, one in `b`.
    fn check_zones(node: &str, pool: &str, expected: &[&str]) {
        let backends = "[{ address = '10.0.0.1:1', zone = 'a' }, { address = '10.0.0.2:1', zone = 'b' }]";
        let text =
            format!("{node}\n[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = {backends}\n{pool}");
        check(&text, expected);
    }
    check_zones("zone = 'a'", "", &[]);
    check_zones("zones = ['b', 'a']", "", &[]);
    check_zones("zone = 'a'\nzones = ['a', 'b']", "", &[]);
    check_zones("", "zones = ['b']", &[]);
    check_zones("", "", &["C0402"]);
    check_zones("zone = 'c'", "", &["C0320"]);
    check_zones("zone = 'a'\nzones = ['c', 'd']", "", &["C0320", "C0320"]);
    check_zones("zone = 'a'", "zones = ['c']", &["C0320"]);
    check_zones("zone = 'a'\nzones = ['b', 'b']", "", &["C0321"]);
    check_zones("zone = 'a'", "zones = ['b', 'b']", &["C0321"]);
    check_zones("zone = '*'", "", &["C0206"]);
    check_zones("zone = ''\nzones = ['']", "", &["C0206", "C0206"]);
    check_zones("zone = 1\nzones = 'b'", "", &["C0104", "C0104"]);

    check_pool("max_connections = 5", &[]);
    check_pool("max_connections = 0", &["C0203"]);
    check_pool("max_connections = 5\nqueue = { length = 5 }", &[]);
    check_pool("max_connections = 5\nqueue = { timeout = '1s' }", &["C0105"]);
    check_pool("max_connections = 5\nqueue = { lenght = 1 }", &["C0102"]);
    check_pool("max_connections = 5\nqueue = { length = 0 }", &["C0203"]);
    check_pool("max_connections = 5\nqueue = { length = 5, timeout = '0s' }", &["C0203"]);
    check_pool("max_connections = 5\nqueue = 5", &["C0104"]);
    check_pool("queue = { length = 5 }", &["C0322"]);
    check_pool("queue = { length = 5 }\nagent.port = 9101", &[]);
    check_pool("queue = {}", &["C0322", "C0105"]);
    let limited = "[pool.x]\nbackends = [{ address = '10.0.0.1:1', max_connections = 1 }]\nqueue.length = 5\n\
                   [listener.x]\nbind = ':1'\npool = 'x'";
    check_others(limited, &[]);

    for percent in ["'50%'", "50", "'1%'", "100"] {
        check_pool(&format!("panic_threshold = {percent}"), &[]);
    }
    for percent in ["'0%'", "0", "'101%'", "'50'", "'%'", "'+5%'", "'5.5%'", "-1", "'99999999999999999999%'"]
    {
        check_pool(&format!("panic_threshold = {percent}"), &["C0203"]);
    }
    check_pool("panic_threshold = 0.5", &["C0104"]);
    let backup = |yes: &str| {
        let backends = format!("[{{ address = '10.0.0.1:1', backup = {yes} }}]");
        format!("[pool.x]\nbackends = {backends}\n[listener.x]\nbind = ':1'\npool = 'x'")
    };
    check_others(&backup("false"), &[]);
    check_others(&backup("true"), &["C0402"]);
    check_others(&backup("'yes'"), &["C0104"]);
}

#[test]
fn sites_of_zones() {
    fn check_near(near: &str, expected: &[&str]) {
        let backends = "[{ address = '10.0.0.1:1', zone = 'a' }, { address = '10.0.0.2:1', zone = 'b' }]";
        check(
            &format!("[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = {backends}\nnear = {near}"),
            expected,
        );
    }
    fn check_sites(sites: &str, expected: &[&str]) {
        check_near(&format!("{{ database = 'g.mmdb', sites = {{ {sites} }} }}"), expected);
    }
    check_sites("a = [52.37, 4.90], b = [-90, +180]", &[]);
    check_sites("a = [0, 0]", &[]);
    check_sites("a = ['NL', 'be'], b = 'DE'", &[]);
    check_sites("a = 'DE', b = ['AT', 'DE']", &[]);
    check_sites("", &["C0203"]);
    check_sites("c = [0, 0]", &["C0320"]);
    check_sites("a = [0, 0], c = [0, 0], d = [1, 1]", &["C0320", "C0320"]);
    check_sites("'a b' = [0, 0]", &["C0206", "C0320"]);
    for place in
        ["[91, 0]", "[0, 180.1]", "[-90.1, 0]", "[nan, 0]", "[0, inf]", "[1]", "[1, 2, 3]", "[]", "1", "{}"]
    {
        check_sites(&format!("a = {place}"), &["C0280"]);
    }
    check_sites("a = [0x1, 0]", &["C0280"]);
    check_sites("a = [1, 'DE']", &["C0280"]);
    check_sites("a = ['DE', 1]", &["C0104"]);
    check_sites("a = 'Germany', b = ['D1']", &["C0261", "C0261"]);
    check_sites("a = ['DE', 'AT', 'de']", &["C0261"]);
    check_sites("a = 'UK'", &["C0261"]);
    check_sites("a = [0, 0], b = 'DE'", &["C0280"]);
    let many: Vec<_> = (0..65).map(|number| format!("z{number} = [0, 0]")).collect();
    check_near("{ sites = { a = [0, 0] } }", &["C0105"]);
    check_near("{ database = 'g.mmdb' }", &["C0105"]);
    check_near("{}", &["C0105", "C0105"]);
    check_near("{ database = '', sites = { a = [0, 0] } }", &["C0201"]);
    check_near("{ database = 'g.mmdb', sites = { a = [0, 0] }, sits = 1 }", &["C0102"]);
    check_near("'g.mmdb'", &["C0104"]);
    check_near("{ database = 'g.mmdb', sites = ['a'] }", &["C0104"]);
    // The zones of discovered backends are not known yet.
    let discovered = "[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\ndiscover.file = 'b.json'\n\
                      near = { database = 'g.mmdb', sites = { c = [0, 0] } }";
    check(discovered, &[]);
    check(&discovered.replace("c = [0, 0]", &many.join(", ")), &["C0203"]);
}

fn check_discover(keys: &str, expected: &[&str]) {
    let pool = format!("[pool.db]\ndiscover = {{ {keys} }}\n");
    check(&format!("[listener.db]\nbind = ':5432'\npool = 'db'\n{pool}"), expected);
}

#[test]
fn sources_of_backends() {
    check_discover("dns = 'app.internal', port = 443", &[]);
    check_discover("dns = 'app.internal.', port = 443, type = 'address', resolvers = '10.0.0.53'", &[]);
    check_discover("dns = '_https._tcp.app.internal', type = 'srv', jitter = 0", &[]);
    check_discover("dns = 'a', port = 1, resolvers = ['[::1]:5353', '::1'], min_ttl = '1h'", &[]);
    check_discover("dns = 'a', port = 1, max_ttl = '1s', drain = '0s'", &[]);
    check_discover("file = 'app.json', drain = '1h', hold = '1h'", &[]);
    check_discover("dns = 'a', port = 1, hold = '0s'", &[]);
    check_discover("dns = 'a', port = 1, hold = '8days'", &["C0203"]);
    check_discover("", &["C0330"]);
    check_discover("drain = '1s'", &["C0330"]);
    check_discover("dns = 'a', file = 'b', port = 1", &["C0330"]);
    check_discover("dns = 'a'", &["C0105"]);
    check_discover("dns = '_a._tcp.b'", &["C0105"]);
    check_discover("dns = 'a', type = 'srv', port = 1", &["C0330"]);
    check_discover("dns = 'a', type = 'mx', port = 1", &["C0201"]);
    check_discover("dns = 'a', port = 0", &["C0203"]);
    check_discover("dns = 'a', port = 1, min_ttl = '2s', max_ttl = '1s'", &["C0203"]);
    check_discover("dns = 'a', port = 1, resolvers = []", &["C0330"]);
    check_discover("dns = 'a', port = 1, resolvers = ['dns.internal']", &["C0204"]);
    check_discover("dns = 'a', port = 1, resolvers = ['10.0.0.53:0']", &["C0204"]);
    check_discover("dns = '10.0.0.1', port = 1", &["C0230"]);
    check_discover("dns = '10.0.0.1:443', port = 1", &["C0230"]);
    check_discover("dns = '', port = 1", &["C0230"]);
    check_discover("dns = 'a..b', port = 1", &["C0230"]);
    check_discover("dns = 'a b', port = 1", &["C0230"]);
    check_discover("file = 'a', port = 1, type = 'srv', jitter = 5", &["C0330", "C0330", "C0330"]);
    check_discover("file = ''", &["C0201"]);
    check_discover("file = '/run/'", &["C0201"]);
    check_discover("dns = 'a', prot = 1", &["C0102"]);
    check_pool("discover = { file = 'a' }", &[]);
    check_pool("discover = 'a'", &["C0104"]);
    check(&whole("", "discover = { file = 'a' }", "").replace("'10.0.0.1:5432'", ""), &[]);
    let idle = "{ address = '10.0.0.1:1', weight = 0 }";
    check(&whole("", "discover = { file = 'a' }", "").replace("'10.0.0.1:5432'", idle), &[]);
}

/// Checks a pool that forwards with these keys, for the names of a `tls` listener.
fn check_forward(keys: &str, pool: &str, expected: &[&str]) {
    check(
        &format!(
            "[listener.out]\nbind = ':443'\nprotocol = 'tls'\nunmatched = 'egress'\n\
             [pool.egress]\nforward = {{ {keys} }}\n{pool}\n"
        ),
        expected,
    );
}

#[test]
fn names_that_may_be_forwarded() {
    check_forward("allow = 'api.test'", "", &[]);
    check_forward("to = 'sni', port = 8443, allow = ['*.example.org', 'api.test']", "", &[]);
    check_forward("allow = 'a', allow_private = ['10.1.0.0/16', 'fd00::/8'], resolvers = '::1'", "", &[]);
    let dial = "attempts = 1\nconnect_timeout = '1s'\ndial_timeout = '2s'\nmax_connections = 5";
    check_forward("allow = 'a'", &format!("{dial}\nqueue.length = 2"), &[]);
    check_forward("", "", &["C0105"]);
    check_forward("allow = []", "", &["C0105"]);
    check_forward("allow = '*'", "", &["C0205"]);
    check_forward("allow = '10.0.0.1'", "", &["C0205"]);
    check_forward("allow = 'a', to = 'host'", "", &["C0201"]);
    check_forward("allow = 'a', port = 0", "", &["C0203"]);
    check_forward("allow = 'a', allow_private = []", "", &["C0105"]);
    check_forward("allow = 'a', allow_private = '0.0.0.0/0'", "", &["C0204"]);
    check_forward("allow = 'a', allow_private = '10.1.0.1/16'", "", &["C0204"]);
    check_forward("allow = 'a', allow_private = 'lan'", "", &["C0204"]);
    check_forward("allow = 'a', resolvers = []", "", &["C0105"]);
    check_forward("allow = 'a', port_range = 1", "", &["C0102"]);
    check_forward("allow = 'a', ports = 1", "", &["C0308"]);
    check_forward("allow = 'a', allow_networks = '192.0.2.0/24'", "", &["C0308"]);
    check_forward("allow_networks = '192.0.2.0/24'", "", &["C0105", "C0308"]);
    check_forward(
        "allow = 'a', deny = '*.bad.test', deny_networks = '192.0.2.0/24', mode = 'report'",
        "",
        &[],
    );
    check_forward("allow = 'a', mode = 'off'", "", &["C0201"]);
    check_forward("allow = 'a', verify_sni = true", "", &["C0308"]);
    check_forward("to = 'requested', allow = 'a'", "", &["C0343"]);
    check_forward("allow = 'a'", "backends = ['10.0.0.1:443']", &["C0340"]);
    check_forward("allow = 'a'", "health.check = 'off'\nbalance = 'maglev'", &["C0340", "C0340"]);
    check_forward("allow = 'a'", "near = { database = 'g.mmdb', sites = { a = 'DE' } }", &["C0340"]);
    check_forward("allow = 'a'", "queue.length = 2", &["C0322"]);
}

#[test]
fn sources_of_connections() {
    let source = |text: &str| good(&whole("", &format!("source = '{text}'"), "")).pools[0].dial.source;
    assert_eq!(source("client"), DialSource::Client);
    assert_eq!(source("10.0.0.5"), DialSource::Address("10.0.0.5".parse().unwrap()));
    assert_eq!(source("::ffff:10.0.0.5"), DialSource::Address("10.0.0.5".parse().unwrap()));
    assert_eq!(source("2001:db8::5"), DialSource::Address("2001:db8::5".parse().unwrap()));
    check_two("'10.0.0.1:1', 'unix:/run/a', 'unix:/run/b'", "source = 'client'", &["C0313", "C0313"]);
    check_two("'unix:/run/a'", "source = '10.0.0.5'", &[]);
    check_pool("source = 'clients'", &["C0204"]);
    check_pool("source = '10.0.0.5:80'", &["C0204"]);
    check_pool("source = '0.0.0.0'", &["C0204"]);
    check_pool("source = 'ff02::1'", &["C0204"]);
    check_pool("source = 5", &["C0104"]);
}

#[test]
fn forwarding_needs_a_name() {
    let pool = "[pool.egress]\nforward = { allow = 'a' }\n";
    check(&format!("[listener.out]\nbind = ':1'\npool = 'egress'\n{pool}"), &["C0341"]);
    let tls = "[listener.out]\nbind = ':1'\nprotocol = 'tls'";
    check(&format!("{tls}\nno_sni = 'egress'\n{pool}"), &["C0341"]);
    check(&format!("{tls}\nroutes = [{{ sni = 'a', pool = 'egress' }}]\n{pool}"), &[]);
    let none = |protocol: &str, key: &str| {
        let listener = format!("[listener.out]\nbind = ':1'\nprotocol = '{protocol}'\nunmatched = 'egress'");
        check(&format!("{listener}\n{key}\n{pool}"), &["C0341"]);
    };
    none("auto", "detect = { ssh = 'egress' }");
    none("auto", "detect = { on_timeout = 'egress' }");
    none("postgres", "plaintext = 'egress'\ncancel = 'reject'");
    none("postgres", "cancel = 'egress'");
    none("postgres", "databases = { a = 'egress' }\ncancel = 'reject'");
    none("postgres", "users = { a = 'egress' }\ncancel = 'reject'");
}

#[test]
fn a_source_has_its_defaults() {
    let discover = |keys: &str| {
        let config = good(&whole("", &format!("discover = {{ {keys} }}"), ""));
        config.pools[0].discover[0].clone()
    };
    let dns = DnsSpec {
        name: "app.internal".into(),
        records: RecordKind::Addresses { port: 8443 },
        resolvers: Vec::new(),
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(300),
        jitter: 10,
    };
    let hold = Duration::from_secs(30);
    let spec = DiscoverSpec {
        source: DiscoverSource::Dns(dns),
        host: None,
        hold,
        drain: None,
        max_connections: None,
    };
    assert_eq!(discover("dns = 'app.internal', port = 8443"), spec);
    let written = "dns = '_a._tcp.b.', type = 'srv', resolvers = ['10.0.0.53', '[::1]:5353'], \
                   min_ttl = '1s', max_ttl = '2s', jitter = 100, drain = '3s', hold = '0s'";
    let dns = DnsSpec {
        name: "_a._tcp.b.".into(),
        records: RecordKind::Services,
        resolvers: vec!["10.0.0.53:53".parse().unwrap(), "[::1]:5353".parse().unwrap()],
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(2),
        jitter: 100,
    };
    let (hold, drain) = (Duration::ZERO, Some(Duration::from_secs(3)));
    let spec =
        DiscoverSpec { source: DiscoverSource::Dns(dns), host: None, hold, drain, max_connections: None };
    assert_eq!(discover(written), spec);
    let file = discover("file = 'a/b.json'");
    assert_eq!(
        (file.source, file.hold),
        (DiscoverSource::File(Path::new("a/b.json").into()), Duration::ZERO)
    );
    assert_eq!(discover("file = 'a', hold = '5s'").hold, Duration::from_secs(5));
}

#[test]
fn sources_may_be_several() {
    let (a, b) = ("{ dns = 'a', port = 1 }", "{ file = 'b.json', drain = '1s' }");
    check_pool(&format!("discover = [{a}, {b}]"), &[]);
    check_pool(&format!("discover = [{a}]"), &[]);
    check_pool("discover = []", &["C0330"]);
    check_pool(&format!("discover = [{a}, {a}]"), &["C0330"]);
    check_pool(&format!("discover = [{a}, {{ dns = 'a' }}, 'b', {{}}]"), &["C0105", "C0104", "C0330"]);
    let config = good(&whole("", &format!("discover = [{a}, {b}]"), ""));
    let sources: Vec<_> = config.pools[0].discover.iter().map(|spec| spec.source.to_string()).collect();
    assert_eq!(sources, ["dns a port 1", "file b.json"]);
}

fn check_backends(backends: &str, keys: &str, expected: &[&str]) {
    let pool = format!("[pool.db]\nbackends = [{backends}]\n{keys}\n");
    check(&format!("[listener.db]\nbind = ':5432'\npool = 'db'\n{pool}"), expected);
}

#[test]
fn host_names_are_backends() {
    check_backends("'db1:5432', 'db2.internal:5432', 'db3.internal.:1', 'a_b-c:1', '10-0-0-1.x:1'", "", &[]);
    check_backends("'localhost:5432', '10.0.0.1:5432'", "", &[]);
    check_backends(
        "{ address = 'db1:1', weight = 2, zone = 'a', backup = true, state = 'drain' }, 'b:1'",
        "zones = ['a']",
        &[],
    );
    check_backends(
        "'db1:1'",
        "resolve = { resolvers = '10.0.0.53', min_ttl = '1s', hold = '1m', drain = '1s', jitter = 0 }",
        &[],
    );
    check_backends("'db1:1'", "ejection = {}", &[]);
    check_backends("'db1'", "", &["C0204"]);
    check_backends("'db1:0'", "", &["C0204"]);
    check_backends("'db1:70000'", "", &["C0204"]);
    check_backends("'db1:x'", "", &["C0204"]);
    check_backends("'10.0.0.300:1'", "", &["C0204"]);
    check_backends("'10.0.0:1'", "", &["C0204"]);
    check_backends("'http://db1:1'", "", &["C0204"]);
    check_backends("'-a..b:1'", "", &["C0204"]);
    check_backends("'db1:1', 'db1:1'", "", &["C0306"]);
    check_backends(
        "'db1:1', { address = '10.0.0.1:1', name = 'a' }, { address = 'db2:1', name = 'a' }",
        "",
        &["C0306"],
    );
    check_backends("{ address = 'db1:1', weight = 0 }", "", &["C0304"]);
    check_backends("'10.0.0.1:1'", "resolve.jitter = 0", &["C0402"]);
    check_backends("'db1:1'", "resolve = { min_ttl = '2s', max_ttl = '1s' }", &["C0203"]);
    check_backends("'db1:1'", "resolve = { resolvers = [] }", &["C0330"]);
}

#[test]
fn a_host_name_has_the_settings_of_its_entry() {
    let hosts = "'10.0.0.1:1', { address = 'db2:2', name = 'second', weight = 2, backup = true }, '10.0.0.3:1', 'db4:4'";
    let config =
        good(&whole("", "max_connections = 9\nresolve.drain = '1s'", "").replace("'10.0.0.1:5432'", hosts));
    let pool = &config.pools[0];
    let names: Vec<_> = pool.backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["10.0.0.1:1", "10.0.0.3:1"]);
    let [second, last] = &pool.discover[..] else { panic!("{:?}", pool.discover) };
    assert_eq!(second.source.to_string(), "dns db2 port 2");
    assert_eq!((second.drain, last.drain), (Some(Duration::from_secs(1)), Some(Duration::from_secs(1))));
    let host = second.host.as_ref().unwrap();
    let template = &host.template;
    assert_eq!((host.place, &*template.name, template.weight, template.backup), (1, "second", 2, true));
    let host = last.host.as_ref().unwrap();
    assert_eq!((host.place, &*host.template.name, host.template.max_connections), (2, "db4:4", Some(9)));
}

#[test]
fn headers_that_go_out() {
    let check_out =
        |value: &str, expected: &[&str]| check_pool(&format!("proxy_protocol = {value}"), expected);
    check_out("'v1'", &[]);
    check_out("{ version = 'v2', authority = true, unique_id = true, crc32c = true, pass = true }", &[]);
    check_out("{ version = 'v2', tlvs = { '0xE0' = 'a', '0xf7' = 'b' } }", &[]);
    check_out("{ version = 'v2', pass = ['alpn', 'authority', 'unique-id', 'ssl', 'netns', '0x99'] }", &[]);
    check_out("'v3'", &["C0201"]);
    check_out("2", &["C0104"]);
    check_out("{}", &["C0105"]);
    check_out("{ version = 'v1', authority = true, alpn = true, pass = false }", &["C0308"; 3]);
    check_out(
        "{ version = 'v2', tlvs = { '0x02' = 'a', '0xF8' = 'a', 'E0' = 'a', '0xE0 ' = 'a' } }",
        &["C0201"; 4],
    );
    check_out("{ version = 'v2', tlvs = { '0xE0' = 'a', '0xe0' = 'b' } }", &["C0201"]);
    check_out("{ version = 'v2', tlvs = { '0xE0' = '' } }", &["C0208"]);
    check_out(&format!("{{ version = 'v2', tlvs = {{ '0xE0' = '{}' }} }}", "x".repeat(1025)), &["C0203"]);
    check_out("{ version = 'v2', pass = ['crc32c', '0x03', '0x4', '0x+1'] }", &["C0201"; 4]);
    check_out("{ version = 'v2', pass = 'ssl' }", &["C0104"]);
    check_pool("health.proxy_protocol = true", &["C0402"]);
    check_pool("health.proxy_protocol = false", &[]);
    let announced = |pool: &str| {
        let pool = good(&whole("", pool, "")).pools.remove(0);
        (pool.proxy_protocol, pool.health.unwrap().proxy_protocol)
    };
    let plain = AnnounceSpec::new(HeaderVersion::V2);
    assert_eq!(
        announced("proxy_protocol = 'v2'"),
        (Some(plain.clone()), Some(CheckHeader::Local(HeaderVersion::V2)))
    );
    assert_eq!(
        announced("proxy_protocol = 'v2'\nhealth.proxy_protocol = false"),
        (Some(plain.clone()), None)
    );
    assert_eq!(announced("proxy_protocol.version = 'v1'").1, Some(CheckHeader::Local(HeaderVersion::V1)));
    let full = "proxy_protocol = { version = 'v2', crc32c = true, tlvs = { '0xE1' = 'x' }, pass = ['ssl'] }";
    let tlvs = vec![Tlv::new(0xe1, *b"x")];
    let expected = AnnounceSpec { crc32c: true, tlvs, pass: Passed::Kinds(vec![0x20]), ..plain };
    assert_eq!(announced(full), (Some(expected), Some(CheckHeader::Local(HeaderVersion::V2))));
}

#[test]
fn an_authority_needs_a_hello_or_a_header() {
    check_pool("hash_on = 'proxy-authority'", &["C0303"]);
    check_pool("hash_on = ['proxy-authority', 'source-ip']", &["C0303"]);
    check_pool("hash_on = ['proxy-authority', 'sni']", &["C0303", "C0402"]);
    let trusting = "proxy_protocol.trusted = '10.0.0.0/8'";
    check(&whole(trusting, "hash_on = 'proxy-authority'", ""), &[]);
    check(&whole(trusting, "hash_on = 'sni'", ""), &["C0303"]);
}
