//! A connected socket in the reactor, TCP or Unix alike.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use socket2::SockRef;

use super::reactor::{Readiness, SocketRegistration};
use super::{Pipe, socket};

/// A stream socket registered with the reactor of its thread, once for its whole life.
///
/// A read that fills less than its buffer means that the socket is drained, so the next one waits
/// for the kernel's word; urgent data is the exception, because it ends a read early, and a splice
/// for good. One task at a time may wait for a stream.
pub struct Stream {
    /// Closed first: that takes it out of epoll.
    fd: OwnedFd,
    watch: SocketRegistration,
}

impl Stream {
    /// Registers a connected socket with the reactor of this thread. Bytes that are there already are
    /// reported like those that come later.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`, for instance at the limit of watches; the socket is then reset.
    ///
    /// # Panics
    ///
    /// On a thread without a reactor.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::watched(fd, Readiness::WRITE)
    }

    /// Registers a socket whose connect has been started.
    ///
    /// # Errors
    ///
    /// As [`Stream::register`].
    ///
    /// # Panics
    ///
    /// As [`Stream::register`].
    pub fn register_connecting(fd: OwnedFd) -> io::Result<Self> {
        Self::watched(fd, Readiness::NONE)
    }

    fn watched(fd: OwnedFd, known: Readiness) -> io::Result<Self> {
        match SocketRegistration::new(&fd, known) {
            Ok(watch) => Ok(Self { fd, watch }),
            Err(error) => {
                // Nobody can serve it, so its peer must not take the end for an orderly one.
                let _ = socket::reset_on_close(&fd);
                Err(error)
            }
        }
    }

    /// Takes the socket out of the reactor.
    pub fn into_fd(self) -> OwnedFd {
        self.watch.remove(&self.fd);
        self.fd
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
        std::future::poll_fn(|cx| self.watch.poll(cx, Readiness::WRITABLE)).await;
        self.take_error().map_or(Ok(()), Err)
    }

    /// Waits until the peer has reset the connection, or it failed otherwise.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn failed(&self) {
        std::future::poll_fn(|cx| self.watch.poll(cx, Readiness::ERROR)).await;
    }

    /// Waits until the peer has ended its direction or the connection has failed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn ended(&self) {
        std::future::poll_fn(|cx| self.watch.poll(cx, Readiness::ENDED)).await;
    }

    /// Whether the reactor has already reported the end of the peer: a FIN or an error. Costs no system call.
    pub fn has_ended(&self) -> bool {
        self.watch.is(Readiness::ENDED)
    }

    /// Whether the reactor has already reported that nothing can be written any more: the peer of a Unix socket has
    /// closed, or the connection failed. Costs no system call.
    pub fn is_shut(&self) -> bool {
        self.watch.is(Readiness::SHUT)
    }

    /// Whether bytes wait to be read. Does not read them.
    pub fn has_unread(&self) -> bool {
        matches!(socket::peek(&self.fd, &mut [0]), Ok(1..))
    }

    /// Whether the reactor has already reported an error on this socket. Costs no system call.
    pub fn has_error(&self) -> bool {
        self.watch.is(Readiness::ERROR)
    }

    /// The error that waits on this socket, and would otherwise be the next call's.
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.fd).take_error().ok().flatten()
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    ///
    /// What the peer or the kernel did; never `WouldBlock`.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watch.poll(cx, Readiness::READABLE));
            let urgent = self.has_urgent();
            if urgent {
                // An urgent byte is then one of the stream, in its place. Sockets that were accepted
                // have this from their listener; for the others it is soon enough now.
                let _ = SockRef::from(&self.fd).set_out_of_band_inline(true);
            }
            match socket::recv(&self.fd, buffer) {
                Ok(n) => {
                    if n > 0 && n < buffer.len() && !urgent {
                        self.watch.clear(Readiness::READ);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.clear(Readiness::READABLE);
                }
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
            ready!(self.watch.poll(cx, Readiness::WRITABLE));
            match socket::send(&self.fd, bytes) {
                Ok(n) => {
                    if n < bytes.len() {
                        // The send buffer is full.
                        self.watch.clear(Readiness::WRITE);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.clear(Readiness::WRITABLE);
                }
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
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll(cx, Readiness::READABLE)
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
            ready!(self.watch.poll(cx, Readiness::READABLE));
            if self.has_urgent() {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            match pipe.fill_from(&self.fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.clear(Readiness::READABLE);
                }
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
            ready!(self.watch.poll(cx, Readiness::WRITABLE));
            match pipe.empty_into(&self.fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.clear(Readiness::WRITABLE);
                }
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
        SockRef::from(&self.fd).shutdown(Shutdown::Write)
    }

    /// Whether urgent data has ever been announced on this socket: then a short read may stop at its
    /// mark with more bytes behind it.
    fn has_urgent(&self) -> bool {
        self.watch.is(Readiness::URGENT)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stream").field(&self.fd).finish()
    }
}

#[cfg(test)]
mod tests;
