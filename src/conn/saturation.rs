//! Counts refusals for the limits that caused them.

use std::sync::Arc;

use super::context::WorkerContext;
use crate::limit::{Link, Moment, SourceName};
use crate::sys::Address;
use crate::telemetry::{Saturation, SaturationScope};

/// The connection that a limit refused.
pub(super) struct RefusedConnection<'a> {
    pub(super) client: &'a Address,
    /// The private link that the connection counts for, if its listener counts by links.
    pub(super) link: Option<&'a Arc<Link>>,
    pub(super) listener: &'a Arc<str>,
    /// The last pool that was to serve the connection.
    pub(super) pool: Option<Arc<str>>,
}

impl RefusedConnection<'_> {
    /// Counts the refusal for the limit that caused it. Every refused connection comes here once.
    pub(super) fn note(&self, kind: Saturation, context: &WorkerContext) {
        let thing = match kind.scope() {
            SaturationScope::Process => None,
            SaturationScope::Listener => Some(self.listener),
            SaturationScope::Pool => self.pool.as_ref(),
        };
        context.bounds.saturation.note(kind, thing, self.source(context), Moment::now());
    }

    /// The source that the refusal is counted for: the private link where the listener counts by links, else the
    /// client's network; `None` for a client of a Unix socket.
    fn source(&self, context: &WorkerContext) -> Option<SourceName> {
        let prefix = context.bounds.saturation.prefix();
        match self.link {
            Some(link) => Some(SourceName::Link(Arc::clone(link))),
            None => self.client.tcp().map(|address| SourceName::of(address.ip(), prefix)),
        }
    }
}
