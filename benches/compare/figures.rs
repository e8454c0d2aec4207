//! Numbers from points: medians, ranges, and ratios within a round.

use crate::peers::Peer;
use crate::points::{Figures, IdleFigures, LoadFigures, Point, ProxyVariant, Reference, ShowWorkers, Test};
pub(crate) use crate::spread::Spread;

/// A row of results: a test, and for idle connections their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) test: Test,
    pub(crate) connections: usize,
}

impl Subject {
    pub(crate) fn of(point: &Point) -> Self {
        let connections = match &point.figures {
            Figures::Load(_) => 0,
            Figures::Idle(idle_figures) => idle_figures.connections,
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
        let paces =
            points.iter().filter_map(|point| load_figures(point).map(|load_figures| load_figures.pace));
        let pace = Spread::of(paces).map(|spread| spread.median);
        Self { points, pace }
    }

    /// Returns the errors of one peer in all tests, or `None` if the peer was in none.
    pub(crate) fn errors(&self, peer: Peer) -> Option<u64> {
        let mut own = self.points.iter().filter(|point| point.variant.peer == peer).peekable();
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
    pub(crate) fn variants(&self) -> Vec<ProxyVariant> {
        let mut variants: Vec<ProxyVariant> = self.points.iter().map(|point| point.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }

    /// Returns `Yes` if the tables must show the number of workers in names.
    pub(crate) fn show_workers(&self) -> ShowWorkers {
        let first = self.points.first().map(|point| point.variant.workers);
        let same = self.points.iter().all(|point| Some(point.variant.workers) == first);
        if same { ShowWorkers::No } else { ShowWorkers::Yes }
    }

    fn of(&self, subject: Subject, variant: ProxyVariant) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.variant == variant && Subject::of(point) == subject)
    }

    pub(crate) fn spread(&self, subject: Subject, variant: ProxyVariant, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(subject, variant).filter_map(|point| figure(self, point)))
    }

    /// Returns the ratio to the reference in the same round, when the state of the machine was most alike.
    pub(crate) fn ratio(
        &self,
        subject: Subject,
        variant: ProxyVariant,
        against: Reference,
        figure: Figure,
    ) -> Option<Spread> {
        let other = against.beside(variant);
        let ratio = |point: &Point| {
            let beside = self.of(subject, other).find(|other| other.round == point.round)?;
            Some(figure(self, point)? / figure(self, beside)?)
        };
        Spread::of(self.of(subject, variant).filter_map(ratio))
    }
}

pub(crate) fn load_figures(point: &Point) -> Option<&LoadFigures> {
    match &point.figures {
        Figures::Load(load_figures) => Some(load_figures),
        Figures::Idle(_) => None,
    }
}

pub(crate) fn idle_figures(point: &Point) -> Option<&IdleFigures> {
    match &point.figures {
        Figures::Load(_) => None,
        Figures::Idle(idle_figures) => Some(idle_figures),
    }
}

/// Returns the calibrated CPU seconds for one operation.
pub(crate) fn cpu(results: &Results, point: &Point) -> Option<f64> {
    let load_figures = load_figures(point)?;
    Some(load_figures.cpu? / load_figures.pace * results.pace?)
}

pub(crate) fn gigabits(_: &Results, point: &Point) -> Option<f64> {
    Some(load_figures(point)?.rate * 8.0 / 1e9)
}

pub(crate) fn rate(_: &Results, point: &Point) -> Option<f64> {
    Some(load_figures(point)?.rate)
}

pub(crate) fn cpu_per_gib(results: &Results, point: &Point) -> Option<f64> {
    Some(cpu(results, point)? * f64::from(1 << 30))
}

pub(crate) fn cpu_micros(results: &Results, point: &Point) -> Option<f64> {
    Some(cpu(results, point)? * 1e6)
}

pub(crate) fn p50(_: &Results, point: &Point) -> Option<f64> {
    load_figures(point)?.p50
}

pub(crate) fn p99(_: &Results, point: &Point) -> Option<f64> {
    load_figures(point)?.p99
}

pub(crate) fn p999(_: &Results, point: &Point) -> Option<f64> {
    load_figures(point)?.p999
}

pub(crate) fn pss(_: &Results, point: &Point) -> Option<f64> {
    idle_figures(point)?.pss
}

pub(crate) fn base(_: &Results, point: &Point) -> Option<f64> {
    idle_figures(point)?.base
}

pub(crate) fn descriptors(_: &Results, point: &Point) -> Option<f64> {
    idle_figures(point)?.descriptors
}

pub(crate) fn kernel(_: &Results, point: &Point) -> Option<f64> {
    Some(idle_figures(point)?.kernel)
}

pub(crate) fn errors(_: &Results, point: &Point) -> Option<f64> {
    Some(point.errors as f64)
}
