//! Reads the first bytes of a client in the protocol of its listener.
//!
//! The bytes are read and kept, not peeked at: the backend gets them verbatim.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::accepted::HeldPolicy;
use super::context::WorkerContext;
use super::proxied::ProxiedClient;
use super::reading::{self, EarlyEnd, FirstBytes};
use super::record::ConnectionRecord;
use super::refusal::RefusalProtocol;
use super::sniffed::{Intent, SniffedClient};
use super::{detect, exchange, hello};
use crate::snapshot::opening_policy::OpeningPolicy;
use crate::snapshot::{Policy, Protocol};
use crate::telemetry::CloseReason;
use crate::wire::{BackendGreeting, Opening};

/// Reads the first bytes of a client, if its listener reads any.
pub(super) async fn read(
    proxied: ProxiedClient,
    policy: &mut HeldPolicy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let ProxiedClient { client, first, header, header_bytes } = proxied;
    let mut sniffed = match &policy.current.protocol {
        Protocol::Tcp(_) => {
            let client = reading::register(client)?;
            SniffedClient::new(client, first.bytes, Intent::Silent, RefusalProtocol::Reset)
        }
        Protocol::Tunnel(_) | Protocol::Tls(_) => {
            let sniffed = first_bytes(client, first, &policy.current, record, context).await;
            let sniffed = sniffed.map_err(|end| end.behind(header_bytes))?;
            record.was_read();
            policy.refresh(&context.snapshot.load());
            sniffed
        }
    };
    sniffed.facts.proxy = header;
    Ok(sniffed)
}

/// Reads the first bytes of a client in the protocol of its listener.
async fn first_bytes(
    client: OwnedFd,
    first: FirstBytes,
    policy: &Policy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let spec = policy.protocol.first_bytes().ok_or(CloseReason::Internal)?;
    if let Protocol::Tunnel(tunnel) = &policy.protocol {
        // Boxed, as are the protocols below: they are rarer than a plain hello, and their futures are larger.
        let exchange =
            exchange::open(client, first.bytes, tunnel.opening.begin(), None, spec, record, context);
        return Box::pin(exchange).await;
    }
    match &policy.opening {
        OpeningPolicy::Straight => hello::read(client, first, spec, record, context).await,
        OpeningPolicy::Postgres(postgres) => {
            let (opening, greet) = (Opening::postgres_host(), Some(&postgres.greet));
            Box::pin(exchange::open(client, first.bytes, opening, greet, spec, record, context)).await
        }
        OpeningPolicy::Starttls(greet) => {
            let BackendGreeting::Starttls { protocol, name } = &greet.greeting else {
                return Err(CloseReason::Internal.into());
            };
            let (opening, greet) = (Opening::starttls_host(*protocol, Arc::clone(name)), Some(&**greet));
            Box::pin(exchange::open(client, first.bytes, opening, greet, spec, record, context)).await
        }
        OpeningPolicy::Detect(detect) => {
            Box::pin(detect::read(client, first, detect, spec, record, context)).await
        }
    }
}
