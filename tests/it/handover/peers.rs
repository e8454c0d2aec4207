//! An incumbent and a successor that a test plays: they send what the test says.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use pointsman::sys::frames::{Frame, FrameFault, FrameSocket};
use pointsman::wire::handover::{Adopted, HandedSocket, Hello, Message, PROTOCOLS, Ready, Sockets, Welcome};

use crate::support::PATIENCE;

/// The descriptors that a successor may open: enough for each load.
const NOFILE: u64 = 1_000_000;

/// One end of a hand-over.
pub(super) struct PlayedPeer {
    frames: FrameSocket,
    raw: UnixStream,
    /// True after a request that an incumbent accepts.
    has_asked: Cell<bool>,
}

impl PlayedPeer {
    fn new(raw: UnixStream) -> Self {
        let frames = FrameSocket::new(raw.try_clone().unwrap()).unwrap();
        frames.set_timeout(Some(PATIENCE)).unwrap();
        Self { frames, raw, has_asked: Cell::new(false) }
    }

    /// Connects to a running program, as its successor.
    pub(super) fn connect(path: &Path) -> Self {
        Self::new(UnixStream::connect(path).unwrap())
    }

    /// Sets the longest wait for a message.
    pub(super) fn wait_at_most(&self, time: Duration) {
        self.frames.set_timeout(Some(time)).unwrap();
    }

    /// Sends a message. The other program may be gone.
    pub(super) fn send(&self, message: &Message) {
        self.send_with(message, &[], &[]);
    }

    /// Sends a message with raw bytes and descriptors.
    pub(super) fn send_with(&self, message: &Message, raw: &[u8], descriptors: &[BorrowedFd<'_>]) {
        if matches!(message, Message::Hello(hello) if hello.nofile >= NOFILE) {
            self.has_asked.set(true);
        }
        let (kind, json) = message.encode();
        let _ = self.frames.send(kind, &json, &[raw], descriptors);
    }

    /// Returns true after a request that an incumbent accepts, if it serves no other successor.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.get()
    }

    /// Sends bytes that need not be a frame.
    pub(super) fn send_bytes(&self, bytes: &[u8]) {
        let _ = (&self.raw).write_all(bytes);
    }

    /// Receives a frame.
    pub(super) fn receive(&self) -> Result<(Message, Frame), FrameFault> {
        let frame = self.frames.receive()?.whole()?;
        Ok((Message::decode(frame.kind, &frame.json).unwrap(), frame))
    }

    /// Receives frames up to a message of this name, and returns it with its frame.
    pub(super) fn receive_until(&self, name: &str) -> (Message, Frame) {
        loop {
            match self.receive() {
                Ok((message, frame)) if message.name() == name => return (message, frame),
                Ok((Message::Refused(refused), _)) => panic!("refused instead of {name}: {}", refused.reason),
                Ok(_) => {}
                Err(fault) => panic!("{fault} instead of {name}"),
            }
        }
    }

    /// Waits until the other program closes the connection, and returns the names of the messages before.
    pub(super) fn receive_to_end(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        loop {
            match self.receive() {
                Ok((message, _)) => names.push(message.name()),
                Err(FrameFault::Timeout) => panic!("the connection stays open after {names:?}"),
                Err(_) => return names,
            }
        }
    }

    /// Sends the request of a successor.
    pub(super) fn hello(&self) {
        self.send(&Message::Hello(hello()));
    }

    /// Goes on as a successor until all but the connections has come.
    pub(super) fn until_ready(&self) {
        self.hello();
        loop {
            let (message, _) = self.receive_until("ProcessState");
            if !has_more(&message) {
                return;
            }
        }
    }

    /// Goes on as a successor until it may accept.
    pub(super) fn until_go(&self) {
        self.until_ready();
        self.send(&Message::Ready(Ready::default()));
        self.receive_until("Go");
    }

    /// Acknowledges a batch of this number.
    pub(super) fn adopt(&self, number: u64) {
        self.send(&Message::Adopted(Adopted { number, ..Adopted::default() }));
    }
}

/// Returns true if further parts of the state follow.
fn has_more(message: &Message) -> bool {
    let (_, json) = message.encode();
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    value["more"].as_bool().unwrap_or(false)
}

/// Returns the request of a successor that could be real.
pub(super) fn hello() -> Hello {
    Hello {
        protocols: PROTOCOLS,
        version: "99.0.0".to_owned(),
        commit: "0123456789ab".to_owned(),
        pid: std::process::id(),
        nofile: NOFILE,
        ..Hello::default()
    }
}

/// Returns the answer of an incumbent that could be real.
pub(super) fn welcome() -> Welcome {
    Welcome {
        protocol: Some(PROTOCOLS.max),
        version: "0.0.1".to_owned(),
        commit: "ba9876543210".to_owned(),
        pid: std::process::id(),
        started_ms: 1_700_000_000_000,
        drain_ms: 30_000,
        ..Welcome::default()
    }
}

/// Listens in the place of an incumbent, and plays it for one program that connects. From then on the file is a socket
/// without a listener. The connection is closed at the end of `play`.
pub(super) fn play_incumbent(place: &Path, play: impl FnOnce(&PlayedPeer) + Send + 'static) {
    let _ = fs::remove_file(place);
    let listener = UnixListener::bind(place).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o600)).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        let peer = PlayedPeer::new(stream);
        play(&peer);
        peer.frames.shut_down();
    });
}

/// Sends the answer of an incumbent, with two descriptors for its outputs.
pub(super) fn send_welcome(peer: &PlayedPeer, welcome: Welcome) {
    let null = fs::File::options().write(true).open("/dev/null").unwrap();
    peer.send_with(&Message::Welcome(Box::new(welcome)), &[], &[null.as_fd(), null.as_fd()]);
}

/// Plays an incumbent without sockets and without a state, until the successor is ready.
pub(super) fn until_ready(peer: &PlayedPeer) {
    until_ready_with(peer, Vec::new(), &[]);
}

/// Plays the same with these sockets.
pub(super) fn until_ready_with(
    peer: &PlayedPeer,
    sockets: Vec<HandedSocket>,
    descriptors: &[BorrowedFd<'_>],
) {
    peer.receive_until("Hello");
    send_welcome(peer, welcome());
    peer.send_with(&Message::Sockets(Sockets { sockets, more: false }), &[], descriptors);
    peer.send(&Message::ProcessState(Box::default()));
    let ready = peer.receive();
    assert!(
        matches!(ready, Ok((Message::Ready(_), _)) | Err(FrameFault::Closed)),
        "{ready:?} instead of Ready"
    );
}
