//! The program's own log: lines go into a bounded queue, and one thread writes them to standard error.
//!
//! A thread that logs never waits for the reader of standard error. Its pipe may be full, the journal may have
//! stopped, or a terminal may have paused the output. A line that finds the queue full is dropped and counted, and
//! so is a line that cannot be written. When writes succeed again, the log reports the number of missing lines.
//!
//! Each line comes whole, with its line end; `lines` makes it from an event.

mod lines;
mod text;

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use lines::{LevelFault, LogControl, LogFormat, LogLevel, LogSpec, send_events};
pub use text::as_text;

use super::Flushed;
use crate::sys::standard_error::{self, StandardError};

/// The most bytes that may wait for the thread, with [`LINE_COST`] for each line: some thousand lines, more than a
/// usual burst has. A single line may be longer.
const QUEUE_LIMIT: usize = 1 << 20;

/// The bytes that a line takes in the queue besides its text.
const LINE_COST: usize = 64;

/// The number of dropped lines. It is one counter for the process, because a process has one log.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of lines of the program's log that were dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Adds dropped lines that another process counted.
pub fn add_dropped_lines(count: u64) {
    DROPPED.fetch_add(count, Ordering::Relaxed);
}

/// The queue of the log. Clones share one queue and one thread.
#[derive(Clone, Debug, Default)]
pub struct ProgramLog(Arc<Shared>);

/// The state that the logging threads and the writing thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Held for a push or a take, never during a write.
    queue: Mutex<LineQueue>,
    /// Signalled when the thread has work.
    wake: Condvar,
    /// Signalled when the thread has ended.
    end: Condvar,
}

#[derive(Debug, Default)]
struct LineQueue {
    lines: VecDeque<Box<[u8]>>,
    /// The bytes of all lines, with [`LINE_COST`] for each.
    cost: usize,
    /// Dropped lines that the log has not yet reported.
    unreported: u64,
    thread: WriterState,
    /// True if the thread is to end once the queue is empty.
    stopping: bool,
}

/// The state of the writing thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WriterState {
    #[default]
    NotStarted,
    Running,
    Ended,
}

impl LineQueue {
    fn drop_lines(&mut self, count: u64) {
        self.unreported += count;
        DROPPED.fetch_add(count, Ordering::Relaxed);
    }
}

impl ProgramLog {
    /// Creates a log whose lines wait until [`start`](Self::start). Threads inherit the privileges of the process, so
    /// no thread may start before the process has given them up.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a line, which ends in a line end, or drops and counts it. Never blocks.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        let cost = line.len() + LINE_COST;
        let is_full = !queue.lines.is_empty() && queue.cost + cost > QUEUE_LIMIT;
        if is_full || queue.thread == WriterState::Ended {
            return queue.drop_lines(1);
        }
        queue.cost += cost;
        queue.lines.push_back(line.into());
        self.0.wake.notify_one();
    }

    /// Queues a text that is not an event: faults and warnings of a configuration. In the journal the text is
    /// one entry with a priority.
    pub fn complain(&self, text: &str) {
        self.push(text::entry(text, standard_error::is_journal()).as_bytes());
    }

    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    ///
    /// Returned when there is no descriptor or no thread left.
    pub fn start(&self) -> io::Result<()> {
        self.start_on(StandardError::open()?, report)
    }

    fn start_on(
        &self,
        to: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let writer = Writer { shared: Arc::clone(&self.0), to, report, is_torn: false, is_flowing: true };
        self.0.lock().thread = WriterState::Running;
        match thread::Builder::new().name("log".to_owned()).spawn(move || writer.run()) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.0.lock().thread = WriterState::NotStarted;
                Err(error)
            }
        }
    }

    /// Writes the queued lines and ends the thread. Waits at most `max_wait`: the reader of standard error may have
    /// stopped. Blocks the calling thread.
    pub fn finish(&self, max_wait: Duration) -> Flushed {
        let deadline = Instant::now() + max_wait;
        if self.0.lock().thread == WriterState::NotStarted && self.start().is_err() {
            return self.write_here();
        }
        let mut queue = self.0.lock();
        queue.stopping = true;
        self.0.wake.notify_one();
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = self.0.end.wait_timeout_while(queue, left, |queue| queue.thread == WriterState::Running);
        let (queue, _) = ended.unwrap_or_else(PoisonError::into_inner);
        if queue.thread == WriterState::Running { Flushed::Abandoned } else { Flushed::All }
    }

    /// Writes the queued lines on this thread, if no other thread can be started: one of the lines reports that.
    fn write_here(&self) -> Flushed {
        let lines = std::mem::take(&mut self.0.lock().lines);
        for line in lines {
            let _ = io::stderr().write_all(&line);
        }
        Flushed::All
    }
}

/// Takes one line with each write, as the subscriber of `tracing` formats them.
impl Write for ProgramLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        // No change can panic half-way, so the value is whole even after a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(missing: u64) {
    tracing::warn!(
        lines = missing,
        "lines of this log were dropped, because standard error was not read in time or a write to it failed; \
         pointsman_log_lines_dropped_total counts them"
    );
}

/// The writing thread.
struct Writer<W, R> {
    shared: Arc<Shared>,
    to: W,
    /// Logs the number of missing lines.
    report: R,
    /// True if a write failed after a part of a line, so that the next line needs a line end before it.
    is_torn: bool,
    /// True if the last write succeeded.
    is_flowing: bool,
}

impl<W: Write, R: Fn(u64)> Writer<W, R> {
    fn run(mut self) {
        let _end = EndOfThread(Arc::clone(&self.shared));
        while let Some((lines, missing)) = self.take() {
            // Reported before the lines are written, while the queue is empty: the report then comes right after
            // these lines, in the position of the missing lines.
            if missing > 0 {
                (self.report)(missing);
            }
            for line in lines {
                self.write(&line);
            }
        }
    }

    /// Waits for lines and takes all of them, with the number of dropped lines to report. Returns `None` at the end. If
    /// a report could not be written, the next report comes only after a line has been written.
    fn take(&self) -> Option<(VecDeque<Box<[u8]>>, u64)> {
        let is_idle =
            |queue: &LineQueue| queue.lines.is_empty() && !(self.is_flowing && queue.unreported > 0);
        let queue =
            self.shared.wake.wait_while(self.shared.lock(), |queue| is_idle(queue) && !queue.stopping);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        if is_idle(&queue) {
            return None;
        }
        queue.cost = 0;
        let missing = if self.is_flowing { std::mem::take(&mut queue.unreported) } else { 0 };
        Some((std::mem::take(&mut queue.lines), missing))
    }

    /// Writes one line, in one write if the destination takes all of it.
    fn write(&mut self, line: &[u8]) {
        if self.is_torn && self.to.write_all(b"\n").is_ok() {
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(taken @ 1..) => rest = &rest[taken..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.is_flowing = rest.is_empty();
        if !self.is_flowing {
            self.is_torn |= rest.len() < line.len();
            self.shared.lock().drop_lines(1);
        }
    }
}

/// Signals the end of the thread, also after a panic.
struct EndOfThread(Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.lock().thread = WriterState::Ended;
        self.0.end.notify_all();
    }
}

/// Sends the messages of panics to the log. The standard library's own hook writes them to standard error on the
/// thread that panics, under a lock. It would block a worker if standard error is not read.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = message(panic.payload());
        // As in the standard library, only RUST_BACKTRACE adds a backtrace.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(thread, place, panic = message, %backtrace, "a thread panicked");
        } else {
            tracing::error!(thread, place, panic = message, "a thread panicked");
        }
    }));
}

fn message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
