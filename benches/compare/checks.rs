//! Measures the cost of checking ten thousand backends every two seconds, and the number of checks under way
//! at once.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::child::pause;
use crate::cpus;
use crate::custom_proxy::CustomProxy;
use crate::figures::Spread;
use crate::measure::Bench;
use crate::proc::{self, CpuTimes};
use crate::report::{markdown, show};
use crate::scrape;
use crate::separate_backend::{BackendPlace, SeparateBackend};

/// The time from one count of descriptors to the next.
const INTERVAL: Duration = Duration::from_millis(1);

/// A kind of check, with the backends that it is for.
struct Kind {
    name: &'static str,
    check: &'static str,
    place: BackendPlace,
}

impl Kind {
    fn answers(&self) -> bool {
        !matches!(self.place, BackendPlace::NoAccept)
    }
}

const KINDS: [Kind; 3] = [
    Kind { name: "`tcp`", check: "check = \"tcp\"", place: BackendPlace::OnLoopback },
    Kind {
        name: "`send-expect`, one step",
        check: "check = \"send-expect\"\nsteps = [{ expect = \"!\" }]",
        place: BackendPlace::OnLoopback,
    },
    Kind { name: "`tcp`, nobody answers", check: "check = \"tcp\"", place: BackendPlace::NoAccept },
];

/// The size of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    backends: usize,
    /// The unmeasured time after the start: the first checks are spread over the first interval.
    settle: Duration,
    measure: Duration,
}

impl Extent {
    /// The size of a full measurement.
    pub(crate) fn full(rounds: usize) -> Self {
        Self { rounds, backends: 10_000, settle: Duration::from_secs(3), measure: Duration::from_secs(10) }
    }

    /// The smallest size that shows that everything works.
    pub(crate) fn brief() -> Self {
        Self {
            rounds: 1,
            backends: 100,
            settle: Duration::from_millis(100),
            measure: Duration::from_millis(2500),
        }
    }
}

struct Sample {
    kind: &'static str,
    /// The checks in each second.
    checks: f64,
    /// The number of failed checks in the whole measured time.
    failed: f64,
    /// Percent of a CPU.
    cpu: f64,
    under_way: f64,
    delayed: f64,
}

/// Returns the table. A failed check is not an error here, because a check may time out on a busy machine.
///
/// # Errors
/// Returns an error if pointsman does not start or makes no checks, or if no check passes although a backend
/// answers.
pub(crate) fn run(bench: &Bench<'_>, extent: Extent) -> io::Result<String> {
    let mut samples = Vec::new();
    for round in 1..=extent.rounds {
        for kind in &KINDS {
            eprintln!("round {round}/{}: checks, {}", extent.rounds, kind.name);
            samples.push(sample(bench, kind, extent)?);
        }
    }
    Ok(text(&samples, extent))
}

fn sample(bench: &Bench<'_>, kind: &Kind, extent: Extent) -> io::Result<Sample> {
    let server = SeparateBackend::start(kind.place, bench.cpus.load)?;
    let idle = start(bench, "check = \"off\"", &server, extent)?;
    // A scrape may leave descriptors open. Both counts contain them, because both proxies are scraped.
    Count::of(idle.admin)?;
    pause(extent.settle / 10);
    let base = proc::own_descriptors(idle.pid());
    drop(idle);
    let proxy = start(bench, kind.check, &server, extent)?;
    pause(extent.settle);

    let before = Count::of(proxy.admin)?;
    let counted = Instant::now();
    let (cpu, most) = cpus::at(bench.cpus.load, || Ok(watch_process(proxy.pid(), extent.measure)))?;
    let after = Count::of(proxy.admin)?;
    let seconds = counted.elapsed().as_secs_f64();
    if after.checks() <= before.checks() {
        return Err(io::Error::other("no backend was checked"));
    }
    if kind.answers() && after.passed <= before.passed {
        return Err(io::Error::other("no check passed, though somebody answers"));
    }
    Ok(Sample {
        kind: kind.name,
        checks: (after.checks() - before.checks()) / seconds,
        failed: after.failed - before.failed,
        cpu: 100.0 * cpu,
        under_way: most.saturating_sub(base) as f64,
        delayed: after.delayed,
    })
}

/// Returns the part of a CPU that the process used in this time, and the most descriptors that were open at
/// once.
fn watch_process(pid: u32, time: Duration) -> (f64, usize) {
    let (began, before) = (Instant::now(), CpuTimes::by(&[pid]).seconds());
    let mut most = 0;
    while began.elapsed() < time {
        most = most.max(proc::own_descriptors(pid));
        pause(INTERVAL);
    }
    ((CpuTimes::by(&[pid]).seconds() - before) / began.elapsed().as_secs_f64(), most)
}

fn start(
    bench: &Bench<'_>,
    check: &str,
    server: &SeparateBackend,
    extent: Extent,
) -> io::Result<CustomProxy> {
    let text = configuration(check, server.address.port(), extent.backends);
    CustomProxy::start(bench.directory, &text, bench.cpus.proxy)
}

/// Each backend has a loopback address of its own.
fn configuration(check: &str, port: u16, backends: usize) -> String {
    let mut text = format!(
        "workers = 1
[admin]
listen = \"127.0.0.1:0\"
[access_log]
to = \"off\"
[listener.main]
bind = \"127.0.0.1:0\"
pool = \"main\"
[pool.main.health]
{check}
[pool.main]
backends = [
"
    );
    for number in 0..backends {
        let _ = writeln!(text, "  \"127.1.{}.{}:{port}\",", number / 250, 1 + number % 250);
    }
    text.push_str("]\n");
    text
}

/// The checks since the start.
struct Count {
    passed: f64,
    failed: f64,
    delayed: f64,
}

impl Count {
    fn of(admin: SocketAddr) -> io::Result<Self> {
        let text = scrape::fetch(admin)?;
        let sum = |result: &str| {
            let ending = format!("result=\"{result}\"}}");
            let series = text.lines().filter(|line| line.starts_with("pointsman_backend_checks_total{"));
            let of_result = series.filter_map(|line| line.split_once(&ending)?.1.trim().parse::<f64>().ok());
            of_result.sum::<f64>()
        };
        let delayed = scrape::value(&text, "pointsman_checks_delayed_total").unwrap_or(f64::NAN);
        Ok(Self { passed: sum("passed"), failed: sum("failed"), delayed })
    }

    fn checks(&self) -> f64 {
        self.passed + self.failed
    }
}

fn text(samples: &[Sample], extent: Extent) -> String {
    type Value = fn(&Sample) -> f64;
    let columns: [(&str, usize, Value); 6] = [
        ("checks/s", 0, |sample| sample.checks),
        ("failed", 0, |sample| sample.failed),
        ("% of a CPU", 1, |sample| sample.cpu),
        ("CPU µs/check", 1, |sample| sample.cpu * 1e4 / sample.checks),
        ("most at once", 0, |sample| sample.under_way),
        ("delayed", 0, |sample| sample.delayed),
    ];
    let mut heads = vec!["check".to_owned()];
    heads.extend(columns.iter().map(|(title, ..)| (*title).to_owned()));
    let rows: Vec<Vec<String>> = KINDS
        .iter()
        .map(|kind| {
            let same = || samples.iter().filter(|sample| sample.kind == kind.name);
            let cell =
                |(_, decimals, value): &(&str, usize, Value)| show(Spread::of(same().map(value)), *decimals);
            std::iter::once(kind.name.to_owned()).chain(columns.iter().map(cell)).collect()
        })
        .collect();
    format!(
        "\n### Checks of {} backends every 2 s\n\n{}\nMeasured for {:.1} s. The CPU time is the whole process's, \
         kernel work in its name included. Most at once: descriptors seen, looking every millisecond, beyond those \
         of the same process without checks; at most `max_checks` (1000) may be. Delayed: checks that waited for \
         that, since the start.",
        extent.backends,
        markdown(&heads, &rows),
        extent.measure.as_secs_f64(),
    )
}
