//! Reads a whole ClientHello, within two deadlines and a bound of its size.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::context::WorkerContext;
use super::reading::{self, EarlyEnd, FirstBytes};
use super::record::ConnectionRecord;
use super::refusal::{RefusalProtocol, dismiss, unexpected_header};
use super::sniffed::{HelloForm, Intent, SniffedClient};
use crate::executor::{timeout, timeout_at};
use crate::limit::GateShare;
use crate::route::HelloFacts;
use crate::snapshot::HelloSpec;
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, HelloOutcome};
use crate::wire::{Alert, ClientHello, HelloFault, HelloReader, proxy_protocol};

/// The size of the first read. The hello of a current browser, with its post-quantum key share, fits.
const FIRST_READ: usize = 2048;

/// Reads a whole ClientHello within the listener's bounds.
pub(super) async fn read(
    client: OwnedFd,
    first: FirstBytes,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let held = first.bytes.len();
    let mut reading = HelloReading::new(first, spec, context);
    // Nearly always the hello has arrived already.
    let first = match held {
        0 => match reading.recv_now(&client) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        },
        held => Some(Ok(held)),
    };
    let client = reading::register(client)?;
    let entry = record.entry().share();
    let hello = tokio::select! {
        biased;
        hello = reading.read(&client, first, spec, record) => hello,
        () = entry.handed_over() => return Err(reading.moved(client)),
    };
    Ok(conclude(client, reading, hello, record).await?)
}

/// Reads a hello after an opening in which the client got an answer. `bytes` were already read, and may be empty.
pub(super) async fn read_behind(
    client: Stream,
    bytes: Vec<u8>,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, CloseReason> {
    let mut reading = HelloReading::new(FirstBytes { bytes, ..FirstBytes::default() }, spec, context);
    let hello = reading.read_behind(&client, spec).await;
    conclude(client, reading, hello, record).await
}

/// Reads a hello in a tunnel. `bytes` were already read, and may be empty. Returns all bytes that were read, and the hello.
pub(super) async fn read_in_tunnel(
    client: &Stream,
    bytes: Vec<u8>,
    spec: &HelloSpec,
    context: &WorkerContext,
) -> (Vec<u8>, Result<ClientHello, HelloStop>) {
    let mut reading = HelloReading::new(FirstBytes { bytes, ..FirstBytes::default() }, spec, context);
    let hello = reading.read_behind(client, spec).await;
    (reading.bytes, hello)
}

/// Reads a hello of which some bytes were read, before the client got an answer.
pub(super) async fn read_on(
    client: Stream,
    first: FirstBytes,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<SniffedClient, EarlyEnd> {
    let mut reading = HelloReading::new(first, spec, context);
    let entry = record.entry().share();
    let hello = tokio::select! {
        biased;
        hello = reading.read_behind(&client, spec) => hello,
        () = entry.handed_over() => return Err(reading.moved(client)),
    };
    Ok(conclude(client, reading, hello, record).await?)
}

/// Makes the result of a read hello: the client with its first bytes, or a refusal.
async fn conclude(
    client: Stream,
    reading: HelloReading<'_>,
    hello: Result<ClientHello, HelloStop>,
    record: &mut ConnectionRecord,
) -> Result<SniffedClient, CloseReason> {
    let hello = match hello {
        Ok(hello) => hello,
        Err(stopped) => {
            record.hello_failed(stopped.outcome());
            if matches!(stopped, HelloStop::Fault(HelloFault::NotTls))
                && proxy_protocol::begins_like_one(&reading.bytes)
            {
                return Err(unexpected_header(&client, record));
            }
            if matches!(stopped, HelloStop::Fault(HelloFault::BadName(_))) {
                record.invalid_name(|| reading.sent_name());
            }
            return Err(stopped.close(&client).await);
        }
    };
    record.hello_received(hello.server_name.as_ref());
    if hello.server_name.is_none() {
        // The log shows an address that the client sent as a server name.
        record.invalid_name(|| reading.sent_name());
    }
    let facts = HelloFacts { server_name: hello.server_name, proxy: None };
    let form = HelloForm { records: hello.records, size: hello.size, segments: reading.segments };
    let HelloReading { bytes, memory, .. } = reading;
    let sniffed = SniffedClient::new(client, bytes, Intent::Name, RefusalProtocol::Tls);
    Ok(SniffedClient { facts, hello: Some(form), _memory: memory, ..sniffed })
}

/// The reason for which a hello did not become whole.
pub(super) enum HelloStop {
    /// The client ended, by a FIN or a reset, before its first byte.
    NoData,
    /// The client ended, by a FIN or a reset, within its hello.
    Truncated,
    /// No first byte came in time.
    FirstByteTimeout,
    /// The rest of the hello did not come in time.
    HelloTimeout,
    /// The bytes are no acceptable hello.
    Fault(HelloFault),
    /// The hello memory of the process is full.
    Memory,
}

impl HelloStop {
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

    pub(super) fn reason(&self) -> CloseReason {
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

    /// Sends the alert of the reason, if the reason has an alert, and closes.
    async fn close(self, client: &Stream) -> CloseReason {
        if let Some(alert) = self.alert() {
            dismiss(client, &alert.record()).await;
        }
        self.reason()
    }
}

/// A hello that is being read.
pub(super) struct HelloReading<'a> {
    /// All bytes that the client has sent.
    pub(super) bytes: Vec<u8>,
    /// The number of bytes that may be held.
    granted: usize,
    reader: HelloReader,
    /// The number of reads that returned bytes.
    segments: u32,
    /// The time at which the hello began, if it was not whole at once.
    begun: Option<Instant>,
    context: &'a WorkerContext,
    /// The share of the hello memory that the bytes hold. A hello that is whole after the first read needs no
    /// share. So it is served even if slow clients have filled this memory.
    memory: Option<GateShare>,
}

impl<'a> HelloReading<'a> {
    /// Returns the reading of a hello of which some bytes may have been read.
    pub(super) fn new(first: FirstBytes, spec: &HelloSpec, context: &'a WorkerContext) -> Self {
        let FirstBytes { bytes, begun, .. } = first;
        let reader = HelloReader::new(spec.max_size);
        let segments = u32::from(!bytes.is_empty());
        Self { granted: FIRST_READ.max(bytes.len()), bytes, reader, segments, begun, context, memory: None }
    }

    /// Returns the end of a client that is to go on elsewhere.
    pub(super) fn moved(self, client: Stream) -> EarlyEnd {
        EarlyEnd::moved(client, self.bytes, self.begun)
    }

    /// Reads the hello from its first byte to its last.
    async fn read(
        &mut self,
        client: &Stream,
        first: Option<io::Result<usize>>,
        spec: &HelloSpec,
        record: &ConnectionRecord,
    ) -> Result<ClientHello, HelloStop> {
        let first = match first {
            Some(read) => read,
            None => {
                let wait = spec.first_byte_timeout.saturating_sub(record.age());
                timeout(wait, self.recv(client)).await.map_err(|_| HelloStop::FirstByteTimeout)?
            }
        };
        if first.map_err(|_| HelloStop::NoData)? == 0 {
            return Err(HelloStop::NoData);
        }
        match self.parse()? {
            Some(hello) => Ok(hello),
            None => self.go_on(client, spec).await,
        }
    }

    /// Reads a hello that may have begun. The wait for a first byte takes no share of the hello memory.
    async fn read_behind(&mut self, client: &Stream, spec: &HelloSpec) -> Result<ClientHello, HelloStop> {
        let deadline = self.deadline(spec);
        if self.bytes.is_empty() {
            let first = timeout_at(deadline, self.recv(client)).await.map_err(|_| HelloStop::HelloTimeout)?;
            if !matches!(first, Ok(1..)) {
                return Err(HelloStop::Truncated);
            }
        }
        match self.parse()? {
            Some(hello) => Ok(hello),
            None => self.go_on(client, spec).await,
        }
    }

    /// Returns the time until which the hello must be whole. It is absolute: single bytes do not extend it.
    fn deadline(&mut self, spec: &HelloSpec) -> Instant {
        *self.begun.get_or_insert_with(Instant::now) + spec.hello_timeout
    }

    /// Reads on after an incomplete hello.
    async fn go_on(&mut self, client: &Stream, spec: &HelloSpec) -> Result<ClientHello, HelloStop> {
        let deadline = self.deadline(spec);
        let share = self.context.bounds.hello_memory.share(self.granted as u64);
        self.memory = Some(share.ok_or(HelloStop::Memory)?);
        timeout_at(deadline, self.read_rest(client)).await.map_err(|_| HelloStop::HelloTimeout)?
    }

    async fn read_rest(&mut self, client: &Stream) -> Result<ClientHello, HelloStop> {
        loop {
            self.make_room()?;
            if self.recv(client).await.map_err(|_| HelloStop::Truncated)? == 0 {
                return Err(HelloStop::Truncated);
            }
            if let Some(hello) = self.parse()? {
                return Ok(hello);
            }
        }
    }

    fn parse(&mut self) -> Result<Option<ClientHello>, HelloStop> {
        self.reader.read(&self.bytes).map_err(HelloStop::Fault)
    }

    /// Doubles the number of bytes that may be held, when this number is reached. The bound of a hello and the
    /// hello memory of the process limit the number.
    fn make_room(&mut self) -> Result<(), HelloStop> {
        if self.bytes.len() == self.granted {
            // The reader refuses a hello that is longer than its bound, so there is room below this bound.
            let wanted = (self.granted * 2).min(self.reader.max_raw().max(self.granted + 1));
            if !self.memory.as_mut().is_some_and(|memory| memory.grow((wanted - self.granted) as u64)) {
                return Err(HelloStop::Memory);
            }
            self.granted = wanted;
        }
        self.bytes.reserve_exact(self.granted - self.bytes.len());
        Ok(())
    }

    /// Reads the bytes that have arrived, before the socket is registered.
    fn recv_now(&mut self, client: &OwnedFd) -> io::Result<usize> {
        self.context.engines.with_buffer(|buffer| {
            let read = socket::recv(client, &mut buffer[..FIRST_READ])?;
            self.bytes.extend_from_slice(&buffer[..read]);
            self.segments += 1;
            Ok(read)
        })
    }

    /// Waits for bytes and reads them.
    pub(super) async fn recv(&mut self, client: &Stream) -> io::Result<usize> {
        let room = self.granted - self.bytes.len();
        let (bytes, segments) = (&mut self.bytes, &mut self.segments);
        reading::recv(client, &self.context.engines, room, |read| {
            bytes.extend_from_slice(read);
            *segments = segments.saturating_add(1);
        })
        .await
    }

    fn sent_name(&self) -> Option<Box<[u8]>> {
        self.reader.sent_name(&self.bytes)
    }
}
