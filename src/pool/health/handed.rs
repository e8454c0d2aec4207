//! The hand-over of a backend's health to another process, and its restoration there.

use std::time::Instant;

use super::Health;
use super::change::BackendState;
use super::checked::Checked;
use super::ejected::Ejections;
use super::operator_state::OperatorState;
use crate::wire::handover::{HandedHealth, from_millis, millis};

impl Health {
    /// Returns the health for a hand-over. The load that the agent allows is not known here.
    pub(in crate::pool) fn hand_over(&self, now: Instant) -> HandedHealth {
        HandedHealth {
            state: self.state.word().to_owned(),
            state_age_ms: millis(now.saturating_duration_since(self.since)),
            agent_demand: self.agent_demand.word().to_owned(),
            agent_down: self.agent_down,
            checks: self.checked.hand_over(),
            ejections: self.ejections.hand_over(now),
            ..HandedHealth::default()
        }
    }

    /// Puts the causes of a handed state in force. The demand of the operator stays. If it leads to another state than
    /// the handed one, the state begins now.
    pub(in crate::pool) fn restore(&mut self, handed: &HandedHealth, now: Instant) {
        self.agent_demand = OperatorState::of_word(&handed.agent_demand).unwrap_or_default();
        self.agent_down = handed.agent_down;
        self.checked = Checked::restored(&handed.checks);
        self.ejections = Ejections::restored(&handed.ejections, now);
        self.state = self.strongest();
        let before = BackendState::of_word(&handed.state);
        self.since = match before == Some(self.state) {
            true => now.checked_sub(from_millis(handed.state_age_ms)).unwrap_or(now),
            false => now,
        };
        // As if the state had changed here, see `Health::on`.
        if self.state == BackendState::Maintenance {
            self.ejections.end(now);
        } else if before == Some(BackendState::Maintenance) {
            self.checked.doubt();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{
        AgentWord, CheckFault, CheckOutcome, EjectionSpec, HealthEvent, HealthRules, StateChange, Trouble,
    };
    use super::*;
    use crate::pool::HealthSpec;

    fn on(health: &mut Health, event: HealthEvent, now: Instant) -> Option<StateChange> {
        let (checks, ejection) = (HealthSpec::default(), EjectionSpec::default());
        health.on(event, HealthRules { health: Some(&checks), ejection: Some(&ejection) }, now)
    }

    /// Returns the health after it went through JSON to another process.
    fn moved(health: &Health, now: Instant) -> Health {
        let json = serde_json::to_vec(&health.hand_over(now)).unwrap();
        let handed: HandedHealth = serde_json::from_slice(&json).unwrap();
        let mut restored = Health::new(health.operator_state, now);
        restored.restore(&handed, now);
        restored
    }

    #[test]
    fn a_backend_that_was_down_stays_down_until_enough_checks_pass() {
        let now = Instant::now();
        let mut health = Health::new(OperatorState::Ready, now);
        on(&mut health, HealthEvent::Check(CheckOutcome::Failed(CheckFault::TlsAlert(40))), now).unwrap();
        let later = now + Duration::from_secs(5);
        let mut restored = moved(&health, later);
        assert_eq!((restored.state(), restored.since()), (BackendState::Down, now));
        assert_eq!(restored.check_failure().map(|failure| failure.fault), Some(CheckFault::TlsAlert(40)));
        let rise = HealthSpec::default().rise;
        let passed = HealthEvent::Check(CheckOutcome::Passed);
        assert!((1..rise).all(|_| on(&mut restored, passed, later).is_none()));
        assert!(on(&mut restored, passed, later).is_some());
    }

    #[test]
    fn a_demand_of_the_operator_that_is_new_begins_now() {
        let now = Instant::now();
        let health = Health::new(OperatorState::Maintenance, now);
        let later = now + Duration::from_secs(5);
        let mut restored = Health::new(OperatorState::Ready, later);
        restored.restore(&health.hand_over(later), later);
        assert_eq!((restored.state(), restored.since()), (BackendState::Up, later));
        let mut restored = Health::new(OperatorState::Drain, later);
        restored.restore(&Health::new(OperatorState::Ready, now).hand_over(later), later);
        assert_eq!((restored.state(), restored.since()), (BackendState::Draining, later));
    }

    #[test]
    fn any_words_and_numbers_are_accepted() {
        let now = Instant::now();
        let all_of = |number: u64| {
            format!(
                r#"{{"state": "?", "state_age_ms": {number}, "agent_demand": "?", "agent_down": true,
                "checks": {{"is_down": true, "against": 4294967295, "failure": {{"fault": "?"}}}},
                "ejections": {{"present": {{"trouble": "connect", "time_ms": {number}, "left_ms": {number},
                "in_a_row": 4294967295}}, "row": 4294967295, "ended_age_ms": {number}}}}}"#
            )
        };
        for json in ["{}".to_owned(), all_of(0), all_of(u64::MAX)] {
            let mut restored = Health::new(OperatorState::Ready, now);
            restored.restore(&serde_json::from_str(&json).unwrap(), now);
            let again = moved(&restored, now);
            assert_eq!((again.state(), again.ejection()), (restored.state(), restored.ejection()));
            for outcome in [CheckOutcome::Failed(CheckFault::Other), CheckOutcome::Passed] {
                on(&mut restored, HealthEvent::Check(outcome), now);
            }
            on(&mut restored, HealthEvent::Time, now);
            on(&mut restored, HealthEvent::Agent(AgentWord::Up), now);
            on(&mut restored, HealthEvent::Failures(Trouble::Connect), now);
        }
        let mut of_nothing = Health::new(OperatorState::Ready, now);
        of_nothing.restore(&HandedHealth::default(), now);
        assert_eq!(of_nothing.state(), BackendState::Up, "without fields nothing is known of it");
    }

    fn event() -> impl Strategy<Value = HealthEvent> {
        use CheckOutcome::{Failed, Passed};
        let faults = prop_oneof![
            Just(CheckFault::Refused),
            Just(CheckFault::Local),
            Just(CheckFault::Closed),
            Just(CheckFault::TlsAlert(40))
        ];
        let words = prop_oneof![
            Just(AgentWord::Ready),
            Just(AgentWord::Up),
            Just(AgentWord::Down),
            Just(AgentWord::Drain),
            Just(AgentWord::Maintenance)
        ];
        let states = prop_oneof![
            Just(OperatorState::Ready),
            Just(OperatorState::Drain),
            Just(OperatorState::Maintenance)
        ];
        prop_oneof![
            4 => Just(HealthEvent::Check(Passed)),
            4 => faults.prop_map(|fault| HealthEvent::Check(Failed(fault))),
            2 => Just(HealthEvent::Failures(Trouble::Connect)),
            2 => Just(HealthEvent::Failures(Trouble::EarlyReset)),
            2 => Just(HealthEvent::Time),
            1 => states.prop_map(HealthEvent::Operator),
            2 => words.prop_map(HealthEvent::Agent),
            1 => Just(HealthEvent::ChecksOff),
            1 => Just(HealthEvent::EjectionOff),
        ]
    }

    proptest! {
        /// A restored health has the same changes as the original for all further events.
        #[test]
        fn a_restored_health_goes_on_as_the_original(
            before in prop::collection::vec((event(), 0_u64..40), 0..20),
            wait in 0_u64..40,
            after in prop::collection::vec((event(), 0_u64..40), 1..20),
        ) {
            let mut now = Instant::now();
            let mut health = Health::new(OperatorState::Ready, now);
            for (event, seconds) in before {
                now += Duration::from_secs(seconds);
                on(&mut health, event, now);
            }
            now += Duration::from_secs(wait);
            let mut restored = moved(&health, now);
            prop_assert_eq!((restored.state(), restored.since()), (health.state(), health.since()));
            for (event, seconds) in after {
                now += Duration::from_secs(seconds);
                prop_assert_eq!(on(&mut restored, event, now), on(&mut health, event, now));
                prop_assert_eq!(restored.reason(), health.reason());
                prop_assert_eq!(restored.check_failure(), health.check_failure());
                // The end of an ejection that is over has no meaning.
                let ejection = |health: &Health| {
                    let ejection = health.ejection()?;
                    Some((ejection.trouble, ejection.time, ejection.until.max(now), ejection.in_a_row))
                };
                prop_assert_eq!(ejection(&restored), ejection(&health));
                prop_assert_eq!(restored.is_wanted(), health.is_wanted());
            }
        }
    }
}
