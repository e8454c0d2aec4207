//! Measures the cost of scraping thousands of series for the clients that are served meanwhile.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::pause;
use crate::configurations::Shape;
use crate::cpus;
use crate::figures::Spread;
use crate::measure::Bench;
use crate::order::Outcome;
use crate::points::{LoadFigures, Test};
use crate::proxy::Proxy;
use crate::report::{markdown, show};

/// The time from the start of one scrape to the next.
const EVERY: Duration = Duration::from_millis(100);

/// A scrape has failed if it takes longer, or has more bytes than [`MOST`].
const PATIENCE: Duration = Duration::from_secs(10);

const MOST: u64 = 64 << 20;

/// A configuration with some 10,000 series.
const SHAPE: Shape = Shape { listeners: 38, admin: true, ..Shape::PLAIN };

/// One round of a proxy, with scrapes or without.
struct Sample {
    flow: LoadFigures,
    outcome: Outcome,
    scrapes: Vec<Scrape>,
}

#[derive(Clone, Copy)]
struct Scrape {
    took: Duration,
    bytes: usize,
    series: usize,
}

/// Returns the table and the number of errors.
///
/// # Errors
/// Returns an error if pointsman does not start, a load does not answer, or a scrape fails.
pub(crate) fn run(bench: &Bench<'_>, rounds: usize) -> io::Result<(String, u64)> {
    let mut pairs = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round}/{rounds}: scrapes");
        let proxy = bench.start_pointsman(SHAPE)?;
        let admin = admin(&proxy.log)?;
        // The order changes with each round, so that neither is always the first.
        pairs.push(if round % 2 == 1 {
            let quiet = quiet(bench, &proxy)?;
            (quiet, scraped(bench, &proxy, admin)?)
        } else {
            let scraped = scraped(bench, &proxy, admin)?;
            (quiet(bench, &proxy)?, scraped)
        });
    }
    let errors = pairs.iter().map(|(quiet, scraped)| quiet.outcome.errors + scraped.outcome.errors).sum();
    Ok((text(&pairs), errors))
}

fn quiet(bench: &Bench<'_>, proxy: &Proxy) -> io::Result<Sample> {
    let (outcome, flow) = bench.flow(proxy, Test::Pp64)?;
    Ok(Sample { flow, outcome, scrapes: Vec::new() })
}

/// Measures with scrapes. The scraper runs on the CPU of the load, not on that of the proxy.
fn scraped(bench: &Bench<'_>, proxy: &Proxy, admin: SocketAddr) -> io::Result<Sample> {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = cpus::at(bench.cpus.load, || Ok(scope.spawn(|| scrape_until(admin, &enough))))?;
        let measured = bench.flow(proxy, Test::Pp64);
        enough.store(true, Ordering::Relaxed);
        let scrapes = scraper.join().map_err(|_| io::Error::other("the scraper panicked"))??;
        let (outcome, flow) = measured?;
        Ok(Sample { flow, outcome, scrapes })
    })
}

fn scrape_until(admin: SocketAddr, enough: &AtomicBool) -> io::Result<Vec<Scrape>> {
    let mut scrapes = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let began = Instant::now();
        let text = fetch(admin)?;
        let took = began.elapsed();
        scrapes.push(Scrape { took, bytes: text.len(), series: series(&text) });
        pause(EVERY.saturating_sub(took));
    }
    Ok(scrapes)
}

/// Returns the address of a proxy's metrics, from its log.
///
/// # Errors
/// Returns an error if the log has no address in time.
pub(crate) fn admin(log: &Path) -> io::Result<SocketAddr> {
    const BEFORE: &str = "admin listens address=";
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let log = fs::read_to_string(log)?;
        let line = log.lines().find_map(|line| line.split_once(BEFORE));
        if let Some(address) = line.and_then(|(_, address)| address.trim().parse().ok()) {
            return Ok(address);
        }
        pause(Duration::from_millis(5));
    }
    Err(io::Error::other("its log does not tell the admin address"))
}

/// Returns one answer of `/metrics`.
///
/// # Errors
/// Returns an error if there is no answer, or it is too long, or it is not a success.
pub(crate) fn fetch(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other("/metrics did not answer as it should")),
    }
}

/// Returns the number of series.
pub(crate) fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// Returns the value of one series, by its name and labels as they are printed.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn text(pairs: &[(Sample, Sample)]) -> String {
    type Value = fn(&Sample) -> Option<f64>;
    let columns: [(&str, usize, Value); 6] = [
        ("req/s", 0, |sample| Some(sample.flow.rate)),
        ("CPU µs/req", 2, |sample| Some(sample.flow.cpu? * 1e6)),
        ("process, % of a CPU", 0, |sample| Some(100.0 * sample.outcome.cpu / sample.outcome.seconds)),
        ("p50 µs", 0, |sample| sample.flow.p50),
        ("p99 µs", 0, |sample| sample.flow.p99),
        ("errors", 0, |sample| Some(sample.outcome.errors as f64)),
    ];
    let row = |name: &str, cell: &dyn Fn(usize, Value) -> String| {
        let cells = columns.iter().map(|(_, decimals, value)| cell(*decimals, *value));
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<String>>()
    };
    let mut heads = vec!["metrics".to_owned()];
    heads.extend(columns.iter().map(|(title, ..)| (*title).to_owned()));
    let rows = [
        row("left alone", &|decimals, value| {
            show(Spread::of(pairs.iter().filter_map(|(quiet, _)| value(quiet))), decimals)
        }),
        row("scraped", &|decimals, value| {
            show(Spread::of(pairs.iter().filter_map(|(_, scraped)| value(scraped))), decimals)
        }),
        row("scraped / left alone", &|_, value| {
            let ratio = |(quiet, scraped): &(Sample, Sample)| Some(value(scraped)? / value(quiet)?);
            show(Spread::of(pairs.iter().filter_map(ratio)), 2)
        }),
    ];
    let scrapes = || pairs.iter().flat_map(|(_, scraped)| &scraped.scrapes);
    let spread = |value: fn(&Scrape) -> f64, decimals| show(Spread::of(scrapes().map(value)), decimals);
    format!(
        "\n### Metrics scraped every {} ms: ping-pong of 64 bytes on 64 connections\n\n{}\n{} scrapes of {} series \
         in {} KiB, each {} ms. If the proxy is pinned, the thread that renders them shares the CPU of the \
         proxy.",
        EVERY.as_millis(),
        markdown(&heads, &rows),
        scrapes().count(),
        spread(|scrape| scrape.series as f64, 0),
        spread(|scrape| scrape.bytes as f64 / 1024.0, 0),
        spread(|scrape| scrape.took.as_secs_f64() * 1e3, 1),
    )
}
