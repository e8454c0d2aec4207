//! Opens files that are read whole, without waiting. The open of a FIFO would wait for its writer and block the
//! thread.

#![allow(clippy::disallowed_methods, reason = "docs/design/0013-outside.md lists its callers")]

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::unistd::{AccessFlags, faccessat};

/// The names of a process's descriptors: a shell uses them for `<(...)`, and a user for standard input.
const DESCRIPTORS: [&str; 3] = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/"];

/// Opens a regular file to read.
///
/// # Errors
///
/// Errors of the file system; `IsADirectory` or `InvalidInput` if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before the open, because an open alone affects the writer of a FIFO and some devices.
    check_is_regular(path.metadata()?.file_type())?;
    let file = open_at_once(path)?;
    check_is_regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Opens a file that a command line names. The name may stand for a descriptor of this process, such as
/// `/dev/stdin`, which the caller of the command has opened. Reads of it wait until its other end is closed.
///
/// # Errors
///
/// As [`open`].
pub fn open_given(path: &Path) -> io::Result<File> {
    if !is_descriptor(path) {
        return open(path);
    }
    let file = open_at_once(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// The action if a file to append to does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfAbsent {
    /// Create it with this mode.
    Create(u32),
    /// Return an error.
    Fail,
}

/// Opens a file to append to, and does not wait for the reader of a FIFO. Returns `None` for a FIFO that no process
/// reads; it can be opened later, when a process reads it. Writes to the returned file block.
///
/// # Errors
///
/// Errors of the file system.
pub fn open_to_append(path: &Path, absent: IfAbsent) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(OFlag::O_NONBLOCK.bits());
    if let IfAbsent::Create(mode) = absent {
        options.create(true).mode(mode);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if is_unread_fifo(path, &error) => return Ok(None),
        Err(error) => return Err(error),
    };
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(Some(file))
}

/// Returns true if an open failed because no process reads the FIFO. Sockets and devices fail in the same way.
fn is_unread_fifo(path: &Path, error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENXIO as i32)
        && path.metadata().is_ok_and(|found| found.file_type().is_fifo())
}

/// Checks that this process may append to a file, or create it. It opens nothing. A FIFO without a reader is no
/// error.
///
/// # Errors
///
/// The error that an open would return, as far as it can be found without an open.
pub fn check_appendable(path: &Path) -> io::Result<()> {
    let may =
        |path: &Path, what| faccessat(AT_FDCWD, path, what, AtFlags::AT_EACCESS).map_err(io::Error::from);
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.file_type().is_socket() => Err(Errno::ENXIO.into()),
        Ok(_) => may(path, AccessFlags::W_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            may(parent.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)
        }
        Err(error) => Err(error),
    }
}

/// Opens a file without waiting. The standard library adds close-on-exec. O_NONBLOCK changes nothing for a regular
/// file.
fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// Returns true if a path is a name of one of this process's own descriptors.
pub fn is_descriptor(path: &Path) -> bool {
    path.to_str().is_some_and(|path| {
        DESCRIPTORS.iter().any(|name| path == *name || name.ends_with('/') && path.starts_with(name))
    })
}

fn check_is_regular(found: FileType) -> io::Result<()> {
    let (kind, word) = match found {
        _ if found.is_file() => return Ok(()),
        _ if found.is_dir() => (io::ErrorKind::IsADirectory, "directory"),
        _ if found.is_fifo() => (io::ErrorKind::InvalidInput, "FIFO"),
        _ if found.is_socket() => (io::ErrorKind::InvalidInput, "socket"),
        _ => (io::ErrorKind::InvalidInput, "device"),
    };
    Err(io::Error::new(kind, format!("it is not a regular file but a {word}")))
}

/// Creates a FIFO, for tests.
#[cfg(test)]
pub(crate) fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn check(path: &Path, expected: Result<&str, &str>) {
        let mut text = String::new();
        let read = open(path).and_then(|mut file| file.read_to_string(&mut text));
        match expected {
            Ok(expected) => assert_eq!(read.map(|_| &*text).unwrap(), expected, "{path:?}"),
            Err(part) => {
                let message = read.unwrap_err().to_string();
                assert!(message.contains(part), "{path:?}: no {part:?} in {message:?}");
            }
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = std::env::temp_dir().join(format!("pointsman-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        make_fifo(&at("fifo"));
        std::os::unix::fs::symlink(at("fifo"), at("link-to-fifo")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        check(&at("file"), Ok("text"));
        check(&at("link"), Ok("text"));
        check(&at("fifo"), Err("it is not a regular file but a FIFO"));
        check(&at("link-to-fifo"), Err("a FIFO"));
        check(&at("socket"), Err("a socket"));
        check(&folder, Err("a directory"));
        check(Path::new("/dev/null"), Err("a device"));
        check(&at("nothing"), Err("No such file"));
        let fault = open_given(&at("fifo")).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidInput, "it has a name of its own");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_descriptor_of_our_own_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        check(Path::new(&path), Err("a FIFO"));
        let mut file = open_given(Path::new(&path)).unwrap();
        // The read waits for bytes that are not yet written.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text)
        });
        writer.write_all(b"te").unwrap();
        writer.write_all(b"xt").unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), "text");
    }

    #[test]
    fn descriptors_are_known_by_their_names() {
        let check =
            |path: &str, expected: bool| assert_eq!(is_descriptor(Path::new(path)), expected, "{path}");
        check("/dev/stdin", true);
        check("/dev/fd/63", true);
        check("/proc/self/fd/0", true);
        check("/dev/stdin.toml", false);
        check("/dev/null", false);
        check("dev/fd/1", false);
        check("/etc/pointsman/config.toml", false);
    }
}
