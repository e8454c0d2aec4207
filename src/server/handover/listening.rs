//! The socket at which a new program asks for the hand-over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::access::check_peer;
use crate::listener::{InheritedAddress, InheritedSockets, SocketPart};
use crate::sys::ControlListening;
use crate::sys::frames::FrameSocket;
use crate::sys::{Address, SocketFile, process};
use crate::wire::handover::HandedSocket;

/// The permissions of the socket: the owner alone may connect.
const MODE: u32 = 0o600;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 8;

/// The pause after an accept that failed, for lack of descriptors for example.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket of the hand-over, before a runtime has it.
#[derive(Debug)]
pub(crate) struct HandoverSocket {
    /// The listening socket. It may be lent to the successor.
    socket: Arc<OwnedFd>,
    /// The file of the socket.
    file: SocketFile,
}

impl HandoverSocket {
    /// Opens the socket at `path`. A failure is logged, and the program serves without a hand-over. It waits for the
    /// file system.
    pub(crate) fn open(path: &Arc<Path>) -> Option<Self> {
        match SocketFile::listen(path, Some(MODE), BACKLOG) {
            Ok((socket, file)) => Some(Self { socket: Arc::new(socket), file }),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::AddrInUse => "another process listens there".to_owned(),
                    io::ErrorKind::NotFound => {
                        "its directory does not exist: create it with the mode 0700".to_owned()
                    }
                    _ => error.to_string(),
                };
                tracing::error!(
                    socket = %path.display(),
                    "handover.socket: cannot listen: {why}; clients are served, and `pointsman upgrade` cannot reach this \
                     process; a restart tries again"
                );
                None
            }
        }
    }

    /// Takes the socket of the incumbent if it listens at `path`, or opens it as [`HandoverSocket::open`] does.
    pub(crate) fn inherit_or_open(path: &Arc<Path>, inherited: &mut InheritedSockets) -> Option<Self> {
        let of_incumbent = inherited.take(SocketPart::Handover, "", &Address::Unix(Arc::clone(path)));
        match of_incumbent.and_then(InheritedAddress::single) {
            Some((socket, Some(file))) => Some(Self::from_inherited(socket, file)),
            _ => Self::open(path),
        }
    }

    /// Returns the socket that an incumbent has handed over.
    pub(crate) fn from_inherited(socket: Arc<OwnedFd>, file: SocketFile) -> Self {
        Self { socket, file }
    }
}

/// The socket of the hand-over in the runtime of control.
#[derive(Debug)]
pub(crate) struct HandoverListener {
    socket: ControlListening,
    file: SocketFile,
    /// The end of the pause after a failed accept.
    paused_until: Option<Instant>,
    /// True after a failed accept, so that a lasting failure is logged once.
    is_failing: bool,
}

impl HandoverListener {
    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    ///
    /// Errors of the kernel.
    pub(crate) fn new(socket: HandoverSocket) -> io::Result<Self> {
        let HandoverSocket { socket, file } = socket;
        Ok(Self { socket: ControlListening::register(socket)?, file, paused_until: None, is_failing: false })
    }

    /// Waits for the next connection of a process of this user or of root. Other connections are closed and logged.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped.
    pub(crate) async fn accept(&mut self) -> FrameSocket {
        loop {
            if let Some(end) = self.paused_until {
                sleep_until(end).await;
                self.paused_until = None;
            }
            let accepted = self.socket.accept_for_frames().await;
            match accepted.and_then(|socket| Ok((socket.peer()?, socket))) {
                Ok((peer, socket)) => {
                    self.is_failing = false;
                    match check_peer(peer, process::user()) {
                        Ok(()) => return socket,
                        Err(fault) => tracing::warn!("a connection for a hand-over was refused: {fault}"),
                    }
                }
                Err(error) => self.pause(&error),
            }
        }
    }

    /// Returns the socket for the successor. It is not duplicated here.
    pub(crate) fn lend(&self) -> (HandedSocket, Arc<OwnedFd>) {
        let path = self.file.path().display().to_string();
        let handed = HandedSocket {
            part: SocketPart::Handover.word().to_owned(),
            configured: path.clone(),
            address: path,
            ..HandedSocket::default()
        };
        (handed, Arc::clone(self.socket.socket()))
    }

    /// Leaves the file of the socket to the successor.
    pub(crate) fn disarm(self) {
        self.file.disown();
    }

    /// Becomes responsible for the file of an inherited socket.
    pub(crate) fn own(&self) {
        self.file.own();
    }

    fn pause(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                %error,
                "cannot accept connections for a hand-over; the process tries again each second"
            );
        }
        self.paused_until = Some(Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn path(test: &str) -> Arc<Path> {
        let name = format!("pointsman-handover-{test}-{}", std::process::id());
        std::env::temp_dir().join(name).into()
    }

    #[tokio::test]
    async fn a_process_of_the_same_user_is_accepted() {
        let path = path("accept");
        let socket = HandoverSocket::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(HandoverSocket::open(&path).is_none(), "a process listens there");
        let mut listener = HandoverListener::new(socket).unwrap();
        // The second attempt has connected, to find out about a listener.
        assert!(listener.accept().await.receive().is_err());
        let client = FrameSocket::connect(&path).unwrap();
        let accepted = listener.accept().await;
        accepted.send(6, b"{}", &[], &[]).unwrap();
        assert_eq!(client.receive().unwrap().kind, 6, "the socket is blocking");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_lent_socket_goes_on_in_another_listener() {
        let path = path("lend");
        let mut first = HandoverListener::new(HandoverSocket::open(&path).unwrap()).unwrap();
        let (handed, socket) = first.lend();
        assert_eq!((&*handed.part, PathBuf::from(&handed.address)), ("handover", path.to_path_buf()));
        assert!(Arc::strong_count(&socket) > 1, "it is the same descriptor");
        let client = FrameSocket::connect(&path).unwrap();
        drop(first.accept().await);
        assert!(client.receive().is_err());
    }

    #[test]
    fn a_socket_that_cannot_be_opened_is_no_fault() {
        let folder = path("nowhere").join("h");
        assert!(HandoverSocket::open(&folder.into()).is_none());
    }
}
