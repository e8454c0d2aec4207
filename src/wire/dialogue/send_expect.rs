//! A dialogue in the operator's words: bytes to send, bytes that must come, and bytes that must not, in turn.
//!
//! What is expected may stand anywhere in what the server sent since the last match; what came before it is
//! passed over. So a greeting with a changing name in it needs only its fixed part. Refused bytes must not come
//! to their end before the next expected ones do. Behind the last expected bytes they must not come before the
//! server closes or falls silent.
//!
//! An expected pattern matches as soon as what came so far does. Its end should be something fixed: `$` also
//! fits where the next bytes are still under way.
//!
//! A pattern is searched in all that came since the last match, at each read, until a dialogue has had 64 KiB searched.
//! Further searches wait until the bytes have doubled, until the server is silent for a moment, or until it may send no
//! more. So a server that sends byte by byte cannot make the searches quadratic.

use std::sync::Arc;

use super::pattern::BytePattern;
use super::{ALIVE, DialogueFault, DialogueReply, MORE, MOST_HEARD, NOTHING, ServerEnd};

/// Steps that a script may have.
pub const MOST_STEPS: usize = 32;

/// Bytes that one step may send or expect. What is expected must fit into what a dialogue hears.
pub const LONGEST_STEP: usize = 4096;
const _: () = assert!(LONGEST_STEP < MOST_HEARD);

/// Bytes in which the patterns of one dialogue are searched at each read: four times as many as may come in all. It is
/// enough for any server that sends whole lines.
const MOST_SEARCHED: usize = 4 * MOST_HEARD;

/// One step. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// These bytes are sent.
    Send(Arc<[u8]>),
    /// These bytes must come.
    Expect(Arc<[u8]>),
    /// Bytes must come that match this.
    ExpectPattern(BytePattern),
    /// These bytes must not come before the next expected ones, or before the end.
    Refuse(Arc<[u8]>),
}

/// Where a script stands.
#[derive(Clone, Debug)]
pub(super) struct ScriptState {
    steps: Arc<[ScriptStep]>,
    /// The step that is next.
    next: usize,
    /// The steps whose bytes are refused now.
    refused: Vec<usize>,
    /// So many of the bytes not yet understood were searched before. Without it, a server that sends byte by
    /// byte would have all of them searched each time.
    searched: usize,
    /// So many of them were there when a pattern was searched in them last.
    tried: usize,
    /// The bytes that patterns were searched in, all searches together.
    spent: usize,
}

impl ScriptState {
    pub(super) fn new(steps: Arc<[ScriptStep]>) -> Self {
        Self { steps, next: 0, refused: Vec::new(), searched: 0, tried: 0, spent: 0 }
    }

    pub(super) fn receive(
        &mut self,
        heard: &[u8],
        end: Option<ServerEnd>,
    ) -> Result<DialogueReply, DialogueFault> {
        while let Some(ScriptStep::Refuse(_)) = self.steps.get(self.next) {
            self.refused.push(self.next);
            self.next += 1;
        }
        let refused = self.earliest_refused(heard);
        let found = match self.steps.get(self.next) {
            Some(ScriptStep::Send(bytes)) => {
                let words = bytes.to_vec().into();
                self.next += 1;
                return Ok(DialogueReply::Say { used: 0, words });
            }
            Some(ScriptStep::Expect(bytes)) => self.find(bytes, heard),
            Some(ScriptStep::ExpectPattern(pattern)) => {
                if !self.is_due(heard, end) && refused.is_none() {
                    self.searched = heard.len();
                    return Ok(DialogueReply::Silence);
                }
                self.tried = heard.len();
                self.spent += heard.len();
                pattern.end_in(heard)
            }
            Some(ScriptStep::Refuse(_)) | None => None,
        };
        if refused.is_some_and(|refused| found.is_none_or(|found| refused <= found)) {
            return Err(DialogueFault::Unexpected);
        }
        self.searched = heard.len();
        match found {
            Some(used) => {
                self.next += 1;
                (self.searched, self.tried) = (0, 0);
                self.refused.clear();
                Ok(DialogueReply::Say { used, words: NOTHING })
            }
            None if self.next < self.steps.len() => Ok(MORE),
            None if self.refused.is_empty() || matches!(end, Some(ServerEnd::Silent | ServerEnd::Closed)) => {
                Ok(ALIVE)
            }
            None => Ok(DialogueReply::Silence),
        }
    }

    /// Whether a pattern is to be searched in these bytes now.
    fn is_due(&self, heard: &[u8], end: Option<ServerEnd>) -> bool {
        end.is_some() || self.spent + heard.len() <= MOST_SEARCHED || heard.len() >= 2 * self.tried
    }

    /// Where refused bytes end first.
    fn earliest_refused(&self, heard: &[u8]) -> Option<usize> {
        let refused = self.refused.iter().filter_map(|&at| match &self.steps[at] {
            ScriptStep::Refuse(bytes) => self.find(bytes, heard),
            _ => None,
        });
        refused.min()
    }

    /// Where these bytes end, as far as they were not searched for before.
    fn find(&self, bytes: &[u8], heard: &[u8]) -> Option<usize> {
        let from = self.searched.saturating_sub(bytes.len().saturating_sub(1)).min(heard.len());
        let found = heard[from..].windows(bytes.len().max(1)).position(|window| window == bytes);
        found.map(|at| from + at + bytes.len())
    }
}
