//! A few places that a source may have, behind one lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::rate::Moment;
use super::{AdmissionRequest, SourceKey, SourceLimits, SourceRefusal, SourceReport};

/// Places of a set. With half as many sources as places, each with something open, one set in fifty has no
/// room; with a quarter, one in five thousand. More places would cost a look-up more.
pub(super) const WAYS: usize = 8;

/// What is known of one source at one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceEntry {
    source: SourceKey,
    /// 0 where the place is free.
    listener: u64,
    /// The past of its rate; without a rate, when it was last seen.
    past: u64,
    /// Until when it is over its rate.
    over_until: u64,
    pub(super) open: u32,
    pub(super) hellos: u32,
}

impl SourceEntry {
    const FREE: Self = Self { source: SourceKey(0), listener: 0, past: 0, over_until: 0, open: 0, hellos: 0 };

    pub(super) fn new(listener: u64, source: SourceKey) -> Self {
        Self { source, listener, ..Self::FREE }
    }

    pub(super) fn is_free(&self) -> bool {
        self.listener == 0
    }

    /// Counts a connection in, or not.
    pub(super) fn admit(
        &mut self,
        coming: &AdmissionRequest,
        limits: &SourceLimits,
    ) -> Result<(), SourceRefusal> {
        if limits.connections.is_some_and(|most| self.open >= most) {
            return Err(SourceRefusal::Connections);
        }
        if coming.is_read && limits.hellos.is_some_and(|most| self.hellos >= most) {
            return Err(SourceRefusal::Hellos);
        }
        let now = coming.now.nanos();
        (self.past, self.over_until) = match limits.rate {
            None => (now, 0),
            Some(rate) => {
                self.past = rate.known(self.past, coming.now);
                self.over_until = self.over_until.min(rate.open_from(self.past));
                let past = rate.admit(self.past, coming.now).ok_or(SourceRefusal::Rate)?;
                (past, rate.open_from(past))
            }
        };
        self.open += 1;
        self.hellos += u32::from(coming.is_read);
        Ok(())
    }

    /// Who makes room first: the smallest. Who has recovered is as one never seen; then comes who is furthest from
    /// its limit, and at last who is over its rate, the one that is let in again soonest.
    fn worth(&self, now: Moment) -> (u8, u64) {
        if self.past <= now.nanos() {
            (0, self.past)
        } else {
            (1 + u8::from(self.over_until > now.nanos()), self.over_until)
        }
    }

    pub(super) fn report(&self) -> SourceReport {
        let Self { source, listener, open, hellos, .. } = *self;
        SourceReport { ip: source.ip(), listener, open, hellos }
    }
}

/// The places. A lock because any worker may come; it is held for one look through them.
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
        // No entry is ever half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SetSlots {
    pub(super) fn find(&self, listener: u64, source: SourceKey) -> Option<usize> {
        self.0.iter().position(|entry| entry.source == source && entry.listener == listener)
    }

    /// The place that a new source gets.
    pub(super) fn room(&self, now: Moment) -> Option<usize> {
        if let Some(free) = self.0.iter().position(SourceEntry::is_free) {
            return Some(free);
        }
        let may_go = self.0.iter().enumerate().filter(|(_, entry)| entry.open == 0);
        may_go.min_by_key(|(_, entry)| entry.worth(now)).map(|(way, _)| way)
    }
}
