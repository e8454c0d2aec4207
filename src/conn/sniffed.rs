//! A client whose first bytes were read, as far as its listener needs them.

use std::borrow::Cow;

use super::refusal::RefusalProtocol;
use crate::limit::GateShare;
use crate::route::HelloFacts;
use crate::snapshot::opening_policy::GreetingPolicy;
use crate::sys::Stream;
use crate::telemetry::CloseReason;
use crate::wire::postgres::Startup;
use crate::wire::{ClientHello, DetectedProtocol, TunnelRequest};

/// The kind of service that a client requests.
pub(super) enum Intent {
    /// The route of its server name, or the target of clients without a server name.
    Name,
    /// A session of PostgreSQL without TLS.
    Plaintext(Startup),
    /// The cancellation of a query in another session.
    Cancel,
    /// A protocol that was detected by its first bytes.
    Spoken(DetectedProtocol),
    /// Nothing: the client waits for the server to send first.
    Silent,
    /// A tunnel to a host.
    Tunnel(TunnelRequest),
}

/// A client and its first bytes.
pub(super) struct SniffedClient {
    pub(super) client: Stream,
    /// The bytes that the backend is sent first.
    pub(super) bytes: Vec<u8>,
    pub(super) facts: HelloFacts,
    /// The form of the hello, if `bytes` are a hello.
    pub(super) hello: Option<HelloForm>,
    /// The service that the client requests.
    pub(super) intent: Intent,
    /// The exchange that its backend requires before these bytes.
    pub(super) greet: Option<GreetingPolicy>,
    /// The form of a refusal.
    pub(super) refusal: RefusalProtocol,
    /// The share of the hello memory that the bytes hold, if the bytes did not come with the first read.
    pub(super) _memory: Option<GateShare>,
}

/// The form in which a hello arrived.
#[derive(Clone, Copy)]
pub(super) struct HelloForm {
    pub(super) records: u32,
    /// The size of the message in bytes.
    pub(super) size: usize,
    /// The number of reads that returned bytes.
    pub(super) segments: u32,
}

impl SniffedClient {
    /// Returns a client that sent `bytes` and no hello.
    pub(super) fn new(client: Stream, bytes: Vec<u8>, intent: Intent, refusal: RefusalProtocol) -> Self {
        let (facts, hello, greet, _memory) = (HelloFacts::default(), None, None, None);
        Self { client, bytes, facts, hello, intent, greet, refusal, _memory }
    }

    /// Returns the message of the hello, or `None` if no hello was read.
    pub(super) fn message(&self) -> Option<Cow<'_, [u8]>> {
        let HelloForm { records, size, .. } = self.hello?;
        Some(ClientHello { server_name: None, records, size }.message(&self.bytes))
    }

    /// Returns true if the client has sent a byte for the backend, read or not.
    pub(super) fn has_bytes(&self) -> bool {
        !self.bytes.is_empty() || self.client.has_unread()
    }

    /// Closes a client that cannot be served, with a message if its protocol has a form for it.
    pub(super) async fn refuse(self, reason: CloseReason) -> CloseReason {
        self.refusal.refuse(&self.client, reason).await
    }
}
