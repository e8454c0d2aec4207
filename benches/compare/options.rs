//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::measure::Test;
use crate::peers::Peer;

/// Measures pointsman beside whichever other proxies are installed, on loopback.
///
/// Without any option a brief run of pointsman alone only shows that everything works.
#[derive(Debug, Parser)]
#[command(name = "compare", version = None)]
pub(crate) struct Options {
    /// Interleaved rounds; ratios are made within a round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Measured seconds of each test.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub(crate) secs: u16,
    /// Which tests.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "conn,pp64,pp4k,down,up,idle")]
    pub(crate) tests: Vec<Test>,
    /// Which proxies; those that are not installed are skipped.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "pointsman,haproxy,haproxy-1m,nginx,sniproxy,envoy,tokio-copy,direct"
    )]
    pub(crate) peers: Vec<Peer>,
    /// Threads of each proxy; one is pinned to its own CPU, more are not pinned.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: u16,
    /// Whom the others are compared with.
    #[arg(long, value_enum, default_value = "haproxy")]
    pub(crate) reference: Peer,
    /// Count system calls instead.
    #[arg(long)]
    pub(crate) strace: bool,
    /// Measure pointsman alone with growing routes, backends and open connections instead.
    #[arg(long)]
    pub(crate) growth: bool,
    /// Also write plots to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Only show that everything works.
    #[arg(long, hide = true)]
    pub(crate) test: bool,
    /// What cargo passes to every benchmark when one is chosen by name.
    #[arg(hide = true)]
    pub(crate) filter: Option<String>,
}
