//! Every metric that is counted as it happens, with its handle.
//!
//! A series of a listener or a pool exists, at 0, from the moment its event can happen there: rates and alerts then
//! see the first event. What cannot happen by the protocol and the settings has no series, and twenty listeners do not
//! have a thousand series of 0. `server` announces what can happen (the methods `may_...`); an event that was
//! not foreseen is counted all the same, and its series appears with it.
//!
//! A handle is looked up once and kept; the code that counts holds the struct it is in. Series cannot be removed, so those of
//! a listener or pool that a reload took away stay until the process ends, and what comes and goes (backends, routes) is
//! not here: see [`super::exposition`].

mod admin;
mod counts;
mod distribution;
pub mod families;
mod listener;
pub mod lists;
mod pool;
mod process;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::limit::Rate;

pub use self::admin::AdminRefusal;
pub use self::counts::{BackendCounts, RouteCounts};
pub use self::distribution::Distribution;
pub use self::families::{METRICS, MetricDoc, MetricKind};
pub use self::listener::{ActiveConnection, ClientOpening, HelloOutcome, ListenerMetrics, ProxyOutcome};
pub use self::pool::{AgentAnswer, ConnectOutcome, EjectionOutcome, FailedCheck, PoolMetrics};
pub use self::process::{PipeFallback, ProcessMetrics, ReloadOutcome};
pub use self::table::markdown_table;

/// Where a metric is registered from; the recorder keeps it for filters, which we do not use.
const METADATA: Metadata<'static> = Metadata::new("pointsman", metrics::Level::INFO, None);

/// The metrics of a process. There is no global recorder: two of these, in two tests, share nothing.
pub struct Metrics {
    registry: Arc<MetricRegistry>,
    handle: PrometheusHandle,
    process: ProcessMetrics,
    /// By name. Locks, as a reload names listeners while a scrape renders; both are rare.
    listeners: Mutex<HashMap<Box<str>, Arc<ListenerMetrics>>>,
    pools: Mutex<HashMap<Box<str>, Arc<PoolMetrics>>>,
    /// Lines of refusals that each listener gets in the access log.
    refusal_lines: Mutex<Option<Rate>>,
}

impl Metrics {
    /// The metrics of the process, at 0; no listener and no pool yet.
    pub fn new() -> Arc<Self> {
        let registry = Arc::new(MetricRegistry::new());
        let handle = registry.recorder.handle();
        let process = ProcessMetrics::new(&registry);
        Arc::new(Self {
            registry,
            handle,
            process,
            listeners: Mutex::default(),
            pools: Mutex::default(),
            refusal_lines: Mutex::default(),
        })
    }

    /// What belongs to no listener and no pool.
    pub fn process(&self) -> &ProcessMetrics {
        &self.process
    }

    /// The metrics of a listener, the same for the same name. `name` must come from the configuration.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let lines = *self.refusal_lines.lock().unwrap_or_else(PoisonError::into_inner);
        named(&self.listeners, name, || ListenerMetrics::new(&self.registry, name, lines))
    }

    /// Bounds the lines of refusals in the access log, for each listener; `None` is no bound.
    pub fn bound_refusal_lines(&self, lines: Option<Rate>) {
        *self.refusal_lines.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.values().for_each(|listener| listener.refusal_lines.set(lines));
    }

    /// The metrics of a pool, the same for the same name. `name` must come from the configuration.
    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        named(&self.pools, name, || PoolMetrics::new(&self.registry, name))
    }

    /// All of it in the text format of Prometheus; families of backends and of the kernel's figures are
    /// appended with an [`Exposition`](super::Exposition). Costs milliseconds at ten thousand series: not
    /// for a worker's thread.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sorts the observations of histograms into their buckets. Until then each holds 16 bytes, so this
    /// must be called every few seconds (5 is right), also where nobody scrapes.
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

/// Hands out handles of the families in [`METRICS`].
struct MetricRegistry {
    recorder: PrometheusRecorder,
}

/// The labels of one series.
type SeriesLabels<'a> = &'a [(&'static str, &'a str)];

/// A series that appears when it is first used.
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

    /// A counter whose series appears when it is first used or forced.
    fn lazy_counter(
        self: &Arc<Self>,
        metric: &'static MetricDoc,
        labels: SeriesLabels<'_>,
    ) -> LazySeries<Counter> {
        let (registry, labels) = (Arc::clone(self), owned(labels));
        LazySeries::new(Box::new(move || registry.counter(metric, &borrowed(&labels))))
    }

    /// A histogram whose series appear when it is first used or forced.
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

/// Labels that are kept as long as the series that will have them.
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
