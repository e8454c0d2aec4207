//! The recipes of docs/guide/checks.md whose servers Debian does not have. The answers are those of their
//! documentation. `real/recipes.rs` has the other recipes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use pointsman::admin;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::process::{Folder, Program};
use crate::support::{Backend, PATIENCE, wait_for};

/// Returns the recipe that begins with this listener. Some of its texts are replaced, such as its addresses.
/// It binds a port that the kernel chooses.
pub(crate) fn recipe(listener: &str, replaced: &[(&str, &str)]) -> String {
    let page = include_str!("../../docs/guide/checks.md");
    let begin = format!("[listener.{listener}]\n");
    let blocks = page.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    let block = blocks
        .into_iter()
        .find(|block| block.starts_with(&begin))
        .expect("docs/guide/checks.md has the recipe");
    let bound = block.lines().map(|line| match line.starts_with("bind") {
        true => "bind = \"127.0.0.1:0\"",
        false => line,
    });
    let mut text = bound.collect::<Vec<_>>().join("\n");
    for (old, new) in replaced {
        assert!(text.contains(old), "no {old} in\n{text}");
        text = text.replace(old, new);
    }
    text
}

/// A server with one page over TLS.
struct Page {
    backend: Backend,
    certificate: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<String>>,
}

impl Page {
    fn start(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let (answer, asked) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let (present, heard) = (Arc::clone(&answer), Arc::clone(&asked));
        let backend = Backend::serve(move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(session, stream);
            let mut request = [0; 2048];
            let Ok(count @ 1..) = stream.read(&mut request) else { return };
            *heard.lock().unwrap() = String::from_utf8_lossy(&request[..count]).into_owned();
            let answer = present.lock().unwrap().clone();
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });
        Self { backend, certificate: made.cert.pem(), answer, asked }
    }

    fn answer(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}", body.len());
        *self.answer.lock().unwrap() = format!("{head}\r\n\r\n{body}");
    }
}

/// Starts the program with a recipe. Each check decides the state, and checks of a down backend are frequent.
fn start(folder: &Folder, recipe: &str) -> (Program, SocketAddr) {
    let keys = ["interval = \"2s\"", "down_interval = \"50ms\"", "rise = 1", "fall = 1"];
    let recipe = match recipe.split_once("= { check") {
        Some((before, after)) => format!("{before}= {{ {}, check{after}", keys.join(", ")),
        None => format!("{recipe}\n{}", keys.join("\n")),
    };
    let text = format!("access_log.to = \"off\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{recipe}\n");
    let program = Program::serve(&folder.write("config.toml", &text));
    let line = program.stderr.wait_for("admin listens address=");
    let admin = line.rsplit('=').next().unwrap().parse().unwrap();
    (program, admin)
}

fn backend(admin: SocketAddr) -> Value {
    let (_, body) = admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    serde_json::from_str::<Value>(&body).unwrap()["pools"][0]["backends"][0].clone()
}

/// Waits until a check that began after this call has passed, or failed.
fn wait_for_check(admin: SocketAddr, state: &str) {
    wait_for(state, || backend(admin)["state"] == state);
}

#[test]
fn kubernetes() {
    let folder = Folder::new("recipe-kubernetes");
    let page = Page::start("kubernetes");
    page.answer("200 OK", "ok");
    let ca = folder.write("ca.crt", &page.certificate);
    let address = page.backend.address.to_string();
    let recipe = recipe(
        "kubernetes",
        &[
            ("\"10.0.0.1:6443\", \"10.0.0.2:6443\", \"10.0.0.3:6443\"", &format!("{address:?}")),
            ("/etc/kubernetes/pki/ca.crt", ca.to_str().unwrap()),
        ],
    );
    let (program, admin) = start(&folder, &recipe);
    wait_for("a check", || backend(admin)["checks"]["passed"].as_u64() > Some(0));
    assert!(page.asked.lock().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
    // The server still completes handshakes while it is about to stop.
    page.answer(
        "500 Internal Server Error",
        "[+]ping ok\n[+]log ok\n[+]etcd ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n",
    );
    wait_for_check(admin, "down");
    let line = program.stderr.wait_for("backend down pool=kubernetes");
    assert!(line.contains("heard=\"HTTP/1.1 500 Internal Server Error\""), "{line}");
    page.answer("200 OK", "ok");
    wait_for_check(admin, "up");
}

#[test]
fn a_certificate_of_another_authority_is_told() {
    let folder = Folder::new("recipe-authority");
    let (page, other) = (Page::start("kubernetes"), Page::start("kubernetes"));
    page.answer("200 OK", "ok");
    let ca = folder.write("ca.crt", &other.certificate);
    let address = page.backend.address.to_string();
    let recipe = recipe(
        "kubernetes",
        &[
            ("\"10.0.0.1:6443\", \"10.0.0.2:6443\", \"10.0.0.3:6443\"", &format!("{address:?}")),
            ("/etc/kubernetes/pki/ca.crt", ca.to_str().unwrap()),
        ],
    );
    let (mut program, admin) = start(&folder, &recipe);
    let line = program.stderr.wait_for("backend down pool=kubernetes");
    assert!(
        line.contains("reason=\"checks failed: certificate not accepted\" heard=\"invalid peer"),
        "{line}"
    );
    // A reload reads a repaired file.
    folder.write("ca.crt", &page.certificate);
    program.signal("HUP");
    wait_for_check(admin, "up");
    // A file without certificates is a fault, and the running configuration stays.
    folder.write("ca.crt", "");
    program.signal("HUP");
    program.stderr.wait_for("it has no certificate in PEM");
    assert_eq!(backend(admin)["state"], "up");
    program.expect_end_by("TERM");
}

#[test]
fn vault() {
    let folder = Folder::new("recipe-vault");
    let page = Page::start("vault.internal");
    let body = |sealed: bool, standby: bool| {
        format!("{{\"initialized\":true,\"sealed\":{sealed},\"standby\":{standby},\"version\":\"1.13.0\"}}")
    };
    page.answer("200 OK", &body(false, false));
    let address = page.backend.address.to_string();
    let recipe = recipe("vault", &[("\"10.0.0.1:8200\", \"10.0.0.2:8200\"", &format!("{address:?}"))]);
    let (_program, admin) = start(&folder, &recipe);
    wait_for("a check", || backend(admin)["checks"]["passed"].as_u64() > Some(0));
    assert!(page.asked.lock().unwrap().starts_with("GET /v1/sys/health HTTP/1.1\r\n"));
    for (status, up) in [
        ("503 Service Unavailable", false),
        ("429 Too Many Requests", true),
        ("501 Not Implemented", false),
        ("473 status code 473", true),
        ("472 status code 472", false),
        ("200 OK", true),
    ] {
        page.answer(status, &body(!up, up));
        wait_for_check(admin, if up { "up" } else { "down" });
    }
}
