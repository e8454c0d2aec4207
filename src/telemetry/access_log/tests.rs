use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::sys::Address;
use crate::sys::file::make_fifo;
use crate::telemetry::{ClientAddr, CloseReason};

/// Long enough for a loaded machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn record(id: u64) -> AccessRecord {
    let client = ClientAddr(Address::Tcp("192.0.2.1:1".parse().unwrap()));
    AccessRecord::refused(id, UNIX_EPOCH, client, "l".into(), CloseReason::ClientFin)
}

fn spec(to: AccessLogTarget, format: Option<AccessLogFormat>) -> AccessLogSpec {
    AccessLogSpec { to, format, events: AccessLogEvents::default(), empty: true, refused_per_second: None }
}

fn opened(handle: Option<Arc<WriterHandle>>) -> OpenedAccessLog {
    OpenedAccessLog { choice: RecordChoice { is_on: handle.is_some(), ..RecordChoice::default() }, handle }
}

/// A log with its two counters.
struct TestLog {
    log: AccessLog,
    written: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl TestLog {
    fn on(sink: Sink, limit: usize) -> Self {
        let (written, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (Counter::from_arc(Arc::clone(&dropped)), Counter::from_arc(Arc::clone(&written)));
        let log = AccessLog::unused(counters.0, counters.1);
        let handle = Some(log.open_on(sink, AccessLogFormat::Text, limit).unwrap().0);
        _ = log.put_in_use(opened(handle));
        Self { log, written, dropped }
    }

    fn with(destination: impl Write + Send + 'static, limit: usize) -> Self {
        Self::on(Sink::new(Box::new(destination), None), limit)
    }

    fn push(&self, ids: std::ops::Range<u64>) {
        ids.for_each(|id| _ = self.log.push(record(id)));
    }

    /// Returns `(written, dropped)` after a clean end.
    fn finish(self) -> (u64, u64) {
        assert_eq!(self.log.shutdown(Instant::now() + PATIENCE), Flushed::All);
        (self.written.load(Ordering::Acquire), self.dropped.load(Ordering::Acquire))
    }
}

/// Reports each write, and takes its bytes when the test permits it.
struct BlockingWriter {
    arrived: Sender<Vec<u8>>,
    pass: Receiver<()>,
}

impl BlockingWriter {
    fn new() -> (Self, Receiver<Vec<u8>>, Sender<()>) {
        let (arrived, arrivals) = channel();
        let (key, pass) = channel();
        (Self { arrived, pass }, arrivals, key)
    }
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        _ = self.arrived.send(bytes.to_vec());
        // A dropped sender opens the gate for good.
        _ = self.pass.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Follows a script, then takes all bytes.
struct Script {
    steps: VecDeque<Step>,
    taken: Arc<Mutex<Vec<u8>>>,
}

#[derive(Clone, Copy)]
enum Step {
    Take(usize),
    Fail(ErrorKind),
}

impl Script {
    fn new(steps: &[Step]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        (Self { steps: steps.iter().copied().collect(), taken: Arc::clone(&taken) }, taken)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match self.steps.pop_front() {
            Some(Step::Fail(kind)) => return Err(kind.into()),
            Some(Step::Take(count)) => count.min(bytes.len()),
            None => bytes.len(),
        };
        self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the ids of lines that hold one record each.
fn ids(bytes: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| line.split(' ').nth(1).unwrap()[3..].parse().unwrap()).collect()
}

/// Checks the lines taken of each batch by a sink that follows a script, and all the bytes that the sink has.
fn check_sink(steps: &[Step], batches: &[&str], lines: &[u64], taken: &str) {
    let (script, bytes) = Script::new(steps);
    let mut sink = Sink::new(Box::new(script), None);
    let found: Vec<_> = batches.iter().map(|batch| sink.write_lines(batch.as_bytes()).lines).collect();
    assert_eq!(found, lines);
    assert_eq!(String::from_utf8(bytes.lock().unwrap().clone()).unwrap(), taken);
}

#[test]
fn a_torn_line_is_closed_before_the_next_one() {
    use ErrorKind::{Interrupted, StorageFull};
    use Step::{Fail, Take};
    check_sink(&[], &["a\nb\n", "c\n"], &[2, 1], "a\nb\nc\n");
    check_sink(&[Take(1), Take(2), Take(1)], &["a\nb\n"], &[2], "a\nb\n");
    check_sink(&[Fail(Interrupted)], &["a\n"], &[1], "a\n");
    check_sink(&[Fail(StorageFull)], &["a\n", "b\n"], &[0, 1], "b\n");
    check_sink(&[Take(0)], &["a\n", "b\n"], &[0, 1], "b\n");
    check_sink(&[Take(3), Fail(StorageFull)], &["a\nbb\n", "c\n"], &[1, 1], "a\nb\nc\n");
    check_sink(&[Take(2), Fail(StorageFull)], &["a\nbb\n", "c\n"], &[1, 1], "a\nc\n");
    check_sink(
        &[Take(3), Fail(StorageFull), Fail(StorageFull)],
        &["aaa\naaa\n", "b\n", "c\n"],
        &[0, 0, 1],
        "aaa\nc\n",
    );
    check_sink(
        &[Take(2), Fail(StorageFull), Take(1), Fail(StorageFull)],
        &["aaa\n", "b\n", "c\n"],
        &[0, 0, 1],
        "aa\nc\n",
    );
}

#[test]
fn an_absent_log_has_no_records_and_no_counts() {
    let spec = spec(AccessLogTarget::Off, None);
    let log = AccessLog::start(&spec, Counter::noop(), Counter::noop()).unwrap();
    assert!(!log.is_on());
    log.push(record(1));
    log.reopen();
    assert_eq!(log.shutdown(Instant::now()), Flushed::All);
}

#[test]
fn records_become_lines_in_their_order_and_in_batches() {
    let (gate, arrivals, key) = BlockingWriter::new();
    let test_log = TestLog::with(gate, 100);
    test_log.push(0..1);
    let first = arrivals.recv().unwrap();
    test_log.push(1..50);
    drop(key);
    assert_eq!(test_log.finish(), (50, 0));
    let rest: Vec<_> = arrivals.iter().collect();
    assert_eq!(rest.len(), 1, "49 waiting records make one write");
    assert_eq!(ids(&[first, rest.concat()].concat()), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (gate, arrivals, key) = BlockingWriter::new();
    let test_log = TestLog::with(gate, 4);
    test_log.push(0..1);
    let first = arrivals.recv().unwrap();
    test_log.push(1..101);
    assert_eq!(test_log.dropped.load(Ordering::Acquire), 96, "four wait, the others are lost at once");
    drop(key);
    assert_eq!(test_log.finish(), (5, 96));
    let rest: Vec<_> = arrivals.iter().flatten().collect();
    assert_eq!(ids(&[first, rest].concat()), [0, 1, 2, 3, 4]);
}

#[test]
fn a_stuck_destination_does_not_hold_up_the_end() {
    let (gate, arrivals, key) = BlockingWriter::new();
    let test_log = TestLog::with(gate, 4);
    test_log.push(0..1);
    arrivals.recv().unwrap();
    test_log.push(1..11);
    let other = test_log.log.clone();
    assert_eq!(test_log.log.shutdown(Instant::now()), Flushed::Abandoned);
    drop(key);
    assert_eq!(other.clone().shutdown(Instant::now() + PATIENCE), Flushed::All);
    other.push(record(11));
    assert_eq!(test_log.written.load(Ordering::Acquire), 5);
    assert_eq!(test_log.dropped.load(Ordering::Acquire), 7);
}

/// A reload may come shortly before the end.
#[test]
fn the_end_waits_for_a_destination_that_is_no_longer_in_use() {
    let (gate, arrivals, key) = BlockingWriter::new();
    let test_log = TestLog::with(gate, 8);
    test_log.push(0..1);
    arrivals.recv().unwrap();
    test_log.push(1..3);
    let sink = Sink::new(Box::new(Script::new(&[]).0), None);
    let handle = Some(test_log.log.open_on(sink, AccessLogFormat::Text, 8).unwrap().0);
    let current = Arc::clone(&handle.as_ref().unwrap().shared);
    let old = test_log.log.switch(opened(handle));
    let retiring = thread::spawn(move || old.finish(Instant::now() + PATIENCE));
    test_log.push(3..4);
    _ = test_log.log.clone().shutdown(Instant::now());
    assert_eq!(current.wait_for_end(Instant::now() + PATIENCE), Flushed::All);
    assert_eq!(test_log.log.clone().shutdown(Instant::now()), Flushed::Abandoned, "the old one still writes");
    drop(key);
    assert_eq!(test_log.finish(), (4, 0));
    assert_eq!(retiring.join().unwrap(), Flushed::All);
}

#[test]
fn no_record_is_lost_silently_when_the_end_comes_in_between() {
    let (script, taken) = Script::new(&[]);
    let test_log = TestLog::with(script, 64);
    let pushers: Vec<_> = (0..4)
        .map(|_| {
            let log = test_log.log.clone();
            thread::spawn(move || (0..2000).for_each(|id| _ = log.push(record(id))))
        })
        .collect();
    assert_eq!(test_log.log.shutdown(Instant::now() + PATIENCE), Flushed::All);
    pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
    let (written, dropped) =
        (test_log.written.load(Ordering::Acquire), test_log.dropped.load(Ordering::Acquire));
    assert_eq!(written + dropped, 8000);
    assert_eq!(ids(&taken.lock().unwrap()).len() as u64, written);
}

#[test]
fn a_failing_destination_is_tried_again() {
    let (script, taken) = Script::new(&[Step::Take(10), Step::Fail(ErrorKind::BrokenPipe)]);
    let test_log = TestLog::with(script, 8);
    test_log.push(0..1);
    // The first line is lost before the second is pushed: they are two batches.
    wait_for(&test_log.dropped, 1);
    test_log.push(1..2);
    assert_eq!(test_log.finish(), (1, 1));
    let taken = taken.lock().unwrap();
    let (torn, whole) = taken.split_at(11);
    assert_eq!(torn, b"time=1970-\n");
    assert_eq!(ids(whole), [1]);
}

fn wait_for_fault(log: &AccessLog, expected: Option<&str>) {
    let until = Instant::now() + PATIENCE;
    let is_there = || match (log.fault(), expected) {
        (Some(fault), Some(part)) => fault.contains(part),
        (fault, expected) => fault.is_none() && expected.is_none(),
    };
    while !is_there() {
        assert!(Instant::now() < until, "{expected:?} and not {:?}", log.fault());
        thread::yield_now();
    }
}

/// The status shows the fault until it is over.
#[test]
fn a_log_that_loses_lines_has_a_fault() {
    let (script, _) = Script::new(&[Step::Fail(ErrorKind::StorageFull)]);
    let test_log = TestLog::with(script, 8);
    assert_eq!(test_log.log.fault(), None);
    test_log.push(0..1);
    wait_for_fault(&test_log.log, Some("lines are lost: no storage space"));
    test_log.push(1..2);
    wait_for_fault(&test_log.log, None);
    let (gate, arrivals, key) = BlockingWriter::new();
    let test_log = TestLog::with(gate, 4);
    test_log.push(0..1);
    arrivals.recv().unwrap();
    test_log.push(1..6);
    wait_for_fault(&test_log.log, Some("too slowly, or not at all"));
    drop(key);
    wait_for_fault(&test_log.log, None);
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let spec = spec(AccessLogTarget::File("/dev/full".into()), Some(AccessLogFormat::Json));
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::start(&spec, Counter::from_arc(Arc::clone(&dropped)), Counter::noop()).unwrap();
    (0..100).for_each(|id| _ = log.push(record(id)));
    assert_eq!(log.shutdown(Instant::now() + PATIENCE), Flushed::All);
    assert_eq!(dropped.load(Ordering::Acquire), 100);
}

#[test]
fn a_panic_of_the_writer_is_reported_and_counted() {
    struct PanickingWriter;
    impl Write for PanickingWriter {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("the trap of this test")
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let test_log = TestLog::with(PanickingWriter, 8);
    test_log.push(0..3);
    assert_eq!(test_log.finish(), (0, 3));
}

#[test]
fn the_writer_ends_with_the_last_clone() {
    let (script, taken) = Script::new(&[]);
    let TestLog { log, .. } = TestLog::with(script, 8);
    let shared = Arc::clone(&log.0.handle.load_full().unwrap().shared);
    log.push(record(1));
    drop(log);
    let ended = shared.ended.lock().unwrap();
    let (ended, _) = shared.end.wait_timeout_while(ended, PATIENCE, |ended| !*ended).unwrap();
    assert!(*ended);
    assert_eq!(ids(&taken.lock().unwrap()), [1]);
}

/// A directory for one test, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pointsman-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

fn wait_for(counter: &AtomicU64, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counter.load(Ordering::Acquire) < value {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

#[test]
fn a_file_is_appended_to_and_opened_again_by_name() {
    let directory = Directory::new("access-log");
    let (path, rotated) = (directory.0.join("access.log"), directory.0.join("access.log.1"));
    let test_log = TestLog::on(Sink::unopened(&path), 8);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}: a strict umask may only take bits away");
    test_log.push(0..1);
    wait_for(&test_log.written, 1);
    fs::rename(&path, &rotated).unwrap();
    test_log.push(1..2);
    wait_for(&test_log.written, 2);
    test_log.log.reopen();
    test_log.push(2..3);
    assert_eq!(test_log.finish(), (3, 0));
    assert_eq!(ids(&fs::read(&rotated).unwrap()), [0, 1]);
    assert_eq!(ids(&fs::read(&path).unwrap()), [2]);

    let again = TestLog::on(Sink::unopened(&path), 8);
    again.push(3..4);
    assert_eq!(again.finish(), (1, 0));
    assert_eq!(ids(&fs::read(&path).unwrap()), [2, 3]);
}

#[test]
fn a_file_that_cannot_be_opened_again_is_kept() {
    let directory = Directory::new("access-log-kept");
    let (path, rotated) = (directory.0.join("access.log"), directory.0.join("access.log.1"));
    let test_log = TestLog::on(Sink::unopened(&path), 8);
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    test_log.log.reopen();
    test_log.push(0..1);
    assert_eq!(test_log.finish(), (1, 0));
    assert_eq!(ids(&fs::read(&rotated).unwrap()), [0]);
    assert!(Sink::unopened(&path).open().is_err());
}

#[test]
fn a_torn_file_opened_again_unrotated_gets_its_line_end() {
    let directory = Directory::new("access-log-torn");
    let path = directory.0.join("access.log");
    let mut sink = Sink::unopened(&path);
    sink.open().unwrap();
    sink.write_lines(b"torn");
    sink.open().unwrap();
    sink.write_lines(b"a\n");
    sink.write_lines(b"torn");
    fs::rename(&path, directory.0.join("access.log.1")).unwrap();
    sink.open().unwrap();
    sink.write_lines(b"b\n");
    assert_eq!(fs::read(&path).unwrap(), b"b\n");
    assert_eq!(fs::read(directory.0.join("access.log.1")).unwrap(), b"torn\na\ntorn");
}

/// Returns the next line that the reader of a FIFO gets.
fn next_id(reader: &mut BufReader<fs::File>) -> u64 {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    ids(line.as_bytes())[0]
}

#[test]
fn a_fifo_is_written_whenever_a_process_reads_it() {
    let directory = Directory::new("access-log-fifo");
    let path = directory.0.join("fifo");
    let open = || BufReader::new(fs::File::open(&path).unwrap());
    make_fifo(&path);
    let test_log = TestLog::on(Sink::unopened(&path), 8);
    test_log.push(0..3);
    wait_for(&test_log.dropped, 3);
    test_log.log.reopen();
    test_log.push(3..4);
    wait_for(&test_log.dropped, 4);

    // The reader's open ends when the writer has opened the FIFO too, for which the writer needs no record.
    let mut reader = open();
    test_log.push(4..5);
    assert_eq!(next_id(&mut reader), 4);
    drop(reader);
    test_log.push(5..6);
    wait_for(&test_log.dropped, 5);
    let mut reader = open();
    test_log.push(6..7);
    assert_eq!(next_id(&mut reader), 6);
    drop(reader);

    // The next reader makes another FIFO of that name.
    fs::remove_file(&path).unwrap();
    test_log.push(7..8);
    wait_for(&test_log.dropped, 6);
    make_fifo(&path);
    let mut reader = open();
    test_log.push(8..9);
    assert_eq!(next_id(&mut reader), 8);
    assert_eq!(test_log.finish(), (3, 6));
}

#[test]
fn a_fifo_that_is_gone_is_not_replaced_by_a_file() {
    let directory = Directory::new("access-log-gone");
    let path = directory.0.join("fifo");
    make_fifo(&path);
    let mut sink = Sink::unopened(&path);
    assert_eq!(sink.open().unwrap(), sink::OpenedSink::NoReader);
    fs::remove_file(&path).unwrap();
    let at = sink.retry_at().unwrap();
    assert!(!sink.retry(at));
    assert!(sink.retry_at().unwrap() > at, "it is tried again");
    assert!(!path.exists());
}

#[test]
fn a_start_returns_the_error_of_a_file_that_cannot_be_opened() {
    let directory = Directory::new("access-log-start");
    let to = AccessLogTarget::File(directory.0.join("nowhere/access.log"));
    let spec = spec(to, Some(AccessLogFormat::Text));
    let fault = AccessLog::start(&spec, Counter::noop(), Counter::noop()).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::NotFound);
}
