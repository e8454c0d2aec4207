//! Listening sockets: bind, listen, accept.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::reactor::{Readiness, Watch};
use super::socket::KernelBuffers;
use super::tcp::{self, Keepalive};
use super::{Address, retry};

/// What accepted sockets inherit from the listening one, so that no connection pays for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel may hold before they are accepted.
    pub backlog: u32,
    /// How idle peers are probed.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long a peer may take no byte.
    pub user_timeout: Option<Duration>,
    /// What the kernel may hold of a connection.
    pub buffers: KernelBuffers,
}

/// Tries whether an address is free, so that a clash shows in spite of SO_REUSEPORT.
///
/// # Errors
///
/// `AddrInUse` when another socket listens there; `PermissionDenied` for a port below 1024 without
/// the capability; `AddrNotAvailable` when it is no address of this host.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    bind(address, Sharing::Alone).map(drop)
}

/// Binds and listens, sharing the port with the other workers.
///
/// # Errors
///
/// As [`try_bind`], and those of `listen`.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, Sharing::WithWorkers)?;
    apply(&socket, options)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Sets the inherited options of a socket that already listens; connections accepted from now on have them.
///
/// # Errors
///
/// Those of `setsockopt` and `listen`.
pub fn reconfigure(fd: impl AsFd, options: &ListenOptions) -> io::Result<()> {
    let fd = fd.as_fd();
    let socket = SockRef::from(&fd);
    // A Unix socket has nothing for its connections to inherit.
    if socket.domain()? != Domain::UNIX {
        apply(&socket, options)?;
    }
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithWorkers,
}

fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be bound.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if sharing == Sharing::WithWorkers {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn apply(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // An urgent byte is then one of the stream, in its place, instead of being left out.
    socket.set_out_of_band_inline(true)?;
    match options.keepalive {
        Some(keepalive) => tcp::set_keepalive(socket, keepalive)?,
        None => socket.set_keepalive(false)?,
    }
    socket.set_tcp_user_timeout(options.user_timeout.or(Some(Duration::ZERO)))?;
    options.buffers.set(socket)
}

/// A connection fresh from the kernel's queue, not yet in the reactor.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking, with the listener's options.
    pub socket: OwnedFd,
    /// The client.
    pub peer: Address,
}

/// A listening socket in the reactor of one worker. One task at a time may wait for it.
pub struct Listening {
    fd: OwnedFd,
    watch: Watch,
}

impl Listening {
    /// Registers a listening socket with the reactor of this thread.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// On a thread without a reactor.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        let watch = Watch::new(&fd, Readiness::NONE)?;
        Ok(Self { fd, watch })
    }

    /// Waits for a connection and takes it.
    ///
    /// # Errors
    ///
    /// Those of `accept4`; never `WouldBlock`. After any error the listener is still good.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, no connection was taken.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            std::future::poll_fn(|cx| self.watch.poll(cx, Readiness::READABLE)).await;
            match self.accept_reported() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Takes a connection if the reactor has reported one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; otherwise as [`Listening::accept`].
    pub fn try_accept(&self) -> io::Result<Accepted> {
        if self.watch.is(Readiness::READABLE) {
            self.accept_reported()
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn accept_reported(&self) -> io::Result<Accepted> {
        let result = accept(&self.fd);
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.watch.clear(Readiness::READABLE);
        }
        result
    }

    /// Takes a connection if the kernel has one, whatever the reactor knows.
    ///
    /// # Errors
    ///
    /// As [`Listening::try_accept`].
    pub fn accept_now(&self) -> io::Result<Accepted> {
        accept(&self.fd)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // To close it is not enough where other workers have copies of the same socket.
        self.watch.leave(&self.fd);
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes a connection from a listening socket, with the peer's address in the same call.
///
/// # Errors
///
/// Those of `accept4`, `WouldBlock` included.
pub fn accept(fd: impl AsFd) -> io::Result<Accepted> {
    let listening = fd.as_fd().as_raw_fd();
    let (raw, peer) = retry(|| accept4(listening))?;
    // SAFETY: accept4 has just returned this descriptor; nobody else knows it.
    #[allow(unsafe_code)]
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let peer = match peer.as_socket() {
        Some(address) => Address::Tcp(address),
        None => Address::Unix(std::path::Path::new("").into()),
    };
    Ok(Accepted { socket, peer })
}

fn accept4(listening: i32) -> io::Result<(i32, SockAddr)> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the closure passes accept4 the storage and the length it was given, both valid for the
    // call, and accept4 fills the storage with an address of that length or fails.
    #[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        SockAddr::try_init(|storage, length| match libc::accept4(listening, storage.cast(), length, flags) {
            -1 => Err(io::Error::last_os_error()),
            raw => Ok(raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::sys::socket;

    /// What a socket accepted from a listener with these options has.
    fn check(options: ListenOptions) {
        let listening = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let address = socket::local_address(&listening).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let accepted = accept(&listening).unwrap();
        assert_eq!(accepted.peer, Address::Tcp(client.local_addr().unwrap()));
        let socket = SockRef::from(&accepted.socket);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.out_of_band_inline().unwrap());
        assert_eq!(socket.keepalive().unwrap(), options.keepalive.is_some());
        if let Some(keepalive) = options.keepalive {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.idle);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), keepalive.count);
        }
        assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), options.buffers.max_unsent.unwrap_or(0));
        if let Some(bytes) = options.buffers.max_unread {
            assert_eq!(socket.recv_buffer_size().unwrap(), 2 * bytes as usize);
        }
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let half = Some(Duration::from_secs(30));
        let minute = Some(Keepalive::after(Duration::from_secs(60)));
        let own = Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(7), count: 9 };
        let buffers = KernelBuffers::default();
        let none = ListenOptions { backlog: 1, keepalive: None, user_timeout: None, buffers };
        check(ListenOptions { backlog: 4096, keepalive: minute, user_timeout: half, ..none });
        check(ListenOptions { keepalive: minute, ..none });
        check(ListenOptions { keepalive: Some(own), ..none });
        let buffers = KernelBuffers { max_unsent: Some(65_536), max_unread: Some(32_768) };
        check(ListenOptions { user_timeout: half, buffers, ..none });
    }

    #[test]
    fn a_taken_address_is_told_in_spite_of_sharing() {
        let buffers = KernelBuffers::default();
        let options = ListenOptions { backlog: 1, keepalive: None, user_timeout: None, buffers };
        let first = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let address = socket::local_address(&first).unwrap();
        assert_eq!(try_bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        listen(address, &options).expect("workers share it");
    }
}
