//! Client, program and backend on three hosts, as far as the kernel is concerned: network namespaces with
//! links that can be cut.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{ChildGuard, Directory, Program, finish, run, said};
use crate::support::{pattern, wait_for};

/// Three namespaces: client `10.77.1.2` and `fd77:1::2`, program `.1` on both links, backend `10.77.2.2`.
pub(super) struct Network {
    prefix: String,
}

impl Network {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("pointsman-{}-{number}", std::process::id()) };
        for place in ["client", "program", "backend"] {
            run(Command::new("ip").args(["netns", "add", &network.name(place)]));
            network.ip(place, "link set lo up");
        }
        for (link, place) in [(1, "client"), (2, "backend")] {
            let there = network.name(place);
            network.ip("program", &format!("link add to-{place} type veth peer name line netns {there}"));
            for (at, device, end) in [("program", format!("to-{place}"), 1), (place, "line".to_owned(), 2)] {
                network.ip(at, &format!("addr add 10.77.{link}.{end}/24 dev {device}"));
                network.ip(at, &format!("addr add fd77:{link}::{end}/64 dev {device} nodad"));
                network.ip(at, &format!("link set {device} up"));
            }
        }
        network
    }

    pub(super) fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    pub(super) fn ip(&self, place: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(place)]).args(arguments.split(' ')));
    }

    /// Returns a command that runs in a namespace. Its process becomes that of the program.
    pub(super) fn at(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    fn cut(&self, place: &str) {
        self.ip(place, "link set line down");
    }

    fn mend(&self, place: &str) {
        self.ip(place, "link set line up");
    }

    /// Starts the program in front of what `socat` serves at port 9001 of the backend.
    pub(super) fn program(&self, listener: &str, served: &[&str]) -> (Program, ChildGuard) {
        self.program_to(listener, "backends = [\"10.77.2.2:9001\"]", served)
    }

    /// Starts the program in the same way, with keys of the pool, its backends among them.
    pub(super) fn program_to(&self, listener: &str, pool: &str, served: &[&str]) -> (Program, ChildGuard) {
        let mut socat = self.at("backend", "socat");
        socat.args(served).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let backend = ChildGuard::spawn(&mut socat);
        wait_for("the backend", || {
            !run(self.at("backend", "ss").args(["-Hltn", "sport", "=", ":9001"])).is_empty()
        });
        let config = format!(
            "[listener.main]\nbind = \":9000\"\npool = \"main\"\n{listener}\n\
             [pool.main]\n{pool}\nhealth.check = \"off\"\n"
        );
        let program = self.at("program", env!("CARGO_BIN_EXE_pointsman"));
        (Program::start_by(program, Directory::new(), &config), backend)
    }

    /// Starts a client. Its streams are the input and the output of its process.
    pub(super) fn client(&self, address: &str) -> Client {
        let mut socat = self.at("client", "socat");
        socat
            .args(["-t", "60", "-", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = ChildGuard::spawn(&mut socat);
        let (to, from) = (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
        Client { process, to, from }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in ["client", "program", "backend"] {
            let _ =
                Command::new("ip").args(["netns", "del", &self.name(place)]).stderr(Stdio::null()).status();
        }
    }
}

pub(super) struct Client {
    process: ChildGuard,
    pub(super) to: ChildStdin,
    from: ChildStdout,
}

impl Client {
    pub(super) fn greet(&mut self) {
        self.to.write_all(b"are you there").unwrap();
        let mut answer = [0; 13];
        self.from.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"are you there");
    }
}

pub(super) const PROGRAM: &str = "TCP:10.77.1.1:9000";
// One process serves one connection, because a child with a vanished peer would outlive its parent. It reads
// blocks of one page: a larger block does not always fit into a pipe that select calls writable, and socat
// then blocks.
const ECHO: &[&str] = &["-b", "4096", "TCP4-LISTEN:9001,reuseaddr", "PIPE"];
const ENDLESS: &[&str] = &["-U", "TCP4-LISTEN:9001,reuseaddr", "OPEN:/dev/zero,rdonly"];

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn both_families_are_bound_side_by_side() {
    let network = Network::new();
    let (program, _backend) = network.program("", &["TCP4-LISTEN:9001,reuseaddr,fork", "PIPE"]);
    for address in [PROGRAM, "TCP6:[fd77:1::1]:9000"] {
        network.client(address).greet();
    }
    for source in ["10.77.1.2:", "[fd77:1::2]:"] {
        program.wait_for_record(source, |record| record["client"].as_str().unwrap().starts_with(source));
    }
    program.stop();
}

/// Sends each client the address that it comes from, then sends its bytes back.
const SEEN: &[&str] = &["TCP6-LISTEN:9001,reuseaddr,fork,ipv6only=0", "SYSTEM:echo $SOCAT_PEERADDR; cat"];

impl Network {
    /// Sets the rules that the program prints, so that the answers of the backend go through the program.
    fn lead_answers(&self, config: &str) {
        let directory = Directory::new();
        let file = directory.write("config.toml", config);
        let script = run(Command::new(env!("CARGO_BIN_EXE_pointsman")).arg("tproxy-rules").arg(file));
        let script = directory.write("rules", script);
        // The rules are set twice, as an operator does who changes the configuration.
        for _ in 0..2 {
            run(self.at("program", "sh").arg(&script));
        }
        self.ip("backend", "route add 10.77.1.0/24 via 10.77.2.1");
        self.ip("backend", "-6 route add fd77:1::/64 via fd77:2::1");
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables and socat"]
fn backends_see_the_addresses_of_clients() {
    let network = Network::new();
    let backends = "[\"10.77.2.2:9001\", \"[fd77:2::2]:9001\"]";
    let pool = format!("balance = \"failover\"\nsource = \"client\"\nbackends = {backends}");
    let config = format!("[listener.main]\nbind = \":1\"\npool = \"main\"\n[pool.main]\n{pool}\n");
    network.lead_answers(&config);
    let (program, _backend) = network.program_to("", &pool, SEEN);
    // A client of the other address family gets the other backend.
    for (address, seen, attempts) in [
        (PROGRAM, "[0000:0000:0000:0000:0000:ffff:0a4d:0102]", 1),
        ("TCP6:[fd77:1::1]:9000", "[fd77:0001:0000:0000:0000:0000:0000:0002]", 2),
    ] {
        let Client { mut process, mut to, mut from } = network.client(address);
        let mut line = vec![0; seen.len() + 1];
        from.read_exact(&mut line).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), format!("{seen}\n"));
        // The bytes do not fit into the buffers on the way, so both sides must answer.
        let sent = pattern(4 << 20, 5);
        let mut received = vec![0; sent.len()];
        thread::scope(|scope| {
            scope.spawn(|| {
                to.write_all(&sent).unwrap();
                drop(to);
            });
            from.read_exact(&mut received).unwrap();
        });
        assert!(received == sent, "{} bytes are not what was sent", sent.len());
        assert!(process.wait().success());
        program.wait_for_record("the end", |record| record["attempts"] == attempts);
    }
    program.stop();
}

#[test]
#[ignore = "needs root, iproute2, socat and setpriv"]
fn to_take_the_addresses_of_clients_needs_a_capability() {
    let directory = Directory::new();
    let config = "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n\
                  [pool.main]\nbackends = [\"127.0.0.1:1\"]\nsource = \"client\"\n";
    let file = directory.write("config.toml", config);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin,-net_raw", env!("CARGO_BIN_EXE_pointsman"), "run"]).arg(file);
    let output = finish(&mut command, b"");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the process needs CAP_NET_ADMIN or CAP_NET_RAW"), "{}", said(&output));
}

/// A Unix socket gets no address of the client. It would take a client for the process itself.
#[test]
#[ignore = "needs root"]
fn a_discovered_socket_is_not_reached_as_ourselves() {
    let directory = Directory::new();
    let socket = directory.file("socket");
    let server = UnixListener::bind(&socket).unwrap();
    server.set_nonblocking(true).unwrap();
    let found = format!(r#"{{"version":1,"backends":[{{"address":"unix:{}"}}]}}"#, socket.display());
    let found = directory.write("found.json", found);
    let program = Program::start(&format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n[pool.main]\nsource = \"client\"\n\
         health.check = \"off\"\ndiscover.file = {found:?}\n"
    ));
    wait_for("the socket", || program.sum("pointsman_backend_up", "main") == 1.0);
    let client = TcpStream::connect(program.address("main")).unwrap();
    let record = program.wait_for_record("the end", |record| record["close"] == "connect_failed");
    assert_eq!(record["backend_address"], format!("unix:{}", socket.display()));
    assert_eq!(program.sum("pointsman_connect_attempts_total", "\"local\""), 1.0);
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(client);
    program.stop();
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_blackout_only_delays() {
    for engine in ["copy", "splice"] {
        let network = Network::new();
        let (program, _backend) = network.program(&format!("engine = \"{engine}\""), ECHO);
        let Client { mut process, mut to, mut from } = network.client(PROGRAM);
        // The bytes are more than all buffers on the way can hold.
        let sent = pattern(64 << 20, 3);
        let mut received = vec![0; 4 << 20];
        thread::scope(|scope| {
            scope.spawn(|| {
                to.write_all(&sent).unwrap();
                drop(to);
            });
            from.read_exact(&mut received).unwrap();
            network.cut("backend");
            let begin = Instant::now();
            let rest = &mut received;
            let resumed = scope.spawn(move || {
                from.read_to_end(rest).unwrap();
                begin.elapsed()
            });
            wait_for("the end of the blackout", || begin.elapsed() > Duration::from_secs(3));
            assert!(!resumed.is_finished());
            network.mend("backend");
            let took = resumed.join().unwrap();
            assert!(took > Duration::from_secs(3) && took < Duration::from_secs(30), "{took:?}");
        });
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
        assert!(process.wait().success());
        program.wait_for_record("the end", |record| record["close"] == "client_fin");
        program.stop();
    }
}

/// Cuts a link for good after some bytes have come, and waits for the close reason.
fn check_vanished(listener: &str, pool: &str, served: &[&str], place: &str, close: &str) -> Value {
    let network = Network::new();
    let pool = format!("backends = [\"10.77.2.2:9001\"]\n{pool}");
    let (program, _backend) = network.program_to(listener, &pool, served);
    let mut client = network.client(PROGRAM);
    if served == ECHO {
        client.greet();
    } else {
        client.from.read_exact(&mut vec![0; 1 << 20]).unwrap();
    }
    network.cut(place);
    let record = program.wait_for_record(close, |record| record["close"] == close);
    program.stop();
    record
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_client_is_noticed_by_unacknowledged_bytes() {
    for engine in ["copy", "splice"] {
        let listener = format!("user_timeout = \"2s\"\nkeepalive = \"off\"\nengine = \"{engine}\"");
        let record = check_vanished(&listener, "", ENDLESS, "client", "client_vanished");
        assert_eq!(record["closed_by"], "client");
        let took = record["total_seconds"].as_f64().unwrap();
        assert!((2.0..12.0).contains(&took), "{took}");
    }
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_client_is_noticed_by_keepalive() {
    check_vanished("keepalive = \"4s\"", "", ECHO, "client", "client_vanished");
}

#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_vanished_backend_is_noticed_by_keepalive() {
    // The socket of the backend gets the options of its pool at the second sweep.
    check_vanished("", "keepalive = \"4s\"", ECHO, "backend", "backend_vanished");
}

/// The kernel has only one local port, at which no process listens. So each connect to this port reaches its
/// own socket.
#[test]
#[ignore = "needs root, iproute2 and socat"]
fn a_connect_to_itself_is_a_refused_connect() {
    let network = Network::new();
    let pool = "backends = [\"127.0.0.1:40000\"]";
    let config = format!(
        "[listener.main]\nbind = \":9000\"\npool = \"main\"\n[pool.main]\n{pool}\nhealth.check = \"off\"\n\
         [listener.checked]\nbind = \":9001\"\npool = \"checked\"\n[pool.checked]\n{pool}\n\
         health = {{ interval = \"50ms\", fast_interval = \"50ms\", down_interval = \"50ms\" }}\n"
    );
    let program = network.at("program", env!("CARGO_BIN_EXE_pointsman"));
    let program = Program::start_by(program, Directory::new(), &config);
    program.log.wait_for("backend down pool=checked");
    // The range is set after the start, because the admin listener needs a port of its own.
    let range = "echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range";
    run(network.at("program", "sh").args(["-c", range]));
    // Without the check of the proxy, clients would get their own bytes back.
    for number in 1..=20 {
        let mut client = network.client(PROGRAM);
        // The client may be reset before it writes.
        let _ = client.to.write_all(b"a secret");
        let record = program.wait_for_record("the end", |record| record["id"] == number);
        assert_eq!(record["from_backend_bytes"], 0, "{record}");
        // A check may hold the port at this moment.
        assert!(
            ["connect_refused", "out_of_resources"].iter().any(|close| record["close"] == *close),
            "{record}"
        );
    }
    // Forty checks have run meanwhile; two would bring the backend up.
    assert!(!program.log.have("backend up"), "checks pass at a port where nobody listens");
    // The port is free for a server that does not reuse addresses.
    let mut socat = network.at("program", "socat");
    socat.args(["TCP4-LISTEN:40000,bind=127.0.0.1,fork", "PIPE"]).stdin(Stdio::null());
    let _backend = ChildGuard::spawn(&mut socat);
    let listens = || run(network.at("program", "ss").args(["-Hltn", "sport", "=", ":40000"]));
    wait_for("the backend", || !listens().is_empty());
    // The server holds the only port of the range, so the kernel gets another range.
    run(network.at("program", "sh").args(["-c", &range.replace("40000 40000", "40001 40100")]));
    program.log.wait_for("backend up pool=checked");
    network.client(PROGRAM).greet();
    program.stop();
}

/// Backends, listeners and checks on one link, by the name of its interface.
#[test]
#[ignore = "needs root, iproute2 and socat"]
fn link_local_addresses_are_reached_by_the_name_of_an_interface() {
    let network = Network::new();
    for (place, address, device) in [
        ("client", "fe80::c", "line"),
        ("program", "fe80::1", "to-client"),
        ("program", "fe80::2", "to-backend"),
        ("backend", "fe80::b", "line"),
    ] {
        network.ip(place, &format!("addr add {address}/64 dev {device} nodad"));
    }
    let config = "[listener.main]\nbind = \"[fe80::1%to-client]:9000\"\npool = \"main\"\n\
                  [pool.main]\nbackends = [\"[fe80::b%to-backend]:9001\"]\n\
                  health = { interval = \"50ms\", fast_interval = \"50ms\", down_interval = \"50ms\", port = 9001 }\n";
    let program = network.at("program", env!("CARGO_BIN_EXE_pointsman"));
    let program = Program::start_by(program, Directory::new(), config);
    program.log.wait_for("backend down pool=main");
    let mut socat = network.at("backend", "socat");
    let _backend =
        ChildGuard::spawn(socat.args(["TCP6-LISTEN:9001,reuseaddr,fork", "PIPE"]).stdin(Stdio::null()));
    program.log.wait_for("backend up pool=main");
    network.client("TCP6:[fe80::1%line]:9000").greet();
    let record = program.wait_for_record("the end", |record| record["close"] == "client_fin");
    assert_eq!(record["backend_address"], "[fe80::b%to-backend]:9001");
    program.stop();
}
