//! The proxy for frames between two played programs: what the other tests rely on.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use pointsman::sys::frames::FrameFault;
use pointsman::wire::handover::{Batch, Go, Message, Sockets};

use super::frames::{FrameProxy, Passing, Sender, Verdict};
use super::peers::{PlayedPeer, play_incumbent, send_welcome, welcome};
use crate::process::Folder;

/// Plays both programs with a proxy between them. Returns the names of the messages that the successor got, with the
/// number of their descriptors, and the fault at the end.
fn between(
    test: &str,
    judge: impl Fn(&Passing<'_>) -> Verdict + Send + Sync + 'static,
) -> (Vec<(&'static str, usize)>, String, usize) {
    let folder = Folder::new(test);
    let place = folder.path("handover.sock");
    let (done, is_done) = mpsc::channel();
    play_incumbent(&place, move |peer| {
        let greeted = peer.receive().is_ok();
        send_welcome(peer, welcome());
        peer.send(&Message::Sockets(Sockets::default()));
        let file = std::fs::File::open("/dev/null").unwrap();
        let batch = Message::Batch(Batch { number: 1, ..Batch::default() });
        peer.send_with(&batch, b"held", &[file.as_fd(); 4]);
        done.send(usize::from(greeted) + peer.receive_to_end().len()).unwrap();
    });
    let proxy = FrameProxy::at(&place, judge);
    let peer = PlayedPeer::connect(&place);
    peer.hello();
    let mut got = Vec::new();
    let fault = loop {
        match peer.receive() {
            Ok((message, frame)) => {
                got.push((message.name(), frame.descriptors.len()));
                if message.name() == "Batch" {
                    assert_eq!(frame.raw, b"held");
                    peer.adopt(1);
                    break String::new();
                }
            }
            Err(fault @ FrameFault::Timeout) => panic!("{fault} after {got:?}"),
            Err(fault) => break fault.to_string(),
        }
    };
    drop(peer);
    let of_successor = is_done.recv().unwrap();
    drop(proxy);
    assert!(place.exists());
    (got, fault, of_successor)
}

#[test]
fn a_proxy_passes_frames_with_their_descriptors() {
    let (got, fault, of_successor) = between("proxy-pass", |_| Verdict::Pass);
    assert_eq!(got, [("Welcome", 2), ("Sockets", 0), ("Batch", 4)]);
    assert_eq!((&*fault, of_successor), ("", 2));
}

#[test]
fn a_proxy_cuts_frames_and_loses_descriptors() {
    let at = |name: &'static str, verdict: Verdict| {
        move |passing: &Passing<'_>| if passing.message.name() == name { verdict } else { Verdict::Pass }
    };
    let truncated = FrameFault::Truncated.to_string();
    let (got, fault, _) = between("proxy-cut", at("Sockets", Verdict::CutAfter(9)));
    assert_eq!((&got[..], fault), (&[("Welcome", 2)][..], truncated.clone()));
    let (got, fault, _) = between("proxy-cut", at("Sockets", Verdict::CutAfter(17)));
    assert_eq!((&got[..], fault), (&[("Welcome", 2)][..], truncated));
    let (got, fault, _) = between("proxy-close", at("Batch", Verdict::Close));
    assert_eq!((&got[..], fault), (&[("Welcome", 2), ("Sockets", 0)][..], FrameFault::Closed.to_string()));
    let (got, fault, _) = between("proxy-lose", at("Batch", Verdict::LoseDescriptors));
    assert_eq!(got.len(), 2);
    assert!(fault.starts_with("0 of 4 descriptors"), "{fault}");
}

#[test]
fn a_proxy_kills_before_or_after_a_frame() {
    for is_before in [true, false] {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let (got, _, of_successor) =
            between("proxy-kill", move |passing| match (passing.from, passing.message) {
                (Sender::Successor, Message::Adopted(_)) if is_before => Verdict::KillAndPass(pid),
                (Sender::Successor, Message::Adopted(_)) => Verdict::PassAndKill(pid),
                _ => Verdict::Pass,
            });
        assert_eq!((got.len(), of_successor), (3, 2));
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn a_proxy_rewrites_messages() {
    let change: fn(&mut serde_json::Value) = |json| json["next_id"] = 7.into();
    let verdict = Verdict::Rewrite(change);
    let folder = Folder::new("proxy-rewrite");
    let place = folder.path("handover.sock");
    play_incumbent(&place, |peer| {
        peer.send(&Message::Go(Go { next_id: 5, ..Go::default() }));
        let _ = peer.receive_to_end();
    });
    let _proxy = FrameProxy::at(&place, move |_| verdict);
    let peer = PlayedPeer::connect(&place);
    assert_eq!(peer.receive().unwrap().0, Message::Go(Go { next_id: 7, ..Go::default() }));
}
