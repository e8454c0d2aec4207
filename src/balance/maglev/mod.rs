//! Consistent hashing by a Maglev table (Eisenbud et al., NSDI 2016, section 3.4), with weights.
//!
//! Nodes with the same members and the same key build the same table, in whatever order the members are given.
//! So all nodes pick the same backend for a connection without communication. The table is built from the
//! *configured* members, and a pick queries which of them accept now. So a key whose owner accepts never
//! moves, and a key that moved returns to its owner.
//!
//! # The contract
//!
//! The rules below determine the owner of a key. A change of any rule is a breaking change: it moves connections
//! in every fleet during its upgrade. The golden vectors in the tests detect such a change.
//!
//! Hashes are SipHash-2-4 under the shared key. A message is the bytes `4d 01`, one byte of purpose, and the
//! fields; integers are little-endian.
//!
//! | purpose | fields |
//! |---|---|
//! | `01` offset | the identity |
//! | `02` skip | the identity |
//! | `03` draw | k (1 byte), the connection's key (8) |
//! | `04` start | the connection's key (8) |
//! | `05` digest | M (8); the number of members (8); of each member its identity's length (8), its identity, its weight (4); the rank in each slot (4) |
//! | `06` name | the identity |
//! | `07` share | the connection's key (8), the name's hash (8) |
//!
//! - M is the least prime above the least power of two that is at least 65,536 and at least 100 times the
//!   number of members with a weight: 65537 up to 655 of them.
//! - Members are sorted by their identities, compared as bytes. A member's *rank* is its position among the
//!   members with a weight.
//! - A member's permutation of the table is `(offset mod M + j * (skip mod (M-1) + 1)) mod M` for j = 0, 1, ...
//! - In round r = 1, 2, ... each member in order of rank takes the next free slot of its permutation, if
//!   `r * weight` is at least its target. Its target begins at 0 and grows by the largest weight with every turn.
//! - Draw k is the member in slot `draw mod M`. Draw 0 is the key's owner. Draws 0 to 31 are tried, then all
//!   members in order of rank from rank `start mod (number of members with a weight)` on, wrapping around.
//! - If a member has a share of only s/1024, some keys skip the member: the keys whose `share` has s or more in its
//!   upper 10 bits. So a key that such a member takes stays with the member while the share of the member grows. The
//!   member gets the skipped keys later. If no other member accepts, the skipped members are tried in the order of the
//!   draws.
//!
//! M doubles instead of growing with each member. A new M moves nearly every key, so M should change only
//! when a pool has outgrown its table, not with each backend that joins a large pool.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::bounded_load::LoadBound;
use super::indices::{Indices, TriedMembers};
use super::random_sequence::is_below;
use super::{Candidates, FULL_SHARE, MaxLoad, Member};

/// The power of two below the table size for up to 655 members. The paper and the peers use the same size, with
/// which shares differ by at most 1 %.
const SMALLEST_POWER: u64 = 1 << 16;

/// The number of slots per member that keeps the shares within 1 % of each other (paper, section 5.3).
const SLOTS_PER_MEMBER: u64 = 100;

/// The number of draws before the scan. If half of the members refuse, all 32 draws fail once in four thousand
/// million picks.
const DRAWS: u8 = 32;

/// The mark of a slot without a member while a table is filled.
const FREE: u32 = u32::MAX;

/// A hash table from keys to members: the owner of each key, and the members to try if the owner does not accept.
pub struct Maglev {
    hash: KeyedHash,
    /// The member in each slot; empty if no member has a weight.
    slots: Indices,
    /// The members with a weight, by rank.
    ranked: Indices,
    /// The hash of each member's name, by position.
    names: Box<[u64]>,
    digest: u64,
    bound: Option<LoadBound>,
}

impl Maglev {
    /// Builds the table in O(M log M). All nodes must use the same key.
    ///
    /// Identities should be distinct. Members with equal identities have equal permutations: the table is valid,
    /// but it depends on their order.
    ///
    /// # Panics
    ///
    /// Panics if there are 2^32 members or more.
    pub fn build(members: &[Member<'_>], key: &[u8; 16]) -> Self {
        let weighted = members.iter().filter(|member| member.weight > 0).count();
        Self::build_sized(members, key, table_size(weighted as u64))
    }

    /// Builds a table of another size than the contract's, for comparison with other implementations.
    ///
    /// # Panics
    ///
    /// Panics if there are 2^32 members or more, or if the size is not a prime above the number of members with a
    /// weight.
    pub fn build_sized(members: &[Member<'_>], key: &[u8; 16], size: u64) -> Self {
        let hash = KeyedHash(SipHasher24::new_with_key(key));
        let count = u32::try_from(members.len()).expect("fewer than 2^32 members");
        let mut sorted: Vec<u32> = (0..count).collect();
        sorted.sort_by_key(|&position| members[position as usize].identity);
        let ranked: Vec<u32> =
            sorted.iter().copied().filter(|&position| members[position as usize].weight > 0).collect();
        assert!(is_prime(size) && size > ranked.len() as u64, "{size} is no size for a table");

        let by_rank: Vec<Member<'_>> = ranked.iter().map(|&position| members[position as usize]).collect();
        let mut slots = fill(&by_rank, size, &hash);
        let digest = digest(sorted.iter().map(|&position| members[position as usize]), &slots, &hash);
        for slot in &mut slots {
            *slot = ranked[*slot as usize];
        }
        let names = members.iter().map(|member| hash.name(member.identity)).collect();
        Self { hash, slots: Indices::new(slots), ranked: Indices::new(ranked), names, digest, bound: None }
    }

    /// Adds a bound on the connections of each of the `members`.
    #[must_use]
    pub fn bounded(self, max_load: MaxLoad, members: &[Member<'_>]) -> Self {
        let weights = members.iter().map(|member| member.weight).collect();
        Self { bound: Some(LoadBound::new(max_load, weights)), ..self }
    }

    /// Returns the first member in the key's order that accepts, or `None` if no member with a weight accepts.
    ///
    /// The key's owner is queried first, and no member twice. O(1) if the owner accepts. Each further draw
    /// costs one hash. All members are queried only if 32 draws find none that accepts. With a bound, one pick in
    /// N/16 also queries all members.
    pub fn pick(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        let Some(bound) = &self.bound else { return self.preview(key, candidates) };
        let picked = match bound.refresh(candidates) {
            Some(cached) => self.pick_among(key, &cached),
            None => self.pick_among(key, candidates),
        };
        let (member, is_overflow) = picked?;
        if is_overflow {
            bound.count_overflow();
        }
        Some(member)
    }

    /// Returns the member that [`Maglev::pick`] returns now, and counts nothing.
    pub fn preview(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        self.pick_among(key, candidates).map(|(member, _)| member)
    }

    /// Returns the picked member. The second value is true if the bound kept the connection from an owner that accepts.
    fn pick_among(&self, key: u64, candidates: &impl Candidates) -> Option<(usize, bool)> {
        let owner = self.owner(key)?;
        match self.limit(key, owner, candidates) {
            None if candidates.accepts(owner) => Some((owner, false)),
            limit => self.pick_other(key, (owner, limit), candidates),
        }
    }

    /// Continues after the owner, which did not accept or was skipped for `limit`.
    fn pick_other(
        &self,
        key: u64,
        (owner, limit): (usize, Option<SkipReason>),
        candidates: &impl Candidates,
    ) -> Option<(usize, bool)> {
        let mut seen = TriedMembers::new(self.names.len());
        seen.insert(owner);
        let mut skipped = Vec::new();
        skipped.extend(limit.map(|_| owner));
        for member in (1..DRAWS).map(|k| self.draw(key, k)).chain(self.scan(key)) {
            if !seen.insert(member) {
                continue;
            }
            if self.limit(key, member, candidates).is_some() {
                skipped.push(member);
            } else if candidates.accepts(member) {
                let is_overflow = limit == Some(SkipReason::Load) && candidates.accepts(owner);
                return Some((member, is_overflow));
            }
        }
        let accepting = skipped.into_iter().find(|&member| candidates.accepts(member));
        accepting.map(|member| (member, false))
    }

    /// Returns the reason to skip a member for this key even if the member accepts.
    fn limit(&self, key: u64, member: usize, candidates: &impl Candidates) -> Option<SkipReason> {
        let share = candidates.share(member);
        if share < FULL_SHARE && !is_below(self.hash.share(key, self.names[member]), share) {
            return Some(SkipReason::Share);
        }
        let is_full = self.bound.as_ref().is_some_and(|bound| !bound.has_room(member, candidates));
        is_full.then_some(SkipReason::Load)
    }

    /// Returns the member that a key goes to while that member accepts; `None` if no member has a weight.
    pub fn owner(&self, key: u64) -> Option<usize> {
        (self.size() > 0).then(|| self.draw(key, 0))
    }

    /// Returns the slot whose member owns a key; `None` if no member has a weight.
    pub fn slot(&self, key: u64) -> Option<usize> {
        (self.size() > 0).then(|| self.drawn_slot(key, 0))
    }

    /// Returns a number that is equal on all nodes with equal members, weights and shared key.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns the member in each slot.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter()
    }

    /// Counts the slots of each member, in the order given to `build`. Reads the whole table.
    pub fn entries(&self) -> Vec<u32> {
        let mut entries = vec![0; self.names.len()];
        for member in self.slots() {
            entries[member] += 1;
        }
        entries
    }

    /// Returns the number of slots: a prime of at least 65537, or 0 if no member has a weight.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of connections that the bound kept from an owner that accepted; `None` without a bound.
    pub fn overflows(&self) -> Option<u64> {
        self.bound.as_ref().map(LoadBound::overflows)
    }

    /// Adds overflows that another process counted. Returns false without a bound.
    pub fn add_overflows(&self, count: u64) -> bool {
        self.bound.as_ref().map(|bound| bound.add_overflows(count)).is_some()
    }

    fn draw(&self, key: u64, k: u8) -> usize {
        self.slots.at(self.drawn_slot(key, k))
    }

    fn drawn_slot(&self, key: u64, k: u8) -> usize {
        remainder(self.hash.draw(k, key), self.slots.len())
    }

    /// Returns every member with a weight once. Keys start at different ranks, so no single member inherits all
    /// keys of a failed one.
    fn scan(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let count = self.ranked.len();
        let start = remainder(self.hash.start(key), count);
        (start..count).chain(0..start).map(|rank| self.ranked.at(rank))
    }
}

impl fmt::Debug for Maglev {
    /// Omits the table, which is long, and the key, which is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maglev")
            .field("members", &self.names.len())
            .field("size", &self.size())
            .field("digest", &format_args!("{:016x}", self.digest))
            .finish_non_exhaustive()
    }
}

/// The reason for which a member is skipped before it is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SkipReason {
    /// The key is not in the part of the keys that the member takes now.
    Share,
    /// The member has as many connections as the bound allows.
    Load,
}

/// The hashes of the contract above.
#[derive(Clone)]
struct KeyedHash(SipHasher24);

impl KeyedHash {
    fn offset(&self, identity: &[u8]) -> u64 {
        self.identity(1, identity)
    }

    fn skip(&self, identity: &[u8]) -> u64 {
        self.identity(2, identity)
    }

    fn identity(&self, purpose: u8, identity: &[u8]) -> u64 {
        let mut message = self.message(purpose);
        message.write(identity);
        message.finish()
    }

    fn draw(&self, k: u8, key: u64) -> u64 {
        let [a, b, c, d, e, f, g, h] = key.to_le_bytes();
        self.0.hash(&[0x4d, 1, 3, k, a, b, c, d, e, f, g, h])
    }

    fn start(&self, key: u64) -> u64 {
        let [a, b, c, d, e, f, g, h] = key.to_le_bytes();
        self.0.hash(&[0x4d, 1, 4, a, b, c, d, e, f, g, h])
    }

    fn name(&self, identity: &[u8]) -> u64 {
        self.identity(6, identity)
    }

    fn share(&self, key: u64, name: u64) -> u64 {
        let mut message = self.message(7);
        message.write(&key.to_le_bytes());
        message.write(&name.to_le_bytes());
        message.finish()
    }

    /// Starts a message. Callers append only with `write`, which adds the bytes and nothing else on any platform.
    fn message(&self, purpose: u8) -> SipHasher24 {
        let mut message = self.0;
        message.write(&[0x4d, 1, purpose]);
        message
    }
}

/// The order in which a member takes slots.
struct Permutation {
    next: u64,
    skip: u64,
    weight: u64,
    turns: u64,
}

impl Permutation {
    fn new(member: &Member<'_>, size: u64, hash: &KeyedHash) -> Self {
        Self {
            next: hash.offset(member.identity) % size,
            skip: hash.skip(member.identity) % (size - 1) + 1,
            weight: u64::from(member.weight),
            turns: 0,
        }
    }

    /// Takes the next free slot for `rank`. The size is prime, so a permutation passes every slot before it repeats.
    fn take(&mut self, slots: &mut [u32], rank: u32) {
        let size = slots.len() as u64;
        loop {
            let slot = &mut slots[self.next as usize];
            self.next += self.skip;
            if self.next >= size {
                self.next -= size;
            }
            if *slot == FREE {
                *slot = rank;
                self.turns += 1;
                return;
            }
        }
    }

    /// Returns the first round after `round` in which `round * weight` reaches `turns * heaviest`.
    fn next_round(&self, round: u64, heaviest: u64) -> u64 {
        (self.turns * heaviest).div_ceil(self.weight).max(round + 1)
    }
}

/// Returns the rank in each slot. The heap stores each member's next round, so the rounds in which a light member
/// takes no slot cost nothing.
fn fill(by_rank: &[Member<'_>], size: u64, hash: &KeyedHash) -> Vec<u32> {
    let Some(heaviest) = by_rank.iter().map(|member| u64::from(member.weight)).max() else {
        return Vec::new();
    };
    let mut permutations: Vec<Permutation> =
        by_rank.iter().map(|member| Permutation::new(member, size, hash)).collect();
    let mut due: BinaryHeap<_> = (0u32..).zip(by_rank).map(|(rank, _)| Reverse((1, rank))).collect();
    let mut slots = vec![FREE; usize::try_from(size).expect("the size of a table fits into usize")];
    for _ in 0..size {
        let mut first =
            due.peek_mut().expect("the heap has an entry for each member, and there is at least one");
        let Reverse((round, rank)) = *first;
        let permutation = &mut permutations[rank as usize];
        permutation.take(&mut slots, rank);
        *first = Reverse((permutation.next_round(round, heaviest), rank));
    }
    slots
}

fn digest<'a>(sorted: impl ExactSizeIterator<Item = Member<'a>>, slots: &[u32], hash: &KeyedHash) -> u64 {
    let mut message = hash.message(5);
    message.write(&(slots.len() as u64).to_le_bytes());
    message.write(&(sorted.len() as u64).to_le_bytes());
    for member in sorted {
        message.write(&(member.identity.len() as u64).to_le_bytes());
        message.write(member.identity);
        message.write(&member.weight.to_le_bytes());
    }
    for rank in slots {
        message.write(&rank.to_le_bytes());
    }
    message.finish()
}

fn table_size(members: u64) -> u64 {
    let power = (members * SLOTS_PER_MEMBER).next_power_of_two().max(SMALLEST_POWER);
    (power + 1..).find(|&candidate| is_prime(candidate)).expect("there is always a larger prime")
}

fn is_prime(candidate: u64) -> bool {
    candidate >= 2 && (2..).take_while(|d| d * d <= candidate).all(|d| !candidate.is_multiple_of(d))
}

/// Maps a hash to a number below `count`. The bias of the remainder is below 2^-32 for every possible table.
fn remainder(hash: u64, count: usize) -> usize {
    (hash % count as u64) as usize
}

#[cfg(test)]
mod tests;
