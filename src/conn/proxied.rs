//! Reads the PROXY header before a client's own bytes, at listeners that trust the peer to name the client.
//!
//! The header is read before everything else. Bytes that arrived after the header in the same segment are
//! handed on with the socket; nothing is read twice and nothing is lost.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::accepted::HeldPolicy;
use super::context::WorkerContext;
use super::reading::{self, EarlyEnd, FirstBytes};
use super::record::ConnectionRecord;
use super::{admission, list_access};
use crate::executor::timeout;
use crate::snapshot::{Policy, ProxyMode, ProxySpec};
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, ProxyOutcome};
use crate::wire::proxy_protocol::{self, HeaderFault, HeaderSearch, LONGEST_V2, ProxyHeader};

/// The most bytes that are read at once. So at most this many bytes come after a header.
const CHUNK: usize = 2048;

/// A client after the search for a PROXY header.
pub(super) struct ProxiedClient {
    pub(super) client: OwnedFd,
    /// The bytes that came after the header, at most [`CHUNK`], or more if they were read before.
    pub(super) first: FirstBytes,
    pub(super) header: Option<Arc<ProxyHeader>>,
    /// The bytes of the header. They are kept until the first bytes after them are read.
    pub(super) header_bytes: Vec<u8>,
}

impl ProxiedClient {
    /// Returns a client without a header.
    fn plain(client: OwnedFd, first: FirstBytes) -> Self {
        Self { client, first, header: None, header_bytes: Vec::new() }
    }

    /// Returns a client that was admitted by its header before. The header is read again for its values.
    fn admitted(client: OwnedFd, mut first: FirstBytes) -> Self {
        let header_bytes: Vec<u8> = first.bytes.drain(..first.header.min(first.bytes.len())).collect();
        let header = match proxy_protocol::read(&header_bytes) {
            Ok(Some(HeaderSearch::Header(header, _))) => Some(Arc::new(header)),
            _ => None,
        };
        Self { client, first, header, header_bytes }
    }
}

/// If the listener expects a header, reads the header and admits the client that it names.
pub(super) async fn read(
    client: OwnedFd,
    first: FirstBytes,
    policy: &mut HeldPolicy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<ProxiedClient, EarlyEnd> {
    if first.header > 0 {
        return Ok(ProxiedClient::admitted(client, first));
    }
    let Some(spec) = &policy.current.proxy else { return Ok(ProxiedClient::plain(client, first)) };
    // Boxed, as most listeners read no header and need no memory for it.
    let proxied = Box::pin(search(client, first, spec, record, context)).await?;
    policy.refresh(&context.snapshot.load());
    Ok(admit(proxied, &policy.current, record, context).await?)
}

/// Admits or refuses the client. Its address may come from a header.
async fn admit(
    proxied: ProxiedClient,
    policy: &Policy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<ProxiedClient, CloseReason> {
    if let Err(reason) = list_access::client(record.client(), policy) {
        // Boxed, as hardly any connection needs this memory.
        return Err(Box::pin(list_access::refuse(proxied.client, reason, policy)).await);
    }
    match admission::source(proxied.header.as_deref(), policy, record, context) {
        Ok(()) => Ok(proxied),
        Err(reason) => {
            admission::refuse_early(proxied.client, reason, policy, context);
            Err(reason)
        }
    }
}

/// Searches for a header in the mode of the listener, and records the client that it names.
async fn search(
    client: OwnedFd,
    first: FirstBytes,
    spec: &ProxySpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<ProxiedClient, EarlyEnd> {
    if !spec.trusted.contains(record.client()) {
        record.proxy_header(ProxyOutcome::Untrusted);
        let plain = ProxiedClient::plain(client, first);
        return Ok(without(plain, CloseReason::ProxyUntrusted, spec.mode, record)?);
    }
    let mut reading = HeaderReading { bytes: first.bytes, context };
    let found = match reading.first(&client) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            let stream = reading::register(client)?;
            let wait = spec.timeout.saturating_sub(record.age());
            let entry = record.entry().share();
            let found = tokio::select! {
                biased;
                found = timeout(wait, reading.rest(&stream)) => found.unwrap_or(Err(HeaderStop::Timeout)),
                () = entry.handed_over() => return Err(EarlyEnd::moved(stream, reading.bytes, None)),
            };
            return Ok(finish(stream.into_fd(), reading.bytes, found, spec.mode, record)?);
        }
        Err(stopped) => Err(stopped),
    };
    Ok(finish(client, reading.bytes, found, spec.mode, record)?)
}

/// Continues with the result of the search for a header.
fn finish(
    client: OwnedFd,
    mut bytes: Vec<u8>,
    found: Result<HeaderSearch, HeaderStop>,
    mode: ProxyMode,
    record: &mut ConnectionRecord,
) -> Result<ProxiedClient, CloseReason> {
    let is_silent = bytes.is_empty();
    let (outcome, reason) = match found {
        Ok(HeaderSearch::Header(header, length)) => {
            let header_bytes = bytes.drain(..length).collect();
            record.proxied(&header);
            let first = FirstBytes { bytes, ..FirstBytes::default() };
            return Ok(ProxiedClient { client, first, header: Some(Arc::new(header)), header_bytes });
        }
        Ok(HeaderSearch::Nothing) => {
            record.proxy_header(ProxyOutcome::Missing);
            let first = FirstBytes { bytes, ..FirstBytes::default() };
            return without(ProxiedClient::plain(client, first), CloseReason::ProxyMissing, mode, record);
        }
        // The client may wait for the server to send first, or have nothing to send.
        Err(HeaderStop::Timeout | HeaderStop::End) if is_silent && mode != ProxyMode::Require => {
            record.proxy_header(ProxyOutcome::Missing);
            let plain = ProxiedClient::plain(client, FirstBytes::default());
            return without(plain, CloseReason::ProxyMissing, mode, record);
        }
        Err(HeaderStop::End | HeaderStop::Reset) if is_silent => return Err(CloseReason::NoData),
        Err(HeaderStop::End | HeaderStop::Reset) => (ProxyOutcome::Truncated, CloseReason::ProxyTruncated),
        Err(HeaderStop::Timeout) => (ProxyOutcome::Timeout, CloseReason::ProxyTimeout),
        Err(HeaderStop::Memory) => return Err(refuse(&client, CloseReason::HelloMemory)),
        Err(HeaderStop::Fault(fault)) => {
            tracing::debug!(peer = %record.client(), %fault, "a PROXY header is malformed");
            match fault {
                HeaderFault::Checksum => (ProxyOutcome::Checksum, CloseReason::ProxyChecksum),
                _ => (ProxyOutcome::Malformed, CloseReason::ProxyMalformed),
            }
        }
    };
    record.proxy_header(outcome);
    Err(refuse(&client, reason))
}

/// Continues without a header, unless one is required.
fn without(
    proxied: ProxiedClient,
    reason: CloseReason,
    mode: ProxyMode,
    record: &mut ConnectionRecord,
) -> Result<ProxiedClient, CloseReason> {
    match mode {
        ProxyMode::Require => {
            tracing::debug!(peer = %record.client(), %reason, "a peer is refused for its PROXY header");
            Err(refuse(&proxied.client, reason))
        }
        ProxyMode::Shadow => {
            record.shadow(reason);
            Ok(proxied)
        }
        ProxyMode::Accept => Ok(proxied),
    }
}

fn refuse(client: &OwnedFd, reason: CloseReason) -> CloseReason {
    let _ = socket::reset_on_close(client);
    reason
}

/// The reason for which the search for a header ended without a result.
enum HeaderStop {
    /// The peer sent a FIN.
    End,
    /// The peer reset the connection.
    Reset,
    /// The rest of the header did not come in time.
    Timeout,
    /// The hello memory of the process is full.
    Memory,
    /// The bytes are no acceptable header.
    Fault(HeaderFault),
}

/// A header that is being read.
struct HeaderReading<'a> {
    /// All bytes that the peer has sent.
    bytes: Vec<u8>,
    context: &'a WorkerContext,
}

impl HeaderReading<'_> {
    /// Reads the bytes that have arrived, before the socket is registered. Mostly these are the whole header.
    fn first(&mut self, client: &OwnedFd) -> Result<Option<HeaderSearch>, HeaderStop> {
        if !self.bytes.is_empty() {
            return self.parse();
        }
        let read = self.context.engines.with_buffer(|buffer| {
            let room = CHUNK.min(buffer.len());
            let read = socket::recv(client, &mut buffer[..room])?;
            self.bytes.extend_from_slice(&buffer[..read]);
            Ok(read)
        });
        match read {
            Ok(0) => Err(HeaderStop::End),
            Ok(_) => self.parse(),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(HeaderStop::Reset),
        }
    }

    /// Reads until the header is whole, or it is certain that the client sends no header.
    async fn rest(&mut self, client: &Stream) -> Result<HeaderSearch, HeaderStop> {
        let mut memory = None;
        loop {
            if memory.is_none() && !self.bytes.is_empty() {
                // The reader needs at most the longest header, so it holds at most this header and one chunk.
                let share = self.context.bounds.hello_memory.share((LONGEST_V2 + CHUNK) as u64);
                memory = Some(share.ok_or(HeaderStop::Memory)?);
            }
            match self.recv(client).await {
                Ok(0) => return Err(HeaderStop::End),
                Ok(_) => {}
                Err(_) => return Err(HeaderStop::Reset),
            }
            if let Some(found) = self.parse()? {
                return Ok(found);
            }
        }
    }

    fn parse(&self) -> Result<Option<HeaderSearch>, HeaderStop> {
        proxy_protocol::read(&self.bytes).map_err(HeaderStop::Fault)
    }

    async fn recv(&mut self, client: &Stream) -> io::Result<usize> {
        let Self { bytes, context } = self;
        reading::recv(client, &context.engines, CHUNK, |read| bytes.extend_from_slice(read)).await
    }
}
