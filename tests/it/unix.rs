//! Listeners on Unix sockets.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pointsman::pool::BackendState;
use pointsman::server::Server;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::hello::hello;
use crate::support::pair::{closed, expect_bytes, expect_end, expect_reset};
use crate::support::recorder::Recorder;
use crate::support::{Backend, PATIENCE, Proxy, config, pattern, wait_for};

/// A folder for sockets and logs; it is removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pointsman-unix-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("s")).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Returns a `tcp` listener `main` at the socket `s` and a TCP port, with these keys.
    fn text(&self, backend: SocketAddr, keys: &str) -> String {
        format!(
            "workers = 3\naccess_log.to = '{}'\nshutdown.drain = '10s'\n\
             [listener.main]\nbind = ['127.0.0.1:0', 'unix:{}']\npool = 'main'\n{keys}\n\
             [pool.main]\nbackends = ['{backend}']\nhealth.check = 'off'\n",
            self.path("log").display(),
            self.path("s").display(),
        )
    }

    fn start(&self, backend: SocketAddr, keys: &str) -> Proxy {
        Proxy::start(config(&self.text(backend, keys)))
    }

    fn mode(&self) -> u32 {
        fs::metadata(self.path("s")).unwrap().permissions().mode() & 0o777
    }

    fn records(&self, count: usize) -> Vec<Value> {
        let read = || fs::read_to_string(self.path("log")).unwrap_or_default();
        wait_for("the records", || read().ends_with('\n') && read().lines().count() >= count);
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn talk(mut stream: UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&stream, bytes);
    expect_end(&stream);
}

#[test]
fn clients_come_by_both_ways() {
    let (folder, backend) = (Folder::new(), Backend::echo());
    let proxy = folder.start(backend.address, "");
    let mut tcp = proxy.connect();
    tcp.write_all(b"tcp").unwrap();
    expect_bytes(&tcp, b"tcp");
    drop(tcp);
    talk(folder.connect(), &pattern(3_000_000, 1));
    proxy.wait_for_metric(&closed("client_fin"), 2.0);
    let clients: Vec<_> = folder.records(2).iter().map(|record| record["client"].clone()).collect();
    assert!(clients.contains(&"unix".into()), "{clients:?}");
}

#[test]
fn all_workers_share_one_socket() {
    let (folder, backend) = (Folder::new(), Backend::echo());
    let proxy = folder.start(backend.address, "max_connections = 150");
    // More connections than one worker accepts at once, all open together.
    let mut streams: Vec<_> = (0..150).map(|_| folder.connect()).collect();
    for (stream, number) in streams.iter_mut().zip(0_u32..) {
        stream.write_all(&number.to_be_bytes()).unwrap();
    }
    for (stream, number) in streams.iter().zip(0_u32..) {
        expect_bytes(stream, &number.to_be_bytes());
    }
    let over = folder.connect();
    // A Unix socket has an end in the place of a reset.
    assert!(matches!((&over).read(&mut [0]), Ok(0) | Err(_)), "the listener is full");
    drop(streams);
    proxy.wait_for_metric(&closed("client_fin"), 150.0);
    proxy.wait_for_metric(&closed("listener_full"), 1.0);
}

#[test]
fn names_are_read_there_too() {
    let (folder, backend) = (Folder::new(), Recorder::start("host"));
    let text =
        folder.text(backend.address, "protocol = 'tls'").replace("pool = 'main'", "unmatched = 'main'");
    let _proxy = Proxy::start(config(&text));
    let mut stream = folder.connect();
    let hello = hello(b"api.test");
    stream.write_all(&hello).unwrap();
    expect_bytes(&stream, b"host\n");
    drop(stream);
    assert_eq!(backend.received(), hello);
    assert_eq!(folder.records(1)[0]["sni"], "api.test");
}

#[test]
fn the_file_comes_and_goes_with_the_listener() {
    let (folder, backend) = (Folder::new(), Backend::echo());
    // A killed process leaves such a socket behind.
    drop(UnixListener::bind(folder.path("s")).unwrap());
    let proxy = folder.start(backend.address, "mode = '0600'");
    assert_eq!(folder.mode(), 0o600);
    let reload = |text: &str| proxy.remote.reload(config(text)).unwrap();
    let mut kept = folder.connect();
    reload(&folder.text(backend.address, "mode = '0660'\nbacklog = 9\nkeepalive = '30s'"));
    assert_eq!(folder.mode(), 0o660);
    talk(folder.connect(), b"the socket is the same");
    let without =
        folder.text(backend.address, "").replace(&format!(", 'unix:{}'", folder.path("s").display()), "");
    reload(&without);
    assert!(!folder.path("s").exists());
    kept.write_all(b"still here").unwrap();
    expect_bytes(&kept, b"still here");
    reload(&folder.text(backend.address, ""));
    talk(folder.connect(), b"and back");
    drop(kept);
    drop(proxy);
    assert!(!folder.path("s").exists());
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let (folder, backend) = (Folder::new(), Backend::echo());
    let check = |kind: ErrorKind, hint: &str| {
        let Err(fault) = Server::start(config(&folder.text(backend.address, ""))) else {
            panic!("it starts")
        };
        let told = fault.to_string();
        assert!(told.contains(hint), "{told}");
        assert!(folder.path("s").exists(), "{kind}");
    };
    let alive = UnixListener::bind(folder.path("s")).unwrap();
    check(ErrorKind::AddrInUse, "something listens there already");
    drop(alive);
    fs::remove_file(folder.path("s")).unwrap();
    fs::write(folder.path("s"), "precious").unwrap();
    check(ErrorKind::AlreadyExists, "it is not touched");
    assert_eq!(fs::read(folder.path("s")).unwrap(), b"precious");
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let (folder, backend) = (Folder::new(), Backend::echo());
    let nowhere = format!("'unix:{}', 'unix:{}'", folder.path("s").display(), folder.path("no/s").display());
    let text = folder.text(backend.address, "");
    let text = text.replace(&format!("'unix:{}'", folder.path("s").display()), &nowhere);
    let Err(fault) = Server::start(config(&text)) else { panic!("it starts") };
    assert!(fault.to_string().contains("its directory does not exist"), "{fault}");
    assert!(!folder.path("s").exists());
}

/// A Unix socket whose accept queue is full, and the connections that fill the queue.
struct FullSocket {
    listener: UnixListener,
    waiting: Vec<UnixStream>,
}

impl FullSocket {
    fn new(folder: &Folder, name: &str) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = SockAddr::unix(folder.path(name)).unwrap();
        socket.bind(&address).unwrap();
        socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
            match client.connect(&address) {
                Ok(()) => waiting.push(client.into()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
            assert!(waiting.len() < 100, "a queue of length 0 that never fills");
        }
        Self { listener: socket.into(), waiting }
    }

    /// Accepts the connections that fill the queue, and then the next one.
    fn serve(&self) -> UnixStream {
        for _ in &self.waiting {
            self.listener.accept().unwrap();
        }
        self.listener.accept().unwrap().0
    }
}

/// Starts a proxy with one Unix backend, which is ejected after one failure.
fn before(folder: &Folder, backend: &str, keys: &str) -> Proxy {
    Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = 'off'\nshutdown.drain = '10s'\n\
         [listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
         [pool.main]\nbackends = ['unix:{}']\nejection = {{ consecutive_failures = 1 }}\n{keys}\n",
        folder.path(backend).display(),
    )))
}

fn attempts(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric(&format!(r#"pointsman_connect_attempts_total{{pool="main",outcome="{outcome}"}}"#))
}

fn backend_of(proxy: &Proxy) -> Arc<pointsman::pool::Backend> {
    Arc::clone(&proxy.remote.view().snapshot.load().pools["main"].pool.backends()[0])
}

#[test]
fn a_backend_with_a_full_accept_queue_is_waited_for() {
    let folder = Folder::new();
    let full = FullSocket::new(&folder, "b");
    let proxy = before(&folder, "b", "health.check = 'off'\nconnect_timeout = '60s'\ndial_timeout = '60s'");
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    wait_for("the attempt", || backend_of(&proxy).active() == 1);
    expect_bytes(full.serve(), b"x");
    wait_for("the connect", || attempts(&proxy, "ok") == 1.0);
    assert_eq!(attempts(&proxy, "other") + attempts(&proxy, "timeout"), 0.0);
}

#[test]
fn a_backend_whose_accept_queue_stays_full_is_not_ejected() {
    let folder = Folder::new();
    let full = FullSocket::new(&folder, "b");
    let proxy = before(&folder, "b", "health.check = 'off'\nconnect_timeout = '100ms'");
    for round in 1..=3 {
        expect_reset(&proxy.connect());
        proxy.wait_for_metric(&closed("connect_timeout"), f64::from(round));
    }
    assert_eq!((attempts(&proxy, "timeout"), backend_of(&proxy).state()), (3.0, BackendState::Up));
    let client = proxy.connect();
    full.serve().write_all(b"here").unwrap();
    expect_bytes(&client, b"here");
}

#[test]
fn a_check_that_finds_a_full_accept_queue_is_not_made() {
    let folder = Folder::new();
    let full = FullSocket::new(&folder, "b");
    let health =
        "health = { interval = '50ms', fast_interval = '50ms', timeout = '40ms', fall = 1, rise = 1 }";
    let proxy = before(&folder, "b", health);
    wait_for("two checks", || backend_of(&proxy).health().checks_not_made() >= 2);
    assert_eq!(
        (backend_of(&proxy).health().checks_failed(), backend_of(&proxy).state()),
        (0, BackendState::Up)
    );
    std::thread::spawn(move || while full.listener.accept().is_ok() {});
    wait_for("a check that passes", || backend_of(&proxy).health().checks_passed() > 0);
    assert_eq!(backend_of(&proxy).health().checks_failed(), 0);
}
