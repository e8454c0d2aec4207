//! Names as the system resolves them, with files of hosts and resolvers as in containers, pods and plain
//! hosts.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{Directory, Program};
use crate::support::dns::Dns;
use crate::support::{Backend, own_address, wait_for};

/// A host with a directory `/etc` of its own, and a DNS server on port 53.
struct Host {
    program: Program,
    etc: PathBuf,
    dns: Dns,
}

/// A port for servers of checks.
const GREETER: u16 = 2525;

/// Starts a server that greets each client, and returns its address.
fn greeter(greeting: &'static [u8]) -> IpAddr {
    let ip = own_address().ip();
    Backend::serve_on(&SocketAddr::new(ip, GREETER).to_string(), move |mut stream| {
        let _ = stream.write_all(greeting);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    ip
}

/// Starts a resolver without any names.
fn resolver() -> Dns {
    Dns::at(SocketAddr::new(own_address().ip(), 53))
}

impl Host {
    /// Starts the program with these two files in `/etc`.
    fn start(dns: Dns, hosts: &str, resolv_conf: &str, config: &str) -> Self {
        let directory = Directory::new();
        let etc = directory.file("etc");
        fs::create_dir(&etc).unwrap();
        directory.write("etc/hosts", hosts);
        directory.write("etc/resolv.conf", resolv_conf);
        let mut command = Command::new("unshare");
        let run = format!("mount --bind {etc:?} /etc && exec {} \"$@\"", env!("CARGO_BIN_EXE_pointsman"));
        command.args(["--mount", "--propagation", "private", "sh", "-c", &run, "pointsman"]);
        Self { program: Program::start_by(command, directory, config), etc, dns }
    }

    /// Replaces a file of `/etc` by a rename.
    fn replace(&self, name: &str, text: &str) {
        let new = self.etc.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.etc.join(name)).unwrap();
    }

    /// Returns the names of a pool's backends.
    fn backends(&self, pool: &str) -> Vec<String> {
        let status = self.program.status();
        let pools = status["pools"].as_array().unwrap();
        let pool = pools.iter().find(|one| one["name"] == pool).unwrap();
        let backends = pool["backends"].as_array().unwrap().iter();
        backends.map(|backend| backend["name"].as_str().unwrap().to_owned()).collect()
    }

    fn wait_for(&self, pool: &str, expected: &[&str]) {
        wait_for(&format!("{pool}: {expected:?}"), || self.backends(pool) == expected);
    }
}

/// Returns a listener, and a pool for each of these names.
fn config(names: &[&str]) -> String {
    let mut text = String::from("[listener.l]\nbind = \"127.0.0.1:0\"\npool = \"p0\"\n");
    for (number, name) in names.iter().enumerate() {
        text += &format!(
            "[pool.p{number}]\nhealth.check = \"off\"\ndiscover = {{ dns = \"{name}\", port = 1, hold = \"0s\" }}\n"
        );
    }
    text
}

const HOSTS: &str = "127.0.0.1 localhost\n127.0.7.1 app.test app # by hand\n";

#[test]
#[ignore = "needs root and unshare"]
fn a_name_in_the_file_of_hosts_asks_no_resolver() {
    let names = ["app", "app.test", "APP.test.", "app.", "localhost"];
    for rest in ["search x.test\n", "", "search a.b c.d\noptions ndots:5\n", "# no "] {
        let dns = resolver();
        let resolv_conf = format!("{rest}nameserver {}\n", dns.address.ip());
        let host = Host::start(dns, HOSTS, &resolv_conf, &config(&names));
        for pool in ["p0", "p1", "p2", "p3"] {
            host.wait_for(pool, &["127.0.7.1:1"]);
        }
        host.wait_for("p4", &["127.0.0.1:1"]);
        assert_eq!(host.dns.questions(), 0, "the file is enough, for both families");
    }
}

#[test]
#[ignore = "needs root and unshare"]
fn the_search_list_is_that_of_the_system() {
    let dns = resolver();
    dns.set_addresses("app.ns.svc.cluster.local", &["127.0.7.2".parse().unwrap()]);
    dns.set_addresses("db.other.test", &["127.0.7.3".parse().unwrap()]);
    let resolv_conf = format!(
        "search ns.svc.cluster.local svc.cluster.local\nnameserver {}\noptions ndots:5\n",
        dns.address.ip()
    );
    let names = ["app", "db.other.test", "app.ns.svc.cluster.local.", "app."];
    let host = Host::start(dns, "", &resolv_conf, &config(&names));
    host.wait_for("p0", &["127.0.7.2:1"]);
    host.wait_for("p1", &["127.0.7.3:1"]);
    host.wait_for("p2", &["127.0.7.2:1"]);
    host.wait_for("p3", &[]);
}

#[test]
#[ignore = "needs root and unshare"]
fn a_change_of_the_files_is_followed_at_once() {
    let dns = resolver();
    // The addresses would be held for minutes.
    dns.hold(3600);
    dns.set_addresses("app.test", &["127.0.7.2".parse().unwrap()]);
    let resolv_conf = format!("nameserver {}\n", dns.address.ip());
    let host = Host::start(dns, "", &resolv_conf, &config(&["app.test"]));
    host.wait_for("p0", &["127.0.7.2:1"]);
    host.replace("hosts", HOSTS);
    host.wait_for("p0", &["127.0.7.1:1"]);
    host.replace("hosts", "");
    host.wait_for("p0", &["127.0.7.2:1"]);
    let other = resolver();
    other.set_addresses("app.test", &["127.0.7.4".parse().unwrap()]);
    host.replace("resolv.conf", &format!("nameserver {}\n", other.address.ip()));
    host.wait_for("p0", &["127.0.7.4:1"]);
}

/// A check resolves its name as backends do, and uses a change at its next attempt.
#[test]
#[ignore = "needs root and unshare"]
fn a_check_asks_where_the_files_say() {
    let (well, unwell) = (greeter(b"220 a\r\n"), greeter(b"421 a\r\n"));
    let dns = resolver();
    dns.hold(3600);
    dns.set_addresses("probe.ns.test", &[well]);
    let resolv_conf = format!("search ns.test\nnameserver {}\n", dns.address.ip());
    let config = format!(
        "[listener.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pool.p]\nbackends = [\"127.0.0.1:1\"]\n\
         health = {{ check = \"smtp\", interval = \"50ms\", address = \"probe:{GREETER}\" }}\n"
    );
    let host = Host::start(dns, "", &resolv_conf, &config);
    let state = || host.program.status()["pools"][0]["backends"][0].clone();
    let passed = |one: &Value| one["checks"]["passed"].as_u64().unwrap();
    wait_for("checks", || passed(&state()) > 1);
    host.replace("hosts", &format!("{unwell} probe\n"));
    wait_for("the file of hosts", || state()["state"] == "down");
    assert_eq!(state()["checks"]["heard"], "421 a");
    host.replace("hosts", "");
    wait_for("the search list", || state()["state"] == "up");
}

#[test]
#[ignore = "needs root and unshare"]
fn without_any_resolver_the_fault_says_who_was_asked() {
    let host = Host::start(resolver(), "", "# none\n", &config(&["app.test"]));
    host.program.log.wait_for("/etc/resolv.conf names no resolver, so 127.0.0.1 was queried");
}
