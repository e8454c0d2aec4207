//! The tasks of a thread.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use slab::Slab;

use super::turns::{PassBounds, TurnLength, Turns};
use super::{CURRENT, Next};
use crate::sys::reactor::Wakeup;

/// What a task runs.
type Work = Pin<Box<dyn Future<Output = Next>>>;

/// Tasks by their keys, and the order of their turns.
pub(super) struct Tasks {
    slots: RefCell<Slab<Slot>>,
    turns: RefCell<Turns>,
    door: Arc<Door>,
}

struct Slot {
    occupant: Occupant,
    /// Whether it waits for a turn.
    woken: bool,
    length: TurnLength,
}

impl Slot {
    fn new(occupant: Occupant) -> Self {
        Self { occupant, woken: false, length: TurnLength::default() }
    }
}

enum Occupant {
    Task(Task),
    /// The task is out of the table, because it has its turn.
    Running,
    /// The key is in use for a value that is kept elsewhere.
    Reserved,
}

struct Task {
    work: Work,
    waker: Waker,
}

impl Tasks {
    pub(super) fn new(wakeup: Wakeup) -> Self {
        let door = Arc::new(Door { woken: Mutex::default(), wakeup });
        Self { slots: RefCell::default(), turns: RefCell::default(), door }
    }

    /// A key and a waker for something that is kept elsewhere; it counts as woken.
    pub(super) fn reserve(&self) -> Reserved<'_> {
        let key = key_of(self.slots.borrow_mut().insert(Slot::new(Occupant::Reserved)));
        self.wake(key);
        Reserved { tasks: self, key, waker: self.waker(key) }
    }

    pub(super) fn spawn(&self, work: Work) {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let key = key_of(entry.key());
        entry.insert(Slot::new(Occupant::Task(Task { work, waker: self.waker(key) })));
        self.turns.borrow_mut().push_fresh(key);
    }

    fn waker(&self, key: u32) -> Waker {
        Waker::from(Arc::new(TaskWaker { key, door: Arc::clone(&self.door) }))
    }

    /// Whether nobody waits for a turn.
    pub(super) fn is_idle(&self) -> bool {
        self.turns.borrow().is_empty()
    }

    /// The turns of those that are woken now, and of the fresh.
    pub(super) fn begin_pass(&self) -> Pass<'_> {
        Pass { tasks: self, pass: self.turns.borrow().begin_pass(Instant::now) }
    }

    /// A waker may outlive its task and name a later one: that has a turn too many, which does no harm.
    fn wake(&self, key: u32) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key as usize)
            && !slot.woken
        {
            slot.woken = true;
            if matches!(slot.occupant, Occupant::Running) {
                slot.length.used_up();
            }
            self.turns.borrow_mut().push(key, slot.length);
        }
    }

    /// Puts a task back after its turn.
    fn end_turn(&self, key: u32, task: Task) {
        let slot = &mut self.slots.borrow_mut()[key as usize];
        slot.occupant = Occupant::Task(task);
        if !slot.woken {
            slot.length.ended();
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
    pass: PassBounds,
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
            let key = tasks.turns.borrow_mut().next(&mut self.pass, Instant::now)?;
            // Its task may have ended since.
            let mut slots = tasks.slots.borrow_mut();
            let Some(slot) = slots.get_mut(key as usize) else { continue };
            slot.woken = false;
            if matches!(slot.occupant, Occupant::Reserved) {
                return Some(Turn::Reserved);
            }
            // A running task waits for no turn before its own has ended.
            if let Occupant::Task(task) = std::mem::replace(&mut slot.occupant, Occupant::Running) {
                return Some(Turn::Task(Running { tasks, key, task }));
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
                    return tasks.end_turn(key, Task { work, waker });
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
    wakeup: Wakeup,
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
            self.door.wakeup.ring();
        }
    }
}
