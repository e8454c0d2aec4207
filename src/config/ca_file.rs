//! Reads files with certificates of authorities, which checks over TLS trust.

use std::path::Path;
use std::sync::Arc;

use super::Config;
use super::code::Code;
use super::fault::{self, Diagnostic, Faults};
use super::load::read_bytes;
use super::named_files::FileFindings;
use crate::pool::{CaFile, PoolSpec, read_certificates};
use crate::sys::file_call::FileTurn;

/// The name of such a file in messages.
const WHAT: &str = "the file with authorities of the checks";

/// Returns the file of a pool's checks.
pub(super) fn of_pool(pool: &mut PoolSpec) -> Option<&mut CaFile> {
    pool.health.as_mut()?.tls.as_mut()?.ca.as_mut()
}

/// Reads the files of all pools, and prepares the TLS of their checks.
pub(super) fn read_all(config: &mut Config, found: &mut FileFindings<'_>) {
    for pool in &mut config.pools {
        let name = Arc::clone(&pool.name);
        if let Some(ca) = of_pool(pool) {
            let turn = FileTurn::wait_blocking(&ca.path);
            let read = read(&ca.path);
            drop(turn);
            match read {
                Ok(certificates) => ca.certificates = certificates,
                Err(faults) => {
                    found.add(faults, &["pool", &name, "health", "ca_file"]);
                    continue;
                }
            }
        }
        if let Some(tls) = pool.health.as_mut().and_then(|health| health.tls.as_mut()) {
            tls.prepare();
        }
    }
}

fn read(path: &Path) -> Result<Arc<[Box<[u8]>]>, Faults> {
    read_certificates(&read_bytes(path, WHAT)?).map_err(|fault| {
        let name = path.display().to_string();
        let message = format!("{WHAT} cannot be used: {fault}");
        let help = "the file needs certificates in PEM, each between BEGIN CERTIFICATE and END CERTIFICATE";
        fault::about_text(&name, String::new(), Diagnostic::new(Code::BadCaFile, "", message).help(help))
    })
}
