//! `cargo run --release --example demo`: pointsman in front of three TLS backends, on this machine alone.
//!
//! The backends make their certificates at the start and keep the keys to themselves; the balancer
//! reads the server name of each connection and never decrypts. The demo asks a few times, stops a
//! backend, asks again, and then leaves everything running for you to try.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pointsman::server::{EarlySignals, Server, Signals};
use pointsman::{admin, config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

type Anything<T> = Result<T, Box<dyn Error>>;

const COLORS: [&str; 3] = ["red", "green", "blue"];

fn main() -> Anything<()> {
    let early = EarlySignals::catch()?;
    let authority = Authority::new()?;
    let mut backends = BTreeMap::new();
    for color in COLORS {
        backends.insert(color, Backend::start(color, authority.server(color)?)?);
    }
    let listen = free_or_any("127.0.0.1:7443");
    let admin_at = free_or_any("127.0.0.1:10190");
    let text = configuration(listen, admin_at, &backends);
    let (config, _) = config::parse("demo.toml", &text).map_err(|faults| faults.render(false))?;

    let admin_listener = admin::bind(config::AdminSpec::new(admin_at))?;
    let server = Server::start(config)?;
    let remote = server.remote();
    let view = Arc::clone(remote.view());
    let serving = thread::spawn(move || {
        server
            .run(Signals::Obey { early, file: None, log: None }, admin::serve(admin_listener, view))
            .map_err(|e| e.to_string())
    });

    println!(
        "pointsman listens on {listen}, in front of three TLS backends, with this configuration:\n\n{text}"
    );
    println!("1. By name: each connection goes where its server name says, still encrypted.");
    for color in COLORS {
        authority.show(listen, &format!("{color}.demo.test"));
    }
    println!("\n2. Balanced: `app.demo.test` is served by all three in turn.");
    for _ in 0..3 {
        authority.show(listen, "app.demo.test");
    }
    println!("\n3. Failover: green is stopped, and nobody notices.");
    backends["green"].stop();
    for _ in 0..6 {
        authority.show(listen, "app.demo.test");
    }
    backends["green"].resume()?;
    println!("   green is running again.\n");

    let ca = authority.file.display();
    let port = listen.port();
    println!("Try it yourself:");
    println!("  openssl s_client -connect {listen} -servername red.demo.test -CAfile {ca} </dev/null");
    println!("  curl --cacert {ca} --resolve app.demo.test:{port}:127.0.0.1 https://app.demo.test:{port}/");
    println!("  curl http://{admin_at}/metrics      # also /ready and /api/v1/status");
    println!("Stop and start backends here with `stop green` and `start green`; end with `quit` or Ctrl-C.");
    println!("ready");

    let asked = remote.clone();
    let file = authority.file.clone();
    thread::spawn(move || obey(&backends, &asked));
    let result = serving.join().map_err(|_| "the control thread panicked")?;
    let _ = std::fs::remove_file(file);
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

[pool.green]
backends = ["{green}"]

[pool.blue]
backends = ["{blue}"]

[pool.app]
balance  = "round-robin"
backends = ["{red}", "{green}", "{blue}"]
health   = {{ interval = "500ms" }}
"#
    )
}

/// Commands from standard input.
fn obey(backends: &BTreeMap<&str, Backend>, remote: &pointsman::server::ServerHandle) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["stop", color] if backends.contains_key(color) => backends[color].stop(),
            ["start", color] if backends.contains_key(color) => {
                if let Err(error) = backends[color].resume() {
                    println!("{color} could not be started: {error}");
                }
            }
            ["quit"] => {
                remote.stop();
                return;
            }
            _ => println!("stop COLOR, start COLOR or quit"),
        }
    }
}

/// The wanted address if nobody listens there, else one with any port.
fn free_or_any(wanted: &str) -> SocketAddr {
    let bound = TcpListener::bind(wanted).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    bound.and_then(|listener| listener.local_addr()).expect("loopback has a free port")
}

/// Who signs the backends' certificates, for this run only.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
    /// Its certificate, for openssl and curl.
    file: PathBuf,
}

impl Authority {
    fn new() -> Anything<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "pointsman demo authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let file = std::env::temp_dir().join(format!("pointsman-demo-{}.pem", std::process::id()));
        std::fs::write(&file, issuer.pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone())?;
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { issuer, client: Arc::new(client), file })
    }

    /// What a backend needs to speak TLS under its names.
    fn server(&self, color: &str) -> Anything<Arc<ServerConfig>> {
        let names = vec![format!("{color}.demo.test"), "app.demo.test".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("the {color} backend"));
        let key = KeyPair::generate()?;
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer)?.into();
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    /// Asks through the balancer, verifies the certificate, and prints who answered.
    fn show(&self, at: SocketAddr, name: &str) {
        match self.ask(at, name) {
            Ok(answer) => println!("   {name:<16} -> {answer}"),
            Err(error) => println!("   {name:<16} -> failed: {error}"),
        }
    }

    fn ask(&self, at: SocketAddr, name: &str) -> Anything<String> {
        let session =
            ClientConnection::new(Arc::clone(&self.client), ServerName::try_from(name.to_owned())?)?;
        let socket = TcpStream::connect(at)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut stream = StreamOwned::new(session, socket);
        write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or("nothing").to_owned())
    }
}

/// A TLS server that says which one it is.
struct Backend {
    color: &'static str,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    stopped: Arc<AtomicBool>,
}

impl Backend {
    fn start(color: &'static str, tls: Arc<ServerConfig>) -> Anything<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let backend = Self { color, address, tls, stopped: Arc::default() };
        backend.serve(listener);
        Ok(backend)
    }

    fn serve(&self, listener: TcpListener) {
        let (color, tls, stopped) = (self.color, Arc::clone(&self.tls), Arc::clone(&self.stopped));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let tls = Arc::clone(&tls);
                thread::spawn(move || answer(color, socket, tls));
            }
        });
    }

    /// Closes its listening socket, so that connections are refused.
    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            // Wakes the accept loop, which then sees that it is over.
            let _ = TcpStream::connect(self.address);
            while TcpStream::connect(self.address).is_ok() {}
        }
    }

    fn resume(&self) -> Anything<()> {
        if self.stopped.swap(false, Ordering::Relaxed) {
            self.serve(TcpListener::bind(self.address)?);
        }
        Ok(())
    }
}

/// Reads a request's head and says who answers. A health check sends nothing, and that is fine.
fn answer(color: &str, socket: TcpStream, tls: Arc<ServerConfig>) {
    let Ok(session) = ServerConnection::new(tls) else { return };
    let mut reader = BufReader::new(StreamOwned::new(session, socket));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let body = format!("hello from {color}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let stream = reader.get_mut();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
