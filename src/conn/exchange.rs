//! Runs the opening of a protocol. With clients whose first bytes are not a ClientHello, it runs up to the
//! ClientHello. With backends that need a request for TLS, it runs up to TLS.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, ready};
use std::time::Instant;

use super::record::ConnectionRecord;
use super::refusal::{self, RefusalProtocol};
use super::sniff::{self, SniffedClient};
use super::{WorkerContext, reading};
use crate::executor::timeout_at;
use crate::limit::GateShare;
use crate::snapshot::opening_policy::{GreetingPolicy, OpeningPolicy};
use crate::snapshot::{HelloSpec, RouteTarget};
use crate::sys::Stream;
use crate::telemetry::{ClientOpening, CloseReason};
use crate::wire::opening::{Farewell, OpeningFault, OpeningOutcome, OpeningStep};
use crate::wire::postgres::Startup;
use crate::wire::proxy_protocol::begins_like_one;
use crate::wire::{DetectedProtocol, Opening};

/// The kind of service that a client requests.
pub(super) enum Intent {
    /// The route of its server name, or of the lack of one.
    Name,
    /// A session of PostgreSQL without TLS.
    Plaintext(Startup),
    /// The cancellation of a query in another session.
    Cancel,
    /// A protocol that was detected by its first bytes.
    Spoken(DetectedProtocol),
    /// Nothing: the client waits for the server to send first.
    Silent,
}

/// Returns the target of a client without a hello; `None` if the hello decides.
pub(super) fn target<'f>(
    policy: &'f OpeningPolicy,
    intent: &Intent,
) -> Option<Result<&'f RouteTarget, CloseReason>> {
    // A reload may have changed the listener since the client connected. An intent that it no longer serves
    // is refused.
    let (target, or) = match (policy, intent) {
        (_, Intent::Name) => return None,
        (OpeningPolicy::Postgres(policy), Intent::Plaintext(startup)) => {
            (policy.plaintext(&startup.user, &startup.database), CloseReason::PlaintextRefused)
        }
        (_, Intent::Plaintext(_)) => (None, CloseReason::PlaintextRefused),
        (OpeningPolicy::Postgres(policy), Intent::Cancel) => {
            (policy.cancel.as_ref(), CloseReason::CancelRefused)
        }
        (_, Intent::Cancel) => (None, CloseReason::CancelRefused),
        (OpeningPolicy::Detect(policy), Intent::Spoken(spoken)) => {
            (policy.target(*spoken), CloseReason::UnknownProtocol)
        }
        (OpeningPolicy::Detect(policy), Intent::Silent) => {
            (policy.on_timeout.as_ref(), CloseReason::FirstByteTimeout)
        }
        (_, Intent::Spoken(_)) => (None, CloseReason::UnknownProtocol),
        (_, Intent::Silent) => (None, CloseReason::FirstByteTimeout),
    };
    Some(target.ok_or(or))
}

/// Acts as the server until the client begins TLS, or continues without TLS. Reads the hello of a client that
/// begins with TLS.
pub(super) async fn open(
    client: OwnedFd,
    bytes: Vec<u8>,
    mut opening: Opening,
    greet: &GreetingPolicy,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, CloseReason> {
    let client = reading::register(client)?;
    let deadline = Instant::now() + spec.first_byte_timeout.saturating_sub(record.age());
    if begins_like_one(&bytes) {
        return Err(refusal::unexpected_header(&client, record));
    }
    let is_much = bytes.len() > opening.room();
    opening.receive(&bytes);
    let has_received = !bytes.is_empty();
    let mut exchange =
        OpeningExchange { client: &client, opening: &mut opening, context, memory: None, has_received };
    let opened = if is_much {
        Err(OpeningStop::Fault(OpeningFault::TooLong))
    } else {
        timeout_at(deadline, exchange.hold(spec)).await.unwrap_or(Err(OpeningStop::Timeout))
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(stopped) => return Err(exchange.close(stopped, record).await),
    };
    let memory = exchange.memory.take().map(|(share, _)| share);
    record.opened(match &opened {
        OpeningOutcome::Tls => ClientOpening::Upgraded,
        OpeningOutcome::DirectTls => ClientOpening::Tls,
        OpeningOutcome::Plaintext(_) => ClientOpening::Plaintext,
        OpeningOutcome::Cancel => ClientOpening::Cancel,
    });
    match opened {
        OpeningOutcome::Tls => {
            let mut sniffed = sniff::hello_behind(client, Vec::new(), spec, record, context).await?;
            sniffed.greet = Some(greet.clone());
            Ok(sniffed)
        }
        // The reading of a hello takes a share of its own.
        OpeningOutcome::DirectTls => {
            sniff::hello_behind(client, opening.into_received(), spec, record, context).await
        }
        OpeningOutcome::Plaintext(startup) => {
            let intent = Intent::Plaintext(startup);
            Ok(SniffedClient::other(client, opening.into_received(), intent, RefusalProtocol::Postgres)
                .holding(memory))
        }
        OpeningOutcome::Cancel => {
            let bytes = opening.into_received();
            Ok(SniffedClient::other(client, bytes, Intent::Cancel, RefusalProtocol::Nothing).holding(memory))
        }
    }
}

/// The memory, in bytes, granted to an incomplete message at first. Nearly all messages are shorter.
const FIRST_SHARE: usize = 2048;

/// The exchange of messages with a client.
struct OpeningExchange<'t> {
    client: &'t Stream,
    opening: &'t mut Opening,
    context: &'t WorkerContext,
    /// The share of the hello memory that an incomplete message holds, and its size.
    memory: Option<(GateShare, u64)>,
    has_received: bool,
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

impl OpeningExchange<'_> {
    async fn hold(&mut self, spec: &HelloSpec) -> Result<OpeningOutcome, OpeningStop> {
        let mut begun = None;
        loop {
            match self.opening.go_on().map_err(OpeningStop::Fault)? {
                OpeningStep::Say(message) => {
                    send_all(self.client, &message).await.map_err(|_| OpeningStop::Gone)?;
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
        if self.has_received { CloseReason::LeftBeforeTls } else { CloseReason::NoData }
    }
}

/// Returns the close reason for a fault of a client.
fn reason(fault: OpeningFault) -> CloseReason {
    match fault {
        OpeningFault::Pipelined => CloseReason::PipelinedBeforeTls,
        OpeningFault::Malformed | OpeningFault::TooLong => CloseReason::OpeningMalformed,
        OpeningFault::TooMany => CloseReason::TooManyCommands,
        OpeningFault::Quit => CloseReason::LeftBeforeTls,
        // Only backends cause these.
        OpeningFault::Refused | OpeningFault::Unexpected => CloseReason::Internal,
    }
}

/// The reason for which a backend is not ready for a hello.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReady {
    /// The connection broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The backend sent an unexpected message, or refused TLS.
    #[error(transparent)]
    Fault(#[from] OpeningFault),
}

/// Acts as a client of the backend until the backend is ready for the hello.
pub(super) async fn greet(backend: &Stream, greet: &GreetingPolicy) -> Result<(), NotReady> {
    /// The buffer for an answer. Answers have some hundred bytes.
    const PIECE: usize = 1024;
    let mut opening = Opening::client_role(&greet.greeting);
    loop {
        match opening.go_on().map_err(NotReady::Fault)? {
            OpeningStep::Say(message) => send_all(backend, &message).await?,
            OpeningStep::Over(_) => return Ok(()),
            OpeningStep::Read => {
                let read = poll_fn(|cx| {
                    // This memory is in use only while there are bytes to read.
                    let mut buffer = [0; PIECE];
                    let room = opening.room().min(PIECE);
                    let read = ready!(backend.poll_recv(cx, &mut buffer[..room]))?;
                    opening.receive(&buffer[..read]);
                    Poll::Ready(io::Result::Ok(read))
                });
                if read.await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}

async fn send_all(to: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = to.send(bytes).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}
