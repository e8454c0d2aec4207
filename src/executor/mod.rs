//! Runs the tasks of one thread: a worker's.
//!
//! One pass polls the tasks that were woken, fires the timers that are due and asks the kernel for news.
//! A task that wakes itself has its next turn in a later pass, after tasks with less to do (`turns`). So a stream with
//! bytes at hand does not delay a small request.
//!
//! It is small because it does little: tasks do not move between threads, and sockets, timers and wakers
//! from other threads are all that can be waited for. A task may end in another, its [`TaskNext`], which
//! takes its place: the beginning of a connection leaves nothing behind in the memory of its middle.

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
use tasks::{TaskTable, TaskTurn};
use timers::Timers;
pub use timers::{Elapsed, Sleep, sleep, sleep_until, timeout, timeout_at};

/// How a task goes on when its future is ready.
pub enum TaskNext {
    /// It has ended.
    Done,
    /// It becomes another one, at once and in the same place.
    Stage(Pin<Box<dyn Future<Output = TaskNext>>>),
}

impl TaskNext {
    /// Goes on with `future`.
    pub fn stage(future: impl Future<Output = TaskNext> + 'static) -> Self {
        Self::Stage(Box::pin(future))
    }
}

/// The tasks of a thread, with its timers and its reactor.
pub struct Executor {
    core: Rc<ExecutorCore>,
    /// After the tasks, whose ends may still need both.
    _reactor: ReactorScope,
    _current: ExecutorScope,
}

/// What everything on the thread reaches.
struct ExecutorCore {
    tasks: TaskTable,
    timers: Rc<Timers>,
    reactor: Rc<Reactor>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<ExecutorCore>>> = const { RefCell::new(None) };
}

/// Keeps an executor the one of its thread; then the earlier one, if any, is it again.
struct ExecutorScope(Option<Rc<ExecutorCore>>);

impl Drop for ExecutorScope {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Executor {
    /// An executor for this thread, until it is dropped. Then all tasks are dropped.
    ///
    /// # Errors
    ///
    /// When descriptors or memory have run out.
    pub fn new() -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let tasks = TaskTable::new(reactor.wakeup());
        let core = Rc::new(ExecutorCore { tasks, timers: Rc::default(), reactor: Rc::clone(&reactor) });
        let current = ExecutorScope(CURRENT.replace(Some(Rc::clone(&core))));
        Ok(Self { core, _reactor: reactor.enter(), _current: current })
    }

    /// Runs `root` to its end, and the tasks meanwhile. Not from within itself: it has one root.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked for news.
    ///
    /// # Panics
    ///
    /// With what `root` panics with. A task's panic ends that task alone.
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
            timers.fire();
            let patience = if tasks.is_idle() { timers.patience() } else { Some(Duration::ZERO) };
            if reactor.wait(patience)? {
                tasks.hear_others();
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.core.tasks.drop_all();
    }
}

/// Starts a task on the executor of this thread; its first turn comes in this pass.
///
/// # Panics
///
/// On a thread without an executor.
pub fn spawn(future: impl Future<Output = TaskNext> + 'static) {
    let work = Box::pin(future);
    CURRENT.with_borrow(|core| core.as_ref().expect(NO_EXECUTOR).tasks.spawn(work));
}

const NO_EXECUTOR: &str = "the thread has an executor";

/// Lets the others have their turn.
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

/// The timers of this thread.
fn timers() -> Rc<Timers> {
    CURRENT.with_borrow(|core| Rc::clone(&core.as_ref().expect(NO_EXECUTOR).timers))
}

#[cfg(test)]
mod tests;
