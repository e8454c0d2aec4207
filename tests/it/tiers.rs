//! Zones, backups and panic mode: the order in which tiers of backends are used.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use pointsman::admin;
use pointsman::pool::BackendState;

use crate::support::pair::connect_from;
use crate::support::{PATIENCE, Proxy, config, own_address, wait_for};

/// A server that sends its name to each client, until it is stopped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::start_at(own_address(), name)
    }

    /// Starts at an address that no socket has now.
    pub(crate) fn start_at(address: SocketAddr, name: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.unwrap().write_all(name.as_bytes());
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }

    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.is_over.store(true, Ordering::Relaxed);
        // A connection wakes the accept, so that it sees the flag.
        drop(TcpStream::connect(self.address));
        thread.join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a proxy in zone `a` in front of backends, each with its further keys.
fn proxy(backends: &[(SocketAddr, &str)], pool: &str) -> (Proxy, SocketAddr) {
    let backends: Vec<_> =
        backends.iter().map(|(address, keys)| format!("{{ address = '{address}', {keys} }}")).collect();
    Proxy::start_with_admin(config(&format!(
        r#"
        workers = 2
        zone = "a"
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "main"
        [pool.main]
        backends = [{}]
        health = {{ interval = "10ms", rise = 1, fall = 1 }}
        {pool}
        "#,
        backends.join(", ")
    )))
}

/// Waits until the checks have found this state of a backend.
pub(crate) fn wait_until(proxy: &Proxy, address: SocketAddr, state: BackendState) {
    let snapshot = proxy.remote.view().snapshot.load();
    let backend = snapshot.pools["main"].pool.backend(&address.to_string()).unwrap();
    wait_for(&format!("{address} {state:?}"), || backend.state() == state);
}

/// Returns the answers to this many clients, which connect one after the other, each from an address of its
/// own.
fn answers(proxy: &Proxy, clients: u16) -> Vec<String> {
    let answer = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let source = IpAddr::V4(Ipv4Addr::new(127, 78, high, low + 1));
        let mut client = connect_from(source, proxy.address("main"));
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the client is served");
        answer
    };
    (0..clients).map(answer).collect()
}

fn share(answers: &[String], name: &str) -> f64 {
    answers.iter().filter(|answer| *answer == name).count() as f64 / answers.len() as f64
}

fn scraped(admin: SocketAddr, series: &str) -> f64 {
    let (_, text) = admin::ask(admin, "/metrics", PATIENCE).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).trim().parse().unwrap()
}

fn tier_share(admin: SocketAddr, tier: &str, kind: &str) -> f64 {
    scraped(admin, &format!(r#"pointsman_tier_share_ratio{{pool="main",tier="{tier}",kind="{kind}"}}"#))
}

#[test]
fn the_own_zone_serves_and_spills_over_what_it_cannot_bear() {
    let (mut near, other) = (Server::start("near"), Server::start("near"));
    let far = Server::start("far");
    let backends = [(near.address, "zone = 'a'"), (other.address, "zone = 'a'"), (far.address, "zone = 'b'")];
    let (proxy, admin) = proxy(&backends, "");
    assert_eq!(share(&answers(&proxy, 200), "near"), 1.0);
    near.stop();
    wait_until(&proxy, near.address, BackendState::Down);
    assert!((tier_share(admin, "a", "primary") - 0.7).abs() < 0.001);
    assert!((tier_share(admin, "*", "primary") - 0.3).abs() < 0.001);
    let answers = answers(&proxy, 250);
    assert!((0.15..0.45).contains(&share(&answers, "far")), "{}", share(&answers, "far"));
    assert_eq!(share(&answers, "far") + share(&answers, "near"), 1.0, "nobody was lost");
}

#[test]
fn a_backup_serves_only_while_no_primary_can() {
    let (mut near, mut far) = (Server::start("near"), Server::start("far"));
    let backup = Server::start("backup");
    let backends =
        [(near.address, "zone = 'a'"), (far.address, ""), (backup.address, "backup = true, zone = 'a'")];
    let (proxy, admin) = proxy(&backends, "");
    assert_eq!(share(&answers(&proxy, 100), "near"), 1.0);
    near.stop();
    wait_until(&proxy, near.address, BackendState::Down);
    assert_eq!(share(&answers(&proxy, 100), "far"), 1.0);
    assert_eq!(tier_share(admin, "a", "backup"), 0.0);
    // The same holds before the checks notice: clients whose attempts at all primaries fail get the backup.
    far.stop();
    assert_eq!(share(&answers(&proxy, 100), "backup"), 1.0);
    wait_until(&proxy, far.address, BackendState::Down);
    assert_eq!(share(&answers(&proxy, 100), "backup"), 1.0);
    assert_eq!(tier_share(admin, "a", "backup"), 1.0);
}

#[test]
fn in_panic_all_are_used() {
    let live = Server::start("live");
    let dead = [own_address(), own_address()];
    let backends = [(live.address, "zone = 'a'"), (dead[0], ""), (dead[1], "")];
    let (proxy, admin) = proxy(&backends, "panic_threshold = '50%'");
    for address in dead {
        wait_until(&proxy, address, BackendState::Down);
    }
    assert_eq!(scraped(admin, r#"pointsman_pool_panic{pool="main"}"#), 1.0);
    assert_eq!(share(&answers(&proxy, 100), "live"), 1.0, "another attempt finds who lives");
    let refused = proxy.metric(r#"pointsman_connect_attempts_total{pool="main",outcome="refused"}"#);
    assert!(refused > 30.0, "the dead were passed over: {refused}");
    assert!(scraped(admin, r#"pointsman_pool_panic_picks_total{pool="main"}"#) >= 100.0 + refused);
    let (_, status) = admin::ask(admin, "/api/v1/status", PATIENCE).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["pools"][0]["panic"], serde_json::json!(true));
}
