//! One direction of a relay: read here, write there, until the end is passed on.
//!
//! Small things go through a buffer that the whole worker shares, at two system calls a message; what
//! streams goes through a pipe and is never copied to this process. A direction that waits for its
//! source holds neither. One that waits for its sink keeps what it has read, and reads no more.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::EngineChoice;
use super::pipe_pool::{LentPipe, PipePool};
use crate::live::ConnectionEntry;
use crate::sys::Stream;
use crate::telemetry::{Direction, Engine, PipeFallback};

/// The buffer that the copying directions of a worker share.
const BUFFER_SIZE: usize = 64 * 1024;

/// How much is read at once until a direction has shown that it streams: so much it may have to keep
/// when its sink is blocked.
const FIRST_CHUNK: usize = 16 * 1024;

/// A direction streams from here on. Measured: splice is cheaper above about 16 KiB at hand.
const STREAMS: u32 = 48 * 1024;

/// A direction that spliced copies again below this.
const TRICKLES: u32 = 16 * 1024;

/// A direction that has moved so much gives the other connections of its worker a turn. Meanwhile more
/// arrives, and the next turn moves it in fewer calls. Measured with 8 streams: a GiB costs 6 to 15 % less
/// of the machine's CPU than with turns of 512 KiB.
const TURN: usize = 64 * 1024;

/// For so much of its turn a read counts at least: a source that brings one small packet for each splice
/// would otherwise have the worker for seconds.
const LEAST: usize = TURN / 128;

/// What the directions of one worker share.
pub struct Engines {
    buffer: RefCell<Box<[u8]>>,
    /// The worker's pipes.
    pub pipes: Rc<PipePool>,
}

impl Engines {
    /// A buffer and a pool of pipes.
    pub fn new(pipes: PipePool) -> Self {
        Self { buffer: RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice()), pipes: Rc::new(pipes) }
    }

    /// Lends the buffer, of 64 KiB and full of what others have left there, for one read.
    ///
    /// # Panics
    ///
    /// When it is lent already.
    pub fn with_buffer<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        read(&mut self.buffer.borrow_mut())
    }
}

/// One end of the connection failed while bytes moved.
#[derive(Debug)]
pub(super) struct BrokenEnd {
    /// Which end: where it was read, or where it was written.
    pub(super) end: FlowEnd,
    /// What the kernel said.
    pub(super) error: io::Error,
}

/// The two ends of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowEnd {
    Source,
    Sink,
}

/// How far a direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowStage {
    /// Bytes may come.
    Open,
    /// The source has ended; what is held goes out, then the end.
    Ending,
    /// The end was passed on, or the direction given up.
    Done,
}

/// What was read and not yet written.
enum HeldBytes {
    Nothing,
    Bytes(Box<Leftover>),
    Pipe(LentPipe),
}

struct Leftover {
    bytes: Vec<u8>,
    written: usize,
}

/// One direction.
pub(super) struct Flow {
    direction: Direction,
    choice: EngineChoice,
    stage: FlowStage,
    splicing: bool,
    /// Writes to the sink so far, saturating: the second one is the moment for TCP_NODELAY.
    pub(super) writes: u8,
    /// Bytes moved lately, halved each time the source runs dry.
    streak: u32,
    held: HeldBytes,
}

/// Where a direction reads and writes and whom it tells.
#[derive(Clone, Copy)]
pub(super) struct FlowContext<'a> {
    pub(super) source: &'a Stream,
    pub(super) sink: &'a Stream,
    pub(super) engines: &'a Engines,
    pub(super) entry: &'a ConnectionEntry,
}

impl Flow {
    pub(super) fn new(direction: Direction, choice: EngineChoice) -> Self {
        let splicing = choice == EngineChoice::Splice;
        Self {
            direction,
            choice,
            stage: FlowStage::Open,
            splicing,
            writes: 0,
            streak: 0,
            held: HeldBytes::Nothing,
        }
    }

    /// Takes over bytes that were read before, and whether the source had ended behind them.
    pub(super) fn resume(&mut self, bytes: Vec<u8>, stage: FlowStage) {
        if !bytes.is_empty() {
            self.held = HeldBytes::Bytes(Box::new(Leftover { bytes, written: 0 }));
        }
        self.stage = stage;
    }

    /// Gives up and hands out the bytes it holds.
    pub(super) fn stop(self) -> io::Result<(Vec<u8>, FlowStage)> {
        let bytes = match self.held {
            HeldBytes::Nothing => Vec::new(),
            HeldBytes::Bytes(leftover) => leftover.bytes[leftover.written..].to_vec(),
            HeldBytes::Pipe(mut pipe) => pipe.take_bytes()?,
        };
        Ok((bytes, self.stage))
    }

    /// Whether the end was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.stage == FlowStage::Done
    }

    /// Whether the source has ended, orderly.
    pub(super) fn has_ended(&self) -> bool {
        self.stage != FlowStage::Open
    }

    /// Whether bytes wait for the sink.
    pub(super) fn is_blocked(&self) -> bool {
        self.held() > 0
    }

    /// Whether it holds nothing, not even an empty pipe, and waits for its source.
    fn is_at_rest(&self) -> bool {
        matches!((&self.held, self.stage), (HeldBytes::Nothing, FlowStage::Open))
    }

    /// Whether it does not read, and so does not hear of its source.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_blocked() || self.has_ended()
    }

    /// Bytes read and not yet written.
    pub(super) fn held(&self) -> usize {
        match &self.held {
            HeldBytes::Nothing => 0,
            HeldBytes::Bytes(leftover) => leftover.bytes.len() - leftover.written,
            HeldBytes::Pipe(pipe) => pipe.held(),
        }
    }

    /// Gives the direction up and throws away what it holds; says how much that was.
    pub(super) fn abandon(&mut self) -> usize {
        let lost = self.held();
        self.held = HeldBytes::Nothing;
        self.stage = FlowStage::Done;
        lost
    }

    /// Moves what can be moved now. Ready when the end was passed on, or an end broke.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        place: FlowContext<'_>,
    ) -> Poll<Result<(), BrokenEnd>> {
        ready!(self.poll_to_end(cx, place))?;
        self.pass_end(place);
        Poll::Ready(Ok(()))
    }

    /// As [`Flow::poll`], but leaves it to the caller to pass the end on.
    pub(super) fn poll_to_end(
        &mut self,
        cx: &mut Context<'_>,
        place: FlowContext<'_>,
    ) -> Poll<Result<(), BrokenEnd>> {
        if self.is_at_rest() && place.source.poll_readable(cx).is_pending() {
            // It was the other direction that woke the task.
            return Poll::Pending;
        }
        let mut turn = 0;
        while self.stage != FlowStage::Done {
            ready!(self.poll_flush(cx, place))?;
            if self.stage == FlowStage::Ending {
                break;
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_move(cx, place) {
                Poll::Ready(Ok(0)) => self.stage = FlowStage::Ending,
                Poll::Ready(Ok(moved)) => {
                    turn += moved.max(LEAST);
                    self.streak = self.streak.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                    self.choose();
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    self.ran_dry();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is held until nothing is.
    fn poll_flush(&mut self, cx: &mut Context<'_>, place: FlowContext<'_>) -> Poll<Result<(), BrokenEnd>> {
        while self.is_blocked() {
            self.before_write(place.sink);
            let (written, engine) = match &mut self.held {
                HeldBytes::Nothing => break,
                HeldBytes::Bytes(leftover) => {
                    let written = ready!(place.sink.poll_send(cx, &leftover.bytes[leftover.written..]));
                    if let Ok(n) = written {
                        leftover.written += n;
                    }
                    (written, Engine::Copied)
                }
                HeldBytes::Pipe(pipe) => (ready!(place.sink.poll_drain(cx, pipe)), Engine::Spliced),
            };
            let written = written.map_err(|error| BrokenEnd { end: FlowEnd::Sink, error })?;
            self.wrote(place, engine, written);
        }
        if matches!(self.held, HeldBytes::Bytes(_)) {
            self.held = HeldBytes::Nothing;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, holding nothing but perhaps an empty pipe; what was read is written at once or held.
    /// 0 is the end of the source.
    fn poll_move(&mut self, cx: &mut Context<'_>, place: FlowContext<'_>) -> Poll<Result<usize, BrokenEnd>> {
        if !self.splicing {
            return self.poll_copy(cx, place);
        }
        // A source without anything to read borrows no pipe, and is not counted as one that got none.
        ready!(place.source.poll_readable(cx));
        if let Some(mut pipe) = self.take_pipe(place.engines) {
            let filled = place.source.poll_fill(cx, &mut pipe);
            self.held = HeldBytes::Pipe(pipe);
            return match ready!(filled) {
                // Perhaps the end; a read knows.
                Ok(0) => self.poll_copy(cx, place),
                Ok(moved) => Poll::Ready(Ok(moved)),
                Err(error) => match unsupported(&error) {
                    Some(why) => {
                        self.never_splice_again(place.engines, why);
                        self.poll_copy(cx, place)
                    }
                    None => Poll::Ready(Err(BrokenEnd { end: FlowEnd::Source, error })),
                },
            };
        }
        self.poll_copy(cx, place)
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>, place: FlowContext<'_>) -> Poll<Result<usize, BrokenEnd>> {
        let mut buffer = place.engines.buffer.borrow_mut();
        let chunk = if self.streak < STREAMS { FIRST_CHUNK } else { BUFFER_SIZE };
        let read = ready!(place.source.poll_recv(cx, &mut buffer[..chunk]))
            .map_err(|error| BrokenEnd { end: FlowEnd::Source, error })?;
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        self.before_write(place.sink);
        let written = match place.sink.poll_send(cx, &buffer[..read]) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => {
                // The bytes are kept so that they are counted as dropped.
                self.held =
                    HeldBytes::Bytes(Box::new(Leftover { bytes: buffer[..read].to_vec(), written: 0 }));
                return Poll::Ready(Err(BrokenEnd { end: FlowEnd::Sink, error }));
            }
            Poll::Pending => 0,
        };
        if written > 0 {
            self.wrote(place, Engine::Copied, written);
        }
        if written < read {
            let bytes = buffer[written..read].to_vec();
            self.held = HeldBytes::Bytes(Box::new(Leftover { bytes, written: 0 }));
        }
        Poll::Ready(Ok(read))
    }

    /// Passes the end on. A sink that is already gone shows itself to the other direction.
    pub(super) fn pass_end(&mut self, place: FlowContext<'_>) {
        if self.stage == FlowStage::Ending {
            self.held = HeldBytes::Nothing;
            let _ = place.sink.finish();
            self.stage = FlowStage::Done;
        }
    }

    /// The pipe in hand, or one from the pool.
    fn take_pipe(&mut self, engines: &Engines) -> Option<LentPipe> {
        match std::mem::replace(&mut self.held, HeldBytes::Nothing) {
            HeldBytes::Pipe(pipe) => Some(pipe),
            _ => engines.pipes.lend(),
        }
    }

    /// The source has nothing more for now: what is in hand is empty and goes back.
    fn ran_dry(&mut self) {
        self.held = HeldBytes::Nothing;
        self.streak /= 2;
        self.choose();
    }

    /// Splices what streams, copies what trickles.
    fn choose(&mut self) {
        if self.choice == EngineChoice::Auto {
            self.splicing = self.streak >= if self.splicing { TRICKLES } else { STREAMS };
        }
    }

    fn never_splice_again(&mut self, engines: &Engines, why: PipeFallback) {
        engines.pipes.fell_back(why);
        self.held = HeldBytes::Nothing;
        self.choice = EngineChoice::Copy;
        self.splicing = false;
    }

    /// TCP_NODELAY comes before the second write to a socket that we opened; the first leaves at once anyway.
    fn before_write(&mut self, sink: &Stream) {
        if self.direction == Direction::FromClient && self.writes == 1 {
            let _ = crate::sys::socket::set_nodelay(sink);
        }
        self.writes = self.writes.saturating_add(1);
    }

    fn wrote(&mut self, place: FlowContext<'_>, engine: Engine, bytes: usize) {
        place.entry.moved(self.direction, engine, bytes as u64);
    }
}

/// Why splice does not work here at all, if that is what an error says.
fn unsupported(error: &io::Error) -> Option<PipeFallback> {
    match error.kind() {
        io::ErrorKind::InvalidInput => Some(PipeFallback::Einval),
        io::ErrorKind::PermissionDenied => Some(PipeFallback::Eperm),
        io::ErrorKind::Unsupported => Some(PipeFallback::Other),
        _ => None,
    }
}
