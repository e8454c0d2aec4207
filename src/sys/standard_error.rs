//! Standard error for a thread that may wait: a separate descriptor, without the lock of [`std::io::stderr`].

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A copy of the descriptor of standard error. A thread that is blocked in a write to it holds no lock that other
/// threads take.
pub struct StandardError(File);

impl StandardError {
    /// Copies the descriptor.
    ///
    /// # Errors
    ///
    /// Returned when the process has no descriptor left.
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }
}

/// Returns true if standard error is a terminal.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns true if standard error leads to the journal of systemd. JOURNAL_STREAM then has its device and inode, as
/// in systemd.exec(5).
pub fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    // The kernel answers at once for an open descriptor.
    let metadata = io::stderr().as_fd().try_clone_to_owned().and_then(|copy| File::from(copy).metadata());
    metadata.is_ok_and(|metadata| *stream == *format!("{}:{}", metadata.dev(), metadata.ino()))
}

impl Write for StandardError {
    /// Waits until the reader takes bytes, even if another process has made the pipe or terminal non-blocking.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match super::retry(|| self.0.write(bytes)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait_until_writable(&self.0)?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_until_writable(file: &File) -> io::Result<()> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    super::retry(|| Ok(poll(&mut polled, PollTimeout::NONE)?))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn a_non_blocking_descriptor_is_waited_for() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut error = StandardError(File::from(std::os::fd::OwnedFd::from(writer)));
        let text = vec![b'x'; 4 << 20];
        let expected = text.len();
        let writing = thread::spawn(move || error.write_all(&text));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(read.len(), expected);
    }
}
