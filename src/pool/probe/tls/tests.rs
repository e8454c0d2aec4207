use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::pool::probe::check::check;
use crate::pool::probe::endpoint::CheckEndpoint;
use crate::pool::{CheckFinding, CheckKind, CheckOutcome, Discovery, HealthSpec};
use crate::wire::Script;

const PASSED: CheckOutcome = CheckOutcome::Passed;

/// Creates an authority, and a certificate of it for these names.
fn certificates(names: &[&str]) -> (String, CertificateDer<'static>, PrivateKeyDer<'static>) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let issuer = Issuer::new(params, authority_key);
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (authority.pem(), certificate.der().clone(), key)
}

/// A server that answers each request over TLS with this text, and closes.
struct Server {
    address: SocketAddr,
    authority: String,
}

impl Server {
    fn start(
        names: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
        answer: &'static [u8],
    ) -> Self {
        Self::with(certificates(names), versions, answer)
    }

    fn with(
        (authority, certificate, key): (String, CertificateDer<'static>, PrivateKeyDer<'static>),
        versions: &[&'static rustls::SupportedProtocolVersion],
        answer: &'static [u8],
    ) -> Self {
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(session, stream);
                if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(answer);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        Self { address, authority }
    }

    fn ca(&self) -> Option<CaFile> {
        let certificates = read_certificates(self.authority.as_bytes()).unwrap();
        Some(CaFile { path: std::path::Path::new("ca.pem").into(), certificates })
    }

    async fn check(&self, tls: TlsSpec) -> CheckFinding {
        check_at(self.address, tls).await
    }
}

async fn check_at(asked: impl Into<CheckEndpoint>, tls: TlsSpec) -> CheckFinding {
    let spec = HealthSpec {
        check: CheckKind::Dialogue(Script::Http(Arc::default())),
        timeout: Duration::from_secs(20),
        tls: Some(tls),
        ..HealthSpec::default()
    };
    check(&asked.into(), &spec, [0; 64]).await
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn named(name: &str) -> TlsSpec {
    TlsSpec { server_name: Some(name.parse().unwrap()), ..TlsSpec::default() }
}

#[tokio::test]
async fn a_certificate_must_have_the_host_name_of_the_check() {
    let server = Server::start(&["a.example"], &BOTH, GOOD);
    let check = async |name: &str, tls: TlsSpec| {
        let endpoint = Endpoint::Name { name: name.into(), port: server.address.port() };
        let host = Discovery::of_host(&[server.address.ip()]);
        let tls = TlsSpec { ca: server.ca(), ..tls };
        check_at(CheckEndpoint::new(endpoint, Some(Arc::new(host))), tls).await.outcome
    };
    let refused = CheckOutcome::Failed(CheckFault::Certificate);
    assert_eq!(check("a.example", TlsSpec::default()).await, PASSED);
    assert_eq!(check("a.example.", TlsSpec::default()).await, PASSED, "the final dot is no part of the name");
    assert_eq!(check("b.example", TlsSpec::default()).await, refused);
    assert_eq!(check("b.example", named("a.example")).await, PASSED);
}

#[tokio::test]
async fn a_page_is_asked_over_tls() {
    for version in BOTH {
        let server = Server::start(&["a.example"], &[version], GOOD);
        assert_eq!(server.check(TlsSpec::default()).await.outcome, PASSED, "{version:?}");
        assert_eq!(server.check(named("other.example")).await.outcome, PASSED, "no name is judged");
    }
    let server = Server::start(&["a.example"], &BOTH, b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let found = server.check(TlsSpec::default()).await;
    assert_eq!(found.outcome, CheckOutcome::Failed(CheckFault::Unexpected));
    assert_eq!(found.heard.as_deref(), Some("HTTP/1.1 503 Service Unavailable"));
}

#[tokio::test]
async fn certificates_are_judged_where_an_authority_is_named() {
    let server = Server::start(&["a.example", "127.0.0.1"], &BOTH, GOOD);
    let judged = |spec: TlsSpec| TlsSpec { ca: server.ca(), ..spec };
    assert_eq!(server.check(judged(named("a.example"))).await.outcome, PASSED);
    // Without a name the certificate must have the address.
    assert_eq!(server.check(judged(TlsSpec::default())).await.outcome, PASSED);
    let found = server.check(judged(named("b.example"))).await;
    assert_eq!(found.outcome, CheckOutcome::Failed(CheckFault::Certificate));
    assert!(found.heard.unwrap().starts_with("invalid peer certificate: "));
    let other = Server::start(&["a.example"], &BOTH, GOOD);
    let found = other.check(judged(named("a.example"))).await;
    assert_eq!(found.outcome, CheckOutcome::Failed(CheckFault::Certificate));
}

/// As `openssl req -x509` makes it: the certificate of an authority, used by the server itself.
#[tokio::test]
async fn a_listed_certificate_is_accepted_for_its_names() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = Server::with((own.pem(), own.der().clone(), der), &BOTH, GOOD);
    let judged = |name: &str| TlsSpec { ca: server.ca(), ..named(name) };
    assert_eq!(server.check(judged("a.example")).await.outcome, PASSED);
    let refused = CheckOutcome::Failed(CheckFault::Certificate);
    assert_eq!(server.check(judged("b.example")).await.outcome, refused);
    // Another certificate of the same name is not accepted.
    let other = Server::start(&["a.example"], &BOTH, GOOD);
    assert_eq!(other.check(judged("a.example")).await.outcome, refused);
}

#[tokio::test]
async fn the_library_is_set_up_once_for_all_checks() {
    let server = Server::start(&["a.example"], &BOTH, GOOD);
    let mut spec = TlsSpec { ca: server.ca(), ..named("a.example") };
    spec.prepare();
    let config = |spec: &TlsSpec| config_of(spec).unwrap();
    let (first, clone) = (config(&spec), spec.clone());
    for _ in 0..3 {
        assert_eq!(server.check(clone.clone()).await.outcome, PASSED);
    }
    assert!(Arc::ptr_eq(&first, &config(&clone)));
    // Other certificates are in force once they are prepared.
    let other = Server::start(&["a.example"], &BOTH, GOOD);
    spec.ca = other.ca();
    spec.prepare();
    assert_eq!(other.check(spec.clone()).await.outcome, PASSED);
    assert!(!Arc::ptr_eq(&first, &config(&spec)));
    assert_eq!(server.check(spec).await.outcome, CheckOutcome::Failed(CheckFault::Certificate));
}

#[tokio::test]
async fn protocols_are_offered() {
    let server = Server::start(&["a.example"], &BOTH, GOOD);
    let offering = |name: &str| TlsSpec { alpn: vec![name.into()], ..TlsSpec::default() };
    assert_eq!(server.check(offering("http/1.1")).await.outcome, PASSED);
    let refused = server.check(offering("x")).await.outcome;
    // No application protocol.
    assert_eq!(refused, CheckOutcome::Failed(CheckFault::TlsAlert(120)));
}

#[tokio::test]
async fn a_server_without_tls_shows_its_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let found = check_at(address, TlsSpec::default()).await;
    assert_eq!(found.outcome, CheckOutcome::Failed(CheckFault::Unexpected));
    assert_eq!(found.heard.as_deref(), Some("HTTP/1.1 400 Bad Request"));
    server.join().unwrap();
}

#[tokio::test]
async fn a_server_that_leaves_in_the_handshake_has_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
    });
    let found = check_at(address, TlsSpec::default()).await;
    assert_eq!(found.outcome, CheckOutcome::Failed(CheckFault::Closed));
    server.join().unwrap();
}

/// The records that a server sends over TLS as the answer to a request.
struct Records<'a> {
    version: &'static rustls::SupportedProtocolVersion,
    /// The plaintext of each record.
    records: Vec<&'a [u8]>,
    /// Bytes after the end of TLS.
    behind: &'a [u8],
}

impl Records<'_> {
    /// Checks the server once, and fails if the check blocks the thread.
    fn check(&self, script: Script) -> CheckFinding {
        let (_, certificate, key) = certificates(&["a.example"]);
        let config = ServerConfig::builder_with_protocol_versions(&[self.version]);
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = HealthSpec {
            check: CheckKind::Dialogue(script),
            timeout: Duration::from_secs(20),
            tls: Some(TlsSpec::default()),
            ..HealthSpec::default()
        };
        let address = listener.local_addr().unwrap();
        let (found, finding) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = found.send(runtime.block_on(check(&address.into(), &spec, [0; 64])));
        });
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config.into()).unwrap(), stream);
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0, "a request");
        stream.conn.set_buffer_limit(None);
        for record in &self.records {
            stream.conn.writer().write_all(record).unwrap();
        }
        stream.conn.send_close_notify();
        let mut sent = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut sent).unwrap();
        }
        sent.extend_from_slice(self.behind);
        // The check may have its answer before all is sent.
        let _ = stream.sock.write_all(&sent);
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
        finding.recv_timeout(Duration::from_secs(30)).expect("the check ends")
    }
}

/// An answer with a body that ends in `end`, `length` bytes in all.
fn answer(length: usize) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    answer.resize(length - 3, b'x');
    answer.extend_from_slice(b"end");
    answer
}

/// A page whose body has this text.
fn page_with(text: &[u8]) -> Script {
    let body = Some(crate::wire::dialogue::BodyMatch::Contains(text.into()));
    Script::Http(crate::wire::dialogue::HttpScript { body, ..Default::default() }.into())
}

#[test]
fn bytes_behind_the_end_of_tls_are_dropped() {
    let largest = answer(16 * 1024);
    for version in BOTH {
        for count in [1, 100, 1000, 2048, 4096, 20_000] {
            let behind = vec![0; count];
            let server = Records { version, records: vec![&largest], behind: &behind };
            assert_eq!(server.check(page_with(b"end")).outcome, PASSED, "{count} bytes, {version:?}");
            let found = server.check(page_with(b"other")).outcome;
            assert_eq!(found, CheckOutcome::Failed(CheckFault::Unexpected), "{count} bytes, {version:?}");
        }
    }
}

#[test]
fn bodies_are_read_whatever_the_records() {
    const LARGEST: usize = 16 * 1024;
    let cuts: [&[usize]; 8] = [
        &[LARGEST],
        &[LARGEST, 100],
        &[LARGEST, 500, 700],
        &[LARGEST - 1, 2, 1400, 1400],
        &[12_000, 4000, 300],
        &[4096],
        &[1400, LARGEST, 50, 50, 50],
        &[37],
    ];
    for length in [20_000, 40_000, 64 * 1024] {
        let answer = answer(length);
        for (version, cut) in BOTH.into_iter().flat_map(|version| cuts.map(|cut| (version, cut))) {
            let mut rest = &answer[..];
            let mut records = Vec::new();
            for size in cut.iter().cycle() {
                let (record, more) = rest.split_at(rest.len().min(*size));
                records.push(record);
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            let found = Records { version, records, behind: b"" }.check(page_with(b"end"));
            assert_eq!(found.outcome, PASSED, "{length} bytes in {cut:?}, {version:?}");
        }
    }
}

#[test]
fn files_of_authorities_are_tried() {
    let (authority, ..) = certificates(&["a.example"]);
    assert_eq!(read_certificates(authority.as_bytes()).unwrap().len(), 1);
    let two = format!("# a comment\n{authority}{authority}");
    assert_eq!(read_certificates(two.as_bytes()).unwrap().len(), 2);
    assert_eq!(read_certificates(b""), Err(CaFault::Empty));
    assert_eq!(read_certificates(b"no certificate"), Err(CaFault::Empty));
    let cut = &authority.as_bytes()[..authority.len() / 2];
    assert!(matches!(read_certificates(cut), Err(CaFault::Pem(_) | CaFault::Empty)));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(read_certificates(broken.as_bytes()), Err(CaFault::Certificate(1, _))));
}
