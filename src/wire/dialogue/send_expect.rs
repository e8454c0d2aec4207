//! A dialogue that the operator wrote: steps that send bytes, expect bytes, or refuse bytes, in order.
//!
//! Expected bytes may be anywhere in the bytes that the server sent since the last match; the bytes before them are
//! ignored. So a greeting that contains a changing name can be expected by its fixed part. Refused bytes must not end
//! before the next expected bytes end. After the last expected bytes, refused bytes must not come before the server
//! closes or is silent for a moment.
//!
//! An expected pattern matches as soon as the bytes so far match. It should end with something fixed: `$` also matches
//! before bytes that have not arrived yet.
//!
//! A pattern is searched in all bytes since the last match, at each read, until 64 KiB were searched in a dialogue.
//! A further search waits until the bytes have doubled, the server is silent for a moment, or the server may send
//! no more. So a server that sends byte by byte cannot make the time of the searches quadratic.

use std::sync::Arc;

use super::pattern::BytePattern;
use super::{ALIVE, DialogueFault, DialogueReply, MORE, MOST_HEARD, NOTHING, ServerEnd};

/// The most steps of a script.
pub const MOST_STEPS: usize = 32;

/// The most bytes that one step may send or expect. Expected bytes must fit into the input of a dialogue.
pub const LONGEST_STEP: usize = 4096;
const _: () = assert!(LONGEST_STEP < MOST_HEARD);

/// The bytes that one dialogue may search for its patterns before further searches wait. The number is four times the
/// bound of the input. It suffices for any server that sends whole lines.
const MOST_SEARCHED: usize = 4 * MOST_HEARD;

/// One step of a script, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// Send these bytes.
    Send(Arc<[u8]>),
    /// Wait for these bytes.
    Expect(Arc<[u8]>),
    /// Wait for bytes that match this pattern.
    ExpectPattern(BytePattern),
    /// Fail if these bytes come before the next expected bytes, or before the end.
    Refuse(Arc<[u8]>),
}

/// The state of a script.
#[derive(Clone, Debug)]
pub(super) struct ScriptState {
    steps: Arc<[ScriptStep]>,
    /// The index of the next step.
    next: usize,
    /// The steps whose bytes are refused now.
    refused: Vec<usize>,
    /// The number of unconsumed bytes that were searched before. Without it, all of them would be searched at each read
    /// from a server that sends byte by byte.
    searched: usize,
    /// The number of unconsumed bytes at the last search for a pattern.
    tried: usize,
    /// The number of bytes in all searches for patterns together.
    spent: usize,
}

impl ScriptState {
    pub(super) fn new(steps: Arc<[ScriptStep]>) -> Self {
        Self { steps, next: 0, refused: Vec::new(), searched: 0, tried: 0, spent: 0 }
    }

    pub(super) fn receive(
        &mut self,
        received: &[u8],
        end: Option<ServerEnd>,
    ) -> Result<DialogueReply, DialogueFault> {
        while let Some(ScriptStep::Refuse(_)) = self.steps.get(self.next) {
            self.refused.push(self.next);
            self.next += 1;
        }
        let refused = self.earliest_refused(received);
        let found = match self.steps.get(self.next) {
            Some(ScriptStep::Send(bytes)) => {
                let reply = bytes.to_vec().into();
                self.next += 1;
                return Ok(DialogueReply::Reply { used: 0, reply });
            }
            Some(ScriptStep::Expect(bytes)) => self.find(bytes, received),
            Some(ScriptStep::ExpectPattern(pattern)) => {
                if !self.is_due(received, end) && refused.is_none() {
                    self.searched = received.len();
                    return Ok(DialogueReply::Listen);
                }
                self.tried = received.len();
                self.spent += received.len();
                pattern.end_in(received)
            }
            Some(ScriptStep::Refuse(_)) | None => None,
        };
        if refused.is_some_and(|refused| found.is_none_or(|found| refused <= found)) {
            return Err(DialogueFault::Unexpected);
        }
        self.searched = received.len();
        match found {
            Some(used) => {
                self.next += 1;
                (self.searched, self.tried) = (0, 0);
                self.refused.clear();
                Ok(DialogueReply::Reply { used, reply: NOTHING })
            }
            None if self.next < self.steps.len() => Ok(MORE),
            None if self.refused.is_empty() || matches!(end, Some(ServerEnd::Silent | ServerEnd::Closed)) => {
                Ok(ALIVE)
            }
            None => Ok(DialogueReply::Listen),
        }
    }

    /// Returns true if a pattern is to be searched in these bytes now.
    fn is_due(&self, received: &[u8], end: Option<ServerEnd>) -> bool {
        end.is_some() || self.spent + received.len() <= MOST_SEARCHED || received.len() >= 2 * self.tried
    }

    /// Returns the earliest end of refused bytes.
    fn earliest_refused(&self, received: &[u8]) -> Option<usize> {
        let refused = self.refused.iter().filter_map(|&at| match &self.steps[at] {
            ScriptStep::Refuse(bytes) => self.find(bytes, received),
            _ => None,
        });
        refused.min()
    }

    /// Returns the end of these bytes in the part that was not searched before.
    fn find(&self, bytes: &[u8], received: &[u8]) -> Option<usize> {
        let from = self.searched.saturating_sub(bytes.len().saturating_sub(1)).min(received.len());
        let found = received[from..].windows(bytes.len().max(1)).position(|window| window == bytes);
        found.map(|at| from + at + bytes.len())
    }
}
