//! The pages about connections, as JSON.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::verdict::verdict;
use crate::admin::json;
use crate::live::requests::ConnectionDetails;
use crate::live::{ConnectionLeg, ConnectionRow};
use crate::server::ConnectionList;
use crate::sys::tcp_details::TcpDetails;
use crate::telemetry::Direction;

/// A list. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(in crate::admin) struct ListPage {
    /// All open connections.
    open: u64,
    /// The open connections that pass the filter.
    matched: u64,
    /// True if some of these have no row.
    cut: bool,
    /// The workers that did not answer in time. Their connections are missing.
    silent_workers: usize,
    connections: Vec<RowPage>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct RowPage {
    id: u64,
    /// `unix` for a client of a Unix socket.
    client: String,
    listener: String,
    /// `reading`, `queued`, `dialing`, `refusing` or `relaying`.
    stage: &'static str,
    pool: Option<String>,
    backend: Option<String>,
    sni: Option<String>,
    route: Option<String>,
    age_seconds: f64,
    idle_seconds: f64,
    from_client_bytes: u64,
    from_backend_bytes: u64,
    bytes_per_second: u64,
}

/// One connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(in crate::admin) struct DetailsPage {
    #[serde(flatten)]
    row: RowPage,
    verdict: String,
    /// Null until its backend is connected.
    legs: Option<LegsPage>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct LegsPage {
    client: LegPage,
    backend: LegPage,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct LegPage {
    /// Null for a Unix socket.
    local: Option<String>,
    peer: Option<String>,
    /// True if bytes for the peer wait because its socket takes no more.
    blocked: bool,
    /// True if the peer has ended its direction.
    ended: bool,
    /// Null for a Unix socket. A field that the kernel does not report is null.
    tcp: Option<TcpPage>,
    /// A command that shows the socket; null for a Unix socket.
    ss: Option<String>,
    /// A command that shows the packets; null for a Unix socket.
    tcpdump: Option<String>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct TcpPage {
    rtt_seconds: Option<f64>,
    rttvar_seconds: Option<f64>,
    min_rtt_seconds: Option<f64>,
    retransmits: Option<u32>,
    unacked_segments: Option<u32>,
    notsent_bytes: Option<u32>,
    cwnd_segments: Option<u32>,
    window_bytes: Option<u32>,
    delivery_bytes_per_second: Option<u64>,
    sent_bytes: Option<u64>,
    retransmitted_bytes: Option<u64>,
    last_data_sent_seconds: Option<f64>,
    last_data_received_seconds: Option<f64>,
    last_ack_received_seconds: Option<f64>,
    busy_seconds: Option<f64>,
    rwnd_limited_seconds: Option<f64>,
    sndbuf_limited_seconds: Option<f64>,
}

/// Returns the page of a list.
pub(in crate::admin) fn list_page(list: ConnectionList) -> String {
    let ConnectionList { page, silent_workers } = list;
    json::page(&ListPage {
        open: page.open,
        matched: page.matched,
        cut: page.matched > page.rows.len() as u64,
        silent_workers,
        connections: page.rows.into_iter().map(row).collect(),
    })
}

/// Returns the page of one connection. `pause` has the operator who has paused its pool.
pub(super) fn details(details: ConnectionDetails, pause: Option<&str>) -> String {
    let ConnectionDetails { row: described, legs } = details;
    let verdict = verdict(&described, legs.as_ref(), pause);
    let legs = legs.map(|legs| LegsPage { client: leg(legs.client), backend: leg(legs.backend) });
    json::page(&DetailsPage { row: row(described), verdict, legs })
}

/// Returns the text of a client's address.
pub(super) fn client(client: Option<SocketAddr>) -> String {
    client.map_or_else(|| "unix".to_owned(), |client| client.to_string())
}

fn row(row: ConnectionRow) -> RowPage {
    let ConnectionRow { id, client: address, listener, stage, card, figures } = row;
    let text = |name: Option<std::sync::Arc<str>>| name.map(|name| name.to_string());
    RowPage {
        id,
        client: client(address),
        listener: listener.to_string(),
        stage: stage.word(),
        pool: text(card.pool),
        backend: text(card.backend),
        sni: card.sni.map(String::from),
        route: text(card.route),
        age_seconds: seconds(figures.age),
        idle_seconds: seconds(figures.idle),
        from_client_bytes: figures.total(Direction::FromClient),
        from_backend_bytes: figures.total(Direction::FromBackend),
        bytes_per_second: figures.rate,
    }
}

fn leg(leg: ConnectionLeg) -> LegPage {
    let ConnectionLeg { local, peer, tcp: figures, is_blocked, has_ended } = leg;
    let ends = local.zip(peer);
    LegPage {
        local: local.map(|address| address.to_string()),
        peer: peer.map(|address| address.to_string()),
        blocked: is_blocked,
        ended: has_ended,
        tcp: figures.map(tcp),
        ss: ends.map(|(local, peer)| ss(local, peer)),
        tcpdump: ends.map(|(local, peer)| tcpdump(local, peer)),
    }
}

fn tcp(tcp: TcpDetails) -> TcpPage {
    TcpPage {
        rtt_seconds: tcp.rtt.map(seconds),
        rttvar_seconds: tcp.rttvar.map(seconds),
        min_rtt_seconds: tcp.min_rtt.map(seconds),
        retransmits: tcp.retransmits,
        unacked_segments: tcp.unacked,
        notsent_bytes: tcp.notsent,
        cwnd_segments: tcp.cwnd,
        window_bytes: tcp.window,
        delivery_bytes_per_second: tcp.delivery_rate,
        sent_bytes: tcp.bytes_sent,
        retransmitted_bytes: tcp.bytes_retransmitted,
        last_data_sent_seconds: tcp.last_data_sent.map(seconds),
        last_data_received_seconds: tcp.last_data_received.map(seconds),
        last_ack_received_seconds: tcp.last_ack_received.map(seconds),
        busy_seconds: tcp.busy.map(seconds),
        rwnd_limited_seconds: tcp.rwnd_limited.map(seconds),
        sndbuf_limited_seconds: tcp.sndbuf_limited.map(seconds),
    }
}

/// Returns the seconds of a time, to a microsecond.
fn seconds(time: Duration) -> f64 {
    // A whole number of microseconds below 2^53 is exact, and so the text of the quotient has at most six digits.
    time.as_micros() as f64 / 1e6
}

/// Returns the command that shows a socket. The scope of a link-local address is left out: ss has another form for it.
fn ss(local: SocketAddr, peer: SocketAddr) -> String {
    let text = |address: SocketAddr| SocketAddr::new(address.ip(), address.port()).to_string();
    format!("ss -tinmo 'src {} and dst {}'", text(local), text(peer))
}

/// Returns the command that shows the packets of a connection. On the wire an IPv4 address is never in its IPv6 form.
fn tcpdump(local: SocketAddr, peer: SocketAddr) -> String {
    let end =
        |address: SocketAddr| format!("host {} and port {}", address.ip().to_canonical(), address.port());
    format!("tcpdump -ni any 'tcp and {} and {}'", end(local), end(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_name_both_ends() {
        let check = |local: &str, peer: &str, expected: [&str; 2]| {
            let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
            assert_eq!([ss(local, peer), tcpdump(local, peer)], expected);
        };
        check(
            "192.0.2.1:443",
            "198.51.100.7:51234",
            [
                "ss -tinmo 'src 192.0.2.1:443 and dst 198.51.100.7:51234'",
                "tcpdump -ni any 'tcp and host 192.0.2.1 and port 443 and host 198.51.100.7 and port 51234'",
            ],
        );
        check(
            "[fe80::1%3]:1",
            "[::ffff:192.0.2.9]:2",
            [
                "ss -tinmo 'src [fe80::1]:1 and dst [::ffff:192.0.2.9]:2'",
                "tcpdump -ni any 'tcp and host fe80::1 and port 1 and host 192.0.2.9 and port 2'",
            ],
        );
    }

    #[test]
    fn seconds_have_at_most_six_digits() {
        let check = |micros, expected: &str| {
            assert_eq!(serde_json::to_string(&seconds(Duration::from_micros(micros))).unwrap(), expected);
        };
        check(0, "0.0");
        check(35, "0.000035");
        check(60_000_000, "60.0");
        check(86_400_000_001, "86400.000001");
    }
}
