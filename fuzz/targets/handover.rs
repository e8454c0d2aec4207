//! Frames and messages of a hand-over: no bytes panic, and a message that can be read is written and read unchanged.

#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use pointsman::sys::frames::{FrameSocket, MOST_JSON, MOST_RAW};
use pointsman::wire::handover::Message;

/// The most bytes that a socket takes before they are read.
const ROOM: usize = 64 * 1024;

/// The highest kind of a message.
const LAST_KIND: u8 = 15;

fuzz_target!(|bytes: &[u8]| {
    // The fixtures of the tests are JSON without a kind, so the input is read as each kind.
    for kind in 1..=LAST_KIND {
        let Ok(message) = Message::decode(kind, bytes) else { continue };
        let (kind, json) = message.encode();
        assert_eq!(Message::decode(kind, &json).expect("what was written can be read"), message);
    }
    let (mut sender, receiver) = UnixStream::pair().expect("a descriptor is free");
    let receiver = FrameSocket::new(receiver).expect("a socket can be made blocking");
    sender.write_all(&bytes[..bytes.len().min(ROOM)]).expect("the socket has room");
    drop(sender);
    while let Ok(frame) = receiver.receive() {
        assert!(frame.json.len() <= MOST_JSON && frame.raw.len() <= MOST_RAW && frame.descriptors.is_empty());
        let _ = Message::decode(frame.kind, &frame.json);
    }
});
