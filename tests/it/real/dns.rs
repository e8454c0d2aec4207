//! Discovery with a name server that others use: records that change, truncated answers, none, and its death.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::{Directory, Guarded, Lines};
use crate::support::{Proxy, config, own_address, wait_for};

/// dnsmasq with the records of a hosts file in the domain `test`, each with a TTL of a second.
struct NameServer {
    directory: Directory,
    address: SocketAddr,
    services: Vec<String>,
    running: Option<Guarded>,
}

impl NameServer {
    fn new(services: &[&str]) -> Self {
        let services = services.iter().map(|service| format!("--srv-host={service}")).collect();
        let directory = Directory::new();
        directory.write("hosts", "");
        directory.write("none", "");
        let mut server = Self { directory, address: own_address(), services, running: None };
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = Command::new("dnsmasq");
        command
            .args(["--keep-in-foreground", "--pid-file=", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--local=/test/", "--local-ttl=1", "--log-facility=-"])
            .arg(format!("--conf-file={}", self.directory.file("none").display()))
            .arg(format!("--addn-hosts={}", self.directory.file("hosts").display()))
            .arg(format!("--listen-address={}", self.address.ip()))
            .arg(format!("--port={}", self.address.port()))
            .args(&self.services)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Guarded::spawn(&mut command);
        // Before that a signal would end it.
        Lines::follow(child.0.stderr.take().unwrap()).wait_for("started");
        self.running = Some(child);
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// Says that these names have these addresses, and no others.
    fn say(&self, hosts: &[(&str, &str)]) {
        let lines: String = hosts.iter().fold(String::new(), |mut lines, (name, address)| {
            _ = writeln!(lines, "{address} {name}");
            lines
        });
        self.directory.write("hosts", lines);
        if let Some(running) = &self.running {
            running.signal("HUP");
        }
    }
}

fn proxy(server: &NameServer, source: &str) -> Proxy {
    Proxy::start(config(&format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nhealth.check = 'off'\n\
         discover = {{ {source}, resolvers = '{}', min_ttl = '100ms', hold = '0s' }}\n",
        server.address
    )))
}

/// The names of the backends.
fn backends(proxy: &Proxy) -> BTreeSet<String> {
    let snapshot = proxy.remote.view().snapshot.load_full();
    snapshot.pools["main"].pool.backends().iter().map(|backend| backend.name().to_string()).collect()
}

fn wait_for_backends(proxy: &Proxy, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    wait_for(&format!("{} backends", expected.len()), || backends(proxy) == expected);
}

fn wait_for_fault(proxy: &Proxy, part: &str) {
    wait_for(part, || {
        let snapshot = proxy.remote.view().snapshot.load_full();
        snapshot.pools["main"].discovery[0].fault().is_some_and(|fault| fault.contains(part))
    });
}

#[test]
#[ignore = "needs dnsmasq"]
fn records_of_a_name_server_are_followed() {
    let mut server = NameServer::new(&[]);
    server.say(&[("app.test", "127.0.0.1"), ("app.test", "::1")]);
    let proxy = proxy(&server, "dns = 'app.test', port = 443");
    wait_for_backends(&proxy, &["127.0.0.1:443", "[::1]:443"]);
    server.say(&[("app.test", "127.0.0.2")]);
    wait_for_backends(&proxy, &["127.0.0.2:443"]);

    server.say(&[]);
    wait_for_fault(&proxy, "NXDOMAIN");
    wait_for_backends(&proxy, &["127.0.0.2:443"]);

    server.say(&[("app.test", "127.0.0.3")]);
    wait_for_backends(&proxy, &["127.0.0.3:443"]);
    server.stop();
    wait_for_fault(&proxy, "resolver");
    wait_for_backends(&proxy, &["127.0.0.3:443"]);
    server.start();
    server.say(&[("app.test", "127.0.0.4")]);
    wait_for_backends(&proxy, &["127.0.0.4:443"]);
}

/// Four hundred addresses fit into no datagram: the answer is cut, and asked for again over TCP.
#[test]
#[ignore = "needs dnsmasq"]
fn a_truncated_answer_is_had_whole() {
    let server = NameServer::new(&[]);
    let addresses: Vec<_> = (0..400).map(|n| format!("127.9.{}.{}", n / 250, n % 250 + 1)).collect();
    let hosts: Vec<_> = addresses.iter().map(|address| ("app.test", address.as_str())).collect();
    server.say(&hosts);
    let proxy = proxy(&server, "dns = 'app.test', port = 443");
    let expected: Vec<_> = addresses.iter().map(|address| format!("{address}:443")).collect();
    wait_for_backends(&proxy, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs dnsmasq"]
fn services_of_a_name_server_are_followed() {
    let server = NameServer::new(&["_app._tcp.test,one.test,443,10,3", "_app._tcp.test,two.test,8443,10,1"]);
    server.say(&[("one.test", "127.0.0.1"), ("two.test", "127.0.0.2")]);
    let proxy = proxy(&server, "dns = '_app._tcp.test', type = 'srv'");
    wait_for_backends(&proxy, &["one.test:443", "two.test:8443"]);
    let snapshot = proxy.remote.view().snapshot.load_full();
    let one = snapshot.pools["main"].pool.backend("one.test:443").unwrap();
    assert_eq!((one.address().to_string().as_str(), one.weight()), ("127.0.0.1:443", 3));
    // Two addresses have no one name.
    server.say(&[("one.test", "127.0.0.1"), ("one.test", "127.0.0.3"), ("two.test", "127.0.0.2")]);
    wait_for_backends(&proxy, &["127.0.0.1:443", "127.0.0.3:443", "two.test:8443"]);
}
