//! The writer's thread: waits for one record, takes what else is there, writes it all at once.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use metrics::Counter;

use super::sink::{BatchOutcome, OpenedSink, Sink};
use super::{AccessLogFormat, QueuedRecord, Shared, WriterRequest};
use crate::sys::landlock;

/// Bytes after which a batch is written: large enough to make a write cheap, small enough that a file's
/// reader sees lines soon.
const BATCH_LIMIT: usize = 64 * 1024;

/// What the thread owns. The order counts: the queue is dropped before the end is told, so that by then
/// every record in it has been counted.
pub(super) struct Writer {
    orders: Receiver<WriterRequest>,
    sink: Sink,
    format: AccessLogFormat,
    written: Counter,
    /// The lines of one batch; reused.
    batch: Vec<u8>,
    /// How many they are.
    lines: u64,
    failures: FailureStreak,
    side: WriterSide,
}

/// The writer's hold on what is shared with the doors: letting go of it, even in a panic, tells the end.
struct WriterSide(Arc<Shared>);

/// What the writer does next.
#[derive(PartialEq, Eq)]
enum WriterStep {
    Batch,
    End,
}

impl Writer {
    pub(super) fn new(
        orders: Receiver<WriterRequest>,
        shared: Arc<Shared>,
        sink: Sink,
        format: AccessLogFormat,
        written: Counter,
    ) -> Self {
        let batch = Vec::with_capacity(BATCH_LIMIT);
        Self {
            orders,
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
                hint = "start the program that reads the FIFO; pointsman_access_log_dropped_total counts the lines lost",
                "access log: no process reads the FIFO; lines are lost, and the FIFO is opened again each second"
            );
        }
        Ok(())
    }

    /// Logs that the destination could not be opened. The process has begun to serve clients before.
    pub(super) fn report_unopened(&self, fault: &io::Error) {
        self.side.0.set_fault(Some(format!("cannot open the file: {fault}")));
        tracing::error!(
            to = self.sink.name(),
            error = %fault,
            hint = format!(
                "check the directory and its permissions, then send SIGUSR1{}; \
                 pointsman_access_log_dropped_total counts the lines lost",
                landlock::hint(fault)
            ),
            "access log: cannot open the file, lines are lost"
        );
    }

    /// Runs until told to stop, or until nobody is left who could push.
    pub(super) fn run(mut self) {
        while self.collect() == WriterStep::Batch {
            self.reopen_if_asked();
            self.write();
        }
    }

    /// Fills the batch, waiting for its first record only.
    fn collect(&mut self) -> WriterStep {
        while self.batch.len() < BATCH_LIMIT {
            // Read before the queue is: all that was pushed before the stop is then seen there.
            let stopping = self.side.0.stop.load(Ordering::Acquire);
            let order = match self.orders.try_recv() {
                Ok(order) => order,
                Err(_) if self.lines > 0 => return WriterStep::Batch,
                Err(TryRecvError::Empty) if !stopping => {
                    self.side.0.is_full.store(false, Ordering::Relaxed);
                    self.reopen_if_asked();
                    match self.wait() {
                        Ok(order) => order,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return WriterStep::End,
                    }
                }
                Err(_) => return WriterStep::End,
            };
            if let WriterRequest::Write(queued) = order {
                self.add(queued);
            }
        }
        WriterStep::Batch
    }

    /// Waits for an order, or until a FIFO is to be opened again: it may get a reader before the next record comes.
    fn wait(&mut self) -> Result<WriterRequest, RecvTimeoutError> {
        self.retry_if_due();
        match self.sink.retry_at() {
            Some(at) => self.orders.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
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
        if self.failures.add(lost) == FailureNews::New {
            self.side.0.set_fault(Some(fault.to_string()));
            tracing::warn!(
                to = self.sink.name(),
                error = %fault,
                hint = "free space on the disk, or restart the reader of the pipe; \
                    connections go on, and pointsman_access_log_dropped_total counts the lines lost",
                "access log: cannot write, lines are lost until it works again"
            );
        }
    }

    fn report_recovery(&mut self) {
        if let Some(lost) = self.failures.end() {
            self.side.0.set_fault(None);
            tracing::info!(to = self.sink.name(), lost, "access log: writing again");
        }
    }

    fn reopen_if_asked(&mut self) {
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

/// Failures in a row, so that the log hears of them once and not once per batch.
#[derive(Default)]
struct FailureStreak {
    /// Lines lost since the last batch that was written whole; `None` if there was no failure since.
    lost: Option<u64>,
}

/// Whether a failure is news.
#[derive(Debug, PartialEq, Eq)]
enum FailureNews {
    New,
    Before,
}

impl FailureStreak {
    /// A failure was reported that lost no line yet.
    fn begin(&mut self) {
        self.lost.get_or_insert(0);
    }

    /// A batch lost so many lines, at least one.
    fn add(&mut self, lost: u64) -> FailureNews {
        let heard = if self.lost.is_none() { FailureNews::New } else { FailureNews::Before };
        self.lost = Some(self.lost.unwrap_or(0) + lost);
        heard
    }

    /// A batch was written whole; the lines lost before it, if there was a streak.
    fn end(&mut self) -> Option<u64> {
        self.lost.take()
    }
}

impl Drop for Writer {
    /// Only a panic leaves lines in the batch.
    fn drop(&mut self) {
        self.side.0.dropped.increment(self.lines);
    }
}

impl Shared {
    /// Notes why lines are lost, or that they are written.
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
    fn a_streak_is_news_once_and_ends_with_its_sum() {
        let mut failures = FailureStreak::default();
        assert_eq!(failures.end(), None);
        assert_eq!(failures.add(3), FailureNews::New);
        assert_eq!(failures.add(4), FailureNews::Before);
        assert_eq!(failures.end(), Some(7));
        assert_eq!(failures.end(), None);
        assert_eq!(failures.add(1), FailureNews::New);
        assert_eq!(failures.end(), Some(1));
        failures.begin();
        assert_eq!(failures.add(1), FailureNews::Before);
        failures.begin();
        assert_eq!(failures.end(), Some(1));
    }
}
