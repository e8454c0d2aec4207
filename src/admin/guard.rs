//! Decides whether a request may be answered. All paths use this module.
//!
//! It keeps out three kinds of requests. Other machines must have the token. Web pages may use their reader's browser
//! to reach this machine. A page may have a name that resolves to this host (DNS rebinding). The header Host has this
//! name and shows such a page. Other pages are detected by the headers with which browsers mark requests across sites.
//! Old browsers do not send these headers. So a request for a change must not have content of the types that a form
//! can send. A request without any of these headers is not from a browser.

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
use super::access::{self, ChangeRight};
use super::refusal::{LogInterval, answer_to};
use super::{token, web_page};
use crate::config::{AdminSpec, TokenFault, TokenFor, read_token};
use crate::sys::{file_call, process};
use crate::telemetry::{AdminRefusal, Metrics};

/// The paths that `open_metrics` opens. They show the state and change nothing.
const OPEN: [&str; 3] = ["/metrics", "/healthz", "/ready"];

/// The header in which a browser names the relation of the requesting site. The library has no name for it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The longest wait for the token's file. The commands of this program wait longer for an answer, so they get
/// the 500 of such a request.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Connected<IncomingStream<'_, AdminAcceptor>> for AdminPeer {
    fn connect_info(stream: IncomingStream<'_, AdminAcceptor>) -> Self {
        *stream.remote_addr()
    }
}

/// The origin of a request that was admitted, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOrigin {
    peer: AdminPeer,
    /// True if the request had the token.
    has_token: bool,
    /// The right of a request with the same headers to change something.
    right: ChangeRight,
}

impl RequestOrigin {
    pub(super) fn right(self) -> ChangeRight {
        self.right
    }
}

impl fmt::Display for RequestOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.peer, if self.has_token { " with the token" } else { "" })
    }
}

/// Decides on requests. Shared by all connections.
pub(super) struct RequestGuard {
    spec: AdminSpec,
    /// The name of this machine, in lower case.
    own_name: String,
    metrics: Arc<Metrics>,
    /// Limits the log lines about wrong tokens.
    log_interval: LogInterval,
}

/// The reason for which a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestDenial {
    /// It is refused.
    Refused(AdminRefusal),
    /// The token is needed and cannot be read: a fault of this side.
    NoToken,
}

impl RequestGuard {
    pub(super) fn new(spec: AdminSpec, metrics: Arc<Metrics>) -> Arc<Self> {
        let own_name = process::host_name().to_ascii_lowercase();
        Arc::new(Self { spec, own_name, metrics, log_interval: LogInterval::default() })
    }

    /// Returns the origin of a request that may be answered. A refusal is counted.
    pub(super) async fn admit(
        &self,
        request: &Parts,
        peer: AdminPeer,
    ) -> Result<RequestOrigin, RequestDenial> {
        let origin = |has_token| RequestOrigin { peer, has_token, right: self.right(has_token) };
        let judged = match self.judge(request) {
            Ok(None) => Ok(origin(false)),
            Ok(Some(token)) => self.compare(token, peer).await.map(|()| origin(true)),
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

    /// Checks everything but the token itself. Returns the token of the request if one is needed.
    fn judge(&self, request: &Parts) -> Result<Option<String>, AdminRefusal> {
        let is_change = !matches!(request.method, Method::GET | Method::HEAD);
        let headers = &request.headers;
        // In a request line with a whole URL, as for proxies, the host of the URL counts before Host.
        let is_named = request.uri.authority().is_none_or(|host| self.is_ours(host.as_str()))
            && every(headers, header::HOST, |host| self.is_ours(host));
        // Open paths are open under any name: Prometheus and probes use the name of a service.
        let is_open = self.is_open(is_change, request.uri.path());
        if !is_open && !is_named {
            return Err(AdminRefusal::Host);
        }
        // The page for browsers is the same for all, and it has no data. Links of other sites may lead to it.
        if !is_change && web_page::PATHS.contains(&request.uri.path()) {
            return Ok(None);
        }
        if is_cross_site(headers) {
            return Err(AdminRefusal::CrossSite);
        }
        let token = match !is_open && (self.needs_token(is_change) || self.tries_token(request)) {
            true => Some(bearer(headers).ok_or(AdminRefusal::Token)?),
            false => None,
        };
        if is_change && !every(headers, header::CONTENT_TYPE, is_json) {
            return Err(AdminRefusal::ContentType);
        }
        Ok(token)
    }

    /// Returns true if a value of Host, with or without a port, is a name of this listener.
    fn is_ours(&self, host: &str) -> bool {
        is_local(host) || {
            let name = host.split_once(':').map_or(host, |(name, _)| name);
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // Clients of a Unix socket write any word as the host. The name of a web site has a dot.
            let is_word = self.spec.is_unix() && !name.contains('.');
            is_word || name == self.own_name || self.spec.hosts.contains(&name)
        }
    }

    /// Returns true if a path is open to all clients, under any name.
    fn is_open(&self, is_change: bool, path: &str) -> bool {
        !is_change && self.spec.open_metrics && OPEN.contains(&path)
    }

    fn needs_token(&self, is_change: bool) -> bool {
        let is_free = match (&self.spec.token_file, self.spec.token_for) {
            (Some(_), TokenFor::All) => false,
            (Some(_), TokenFor::Changes) => !is_change,
            // Any user of this machine can connect to a loopback address; the file of a Unix socket has
            // permissions.
            (None, _) if is_change => self.spec.is_unix() || (self.spec.open_changes && self.spec.is_local()),
            // On other addresses there is no token to send, so only open paths are answered.
            (None, _) => self.spec.is_local(),
        };
        !is_free
    }

    /// Returns the right to change something of a request with or without the token.
    fn right(&self, has_token: bool) -> ChangeRight {
        match (has_token || !self.needs_token(true), &self.spec.token_file) {
            (true, _) => ChangeRight::Allowed,
            (false, Some(_)) => ChangeRight::NeedsToken,
            (false, None) => ChangeRight::NeedsSocket,
        }
    }

    /// Returns true if a request asks for the right of its token. Then a wrong token is refused, as for a change.
    fn tries_token(&self, request: &Parts) -> bool {
        request.uri.path() == access::PATH
            && self.spec.token_file.is_some()
            && request.headers.contains_key(header::AUTHORIZATION)
    }

    /// Compares the token of a request with the token that is in the file now.
    async fn compare(&self, sent: String, peer: AdminPeer) -> Result<(), RequestDenial> {
        let Some(path) = self.spec.token_file.clone() else {
            return Err(RequestDenial::Refused(AdminRefusal::Token));
        };
        let file = path.clone();
        let compare = move || read_token(&file).map(|token| token::equal(&sent, &token));
        let compared = timeout(TOKEN_TIMEOUT, file_call::call(&path, compare)).await;
        match compared.unwrap_or_else(|_| Ok(Err(TokenFault::Unreadable { path, source: unanswered() }))) {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                if self.log_interval.may_log() {
                    tracing::warn!(
                        %peer,
                        "admin refused a request with a wrong token; further such events within a minute are only counted"
                    );
                }
                Err(RequestDenial::Refused(AdminRefusal::Token))
            }
            Ok(Err(fault)) => {
                if self.log_interval.may_log() {
                    tracing::error!(
                        error = %fault,
                        "admin refuses all requests that need the token, because it cannot be read"
                    );
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
    let seconds = TOKEN_TIMEOUT.as_secs();
    io::Error::new(io::ErrorKind::TimedOut, format!("its file system did not answer within {seconds} s"))
}

/// Returns true if every value of a header is as required. The header may be missing.
fn every(headers: &HeaderMap, name: HeaderName, is_right: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(&is_right))
}

/// Returns true if a value of Host, with or without a port, is an IP address or `localhost`.
fn is_local(host: &str) -> bool {
    if let Some((inside, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// Returns true if the headers of a browser show that the request comes from a page of another site.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // "null" and other schemes come from pages without an origin or from files.
    let is_same = |origin: &str| origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == host);
    let is_near = |site: &str| matches!(site, "same-origin" | "none");
    !every(headers, header::ORIGIN, is_same) || !every(headers, SITE, is_near)
}

/// Returns true if content is JSON. No form can send JSON, and no script can send it to another site without
/// a preflight.
fn is_json(kind: &str) -> bool {
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// Returns the token of a request that has exactly one header Authorization, of the scheme Bearer.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

impl IntoResponse for RequestDenial {
    fn into_response(self) -> Response {
        let (code, why) = match self {
            Self::Refused(refusal) => answer_to(refusal),
            Self::NoToken => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the token cannot be read; the log has the reason\n")
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

    /// Makes a request from a line, `METHOD PATH`, and the headers after it.
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
    fn hosts_that_no_page_of_another_site_can_have() {
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
    }

    /// With `ssh -L 10190:/run/pointsman/admin.sock` a browser comes to the socket.
    #[test]
    fn a_unix_socket_has_no_name_of_a_web_site() {
        use AdminRefusal::Host;
        let socket = guard(|spec| {
            spec.listen = "unix:/run/a".parse().unwrap();
            spec.hosts = vec!["lb-1.example".to_owned()];
        });
        for host in ["pointsman", "localhost:10190", "127.0.0.1:10190", "lb-1.example:10190", "unix"] {
            check(&socket, &format!("GET /api/v1/status\nHost: {host}"), Ok(None));
            check(&socket, &format!("POST /api/v1/reload\nHost: {host}"), Ok(None));
        }
        for host in ["evil.example", "evil.example:10190", "localhost.evil.example", "evil.example."] {
            check(&socket, &format!("GET /\nHost: {host}"), Err(Host));
            check(&socket, &format!("GET /api/v1/status\nHost: {host}"), Err(Host));
            check(&socket, &format!("POST /api/v1/reload\nHost: {host}"), Err(Host));
        }
        check(&socket, "GET /api/v1/status", Ok(None));
    }

    #[test]
    fn the_page_needs_no_token_and_a_known_host() {
        use AdminRefusal::{CrossSite, Host, Token};
        let here = guard(|spec| spec.token_file = Some("/nowhere".into()));
        for path in web_page::PATHS {
            check(&here, &format!("GET {path}\nHost: localhost:9100"), Ok(None));
            check(&here, &format!("HEAD {path}\nHost: localhost:9100"), Ok(None));
            check(&here, &format!("GET {path}\nHost: localhost:9100\nSec-Fetch-Site: cross-site"), Ok(None));
            check(&here, &format!("GET {path}\nHost: evil.example"), Err(Host));
            check(&here, &format!("POST {path}\nHost: localhost:9100"), Err(Token));
            let other = format!("POST {path}\nHost: localhost:9100\nSec-Fetch-Site: cross-site");
            check(&here, &other, Err(CrossSite));
        }
        check(&here, "GET /index.html\nHost: localhost:9100", Err(Token));
    }

    #[test]
    fn the_right_to_change_is_known_without_a_change() {
        use AdminRefusal::Token;
        let right = |change: &dyn Fn(&mut AdminSpec), has_token| guard(change).right(has_token);
        let tcp = |spec: &mut AdminSpec| spec.open_changes = false;
        let open = |spec: &mut AdminSpec| spec.open_changes = true;
        let unix = |spec: &mut AdminSpec| spec.listen = "unix:/run/a".parse().unwrap();
        let file = |spec: &mut AdminSpec| {
            spec.token_file = Some("/nowhere".into());
            spec.token_for = TokenFor::Changes;
        };
        assert_eq!(right(&tcp, false), ChangeRight::NeedsSocket);
        assert_eq!(right(&open, false), ChangeRight::Allowed);
        assert_eq!(right(&unix, false), ChangeRight::Allowed);
        assert_eq!(right(&file, false), ChangeRight::NeedsToken);
        assert_eq!(right(&file, true), ChangeRight::Allowed);
        let here = guard(file);
        check(&here, "GET /api/v1/access", Ok(None));
        check(&here, "GET /api/v1/access\nAuthorization: Bearer abc", Ok(Some("abc")));
        check(&here, "GET /api/v1/access\nAuthorization: Basic abc", Err(Token));
        check(&here, "GET /api/v1/status\nAuthorization: Bearer abc", Ok(None));
        check(&guard(tcp), "GET /api/v1/access\nAuthorization: Bearer abc", Ok(None));
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
        check(&here, "GET /metrics\nOrigin: http://localhost", Err(CrossSite));
    }

    #[test]
    fn content_that_a_form_can_send_changes_nothing() {
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
    fn a_token_is_required() {
        use AdminRefusal::{ContentType, Token};
        let file = |spec: &mut AdminSpec| spec.token_file = Some("/nowhere".into());
        let all = guard(file);
        check(&all, "GET /metrics", Err(Token));
        check(&all, "POST /lists", Err(Token));
        check(&all, "POST /lists\nContent-Type: text/plain", Err(Token));
        check(&all, "GET /nowhere", Err(Token));
        check(&all, "GET /api/v1/access", Err(Token));
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
    fn on_other_addresses_only_open_paths_need_no_token() {
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
    fn without_a_token_file_no_token_is_right() {
        let guard = guard(|spec| spec.listen = "192.0.2.1:9100".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let peer = AdminPeer::Unix { uid: None, pid: None };
        let denied = |request: &str| runtime.block_on(guard.admit(&parts(request), peer)).unwrap_err();
        for header in ["", "\nAuthorization: Bearer ", "\nAuthorization: Bearer None"] {
            let request = format!("GET /api/v1/access{header}");
            assert_eq!(denied(&request), RequestDenial::Refused(AdminRefusal::Token), "{request}");
        }
    }
}
