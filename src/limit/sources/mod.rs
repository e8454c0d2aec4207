//! The table of sources, which has a fixed size for any number of clients.
//!
//! The table consists of small sets with a lock each. A keyed hash maps a source to its set. The key is drawn
//! when the process starts, so clients cannot aim at a set. A source is counted for each listener separately.
//!
//! # Eviction
//!
//! A new source takes a free slot of its set, or evicts a source without open connections. Sources whose rate has
//! recovered are evicted first, then the source furthest below its limit. Sources over their rate are evicted last,
//! beginning with the source that would be admitted again soonest. So a million sources that come once cannot evict a
//! source that is over its rate. Only other sources over their rates can evict it, if they are enough to fill the set.
//! A source with open connections is never evicted. If such sources take all slots of a set, a new source passes
//! uncounted or is refused, as configured. Both are counted.

mod name;
mod restore;
mod set;
#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

use super::rate::{Moment, Rate};
use crate::ids::ListenerId;
pub use name::{Link, SourceName};
pub use restore::SourceRate;
use set::{SourceEntry, SourceSet, WAYS};

/// The number of leading bits of an address that identify a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    /// Of IPv4, 1 to 32. Default 32.
    pub v4: u8,
    /// Of IPv6, 1 to 128. Default 64: mostly the network of one user.
    pub v6: u8,
}

impl Default for PrefixLengths {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// The key of a source: an address cut to its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey(u128);

impl SourceKey {
    /// Returns the source of an address. IPv4-mapped addresses count as IPv4.
    pub fn of(ip: IpAddr, prefix: PrefixLengths) -> Self {
        let (bits, length) = match ip.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96 + u32::from(prefix.v4.min(32))),
            IpAddr::V6(v6) => (v6.to_bits(), u32::from(prefix.v6)),
        };
        Self(bits & u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0))
    }

    /// Returns the source of a private link, from the kind of its TLV and its id: 128 bits of a digest, which
    /// collide with no address.
    pub fn of_link(kind: u8, id: &str) -> Self {
        let digest = Sha256::new().chain_update([kind]).chain_update(id).finalize();
        let mut bits = [0; 16];
        bits.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(bits))
    }

    /// Returns the bits of the key.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// Returns the key with these bits, which another program took from a key.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns its first address. For a private link the address has no meaning.
    pub fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.0)).to_canonical()
    }
}

/// The property that identifies a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceBy {
    /// A network of addresses.
    #[default]
    Address,
    /// A private link, if a PROXY header has its id; otherwise a network.
    PrivateLink,
}

/// The limits of each source of a listener. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Open connections.
    pub connections: Option<u32>,
    /// New connections.
    pub rate: Option<Rate>,
    /// Connections whose first bytes are still being read.
    pub hellos: Option<u32>,
}

/// The treatment of a source for which the table has no slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its connections pass uncounted.
    #[default]
    Pass,
    /// They are refused.
    Refuse,
}

/// The reason for which a connection of a source is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRefusal {
    /// The source has reached its limit of open connections.
    Connections,
    /// The source has no token: its connections come too fast.
    Rate,
    /// The source has reached its limit of connections whose first bytes are being read.
    Hellos,
    /// The table has no slot for the source, and is configured to refuse it.
    TableFull,
}

/// A request to admit a connection.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest {
    /// Its listener.
    pub listener: ListenerId,
    /// The source of the connection.
    pub source: SourceKey,
    /// True if its first bytes will be read.
    pub is_read: bool,
    /// The moment of the request.
    pub now: Moment,
}

/// The counts of a source, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its first address.
    pub ip: IpAddr,
    /// The listener.
    pub listener: ListenerId,
    /// Open connections.
    pub open: u32,
    /// The open connections whose first bytes are still being read.
    pub hellos: u32,
}

/// The sources of a process. Shared by its workers, and kept over reloads.
pub struct SourceTable {
    /// Allocated with the first source, because most processes have no limits for sources.
    sets: OnceLock<Box<[SourceSet]>>,
    count: usize,
    key: [u64; 2],
    refuses_when_full: AtomicBool,
    /// Sources that have a slot.
    known: AtomicU64,
    /// Sources with open connections.
    occupied: AtomicU64,
    /// The open connections of all sources.
    open: AtomicU64,
    evictions: AtomicU64,
    full: AtomicU64,
}

impl SourceTable {
    /// Returns a table for this many sources, rounded up to a whole set. `key` must be random. The table
    /// takes 56 bytes for each source from the first counted connection on.
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

    /// Changes the treatment of sources for which there is no slot.
    pub fn set_when_full(&self, when_full: WhenFull) {
        self.refuses_when_full.store(when_full == WhenFull::Refuse, Ordering::Relaxed);
    }

    /// Allocates the table now instead of with the first source.
    pub fn prepare(&self) {
        _ = self.sets();
    }

    /// Counts a connection of a source that is within its limits. Returns `None` if the connection passes
    /// uncounted, because there is no slot for its source.
    ///
    /// # Errors
    ///
    /// The reason for a refusal. A refused connection takes nothing.
    pub fn admit(
        self: &Arc<Self>,
        request: &AdmissionRequest,
        limits: &SourceLimits,
    ) -> Result<Option<SourcePass>, SourceRefusal> {
        let index = self.index(request.listener, request.source);
        let mut set = self.sets()[index].lock();
        let Some(way) = set.find(request.listener, request.source) else {
            let Some(free) = set.slot_for_new(request.now) else {
                drop(set);
                return self.no_free_slot();
            };
            let entry = &mut set.0[free];
            match entry.is_free() {
                true => self.known.fetch_add(1, Ordering::Relaxed),
                false => self.evictions.fetch_add(1, Ordering::Relaxed),
            };
            *entry = SourceEntry::new(request.listener, request.source);
            entry.admit(request, limits)?;
            return Ok(Some(self.pass(index, free, entry, request)));
        };
        let entry = &mut set.0[way];
        entry.admit(request, limits)?;
        Ok(Some(self.pass(index, way, entry, request)))
    }

    /// Returns the result that [`SourceTable::admit`] would return now. Counts nothing and allocates no table.
    ///
    /// # Errors
    ///
    /// The reason for which a connection would be refused.
    pub fn preview(&self, request: &AdmissionRequest, limits: &SourceLimits) -> Result<(), SourceRefusal> {
        let new = || SourceEntry::new(request.listener, request.source);
        let Some(sets) = self.sets.get() else { return new().admit(request, limits) };
        let set = sets[self.index(request.listener, request.source)].lock();
        match set.find(request.listener, request.source) {
            // The entry is a copy, so its counts stay.
            Some(way) => { set.0[way] }.admit(request, limits),
            None if set.slot_for_new(request.now).is_some() => new().admit(request, limits),
            None if self.refuses_when_full.load(Ordering::Relaxed) => Err(SourceRefusal::TableFull),
            None => Ok(()),
        }
    }

    /// Counts a connection that another program admitted, also beyond the limits of its source. Returns `None` if there
    /// is no slot for the source.
    pub fn admit_past_limits(self: &Arc<Self>, request: &AdmissionRequest) -> Option<SourcePass> {
        let index = self.index(request.listener, request.source);
        let mut set = self.sets()[index].lock();
        let way = match set.find(request.listener, request.source) {
            Some(way) => way,
            None => {
                let free = set.slot_for_new(request.now)?;
                let entry = &mut set.0[free];
                match entry.is_free() {
                    true => self.known.fetch_add(1, Ordering::Relaxed),
                    false => self.evictions.fetch_add(1, Ordering::Relaxed),
                };
                *entry = SourceEntry::new(request.listener, request.source);
                free
            }
        };
        let entry = &mut set.0[way];
        entry.admit_past_limits(request);
        Some(self.pass(index, way, entry, request))
    }

    fn pass(
        self: &Arc<Self>,
        set: usize,
        way: usize,
        entry: &SourceEntry,
        request: &AdmissionRequest,
    ) -> SourcePass {
        self.open.fetch_add(1, Ordering::Relaxed);
        if entry.open == 1 {
            self.occupied.fetch_add(1, Ordering::Relaxed);
        }
        // The bound of the table's size allows at most 2^32 slots.
        let slot = u32::try_from(set * WAYS + way).unwrap_or(u32::MAX);
        SourcePass { table: Arc::clone(self), slot, is_read: request.is_read }
    }

    fn no_free_slot(&self) -> Result<Option<SourcePass>, SourceRefusal> {
        self.full.fetch_add(1, Ordering::Relaxed);
        if self.refuses_when_full.load(Ordering::Relaxed) { Err(SourceRefusal::TableFull) } else { Ok(None) }
    }

    fn sets(&self) -> &[SourceSet] {
        self.sets.get_or_init(|| (0..self.count).map(|_| SourceSet::default()).collect())
    }

    fn index(&self, listener: ListenerId, source: SourceKey) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        listener.hash(&mut hasher);
        hasher.write_u128(source.0);
        // The high half of the product spreads evenly over any number of sets.
        ((u128::from(hasher.finish()) * self.count as u128) >> 64) as usize
    }

    /// The number of open connections of a source at a listener.
    pub fn open_of(&self, listener: ListenerId, source: SourceKey) -> u32 {
        let Some(sets) = self.sets.get() else { return 0 };
        let set = sets[self.index(listener, source)].lock();
        set.find(listener, source).map_or(0, |way| set.0[way].open)
    }

    /// Returns true if the source of a connection has more than twice the open connections that the others
    /// have on average. If there are no others, every connection but its first is too many.
    pub fn is_heavy(&self, pass: &SourcePass) -> bool {
        let (set, way) = pass.at();
        let own = u128::from(self.sets()[set].lock().0[way].open);
        let others = u128::from(self.occupied().saturating_sub(1));
        let theirs = u128::from(self.open()).saturating_sub(own);
        if others == 0 { own > 1 } else { own * others > 2 * theirs }
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.count * WAYS
    }

    /// The number of sources that have a slot.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// The number of sources with open connections.
    pub fn occupied(&self) -> u64 {
        self.occupied.load(Ordering::Relaxed)
    }

    /// The number of open connections that are counted.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// The number of sources that were evicted.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// The number of connections whose source got no slot.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Adds counts of another process.
    pub fn add_counts(&self, evictions: u64, full: u64) {
        self.evictions.fetch_add(evictions, Ordering::Relaxed);
        self.full.fetch_add(full, Ordering::Relaxed);
    }

    /// Returns the sources with the most open connections, at most `count`, the heaviest first. It reads
    /// every slot, so workers must not call it.
    pub fn heaviest(&self, count: usize) -> Vec<SourceReport> {
        let mut found = Vec::new();
        for set in self.sets.get().map_or(&[][..], |sets| sets) {
            let set = set.lock();
            let open = set.0.iter().filter(|entry| entry.open > 0);
            found.extend(open.filter_map(SourceEntry::report));
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

/// A connection that is counted for its source; the count is returned on drop.
#[derive(Debug)]
pub struct SourcePass {
    table: Arc<SourceTable>,
    /// The index of its slot. The source cannot move or be evicted while this value exists.
    slot: u32,
    is_read: bool,
}

impl SourcePass {
    /// Records that its first bytes were read.
    pub fn was_read(&mut self) {
        if std::mem::take(&mut self.is_read) {
            let (set, way) = self.at();
            self.table.sets()[set].lock().0[way].hellos -= 1;
        }
    }

    /// Returns its source.
    pub fn source(&self) -> Option<SourceKey> {
        let (set, way) = self.at();
        self.table.sets()[set].lock().0[way].source()
    }

    /// Returns true if its source is heavy: see [`SourceTable::is_heavy`].
    pub fn is_heavy(&self) -> bool {
        self.table.is_heavy(self)
    }

    fn at(&self) -> (usize, usize) {
        let slot = self.slot as usize;
        (slot / WAYS, slot % WAYS)
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
