//! Tests of the comparison on pages as nodes send them.

use serde_json::{Value, json};

use super::compare::Comparison;
use super::node::{Fleet, Node, NodeFault};
use super::page;
use super::show;

mod texts;

/// Returns a node whose pages are those of all other nodes.
fn node(name: &str) -> Node {
    let backend = |name: &str, address: &str| json!({ "name": name, "address": address, "weight": 1, "zone": null, "backup": false, "state": "up" });
    let key =
        |key: &str, value: Value| json!({ "key": key, "value": value, "hidden": false, "origin": "file" });
    Node {
        name: name.to_owned(),
        status: json!({
            "version": "1.2.3", "commit": "3f2a91c", "host": format!("host-{name}"), "life": "serving",
            "config": { "last_reload": null }, "problems": [], "overrides": [],
            "listeners": [{ "name": "tls", "protocol": "tls" }],
            "pools": [{
                "name": "db", "balance": "maglev", "digest": "0a", "near": null, "tiers": [{ "zone": "*", "backup": false }],
                "backends": [backend("b1", "10.0.0.1:1"), backend("b2", "10.0.0.2:1")],
            }],
        }),
        routes: json!({ "total": 1, "cut": false, "routes": [
            { "listener": "tls", "route": "a.example", "action": "pool", "pool": "db", "split": null },
        ] }),
        config: json!({ "left_out": 0, "keys": [
            key("listener.tls.bind", ":443".into()),
            key("listener.tls.routes[0].sni", "a.example".into()),
            key("listener.tls.routes[0].pool", "db".into()),
            key("log.level", format!("level of {name}").into()),
            key("pool.db.backends[0]", format!("backend of {name}").into()),
            key("pool.db.hash_on", "source".into()),
        ] }),
        faults: Vec::new(),
    }
}

/// Returns nodes whose pages were read: a key that is compared must be kept.
fn fleet(mut nodes: Vec<Node>) -> Fleet {
    for node in &mut nodes {
        for read in [&mut node.status, &mut node.routes, &mut node.config] {
            *read = page::parse(&read.to_string()).unwrap();
        }
    }
    Fleet { nodes, faults: Vec::new() }
}

/// Compares the nodes a, b and c, of which c is changed.
fn compared(change: impl FnOnce(&mut Node)) -> Comparison {
    let mut nodes = ["a", "b", "c"].map(node).to_vec();
    change(&mut nodes[2]);
    Comparison::of(&fleet(nodes))
}

/// Checks the differences as lines `subject | value at nodes | ... | effect`. Each expected text is a part of its line.
#[track_caller]
fn check(change: impl FnOnce(&mut Node), expected: &[&[&str]]) {
    check_differences(&compared(change), expected);
}

/// Checks the differences of nodes.
#[track_caller]
fn check_nodes(nodes: Vec<Node>, expected: &[&[&str]]) {
    check_differences(&Comparison::of(&fleet(nodes)), expected);
}

#[track_caller]
fn check_differences(comparison: &Comparison, expected: &[&[&str]]) {
    let lines: Vec<_> = comparison
        .differences
        .iter()
        .map(|one| {
            let values =
                one.values.iter().map(|group| format!("{} at {}", group.value, group.nodes.join(" ")));
            format!("{} | {} | {}", one.subject, values.collect::<Vec<_>>().join(" | "), one.effect)
        })
        .collect();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, parts) in lines.iter().zip(expected) {
        for part in *parts {
            assert!(line.contains(part), "no {part:?} in {line:?}");
        }
    }
}

fn set(value: &mut Value, pointer: &str, new: impl Into<Value>) {
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = new.into();
}

#[test]
fn equal_nodes_agree() {
    let fleet = fleet(["a", "b", "c"].map(node).to_vec());
    let comparison = Comparison::of(&fleet);
    assert_eq!(comparison, Comparison::default());
    assert!(comparison.agrees(&fleet));
    let text = show::text(&fleet, &comparison);
    assert!(
        text.contains("the 3 nodes that answered agree: 1 listener, 1 route, 1 pool, 2 backends"),
        "{text}"
    );
}

#[test]
fn versions_and_lives_differ() {
    check(
        |node| set(&mut node.status, "/version", "1.3.0"),
        &[&[
            "version | 1.2.3 (3f2a91c) at a b | 1.3.0 (3f2a91c) at c | the hash tables of all versions are the same",
        ]],
    );
    check(
        |node| set(&mut node.status, "/life", "draining"),
        &[&["state of the process | serving at a b | draining at c"]],
    );
}

#[test]
fn a_weight_explains_another_table() {
    check(
        |node| {
            set(&mut node.status, "/pools/0/digest", "0b");
            set(&mut node.status, "/pools/0/backends/1/weight", 5);
        },
        &[
            &[
                "pool db: hash table | 0a at a b | 0b at c | clients of pool db reach other backends through c",
                "the differences of its backends below are the cause",
            ],
            &["pool db, backend b2: weight | 1 at a b | 5 at c"],
        ],
    );
}

#[test]
fn a_missing_backend_is_named() {
    check(
        |node| {
            node.status["pools"][0]["backends"].as_array_mut().unwrap().remove(0);
            set(&mut node.status, "/pools/0/digest", "0b");
        },
        &[
            &["below are the cause"],
            &["pool db, backend b1 | present at a b | missing at c", "has other backends at c"],
        ],
    );
}

#[test]
fn many_backends_are_one_difference() {
    let backends: Vec<_> = (0..9).map(|number| json!({ "name": format!("n{number}") })).collect();
    check(
        |node| node.status["pools"][0]["backends"].as_array_mut().unwrap().extend(backends),
        &[&["pool db, backends n0, n1, n2, n3, n4 and 4 more | missing at a b | present at c"]],
    );
}

#[test]
fn another_key_or_zone_explains_another_table() {
    let digest = |node: &mut Node| set(&mut node.status, "/pools/0/digest", "0b");
    check(digest, &[&["another `hash_key` is the cause"]]);
    check(
        |node| {
            digest(node);
            set(&mut node.status, "/pools/0/tiers/0/zone", "east");
        },
        &[&["the order of zones below is the cause"], &["pool db: order of zones | * at a b | east at c"]],
    );
    // The address is not in the table, and does not explain another one.
    check(
        |node| {
            digest(node);
            set(&mut node.status, "/pools/0/backends/0/address", "10.9.9.9:1");
        },
        &[
            &["another `hash_key` is the cause"],
            &["backend b1: address", "one name leads to different servers"],
        ],
    );
}

#[test]
fn another_order_of_zones_by_distance_is_named() {
    let near = |digest: &str| json!({ "database": "places.mmdb", "ranges": 7, "digest": digest });
    let mut nodes = ["a", "b", "c"].map(node).to_vec();
    for (digest, node) in ["0a", "0a", "0b"].iter().zip(&mut nodes) {
        set(&mut node.status, "/pools/0/near", near(digest));
    }
    check_nodes(
        nodes.clone(),
        &[&[
            "pool db: order of zones by distance | 0a at a b | 0b at c",
            "clients get other zones first through c; the databases or the sites of `near` differ",
        ]],
    );
    nodes.remove(0);
    check_nodes(nodes, &[&["a client gets other zones first, depending on the node; the databases"]]);
    check(
        |node| set(&mut node.status, "/pools/0/near", near("0a")),
        &[&["order of zones by distance | none at a b | 0a at c"]],
    );
}

#[test]
fn health_and_balancers_differ() {
    check(
        |node| set(&mut node.status, "/pools/0/backends/0/state", "down"),
        &[&["backend b1: state | up at a b | down at c", "may reach another backend through c"]],
    );
    check(
        |node| {
            set(&mut node.status, "/pools/0/balance", "random-two");
            set(&mut node.status, "/pools/0/digest", Value::Null);
        },
        &[&["pool db: balancer | maglev at a b | random-two at c"]],
    );
}

fn set_override(kind: &str, pool: Value, backend: Value, value: &str) -> Value {
    json!([{
        "kind": kind, "pool": pool, "backend": backend, "listener": null, "route": null, "value": value,
        "since": "2026-01-02T03:04:05.678Z", "by": "unix uid=0", "ends_in_seconds": 7200,
    }])
}

#[test]
fn an_override_explains_a_state_and_a_weight() {
    check(
        |node| {
            node.status["overrides"] = set_override("state", "db".into(), "b1".into(), "drain");
            set(&mut node.status, "/pools/0/backends/0/state", "drain");
        },
        &[&[
            "override state of pool db, backend b1 | none at a b | ",
            "drain (by unix uid=0 since 2026-01-02 03:04:05, ends in 2h) at c",
            "an operator set this at run time: through c, new clients of the backend are not those of the configuration",
        ]],
    );
    check(
        |node| {
            node.status["overrides"] = set_override("weight", "db".into(), "b2".into(), "9");
            set(&mut node.status, "/pools/0/backends/1/weight", 9);
            set(&mut node.status, "/pools/0/digest", "0b");
        },
        &[&["override weight of pool db, backend b2"], &["the override of a weight above is the cause"]],
    );
    check(
        |node| node.status["overrides"] = set_override("leave", Value::Null, Value::Null, "not ready"),
        &[&["override leave | none at a b | not ready", "/ready answers 503", "no new clients to c"]],
    );
}

#[test]
fn an_override_of_all_nodes_is_no_difference() {
    let mut nodes = ["a", "b"].map(node).to_vec();
    for (seconds, node) in (1..).zip(&mut nodes) {
        node.status["overrides"] = set_override("state", "db".into(), "b1".into(), "drain");
        node.status["overrides"][0]["ends_in_seconds"] = seconds.into();
    }
    assert_eq!(Comparison::of(&fleet(nodes)), Comparison::default());
}

#[test]
fn listeners_routes_and_pools_may_be_missing() {
    // The routes and keys of a missing listener are no differences of their own.
    check(
        |node| {
            node.status["listeners"] = json!([]);
            node.routes["routes"] = json!([]);
            node.config["keys"]
                .as_array_mut()
                .unwrap()
                .retain(|key| !key["key"].as_str().unwrap().starts_with("listener"));
        },
        &[&["listener tls | present at a b | missing at c | clients of this listener are refused at c"]],
    );
    check(
        |node| {
            node.status["pools"] = json!([]);
            node.config["keys"]
                .as_array_mut()
                .unwrap()
                .retain(|key| !key["key"].as_str().unwrap().starts_with("pool"));
        },
        &[&["pool db | present at a b | missing at c | no route of c leads to this pool"]],
    );
    check(
        |node| node.routes["routes"] = json!([]),
        &[&["listener tls, route a.example | pool db at a b | no such route at c"]],
    );
    check(
        |node| set(&mut node.routes, "/routes/0/pool", "other"),
        &[&["pool db at a b | pool other at c | its clients reach another pool, or none, through c"]],
    );
}

#[test]
fn keys_differ_unless_they_concern_one_node() {
    let key = |index: usize| format!("/keys/{index}/value");
    check(
        |node| set(&mut node.config, &key(5), "sni"),
        &[&["key pool.db.hash_on | \"source\" at a b | \"sni\" at c"]],
    );
    check(
        |node| _ = node.config["keys"].as_array_mut().unwrap().pop(),
        &[&["key pool.db.hash_on | \"source\" at a b | not written at c"]],
    );
    check(|node| set(&mut node.config, &key(0), "10.0.0.3:443"), &[]);
    check(
        |node| set(&mut node.config, &key(0), "10.0.0.3:444"),
        &[&["key listener.tls.bind | port 443 at a b | port 444 at c"]],
    );
    check(
        |node| set(&mut node.config, &key(1), "b.example"),
        &[&[
            "keys listener.tls.routes",
            "pool = \"db\", sni = \"b.example\" at c",
            "conditions or shares at c",
        ]],
    );
    check(|node| node.config["keys"][5]["hidden"] = true.into(), &[&["not shown at c"]]);
}

#[test]
fn a_name_with_dots_is_no_table_of_another_name() {
    let key = |key: &str, value: Value| json!({ "key": key, "value": value, "origin": "file" });
    let pool = |name: &str| json!({ "name": name, "balance": "maglev", "digest": "0a", "tiers": [], "backends": [] });
    let with_pools = |name: &str, pools: &[&str], limit: u64| {
        let mut node = node(name);
        node.status["pools"] = pools.iter().map(|name| pool(name)).collect();
        node.config["keys"] = json!([key("pool.a.b.max_connections", limit.into())]);
        node
    };
    check_nodes(
        vec![with_pools("x", &["a", "a.b"], 1), with_pools("y", &["a.b"], 2)],
        &[&["pool a | present at x | missing at y"], &["key pool.a.b.max_connections | 1 at x | 2 at y"]],
    );
    check_nodes(
        vec![with_pools("x", &["a", "a.b"], 1), with_pools("y", &["a"], 2)],
        &[&["pool a.b | present at x | missing at y"]],
    );
}

#[test]
fn addresses_and_backends_of_names_with_dots_are_not_compared() {
    let with_bind = |name: &str, bind: &str, listener: &str| {
        let mut node = node(name);
        set(&mut node.status, "/listeners/0/name", listener);
        set(&mut node.status, "/pools/0/name", "db.example");
        node.routes["routes"] = json!([]);
        let keys = [
            (format!("listener.{listener}.bind[0]"), bind.to_owned()),
            ("pool.db.example.backends[0]".to_owned(), format!("backend of {name}")),
        ];
        let key = |(key, value): &(String, String)| json!({ "key": key, "value": value, "origin": "file" });
        node.config["keys"] = keys.iter().map(key).collect();
        node
    };
    for listener in ["mail", "mail.example", "mail.bind", "bind"] {
        let nodes =
            |other: &str| vec![with_bind("x", "10.0.0.1:25", listener), with_bind("y", other, listener)];
        check_nodes(nodes("10.0.0.2:25"), &[]);
        let port = format!("key listener.{listener}.bind[0] | port 25 at x | port 26 at y");
        check_nodes(nodes("10.0.0.2:26"), &[&[&port]]);
    }
}

#[test]
fn a_further_route_does_not_move_the_others() {
    check(
        |node| {
            let keys = node.config["keys"].as_array_mut().unwrap();
            for key in keys.iter_mut() {
                let moved = key["key"].as_str().unwrap().replace("routes[0]", "routes[1]");
                key["key"] = moved.into();
            }
            let first = json!({ "key": "listener.tls.routes[0].pool", "value": "db", "origin": "file" });
            keys.push(first);
        },
        &[&["keys listener.tls.routes | only the routes that all have at a b | pool = \"db\" at c"]],
    );
}

#[test]
fn pages_that_are_missing_or_cut_are_noted() {
    let noted = |change: &dyn Fn(&mut Node), expected: &str| {
        let comparison = compared(change);
        assert_eq!(comparison.differences, [], "{expected}");
        assert!(
            comparison.notes.len() == 1 && comparison.notes[0].contains(expected),
            "{:?}",
            comparison.notes
        );
    };
    noted(
        &|node| {
            node.config = Value::Null;
            node.faults = vec!["/api/v1/config: it answered 404".to_owned()];
        },
        "c: this page is missing, so its contents are not compared: /api/v1/config: it answered 404",
    );
    noted(
        &|node| {
            node.routes["cut"] = true.into();
            node.routes["routes"] = json!([]);
        },
        "only the numbers of routes are compared",
    );
    noted(&|node| node.config["left_out"] = 1.into(), "its keys are not compared");
    noted(
        &|node| {
            node.status["config"]["last_reload"] =
                json!({ "result": "failed", "time": "2026-01-02T03:04:05.000Z" });
        },
        "c: the last reload failed at 2026-01-02 03:04:05",
    );
    check(
        |node| {
            node.routes["cut"] = true.into();
            node.routes["total"] = 7.into();
        },
        &[&["number of routes | 1 at a b | 7 at c"]],
    );
}

#[test]
fn a_node_without_an_answer_is_no_agreement() {
    let faults = |count: usize| {
        let fault =
            |number| NodeFault { name: format!("10.0.0.{number}:1"), text: "no answer: refused".to_owned() };
        (0..count).map(fault).collect()
    };
    let mut fleet = Fleet { nodes: ["a", "b"].map(node).to_vec(), faults: faults(1) };
    let comparison = Comparison::of(&fleet);
    assert!(comparison.differences.is_empty() && !comparison.agrees(&fleet));
    let text = show::text(&fleet, &comparison);
    assert!(text.contains("10.0.0.0:1 is not compared: no answer: refused"), "{text}");
    let page: Value = serde_json::from_str(&show::json(&fleet, &comparison)).unwrap();
    assert_eq!((&page["agree"], &page["nodes"][2]["fault"]), (&false.into(), &"no answer: refused".into()));
    fleet = Fleet { nodes: vec![node("a")], faults: Vec::new() };
    assert!(!Comparison::of(&fleet).agrees(&fleet), "one node proves nothing");
    fleet = Fleet { nodes: Vec::new(), faults: faults(2) };
    assert!(show::text(&fleet, &Comparison::of(&fleet)).contains("no node answered"));
}

#[test]
fn two_nodes_have_no_majority() {
    let mut nodes = ["a", "b"].map(node).to_vec();
    set(&mut nodes[1].status, "/pools/0/digest", "0b");
    let differences = Comparison::of(&fleet(nodes)).differences;
    assert!(
        differences[0]
            .effect
            .starts_with("a client of pool db reaches another backend, depending on the node")
    );
}
