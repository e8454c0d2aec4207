//! The reasons why a backend is down, in the log, in `status` and in the metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use pointsman::admin;
use serde_json::{Value, json};

use crate::process::{Folder, Program, command, run};
use crate::support::{Backend, PATIENCE, wait_for};

/// A server that answers each request in the same way, and closes.
struct WebServer {
    backend: Backend,
    answer: Arc<Mutex<&'static str>>,
}

impl WebServer {
    fn start(answer: &'static str) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let present = Arc::clone(&answer);
        let backend = Backend::serve(move |mut stream| {
            let _ = stream.read(&mut [0; 1024]);
            let answer = *present.lock().unwrap();
            let _ = stream.write_all(answer.as_bytes());
        });
        Self { backend, answer }
    }

    fn answer(&self, answer: &'static str) {
        *self.answer.lock().unwrap() = answer;
    }

    fn written(&self, name: &str) -> String {
        format!("{{ name = '{name}', address = '{}' }}", self.backend.address)
    }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\n\r\n";
const BAD: &str = "HTTP/1.0 503 Service Unavailable\r\n\r\n";

fn start(folder: &Folder, backends: &str) -> (Program, SocketAddr) {
    let file = folder.write(
        "config.toml",
        &format!(
            r#"
            workers = 1
            [access_log]
            to = "off"
            [admin]
            listen = "127.0.0.1:0"
            [listener.main]
            bind = "127.0.0.1:0"
            pool = "app"
            [pool.app]
            backends = [{backends}]
            health = {{ check = "http", interval = "2s", down_interval = "50ms", rise = 1, fall = 1 }}
            "#
        ),
    );
    let program = Program::serve(&file);
    let line = program.stderr.wait_for("admin listens address=");
    let admin = line.rsplit('=').next().unwrap().parse().unwrap();
    (program, admin)
}

fn backend(admin: SocketAddr, at: usize) -> Value {
    let (_, body) = admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    status["pools"][0]["backends"][at].clone()
}

fn has_series(admin: SocketAddr, series: &str) -> bool {
    admin::ask(admin, "/metrics", PATIENCE).unwrap().1.lines().any(|line| line == series)
}

#[test]
fn a_backend_that_is_down_shows_why() {
    let folder = Folder::new("down-why");
    let web = WebServer::start(GOOD);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let backends = format!("{}, {{ name = 'b2', address = '{address}' }}", web.written("b1"));
    let (program, admin) = start(&folder, &backends);

    let line = program.stderr.wait_for("backend down pool=app backend=b2");
    assert!(line.contains(" WARN "), "{line}");
    assert!(line.ends_with("reason=\"checks failed: timed out\" left=1 of 2 open=0"), "{line}");
    assert!(has_series(admin, r#"pointsman_backend_fault{pool="app",backend="b2",fault="timeout"} 1"#));
    let (status, well) = (backend(admin, 1), backend(admin, 0));
    assert_eq!(status["state"], "down");
    assert_eq!(status["reason"], "checks failed: timed out");
    assert_eq!((&status["checks"]["fault"], &status["checks"]["heard"]), (&json!("timeout"), &Value::Null));
    assert_eq!((&well["reason"], &well["checks"]["fault"]), (&Value::Null, &Value::Null));
    assert!(!has_series(admin, r#"pointsman_backend_fault{pool="app",backend="b1",fault="unexpected"} 1"#));

    web.answer(BAD);
    let line = program.stderr.wait_for("backend down pool=app backend=b1");
    let expected = "reason=\"checks failed: unexpected answer\" heard=\"HTTP/1.0 503 Service Unavailable\" \
                    left=0 of 2 open=0";
    assert!(line.ends_with(expected), "{line}");
    let status = backend(admin, 0);
    assert_eq!(status["reason"], "checks failed: unexpected answer");
    assert_eq!(status["checks"]["fault"], "unexpected");
    assert_eq!(status["checks"]["heard"], "HTTP/1.0 503 Service Unavailable");
    assert!(has_series(admin, r#"pointsman_backend_fault{pool="app",backend="b1",fault="unexpected"} 1"#));

    let line = program.stderr.wait_for("pool has no backend left");
    assert!(line.contains("ERROR"), "{line}");
    assert!(line.ends_with("pool=app left=0 of 2 open=0"), "{line}");

    web.answer(GOOD);
    let line = program.stderr.wait_for("backend up pool=app backend=b1");
    assert!(line.ends_with("reason=\"checks passed\" left=1 of 2 open=0"), "{line}");
    let line = program.stderr.wait_for("pool has a backend again pool=app left=1 of 2 after=");
    assert!(line.contains("INFO"), "{line}");
    wait_for("the reason is gone", || {
        let status = backend(admin, 0);
        status["reason"].is_null() && status["checks"]["fault"].is_null()
    });
}

#[test]
fn the_fault_is_that_of_the_last_check() {
    let folder = Folder::new("down-last");
    let web = WebServer::start(BAD);
    let (program, admin) = start(&folder, &web.written("b1"));
    program.stderr.wait_for("heard=\"HTTP/1.0 503 Service Unavailable\"");
    // The server closes without an answer.
    web.answer("");
    wait_for("another fault", || {
        let status = backend(admin, 0);
        status["reason"] == "checks failed: closed before it answered" && status["checks"]["heard"].is_null()
    });
    assert!(has_series(admin, r#"pointsman_backend_fault{pool="app",backend="b1",fault="closed"} 1"#));
}

#[test]
fn a_pool_that_discovers_its_backends_is_not_lost_at_the_start() {
    let folder = Folder::new("down-discovered");
    let web = WebServer::start(GOOD);
    let found = |backends: &str| {
        folder.write("found.new", &format!(r#"{{ "version": 1, "backends": [{backends}] }}"#));
        std::fs::rename(folder.path("found.new"), folder.path("found.json")).unwrap();
    };
    found(&format!("{{ \"address\": \"{}\" }}", web.backend.address));
    let file = folder.write(
        "config.toml",
        "access_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pool.app]\n\
         discover = { file = \"found.json\" }\nhealth.check = \"off\"\n",
    );
    let program = Program::serve(&file);
    assert!(!program.stderr.all().iter().any(|line| line.contains("pool has no backend left")));
    program.stderr.wait_for("backends were found pool=app");
    found("");
    program.stderr.wait_for("pool has no backend left: new connections are refused pool=app left=0 of 0");
}

/// Each form escapes the words of a backend once. A value in JSON has exactly the bytes of the backend.
#[test]
fn words_of_a_backend_are_escaped_once() {
    const WORDS: &str = "HTTP/1.0 503 \"sorry\" a\\b \u{e9}\t";
    let folder = Folder::new("down-words");
    let web = WebServer::start("HTTP/1.0 503 \"sorry\" a\\b \u{e9}\t\r\n\r\n");
    let (program, admin) = start(&folder, &web.written("b1"));
    let line = program.stderr.wait_for("backend down pool=app backend=b1");
    assert!(line.contains(r#"heard="HTTP/1.0 503 \"sorry\" a\\b é\t" left="#), "{line}");
    assert_eq!(backend(admin, 0)["checks"]["heard"], WORDS);
    let (_, page) = admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    let status: Value = serde_json::from_str(&page).unwrap();
    let texts = |what: &str| -> Vec<String> {
        let items = status[what].as_array().unwrap().iter();
        items.filter_map(|item| item["text"].as_str().map(str::to_owned)).collect()
    };
    let problem = format!("checks failed: unexpected answer: \"{WORDS}\"");
    assert!(texts("problems").iter().any(|text| text.ends_with(&problem)), "{page}");
    let event = format!("app/b1 is down: checks failed: unexpected answer: \"{WORDS}\"");
    assert!(texts("events").contains(&event), "{page}");
    let output = run(&["status", "--admin", &admin.to_string()]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains(r#"unexpected answer: "HTTP/1.0 503 "sorry" a\b é\t""#), "{table}");
}

#[test]
fn words_of_a_backend_are_escaped_once_in_a_log_of_json() {
    let folder = Folder::new("down-json");
    let web = WebServer::start("HTTP/1.0 503 \"sorry\" a\\b \u{e9}\t\r\n\r\n");
    let text = format!(
        "workers = 1\nlog.format = 'json'\naccess_log.to = 'off'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = [{}]\nhealth = {{ check = 'http', interval = '100ms', fall = 1 }}\n",
        web.written("b1")
    );
    let program = Program::start(command(&["run"]).arg(folder.write("config.toml", &text)));
    let line = program.stderr.wait_for("\"backend down\"");
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["fields"]["heard"], "HTTP/1.0 503 \"sorry\" a\\b \u{e9}\t", "{line}");
}
