//! The messages of each release are read, and written again, unchanged. `tests/fixtures/handover` has a folder for each
//! release with a file for each kind of message. A release that adds a field adds its folder and a line to [`RELEASES`];
//! the earlier folders stay as they are. The state of a process, `state.json`, has its tests in `state`.

use serde_json::Value;

use super::*;

#[test]
fn the_highest_common_protocol_is_chosen() {
    let range = |min, max| Protocols { min, max };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
    assert_eq!(range(1, 2).common(range(3, 4)), None);
    assert_eq!(range(1, 1).common(range(1, 1)), Some(1));
}

#[test]
fn unknown_fields_are_ignored_and_missing_fields_have_defaults() {
    let read = Message::decode(7, br#"{"next_id": 5, "later": [1, {"a": 2}]}"#).unwrap();
    assert_eq!(read, Message::Go(Go { next_id: 5, additions: Vec::new() }));
    assert_eq!(Message::decode(7, b"{}").unwrap(), Message::Go(Go::default()));
    assert!(matches!(Message::decode(0, b"{}"), Err(MessageFault::Kind(0))));
    assert!(matches!(Message::decode(7, b"["), Err(MessageFault::Json { kind: "Go", .. })));
}

/// A message of a release: its kind, its text, and its value.
type GoldenMessage = (u8, &'static str, Message);

/// A release and the function that returns its messages.
type GoldenRelease = (&'static str, fn() -> Vec<GoldenMessage>);

/// The releases with their messages.
const RELEASES: [GoldenRelease; 1] = [("0.2.0", of_0_2_0)];

/// Returns the text of a message of 0.2.0.
macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/handover/0.2.0/", $name, ".json"))
    };
}

fn of_0_2_0() -> Vec<GoldenMessage> {
    let protocols = Protocols { min: 1, max: 1 };
    let (version, commit) = ("0.2.0".to_owned(), "a77c0de".to_owned());
    let hello = Hello {
        protocols,
        version,
        commit,
        pid: 4711,
        nofile: 65_536,
        cgroup: Some("0::/system.slice/pointsman.service".to_owned()),
    };
    let listener = HandedSocket {
        part: "listener".to_owned(),
        listener: "web".to_owned(),
        configured: "0.0.0.0:443".to_owned(),
        address: "0.0.0.0:443".to_owned(),
        device: 0,
        inode: 0,
    };
    let admin = HandedSocket {
        part: "admin".to_owned(),
        listener: String::new(),
        configured: "unix:/run/pointsman/admin.sock".to_owned(),
        address: "unix:/run/pointsman/admin.sock".to_owned(),
        device: 25,
        inode: 1234,
    };
    let connections = vec![reading_of_0_2_0(), relay_of_0_2_0()];
    let rest = Rest {
        moved: 5009,
        remaining: 3,
        stages: [("dialing".to_owned(), 1), ("reading".to_owned(), 2)].into(),
        moved_in_us: 212_000,
        longest_pause_us: 9000,
        p99_pause_us: 4500,
    };
    let counter = HandedCounter {
        family: "pointsman_connections_total".to_owned(),
        labels: [("listener".to_owned(), "web".to_owned())].into(),
        value: 3,
    };
    let addition =
        HandedAddition { list: "l".to_owned(), entry: "10.9.0.0/16".to_owned(), left_ms: Some(3600000) };
    let counts = ProcessState { counters: vec![counter], ..ProcessState::default() };
    let refused = "process 4711 takes over since 2 s".to_owned();
    let declined = "the batch has fewer or more descriptors than its connections need".to_owned();
    let reloaded = Reloaded {
        changes: Some("listener web changed".to_owned()),
        fault: Some("unknown key `oops`".to_owned()),
    };
    vec![
        (1, golden!("hello"), Message::Hello(hello)),
        (2, golden!("welcome"), Message::Welcome(Box::new(welcome_of_0_2_0()))),
        (3, golden!("refused"), Message::Refused(Refused { reason: refused })),
        (4, golden!("sockets"), Message::Sockets(Sockets { sockets: vec![listener, admin], more: true })),
        (6, golden!("ready"), Message::Ready(Ready {})),
        (7, golden!("go"), Message::Go(Go { next_id: 105_012, additions: vec![addition] })),
        (8, golden!("batch"), Message::Batch(Batch { number: 7, connections, options: options_of_0_2_0() })),
        (9, golden!("adopted"), Message::Adopted(Adopted { number: 7, declined: vec![41] })),
        (10, golden!("declined"), Message::Declined(Declined { number: 8, reason: declined })),
        (11, golden!("rest"), Message::Rest(rest)),
        (12, golden!("done"), Message::Done(Done { state: counts })),
        (13, golden!("query"), Message::Query(Query { protocols })),
        (14, golden!("reload"), Message::Reload(Reload {})),
        (15, golden!("reloaded"), Message::Reloaded(reloaded)),
    ]
}

fn welcome_of_0_2_0() -> Welcome {
    let text = |text: &str| Some(text.to_owned());
    Welcome {
        protocol: Some(1),
        version: "0.2.0".to_owned(),
        commit: "3f2a91c".to_owned(),
        pid: 812,
        pid_namespace: text("pid:[4026531836]"),
        started_ms: 1_790_000_000_000,
        connections: 5012,
        config_file: text("/etc/pointsman/config.toml"),
        admin: text("unix:/run/pointsman/admin.sock"),
        directory: text("/"),
        notify_socket: text("/run/systemd/notify"),
        watchdog_us: Some(30_000_000),
        cgroup: text("0::/system.slice/pointsman.service"),
        drain_ms: 30_000,
    }
}

/// A connection that has sent a PROXY header and a part of its hello.
fn reading_of_0_2_0() -> HandedConnection {
    let text = |text: &str| Some(text.to_owned());
    let log = HandedLog {
        peer: text("10.0.0.5:5000"),
        proxy_authority: text("a.test"),
        proxy_alpn: text("h2"),
        unique_id: text("6964"),
        private_link: text("vpce-08d2bf15fac5001c9"),
        ..HandedLog::default()
    };
    HandedConnection {
        id: 41,
        listener: "web".to_owned(),
        client: "203.0.113.7:40000".to_owned(),
        age_us: 2_500_000,
        accepted_ms: 1_790_000_100_000,
        quiet_ms: 1500,
        source: text("00000000000000000000ffffcb007107"),
        link: Some((234, "vpce-08d2bf15fac5001c9".to_owned())),
        pool: None,
        sni: None,
        route: None,
        authority: None,
        log: Some(Box::new(log)),
        reading: Some(HandedReading {
            socket: "0.0.0.0:443".to_owned(),
            bytes: 60,
            header: 28,
            begun_us: Some(2_400_000),
        }),
        relay: None,
    }
}

/// A connection whose backend is connected, with a value in each field.
fn relay_of_0_2_0() -> HandedConnection {
    let text = |text: &str| Some(text.to_owned());
    let offered = HandedOffer {
        alpn: text("h2,http/1.1"),
        tls_versions: text("1.3,1.2"),
        ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
        ech: true,
        segments: 2,
        records: 1,
    };
    let log = HandedLog {
        sni: text("a.test"),
        route: text("r"),
        attempts: 2,
        dialled: text("10.0.0.3:8443"),
        reported: text("name_not_allowed"),
        port: Some(8443),
        offered: Some(offered),
        hello_us: Some(900),
        queue_us: Some(15_000),
        connect_us: Some(1200),
        ..HandedLog::default()
    };
    let flow = |stage: &str, held, nodelay: &str| HandedFlow {
        stage: stage.to_owned(),
        held,
        nodelay: nodelay.to_owned(),
    };
    let relay = HandedRelay {
        options: 1,
        from_client: flow("ending", 4096, "never"),
        from_backend: flow("open", 17, "second"),
        total_from_client: 123_456,
        total_from_backend: 9_876_543_210,
        dropped: 5,
        pool: "app".to_owned(),
        backend: "b1".to_owned(),
        backend_address: "10.0.0.2:8443".to_owned(),
        reports_troubles: true,
        waits_for_first_byte: true,
        is_session: true,
        forward_mark: Some(18_446_744_073_709_551_615),
        route: text("r"),
        holds_route: true,
        holds_pool: true,
        connected_us: 17_100,
        intervals: None,
    };
    HandedConnection {
        id: 42,
        listener: "web".to_owned(),
        client: "[2001:db8::7]:40001".to_owned(),
        age_us: 86_400_000_000,
        accepted_ms: 1_789_913_600_000,
        quiet_ms: 61_000,
        source: text("20010db8000000000000000000000007"),
        link: None,
        pool: text("app"),
        sni: None,
        route: None,
        authority: None,
        log: Some(Box::new(log)),
        reading: None,
        relay: Some(Box::new(relay)),
    }
}

fn options_of_0_2_0() -> Vec<HandedOptions> {
    let timeouts = HandedPeerTimeouts {
        keepalive: Some((60_000, 10_000, 3)),
        user_ms: Some(30_000),
        stall_ms: Some(120_000),
    };
    let options = |engine: &str, backend| HandedOptions {
        engine: engine.to_owned(),
        idle_ms: 3_600_000,
        half_closed_ms: 60_000,
        linger_ms: 1000,
        client: timeouts.clone(),
        backend,
    };
    vec![options("auto", timeouts.clone()), options("splice", HandedPeerTimeouts::default())]
}

#[test]
fn the_messages_of_each_release_are_read_and_written_unchanged() {
    for (release, messages) in RELEASES {
        for (kind, text, expected) in messages() {
            let name = expected.name();
            let read = Message::decode(kind, text.as_bytes()).unwrap();
            assert_eq!(read, expected, "{name} of {release}");
            let (same, written) = read.encode();
            assert_eq!(same, kind, "{name} of {release}");
            let written: Value = serde_json::from_slice(&written).unwrap();
            let golden: Value = serde_json::from_str(text).unwrap();
            // This program may have further fields. No field of the release was renamed or lost.
            assert_eq!(common(&written, &golden), golden, "{name} of {release}");
            if release == env!("CARGO_PKG_VERSION") {
                assert_eq!(written, golden, "a new field needs a value in {name} of {release}");
            }
        }
    }
}

/// Returns the fields of `written` that `golden` has.
fn common(written: &Value, golden: &Value) -> Value {
    match (written, golden) {
        (Value::Object(fields), Value::Object(known)) => {
            let kept =
                fields.iter().filter_map(|(name, field)| Some((name, common(field, known.get(name)?))));
            Value::Object(kept.map(|(name, field)| (name.clone(), field)).collect())
        }
        (Value::Array(items), Value::Array(known)) if items.len() == known.len() => {
            Value::Array(items.iter().zip(known).map(|(item, known)| common(item, known)).collect())
        }
        _ => written.clone(),
    }
}

/// A program that is older than a field does not send it. Its value is then that of an empty message.
#[test]
fn each_field_of_a_message_may_be_missing() {
    let mut removed = 0;
    for (release, messages) in RELEASES {
        for (kind, text, whole) in messages() {
            let golden: Value = serde_json::from_str(text).unwrap();
            let mut paths = Vec::new();
            add_paths(&golden, "", &mut paths);
            for path in paths {
                let (parent, field) = path.rsplit_once('/').unwrap();
                let mut without = golden.clone();
                let fields = without.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                let value = fields.remove(field).unwrap();
                let read = Message::decode(kind, &serde_json::to_vec(&without).unwrap());
                let read = read.unwrap_or_else(|fault| panic!("{release}: {path}: {fault}"));
                assert_eq!(read == whole, is_empty(&value), "{release}: {path}: {read:?}");
                removed += 1;
            }
        }
    }
    assert!(removed > 100, "{removed}");
}

/// Returns true for the value of a field in an empty message.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// Adds the path of each field below a value.
fn add_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        add_paths(item, &format!("{path}/{at}"), paths);
    }
    for (name, item) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        add_paths(item, &path, paths);
        paths.push(path);
    }
}
