//! Measures a failover: one of three backends fails under load.
//!
//! The table shows the failures and waits of clients. It also has the time until the backend gets no more
//! connections, and the time until it gets connections again. The backend fails in two ways:
//!
//! - Its process is killed, so that its port refuses.
//! - Its host drops all packets, which needs a network namespace and so root.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::arriving_clients::{ArrivingClients, ClientResult};
use crate::child::pause;
use crate::cpus::CpuPin;
use crate::custom_proxy::CustomProxy;
use crate::figures::Spread;
use crate::link;
use crate::measure::Bench;
use crate::report::{markdown, show};
use crate::scrape;
use crate::separate_backend::{BackendPlace, SeparateBackend};

/// The time from one scrape of the metrics to the next; no time in the table is more exact.
const INTERVAL: Duration = Duration::from_millis(5);

/// The longest wait for a change of the metrics.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client is late if it waited longer than this.
const LATE: Duration = Duration::from_millis(100);

/// The addresses of the two backends that stay up, and of the backend that fails. A backend on a host of its
/// own does not use the last address.
const ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 0, 21), Ipv4Addr::new(127, 0, 0, 22), Ipv4Addr::new(127, 0, 0, 23)];

/// Settings of the pool, and their name in the table.
struct Setting {
    name: &'static str,
    lines: &'static str,
}

const SETTINGS: [Setting; 4] = [
    Setting { name: "as it is by default", lines: "" },
    Setting {
        name: "`fast_interval = \"200ms\"`, `timeout = \"500ms\"`",
        lines: "health = { fast_interval = \"200ms\", timeout = \"500ms\" }",
    },
    Setting {
        name: "`ejection`, `connect_timeout = \"1s\"`",
        lines: "ejection = {}\nconnect_timeout = \"1s\"",
    },
    Setting {
        name: "all of these",
        lines: "health = { fast_interval = \"200ms\", timeout = \"500ms\" }\nejection = {}\nconnect_timeout = \"1s\"",
    },
];

/// Settings of a short run. The two backends that stay up have the time that a busy machine needs.
const BRIEF: [Setting; 1] = [Setting {
    name: "for a brief look",
    lines: "health = { interval = \"1s\", fast_interval = \"100ms\" }\nejection = {}\nconnect_timeout = \"500ms\"",
}];

/// The size of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    settings: &'static [Setting],
    /// The time from one client to the next.
    every: Duration,
    /// The time for which the failed backend stays away after the pool stops picking it.
    away: Duration,
    /// The time from the first checks to the failure. It grows by this with each round, so that failures
    /// happen at different moments of the check interval.
    phase: Duration,
}

impl Extent {
    /// The size of a full measurement.
    pub(crate) fn full(rounds: usize) -> Self {
        Self {
            rounds,
            settings: &SETTINGS,
            every: Duration::from_millis(5),
            // This is longer than any attempt to connect. So all clients that wait for the backend are seen
            // to go elsewhere.
            away: Duration::from_secs(6),
            phase: Duration::from_secs(2) / u32::try_from(rounds).unwrap_or(u32::MAX),
        }
    }

    /// The smallest size that shows that everything works.
    pub(crate) fn brief() -> Self {
        Self {
            rounds: 1,
            settings: &BRIEF,
            every: Duration::from_millis(10),
            away: Duration::from_millis(300),
            phase: Duration::from_millis(100),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Killed,
    Silent,
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::Silent => "machine silent",
        }
    }
}

/// The result of one failure.
struct Sample {
    setting: &'static str,
    failure: Failure,
    /// The clients that came after the failure.
    arrived: usize,
    /// The clients among them that were not served.
    failed: usize,
    /// The clients that had come before the failure and were not served: the backend had them, or would have
    /// got them.
    lost: usize,
    /// The clients that came after the failure and were served late.
    late: usize,
    /// The longest wait of a client that came after the failure, in seconds.
    longest: f64,
    /// The attempts to connect to the backend that failed.
    attempts: f64,
    /// Seconds from the failure until the backend got no more connections.
    left_alone: f64,
    /// Seconds from the return of the backend until it could be picked, and until it had a client.
    back: f64,
    first_client: f64,
}

/// Returns the table, and the number of clients that failed although the killed backend refused them at once.
///
/// # Errors
/// Returns an error if pointsman does not start or does not notice the changes.
pub(crate) fn run(bench: &Bench<'_>, extent: Extent) -> io::Result<(String, u64)> {
    let unavailable_reason = link::unavailable_reason();
    let mut samples = Vec::new();
    for round in 1..=extent.rounds {
        for setting in extent.settings {
            eprintln!("round {round}/{}: failover, {}", extent.rounds, setting.name);
            let case = Case { bench, setting, extent, round };
            samples.push(case.run(Failure::Killed)?);
            if unavailable_reason.is_none() {
                samples.push(case.run_in_network(Failure::Silent)?);
            }
        }
    }
    let killed = samples.iter().filter(|sample| sample.failure == Failure::Killed);
    let errors = killed.map(|sample| sample.failed as u64).sum();
    let mut text = text(&samples, extent);
    if let Some(why) = unavailable_reason {
        text.push_str(&format!("\n{} was left out: it needs root and `ip` ({why}).", Failure::Silent.name()));
    }
    Ok((text, errors))
}

struct Case<'a> {
    bench: &'a Bench<'a>,
    setting: &'static Setting,
    extent: Extent,
    round: usize,
}

impl Case<'_> {
    /// Runs the case in a network namespace, with all processes that it starts. Only this thread leaves the
    /// namespace of the run.
    fn run_in_network(&self, failure: Failure) -> io::Result<Sample> {
        let in_network = || link::leave().and_then(|()| self.run(failure));
        thread::scope(|scope| scope.spawn(in_network).join())
            .unwrap_or_else(|_| Err(io::Error::other("a failover panicked")))
    }

    fn run(&self, failure: Failure) -> io::Result<Sample> {
        let pin = self.bench.cpus.load;
        let [first, second, third] = ADDRESSES;
        let others = [
            SeparateBackend::start(at_address(first, 0), pin)?,
            SeparateBackend::start(at_address(second, 0), pin)?,
        ];
        let mut failing = FailingBackend::start(failure, third, pin)?;
        let addresses = [others[0].address, others[1].address, failing.address];
        let text = configuration(addresses, self.setting);
        let proxy = CustomProxy::start(self.bench.directory, &text, self.bench.cpus.proxy)?;
        let watch = MetricsWatch { admin: proxy.admin };
        watch.until("each backend was checked", |metrics| metrics.checked)?;

        let clients = ArrivingClients::start(proxy.address, self.extent.every);
        pause(self.extent.phase * u32::try_from(self.round).unwrap_or(1));
        failing.fail()?;
        let failed_at = Instant::now();
        let left_alone = watch.until("it is left alone", |metrics| !metrics.up)? - failed_at;
        pause(self.extent.away);
        let before = watch.scrape()?.connections;
        failing.recover()?;
        let recovered_at = Instant::now();
        let back = watch.until("it is back", |metrics| metrics.up)? - recovered_at;
        let first_client =
            watch.until("it has a client", |metrics| metrics.connections > before)? - recovered_at;
        let results = clients.finish()?;
        let attempts = watch.scrape()?.attempts;

        // The failed backend may have had the clients that came during the failure; only the kernel could
        // count them.
        let (before, after): (Vec<ClientResult>, Vec<ClientResult>) =
            results.iter().partition(|client| client.begun < failed_at);
        let served = || after.iter().filter(|client| client.served);
        Ok(Sample {
            setting: self.setting.name,
            failure,
            arrived: after.len(),
            failed: after.iter().filter(|client| !client.served).count(),
            lost: before.iter().filter(|client| !client.served).count(),
            late: served().filter(|client| client.took > LATE).count(),
            longest: served().map(|client| client.took.as_secs_f64()).fold(0.0, f64::max),
            attempts,
            left_alone: left_alone.as_secs_f64(),
            back: back.as_secs_f64(),
            first_client: first_client.as_secs_f64(),
        })
    }
}

fn at_address(address: Ipv4Addr, port: u16) -> BackendPlace {
    BackendPlace::AtAddress(SocketAddr::from((address, port)))
}

/// The clients of this bench have one address, so the hash takes their ports too.
fn configuration(addresses: [SocketAddr; 3], setting: &Setting) -> String {
    let [first, second, third] = addresses;
    format!(
        "workers = 1
[admin]
listen = \"127.0.0.1:0\"
[access_log]
to = \"off\"
[listener.main]
bind = \"127.0.0.1:0\"
pool = \"main\"
[pool.main]
hash_on = \"source-ip-port\"
backends = [
  {{ name = \"first\", address = \"{first}\" }},
  {{ name = \"second\", address = \"{second}\" }},
  {{ name = \"failing\", address = \"{third}\" }},
]
{}
",
        setting.lines
    )
}

/// The backend that fails and returns at the same address.
struct FailingBackend {
    failure: Failure,
    backend: Option<SeparateBackend>,
    address: SocketAddr,
    pin: CpuPin,
}

impl FailingBackend {
    fn start(failure: Failure, address: Ipv4Addr, pin: CpuPin) -> io::Result<Self> {
        let place = match failure {
            Failure::Killed => at_address(address, 0),
            Failure::Silent => BackendPlace::OwnNetwork,
        };
        let backend = SeparateBackend::start(place, pin)?;
        Ok(Self { failure, address: backend.address, backend: Some(backend), pin })
    }

    fn fail(&mut self) -> io::Result<()> {
        match (self.failure, &mut self.backend) {
            (Failure::Silent, Some(backend)) => backend.drop_packets(),
            _ => {
                self.backend = None;
                Ok(())
            }
        }
    }

    fn recover(&mut self) -> io::Result<()> {
        match (self.failure, &mut self.backend) {
            (Failure::Silent, Some(backend)) => backend.answer_packets(),
            _ => {
                self.backend = Some(SeparateBackend::start(BackendPlace::AtAddress(self.address), self.pin)?);
                Ok(())
            }
        }
    }
}

/// The state of the failing backend in the metrics.
struct FailingMetrics {
    up: bool,
    /// The connections that were established with the backend.
    connections: f64,
    /// The attempts that failed there.
    attempts: f64,
    /// True if every backend has passed a check.
    checked: bool,
}

struct MetricsWatch {
    admin: SocketAddr,
}

impl MetricsWatch {
    fn scrape(&self) -> io::Result<FailingMetrics> {
        let text = scrape::fetch(self.admin)?;
        let of = |metric: &str, backend: &str, further: &str| {
            let series =
                format!("pointsman_backend_{metric}{{pool=\"main\",backend=\"{backend}\"{further}}}");
            scrape::value(&text, &series).ok_or_else(|| io::Error::other(format!("no {series}")))
        };
        let passed = |backend| of("checks_total", backend, ",result=\"passed\"");
        Ok(FailingMetrics {
            up: of("up", "failing", "")? > 0.0,
            connections: of("connections_total", "failing", "")?,
            attempts: of("troubles_total", "failing", ",kind=\"connect\"")?,
            checked: passed("first")? > 0.0 && passed("second")? > 0.0 && passed("failing")? > 0.0,
        })
    }

    /// Scrapes until the condition is met, and returns the time of that scrape.
    fn until(&self, what: &str, is_so: impl Fn(&FailingMetrics) -> bool) -> io::Result<Instant> {
        let until = Instant::now() + PATIENCE;
        loop {
            let scraped_at = Instant::now();
            if is_so(&self.scrape()?) {
                return Ok(scraped_at);
            }
            if scraped_at > until {
                return Err(io::Error::other(format!("not seen in {} s: {what}", PATIENCE.as_secs())));
            }
            pause(INTERVAL);
        }
    }
}

fn text(samples: &[Sample], extent: Extent) -> String {
    type Value = fn(&Sample) -> f64;
    let columns: [(&str, usize, Value); 9] = [
        ("takes no new ones after, s", 2, |sample| sample.left_alone),
        ("attempts failed there", 0, |sample| sample.attempts),
        ("clients since", 0, |sample| sample.arrived as f64),
        ("failed", 0, |sample| sample.failed as f64),
        ("late", 0, |sample| sample.late as f64),
        ("longest wait, s", 3, |sample| sample.longest),
        ("lost with it", 0, |sample| sample.lost as f64),
        ("back after, s", 2, |sample| sample.back),
        ("first client after, s", 2, |sample| sample.first_client),
    ];
    let mut heads = vec!["what happens".to_owned(), "pool".to_owned()];
    heads.extend(columns.iter().map(|(title, ..)| (*title).to_owned()));
    let mut rows = Vec::new();
    for failure in [Failure::Killed, Failure::Silent] {
        for setting in extent.settings {
            let same = || {
                samples.iter().filter(|sample| sample.failure == failure && sample.setting == setting.name)
            };
            if same().next().is_none() {
                continue;
            }
            let mut row = vec![failure.name().to_owned(), setting.name.to_owned()];
            row.extend(
                columns.iter().map(|(_, decimals, value)| show(Spread::of(same().map(value)), *decimals)),
            );
            rows.push(row);
        }
    }
    format!(
        "\n### Failover: one of three backends dies and comes back, {:.0} clients come each second\n\n{}\n\
         Clients since are those that came after the death: failed were not served, late waited for more than \
         {} ms. Lost are those that had come before and were not served. Times are seen in metrics read every {} ms.",
        1.0 / extent.every.as_secs_f64(),
        markdown(&heads, &rows),
        LATE.as_millis(),
        INTERVAL.as_millis(),
    )
}
