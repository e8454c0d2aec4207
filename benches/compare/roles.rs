//! The roles of child processes: this program, with a role as its first argument.

use std::io;

use crate::{backend, calibrate, load, separate_backend, tokio_copy};

pub(crate) const BACKEND: &str = "role-backend";
pub(crate) const LOAD: &str = "role-load";
pub(crate) const CALIBRATE: &str = "role-calibrate";
pub(crate) const SEPARATE_BACKEND: &str = "role-separate-backend";
pub(crate) const TOKIO_COPY: &str = "role-tokio-copy";

/// Runs the role that the arguments name, or returns `None` if they name none.
pub(crate) fn run() -> Option<io::Result<()>> {
    let mut arguments = std::env::args().skip(1);
    let (role, mut argument) = (arguments.next()?, || arguments.next().unwrap_or_default());
    match role.as_str() {
        BACKEND => Some(backend::run(0)),
        CALIBRATE => Some(calibrate::run()),
        LOAD => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(load::run)),
        SEPARATE_BACKEND => {
            Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(separate_backend::run))
        }
        TOKIO_COPY => {
            let mut port = || argument().parse().map_err(io::Error::other);
            Some(port().and_then(|own| tokio_copy::run(own, port()?)))
        }
        _ => None,
    }
}
