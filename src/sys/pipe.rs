//! A kernel pipe that carries spliced bytes from one socket to another.
//!
//! A pipe has a number of slots, not of bytes: with small packets all slots are used long before the bytes reach
//! its capacity. So a pipe is filled only when it is empty, and emptied before it is filled again. Then a splice
//! can block only because of the socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

use super::{descriptors, retry};

/// The size of a new pipe: 16 slots of a page.
const DEFAULT_CAPACITY: usize = 64 * 1024;

/// A pipe and the number of bytes in it. It is never registered with epoll, because this process uses both ends.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// Opens a pipe of `wanted` bytes, or a quarter of that where the kernel does not grant as much.
    ///
    /// # Errors
    ///
    /// Out of descriptors; or `PermissionDenied` when the user's pipe memory (`fs.pipe-user-pages-soft`) is used up
    /// and the kernel grants less than the default of 64 KiB.
    pub fn open(wanted: usize) -> io::Result<Self> {
        descriptors::check_room(2)?;
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        descriptors::note(&write);
        let granted = [wanted, wanted / 4].into_iter().find_map(|size| resize(&write, size).ok());
        let capacity = match granted {
            Some(capacity) => capacity,
            None => usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(0),
        };
        if capacity < DEFAULT_CAPACITY.min(wanted) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { read, write, capacity, held: 0 })
    }

    /// Returns the number of bytes that it can hold if each slot is full.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns true if it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves bytes from a socket into the pipe. 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the socket has no bytes, if the pipe was empty; `InvalidInput` when the kernel cannot splice
    /// from this socket.
    pub fn fill_from(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = retry(|| self.splice(&socket, &self.write))?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe into a socket.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the socket takes none.
    pub fn empty_into(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = retry(|| self.splice(&self.read, &socket))?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }

    /// Takes the bytes out, for a relay that is stopped while its pipe holds some.
    ///
    /// # Errors
    ///
    /// Errors of `read`; the pipe must then be dropped.
    pub fn take_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut taken = 0;
        while taken < bytes.len() {
            match retry(|| Ok(nix::unistd::read(&self.read, &mut bytes[taken..])?))? {
                0 => break,
                n => taken += n,
            }
        }
        bytes.truncate(taken);
        self.held = 0;
        Ok(bytes)
    }

    fn splice(&self, from: impl AsFd, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let most = if self.held == 0 { self.capacity } else { self.held };
        Ok(splice(from, None, to, None, most, flags)?)
    }
}

fn resize(pipe: &OwnedFd, size: usize) -> io::Result<usize> {
    let size = i32::try_from(size).unwrap_or(i32::MAX);
    let granted = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size))?;
    Ok(usize::try_from(granted).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn bytes_pass_and_are_counted() {
        let ((mut from, source), (mut to, sink)) = (pair(), pair());
        let mut pipe = Pipe::open(1 << 20).unwrap();
        assert!(pipe.capacity() >= DEFAULT_CAPACITY);
        let empty = pipe.fill_from(&source).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        from.write_all(b"some bytes").unwrap();
        assert_eq!(pipe.fill_from(&source).unwrap(), 10);
        assert_eq!((pipe.held(), pipe.is_empty()), (10, false));
        assert_eq!(pipe.empty_into(&sink).unwrap(), 10);
        assert!(pipe.is_empty());
        let mut passed = [0; 10];
        to.read_exact(&mut passed).unwrap();
        assert_eq!(&passed, b"some bytes");
        drop(from);
        assert_eq!(pipe.fill_from(&source).unwrap(), 0);
    }

    #[test]
    fn bytes_can_be_taken_out() {
        let (mut from, source) = pair();
        let mut pipe = Pipe::open(1 << 20).unwrap();
        from.write_all(&[7; 100_000]).unwrap();
        let moved = pipe.fill_from(&source).unwrap();
        assert!(moved > 0);
        assert_eq!(pipe.take_bytes().unwrap(), vec![7; moved]);
        assert!(pipe.is_empty());
        assert_eq!(pipe.take_bytes().unwrap(), Vec::<u8>::new());
    }
}
