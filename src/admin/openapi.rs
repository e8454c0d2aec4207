//! The OpenAPI document of the API: `docs/reference/openapi.json`. It is made of the list of endpoints and of the structs
//! of the pages. Only tests make it, so the program contains no library for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::access::AccessPage;
use super::config::ConfigPage;
use super::connections::{CancelPage, ClosedPage, DetailsPage, ListPage, OrderPage};
use super::endpoints::{ENDPOINTS, Endpoint, EndpointName as Name, ParameterForm, QueryParameter};
use super::history::HistoryPage;
use super::list_api::{ListChange, ListStatus, MembershipAnswer, WithAdditions};
use super::overrides::{OverrideResult, OverrideStatus};
use super::rebalance::RebalancePage;
use super::reload::ReloadResult;
use super::route_list::RoutesPage;
use super::sources::Sources;
use super::status::Status;
use super::top::TopPage;
use super::upgrade::UpgradeStatus;
use crate::balance::Algorithm;
use crate::conn::explain::Explanation;
use crate::live::OpenStage;
use crate::pool::{BackendState, Trouble};
use crate::server::OverrideKind;

const FILE: &str = "docs/reference/openapi.json";

const ABOUT: &str = "The HTTP interface of pointsman for metrics, status and changes. New fields may be added to answers; the \
    existing ones do not change. docs/reference/admin-api.md describes the interface for people.\n\nEach connection has one \
    request. GET works as HEAD too. A path that does not exist is answered with 404, and a method that a path does not take \
    with 405. A refusal is a text that says what is wrong. No request has content; a parameter that an endpoint does not \
    have is refused with 400, except where an endpoint has no parameters at all.\n\nThe host of `servers` is the default \
    address. On the Unix socket of `admin.listen` the paths are the same, and changes need no token.";

const TOKEN: &str = "The token of `admin.token_file`. By default, if the file is set, each request needs it; with `token_for = \
    \"changes\"` only changes do. Without the file, changes are possible only over a Unix socket, whose permissions say who \
    may connect, or with `open_changes` on a loopback address.";

/// Fields whose words are a closed set: the schema, the field, the words.
fn word_fields() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let stages = OpenStage::ALL.map(OpenStage::word).to_vec();
    let kinds = OverrideKind::ALL.map(OverrideKind::word).to_vec();
    let states = BackendState::ALL.map(BackendState::word).to_vec();
    let balancers = Algorithm::ALL.map(Algorithm::word).to_vec();
    vec![
        ("AccessPage", "needs", vec!["token", "unix_socket"]),
        ("BackendReport", "state", states.clone()),
        ("BackendStatus", "origin", vec!["configuration", "host_name", "discovery"]),
        ("BackendStatus", "state", states),
        ("ClosedPage", "result", vec!["closed"]),
        ("EjectionStatus", "trouble", Trouble::ALL.map(Trouble::word).to_vec()),
        ("EventStatus", "severity", vec!["info", "warning", "error"]),
        ("ForwardStatus", "to", vec!["sni", "requested"]),
        ("ForwardStatus", "mode", vec!["enforce", "report"]),
        ("ListChange", "result", vec!["added", "extended", "removed", "absent"]),
        (
            "ListenerStatus",
            "protocol",
            vec!["tcp", "tls", "postgres", "auto", "smtp", "imap", "pop3", "socks5", "connect"],
        ),
        ("ListenerStatus", "proxy_protocol", vec!["require", "accept", "shadow"]),
        ("MembershipReason", "part", vec!["entries", "file", "added"]),
        ("OtherRoute", "reason", vec!["name", "conditions", "wider_conditions", "wider_name"]),
        ("OverrideResult", "kind", kinds.clone()),
        ("OverrideResult", "result", vec!["set", "replaced", "ended", "absent"]),
        ("OverrideStatus", "kind", kinds),
        ("PoolReport", "balance", balancers.clone()),
        ("PoolStatus", "balance", balancers),
        ("PoolStatus", "proxy_protocol", vec!["v1", "v2"]),
        ("ReloadResult", "result", vec!["ok", "running"]),
        ("ReloadStatus", "result", vec!["ok", "failed"]),
        ("RouteStatus", "action", vec!["pool", "split", "reject", "drop"]),
        ("RouteReport", "by", vec!["exact", "child", "below", "regex", "any", "no_sni", "unmatched", "pool"]),
        ("RouteReport", "action", vec!["pool", "split", "reject", "drop"]),
        ("RowPage", "stage", stages),
        ("SaturationStatus", "scope", vec!["process", "listener", "pool"]),
        ("SendsReport", "proxy_protocol", vec!["v1", "v2"]),
        ("SendsReport", "greeting", vec!["postgres", "starttls"]),
        ("StandingStatus", "kind", vec!["restart", "list", "near", "routes"]),
        ("Status", "life", vec!["starting", "serving", "draining"]),
        ("UpgradeStatus", "result", vec!["ok", "failed"]),
        ("UpgradeStatus", "role", vec!["incumbent", "successor"]),
    ]
}

/// Returns the refusals of an endpoint beyond those that any endpoint has.
fn refusals(name: Name) -> &'static [u16] {
    match name {
        Name::WebPage
        | Name::Icon
        | Name::Metrics
        | Name::Health
        | Name::Access
        | Name::Status
        | Name::AllLists
        | Name::AllOverrides
        | Name::Upgrade
        | Name::CancelOrders => &[],
        Name::Readiness => &[503],
        Name::History | Name::Sources | Name::Top => &[400],
        Name::Routes | Name::Config => &[400, 404],
        Name::OneList | Name::RemoveEntry | Name::Explain | Name::Connections => &[400, 404],
        Name::AddEntry => &[400, 404, 409],
        Name::SetOverride => &[400, 404, 409, 412, 503],
        Name::EndOverride => &[400, 404, 409, 503],
        Name::Rebalance => &[400, 404, 409, 412],
        Name::Reload => &[400, 409, 412, 422, 503],
        Name::OneConnection | Name::CloseConnection => &[400, 404, 503],
        Name::CloseConnections => &[400, 404, 409],
    }
}

/// Returns the meaning of a refusal.
fn meaning(code: u16) -> &'static str {
    match code {
        400 => "The request has content, or its path or query is wrong.",
        401 => "The request needs the token.",
        403 => "A browser marks the request as sent by a page of another site.",
        404 => "The named thing does not exist.",
        405 => "The path does not take this method.",
        408 => "The request was not complete, or its answer not ready, within 10 s.",
        409 => "The request is right, and cannot be carried out now.",
        412 => {
            "More keys or connections would move than the request allows, or the backend is the last of its pool."
        }
        415 => "The request has a content type other than `application/json`.",
        421 => "The header Host has a name that is not configured.",
        422 => "The configuration file has faults.",
        431 => "The request is larger than 16 KiB.",
        500 => "The page could not be written, or the token could not be read; the log has the reason.",
        503 => "The process starts, stops or leaves, is overloaded, or a worker did not answer in time.",
        _ => panic!("no meaning of {code}"),
    }
}

/// The schemas of all pages, by name.
#[derive(Default)]
struct SchemaTable(BTreeMap<String, Value>);

impl SchemaTable {
    /// Adds the schema of a page and of its parts. Returns a reference to it.
    fn add<T: ToSchema>(&mut self) -> Value {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            let mut schema = serde_json::to_value(schema).unwrap();
            require_all(&mut schema);
            if let Some(other) = self.0.insert(name.clone(), schema.clone()) {
                assert_eq!(other, schema, "two structs are named {name}");
            }
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }

    /// Returns the schemas, with the words of fields whose words are a closed set.
    fn with_words(mut self) -> BTreeMap<String, Value> {
        for (schema, field, mut words) in word_fields() {
            words.sort_unstable();
            let found = self.0.get_mut(schema).unwrap_or_else(|| panic!("no schema {schema}"));
            let field = &mut found["properties"][field];
            let mut words: Vec<_> = words.into_iter().map(Value::from).collect();
            match &field["type"] {
                Value::String(kind) if kind == "string" => {}
                kind if *kind == json!(["string", "null"]) => words.push(Value::Null),
                kind => panic!("{schema} has {kind}"),
            }
            field["enum"] = words.into();
        }
        self.0
    }
}

/// Makes all fields of an object required: a page leaves none out, and writes null instead.
fn require_all(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(require_all);
            if let Some(Value::Object(fields)) = object.get("properties") {
                let names: Vec<_> = fields.keys().cloned().collect();
                object.insert("required".to_owned(), names.into());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(require_all),
        _ => {}
    }
}

/// Returns the answers of an endpoint that are no refusals, with their codes.
fn answers(name: Name, table: &mut SchemaTable) -> Vec<(u16, &'static str, Value)> {
    let text = || json!({ "text/plain": { "schema": { "type": "string" } } });
    let page = |schema: Value| json!({ "application/json": { "schema": schema } });
    let list = |schema: Value| page(json!({ "type": "array", "items": schema }));
    let content = match name {
        Name::WebPage => json!({ "text/html": { "schema": { "type": "string" } } }),
        Name::Icon => return vec![(204, "There is no icon.", Value::Null)],
        Name::Metrics | Name::Health | Name::Readiness => text(),
        Name::Access => page(table.add::<AccessPage>()),
        Name::Status => page(table.add::<Status<'_>>()),
        Name::AllLists => list(table.add::<ListStatus<'_>>()),
        Name::OneList => {
            let either = [table.add::<WithAdditions<'_>>(), table.add::<MembershipAnswer<'_>>()];
            page(json!({ "oneOf": either }))
        }
        Name::AddEntry | Name::RemoveEntry => page(table.add::<ListChange<'_>>()),
        Name::History => page(table.add::<HistoryPage>()),
        Name::Sources => page(table.add::<Sources<'_>>()),
        Name::Top => page(table.add::<TopPage>()),
        Name::Routes => page(table.add::<RoutesPage<'_>>()),
        Name::Config => page(table.add::<ConfigPage>()),
        Name::AllOverrides => list(table.add::<OverrideStatus>()),
        Name::SetOverride | Name::EndOverride => page(table.add::<OverrideResult>()),
        Name::Rebalance => page(table.add::<RebalancePage>()),
        Name::Reload => {
            let result = page(table.add::<ReloadResult>());
            return vec![
                (200, "The file is in force.", result.clone()),
                (202, "The reload goes on; the status has its result later.", result),
            ];
        }
        Name::Explain => page(table.add::<Explanation>()),
        Name::Connections => page(table.add::<ListPage>()),
        Name::OneConnection => page(table.add::<DetailsPage>()),
        Name::CloseConnection => page(table.add::<ClosedPage>()),
        Name::CloseConnections => page(table.add::<OrderPage>()),
        Name::CancelOrders => page(table.add::<CancelPage>()),
        Name::Upgrade => page(json!({ "oneOf": [table.add::<UpgradeStatus>(), { "type": "null" }] })),
    };
    vec![(200, "The answer.", content)]
}

/// A number from 0 to 255.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

/// Returns the schema of a value in a path or a query. A pattern may forbid rare forms that the program accepts.
fn form(form: ParameterForm) -> Value {
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let address = || json!([{ "type": "string", "format": "ipv4" }, { "type": "string", "format": "ipv6" }]);
    let also = |more: Value| {
        let mut any = address();
        any.as_array_mut().unwrap().push(more);
        json!({ "anyOf": any })
    };
    match form {
        ParameterForm::Text => json!({ "type": "string" }),
        ParameterForm::Words(words) => json!({ "type": "string", "enum": words }),
        ParameterForm::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        ParameterForm::Truth => json!({ "type": "boolean" }),
        ParameterForm::Address => json!({ "anyOf": address() }),
        ParameterForm::Network => also(json!({ "type": "string", "format": "network" })),
        ParameterForm::Client => also(json!({ "type": "string", "const": "unix" })),
        ParameterForm::SocketAddress => pattern(&format!(r"^({OCTET}\.){{3}}{OCTET}:[1-9][0-9]{{0,3}}$")),
        ParameterForm::Bytes => pattern("^([0-9a-f]{2})+$"),
        ParameterForm::Duration => pattern("^([1-9][0-9]{0,2}(ms|s|m|h|hours?)|[1-9][0-9]?(d|days?))$"),
        ParameterForm::Age => pattern("^(0|[0-9]{1,3}(ms|s|m|h|hours?|d|days?))$"),
        ParameterForm::Percentage => pattern(r"^(100|[1-9]?[0-9](\.[0-9]{1,3})?)%?$"),
        ParameterForm::Rate => pattern("^[1-9][0-9]{0,4}/[smh]$"),
    }
}

/// Returns the parameters of an endpoint, first those of the path.
fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let mut parameters = Vec::new();
    for part in endpoint.path.split('{').skip(1) {
        let name = part.split('}').next().unwrap();
        let (schema, meaning) = match name {
            "name" => (json!({ "type": "string", "minLength": 1 }), "the name of the list"),
            "entry" => (form(ParameterForm::Network), "the address or network"),
            "id" => {
                (json!({ "type": "integer", "format": "int64", "minimum": 0 }), "the id of the connection")
            }
            "kind" => {
                let kinds = OverrideKind::ALL.map(OverrideKind::word);
                (json!({ "type": "string", "enum": kinds }), "the kind of the override")
            }
            _ => panic!("no parameter {name}"),
        };
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": meaning, "schema": schema,
        }));
    }
    let query = endpoint.parameters().map(|QueryParameter { name, form: value, is_required, meaning }| {
        let meaning = meaning.replace("%25", "%");
        json!({
            "name": name, "in": "query", "required": is_required, "description": meaning, "schema": form(*value),
        })
    });
    parameters.extend(query);
    parameters
}

/// Returns the codes of the refusals that an endpoint can have.
fn codes(endpoint: &Endpoint) -> Vec<u16> {
    let is_page = matches!(endpoint.name, Name::WebPage | Name::Icon);
    let mut codes = vec![408, 421, 431];
    codes.extend(if is_page { &[][..] } else { &[401, 403, 500] });
    codes.extend(if endpoint.is_change() { &[400, 415][..] } else { &[] });
    codes.extend(refusals(endpoint.name));
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Returns the description of an endpoint.
fn operation(endpoint: &Endpoint, table: &mut SchemaTable) -> Value {
    let mut responses = Map::new();
    for (code, description, content) in answers(endpoint.name, table) {
        let mut answer = json!({ "description": description });
        if !content.is_null() {
            answer["content"] = content;
        }
        responses.insert(code.to_string(), answer);
    }
    for code in codes(endpoint) {
        responses.insert(code.to_string(), json!({ "$ref": format!("#/components/responses/{code}") }));
    }
    let id = format!("{:?}", endpoint.name);
    let security = match endpoint.name {
        Name::WebPage | Name::Icon => json!([]),
        _ if endpoint.is_change() => json!([{ "token": [] }]),
        _ => json!([{}, { "token": [] }]),
    };
    json!({
        "operationId": id[..1].to_lowercase() + &id[1..],
        "summary": endpoint.effect,
        "parameters": parameters(endpoint),
        "responses": responses,
        "security": security,
    })
}

/// Returns the whole document.
fn document() -> Value {
    let (mut paths, mut table) = (Map::new(), SchemaTable::default());
    for endpoint in &ENDPOINTS {
        let method = endpoint.method.word().to_lowercase();
        paths.entry(endpoint.path).or_insert_with(|| json!({}))[method] = operation(endpoint, &mut table);
    }
    let all = [400, 401, 403, 404, 405, 408, 409, 412, 415, 421, 422, 431, 500, 503];
    let refusal = |code: u16| {
        let content = json!({ "text/plain": { "schema": { "type": "string" } } });
        let mut refusal = json!({ "description": meaning(code), "content": content });
        if code == 401 {
            let schema = json!({ "type": "string", "const": "Bearer" });
            refusal["headers"] = json!({ "WWW-Authenticate": { "required": true, "schema": schema } });
        }
        (code.to_string(), refusal)
    };
    let refusals: Map<String, Value> = all.map(refusal).into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "pointsman admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:10190" }],
        "paths": paths,
        "components": {
            "responses": refusals,
            "schemas": table.with_words(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": TOKEN } },
        },
    })
}

#[test]
fn the_committed_document_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let current = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "{FILE} is not current; run: UPDATE=1 cargo test --lib openapi");
}

#[test]
fn each_reference_leads_to_a_part() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let (document, mut found) = (document(), Vec::new());
    references(&document, &mut found);
    assert!(found.len() > 100, "only {} references", found.len());
    for reference in found {
        let target = document.pointer(reference.trim_start_matches('#'));
        assert!(target.is_some_and(Value::is_object), "{reference}");
    }
}
