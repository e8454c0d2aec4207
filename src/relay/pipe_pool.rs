//! The pipes of a worker, lent to directions that stream.
//!
//! A pipe costs two descriptors and, for a user without CAP_SYS_RESOURCE, a share of
//! `fs.pipe-user-pages-soft`. So there are few pipes, they are shared, and they are lent only while bytes
//! move. A pipe that still holds bytes is never lent again: the bytes belong to a connection.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use crate::sys::Pipe;
use crate::telemetry::{Metrics, PipeFallback};

/// The requested size. Measured: 1 MiB moves a GiB for less than half the cost of the default, 64 KiB.
const WANTED_SIZE: usize = 1024 * 1024;

/// The pipes that one worker lends.
pub struct PipePool {
    // A box keeps the idle relay small: the relay then has room for a pointer only, not for a pipe.
    #[allow(clippy::vec_box)]
    free: RefCell<Vec<Box<PooledPipe>>>,
    open: Cell<usize>,
    limit: usize,
    /// The fewest free pipes since the last sweep. This many were not needed.
    unused: Cell<usize>,
    /// True after the kernel refused a pipe; no other pipe is opened until the next sweep.
    refused: Cell<bool>,
    metrics: Arc<Metrics>,
}

impl PipePool {
    /// Returns a pool of at most `limit` pipes. No pipe is open yet.
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            free: RefCell::default(),
            open: Cell::new(0),
            limit,
            unused: Cell::new(0),
            refused: Cell::new(false),
            metrics,
        }
    }

    /// Lends an empty pipe. Returns `None` if bytes must be copied; the reason is counted.
    pub fn lend(self: &Rc<Self>) -> Option<LentPipe> {
        let free = self.free.borrow_mut().pop();
        self.unused.set(self.unused.get().min(self.free.borrow().len()));
        let mut pipe = match free {
            Some(pipe) => pipe,
            None => self.open_one()?,
        };
        pipe.pool = Some(Rc::clone(self));
        Some(LentPipe(Some(pipe)))
    }

    fn open_one(&self) -> Option<Box<PooledPipe>> {
        if self.refused.get() {
            return None;
        }
        if self.open.get() >= self.limit {
            return self.refuse(PipeFallback::Limit);
        }
        match Pipe::open(WANTED_SIZE) {
            Ok(pipe) => {
                self.open.set(self.open.get() + 1);
                self.metrics.process().pipes_open.increment(1.0);
                Some(Box::new(PooledPipe { pipe, pool: None }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.refuse(PipeFallback::Size)
            }
            Err(_) => self.refuse(PipeFallback::Limit),
        }
    }

    fn give_back(&self, pipe: Box<PooledPipe>) {
        if pipe.pipe.is_empty() {
            self.free.borrow_mut().push(pipe);
        } else {
            self.closed(1);
        }
    }

    /// Closes half of the pipes that were not needed since the last sweep.
    pub fn sweep(&self) {
        self.refused.set(false);
        let mut free = self.free.borrow_mut();
        let surplus = self.unused.get().min(free.len()).div_ceil(2);
        free.drain(..surplus);
        self.unused.set(free.len());
        drop(free);
        self.closed(surplus);
    }

    /// Counts a direction that copies because it cannot splice.
    pub fn fell_back(&self, why: PipeFallback) {
        self.metrics.process().pipe_fallback(why);
    }

    /// The number of open pipes, including lent ones.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    fn closed(&self, pipes: usize) {
        self.open.set(self.open.get() - pipes);
        self.metrics.process().pipes_open.decrement(pipes as f64);
    }

    fn refuse(&self, why: PipeFallback) -> Option<Box<PooledPipe>> {
        self.refused.set(true);
        self.fell_back(why);
        None
    }
}

impl Drop for PipePool {
    fn drop(&mut self) {
        self.closed(self.open.get());
    }
}

/// A pipe of the pool, and its pool while it is lent.
struct PooledPipe {
    pipe: Pipe,
    pool: Option<Rc<PipePool>>,
}

/// A lent pipe. When dropped, an empty pipe returns to its pool, and a pipe that holds bytes is closed.
///
/// The value is always `Some`. It is an option so that `drop` can move the pipe out.
pub struct LentPipe(Option<Box<PooledPipe>>);

const LENT: &str = "only drop takes the pipe out";

impl Deref for LentPipe {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        &self.0.as_ref().expect(LENT).pipe
    }
}

impl DerefMut for LentPipe {
    fn deref_mut(&mut self) -> &mut Pipe {
        &mut self.0.as_mut().expect(LENT).pipe
    }
}

impl Drop for LentPipe {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.take()
            && let Some(pool) = pipe.pool.take()
        {
            pool.give_back(pipe);
        }
    }
}
