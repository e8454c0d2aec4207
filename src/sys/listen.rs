//! Listening sockets: bind, listen, accept.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::reactor::{Readiness, SocketRegistration};
use super::socket::KernelBuffers;
use super::tcp::{self, Keepalive};
use super::{Address, descriptors, pause, retry};

/// The options that accepted sockets inherit from the listening one, so that no connection pays for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The most connections that the kernel queues before they are accepted.
    pub backlog: u32,
    /// The settings by which the kernel probes idle peers. `None` is off.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: the longest time in which a peer takes no byte. `None` is off.
    pub user_timeout: Option<Duration>,
    /// The limits of the kernel's buffers of a connection.
    pub buffers: KernelBuffers,
}

/// The rule for an address that no interface of this host has yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindTo {
    /// The address must be one of this host.
    #[default]
    OwnAddress,
    /// The address may come later (IP_FREEBIND).
    AnyAddress,
}

/// The most attempts to listen at an address while another process tries the same.
const ATTEMPTS: u32 = 10;

/// Binds and listens at an address where no other socket listens. Sockets that [`listen`] opens later share its port.
///
/// The kernel decides which process gets the port. listen(2) is called without SO_REUSEPORT, and the option is set
/// afterwards. So if several processes call listen(2) at the same time, at most one succeeds. bind(2) alone does not
/// decide. The socket has SO_REUSEADDR, because no server can restart without this option. With SO_REUSEADDR, bind(2)
/// succeeds beside a socket that does not listen yet. Two processes can both be refused if their calls of listen(2)
/// overlap, so the attempt is repeated.
///
/// # Errors
///
/// `AddrInUse` when another socket listens there; `PermissionDenied` for a port below 1024 without the capability;
/// `AddrNotAvailable` when it is not an address of this host.
pub fn listen_alone(address: SocketAddr, to: BindTo, options: &ListenOptions) -> io::Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        // If a socket listens already, this fails at once.
        let socket = bind(address, to, Sharing::Alone)?;
        apply(&socket, options)?;
        attempts += 1;
        match start_to_listen(&socket, options) {
            Err(error) if is_clash(&error) && attempts < ATTEMPTS => {
                drop(socket);
                pause();
            }
            Err(error) => return Err(error),
            Ok(()) => {
                socket.set_reuse_port(true)?;
                return Ok(socket.into());
            }
        }
    }
}

/// Binds and listens, and shares the port with other sockets of this process. [`listen_alone`] has opened the first of
/// these sockets. Another process that tries to get the port may hold it for a moment, until that process is refused.
/// So the attempt is repeated.
///
/// # Errors
///
/// As [`listen_alone`].
pub fn listen(address: SocketAddr, to: BindTo, options: &ListenOptions) -> io::Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let listening = bind(address, to, Sharing::WithWorkers).and_then(|socket| {
            apply(&socket, options)?;
            start_to_listen(&socket, options)?;
            Ok(socket)
        });
        match listening {
            Err(error) if is_clash(&error) && attempts < ATTEMPTS => pause(),
            listening => return listening.map(OwnedFd::from),
        }
    }
}

/// Binds an address beside sockets that share its port, and sets the options, but does not listen yet. The kernel gives
/// the socket no connection before [`reconfigure`] makes it listen.
///
/// # Errors
///
/// As [`listen_alone`].
pub fn bind_beside(address: SocketAddr, to: BindTo, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, to, Sharing::WithWorkers)?;
    apply(&socket, options)?;
    Ok(socket.into())
}

/// Returns the address of a listening stream socket, as the kernel has it.
///
/// # Errors
///
/// `InvalidInput` for anything else. Otherwise errors of `getsockopt` and `getsockname`.
pub fn address_of(fd: impl AsFd) -> io::Result<Address> {
    let fd = fd.as_fd();
    let socket = SockRef::from(&fd);
    let address = socket.local_addr()?;
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match (address.as_socket(), address.as_pathname()) {
        (Some(tcp), _) => Ok(Address::Tcp(tcp)),
        (None, Some(path)) => Ok(Address::Unix(path.into())),
        (None, None) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Makes the calls on a socket return at once instead of waiting.
///
/// # Errors
///
/// Errors of `fcntl`.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd.as_fd()).set_nonblocking(true)
}

fn start_to_listen(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))
}

fn is_clash(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Sets the inherited options of a bound socket, and makes it listen if it does not listen yet. Connections accepted from
/// now on have them.
///
/// # Errors
///
/// Errors of `setsockopt` and `listen`.
pub fn reconfigure(fd: impl AsFd, options: &ListenOptions) -> io::Result<()> {
    let fd = fd.as_fd();
    let socket = SockRef::from(&fd);
    // Connections of a Unix socket inherit no options.
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

fn bind(address: SocketAddr, to: BindTo, sharing: Sharing) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that both 0.0.0.0 and [::] can be bound.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if sharing == Sharing::WithWorkers {
        socket.set_reuse_port(true)?;
    }
    match (to, address) {
        (BindTo::OwnAddress, _) => {}
        (BindTo::AnyAddress, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
        (BindTo::AnyAddress, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn apply(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // An urgent byte is then a byte of the stream, at its position, instead of being left out.
    socket.set_out_of_band_inline(true)?;
    match options.keepalive {
        Some(keepalive) => tcp::set_keepalive(socket, keepalive)?,
        None => socket.set_keepalive(false)?,
    }
    socket.set_tcp_user_timeout(options.user_timeout.or(Some(Duration::ZERO)))?;
    options.buffers.set(socket)
}

/// A connection that was just accepted and is not yet in the reactor.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking, with the listener's options.
    pub socket: OwnedFd,
    /// The client's address.
    pub peer: Address,
}

/// A listening socket in the reactor of one worker. At most one task may wait for it at a time.
pub struct Listening {
    /// Shared with control and, for a Unix socket, with other workers. The last of them closes it.
    fd: Arc<OwnedFd>,
    registration: SocketRegistration,
    /// False once the socket was removed from epoll.
    is_registered: Cell<bool>,
}

impl Listening {
    /// Registers a listening socket with the reactor of this thread.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_ctl`. The socket is returned with the error, because a later attempt may succeed.
    ///
    /// # Panics
    ///
    /// Panics on a thread without a reactor.
    pub fn register(fd: Arc<OwnedFd>) -> Result<Self, (Arc<OwnedFd>, io::Error)> {
        match SocketRegistration::new(&fd, Readiness::NONE) {
            Ok(registration) => Ok(Self { fd, registration, is_registered: Cell::new(true) }),
            Err(error) => Err((fd, error)),
        }
    }

    /// Waits for a connection and accepts it.
    ///
    /// # Errors
    ///
    /// Errors of `accept4`, except `WouldBlock`. After any error the listener can still be used.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, no connection was accepted.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            std::future::poll_fn(|cx| self.registration.poll(cx, Readiness::READABLE)).await;
            match self.accept_reported() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Accepts a connection if the reactor has reported one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; otherwise as [`Listening::accept`].
    pub fn try_accept(&self) -> io::Result<Accepted> {
        if self.registration.is(Readiness::READABLE) {
            self.accept_reported()
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn accept_reported(&self) -> io::Result<Accepted> {
        let result = self.accept_now();
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.registration.clear(Readiness::READABLE);
        }
        result
    }

    /// Accepts a connection if the kernel has one, whatever the reactor has reported.
    ///
    /// # Errors
    ///
    /// As [`Listening::try_accept`].
    pub fn accept_now(&self) -> io::Result<Accepted> {
        accept(&*self.fd)
    }

    /// Removes the socket from the reactor. It stays open elsewhere, and may be registered with this reactor again at
    /// once. [`Listening::accept`] is never ready any more.
    pub fn leave(&self) {
        if self.is_registered.replace(false) {
            self.registration.leave(&self.fd);
            self.registration.clear(Readiness::READABLE);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // A close does not remove it from epoll where others have the same socket.
        self.leave();
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Accepts a connection from a listening socket, with the peer's address in the same call.
///
/// # Errors
///
/// Errors of `accept4`, `WouldBlock` included.
pub fn accept(fd: impl AsFd) -> io::Result<Accepted> {
    // One descriptor for the client and one for its backend.
    descriptors::check_room(2)?;
    let accepted = accept_past_bound(fd)?;
    descriptors::note(&accepted.socket);
    Ok(accepted)
}

/// Accepts a connection as [`accept`] does, also with a descriptor that connections leave free.
///
/// # Errors
///
/// Errors of `accept4`, `WouldBlock` included.
pub fn accept_past_bound(fd: impl AsFd) -> io::Result<Accepted> {
    let listening = fd.as_fd().as_raw_fd();
    let (raw, peer) = retry(|| accept4(listening))?;
    // SAFETY: accept4 has just returned this descriptor, and no other value owns it.
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
    // SAFETY: the closure passes accept4 the storage and the length that it was given, both valid for the call, and
    // accept4 fills the storage with an address of that length or fails.
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

    /// Checks the options of a socket that is accepted from a listener with these options.
    fn check(options: ListenOptions) {
        let listening = listen_alone("127.0.0.1:0".parse().unwrap(), BindTo::OwnAddress, &options).unwrap();
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

    const PLAIN: ListenOptions = ListenOptions {
        backlog: 8,
        keepalive: None,
        user_timeout: None,
        buffers: KernelBuffers { max_unsent: None, max_unread: None },
    };

    fn alone(address: SocketAddr) -> io::Result<OwnedFd> {
        listen_alone(address, BindTo::OwnAddress, &PLAIN)
    }

    #[test]
    fn a_taken_address_is_refused_in_spite_of_sharing() {
        let first = alone("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket::local_address(&first).unwrap();
        assert_eq!(alone(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let second = listen(address, BindTo::OwnAddress, &PLAIN).expect("workers share it");
        drop(first);
        assert_eq!(alone(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(second);
        alone(address).expect("the last has left");
    }

    #[test]
    fn workers_share_the_connections_of_a_port() {
        let first = alone("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket::local_address(&first).unwrap();
        let second = listen(address, BindTo::OwnAddress, &PLAIN).unwrap();
        // The kernel spreads them by a hash of both ends: of so many, both get some.
        let mut accepted = [0, 0];
        for _ in 0..64 {
            let _client = TcpStream::connect(address).unwrap();
            for (count, socket) in accepted.iter_mut().zip([&first, &second]) {
                while accept(socket).is_ok() {
                    *count += 1;
                }
            }
        }
        assert!(accepted[0] > 0 && accepted[1] > 0, "{accepted:?}");
        assert_eq!(accepted[0] + accepted[1], 64);
    }

    #[test]
    fn an_address_that_comes_later_can_be_bound() {
        // 203.0.113.0/24 (TEST-NET-3) and 2001:db8::/32 are for documentation: no host has these addresses.
        for address in ["203.0.113.7:0", "[2001:db8::7]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            if Socket::new(Domain::for_address(address), Type::STREAM, None).is_err() {
                continue;
            }
            assert_eq!(alone(address).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
            listen_alone(address, BindTo::AnyAddress, &PLAIN).unwrap();
        }
    }
}
