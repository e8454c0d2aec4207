//! PROXY headers between this program and others: nginx and haproxy in front of it and behind it.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use pointsman::wire::proxy_protocol::{HeaderVersion, OutgoingHeader, Tlv};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::certificates::Authority;
use super::checks::RunningServer;
use super::{Directory, Program};
use crate::support::{Backend, PATIENCE, wait_for};

/// Runs nginx with these blocks at a port that stands for `PORT`.
fn nginx(blocks: &str) -> RunningServer {
    RunningServer::start(Directory::new(), |directory, port| {
        let load = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let conf = format!(
            "load_module {load};\ndaemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr;\nevents {{}}\n{}\n",
            directory.0.display(),
            blocks.replace("PORT", &port.to_string()),
        );
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory.0).arg("-c").arg(directory.write("conf", conf));
        command
    })
}

/// Runs haproxy with these sections at a port that stands for `PORT`.
pub(super) fn haproxy(sections: &str) -> RunningServer {
    RunningServer::start(Directory::new(), |directory, port| {
        let conf = format!(
            "global\n nbthread 1\n maxconn 200\ndefaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n{}\n",
            sections.replace("PORT", &port.to_string()),
        );
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(directory.write("conf", conf));
        command
    })
}

/// Returns the answer of a web server to a client that may send other bytes first, and the address of the
/// client.
fn get(address: SocketAddr, before: &[u8]) -> (String, SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = stream.local_addr().unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    stream.write_all(&[before, request].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    (body.unwrap_or_else(|| panic!("{answer:?}")), client)
}

/// Starts the program in front of a web server that gets PROXY headers. Its checks send headers too.
fn sending(listener: &str, server: &RunningServer, pool: &str) -> Program {
    Program::start(&format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n{listener}\n[pool.main]\nbackends = [\"{}\"]\n\
         health = {{ check = \"http\", interval = \"100ms\" }}\n{pool}\n",
        server.address
    ))
}

/// Waits until checks pass, which shows that the server accepts their header too.
fn wait_for_checks(program: &Program) {
    let passed = || program.sum("pointsman_backend_checks_total", "\"passed\"");
    wait_for("checks", || passed() >= 3.0);
    assert_eq!(program.sum("pointsman_backend_checks_total", "\"failed\""), 0.0);
}

const FULL: &str = "proxy_protocol = { version = \"v2\", authority = true, unique_id = true, crc32c = true, \
                    tlvs = { \"0xE0\" = \"text\" } }";

#[test]
#[ignore = "needs nginx"]
fn nginx_is_told() {
    let server = nginx(
        "http { access_log off; server { listen 127.0.0.1:PORT proxy_protocol; location / { return 200 \
         \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port\"; } } }",
    );
    for pool in ["proxy_protocol = \"v1\"", "proxy_protocol = \"v2\"", FULL] {
        let program = sending("", &server, pool);
        let address = program.address("main");
        let (answer, client) = get(address, b"");
        assert_eq!(answer, format!("{client} {address}"), "{pool}");
        wait_for_checks(&program);
        program.stop();
    }
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_is_told() {
    let server = haproxy(
        "frontend f\n mode http\n bind 127.0.0.1:PORT accept-proxy\n http-request return status 200 \
         content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"",
    );
    for pool in ["proxy_protocol = \"v1\"", "proxy_protocol = \"v2\"", FULL] {
        let program = sending("", &server, pool);
        let address = program.address("main");
        let (answer, client) = get(address, b"");
        let record = program.wait_for_record("the record", |record| record["client"] == client.to_string());
        let mut expected = format!("{client} {address} ");
        write!(expected, " {}", record["unique_id"].as_str().unwrap_or_default()).unwrap();
        assert_eq!(answer, expected.trim(), "{pool}");
        assert_eq!(record["unique_id"].is_null(), pool != FULL);
        wait_for_checks(&program);
        program.stop();
    }
    // The server gets the address that another proxy sent.
    let program = sending("proxy_protocol.trusted = \"127.0.0.1\"", &server, FULL);
    let endpoints = Some(("[2001:db8::7]:4711".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()));
    let tlvs: Vec<(u8, &[u8])> = vec![(Tlv::AUTHORITY, b"front.test"), (Tlv::UNIQUE_ID, b"id-7")];
    let header = OutgoingHeader { version: HeaderVersion::V2, endpoints, tlvs, crc32c: true }.write();
    let (answer, _) = get(program.address("main"), &header);
    assert_eq!(answer, "2001:db8::7:4711 2001:db8::1:443 front.test id-7");
    program.stop();
}

/// Starts a listener that requires headers, in front of an echo.
fn echo_behind_headers() -> Program {
    let echo = Backend::echo();
    Program::start(&format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\nproxy_protocol.trusted = \"127.0.0.1\"\n\
         [pool.main]\nbackends = [\"{}\"]\n",
        echo.address
    ))
}

/// Sends bytes and gets them back. Returns the address of the client.
fn echo(address: SocketAddr) -> SocketAddr {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"some words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"some words");
    stream.local_addr().unwrap()
}

fn headers(program: &Program, outcome: &str) -> f64 {
    program.sum("pointsman_proxy_headers_total", &format!("outcome=\"{outcome}\""))
}

#[test]
#[ignore = "needs nginx with its stream module"]
fn nginx_tells() {
    let program = echo_behind_headers();
    let sender = nginx(&format!(
        "stream {{ server {{ listen 127.0.0.1:PORT; proxy_pass {}; proxy_protocol on; proxy_half_close on; }} }}",
        program.address("main")
    ));
    let client = echo(sender.address).to_string();
    let record = program.wait_for_record("the record", |record| record["client"] == client.as_str());
    assert!(record["peer"].is_string() && record["peer"] != client.as_str(), "{record}");
    assert_eq!(record["from_client_bytes"], 10);
    assert!(headers(&program, "v1") >= 1.0);
    program.stop();
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_tells() {
    for (options, outcome) in
        [("send-proxy", "v1"), ("send-proxy-v2", "v2"), ("send-proxy-v2 proxy-v2-options crc32c", "v2")]
    {
        let program = echo_behind_headers();
        let sender = haproxy(&format!(
            "listen l\n mode tcp\n bind 127.0.0.1:PORT\n server s {} {options}",
            program.address("main")
        ));
        let client = echo(sender.address).to_string();
        let record = program.wait_for_record("the record", |record| record["client"] == client.as_str());
        assert!(record["peer"].is_string() && record["peer"] != client.as_str(), "{record}");
        assert!(headers(&program, outcome) >= 1.0);
        program.stop();
    }
}

/// haproxy terminates TLS. Its header has the server name and the id of the connection.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_tells_with_tlvs() {
    let authority = Authority::new();
    let signed = authority.sign("front.test");
    let both = [fs::read(&signed.certificate).unwrap(), fs::read(&signed.key).unwrap()].concat();
    let both = authority.directory.write("both.pem", both);
    let program = echo_behind_headers();
    let sender = haproxy(&format!(
        "frontend f\n mode tcp\n bind 127.0.0.1:PORT ssl crt {}\n unique-id-format id-%ci-%cp\n default_backend b\n\
         backend b\n mode tcp\n server s {} send-proxy-v2 proxy-v2-options ssl,unique-id,crc32c,authority",
        both.display(),
        program.address("main")
    ));
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(sender.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = stream.local_addr().unwrap();
    let name = ServerName::try_from("front.test").unwrap();
    let mut tls = StreamOwned::new(ClientConnection::new(config.into(), name).unwrap(), stream);
    tls.write_all(b"some words").unwrap();
    let mut answer = [0; 10];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"some words");
    drop(tls);
    let record =
        program.wait_for_record("the record", |record| record["client"] == client.to_string().as_str());
    assert_eq!(record["proxy_authority"], "front.test");
    assert_eq!(record["unique_id"], format!("id-127.0.0.1-{}", client.port()));
    assert_eq!(record["from_client_bytes"], 10);
    program.stop();
}

/// The checks of haproxy send LOCAL, or a line with their own addresses.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_checks() {
    for (options, outcome) in [("send-proxy-v2", "local"), ("send-proxy", "v1")] {
        let program = echo_behind_headers();
        let _sender = haproxy(&format!(
            "listen l\n mode tcp\n bind 127.0.0.1:PORT\n server s {} check inter 100ms {options}",
            program.address("main")
        ));
        wait_for("checks", || headers(&program, outcome) >= 3.0);
        assert_eq!(headers(&program, "malformed") + headers(&program, "missing"), 0.0);
        program.stop();
    }
}
