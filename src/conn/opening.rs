//! Talks with clients that do not begin with a ClientHello, up to where they do, and with backends that must
//! first be asked for one.

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
use crate::snapshot::opening::{GreetingPolicy, OpeningPolicy};
use crate::snapshot::{HelloSpec, RouteTarget};
use crate::sys::Stream;
use crate::telemetry::{ClientOpening, CloseReason};
use crate::wire::opening::{Farewell, OpeningFault, OpeningOutcome, OpeningStep};
use crate::wire::postgres::Startup;
use crate::wire::proxy_protocol::begins_like_one;
use crate::wire::{DetectedProtocol, Opening};

/// What a client asks for.
pub(super) enum Intent {
    /// What its server name says, or its lack of one.
    Name,
    /// A session of PostgreSQL without TLS.
    Plaintext(Startup),
    /// That a query of another session ends.
    Cancel,
    /// A protocol, told by its first bytes.
    Spoken(DetectedProtocol),
    /// That the server speaks.
    Silent,
}

/// Where a client without a hello goes; `None` for one that is routed by its hello.
pub(super) fn target<'f>(
    front: &'f OpeningPolicy,
    intent: &Intent,
) -> Option<Result<&'f RouteTarget, CloseReason>> {
    // A reload may have changed the listener meanwhile: what it no longer knows it does not take.
    let (target, or) = match (front, intent) {
        (_, Intent::Name) => return None,
        (OpeningPolicy::Postgres(front), Intent::Plaintext(startup)) => {
            (front.plaintext(&startup.user, &startup.database), CloseReason::PlaintextRefused)
        }
        (_, Intent::Plaintext(_)) => (None, CloseReason::PlaintextRefused),
        (OpeningPolicy::Postgres(front), Intent::Cancel) => {
            (front.cancel.as_ref(), CloseReason::CancelRefused)
        }
        (_, Intent::Cancel) => (None, CloseReason::CancelRefused),
        (OpeningPolicy::Detect(front), Intent::Spoken(spoken)) => {
            (front.target(*spoken), CloseReason::UnknownProtocol)
        }
        (OpeningPolicy::Detect(front), Intent::Silent) => {
            (front.on_timeout.as_ref(), CloseReason::FirstByteTimeout)
        }
        (_, Intent::Spoken(_)) => (None, CloseReason::UnknownProtocol),
        (_, Intent::Silent) => (None, CloseReason::FirstByteTimeout),
    };
    Some(target.ok_or(or))
}

/// Plays the server until the client begins TLS, or goes on without; then reads its hello.
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
    let has_heard = !bytes.is_empty();
    let mut talk =
        OpeningExchange { client: &client, opening: &mut opening, context, memory: None, has_heard };
    let opened = if is_much {
        Err(OpeningStop::Fault(OpeningFault::TooLong))
    } else {
        timeout_at(deadline, talk.hold(spec)).await.unwrap_or(Err(OpeningStop::Timeout))
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(stopped) => return Err(talk.close(stopped, record).await),
    };
    let memory = talk.memory.take().map(|(share, _)| share);
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
            sniff::hello_behind(client, opening.into_heard(), spec, record, context).await
        }
        OpeningOutcome::Plaintext(startup) => {
            let intent = Intent::Plaintext(startup);
            Ok(SniffedClient::other(client, opening.into_heard(), intent, RefusalProtocol::Postgres)
                .holding(memory))
        }
        OpeningOutcome::Cancel => {
            let bytes = opening.into_heard();
            Ok(SniffedClient::other(client, bytes, Intent::Cancel, RefusalProtocol::Nothing).holding(memory))
        }
    }
}

/// What a message takes that is not yet whole; nearly all are shorter.
const FIRST_SHARE: usize = 2048;

/// A talk with a client.
struct OpeningExchange<'t> {
    client: &'t Stream,
    opening: &'t mut Opening,
    context: &'t WorkerContext,
    /// What an unfinished message takes of the memory of all hellos.
    memory: Option<(GateShare, u64)>,
    has_heard: bool,
}

/// Why it stopped.
enum OpeningStop {
    Fault(OpeningFault),
    /// The client began with a PROXY header.
    Header,
    /// The client left.
    Gone,
    /// It did not come to TLS in time.
    Timeout,
    /// A message that had begun did not become whole in time.
    Unfinished,
    /// The process holds as many bytes of such messages as it may.
    Memory,
}

impl OpeningExchange<'_> {
    async fn hold(&mut self, spec: &HelloSpec) -> Result<OpeningOutcome, OpeningStop> {
        let mut begun = None;
        loop {
            match self.opening.go_on().map_err(OpeningStop::Fault)? {
                OpeningStep::Say(words) => {
                    send_all(self.client, &words).await.map_err(|_| OpeningStop::Gone)?;
                }
                OpeningStep::Over(opened) => return Ok(opened),
                OpeningStep::Read if self.opening.heard().is_empty() => {
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

    /// Takes a share of the memory of all hellos for a message that has begun.
    fn account(&mut self) -> Result<(), OpeningStop> {
        let held = self.opening.heard().len();
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
        if !self.has_heard && begins_like_one(self.opening.heard()) {
            return Err(OpeningStop::Header);
        }
        self.has_heard = true;
        Ok(())
    }

    /// Ends it, with the last words that are not yet said.
    async fn close(&self, stopped: OpeningStop, record: &ConnectionRecord) -> CloseReason {
        let farewell = |farewell| self.opening.farewell(farewell);
        let (words, reason) = match stopped {
            OpeningStop::Gone => return self.gone(),
            OpeningStop::Header => return refusal::unexpected_header(self.client, record),
            OpeningStop::Fault(fault) => (Cow::default(), reason(fault)),
            OpeningStop::Timeout if !self.has_heard => {
                (farewell(Farewell::Timeout), CloseReason::FirstByteTimeout)
            }
            OpeningStop::Timeout | OpeningStop::Unfinished => {
                (farewell(Farewell::Timeout), CloseReason::OpeningTimeout)
            }
            OpeningStop::Memory => (farewell(Farewell::Busy), CloseReason::HelloMemory),
        };
        refusal::dismiss(self.client, &words).await;
        reason
    }

    fn gone(&self) -> CloseReason {
        if self.has_heard { CloseReason::LeftBeforeTls } else { CloseReason::NoData }
    }
}

/// The reason that a fault of a client is.
fn reason(fault: OpeningFault) -> CloseReason {
    match fault {
        OpeningFault::Pipelined => CloseReason::PipelinedBeforeTls,
        OpeningFault::Malformed | OpeningFault::TooLong => CloseReason::OpeningMalformed,
        OpeningFault::TooMany => CloseReason::TooManyCommands,
        OpeningFault::Quit => CloseReason::LeftBeforeTls,
        // Words of backends.
        OpeningFault::Refused | OpeningFault::Unexpected => CloseReason::Internal,
    }
}

/// Why a backend is not ready for a hello.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReady {
    /// The connection broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What it said, or did not say.
    #[error(transparent)]
    Fault(#[from] OpeningFault),
}

/// Plays the client of a backend until it is ready for the hello.
pub(super) async fn greet(backend: &Stream, greet: &GreetingPolicy) -> Result<(), NotReady> {
    /// Answers have some hundred bytes.
    const PIECE: usize = 1024;
    let mut opening = Opening::guest(&greet.greeting);
    loop {
        match opening.go_on().map_err(NotReady::Fault)? {
            OpeningStep::Say(words) => send_all(backend, &words).await?,
            OpeningStep::Over(_) => return Ok(()),
            OpeningStep::Read => {
                let read = poll_fn(|cx| {
                    // Memory that is there only while there is something to read.
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
