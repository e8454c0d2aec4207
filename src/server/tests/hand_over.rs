//! The events of a hand-over in each phase.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::*;
use crate::server::handover::session::{
    HandOverEvent, MainProcess, Offer, SessionEnd, SuccessorEnd, SuccessorRequest, TakeOverEvent,
};
use crate::server::upgrade_state::MoveReport;
use crate::wire::handover::{Go, Refused};

/// The process id of the successor that a test plays.
const SUCCESSOR: u32 = 4711;

/// A successor that a test plays.
pub(super) struct PlayedSuccessor {
    /// Its end of the session.
    socket: UnixStream,
    /// The end of the thread that answers it.
    _session: UnixStream,
    /// The answer to its request.
    offer: Receiver<Result<Offer, Refused>>,
    /// The number of its first connection.
    next_id: Option<Receiver<u64>>,
}

impl PlayedSuccessor {
    /// Returns a successor and its request.
    fn new(pid: u32) -> (Self, SuccessorRequest) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let session = theirs.try_clone().unwrap();
        let (reply, offer) = sync_channel(1);
        (
            Self { socket: ours, _session: session, offer, next_id: None },
            SuccessorRequest::of(pid, theirs, reply),
        )
    }

    /// Returns true if its session was stopped.
    fn is_stopped(&mut self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        matches!(self.socket.read(&mut [0]), Ok(0))
    }

    /// Returns the answer to its request: `accepted`, or the reason for a refusal.
    fn answer(&self) -> String {
        match self.offer.try_recv() {
            Ok(Ok(_)) => "accepted".to_owned(),
            Ok(Err(refused)) => refused.reason,
            Err(_) => "no answer".to_owned(),
        }
    }
}

impl ControlFixture {
    /// Gives the sockets of the start to the workers.
    fn listen(&mut self) {
        let sockets = std::mem::take(&mut self.control.server.held);
        let bound = InForce::bound(&self.control.server.view);
        let server = &mut self.control.server;
        let _ = server.sockets.carry_out(sockets, &server.workers, &bound);
    }

    /// Handles an event that the process survives.
    fn pass(&mut self, phase: Phase, event: HandOverEvent) -> Phase {
        let flow = self.control.step(phase, ControlEvent::HandOver(event));
        let Flow::Continue(phase) = flow else { panic!("{}", outcome(&flow)) };
        phase
    }

    /// Returns the phase in which a successor is being built.
    pub(super) fn offering(&mut self) -> Phase {
        let (successor, request) = PlayedSuccessor::new(SUCCESSOR);
        self.successor = Some(successor);
        self.pass(Phase::Serving, HandOverEvent::Asked(request))
    }

    /// Returns the phase in which the workers stop to accept. They never answer.
    pub(super) fn pausing(&mut self) -> Phase {
        match self.stops_to_accept() {
            Phase::HandingOver(handing) => Phase::HandingOver(handing.held()),
            other => panic!("{}", name(&other)),
        }
    }

    fn stops_to_accept(&mut self) -> Phase {
        let (reply, next_id) = sync_channel(1);
        let offering = self.offering();
        if let Some(successor) = &mut self.successor {
            successor.next_id = Some(next_id);
        }
        self.pass(offering, HandOverEvent::Ready(reply))
    }

    /// Returns the phase in which the successor accepts and connections move.
    pub(super) async fn moving(&mut self) -> Phase {
        let pausing = self.stops_to_accept();
        let flow = self.handle(pausing, |event| matches!(event, ControlEvent::Due)).await;
        let Flow::Continue(phase) = flow else { panic!("{}", outcome(&flow)) };
        phase
    }
}

/// Checks an event in each phase: `expected` of a row is the phase and the effect after the event.
fn check_event(event: impl Fn() -> ControlEvent, expected: impl Fn(&PhaseRow) -> String) {
    for row in &TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let phase = fixture.phase(row.0).await;
            let clock = StoppedClock::new();
            let flow = fixture.control.step(phase, event());
            let answer = fixture.answer();
            clock.assert_unmoved(row.0);
            assert_eq!(outcome(&flow) + answer, expected(row), "in the phase {}", row.0);
        });
    }
}

/// Returns the group of phases in which a phase is.
fn group(phase: &str) -> &str {
    phase.split(':').next().unwrap_or(phase)
}

#[test]
fn a_successor_is_accepted_while_the_process_serves_and_refused_otherwise() {
    for (phase, ..) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let running = fixture.phase(phase).await;
            let clock = StoppedClock::new();
            let (successor, request) = PlayedSuccessor::new(812);
            let flow = fixture.control.step(running, ControlEvent::HandOver(HandOverEvent::Asked(request)));
            clock.assert_unmoved(phase);
            let (next, reason) = match group(phase) {
                "serving" => ("handing over: offering", "accepted"),
                "starting" => (phase, "still starting"),
                "rebuilding" | "reading" | "preparing" | "settling" => (phase, "a reload"),
                "handing over" => (phase, "a hand-over to process 4711 began 0 s ago"),
                _ => (phase, "drains its connections and ends"),
            };
            assert_eq!(outcome(&flow), next, "in the phase {phase}");
            let answer = successor.answer();
            assert!(answer.contains(reason), "in the phase {phase}: {answer}");
            assert_eq!(fixture.answer(), "", "a reload that is under way goes on");
        });
    }
}

#[test]
fn a_successor_that_is_gone_when_it_is_accepted_changes_nothing() {
    on_paused_clock(async {
        let mut fixture = ControlFixture::new();
        let (successor, request) = PlayedSuccessor::new(SUCCESSOR);
        drop(successor);
        let phase = fixture.pass(Phase::Serving, HandOverEvent::Asked(request));
        assert_eq!(name(&phase), "serving");
    });
}

#[test]
fn the_steps_of_a_session_count_only_in_a_hand_over() {
    let in_hand_over = |next: &'static str| {
        move |row: &PhaseRow| if group(row.0) == "handing over" { next } else { row.0 }.to_owned()
    };
    let ready = || ControlEvent::HandOver(HandOverEvent::Ready(sync_channel(1).0));
    check_event(ready, in_hand_over("handing over: pausing"));
    let moved =
        || ControlEvent::HandOver(HandOverEvent::Moved(MoveReport::default(), MainProcess::Successor));
    check_event(moved, in_hand_over("draining: finishing"));
    let failed = || {
        let end = SessionEnd::Failed { reason: "x".to_owned(), moved: 0 };
        ControlEvent::HandOver(HandOverEvent::Ended(end))
    };
    check_event(failed, in_hand_over("serving"));
    let done = || ControlEvent::HandOver(HandOverEvent::Ended(SessionEnd::Done));
    check_event(done, |row| row.0.to_owned());
}

#[test]
fn a_reload_over_the_socket_waits_or_is_refused_at_once() {
    for (phase, _, _, expected) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let running = fixture.phase(phase).await;
            let (reply, mut answer) = oneshot::channel();
            let flow = fixture.control.step(running, ControlEvent::HandOver(HandOverEvent::Reload(reply)));
            assert_eq!(outcome(&flow), phase);
            let effect = match answer.try_recv() {
                Ok(Err(ReloadFault::HandingOver)) if group(phase) == "handing over" => "refused",
                Ok(Err(ReloadFault::Stopping)) if group(phase) != "handing over" => "refused",
                Ok(_) => "answered",
                Err(_) => "waits",
            };
            assert_eq!(effect, expected, "in the phase {phase}");
            assert_eq!(fixture.control.queue.is_empty(), expected == "refused", "in the phase {phase}");
        });
    }
}

#[test]
fn the_incumbent_lets_this_program_accept_once_it_is_built() {
    let go = || ControlEvent::TakeOver(TakeOverEvent::Go(Go { next_id: 77, ..Go::default() }));
    let expected = |row: &PhaseRow| match row.0 {
        "starting: taking over" => "serving".to_owned(),
        phase => phase.to_owned(),
    };
    check_event(go, expected);
    on_paused_clock(async {
        let mut fixture = ControlFixture::new();
        let phase = fixture.phase("starting: taking over").await;
        let Flow::Continue(_) = fixture.control.step(phase, go()) else { panic!("it serves") };
        let view = &fixture.control.server.view;
        assert_eq!(view.bounds.next_id.load(Ordering::Relaxed), 77);
        assert_eq!(view.life(), LifeStage::Serving);
    });
}

#[test]
fn reports_of_the_incumbent_change_no_phase() {
    let took_over = || ControlEvent::TakeOver(TakeOverEvent::TookOver(MoveReport::default()));
    check_event(took_over, |row| row.0.to_owned());
    let departed = || ControlEvent::TakeOver(TakeOverEvent::Departed(Default::default()));
    check_event(departed, |row| row.0.to_owned());
    let alone = || ControlEvent::TakeOver(TakeOverEvent::Alone(Box::default()));
    check_event(alone, |row| row.0.to_owned());
}

#[test]
fn a_program_that_does_not_take_over_stops() {
    let left = |end| move || ControlEvent::TakeOver(TakeOverEvent::Left(end, "x".to_owned()));
    let ends = "the running program did not hand over, and goes on: x";
    check_event(left(SuccessorEnd::Failed), |row| match group(row.0) {
        "starting" => ends.to_owned(),
        "draining" | "closing" => row.0.to_owned(),
        _ => row.1.to_owned(),
    });
    check_event(left(SuccessorEnd::Late), |row| match group(row.0) {
        "starting" => ends.to_owned(),
        _ => row.0.to_owned(),
    });
}

/// The session begins when this program is built, so it can serve if the incumbent is gone.
#[test]
fn a_program_whose_incumbent_is_gone_serves() {
    let gone = || ControlEvent::TakeOver(TakeOverEvent::Left(SuccessorEnd::Gone, "x".to_owned()));
    check_event(gone, |row| match row.0 {
        "starting: taking over" => "serving".to_owned(),
        phase if group(phase) == "starting" => {
            "the running program did not hand over, and goes on: x".to_owned()
        }
        phase => phase.to_owned(),
    });
}

#[test]
fn a_stop_in_the_middle_ends_the_session() {
    for phase in ["handing over: offering", "handing over: pausing", "handing over: moving"] {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let running = fixture.phase(phase).await;
            let mut successor = fixture.successor.take().unwrap();
            assert!(!successor.is_stopped(), "in the phase {phase}");
            let flow = fixture.control.step(running, ControlEvent::Stop);
            assert_eq!(outcome(&flow), "draining: grace");
            assert!(successor.is_stopped(), "in the phase {phase}");
        });
    }
}

#[test]
fn the_successor_accepts_once_the_workers_have_stopped() {
    on_paused_clock(async {
        let mut fixture = ControlFixture::new();
        let pausing = fixture.phase("handing over: pausing").await;
        let next_id = |fixture: &ControlFixture| {
            fixture.successor.as_ref().unwrap().next_id.as_ref().unwrap().try_recv()
        };
        assert_eq!(next_id(&fixture), Err(TryRecvError::Empty));
        drop(pausing);
        let _moving = fixture.phase("handing over: moving").await;
        let own = fixture.control.server.view.bounds.next_id.load(Ordering::Relaxed);
        assert!(next_id(&fixture).unwrap() > own, "no number is given twice");
    });
}

/// A listener whose clients end as soon as a worker accepts them, because their backend refuses.
const REFUSES: &str = "workers = 2\naccess_log.to = 'off'\n[listener.a]\nbind = '127.0.0.1:0'\npool = 'a'\n\
    [pool.a]\nbackends = ['127.0.0.1:1']\nhealth.check = 'off'\n";

#[test]
fn after_a_failed_session_the_workers_accept_again() {
    for step in ["handing over: offering", "handing over: pausing", "handing over: moving"] {
        on_paused_clock(async {
            let mut fixture = ControlFixture::with(REFUSES);
            fixture.listen();
            let phase = fixture.phase(step).await;
            let end = SessionEnd::Failed { reason: "it is gone".to_owned(), moved: 0 };
            let phase = fixture.pass(phase, HandOverEvent::Ended(end));
            assert_eq!(name(&phase), "serving");
            let address = fixture.control.server.view.addresses()["a"][0].tcp().unwrap();
            for _ in 0..8 {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                let read = client.read(&mut [0]);
                let is_over = !matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
                assert!(is_over, "nothing accepts after the phase {step}");
            }
            let last = fixture.control.server.view.upgrade.last().unwrap();
            assert_eq!((last.other, last.result.unwrap_err().as_str()), (SUCCESSOR, "it is gone"));
        });
    }
}
