//! Detects the protocol of a client by its first bytes.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::context::WorkerContext;
use super::exchange;
use super::hello::{self, HelloReading, HelloStop};
use super::reading::{self, EarlyEnd, FirstBytes};
use super::record::ConnectionRecord;
use super::refusal::{RefusalProtocol, unexpected_header};
use super::sniffed::{Intent, SniffedClient};
use crate::executor::{timeout, timeout_at};
use crate::snapshot::HelloSpec;
use crate::snapshot::opening_policy::DetectPolicy;
use crate::sys::Stream;
use crate::telemetry::{ClientOpening, CloseReason};
use crate::wire::{DetectedProtocol, first_bytes, proxy_protocol};

/// Detects the protocol of a client. If the protocol is TLS, reads the client's hello.
pub(super) async fn read(
    client: OwnedFd,
    first: FirstBytes,
    policy: &DetectPolicy,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let client = reading::register(client)?;
    // A client that another process or worker has read waits on.
    let begun = first.begun.unwrap_or_else(Instant::now);
    let wait = match policy.on_timeout {
        // The client gets the whole timeout, even if a PROXY header took long. The proxy caused that delay, not
        // the client.
        Some(_) => policy.timeout.saturating_sub(begun.elapsed()),
        None => spec.first_byte_timeout.saturating_sub(record.age()),
    };
    let mut reading = HelloReading::new(first, spec, context);
    let entry = record.entry().share();
    let spoken = tokio::select! {
        biased;
        spoken = detect(&client, &mut reading, spec, wait) => spoken?,
        () = entry.handed_over() => return Err(EarlyEnd::moved(client, reading.bytes, Some(begun))),
    };
    let Some(spoken) = spoken else {
        record.opened(ClientOpening::Silent);
        return Ok(SniffedClient::new(client, Vec::new(), Intent::Silent, RefusalProtocol::Reset));
    };
    if spoken == DetectedProtocol::Other && proxy_protocol::begins_like_one(&reading.bytes) {
        return Err(unexpected_header(&client, record).into());
    }
    let bytes = reading.bytes;
    if let Some(tunnel) = policy.tunnel(spoken) {
        // Boxed: the reading of a hello, which is more frequent, must not hold memory for it.
        let exchange = exchange::open_registered(client, bytes, tunnel.begin(), None, spec, record, context);
        return Box::pin(exchange).await;
    }
    let (opening, refusal) = forms(spoken);
    record.opened(opening);
    if spoken == DetectedProtocol::Tls {
        let first = FirstBytes { bytes, ..FirstBytes::default() };
        return hello::read_on(client, first, spec, record, context).await;
    }
    Ok(SniffedClient::new(client, bytes, Intent::Spoken(spoken), refusal))
}

/// Reads on until the bytes show the protocol. Returns `None` if no byte comes for `wait`.
///
/// This waits for a few bytes only, so it takes no share of the hello memory.
async fn detect(
    client: &Stream,
    reading: &mut HelloReading<'_>,
    spec: &HelloSpec,
    wait: Duration,
) -> Result<Option<DetectedProtocol>, CloseReason> {
    if reading.bytes.is_empty() {
        let Ok(first) = timeout(wait, reading.recv(client)).await else { return Ok(None) };
        if !matches!(first, Ok(1..)) {
            return Err(HelloStop::NoData.reason());
        }
    }
    let deadline = Instant::now() + spec.hello_timeout;
    loop {
        if let Some(spoken) = first_bytes::tell(&reading.bytes) {
            return Ok(Some(spoken));
        }
        match timeout_at(deadline, reading.recv(client)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(HelloStop::Truncated.reason()),
            Err(_) => return Err(HelloStop::HelloTimeout.reason()),
        }
    }
}

/// Returns the form in which a protocol is counted, and the form in which its clients are refused.
fn forms(spoken: DetectedProtocol) -> (ClientOpening, RefusalProtocol) {
    match spoken {
        DetectedProtocol::Tls => (ClientOpening::Tls, RefusalProtocol::Tls),
        DetectedProtocol::Ssh => (ClientOpening::Ssh, RefusalProtocol::Reset),
        DetectedProtocol::Http | DetectedProtocol::Connect => (ClientOpening::Http, RefusalProtocol::Http),
        DetectedProtocol::Postgres => (ClientOpening::Postgres, RefusalProtocol::Postgres),
        DetectedProtocol::Other | DetectedProtocol::Socks5 => (ClientOpening::Other, RefusalProtocol::Reset),
    }
}
