//! Tests of health checks and agents.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::pool::{CheckHeader, TlsSpec};
use crate::wire::dialogue::{BodyMatch, BytePattern, HttpScript};
use crate::wire::proxy_protocol::HeaderVersion;

/// Returns the health spec of a pool with these keys in its `health`.
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
    assert_eq!(script("check = 'http'"), Script::Http(Arc::default()));
    let asked = HttpScript { path: "/up?x=1".into(), host: Some("[::1]:80".into()), ..HttpScript::default() };
    let asked = Script::Http(asked.into());
    assert_eq!(script("check = 'http', path = '/up?x=1', host = '[::1]:80'"), asked);
    assert_eq!(script("check = 'postgres'"), Script::Postgres { user: None });
    assert_eq!(script("check = 'postgres', user = 'mon'"), Script::Postgres { user: Some("mon".into()) });
    assert_eq!(script("check = 'mysql', user = 'mon'"), Script::Mysql { user: Some("mon".into()) });
    assert_eq!(script("check = 'redis'"), Script::Redis);
    assert_eq!(script("check = 'smtp'"), Script::Smtp);
    assert_eq!(script("check = 'mqtt'"), Script::Mqtt);
    assert_eq!(script("check = 'ssh'"), Script::Ssh);
    let steps = [
        ScriptStep::Expect(b"220 ".as_slice().into()),
        ScriptStep::Send(b"a\r\n".as_slice().into()),
        ScriptStep::Expect([0, 0xff, 0xab].as_slice().into()),
        ScriptStep::Send([4].as_slice().into()),
    ];
    let written = "check = 'send-expect', steps = [{ expect = '220 ' }, { send = \"a\\r\\n\" }, \
                   { expect_hex = '00 fF a b' }, { send_hex = '04' }]";
    assert_eq!(script(written), Script::SendExpect(steps.as_slice().into()));
}

#[test]
fn http_checks_say_what_they_expect() {
    let http = |keys: &str| match script(&format!("check = 'http', {keys}")) {
        Script::Http(script) => HttpScript::clone(&script),
        other => panic!("{other:?}"),
    };
    let expected = |keys: &str| http(&format!("expect = {keys}")).expect;
    assert_eq!(expected("'200-299'"), [200..=299]);
    assert_eq!(expected("'429'"), [429..=429]);
    assert_eq!(expected("[200, '429', '472-473']"), [200..=200, 429..=429, 472..=473]);
    let asked = http("method = 'OPTIONS', headers = { X-B = 'c d', Authorization = 'Basic eDp5' }");
    assert_eq!(&*asked.method, "OPTIONS");
    let headers = [("Authorization", "Basic eDp5"), ("X-B", "c d")];
    assert_eq!(asked.headers, headers.map(|(name, value)| (name.into(), value.into())));
    let text = BodyMatch::Contains(b"ok"[..].into());
    assert_eq!(http("body = 'ok'").body, Some(text));
    let pattern = BodyMatch::Matches(BytePattern::new("^ok$").unwrap());
    assert_eq!(http("body_regex = '^ok$'").body, Some(pattern));

    check_pool("health = { check = 'http', expect = '100' }", &["C0208"]);
    check_pool("health = { check = 'http', expect = '399-200' }", &["C0208"]);
    check_pool("health = { check = 'http', expect = ['200', 'ok'] }", &["C0208"]);
    check_pool("health = { check = 'http', expect = true }", &["C0104"]);
    check_pool("health = { check = 'http', method = 'get' }", &["C0208"]);
    check_pool("health = { check = 'http', method = 'CONNECT' }", &["C0208"]);
    check_pool("health = { check = 'http', headers = { Host = 'x' } }", &["C0208"]);
    check_pool("health = { check = 'http', headers = { 'a b' = 'x' } }", &["C0208"]);
    check_pool("health = { check = 'http', headers = { a = \"x\\r\\ny\" } }", &["C0208"]);
    check_pool("health = { check = 'http', body = 'a', body_regex = 'a' }", &["C0308"]);
    check_pool("health = { check = 'http', method = 'HEAD', body = 'a' }", &["C0308"]);
    check_pool("health = { check = 'http', body_regex = '(' }", &["C0208"]);
    check_pool("health = { check = 'http', body_regex = 'a*' }", &["C0208"]);
    check_pool("health = { check = 'redis', expect = '200' }", &["C0308"]);
}

#[test]
fn steps_may_be_patterns_and_refuse() {
    let steps = [
        ScriptStep::Refuse(b"loading:1".as_slice().into()),
        ScriptStep::ExpectPattern(BytePattern::new("role:(master|primary)").unwrap()),
    ];
    let written = "check = 'send-expect', steps = [{ refuse = 'loading:1' }, { expect_regex = 'role:(master|primary)' }]";
    assert_eq!(script(written), Script::SendExpect(steps.as_slice().into()));
    check_pool("health = { check = 'send-expect', steps = [{ refuse = 'x' }] }", &["C0312"]);
    check_pool("health = { check = 'send-expect', steps = [{ expect_regex = '(' }] }", &["C0208"]);
    check_pool("health = { check = 'send-expect', steps = [{ expect = 'x', refuse = 'y' }] }", &["C0312"]);
}

#[test]
fn checks_go_through_tls() {
    let spec = health("check = 'http', tls = true").tls;
    assert_eq!(spec, Some(TlsSpec::default()));
    let keys = "tls = true, server_name = 'A.example', alpn = ['http/1.1', 'x'], ca_file = 'ca.pem'";
    let spec = health(&format!("check = 'http', {keys}")).tls.unwrap();
    assert_eq!(spec.server_name, Some("a.example".parse().unwrap()));
    assert_eq!(spec.alpn, ["http/1.1".into(), "x".into()]);
    assert_eq!(spec.ca.map(|ca| ca.path.to_path_buf()), Some("ca.pem".into()));
    let name =
        |host: &str| health(&format!("check = 'http', tls = true, host = '{host}'")).tls.unwrap().server_name;
    assert_eq!(name("a.example"), Some("a.example".parse().unwrap()));
    assert_eq!(name("a.example:8443"), Some("a.example".parse().unwrap()));
    assert_eq!((name("10.0.0.1"), name("[::1]:80")), (None, None));
    assert_eq!(health("check = 'http', tls = false").tls, None);
    for kind in ["redis", "smtp", "mqtt"] {
        assert!(health(&format!("check = '{kind}', tls = true")).tls.is_some(), "{kind}");
    }
    check_pool("health = { check = 'http', server_name = 'a.example' }", &["C0308"]);
    check_pool("health = { check = 'http', ca_file = 'x' }", &["C0308"]);
    check_pool("health = { check = 'http', tls = true, alpn = 'h2' }", &["C0308"]);
    check_pool("health = { check = 'tls', tls = true }", &["C0308"]);
    check_pool("health = { check = 'ssh', tls = true }", &["C0308"]);
    check_pool("health = { tls = true }", &["C0308"]);
}

#[test]
fn smtp_checks_are_patient() {
    let times = |keys: &str| {
        let spec = health(&format!("check = 'smtp'{keys}"));
        (spec.interval.as_secs(), spec.timeout.as_secs())
    };
    assert_eq!(times(""), (2, 10));
    assert_eq!(times(", interval = '1s'"), (1, 10));
    assert_eq!(times(", interval = '1s', timeout = '8s'"), (1, 8));
    assert_eq!(times(", interval = '1m', timeout = '20s'"), (60, 20));
    check_pool("health = { check = 'smtp', timeout = '11s' }", &["C0311"]);
}

#[test]
fn checks_have_a_header_of_their_own() {
    let header = |keys: &str| {
        let pool = format!("proxy_protocol = 'v2'\nhealth = {{ {keys} }}");
        good(&whole("", &pool, "")).pools.remove(0).health.unwrap().proxy_protocol
    };
    assert_eq!(header(""), Some(CheckHeader::Local(HeaderVersion::V2)));
    assert_eq!(header("proxy_protocol = true"), Some(CheckHeader::Local(HeaderVersion::V2)));
    assert_eq!(header("proxy_protocol = 'local'"), Some(CheckHeader::Local(HeaderVersion::V2)));
    assert_eq!(header("proxy_protocol = 'proxy'"), Some(CheckHeader::Proxy(HeaderVersion::V2)));
    assert_eq!(header("proxy_protocol = false"), None);
    check_pool("health = { proxy_protocol = 'proxy' }", &["C0402"]);
    check_pool("proxy_protocol = 'v2'\nhealth = { proxy_protocol = 'v1' }", &["C0104"]);
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
    let host = |ip: IpAddr| TargetHost::Address(SocketAddr::new(ip, 0).into());
    let target = |ip: &str, port| CheckTarget { host: ip.parse().ok().map(host), port: Some(port) };
    assert_eq!(db.health.as_ref().unwrap().target, target("10.0.0.9", 80));
    let agent = AgentSpec {
        target: target("::1", 9101),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        send: Some(b"x".as_slice().into()),
    };
    assert_eq!(db.agent, Some(agent));
    let unix = CheckTarget { host: Some(TargetHost::Unix(Path::new("/run/x").into())), port: None };
    assert_eq!(b.backends[0].targets, CheckTargets { health: unix, agent: target("", 5) });
}

#[test]
fn checks_and_agents_ask_at_host_names() {
    let pool = |keys: &str| good(&whole("", keys, "")).pools.remove(0);
    let names = |keys: &str| {
        let of = |source: &DiscoverSpec| match &source.source {
            DiscoverSource::Dns(DnsSpec { name, records: RecordKind::Addresses { port: 0 }, .. }) => {
                name.to_string()
            }
            other => panic!("{other}"),
        };
        pool(keys).check_names.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    let target = |name: &str, port| CheckTarget { host: Some(TargetHost::Name(name.into())), port };
    let spec = pool("health = { address = 'probe.test:80' }\nagent = { address = 'agents.', port = 9 }");
    assert_eq!(spec.health.unwrap().target, target("probe.test", Some(80)));
    assert_eq!(spec.agent.unwrap().target, target("agents.", Some(9)));
    assert_eq!(pool("health = { address = 'probe' }").health.unwrap().target, target("probe", None));

    assert_eq!(names("health = { address = 'b:80' }\nagent = { address = 'a:9' }"), "a b");
    assert_eq!(
        names("health = { address = 'a:80' }\nagent = { address = 'a:9' }"),
        "a",
        "one look-up for both"
    );
    assert_eq!(names("health = { check = 'off', address = 'b:80' }"), "", "nothing is asked");
    assert_eq!(names("health = { address = '10.0.0.9:80' }"), "");
    let own = "[listener.b]\nbind = ':1'\npool = 'b'\n[pool.b]\nbackends = [{ address = 'db1:1', \
               health = { address = 'c' }, agent = { address = 'd:5' } }]\nhealth.address = 'a:2'";
    let asked = good(&whole("", "", own)).pools.remove(0).check_names.len();
    assert_eq!(asked, 2, "the pool's and the backend's; no agent is asked");
    let resolve =
        "health.address = 'a:80'\nresolve = { resolvers = '10.0.0.53', min_ttl = '1s', hold = '9s' }";
    let spec = &pool(resolve).check_names[0];
    let DiscoverSource::Dns(dns) = &spec.source else { panic!("{spec:?}") };
    assert_eq!((dns.resolvers.len(), dns.min_ttl.as_secs(), spec.hold.as_secs()), (1, 1, 0));
    check_pool(resolve, &[]);
}

#[test]
fn misfit_targets_are_faults() {
    for address in
        ["10.0.0.300:80", "db1:0", "db1:70000", "db1:x", "a b:80", "http://db1", "unix:80", "10.1:80", ""]
    {
        check_pool(&format!("health = {{ address = '{address}' }}"), &["C0204"]);
        check_pool(&format!("agent = {{ port = 1, address = '{address}' }}"), &["C0204"]);
    }
    check_pool("health = { address = 'db1:1', port = 2 }", &["C0204"]);
    check_pool("agent = { address = 'db1' }", &["C0105"]);
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
    check(&unix("health.address = 'db1:1'"), &[]);
    check(&unix("health.address = 'db1'"), &["C0204"]);
    check(&unix("agent.port = 1"), &["C0105"]);
    check(&unix("agent = { port = 1, address = '10.0.0.1' }"), &[]);
}

#[test]
fn words_of_others_lead_to_ours() {
    let told = |keys: &str| {
        let text = whole("", &format!("health = {{ {keys} }}"), "");
        crate::config::parse("test.toml", &text).unwrap_err().to_string()
    };
    assert!(told("check = 'https'").contains("With tls = true it uses TLS"));
    assert!(told("check = 'http', status = [200]").contains("write expect = "));
    assert!(told("check = 'http', ssl = true").contains("write tls = true"));
    assert!(told("check = 'pgsql-check'").contains("did you mean \"postgres\"?"));
}
