//! The engines that move the bytes of a direction, and the choice between them.
//!
//! Small messages are copied through a buffer that the whole worker shares. Streams are spliced through a pipe. A
//! direction streams while its streak, the number of bytes that it moved recently, is high.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use super::options::EngineChoice;
use super::pipe_pool::PipePool;

/// The size of the buffer that the copying directions of a worker share.
const BUFFER_SIZE: usize = 64 * 1024;

/// The size of a read until a direction has shown that it streams. The direction may have to keep this many
/// bytes if its sink is blocked.
const FIRST_CHUNK: usize = 16 * 1024;

/// A direction whose streak reaches this many bytes streams. Measured: splice is cheaper above about 16 KiB per read.
const STREAMS: u32 = 48 * 1024;

/// A direction that splices copies again when its streak is below this number of bytes.
const TRICKLES: u32 = 16 * 1024;

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
        read(&mut self.buffer())
    }

    /// Lends the buffer, as [`Engines::with_buffer`].
    pub(super) fn buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.buffer.borrow_mut()
    }
}

/// The engine of a direction, and the engines that it may change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowEngine {
    /// Copies, until the direction streams.
    Copy,
    /// Splices, until the direction no longer streams.
    Splice,
    /// Copies to the end.
    AlwaysCopy,
    /// Splices to the end.
    AlwaysSplice,
}

impl FlowEngine {
    /// Returns the first engine of a direction.
    pub(super) fn new(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Auto => Self::Copy,
            EngineChoice::Copy => Self::AlwaysCopy,
            EngineChoice::Splice => Self::AlwaysSplice,
        }
    }

    /// Returns true if it splices.
    pub(super) fn splices(self) -> bool {
        matches!(self, Self::Splice | Self::AlwaysSplice)
    }

    /// Returns the engine of a direction with this streak.
    pub(super) fn after(self, streak: Streak) -> Self {
        match self {
            Self::Copy if streak.0 >= STREAMS => Self::Splice,
            Self::Splice if streak.0 < TRICKLES => Self::Copy,
            engine => engine,
        }
    }
}

/// The number of bytes that a direction moved recently.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streak(u32);

impl Streak {
    /// Adds bytes that moved.
    pub(super) fn add(&mut self, moved: usize) {
        self.0 = self.0.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
    }

    /// Halves the streak, as the source has no more bytes now.
    pub(super) fn halve(&mut self) {
        self.0 /= 2;
    }

    /// Returns the size of the next read.
    pub(super) fn chunk(self) -> usize {
        if self.0 < STREAMS { FIRST_CHUNK } else { BUFFER_SIZE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the engine that a direction has after each of these events: bytes that moved, or 0 for a source without
    /// bytes.
    fn check(choice: EngineChoice, events: &[usize], expected: &[FlowEngine]) {
        let (mut engine, mut streak) = (FlowEngine::new(choice), Streak::default());
        let engines: Vec<_> = events
            .iter()
            .map(|moved| {
                if *moved == 0 {
                    streak.halve()
                } else {
                    streak.add(*moved)
                }
                engine = engine.after(streak);
                engine
            })
            .collect();
        assert_eq!(engines, expected, "{choice:?} {events:?}");
    }

    #[test]
    fn a_direction_splices_while_it_streams() {
        use FlowEngine::{AlwaysCopy, AlwaysSplice, Copy, Splice};
        let kib = 1024;
        check(EngineChoice::Auto, &[16 * kib, 16 * kib, 16 * kib], &[Copy, Copy, Splice]);
        check(EngineChoice::Auto, &[100, 0, 47 * kib, kib], &[Copy, Copy, Copy, Splice]);
        check(EngineChoice::Auto, &[48 * kib, 0, 0, kib, 36 * kib], &[Splice, Splice, Copy, Copy, Splice]);
        check(EngineChoice::Copy, &[usize::MAX, kib], &[AlwaysCopy, AlwaysCopy]);
        check(EngineChoice::Splice, &[100, 0], &[AlwaysSplice, AlwaysSplice]);
    }

    #[test]
    fn a_read_is_small_until_the_direction_streams() {
        let mut streak = Streak::default();
        assert_eq!(streak.chunk(), FIRST_CHUNK);
        streak.add(48 * 1024);
        assert_eq!(streak.chunk(), BUFFER_SIZE);
        streak.halve();
        assert_eq!(streak.chunk(), FIRST_CHUNK);
    }
}
