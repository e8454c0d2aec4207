use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Long enough for a loaded machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A destination that passes each write to the test and returns the result that the test gives.
struct BlockingWriter {
    arrived: Sender<Vec<u8>>,
    answers: Receiver<Result<usize, ErrorKind>>,
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.arrived.send(bytes.to_vec());
        let answer = self.answers.recv().map_err(|_| ErrorKind::BrokenPipe)?;
        Ok(answer.map(|most| most.min(bytes.len()))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log whose write results the test chooses.
struct TestLog {
    log: ProgramLog,
    arrivals: Receiver<Vec<u8>>,
    answer: Sender<Result<usize, ErrorKind>>,
}

impl TestLog {
    fn new() -> Self {
        let (arrived, arrivals) = channel();
        let (answer, answers) = channel();
        let log = ProgramLog::new();
        let reported = log.clone();
        let report = move |missing: u64| reported.push(format!("{missing} missing\n").as_bytes());
        log.start_on(BlockingWriter { arrived, answers }, report).unwrap();
        Self { log, arrivals, answer }
    }

    /// Checks the next write and returns this result to it.
    fn expect(&self, text: &str, answer: Result<usize, ErrorKind>) {
        let written = self.arrivals.recv_timeout(PATIENCE).unwrap();
        assert_eq!(String::from_utf8_lossy(&written), text);
        self.answer.send(answer).unwrap();
    }

    fn expect_whole(&self, text: &str) {
        self.expect(text, Ok(usize::MAX));
    }
}

#[test]
fn each_line_is_one_write_also_of_before_the_start() {
    let (arrived, arrivals) = channel();
    let (answer, answers) = channel();
    let log = ProgramLog::new();
    log.push(b"one\n");
    log.push(b"two\n");
    log.start_on(BlockingWriter { arrived, answers }, |_| {}).unwrap();
    let test_log = TestLog { log, arrivals, answer };
    test_log.expect_whole("one\n");
    test_log.expect_whole("two\n");
    test_log.log.push(b"three\n");
    test_log.expect_whole("three\n");
    assert_eq!(test_log.log.finish(PATIENCE), Flushed::All);
}

#[test]
fn a_full_queue_drops_lines_and_the_log_reports_their_number_after_the_kept_ones() {
    let test_log = TestLog::new();
    let before = dropped_lines();
    test_log.log.push(b"first\n");
    let first = test_log.arrivals.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first, b"first\n");
    // The thread is blocked in this write, so these lines fill the queue.
    let long = [vec![b'x'; QUEUE_LIMIT / 4 - LINE_COST - 1], b"\n".to_vec()].concat();
    for _ in 0..7 {
        test_log.log.push(&long);
    }
    assert!(dropped_lines() >= before + 3, "each is counted at once");
    test_log.answer.send(Ok(usize::MAX)).unwrap();
    let long = String::from_utf8(long).unwrap();
    for _ in 0..4 {
        test_log.expect_whole(&long);
    }
    test_log.expect_whole("3 missing\n");
    test_log.log.push(b"last\n");
    test_log.expect_whole("last\n");
    assert_eq!(test_log.log.finish(PATIENCE), Flushed::All);
}

#[test]
fn a_line_longer_than_the_queue_comes_through_alone() {
    let test_log = TestLog::new();
    let long = [vec![b'y'; 2 * QUEUE_LIMIT], b"\n".to_vec()].concat();
    test_log.log.push(&long);
    test_log.expect_whole(&String::from_utf8(long).unwrap());
    assert_eq!(test_log.log.finish(PATIENCE), Flushed::All);
}

#[test]
fn a_failed_write_is_reported_when_one_succeeds_again() {
    let test_log = TestLog::new();
    test_log.log.push(b"lost\n");
    test_log.expect("lost\n", Err(ErrorKind::StorageFull));
    test_log.log.push(b"torn\n");
    test_log.expect("torn\n", Ok(2));
    test_log.expect("rn\n", Err(ErrorKind::StorageFull));
    test_log.log.push(b"whole\n");
    test_log.expect_whole("\n");
    test_log.expect_whole("whole\n");
    test_log.expect_whole("2 missing\n");
    assert_eq!(test_log.log.finish(PATIENCE), Flushed::All);
}

#[test]
fn the_end_writes_what_is_queued_and_waits_for_no_stuck_reader() {
    let test_log = TestLog::new();
    test_log.log.push(b"one\n");
    let written = test_log.arrivals.recv_timeout(PATIENCE).unwrap();
    assert_eq!(written, b"one\n");
    test_log.log.push(b"two\n");
    assert_eq!(test_log.log.finish(Duration::ZERO), Flushed::Abandoned);
    test_log.answer.send(Ok(usize::MAX)).unwrap();
    test_log.expect_whole("two\n");
    assert_eq!(test_log.log.finish(PATIENCE), Flushed::All);
    let before = dropped_lines();
    test_log.log.push(b"late\n");
    assert!(dropped_lines() > before);
}

#[test]
fn messages_of_panics_are_found() {
    let check = |payload: Box<dyn Any>, expected: &str| assert_eq!(message(&*payload), expected);
    check(Box::new("plain"), "plain");
    check(Box::new("made".to_owned()), "made");
    check(Box::new(7), "no message");
}
