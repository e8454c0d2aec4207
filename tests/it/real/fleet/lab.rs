//! A fleet in network namespaces: clients, a router, nodes with the files of `dist/fleet`, and a backend.
//!
//! Each node has `10.9.1.1N` on the link of clients (`eth0`) and `10.9.2.1N` on the link between the nodes (`eth1`), and
//! the same with `fd00:1::1N` and `fd00:2::1N`. The virtual addresses are those of the files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::super::{ChildGuard, Directory, Lines, finish, run, said};
use crate::support::{repository, wait_for};

pub(super) const VIP: &str = "10.9.9.9";
pub(super) const VIP6: &str = "fd00:9::9";
pub(super) const PORT: &str = "5432";

const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");

/// The rounds of all clients after which the effects of an event have shown.
const SETTLED: usize = 6;

/// The router: it spreads clients over the nodes that announce the address.
const ROUTER: &str = "log \"LOG\" all;
router id 10.9.1.1;
protocol device { scan time 1; }
protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
protocol kernel k4 { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel k6 { merge paths on; ipv6 { import none; export where source = RTS_BGP; }; }
";

/// A fleet. Its processes end with it, and then its namespaces.
pub(super) struct Lab {
    prefix: String,
    directory: Directory,
    /// The backend, the router and the other programs that run from the start to the end.
    services: Vec<ChildGuard>,
    nodes: BTreeMap<usize, Node>,
}

/// The programs of a node that come and go.
#[derive(Default)]
struct Node {
    pointsman: Option<ChildGuard>,
}

/// The result of the clients.
pub(super) struct Outcome {
    /// The connections by their nodes.
    pub(super) owned: BTreeMap<String, u64>,
    /// Those of them that broke, by their nodes.
    pub(super) lost: BTreeMap<String, u64>,
    /// The new connections that were refused.
    pub(super) refused: u64,
    /// Those that were accepted and broke before their node was known.
    pub(super) cut: u64,
    text: String,
}

impl Outcome {
    fn read(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap();
        let counts = |key: &str| -> BTreeMap<String, u64> {
            let counts = value[key].as_object().unwrap().iter();
            counts.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
        };
        let outcome = Self {
            owned: counts("owned"),
            lost: counts("lost"),
            refused: counts("refused").values().sum(),
            cut: counts("cut").values().sum(),
            text: text.to_owned(),
        };
        assert!(counts("opened")["short"] > 0, "no new connections: {text}");
        outcome
    }

    /// Returns the connections of a node that broke.
    pub(super) fn lost_of(&self, node: usize) -> u64 {
        self.lost.get(&format!("10.9.1.1{node}")).copied().unwrap_or_default()
    }

    pub(super) fn owned_by(&self, node: usize) -> u64 {
        self.owned.get(&format!("10.9.1.1{node}")).copied().unwrap_or_default()
    }

    /// Returns all connections that broke.
    pub(super) fn all_lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Checks that no connection broke and no new one was refused.
    pub(super) fn assert_whole(&self, event: &str) {
        self.show(event);
        assert_eq!((self.all_lost(), self.refused, self.cut), (0, 0, 0), "{event}: {}", self.text);
        assert!(self.owned.values().sum::<u64>() > 0, "{event}: {}", self.text);
    }

    /// Checks that connections of this node broke and no others, and that no new one was refused.
    pub(super) fn assert_lost_only_of(&self, node: usize, event: &str) {
        self.show(event);
        assert!(self.lost_of(node) > 0, "{event}: {}", self.text);
        assert_eq!((self.all_lost(), self.refused), (self.lost_of(node), 0), "{event}: {}", self.text);
        // A short connection may be at the node when it dies.
        assert!(self.cut <= 2, "{event}: {}", self.text);
    }

    /// Prints a line for a table.
    #[expect(clippy::print_stdout, reason = "`.ci/fleet` reads the line")]
    pub(super) fn show(&self, event: &str) {
        println!("fleet: {event}: {}", self.text);
    }
}

/// Clients that run.
pub(super) struct Clients {
    process: ChildGuard,
    lines: Arc<Lines>,
}

impl Clients {
    fn rounds(&self) -> usize {
        let lines = self.lines.lines.lock().unwrap();
        lines.iter().rev().find_map(|line| line.strip_prefix("rounds ")?.parse().ok()).unwrap_or(0)
    }

    /// Waits until each open connection has had some more answers.
    pub(super) fn settle(&self) {
        let before = self.rounds();
        wait_for("more rounds of the clients", || self.rounds() >= before + SETTLED);
    }

    /// Ends the clients and returns their result.
    pub(super) fn end(mut self) -> Outcome {
        self.settle();
        drop(self.process.0.stdin.take());
        Outcome::read(&self.lines.wait_for("result "))
    }
}

impl Lab {
    /// Makes the namespaces and their links, with so many nodes. Nothing runs but the backend.
    pub(super) fn new(nodes: usize) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            prefix: format!("pointsman-fleet-{}-{number}", std::process::id()),
            directory: Directory::new(),
            services: Vec::new(),
            nodes: (1..=nodes).map(|node| (node, Node::default())).collect(),
        };
        for place in lab.places() {
            run(Command::new("ip").args(["netns", "add", &lab.name(&place)]));
            lab.ip(&place, "link set lo up");
        }
        lab.connect();
        for node in 1..=nodes {
            lab.prepare(node);
        }
        lab.start_backend();
        lab
    }

    fn places(&self) -> Vec<String> {
        let nodes = self.nodes.keys().map(|node| format!("n{node}"));
        ["client", "router", "wire", "backend"].into_iter().map(str::to_owned).chain(nodes).collect()
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    pub(super) fn ip(&self, place: &str, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name(place)]).args(arguments.split(' ')))
    }

    /// Returns a command that runs in a namespace. Its process becomes that of the program.
    pub(super) fn at(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]).env("POINTSMAN_ADMIN", self.admin(place));
        command
    }

    /// Returns the address of the admin listener of a node.
    fn admin(&self, place: &str) -> String {
        format!("unix:{}", self.directory.file(&format!("{place}-admin.sock")).display())
    }

    pub(super) fn sh(&self, place: &str, script: &str) -> String {
        run(self.at(place, "sh").args(["-ec", script]))
    }

    /// Makes the links: the router has a switch for clients' packets, `wire` a switch between the nodes.
    fn connect(&self) {
        let own = |place: &str| self.name(place);
        for (place, addresses) in [("router", "10.9.1.1/24 fd00:1::1/64"), ("wire", "")] {
            self.ip(place, "link add switch type bridge");
            self.ip(place, "link set switch up");
            self.add_addresses(place, "switch", addresses);
        }
        self.ip("client", &format!("link add eth0 type veth peer name client netns {}", own("router")));
        self.add_addresses("client", "eth0", "10.9.0.2/24 fd00:a::2/64");
        self.add_addresses("router", "client", "10.9.0.1/24 fd00:a::1/64");
        for route in ["route add default via 10.9.0.1", "-6 route add default via fd00:a::1"] {
            self.ip("client", route);
        }
        self.plug("backend", "eth0", "router", "10.9.1.100/24 fd00:1::100/64");
        for node in self.nodes.keys() {
            let place = format!("n{node}");
            self.plug(&place, "eth0", "router", &format!("10.9.1.1{node}/24 fd00:1::1{node}/64"));
            self.plug(&place, "eth1", "wire", &format!("10.9.2.1{node}/24 fd00:2::1{node}/64"));
        }
        let settings = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                        net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1";
        run(self.at("router", "sysctl").arg("-qw").args(settings.split_whitespace()));
    }

    fn add_addresses(&self, place: &str, device: &str, addresses: &str) {
        self.ip(place, &format!("link set {device} up"));
        for address in addresses.split_whitespace() {
            let nodad = if address.contains("::") { " nodad" } else { "" };
            self.ip(place, &format!("addr add {address} dev {device}{nodad}"));
        }
    }

    fn plug(&self, place: &str, device: &str, switch: &str, addresses: &str) {
        let there = self.name(switch);
        self.ip(place, &format!("link add {device} type veth peer name {place}-{device} netns {there}"));
        self.ip(switch, &format!("link set {place}-{device} master switch up"));
        self.add_addresses(place, device, addresses);
    }

    /// Gives a node its settings, its files and the virtual addresses.
    fn prepare(&self, node: usize) {
        let place = format!("n{node}");
        self.ip(&place, "route add default via 10.9.1.1");
        self.ip(&place, "-6 route add default via fd00:1::1");
        self.add_addresses(&place, "lo", &format!("{VIP}/32 {VIP6}/128"));
        let settings = repository("dist/fleet/pointsman-fleet.sysctl.conf");
        run(self.at(&place, "sysctl").arg("-qp").arg(settings));
        self.configure(node, "0s");
    }

    /// Writes the configuration of a node, with a grace of SIGTERM.
    pub(super) fn configure(&self, node: usize, grace: &str) {
        let admin = self.admin(&format!("n{node}"));
        let handover = self.path(&format!("n{node}-handover.sock"));
        let config = format!(
            "workers = 1\n[admin]\nlisten = \"{admin}\"\n[listener.db]\nbind = \":{PORT}\"\npool = \"db\"\n\
             [pool.db]\nbackends = [\"10.9.1.100:7000\"]\nhealth.check = \"off\"\n\
             [handover]\nsocket = \"{handover}\"\n[shutdown]\ngrace = \"{grace}\"\ndrain = \"60s\"\n"
        );
        self.directory.write(&format!("n{node}.toml"), config);
    }

    fn start_backend(&mut self) {
        let script = self.directory.write("backend.py", include_str!("backend.py"));
        let mut command = self.at("backend", "python3");
        let mut backend = ChildGuard::spawn(
            command.arg(script).arg("7000").stdout(Stdio::piped()).stderr(self.output("backend.log")),
        );
        Lines::follow(backend.0.stdout.take().unwrap()).wait_for("listening");
        self.services.push(backend);
    }

    fn output(&self, name: &str) -> File {
        File::options().create(true).append(true).open(self.directory.file(name)).unwrap()
    }

    /// Starts a program that runs until the end of the fleet. Its output goes to a file.
    pub(super) fn serve(&mut self, command: &mut Command, log: &str) {
        command.stdin(Stdio::null()).stdout(self.output(log)).stderr(self.output(log));
        self.services.push(ChildGuard::spawn(command));
    }

    /// Starts bird in a namespace, with this configuration.
    fn serve_bird(&mut self, place: &str, config: &str) {
        let log = self.directory.file(&format!("{place}-bird.log"));
        // A machine under load may not run bird for 0.3 s, and no test counts seconds.
        let config = config.replace("LOG", log.to_str().unwrap()).replace("multiplier 3", "multiplier 20");
        let config = self.directory.write(&format!("{place}-bird.conf"), config);
        let (control, pid) = (self.bird_control(place), self.directory.file(&format!("{place}-bird.pid")));
        let mut command = self.at(place, "bird");
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(control).arg("-P").arg(pid);
        self.serve(&mut command, &format!("{place}-bird.out"));
    }

    fn bird_control(&self, place: &str) -> String {
        self.path(&format!("{place}.ctl"))
    }

    /// Starts the router, which takes announcements of the nodes. With `bfd` it finds silent nodes.
    pub(super) fn start_router(&mut self, bfd: bool) {
        let mut config = ROUTER.to_owned();
        let bfd = if bfd { "bfd on;" } else { "" };
        for node in self.nodes.keys() {
            for (at, network, channel, vip) in
                [(4, "10.9.1.", "ipv4", format!("{VIP}/32")), (6, "fd00:1::", "ipv6", format!("{VIP6}/128"))]
            {
                config += &format!(
                    "protocol bgp n{node}_{at} {{ local {network}1 as 65000; neighbor {network}1{node} as 65001; \
                     hold time 9; passive on; {bfd} {channel} {{ import where net = {vip}; export none; }}; }}\n"
                );
            }
        }
        self.serve_bird("router", &config);
    }

    /// Returns the arguments of `fleet-rules` for a node.
    fn rules_of(&self, node: usize) -> Vec<String> {
        let others = self.nodes.keys().filter(|other| **other != node);
        let peers: Vec<_> =
            others.map(|other| format!("{other}=10.9.2.1{other},{other}=fd00:2::1{other}")).collect();
        let config = self.directory.file(&format!("n{node}.toml"));
        let fixed = format!(
            "fleet-rules {} --vip {VIP},{VIP6} --uplink eth0 --peer eth1 --node {node} --peers {}",
            config.display(),
            peers.join(",")
        );
        fixed.split(' ').map(str::to_owned).collect()
    }

    /// Returns the text that the program prints for a node.
    pub(super) fn rules(&self, node: usize, format: &str) -> String {
        run(Command::new(BINARY).args(self.rules_of(node)).args(["--format", format]))
    }

    /// Sets the rules on all nodes.
    pub(super) fn set_rules(&self) {
        for node in self.nodes.keys() {
            let script = self.directory.write(&format!("n{node}-rules.sh"), self.rules(*node, "sh"));
            run(self.at(&format!("n{node}"), "sh").arg(script));
        }
    }

    /// Starts bird on all nodes with the ring and with this part of a configuration, and waits for the routes of the ring.
    pub(super) fn start_birds(&mut self, rest: impl Fn(usize) -> String) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            let place = format!("n{node}");
            let ring = self.rules(node, "bird").replace("multiplier 3", "multiplier 20");
            let ring = self.directory.write(&format!("{place}-ring.conf"), ring);
            let config = rest(node).replace("/etc/bird/pointsman-ring.conf", ring.to_str().unwrap());
            self.serve_bird(&place, &config);
        }
        for node in self.nodes.keys() {
            for family in ["-4", "-6"] {
                self.wait_for_route(&format!("n{node}"), &format!("{family} route show table 28782"), 1);
            }
        }
    }

    /// Starts bird on all nodes as `dist/fleet/bird.conf` has it, and the script that follows pointsman.
    pub(super) fn start_announcing(&mut self) {
        let file = fs::read_to_string(repository("dist/fleet/bird.conf")).unwrap();
        self.start_birds(|node| {
            file.replace("10.9.1.12", &format!("10.9.1.1{node}"))
                .replace("fd00:1::12", &format!("fd00:1::1{node}"))
                .replace("log syslog all", "log \"LOG\" all")
        });
        let path = format!(
            "{}:{}",
            std::path::Path::new(BINARY).parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            let place = format!("n{node}");
            let script = repository("dist/fleet/pointsman-announce.sh");
            let mut command = self.at(&place, script.to_str().unwrap());
            command.env("BIRDC", format!("birdc -s {}", self.bird_control(&place))).env("PATH", &path);
            self.serve(&mut command, &format!("{place}-announce.log"));
        }
    }

    /// Starts all that a fleet behind a router has, and waits until each node gets clients.
    pub(super) fn start_behind_router(nodes: usize) -> Self {
        let mut lab = Self::new(nodes);
        lab.start_router(true);
        for node in 1..=nodes {
            lab.start(node);
        }
        lab.start_announcing();
        lab.wait_for_paths(nodes);
        lab
    }

    /// Starts pointsman on a node and waits until it serves.
    pub(super) fn start(&mut self, node: usize) {
        let program = self.run(node, &["run"]);
        self.nodes.get_mut(&node).unwrap().pointsman = Some(program);
    }

    /// Replaces pointsman on a node by a new process that takes over its connections, and waits for the end of the old one.
    pub(super) fn upgrade(&mut self, node: usize) {
        let successor = self.run(node, &["run", "--take-over"]);
        self.pointsman(node).wait();
        self.nodes.get_mut(&node).unwrap().pointsman = Some(successor);
    }

    /// Starts pointsman with these arguments and the file of a node, and waits until it serves.
    fn run(&self, node: usize, arguments: &[&str]) -> ChildGuard {
        let mut command = self.at(&format!("n{node}"), BINARY);
        command.args(arguments).arg(self.path(&format!("n{node}.toml"))).env_remove("POINTSMAN_LOG");
        let mut program =
            ChildGuard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
        Lines::follow(program.0.stderr.take().unwrap()).wait_for("serving");
        program
    }

    fn pointsman(&mut self, node: usize) -> &mut ChildGuard {
        self.nodes.get_mut(&node).unwrap().pointsman.as_mut().expect("pointsman runs on the node")
    }

    pub(super) fn signal(&mut self, node: usize, signal: &str) {
        self.pointsman(node).signal(signal);
    }

    /// Waits until pointsman has ended on a node.
    pub(super) fn wait_for_end(&mut self, node: usize) {
        self.pointsman(node).wait();
        self.nodes.get_mut(&node).unwrap().pointsman = None;
    }

    /// Ends pointsman on a node at once.
    pub(super) fn kill(&mut self, node: usize) {
        self.signal(node, "KILL");
        self.wait_for_end(node);
    }

    /// Runs a command of the program on a node.
    pub(super) fn command(&self, node: usize, arguments: &[&str]) -> String {
        run(self.at(&format!("n{node}"), BINARY).args(arguments))
    }

    /// Drops all packets of a node, without a change of its links.
    pub(super) fn silence(&self, node: usize) {
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority -400; policy drop; }}");
        let (input, output) = (chain("prerouting"), chain("output"));
        let file =
            self.directory.write("silence.nft", format!("table inet silence {{\n{input}\n{output}\n}}\n"));
        run(self.at(&format!("n{node}"), "nft").arg("-f").arg(file));
    }

    /// Waits until the router has so many paths to the virtual addresses of both families.
    pub(super) fn wait_for_paths(&self, paths: usize) {
        self.wait_for_route("router", &format!("-4 route show {VIP}"), paths);
        self.wait_for_route("router", &format!("-6 route show {VIP6}"), paths);
    }

    /// Waits until the routes that `ip` shows have so many next hops.
    pub(super) fn wait_for_route(&self, place: &str, arguments: &str, hops: usize) {
        wait_for(&format!("{hops} next hops in {place}: {arguments}"), || {
            // A round starts a process.
            thread::park_timeout(Duration::from_millis(50));
            // A table without routes does not exist, which is an error.
            let mut show = Command::new("ip");
            show.args(["-n", &self.name(place)]).args(arguments.split(' '));
            said(&finish(&mut show, b"")).matches("via ").count() == hops
        });
    }

    /// Starts so many clients and waits until all are connected. They end after so many seconds, or stay with 0.
    pub(super) fn clients(&self, vip: &str, count: usize, life: usize) -> Clients {
        let script = self.directory.write("client.py", include_str!("client.py"));
        let mut command = self.at("client", "python3");
        command.arg(script).args([vip, PORT, &count.to_string(), &life.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(self.output("client.log"));
        let mut process = ChildGuard::spawn(&mut command);
        let lines = Lines::follow(process.0.stdout.take().unwrap());
        lines.wait_for("ready");
        let clients = Clients { process, lines };
        wait_for("the first rounds", || clients.rounds() >= 1);
        clients
    }

    /// Returns a command that runs a script of Python in a namespace.
    pub(super) fn python(&self, place: &str, name: &str, script: &str) -> Command {
        let script = self.directory.write(name, script);
        let mut command = self.at(place, "python3");
        command.arg(script);
        command
    }

    /// Returns the path of a file that a program makes.
    pub(super) fn path(&self, name: &str) -> String {
        self.directory.file(name).to_str().unwrap().to_owned()
    }

    pub(super) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        self.directory.write(name, text).to_str().unwrap().to_owned()
    }
}

impl Drop for Lab {
    #[expect(clippy::print_stderr, reason = "a test that fails shows the logs of its programs")]
    fn drop(&mut self) {
        if thread::panicking() {
            for file in fs::read_dir(&self.directory.0).into_iter().flatten().flatten() {
                let is_log = file.path().extension().is_some_and(|end| end == "log" || end == "out");
                if let Ok(text) = fs::read_to_string(file.path())
                    && is_log
                    && !text.is_empty()
                {
                    let from = text.char_indices().rev().nth(1500).map_or(0, |(at, _)| at);
                    eprintln!("== {}\n{}", file.path().display(), &text[from..]);
                }
            }
        }
        self.nodes.values_mut().for_each(|node| node.pointsman = None);
        self.services.clear();
        for place in self.places() {
            let _ =
                Command::new("ip").args(["netns", "del", &self.name(&place)]).stderr(Stdio::null()).status();
        }
    }
}
