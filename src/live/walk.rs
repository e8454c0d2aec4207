//! The place of a walk over a registry that changes meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::entry::ConnectionEntry;

/// The connections that a walk visits in one turn of its task.
pub(super) const SLICE: usize = 512;

/// The place of a walk. Held by the walk, and by the registry while the walk goes on.
///
/// A walk goes from the first slot to the last. When a connection ends, the registry puts its last connection into the
/// slot that is free. If the walk has passed this slot, the walk would miss that connection, so it is noted here. So a
/// walk visits each connection exactly once that is open from its begin to its end.
#[derive(Default)]
pub(super) struct WalkPlace {
    next: Cell<usize>,
    displaced: RefCell<Vec<Rc<ConnectionEntry>>>,
}

impl WalkPlace {
    /// Notes that a connection moved from one slot to another.
    pub(super) fn moved(&self, entry: &Rc<ConnectionEntry>, from: usize, to: usize) {
        if to < self.next.get() && from >= self.next.get() {
            self.displaced.borrow_mut().push(Rc::clone(entry));
        }
    }

    /// Returns the connections of the next slice. It is empty at the end of the walk. The connections that have ended since
    /// they were noted are left out.
    pub(super) fn slice(&self, entries: &[Rc<ConnectionEntry>]) -> Vec<Rc<ConnectionEntry>> {
        let mut displaced = self.displaced.borrow_mut();
        let begin = self.next.get().min(entries.len());
        let end = entries.len().min(begin + SLICE);
        self.next.set(end);
        let mut slice = entries[begin..end].to_vec();
        let noted = displaced.len().min(SLICE - slice.len());
        slice.extend(displaced.drain(..noted));
        slice
    }
}
