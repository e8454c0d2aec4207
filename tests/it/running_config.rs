//! The keys in force in a running program, and the origins of their values.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;

use pointsman::admin;
use pointsman::config::{self, AdminSpec};
use serde_json::{Value, json};

use crate::process::{Folder, Program, command, run};
use crate::support::{PATIENCE, Proxy, config, wait_for};

/// A running program with an admin socket in its folder.
struct Running {
    folder: Folder,
    _program: Program,
}

impl Running {
    /// Starts the program with this text after the table of its admin listener, which has the lines 1 and 2.
    fn start(name: &str, text: &str, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = Folder::new(name);
        let file = folder.write("config.toml", &whole(&folder, text));
        let mut command = command(&["run"]);
        command.args(options).arg(&file).envs(variables.iter().copied());
        let program = Program::start(&mut command);
        program.stderr.wait_for("serving");
        Self { folder, _program: program }
    }

    fn write(&self, text: &str) {
        self.folder.write("config.toml", &whole(&self.folder, text));
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let socket = socket(&self.folder);
        run(&[arguments, &["--admin", &socket]].concat())
    }

    /// Runs a command that must succeed, and returns its output.
    #[track_caller]
    fn answer(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the lines of `pointsman config` with single spaces.
    #[track_caller]
    fn config(&self, arguments: &[&str]) -> Vec<String> {
        let answer = self.answer(&[&["config"], arguments].concat());
        answer.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Returns one key as JSON.
    #[track_caller]
    fn key(&self, key: &str) -> Value {
        let page: Value = serde_json::from_str(&self.answer(&["config", "--json", key])).unwrap();
        let keys = page["keys"].as_array().unwrap();
        let found = keys.iter().find(|found| found["key"] == key);
        found.unwrap_or_else(|| panic!("no {key} in {page}")).clone()
    }
}

fn socket(folder: &Folder) -> String {
    format!("unix:{}", folder.path("admin.sock").display())
}

fn whole(folder: &Folder, text: &str) -> String {
    format!("[admin]\nlisten = \"{}\"\n{text}", socket(folder))
}

/// A listener and a pool with two backends. The first line is the third line of the file.
const POOL: &str = r#"[listener.main]
bind = "127.0.0.1:0"
pool = "db"
[pool.db]
health.check = "off"
backends = [
  { name = "a", address = "127.0.0.1:1", weight = 2 },
  "127.0.0.1:2",
]
[access_log]
to = "off"
"#;

#[test]
fn each_key_has_its_value_and_its_line() {
    let running = Running::start("config-file", POOL, &[], &[]);
    let socket = socket(&running.folder);
    let expected = [
        "access_log.to \"off\" config.toml:13",
        &format!("admin.listen \"{socket}\" config.toml:2"),
        "listener.main.bind \"127.0.0.1:0\" config.toml:4",
        "listener.main.pool \"db\" config.toml:5",
        "pool.db.backends[0].address \"127.0.0.1:1\" config.toml:9",
        "pool.db.backends[0].name \"a\" config.toml:9",
        "pool.db.backends[0].weight 2 config.toml:9",
        "pool.db.backends[1] \"127.0.0.1:2\" config.toml:10",
        "pool.db.health.check \"off\" config.toml:7",
    ];
    assert_eq!(running.config(&[]), expected);
    assert_eq!(running.config(&["pool.db"]), expected[4..]);
    assert_eq!(running.config(&["pool.db.backends[0].weight"]), expected[6..7]);
    assert_eq!(running.config(&["access_log."]), expected[..1]);
    let key = running.key("pool.db.backends[0].weight");
    assert_eq!(
        (&key["value"], &key["origin"], &key["place"]),
        (&json!(2), &json!("file"), &json!("config.toml:9"))
    );
    let page: Value = serde_json::from_str(&running.answer(&["config", "--json"])).unwrap();
    let file = running.folder.path("config.toml");
    assert_eq!((&page["file"], &page["matched"], &page["left_out"]), (&json!(file), &json!(9), &json!(0)));
}

#[test]
fn all_keys_have_a_value_or_a_default() {
    let running = Running::start("config-all", POOL, &[], &[]);
    let all = running.config(&["--all"]);
    let has = |line: &str| assert!(all.iter().any(|shown| shown == line), "{line}: {}", all.join("\n"));
    has("listener.main.idle_timeout \"1h\" default");
    has("pool.db.backends[0].weight 2 config.toml:9");
    has("pool.db.backends[1].weight 1 default");
    has("pool.db.balance \"maglev\" default");
    has("pool.db.ejection none default");
    // The default is in the documentation, so it is no secret.
    has("hash_key 706f696e74736d616e2d686173682d31 default");
    has("pool.db.health.headers none default");
    has("pool.db.keepalive_interval a quarter of `keepalive`, at least \"1s\" default");
    // The process has computed these.
    let workers = running.key("workers");
    assert!(workers["value"].as_u64() > Some(0) && workers["origin"] == "default", "{workers}");
    assert!(running.key("max_connections")["value"].as_u64() > Some(0));
    // A key that is named is shown without --all too.
    assert_eq!(
        running.config(&["listener.main.idle_timeout"]),
        ["listener.main.idle_timeout \"1h\" default"]
    );
    assert!(!running.config(&[]).iter().any(|line| line.ends_with("default")));
}

#[test]
fn a_variable_and_an_option_are_origins() {
    let variables = [("POINTSMAN_LOG", "debug"), ("RUNTIME_DIRECTORY", "/nowhere/pointsman")];
    let options = ["--admin", "127.0.0.1:0"];
    let text = format!("{POOL}[log]\nlevel = \"warn\"\n");
    let running = Running::start("config-variables", &text, &options, &variables);
    assert_eq!(
        running.config(&["log"]),
        ["log.level \"debug\" environment POINTSMAN_LOG (config.toml:15: \"warn\")"]
    );
    let admin = running.config(&["admin"]);
    assert_eq!(admin[1..], ["admin.listen[--admin] \"127.0.0.1:0\" command line --admin"]);
    let handover = running.config(&["handover"]).remove(0);
    let expected =
        "handover.socket \"/nowhere/pointsman/handover.sock\" environment RUNTIME_DIRECTORY (default: ";
    assert!(handover.starts_with(expected), "{handover}");
    // An override comes before the variable.
    running.answer(&["log", "error", "--for", "1h"]);
    let level = running.config(&["log.level"]).remove(0);
    assert!(level.starts_with("log.level \"error\" override by unix uid="), "{level}");
    assert!(level.ends_with("(environment POINTSMAN_LOG: \"debug\")"), "{level}");
}

#[test]
fn an_override_is_shown_until_it_ends() {
    let running = Running::start("config-overrides", POOL, &[], &[]);
    running.answer(&["weight", "db/a", "5", "--for", "1h"]);
    running.answer(&["drain", "db/127.0.0.1:2"]);
    let key = running.key("pool.db.backends[0].weight");
    assert_eq!((&key["value"], &key["origin"]), (&json!(5), &json!("override")));
    assert!(key["by"].as_str().unwrap().starts_with("unix uid="), "{key}");
    assert!((3000..=3600).contains(&key["ends_in_seconds"].as_u64().unwrap()), "{key}");
    assert_eq!(
        (&key["otherwise"]["value"], &key["otherwise"]["place"]),
        (&json!(2), &json!("config.toml:9"))
    );
    let state = running.config(&["pool.db.backends[1].state"]).remove(0);
    assert!(state.starts_with("pool.db.backends[1].state \"drain\" override by unix uid="), "{state}");
    assert!(state.ends_with(" (default: \"ready\")"), "{state}");
    // Changed keys are shown without --all.
    assert!(running.config(&[]).contains(&state));
    running.answer(&["weight", "db/a", "file"]);
    running.answer(&["ready", "db/127.0.0.1:2"]);
    assert_eq!(
        running.config(&["pool.db.backends[0].weight"]),
        ["pool.db.backends[0].weight 2 config.toml:9"]
    );
    assert_eq!(
        running.config(&["pool.db.backends[1].state"]),
        ["pool.db.backends[1].state \"ready\" default"]
    );
}

/// A discovered backend has no position in the file.
#[test]
fn an_override_of_a_discovered_backend_has_its_name() {
    let text = POOL.replace(
        "[access_log]",
        "[pool.found]\nhealth.check = \"off\"\ndiscover.file = \"found.json\"\n[access_log]",
    ) + "[listener.found]\nbind = \"127.0.0.1:0\"\npool = \"found\"\n";
    let running = Running::start("config-discovered", &text, &[], &[]);
    let found = json!({ "version": 1, "backends": [{ "name": "x", "address": "127.0.0.1:3" }] });
    let new = running.folder.write("found.json.new", &found.to_string());
    fs::rename(new, running.folder.path("found.json")).unwrap();
    wait_for("the backend", || running.answer(&["status", "--json"]).contains("\"x\""));
    running.answer(&["weight", "found/x", "9"]);
    let key = running.key("pool.found.backends[x].weight");
    assert_eq!(
        (&key["value"], &key["origin"], &key["otherwise"]),
        (&json!(9), &json!("override"), &Value::Null)
    );
}

#[test]
fn a_reload_changes_the_values_and_the_lines() {
    let running = Running::start("config-reload", POOL, &[], &[]);
    running.write(&format!("# A comment.\n{}", POOL.replace("weight = 2", "weight = 3")));
    // The file is not in force yet.
    assert_eq!(
        running.config(&["pool.db.backends[0].weight"]),
        ["pool.db.backends[0].weight 2 config.toml:9"]
    );
    running.answer(&["reload"]);
    assert_eq!(
        running.config(&["pool.db.backends[0].weight"]),
        ["pool.db.backends[0].weight 3 config.toml:10"]
    );
    let before = running.config(&[]);
    running.write("nonsense = 1\n");
    assert_eq!(running.run(&["reload"]).status.code(), Some(2));
    assert_eq!(running.config(&[]), before, "the running configuration stays");
    fs::remove_file(running.folder.path("config.toml")).unwrap();
    assert_eq!(running.config(&[]), before);
}

#[test]
fn a_value_that_waits_for_a_restart_is_shown_beside_the_one_in_force() {
    let text = |process: &str| format!("mode = \"0600\"\n{POOL}[limits]\nsources = 100\n{process}");
    let running = Running::start("config-restart", &text("[process]\nlandlock = false\n"), &[], &[]);
    assert_eq!(running.config(&["limits"]), ["limits.sources 100 config.toml:16"]);
    let new = text("").replace("sources = 100", "# More.\nsources = 200\ntarpit = 7");
    running.write(&format!("mode = \"0660\"\n{}", new.split_once('\n').unwrap().1));
    running.answer(&["reload"]);
    let limits = running.config(&["limits"]);
    let sources = "limits.sources 100 config.toml:16; after a restart 200 (config.toml:17)";
    assert_eq!(limits, [sources, "limits.tarpit 7 config.toml:18"]);
    let landlock = running.config(&["process"]).remove(0);
    assert!(
        landlock.starts_with("process.landlock false config.toml:18; after a restart the process is"),
        "{landlock}"
    );
    let admin = running.config(&["admin"]);
    assert_eq!(admin[1], "admin.mode \"0600\" config.toml:3; after a restart \"0660\" (config.toml:3)");
    assert!(admin[0].ends_with("config.toml:2"), "{admin:?}");
    // The values of the start again, on other lines.
    running.write(&format!(
        "{}[process]\nlandlock = false\n",
        text("").replace("sources", "# One line.\nsources")
    ));
    running.answer(&["reload"]);
    assert_eq!(running.config(&["limits"]), ["limits.sources 100 config.toml:17"]);
    assert_eq!(running.config(&["process"]), ["process.landlock false config.toml:19"]);
}

#[test]
fn no_secret_is_in_any_output() {
    let (key, token) = ("5ec4e700112233445566778899aabbcc", "5ec4e75ec4e75ec4e75ec4e7");
    let text = r#"token_file = "token"
[listener.main]
bind = "127.0.0.1:0"
pool = "db"
[pool.db]
backends = ["127.0.0.1:1"]
proxy_protocol = { version = "v2", tlvs = { "0xE0" = "5EC4E7-tlv" } }
agent = { port = 1, send = "5EC4E7-agent" }
[pool.db.health]
check = "http"
path = "/health?token=5EC4E7-path"
headers = { Authorization = "Bearer 5EC4E7-header" }
[pool.redis]
backends = ["127.0.0.1:1"]
[pool.redis.health]
check = "send-expect"
steps = [{ send = "AUTH 5EC4E7-send\r\n" }, { expect = "5EC4E7-expect" }, { send_hex = "35 45 43 34 45 37" }]
[listener.redis]
bind = "127.0.0.1:0"
pool = "redis"
"#;
    let folder = Folder::new("config-secrets");
    let token_file = folder.write("token", token);
    let file = folder.write("config.toml", &format!("hash_key = \"{key}\"\n{}", whole(&folder, text)));
    let program = Program::serve(&file);
    let running = Running { folder, _program: program };
    let token_file = token_file.to_str().unwrap();
    for options in
        [&[][..], &["--all"], &["--json"], &["--all", "--json"], &["pool.redis.health"], &["hash_key"]]
    {
        let shown = running.answer(&[&["config", "--token-file", token_file], options].concat());
        let lower = shown.to_lowercase();
        assert!(!lower.contains("5ec4e7") && !lower.contains("35 45 43"), "{options:?}: {shown}");
        assert!(shown.contains("(not shown)") || shown.contains("\"hidden\": true"), "{shown}");
    }
    let shown = running.config(&["--token-file", token_file]);
    for line in [
        "hash_key (not shown) config.toml:1",
        "admin.token_file \"token\" config.toml:4",
        "pool.db.agent.send (not shown) config.toml:11",
        "pool.db.health.headers.Authorization (not shown) config.toml:15",
        "pool.db.health.path (not shown) config.toml:14",
        "pool.db.proxy_protocol.tlvs.0xE0 (not shown) config.toml:10",
        "pool.redis.health.steps[0].send (not shown) config.toml:20",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}: {shown:#?}");
    }
    // The right to read is that of the status.
    for arguments in [["config"], ["status"]] {
        let output = running.run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[test]
fn a_command_line_is_an_origin() {
    let folder = Folder::new("config-one-liner");
    let socket = socket(&folder);
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", &socket];
    let program = Program::start(&mut command(&arguments));
    program.stderr.wait_for("serving");
    let running = Running { folder, _program: program };
    let expected = [
        format!("admin.listen[--admin] \"{socket}\" command line --admin"),
        "listener.main.bind[0] \"127.0.0.1:0\" command line".to_owned(),
        "listener.main.pool \"main\" command line".to_owned(),
        "pool.main.backends[0] \"127.0.0.1:1\" command line".to_owned(),
    ];
    assert_eq!(running.config(&[]), expected);
    assert_eq!(running.key("listener.main.pool")["origin"], "command_line");
}

#[test]
fn an_unknown_key_is_2_with_the_nearest_key() {
    let running = Running::start("config-unknown", POOL, &[], &[]);
    let check = |arguments: &[&str], part: &str| {
        let output = running.run(&[&["config"], arguments].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(part), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty());
    };
    check(&["pool.dbs"], "there is no key `dbs`; did you mean `db`? The keys of pool are: db");
    check(
        &["listener.main.idle_timout"],
        "did you mean `idle_timeout`? The keys of listener.main are: allow, ",
    );
    check(&["pol"], "did you mean `pool`?");
    check(&["pool.db.backends[2]"], "there is no item `[2]` in pool.db.backends, which has 2 items");
    check(&["pool.d\u{1b}[2J"], "there is no key `d\\u001b`");
}

/// Starts a server in this process, with an admin listener that answers reads.
fn start(text: &str) -> (Proxy, SocketAddr) {
    Proxy::start_with_admin(config(text))
}

fn ask(admin: SocketAddr, path: &str) -> (u16, String) {
    admin::ask(admin, &format!("/api/v1/config{path}"), PATIENCE).unwrap()
}

#[test]
fn bad_requests_are_refused() {
    let (_proxy, admin) = start(POOL);
    for query in ["?all=yes", "?prefix=a&prefix=b", "?x=1"] {
        let (code, text) = ask(admin, query);
        assert!(code == 400 && text.contains("prefix (such as pool.db) and all"), "{query}: {code} {text}");
    }
    assert_eq!(ask(admin, "?prefix=%").0, 400);
    assert_eq!(ask(admin, "?prefix=no").0, 404);
    assert_eq!(ask(admin, "?prefix=&all=false").0, 200);
    assert_eq!(ask(admin, "/pool").0, 404);
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (_proxy, admin) =
        Proxy::start_with(config(POOL), AdminSpec { open_changes: true, ..AdminSpec::new(address) });
    let admin = admin.tcp().unwrap();
    for method in ["POST", "DELETE", "PUT"] {
        let (code, _) = admin::change(admin, method, "/api/v1/config", PATIENCE).unwrap();
        assert_eq!(code, 405, "{method}");
    }
}

/// A page has a bounded number of keys, and a value has a bounded length.
#[test]
fn a_large_configuration_has_a_bounded_page() {
    let routes: String =
        (0..6000).map(|number| format!("{{ sni = \"host-{number}.example\", pool = \"db\" }},\n")).collect();
    let text =
        format!("{POOL}[listener.tls]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\nroutes = [\n{routes}]\n");
    let (_proxy, admin) = start(&text);
    let page: Value = serde_json::from_str(&ask(admin, "").1).unwrap();
    assert_eq!((page["keys"].as_array().unwrap().len(), &page["matched"]), (10_000, &json!(12_010)));
    assert_eq!(page["left_out"], 2010);
    let page: Value = serde_json::from_str(&ask(admin, "?prefix=listener.tls.routes[5999]").1).unwrap();
    assert_eq!(page["keys"][1]["value"], "host-5999.example");
    assert_eq!(page["keys"][1]["place"], "test.toml:6015");
    let page: Value = serde_json::from_str(&ask(admin, "?all=true&prefix=pool").1).unwrap();
    let keys: Vec<_> =
        page["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert!(keys.len() > 60 && keys.iter().all(|key| key.starts_with("pool.db.")), "{keys:?}");
    assert_eq!(config::parse("test.toml", &text).unwrap().0.listeners.len(), 2);
}
