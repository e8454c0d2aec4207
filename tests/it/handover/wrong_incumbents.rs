//! A real successor in front of an incumbent that behaves wrongly, and the refusals of the command line. The successor
//! ends with a reason, or starts as the failure table says. It never panics.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;

use pointsman::wire::handover::{
    Batch, Go, HandedConnection, HandedReading, HandedRelay, HandedSocket, Message, Refused, Rest, Sockets,
    Welcome,
};

use super::frames::head;
use super::load::{Load, LoadPlan};
use super::peers::{PlayedPeer, play_incumbent, send_welcome, until_ready, until_ready_with, welcome};
use super::rows::check_all;
use super::stage::{Generations, Stage, program};
use crate::process::Program;
use crate::support::wait_for;

const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");

/// The end of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The program ends with a code that is not 0, and these words in its message.
    Ends(&'static str),
    /// The program serves.
    Serves,
    /// Either of both.
    EndsOrServes,
}

/// An incumbent that behaves wrongly: the name of its fault, the expected end of its successor, and what it does.
type Fault = (&'static str, Expected, fn(&PlayedPeer));

use Expected::{Ends, EndsOrServes, Serves};

const FAULTS: &[Fault] = &[
    ("closes at once", Ends(""), |_| {}),
    ("refuses", Ends("because of a test"), |peer| {
        peer.receive_until("Hello");
        peer.send(&Message::Refused(Refused { reason: "because of a test".to_owned() }));
    }),
    ("closes after Hello", Ends(""), |peer| {
        peer.receive_until("Hello");
    }),
    ("closes after Welcome", Ends(""), |peer| send_welcome(peer, welcome())),
    ("closes after Sockets", Ends(""), |peer| {
        send_welcome(peer, welcome());
        peer.send(&Message::Sockets(Sockets::default()));
    }),
    ("closes after the first Sockets", Ends(""), |peer| {
        send_welcome(peer, welcome());
        peer.send(&Message::Sockets(Sockets { more: true, ..Sockets::default() }));
    }),
    ("closes after ProcessState", EndsOrServes, |peer| {
        send_welcome(peer, welcome());
        peer.send(&Message::Sockets(Sockets::default()));
        peer.send(&Message::ProcessState(Box::default()));
    }),
    ("closes after Ready", EndsOrServes, until_ready),
    ("closes after Go", Serves, |peer| {
        until_ready(peer);
        peer.send(&Message::Go(Go { next_id: 1 << 40, ..Go::default() }));
    }),
    ("closes after Rest", Serves, |peer| {
        until_ready(peer);
        peer.send(&Message::Go(Go { next_id: u64::MAX, ..Go::default() }));
        peer.send(&Message::Rest(Rest::default()));
    }),
    ("answers with the wrong kind", Ends(""), |peer| {
        peer.send(&Message::Go(Go { next_id: 1, ..Go::default() }));
        let _ = peer.receive_to_end();
    }),
    ("answers as a successor", Ends(""), |peer| {
        peer.hello();
        let _ = peer.receive_to_end();
    }),
    ("answers with garbage", Ends(""), |peer| {
        peer.send_bytes(&[0xa5; 4096]);
        let _ = peer.receive_to_end();
    }),
    ("answers half a head", Ends(""), |peer| peer.send_bytes(&head(2, 2, 2, 0)[..5])),
    ("answers half a Welcome", Ends(""), |peer| {
        peer.send_bytes(&head(2, 0, 500, 0));
        peer.send_bytes(b"{\"protocol\": 1");
    }),
    ("names 4 GiB", Ends(""), |peer| {
        peer.send_bytes(&head(2, 0, u32::MAX, 0));
        let _ = peer.receive_to_end();
    }),
    ("names raw bytes without an end", Ends(""), |peer| {
        peer.send_bytes(&head(2, 0, 2, u64::MAX));
        let _ = peer.receive_to_end();
    }),
    ("speaks protocol 99", Ends(""), |peer| {
        send_welcome(peer, Welcome { protocol: Some(99), ..welcome() });
        let _ = peer.receive_to_end();
    }),
    ("sends sockets without their descriptors", Ends(""), |peer| {
        send_welcome(peer, welcome());
        let socket = handed("auto", "127.0.0.1:1");
        peer.send(&Message::Sockets(Sockets { sockets: vec![socket.clone(), socket], more: false }));
        peer.send(&Message::ProcessState(Box::default()));
        let _ = peer.receive_to_end();
    }),
    ("sends a file as a socket", EndsOrServes, |peer| {
        let file = fs::File::open("/dev/null").unwrap();
        until_ready_with(peer, vec![handed("auto", "127.0.0.1:1")], &[file.as_fd()]);
    }),
    ("sends a socket that does not listen", EndsOrServes, |peer| {
        let (one, _other) = UnixStream::pair().unwrap();
        let sockets = vec![handed("auto", "127.0.0.1:1"), handed("nowhere", "no address")];
        until_ready_with(peer, sockets, &[one.as_fd(), one.as_fd()]);
    }),
    ("sends a listener that the file does not have", Serves, |peer| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = vec![handed("gone", &listener.local_addr().unwrap().to_string())];
        until_ready_with(peer, sockets, &[listener.as_fd()]);
        peer.send(&Message::Go(Go { next_id: 5, ..Go::default() }));
        peer.send(&Message::Rest(Rest::default()));
    }),
    ("sends a batch without descriptors", Serves, |peer| {
        batch_with(peer, three_empty(), b"", 0);
    }),
    ("sends a batch with too few descriptors", Serves, |peer| batch_with(peer, three_empty(), b"", 2)),
    ("sends a batch with too many descriptors", Serves, |peer| batch_with(peer, three_empty(), b"", 9)),
    ("sends a batch of empty connections", Serves, |peer| {
        batch(peer, three_empty(), b"");
    }),
    ("sends relays of unknown listeners and options", Serves, |peer| {
        let relay = HandedRelay { options: 7, pool: "nowhere".to_owned(), ..HandedRelay::default() };
        let connection =
            HandedConnection { id: 3, relay: Some(Box::new(relay)), ..HandedConnection::default() };
        batch(peer, Batch { number: 1, connections: vec![connection], options: Vec::new() }, b"");
    }),
    ("sends relays that hold more bytes than come", Serves, |peer| {
        let mut relay = HandedRelay { pool: "plain".to_owned(), ..HandedRelay::default() };
        relay.from_client.held = usize::MAX;
        relay.from_backend.held = 10;
        let connection = HandedConnection {
            id: 3,
            listener: "auto".to_owned(),
            relay: Some(Box::new(relay)),
            ..HandedConnection::default()
        };
        let options = vec![pointsman::wire::handover::HandedOptions::default()];
        batch(peer, Batch { number: 1, connections: vec![connection], options }, b"abc");
    }),
    ("sends half-read clients with more bytes than come", Serves, |peer| {
        let reading = HandedReading { bytes: usize::MAX, ..HandedReading::default() };
        let connection = HandedConnection {
            id: 3,
            listener: "tls".to_owned(),
            reading: Some(reading),
            ..HandedConnection::default()
        };
        batch(peer, Batch { number: 1, connections: vec![connection], options: Vec::new() }, b"abc");
    }),
    ("sends batch 2 first", Serves, |peer| batch(peer, Batch { number: 2, ..Batch::default() }, b"")),
    ("sends Go twice", EndsOrServes, |peer| {
        until_ready(peer);
        peer.send(&Message::Go(Go { next_id: 1, ..Go::default() }));
        peer.send(&Message::Go(Go { next_id: 1, ..Go::default() }));
        let _ = peer.receive();
    }),
];

fn handed(listener: &str, address: &str) -> HandedSocket {
    HandedSocket {
        part: "listener".to_owned(),
        listener: listener.to_owned(),
        configured: address.to_owned(),
        address: address.to_owned(),
        ..HandedSocket::default()
    }
}

fn three_empty() -> Batch {
    Batch { number: 1, connections: vec![HandedConnection::default(); 3], options: Vec::new() }
}

/// Plays an incumbent up to a batch. Each descriptor is one end of a pair of sockets.
fn batch(peer: &PlayedPeer, batch: Batch, raw: &[u8]) {
    let count = batch.connections.iter().map(|one| if one.relay.is_some() { 2 } else { 1 }).sum();
    batch_with(peer, batch, raw, count);
}

/// Plays the same with this number of descriptors.
fn batch_with(peer: &PlayedPeer, batch: Batch, raw: &[u8], descriptors: usize) {
    until_ready(peer);
    peer.send(&Message::Go(Go { next_id: 100, ..Go::default() }));
    let pairs: Vec<_> = (0..descriptors).map(|_| UnixStream::pair().unwrap()).collect();
    let descriptors: Vec<_> = pairs.iter().map(|pair| pair.0.as_fd()).collect();
    peer.send_with(&Message::Batch(batch), raw, &descriptors);
    let _ = peer.receive();
}

/// Starts a successor, and returns `None` if it serves, or its exit code. Returns its log too.
fn outcome(stage: &Stage, file: &Path) -> (Option<i32>, String) {
    let mut program = Program::start(program(Path::new(BINARY), &["run", "--take-over"]).arg(file));
    let mut status = None;
    wait_for("a program that serves or ends", || {
        status = program.child.try_wait().unwrap();
        let is_served = pointsman::admin::ask(stage.admin(), "/ready", std::time::Duration::from_secs(1));
        status.is_some() || is_served.is_ok_and(|(code, _)| code == 200)
    });
    if status.is_none() {
        program.signal("TERM");
        let ended = program.end();
        assert!(ended.success(), "{ended}:\n{}", program.stderr.all().join("\n"));
        return (None, program.stderr.all().join("\n"));
    }
    // The last lines may come a little later than the exit code.
    let code = status.unwrap().code().unwrap_or_else(|| panic!("ended by a signal: {status:?}"));
    wait_for("a message", || !program.stderr.all().is_empty());
    (Some(code), program.stderr.all().join("\n"))
}

#[test]
fn a_successor_ends_or_serves_after_each_fault_of_an_incumbent() {
    let stage = Stage::new("upgrade-incumbents");
    let file = stage.write("workers = 1");
    for (case, expected, play) in FAULTS {
        println!("{case}");
        play_incumbent(&stage.socket(), play);
        let (code, log) = outcome(&stage, &file);
        assert!(!log.contains("panicked"), "{case}: {log}");
        match expected {
            Ends(words) => {
                assert!(code.is_some_and(|code| code != 0) && log.contains(words), "{case}: {code:?}\n{log}")
            }
            Serves => assert_eq!(code, None, "{case}:\n{log}"),
            EndsOrServes => assert_ne!(code, Some(0), "{case}:\n{log}"),
        }
    }
}

#[test]
#[ignore = "takes a minute"]
fn a_successor_does_not_wait_for_ever_for_an_incumbent() {
    let stage = Stage::new("upgrade-silent");
    let file = stage.write("workers = 1");
    for (case, play) in [
        ("answers nothing", (|_: &PlayedPeer| {}) as fn(&PlayedPeer)),
        ("stops after Welcome", |peer| send_welcome(peer, welcome())),
        ("never says Go", until_ready),
    ] {
        play_incumbent(&stage.socket(), move |peer| {
            play(peer);
            peer.wait_at_most(std::time::Duration::from_secs(120));
            let _ = peer.receive_to_end();
        });
        let output = program(Path::new(BINARY), &["run", "--take-over"]).arg(&file).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !log.contains("panicked"), "{case}: {log}");
    }
}

/// Runs `upgrade` to its end.
fn upgrade(arguments: &[&str], file: &Path) -> Output {
    program(Path::new(BINARY), &["upgrade"]).args(arguments).arg(file).output().unwrap()
}

#[track_caller]
fn check_refused(output: &Output, code: i32, words: &[&str]) {
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn without_an_incumbent_upgrade_says_how_to_start_and_run_starts() {
    let stage = Stage::new("upgrade-nobody");
    let file = stage.write("workers = 1");
    let socket = stage.socket();
    let (socket, path) = (socket.to_str().unwrap(), file.to_str().unwrap());
    check_refused(&upgrade(&["--socket", socket], &file), 1, &[socket, "pointsman run"]);
    let (code, log) = outcome(&stage, &file);
    assert_eq!(code, None, "{path}: {log}");
    assert!(log.contains(socket), "it says that nobody answers: {log}");
    // A socket file that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(stage.socket()).unwrap());
    check_refused(&upgrade(&["--socket", socket], &file), 1, &[socket, "pointsman run"]);
    assert_eq!(outcome(&stage, &file).0, None);
}

#[test]
fn a_place_that_is_no_socket_or_lets_others_in_is_refused() {
    let stage = Stage::new("upgrade-place");
    let file = stage.write("workers = 1");
    fs::write(stage.socket(), "a file").unwrap();
    let socket = stage.socket();
    check_refused(&upgrade(&["--socket", socket.to_str().unwrap()], &file), 1, &["socket"]);
    play_incumbent(&stage.socket(), |peer| peer.hello());
    fs::set_permissions(stage.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    check_refused(&upgrade(&["--socket", socket.to_str().unwrap()], &file), 1, &["mode"]);
}

#[test]
fn a_bad_file_is_refused_before_the_incumbent_is_asked() {
    let stage = Stage::new("upgrade-bad-file");
    let mut generations = Generations::start(&stage.write("workers = 2"));
    let load = Load::start(&LoadPlan::steady(1), stage.listeners.clone(), &stage.backends);
    let bad = stage.folder.write("bad.toml", "listener = 5");
    let socket = stage.socket();
    check_refused(&upgrade(&["--again", "--socket", socket.to_str().unwrap()], &bad), 2, &["C0104"]);
    let output = program(Path::new(BINARY), &["run", "--take-over"]).arg(&bad).output().unwrap();
    check_refused(&output, 2, &["C0104"]);
    assert!(
        !generations
            .current
            .stderr
            .all()
            .iter()
            .any(|line| line.contains("hand-over") || line.contains("successor"))
    );
    load.tally.wait_for_progress();
    generations.take_over();
    load.switched();
    check_all(&stage, load);
}

#[test]
fn a_successor_with_few_descriptors_is_refused_with_both_numbers() {
    let stage = Stage::new("upgrade-nofile");
    let file = stage.write("workers = 2");
    let mut generations = Generations::start(&file);
    let load = Load::start(&LoadPlan::steady(12), stage.listeners.clone(), &stage.backends);
    let mut limited =
        program(Path::new("/bin/sh"), &["-c", "ulimit -n 100; exec \"$0\" run --take-over \"$1\"", BINARY]);
    let output = limited.arg(&file).output().unwrap();
    check_refused(&output, 1, &["100"]);
    load.tally.wait_for_progress();
    generations.take_over();
    load.switched();
    check_all(&stage, load);
}

/// The command runs the successor as its child, says what happened, and ends. The successor goes on.
#[test]
fn upgrade_reports_what_moved() {
    let stage = Stage::new("upgrade-command");
    let file = stage.write("workers = 2");
    let mut generations = Generations::start(&file);
    let load = Load::start(&LoadPlan::steady(3), stage.listeners.clone(), &stage.backends);
    load.tally.wait_for_progress();
    // The new program runs in another directory: that of the running program.
    let mut command = program(Path::new(BINARY), &["upgrade", "--again", "--socket", "handover.sock"]);
    let output = command.current_dir(stage.folder.path("")).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let lines = ["checked", "running", "successor", "moved"];
    assert!(lines.iter().all(|word| text.lines().any(|line| line.starts_with(word))), "{text}");
    let successor = text.lines().find(|line| line.starts_with("successor")).unwrap();
    let pid = successor.split("pid ").nth(1).unwrap().split([',', ' ', ';']).next().unwrap().parse().unwrap();
    let guard = EndedLater(pid);
    let ended = generations.current.end();
    assert!(ended.success(), "{ended}");
    load.switched();
    load.tally.wait_for_progress();
    check_all(&stage, load);
    drop(guard);
}

/// A process that is no child of this one; it is killed when dropped.
struct EndedLater(u32);

impl Drop for EndedLater {
    fn drop(&mut self) {
        super::frames::end_now(self.0);
    }
}
