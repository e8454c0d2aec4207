//! The queue of a pool: connections that wait for room at its backends, in the order of their arrival, over all
//! workers.
//!
//! A [`Queue`] has no reference to backends. A waiter brings an attempt to get a slot at a backend, and the queue
//! decides whose turn it is. A backend reports each slot that it gets back ([`Queue::freed`]). Other changes that may
//! let a waiter succeed are reported too ([`Queue::changed`]).
//!
//! # No wake-up is lost
//!
//! Waiters make their attempts under the queue's lock, and a slot is returned before it is reported. So if an
//! attempt did not see a slot, this slot is reported later. By then the queue has recorded the attempt. A
//! report calls the first waiter that may succeed. If that waiter is dropped, or succeeds and more slots may be
//! free, the next waiter is called. A new connection makes no attempt before the waiters.
//!
//! The lock is held for one attempt: a pick. A connection that gets a slot at once never takes the lock. The
//! return of a slot takes the lock only while there are waiters.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The queue for connections while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Connections that may wait at once, at least 1.
    pub length: usize,
    /// The longest wait of one connection, all its waits together. Default 5 s.
    pub timeout: Duration,
}

impl QueueSpec {
    /// The default of the longest wait: that of `connect_timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
}

/// The result of an attempt to get a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueAttempt<T> {
    /// A slot.
    Took(T),
    /// No slot is free now.
    Full,
    /// No backend is left to wait for.
    Gone,
}

/// The slots that a waiter can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaiterNeeds {
    /// Any slot. If the attempt of one such waiter fails, the attempts of all such waiters fail.
    Any,
    /// Not the slots of backends that the connection has tried already.
    Some,
}

/// The queue of a pool. Shared by its backends, by the waiters and by the pools of later snapshots; it ends with the
/// last of them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The number of waiters, readable without the lock.
    waiting: AtomicUsize,
    /// The number of waiters that can use any slot.
    for_any: AtomicUsize,
    /// A lock because any worker may use the queue. A holder of the lock makes at most one attempt.
    list: Mutex<WaiterList>,
}

/// The waiters.
#[derive(Debug, Default)]
struct WaiterList {
    /// The waiters by number, in the order of arrival.
    waiters: BTreeMap<u64, Waiter>,
    next: u64,
    /// The number of waiters that can use any slot.
    for_any: usize,
    /// The number of reports so far.
    reports: u64,
    /// The returned slots that no waiter has taken yet and that a waiter for any slot may use. The number may be
    /// too high, never too low.
    freed: usize,
    /// True if there may be free slots that were not reported one by one.
    has_unreported: bool,
    /// The number of waiters that are called and have not made their attempt.
    called: usize,
}

#[derive(Debug)]
struct Waiter {
    waker: Option<Waker>,
    /// True if it is its turn to make an attempt.
    is_called: bool,
    needs: WaiterNeeds,
    /// The number of reports at the time of its last failed attempt.
    tried_at: Option<u64>,
}

impl Queue {
    /// The number of waiters now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Returns true if new connections come after a waiter. A waiter that may be unable to use a free slot does not
    /// count.
    pub(super) fn is_before_newcomers(&self) -> bool {
        self.for_any.load(Ordering::SeqCst) > 0
    }

    /// Adds a waiter after all others, if fewer than `length` wait.
    pub(super) fn join(&self, needs: WaiterNeeds, length: usize) -> Option<WaiterTurn<'_>> {
        let mut list = self.lock();
        if list.waiters.len() >= length {
            return None;
        }
        if list.waiters.is_empty() {
            // Slots that were free before it arrived were not reported.
            *list = WaiterList {
                next: list.next,
                reports: list.reports,
                has_unreported: true,
                ..WaiterList::default()
            };
        }
        let number = list.next;
        list.next += 1;
        list.for_any += usize::from(needs == WaiterNeeds::Any);
        list.waiters.insert(number, Waiter { waker: None, is_called: false, needs, tried_at: None });
        self.call(list);
        Some(WaiterTurn { queue: self, number })
    }

    /// Reports a slot that was returned and is visible to attempts.
    pub(super) fn freed(&self) {
        if self.waiting() > 0 {
            let mut list = self.lock();
            list.reports += 1;
            list.freed += 1;
            self.call(list);
        }
    }

    /// Reports that there may be more slots than before, or that waiters may have no reason to wait any longer.
    /// The change must be visible to attempts.
    pub(super) fn changed(&self) {
        if self.waiting() > 0 {
            let mut list = self.lock();
            list.reports += 1;
            list.has_unreported = true;
            self.call(list);
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaiterList> {
        // Each change is made whole before anything that could panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the waiters whose turn it is, and releases the lock.
    fn call(&self, mut list: MutexGuard<'_, WaiterList>) {
        self.waiting.store(list.waiters.len(), Ordering::SeqCst);
        self.for_any.store(list.for_any, Ordering::SeqCst);
        let called: Vec<Option<Waker>> = iter::from_fn(|| list.call_next()).collect();
        // Waking another thread is a system call.
        drop(list);
        called.into_iter().flatten().for_each(Waker::wake);
    }
}

impl WaiterList {
    /// Calls the next waiter. Does nothing if no connection waits.
    fn call_next(&mut self) -> Option<Option<Waker>> {
        let wanted = if self.has_unreported { self.freed.max(1) } else { self.freed };
        let reports = self.reports;
        let next = if self.called < wanted {
            self.waiters.values_mut().find(|waiter| waiter.may_succeed(reports))
        } else if self.called == 0 {
            // No slot is free for the waiters that can use any slot. A waiter whose connection has tried some
            // backends may still find one: if it has tried all primaries, it may use a backup.
            let is_other =
                |waiter: &&mut Waiter| waiter.needs == WaiterNeeds::Some && waiter.may_succeed(reports);
            self.waiters.values_mut().find(is_other)
        } else {
            None
        };
        let waiter = next?;
        waiter.is_called = true;
        self.called += 1;
        Some(waiter.waker.take())
    }

    /// Removes a waiter. Returns false if it was removed before.
    fn remove(&mut self, number: u64) -> bool {
        let Some(waiter) = self.waiters.remove(&number) else { return false };
        self.called -= usize::from(waiter.is_called);
        self.for_any -= usize::from(waiter.needs == WaiterNeeds::Any);
        true
    }
}

impl Waiter {
    fn may_succeed(&self, reports: u64) -> bool {
        !self.is_called && (self.needs == WaiterNeeds::Any || self.tried_at != Some(reports))
    }
}

/// The turn of a waiter. If the turn is dropped, the waiter leaves the queue. A slot for which it was called
/// then goes to the next waiter.
#[derive(Debug)]
pub(super) struct WaiterTurn<'a> {
    queue: &'a Queue,
    number: u64,
}

impl WaiterTurn<'_> {
    /// Waits until an attempt takes a slot. Returns `None` if no backend is left to wait for.
    ///
    /// `attempt` is made under the queue's lock, at once if there are no other waiters: it must neither block nor
    /// return a slot.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any moment: no slot is lost.
    pub(super) async fn come<T>(self, mut attempt: impl FnMut() -> QueueAttempt<T>) -> Option<T> {
        poll_fn(|cx| self.poll(cx, &mut attempt)).await
    }

    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut() -> QueueAttempt<T>,
    ) -> Poll<Option<T>> {
        let mut list = self.queue.lock();
        let reports = list.reports;
        let Some(waiter) = list.waiters.get_mut(&self.number) else { return Poll::Ready(None) };
        if !waiter.is_called {
            match &mut waiter.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        // A thread first returns a slot and then reads the number of waiters. A waiter is first counted and
        // then reads the slots. With this fence, at least one of the two sees the other.
        fence(Ordering::SeqCst);
        let result = match attempt() {
            QueueAttempt::Full => {
                waiter.is_called = false;
                waiter.tried_at = Some(reports);
                waiter.waker = Some(cx.waker().clone());
                if waiter.needs == WaiterNeeds::Any {
                    (list.freed, list.has_unreported) = (0, false);
                }
                list.called -= 1;
                self.queue.call(list);
                return Poll::Pending;
            }
            QueueAttempt::Took(taken) => {
                // A waiter that can use only some slots may have taken a slot that `freed` does not count.
                if waiter.needs == WaiterNeeds::Any {
                    list.freed = list.freed.saturating_sub(1);
                }
                Some(taken)
            }
            QueueAttempt::Gone => None,
        };
        list.remove(self.number);
        self.queue.call(list);
        Poll::Ready(result)
    }
}

impl Drop for WaiterTurn<'_> {
    fn drop(&mut self) {
        let mut list = self.queue.lock();
        if list.remove(self.number) {
            self.queue.call(list);
        }
    }
}

#[cfg(test)]
mod tests;
