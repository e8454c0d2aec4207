//! The recipes of docs/guide/checks.md with their real servers.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{ChildGuard, Directory, Program, finish, run, said};
use crate::recipes::recipe;
use crate::support::{own_address, wait_for};

/// A server that is stopped in order, because its children would outlive it after a kill.
struct Server(ChildGuard);

impl Server {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        Self(ChildGuard::spawn(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.signal("TERM");
        self.0.wait();
    }
}

/// Returns a loopback address that only this test uses, so that every port is free there.
fn own_ip() -> IpAddr {
    own_address().ip()
}

fn wait_until_it_accepts(address: SocketAddr, log: &Path) {
    let waited = std::panic::catch_unwind(|| wait_for("a server", || TcpStream::connect(address).is_ok()));
    assert!(waited.is_ok(), "{address}:\n{}", std::fs::read_to_string(log).unwrap());
}

/// Returns the states of a pool's backends, in their order.
fn states(program: &Program, pool: &str) -> Vec<String> {
    let status = program.status();
    let pools = status["pools"].as_array().unwrap().iter();
    let backends =
        pools.filter(|one| one["name"] == pool).flat_map(|one| one["backends"].as_array().unwrap());
    backends.map(|backend| backend["state"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_states(program: &Program, pool: &str, expected: &[&str]) {
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the states", || states(program, pool) == expected);
    }));
    assert!(waited.is_ok(), "{pool}: not {expected:?} but {:#}", program.status()["pools"]);
}

/// Returns the status of a page, or 0 if there is no answer.
fn page(url: &str, more: &[&str]) -> u32 {
    let output = finish(
        Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", url]).args(more),
        b"",
    );
    said(&output).trim().parse().unwrap_or(0)
}

fn as_user(user: &str, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", program]);
    command
}

#[test]
#[ignore = "needs patroni, etcd-server and postgresql"]
fn patroni() {
    let directory = Directory::new();
    let etcd_ip = own_ip();
    let [client, peer] = [2379, 2380].map(|port| format!("http://{etcd_ip}:{port}"));
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(directory.file("etcd")).args(["--listen-client-urls", &client]);
    etcd.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
    etcd.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
    let log = directory.file("etcd.log");
    let _etcd = Server::start(&mut etcd, &log);
    wait_until_it_accepts(SocketAddr::new(etcd_ip, 2379), &log);

    let nodes = [("a", own_ip()), ("b", own_ip())];
    let [(_, a), (_, b)] = nodes;
    let start = |(name, ip): (&str, IpAddr), page_of: &str| {
        let home = directory.file(name);
        std::fs::create_dir(&home).unwrap();
        run(Command::new("chown").arg("postgres").arg(&home));
        let file = directory.write(&format!("{name}.yml"), patroni_file(name, ip, etcd_ip, &home));
        let log = directory.file(&format!("{name}.log"));
        let node = Server::start(as_user("postgres", "patroni").arg(file).env("HOME", &home), &log);
        wait_for("a node", || page(&format!("http://{ip}:8008{page_of}"), &[]) == 200);
        node
    };
    let _a = start(nodes[0], "/primary");
    let _b = start(nodes[1], "/replica");

    let backends = "\"10.0.0.1:5432\", \"10.0.0.2:5432\", \"10.0.0.3:5432\"";
    let both = format!("\"{a}:5432\", \"{b}:5432\"");
    // The listener of the replicas is in the same recipe.
    let program = Program::start(&recipe("primary", &[(backends, &both)]));
    wait_for_states(&program, "primary", &["up", "down"]);
    wait_for_states(&program, "replicas", &["down", "up"]);
    let server = |listener: &str| {
        let at = program.address(listener);
        let mut psql = Command::new("psql");
        psql.args([
            "-XqAt",
            "-U",
            "postgres",
            "-h",
            &at.ip().to_string(),
            "-p",
            &at.port().to_string(),
            "postgres",
        ]);
        run(psql.args(["-c", "select host(inet_server_addr())"])).trim().to_owned()
    };
    assert_eq!((server("primary"), server("replicas")), (a.to_string(), b.to_string()));

    let switch = ["-d", "{\"leader\":\"a\",\"candidate\":\"b\"}"];
    assert_eq!(page(&format!("http://{a}:8008/switchover"), &switch), 200);
    wait_for_states(&program, "primary", &["down", "up"]);
    assert_eq!(server("primary"), b.to_string());
    wait_for_states(&program, "replicas", &["up", "down"]);
    assert_eq!(server("replicas"), a.to_string());
    program.log.wait_for("heard=\"HTTP/1.0 503 Service Unavailable\"");
    program.stop();
}

fn patroni_file(name: &str, ip: IpAddr, etcd: IpAddr, home: &Path) -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = versions.map(|entry| entry.unwrap().path()).max().unwrap();
    format!(
        "scope: demo\nname: {name}\n\
         restapi: {{ listen: '{ip}:8008', connect_address: '{ip}:8008' }}\n\
         etcd3: {{ host: '{etcd}:2379' }}\n\
         bootstrap:\n  dcs: {{ ttl: 20, loop_wait: 1, retry_timeout: 5 }}\n  initdb: [ {{ auth: trust }} ]\n  \
         pg_hba: [ 'host all all 127.0.0.0/8 trust', 'host replication all 127.0.0.0/8 trust' ]\n\
         postgresql:\n  listen: '{ip}:5432'\n  connect_address: '{ip}:5432'\n  data_dir: {home}/data\n  \
         bin_dir: {bin}\n  pgpass: {home}/pgpass\n  \
         authentication: {{ superuser: {{ username: postgres }}, replication: {{ username: postgres }} }}\n  \
         parameters: {{ unix_socket_directories: '', fsync: 'off' }}\n",
        home = home.display(),
        bin = newest.join("bin").display(),
    )
}

#[test]
#[ignore = "needs redis-server"]
fn redis() {
    let directory = Directory::new();
    let ips = [own_ip(), own_ip()];
    let start = |ip: IpAddr| {
        let log = directory.file(&format!("{ip}.log"));
        let mut command = Command::new("redis-server");
        command.args(["--bind", &ip.to_string(), "--port", "6379", "--save", "", "--dir"]).arg(&directory.0);
        let server = Server::start(&mut command, &log);
        wait_until_it_accepts(SocketAddr::new(ip, 6379), &log);
        server
    };
    let _servers = ips.map(start);
    let command =
        |ip: IpAddr, words: &[&str]| run(Command::new("redis-cli").args(["-h", &ip.to_string()]).args(words));
    let [a, b] = ips.map(|ip| ip.to_string());
    command(ips[1], &["replicaof", &a, "6379"]);
    let program = Program::start(&recipe("redis", &[("10.0.0.1", &a), ("10.0.0.2", &b)]));
    wait_for_states(&program, "redis", &["up", "down"]);
    command(ips[1], &["replicaof", "no", "one"]);
    command(ips[0], &["replicaof", &b, "6379"]);
    wait_for_states(&program, "redis", &["down", "up"]);
    program.stop();
}

#[test]
#[ignore = "needs rabbitmq-server"]
fn rabbitmq() {
    let directory = Directory::new();
    let ip = own_ip();
    let home = directory.file("home");
    std::fs::create_dir(&home).unwrap();
    run(Command::new("chown").arg("rabbitmq").arg(&home));
    let conf =
        format!("listeners.tcp.1 = {ip}:5672\nmanagement.tcp.ip = {ip}\nmanagement.tcp.port = 15672\n");
    // The file is named without its ending.
    let conf = directory.write("rabbitmq.conf", conf).with_extension("");
    let plugins = directory.write("plugins", "[rabbitmq_management].\n");
    let [names, nodes] =
        [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let command = |program: &str| {
        let mut command = as_user("rabbitmq", program);
        command.env("HOME", &home).env("ERL_EPMD_PORT", names.to_string());
        command.env("RABBITMQ_NODENAME", "pointsman@localhost").env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command
    };
    let mut server = command("/usr/lib/rabbitmq/bin/rabbitmq-server");
    for key in ["RABBITMQ_MNESIA_BASE", "RABBITMQ_LOG_BASE", "RABBITMQ_GENERATED_CONFIG_DIR"] {
        server.env(key, &home);
    }
    server.env("RABBITMQ_LOGS", "-").env("RABBITMQ_DIST_PORT", nodes.to_string());
    server.env("RABBITMQ_CONFIG_FILE", conf).env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins);
    let log = directory.file("log");
    let _names = ErlangNames(names);
    let _server = Server::start(&mut server, &log);
    // The wait is repeated, because the start takes long on a busy machine.
    let _ = std::panic::catch_unwind(|| wait_until_it_accepts(SocketAddr::new(ip, 15672), &log));
    wait_until_it_accepts(SocketAddr::new(ip, 15672), &log);
    wait_for("the page", || {
        page(&format!("http://{ip}:15672/api/health/checks/local-alarms"), &["-u", "guest:guest"]) == 200
    });

    let here = |listener: &str| {
        recipe(listener, &[("\"10.0.0.1:5672\", \"10.0.0.2:5672\"", &format!("\"{ip}:5672\""))])
    };
    let program = Program::start(&[here("amqp"), here("amqp-only")].join("\n"));
    let passed =
        |pool: &str| program.sum("pointsman_backend_checks_total", &format!("pool=\"{pool}\"")) > 1.0;
    wait_for("checks", || passed("amqp") && passed("amqp-only"));
    wait_for_states(&program, "amqp", &["up"]);
    wait_for_states(&program, "amqp-only", &["up"]);
    // Publishers are blocked, and the port still speaks the protocol.
    let limit = ["-n", "pointsman@localhost", "set_vm_memory_high_watermark", "0.00001"];
    run(command("/usr/lib/rabbitmq/bin/rabbitmqctl").args(limit));
    wait_for_states(&program, "amqp", &["down"]);
    wait_for_states(&program, "amqp-only", &["up"]);
    program.log.wait_for("heard=\"HTTP/1.1 503 Service Unavailable\"");
    program.stop();
}

/// The name server of Erlang at this port. It outlives the node that started it.
struct ErlangNames(u16);

impl Drop for ErlangNames {
    fn drop(&mut self) {
        finish(Command::new("epmd").args(["-port", &self.0.to_string(), "-kill"]), b"");
    }
}

#[test]
#[ignore = "needs mariadb-server, galera-4 and socat"]
fn galera() {
    let directory = Directory::new();
    run(Command::new("chown").arg("mysql").arg(&directory.0));
    let [data, socket] = ["data", "socket"].map(|name| directory.file(name).display().to_string());
    run(Command::new("mariadb-install-db").args([
        "--no-defaults",
        "--user=mysql",
        &format!("--datadir={data}"),
    ]));
    let ip = own_ip();
    let mut mariadb = Command::new("mariadbd");
    mariadb.args(["--no-defaults", "--user=mysql", "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2"]);
    mariadb.args([
        "--wsrep-on=ON",
        "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
        "--wsrep-new-cluster",
    ]);
    mariadb.args(["--wsrep-cluster-address=gcomm://", &format!("--wsrep-node-address={ip}")]);
    mariadb.arg(format!("--wsrep-provider-options=gmcast.listen_addr=tcp://{ip}:4567"));
    mariadb.args([format!("--datadir={data}"), format!("--socket={socket}"), format!("--bind-address={ip}")]);
    let _mariadb = Server::start(&mut mariadb, &directory.file("mariadb.log"));

    // The script of the recipe, with a client that has the address of this server.
    let page = include_str!("../../../docs/guide/checks.md");
    let script = page.split("```sh\n").find(|block| block.contains("wsrep_local_state")).unwrap();
    let client = format!("#!/bin/sh\nexec /usr/bin/mariadb --no-defaults --socket={socket} \"$@\"\n");
    for (name, text) in [("galera-check", script.split("```").next().unwrap()), ("mariadb", &client)] {
        let file = directory.write(name, text);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut socat = Command::new("socat");
    socat.arg(format!("TCP-LISTEN:9200,bind={ip},fork,reuseaddr"));
    socat.arg(format!("EXEC:{}", directory.file("galera-check").display()));
    socat.env("PATH", format!("{}:/usr/bin:/bin", directory.0.display()));
    let _socat = Server::start(&mut socat, &directory.file("socat.log"));

    let backends = "\"10.0.0.1:3306\", \"10.0.0.2:3306\", \"10.0.0.3:3306\"";
    let program = Program::start(&recipe("galera", &[(backends, &format!("\"{ip}:3306\""))]));
    let passed = || program.sum("pointsman_backend_checks_total", "\"passed\"") > 1.0;
    wait_for("checks", passed);
    wait_for_states(&program, "galera", &["up"]);
    let desync = |on: &str| {
        run(Command::new(directory.file("mariadb")).args(["-e", &format!("SET GLOBAL wsrep_desync={on}")]));
    };
    desync("ON");
    wait_for_states(&program, "galera", &["down"]);
    desync("OFF");
    wait_for_states(&program, "galera", &["up"]);
    program.stop();
}
