//! The writer's thread: it waits for one record, takes all others that are queued, and writes them at once.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use metrics::Counter;

use super::sink::{BatchOutcome, OpenedSink, Sink};
use super::{QueuedRecord, Shared, WriterRequest};
use crate::sys::landlock;
use crate::telemetry::line::AccessLogFormat;

/// The bytes after which a batch is written. The value makes a write cheap, and lines still reach the file soon.
const BATCH_LIMIT: usize = 64 * 1024;

/// The state of the thread. The order of the fields matters: the queue is dropped before the end is signalled. So
/// every record in the queue is counted by then.
pub(super) struct Writer {
    requests: Receiver<WriterRequest>,
    sink: Sink,
    format: AccessLogFormat,
    written: Counter,
    /// The lines of one batch; reused.
    batch: Vec<u8>,
    /// The number of lines in the batch.
    lines: u64,
    failures: FailureStreak,
    side: WriterSide,
}

/// The writer's share of the common state. Its drop signals the end of the writer, also after a panic.
struct WriterSide(Arc<Shared>);

/// The next step of the writer.
#[derive(PartialEq, Eq)]
enum WriterStep {
    Batch,
    End,
}

impl Writer {
    pub(super) fn new(
        requests: Receiver<WriterRequest>,
        shared: Arc<Shared>,
        sink: Sink,
        format: AccessLogFormat,
        written: Counter,
    ) -> Self {
        let batch = Vec::with_capacity(BATCH_LIMIT);
        Self {
            requests,
            sink,
            format,
            written,
            batch,
            lines: 0,
            failures: FailureStreak::default(),
            side: WriterSide(shared),
        }
    }

    /// Opens the destination. A FIFO that no process reads is opened later.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.sink.open()? == OpenedSink::NoReader {
            self.failures.begin();
            self.side.0.set_fault(Some("no process reads the FIFO".to_owned()));
            tracing::warn!(
                to = self.sink.name(),
                hint = "start the program that reads the FIFO; pointsman_access_log_dropped_total counts the lost lines",
                "access log: no process reads the FIFO; lines are lost, and the FIFO is opened again each second"
            );
        }
        Ok(())
    }

    /// Logs that the destination could not be opened, after the process has begun to serve clients.
    pub(super) fn report_unopened(&self, fault: &io::Error) {
        self.side.0.set_fault(Some(format!("cannot open the file: {fault}")));
        tracing::error!(
            to = self.sink.name(),
            error = %fault,
            hint = format!(
                "check the directory and its permissions, then send SIGUSR1{}; \
                 pointsman_access_log_dropped_total counts the lost lines",
                landlock::hint(fault)
            ),
            "access log: cannot open the file, lines are lost"
        );
    }

    /// Runs until the log is stopped, or no handle is left that could push.
    pub(super) fn run(mut self) {
        while self.collect() == WriterStep::Batch {
            self.reopen_if_requested();
            self.write();
        }
    }

    /// Fills the batch. Waits for its first record only.
    fn collect(&mut self) -> WriterStep {
        while self.batch.len() < BATCH_LIMIT {
            // Read before the queue, so that all records pushed before the stop are found in the queue.
            let stopping = self.side.0.stop.load(Ordering::Acquire);
            let request = match self.requests.try_recv() {
                Ok(request) => request,
                Err(_) if self.lines > 0 => return WriterStep::Batch,
                Err(TryRecvError::Empty) if !stopping => {
                    self.side.0.is_full.store(false, Ordering::Relaxed);
                    self.reopen_if_requested();
                    match self.wait() {
                        Ok(request) => request,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return WriterStep::End,
                    }
                }
                Err(_) => return WriterStep::End,
            };
            if let WriterRequest::Write(queued) = request {
                self.add(queued);
            }
        }
        WriterStep::Batch
    }

    /// Waits for a request, or until a FIFO is to be opened again: it may get a reader before the next record comes.
    fn wait(&mut self) -> Result<WriterRequest, RecvTimeoutError> {
        self.retry_if_due();
        match self.sink.retry_at() {
            Some(at) => self.requests.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn retry_if_due(&mut self) {
        if self.sink.retry(Instant::now()) {
            let lost = self.end_streak().unwrap_or(0);
            tracing::info!(to = self.sink.name(), lost, "access log: opened again");
        }
    }

    /// Ends a streak of failures, and returns the lines lost in it.
    fn end_streak(&mut self) -> Option<u64> {
        self.side.0.set_fault(None);
        self.failures.end()
    }

    fn add(&mut self, mut queued: QueuedRecord) {
        if let Some(record) = queued.record.take() {
            record.write(self.format, &mut self.batch);
            self.batch.push(b'\n');
            self.lines += 1;
        }
    }

    fn write(&mut self) {
        self.retry_if_due();
        let BatchOutcome { lines, fault } = self.sink.write_lines(&self.batch);
        let lost = self.lines - lines;
        self.written.increment(lines);
        self.side.0.dropped.increment(lost);
        match fault {
            Some(fault) => self.report_loss(lost, &fault),
            None => self.report_recovery(),
        }
        self.batch.clear();
        self.lines = 0;
    }

    fn report_loss(&mut self, lost: u64, fault: &io::Error) {
        if self.failures.add(lost) == StreakPosition::First {
            self.side.0.set_fault(Some(fault.to_string()));
            tracing::warn!(
                to = self.sink.name(),
                error = %fault,
                hint = "free space on the disk, or restart the reader of the pipe; \
                    connections go on, and pointsman_access_log_dropped_total counts the lost lines",
                "access log: cannot write, lines are lost until a write works again"
            );
        }
    }

    fn report_recovery(&mut self) {
        if let Some(lost) = self.failures.end() {
            self.side.0.set_fault(None);
            tracing::info!(to = self.sink.name(), lost, "access log: writing again");
        }
    }

    fn reopen_if_requested(&mut self) {
        if !self.side.0.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.sink.open() {
            Ok(OpenedSink::Now) => {
                let lost = self.end_streak().unwrap_or(0);
                tracing::info!(to = self.sink.name(), lost, "access log: opened again");
            }
            Ok(OpenedSink::NoReader) => tracing::warn!(
                to = self.sink.name(),
                hint = "start the program that reads the FIFO",
                "access log: no process reads the FIFO; lines go to the file that was open, or are lost, and the FIFO is opened again each second"
            ),
            Err(fault) => tracing::warn!(
                to = self.sink.name(),
                error = %fault,
                hint = format!(
                    "check that the directory exists and is writable, then send SIGUSR1 again{}",
                    landlock::hint(&fault)
                ),
                "access log: cannot open the file again, the old one stays in use"
            ),
        }
    }
}

/// Failures in a row, which are logged once and not once for each batch.
#[derive(Default)]
struct FailureStreak {
    /// Lines lost since the last batch that was written whole; `None` if no batch has failed since then.
    lost: Option<u64>,
}

/// The position of a failure in its streak.
#[derive(Debug, PartialEq, Eq)]
enum StreakPosition {
    First,
    Later,
}

impl FailureStreak {
    /// Begins a streak with a failure that lost no line yet.
    fn begin(&mut self) {
        self.lost.get_or_insert(0);
    }

    /// Adds a batch that lost this number of lines, at least one.
    fn add(&mut self, lost: u64) -> StreakPosition {
        let position = if self.lost.is_none() { StreakPosition::First } else { StreakPosition::Later };
        self.lost = Some(self.lost.unwrap_or(0) + lost);
        position
    }

    /// Ends the streak, because a batch was written whole. Returns the lines lost in it, or `None` if no streak
    /// was under way.
    fn end(&mut self) -> Option<u64> {
        self.lost.take()
    }
}

impl Drop for Writer {
    /// Counts the lines of a batch that a panic left.
    fn drop(&mut self) {
        self.side.0.dropped.increment(self.lines);
    }
}

impl Shared {
    /// Sets the reason for which lines are lost, or `None` while they are written.
    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Drop for WriterSide {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.end.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_is_reported_once_and_ends_with_its_sum() {
        let mut failures = FailureStreak::default();
        assert_eq!(failures.end(), None);
        assert_eq!(failures.add(3), StreakPosition::First);
        assert_eq!(failures.add(4), StreakPosition::Later);
        assert_eq!(failures.end(), Some(7));
        assert_eq!(failures.end(), None);
        assert_eq!(failures.add(1), StreakPosition::First);
        assert_eq!(failures.end(), Some(1));
        failures.begin();
        assert_eq!(failures.add(1), StreakPosition::Later);
        failures.begin();
        assert_eq!(failures.end(), Some(1));
    }
}
