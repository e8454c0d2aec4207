//! Says in words what holds a connection up. Pure.

use std::time::Duration;

use crate::live::{ConnectionLeg, ConnectionLegs, ConnectionRow, OpenStage};
use crate::sys::tcp_details::TcpDetails;
use crate::telemetry::Direction;

/// The least time with bytes under way of which parts mean something.
const ENOUGH: Duration = Duration::from_millis(200);

/// The least part of that time, in percent, that is a finding.
const MOSTLY: u64 = 50;

/// The least part of the bytes that were sent again, in percent, and the least number of segments, that are a finding.
const LOSSY: f64 = 1.0;
const LOST: u32 = 3;

/// The time without an acknowledgement that is a finding, while bytes wait for one.
const SILENT: Duration = Duration::from_secs(3);

/// The time without a byte after which a connection is called idle.
const IDLE: Duration = Duration::from_secs(5);

/// Returns the verdict over a connection, the weightiest finding first. `pause` has the operator who has paused its pool.
pub(super) fn verdict(row: &ConnectionRow, legs: Option<&ConnectionLegs>, pause: Option<&str>) -> String {
    let Some(legs) = legs else { return before_relay(row, pause) };
    let mut findings: Vec<_> = [("client", &legs.client), ("backend", &legs.backend)]
        .iter()
        .flat_map(|(who, leg)| of_leg(who, leg))
        .collect();
    for (who, leg, other) in [("client", &legs.client, "backend"), ("backend", &legs.backend, "client")] {
        if leg.has_ended {
            findings.push(format!("the {who} has ended its direction; the {other} may still send"));
        }
    }
    if findings.is_empty() {
        let (sent, answered) =
            (row.figures.total(Direction::FromClient), row.figures.total(Direction::FromBackend));
        findings.push(match row.figures.idle {
            idle if idle >= IDLE && sent > 0 && answered == 0 => format!(
                "the backend has got {sent} bytes and has sent none for {} s: it hangs, it works, or it waits for more",
                idle.as_secs()
            ),
            idle if idle >= IDLE => {
                format!("no byte has moved for {} s, and no byte waits: neither side sends", idle.as_secs())
            }
            _ => "nothing holds the connection up".to_owned(),
        });
    }
    findings.join("; ")
}

/// Returns the verdict over a connection whose sockets are not known.
fn before_relay(row: &ConnectionRow, pause: Option<&str>) -> String {
    let name = |name: Option<&str>| name.map_or_else(String::new, |name| format!(" {name:?}"));
    let (pool, backend) = (row.card.pool.as_deref(), row.card.backend.as_deref());
    let seconds = row.figures.age.as_secs();
    match row.stage {
        OpenStage::Reading => {
            format!("the client has not sent its first bytes as a whole; it connected {seconds} s ago")
        }
        OpenStage::Queued if pause.is_some() => {
            let (name, by) = (name(pool), pause.unwrap_or_default());
            format!("the pool{name} is paused by an operator ({by}): the client waits; `pointsman resume` ends the pause")
        }
        OpenStage::Queued => format!("every backend of the pool{} is full: the client waits in its queue", name(pool)),
        OpenStage::Dialing if backend.is_some() => {
            format!("the backend{} is being connected; the client connected {seconds} s ago", name(backend))
        }
        OpenStage::Dialing => format!("no backend was picked yet; the client connected {seconds} s ago"),
        OpenStage::Refusing => "the client is being refused".to_owned(),
        OpenStage::Relaying => {
            "the sockets could not be read: the connection is ending, moves to another worker, or its worker did not answer in \
             time"
                .to_owned()
        }
    }
}

/// Returns the findings at the socket to a peer.
fn of_leg(who: &str, leg: &ConnectionLeg) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(tcp) = &leg.tcp {
        findings.extend(silence(who, tcp));
        findings.extend(shut(who, tcp, leg.is_blocked));
        findings.extend(full_buffer(who, tcp));
        findings.extend(losses(who, tcp));
    }
    if findings.is_empty() && leg.is_blocked {
        findings.push(format!("bytes wait for the {who}: it takes them more slowly than they come"));
    }
    findings
}

/// Returns the finding of a peer that acknowledges nothing.
fn silence(who: &str, tcp: &TcpDetails) -> Option<String> {
    let silent = tcp.last_ack_received.filter(|time| *time >= SILENT)?;
    let waits =
        tcp.unacked.is_some_and(|segments| segments > 0) && tcp.timeouts.is_some_and(|count| count > 0);
    waits.then(|| {
        format!(
            "the {who} has acknowledged nothing for {} s although bytes were sent: the path to it is broken, or it is gone",
            silent.as_secs()
        )
    })
}

/// Returns the finding of a peer that does not read.
fn shut(who: &str, tcp: &TcpDetails, is_blocked: bool) -> Option<String> {
    if let Some(percent) = part(tcp.rwnd_limited, tcp.busy) {
        return Some(format!("the {who} does not read: its window was shut {percent} % of the time"));
    }
    (is_blocked && tcp.window == Some(0))
        .then(|| format!("the {who} does not read: its window is shut, and bytes wait for it"))
}

/// Returns the finding of a send buffer that is too small.
fn full_buffer(who: &str, tcp: &TcpDetails) -> Option<String> {
    let percent = part(tcp.sndbuf_limited, tcp.busy)?;
    Some(format!(
        "the send buffer of this host held the {who} up {percent} % of the time: the limits of buffers are too low for the path"
    ))
}

/// Returns the finding of a path that loses packets.
fn losses(who: &str, tcp: &TcpDetails) -> Option<String> {
    let (again, sent) = (tcp.bytes_retransmitted? as f64, tcp.bytes_sent? as f64);
    let percent = if sent > 0.0 { 100.0 * again / sent } else { 0.0 };
    (percent >= LOSSY && tcp.retransmits.is_some_and(|segments| segments >= LOST))
        .then(|| format!("the path to the {who} loses packets: {percent:.1} % of the bytes were sent again"))
}

/// Returns the percentage of a part of the busy time, if it is most of that time and the time is long enough.
fn part(part: Option<Duration>, busy: Option<Duration>) -> Option<u64> {
    let busy = busy.filter(|busy| *busy >= ENOUGH)?;
    let percent = 100.0 * part?.as_secs_f64() / busy.as_secs_f64();
    // Both times are of one moment, and a part is never longer than the whole.
    let percent = percent.round().min(100.0) as u64;
    (percent >= MOSTLY).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{ConnectionCard, ConnectionFigures};

    fn row(stage: OpenStage, idle: u64) -> ConnectionRow {
        let seconds = Duration::from_secs;
        let figures = ConnectionFigures { age: seconds(60), idle: seconds(idle), ..Default::default() };
        let card = ConnectionCard { pool: Some("db".into()), ..ConnectionCard::default() };
        ConnectionRow { id: 7, client: None, listener: "l".into(), stage, card, figures }
    }

    fn millis(number: u64) -> Option<Duration> {
        Some(Duration::from_millis(number))
    }

    /// The figures of a socket on which all is well.
    fn quiet() -> TcpDetails {
        TcpDetails {
            retransmits: Some(0),
            timeouts: Some(0),
            unacked: Some(0),
            window: Some(65_535),
            bytes_sent: Some(1_000_000),
            bytes_retransmitted: Some(0),
            last_ack_received: millis(60_000),
            busy: millis(1000),
            rwnd_limited: millis(0),
            sndbuf_limited: millis(0),
            ..TcpDetails::default()
        }
    }

    fn legs(client: TcpDetails, backend: TcpDetails) -> ConnectionLegs {
        let leg = |tcp| ConnectionLeg { tcp: Some(tcp), ..ConnectionLeg::default() };
        ConnectionLegs { client: leg(client), backend: leg(backend) }
    }

    fn check(legs: &ConnectionLegs, expected: &str) {
        assert_eq!(verdict(&row(OpenStage::Relaying, 0), Some(legs), None), expected, "{legs:?}");
    }

    #[test]
    fn a_connection_without_a_finding_is_well_or_idle() {
        check(&legs(quiet(), quiet()), "nothing holds the connection up");
        check(&ConnectionLegs::default(), "nothing holds the connection up");
        let idle = verdict(&row(OpenStage::Relaying, 600), Some(&legs(quiet(), quiet())), None);
        assert_eq!(idle, "no byte has moved for 600 s, and no byte waits: neither side sends");
    }

    #[test]
    fn a_backend_that_sends_nothing_is_named() {
        let mut silent = row(OpenStage::Relaying, 14);
        silent.figures.bytes = [3, 0];
        let said = "the backend has got 3 bytes and has sent none for 14 s: it hangs, it works, or it waits for more";
        assert_eq!(verdict(&silent, Some(&legs(quiet(), quiet())), None), said);
    }

    #[test]
    fn a_client_of_a_paused_pool_waits_for_the_operator() {
        let said = "the pool \"db\" is paused by an operator (unix uid=0): the client waits; `pointsman resume` ends the pause";
        assert_eq!(verdict(&row(OpenStage::Queued, 1), None, Some("unix uid=0")), said);
    }

    #[test]
    fn a_side_that_does_not_read_is_named() {
        let shut = TcpDetails { rwnd_limited: millis(830), ..quiet() };
        check(&legs(shut.clone(), quiet()), "the client does not read: its window was shut 83 % of the time");
        check(
            &legs(quiet(), shut.clone()),
            "the backend does not read: its window was shut 83 % of the time",
        );
        let rarely = TcpDetails { rwnd_limited: millis(490), ..quiet() };
        check(&legs(rarely, quiet()), "nothing holds the connection up");
        let briefly = TcpDetails { busy: millis(199), rwnd_limited: millis(199), ..quiet() };
        check(&legs(briefly, quiet()), "nothing holds the connection up");
        let mut now = legs(TcpDetails { window: Some(0), ..quiet() }, quiet());
        check(&now, "nothing holds the connection up");
        now.client.is_blocked = true;
        check(&now, "the client does not read: its window is shut, and bytes wait for it");
        let mut slow = legs(quiet(), quiet());
        slow.backend.is_blocked = true;
        check(&slow, "bytes wait for the backend: it takes them more slowly than they come");
        // An older kernel does not report the times.
        let older = TcpDetails { busy: None, rwnd_limited: None, ..shut };
        check(&legs(older, quiet()), "nothing holds the connection up");
    }

    #[test]
    fn silence_losses_and_buffers_are_found() {
        let silent =
            TcpDetails { unacked: Some(3), timeouts: Some(2), last_ack_received: millis(12_400), ..quiet() };
        check(
            &legs(quiet(), silent.clone()),
            "the backend has acknowledged nothing for 12 s although bytes were sent: the path to it is broken, or it is gone",
        );
        let soon = TcpDetails { last_ack_received: millis(2999), ..silent };
        check(&legs(quiet(), soon), "nothing holds the connection up");
        let lossy = TcpDetails { retransmits: Some(20), bytes_retransmitted: Some(25_000), ..quiet() };
        check(
            &legs(lossy.clone(), quiet()),
            "the path to the client loses packets: 2.5 % of the bytes were sent again",
        );
        let one = TcpDetails { retransmits: Some(1), ..lossy };
        check(&legs(one, quiet()), "nothing holds the connection up");
        let full = TcpDetails { sndbuf_limited: millis(600), ..quiet() };
        check(
            &legs(full, quiet()),
            "the send buffer of this host held the client up 60 % of the time: the limits of buffers are too low for the path",
        );
    }

    #[test]
    fn findings_of_both_sides_are_joined() {
        let shut = TcpDetails { rwnd_limited: millis(1000), ..quiet() };
        let mut both = legs(shut.clone(), shut);
        both.client.has_ended = true;
        check(
            &both,
            "the client does not read: its window was shut 100 % of the time; the backend does not read: its window was \
             shut 100 % of the time; the client has ended its direction; the backend may still send",
        );
    }

    #[test]
    fn a_connection_without_a_relay_has_a_verdict_by_its_stage() {
        let check = |stage, backend: Option<&str>, part: &str| {
            let mut row = row(stage, 0);
            row.card.backend = backend.map(Into::into);
            let found = verdict(&row, None, None);
            assert!(found.contains(part), "{found}");
        };
        check(OpenStage::Reading, None, "has not sent its first bytes as a whole; it connected 60 s ago");
        check(OpenStage::Queued, None, "every backend of the pool \"db\" is full");
        check(OpenStage::Dialing, Some("b1"), "the backend \"b1\" is being connected");
        check(OpenStage::Dialing, None, "no backend was picked yet");
        check(OpenStage::Refusing, None, "the client is being refused");
        check(OpenStage::Relaying, Some("b1"), "the sockets could not be read");
    }
}
