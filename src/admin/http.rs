//! Which path is answered with what. The only place that knows HTTP's words, beside the client in `ask`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::spawn_blocking;

use super::{scrape, sources, status};
use crate::server::{Life, View};

/// What there is to ask; the answer to everything else.
const ENDPOINTS: &str = "\
GET /metrics        metrics for Prometheus
GET /healthz        200 while the process lives
GET /ready          200 while it serves, 503 once it was told to stop
GET /api/v1/status  what is configured and alive, as JSON
GET /api/v1/sources who has the most connections open, as JSON; ?top=10
";

/// The text format of Prometheus; without the version some scrapers guess.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Which values of the header Host are answered.
///
/// A web page may send its reader's browser to this machine's own addresses, by a name of its own that it
/// lets point there (DNS rebinding), and would then read the answer as one of its own. The only mark of
/// such a request is that name in Host. So a listener that is bound to a loopback address, and relies on
/// being reached from this machine only, answers for IP addresses and `localhost` and refuses other names.
/// A listener on any other address is open to its network anyway and is scraped by name, so there every
/// name is right. A request without the header is not from a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hosts {
    Any,
    Local,
}

impl Hosts {
    fn of(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() { Self::Local } else { Self::Any }
    }

    fn admit(self, request: &Request) -> bool {
        let is_local = |host: &HeaderValue| host.to_str().is_ok_and(is_local);
        self == Self::Any || request.headers().get_all(header::HOST).iter().all(is_local)
    }
}

/// Whether a value of Host, perhaps with a port, is an IP address or `localhost`.
fn is_local(host: &str) -> bool {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// The answers of a listener at this address.
pub(super) fn router(view: Arc<View>, address: SocketAddr) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .route("/ready", get(ready))
        .route("/api/v1/status", get(status))
        .route("/api/v1/sources", get(heaviest))
        .fallback(unknown)
        .method_not_allowed_fallback(not_a_get)
        .layer(middleware::from_fn_with_state(Hosts::of(address), admit))
        .with_state(view)
}

async fn admit(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match hosts.admit(&request) {
        true => next.run(request).await,
        false => misdirected(),
    };
    // One request per connection, see the module above.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn misdirected() -> Response {
    let why =
        "this address answers to IP addresses and to localhost, not to other names in the header Host\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    page(METRICS_TYPE, move || scrape::text(&view)).await
}

async fn status(State(view): State<Arc<View>>) -> Response {
    page("application/json", move || status::json(&view)).await
}

async fn heaviest(State(view): State<Arc<View>>, uri: Uri) -> Response {
    match sources::wanted(uri.query()) {
        Some(top) => page("application/json", move || sources::json(&view, top)).await,
        None => (StatusCode::BAD_REQUEST, "top is a number from 1 to 1000\n").into_response(),
    }
}

/// A page that takes milliseconds to write where there are many backends. Elsewhere than on the control
/// loop's thread, which has signals and checks to attend to.
async fn page(kind: &'static str, write: impl FnOnce() -> String + Send + 'static) -> Response {
    match spawn_blocking(write).await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page of admin could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written; the log says why\n")
                .into_response()
        }
    }
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn ready(State(view): State<Arc<View>>) -> (StatusCode, &'static str) {
    match view.life() {
        Life::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Life::Serving if !view.bounds.overload.is_ready(view.bounds.connections.inside()) => {
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded\n")
        }
        Life::Serving => (StatusCode::OK, "ready\n"),
        Life::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn unknown() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("nothing is here; there is\n{ENDPOINTS}"))
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn not_a_get() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, expected: bool) {
        assert_eq!(is_local(host), expected, "{host:?}");
    }

    #[test]
    fn hosts_that_no_page_can_have() {
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
        check("::1", false);
    }

    #[test]
    fn only_a_loopback_listener_looks_at_the_host() {
        let of = |address: &str| Hosts::of(address.parse().unwrap());
        assert_eq!(of("127.0.0.1:1"), Hosts::Local);
        assert_eq!(of("[::1]:1"), Hosts::Local);
        assert_eq!(of("[::ffff:127.0.0.1]:1"), Hosts::Local);
        assert_eq!(of("0.0.0.0:1"), Hosts::Any);
        assert_eq!(of("[::]:1"), Hosts::Any);
        assert_eq!(of("192.0.2.1:1"), Hosts::Any);
    }
}
