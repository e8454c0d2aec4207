//! The answers of the DNS to single questions.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::fault::DnsFault;

/// The result of one question.
pub(in crate::pool) type Heard<T> = Result<Answer<T>, DnsFault>;

/// The records of an answer, perhaps none, and the time for which they count.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Answer<T> {
    pub(in crate::pool) records: Vec<T>,
    pub(in crate::pool) ttl: Duration,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SrvRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// The name of the host, in lower case and without the final dot.
    pub(super) target: Arc<str>,
}

/// The answers for a name that have come. `None` is a family without an answer yet.
#[derive(Debug)]
pub(in crate::pool) struct Part {
    /// The whole name that was queried. With a search list, it is the name that has addresses.
    pub(super) name: Arc<str>,
    pub(in crate::pool) v4: Option<Heard<IpAddr>>,
    pub(in crate::pool) v6: Option<Heard<IpAddr>>,
}

/// The answer of the late family of a name.
pub(in crate::pool) type Late = Pin<Box<dyn Future<Output = Part> + Send>>;
