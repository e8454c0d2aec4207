//! The faults of discovery sources: of questions to the DNS, and of files.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use super::document::DocumentFault;
use crate::sys::landlock;

/// The system's file of resolvers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The system's file of hosts. For a name in this file, no resolver is queried.
pub(super) const HOSTS: &str = "/etc/hosts";

/// The longest time for reading these files.
pub(super) const FILE_PATIENCE: Duration = Duration::from_secs(2);

/// The fault of a source that found nothing new, or only a part.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverFault {
    /// The DNS gave no usable answer.
    #[error(transparent)]
    Dns(DnsFault),
    /// The file cannot be used.
    #[error(transparent)]
    File(FileFault),
}

impl From<DnsFault> for DiscoverFault {
    fn from(fault: DnsFault) -> Self {
        Self::Dns(fault)
    }
}

/// The fault of a question to the DNS that has no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsFault {
    /// The name does not exist.
    #[error("there is no such name (NXDOMAIN)")]
    NoName,
    /// The answer has no usable record.
    #[error("the answer has no usable record")]
    Empty,
    /// The answer has more records than are taken.
    #[error("the answer has {0} records, which is too many")]
    TooMany(usize),
    /// No resolver answered in time.
    #[error("no resolver answered in time")]
    Timeout,
    /// The resolver answered with an error code.
    #[error("the resolver answered: {0}")]
    Refused(ResponseCode),
    /// One of the two families has no answer, while the other family has an answer.
    #[error("{records}: {fault}")]
    OneFamily {
        /// The type of its records.
        records: &'static str,
        /// The fault of its question.
        fault: Box<DnsFault>,
    },
    /// No file names a resolver, and the question to this host, the default, failed.
    #[error("{0}; {RESOLV_CONF} names no resolver, so 127.0.0.1 was queried")]
    ByDefault(Box<DnsFault>),
    /// The files that name the system's resolvers could not be read in time.
    #[error("{RESOLV_CONF} and {HOSTS} could not be read within {} s: does their file system hang?", FILE_PATIENCE.as_secs())]
    Unread,
    /// The file that names the system's resolvers cannot be read.
    #[error("{RESOLV_CONF} cannot be read: {0}{hint}", hint = landlock::hint(.0))]
    ResolvConf(#[source] Arc<io::Error>),
    /// The question could not be sent, or the answer could not be read.
    #[error("the resolver cannot be queried: {0}")]
    Net(#[source] NetError),
}

impl From<NetError> for DnsFault {
    fn from(error: NetError) -> Self {
        match error {
            error if error.is_nx_domain() => Self::NoName,
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Refused(code),
            NetError::Timeout => Self::Timeout,
            error => Self::Net(error),
        }
    }
}

/// The fault of a file that gives no backends.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The file cannot be opened or read, or is not a regular file.
    #[error("it cannot be read: {0}{hint}", hint = landlock::hint(.0))]
    Unreadable(#[source] io::Error),
    /// The file is larger than 4 MiB.
    #[error("it is larger than 4 MiB")]
    TooLarge,
    /// The content of the file is wrong.
    #[error(transparent)]
    Document(#[from] DocumentFault),
}
