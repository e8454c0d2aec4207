//! Timers: sleeps and timeouts.
//!
//! A future is polled far more often than its deadline changes: a select polls its timeout for each byte. So a
//! sleep enters the ordered queue at its first poll only. A later poll reads neither the queue nor the clock.

#[cfg(test)]
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// The timers of a thread.
#[derive(Default)]
pub(super) struct Timers {
    /// The keys of the timers that have not fired, sorted by due time.
    queue: RefCell<BTreeSet<(Instant, u32)>>,
    timers: RefCell<Slab<TimerState>>,
    /// Insertions into the queue.
    #[cfg(test)]
    pub(super) insertions: Cell<u32>,
}

enum TimerState {
    /// The waker is the waker of the last poll.
    Waiting(Waker),
    Fired,
}

impl Timers {
    /// Wakes the tasks whose timers are due. Returns the time until the next timer is due, or `None` if there is no
    /// timer.
    pub(super) fn fire(&self) -> Option<Duration> {
        if self.queue.borrow().is_empty() {
            return None;
        }
        let now = Instant::now();
        while let Some(waker) = self.take_due(now) {
            waker.wake();
        }
        let queue = self.queue.borrow();
        let (due, _) = queue.first()?;
        Some(due.saturating_duration_since(now))
    }

    fn take_due(&self, now: Instant) -> Option<Waker> {
        let mut queue = self.queue.borrow_mut();
        let (_, key) = *queue.first().filter(|(due, _)| *due <= now)?;
        queue.pop_first();
        match std::mem::replace(&mut self.timers.borrow_mut()[key as usize], TimerState::Fired) {
            TimerState::Waiting(waker) => Some(waker),
            TimerState::Fired => None,
        }
    }

    fn start(&self, due: Instant, waker: Waker) -> u32 {
        let key = self.timers.borrow_mut().insert(TimerState::Waiting(waker));
        let key = u32::try_from(key).expect("memory holds fewer timers");
        self.queue.borrow_mut().insert((due, key));
        #[cfg(test)]
        self.insertions.set(self.insertions.get() + 1);
        key
    }

    /// Is ready when the timer has fired.
    fn poll(&self, key: u32, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timers.borrow_mut()[key as usize] {
            TimerState::Fired => Poll::Ready(()),
            TimerState::Waiting(waker) => {
                // Clones only a waker of another task.
                waker.clone_from(cx.waker());
                Poll::Pending
            }
        }
    }

    fn remove(&self, due: Instant, key: u32) {
        let timer = self.timers.borrow_mut().remove(key as usize);
        if let TimerState::Waiting(_) = timer {
            self.queue.borrow_mut().remove(&(due, key));
        }
    }
}

/// Waits until a point in time; made by [`sleep_until`].
pub struct Sleep {
    due: Instant,
    /// The key of its timer, from the first poll on.
    timer: Option<(Rc<Timers>, u32)>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((timers, key)) = &self.timer {
            timers.remove(self.due, *key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((timers, key)) = &self.timer {
            return timers.poll(*key, cx);
        }
        if Instant::now() >= self.due {
            return Poll::Ready(());
        }
        let timers = super::timers();
        let key = timers.start(self.due, cx.waker().clone());
        self.timer = Some((timers, key));
        Poll::Pending
    }
}

/// Waits until `due`. It ends up to a millisecond late, and later while the thread is busy.
///
/// # Panics
///
/// Panics when polled on a thread without an executor.
///
/// # Cancel safety
///
/// Nothing is lost.
pub fn sleep_until(due: Instant) -> Sleep {
    Sleep { due, timer: None }
}

/// Waits for `time`, like [`sleep_until`]. A time beyond the range of the clock never passes.
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(after(time))
}

/// The time was over before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time is over")]
pub struct Elapsed;

/// Runs `future` until `due`.
///
/// # Errors
///
/// [`Elapsed`] if the future is not ready by then. The future is dropped.
///
/// # Panics
///
/// As [`sleep_until`].
///
/// # Cancel safety
///
/// The same as for `future`.
pub async fn timeout_at<T>(due: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let mut over = sleep_until(due);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Ok(result)),
        Poll::Pending => Pin::new(&mut over).poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// Runs `future` for at most `time`, like [`timeout_at`].
///
/// # Errors
///
/// [`Elapsed`] if the future is not ready by then. The future is dropped.
///
/// # Cancel safety
///
/// The same as for `future`.
pub async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(after(time), future).await
}

/// A hundred years: longer than any process runs, and within the range of every clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn after(time: Duration) -> Instant {
    Instant::now() + time.min(FAR)
}
