//! Runs the tasks of one thread, a worker.
//!
//! One pass polls the woken tasks, fires the timers that are due, and waits for events of the kernel. A task that
//! wakes itself gets its next turn in a later pass, after the tasks with short turns (`turns`). So a stream with
//! bytes to move does not delay a small request.
//!
//! The executor is small because it does little: tasks do not move between threads, and they can wait only for
//! sockets, timers and wakers of other threads. A task may have two stages: its first future returns a [`TaskNext`] with
//! the second, which replaces the first. So the first stage of a connection takes no memory during the second stage.

mod tasks;
mod timers;
mod turns;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::sys::reactor::{Reactor, ReactorScope};
pub use tasks::TaskWork;
use tasks::{TaskTable, TaskTurn};
use timers::Timers;
pub use timers::{Elapsed, Sleep, sleep, sleep_until, timeout, timeout_at};

/// The continuation of a task whose future is ready. A future without a result ends its task.
pub enum TaskNext {
    /// The task has ended.
    Done,
    /// The task continues with this future, at once and under the same key.
    Stage(Pin<Box<dyn TaskWork>>),
}

impl TaskNext {
    /// Continues with `future`.
    pub fn stage(future: impl TaskWork + 'static) -> Self {
        Self::Stage(Box::pin(future))
    }
}

impl From<()> for TaskNext {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// The tasks of a thread, with its timers and its reactor.
pub struct Executor {
    core: Rc<ExecutorCore>,
    /// Dropped after the tasks: a future may use the reactor and the executor when it is dropped.
    _reactor: ReactorScope,
    _current: ExecutorScope,
}

/// The parts of an executor that all code on its thread can reach.
struct ExecutorCore {
    tasks: TaskTable,
    timers: Rc<Timers>,
    reactor: Rc<Reactor>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<ExecutorCore>>> = const { RefCell::new(None) };
}

/// Makes its executor the current executor of the thread while this value exists. The drop restores the previous
/// executor, if there was one.
struct ExecutorScope(Option<Rc<ExecutorCore>>);

impl Drop for ExecutorScope {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Executor {
    /// Returns an executor. It is the current executor of this thread until it is dropped. The drop drops all
    /// tasks.
    ///
    /// # Errors
    ///
    /// Returned when descriptors or memory have run out.
    pub fn new() -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let tasks = TaskTable::new(reactor.wakeup());
        let core = Rc::new(ExecutorCore { tasks, timers: Rc::default(), reactor: Rc::clone(&reactor) });
        let current = ExecutorScope(CURRENT.replace(Some(Rc::clone(&core))));
        Ok(Self { core, _reactor: reactor.enter(), _current: current })
    }

    /// Runs `root` to its end, and all tasks meanwhile. Must not be called while another call runs: the executor has
    /// one root.
    ///
    /// # Errors
    ///
    /// Returned when `epoll_wait` fails.
    ///
    /// # Panics
    ///
    /// Panics if `root` panics. A panic in a task ends that task only.
    pub fn block_on<T>(&self, root: impl Future<Output = T>) -> io::Result<T> {
        let ExecutorCore { tasks, timers, reactor } = &*self.core;
        let mut root = pin!(root);
        let own = tasks.reserve();
        loop {
            for turn in tasks.begin_pass() {
                match turn {
                    TaskTurn::Task(task) => task.run(),
                    TaskTurn::Reserved => {
                        let mut cx = Context::from_waker(own.waker());
                        if let Poll::Ready(result) = root.as_mut().poll(&mut cx) {
                            return Ok(result);
                        }
                    }
                }
            }
            let until_next = timers.fire();
            let max_wait = if tasks.is_idle() { until_next } else { Some(Duration::ZERO) };
            if reactor.wait(max_wait)? {
                tasks.wake_remote();
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.core.tasks.drop_all();
    }
}

/// Starts a task on the executor of this thread. Its first turn comes in this pass. A task with two stages
/// returns a [`TaskNext`], every other task returns nothing.
///
/// # Panics
///
/// Panics on a thread without an executor.
pub fn spawn(future: impl TaskWork + 'static) {
    let work = Box::pin(future);
    CURRENT.with_borrow(|core| core.as_ref().expect(NO_EXECUTOR).tasks.spawn(work));
}

const NO_EXECUTOR: &str = "the thread has an executor";

/// Gives the other tasks a turn.
///
/// # Cancel safety
///
/// Nothing is lost.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Returns the timers of this thread.
fn timers() -> Rc<Timers> {
    CURRENT.with_borrow(|core| Rc::clone(&core.as_ref().expect(NO_EXECUTOR).timers))
}

#[cfg(test)]
mod tests;
