//! Timers: sleeps and timeouts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The wakers that wait, sorted by due time. The number makes two keys with the same due time distinct.
#[derive(Default)]
pub(super) struct Timers {
    waiting: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next: Cell<u64>,
}

impl Timers {
    /// Returns the time until the first timer is due, or `None` if there is no timer.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        let ((due, _), _) = waiting.first_key_value()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Wakes the tasks whose timers are due.
    pub(super) fn fire(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(waker) = self.take_due(now) {
            waker.wake();
        }
    }

    fn take_due(&self, now: Instant) -> Option<Waker> {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

/// Waits until a point in time; made by [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    due: Instant,
    /// The key among the waiting timers, from the first poll on.
    timer: Option<TimerKey>,
}

struct TimerKey {
    timers: Rc<Timers>,
    key: (Instant, u64),
}

impl std::fmt::Debug for TimerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TimerKey").field(&self.key).finish()
    }
}

impl Drop for TimerKey {
    fn drop(&mut self) {
        self.timers.waiting.borrow_mut().remove(&self.key);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.due {
            return Poll::Ready(());
        }
        let due = self.due;
        let TimerKey { timers, key } = self.timer.get_or_insert_with(|| {
            let timers = super::timers();
            let key = (due, timers.next.get());
            timers.next.set(key.1 + 1);
            TimerKey { timers, key }
        });
        timers.waiting.borrow_mut().insert(*key, cx.waker().clone());
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
/// That of `future`.
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
/// That of `future`.
pub async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(after(time), future).await
}

/// A hundred years: longer than any process runs, and within the range of every clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn after(time: Duration) -> Instant {
    Instant::now() + time.min(FAR)
}
