//! TLS of checks, as a client: the only folder that uses the TLS library, besides the type that keeps its settings.
//!
//! It serves the checks on the control thread. No client's bytes come here: the data path passes TLS on as it is.
//! There is no key and no certificate of ours, and no session is resumed. A certificate is verified only if the
//! operator configures the accepted certificates. A check only finds out if a server works, and has no secret to
//! lose.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::talking::{Talking, broken, first_words};
use crate::pool::check_target::Endpoint;
use crate::pool::health::{CheckFailure, CheckFault};
use crate::pool::tls_client::TlsClient;
use crate::pool::tls_spec::{CaFile, TlsSpec};

/// Bytes read at once; a server's first flight, its certificates included, has some thousand bytes.
const CHUNK: usize = 4096;

/// The number of bytes of the server that are shown if they are not TLS.
const SHOWN: usize = 128;

/// A connection of a check with TLS on it.
pub(super) struct TlsSession {
    stream: Box<dyn Talking>,
    session: ClientConnection,
    chunk: Box<[u8]>,
    /// The part of the chunk that was read and that the session has not yet taken.
    unread: Range<usize>,
    /// The bytes to be sent; the first `sent` of them are sent already.
    unsent: Vec<u8>,
    sent: usize,
    first: Vec<u8>,
    failure: Option<CheckFailure>,
}

impl TlsSession {
    /// Makes the TLS handshake with the server at `endpoint`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the connection is closed.
    pub(super) async fn connect(
        stream: Box<dyn Talking>,
        spec: &TlsSpec,
        endpoint: &Endpoint,
    ) -> Result<Self, CheckFailure> {
        let name = name(spec, endpoint).ok_or(CheckFault::Other)?;
        let session = config_of(spec).and_then(|config| ClientConnection::new(config, name));
        let mut tls = Self {
            stream,
            session: session.map_err(|error| judged(&error))?,
            chunk: vec![0; CHUNK].into(),
            unread: 0..0,
            unsent: Vec::new(),
            sent: 0,
            first: Vec::new(),
            failure: None,
        };
        while tls.session.is_handshaking() {
            tls.flush().await.map_err(|error| broken(&error))?;
            if tls.unread.is_empty() {
                let count = tls.stream.read(&mut tls.chunk).await.map_err(|error| broken(&error))?;
                if count == 0 {
                    return Err(CheckFault::Closed.into());
                }
                tls.add(count);
            }
            if tls.take_in().is_err() {
                // Sends the alert. No code waits for the result.
                let _ = tls.flush().await;
                return Err(tls.failure.take().unwrap_or(CheckFault::Other.into()));
            }
        }
        tls.flush().await.map_err(|error| broken(&error))?;
        Ok(tls)
    }

    /// The reason for which the server's bytes were refused, if they were.
    pub(super) fn failure(self) -> Option<CheckFailure> {
        self.failure
    }

    /// Notes that the chunk has `count` new bytes for the session, which has taken all earlier ones.
    fn add(&mut self, count: usize) {
        self.unread = 0..count;
        let missing = SHOWN.saturating_sub(self.first.len());
        self.first.extend_from_slice(&self.chunk[..count.min(missing)]);
    }

    /// Passes the read bytes to the session, up to the first plaintext, because the session has room for one record
    /// of plaintext. The rest follows when the plaintext is read.
    fn take_in(&mut self) -> io::Result<()> {
        while !self.unread.is_empty() {
            let count = self.session.read_tls(&mut &self.chunk[self.unread.clone()])?;
            if count == 0 {
                // The server has ended TLS. No byte after the end is ever taken.
                self.unread = 0..0;
                break;
            }
            self.unread.start += count;
            match self.session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => break,
                Ok(_) => {}
                Err(error) => {
                    self.failure = Some(self.refused(&error));
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    /// Returns the failure of the check if the session refused the server's bytes with this error.
    fn refused(&self, error: &rustls::Error) -> CheckFailure {
        match error {
            // The bytes are not TLS. The server's first words help an operator more than this error.
            rustls::Error::InvalidMessage(_) => {
                CheckFailure { fault: CheckFault::Unexpected, heard: first_words(&self.first) }
            }
            _ => judged(error),
        }
    }

    /// Encrypts the written bytes, for [`TlsSession::poll_send`].
    fn collect(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.unsent)?;
        }
        Ok(())
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let unsent = &self.unsent[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsSession {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        loop {
            match tls.session.reader().read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
            if !tls.unread.is_empty() {
                tls.take_in()?;
                continue;
            }
            // The session may have bytes to send, such as the answer to an update of keys.
            tls.collect()?;
            ready!(tls.poll_send(context))?;
            let mut read = ReadBuf::new(&mut tls.chunk);
            ready!(Pin::new(&mut tls.stream).poll_read(context, &mut read))?;
            let count = read.filled().len();
            if count == 0 {
                // The server closed without the end of TLS, as many servers do.
                return Poll::Ready(Ok(()));
            }
            tls.add(count);
        }
    }
}

impl AsyncWrite for TlsSession {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tls = self.get_mut();
        ready!(tls.poll_send(context))?;
        let count = tls.session.writer().write(bytes)?;
        tls.collect()?;
        // A request fits into the socket; the rest goes with the next read or write.
        match tls.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        tls.collect()?;
        ready!(tls.poll_send(context))?;
        Pin::new(&mut tls.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Returns the failure of a check whose TLS ended with this error of the library.
fn judged(error: &rustls::Error) -> CheckFailure {
    let fault = match error {
        rustls::Error::AlertReceived(alert) => return CheckFault::TlsAlert(u8::from(*alert)).into(),
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            CheckFault::Certificate
        }
        _ => CheckFault::Unexpected,
    };
    CheckFailure { fault, heard: first_words(error.to_string().as_bytes()) }
}

/// The cryptography of all checks.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

impl TlsSpec {
    /// Prepares the settings of the TLS library, once the certificates are read. Without this call, the first check
    /// does it, on the control thread.
    pub fn prepare(&mut self) {
        self.client = TlsClient::default();
        // A fault is reported by each check.
        let _ = config_of(self);
    }
}

/// Returns the settings of the TLS library, made at the first call.
fn config_of(spec: &TlsSpec) -> Result<Arc<ClientConfig>, rustls::Error> {
    spec.client.config(|| config(spec))
}

fn config(spec: &TlsSpec) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::clone(&PROVIDER);
    let verifier: Arc<dyn ServerCertVerifier> = match &spec.ca {
        None => Arc::new(AnyCertificate(Arc::clone(&provider))),
        Some(ca) => {
            let chain = WebPkiServerVerifier::builder_with_provider(roots(ca).into(), Arc::clone(&provider));
            let chain = chain.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            Arc::new(ListedAuthorities { chain, listed: Arc::clone(&ca.certificates) })
        }
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = spec.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = spec.server_name.is_some();
    Ok(config.into())
}

/// The name that a verified certificate must have.
fn name(spec: &TlsSpec, endpoint: &Endpoint) -> Option<ServerName<'static>> {
    let name = match (&spec.server_name, endpoint) {
        (Some(name), _) => name.as_str(),
        (None, Endpoint::Name { name, .. }) => name.strip_suffix('.').unwrap_or(name),
        (None, Endpoint::Address(address)) => match address.tcp() {
            Some(address) => return Some(ServerName::from(address.ip())),
            None => "localhost",
        },
    };
    ServerName::try_from(name.to_owned()).ok()
}

fn roots(ca: &CaFile) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificates = ca.certificates.iter().map(|der| CertificateDer::from_slice(der));
    // The certificates were tried when the file was read.
    roots.add_parsable_certificates(certificates);
    roots
}

/// The reason for which a file has no certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaFault {
    /// The file has no certificate in PEM.
    #[error("it has no certificate in PEM")]
    Empty,
    /// A block of PEM is broken.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// A certificate cannot be used. The number is its position in the file, from 1.
    #[error("certificate {0} cannot be used: {1}")]
    Certificate(usize, String),
}

/// Reads the certificates of authorities, in PEM, and returns them in DER.
///
/// # Errors
///
/// The reason for which the certificates cannot be used.
pub fn read_certificates(pem: &[u8]) -> Result<Arc<[Box<[u8]>]>, CaFault> {
    let mut certificates = Vec::new();
    for read in CertificateDer::pem_slice_iter(pem) {
        let certificate = read.map_err(|error| CaFault::Pem(error.to_string()))?;
        let der: Box<[u8]> = certificate.as_ref().into();
        let added = RootCertStore::empty().add(certificate);
        added.map_err(|error| CaFault::Certificate(certificates.len() + 1, error.to_string()))?;
        certificates.push(der);
    }
    if certificates.is_empty() { Err(CaFault::Empty) } else { Ok(certificates.into()) }
}

/// Accepts certificates of the listed authorities, and also the listed certificates themselves: `openssl req
/// -x509` makes certificates of authorities, and servers use these as their own certificates.
#[derive(Debug)]
struct ListedAuthorities {
    chain: Arc<WebPkiServerVerifier>,
    listed: Arc<[Box<[u8]>]>,
}

impl ServerCertVerifier for ListedAuthorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(certificate, chain, name, ocsp, now);
        match verified {
            // The error for "it is the certificate of an authority" has no kind of its own; the dates were checked
            // before.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.listed.iter().any(|listed| **listed == **certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            _ => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts any certificate, and a signature by any key: the check has no secret, and the operator has not
/// configured accepted certificates.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
