//! Reads the first bytes of a client, as far as its listener wants to know.
//!
//! The bytes are read and kept, not peeked at: the backend gets them verbatim.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use super::Surroundings;
use super::proxied::Announced;
use super::story::Story;
use crate::executor::{timeout, timeout_at};
use crate::limit::Share;
use crate::route::Facts;
use crate::snapshot::HelloSpec;
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, HelloOutcome, ProxyOutcome};
use crate::wire::{Alert, ClientHello, HelloFault, HelloReader, proxy_protocol};

/// A hello of today's browsers with its post-quantum key share fits.
const FIRST_READ: usize = 2048;

/// How long a client that was told an alert may still send before its socket is closed.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// How much of it is read.
const ALERT_DISCARD: usize = 256 * 1024;

/// A client and what it has said so far.
pub(super) struct Sniffed {
    pub(super) client: Stream,
    /// To be sent to the backend first.
    pub(super) bytes: Vec<u8>,
    pub(super) facts: Facts,
    /// Whether the client speaks TLS, so that a refusal can be said in its words.
    pub(super) speaks_tls: bool,
    /// What the bytes take of the memory of all hellos, if they did not come at once.
    _memory: Option<Share>,
}

impl Sniffed {
    /// A client that nothing more is read from.
    pub(super) fn nothing(Announced { client, bytes, header }: Announced) -> Result<Self, CloseReason> {
        let client = Stream::register(client).map_err(|_| CloseReason::Internal)?;
        let facts = Facts { proxy: header, ..Facts::default() };
        Ok(Self { client, bytes, facts, speaks_tls: false, _memory: None })
    }

    /// Closes a client that cannot be served: by an alert if it speaks TLS, else by a reset.
    pub(super) async fn refuse(self, reason: CloseReason) -> CloseReason {
        let alert = match reason {
            CloseReason::NoSni => Alert::MissingExtension,
            CloseReason::UnmatchedSni => Alert::UnrecognizedName,
            _ => Alert::InternalError,
        };
        if self.speaks_tls {
            dismiss(&self.client, alert).await;
        } else {
            let _ = socket::reset_on_close(&self.client);
        }
        reason
    }
}

/// Reads a whole ClientHello, within the listener's bounds.
pub(super) async fn client_hello(
    Announced { client, bytes, header }: Announced,
    spec: &HelloSpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Sniffed, CloseReason> {
    let held = bytes.len();
    let mut reading = Reading::new(bytes, spec, around);
    // It is nearly always there already.
    let first = match held {
        0 => match reading.recv_now(&client) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        },
        held => Some(Ok(held)),
    };
    let client = Stream::register(client).map_err(|_| CloseReason::Internal)?;
    let hello = match reading.read(&client, first, spec, story).await {
        Ok(hello) => hello,
        Err(stopped) => {
            story.not_heard(stopped.outcome());
            if matches!(stopped, Stopped::Fault(HelloFault::NotTls))
                && proxy_protocol::begins_like_one(&reading.bytes)
            {
                story.proxy_header(ProxyOutcome::Unexpected);
                let _ = socket::reset_on_close(&client);
                return Err(CloseReason::ProxyUnexpected);
            }
            if matches!(stopped, Stopped::Fault(HelloFault::BadName(_))) {
                story.asked_badly(|| reading.sent_name());
            }
            return Err(stopped.close(&client).await);
        }
    };
    story.heard(hello.server_name.as_ref());
    let facts = Facts { server_name: hello.server_name, proxy: header };
    let (bytes, memory) = reading.into_bytes();
    Ok(Sniffed { client, bytes, facts, speaks_tls: true, _memory: memory })
}

/// Why a hello did not become whole.
enum Stopped {
    /// The client ended, by a FIN or a reset, before its first byte.
    NoData,
    /// The client ended, by a FIN or a reset, within its hello.
    Truncated,
    /// No first byte came in time.
    FirstByteTimeout,
    /// The rest did not come in time.
    HelloTimeout,
    /// What came is no acceptable hello.
    Fault(HelloFault),
    /// The process holds as many bytes of half-read hellos as it may.
    Memory,
}

impl Stopped {
    fn outcome(&self) -> Option<HelloOutcome> {
        Some(match self {
            Self::NoData | Self::Memory => return None,
            Self::Truncated => HelloOutcome::Truncated,
            Self::FirstByteTimeout | Self::HelloTimeout => HelloOutcome::Timeout,
            Self::Fault(HelloFault::NotTls) => HelloOutcome::NotTls,
            Self::Fault(HelloFault::Malformed(_)) => HelloOutcome::Malformed,
            Self::Fault(HelloFault::TooLarge) => HelloOutcome::TooLarge,
            Self::Fault(HelloFault::BadName(_)) => HelloOutcome::BadName,
        })
    }

    fn reason(&self) -> CloseReason {
        match self {
            Self::NoData => CloseReason::NoData,
            Self::Truncated => CloseReason::HelloTruncated,
            Self::FirstByteTimeout => CloseReason::FirstByteTimeout,
            Self::HelloTimeout => CloseReason::HelloTimeout,
            Self::Fault(HelloFault::NotTls) => CloseReason::NotTls,
            Self::Fault(HelloFault::Malformed(_)) => CloseReason::HelloMalformed,
            Self::Fault(HelloFault::TooLarge) => CloseReason::HelloTooLarge,
            Self::Fault(HelloFault::BadName(_)) => CloseReason::BadName,
            Self::Memory => CloseReason::HelloMemory,
        }
    }

    fn alert(&self) -> Option<Alert> {
        match self {
            Self::NoData | Self::FirstByteTimeout => None,
            Self::Truncated | Self::HelloTimeout => Some(Alert::DecodeError),
            Self::Fault(fault) => fault.alert(),
            Self::Memory => Some(Alert::InternalError),
        }
    }

    /// Says the fitting alert, if there is one.
    async fn close(self, client: &Stream) -> CloseReason {
        if let Some(alert) = self.alert() {
            dismiss(client, alert).await;
        }
        self.reason()
    }
}

/// Says an alert and waits, briefly, until it can be read: closing with unread bytes, such as early data
/// behind a hello, would reset the connection and with it the alert.
async fn dismiss(client: &Stream, alert: Alert) {
    if socket::send(client, &alert.record()).is_ok() {
        let _ = client.finish();
        let _ = timeout(ALERT_LINGER, discard(client)).await;
    }
}

/// Reads and forgets until the client ends.
async fn discard(client: &Stream) {
    let mut discarded = 0;
    // Memory that is there only while there is something to read.
    let recv = async || poll_fn(|cx| client.poll_recv(cx, &mut [0; FIRST_READ])).await;
    while let Ok(n) = recv().await {
        discarded += n;
        if n == 0 || discarded > ALERT_DISCARD {
            return;
        }
    }
}

/// A hello on its way in.
struct Reading<'a> {
    /// All that the client has sent.
    bytes: Vec<u8>,
    /// How many of them may be held.
    granted: usize,
    reader: HelloReader,
    around: &'a Surroundings,
    /// The bytes' share of the memory that all half-read hellos may take. A hello that comes whole
    /// with the first read needs none, so those who fill that memory slowly do not lock it out.
    memory: Option<Share>,
}

impl<'a> Reading<'a> {
    /// `bytes` were read already, and fit into a first read.
    fn new(bytes: Vec<u8>, spec: &HelloSpec, around: &'a Surroundings) -> Self {
        let reader = HelloReader::new(spec.max_size);
        Self { granted: FIRST_READ.max(bytes.len()), bytes, reader, around, memory: None }
    }

    /// Reads from the first byte to the last of the hello.
    async fn read(
        &mut self,
        client: &Stream,
        first: Option<io::Result<usize>>,
        spec: &HelloSpec,
        story: &Story,
    ) -> Result<ClientHello, Stopped> {
        let first = match first {
            Some(read) => read,
            None => {
                let patience = spec.first_byte_timeout.saturating_sub(story.age());
                timeout(patience, self.recv(client)).await.map_err(|_| Stopped::FirstByteTimeout)?
            }
        };
        if first.map_err(|_| Stopped::NoData)? == 0 {
            return Err(Stopped::NoData);
        }
        if let Some(hello) = self.parse()? {
            return Ok(hello);
        }
        let share = self.around.bounds.hello_memory.share(FIRST_READ as u64);
        self.memory = Some(share.ok_or(Stopped::Memory)?);
        // Absolute: a byte now and then does not buy more time.
        let deadline = Instant::now() + spec.hello_timeout;
        timeout_at(deadline, self.read_rest(client)).await.map_err(|_| Stopped::HelloTimeout)?
    }

    async fn read_rest(&mut self, client: &Stream) -> Result<ClientHello, Stopped> {
        loop {
            self.make_room()?;
            if self.recv(client).await.map_err(|_| Stopped::Truncated)? == 0 {
                return Err(Stopped::Truncated);
            }
            if let Some(hello) = self.parse()? {
                return Ok(hello);
            }
        }
    }

    fn parse(&mut self) -> Result<Option<ClientHello>, Stopped> {
        self.reader.read(&self.bytes).map_err(Stopped::Fault)
    }

    /// Doubles what may be held once that is full, up to what a hello may take, if the process has room.
    fn make_room(&mut self) -> Result<(), Stopped> {
        if self.bytes.len() == self.granted {
            // The reader refuses whatever is longer than its bound, so there is room below it.
            let wanted = (self.granted * 2).min(self.reader.max_raw().max(self.granted + 1));
            if !self.memory.as_mut().is_some_and(|memory| memory.grow((wanted - self.granted) as u64)) {
                return Err(Stopped::Memory);
            }
            self.granted = wanted;
        }
        self.bytes.reserve_exact(self.granted - self.bytes.len());
        Ok(())
    }

    /// Reads what is there before the client is registered anywhere.
    fn recv_now(&mut self, client: &OwnedFd) -> io::Result<usize> {
        self.around.engines.with_buffer(|buffer| {
            let read = socket::recv(client, &mut buffer[..FIRST_READ])?;
            self.bytes.extend_from_slice(&buffer[..read]);
            Ok(read)
        })
    }

    /// Reads through the worker's buffer, so that a client that is waited for holds none.
    async fn recv(&mut self, client: &Stream) -> io::Result<usize> {
        let room = self.granted - self.bytes.len();
        let (engines, bytes) = (&self.around.engines, &mut self.bytes);
        poll_fn(|cx| {
            engines.with_buffer(|buffer| {
                let room = room.min(buffer.len());
                let read = ready!(client.poll_recv(cx, &mut buffer[..room]))?;
                bytes.extend_from_slice(&buffer[..read]);
                Poll::Ready(Ok(read))
            })
        })
        .await
    }

    fn sent_name(&self) -> Option<Box<[u8]>> {
        self.reader.sent_name(&self.bytes)
    }

    /// All that was read, and its share of the memory of all hellos.
    fn into_bytes(self) -> (Vec<u8>, Option<Share>) {
        (self.bytes, self.memory)
    }
}
