//! The backend of every test. It does the work that the hello of each connection names.
//!
//! The backend runs as a process of its own. It prints its port, which is the same on all its addresses. It
//! ends when its standard input ends, so it never outlives the run.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::hello::{self, Command, Greeting};
use crate::poller::{CHUNK, Interest, Moved, Poller, discard, give, take};

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

    let desk = Desk { source: hello::filler(CHUNK), room: vec![0; CHUNK] };
    let mut hall = Hall { guests: Vec::new(), free: Vec::new(), desk };
    let mut tokens = Vec::new();
    loop {
        poller.wait(Duration::from_secs(60), &mut tokens)?;
        for token in &tokens {
            if *token == STDIN {
                return Ok(());
            }
            match listeners.get(*token as usize) {
                Some(listener) => hall.accept(listener, &poller),
                None => hall.serve(*token as usize - listeners.len(), &poller),
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
    Hear(Vec<u8>),
    /// Bytes are sent back; these could not be sent yet.
    Echo(Vec<u8>),
    Send {
        left: u64,
        finish: bool,
    },
    Count(u64),
    AwaitEnd,
}

struct Guest {
    socket: TcpStream,
    task: BackendTask,
    interest: Interest,
}

/// The buffers that all connections share.
struct Desk {
    /// The bytes that are sent.
    source: Vec<u8>,
    /// The buffer that reads fill.
    room: Vec<u8>,
}

struct Hall {
    guests: Vec<Option<Guest>>,
    free: Vec<usize>,
    desk: Desk,
}

impl Hall {
    fn accept(&mut self, listener: &TcpListener, poller: &Poller) {
        for _ in 0..ACCEPTS {
            // The failure is temporary, or the client caused it. The listener stays ready if more connections
            // wait.
            let Ok((socket, _)) = listener.accept() else { return };
            let mut guest = Guest { socket, task: BackendTask::Hear(Vec::new()), interest: Interest::Read };
            // The hello has usually arrived with the connection.
            let Ok(Some(interest)) = guest.serve(&mut self.desk) else { continue };
            guest.interest = interest;
            let place = self.free.pop().unwrap_or(self.guests.len());
            let token = (ADDRESSES.len() + place) as u64;
            if poller.add(&guest.socket, token, interest).is_err() {
                self.free.push(place);
                continue;
            }
            if place == self.guests.len() {
                self.guests.push(None);
            }
            self.guests[place] = Some(guest);
        }
    }

    fn serve(&mut self, place: usize, poller: &Poller) {
        let Some(guest) = self.guests.get_mut(place).and_then(Option::as_mut) else { return };
        let kept = match guest.serve(&mut self.desk) {
            Ok(Some(interest)) if interest == guest.interest => true,
            Ok(Some(interest)) => {
                guest.interest = interest;
                poller.change(&guest.socket, (ADDRESSES.len() + place) as u64, interest).is_ok()
            }
            Ok(None) | Err(_) => false,
        };
        if !kept {
            self.guests[place] = None;
            self.free.push(place);
        }
    }
}

impl Guest {
    /// Continues the task and returns the event to wait for, or `None` at the end of the task.
    fn serve(&mut self, desk: &mut Desk) -> io::Result<Option<Interest>> {
        match &mut self.task {
            BackendTask::Hear(_) => self.receive(desk),
            BackendTask::Echo(owed) if owed.is_empty() => self.echo(desk),
            BackendTask::Echo(owed) => {
                let sent = give(&self.socket, owed)?;
                owed.drain(..sent);
                Ok(Some(if owed.is_empty() { Interest::Read } else { Interest::Write }))
            }
            BackendTask::Send { .. } => self.send(&desk.source),
            BackendTask::Count(_) => self.count(desk),
            BackendTask::AwaitEnd => match discard(&self.socket, &mut desk.room)? {
                Moved::End => Ok(None),
                Moved::Bytes(_) | Moved::Blocked => Ok(Some(Interest::Read)),
            },
        }
    }

    fn receive(&mut self, desk: &mut Desk) -> io::Result<Option<Interest>> {
        let BackendTask::Hear(heard) = &mut self.task else { return Ok(None) };
        match take(&self.socket, &mut desk.room)? {
            Moved::Bytes(count) => heard.extend_from_slice(&desk.room[..count]),
            Moved::Blocked => return Ok(Some(Interest::Read)),
            Moved::End => return Ok(None),
        }
        let (length, command) = match hello::read(heard) {
            Greeting::Whole(length, command) => (length, command),
            Greeting::Incomplete => return Ok(Some(Interest::Read)),
            Greeting::Foreign => return Ok(None),
        };
        let early = heard.split_off(length);
        self.task = match command {
            Command::Echo => BackendTask::Echo(early),
            Command::Reply(left) => BackendTask::Send { left, finish: false },
            Command::Stream(left) => BackendTask::Send { left, finish: true },
            Command::Count => BackendTask::Count(early.len() as u64),
        };
        match &self.task {
            BackendTask::Echo(owed) if !owed.is_empty() => Ok(Some(Interest::Write)),
            BackendTask::Send { .. } => self.send(&desk.source),
            _ => Ok(Some(Interest::Read)),
        }
    }

    fn echo(&mut self, desk: &mut Desk) -> io::Result<Option<Interest>> {
        let count = match take(&self.socket, &mut desk.room)? {
            Moved::Bytes(count) => count,
            Moved::Blocked => return Ok(Some(Interest::Read)),
            Moved::End => return Ok(None),
        };
        let sent = give(&self.socket, &desk.room[..count])?;
        if sent == count {
            return Ok(Some(Interest::Read));
        }
        self.task = BackendTask::Echo(desk.room[sent..count].to_vec());
        Ok(Some(Interest::Write))
    }

    fn send(&mut self, source: &[u8]) -> io::Result<Option<Interest>> {
        let BackendTask::Send { left, finish } = &mut self.task else { return Ok(None) };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(source.len());
        *left -= give(&self.socket, &source[..most])? as u64;
        if *left > 0 {
            return Ok(Some(Interest::Write));
        }
        if *finish {
            self.socket.shutdown(Shutdown::Write)?;
        }
        self.task = BackendTask::AwaitEnd;
        Ok(Some(Interest::Read))
    }

    fn count(&mut self, desk: &mut Desk) -> io::Result<Option<Interest>> {
        let BackendTask::Count(seen) = &mut self.task else { return Ok(None) };
        match discard(&self.socket, &mut desk.room)? {
            Moved::Bytes(count) => *seen += count as u64,
            Moved::Blocked => {}
            Moved::End => {
                // The socket has sent nothing yet, so eight bytes always fit.
                give(&self.socket, &seen.to_be_bytes())?;
                return Ok(None);
            }
        }
        Ok(Some(Interest::Read))
    }
}
