//! The TLS library's settings of a spec, kept with the spec.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;

/// The TLS library's form of a specification, made once. Clones share it, so all backends of a pool have the
/// same form. It is determined by the rest of the specification, so any two are equal.
#[derive(Clone, Default)]
pub struct TlsClient(Arc<OnceLock<Result<Arc<ClientConfig>, rustls::Error>>>);

impl TlsClient {
    /// Returns the settings, which `make` makes at the first call.
    pub(super) fn config(
        &self,
        make: impl FnOnce() -> Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.0.get_or_init(make).clone()
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TlsClient {}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsClient").finish_non_exhaustive()
    }
}
