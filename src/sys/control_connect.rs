//! Connects on the control thread, whose sockets belong to its tokio runtime and not to the reactor of a worker.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket::{self, ConnectOptions, ConnectSource, FirstSpeaker};
use super::{Address, self_connect};

/// Connects on a tokio runtime and waits for the result. While the accept queue of a Unix socket is full, it
/// connects again and sets `is_busy`. A caller that drops the future then has the reason of the wait.
///
/// # Errors
///
/// As [`start_connect`](super::socket::start_connect), and `ConnectionRefused` if the socket was connected to itself.
///
/// # Panics
///
/// Panics outside of a tokio runtime with I/O.
///
/// # Cancel safety
///
/// If it is dropped half-way, the attempt ends and its socket is closed.
pub async fn connect(address: &Address, is_busy: &AtomicBool) -> io::Result<OwnedFd> {
    let mut pauses = socket::busy_pauses();
    let socket = loop {
        match socket::begin_connect(address, ConnectOptions::default(), FirstSpeaker::Unknown).await {
            Err(error) if socket::is_busy(&error, address) => {
                is_busy.store(true, Ordering::Relaxed);
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
            result => break result?,
        }
    };
    is_busy.store(false, Ordering::Relaxed);
    // SAFETY: an `OwnedFd` is open and its number never changes; the `AsyncFd` owns it until it is dropped or returns
    // it, and no code here closes or replaces it.
    #[allow(unsafe_code)]
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) };
    let socket = socket.map_err(io::Error::from)?;
    socket.writable().await?.retain_ready();
    if let Some(error) = SockRef::from(socket.get_ref()).take_error()? {
        return Err(error);
    }
    self_connect::refuse(socket.get_ref(), address, ConnectSource::Any)?;
    Ok(socket.into_inner())
}
