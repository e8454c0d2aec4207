//! Clients that come at a fixed rate, whatever happens to the clients before them. Each connects, reads the
//! greeting and waits for the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::separate_backend::GREETING;

/// The longest time of a client. It is longer than all attempts of the proxy together.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most clients at once; while so many are open, no further client comes.
const MOST_OPEN: usize = 4000;

/// The most clients of a run, in case the process that ends the run is lost.
const MOST_CLIENTS: usize = 100_000;

/// The result of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientResult {
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    /// True if the client read the greeting, and no other bytes before the end.
    pub(crate) served: bool,
}

/// The clients, in a thread of their own.
pub(crate) struct ArrivingClients {
    is_enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<ClientResult>>>>,
}

impl ArrivingClients {
    /// Starts one client in each `every`.
    pub(crate) fn start(to: SocketAddr, every: Duration) -> Self {
        let is_enough = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_enough);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(run_clients(to, every, &until)))
        });
        Self { is_enough, thread: Some(thread) }
    }

    /// Starts no more clients, and waits for the clients that are open.
    pub(crate) fn finish(mut self) -> io::Result<Vec<ClientResult>> {
        self.is_enough.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or(io::ErrorKind::NotFound)?;
        thread.join().map_err(|_| io::Error::other("the clients panicked"))?
    }
}

impl Drop for ArrivingClients {
    fn drop(&mut self) {
        self.is_enough.store(true, Ordering::Relaxed);
    }
}

async fn run_clients(to: SocketAddr, every: Duration, is_enough: &AtomicBool) -> Vec<ClientResult> {
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    let mut results = Vec::new();
    while !is_enough.load(Ordering::Relaxed) && results.len() + open.len() < MOST_CLIENTS {
        clock.tick().await;
        if open.len() < MOST_OPEN {
            open.spawn(run_client(to));
        }
        while let Some(Ok(result)) = open.try_join_next() {
            results.push(result);
        }
    }
    results.extend(open.join_all().await);
    results
}

async fn run_client(to: SocketAddr) -> ClientResult {
    let begun = Instant::now();
    let read_greeting = timeout(PATIENCE, read_greeting(to)).await;
    ClientResult { begun, took: begun.elapsed(), served: matches!(read_greeting, Ok(Ok(true))) }
}

#[allow(clippy::disallowed_methods, reason = "a client is not the program")]
async fn read_greeting(to: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(to).await?;
    let mut received = Vec::new();
    (&mut stream).take(2).read_to_end(&mut received).await?;
    Ok(received == [GREETING])
}
