//! The sockets of the admin listeners. The admin listeners accept with them. Control pauses and closes them, and lends
//! them to a successor.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::listener::SocketPart;
use crate::sys::{Address, SocketFile};
use crate::wire::handover::HandedSocket;

/// The stages of the admin listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminStage {
    /// Connections are accepted, and addresses that cannot be bound are tried again.
    Accepting,
    /// The sockets stay open, and connections wait in the kernel's queues.
    Paused,
    /// The sockets are closed and stay closed.
    Closed,
}

/// The listening socket of an admin listener.
#[derive(Debug)]
pub struct AdminSocket {
    /// The socket, shared with the acceptor.
    pub socket: Arc<OwnedFd>,
    /// The address as configured.
    pub configured: Address,
    /// The address at which it listens.
    pub address: Address,
    /// The file of a Unix socket. The file is removed when this value is dropped, unless another process is responsible
    /// for it.
    pub file: Option<SocketFile>,
}

impl AdminSocket {
    fn handed(&self) -> HandedSocket {
        let identity = self.file.as_ref().map(SocketFile::identity);
        HandedSocket {
            part: SocketPart::Admin.word().to_owned(),
            listener: String::new(),
            configured: self.configured.to_string(),
            address: self.address.to_string(),
            device: identity.map_or(0, |identity| identity.device),
            inode: identity.map_or(0, |identity| identity.inode),
        }
    }
}

/// The sockets of all admin listeners, and the stage of the listeners.
pub struct AdminSockets {
    stage: watch::Sender<AdminStage>,
    /// Locked for a moment by control and by an admin listener whose socket is bound or closed.
    open: Mutex<Vec<AdminSocket>>,
}

impl AdminSockets {
    /// Creates the value without sockets.
    pub(super) fn new(stage: AdminStage) -> Self {
        Self { stage: watch::Sender::new(stage), open: Mutex::default() }
    }

    /// Returns the stage, and its changes.
    pub fn stage(&self) -> watch::Receiver<AdminStage> {
        self.stage.subscribe()
    }

    /// Waits for a stage.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn wait_for(&self, stage: AdminStage) {
        // The sender is a field of this value, so the channel does not end.
        let _ = self.stage().wait_for(|now| *now == stage).await;
    }

    /// Registers a socket. It is closed and its file is removed when the result is dropped, if control has not closed it
    /// before.
    pub fn register(&self, socket: AdminSocket) -> RegisteredAdminSocket<'_> {
        let same = Arc::downgrade(&socket.socket);
        // Under the lock, so that a change of the stage is not missed.
        let mut open = self.open();
        match *self.stage.borrow() {
            AdminStage::Accepting => socket.file.iter().for_each(SocketFile::own),
            AdminStage::Paused => {}
            AdminStage::Closed => return RegisteredAdminSocket { of: self, same },
        }
        open.push(socket);
        drop(open);
        RegisteredAdminSocket { of: self, same }
    }

    /// Returns each socket with its description. The sockets stay open as long as the result exists.
    pub(crate) fn lend(&self) -> Vec<(HandedSocket, Arc<OwnedFd>)> {
        self.open().iter().map(|socket| (socket.handed(), Arc::clone(&socket.socket))).collect()
    }

    /// Stops to accept. The sockets stay open. Called on the thread of control, on which the admin listeners run: no
    /// connection is accepted after the call.
    pub(crate) fn pause(&self) {
        self.change(AdminStage::Paused);
    }

    /// Accepts again, or for the first time with inherited sockets.
    pub(crate) fn resume(&self) {
        let open = self.open();
        open.iter().filter_map(|socket| socket.file.as_ref()).for_each(SocketFile::own);
        self.change(AdminStage::Accepting);
    }

    /// Takes out the files of Unix sockets. Each file is removed when its value is dropped.
    pub(super) fn take_files(&self) -> Vec<SocketFile> {
        self.open().iter_mut().filter_map(|socket| socket.file.take()).collect()
    }

    /// Closes the sockets for good. Answers under way go on.
    pub(crate) fn close(&self) {
        let closed = std::mem::take(&mut *self.open());
        self.change(AdminStage::Closed);
        drop(closed);
    }

    /// Closes the sockets for good, and leaves the files of Unix sockets to a successor.
    pub(crate) fn disarm(&self) {
        self.take_files().iter().for_each(SocketFile::disown);
        self.close();
    }

    /// Changes the stage, except from [`AdminStage::Closed`].
    fn change(&self, to: AdminStage) {
        self.stage.send_if_modified(|stage| {
            let is_new = *stage != AdminStage::Closed && *stage != to;
            if is_new {
                *stage = to;
            }
            is_new
        });
    }

    fn open(&self) -> MutexGuard<'_, Vec<AdminSocket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered socket. When dropped, the socket is no longer registered.
pub struct RegisteredAdminSocket<'a> {
    of: &'a AdminSockets,
    same: std::sync::Weak<OwnedFd>,
}

impl Drop for RegisteredAdminSocket<'_> {
    fn drop(&mut self) {
        let is_other = |socket: &AdminSocket| !std::ptr::eq(Arc::as_ptr(&socket.socket), self.same.as_ptr());
        self.of.open().retain(is_other);
    }
}
