//! The sentences of the commands that change what runs, made of the answers of the API.

use serde_json::Value;

use super::status::duration;

/// Returns the sentence for the answer to a change of an override; `None` if the page is another.
pub(super) fn changed(page: &str) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let name = |key: &str| page[key].as_str().unwrap_or_default();
    let (kind, value) = (name("kind"), name("value"));
    let subject = match kind {
        "state" | "weight" => format!("{}/{}", name("pool"), name("backend")),
        "pause" => format!("pool {}", name("pool")),
        "split" => format!("route {}/{}", name("listener"), name("route")),
        "leave" => "this process".to_owned(),
        "log" => "the log".to_owned(),
        _ => return None,
    };
    let result = match page["result"].as_str()? {
        "ended" => return Some(format!("{subject} {}", ended(kind))),
        "absent" => return Some(format!("{subject} {}; there was no override to end", ended(kind))),
        result => result,
    };
    let time = match page["ends_in_seconds"].as_u64() {
        Some(seconds) => format!(" for {}", duration(seconds)),
        None => String::new(),
    };
    let stay = match page["open"].as_u64() {
        Some(1) => "; 1 connection stays open".to_owned(),
        Some(count @ 2..) => format!("; {count} connections stay open"),
        _ => String::new(),
    };
    let (effect, end) = match kind {
        "state" if value == "ready" => (format!("{subject} is ready{time}"), None),
        "state" => {
            let effect = format!("{subject} gets no new connections{time} ({value}){stay}");
            (effect, Some(format!("pointsman ready {subject}")))
        }
        "weight" => (
            format!("{subject} has the weight {value}{time}"),
            Some(format!("pointsman weight {subject} file")),
        ),
        "pause" => {
            let effect = format!("new connections of {subject} wait{time}{stay}");
            (effect, Some(format!("pointsman resume {}", name("pool"))))
        }
        "split" => {
            let end = format!("pointsman split {}/{} file", name("listener"), name("route"));
            (format!("{subject} has the shares {value}{time}"), Some(end))
        }
        "leave" => (
            format!("/ready answers 503{time}, and all else goes on{stay}"),
            Some("pointsman join".to_owned()),
        ),
        _ => (format!("{subject} has the level {value}{time}"), Some("pointsman log file".to_owned())),
    };
    let replaced = if result == "replaced" { " (instead of an earlier change)" } else { "" };
    let end = end.map(|command| format!("; `{command}` ends the override")).unwrap_or_default();
    Some(format!("{effect}{replaced}{end}"))
}

/// Returns the state of a part after the end of its override.
fn ended(kind: &str) -> &'static str {
    match kind {
        "state" => "is as the configuration has it",
        "weight" => "has the weight of the configuration",
        "pause" => "is not paused",
        "split" => "has the shares of the configuration",
        "leave" => "no longer leaves",
        _ => "has the level of the configuration",
    }
}

/// Returns the text for the answer to a rebalance; `None` if the page is another.
pub(super) fn rebalanced(page: &str) -> Option<String> {
    let page: Value = serde_json::from_str(page).ok()?;
    let (open, misplaced) = (page["open"].as_u64()?, page["misplaced"].as_u64()?);
    let part = 100.0 * misplaced as f64 / open.max(1) as f64;
    let most = 100.0 * page["most"].as_f64()?;
    let place = match page["hashed"].as_bool() {
        Some(false) => "are above the fair share of their backend",
        _ => "would go to another backend",
    };
    let then = match (misplaced, page["dry_run"].as_bool()?) {
        (0, _) => "nothing is to be done".to_owned(),
        (_, true) if part > most => {
            format!(
                "a dry run closes nothing; a real one would refuse more than {most:.1} % (--most {}%)",
                part.ceil()
            )
        }
        (_, true) => "a dry run closes nothing".to_owned(),
        (_, false) => {
            let seconds = page["takes_seconds"].as_f64()?.ceil() as u64;
            format!("they are closed within {}", duration(seconds.max(1)))
        }
    };
    let silent = page["silent_workers"].as_u64().filter(|count| *count > 0);
    let silent = silent.map(|count| format!("; {count} workers did not answer in time")).unwrap_or_default();
    Some(format!("{misplaced} of {open} connections ({part:.1} %) {place}: {then}{silent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_sentence() {
        let check =
            |page: &str, expected: &str| assert_eq!(changed(page).as_deref(), Some(expected), "{page}");
        check(
            r#"{"result": "set", "kind": "state", "pool": "app", "backend": "a", "value": "drain", "ends_in_seconds": 7200, "open": 12}"#,
            "app/a gets no new connections for 2h (drain); 12 connections stay open; `pointsman ready app/a` ends the override",
        );
        check(
            r#"{"result": "replaced", "kind": "pause", "pool": "db", "value": "paused", "ends_in_seconds": 60, "open": 1}"#,
            "new connections of pool db wait for 1m; 1 connection stays open (instead of an earlier change); `pointsman resume db` ends the override",
        );
        check(
            r#"{"result": "ended", "kind": "state", "pool": "app", "backend": "a"}"#,
            "app/a is as the configuration has it",
        );
        check(
            r#"{"result": "absent", "kind": "pause", "pool": "db"}"#,
            "pool db is not paused; there was no override to end",
        );
        check(
            r#"{"result": "set", "kind": "split", "listener": "tls", "route": "a.b", "value": "canary=10%"}"#,
            "route tls/a.b has the shares canary=10%; `pointsman split tls/a.b file` ends the override",
        );
        check(
            r#"{"result": "set", "kind": "log", "value": "debug", "ends_in_seconds": 600, "open": 3}"#,
            "the log has the level debug for 10m; `pointsman log file` ends the override",
        );
        assert_eq!(changed("no page"), None);
        assert_eq!(changed(r#"{"result": "set", "kind": "new"}"#), None);
    }

    #[test]
    fn a_rebalance_is_a_sentence() {
        let check = |dry_run: bool, hashed: bool, misplaced: u64, expected: &str| {
            let page = serde_json::json!({ "open": 200, "misplaced": misplaced, "most": 0.1, "dry_run": dry_run, "hashed": hashed,
                "takes_seconds": 0.4, "silent_workers": 0 });
            assert_eq!(rebalanced(&page.to_string()).as_deref(), Some(expected));
        };
        check(
            false,
            true,
            10,
            "10 of 200 connections (5.0 %) would go to another backend: they are closed within 1s",
        );
        check(
            true,
            true,
            10,
            "10 of 200 connections (5.0 %) would go to another backend: a dry run closes nothing",
        );
        check(
            false,
            false,
            0,
            "0 of 200 connections (0.0 %) are above the fair share of their backend: nothing is to be done",
        );
        check(
            true,
            false,
            50,
            "50 of 200 connections (25.0 %) are above the fair share of their backend: a dry run closes nothing; a real one would \
             refuse more than 10.0 % (--most 25%)",
        );
    }
}
