//! The reasons why the server did not start, or did not reload.

use std::io;
use std::sync::Arc;

use super::build_fault::BuildFault;
use super::own_backends::CycleFault;
use super::source::SourceFault;
use crate::config::Faults;
use crate::listener::BindFault;
use crate::sys::{landlock, privileges};

/// The reason why the server could not start. Nothing stays bound.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// The configuration cannot be built.
    #[error(transparent)]
    Build(#[from] BuildFault),
    /// The access log cannot be opened.
    #[error(
        "cannot open the access log {path}: {source}; check the directory and its permissions, or set access_log.to = \"off\"{hint}",
        hint = privileges::hint(source)
    )]
    AccessLog {
        /// Its destination as configured.
        path: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Connections cannot come from the source address of a pool.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// A backend leads back to its own pool.
    #[error(transparent)]
    Cycle(#[from] CycleFault),
    /// The process may open fewer descriptors than one connection needs.
    #[error(
        "the process may open {limit} descriptors, and needs {least} to serve one connection; these include a socket for each worker, port and family; raise the hard limit of open files (LimitNOFILE= of a unit, `ulimit -Hn`, --ulimit nofile of a container), or lower `workers` or the number of ports"
    )]
    FewDescriptors {
        /// The descriptors that it may open.
        limit: u64,
        /// The descriptors that it needs.
        least: u64,
    },
    /// A thread or a runtime could not be started.
    #[error("cannot start to serve: {0}")]
    System(#[from] io::Error),
}

/// The reason why a reload did not happen. The running configuration stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// A new address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// The configuration cannot be built.
    #[error(transparent)]
    Build(#[from] BuildFault),
    /// Connections cannot come from the source address of a pool.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// A backend leads back to its own pool.
    #[error(transparent)]
    Cycle(#[from] CycleFault),
    /// The access log cannot be opened.
    #[error("cannot open the access log {path}: {source}{hint}", hint = landlock::hint(source))]
    AccessLog {
        /// Its destination as configured.
        path: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The process may open fewer descriptors than the listening sockets need.
    #[error(
        "the process may open {limit} descriptors, and the listeners need {least}: each worker has a socket for each port and family; raise the hard limit of open files (LimitNOFILE= of a unit, --ulimit nofile of a container), or write fewer ports"
    )]
    FewDescriptors {
        /// The descriptors that it may open.
        limit: u64,
        /// The descriptors that it needs.
        least: u64,
    },
    /// The file has faults.
    #[error("the configuration has faults:\n{}", .0.without_lines())]
    File(Faults),
    /// A file system did not answer for a minute.
    #[error(
        "a file system did not answer within a minute: the file system of the configuration, of a file in the configuration, or of a Unix socket to bind"
    )]
    NoAnswer,
    /// An earlier reload still waits for a file system.
    #[error(
        "an earlier reload still waits for a file system that does not answer: the file system of the configuration, of a file in the configuration, or of a Unix socket to bind"
    )]
    StillWaiting,
    /// More keys would go to another backend than the operator allows.
    #[error(
        "{moved} of the keys of pool {pool} would go to another backend, and --max-moved allows {most}: the running configuration stays"
    )]
    Moved {
        /// The pool with the most such keys.
        pool: Arc<str>,
        /// The share of these keys, as a percentage.
        moved: String,
        /// The largest share that is allowed.
        most: String,
    },
    /// The process is about to end.
    #[error("the server is stopping")]
    Stopping,
    /// A new program takes over.
    #[error(
        "a new program is taking over, with the configuration that it has read: run `pointsman upgrade` again after it"
    )]
    HandingOver,
    /// There is no file to read again.
    #[error(
        "the running program was started without a configuration file, so it cannot reload: run `pointsman upgrade FILE`"
    )]
    NoFile,
}

impl ReloadFault {
    /// Returns the fault in one line. For a file with faults: the first fault, and the number of the other
    /// faults.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::File(faults) => match &*faults.diagnostics() {
                [only] => only.message.clone(),
                [first, others @ ..] => format!("{} (and {} more)", first.message, others.len()),
                [] => self.to_string(),
            },
            _ => self.to_string(),
        }
    }
}
