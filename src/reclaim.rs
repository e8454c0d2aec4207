//! Frees large values on a thread that serves nothing.
//!
//! A table with a million routes takes a quarter of a second to free. The thread that drops the last reference
//! would block for that time. This may be a worker that drops an old policy, or the control thread that drops an old
//! configuration. So such values go to the thread of this module when they are dropped.
//!
//! The queue has no bound: each value was in memory before, and each reload adds few values. Before [`start`], and
//! where the thread cannot be started, values are freed where they are dropped.

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::memory;

/// The time for which the thread collects values before it returns their pages to the system.
const GATHER: Duration = Duration::from_millis(500);

/// The channel to the thread. It is one for the process, like the heap, so that each value can reach it when it is
/// dropped.
static QUEUE: OnceLock<Sender<ReclaimRequest>> = OnceLock::new();

enum ReclaimRequest {
    Free(Box<dyn Any + Send>),
    Trim,
}

/// Starts the thread, unless it runs already. Call it after the process has given up its privileges, because threads
/// inherit them.
///
/// # Errors
///
/// Returned when no thread can be started.
pub fn start() -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let (queue, requests) = channel();
    thread::Builder::new().name("reclaim".to_owned()).spawn(move || run(&requests))?;
    // If another call has started a thread meanwhile, that thread stays and this one ends.
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Frees a value on the thread of this module. Never blocks.
pub fn free_later(value: impl Send + 'static) {
    if let Some(queue) = QUEUE.get() {
        // A value that cannot be sent is returned in the error and dropped here.
        let _ = queue.send(ReclaimRequest::Free(Box::new(value)));
    }
}

/// Returns the free pages of the heap to the system soon, on the thread of this module.
pub fn trim_later() {
    if let Some(queue) = QUEUE.get() {
        let _ = queue.send(ReclaimRequest::Trim);
    }
}

fn run(requests: &Receiver<ReclaimRequest>) {
    while let Ok(request) = requests.recv() {
        let until = Instant::now() + GATHER;
        let mut next = Some(request);
        while let Some(request) = next {
            if let ReclaimRequest::Free(value) = request {
                // A panic in a `drop` is logged where it happens. The values after it are still freed.
                let _ = catch_unwind(AssertUnwindSafe(move || drop(value)));
            }
            next = requests.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
        }
        memory::return_free_pages();
    }
}

/// A value that is freed by [`free_later`] when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Deferred<T: Send + 'static>(
    /// `None` only while it is dropped.
    Option<T>,
);

impl<T: Send + 'static> Deferred<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Returns the value, which is then freed on the thread that drops it.
    pub fn into_inner(mut self) -> T {
        self.0.take().expect(PRESENT)
    }
}

/// The reason for which a [`Deferred`] always has its value.
const PRESENT: &str = "the value is there until it is dropped";

impl<T: Default + Send + 'static> Default for Deferred<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Send + 'static> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(PRESENT)
    }
}

impl<T: Send + 'static> DerefMut for Deferred<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(PRESENT)
    }
}

impl<T: Send + 'static> Drop for Deferred<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            free_later(value);
        }
    }
}

impl<T: fmt::Debug + Send + 'static> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports the thread on which it is dropped.
    struct Spy(Sender<thread::ThreadId>);

    impl Drop for Spy {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a test of what a panic leaves");
        }
    }

    fn dropped_by(drop: impl FnOnce(Spy)) -> thread::ThreadId {
        let (report, reports) = channel();
        drop(Spy(report));
        reports.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn values_are_freed_by_one_other_thread() {
        start().unwrap();
        start().unwrap();
        let own = thread::current().id();
        let first = dropped_by(|spy| free_later((spy, Spy(channel().0))));
        assert_ne!(first, own);
        assert_eq!(dropped_by(|spy| drop(Deferred::new(spy))), first);
        assert_eq!(dropped_by(|spy| drop(Deferred::new(vec![spy]).into_inner())), own);
        // A value that is freed there may hold values that are deferred themselves.
        assert_eq!(dropped_by(|spy| free_later(Deferred::new(spy))), first);
        trim_later();
        free_later(Bomb);
        assert_eq!(dropped_by(free_later), first);
    }

    #[test]
    fn a_deferred_value_is_used_as_it_is() {
        let mut value = Deferred::new(vec![1, 2]);
        value.push(3);
        assert_eq!(value.len(), 3);
        assert_eq!(value, Deferred::new(vec![1, 2, 3]));
        assert_eq!(format!("{value:?}"), "[1, 2, 3]");
        assert_eq!(value.into_inner(), [1, 2, 3]);
    }
}
