//! Decides whether a peer that has bytes to acknowledge is alive, stalled or gone.
//!
//! Pure: the relay reads the clock and queries the kernel. A peer is watched only while bytes for it, sent or
//! still in the kernel, are not acknowledged. Silence alone proves nothing: a stalled peer answers, but the
//! kernel probes it ever more rarely. So a peer is gone only if it was silent for [`GONE_AFTER`] and several
//! probes in a row got no answer. A probe is here any packet that the kernel sends and the peer must answer: a
//! retransmission, or a probe of a closed window.

use std::time::{Duration, Instant};

use crate::sys::tcp::PeerState;

/// A peer that answers nothing for this time is gone, if the kernel sent it probes.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(60);

/// The least number of probes in a row without an answer after which a peer is gone.
const UNANSWERED: u8 = 3;

/// The longest time between two probes of a silent peer, so that [`GONE_AFTER`] has 12 probes. If a path loses
/// 30 % of its packets in each direction, all 12 are unanswered once in 3,000 times.
const BETWEEN_PROBES: Duration = Duration::from_secs(5);

/// The time for which the kernel retransmits data by default: tcp_retries2 of 15.
const KERNEL_RETRANSMITS_FOR: Duration = Duration::from_secs(924);

/// The change of the bytes for a peer since the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Every byte is acknowledged.
    Drained,
    /// Bytes wait. Some were acknowledged, or this is the first check of them.
    Moved,
    /// Bytes wait, and none was acknowledged for this time.
    Stuck(Duration),
}

/// The bytes for one peer at the last check.
#[derive(Debug, Default)]
pub(super) struct PeerWatch {
    waiting: Option<UnacknowledgedBytes>,
}

#[derive(Debug)]
struct UnacknowledgedBytes {
    /// The time of the last check that found an acknowledgement, or of the first check.
    since: Instant,
    /// Bytes acknowledged, counted from the start of the relay; below 0 if bytes were sent before it.
    acknowledged: i64,
    unacknowledged: usize,
}

impl PeerWatch {
    /// Checks the bytes for the peer. `written` is the number of bytes ever written for it; the kernel still
    /// holds `unacknowledged` of them.
    pub(super) fn look(&mut self, now: Instant, written: u64, unacknowledged: usize) -> Progress {
        if unacknowledged == 0 {
            self.waiting = None;
            return Progress::Drained;
        }
        let acknowledged = signed(written).wrapping_sub(signed(unacknowledged as u64));
        let Some(before) = &mut self.waiting else {
            self.waiting = Some(UnacknowledgedBytes { since: now, acknowledged, unacknowledged });
            return Progress::Moved;
        };
        // A Unix socket counts the memory of its bytes, so a write can look like fewer acknowledged bytes.
        let moved = acknowledged > before.acknowledged || unacknowledged < before.unacknowledged;
        before.unacknowledged = unacknowledged;
        if moved {
            before.acknowledged = acknowledged;
            before.since = now;
            return Progress::Moved;
        }
        Progress::Stuck(now.saturating_duration_since(before.since))
    }

    /// Returns true if the last check found unacknowledged bytes.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Returns true if a peer that acknowledged nothing for `stuck` is gone.
pub(super) fn is_gone(stuck: Duration, peer: &PeerState) -> bool {
    // The kernel's time of silence also grows while the connection is idle and the kernel sends no probes.
    let silent = peer.silent.min(stuck);
    if silent < GONE_AFTER {
        return false;
    }
    if peer.unacknowledged == 0 {
        return peer.probes >= UNANSWERED;
    }
    if peer.window > 0 {
        return peer.retransmits >= UNANSWERED;
    }
    // The kernel counts neither retransmissions into a closed window nor their answers.
    peer.backoff > 0 && silent >= peer.retransmit_timeout * u32::from(UNANSWERED)
}

/// The settings for the kernel's probes of a peer that acknowledges nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProbeSettings {
    /// The longest time between two probes.
    pub(super) between: Duration,
    /// The longest time for which the kernel sends probes; `None` leaves this time to the kernel.
    pub(super) limit: Option<Duration>,
}

/// Returns the settings for the probes of a peer in this state; `None` leaves the probes to the kernel.
///
/// The kernel retransmits data a fixed number of times (tcp_retries2). With a short time between two
/// retransmissions, the kernel would soon reach this number. It would then close the connection of a peer that
/// answers but has no room in its buffer. For this case the socket gets the kernel's default time as its limit.
/// Probes of a closed window get no such limit: with a limit, the kernel counts their answers as silence.
///
/// If a peer closed its window over bytes already sent, the kernel's own times stay. The kernel closes such a
/// connection if the peer is silent for twice the longest time between two probes. With a short time, two lost
/// packets would close the connection.
pub(super) fn probe_settings(peer: &PeerState) -> Option<ProbeSettings> {
    let is_probed = peer.unacknowledged == 0;
    (is_probed || peer.window > 0).then_some(ProbeSettings {
        between: BETWEEN_PROBES,
        limit: (!is_probed).then_some(KERNEL_RETRANSMITS_FOR),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_wait_until_they_are_acknowledged() {
        use Progress::{Drained, Moved, Stuck};
        let mut watch = PeerWatch::default();
        let began = Instant::now();
        // Seconds, bytes written, bytes unacknowledged.
        let looks = [
            (0, 0, 0, Drained),
            (5, 100, 0, Drained),
            (10, 200, 100, Moved),
            (12, 200, 100, Stuck(2 * SECOND)),
            (14, 200, 100, Stuck(4 * SECOND)),
            // More is written and nothing acknowledged.
            (16, 300, 200, Stuck(6 * SECOND)),
            (18, 300, 199, Moved),
            (20, 300, 199, Stuck(2 * SECOND)),
            // As much is written as is acknowledged.
            (22, 400, 199, Moved),
            (24, 400, 0, Drained),
            (99, 500, 100, Moved),
            (100, 500, 100, Stuck(SECOND)),
        ];
        for (at, written, unacknowledged, expected) in looks {
            let progress = watch.look(began + at * SECOND, written, unacknowledged);
            assert_eq!(progress, expected, "at {at}");
            assert_eq!(watch.is_waiting(), expected != Drained, "at {at}");
        }
    }

    #[test]
    fn bytes_from_before_the_relay_count() {
        let mut watch = PeerWatch::default();
        let now = Instant::now();
        assert_eq!(watch.look(now, 0, 500), Progress::Moved);
        assert_eq!(watch.look(now + SECOND, 0, 500), Progress::Stuck(SECOND));
        assert_eq!(watch.look(now + SECOND, 0, 300), Progress::Moved);
        // A FIN takes a byte of its own.
        assert_eq!(watch.look(now + 2 * SECOND, 0, 301), Progress::Stuck(SECOND));
        assert_eq!(watch.look(now + 3 * SECOND, 0, 300), Progress::Moved);
    }

    #[test]
    fn a_unix_socket_that_is_read_makes_progress() {
        let mut watch = PeerWatch::default();
        let now = Instant::now();
        assert_eq!(watch.look(now, 1, 768), Progress::Moved);
        assert_eq!(watch.look(now, 2, 1536), Progress::Stuck(Duration::ZERO));
        assert_eq!(watch.look(now, 2, 768), Progress::Moved);
    }

    /// A peer with this many probes, retransmissions, doublings and unacknowledged segments.
    fn peer(probes: u8, retransmits: u8, backoff: u8, unacknowledged: u32) -> PeerState {
        PeerState {
            probes,
            retransmits,
            backoff,
            unacknowledged,
            retransmit_timeout: 5 * SECOND,
            window: 1000,
            silent: 61 * SECOND,
        }
    }

    #[test]
    fn a_peer_is_gone_only_if_it_was_asked_and_did_not_answer() {
        let check = |what: &str, stuck: u32, peer: PeerState, expected: bool| {
            assert_eq!(is_gone(stuck * SECOND, &peer), expected, "{what}");
        };
        let closed = |peer: PeerState| PeerState { window: 0, ..peer };
        let silent = |seconds: u32, peer: PeerState| PeerState { silent: seconds * SECOND, ..peer };

        check("data under way, cable pulled", 61, peer(0, 12, 12, 1), true);
        check("not yet a minute", 59, peer(0, 12, 12, 1), false);
        check(
            "a request behind an idle hour, first retransmission",
            1,
            silent(3600, peer(0, 1, 1, 1)),
            false,
        );
        check("the same, a minute later", 61, silent(3661, peer(0, 9, 9, 1)), true);
        check("it answers, out of order", 300, silent(4, peer(0, 12, 12, 1)), false);
        check("it sends data", 300, silent(0, peer(0, 12, 12, 1)), false);
        check("the clock jumped, nobody asked", 61, peer(0, 0, 0, 1), false);
        check("one retransmission was lost", 61, peer(0, 1, 1, 1), false);

        check("a closed window, probes are answered", 300, silent(5, closed(peer(0, 0, 10, 0))), false);
        check("the same, probed every two minutes", 300, silent(119, closed(peer(0, 0, 10, 0))), false);
        check("one of these probes was lost", 300, silent(125, closed(peer(1, 0, 11, 0))), false);
        check("vanished behind the closed window", 300, silent(61, closed(peer(12, 0, 15, 0))), true);
        check("the same, probed every two minutes", 600, silent(361, closed(peer(3, 0, 15, 0))), true);
        check("a window too small for the next segment", 300, silent(61, peer(11, 0, 15, 0)), true);

        let retransmitted = |seconds: u32, timeout: u32| {
            let peer = closed(silent(seconds, peer(0, 2, 9, 3)));
            PeerState { retransmit_timeout: timeout * SECOND, ..peer }
        };
        check("closed over sent bytes, answers", 300, retransmitted(29, 30), false);
        check("the same, one was lost", 300, retransmitted(61, 30), false);
        check("the same, three were lost", 300, retransmitted(90, 30), true);
        check("the same, asked every two minutes", 600, retransmitted(239, 120), false);
        let never = PeerState { backoff: 0, ..retransmitted(300, 1) };
        check("the same, not asked yet", 300, never, false);
    }

    #[test]
    fn the_kernel_asks_a_silent_peer_often_enough() {
        let most = (GONE_AFTER.as_secs() / BETWEEN_PROBES.as_secs()) as u8;
        assert!(most > 2 * UNANSWERED);
        let closed = |peer: PeerState| PeerState { window: 0, ..peer };
        let probes = Some(ProbeSettings { between: BETWEEN_PROBES, limit: None });
        assert_eq!(probe_settings(&peer(0, 0, 3, 0)), probes);
        assert_eq!(probe_settings(&closed(peer(0, 0, 3, 0))), probes);
        let retransmissions =
            Some(ProbeSettings { between: BETWEEN_PROBES, limit: Some(KERNEL_RETRANSMITS_FOR) });
        assert_eq!(probe_settings(&peer(0, 3, 3, 1)), retransmissions);
        assert_eq!(probe_settings(&closed(peer(0, 3, 3, 1))), None, "two lost packets would close it");
    }
}
