//! The tables and values of limits: open connections, rates, and the treatment of connections above a limit.

use super::code::Code;
use super::fault::Diagnostic;
use super::file::SourcePrefix;
use super::findings::Findings;
use super::read::{Path, Read, Value, tables};
use super::words::{Keyword, KeywordEnum, Number, Percent, Time, string};
use crate::limit::{SourceBy, WhenFull};

const HOUR: u64 = 3_600_000;

/// As in [`super::file`].
const MOST_CONNECTIONS: u64 = 100_000_000;

/// A bound far above the connections of one address. It fits the counters.
const MOST_OF_A_SOURCE: u64 = 1_000_000_000;

tables! {
    /// Limits of the process, and settings that the limits of listeners, routes and pools share.
    "the limits" struct Limits {
        /// Slots of the table of sources, 8 to 16777216. Each listener uses its own slots for its sources. If a
        /// listener has `per_source`, each slot takes 56 bytes of memory. Default 65536. A change needs a restart.
        sources: Number<8, 16_777_216>,
        /// The number of leading bits of an address that make a source. Default { v4 = 32, v6 = 64 }.
        source_prefix: SourcePrefix,
        /// The treatment of a new source if the table has no free slot. The table can fill up, because a source
        /// with open connections is never evicted. "pass" (default): the connections of the new source are not
        /// limited by source. "refuse": its connections are reset.
        when_full: Keyword<WhenFull>,
        /// The most refused clients that are held unread at once, 0 to 1000000. Further refused clients are reset.
        /// Each held client takes a file descriptor, which is then missing for a connection. Default 1000.
        tarpit: Number<0, 1_000_000>,
        /// The time for which a refused client is held; "100ms" to "1h". Default "10s".
        tarpit_timeout: Time<100, HOUR>,
        /// Bytes for hellos that did not come with the first read, of all connections together, 1048576 to
        /// 4294967296. A hello that needs more is refused. Default 67108864.
        hello_memory: Number<{ 1 << 20 }, { 1 << 32 }>,
        /// The connections that are refused near the limit of the process. "newest" (default): new connections
        /// while the process is full. "heaviest": as "newest", and from `overload_at` on also new connections of
        /// heavy sources. A source is heavy if it has more than twice the average number of open connections of the
        /// other sources.
        overload: Keyword<OverloadWord>,
        /// The part of the connections, or of `hello_memory`, at which the process counts as overloaded; "1%" to
        /// "100%". The process also counts as overloaded while file descriptors run out. Default "90%".
        overload_at: Percent<1, 100>,
        /// True if /ready answers 200 while the process is overloaded. With false, /ready answers 503 until the
        /// overload ends, so that a router in front sends new connections elsewhere. Default true.
        ready_when_overloaded: bool,
    }

    /// Limits of each source of a listener.
    "the limits of a source" struct PerSource {
        /// The kind of source that is counted. "address" (default): a network of `limits.source_prefix`.
        /// "private-link": the private link (AWS, Azure, Google Cloud) in the PROXY header of the connection. If
        /// the header has no private link, the network is counted.
        by: Keyword<SourceBy>,
        /// The most open connections. Default: no limit.
        connections: Number<1, MOST_OF_A_SOURCE>,
        /// New connections for each second or minute, such as "50/s" or "300/m". Default: no limit.
        rate: RateWord,
        /// New connections that may come at once, 1 to 1000000. Default: the number in `rate`.
        burst: Number<1, 1_000_000>,
        /// Not tcp: the most connections whose first bytes are not whole yet. Default: no limit.
        hellos: Number<1, MOST_OF_A_SOURCE>,
    }

    /// Limits of a route or a pool.
    "the limits of a route or pool" struct QuotaWords {
        /// The most open connections. Default: no limit.
        connections: Number<1, MOST_CONNECTIONS>,
        /// New connections for each second or minute, such as "50/s" or "300/m". Default: no limit.
        rate: RateWord,
        /// New connections that may come at once, 1 to 1000000. Default: the number in `rate`.
        burst: Number<1, 1_000_000>,
        /// The way to refuse connections above a limit. "reject" (default): in the form of the protocol if the
        /// protocol is known, else a reset. "drop": a reset. "tarpit": the connection is held unread for
        /// `limits.tarpit_timeout` and then reset.
        over: Keyword<OverWord>,
    }
}

impl KeywordEnum for SourceBy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("address", Self::Address), ("private-link", Self::PrivateLink)];
}

/// The connections that are refused near the limit of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverloadWord {
    Newest,
    Heaviest,
}

impl KeywordEnum for OverloadWord {
    const WORDS: &'static [(&'static str, Self)] = &[("newest", Self::Newest), ("heaviest", Self::Heaviest)];
}

/// The treatment of a connection above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverWord {
    Reject,
    Drop,
    Tarpit,
}

impl KeywordEnum for OverWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("drop", Self::Drop), ("tarpit", Self::Tarpit)];
}

impl KeywordEnum for WhenFull {
    const WORDS: &'static [(&'static str, Self)] = &[("pass", Self::Pass), ("refuse", Self::Refuse)];
}

/// A number of connections in a second or a minute: `"50/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateWord {
    pub(super) number: u32,
    /// The seconds in which `number` connections may come.
    pub(super) seconds: u64,
}

impl Read for RateWord {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a rate such as \"50/s\"", found)?;
        let rate = rate(text);
        if rate.is_none() {
            let fault = Diagnostic::new(Code::BadRate, path, format!("{text:?} is not a rate"));
            let help = "a rate is a number from 1 to 10000000 and a time: \"50/s\" for a second, \"300/m\" for a minute";
            found.add(fault.label(value.span().into(), "").help(help));
        }
        rate
    }
}

fn rate(text: &str) -> Option<RateWord> {
    let (number, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        _ => return None,
    };
    let number = number.trim();
    let number = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
    (1..=10_000_000).contains(&number).then_some(RateWord { number, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(u32, u64)>) {
        assert_eq!(rate(text).map(|rate| (rate.number, rate.seconds)), expected, "{text:?}");
    }

    #[test]
    fn rates_have_a_number_and_a_time() {
        check("50/s", Some((50, 1)));
        check("300/m", Some((300, 60)));
        check(" 7 / s ", Some((7, 1)));
        check("10000000/s", Some((10_000_000, 1)));
        check("10000001/s", None);
        check("0/s", None);
        check("-1/s", None);
        check("+1/s", None);
        check("/s", None);
        check("50", None);
        check("50/", None);
        check("50/h", None);
        check("5.5/s", None);
        check("99999999999/s", None);
    }
}
