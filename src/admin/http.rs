//! Which path is answered with what. The only place that knows HTTP's words, beside the client in `ask`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::spawn_blocking;

use super::guard::{Guard, Peer};
use super::{scrape, status};
use crate::server::{Life, View};

/// What there is to ask; the answer to everything else.
const ENDPOINTS: &str = "\
GET /metrics        metrics for Prometheus
GET /healthz        200 while the process lives
GET /ready          200 while it serves, 503 once it was told to stop
GET /api/v1/status  what is configured and alive, as JSON
";

/// The text format of Prometheus; without the version some scrapers guess.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The answers, behind their guard: whatever path is added here, it is judged first.
pub(super) fn router(view: Arc<View>, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .route("/ready", get(ready))
        .route("/api/v1/status", get(status))
        .fallback(unknown)
        .method_not_allowed_fallback(not_a_get)
        .layer(middleware::from_fn_with_state(guard, admit))
        .with_state(view)
}

async fn admit(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match guard.admit(&head, &peer).await {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(denial) => denial.into_response(),
    };
    // One request per connection, see the module above.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    page(METRICS_TYPE, move || scrape::text(&view)).await
}

async fn status(State(view): State<Arc<View>>) -> Response {
    page("application/json", move || status::json(&view)).await
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
