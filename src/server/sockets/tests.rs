use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Builder;

use super::*;
use crate::config;
use crate::server::Server;
use crate::sys::listen::accept;

/// The time after which a test fails that waits for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a backend that sends back all bytes.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    address
}

/// Returns a configuration with a listener `a` at these addresses.
fn text(workers: usize, bind: &[&str], backend: SocketAddr) -> String {
    format!(
        "workers = {workers}\naccess_log.to = 'off'\n[listener.a]\nbind = {bind:?}\npool = 'a'\n\
         [pool.a]\nbackends = ['{backend}']\nhealth.check = 'off'\n"
    )
}

/// A server without a control loop.
struct ServerPart {
    server: Server,
}

impl ServerPart {
    /// Starts without accepting.
    fn start(text: &str, mut inherited: InheritedSockets) -> Self {
        let config = config::parse("test.toml", text).unwrap().0;
        Self { server: Server::start_with(config, &mut inherited).unwrap() }
    }

    fn serving(text: &str) -> Self {
        let mut part = Self::start(text, InheritedSockets::default());
        part.accept();
        part
    }

    fn accept(&mut self) {
        let server = &mut self.server;
        let held = std::mem::take(&mut server.held);
        let _ = server.sockets.carry_out(held, &server.workers, &InForce::bound(&server.view));
    }

    fn leave(&self) {
        assert!(self.server.sockets.leave(&self.server.workers).blocking_recv().is_none());
    }

    fn resume(&mut self) {
        self.server.sockets.resume(&self.server.workers);
    }

    /// Returns the sockets as another program gets them.
    fn lend(&self) -> InheritedSockets {
        let lent = self.server.sockets.lend().into_iter();
        InheritedSockets::new(lent.map(|(handed, socket)| (handed, socket.try_clone().unwrap())).collect())
    }

    fn addresses(&self) -> Vec<Address> {
        self.server.view.addresses().into_values().flatten().collect()
    }

    fn address(&self) -> SocketAddr {
        self.addresses()[0].tcp().unwrap()
    }

    /// Ends all workers.
    fn end(mut self) {
        drop(std::mem::take(&mut self.server.held));
        drop(self.server.sockets.take_files());
        self.server.sockets.close();
        self.server.order_all(|| WorkerCommand::Finish);
        let runtime = Builder::new_current_thread().build().unwrap();
        self.server.workers.iter_mut().for_each(|worker| runtime.block_on(worker.ended()).unwrap());
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("no client is refused");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn check_echo(mut stream: impl Read + Write) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("no client is reset");
    assert_eq!(&answer, b"ping");
}

/// Clients that connect one after the other until they are stopped, on several threads.
struct Crowd<'a> {
    stop: &'a AtomicBool,
    served: &'a AtomicUsize,
}

impl Crowd<'_> {
    /// Runs `act` while clients connect. Fails if a client is not served.
    fn around<T>(address: SocketAddr, act: impl FnOnce(&Crowd<'_>) -> T) -> T {
        let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        let crowd = Crowd { stop: &stop, served: &served };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let stream = connect(address);
                        check_echo(&stream);
                        stream.shutdown(Shutdown::Write).unwrap();
                        assert_eq!((&stream).read(&mut [0]).expect("an end in order"), 0);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let _stop = StopOnDrop(crowd.stop);
            act(&crowd)
        })
    }

    /// Waits until some more clients were served.
    fn go_on(&self) {
        let (before, began) = (self.served.load(Ordering::Relaxed), std::time::Instant::now());
        while self.served.load(Ordering::Relaxed) < before + 50 {
            assert!(began.elapsed() < PATIENCE, "clients are not served");
            thread::yield_now();
        }
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clients_wait_while_the_workers_have_left_the_sockets() {
    let mut part = ServerPart::serving(&text(2, &["127.0.0.1:0"], echo()));
    let address = part.address();
    for _ in 0..10 {
        part.leave();
        let waiting: Vec<_> = (0..20).map(|_| connect(address)).collect();
        let lent = part.server.sockets.lend();
        let taken = lent.iter().filter_map(|(_, socket)| accept(socket).ok()).count();
        assert!(taken > 0, "the kernel's queue has the clients");
        drop(lent);
        part.resume();
        // The test itself has taken one client of each queue.
        let lost = |stream: &TcpStream| {
            (&*stream).write_all(b"ping").unwrap();
            (&*stream).read_exact(&mut [0; 4]).is_err()
        };
        assert_eq!(waiting.iter().filter(|stream| lost(stream)).count(), taken);
    }
    part.end();
}

#[test]
fn two_stops_in_a_row_leave_one_accept_loop() {
    let mut part = ServerPart::serving(&text(1, &["127.0.0.1:0"], echo()));
    // No answer is awaited between these.
    for _ in 0..10 {
        let _ = part.server.sockets.leave(&part.server.workers);
        part.resume();
    }
    check_echo(connect(part.address()));
    part.leave();
    let _waiting = connect(part.address());
    assert!(accept(&part.server.sockets.lend()[0].1).is_ok(), "no worker accepts");
    part.end();
}

/// Checks that no client is refused or reset when a successor with another number of workers takes over.
fn check_switch(before: usize, after: usize) {
    let backend = echo();
    let (old, new) = (text(before, &["127.0.0.1:0"], backend), text(after, &["127.0.0.1:0"], backend));
    let mut incumbent = ServerPart::serving(&old);
    let address = incumbent.address();
    let successor = Crowd::around(address, |crowd| {
        crowd.go_on();
        // The first successor fails before it accepts.
        let failed = ServerPart::start(&new, incumbent.lend());
        incumbent.leave();
        crowd_connects(address);
        failed.end();
        incumbent.resume();
        crowd.go_on();
        let mut successor = ServerPart::start(&new, incumbent.lend());
        assert_eq!(successor.addresses(), incumbent.addresses(), "the kernel's choice of the port stays");
        crowd.go_on();
        incumbent.leave();
        successor.accept();
        incumbent.server.sockets.disarm();
        incumbent.end();
        crowd.go_on();
        successor
    });
    successor.end();
    assert!(TcpStream::connect(address).is_err(), "all sockets are closed");
}

/// Makes more connections than the threads of the crowd, so that each queue of the kernel has clients.
fn crowd_connects(address: SocketAddr) {
    (0..20).for_each(|_| check_waits(&connect(address)));
}

fn check_waits(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    assert_eq!((&*stream).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_successor_with_as_many_workers_refuses_nobody() {
    check_switch(1, 1);
    check_switch(3, 3);
}

#[test]
fn a_successor_with_more_workers_refuses_nobody() {
    check_switch(1, 4);
}

#[test]
fn a_successor_with_fewer_workers_refuses_nobody() {
    check_switch(4, 2);
}

/// A path for a socket, removed at the end.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("pointsman-lent-{name}-{}.sock", std::process::id())))
    }

    fn bind(&self) -> String {
        format!("unix:{}", self.0.display())
    }

    fn check_echo(&self) {
        let stream = UnixStream::connect(&self.0).expect("no client is refused");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        check_echo(stream);
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_file_of_a_unix_socket_goes_over_to_the_successor() {
    let path = SocketPath::new("file");
    let backend = echo();
    let text = |workers| text(workers, &[&path.bind()], backend);
    let mut incumbent = ServerPart::serving(&text(2));
    assert_eq!(incumbent.server.sockets.lend().len(), 1, "there is one descriptor");
    ServerPart::start(&text(3), incumbent.lend()).end();
    path.check_echo();
    let mut successor = ServerPart::start(&text(3), incumbent.lend());
    incumbent.leave();
    successor.accept();
    incumbent.server.sockets.disarm();
    incumbent.end();
    path.check_echo();
    successor.end();
    assert!(!path.0.exists(), "the successor is responsible for the file");
}

#[test]
fn a_unix_socket_without_its_file_is_bound_again() {
    let path = SocketPath::new("again");
    let text = text(1, &[&path.bind()], echo());
    let mut incumbent = ServerPart::serving(&text);
    std::fs::remove_file(&path.0).unwrap();
    let mut successor = ServerPart::start(&text, incumbent.lend());
    successor.accept();
    path.check_echo();
    incumbent.server.sockets.disarm();
    incumbent.end();
    path.check_echo();
    successor.end();
}

#[test]
fn each_address_has_its_own_sockets() {
    let backend = echo();
    let incumbent = ServerPart::serving(&text(2, &["127.0.0.1:0"; 12], backend));
    let mut expected = incumbent.addresses();
    let mut successor = ServerPart::start(&text(2, &["127.0.0.1:0"; 11], backend), incumbent.lend());
    let mut found = successor.addresses();
    let text_of = |successor: &ServerPart| {
        successor.server.sockets.lend().iter().map(|(handed, _)| handed.address.clone()).collect::<Vec<_>>()
    };
    successor.accept();
    let before = text_of(&incumbent);
    assert_eq!(text_of(&successor), before[..22], "in the order of the configuration");
    expected.sort();
    found.sort();
    assert!(found.iter().all(|address| expected.contains(address)), "{found:?} {expected:?}");
    let gone: SocketAddr = before[22].parse().unwrap();
    incumbent.leave();
    let mut incumbent = incumbent;
    incumbent.server.sockets.disarm();
    incumbent.end();
    assert!(TcpStream::connect(gone).is_err(), "an address that is not in the configuration is closed");
    check_echo(connect(successor.address()));
    successor.end();
}

#[test]
fn a_new_address_may_overlap_with_an_inherited_one() {
    let backend = echo();
    let incumbent = ServerPart::serving(&text(1, &["0.0.0.0:0"], backend));
    let port = incumbent.address().port();
    let (all, one) = (format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}"));
    for binds in [vec![&*one, &*all], vec![&*one]] {
        let mut successor = ServerPart::start(&text(2, &binds, backend), incumbent.lend());
        successor.accept();
        check_echo(connect(one.parse().unwrap()));
        successor.end();
    }
    incumbent.end();
}
