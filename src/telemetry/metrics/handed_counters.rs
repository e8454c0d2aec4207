//! The counters of a process, for another process that goes on with them.
//!
//! The recorder returns no values of counters, but it renders them. So they are read from its text, which a scrape reads
//! as well. A histogram begins at 0 in the new process, and a gauge has the value of the new process.

use std::collections::BTreeMap;

use metrics::Counter;

use super::families::METRICS;
use super::{MetricDoc, MetricKind, Metrics, families};
use crate::wire::handover::HandedCounter;

/// The counters whose values are kept elsewhere. They are read from there for each scrape.
const KEPT_ELSEWHERE: &[&MetricDoc] = &[
    &families::SOURCE_EVICTIONS,
    &families::SOURCES_WITHOUT_ROOM,
    &families::LOG_LINES_DROPPED,
    &families::PANIC_PICKS,
    &families::HASH_OVERFLOWS,
    &families::FORWARD_LOOKUPS,
    &families::LIST_LOADS,
    &families::NEAR_LOADS,
    &families::LIST_REFUSALS,
    &families::DISCOVERY_FAILURES,
    &families::ROUTE_CONNECTIONS,
    &families::ROUTE_BYTES,
    &families::BACKEND_CONNECTIONS,
    &families::BACKEND_BYTES,
    &families::BACKEND_CLOSED,
    &families::BACKEND_STATE_CHANGES,
    &families::BACKEND_TROUBLES,
    &families::BACKEND_CHECKS,
    &families::CPU_SECONDS,
];

impl MetricDoc {
    /// Returns one series of a counter, for a hand-over. `labels` has the values of the family's labels, in their order.
    pub fn hand_over(&self, labels: &[&str], value: u64) -> HandedCounter {
        let named = self.labels.iter().zip(labels);
        let labels = named.map(|(name, label)| ((*name).to_owned(), (*label).to_owned())).collect();
        HandedCounter { family: self.name.to_owned(), labels, value }
    }

    /// Returns the values of the family's labels in a series of another process. `None` if the series has other labels.
    pub fn labels_of<'a>(&self, counter: &'a HandedCounter) -> Option<Vec<&'a str>> {
        let labels = &counter.labels;
        let values = self.labels.iter().map(|name| labels.get(*name).map(String::as_str));
        values.collect::<Option<Vec<_>>>().filter(|values| values.len() == labels.len())
    }
}

impl Metrics {
    /// Returns all counters that are counted here and are not 0. Costs as much as a scrape.
    pub fn counters(&self) -> Vec<HandedCounter> {
        let text = self.render();
        let mut family: Option<&MetricDoc> = None;
        let mut counters = Vec::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                family = head.split(' ').next().and_then(counted_family);
            } else if let Some(metric) = family
                && let Some(counter) = read_sample(metric, line).filter(|counter| counter.value > 0)
            {
                counters.push(counter);
            }
        }
        counters
    }

    /// Adds the count of another process to a counter. The series appears if it did not exist. Returns false, and does
    /// nothing, if this program has no such counter, or if its value is kept elsewhere.
    pub fn add_counter(&self, handed: &HandedCounter) -> bool {
        let Some(metric) = counted_family(&handed.family) else { return false };
        let Some(values) = metric.labels_of(handed) else { return false };
        let labels: Vec<_> = metric.labels.iter().copied().zip(values).collect();
        let counter: Counter = self.registry.counter(metric, &labels);
        counter.increment(handed.value);
        true
    }
}

/// Returns the family of a counter that is counted here.
fn counted_family(name: &str) -> Option<&'static MetricDoc> {
    let metric = METRICS.iter().find(|metric| metric.name == name && metric.kind == MetricKind::Counter)?;
    (!KEPT_ELSEWHERE.iter().any(|other| other.name == name)).then_some(metric)
}

/// Reads a line with a sample of a family; `None` if the line has no such sample.
fn read_sample(metric: &MetricDoc, line: &str) -> Option<HandedCounter> {
    let rest = line.strip_prefix(metric.name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = value.strip_prefix(' ')?.parse().ok()?;
    Some(HandedCounter { family: metric.name.to_owned(), labels, value })
}

/// Reads labels up to the closing brace. Returns them with the rest of the line.
fn read_labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value);
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => text = next,
            None => return Some((labels, rest.strip_prefix('}')?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::tests::fresh;
    use super::*;
    use crate::telemetry::CloseReason;

    #[test]
    fn counters_go_over_and_add_up() {
        let (old, new) = (fresh(), Metrics::new());
        let name = "web \"1\", é}";
        let accepted = old.listener(name).accepted();
        old.listener(name).closed(CloseReason::ClientFin, Duration::from_secs(1));
        old.process().panics.increment(3);
        drop(accepted);
        let counters = old.counters();
        assert_eq!(counters.len(), 3, "{counters:?}");
        new.process().panics.increment(1);
        for counter in &counters {
            assert!(new.add_counter(counter), "{counter:?}");
        }
        new.listener(name).closed(CloseReason::ClientFin, Duration::from_secs(1));
        let found: BTreeSet<_> = new
            .counters()
            .into_iter()
            .map(|counter| (counter.family, counter.labels, counter.value))
            .collect();
        let expected = [
            families::CONNECTIONS.hand_over(&[name], 1),
            families::CONNECTIONS_CLOSED.hand_over(&[name, "client_fin"], 2),
            families::PANICS.hand_over(&[], 4),
        ];
        let expected =
            expected.map(|counter| (counter.family, counter.labels, counter.value)).into_iter().collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_this_program_does_not_count_is_ignored() {
        let metrics = Metrics::new();
        let lines = || metrics.render().lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let before = lines();
        let check = |family: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let counter = HandedCounter { family: family.into(), labels, value: u64::MAX };
            assert!(!metrics.add_counter(&counter), "{counter:?}");
        };
        check("pointsman_later_total", &[]);
        check("pointsman_workers", &[]);
        check("pointsman_connections_total", &[]);
        check("pointsman_connections_total", &[("other", "l")]);
        check("pointsman_connections_total", &[("listener", "l"), ("other", "l")]);
        check("pointsman_source_evictions_total", &[]);
        check("pointsman_backend_connections_total", &[("pool", "p"), ("backend", "b")]);
        assert_eq!(lines(), before);
        let hostile = families::PANICS.hand_over(&[], u64::MAX);
        assert!(metrics.add_counter(&hostile) && metrics.add_counter(&hostile));
    }

    /// Each counter is either counted here or in the list of the counters that are kept elsewhere.
    #[test]
    fn each_counter_has_its_place() {
        let text = fresh().render();
        let absolute =
            [&families::SOURCE_EVICTIONS, &families::SOURCES_WITHOUT_ROOM, &families::LOG_LINES_DROPPED];
        for metric in METRICS.iter().filter(|metric| metric.kind == MetricKind::Counter) {
            let is_rendered = text.contains(&format!("# TYPE {} counter", metric.name));
            let is_absolute = absolute.contains(&metric);
            let is_counted_here = counted_family(metric.name).is_some();
            assert_eq!(is_counted_here, is_rendered && !is_absolute, "{}", metric.name);
        }
    }
}
