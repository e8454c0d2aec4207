//! Health checks and agents: their kind, their target and their interval.

use std::sync::Arc;
use std::time::Duration;

use super::or;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Agent, Check, Health, Pool, Step as StepWords, Target as TargetWords};
use crate::config::findings::Findings;
use crate::config::read::{ArrayItem, ArrayOf, Key};
use crate::config::script::TargetAddress;
use crate::config::words::{Number, Time};
use crate::pool::{AgentSpec, CheckTarget, CheckTargets, TargetHost};
use crate::pool::{BackendSpec, CheckKind, HealthSpec};
use crate::wire::Script;
use crate::wire::dialogue::ScriptStep;
use crate::wire::dialogue::send_expect::MOST_STEPS;

/// The time between two checks, and between two queries to an agent.
const INTERVAL: Duration = Duration::from_secs(2);

/// A check that takes longer than this has failed, whatever its interval is.
const LONGEST_CHECK: Duration = Duration::from_secs(5);

/// The same for SMTP: postscreen greets after 6 s. Servers that look up their clients' names in the DNS may take
/// the same time.
const LONGEST_SMTP_CHECK: Duration = Duration::from_secs(10);

/// The checks and agents of one pool, with the positions that messages need.
pub(super) struct HealthChecker<'a> {
    /// The pool's name.
    pub(super) pool: &'a str,
    /// The pool's path.
    pub(super) path: &'a str,
    /// The pool's header.
    pub(super) place: Span,
    pub(super) words: &'a Pool,
}

impl HealthChecker<'_> {
    /// The active checks, `None` if they are off.
    pub(super) fn health(&self, backends: &[BackendSpec], found: &mut Findings<'_>) -> Option<HealthSpec> {
        let absent = Health::default();
        let words = self.words.health.value().unwrap_or(&absent);
        let kind = or(&words.check, |choice| choice.0, Check::Tcp);
        if kind == Check::Off {
            return None;
        }
        self.misplaced(words, kind, found);
        let check = self.check(words, kind, found);
        let interval = or(&words.interval, |time| time.0, INTERVAL);
        let fast_interval = or(&words.fast_interval, |time| time.0, interval);
        if let Some(fast) = words.fast_interval.entry().filter(|_| fast_interval > interval) {
            let message = "the fast interval of health checks is longer than the interval";
            let fault = Diagnostic::new(Code::TimeoutOrder, self.key("health.fast_interval"), message);
            let label = format!("longer than the interval of {}", humantime::format_duration(interval));
            found.add(with_other(fault.label(fast.at, label), &words.interval));
        }
        let target = self.target(&words.address, &words.port, "health", found);
        self.targets_reachable(&target, backends, found);
        Some(HealthSpec {
            check,
            target,
            // The caller adds it: it depends on the header of the pool.
            proxy_protocol: None,
            tls: self.tls(words, found),
            interval,
            fast_interval,
            down_interval: or(&words.down_interval, |time| time.0, interval),
            timeout: self.check_timeout(words, kind, found),
            rise: or(&words.rise, |number| count(number.0), 2),
            fall: or(&words.fall, |number| count(number.0), 3),
        })
    }

    /// The agents, `None` if there are none.
    pub(super) fn agent(&self, backends: &[BackendSpec], found: &mut Findings<'_>) -> Option<AgentSpec> {
        let words: &Agent = self.words.agent.value()?;
        let target = self.target(&words.address, &words.port, "agent", found);
        let is_wrong = matches!(words.address, Key::Wrong) || matches!(words.port, Key::Wrong);
        if !is_wrong && backends.iter().any(|backend| is_unknown(&target, backend)) {
            let message = format!("the agents of pool `{}` have no complete address", self.pool);
            let fault = Diagnostic::new(Code::MissingKey, self.key("agent.port"), message);
            let place = self.words.agent.place().unwrap_or(self.place);
            found.add(
                fault
                    .label(place, "")
                    .help("add port = 9101 here, or agent = { port = 9101 } at the backend")
                    .help("for a backend at a Unix socket, also add an address for its agent"),
            );
        }
        Some(AgentSpec {
            target,
            interval: or(&words.interval, |time| time.0, INTERVAL),
            timeout: self.timeout("agent", &words.timeout, &words.interval, found),
            send: words.send.value().map(|text| Arc::clone(&text.0)),
        })
    }

    /// The targets that one backend configures itself. `path` is the path of the backend.
    pub(super) fn targets(
        &self,
        path: &str,
        health: &Key<TargetWords>,
        agent: &Key<TargetWords>,
        found: &mut Findings<'_>,
    ) -> CheckTargets {
        let mut own = |words: &Key<TargetWords>, name: &str| {
            let words = words.value()?;
            Some(target(&words.address, &words.port, &format!("{path}.{name}"), found))
        };
        CheckTargets {
            health: own(health, "health").unwrap_or_default(),
            agent: own(agent, "agent").unwrap_or_default(),
        }
    }

    fn target(
        &self,
        address: &Key<TargetAddress>,
        port: &Key<Number<1, 65535>>,
        table: &str,
        found: &mut Findings<'_>,
    ) -> CheckTarget {
        target(address, port, &self.key(table), found)
    }

    /// Adds a fault for the first backend at a Unix socket whose checks have a port: a Unix socket has no port.
    fn targets_reachable(&self, target: &CheckTarget, backends: &[BackendSpec], found: &mut Findings<'_>) {
        let unreachable =
            |backend: &&BackendSpec| target.endpoint(&backend.targets.health, &backend.address).is_none();
        let Some(backend) = backends.iter().find(unreachable) else { return };
        let message = format!("backend `{}` of pool `{}` cannot be checked there", backend.name, self.pool);
        let fault = Diagnostic::new(Code::BadAddress, self.key("health"), message);
        let place = self.words.health.place().or(self.words.backends.place()).unwrap_or(self.place);
        found.add(
            fault
                .label(place, format!("{} is a Unix socket, which has no port", backend.address))
                .help("give both an IP address and a port, or neither"),
        );
    }

    fn timeout<const A: u64, const B: u64, const C: u64, const D: u64>(
        &self,
        table: &str,
        timeout: &Key<Time<A, B>>,
        interval: &Key<Time<C, D>>,
        found: &mut Findings<'_>,
    ) -> Duration {
        let between = or(interval, |time| time.0, INTERVAL);
        if let Some(timeout) = timeout.entry().filter(|timeout| timeout.value.0 > between) {
            let message = format!("{} may not take longer than the interval", noun(table));
            let fault = Diagnostic::new(Code::TimeoutOrder, self.key(&format!("{table}.timeout")), message);
            let label = format!("longer than the interval of {}", humantime::format_duration(between));
            found.add(with_other(fault.label(timeout.at, label), interval));
        }
        or(timeout, |time| time.0, between.min(LONGEST_CHECK))
    }

    /// Servers may delay their greeting on purpose, whatever the interval of their checks is.
    fn check_timeout(&self, words: &Health, kind: Check, found: &mut Findings<'_>) -> Duration {
        let is_patient = kind == Check::Smtp;
        match words.timeout.value() {
            Some(timeout) if is_patient && timeout.0 <= LONGEST_SMTP_CHECK => timeout.0,
            None if is_patient => LONGEST_SMTP_CHECK,
            _ => self.timeout("health", &words.timeout, &words.interval, found),
        }
    }

    fn check(&self, words: &Health, kind: Check, found: &mut Findings<'_>) -> CheckKind {
        let user = || words.user.value().map(|user| Arc::clone(&user.0));
        CheckKind::Dialogue(match kind {
            Check::Tcp | Check::Off => return CheckKind::Tcp,
            Check::Tls => Script::Tls { server_name: words.server_name.value().map(|name| name.0.clone()) },
            Check::Http => Script::Http(Arc::new(self.http(words, found))),
            Check::Postgres => Script::Postgres { user: user() },
            Check::Mysql => Script::Mysql { user: user() },
            Check::Redis => Script::Redis,
            Check::Smtp => Script::Smtp,
            Check::Mqtt => Script::Mqtt,
            Check::Ssh => Script::Ssh,
            Check::SendExpect => Script::SendExpect(self.steps(words, found)),
        })
    }

    /// Adds a fault for each key that only another kind of check uses.
    fn misplaced(&self, words: &Health, kind: Check, found: &mut Findings<'_>) {
        const OVER_TLS: &[Check] = &[Check::Http, Check::Redis, Check::Smtp, Check::Mqtt, Check::SendExpect];
        const HTTP: &[Check] = &[Check::Http];
        let is_over_tls = words.tls.value() == Some(&true) || matches!(words.tls, Key::Wrong);
        let over_tls = "\"http\", \"redis\", \"smtp\", \"mqtt\" or \"send-expect\", with tls = true";
        let (named, only_tls) = (&[Check::Tls][..], if is_over_tls { OVER_TLS } else { &[] });
        let named = if is_over_tls { OVER_TLS } else { named };
        let keys: [(&str, Option<Span>, &[Check], &str); 13] = [
            (
                "server_name",
                words.server_name.place(),
                named,
                "\"tls\", or to tls = true beside another check",
            ),
            (
                "tls",
                words.tls.place(),
                OVER_TLS,
                "\"http\", \"redis\", \"smtp\", \"mqtt\" or \"send-expect\"",
            ),
            ("alpn", words.alpn.place(), only_tls, over_tls),
            ("ca_file", words.ca_file.place(), only_tls, over_tls),
            ("path", words.path.place(), HTTP, "\"http\""),
            ("host", words.host.place(), HTTP, "\"http\""),
            ("method", words.method.place(), HTTP, "\"http\""),
            ("headers", words.headers.place(), HTTP, "\"http\""),
            ("expect", words.expect.place(), HTTP, "\"http\""),
            ("body", words.body.place(), HTTP, "\"http\""),
            ("body_regex", words.body_regex.place(), HTTP, "\"http\""),
            ("user", words.user.place(), &[Check::Postgres, Check::Mysql], "\"postgres\" or \"mysql\""),
            ("steps", words.steps.place(), &[Check::SendExpect], "\"send-expect\""),
        ];
        for (key, place, kinds, check) in keys {
            let Some(place) = place.filter(|_| !kinds.contains(&kind)) else { continue };
            let message = format!("the health check of pool `{}` does not use `{key}`", self.pool);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(&format!("health.{key}")), message);
            let fault = fault.label(place, "").help(format!("it is for check = {check}"));
            found.add(with_other(fault, &words.check));
        }
    }

    fn steps(&self, words: &Health, found: &mut Findings<'_>) -> Arc<[ScriptStep]> {
        let list = match &words.steps {
            Key::Good(entry) => &entry.value,
            Key::Wrong => return Arc::default(),
            Key::Absent => {
                let message = format!("the send-expect check of pool `{}` has no steps", self.pool);
                let fault = Diagnostic::new(Code::MissingKey, self.key("health.steps"), message);
                let place = words.check.place().unwrap_or(self.place);
                found.add(fault.label(place, "").help(EXAMPLE));
                return Arc::default();
            }
        };
        let steps: Vec<ScriptStep> =
            list.items.iter().enumerate().filter_map(|(at, item)| self.step(at, item, found)).collect();
        if list.complete && steps.len() == list.items.len() {
            self.judge(words.steps.place().unwrap_or(self.place), &steps, list, found);
        }
        steps.into()
    }

    fn step(&self, at: usize, item: &ArrayItem<StepWords>, found: &mut Findings<'_>) -> Option<ScriptStep> {
        let StepWords { send, send_hex, expect, expect_hex, expect_regex, refuse } = &item.value;
        let steps = [
            send.value().map(|text| ScriptStep::Send(Arc::clone(&text.0))),
            send_hex.value().map(|hex| ScriptStep::Send(Arc::clone(&hex.0))),
            expect.value().map(|text| ScriptStep::Expect(Arc::clone(&text.0))),
            expect_hex.value().map(|hex| ScriptStep::Expect(Arc::clone(&hex.0))),
            expect_regex.value().map(|pattern| ScriptStep::ExpectPattern(pattern.0.clone())),
            refuse.value().map(|text| ScriptStep::Refuse(Arc::clone(&text.0))),
        ];
        let wrong = [
            matches!(send, Key::Wrong),
            matches!(send_hex, Key::Wrong),
            matches!(expect, Key::Wrong),
            matches!(expect_hex, Key::Wrong),
            matches!(expect_regex, Key::Wrong),
            matches!(refuse, Key::Wrong),
        ];
        let count = steps.iter().flatten().count();
        if count != 1 && !wrong.contains(&true) {
            let path = self.key(&format!("health.steps[{at}]"));
            let label = if count == 0 { "nothing to send or expect" } else { "more than one key" };
            let fault = Diagnostic::new(Code::IdleScript, path, "a step of a check has exactly one key");
            found.add(fault.label(item.at, label).help(EXAMPLE));
            return None;
        }
        steps.into_iter().flatten().next()
    }

    /// Adds a fault if steps that are valid by themselves make no check.
    fn judge(&self, place: Span, steps: &[ScriptStep], list: &ArrayOf<StepWords>, found: &mut Findings<'_>) {
        let mut add = |at: Span, message: String, label: &str| {
            let fault = Diagnostic::new(Code::IdleScript, self.key("health.steps"), message);
            found.add(fault.label(at, label).help(EXAMPLE));
        };
        if !steps.iter().any(|step| matches!(step, ScriptStep::Expect(_) | ScriptStep::ExpectPattern(_))) {
            let message = format!("the send-expect check of pool `{}` expects nothing", self.pool);
            add(place, message, "the check would pass with any answer of the backend");
        }
        if let Some(extra) = list.items.get(MOST_STEPS) {
            let message = format!("the send-expect check of pool `{}` has {} steps", self.pool, steps.len());
            add(extra.at, message, &format!("{MOST_STEPS} are allowed"));
        }
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

const EXAMPLE: &str =
    "such as: steps = [{ expect = \"220 \" }, { send = \"NOOP\\r\\n\" }, { expect = \"250\" }]";

/// The target that an address and a port make together. `path` is the path of their table.
fn target(
    address: &Key<TargetAddress>,
    port: &Key<Number<1, 65535>>,
    path: &str,
    found: &mut Findings<'_>,
) -> CheckTarget {
    let mut target = address.value().map(|address| address.0.clone()).unwrap_or_default();
    let Some(port) = port.entry() else { return target };
    if let Some(address) = address.entry()
        && (target.port.is_some() || matches!(target.host, Some(TargetHost::Unix(_))))
    {
        let message = format!("`{path}` has a port, and its address takes no port");
        let fault = Diagnostic::new(Code::BadAddress, format!("{path}.port"), message);
        found.add(fault.label(port.at, "").label(address.at, "").help("remove one of them"));
    }
    target.port = u16::try_from(port.value.0).ok();
    target
}

/// Returns true if the port of a backend's agent is not configured. The port of the backend itself is not used for
/// it.
fn is_unknown(target: &CheckTarget, backend: &BackendSpec) -> bool {
    let own = &backend.targets.agent;
    let host = own.host.as_ref().or(target.host.as_ref());
    let has_port = own.port.or(target.port).is_some();
    match host {
        Some(TargetHost::Unix(_)) => false,
        Some(TargetHost::Address(_) | TargetHost::Name(_)) => !has_port,
        None => !has_port || backend.address.tcp().is_none(),
    }
}

fn noun(table: &str) -> &'static str {
    if table == "agent" { "an agent's answer" } else { "a health check" }
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Adds a label to the fault about two contradicting settings: the position of the other setting, if that is
/// written.
pub(super) fn with_other<T>(fault: Diagnostic, other: &Key<T>) -> Diagnostic {
    match other.entry() {
        Some(other) => fault.label(other.at, ""),
        None => fault,
    }
}
