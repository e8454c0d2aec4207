//! Reads the first bytes of a client, as far as its listener wants to know.
//!
//! The bytes are read and kept, not peeked at: the backend gets them verbatim.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::story::Story;
use super::{Bounds, Surroundings};
use crate::executor::{timeout, timeout_at};
use crate::limit::Share;
use crate::route::Facts;
use crate::snapshot::HelloSpec;
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, HelloOutcome};
use crate::wire::{Alert, ClientHello, HelloFault, HelloReader};

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
    speaks_tls: bool,
    /// What the bytes take of the memory of all hellos, if they did not come at once.
    _memory: Option<Share>,
}

impl Sniffed {
    /// A client that nothing was read from.
    pub(super) fn nothing(client: OwnedFd) -> Result<Self, CloseReason> {
        let client = Stream::register(client).map_err(|_| CloseReason::Internal)?;
        Ok(Self { client, bytes: Vec::new(), facts: Facts::default(), speaks_tls: false, _memory: None })
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
    client: OwnedFd,
    spec: &HelloSpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Sniffed, CloseReason> {
    let mut reading = Reading::new(spec, &around.bounds);
    // It is nearly always there already.
    let first = match reading.recv_first_now(&client) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    };
    let client = Stream::register(client).map_err(|_| CloseReason::Internal)?;
    let hello = match reading.read(&client, first, spec, story).await {
        Ok(hello) => hello,
        Err(stopped) => {
            story.not_heard(stopped.outcome());
            if matches!(stopped, Stopped::Fault(HelloFault::BadName(_))) {
                story.asked_badly(|| reading.sent_name());
            }
            return Err(stopped.close(&client).await);
        }
    };
    story.heard(hello.server_name.as_ref());
    let facts = Facts { server_name: hello.server_name };
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
    while let Ok(n) = recv_on_stack(client, <[u8]>::len).await {
        discarded += n;
        if n == 0 || discarded > ALERT_DISCARD {
            return;
        }
    }
}

/// Reads once, through memory that is there only while there is something to read: a client that is
/// waited for costs no buffer.
async fn recv_on_stack<T>(client: &Stream, mut take: impl FnMut(&[u8]) -> T) -> io::Result<T> {
    std::future::poll_fn(|cx| {
        let mut buffer = [0; FIRST_READ];
        client.poll_recv(cx, &mut buffer).map_ok(|n| take(&buffer[..n]))
    })
    .await
}

/// A hello on its way in.
struct Reading<'a> {
    /// As large as it may get without asking for more memory; the first `used` bytes are the client's.
    buffer: Vec<u8>,
    used: usize,
    reader: HelloReader,
    bounds: &'a Bounds,
    /// The buffer's share of the memory that all half-read hellos may take. A hello that comes whole
    /// with the first read needs none, so those who fill that memory slowly do not lock it out.
    memory: Option<Share>,
}

impl<'a> Reading<'a> {
    fn new(spec: &HelloSpec, bounds: &'a Bounds) -> Self {
        Self { buffer: Vec::new(), used: 0, reader: HelloReader::new(spec.max_size), bounds, memory: None }
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
                timeout(patience, self.recv_first(client)).await.map_err(|_| Stopped::FirstByteTimeout)?
            }
        };
        if first.map_err(|_| Stopped::NoData)? == 0 {
            return Err(Stopped::NoData);
        }
        if let Some(hello) = self.parse()? {
            return Ok(hello);
        }
        let share = self.bounds.hello_memory.share(FIRST_READ as u64);
        self.memory = Some(share.ok_or(Stopped::Memory)?);
        // Absolute: a byte now and then does not buy more time.
        let deadline = Instant::now() + spec.hello_timeout;
        timeout_at(deadline, self.read_rest(client)).await.map_err(|_| Stopped::HelloTimeout)?
    }

    async fn read_rest(&mut self, client: &Stream) -> Result<ClientHello, Stopped> {
        loop {
            self.make_room()?;
            match client.recv(&mut self.buffer[self.used..]).await {
                Ok(0) | Err(_) => return Err(Stopped::Truncated),
                Ok(read) => self.used += read,
            }
            if let Some(hello) = self.parse()? {
                return Ok(hello);
            }
        }
    }

    fn parse(&mut self) -> Result<Option<ClientHello>, Stopped> {
        self.reader.read(&self.buffer[..self.used]).map_err(Stopped::Fault)
    }

    /// Doubles a full buffer, up to what a hello may take, if the process has room for that.
    fn make_room(&mut self) -> Result<(), Stopped> {
        let size = self.buffer.len();
        if self.used < size {
            return Ok(());
        }
        // The reader refuses whatever is longer than its bound, so there is room below it.
        let wanted = (size * 2).min(self.reader.max_raw().max(size + 1));
        if !self.memory.as_mut().is_some_and(|memory| memory.grow((wanted - size) as u64)) {
            return Err(Stopped::Memory);
        }
        self.buffer.resize(wanted, 0);
        Ok(())
    }

    fn recv_first_now(&mut self, client: &OwnedFd) -> io::Result<usize> {
        let mut buffer = [0; FIRST_READ];
        let read = socket::recv(client, &mut buffer)?;
        Ok(self.begin(&buffer[..read]))
    }

    async fn recv_first(&mut self, client: &Stream) -> io::Result<usize> {
        recv_on_stack(client, |bytes| self.begin(bytes)).await
    }

    /// Takes the first bytes into a buffer of its own.
    fn begin(&mut self, bytes: &[u8]) -> usize {
        if !bytes.is_empty() {
            self.buffer.reserve_exact(FIRST_READ);
            self.buffer.extend_from_slice(bytes);
            self.buffer.resize(FIRST_READ, 0);
            self.used = bytes.len();
        }
        self.used
    }

    fn sent_name(&self) -> Option<Box<[u8]>> {
        self.reader.sent_name(&self.buffer[..self.used])
    }

    /// All that was read, and its share of the memory of all hellos.
    fn into_bytes(mut self) -> (Vec<u8>, Option<Share>) {
        self.buffer.truncate(self.used);
        (self.buffer, self.memory)
    }
}
