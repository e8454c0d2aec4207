//! Sockets before and outside the reactor of a worker: connect, first bytes, options.
//!
//! A new connection often ends within a few system calls. So the first read after accept and the first write after
//! connect work on a bare descriptor, before it is registered with epoll.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::sys::socket::{MsgFlags, setsockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::{Address, descriptors, retry, unix_connect};

/// The side that sends the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSpeaker {
    /// We have bytes to send at once. The last packet of the handshake carries them, instead of going alone.
    Ours,
    /// The peer may send first, so the handshake must not wait for our bytes.
    Unknown,
}

/// The source address of a connection, as the peer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectSource {
    /// The kernel's choice.
    #[default]
    Any,
    /// An address of this host, for peers of its family. For other peers the kernel chooses.
    Own(IpAddr),
    /// An address of another host, whose packets are routed to this host; see [`may_be_transparent`].
    Foreign(IpAddr),
}

/// The bytes that the kernel may hold of a TCP connection. Unix sockets are not affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelBuffers {
    /// The limit of bytes that the kernel has accepted for the peer and not yet sent. `None` leaves it to the
    /// system's `net.ipv4.tcp_notsent_lowat`.
    pub max_unsent: Option<u32>,
    /// The limit of bytes that have arrived and are not yet read; the system's `net.core.rmem_max` caps it. `None`
    /// leaves it to the kernel, which adapts it up to the last value of `net.ipv4.tcp_rmem`. The kernel may use as
    /// much again for its own records: socket(7), SO_RCVBUF.
    pub max_unread: Option<u32>,
}

impl KernelBuffers {
    /// Sets both limits on a socket, also on one that had other limits.
    ///
    /// # Errors
    ///
    /// Errors of `setsockopt`.
    pub(super) fn set(self, socket: &Socket) -> io::Result<()> {
        // 0 is the value of a new socket, and means the system's setting.
        socket.set_tcp_notsent_lowat(self.max_unsent.unwrap_or(0))?;
        match self.max_unread {
            Some(bytes) => socket.set_recv_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX)),
            None => adapt_receive_buffer(socket),
        }
    }

    /// Sets both limits on a socket on which none was set before.
    fn set_first(self, socket: &Socket) -> io::Result<()> {
        if self == Self::default() { Ok(()) } else { self.set(socket) }
    }
}

/// The options of a connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The source address.
    pub source: ConnectSource,
    /// The limits of the kernel's buffers.
    pub buffers: KernelBuffers,
}

/// Checks that this process may open connections from addresses of other hosts.
///
/// # Errors
///
/// `PermissionDenied` without CAP_NET_ADMIN or CAP_NET_RAW.
pub fn may_be_transparent() -> io::Result<()> {
    let socket = Socket::new_raw(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_ip_transparent_v4(true)
}

/// Checks that connections can come from an address of this host.
///
/// # Errors
///
/// `AddrNotAvailable` when this host does not have the address.
pub fn may_come_from(ip: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(ip, 0);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.bind(&address.into())
}

/// The source of a connection is not, or is no longer, an address of this host. The kind of this error is
/// `AddrNotAvailable`, and a connect that finds no free port has the same kind.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an address of this host")]
struct SourceMissing(IpAddr);

/// Returns true if a connect failed because its source is not an address of this host.
pub fn is_source_missing(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SourceMissing>())
}

/// Binds a socket that is about to connect to `target`. The kernel chooses the port at the connect, so it can take
/// one that is in use towards other targets.
fn bind_source(socket: &Socket, source: ConnectSource, target: SocketAddr) -> io::Result<()> {
    let (ConnectSource::Own(ip) | ConnectSource::Foreign(ip)) = source else { return Ok(()) };
    let ip = ip.to_canonical();
    let is_foreign = matches!(source, ConnectSource::Foreign(_));
    if ip.is_ipv4() != target.is_ipv4() {
        return if is_foreign { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) };
    }
    if is_foreign {
        match ip {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    // The bind takes no port, so it cannot fail for lack of one.
    socket.bind(&SocketAddr::new(ip, 0).into()).map_err(|error| match error.kind() {
        kind @ io::ErrorKind::AddrNotAvailable if !is_foreign => io::Error::new(kind, SourceMissing(ip)),
        _ => error,
    })
}

/// Starts to connect, and does not wait for the peer.
///
/// On loopback and on a near network the socket can often be written at once. A connect to a Unix socket runs on
/// another thread (`unix_connect`), because its file system may not answer.
///
/// # Errors
///
/// Errors that `socket`, `setsockopt`, `bind` or `connect` return at once: out of descriptors, no route, no free
/// port; `Unsupported` for a foreign source of another family. [`is_busy`] detects a Unix socket with a full accept
/// queue. A refusal usually comes later, from the first write or from
/// [`Stream::connected`](super::Stream::connected).
///
/// # Cancel safety
///
/// If it is dropped half-way, the attempt ends and its socket is closed.
pub async fn start_connect(
    address: &Address,
    options: ConnectOptions,
    first: FirstSpeaker,
) -> io::Result<OwnedFd> {
    descriptors::check_room(1)?;
    let socket = begin_connect(address, options, first).await?;
    descriptors::note(&socket);
    Ok(socket)
}

/// Starts a connect as [`start_connect`] does, for purposes other than a client. It may use the descriptors that are
/// kept from clients.
pub(super) async fn begin_connect(
    address: &Address,
    options: ConnectOptions,
    first: FirstSpeaker,
) -> io::Result<OwnedFd> {
    match (address.to_socket()?, address) {
        (Some(tcp), _) => begin_tcp(tcp, options, first),
        (None, Address::Unix(path)) => unix_connect::connect(path).await,
        (None, _) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn begin_tcp(address: SocketAddr, options: ConnectOptions, first: FirstSpeaker) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(address);
    let socket = Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if first == FirstSpeaker::Ours {
        // tcp(7), TCP_QUICKACK: while it is off, the kernel holds the acknowledgement of the peer's SYN back for
        // data, for 200 ms at most; then the kernel switches it on again. Without it the connect works as well.
        let _ = socket.set_tcp_quickack(false);
    }
    // Set before the handshake, which announces the maximum size of the window to the peer.
    options.buffers.set_first(&socket)?;
    bind_source(&socket, options.source, address)?;
    let target = SockAddr::from(address);
    match retry(|| socket.connect(&target)) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

/// Returns true if a connect failed because the accept queue of a Unix socket is full now.
pub fn is_busy(error: &io::Error, address: &Address) -> bool {
    error.kind() == io::ErrorKind::WouldBlock && matches!(address, Address::Unix(_))
}

/// Returns the pauses between connects to a Unix socket whose accept queue is full. They are short at first, because
/// a server that works accepts within milliseconds, and later long enough to cost nothing.
pub fn busy_pauses() -> impl Iterator<Item = Duration> {
    const FIRST: Duration = Duration::from_millis(2);
    const LONGEST: Duration = Duration::from_millis(50);
    std::iter::successors(Some(FIRST), |pause| Some((*pause * 2).min(LONGEST)))
}

/// Reads the bytes that have arrived.
///
/// # Errors
///
/// Errors of `recv`; `WouldBlock` when no bytes have arrived.
pub fn recv(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_fd();
    retry(|| Ok(nix::sys::socket::recv(fd.as_raw_fd(), buffer, MsgFlags::empty())?))
}

/// Reads the waiting bytes without removing them.
///
/// # Errors
///
/// As [`recv`].
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_fd();
    retry(|| Ok(nix::sys::socket::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?))
}

/// Writes as many bytes as fit.
///
/// # Errors
///
/// Errors of `send`; `WouldBlock` when no byte fits, also while the connection is not yet established.
pub fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = fd.as_fd();
    retry(|| Ok(nix::sys::socket::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?))
}

/// Makes the kernel send small writes at once instead of waiting to fill a segment. Has no effect on a Unix socket.
///
/// # Errors
///
/// Errors of `setsockopt`, for instance on a connection that was reset.
pub fn set_nodelay(fd: impl AsFd) -> io::Result<()> {
    ignore_unix(SockRef::from(&fd.as_fd()).set_tcp_nodelay(true))
}

/// Makes the kernel close a connection whose peer takes no byte for this time: TCP_USER_TIMEOUT. The kernel then
/// counts a closed window as silence, and no longer counts keepalive probes. Zero is off.
///
/// # Errors
///
/// Errors of `setsockopt`.
pub fn set_user_timeout(fd: impl AsFd, timeout: Duration) -> io::Result<()> {
    ignore_unix(SockRef::from(&fd.as_fd()).set_tcp_user_timeout(Some(timeout)))
}

/// Makes the next close a reset: unsent bytes are dropped and the peer gets `ECONNRESET`.
///
/// # Errors
///
/// Errors of `setsockopt`.
pub fn reset_on_close(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd.as_fd()).set_linger(Some(Duration::ZERO))
}

/// Reduces the receive buffer to the minimum, for a peer whose bytes are not read.
///
/// # Errors
///
/// Errors of `setsockopt`.
pub fn shrink_receive_buffer(fd: impl AsFd) -> io::Result<()> {
    // The kernel raises it to its own minimum.
    SockRef::from(&fd.as_fd()).set_recv_buffer_size(1)
}

/// Makes the kernel adapt the size of a receive buffer again, if it was set before.
fn adapt_receive_buffer(socket: &Socket) -> io::Result<()> {
    /// From linux/sock.h: the size of the receive buffer was set.
    const RECEIVE_IS_LOCKED: libc::c_int = 2;
    let mut locked: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&locked)).unwrap_or(4);
    let mut written = size;
    // SAFETY: the descriptor is open as long as the socket is borrowed; the kernel writes at most `written` bytes,
    // the size of the int behind the pointer, and both pointers are valid for the call.
    #[allow(unsafe_code)]
    let result = unsafe {
        let value = (&raw mut locked).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BUF_LOCK, value, &raw mut written)
    };
    // Before Linux 5.14 the lock can neither be read nor removed.
    if result < 0 || locked & RECEIVE_IS_LOCKED == 0 {
        return Ok(());
    }
    let fresh = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // The kernel doubles the value that it is given.
    socket.set_recv_buffer_size(fresh.recv_buffer_size()? / 2)?;
    let unlocked = locked & !RECEIVE_IS_LOCKED;
    // SAFETY: as above; the kernel reads `size` bytes, those of an int.
    #[allow(unsafe_code)]
    let result = unsafe {
        let value = (&raw const unlocked).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BUF_LOCK, value, size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the address that a socket is bound to.
///
/// # Errors
///
/// Errors of `getsockname`; `InvalidInput` when it is not an IP socket.
pub fn local_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(&fd.as_fd()).local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Returns the address of the peer of a socket.
///
/// # Errors
///
/// Errors of `getpeername`; `InvalidInput` when it is not an IP socket.
pub fn peer_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(&fd.as_fd()).peer_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Returns the number of bytes that were written and that the peer's kernel has not acknowledged.
///
/// # Errors
///
/// Errors of `ioctl(SIOCOUTQ)`.
pub fn unacknowledged(fd: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let fd: BorrowedFd<'_> = fd.as_fd();
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int through the pointer, which is valid for the call,
    // and the descriptor is borrowed and so open.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Ignores that a Unix socket does not support TCP options. It does not need them.
pub(super) fn ignore_unix(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Returns true if a listener has a connection before any byte is sent on it.
    fn is_accepted_at_once(first: FirstSpeaker) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let socket = begin_tcp(listener.local_addr().unwrap(), ConnectOptions::default(), first).unwrap();
        let at_once = listener.accept().is_ok();
        send(&socket, b"x").unwrap();
        at_once || listener.accept().is_err()
    }

    /// Returns the address that a listener on loopback gets for a connection from `source`.
    fn seen(source: ConnectSource) -> io::Result<IpAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = ConnectOptions { source, ..ConnectOptions::default() };
        let _socket = begin_tcp(address, options, FirstSpeaker::Unknown)?;
        Ok(listener.accept()?.1.ip())
    }

    #[test]
    fn a_connection_comes_from_its_source() {
        let v4 = |last| IpAddr::from([127, 0, 0, last]);
        let v6 = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]);
        assert_eq!(seen(ConnectSource::Any).unwrap(), v4(1));
        assert_eq!(seen(ConnectSource::Own(v4(9))).unwrap(), v4(9));
        assert_eq!(seen(ConnectSource::Own(v6)).unwrap(), v4(1), "of the other family");
        let nowhere = IpAddr::from([192, 0, 2, 1]);
        let error = |source| seen(source).unwrap_err().kind();
        assert_eq!(error(ConnectSource::Own(nowhere)), io::ErrorKind::AddrNotAvailable);
        assert!(is_source_missing(&seen(ConnectSource::Own(nowhere)).unwrap_err()));
        assert!(!is_source_missing(&io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)));
        assert_eq!(error(ConnectSource::Foreign(v6)), io::ErrorKind::Unsupported);
        assert!(may_come_from(v4(9)).is_ok());
        assert_eq!(may_come_from(nowhere).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    /// Returns the number of bytes that can be sent to a socket with these limits that is not read.
    fn taken(buffers: KernelBuffers) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = ConnectOptions { buffers, ..ConnectOptions::default() };
        let socket = begin_tcp(address, options, FirstSpeaker::Unknown).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        // Its own buffer stays as small as possible.
        SockRef::from(&peer).set_send_buffer_size(1).unwrap();
        peer.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut taken = 0;
        while let Ok(count) = peer.write(&[7; 8192]) {
            taken += count;
        }
        drop(socket);
        taken
    }

    #[test]
    fn what_is_unread_is_bounded() {
        const BOUND: u32 = 32 * 1024;
        let taken = taken(KernelBuffers { max_unread: Some(BOUND), ..KernelBuffers::default() });
        // The peer's own buffer and the kernel's rounding add to the limit.
        assert!((8192..3 * BOUND as usize).contains(&taken), "{taken} bytes were taken");
    }

    #[test]
    fn bounds_are_taken_back() {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let (bounded, fresh) = (socket(), socket());
        let sizes =
            |socket: &Socket| (socket.recv_buffer_size().unwrap(), socket.tcp_notsent_lowat().unwrap());
        for (unsent, unread) in [(16_384, 16_384), (1 << 20, 1 << 20)] {
            let buffers = KernelBuffers { max_unsent: Some(unsent), max_unread: Some(unread) };
            buffers.set(&bounded).unwrap();
            assert_eq!(sizes(&bounded), (2 * unread as usize, unsent));
        }
        KernelBuffers::default().set(&bounded).unwrap();
        assert_eq!(sizes(&bounded), sizes(&fresh));
        // Once more, because there is nothing to undo now.
        KernelBuffers::default().set(&bounded).unwrap();
        assert_eq!(sizes(&bounded), sizes(&fresh));
    }

    #[test]
    fn the_handshake_ends_with_our_first_bytes() {
        assert!(is_accepted_at_once(FirstSpeaker::Unknown));
        // The kernel waits for 200 ms, and a busy machine may exceed that.
        assert!((0..20).any(|_| !is_accepted_at_once(FirstSpeaker::Ours)));
    }
}
