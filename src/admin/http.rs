//! The paths of the admin listener and their answers. Only this module and the client in `ask` use terms of
//! HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use tokio::task::{JoinError, spawn_blocking};

use super::acceptor::AdminPeer;
use super::connections::{self, ConnectionRefusal};
use super::endpoints::{self, ENDPOINTS, EndpointName};
use super::guard::{RequestGuard, RequestOrigin};
use super::overrides::OverrideFault;
use super::rebalance::RebalanceFault;
use super::reload::{ReloadPage, ReloadRefusal};
use super::{
    access, config, explain, gzip, history, list_api, overrides, rebalance, reload, route_list, scrape,
    sources, status, top, upgrade, web_page,
};
use crate::server::{OverrideRefusal, RebalanceRefusal, ReloadFault, View};

/// The answer to a request with content.
const NO_CONTENT: &str = "this path takes no content: use the path and its query, such as \
    POST /api/v1/lists/NAME/ENTRY?ttl=1h\n";

const JSON: &str = "application/json";

/// The text format of Prometheus. Without the version some scrapers guess it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the router of all endpoints. The guard checks every request first, for any path that is added here.
pub(super) fn router(view: Arc<View>, guard: Arc<RequestGuard>) -> Router {
    let mut router = Router::new();
    for endpoint in &ENDPOINTS {
        let mut answers = handler(endpoint.name);
        if endpoint.is_change() {
            answers = answers.route_layer(middleware::from_fn(without_content));
        }
        // An entry may be a network, with a slash.
        router = router.route(&endpoint.path.replace("{entry}", "{*entry}"), answers);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(guard, admit))
        .with_state(view)
}

/// Returns the handler of an endpoint, for its method.
fn handler(name: EndpointName) -> MethodRouter<Arc<View>> {
    match name {
        EndpointName::WebPage => web_page(),
        EndpointName::Icon => get(StatusCode::NO_CONTENT),
        EndpointName::Metrics => get(metrics),
        EndpointName::Health => get("ok\n"),
        EndpointName::Readiness => get(ready),
        EndpointName::Access => get(right_to_change),
        EndpointName::Status => get(status),
        EndpointName::AllLists => get(all_lists),
        EndpointName::OneList => get(one_list),
        EndpointName::AddEntry => post(add_entry),
        EndpointName::RemoveEntry => delete(remove_entry),
        EndpointName::History => get(last_minutes),
        EndpointName::Sources => get(heaviest),
        EndpointName::Top => get(most_frequent),
        EndpointName::Routes => get(all_routes),
        EndpointName::Config => get(keys_in_force),
        EndpointName::AllOverrides => get(all_overrides),
        EndpointName::SetOverride => post(set_override),
        EndpointName::EndOverride => delete(end_override),
        EndpointName::Rebalance => post(rebalance_pool),
        EndpointName::Reload => post(reload_file),
        EndpointName::Explain => get(explained),
        EndpointName::Connections => get(list_connections),
        EndpointName::OneConnection => get(one_connection),
        EndpointName::CloseConnection => delete(kill_connection),
        EndpointName::CloseConnections => post(close_connections),
        EndpointName::CancelOrders => delete(cancel_close_orders),
        EndpointName::Upgrade => get(last_upgrade),
    }
}

/// Returns the answer with the page for browsers.
fn web_page() -> MethodRouter<Arc<View>> {
    let policy = HeaderValue::try_from(web_page::policy()).expect("the policy is ASCII");
    let fixed = HeaderValue::from_static;
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, fixed("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (header::X_FRAME_OPTIONS, fixed("DENY")),
        (header::REFERRER_POLICY, fixed("no-referrer")),
        (header::CACHE_CONTROL, fixed("no-store")),
        (HeaderName::from_static("cross-origin-opener-policy"), fixed("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), fixed("same-origin")),
    ]);
    get(move || std::future::ready((headers.clone(), web_page::TEXT)))
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

async fn metrics(State(view): State<Arc<View>>, headers: HeaderMap) -> Response {
    long_page(METRICS_TYPE, &headers, move || scrape::text(&view)).await
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn right_to_change(Extension(origin): Extension<RequestOrigin>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], access::json(origin.right())).into_response()
}

async fn status(State(view): State<Arc<View>>, headers: HeaderMap) -> Response {
    long_page(JSON, &headers, move || status::json(&view)).await
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
                ConnectionRefusal::Unknown(_) => StatusCode::NOT_FOUND,
                _ if refusal.is_of_a_missing_connection() => StatusCode::NOT_FOUND,
                _ if refusal.is_of_a_busy_process() => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            (code, format!("{refusal}\n")).into_response()
        }
    }
}

async fn last_minutes(
    State(view): State<Arc<View>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match history::wanted(query.as_deref()) {
        Some(most) => long_page(JSON, &headers, move || history::json(&view, most)).await,
        None => (StatusCode::BAD_REQUEST, history::BAD_QUERY).into_response(),
    }
}

async fn heaviest(State(view): State<Arc<View>>, uri: Uri) -> Response {
    match sources::wanted(uri.query()) {
        Some(top) => ([(header::CONTENT_TYPE, JSON)], sources::json(&view, top).await).into_response(),
        None => (StatusCode::BAD_REQUEST, "top is a number from 1 to 1000\n").into_response(),
    }
}

async fn most_frequent(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> Response {
    match top::wanted(query.as_deref()) {
        Some(most) => {
            let answer = view.top().await;
            page(JSON, move || top::json(answer, most)).await
        }
        None => (StatusCode::BAD_REQUEST, top::BAD_QUERY).into_response(),
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
                OverrideFault::Last(..) => StatusCode::PRECONDITION_FAILED,
                OverrideFault::Refused(OverrideRefusal::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
                OverrideFault::Refused(OverrideRefusal::NotWhole) => StatusCode::BAD_REQUEST,
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

/// Runs on a blocking thread, because a listener may have a million routes.
async fn all_routes(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> Response {
    match spawn_blocking(move || route_list::json(&view, query.as_deref())).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Ok(Err(refusal)) => {
            let is_unknown = matches!(refusal, route_list::RoutesRefusal::Listener(_));
            let code = if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
            (code, format!("{refusal}\n")).into_response()
        }
        Err(error) => unwritten(&error),
    }
}

async fn last_upgrade(State(view): State<Arc<View>>) -> Response {
    page(JSON, move || upgrade::json(&view)).await
}

/// Writes a page as [`page`] does, and compresses it on the same thread for clients that accept it. A thousand backends
/// are a megabyte of nearly equal lines, which the page for browsers reads every two seconds.
async fn long_page(
    kind: &'static str,
    headers: &HeaderMap,
    write: impl FnOnce() -> String + Send + 'static,
) -> Response {
    let takes_gzip = gzip::is_accepted(headers);
    let write = move || {
        let text = write();
        // A cache between this listener and its clients must not give the compressed form to a client that does not
        // accept it.
        let kind = [(header::CONTENT_TYPE, kind), (header::VARY, "accept-encoding")];
        match takes_gzip.then(|| gzip::compress(text.as_bytes())).flatten() {
            Some(bytes) => (kind, [(header::CONTENT_ENCODING, "gzip")], bytes).into_response(),
            None => (kind, text).into_response(),
        }
    };
    spawn_blocking(write).await.unwrap_or_else(|error| unwritten(&error))
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
async fn ready(State(view): State<Arc<View>>) -> (StatusCode, String) {
    let readiness = view.readiness();
    let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{readiness}\n"))
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn unknown() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("this path does not exist; the paths are\n{}", endpoints::text()))
}

#[allow(clippy::unused_async, reason = "a handler is asynchronous")]
async fn other_method() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method; most take only GET and HEAD\n")
}
