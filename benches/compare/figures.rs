//! Numbers from points: medians, ranges, and ratios within a round.

use crate::peers::Peer;
use crate::points::{Against, Entrant, Figures, Flow, Point, Rest, TellWorkers, Test};

/// The median of some values, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Returns `None` if there is no value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, low, high })
    }

    /// Returns the text of a table cell; without a range if low and high have the same text.
    pub(crate) fn show(self, decimals: usize) -> String {
        let [median, low, high] =
            [self.median, self.low, self.high].map(|value| format!("{value:.decimals$}"));
        if low == high { median } else { format!("{median} [{low}-{high}]") }
    }
}

/// A row of results: a test, and for idle connections their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) test: Test,
    pub(crate) connections: usize,
}

impl Subject {
    pub(crate) fn of(point: &Point) -> Self {
        let connections = match &point.figures {
            Figures::Flow(_) => 0,
            Figures::Rest(rest) => rest.connections,
        };
        Self { test: point.test, connections }
    }
}

/// All points of a run.
pub(crate) struct Results {
    points: Vec<Point>,
    /// The median pace of the run. Calibrated times are those of a machine with this pace. `None` if no test
    /// moved bytes.
    pace: Option<f64>,
}

/// A function that takes one number from a point.
pub(crate) type Figure = fn(&Results, &Point) -> Option<f64>;

impl Results {
    pub(crate) fn new(points: Vec<Point>) -> Self {
        let paces = points.iter().filter_map(|point| flow(point).map(|flow| flow.pace));
        let pace = Spread::of(paces).map(|spread| spread.median);
        Self { points, pace }
    }

    /// Returns the errors of one peer in all tests, or `None` if the peer was in none.
    pub(crate) fn errors(&self, peer: Peer) -> Option<u64> {
        let mut own = self.points.iter().filter(|point| point.entrant.peer == peer).peekable();
        own.peek()?;
        Some(own.map(|point| point.errors).sum())
    }

    pub(crate) fn pace(&self) -> Option<f64> {
        self.pace
    }

    /// Returns the tests that were run, in order.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let mut subjects: Vec<Subject> = self.points.iter().map(Subject::of).collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }

    /// Returns the proxies that were tested, in order.
    pub(crate) fn entrants(&self) -> Vec<Entrant> {
        let mut entrants: Vec<Entrant> = self.points.iter().map(|point| point.entrant).collect();
        entrants.sort_unstable();
        entrants.dedup();
        entrants
    }

    /// Returns `Yes` if the tables must show the number of workers in names.
    pub(crate) fn tell_workers(&self) -> TellWorkers {
        let first = self.points.first().map(|point| point.entrant.workers);
        let same = self.points.iter().all(|point| Some(point.entrant.workers) == first);
        if same { TellWorkers::No } else { TellWorkers::Yes }
    }

    fn of(&self, subject: Subject, entrant: Entrant) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.entrant == entrant && Subject::of(point) == subject)
    }

    pub(crate) fn spread(&self, subject: Subject, entrant: Entrant, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(subject, entrant).filter_map(|point| figure(self, point)))
    }

    /// Returns the ratio to the reference in the same round, when the state of the machine was most alike.
    pub(crate) fn ratio(
        &self,
        subject: Subject,
        entrant: Entrant,
        against: Against,
        figure: Figure,
    ) -> Option<Spread> {
        let other = against.beside(entrant);
        let ratio = |point: &Point| {
            let beside = self.of(subject, other).find(|other| other.round == point.round)?;
            Some(figure(self, point)? / figure(self, beside)?)
        };
        Spread::of(self.of(subject, entrant).filter_map(ratio))
    }
}

pub(crate) fn flow(point: &Point) -> Option<&Flow> {
    match &point.figures {
        Figures::Flow(flow) => Some(flow),
        Figures::Rest(_) => None,
    }
}

pub(crate) fn rest(point: &Point) -> Option<&Rest> {
    match &point.figures {
        Figures::Flow(_) => None,
        Figures::Rest(rest) => Some(rest),
    }
}

/// Returns the calibrated CPU seconds for one operation.
pub(crate) fn cpu(results: &Results, point: &Point) -> Option<f64> {
    let flow = flow(point)?;
    Some(flow.cpu? / flow.pace * results.pace?)
}

pub(crate) fn gigabits(_: &Results, point: &Point) -> Option<f64> {
    Some(flow(point)?.rate * 8.0 / 1e9)
}

pub(crate) fn rate(_: &Results, point: &Point) -> Option<f64> {
    Some(flow(point)?.rate)
}

pub(crate) fn cpu_per_gib(results: &Results, point: &Point) -> Option<f64> {
    Some(cpu(results, point)? * f64::from(1 << 30))
}

pub(crate) fn cpu_micros(results: &Results, point: &Point) -> Option<f64> {
    Some(cpu(results, point)? * 1e6)
}

pub(crate) fn p50(_: &Results, point: &Point) -> Option<f64> {
    flow(point)?.p50
}

pub(crate) fn p99(_: &Results, point: &Point) -> Option<f64> {
    flow(point)?.p99
}

pub(crate) fn p999(_: &Results, point: &Point) -> Option<f64> {
    flow(point)?.p999
}

pub(crate) fn pss(_: &Results, point: &Point) -> Option<f64> {
    rest(point)?.pss
}

pub(crate) fn base(_: &Results, point: &Point) -> Option<f64> {
    rest(point)?.base
}

pub(crate) fn descriptors(_: &Results, point: &Point) -> Option<f64> {
    rest(point)?.descriptors
}

pub(crate) fn kernel(_: &Results, point: &Point) -> Option<f64> {
    Some(rest(point)?.kernel)
}

pub(crate) fn errors(_: &Results, point: &Point) -> Option<f64> {
    Some(point.errors as f64)
}
