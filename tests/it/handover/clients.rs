//! The clients of a load. Each verifies every byte, and goes on until the load ends.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio::sync::watch;
use tokio::time::interval;

use super::backends::{GREETING, Task, answer_seed, pace};
use super::bytes::{Sequence, Stream, end, exchange, expect, expect_end, fill, in_time, wrong};
use super::tally::Tally;
use crate::support::hello::hello;
use crate::support::pair::{self, expect_bytes, patient};

/// The name that TLS clients ask for.
pub(super) const NAME: &str = "api.test";

/// The bytes of a flood: more than the sockets and a pipe of 1 MiB hold, with the bounds of the listener `splice`.
const FLOOD: u64 = 16 << 20;

/// The time for which a client keeps a connection of the scarce backend.
const HOLD: Duration = Duration::from_millis(100);

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Streams both ways at once, with a pace, through the listener of this number of [`ENGINES`].
    Bulk(usize),
    /// Streams both ways as fast as it can.
    BulkFull,
    /// Small messages and their answers.
    PingPong,
    /// The client ends first, then the backend streams.
    HalfClosed,
    /// The backend ends first, then the client streams.
    BackendEndsFirst,
    /// One message at the end.
    Idle,
    /// Not a single byte until the end.
    Silent,
    /// Reads nothing of a flood until the end.
    SlowReader,
    /// Sends a flood that its backend does not read until the end.
    SlowBackend,
    /// The backend speaks first.
    ServerFirst,
    /// The backend speaks first, at the end.
    LateGreeting,
    /// A hello in three pieces, with a switch between two.
    HelloInPieces,
    /// A hello that comes at the end.
    LateHello,
    /// A session with requests to cancel.
    Cancel,
    /// As `HelloInPieces`, through a forwarding pool.
    Forward,
    /// A Unix socket on both sides.
    Unix,
    /// A PROXY header comes in and goes out.
    Proxied,
    /// The same, with a switch within the header.
    ProxiedInPieces,
    /// Waits in the queue of a pool.
    Queued,
    /// Short connections, one after the other.
    Short,
}

/// The listeners with each engine.
pub(crate) const ENGINES: [&str; 3] = ["auto", "splice", "copy"];

/// All kinds.
pub(crate) const ALL: [Kind; 22] = [
    Kind::Bulk(0),
    Kind::Bulk(1),
    Kind::Bulk(2),
    Kind::BulkFull,
    Kind::PingPong,
    Kind::HalfClosed,
    Kind::BackendEndsFirst,
    Kind::Idle,
    Kind::Silent,
    Kind::SlowReader,
    Kind::SlowBackend,
    Kind::ServerFirst,
    Kind::LateGreeting,
    Kind::HelloInPieces,
    Kind::LateHello,
    Kind::Cancel,
    Kind::Forward,
    Kind::Unix,
    Kind::Proxied,
    Kind::ProxiedInPieces,
    Kind::Queued,
    Kind::Short,
];

/// The addresses of the listeners.
#[derive(Clone, Debug)]
pub(crate) struct ListenerAddresses {
    /// One for each of [`ENGINES`].
    pub(crate) plain: [SocketAddr; 3],
    pub(crate) first: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) egress: SocketAddr,
    pub(crate) postgres: SocketAddr,
    pub(crate) proxied: SocketAddr,
    pub(crate) scarce: SocketAddr,
    pub(crate) unix: PathBuf,
}

/// The values that all clients share.
#[derive(Clone)]
pub(super) struct ClientContext {
    pub(super) listeners: Arc<ListenerAddresses>,
    pub(super) tally: Arc<Tally>,
    /// Becomes true at the end of the load.
    pub(super) over: watch::Receiver<bool>,
    /// Changes with each switch to another process.
    pub(super) switches: watch::Receiver<u64>,
}

impl ClientContext {
    /// Runs a client to its end, and counts its result.
    pub(super) async fn run(mut self, kind: Kind, seed: u64) {
        let result = self.client(kind, seed).await;
        let tally = Arc::clone(&self.tally);
        // Clients that make many connections count each.
        tally.ended(&format!("{kind:?}"), seed, result);
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits for the end of the load.
    async fn end_of_load(&mut self) {
        let _ = self.over.wait_for(|over| *over).await;
    }

    /// Waits for the next switch or the end of the load.
    async fn next_switch(&mut self) {
        self.switches.mark_unchanged();
        tokio::select! {
            _ = self.switches.changed() => {}
            _ = self.over.wait_for(|over| *over) => {}
        }
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        self.connect_from(None, to).await
    }

    async fn connect_from(&self, source: Option<Ipv4Addr>, to: SocketAddr) -> io::Result<Stream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let stream = in_time(socket.connect(to)).await?;
        self.tally.connected();
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// Connects to the plain backend and sends a task.
    async fn begin(&self, engine: usize, task: Task, seed: u64, length: u64) -> io::Result<Stream> {
        let mut stream = self.connect(self.listeners.plain[engine]).await?;
        in_time(stream.write_all(&task.written(seed, length))).await?;
        Ok(stream)
    }

    async fn client(&mut self, kind: Kind, seed: u64) -> io::Result<()> {
        match kind {
            Kind::Bulk(engine) => self.bulk(engine, true, seed).await,
            Kind::BulkFull => self.bulk(0, false, seed).await,
            Kind::PingPong => {
                let stream = self.begin(0, Task::Echo, seed, 0).await?;
                self.ping_pong(stream, seed).await
            }
            Kind::HalfClosed => self.half_closed(seed).await,
            Kind::BackendEndsFirst => self.backend_ends_first(seed).await,
            Kind::Idle => {
                let mut stream = self.begin(1, Task::Echo, seed, 0).await?;
                self.end_of_load().await;
                exchange(&mut stream, seed, 1000, &self.tally).await?;
                end(&mut stream).await
            }
            Kind::Silent => {
                let mut stream = self.connect(self.listeners.plain[0]).await?;
                self.end_of_load().await;
                in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
                exchange(&mut stream, seed, 1000, &self.tally).await?;
                end(&mut stream).await
            }
            Kind::SlowReader => self.slow_reader(seed).await,
            Kind::SlowBackend => self.slow_backend(seed).await,
            Kind::ServerFirst => {
                let mut stream = self.connect(self.listeners.first).await?;
                expect(&mut stream, GREETING, &self.tally).await?;
                in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
                self.ping_pong(stream, seed).await
            }
            Kind::LateGreeting => {
                let mut stream = self.begin(0, Task::Late, seed, 0).await?;
                self.end_of_load().await;
                expect(&mut stream, GREETING, &self.tally).await?;
                exchange(&mut stream, seed, 1000, &self.tally).await?;
                end(&mut stream).await
            }
            Kind::HelloInPieces => self.hellos(self.listeners.tls, seed).await,
            Kind::Forward => self.hellos(self.listeners.egress, seed).await,
            Kind::LateHello => {
                let mut stream = self.connect(self.listeners.tls).await?;
                self.end_of_load().await;
                self.hello(&mut stream, seed).await
            }
            Kind::Cancel => self.session(seed).await,
            Kind::Unix => {
                let socket = in_time(UnixStream::connect(&self.listeners.unix)).await?;
                self.tally.connected();
                let mut stream: Stream = Box::new(socket);
                in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
                self.ping_pong(stream, seed).await
            }
            Kind::Proxied => self.proxied(seed, false).await,
            Kind::ProxiedInPieces => self.proxied(seed, true).await,
            Kind::Queued => self.queued(seed).await,
            Kind::Short => self.short(seed).await,
        }
    }

    async fn bulk(&mut self, engine: usize, is_paced: bool, seed: u64) -> io::Result<()> {
        let mut stream = self.begin(engine, Task::Both, seed, u64::from(is_paced)).await?;
        let (mut sent, mut came) = (Sequence::new(seed), Sequence::new(answer_seed(seed)));
        {
            let beat = self.tally.beat(seed);
            let tally = Arc::clone(&self.tally);
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let over = self.over.clone();
            let read = async {
                while in_time(came.verify(&mut reader, &tally)).await? > 0 {
                    beat.step();
                }
                io::Result::Ok(())
            };
            let write = async {
                let mut pace = pace();
                while !*over.borrow() {
                    sent.send(&mut writer, u64::MAX).await?;
                    if is_paced {
                        pace.tick().await;
                    }
                }
                in_time(writer.shutdown()).await
            };
            tokio::try_join!(read, write)?;
        }
        self.compare(seed, sent.at, came.at).await
    }

    /// Compares the counts of this side with those of the backend.
    async fn compare(&self, seed: u64, sent: u64, came: u64) -> io::Result<()> {
        let report = in_time(async { Ok(self.tally.reported(seed).await) }).await?;
        if let Some(fault) = report.fault {
            return Err(io::Error::other(format!("the backend: {fault}")));
        }
        if (report.received, report.sent) == (sent, came) {
            return Ok(());
        }
        Err(wrong(format_args!(
            "sent {sent} and received {came}; the backend received {} and sent {}",
            report.received, report.sent
        )))
    }

    /// Exchanges small messages until the load ends.
    async fn ping_pong(&mut self, mut stream: Stream, seed: u64) -> io::Result<()> {
        let beat = self.tally.beat(seed);
        let mut pace = pace();
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let length = 1 + (number * 37) % 700;
            exchange(&mut stream, seed.wrapping_add(number as u64), length, &self.tally).await?;
            beat.step();
            pace.tick().await;
        }
        end(&mut stream).await
    }

    async fn half_closed(&mut self, seed: u64) -> io::Result<()> {
        let mut stream = self.begin(0, Task::StreamAfterEnd, seed, 0).await?;
        let (mut sent, mut came) = (Sequence::new(seed), Sequence::new(answer_seed(seed)));
        sent.send_all(&mut stream, 50_000).await?;
        in_time(stream.shutdown()).await?;
        let beat = self.tally.beat(seed);
        while in_time(came.verify(&mut stream, &self.tally)).await? > 0 {
            beat.step();
        }
        self.compare(seed, sent.at, came.at).await
    }

    async fn backend_ends_first(&mut self, seed: u64) -> io::Result<()> {
        let mut stream = self.begin(1, Task::ReadAfterEnd, seed, 50_000).await?;
        let (mut sent, mut came) = (Sequence::new(seed), Sequence::new(answer_seed(seed)));
        came.verify_to_end(&mut stream, &self.tally).await?;
        let beat = self.tally.beat(seed);
        let mut pace = pace();
        while !self.is_over() {
            sent.send(&mut stream, 2000).await?;
            beat.step();
            pace.tick().await;
        }
        in_time(stream.shutdown()).await?;
        self.compare(seed, sent.at, came.at).await
    }

    async fn slow_reader(&mut self, seed: u64) -> io::Result<()> {
        let mut stream = self.begin(1, Task::Flood, seed, FLOOD).await?;
        let mut came = Sequence::new(answer_seed(seed));
        self.end_of_load().await;
        came.verify_to_end(&mut stream, &self.tally).await?;
        in_time(stream.shutdown()).await?;
        self.compare(seed, 0, came.at).await
    }

    async fn slow_backend(&mut self, seed: u64) -> io::Result<()> {
        let mut stream = self.begin(1, Task::SlowSink, seed, 0).await?;
        let mut bytes = vec![0; FLOOD as usize];
        fill(seed, 0, &mut bytes);
        // This takes until the end of the load, unless buffers hold all of it.
        stream.write_all(&bytes).await?;
        self.end_of_load().await;
        in_time(stream.shutdown()).await?;
        expect_end(&mut stream).await?;
        self.compare(seed, FLOOD, 0).await
    }

    /// Sends hellos in pieces, each on a new connection, until the load ends.
    async fn hellos(&mut self, to: SocketAddr, seed: u64) -> io::Result<()> {
        let mut number = 0;
        loop {
            number += 1;
            let mut stream = self.connect(to).await?;
            self.hello(&mut stream, seed.wrapping_add(number << 32)).await?;
            if self.is_over() {
                return Ok(());
            }
        }
    }

    /// Sends a hello in three pieces. The backend sends it back.
    async fn hello(&mut self, stream: &mut Stream, seed: u64) -> io::Result<()> {
        let mut bytes = hello(NAME.as_bytes());
        // The random bytes are behind the headers of the record and of the message, and the version.
        bytes[11..19].copy_from_slice(&seed.to_be_bytes());
        let pieces: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(3)).collect();
        assert_eq!(pieces.len(), 3);
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 {
                self.next_switch().await;
            }
            in_time(stream.write_all(piece)).await?;
        }
        expect(stream, &bytes, &self.tally).await?;
        in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
        exchange(stream, seed, 3000, &self.tally).await?;
        end(stream).await
    }

    /// Opens a session of PostgreSQL, and sends a request to cancel after each switch.
    async fn session(&mut self, seed: u64) -> io::Result<()> {
        let [_, _, _, _, _, _, high, low] = seed.to_be_bytes();
        let source = Ipv4Addr::new(127, 9, high, low.max(1));
        let mut stream = self.connect_from(Some(source), self.listeners.postgres).await?;
        let text = format!("user\0ann\0database\0shop\0application_name\0key-{seed}\0\0");
        in_time(stream.write_all(&message(3 << 16, text.as_bytes()))).await?;
        expect(&mut stream, b"Z\0\0\0\x05I", &self.tally).await?;
        in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
        let mut sent = 0;
        while !self.is_over() {
            exchange(&mut stream, seed, 100, &self.tally).await?;
            let mut request = self.connect_from(Some(source), self.listeners.postgres).await?;
            in_time(request.write_all(&message(80_877_102, &seed.to_be_bytes()))).await?;
            expect_end(&mut request).await?;
            sent += 1;
            if self.tally.cancels(seed) != sent {
                return Err(wrong("a request to cancel did not come to the backend of its session"));
            }
            self.next_switch().await;
        }
        exchange(&mut stream, seed, 100, &self.tally).await?;
        end(&mut stream).await
    }

    /// Sends a PROXY header, on a new connection until the load ends if the header comes in pieces.
    async fn proxied(&mut self, seed: u64, in_pieces: bool) -> io::Result<()> {
        let source = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, seed as u8), 1 + (seed as u16 >> 1));
        loop {
            let mut stream = self.connect(self.listeners.proxied).await?;
            let header = proxy_header(source, seed.is_multiple_of(2));
            let (one, other) = header.split_at(header.len() / 2);
            in_time(stream.write_all(one)).await?;
            if in_pieces {
                self.next_switch().await;
            }
            in_time(stream.write_all(other)).await?;
            in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
            let length = in_time(stream.read_u32()).await?;
            let mut came = vec![0; length.min(1000) as usize];
            in_time(stream.read_exact(&mut came)).await?;
            if came.get(16..20) != Some(&source.ip().octets()[..])
                || came.get(24..26) != Some(&source.port().to_be_bytes()[..])
            {
                return Err(wrong("the header for the backend has another source"));
            }
            if !in_pieces {
                return self.ping_pong(stream, seed).await;
            }
            exchange(&mut stream, seed, 3000, &self.tally).await?;
            end(&mut stream).await?;
            if self.is_over() {
                return Ok(());
            }
        }
    }

    /// Uses the scarce backend again and again.
    async fn queued(&mut self, seed: u64) -> io::Result<()> {
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let seed = seed.wrapping_add(number << 32);
            let mut stream = self.connect(self.listeners.scarce).await?;
            in_time(stream.write_all(&Task::Echo.written(seed, 0))).await?;
            exchange(&mut stream, seed, 200, &self.tally).await?;
            let mut hold = interval(HOLD);
            hold.tick().await;
            hold.tick().await;
            exchange(&mut stream, seed, 200, &self.tally).await?;
            end(&mut stream).await?;
        }
        Ok(())
    }

    /// Makes short connections, one after the other.
    async fn short(&mut self, seed: u64) -> io::Result<()> {
        let beat = self.tally.beat(seed);
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let seed = seed.wrapping_add(number << 32);
            let mut stream = self.begin(0, Task::Echo, seed, 0).await?;
            exchange(&mut stream, seed, 100, &self.tally).await?;
            end(&mut stream).await?;
            beat.step();
        }
        Ok(())
    }
}

/// Makes one connection, exchanges some bytes and ends, on the thread of the caller. Panics if anything fails.
#[track_caller]
pub(super) fn short_client(listeners: &ListenerAddresses, tally: &Tally) {
    let mut stream = patient(std::net::TcpStream::connect(listeners.plain[0]).unwrap());
    tally.connected();
    stream.write_all(&Task::Echo.written(0, 0)).unwrap();
    stream.write_all(b"a new client").unwrap();
    expect_bytes(&stream, b"a new client");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    pair::expect_end(&stream);
}

/// Returns a message of PostgreSQL without a type: its length, a code, and a body.
fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (8 + body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Returns a PROXY header of version 1 or 2.
fn proxy_header(source: SocketAddrV4, is_text: bool) -> Vec<u8> {
    if is_text {
        return format!("PROXY TCP4 {} 192.0.2.254 {} 443\r\n", source.ip(), source.port()).into_bytes();
    }
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(source.ip().octets());
    bytes.extend([192, 0, 2, 254]);
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(443_u16.to_be_bytes());
    bytes
}
