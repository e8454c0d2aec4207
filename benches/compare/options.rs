//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::peers::Peer;
use crate::points::{Reference, Test};

/// Measures pointsman beside the other proxies that are installed, on loopback.
///
/// Without options, brief runs of pointsman alone show that everything works. The environment variables
/// HAPROXY, NGINX, SNIPROXY and ENVOY name programs that are used instead of the installed ones.
#[derive(Debug, Parser)]
#[command(name = "compare", version = None)]
pub(crate) struct Options {
    /// Interleaved rounds; ratios are made within a round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Measured seconds of each test.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub(crate) secs: u16,
    /// The tests to run.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "conn,pp64,pp4k,down,up,beside,idle")]
    pub(crate) tests: Vec<Test>,
    /// The proxies to measure; a proxy that is not installed is skipped.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "pointsman,haproxy,haproxy-1m,nginx,sniproxy,envoy,tokio-copy,direct"
    )]
    pub(crate) peers: Vec<Peer>,
    /// Threads of each proxy: 1, or 2 with --busy and --upgrade. Several numbers take turns in one run, and each is also
    /// compared with the first. If every proxy has a single thread, the proxy is pinned to its own CPU;
    /// otherwise no process is pinned.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Vec<u16>,
    /// The proxies that the others are compared with; latencies are compared only with the first.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "haproxy,haproxy-1m,sniproxy,tokio-copy")]
    reference: Vec<Peer>,
    /// Run everything in a private network whose packets have at most 1500 bytes, as with a network card
    /// without offload. Needs root or user namespaces, `ip` and `ethtool`.
    #[arg(long)]
    pub(crate) packets_1500: bool,
    /// Count system calls instead. Needs strace.
    #[arg(long, group = "mode")]
    pub(crate) strace: bool,
    /// Measure pointsman alone with growing routes, backends and open connections instead.
    #[arg(long, group = "mode")]
    pub(crate) growth: bool,
    /// Show instead how the workers of pointsman share 8 streams among 1,000 idle connections.
    #[arg(long, group = "mode")]
    pub(crate) busy: bool,
    /// Measure pointsman alone instead, with 10,000 series of metrics that are scraped every 100 ms, or not.
    #[arg(long, group = "mode")]
    pub(crate) scrape: bool,
    /// Measure pointsman alone instead, while one of three backends fails and comes back.
    #[arg(long, group = "mode")]
    pub(crate) failover: bool,
    /// Measure pointsman alone instead, while it checks 10,000 backends.
    #[arg(long, group = "mode")]
    pub(crate) checks: bool,
    /// Measure upgrades under load instead, of pointsman, HAProxy and nginx: three in a row with 5,000 connections.
    #[arg(long, group = "mode")]
    pub(crate) upgrade: bool,
    /// Also write plots to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// The option that cargo adds.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Only show that everything works.
    #[arg(long, hide = true)]
    pub(crate) test: bool,
    /// The filter that cargo passes to every benchmark when one is chosen by name.
    #[arg(hide = true)]
    pub(crate) filter: Option<String>,
}

impl Options {
    /// Returns each number of workers once; there is at least one number.
    pub(crate) fn workers(&self) -> Vec<usize> {
        let mut workers = Vec::new();
        for count in self.workers.iter().map(|count| usize::from(*count)) {
            if !workers.contains(&count) {
                workers.push(count);
            }
        }
        if workers.is_empty() {
            workers.push(if self.busy || self.upgrade { 2 } else { 1 });
        }
        workers
    }

    /// Returns the references that every proxy is compared with.
    pub(crate) fn references(&self) -> Vec<Reference> {
        let workers = self.workers();
        let own = (workers.len() > 1).then_some(Reference::Own(workers[0]));
        own.into_iter().chain(self.reference.iter().copied().map(Reference::Peer)).collect()
    }

    /// Returns `true` if the run only has to show that everything works.
    pub(crate) fn is_smoke_run(&self) -> bool {
        let asked = std::env::args().skip(1).any(|argument| argument != "--bench");
        self.test || self.filter.is_some() || !asked
    }
}
