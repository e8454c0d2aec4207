//! Checks limits: of the process, of sources, of routes and of pools.

use std::time::Duration;

use super::or;
use crate::config::code::Code;
use crate::config::fault::Diagnostic;
use crate::config::file::{File, Listener, Protocol, SourcePrefix};
use crate::config::findings::Findings;
use crate::config::limits::{Limits, OverWord, OverloadWord, PerSource, QuotaWords, RateWord};
use crate::config::read::{Key, TableEntry};
use crate::config::words::{Keyword, Number};
use crate::limit::{
    LimitsSpec, OverLimit, OverloadSpec, PrefixLengths, QuotaSpec, Rate, SourceBy, SourceLimits, WhenFull,
};
use crate::snapshot::AdmissionSpec;

/// The help for a key that needs PROXY headers.
pub(super) const READ_HEADERS: &str =
    "to read PROXY headers, write on the listener: proxy_protocol = { trusted = [\"10.0.0.0/8\"] }";

/// Limits of the process that the checks of listeners, routes and pools use.
#[derive(Clone, Copy)]
pub(in crate::config) struct Common {
    /// The time for which the tarpit holds a refused client.
    tarpit_timeout: Duration,
    /// True if the tarpit holds no clients.
    holds_none: bool,
    prefix: PrefixLengths,
    /// True if every source must be counted.
    counts_all: bool,
}

impl Common {
    /// Returns the values of a file.
    pub(super) fn of(file: &File) -> Self {
        let words = file.limits.value();
        let default = PrefixLengths::default();
        let bits = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let prefix = words.and_then(|words| words.source_prefix.value());
        let prefix = prefix.map_or(default, |SourcePrefix { v4, v6 }| PrefixLengths {
            v4: or(v4, |number| bits(number.0), default.v4),
            v6: or(v6, |number| bits(number.0), default.v6),
        });
        let limits = limits(file);
        Self {
            tarpit_timeout: limits.tarpit_timeout,
            holds_none: limits.tarpit == 0,
            prefix,
            counts_all: words.is_some_and(sheds_heaviest),
        }
    }

    /// Returns the values for a file of routes. Its checks use only the timeout of the tarpit.
    pub(in crate::config) fn of_routes(tarpit_timeout: Duration) -> Self {
        Self { tarpit_timeout, holds_none: false, prefix: PrefixLengths::default(), counts_all: false }
    }

    fn over(&self, written: &Key<Keyword<OverWord>>, path: &str, found: &mut Findings<'_>) -> OverLimit {
        let is_tarpit = written.value().is_some_and(|choice| choice.0 == OverWord::Tarpit);
        if let (Some(over), true) = (written.place(), is_tarpit && self.holds_none) {
            let message = "`over = \"tarpit\"` holds no connection, because `limits.tarpit` is 0";
            let fault = Diagnostic::new(Code::IdleSetting, format!("{path}.over"), message);
            found.add(fault.label(over, "").help("refused connections are reset, as with \"drop\""));
        }
        match written.value().map_or(OverWord::Reject, |choice| choice.0) {
            OverWord::Reject => OverLimit::Reject,
            OverWord::Drop => OverLimit::Drop,
            OverWord::Tarpit => OverLimit::Tarpit(self.tarpit_timeout),
        }
    }

    /// Returns the admission limits of a listener; `None` if it has none.
    pub(super) fn listener(
        &self,
        words: &Listener,
        path: &str,
        found: &mut Findings<'_>,
    ) -> Option<AdmissionSpec> {
        let reads = words.protocol.value().is_some_and(|choice| choice.0 != Protocol::Tcp);
        let per_source = words.per_source.entry().map(|entry| per_source(entry, reads, path, found));
        let rate = rate(&words.rate, &words.burst, path, found);
        let per_source = per_source.or_else(|| self.counts_all.then(SourceLimits::default));
        if let (Some(over), None, None) = (words.over.place(), &per_source, &rate) {
            let fault = Diagnostic::new(
                Code::IdleSetting,
                format!("{path}.over"),
                "`over` has no effect without `rate` or `per_source`",
            );
            found.add(fault.label(over, ""));
        }
        let by = words.per_source.value().and_then(|words| words.by.value());
        if by.is_some_and(|choice| choice.0 == SourceBy::PrivateLink) && words.proxy_protocol.is_absent() {
            let place = words.per_source.value().and_then(|words| words.by.place()).unwrap_or_default();
            let message = "`by = \"private-link\"` is not allowed on a listener that reads no PROXY headers";
            let fault = Diagnostic::new(Code::MisplacedKey, format!("{path}.per_source.by"), message);
            found.add(fault.label(place, "no PROXY header with a private link is read").help(READ_HEADERS));
        }
        (per_source.is_some() || rate.is_some()).then(|| AdmissionSpec {
            per_source,
            by: by.map_or(SourceBy::default(), |choice| choice.0),
            prefix: self.prefix,
            rate,
            over: self.over(&words.over, path, found),
        })
    }

    /// Returns the limits of a route or a pool; `None` if it has none.
    pub(in crate::config) fn quota(
        &self,
        written: &Key<QuotaWords>,
        path: &str,
        found: &mut Findings<'_>,
    ) -> Option<QuotaSpec> {
        let entry = written.entry()?;
        let words = &entry.value;
        let path = format!("{path}.limits");
        let connections = words.connections.value().map(|number| number.0);
        let rate = rate(&words.rate, &words.burst, &path, found);
        let is_idle = words.connections.is_absent() && words.rate.is_absent();
        if is_idle && words.burst.is_absent() {
            let fault = Diagnostic::new(Code::IdleSetting, &path, "`limits` without a limit has no effect");
            found.add(
                fault.label(entry.key, "").help("such as: limits = { connections = 1000, rate = \"50/s\" }"),
            );
        }
        (connections.is_some() || rate.is_some()).then(|| QuotaSpec {
            connections,
            rate,
            over: self.over(&words.over, &path, found),
        })
    }
}

/// Returns the limits of the process.
pub(super) fn limits(file: &File) -> LimitsSpec {
    let default = LimitsSpec::default();
    let Some(words) = file.limits.value() else { return default };
    LimitsSpec {
        sources: or(
            &words.sources,
            |number| usize::try_from(number.0).unwrap_or(usize::MAX),
            default.sources,
        ),
        when_full: or(&words.when_full, |choice| choice.0, WhenFull::default()),
        tarpit: or(&words.tarpit, |number| number.0, default.tarpit),
        tarpit_timeout: or(&words.tarpit_timeout, |time| time.0, default.tarpit_timeout),
        hello_memory: or(&words.hello_memory, |number| number.0, default.hello_memory),
        overload: OverloadSpec {
            at: or(&words.overload_at, |percent| u8::try_from(percent.0).unwrap_or(100), default.overload.at),
            sheds_heaviest: sheds_heaviest(words),
            is_ready: or(&words.ready_when_overloaded, |yes| *yes, true),
        },
    }
}

fn sheds_heaviest(words: &Limits) -> bool {
    words.overload.value().is_some_and(|choice| choice.0 == OverloadWord::Heaviest)
}

fn per_source(
    entry: &TableEntry<PerSource>,
    reads: bool,
    path: &str,
    found: &mut Findings<'_>,
) -> SourceLimits {
    let words = &entry.value;
    let path = format!("{path}.per_source");
    let is_idle = words.connections.is_absent() && words.rate.is_absent() && words.hellos.is_absent();
    if is_idle && words.burst.is_absent() {
        let message = "`per_source` without a limit only counts sources";
        let fault = Diagnostic::new(Code::IdleSetting, &path, message);
        found.add(
            fault.label(entry.key, "").help("such as: per_source = { connections = 100, rate = \"50/s\" }"),
        );
    }
    let number = |number: &Number<1, 1_000_000_000>| u32::try_from(number.0).unwrap_or(u32::MAX);
    if let (Some(hellos), false) = (words.hellos.place(), reads) {
        let message = "`hellos` is not allowed on a tcp listener, which reads no hellos";
        let fault = Diagnostic::new(Code::MisplacedKey, format!("{path}.hellos"), message);
        found.add(fault.label(hellos, "").help("write `connections` or `rate`"));
    }
    SourceLimits {
        connections: words.connections.value().map(number),
        rate: rate(&words.rate, &words.burst, &path, found),
        hellos: words.hellos.value().map(number),
    }
}

fn rate(
    written: &Key<RateWord>,
    burst: &Key<Number<1, 1_000_000>>,
    path: &str,
    found: &mut Findings<'_>,
) -> Option<Rate> {
    if let (Some(place), true) = (burst.place(), written.is_absent()) {
        let fault = Diagnostic::new(
            Code::MisplacedKey,
            format!("{path}.burst"),
            "`burst` is not allowed without `rate`",
        );
        found.add(fault.label(place, "").help("such as: rate = \"50/s\""));
    }
    let RateWord { number, seconds } = *written.value()?;
    let burst = or(burst, |number| u32::try_from(number.0).unwrap_or(u32::MAX), number);
    Some(Rate::new(number, Duration::from_secs(seconds), burst))
}
