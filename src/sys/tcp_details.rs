//! The kernel's figures of a TCP socket, for an operator who looks at one connection.
//!
//! A field that the kernel does not report is `None`: each kernel writes as much of `struct tcp_info` as it knows.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::tcp::TcpInfo;

/// The figures of one TCP socket, from TCP_INFO. "Sent" is in the direction to the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpDetails {
    /// The smoothed round trip time.
    pub rtt: Option<Duration>,
    /// The variation of the round trip time.
    pub rttvar: Option<Duration>,
    /// The least round trip time.
    pub min_rtt: Option<Duration>,
    /// The segments that were sent again since the connection began.
    pub retransmits: Option<u32>,
    /// The retransmissions by timeout since the last byte that the peer acknowledged.
    pub timeouts: Option<u8>,
    /// The segments that the peer has not acknowledged.
    pub unacked: Option<u32>,
    /// The bytes that were written to the socket and never sent.
    pub notsent: Option<u32>,
    /// The congestion window in segments.
    pub cwnd: Option<u32>,
    /// The window of the peer in bytes; since Linux 5.4.
    pub window: Option<u32>,
    /// The rate at which the peer got bytes, in bytes a second.
    pub delivery_rate: Option<u64>,
    /// The bytes of data that were sent, with those that were sent again.
    pub bytes_sent: Option<u64>,
    /// The bytes of data that were sent again.
    pub bytes_retransmitted: Option<u64>,
    /// The time since the last data was sent.
    pub last_data_sent: Option<Duration>,
    /// The time since the last data was received.
    pub last_data_received: Option<Duration>,
    /// The time since the last acknowledgement was received.
    pub last_ack_received: Option<Duration>,
    /// The time for which bytes waited to be sent or acknowledged.
    pub busy: Option<Duration>,
    /// The part of `busy` for which the window of the peer allowed no more bytes.
    pub rwnd_limited: Option<Duration>,
    /// The part of `busy` for which the send buffer of this host was full.
    pub sndbuf_limited: Option<Duration>,
}

/// Positions in `TcpInfo::bytes`.
const TIMEOUTS: usize = 2;

/// Positions in `TcpInfo::words`.
const UNACKED: usize = 4;
const LAST_DATA_SENT: usize = 9;
const LAST_DATA_RECEIVED: usize = 11;
const LAST_ACK_RECEIVED: usize = 12;
const RTT: usize = 15;
const RTTVAR: usize = 16;
const CWND: usize = 18;
const TOTAL_RETRANSMITS: usize = 23;

/// Positions in `TcpInfo::later`. The value of 64 bits has two.
const NOTSENT: usize = 10;
const MIN_RTT: usize = 11;
const DELIVERY_RATE: usize = 14;
const BUSY: usize = 16;
const RWND_LIMITED: usize = 18;
const SNDBUF_LIMITED: usize = 20;
const BYTES_SENT: usize = 24;
const BYTES_RETRANSMITTED: usize = 26;
const WINDOW: usize = 31;

/// Reads the figures of a TCP socket. Returns `None` for a Unix socket.
///
/// # Errors
///
/// Errors of `getsockopt`.
pub fn tcp_details(fd: impl AsFd) -> io::Result<Option<TcpDetails>> {
    Ok(TcpInfo::read(fd.as_fd())?.map(|(info, length)| details(&info, length)))
}

/// Returns the figures in the first `length` bytes.
fn details(info: &TcpInfo, length: usize) -> TcpDetails {
    let word = |index: usize| (length >= 8 + 4 * (index + 1)).then(|| info.words[index]);
    let later = |index: usize, words: usize| length >= 8 + 4 * (info.words.len() + index + words);
    let word_32 = |index: usize| later(index, 1).then(|| info.later[index]);
    let word_64 = |index: usize| {
        later(index, 2).then(|| {
            let [low, high] = [info.later[index], info.later[index + 1]].map(u32::to_ne_bytes);
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&low);
            bytes[4..].copy_from_slice(&high);
            u64::from_ne_bytes(bytes)
        })
    };
    let micros = |time: u32| Duration::from_micros(time.into());
    let millis = |time: u32| Duration::from_millis(time.into());
    TcpDetails {
        rtt: word(RTT).map(micros),
        rttvar: word(RTTVAR).map(micros),
        // The kernel writes the largest number before it has measured one.
        min_rtt: word_32(MIN_RTT).filter(|time| *time != u32::MAX).map(micros),
        retransmits: word(TOTAL_RETRANSMITS),
        timeouts: (length >= 8).then_some(info.bytes[TIMEOUTS]),
        unacked: word(UNACKED),
        notsent: word_32(NOTSENT),
        cwnd: word(CWND),
        window: later(WINDOW, 1).then_some(info.snd_wnd),
        delivery_rate: word_64(DELIVERY_RATE),
        bytes_sent: word_64(BYTES_SENT),
        bytes_retransmitted: word_64(BYTES_RETRANSMITTED),
        last_data_sent: word(LAST_DATA_SENT).map(millis),
        last_data_received: word(LAST_DATA_RECEIVED).map(millis),
        last_ack_received: word(LAST_ACK_RECEIVED).map(millis),
        busy: word_64(BUSY).map(Duration::from_micros),
        rwnd_limited: word_64(RWND_LIMITED).map(Duration::from_micros),
        sndbuf_limited: word_64(SNDBUF_LIMITED).map(Duration::from_micros),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_field_beyond_the_length_is_missing() {
        let info = TcpInfo { words: [7; 24], later: [0x0101_0101; 31], snd_wnd: 5, ..TcpInfo::default() };
        let all = details(&info, size_of::<TcpInfo>());
        assert_eq!((all.cwnd, all.window, all.rtt), (Some(7), Some(5), Some(Duration::from_micros(7))));
        assert_eq!(all.delivery_rate, Some(0x0101_0101_0101_0101));
        // Linux 4.9 ends behind the delivery rate, and Linux 4.18 before the bytes sent.
        let older = details(&info, 168);
        assert_eq!((older.delivery_rate.is_some(), older.busy, older.window), (true, None, None));
        let half = details(&info, 164);
        assert_eq!((half.delivery_rate, half.notsent), (None, Some(0x0101_0101)));
        assert_eq!(details(&info, 0), TcpDetails::default());
        let unmeasured = TcpInfo { later: [u32::MAX; 31], ..TcpInfo::default() };
        assert_eq!(details(&unmeasured, size_of::<TcpInfo>()).min_rtt, None);
    }

    #[test]
    fn a_connection_that_has_sent_bytes_has_figures() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"twelve bytes").unwrap();
        far.read_exact(&mut [0; 12]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let found = loop {
            let found = tcp_details(&near).unwrap().expect("TCP");
            if found.unacked == Some(0) {
                break found;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            std::thread::yield_now();
        };
        assert!(found.rtt.is_some_and(|rtt| rtt > Duration::ZERO), "{found:?}");
        assert_eq!((found.bytes_sent, found.notsent, found.retransmits), (Some(12), Some(0), Some(0)));
        assert!(found.cwnd.is_some_and(|cwnd| cwnd > 0) && found.window.is_some_and(|window| window > 0));
        assert!(found.busy.is_some() && found.rwnd_limited == Some(Duration::ZERO), "{found:?}");
    }

    #[test]
    fn a_unix_socket_has_none() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(tcp_details(&near).unwrap(), None);
    }
}
