//! Landlock: the kernel lets this process access the files that it needs, and no others.
//!
//! The kernel stores the restriction for each thread, like [`privileges`], and the restriction cannot be undone. A
//! grant holds for the file or directory that exists at the start: a directory that replaces it later is not granted.

#![allow(clippy::disallowed_methods, reason = "before the first thread")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use super::privileges;

/// The version of Landlock that is requested; an older kernel enforces what it has. Later versions also forbid
/// connections to Unix sockets by their paths, which backends have.
const WANTED: ABI = ABI::V5;

/// True if this process is confined, for [`hint`].
static IS_ON: AtomicBool = AtomicBool::new(false);

/// The paths that a process may access, with all paths below them. No file may be executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Files and directories that may be read.
    pub read: BTreeSet<PathBuf>,
    /// Directories in which files and sockets may also be written, created and removed.
    pub write: BTreeSet<PathBuf>,
}

/// The degree to which the kernel enforces Landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// The kernel enforces all that was requested.
    Full,
    /// The kernel is too old for a part of it.
    Partial,
    /// The kernel has no Landlock, or it is switched off.
    Absent,
}

/// The reason why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum LandlockFault {
    /// A path that is to be granted cannot be opened.
    #[error("{}: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Refused(#[from] landlock::RulesetError),
}

/// Confines this thread, and all threads that it starts, for good. They can then gain no more privileges.
///
/// # Errors
///
/// A path that does not exist, or the refusal of the kernel. Nothing has changed then.
pub fn confine(grants: &Grants) -> Result<Confinement, LandlockFault> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(WANTED))?.create()?;
    for (paths, access) in [(&grants.read, read), (&grants.write, write)] {
        for path in paths {
            ruleset = ruleset.add_rule(rule(path, access)?)?;
        }
    }
    let confinement = match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::Absent,
    };
    IS_ON.store(confinement != Confinement::Absent, Ordering::Relaxed);
    Ok(confinement)
}

/// Returns the rule for a path. A file has fewer access rights than a directory.
fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, LandlockFault> {
    let fault = |source| LandlockFault::Path { path: path.to_owned(), source };
    let is_file = path.metadata().map_err(fault)?.is_file();
    let opened = PathFd::new(path).map_err(|error| fault(io::Error::other(error)))?;
    let access = if is_file { access & AccessFs::from_file(WANTED) } else { access };
    Ok(PathBeneath::new(opened, access))
}

/// Returns the text to add to an error of a file. The text names a possible cause: Landlock forbids the file, or root
/// lacks a capability that the process gave up at the start. Without such a cause the text is empty.
pub fn hint(error: &io::Error) -> &'static str {
    match (IS_ON.load(Ordering::Relaxed), privileges::hint(error)) {
        _ if error.kind() != io::ErrorKind::PermissionDenied => "",
        (false, hint) => hint,
        (true, "") => {
            "; Landlock bars directories that the configuration did not name at the start: restart, or set \
             process.landlock = false"
        }
        (true, _) => {
            "; Landlock bars directories that the configuration did not name at the start: restart, or set \
             process.landlock = false; and root without capabilities needs permission as others do"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    /// Creates folders `read`, `write` and `other` with a file `f` in each, and a socket `s` in `other`.
    fn folders() -> PathBuf {
        let root = std::env::temp_dir().join(format!("pointsman-landlock-{}", std::process::id()));
        for name in ["read", "write", "other"] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("f"), name).unwrap();
        }
        root
    }

    #[test]
    fn only_what_is_granted_can_be_reached() {
        let root = folders();
        let socket = UnixListener::bind(root.join("other/s")).unwrap();
        let at = root.clone();
        let grants = Grants { read: [root.join("read")].into(), write: [root.join("write")].into() };
        let confined = thread::spawn(move || {
            let confinement = confine(&grants).unwrap();
            if confinement == Confinement::Absent {
                return confinement;
            }
            let kind = |result: io::Result<()>| result.map_err(|error| error.kind());
            let denied = Err(io::ErrorKind::PermissionDenied);
            assert_eq!(fs::read(at.join("read/f")).unwrap(), b"read");
            assert_eq!(kind(fs::write(at.join("read/f"), "x")), denied);
            assert_eq!(kind(fs::write(at.join("read/new"), "x")), denied);
            assert_eq!(kind(fs::read(at.join("other/f")).map(drop)), denied);
            assert_eq!(kind(fs::read_dir(at.join("other")).map(drop)), denied);
            fs::write(at.join("write/new"), "x").unwrap();
            fs::remove_file(at.join("write/new")).unwrap();
            drop(UnixListener::bind(at.join("write/s")).unwrap());
            fs::remove_file(at.join("write/s")).unwrap();
            assert_eq!(kind(UnixListener::bind(at.join("other/t")).map(drop)), denied);
            UnixStream::connect(at.join("other/s")).expect("backends are not barred");
            assert!(std::process::Command::new("/bin/true").status().is_err(), "nothing can be started");
            let error = fs::read(at.join("other/f")).unwrap_err();
            assert!(hint(&error).contains("Landlock"));
            confinement
        });
        let confinement = confined.join().unwrap();
        // The hint is for the whole process, and this process is not confined.
        IS_ON.store(false, Ordering::Relaxed);
        drop(socket);
        fs::remove_dir_all(root).unwrap();
        println!("{confinement:?}");
    }

    #[test]
    fn what_is_not_there_cannot_be_granted() {
        let grants = Grants { read: [PathBuf::from("/nowhere/at/all")].into(), ..Grants::default() };
        let fault = thread::spawn(move || confine(&grants).unwrap_err().to_string()).join().unwrap();
        assert!(fault.starts_with("/nowhere/at/all: No such file"), "{fault}");
    }

    #[test]
    fn an_unconfined_process_gets_no_hint() {
        assert_eq!(hint(&io::ErrorKind::NotFound.into()), "");
    }
}
