//! Tests of listeners and admin: addresses, limits, lists and openings.

use super::*;

#[test]
fn unix_sockets_are_bound() {
    let bind = |bind: &str, keys: &str| {
        format!("[listener.db]\nbind = {bind}\npool = 'db'\n{keys}\n[pool.db]\nbackends = ['10.0.0.1:1']")
    };
    let config = good(&bind("['unix:/run/a.sock', ':5432']", "mode = '0660'"));
    assert_eq!(config.listeners[0].binds[0], "unix:/run/a.sock".parse().unwrap());
    assert_eq!((config.listeners[0].binds.len(), config.listeners[0].mode), (3, Some(0o660)));
    assert!(!config.listeners[0].free_bind);
    // Only an address that is written as `:PORT` may lack a family.
    let may_leave_out = |address: &str| config.listeners[0].may_leave_out(&address.parse().unwrap());
    assert!(may_leave_out("[::]:5432") && may_leave_out("0.0.0.0:5432"));
    assert!(
        !may_leave_out("[::]:5433") && !may_leave_out("10.0.0.1:5432") && !may_leave_out("unix:/run/a.sock")
    );
    let config = good(&bind("['0.0.0.0:5432', '[::]:5432', '192.0.2.1:1']", "free_bind = true"));
    assert!(config.listeners[0].free_bind && config.listeners[0].ports_of_any_family.is_empty());
    check(&bind("'unix:/run/a.sock'", "mode = '777'"), &[]);
    check(&bind("'unix:a.sock'", ""), &["C0204"]);
    check(&bind("'unix:'", ""), &["C0204"]);
    check(&bind("['unix:/a', 'unix:/a']", ""), &["C0307"]);
    check(&bind("'unix:/a'", "mode = '1777'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = '088'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = '+66'"), &["C0203"]);
    check(&bind("'unix:/a'", "mode = 0o660"), &["C0104"]);
    check(&bind("':5432'", "mode = '660'"), &["C0402"]);
    check(&bind("':5432'", "free_bind = true"), &["C0402"]);
    check(&bind("['unix:/s', '[::]:1']", "free_bind = true"), &["C0402"]);
    check(&bind("':5432'", "free_bind = false"), &[]);
    check(&bind("[':5432', '10.0.0.9:1']", "free_bind = true"), &[]);
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
    check("127.0.0.1:9100", open, &[]);
    check("unix:/run/admin.sock", open, &["C0402"]);
    check("127.0.0.1:9100", "mode = '0600'", &["C0402"]);
    check("unix:/run/admin.sock", "mode = '0600'", &[]);
    check("127.0.0.1:9100", "open_changes = true", &[]);
    check("unix:/run/admin.sock", "open_changes = true", &["C0402"]);
    check("127.0.0.1:9100", &format!("{token}\nopen_changes = true"), &["C0402"]);
    check("192.0.2.1:9100", &format!("{open}\nopen_changes = true"), &["C0402"]);
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
    let spec = good(&whole("", "", text)).admin.remove(0);
    assert_eq!(spec.listen, "unix:/run/a".parse().unwrap());
    assert_eq!((spec.mode, spec.token_for, spec.open_metrics), (0o600, TokenFor::Changes, true));
    assert_eq!(spec.token_file.as_deref(), Some(Path::new("token")));
    let spec = good(&whole("", "", "[admin]\nlisten = '[::1]:1'\nhosts = 'LB.example.'")).admin.remove(0);
    assert_eq!(spec.hosts, ["lb.example"]);
}

#[test]
fn an_admin_listener_may_have_several_addresses() {
    let with = |keys: &str| whole("", "", &format!("[admin]\nlisten = ['unix:/a', '127.0.0.1:9']\n{keys}"));
    let specs = good(&with("mode = '0600'\nopen_changes = true")).admin;
    let listens: Vec<_> = specs.iter().map(|spec| spec.listen.to_string()).collect();
    assert_eq!(listens, ["unix:/a", "127.0.0.1:9"]);
    assert!(specs.iter().all(|spec| spec.mode == 0o600 && spec.open_changes));
    check_others("[admin]\nlisten = ['unix:/a', '0.0.0.0:9']", &["C0360"]);
    check_others("[admin]\nlisten = ['unix:/a', '0.0.0.0:9']\nopen_metrics = true", &[]);
    check_others("[admin]\nlisten = ['unix:/a', 'unix:/a']", &["C0307"]);
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
    check_listener("deny_ja4 = 't13*'", &["C0308"]);
    check_tls("unmatched = 'a'\nno_sni = 'b'\ndeny_ja4 = ['t13d3112h2_*', 't10*']\nrefused = 'drop'", &[]);
    check_tls("unmatched = 'a'\nno_sni = 'b'\ndeny_ja4 = ['', '*', 't13*d']", &["C0240"; 3]);
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
    assert_eq!(access.refused, ClientRefusal::Drop);
    assert_eq!(good(&whole("", "", "")).listeners[0].policy.access, None);
}

#[test]
fn countries_are_taken_out_of_a_file() {
    let list = |keys: &str| whole("deny = 'a'", "", &format!("[list.a]\n{keys}"));
    let check_list = |keys: &str, expected: &[&str]| check(&list(keys), expected);
    check_list("file = 'x.mmdb'\ncountries = ['DE', 'at']\nentries = '::1'", &[]);
    check_list("file = 'x.db'\ncountries = 'DE'", &[]);
    check_list("file = 'x.mmdb'\ncountries = ['DEU', 'D', '', '49', 'D ', 'Germany']", &["C0261"; 6]);
    check_list("file = 'x.mmdb'\ncountries = 49", &["C0104"]);
    check_list("file = 'x.mmdb'\ncountries = []", &["C0261"]);
    check_list("file = 'x.mmdb'", &["C0105"]);
    check_list("countries = ['DE']", &["C0105"]);
    check_list("file = 'x.mmdb'\ncountry = ['DE']", &["C0102"]);
    let config = good(&list("file = 'x.mmdb'\ncountries = ['de', 'AT', 'DE']"));
    let source = &config.lists[0].file.as_ref().unwrap().source;
    assert_eq!(
        format!("{source:?}"),
        "ListSource { path: \"x.mmdb\", countries: [AT, DE], allow_empty: false }"
    );
}

/// Returns a tcp listener and a tls listener with these keys, and a pool with `pool` as its keys.
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
    assert_eq!(admissions[0].over, OverLimit::Tarpit(10 * second));
    assert_eq!(
        admissions[0].per_source,
        Some(SourceLimits { connections: Some(7), ..SourceLimits::default() })
    );
    let expected = SourceLimits { connections: None, rate: Some(Rate::new(5, second, 9)), hellos: Some(3) };
    assert_eq!((admissions[1].per_source, admissions[1].over), (Some(expected), OverLimit::Reject));
    let limits = QuotaSpec { connections: None, rate: Some(Rate::new(9, second, 9)), over: OverLimit::Drop };
    assert_eq!(config.pools[0].limits, Some(limits));
    check(&limited("", "per_source = { rate = \"5\" }", ""), &["C0250"]);
    check(&limited("", "per_source = { connections = 0 }", ""), &["C0203"]);
    check(&limited("per_source = { hellos = 3 }", "", ""), &["C0308"]);
    let by_link = "per_source = { connections = 3, by = \"private-link\" }";
    let reads = format!("proxy_protocol = {{ trusted = \"10.0.0.0/8\" }}, {by_link}");
    check(&limited(by_link, by_link, ""), &["C0308"; 2]);
    check(&limited(&reads, &reads, ""), &[]);
    check(&limited("burst = 3", "per_source = { burst = 3 }", "limits = { burst = 3 }"), &["C0308"; 3]);
    check(&limited("over = \"drop\"", "", "limits = { over = \"drop\" }"), &["C0402"; 2]);
    check(&limited("over = \"silent\"", "", ""), &["C0201"]);
    check(&limited("per_source = {}", "", ""), &["C0402"]);
    let tarpits =
        limited("rate = \"5/s\", over = \"tarpit\"", "", "limits = { rate = \"5/s\", over = \"tarpit\" }");
    check(&tarpits, &[]);
    check(&format!("{tarpits}\nlimits = {{ tarpit = 0 }}"), &["C0402"; 2]);
    let refusing = "routes = [{ sni = \"x.test\", action = \"drop\", limits = { connections = 1 } }]";
    check(&limited("", refusing, ""), &["C0402"]);
    let words = "limits = { when_full = \"drop\", overload = \"oldest\", overload_at = 0, tarpit_timeout = \"1ms\", hello_memory = 1000 }";
    check(&(limited("", "", "") + "\n" + words), &["C0201", "C0201", "C0203", "C0203", "C0203"]);
}

#[test]
fn the_heaviest_are_known_where_every_source_is_counted() {
    let config =
        good(&(limited("", "", "") + "\nlimits = { overload = \"heaviest\", overload_at = \"50%\" }"));
    assert!(config.limits.overload.sheds_heaviest && config.limits.overload.at == 50);
    assert_eq!(config.limits.hello_memory, 64 << 20);
    for listener in &config.listeners {
        let admission = listener.policy.admission.unwrap();
        assert_eq!(admission.per_source, Some(SourceLimits::default()));
    }
    assert!(good(&limited("", "", "")).listeners.iter().all(|listener| listener.policy.admission.is_none()));
}

/// Checks the pool for requests to cancel of a listener with these keys, and the warnings.
fn check_cancel(keys: &str, pool: Option<&str>, warnings: &[&str]) {
    let pools = ["a", "b"].map(|name| format!("[pool.{name}]\nbackends = ['10.0.0.1:1', '10.0.0.2:1']\n"));
    let others = "[listener.other]\nbind = ':2'\nprotocol = 'tls'\nno_sni = 'a'\nunmatched = 'b'";
    let text =
        format!("[listener.db]\nbind = ':1'\nprotocol = 'postgres'\n{keys}\n{others}\n{}", pools.concat());
    check(&text, warnings);
    let (config, _) = parse("test.toml", &text).unwrap();
    let OpeningSpec::Postgres { cancel, .. } = &config.listeners[0].policy.opening else { panic!("{keys}") };
    assert_eq!(*cancel, pool.map_or(TargetSpec::Reject, |pool| TargetSpec::Pool(pool.into())), "{keys}");
}

/// A request to cancel does not name a pool. Its secret must reach only servers of the pool of its session.
#[test]
fn requests_to_cancel_go_to_the_only_pool_of_sessions() {
    let one = |keys: &str| check_cancel(keys, Some("a"), &[]);
    one("plaintext = 'a'");
    one("plaintext = 'a'\nno_sni = 'a'\nusers = { u = 'a' }\nroutes = [{ sni = 'a.example', pool = 'a' }]");
    one("databases = { d = 'a' }");
    one("routes = [{ sni = 'a.example', pool = 'a' }, { sni = 'b.example', action = 'drop' }]");
    let several = |keys: &str| {
        check_cancel(keys, None, &["C0430"]);
        check_cancel(&format!("{keys}\ncancel = 'reject'"), None, &[]);
        check_cancel(&format!("{keys}\ncancel = 'b'"), Some("b"), &[]);
    };
    several("plaintext = 'b'\nroutes = [{ sni = 'a.example', pool = 'a' }]");
    several("plaintext = 'b'\nunmatched = 'a'");
    several("plaintext = 'b'\ndatabases = { d = 'a' }");
    several("plaintext = 'b'\nusers = { u = 'a' }");
    several("routes = [{ sni = 'a.example', pool = 'a' }, { sni = 'b.example', pool = 'b' }]");
    several("routes = [{ sni = 'a.example', split = [{ pool = 'a' }, { pool = 'b' }] }]");
}

/// Routes see hellos only, so a route without a name refuses no client that sends none.
#[test]
fn routes_that_refuse_sources_refuse_hellos_only() {
    let check_opening = |keys: &str, route: &str, expected: &[&str]| {
        let text = format!(
            "[listener.x]\nbind = ':1'\nunmatched = 'a'\nroutes = [{route}]\n{keys}\n\
             [pool.a]\nbackends = ['10.0.0.1:1']"
        );
        check(&text, expected);
    };
    let dropped = "{ source = '127.0.0.9', action = 'drop' }";
    for keys in [
        "protocol = 'auto'\ndetect.ssh = 'a'",
        "protocol = 'auto'\ndetect.on_timeout = 'a'",
        "protocol = 'postgres'\nplaintext = 'a'",
        "protocol = 'postgres'\ncancel = 'a'\nusers = { x = 'a' }",
    ] {
        check_opening(keys, dropped, &["C0450"]);
        check_opening(keys, "{ destination = ':1', action = 'reject' }", &["C0450"]);
        check_opening(keys, "{ sni = 'x.example', source = '::1', action = 'drop' }", &[]);
        check_opening(keys, "{ source = '::1', alpn = 'h2', action = 'drop' }", &[]);
        check_opening(keys, "{ source = '::1', pool = 'a' }", &[]);
    }
    check_opening("protocol = 'tls'", dropped, &[]);
    check_opening("protocol = 'auto'\ndetect.ssh = 'reject'", dropped, &[]);
    check_opening("protocol = 'postgres'", dropped, &[]);
    check_opening("protocol = 'smtp'", dropped, &[]);
}

#[test]
fn clients_of_postgres_without_a_name_go_to_the_only_pool() {
    let no_sni = |keys: &str| {
        let text = format!(
            "[listener.pg]\nbind = ':1'\nprotocol = 'postgres'\ncancel = 'reject'\n{keys}\n\
             [listener.all]\nbind = ':2'\nprotocol = 'tls'\nunmatched = 'a'\nno_sni = 'b'\n\
             [pool.a]\nbackends = ['10.0.0.1:1']\n[pool.b]\nbackends = ['10.0.0.2:1']\n"
        );
        let config = parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}")).0;
        let ProtocolSpec::Tls { no_sni, .. } = &config.listeners[1].policy.protocol else { panic!("tls") };
        match no_sni {
            TargetSpec::Pool(pool) => pool.to_string(),
            TargetSpec::Reject => "reject".to_owned(),
        }
    };
    let check = |keys: &str, expected: &str| assert_eq!(no_sni(keys), expected, "{keys}");
    const PLAIN: &str = "{ sni = 'x.example', pool = 'a' }, { sni = ['*.y.example'], pool = 'a' }";
    check(&format!("routes = [{PLAIN}]"), "a");
    check(&format!("routes = [{PLAIN}]\nunmatched = 'a'"), "a");
    check("unmatched = 'b'", "b");
    check(&format!("routes = [{PLAIN}]\nno_sni = 'reject'"), "reject");
    check(&format!("routes = [{PLAIN}]\nno_sni = 'b'"), "b");
    check(&format!("routes = [{PLAIN}]\nunmatched = 'b'"), "reject");
    check(&format!("routes = [{PLAIN}]\nroutes_file = 'more.toml'"), "reject");
    for other in [
        "{ sni = 'z.example', pool = 'b' }",
        "{ sni = 'z.example', source = '10.0.0.0/8', pool = 'a' }",
        "{ sni = 'z.example', limits = { connections = 5 }, pool = 'a' }",
        "{ sni = 'z.example', split = [{ pool = 'a' }] }",
        "{ sni = 'z.example', action = 'reject' }",
    ] {
        check(&format!("routes = [{PLAIN}, {other}]"), "reject");
    }
}

#[test]
fn headers_that_come_too_late_are_told() {
    let check_in = |keys: &str, pool: &str, expected: &[&str]| {
        let keys = format!("proxy_protocol = {{ trusted = '10.0.0.0/8'{keys} }}");
        check(&whole(&keys, pool, ""), expected);
    };
    for first in ["smtp", "mysql", "ssh"] {
        check_in("", &format!("health = {{ check = '{first}' }}"), &["C0421"]);
        check_in(", mode = 'accept'", &format!("health = {{ check = '{first}' }}"), &["C0421"]);
        check_in(", timeout = '5s'", &format!("health = {{ check = '{first}' }}"), &[]);
    }
    check_in("", "health = { check = 'redis' }", &[]);
    check_in("", "", &[]);
    for (protocol, expected) in
        [("smtp", &["C0421"][..]), ("imap", &["C0421"]), ("pop3", &["C0421"]), ("tls", &[])]
    {
        check(
            &format!(
                "[listener.a]\nbind = ':1'\nprotocol = '{protocol}'\nunmatched = 'p'\n\
                 proxy_protocol = {{ trusted = '10.0.0.0/8' }}\n[pool.p]\nbackends = ['10.0.0.1:1']"
            ),
            expected,
        );
    }
}

#[test]
fn listeners_that_deny_everybody_are_told() {
    let check_deny = |bind: &str, deny: &str, expected: &[&str]| {
        check(&whole(&format!("deny = [{deny}]"), "", "").replace("':5432'", bind), expected);
    };
    check_deny("':5432'", "'0.0.0.0/0', '::/0'", &["C0309"]);
    check_deny("'0.0.0.0:5432'", "'0.0.0.0/0'", &["C0309"]);
    check_deny("':5432'", "'0.0.0.0/0'", &["C0452"]);
    check_deny("':5432'", "'10.0.0.0/8', '::/0'", &["C0452"]);
    check_deny("['0.0.0.0:5432', 'unix:/s']", "'0.0.0.0/0'", &["C0452"]);
    check_deny("'0.0.0.0:5432'", "'::/0'", &[]);
    // Networks that together are a whole family.
    check_deny("':5432'", "'128.0.0.0/1', '0.0.0.0/1'", &["C0452"]);
    check_deny("':5432'", "'8000::/1', '::/2', '4000::/2', '4000::/16'", &["C0452"]);
    check_deny("'0.0.0.0:5432'", "'128.0.0.0/1', '0.0.0.0/2', '64.0.0.0/2'", &["C0309"]);
    check_deny("':5432'", "'128.0.0.0/1', '0.0.0.0/2', '64.0.0.0/3'", &[]);
    check_deny("':5432'", "'128.0.0.0/1', '::/1'", &[]);
    check_deny("':5432'", "'10.0.0.0/8', '::/1'", &[]);
    check(&whole("deny = '0.0.0.0/0'\nproxy_protocol = { trusted = '10.0.0.0/8' }", "", ""), &[]);
    check(&whole("", "", "[lists]\ndeny = ['0.0.0.0/0', '::/0']"), &["C0309"]);
}

#[test]
fn the_socket_of_the_hand_over_is_off_or_an_absolute_path() {
    let check_socket = |value: &str, expected: &[&str]| {
        check(
            &whole("", "", &format!("[admin]\nlisten = 'unix:/a'\n[handover]\nsocket = {value}")),
            expected,
        );
    };
    check_socket("'off'", &[]);
    check_socket("'/run/h'", &[]);
    check_socket(&format!("'/{}'", "h".repeat(106)), &[]);
    check_socket(&format!("'/{}'", "h".repeat(107)), &["C0204"]);
    check_socket("'run/h'", &["C0204"]);
    check_socket("'unix:/run/h'", &["C0204"]);
    check_socket("'/run/'", &["C0204"]);
    check_socket("\"/run/\\u0000\"", &["C0204"]);
    check_socket("false", &["C0104"]);
    // Another part of the process has it.
    check_socket("'/a'", &["C0307"]);
}
