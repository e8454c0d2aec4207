//! Discovery with common name servers: changing records, truncated answers, no answers, and the end of the
//! server.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;

use pointsman::pool::BackendState;

use super::{ChildGuard, Directory, Lines};
use crate::support::{Backend, Proxy, config, own_address, wait_for};

/// The name servers of these tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A forwarder with a cache, as small networks and virtual machines have it.
    Dnsmasq,
    /// A resolver, with local data.
    Unbound,
    /// An authoritative server.
    Bind,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Dnsmasq, Self::Unbound, Self::Bind];

    /// Returns the text that the server logs when it is ready.
    fn started(self) -> &'static str {
        match self {
            Self::Dnsmasq => "started",
            Self::Unbound => "start of service",
            Self::Bind => "running",
        }
    }
}

/// A name server with records in the domain `test`, each with a TTL of one second.
struct NameServer {
    kind: Kind,
    directory: Directory,
    address: SocketAddr,
    /// The priority, weight, port and target of each record of `_app._tcp.test`.
    services: Vec<(u16, u16, u16, &'static str)>,
    /// The version of the records.
    serial: u32,
    running: Option<(ChildGuard, Arc<Lines>)>,
}

impl NameServer {
    fn new(kind: Kind, services: &[(u16, u16, u16, &'static str)]) -> Self {
        let directory = Directory::new();
        let address = match kind {
            Kind::Dnsmasq | Kind::Unbound => own_address(),
            // BIND listens only on addresses of interfaces.
            Kind::Bind => TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        };
        let services = services.to_vec();
        let mut server = Self { kind, directory, address, services, serial: 1, running: None };
        server.write(&[]);
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = match self.kind {
            Kind::Dnsmasq => self.dnsmasq(),
            Kind::Unbound => {
                let mut command = Command::new("unbound");
                command.args(["-d", "-p", "-c"]).arg(self.directory.file("conf"));
                command
            }
            Kind::Bind => {
                let mut command = Command::new("named");
                // BIND writes its journal of keys to the directory of the start.
                command.current_dir(&self.directory.0);
                command.args(["-g", "-n", "1", "-c"]).arg(self.directory.file("conf"));
                command
            }
        };
        let mut child =
            ChildGuard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
        // Before this line a signal would end the server.
        let lines = Lines::follow(child.0.stderr.take().unwrap());
        lines.wait_for(self.kind.started());
        self.running = Some((child, lines));
    }

    fn dnsmasq(&self) -> Command {
        let mut command = Command::new("dnsmasq");
        self.directory.write("none", "");
        command
            .args(["--keep-in-foreground", "--pid-file=", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--local=/test/", "--local-ttl=1", "--log-facility=-"])
            .arg(format!("--conf-file={}", self.directory.file("none").display()))
            .arg(format!("--addn-hosts={}", self.directory.file("records").display()))
            .arg(format!("--listen-address={}", self.address.ip()))
            .arg(format!("--port={}", self.address.port()));
        for (priority, weight, port, target) in &self.services {
            command.arg(format!("--srv-host=_app._tcp.test,{target},{port},{priority},{weight}"));
        }
        command
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// Gives these names these addresses, and no others.
    fn set_records(&mut self, hosts: &[(&str, &str)]) {
        self.serial += 1;
        self.write(hosts);
        if let Some((running, _)) = &self.running {
            running.signal("HUP");
        }
    }

    fn write(&self, hosts: &[(&str, &str)]) {
        let (ip, port) = (self.address.ip(), self.address.port());
        let directory = self.directory.0.display();
        match self.kind {
            Kind::Dnsmasq => {
                let lines = hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
                self.directory.write("records", lines.collect::<String>());
            }
            Kind::Unbound => {
                let mut conf = format!(
                    "server:\n interface: {ip}\n port: {port}\n access-control: 127.0.0.0/8 allow\n chroot: \"\"\n \
                     username: \"\"\n directory: \"{directory}\"\n use-syslog: no\n logfile: \"\"\n \
                     verbosity: 1\n module-config: \"iterator\"\n num-threads: 1\n local-zone: \"test.\" static\n"
                );
                for line in self.lines(hosts) {
                    _ = writeln!(conf, " local-data: \"{line}\"");
                }
                conf += "remote-control:\n control-enable: no\n";
                self.directory.write("conf", conf);
            }
            Kind::Bind => {
                let conf = format!(
                    "options {{ directory \"{directory}\"; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; \
                     pid-file none; lock-file none; session-keyfile none; recursion no; dnssec-validation no; \
                     allow-query {{ any; }}; }};\ncontrols {{ }};\nzone \"test\" {{ type primary; file \"zone\"; }};\n"
                );
                self.directory.write("conf", conf);
                let mut zone = format!(
                    "$TTL 1\n@ IN SOA ns.test. root.test. {} 60 60 60 1\n@ IN NS ns.test.\nns IN A 127.0.0.1\n",
                    self.serial
                );
                for line in self.lines(hosts) {
                    _ = writeln!(zone, "{line}");
                }
                // The server may be reading the old file.
                let new = self.directory.write("zone.new", zone);
                std::fs::rename(new, self.directory.file("zone")).unwrap();
            }
        }
    }

    /// Returns the records in the form of a zone.
    fn lines(&self, hosts: &[(&str, &str)]) -> Vec<String> {
        let record = |address: &str| if address.contains(':') { "AAAA" } else { "A" };
        let hosts = hosts.iter().map(|(name, address)| format!("{name}. 1 IN {} {address}", record(address)));
        let services = self.services.iter().map(|(priority, weight, port, target)| {
            format!("_app._tcp.test. 1 IN SRV {priority} {weight} {port} {target}.")
        });
        hosts.chain(services).collect()
    }
}

fn proxy(server: &NameServer, source: &str) -> Proxy {
    start(server, &format!("discover = {{ {source}, ASKED }}"))
}

/// Starts a proxy whose pool has these keys; `ASKED` stands for the keys of the resolver.
fn start(server: &NameServer, keys: &str) -> Proxy {
    start_checked(server, &format!("health.check = 'off'\n{keys}"))
}

fn start_checked(server: &NameServer, keys: &str) -> Proxy {
    let asked = format!("resolvers = '{}', min_ttl = '100ms', hold = '0s'", server.address);
    Proxy::start(config(&format!(
        "workers = 1\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\n{}\n",
        keys.replace("ASKED", &asked)
    )))
}

/// Returns the names of the backends.
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
        let mut sources = snapshot.pools["main"].discovery.iter();
        sources.any(|source| source.fault().is_some_and(|fault| fault.contains(part)))
    });
}

#[test]
#[ignore = "needs dnsmasq, unbound and bind9"]
fn records_of_a_name_server_are_followed() {
    for kind in Kind::ALL {
        let mut server = NameServer::new(kind, &[]);
        server.set_records(&[("app.test", "127.0.0.1"), ("app.test", "::1")]);
        let proxy = proxy(&server, "dns = 'app.test', port = 443");
        wait_for_backends(&proxy, &["127.0.0.1:443", "[::1]:443"]);
        server.set_records(&[("app.test", "127.0.0.2")]);
        wait_for_backends(&proxy, &["127.0.0.2:443"]);

        server.set_records(&[]);
        wait_for_fault(&proxy, "NXDOMAIN");
        wait_for_backends(&proxy, &["127.0.0.2:443"]);

        server.set_records(&[("app.test", "127.0.0.3")]);
        wait_for_backends(&proxy, &["127.0.0.3:443"]);
        server.stop();
        wait_for_fault(&proxy, "resolver");
        wait_for_backends(&proxy, &["127.0.0.3:443"]);
        server.start();
        server.set_records(&[("app.test", "127.0.0.4")]);
        wait_for_backends(&proxy, &["127.0.0.4:443"]);
    }
}

/// The name of a check is resolved like the names of backends. It may come late, change, and stay while the
/// server is away.
#[test]
#[ignore = "needs dnsmasq, unbound and bind9"]
fn names_of_checks_are_followed() {
    for kind in Kind::ALL {
        let (one, two) = (Backend::serve(drop), own_address());
        let port = one.address.port();
        let mut server = NameServer::new(kind, &[]);
        let keys = format!(
            "backends = ['{two}']\nresolve = {{ ASKED }}\n\
             health = {{ interval = '50ms', address = 'probe.test:{port}' }}"
        );
        let proxy = start_checked(&server, &keys);
        let backend = || {
            let snapshot = proxy.remote.view().snapshot.load_full();
            Arc::clone(&snapshot.pools["main"].pool.backends()[0])
        };
        let fault = || backend().health().check_failure().map(|failure| failure.fault.failed_check().word());
        wait_for("no such name", || fault() == Some("dns") && backend().state() == BackendState::Down);
        server.set_records(&[("probe.test", "127.0.0.1")]);
        wait_for("the name", || backend().state() == BackendState::Up);
        // No server listens at the second address.
        server.set_records(&[("probe.test", &two.ip().to_string())]);
        wait_for("the change", || fault() == Some("refused") && backend().state() == BackendState::Down);
        server.set_records(&[("probe.test", &two.ip().to_string()), ("probe.test", "127.0.0.1")]);
        wait_for("the address that accepts", || backend().state() == BackendState::Up);
        server.stop();
        wait_for_fault(&proxy, "resolver");
        let passed = backend().health().checks_passed();
        wait_for("checks by what was last found", || backend().health().checks_passed() > passed + 2);
        assert_eq!(backend().state(), BackendState::Up);
    }
}

/// A hundred addresses do not fit into a datagram. The answer is truncated, and the question is repeated over
/// TCP. BIND allows no more addresses of one name.
#[test]
#[ignore = "needs dnsmasq, unbound and bind9"]
fn a_truncated_answer_is_had_whole() {
    let addresses: Vec<_> = (1..=100).map(|n| format!("127.9.0.{n}")).collect();
    let hosts: Vec<_> = addresses.iter().map(|address| ("app.test", address.as_str())).collect();
    let expected: Vec<_> = addresses.iter().map(|address| format!("{address}:443")).collect();
    for kind in Kind::ALL {
        let mut server = NameServer::new(kind, &[]);
        server.set_records(&hosts);
        let proxy = proxy(&server, "dns = 'app.test', port = 443");
        wait_for_backends(&proxy, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs dnsmasq, unbound and bind9"]
fn services_of_a_name_server_are_followed() {
    for kind in Kind::ALL {
        let services = [(10, 3, 443, "one.test"), (10, 1, 8443, "two.test")];
        let mut server = NameServer::new(kind, &services);
        server.set_records(&[("one.test", "127.0.0.1"), ("two.test", "127.0.0.2")]);
        let proxy = proxy(&server, "dns = '_app._tcp.test', type = 'srv'");
        wait_for_backends(&proxy, &["one.test:443", "two.test:8443"]);
        let snapshot = proxy.remote.view().snapshot.load_full();
        let one = snapshot.pools["main"].pool.backend("one.test:443").unwrap();
        assert_eq!((one.address().to_string().as_str(), one.weight()), ("127.0.0.1:443", 3), "{kind:?}");
        // Two addresses do not share a name.
        server.set_records(&[
            ("one.test", "127.0.0.1"),
            ("one.test", "127.0.0.3"),
            ("two.test", "127.0.0.2"),
        ]);
        wait_for_backends(&proxy, &["127.0.0.1:443", "127.0.0.3:443", "two.test:8443"]);
    }
}

/// A target `.` means that the service is decidedly not available.
#[test]
#[ignore = "needs unbound and bind9; dnsmasq has no such records"]
fn a_service_that_is_not_there_is_an_answer() {
    for kind in [Kind::Unbound, Kind::Bind] {
        let mut server = NameServer::new(kind, &[(10, 1, 443, "one.test")]);
        server.set_records(&[("one.test", "127.0.0.1")]);
        let proxy = proxy(&server, "dns = '_app._tcp.test', type = 'srv'");
        wait_for_backends(&proxy, &["one.test:443"]);
        server.services = vec![(0, 0, 0, "")];
        server.set_records(&[("one.test", "127.0.0.1")]);
        wait_for("no share", || {
            let snapshot = proxy.remote.view().snapshot.load_full();
            snapshot.pools["main"].pool.backends().iter().all(|backend| backend.weight() == 0)
        });
        wait_for_backends(&proxy, &["one.test:443"]);
    }
}

#[test]
#[ignore = "needs dnsmasq, unbound and bind9"]
fn host_names_among_the_backends_are_followed() {
    for kind in Kind::ALL {
        let mut server = NameServer::new(kind, &[]);
        server.set_records(&[("db1.test", "127.0.0.1"), ("db2.test", "127.0.0.2"), ("db2.test", "::1")]);
        let keys =
            "backends = ['db1.test:5432', { address = 'db2.test:5432', backup = true }]\nresolve = { ASKED }";
        let proxy = start(&server, keys);
        let both = ["db2.test:5432/127.0.0.2", "db2.test:5432/::1"];
        wait_for_backends(&proxy, &["db1.test:5432/127.0.0.1", both[0], both[1]]);
        server.set_records(&[("db1.test", "127.0.0.3"), ("db1.test", "127.0.0.1")]);
        wait_for_backends(&proxy, &["db1.test:5432/127.0.0.1", "db1.test:5432/127.0.0.3", both[0], both[1]]);
        wait_for_fault(&proxy, "NXDOMAIN");
    }
}
