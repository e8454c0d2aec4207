//! Access to the socket of the hand-over: only processes of one user, or of root, may talk there.
//!
//! The successor gets every connection, so the incumbent checks the user of the successor. The successor believes all
//! that the incumbent sends, so it checks the file of the socket and the user of the incumbent.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::frames::{FrameSocket, PeerCredentials};
use crate::sys::process;
use crate::sys::socket_file::{self, FileFacts};

/// The permissions of a file that let users other than its owner write. They may then connect to a socket.
const WRITE_OF_OTHERS: u32 = 0o022;

/// The user with all rights.
const ROOT: u32 = 0;

/// The reason why a process does not talk at the socket of the hand-over.
#[derive(Debug, thiserror::Error)]
pub enum AccessFault {
    /// There is no socket, or no process listens there.
    #[error("no pointsman answers at {}: {source}", path.display())]
    Absent {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The file is not a socket.
    #[error(
        "{} is not a socket: `pointsman upgrade --socket PATH` or `[handover] socket` names the socket of the running \
         program", path.display()
    )]
    NoSocket {
        /// The path of the file.
        path: PathBuf,
    },
    /// Others may connect to the socket.
    #[error(
        "{} has the mode {mode:04o}, so other users can connect: a program that listens there may be another one; pointsman \
         creates it with the mode 0600; set that mode with `chmod 0600 {}` if the socket is its own", path.display(),
        path.display()
    )]
    Open {
        /// The path of the socket.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another user owns the socket.
    #[error(
        "{} belongs to the user {owner}, and this command runs as the user {own}: run it as the user {owner}, with `sudo -u \
         '#{owner}' pointsman upgrade`; for a service use `systemctl reload pointsman`", path.display()
    )]
    Owner {
        /// The path of the socket.
        path: PathBuf,
        /// The owner of the file.
        owner: u32,
        /// The user of this process.
        own: u32,
    },
    /// The process at the other end runs as another user.
    #[error(
        "process {pid} at the other end runs as the user {uid}, and this process runs as the user {own}: a hand-over is \
         possible only between programs of the same user; run the command as the user of the running program, or use \
         `systemctl reload pointsman`"
    )]
    Peer {
        /// The process at the other end.
        pid: u32,
        /// The user of that process.
        uid: u32,
        /// The user of this process.
        own: u32,
    },
    /// The kernel does not let this process connect.
    #[error("cannot connect to {}: {source}; {}", path.display(), advice(source))]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
}

/// Returns the next step after a connect that failed.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run the command as the user of the running program; for a service use `systemctl reload pointsman`"
        }
        _ => "check the path, or name the socket of the running program with --socket",
    }
}

impl AccessFault {
    /// Returns true if no process listens at the socket.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    fn of(error: io::Error, path: &Path) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::Absent { path, source: error }
            }
            _ => Self::Io { path, source: error },
        }
    }
}

/// Connects to the running program. Waits for the file system and for the other process.
///
/// # Errors
///
/// If no process listens, or the socket may be that of another user.
pub(super) fn connect(path: &Path) -> Result<FrameSocket, AccessFault> {
    let facts = socket_file::facts(path).map_err(|error| AccessFault::of(error, path))?;
    check_file(path, facts, process::user())?;
    let socket = FrameSocket::connect(path).map_err(|error| AccessFault::of(error, path))?;
    let peer = socket.peer().map_err(|source| AccessFault::Io { path: path.to_owned(), source })?;
    check_peer(peer, process::user())?;
    Ok(socket)
}

/// Checks the file of the socket for a process of the user `own`.
fn check_file(path: &Path, facts: FileFacts, own: u32) -> Result<(), AccessFault> {
    let path = path.to_owned();
    if !facts.is_socket {
        return Err(AccessFault::NoSocket { path });
    }
    if facts.owner != own && facts.owner != ROOT {
        return Err(AccessFault::Owner { path, owner: facts.owner, own });
    }
    if facts.mode & WRITE_OF_OTHERS != 0 {
        return Err(AccessFault::Open { path, mode: facts.mode });
    }
    Ok(())
}

/// Checks the process at the other end for a process of the user `own`.
///
/// # Errors
///
/// If it runs as another user, and not as root.
pub(super) fn check_peer(peer: PeerCredentials, own: u32) -> Result<(), AccessFault> {
    match peer.uid {
        uid if uid == own || uid == ROOT => Ok(()),
        uid => Err(AccessFault::Peer { pid: peer.pid, uid, own }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_talk() {
        let check = |uid: u32, own: u32, expected: bool| {
            assert_eq!(check_peer(PeerCredentials { pid: 5, uid }, own).is_ok(), expected, "{uid} {own}");
        };
        check(998, 998, true);
        check(0, 998, true);
        check(0, 0, true);
        check(1000, 998, false);
        check(998, 0, false);
        let fault = check_peer(PeerCredentials { pid: 5, uid: 1000 }, 998).unwrap_err().to_string();
        assert!(fault.contains("the user 1000") && fault.contains("the user 998"), "{fault}");
        assert!(fault.contains("process 5 ") && fault.contains("systemctl reload pointsman"), "{fault}");
    }

    #[test]
    fn the_file_must_be_a_socket_of_this_user_that_lets_no_other_in() {
        let check = |facts: FileFacts, own: u32, expected: &str| {
            let told = check_file(Path::new("/run/h"), facts, own);
            let told = told.err().map(|fault| fault.to_string()).unwrap_or_default();
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{told}");
        };
        let good = FileFacts { is_socket: true, owner: 998, mode: 0o600 };
        check(good, 998, "");
        check(FileFacts { mode: 0o755, ..good }, 998, "");
        check(FileFacts { owner: 0, ..good }, 998, "");
        check(FileFacts { is_socket: false, ..good }, 998, "/run/h is not a socket");
        check(FileFacts { mode: 0o620, ..good }, 998, "mode 0620");
        check(FileFacts { mode: 0o602, ..good }, 998, "chmod 0600 /run/h");
        check(
            good,
            0,
            "belongs to the user 998, and this command runs as the user 0: run it as the user 998",
        );
        check(good, 1000, "belongs to the user 998");
    }

    #[test]
    fn a_connection_is_refused_with_its_reason() {
        let folder = std::env::temp_dir().join(format!("pointsman-access-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("h");
        let told = |path: &Path| connect(path).unwrap_err();
        assert!(told(&path).is_absent());
        std::fs::write(&path, "").unwrap();
        assert!(matches!(told(&path), AccessFault::NoSocket { .. }));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(told(&path), AccessFault::Open { mode: 0o666, .. }));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(connect(&path).unwrap().peer().unwrap().pid, std::process::id());
        drop(listener);
        assert!(told(&path).is_absent(), "nothing listens any more");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
