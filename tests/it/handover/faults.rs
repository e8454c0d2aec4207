//! Hand-overs that fail: a successor that behaves wrongly or is killed. The incumbent goes on, and a later hand-over
//! succeeds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pointsman::wire::handover::{
    Adopted, Batch, Declined, Done, Go, Hello, Message, Protocols, Ready, Reload, Rest, Sockets,
};

use super::clients::short_client;
use super::frames::{FrameProxy, Passing, Sender, Verdict, head};
use super::load::{Load, LoadPlan};
use super::peers::{PlayedPeer, hello};
use super::rows::check_all;
use super::stage::{Generations, Stage};
use crate::process::Program;
use crate::support::pair::patient;
use crate::support::wait_for;

/// A running incumbent under a load.
struct Running {
    stage: Stage,
    generations: Generations,
    load: Load,
    /// The descriptors that the incumbent has open between two hand-overs.
    descriptors: usize,
    /// The hand-overs that began and failed.
    failed: usize,
}

impl Running {
    fn start(test: &str, each: usize) -> Self {
        let stage = Stage::new(test);
        let generations = Generations::start(&stage.write("workers = 2"));
        let load = Load::start(&LoadPlan::steady(each), stage.listeners.clone(), &stage.backends);
        load.tally.wait_for_progress();
        let mut running = Self { stage, generations, load, descriptors: 0, failed: 0 };
        running.descriptors = running.generations.descriptors();
        running
    }

    /// Checks that the incumbent serves as if nothing had happened.
    #[track_caller]
    fn check(&mut self, case: &str) {
        let log = || self.generations.current.stderr.all().join("\n");
        assert!(!log().contains("panicked"), "{case}:\n{}", log());
        self.load.tally.wait_for_progress();
        assert_eq!(self.load.tally.failures(), 0, "{case}: {}\n{}", self.load.tally.text(), log());
        short_client(&self.stage.listeners, &self.load.tally);
        // Each failed hand-over may keep few descriptors for a moment, and none for ever.
        wait_for(&format!("{case}: descriptors"), || self.generations.descriptors() <= self.descriptors + 16);
        self.generations.check_alive();
    }

    /// Runs a hand-over that succeeds, ends the load and compares all.
    fn finish(mut self) {
        self.generations.take_over();
        self.load.switched();
        self.load.tally.wait_for_progress();
        check_all(&self.stage, self.load);
    }

    fn peer(&self) -> PlayedPeer {
        PlayedPeer::connect(&self.stage.socket())
    }

    /// Waits until the incumbent has taken back one more hand-over. Before that, it refuses the next one.
    #[track_caller]
    fn wait_until_taken_back(&mut self, case: &str) {
        self.failed += 1;
        wait_for(&format!("{case}: the end of the hand-over"), || {
            self.generations.taken_back() == self.failed
        });
    }

    /// Ends a played successor.
    #[track_caller]
    fn leave(&mut self, peer: PlayedPeer, case: &str) {
        let has_asked = peer.has_asked();
        drop(peer);
        if has_asked {
            self.wait_until_taken_back(case);
        }
    }
}

/// A successor that behaves wrongly: the name of its fault, and what it does.
type Fault = (&'static str, fn(&PlayedPeer));

const FAULTS: &[Fault] = &[
    ("closes at once", |_| {}),
    ("closes after Hello", PlayedPeer::hello),
    ("closes after Welcome", |peer| {
        peer.hello();
        peer.receive_until("Welcome");
    }),
    ("closes after Sockets", |peer| {
        peer.hello();
        peer.receive_until("Sockets");
    }),
    ("closes before Ready", PlayedPeer::until_ready),
    ("closes after Ready", |peer| {
        peer.until_ready();
        peer.send(&Message::Ready(Ready::default()));
    }),
    ("closes after Go", PlayedPeer::until_go),
    ("closes after a batch", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
    }),
    ("declines a batch", |peer| {
        peer.until_go();
        let (message, _) = peer.receive_until("Batch");
        let Message::Batch(batch) = message else { unreachable!() };
        peer.send(&Message::Declined(Declined { number: batch.number, reason: "no room".to_owned() }));
    }),
    ("declines a batch that was not sent", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
        peer.send(&Message::Declined(Declined { number: 77, reason: "no room".to_owned() }));
    }),
    ("acknowledges a batch that was not sent", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
        peer.adopt(999);
        peer.receive_to_end();
    }),
    ("acknowledges batch 0", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
        peer.adopt(0);
        peer.receive_to_end();
    }),
    ("acknowledges before Go", |peer| {
        peer.until_ready();
        peer.adopt(1);
        peer.receive_to_end();
    }),
    ("is ready before Hello", |peer| {
        peer.send(&Message::Ready(Ready::default()));
        peer.receive_to_end();
    }),
    ("is ready twice", |peer| {
        peer.until_ready();
        peer.send(&Message::Ready(Ready::default()));
        peer.send(&Message::Ready(Ready::default()));
        peer.receive_to_end();
    }),
    ("says Hello twice", |peer| {
        peer.hello();
        peer.hello();
        peer.receive_to_end();
    }),
    ("sends garbage", |peer| {
        peer.send_bytes(&[0xff; 4096]);
        peer.receive_to_end();
    }),
    ("speaks HTTP", |peer| {
        peer.send_bytes(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        peer.receive_to_end();
    }),
    ("sends half a head", |peer| peer.send_bytes(&head(1, 0, 2, 0)[..7])),
    ("sends half a Hello", |peer| {
        peer.send_bytes(&head(1, 0, 100, 0));
        peer.send_bytes(b"{\"protocols\"");
    }),
    ("names 4 GiB of JSON", |peer| {
        peer.send_bytes(&head(1, 0, u32::MAX, 0));
        peer.receive_to_end();
    }),
    ("names raw bytes without an end", |peer| {
        peer.send_bytes(&head(1, 0, 2, u64::MAX));
        peer.receive_to_end();
    }),
    ("names descriptors that do not come", |peer| {
        peer.send_bytes(&head(1, 200, 2, 0));
        peer.send_bytes(b"{}");
        peer.receive_to_end();
    }),
    ("sends a Hello that is no JSON", |peer| {
        peer.send_bytes(&head(1, 0, 3, 0));
        peer.send_bytes(b"{{{");
        peer.receive_to_end();
    }),
    ("sends an unknown kind", |peer| {
        peer.send_bytes(&head(200, 0, 2, 0));
        peer.send_bytes(b"{}");
        peer.receive_to_end();
    }),
    ("sends descriptors with Hello", |peer| {
        use std::os::fd::AsFd;
        let file = std::io::pipe().unwrap().0;
        peer.send_with(&Message::Hello(hello()), &[], &[file.as_fd(); 200]);
        let _ = peer.receive();
    }),
    ("says an empty Hello", |peer| {
        peer.send(&Message::Hello(Hello::default()));
        peer.receive_to_end();
    }),
    ("has too few descriptors", |peer| {
        peer.send(&Message::Hello(Hello { nofile: 16, ..hello() }));
        assert!(peer.receive_to_end().contains(&"Refused"));
    }),
    ("sends the messages of an incumbent", |peer| {
        let messages = [
            Message::Welcome(Box::default()),
            Message::Sockets(Sockets { more: true, ..Sockets::default() }),
            Message::ProcessState(Box::default()),
            Message::Go(Go { next_id: 1, ..Go::default() }),
            Message::Batch(Batch { number: 1, ..Batch::default() }),
            Message::Rest(Rest::default()),
            Message::Done(Done::default()),
        ];
        peer.hello();
        messages.iter().for_each(|message| peer.send(message));
        peer.receive_to_end();
    }),
    ("sends each of them first", |peer| {
        peer.send(&Message::Batch(Batch { number: 1, ..Batch::default() }));
        peer.receive_to_end();
    }),
    ("reloads in the middle", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
        peer.send(&Message::Reload(Reload::default()));
        peer.receive_to_end();
    }),
];

#[test]
fn the_incumbent_goes_on_after_each_fault_of_a_successor() {
    let mut running = Running::start("upgrade-faults", 4);
    for (case, play) in FAULTS {
        println!("{case}");
        let peer = running.peer();
        play(&peer);
        running.leave(peer, case);
        running.check(case);
    }
    running.finish();
}

/// Only the sockets go over, and the old process drains. If the successor leaves before that, nothing has happened.
#[test]
fn a_successor_without_a_common_protocol_may_leave() {
    let mut running = Running::start("upgrade-protocol", 4);
    let protocols = Protocols { min: 99, max: 99 };
    let peer = running.peer();
    peer.send(&Message::Hello(Hello { protocols, ..hello() }));
    let (message, _) = peer.receive_until("Welcome");
    let Message::Welcome(welcome) = message else { unreachable!() };
    assert_eq!((welcome.protocol, welcome.pid), (None, running.generations.current.child.id()));
    peer.receive_until("Sockets");
    running.leave(peer, "protocol 99");
    running.check("protocol 99");
    running.finish();
}

#[test]
fn a_second_successor_is_refused_while_the_first_is_served() {
    let mut running = Running::start("upgrade-two", 2);
    let first = running.peer();
    first.until_ready();
    let second = running.peer();
    second.hello();
    let (Message::Refused(refused), _) = second.receive().unwrap() else { panic!("it is not refused") };
    let message = refused.reason;
    assert!(message.contains(&std::process::id().to_string()), "the reason names the first: {message}");
    drop(second);
    running.check("a second");
    running.leave(first, "the first");
    running.check("the first is gone");
    running.finish();
}

/// Plays a successor that stays and does nothing more, until the incumbent closes the connection.
fn hang(test: &str, before: fn(&PlayedPeer)) {
    let mut running = Running::start(test, 4);
    let peer = running.peer();
    before(&peer);
    peer.wait_at_most(Duration::from_secs(120));
    peer.receive_to_end();
    running.leave(peer, "a hang");
    running.check("a hang");
    running.finish();
}

#[test]
#[ignore = "takes a minute"]
fn a_successor_that_hangs_before_it_is_ready_is_given_up() {
    hang("upgrade-hang-ready", PlayedPeer::until_ready);
}

#[test]
#[ignore = "takes a minute"]
fn a_successor_that_hangs_after_hello_is_given_up() {
    hang("upgrade-hang-hello", |peer| {
        peer.hello();
        peer.receive_until("Welcome");
    });
}

#[test]
#[ignore = "takes a minute"]
fn a_successor_that_takes_no_batch_is_given_up() {
    hang("upgrade-hang-batch", |peer| {
        peer.until_go();
        peer.receive_until("Batch");
    });
}

/// The connections of an acknowledged batch end with their process; all others go on.
#[test]
fn a_successor_that_leaves_after_half_takes_only_its_own_with_it() {
    let mut running = Running::start("upgrade-half", 24);
    let peer = running.peer();
    peer.until_go();
    let (message, frame) = peer.receive_until("Batch");
    let Message::Batch(batch) = message else { unreachable!() };
    peer.adopt(batch.number);
    // The acknowledgement is read before the end.
    drop(frame);
    running.leave(peer, "half");
    check_losses(&mut running, batch.connections.len() as u64);
}

/// Checks that no more connections failed than a dead successor had, and that the rest moves later.
fn check_losses(running: &mut Running, adopted: u64) {
    let tally = std::sync::Arc::clone(&running.load.tally);
    wait_for("the loss of what the successor had", || tally.failures() > 0);
    tally.wait_for_progress();
    assert!(tally.failures() <= adopted, "{adopted} were adopted; {}", tally.text());
    short_client(&running.stage.listeners, &tally);
    running.generations.take_over();
    running.load.switched();
    tally.wait_for_progress();
    running.load.end();
    wait_for("the last client", || running.load.has_ended());
    assert!((1..=adopted).contains(&tally.failures()), "{adopted} were adopted; {}", tally.text());
}

/// Runs a successor behind a proxy that decides about each frame, and waits for the end of the successor.
fn through_proxy(
    running: &mut Running,
    case: &str,
    judge: impl Fn(&Passing<'_>) -> Verdict + Send + Sync + 'static,
) -> FrameProxy {
    let proxy = FrameProxy::at(&running.stage.socket(), judge);
    let mut successor = running.generations.spawn_successor(Path::new(env!("CARGO_BIN_EXE_pointsman")));
    let status = successor.end();
    let log = successor.stderr.all().join("\n");
    assert!(!status.success() && !log.contains("panicked"), "{case}: {status}:\n{log}");
    if proxy.has_passed("Hello") {
        running.wait_until_taken_back(case);
    }
    proxy
}

/// The messages after which nothing has moved.
const EARLY: [(Sender, &str); 7] = [
    (Sender::Successor, "Hello"),
    (Sender::Incumbent, "Welcome"),
    (Sender::Incumbent, "Sockets"),
    (Sender::Incumbent, "ProcessState"),
    (Sender::Successor, "Ready"),
    (Sender::Incumbent, "Go"),
    (Sender::Incumbent, "Batch"),
];

#[test]
fn the_incumbent_goes_on_if_its_successor_is_killed_before_it_has_a_connection() {
    let mut running = Running::start("upgrade-killed", 3);
    for (sender, name) in EARLY {
        for is_before in [true, false] {
            if (name, is_before) == ("Batch", false) {
                continue;
            }
            let case = format!("killed {} {name}", if is_before { "before" } else { "after" });
            println!("{case}");
            let proxy = through_proxy(&mut running, &case, move |passing| {
                if (passing.from, passing.message.name()) != (sender, name) {
                    Verdict::Pass
                } else if is_before {
                    Verdict::KillAndPass(passing.successor)
                } else {
                    Verdict::PassAndKill(passing.successor)
                }
            });
            assert!(proxy.has_seen(name), "{case}");
            drop(proxy);
            running.check(&case);
        }
    }
    running.finish();
}

/// A batch without its descriptors is declined: its connections go on in the incumbent, and come with later batches.
#[test]
fn batches_without_their_descriptors_come_again() {
    let mut running = Running::start("upgrade-lost", 3);
    let lost = AtomicUsize::new(0);
    let proxy = FrameProxy::at(&running.stage.socket(), move |passing| {
        let is_batch = passing.message.name() == "Batch";
        let loses = is_batch && lost.fetch_add(1, Ordering::Relaxed) < 2;
        if loses { Verdict::LoseDescriptors } else { Verdict::Pass }
    });
    running.generations.take_over();
    assert!(proxy.has_seen("Declined") && proxy.has_seen("Rest"));
    drop(proxy);
    running.load.switched();
    running.load.tally.assert_clean();
    running.finish();
}

#[test]
fn frames_that_are_cut_or_lose_their_descriptors_end_a_hand_over_and_no_connection() {
    let mut running = Running::start("upgrade-cut", 3);
    for (sender, name) in EARLY {
        for verdict in [Verdict::CutAfter(9), Verdict::CutAfter(17), Verdict::Close, Verdict::LoseDescriptors]
        {
            if matches!(verdict, Verdict::LoseDescriptors) && name != "Sockets" {
                continue;
            }
            let case = format!("{verdict:?} at {name}");
            println!("{case}");
            let proxy = through_proxy(&mut running, &case, move |passing| {
                if (passing.from, passing.message.name()) == (sender, name) { verdict } else { Verdict::Pass }
            });
            assert!(proxy.has_seen(name), "{case}");
            drop(proxy);
            running.check(&case);
        }
    }
    running.finish();
}

#[test]
fn a_successor_that_is_killed_after_half_takes_only_its_own_with_it() {
    let mut running = Running::start("upgrade-killed-half", 24);
    let proxy = through_proxy(&mut running, "killed after a batch", |passing| match passing.message {
        Message::Adopted(Adopted { .. }) if passing.nth == 1 => Verdict::PassAndKill(passing.successor),
        _ => Verdict::Pass,
    });
    let adopted = proxy.adopted();
    drop(proxy);
    assert!(adopted > 0);
    check_losses(&mut running, adopted);
}

/// Starts a real successor that never gets to say that it is ready.
fn held_before_ready(running: &Running) -> (FrameProxy, Program) {
    let proxy = FrameProxy::at(&running.stage.socket(), |passing| match passing.message {
        Message::Ready(_) => Verdict::Stall,
        _ => Verdict::Pass,
    });
    let successor = running.generations.spawn_successor(Path::new(env!("CARGO_BIN_EXE_pointsman")));
    wait_for("a successor that is ready", || proxy.has_seen("Ready"));
    (proxy, successor)
}

#[test]
fn a_reload_is_refused_while_a_successor_is_served() {
    let mut running = Running::start("upgrade-reload", 2);
    let (proxy, successor) = held_before_ready(&running);
    let before = running.generations.current.stderr.all().len();
    running.generations.current.signal("HUP");
    wait_for("the refusal", || {
        let lines = running.generations.current.stderr.all();
        lines[before..].iter().any(|line| line.contains("reload"))
    });
    running.check("a reload");
    drop(successor);
    running.wait_until_taken_back("the successor is gone");
    drop(proxy);
    running.check("the successor is gone");
    running.finish();
}

/// Both drain, and no open connection is cut.
#[test]
fn a_stop_in_the_middle_lets_open_connections_end() {
    let mut running = Running::start("upgrade-stop", 2);
    let (proxy, mut successor) = held_before_ready(&running);
    running.generations.current.signal("TERM");
    successor.signal("TERM");
    successor.end();
    drop(proxy);
    running.load.tally.wait_for_progress();
    running.load.end();
    wait_for("the last client", || running.load.has_ended());
    running.load.tally.assert_clean();
    assert!(running.generations.current.end().success());
}

/// Kills the incumbent at a message. The successor has the listeners and the connections that it acknowledged, or it
/// ends in order if it has nothing yet.
#[test]
fn a_successor_goes_on_alone_if_the_incumbent_is_killed() {
    let steps = [
        (Sender::Successor, "Hello", false),
        (Sender::Incumbent, "Welcome", false),
        (Sender::Incumbent, "Sockets", false),
        (Sender::Incumbent, "ProcessState", false),
        (Sender::Successor, "Ready", true),
        (Sender::Incumbent, "Go", true),
        (Sender::Successor, "Adopted", true),
        (Sender::Incumbent, "Rest", true),
    ];
    for (sender, name, must_serve) in steps {
        println!("killed after {name}");
        let mut running = Running::start(&format!("upgrade-orphan-{name}"), 8);
        let incumbent = running.generations.current.child.id();
        let proxy = FrameProxy::at(&running.stage.socket(), move |passing| {
            let is_now = (passing.from, passing.message.name()) == (sender, name);
            if is_now { Verdict::PassAndKill(incumbent) } else { Verdict::Pass }
        });
        let mut successor = running.generations.spawn_successor(Path::new(env!("CARGO_BIN_EXE_pointsman")));
        running.generations.current.end();
        let mut status = None;
        wait_for("a successor that serves or ends", || {
            status = successor.child.try_wait().unwrap();
            status.is_some() || is_served(&running.stage)
        });
        let log = successor.stderr.all().join("\n");
        assert!(!log.contains("panicked"), "{name}: {log}");
        assert!(status.is_none() || !must_serve, "{name}: {status:?}\n{log}");
        assert!(
            status.is_none_or(|status| !status.success()),
            "{name}: it ended as if all were well:\n{log}"
        );
        running.load.tally.wait_for_progress();
        let survivors = running.load.clients() - running.load.tally.failures();
        running.load.end();
        wait_for("the last client", || running.load.has_ended());
        println!("{name}: {survivors} of {} go on; {} adopted", running.load.clients(), proxy.adopted());
        // Those that do nothing find their end only when they do something.
        let lost = running.load.tally.failures();
        assert!(running.load.clients() - lost >= proxy.adopted(), "{name}: {}", running.load.tally.text());
        if name == "Rest" {
            assert_eq!(lost, 0, "{}", running.load.tally.text());
        }
    }
}

/// Returns true if a new client is served.
fn is_served(stage: &Stage) -> bool {
    let Ok(stream) = TcpStream::connect(stage.listeners.plain[0]) else { return false };
    let mut stream = patient(stream);
    let task = super::backends::Task::Echo.written(0, 0);
    let mut answer = [0; 5];
    stream.write_all(&[&task[..], b"hello"].concat()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"hello"
}
