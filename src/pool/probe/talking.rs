//! The connection of a check or an agent: its bytes, and the faults of its errors.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::pool::health::CheckFault;
use crate::sys::Address;
use crate::sys::fault::is_out_of_resources;

/// A connection of a check or an agent.
pub(in crate::pool) trait Talking: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Talking for S {}

/// Returns the connection on a socket.
///
/// # Errors
///
/// The socket cannot be used with the runtime.
pub(super) fn talking(socket: OwnedFd, address: &Address) -> io::Result<Box<dyn Talking>> {
    Ok(match address {
        Address::Tcp(_) | Address::Scoped(_) => Box::new(TcpStream::from_std(socket.into())?),
        Address::Unix(_) => Box::new(UnixStream::from_std(socket.into())?),
    })
}

/// Returns the first line of a backend's answer, cut, as text; `None` if it is empty. Bytes that are not UTF-8
/// become the characters of the same numbers, so no byte is lost. The text may have any character. The log, the
/// status and every other output escape the text in their own form.
pub(super) fn first_words(heard: &[u8]) -> Option<Arc<str>> {
    /// A status line or a greeting is shorter, and an error of a database begins here.
    const SHOWN: usize = 96;
    let heard = heard.trim_ascii_start();
    let line = heard.split(|&byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let shown = &line[..line.len().min(SHOWN)];
    let text: String = match str::from_utf8(shown) {
        Ok(text) => text.into(),
        // The cut went through a character.
        Err(error) if error.error_len().is_none() && line.len() > SHOWN => {
            String::from_utf8_lossy(&shown[..error.valid_up_to()]).into()
        }
        Err(_) => shown.iter().map(|&byte| char::from(byte)).collect(),
    };
    Some(text.into()).filter(|_| !line.is_empty())
}

/// Returns the fault of a failed connect.
///
/// An error is a fault of this process ([`CheckFault::Local`]) only if it ends by itself and concerns all
/// addresses. A connect that a rule of this host's firewall forbids counts as a failed check, because clients
/// cannot be connected either.
pub(super) fn fault(error: &io::Error) -> CheckFault {
    use io::ErrorKind as Kind;
    match error.kind() {
        _ if is_out_of_resources(error) => CheckFault::Local,
        // No free port; EAGAIN of TCP is a full table of routes.
        Kind::AddrNotAvailable | Kind::WouldBlock => CheckFault::Local,
        // A Unix socket's path without a socket is a closed port.
        Kind::ConnectionRefused | Kind::NotFound => CheckFault::Refused,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => CheckFault::Unreachable,
        Kind::TimedOut => CheckFault::Timeout,
        _ => CheckFault::Other,
    }
}

/// Returns the fault of a connection that broke later.
pub(super) fn broken(error: &io::Error) -> CheckFault {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CheckFault::Closed,
        _ => fault(error),
    }
}
