//! Pages of a server for the tests.

use serde_json::{Value, json};

use super::{ViewPage, ViewReply, json_page};

/// Answers each page.
pub(super) fn page(page: ViewPage) -> ViewReply {
    json_page(match page {
        ViewPage::Status => status(),
        ViewPage::History => history(),
        ViewPage::Connections => connections(),
        ViewPage::Sources => sources(),
        ViewPage::Top => top(),
        ViewPage::Connection => connection(),
    })
}

fn backend(name: &str, state: &str, active: u64) -> Value {
    let is_down = state == "down";
    json!({
        "name": name, "address": "10.0.0.1:443", "origin": "configuration", "weight": 1, "zone": null, "backup": false,
        "share": 1.0, "latency_seconds": if is_down { Value::Null } else { json!(0.00214) }, "state": state,
        "reason": is_down.then_some("checks failed: connection refused"), "since_seconds": 192,
        "connections": { "active": active, "waiting": active / 10, "limit": null, "total": 5000 + active },
        "checks": { "passed": 3, "failed": 1, "not_made": 0, "fault": null, "heard": is_down.then_some("503 busy") },
        "troubles": { "connects": 0, "early_resets": 0 }, "ejection": null, "agent": null,
    })
}

fn pool(name: &str, available: u64, backends: &[Value]) -> Value {
    json!({
        "name": name, "balance": "maglev", "panic": false, "available": available, "forward": null,
        "queue": { "waiting": 0, "length": null }, "backends": backends, "tiers": [], "discovery": [],
    })
}

/// A status with two problems, three pools and an override.
pub(super) fn status() -> Value {
    json!({
        "version": "0.3.0", "commit": "3f2a91c", "started": "2026-11-28T12:37:15Z", "uptime_seconds": 93_784,
        "life": "serving", "workers": 2, "connections": { "open": 1234, "limit": 65_536 },
        "problems": [
            {
                "kind": "pool", "name": "db", "text": "none of its 2 backends is available",
                "since": "2026-11-29T14:37:07.000Z", "command": "pointsman connections --pool db",
            },
            {
                "kind": "backend", "name": "db/db-1", "text": "down for 192 s, 0 connections open: checks failed: connection refused",
                "since": "2026-11-29T14:37:07.000Z", "command": "pointsman connections --pool db --backend db-1",
            },
        ],
        "listeners": [
            { "name": "tls", "protocol": "tls", "routes": 12, "addresses": ["0.0.0.0:443", "[::]:443"], "connections": { "open": 1200 } },
            { "name": "pg", "protocol": "postgres", "routes": 0, "addresses": ["0.0.0.0:5432"], "connections": { "open": 34 } },
        ],
        "pools": [
            pool("app", 3, &[backend("app-1", "up", 12), backend("app-2", "up", 470), backend("app-3", "draining", 8)]),
            pool("db", 0, &[backend("db-1", "down", 0), backend("db-2", "maintenance", 3)]),
            pool("web", 1, &[backend("web-1", "up", 741)]),
        ],
        "overrides": [
            {
                "kind": "state", "pool": "app", "backend": "app-3", "value": "drain", "since": "2026-11-29T14:00:00Z",
                "by": "unix uid=0 pid=4711", "ends_in_seconds": 7200, "open": 8, "waiting": 0,
            },
            {
                "kind": "leave", "pool": null, "backend": null, "value": "not ready", "since": "2026-11-28T14:00:00Z",
                "by": "192.0.2.7:4000 with the token", "ends_in_seconds": null, "open": 1234, "waiting": null,
            },
        ],
        "events": [
            { "time": "2026-11-29T14:37:07.250Z", "kind": "pool", "severity": "error", "text": "pool db has no backend left" },
            { "time": "2026-11-29T14:37:06.250Z", "kind": "backend", "severity": "warning", "text": "backend db/db-1 is down" },
            { "time": "2026-11-28T12:37:15.250Z", "kind": "process", "severity": "info", "text": "serving\nsince now" },
        ],
    })
}

/// Ten minutes in which the connections rise and fall, and some are refused at the end.
pub(super) fn history() -> Value {
    let series = |value: &dyn Fn(u64) -> u64| (0..600).map(value).collect::<Vec<_>>();
    let wave = |at: u64| if at % 300 < 150 { at % 300 } else { 300 - at % 300 };
    json!({
        "interval_seconds": 1, "end": "2026-11-29T14:40:19Z",
        "open": series(&|at| 1234 + wave(599) - wave(at) + at % 7),
        "accepted": series(&|at| 20 + at % 11),
        "from_client_bytes": series(&|at| 1000 * wave(at)),
        "from_backend_bytes": series(&|at| 70_000 * wave(at)),
        "ended": {
            "fin": series(&|at| 18 + at % 11), "client_reset": series(&|at| at % 2),
            "backend_reset": series(&|_| 0), "refused": series(&|at| u64::from(at > 500)),
        },
    })
}

pub(super) fn connections() -> Value {
    let row = |id: u64, backend: &str, sni: &str| {
        json!({
            "id": id, "client": "198.51.100.7:51234", "listener": "tls", "stage": "relaying", "pool": "app",
            "backend": backend, "sni": sni, "route": null, "age_seconds": 3725.5, "idle_seconds": 61.5,
            "from_client_bytes": 517, "from_backend_bytes": 5_242_880, "bytes_per_second": 2048,
        })
    };
    json!({
        "open": 1234, "matched": 1234, "cut": true, "silent_workers": 0,
        "connections": [row(4711, "app-1", "a.example.com"), row(4712, "app-2", "b.example.com"), row(4713, "app-2", "c.example.org")],
    })
}

pub(super) fn connection() -> Value {
    let mut row = connections()["connections"][0].clone();
    row["verdict"] = "the client does not read: its window was shut 83 % of the time".into();
    row["legs"] = json!({
        "client": { "local": "192.0.2.1:443", "peer": "198.51.100.7:51234", "blocked": true, "ended": false,
            "tcp": { "rtt_seconds": 0.0421, "retransmits": 3 }, "ss": "ss -tinmo 'x'", "tcpdump": "tcpdump -ni any 'y'" },
        "backend": { "local": null, "peer": null, "blocked": false, "ended": false, "tcp": null },
    });
    row
}

pub(super) fn sources() -> Value {
    json!({
        "open": 2, "connections": 1234, "known": 2, "limit": 16_384,
        "heaviest": [
            { "source": "198.51.100.7", "private_link": null, "listener": "tls", "open": 1200, "hellos": 3 },
            { "source": "2001:db8::", "private_link": null, "listener": null, "open": 34, "hellos": 0 },
        ],
    })
}

pub(super) fn top() -> Value {
    let counts = |rows: Value| json!({ "connections": 5000, "slots": 1000, "top": rows });
    json!({
        "since": "2026-11-29T12:00:00Z", "workers_silent": 1,
        "names": counts(json!([{ "name": "a.example.com", "connections": 4000, "error": 0 }, { "name": "b.example.com", "connections": 9, "error": 3 }])),
        "unknown_names": counts(json!([{ "name": "x.invalid", "connections": 17, "error": 0 }])),
        "sources": counts(json!([{ "name": "198.51.100.7", "connections": 4321, "error": 0 }])),
    })
}
