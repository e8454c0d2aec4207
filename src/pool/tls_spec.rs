//! The spec of TLS for checks. It exists also in a build without checks over TLS, where no configuration has it.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "tls-checks")]
use super::tls_client::TlsClient;
use crate::wire::ServerName;

/// Without checks over TLS there is no library.
#[cfg(not(feature = "tls-checks"))]
type TlsClient = ();

/// TLS of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that is sent, and that a verified certificate must have. Default: no name is sent, and the
    /// certificate must have the address.
    pub server_name: Option<ServerName>,
    /// The protocols that are offered by ALPN, in order of preference. Default: ALPN is not used.
    pub alpn: Vec<Arc<str>>,
    /// The authorities whose certificates are accepted. Default: any certificate, without verification.
    pub ca: Option<CaFile>,
    /// The TLS library's form of these settings.
    pub client: TlsClient,
}

/// A file with certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// The path.
    pub path: Arc<Path>,
    /// The certificates in it, in DER.
    pub certificates: Arc<[Box<[u8]>]>,
}
