//! A metric family: its name, kind, labels and meaning.

/// One family of series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricDoc {
    /// The name, by the rules of Prometheus: base units, `_total` for counters.
    pub name: &'static str,
    /// The kind of its values.
    pub kind: MetricKind,
    /// The names of its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// The meaning for an operator in one line, which is also the HELP text.
    pub meaning: &'static str,
}

/// The kind of a family's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// A value that only grows, from 0 at the start of the process.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Observations sorted into buckets, with the upper bounds of the buckets, ascending, in the base unit. A
    /// histogram without bounds would be rendered as a summary, and summaries cannot be added up over machines.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// Returns the word in a TYPE line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Returns a family, so that each takes few lines in the list.
pub(super) const fn doc(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> MetricDoc {
    MetricDoc { name, kind, labels, meaning }
}
