//! Connects to Unix sockets on threads that serve no connections.
//!
//! connect(2) looks up the path of the socket, and the kernel cannot do that without a wait for the file system. A
//! file system may never answer: the server of a network file system may be gone, or a daemon of FUSE may have
//! stopped. So each directory with sockets has a thread that makes the connects to them, one after another. A thread
//! that has had no work for 10 s ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::oneshot;

use super::retry;

/// The most connects that wait for one directory. A connect takes some microseconds, so more wait only if the file
/// system hangs. The callers of waiting connects may have given up; this bound keeps such connects from filling the
/// memory.
const LONGEST_QUEUE: usize = 16 * 1024;

/// The time for which a thread without work waits for more.
const IDLE: Duration = Duration::from_secs(10);

/// The threads by their directories. The lock is a lock of std, because it is held only to start a thread, or to send
/// to a thread. The send never waits.
static THREADS: Mutex<Option<HashMap<Arc<Path>, ConnectThread>>> = Mutex::new(None);

struct ConnectThread {
    queue: Sender<ConnectRequest>,
    /// Each request holds a clone, so the count of clones is the length of the queue.
    length: Arc<()>,
}

/// A connect that a caller waits for.
struct ConnectRequest {
    path: Arc<Path>,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
    _queued: Arc<()>,
}

/// Creates a non-blocking socket that is connected to the Unix socket at `path`.
///
/// # Errors
///
/// - errors of `socket` and `connect`, such as `WouldBlock` if the accept queue is full
/// - `TimedOut`: the file system does not answer, and too many connects wait for it
/// - `WouldBlock`: no thread can be started
///
/// # Cancel safety
///
/// The attempt may go on without its caller; its socket is then closed.
pub(super) async fn connect(path: &Arc<Path>) -> io::Result<OwnedFd> {
    let connected = send(path)?;
    connected.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

/// Sends a request to the thread of the path's directory, and starts that thread if there is none.
fn send(path: &Arc<Path>) -> io::Result<oneshot::Receiver<io::Result<OwnedFd>>> {
    let directory = directory(path);
    let (reply, connected) = oneshot::channel();
    let mut threads = lock();
    let threads = threads.get_or_insert_with(HashMap::new);
    let running = match threads.get(directory) {
        Some(running) => running,
        None => {
            let directory: Arc<Path> = directory.into();
            let (queue, requests) = channel();
            let own = Arc::clone(&directory);
            thread::Builder::new().name("unix-connect".to_owned()).spawn(move || run(&own, &requests))?;
            threads.entry(directory).or_insert(ConnectThread { queue, length: Arc::default() })
        }
    };
    if Arc::strong_count(&running.length) > LONGEST_QUEUE {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let request = ConnectRequest { path: Arc::clone(path), reply, _queued: Arc::clone(&running.length) };
    running.queue.send(request).map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok(connected)
}

/// Makes the connects of one directory. Ends when there have been none for [`IDLE`].
fn run(directory: &Path, requests: &Receiver<ConnectRequest>) {
    loop {
        match requests.recv_timeout(IDLE) {
            Ok(request) => answer(request),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                // Requests are sent under this lock, so none can come between the check of the queue and the removal.
                let mut threads = lock();
                match requests.try_recv() {
                    Ok(request) => {
                        drop(threads);
                        answer(request);
                    }
                    Err(_) => {
                        threads.as_mut().map(|threads| threads.remove(directory));
                        return;
                    }
                }
            }
        }
    }
}

fn answer(request: ConnectRequest) {
    let ConnectRequest { path, reply, _queued } = request;
    if !reply.is_closed() {
        // If the caller is gone, the socket is closed here.
        let _ = reply.send(connect_here(&path));
    }
}

fn connect_here(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let target = SockAddr::unix(path)?;
    retry(|| socket.connect(&target))?;
    Ok(socket.into())
}

/// Returns the directory whose thread connects to `path`.
fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn lock() -> MutexGuard<'static, Option<HashMap<Arc<Path>, ConnectThread>>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    /// A directory with a thread that takes no request, as on a file system that hangs. The thread ends when this is
    /// dropped.
    struct Hung(PathBuf, Receiver<ConnectRequest>);

    impl Hung {
        fn new(directory: &str) -> Self {
            let directory = PathBuf::from(directory);
            let (queue, requests) = channel();
            let thread = ConnectThread { queue, length: Arc::default() };
            lock().get_or_insert_with(HashMap::new).insert(directory.as_path().into(), thread);
            Self(directory, requests)
        }

        fn path(&self) -> Arc<Path> {
            self.0.join("s").into()
        }
    }

    impl Drop for Hung {
        fn drop(&mut self) {
            lock().as_mut().map(|threads| threads.remove(&*self.0));
        }
    }

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pointsman-unix-connect-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn connect_blocking(path: &Arc<Path>) -> io::Result<OwnedFd> {
        send(path)?.blocking_recv().unwrap()
    }

    #[test]
    fn a_thread_connects() {
        let folder = folder();
        let path: Arc<Path> = folder.join("s").into();
        let missing = connect_blocking(&path).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let socket = connect_blocking(&path).unwrap();
        drop(listener.accept().unwrap());
        assert!(
            SockAddr::as_pathname(&Socket::from(socket).peer_addr().unwrap()).is_some_and(|at| *at == *path)
        );
        drop(listener);
        let refused = connect_blocking(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn connects_that_wait_are_bounded_and_those_given_up_make_no_socket() {
        let hung = Hung::new("/unix-connect/hung");
        let waiting: Vec<_> = (0..LONGEST_QUEUE).map(|_| send(&hung.path()).unwrap()).collect();
        assert_eq!(send(&hung.path()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(waiting);
        assert!(send(&hung.path()).is_err(), "the queue still holds those that were given up");
        hung.1.try_iter().for_each(answer);
        assert!(send(&hung.path()).is_ok(), "the file system has answered");
    }
}
