//! One connection of the load: the connect, the hello and the work after it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::hello::{self, Command, REPLY_SIZE};
use crate::order::{Order, Work};
use crate::poller::{CHUNK, Interest, Moved, discard, read_available, write_available};

/// The number of source addresses: clients connect from 127.0.1.1 to 127.0.1.8. Short connections do not run
/// out of ports then, and the hash of the source spreads them over the backends.
const SOURCES: usize = 8;

/// The values and buffers that all connections share.
pub(crate) struct SharedState {
    work: Work,
    to: SocketAddr,
    hello: Vec<u8>,
    read_buffer: Vec<u8>,
    source: Vec<u8>,
}

impl SharedState {
    pub(crate) fn new(order: &Order) -> Self {
        let command = match order.work {
            Work::Connect | Work::Hold => Command::Reply(REPLY_SIZE as u64),
            Work::PingPong(_) => Command::Echo,
            Work::Down => Command::Stream(u64::MAX),
            Work::Up => Command::Count,
        };
        Self {
            work: order.work,
            to: order.to,
            hello: hello::build(command),
            read_buffer: vec![0; CHUNK],
            source: hello::filler(CHUNK + 256),
        }
    }
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    /// The hello is sent; the number is the next byte to send.
    SendHello(usize),
    /// The message is sent; the number is the next byte to send.
    SendMessage(usize),
    /// The answer is read; the number counts the bytes read.
    ReadAnswer(usize),
    Streaming,
    /// The sending half is finished, and the byte count is read; the number counts the bytes read.
    ReadCount(usize),
    Idle,
}

/// The result of an event.
pub(crate) enum Step {
    Wait,
    /// This many bytes of a stream were moved.
    Moved(u64),
    /// One operation is done, and the connection goes on.
    Done(Duration),
    /// One operation is done, and the connection is closed.
    Closed(Duration),
}

/// A slot for one connection, which is open or closed.
pub(crate) struct Client {
    slot: usize,
    socket: Option<TcpStream>,
    phase: Phase,
    interest: Interest,
    /// The time at which the present operation began, or the last bytes moved.
    since: Instant,
    sent: u64,
    count: [u8; 8],
}

impl Client {
    pub(crate) fn new(slot: usize) -> Self {
        Self {
            slot,
            socket: None,
            phase: Phase::Closed,
            interest: Interest::Write,
            since: Instant::now(),
            sent: 0,
            count: [0; 8],
        }
    }

    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    pub(crate) fn interest(&self) -> Interest {
        self.interest
    }

    /// Returns `true` if the hello is not sent whole yet. A connection that shall stay idle also waits for
    /// its reply.
    pub(crate) fn is_opening(&self, shared: &SharedState) -> bool {
        match self.phase {
            Phase::SendHello(_) => true,
            Phase::ReadAnswer(_) => shared.work == Work::Hold,
            _ => false,
        }
    }

    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.phase = Phase::Closed;
    }

    /// Returns `true` if the connection has moved nothing since `then`, although it should have.
    pub(crate) fn is_stalled_since(&self, then: Instant) -> bool {
        self.socket.is_some() && self.phase != Phase::Idle && self.since < then
    }

    /// Begins a new connection and returns the event to wait for.
    pub(crate) fn open(&mut self, shared: &mut SharedState) -> io::Result<Interest> {
        self.since = Instant::now();
        let (socket, connected) = connect(shared.to, self.slot)?;
        if matches!(shared.work, Work::PingPong(_)) {
            socket.set_nodelay(true)?;
        }
        self.socket = Some(socket);
        self.phase = Phase::SendHello(0);
        self.interest = Interest::Write;
        // On loopback the socket has usually connected already.
        if connected {
            self.send_hello(shared)?;
        }
        Ok(self.interest)
    }

    /// Continues after an event.
    pub(crate) fn advance(&mut self, shared: &mut SharedState) -> io::Result<Step> {
        match (self.phase, shared.work) {
            (Phase::Closed, _) => Ok(Step::Wait),
            (Phase::SendHello(_), _) => self.send_hello(shared).map(|()| Step::Wait),
            (Phase::SendMessage(_), Work::PingPong(size)) => {
                self.send_message(shared, size).map(|()| Step::Wait)
            }
            (Phase::ReadAnswer(_), Work::PingPong(size)) => self.answer(shared, size),
            (Phase::ReadAnswer(_), _) => self.reply(shared),
            (Phase::Streaming, Work::Down) => self.pull(shared),
            (Phase::Streaming, _) => self.push(shared),
            (Phase::ReadCount(_), _) => self.counted(),
            (Phase::SendMessage(_) | Phase::Idle, _) => {
                match discard(self.stream()?, &mut shared.read_buffer)? {
                    Moved::Blocked => Ok(Step::Wait),
                    Moved::Bytes(_) => Err(io::Error::other("more bytes came than were asked for")),
                    Moved::End => Err(ended()),
                }
            }
        }
    }

    /// Finishes the sending half of an upload.
    pub(crate) fn finish_sending(&mut self) -> io::Result<()> {
        self.stream()?.shutdown(Shutdown::Write)?;
        (self.phase, self.interest) = (Phase::ReadCount(0), Interest::Read);
        Ok(())
    }

    fn stream(&self) -> io::Result<&TcpStream> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn send_hello(&mut self, shared: &mut SharedState) -> io::Result<()> {
        let Phase::SendHello(sent) = self.phase else { return Ok(()) };
        let sent = sent + write_available(self.stream()?, &shared.hello[sent..])?;
        if sent < shared.hello.len() {
            self.phase = Phase::SendHello(sent);
            return Ok(());
        }
        (self.phase, self.interest) = match shared.work {
            Work::Connect | Work::Hold => (Phase::ReadAnswer(0), Interest::Read),
            Work::Down => (Phase::Streaming, Interest::Read),
            Work::Up => (Phase::Streaming, Interest::Write),
            Work::PingPong(size) => return self.send_next_message(shared, size),
        };
        Ok(())
    }

    fn send_next_message(&mut self, shared: &mut SharedState, size: usize) -> io::Result<()> {
        self.phase = Phase::SendMessage(0);
        self.since = Instant::now();
        self.send_message(shared, size)
    }

    fn send_message(&mut self, shared: &mut SharedState, size: usize) -> io::Result<()> {
        let Phase::SendMessage(sent) = self.phase else { return Ok(()) };
        let sent = sent + write_available(self.stream()?, &message(shared, self.slot, size)[sent..])?;
        (self.phase, self.interest) = if sent < size {
            (Phase::SendMessage(sent), Interest::Write)
        } else {
            (Phase::ReadAnswer(0), Interest::Read)
        };
        Ok(())
    }

    fn answer(&mut self, shared: &mut SharedState, size: usize) -> io::Result<Step> {
        let Phase::ReadAnswer(got) = self.phase else { return Ok(Step::Wait) };
        let count = match read_available(self.stream()?, &mut shared.read_buffer)? {
            Moved::Bytes(count) => count,
            Moved::Blocked => return Ok(Step::Wait),
            Moved::End => return Err(ended()),
        };
        // Bytes of another connection would differ, because each connection begins its message at another
        // byte.
        if message(shared, self.slot, size).get(got..got + count) != Some(&shared.read_buffer[..count]) {
            return Err(io::Error::other("the echo differs from what was sent"));
        }
        if got + count < size {
            self.phase = Phase::ReadAnswer(got + count);
            return Ok(Step::Wait);
        }
        let latency = self.since.elapsed();
        self.send_next_message(shared, size)?;
        Ok(Step::Done(latency))
    }

    fn reply(&mut self, shared: &mut SharedState) -> io::Result<Step> {
        let Phase::ReadAnswer(got) = self.phase else { return Ok(Step::Wait) };
        let got = match read_available(self.stream()?, &mut shared.read_buffer)? {
            Moved::Bytes(count) => got + count,
            Moved::Blocked => return Ok(Step::Wait),
            Moved::End => return Err(ended()),
        };
        if got < REPLY_SIZE {
            self.phase = Phase::ReadAnswer(got);
            return Ok(Step::Wait);
        }
        let latency = self.since.elapsed();
        if shared.work == Work::Hold {
            self.phase = Phase::Idle;
            return Ok(Step::Done(latency));
        }
        self.close();
        Ok(Step::Closed(latency))
    }

    fn pull(&mut self, shared: &mut SharedState) -> io::Result<Step> {
        match discard(self.stream()?, &mut shared.read_buffer)? {
            Moved::Bytes(count) => {
                self.since = Instant::now();
                Ok(Step::Moved(count as u64))
            }
            Moved::Blocked => Ok(Step::Wait),
            Moved::End => Err(ended()),
        }
    }

    fn push(&mut self, shared: &mut SharedState) -> io::Result<Step> {
        let count = write_available(self.stream()?, &shared.source[..CHUNK])? as u64;
        if count > 0 {
            self.since = Instant::now();
        }
        self.sent += count;
        Ok(Step::Moved(count))
    }

    fn counted(&mut self) -> io::Result<Step> {
        let Phase::ReadCount(got) = self.phase else { return Ok(Step::Wait) };
        let mut rest = [0; 8];
        match read_available(self.stream()?, &mut rest[got..])? {
            Moved::Bytes(count) => {
                self.count[got..got + count].copy_from_slice(&rest[got..got + count]);
                self.phase = Phase::ReadCount(got + count);
            }
            Moved::Blocked => {}
            Moved::End => return Err(ended()),
        }
        if self.phase == Phase::ReadCount(8) {
            self.close();
            if u64::from_be_bytes(self.count) != self.sent {
                return Err(io::Error::other("not every byte of the upload arrived"));
            }
        }
        Ok(Step::Wait)
    }
}

fn message(shared: &SharedState, slot: usize, size: usize) -> &[u8] {
    let at = slot % 256;
    &shared.source[at..at + size]
}

fn ended() -> io::Error {
    io::Error::other("the connection ended early")
}

/// Returns a new socket, and `true` if it is connected already.
fn connect(to: SocketAddr, slot: usize) -> io::Result<(TcpStream, bool)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    // The kernel chooses the port at the connect. It may take a port that another connection with another
    // destination uses.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    let source = Ipv4Addr::new(127, 0, 1, 1 + (slot % SOURCES) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    let connected = match socket.connect(&to.into()) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => false,
        Err(error) => return Err(error),
    };
    Ok((socket.into(), connected))
}
