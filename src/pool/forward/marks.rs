//! Finds loops: forwarded connections that come back to this process.
//!
//! A hello has 32 random bytes. If two open connections have the same first bytes, the second connection is a loop:
//! the first connection, forwarded back to this process. This also finds loops through a translation of addresses.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip::SipHasher13;

/// The number of bytes that are compared: the header of the record, the header of the hello, its version, its random
/// bytes, and most of its session id.
const COMPARED: usize = 64;

/// The hashes of the first bytes of all open forwarded connections.
#[derive(Debug)]
pub(super) struct ForwardMarks {
    /// The key of the hash, so that clients cannot make collisions. It is replaced only before the first connection, by
    /// the key of the process from which connections come.
    key: [AtomicU64; 2],
    /// The open connections with each hash. The lock is held briefly when a connection begins and ends.
    open: Mutex<HashMap<u64, u32>>,
}

/// An open forwarded connection. Until it is dropped, another connection with the same first bytes is a loop.
#[derive(Debug)]
pub struct ForwardMark {
    number: u64,
    marks: Arc<ForwardMarks>,
}

impl Default for ForwardMarks {
    fn default() -> Self {
        let random = || AtomicU64::new(RandomState::new().hash_one(0));
        Self { key: [random(), random()], open: Mutex::default() }
    }
}

impl ForwardMarks {
    /// Marks a connection by its first bytes. Returns `None` if an open connection has the same first bytes.
    pub(super) fn mark(self: &Arc<Self>, first: &[u8]) -> Option<ForwardMark> {
        let (key_0, key_1) = self.key();
        let mut hasher = SipHasher13::new_with_keys(key_0, key_1);
        hasher.write(&first[..first.len().min(COMPARED)]);
        let number = hasher.finish();
        let mut open = self.open();
        if open.contains_key(&number) {
            return None;
        }
        open.insert(number, 1);
        Some(ForwardMark { number, marks: Arc::clone(self) })
    }

    /// Marks a connection of another process with the same key. If a connection has the same mark, both have it.
    pub(super) fn restore(self: &Arc<Self>, number: u64) -> ForwardMark {
        let mut open = self.open();
        let connections = open.entry(number).or_default();
        *connections = connections.saturating_add(1);
        ForwardMark { number, marks: Arc::clone(self) }
    }

    /// Returns the key of the hash.
    pub(super) fn key(&self) -> (u64, u64) {
        let [key_0, key_1] = &self.key;
        (key_0.load(Ordering::Relaxed), key_1.load(Ordering::Relaxed))
    }

    /// Replaces the key of the hash. Must be called before the first connection.
    pub(super) fn set_key(&self, (key_0, key_1): (u64, u64)) {
        self.key[0].store(key_0, Ordering::Relaxed);
        self.key[1].store(key_1, Ordering::Relaxed);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        // No entry is ever half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ForwardMark {
    /// Returns the hash, with which another process that has the key can restore the mark.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for ForwardMark {
    fn drop(&mut self) {
        let mut open = self.marks.open();
        match open.get_mut(&self.number) {
            Some(connections) if *connections > 1 => *connections -= 1,
            _ => _ = open.remove(&self.number),
        }
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

    #[test]
    fn another_process_with_the_key_finds_the_same_beginnings() {
        let (old, new) = (Arc::new(ForwardMarks::default()), Arc::new(ForwardMarks::default()));
        assert_ne!(old.key(), new.key());
        new.set_key(old.key());
        let first = [7; 100];
        let number = old.mark(&first).expect("it is the first").number();
        let early = new.mark(&first).expect("the connection has not come yet");
        let moved = new.restore(number);
        assert_eq!(early.number(), moved.number());
        drop(early);
        assert!(new.mark(&first).is_none());
        drop(moved);
        assert!(new.mark(&first).is_some());
    }
}
