use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::balance::MaxLoad;
use crate::limit::{Over, PrefixLengths, QuotaSpec, Rate, SourceLimits};
use crate::pool::spec::{AgentSpec, Host, Target, Targets};
use crate::pool::{
    AnnounceSpec, BackendSpec, CheckKind, DialSource, DialSpec, DiscoverSpec, DnsSpec, Duty, EjectionSpec,
    HashOn, HealthSpec, OnDown, Passed, QueueSpec, Records, Source, SourcePrefix, TierSpec,
};
use crate::relay::{EngineChoice, RelayOptions};
use crate::snapshot::{ActionSpec, AdmissionSpec, HelloSpec, ProtocolSpec, ProxyMode, Refused, TargetSpec};
use crate::telemetry::{AccessLogFormat, AccessLogTarget};
use crate::wire::Script;
use crate::wire::dialogue::Step;
use crate::wire::proxy_protocol::{Tlv, Version};

const EXAMPLE: &str = include_str!("../../config.example.toml");

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

fn good(text: &str) -> Config {
    match parse("test.toml", text) {
        Ok((config, warnings)) if warnings.is_empty() => config,
        Ok((_, warnings)) => panic!("{}", warnings.render(false)),
        Err(faults) => panic!("{faults}"),
    }
}

fn diagnostics(text: &str) -> Vec<Diagnostic> {
    match parse("test.toml", text) {
        Ok((_, warnings)) => warnings.diagnostics().to_vec(),
        Err(faults) => faults.diagnostics().to_vec(),
    }
}

fn check(text: &str, expected: &[&str]) {
    let found: Vec<_> = diagnostics(text).iter().map(|d| d.code.as_str()).collect();
    assert_eq!(found, expected, "{text}");
}

/// A whole configuration around keys of its `tcp` listener, its pool, and other tables.
fn whole(listener: &str, pool: &str, others: &str) -> String {
    format!(
        "[listener.db]\nbind = ':5432'\npool = 'db'\n{listener}\n\
         [pool.db]\nbackends = ['10.0.0.1:5432']\n{pool}\n{others}"
    )
}

fn check_listener(keys: &str, expected: &[&str]) {
    check(&whole(keys, "", ""), expected);
}

fn check_pool(keys: &str, expected: &[&str]) {
    check(&whole("", keys, ""), expected);
}

fn check_others(tables: &str, expected: &[&str]) {
    check(&whole("", "", tables), expected);
}

/// A `tls` listener with these keys, and pools `a` and `b`.
fn check_tls(keys: &str, expected: &[&str]) {
    check(
        &format!(
            "[listener.tls]\nbind = ':443'\nprotocol = 'tls'\n{keys}\n\
             [pool.a]\nbackends = ['10.0.0.1:443']\n[pool.b]\nbackends = ['10.0.0.2:443']\n"
        ),
        expected,
    );
}

/// A message is an interface: each fixture's rendering stands beside it. After a wanted change run
/// `INSTA_UPDATE=always cargo test --lib config::` and read the difference.
#[test]
fn every_fixture_is_told_as_its_snapshot_says() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let told = match load(&path) {
            Ok((_, warnings)) => warnings.render(false),
            Err(faults) => faults.render(false),
        };
        let told = told.replace(path.to_str().unwrap(), name);
        insta::with_settings!({
            snapshot_path => fixtures(),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(path.file_stem().unwrap().to_str().unwrap(), told);
        });
        seen += 1;
    }
    assert!(seen > 10, "only {seen} fixtures");
}

#[test]
fn the_smallest_configuration_has_every_default() {
    let config = good(&whole("", "", ""));
    assert_eq!(config.workers, std::thread::available_parallelism().unwrap().get());
    assert_eq!(config.max_connections, None);
    assert_eq!(config.max_checks, 1000);
    assert_eq!(config.admin, None);
    assert_eq!(config.access_log.to, AccessLogTarget::Stdout);
    assert_eq!(config.access_log.format, AccessLogFormat::Json);
    assert_eq!(config.log, LogSpec { level: LogLevel::Info, format: LogFormat::Text });
    let seconds = Duration::from_secs;
    assert_eq!(config.shutdown, ShutdownSpec { grace: Duration::ZERO, drain: seconds(30) });

    let [listener] = &config.listeners[..] else { panic!("one listener") };
    assert_eq!(&*listener.name, "db");
    assert_eq!(listener.binds, ["0.0.0.0:5432".parse().unwrap(), "[::]:5432".parse().unwrap()]);
    assert_eq!(listener.backlog, 4096);
    assert_eq!(listener.max_unsent, None);
    assert_eq!(listener.policy.protocol, ProtocolSpec::Tcp { pool: "db".into(), routes: Vec::new() });
    assert_eq!(listener.policy.relay, RelayOptions::default());
    assert_eq!(listener.policy.max_connections, None);

    let [pool] = &config.pools[..] else { panic!("one pool") };
    let backend = BackendSpec::new("10.0.0.1:5432", "10.0.0.1:5432".parse().unwrap());
    let expected = PoolSpec { hash_key: DEFAULT_HASH_KEY, ..PoolSpec::new("db".into(), vec![backend]) };
    assert_eq!(*pool, expected);
}

#[test]
fn every_key_reaches_its_spec() {
    let config = good(
        "workers = 3\nzone = 'a'\nzones = ['c']\nmax_connections = 1_000\nmax_checks = 7\nhash_key = '000102030405060708090A0b0c0d0e0f'\n\
         [admin]\nlisten = '[::1]:9100'\n[access_log]\nto = './log'\nformat = 'text'\n\
         [log]\nlevel = 'trace'\nformat = 'json'\n[shutdown]\ngrace = '5s'\ndrain = '1m 30s'\n\
         [listener.tls]\nbind = [':443', '127.0.0.1:8443']\nprotocol = 'tls'\nno_sni = 'p'\nunmatched = 'p'\n\
         routes = [{ sni = ['A.example.', '*.b.example'], pool = 'p' }]\n\
         first_byte_timeout = '1ms'\nhello_timeout = '2ms'\nhello_max_size = 65536\nidle_timeout = '3s'\n\
         half_closed_timeout = '4s'\nreset_linger = '0s'\nengine = 'splice'\nmax_connections = 7\nbacklog = 8\n\
         keepalive = 'off'\nuser_timeout = '500ms'\nmax_unsent = 1_048_576\n\
         [pool.p]\nbalance = 'maglev'\nhash_on = 'sni'\nsource_prefix = { v4 = 24, v6 = 48 }\nattempts = 1\n\
         max_load = 1.25\nslow_start = '30s'\n\
         connect_timeout = '1s'\ndial_timeout = '1s'\non_down = 'close'\nclose_rate = 7\n\
         zones = ['c', 'b']\npanic_threshold = '50%'\nmax_connections = 5\nqueue = { length = 6, timeout = '7s' }\n\
         backends = [{ name = 'x', address = 'unix:/run/x', weight = 0, zone = 'a', backup = true, state = 'drain' },\n\
         '[2001:DB8::0:1]:443', { address = '10.0.0.1:1', zone = 'b', max_connections = 9 },\n\
         { address = '10.0.0.2:1', zone = 'c' }]\n\
         [pool.p.health]\ncheck = 'off'\n[pool.p.agent]\naddress = '10.0.0.9:9101'\n\
         [pool.p.ejection]\nconsecutive_failures = 2\nbase_time = '1s'\nmax_time = '9s'\nmax_ejected = 50\n",
    );
    let millis = Duration::from_millis;
    assert_eq!(config.workers, 3);
    assert_eq!(config.max_connections, Some(1000));
    assert_eq!(config.max_checks, 7);
    assert_eq!(config.admin, Some(admin("[::1]:9100")));
    assert_eq!(config.access_log.to, AccessLogTarget::File("./log".into()));
    assert_eq!(config.access_log.format, AccessLogFormat::Text);
    assert_eq!(config.log, LogSpec { level: LogLevel::Trace, format: LogFormat::Json });
    assert_eq!(config.shutdown, ShutdownSpec { grace: millis(5000), drain: millis(90_000) });

    let listener = &config.listeners[0];
    assert_eq!(listener.binds.len(), 3);
    assert_eq!(listener.backlog, 8);
    assert_eq!(listener.max_unsent, Some(1 << 20));
    assert_eq!(listener.policy.max_connections, Some(7));
    let relay = RelayOptions {
        engine: EngineChoice::Splice,
        idle_timeout: millis(3000),
        half_closed_timeout: millis(4000),
        reset_linger: Duration::ZERO,
        keepalive: None,
        user_timeout: Some(millis(500)),
    };
    assert_eq!(listener.policy.relay, relay);
    let ProtocolSpec::Tls { routes, no_sni, unmatched, hello } = &listener.policy.protocol else {
        panic!("a tls listener")
    };
    let names: Vec<_> = routes[0].keys.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.example", "*.b.example"]);
    assert_eq!(routes[0].action, ActionSpec::Pool("p".into()));
    assert_eq!([no_sni, unmatched], [&TargetSpec::Pool("p".into()), &TargetSpec::Pool("p".into())]);
    let expected = HelloSpec { first_byte_timeout: millis(1), hello_timeout: millis(2), max_size: 65536 };
    assert_eq!(*hello, expected);

    let pool = &config.pools[0];
    assert_eq!(pool.hash_key, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(pool.hash_on, HashOn::Sni.into());
    assert_eq!(pool.max_load, Some(MaxLoad::of_percent(125)));
    assert_eq!(pool.slow_start, Some(millis(30_000)));
    assert_eq!(pool.source_prefix, SourcePrefix { v4: 24, v6: 48 });
    assert_eq!(pool.health, None);
    let ejection = EjectionSpec {
        consecutive_failures: 2,
        base_time: millis(1000),
        max_time: millis(9000),
        max_ejected: 50,
    };
    assert_eq!(pool.ejection, Some(ejection));
    assert_eq!(pool.on_down, OnDown::Close { rate: 7 });
    assert_eq!([pool.backends[0].duty, pool.backends[1].duty], [Duty::Drain, Duty::Ready]);
    let dial = DialSpec {
        attempts: 1,
        connect_timeout: millis(1000),
        dial_timeout: millis(1000),
        source: DialSource::Any,
    };
    assert_eq!(pool.dial, dial);
    let backends: Vec<_> =
        pool.backends.iter().map(|b| (&*b.name, b.address.to_string(), b.weight)).collect();
    let expected =
        [("x", "unix:/run/x".to_owned(), 0), ("[2001:db8::1]:443", "[2001:db8::1]:443".to_owned(), 1)];
    assert_eq!(backends[..2], expected);
    let tiers =
        TierSpec { zone: Some("a".into()), zones: vec!["c".into(), "b".into()], panic_threshold: Some(50) };
    assert_eq!(pool.tiers, tiers);
    assert_eq!(pool.queue, Some(QueueSpec { length: 6, timeout: millis(7000) }));
    let places: Vec<_> =
        pool.backends.iter().map(|b| (b.zone.as_deref(), b.backup, b.max_connections)).collect();
    let expected = [
        (Some("a"), true, Some(5)),
        (None, false, Some(5)),
        (Some("b"), false, Some(9)),
        (Some("c"), false, Some(5)),
    ];
    assert_eq!(places, expected);
}

#[test]
fn other_spellings_of_toml_mean_the_same() {
    let plain = good(&whole("", "health = { interval = '1s' }", ""));
    let dotted = good(
        "listener.db = { bind = [':5432'], pool = 'db' }\npool.db.backends = [{ address = '10.0.0.1:5432' }]\n\
         pool.db.health.interval = '1s'",
    );
    assert_eq!(plain, dotted);
    let inline = good(
        "[pool.'a.b']\nbackends = ['10.0.0.1:1']\n[listener.x]\nbind = ':1'\nprotocol = 'tls'\n\
         routes = [{ sni = 'a.example', pool = 'a.b' }]",
    );
    let array = good(
        "[pool.'a.b']\nbackends = ['10.0.0.1:1']\n[listener.x]\nbind = ':1'\nprotocol = 'tls'\n\
         [[listener.x.routes]]\nsni = 'a.example'\npool = 'a.b'",
    );
    assert_eq!(inline, array);
    assert_eq!(good(&whole("", "", "").replace('\n', "\r\n")), good(&whole("", "", "")));
}

#[test]
fn text_and_keys() {
    check("x", &["C0101"]);
    check("", &["C0310"]);
    check(&format!("wokers = 1\n{}", whole("", "", "")), &["C0102"]);
    check_listener("pool = 'x'", &["C0103"]);
    check_listener("engine = 1", &["C0104"]);
    check_listener("bind.x = 1", &["C0101"]);
    check("listener = 1\npool = 2", &["C0104", "C0104"]);
    check("[listener]\ndb = 1\n[pool]", &["C0104"]);
    check_pool("health = { chekc = 'tcp' }", &["C0102"]);
    check_others("[listener.x]\npool = 'db'", &["C0105"]);
    check_others("[listener.x]\nbind = ':1'", &["C0105"]);
    check_others("[listener.x]\nbind = ':1'\npol = 'db'", &["C0102"]);
    check_tls("routes = [{ sni = 'a.example' }]", &["C0105"]);
    check_tls("routes = [{ pool = 'a' }, { sni = [], pool = 'b' }]", &["C0105", "C0105"]);
    check_others("[pool.x]\nbackends = [{}]", &["C0105"]);
}

#[test]
fn words() {
    check_listener("engine = 'turbo'", &["C0201"]);
    check_listener("protocol = 'TCP'", &["C0201"]);
    check_pool("balance = 'maglv'", &["C0201"]);
    check_others("[access_log]\nto = 'stdot'\nformat = 'xml'", &["C0201", "C0201"]);
    check_others("[access_log]\nto = '/var/log/'", &["C0201"]);
    check_others("[access_log]\nto = ''", &["C0201"]);
    check_others("[log]\nlevel = 'warning'", &["C0201"]);
    check_listener("idle_timeout = '1 hour 5'", &["C0202"]);
    check_listener("idle_timeout = '-1s'", &["C0202"]);
    check_listener("idle_timeout = 'off'", &["C0202"]);
    check_listener("idle_timeout = '99999999999999999999999s'", &["C0202"]);
    check_listener("idle_timeout = 5", &["C0104"]);
    check_listener("idle_timeout = 0.5", &["C0104"]);
    check_listener("idle_timeout = '1.5s'", &[]);
    check_listener("idle_timeout = '30days'", &[]);
    check_listener("idle_timeout = '31days'", &["C0203"]);
    check_listener("idle_timeout = '0s'", &["C0203"]);
    check_listener("keepalive = '3s'", &["C0203"]);
    check_listener("backlog = 0", &["C0203"]);
    check_listener("backlog = 0x10", &[]);
    check_listener("max_unsent = 16383", &["C0203"]);
    check_listener("max_connections = 0", &["C0203"]);
    check_listener("max_connections = 99999999999999999999", &["C0203"]);
    check_pool("source_prefix = { v4 = 33, v6 = 0 }", &["C0203", "C0203"]);
    check_pool("attempts = -1", &["C0203"]);
    for good in ["1.01", "1.25", "2", "10", "1e1", "1.2_5"] {
        check_pool(&format!("max_load = {good}"), &[]);
    }
    for bad in ["1", "1.0", "1.004", "10.01", "-1.25", "nan", "inf", "0", "99999999999999999999"] {
        check_pool(&format!("max_load = {bad}"), &["C0203"]);
    }
    check_pool("max_load = '1.25'", &["C0104"]);
    check_pool("slow_start = '99ms'", &["C0203"]);
    check_pool("slow_start = 'off'", &[]);
    check_pool("hash_on = ['source-ip', 'cookie', 5]", &["C0201", "C0104"]);
    check_pool("balance = 'leastconn'", &["C0201"]);
    check(&format!("workers = 1025\n{}", whole("", "", "")), &["C0203"]);
    check_tls("unmatched = 'a'\nno_sni = 'b'\nhello_max_size = 16383", &["C0203"]);
    check(&format!("hash_key = 'secret'\n{}", whole("", "", "")), &["C0207"]);
    check(&format!("hash_key = '+0102030405060708090a0b0c0d0e0f0'\n{}", whole("", "", "")), &["C0207"]);
    check_tls("routes = [{ sni = 'mail.*.example', pool = 'a' }, { sni = '', pool = 'b' }]", &["C0205"; 2]);
}

#[test]
fn names() {
    let named = |name: &str| format!("[listener.{name}]\nbind = ':1'\npool = 'db'");
    check_others(&named("a-B_c.9".replace('.', "_").as_str()), &[]);
    check_others(&named("'a.b'"), &[]);
    check_others(&named(&"x".repeat(64)), &[]);
    check_others(&named(&"x".repeat(65)), &["C0206"]);
    check_others(&named("'ä'"), &["C0206"]);
    check_others(&named("''"), &["C0206"]);
    check_others("[pool.reject]\nbackends = ['10.0.0.1:1']", &["C0206"]);
    let backend =
        |name: &str| format!("[pool.x]\nbackends = [{{ name = '{name}', address = '10.0.0.1:1' }}]");
    check_others(&backend("10.0.0.1:1"), &["C0206"]);
    check_others(&backend("ok"), &["C0401"]);
}

#[test]
fn addresses() {
    let backend =
        |address: &str| format!("[pool.x]\nbackends = ['{address}']\n[listener.x]\nbind=':1'\npool='x'");
    for address in ["10.0.0.1:1", "[::1]:1", "unix:/run/x", "[fe80::1%3]:1"] {
        check_others(&backend(address), &[]);
    }
    for address in ["10.0.0.1:0", "10.0.0.1", "a.example:1", "unix:x", "", ":1", "10.0.0.1:+1", "::1:1"] {
        check_others(&backend(address), &["C0204"]);
    }
    let bind = |address: &str| format!("[listener.x]\nbind = '{address}'\npool = 'db'");
    for address in [":0", "127.0.0.1:0", "[::1]:443", ":65535"] {
        check_others(&bind(address), &[]);
    }
    for address in ["443", ":65536", "*:443", "[::ffff:1.2.3.4]:443", "unix:x", "localhost:443", ":+5", ":"] {
        check_others(&bind(address), &["C0204"]);
    }
    check_others("[listener.x]\nbind = 443\npool = 'db'", &["C0104"]);
    check_others("[admin]\nlisten = ':9100'", &["C0204"]);
}

#[test]
fn references() {
    check_listener("", &[]);
    check_others("[listener.x]\nbind = ':1'\npool = 'nil'", &["C0301"]);
    check_others("[listener.x]\nbind = ':1'\npool = 'reject'", &["C0301"]);
    check_tls("routes = [{ sni = 'a.example', pool = 'c' }]\nno_sni = 'd'\nunmatched = 'e'", &["C0301"; 3]);
    check_tls("routes = [{ sni = ['a.example', 'A.example.'], pool = 'a' }]\nno_sni = 'b'", &["C0302"]);
    check_tls("routes = [{ sni = '*.a.example', pool = 'a' }, { sni = 'a.example', pool = 'b' }]", &[]);
    check_pool("hash_on = 'sni'", &["C0303"]);
    check_pool("hash_on = ['source-ip', 'sni']", &["C0303"]);
    check_pool("hash_on = []", &["C0105"]);
    check_pool("hash_on = 'sni'\nbalance = 'round-robin'", &["C0402"]);
    check_others("[pool.x]\nbackends = []", &["C0305"]);
    check_others("[pool.x]", &["C0305"]);
    check_others("[pool.x]\nbackends = [{ address = '10.0.0.1:1', weight = 0 }]", &["C0304"]);
    check_others("[pool.x]\nbackends = ['[::1]:1', '[0::1]:1']", &["C0306"]);
    check_others("[listener.x]\nbind = '0.0.0.0:5432'\npool = 'db'", &["C0307"]);
    check_others("[listener.x]\nbind = '127.0.0.1:5432'\npool = 'db'", &[]);
    check_others("[listener.x]\nbind = [':0', ':0']\npool = 'db'", &[]);
    check_others("[admin]\nlisten = '0.0.0.0:5432'", &["C0307", "C0360"]);
    check_listener("hello_timeout = '1s'\nno_sni = 'reject'", &["C0308", "C0308"]);
    check_listener("protocol = 'tls'", &["C0308"]);
    check_tls("", &["C0309"]);
    check_tls("routes = []\nno_sni = 'reject'", &["C0309"]);
    check_tls("unmatched = 'a'\nno_sni = 'b'", &[]);
    check_tls("unmatched = 5", &["C0104"]);
    check("[pool.db]\nbackends = ['10.0.0.1:1']", &["C0310"]);
    check_pool("connect_timeout = '16s'", &["C0311"]);
    check_pool("dial_timeout = '4s'", &["C0311"]);
    check_pool("health = { timeout = '3s' }", &["C0311"]);
    check_pool("health = { interval = '100ms', timeout = '200ms' }", &["C0311"]);
}

/// A pool of two backends, of which these are the tables.
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
    /// A whole configuration of a node with these keys, and two backends: one in zone `a`, one in `b`.
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
fn warnings() {
    check_others("[pool.x]\nbackends = ['10.0.0.1:1']", &["C0401"]);
    check_pool("balance = 'round-robin'\nhash_on = 'source-ip'\nsource_prefix = {}", &["C0402", "C0402"]);
    check_pool("hash_on = 'source-ip-port'\nsource_prefix = { v4 = 24 }", &["C0402"]);
    check_pool("hash_on = ['source-ip-port', 'source-ip']", &["C0402"]);
    check_pool("hash_on = ['source-ip', 'source-ip-port']", &[]);
    check_pool("hash_on = ['source-ip', 'source-ip']", &["C0402"]);
    check_pool("balance = 'random-two'\nmax_load = 1.25", &["C0402"]);
    check_pool("balance = 'least-latency'\nslow_start = '30s'", &[]);
    check_others(
        "[pool.x]\nbalance = 'failover'\nbackends = [{ address = '10.0.0.1:1', weight = 2 }]",
        &["C0401", "C0402"],
    );
}

#[test]
fn every_word_of_a_code_is_its_own() {
    let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    for code in Code::ALL {
        assert_eq!(code.level() == Level::Warning, code.as_str() >= "C0400", "{code:?}");
        assert!(code.meaning().ends_with('.'), "{code:?}");
    }
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
    check_discover("file = 'app.json', drain = '1h'", &[]);
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

/// A pool that forwards by these keys, for the names of a `tls` listener.
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
    check_forward("allow = 'a', ports = 1", "", &["C0102"]);
    check_forward("allow = 'a'", "backends = ['10.0.0.1:443']", &["C0340"]);
    check_forward("allow = 'a'", "health.check = 'off'\nbalance = 'maglev'", &["C0340", "C0340"]);
    check_forward("allow = 'a'", "queue.length = 2", &["C0322"]);
}

#[test]
fn sources_of_connections() {
    let source = |text: &str| good(&whole("", &format!("source = '{text}'"), "")).pools[0].dial.source;
    assert_eq!(source("client"), DialSource::Client);
    assert_eq!(source("10.0.0.5"), DialSource::Address("10.0.0.5".parse().unwrap()));
    assert_eq!(source("::ffff:10.0.0.5"), DialSource::Address("10.0.0.5".parse().unwrap()));
    assert_eq!(source("2001:db8::5"), DialSource::Address("2001:db8::5".parse().unwrap()));
    check_pool("source = 'clients'", &["C0204"]);
    check_pool("source = '10.0.0.5:80'", &["C0204"]);
    check_pool("source = '0.0.0.0'", &["C0204"]);
    check_pool("source = 'ff02::1'", &["C0204"]);
    check_pool("source = 5", &["C0104"]);
}

#[test]
fn unix_sockets_are_bound() {
    let bind = |bind: &str, keys: &str| {
        format!("[listener.db]\nbind = {bind}\npool = 'db'\n{keys}\n[pool.db]\nbackends = ['10.0.0.1:1']")
    };
    let config = good(&bind("['unix:/run/a.sock', ':5432']", "mode = '0660'"));
    assert_eq!(config.listeners[0].binds[0], "unix:/run/a.sock".parse().unwrap());
    assert_eq!((config.listeners[0].binds.len(), config.listeners[0].mode), (3, Some(0o660)));
    check(&bind("'unix:/run/a.sock'", "mode = '777'"), &[]);
    check(&bind("'unix:a.sock'", ""), &["C0204"]);
    check(&bind("'unix:'", ""), &["C0204"]);
    check(&bind("['unix:/a', 'unix:/a']", ""), &["C0307"]);
    check(&bind("'unix:/a'", "mode = '1777'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = '088'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = '+66'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = 0o660"), &["C0104"]);
    check(&bind("':5432'", "mode = '660'"), &["C0402"]);
}

fn admin(listen: &str) -> AdminSpec {
    AdminSpec::new(listen.parse::<crate::sys::Address>().unwrap())
}

#[test]
fn who_may_ask_the_admin_listener() {
    let check = |listen: &str, keys: &str, expected: &[&str]| {
        check_others(&format!("[admin]\nlisten = '{listen}'\n{keys}"), expected);
    };
    let (token, open) = ("token_file = 'token'", "open_metrics = true");
    check("127.0.0.2:9100", "", &[]);
    check("unix:/run/admin.sock", "", &[]);
    check("192.0.2.1:9100", "", &["C0360"]);
    check("[::]:9100", "", &["C0360"]);
    check("192.0.2.1:9100", token, &[]);
    check("192.0.2.1:9100", open, &[]);
    check("192.0.2.1:9100", &format!("{token}\n{open}"), &[]);
    check("192.0.2.1:9100", "open_metrics = false", &["C0360"]);
    check("192.0.2.1:9100", &format!("{token}\ntoken_for = 'changes'"), &["C0360"]);
    check("127.0.0.1:9100", &format!("{token}\ntoken_for = 'changes'"), &[]);
    check("127.0.0.1:9100", "token_for = 'all'", &["C0402"]);
    check("127.0.0.1:9100", open, &["C0402"]);
    check("127.0.0.1:9100", "mode = '0600'", &["C0402"]);
    check("unix:/run/admin.sock", "mode = '0600'", &[]);
    check("127.0.0.1:9100", "hosts = ['lb', 'lb.example.']", &[]);
    check("127.0.0.1:9100", "hosts = 'http://lb'", &["C0230"]);
    check("127.0.0.1:9100", "token_file = ''", &["C0201"]);
    check("unix:admin.sock", "", &["C0204"]);
    check_others("[admin]\nlisten = 'unix:/a'\n[listener.x]\nbind = 'unix:/a'\npool = 'db'", &["C0307"]);
}

#[test]
fn an_admin_listener_is_read() {
    let text = "[admin]\nlisten = 'unix:/run/a'\nmode = '0600'\ntoken_file = 'token'\n\
                token_for = 'changes'\nopen_metrics = true";
    let spec = good(&whole("", "", text)).admin.unwrap();
    assert_eq!(spec.listen, "unix:/run/a".parse().unwrap());
    assert_eq!((spec.mode, spec.token_for, spec.open_metrics), (0o600, TokenFor::Changes, true));
    assert_eq!(spec.token_file.as_deref(), Some(Path::new("token")));
    let spec = good(&whole("", "", "[admin]\nlisten = '[::1]:1'\nhosts = 'LB.example.'")).admin.unwrap();
    assert_eq!(spec.hosts, ["lb.example"]);
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
        config.pools[0].discover.clone().unwrap()
    };
    let dns = DnsSpec {
        name: "app.internal".into(),
        records: Records::Addresses { port: 8443 },
        resolvers: Vec::new(),
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(300),
        jitter: 10,
    };
    let spec = DiscoverSpec { source: Source::Dns(dns), drain: None, max_connections: None };
    assert_eq!(discover("dns = 'app.internal', port = 8443"), spec);
    let written = "dns = '_a._tcp.b.', type = 'srv', resolvers = ['10.0.0.53', '[::1]:5353'], \
                   min_ttl = '1s', max_ttl = '2s', jitter = 100, drain = '3s'";
    let dns = DnsSpec {
        name: "_a._tcp.b.".into(),
        records: Records::Services,
        resolvers: vec!["10.0.0.53:53".parse().unwrap(), "[::1]:5353".parse().unwrap()],
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(2),
        jitter: 100,
    };
    let spec =
        DiscoverSpec { source: Source::Dns(dns), drain: Some(Duration::from_secs(3)), max_connections: None };
    assert_eq!(discover(written), spec);
    assert_eq!(discover("file = 'a/b.json'").source, Source::File(Path::new("a/b.json").into()));
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let told = load(Path::new("/nowhere/pointsman.toml")).unwrap_err().render(false);
    insta::assert_snapshot!(told, @r"
    error[C0100]: the configuration cannot be read: there is no such file
    --> /nowhere/pointsman.toml

    /nowhere/pointsman.toml: 1 fault
    ");
    assert_eq!(load(&fixtures()).unwrap_err().diagnostics()[0].code, Code::Unreadable);
}

#[test]
fn a_command_line_is_a_configuration() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let listen = words(&[":5432", "127.0.0.1:5433"]);
    let config = one_liner(&listen, &words(&["10.0.0.1:5432", "10.0.0.2:5432"])).unwrap();
    let expected = good(
        "[listener.main]\nbind = [':5432', '127.0.0.1:5433']\npool = 'main'\n\
         [pool.main]\nbackends = ['10.0.0.1:5432', '10.0.0.2:5432']",
    );
    assert_eq!(config, expected);

    let faults = one_liner(&words(&["5432", ":1", ":1"]), &words(&["db:5432"])).unwrap_err();
    insta::assert_snapshot!(faults.render(false), @r#"
    error[C0204]: "5432" is not an address that `listener.main.bind[0]` can use
     --> arguments:1:10
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db:5432
      |          ^^^^ write ":5432" for every local address, or "IP:5432"

    error[C0307]: 0.0.0.0:1 is bound twice
     --> arguments:1:36
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db:5432
      |                        --          ^^ bound here
      |                        |
      |                        and bound here

    error[C0204]: "db:5432" is not an address that `pool.main.backends[0]` can use
     --> arguments:1:49
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db:5432
      |                                                 ^^^^^^^ a host name: a pool resolves it by discover = { dns = "db", port = 5432 }

    arguments: 3 faults
    "#);
    assert_eq!(one_liner(&[], &[]).unwrap_err().diagnostics().len(), 2);
}

#[test]
fn colors_are_escapes_of_ours_alone() {
    let text = "\"\\u001b[31m\" = 1\n# \u{1b}[32m";
    let faults = parse("\u{1b}[33m.toml", text).unwrap_err();
    assert!(!faults.render(false).contains('\u{1b}'), "{}", faults.render(false));
    assert!(faults.render(true).contains('\u{1b}'));
}

#[test]
fn a_flood_of_faults_is_cut() {
    let text: String = (0..5000).map(|number| format!("k{number} = 1\n")).collect();
    let faults = parse("test.toml", &text).unwrap_err();
    let rendered = faults.render(false);
    assert!(rendered.ends_with("test.toml: 200 faults, 4801 more not shown\n"), "{rendered}");
}

#[test]
fn places_far_apart_are_shown_both() {
    let lines = "\n".repeat(5000);
    let text = whole("", "", &format!("{lines}[listener.x]\nbind = ':5432'\npool = 'db'\n"));
    let rendered = parse("test.toml", &text).unwrap_err().render(false);
    insta::assert_snapshot!(rendered, @r"
    error[C0307]: 0.0.0.0:5432 is bound twice
        --> test.toml:5009:8
         |
    5009 | bind = ':5432'
         |        ^^^^^^^ bound here
         |
        ::: test.toml:2:8
         |
       2 | bind = ':5432'
         |        ------- and bound here

    test.toml: 1 fault
    ");
}

/// The recipes of the documentation, its blocks of TOML that are whole, are right; those of a protocol have at
/// most ten lines.
#[test]
fn the_recipes_are_right() {
    let docs = [
        include_str!("../../README.md"),
        include_str!("../../docs/protocols.md"),
        include_str!("../../docs/proxy-protocol.md"),
        include_str!("../../docs/reach.md"),
        include_str!("../../docs/limits.md"),
    ];
    let (mut seen, mut short) = (0, 0);
    for text in docs {
        let blocks = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
        for block in blocks.filter(|block| block.contains("[listener.") && block.contains("pool.")) {
            good(block);
            seen += 1;
            if ["postgres", "smtp", "auto"].iter().any(|word| block.contains(&format!("= \"{word}\"\n"))) {
                let lines = block.lines().filter(|line| !line.trim().is_empty()).count();
                assert!(lines <= 10, "{lines} lines in\n{block}");
                short += 1;
            }
        }
    }
    assert!(seen >= 12 && short >= 6, "only {seen} recipes, {short} short ones");
}

#[test]
fn headers_that_come_in() {
    let check_in = |keys: &str, expected: &[&str]| {
        check_listener(&format!("proxy_protocol = {{ {keys} }}"), expected);
        check_tls(&format!("unmatched = 'a'\nno_sni = 'b'\nproxy_protocol = {{ {keys} }}"), expected);
    };
    check_in("trusted = '10.0.0.0/8'", &[]);
    check_in("trusted = ['10.0.0.1', '2001:db8::/32', 'unix'], mode = 'shadow', timeout = '1s'", &[]);
    check_in("", &["C0105"]);
    check_in("trusted = []", &["C0105"]);
    check_in("trusted = '10.0.0.1/8'", &["C0204"]);
    check_in("trusted = ['10.0.0.0/33', 'lb.internal', '*']", &["C0204"; 3]);
    check_in("trusted = ['0.0.0.0/0', '::/0']", &["C0420"; 2]);
    check_in("trusted = '10.0.0.0/8', mode = 'optional'", &["C0201"]);
    check_in("trusted = '10.0.0.0/8', timeout = '2h'", &["C0203"]);
    check_in("trusted = '10.0.0.0/8', version = 'v2'", &["C0102"]);
    check_listener("proxy_protocol = 'v2'", &["C0104"]);
    check_listener("proxy_protocol = true", &["C0104"]);
    let text = whole("proxy_protocol.trusted = ['10.0.0.0/8', 'unix']", "", "");
    let spec = good(&text).listeners.remove(0).policy.proxy.unwrap();
    assert_eq!((spec.mode, spec.timeout), (ProxyMode::Require, Duration::from_secs(30)));
    assert!(spec.trusted.unix && spec.trusted.contains(&"10.1.2.3:4".parse().unwrap()));
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
    let plain = AnnounceSpec::new(Version::V2);
    assert_eq!(announced("proxy_protocol = 'v2'"), (Some(plain.clone()), Some(Version::V2)));
    assert_eq!(
        announced("proxy_protocol = 'v2'\nhealth.proxy_protocol = false"),
        (Some(plain.clone()), None)
    );
    assert_eq!(announced("proxy_protocol.version = 'v1'").1, Some(Version::V1));
    let full = "proxy_protocol = { version = 'v2', crc32c = true, tlvs = { '0xE1' = 'x' }, pass = ['ssl'] }";
    let tlvs = vec![Tlv::new(0xe1, *b"x")];
    let expected = AnnounceSpec { crc32c: true, tlvs, pass: Passed::Kinds(vec![0x20]), ..plain };
    assert_eq!(announced(full), (Some(expected), Some(Version::V2)));
}

#[test]
fn who_may_come_in() {
    let lists = "[list.a]\nentries = ['10.0.0.0/8', '::1']\n[list.b]\nfile = 'b.txt'";
    check(&whole("allow = ['a', 'b', '10.0.0.0/8']\ndeny = 'b'\nrefused = 'drop'", "", lists), &[]);
    check(&whole("deny = 'a'", "", lists), &["C0440"]);
    check(&whole("deny = 'a'", "", &format!("[lists]\ndeny = ['b', '::1']\n{lists}")), &[]);
    check_others("[lists]\ndeny = 'a'", &["C0370"]);
    check(&whole("deny = ['c', 'a', 'b']", "", lists), &["C0370"]);
    check_listener("deny = ['10.0.0.1/8', '10.0.0.0/33', 'a b', '', 'a/8', 'a:b']", &["C0204"; 6]);
    check_listener("allow = []", &["C0309"]);
    check_listener("allow = [7]", &["C0104"]);
    check_listener("deny = []\nrefused = 'drop'", &[]);
    check_listener("refused = 'drop'", &["C0402"]);
    check_listener("deny = '::1'\nrefused = 'tarpit'", &["C0201"]);
    check_others("[list.'a b']\nentries = '10.0.0.1/8'", &["C0206", "C0240"]);
    check_others("[list.a]\nfile = ''\nfiles = 'x'", &["C0201", "C0102"]);
    let unix = |keys: &str| {
        format!(
            "[listener.db]\nbind = 'unix:/x'\npool = 'db'\n{keys}\n[pool.db]\nbackends = ['10.0.0.1:5432']"
        )
    };
    check(&unix("deny = '::1'\nallow = '::1'"), &["C0402", "C0402"]);
    check(&unix("deny = '::1'\nproxy_protocol.trusted = 'unix'"), &[]);

    let everywhere = "[lists]\ndeny = ['b', '::1']\n[list.a]\n[list.b]";
    let config = good(&whole("deny = ['a', '::2']\nallow = '0.0.0.0/0'\nrefused = 'drop'", "", everywhere));
    let access = config.listeners[0].policy.access.as_ref().unwrap();
    assert_eq!(access.deny.lists, ["b".into(), "a".into()]);
    assert_eq!(access.deny.prefixes, ["::1".parse().unwrap(), "::2".parse().unwrap()]);
    assert_eq!(access.allow.as_ref().map(|rule| rule.prefixes.len()), Some(1));
    assert_eq!(access.refused, Refused::Drop);
    assert_eq!(good(&whole("", "", "")).listeners[0].policy.access, None);
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

/// The example with every commented key written out: `#key = ...` and `#[table]`.
fn example_with_every_key() -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
    };
    let lines = EXAMPLE.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_right_and_its_comments_are_the_defaults() {
    let config = good(EXAMPLE);
    let mut full = good(&example_with_every_key());
    // These have no fixed default; the example shows a value.
    assert_eq!(full.max_connections.take(), Some(100_000));
    let shown = full.admin.take().unwrap();
    assert_eq!(shown.listen, "unix:/run/pointsman/admin.sock".parse().unwrap());
    assert_eq!(shown.token_file.as_deref(), Some(Path::new("/etc/pointsman/token")));
    assert_eq!((shown.hosts.as_slice(), shown.mode), (&["lb-1.example.com".to_owned()][..], AdminSpec::MODE));
    assert_eq!((shown.token_for, shown.open_metrics), (TokenFor::All, false));
    assert_eq!(full.landlock.take(), Some(true));
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.max_connections.take()).collect();
    assert_eq!(shown, [50_000]);
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.admission.take()).collect();
    let of = |number, burst| Some(Rate::new(number, Duration::from_secs(1), burst));
    let limits = SourceLimits { connections: Some(100), rate: of(50, 100), hellos: Some(20) };
    let (prefix, over) = (PrefixLengths::default(), Over::Reject);
    let expected = AdmissionSpec { per_source: Some(limits), prefix, rate: of(5000, 5000), over };
    assert_eq!(shown, [expected]);
    let shown: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.limits.take()).collect();
    assert_eq!(shown, [QuotaSpec { connections: Some(500), rate: of(100, 200), over }]);
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.max_unsent.take()).collect();
    assert_eq!(shown, [1 << 20]);
    let sources = full.pools.iter_mut().map(|pool| std::mem::take(&mut pool.dial.source));
    let shown: Vec<_> = sources.filter(|source| *source != DialSource::Any).collect();
    assert_eq!(shown, [DialSource::Client]);
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.mode.take()).collect();
    assert_eq!(shown, [0o660]);
    let files: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.routes_file.take()).collect();
    assert_eq!(&*files[0].path, Path::new("routes.toml"));
    let files: Vec<_> = full.lists.iter_mut().filter_map(|list| list.file.take()).collect();
    assert_eq!(&*files[0].path, Path::new("bad.txt"));
    let shown: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.max_load.take()).collect();
    assert_eq!(shown, [MaxLoad::of_percent(125)]);
    for pool in &mut full.pools {
        if let Some(forward) = &mut pool.forward {
            assert_eq!(std::mem::take(&mut forward.allow_private), ["10.1.0.0/16".parse().unwrap()]);
            assert_eq!(std::mem::take(&mut forward.resolvers), ["10.0.0.53:53".parse().unwrap()]);
            continue;
        }
        let tiers = std::mem::take(&mut pool.tiers);
        assert_eq!((tiers.zone, tiers.zones), (Some("eu-west".into()), vec!["eu-north".into()]));
        let is_mail = &*pool.name == "mail";
        assert_eq!(tiers.panic_threshold, is_mail.then_some(50));
        let queue = QueueSpec { length: 1000, timeout: Duration::from_secs(5) };
        assert_eq!(pool.queue.take(), is_mail.then_some(queue));
        for backend in &mut pool.backends {
            let limit = backend.max_connections.take();
            assert!(limit.is_none_or(|limit| limit == if is_mail { 100 } else { 50 }));
            assert_eq!(backend.zone.take().is_some(), &*pool.name == "apps");
        }
    }
    // The table alone switches it on; its keys are the defaults.
    let ejections: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.ejection.take()).collect();
    assert_eq!(ejections, [EjectionSpec::default()]);
    let sources = full.pools.iter_mut().filter_map(|pool| pool.discover.as_mut());
    let shown: Vec<_> = sources.filter_map(|discover| discover.drain.take()).collect();
    assert_eq!(shown, [Duration::from_secs(30)]);
    assert_eq!(full, config);
}

#[test]
fn the_example_names_every_key() {
    fn collect(value: &toml::Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if ["listener", "pool", "list"].contains(&path) { "*" } else { key };
                    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    collect(value, &path, keys);
                    keys.insert(path);
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| collect(item, path, keys)),
            _ => {}
        }
    }
    let mut named = BTreeSet::new();
    collect(&example_with_every_key().parse::<toml::Table>().unwrap().into(), "", &mut named);
    let known = schema::keys();
    assert!(known.contains("listener.*.routes.sni") && known.len() > 40, "{known:?}");
    let missing: Vec<_> = known.difference(&named).collect();
    assert!(missing.is_empty(), "not in config.example.toml: {missing:?}");
}

fn fragment() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "\"",
        "'",
        "'''",
        "=",
        ",",
        ".",
        "\n",
        "\r\n",
        "#",
        "\\",
        "\u{0}",
        "é",
        "\u{feff}",
        "𝄞",
        "-1",
        "0x",
        "1979-05-27",
        "pool",
        "listener",
        "[listener.tls]\n",
        "[pool]\n",
        "[[pool.db]]\n",
        "bind = 1\n",
        "bind.x = 1\n",
        "\"\\u001b\"",
        "pool = \"db\"\n",
        "nan",
        "1e999",
        "''' = 1",
    ]);
    token.prop_map(str::to_owned)
}

/// Cuts a piece out of a text and puts a fragment in its place.
fn mutate(text: &mut String, at: usize, cut: usize, fragment: &str) {
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(at % (text.len() + 1));
    let end = boundary((start + cut).min(text.len())).max(start);
    text.replace_range(start..end, fragment);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is written, reading and telling end without a panic, and every place is in the text.
    #[test]
    fn no_text_panics(
        is_full in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, fragment()), 1..6),
    ) {
        let mut text = if is_full { example_with_every_key() } else { EXAMPLE.to_owned() };
        for (at, cut, fragment) in changes {
            let at = at.index(text.len() + 1);
            mutate(&mut text, at, cut, &fragment);
        }
        for diagnostic in diagnostics(&text) {
            for label in &diagnostic.labels {
                prop_assert!(label.span.start <= label.span.end && label.span.end <= text.len());
            }
        }
        if let Err(faults) = parse("test.toml", &text) {
            prop_assert!(!faults.diagnostics().is_empty());
            prop_assert!(faults.render(true).len() > faults.render(false).len());
        }
    }
}

#[test]
fn deep_nesting_is_only_a_fault() {
    for (open, close) in [("a.", "b = 1"), ("a = [", ""), ("a = {a=", ""), ("[a.", "b]"), ("[[a.", "b]]")] {
        let text = open.repeat(100_000) + close;
        assert!(!diagnostics(&text).is_empty());
    }
}

/// The health of a pool with these keys in its `health`.
fn health(keys: &str) -> HealthSpec {
    good(&whole("", &format!("health = {{ {keys} }}"), "")).pools.remove(0).health.unwrap()
}

fn script(keys: &str) -> Script {
    match health(keys).check {
        CheckKind::Dialogue(script) => script,
        CheckKind::Tcp => panic!("{keys}"),
    }
}

#[test]
fn each_kind_of_check_has_its_words() {
    assert_eq!(health("check = 'tcp'"), HealthSpec::default());
    assert_eq!(script("check = 'tls'"), Script::Tls { server_name: None });
    let named = Script::Tls { server_name: Some("a.example".parse().unwrap()) };
    assert_eq!(script("check = 'tls', server_name = 'A.example.'"), named);
    assert_eq!(script("check = 'http'"), Script::Http { path: "/".into(), host: None });
    let asked = Script::Http { path: "/up?x=1".into(), host: Some("[::1]:80".into()) };
    assert_eq!(script("check = 'http', path = '/up?x=1', host = '[::1]:80'"), asked);
    assert_eq!(script("check = 'postgres'"), Script::Postgres { user: None });
    assert_eq!(script("check = 'postgres', user = 'mon'"), Script::Postgres { user: Some("mon".into()) });
    assert_eq!(script("check = 'mysql', user = 'mon'"), Script::Mysql { user: Some("mon".into()) });
    assert_eq!(script("check = 'redis'"), Script::Redis);
    assert_eq!(script("check = 'smtp'"), Script::Smtp);
    assert_eq!(script("check = 'mqtt'"), Script::Mqtt);
    assert_eq!(script("check = 'ssh'"), Script::Ssh);
    let steps = [
        Step::Expect(b"220 ".as_slice().into()),
        Step::Send(b"a\r\n".as_slice().into()),
        Step::Expect([0, 0xff, 0xab].as_slice().into()),
        Step::Send([4].as_slice().into()),
    ];
    let written = "check = 'send-expect', steps = [{ expect = '220 ' }, { send = \"a\\r\\n\" }, \
                   { expect_hex = '00 fF a b' }, { send_hex = '04' }]";
    assert_eq!(script(written), Script::SendExpect(steps.as_slice().into()));
}

#[test]
fn intervals_follow_each_other() {
    let millis = Duration::from_millis;
    let spec = health("interval = '9s', rise = 4, fall = 5");
    assert_eq!(
        (spec.fast_interval, spec.down_interval, spec.timeout),
        (millis(9000), millis(9000), millis(5000))
    );
    assert_eq!((spec.rise, spec.fall), (4, 5));
    let spec = health("interval = '3s', fast_interval = '1s', down_interval = '1m', timeout = '2s'");
    assert_eq!((spec.interval, spec.fast_interval), (millis(3000), millis(1000)));
    assert_eq!((spec.down_interval, spec.timeout), (millis(60_000), millis(2000)));
    check_pool("health = { fast_interval = '3s' }", &["C0311"]);
    check_pool("health = { interval = '1s', fast_interval = '2s' }", &["C0311"]);
}

#[test]
fn misfit_checks_are_faults() {
    check_pool("health = { server_name = 'a.example' }", &["C0308"]);
    check_pool(
        "health = { check = 'tls', path = '/', host = 'x', user = 'y' }",
        &["C0308", "C0308", "C0308"],
    );
    check_pool("health = { check = 'redis', user = 'x' }", &["C0308"]);
    check_pool("health = { check = 'off', user = 'x' }", &[]);
    check_pool("health = { steps = [{ expect = 'x' }] }", &["C0308"]);
    check_pool("health = { check = 'send-expect' }", &["C0105"]);
    check_pool("health = { check = 'send-expect', steps = [] }", &["C0312"]);
    check_pool("health = { check = 'send-expect', steps = [{ send = 'x' }] }", &["C0312"]);
    check_pool("health = { check = 'send-expect', steps = [{}, { expect = 'x' }] }", &["C0312"]);
    check_pool("health = { check = 'send-expect', steps = [{ send = 'x', expect = 'x' }] }", &["C0312"]);
    check_pool("health = { check = 'send-expect', steps = [{ expect = '' }] }", &["C0208"]);
    check_pool("health = { check = 'send-expect', steps = [{ expect_hex = '0' }] }", &["C0208"]);
    check_pool("health = { check = 'send-expect', steps = [{ expect_hex = 'gg' }] }", &["C0208"]);
    check_pool("health = { check = 'send-expect', steps = [{ expct = 'x' }] }", &["C0312", "C0102"]);
    let long =
        format!("health = {{ check = 'send-expect', steps = [{{ expect = '{}' }}] }}", "x".repeat(4097));
    check_pool(&long, &["C0208"]);
    let many = format!("health = {{ check = 'send-expect', steps = [{}] }}", "{ expect = 'x' },".repeat(33));
    check_pool(&many, &["C0312"]);
    check_pool("health = { check = 'http', path = 'up' }", &["C0208"]);
    check_pool("health = { check = 'http', path = '/a b' }", &["C0208"]);
    check_pool("health = { check = 'http', host = \"a\\r\\nb\" }", &["C0208"]);
    check_pool("health = { check = 'http', host = '' }", &["C0208"]);
    check_pool("health = { check = 'mysql', user = '' }", &["C0208"]);
    check_pool("health = { check = 'mysql', user = \"a\\u0000\" }", &["C0208"]);
    check_pool("health = { check = 'tls', server_name = '10.0.0.1' }", &["C0205"]);
}

#[test]
fn checks_and_agents_have_targets() {
    let config = good(&whole(
        "",
        "health = { address = '10.0.0.9:80' }\nagent = { port = 9101, address = '::1', send = 'x', interval = '10s' }",
        "[listener.b]\nbind = ':1'\npool = 'b'\n[pool.b]\nbackends = [{ address = '10.0.0.1:1', \
         health = { address = 'unix:/run/x' }, agent = { port = 5 } }]\nagent = {}",
    ));
    let [b, db] = &config.pools[..] else { panic!("two pools") };
    let target = |host: &str, port| Target { host: host.parse().ok().map(Host::Ip), port: Some(port) };
    assert_eq!(db.health.as_ref().unwrap().target, target("10.0.0.9", 80));
    let agent = AgentSpec {
        target: target("::1", 9101),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        send: Some(b"x".as_slice().into()),
    };
    assert_eq!(db.agent, Some(agent));
    let unix = Target { host: Some(Host::Unix(Path::new("/run/x").into())), port: None };
    assert_eq!(b.backends[0].targets, Targets { health: unix, agent: target("", 5) });
}

#[test]
fn misfit_targets_are_faults() {
    check_pool("health = { address = 'db.example.com' }", &["C0204"]);
    check_pool("health = { address = '10.0.0.1:0' }", &["C0204"]);
    check_pool("health = { address = '10.0.0.1:1', port = 2 }", &["C0204"]);
    check_pool("health = { address = 'unix:/x', port = 2 }", &["C0204"]);
    check_pool("health = { address = 'unix:/x' }", &[]);
    check_pool("health = { port = 0 }", &["C0203"]);
    check_pool("agent = {}", &["C0105"]);
    check_pool("agent = { address = '10.0.0.1' }", &["C0105"]);
    check_pool("agent = { address = '10.0.0.1:1' }", &[]);
    check_pool("agent = { address = 'unix:/x' }", &[]);
    check_pool("agent = { port = 1, interval = '1s', timeout = '2s' }", &["C0311"]);
    let unix = |keys: &str| {
        format!("[listener.db]\nbind = ':1'\npool = 'db'\n[pool.db]\nbackends = ['unix:/b']\n{keys}")
    };
    check(&unix("health.port = 1"), &["C0204"]);
    check(&unix("health.address = '10.0.0.1:1'"), &[]);
    check(&unix("agent.port = 1"), &["C0105"]);
    check(&unix("agent = { port = 1, address = '10.0.0.1' }"), &[]);
}

/// A tcp listener and a tls one with these keys, in front of a pool with those.
fn limited(listener: &str, tls: &str, pool: &str) -> String {
    format!(
        "listener.a = {{ bind = \":1\", pool = \"p\", {listener} }}\n\
         listener.b = {{ bind = \":2\", protocol = \"tls\", unmatched = \"p\", {tls} }}\n\
         pool.p = {{ backends = [\"10.0.0.1:1\"], {pool} }}"
    )
}

#[test]
fn limits_are_read_and_judged() {
    let config = good(&limited(
        "rate = \"300/m\", per_source = { connections = 7 }, over = \"tarpit\"",
        "per_source = { rate = \"5/s\", burst = 9, hellos = 3 }",
        "limits = { rate = \"9/s\", over = \"drop\" }",
    ));
    let admissions: Vec<_> =
        config.listeners.iter().map(|listener| listener.policy.admission.unwrap()).collect();
    let second = Duration::from_secs(1);
    assert_eq!(admissions[0].rate, Some(Rate::new(300, 60 * second, 300)));
    assert_eq!(admissions[0].over, Over::Tarpit(10 * second));
    assert_eq!(
        admissions[0].per_source,
        Some(SourceLimits { connections: Some(7), ..SourceLimits::default() })
    );
    let expected = SourceLimits { connections: None, rate: Some(Rate::new(5, second, 9)), hellos: Some(3) };
    assert_eq!((admissions[1].per_source, admissions[1].over), (Some(expected), Over::Reject));
    let limits = QuotaSpec { connections: None, rate: Some(Rate::new(9, second, 9)), over: Over::Drop };
    assert_eq!(config.pools[0].limits, Some(limits));
    check(&limited("", "per_source = { rate = \"5\" }", ""), &["C0250"]);
    check(&limited("", "per_source = { connections = 0 }", ""), &["C0203"]);
    check(&limited("per_source = { hellos = 3 }", "", ""), &["C0308"]);
    check(&limited("burst = 3", "per_source = { burst = 3 }", "limits = { burst = 3 }"), &["C0308"; 3]);
    check(&limited("over = \"drop\"", "", "limits = { over = \"drop\" }"), &["C0402"; 2]);
    check(&limited("over = \"silent\"", "", ""), &["C0201"]);
    let refusing = "routes = [{ sni = \"x.test\", action = \"drop\", limits = { connections = 1 } }]";
    check(&limited("", refusing, ""), &["C0402"]);
    let words =
        "limits = { when_full = \"drop\", overload = \"oldest\", overload_at = 0, tarpit_timeout = \"1ms\" }";
    check(&(limited("", "", "") + "\n" + words), &["C0201", "C0201", "C0203", "C0203"]);
}

#[test]
fn the_heaviest_are_known_where_every_source_is_counted() {
    let config =
        good(&(limited("", "", "") + "\nlimits = { overload = \"heaviest\", overload_at = \"50%\" }"));
    assert!(config.limits.overload.sheds_heaviest && config.limits.overload.at == 50);
    for listener in &config.listeners {
        let admission = listener.policy.admission.unwrap();
        assert_eq!(admission.per_source, Some(SourceLimits::default()));
    }
    assert!(good(&limited("", "", "")).listeners.iter().all(|listener| listener.policy.admission.is_none()));
}
