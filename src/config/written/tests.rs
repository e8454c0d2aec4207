use serde_json::json;

use super::*;
use crate::config::{Config, one_liner, parse};

const TEXT: &str = r#"# A comment.
workers = 0x4
hash_key = "00112233445566778899aabbccddeeff"
shutdown.drain = "10s"

[admin]
listen = ["unix:/run/a", "127.0.0.1:9"]

[listener.web]
bind = ":80"
pool = "db.internal"
routes = [
  { source = "10.0.0.0/8", pool = "db.internal" },
  {
    source = "10.1.0.0/16",
    pool = "db.internal",
  },
]

[[listener.tls.routes]]
sni = "a.example"
pool = "db.internal"

[listener.tls]
bind = ":443"
protocol = "tls"

[pool."db.internal"]
max_load = 1.25
backends = [
  "10.0.0.1:1", { address = "10.0.0.2:1", weight = 1_000 },
  "10.0.0.3:1",
]
[pool."db.internal".ejection]
[pool."db.internal".health]
check = "http"
path = "/health?token=SECRET-1"
headers = { Authorization = "Bearer SECRET-2" }
[pool."db.internal".proxy_protocol]
version = "v2"
tlvs = { "0xE0" = "SECRET-3" }
[pool."db.internal".agent]
port = 1
send = "SECRET-4"
"#;

fn config(text: &str) -> Config {
    parse("/etc/pointsman/config.toml", text).unwrap_or_else(|faults| panic!("{faults}")).0
}

/// Returns the keys as lines `LINE KEY VALUE`.
fn shown(keys: &WrittenKeys) -> Vec<String> {
    let line = |WrittenKey { path, value, line }: WrittenKey| {
        let value = value.map_or_else(|| HIDDEN.to_owned(), |value| value.to_string());
        format!("{line} {path} {value}")
    };
    keys.in_order().map(line).collect()
}

#[test]
fn each_key_has_its_value_and_its_line() {
    let keys = config(TEXT).written;
    let expected = "\
7 admin.listen[0] \"unix:/run/a\"
7 admin.listen[1] \"127.0.0.1:9\"
3 hash_key -
25 listener.tls.bind \":443\"
26 listener.tls.protocol \"tls\"
22 listener.tls.routes[0].pool \"db.internal\"
21 listener.tls.routes[0].sni \"a.example\"
10 listener.web.bind \":80\"
11 listener.web.pool \"db.internal\"
13 listener.web.routes[0].pool \"db.internal\"
13 listener.web.routes[0].source \"10.0.0.0/8\"
16 listener.web.routes[1].pool \"db.internal\"
15 listener.web.routes[1].source \"10.1.0.0/16\"
43 pool.db.internal.agent.port 1
44 pool.db.internal.agent.send -
31 pool.db.internal.backends[0] \"10.0.0.1:1\"
31 pool.db.internal.backends[1].address \"10.0.0.2:1\"
31 pool.db.internal.backends[1].weight 1000
32 pool.db.internal.backends[2] \"10.0.0.3:1\"
34 pool.db.internal.ejection {}
36 pool.db.internal.health.check \"http\"
38 pool.db.internal.health.headers.Authorization -
37 pool.db.internal.health.path -
29 pool.db.internal.max_load 1.25
41 pool.db.internal.proxy_protocol.tlvs.0xE0 -
40 pool.db.internal.proxy_protocol.version \"v2\"
4 shutdown.drain \"10s\"
2 workers 4";
    assert_eq!(shown(&keys).join("\n"), expected);
    assert_eq!(keys.source().place(7).as_deref(), Some("config.toml:7"));
    let paths: Vec<_> = keys.in_order().map(|key| key.path).collect();
    assert!(paths.is_sorted(), "{paths:?}");
}

#[test]
fn each_position_has_its_line() {
    let text = "\n".repeat(BLOCK) + &"a line\n".repeat(1000) + "the last";
    let counts = LineCounts::of(&text);
    for at in (0..=text.len()).step_by(7).chain([BLOCK - 1, BLOCK, BLOCK + 1, text.len()]) {
        assert_eq!(counts.line(at), text[..at].matches('\n').count() + 1, "{at}");
    }
    assert_eq!(LineCounts::of("").line(0), 1);
}

#[test]
fn no_secret_is_kept() {
    let keys = config(TEXT).written;
    let mut lines = String::new();
    std::io::Read::read_to_string(&mut DeflateDecoder::new(&*keys.others), &mut lines).unwrap();
    assert!(lines.contains("10.0.0.2:1") && lines.contains("Authorization"), "{lines}");
    assert!(!lines.contains("SECRET") && !lines.contains("00112233"), "{lines}");
    assert!(!format!("{keys:?} {:?}", keys.fixed).contains("SECRET"));
}

#[test]
fn a_command_line_has_keys_without_lines() {
    let keys = one_liner(&[":5432".to_owned()], &["10.0.0.1:5432".to_owned()]).unwrap().written;
    let keys_of: Vec<_> = keys.in_order().map(|key| (key.path.to_string(), key.value)).collect();
    let expected = [
        ("listener.main.bind[0]", ":5432"),
        ("listener.main.pool", "main"),
        ("pool.main.backends[0]", "10.0.0.1:5432"),
    ];
    assert_eq!(keys_of, expected.map(|(path, value)| (path.to_owned(), Some(json!(value)))));
    assert_eq!(keys.source().place(1), None);
}

/// The text of a file cannot break the lines in which its keys are kept, or make them long.
#[test]
fn hostile_texts_stay_one_value() {
    let strange = r#""a\t7\tb\n\u001b[2J.[0]""#;
    let text = format!(
        "[listener.pg]\nbind = ':1'\nprotocol = 'postgres'\ndatabases = {{ {strange} = 'p' }}\nunmatched = 'p'\n\
         [pool.p]\nbackends = ['10.0.0.1:1']\nhealth = {{ check = 'http', body = \"{}\" }}\n",
        "x".repeat(4096)
    );
    let keys = shown(&config(&text).written);
    assert!(keys.contains(&format!("4 listener.pg.databases.{strange} \"p\"")), "{keys:?}");
    let body = keys.iter().find(|line| line.contains(".body ")).unwrap();
    assert!(body.ends_with("x...\"") && body.len() < LONGEST_VALUE + 50, "{}", body.len());
    assert_eq!(keys.len(), 7, "{keys:?}");
}

const POOL: &str = "[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n";

#[test]
fn a_reload_keeps_the_keys_that_only_a_restart_can_change() {
    let start = format!(
        "workers = 1\nlimits = {{ sources = 8, tarpit = 1 }}\nadmin = {{ listen = '127.0.0.1:9' }}\n{POOL}"
    );
    let new = format!(
        "# One line more.\nworkers = 2\nlimits = {{ sources = 8, tarpit = 2 }}\n\
         admin = {{ listen = '127.0.0.1:9', mode = '0600' }}\n{POOL}"
    );
    let (start, new) = (config(&start).written, config(&new).written);
    let reloaded = new.clone().after_reload(&start, &["workers", "admin"]);
    let shown_of = |keys: &WrittenKeys| -> Vec<_> {
        shown(keys)
            .into_iter()
            .filter(|line| !line.contains(" listener.") && !line.contains(" pool."))
            .collect()
    };
    let expected =
        ["4 admin.listen \"127.0.0.1:9\"", "3 limits.sources 8", "3 limits.tarpit 2", "1 workers 1"];
    assert_eq!(shown_of(&reloaded), expected);
    let waiting: Vec<_> = reloaded.after_restart().iter().map(|key| key.path.to_string()).collect();
    assert_eq!(waiting, ["admin.listen", "admin.mode", "workers"]);
    let waits = |path: &str| reloaded.waits(&KeyPath::of_names(path));
    assert!(waits("workers") && waits("admin.mode") && !waits("limits.sources") && !waits("log.level"));
    // The next reload is compared with the values of the start.
    let again = start.clone().after_reload(&reloaded, &[]);
    assert_eq!(shown_of(&again), shown_of(&start));
    assert!(again.after_restart().is_empty() && !again.waits(&KeyPath::of_names("workers")));
}

#[test]
fn backends_have_their_position_among_host_names() {
    let text = "[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['a.example:1', '10.0.0.1:1', 'b.example:1', \
                'c.example:1', { name = 'last', address = '10.0.0.2:1' }, 'd.example:1']\n";
    let keys = config(text).written;
    let path = |backend: &str| keys.backend("p", backend).map(|path| path.to_string());
    assert_eq!(path("10.0.0.1:1").as_deref(), Some("pool.p.backends[1]"));
    assert_eq!(path("last").as_deref(), Some("pool.p.backends[4]"));
    assert_eq!((path("a.example:1"), keys.backend("q", "last")), (None, None));
}

#[test]
fn many_routes_take_little_memory() {
    let routes: String = (0..20_000)
        .map(|number| format!("  {{ sni = \"host-{number}.customers.example.com\", pool = \"p\" }},\n"))
        .collect();
    let text = format!(
        "[listener.l]\nbind = ':1'\nprotocol = 'tls'\nroutes = [\n{routes}]\n[pool.p]\nbackends = ['10.0.0.1:1']\n"
    );
    let keys = config(&text).written;
    assert!(keys.others.len() * 4 < text.len(), "{} of {}", keys.others.len(), text.len());
    assert_eq!(keys.in_order().count(), 40_003);
    let last = keys.in_order().filter(|key| key.path.is_in("listener.l.routes")).last().unwrap();
    assert_eq!((last.path.to_string(), last.line), ("listener.l.routes[19999].sni".to_owned(), 20_004));
}
