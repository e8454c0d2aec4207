//! Finds loops: forwarded connections that come back to this process.
//!
//! A hello has 32 random bytes. If two open connections have the same first bytes, the second connection is a loop:
//! the first connection, forwarded back to this process. This also finds loops through a translation of addresses.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of bytes that are compared: the header of the record, the header of the hello, its version, its random
/// bytes, and most of its session id.
const COMPARED: usize = 64;

/// The hashes of the first bytes of all open forwarded connections.
#[derive(Debug, Default)]
pub(super) struct ForwardMarks {
    /// A keyed hash, so that clients cannot make collisions.
    hasher: RandomState,
    /// One entry for each open connection. The lock is held briefly when a connection begins and ends.
    open: Mutex<HashSet<u64>>,
}

/// An open forwarded connection. Until it is dropped, another connection with the same first bytes is a loop.
#[derive(Debug)]
pub struct ForwardMark {
    number: u64,
    marks: Arc<ForwardMarks>,
}

impl ForwardMarks {
    /// Marks a connection by its first bytes. Returns `None` if an open connection has the same first bytes.
    pub(super) fn mark(self: &Arc<Self>, first: &[u8]) -> Option<ForwardMark> {
        let number = self.hasher.hash_one(&first[..first.len().min(COMPARED)]);
        let is_new = self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        is_new.then(|| ForwardMark { number, marks: Arc::clone(self) })
    }
}

impl Drop for ForwardMark {
    fn drop(&mut self) {
        self.marks.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_marked_while_it_is_open() {
        let marks = Arc::new(ForwardMarks::default());
        let first = [7; 100];
        let mark = marks.mark(&first).expect("it is the first");
        assert!(marks.mark(&first).is_none());
        assert!(marks.mark(&first[..COMPARED]).is_none(), "the rest of the bytes may come later");
        let mut other = first;
        other[COMPARED - 1] = 8;
        assert!(marks.mark(&other).is_some());
        drop(mark);
        assert!(marks.mark(&first).is_some());
    }
}
