//! A dialogue in the operator's words: bytes to send and bytes that must come, in turn.
//!
//! What is expected may stand anywhere in what the server sent since the last match; what came before it is
//! passed over. So a greeting with a changing name in it needs only its fixed part.

use std::sync::Arc;

use super::{ALIVE, MORE, MOST_HEARD, NOTHING, Turn};

/// Steps that a script may have.
pub const MOST_STEPS: usize = 32;

/// Bytes that one step may send or expect. What is expected must fit into what a dialogue hears.
pub const LONGEST_STEP: usize = 4096;
const _: () = assert!(LONGEST_STEP < MOST_HEARD);

/// One step. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are sent.
    Send(Arc<[u8]>),
    /// These bytes must come.
    Expect(Arc<[u8]>),
}

/// Where a script stands.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    steps: Arc<[Step]>,
    /// The step that is next.
    next: usize,
    /// So many of the bytes not yet understood hold no beginning of what is expected. Without it, a server
    /// that sends byte by byte would have all of them searched each time.
    searched: usize,
}

impl Talk {
    pub(super) fn new(steps: Arc<[Step]>) -> Self {
        Self { steps, next: 0, searched: 0 }
    }

    pub(super) fn hear(&mut self, heard: &[u8]) -> Turn {
        match self.steps.get(self.next) {
            None => ALIVE,
            Some(Step::Send(bytes)) => {
                let words = bytes.to_vec().into();
                self.next += 1;
                Turn::Say { used: 0, words }
            }
            Some(Step::Expect(bytes)) => {
                let from = self.searched.min(heard.len());
                let found = heard[from..].windows(bytes.len().max(1)).position(|window| window == &bytes[..]);
                let Some(at) = found else {
                    self.searched = (heard.len() + 1).saturating_sub(bytes.len());
                    return MORE;
                };
                self.next += 1;
                self.searched = 0;
                Turn::Say { used: from + at + bytes.len(), words: NOTHING }
            }
        }
    }
}
