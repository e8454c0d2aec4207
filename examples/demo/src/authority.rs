//! The certificate authority of the demo. It exists for one run and signs the certificates of the backends.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::DemoResult;

/// A certificate authority, with its certificate in a file for openssl and curl.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The file with the certificate. It is removed when the authority is dropped.
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> DemoResult<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "pointsman demo authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let file = std::env::temp_dir().join(format!("pointsman-demo-{}.pem", std::process::id()));
        std::fs::write(&file, issuer.pem())?;
        Ok(Self { issuer, file })
    }

    /// Returns the TLS settings of a backend, with a certificate for its own name and for `app.demo.test`.
    pub(crate) fn server(&self, color: &str) -> DemoResult<Arc<ServerConfig>> {
        let names = vec![format!("{color}.demo.test"), "app.demo.test".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, format!("the {color} backend"));
        let key = KeyPair::generate()?;
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer)?.into();
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    /// Returns the TLS settings of a client that trusts only this authority.
    pub(crate) fn client(&self) -> DemoResult<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
