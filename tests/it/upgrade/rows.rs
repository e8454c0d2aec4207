//! Hand-overs in a row.

use super::load::{Load, LoadPlan};
use super::stage::{Generations, Stage};

/// Ends a load, and checks that nothing was lost.
pub(super) fn check_all(stage: &Stage, load: Load) {
    let tally = load.finish();
    println!("{}", tally.text());
    tally.assert_clean();
    stage.check_records(tally.connections());
    stage.wait_until_counters_add_up();
}

/// Runs a load over some hand-overs.
fn hand_over(test: &str, keys: &str, times: usize, each: usize) {
    let stage = Stage::new(test);
    let mut generations = Generations::start(&stage.write(keys));
    let load = Load::start(&LoadPlan::all(each), stage.listeners.clone(), &stage.backends);
    for _ in 0..times {
        load.tally.wait_for_progress();
        load.tally.assert_clean();
        generations.take_over();
        load.switched();
    }
    load.tally.wait_for_progress();
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
    for kind in ["PingPong", "Bulk(0)", "HalfClosed", "Idle", "SlowReader", "HelloInPieces", "Unix", "Queued"] {
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
