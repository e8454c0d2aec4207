//! Peers that pause, lose packets and vanish, with the default configuration and in real time.
//!
//! A peer that answers keeps its connection, however long it reads nothing, and even if single packets are
//! lost. A peer that is gone is closed after about 60 s with bytes under way, and after about 120 s when
//! idle. All cases run at once, each on a connection of its own. Each drops only packets of its connection.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::network::Network;
use super::{Directory, Program, run};

/// Longer than the time until a gone peer with bytes under way is closed.
const PAUSE: Duration = Duration::from_secs(70);

/// Longer than the time until a gone, idle peer is closed.
const LONG: Duration = Duration::from_secs(150);

/// The time until a gone peer with bytes under way is closed: 60 s since its last answer, and two sweeps.
const UNDER_WAY: std::ops::Range<u64> = 55..85;

/// The time until an idle peer that is gone is closed: 60 s, and four probes at intervals of 15 s.
const IDLE: std::ops::Range<u64> = 110..140;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerFault {
    /// The peer reads nothing for [`PAUSE`], then all bytes.
    Pause,
    /// The peer reads nothing for [`PAUSE`], then all bytes. Each packet is lost with a probability of 20 %.
    LossyPause,
    /// Small requests and answers; each packet is lost with a probability of 20 %.
    LossyTalk,
    /// This number of keepalive probes is lost in a row, then none.
    LostProbes(u64),
    /// The link of the peer is cut while the peer reads a stream.
    GoneUnderWay,
    /// The link of the peer is cut while no bytes are under way.
    GoneIdle,
    /// The link of the peer is cut, and then 100 bytes are sent to the peer.
    GoneBeforeRequest,
    /// The link of the peer is cut after the peer has read nothing for [`PAUSE`].
    GoneStalled,
}

const CASES: [PeerFault; 9] = [
    PeerFault::Pause,
    PeerFault::LossyPause,
    PeerFault::LossyTalk,
    PeerFault::LostProbes(1),
    PeerFault::LostProbes(3),
    PeerFault::GoneUnderWay,
    PeerFault::GoneIdle,
    PeerFault::GoneBeforeRequest,
    PeerFault::GoneStalled,
];

/// A connection through the program, and the peer that is tested.
struct PeerConnection<'a> {
    network: &'a Network,
    /// The lock for changes of rules, which are made one at a time.
    rules: &'a Mutex<()>,
    place: &'static str,
    peer: TcpStream,
    other: TcpStream,
    /// The port at the end of the peer that only this connection has. The flag is true if it is the port of
    /// the peer itself.
    port: (u16, bool),
}

impl PeerConnection<'_> {
    /// Adds a rule for packets to the peer, or from it.
    fn rule(&self, to_peer: bool, action: &str) {
        let (port, is_own) = self.port;
        let chain = if to_peer { "to" } else { "from" };
        let end = if to_peer == is_own { "dport" } else { "sport" };
        self.nft(&format!("add rule ip lost {chain} tcp {end} {port} {action}"));
    }

    fn nft(&self, command: &str) -> String {
        let _one = self.rules.lock().unwrap();
        run(self.network.at(self.place, "nft").arg(command))
    }

    fn cut(&self) {
        self.rule(true, "drop");
        self.rule(false, "drop");
    }

    fn lose_packets(&self) {
        for to_peer in [true, false] {
            self.rule(to_peer, "numgen random mod 100 < 20 drop");
        }
    }

    /// Sends one message to the peer and one back.
    fn exchange(&self) {
        let mut buffer = [0; 4];
        (&self.other).write_all(b"ping").unwrap();
        (&self.peer).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping");
        (&self.peer).write_all(b"pong").unwrap();
        (&self.other).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong");
    }

    /// Writes to the peer until no byte was accepted for [`PAUSE`]. Returns the number of accepted bytes.
    fn stall(&self) -> usize {
        self.other.set_write_timeout(Some(PAUSE)).unwrap();
        let mut sent = 0;
        loop {
            match retried(|| (&self.other).write(&block())) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
    }

    /// Waits for the reset that the program passes on. Returns the time in seconds.
    fn end(&self, began: Instant) -> u64 {
        self.other.set_read_timeout(Some(LONG)).unwrap();
        let error = retried(|| (&self.other).read(&mut [0])).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {:?}", began.elapsed());
        began.elapsed().as_secs()
    }

    fn check(&self, fault: PeerFault) {
        match fault {
            PeerFault::Pause | PeerFault::LossyPause => {
                if fault == PeerFault::LossyPause {
                    self.lose_packets();
                }
                let sent = self.stall();
                // With losses a part is enough; the whole stream would take minutes.
                let mut left = if fault == PeerFault::Pause { sent } else { 200_000 };
                let mut buffer = vec![0; 1 << 20];
                self.peer.set_read_timeout(Some(LONG)).unwrap();
                while left > 0 {
                    let count = retried(|| (&self.peer).read(&mut buffer[..left.min(1 << 20)])).unwrap();
                    assert!(count > 0, "{left} of {sent} bytes are missing");
                    assert!(buffer[..count].iter().all(|byte| *byte == 7));
                    left -= count;
                }
                if fault == PeerFault::Pause {
                    self.exchange();
                }
            }
            PeerFault::LossyTalk => {
                self.lose_packets();
                let began = Instant::now();
                while began.elapsed() < LONG {
                    self.exchange();
                }
            }
            PeerFault::LostProbes(count) => {
                // A keepalive probe has 52 bytes: it has timestamps and no payload.
                self.rule(true, &format!("quota until {} bytes counter drop", 52 * count));
                self.peer.set_read_timeout(Some(LONG)).unwrap();
                let error = retried(|| (&self.peer).read(&mut [0])).expect_err("nothing comes");
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "the connection was closed");
                let (port, _) = self.port;
                let rules = self.nft("list chain ip lost to");
                let mut of_port = rules.lines().filter(|line| line.contains(&format!("port {port} ")));
                let rule = of_port.next().expect("the rule is there");
                assert!(rule.contains(&format!("counter packets {count} bytes {}", 52 * count)), "{rule}");
                self.exchange();
            }
            PeerFault::GoneUnderWay => self.check_gone_under_way(),
            PeerFault::GoneIdle => {
                self.cut();
                let took = self.end(Instant::now());
                assert!(IDLE.contains(&took), "{took} s");
            }
            PeerFault::GoneBeforeRequest => {
                self.cut();
                (&self.other).write_all(&[7; 100]).unwrap();
                let took = self.end(Instant::now());
                assert!(UNDER_WAY.contains(&took), "{took} s");
            }
            PeerFault::GoneStalled => {
                self.stall();
                self.cut();
                let took = self.end(Instant::now());
                assert!(UNDER_WAY.contains(&took), "{took} s");
            }
        }
    }

    fn check_gone_under_way(&self) {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                while retried(|| (&self.peer).read(&mut buffer)).is_ok_and(|count| count > 0) {}
            });
            for _ in 0..64 {
                (&self.other).write_all(&block()).unwrap();
            }
            self.cut();
            let began = Instant::now();
            self.other.set_write_timeout(Some(LONG)).unwrap();
            let error = loop {
                if let Err(error) = retried(|| (&self.other).write(&block())) {
                    break error;
                }
            };
            // The peer's reader gets no bytes from now on.
            self.peer.shutdown(Shutdown::Both).unwrap();
            let is_reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            let took = began.elapsed().as_secs();
            assert!(is_reset && UNDER_WAY.contains(&took), "{error} after {took} s");
        });
    }
}

/// Repeats a call that a signal interrupted: the kernel does not do so for sockets with a timeout.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn block() -> [u8; 65536] {
    [7; 65536]
}

/// Runs a function on a thread in a network namespace. Sockets stay in the namespace in which they were made.
fn inside<T: Send>(network: &Network, place: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{}", network.name(place))).unwrap();
    let enter_and_work = move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter_and_work).join().unwrap())
}

#[test]
#[ignore = "needs root, iproute2 and nftables; takes three minutes"]
fn peers_that_answer_stay_and_those_that_are_gone_are_closed() {
    let network = Network::new();
    for place in ["client", "backend"] {
        run(network.at(place, "nft").arg(
            "add table ip lost; add chain ip lost to { type filter hook input priority 0; }; \
             add chain ip lost from { type filter hook output priority 0; }",
        ));
    }
    let listener = inside(&network, "backend", || TcpListener::bind("10.77.2.2:9001").unwrap());
    let config = "[listener.copy]\nbind = \"10.77.1.1:9000\"\npool = \"main\"\nengine = \"copy\"\n\
                  [listener.splice]\nbind = \"10.77.1.1:9001\"\npool = \"main\"\nengine = \"splice\"\n\
                  [pool.main]\nbackends = [\"10.77.2.2:9001\"]\nhealth.check = \"off\"\n";
    let program =
        Program::start_by(network.at("program", env!("CARGO_BIN_EXE_pointsman")), Directory::new(), config);
    let rules = Mutex::new(());
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (engine, port) in [("copy", 9000), ("splice", 9001)] {
            for side in ["client", "backend"] {
                for fault in CASES {
                    let client =
                        inside(&network, "client", || TcpStream::connect(("10.77.1.1", port)).unwrap());
                    let (backend, _) = listener.accept().unwrap();
                    let name = client.local_addr().unwrap().to_string();
                    let own = client.local_addr().unwrap().port();
                    let (peer, other, port) = match side {
                        "client" => (client, backend, (own, true)),
                        _ => {
                            let port = backend.peer_addr().unwrap().port();
                            (backend, client, (port, false))
                        }
                    };
                    let connection =
                        PeerConnection { network: &network, rules: &rules, place: side, peer, other, port };
                    connection.exchange();
                    let handle = scope.spawn(move || {
                        connection.check(fault);
                        connection
                    });
                    running.push((format!("{fault:?} {side} {engine}"), fault, side, name, handle));
                }
            }
        }
        let mut failed = Vec::new();
        let mut kept = Vec::new();
        for (case, fault, side, name, handle) in running {
            let Ok(connection) = handle.join() else {
                failed.push(case);
                continue;
            };
            if format!("{fault:?}").starts_with("Gone") {
                let close = format!("{side}_vanished");
                program
                    .wait_for_record(&case, |record| record["client"] == *name && record["close"] == *close);
            }
            kept.push(connection);
        }
        assert!(failed.is_empty(), "{failed:#?}");
        // No reset of a peer that closes now is lost: the drain would wait for the next probe of a shut window, which
        // comes after up to two minutes.
        for place in ["client", "backend"] {
            run(network.at(place, "nft").arg("flush table ip lost"));
        }
    });
    program.stop();
}
