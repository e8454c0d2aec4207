//! Tests of the events that a stream gets from its socket. The test decides when the reactor waits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use proptest::prelude::*;
use socket2::Socket;

use super::*;
use crate::sys::reactor::Reactor;

/// Returns a peer that has done `act`, and the stream under test.
fn after(act: impl FnOnce(&mut TcpStream)) -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    SockRef::from(&socket).set_out_of_band_inline(true).unwrap();
    act(&mut peer);
    (peer, Stream::register(socket.into()).unwrap())
}

/// Checks the result of the first splice from the stream.
fn check_fill(act: impl FnOnce(&mut TcpStream), expected: Result<usize, io::ErrorKind>) {
    let reactor = Reactor::new().unwrap();
    let _entered = reactor.enter();
    let (_peer, stream) = after(act);
    let mut pipe = Pipe::open(1 << 16).unwrap();
    reactor.wait(None).unwrap();
    let filled = stream.poll_fill(&mut Context::from_waker(Waker::noop()), &mut pipe);
    assert_eq!(filled.map_err(|error| error.kind()), Poll::Ready(expected));
}

#[test]
fn only_an_urgent_byte_prevents_a_splice() {
    let write = |peer: &mut TcpStream| peer.write_all(b"some bytes").unwrap();
    check_fill(write, Ok(10));
    // The FIN comes with the bytes, and is not an effect of an urgent byte.
    let write_and_end = |peer: &mut TcpStream| {
        write(peer);
        peer.shutdown(Shutdown::Write).unwrap();
    };
    check_fill(write_and_end, Ok(10));
    let urgent = |peer: &mut TcpStream| {
        write(peer);
        assert_eq!(SockRef::from(&*peer).send_out_of_band(b"!").unwrap(), 1);
    };
    check_fill(urgent, Err(io::ErrorKind::Unsupported));
    let urgent_and_end = |peer: &mut TcpStream| {
        urgent(peer);
        peer.shutdown(Shutdown::Write).unwrap();
    };
    check_fill(urgent_and_end, Err(io::ErrorKind::Unsupported));
}

/// The time that a busy machine may take to deliver bytes.
const PATIENCE: Duration = Duration::from_secs(2);

/// An action on a stream, or of its peer.
#[derive(Clone, Debug)]
enum Act {
    /// The peer writes so many bytes.
    Write(usize),
    /// The peer writes an urgent byte.
    Urgent,
    /// The peer ends.
    Finish,
    /// The peer resets.
    Reset,
    /// The peer reads so many bytes.
    Take(usize),
    /// The stream reads into a buffer of so many bytes.
    Recv(usize),
    /// The stream fills a pipe.
    Fill,
    /// The stream writes so many bytes.
    Send(usize),
    /// The reactor waits for events.
    Wait,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..20_000_usize).prop_map(Act::Write),
        1 => Just(Act::Urgent),
        1 => Just(Act::Finish),
        1 => Just(Act::Reset),
        2 => (1..400_000_usize).prop_map(Act::Take),
        6 => (1..30_000_usize).prop_map(Act::Recv),
        3 => Just(Act::Fill),
        2 => (1..400_000_usize).prop_map(Act::Send),
        6 => Just(Act::Wait),
    ];
    prop::collection::vec(act, 1..60)
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A TCP stream that keeps urgent bytes at their position, as from a listener.
    Accepted,
    Tcp,
    Unix,
}

/// A stream, its peer, and the bytes that they have sent to each other.
struct Exchange {
    reactor: Rc<Reactor>,
    stream: Stream,
    peer: Option<Socket>,
    flag: Arc<Flag>,
    waker: Waker,
    /// The events that the stream waits for, because its last attempt found nothing.
    waits: PollFlags,
    written: usize,
    received: usize,
    ended: bool,
    failed: bool,
}

impl Exchange {
    fn new(kind: Kind, reactor: Rc<Reactor>) -> Self {
        let (near, peer): (OwnedFd, OwnedFd) = if matches!(kind, Kind::Unix) {
            let (near, peer) = UnixStream::pair().unwrap();
            (near.into(), peer.into())
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0.into(), peer.into())
        };
        let (near, peer) = (Socket::from(near), Socket::from(peer));
        near.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        if matches!(kind, Kind::Accepted) {
            near.set_out_of_band_inline(true).unwrap();
        }
        let flag = Arc::new(Flag::default());
        Self {
            reactor,
            stream: Stream::register(near.into()).unwrap(),
            peer: Some(peer),
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            waits: PollFlags::empty(),
            written: 0,
            received: 0,
            ended: false,
            failed: false,
        }
    }

    fn act(&mut self, act: &Act, kind: Kind) {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        match *act {
            Act::Write(n) => self.write(|mut peer| peer.write(&vec![7; n])),
            Act::Urgent if matches!(kind, Kind::Unix) => {}
            Act::Urgent => self.write(|peer| peer.send_out_of_band(b"!")),
            Act::Finish => drop(self.peer.as_ref().map(|peer| peer.shutdown(Shutdown::Write))),
            Act::Reset => {
                if let Some(peer) = self.peer.take() {
                    peer.set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
            Act::Take(n) => {
                let _ = self.peer.as_ref().map(|mut peer| peer.read(&mut vec![0; n]));
            }
            Act::Recv(_) | Act::Fill if self.ended || self.failed => {}
            Act::Recv(n) => {
                let polled = self.stream.poll_recv(&mut cx, &mut vec![0; n]);
                self.read(polled, true);
            }
            Act::Fill => {
                let mut pipe = Pipe::open(1 << 16).unwrap();
                let polled = self.stream.poll_fill(&mut cx, &mut pipe);
                self.read(polled, false);
            }
            Act::Send(n) => match self.stream.poll_send(&mut cx, &vec![8; n]) {
                Poll::Ready(_) => self.waits.remove(PollFlags::POLLOUT),
                Poll::Pending => self.waits.insert(PollFlags::POLLOUT),
            },
            Act::Wait => self.check_woken(),
        }
    }

    fn write(&mut self, write: impl FnOnce(&Socket) -> io::Result<usize>) {
        self.written += self.peer.as_ref().and_then(|peer| write(peer).ok()).unwrap_or(0);
    }

    /// Records the result of an attempt to read. Only some attempts can find the end.
    fn read(&mut self, polled: Poll<io::Result<usize>>, finds_end: bool) {
        self.waits.set(PollFlags::POLLIN, polled.is_pending());
        match polled {
            Poll::Ready(Ok(0)) => self.ended |= finds_end,
            Poll::Ready(Ok(n)) => self.received += n,
            Poll::Ready(Err(error)) => self.failed |= error.kind() != io::ErrorKind::Unsupported,
            Poll::Pending => {}
        }
    }

    /// Checks after the reactor's wait that the stream was woken, or that the events it waits for have not come.
    fn check_woken(&mut self) {
        self.reactor.wait(Some(Duration::ZERO)).unwrap();
        while !self.flag.0.swap(false, Ordering::Relaxed) {
            let mut sockets = [PollFd::new(self.stream.as_fd(), self.waits)];
            if self.waits.is_empty() || nix::poll::poll(&mut sockets, PollTimeout::ZERO).unwrap() == 0 {
                return;
            }
            // An event may have come since, so this wait must find it.
            self.reactor.wait(Some(PATIENCE)).unwrap();
            assert!(self.flag.0.load(Ordering::Relaxed), "an event was lost: {:?}", sockets[0].revents());
        }
        // A stream that was woken has to try again before it waits again.
        self.waits = PollFlags::empty();
    }

    /// Reads to the end, and lets the reactor wait only when the stream finds no bytes.
    fn finish(&mut self, kind: Kind) {
        self.act(&Act::Finish, kind);
        while !self.ended && !self.failed {
            self.act(&Act::Recv(1000), kind);
            if self.waits.contains(PollFlags::POLLIN) {
                self.flag.0.store(false, Ordering::Relaxed);
                self.reactor.wait(Some(PATIENCE)).unwrap();
                assert!(self.flag.0.load(Ordering::Relaxed), "the end was lost");
            }
        }
    }
}

proptest! {
    // Each failing case waits for the whole time.
    #![proptest_config(ProptestConfig { max_shrink_time: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_event_is_lost(
        kind in prop::sample::select(vec![Kind::Accepted, Kind::Tcp, Kind::Unix]),
        acts in acts(),
    ) {
        let reactor = Reactor::new().unwrap();
        let _entered = reactor.enter();
        let mut exchange = Exchange::new(kind, Rc::clone(&reactor));
        for act in &acts {
            exchange.act(act, kind);
        }
        exchange.finish(kind);
        prop_assert!(exchange.received <= exchange.written);
        // An urgent byte may be left out of a stream whose option was set too late.
        if exchange.ended && exchange.peer.is_some() && !matches!(kind, Kind::Tcp) {
            prop_assert_eq!(exchange.received, exchange.written);
        }
    }
}
