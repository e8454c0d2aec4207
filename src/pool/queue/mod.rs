//! Those who wait for a place at a pool's backends, in the order in which they came, over all workers.
//!
//! A [`Queue`] knows neither backends nor places: who waits brings an attempt to get one, and the queue says
//! whose turn it is to make it. A backend that gives a place back reports that ([`Queue::freed`]), and so does
//! whoever changes what can be had in another way ([`Queue::changed`]).
//!
//! # No wake-up is lost
//!
//! Attempts of those who wait are made under the queue's lock, and a place is given back before it is reported.
//! So a place that an attempt did not see is reported after it, to a queue that knows who made it. A report
//! calls the first who may succeed; if that one is dropped, or succeeds and more may be there, the next is
//! called in its stead. Nobody new makes an attempt before those who wait.
//!
//! The lock is held for one attempt: a pick. Connections that find a place at once never take it, and giving a
//! place back takes it only while somebody waits.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What came of an attempt to get a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueAttempt<T> {
    /// A place.
    Took(T),
    /// There is none now.
    Full,
    /// There is nothing left to wait for.
    Gone,
}

/// Whether one who waits can use any place that the others can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaiterNeeds {
    /// Any place will do; whoever fails here fails for all of these.
    Any,
    /// Some places will not do: those at backends that were tried already.
    Some,
}

/// The queue of a pool. Shared by its backends, by those who wait and by the pool's later selves; it ends with
/// the last of them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// How many wait: what is read without the lock.
    waiting: AtomicUsize,
    /// How many of them can take any place.
    for_any: AtomicUsize,
    /// A lock because any worker may come. Those who hold it make at most one attempt.
    list: Mutex<WaiterList>,
}

/// Those who wait.
#[derive(Debug, Default)]
struct WaiterList {
    /// By the numbers that they drew when they came.
    waiters: BTreeMap<u64, Waiter>,
    next: u64,
    /// How many of them can take any.
    for_any: usize,
    /// How often something was reported.
    news: u64,
    /// Places given back that will do for those who can take any and that none of them took yet; perhaps too
    /// many, never too few.
    freed: usize,
    /// Whether there may be places that nobody reported one by one.
    plenty: bool,
    /// How many are called and have not made their attempt.
    called: usize,
}

#[derive(Debug)]
struct Waiter {
    waker: Option<Waker>,
    /// Whether it is its turn to make an attempt.
    is_called: bool,
    needs: WaiterNeeds,
    /// What had been reported when it last tried in vain.
    tried_at: Option<u64>,
}

impl Queue {
    /// How many wait now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether somebody waits who comes before anybody new. Those do not whom what is free may not help.
    pub(super) fn is_before_newcomers(&self) -> bool {
        self.for_any.load(Ordering::SeqCst) > 0
    }

    /// A turn behind all others, if fewer than `length` wait.
    pub(super) fn join(&self, needs: WaiterNeeds, length: usize) -> Option<WaiterTurn<'_>> {
        let mut list = self.lock();
        if list.waiters.len() >= length {
            return None;
        }
        if list.waiters.is_empty() {
            // What was free before it came was reported to nobody.
            *list = WaiterList { next: list.next, news: list.news, plenty: true, ..WaiterList::default() };
        }
        let number = list.next;
        list.next += 1;
        list.for_any += usize::from(needs == WaiterNeeds::Any);
        list.waiters.insert(number, Waiter { waker: None, is_called: false, needs, tried_at: None });
        self.call(list);
        Some(WaiterTurn { queue: self, number })
    }

    /// A place was given back, and that can be seen.
    pub(super) fn freed(&self) {
        if self.waiting() > 0 {
            let mut list = self.lock();
            list.news += 1;
            list.freed += 1;
            self.call(list);
        }
    }

    /// There may be more places than before, or reasons not to wait any longer, and that can be seen.
    pub(super) fn changed(&self) {
        if self.waiting() > 0 {
            let mut list = self.lock();
            list.news += 1;
            list.plenty = true;
            self.call(list);
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaiterList> {
        // Each change is made whole before anything that could panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls whose turn it is, and lets go of the lock.
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
    /// Calls the next whose turn it is, if it is anybody's.
    fn call_next(&mut self) -> Option<Option<Waker>> {
        let wanted = if self.plenty { self.freed.max(1) } else { self.freed };
        let news = self.news;
        let next = if self.called < wanted {
            self.waiters.values_mut().find(|place| place.may_succeed(news))
        } else if self.called == 0 {
            // No place will do for those who can take any. One of the others may still have a use for what
            // is left: it has tried all that they can take, and is offered what they were not.
            let is_other = |place: &&mut Waiter| place.needs == WaiterNeeds::Some && place.may_succeed(news);
            self.waiters.values_mut().find(is_other)
        } else {
            None
        };
        let place = next?;
        place.is_called = true;
        self.called += 1;
        Some(place.waker.take())
    }

    /// Takes one out; false if it has left before.
    fn remove(&mut self, number: u64) -> bool {
        let Some(place) = self.waiters.remove(&number) else { return false };
        self.called -= usize::from(place.is_called);
        self.for_any -= usize::from(place.needs == WaiterNeeds::Any);
        true
    }
}

impl Waiter {
    fn may_succeed(&self, news: u64) -> bool {
        !self.is_called && (self.needs == WaiterNeeds::Any || self.tried_at != Some(news))
    }
}

/// A turn that will come. Dropped, it is given up, and a place that was meant for it goes to the next.
#[derive(Debug)]
pub(super) struct WaiterTurn<'a> {
    queue: &'a Queue,
    number: u64,
}

impl WaiterTurn<'_> {
    /// Waits until an attempt takes a place, or there is nothing left to wait for: then `None`.
    ///
    /// `attempt` is made under the queue's lock, first at once if nobody else waits: it must neither block nor
    /// give a place back.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any moment: no place is lost.
    pub(super) async fn come<T>(self, mut attempt: impl FnMut() -> QueueAttempt<T>) -> Option<T> {
        poll_fn(|cx| self.poll(cx, &mut attempt)).await
    }

    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut() -> QueueAttempt<T>,
    ) -> Poll<Option<T>> {
        let mut list = self.queue.lock();
        let news = list.news;
        let Some(place) = list.waiters.get_mut(&self.number) else { return Poll::Ready(None) };
        if !place.is_called {
            match &mut place.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        // Who gives a place back looks for those who wait behind it; who waits looks for a place behind this.
        fence(Ordering::SeqCst);
        let result = match attempt() {
            QueueAttempt::Full => {
                place.is_called = false;
                place.tried_at = Some(news);
                place.waker = Some(cx.waker().clone());
                if place.needs == WaiterNeeds::Any {
                    (list.freed, list.plenty) = (0, false);
                }
                list.called -= 1;
                self.queue.call(list);
                return Poll::Pending;
            }
            QueueAttempt::Took(taken) => {
                // Of the others nobody knows if it was one of those that are counted.
                if place.needs == WaiterNeeds::Any {
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
