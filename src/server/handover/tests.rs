//! Connections that are adopted and leave again: tests of `conn::handover` with the resources of a whole server.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::conn::handover::{
    AdoptFault, AdoptedConnections, Adopter, AdopterResources, BatchOptions, DepartedParts,
    LeavingConnection, RouteNames,
};
use crate::limit::SourceKey;
use crate::server::start::Server;
use crate::snapshot::Snapshot;
use crate::wire::handover::{
    Batch, HandedConnection, HandedFlow, HandedIntervals, HandedLog, HandedOffer, HandedOptions,
    HandedPeerTimeouts, HandedReading, HandedRelay,
};
use crate::worker::WorkerCommand;

/// Every limit is one connection, so the second adopted connection is past all of them.
const CONFIG: &str = "workers = 1\naccess_log.to = 'off'\n\
    [listener.web]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nunmatched = 'a'\nmax_connections = 1\n\
    per_source.connections = 1\n\
    routes = [{ sni = 'r.test', name = 'r', pool = 'a', limits = { connections = 1 } }]\n\
    [listener.pg]\nbind = '127.0.0.1:0'\nprotocol = 'postgres'\nunmatched = 'a'\n\
    [listener.out]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\nunmatched = 'out'\n\
    [pool.a]\nbackends = [{ name = 'b1', address = '127.0.0.1:1', max_connections = 1 }]\nhealth.check = 'off'\n\
    limits.connections = 1\n\
    [pool.out.forward]\nallow = ['*.test']\n";

/// A server without control, and an adopter of its connections.
struct AdoptionFixture {
    server: Server,
    adopter: Adopter,
}

impl Drop for AdoptionFixture {
    fn drop(&mut self) {
        self.server.order_all(|| WorkerCommand::Finish);
    }
}

impl AdoptionFixture {
    fn new() -> Self {
        let server = Server::start(config::parse("test.toml", CONFIG).unwrap().0).unwrap();
        let resources = AdopterResources {
            snapshot: Arc::clone(&server.view.snapshot),
            bounds: Arc::clone(&server.view.bounds),
            metrics: Arc::clone(&server.view.metrics),
            senders: Arc::clone(&server.migration_senders),
            loads: Arc::clone(&server.loads),
        };
        let adopter = Adopter::new(resources, DepartedParts::default());
        Self { server, adopter }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.server.view.snapshot.load_full()
    }

    fn adopt(&mut self, sent: SentConnections) -> Result<AdoptedConnections, AdoptFault> {
        let SentConnections { batch, raw, descriptors } = sent;
        self.adopter.adopt(batch, raw, descriptors)
    }

    /// Adopts connections, and returns them on their way to another program.
    fn adopt_and_leave(&mut self, sent: SentConnections) -> Vec<LeavingConnection> {
        let adopted = self.adopt(sent).unwrap();
        assert_eq!(adopted.declined(), [] as [u64; 0]);
        adopted.into_leaving(&self.server.loads)
    }

    /// Returns the batch in which connections leave.
    fn send(&self, leaving: &[LeavingConnection]) -> SentConnections {
        let names = RouteNames::of(&self.snapshot());
        let mut options = BatchOptions::default();
        let connections = leaving.iter().map(|one| one.message(&names, &mut options)).collect();
        let raw = leaving.iter().flat_map(LeavingConnection::held_bytes).collect::<Vec<_>>().concat();
        let descriptors = leaving.iter().flat_map(LeavingConnection::descriptors);
        // Another process gets descriptors of its own.
        let descriptors = descriptors.map(|descriptor| descriptor.try_clone_to_owned().unwrap()).collect();
        let batch = Batch { number: 1, connections, options: options.into_list() };
        SentConnections { batch, raw, descriptors }
    }
}

/// The parts of a frame with a batch.
struct SentConnections {
    batch: Batch,
    raw: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Returns a batch of connections without peers.
fn sent(connections: Vec<HandedConnection>, raw: &[u8]) -> SentConnections {
    let count = connections.iter().map(|one| if one.relay.is_some() { 2 } else { 1 }).sum();
    let descriptors = (0..count).map(|_| UnixStream::pair().unwrap().0.into()).collect();
    let batch = Batch { number: 1, connections, options: vec![options("auto"), options("copy")] };
    SentConnections { batch, raw: raw.to_vec(), descriptors }
}

fn options(engine: &str) -> HandedOptions {
    let client = HandedPeerTimeouts {
        keepalive: Some((60_000, 10_000, 3)),
        user_ms: Some(30_000),
        stall_ms: Some(120_000),
    };
    HandedOptions {
        engine: engine.to_owned(),
        idle_ms: 3_600_000,
        half_closed_ms: 60_000,
        linger_ms: 1000,
        client,
        backend: HandedPeerTimeouts::default(),
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// A relay with a value in each field, and the bytes `held in both` in its directions.
fn relay(id: u64) -> HandedConnection {
    let flow = |stage: &str, held, nodelay: &str| HandedFlow {
        stage: stage.to_owned(),
        held,
        nodelay: nodelay.to_owned(),
    };
    let relay = HandedRelay {
        options: 1,
        from_client: flow("ending", 5, "never"),
        from_backend: flow("open", 7, "second"),
        total_from_client: 123_456,
        total_from_backend: 9_876_543_210,
        dropped: 5,
        pool: "a".to_owned(),
        backend: "b1".to_owned(),
        backend_address: "127.0.0.1:1".to_owned(),
        reports_troubles: true,
        waits_for_first_byte: true,
        is_session: true,
        forward_mark: None,
        route: text("r"),
        holds_route: true,
        holds_pool: true,
        connected_us: 17_100,
        intervals: Some(HandedIntervals { after_s: Some(2), from_client: 1234, from_backend: 9_876_543_209 }),
    };
    let offered = HandedOffer {
        alpn: text("h2,http/1.1"),
        tls_versions: text("1.3,1.2"),
        ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
        ech: true,
        segments: 2,
        records: 1,
    };
    let log = HandedLog {
        sni: text("r.test"),
        route: text("r"),
        attempts: 2,
        dialled: text("127.0.0.1:8443"),
        offered: Some(offered),
        hello_us: Some(900),
        queue_us: Some(15_000),
        connect_us: Some(1200),
        ..HandedLog::default()
    };
    HandedConnection {
        id,
        pool: text("a"),
        sni: text("r.test"),
        route: text("r"),
        log: Some(Box::new(log)),
        relay: Some(Box::new(relay)),
        quiet_ms: 61_000,
        ..connection()
    }
}

/// A client that has sent a PROXY header and a part of its hello: the bytes `header+hello`.
fn reading(id: u64) -> HandedConnection {
    let log = HandedLog {
        peer: text("10.0.0.5:5000"),
        proxy_authority: text("r.test"),
        proxy_alpn: text("h2"),
        unique_id: text("6964"),
        private_link: text("vpce-08d2bf15fac5001c9"),
        ..HandedLog::default()
    };
    let reading = HandedReading { socket: String::new(), bytes: 12, header: 7, begun_us: Some(2_400_000) };
    HandedConnection {
        id,
        link: Some((234, "vpce-08d2bf15fac5001c9".to_owned())),
        log: Some(Box::new(log)),
        reading: Some(reading),
        ..connection()
    }
}

fn connection() -> HandedConnection {
    HandedConnection {
        listener: "web".to_owned(),
        client: "203.0.113.7:40000".to_owned(),
        age_us: 2_500_000,
        accepted_ms: 1_790_000_100_000,
        quiet_ms: 1500,
        source: text("00000000000000000000ffffcb007107"),
        ..HandedConnection::default()
    }
}

/// Sets the ages of `found` to those of `expected`, from which they differ by the time of the test.
fn without_ages(mut found: HandedConnection, expected: &HandedConnection) -> HandedConnection {
    const MOST: u64 = 60_000_000;

    let age = |found: &mut u64, expected: u64| {
        assert!((expected..expected + MOST).contains(found), "{found} {expected}");
        *found = expected;
    };
    age(&mut found.age_us, expected.age_us);
    if let (Some(found), Some(expected)) = (&mut found.reading, &expected.reading) {
        age(found.begun_us.as_mut().unwrap(), expected.begun_us.unwrap());
        found.socket.clone_from(&expected.socket);
    }
    found
}

#[test]
fn connections_pass_unchanged_through_two_programs() {
    let given = [relay(41), reading(42)];
    let raw = b"held in bothheader+hello";
    let mut first = AdoptionFixture::new();
    let leaving = first.adopt_and_leave(sent(given.to_vec(), raw));
    assert_eq!(leaving.iter().map(LeavingConnection::id).collect::<Vec<_>>(), [41, 42]);
    let between = first.send(&leaving);
    let mut second = AdoptionFixture::new();
    let leaving = second.adopt_and_leave(between);
    let SentConnections { batch, raw: after, descriptors } = second.send(&leaving);
    assert_eq!((after.as_slice(), descriptors.len()), (&raw[..], 3));
    assert_eq!(batch.options, [options("copy")], "only the used options are sent");
    for (found, given) in batch.connections.into_iter().zip(given) {
        let mut expected = given;
        if let Some(relay) = &mut expected.relay {
            relay.options = 0;
        }
        assert_eq!(without_ages(found, &expected), expected);
    }
    assert!(second.adopter.take_departed().is_empty());
}

/// A program without these fields sends the names in the fields of the log line alone.
#[test]
fn names_may_come_with_the_log_line() {
    let mut given = relay(41);
    (given.sni, given.route) = (None, None);
    let mut fixture = AdoptionFixture::new();
    let leaving = fixture.adopt_and_leave(sent(vec![given], b"held in both"));
    let again = fixture.send(&leaving).batch.connections.remove(0);
    assert_eq!((again.sni, again.route, again.pool), (text("r.test"), text("r"), text("a")));
    let mut unlogged = relay(42);
    (unlogged.sni, unlogged.log) = (None, None);
    let leaving = fixture.adopt_and_leave(sent(vec![unlogged], b"held in both"));
    let again = fixture.send(&leaving).batch.connections.remove(0);
    assert_eq!((again.sni, again.route), (None, text("r")));
}

#[test]
fn adopted_connections_count_past_their_limits_until_they_have_left() {
    let mut fixture = AdoptionFixture::new();
    let raw = b"held in bothheld in bothheader+hello";
    let adopted = fixture.adopt_and_leave(sent(vec![relay(1), relay(2), reading(3)], raw));
    let (snapshot, bounds) = (fixture.snapshot(), Arc::clone(&fixture.server.view.bounds));
    let web = snapshot.policies.values().find(|policy| &*policy.listener == "web").unwrap();
    let route = web.protocol.routes().targets[0].limits.as_ref().unwrap();
    let served = &snapshot.pools["a"];
    let source = SourceKey::from_bits(0xffff_cb00_7107);
    let counts = || {
        [
            bounds.connections.inside(),
            web.gate.inside(),
            bounds.sources.open_of(web.listener_id, source).into(),
            route.quota.open(),
            served.limits.as_ref().unwrap().quota.open(),
            served.pool.backends()[0].active(),
            served.pool.backends()[0].traffic().counts().waiting(),
        ]
    };
    assert_eq!(counts(), [3, 3, 3, 2, 2, 2, 2]);
    adopted.into_iter().for_each(LeavingConnection::handed_over);
    assert_eq!(counts(), [0; 7]);
}

#[test]
fn a_forwarded_connection_keeps_its_mark() {
    let mut fixture = AdoptionFixture::new();
    let snapshot = fixture.snapshot();
    let backend = &snapshot.pools["out"].pool.backends()[0];
    let mut forwarded = relay(5);
    forwarded.listener = "out".to_owned();
    if let Some(relay) = &mut forwarded.relay {
        relay.pool = "out".to_owned();
        relay.backend = backend.name().to_string();
        relay.backend_address = backend.address().to_string();
        relay.forward_mark = Some(77);
        (relay.is_session, relay.holds_pool, relay.holds_route, relay.route) = (false, false, false, None);
    }
    let leaving = fixture.adopt_and_leave(sent(vec![forwarded.clone()], b"held in both"));
    let mut again = fixture.send(&leaving).batch.connections;
    if let Some(relay) = &mut forwarded.relay {
        relay.options = 0;
    }
    assert_eq!(without_ages(again.remove(0), &forwarded), forwarded);
    assert!(fixture.adopter.take_departed().is_empty());
}

#[test]
fn the_sockets_are_those_of_the_connection() {
    let mut fixture = AdoptionFixture::new();
    let ((mut client, of_client), (mut backend, of_backend)) =
        (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let mut batch = sent(vec![relay(1)], b"held in both");
    batch.descriptors = vec![of_client.into(), of_backend.into()];
    let leaving = fixture.adopt_and_leave(batch);
    let [to_client, to_backend] = leaving[0].descriptors()[..] else { panic!("it has two sockets") };
    for (socket, peer, byte) in [(to_client, &mut client, b'c'), (to_backend, &mut backend, b'b')] {
        UnixStream::from(socket.try_clone_to_owned().unwrap()).write_all(&[byte]).unwrap();
        let mut read = [0];
        peer.read_exact(&mut read).unwrap();
        assert_eq!(read, [byte]);
    }
    assert!(leaving[0].pause() < Duration::from_secs(60));
    drop(leaving);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the socket is closed with the connection");
}

fn check_fault(sent: SentConnections, expected: AdoptFault) {
    let mut fixture = AdoptionFixture::new();
    assert_eq!(fixture.adopt(sent).err(), Some(expected));
    let bounds = &fixture.server.view.bounds;
    assert_eq!(bounds.connections.inside(), 0, "no connection of the batch is adopted");
}

#[test]
fn a_batch_whose_parts_do_not_fit_together_is_not_adopted() {
    let whole = || sent(vec![relay(1), reading(2)], b"held in bothheader+hello");
    let with_descriptors = |change: fn(&mut Vec<OwnedFd>)| {
        let mut sent = whole();
        change(&mut sent.descriptors);
        sent
    };
    for missing in 1..=3 {
        let mut sent = whole();
        sent.descriptors.truncate(3 - missing);
        check_fault(sent, AdoptFault::Descriptors);
    }
    let more = with_descriptors(|descriptors| descriptors.push(UnixStream::pair().unwrap().0.into()));
    check_fault(more, AdoptFault::Descriptors);
    let with_raw = |raw: &[u8]| SentConnections { raw: raw.to_vec(), ..whole() };
    for raw in [&b""[..], b"held", b"held in bothheader+hell", b"held in bothheader+hello and more"] {
        check_fault(with_raw(raw), AdoptFault::Bytes);
    }
    let with_relay = |change: fn(&mut HandedRelay)| {
        let mut relay = relay(1);
        change(relay.relay.as_mut().unwrap());
        sent(vec![reading(2), relay], b"header+helloheld in both")
    };
    check_fault(with_relay(|relay| relay.options = 2), AdoptFault::Options);
    check_fault(with_relay(|relay| relay.options = usize::MAX), AdoptFault::Options);
    check_fault(with_relay(|relay| relay.from_client.held = usize::MAX), AdoptFault::Bytes);
    check_fault(with_relay(|relay| relay.from_client.stage = "later".to_owned()), AdoptFault::Stage);
    check_fault(with_relay(|relay| relay.from_backend.stage.clear()), AdoptFault::Stage);
    let neither = HandedConnection { reading: None, ..reading(1) };
    check_fault(sent(vec![neither], b""), AdoptFault::Stage);
    let both = HandedConnection { reading: reading(1).reading, ..relay(1) };
    check_fault(sent(vec![both], b"held in bothheader+hello"), AdoptFault::Stage);
    let adopted = AdoptionFixture::new().adopt(sent(Vec::new(), b"")).unwrap();
    assert_eq!(adopted.count(), 0, "a batch may be empty");
}

#[test]
fn a_client_of_an_unknown_listener_is_declined_while_it_is_read() {
    let mut fixture = AdoptionFixture::new();
    let unknown = HandedConnection { listener: "old".to_owned(), ..reading(7) };
    let batch = sent(vec![unknown, reading(8)], b"header+helloheader+hello");
    let adopted = fixture.adopt(batch).unwrap();
    assert_eq!((adopted.declined(), adopted.count()), (&[7][..], 1));
    assert!(fixture.adopter.take_departed().is_empty());
}

#[test]
fn unknown_listeners_and_backends_of_relays_depart() {
    let mut fixture = AdoptionFixture::new();
    let unknown = |id| {
        let mut unknown = HandedConnection { listener: "old".to_owned(), ..relay(id) };
        let relay = unknown.relay.as_mut().unwrap();
        (relay.pool, relay.backend) = ("gone".to_owned(), "b9".to_owned());
        unknown
    };
    let batch = sent(vec![unknown(1), unknown(2), relay(3)], b"held in bothheld in bothheld in both");
    let adopted = fixture.adopt_and_leave(batch);
    let departed = fixture.adopter.take_departed();
    assert_eq!(departed.listeners.keys().map(|name| &**name).collect::<Vec<_>>(), ["old"]);
    assert_eq!(departed.listeners["old"].gate.inside(), 2);
    let [backend] = &departed.backends[..] else { panic!("one backend departs") };
    assert_eq!((&**backend.pool(), &**backend.name(), backend.active()), ("gone", "b9", 2));
    // They are reported once, and found again.
    let again = fixture.adopt_and_leave(sent(vec![unknown(4)], b"held in both"));
    assert!(fixture.adopter.take_departed().is_empty());
    assert_eq!((departed.listeners["old"].gate.inside(), backend.active()), (3, 3));
    drop((adopted, again));
    assert_eq!((departed.listeners["old"].gate.inside(), backend.active()), (0, 0));
}
