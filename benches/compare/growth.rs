//! Measures pointsman alone with growing numbers of routes, backends or open connections.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::child::pause;
use crate::configurations::{self, Shape, configuration};
use crate::figures::Spread;
use crate::measure::Bench;
use crate::points::{LoadFigures, Test};
use crate::proc;
use crate::proxy::Proxy;
use crate::report::{markdown, show};
use crate::svg::{Lines, Scale};

/// A reload that takes longer has failed.
const RELOAD: Duration = Duration::from_secs(20);

/// The numbers that grow, and their sizes.
const AXES: [(Axis, &[usize]); 3] = [
    (Axis::Routes, &[10, 100, 1000, 10_000, 100_000]),
    (Axis::Backends, &[3, 10, 100, 1000, 10_000]),
    (Axis::Connections, &[0, 10, 100, 1000, 4500, 9000]),
];

/// The sizes that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Only the first size of each axis.
    Smallest,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Routes,
    Backends,
    Connections,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Backends => "backends",
            Self::Connections => "open connections",
        }
    }

    fn shape(self, size: usize) -> Shape {
        match self {
            Self::Routes => Shape { routes: size, ..Shape::PLAIN },
            Self::Backends => Shape { backends: size, ..Shape::PLAIN },
            Self::Connections => Shape::PLAIN,
        }
    }
}

struct Sample {
    round: usize,
    axis: Axis,
    size: usize,
    errors: u64,
    /// Seconds.
    start_up: f64,
    reload: f64,
    /// MiB, before any load.
    memory: f64,
    connection: LoadFigures,
    stream: LoadFigures,
}

/// Measures all sizes in interleaved rounds. Returns the table and the number of errors.
///
/// # Errors
/// Returns an error if pointsman does not start, reload or forward, or if a plot cannot be written.
pub(crate) fn run(
    bench: &Bench<'_>,
    rounds: usize,
    extent: Extent,
    plots: Option<&Path>,
) -> io::Result<(String, u64)> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for (axis, sizes) in AXES {
            let sizes = if extent == Extent::Smallest { &sizes[..1] } else { sizes };
            for size in sizes.iter().filter(|size| axis != Axis::Connections || fits(**size)) {
                eprintln!("round {round}/{rounds}: {size} {}", axis.name());
                samples.push(sample(bench, round, axis, *size)?);
            }
        }
    }
    let paces = samples.iter().flat_map(|sample| [sample.connection.pace, sample.stream.pace]);
    let pace = Spread::of(paces).map_or(1.0, |spread| spread.median);
    let report = Report { samples, pace };
    if let Some(directory) = plots {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("growth.svg"), report.plot())?;
        fs::write(directory.join("growth-start.svg"), report.plot_start())?;
    }
    let errors = report.samples.iter().map(|sample| sample.errors).sum();
    let text = format!(
        "\n### What grows: pointsman alone\n\n{}\nRatios are to the smallest size and are made within each \
         round. \\* At the run's median pace ({pace:.2} µs for a message of the calibration).",
        report.table()
    );
    Ok((text, errors))
}

/// Returns `true` if a process may have the descriptors for this many connections.
pub(crate) fn fits(connections: usize) -> bool {
    const RESERVE: u64 = 1000;
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.is_ok_and(|(soft, _)| 2 * connections as u64 + RESERVE <= soft)
}

fn sample(bench: &Bench<'_>, round: usize, axis: Axis, size: usize) -> io::Result<Sample> {
    let shape = axis.shape(size);
    let proxy = bench.start_pointsman(shape)?;
    let memory = proxy.pid().map_or(0.0, |pid| proc::pss_kib(pid) as f64 / 1024.0);
    let held = if axis == Axis::Connections { Some(bench.hold(&proxy, size)?) } else { None };
    let (first, connection) = bench.flow(&proxy, Test::Conn)?;
    let (second, stream) = bench.flow(&proxy, Test::Down)?;
    let mut errors = first.errors + second.errors;
    if let Some(held) = held {
        errors += held.release()?.errors;
    }
    let reload = reload(&proxy, shape)?.as_secs_f64();
    let start_up = proxy.start_up.as_secs_f64();
    Ok(Sample { round, axis, size, errors, start_up, reload, memory, connection, stream })
}

/// Measures the time from the signal to the log line for the new file, which has one route more.
fn reload(proxy: &Proxy, shape: Shape) -> io::Result<Duration> {
    let larger = Shape { routes: shape.routes + 1, ..shape };
    let file = configuration(&proxy.setup, proxy.variant.peer);
    fs::write(file, configurations::pointsman(&proxy.setup, larger))?;
    let program = proxy.program().ok_or(io::ErrorKind::NotFound)?;
    let began = Instant::now();
    program.signal(Signal::SIGHUP);
    loop {
        let log = fs::read_to_string(&proxy.log)?;
        if log.contains("not reloaded") || began.elapsed() > RELOAD {
            return Err(io::Error::other(format!("it did not reload: {log}")));
        }
        if log.contains("reloaded") {
            return Ok(began.elapsed());
        }
        pause(Duration::from_millis(1));
    }
}

struct Report {
    samples: Vec<Sample>,
    pace: f64,
}

impl Report {
    fn spread(&self, axis: Axis, size: usize, value: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let same = self.samples.iter().filter(|sample| sample.axis == axis && sample.size == size);
        Spread::of(same.map(value))
    }

    /// Returns the calibrated CPU microseconds for one connection.
    fn connection(&self, sample: &Sample) -> f64 {
        self.calibrated(&sample.connection) * 1e6
    }

    /// Returns the calibrated CPU seconds for one GiB.
    fn stream(&self, sample: &Sample) -> f64 {
        self.calibrated(&sample.stream) * f64::from(1 << 30)
    }

    fn calibrated(&self, flow: &LoadFigures) -> f64 {
        flow.cpu.map_or(f64::NAN, |cpu| cpu / flow.pace * self.pace)
    }

    /// Returns the ratio to the smallest size of the same round.
    fn ratio(&self, axis: Axis, size: usize, value: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let smallest =
            self.samples.iter().filter(|sample| sample.axis == axis).map(|sample| sample.size).min()?;
        let of = |size: usize| {
            self.samples.iter().filter(move |sample| sample.axis == axis && sample.size == size)
        };
        let ratio = |sample: &Sample| {
            let first = of(smallest).find(|first| first.round == sample.round)?;
            Some(value(sample) / value(first))
        };
        Spread::of(of(size).filter_map(ratio))
    }

    fn table(&self) -> String {
        let heads = [
            "what grows",
            "to",
            "CPU µs/conn*",
            "ratio",
            "CPU s/GiB*",
            "ratio",
            "start-up ms",
            "reload ms",
            "base PSS MiB",
            "errors",
        ];
        let mut rows = Vec::new();
        for (axis, sizes) in AXES {
            for size in sizes {
                if !self.samples.iter().any(|sample| sample.axis == axis && sample.size == *size) {
                    continue;
                }
                let cell = |decimals, value: &dyn Fn(&Sample) -> f64| {
                    show(self.spread(axis, *size, value), decimals)
                };
                rows.push(vec![
                    axis.name().to_owned(),
                    size.to_string(),
                    cell(1, &|sample| self.connection(sample)),
                    show(self.ratio(axis, *size, |sample| self.connection(sample)), 2),
                    cell(3, &|sample| self.stream(sample)),
                    show(self.ratio(axis, *size, |sample| self.stream(sample)), 2),
                    cell(1, &|sample| sample.start_up * 1e3),
                    cell(1, &|sample| sample.reload * 1e3),
                    cell(1, &|sample| sample.memory),
                    cell(0, &|sample| sample.errors as f64),
                ]);
            }
        }
        markdown(&heads.map(str::to_owned), &rows)
    }

    /// Plots the cost of a connection and of a byte.
    fn plot(&self) -> String {
        let mut series = Vec::new();
        for (axis, sizes) in AXES {
            let line = |value: &dyn Fn(&Sample) -> f64| {
                let point = |size: &usize| Some((*size as f64, self.ratio(axis, *size, value)?.median));
                sizes.iter().filter_map(point).collect::<Vec<_>>()
            };
            series.push((format!("{}: per connection", axis.name()), line(&|s| self.connection(s))));
            series.push((format!("{}: per GiB", axis.name()), line(&|s| self.stream(s))));
        }
        let title = "CPU time as things grow, relative to the smallest size".to_owned();
        Lines { title, scale: Scale::Linear, series }.draw()
    }

    /// Plots the cost of the configuration.
    fn plot_start(&self) -> String {
        let mut series = Vec::new();
        for (axis, sizes) in AXES.into_iter().filter(|(axis, _)| *axis != Axis::Connections) {
            let line = |value: &dyn Fn(&Sample) -> f64| {
                let point = |size: &usize| Some((*size as f64, self.spread(axis, *size, value)?.median));
                sizes.iter().filter_map(point).collect::<Vec<_>>()
            };
            series.push((format!("{}: start-up, ms", axis.name()), line(&|s| s.start_up * 1e3)));
            series.push((format!("{}: reload, ms", axis.name()), line(&|s| s.reload * 1e3)));
            series.push((format!("{}: memory, MiB", axis.name()), line(&|s| s.memory)));
        }
        let title = "Start-up, reload and memory as the configuration grows".to_owned();
        Lines { title, scale: Scale::Tenfold, series }.draw()
    }
}
