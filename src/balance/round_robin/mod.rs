//! Every member in turn, by weight, evenly interleaved, without a lock.
//!
//! The order of turns is computed once, when the pool is built. It is a cycle in which every member has exactly its
//! share, with its turns as far apart as possible. A pick takes the next turn by one atomic addition, so all
//! workers share one cycle exactly. The turns of members that refuse are used up, not inherited. The rest of the
//! cycle is unchanged, so no neighbour gets all connections of a failed member.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Candidates;
use super::indices::{Indices, TriedMembers};
use super::random_sequence::takes_pick;

/// The length of the longest cycle, apart from the one turn that every member with a weight keeps. It takes 128 KiB.
const LONGEST_CYCLE: u64 = 65_536;

/// A cycle of turns, and the cursor of the next pick in it.
pub struct RoundRobin {
    cycle: Indices,
    /// The number of members.
    members: usize,
    /// The number of members with a weight.
    active: usize,
    /// The number of turns taken so far. All workers add to it. It orders nothing else, so relaxed suffices.
    cursor: AtomicUsize,
}

impl RoundRobin {
    /// Computes the cycle, which begins at a random turn (`start`, any number).
    ///
    /// Weights are divided by their greatest common divisor. If their sum is still above 65,536, they are scaled
    /// down to this sum and rounded, and every weight above 0 keeps at least one turn. A share is then off by at
    /// most half a turn, or by up to one turn if it would have been rounded to 0.
    ///
    /// # Panics
    ///
    /// Panics if there are 2^32 weights or more.
    pub fn build(weights: &[u32], start: u64) -> Self {
        let cycle = smooth_cycle(&turns_per_cycle(weights));
        let first = (start % cycle.len().max(1) as u64) as usize;
        Self {
            cycle: Indices::new(cycle),
            members: weights.len(),
            active: weights.iter().filter(|&&weight| weight > 0).count(),
            cursor: AtomicUsize::new(first),
        }
    }

    /// Returns the next member in turn that accepts, or `None` if no member with a weight accepts.
    ///
    /// A member with a partial share skips the rest of its turns, chosen at random. If no other member accepts, it
    /// is queried nevertheless. No member is queried twice. O(1) if the first accepts. Otherwise the pick goes
    /// through at most one cycle, and ends earlier when every member was tried.
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        if self.active == 0 {
            return None;
        }
        let turn = self.cursor.fetch_add(1, Ordering::Relaxed);
        let first = self.member(turn);
        let takes = takes_pick(first, candidates.share(first), randomness);
        if takes && candidates.accepts(first) {
            return Some(first);
        }
        let skipped = if takes { Vec::new() } else { vec![first] };
        self.pick_later(turn, skipped, randomness, candidates)
    }

    fn pick_later(
        &self,
        turn: usize,
        mut skipped: Vec<usize>,
        randomness: u64,
        candidates: &impl Candidates,
    ) -> Option<usize> {
        let mut seen = TriedMembers::new(self.members);
        seen.insert(self.member(turn));
        for ahead in 1..self.cycle.len() {
            if seen.count() == self.active {
                break;
            }
            let later = turn.wrapping_add(ahead);
            let member = self.member(later);
            if !seen.insert(member) {
                continue;
            }
            if !takes_pick(member, candidates.share(member), randomness) {
                skipped.push(member);
            } else if candidates.accepts(member) {
                // The skipped turns are used up, unless other workers have moved the cursor further.
                self.cursor.fetch_max(later.wrapping_add(1), Ordering::Relaxed);
                return Some(member);
            }
        }
        skipped.into_iter().find(|&member| candidates.accepts(member))
    }

    fn member(&self, turn: usize) -> usize {
        self.cycle.at(turn % self.cycle.len())
    }
}

impl fmt::Debug for RoundRobin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoundRobin")
            .field("members", &self.members)
            .field("cycle", &self.cycle.len())
            .field("cursor", &self.cursor)
            .finish()
    }
}

/// Returns the number of turns of each weight in one cycle of bounded length.
fn turns_per_cycle(weights: &[u32]) -> Vec<u32> {
    let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let reduced = weights.iter().map(|weight| weight / common);
    let sum: u64 = reduced.clone().map(u64::from).sum();
    if sum <= LONGEST_CYCLE {
        return reduced.collect();
    }
    // A turn count is at most the weight it came from, because the sum is above the bound.
    let scale = |weight: u32| ((u64::from(weight) * LONGEST_CYCLE + sum / 2) / sum).max(1) as u32;
    reduced.map(|weight| if weight == 0 { 0 } else { scale(weight) }).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Returns a cycle with these turns in which a member follows itself only if this cannot be avoided.
///
/// Groups of equal weight are merged into the cycle one after the other, the lightest first. A member follows
/// itself at most as often as it has turns. Any later group has more turns than that, so it can separate all of
/// them. In the end a member follows itself only if it has more turns than all others together.
fn smooth_cycle(turns: &[u32]) -> Vec<u32> {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (member, &turns) in (0u32..).zip(turns) {
        groups.entry(turns).or_default().push(member);
    }
    groups.remove(&0);
    groups.iter().fold(Vec::new(), |cycle, (&turns, members)| weave(cycle, &members.repeat(turns as usize)))
}

/// Spreads `new` evenly over the gaps of `cycle`. The gaps between two turns of one member come first.
fn weave(cycle: Vec<u32>, new: &[u32]) -> Vec<u32> {
    if cycle.is_empty() {
        return new.to_vec();
    }
    let following = cycle.iter().cycle().skip(1);
    let is_repeat: Vec<bool> = cycle.iter().zip(following).map(|(member, next)| member == next).collect();
    // With a new turn for every gap, an even spread separates all repeats.
    let reserved =
        if new.len() < cycle.len() { is_repeat.iter().filter(|&&repeat| repeat).count() } else { 0 };
    let (spread, gaps) = (new.len() - reserved, cycle.len() - reserved);

    let mut woven = Vec::with_capacity(cycle.len() + new.len());
    // A start of half a gap rounds to the nearest gap. From 0, every group would come late and move others forward.
    let (mut new, mut carried) = (new.iter().copied(), gaps / 2);
    for (&member, &repeat) in cycle.iter().zip(&is_repeat) {
        woven.push(member);
        if repeat && reserved > 0 {
            woven.extend(new.next());
            continue;
        }
        carried += spread;
        woven.extend(new.by_ref().take(carried / gaps));
        carried %= gaps;
    }
    woven
}

#[cfg(test)]
mod tests;
