//! Checks the keys of health checks over HTTP and over TLS.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::health::{HealthChecker, with_other};
use crate::config::code::Code;
use crate::config::fault::Diagnostic;
use crate::config::file::{Check, Health};
use crate::config::findings::Findings;
use crate::pool::{CaFile, TlsSpec};
use crate::wire::ServerName;
use crate::wire::dialogue::{BodyMatch, HttpScript};

/// Headers that set the length and the end of the request, or that have a key of their own.
const RESERVED: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "upgrade"];

/// The ALPN name of HTTP/2, which checks do not support.
const HTTP_2: &str = "h2";

/// Returns the name in a Host header, which clients send as SNI too, or `None` if it is an address.
fn name_of_host(host: &str) -> Option<ServerName> {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.parse().ok()
}

impl HealthChecker<'_> {
    /// Returns the request of a check and the answer that it expects.
    pub(super) fn http(&self, words: &Health, found: &mut Findings<'_>) -> HttpScript {
        let usual = HttpScript::default();
        HttpScript {
            method: words.method.value().map_or(usual.method, |method| Arc::clone(&method.0)),
            path: words.path.value().map_or(usual.path, |path| Arc::clone(&path.0)),
            host: words.host.value().map(|host| Arc::clone(&host.0)),
            headers: self.headers(words, found),
            expect: match words.expect.value() {
                Some(list) => list.0.items.iter().map(|item| RangeInclusive::clone(&item.value.0)).collect(),
                None => usual.expect,
            },
            body: self.body(words, found),
        }
    }

    fn headers(&self, words: &Health, found: &mut Findings<'_>) -> Vec<(Arc<str>, Arc<str>)> {
        let named = words.headers.value().map_or(&[][..], |headers| &headers.0);
        let mut headers = Vec::with_capacity(named.len());
        for header in named {
            let name = &header.name;
            let is_token = (1..=64).contains(&name.len())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c));
            let is_reserved = RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved));
            if !is_token || is_reserved {
                let message = format!("{name:?} is not a header that a check can send");
                let path = self.key(&format!("health.headers.{name}"));
                let fault = Diagnostic::new(Code::BadScript, path, message).label(header.place, "");
                found.add(if name.eq_ignore_ascii_case("host") {
                    fault.help("the header Host has its own key: host = \"www.example.com\"")
                } else if is_reserved {
                    fault.help("pointsman sends this header itself if it is needed")
                } else {
                    fault.help("the name of a header is letters, digits and hyphens")
                });
            } else if let Some(value) = &header.table {
                headers.push((name.as_str().into(), Arc::clone(&value.0)));
            }
        }
        headers
    }

    fn body(&self, words: &Health, found: &mut Findings<'_>) -> Option<BodyMatch> {
        let is_head = words.method.value().is_some_and(|method| &*method.0 == "HEAD");
        for (key, place) in [("body", words.body.place()), ("body_regex", words.body_regex.place())] {
            let Some(place) = place.filter(|_| is_head) else { continue };
            let message =
                format!("the health check of pool `{}` expects a body, and HEAD has none", self.pool);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(&format!("health.{key}")), message);
            found.add(with_other(fault.label(place, "").help("write method = \"GET\""), &words.method));
        }
        if let (Some(one), Some(other)) = (words.body.place(), words.body_regex.place()) {
            let message = format!("the health check of pool `{}` has `body` and `body_regex`", self.pool);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key("health.body_regex"), message);
            found.add(fault.label(other, "").label(one, "").help("remove one of them"));
        }
        let text = words.body.value().map(|text| BodyMatch::Contains(Arc::clone(&text.0)));
        text.or_else(|| words.body_regex.value().map(|pattern| BodyMatch::Matches(pattern.0.clone())))
    }

    /// Returns the TLS settings of checks, if they use TLS.
    pub(super) fn tls(&self, words: &Health, found: &mut Findings<'_>) -> Option<TlsSpec> {
        let entry = words.tls.entry().filter(|entry| entry.value)?;
        if !cfg!(feature = "tls-checks") {
            let message = format!("the health check of pool `{}` uses TLS", self.pool);
            let fault = Diagnostic::new(Code::NoTlsChecks, self.key("health.tls"), message);
            let help = "build pointsman with its default features, which include `tls-checks`";
            found.add(fault.label(entry.key, "this program is built without TLS for checks").help(help));
            return None;
        }
        let offered = words.alpn.value().map_or(&[][..], |alpn| &alpn.0.items);
        let is_http = words.check.value().is_some_and(|choice| choice.0 == Check::Http);
        if let Some(item) = offered.iter().find(|item| is_http && item.value.0 == HTTP_2) {
            let message = format!("the health check of pool `{}` cannot use HTTP/2", self.pool);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key("health.alpn"), message);
            found.add(fault.label(item.at, "").help("write alpn = \"http/1.1\", or leave it out"));
        }
        Some(TlsSpec {
            server_name: match words.server_name.value() {
                Some(name) => Some(name.0.clone()),
                None => words.host.value().and_then(|host| name_of_host(&host.0)),
            },
            alpn: offered.iter().map(|item| item.value.0.as_str().into()).collect(),
            ca: words
                .ca_file
                .value()
                .map(|path| CaFile { path: path.0.as_path().into(), certificates: [].into() }),
            client: Default::default(),
        })
    }
}
