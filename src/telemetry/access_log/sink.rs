//! Where lines go: a destination that takes bytes, and the knowledge of what it has taken.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The owner writes, its group may read (log shippers), others see nothing: the lines name clients.
const FILE_MODE: u32 = 0o640;

/// A destination of lines.
pub(super) struct Sink {
    destination: Box<dyn Write + Send>,
    /// The file's name, or `None` for what has none and is never opened again.
    path: Option<PathBuf>,
    /// The last byte taken was not a line end, so the next line needs one before it.
    torn: bool,
}

/// What became of a batch.
pub(super) struct Outcome {
    /// Lines taken whole, their line ends included.
    pub(super) lines: u64,
    /// Why the rest was not taken.
    pub(super) fault: Option<io::Error>,
}

impl Sink {
    /// Standard output without Rust's own buffer, which would hide how much was written.
    pub(super) fn stdout() -> io::Result<Self> {
        let own = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(Box::new(File::from(own)), None))
    }

    /// A file to append to.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::new(Box::new(open(path)?), Some(path.to_owned())))
    }

    pub(super) fn new(destination: Box<dyn Write + Send>, path: Option<PathBuf>) -> Self {
        Self { destination, path, torn: false }
    }

    /// How the destination is called in a log line.
    pub(super) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    }

    /// Opens the file again by its name; on an error the old one stays.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open(path)?;
        // Not rotated at all, it is the same file and still ends in the torn line.
        self.torn &= file.metadata()?.len() > 0;
        self.destination = Box::new(file);
        Ok(())
    }

    /// Writes whole lines, in one write if the destination takes them so. After an error the rest of the
    /// batch is given up: the destination may be slow to recover, and memory is bounded.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> Outcome {
        let mut outcome = Outcome { lines: 0, fault: None };
        if self.torn {
            match self.write_some(b"\n") {
                Ok(_) => {}
                Err(fault) => return Outcome { fault: Some(fault), ..outcome },
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(taken) => {
                    outcome.lines += rest[..taken].iter().filter(|byte| **byte == b'\n').count() as u64;
                    rest = &rest[taken..];
                }
                Err(fault) => return Outcome { fault: Some(fault), ..outcome },
            }
        }
        outcome
    }

    /// One write that took at least one byte.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.destination.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.torn = bytes[taken - 1] != b'\n';
                    return Ok(taken);
                }
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}
