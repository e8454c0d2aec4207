//! The place of a test of upgrades: a folder, backends, the file of the program, and its processes, one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pointsman::admin;
use pointsman::sys::Address;

use super::clients::{ENGINES, ListenerAddresses, NAME};
use super::load::LoadBackends;
use crate::process::{Folder, Program};
use crate::support::dns::Dns;
use crate::support::{PATIENCE, own_address, wait_for};

/// The names of all listeners.
const LISTENERS: [&str; 10] =
    ["auto", "splice", "copy", "first", "tls", "egress", "postgres", "proxied", "scarce", "unix"];

/// The bytes that the kernel may hold for a slow peer of the listener `splice`. A relay reads as much as has come, and
/// waits with it in the pipe.
const BOUNDS: &str = "max_unsent = 65536";

/// The folder, the backends and the file.
pub(crate) struct Stage {
    pub(crate) folder: Folder,
    pub(crate) backends: LoadBackends,
    pub(crate) listeners: ListenerAddresses,
    dns: Dns,
}

impl Stage {
    pub(crate) fn new(test: &str) -> Self {
        let folder = Folder::new(test);
        let backends = LoadBackends::start(&folder.path(""));
        let dns = Dns::new();
        dns.hold(600);
        dns.set_addresses(NAME, &[backends.addresses.tls.ip()]);
        let listeners = ListenerAddresses {
            plain: [own_address(), own_address(), own_address()],
            first: own_address(),
            tls: own_address(),
            egress: own_address(),
            postgres: own_address(),
            proxied: own_address(),
            scarce: own_address(),
            unix: folder.path("listener.sock"),
        };
        Self { folder, backends, listeners, dns }
    }

    /// Returns the path of the socket for a hand-over.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path("handover.sock")
    }

    /// Returns the address of the admin listener.
    pub(crate) fn admin(&self) -> Address {
        format!("unix:{}", self.folder.path("admin.sock").display()).parse().unwrap()
    }

    /// Returns the path of the access log.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.folder.path("access.log")
    }

    /// Writes a file with these keys of the process, and without a socket for hand-overs.
    pub(crate) fn write_alone(&self, keys: &str) -> PathBuf {
        self.folder.write("config.toml", &self.text(keys))
    }

    /// Writes a file with these keys of the process, and the socket for hand-overs.
    pub(crate) fn write(&self, keys: &str) -> PathBuf {
        let socket = format!("\n[handover]\nsocket = {:?}\n", self.socket());
        self.folder.write("config.toml", &(self.text(keys) + &socket))
    }

    fn text(&self, keys: &str) -> String {
        let (to, at) = (&self.backends.addresses, &self.listeners);
        let mut text = format!(
            "{keys}\n[admin]\nlisten = \"{}\"\n[access_log]\nto = {:?}\n",
            self.admin(),
            self.access_log(),
        );
        let mut listener = |name: &str, bind: &str, keys: &str| {
            text.push_str(&format!("[listener.{name}]\nbind = \"{bind}\"\n{keys}\n"));
        };
        for (engine, address) in ENGINES.iter().zip(at.plain) {
            // So that most of a flood waits in a pipe, and not in a socket.
            let (pool, bounds) = if *engine == "splice" { ("bounded", BOUNDS) } else { ("plain", "") };
            listener(
                engine,
                &address.to_string(),
                &format!("engine = \"{engine}\"\npool = \"{pool}\"\n{bounds}"),
            );
        }
        let patient = "first_byte_timeout = \"1h\"\nhello_timeout = \"1h\"";
        listener("first", &at.first.to_string(), "pool = \"first\"");
        listener("tls", &at.tls.to_string(), &format!("protocol = \"tls\"\nunmatched = \"tls\"\n{patient}"));
        listener(
            "egress",
            &at.egress.to_string(),
            &format!("protocol = \"tls\"\nunmatched = \"egress\"\n{patient}"),
        );
        listener("postgres", &at.postgres.to_string(), "protocol = \"postgres\"\nplaintext = \"postgres\"");
        listener(
            "proxied",
            &at.proxied.to_string(),
            "pool = \"proxied\"\nproxy_protocol = { trusted = \"127.0.0.0/8\", timeout = \"1h\" }",
        );
        listener("scarce", &at.scarce.to_string(), "pool = \"scarce\"");
        listener("unix", &format!("unix:{}", at.unix.display()), "pool = \"unix\"");
        let mut pool = |name: &str, backends: &[String], keys: &str| {
            text.push_str(&format!(
                "[pool.{name}]\nbackends = {backends:?}\nhealth.check = \"off\"\n{keys}\n"
            ));
        };
        pool("plain", &[to.plain.to_string()], "");
        pool("bounded", &[to.plain.to_string()], BOUNDS);
        pool("first", &[to.first.to_string()], "");
        pool("tls", &[to.tls.to_string()], "");
        pool("proxied", &[to.proxied.to_string()], "proxy_protocol = \"v2\"");
        pool("postgres", &to.postgres.map(|address| address.to_string()), "balance = \"round-robin\"");
        pool(
            "scarce",
            &[to.scarce.to_string()],
            "max_connections = 2\nqueue = { length = 1000, timeout = \"10m\" }",
        );
        pool("unix", &[format!("unix:{}", self.backends.unix.display())], "");
        text.push_str(&format!(
            "[pool.egress.forward]\nto = \"sni\"\nport = {}\nallow = [\"{NAME}\"]\n\
             allow_private = \"127.0.0.0/8\"\nresolvers = \"{}\"\n",
            to.tls.port(),
            self.dns.address,
        ));
        text
    }

    /// Returns the metrics of the process that has the admin listener.
    pub(crate) fn metrics(&self) -> String {
        admin::ask(self.admin(), "/metrics", PATIENCE)
            .map_or_else(|error| error.to_string(), |(_, text)| text)
    }

    /// Waits until the counters of the process with the admin listener add up for each listener.
    #[track_caller]
    pub(crate) fn wait_until_counters_add_up(&self) {
        let mut faults = String::new();
        let add_up = || {
            faults = faults_of(&self.metrics());
            faults.is_empty()
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("sums", add_up)));
        assert!(result.is_ok(), "counters that do not add up:\n{faults}");
    }

    /// Waits until no connection is open, and checks that each connection has one record with an id of its own.
    #[track_caller]
    pub(crate) fn check_records(&self, connections: u64) {
        let count = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        let mut text = String::new();
        let have_all = || {
            text = fs::read_to_string(self.access_log()).unwrap_or_default();
            count(&text) >= connections
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("records", have_all)));
        assert!(result.is_ok(), "{} records for {connections} connections", count(&text));
        let (mut ids, mut reasons) = (BTreeMap::new(), BTreeMap::<String, u64>::new());
        for line in text.lines() {
            let record: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            *reasons.entry(record["close"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
            if let Some(other) = ids.insert(record["id"].as_u64().unwrap(), line) {
                panic!("two records of one connection:\n{other}\n{line}");
            }
        }
        assert_eq!(ids.len() as u64, connections, "records by their close reason: {reasons:?}");
    }
}

/// Returns the listeners whose counters do not add up, as text.
fn faults_of(metrics: &str) -> String {
    let sum = |family: &str, listener: &str| -> f64 {
        let start = format!("{family}{{listener=\"{listener}\"");
        let of_family = metrics.lines().filter(|line| line.starts_with(&start));
        of_family.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let mut faults = String::new();
    for listener in LISTENERS {
        let value = |name: &str| sum(&format!("pointsman_connections_{name}"), listener);
        let [accepted, adopted, closed, active, handed_over] =
            ["total", "adopted_total", "closed_total", "active", "handed_over_total"].map(value);
        if accepted + adopted != closed + active + handed_over
            || accepted + adopted == 0.0 && metrics.len() < 100
        {
            faults.push_str(&format!(
                "{listener}: accepted {accepted} + adopted {adopted} != closed {closed} + active {active} + handed over \
                 {handed_over}\n"
            ));
        }
    }
    if metrics.contains("pointsman_connections_total") { faults } else { format!("no metrics: {metrics}") }
}

/// The processes of the program, one after the other.
pub(crate) struct Generations {
    pub(crate) current: Program,
    file: PathBuf,
    /// The process ids so far.
    pub(crate) pids: Vec<u32>,
}

impl Generations {
    /// Starts the first process.
    pub(crate) fn start(file: &Path) -> Self {
        let program = start(Path::new(env!("CARGO_BIN_EXE_pointsman")), &["run"], file);
        program.stderr.wait_for("serving");
        let pids = vec![program.child.id()];
        Self { current: program, file: file.to_owned(), pids }
    }

    /// Starts a program that takes over, or tries to.
    pub(crate) fn spawn_successor(&self, program: &Path) -> Program {
        start(program, &["run", "--take-over"], &self.file)
    }

    /// Starts a program that takes over, and returns the process before it. Does not wait for the end of that process.
    pub(crate) fn take_over_by(&mut self, program: &Path) -> Program {
        let next = self.spawn_successor(program);
        next.stderr.wait_for("serving");
        self.pids.push(next.child.id());
        std::mem::replace(&mut self.current, next)
    }

    /// Lets the same program take over, and waits until the process before has ended.
    pub(crate) fn take_over(&mut self) {
        let retired = self.take_over_by(Path::new(env!("CARGO_BIN_EXE_pointsman")));
        check_end(retired);
    }

    /// Ends the process in order and starts another: not a hand-over.
    pub(crate) fn restart(&mut self) {
        self.current.signal("TERM");
        self.current.end();
        self.current = start(Path::new(env!("CARGO_BIN_EXE_pointsman")), &["run"], &self.file);
        self.current.stderr.wait_for("serving");
    }

    /// Returns the number of descriptors that the current process has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.current.child.id())).unwrap().count()
    }

    /// Returns the number of hand-overs that the current process has taken back.
    pub(crate) fn taken_back(&self) -> usize {
        let lines = self.current.stderr.all();
        lines.iter().filter(|line| line.contains("did not take over; this program goes on")).count()
    }

    /// Panics if the current process has ended.
    #[track_caller]
    pub(crate) fn check_alive(&mut self) {
        let ended = self.current.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}:\n{}", self.current.stderr.all().join("\n"));
    }
}

/// Waits until a process that handed all over has ended in order.
#[track_caller]
pub(crate) fn check_end(mut retired: Program) {
    let status = retired.end();
    // The last line may come after the end of the process was seen.
    let last = retired.stderr.wait_for(LAST_LINE);
    let log = retired.stderr.all().join("\n");
    assert_eq!(status.code(), Some(0), "{status}:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    check_last_counts(&last);
}

/// The last line of a process that handed all over.
const LAST_LINE: &str = "this program ends after its hand-over";

/// Checks that the counts in the last line of a process add up.
#[track_caller]
fn check_last_counts(line: &str) {
    let [accepted, adopted, closed, handed_over, active] =
        ["accepted", "adopted", "closed", "handed_over", "active"].map(|name| -> u64 {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        });
    assert_eq!((accepted + adopted, active), (closed + handed_over, 0), "{line}");
}

/// Returns the command of a program, without variables that change it.
pub(crate) fn program(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    for variable in ["POINTSMAN_ADMIN", "POINTSMAN_LOG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(variable);
    }
    command
}

fn start(path: &Path, arguments: &[&str], file: &Path) -> Program {
    Program::start(program(path, arguments).arg(file))
}
