//! A listening socket on the runtime of control. Other parts of the process may hold the same descriptor, to lend it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frames::FrameSocket;
use super::listen::{Accepted, accept_past_bound};

/// A listening socket, registered with the current runtime. Others may have the same socket.
#[derive(Debug)]
pub struct ControlListening(AsyncFd<Arc<OwnedFd>>);

impl ControlListening {
    /// Registers a non-blocking listening socket.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub fn register(socket: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and its number never changes; the `AsyncFd` owns a part of it until it ends.
        #[allow(unsafe_code)]
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(socket?))
    }

    /// Waits for a connection and accepts it as a socket for frames. The socket must be a Unix socket.
    ///
    /// # Errors
    ///
    /// Errors of `accept4`. After any error the listener can still be used.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, no connection was accepted.
    pub async fn accept_for_frames(&self) -> io::Result<FrameSocket> {
        self.0.async_io(Interest::READABLE, |socket| FrameSocket::accept(socket)).await
    }

    /// Returns the listening socket.
    #[must_use]
    pub fn socket(&self) -> &Arc<OwnedFd> {
        self.0.get_ref()
    }

    /// Waits for a connection and accepts it, also with a descriptor that connections of clients leave free.
    ///
    /// # Errors
    ///
    /// Errors of `accept4`, except `WouldBlock`. After any error the listener can still be used.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, no connection was accepted.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(accepted) = ready.try_io(|socket| accept_past_bound(socket.get_ref())) {
                return accepted;
            }
        }
    }
}
