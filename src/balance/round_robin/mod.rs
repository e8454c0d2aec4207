//! Each member in turn, by weight, evenly interleaved, without a lock.
//!
//! The order of turns is worked out once, when the pool is built: a cycle in which every member has exactly
//! its share and its turns stand as far apart as they can. A pick takes the next turn by one atomic addition,
//! so workers share one cycle exactly. The turns of refused members are used up, not inherited: what remains
//! is the same cycle without them, so no neighbour receives all that a failed member would have.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Candidates;
use super::indices::{Indices, TriedMembers};
use super::random_sequence::falls_to;

/// The longest cycle, apart from the one turn that every member with a weight keeps: 128 KiB of memory.
const LONGEST_CYCLE: u64 = 65_536;

/// A cycle of turns and the place where the next pick stands in it.
pub struct RoundRobin {
    cycle: Indices,
    /// How many members were given.
    members: usize,
    /// How many of them have a weight.
    active: usize,
    /// Turns taken so far. All workers add to it; it orders nothing else, so relaxed will do.
    cursor: AtomicUsize,
}

impl RoundRobin {
    /// Works out the cycle, beginning at a random place (`start`, any number).
    ///
    /// Weights are divided by what they have in common. If their sum is still above 65,536 they are scaled
    /// down to it and rounded, and every weight above 0 keeps at least one turn; a share is then off by at
    /// most half a turn, and by up to one where it would have rounded to none.
    ///
    /// # Panics
    ///
    /// With 2^32 weights or more.
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

    /// The next member in turn that is accepted, or `None` when all with a weight are refused.
    ///
    /// A member with a partial share lets the rest of its turns pass, by luck; where nobody else accepts, it
    /// is asked all the same. No member is asked about twice. O(1) when the first is accepted; otherwise at
    /// most one cycle is walked, and less when every member has been asked.
    pub fn pick(&self, randomness: u64, candidates: &impl Candidates) -> Option<usize> {
        if self.active == 0 {
            return None;
        }
        let turn = self.cursor.fetch_add(1, Ordering::Relaxed);
        let first = self.member(turn);
        let takes = falls_to(first, candidates.share(first), randomness);
        if takes && candidates.accepts(first) {
            return Some(first);
        }
        let passed_over = if takes { Vec::new() } else { vec![first] };
        self.pick_later(turn, passed_over, randomness, candidates)
    }

    fn pick_later(
        &self,
        turn: usize,
        mut passed_over: Vec<usize>,
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
            if !falls_to(member, candidates.share(member), randomness) {
                passed_over.push(member);
            } else if candidates.accepts(member) {
                // The turns passed over are used up, unless other workers are further already.
                self.cursor.fetch_max(later.wrapping_add(1), Ordering::Relaxed);
                return Some(member);
            }
        }
        passed_over.into_iter().find(|&member| candidates.accepts(member))
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

/// The weights as numbers of turns in one cycle of bounded length.
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

/// A cycle with these turns in which a member follows itself only where it cannot be avoided.
///
/// Groups of equal weight are woven in one after the other, the lightest first. A member that follows itself
/// does so at most as often as it has turns, and any later group has more turns than that, so the next group can
/// part all of them: in the end only a member with more turns than all others together follows itself.
fn smooth_cycle(turns: &[u32]) -> Vec<u32> {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (member, &turns) in (0u32..).zip(turns) {
        groups.entry(turns).or_default().push(member);
    }
    groups.remove(&0);
    groups.iter().fold(Vec::new(), |cycle, (&turns, members)| weave(cycle, &members.repeat(turns as usize)))
}

/// Spreads `new` evenly over the gaps of `cycle`, beginning with the gaps between two turns of one member.
fn weave(cycle: Vec<u32>, new: &[u32]) -> Vec<u32> {
    if cycle.is_empty() {
        return new.to_vec();
    }
    let following = cycle.iter().cycle().skip(1);
    let is_repeat: Vec<bool> = cycle.iter().zip(following).map(|(member, next)| member == next).collect();
    // With a new turn for every gap, an even spread parts the repeats by itself.
    let reserved =
        if new.len() < cycle.len() { is_repeat.iter().filter(|&&repeat| repeat).count() } else { 0 };
    let (spread, gaps) = (new.len() - reserved, cycle.len() - reserved);

    let mut woven = Vec::with_capacity(cycle.len() + new.len());
    // Half a gap in hand rounds to the nearest gap; from 0, every group would come late and push others early.
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
