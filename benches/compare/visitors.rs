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

use crate::site::GREETING;

/// The longest time of a client. It is longer than all attempts of the proxy together.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most clients at once; while so many are open, no further client comes.
const INSIDE: usize = 4000;

/// The most clients of a run, in case the process that ends the run is lost.
const ALTOGETHER: usize = 100_000;

/// The result of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    /// True if the client read the greeting, and no other bytes before the end.
    pub(crate) served: bool,
}

/// The clients, in a thread of their own.
pub(crate) struct Visitors {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<Visit>>>>,
}

impl Visitors {
    /// Starts one client in each `every`.
    pub(crate) fn start(to: SocketAddr, every: Duration) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(come(to, every, &until)))
        });
        Self { enough, thread: Some(thread) }
    }

    /// Starts no more clients, and waits for the clients that are open.
    pub(crate) fn finish(mut self) -> io::Result<Vec<Visit>> {
        self.enough.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or(io::ErrorKind::NotFound)?;
        thread.join().map_err(|_| io::Error::other("the clients panicked"))?
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

async fn come(to: SocketAddr, every: Duration, enough: &AtomicBool) -> Vec<Visit> {
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut inside = JoinSet::new();
    let mut visits = Vec::new();
    while !enough.load(Ordering::Relaxed) && visits.len() + inside.len() < ALTOGETHER {
        clock.tick().await;
        if inside.len() < INSIDE {
            inside.spawn(visit(to));
        }
        while let Some(Ok(visit)) = inside.try_join_next() {
            visits.push(visit);
        }
    }
    visits.extend(inside.join_all().await);
    visits
}

async fn visit(to: SocketAddr) -> Visit {
    let begun = Instant::now();
    let greeted = timeout(PATIENCE, greeted(to)).await;
    Visit { begun, took: begun.elapsed(), served: matches!(greeted, Ok(Ok(true))) }
}

#[allow(clippy::disallowed_methods, reason = "a client is not the program")]
async fn greeted(to: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(to).await?;
    let mut heard = Vec::new();
    (&mut stream).take(2).read_to_end(&mut heard).await?;
    Ok(heard == [GREETING])
}
