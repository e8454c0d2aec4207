//! Three sites, clients of several regions, a name server and a resolver, each in a network namespace. The
//! addresses are those of the files in `dist/global`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::{ChildGuard, Directory, Lines, finish, run, said};
use crate::support::country_file::{CountryFile, map, number_of};
use crate::support::{repository, wait_for};

/// A site, and a client near it. The name is also the first line of the site's backend.
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) site: [&'static str; 2],
    pub(super) client: &'static str,
    pub(super) client_v6: &'static str,
}

pub(super) const EUROPE: Region = Region {
    name: "europe",
    site: ["192.0.2.10", "2001:db8:1::10"],
    client: "192.0.2.129",
    client_v6: "2001:db8:1::81",
};
pub(super) const AMERICA: Region = Region {
    name: "america",
    site: ["198.51.100.10", "2001:db8:2::10"],
    client: "198.51.100.129",
    client_v6: "2001:db8:2::81",
};
pub(super) const ASIA: Region = Region {
    name: "asia",
    site: ["203.0.113.10", "2001:db8:3::10"],
    client: "203.0.113.129",
    client_v6: "2001:db8:3::81",
};
pub(super) const REGIONS: [&Region; 3] = [&EUROPE, &AMERICA, &ASIA];

/// A client in Honolulu. Tokyo is nearer than Virginia, across the 180th meridian.
pub(super) const ISLANDER: &str = "203.0.113.200";

/// The client's end of its link, which is in no network of the database. The resolver runs there.
pub(super) const UNKNOWN: &str = "10.79.3.2";

pub(super) const NAME_SERVER: &str = "192.0.2.53";
pub(super) const NAME_SERVER_V6: &str = "2001:db8:1::53";
pub(super) const NAME: &str = "www.example.com";

/// The places with a link to the name server, by the number of the link.
const PLACES: [&str; 4] = ["europe", "america", "asia", "client"];

/// The backends of the file, and those of the test.
const BACKENDS: (&str, &str) = ("\"10.0.0.11:443\", \"10.0.0.12:443\"", "\"127.0.0.1:9001\"");

/// The networks of the database with the latitude and the longitude of each.
const NETWORKS: [(&str, f64, f64); 8] = [
    ("192.0.2.0/24", 48.86, 2.35),
    ("198.51.100.0/24", 41.88, -87.63),
    ("203.0.113.0/25", 35.68, 139.69),
    ("203.0.113.128/26", 1.35, 103.82),
    ("203.0.113.192/26", 21.31, -157.86),
    ("2001:db8:1::/48", 48.86, 2.35),
    ("2001:db8:2::/48", 41.88, -87.63),
    ("2001:db8:3::/48", 1.35, 103.82),
];

/// Returns a database with the networks.
fn database() -> Vec<u8> {
    let double = |number: f64| [&[3 << 5 | 8], &number.to_be_bytes()[..]].concat();
    let mut file = CountryFile::new();
    file.kind = "Test-City";
    for (network, latitude, longitude) in NETWORKS {
        let location = map(&[
            ("accuracy_radius", number_of(5, 50)),
            ("latitude", double(latitude)),
            ("longitude", double(longitude)),
        ]);
        let record = file.record(&map(&[("location", location)]));
        file.put(network, record);
    }
    file.bytes()
}

/// Returns a file of `dist/global` with these replacements, each of which must occur.
fn shipped(name: &str, replacements: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(repository("dist/global").join(name)).unwrap();
    replacements.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} has no {from:?}");
        text.replace(from, to)
    })
}

/// The program of a site with the processes beside it.
pub(super) struct Site {
    pub(super) process: ChildGuard,
    _others: Vec<ChildGuard>,
}

/// Five namespaces: the sites and the clients, each with a link to the name server, which routes between them.
pub(super) struct World {
    prefix: String,
    directory: Directory,
    running: Vec<ChildGuard>,
}

impl World {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("pointsman-global-{}-{number}", std::process::id());
        let world = Self { prefix, directory: Directory::new(), running: Vec::new() };
        for place in PLACES.iter().chain(&["names"]) {
            run(Command::new("ip").args(["netns", "add", &world.name(place)]));
            world.ip(place, "link set lo up");
        }
        let forward =
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        run(world.at("names", "sh").args(["-c", forward]));
        world.ip("names", &format!("addr add {NAME_SERVER}/32 dev lo"));
        world.ip("names", &format!("addr add {NAME_SERVER_V6}/128 dev lo nodad"));
        for (link, place) in PLACES.iter().enumerate() {
            world.link(link, place);
        }
        let clients = REGIONS.iter().flat_map(|region| [region.client, region.client_v6]);
        for address in clients.chain([ISLANDER]) {
            world.add_address(3, "client", address);
        }
        for (link, region) in REGIONS.iter().enumerate() {
            region.site.iter().for_each(|address| world.add_address(link, region.name, address));
        }
        world
    }

    /// Connects a place with the name server.
    fn link(&self, link: usize, place: &str) {
        let there = self.name(place);
        self.ip("names", &format!("link add to-{place} type veth peer name line netns {there}"));
        for (at, device, end) in [("names", format!("to-{place}"), 1), (place, "line".to_owned(), 2)] {
            self.ip(at, &format!("addr add 10.79.{link}.{end}/24 dev {device}"));
            self.ip(at, &format!("addr add fd79:{link}::{end}/64 dev {device} nodad"));
            self.ip(at, &format!("link set {device} up"));
        }
        self.ip(place, &format!("route add default via 10.79.{link}.1"));
        self.ip(place, &format!("-6 route add default via fd79:{link}::1"));
    }

    /// Gives a place an address and leads the name server to it.
    fn add_address(&self, link: usize, place: &str, address: &str) {
        if address.contains(':') {
            self.ip(place, &format!("addr add {address}/128 dev lo nodad"));
            self.ip("names", &format!("-6 route add {address} via fd79:{link}::2 src {NAME_SERVER_V6}"));
        } else {
            self.ip(place, &format!("addr add {address}/32 dev lo"));
            self.ip("names", &format!("route add {address} via 10.79.{link}.2 src {NAME_SERVER}"));
        }
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    fn ip(&self, place: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(place)]).args(arguments.split(' ')));
    }

    /// Returns a command that runs in a namespace. Its process becomes that of the program.
    pub(super) fn at(&self, place: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place)]).arg(program);
        command
    }

    fn socket(&self, region: &Region) -> String {
        self.directory.file(&format!("{}.sock", region.name)).display().to_string()
    }

    /// Starts a site whose `/ready` is on its own addresses, for the name servers alone.
    pub(super) fn start_site(&self, region: &Region) -> Site {
        let [v4, v6] = region.site;
        let config = shipped("site.toml", &[(EUROPE.site[0], v4), (EUROPE.site[1], v6), BACKENDS]);
        run(self.at(region.name, "nft").arg("-f").arg(repository("dist/global/ready.nft")));
        self.start_program(region, &config, Vec::new())
    }

    /// Starts a site whose `/ready` is read by nginx from the admin socket, for all.
    pub(super) fn start_site_behind_nginx(&self, region: &Region) -> Site {
        let socket = self.socket(region);
        let server = shipped(
            "ready.nginx.conf",
            &[
                (ASIA.site[0], region.site[0]),
                (ASIA.site[1], region.site[1]),
                ("/run/pointsman/admin.sock", &socket),
            ],
        );
        let conf = format!(
            "daemon off;\nmaster_process off;\npid {}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{server}}}\n",
            self.directory.0.display()
        );
        let conf = self.directory.write("nginx.conf", conf);
        let mut nginx = self.at(region.name, "nginx");
        nginx.arg("-p").arg(&self.directory.0).arg("-c").arg(conf).stderr(Stdio::null());
        let config = shipped("site.toml", &[BACKENDS]);
        let lines = config
            .lines()
            .filter(|line| !["[admin]", "listen = ", "open_metrics"].iter().any(|key| line.starts_with(key)));
        let config = lines.collect::<Vec<_>>().join("\n");
        self.start_program(region, &config, vec![ChildGuard::spawn(&mut nginx)])
    }

    /// Starts the program of a site, in front of a backend that sends the name of the site and then echoes.
    fn start_program(&self, region: &Region, config: &str, mut others: Vec<ChildGuard>) -> Site {
        let file = self.directory.write(&format!("{}.toml", region.name), config);
        let admin = format!("unix:{}", self.socket(region));
        let mut program = self.at(region.name, env!("CARGO_BIN_EXE_pointsman"));
        program.args(["run", "--admin", &admin]).arg(file).env_remove("POINTSMAN_LOG");
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = ChildGuard::spawn(&mut program);
        let mut backend = self.at(region.name, "socat");
        backend.args([
            "TCP4-LISTEN:9001,bind=127.0.0.1,reuseaddr,fork",
            &format!("SYSTEM:echo {}; cat", region.name),
        ]);
        others.push(ChildGuard::spawn(backend.stdin(Stdio::null()).stderr(Stdio::null())));
        let log = Lines::follow(process.0.stderr.take().unwrap());
        log.wait_for("serving");
        Site { process, _others: others }
    }

    /// Starts the name server and waits until its checks of all sites have passed.
    pub(super) fn start_name_server(&mut self) {
        let directory = self.directory.0.display().to_string();
        let geo = self.directory.write("geo.mmdb", database()).display().to_string();
        let etc = ("/etc/powerdns", &*directory);
        let conf = shipped("pdns.conf", &[etc, ("/var/lib/GeoIP/GeoLite2-City.mmdb", &geo)]);
        self.directory.write("pdns.conf", conf);
        self.directory.write("named.conf", shipped("named.conf", &[etc]));
        self.directory.write("example.com.zone", shipped("example.com.zone", &[("www 30 IN", "www 5 IN")]));
        let mut server = self.at("names", "pdns_server");
        server.args(["--daemon=no", "--guardian=no", "--disable-syslog", "--write-pid=no", "--loglevel=6"]);
        server.args([format!("--config-dir={directory}"), format!("--socket-dir={directory}")]);
        let log = self.start(server);
        log.wait_for("Done launching threads");
        // The first query of a name begins its checks.
        wait_for("an answer", || self.ask(NAME_SERVER, EUROPE.client, NAME, "A").is_some());
        wait_for("an answer", || self.ask(NAME_SERVER, EUROPE.client, NAME, "AAAA").is_some());
        for address in REGIONS.iter().flat_map(|region| region.site) {
            log.wait_for(&format!("declaring {address} UP"));
        }
    }

    /// Starts a resolver with a cache, which sends the network of a client along.
    pub(super) fn start_resolver(&mut self) {
        let conf = format!(
            "server:\n interface: {UNKNOWN}\n outgoing-interface: {UNKNOWN}\n access-control: 0.0.0.0/0 allow\n \
             chroot: \"\"\n username: \"\"\n directory: \"{}\"\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n \
             num-threads: 1\n module-config: \"subnetcache iterator\"\n send-client-subnet: {NAME_SERVER}\n \
             stub-zone:\n name: \"example.com\"\n stub-addr: {NAME_SERVER}\nremote-control:\n control-enable: no\n",
            self.directory.0.display()
        );
        let conf = self.directory.write("unbound.conf", conf);
        let mut resolver = self.at("client", "unbound");
        resolver.args(["-d", "-p", "-c"]).arg(conf);
        self.start(resolver).wait_for("start of service");
    }

    /// Starts a server that logs to its standard error.
    fn start(&mut self, mut command: Command) -> Arc<Lines> {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = ChildGuard::spawn(piped);
        let log = Lines::follow(server.0.stderr.take().unwrap());
        self.running.push(server);
        log
    }

    /// Runs dig at the client and returns its output, or `None` without an answer.
    pub(super) fn dig(&self, source: &str, arguments: &[&str]) -> Option<String> {
        let mut dig = self.at("client", "dig");
        let output = finish(dig.args(["+tries=3", "+time=5", "-b", source]).args(arguments), b"");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Returns the address of a name, for a client with this address.
    pub(super) fn ask(&self, server: &str, source: &str, name: &str, kind: &str) -> Option<IpAddr> {
        let text = self.dig(source, &["+short", &format!("@{server}"), name, kind])?;
        Some(text.trim().parse().unwrap_or_else(|_| panic!("{name} for {source}: {text:?}")))
    }

    /// Waits until a server answers a client with another site, and returns the time since `begin`. Until then
    /// it must answer with the old site.
    pub(super) fn wait_for_move(
        &self,
        begin: Instant,
        server: &str,
        client: &str,
        from: &Region,
        to: &Region,
    ) -> Duration {
        let [from, to]: [IpAddr; 2] = [from, to].map(|region| region.site[0].parse().unwrap());
        wait_for(&format!("{to} for {client}"), || {
            let answer = self.ask(server, client, NAME, "A").expect("an answer");
            assert!([from, to].contains(&answer), "{client} got {answer}");
            answer == to
        });
        begin.elapsed()
    }

    /// Runs a command of the program at a site.
    pub(super) fn order(&self, region: &Region, command: &str) {
        let admin = format!("unix:{}", self.socket(region));
        run(Command::new(env!("CARGO_BIN_EXE_pointsman")).args([command, "--admin", &admin]));
    }

    /// Connects as a client does: resolves the name, then connects to the answer.
    pub(super) fn connect(&self, source: &str) -> Connection {
        let address = self.ask(NAME_SERVER, source, NAME, "A").expect("an answer");
        self.connect_to(&address.to_string(), source)
    }

    /// Connects to a site and reads its name.
    pub(super) fn connect_to(&self, address: &str, source: &str) -> Connection {
        let mut socat = self.at("client", "socat");
        socat.args(["-".to_owned(), format!("TCP4:{address}:443,bind={source}")]);
        let piped = socat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = ChildGuard::spawn(piped);
        let (to, from) = (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
        let from = BufReader::new(from);
        let mut connection = Connection { _process: process, to, from, site: String::new() };
        connection.site = connection.line();
        connection
    }

    /// Returns the status code of a request, or 0 if the connection is refused.
    pub(super) fn code(&self, place: &str, arguments: &[&str]) -> u16 {
        let mut curl = self.at(place, "curl");
        curl.args(["--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        let output = finish(curl.args(arguments), b"");
        String::from_utf8(output.stdout.clone())
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("{}", said(&output)))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in PLACES.iter().chain(&["names"]) {
            let name = self.name(place);
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

pub(super) struct Connection {
    _process: ChildGuard,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// The name of the site that serves the connection.
    pub(super) site: String,
}

impl Connection {
    /// Returns the next line, or an empty text at the end.
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a line and waits for its echo.
    pub(super) fn echo(&mut self) {
        self.to.write_all(b"still there\n").unwrap();
        assert_eq!(self.line(), "still there");
    }
}
