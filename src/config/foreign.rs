//! Keys, values and file formats of other programs that operators may use by mistake, and what to write instead.

/// Returns the hint for an unknown key of a table; `noun` is the name of the table in messages.
pub(super) fn key(noun: &str, key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let is_meant = |(nouns, keys, _): &&ForeignKey| {
        (nouns.is_empty() || nouns.contains(&noun)) && keys.contains(&key.as_str())
    };
    KEYS.iter().find(is_meant).map(|(.., hint)| *hint)
}

/// The tables to which an item applies, none for all; the keys; and the hint.
type ForeignKey = (&'static [&'static str], &'static [&'static str], &'static str);

const FILE: &[&str] = &["a configuration"];
const LISTENER: &[&str] = &["a listener"];
const POOL: &[&str] = &["a pool"];
const BACKEND: &[&str] = &["a backend"];
const ROUTE: &[&str] = &["a route"];
const HEALTH: &[&str] = &["a health check"];
const ACCESS_LOG: &[&str] = &["the access log"];

const KEYS: &[ForeignKey] = &[
    (
        FILE,
        &["frontend", "frontends", "listen", "listeners", "entrypoints", "server_block", "stream"],
        "write [listener.NAME] with bind = \":443\" and pool = \"NAME\"",
    ),
    (
        FILE,
        &[
            "backend",
            "backends",
            "upstream",
            "upstreams",
            "server",
            "servers",
            "cluster",
            "clusters",
            "pools",
            "services",
        ],
        "write [pool.NAME] with backends = [\"10.0.0.1:443\"]",
    ),
    (
        FILE,
        &["global", "defaults", "events", "http"],
        "write settings of the process at the top of the file, those of clients in [listener.NAME], those of backends in \
         [pool.NAME]",
    ),
    (
        FILE,
        &["include", "includes", "import", "conf_d"],
        "a configuration is one file; routes, lists and backends may be in separate files: routes_file, list.NAME.file, \
         discover = { file = \"...\" }",
    ),
    (
        FILE,
        &[
            "daemon",
            "daemonize",
            "user",
            "group",
            "chroot",
            "pid_file",
            "pidfile",
            "pid",
            "ulimit_n",
            "uid",
            "gid",
        ],
        "the service manager does this: see dist/pointsman.service",
    ),
    (
        FILE,
        &["nbproc", "nbthread", "worker_processes", "threads", "concurrency"],
        "write workers = 4; the default is one per core",
    ),
    (FILE, &["maxconn", "worker_connections", "connections"], "write max_connections = 100000"),
    (
        FILE,
        &["stats", "metrics", "prometheus", "api"],
        "write [admin] with listen = \"127.0.0.1:10190\": /metrics and /api/v1/status",
    ),
    (
        FILE,
        &["resolvers", "resolver", "nameserver"],
        "write discover = { dns = \"...\", resolvers = [\"10.0.0.53\"] } in a pool",
    ),
    (LISTENER, &["listen", "address", "addr", "port", "ip", "binds"], "write bind = \":443\""),
    (
        LISTENER,
        &["server_name", "server_names", "host", "hosts", "domains"],
        "write protocol = \"tls\" and routes = [{ sni = \"mail.example.com\", pool = \"NAME\" }]",
    ),
    (
        LISTENER,
        &[
            "default_backend",
            "backend",
            "backends",
            "upstream",
            "proxy_pass",
            "target",
            "service",
            "server",
            "servers",
        ],
        "write pool = \"NAME\", and [pool.NAME] with backends = [\"10.0.0.1:443\"]",
    ),
    (
        LISTENER,
        &["use_backend", "acl", "rules", "rule"],
        "write routes = [{ sni = \"mail.example.com\", pool = \"NAME\" }]",
    ),
    (
        LISTENER,
        &[
            "ssl",
            "crt",
            "cert",
            "certificate",
            "ssl_certificate",
            "ssl_certificate_key",
            "tls",
            "ssl_preread",
        ],
        "TLS passes through, and certificates stay on the backends: protocol = \"tls\" reads the server name",
    ),
    (
        LISTENER,
        &["timeout", "timeouts", "timeout_client", "client_timeout", "proxy_timeout"],
        "the times are idle_timeout, half_closed_timeout, first_byte_timeout and hello_timeout",
    ),
    (LISTENER, &["whitelist", "allowlist", "src"], "write allow = [\"10.0.0.0/8\"]"),
    (LISTENER, &["blacklist", "denylist"], "write deny = [\"192.0.2.0/24\"]"),
    (LISTENER, &["accept_proxy", "proxy"], "write proxy_protocol = { trusted = [\"10.0.0.0/8\"] }"),
    (
        LISTENER,
        &["rate_limit", "limit_conn", "maxconn"],
        "write max_connections, rate, or per_source = { connections = 100 }",
    ),
    (
        POOL,
        &[
            "server",
            "servers",
            "members",
            "targets",
            "hosts",
            "host",
            "endpoints",
            "nodes",
            "upstream",
            "address",
            "addresses",
        ],
        "write backends = [\"10.0.0.1:443\", \"10.0.0.2:443\"]",
    ),
    (
        POOL,
        &[
            "algorithm",
            "lb",
            "lb_policy",
            "lb_algorithm",
            "load_balancing",
            "method",
            "policy",
            "strategy",
            "scheduler",
        ],
        "write balance = \"maglev\", \"round-robin\", \"least-connections\", \"random-two\", \"failover\" or \"least-latency\"",
    ),
    (
        POOL,
        &[
            "sticky",
            "stick",
            "stick_table",
            "session_affinity",
            "affinity",
            "persistence",
            "hash",
            "ip_hash",
            "cookie",
        ],
        "write balance = \"maglev\" and hash_on = \"source-ip\": a client returns to its backend",
    ),
    (POOL, &["send_proxy", "send_proxy_v2", "proxy", "send_proxy_protocol"], "write proxy_protocol = \"v2\""),
    (
        POOL,
        &["check", "checks", "option", "health_check", "healthcheck", "httpchk", "option_httpchk"],
        "write health = { check = \"tcp\", interval = \"2s\" }",
    ),
    (
        POOL,
        &["timeout", "timeouts", "timeout_connect"],
        "the times are connect_timeout, dial_timeout and health.timeout; write idle_timeout in the listener",
    ),
    (
        POOL,
        &["timeout_server", "server_timeout", "proxy_timeout", "idle_timeout"],
        "write idle_timeout in the listener",
    ),
    (POOL, &["retries", "proxy_next_upstream_tries", "max_retries"], "write attempts = 3"),
    (POOL, &["maxconn", "max_conns"], "write max_connections = 100, for each backend"),
    (POOL, &["resolver", "resolvers", "dns"], "write discover = { dns = \"db.internal\", port = 5432 }"),
    (POOL, &["weight", "weights"], "write backends = [{ address = \"10.0.0.1:443\", weight = 2 }]"),
    (POOL, &["outlier_detection", "max_fails", "fail_timeout", "observe"], "write [pool.NAME.ejection]"),
    (
        BACKEND,
        &["host", "ip", "server", "addr", "url", "uri", "target", "hostname"],
        "write address = \"10.0.0.1:443\"",
    ),
    (BACKEND, &["port"], "write the port in the address: address = \"10.0.0.1:443\""),
    (
        BACKEND,
        &["disabled", "enabled", "down", "drain"],
        "write state = \"maintenance\", or state = \"drain\"",
    ),
    (BACKEND, &["maxconn", "max_conns"], "write max_connections = 100"),
    (
        BACKEND,
        &["check", "inter", "rise", "fall", "max_fails", "fail_timeout"],
        "write checks in the pool: health = { interval = \"2s\", fall = 3 }",
    ),
    (BACKEND, &["priority"], "write backup = true, or a zone"),
    (
        ROUTE,
        &["host", "hosts", "server_name", "domain", "domains", "hostname", "match"],
        "write sni = \"mail.example.com\"",
    ),
    (
        ROUTE,
        &["backend", "backends", "upstream", "target", "service", "cluster", "to"],
        "write pool = \"NAME\"",
    ),
    (
        ROUTE,
        &["path", "url", "prefix", "header", "headers", "method"],
        "nothing is decrypted, so paths and headers cannot be read: a route has conditions such as sni, alpn, source",
    ),
    (ROUTE, &["ip", "src", "client", "cidr"], "write source = \"10.0.0.0/8\""),
    (HEALTH, &["inter", "period", "every"], "write interval = \"2s\""),
    (HEALTH, &["url", "uri"], "write path = \"/health\""),
    (
        HEALTH,
        &[
            "status",
            "statuses",
            "code",
            "codes",
            "status_code",
            "expected_status",
            "expected_statuses",
            "valid_statuses",
        ],
        "write expect = \"200-399\", or an array such as [\"200\", \"429\"]",
    ),
    (HEALTH, &["ssl", "https", "check_ssl", "scheme", "secure"], "write tls = true"),
    (HEALTH, &["sni", "check_sni"], "write server_name = \"www.example.com\""),
    (
        HEALTH,
        &["verify", "ca", "cafile", "insecure", "skip_verify"],
        "write ca_file; without it certificates are not verified",
    ),
    (
        HEALTH,
        &["string", "match", "response", "receive"],
        "write body = \"...\", or steps with expect = \"...\"",
    ),
    (
        HEALTH,
        &["rstring", "regex", "regexp", "pattern"],
        "write body_regex = \"...\", or steps with expect_regex = \"...\"",
    ),
    (HEALTH, &["header"], "write headers = { Name = \"value\" }"),
    (
        HEALTH,
        &["send_proxy", "check_send_proxy", "proxy"],
        "write proxy_protocol = \"local\", \"proxy\" or false",
    ),
    (
        HEALTH,
        &["type", "kind", "protocol", "mode"],
        "write check = \"tcp\", \"http\", \"tls\" or another kind",
    ),
    (HEALTH, &["healthy_threshold", "success"], "write rise = 2"),
    (HEALTH, &["unhealthy_threshold", "failures", "max_fails"], "write fall = 3"),
    (
        ACCESS_LOG,
        &["logasap", "flush_access_log_on_connected"],
        "write events = [\"start\", \"end\"]: a line when a backend is connected, and a line at the end",
    ),
    (
        ACCESS_LOG,
        &["access_log_flush_interval", "flush_interval"],
        "write events = [\"interval\", \"end\"] and interval = \"60s\"",
    ),
    (ACCESS_LOG, &["dontlognull"], "write empty = false"),
    (
        ACCESS_LOG,
        &["tcplog", "httplog", "log_format"],
        "write format = \"tcplog\" or \"httplog\" for the lines of HAProxy; the forms are fixed",
    ),
    (&[], &["timeout", "timeouts"], "each time has its own key; config.example.toml has all keys"),
    // In TOML a key below a table header belongs to that table.
    (
        &[],
        &["workers", "max_connections", "max_checks", "hash_key"],
        "this key applies to the whole file: write it at the top, above the first [table]",
    ),
];

/// Returns the hint for a word that a key does not take.
pub(super) fn word(key: &str, word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('_', "-");
    let is_meant = |(keys, words, _): &&ForeignKey| keys.contains(&key) && words.contains(&word.as_str());
    WORDS.iter().find(is_meant).map(|(.., hint)| *hint)
}

/// The keys; their words in other programs, with `-` for `_`; and the hint.
const WORDS: &[ForeignKey] = &[
    (
        &["balance"],
        &["source", "ip-hash", "iphash", "hash", "sh", "ring-hash", "consistent", "consistent-hash"],
        "did you mean \"maglev\", with hash_on = \"source-ip\"?",
    ),
    (&["check"], &["https", "http+tls", "httpchk"], "did you mean \"http\"? With tls = true it uses TLS"),
    (&["check"], &["ssl", "ssl-hello-chk"], "did you mean \"tls\"?"),
    (&["check"], &["postgresql", "pgsql", "pgsql-check"], "did you mean \"postgres\"?"),
    (&["check"], &["mariadb", "galera", "mysql-check"], "did you mean \"mysql\"?"),
    (&["check"], &["redis-check", "valkey"], "did you mean \"redis\"?"),
    (&["check"], &["smtpchk", "lmtp"], "did you mean \"smtp\"?"),
    (&["check"], &["tcp-check", "script", "send", "expect"], "did you mean \"send-expect\", with steps?"),
    (
        &["check"],
        &["grpc", "h2", "http2"],
        "checks use HTTP/1.1: check = \"http\" requests a page, \"tls\" makes a handshake",
    ),
    (&["check"], &["agent", "agent-check"], "agents have their own table: agent = { port = 9101 }"),
    (&["balance"], &["leastconn", "least-conn", "lc", "wlc"], "did you mean \"least-connections\"?"),
    (&["balance"], &["static-rr", "rr", "wrr"], "did you mean \"round-robin\"?"),
    (&["balance"], &["first", "priority"], "did you mean \"failover\"?"),
    (
        &["balance"],
        &["random", "p2c", "power-of-two", "least-request", "two"],
        "did you mean \"random-two\"?",
    ),
    (
        &["balance"],
        &["uri", "url-param", "hdr", "header", "cookie", "rdp-cookie"],
        "nothing is decrypted: \"maglev\" hashes \"source-ip\", \"sni\" or \"proxy-authority\"",
    ),
    (
        &["protocol", "mode"],
        &[
            "mysql", "mariadb", "ldap", "ldaps", "redis", "mqtt", "ssh", "sieve", "xmpp", "mongodb", "kafka",
            "amqp", "ftp", "rdp", "raw", "layer4",
        ],
        "did you mean \"tcp\"? The bytes are not changed",
    ),
    (
        &["protocol", "mode"],
        &["http", "h2", "grpc"],
        "did you mean \"tcp\", or \"tls\" for HTTPS? HTTP itself is not read",
    ),
    (&["protocol", "mode"], &["https", "ssl", "tls-passthrough", "sni"], "did you mean \"tls\"?"),
    (&["protocol", "mode"], &["postgresql", "pgsql"], "did you mean \"postgres\"?"),
    (&["protocol", "mode"], &["udp", "quic", "http3", "dtls"], "only TCP is served"),
    (
        &["to"],
        &["syslog", "journal", "journald", "stderr", "console"],
        "\"stdout\" goes to the journal under systemd, and to the container's log",
    ),
    (&["check"], &["none", "false", "no", "disabled"], "did you mean \"off\"?"),
    (&["check"], &["pgsql", "postgresql", "pg-isready"], "did you mean \"postgres\"?"),
    (&["check"], &["ssl", "ssl-hello", "ssl-hello-chk"], "did you mean \"tls\"?"),
    (&["check"], &["ping"], "did you mean \"tcp\"?"),
];

/// A file format of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForeignFormat {
    Yaml,
    Nginx,
    HaProxy,
    Json,
    Xml,
}

impl ForeignFormat {
    /// Returns its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Yaml => "YAML",
            Self::Nginx => "the form of nginx, with braces and semicolons",
            Self::HaProxy => "the form of HAProxy",
            Self::Json => "JSON",
            Self::Xml => "XML",
        }
    }

    /// Detects the format of a text that is not TOML by its first lines.
    pub(super) fn of(text: &str) -> Option<Self> {
        /// The lines that are checked.
        const LINES: usize = 100;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines: Vec<&str> = lines.take(LINES).collect();
        let first = lines.first()?;
        if first.starts_with('{') {
            return Some(Self::Json);
        }
        if first.starts_with('<') {
            return Some(Self::Xml);
        }
        let most =
            |is_so: fn(&str) -> bool| lines.iter().filter(|line| is_so(line)).count() * 2 > lines.len();
        if most(is_nginx) {
            return Some(Self::Nginx);
        }
        let is_list = |line: &str| is_yaml(line) || line == "-" || line.starts_with("- ");
        if most(is_yaml) || (most(is_list) && !lines.iter().any(|line| is_toml(line))) {
            return Some(Self::Yaml);
        }
        most(is_haproxy).then_some(Self::HaProxy)
    }
}

/// Returns the line without a comment at its end.
fn without_comment(line: &str) -> &str {
    line.split(" #").next().unwrap_or_default().trim_end()
}

/// Returns true for a line that TOML may have and other forms do not: the header of a table, or a key with its value.
fn is_toml(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let is_assigned = |word: &str| word.contains('=');
    line.starts_with('[')
        || words.next().is_some_and(is_assigned)
        || words.next().is_some_and(|word| word.starts_with('='))
}

/// Returns true for a directive of nginx, for the beginning or the end of a block, and for a whole block.
fn is_nginx(line: &str) -> bool {
    let line = without_comment(line);
    let inside = line.trim_end_matches(|c: char| c == '}' || c.is_whitespace());
    let is_block = line.ends_with('}') && (inside.is_empty() || inside.ends_with(['{', ';']));
    (is_block || line.ends_with(['{', ';'])) && !is_toml(line)
}

/// Returns true for `key: value`, `key:` or `- key: value`.
fn is_yaml(line: &str) -> bool {
    let line = without_comment(line);
    let line = line.strip_prefix("- ").map_or(line, str::trim_start);
    let is_key = |key: &str| {
        !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\''))
    };
    line == "---" || line.strip_suffix(':').or(line.split_once(": ").map(|(key, _)| key)).is_some_and(is_key)
}

fn is_haproxy(line: &str) -> bool {
    const WORDS: &[&str] = &[
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "bind",
        "server",
        "mode",
        "option",
        "timeout",
        "balance",
        "default_backend",
        "use_backend",
        "maxconn",
        "log",
        "acl",
        "stick",
        "stick-table",
        "tcp-request",
        "retries",
        "daemon",
        "user",
        "group",
        "stats",
        "resolvers",
        "nameserver",
        "http-request",
        "option",
        "chroot",
    ];
    let mut words = line.split_ascii_whitespace();
    words.next().is_some_and(|word| WORDS.contains(&word)) && words.next() != Some("=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let check = |text: &str, expected: Option<ForeignFormat>| {
            assert_eq!(ForeignFormat::of(text), expected, "{text}")
        };
        check("listeners:\n  - name: web\n    bind: \":443\"\n    pool: web\n", Some(ForeignFormat::Yaml));
        check("---\n# all\npool:\n  backends:\n  - 10.0.0.1:443\n", Some(ForeignFormat::Yaml));
        check(
            "stream {\n  server {\n    listen 443;\n    proxy_pass db;\n  }\n}\n",
            Some(ForeignFormat::Nginx),
        );
        check(
            "global\n  daemon\nfrontend f\n  bind :443\n  default_backend b\nbackend b\n  server s 10.0.0.1:443 check\n",
            Some(ForeignFormat::HaProxy),
        );
        check("{ \"listener\": {} }", Some(ForeignFormat::Json));
        check("<config/>", Some(ForeignFormat::Xml));
        check("", None);
        check("[listener.a]\nbind = ':1\npool = 'p'\n", None);
        check("bind = x\nmode = y\nserver = z\n", None);
        check(
            "stream {\n  upstream db { server a:1; }\n  server { listen 1; }\n}\n",
            Some(ForeignFormat::Nginx),
        );
        check("stream { server { listen 1; proxy_pass db; } }", Some(ForeignFormat::Nginx));
        check("worker_processes 4; # all\nevents {} # none\n", Some(ForeignFormat::Nginx));
        check("listener:\n- a\n", Some(ForeignFormat::Yaml));
        check("bind: # all\n  - ':1'\n  - ':2'\n", Some(ForeignFormat::Yaml));
        check("- a\n- b\n", Some(ForeignFormat::Yaml));
    }

    #[test]
    fn broken_toml_is_no_foreign_form() {
        for text in [
            "bind = ':1';\npool = 'p';\n",
            "bind=':1';\npool='p';\n",
            "health = {\ncheck = 'tcp'\n}\n",
            "health = { a = { b = 1 } }\nagent = { a = { b = ';' } }\nx",
            "listener.a = {bind=':1'}\nlistener.b = {bind=':2'}\nx",
            "backends = [\n- 'a'\n- 'b'\n- 'c'\n]\n",
            "[pool.a]\n- 'a'\n- 'b'\n",
        ] {
            assert_eq!(ForeignFormat::of(text), None, "{text}");
        }
    }

    #[test]
    fn keys_and_words_of_others_have_a_hint() {
        assert!(key("a pool", "Servers").unwrap().contains("backends = ["));
        assert!(key("a backend", "host").unwrap().contains("address = "));
        assert!(key("a listener", "ssl-certificate").unwrap().contains("TLS passes through"));
        assert!(key("a forward", "timeout").is_some());
        assert!(key("the access log", "logasap").unwrap().contains("\"start\""));
        assert_eq!(key("a pool", "nonsense"), None);
        assert!(word("balance", "ip_hash").unwrap().contains("maglev"));
        assert!(word("protocol", "UDP").unwrap().contains("only TCP"));
        assert_eq!(word("balance", "nonsense"), None);
        for (nouns, keys, hint) in KEYS.iter().chain(WORDS) {
            assert!(!keys.is_empty() && !hint.is_empty() && !hint.contains("  "), "{nouns:?} {keys:?}");
        }
    }
}
