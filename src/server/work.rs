//! Work that takes time. A phase holds it, so that the control loop goes on meanwhile.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// Work that takes time, and later its result. If it is dropped, a thread that does the work goes on to its end, and
/// the result is dropped there.
pub(super) enum Work<T> {
    /// It is under way.
    Running(Pin<Box<dyn Future<Output = T>>>),
    /// It is done.
    Done(T),
}

impl<T: 'static> Work<T> {
    /// Starts to wait for a future.
    pub(super) fn new(work: impl Future<Output = T> + 'static) -> Self {
        Self::Running(Box::pin(work))
    }

    /// Returns ready when the work is done.
    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Running(work) = self {
            let Poll::Ready(result) = work.as_mut().poll(cx) else { return Poll::Pending };
            *self = Self::Done(result);
        }
        Poll::Ready(())
    }

    /// Returns the result, or the work if it is not done.
    ///
    /// # Errors
    ///
    /// The work, which is still under way.
    pub(super) fn result(self) -> Result<T, Self> {
        match self {
            Self::Done(result) => Ok(result),
            running @ Self::Running(_) => Err(running),
        }
    }
}

impl<T: 'static> Work<Option<T>> {
    /// Starts to wait for a future, at most for a time. The result is `None` if the time is over first.
    pub(super) fn within(time: Duration, work: impl Future<Output = T> + 'static) -> Self {
        Self::new(async move { timeout(time, work).await.ok() })
    }
}

impl Work<()> {
    /// Starts to wait for a time.
    pub(super) fn pause(time: Duration) -> Self {
        Self::new(sleep(time))
    }
}

/// Does the work on a thread that may block. It begins at once, and goes on if the future is dropped.
///
/// # Panics
///
/// If `work` panics, with the same payload.
pub(super) fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + 'static {
    let working = spawn_blocking(work);
    async move { working.await.unwrap_or_else(|error| resume_unwind(error.into_panic())) }
}
