//! Reads the first bytes of a client, as far as its listener wants to know.
//!
//! The bytes are read and kept, not peeked at: the backend gets them verbatim.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::front::{self, Wish};
use super::refusal::{Tongue, dismiss, unexpected_header};
use super::story::Story;
use super::{Surroundings, reading};
use crate::executor::{timeout, timeout_at};
use crate::limit::GateShare;
use crate::route::HelloFacts;
use crate::snapshot::HelloSpec;
use crate::snapshot::opening::{DetectPolicy, GreetingPolicy, OpeningPolicy};
use crate::sys::{Stream, socket};
use crate::telemetry::{ClientOpening, CloseReason, HelloOutcome};
use crate::wire::{
    Alert, BackendGreeting, ClientHello, DetectedProtocol, HelloFault, HelloReader, Opening, first_bytes,
    proxy_protocol,
};

/// A hello of today's browsers with its post-quantum key share fits.
const FIRST_READ: usize = 2048;

/// A client and what it has said so far.
pub(super) struct Sniffed {
    pub(super) client: Stream,
    /// To be sent to the backend first.
    pub(super) bytes: Vec<u8>,
    pub(super) facts: HelloFacts,
    /// The form of the hello in `bytes`, if they are one.
    pub(super) hello: Option<Form>,
    /// What it asks for.
    pub(super) wish: Wish,
    /// What its backend must hear before these bytes.
    pub(super) greet: Option<GreetingPolicy>,
    /// In which words a refusal can be said.
    tongue: Tongue,
    /// What the bytes take of the memory of all hellos, if they did not come at once.
    _memory: Option<GateShare>,
}

/// How a hello came.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) records: u32,
    /// In bytes of the message.
    size: usize,
    /// Reads that brought something.
    pub(super) segments: u32,
}

impl Sniffed {
    /// The message of the hello, if there is one.
    pub(super) fn message(&self) -> Option<Cow<'_, [u8]>> {
        let Form { records, size, .. } = self.hello?;
        Some(ClientHello { server_name: None, records, size }.message(&self.bytes))
    }

    /// A client that nothing more is read from than `bytes`.
    pub(super) fn nothing(client: OwnedFd, bytes: Vec<u8>) -> Result<Self, CloseReason> {
        let client = reading::register(client)?;
        Ok(Self::other(client, bytes, Wish::Silent, Tongue::Reset))
    }

    /// A client that is refused before its hello is read.
    pub(super) fn tls(client: OwnedFd, bytes: Vec<u8>) -> Result<Self, CloseReason> {
        let client = reading::register(client)?;
        Ok(Self::other(client, bytes, Wish::Silent, Tongue::Tls))
    }

    /// A client that asks for something without a hello.
    pub(super) fn other(client: Stream, bytes: Vec<u8>, wish: Wish, tongue: Tongue) -> Self {
        Self {
            client,
            bytes,
            facts: HelloFacts::default(),
            hello: None,
            wish,
            greet: None,
            tongue,
            _memory: None,
        }
    }

    /// The same with what its bytes take of the memory of all hellos.
    pub(super) fn holding(self, memory: Option<GateShare>) -> Self {
        Self { _memory: memory, ..self }
    }

    /// Closes a client that cannot be served: in its own words, if it understands any.
    pub(super) async fn refuse(self, reason: CloseReason) -> CloseReason {
        self.tongue.refuse(&self.client, reason).await
    }
}

/// Reads what the client wants, in the protocol of its listener.
pub(super) async fn first_bytes(
    client: OwnedFd,
    bytes: Vec<u8>,
    front: &OpeningPolicy,
    spec: &HelloSpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Sniffed, CloseReason> {
    match front {
        OpeningPolicy::Straight => client_hello(client, bytes, spec, story, around).await,
        // Rare beside the hello, and larger: it is not to be carried by everyone.
        OpeningPolicy::Postgres(postgres) => {
            let opening = Opening::postgres_host();
            Box::pin(front::open(client, bytes, opening, &postgres.greet, spec, story, around)).await
        }
        OpeningPolicy::Starttls(greet) => {
            let BackendGreeting::Starttls { protocol, name } = &greet.greeting else {
                return Err(CloseReason::Internal);
            };
            let opening = Opening::starttls_host(*protocol, Arc::clone(name));
            Box::pin(front::open(client, bytes, opening, greet, spec, story, around)).await
        }
        OpeningPolicy::Detect(detect) => Box::pin(detected(client, bytes, detect, spec, story, around)).await,
    }
}

/// Reads a whole ClientHello, within the listener's bounds.
pub(super) async fn client_hello(
    client: OwnedFd,
    bytes: Vec<u8>,
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
    let client = reading::register(client)?;
    let hello = reading.read(&client, first, spec, story).await;
    conclude(client, reading, hello, story).await
}

/// Reads a hello whose beginning, perhaps nothing, has been read.
pub(super) async fn hello_behind(
    client: Stream,
    bytes: Vec<u8>,
    spec: &HelloSpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Sniffed, CloseReason> {
    let mut reading = Reading::new(bytes, spec, around);
    let hello = reading.read_behind(&client, Instant::now() + spec.hello_timeout).await;
    conclude(client, reading, hello, story).await
}

/// Tells what the client speaks by its first bytes, and reads its hello if that is TLS.
async fn detected(
    client: OwnedFd,
    bytes: Vec<u8>,
    detect: &DetectPolicy,
    spec: &HelloSpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Sniffed, CloseReason> {
    let client = reading::register(client)?;
    let held = bytes.len();
    let mut reading = Reading::new(bytes, spec, around);
    let patience = match detect.on_timeout {
        // All of it, however long a PROXY header was under way: it tells nothing of the client's habits.
        Some(_) => detect.timeout,
        None => spec.first_byte_timeout.saturating_sub(story.age()),
    };
    let first = async {
        match held {
            0 => reading.recv(&client).await,
            held => Ok(held),
        }
    };
    let Ok(first) = timeout(patience, first).await else {
        story.opened(ClientOpening::Silent);
        return Ok(Sniffed::other(client, Vec::new(), Wish::Silent, Tongue::Reset));
    };
    if !matches!(first, Ok(1..)) {
        return Err(Stopped::NoData.reason());
    }
    // No more bytes than tell protocols apart are ever waited for, so they need no share of a memory.
    let deadline = Instant::now() + spec.hello_timeout;
    let spoken = loop {
        if let Some(spoken) = first_bytes::tell(&reading.bytes) {
            break spoken;
        }
        match timeout_at(deadline, reading.recv(&client)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(Stopped::Truncated.reason()),
            Err(_) => return Err(Stopped::HelloTimeout.reason()),
        }
    };
    if spoken == DetectedProtocol::Other && proxy_protocol::begins_like_one(&reading.bytes) {
        return Err(unexpected_header(&client, story));
    }
    story.opened(match spoken {
        DetectedProtocol::Tls => ClientOpening::Tls,
        DetectedProtocol::Ssh => ClientOpening::Ssh,
        DetectedProtocol::Http => ClientOpening::Http,
        DetectedProtocol::Postgres => ClientOpening::Postgres,
        DetectedProtocol::Other => ClientOpening::Other,
    });
    let bytes = reading.bytes;
    let tongue = match spoken {
        DetectedProtocol::Tls => return hello_behind(client, bytes, spec, story, around).await,
        DetectedProtocol::Http => Tongue::Http,
        DetectedProtocol::Postgres => Tongue::Postgres,
        DetectedProtocol::Ssh | DetectedProtocol::Other => Tongue::Reset,
    };
    Ok(Sniffed::other(client, bytes, Wish::Spoken(spoken), tongue))
}

/// What comes of reading a hello.
async fn conclude(
    client: Stream,
    reading: Reading<'_>,
    hello: Result<ClientHello, Stopped>,
    story: &mut Story,
) -> Result<Sniffed, CloseReason> {
    let hello = match hello {
        Ok(hello) => hello,
        Err(stopped) => {
            story.not_heard(stopped.outcome());
            if matches!(stopped, Stopped::Fault(HelloFault::NotTls))
                && proxy_protocol::begins_like_one(&reading.bytes)
            {
                return Err(unexpected_header(&client, story));
            }
            if matches!(stopped, Stopped::Fault(HelloFault::BadName(_))) {
                story.asked_badly(|| reading.sent_name());
            }
            return Err(stopped.close(&client).await);
        }
    };
    story.heard(hello.server_name.as_ref());
    if hello.server_name.is_none() {
        // The log shows an address that stands in place of a name.
        story.asked_badly(|| reading.sent_name());
    }
    let facts = HelloFacts { server_name: hello.server_name, proxy: None };
    let form = Form { records: hello.records, size: hello.size, segments: reading.segments };
    let (bytes, memory) = reading.into_bytes();
    let (wish, tongue) = (Wish::Name, Tongue::Tls);
    Ok(Sniffed { client, bytes, facts, hello: Some(form), wish, greet: None, tongue, _memory: memory })
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
            dismiss(client, &alert.record()).await;
        }
        self.reason()
    }
}

/// A hello on its way in.
struct Reading<'a> {
    /// All that the client has sent.
    bytes: Vec<u8>,
    /// How many of them may be held.
    granted: usize,
    reader: HelloReader,
    /// Reads that brought something.
    segments: u32,
    around: &'a Surroundings,
    /// The bytes' share of the memory that all half-read hellos may take. A hello that comes whole
    /// with the first read needs none, so those who fill that memory slowly do not lock it out.
    memory: Option<GateShare>,
}

impl<'a> Reading<'a> {
    /// `bytes` were read already, and fit into a first read.
    fn new(bytes: Vec<u8>, spec: &HelloSpec, around: &'a Surroundings) -> Self {
        let reader = HelloReader::new(spec.max_size);
        let segments = u32::from(!bytes.is_empty());
        Self { granted: FIRST_READ.max(bytes.len()), bytes, reader, segments, around, memory: None }
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
        match self.parse()? {
            Some(hello) => Ok(hello),
            // Absolute: a byte now and then does not buy more time.
            None => self.go_on(client, Instant::now() + spec.hello_timeout).await,
        }
    }

    /// Reads a hello that may have begun; one that has not is first waited for without a share of the memory.
    async fn read_behind(&mut self, client: &Stream, deadline: Instant) -> Result<ClientHello, Stopped> {
        if self.bytes.is_empty() {
            let first = timeout_at(deadline, self.recv(client)).await.map_err(|_| Stopped::HelloTimeout)?;
            if !matches!(first, Ok(1..)) {
                return Err(Stopped::Truncated);
            }
        }
        match self.parse()? {
            Some(hello) => Ok(hello),
            None => self.go_on(client, deadline).await,
        }
    }

    /// Reads on behind what is there, which is not a whole hello.
    async fn go_on(&mut self, client: &Stream, deadline: Instant) -> Result<ClientHello, Stopped> {
        let share = self.around.bounds.hello_memory.share(self.granted as u64);
        self.memory = Some(share.ok_or(Stopped::Memory)?);
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
            self.segments += 1;
            Ok(read)
        })
    }

    async fn recv(&mut self, client: &Stream) -> io::Result<usize> {
        let room = self.granted - self.bytes.len();
        let (bytes, segments) = (&mut self.bytes, &mut self.segments);
        reading::recv(client, &self.around.engines, room, |read| {
            bytes.extend_from_slice(read);
            *segments = segments.saturating_add(1);
        })
        .await
    }

    fn sent_name(&self) -> Option<Box<[u8]>> {
        self.reader.sent_name(&self.bytes)
    }

    /// All that was read, and its share of the memory of all hellos.
    fn into_bytes(self) -> (Vec<u8>, Option<GateShare>) {
        (self.bytes, self.memory)
    }
}
