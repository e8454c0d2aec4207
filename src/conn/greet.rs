//! Runs the opening of a protocol with backends that need a request for TLS, up to TLS.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

use crate::snapshot::opening_policy::GreetingPolicy;
use crate::sys::Stream;
use crate::wire::Opening;
use crate::wire::opening::{OpeningFault, OpeningStep};

/// The reason for which a backend is not ready for a hello.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReady {
    /// The connection broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The backend sent an unexpected message, or refused TLS.
    #[error(transparent)]
    Fault(#[from] OpeningFault),
}

/// Acts as a client of the backend until the backend is ready for the hello.
pub(super) async fn greet(backend: &Stream, policy: &GreetingPolicy) -> Result<(), NotReady> {
    /// The buffer for an answer. Answers have some hundred bytes.
    const PIECE: usize = 1024;
    let mut opening = Opening::client_role(&policy.greeting);
    loop {
        match opening.go_on().map_err(NotReady::Fault)? {
            OpeningStep::Say(message) => backend.send_all(&message).await?,
            OpeningStep::Over(_) => return Ok(()),
            OpeningStep::Read => {
                let read = poll_fn(|cx| {
                    // This memory is in use only while there are bytes to read.
                    let mut buffer = [0; PIECE];
                    let room = opening.room().min(PIECE);
                    let read = ready!(backend.poll_recv(cx, &mut buffer[..room]))?;
                    opening.receive(&buffer[..read]);
                    Poll::Ready(io::Result::Ok(read))
                });
                if read.await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}
