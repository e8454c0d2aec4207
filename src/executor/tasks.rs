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
use super::{CURRENT, TaskNext};
use crate::sys::reactor::Wakeup;

/// A future that a task runs. It returns nothing, or a [`TaskNext`].
pub trait TaskWork {
    /// Gives the future a turn.
    fn poll_turn(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TaskNext>;
}

impl<F: Future<Output: Into<TaskNext>>> TaskWork for F {
    fn poll_turn(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TaskNext> {
        self.poll(cx).map(Into::into)
    }
}

/// The tasks by their keys, and the order of their turns.
pub(super) struct TaskTable {
    slots: RefCell<Slab<TaskSlot>>,
    turns: RefCell<Turns>,
    wake_queue: Arc<WakeQueue>,
}

struct TaskSlot {
    content: SlotContent,
    /// True while the task waits for a turn.
    woken: bool,
    length: TurnLength,
}

impl TaskSlot {
    fn new(content: SlotContent) -> Self {
        Self { content, woken: false, length: TurnLength::default() }
    }
}

enum SlotContent {
    Task(Task),
    /// The task is out of the table, because it has its turn.
    Running,
    /// The key belongs to a future that is stored elsewhere.
    Reserved,
}

struct Task {
    work: Pin<Box<dyn TaskWork>>,
    waker: Waker,
}

impl TaskTable {
    pub(super) fn new(wakeup: Wakeup) -> Self {
        let wake_queue = Arc::new(WakeQueue { woken: Mutex::default(), wakeup });
        Self { slots: RefCell::default(), turns: RefCell::default(), wake_queue }
    }

    /// Reserves a key and a waker for a future that is stored elsewhere. The key counts as woken.
    pub(super) fn reserve(&self) -> ReservedSlot<'_> {
        let key = key_of(self.slots.borrow_mut().insert(TaskSlot::new(SlotContent::Reserved)));
        self.wake(key);
        ReservedSlot { tasks: self, key, waker: self.waker(key) }
    }

    pub(super) fn spawn(&self, work: Pin<Box<dyn TaskWork>>) {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let key = key_of(entry.key());
        entry.insert(TaskSlot::new(SlotContent::Task(Task { work, waker: self.waker(key) })));
        self.turns.borrow_mut().push_fresh(key);
    }

    fn waker(&self, key: u32) -> Waker {
        Waker::from(Arc::new(TaskWaker { key, wake_queue: Arc::clone(&self.wake_queue) }))
    }

    /// Returns true if no task waits for a turn.
    pub(super) fn is_idle(&self) -> bool {
        self.turns.borrow().is_empty()
    }

    /// Returns the turns of the tasks that are woken now, and of new tasks.
    pub(super) fn begin_pass(&self) -> PassTurns<'_> {
        PassTurns { tasks: self, pass: self.turns.borrow().begin_pass(Instant::now) }
    }

    /// Queues a turn for a key. A waker may outlive its task and wake a later task of the same key, which then has
    /// one needless turn. That does no harm.
    fn wake(&self, key: u32) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key as usize)
            && !slot.woken
        {
            slot.woken = true;
            if matches!(slot.content, SlotContent::Running) {
                slot.length.used_up();
            }
            self.turns.borrow_mut().push(key, slot.length);
        }
    }

    /// Returns a task to its slot after its turn.
    fn end_turn(&self, key: u32, task: Task) {
        let slot = &mut self.slots.borrow_mut()[key as usize];
        slot.content = SlotContent::Task(task);
        if !slot.woken {
            slot.length.ended();
        }
    }

    /// Wakes the tasks whose keys other threads have queued.
    pub(super) fn wake_remote(&self) {
        for key in self.wake_queue.take() {
            self.wake(key);
        }
    }

    /// Drops all tasks, and the tasks that these start while they are dropped.
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
pub(super) struct PassTurns<'a> {
    tasks: &'a TaskTable,
    pass: PassBounds,
}

/// The owner of a turn.
pub(super) enum TaskTurn<'a> {
    Task(RunningTask<'a>),
    /// The future that is stored elsewhere.
    Reserved,
}

impl<'a> Iterator for PassTurns<'a> {
    type Item = TaskTurn<'a>;

    fn next(&mut self) -> Option<TaskTurn<'a>> {
        let tasks = self.tasks;
        loop {
            let key = tasks.turns.borrow_mut().next(&mut self.pass, Instant::now)?;
            // The task may have ended since it was woken.
            let mut slots = tasks.slots.borrow_mut();
            let Some(slot) = slots.get_mut(key as usize) else { continue };
            slot.woken = false;
            if matches!(slot.content, SlotContent::Reserved) {
                return Some(TaskTurn::Reserved);
            }
            // A task that is `Running` gets its next turn only after this turn has ended.
            if let SlotContent::Task(task) = std::mem::replace(&mut slot.content, SlotContent::Running) {
                return Some(TaskTurn::Task(RunningTask { tasks, key, task }));
            }
        }
    }
}

/// A task that has its turn. It is out of its slot meanwhile, so it may start tasks and be woken.
pub(super) struct RunningTask<'a> {
    tasks: &'a TaskTable,
    key: u32,
    task: Task,
}

impl RunningTask<'_> {
    pub(super) fn run(self) {
        let Self { tasks, key, task: Task { mut work, waker } } = self;
        let mut cx = Context::from_waker(&waker);
        loop {
            match contained(|| work.as_mut().poll_turn(&mut cx)) {
                Some(Poll::Pending) => {
                    return tasks.end_turn(key, Task { work, waker });
                }
                Some(Poll::Ready(TaskNext::Stage(next))) => {
                    contained(|| drop(std::mem::replace(&mut work, next)));
                }
                Some(Poll::Ready(TaskNext::Done)) | None => break,
            }
        }
        contained(|| drop(work));
        tasks.slots.borrow_mut().remove(key as usize);
    }
}

/// Runs a part of a task and returns its result, or `None` if it panicked. The panic hook has reported the panic
/// already, and no other task is affected.
fn contained<T>(part: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(part)).ok()
}

/// A reserved slot. It is free again when this value is dropped.
pub(super) struct ReservedSlot<'a> {
    tasks: &'a TaskTable,
    key: u32,
    waker: Waker,
}

impl ReservedSlot<'_> {
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for ReservedSlot<'_> {
    fn drop(&mut self) {
        self.tasks.slots.borrow_mut().remove(self.key as usize);
    }
}

/// The queue of keys that other threads wake. Every waker of the thread's tasks holds it, so it may outlive the
/// thread.
struct WakeQueue {
    /// Has a lock because any thread may add a key. The lock is held for one push.
    woken: Mutex<Vec<u32>>,
    wakeup: Wakeup,
}

impl WakeQueue {
    /// Adds a key. The first key ends the wait of the thread, which then takes the keys that follow too.
    fn push(&self, key: u32) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.push(key);
        let is_first = woken.len() == 1;
        drop(woken);
        if is_first {
            self.wakeup.wake();
        }
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    key: u32,
    wake_queue: Arc<WakeQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let local = CURRENT.try_with(|core| {
            let core = core.borrow();
            let executor = core.as_ref().filter(|core| Arc::ptr_eq(&core.tasks.wake_queue, &self.wake_queue));
            executor.map(|core| core.tasks.wake(self.key))
        });
        if local.ok().flatten().is_none() {
            self.wake_queue.push(self.key);
        }
    }
}
