use std::fs;
use std::path::PathBuf;

use crate::config::{Config, RoutesReader, load, parse};
use crate::route::{NamePattern, RouteKey};
use crate::snapshot::{ActionSpec, OpeningSpec, TargetSpec};

/// Returns a tls listener with these routes, and pools `a`, `b` and `c`, of which `c` hashes names.
fn tls(routes: &str) -> String {
    format!(
        "[listener.x]\nbind = ':1'\nprotocol = 'tls'\nno_sni = 'a'\nunmatched = 'b'\nroutes = [{routes}]\n{}",
        pools()
    )
}

/// Returns a tcp listener with these routes, and the same pools.
fn tcp(routes: &str) -> String {
    format!(
        "[listener.x]\nbind = ':1'\npool = 'a'\nroutes = [{routes}]\n[listener.y]\nbind = ':2'\nprotocol = 'tls'\nno_sni = 'b'\nunmatched = 'c'\n{}",
        pools()
    )
}

fn pools() -> String {
    let pool = |name: &str, keys: &str| format!("[pool.{name}]\nbackends = ['10.0.0.1:1']\n{keys}\n");
    pool("a", "") + &pool("b", "") + &pool("c", "hash_on = 'sni'")
}

fn check(text: &str, expected: &[&str]) {
    let codes: Vec<_> = match parse("test.toml", text) {
        Ok((_, warnings)) => warnings.diagnostics().iter().map(|one| one.code.as_str()).collect(),
        Err(faults) => faults.diagnostics().iter().map(|one| one.code.as_str()).collect(),
    };
    // Most of the tests do not use `c`.
    let told: Vec<_> = codes.into_iter().filter(|code| *code != "C0401").collect();
    assert_eq!(told, expected, "{text}");
}

fn good(text: &str) -> Config {
    parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}")).0
}

#[test]
fn routes_are_filled_in() {
    let config = good(&tls("{ sni = ['*.a.example', '*.b.example'], depth = 1, pool = 'a' }"));
    let keys = &config.listeners[0].policy.protocol.routes()[0].keys;
    assert!(keys.iter().all(|key| matches!(key, RouteKey::Name(NamePattern::Child(_)))), "{keys:?}");
    let config = good(&tls(
        "{ sni = 'a.example', source = ['10.0.0.0/8', '::1'], destination = ':1', alpn = 'h2', ja4 = 't13*', \
         ech = false, tls_min = '1.2', name = 'all', split = [{ pool = 'a', weight = 9 }, { pool = 'b' }] }, \
         { sni_regex = 'x[0-9]+', action = 'drop' }, { source = '10.0.0.0/8', action = 'reject' }",
    ));
    let [all, regex, any] = config.listeners[0].policy.protocol.routes() else { panic!("three routes") };
    let conditions = all.conditions.as_ref().unwrap();
    assert_eq!(conditions.to_string(), "+source+destination+alpn+ja4+ech+tls_min");
    assert_eq!(all.name.as_deref(), Some("all"));
    assert!(matches!(&all.action, ActionSpec::Split(_, pools) if *pools == ["a".into(), "b".into()]));
    assert_eq!((regex.keys[0].to_string(), &regex.action), ("/x[0-9]+/".to_owned(), &ActionSpec::Drop));
    assert_eq!((any.keys[0].to_string(), &any.action), ("*".to_owned(), &ActionSpec::Reject));
    assert!(regex.conditions.is_none() && any.conditions.is_some());
}

#[test]
fn bad_values_are_told() {
    let condition = |condition: &str, expected: &[&str]| {
        check(&tls(&format!("{{ sni = 'x.example', {condition}, pool = 'a' }}")), expected);
    };
    condition("source = '10.0.0.1/8'", &["C0240"]);
    condition("source = ['10.0.0.0/33', 'x']", &["C0240", "C0240"]);
    condition("source = []", &["C0240"]);
    condition("source = 1", &["C0104"]);
    condition("destination = 'x'", &["C0240"]);
    condition("destination = []", &["C0240"]);
    condition("alpn = ''", &["C0240"]);
    condition("alpn = []", &["C0240"]);
    condition("ja4 = 'x'", &["C0240"]);
    condition("ja4 = []", &["C0240"]);
    condition("tls_min = '1.4'", &["C0201"]);
    condition("ech = 'yes'", &["C0104"]);
    condition("depth = 2", &["C0203"]);
    condition("depth = 1", &["C0308"]);
    condition("action = 'deny'", &["C0201"]);
    check(&tls("{ source = '::1', depth = 1, pool = 'a' }"), &["C0308"]);
    let regex = |written: &str| check(&tls(&format!("{{ sni_regex = {written}, pool = 'a' }}")), &["C0240"]);
    regex("'('");
    regex("'a)|(b'");
    regex("[]");
}

/// All conditions of a route must match, and a name and an expression would be alternatives.
#[test]
fn a_name_and_an_expression_need_two_routes() {
    check(&tls("{ sni = 'x.example', sni_regex = 'y', pool = 'a' }"), &["C0352"]);
    check(&tls("{ sni = 'x.example', sni_regex = [], pool = 'a' }"), &["C0240", "C0352"]);
    check(&tls("{ sni = 'x.example', pool = 'a' }, { sni_regex = 'y', pool = 'a' }"), &[]);
    let file = "routes = [{ sni = 'b.example', sni_regex = 'y', pool = 'b' }]";
    let told = with_file("either", "protocol = 'tls'", file).unwrap_err();
    assert!(told.starts_with("error[C0352]") && told.contains("routes.toml:1:"), "{told}");
}

#[test]
fn a_route_leads_to_one_thing() {
    check(&tls("{ sni = 'x.example' }"), &["C0105"]);
    check(&tls("{ sni = 'x.example', pool = 'a', action = 'reject' }"), &["C0350"]);
    check(&tls("{ sni = 'x.example', pool = 'a', split = [{ pool = 'b' }] }"), &["C0350"]);
    check(&tls("{ sni = 'x.example', split = [{ pool = 'z' }, { weight = 1 }] }"), &["C0301", "C0105"]);
    check(&tls("{ sni = 'x.example', split = [{ pool = 'a', weight = 0 }] }"), &["C0304"]);
    check(&tls("{ sni = 'x.example', split = [] }"), &["C0304"]);
    let told = parse("test.toml", &tls("{ sni = 'x.example', split = [] }")).unwrap_err().to_string();
    assert!(told.contains("--> test.toml:6:32"), "{told}");
    check(&tls("{ pool = 'a' }"), &["C0105"]);
    check(&tls("{ sni = 'x.example', split = [{ pool = 'a' }, { pool = 'c' }] }"), &[]);
}

#[test]
fn ties_are_faults() {
    let pair = |one: &str, two: &str, expected: &[&str]| {
        check(&tls(&format!("{{ {one}, pool = 'a' }}, {{ {two}, pool = 'b' }}")), expected);
    };
    pair("sni = 'x.example'", "sni = 'x.example'", &["C0302"]);
    pair("sni = 'x.example'", "sni = 'x.example', alpn = 'h2'", &[]);
    pair("sni = 'x.example', alpn = 'h2'", "sni = 'x.example', alpn = ['a', 'h2']", &["C0302"]);
    pair("sni = '*.example'", "sni = '*.example', depth = 1", &[]);
    pair("source = '::1'", "source = ['10.0.0.0/8', '::1']", &["C0302"]);
    pair("sni_regex = 'a'", "sni_regex = ['b', 'a']", &["C0302"]);
    let many = |count: usize| {
        let routes =
            (0..count).map(|n| format!("{{ sni = 'x.example', destination = ':{}', pool = 'a' }}", n + 1));
        tls(&routes.collect::<Vec<_>>().join(", "))
    };
    check(&many(1000), &[]);
    check(&many(1001), &["C0351"]);
    let many = |count: usize| {
        let routes = (0..count).map(|n| format!("'x{n}'")).collect::<Vec<_>>().join(", ");
        tls(&format!("{{ sni_regex = [{routes}], pool = 'a' }}"))
    };
    check(&many(100), &[]);
    check(&many(101), &["C0351"]);
}

#[test]
fn a_tcp_listener_asks_for_addresses_only() {
    check(&tcp("{ source = '10.0.0.0/8', pool = 'b' }, { destination = ':2', action = 'drop' }"), &[]);
    check(&tcp("{ sni = 'x.example', pool = 'b' }"), &["C0308"]);
    check(&tcp("{ source = '::1', alpn = 'h2', tls_min = '1.2', pool = 'b' }"), &["C0308", "C0308"]);
    check(&tcp("{ source = '::1', pool = 'c' }"), &["C0303"]);
    check(&tcp("{ pool = 'b' }"), &["C0105"]);
}

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pointsman-routes-{name}-{}", std::process::id()))
}

/// Loads a configuration with a file of routes, in a directory of its own.
fn with_file(name: &str, protocol: &str, file: &str) -> Result<Config, String> {
    let directory = directory(name);
    fs::create_dir_all(&directory).unwrap();
    let main = format!("[listener.x]\nbind = ':1'\nroutes_file = 'routes.toml'\n{protocol}\n{}", pools());
    fs::write(directory.join("main.toml"), main).unwrap();
    fs::write(directory.join("routes.toml"), file).unwrap();
    let shown = directory.display().to_string();
    let loaded = load(&directory.join("main.toml"));
    loaded.map(|(config, _)| config).map_err(|faults| faults.to_string().replace(&shown, "."))
}

#[test]
fn a_file_has_further_routes() {
    let protocol = "protocol = 'tls'\nroutes = [{ sni = 'a.example', pool = 'a' }]";
    let config = with_file("good", protocol, "routes = [{ sni = '*.example', pool = 'c' }]").unwrap();
    let listener = &config.listeners[0].policy;
    let keys: Vec<_> = listener.protocol.routes().iter().map(|route| route.keys[0].to_string()).collect();
    assert_eq!(keys, ["a.example", "*.example"]);
    assert_eq!(listener.routes_file.as_ref().unwrap().written, 1);
    let readers = RoutesReader::all(&config);
    assert_eq!(readers[0].read().unwrap(), listener.protocol.routes()[1..]);
    assert_eq!(readers[0].written(), &listener.protocol.routes()[..1]);
}

#[test]
fn faults_of_a_file_are_told_with_their_place() {
    let protocol = "protocol = 'tls'\nroutes = [{ sni = 'a.example', pool = 'a' }]";
    let told = |name, file| with_file(name, protocol, file).unwrap_err();
    insta::assert_snapshot!(told(
        "two",
        "routes = [\n  { sni = 'a.example', pool = 'b' },\n  { sni = 'b.example', pool = 'd' },\n]"
    ));
    insta::assert_snapshot!(told("key", "rotes = []\nroutes = 1"));
    insta::assert_snapshot!(told("absent", ""));
    let tcp = with_file(
        "tcp",
        "pool = 'a'",
        "routes = [{ source = '::1', pool = 'c' }, { sni = 'x', pool = 'b' }]",
    );
    insta::assert_snapshot!(tcp.unwrap_err());
}

/// A listener that reads no header never finds a TLV.
#[test]
fn tlvs_need_headers() {
    let route = "{ sni = 'a.example', proxy_tlv = { '0xEA' = 'vpce-1' }, pool = 'a' }, \
                 { sni = 'a.example', action = 'reject' }";
    let reads = "proxy_protocol = { trusted = '10.0.0.0/8' }\n[pool.a]";
    let without = tls(route);
    check(&without, &["C0308"]);
    check(&tcp("{ proxy_tlv = { '0xEA' = 'vpce-1' }, pool = 'a' }"), &["C0308"]);
    check(&without.replacen("[pool.a]", reads, 1), &[]);
    // A wrong key is still present.
    check(&without.replacen("[pool.a]", "proxy_protocol = 1\n[pool.a]", 1), &["C0104"]);
    let file = format!("routes = [{route}]");
    let keys = "protocol = 'tls'\nunmatched = 'b'";
    let told = with_file("tlv", keys, &file).unwrap_err();
    assert!(
        told.starts_with("error[C0308]") && told.contains("write on the listener: proxy_protocol"),
        "{told}"
    );
    with_file("tlv", &format!("{keys}\nproxy_protocol = {{ trusted = '10.0.0.0/8' }}"), &file).unwrap();
}

/// A pool is checked for a route in a file as for one in the configuration.
#[test]
fn a_file_leads_where_its_listener_may() {
    let check = |name: &str, keys: &str, pool: &str, expected: &str| {
        let others = "[listener.y]\nbind = ':2'\nprotocol = 'tls'\nunmatched = 'egress'\n\
                      [pool.egress]\nforward = { to = 'sni', allow = ['*.example'] }\n\
                      [pool.told]\nbackends = ['10.0.0.1:1']\nhash_on = 'proxy-authority'";
        let file = format!("routes = [{{ source = '::1', pool = '{pool}' }}]");
        let told = with_file(name, &format!("pool = 'a'\n{keys}\n{others}"), &file).err().unwrap_or_default();
        assert_eq!(told.split(':').next(), Some(expected), "{told}");
    };
    let proxy = "proxy_protocol = { trusted = '10.0.0.0/8' }";
    check("told", proxy, "told", "");
    check("untold", "", "told", "error[C0303]");
    check("unnamed", proxy, "c", "error[C0303]");
    check("egress", "", "egress", "error[C0341]");
}

/// The pools to which a file leads may change later, without a check of the configuration.
#[test]
fn requests_to_cancel_do_not_follow_a_file() {
    let check = |name: &str, keys: &str, expected: TargetSpec| {
        let protocol =
            format!("protocol = 'postgres'\nroutes = [{{ sni = 'a.example', pool = 'a' }}]\n{keys}");
        let config = with_file(name, &protocol, "routes = [{ sni = 'b.example', pool = 'b' }]").unwrap();
        let OpeningSpec::Postgres { cancel, .. } = &config.listeners[0].policy.opening else {
            panic!("{name}")
        };
        assert_eq!(*cancel, expected, "{keys}");
    };
    check("cancel", "", TargetSpec::Reject);
    check("cancel-named", "cancel = 'a'", TargetSpec::Pool("a".into()));
    check("cancel-plaintext", "plaintext = 'a'", TargetSpec::Reject);
}

#[test]
fn a_missing_file_is_a_fault() {
    let directory = directory("missing");
    fs::create_dir_all(&directory).unwrap();
    let main = directory.join("main.toml");
    fs::write(
        &main,
        format!("[listener.x]\nbind = ':1'\npool = 'a'\nroutes_file = 'none.toml'\n{}", pools()),
    )
    .unwrap();
    let told = load(&main).unwrap_err().to_string();
    assert!(told.contains("the file with routes cannot be read: there is no such file"), "{told}");
}

#[test]
fn routes_that_leave_names_to_wider_ones_are_told() {
    let closed = |routes: &str| {
        let unmatched = "unmatched = 'reject'";
        tls(routes).replace("unmatched = 'b'", unmatched) + "\n[listener.y]\nbind = ':2'\npool = 'b'\n"
    };
    let leaks = |routes: &str| check(&closed(routes), &["C0451"]);
    let holds = |routes: &str| check(&closed(routes), &[]);
    const ALL: &str = "{ sni = '*.x.example', pool = 'a' }";
    const INSIDE: &str = "source = '10.0.0.0/8', pool = 'a'";
    leaks(&format!("{{ sni = 'a.x.example', {INSIDE} }}, {ALL}"));
    leaks(&format!("{{ sni = 'a.b.c.x.example', alpn = 'h2', pool = 'a' }}, {ALL}"));
    leaks(&format!("{{ sni = '*.b.x.example', {INSIDE} }}, {ALL}"));
    leaks(&format!("{{ sni = '*.x.example', depth = 1, {INSIDE} }}, {ALL}"));
    leaks("{ sni = 'a.x.example', ech = true, pool = 'a' }, { sni = '*.x.example', depth = 1, pool = 'b' }");
    leaks(&format!("{{ sni = 'a7.example', {INSIDE} }}, {{ sni_regex = 'a[0-9].example', pool = 'b' }}"));
    leaks(&format!("{{ sni = 'a.example', alpn = 'h2', pool = 'a' }}, {{ {INSIDE} }}"));
    leaks(&format!("{{ sni = ['a.x.example', 'b.x.example'], {INSIDE} }}, {ALL}"));
    leaks(&format!(
        "{{ sni = 'a.x.example', source = '10.1.0.0/16', pool = 'b' }}, {{ sni = '*.x.example', {INSIDE} }}"
    ));
    // A pool in `unmatched` serves the other connections too, which is a warning beside conditions on the client.
    check(&tls(&format!("{{ sni = 'a.example', {INSIDE} }}")), &["C0451"]);
    check(&tls("{ sni = 'a.example', alpn = 'h2', pool = 'a' }"), &[]);
    check(&tls("{ sni = 'a.example', source = '10.0.0.0/8', action = 'drop' }"), &[]);
    check(
        &tls(&format!("{{ sni = 'a.example', {INSIDE} }}, {{ sni = 'a.example', action = 'reject' }}")),
        &[],
    );
    // Another route serves or refuses the other connections, or no wider route serves them.
    holds(&format!(
        "{{ sni = 'a.x.example', {INSIDE} }}, {{ sni = 'a.x.example', action = 'reject' }}, {ALL}"
    ));
    holds(&format!(
        "{{ sni = 'a.x.example', {INSIDE} }}, {{ sni = 'a.x.example', tls_min = '1.2', pool = 'b' }}, {ALL}"
    ));
    holds(&format!("{{ sni = 'a.x.example', tls_min = '1.2', pool = 'b' }}, {ALL}"));
    holds(&format!(
        "{{ sni = 'a.x.example', ech = true, pool = 'b' }}, {{ sni = 'a.x.example', ech = false, pool = 'b' }}, {ALL}"
    ));
    holds(&format!("{{ sni = 'a.y.example', {INSIDE} }}, {{ sni = 'x.example', {INSIDE} }}, {ALL}"));
    holds(&format!("{{ sni = 'a.x.example', {INSIDE} }}, {{ sni = '*.x.example', action = 'drop' }}"));
    holds(&format!(
        "{{ sni = 'a.x.example', {INSIDE} }}, {{ sni = '*.x.example', action = 'drop' }}, {{ {INSIDE} }}"
    ));
    holds(&format!(
        "{{ sni = 'a.x.example', {INSIDE} }}, {{ sni = '*.x.example', source = '10.1.0.0/16', pool = 'b' }}"
    ));
    holds("{ sni = 'a.example', alpn = 'h2', pool = 'a' }");
}

#[test]
fn routes_that_leave_expressions_to_wider_routes_are_told() {
    let closed = |routes: &str| {
        let unmatched = "unmatched = 'reject'";
        tls(routes).replace("unmatched = 'b'", unmatched) + "\n[listener.y]\nbind = ':2'\npool = 'b'\n"
    };
    let leaks = |routes: &str| check(&closed(routes), &["C0451"]);
    let holds = |routes: &str| check(&closed(routes), &[]);
    const ADMIN: &str = r"{ sni_regex = 'admin\..*', source = '10.0.0.0/8', pool = 'a' }";
    const BELOW: &str = "{ sni = '*.admin.example.com', source = '10.0.0.0/8', pool = 'a' }";
    const EVERY: &str = "{ sni_regex = '.*', pool = 'b' }";
    leaks(&format!("{ADMIN}, {EVERY}"));
    leaks(&format!("{ADMIN}, {{ sni_regex = '[^.]+(\\..+)?', pool = 'b' }}"));
    leaks(&format!("{ADMIN}, {{ sni_regex = '.*\\.example\\.com', pool = 'b' }}"));
    leaks(&format!("{ADMIN}, {{ pool = 'b', alpn = 'h2' }}"));
    leaks(&format!("{ADMIN}, {{ sni = '*.example.com', pool = 'b' }}"));
    leaks(&format!("{ADMIN}, {{ sni = '*.example.com', depth = 1, pool = 'b' }}"));
    leaks(&format!("{}, {EVERY}", ADMIN.replace("admin", "q{3}w{2}")));
    leaks(&format!("{BELOW}, {EVERY}"));
    leaks(&format!("{BELOW}, {{ sni_regex = '.*\\.example\\.com', pool = 'b' }}"));
    leaks(
        r"{ sni_regex = 'node-\d+\.x\.org', source = '10.0.0.0/8', pool = 'a' }, { sni = '*.x.org', pool = 'b' }",
    );
    check(&tls(ADMIN), &["C0451"]);
    check(&tls(&ADMIN.replace("source = '10.0.0.0/8'", "alpn = 'h2'")), &[]);
    // Another route takes the other connections, or the two names have nothing in common.
    holds(ADMIN);
    holds(&format!("{ADMIN}, {{ sni_regex = 'admin\\..*', action = 'reject' }}, {EVERY}"));
    holds(&format!(
        "{ADMIN}, {{ sni_regex = 'admin\\..*', action = 'reject' }}, {{ pool = 'b', alpn = 'h2' }}"
    ));
    holds(&format!("{ADMIN}, {{ sni_regex = '.*', action = 'reject' }}, {{ pool = 'b', alpn = 'h2' }}"));
    holds(&format!("{ADMIN}, {{ sni_regex = 'shop\\..*', pool = 'b' }}"));
    holds(&format!("{ADMIN}, {{ sni = '*.example.com', action = 'reject' }}"));
    holds(&format!("{BELOW}, {{ sni_regex = 'shop\\..*', pool = 'b' }}"));
    holds(&format!("{BELOW}, {{ sni = '*.admin.example.com', action = 'reject' }}, {EVERY}"));
    // A name or a wildcard within the expression is narrower, so it is an exception on purpose.
    holds(&format!("{ADMIN}, {{ sni = 'admin.example.com', pool = 'b' }}"));
    holds(&format!("{}, {{ sni = '*.example.com', pool = 'b' }}", ADMIN.replace("admin\\.", "")));
    // The wildcard takes all names of the expression.
    holds(&format!(
        "{}, {{ sni = '*.example.com', action = 'reject' }}, {EVERY}",
        ADMIN.replace(".*", "example\\.com")
    ));
}

#[test]
fn a_file_with_routes_may_leave_names_or_hold_them() {
    let folder = std::env::temp_dir().join(format!("pointsman-leaks-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let codes = |routes: &str, file: &str| {
        let text = tls(routes).replace("bind = ':1'", "bind = ':1'\nroutes_file = 'more.toml'");
        fs::write(folder.join("main.toml"), text).unwrap();
        fs::write(folder.join("more.toml"), file).unwrap();
        let (_, warnings) = load(&folder.join("main.toml")).unwrap();
        let told = warnings.diagnostics().iter().filter(|one| one.code.as_str() == "C0451");
        told.map(|one| (one.message.clone(), one.labels.len())).collect::<Vec<_>>()
    };
    const INSIDE: &str = "{ sni = 'a.example', source = '10.0.0.0/8', pool = 'a' }";
    let told = codes(INSIDE, "routes = [{ sni = '*.example', pool = 'b' }]");
    let message = "connections for `a.example` that do not match `source` go to `*.example`";
    assert_eq!(told, [(message.to_owned(), 1)]);
    let closed = "routes = [{ sni = 'a.example', action = 'reject' }]";
    assert_eq!(codes(&format!("{INSIDE}, {{ sni = '*.example', pool = 'b' }}"), closed), []);
    fs::remove_dir_all(folder).unwrap();
}
