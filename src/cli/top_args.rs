//! The arguments of `pointsman top`, which a build without the feature `top` has too: it says then that it has no view.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::admin_client::AdminArgs;

/// The tables of the view.
const VIEWS: [&str; 7] = ["pools", "connections", "sources", "names", "events", "overrides", "listeners"];

/// The bounds of the time between two rounds of requests.
const INTERVALS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(3600)];

/// The arguments of `top`.
#[derive(Args)]
#[cfg_attr(not(feature = "top"), allow(dead_code, reason = "without the view, nothing reads them"))]
pub(super) struct TopArgs {
    /// The time between two rounds of requests
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    pub(super) interval: Duration,
    /// The table that is shown first
    #[arg(long, value_name = "TABLE", value_parser = PossibleValuesParser::new(VIEWS))]
    pub(super) view: Option<String>,
    /// Print one frame as text and end. It is COLUMNS wide, or 80, and LINES high, or as high as its content
    #[arg(long)]
    pub(super) once: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let [least, most] = INTERVALS;
    let time = humantime::parse_duration(text).ok().filter(|time| (least..=most).contains(time));
    time.ok_or_else(|| "write a time from 200ms to 1h, such as 2s".to_owned())
}

/// Shows the view.
pub(super) fn top(args: &TopArgs) -> ExitCode {
    #[cfg(feature = "top")]
    return super::top::run(args);
    #[cfg(not(feature = "top"))]
    {
        let _ = args;
        super::complain(
            "this build has no view: build pointsman with its default features, which include `top`",
        );
        ExitCode::from(super::FAILED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_bounds() {
        assert_eq!(parse_interval("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_interval("200ms"), Ok(Duration::from_millis(200)));
        for text in ["", "0s", "199ms", "2h", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[cfg(feature = "top")]
    #[test]
    fn each_table_can_be_the_first() {
        let views = crate::cli::top::view_words();
        assert_eq!(views, VIEWS);
    }
}
