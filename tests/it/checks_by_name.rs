//! Checks and agents at a host name: its addresses are followed, and each check uses those of the last
//! answer.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pointsman::config::Config;
use pointsman::pool::{self, BackendState};
use pointsman::server::LifeStage;

use crate::support::dns::{Dns, DnsAnswer};
use crate::support::{Backend, PATIENCE, Proxy, config, own_address, wait_for};

/// Servers of checks, at one port and several addresses.
struct Servers {
    port: u16,
    ips: Vec<IpAddr>,
    are_well: Vec<Arc<AtomicBool>>,
    asked: Vec<Arc<AtomicUsize>>,
}

impl Servers {
    /// Starts `count` servers that greet as an SMTP server does.
    fn new(count: usize) -> Self {
        let port = own_address().port();
        let mut servers = Self { port, ips: Vec::new(), are_well: Vec::new(), asked: Vec::new() };
        for _ in 0..count {
            let ip = own_address().ip();
            let is_well = Arc::new(AtomicBool::new(true));
            let asked = Arc::new(AtomicUsize::new(0));
            let (well, counter) = (Arc::clone(&is_well), Arc::clone(&asked));
            Backend::serve_on(&SocketAddr::new(ip, port).to_string(), move |mut stream| {
                counter.fetch_add(1, Ordering::SeqCst);
                let greeting: &[u8] = if well.load(Ordering::SeqCst) { b"220 a\r\n" } else { b"421 a\r\n" };
                let _ = stream.write_all(greeting);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            servers.ips.push(ip);
            servers.are_well.push(is_well);
            servers.asked.push(asked);
        }
        servers
    }

    fn is_well(&self, at: usize, well: bool) {
        self.are_well[at].store(well, Ordering::SeqCst);
    }

    fn asked(&self, at: usize) -> usize {
        self.asked[at].load(Ordering::SeqCst)
    }
}

/// Returns a pool of these backends with these keys; `dns` resolves their host names.
fn layout(dns: &Dns, backends: &str, keys: &str) -> Config {
    config(&format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nbackends = [{backends}]\nresolve = {{ resolvers = '{}', min_ttl = '100ms' }}\n{keys}\n",
        dns.address
    ))
}

fn smtp(address: &str) -> String {
    format!(
        "health = {{ check = 'smtp', interval = '50ms', timeout = '5s', fall = 2, address = '{address}' }}"
    )
}

fn backend(proxy: &Proxy, at: usize) -> Arc<pool::Backend> {
    Arc::clone(&proxy.remote.view().snapshot.load().pools["main"].pool.backends()[at])
}

fn wait_for_state(proxy: &Proxy, at: usize, state: BackendState) {
    wait_for(&format!("{state:?}"), || backend(proxy, at).state() == state);
}

#[test]
fn a_check_asks_at_a_host_name() {
    let (dns, servers) = (Dns::new(), Servers::new(2));
    let at = own_address();
    let (proxy, admin) = Proxy::start_with_admin(layout(
        &dns,
        &format!("'{at}'"),
        &smtp(&format!("probe.test:{}", servers.port)),
    ));
    // The name does not exist yet.
    wait_for_state(&proxy, 0, BackendState::Down);
    let page = |path: &str| pointsman::admin::ask(admin, path, PATIENCE).unwrap().1;
    let status: serde_json::Value = serde_json::from_str(&page("/api/v1/status")).unwrap();
    let (pool, one) = (&status["pools"][0], &status["pools"][0]["backends"][0]);
    assert_eq!(one["reason"], "checks failed: the host name of the check has no address");
    assert_eq!(one["checks"]["fault"], "dns");
    assert_eq!(one["checks"]["heard"], "probe.test has no address: there is no such name (NXDOMAIN)");
    assert_eq!(pool["discovery"][0]["source"], "dns probe.test");
    assert_eq!(pool["discovery"][0]["fault"], "there is no such name (NXDOMAIN)");
    let metrics = page("/metrics");
    let fault = format!(r#"pointsman_backend_fault{{pool="main",backend="{at}",fault="dns"}} 1"#);
    assert!(metrics.lines().any(|line| line == fault), "{metrics}");
    assert!(proxy.metric(r#"pointsman_check_failures_total{pool="main",fault="dns"}"#) >= 1.0);
    assert!(metrics.contains(r#"pointsman_discovery_failing{pool="main"} 1"#), "{metrics}");
    assert!(
        !metrics.contains(r#"pointsman_discovery_backends{pool="main""#),
        "its addresses are no backends"
    );

    dns.set_addresses("probe.test", &servers.ips[..1]);
    wait_for_state(&proxy, 0, BackendState::Up);
    assert_eq!(servers.asked(1), 0);
    // The name gets another address, without a reload. The server at the old address still answers.
    servers.is_well(1, false);
    dns.set_addresses("probe.test", &servers.ips[1..]);
    wait_for_state(&proxy, 0, BackendState::Down);
    assert_eq!(
        backend(&proxy, 0).health().check_failure().unwrap().fault.failed_check().word(),
        "unexpected"
    );
    servers.is_well(1, true);
    wait_for_state(&proxy, 0, BackendState::Up);
    // While look-ups fail, the last answer is used.
    let failures = proxy.remote.view().snapshot.load().pools["main"].discovery[0].failures();
    dns.set_answer("probe.test", DnsAnswer::Code(2));
    let discovery = Arc::clone(&proxy.remote.view().snapshot.load().pools["main"].discovery[0]);
    wait_for("a failure", || discovery.failures() > failures && discovery.fault().is_some());
    let passed = backend(&proxy, 0).health().checks_passed();
    wait_for("checks", || backend(&proxy, 0).health().checks_passed() > passed + 2);
    assert_eq!(backend(&proxy, 0).state(), BackendState::Up);
}

#[test]
fn of_several_addresses_the_first_that_accepts_is_checked() {
    // No server listens at the first address.
    let mut all = vec![own_address().ip()];
    let (dns, servers) = (Dns::new(), Servers::new(2));
    all.extend(&servers.ips);
    assert!(all.is_sorted());
    all.reverse();
    dns.set_addresses("probe.test", &all);
    let probe = smtp(&format!("probe.test:{}", servers.port));
    let proxy = Proxy::start(layout(&dns, &format!("'{}'", own_address()), &probe));
    wait_for("checks", || backend(&proxy, 0).health().checks_passed() > 5);
    assert_eq!((servers.asked(0) > 5, servers.asked(1)), (true, 0));
    assert_eq!(
        (backend(&proxy, 0).state(), backend(&proxy, 0).health().checks_failed()),
        (BackendState::Up, 0)
    );
}

/// The table of a backend replaces the address of its pool; either address may be a host name.
#[test]
fn a_backend_has_a_name_of_its_own() {
    let (dns, servers) = (Dns::new(), Servers::new(3));
    let port = servers.port;
    dns.set_addresses("pool.test", &servers.ips[..1]);
    dns.set_addresses("own.test", &servers.ips[1..2]);
    let at = || own_address().to_string();
    let list = format!(
        "'{}', {{ address = '{}', health.address = 'own.test' }}, {{ address = '{}', health.address = '{}' }}, \
         {{ address = '{}', health.address = 'missing.test' }}",
        at(),
        at(),
        at(),
        servers.ips[2],
        at()
    );
    let keys = smtp("pool.test").replace("address", &format!("port = {port}, address"));
    let proxy = Proxy::start(layout(&dns, &list, &keys));
    wait_for("checks", || {
        (0..3).all(|at| backend(&proxy, at).health().checks_passed() > 1 && servers.asked(at) > 1)
    });
    wait_for_state(&proxy, 3, BackendState::Down);
    servers.is_well(1, false);
    wait_for_state(&proxy, 1, BackendState::Down);
    assert_eq!(
        (backend(&proxy, 0).state(), backend(&proxy, 2).state()),
        (BackendState::Up, BackendState::Up)
    );
}

/// The first look-up of a name delays only the check that needs it.
#[test]
fn a_name_server_that_is_silent_holds_up_its_own_checks_only() {
    let (dns, servers) = (Dns::new(), Servers::new(1));
    dns.set_answer("probe.test", DnsAnswer::Silence);
    let own = SocketAddr::new(servers.ips[0], servers.port);
    let list = format!("{{ address = '{own}', health.address = '{own}' }}, '{}'", own_address());
    let proxy = Proxy::start(layout(&dns, &list, &smtp("probe.test:1").replace("5s", "500ms")));
    let discovery = || Arc::clone(&proxy.remote.view().snapshot.load().pools["main"].discovery[0]);
    wait_for_state(&proxy, 1, BackendState::Down);
    let failure = backend(&proxy, 1).health().check_failure().unwrap();
    assert_eq!(failure.fault.failed_check().word(), "dns");
    assert_eq!(failure.heard.as_deref(), Some("probe.test has no address: its look-up has no answer yet"));
    assert_eq!(discovery().failures(), 0, "the question still waits for its answer");
    wait_for("checks", || backend(&proxy, 0).health().checks_passed() > 3);
    let mut client = proxy.connect();
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220");
}

/// The start waits for the backends of another pool; checks are made meanwhile.
#[test]
fn checks_before_the_end_of_the_start_know_their_names() {
    let (dns, servers) = (Dns::new(), Servers::new(1));
    dns.set_addresses("probe.test", &servers.ips);
    dns.set_answer("other.test", DnsAnswer::Silence);
    let other = format!(
        "[listener.other]\nbind = '127.0.0.1:0'\npool = 'other'\n[pool.other]\nhealth.check = 'off'\n\
         discover = {{ dns = 'other.test', port = 1, resolvers = '{}' }}",
        dns.address
    );
    let keys = smtp(&format!("probe.test:{}", servers.port));
    let proxy = Proxy::start(layout(&dns, &format!("'{}'", own_address()), &format!("{keys}\n{other}")));
    wait_for("a check", || backend(&proxy, 0).health().checks_passed() > 0);
    assert_eq!(proxy.remote.view().life(), LifeStage::Starting);
    assert_eq!(backend(&proxy, 0).health().checks_failed(), 0);
}

#[test]
fn http_names_the_host() {
    let dns = Dns::new();
    let server = Backend::serve(|mut stream| {
        let mut heard = Vec::new();
        let mut chunk = [0; 1024];
        while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut chunk) {
                Ok(count @ 1..) => heard.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        }
        let host = format!("\r\nHost: probe.test:{}\r\n", stream.local_addr().unwrap().port());
        let is_right = String::from_utf8_lossy(&heard).contains(&host);
        let status = if is_right { "200 OK" } else { "400 Bad Request" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\n\r\n");
    });
    dns.set_addresses("probe.test", &[server.address.ip()]);
    let port = server.address.port();
    let keys = format!("health = {{ check = 'http', interval = '50ms', address = 'probe.test.:{port}' }}");
    let proxy = Proxy::start(layout(&dns, &format!("'{}'", own_address()), &keys));
    wait_for("checks", || backend(&proxy, 0).health().checks_passed() > 1);
    assert_eq!(backend(&proxy, 0).health().checks_failed(), 0);
}

#[test]
fn an_agent_is_asked_at_a_host_name() {
    let dns = Dns::new();
    let port = own_address().port();
    let agent = |line: &'static [u8]| {
        let address = SocketAddr::new(own_address().ip(), port);
        Backend::serve_on(&address.to_string(), move |mut stream| {
            let _ = stream.write_all(line);
        });
        address.ip()
    };
    let (drains, is_ready) = (agent(b"drain\n"), agent(b"ready\n"));
    let keys =
        format!("health.check = 'off'\nagent = {{ address = 'agent.test:{port}', interval = '20ms' }}");
    let proxy = Proxy::start(layout(&dns, &format!("'{}'", own_address()), &keys));
    let silent = r#"pointsman_agent_checks_total{pool="main",result="silent"}"#;
    wait_for("an agent without an address", || proxy.metric(silent) > 1.0);
    assert_eq!(backend(&proxy, 0).state(), BackendState::Up);
    dns.set_addresses("agent.test", &[drains]);
    wait_for_state(&proxy, 0, BackendState::Draining);
    dns.set_addresses("agent.test", &[is_ready]);
    wait_for_state(&proxy, 0, BackendState::Up);
}

#[test]
fn a_reload_changes_the_name_and_keeps_what_is_known() {
    let (dns, servers) = (Dns::new(), Servers::new(2));
    let port = servers.port;
    dns.set_addresses("one.test", &servers.ips[..1]);
    dns.set_addresses("two.test", &servers.ips[1..]);
    let list = format!("'{}'", own_address());
    let of = |name: &str| layout(&dns, &list, &smtp(&format!("{name}.test:{port}")));
    let proxy = Proxy::start(of("one"));
    wait_for("checks", || servers.asked(0) > 1);
    proxy.remote.reload(of("two")).unwrap();
    wait_for("checks", || servers.asked(1) > 1);
    // Now the same name is looked up in another way, and gets no answer. The addresses of the last answer
    // stay.
    dns.set_answer("two.test", DnsAnswer::Silence);
    let mut other = of("two");
    let pool::DiscoverSource::Dns(spec) = &mut other.pools[0].check_names[0].source else { panic!("a name") };
    spec.jitter = 0;
    proxy.remote.reload(other).unwrap();
    let passed = backend(&proxy, 0).health().checks_passed();
    wait_for("checks", || backend(&proxy, 0).health().checks_passed() > passed + 3);
    assert_eq!(backend(&proxy, 0).health().checks_failed(), 0);
}
