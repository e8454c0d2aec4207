//! A proxy between the two programs of a hand-over: it passes each frame on with its descriptors, and a test decides what
//! happens at each.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::sys::frames::{Frame, FrameSocket};
use pointsman::wire::handover::Message;
use serde_json::Value;

/// The program that sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Incumbent,
    Successor,
}

/// A frame on its way.
pub(crate) struct Passing<'a> {
    pub(crate) from: Sender,
    /// Its number among the frames of its kind, from 1.
    pub(crate) nth: usize,
    pub(crate) message: &'a Message,
    /// The process id of the successor.
    pub(crate) successor: u32,
}

/// The next step of the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// The frame is passed on.
    Pass,
    /// The frame is passed on with other JSON.
    Rewrite(fn(&mut Value)),
    /// The frame comes without its descriptors.
    LoseDescriptors,
    /// The frame ends after this number of its bytes, and both connections are closed.
    CutAfter(usize),
    /// Both connections are closed instead.
    Close,
    /// The process is killed, then the frame is passed on, if the receiver still runs.
    KillAndPass(u32),
    /// The frame is passed on, then the process is killed.
    PassAndKill(u32),
    /// Neither this frame nor a later one of the same sender is passed on. Both connections stay open
    /// until the sender closes its own.
    Stall,
}

/// A proxy in the place of a hand-over socket. The place is given back when this is dropped.
pub(crate) struct FrameProxy {
    place: PathBuf,
    real: PathBuf,
    seen: Seen,
    /// The frames that were passed on whole.
    passed: Seen,
}

/// Frames with their senders.
type Seen = Arc<Mutex<Vec<(Sender, Message)>>>;

impl FrameProxy {
    /// Takes the place of a socket. `judge` decides about each frame.
    pub(crate) fn at(place: &Path, judge: impl Fn(&Passing<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        let real = place.with_extension("real");
        fs::rename(place, &real).unwrap();
        let listener = UnixListener::bind(place).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o600)).unwrap();
        let proxy = Self {
            place: place.to_owned(),
            real: real.clone(),
            seen: Arc::default(),
            passed: Arc::default(),
        };
        let (judge, seen, passed) = (Arc::new(judge), Arc::clone(&proxy.seen), Arc::clone(&proxy.passed));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(other) = UnixStream::connect(&real) else { return };
                connect(stream, other, &judge, [&seen, &passed]);
            }
        });
        proxy
    }

    /// Returns the frames that came so far, whether passed on or not.
    pub(crate) fn seen(&self) -> Vec<(Sender, Message)> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns true if a message of this name has come.
    pub(crate) fn has_seen(&self, name: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|(_, message)| message.name() == name)
    }

    /// Returns true if a message of this name was passed on whole.
    pub(crate) fn has_passed(&self, name: &str) -> bool {
        self.passed.lock().unwrap().iter().any(|(_, message)| message.name() == name)
    }

    /// Returns the connections in the batches that the successor has acknowledged.
    pub(crate) fn adopted(&self) -> u64 {
        let seen = self.seen();
        let acknowledged = seen.iter().filter_map(|(_, message)| match message {
            Message::Adopted(adopted) => Some(adopted.number),
            _ => None,
        });
        let acknowledged: Vec<u64> = acknowledged.collect();
        let batches = seen.iter().filter_map(|(_, message)| match message {
            Message::Batch(batch) if acknowledged.contains(&batch.number) => {
                Some(batch.connections.len() as u64)
            }
            _ => None,
        });
        batches.sum()
    }
}

impl Drop for FrameProxy {
    fn drop(&mut self) {
        let _ = fs::rename(&self.real, &self.place);
    }
}

/// Passes frames in both directions, each on a thread.
fn connect(
    successor: UnixStream,
    incumbent: UnixStream,
    judge: &Arc<impl Fn(&Passing<'_>) -> Verdict + Send + Sync + 'static>,
    [seen, passed]: [&Seen; 2],
) {
    let pid = FrameSocket::new(successor.try_clone().unwrap()).unwrap().peer().unwrap().pid;
    for (from, source, sink) in [
        (Sender::Successor, successor.try_clone().unwrap(), incumbent.try_clone().unwrap()),
        (Sender::Incumbent, incumbent, successor),
    ] {
        let (judge, seen, passed) = (Arc::clone(judge), Arc::clone(seen), Arc::clone(passed));
        thread::spawn(move || {
            let raw_sink = sink.try_clone().unwrap();
            let (source, sink) = (FrameSocket::new(source).unwrap(), FrameSocket::new(sink).unwrap());
            while let Ok(frame) = source.receive() {
                let message = Message::decode(frame.kind, &frame.json).unwrap();
                let nth = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((from, message.clone()));
                    seen.iter()
                        .filter(|(side, other)| *side == from && other.name() == message.name())
                        .count()
                };
                let verdict = judge(&Passing { from, nth, message: &message, successor: pid });
                // Before the frame, so that no effect of the frame comes first.
                if !matches!(verdict, Verdict::CutAfter(_) | Verdict::Close | Verdict::Stall) {
                    passed.lock().unwrap().push((from, message));
                }
                match apply(verdict, &frame, &sink, &raw_sink) {
                    Next::GoOn => {}
                    // Frames of the receiver may still be on their way; the other thread passes them on to the last.
                    Next::SinkIsGone => return,
                    Next::LoseRest => while source.receive().is_ok() {},
                    Next::CloseBoth => {
                        source.shut_down();
                        break;
                    }
                }
            }
            sink.shut_down();
        });
    }
}

/// The way in which a direction goes on after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    SinkIsGone,
    CloseBoth,
    /// Nothing more is passed on in this direction. Its end is.
    LoseRest,
}

/// Does what a verdict says.
fn apply(verdict: Verdict, frame: &Frame, sink: &FrameSocket, raw_sink: &UnixStream) -> Next {
    let send = |json: &[u8]| {
        let descriptors: Vec<_> = frame.descriptors.iter().map(AsFd::as_fd).collect();
        let sent = sink.send(frame.kind, json, &[&frame.raw], &descriptors);
        if sent.is_ok() { Next::GoOn } else { Next::SinkIsGone }
    };
    let pass = || send(&frame.json);
    match verdict {
        Verdict::Pass => pass(),
        Verdict::Rewrite(change) => {
            let mut json = serde_json::from_slice(&frame.json).unwrap();
            change(&mut json);
            send(&serde_json::to_vec(&json).unwrap())
        }
        Verdict::LoseDescriptors => {
            let _ = (&*raw_sink).write_all(&bytes(frame));
            Next::GoOn
        }
        Verdict::CutAfter(length) => {
            let whole = bytes(frame);
            let _ = (&*raw_sink).write_all(&whole[..length.min(whole.len())]);
            Next::CloseBoth
        }
        Verdict::Close => Next::CloseBoth,
        Verdict::KillAndPass(pid) => {
            end_now(pid);
            pass()
        }
        Verdict::PassAndKill(pid) => {
            let next = pass();
            end_now(pid);
            next
        }
        Verdict::Stall => Next::LoseRest,
    }
}

/// Sends SIGKILL to a process.
pub(crate) fn end_now(pid: u32) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
}

/// Returns the bytes of a frame.
pub(crate) fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes =
        head(frame.kind, frame.descriptors.len() as u16, frame.json.len() as u32, frame.raw.len() as u64);
    bytes.extend(&frame.json);
    bytes.extend(&frame.raw);
    bytes
}

/// Returns the head of a frame.
pub(crate) fn head(kind: u8, descriptors: u16, json: u32, raw: u64) -> Vec<u8> {
    let mut head = vec![kind, 0];
    head.extend(descriptors.to_be_bytes());
    head.extend(json.to_be_bytes());
    head.extend(raw.to_be_bytes());
    head
}
