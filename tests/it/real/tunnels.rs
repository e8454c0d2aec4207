//! Real clients of a forward proxy: curl, Python, Java, socat and ssh request tunnels by SOCKS and by CONNECT.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::certificates::Authority;
use super::tls::s_server;
use super::{Directory, finish, run, said};
use crate::support::dns::Dns;
use crate::support::{Backend, Proxy, config};

const NAME: &str = "api.test";

/// A web server on loopback, a resolver that knows its name, and listeners for both protocols.
struct Egress {
    proxy: Proxy,
    port: u16,
    _dns: Dns,
}

impl Egress {
    /// Starts the listeners, whose clients may go to this port.
    fn to(server: SocketAddr) -> Self {
        let (dns, port) = (Dns::new(), server.port());
        dns.set_addresses(NAME, &[server.ip()]);
        let text = format!(
            "workers = 2\naccess_log.to = 'off'\n\
             [listener.socks]\nbind = '127.0.0.1:0'\nprotocol = 'socks5'\nlegacy = true\npool = 'egress'\n\
             [listener.connect]\nbind = '127.0.0.1:0'\nprotocol = 'connect'\npool = 'egress'\n\
             [pool.egress.forward]\nto = 'requested'\nallow = '{NAME}'\nports = {port}\n\
             allow_networks = '127.0.0.1'\nallow_private = '127.0.0.1'\nresolvers = '{}'\n",
            dns.address
        );
        Self { proxy: Proxy::start(config(&text)), port, _dns: dns }
    }

    fn socks(&self) -> String {
        self.proxy.address("socks").to_string()
    }

    fn connect(&self) -> String {
        self.proxy.address("connect").to_string()
    }

    /// Returns the number of requests of a kind.
    fn openings(&self, listener: &str, kind: &str) -> f64 {
        let series = "pointsman_client_openings_total";
        self.proxy.metric(&format!(r#"{series}{{listener="{listener}",kind="{kind}"}}"#))
    }
}

/// Starts a server that answers each request of HTTP with "hello".
fn web() -> SocketAddr {
    let backend = Backend::serve(|stream| {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            line.clear();
        }
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
        let _ = TcpStream::write_all(reader.get_mut(), answer);
    });
    backend.address
}

/// Checks that a command prints the answer of the server.
#[track_caller]
fn check(program: &str, arguments: &[&str]) {
    let said = run(Command::new(program).args(arguments));
    assert!(said.contains("hello"), "{program} {arguments:?}: {said}");
}

#[test]
#[ignore = "needs curl"]
fn curl_comes_through_by_each_protocol() {
    let egress = Egress::to(web());
    let (socks, connect, port) = (egress.socks(), egress.connect(), egress.port);
    let (by_name, by_address) = (format!("http://{NAME}:{port}/"), format!("http://127.0.0.1:{port}/"));
    let quiet = ["--silent", "--show-error", "--noproxy", "", "--max-time", "20"];
    let curl = |arguments: &[&str]| check("curl", &[&quiet[..], arguments].concat());
    curl(&["--socks5-hostname", &socks, &by_name]);
    curl(&["--socks5", &socks, &by_address]);
    curl(&["--socks4a", &socks, &by_name]);
    curl(&["--socks4", &socks, &by_address]);
    curl(&["--proxytunnel", "--proxy", &format!("http://{connect}"), &by_name]);
    curl(&["--proxytunnel", "--proxy", &format!("http://{connect}"), &by_address]);
    curl(&["--proxytunnel", "--proxy1.0", &connect, &by_name]);
    assert_eq!(egress.openings("socks", "socks5"), 2.0);
    assert_eq!(egress.openings("socks", "socks4"), 2.0);
    assert_eq!(egress.openings("connect", "connect"), 3.0);
    // A refusal is reported as such.
    let refused = |arguments: &[&str]| {
        let output = finish(Command::new("curl").args(quiet).args(arguments), b"");
        (output.status.code(), said(&output))
    };
    let other = format!("http://other.test:{port}/");
    let (code, said) = refused(&["--proxytunnel", "--proxy", &format!("http://{connect}"), &other]);
    assert!(code == Some(56) && said.contains("403"), "{code:?} {said}");
    let (code, said) = refused(&["--socks5-hostname", &socks, &other]);
    assert_eq!(code, Some(97), "{said}");
    // Without a tunnel curl sends the request to the proxy itself.
    let output = finish(
        Command::new("curl").args(quiet).args(["--proxy", &connect, "--dump-header", "-", &by_name]),
        b"",
    );
    assert!(super::said(&output).starts_with("HTTP/1.1 405 "), "{}", super::said(&output));
}

#[test]
#[ignore = "needs curl and openssl"]
fn curl_verifies_the_certificate_of_the_host() {
    let authority = Authority::new();
    let (_server, _log, address) = s_server(&authority.sign(NAME), &["-www"]);
    let egress = Egress::to(address);
    let url = format!("https://{NAME}:{}/", egress.port);
    let file = authority.file();
    for proxy in [format!("http://{}", egress.connect()), format!("socks5h://{}", egress.socks())] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--noproxy",
            "",
            "--max-time",
            "20",
            "--proxy",
            &proxy,
            "--cacert",
        ]);
        let said = run(curl.arg(&file).arg(&url));
        assert!(said.contains("s_server"), "{proxy}: {said}");
    }
}

#[test]
#[ignore = "needs python3"]
fn python_comes_through() {
    let egress = Egress::to(web());
    let script = "import http.client, sys\n\
                  host, port = sys.argv[1].split(':')\n\
                  client = http.client.HTTPConnection(host, int(port), timeout=20)\n\
                  client.set_tunnel(sys.argv[2], int(sys.argv[3]))\n\
                  client.request('GET', '/')\n\
                  print(client.getresponse().read().decode())";
    check("python3", &["-c", script, &egress.connect(), NAME, &egress.port.to_string()]);
}

#[test]
#[ignore = "needs default-jdk-headless"]
fn java_comes_through() {
    let egress = Egress::to(web());
    let source = r#"
        import java.io.*;
        import java.net.*;

        class Tunnels {
            public static void main(String[] arguments) throws Exception {
                String[] proxy = arguments[1].split(":");
                SocketAddress address = new InetSocketAddress(proxy[0], Integer.parseInt(proxy[1]));
                Socket socket = new Socket(new Proxy(Proxy.Type.valueOf(arguments[0]), address));
                socket.setSoTimeout(20000);
                socket.connect(InetSocketAddress.createUnresolved(arguments[2], Integer.parseInt(arguments[3])));
                socket.getOutputStream().write("GET / HTTP/1.1\r\n\r\n".getBytes());
                System.out.write(socket.getInputStream().readAllBytes());
                System.out.flush();
            }
        }
    "#;
    let directory = Directory::new();
    let file = directory.write("Tunnels.java", source);
    let (file, port) = (file.display().to_string(), egress.port.to_string());
    check("java", &[&file, "SOCKS", &egress.socks(), NAME, &port]);
    check("java", &[&file, "HTTP", &egress.connect(), NAME, &port]);
}

#[test]
#[ignore = "needs socat"]
fn socat_comes_through() {
    let egress = Egress::to(web());
    let (socks, connect) = (egress.proxy.address("socks"), egress.proxy.address("connect"));
    for address in [
        format!("PROXY:127.0.0.1:{NAME}:{},proxyport={}", egress.port, connect.port()),
        format!("SOCKS4A:127.0.0.1:{NAME}:{},socksport={}", egress.port, socks.port()),
    ] {
        let output = finish(Command::new("socat").args(["-t20", "-", &address]), b"GET / HTTP/1.1\r\n\r\n");
        assert!(said(&output).ends_with("hello\n"), "{address}: {}", said(&output));
    }
}
