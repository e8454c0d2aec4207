//! The keys whose values are never shown.

use serde_json::Value;

use super::path::KeyPath;

/// The keys with secrets. All values below such a key are secret too. `*` is a name that the operator chooses.
const SECRETS: [&str; 5] = [
    // A client that knows it can choose the backend of its connections.
    "hash_key",
    // Agents and servers may demand a password in these bytes.
    "pool.*.agent.send",
    "pool.*.health.steps",
    // Headers such as Authorization and Cookie. Their names are shown.
    "pool.*.health.headers",
    // A backend may know its balancer by them.
    "pool.*.proxy_protocol.tlvs",
];

/// The key of a path that may have a query, and the query may have a token.
const HTTP_PATH: &str = "pool.*.health.path";

/// Returns true if the value at a path is a secret.
pub(super) fn is_secret(path: &KeyPath, value: &Value) -> bool {
    let has_query = || value.as_str().is_some_and(|text| text.contains('?'));
    SECRETS.iter().any(|key| path.is_in(key)) || (path.is_in(HTTP_PATH) && has_query())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    /// The parts of a name that may stand for a secret.
    const ALARMING: [&str; 17] = [
        "auth", "bearer", "cookie", "cred", "expect", "header", "key", "login", "pass", "phrase", "private",
        "pwd", "secret", "send", "sign", "token", "user",
    ];

    /// The keys with such a name whose values are no secrets.
    const HARMLESS: [&str; 10] = [
        // The path of a file. The file is never shown.
        "admin.token_file",
        // A word: the requests that need the token.
        "admin.token_for",
        // Times of TCP.
        "listener.*.user_timeout",
        "pool.*.user_timeout",
        // Names of users, and the pool of each.
        "listener.*.users",
        // The name of a user, who has no password.
        "pool.*.health.user",
        // Networks.
        "pool.*.forward.allow_private",
        // Numbers of statuses.
        "pool.*.health.expect",
        // True or false, and the kinds of values that are passed on.
        "pool.*.proxy_protocol.authority",
        "pool.*.proxy_protocol.pass",
    ];

    fn is_in_secrets(key: &str) -> bool {
        SECRETS.iter().any(|secret| key == *secret || key.starts_with(&format!("{secret}.")))
    }

    /// A key that was added and forgotten here must not show a secret.
    #[test]
    fn each_key_that_may_be_a_secret_is_known() {
        let keys = schema::keys();
        let is_alarming = |key: &&String| {
            let name = key.rsplit('.').next().unwrap();
            ALARMING.iter().any(|part| name.contains(part))
        };
        let alarming: Vec<_> = keys.iter().filter(is_alarming).collect();
        assert!(alarming.len() > 15, "{alarming:?}");
        let unknown: Vec<_> =
            alarming.iter().filter(|key| !is_in_secrets(key) && !HARMLESS.contains(&key.as_str())).collect();
        assert!(
            unknown.is_empty(),
            "add these keys to SECRETS, or to HARMLESS if their values may be shown: {unknown:?}"
        );
        for key in SECRETS.iter().chain(&HARMLESS).chain([&HTTP_PATH]) {
            assert!(keys.contains(*key), "{key} is no key");
        }
        for key in HARMLESS {
            assert!(alarming.iter().any(|alarming| *alarming == key), "{key} needs no exception");
        }
    }

    #[test]
    fn secrets_are_found_by_their_paths() {
        let check = |path: &str, value: &str, expected: bool| {
            assert_eq!(is_secret(&KeyPath::of_names(path), &value.into()), expected, "{path} {value}");
        };
        check("hash_key", "x", true);
        check("pool.db.health.headers.Authorization", "Bearer x", true);
        check("pool.db.health.steps.send", "AUTH x", true);
        check("pool.db.health.steps.refuse", "x", true);
        check("pool.db.proxy_protocol.tlvs.0xE0", "x", true);
        check("pool.db.health.path", "/health?token=x", true);
        check("pool.db.health.path", "/health", false);
        check("pool.db.health.host", "a?b", false);
        check("pool.db.balance", "maglev", false);
    }
}
