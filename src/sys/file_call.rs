//! Does work on files on blocking threads, because a file system may never answer. The server of a network file
//! system may be gone, or a daemon of FUSE may have stopped.
//!
//! For each path at most one call is under way in the whole process. Further calls for the path wait without a
//! thread. So a file that hangs holds only one thread, independently of the number of calls. Calls for other paths
//! go on.
//!
//! Only the number of paths bounds the number of threads. With a common bound, files that hang could delay all
//! others; see `BLOCKING_THREADS` in `server/run.rs`.

#![allow(
    clippy::disallowed_types,
    reason = "a turn is held during a call that may never end, and std's lock must be short"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};

type PathTurns = HashMap<Arc<Path>, Arc<Mutex<()>>>;

/// The paths with a call under way or waiting. The lock is a lock of std, because it is held only for a look-up in the
/// map.
static TURNS: StdMutex<Option<PathTurns>> = StdMutex::new(None);

/// Does work on a file on a blocking thread, as soon as no other call for the same path is under way.
///
/// # Errors
///
/// Returned when the work has panicked, or the runtime ends.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
///
/// # Cancel safety
///
/// A call that has begun goes on to its end without its caller, and keeps its turn until then.
pub async fn call<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let turn = FileTurn::wait(path).await;
    turn.call(work).await
}

/// The right to the one call for a path. When it is dropped, the next waiter gets it.
#[derive(Debug)]
pub struct FileTurn {
    path: Arc<Path>,
    /// `None` only while it is dropped.
    held: Option<OwnedMutexGuard<()>>,
}

impl FileTurn {
    /// Waits for the turn of a path.
    ///
    /// # Cancel safety
    ///
    /// Only the position among the waiters is lost.
    pub async fn wait(path: &Path) -> Self {
        let (path, lock) = lock_of(path);
        // Created first: its drop removes the entry even if the wait is given up.
        let mut turn = Self { path, held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    /// Waits for the turn of a path, and blocks the calling thread.
    ///
    /// # Panics
    ///
    /// Panics in a task of tokio.
    pub fn wait_blocking(path: &Path) -> Self {
        let (path, lock) = lock_of(path);
        Self { path, held: Some(lock.blocking_lock_owned()) }
    }

    /// Returns the turn if no call for the path is under way, else `None`.
    #[cfg(test)]
    fn try_take(path: &Path) -> Option<Self> {
        let (path, lock) = lock_of(path);
        let mut turn = Self { path, held: None };
        turn.held = Some(lock.try_lock_owned().ok()?);
        Some(turn)
    }

    /// Does the work on a blocking thread, which holds the turn until the work is done.
    ///
    /// # Errors
    ///
    /// Returned when the work has panicked, or the runtime ends.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// The work goes on to its end without its caller.
    pub async fn call<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let work = move || {
            let _until_the_end = self;
            work()
        };
        spawn_blocking(work).await
    }
}

impl Drop for FileTurn {
    fn drop(&mut self) {
        // Dropped before the count is read: without other holders only the map then holds the lock.
        drop(self.held.take());
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turns) = turns.as_mut() else { return };
        if turns.get(&self.path).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            turns.remove(&self.path);
        }
    }
}

fn lock_of(path: &Path) -> (Arc<Path>, Arc<Mutex<()>>) {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = turns.get_or_insert_with(HashMap::new);
    if let Some((path, lock)) = turns.get_key_value(path) {
        return (Arc::clone(path), Arc::clone(lock));
    }
    let (path, lock): (Arc<Path>, _) = (path.into(), Arc::new(Mutex::new(())));
    turns.insert(Arc::clone(&path), Arc::clone(&lock));
    (path, lock)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    use super::*;

    /// Long enough for a loaded machine; no test waits for it to pass.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn is_known(path: &Path) -> bool {
        TURNS.lock().unwrap().as_ref().is_some_and(|turns| turns.contains_key(path))
    }

    /// Begins a call that ends when the sender is dropped, like a call to a file system that does not answer.
    async fn hang(path: &'static Path) -> Sender<()> {
        let (release, blocked) = channel::<()>();
        let (begun, begins) = channel();
        let work = move || {
            begun.send(()).unwrap();
            let _ = blocked.recv();
        };
        tokio::spawn(async move { call(path, work).await });
        while begins.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        release
    }

    #[test]
    fn a_file_that_hangs_holds_one_thread_and_others_go_on() {
        let (far, near) = (Path::new("/calls/far"), Path::new("/calls/near"));
        let runtime = runtime();
        runtime.block_on(async {
            let release = hang(far).await;
            let (done, ends) = channel();
            let waiting: Vec<_> = (0..600)
                .map(|number| {
                    let done = done.clone();
                    tokio::spawn(async move { call(far, move || done.send(number)).await })
                })
                .collect();
            // With a thread for each call they would use up the threads of the runtime.
            let other = timeout(PATIENCE, call(near, || 7)).await;
            assert_eq!(other.expect("a file that hangs delays no other file").unwrap(), 7);
            assert!(ends.try_recv().is_err(), "its turn had not come");
            assert!(FileTurn::try_take(far).is_none());
            drop(release);
            for one in waiting {
                timeout(PATIENCE, one).await.unwrap().unwrap().unwrap().unwrap();
            }
            assert_eq!(ends.try_iter().count(), 600);
        });
        assert!(!is_known(far) && !is_known(near), "nothing is kept of paths without a call");
    }

    #[test]
    fn a_call_keeps_its_turn_without_its_caller() {
        let path = Path::new("/calls/abandoned");
        let runtime = runtime();
        runtime.block_on(async {
            let (release, blocked) = channel::<()>();
            let (begun, begins) = channel();
            let work = move || {
                begun.send(()).unwrap();
                let _ = blocked.recv();
            };
            let caller = tokio::spawn(async move { call(path, work).await });
            while begins.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
            assert!(FileTurn::try_take(path).is_none(), "its thread is still in the call");
            drop(release);
            drop(timeout(PATIENCE, FileTurn::wait(path)).await.unwrap());
        });
        assert!(!is_known(path));
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_nothing() {
        let path = Path::new("/calls/given-up");
        let turn = FileTurn::try_take(path).unwrap();
        runtime().block_on(async {
            let mut wait = Box::pin(FileTurn::wait(path));
            assert!(futures_poll_once(wait.as_mut()).is_none());
        });
        drop(turn);
        assert!(!is_known(path));
    }

    #[test]
    fn a_thread_waits_for_its_turn() {
        let path = Path::new("/calls/thread");
        let turn = FileTurn::wait_blocking(path);
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            let turn = FileTurn::wait_blocking(path);
            sender.send(()).unwrap();
            drop(turn);
        });
        assert!(receiver.try_recv().is_err(), "there is one turn");
        drop(turn);
        receiver.recv_timeout(PATIENCE).unwrap();
        thread.join().unwrap();
        assert!(!is_known(path));
    }

    /// Polls once. Returns the result, or `None` if there is no result yet.
    fn futures_poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
