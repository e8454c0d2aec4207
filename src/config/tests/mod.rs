mod access_log;
mod addresses;
mod checks;
mod command_line;
mod documents;
mod entrance;
mod hostile;
mod own_listeners;
mod peers;
mod pools;
mod tunnels;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::balance::MaxLoad;
use crate::limit::{OverLimit, PrefixLengths, QuotaSpec, Rate, SourceBy, SourceLimits};
use crate::live::PeerTimeouts;
use crate::pool::{AgentSpec, CheckTarget, CheckTargets, TargetHost};
use crate::pool::{
    AnnounceSpec, BackendSpec, CheckKind, DialSource, DialSpec, DiscoverSource, DiscoverSpec, DnsSpec,
    EjectionSpec, HashOn, HealthSpec, OnDown, OperatorState, Passed, QueueSpec, RecordKind, SourcePrefix,
    TierSpec,
};
use crate::relay::{EngineChoice, RelayOptions};
use crate::snapshot::{
    ActionSpec, AdmissionSpec, ClientRefusal, HelloSpec, OpeningSpec, ProtocolSpec, ProxyMode, TargetSpec,
};
use crate::sys::socket::KernelBuffers;
use crate::sys::tcp::Keepalive;
use crate::telemetry::{AccessLogEvents, AccessLogFormat, AccessLogTarget, LogFormat, LogLevel};
use crate::wire::Script;
use crate::wire::dialogue::ScriptStep;
use crate::wire::proxy_protocol::{HeaderVersion, Tlv};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

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
        Err(faults) => faults.diagnostics().into_iter().cloned().collect(),
    }
}

fn check(text: &str, expected: &[&str]) {
    let found: Vec<_> = diagnostics(text).iter().map(|d| d.code.as_str()).collect();
    assert_eq!(found, expected, "{text}");
}

/// Returns a whole configuration with these keys of its `tcp` listener and of its pool, and these other tables.
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

fn admin(listen: &str) -> AdminSpec {
    AdminSpec::new(listen.parse::<crate::sys::Address>().unwrap())
}

/// Checks a `tls` listener with these keys, and pools `a` and `b`.
fn check_tls(keys: &str, expected: &[&str]) {
    check(
        &format!(
            "[listener.tls]\nbind = ':443'\nprotocol = 'tls'\n{keys}\n\
             [pool.a]\nbackends = ['10.0.0.1:443']\n[pool.b]\nbackends = ['10.0.0.2:443']\n"
        ),
        expected,
    );
}

/// Returns the example with every commented key written out: `#key = ...` and `#[table]`.
fn example_with_every_key() -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
    };
    let lines = EXAMPLE.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// A message is an interface: the rendering of each fixture is in a file beside it. After an intended change run
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
    assert_eq!(config.admin, []);
    assert_eq!(config.access_log.to, AccessLogTarget::Stdout);
    assert_eq!(config.access_log.format, None);
    assert_eq!(config.log, LogSpec { level: LogLevel::Info, format: LogFormat::Text });
    let seconds = Duration::from_secs;
    assert_eq!(config.shutdown, ShutdownSpec { grace: Duration::ZERO, drain: seconds(30) });
    assert_eq!(config.handover, HandoverSpec::RuntimeDirectory);

    let [listener] = &config.listeners[..] else { panic!("one listener") };
    assert_eq!(&*listener.name, "db");
    assert_eq!(listener.binds, ["0.0.0.0:5432".parse().unwrap(), "[::]:5432".parse().unwrap()]);
    assert_eq!(listener.backlog, 4096);
    assert_eq!(listener.buffers, KernelBuffers::default());
    assert_eq!(
        listener.policy.protocol,
        ProtocolSpec::Tcp { pool: "db".into(), routes: std::sync::Arc::default() }
    );
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
         [log]\nlevel = 'trace'\nformat = 'json'\n[shutdown]\ngrace = '5s'\ndrain = '1m 30s'\n[handover]\nsocket = '/run/h'\n\
         [listener.tls]\nbind = [':443', '127.0.0.1:8443']\nprotocol = 'tls'\nno_sni = 'p'\nunmatched = 'p'\n\
         routes = [{ sni = ['A.example.', '*.b.example'], pool = 'p' }]\n\
         first_byte_timeout = '1ms'\nhello_timeout = '2ms'\nhello_max_size = 65536\nidle_timeout = '3s'\n\
         half_closed_timeout = '4s'\nreset_linger = '0s'\nengine = 'splice'\nmax_connections = 7\nbacklog = 8\n\
         keepalive = 'off'\nuser_timeout = '1500ms'\nstall_timeout = '1s'\nmax_unsent = 1_048_576\nmax_unread = 65536\n\
         [pool.p]\nbalance = 'maglev'\nhash_on = 'sni'\nsource_prefix = { v4 = 24, v6 = 48 }\nattempts = 1\n\
         max_load = 1.25\nslow_start = '30s'\n\
         keepalive = '10s'\nkeepalive_interval = '5s'\nkeepalive_count = 9\nstall_timeout = '1m'\n\
         connect_timeout = '1s'\ndial_timeout = '1s'\nmax_unsent = 262_144\nmax_unread = 524_288\non_down = 'close'\nclose_rate = 7\n\
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
    assert_eq!(config.admin, [admin("[::1]:9100")]);
    assert_eq!(config.access_log.to, AccessLogTarget::File("./log".into()));
    assert_eq!(config.access_log.format, Some(AccessLogFormat::Text));
    assert_eq!(config.log, LogSpec { level: LogLevel::Trace, format: LogFormat::Json });
    assert_eq!(config.shutdown, ShutdownSpec { grace: millis(5000), drain: millis(90_000) });
    assert_eq!(config.handover, HandoverSpec::At(Path::new("/run/h").into()));

    let listener = &config.listeners[0];
    assert_eq!(listener.binds.len(), 3);
    assert_eq!(listener.backlog, 8);
    assert_eq!(listener.buffers, KernelBuffers { max_unsent: Some(1 << 20), max_unread: Some(1 << 16) });
    assert_eq!(listener.policy.max_connections, Some(7));
    let relay = RelayOptions {
        engine: EngineChoice::Splice,
        idle_timeout: millis(3000),
        half_closed_timeout: millis(4000),
        reset_linger: Duration::ZERO,
        client: PeerTimeouts {
            keepalive: None,
            user_timeout: Some(millis(1500)),
            stall_timeout: Some(millis(1000)),
        },
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
    assert_eq!(
        [pool.backends[0].operator_state, pool.backends[1].operator_state],
        [OperatorState::Drain, OperatorState::Ready]
    );
    let dial = DialSpec {
        attempts: 1,
        connect_timeout: millis(1000),
        dial_timeout: millis(1000),
        source: DialSource::Any,
        buffers: KernelBuffers { max_unsent: Some(1 << 18), max_unread: Some(1 << 19) },
        peer_timeouts: Arc::new(PeerTimeouts {
            keepalive: Some(Keepalive { idle: millis(10_000), interval: millis(5000), count: 9 }),
            user_timeout: None,
            stall_timeout: Some(millis(60_000)),
        }),
    };
    assert_eq!(pool.dial, dial);
    let backends: Vec<_> =
        pool.backends.iter().map(|b| (&*b.name, b.address.to_string(), b.weight)).collect();
    let expected =
        [("x", "unix:/run/x".to_owned(), 0), ("[2001:db8::1]:443", "[2001:db8::1]:443".to_owned(), 1)];
    assert_eq!(backends[..2], expected);
    let tiers = TierSpec {
        zone: Some("a".into()),
        zones: vec!["c".into(), "b".into()],
        panic_threshold: Some(50),
        near: None,
    };
    assert_eq!(pool.tiers, tiers);
    assert_eq!(pool.queue, Some(QueueSpec { length: 6, timeout: millis(7000) }));
    let found: Vec<_> =
        pool.backends.iter().map(|b| (b.zone.as_deref(), b.backup, b.max_connections)).collect();
    let expected = [
        (Some("a"), true, Some(5)),
        (None, false, Some(5)),
        (Some("b"), false, Some(9)),
        (Some("c"), false, Some(5)),
    ];
    assert_eq!(found, expected);
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
    for check in [check_listener, check_pool] {
        check("keepalive_interval = '999ms'\nkeepalive_count = 128", &["C0203", "C0203"]);
        check("keepalive_interval = 'off'\nstall_timeout = '999ms'", &["C0202", "C0203"]);
        check("user_timeout = '99ms'", &["C0203"]);
    }
    check_listener("backlog = 0", &["C0203"]);
    check_listener("backlog = 0x10", &[]);
    check_listener("max_unsent = 16383", &["C0203"]);
    check_listener("max_unread = 1073741825", &["C0203"]);
    check_pool("max_unread = 16383", &["C0203"]);
    check_pool("max_unsent = '1MiB'", &["C0104"]);
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
        |address: &str| format!("[pool.x]\nbackends = ['{address}']\n[listener.x]\nbind=':2'\npool='x'");
    for address in ["10.0.0.1:1", "[::1]:1", "unix:/run/x", "[fe80::1%3]:1"] {
        check_others(&backend(address), &[]);
    }
    for address in
        ["10.0.0.1:0", "10.0.0.1", "a.example", "a.example:0", "unix:x", "", ":1", "10.0.0.1:+1", "::1:1"]
    {
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

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let told = load(Path::new("/nowhere/pointsman.toml")).unwrap_err().render(false);
    insta::assert_snapshot!(told, @r"
    error[C0100]: the configuration cannot be read: there is no such file
    --> /nowhere/pointsman.toml
     = help: README.md has configurations to begin with, config.example.toml has every key; `pointsman run --listen :5432 --backend 10.0.0.1:5432` needs no file

    /nowhere/pointsman.toml: 1 fault
    ");
    assert_eq!(load(&fixtures()).unwrap_err().diagnostics()[0].code, Code::Unreadable);
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
