//! The tasks of a thread and whose turn it is.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use super::{CURRENT, Next};
use crate::sys::reactor::Bell;

/// What a task runs.
type Work = Pin<Box<dyn Future<Output = Next>>>;

/// Tasks by their keys, and the keys of those that were woken.
pub(super) struct Tasks {
    slots: RefCell<Slab<Slot>>,
    /// Their turn is in the next pass.
    woken: RefCell<VecDeque<u32>>,
    /// They have not had a turn yet; theirs is in this pass.
    fresh: RefCell<VecDeque<u32>>,
    door: Arc<Door>,
}

struct Slot {
    /// `None` while it has its turn, and for a reserved slot.
    task: Option<Task>,
    /// Whether it is among the woken.
    woken: bool,
}

struct Task {
    work: Work,
    waker: Waker,
}

impl Tasks {
    pub(super) fn new(bell: Bell) -> Self {
        let door = Arc::new(Door { woken: Mutex::default(), bell });
        Self { slots: RefCell::default(), woken: RefCell::default(), fresh: RefCell::default(), door }
    }

    /// A key and a waker for something that is kept elsewhere; it counts as woken.
    pub(super) fn reserve(&self) -> Reserved<'_> {
        let key = key_of(self.slots.borrow_mut().insert(Slot { task: None, woken: false }));
        self.wake(key);
        Reserved { tasks: self, key, waker: self.waker(key) }
    }

    pub(super) fn spawn(&self, work: Work) {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let key = key_of(entry.key());
        entry.insert(Slot { task: Some(Task { work, waker: self.waker(key) }), woken: false });
        self.fresh.borrow_mut().push_back(key);
    }

    fn waker(&self, key: u32) -> Waker {
        Waker::from(Arc::new(TaskWaker { key, door: Arc::clone(&self.door) }))
    }

    /// Whether nobody waits for a turn.
    pub(super) fn is_idle(&self) -> bool {
        self.woken.borrow().is_empty() && self.fresh.borrow().is_empty()
    }

    /// The turns of those that are woken now, and of the fresh.
    pub(super) fn begin_pass(&self) -> Pass<'_> {
        Pass { tasks: self, left: self.woken.borrow().len() }
    }

    /// A waker may outlive its task and name a later one: that has a turn too many, which does no harm.
    fn wake(&self, key: u32) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key as usize)
            && !slot.woken
        {
            slot.woken = true;
            self.woken.borrow_mut().push_back(key);
        }
    }

    /// Wakes those that other threads have woken.
    pub(super) fn hear_others(&self) {
        let woken = std::mem::take(&mut *self.door.woken.lock().unwrap_or_else(PoisonError::into_inner));
        for key in woken {
            self.wake(key);
        }
    }

    /// Drops every task, also those that the ends of others start.
    pub(super) fn drop_all(&self) {
        loop {
            let slots = std::mem::take(&mut *self.slots.borrow_mut());
            if slots.is_empty() {
                return;
            }
            for (_, slot) in slots {
                contained(|| drop(slot));
            }
        }
    }
}

fn key_of(slot: usize) -> u32 {
    u32::try_from(slot).expect("memory holds fewer tasks")
}

/// The turns of one pass.
pub(super) struct Pass<'a> {
    tasks: &'a Tasks,
    /// Of those that were woken before it began.
    left: usize,
}

/// Whose turn it is.
pub(super) enum Turn<'a> {
    Task(Running<'a>),
    /// Of what is kept elsewhere.
    Reserved,
}

impl<'a> Iterator for Pass<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Turn<'a>> {
        let tasks = self.tasks;
        loop {
            let fresh = tasks.fresh.borrow_mut().pop_front();
            let key = match fresh {
                Some(key) => key,
                None => {
                    self.left = self.left.checked_sub(1)?;
                    tasks.woken.borrow_mut().pop_front()?
                }
            };
            // Its task may have ended since.
            if let Some(slot) = tasks.slots.borrow_mut().get_mut(key as usize) {
                slot.woken = false;
                return Some(match slot.task.take() {
                    Some(task) => Turn::Task(Running { tasks, key, task }),
                    None => Turn::Reserved,
                });
            }
        }
    }
}

/// A task that has its turn. It is out of its slot meanwhile, so it may start others and be woken.
pub(super) struct Running<'a> {
    tasks: &'a Tasks,
    key: u32,
    task: Task,
}

impl Running<'_> {
    pub(super) fn run(self) {
        let Self { tasks, key, task: Task { mut work, waker } } = self;
        let mut cx = Context::from_waker(&waker);
        loop {
            match contained(|| work.as_mut().poll(&mut cx)) {
                Some(Poll::Pending) => {
                    tasks.slots.borrow_mut()[key as usize].task = Some(Task { work, waker });
                    return;
                }
                Some(Poll::Ready(Next::Stage(next))) => {
                    contained(|| drop(std::mem::replace(&mut work, next)));
                }
                Some(Poll::Ready(Next::Done)) | None => break,
            }
        }
        contained(|| drop(work));
        tasks.slots.borrow_mut().remove(key as usize);
    }
}

/// What `part` of a task gives; `None` if it panicked. That was reported where it happened, and concerns
/// nobody but this task.
fn contained<T>(part: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(part)).ok()
}

/// A reserved slot; free again when dropped.
pub(super) struct Reserved<'a> {
    tasks: &'a Tasks,
    key: u32,
    waker: Waker,
}

impl Reserved<'_> {
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.tasks.slots.borrow_mut().remove(self.key as usize);
    }
}

/// Where other threads leave the keys of those they wake. Held by every waker of the thread's tasks, so
/// it may outlive the thread.
struct Door {
    /// A lock because any thread may come; it is held for a push.
    woken: Mutex<Vec<u32>>,
    bell: Bell,
}

struct TaskWaker {
    key: u32,
    door: Arc<Door>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let at_home = CURRENT.try_with(|core| {
            let core = core.borrow();
            let home = core.as_ref().filter(|core| Arc::ptr_eq(&core.tasks.door, &self.door));
            home.map(|core| core.tasks.wake(self.key))
        });
        if at_home.ok().flatten().is_none() {
            self.door.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.key);
            self.door.bell.ring();
        }
    }
}
