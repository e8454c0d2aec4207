//! The proxies that are compared, each with the smallest configuration for the same work.
//!
//! All listen for TLS, route `*.bench.test` by server name and hash the client's address over the same
//! four backends (sniproxy cannot balance and has one); logs are off. Everything else is the default,
//! but for limits that the tests would meet and half-close, which nginx must be told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::backend::ADDRESSES;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// This project.
    Pointsman,
    /// HAProxy with `option splice-auto`.
    Haproxy,
    /// The same with pipes of 1 MiB.
    #[value(name = "haproxy-1m")]
    Haproxy1m,
    /// nginx with its stream module and `ssl_preread`.
    Nginx,
    Sniproxy,
    Envoy,
    /// The least that tokio offers: one thread and `copy_bidirectional`, part of this program.
    TokioCopy,
    /// No proxy: the client in its place.
    Direct,
}

/// What a configuration is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) port: u16,
    pub(crate) backend_port: u16,
    pub(crate) workers: usize,
    /// For files of this proxy alone.
    pub(crate) directory: PathBuf,
}

/// How large pointsman's configuration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Routes beside the one that is used.
    pub(crate) routes: usize,
    pub(crate) backends: usize,
}

impl Shape {
    /// The same as every peer has.
    pub(crate) const PLAIN: Self = Self { routes: 0, backends: ADDRESSES.len() };
}

impl Peer {
    /// As the tables and the command line call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pointsman => "pointsman",
            Self::Haproxy => "haproxy",
            Self::Haproxy1m => "haproxy-1m",
            Self::Nginx => "nginx",
            Self::Sniproxy => "sniproxy",
            Self::Envoy => "envoy",
            Self::TokioCopy => "tokio-copy",
            Self::Direct => "direct",
        }
    }

    /// The program, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Pointsman => Some(env!("CARGO_BIN_EXE_pointsman").into()),
            Self::TokioCopy | Self::Direct => std::env::current_exe().ok(),
            Self::Haproxy | Self::Haproxy1m => installed("haproxy"),
            Self::Nginx | Self::Sniproxy | Self::Envoy => installed(self.name()),
        }
    }

    /// Whether it can use so many workers.
    pub(crate) fn can_use(self, workers: usize) -> bool {
        workers == 1 || !matches!(self, Self::Sniproxy | Self::TokioCopy)
    }

    /// The first line that it says about its version.
    pub(crate) fn version(self) -> Option<String> {
        let argument = match self {
            Self::Pointsman | Self::Envoy => "--version",
            Self::Haproxy | Self::Haproxy1m | Self::Nginx => "-v",
            Self::Sniproxy => "-V",
            Self::TokioCopy | Self::Direct => return None,
        };
        let output = Command::new(self.program()?).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// The command that runs it in the foreground, its configuration written.
    ///
    /// # Errors
    /// When the program is missing or a file cannot be written.
    pub(crate) fn command(self, setup: &Setup, shape: Shape) -> std::io::Result<Command> {
        let program = self.program().ok_or(std::io::ErrorKind::NotFound)?;
        let text = match self {
            Self::Pointsman => pointsman(setup, shape),
            Self::Haproxy => haproxy(setup, ""),
            Self::Haproxy1m => haproxy(setup, "tune.pipesize 1048576"),
            Self::Nginx => nginx(setup),
            Self::Sniproxy => sniproxy(setup),
            Self::Envoy => envoy(setup),
            Self::TokioCopy | Self::Direct => String::new(),
        };
        let file = configuration(setup, self);
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.current_dir(&setup.directory);
        match self {
            Self::Pointsman => command.arg("run").arg(file),
            Self::Haproxy | Self::Haproxy1m => command.arg("-db").arg("-f").arg(file),
            Self::Nginx => command.arg("-p").arg(&setup.directory).args(["-e", "stderr"]).arg("-c").arg(file),
            Self::Sniproxy => command.arg("-f").arg("-c").arg(file),
            Self::Envoy => command
                .arg("-c")
                .arg(file)
                .arg("--concurrency")
                .arg(setup.workers.to_string())
                .args(["--disable-hot-restart", "-l", "off"]),
            Self::TokioCopy | Self::Direct => {
                command.args([crate::TOKIO_COPY, &setup.port.to_string(), &setup.backend_port.to_string()])
            }
        };
        Ok(command)
    }
}

/// Where a peer's configuration is.
pub(crate) fn configuration(setup: &Setup, peer: Peer) -> PathBuf {
    let ending = if peer == Peer::Envoy { "yaml" } else { "conf" };
    setup.directory.join(format!("{}.{ending}", peer.name()))
}

/// Daemons are often installed where an ordinary user's PATH does not lead.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let further = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(further).map(|place| place.join(name)).find(|file| file.is_file())
}

/// A line for each backend: its number, from 1, and its address.
fn backends(setup: &Setup, line: impl Fn(usize, String) -> String) -> String {
    let numbered = (1..).zip(ADDRESSES);
    numbered.map(|(number, address)| line(number, format!("{address}:{}", setup.backend_port))).collect()
}

/// pointsman's configuration; more backends than addresses are told apart by name, and not checked: ten
/// thousand checks in two seconds would be measured instead of connections.
pub(crate) fn pointsman(setup: &Setup, shape: Shape) -> String {
    let mut text = format!(
        "workers = {}\n[access_log]\nto = \"off\"\n[listener.bench]\nbind = \"127.0.0.1:{}\"\nprotocol = \
         \"tls\"\nroutes = [\n  {{ sni = \"*.bench.test\", pool = \"bench\" }},\n",
        setup.workers, setup.port
    );
    for number in 0..shape.routes {
        let name = if number % 2 == 0 { "host" } else { "*.apps" };
        let _ = writeln!(text, "  {{ sni = \"{name}{number}.example.test\", pool = \"bench\" }},");
    }
    text.push_str("]\n[pool.bench]\n");
    if shape != Shape::PLAIN {
        text.push_str("health = { check = \"off\" }\n");
    }
    text.push_str("backends = [\n");
    for (number, address) in (0..shape.backends).zip(ADDRESSES.iter().cycle()) {
        let _ =
            writeln!(text, "  {{ name = \"b{number}\", address = \"{address}:{}\" }},", setup.backend_port);
    }
    text.push_str("]\n");
    text
}

/// Twice `maxconn` and `maxpipes` together must fit into 20,000 descriptors.
fn haproxy(setup: &Setup, tuning: &str) -> String {
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

fn nginx(setup: &Setup) -> String {
    const MODULES: [&str; 2] =
        ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
    let module = MODULES.into_iter().find(|file| Path::new(file).exists());
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

fn sniproxy(setup: &Setup) -> String {
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

fn envoy(setup: &Setup) -> String {
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
