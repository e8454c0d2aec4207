use proptest::prelude::*;

use super::*;
use crate::wire::handover::{Message, StatePart};

fn backend(number: usize) -> HandedBackend {
    HandedBackend { pool: "p".into(), name: number.to_string(), ..HandedBackend::default() }
}

fn source(pool: &str, found: usize, held: usize) -> HandedDiscovery {
    let one = |number: usize| HandedDiscovered { name: number.to_string(), ..HandedDiscovered::default() };
    HandedDiscovery {
        pool: pool.into(),
        found: (0..found).map(one).collect(),
        held: (0..held).map(|number| HandedHold { backend: one(number), left_ms: 5 }).collect(),
        ..HandedDiscovery::default()
    }
}

fn state(backends: usize, sources: &[(usize, usize)]) -> ProcessState {
    let counter = HandedCounter { family: "f".into(), value: 5, ..HandedCounter::default() };
    ProcessState {
        backends: (0..backends).map(backend).collect(),
        discovered: sources
            .iter()
            .enumerate()
            .map(|(at, (found, held))| source(&at.to_string(), *found, *held))
            .collect(),
        additions: vec![HandedAddition::default(); 3],
        sources: vec![HandedSource::default(); 3],
        rates: vec![HandedRate::default(); 3],
        draining: vec![HandedDrain::default(); 3],
        marks: vec![HandedMarkKey::default(); 3],
        routes: vec![HandedRouteCounts::default(); 3],
        counters: vec![counter; 3],
        overrides: vec![HandedOverride::default(); 3],
        needs: vec![HandedNeed::default(); 3],
    }
}

fn joined(parts: Vec<ProcessState>) -> ProcessState {
    let mut all = ProcessState::default();
    parts.into_iter().for_each(|part| all.join(part));
    all
}

#[test]
fn a_state_without_items_is_one_part() {
    assert_eq!(ProcessState::default().split(10), [ProcessState::default()]);
}

/// A part with the largest items is smaller than the largest frame.
#[test]
fn parts_are_small_enough() {
    let long = "x".repeat(255);
    let words = |count: usize| (0..count).map(|number| (format!("word_number_{number}"), u64::MAX)).collect();
    let failure = HandedFailure { heard: Some("\u{1}".repeat(100)), ..HandedFailure::default() };
    let backend = HandedBackend {
        pool: long.clone(),
        name: long.clone(),
        address: long,
        health: Some(HandedHealth {
            checks: HandedChecks { failure: Some(failure), ..HandedChecks::default() },
            ..HandedHealth::default()
        }),
        counts: HandedBackendCounts {
            closed: words(10),
            entered: words(5),
            checks: words(3),
            bytes: words(2),
            troubles: words(2),
            ..HandedBackendCounts::default()
        },
    };
    let state =
        ProcessState { backends: vec![backend; ProcessState::ITEMS_OF_PART], ..ProcessState::default() };
    let parts = state.split(ProcessState::ITEMS_OF_PART);
    assert_eq!(parts.len(), 1);
    let (_, json) =
        Message::ProcessState(Box::new(StatePart { state: parts[0].clone(), more: false })).encode();
    assert!(json.len() < 8 << 20, "{}", json.len());
}

#[test]
fn counts_since_an_earlier_state_are_the_difference() {
    let count = |word: &str, count: u64| CountsByWord::from([(word.to_owned(), count)]);
    let state = |connections: u64, closed: u64, accepted: u64, gone: u64| ProcessState {
        backends: vec![
            HandedBackend {
                health: Some(HandedHealth::default()),
                counts: HandedBackendCounts {
                    connections,
                    closed: count("fin", closed),
                    last_check_us: Some(7),
                    ..HandedBackendCounts::default()
                },
                ..backend(1)
            },
            backend(2),
        ],
        routes: vec![HandedRouteCounts {
            listener: "l".into(),
            route: "r".into(),
            connections,
            bytes: count("from_client", closed),
            ..HandedRouteCounts::default()
        }],
        counters: vec![
            HandedCounter { family: "accepted".into(), value: accepted, ..HandedCounter::default() },
            HandedCounter { family: "gone".into(), value: gone, ..HandedCounter::default() },
        ],
        additions: vec![HandedAddition::default()],
        ..ProcessState::default()
    };
    let expected = ProcessState {
        backends: vec![HandedBackend {
            counts: HandedBackendCounts { connections: 2, ..HandedBackendCounts::default() },
            ..backend(1)
        }],
        routes: vec![HandedRouteCounts {
            listener: "l".into(),
            route: "r".into(),
            connections: 2,
            ..HandedRouteCounts::default()
        }],
        counters: vec![HandedCounter { family: "accepted".into(), value: 3, ..HandedCounter::default() }],
        ..ProcessState::default()
    };
    assert_eq!(state(7, 4, 10, 1).counts_since(&state(5, 4, 7, 2)), expected);
    let all = state(7, 4, 10, 1).counts_since(&ProcessState::default());
    assert_eq!((all.counters.len(), all.backends[0].counts.closed.clone()), (2, count("fin", 4)));
    assert_eq!(state(7, 4, 10, 1).counts_since(&state(7, 4, 10, 1)), ProcessState::default());
}

#[test]
fn unknown_fields_are_ignored_and_missing_ones_have_defaults() {
    let json =
        br#"{"state": {"later": {"a": [1]}, "backends": [{"pool": "p", "name": "1", "later": 3}], "draining": [{}]}}"#;
    let Message::ProcessState(read) = Message::decode(5, json).unwrap() else { panic!("it is a state") };
    let expected = ProcessState {
        backends: vec![backend(1)],
        draining: vec![HandedDrain::default()],
        ..ProcessState::default()
    };
    assert_eq!(*read, StatePart { state: expected, more: false });
}

#[test]
fn values_of_another_type_in_maps_by_words_are_ignored() {
    let json =
        br#"{"counts": {"bytes": {"later": [1, {"deep": null}], "to_client": 3, "low": -1, "none": null}}}"#;
    let read: HandedBackend = serde_json::from_slice(json).unwrap();
    assert_eq!(read.counts.bytes, [("to_client".to_owned(), 3)].into());
    let json = br#"{"family": "f", "labels": {"listener": "a", "later": {"a": 1}}, "value": 7}"#;
    let read: HandedCounter = serde_json::from_slice(json).unwrap();
    assert_eq!((read.labels, read.value), ([("listener".to_owned(), "a".to_owned())].into(), 7));
    // The map itself must be one.
    assert!(serde_json::from_str::<HandedCounter>(r#"{"labels": 5}"#).is_err());
}

#[test]
fn times_are_never_too_short_and_never_too_long() {
    assert_eq!(millis(Duration::from_nanos(1_999_999)), 1);
    assert_eq!(left_millis(Duration::from_nanos(1_000_001)), 2);
    assert_eq!(left_millis(Duration::MAX), u64::MAX);
    assert_eq!(from_millis(1500), Duration::from_millis(1500));
    assert!(std::time::Instant::now().checked_add(from_millis(u64::MAX)).is_some());
}

proptest! {
    #[test]
    fn split_states_are_joined_again(
        backends in 0_usize..30,
        sources in prop::collection::vec((0_usize..12, 0_usize..12), 0..5),
        most_items in 0_usize..25,
    ) {
        let whole = state(backends, &sources);
        let parts = whole.clone().split(most_items);
        for part in &parts {
            let found = part.discovered.iter().map(|source| 1 + source.found.len() + source.held.len());
            let others = [part.backends.len(), part.additions.len(), part.sources.len(), part.rates.len(),
                part.draining.len(), part.marks.len(), part.routes.len(), part.counters.len(),
                part.overrides.len(), part.needs.len()];
            let items = found.sum::<usize>() + others.iter().sum::<usize>();
            prop_assert!((1..=most_items.max(2)).contains(&items), "{items}");
        }
        prop_assert_eq!(joined(parts), whole);
    }
}

/// The state as version 0.2.0 writes it.
const OF_0_2_0: &str = include_str!("../../../../tests/fixtures/handover/0.2.0/state.json");

#[test]
fn the_state_of_each_release_is_read() {
    let state: ProcessState = serde_json::from_str(OF_0_2_0).unwrap();
    let health = state.backends[0].health.as_ref().unwrap();
    assert_eq!((&*health.state, health.agent_share, health.checks.is_down), ("down", Some(75), true));
    assert_eq!(health.ejections.present.as_ref().map(|present| present.left_ms), Some(12_345));
    assert_eq!(state.backends[0].counts.closed["fin"], 800);
    assert_eq!((state.discovered[0].found.len(), state.discovered[0].held[0].left_ms), (2, 20_000));
    assert_eq!((state.additions[0].left_ms, state.additions[1].left_ms), (Some(3_600_000), None));
    assert_eq!(state.marks[0].key, (1_234_567_890_123_456_789, 9_876_543_210_987_654_321));
    assert_eq!(state.counters[1].labels["listener"], "a");
    assert_eq!((&*state.overrides[0].value, state.overrides[1].left_ms), ("drain", Some(60_000)));
    // No field of that release was renamed or lost.
    let again: serde_json::Value = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!(again, serde_json::from_str::<serde_json::Value>(OF_0_2_0).unwrap());
}

/// A program that is older than a field does not send it.
#[test]
fn each_field_of_a_release_may_be_missing() {
    let whole: serde_json::Value = serde_json::from_str(OF_0_2_0).unwrap();
    let mut paths = Vec::new();
    fields(&whole, "", &mut paths);
    assert!(paths.len() > 80, "{paths:?}");
    for path in paths {
        let (parent, field) = path.rsplit_once('/').unwrap();
        let mut without = whole.clone();
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        let read: Result<ProcessState, _> = serde_json::from_value(without);
        assert!(read.is_ok(), "{path}: {read:?}");
    }
}

/// Adds the path of each field below a value.
fn fields(value: &serde_json::Value, path: &str, paths: &mut Vec<String>) {
    if let Some(list) = value.as_array() {
        for (at, item) in list.iter().enumerate() {
            fields(item, &format!("{path}/{at}"), paths);
        }
    }
    for (name, item) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        fields(item, &path, paths);
        paths.push(path);
    }
}
