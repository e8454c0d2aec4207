//! Reads the kernel's state of a TCP peer, and sets how the kernel probes an idle or a silent peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::libc;
use socket2::{SockRef, TcpKeepalive};

use super::socket::ignore_unix;

/// The settings by which the kernel probes the peer of an idle connection: tcp(7), SO_KEEPALIVE.
///
/// The kernel closes the connection one `interval` after the last of `count` probes in a row that got no answer. It
/// sends no such probe while bytes are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// The idle time before the first probe, in whole seconds: TCP_KEEPIDLE.
    pub idle: Duration,
    /// The time between two probes, in whole seconds: TCP_KEEPINTVL.
    pub interval: Duration,
    /// Probes without an answer that close the connection: TCP_KEEPCNT.
    pub count: u32,
}

impl Keepalive {
    /// The default number of probes.
    pub const COUNT: u32 = 4;

    /// Returns `COUNT` probes, the first after `idle`, at intervals of a quarter of `idle` but at least a second.
    pub fn after(idle: Duration) -> Self {
        Self { idle, interval: (idle / 4).max(Duration::from_secs(1)), count: Self::COUNT }
    }

    /// Returns the time after which an idle connection to a peer that is gone is closed.
    pub fn longest(&self) -> Duration {
        self.idle + self.interval * self.count
    }
}

/// Makes the kernel probe the peer of an idle connection. Has no effect on a Unix socket.
///
/// # Errors
///
/// Errors of `setsockopt`.
pub fn set_keepalive(fd: impl AsFd, keepalive: Keepalive) -> io::Result<()> {
    let least = Duration::from_secs(1);
    let options = TcpKeepalive::new()
        .with_time(keepalive.idle.max(least))
        .with_interval(keepalive.interval.max(least))
        .with_retries(keepalive.count);
    ignore_unix(SockRef::from(&fd.as_fd()).set_tcp_keepalive(&options))
}

/// The state of a peer that has bytes to acknowledge, from TCP_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Probes of a closed window since the peer's last acknowledgement.
    pub probes: u8,
    /// Retransmissions by timeout since the last byte that the peer acknowledged.
    pub retransmits: u8,
    /// The number of times that the kernel doubled the time between two retransmissions, or two probes.
    pub backoff: u8,
    /// The time until the next retransmission, with its backoff. The time between probes begins with this value.
    pub retransmit_timeout: Duration,
    /// Segments sent and not acknowledged; 0 while every byte waits for the window.
    pub unacknowledged: u32,
    /// The peer's window, in bytes. 0 on kernels before 5.4, which do not report it.
    pub window: u32,
    /// The time since the peer's last acknowledgement or data.
    pub silent: Duration,
}

/// The beginning of `struct tcp_info` of linux/tcp.h, as far as it is needed here.
#[repr(C)]
#[derive(Default)]
pub(super) struct TcpInfo {
    /// State, congestion state, retransmits, probes, backoff, options, window scales, flags.
    pub(super) bytes: [u8; 8],
    /// From `tcpi_rto` to `tcpi_total_retrans`.
    pub(super) words: [u32; 24],
    /// From `tcpi_pacing_rate` to `tcpi_rcv_ooopack`.
    pub(super) later: [u32; 31],
    pub(super) snd_wnd: u32,
}

impl TcpInfo {
    /// Reads the state of a socket. Returns it with the number of bytes that the kernel wrote; the other bytes are 0.
    /// Returns `None` for a Unix socket.
    pub(super) fn read(fd: BorrowedFd<'_>) -> io::Result<Option<(Self, usize)>> {
        let mut info = Self::default();
        match option(fd, libc::TCP_INFO, &mut info) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            result => result.map(|length| Some((info, length))),
        }
    }
}

/// Positions in [`TcpInfo::words`].
const RTO: usize = 0;
const UNACKED: usize = 4;
const LAST_DATA_SENT: usize = 9;
const LAST_DATA_RECV: usize = 11;
const LAST_ACK_RECV: usize = 12;

/// Reads the kernel's state of a TCP peer. Returns `None` for a Unix socket, whose peer is in the same kernel.
///
/// # Errors
///
/// Errors of `getsockopt`.
pub fn peer_state(fd: impl AsFd) -> io::Result<Option<PeerState>> {
    let Some((info, _)) = TcpInfo::read(fd.as_fd())? else { return Ok(None) };
    let [_, _, retransmits, probes, backoff, ..] = info.bytes;
    let silent = info.words[LAST_DATA_RECV].min(info.words[LAST_ACK_RECV]);
    Ok(Some(PeerState {
        probes,
        retransmits,
        backoff,
        retransmit_timeout: Duration::from_micros(info.words[RTO].into()),
        unacknowledged: info.words[UNACKED],
        window: info.snd_wnd,
        silent: Duration::from_millis(silent.into()),
    }))
}

/// Returns the time since the last byte of data was sent or received on a TCP socket. Returns `None` for a Unix socket,
/// and if the kernel does not answer.
pub fn quiet_time(fd: impl AsFd) -> Option<Duration> {
    let (info, _) = TcpInfo::read(fd.as_fd()).ok()??;
    let last = info.words[LAST_DATA_SENT].min(info.words[LAST_DATA_RECV]);
    Some(Duration::from_millis(last.into()))
}

/// From linux/tcp.h, since Linux 6.15: the longest time between two retransmissions or two probes of a closed
/// window, in milliseconds.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Returns the longest time between two retransmissions or two probes of a closed window.
///
/// # Errors
///
/// ENOPROTOOPT before Linux 6.15.
pub fn longest_retransmit_timeout(fd: impl AsFd) -> io::Result<Duration> {
    let mut milliseconds: libc::c_int = 0;
    option(fd.as_fd(), TCP_RTO_MAX_MS, &mut milliseconds)?;
    Ok(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
}

/// Bounds the time between two retransmissions or two probes of a closed window, from 1 s to 120 s. A timer that
/// runs already is not shortened.
///
/// # Errors
///
/// ENOPROTOOPT before Linux 6.15.
pub fn bound_retransmit_timeout(fd: impl AsFd, limit: Duration) -> io::Result<()> {
    let milliseconds = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    let size = libc::socklen_t::try_from(size_of_val(&milliseconds)).unwrap_or(4);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed and so open; the kernel reads `size` bytes, those of an int, through the
    // pointer, which is valid for the call.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, (&raw const milliseconds).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A type for which any bytes are a valid value.
trait PlainData {}
impl PlainData for TcpInfo {}
impl PlainData for libc::c_int {}

/// Reads a TCP option into `value`, and returns the number of bytes that the kernel wrote. The other bytes stay as they
/// are.
fn option<T: PlainData>(fd: BorrowedFd<'_>, name: libc::c_int, value: &mut T) -> io::Result<usize> {
    let mut size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let value: *mut T = value;
    // SAFETY: the descriptor is borrowed and so open; the kernel writes at most `size` bytes, those of the value,
    // and any bytes make a `PlainData` value; both pointers are valid for the call.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, name, value.cast(), &raw mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(size as usize) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::socket::unacknowledged;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_stalled_peer_has_a_closed_window_and_answers() {
        let (mut near, far) = pair();
        near.set_nonblocking(true).unwrap();
        let full = |near: &mut TcpStream| while near.write(&[7; 65536]).is_ok() {};
        full(&mut near);
        // The kernel probes the window for the first time when the peer's buffer is full.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let state = loop {
            full(&mut near);
            let state = peer_state(&near).unwrap().expect("TCP");
            if state.unacknowledged == 0 && state.backoff > 0 {
                break state;
            }
            assert!(std::time::Instant::now() < deadline, "{state:?}");
            std::thread::yield_now();
        };
        assert!(unacknowledged(&near).unwrap() > 0);
        assert!(state.probes <= 1, "{state:?}: each is answered at once");
        assert!(state.silent < Duration::from_secs(5), "{state:?}");
        assert!(state.retransmit_timeout >= Duration::from_millis(200), "{state:?}");
        drop(far);
    }

    #[test]
    fn the_window_of_a_fresh_peer_is_open() {
        let (near, _far) = pair();
        let state = peer_state(&near).unwrap().expect("TCP");
        assert_eq!((state.probes, state.retransmits, state.backoff, state.unacknowledged), (0, 0, 0, 0));
        assert!(state.window > 10_000, "{state:?}");
    }

    #[test]
    fn the_peer_of_a_unix_socket_has_no_state() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(peer_state(&near).unwrap(), None);
        set_keepalive(&near, Keepalive::after(Duration::from_secs(60))).expect("nothing to do");
        assert!(bound_retransmit_timeout(&near, Duration::from_secs(5)).is_err());
    }

    #[test]
    fn the_time_between_retransmissions_is_bounded_where_the_kernel_can() {
        let (near, _far) = pair();
        match longest_retransmit_timeout(&near) {
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}"),
            Ok(before) => {
                assert!(before > Duration::from_secs(1), "{before:?}");
                bound_retransmit_timeout(&near, Duration::from_secs(5)).unwrap();
                assert_eq!(longest_retransmit_timeout(&near).unwrap(), Duration::from_secs(5));
            }
        }
    }
}
