//! TLS clients of all kinds, through a `tls` listener. Each gets the certificate of the backend with the
//! requested name.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::certificates::{Authority, SignedCertificate};
use super::{ChildGuard, Lines, Program, finish, run, said};
use crate::support::{Backend, wait_for};

const NAMES: [&str; 2] = ["one.example.test", "two.example.test"];
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Two backends with a name each, and the program in front of them.
struct TlsSetup {
    authority: Authority,
    program: Program,
    address: SocketAddr,
    _backends: [Backend; 2],
}

impl TlsSetup {
    fn new() -> Self {
        let authority = Authority::new();
        let backends = NAMES.map(|name| authority.backend(name));
        let addresses = [0, 1].map(|at| (NAMES[at], backends[at].address));
        let program = Program::start(&configuration(&addresses));
        let address = program.address("tls");
        Self { authority, program, address, _backends: backends }
    }

    fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Runs a client for each name in turn. The client verifies the certificate, and its output must have the
    /// answer of the backend with that name.
    fn each_name(&self, client: impl Fn(&str) -> Command) {
        for name in NAMES.iter().chain(&NAMES) {
            let output = finish(&mut client(name), REQUEST);
            let said = said(&output);
            assert!(output.status.success(), "{name}: {}\n{said}", output.status);
            assert!(said.contains(&format!("hello from {name}\n")), "{name}:\n{said}");
            self.program.wait_for_record("the record of this client", |record| {
                record["sni"] == **name && record["route"] == **name && record["pool"] == **name
            });
        }
    }
}

/// Returns a listener `tls` and a pool for each name.
fn configuration(backends: &[(&str, SocketAddr)]) -> String {
    let mut routes = String::new();
    let mut pools = String::new();
    for (name, address) in backends {
        routes += &format!("{{ sni = \"{name}\", pool = \"{name}\" }},");
        pools += &format!("[pool.\"{name}\"]\nbackends = [\"{address}\"]\nhealth.check = \"off\"\n");
    }
    format!("[listener.tls]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\nroutes = [{routes}]\n{pools}")
}

fn s_client(address: SocketAddr, authority: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-verify_return_error", "-CAfile"]);
    command.arg(authority);
    command
}

#[test]
#[ignore = "needs openssl"]
fn openssl_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    for version in [&["-tls1_2"][..], &["-tls1_3"], &["-tls1_2", "-no_ticket"], &["-tls1_3", "-no_ticket"]] {
        setup.each_name(|name| {
            let mut command = s_client(setup.address, &setup.authority.file());
            // With -ign_eof the client waits for the answer after the end of its input.
            command.args(["-ign_eof", "-servername", name, "-verify_hostname", name]).args(version);
            command
        });
    }
    let output =
        finish(s_client(setup.address, &setup.authority.file()).args(["-servername", NAMES[1]]), b"");
    assert!(said(&output).contains(&format!("subject=CN = {}\n", NAMES[1])), "{}", said(&output));
    setup.program.stop();
}

#[test]
#[ignore = "needs openssl"]
fn openssl_is_told_why_it_is_refused() {
    let setup = TlsSetup::new();
    let check = |arguments: &[&str], number: u8, close: &str| {
        let output = finish(s_client(setup.address, &setup.authority.file()).args(arguments), REQUEST);
        let said = said(&output);
        assert!(!output.status.success(), "{arguments:?}\n{said}");
        assert!(said.contains(&format!("SSL alert number {number}\n")), "{arguments:?}\n{said}");
        setup.program.wait_for_record(close, |record| record["close"] == close);
    };
    check(&["-servername", "three.example.test"], 112, "unmatched_sni");
    check(&["-servername", "three.example.test", "-tls1_2"], 112, "unmatched_sni");
    check(&["-noservername"], 109, "no_sni");
    check(&["-noservername", "-tls1_2"], 109, "no_sni");
    setup.program.stop();
}

/// Starts `openssl s_server` with a certificate, at a port that the kernel chooses.
pub(super) fn s_server(
    signed: &SignedCertificate,
    arguments: &[&str],
) -> (ChildGuard, Arc<Lines>, SocketAddr) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-cert"]).arg(&signed.certificate);
    command.arg("-key").arg(&signed.key).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = ChildGuard::spawn(&mut command);
    let lines = Lines::follow(server.0.stdout.take().unwrap());
    let address = lines.wait_for("ACCEPT ").parse().unwrap();
    (server, lines, address)
}

#[test]
#[ignore = "needs openssl"]
fn early_data_right_behind_the_hello_arrives() {
    let authority = Authority::new();
    let (_server, lines, backend) = s_server(&authority.sign(NAMES[0]), &["-early_data", "-tls1_3"]);
    let program = Program::start(&configuration(&[(NAMES[0], backend)]));
    let (address, session) = (program.address("tls"), authority.directory.file("session"));
    let client = |arguments: &[&str], file: &Path| {
        let mut command = s_client(address, &authority.file());
        command.args(["-tls1_3", "-servername", NAMES[0]]).args(arguments).arg(file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        ChildGuard::spawn(&mut command)
    };
    let mut first = client(&["-sess_out"], &session);
    wait_for("a ticket", || fs::metadata(&session).is_ok_and(|file| file.len() > 0));
    drop(first.0.stdin.take());
    first.wait();

    let early = authority.directory.write("early", "said before anything was agreed\n");
    let session = session.to_str().unwrap().to_owned();
    let mut second = client(&["-sess_in", &session, "-early_data"], &early);
    let said = Lines::follow(second.0.stdout.take().unwrap());
    said.wait_for("Early data was accepted");
    lines.wait_for("said before anything was agreed");
    drop(second.0.stdin.take());
    second.wait();
    program.stop();
}

#[test]
#[ignore = "needs openssl and curl"]
fn client_certificates_reach_the_backend() {
    let authority = Authority::new();
    let file = authority.file();
    let demand = ["-www", "-Verify", "1", "-verify_return_error", "-CAfile", file.to_str().unwrap()];
    let (_server, _lines, backend) = s_server(&authority.sign(NAMES[0]), &demand);
    let program = Program::start(&configuration(&[(NAMES[0], backend)]));
    let client = authority.sign("client.example.test");
    for version in ["1.2", "1.3"] {
        let mut with = curl(program.address("tls"), NAMES[0], &file);
        with.args(["--tls-max", version, "--cert"]).arg(&client.certificate).arg("--key").arg(&client.key);
        let page = run(&mut with);
        assert!(page.contains("client.example.test"), "the certificate that the backend saw:\n{page}");
        let without = finish(curl(program.address("tls"), NAMES[0], &file).args(["--tls-max", version]), b"");
        assert!(!without.status.success(), "{}", said(&without));
    }
    program.stop();
}

fn curl(address: SocketAddr, name: &str, authority: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert"]).arg(authority);
    command.args(["--resolve", &format!("{name}:{}:{}", address.port(), address.ip())]);
    command.arg(format!("https://{name}:{}/", address.port()));
    command
}

#[test]
#[ignore = "needs curl"]
fn curl_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    setup.each_name(|name| curl(setup.address, name, &setup.authority.file()));
    setup.program.stop();
}

#[test]
#[ignore = "needs gnutls-cli"]
fn gnutls_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    setup.each_name(|name| {
        let mut command = Command::new("gnutls-cli");
        command.args(["--sni-hostname", name, "--verify-hostname", name, "--port", &setup.port()]);
        command.arg("--x509cafile").arg(setup.authority.file()).arg("127.0.0.1");
        command
    });
    setup.program.stop();
}

#[test]
#[ignore = "needs python3"]
fn python_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    let script = setup.authority.directory.write("client.py", PYTHON);
    setup.each_name(|name| {
        let mut command = Command::new("python3");
        command.arg(&script).args([name, &setup.port()]).arg(setup.authority.file());
        command
    });
    setup.program.stop();
}

const PYTHON: &str = r#"
import socket, ssl, sys
name, port, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with socket.create_connection(("127.0.0.1", port)) as plain:
    with context.wrap_socket(plain, server_hostname=name) as stream:
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while answer := stream.recv(4096):
            sys.stdout.write(answer.decode())
"#;

#[test]
#[ignore = "needs node"]
fn node_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    let script = setup.authority.directory.write("client.js", NODE);
    setup.each_name(|name| {
        let mut command = Command::new("node");
        command.arg(&script).args([name, &setup.port()]).arg(setup.authority.file());
        command
    });
    setup.program.stop();
}

const NODE: &str = r#"
const [name, port, authority] = process.argv.slice(2);
const ca = require("fs").readFileSync(authority);
const stream = require("tls").connect({ host: "127.0.0.1", port, servername: name, ca }, () =>
    stream.write("GET / HTTP/1.0\r\n\r\n"));
stream.pipe(process.stdout);
"#;

#[test]
#[ignore = "needs java"]
fn java_reaches_the_backend_it_names() {
    let setup = TlsSetup::new();
    let source = setup.authority.directory.write("Client.java", JAVA);
    setup.each_name(|name| {
        let mut command = Command::new("java");
        command.arg(&source).args([name, &setup.port()]).arg(setup.authority.file());
        command
    });
    setup.program.stop();
}

const JAVA: &str = r#"
import java.io.FileInputStream;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

class Client {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var file = new FileInputStream(arguments[2])) {
            store.setCertificateEntry("a", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        Socket plain = new Socket("127.0.0.1", Integer.parseInt(arguments[1]));
        try (var socket = (SSLSocket) context.getSocketFactory().createSocket(plain, arguments[0], 0, true)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            socket.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
            socket.getInputStream().transferTo(System.out);
        }
    }
}
"#;
