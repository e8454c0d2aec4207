//! The attackers: one process with one thread and many connections that all do the same.
//!
//! The process prints `ready` when the attack has its full strength. It answers each line with its counts
//! until then. In the end it is killed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::payload::{Payload, source};
use crate::poller::{Moved, discard, read_available, write_available};

/// Printed when the attack has its full strength.
pub(crate) const READY: &str = "ready";

/// The time between two actions of a slow attacker.
const SLOWNESS: Duration = Duration::from_secs(1);

/// The attack is ready after this time, even if not all attackers could connect.
const RAMP: Duration = Duration::from_secs(15);

/// The longest time of an attack, in case the run does not end it.
const LONGEST: Duration = Duration::from_secs(300);

/// The time between two passes over the attackers. It is short, so that each pass does little: the measured
/// processes use the same CPUs.
const TICK: Duration = Duration::from_millis(1);

/// The action of an attacker after its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AfterPayload {
    /// Closes in order at once.
    Close,
    /// Resets at once.
    Reset,
    /// Waits until the server closes.
    Await,
    /// Stays open and never reads.
    Stay,
    /// Stays open and reads a byte each second.
    Sip,
    /// Sends its payload slowly, a byte each second.
    Trickle,
}

/// An order to a process of attackers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Attack {
    pub(crate) to: SocketAddr,
    /// The number of connections that are open at once.
    pub(crate) connections: usize,
    /// The most new connections in a second.
    pub(crate) rate: u32,
    pub(crate) payload: Payload,
    pub(crate) then: AfterPayload,
    /// The number of addresses that the attackers connect from.
    pub(crate) sources: usize,
}

/// The counts of an attack.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AttackCounts {
    /// Connections that were begun.
    pub(crate) begun: u64,
    /// Connections that the server, or its host, closed or refused.
    pub(crate) ended: u64,
    /// Connections that could not be begun.
    pub(crate) failed: u64,
    /// Connections that are open now.
    pub(crate) open: u64,
}

struct Attacker {
    socket: TcpStream,
    number: usize,
    /// The number of bytes of the payload that are sent.
    sent: usize,
}

struct AttackLoop {
    attack: Attack,
    epoll: Epoll,
    attackers: Vec<Option<Attacker>>,
    free: Vec<usize>,
    /// The time of each next action, with the slot and the number of its attacker. The slot may have
    /// another attacker by then.
    due: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    /// The payloads of connections with even and with odd numbers.
    payload: [Vec<u8>; 2],
    counts: AttackCounts,
}

/// Attacks until the process is killed, or standard input ends.
///
/// # Errors
/// Returns an error if epoll or standard output fails.
pub(crate) fn run(attack: Attack) -> io::Result<()> {
    let mut attack_loop = AttackLoop {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        attackers: Vec::new(),
        free: (0..attack.connections).rev().collect(),
        due: BinaryHeap::new(),
        payload: [attack.payload.bytes(0), attack.payload.bytes(1)],
        counts: AttackCounts::default(),
        attack,
    };
    attack_loop.attackers.resize_with(attack.connections, || None);
    let (began, questions) = (Instant::now(), questions());
    let mut is_ready = false;
    while began.elapsed() < LONGEST {
        attack_loop.admit(began);
        attack_loop.act();
        attack_loop.wait_once()?;
        let is_many = attack_loop.counts.begun >= attack.connections as u64;
        if !is_ready && (is_many || began.elapsed() > RAMP) {
            is_ready = true;
            print_line(READY)?;
        }
        match questions.try_recv() {
            Ok(()) => {
                attack_loop.counts.open = (attack_loop.attackers.len() - attack_loop.free.len()) as u64;
                print_line(&serde_json::to_string(&attack_loop.counts)?)?;
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
        }
    }
    Ok(())
}

/// Returns a channel that gets a message for each line of standard input, and ends with it.
pub(crate) fn questions() -> Receiver<()> {
    let (ask, questions) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() || ask.send(()).is_err() {
                return;
            }
        }
    });
    questions
}

fn print_line(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

impl AttackLoop {
    /// Begins new connections, as far as the slots and the rate allow.
    fn admit(&mut self, began: Instant) {
        let paced = (began.elapsed().as_secs_f64() * f64::from(self.attack.rate)) as u64;
        // Connections that a busy machine delayed too long are skipped.
        let most = (f64::from(self.attack.rate) * 0.05) as u64 + 1;
        let count = paced.saturating_sub(self.counts.begun + self.counts.failed);
        let skipped = count.saturating_sub(most);
        self.counts.failed += skipped;
        for _ in 0..count - skipped {
            let Some(slot) = self.free.pop() else {
                // The other connections wait for a free slot; they are not begun later either.
                return;
            };
            self.counts.begun += 1;
            if self.begin(slot).is_err() {
                self.free_slot(slot);
                self.counts.ended += 1;
            }
        }
    }

    fn begin(&mut self, slot: usize) -> io::Result<()> {
        let number = self.counts.begun as usize;
        let socket = connect(self.attack.to, number % self.attack.sources)?;
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, slot as u64);
        self.epoll.add(&socket, event)?;
        self.attackers[slot] = Some(Attacker { socket, number, sent: 0 });
        Ok(())
    }

    fn free_slot(&mut self, slot: usize) {
        self.attackers[slot] = None;
        self.free.push(slot);
    }

    /// Does the due actions of slow attackers. Each attacker has a time of its own, because the attackers
    /// began one after the other.
    fn act(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((when, slot, number))) = self.due.peek()
            && when <= now
        {
            self.due.pop();
            let Some(attacker) = self.attackers[slot].as_mut().filter(|attacker| attacker.number == number)
            else {
                continue;
            };
            let payload = &self.payload[attacker.number % 2];
            let acted = match self.attack.then {
                AfterPayload::Trickle => {
                    let next = attacker.sent.min(payload.len() - 1);
                    attacker.sent += 1;
                    write_available(&attacker.socket, &payload[next..=next]).map(drop)
                }
                _ => match read_available(&attacker.socket, &mut [0]) {
                    Ok(Moved::End) => Err(io::ErrorKind::UnexpectedEof.into()),
                    other => other.map(drop),
                },
            };
            match acted {
                Ok(()) => self.due.push(Reverse((when + SLOWNESS, slot, number))),
                Err(_) => self.lose(slot),
            }
        }
    }

    fn lose(&mut self, slot: usize) {
        self.counts.ended += 1;
        self.free_slot(slot);
    }

    /// Waits for at most [`TICK`] and serves the ready sockets.
    fn wait_once(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let patience = u16::try_from(TICK.as_millis()).unwrap_or(1);
        let count = match self.epoll.wait(&mut events, patience) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let slot = event.data() as usize;
            if self.attackers[slot].is_some() && self.serve(slot, event.events()).is_err() {
                self.lose(slot);
            }
        }
        Ok(())
    }

    fn serve(&mut self, slot: usize, events: EpollFlags) -> io::Result<()> {
        let Some(attacker) = self.attackers[slot].as_mut() else { return Ok(()) };
        if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if events.contains(EpollFlags::EPOLLIN) {
            return match discard(&attacker.socket, &mut [0; 65_536])? {
                Moved::End => Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Bytes(_) | Moved::Blocked => Ok(()),
            };
        }
        let payload = &self.payload[attacker.number % 2];
        if self.attack.then != AfterPayload::Trickle {
            attacker.sent += write_available(&attacker.socket, &payload[attacker.sent..])?;
            if attacker.sent < payload.len() {
                return Ok(());
            }
        }
        let further = match self.attack.then {
            AfterPayload::Close => {
                self.free_slot(slot);
                return Ok(());
            }
            AfterPayload::Reset => {
                socket2::SockRef::from(&attacker.socket).set_linger(Some(Duration::ZERO))?;
                self.free_slot(slot);
                return Ok(());
            }
            AfterPayload::Await | AfterPayload::Trickle => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            AfterPayload::Stay | AfterPayload::Sip => EpollFlags::EPOLLRDHUP,
        };
        self.epoll.modify(&attacker.socket, &mut EpollEvent::new(further, slot as u64))?;
        if matches!(self.attack.then, AfterPayload::Trickle | AfterPayload::Sip) {
            self.due.push(Reverse((Instant::now(), slot, attacker.number)));
        }
        Ok(())
    }
}

fn connect(to: SocketAddr, from: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    // The kernel chooses the port at the connect. It may take a port that another connection with another
    // destination uses.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((source(from), 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}
