//! The metrics that are counted as events happen, with their handles.
//!
//! A series of a listener or a pool exists, at 0, as soon as its event can happen there. So rates and alerts
//! include the first event. An event that cannot happen by the protocol and the settings has no series. Otherwise
//! twenty listeners would have a thousand series of 0. `server` announces the events that can happen (the methods
//! `may_...`). An event that was not announced is counted all the same, and its series appears with it.
//!
//! A handle is looked up once and kept; the counting code holds the struct that has it. Series cannot be removed, so
//! the series of a listener or pool that a reload removed stay until the process ends. Backends and routes come and go,
//! so their series are not here: see [`super::exposition`].

mod counts;
mod distribution;
pub mod families;
mod family;
mod handed_counters;
mod listener;
mod pool;
mod process;
mod totals;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::limit::Rate;

pub use self::counts::{BackendCounts, RouteCounts};
pub use self::distribution::Distribution;
pub use self::families::{METRICS, markdown_table};
pub use self::family::{MetricDoc, MetricKind};
pub use self::listener::{ActiveConnection, ClientOpening, HelloOutcome, ListenerMetrics, ProxyOutcome};
pub use self::pool::{AgentAnswer, ConnectOutcome, EjectionOutcome, FailedCheck, PoolMetrics};
pub use self::process::{AdminRefusal, PipeFallback, ProcessMetrics, ReloadOutcome, UpgradeOutcome};
pub use self::totals::{ConnectionTotals, TotalsReading};

/// The origin of a registered metric. The recorder keeps it for filters, which are not used here.
const METADATA: Metadata<'static> = Metadata::new("pointsman", metrics::Level::INFO, None);

/// The metrics of a process. There is no global recorder: the metrics of two tests share no state.
pub struct Metrics {
    registry: Arc<MetricRegistry>,
    handle: PrometheusHandle,
    process: ProcessMetrics,
    totals: Arc<ConnectionTotals>,
    /// Listeners by name. It has a lock because a reload may name listeners while a scrape renders; both are rare.
    listeners: Mutex<HashMap<Box<str>, Arc<ListenerMetrics>>>,
    pools: Mutex<HashMap<Box<str>, Arc<PoolMetrics>>>,
    /// The rate limit of lines about refusals that each listener gets in the access log.
    refusal_lines: Mutex<Option<Rate>>,
}

impl Metrics {
    /// Returns the metrics of a process, at 0, without listeners and pools.
    pub fn new() -> Arc<Self> {
        let registry = Arc::new(MetricRegistry::new());
        let handle = registry.recorder.handle();
        let process = ProcessMetrics::new(&registry);
        Arc::new(Self {
            registry,
            handle,
            process,
            totals: Arc::default(),
            listeners: Mutex::default(),
            pools: Mutex::default(),
            refusal_lines: Mutex::default(),
        })
    }

    /// Returns the metrics that belong to no listener and no pool.
    pub fn process(&self) -> &ProcessMetrics {
        &self.process
    }

    /// Returns the totals of all connections.
    pub fn totals(&self) -> &ConnectionTotals {
        &self.totals
    }

    /// Returns the metrics of a listener, always the same metrics for the same name. `name` must come from the
    /// configuration.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let lines = *self.refusal_lines.lock().unwrap_or_else(PoisonError::into_inner);
        named(&self.listeners, name, || ListenerMetrics::new(&self.registry, &self.totals, name, lines))
    }

    /// Bounds the lines about refusals in the access log, for each listener. `None` is no limit.
    pub fn bound_refusal_lines(&self, lines: Option<Rate>) {
        *self.refusal_lines.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.values().for_each(|listener| listener.refusal_lines.set(lines));
    }

    /// Returns the metrics of a pool, always the same metrics for the same name. `name` must come from the
    /// configuration.
    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        named(&self.pools, name, || PoolMetrics::new(&self.registry, name))
    }

    /// Returns all metrics in the text format of Prometheus. Families of backends and of the kernel's figures are
    /// appended with an [`Exposition`](super::Exposition). Costs milliseconds at ten thousand series, so it must not
    /// run on a worker.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sorts the observations of histograms into their buckets. Until then each observation takes 16 bytes. So
    /// this must be called every few seconds (5 is right), even if no scrape comes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn named<T>(known: &Mutex<HashMap<Box<str>, Arc<T>>>, name: &str, new: impl FnOnce() -> T) -> Arc<T> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(known.entry(name.into()).or_insert_with(|| Arc::new(new())))
}

/// Creates handles of the families in [`METRICS`].
struct MetricRegistry {
    recorder: PrometheusRecorder,
}

/// The labels of one series.
type SeriesLabels<'a> = &'a [(&'static str, &'a str)];

/// A handle whose series appears when the handle is first used, or when an event is announced
/// (`LazyLock::force`).
pub type LazySeries<T> = LazyLock<T, Box<dyn FnOnce() -> T + Send>>;

impl MetricRegistry {
    fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in METRICS {
            if let MetricKind::Histogram(bounds) = metric.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
                    .expect("a test holds that every histogram has bounds");
            }
        }
        Self { recorder: builder.build_recorder() }
    }

    fn counter(&self, metric: &MetricDoc, labels: SeriesLabels<'_>) -> Counter {
        debug_assert_eq!(metric.kind, MetricKind::Counter);
        self.recorder.describe_counter(metric.name.into(), None, metric.meaning.into());
        self.recorder.register_counter(&key(metric, labels), &METADATA)
    }

    /// Returns the lazy handle of a counter.
    fn lazy_counter(
        self: &Arc<Self>,
        metric: &'static MetricDoc,
        labels: SeriesLabels<'_>,
    ) -> LazySeries<Counter> {
        let (registry, labels) = (Arc::clone(self), owned(labels));
        LazySeries::new(Box::new(move || registry.counter(metric, &borrowed(&labels))))
    }

    /// Returns the lazy handle of a histogram.
    fn lazy_histogram(
        self: &Arc<Self>,
        metric: &'static MetricDoc,
        labels: SeriesLabels<'_>,
    ) -> LazySeries<Histogram> {
        let (registry, labels) = (Arc::clone(self), owned(labels));
        LazySeries::new(Box::new(move || registry.histogram(metric, &borrowed(&labels))))
    }

    fn gauge(&self, metric: &MetricDoc, labels: SeriesLabels<'_>) -> Gauge {
        debug_assert_eq!(metric.kind, MetricKind::Gauge);
        self.recorder.describe_gauge(metric.name.into(), None, metric.meaning.into());
        self.recorder.register_gauge(&key(metric, labels), &METADATA)
    }

    fn histogram(&self, metric: &MetricDoc, labels: SeriesLabels<'_>) -> Histogram {
        debug_assert!(matches!(metric.kind, MetricKind::Histogram(_)));
        self.recorder.describe_histogram(metric.name.into(), None, metric.meaning.into());
        self.recorder.register_histogram(&key(metric, labels), &METADATA)
    }
}

/// Labels that are stored until the series that uses them exists.
type OwnedLabels = Box<[(&'static str, Box<str>)]>;

fn owned(labels: SeriesLabels<'_>) -> OwnedLabels {
    labels.iter().map(|(name, value)| (*name, (*value).into())).collect()
}

fn borrowed(labels: &OwnedLabels) -> Vec<(&'static str, &str)> {
    labels.iter().map(|(name, value)| (*name, &**value)).collect()
}

fn key(metric: &MetricDoc, labels: SeriesLabels<'_>) -> Key {
    debug_assert!(labels.iter().map(|(name, _)| name).eq(metric.labels), "{}: {labels:?}", metric.name);
    let labels: Vec<_> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod tests;
