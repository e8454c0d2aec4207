//! The backends of a load. The first bytes of a client name the task of its connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::bytes::{Sequence, Stream, in_time};
use super::tally::{BackendReport, Tally};

/// The time between two chunks of a stream with a pace, and between two messages.
const PACE: Duration = Duration::from_millis(10);

/// Returns the clock of a stream with a pace. A late tick is not made up for.
pub(super) fn pace() -> Interval {
    let mut clock = interval(PACE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

/// The greeting of the backend that speaks first.
pub(super) const GREETING: &[u8] = b"220 the server speaks first\r\n";

/// The number of bytes of a task.
const TASK: usize = 17;

/// The code of a request to cancel a query.
const CANCEL: u32 = 80_877_102;

/// The work of a backend for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Task {
    /// Sends back all bytes.
    Echo,
    /// Streams in both directions until the client ends.
    Both,
    /// Reads up to the client's end. Then streams until the load ends.
    StreamAfterEnd,
    /// Sends some bytes and ends. Then reads up to the client's end.
    ReadAfterEnd,
    /// Sends as many bytes as the task names, as quickly as they are taken.
    Flood,
    /// Sends nothing until the load ends, then a greeting. Then sends back all bytes.
    Late,
    /// Reads nothing until the load ends, then all.
    SlowSink,
}

const TASKS: [Task; 7] = [
    Task::Echo,
    Task::Both,
    Task::StreamAfterEnd,
    Task::ReadAfterEnd,
    Task::Flood,
    Task::Late,
    Task::SlowSink,
];

impl Task {
    /// Returns the bytes with which a client begins.
    pub(super) fn written(self, seed: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![self as u8];
        bytes.extend(seed.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes
    }
}

/// Returns the seed of the bytes that a backend sends, by the seed of its client.
pub(super) fn answer_seed(seed: u64) -> u64 {
    !seed
}

/// The addresses of the backends.
#[derive(Clone, Debug)]
pub(crate) struct BackendAddresses {
    pub(crate) plain: SocketAddr,
    pub(crate) first: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) proxied: SocketAddr,
    pub(crate) postgres: [SocketAddr; 2],
    pub(crate) scarce: SocketAddr,
}

/// The first part of a connection, before its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prelude {
    None,
    Greeting,
    /// A TLS record comes, and is sent back.
    Record,
    /// A PROXY header comes, and is sent back behind its length.
    Header,
    /// A startup message comes, or a request to cancel. The number is that of the backend.
    Startup(u8),
    /// As `None`; the open connections are counted.
    Counted,
}

/// The state that all backends share.
struct BackendState {
    tally: Arc<Tally>,
    over: watch::Receiver<bool>,
}

/// Starts all backends on the current runtime.
pub(super) async fn start(
    unix: &Path,
    tally: Arc<Tally>,
    over: watch::Receiver<bool>,
) -> io::Result<BackendAddresses> {
    let state = Arc::new(BackendState { tally, over });
    let listener = UnixListener::bind(unix)?;
    let shared = Arc::clone(&state);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(Box::new(stream), Prelude::None, Arc::clone(&shared)));
        }
    });
    let plain = listen(Prelude::None, &state).await?;
    let first = listen(Prelude::Greeting, &state).await?;
    let tls = listen(Prelude::Record, &state).await?;
    let proxied = listen(Prelude::Header, &state).await?;
    let postgres = [listen(Prelude::Startup(0), &state).await?, listen(Prelude::Startup(1), &state).await?];
    let scarce = listen(Prelude::Counted, &state).await?;
    Ok(BackendAddresses { plain, first, tls, proxied, postgres, scarce })
}

async fn listen(prelude: Prelude, state: &Arc<BackendState>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let state = Arc::clone(state);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(Box::new(stream), prelude, Arc::clone(&state)));
        }
    });
    Ok(address)
}

/// Serves a connection to its end. A fault is reported under the seed of the client, if the task has come.
async fn serve(mut stream: Stream, prelude: Prelude, state: Arc<BackendState>) {
    let Ok(true) = prepare(&mut stream, prelude, &state).await else { return };
    let mut task = [0; TASK];
    if stream.read_exact(&mut task).await.is_err() {
        return;
    }
    let seed = u64::from_be_bytes(task[1..9].try_into().unwrap());
    let length = u64::from_be_bytes(task[9..].try_into().unwrap());
    let Some(task) = TASKS.get(usize::from(task[0])) else {
        state.tally.ended("backend", seed, Err(super::bytes::wrong("a task that no client sent")));
        return;
    };
    if prelude == Prelude::Counted {
        state.tally.scarce_opened();
    }
    let mut report = BackendReport::default();
    if let Err(error) = run(*task, &mut stream, seed, length, &state, &mut report).await {
        report.fault = Some(format!("{task:?}: {error}"));
    }
    if prelude == Prelude::Counted {
        state.tally.scarce_closed();
    }
    if !matches!(task, Task::Echo | Task::Late) {
        state.tally.report(seed, report);
    }
}

/// Runs the first part of a connection. Returns true if a task follows.
async fn prepare(stream: &mut Stream, prelude: Prelude, state: &BackendState) -> io::Result<bool> {
    match prelude {
        Prelude::None | Prelude::Counted => {}
        Prelude::Greeting => stream.write_all(GREETING).await?,
        Prelude::Record => {
            let mut record = vec![0; 5];
            stream.read_exact(&mut record).await?;
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(5 + length, 0);
            stream.read_exact(&mut record[5..]).await?;
            stream.write_all(&record).await?;
        }
        Prelude::Header => {
            let mut header = vec![0; 16];
            stream.read_exact(&mut header).await?;
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            header.resize(16 + length, 0);
            stream.read_exact(&mut header[16..]).await?;
            stream.write_all(&(header.len() as u32).to_be_bytes()).await?;
            stream.write_all(&header).await?;
        }
        Prelude::Startup(number) => return session(stream, number, state).await,
    }
    Ok(true)
}

/// Answers a startup message, whose text ends with the key of the session. Notes a request to cancel, if the session
/// with its key is here.
async fn session(stream: &mut Stream, number: u8, state: &BackendState) -> io::Result<bool> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; length.saturating_sub(8)];
    stream.read_exact(&mut body).await?;
    if u32::from_be_bytes(head[4..].try_into().unwrap()) == CANCEL {
        if let Ok(key) = body[..].try_into() {
            state.tally.cancelled(u64::from_be_bytes(key), number);
        }
        return Ok(false);
    }
    let text = String::from_utf8_lossy(&body);
    let key = text.split('\0').find_map(|word| word.strip_prefix("key-"));
    state.tally.session(key.and_then(|key| key.parse().ok()).unwrap_or_default(), number);
    stream.write_all(b"Z\0\0\0\x05I").await?;
    Ok(true)
}

async fn run(
    task: Task,
    stream: &mut Stream,
    seed: u64,
    length: u64,
    state: &BackendState,
    report: &mut BackendReport,
) -> io::Result<()> {
    let mut over = state.over.clone();
    let tally = &*state.tally;
    let (mut came, mut sent) = (Sequence::new(seed), Sequence::new(answer_seed(seed)));
    match task {
        Task::Echo => echo(stream).await?,
        Task::Late => {
            let _ = over.wait_for(|over| *over).await;
            stream.write_all(GREETING).await?;
            echo(stream).await?;
        }
        Task::Both => {
            let result = both(stream, &mut came, &mut sent, length > 0, tally).await;
            (report.received, report.sent) = (came.at, sent.at);
            result?;
        }
        Task::StreamAfterEnd => {
            while came.verify(stream, tally).await? > 0 {}
            let mut pace = pace();
            while !*over.borrow() {
                sent.send(stream, 4096).await?;
                pace.tick().await;
            }
            stream.shutdown().await?;
        }
        Task::ReadAfterEnd => {
            sent.send_all(stream, length).await?;
            stream.shutdown().await?;
            while came.verify(stream, tally).await? > 0 {}
        }
        Task::Flood => {
            flood(stream, &mut sent, length).await?;
            stream.shutdown().await?;
            while came.verify(stream, tally).await? > 0 {}
        }
        Task::SlowSink => {
            let _ = over.wait_for(|over| *over).await;
            came.verify_to_end(stream, tally).await?;
            stream.shutdown().await?;
        }
    }
    (report.received, report.sent) = (came.at, sent.at);
    Ok(())
}

/// Sends without a limit of time: the client reads nothing for long.
async fn flood(stream: &mut Stream, sent: &mut Sequence, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let seed_of = sent.seed();
    while sent.at < length {
        let count = buffer.len().min(usize::try_from(length - sent.at).unwrap());
        super::bytes::fill(seed_of, sent.at, &mut buffer[..count]);
        stream.write_all(&buffer[..count]).await?;
        sent.at += count as u64;
    }
    Ok(())
}

async fn echo(stream: &mut Stream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        in_time(stream.write_all(&buffer[..count])).await?;
    }
}

/// Sends and verifies at the same time, until the client's end. Then ends too.
async fn both(
    stream: &mut Stream,
    came: &mut Sequence,
    sent: &mut Sequence,
    is_paced: bool,
    tally: &Tally,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (done, is_done) = watch::channel(false);
    let read = async {
        while in_time(came.verify(&mut reader, tally)).await? > 0 {}
        let _ = done.send(true);
        io::Result::Ok(())
    };
    let write = async {
        let mut pace = pace();
        while !*is_done.borrow() {
            sent.send(&mut writer, u64::MAX).await?;
            if is_paced {
                pace.tick().await;
            }
        }
        in_time(writer.shutdown()).await
    };
    tokio::try_join!(read, write).map(|_| ())
}
