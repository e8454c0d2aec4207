//! Real TLS: backends with certificates of their own, and clients that verify them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};

use super::Backend;

/// A backend that sends back all bytes over TLS.
pub(crate) struct TlsBackend {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
}

impl TlsBackend {
    /// Starts a backend with a new certificate for these names.
    pub(crate) fn echo(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let backend = Backend::serve(move |stream| echo(stream, Arc::clone(&config)));
        Self { address: backend.address, certificate }
    }
}

fn echo(stream: TcpStream, config: Arc<ServerConfig>) {
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = tls.read(&mut buffer) {
        if tls.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// Returns a client that trusts only these backends.
pub(crate) fn client(
    stream: TcpStream,
    name: &str,
    version: &'static SupportedProtocolVersion,
    trusted: &[&TlsBackend],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for backend in trusted {
        roots.add(backend.certificate.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(config.into(), name).unwrap(), stream)
}

/// Sends bytes and checks that they come back.
pub(crate) fn check_echo(client: &mut StreamOwned<ClientConnection, TcpStream>) {
    client.write_all(b"over TLS").unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"over TLS");
}

/// Ends in order, and reads the end of the other side: a TLS alert, then a FIN.
pub(crate) fn check_end(mut client: StreamOwned<ClientConnection, TcpStream>) {
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
