//! Registers a client's socket and reads its first bytes.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, ready};

use crate::relay::Engines;
use crate::sys::Stream;
use crate::sys::fault::is_out_of_resources;
use crate::telemetry::CloseReason;

/// Registers a client's socket with the reactor of this thread.
///
/// # Errors
///
/// The close reason of the connection; the client is reset.
pub(super) fn register(client: OwnedFd) -> Result<Stream, CloseReason> {
    Stream::register(client).map_err(|error| unregistered(&error))
}

/// Returns the close reason of a connection whose socket the reactor cannot register.
pub(super) fn unregistered(error: &io::Error) -> CloseReason {
    if is_out_of_resources(error) {
        return CloseReason::OutOfResources;
    }
    tracing::error!(%error, "epoll cannot register the socket of a connection; the connection is closed");
    CloseReason::Internal
}

/// Waits for bytes and passes at most `room` of them to `take`. Returns their number, which is 0 at the end
/// of the stream.
///
/// The bytes come through the worker's buffer, so a client that sends nothing holds no buffer.
///
/// # Errors
///
/// The error of the client's socket, mostly a reset.
///
/// # Cancel safety
///
/// Nothing is lost: all bytes that were read were passed to `take`.
pub(super) async fn recv(
    client: &Stream,
    engines: &Engines,
    room: usize,
    mut take: impl FnMut(&[u8]),
) -> io::Result<usize> {
    poll_fn(|cx| {
        engines.with_buffer(|buffer| {
            let room = room.min(buffer.len());
            let read = ready!(client.poll_recv(cx, &mut buffer[..room]))?;
            take(&buffer[..read]);
            Poll::Ready(Ok(read))
        })
    })
    .await
}
