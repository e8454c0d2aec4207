//! The access log: records go into a bounded queue, and one thread formats and writes them as lines.
//!
//! The data path never waits for a disk or for the reader of a pipe. If the queue is full, a record is dropped and
//! counted. So is every line that could not be written, and every record that was still queued when the writer
//! ended. Once the writer has ended, `written + dropped` is the number of records pushed.

mod sink;
mod spec;
mod writer;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use metrics::Counter;

use self::sink::Sink;
pub use self::spec::{AccessLogEvents, AccessLogSpec, AccessLogTarget};
use self::spec::{CurrentChoice, RecordChoice};
use self::writer::Writer;
use super::line::AccessLogFormat;
use super::record::AccessRecord;

/// The most records that may wait for the writer. At 100,000 connections a second they bridge a stall of 160 ms. A
/// full queue holds about 6.5 MiB.
const QUEUE_LIMIT: usize = 16 * 1024;

/// The time for which a start waits until the file is open. A file system that has not answered by then may
/// never answer. So the process serves clients before the file is open.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

/// The handle of the writer. Clones are cheap and share one writer, which ends after [`shutdown`](Self::shutdown) or
/// when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<CurrentWriter>);

/// The writer in use. A reload changes it.
#[derive(Debug)]
struct CurrentWriter {
    choice: CurrentChoice,
    handle: ArcSwapOption<WriterHandle>,
    /// The shared parts of writers that are no longer in use, until each writer has ended. Has a lock because two
    /// reloads might meet; it is held for a look-up.
    retired: Mutex<Vec<Weak<Shared>>>,
    dropped: Counter,
    written: Counter,
}

/// A destination that is open, and not yet in use.
#[derive(Debug)]
#[must_use = "dropped, it closes again"]
pub struct OpenedAccessLog {
    handle: Option<Arc<WriterHandle>>,
    choice: RecordChoice,
}

/// The answer of a file system to an open: it came in time, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenAnswer {
    Came,
    Missing,
}

/// A destination that is no longer in use.
#[derive(Debug)]
pub struct RetiredAccessLog(Option<Arc<WriterHandle>>);

/// The handle of one writer.
#[derive(Debug)]
struct WriterHandle {
    queue: SyncSender<WriterRequest>,
    shared: Arc<Shared>,
}

/// The state that the clones and the writer share. The writer must not hold the queue's sending end, or it would
/// never end.
#[derive(Debug)]
struct Shared {
    /// The name of the destination in the log.
    to: String,
    reopen: AtomicBool,
    stop: AtomicBool,
    dropped: Counter,
    /// The reason for which lines are lost; `None` while they are written. The writer sets it, the status reads it.
    fault: Mutex<Option<String>>,
    /// True if a record found the queue full since the writer last found the queue empty.
    is_full: AtomicBool,
    /// True if the writer has ended. Has a lock because a condition variable needs one; it is held only to read or
    /// set the value.
    ended: Mutex<bool>,
    end: Condvar,
}

/// An entry of the queue.
#[derive(Debug)]
enum WriterRequest {
    Write(QueuedRecord),
    /// The writer is to read the flags of [`Shared`].
    Look,
}

/// A record in the queue. If it is dropped unwritten, it counts itself as lost, however the queue ended.
#[derive(Debug)]
struct QueuedRecord {
    /// Boxed so that an empty queue is small. Taken when it becomes a line.
    record: Option<Box<AccessRecord>>,
    shared: Arc<Shared>,
}

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what was abandoned is lost and should be reported"]
pub enum Flushed {
    /// All queued records were written, or counted as dropped.
    All,
    /// The deadline passed first: the writer hangs in a write, and the queued records are lost.
    Abandoned,
}

impl AccessLog {
    /// Starts the writer's thread, which opens the destination. A file is created with mode 0640. A FIFO that no
    /// process reads is opened later, and lines are dropped until then. A file on a file system that does not
    /// answer is also opened later. Lines are dropped when the queue is full. `written` counts lines, `dropped`
    /// records that became no line.
    ///
    /// # Errors
    ///
    /// Returned if the file cannot be opened, standard output cannot be duplicated, or no thread can be started.
    pub fn start(spec: &AccessLogSpec, dropped: Counter, written: Counter) -> io::Result<Self> {
        let log = Self::unused(dropped, written);
        let (opened, answer) = log.begin_to_open(spec)?;
        if answer == OpenAnswer::Missing {
            tracing::warn!(
                to = %spec.to,
                hint = "does its file system hang? pointsman_access_log_dropped_total counts the lost lines",
                "access log: the file is not open yet; clients are served, and lines are lost while the queue is full"
            );
        }
        log.put_in_use(opened);
        Ok(log)
    }

    fn unused(dropped: Counter, written: Counter) -> Self {
        let (handle, retired) = (ArcSwapOption::empty(), Mutex::default());
        let choice = CurrentChoice::default();
        Self(Arc::new(CurrentWriter { choice, handle, retired, dropped, written }))
    }

    /// Opens a destination to be used by [`switch`](Self::switch). Blocks for at most 5 s.
    ///
    /// # Errors
    ///
    /// The errors of [`start`](Self::start), and `TimedOut` for a file system that does not answer.
    pub fn open(&self, spec: &AccessLogSpec) -> io::Result<OpenedAccessLog> {
        let (opened, answer) = self.begin_to_open(spec)?;
        match answer {
            OpenAnswer::Came => Ok(opened),
            OpenAnswer::Missing => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer"))
            }
        }
    }

    fn begin_to_open(&self, spec: &AccessLogSpec) -> io::Result<(OpenedAccessLog, OpenAnswer)> {
        let is_on = spec.to != AccessLogTarget::Off;
        let choice = RecordChoice { is_on, events: spec.events, leaves_out_empty: !spec.empty };
        let sink = match &spec.to {
            AccessLogTarget::Off => {
                return Ok((OpenedAccessLog { handle: None, choice }, OpenAnswer::Came));
            }
            AccessLogTarget::Stdout => Sink::stdout()?,
            AccessLogTarget::File(path) => Sink::unopened(path),
        };
        let on_terminal = if sink.is_terminal() { AccessLogFormat::Text } else { AccessLogFormat::Json };
        let (handle, answer) = self.open_on(sink, spec.format.unwrap_or(on_terminal), QUEUE_LIMIT)?;
        Ok((OpenedAccessLog { handle: Some(handle), choice }, answer))
    }

    fn open_on(
        &self,
        sink: Sink,
        format: AccessLogFormat,
        limit: usize,
    ) -> io::Result<(Arc<WriterHandle>, OpenAnswer)> {
        let (queue, requests) = sync_channel(limit);
        let shared = Arc::new(Shared {
            to: sink.name(),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped: self.0.dropped.clone(),
            fault: Mutex::default(),
            is_full: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let writer = Writer::new(requests, Arc::clone(&shared), sink, format, self.0.written.clone());
        let (result, opened) = sync_channel(1);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || open_and_run(writer, &result))?;
        let answer = match opened.recv_timeout(OPEN_PATIENCE) {
            Ok(opened) => {
                opened?;
                OpenAnswer::Came
            }
            Err(_) => OpenAnswer::Missing,
        };
        Ok((Arc::new(WriterHandle { queue, shared }), answer))
    }

    fn put_in_use(&self, OpenedAccessLog { handle, choice }: OpenedAccessLog) -> RetiredAccessLog {
        let old = self.0.handle.swap(handle);
        self.0.choice.set(choice);
        if let Some(old) = &old {
            let mut retired = self.retired();
            retired.retain(|writer| writer.strong_count() > 0);
            retired.push(Arc::downgrade(&old.shared));
        }
        RetiredAccessLog(old)
    }

    /// Uses another destination for records from now on. The old destination still writes its queued records,
    /// until it is [finished](RetiredAccessLog::finish).
    pub fn switch(&self, opened: OpenedAccessLog) -> RetiredAccessLog {
        self.put_in_use(opened)
    }

    /// Returns true if there is an access log. Without an access log no records need be made.
    pub fn is_on(&self) -> bool {
        self.0.choice.is_on()
    }

    /// Returns true if the start of a relay makes a record.
    pub fn has_starts(&self) -> bool {
        self.0.choice.starts()
    }

    /// Returns the time after which an open relay makes a record, again and again; `None` if it makes no such records.
    pub fn interval(&self) -> Option<Duration> {
        self.0.choice.interval()
    }

    /// Returns true if the end of a connection makes a record.
    pub fn has_ends(&self) -> bool {
        self.0.choice.ends()
    }

    /// Returns true if the ends of connections without a byte make no records.
    pub fn leaves_out_empty(&self) -> bool {
        self.0.choice.leaves_out_empty()
    }

    /// Queues a record for the writer. Never blocks: if the queue is full or the writer has ended, the record is
    /// counted as dropped. Returns true if the record was queued.
    pub fn push(&self, record: AccessRecord) -> bool {
        let handle = self.0.handle.load();
        let Some(handle) = &*handle else { return false };
        let queued = QueuedRecord { record: Some(Box::new(record)), shared: Arc::clone(&handle.shared) };
        // A record that cannot be sent is returned in the error, and counts itself when the error is dropped.
        let sent = handle.queue.try_send(WriterRequest::Write(queued));
        if let Err(TrySendError::Full(_)) = sent {
            handle.shared.is_full.store(true, Ordering::Relaxed);
        }
        sent.is_ok()
    }

    /// Returns the reason for which the log loses lines now; `None` if it loses none, or is off.
    pub fn fault(&self) -> Option<String> {
        let handle = self.0.handle.load();
        let shared = &handle.as_ref()?.shared;
        let why = shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_full = shared.is_full.load(Ordering::Relaxed);
        let full = || is_full.then(|| "the destination takes them too slowly, or not at all".to_owned());
        let why = why.or_else(full)?;
        Some(format!("lines are lost: {why}; pointsman_access_log_dropped_total counts them"))
    }

    /// Opens the file again by its name, after a rotation has renamed it. Returns at once. The writer opens the
    /// file before its next write. If this fails, it continues with the old file. Standard output stays as it is.
    pub fn reopen(&self) {
        if let Some(handle) = &*self.0.handle.load() {
            handle.raise(&handle.shared.reopen);
        }
    }

    /// Writes the queued records and ends the writer, by `deadline` at the latest. Does the same for each earlier
    /// destination that was [switched](Self::switch) and still writes. Records that other clones push later are
    /// counted as dropped. A destination that does not end in time is logged. Blocks the calling thread, so it must
    /// not run on a worker.
    pub fn shutdown(self, deadline: Instant) -> Flushed {
        let handle = self.0.handle.load_full();
        if let Some(handle) = &handle {
            handle.raise(&handle.shared.stop);
        }
        let mut writers: Vec<_> = self.retired().iter().filter_map(Weak::upgrade).collect();
        writers.extend(handle.map(|handle| Arc::clone(&handle.shared)));
        let mut flushed = Flushed::All;
        for writer in writers {
            if writer.wait_for_end(deadline) == Flushed::Abandoned {
                flushed = Flushed::Abandoned;
                tracing::warn!(
                    to = writer.to,
                    "access log: the destination takes no lines; the queued records are lost"
                );
            }
        }
        flushed
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        // No entry is ever half added.
        self.0.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RetiredAccessLog {
    /// Writes the queued records and ends the writer, by `deadline` at the latest. Blocks the calling thread.
    pub fn finish(self, deadline: Instant) -> Flushed {
        let Some(handle) = self.0 else { return Flushed::All };
        handle.raise(&handle.shared.stop);
        handle.shared.wait_for_end(deadline)
    }
}

impl Shared {
    fn wait_for_end(&self, deadline: Instant) -> Flushed {
        let max_wait = deadline.saturating_duration_since(Instant::now());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_timeout_while(ended, max_wait, |ended| !*ended);
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *ended { Flushed::All } else { Flushed::Abandoned }
    }
}

/// Runs the writer's thread.
fn open_and_run(mut writer: Writer, result: &SyncSender<io::Result<()>>) {
    if let Err(fault) = writer.open() {
        // The start takes the fault, unless it no longer waits.
        let Err(TrySendError::Disconnected(Err(fault))) = result.try_send(Err(fault)) else { return };
        writer.report_unopened(&fault);
    } else {
        _ = result.try_send(Ok(()));
    }
    writer.run();
}

impl WriterHandle {
    /// Sets a flag and wakes the writer to read it. A full queue needs no request: the writer is awake, and reads the
    /// flags before it next waits.
    fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        _ = self.queue.try_send(WriterRequest::Look);
    }
}

impl Drop for QueuedRecord {
    fn drop(&mut self) {
        if self.record.is_some() {
            self.shared.dropped.increment(1);
        }
    }
}

#[cfg(test)]
mod tests;
