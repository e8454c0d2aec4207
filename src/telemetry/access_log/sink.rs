//! The destination of lines. It keeps count of the bytes that the destination has taken.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys::file::{IfAbsent, open_to_append};

/// The owner writes, its group may read (log shippers), and others have no access, because lines contain client
/// addresses.
const FILE_MODE: u32 = 0o640;

/// The time between two attempts to open a FIFO that no process reads.
const RETRY: Duration = Duration::from_secs(1);

/// The error of lines that are lost while the destination is not open.
const NOT_OPEN: &str = "the file is not open, or no process reads the FIFO";

/// A destination of lines.
pub(super) struct Sink {
    /// The open destination. `None` if it was never opened, or is a FIFO that no process reads.
    destination: Option<Box<dyn Write + Send>>,
    /// The file's name; `None` for a destination without a name, which is never opened again.
    path: Option<PathBuf>,
    /// True if the last byte taken was not a line end, so that a line end is needed before the next line.
    torn: bool,
    /// True if the destination is a terminal.
    is_terminal: bool,
    /// The time at which the file is opened again, because its FIFO had no reader.
    retry_at: Option<Instant>,
}

/// The result of writing a batch.
pub(super) struct BatchOutcome {
    /// The number of lines taken whole, with their line ends.
    pub(super) lines: u64,
    /// The error that kept the destination from taking the rest of the lines.
    pub(super) fault: Option<io::Error>,
}

/// The result of an open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenedSink {
    /// The destination is open.
    Now,
    /// The destination is a FIFO that no process reads. It is opened again each second.
    NoReader,
}

impl Sink {
    /// Returns the sink of standard output, without Rust's own buffer, which would hide how many bytes were written.
    pub(super) fn stdout() -> io::Result<Self> {
        let own = io::stdout().as_fd().try_clone_to_owned()?;
        let is_terminal = own.is_terminal();
        Ok(Self { is_terminal, ..Self::new(Box::new(File::from(own)), None) })
    }

    /// Creates the sink of a file to append to, which is not open yet.
    pub(super) fn unopened(path: &Path) -> Self {
        Self {
            destination: None,
            path: Some(path.to_owned()),
            torn: false,
            is_terminal: false,
            retry_at: None,
        }
    }

    pub(super) fn new(destination: Box<dyn Write + Send>, path: Option<PathBuf>) -> Self {
        Self { destination: Some(destination), path, torn: false, is_terminal: false, retry_at: None }
    }

    /// Returns true if the destination is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Returns the name of the destination in a log line.
    pub(super) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    }

    /// Opens the file by its name, or creates it. After an error, and while a FIFO has no reader, the old file stays.
    pub(super) fn open(&mut self) -> io::Result<OpenedSink> {
        self.open_by_name(IfAbsent::Create(FILE_MODE))
    }

    /// Returns the time at which the file is to be opened again, or `None`.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Opens the file again if it is time. Returns true if it is open now and was not before.
    pub(super) fn retry(&mut self, now: Instant) -> bool {
        if self.retry_at.is_none_or(|at| now < at) {
            return false;
        }
        // A FIFO that was removed is not replaced by a regular file.
        match self.open_by_name(IfAbsent::Fail) {
            Ok(OpenedSink::Now) => true,
            Ok(OpenedSink::NoReader) => false,
            Err(_) => {
                self.retry_at = Some(now + RETRY);
                false
            }
        }
    }

    fn open_by_name(&mut self, absent: IfAbsent) -> io::Result<OpenedSink> {
        let Some(path) = &self.path else { return Ok(OpenedSink::Now) };
        let Some(file) = open_to_append(path, absent)? else {
            self.retry_at = Some(Instant::now() + RETRY);
            return Ok(OpenedSink::NoReader);
        };
        // A file that was not rotated is the same file, and still ends in the torn line.
        self.torn &= file.metadata()?.len() > 0;
        self.destination = Some(Box::new(file));
        self.retry_at = None;
        Ok(OpenedSink::Now)
    }

    /// Writes whole lines, in one write if the destination takes them all. After an error the rest of the batch is
    /// dropped: the destination may be slow to recover, and memory is bounded.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> BatchOutcome {
        let mut outcome = BatchOutcome { lines: 0, fault: None };
        if self.torn {
            match self.write_some(b"\n") {
                Ok(_) => {}
                Err(fault) => return BatchOutcome { fault: Some(fault), ..outcome },
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(taken) => {
                    outcome.lines += rest[..taken].iter().filter(|byte| **byte == b'\n').count() as u64;
                    rest = &rest[taken..];
                }
                Err(fault) => return BatchOutcome { fault: Some(fault), ..outcome },
            }
        }
        outcome
    }

    /// Makes one write that takes at least one byte.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(destination) = &mut self.destination else {
            return Err(io::Error::new(ErrorKind::NotConnected, NOT_OPEN));
        };
        loop {
            match destination.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.torn = bytes[taken - 1] != b'\n';
                    return Ok(taken);
                }
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => {
                    // The reader of a FIFO has gone. The next reader may open another FIFO of that name.
                    if fault.kind() == ErrorKind::BrokenPipe && self.path.is_some() {
                        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
                    }
                    return Err(fault);
                }
            }
        }
    }
}
