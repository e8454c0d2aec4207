//! Sets the late socket options of a relay's backend, and detects a peer that is gone or stalled.
//!
//! The relay queries the kernel only about connections with unacknowledged bytes, at most every two seconds. It
//! does not query the kernel about other connections until bytes move on them again
//! ([`ConnectionEntry::look_again`]). The time between two of the kernel's probes of a peer is bounded only
//! while the peer acknowledges nothing. Before a socket is closed, the kernel's own bound is set again. The
//! kernel also uses this bound to give up the last bytes of a closed socket.

use std::time::{Duration, Instant};

use super::broken::BrokenSide;
use super::peer_watch::{PeerWatch, ProbeSettings, Progress, is_gone, probe_settings};
use super::{Relay, RelayOptions, Side};
use crate::executor::sleep;
use crate::live::{ConnectionEntry, PeerTimeouts, TICK};
use crate::sys::{Stream, socket, tcp};
use crate::telemetry::Direction;

/// Sweeps between two checks of unacknowledged bytes: 5 s while some bytes are acknowledged, 2 s while none
/// are.
pub(super) const MOVING: u8 = 10;
const STUCK: u8 = 4;

/// The state of both peers. A relay holds it only while a peer has bytes to acknowledge.
#[derive(Default)]
pub(super) struct PeerTrackers {
    client: PeerTracker,
    backend: PeerTracker,
    /// The time in which no byte has moved since one side finished, while bytes waited for a peer.
    silent: Duration,
}

/// The state of one peer.
#[derive(Default)]
struct PeerTracker {
    watch: PeerWatch,
    /// The kernel's own bound of the time between two probes, while a shorter bound is set.
    bounded: Option<BoundedProbes>,
}

struct BoundedProbes {
    kernel: Duration,
    probes: ProbeSettings,
}

/// The reason for which a check ends the connection.
pub(super) enum PeerFault {
    Gone(Side),
    Stalled(Side),
}

impl Relay {
    /// Sets the late options of the backend's socket. Short connections end before, so they do not pay for these calls.
    pub(super) fn set_late_options(&self) {
        let PeerTimeouts { keepalive, user_timeout, .. } = *self.settings.backend;
        let result = keepalive
            .map_or(Ok(()), |keepalive| tcp::set_keepalive(&self.backend, keepalive))
            .and_then(|()| {
                user_timeout.map_or(Ok(()), |limit| socket::set_user_timeout(&self.backend, limit))
            })
            .and_then(|()| socket::set_nodelay(&self.backend));
        if let Err(error) = result {
            tracing::debug!(%error, "socket options of a backend connection were not set");
        }
    }

    /// Checks both peers, and schedules the next check if bytes wait for a peer.
    pub(super) fn look_at_peers(&mut self, entry: &ConnectionEntry, now: Instant) -> Option<PeerFault> {
        let mut again = None;
        for side in Side::BOTH {
            match self.look_at(side, entry, now) {
                Progress::Drained => {}
                Progress::Moved => again = again.or(Some(MOVING)),
                Progress::Stuck(stuck) => {
                    again = Some(STUCK);
                    if let Some(fault) = self.check_stuck(side, stuck) {
                        return Some(fault);
                    }
                }
            }
        }
        match again {
            Some(sweeps) => entry.look_again(sweeps),
            None => self.peers = None,
        }
        None
    }

    /// Checks one side. If its peer acknowledged bytes, the time of silence starts again, as it does when
    /// bytes move.
    fn look_at(&mut self, side: Side, entry: &ConnectionEntry, now: Instant) -> Progress {
        let written = entry.total(match side {
            Side::Client => Direction::FromBackend,
            Side::Backend => Direction::FromClient,
        });
        // If the call fails, the socket is broken, and a read or a write reports that.
        let unacknowledged = socket::unacknowledged(self.stream(side)).unwrap_or(0);
        if unacknowledged == 0 && self.peers.is_none() {
            return Progress::Drained;
        }
        let (stream, peers) = self.stream_and_peers(side);
        let peer = peers.peer(side);
        let waited = peer.watch.is_waiting();
        let progress = peer.watch.look(now, written, unacknowledged);
        if !matches!(progress, Progress::Stuck(_)) {
            peer.unbound(stream);
            if waited {
                peers.silent = Duration::ZERO;
                entry.expire_after(self.silence_limit());
            }
        }
        progress
    }

    fn check_stuck(&mut self, side: Side, stuck: Duration) -> Option<PeerFault> {
        let timeouts = self.peer_timeouts(side);
        let (stream, peers) = self.stream_and_peers(side);
        peers.peer(side).check(stream, stuck, &timeouts).map(|verdict| match verdict {
            PeerVerdict::Gone => PeerFault::Gone(side),
            PeerVerdict::Stalled => PeerFault::Stalled(side),
        })
    }

    pub(super) fn peer_timeouts(&self, side: Side) -> PeerTimeouts {
        match side {
            Side::Client => self.settings.listener.client,
            Side::Backend => *self.settings.backend,
        }
    }

    /// Returns the time for which the connection may be silent in its present state.
    pub(super) fn silence_limit(&self) -> Duration {
        let RelayOptions { idle_timeout, half_closed_timeout, .. } = *self.settings.listener;
        if self.first.is_some() { half_closed_timeout } else { idle_timeout }
    }

    fn stream(&self, side: Side) -> &Stream {
        match side {
            Side::Client => &self.client,
            Side::Backend => &self.backend,
        }
    }

    fn stream_and_peers(&mut self, side: Side) -> (&Stream, &mut PeerTrackers) {
        let stream = match side {
            Side::Client => &self.client,
            Side::Backend => &self.backend,
        };
        (stream, self.peers.get_or_insert_default())
    }

    /// Returns true if the connection may go on although it was silent for its limit. Either the kernel still moves
    /// its last bytes, or one side has ended and the other side has not read everything yet.
    pub(super) fn outlives_silence(&mut self, entry: &ConnectionEntry, now: Instant) -> bool {
        let (mut moves, mut waits) = (false, self.from_client.is_blocked() || self.from_backend.is_blocked());
        for side in Side::BOTH {
            let waited = self.peers.as_mut().is_some_and(|peers| peers.peer(side).watch.is_waiting());
            let progress = self.look_at(side, entry, now);
            // If the limit is shorter than the time to the first check, this check is the first. The next check
            // shows whether the bytes that this check found move.
            let is_first = !waited && progress == Progress::Moved;
            if is_first {
                entry.expire_after(self.silence_limit());
            }
            moves |= is_first || (waited && !matches!(progress, Progress::Stuck(_)));
            waits |= progress != Progress::Drained;
        }
        if moves || !waits || self.first.is_none() {
            return moves;
        }
        let RelayOptions { idle_timeout, half_closed_timeout, .. } = *self.settings.listener;
        let silent = &mut self.peers.get_or_insert_default().silent;
        *silent += half_closed_timeout.max(TICK);
        let left = idle_timeout.saturating_sub(*silent);
        if !left.is_zero() {
            entry.expire_after(half_closed_timeout.min(left));
        }
        !left.is_zero()
    }

    /// Returns true if the last check found bytes that a peer has not acknowledged.
    pub(super) fn waits_for_peer(&self) -> bool {
        let waits = |peer: &PeerTracker| peer.watch.is_waiting();
        self.peers.as_ref().is_some_and(|peers| waits(&peers.client) || waits(&peers.backend))
    }

    /// Returns true if one side has finished and the connection was silent for the idle timeout, because
    /// bytes waited.
    pub(super) fn has_waited(&self) -> bool {
        let waited = self.peers.as_ref().map_or(Duration::ZERO, |peers| peers.silent);
        waited > self.settings.listener.half_closed_timeout
    }

    /// Marks a side as gone, so that its socket is reset when it is closed.
    pub(super) fn give_up(&self, side: Side) -> BrokenSide {
        let flow = match side {
            Side::Client => &self.from_client,
            Side::Backend => &self.from_backend,
        };
        // The peer gets a reset if it ever returns.
        let _ = socket::reset_on_close(self.stream(side));
        BrokenSide::gone(side, flow)
    }

    /// Restores the kernel's own bound of the time between two probes on both sockets.
    pub(super) fn unbound_peers(&mut self) {
        if let Some(mut peers) = self.peers.take() {
            peers.client.unbound(&self.client);
            peers.backend.unbound(&self.backend);
        }
    }
}

impl PeerTrackers {
    fn peer(&mut self, side: Side) -> &mut PeerTracker {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }
}

/// Waits until the peer that is to receive the last bytes is gone, or was stalled for too long.
///
/// # Cancel safety
///
/// Only the time that was waited is lost.
pub(super) async fn fails(stream: &Stream, timeouts: &PeerTimeouts) {
    let mut peer = PeerTracker::default();
    loop {
        sleep(TICK * STUCK.into()).await;
        let unacknowledged = socket::unacknowledged(stream).unwrap_or(0);
        if let Progress::Stuck(stuck) = peer.watch.look(Instant::now(), 0, unacknowledged)
            && peer.check(stream, stuck, timeouts).is_some()
        {
            return;
        }
    }
}

/// The reason for which the connection of a peer ends.
enum PeerVerdict {
    Gone,
    Stalled,
}

impl PeerTracker {
    /// Checks a peer that acknowledged nothing for `stuck`, and bounds the time between its probes.
    fn check(&mut self, stream: &Stream, stuck: Duration, timeouts: &PeerTimeouts) -> Option<PeerVerdict> {
        // With a user timeout the kernel decides.
        if timeouts.user_timeout.is_none()
            && let Ok(Some(state)) = tcp::peer_state(stream)
        {
            if is_gone(stuck, &state) {
                return Some(PeerVerdict::Gone);
            }
            match probe_settings(&state) {
                Some(probes) => self.bound(stream, probes),
                None => self.unbound(stream),
            }
        }
        timeouts.stall_timeout.is_some_and(|limit| stuck >= limit).then_some(PeerVerdict::Stalled)
    }

    /// Makes the kernel send probes to the peer at least as often as `probes` demands. Before Linux 6.15 this
    /// has no effect.
    fn bound(&mut self, stream: &Stream, probes: ProbeSettings) {
        let before = self.bounded.as_ref().map(|bounded| bounded.probes);
        if before == Some(probes) {
            return;
        }
        let kernel = match &self.bounded {
            Some(bounded) => Ok(bounded.kernel),
            None => tcp::longest_retransmit_timeout(stream),
        };
        let Ok(kernel) = kernel else { return };
        if before.and_then(|before| before.limit) != probes.limit {
            // 0 is off.
            let _ = socket::set_user_timeout(stream, probes.limit.unwrap_or_default());
        }
        if tcp::bound_retransmit_timeout(stream, probes.between.min(kernel)).is_ok() {
            self.bounded = Some(BoundedProbes { kernel, probes });
        }
    }

    fn unbound(&mut self, stream: &Stream) {
        if let Some(BoundedProbes { kernel, probes }) = self.bounded.take() {
            let _ = tcp::bound_retransmit_timeout(stream, kernel);
            if probes.limit.is_some() {
                let _ = socket::set_user_timeout(stream, Duration::ZERO);
            }
        }
    }
}
