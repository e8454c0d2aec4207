//! The command line.

use clap::Parser;

/// Starts a pointsman on loopback, attacks it, and shows how honest clients are served meanwhile.
///
/// Without options each attack only runs briefly, at a tenth of its strength. The environment variable
/// POINTSMAN names another build of the server.
#[derive(Debug, Parser)]
#[command(name = "hostile", version = None)]
pub(crate) struct Options {
    /// Seconds of each quiet and of each attacked time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub(crate) secs: u16,
    /// Quiet and attacked times of each case, by turns; ratios are made within a turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub(crate) rounds: u16,
    /// Run only these cases.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// The number of addresses that attackers connect from; a small number is for limits of sources.
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) sources: u32,
    /// Further TOML of each listener; each case then runs without it and with it.
    #[arg(long, value_name = "LINES")]
    pub(crate) further: Option<String>,
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
    /// Returns `true` if the run only has to show that everything works.
    pub(crate) fn is_brief(&self) -> bool {
        let asked = std::env::args().skip(1).any(|argument| argument != "--bench");
        self.test || self.filter.is_some() || !asked
    }
}
