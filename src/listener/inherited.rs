//! Listening sockets that another program has opened and passed to this one, and that both have for a while.
//!
//! The kernel's queue of such a socket stays while one of both programs has it. So no client is refused between the last
//! accept of the one program and the first accept of the other one. Before a socket is served here, nothing about it
//! changes: the other program may still have to continue.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::bind::{BindRequest, BoundSockets, warn_of_short_backlog};
use crate::sys::listen::{address_of, bind_beside, set_nonblocking};
use crate::sys::{Address, FileIdentity, SocketFile};
use crate::wire::handover::HandedSocket;

/// The part of the program that has a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketPart {
    /// A listener.
    Listener,
    /// The admin listener.
    Admin,
    /// The hand-over to a further program.
    Handover,
}

impl SocketPart {
    /// Returns the word for the part in a [`HandedSocket`].
    pub fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Admin => "admin",
            Self::Handover => "handover",
        }
    }
}

/// Listening sockets that come from another program, by part and address. A socket that is not taken is closed here
/// when this value is dropped.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<InheritedAddress>);

/// The sockets of one address.
#[derive(Debug)]
pub struct InheritedAddress {
    part: String,
    /// The name of the listener; empty for the other parts.
    listener: String,
    /// The address as the other program has it in its configuration.
    configured: String,
    /// The address as the kernel has it.
    address: Address,
    /// The identity of the file of a Unix socket, if the other program has sent it.
    file: Option<FileIdentity>,
    /// At least one.
    sockets: Vec<OwnedFd>,
}

impl InheritedSockets {
    /// Groups sockets by their addresses. Descriptors of anything but a listening socket are closed and logged.
    pub fn new(handed: Vec<(HandedSocket, OwnedFd)>) -> Self {
        let mut inherited = Self::default();
        for (socket, fd) in handed {
            match set_nonblocking(&fd).and_then(|()| address_of(&fd)) {
                Ok(address) => inherited.add(socket, address, fd),
                Err(error) => tracing::warn!(
                    %error, part = socket.part, address = socket.address,
                    "an inherited descriptor is no listening socket and is closed"
                ),
            }
        }
        inherited
    }

    fn add(&mut self, handed: HandedSocket, address: Address, fd: OwnedFd) {
        let HandedSocket { part, listener, configured, device, inode, .. } = handed;
        let is_same = |of: &&mut InheritedAddress| {
            of.address == address && of.part == part && of.listener == listener && of.configured == configured
        };
        // The sockets of an address come one after the other.
        if let Some(same) = self.0.iter_mut().rev().find(is_same) {
            same.sockets.push(fd);
            return;
        }
        let file = (inode != 0).then_some(FileIdentity { device, inode });
        self.0.push(InheritedAddress { part, listener, configured, address, file, sockets: vec![fd] });
    }

    /// Returns true if there is no socket.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the addresses of a part.
    pub fn addresses(&self, part: SocketPart) -> impl Iterator<Item = &Address> {
        self.0.iter().filter(move |of| of.part == part.word()).map(|of| &of.address)
    }

    /// Takes out the sockets of an address of the configuration. For a port that the kernel chooses, these are the
    /// sockets for which the other program has the same listener and the same text. `listener` is empty for the other
    /// parts.
    pub fn take(&mut self, part: SocketPart, listener: &str, bind: &Address) -> Option<InheritedAddress> {
        let text = bind.to_string();
        let is_open_port = bind.is_without_port();
        // An address whose interface does not exist cannot be bound either, and that fault is reported.
        let scoped = bind.to_socket().ok().flatten().map(Address::Tcp);
        let is_meant = |of: &InheritedAddress| {
            let is_same = match is_open_port {
                true => of.listener == listener && of.configured == text,
                false => of.address == *bind || Some(&of.address) == scoped.as_ref(),
            };
            of.part == part.word() && is_same
        };
        let at = self.0.iter().position(is_meant)?;
        Some(self.0.remove(at))
    }

    /// Closes the sockets of a part that were not taken.
    pub fn close(&mut self, part: SocketPart) {
        self.0.retain(|of| {
            let is_kept = of.part != part.word();
            if !is_kept {
                tracing::info!(address = %of.address, "an inherited address is not in the configuration and is closed");
            }
            is_kept
        });
    }
}

impl InheritedAddress {
    /// Returns the address, as the kernel has it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the first socket, for a part that has one socket for each address, and the file of a Unix socket. The
    /// result is `None` if another file has replaced the file of the socket.
    pub fn single(self) -> Option<(Arc<OwnedFd>, Option<SocketFile>)> {
        let file = match &self.address {
            Address::Unix(path) => Some(SocketFile::of_another(path, self.file)?),
            Address::Tcp(_) | Address::Scoped(_) => None,
        };
        self.sockets.into_iter().next().map(|socket| (Arc::new(socket), file))
    }

    /// Returns a socket for each worker, and more if the other program had more workers. If it had fewer, further sockets
    /// are bound that share the port. They do not listen yet: clients that the kernel gives to them would be lost if the
    /// other program had to continue.
    ///
    /// The result is `None` if clients cannot reach the socket any more, because another file has replaced its file.
    pub fn for_workers(self, request: BindRequest<'_>, workers: usize) -> Option<BoundSockets> {
        let BindRequest { mode, to, options, .. } = request;
        let address = self.address.clone();
        warn_of_short_backlog(&address, options.backlog);
        let Address::Tcp(tcp) = address else {
            let (socket, file) = self.single()?;
            if let (Some(mode), Some(file)) = (mode, &file)
                && let Err(error) = file.set_mode(mode)
            {
                tracing::warn!(%error, %address, "the permissions of a socket stay as they were");
            }
            return Some(BoundSockets { address, sockets: vec![socket; workers], file });
        };
        let mut sockets: Vec<_> = self.sockets.into_iter().map(Arc::new).collect();
        let inherited = sockets.len();
        for at in inherited..workers {
            sockets.push(match bind_beside(tcp, to, options) {
                Ok(socket) => Arc::new(socket),
                // The address or the right to bind it is gone. A worker can share the socket of another one.
                Err(error) => {
                    tracing::debug!(%error, %address, "workers share an inherited socket");
                    Arc::clone(&sockets[at % inherited])
                }
            });
        }
        Some(BoundSockets { address, sockets, file: None })
    }
}
