//! The endpoints of the listener: one list, of which the routes, the answer to an unknown path and the OpenAPI document
//! are made.

use std::fmt::{self, Write};

use EndpointName as Name;
use ParameterForm::{
    Address, Age, Bytes, Client, Duration, Network, Number, Percentage, Rate, SocketAddress, Text, Truth,
    Words,
};

/// The name of an endpoint in the code. Each has its handler in `http` and its answers in the OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointName {
    WebPage,
    Icon,
    Metrics,
    Health,
    Readiness,
    Access,
    Status,
    AllLists,
    OneList,
    AddEntry,
    RemoveEntry,
    History,
    Sources,
    Top,
    Routes,
    Config,
    AllOverrides,
    SetOverride,
    EndOverride,
    Rebalance,
    Reload,
    Explain,
    Connections,
    OneConnection,
    CloseConnection,
    CloseConnections,
    CancelOrders,
    Upgrade,
}

/// The method of an endpoint. A path with GET answers HEAD too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointMethod {
    Get,
    Post,
    Delete,
}

impl EndpointMethod {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// A path with one method.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: EndpointName,
    pub(super) method: EndpointMethod,
    /// The path, with its parameters in braces.
    pub(super) path: &'static str,
    /// The parameters of the query, in groups that other endpoints may have too.
    pub(super) query: &'static [&'static [QueryParameter]],
    /// The answer or the effect, in one line.
    pub(super) effect: &'static str,
}

impl Endpoint {
    /// Returns true if a request changes something.
    pub(super) fn is_change(&self) -> bool {
        self.method != EndpointMethod::Get
    }

    /// Returns the parameters of the query.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &'static QueryParameter> {
        self.query.iter().copied().flatten()
    }

    /// Returns the path as people write it, such as `/api/v1/lists/NAME`.
    pub(super) fn written_path(&self) -> String {
        let mut path = String::new();
        let mut rest = self.path;
        while let Some((before, after)) = rest.split_once('{') {
            let (parameter, after) = after.split_once('}').unwrap_or((after, ""));
            path += before;
            path += &parameter.to_ascii_uppercase();
            rest = after;
        }
        path + rest
    }
}

/// A parameter of a query.
#[derive(Debug)]
pub(super) struct QueryParameter {
    pub(super) name: &'static str,
    pub(super) form: ParameterForm,
    pub(super) is_required: bool,
    /// The meaning, in one line.
    pub(super) meaning: &'static str,
}

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParameterForm {
    /// A name or another text.
    Text,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number in these bounds.
    Number(u32, u32),
    /// `true` or `false`.
    Truth,
    /// An address.
    Address,
    /// An address or a network.
    Network,
    /// The address of a client, with or without a port, or `unix`.
    Client,
    /// An address and a port.
    SocketAddress,
    /// Bytes, each as two hexadecimal digits.
    Bytes,
    /// A duration such as `1h`, above 0.
    Duration,
    /// A duration, or 0.
    Age,
    /// A percentage such as `5%`.
    Percentage,
    /// A number of events in a time, such as `20/s`.
    Rate,
}

impl fmt::Display for ParameterForm {
    /// Writes an example, or the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "NAME",
            Self::Words(words) => return f.write_str(&words.join("|")),
            Self::Number(least, most) => return write!(f, "{least}..{most}"),
            Self::Truth => "true|false",
            Self::Address => "192.0.2.7",
            Self::Network => "192.0.2.0/24",
            Self::Client => "192.0.2.7|unix",
            Self::SocketAddress => "192.0.2.7:443",
            Self::Bytes => "160301",
            Self::Duration | Self::Age => "1h",
            Self::Percentage => "5%25",
            Self::Rate => "20/s",
        })
    }
}

const fn may(name: &'static str, form: ParameterForm, meaning: &'static str) -> QueryParameter {
    QueryParameter { name, form, is_required: false, meaning }
}

const fn must(name: &'static str, form: ParameterForm, meaning: &'static str) -> QueryParameter {
    QueryParameter { name, form, is_required: true, meaning }
}

const fn get(
    name: EndpointName,
    path: &'static str,
    query: &'static [&'static [QueryParameter]],
    effect: &'static str,
) -> Endpoint {
    Endpoint { name, method: EndpointMethod::Get, path, query, effect }
}

const fn post(
    name: EndpointName,
    path: &'static str,
    query: &'static [&'static [QueryParameter]],
    effect: &'static str,
) -> Endpoint {
    Endpoint { name, method: EndpointMethod::Post, path, query, effect }
}

const fn delete(
    name: EndpointName,
    path: &'static str,
    query: &'static [&'static [QueryParameter]],
    effect: &'static str,
) -> Endpoint {
    Endpoint { name, method: EndpointMethod::Delete, path, query, effect }
}

/// The filter of connections.
const FILTER: &[QueryParameter] = &[
    may("pool", Text, "only connections of this pool"),
    may("backend", Text, "only connections of this backend; also as POOL/BACKEND"),
    may("listener", Text, "only connections of this listener"),
    may("source", Network, "only connections of clients in this network"),
    may("sni", Text, "only connections with this server name; * matches any characters"),
    may(
        "stage",
        Words(&["reading", "queued", "dialing", "refusing", "relaying"]),
        "only connections in this stage",
    ),
    may("older", Age, "only connections that are open for longer"),
    may("idle", Age, "only connections without a byte for longer"),
];

/// The subject of an override.
const SUBJECT: &[QueryParameter] = &[
    may("pool", Text, "the pool, for state, weight and pause"),
    may("backend", Text, "the backend, for state and weight"),
    may("listener", Text, "the listener, for split"),
    may("route", Text, "the route, for split"),
];

/// The endpoints, in the order of the answer to an unknown path.
pub(super) const ENDPOINTS: [Endpoint; 28] = [
    get(Name::WebPage, "/", &[], "the page for browsers"),
    get(Name::Icon, "/favicon.ico", &[], "204, because the page has no icon"),
    get(Name::Metrics, "/metrics", &[], "metrics for Prometheus"),
    get(Name::Health, "/healthz", &[], "200 while the process runs"),
    get(Name::Readiness, "/ready", &[], "200 while it serves, 503 while it starts or stops"),
    get(Name::Access, "/api/v1/access", &[], "the right of this client to change something, as JSON"),
    get(Name::Status, "/api/v1/status", &[], "the configuration and the state, as JSON"),
    get(Name::AllLists, "/api/v1/lists", &[], "the lists of addresses, as JSON"),
    get(
        Name::OneList,
        "/api/v1/lists/{name}",
        &[&[may("address", Address, "instead of the list: the entries that contain this address")]],
        "one list with its added entries, as JSON",
    ),
    post(
        Name::AddEntry,
        "/api/v1/lists/{name}/{entry}",
        &[&[
            may("ttl", Duration, "the time after which the entry is removed"),
            may("force", Truth, "true for a network shorter than /8 (IPv6: /16)"),
        ]],
        "adds an address or a network to a list",
    ),
    delete(Name::RemoveEntry, "/api/v1/lists/{name}/{entry}", &[], "removes an added entry"),
    get(
        Name::History,
        "/api/v1/history",
        &[&[may("seconds", Number(1, 600), "only the last seconds")]],
        "the connections and bytes of each of the last 600 seconds, as JSON",
    ),
    get(
        Name::Sources,
        "/api/v1/sources",
        &[&[may("top", Number(1, 1000), "the number of sources, by default 10")]],
        "the sources with the most open connections, as JSON",
    ),
    get(
        Name::Top,
        "/api/v1/top",
        &[&[may("top", Number(1, 1000), "the number of names and of sources, by default 20")]],
        "the server names and sources with the most new connections, as JSON",
    ),
    get(
        Name::Routes,
        "/api/v1/routes",
        &[&[
            may("listener", Text, "only routes of this listener"),
            may("unused", Age, "only routes without a connection for this time"),
            may("limit", Number(1, 10_000), "the most rows, by default 1000"),
        ]],
        "the routes with the time of their last use, as JSON",
    ),
    get(
        Name::Config,
        "/api/v1/config",
        &[&[
            may("prefix", Text, "only keys below this one, such as pool.db"),
            may("all", Truth, "true adds the defaults of the keys that are not written"),
        ]],
        "the keys in force and the origins of their values, as JSON",
    ),
    get(Name::AllOverrides, "/api/v1/overrides", &[], "the changes that operators made at run time, as JSON"),
    post(
        Name::SetOverride,
        "/api/v1/overrides/{kind}",
        &[
            SUBJECT,
            &[
                may(
                    "value",
                    Text,
                    "the state, the weight, the shares or the level; none for pause and leave",
                ),
                may("for", Duration, "the time after which the override ends; pause needs it"),
                may("force", Truth, "true takes the last backend of a pool out of use too"),
            ],
        ],
        "sets an override: state, weight, pause, split, leave or log",
    ),
    delete(Name::EndOverride, "/api/v1/overrides/{kind}", &[SUBJECT], "ends an override"),
    post(
        Name::Rebalance,
        "/api/v1/rebalance",
        &[&[
            must("pool", Text, "the pool"),
            may("rate", Rate, "the pace, by default 20/s"),
            may(
                "most",
                Percentage,
                "the largest part of the connections that may be closed, by default 10%25",
            ),
            may("dry_run", Truth, "true only counts"),
        ]],
        "closes the connections of a pool that would go to another backend now",
    ),
    post(
        Name::Reload,
        "/api/v1/reload",
        &[&[
            may("max_moved", Percentage, "refuses a file that moves more keys of a pool"),
            may("reset", Truth, "true ends all overrides"),
        ]],
        "reads the configuration file again",
    ),
    get(
        Name::Explain,
        "/api/v1/explain",
        &[&[
            must("listener", Text, "the listener"),
            must("source", Client, "the address of the client"),
            may("sni", Text, "the server name in the hello"),
            may("alpn", Text, "the protocols that the hello offers, separated by commas"),
            may("destination", SocketAddress, "the address that the client connects to"),
            may("hello", Bytes, "instead of sni and alpn: the bytes of a captured hello"),
            may("request", Text, "the host and the port that the client requests by SOCKS or CONNECT"),
        ]],
        "the way of a connection and its reasons, as JSON",
    ),
    get(
        Name::Connections,
        "/api/v1/connections",
        &[
            FILTER,
            &[
                may("sort", Words(&["age", "bytes", "rate", "idle"]), "the order, by default age"),
                may("limit", Number(1, 1000), "the most rows, by default 100"),
            ],
        ],
        "open connections, as JSON",
    ),
    get(Name::OneConnection, "/api/v1/connections/{id}", &[], "one connection with its sockets, as JSON"),
    delete(Name::CloseConnection, "/api/v1/connections/{id}", &[], "closes a connection"),
    post(
        Name::CloseConnections,
        "/api/v1/connections/close",
        &[
            FILTER,
            &[may("rate", Rate, "the pace, by default 20/s"), may("dry_run", Truth, "true only counts")],
        ],
        "closes the connections of a filter one after the other; a filter is required",
    ),
    delete(Name::CancelOrders, "/api/v1/connections/close", &[], "cancels the orders to close connections"),
    get(Name::Upgrade, "/api/v1/upgrade", &[], "the last hand-over to or from another program, as JSON"),
];

/// Returns the list for people: a line for each endpoint, and a line for each of its parameters.
pub(super) fn text() -> String {
    let mut text = String::new();
    for endpoint in &ENDPOINTS {
        let request = format!("{} {}", endpoint.method.word(), endpoint.written_path());
        // A write to a string cannot fail.
        let _ = writeln!(text, "{request:<36} {}", endpoint.effect);
        for QueryParameter { name, form, is_required, meaning } in endpoint.parameters() {
            let required = if *is_required { " (required)" } else { "" };
            let _ = writeln!(text, "    {:<32} {meaning}{required}", format!("{name}={form}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::live::{ConnectionSort, OpenStage};

    #[test]
    fn each_path_is_documented() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/admin-api.md");
        let page = std::fs::read_to_string(page).unwrap();
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name != Name::Icon) {
            let request = format!("{} {}", endpoint.method.word(), endpoint.written_path());
            let row = page.lines().find(|line| line.starts_with(&format!("| `{request}` | ")));
            assert!(row.is_some(), "{request}");
        }
    }

    #[test]
    fn names_and_requests_are_unique() {
        let mut requests: Vec<_> =
            ENDPOINTS.iter().map(|endpoint| (endpoint.path, endpoint.method.word())).collect();
        requests.sort_unstable();
        requests.dedup();
        assert_eq!(requests.len(), ENDPOINTS.len());
        for endpoint in &ENDPOINTS {
            let same = ENDPOINTS.iter().filter(|other| other.name == endpoint.name).count();
            assert_eq!(same, 1, "{:?}", endpoint.name);
            let names: BTreeSet<_> = endpoint.parameters().map(|parameter| parameter.name).collect();
            assert_eq!(names.len(), endpoint.parameters().count(), "{:?}", endpoint.name);
        }
    }

    #[test]
    fn words_are_those_of_the_code() {
        let words = |parameter: &str| {
            let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == Name::Connections).unwrap();
            match endpoint.parameters().find(|found| found.name == parameter).unwrap().form {
                Words(words) => words,
                form => panic!("{parameter}: {form:?}"),
            }
        };
        assert_eq!(words("stage"), OpenStage::ALL.map(OpenStage::word));
        assert_eq!(words("sort"), ConnectionSort::ALL.map(ConnectionSort::word));
    }

    #[test]
    fn the_text_has_paths_and_parameters() {
        let text = text();
        for line in [
            "GET /api/v1/lists/NAME               one list with its added entries, as JSON\n",
            "POST /api/v1/lists/NAME/ENTRY        adds an address or a network to a list\n",
            "    ttl=1h                           the time after which the entry is removed\n",
            "    listener=NAME                    the listener (required)\n",
            "    top=1..1000                      the number of sources, by default 10\n",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
    }
}
