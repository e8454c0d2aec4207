//! Finds connections that come back to where they were forwarded from.
//!
//! A hello holds 32 random bytes, so two connections that begin alike at one time are one: what was forwarded
//! has come in again, whatever translated its addresses on the way.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are compared: the header of the record, that of the hello, its version, its random bytes, and
/// most of its session.
const COMPARED: usize = 64;

/// The beginnings of the connections that are being forwarded.
#[derive(Debug, Default)]
pub(super) struct ForwardMarks {
    /// Keyed, so that nobody can make two beginnings that are taken for one.
    hasher: RandomState,
    /// A lock for a moment at both ends of a connection; one entry for each that is open.
    open: Mutex<HashSet<u64>>,
}

/// A forwarded connection that is open: until it is dropped, another one that begins alike is a loop.
#[derive(Debug)]
pub struct ForwardMark {
    number: u64,
    marks: Arc<ForwardMarks>,
}

impl ForwardMarks {
    /// Marks a connection by its first bytes; `None` if there is one that begins alike.
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
        assert!(marks.mark(&first[..COMPARED]).is_none(), "it may come in other pieces");
        let mut other = first;
        other[COMPARED - 1] = 8;
        assert!(marks.mark(&other).is_some());
        drop(mark);
        assert!(marks.mark(&first).is_some());
    }
}
