//! The smallest configuration of each peer for the same work.
//!
//! All proxies listen for TLS, route `*.bench.test` by server name, and hash the client's address over the
//! same four backends. sniproxy cannot balance, so it has one backend. Logs are off. All other settings have
//! their defaults, with two exceptions: limits that the tests would reach, and half-close, which nginx has
//! off by default.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::backend::ADDRESSES;
use crate::peers::Peer;

/// The values from which a configuration is made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) port: u16,
    pub(crate) backend_port: u16,
    pub(crate) workers: usize,
    /// The directory for the files of this proxy alone.
    pub(crate) directory: PathBuf,
}

/// The size of pointsman's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The number of routes beside the route that is used.
    pub(crate) routes: usize,
    /// The number of backends of the pool that is used.
    pub(crate) backends: usize,
    /// The number of listeners beside the listener that is used. Each has a pool of [`IDLE_BACKENDS`] of its
    /// own.
    pub(crate) listeners: usize,
    /// True if there is an admin listener; the log has its port.
    pub(crate) admin: bool,
}

impl Shape {
    /// The size that every peer has.
    pub(crate) const PLAIN: Self = Self { routes: 0, backends: ADDRESSES.len(), listeners: 0, admin: false };
}

/// The number of backends of each further listener.
const IDLE_BACKENDS: usize = 20;

/// Returns the path of a peer's configuration.
pub(crate) fn configuration(setup: &Setup, peer: Peer) -> PathBuf {
    let ending = if peer == Peer::Envoy { "yaml" } else { "conf" };
    setup.directory.join(format!("{}.{ending}", peer.name()))
}

/// Returns a line for each backend, from its number (1 and up) and its address.
fn backends(setup: &Setup, line: impl Fn(usize, String) -> String) -> String {
    let numbered = (1..).zip(ADDRESSES);
    numbered.map(|(number, address)| line(number, format!("{address}:{}", setup.backend_port))).collect()
}

/// If there are more backends than addresses, each backend has a name of its own and is not checked.
/// Otherwise the bench would measure ten thousand checks in two seconds instead of connections.
pub(crate) fn pointsman(setup: &Setup, shape: Shape) -> String {
    let admin = if shape.admin { "[admin]\nlisten = \"127.0.0.1:0\"\n" } else { "" };
    let mut text = format!(
        "workers = {}\n{admin}[access_log]\nto = \"off\"\n[listener.bench]\nbind = \"127.0.0.1:{}\"\nprotocol = \
         \"tls\"\nroutes = [\n  {{ sni = \"*.bench.test\", pool = \"bench\" }},\n",
        setup.workers, setup.port
    );
    for number in 0..shape.routes {
        let name = if number % 2 == 0 { "host" } else { "*.apps" };
        let _ = writeln!(text, "  {{ sni = \"{name}{number}.example.test\", pool = \"bench\" }},");
    }
    text.push_str("]\n");
    pool(&mut text, "bench", setup, shape.backends, shape != Shape::PLAIN);
    for number in 0..shape.listeners {
        let name = format!("idle{number}");
        let _ = write!(text, "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n");
        pool(&mut text, &name, setup, IDLE_BACKENDS, true);
    }
    text
}

fn pool(text: &mut String, name: &str, setup: &Setup, backends: usize, unchecked: bool) {
    let _ = writeln!(text, "[pool.{name}]");
    if unchecked {
        text.push_str("health = { check = \"off\" }\n");
    }
    text.push_str("backends = [\n");
    for (number, address) in (0..backends).zip(ADDRESSES.iter().cycle()) {
        let _ =
            writeln!(text, "  {{ name = \"b{number}\", address = \"{address}:{}\" }},", setup.backend_port);
    }
    text.push_str("]\n");
}

/// `maxconn` and `maxpipes` together, times two, must fit into 20,000 descriptors.
pub(crate) fn haproxy(setup: &Setup, tuning: &str) -> String {
    let servers = backends(setup, |number, address| format!("    server s{number} {address}\n"));
    format!(
        "global
    nbthread {workers}
    maxconn 9400
    maxpipes 300
    {tuning}
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend bench
    bind 127.0.0.1:{port} backlog 8192
    tcp-request inspect-delay 5s
    tcp-request content reject unless {{ req.ssl_hello_type 1 }}
    use_backend pool if {{ req.ssl_sni -m end .bench.test }}
backend pool
    balance source
    hash-type consistent
{servers}",
        workers = setup.workers,
        port = setup.port,
    )
}

/// `module` is the file of the stream module, if nginx is built without that module.
pub(crate) fn nginx(setup: &Setup, module: Option<&str>) -> String {
    let load = module.map(|file| format!("load_module {file};\n")).unwrap_or_default();
    let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let servers = backends(setup, |_, address| format!("        server {address};\n"));
    format!(
        "{load}{user}daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {directory}/nginx.pid;
error_log stderr emerg;
events {{ worker_connections 19000; }}
stream {{
    access_log off;
    upstream bench {{
        hash $remote_addr consistent;
{servers}    }}
    map $ssl_preread_server_name $chosen {{
        hostnames;
        *.bench.test bench;
    }}
    server {{
        listen 127.0.0.1:{port} reuseport backlog=8192;
        ssl_preread on;
        proxy_half_close on;
        proxy_timeout 1h;
        proxy_pass $chosen;
    }}
}}
",
        workers = setup.workers,
        port = setup.port,
        directory = setup.directory.display(),
    )
}

pub(crate) fn sniproxy(setup: &Setup) -> String {
    let user = if nix::unistd::geteuid().is_root() { "user root\n" } else { "" };
    format!(
        "{user}pidfile {directory}/sniproxy.pid
error_log {{
    filename /dev/null
    priority emergency
}}
listener 127.0.0.1:{port} {{
    protocol tls
    table bench
}}
table bench {{
    .*\\.bench\\.test {address}:{backend}
}}
",
        directory = setup.directory.display(),
        port = setup.port,
        address = ADDRESSES[0],
        backend = setup.backend_port,
    )
}

pub(crate) fn envoy(setup: &Setup) -> String {
    let endpoints = ADDRESSES.map(|address| {
        let backend = setup.backend_port;
        format!("        - endpoint: {{address: {{socket_address: {{address: {address}, port_value: {backend}}}}}}}\n")
    });
    format!(
        "static_resources:
  listeners:
  - name: bench
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 8192
    listener_filters:
    - name: tls_inspector
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:
    - filter_chain_match: {{server_names: ['*.bench.test']}}
      filters:
      - name: tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: bench
          cluster: bench
          hash_policy: [{{source_ip: {{}}}}]
  clusters:
  - name: bench
    type: STATIC
    lb_policy: MAGLEV
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000}}]}}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
{endpoints}",
        port = setup.port,
        endpoints = endpoints.concat(),
    )
}
