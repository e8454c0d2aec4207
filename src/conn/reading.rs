//! How the first bytes of a client are read.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

use crate::relay::Engines;
use crate::sys::Stream;

/// Waits for bytes and has them taken in, at most `room` at once; how many there were, 0 at the end.
///
/// They come through the worker's buffer, so that a client that is waited for holds none.
///
/// # Errors
///
/// What the client's socket says: mostly a reset.
///
/// # Cancel safety
///
/// Nothing is lost: what was read was taken in.
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
