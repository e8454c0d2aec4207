//! `cargo run --release -p demo`: pointsman in front of three TLS backends, on this machine alone.
//!
//! The backends get certificates from an authority that exists for one run. The balancer has no key: it reads the
//! server name of each connection and never decrypts. The demo sends requests by name and to a balanced pool, and
//! counts requests while a backend is stopped. Then it takes commands.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::print_stdout)]

mod authority;
mod backend;
mod client;
mod screen;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pointsman::server::{EarlySignals, EventKind, Server, ServerHandle, Signals};
use pointsman::telemetry::{ProgramLog, program_log};
use pointsman::{admin, cli, config};

use authority::Authority;
use backend::Backend;
use client::{Client, Load};
use screen::Screen;

type DemoResult<T> = Result<T, Box<dyn Error>>;

/// The backends.
const COLORS: [&str; 3] = ["red", "green", "blue"];

/// The time for which requests are counted while nothing happens.
const SHOWN: Duration = Duration::from_secs(2);

/// The longest time that the demo waits for a change of a backend's state.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time that the last lines of the log may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The commands.
const HELP: &str =
    "commands: stop COLOR, start COLOR, status, watch (until Enter), quit; colors: red, green, blue";

fn main() -> DemoResult<()> {
    let early = EarlySignals::catch()?;
    let authority = Authority::new()?;
    let mut backends = BTreeMap::new();
    for color in COLORS {
        backends.insert(color, Backend::new(color, authority.server(color)?)?);
    }
    let listen = free_or_any("127.0.0.1:7443");
    let admin_at = free_or_any("127.0.0.1:10190");
    let text = configuration(listen, admin_at, &backends);
    let (config, _) = config::parse("demo.toml", &text).map_err(|faults| faults.render(false))?;
    let log = ProgramLog::new();
    let control = program_log::send_events(config.log, log.clone())?;
    println!(
        "pointsman listens on {listen}, in front of three TLS backends, with this configuration:\n\n{text}"
    );
    println!("The log of pointsman:");
    log.start()?;

    let admin_listener = admin::bind(config::AdminSpec::new(admin_at))?;
    let server = Server::start(config)?;
    let remote = server.remote();
    let view = Arc::clone(remote.view());
    let serving = thread::spawn(move || {
        server
            .run(Signals::Obey { early, file: None, log: Some(control) }, admin::serve(admin_listener, view))
            .map_err(|e| e.to_string())
    });

    let client = Client::new(listen, authority.client()?);
    let file = authority.file.clone();
    let demo = Demo { backends, client, remote, admin_at };
    thread::spawn(move || demo.run(listen, &file));
    let result = serving.join().map_err(|_| "the control thread panicked")?;
    let _ = log.finish(LAST_LINES);
    drop(authority);
    result.map_err(Into::into)
}

fn configuration(listen: SocketAddr, admin: SocketAddr, backends: &BTreeMap<&str, Backend>) -> String {
    let [red, green, blue] = COLORS.map(|color| backends[color].address);
    format!(
        r#"[admin]
listen = "{admin}"

[access_log]
to = "off"

[listener.demo]
bind     = "{listen}"
protocol = "tls"
routes   = [
  {{ sni = "red.demo.test",   pool = "red" }},
  {{ sni = "green.demo.test", pool = "green" }},
  {{ sni = "blue.demo.test",  pool = "blue" }},
  {{ sni = "app.demo.test",   pool = "app" }},
]

[pool.red]
backends = ["{red}"]
health   = {{ interval = "500ms" }}

[pool.green]
backends = ["{green}"]
health   = {{ interval = "500ms" }}

[pool.blue]
backends = ["{blue}"]
health   = {{ interval = "500ms" }}

[pool.app]
balance  = "round-robin"
backends = ["{red}", "{green}", "{blue}"]
health   = {{ check = "http", tls = true, host = "app.demo.test", interval = "500ms" }}
"#
    )
}

/// Returns the wanted address if it is free, else an address with another port.
fn free_or_any(wanted: &str) -> SocketAddr {
    let bound = TcpListener::bind(wanted).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    bound.and_then(|listener| listener.local_addr()).expect("loopback has a free port")
}

/// The backends, a client, and the server between them.
struct Demo {
    backends: BTreeMap<&'static str, Backend>,
    client: Client,
    remote: ServerHandle,
    admin_at: SocketAddr,
}

impl Demo {
    /// Shows the three features, then runs commands. Stops the server at `quit` and at an error.
    fn run(&self, listen: SocketAddr, ca_file: &Path) {
        let screen = Screen::new();
        println!("\n1. By name: each connection goes to the pool of its server name, and stays encrypted.");
        for color in COLORS {
            self.client.show(&format!("{color}.demo.test"));
        }
        let load = Load::start(self.client.clone());
        println!("\n2. Balanced: all three backends serve `app.demo.test` in turn.");
        screen.count(&load, |shown| shown >= SHOWN);
        println!("\n3. Failover: green is stopped. Its clients get another backend, and no request fails.");
        self.stop("green", &screen, &load);
        println!("   Green is started again.");
        self.start("green", &screen, &load);
        self.show_last_screen(listen, ca_file);
        while let Some(line) = screen.command() {
            if !self.obey(&line, &screen, &load) {
                self.remote.stop();
                return;
            }
        }
    }

    /// Runs a command. Returns false for `quit`.
    fn obey(&self, line: &str, screen: &Screen, load: &Load) -> bool {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["stop", color] if self.backends.contains_key(color) => self.stop(color, screen, load),
            ["start", color] if self.backends.contains_key(color) => self.start(color, screen, load),
            ["status"] => self.show_status(),
            ["watch"] => screen.count(load, |_| false),
            ["quit"] => return false,
            [] => {}
            _ => println!("{HELP}"),
        }
        true
    }

    /// Stops a backend, and counts requests until pointsman has the backend as down.
    fn stop(&self, color: &str, screen: &Screen, load: &Load) {
        let changed = self.next_change();
        match self.backends[color].stop() {
            true => screen.count(load, changed),
            false => println!("   {color} is already stopped; `start {color}` starts it"),
        }
    }

    /// Starts a backend, and counts requests until pointsman has the backend as up.
    fn start(&self, color: &str, screen: &Screen, load: &Load) {
        let changed = self.next_change();
        match self.backends[color].start() {
            Ok(true) => screen.count(load, changed),
            Ok(false) => println!("   {color} is already running; `stop {color}` stops it"),
            Err(error) => println!("   {color} cannot be started: {error}; is its port taken?"),
        }
    }

    /// Returns a function that returns true after a backend has changed its state and the change was shown for a while.
    fn next_change(&self) -> impl FnMut(Duration) -> bool {
        let view = Arc::clone(self.remote.view());
        let count =
            move || view.events.newest_first().into_iter().find(|event| event.kind == EventKind::Backend);
        let before = count();
        let mut changed_at = None;
        move |shown| {
            if changed_at.is_none() && count() != before {
                changed_at = Some(shown);
            }
            changed_at.is_some_and(|at| shown >= at + SHOWN) || shown >= PATIENCE
        }
    }

    /// Prints the table of `pointsman status`.
    fn show_status(&self) {
        match admin::ask(self.admin_at, "/api/v1/status", PATIENCE) {
            Ok((_, page)) => println!("{}", cli::status_table(&page).unwrap_or(page)),
            Err(error) => println!("{} does not answer: {error}", self.admin_at),
        }
    }

    fn show_last_screen(&self, listen: SocketAddr, ca_file: &Path) {
        let (ca, port, admin_at) = (ca_file.display(), listen.port(), self.admin_at);
        println!(
            "
Five things to try; for 1, 2 and 5 use another terminal:
  1. openssl s_client -connect {listen} -servername red.demo.test -CAfile {ca} </dev/null
  2. curl --cacert {ca} --resolve app.demo.test:{port}:127.0.0.1 https://app.demo.test:{port}/
  3. stop green    and watch the log and the requests; then: start green
  4. status        the table of `pointsman status --admin {admin_at}`; also: watch
  5. curl http://{admin_at}/metrics      # also /ready and /api/v1/status
`quit` or Ctrl-C ends the demo.
ready"
        );
    }
}
