//! A certificate authority for a test, with its certificates in files for other programs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Directory;
use crate::support::{Backend, PATIENCE};

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) directory: Directory,
}

/// A certificate and its key.
pub(super) struct SignedCertificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    tls: Arc<ServerConfig>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of this test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = Directory::new();
        directory.write("authority.pem", issuer.pem());
        Self { issuer, directory }
    }

    /// Returns the file with the certificate of the authority.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.file("authority.pem")
    }

    /// Signs a certificate for servers and clients with that name, which is also its subject.
    pub(super) fn sign(&self, name: &str) -> SignedCertificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private).unwrap();
        SignedCertificate {
            certificate: self.directory.write(&format!("{name}.pem"), certificate.pem()),
            key: self.directory.write(&format!("{name}.key"), key.serialize_pem()),
            tls: Arc::new(tls),
        }
    }

    /// Starts a web server that answers each request with its name.
    pub(super) fn backend(&self, name: &str) -> Backend {
        let tls = self.sign(name).tls;
        let answer = format!("HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello from {name}\n");
        Backend::serve(move |socket| {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let mut stream = StreamOwned::new(session, socket);
            // A client that leaves early is a check, or has read enough.
            let _ = serve(&mut stream, answer.as_bytes());
        })
    }
}

fn serve(stream: &mut StreamOwned<ServerConnection, TcpStream>, answer: &[u8]) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    stream.write_all(answer)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    // If a socket is closed with unread bytes, its reset would destroy the answer.
    stream.sock.shutdown(Shutdown::Write)?;
    io::copy(&mut stream.sock, &mut io::sink()).map(drop)
}
