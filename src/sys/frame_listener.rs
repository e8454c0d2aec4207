//! A listening Unix socket in a runtime. Other parts of the process may hold the same descriptor, to lend it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frames::FrameSocket;

/// A listening Unix socket that accepts connections for frames.
#[derive(Debug)]
pub struct FrameListener(AsyncFd<Arc<OwnedFd>>);

impl FrameListener {
    /// Registers a non-blocking listening socket with the current runtime.
    ///
    /// # Errors
    ///
    /// Errors of the kernel.
    #[allow(unsafe_code, reason = "the runtime is given a descriptor that others may hold too")]
    pub fn new(socket: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and its number never changes; the `AsyncFd` holds the `Arc`, which nothing can take
        // the descriptor out of, until it is dropped or returns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self(socket))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// Errors of `accept`.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<FrameSocket> {
        self.0.async_io(Interest::READABLE, |socket| FrameSocket::accept(socket)).await
    }

    /// Returns the listening socket.
    #[must_use]
    pub fn socket(&self) -> &Arc<OwnedFd> {
        self.0.get_ref()
    }
}
