//! Two servers in one process: the first one exports its state, and the second one restores it.

use std::ops::ControlFlow::Continue;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

use super::*;
use crate::config;
use crate::limit::{AdmissionRequest, Moment, PrefixLengths, Rate, SourceKey, SourceLimits};
use crate::pool::{BackendState, CheckFault, CheckOutcome, CheckReport};
use crate::server::control::Control;
use crate::server::event::BackendEvent;
use crate::server::phase::Phase;
use crate::server::readiness::Readiness;
use crate::server::signals::Signals;
use crate::server::start::Server;
use crate::telemetry::metrics::families;
use crate::wire::handover::{HandedDrain, Message, ProcessState, StatePart};
use crate::worker::WorkerCommand;

/// The time after which a start counts as a start that waits for answers. A start without any waits 5 s.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A configuration with a part of each kind. `{file}` is the file of a discovery source.
const CONFIG: &str = "workers = 1\naccess_log.to = 'off'\n[list.l]\nfile = '/dev/null'\nallow_empty = true\n\
    [listener.a]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nunmatched = 'a'\nrate = '1/m'\nper_source.rate = '1/m'\n\
    routes = [{ sni = 'r.test', name = 'r', pool = 'a', limits = { rate = '1/m' } },\n\
    { sni = ['u.test', 'r'], pool = 'a' }]\n\
    [pool.a]\nbackends = ['127.0.0.1:1', '127.0.0.1:2']\nlimits.rate = '1/m'\nhealth.interval = '1h'\n\
    [pool.found]\ndiscover = { file = '{file}' }\nhealth.interval = '1h'\n\
    [pool.out.forward]\nallow = ['*.test']\n";

struct Fixture {
    control: Control,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.control.server.order_all(|| WorkerCommand::Finish);
    }
}

impl Fixture {
    /// Starts a server with the state of another one, and waits until it serves.
    async fn start(text: &str, state: Option<ProcessState>) -> Self {
        let mut server = Server::start(config::parse("test.toml", text).unwrap().0).unwrap();
        if let Some(state) = state {
            server.restore_state(state);
        }
        let mut fixture = Self { control: Control::new(server, Signals::Ignore).unwrap() };
        let control = &mut fixture.control;
        let mut flow = control.start();
        loop {
            let Continue(mut phase) = flow else { panic!("the server does not serve") };
            if let Phase::Serving = phase {
                return fixture;
            }
            let event = control.next(&mut phase).await;
            flow = control.step(phase, event);
        }
    }

    /// Returns the state as another process reads it.
    fn export(&self) -> ProcessState {
        let followers = &self.control.followers;
        let copies = ControlCopies::new(&followers.draining, &followers.discovery.sources);
        let mut joined = ProcessState::default();
        for part in export(&self.control.server.view, &copies).split(2) {
            let part = StatePart { state: part, more: false };
            let (kind, json) = Message::ProcessState(Box::new(part)).encode();
            let Ok(Message::ProcessState(part)) = Message::decode(kind, &json) else {
                panic!("it is a state")
            };
            joined.join(part.state);
        }
        joined
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.control.server.view.snapshot.load_full()
    }

    fn backend(&self, pool: &str, name: &str) -> Arc<Backend> {
        Arc::clone(self.snapshot().pools[pool].pool.backend(name).unwrap())
    }

    /// Applies the result of a check.
    fn checked(&mut self, pool: &str, name: &str, outcome: CheckOutcome) {
        let report = CheckReport {
            pool: pool.into(),
            backend: self.backend(pool, name),
            found: outcome.into(),
            took: Duration::from_millis(3),
        };
        let Control { followers, server, .. } = &mut self.control;
        followers.apply(BackendEvent::Checked(report), server);
    }

    fn metrics(&self) -> String {
        self.control.server.view.metrics.render()
    }
}

/// Runs a test with a file that lists one backend.
fn with_file(name: &str, test: impl AsyncFnOnce(String, PathBuf)) {
    let file = std::env::temp_dir().join(format!("pointsman-state-{name}-{}.json", std::process::id()));
    let text = r#"{"version": 1, "backends": [{"name": "f", "address": "127.0.0.1:3"}]}"#;
    std::fs::write(&file, text).unwrap();
    let config = CONFIG.replace("{file}", &file.to_string_lossy());
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test(config, file.clone()));
    _ = std::fs::remove_file(file);
}

const DOWN: CheckOutcome = CheckOutcome::Failed(CheckFault::Refused);

#[test]
fn backends_keep_their_health_and_a_start_waits_for_no_source() {
    with_file("health", async |config, file| {
        let mut old = Fixture::start(&config, None).await;
        old.checked("a", "127.0.0.1:2", DOWN);
        old.checked("found", "f", DOWN);
        let since = old.backend("found", "f").health().since();
        let state = old.export();
        // The source fails at the upgrade.
        std::fs::remove_file(file).unwrap();
        let mut new = timeout(AT_ONCE, Fixture::start(&config, Some(state.clone()))).await.unwrap();
        for (pool, name) in [("a", "127.0.0.1:2"), ("found", "f")] {
            let backend = new.backend(pool, name);
            assert_eq!((backend.state(), backend.health().checks_failed()), (BackendState::Down, 1));
            new.checked(pool, name, CheckOutcome::Passed);
            assert_eq!(new.backend(pool, name).state(), BackendState::Down, "one success is not enough");
            new.checked(pool, name, CheckOutcome::Passed);
            assert_eq!(new.backend(pool, name).state(), BackendState::Up);
        }
        assert_eq!(new.backend("a", "127.0.0.1:1").state(), BackendState::Up);
        let restored = state.backends.iter().find(|backend| backend.name == "f").unwrap();
        let age = Duration::from_millis(restored.health.as_ref().unwrap().state_age_ms);
        assert!(age <= since.elapsed());
        assert!(
            new.control.server.view.config().file.is_none() && new.control.server.pending_state.is_none()
        );
    });
}

#[test]
fn limits_lists_and_keys_go_over() {
    with_file("limits", async |config, _| {
        let old = Fixture::start(&config, None).await;
        let (view, snapshot, now) = (&old.control.server.view, old.snapshot(), Moment::now());
        let policy = policies(&snapshot)[0];
        let limits =
            SourceLimits { rate: Some(Rate::new(1, Duration::from_secs(60), 1)), ..SourceLimits::default() };
        let source = SourceKey::of("10.0.0.1".parse().unwrap(), PrefixLengths::default());
        let request = |policy: &Policy| AdmissionRequest {
            listener: policy.listener_id,
            source,
            is_read: true,
            now: Moment::now(),
        };
        drop(view.bounds.sources.admit(&request(policy), &limits).unwrap());
        assert!(policy.admission.as_ref().unwrap().rate.admit(now));
        let route = &policy.protocol.routes().targets[0];
        assert!(route.limits.as_ref().unwrap().quota.enter(now).is_ok());
        route.counts.as_ref().unwrap().take(SystemTime::now());
        assert!(snapshot.pools["a"].limits.as_ref().unwrap().quota.enter(now).is_ok());
        let additions = &snapshot.lists["l"].kept.additions;
        let end = std::time::Instant::now() + Duration::from_secs(600);
        additions.add("10.9.0.0/16".parse().unwrap(), Some(end), std::time::Instant::now()).unwrap();
        let mark = snapshot.pools["out"].pool.forward().unwrap().mark(b"hello").unwrap();

        let new = Fixture::start(&config, Some(old.export())).await;
        let (view, snapshot, now) = (&new.control.server.view, new.snapshot(), Moment::now());
        let policy = policies(&snapshot)[0];
        assert!(view.bounds.sources.admit(&request(policy), &limits).is_err());
        assert!(!policy.admission.as_ref().unwrap().rate.admit(now));
        let route = &policy.protocol.routes().targets[0];
        assert!(route.limits.as_ref().unwrap().quota.enter(now).is_err());
        assert_eq!(route.counts.as_ref().unwrap().connections(), 1);
        assert!(snapshot.pools["a"].limits.as_ref().unwrap().quota.enter(now).is_err());
        let (entry, until) = snapshot.lists["l"].kept.additions.all(std::time::Instant::now())[0];
        assert_eq!((entry.to_string(), until.unwrap() >= end), ("10.9.0.0/16".to_owned(), true));
        let forward = snapshot.pools["out"].pool.forward().unwrap();
        let _moved = forward.restore_mark(mark.number());
        assert!(forward.mark(b"hello").is_none());
    });
}

/// A pool that a node lacks keeps it unready in the successor, with the times of the incumbent.
#[test]
fn the_readiness_goes_over() {
    with_file("ready", async |config, file| {
        std::fs::remove_file(&file).unwrap();
        let config = format!("ready_needs = 'found'\nready_needs_after = '1h'\n{config}");
        let old = Fixture::start(&config, None).await;
        let readiness = |fixture: &Fixture| fixture.control.server.view.readiness();
        let unready = readiness(&old);
        assert_eq!((unready.reason.word(), &unready.pools[..]), ("needs", &["found".into()][..]));
        let state = old.export();
        assert_eq!(state.needs.len(), 1);
        let new = Fixture::start(&config, Some(state.clone())).await;
        let moved = readiness(&new);
        assert_eq!((moved.reason, &moved.pools), (unready.reason, &unready.pools));
        let apart = |a: SystemTime, b: SystemTime| a.max(b).duration_since(a.min(b)).unwrap();
        let since = |readiness: &Readiness| readiness.since.unwrap();
        assert!(apart(since(&moved), since(&unready)) < AT_ONCE, "{moved:?} {unready:?}");
        // The floor of the incumbent is over: the successor does not withdraw again.
        let mut excused = state.clone();
        excused.needs[0].stage = "excused".to_owned();
        let new = Fixture::start(&config, Some(excused)).await;
        assert_eq!((readiness(&new).is_ready(), readiness(&new).excused.len()), (true, 1));
        // An older version says nothing: the pool is waited for, as in a process that has begun.
        let new = Fixture::start(&config, Some(ProcessState { needs: Vec::new(), ..state })).await;
        assert_eq!((readiness(&new).is_ready(), readiness(&new).excused.len()), (true, 0));
    });
}

/// The routes are `r` by its name, then `u.test` and `r` by their keys.
#[test]
fn the_last_use_of_routes_goes_over() {
    with_file("routes", async |config, _| {
        let old = Fixture::start(&config, None).await;
        let counts = |fixture: &Fixture| {
            let snapshot = fixture.snapshot();
            let targets = policies(&snapshot)[0].protocol.routes().targets.iter();
            let counts: Vec<_> = targets.map(|target| Arc::clone(target.counts.as_ref().unwrap())).collect();
            <[_; 3]>::try_from(counts).unwrap()
        };
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let [named, used, unused] = counts(&old);
        for counts in [&named, &used, &unused] {
            counts.add_taken(0, None, at(1_000_000));
        }
        named.take(at(2_000_000));
        used.take(at(3_000_000));
        let state = old.export();
        let new = Fixture::start(&config, Some(state.clone())).await;
        let figures =
            || counts(&new).map(|counts| (counts.connections(), counts.last_used(), counts.since()));
        let since = at(1_000_000);
        let expected = [(1, Some(at(2_000_000)), since), (1, Some(at(3_000_000)), since), (0, None, since)];
        assert_eq!(figures(), expected);
        // The last counts of the incumbent.
        unused.take(at(2_500_000));
        used.take(at(2_500_000));
        add_counts(&new.control.server.view, &old.export().counts_since(&state));
        let expected = [
            (1, Some(at(2_000_000)), since),
            (2, Some(at(3_000_000)), since),
            (1, Some(at(2_500_000)), since),
        ];
        assert_eq!(figures(), expected);
    });
}

/// An older program hands over routes with names, and no times.
#[test]
fn counts_without_times_go_over() {
    with_file("old-routes", async |config, _| {
        let json = r#"{"routes": [{"listener": "a", "route": "r", "connections": 5}]}"#;
        let new = Fixture::start(&config, Some(serde_json::from_str(json).unwrap())).await;
        let snapshot = new.snapshot();
        let targets = &policies(&snapshot)[0].protocol.routes().targets;
        let figures = |at: usize| {
            let counts = targets[at].counts.as_ref().unwrap();
            (counts.connections(), counts.last_used(), counts.since() > UNIX_EPOCH + Duration::from_secs(1))
        };
        assert_eq!([0, 1, 2].map(figures), [(5, None, true), (0, None, true), (0, None, true)]);
    });
}

#[test]
fn counters_go_on_and_the_last_difference_is_added() {
    with_file("counters", async |config, _| {
        let old = Fixture::start(&config, None).await;
        let view = &old.control.server.view;
        view.metrics.process().panics.increment(3);
        view.bounds.sources.add_counts(5, 7);
        old.backend("a", "127.0.0.1:1").traffic().counts().close(crate::telemetry::CloseKind::Fin);
        let state = old.export();
        let new = Fixture::start(&config, Some(state.clone())).await;
        let closed = || {
            let counts = Arc::clone(new.backend("a", "127.0.0.1:1").traffic().counts());
            counts.closed(crate::telemetry::CloseKind::Fin)
        };
        assert!(new.metrics().contains("pointsman_panics_total 3\n"));
        assert_eq!((new.control.server.view.bounds.sources.evictions(), closed()), (5, 1));

        view.metrics.process().panics.increment(1);
        view.bounds.sources.add_counts(1, 0);
        old.backend("a", "127.0.0.1:1").traffic().counts().close(crate::telemetry::CloseKind::Fin);
        let done = old.export().counts_since(&state);
        assert_eq!(done.counters.len(), 2, "{:?}", done.counters);
        add_counts(&new.control.server.view, &done);
        assert!(new.metrics().contains("pointsman_panics_total 4\n"));
        assert_eq!((new.control.server.view.bounds.sources.evictions(), closed()), (6, 2));
        let lookups = families::FORWARD_LOOKUPS.hand_over(&["out", "cached"], 4);
        add_counts(
            &new.control.server.view,
            &ProcessState { counters: vec![lookups], ..ProcessState::default() },
        );
        let snapshot = new.snapshot();
        let forward = snapshot.pools["out"].pool.forward().unwrap();
        assert_eq!(forward.lookups(crate::pool::LookupResult::Cached), 4);
    });
}

#[test]
fn what_drained_drains_on() {
    with_file("drains", async |config, _| {
        let drain = |pool: &str, address: &str| HandedDrain {
            pool: Some(pool.into()),
            backend: Some(address.into()),
            address: Some(address.into()),
            left_ms: 60_000,
            ..HandedDrain::default()
        };
        let listener = |name: &str| HandedDrain { listener: Some(name.into()), ..HandedDrain::default() };
        let draining = vec![
            drain("a", "127.0.0.1:9"),
            drain("a", "127.0.0.1:1"),
            drain("a", "nonsense"),
            listener("gone"),
            listener("a"),
            HandedDrain { left_ms: u64::MAX, ..listener("for_ever") },
            HandedDrain::default(),
        ];
        let mut new =
            Fixture::start(&config, Some(ProcessState { draining, ..ProcessState::default() })).await;
        let set = &mut new.control.followers.draining;
        let minute = tokio::time::Instant::now() + Duration::from_secs(60);
        assert!(set.next().is_some_and(|next| next <= minute));
        assert!(set.copies().is_empty(), "nothing is open yet");
        let departed = set.departed();
        let mut listeners: Vec<_> = departed.listeners.keys().map(|name| &**name).collect();
        listeners.sort_unstable();
        assert_eq!(listeners, ["for_ever", "gone"], "the configuration has the others");
        let backends: Vec<_> =
            departed.backends.iter().map(|backend| backend.address().to_string()).collect();
        assert_eq!(backends, ["127.0.0.1:9"]);
    });
}

/// No state of another process is an error: names may be unknown, and numbers may have any size.
#[test]
fn any_state_is_accepted() {
    with_file("hostile", async |config, _| {
        let json = include_str!("../../../../tests/fixtures/handover/0.2.0/state.json");
        let numbers = |text: &str, number: &str| {
            let mut all = String::new();
            let mut is_text = false;
            let mut digits = false;
            for letter in text.chars() {
                is_text ^= letter == '"';
                let is_digit = letter.is_ascii_digit() && !is_text;
                if !is_digit {
                    all.push(letter);
                } else if !digits {
                    all.push_str(number);
                }
                digits = is_digit;
            }
            all
        };
        for number in ["0", "255"] {
            let state: ProcessState = serde_json::from_str(&numbers(json, number)).unwrap();
            let new = Fixture::start(&config, Some(state)).await;
            assert_eq!(new.snapshot().pools.len(), 3);
        }
    });
}
