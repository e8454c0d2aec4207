//! The report of `explain` as text: a line for each decision, then the other routes and the notes.
//!
//! It reads the JSON of /api/v1/explain and requires no key, so it can read the report of another version.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::status::items;

/// The width of the first column.
const COLUMN: usize = 11;

/// Returns the report as text.
pub(super) fn text(report: &Value) -> String {
    let mut out = String::new();
    line(&mut out, "admitted", &admitted(report));
    limits(report, &mut out);
    if report["ja4"].is_string() {
        line(&mut out, "hello", &hello(report));
    }
    if report["route"].is_object() {
        route(&report["route"], report["server_name"].as_str(), &mut out);
    }
    if report["pool"].is_object() {
        line(&mut out, "pool", &pool(report));
        if report["pool"]["near"].is_object() {
            line(&mut out, "zones", &near(&report["pool"]["near"]));
        }
    }
    if report["pick"].is_object() {
        line(&mut out, "pick", &pick(&report["pick"]));
    }
    if report["sends"].is_object() {
        line(&mut out, "sends", &sends(&report["sends"]));
    }
    if report["bounds"].is_object() {
        line(&mut out, "bounds", &bounds(&report["bounds"]));
    }
    if report["refused"].is_object() {
        let refused = &report["refused"];
        line(&mut out, "refused", &format!("{}: {}", word(&refused["close"]), word(&refused["meaning"])));
    }
    for note in items(&report["notes"]) {
        line(&mut out, "note", &word(note));
    }
    out
}

fn line(out: &mut String, name: &str, text: &str) {
    _ = writeln!(out, "{name:COLUMN$}{text}");
}

fn admitted(report: &Value) -> String {
    let admission = &report["admission"];
    let source = report["source"].as_str().unwrap_or("the client of a Unix socket");
    let [deny, allow] = ["deny_lists", "allow_lists"].map(|key| items(&admission[key]));
    let named = |lists: &[Value]| lists.iter().map(word).collect::<Vec<_>>().join(", ");
    match admission["denied_by"].as_str() {
        Some("list") => format!("no: list {} in `deny` has {source}", word(&admission["list"])),
        Some("networks") => format!("no: a network in `deny` has {source}"),
        Some("not_allowed") if allow.is_empty() => format!("no: `allow` does not have {source}"),
        Some("not_allowed") => {
            format!("no: {source} is neither in a list of `allow` ({}) nor in its networks", named(allow))
        }
        Some(other) => format!("no: {other}"),
        None if admission["admitted"] != true => "no: a limit is reached".to_owned(),
        None => {
            let denied = match deny.is_empty() {
                true => format!("no list denies {source}"),
                false => format!("no list denies {source} ({})", named(deny)),
            };
            if admission["has_allow"] == true { format!("{denied}, and `allow` has it") } else { denied }
        }
    }
}

fn limits(report: &Value, out: &mut String) {
    let is_running = report["running"] == true;
    for limit in items(&report["admission"]["limits"]) {
        let mut parts = Vec::new();
        if let Some(most) = limit["connections"].as_u64() {
            let open = if is_running { format!("{} of ", number(&limit["open"])) } else { String::new() };
            parts.push(format!("{open}{most} connections"));
        }
        if let Some(rate) = limit["per_second"].as_f64() {
            parts.push(format!("{}/s, {} at once", rounded(rate), number(&limit["burst"])));
        }
        if let Some(most) = limit["hellos"].as_u64() {
            parts.push(format!("{most} hellos"));
        }
        line(out, "", &format!("limit of the {}: {}", word(&limit["of"]), parts.join(", ")));
    }
}

/// Returns the fields of a captured hello.
fn hello(report: &Value) -> String {
    let name = report["server_name"].as_str().unwrap_or("no server name");
    let alpn: Vec<_> = items(&report["alpn"]).iter().map(word).collect();
    let alpn = if alpn.is_empty() { "no ALPN".to_owned() } else { format!("ALPN {}", alpn.join(" ")) };
    format!("{name}, {alpn}, JA4 {}", word(&report["ja4"]))
}

fn route(route: &Value, name: Option<&str>, out: &mut String) {
    let by = match route["by"].as_str().unwrap_or_default() {
        "exact" => "it has this name".to_owned(),
        "child" => "the suffix with one label before it".to_owned(),
        "below" => "the longest suffix that fits".to_owned(),
        "regex" => "the first expression that fits".to_owned(),
        "any" => "a route without a name".to_owned(),
        "no_sni" => "the hello has no server name, and no route matches".to_owned(),
        "unmatched" => format!("no route matches {}", name.unwrap_or("the name")),
        "pool" if items(&route["others"]).is_empty() => {
            "the listener has no routes, only its pool".to_owned()
        }
        "pool" => "no route matches: the pool of the listener".to_owned(),
        other => other.to_owned(),
    };
    let action = match route["action"].as_str() {
        Some("split") => {
            let part = |part: &Value| {
                let percent = part["share"].as_f64().unwrap_or_default() * 100.0;
                // Two decimals, as in an override; 10 and not 10.00.
                format!("{} {}%", word(&part["pool"]), (percent * 100.0).round() / 100.0)
            };
            let parts: Vec<_> = items(&route["split"]).iter().map(part).collect();
            format!("; a split by the source: {}", parts.join(", "))
        }
        Some(action @ ("reject" | "drop")) => format!("; action {action}"),
        _ => String::new(),
    };
    let own = match route["route"].as_str() {
        Some(own) => format!("\"{own}\"{}", place(route)),
        None => "none".to_owned(),
    };
    line(out, "route", &format!("{own}   {by}{action}"));
    for other in items(&route["others"]) {
        let reason = match other["reason"].as_str().unwrap_or_default() {
            "name" => "name".to_owned(),
            "conditions" => items(&other["unmet"]).iter().map(word).collect::<Vec<_>>().join(", "),
            "wider_conditions" => "it matches, with less specific conditions".to_owned(),
            "wider_name" => "its name is less specific".to_owned(),
            other => other.to_owned(),
        };
        line(out, "", &format!("not \"{}\"{} ({reason})", word(&other["route"]), place(other)));
    }
    match route["more"].as_u64() {
        None | Some(0) => {}
        Some(1) => line(out, "", "1 more route is not shown"),
        Some(more) => line(out, "", &format!("{more} more routes are not shown")),
    }
}

/// Returns the line of a route behind spaces, or nothing.
fn place(route: &Value) -> String {
    route["place"].as_str().map(|place| format!("   {place}")).unwrap_or_default()
}

fn pool(report: &Value) -> String {
    let pool = &report["pool"];
    let mut text = format!("{}: {}", word(&pool["name"]), word(&pool["balance"]));
    let hashed: Vec<_> = items(&pool["hash_on"]).iter().map(word).collect();
    if !hashed.is_empty() {
        text += &format!(" on {}", hashed.join(" and "));
    }
    if let Some(slots) = pool["slots"].as_u64() {
        text += &format!(", {slots} entries");
    }
    if let Some(digest) = pool["digest"].as_str() {
        text += &format!(", digest {digest}");
    }
    if report["pick"]["host"].is_string() {
        return text;
    }
    text += &format!(", {} of {} up", number(&pool["available"]), number(&pool["backends"]));
    if pool["panic"] == true {
        text += ", panic mode: health is ignored";
    }
    text
}

/// Returns the order of zones for the client, and its reason.
fn near(near: &Value) -> String {
    let zones = || items(&near["zones"]).iter().map(word).collect::<Vec<_>>().join(", ");
    match near["by"].as_str() {
        Some("distance") => format!("{}, by the distance of the client", zones()),
        Some("country") => format!("{}, by the country of the client", zones()),
        Some("no_address") => "the order of the node: the client has no address".to_owned(),
        _ => "the order of the node: the database does not place the client at a site".to_owned(),
    }
}

fn pick(pick: &Value) -> String {
    if let Some(host) = pick["host"].as_str() {
        return format!("the host that the client names: {host}");
    }
    if pick["paused"] == true {
        return "none yet: an operator has paused the pool, and the connection waits until `pointsman resume`"
            .to_owned();
    }
    if pick["queued"] == true {
        return "none yet: all backends are full, and the connection waits in the queue".to_owned();
    }
    if !pick["backend"].is_object() {
        return "not known".to_owned();
    }
    let next: Vec<_> = items(&pick["next"]).iter().map(|backend| word(&backend["name"])).collect();
    let first = backend(&pick["backend"]);
    if pick["ordered"] == false {
        return match next.is_empty() {
            true => first,
            false => format!("one of {first}, {}", next.join(", ")),
        };
    }
    let mut parts = Vec::new();
    if let Some(slot) = pick["slot"].as_u64() {
        parts.push(format!("entry {slot}"));
    }
    let owner = &pick["owner"];
    if owner.is_object() {
        parts.push(format!("which belongs to {} ({})", word(&owner["name"]), word(&owner["state"])));
    }
    let mut text = format!("{first}   {}", parts.join(", "));
    if !next.is_empty() {
        text += &format!("{}then {}", if parts.is_empty() { "" } else { "; " }, next.join(", "));
    }
    text.trim_end().to_owned()
}

/// Returns the name and the address of a backend; only the address if the name is the address.
fn backend(backend: &Value) -> String {
    let [name, address] = ["name", "address"].map(|key| word(&backend[key]));
    if name == address { name } else { format!("{name} {address}") }
}

fn sends(sends: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(version) = sends["proxy_protocol"].as_str() {
        let tlvs: Vec<_> = items(&sends["tlvs"]).iter().map(word).collect();
        let tlvs = if tlvs.is_empty() { String::new() } else { format!(" ({})", tlvs.join(", ")) };
        parts.push(format!("PROXY {version}{tlvs}"));
    }
    match sends["greeting"].as_str() {
        Some("postgres") => parts.push("an SSLRequest, which the backend answers".to_owned()),
        Some("starttls") => parts.push("STARTTLS, which the backend answers".to_owned()),
        Some(other) => parts.push(other.to_owned()),
        None => {}
    }
    parts.push(match sends["hello_bytes"].is_u64() {
        true => "the hello as it came".to_owned(),
        false => "the bytes of the client as they come".to_owned(),
    });
    parts.join(", ")
}

fn bounds(bounds: &Value) -> String {
    let time = |key: &str| duration(&bounds[key]);
    let attempts = number(&bounds["attempts"]);
    let mut parts = vec![format!(
        "{attempts} attempt{} in {}, {} each",
        if attempts == 1 { "" } else { "s" },
        time("dial_timeout_seconds"),
        time("connect_timeout_seconds")
    )];
    if bounds["queue_length"].is_u64() {
        let length = number(&bounds["queue_length"]);
        parts.push(format!("queue of {length} for {}", time("queue_timeout_seconds")));
    }
    if bounds["hello_timeout_seconds"].is_number() {
        let (first, hello) = (time("first_byte_timeout_seconds"), time("hello_timeout_seconds"));
        parts.push(format!("first byte {first}, hello {hello}"));
    }
    parts.push(format!("idle {}", time("idle_timeout_seconds")));
    parts.push(format!("half-closed {}", time("half_closed_timeout_seconds")));
    parts.join("; ")
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Returns a rate with at most two decimals.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

fn duration(seconds: &Value) -> String {
    let time = Duration::try_from_secs_f64(seconds.as_f64().unwrap_or(0.0)).unwrap_or_default();
    humantime::format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::conn::explain::{ExplainRequest, ExplainedHello, ExplainedSource};
    use crate::server::ExplainedConfig;

    const CONFIG: &str = r#"
        [list.bans]
        entries = ["198.51.100.0/24"]
        [listener.tls]
        bind = "192.0.2.1:443"
        protocol = "tls"
        deny = "bans"
        per_source = { connections = 100, rate = "50/s" }
        max_connections = 1000
        routes = [
          { sni = "*.example.com", pool = "apps" },
          { sni = "*.example.com", source = "10.0.0.0/8", alpn = "h3", pool = "apps" },
          { sni = "shut.example.org", action = "reject" },
          { sni = "several.example.org", split = [{ pool = "apps", weight = 9 }, { pool = "turns", weight = 0 }] },
        ]
        [listener.mail]
        bind = "192.0.2.1:25"
        protocol = "smtp"
        hostname = "mail.example.com"
        unmatched = "turns"
        [listener.plain]
        bind = "192.0.2.1:5432"
        pool = "turns"
        [pool.apps]
        hash_on = "sni"
        proxy_protocol = { version = "v2", authority = true, alpn = true, crc32c = true }
        queue = { length = 7, timeout = "2s" }
        backends = [
          { name = "apps-1", address = "10.0.2.11:8443", max_connections = 9 },
          { name = "apps-2", address = "10.0.2.12:8443" },
          { name = "apps-3", address = "10.0.2.13:8443", state = "maintenance" },
        ]
        [pool.turns]
        balance = "round-robin"
        attempts = 1
        backends = ["10.0.3.1:25", "10.0.3.2:25"]
    "#;

    fn shown(listener: &str, source: &str, sni: &str, alpn: &[&str]) -> String {
        let (config, _) = config::parse("c.toml", CONFIG).unwrap_or_else(|faults| panic!("{faults}"));
        let ExplainedSource(source) = source.parse().unwrap();
        let alpn = alpn.iter().map(|&protocol| protocol.to_owned()).collect();
        let server_name = (!sni.is_empty()).then(|| sni.parse().unwrap());
        let hello = ExplainedHello::Made { server_name, alpn };
        let request = ExplainRequest { source, destination: None, hello, requested: None };
        let config = ExplainedConfig::build(config).unwrap();
        let explanation = config.explain(listener, &request).unwrap();
        let text = text(&serde_json::to_value(explanation).unwrap());
        // The note about the configuration is in each report.
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("the configuration alone")).collect();
        assert_eq!(lines.len() + 1, text.lines().count());
        lines.join("\n")
    }

    #[test]
    fn a_served_client_has_each_decision() {
        insta::assert_snapshot!(shown("tls", "203.0.113.7", "db.example.com", &["h2"]), @r#"
        admitted   no list denies 203.0.113.7 (bans)
                   limit of the source: 100 connections, 50/s, 50 at once
                   limit of the listener: 1000 connections
        route      "*.example.com"   the longest suffix that fits
                   not "*.example.com+source+alpn" (source, alpn)
                   not "shut.example.org" (name)
                   not "several.example.org" (name)
        pool       apps: maglev on sni, 65537 entries, digest 0ad294fa0e34048c, 2 of 3 up
        pick       apps-1 10.0.2.11:8443   entry 62747; then apps-2
        sends      PROXY v2 (alpn, authority, crc32c), the hello as it came
        bounds     3 attempts in 15s, 5s each; queue of 7 for 2s; first byte 1m, hello 5s; idle 1h; half-closed 1m
        "#);
    }

    #[test]
    fn a_refused_client_has_its_reason() {
        insta::assert_snapshot!(shown("tls", "198.51.100.7", "db.example.com", &[]), @r#"
        admitted   no: list bans in `deny` has 198.51.100.7
        refused    denied: The client's address or the address in its PROXY header is in a list or network of `deny`. Or the fingerprint of its hello is in `deny_ja4`.
        "#);
        insta::assert_snapshot!(shown("tls", "203.0.113.7", "shut.example.org", &[]), @r#"
        admitted   no list denies 203.0.113.7 (bans)
                   limit of the source: 100 connections, 50/s, 50 at once
                   limit of the listener: 1000 connections
        route      "shut.example.org"   it has this name; action reject
                   not "*.example.com" (name)
                   not "*.example.com+source+alpn" (name)
                   not "several.example.org" (name)
        refused    route_rejected: A route with `action = "reject"` matched the connection.
        "#);
        insta::assert_snapshot!(shown("tls", "203.0.113.7", "", &[]), @r#"
        admitted   no list denies 203.0.113.7 (bans)
                   limit of the source: 100 connections, 50/s, 50 at once
                   limit of the listener: 1000 connections
        route      none   the hello has no server name, and no route matches
                   not "*.example.com" (name)
                   not "*.example.com+source+alpn" (name)
                   not "shut.example.org" (name)
                   not "several.example.org" (name)
        refused    no_sni: The client sent no server name, and the listener rejects such clients.
        "#);
    }

    #[test]
    fn other_kinds_of_targets_are_shown() {
        insta::assert_snapshot!(shown("tls", "203.0.113.7:99", "several.example.org", &[]), @r#"
        admitted   no list denies 203.0.113.7:99 (bans)
                   limit of the source: 100 connections, 50/s, 50 at once
                   limit of the listener: 1000 connections
        route      "several.example.org"   it has this name; a split by the source: apps 100%, turns 0%
                   not "*.example.com" (name)
                   not "*.example.com+source+alpn" (name)
                   not "shut.example.org" (name)
        pool       apps: maglev on sni, 65537 entries, digest 0ad294fa0e34048c, 2 of 3 up
        pick       apps-1 10.0.2.11:8443   entry 29914; then apps-2
        sends      PROXY v2 (authority, crc32c), the hello as it came
        bounds     3 attempts in 15s, 5s each; queue of 7 for 2s; first byte 1m, hello 5s; idle 1h; half-closed 1m
        "#);
        insta::assert_snapshot!(shown("mail", "unix", "mx.example.net", &[]), @r#"
        admitted   no list denies the client of a Unix socket
        route      "unmatched"   no route matches mx.example.net
        pool       turns: round-robin, 2 of 2 up
        pick       one of 10.0.3.1:25, 10.0.3.2:25
        sends      STARTTLS, which the backend answers, the hello as it came
        bounds     1 attempt in 15s, 5s each; first byte 1m, hello 5s; idle 1h; half-closed 1m
        note       the listener reads other messages before the hello: this is the way of a client that begins TLS
        "#);
        insta::assert_snapshot!(shown("plain", "2001:db8::1", "", &[]), @r#"
        admitted   no list denies 2001:db8::1
        route      none   the listener has no routes, only its pool
        pool       turns: round-robin, 2 of 2 up
        pick       one of 10.0.3.1:25, 10.0.3.2:25
        sends      the bytes of the client as they come
        bounds     1 attempt in 15s, 5s each; idle 1h; half-closed 1m
        note       the listener reads no hello: server name and ALPN have no effect
        "#);
    }

    #[test]
    fn a_running_process_has_counts() {
        let report = serde_json::json!({
            "running": true, "served": false, "source": "203.0.113.7",
            "admission": {
                "admitted": false, "denied_by": null, "deny_lists": ["a", "b"],
                "limits": [
                    { "of": "source", "open": 3, "connections": 3, "per_second": 0.5, "burst": 2, "hellos": 1 },
                ],
            },
            "refused": { "close": "source_connections", "meaning": "Too many." },
            "pool": { "name": "p", "balance": "maglev", "available": 0, "backends": 2, "panic": true },
            "pick": { "queued": true },
        });
        insta::assert_snapshot!(text(&report), @r#"
        admitted   no: a limit is reached
                   limit of the source: 3 of 3 connections, 0.5/s, 2 at once, 1 hellos
        pool       p: maglev, 0 of 2 up, panic mode: health is ignored
        pick       none yet: all backends are full, and the connection waits in the queue
        refused    source_connections: Too many.
        "#);
        // The report of another version may have less, or other words.
        assert!(text(&serde_json::json!({})).starts_with("admitted"));
        let report =
            serde_json::json!({ "route": { "by": "luck", "others": [{ "reason": "none" }] }, "pick": {} });
        assert!(text(&report).contains("luck"), "{}", text(&report));
        let shown = |more: u64| text(&serde_json::json!({ "route": { "by": "any", "more": more } }));
        assert!(!shown(0).contains("more") && shown(1).contains("1 more route is not shown"));
        assert!(shown(7).contains("7 more routes are not shown"), "{}", shown(7));
    }
}
