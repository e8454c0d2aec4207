//! Reloads that pass through several phases, and reloads that a stop interrupts.

use super::*;

#[test]
fn a_reload_that_changes_files_is_in_force_before_a_stop() {
    on_paused_clock(async {
        let file = std::env::temp_dir().join(format!("pointsman-control-{}.sock", std::process::id()));
        let unix = format!("[listener.b]\nbind = 'unix:{}'\npool = 'a'\n", file.display());
        let mut fixture = ControlFixture::with(&format!("{CONFIG}{unix}"));
        let sockets = std::mem::take(&mut fixture.control.server.held);
        let bound = InForce::bound(&fixture.control.server.view);
        let server = &mut fixture.control.server;
        let _ = server.sockets.carry_out(sockets, &server.workers, &bound);
        let (reply, mut answer) = oneshot::channel();
        let mut flow = fixture.control.step(
            Phase::Serving,
            ControlEvent::Reload(ReloadRequest::Config(Box::new(parse(CONFIG)), reply)),
        );
        let changing = loop {
            let Flow::Continue(mut phase) = flow else { panic!("{}", outcome(&flow)) };
            if name(&phase) == "preparing: changing files" {
                break phase;
            }
            let event = fixture.control.next(&mut phase).await;
            flow = fixture.control.step(phase, event);
        };
        let flow = fixture.control.step(changing, ControlEvent::Stop);
        assert_eq!(outcome(&flow), "draining: grace");
        assert!(matches!(answer.try_recv(), Ok(Ok(_))), "the listener whose file is removed is closed");
        assert!(!fixture.control.server.view.addresses().contains_key("b"));
    });
}

#[test]
fn routes_that_are_built_when_a_stop_begins_come_into_force() {
    on_paused_clock(async {
        let file = std::env::temp_dir().join(format!("pointsman-control-{}.toml", std::process::id()));
        let write = |names: &[&str]| {
            let routes: Vec<_> =
                names.iter().map(|name| format!("{{ sni = '{name}', pool = 'a' }}")).collect();
            std::fs::write(&file, format!("routes = [{}]", routes.join(", "))).unwrap();
        };
        write(&["a.test"]);
        let routes_file = format!("routes_file = '{}'", file.display());
        let mut fixture = ControlFixture::with(&CONFIG.replace("routes_file = '/dev/null'", &routes_file));
        write(&["a.test", "b.test"]);
        let report = fixture.control.followers.route_files.next().await;
        let mut phase = Phase::Serving;
        for event in [ControlEvent::File(FileEvent::Routes(report)), ControlEvent::Due, ControlEvent::Stop] {
            let flow = fixture.control.step(phase, event);
            let Flow::Continue(next) = flow else { panic!("{}", outcome(&flow)) };
            phase = next;
        }
        let flow = fixture.handle(phase, |event| matches!(event, ControlEvent::Due)).await;
        std::fs::remove_file(&file).unwrap();
        assert_eq!(outcome(&flow), "draining: grace");
        let snapshot = fixture.control.server.view.snapshot.load();
        let routes: Vec<_> =
            snapshot.policies.values().map(|policy| policy.protocol.routes().len()).collect();
        assert_eq!(routes, [2]);
    });
}

/// Handles events until the process serves. Returns the names of the phases that it passes.
async fn pass_to_serving(fixture: &mut ControlFixture, mut phase: Phase) -> Vec<&'static str> {
    let mut passed = vec![name(&phase)];
    while passed.last() != Some(&"serving") || passed.len() == 1 {
        let event = fixture.control.next(&mut phase).await;
        let flow = fixture.control.step(phase, event);
        let Flow::Continue(next) = flow else { panic!("{}", outcome(&flow)) };
        phase = next;
        if passed.last() != Some(&name(&phase)) {
            passed.push(name(&phase));
        }
    }
    passed
}

#[test]
fn a_reload_passes_its_phases_and_the_next_one_follows() {
    on_paused_clock(async {
        let mut fixture = ControlFixture::new();
        let Flow::Continue(starting) = fixture.control.start() else { panic!("it starts") };
        let passed = pass_to_serving(&mut fixture, starting).await;
        assert_eq!(passed, ["starting: discovering", "starting: building", "serving"]);
        let ask = || {
            let (reply, answer) = oneshot::channel();
            let _ = fixture.remote.requests.send(ControlRequest::Reload(Box::new(parse(CONFIG)), reply));
            answer
        };
        let answers = [ask(), ask()];
        for mut answer in answers {
            let passed = pass_to_serving(&mut fixture, Phase::Serving).await;
            assert_eq!(passed, ["serving", "preparing: building", "settling", "serving"]);
            assert!(answer.try_recv().unwrap().unwrap().is_empty(), "the configuration is the same");
        }
    });
}
