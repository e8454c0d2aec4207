//! Frames between two processes over a Unix stream socket: a kind, JSON, raw bytes, and descriptors.
//!
//! ```text
//! kind (1 byte) | 0 (1) | descriptors (2) | length of the JSON (4) | length of the raw bytes (8) | JSON | raw bytes
//! ```
//!
//! Numbers are big-endian. The descriptors come with the first byte of the head. All calls block, with the time limit of
//! the socket, so only threads that may wait use them.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, sockopt};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::retry;

/// The most descriptors in a frame. Linux allows 253 (SCM_MAX_FD); an even number fits whole connections.
pub const MOST_DESCRIPTORS: usize = 252;

/// The most bytes of JSON in a frame.
pub const MOST_JSON: usize = 16 << 20;

/// The most raw bytes in a frame. A connection holds less than 3 MiB.
pub const MOST_RAW: usize = 64 << 20;

/// The length of the head.
const HEAD: usize = 16;

/// The most bytes for which memory is taken before they have come.
const CHUNK: usize = 64 * 1024;

/// Room for more descriptors than a frame has. The kernel closes those for which there is none.
const CONTROL_SPACE: usize = 2048;

/// The space of control messages, aligned as their headers must be.
#[repr(align(8))]
struct ControlSpace([u8; CONTROL_SPACE]);

/// A frame that was received.
#[derive(Debug, Default)]
pub struct Frame {
    /// The kind of the message.
    pub kind: u8,
    /// The message as JSON.
    pub json: Vec<u8>,
    /// The bytes beside the message.
    pub raw: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// The number of descriptors that were sent.
    pub expected: usize,
}

impl Frame {
    /// Returns the frame if all its descriptors came.
    ///
    /// # Errors
    ///
    /// Both numbers, if some are missing.
    pub fn whole(self) -> Result<Self, FrameFault> {
        let (expected, found) = (self.expected, self.descriptors.len());
        if found == expected { Ok(self) } else { Err(FrameFault::Descriptors { expected, found }) }
    }
}

/// The fault of a frame that could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameFault {
    /// The other process closed the socket between two frames.
    #[error("the other process has ended or closed the connection")]
    Closed,
    /// The other process closed the socket within a frame.
    #[error("the other process has ended within a message")]
    Truncated,
    /// Nothing came, or nothing could be sent, for the time limit.
    #[error("the other process did not answer in time")]
    Timeout,
    /// A part is longer than its bound.
    #[error("a message part of {length} bytes; {most} are allowed")]
    TooLong {
        /// The length in the head.
        length: u64,
        /// The bound.
        most: usize,
    },
    /// Descriptors are missing: the receiver has too many open, or a security module removed them.
    #[error(
        "{found} of {expected} descriptors came; the limit of open descriptors (RLIMIT_NOFILE) may be reached, or a \
         security module removes them"
    )]
    Descriptors {
        /// The number in the head.
        expected: usize,
        /// The number that came.
        found: usize,
    },
    /// An error of the kernel.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl FrameFault {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// The user and the process at the other end, as the kernel reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The process id.
    pub pid: u32,
    /// The user id.
    pub uid: u32,
}

/// A connected socket that sends and receives frames.
#[derive(Debug)]
pub struct FrameSocket(UnixStream);

impl FrameSocket {
    /// Wraps a connected socket, which becomes blocking.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        Ok(Self(socket))
    }

    /// Connects to a process that listens at a path. Waits for at most 10 s if the queue of that process is full.
    ///
    /// # Errors
    ///
    /// Errors of `connect`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        const LIMIT: Duration = Duration::from_secs(10);
        let socket = Socket::new_raw(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.set_write_timeout(Some(LIMIT))?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_write_timeout(None)?;
        Self::new(OwnedFd::from(socket).into())
    }

    /// Accepts a connection at a listening socket. If the listening socket is non-blocking, it does not wait.
    ///
    /// # Errors
    ///
    /// Errors of `accept`.
    pub fn accept(listening: impl AsFd) -> io::Result<Self> {
        let (socket, _) = retry(|| SockRef::from(&listening).accept())?;
        Self::new(OwnedFd::from(socket).into())
    }

    /// Sets the longest time without progress of a call. `None` waits for ever.
    ///
    /// # Errors
    ///
    /// Errors of `setsockopt`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)?;
        self.0.set_write_timeout(timeout)
    }

    /// Returns the user and the process at the other end.
    ///
    /// # Errors
    ///
    /// Errors of `getsockopt`.
    pub fn peer(&self) -> io::Result<PeerCredentials> {
        let found = nix::sys::socket::getsockopt(&self.0, sockopt::PeerCredentials)?;
        Ok(PeerCredentials { pid: found.pid().unsigned_abs(), uid: found.uid() })
    }

    /// Ends the reading side: the other process can send no more. What it has sent can still be received.
    pub fn close_reading(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Read);
    }

    /// Ends the connection: calls of other threads on the same socket return.
    pub fn shut_down(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    /// Returns a second value for the same socket.
    ///
    /// # Errors
    ///
    /// If no descriptor is free.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// If the frame is too large, the other process is gone, or it takes nothing for the time limit.
    pub fn send(
        &self,
        kind: u8,
        json: &[u8],
        raw: &[&[u8]],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), FrameFault> {
        let raw_length: usize = raw.iter().map(|part| part.len()).sum();
        bounded(json.len() as u64, MOST_JSON)?;
        bounded(raw_length as u64, MOST_RAW)?;
        bounded(descriptors.len() as u64, MOST_DESCRIPTORS)?;
        let mut head = [0; HEAD];
        head[0] = kind;
        // The three bounds fit into the fields.
        head[2..4].copy_from_slice(&(descriptors.len() as u16).to_be_bytes());
        head[4..8].copy_from_slice(&(json.len() as u32).to_be_bytes());
        head[8..].copy_from_slice(&(raw_length as u64).to_be_bytes());
        let sent = self.send_head(&head, descriptors).map_err(FrameFault::of)?;
        let mut socket = &self.0;
        let parts = [&head[sent..], json];
        for part in parts.into_iter().chain(raw.iter().copied()) {
            socket.write_all(part).map_err(FrameFault::of)?;
        }
        Ok(())
    }

    fn send_head(&self, head: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let numbers: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &rights[..0] } else { &rights };
        retry(|| {
            let parts = [IoSlice::new(head)];
            Ok(sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?)
        })
    }

    /// Receives a frame.
    ///
    /// # Errors
    ///
    /// If the other process is gone, sends nothing for the time limit, or sends a frame beyond its bounds or without its
    /// descriptors.
    pub fn receive(&self) -> Result<Frame, FrameFault> {
        let mut head = [0; HEAD];
        let (found, descriptors) = self.receive_head(&mut head).map_err(FrameFault::of)?;
        if found == 0 {
            return Err(FrameFault::Closed);
        }
        let mut socket = &self.0;
        socket.read_exact(&mut head[found..]).map_err(FrameFault::of)?;
        let expected = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let json = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let raw = u64::from_be_bytes([
            head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
        ]);
        let json = bounded(json.into(), MOST_JSON)?;
        let raw = bounded(raw, MOST_RAW)?;
        let (json, raw) = (self.receive_part(json)?, self.receive_part(raw)?);
        Ok(Frame { kind: head[0], json, raw, descriptors, expected })
    }

    /// Receives bytes of the head, with the descriptors. Those that the kernel has opened are owned, also if it had no
    /// room for all of them.
    #[allow(unsafe_code, reason = "the library hides the descriptors of a list that was cut")]
    fn receive_head(&self, head: &mut [u8; HEAD]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = ControlSpace([0; CONTROL_SPACE]);
        let mut part = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
        // SAFETY: zero is a valid value of each field of the struct.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.0.as_mut_ptr().cast();
        message.msg_controllen = space.0.len();
        let received = retry(|| {
            // SAFETY: the message refers to the head and to the space, which live longer than the call.
            let received =
                unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
            usize::try_from(received).map_err(|_| io::Error::last_os_error())
        })?;
        let mut descriptors = Vec::new();
        // SAFETY: the kernel has filled the space, and the message has its length.
        let mut control = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: the pointer is null or refers to a whole header in the space.
        while let Some(header) = unsafe { control.as_ref() } {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                // SAFETY: the macro only computes with the number.
                let before = unsafe { libc::CMSG_LEN(0) } as usize;
                let count = header.cmsg_len.saturating_sub(before) / size_of::<RawFd>();
                // SAFETY: the data follows the header.
                let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
                for at in 0..count {
                    // SAFETY: the list has `count` numbers.
                    let place = unsafe { data.add(at) };
                    // SAFETY: the place is in the list; this read needs no alignment.
                    let number = unsafe { place.read_unaligned() };
                    // SAFETY: the kernel has just opened this descriptor for this process, and no other value owns it.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
            // SAFETY: both pointers refer to the same message.
            control = unsafe { libc::CMSG_NXTHDR(&raw const message, control) };
        }
        Ok((received, descriptors))
    }

    /// Receives a part. Memory is taken as its bytes come.
    fn receive_part(&self, length: usize) -> Result<Vec<u8>, FrameFault> {
        let mut part = Vec::with_capacity(length.min(CHUNK));
        let read = (&self.0).take(length as u64).read_to_end(&mut part).map_err(FrameFault::of)?;
        if read == length { Ok(part) } else { Err(FrameFault::Truncated) }
    }
}

fn bounded(length: u64, most: usize) -> Result<usize, FrameFault> {
    match usize::try_from(length) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(FrameFault::TooLong { length, most }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (FrameSocket, FrameSocket) {
        let (one, other) = UnixStream::pair().unwrap();
        (FrameSocket::new(one).unwrap(), FrameSocket::new(other).unwrap())
    }

    #[test]
    fn a_frame_comes_whole_with_its_descriptors() {
        let (sender, receiver) = pair();
        let (reader, mut writer) = io::pipe().unwrap();
        sender.send(7, b"{}", &[b"ab", b"", b"c"], &[reader.as_fd()]).unwrap();
        sender.send(8, b"", &[], &[]).unwrap();
        drop((sender, reader));
        let frame = receiver.receive().unwrap();
        assert_eq!((frame.kind, &*frame.json, &*frame.raw), (7, &b"{}"[..], &b"abc"[..]));
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(frame.descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(receiver.receive().unwrap().kind, 8);
        assert!(matches!(receiver.receive(), Err(FrameFault::Closed)));
    }

    #[test]
    fn a_frame_of_the_largest_size_passes_while_both_sides_run() {
        let (sender, receiver) = pair();
        let file = io::pipe().unwrap().0;
        let raw = vec![5; 8 << 20];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let all = [file.as_fd(); MOST_DESCRIPTORS];
                sender.send(1, b"[]", &[&raw], &all).unwrap();
            });
            let frame = receiver.receive().unwrap();
            assert_eq!((frame.raw.len(), frame.descriptors.len()), (raw.len(), MOST_DESCRIPTORS));
        });
    }

    #[test]
    fn frames_beyond_their_bounds_are_refused() {
        let head = |descriptors: u16, json: u32, raw: u64| {
            let mut head = vec![1, 0];
            head.extend(descriptors.to_be_bytes());
            head.extend(json.to_be_bytes());
            head.extend(raw.to_be_bytes());
            head
        };
        let check = |bytes: &[u8], expected: fn(&FrameFault) -> bool| {
            let (sender, receiver) = pair();
            (&sender.0).write_all(bytes).unwrap();
            drop(sender);
            let fault = receiver.receive().unwrap_err();
            assert!(expected(&fault), "{fault}");
        };
        check(&head(0, u32::MAX, 0), |fault| matches!(fault, FrameFault::TooLong { .. }));
        check(&head(0, 0, u64::MAX), |fault| matches!(fault, FrameFault::TooLong { .. }));
        check(&head(0, 5, 0), |fault| matches!(fault, FrameFault::Truncated));
        check(&head(0, 0, 0)[..7], |fault| matches!(fault, FrameFault::Truncated));
        check(b"", |fault| matches!(fault, FrameFault::Closed));
    }

    #[test]
    fn missing_descriptors_are_counted() {
        let (sender, receiver) = pair();
        (&sender.0).write_all(&[1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let frame = receiver.receive().unwrap();
        assert!(matches!(frame.whole(), Err(FrameFault::Descriptors { expected: 2, found: 0 })));
    }

    #[test]
    fn a_silent_process_is_not_awaited_for_ever() {
        let (silent, receiver) = pair();
        receiver.set_timeout(Some(Duration::from_millis(10))).unwrap();
        assert!(matches!(receiver.receive(), Err(FrameFault::Timeout)));
        assert_eq!(silent.peer().unwrap().pid, std::process::id());
    }
}
