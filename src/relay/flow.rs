//! One direction of a relay: reads from its source and writes to its sink, until the end is passed on.
//!
//! Small messages go through a buffer that the whole worker shares, with two system calls a message. Streams
//! go through a pipe and are never copied into this process. A direction that waits for its source holds
//! neither. A direction that waits for its sink keeps the bytes that it has read, and reads no more.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::EngineChoice;
use super::pipe_pool::{LentPipe, PipePool};
use crate::live::ConnectionEntry;
use crate::sys::Stream;
use crate::telemetry::{Direction, Engine, PipeFallback};

/// The size of the buffer that the copying directions of a worker share.
const BUFFER_SIZE: usize = 64 * 1024;

/// The size of a read until a direction has shown that it streams. The direction may have to keep this many
/// bytes if its sink is blocked.
const FIRST_CHUNK: usize = 16 * 1024;

/// A direction whose `streak` reaches this many bytes streams. Measured: splice is cheaper above about 16 KiB per
/// read.
const STREAMS: u32 = 48 * 1024;

/// A direction that splices copies again when its `streak` is below this.
const TRICKLES: u32 = 16 * 1024;

/// A direction that has moved this many bytes yields to the other connections of its worker. More bytes
/// arrive meanwhile, and the next turn moves them in fewer calls. Measured with 8 streams: a GiB costs 6 to
/// 15 % less of the machine's CPU than with turns of 512 KiB.
const TURN: usize = 64 * 1024;

/// A read of fewer bytes counts as this many bytes of a turn. Without it a source that brings one small packet for
/// each splice could occupy the worker for seconds.
const LEAST: usize = TURN / 128;

/// The buffer and the pipes that the directions of one worker share.
pub struct Engines {
    buffer: RefCell<Box<[u8]>>,
    /// The worker's pipes.
    pub pipes: Rc<PipePool>,
}

impl Engines {
    /// Returns engines with a new buffer and this pool of pipes.
    pub fn new(pipes: PipePool) -> Self {
        Self { buffer: RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice()), pipes: Rc::new(pipes) }
    }

    /// Lends the buffer for one read. It has 64 KiB and still contains the bytes of earlier reads.
    ///
    /// # Panics
    ///
    /// If the buffer is lent already.
    pub fn with_buffer<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        read(&mut self.buffer.borrow_mut())
    }
}

/// The failure of one end of a direction while bytes moved.
#[derive(Debug)]
pub(super) struct BrokenEnd {
    /// The end that failed.
    pub(super) end: FlowEnd,
    /// The error that the kernel returned.
    pub(super) error: io::Error,
}

/// The two ends of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowEnd {
    Source,
    Sink,
}

/// The stage of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowStage {
    /// More bytes may come.
    Open,
    /// The source has ended. The held bytes are written, then the end is passed on.
    Ending,
    /// The end was passed on, or the direction was abandoned.
    Done,
}

/// Bytes that were read and not yet written.
enum HeldBytes {
    Nothing,
    Bytes(Box<Leftover>),
    Pipe(LentPipe),
}

struct Leftover {
    bytes: Vec<u8>,
    written: usize,
}

/// The state of one direction.
pub(super) struct Flow {
    direction: Direction,
    choice: EngineChoice,
    stage: FlowStage,
    splicing: bool,
    /// Writes to the sink so far, saturating. TCP_NODELAY is set before the second one.
    pub(super) writes: u8,
    /// Bytes moved recently; halved each time the source has no more.
    streak: u32,
    held: HeldBytes,
}

/// The sockets of a direction, the worker's engines, and the entry that counts its bytes.
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

    /// Takes over bytes that were read before, and the stage of the direction.
    pub(super) fn resume(&mut self, bytes: Vec<u8>, stage: FlowStage) {
        if !bytes.is_empty() {
            self.held = HeldBytes::Bytes(Box::new(Leftover { bytes, written: 0 }));
        }
        self.stage = stage;
    }

    /// Ends the direction and returns the bytes that it holds.
    pub(super) fn stop(self) -> io::Result<(Vec<u8>, FlowStage)> {
        let bytes = match self.held {
            HeldBytes::Nothing => Vec::new(),
            HeldBytes::Bytes(leftover) => leftover.bytes[leftover.written..].to_vec(),
            HeldBytes::Pipe(mut pipe) => pipe.take_bytes()?,
        };
        Ok((bytes, self.stage))
    }

    /// Returns true if the end was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.stage == FlowStage::Done
    }

    /// Returns true if the source has ended with a FIN.
    pub(super) fn has_ended(&self) -> bool {
        self.stage != FlowStage::Open
    }

    /// Returns true if bytes wait for the sink.
    pub(super) fn is_blocked(&self) -> bool {
        self.held() > 0
    }

    /// Returns true if it holds nothing, not even an empty pipe, and waits for its source.
    fn is_at_rest(&self) -> bool {
        matches!((&self.held, self.stage), (HeldBytes::Nothing, FlowStage::Open))
    }

    /// Returns true if it does not read, and so does not notice a reset of its source.
    pub(super) fn has_stopped_reading(&self) -> bool {
        self.is_blocked() || self.has_ended()
    }

    /// The number of bytes that were read and not yet written.
    pub(super) fn held(&self) -> usize {
        match &self.held {
            HeldBytes::Nothing => 0,
            HeldBytes::Bytes(leftover) => leftover.bytes.len() - leftover.written,
            HeldBytes::Pipe(pipe) => pipe.held(),
        }
    }

    /// Ends the direction and discards the bytes that it holds. Returns their number.
    pub(super) fn abandon(&mut self) -> usize {
        let lost = self.held();
        self.held = HeldBytes::Nothing;
        self.stage = FlowStage::Done;
        lost
    }

    /// Moves the bytes that can be moved now. Ready when the end was passed on, or an end failed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        context: FlowContext<'_>,
    ) -> Poll<Result<(), BrokenEnd>> {
        ready!(self.poll_to_end(cx, context))?;
        self.pass_end(context);
        Poll::Ready(Ok(()))
    }

    /// Does the same as [`Flow::poll`], but the caller must pass the end on.
    pub(super) fn poll_to_end(
        &mut self,
        cx: &mut Context<'_>,
        context: FlowContext<'_>,
    ) -> Poll<Result<(), BrokenEnd>> {
        if self.is_at_rest() && context.source.poll_readable(cx).is_pending() {
            // The other direction caused the wakeup.
            return Poll::Pending;
        }
        let mut turn = 0;
        while self.stage != FlowStage::Done {
            ready!(self.poll_flush(cx, context))?;
            if self.stage == FlowStage::Ending {
                break;
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_move(cx, context) {
                Poll::Ready(Ok(0)) => self.stage = FlowStage::Ending,
                Poll::Ready(Ok(moved)) => {
                    turn += moved.max(LEAST);
                    self.streak = self.streak.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                    self.choose();
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    self.source_is_drained();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all held bytes.
    fn poll_flush(&mut self, cx: &mut Context<'_>, context: FlowContext<'_>) -> Poll<Result<(), BrokenEnd>> {
        while self.is_blocked() {
            self.before_write(context.sink);
            let (written, engine) = match &mut self.held {
                HeldBytes::Nothing => break,
                HeldBytes::Bytes(leftover) => {
                    let written = ready!(context.sink.poll_send(cx, &leftover.bytes[leftover.written..]));
                    if let Ok(n) = written {
                        leftover.written += n;
                    }
                    (written, Engine::Copied)
                }
                HeldBytes::Pipe(pipe) => (ready!(context.sink.poll_drain(cx, pipe)), Engine::Spliced),
            };
            let written = written.map_err(|error| BrokenEnd { end: FlowEnd::Sink, error })?;
            self.wrote(context, engine, written);
        }
        if matches!(self.held, HeldBytes::Bytes(_)) {
            self.held = HeldBytes::Nothing;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. At most an empty pipe is held before. The bytes are written at once or held. Returns 0 at
    /// the end of the source.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        context: FlowContext<'_>,
    ) -> Poll<Result<usize, BrokenEnd>> {
        if !self.splicing {
            return self.poll_copy(cx, context);
        }
        // A source without bytes borrows no pipe, and is not counted as one that got no pipe.
        ready!(context.source.poll_readable(cx));
        if let Some(mut pipe) = self.take_pipe(context.engines) {
            let filled = context.source.poll_fill(cx, &mut pipe);
            self.held = HeldBytes::Pipe(pipe);
            return match ready!(filled) {
                // This may be the end; a read shows it.
                Ok(0) => self.poll_copy(cx, context),
                Ok(moved) => Poll::Ready(Ok(moved)),
                Err(error) => match unsupported(&error) {
                    Some(why) => {
                        self.never_splice_again(context.engines, why);
                        self.poll_copy(cx, context)
                    }
                    None => Poll::Ready(Err(BrokenEnd { end: FlowEnd::Source, error })),
                },
            };
        }
        self.poll_copy(cx, context)
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        context: FlowContext<'_>,
    ) -> Poll<Result<usize, BrokenEnd>> {
        let mut buffer = context.engines.buffer.borrow_mut();
        let chunk = if self.streak < STREAMS { FIRST_CHUNK } else { BUFFER_SIZE };
        let read = ready!(context.source.poll_recv(cx, &mut buffer[..chunk]))
            .map_err(|error| BrokenEnd { end: FlowEnd::Source, error })?;
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        self.before_write(context.sink);
        let written = match context.sink.poll_send(cx, &buffer[..read]) {
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
            self.wrote(context, Engine::Copied, written);
        }
        if written < read {
            let bytes = buffer[written..read].to_vec();
            self.held = HeldBytes::Bytes(Box::new(Leftover { bytes, written: 0 }));
        }
        Poll::Ready(Ok(read))
    }

    /// Passes the end on. If the sink is already gone, the other direction reports it.
    pub(super) fn pass_end(&mut self, context: FlowContext<'_>) {
        if self.stage == FlowStage::Ending {
            self.held = HeldBytes::Nothing;
            let _ = context.sink.finish();
            self.stage = FlowStage::Done;
        }
    }

    /// Returns the held pipe, or one from the pool.
    fn take_pipe(&mut self, engines: &Engines) -> Option<LentPipe> {
        match std::mem::replace(&mut self.held, HeldBytes::Nothing) {
            HeldBytes::Pipe(pipe) => Some(pipe),
            _ => engines.pipes.lend(),
        }
    }

    /// Gives the empty pipe back, as the source has no more bytes now.
    fn source_is_drained(&mut self) {
        self.held = HeldBytes::Nothing;
        self.streak /= 2;
        self.choose();
    }

    /// Chooses splice for streams and copies for small messages.
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

    /// Sets TCP_NODELAY before the second write to a backend's socket. The first write leaves at once anyway.
    fn before_write(&mut self, sink: &Stream) {
        if self.direction == Direction::FromClient && self.writes == 1 {
            let _ = crate::sys::socket::set_nodelay(sink);
        }
        self.writes = self.writes.saturating_add(1);
    }

    fn wrote(&mut self, context: FlowContext<'_>, engine: Engine, bytes: usize) {
        context.entry.moved(self.direction, engine, bytes as u64);
    }
}

/// Returns the reason for which splice cannot work here, if the error means that.
fn unsupported(error: &io::Error) -> Option<PipeFallback> {
    match error.kind() {
        io::ErrorKind::InvalidInput => Some(PipeFallback::Einval),
        io::ErrorKind::PermissionDenied => Some(PipeFallback::Eperm),
        io::ErrorKind::Unsupported => Some(PipeFallback::Other),
        _ => None,
    }
}
