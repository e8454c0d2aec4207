//! What each source has: a table of one size, whoever comes.
//!
//! The table is made of small sets with a lock each. Which set is a source's is decided by a keyed hash whose key
//! is drawn when the process starts, so nobody can aim at one. A source is counted for each listener by itself.
//!
//! # Who makes room
//!
//! Who comes anew takes a free place of its set, else that of a source that has nothing open: first one whose rate has
//! recovered, then the one that is furthest from its limit, at last one that is over its rate, as it would be refused
//! now. A million others that come once cannot make us forget who is over its rate; only as many that are over theirs
//! can. A source with open connections stays. When all places of a set are taken by such sources, the new one passes
//! uncounted or is refused, as configured, and either is counted.

mod name;
mod set;
#[cfg(test)]
mod tests;

use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

use super::rate::{Moment, Rate};
pub use name::{Link, SourceName};
use set::{SourceEntry, SourceSet, WAYS};

/// How many leading bits of an address make a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    /// Of IPv4, 1 to 32. Default 32.
    pub v4: u8,
    /// Of IPv6, 1 to 128. Default 64: what one user mostly has.
    pub v6: u8,
}

impl Default for PrefixLengths {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// An address, cut to its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey(u128);

impl SourceKey {
    /// The source that an address belongs to. IPv4-mapped addresses count as IPv4.
    pub fn of(ip: IpAddr, prefix: PrefixLengths) -> Self {
        let (bits, length) = match ip.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96 + u32::from(prefix.v4.min(32))),
            IpAddr::V6(v6) => (v6.to_bits(), u32::from(prefix.v6)),
        };
        Self(bits & u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0))
    }

    /// The source of a private link, by the kind of its TLV and its id. It meets no address: 128 bits of a digest.
    pub fn of_link(kind: u8, id: &str) -> Self {
        let digest = Sha256::new().chain_update([kind]).chain_update(id).finalize();
        let mut bits = [0; 16];
        bits.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(bits))
    }

    /// Its first address; of a private link it has no meaning.
    pub fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.0)).to_canonical()
    }
}

/// What is a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceBy {
    /// A network of addresses.
    #[default]
    Address,
    /// A private link, where a PROXY header tells its id; else a network.
    PrivateLink,
}

/// What each source of a listener may have. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Open connections.
    pub connections: Option<u32>,
    /// New connections.
    pub rate: Option<Rate>,
    /// Connections whose first bytes are still being read.
    pub hellos: Option<u32>,
}

/// What becomes of a source for which the table has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its connections come in uncounted.
    #[default]
    Pass,
    /// They are refused.
    Refuse,
}

/// Why a source gets no further connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRefusal {
    /// It has as many open as it may.
    Connections,
    /// They come too fast.
    Rate,
    /// Too many of them have not said what they want.
    Hellos,
    /// The table has no room, and that refuses.
    TableFull,
}

/// A connection that asks to come in.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest {
    /// The number of its listener, never 0.
    pub listener: u64,
    /// Where it comes from.
    pub source: SourceKey,
    /// Whether its first bytes will be read.
    pub is_read: bool,
    /// When.
    pub now: Moment,
}

/// What a source has, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its first address.
    pub ip: IpAddr,
    /// The number of the listener.
    pub listener: u64,
    /// Open connections.
    pub open: u32,
    /// Those of them whose first bytes are still being read.
    pub hellos: u32,
}

/// The sources of a process. Shared by its workers; it outlives reloads.
pub struct SourceTable {
    /// Made when the first source comes: most processes have no limits for sources.
    sets: OnceLock<Box<[SourceSet]>>,
    count: usize,
    key: [u64; 2],
    refuses_when_full: AtomicBool,
    /// Sources that are remembered.
    known: AtomicU64,
    /// Those of them with open connections.
    occupied: AtomicU64,
    /// Their open connections.
    open: AtomicU64,
    evictions: AtomicU64,
    full: AtomicU64,
}

impl SourceTable {
    /// A table for so many sources, rounded up to a whole set. `key` is to be random. It takes 56 bytes for each
    /// from the first connection on that is counted.
    pub fn new(sources: usize, key: [u64; 2], when_full: WhenFull) -> Arc<Self> {
        Arc::new(Self {
            sets: OnceLock::new(),
            count: sources.div_ceil(WAYS).max(1),
            key,
            refuses_when_full: AtomicBool::new(when_full == WhenFull::Refuse),
            known: AtomicU64::new(0),
            occupied: AtomicU64::new(0),
            open: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            full: AtomicU64::new(0),
        })
    }

    /// Changes what becomes of sources for which there is no room.
    pub fn set_when_full(&self, when_full: WhenFull) {
        self.refuses_when_full.store(when_full == WhenFull::Refuse, Ordering::Relaxed);
    }

    /// Makes the table now and not with the first source that comes.
    pub fn prepare(&self) {
        _ = self.sets();
    }

    /// Counts a connection in, if its source may have it; `None` is one that comes in uncounted, as there is no
    /// room for its source.
    ///
    /// # Errors
    ///
    /// Why it may not. What is refused leaves nothing behind.
    pub fn admit(
        self: &Arc<Self>,
        coming: &AdmissionRequest,
        limits: &SourceLimits,
    ) -> Result<Option<SourcePass>, SourceRefusal> {
        let index = self.index(coming.listener, coming.source);
        let mut set = self.sets()[index].lock();
        let Some(way) = set.find(coming.listener, coming.source) else {
            let Some(room) = set.room(coming.now) else {
                drop(set);
                return self.without_room();
            };
            let entry = &mut set.0[room];
            match entry.is_free() {
                true => self.known.fetch_add(1, Ordering::Relaxed),
                false => self.evictions.fetch_add(1, Ordering::Relaxed),
            };
            *entry = SourceEntry::new(coming.listener, coming.source);
            entry.admit(coming, limits)?;
            return Ok(Some(self.pass(index, room, entry, coming)));
        };
        let entry = &mut set.0[way];
        entry.admit(coming, limits)?;
        Ok(Some(self.pass(index, way, entry, coming)))
    }

    fn pass(
        self: &Arc<Self>,
        set: usize,
        way: usize,
        entry: &SourceEntry,
        coming: &AdmissionRequest,
    ) -> SourcePass {
        self.open.fetch_add(1, Ordering::Relaxed);
        if entry.open == 1 {
            self.occupied.fetch_add(1, Ordering::Relaxed);
        }
        // There are at most 2^32 places, by the bound of the table's size.
        let place = u32::try_from(set * WAYS + way).unwrap_or(u32::MAX);
        SourcePass { table: Arc::clone(self), place, is_read: coming.is_read }
    }

    fn without_room(&self) -> Result<Option<SourcePass>, SourceRefusal> {
        self.full.fetch_add(1, Ordering::Relaxed);
        if self.refuses_when_full.load(Ordering::Relaxed) { Err(SourceRefusal::TableFull) } else { Ok(None) }
    }

    fn sets(&self) -> &[SourceSet] {
        self.sets.get_or_init(|| (0..self.count).map(|_| SourceSet::default()).collect())
    }

    fn index(&self, listener: u64, source: SourceKey) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u64(listener);
        hasher.write_u128(source.0);
        // The high half of the product spreads evenly over any number of sets.
        ((u128::from(hasher.finish()) * self.count as u128) >> 64) as usize
    }

    /// Connections that a source has open at a listener.
    pub fn open_of(&self, listener: u64, source: SourceKey) -> u32 {
        let set = self.sets()[self.index(listener, source)].lock();
        set.find(listener, source).map_or(0, |way| set.0[way].open)
    }

    /// Whether the source of a connection has more than twice what the others have open on average. If there are
    /// no others, all but its first are too many.
    pub fn is_heavy(&self, pass: &SourcePass) -> bool {
        let (set, way) = pass.at();
        let own = u128::from(self.sets()[set].lock().0[way].open);
        let others = u128::from(self.occupied().saturating_sub(1));
        let theirs = u128::from(self.open()).saturating_sub(own);
        if others == 0 { own > 1 } else { own * others > 2 * theirs }
    }

    /// How many sources it has places for.
    pub fn capacity(&self) -> usize {
        self.count * WAYS
    }

    /// Sources that are remembered.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// Sources with open connections.
    pub fn occupied(&self) -> u64 {
        self.occupied.load(Ordering::Relaxed)
    }

    /// Open connections that are counted.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Sources that made room for others.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Connections whose source found no room.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// The sources with the most open connections, at most `count`, the heaviest first. It looks at every place:
    /// not for a worker.
    pub fn heaviest(&self, count: usize) -> Vec<SourceReport> {
        let mut found = Vec::new();
        for set in self.sets.get().map_or(&[][..], |sets| sets) {
            let set = set.lock();
            let open = set.0.iter().filter(|entry| !entry.is_free() && entry.open > 0);
            found.extend(open.map(SourceEntry::report));
            drop(set);
            if found.len() > 2 * count + WAYS {
                keep_heaviest(&mut found, count);
            }
        }
        keep_heaviest(&mut found, count);
        found
    }
}

fn keep_heaviest(found: &mut Vec<SourceReport>, count: usize) {
    found.sort_by_key(|report| (std::cmp::Reverse(report.open), report.ip, report.listener));
    found.truncate(count);
}

impl std::fmt::Debug for SourceTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceTable").field("known", &self.known()).finish_non_exhaustive()
    }
}

/// A connection that is counted for its source; given back on drop.
#[derive(Debug)]
pub struct SourcePass {
    table: Arc<SourceTable>,
    /// Its entry cannot move or become another's while this lives.
    place: u32,
    is_read: bool,
}

impl SourcePass {
    /// Its first bytes are read.
    pub fn was_read(&mut self) {
        if std::mem::take(&mut self.is_read) {
            let (set, way) = self.at();
            self.table.sets()[set].lock().0[way].hellos -= 1;
        }
    }

    /// Whether its source has more than its share: see [`SourceTable::is_heavy`].
    pub fn is_heavy(&self) -> bool {
        self.table.is_heavy(self)
    }

    fn at(&self) -> (usize, usize) {
        let place = self.place as usize;
        (place / WAYS, place % WAYS)
    }
}

impl Drop for SourcePass {
    fn drop(&mut self) {
        let (set, way) = self.at();
        let mut set = self.table.sets()[set].lock();
        let entry = &mut set.0[way];
        entry.open -= 1;
        entry.hellos -= u32::from(self.is_read);
        if entry.open == 0 {
            self.table.occupied.fetch_sub(1, Ordering::Relaxed);
        }
        self.table.open.fetch_sub(1, Ordering::Relaxed);
    }
}
