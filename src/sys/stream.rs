//! A connected socket in the reactor, TCP or Unix alike.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::{Pipe, socket};

/// A stream socket registered with the worker's epoll, edge-triggered, once for its whole life.
///
/// A read that fills less than its buffer means that the socket is drained, so readiness is
/// cleared without a second read; urgent data is the exception, because it ends a read early, and a
/// splice for good.
pub struct Stream {
    io: AsyncFd<OwnedFd>,
}

impl Stream {
    /// Registers a socket with the reactor of the current runtime.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`, for instance at the limit of watches; the socket is then reset.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: an `OwnedFd` is open and its number never changes; the `AsyncFd` owns it until it
        // is dropped or gives it back, and nothing here ever closes or replaces it.
        #[allow(unsafe_code)]
        let io = unsafe { AsyncFd::register_with_interest(fd, interest) };
        let io = io.map_err(|refused| {
            let (fd, cause) = refused.into_parts();
            // Nobody can serve it, so its peer must not take the end for an orderly one.
            let _ = socket::reset_on_close(&fd);
            cause
        })?;
        Ok(Self { io })
    }

    /// Takes the socket out of the reactor.
    pub fn into_fd(self) -> OwnedFd {
        self.io.into_inner()
    }

    /// Waits until a started connect has ended.
    ///
    /// # Errors
    ///
    /// Why the connection could not be made.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn connected(&self) -> io::Result<()> {
        let mut guard = self.io.writable().await?;
        guard.retain_ready();
        match SockRef::from(&self.io.as_fd()).take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits until the peer has reset the connection, or it failed otherwise.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn failed(&self) {
        if let Ok(mut guard) = self.io.ready(Interest::ERROR).await {
            guard.retain_ready();
        }
    }

    /// Whether the reactor has already reported an error on this socket. Costs no system call.
    pub fn has_error(&self) -> bool {
        self.io.try_io(Interest::ERROR, |_| Ok(())).is_ok()
    }

    /// The error that waits on this socket, and would otherwise be the next call's.
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.io.as_fd()).take_error().ok().flatten()
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    ///
    /// What the peer or the kernel did; never `WouldBlock`.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.io.poll_read_ready(cx))?;
            let urgent = self.has_urgent();
            if urgent {
                // An urgent byte is then one of the stream, in its place. Sockets that were accepted
                // have this from their listener; for the others it is soon enough now.
                let _ = SockRef::from(&self.io.as_fd()).set_out_of_band_inline(true);
            }
            match socket::recv(&self.io, buffer) {
                Ok(n) => {
                    if n > 0 && n < buffer.len() && !urgent {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_recv`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing was read.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Writes what fits.
    ///
    /// # Errors
    ///
    /// What the peer or the kernel did; never `WouldBlock`.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.io.poll_write_ready(cx))?;
            match socket::send(&self.io, bytes) {
                Ok(n) => {
                    clear_if_short(&mut guard, n < bytes.len());
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what fits, at least one byte.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_send`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing was written.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await
    }

    /// Ready when the reactor has reported something to read, the end included. Costs no system call.
    ///
    /// # Errors
    ///
    /// When the runtime is ending.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }

    /// Fills an empty pipe from this socket. 0 may be the end, and only [`Stream::poll_recv`] can tell:
    /// it also comes, behind a FIN, when the next byte is urgent.
    ///
    /// The pipe must be empty, so that a splice that would block can only mean this socket.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_recv`]; `InvalidInput` when the kernel cannot splice from this socket;
    /// `Unsupported` when urgent data was announced: splice never passes its mark.
    pub fn poll_fill(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        debug_assert!(pipe.is_empty(), "a splice into a pipe that holds bytes can block on either end");
        loop {
            let mut guard = ready!(self.io.poll_read_ready(cx))?;
            if self.has_urgent() {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            match pipe.fill_from(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                result => return Poll::Ready(result),
            }
        }
    }

    /// Empties a pipe into this socket, as far as it goes.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_send`].
    pub fn poll_drain(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.io.poll_write_ready(cx))?;
            match pipe.empty_into(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends our FIN: the peer reads the end after everything written before.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the peer has already reset.
    pub fn finish(&self) -> io::Result<()> {
        SockRef::from(&self.io.as_fd()).shutdown(Shutdown::Write)
    }

    /// Whether urgent data has ever been announced on this socket: then a short read may stop at its
    /// mark with more bytes behind it.
    fn has_urgent(&self) -> bool {
        // This is cheap, but to tokio the end of the source is something urgent too.
        if self.io.try_io(Interest::PRIORITY, |_| Ok(())).is_err() {
            return false;
        }
        let ready = pin!(self.io.ready(Interest::PRIORITY));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(mut guard)) => {
                guard.retain_ready();
                guard.ready().is_priority()
            }
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stream").field(&self.io.as_fd()).finish()
    }
}

/// A short write means a full send buffer, so the next attempt waits for the kernel's word.
fn clear_if_short(guard: &mut AsyncFdReadyGuard<'_, OwnedFd>, short: bool) {
    if short {
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use tokio::runtime::Builder;

    use super::*;

    /// A peer, and the stream under test once the peer has done something.
    fn after(act: impl FnOnce(&mut TcpStream)) -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        SockRef::from(&socket).set_out_of_band_inline(true).unwrap();
        act(&mut peer);
        (peer, Stream::register(socket.into()).unwrap())
    }

    /// What the first splice from the stream gives.
    fn check_fill(act: impl FnOnce(&mut TcpStream), expected: Result<usize, io::ErrorKind>) {
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        let filled = runtime.block_on(async {
            let (_peer, stream) = after(act);
            let mut pipe = Pipe::open(1 << 16).unwrap();
            std::future::poll_fn(|cx| stream.poll_fill(cx, &mut pipe)).await
        });
        assert_eq!(filled.map_err(|error| error.kind()), expected);
    }

    #[test]
    fn only_an_urgent_byte_prevents_a_splice() {
        let write = |peer: &mut TcpStream| peer.write_all(b"some bytes").unwrap();
        check_fill(write, Ok(10));
        // The end comes with the bytes, and is none of an urgent byte's doing.
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
}
