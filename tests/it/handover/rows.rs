//! Hand-overs in a row: by the same program, by another build, with programs that have other fields.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::frames::{FrameProxy, Sender, Verdict};
use super::load::{Load, LoadPlan};
use super::stage::{Generations, Stage, check_end};
use crate::support::wait_for;

/// The variable with the path of another build.
const OTHER: &str = "POINTSMAN_OTHER";

/// Ends a load, and checks that nothing was lost.
pub(super) fn check_all(stage: &Stage, load: Load) {
    let tally = load.finish();
    tally.assert_clean();
    stage.check_records(tally.connections());
    stage.wait_until_counters_add_up();
}

/// Runs a load over some hand-overs.
fn hand_over(test: &str, keys: &str, times: usize, each: usize) {
    let stage = Stage::new(test);
    let mut generations = Generations::start(&stage.write(keys));
    let load = Load::start(&LoadPlan::all(each), stage.listeners.clone(), &stage.backends);
    load.tally.wait_for_progress();
    let descriptors = generations.descriptors();
    for _ in 0..times {
        generations.take_over();
        load.switched();
        load.tally.wait_for_progress();
        load.tally.assert_clean();
        // Clients come and go, but a descriptor that each hand-over leaves open would show.
        wait_for("no more descriptors than before", || generations.descriptors() <= descriptors + 40);
    }
    check_all(&stage, load);
}

/// The load itself: without a hand-over, nothing fails.
#[test]
fn a_load_on_one_process_is_served_without_a_fault() {
    let stage = Stage::new("upgrade-none");
    let mut generations = Generations::start(&stage.write_alone("workers = 2"));
    let load = Load::start(&LoadPlan::all(2), stage.listeners.clone(), &stage.backends);
    for _ in 0..3 {
        load.tally.wait_for_progress();
        load.switched();
    }
    assert!(load.tally.most_scarce() <= 2);
    check_all(&stage, load);
    generations.check_alive();
}

/// The load finds what a restart breaks.
#[test]
fn a_restart_fails_clients_of_the_load() {
    let stage = Stage::new("upgrade-restart");
    let mut generations = Generations::start(&stage.write_alone("workers = 2\nshutdown.drain = \"0s\""));
    let load = Load::start(&LoadPlan::all(2), stage.listeners.clone(), &stage.backends);
    load.tally.wait_for_progress();
    load.tally.assert_clean();
    generations.restart();
    let tally = load.finish();
    for kind in ["PingPong", "Bulk(0)", "HalfClosed", "Idle", "SlowReader", "HelloInPieces", "Unix", "Queued"]
    {
        assert!(tally.has_failed(kind), "{kind} did not fail:\n{}", tally.text());
    }
}

#[test]
fn three_hand_overs_in_a_row_lose_nothing() {
    hand_over("upgrade-three", "workers = 2", 3, 2);
}

#[test]
#[ignore = "takes some minutes"]
fn fifty_hand_overs_in_a_row_lose_nothing() {
    hand_over("upgrade-fifty", "workers = 2", 50, 6);
}

/// Landlock allows 16 layers in a process. A successor is a new process, so it begins with none.
#[test]
#[ignore = "takes a minute"]
fn twenty_hand_overs_in_a_row_with_landlock_lose_nothing() {
    hand_over("upgrade-landlock", "workers = 2\nprocess.landlock = true", 20, 2);
}

#[test]
fn the_number_of_workers_may_change() {
    let stage = Stage::new("upgrade-workers");
    let mut generations = Generations::start(&stage.write("workers = 1"));
    let load = Load::start(&LoadPlan::all(2), stage.listeners.clone(), &stage.backends);
    for workers in [4, 2, 1, 3] {
        load.tally.wait_for_progress();
        stage.write(&format!("workers = {workers}"));
        generations.take_over();
        load.switched();
    }
    load.tally.wait_for_progress();
    check_all(&stage, load);
}

/// Another build takes over, and then this build again.
#[test]
#[ignore = "needs POINTSMAN_OTHER, a second build of the program, which .ci/run makes"]
fn going_forth_and_back_between_two_builds_loses_nothing() {
    let other = PathBuf::from(std::env::var_os(OTHER).expect(OTHER));
    let own = Path::new(env!("CARGO_BIN_EXE_pointsman"));
    let stage = Stage::new("upgrade-other");
    let mut generations = Generations::start(&stage.write("workers = 2"));
    let load = Load::start(&LoadPlan::all(3), stage.listeners.clone(), &stage.backends);
    for program in [&other, own, &other, own, own, &other] {
        load.tally.wait_for_progress();
        check_end(generations.take_over_by(program));
        load.switched();
        load.tally.assert_clean();
    }
    load.tally.wait_for_progress();
    check_all(&stage, load);
}

/// Runs hand-overs in which a proxy changes each message of a sender.
fn rewritten(test: &str, from: Sender, change: fn(&mut Value)) {
    let stage = Stage::new(test);
    let mut generations = Generations::start(&stage.write("workers = 2"));
    let load = Load::start(&LoadPlan::all(2), stage.listeners.clone(), &stage.backends);
    for _ in 0..2 {
        load.tally.wait_for_progress();
        let proxy = FrameProxy::at(&stage.socket(), move |passing| {
            if passing.from == from { Verdict::Rewrite(change) } else { Verdict::Pass }
        });
        generations.take_over();
        assert!(proxy.has_seen("Rest"));
        drop(proxy);
        load.switched();
        load.tally.assert_clean();
    }
    load.tally.wait_for_progress();
    check_all(&stage, load);
}

/// Adds fields to each object, as a later version may.
fn add_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_fields);
            fields.insert("added_by_a_later_version".to_owned(), json!([1, {"deep": null}]));
        }
        Value::Array(values) => values.iter_mut().for_each(add_fields),
        _ => {}
    }
}

#[test]
fn fields_of_a_later_incumbent_are_ignored() {
    rewritten("upgrade-later-incumbent", Sender::Incumbent, add_fields);
}

#[test]
fn fields_of_a_later_successor_are_ignored() {
    rewritten("upgrade-later-successor", Sender::Successor, add_fields);
}

/// Makes the numbers of `Rest` unreadable.
fn spoil_rest(value: &mut Value) {
    if value.get("longest_pause_us").is_some() {
        value["moved"] = json!("many");
    }
}

/// The incumbent has let go of its sockets when the successor reads the message.
#[test]
fn a_report_that_cannot_be_read_leaves_no_listener_without_a_program() {
    rewritten("upgrade-rest", Sender::Incumbent, spoil_rest);
}
