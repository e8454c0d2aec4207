//! The attackers: one process, one thread, many connections that all do the same.
//!
//! It says `ready` once all are there, answers each line with what became of them until then, and is killed
//! in the end.

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

use crate::poller::{Moved, discard, give, take};
use crate::words::{Words, source};

/// Printed when the attack has reached its strength.
pub(crate) const READY: &str = "ready";

/// A slow attacker does something this often.
const SLOWNESS: Duration = Duration::from_secs(1);

/// The attack is ready even if not all could come.
const RAMP: Duration = Duration::from_secs(15);

/// No attacker lives longer, whatever becomes of the run.
const LONGEST: Duration = Duration::from_secs(300);

/// How often it is looked who may come or act. Short, so that what is done at once is little: those who are measured
/// have the same CPUs.
const TICK: Duration = Duration::from_millis(1);

/// What happens after the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Then {
    /// Ends in order at once.
    Close,
    /// Resets at once.
    Reset,
    /// Waits until the server ends.
    Await,
    /// Stays and never reads.
    Stay,
    /// Stays and reads a byte each second.
    Sip,
    /// Does not say its words at once, but a byte each second.
    Trickle,
}

/// An order to a process of attackers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Attack {
    pub(crate) to: SocketAddr,
    /// Open at once.
    pub(crate) connections: usize,
    /// New ones a second at most.
    pub(crate) rate: u32,
    pub(crate) words: Words,
    pub(crate) then: Then,
    /// Addresses they come from.
    pub(crate) sources: usize,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Connections begun.
    pub(crate) begun: u64,
    /// Those that the server, or its host, ended or refused.
    pub(crate) ended: u64,
    /// Those that could not even be begun.
    pub(crate) failed: u64,
    /// Open now.
    pub(crate) open: u64,
}

struct Foe {
    socket: TcpStream,
    number: usize,
    /// Bytes of the words that are said.
    said: usize,
}

struct Swarm {
    attack: Attack,
    epoll: Epoll,
    foes: Vec<Option<Foe>>,
    free: Vec<usize>,
    /// Who acts next, and its number: another may have taken the place since.
    due: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    /// The two kinds of words that connections take turns in.
    words: [Vec<u8>; 2],
    tally: Tally,
}

/// Attacks until it is killed, or standard input ends.
///
/// # Errors
/// When epoll or standard output fails.
pub(crate) fn run(attack: Attack) -> io::Result<()> {
    let mut swarm = Swarm {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        foes: Vec::new(),
        free: (0..attack.connections).rev().collect(),
        due: BinaryHeap::new(),
        words: [attack.words.bytes(0), attack.words.bytes(1)],
        tally: Tally::default(),
        attack,
    };
    swarm.foes.resize_with(attack.connections, || None);
    let (began, questions) = (Instant::now(), questions());
    let mut is_ready = false;
    while began.elapsed() < LONGEST {
        swarm.admit(began);
        swarm.act();
        swarm.turn()?;
        let is_many = swarm.tally.begun >= attack.connections as u64;
        if !is_ready && (is_many || began.elapsed() > RAMP) {
            is_ready = true;
            say(READY)?;
        }
        match questions.try_recv() {
            Ok(()) => {
                swarm.tally.open = (swarm.foes.len() - swarm.free.len()) as u64;
                say(&serde_json::to_string(&swarm.tally)?)?;
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
        }
    }
    Ok(())
}

/// A word for each line of standard input; ends with it.
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

fn say(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

impl Swarm {
    /// Lets as many come as there is room and pace for.
    fn admit(&mut self, began: Instant) {
        let paced = (began.elapsed().as_secs_f64() * f64::from(self.attack.rate)) as u64;
        // What was missed while the machine was busy is not made up for.
        let most = (f64::from(self.attack.rate) * 0.05) as u64 + 1;
        let count = paced.saturating_sub(self.tally.begun + self.tally.failed);
        let skipped = count.saturating_sub(most);
        self.tally.failed += skipped;
        for _ in 0..count - skipped {
            let Some(place) = self.free.pop() else {
                // They wait for room; that too is not made up for.
                return;
            };
            self.tally.begun += 1;
            if self.begin(place).is_err() {
                self.leave(place);
                self.tally.ended += 1;
            }
        }
    }

    fn begin(&mut self, place: usize) -> io::Result<()> {
        let number = self.tally.begun as usize;
        let socket = connect(self.attack.to, number % self.attack.sources)?;
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, place as u64);
        self.epoll.add(&socket, event)?;
        self.foes[place] = Some(Foe { socket, number, said: 0 });
        Ok(())
    }

    fn leave(&mut self, place: usize) {
        self.foes[place] = None;
        self.free.push(place);
    }

    /// What slow ones do, each at a pace of its own: they came one after the other, and so they act.
    fn act(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((when, place, number))) = self.due.peek()
            && when <= now
        {
            self.due.pop();
            let Some(foe) = self.foes[place].as_mut().filter(|foe| foe.number == number) else { continue };
            let words = &self.words[foe.number % 2];
            let acted = match self.attack.then {
                Then::Trickle => {
                    let next = foe.said.min(words.len() - 1);
                    foe.said += 1;
                    give(&foe.socket, &words[next..=next]).map(drop)
                }
                _ => match take(&foe.socket, &mut [0]) {
                    Ok(Moved::End) => Err(io::ErrorKind::UnexpectedEof.into()),
                    other => other.map(drop),
                },
            };
            match acted {
                Ok(()) => self.due.push(Reverse((when + SLOWNESS, place, number))),
                Err(_) => self.lose(place),
            }
        }
    }

    fn lose(&mut self, place: usize) {
        self.tally.ended += 1;
        self.leave(place);
    }

    /// Waits a moment and serves what is ready.
    fn turn(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let patience = u16::try_from(TICK.as_millis()).unwrap_or(1);
        let count = match self.epoll.wait(&mut events, patience) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let place = event.data() as usize;
            if self.foes[place].is_some() && self.serve(place, event.events()).is_err() {
                self.lose(place);
            }
        }
        Ok(())
    }

    fn serve(&mut self, place: usize, events: EpollFlags) -> io::Result<()> {
        let Some(foe) = self.foes[place].as_mut() else { return Ok(()) };
        if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if events.contains(EpollFlags::EPOLLIN) {
            return match discard(&foe.socket, &mut [0; 65_536])? {
                Moved::End => Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Bytes(_) | Moved::Blocked => Ok(()),
            };
        }
        let words = &self.words[foe.number % 2];
        if self.attack.then != Then::Trickle {
            foe.said += give(&foe.socket, &words[foe.said..])?;
            if foe.said < words.len() {
                return Ok(());
            }
        }
        let further = match self.attack.then {
            Then::Close => {
                self.leave(place);
                return Ok(());
            }
            Then::Reset => {
                socket2::SockRef::from(&foe.socket).set_linger(Some(Duration::ZERO))?;
                self.leave(place);
                return Ok(());
            }
            Then::Await | Then::Trickle => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            Then::Stay | Then::Sip => EpollFlags::EPOLLRDHUP,
        };
        self.epoll.modify(&foe.socket, &mut EpollEvent::new(further, place as u64))?;
        if matches!(self.attack.then, Then::Trickle | Then::Sip) {
            self.due.push(Reverse((Instant::now(), place, foe.number)));
        }
        Ok(())
    }
}

fn connect(to: SocketAddr, from: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    // The port is chosen by connect, which may then take one that is in use towards other addresses.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((source(from), 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}
