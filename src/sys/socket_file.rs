//! The file of a listening Unix socket: its creation, its permissions and its removal.

#![allow(
    clippy::disallowed_methods,
    reason = "sockets; docs/design/0013-outside.md names the threads that wait"
)]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use super::pause;

/// The most attempts to lock a directory: the lock is held for less than a millisecond.
const ATTEMPTS: u32 = 100;

/// Returns true if a Unix socket exists at a path, also one without a listener. For the command line: it may wait for
/// the file system.
pub fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// The device and the inode of a file, which identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl FileIdentity {
    fn of(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// The facts about a file that decide whether it may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// True if the file is a socket.
    pub is_socket: bool,
    /// The user who owns the file.
    pub owner: u32,
    /// The permissions.
    pub mode: u32,
}

/// Returns the facts about a file. It waits for the file system.
///
/// # Errors
///
/// Errors of the file system.
pub fn facts(path: &Path) -> io::Result<FileFacts> {
    let found = fs::metadata(path)?;
    let is_socket = found.file_type().is_socket();
    Ok(FileFacts { is_socket, owner: found.uid(), mode: found.mode() & 0o777 })
}

/// The file of a socket on which this process listens. The file is removed when this value is dropped, unless another
/// file has replaced it, or another process is responsible for the file.
#[derive(Debug)]
pub struct SocketFile {
    path: Arc<Path>,
    identity: FileIdentity,
    /// True if this process removes the file.
    is_own: AtomicBool,
}

impl SocketFile {
    /// Creates a socket that listens at `path` and whose descriptor can be shared. It replaces a socket that exists there
    /// without a listener, which a process that is gone has left.
    ///
    /// `mode` sets the permissions; without it they are those that the umask leaves. Processes that may write to the
    /// file may connect.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where a process listens, `AlreadyExists` for a file that is not a socket. Neither is changed.
    /// Otherwise errors of the file system.
    pub fn listen(path: &Arc<Path>, mode: Option<u32>, backlog: u32) -> io::Result<(OwnedFd, Self)> {
        let _lock = lock(path.parent().unwrap_or(Path::new("/")));
        clear(path)?;
        let socket = Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        if let Some(mode) = mode {
            // Linux gives this mode to the file, as far as the umask permits, so no process may connect before the
            // mode is set.
            fchmod(&socket, Mode::from_bits_truncate(mode))?;
        }
        socket.bind(&SockAddr::unix(path)?)?;
        let found = fs::symlink_metadata(path)?;
        let file = Self {
            path: Arc::clone(path),
            identity: FileIdentity::of(&found),
            is_own: AtomicBool::new(true),
        };
        if let Some(mode) = mode {
            file.set_mode(mode)?;
        }
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok((socket.into(), file))
    }

    /// Returns the file of a socket that another process has created and still serves. This process does not remove the
    /// file before [`SocketFile::own`]. The result is `None` if the file at `path` is no socket or another file than
    /// `expected`.
    pub fn of_another(path: &Arc<Path>, expected: Option<FileIdentity>) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
        let identity = FileIdentity::of(&found);
        let is_expected = expected.is_none_or(|expected| expected == identity);
        is_expected.then(|| Self { path: Arc::clone(path), identity, is_own: AtomicBool::new(false) })
    }

    /// Makes this process responsible for the file: it removes the file in the end.
    pub fn own(&self) {
        self.is_own.store(true, Ordering::Relaxed);
    }

    /// Leaves the file to another process.
    pub fn disown(&self) {
        self.is_own.store(false, Ordering::Relaxed);
    }

    /// Returns the identity of the file.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the permissions.
    ///
    /// # Errors
    ///
    /// Errors of the file system.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&*self.path, fs::Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| FileIdentity::of(&found) == self.identity;
        if self.is_own.load(Ordering::Relaxed) && fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a directory, so that no other process checks or replaces a socket in it at the same time. Returns `None` if
/// the directory cannot be locked, or another program keeps it locked. The directory is then used without the lock.
fn lock(directory: &Path) -> Option<Flock<fs::File>> {
    let mut file = fs::File::open(directory).ok()?;
    for _ in 0..ATTEMPTS {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err(_) => return None,
        }
        pause();
    }
    None
}

/// Removes a socket without a listener.
fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    let probe = Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        // The socket was removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or its queue is full, or this process may not connect: there may be a listener.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A folder for one test, removed at the end.
    struct SocketFolder(PathBuf);

    impl SocketFolder {
        fn new() -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = format!("pointsman-sockets-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> Arc<Path> {
            self.0.join("s").into()
        }
    }

    impl Drop for SocketFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Checks the result of listening after `before`, and that an existing file is kept after a failure.
    fn check<T>(before: impl FnOnce(&Path) -> T, expected: Result<(), io::ErrorKind>) {
        let folder = SocketFolder::new();
        let path = folder.path();
        let kept = before(&path);
        let inode = fs::symlink_metadata(&path).map(|found| found.ino()).ok();
        let listening = SocketFile::listen(&path, Some(0o600), 8);
        assert_eq!(listening.as_ref().map(|_| ()).map_err(io::Error::kind), expected);
        if expected.is_err() {
            assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode.unwrap());
        } else {
            UnixStream::connect(&path).unwrap();
            drop(listening);
            assert!(!path.exists());
        }
        drop(kept);
    }

    #[test]
    fn only_a_socket_that_is_dead_is_replaced() {
        check(|_| (), Ok(()));
        check(|path| drop(UnixListener::bind(path).unwrap()), Ok(()));
        check(|path| UnixListener::bind(path).unwrap(), Err(io::ErrorKind::AddrInUse));
        check(|path| UnixDatagram::bind(path).unwrap(), Err(io::ErrorKind::AddrInUse));
        check(|path| fs::write(path, "precious").unwrap(), Err(io::ErrorKind::AlreadyExists));
        check(|path| fs::create_dir(path).unwrap(), Err(io::ErrorKind::AlreadyExists));
        let link = |path: &Path| std::os::unix::fs::symlink("/nowhere", path).unwrap();
        check(link, Err(io::ErrorKind::AlreadyExists));
    }

    #[test]
    fn a_file_has_its_mode() {
        let folder = SocketFolder::new();
        let mode = || fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
        let (_socket, file) = SocketFile::listen(&folder.path(), Some(0o666), 8).unwrap();
        assert_eq!(mode(), 0o666, "whatever the umask");
        file.set_mode(0o640).unwrap();
        assert_eq!(mode(), 0o640);
    }

    #[test]
    fn a_file_is_removed_by_the_process_that_is_responsible() {
        let folder = SocketFolder::new();
        let (_socket, first) = SocketFile::listen(&folder.path(), None, 8).unwrap();
        let wrong = FileIdentity { inode: first.identity().inode + 1, ..first.identity() };
        assert!(SocketFile::of_another(&folder.path(), Some(wrong)).is_none());
        drop(SocketFile::of_another(&folder.path(), None).expect("it is a socket"));
        assert!(folder.path().exists(), "the first is responsible");
        let second = SocketFile::of_another(&folder.path(), Some(first.identity())).unwrap();
        second.own();
        first.disown();
        drop(first);
        assert!(folder.path().exists(), "the second is responsible");
        drop(second);
        assert!(!folder.path().exists());
        fs::write(folder.path(), "no socket").unwrap();
        assert!(SocketFile::of_another(&folder.path(), None).is_none());
    }

    #[test]
    fn the_file_of_another_stays() {
        let folder = SocketFolder::new();
        let (_socket, file) = SocketFile::listen(&folder.path(), None, 8).unwrap();
        fs::remove_file(folder.path()).unwrap();
        let _other = UnixListener::bind(folder.path()).unwrap();
        drop(file);
        assert!(folder.path().exists());
    }
}
