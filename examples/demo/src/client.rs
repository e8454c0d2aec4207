//! The client: single requests, and a load whose answers are counted.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::{COLORS, DemoResult};

/// The pause between two requests of the load: some 50 requests a second.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that sends its requests through the balancer and verifies the certificates.
#[derive(Clone)]
pub(crate) struct Client {
    at: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(crate) fn new(at: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self { at, tls }
    }

    /// Sends a request and prints the answer.
    pub(crate) fn show(&self, name: &str) {
        match self.ask(name) {
            Ok(answer) => println!("   {name:<16} -> {answer}"),
            Err(error) => println!("   {name:<16} -> failed: {error}"),
        }
    }

    /// Returns the last line of the answer.
    fn ask(&self, name: &str) -> DemoResult<String> {
        let session = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from(name.to_owned())?)?;
        let socket = TcpStream::connect(self.at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(session, socket);
        write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or("nothing").to_owned())
    }
}

/// Requests for `app.demo.test`, one after the other, until the value is dropped.
pub(crate) struct Load {
    /// Shared with the thread that sends the requests.
    answers: Arc<Answers>,
    /// The thread ends when this is dropped.
    _running: mpsc::Sender<()>,
}

#[derive(Default)]
struct Answers {
    of_colors: [AtomicU64; COLORS.len()],
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn start(client: Client) -> Self {
        let answers = Arc::new(Answers::default());
        let (running, until) = mpsc::channel();
        let counts = Arc::clone(&answers);
        thread::spawn(move || {
            while until.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                counts.add(client.ask("app.demo.test"));
            }
        });
        Self { answers, _running: running }
    }

    /// Returns the answers until now.
    pub(crate) fn counts(&self) -> Counts {
        let of_colors = std::array::from_fn(|at| self.answers.of_colors[at].load(Ordering::Relaxed));
        Counts { of_colors, failed: self.answers.failed.load(Ordering::Relaxed) }
    }
}

impl Answers {
    fn add(&self, answer: DemoResult<String>) {
        let color = answer.ok().and_then(|answer| COLORS.iter().position(|color| answer.ends_with(color)));
        color.map_or(&self.failed, |at| &self.of_colors[at]).fetch_add(1, Ordering::Relaxed);
    }
}

/// The number of requests that each backend answered, and the number of failed requests.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    of_colors: [u64; COLORS.len()],
    failed: u64,
}

impl Counts {
    /// Returns the counts since an earlier moment.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            of_colors: std::array::from_fn(|at| self.of_colors[at] - earlier.of_colors[at]),
            failed: self.failed - earlier.failed,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4} requests:", self.of_colors.iter().sum::<u64>() + self.failed)?;
        for (color, count) in COLORS.iter().zip(self.of_colors) {
            write!(f, "  {color} {count:<4}")?;
        }
        write!(f, "  failed {}", self.failed)
    }
}
