//! Runs the opening of a protocol with clients whose first bytes are not a ClientHello, up to the ClientHello or to a
//! request for a tunnel.

use std::borrow::Cow;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::context::WorkerContext;
use super::hello;
use super::reading::{self, EarlyEnd, FirstBytes};
use super::record::ConnectionRecord;
use super::refusal::{self, RefusalProtocol};
use super::sniffed::{Intent, SniffedClient};
use crate::executor::timeout_at;
use crate::limit::GateShare;
use crate::route::HelloFacts;
use crate::snapshot::HelloSpec;
use crate::snapshot::opening_policy::GreetingPolicy;
use crate::sys::Stream;
use crate::telemetry::{ClientOpening, CloseReason};
use crate::wire::opening::{Farewell, OpeningFault, OpeningOutcome, OpeningStep};
use crate::wire::proxy_protocol::begins_like_one;
use crate::wire::{Opening, TunnelProtocol};

/// Acts as the server until the client begins TLS, continues without TLS or requests a tunnel. Reads the hello of a
/// client that begins with TLS, whose backend needs the exchange `greet`.
pub(super) async fn open(
    client: OwnedFd,
    bytes: Vec<u8>,
    opening: Opening,
    greet: Option<&GreetingPolicy>,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let client = reading::register(client)?;
    open_registered(client, bytes, opening, greet, spec, record, context).await
}

/// Acts as [`open`] does, for a client whose socket is registered.
pub(super) async fn open_registered(
    client: Stream,
    bytes: Vec<u8>,
    mut opening: Opening,
    greet: Option<&GreetingPolicy>,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let deadline = Instant::now() + spec.first_byte_timeout.saturating_sub(record.age());
    if begins_like_one(&bytes) {
        return Err(refusal::unexpected_header(&client, record).into());
    }
    let entry = record.entry().share();
    let has_answered = Cell::new(false);
    let mut exchange = OpeningExchange::new(&client, &mut opening, &bytes, &has_answered, context);
    let opened = tokio::select! {
        biased;
        opened = timeout_at(deadline, exchange.run(&bytes, spec)) => opened.unwrap_or(Err(OpeningStop::Timeout)),
        () = entry.handed_over_if(|| !has_answered.get()) => {
            return Err(EarlyEnd::moved(client, opening.into_received(), None));
        }
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(stopped) => return Err(exchange.close(stopped, record).await.into()),
    };
    let memory = exchange.memory.take().map(|(share, _)| share);
    record.opened(client_opening(&opened));
    match opened {
        OpeningOutcome::Tls => {
            let sniffed = hello::read_behind(client, Vec::new(), spec, record, context).await?;
            Ok(SniffedClient { greet: greet.cloned(), ..sniffed })
        }
        // The reading of a hello takes its own share of the hello memory.
        OpeningOutcome::DirectTls => {
            let first = FirstBytes { bytes: opening.into_received(), ..FirstBytes::default() };
            hello::read_on(client, first, spec, record, context).await
        }
        opened => {
            let sniffed = without_hello(client, opening.into_received(), opened, record);
            Ok(SniffedClient { _memory: memory, ..sniffed })
        }
    }
}

/// Returns a client that sends no hello, or sends it in a tunnel. `bytes` are its first bytes for the backend.
fn without_hello(
    client: Stream,
    bytes: Vec<u8>,
    opened: OpeningOutcome,
    record: &mut ConnectionRecord,
) -> SniffedClient {
    let (intent, refusal) = match opened {
        OpeningOutcome::Plaintext(startup) => (Intent::Plaintext(startup), RefusalProtocol::Postgres),
        OpeningOutcome::Cancel => (Intent::Cancel, RefusalProtocol::Nothing),
        OpeningOutcome::Tunnel(request) => {
            record.requested(&request.target);
            let refusal = RefusalProtocol::Tunnel(request.protocol);
            let facts = HelloFacts { server_name: request.target.host.name().cloned(), proxy: None };
            let sniffed = SniffedClient::new(client, bytes, Intent::Tunnel(request), refusal);
            return SniffedClient { facts, ..sniffed };
        }
        OpeningOutcome::Tls | OpeningOutcome::DirectTls => (Intent::Name, RefusalProtocol::Tls),
    };
    SniffedClient::new(client, bytes, intent, refusal)
}

/// Returns the form in which an opening is counted.
fn client_opening(outcome: &OpeningOutcome) -> ClientOpening {
    match outcome {
        OpeningOutcome::Tls => ClientOpening::Upgraded,
        OpeningOutcome::DirectTls => ClientOpening::Tls,
        OpeningOutcome::Plaintext(_) => ClientOpening::Plaintext,
        OpeningOutcome::Cancel => ClientOpening::Cancel,
        OpeningOutcome::Tunnel(request) => match request.protocol {
            TunnelProtocol::Socks5 => ClientOpening::Socks5,
            TunnelProtocol::Socks4 => ClientOpening::Socks4,
            TunnelProtocol::Connect => ClientOpening::Connect,
        },
    }
}

/// The memory, in bytes, granted to an incomplete message at first. Nearly all messages are shorter.
const FIRST_SHARE: usize = 2048;

/// The exchange of messages with a client.
struct OpeningExchange<'t> {
    client: &'t Stream,
    opening: &'t mut Opening,
    context: &'t WorkerContext,
    /// The share of the hello memory that an incomplete message holds, and the size of this share.
    memory: Option<(GateShare, u64)>,
    has_received: bool,
    /// True once the client was sent a message.
    has_answered: &'t Cell<bool>,
}

/// The reason for the end of an exchange.
enum OpeningStop {
    Fault(OpeningFault),
    /// The first bytes of the client are a PROXY header.
    Header,
    /// The client ended.
    Gone,
    /// The client did not begin TLS in time.
    Timeout,
    /// The rest of a message did not come in time.
    Unfinished,
    /// The hello memory of the process is full.
    Memory,
}

impl<'t> OpeningExchange<'t> {
    /// Returns the exchange with a client that has sent these bytes.
    fn new(
        client: &'t Stream,
        opening: &'t mut Opening,
        bytes: &[u8],
        has_answered: &'t Cell<bool>,
        context: &'t WorkerContext,
    ) -> Self {
        Self { client, opening, context, memory: None, has_received: !bytes.is_empty(), has_answered }
    }

    /// Runs the opening, which begins with bytes that were read before.
    async fn run(&mut self, bytes: &[u8], spec: &HelloSpec) -> Result<OpeningOutcome, OpeningStop> {
        if bytes.len() > self.opening.room() {
            return Err(OpeningStop::Fault(OpeningFault::TooLong));
        }
        self.opening.receive(bytes);
        let mut begun = None;
        loop {
            match self.opening.go_on().map_err(OpeningStop::Fault)? {
                OpeningStep::Say(message) => {
                    self.has_answered.set(true);
                    self.client.send_all(&message).await.map_err(|_| OpeningStop::Gone)?;
                }
                OpeningStep::Over(opened) => return Ok(opened),
                OpeningStep::Read if self.opening.received().is_empty() => {
                    begun = None;
                    self.memory = None;
                    self.read().await?;
                }
                OpeningStep::Read => {
                    self.account()?;
                    let deadline = *begun.get_or_insert_with(Instant::now) + spec.hello_timeout;
                    timeout_at(deadline, self.read()).await.map_err(|_| OpeningStop::Unfinished)??;
                }
            }
        }
    }

    /// Takes a share of the hello memory for a message that has begun.
    fn account(&mut self) -> Result<(), OpeningStop> {
        let held = self.opening.received().len();
        let wanted = if held <= FIRST_SHARE { FIRST_SHARE } else { self.opening.most() } as u64;
        let granted = match &mut self.memory {
            Some((_, granted)) if *granted >= wanted => return Ok(()),
            Some((share, granted)) => {
                let grown = share.grow(wanted - *granted);
                *granted = wanted;
                grown
            }
            none => {
                *none = self.context.bounds.hello_memory.share(wanted).map(|share| (share, wanted));
                none.is_some()
            }
        };
        if granted { Ok(()) } else { Err(OpeningStop::Memory) }
    }

    async fn read(&mut self) -> Result<(), OpeningStop> {
        let (room, opening) = (self.opening.room(), &mut *self.opening);
        let read = reading::recv(self.client, &self.context.engines, room, |read| opening.receive(read));
        if !matches!(read.await, Ok(1..)) {
            return Err(OpeningStop::Gone);
        }
        if !self.has_received && begins_like_one(self.opening.received()) {
            return Err(OpeningStop::Header);
        }
        self.has_received = true;
        Ok(())
    }

    /// Ends the exchange. Sends the last message of the protocol, if the protocol has such a message.
    async fn close(&self, stopped: OpeningStop, record: &ConnectionRecord) -> CloseReason {
        let farewell = |farewell| self.opening.farewell(farewell);
        let (message, reason) = match stopped {
            OpeningStop::Gone => return self.gone(),
            OpeningStop::Header => return refusal::unexpected_header(self.client, record),
            OpeningStop::Fault(fault) => (Cow::default(), reason(fault)),
            OpeningStop::Timeout if !self.has_received => {
                (farewell(Farewell::Timeout), CloseReason::FirstByteTimeout)
            }
            OpeningStop::Timeout | OpeningStop::Unfinished => {
                (farewell(Farewell::Timeout), CloseReason::OpeningTimeout)
            }
            OpeningStop::Memory => (farewell(Farewell::Busy), CloseReason::HelloMemory),
        };
        refusal::dismiss(self.client, &message).await;
        reason
    }

    fn gone(&self) -> CloseReason {
        match (self.has_received, self.opening.is_for_tunnel()) {
            (false, _) => CloseReason::NoData,
            (true, true) => CloseReason::OpeningTruncated,
            (true, false) => CloseReason::LeftBeforeTls,
        }
    }
}

/// Returns the close reason for a fault of a client.
fn reason(fault: OpeningFault) -> CloseReason {
    match fault {
        OpeningFault::Pipelined => CloseReason::PipelinedBeforeTls,
        OpeningFault::Malformed | OpeningFault::TooLong => CloseReason::OpeningMalformed,
        OpeningFault::Unsupported => CloseReason::RequestUnsupported,
        OpeningFault::NoMethod => CloseReason::AuthMethodRefused,
        OpeningFault::BadHost => CloseReason::BadName,
        OpeningFault::TooMany => CloseReason::TooManyCommands,
        OpeningFault::Quit => CloseReason::LeftBeforeTls,
        // Only backends cause these.
        OpeningFault::Refused | OpeningFault::Unexpected => CloseReason::Internal,
    }
}
