//! Overrides: what operators change at run time. They stay in force over reloads, and end by themselves if they have a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};

use pointsman::admin;
use pointsman::config::{AdminSpec, Config};
use serde_json::{Value, json};

use crate::process::{Folder, Program};
use crate::support::pair::{closed, connect_from, patient};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

/// Two backends that say their names, then echo.
struct Named {
    backends: [Backend; 2],
}

impl Named {
    fn start() -> Self {
        let backend = |name: &'static [u8; 1]| {
            Backend::serve(move |mut stream| {
                let _ = stream.write_all(name);
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..n]);
                }
            })
        };
        Self { backends: [backend(b"a"), backend(b"b")] }
    }

    /// Returns a configuration of the backends that are named, with these keys of the pool.
    fn text(&self, names: &str, pool: &str) -> String {
        let backend = |(name, backend): (char, &Backend)| {
            names
                .contains(name)
                .then(|| format!("{{ name = \"{name}\", address = \"{}\" }}", backend.address))
        };
        let backends: Vec<_> = ['a', 'b'].into_iter().zip(&self.backends).filter_map(backend).collect();
        format!(
            "workers = 2\naccess_log.to = \"off\"\nshutdown.drain = \"10s\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \
             \"main\"\n[pool.main]\nbalance = \"round-robin\"\nhealth.check = \"off\"\nbackends = [{}]\n{pool}\n",
            backends.join(", ")
        )
    }

    fn config(&self, names: &str) -> Config {
        config(&self.text(names, ""))
    }
}

/// Starts a proxy whose admin listener accepts changes.
fn start(config: Config) -> (Proxy, SocketAddr) {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (proxy, address) =
        Proxy::start_with(config, AdminSpec { open_changes: true, ..AdminSpec::new(address) });
    (proxy, address.tcp().unwrap())
}

#[track_caller]
fn page(admin: SocketAddr, path: &str) -> Value {
    let (code, body) = admin::ask(admin, path, PATIENCE).unwrap();
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Makes a change that must succeed. Returns the answer.
#[track_caller]
fn change(admin: SocketAddr, method: &'static str, path: &str) -> Value {
    let (code, body) = admin::change(admin, method, &format!("/api/v1/overrides/{path}"), PATIENCE).unwrap();
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[track_caller]
fn refused(admin: SocketAddr, method: &'static str, path: &str, code: u16, part: &str) {
    let (found, body) = admin::change(admin, method, &format!("/api/v1/overrides/{path}"), PATIENCE).unwrap();
    assert!(found == code && body.contains(part), "{path}: {found} {body}");
}

/// Connects, and returns the client with the name of its backend.
fn client(proxy: &Proxy) -> (TcpStream, char) {
    let mut client = proxy.connect();
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    (client, char::from(name[0]))
}

/// Returns the names of the backends of some clients, without repetitions.
fn reached(proxy: &Proxy) -> String {
    let mut names: Vec<char> = (0..6).map(|_| client(proxy).1).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().collect()
}

fn state(proxy: &Proxy, backend: &str) -> String {
    let snapshot = proxy.remote.view().snapshot.load();
    snapshot.pools["main"].pool.backend(backend).map_or("gone", |backend| backend.state().word()).to_owned()
}

fn wait_for_state(proxy: &Proxy, backend: &str, expected: &str) {
    wait_for(expected, || state(proxy, backend) == expected);
}

fn echo(client: &mut TcpStream) {
    client.write_all(b"?").unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"?");
}

#[test]
fn a_backend_is_drained_and_ready_again() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    let mut clients = [client(&proxy), client(&proxy)];
    let answer = change(admin, "POST", "state?pool=main&backend=a&value=drain");
    assert_eq!((&answer["result"], &answer["open"]), (&json!("set"), &json!(1)), "{answer}");
    wait_for_state(&proxy, "a", "draining");
    assert_eq!(reached(&proxy), "b");
    clients.iter_mut().for_each(|(client, _)| echo(client));
    let set = &page(admin, "/api/v1/overrides")[0];
    assert_eq!((&set["kind"], &set["value"], &set["open"]), (&json!("state"), &json!("drain"), &json!(1)));
    assert!(set["by"].as_str().unwrap().contains("127.0.0.1") && set["ends_in_seconds"].is_null(), "{set}");
    let status = page(admin, "/api/v1/status");
    assert_eq!(status["overrides"][0], *set);
    assert!(
        status["events"].to_string().contains("backend main/a has the operator state drain, by"),
        "{status}"
    );
    let (_, metrics) = admin::ask(admin, "/metrics", PATIENCE).unwrap();
    assert!(metrics.contains("pointsman_overrides{kind=\"state\"} 1"), "{metrics}");
    let answer = change(admin, "POST", "state?pool=main&backend=a&value=ready");
    assert_eq!(answer["result"], "ended");
    wait_for_state(&proxy, "a", "up");
    assert_eq!(reached(&proxy), "ab");
    assert_eq!(page(admin, "/api/v1/overrides"), json!([]));
}

/// A reload brings the configuration that is written, and not what an operator has changed since.
#[test]
fn an_override_stays_over_reloads_and_over_the_return_of_its_backend() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    change(admin, "POST", "state?pool=main&backend=a&value=maintenance");
    wait_for_state(&proxy, "a", "maintenance");
    proxy.remote.reload(config(&named.text("ab", "attempts = 2"))).unwrap();
    assert_eq!((state(&proxy, "a"), reached(&proxy)), ("maintenance".to_owned(), "b".to_owned()));
    proxy.remote.reload(named.config("b")).unwrap();
    assert_eq!(state(&proxy, "a"), "gone");
    assert_eq!(page(admin, "/api/v1/overrides")[0]["open"], Value::Null);
    proxy.remote.reload(named.config("ab")).unwrap();
    assert_eq!((state(&proxy, "a"), reached(&proxy)), ("maintenance".to_owned(), "b".to_owned()));
    // An override of a backend that is gone can be ended, also by making the backend ready.
    proxy.remote.reload(named.config("b")).unwrap();
    assert_eq!(change(admin, "POST", "state?pool=main&backend=a&value=ready")["result"], "ended");
    refused(admin, "POST", "state?pool=main&backend=a&value=ready", 404, "The backends of the pool are: b");
    proxy.remote.reload(named.config("ab")).unwrap();
    assert_eq!(reached(&proxy), "ab");
}

/// `ready` is an override where the configuration says otherwise.
/// In a failover the pool is paused, and its only backend is then taken out of use.
#[test]
fn the_last_backend_goes_only_by_force_or_during_a_pause() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    change(admin, "POST", "state?pool=main&backend=b&value=drain");
    wait_for_state(&proxy, "b", "draining");
    for value in ["drain", "maintenance"] {
        let path = format!("state?pool=main&backend=a&value={value}");
        refused(admin, "POST", &path, 412, "`a` is the last one of pool `main` that takes connections");
    }
    assert_eq!(state(&proxy, "a"), "up");
    change(admin, "POST", "pause?pool=main&for=1m");
    change(admin, "POST", "state?pool=main&backend=a&value=maintenance");
    wait_for_state(&proxy, "a", "maintenance");
    change(admin, "POST", "state?pool=main&backend=b&value=ready");
    wait_for_state(&proxy, "b", "up");
    change(admin, "DELETE", "pause?pool=main");
    assert_eq!(reached(&proxy), "b");
    change(admin, "POST", "state?pool=main&backend=b&value=drain&force=true");
    wait_for_state(&proxy, "b", "draining");
}

#[test]
fn a_backend_that_the_file_drains_can_be_made_ready() {
    let named = Named::start();
    let drained = named.text("ab", "").replace("name = \"a\"", "name = \"a\", state = \"drain\"");
    let (proxy, admin) = start(config(&drained));
    assert_eq!(reached(&proxy), "b");
    assert_eq!(change(admin, "POST", "state?pool=main&backend=a&value=ready")["result"], "set");
    wait_for_state(&proxy, "a", "up");
    assert_eq!(reached(&proxy), "ab");
    assert_eq!(change(admin, "DELETE", "state?pool=main&backend=a")["result"], "ended");
    wait_for_state(&proxy, "a", "draining");
}

#[test]
fn an_override_ends_when_its_time_is_over() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    let answer = change(admin, "POST", "state?pool=main&backend=a&value=drain&for=1h");
    assert_eq!(answer["ends_in_seconds"], 3600);
    wait_for_state(&proxy, "a", "draining");
    assert_eq!(change(admin, "POST", "state?pool=main&backend=a&value=drain&for=1ms")["result"], "replaced");
    wait_for_state(&proxy, "a", "up");
    assert_eq!(page(admin, "/api/v1/overrides"), json!([]));
    let events = page(admin, "/api/v1/status")["events"].to_string();
    assert!(
        events.contains("the override of the state of backend main/a has ended: its time is over"),
        "{events}"
    );
}

#[test]
fn a_weight_is_changed_and_put_back() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    let weight = || proxy.remote.view().snapshot.load().pools["main"].pool.backend("a").unwrap().weight();
    change(admin, "POST", "weight?pool=main&backend=a&value=9");
    wait_for("the weight", || weight() == 9);
    let of_a = (0..20).filter(|_| client(&proxy).1 == 'a').count();
    assert!(of_a >= 17, "{of_a} of 20");
    change(admin, "DELETE", "weight?pool=main&backend=a");
    wait_for("the weight of the file", || weight() == 1);
}

fn waiting(proxy: &Proxy) -> usize {
    proxy.remote.view().snapshot.load().pools["main"].pool.waiting()
}

/// Waits for the name of the backend, which comes when the client is served.
fn served(mut client: TcpStream) -> char {
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    char::from(name[0])
}

/// The pool has no queue: a pause needs none.
#[test]
fn clients_of_a_paused_pool_wait_and_are_served_later() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    let (mut open, _) = client(&proxy);
    let answer = change(admin, "POST", "pause?pool=main&for=1h");
    assert_eq!((&answer["result"], &answer["open"]), (&json!("set"), &json!(1)));
    let clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    wait_for("the waiters", || waiting(&proxy) == 20);
    echo(&mut open);
    assert_eq!(page(admin, "/api/v1/overrides")[0]["waiting"], 20);
    // A reload does not end the pause.
    proxy.remote.reload(config(&named.text("ab", "attempts = 2"))).unwrap();
    assert_eq!(waiting(&proxy), 20);
    change(admin, "DELETE", "pause?pool=main");
    clients.into_iter().for_each(|client| _ = served(client));
    assert_eq!(waiting(&proxy), 0);
    assert_eq!(reached(&proxy), "ab");
}

/// No operator could resume the waiters of a pool that does not exist.
#[test]
fn waiters_of_a_removed_pool_go_on() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    change(admin, "POST", "pause?pool=main&for=1h");
    let client = proxy.connect();
    wait_for("the waiter", || waiting(&proxy) == 1);
    let other = named
        .text("b", "")
        .replace("pool = \"main\"", "pool = \"other\"")
        .replace("[pool.main]", "[pool.other]");
    proxy.remote.reload(config(&other)).unwrap();
    served(client);
    served(proxy.connect());
}

#[test]
fn a_pause_ends_by_itself() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    change(admin, "POST", "pause?pool=main&for=300ms");
    served(proxy.connect());
    assert_eq!(page(admin, "/api/v1/overrides"), json!([]));
}

#[test]
fn a_pause_holds_a_bounded_number_of_clients() {
    let named = Named::start();
    let (proxy, admin) = start(config(&named.text("ab", "pause_length = 3")));
    change(admin, "POST", "pause?pool=main&for=1h");
    let clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    wait_for("the waiters", || waiting(&proxy) == 3);
    let mut fourth = proxy.connect();
    assert_eq!(fourth.read(&mut [0]).unwrap_or(0), 0, "the fourth is refused");
    proxy.wait_for_metric(&closed("queue_full"), 1.0);
    change(admin, "DELETE", "pause?pool=main");
    clients.into_iter().for_each(|client| _ = served(client));
}

/// The timeout of the queue begins at the end of the pause: it is over long before the pause ends.
#[test]
fn a_pause_does_not_count_for_the_timeout_of_the_queue() {
    let named = Named::start();
    let pool = "max_connections = 1\nqueue = { length = 100, timeout = \"200ms\" }";
    let (proxy, admin) = start(config(&named.text("a", pool)));
    change(admin, "POST", "pause?pool=main&for=1h");
    let mut clients: Vec<_> = (0..2).map(|_| proxy.connect()).collect();
    wait_for("the waiters", || waiting(&proxy) == 2);
    // Twice the timeout passes: the second pause begins after the first one has ended.
    change(admin, "POST", "pause?pool=main&for=500ms");
    let second = clients.pop().unwrap();
    let first = clients.pop().unwrap();
    wait_for("the end of the pause", || page(admin, "/api/v1/overrides") == json!([]));
    // One of them has the only slot, and the other one waits for the timeout.
    proxy.wait_for_metric(r#"pointsman_queue_timeouts_total{pool="main"}"#, 1.0);
    let mut names = [first, second].map(|mut client| client.read(&mut [0]).unwrap_or(0));
    names.sort_unstable();
    assert_eq!(names, [0, 1], "one is served, and one is refused");
}

#[test]
fn a_process_that_leaves_is_not_ready_and_serves_on() {
    let named = Named::start();
    let (proxy, admin) = start(named.config("ab"));
    let ready = || admin::ask(admin, "/ready", PATIENCE).unwrap();
    wait_for("ready", || ready().0 == 200);
    assert_eq!(change(admin, "POST", "leave")["result"], "set");
    assert_eq!(ready(), (503, "leaving\n".to_owned()));
    assert_eq!(reached(&proxy), "ab");
    assert_eq!(change(admin, "DELETE", "leave")["result"], "ended");
    assert_eq!(ready().0, 200);
    assert_eq!(change(admin, "DELETE", "leave")["result"], "absent");
}

#[test]
fn bad_requests_are_refused_with_what_is_right() {
    let named = Named::start();
    let (_proxy, admin) = start(named.config("ab"));
    refused(admin, "POST", "stat?pool=main&backend=a&value=drain", 404, "the kinds are: state, weight");
    refused(admin, "POST", "state?pool=mian&backend=a&value=drain", 404, "did you mean `main`?");
    refused(
        admin,
        "POST",
        "state?pool=main&backend=c&value=drain",
        404,
        "The backends of the pool are: a, b",
    );
    refused(admin, "POST", "state?pool=main&backend=a&value=up", 400, "drain, maintenance or ready");
    refused(admin, "POST", "state?pool=main&value=drain", 400, "takes: pool, backend, value");
    refused(admin, "POST", "state?pool=main&backend=a", 400, "takes: pool, backend, value");
    refused(admin, "POST", "state?pool=main&backend=a&value=drain&for=0s", 400, "`for` must be a duration");
    refused(admin, "POST", "state?pool=main&backend=a&value=drain&for=soon", 400, "`for` must be a duration");
    refused(admin, "POST", "state?pool=main&backend=a&value=drain&x=1", 400, "takes: pool, backend, value");
    refused(admin, "POST", "weight?pool=main&backend=a&value=0", 400, "is drained instead");
    refused(admin, "POST", "pause?pool=main", 400, "a pause needs `for`");
    refused(admin, "POST", "pause?pool=main&backend=a&for=1m", 400, "takes: pool and for");
    refused(admin, "POST", "leave?pool=main", 400, "takes: only for");
    refused(admin, "DELETE", "pause?pool=no", 404, "The pools are: main");
    assert_eq!(page(admin, "/api/v1/overrides"), json!([]));
    // Without the right to change, nothing changes.
    let (proxy, admin) = Proxy::start_with_admin(named.config("ab"));
    refused(admin, "POST", "state?pool=main&backend=a&value=drain", 401, "");
    assert_eq!(reached(&proxy), "ab");
}

/// Runs a command for the program behind this admin socket.
fn command(socket: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).args(["--admin", socket]).output().unwrap()
}

#[test]
fn the_commands_change_what_runs() {
    let (named, folder) = (Named::start(), Folder::new("steer"));
    let socket = format!("unix:{}", folder.path("admin.sock").display());
    let text = format!("{}[admin]\nlisten = \"{socket}\"\n", named.text("ab", ""));
    let file = folder.write("config.toml", &text);
    let program = Program::serve(&file);
    let address = program.address("main");
    let run = |arguments: &[&str], code: i32, part: &str| {
        let output = command(&socket, arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.code() == Some(code) && said.contains(part),
            "{arguments:?}: {} {said}",
            output.status
        );
    };
    let connect = || {
        let mut client = patient(TcpStream::connect(address).unwrap());
        let mut name = [0];
        client.read_exact(&mut name).unwrap();
        (client, char::from(name[0]))
    };
    let mut clients = vec![connect(), connect()];
    run(
        &["drain", "main/a", "--for", "1h", "--wait", "100ms"],
        1,
        "1 connection is still open, and the change stays in force",
    );
    run(&["drain", "main/a", "--wait", "100ms", "--then-close", "20/s"], 0, "1 connection");
    for (client, _) in clients.iter_mut().filter(|(_, name)| *name == 'a') {
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    }
    clients.retain(|(_, name)| *name == 'b');
    run(&["drain", "main/a", "--wait"], 0, "no connection is open");
    assert_eq!((0..6).filter(|_| connect().1 == 'a').count(), 0);
    run(&["overrides"], 0, "\"value\": \"drain\"");
    run(&["status"], 0, "drain");
    run(&["ready", "main/a"], 0, "main/a is as the configuration has it");
    wait_for("both backends", || connect().1 == 'a');
    run(&["maintenance", "main/b", "--for", "1h"], 0, "main/b gets no new connections for 1h (maintenance)");
    run(&["ready", "main/b"], 0, "main/b is as the configuration has it");
    run(
        &["weight", "main/a", "7"],
        0,
        "main/a has the weight 7; `pointsman weight main/a file` ends the override",
    );
    run(&["weight", "main/a", "file"], 0, "has the weight of the configuration");
    run(
        &["pause", "main", "--for", "1h", "--wait", "100ms"],
        1,
        "1 connection is still open, and the change stays in force",
    );
    run(&["status"], 0, "override main: an operator has paused it, and new connections wait (unix uid=");
    run(&["status"], 0, ": pointsman resume main");
    run(&["resume", "main"], 0, "pool main is not paused");
    run(&["status"], 0, "all is well");
    run(&["leave", "--for", "1h"], 0, "/ready answers 503 for 1h");
    run(&["health", "--ready"], 1, "leaving");
    run(&["status"], 0, ": pointsman join");
    run(&["join"], 0, "this process no longer leaves");
    run(&["health", "--ready"], 0, "ready");
    run(&["log", "debug", "--for", "1h"], 0, "the log has the level debug for 1h");
    let mut other_site = std::os::unix::net::UnixStream::connect(folder.path("admin.sock")).unwrap();
    other_site
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n")
        .unwrap();
    program.stderr.wait_for("DEBUG admin refused a request");
    run(&["log", "file"], 0, "the log has the level of the configuration");
    run(&["log", "loud"], 2, "error, warn, info, debug or trace");
    // A reload that moves too many keys, one that does not, and one that ends the overrides.
    let maglev = text.replace("round-robin", "maglev");
    folder.write("config.toml", &maglev);
    run(&["reload"], 0, "changed pool main");
    folder.write("config.toml", &maglev.replace("name = \"a\"", "name = \"c\""));
    run(&["reload", "--max-moved", "20%"], 3, "of the keys of pool main would go to another backend");
    run(&["status"], 0, "--max-moved allows 20.0 %");
    run(&["reload", "--max-moved", "80%"], 0, "changed pool main");
    run(&["drain", "main/b"], 0, "main/b gets no new connections (drain)");
    run(&["reload", "--reset"], 0, "nothing changed");
    run(&["overrides"], 0, "[]");
    let status = command(&socket, &["status", "--json"]).stdout;
    assert!(!String::from_utf8_lossy(&status).contains("\"state\": \"draining\""), "b is in use again");
    folder.write("config.toml", "nonsense = 1\n");
    run(&["reload"], 2, "not reloaded: the configuration has faults");
    run(&["reload", "--max-moved", "many"], 2, "must be a percentage");
    run(&["drain", "main/d"], 2, "The backends of the pool are: c, b");
    run(&["drain", "main/b", "--then-close", "20"], 2, "write a rate");
    run(&["drain", "main"], 2, "write the pool and the backend");
    run(&["pause", "main"], 2, "--for");
}

/// Returns a configuration with the route `local` of the listener `main` to the pool `main`, and the pool `canary`.
fn routed(named: &Named) -> Config {
    let [one, other] = &named.backends;
    config(&format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         routes = [{{ source = ['127.0.0.0/8'], name = 'local', pool = 'main' }}]\n\
         [pool.main]\nhealth.check = 'off'\nbackends = ['{}']\n\
         [pool.canary]\nhealth.check = 'off'\nbackends = ['{}']\n",
        one.address, other.address
    ))
}

/// Returns the names of the backends that clients of 100 addresses reach.
fn reached_from_all(proxy: &Proxy) -> String {
    let reach = |number| {
        let source = format!("127.0.1.{number}").parse().unwrap();
        let mut client = connect_from(source, proxy.address("main"));
        let mut name = [0];
        client.read_exact(&mut name).unwrap();
        char::from(name[0])
    };
    (1..=100).map(reach).collect()
}

fn count(names: &str, name: char) -> usize {
    names.matches(name).count()
}

#[test]
fn a_part_of_the_clients_goes_to_another_pool() {
    let named = Named::start();
    let (proxy, admin) = start(routed(&named));
    assert_eq!(count(&reached_from_all(&proxy), 'a'), 100);
    let set = change(admin, "POST", "split?listener=main&route=local&value=canary%3D30%25&for=1h");
    assert_eq!(
        (&set["result"], &set["value"], &set["route"]),
        (&json!("set"), &json!("canary=30%"), &json!("local"))
    );
    let third = reached_from_all(&proxy);
    assert!((15..45).contains(&count(&third, 'b')), "{third}");
    // A larger share moves clients in one direction only.
    change(admin, "POST", "split?listener=main&route=local&value=canary%3D60%25");
    let more = reached_from_all(&proxy);
    assert!((40..80).contains(&count(&more, 'b')), "{more}");
    assert!(third.chars().zip(more.chars()).all(|(before, after)| before == 'a' || after == 'b'));
    // It stays in force over a reload, and in the status.
    proxy.remote.reload(routed(&named)).unwrap();
    assert_eq!(reached_from_all(&proxy), more);
    let status = page(admin, "/api/v1/status");
    assert_eq!(status["overrides"][0]["value"], "canary=60%", "{status}");
    let explained = page(admin, "/api/v1/explain?listener=main&source=127.0.1.1");
    assert_eq!(
        explained["pool"]["name"],
        if more.starts_with('b') { "canary" } else { "main" },
        "{explained}"
    );
    let shares = json!([{ "pool": "main", "share": 0.4 }, { "pool": "canary", "share": 0.6 }]);
    assert_eq!(explained["route"]["split"], shares, "{explained}");
    assert!(explained["notes"].to_string().contains("are those of an operator (127.0.0.1"), "{explained}");
    change(admin, "POST", "split?listener=main&route=local&value=main%3D0%25,canary%3D100%25");
    assert_eq!(count(&reached_from_all(&proxy), 'b'), 100);
    assert_eq!(change(admin, "DELETE", "split?listener=main&route=local")["result"], "ended");
    assert_eq!(count(&reached_from_all(&proxy), 'a'), 100);
}

#[test]
fn wrong_shares_change_nothing() {
    let named = Named::start();
    let (proxy, admin) = start(routed(&named));
    let refuse = |query: &str, code, part: &str| {
        refused(admin, "POST", &format!("split?{query}"), code, part);
    };
    refuse("listener=main&route=local", 400, "the query of this override takes: listener, route, value");
    refuse("listener=main&value=canary%3D1%25", 400, "takes: listener, route, value");
    refuse("listener=main&route=local&pool=main&value=canary%3D1%25", 400, "takes: listener, route");
    refuse(
        "listener=mian&route=local&value=canary%3D1%25",
        404,
        "there is no listener `mian`; did you mean `main`?",
    );
    refuse(
        "listener=main&route=locl&value=canary%3D1%25",
        404,
        "there is no route `locl`; did you mean `local`?",
    );
    refuse(
        "listener=main&route=local&value=canry%3D1%25",
        404,
        "there is no pool `canry`; did you mean `canary`?",
    );
    refuse("listener=main&route=local&value=canary", 400, "`value` must have shares of pools");
    refuse("listener=main&route=local&value=canary%3D101%25", 400, "`value` must have shares of pools");
    refuse("listener=main&route=local&value=main%3D10%25", 400, "the shares must be 100 % together");
    assert_eq!(page(admin, "/api/v1/overrides"), json!([]));
    assert_eq!(count(&reached_from_all(&proxy), 'a'), 100);
}
