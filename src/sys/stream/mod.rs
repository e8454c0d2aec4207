//! A connected socket in the reactor, TCP or Unix.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use socket2::SockRef;

use super::reactor::{Readiness, SocketRegistration};
use super::{Pipe, socket};

/// A stream socket. It is registered once, for as long as it is open, with the reactor of its thread.
///
/// A read that fills less than its buffer means that the socket is drained, so the next read waits for a report of
/// the kernel. Urgent data is the exception: it ends a read early, and it ends splicing from the socket for good. At
/// most one task may wait for a stream at a time.
pub struct Stream {
    /// Closed first, which removes it from epoll.
    fd: OwnedFd,
    registration: SocketRegistration,
}

impl Stream {
    /// Registers a connected socket with the reactor of this thread. Bytes that have arrived before are reported like
    /// later ones.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_ctl`, for instance at the limit of watches. The socket is then reset.
    ///
    /// # Panics
    ///
    /// Panics on a thread without a reactor.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::registered(fd, Readiness::WRITE)
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
        Self::registered(fd, Readiness::NONE)
    }

    fn registered(fd: OwnedFd, known: Readiness) -> io::Result<Self> {
        match SocketRegistration::new(&fd, known) {
            Ok(registration) => Ok(Self { fd, registration }),
            Err(error) => {
                // The connection cannot be served, so its peer must not take the close for an orderly end.
                let _ = socket::reset_on_close(&fd);
                Err(error)
            }
        }
    }

    /// Removes the socket from the reactor and returns it.
    pub fn into_fd(self) -> OwnedFd {
        self.registration.remove(&self.fd);
        self.fd
    }

    /// Waits until a started connect has ended.
    ///
    /// # Errors
    ///
    /// The error for which the connect failed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn connected(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.registration.poll(cx, Readiness::WRITABLE)).await;
        self.take_error().map_or(Ok(()), Err)
    }

    /// Waits until the peer has reset the connection, or the connection has failed otherwise.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn failed(&self) {
        std::future::poll_fn(|cx| self.registration.poll(cx, Readiness::ERROR)).await;
    }

    /// Waits until the peer has ended its direction, or the connection has failed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn ended(&self) {
        std::future::poll_fn(|cx| self.registration.poll(cx, Readiness::ENDED)).await;
    }

    /// Returns true if the reactor has already reported the end of the peer: a FIN or an error. Costs no system call.
    pub fn has_ended(&self) -> bool {
        self.registration.is(Readiness::ENDED)
    }

    /// Returns true if the reactor has already reported that no more bytes can be written. The peer of a Unix
    /// socket has closed, or the connection failed. Costs no system call.
    pub fn is_shut(&self) -> bool {
        self.registration.is(Readiness::SHUT)
    }

    /// Returns true if bytes wait to be read. Does not read them.
    pub fn has_unread(&self) -> bool {
        matches!(socket::peek(&self.fd, &mut [0]), Ok(1..))
    }

    /// Returns true if the reactor has already reported an error on this socket. Costs no system call.
    pub fn has_error(&self) -> bool {
        self.registration.is(Readiness::ERROR)
    }

    /// Takes the error that is pending on this socket, which the next call would return otherwise.
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.fd).take_error().ok().flatten()
    }

    /// Reads the bytes that have arrived. 0 is the end.
    ///
    /// # Errors
    ///
    /// Errors of `recv`, except `WouldBlock`.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.registration.poll(cx, Readiness::READABLE));
            let urgent = self.has_urgent();
            if urgent {
                // From now on an urgent byte is a byte of the stream, at its position. Accepted sockets inherit this
                // from their listener. For the others this is early enough.
                let _ = SockRef::from(&self.fd).set_out_of_band_inline(true);
            }
            match socket::recv(&self.fd, buffer) {
                Ok(n) => {
                    if n > 0 && n < buffer.len() && !urgent {
                        self.registration.clear(Readiness::READ);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.clear(Readiness::READABLE);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads the bytes that have arrived. 0 is the end.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_recv`].
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, nothing was read.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Writes as many bytes as fit.
    ///
    /// # Errors
    ///
    /// Errors of `send`, except `WouldBlock`.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.registration.poll(cx, Readiness::WRITABLE));
            match socket::send(&self.fd, bytes) {
                Ok(n) => {
                    if n < bytes.len() {
                        // The send buffer is full.
                        self.registration.clear(Readiness::WRITE);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.clear(Readiness::WRITABLE);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes as many bytes as fit, at least one.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_send`].
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, nothing was written.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await
    }

    /// Writes all bytes.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_send`]; some of the bytes may have been written.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, some of the bytes may have been written.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(bytes).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Waits until bytes can be read, or until the peer has ended its direction or the connection has failed. Reads nothing.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn readable(&self) {
        std::future::poll_fn(|cx| {
            loop {
                ready!(self.registration.poll(cx, Readiness::READABLE));
                match socket::peek(&self.fd, &mut [0]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.registration.clear(Readiness::READABLE);
                    }
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    /// Is ready when the reactor has reported bytes to read, or the end. Costs no system call.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.registration.poll(cx, Readiness::READABLE)
    }

    /// Fills an empty pipe from this socket. A result of 0 may be the end of the stream. But splice also returns 0
    /// after a FIN when the next byte is urgent. [`Stream::poll_recv`] shows which of the two it is.
    ///
    /// The pipe must be empty, so that a splice that would block can only mean that the socket has no bytes.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_recv`]; `InvalidInput` when the kernel cannot splice from this socket; `Unsupported` when
    /// urgent data was announced, because splice never passes the urgent mark.
    pub fn poll_fill(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        debug_assert!(pipe.is_empty(), "a splice into a pipe that holds bytes can block on either end");
        loop {
            ready!(self.registration.poll(cx, Readiness::READABLE));
            if self.has_urgent() {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            match pipe.fill_from(&self.fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.clear(Readiness::READABLE);
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes the bytes of a pipe into this socket, as many as fit.
    ///
    /// # Errors
    ///
    /// As [`Stream::poll_send`].
    pub fn poll_drain(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.registration.poll(cx, Readiness::WRITABLE));
            match pipe.empty_into(&self.fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.clear(Readiness::WRITABLE);
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends the FIN of this side. The peer reads the end after all bytes written before.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the peer has already reset.
    pub fn finish(&self) -> io::Result<()> {
        SockRef::from(&self.fd).shutdown(Shutdown::Write)
    }

    /// Returns true if urgent data was ever announced on this socket. A short read may then stop at the urgent mark
    /// while more bytes follow.
    fn has_urgent(&self) -> bool {
        self.registration.is(Readiness::URGENT)
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
