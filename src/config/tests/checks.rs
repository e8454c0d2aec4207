//! Checks of backends, and their agents.

use std::net::{IpAddr, SocketAddr};

use super::*;

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
    let host = |ip: IpAddr| Host::Address(SocketAddr::new(ip, 0).into());
    let target = |ip: &str, port| Target { host: ip.parse().ok().map(host), port: Some(port) };
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
