//! The slots that a source may have, behind one lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::rate::Moment;
use super::{AdmissionRequest, SourceKey, SourceLimits, SourceRate, SourceRefusal, SourceReport};
use crate::ids::ListenerId;

/// The slots of a set. If half of all slots have open connections, one set in fifty is full. If a quarter of all slots
/// have open connections, one set in five thousand is full. More slots would make each look-up cost more.
pub(super) const WAYS: usize = 8;

/// The counts of one source at one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceEntry {
    source: SourceKey,
    /// `None` if the slot is free.
    listener: Option<ListenerId>,
    /// The theoretical arrival time of its rate; without a rate, the time of its last connection.
    arrival: u64,
    /// The moment until which it is over its rate.
    over_until: u64,
    pub(super) open: u32,
    pub(super) hellos: u32,
}

impl SourceEntry {
    const FREE: Self =
        Self { source: SourceKey(0), listener: None, arrival: 0, over_until: 0, open: 0, hellos: 0 };

    pub(super) fn new(listener: ListenerId, source: SourceKey) -> Self {
        Self { source, listener: Some(listener), ..Self::FREE }
    }

    pub(super) fn is_free(&self) -> bool {
        self.listener.is_none()
    }

    /// Counts a connection if the source is within its limits.
    pub(super) fn admit(
        &mut self,
        request: &AdmissionRequest,
        limits: &SourceLimits,
    ) -> Result<(), SourceRefusal> {
        if limits.connections.is_some_and(|most| self.open >= most) {
            return Err(SourceRefusal::Connections);
        }
        if request.is_read && limits.hellos.is_some_and(|most| self.hellos >= most) {
            return Err(SourceRefusal::Hellos);
        }
        let now = request.now.nanos();
        (self.arrival, self.over_until) = match limits.rate {
            None => (now, 0),
            Some(rate) => {
                self.arrival = rate.clamp(self.arrival, request.now);
                self.over_until = self.over_until.min(rate.open_from(self.arrival));
                let arrival = rate.admit(self.arrival, request.now).ok_or(SourceRefusal::Rate)?;
                (arrival, rate.open_from(arrival))
            }
        };
        self.open += 1;
        self.hellos += u32::from(request.is_read);
        Ok(())
    }

    /// Counts a connection without a look at the limits. Its rate does not change.
    pub(super) fn admit_past_limits(&mut self, request: &AdmissionRequest) {
        self.open += 1;
        self.hellos += u32::from(request.is_read);
    }

    /// Returns the source, or `None` if the slot is free.
    pub(super) fn source(&self) -> Option<SourceKey> {
        self.listener.map(|_| self.source)
    }

    /// Returns the rank for eviction; the smallest is evicted first. Sources whose rate has recovered have the
    /// lowest ranks, then comes the source furthest below its limit. Sources over their rate have the highest
    /// ranks, in the order in which they are admitted again.
    pub(super) fn eviction_rank(&self, now: Moment) -> (u8, u64) {
        if self.arrival <= now.nanos() {
            (0, self.arrival)
        } else {
            (1 + u8::from(self.over_until > now.nanos()), self.over_until)
        }
    }

    /// Returns its rate, if the rate has not recovered.
    pub(super) fn rate(&self, now: Moment) -> Option<SourceRate> {
        let Self { source, listener, arrival, over_until, .. } = *self;
        let recovers_in = arrival.saturating_sub(now.nanos());
        let over_for = over_until.saturating_sub(now.nanos());
        (recovers_in > 0).then_some(SourceRate { listener: listener?, source, recovers_in, over_for })
    }

    /// Returns the entry of a source without connections, with the rate that another process had.
    pub(super) fn restored(rate: &SourceRate, now: Moment) -> Self {
        let arrival = now.nanos().saturating_add(rate.recovers_in);
        let over_until = match rate.over_for {
            0 => 0,
            over_for => now.nanos().saturating_add(over_for).min(arrival),
        };
        Self { arrival, over_until, ..Self::new(rate.listener, rate.source) }
    }

    /// Takes over a rate that recovers later.
    pub(super) fn restore(&mut self, other: &Self) {
        self.arrival = self.arrival.max(other.arrival);
        self.over_until = self.over_until.max(other.over_until);
    }

    /// Returns its counts, or `None` if the slot is free.
    pub(super) fn report(&self) -> Option<SourceReport> {
        let Self { source, listener, open, hellos, .. } = *self;
        Some(SourceReport { ip: source.ip(), listener: listener?, open, hellos })
    }
}

/// The slots. Any worker may use them, so they have a lock, which is held for one pass over them.
#[repr(align(64))]
pub(super) struct SourceSet(Mutex<SetSlots>);

pub(super) struct SetSlots(pub(super) [SourceEntry; WAYS]);

impl Default for SourceSet {
    fn default() -> Self {
        Self(Mutex::new(SetSlots([SourceEntry::FREE; WAYS])))
    }
}

impl SourceSet {
    pub(super) fn lock(&self) -> MutexGuard<'_, SetSlots> {
        // Code under the lock leaves no entry half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SetSlots {
    pub(super) fn find(&self, listener: ListenerId, source: SourceKey) -> Option<usize> {
        self.0.iter().position(|entry| entry.source == source && entry.listener == Some(listener))
    }

    /// Returns the slot for a new source.
    pub(super) fn slot_for_new(&self, now: Moment) -> Option<usize> {
        if let Some(free) = self.0.iter().position(SourceEntry::is_free) {
            return Some(free);
        }
        let evictable = self.0.iter().enumerate().filter(|(_, entry)| entry.open == 0);
        evictable.min_by_key(|(_, entry)| entry.eviction_rank(now)).map(|(way, _)| way)
    }
}
