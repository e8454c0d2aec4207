//! Registers a client's socket and reads its first bytes.
//!
//! While nothing was sent to the client, the reading can stop between two reads and go on elsewhere: the bytes that were
//! read are read again from the first one.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, ready};
use std::time::Instant;

use crate::relay::Engines;
use crate::sys::Stream;
use crate::sys::fault::is_out_of_resources;
use crate::telemetry::CloseReason;

/// The bytes of a client that were read before its reading begins here.
#[derive(Debug, Default)]
pub(super) struct FirstBytes {
    /// All bytes that the client has sent.
    pub(super) bytes: Vec<u8>,
    /// The number of bytes that are a PROXY header, by which the client was admitted.
    pub(super) header: usize,
    /// The time at which a hello that is not whole began.
    pub(super) begun: Option<Instant>,
}

/// A client whose first bytes are being read, and that is to go on elsewhere.
#[derive(Debug)]
pub(super) struct StoppedClient {
    pub(super) client: OwnedFd,
    pub(super) first: FirstBytes,
}

/// The end of the first stage of a connection without a connected backend.
pub(super) enum EarlyEnd {
    /// The connection ends.
    Closed(CloseReason),
    /// The connection goes on elsewhere. Boxed, as hardly any connection does.
    Moved(Box<StoppedClient>),
}

impl From<CloseReason> for EarlyEnd {
    fn from(reason: CloseReason) -> Self {
        Self::Closed(reason)
    }
}

impl EarlyEnd {
    /// Returns the end of a client whose bytes were read.
    pub(super) fn moved(client: Stream, bytes: Vec<u8>, begun: Option<Instant>) -> Self {
        let first = FirstBytes { bytes, header: 0, begun };
        Self::Moved(Box::new(StoppedClient { client: client.into_fd(), first }))
    }

    /// Returns the end of a client whose PROXY header came before the bytes.
    pub(super) fn behind(mut self, header: Vec<u8>) -> Self {
        if let Self::Moved(stopped) = &mut self {
            stopped.first.header = header.len();
            stopped.first.bytes.splice(..0, header);
        }
        self
    }
}

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
