//! The honest clients: new connections at a fixed rate, and some connections that stay open and exchange
//! bytes.
//!
//! The clients are one process. It answers each line with the figures since the line before.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::attack::questions;
use crate::hello::{self, Command, REPLY_SIZE};

/// The time from one new client to the next.
const EVERY: Duration = Duration::from_millis(4);

/// The connections that stay open, and the time between two exchanges of each.
const OPEN: usize = 16;
const EXCHANGE_INTERVAL: Duration = Duration::from_millis(20);

/// A client that waits longer has not been served.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most new clients at once; while so many wait, no further client comes.
const MOST_NEW: usize = 1500;

/// The time after which a lost connection is made anew.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// The figures of one kind of clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClientFigures {
    /// The clients or exchanges that were served.
    pub(crate) served: u64,
    /// Microseconds.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    pub(crate) longest: u32,
    pub(crate) errors: u64,
    /// The text of the first error.
    pub(crate) fault: Option<String>,
}

/// The figures of both kinds of clients since the last question.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FiguresByKind {
    /// New clients: connect, hello, 64 bytes from the backend, close.
    pub(crate) new: ClientFigures,
    /// Open connections: 64 bytes there and back.
    pub(crate) open: ClientFigures,
}

#[derive(Default)]
struct Log {
    took: Vec<u32>,
    errors: u64,
    fault: Option<String>,
}

impl Log {
    fn note(&mut self, result: io::Result<Duration>) {
        match result {
            Ok(took) => self.took.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.errors += 1;
                self.fault.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn figures(&mut self) -> ClientFigures {
        let Self { mut took, errors, fault } = std::mem::take(self);
        took.sort_unstable();
        let at = |percent: usize| {
            let slot = (took.len() * percent / 100).min(took.len().saturating_sub(1));
            took.get(slot).copied().unwrap_or(0)
        };
        ClientFigures { served: took.len() as u64, p50: at(50), p99: at(99), longest: at(100), errors, fault }
    }
}

#[derive(Default)]
struct Logs {
    new: RefCell<Log>,
    open: RefCell<Log>,
    /// The new clients that are not done.
    new_clients: RefCell<usize>,
}

/// Runs the clients of this address until standard input ends.
///
/// # Errors
/// Returns an error if no runtime can be made, or standard output is closed.
pub(crate) fn run(to: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run_clients(to))
}

async fn run_clients(to: SocketAddr) -> io::Result<()> {
    let (logs, questions) = (Rc::new(Logs::default()), questions());
    for slot in 0..OPEN {
        tokio::task::spawn_local(run_open_connection(to, slot, Rc::clone(&logs)));
    }
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        clock.tick().await;
        number += 1;
        if *logs.new_clients.borrow() < MOST_NEW {
            *logs.new_clients.borrow_mut() += 1;
            tokio::task::spawn_local(run_client(to, number, Rc::clone(&logs)));
        }
        match questions.try_recv() {
            Ok(()) => {
                let by_kind = FiguresByKind {
                    new: logs.new.borrow_mut().figures(),
                    open: logs.open.borrow_mut().figures(),
                };
                println!("{}", serde_json::to_string(&by_kind)?);
                io::stdout().flush()?;
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

async fn run_client(to: SocketAddr, number: usize, logs: Rc<Logs>) {
    let result = in_time(served(to, number)).await;
    logs.new.borrow_mut().note(result);
    *logs.new_clients.borrow_mut() -= 1;
}

async fn served(to: SocketAddr, number: usize) -> io::Result<Duration> {
    let began = Instant::now();
    let mut stream = connect(to, number).await?;
    stream.write_all(&hello::build(Command::Reply(REPLY_SIZE as u64))).await?;
    stream.read_exact(&mut [0; REPLY_SIZE]).await?;
    Ok(began.elapsed())
}

async fn run_open_connection(to: SocketAddr, slot: usize, logs: Rc<Logs>) {
    let mut clock = interval(EXCHANGE_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut stream = match in_time(open(to, slot)).await {
            Ok(stream) => stream,
            Err(error) => {
                logs.open.borrow_mut().note(Err(error));
                sleep(RECONNECT_DELAY).await;
                continue;
            }
        };
        loop {
            clock.tick().await;
            let result = in_time(exchange(&mut stream)).await;
            let is_lost = result.is_err();
            logs.open.borrow_mut().note(result);
            if is_lost {
                break;
            }
        }
    }
}

async fn open(to: SocketAddr, slot: usize) -> io::Result<TcpStream> {
    let mut stream = connect(to, slot).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&hello::build(Command::Echo)).await?;
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream) -> io::Result<Duration> {
    let (message, mut echo) = ([0x5a; 64], [0; 64]);
    let began = Instant::now();
    stream.write_all(&message).await?;
    stream.read_exact(&mut echo).await?;
    if echo == message { Ok(began.elapsed()) } else { Err(io::Error::other("the echo differs")) }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::Error::other("not served in time")))
}

/// Connects from 127.0.1.1 to 127.0.1.8, so that short connections do not run out of ports.
async fn connect(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8), 0).into())?;
    socket.connect(to).await
}
