//! The backend of every test. It does the work that the hello of each connection names.
//!
//! The backend runs as a process of its own. It prints its port, which is the same on all its addresses. It
//! ends when its standard input ends, so it never outlives the run.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::hello::{self, Command, ParsedHello};
use crate::poller::{CHUNK, Interest, Moved, Poller, discard, read_available, write_available};

/// The addresses of the backends; all have the same port.
pub(crate) const ADDRESSES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 11),
    Ipv4Addr::new(127, 0, 0, 12),
    Ipv4Addr::new(127, 0, 0, 13),
    Ipv4Addr::new(127, 0, 0, 14),
];

/// The most connections accepted in a row. A burst of new connections must not delay the open connections.
const ACCEPTS: usize = 64;

/// The number of ports that are tried until one is free on every address.
const PORTS_TRIED: usize = 20;

const STDIN: u64 = u64::MAX;

/// Serves until standard input ends. `unsent` bounds the bytes that a socket holds and has not sent yet; with
/// 0 the kernel decides.
///
/// # Errors
/// Returns an error if a bind or epoll fails.
pub(crate) fn run(unsent: u32) -> io::Result<()> {
    let listeners = bind()?;
    for listener in &listeners {
        socket2::SockRef::from(listener).set_tcp_notsent_lowat(unsent)?;
    }
    let mut poller = Poller::new()?;
    poller.add(io::stdin(), STDIN, Interest::Read)?;
    for (token, listener) in listeners.iter().enumerate() {
        poller.add(listener, token as u64, Interest::Read)?;
    }
    println!("{}", listeners[0].local_addr()?.port());
    io::stdout().flush()?;

    let buffers = SharedBuffers { source: hello::filler(CHUNK), read_buffer: vec![0; CHUNK] };
    let mut table = ConnectionTable { connections: Vec::new(), free: Vec::new(), buffers };
    let mut tokens = Vec::new();
    loop {
        poller.wait(Duration::from_secs(60), &mut tokens)?;
        for token in &tokens {
            if *token == STDIN {
                return Ok(());
            }
            match listeners.get(*token as usize) {
                Some(listener) => table.accept(listener, &poller),
                None => table.serve(*token as usize - listeners.len(), &poller),
            }
        }
    }
}

fn bind() -> io::Result<Vec<TcpListener>> {
    let mut failed = io::Error::other("no port was tried");
    for _ in 0..PORTS_TRIED {
        let first = listen(ADDRESSES[0], 0)?;
        let port = first.local_addr()?.port();
        match ADDRESSES[1..].iter().map(|address| listen(*address, port)).collect::<io::Result<Vec<_>>>() {
            Ok(others) => return Ok(std::iter::once(first).chain(others).collect()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen(address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit this option. An answer must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&std::net::SocketAddr::from((address, port)).into())?;
    socket.listen(8192)?;
    Ok(socket.into())
}

enum BackendTask {
    /// The hello is read; these are its bytes so far.
    ReadHello(Vec<u8>),
    /// Bytes are sent back; these could not be sent yet.
    Echo(Vec<u8>),
    Send {
        left: u64,
        finish: bool,
    },
    Count(u64),
    AwaitEnd,
}

struct ServedConnection {
    socket: TcpStream,
    task: BackendTask,
    interest: Interest,
}

/// The buffers that all connections share.
struct SharedBuffers {
    /// The bytes that are sent.
    source: Vec<u8>,
    /// The buffer that reads fill.
    read_buffer: Vec<u8>,
}

struct ConnectionTable {
    connections: Vec<Option<ServedConnection>>,
    free: Vec<usize>,
    buffers: SharedBuffers,
}

impl ConnectionTable {
    fn accept(&mut self, listener: &TcpListener, poller: &Poller) {
        for _ in 0..ACCEPTS {
            // The failure is temporary, or the client caused it. The listener stays ready if more connections
            // wait.
            let Ok((socket, _)) = listener.accept() else { return };
            let mut connection = ServedConnection {
                socket,
                task: BackendTask::ReadHello(Vec::new()),
                interest: Interest::Read,
            };
            // The hello has usually arrived with the connection.
            let Ok(Some(interest)) = connection.serve(&mut self.buffers) else { continue };
            connection.interest = interest;
            let slot = self.free.pop().unwrap_or(self.connections.len());
            let token = (ADDRESSES.len() + slot) as u64;
            if poller.add(&connection.socket, token, interest).is_err() {
                self.free.push(slot);
                continue;
            }
            if slot == self.connections.len() {
                self.connections.push(None);
            }
            self.connections[slot] = Some(connection);
        }
    }

    fn serve(&mut self, slot: usize, poller: &Poller) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        let kept = match connection.serve(&mut self.buffers) {
            Ok(Some(interest)) if interest == connection.interest => true,
            Ok(Some(interest)) => {
                connection.interest = interest;
                poller.change(&connection.socket, (ADDRESSES.len() + slot) as u64, interest).is_ok()
            }
            Ok(None) | Err(_) => false,
        };
        if !kept {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl ServedConnection {
    /// Continues the task and returns the event to wait for, or `None` at the end of the task.
    fn serve(&mut self, buffers: &mut SharedBuffers) -> io::Result<Option<Interest>> {
        match &mut self.task {
            BackendTask::ReadHello(_) => self.receive(buffers),
            BackendTask::Echo(owed) if owed.is_empty() => self.echo(buffers),
            BackendTask::Echo(owed) => {
                let sent = write_available(&self.socket, owed)?;
                owed.drain(..sent);
                Ok(Some(if owed.is_empty() { Interest::Read } else { Interest::Write }))
            }
            BackendTask::Send { .. } => self.send(&buffers.source),
            BackendTask::Count(_) => self.count(buffers),
            BackendTask::AwaitEnd => match discard(&self.socket, &mut buffers.read_buffer)? {
                Moved::End => Ok(None),
                Moved::Bytes(_) | Moved::Blocked => Ok(Some(Interest::Read)),
            },
        }
    }

    fn receive(&mut self, buffers: &mut SharedBuffers) -> io::Result<Option<Interest>> {
        let BackendTask::ReadHello(hello_bytes) = &mut self.task else { return Ok(None) };
        match read_available(&self.socket, &mut buffers.read_buffer)? {
            Moved::Bytes(count) => hello_bytes.extend_from_slice(&buffers.read_buffer[..count]),
            Moved::Blocked => return Ok(Some(Interest::Read)),
            Moved::End => return Ok(None),
        }
        let (length, command) = match hello::read(hello_bytes) {
            ParsedHello::Whole(length, command) => (length, command),
            ParsedHello::Incomplete => return Ok(Some(Interest::Read)),
            ParsedHello::Foreign => return Ok(None),
        };
        let early = hello_bytes.split_off(length);
        self.task = match command {
            Command::Echo => BackendTask::Echo(early),
            Command::Reply(left) => BackendTask::Send { left, finish: false },
            Command::Stream(left) => BackendTask::Send { left, finish: true },
            Command::Count => BackendTask::Count(early.len() as u64),
        };
        match &self.task {
            BackendTask::Echo(owed) if !owed.is_empty() => Ok(Some(Interest::Write)),
            BackendTask::Send { .. } => self.send(&buffers.source),
            _ => Ok(Some(Interest::Read)),
        }
    }

    fn echo(&mut self, buffers: &mut SharedBuffers) -> io::Result<Option<Interest>> {
        let count = match read_available(&self.socket, &mut buffers.read_buffer)? {
            Moved::Bytes(count) => count,
            Moved::Blocked => return Ok(Some(Interest::Read)),
            Moved::End => return Ok(None),
        };
        let sent = write_available(&self.socket, &buffers.read_buffer[..count])?;
        if sent == count {
            return Ok(Some(Interest::Read));
        }
        self.task = BackendTask::Echo(buffers.read_buffer[sent..count].to_vec());
        Ok(Some(Interest::Write))
    }

    fn send(&mut self, source: &[u8]) -> io::Result<Option<Interest>> {
        let BackendTask::Send { left, finish } = &mut self.task else { return Ok(None) };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(source.len());
        *left -= write_available(&self.socket, &source[..most])? as u64;
        if *left > 0 {
            return Ok(Some(Interest::Write));
        }
        if *finish {
            self.socket.shutdown(Shutdown::Write)?;
        }
        self.task = BackendTask::AwaitEnd;
        Ok(Some(Interest::Read))
    }

    fn count(&mut self, buffers: &mut SharedBuffers) -> io::Result<Option<Interest>> {
        let BackendTask::Count(seen) = &mut self.task else { return Ok(None) };
        match discard(&self.socket, &mut buffers.read_buffer)? {
            Moved::Bytes(count) => *seen += count as u64,
            Moved::Blocked => {}
            Moved::End => {
                // The socket has sent nothing yet, so eight bytes always fit.
                write_available(&self.socket, &seen.to_be_bytes())?;
                return Ok(None);
            }
        }
        Ok(Some(Interest::Read))
    }
}
