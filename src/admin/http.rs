//! The paths of the admin listener and their answers. Only this module and the client in `ask` use terms of
//! HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::task::{JoinError, spawn_blocking};

use super::acceptor::AdminPeer;
use super::connections::{self, ConnectionRefusal};
use super::guard::{RequestGuard, RequestOrigin};
use super::overrides::OverrideFault;
use super::rebalance::RebalanceFault;
use super::reload::{ReloadPage, ReloadRefusal};
use super::{
    config, explain, gzip, list_api, overrides, rebalance, reload, scrape, sources, status, upgrade,
};
use crate::limit::Moment;
use crate::server::{LifeStage, OverrideRefusal, RebalanceRefusal, ReloadFault, View};

/// The list of endpoints. It is the answer to a request for a path that does not exist.
const ENDPOINTS: &str = "\
GET /metrics        metrics for Prometheus
GET /healthz        200 while the process runs
GET /ready          200 while it serves, 503 while it starts or stops
GET /api/v1/status  what is configured and alive, as JSON
GET /api/v1/lists   the lists of addresses, as JSON
GET /api/v1/lists/NAME[?address=IP]       one list, or the reasons for which an address is in it
POST /api/v1/lists/NAME/ENTRY[?ttl=1h][&force=true]    adds a network or an address to it
DELETE /api/v1/lists/NAME/ENTRY           removes an added entry
GET /api/v1/sources the sources with the most open connections, as JSON; ?top=10
GET /api/v1/overrides the changes that operators made at run time, as JSON
POST /api/v1/overrides/KIND[?pool=P][&backend=B][&value=V][&for=2h]     sets one: state, weight, pause, leave or log
DELETE /api/v1/overrides/KIND[?pool=P][&backend=B]       ends one
POST /api/v1/rebalance[?pool=P][&rate=20/s][&most=10%25][&dry_run=true] closes connections that would go elsewhere now
POST /api/v1/reload[?max_moved=5%25][&reset=true]        reads the configuration file again
GET /api/v1/config[?prefix=pool.db][&all=true]           the keys in force and the origins of their values, as JSON
GET /api/v1/explain the way of a connection and its reasons, as JSON; ?listener=NAME&source=IP&sni=NAME
GET /api/v1/connections[?FILTER][&sort=age][&limit=100] open connections, as JSON
GET /api/v1/connections/ID                one connection with its sockets, as JSON
DELETE /api/v1/connections/ID             closes it
DELETE /api/v1/connections/close          cancels the orders to close connections
POST /api/v1/connections/close[?FILTER][&rate=20/s][&dry_run=true] closes connections one after the other
GET /api/v1/upgrade the last hand-over to or from another program, as JSON
";

/// The answer to a request with content.
const NO_CONTENT: &str = "this path takes no content: use the path and its query, such as \
    POST /api/v1/lists/NAME/ENTRY?ttl=1h\n";

const JSON: &str = "application/json";

/// The text format of Prometheus. Without the version some scrapers guess it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the router of all paths. The guard checks every request first, for any path that is added here.
pub(super) fn router(view: Arc<View>, guard: Arc<RequestGuard>) -> Router {
    let changes = post(add_entry).delete(remove_entry).route_layer(middleware::from_fn(without_content));
    let steering = post(set_override).delete(end_override).route_layer(middleware::from_fn(without_content));
    let connection =
        delete(kill_connection).route_layer(middleware::from_fn(without_content)).get(one_connection);
    let close =
        post(close_connections).delete(cancel_close_orders).route_layer(middleware::from_fn(without_content));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .route("/ready", get(ready))
        .route("/api/v1/status", get(status))
        .route("/api/v1/lists", get(all_lists))
        .route("/api/v1/lists/{list}", get(one_list))
        .route("/api/v1/lists/{list}/{*entry}", changes)
        .route("/api/v1/connections", get(list_connections))
        .route("/api/v1/connections/close", close)
        .route("/api/v1/connections/{id}", connection)
        .route("/api/v1/sources", get(heaviest))
        .route("/api/v1/reload", post(reload_file).route_layer(middleware::from_fn(without_content)))
        .route("/api/v1/rebalance", post(rebalance_pool).route_layer(middleware::from_fn(without_content)))
        .route("/api/v1/overrides", get(all_overrides))
        .route("/api/v1/overrides/{kind}", steering)
        .route("/api/v1/config", get(keys_in_force))
        .route("/api/v1/explain", get(explained))
        .route("/api/v1/upgrade", get(last_upgrade))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(guard, admit))
        .with_state(view)
}

async fn admit(
    State(guard): State<Arc<RequestGuard>>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    let mut response = match guard.admit(&head, peer).await {
        Ok(origin) => {
            head.extensions.insert(origin);
            next.run(Request::from_parts(head, body)).await
        }
        Err(denial) => denial.into_response(),
    };
    // One request per connection; the documentation of `admin` has the reason.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Refuses a request with content. It runs only if the path takes this method.
async fn without_content(request: Request, next: Next) -> Response {
    match has_content(request.headers()) {
        true => (StatusCode::BAD_REQUEST, NO_CONTENT).into_response(),
        false => next.run(request).await,
    }
}

/// Returns true if a request has content. No path reads content, so a client that sends content expects an effect that
/// its request does not have.
fn has_content(headers: &HeaderMap) -> bool {
    let is_some = |length: &HeaderValue| length != "0";
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(is_some)
}

/// Writes the metrics, compressed for scrapers that accept it, on the thread that writes the page.
async fn metrics(State(view): State<Arc<View>>, headers: HeaderMap) -> Response {
    let takes_gzip = gzip::is_accepted(&headers);
    let write = move || {
        let text = scrape::text(&view);
        // A cache between this listener and scrapers must not give the compressed form to a scraper that does not
        // accept it.
        let kind = [(header::CONTENT_TYPE, METRICS_TYPE), (header::VARY, "accept-encoding")];
        match takes_gzip.then(|| gzip::compress(text.as_bytes())).flatten() {
            Some(bytes) => (kind, [(header::CONTENT_ENCODING, "gzip")], bytes).into_response(),
            None => (kind, text).into_response(),
        }
    };
    spawn_blocking(write).await.unwrap_or_else(|error| unwritten(&error))
}

async fn status(State(view): State<Arc<View>>) -> Response {
    page(JSON, move || status::json(&view)).await
}

async fn all_lists(State(view): State<Arc<View>>) -> Response {
    page(JSON, move || list_api::all(&view)).await
}

/// Runs on a blocking thread, because a list may have ten thousand additions.
async fn one_list(
    State(view): State<Arc<View>>,
    Path(list): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let made = spawn_blocking(move || list_api::one(&view, &list, query.as_deref())).await;
    made.map_or_else(|error| unwritten(&error), answer)
}

async fn add_entry(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    Path((list, entry)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let made = spawn_blocking(move || list_api::add(&view, (&list, &entry), query.as_deref(), origin)).await;
    made.map_or_else(|error| unwritten(&error), answer)
}

async fn remove_entry(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    Path((list, entry)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let made =
        spawn_blocking(move || list_api::remove(&view, (&list, &entry), query.as_deref(), origin)).await;
    made.map_or_else(|error| unwritten(&error), answer)
}

fn answer(made: Result<String, list_api::ListRefusal>) -> Response {
    match made {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(refusal) => {
            let code = match refusal {
                list_api::ListRefusal::NoList => StatusCode::NOT_FOUND,
                list_api::ListRefusal::Full(_) => StatusCode::CONFLICT,
                _ => StatusCode::BAD_REQUEST,
            };
            (code, format!("{refusal}\n")).into_response()
        }
    }
}

async fn list_connections(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> Response {
    match connections::list(&view, query.as_deref()).await {
        Ok(list) => page(JSON, move || connections::list_page(list)).await,
        Err(refusal) => answer_connections(Err(refusal)),
    }
}

async fn one_connection(State(view): State<Arc<View>>, Path(id): Path<String>) -> Response {
    answer_connections(connections::one(&view, &id).await)
}

async fn kill_connection(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    Path(id): Path<String>,
) -> Response {
    answer_connections(connections::kill(&view, &id, origin).await)
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn cancel_close_orders(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
) -> Response {
    ([(header::CONTENT_TYPE, JSON)], connections::cancel(&view, origin)).into_response()
}

async fn close_connections(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    RawQuery(query): RawQuery,
) -> Response {
    answer_connections(connections::close(&view, query.as_deref(), origin).await)
}

fn answer_connections(made: Result<String, ConnectionRefusal>) -> Response {
    match made {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(refusal) => {
            let code = match refusal {
                ConnectionRefusal::TooManyOrders(_) => StatusCode::CONFLICT,
                _ if refusal.is_of_a_missing_connection() => StatusCode::NOT_FOUND,
                _ if refusal.is_of_a_busy_process() => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            (code, format!("{refusal}\n")).into_response()
        }
    }
}

async fn heaviest(State(view): State<Arc<View>>, uri: Uri) -> Response {
    match sources::wanted(uri.query()) {
        Some(top) => ([(header::CONTENT_TYPE, JSON)], sources::json(&view, top).await).into_response(),
        None => (StatusCode::BAD_REQUEST, "top is a number from 1 to 1000\n").into_response(),
    }
}

async fn all_overrides(State(view): State<Arc<View>>) -> Response {
    page(JSON, move || overrides::json(&view)).await
}

async fn set_override(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    overridden(overrides::set(&view, &kind, query.as_deref(), origin).await)
}

async fn end_override(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    overridden(overrides::end(&view, &kind, query.as_deref(), origin).await)
}

async fn rebalance_pool(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    RawQuery(query): RawQuery,
) -> Response {
    match rebalance::rebalance(&view, query.as_deref(), origin).await {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(fault) => {
            let code = match &fault {
                RebalanceFault::Unknown(_) => StatusCode::NOT_FOUND,
                RebalanceFault::Refused(RebalanceRefusal::AboveBound { .. }) => {
                    StatusCode::PRECONDITION_FAILED
                }
                RebalanceFault::Refused(_) => StatusCode::CONFLICT,
                _ => StatusCode::BAD_REQUEST,
            };
            (code, format!("{fault}\n")).into_response()
        }
    }
}

async fn reload_file(
    State(view): State<Arc<View>>,
    Extension(origin): Extension<RequestOrigin>,
    RawQuery(query): RawQuery,
) -> Response {
    match reload::reload(&view, query.as_deref(), origin).await {
        Ok(ReloadPage::Done(text)) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Ok(ReloadPage::Running(text)) => {
            (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, JSON)], text).into_response()
        }
        Err(refusal) => {
            let code = match &refusal {
                ReloadRefusal::Query | ReloadRefusal::Escape | ReloadRefusal::Share => {
                    StatusCode::BAD_REQUEST
                }
                ReloadRefusal::Fault(ReloadFault::File(_)) => StatusCode::UNPROCESSABLE_ENTITY,
                ReloadRefusal::Fault(ReloadFault::Moved { .. }) => StatusCode::PRECONDITION_FAILED,
                ReloadRefusal::Fault(ReloadFault::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
                ReloadRefusal::Fault(_) => StatusCode::CONFLICT,
            };
            (code, format!("{refusal}\n")).into_response()
        }
    }
}

fn overridden(made: Result<String, OverrideFault>) -> Response {
    match made {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(fault) => {
            let code = match &fault {
                OverrideFault::Kind | OverrideFault::Unknown(_) => StatusCode::NOT_FOUND,
                OverrideFault::Refused(OverrideRefusal::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
                OverrideFault::Refused(_) => StatusCode::CONFLICT,
                _ => StatusCode::BAD_REQUEST,
            };
            (code, format!("{fault}\n")).into_response()
        }
    }
}

/// Runs on a blocking thread, because a configuration may have a million keys.
async fn keys_in_force(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> Response {
    match spawn_blocking(move || config::json(&view, query.as_deref())).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Ok(Err(refusal)) => {
            let is_unknown = matches!(refusal, config::ConfigRefusal::Unknown(_));
            let code = if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
            (code, format!("{refusal}\n")).into_response()
        }
        Err(error) => unwritten(&error),
    }
}

/// Runs on a blocking thread, because a listener may have a million routes.
async fn explained(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> Response {
    match spawn_blocking(move || explain::json(&view, query.as_deref())).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Ok(Err(refusal)) => {
            let is_unknown = matches!(refusal, explain::ExplainRefusal::Listener(_));
            let code = if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
            (code, format!("{refusal}\n")).into_response()
        }
        Err(error) => unwritten(&error),
    }
}

async fn last_upgrade(State(view): State<Arc<View>>) -> Response {
    page(JSON, move || upgrade::json(&view)).await
}

/// Writes a page on a blocking thread. With many backends that takes milliseconds, and the control loop must
/// handle signals and checks meanwhile.
async fn page(kind: &'static str, write: impl FnOnce() -> String + Send + 'static) -> Response {
    match spawn_blocking(write).await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => unwritten(&error),
    }
}

fn unwritten(error: &JoinError) -> Response {
    tracing::error!(%error, "a page of admin could not be written");
    (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written; the log has the reason\n")
        .into_response()
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn ready(State(view): State<Arc<View>>) -> (StatusCode, &'static str) {
    match view.life() {
        LifeStage::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        LifeStage::Serving if view.overrides.leave().is_some() => {
            (StatusCode::SERVICE_UNAVAILABLE, "leaving\n")
        }
        LifeStage::Serving if !view.bounds.overload.is_ready(Moment::now()) => {
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded\n")
        }
        LifeStage::Serving => (StatusCode::OK, "ready\n"),
        LifeStage::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn unknown() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("this path does not exist; the paths are\n{ENDPOINTS}"))
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn other_method() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method; most take only GET and HEAD\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_documented() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/admin-api.md");
        let page = std::fs::read_to_string(page).unwrap();
        for line in ENDPOINTS.lines() {
            let request: Vec<_> = line.split(' ').take(2).collect();
            let request = request.join(" ");
            let request = request.split('[').next().unwrap();
            assert!(page.contains(&format!("\n| `{request}` | ")), "{request}");
        }
    }
}
