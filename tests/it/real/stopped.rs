//! A backend that is stopped and started again, and clients that must not notice.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::certificates::{Authority, SignedCertificate};
use super::{ChildGuard, Lines, Program, finish, said};
use crate::support::wait_for;

const NAME: &str = "app.example.test";
const CLIENTS: usize = 240;
const AT_ONCE: usize = 4;

/// Starts a web server of openssl at an address.
fn start(address: &str, signed: &SignedCertificate) -> (ChildGuard, SocketAddr) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", address, "-www", "-cert"]).arg(&signed.certificate);
    command.arg("-key").arg(&signed.key).stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::piped());
    let mut server = ChildGuard::spawn(&mut command);
    let address = Lines::follow(server.0.stdout.take().unwrap()).wait_for("ACCEPT");
    // openssl prints the address only if the kernel chose the port.
    (server, address.trim().parse().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into()))
}

/// Returns the command of a client, curl and openssl by turns.
fn client(number: usize, at: SocketAddr, authority: &Path) -> (Command, &'static [u8]) {
    if number.is_multiple_of(2) {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert"]).arg(authority);
        command.args(["--resolve", &format!("{NAME}:{}:{}", at.port(), at.ip())]);
        command.arg(format!("https://{NAME}:{}/", at.port()));
        return (command, b"");
    }
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &at.to_string(), "-servername", NAME, "-ign_eof"]);
    command.args(["-verify_return_error", "-verify_hostname", NAME, "-CAfile"]).arg(authority);
    (command, b"GET / HTTP/1.0\r\n\r\n")
}

#[test]
#[ignore = "needs openssl and curl"]
fn no_client_notices_a_stopped_backend() {
    let authority = Authority::new();
    let signed = authority.sign(NAME);
    let (mut servers, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| start("127.0.0.1:0", &signed)).unzip();
    let backends: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let program = Program::start(&format!(
        r#"
        [listener.tls]
        bind = "127.0.0.1:0"
        protocol = "tls"
        routes = [{{ sni = "{NAME}", pool = "app" }}]
        [pool.app]
        balance = "round-robin"
        backends = {backends:?}
        health = {{ interval = "200ms", rise = 2, fall = 3 }}
        "#
    ));
    let at = program.address("tls");
    let (served, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // A client that is served while its backend stops does notice. So backends are stopped only between
    // clients.
    let between = RwLock::new(());
    let serve = || {
        while served.fetch_add(1, Ordering::Relaxed) < CLIENTS {
            let _inside = between.read().unwrap();
            let (mut command, request) = client(served.load(Ordering::Relaxed), at, &authority.file());
            let output = finish(&mut command, request);
            // The page of the server begins with the command of the server.
            if !output.status.success() || !said(&output).contains("s_server") {
                failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("{command:?}: {}\n{}", output.status, said(&output));
            }
        }
    };
    let state =
        |which: usize| program.status()["pools"][0]["backends"][which]["state"].as_str().unwrap().to_owned();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(serve);
        }
        let reached = |share: usize| wait_for("clients", || served.load(Ordering::Relaxed) >= share);
        for (round, which) in [1, 2].into_iter().enumerate() {
            reached(CLIENTS / 6 * (2 * round + 1));
            {
                let _alone = between.write().unwrap();
                servers[which].signal("TERM");
                servers[which].wait();
            }
            wait_for("a stopped backend is seen", || state(which) == "down");
            reached(CLIENTS / 6 * (2 * round + 2));
            servers[which] = start(&backends[which], &signed).0;
            wait_for("a started backend is seen", || state(which) == "up");
        }
    });
    assert_eq!(failed.into_inner(), 0);
    assert!(program.sum("pointsman_connect_attempts_total", r#"outcome="refused""#) > 0.0);
    program.stop();
}
