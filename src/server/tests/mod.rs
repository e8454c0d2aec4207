//! The table of phases and events: each event has its effect in each phase at once, while the clock stands still. A
//! phase that waits for work or for a deadline delays no other event.

mod hand_over;
mod reloads;

use std::net::UdpSocket;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use self::hand_over::PlayedSuccessor;
use super::changes::Changes;
use super::control::Control;
use super::discovery::{AwaitedAnswers, EnoughAnswers, HeldReports};
use super::event::{BackendEvent, ControlEvent, FileEvent, RoutineEvent};
use super::faults::ReloadFault;
use super::in_force::InForce;
use super::phase::{DrainStep, Draining, Flow, Phase, Preparing, Settling, StartStep, Starting};
use super::reload::{CheckedReload, PlannedReload, PreparedReload};
use super::reload_queue::{ReloadOrigin, ReloadRequest, ReloadRules, ReloadRun};
use super::signals::{SignalEffect, Signals};
use super::start::Server;
use super::view::{ControlRequest, LifeStage, ServerHandle};
use super::work::Work;
use crate::config::{self, Config};
use crate::worker::WorkerCommand;

/// The real time after which a test that waits for an event fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration with a followed file of each kind. The source of `found` has no file and reports that.
const CONFIG: &str = "workers = 1\naccess_log.to = 'off'\nshutdown.grace = '1h'\nshutdown.drain = '1h'\n\
    [list.l]\nfile = '/dev/null'\nallow_empty = true\n\
    [listener.a]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nunmatched = 'a'\nroutes_file = '/dev/null'\n\
    [pool.a]\nbackends = [{ address = '127.0.0.1:1', zone = 'z' }]\nhealth.check = 'off'\n\
    near = { database = '/dev/null', sites = { z = 'DE' } }\n\
    [pool.found]\ndiscover = { file = '/nonexistent/backends.json' }\nhealth.check = 'off'\n";

type ReloadAnswer = oneshot::Receiver<Result<Changes, ReloadFault>>;

/// A control loop whose events a test makes.
struct ControlFixture {
    control: Control,
    remote: ServerHandle,
    /// The answer to the reload that is under way in a phase.
    running: Option<ReloadAnswer>,
    /// The successor of a hand-over that is under way in a phase.
    successor: Option<PlayedSuccessor>,
}

impl Drop for ControlFixture {
    fn drop(&mut self) {
        self.control.server.order_all(|| WorkerCommand::Finish);
    }
}

impl ControlFixture {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(text: &str) -> Self {
        let server = Server::start(parse(text)).unwrap();
        let remote = server.remote();
        Self {
            control: Control::new(server, Signals::Ignore).unwrap(),
            remote,
            running: None,
            successor: None,
        }
    }

    /// Returns a reload that is under way.
    fn run(&mut self) -> ReloadRun {
        let (reply, answer) = oneshot::channel();
        self.running = Some(answer);
        ReloadRun::new(ReloadOrigin::Request(reply), ReloadRules::default())
    }

    fn checked(&self) -> CheckedReload {
        CheckedReload::new(parse(CONFIG), ReloadRules::default(), &self.control.server).unwrap()
    }

    fn planned(&self) -> PlannedReload {
        let checked = self.checked();
        let sockets = checked.sockets(Default::default(), &self.control.server).unwrap();
        checked.plan(sockets, None)
    }

    async fn prepared(&self) -> PreparedReload {
        let (building, mut work) =
            self.planned().build(&self.control.server, Default::default(), Default::default());
        std::future::poll_fn(|cx| work.poll_done(cx)).await;
        let Ok(Ok(built)) = work.result() else { panic!("the configuration is good") };
        building.prepared(built)
    }

    /// Returns a phase by its name in the table. Its work never ends by itself, except by its deadline.
    async fn phase(&mut self, name: &str) -> Phase {
        let starting = |fixture: &mut Self, step| {
            Phase::Starting(Starting { sockets: std::mem::take(&mut fixture.control.server.held), step })
        };
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let draining = |step| Phase::Draining(Draining::new(step));
        match name {
            "starting: discovering" => {
                let answers = AwaitedAnswers::new(EnoughAnswers::Backends);
                starting(self, StartStep::Discovering(answers))
            }
            "starting: building" => starting(self, StartStep::Building(never(), HeldReports::default())),
            "starting: taking over" => {
                let change = InForce::bound(&self.control.server.view);
                starting(self, StartStep::TakingOver(change))
            }
            "serving" => Phase::Serving,
            "handing over: offering" => self.offering(),
            "handing over: pausing" => self.pausing(),
            "handing over: moving" => self.moving().await,
            "rebuilding" => Phase::Rebuilding(never()),
            "reading" => Phase::Reading(self.run(), Work::within(minute, std::future::pending())),
            "preparing: binding" => {
                let binding = Work::within(minute, std::future::pending());
                Phase::Preparing(self.run(), Preparing::Binding(self.checked(), binding))
            }
            "preparing: opening the log" => {
                let step = Preparing::OpeningLog(self.checked(), Default::default(), never());
                Phase::Preparing(self.run(), step)
            }
            "preparing: discovering" => {
                let answers = AwaitedAnswers::new(EnoughAnswers::Backends);
                Phase::Preparing(self.run(), Preparing::Discovering(self.planned(), answers))
            }
            "preparing: building" => {
                let (building, _) =
                    self.planned().build(&self.control.server, Default::default(), Default::default());
                let step = Preparing::Building(building, never(), HeldReports::default());
                Phase::Preparing(self.run(), step)
            }
            "preparing: changing files" => {
                let prepared = self.prepared().await;
                let step = Preparing::ChangingFiles(prepared, never(), HeldReports::default());
                Phase::Preparing(self.run(), step)
            }
            "settling" => {
                let closed = Work::pause(Duration::from_secs(1));
                Phase::Settling(self.run(), Settling { changes: Changes::default(), closed })
            }
            "draining: grace" => draining(DrainStep::Grace(Work::pause(hour))),
            "draining: removing files" => draining(DrainStep::RemovingFiles(never())),
            "draining: finishing" => draining(DrainStep::Finishing(Work::pause(hour))),
            "closing" => Phase::Closing(Work::pause(Duration::from_secs(5))),
            _ => panic!("no phase has the name {name}"),
        }
    }

    /// Handles events until one of the wanted kind was handled.
    async fn handle(&mut self, mut phase: Phase, is_wanted: fn(&ControlEvent) -> bool) -> Flow {
        loop {
            let event = self.control.next(&mut phase).await;
            let is_wanted = is_wanted(&event);
            let flow = self.control.step(phase, event);
            match flow {
                Flow::Continue(next) if !is_wanted => phase = next,
                flow => return flow,
            }
        }
    }

    /// Returns the effect on the reload under way.
    fn answer(&mut self) -> &'static str {
        match self.running.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(_)) => "",
            Some(Ok(Ok(_))) => ", reloaded",
            Some(Ok(Err(ReloadFault::Stopping))) => ", not reloaded: stopping",
            Some(Ok(Err(ReloadFault::NoAnswer))) => ", not reloaded: no answer",
            Some(Ok(Err(_))) => ", not reloaded",
        }
    }
}

fn parse(text: &str) -> Config {
    config::parse("test.toml", text).unwrap().0
}

/// Work that never ends.
fn never<T: 'static>() -> Work<T> {
    Work::new(std::future::pending())
}

fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting(Starting { step: StartStep::Discovering(_), .. }) => "starting: discovering",
        Phase::Starting(Starting { step: StartStep::Building(..), .. }) => "starting: building",
        Phase::Starting(Starting { step: StartStep::TakingOver(_), .. }) => "starting: taking over",
        Phase::Serving => "serving",
        Phase::Rebuilding(_) => "rebuilding",
        Phase::Reading(..) => "reading",
        Phase::Preparing(_, Preparing::Binding(..)) => "preparing: binding",
        Phase::Preparing(_, Preparing::OpeningLog(..)) => "preparing: opening the log",
        Phase::Preparing(_, Preparing::Discovering(..)) => "preparing: discovering",
        Phase::Preparing(_, Preparing::Building(..)) => "preparing: building",
        Phase::Preparing(_, Preparing::ChangingFiles(..)) => "preparing: changing files",
        Phase::Settling(..) => "settling",
        Phase::HandingOver(handing) => handing.name(),
        Phase::Draining(Draining { step: DrainStep::Grace(_), .. }) => "draining: grace",
        Phase::Draining(Draining { step: DrainStep::RemovingFiles(_), .. }) => "draining: removing files",
        Phase::Draining(Draining { step: DrainStep::Finishing(_), .. }) => "draining: finishing",
        Phase::Closing(_) => "closing",
    }
}

fn outcome(flow: &Flow) -> String {
    match flow {
        Flow::Continue(phase) => name(phase).to_owned(),
        Flow::Break(Ok(())) => "the end".to_owned(),
        Flow::Break(Err(error)) => error.to_string(),
    }
}

/// Runs a test on a paused clock.
fn on_paused_clock(test: impl Future<Output = ()>) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test);
}

/// A paused clock that does not move, because a blocking task runs. Without it the clock moves to the next deadline
/// whenever no task can go on.
struct StoppedClock {
    since: Instant,
    /// Ends the blocking task when it is dropped.
    _release: Sender<()>,
}

impl StoppedClock {
    fn new() -> Self {
        let (release, held) = channel::<()>();
        drop(spawn_blocking(move || held.recv_timeout(PATIENCE)));
        Self { since: Instant::now(), _release: release }
    }

    fn assert_unmoved(&self, what: &str) {
        assert_eq!(self.since.elapsed(), Duration::ZERO, "{what}: the event waited for a deadline");
    }
}

const LOST: &str = "worker 0 is lost: it ended on its own";

/// A phase, and the effects of events in it: the phase after a stop, the phase after the end of a worker, and the
/// answer to a second request to reload.
type PhaseRow = (&'static str, &'static str, &'static str, &'static str);

const TABLE: [PhaseRow; 19] = [
    ("starting: discovering", "draining: finishing", LOST, "waits"),
    ("starting: building", "draining: finishing", LOST, "waits"),
    ("starting: taking over", "draining: finishing", LOST, "waits"),
    ("serving", "draining: grace", LOST, "waits"),
    ("rebuilding", "draining: grace", LOST, "waits"),
    ("reading", "draining: grace, not reloaded: stopping", LOST, "waits"),
    ("preparing: binding", "draining: grace, not reloaded: stopping", LOST, "waits"),
    ("preparing: opening the log", "draining: grace, not reloaded: stopping", LOST, "waits"),
    ("preparing: discovering", "draining: grace, not reloaded: stopping", LOST, "waits"),
    ("preparing: building", "draining: grace, not reloaded: stopping", LOST, "waits"),
    ("preparing: changing files", "draining: grace, reloaded", LOST, "waits"),
    ("settling", "draining: grace, reloaded", LOST, "waits"),
    ("handing over: offering", "draining: grace", LOST, "refused"),
    ("handing over: pausing", "draining: grace", LOST, "refused"),
    ("handing over: moving", "draining: grace", LOST, "refused"),
    ("draining: grace", "draining: finishing", LOST, "refused"),
    ("draining: removing files", "closing", LOST, "refused"),
    ("draining: finishing", "closing", "the end", "refused"),
    ("closing", "closing", "the end", "refused"),
];

/// Checks an event in each phase: `expected` of a row is the phase and the effect after the event.
fn check(make: fn(&mut ControlFixture), is_it: fn(&ControlEvent) -> bool, expected: fn(&PhaseRow) -> String) {
    for row in &TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            // The life as the server has it in that phase.
            let life = if row.0.starts_with("starting") { LifeStage::Starting } else { LifeStage::Serving };
            fixture.control.server.view.life.store(life as u8, std::sync::atomic::Ordering::Relaxed);
            let phase = fixture.phase(row.0).await;
            assert_eq!(name(&phase), row.0);
            let clock = StoppedClock::new();
            make(&mut fixture);
            let flow = fixture.handle(phase, is_it).await;
            let answer = fixture.answer();
            clock.assert_unmoved(row.0);
            assert_eq!(outcome(&flow) + answer, expected(row), "in the phase {}", row.0);
        });
    }
}

fn is_stop(event: &ControlEvent) -> bool {
    matches!(event, ControlEvent::Stop)
}

fn is_reload(event: &ControlEvent) -> bool {
    matches!(event, ControlEvent::Reload(_))
}

#[test]
fn a_request_to_stop_is_obeyed_at_once() {
    check(|fixture| fixture.remote.stop(), is_stop, |row| row.1.to_owned());
}

#[test]
fn sigterm_is_obeyed_at_once() {
    check(
        |fixture| fixture.control.signals.early.push_back(SignalEffect::Stop),
        is_stop,
        |row| row.1.to_owned(),
    );
}

#[test]
fn the_end_of_a_worker_is_noticed_at_once() {
    let expected = |row: &PhaseRow| {
        let answer = match row.0 {
            "settling" => ", reloaded",
            "reading" => ", not reloaded: stopping",
            preparing if preparing.starts_with("preparing") => ", not reloaded: stopping",
            _ => "",
        };
        format!("{}{answer}", row.2)
    };
    let finish = |fixture: &mut ControlFixture| fixture.control.server.order_all(|| WorkerCommand::Finish);
    check(finish, |event| matches!(event, ControlEvent::Worker(..)), expected);
}

#[test]
fn a_worker_that_fails_ends_the_process_in_each_phase() {
    for (phase, ..) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let phase = fixture.phase(phase).await;
            let is_closing = matches!(phase, Phase::Closing(_));
            let flow = fixture.control.step(phase, ControlEvent::Worker(0, Err(std::io::Error::other("x"))));
            let expected = if is_closing { "x" } else { "worker 0 is lost: x" };
            assert_eq!(outcome(&flow), expected);
        });
    }
}

#[test]
fn a_second_reload_waits_or_is_refused_at_once() {
    for (phase, _, _, expected) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let running = fixture.phase(phase).await;
            let clock = StoppedClock::new();
            let (reply, mut answer) = oneshot::channel();
            let _ = fixture.remote.requests.send(ControlRequest::Reload(Box::new(parse(CONFIG)), reply));
            let flow = fixture.handle(running, is_reload).await;
            clock.assert_unmoved(phase);
            assert_eq!(outcome(&flow), phase, "a reload that is under way goes on");
            let effect = match answer.try_recv() {
                Ok(Err(ReloadFault::Stopping | ReloadFault::HandingOver)) => "refused",
                Ok(_) => "answered",
                Err(_) => "waits",
            };
            assert_eq!((effect, fixture.answer()), (expected, ""), "in the phase {phase}");
            assert_eq!(fixture.control.queue.is_empty(), expected == "refused", "in the phase {phase}");
        });
    }
}

#[test]
fn sighup_waits_or_is_refused_at_once() {
    for (phase, _, _, expected) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let running = fixture.phase(phase).await;
            let clock = StoppedClock::new();
            // Several signals need one reload.
            fixture.control.signals.early.extend([SignalEffect::Reload, SignalEffect::Reload]);
            let flow = fixture.handle(running, is_reload).await;
            let Flow::Continue(running) = flow else { panic!("{}", outcome(&flow)) };
            let flow = fixture.control.step(running, ControlEvent::Reload(ReloadRequest::File));
            clock.assert_unmoved(phase);
            assert_eq!(outcome(&flow), phase);
            let waits = matches!(fixture.control.queue.pop(), Some(ReloadRequest::File));
            assert_eq!(waits, expected == "waits", "in the phase {phase}");
            assert!(fixture.control.queue.is_empty(), "in the phase {phase}");
        });
    }
}

#[test]
fn other_events_change_no_phase() {
    for (phase, ..) in TABLE {
        on_paused_clock(async {
            let mut fixture = ControlFixture::new();
            let followers = &mut fixture.control.followers;
            let list = FileEvent::List(followers.list_files.next().await);
            let near = FileEvent::Near(followers.near_files.next().await);
            let routes = FileEvent::Routes(followers.route_files.next().await);
            let found = followers.discovery.reports.recv().await.unwrap();
            let running = fixture.phase(phase).await;
            let mut events = vec![
                ControlEvent::Discovered(found),
                ControlEvent::File(list),
                ControlEvent::File(near),
                ControlEvent::File(routes),
                ControlEvent::Backend(BackendEvent::EjectionOver),
            ];
            events.extend(
                [
                    RoutineEvent::Upkeep,
                    RoutineEvent::Watchdog,
                    RoutineEvent::Overdue,
                    RoutineEvent::Readiness,
                    RoutineEvent::Saturation,
                    RoutineEvent::ReopenLog,
                    RoutineEvent::LogSigusr2,
                    RoutineEvent::LogSigquit,
                ]
                .map(ControlEvent::Routine),
            );
            let clock = StoppedClock::new();
            let mut flow = Flow::Continue(running);
            for event in events {
                let Flow::Continue(running) = flow else { panic!("{}", outcome(&flow)) };
                flow = fixture.control.step(running, event);
                assert_eq!(outcome(&flow), phase);
            }
            clock.assert_unmoved(phase);
            assert!(fixture.control.followers.has_noted(), "reports about files wait in the phase {phase}");
        });
    }
}

/// Each phase with the time after which its deadline ends it, and the phase and the effect then.
const DEADLINES: [(&str, u64, &str); 8] = [
    ("starting: discovering", 5000, "starting: building"),
    ("reading", 60_000, "serving, not reloaded: no answer"),
    ("preparing: binding", 60_000, "serving, not reloaded: no answer"),
    ("preparing: discovering", 5000, "preparing: building"),
    ("settling", 1000, "serving, reloaded"),
    ("draining: grace", 3_600_000, "draining: finishing"),
    ("draining: finishing", 3_600_000, "closing"),
    ("closing", 5000, "connections did not end"),
];

/// Checks that only a deadline ends a phase: when, and with which effect.
async fn check_deadline(mut fixture: ControlFixture, (phase, milliseconds, expected): (&str, u64, &str)) {
    let began = Instant::now();
    let mut running = fixture.phase(phase).await;
    let flow = loop {
        let event = fixture.control.next(&mut running).await;
        match fixture.control.step(running, event) {
            Flow::Continue(next) if name(&next) == phase => running = next,
            flow => break flow,
        }
    };
    assert_eq!(outcome(&flow) + fixture.answer(), expected, "after the phase {phase}");
    let (waited, after) = (began.elapsed(), Duration::from_millis(milliseconds));
    assert!((after..after + Duration::from_millis(20)).contains(&waited), "{phase} ended after {waited:?}");
}

#[test]
fn deadlines_end_the_phases_that_have_one() {
    for row in DEADLINES {
        on_paused_clock(async { check_deadline(ControlFixture::new(), row).await });
    }
}

#[test]
fn a_late_source_does_not_delay_a_pool_with_other_backends() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = silent.local_addr().unwrap();
    let text = format!(
        "{CONFIG}backends = ['127.0.0.1:1']\n[pool.late]\nbackends = ['127.0.0.1:1']\nhealth.check = 'off'\n\
         discover = {{ dns = 'app.test.', port = 1, resolvers = '{resolver}' }}\n"
    );
    for phase in ["starting: discovering", "preparing: discovering"] {
        let building = phase.replace("discovering", "building");
        on_paused_clock(async {
            check_deadline(ControlFixture::with(&text), (phase, 500, &building)).await;
        });
    }
}
