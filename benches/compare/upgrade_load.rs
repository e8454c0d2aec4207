//! Clients during an upgrade: many that stay and exchange a small message from time to time, and short ones that come at a
//! fixed rate.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, interval_at, timeout};

use crate::child::pause;
use crate::hello::{self, Command, REPLY_SIZE};

/// The time between two messages of a client that stays.
const EVERY: Duration = Duration::from_secs(1);

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest time until all clients are there.
const OPENING: Duration = Duration::from_secs(60);

/// The number of clients that connect at the same time.
const CONNECTING: usize = 64;

/// The size of a message.
const MESSAGE: usize = 64;

/// The counts of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpgradeCounts {
    /// The clients that stay and still work.
    pub(crate) open: usize,
    /// The clients that stayed and have failed.
    pub(crate) failed: u64,
    /// The short clients that were served.
    pub(crate) short: u64,
    /// The short clients that were not.
    pub(crate) short_failed: u64,
    /// The text of the first failure.
    pub(crate) fault: Option<String>,
}

#[derive(Default)]
struct LoadState {
    is_over: AtomicBool,
    open: AtomicUsize,
    failed: AtomicU64,
    short: AtomicU64,
    short_failed: AtomicU64,
    fault: Mutex<Option<String>>,
    /// The longest wait of each client that stays, in microseconds, since it was asked for.
    longest: Vec<AtomicU32>,
}

impl LoadState {
    fn fail(&self, counter: &AtomicU64, error: &io::Error) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.to_string());
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// A running load, in a thread of its own.
pub(crate) struct UpgradeLoad {
    state: Arc<LoadState>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl UpgradeLoad {
    /// Starts `connections` clients that stay, and one short client in each `every`. Returns when all that stay work.
    ///
    /// # Errors
    /// Returns an error if not all of them work in time.
    pub(crate) fn start(to: SocketAddr, connections: usize, every: Duration) -> io::Result<Self> {
        let longest = (0..connections).map(|_| AtomicU32::new(0)).collect();
        let state = Arc::new(LoadState { longest, ..LoadState::default() });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(to, every, shared));
            Ok(())
        });
        let load = Self { state, thread: Some(thread) };
        let until = Instant::now() + OPENING;
        while load.counts().open < connections {
            let counts = load.counts();
            if counts.failed > 0 || Instant::now() > until {
                return Err(io::Error::other(format!("not every client works: {counts:?}")));
            }
            pause(Duration::from_millis(5));
        }
        Ok(load)
    }

    pub(crate) fn counts(&self) -> UpgradeCounts {
        let state = &self.state;
        UpgradeCounts {
            open: state.open.load(Ordering::Relaxed),
            failed: state.failed.load(Ordering::Relaxed),
            short: state.short.load(Ordering::Relaxed),
            short_failed: state.short_failed.load(Ordering::Relaxed),
            fault: state.fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Returns the 99th percentile over all clients of the longest wait of each, and the longest of all, in milliseconds,
    /// since the last call. A client has a wait in each second.
    pub(crate) fn take_longest(&self) -> (f64, f64) {
        let mut waits: Vec<u32> =
            self.state.longest.iter().map(|longest| longest.swap(0, Ordering::Relaxed)).collect();
        waits.sort_unstable();
        let at = |part: f64| waits.get((waits.len() as f64 * part) as usize).copied().unwrap_or(0);
        (f64::from(at(0.99)) / 1e3, f64::from(waits.last().copied().unwrap_or(0)) / 1e3)
    }

    /// Ends all clients.
    pub(crate) fn finish(mut self) -> io::Result<UpgradeCounts> {
        self.state.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or(io::ErrorKind::NotFound)?;
        thread.join().map_err(|_| io::Error::other("the clients panicked"))??;
        Ok(self.counts())
    }
}

impl Drop for UpgradeLoad {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
    }
}

async fn run(to: SocketAddr, every: Duration, state: Arc<LoadState>) {
    let mut clients = JoinSet::new();
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    for number in 0..state.longest.len() {
        clients.spawn(stay(to, number, Arc::clone(&state), Arc::clone(&connecting)));
    }
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !state.is_over() {
        clock.tick().await;
        // The short clients begin when all others are there.
        if state.open.load(Ordering::Relaxed) == state.longest.len()
            || state.short.load(Ordering::Relaxed) > 0
        {
            clients.spawn(come_and_go(to, Arc::clone(&state)));
        }
        while clients.try_join_next().is_some() {}
    }
    clients.join_all().await;
}

/// Runs a client that stays.
async fn stay(to: SocketAddr, number: usize, state: Arc<LoadState>, connecting: Arc<Semaphore>) {
    let mut is_open = false;
    if let Err(error) = exchange(to, number, &state, &connecting, &mut is_open).await {
        state.fail(&state.failed, &error);
    }
    if is_open {
        state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn exchange(
    to: SocketAddr,
    number: usize,
    state: &LoadState,
    connecting: &Semaphore,
    is_open: &mut bool,
) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(&number.to_be_bytes());
    let mut stream = {
        let _permit = connecting.acquire().await.map_err(io::Error::other)?;
        let mut stream = connect(to, Command::Echo).await?;
        ping(&mut stream, &message).await?;
        stream
    };
    *is_open = true;
    state.open.fetch_add(1, Ordering::Relaxed);
    // The messages of all clients are spread over the time between two of one client.
    let phase = EVERY * (number as u32 % 1000) / 1000;
    let mut clock = interval_at(tokio::time::Instant::now() + phase, EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !state.is_over() {
        clock.tick().await;
        message[8] = message[8].wrapping_add(1);
        let begun = Instant::now();
        ping(&mut stream, &message).await?;
        let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        state.longest[number].fetch_max(micros, Ordering::Relaxed);
    }
    Ok(())
}

async fn come_and_go(to: SocketAddr, state: Arc<LoadState>) {
    let serve = async {
        let mut stream = connect(to, Command::Reply(REPLY_SIZE as u64)).await?;
        in_time(stream.read_exact(&mut [0; REPLY_SIZE])).await?;
        io::Result::Ok(())
    };
    match serve.await {
        Ok(()) => {
            state.short.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => state.fail(&state.short_failed, &error),
    }
}

#[allow(clippy::disallowed_methods, reason = "a client is not the program")]
async fn connect(to: SocketAddr, command: Command) -> io::Result<TcpStream> {
    let mut stream = in_time(TcpStream::connect(to)).await?;
    stream.set_nodelay(true)?;
    in_time(stream.write_all(&hello::build(command))).await?;
    Ok(stream)
}

async fn ping(stream: &mut TcpStream, message: &[u8; MESSAGE]) -> io::Result<()> {
    let mut answer = [0; MESSAGE];
    in_time(stream.write_all(message)).await?;
    in_time(stream.read_exact(&mut answer)).await?;
    if answer == *message { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}
