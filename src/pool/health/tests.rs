use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn health_spec(rise: u32, fall: u32) -> HealthSpec {
    HealthSpec { rise, fall, ..HealthSpec::default() }
}

fn rules<'a>(health: &'a HealthSpec, ejection: &'a EjectionSpec) -> HealthRules<'a> {
    HealthRules { health: Some(health), ejection: Some(ejection) }
}

/// The events as letters: checks `p`assed, `f`ailed (`t`imed out, `l`ocal); `c`onnects failed, early `r`esets; the
/// operator states `R`eady, `D`rain, `M`aintenance; the agent's demand: `1` ready, `2` up, `3` down, `4` drain, `5`
/// maintenance; `.` a second has passed; checks `x`, the agent `y`, ejection `z` off.
fn event(letter: char) -> HealthEvent {
    match letter {
        'p' => HealthEvent::Check(CheckOutcome::Passed),
        'f' => HealthEvent::Check(CheckOutcome::Failed(CheckFault::Refused)),
        't' => HealthEvent::Check(CheckOutcome::Failed(CheckFault::Timeout)),
        'l' => HealthEvent::Check(CheckOutcome::Failed(CheckFault::Local)),
        'c' => HealthEvent::Failures(Trouble::Connect),
        'r' => HealthEvent::Failures(Trouble::EarlyReset),
        'R' => HealthEvent::Operator(OperatorState::Ready),
        'D' => HealthEvent::Operator(OperatorState::Drain),
        'M' => HealthEvent::Operator(OperatorState::Maintenance),
        '1' => HealthEvent::Agent(AgentWord::Ready),
        '2' => HealthEvent::Agent(AgentWord::Up),
        '3' => HealthEvent::Agent(AgentWord::Down),
        '4' => HealthEvent::Agent(AgentWord::Drain),
        '5' => HealthEvent::Agent(AgentWord::Maintenance),
        '.' => HealthEvent::Time,
        'x' => HealthEvent::ChecksOff,
        'y' => HealthEvent::AgentOff,
        'z' => HealthEvent::EjectionOff,
        other => panic!("no event is written {other}"),
    }
}

const LETTERS: &str = "[pftlcrRDM12345.xyz]{1,80}";

fn letter(state: BackendState) -> char {
    match state {
        BackendState::Up => 'U',
        BackendState::Down => 'D',
        BackendState::Draining => 'd',
        BackendState::Ejected => 'e',
        BackendState::Maintenance => 'm',
    }
}

/// A backend that gets the events of the letters; a `.` takes a second.
struct TestedHealth {
    health: Health,
    health_spec: HealthSpec,
    ejection_spec: EjectionSpec,
    now: Instant,
}

impl TestedHealth {
    fn new(rise: u32, fall: u32) -> Self {
        let now = Instant::now();
        let ejection_spec =
            EjectionSpec { base_time: 3 * SECOND, max_time: 7 * SECOND, ..Default::default() };
        Self {
            health: Health::new(OperatorState::Ready, now),
            health_spec: health_spec(rise, fall),
            ejection_spec,
            now,
        }
    }

    fn apply(&mut self, letter: char) -> Option<StateChange> {
        if letter == '.' {
            self.now += SECOND;
        }
        let (before, since) = (self.health.state(), self.health.since());
        let change = self.health.on(event(letter), rules(&self.health_spec, &self.ejection_spec), self.now);
        let after = self.health.state();
        match change {
            Some(change) => {
                assert_ne!(before, after);
                assert_eq!((change.from, change.to), (before, after));
                assert_eq!(self.health.since(), self.now);
            }
            None => assert_eq!((after, self.health.since()), (before, since)),
        }
        change
    }

    fn apply_all(&mut self, letters: &str) {
        for letter in letters.chars() {
            self.apply(letter);
        }
    }
}

/// Applies `events` and compares the state after each with `expected`.
fn check(rise: u32, fall: u32, events: &str, expected: &str) {
    let mut tested = TestedHealth::new(rise, fall);
    let mut states = String::new();
    for event in events.chars() {
        tested.apply(event);
        states.push(letter(tested.health.state()));
    }
    assert_eq!(states, expected, "{events} with rise {rise}, fall {fall}");
}

#[test]
fn the_first_result_decides() {
    check(2, 3, "", "");
    check(2, 3, "p", "U");
    check(2, 3, "f", "D");
    check(2, 3, "t", "D");
}

#[test]
fn fall_failures_in_a_row_take_it_down() {
    check(2, 3, "pfff", "UUUD");
    check(2, 3, "pffpfff", "UUUUUUD");
    check(2, 3, "pftf", "UUUD");
    check(2, 1, "pf", "UD");
    check(2, 0, "pf", "UD");
}

#[test]
fn rise_successes_in_a_row_bring_it_up() {
    check(2, 3, "fpp", "DDU");
    check(2, 3, "fpfpp", "DDDDU");
    check(1, 3, "fp", "DU");
    check(0, 3, "fp", "DU");
    check(2, 3, "fppffpfff", "DDUUUUUUD");
}

#[test]
fn our_own_trouble_is_no_result() {
    check(2, 3, "lf", "UD");
    check(2, 3, "pflflf", "UUUUUD");
    check(2, 3, "fplp", "DDDU");
    check(2, 3, "lllll", "UUUUU");
}

#[test]
fn an_ejection_lasts_its_time() {
    check(2, 3, "c..", "eee");
    check(2, 3, "c...", "eeeU");
    check(2, 3, "r....", "eeeUU");
    check(2, 3, "c...c.....", "eeeUeeeeee");
    check(2, 3, "c...c......", "eeeUeeeeeeU");
    check(2, 3, "cz.", "eUU");
}

#[test]
fn the_longest_time_bounds_ejections_in_a_row() {
    let third = |last: &str| format!("c...c......c{last}");
    check(2, 3, &third("......"), "eeeUeeeeeeUeeeeeee");
    check(2, 3, &third("......."), "eeeUeeeeeeUeeeeeeeU");
}

#[test]
fn ejections_far_apart_are_not_in_a_row() {
    // A second ejection less than the base time of 3 s after the first lasts 6 s; a later one 3 s again.
    check(2, 3, "c.....c...", "eeeUUUeeee");
    check(2, 3, "c......c...", "eeeUUUUeeeU");
    // Each base time takes one from the number of ejections in a row.
    check(2, 3, "c...c.........c.....", "eeeUeeeeeeUUUUeeeeee");
    check(2, 3, "c...c.........c......", "eeeUeeeeeeUUUUeeeeeeU");
}

#[test]
fn checks_disprove_failed_connects_but_no_resets() {
    check(2, 3, "pcpp", "UeeU");
    check(2, 3, "pcpfpp", "UeeeeU");
    check(2, 3, "pcplp", "UeeeU");
    check(2, 3, "prpppp", "Ueeeee");
    check(0, 3, "cp", "eU");
}

#[test]
fn checks_that_fail_are_stronger_than_an_ejection() {
    check(2, 3, "pcfff", "UeeeD");
    check(2, 3, "pcfffpp", "UeeeDDU");
    check(2, 3, "prfffpp", "UeeeDDe");
    check(2, 3, "prfff...pp", "UeeeDDDDDU");
    check(2, 3, "fc", "DD");
}

#[test]
fn the_operator_is_obeyed() {
    check(2, 3, "DR", "dU");
    check(2, 3, "MR", "mU");
    check(2, 3, "MD", "md");
    check(2, 3, "DDM", "ddm");
    check(2, 3, "Dc", "dd");
    check(2, 3, "DcR", "ddU");
    check(2, 3, "rDR", "ede");
    check(2, 3, "rD...R", "eddddU");
    check(2, 3, "pDfff", "UdddD");
    check(2, 3, "pDfffR", "UdddDD");
    check(2, 3, "fDpp", "DDDd");
}

#[test]
fn maintenance_begins_anew() {
    // Its checks pause; their earlier results are a guess afterwards.
    check(2, 3, "pMfffR", "UmmmmU");
    check(2, 3, "pMRf", "UmUD");
    check(2, 3, "fMRp", "DmDU");
    check(2, 3, "pffMRpff", "UUUmUUUU");
    check(2, 3, "rMR", "emU");
    check(2, 3, "Mc", "mm");
}

#[test]
fn the_agent_is_obeyed() {
    check(2, 3, "32", "DU");
    check(2, 3, "31", "DD");
    check(2, 3, "41", "dU");
    check(2, 3, "42", "dd");
    check(2, 3, "51", "mU");
    check(2, 3, "3y", "DU");
    check(2, 3, "45y", "dmU");
    check(2, 3, "p3fff2", "UDDDDD");
    check(2, 3, "p3fff2pp", "UDDDDDDU");
    // Each source of a demand must withdraw it itself.
    check(2, 3, "D41R", "dddU");
    check(2, 3, "D4R1", "dddU");
    check(2, 3, "5MR1", "mmmU");
    check(2, 3, "4R", "dd");
}

#[test]
fn what_is_switched_off_is_forgotten() {
    check(2, 3, "fx", "DU");
    check(2, 3, "fxf", "DUD");
    check(2, 3, "Mx", "mm");
    check(2, 3, "3x", "DD");
    check(2, 3, "c...zc...", "eeeUUeeeU");
}

#[test]
fn what_is_not_configured_does_nothing() {
    let now = Instant::now();
    let mut health = Health::new(OperatorState::Ready, now);
    for letter in "fffccc".chars() {
        assert_eq!(health.on(event(letter), HealthRules::default(), now), None, "{letter}");
    }
}

#[test]
fn it_begins_as_the_operator_says() {
    let begin = |operator_state| Health::new(operator_state, Instant::now()).state();
    assert_eq!(
        [OperatorState::Ready, OperatorState::Drain, OperatorState::Maintenance].map(begin),
        [BackendState::Up, BackendState::Draining, BackendState::Maintenance]
    );
}

/// Checks the reason of the last change.
fn check_reason(events: &str, expected: &str) {
    let mut tested = TestedHealth::new(2, 3);
    let changes = events.chars().filter_map(|event| tested.apply(event));
    assert_eq!(changes.last().map(|change| change.reason.to_string()).as_deref(), Some(expected), "{events}");
}

#[test]
fn a_change_has_its_reason() {
    check_reason("pfft", "checks failed: timed out");
    check_reason("fpp", "checks passed");
    check_reason("pcpp", "checks passed");
    check_reason("c", "5 connects failed in a row");
    check_reason("r", "5 connections were reset at once in a row");
    check_reason("c...", "its ejection is over");
    check_reason("cz", "ejection was switched off");
    check_reason("fx", "checks were switched off");
    check_reason("D", "the operator state is drain");
    check_reason("MR", "the operator state is ready");
    check_reason("5", "its agent reported maintenance");
    check_reason("3y", "its agent is no longer queried");
}

#[test]
fn an_ejection_tells_of_itself() {
    let mut tested = TestedHealth::new(2, 3);
    assert_eq!(tested.health.ejection(), None);
    tested.apply('r');
    let start = tested.now;
    let ejection = tested.health.ejection().unwrap();
    let told = (ejection.trouble, ejection.until, ejection.in_a_row);
    assert_eq!(told, (Trouble::EarlyReset, start + 3 * SECOND, 1));
    tested.apply_all("....r");
    let ejection = tested.health.ejection().unwrap();
    assert_eq!((ejection.until, ejection.in_a_row), (tested.now + 6 * SECOND, 2));
}

#[test]
fn thresholds_may_change_between_results() {
    let mut tested = TestedHealth::new(2, 5);
    "pff".chars().for_each(|letter| assert_eq!(tested.apply(letter), None));
    tested.health_spec.fall = 2;
    assert!(tested.apply('f').is_some());
}

#[test]
fn no_times_overflow() {
    let mut tested = TestedHealth::new(1, 1);
    for (base_time, max_time) in [(Duration::ZERO, Duration::ZERO), (Duration::MAX, Duration::MAX)] {
        tested.ejection_spec = EjectionSpec { base_time, max_time, ..Default::default() };
        tested.apply_all("c.c.c.z");
    }
}

/// The state by the table, from the state that each cause alone would give.
fn strongest(causes: [BackendState; 5]) -> BackendState {
    let order =
        [BackendState::Maintenance, BackendState::Down, BackendState::Draining, BackendState::Ejected];
    order.into_iter().find(|state| causes.contains(state)).unwrap_or(BackendState::Up)
}

proptest! {
    #[test]
    fn a_state_never_changes_without_its_count(results in "[pfl]{1,60}", rise in 1_u32..5, fall in 1_u32..5) {
        let mut tested = TestedHealth::new(rise, fall);
        let heard: String = results.chars().filter(|&letter| letter != 'l').collect();
        let mut seen = String::new();
        for letter in heard.chars() {
            seen.push(letter);
            if let Some(change) = tested.apply(letter) {
                let needed = if change.to == BackendState::Up { rise } else { fall } as usize;
                let row = seen.chars().rev().take_while(|&other| other == letter).count();
                prop_assert!(row >= needed || seen.len() == 1);
            }
        }
    }

    /// After any events three rules hold. The assertions of `apply` about changes and their times hold, the
    /// state is that of the strongest cause, and an ejection has an end.
    #[test]
    fn the_strongest_cause_shows(events in LETTERS, rise in 1_u32..4, fall in 1_u32..4) {
        let mut tested = TestedHealth::new(rise, fall);
        for event in events.chars() {
            tested.apply(event);
            let Health { operator_state, agent_demand, agent_down, checked, .. } = &tested.health;
            let wanted = |operator_state: &OperatorState| match operator_state {
                OperatorState::Ready => BackendState::Up,
                OperatorState::Drain => BackendState::Draining,
                OperatorState::Maintenance => BackendState::Maintenance,
            };
            let is = |is: bool, state| if is { state } else { BackendState::Up };
            let causes = [
                wanted(operator_state),
                wanted(agent_demand),
                is(*agent_down, BackendState::Down),
                is(!checked.is_up(), BackendState::Down),
                is(tested.health.ejection().is_some(), BackendState::Ejected),
            ];
            prop_assert_eq!(tested.health.state(), strongest(causes), "{}", events);
            if let Some(ejection) = tested.health.ejection() {
                prop_assert!(ejection.until <= tested.now + tested.ejection_spec.max_time);
                prop_assert!(tested.health.state() != BackendState::Maintenance);
            }
        }
    }

    /// If every demand is withdrawn, the backend is up.
    #[test]
    fn every_cause_can_be_undone(events in LETTERS, rise in 1_u32..4, fall in 1_u32..4) {
        let mut tested = TestedHealth::new(rise, fall);
        tested.apply_all(&events);
        tested.apply_all("R12pppppp........");
        prop_assert_eq!(tested.health.state(), BackendState::Up, "{}", events);
    }
}

#[test]
fn faults_are_told_in_words() {
    let told = |fault| ChangeReason::ChecksFailed(fault).to_string();
    assert_eq!(told(CheckFault::Closed), "checks failed: closed before it answered");
    assert_eq!(told(CheckFault::TlsAlert(112)), "checks failed: TLS alert 112, unrecognized name");
}

/// Checks the reason for its state after these events.
#[track_caller]
fn check_present_reason(events: &str, expected: Option<&str>) {
    let mut tested = TestedHealth::new(2, 1);
    tested.apply_all(events);
    assert_eq!(tested.health.reason().is_none(), tested.health.state() == BackendState::Up, "{events}");
    assert_eq!(tested.health.reason().map(|reason| reason.to_string()).as_deref(), expected, "{events}");
}

#[test]
fn the_reason_is_that_of_the_strongest_cause() {
    check_present_reason("", None);
    check_present_reason("pl", None);
    check_present_reason("f", Some("checks failed: connection refused"));
    // The fault of the last failed check, also after one that passed.
    check_present_reason("ft", Some("checks failed: timed out"));
    check_present_reason("ftp", Some("checks failed: timed out"));
    check_present_reason("ftl", Some("checks failed: timed out"));
    check_present_reason("fpp", None);
    check_present_reason("3", Some("its agent reported down"));
    check_present_reason("3f", Some("checks failed: connection refused"));
    check_present_reason("3fpp", Some("its agent reported down"));
    check_present_reason("D4", Some("the operator state is drain"));
    check_present_reason("4", Some("its agent reported drain"));
    check_present_reason("Df", Some("checks failed: connection refused"));
    check_present_reason("Dfpp", Some("the operator state is drain"));
    check_present_reason("fM", Some("the operator state is maintenance"));
    check_present_reason("f5", Some("its agent reported maintenance"));
    check_present_reason("fMR", Some("checks failed: connection refused"));
    check_present_reason("c", Some("5 connects failed in a row"));
    check_present_reason("fx", None);
}
