//! Who may ask what: one judgement over every request, whatever its path.
//!
//! Three kinds of strangers are kept out. Other machines: by the token. Web pages that send their reader's
//! browser to this machine: by the header Host, since a page that lets a name of its own point here (DNS
//! rebinding) is betrayed by that name, and by the headers with which browsers mark requests across sites. And
//! pages in old browsers without those: a request that changes something may have no content of the kinds that a
//! form can send. A request without any of these headers is not from a browser.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::time::timeout;

use super::acceptor::{AdminAcceptor, AdminPeer};
use super::refusal::{LogInterval, said};
use super::token;
use crate::config::{AdminSpec, TokenFault, TokenFor, read_token};
use crate::sys::{file_call, process};
use crate::telemetry::{AdminRefusal, Metrics};

/// What `open_metrics` opens: words for those who watch, and nothing else.
const OPEN: [&str; 3] = ["/metrics", "/healthz", "/ready"];

/// Where a browser says from which site a request comes. The library has no name for it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long a request waits for the token's file. The commands of this program wait longer for an answer, so they get
/// the 500 of such a request.
const TOKEN_PATIENCE: Duration = Duration::from_secs(2);

impl Connected<IncomingStream<'_, AdminAcceptor>> for AdminPeer {
    fn connect_info(stream: IncomingStream<'_, AdminAcceptor>) -> Self {
        *stream.remote_addr()
    }
}

/// The origin of a request that was admitted, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOrigin {
    peer: AdminPeer,
    /// Whether the request had the token.
    has_token: bool,
}

impl fmt::Display for RequestOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.peer, if self.has_token { " with the token" } else { "" })
    }
}

/// Judges requests. Shared by all connections.
pub(super) struct RequestGuard {
    spec: AdminSpec,
    /// The name of this machine, in lower case.
    own_name: String,
    metrics: Arc<Metrics>,
    /// For lines about wrong tokens.
    quiet: LogInterval,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestDenial {
    /// It is refused.
    Refused(AdminRefusal),
    /// The token is needed and cannot be read: a fault of ours.
    NoToken,
}

impl RequestGuard {
    pub(super) fn new(spec: AdminSpec, metrics: Arc<Metrics>) -> Arc<Self> {
        let own_name = process::host_name().to_ascii_lowercase();
        Arc::new(Self { spec, own_name, metrics, quiet: LogInterval::default() })
    }

    /// Whether a request may be answered, and its origin. What is refused is counted.
    pub(super) async fn admit(
        &self,
        request: &Parts,
        peer: AdminPeer,
    ) -> Result<RequestOrigin, RequestDenial> {
        let judged = match self.judge(request) {
            Ok(None) => Ok(RequestOrigin { peer, has_token: false }),
            Ok(Some(said)) => {
                self.compare(said, peer).await.map(|()| RequestOrigin { peer, has_token: true })
            }
            Err(refusal) => Err(RequestDenial::Refused(refusal)),
        };
        if let Err(denial) = judged {
            tracing::debug!(%peer, ?denial, "admin refused a request");
            if let RequestDenial::Refused(refusal) = denial {
                self.metrics.process().admin_refused(refusal);
            }
        }
        judged
    }

    /// All but the token itself: what was said in its place is returned where one is needed.
    fn judge(&self, request: &Parts) -> Result<Option<String>, AdminRefusal> {
        let is_change = !matches!(request.method, Method::GET | Method::HEAD);
        let headers = &request.headers;
        // In a request whose line has a whole URL, as for proxies, that counts before Host.
        let is_named = request.uri.authority().is_none_or(|host| self.is_ours(host.as_str()))
            && every(headers, header::HOST, |host| self.is_ours(host));
        // What is open to everybody is open by any name: Prometheus and probes ask by the name of a service.
        let is_open = self.is_open(is_change, request.uri.path());
        if self.spec.listen.tcp().is_some() && !is_open && !is_named {
            return Err(AdminRefusal::Host);
        }
        if is_cross_site(headers) {
            return Err(AdminRefusal::CrossSite);
        }
        let said = match !is_open && self.needs_token(is_change) {
            true => Some(bearer(headers).ok_or(AdminRefusal::Token)?),
            false => None,
        };
        if is_change && !every(headers, header::CONTENT_TYPE, is_json) {
            return Err(AdminRefusal::ContentType);
        }
        Ok(said)
    }

    /// Whether a value of Host, perhaps with a port, is one by which this listener is asked.
    fn is_ours(&self, host: &str) -> bool {
        is_local(host) || {
            let name = host.split_once(':').map_or(host, |(name, _)| name);
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == self.own_name || self.spec.hosts.contains(&name)
        }
    }

    /// Whether everybody may ask for this path, by any name.
    fn is_open(&self, is_change: bool, path: &str) -> bool {
        !is_change && self.spec.open_metrics && OPEN.contains(&path)
    }

    fn needs_token(&self, is_change: bool) -> bool {
        let is_free = match (&self.spec.token_file, self.spec.token_for) {
            (Some(_), TokenFor::All) => false,
            (Some(_), TokenFor::Changes) => !is_change,
            // Any user of this machine reaches a loopback address; the file of a Unix socket has its permissions.
            (None, _) if is_change => self.spec.is_unix() || (self.spec.open_changes && self.spec.is_local()),
            // Elsewhere nobody has a token, so that only what is open is answered.
            (None, _) => self.spec.is_local(),
        };
        !is_free
    }

    /// Compares what was said with the token as it is now in its file.
    async fn compare(&self, said: String, peer: AdminPeer) -> Result<(), RequestDenial> {
        let Some(path) = self.spec.token_file.clone() else {
            return Err(RequestDenial::Refused(AdminRefusal::Token));
        };
        let file = path.clone();
        let compare = move || read_token(&file).map(|token| token::equal(&said, &token));
        let compared = timeout(TOKEN_PATIENCE, file_call::call(&path, compare)).await;
        match compared.unwrap_or_else(|_| Ok(Err(TokenFault::Unreadable { path, source: unanswered() }))) {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                if self.quiet.may_tell() {
                    tracing::warn!(%peer, "admin was asked with a wrong token; more within a minute are only counted");
                }
                Err(RequestDenial::Refused(AdminRefusal::Token))
            }
            Ok(Err(fault)) => {
                if self.quiet.may_tell() {
                    tracing::error!(error = %fault, "admin lets nobody in");
                }
                Err(RequestDenial::NoToken)
            }
            Err(error) => {
                tracing::error!(%error, "the admin token could not be compared");
                Err(RequestDenial::NoToken)
            }
        }
    }
}

fn unanswered() -> io::Error {
    let seconds = TOKEN_PATIENCE.as_secs();
    io::Error::new(io::ErrorKind::TimedOut, format!("its file system did not answer within {seconds} s"))
}

/// Whether every value of a header is as it should be; it need not be there.
fn every(headers: &HeaderMap, name: HeaderName, is_right: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(&is_right))
}

/// Whether a value of Host, perhaps with a port, is an IP address or `localhost`.
fn is_local(host: &str) -> bool {
    if let Some((inside, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// Whether a browser says that another site sent it there.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // "null" and other schemes are pages that came from nowhere or from a file.
    let is_same = |origin: &str| origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == host);
    let is_near = |site: &str| matches!(site, "same-origin" | "none");
    !every(headers, header::ORIGIN, is_same) || !every(headers, SITE, is_near)
}

/// Whether a content is JSON, which no form can send, and no script to another site without asking first.
fn is_json(kind: &str) -> bool {
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// The token of a request, if it has one Authorization, and of that kind.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

impl IntoResponse for RequestDenial {
    fn into_response(self) -> Response {
        let (code, why) = match self {
            Self::Refused(refusal) => said(refusal),
            Self::NoToken => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the token cannot be read; the log says why\n")
            }
        };
        let mut response = (code, why).into_response();
        if code == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::sys::Address;

    fn guard(change: impl FnOnce(&mut AdminSpec)) -> Arc<RequestGuard> {
        let mut spec = AdminSpec::new("127.0.0.1:9100".parse::<Address>().unwrap());
        change(&mut spec);
        RequestGuard::new(spec, Metrics::new())
    }

    /// A request as a line, `METHOD PATH`, and its headers behind it.
    fn parts(request: &str) -> Parts {
        let mut lines = request.split('\n').map(str::trim);
        let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(path);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(guard: &RequestGuard, request: &str, expected: Result<Option<&str>, AdminRefusal>) {
        let judged = guard.judge(&parts(request));
        assert_eq!(judged.as_ref().map(Option::as_deref).map_err(|refusal| *refusal), expected, "{request}");
    }

    #[test]
    fn hosts_that_no_page_can_have() {
        let check = |host: &str, expected: bool| assert_eq!(is_local(host), expected, "{host:?}");
        check("127.0.0.1", true);
        check("127.0.0.1:9100", true);
        check("10.1.2.3:1", true);
        check("localhost", true);
        check("LocalHost:9100", true);
        check("localhost.", true);
        check("[::1]", true);
        check("[::1]:9100", true);
        check("", false);
        check("evil.example", false);
        check("evil.example:9100", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example", false);
        check("[evil.example]", false);
        check("[::1", false);
        check("[::1].evil.example", false);
        check("[::1]@evil.example", false);
        check("localhost@evil.example", false);
        check("evil.example@localhost", false);
        check("127.0.0.1, evil.example", false);
        check("::1", false);
    }

    #[test]
    fn the_host_must_be_known() {
        use AdminRefusal::Host;
        let here = guard(|spec| spec.hosts = vec!["lb-1.example".to_owned()]);
        check(&here, "GET /", Ok(None));
        check(&here, "GET /\nHost: 127.0.0.1:9100", Ok(None));
        check(&here, "GET /\nHost: LB-1.example:9100", Ok(None));
        check(&here, "GET /\nHost: lb-1.example.", Ok(None));
        check(&here, &format!("GET /\nHost: {}:9100", here.own_name), Ok(None));
        check(&here, "GET /\nHost: lb-2.example", Err(Host));
        check(&here, "GET /\nHost: localhost\nHost: evil.example", Err(Host));
        check(&here, "POST /\nHost: evil.example", Err(Host));
        check(&here, "GET http://localhost:9100/\nHost: localhost:9100", Ok(None));
        check(&here, "GET http://evil.example/\nHost: localhost:9100", Err(Host));
        check(&here, "GET http://localhost@evil.example/", Err(Host));
        let anywhere = guard(|spec| {
            spec.listen = "0.0.0.0:9100".parse().unwrap();
            spec.open_metrics = true;
        });
        for path in OPEN {
            check(&anywhere, &format!("GET {path}\nHost: pointsman:9100"), Ok(None));
            check(&anywhere, &format!("HEAD {path}\nHost: lb.evil.example"), Ok(None));
            check(&anywhere, &format!("GET http://pointsman:9100{path}"), Ok(None));
            check(&anywhere, &format!("POST {path}\nHost: pointsman:9100"), Err(Host));
            check(&here, &format!("GET {path}\nHost: pointsman:9100"), Err(Host));
        }
        check(&anywhere, "GET /api/v1/status\nHost: pointsman:9100", Err(Host));
        check(&anywhere, "GET /metrics/\nHost: pointsman:9100", Err(Host));
        let socket = guard(|spec| spec.listen = "unix:/run/a".parse().unwrap());
        check(&socket, "GET /\nHost: pointsman", Ok(None));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        use AdminRefusal::CrossSite;
        let here = guard(|spec| spec.open_changes = true);
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let with = |header: &str| format!("{method} /metrics\nHost: localhost:9100\n{header}");
            check(&here, &with("Origin: http://localhost:9100"), Ok(None));
            check(&here, &with("Origin: http://localhost:3000"), Err(CrossSite));
            check(&here, &with("Origin: https://localhost:9100"), Err(CrossSite));
            check(&here, &with("Origin: http://evil.example"), Err(CrossSite));
            check(&here, &with("Origin: null"), Err(CrossSite));
            check(&here, &with("Sec-Fetch-Site: same-origin"), Ok(None));
            check(&here, &with("Sec-Fetch-Site: none"), Ok(None));
            check(&here, &with("Sec-Fetch-Site: cross-site"), Err(CrossSite));
            check(&here, &with("Sec-Fetch-Site: same-site"), Err(CrossSite));
        }
        check(&here, "GET /\nOrigin: http://localhost", Err(CrossSite));
    }

    #[test]
    fn what_a_form_can_send_changes_nothing() {
        use AdminRefusal::ContentType;
        let here = guard(|spec| spec.listen = "unix:/run/a".parse().unwrap());
        let with = |method: &str, kind: &str| format!("{method} /lists\nContent-Type: {kind}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            check(&here, &with(method, "application/json"), Ok(None));
            check(&here, &with(method, "Application/JSON; charset=utf-8"), Ok(None));
            check(&here, &with(method, "text/plain"), Err(ContentType));
            check(&here, &with(method, "application/x-www-form-urlencoded"), Err(ContentType));
            check(&here, &with(method, "multipart/form-data; boundary=a"), Err(ContentType));
            check(&here, &format!("{method} /lists"), Ok(None));
        }
        check(&here, &with("GET", "text/plain"), Ok(None));
    }

    #[test]
    fn a_token_is_asked_for() {
        use AdminRefusal::{ContentType, Token};
        let file = |spec: &mut AdminSpec| spec.token_file = Some("/nowhere".into());
        let all = guard(file);
        check(&all, "GET /metrics", Err(Token));
        check(&all, "POST /lists", Err(Token));
        check(&all, "POST /lists\nContent-Type: text/plain", Err(Token));
        check(&all, "GET /nowhere", Err(Token));
        check(&all, "GET /metrics\nAuthorization: Bearer abc", Ok(Some("abc")));
        check(&all, "GET /metrics\nAuthorization: bearer  abc ", Ok(Some("abc")));
        check(&all, "GET /metrics\nAuthorization: Basic abc", Err(Token));
        check(&all, "GET /metrics\nAuthorization: Bearer", Err(Token));
        check(&all, "GET /metrics\nAuthorization: Bearer a\nAuthorization: Bearer b", Err(Token));
        check(&all, "POST /a\nAuthorization: Bearer abc\nContent-Type: text/plain", Err(ContentType));
        let changes = guard(|spec| {
            file(spec);
            spec.token_for = TokenFor::Changes;
        });
        check(&changes, "GET /api/v1/status", Ok(None));
        check(&changes, "HEAD /metrics", Ok(None));
        check(&changes, "DELETE /lists", Err(Token));
        let metrics = guard(|spec| {
            file(spec);
            spec.open_metrics = true;
        });
        check(&metrics, "GET /metrics", Ok(None));
        check(&metrics, "HEAD /ready", Ok(None));
        check(&metrics, "GET /metrics?x=/api", Ok(None));
        check(&metrics, "POST /metrics", Err(Token));
        check(&metrics, "GET /metrics/", Err(Token));
        check(&metrics, "GET /%6detrics", Err(Token));
        check(&metrics, "GET /api/v1/status", Err(Token));
    }

    /// Every user of a machine reaches its loopback addresses.
    #[test]
    fn a_change_needs_a_unix_socket_or_a_token() {
        use AdminRefusal::Token;
        let of = |listen: &str, open_changes: bool| {
            guard(|spec| {
                spec.listen = listen.parse().unwrap();
                spec.open_changes = open_changes;
            })
        };
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let change = format!("{method} /api/v1/lists/bans/192.0.2.1");
            check(&of("127.0.0.1:9", false), &change, Err(Token));
            check(&of("[::1]:9", false), &change, Err(Token));
            check(&of("unix:/run/a", false), &change, Ok(None));
            check(&of("127.0.0.1:9", true), &change, Ok(None));
            check(&of("192.0.2.1:9", true), &change, Err(Token));
        }
        check(&of("127.0.0.1:9", false), "GET /api/v1/lists/bans", Ok(None));
        check(&of("127.0.0.1:9", false), "HEAD /api/v1/status", Ok(None));
    }

    #[test]
    fn elsewhere_only_what_is_open_is_answered_without_a_token() {
        use AdminRefusal::Token;
        let open = guard(|spec| {
            spec.listen = "192.0.2.1:9100".parse().unwrap();
            spec.open_metrics = true;
        });
        check(&open, "GET /healthz", Ok(None));
        check(&open, "GET /api/v1/status", Err(Token));
        check(&open, "POST /metrics", Err(Token));
    }

    #[test]
    fn where_there_is_no_token_none_is_right() {
        let guard = guard(|spec| spec.listen = "192.0.2.1:9100".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let peer = AdminPeer::Unix { uid: None, pid: None };
        let denied = |request: &str| runtime.block_on(guard.admit(&parts(request), peer)).unwrap_err();
        for request in ["GET /", "GET /\nAuthorization: Bearer ", "GET /\nAuthorization: Bearer None"] {
            assert_eq!(denied(request), RequestDenial::Refused(AdminRefusal::Token), "{request}");
        }
    }
}
