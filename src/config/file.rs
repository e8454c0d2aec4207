//! The tables and keys of the configuration file, as an operator writes them.
//!
//! The checks apply the defaults, not this module: a key that is not written is absent. The doc comments of keys are
//! the descriptions in the JSON schema; each comment has the unit, the default and, if the key has a danger, the
//! danger.

use super::TokenFor;
use super::address::{AdminAddress, BackendAddress, Bind, OpenNetwork, ResolverAddress, SourceAddress};
use super::answers::{AnswerPattern, HeaderValue, HttpMethod, Statuses};
use super::conditions::{Fingerprint, Network, ProtocolName, Reached, SniRegex};
use super::findings::Findings;
use super::forward_keys::{HostWord, Ports};
use super::limits::{Limits, MOST_CONNECTIONS, OverWord, PerSource, QuotaWords, RateWord, SourcePrefix};
use super::list_keys::{AccessWord, ListWords, ListsWords};
use super::near_keys::NearWords;
use super::proxy::{CheckHeaderWord, ProxyIn, ProxyOutWords};
use super::read::{ArrayOf, Key, NamedTables, OneOrMany, Path, Read, TableEntry, Value, tables};
use super::script::{Hex, HttpHost, HttpPath, TargetAddress, Text, TlsName, User};
use super::words::{
    DnsName, Factor, FileMode, FilePath, HashKey, Keyword, KeywordEnum, LogTarget, Name, Number, Percent,
    SniPattern, SocketPath, Time, TimeOrOff,
};
use crate::balance::Algorithm;
use crate::pool::{HashOn, OperatorState, RuleMode};
use crate::relay::EngineChoice;
use crate::telemetry::{AccessLogFormat, LogFormat, LogLevel};
use crate::wire::TlsVersion;

/// Units of the bounds below, in milliseconds.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time between two queries to the DNS.
pub(super) type Ttl = Time<100, DAY>;

tables! {
    /// The configuration of pointsman. It needs at least one listener with a `bind` and one pool with a backend.
    /// All other keys have a default.
    "a configuration" struct File {
        /// Worker threads, which serve the connections, 0 to 1024. Default 0: one thread for each core. A change
        /// needs a restart.
        workers: Number<0, 1024>,
        /// The most open connections of the process. Further connections are refused. Default: a part of the file
        /// descriptors is reserved, and half of the others is the limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// The most health checks and agent checks in progress at once, 1 to 100000. Further checks wait for a free
        /// slot. Default 1000.
        max_checks: Number<1, 100_000>,
        /// The key of the hash balancers, 32 hexadecimal digits. All nodes that share a pool need the same key.
        /// With different keys, nodes pick different backends for the same client. Default
        /// 706f696e74736d616e2d686173682d31.
        hash_key: HashKey,
        /// The zone of this node. Backends with the same `zone` are used first. Backends of other zones get the
        /// load that these backends cannot take. Default: none, all zones are alike.
        zone: Name,
        /// The zones to use after the zone of this node, in order of preference. All zones that are not listed come
        /// last and are alike. A pool may have its own `zones`. Default: none.
        zones: ArrayOf<Name>,
        /// The pools without which this node is not ready: a name or an array. While such a pool has had no available
        /// backend for `ready_needs_after`, /ready answers 503, so that a router in front sends new clients to other
        /// nodes. A node does not know if the other nodes have the same dead pool: all of them may be not ready at
        /// once, for `ready_floor` at most. Default: none.
        ready_needs: OneOrMany<String>,
        /// The time without an available backend after which a pool of `ready_needs` makes the node not ready;
        /// "100ms" to "1h". At a start the pool counts at once, until a check of it has passed. Default "10s".
        ready_needs_after: Time<100, HOUR>,
        /// The longest time for which `ready_needs` keeps this node not ready; "100ms" to "1day". Then the node is
        /// ready again, with a warning, until the pool has had a backend again. Default "5m", or `ready_needs_after`
        /// if that is longer.
        ready_floor: Time<100, DAY>,
        /// Limits of the process, and settings that the limits of listeners, routes and pools share.
        limits: Limits,
        /// The admin listener: metrics, health, status.
        admin: Admin,
        /// The confinement of the process.
        process: Process,
        /// The access log: records of connections.
        access_log: AccessLog,
        /// The program's own log, on standard error.
        log: Log,
        /// The end of the process after SIGTERM.
        shutdown: Shutdown,
        /// The hand-over to a new program.
        handover: Handover,
        /// Listeners by name: the addresses on which clients connect.
        listener: NamedTables<Listener>,
        /// Pools by name: the backends to which connections go.
        pool: NamedTables<Pool>,
        /// Lists of addresses by name, for `allow` and `deny`.
        list: NamedTables<ListWords>,
        /// Rules that apply to all listeners.
        lists: ListsWords,
    }

    /// The admin listener: metrics, health, status.
    "the admin listener" struct Admin {
        /// The addresses of the admin listener: a Unix socket, `"unix:/run/pointsman/admin.sock"`, an address such
        /// as "127.0.0.1:10190", or an array. Default: none, there is no admin listener. Requests that change
        /// something need a Unix socket or a token. An address that other machines can reach needs `token_file` or
        /// `open_metrics`.
        listen: OneOrMany<AdminAddress>,
        /// Unix sockets only: the permissions of the socket's file. Users that may write to the file may use the
        /// admin listener. Default "0660".
        mode: FileMode,
        /// The path of a file that holds the token, 16 to 1024 visible ASCII characters. The path is relative to
        /// the directory of the configuration file. Requests then need the header "Authorization: Bearer TOKEN".
        /// The file is read at each such request, so a new token applies at once. Default: none. The admin listener
        /// has no TLS: if others can read the network, they can read the token.
        token_file: FilePath,
        /// True if requests that change something need no token on loopback addresses. Every user of this machine
        /// can then ban every client. Default false. The key has no effect beside `token_file`.
        open_changes: bool,
        /// The requests that need the token: "all" (default), or "changes", only the requests that change
        /// something. "changes" is allowed for loopback addresses and Unix sockets only.
        token_for: Keyword<TokenFor>,
        /// True if the admin listener answers /metrics, /healthz and /ready without the token and with any Host
        /// header. Default false. The metrics show the names of your listeners, pools and backends.
        open_metrics: bool,
        /// Further names that the header Host may have. IP addresses, "localhost" and the name of this machine are
        /// always allowed. A request with another name is refused. Without this rule, a web page could send a
        /// browser to this listener under a name of its own (DNS rebinding). A Unix socket also accepts names without
        /// a dot. Default: none.
        hosts: OneOrMany<DnsName>,
    }

    /// The confinement of the process. A change needs a restart.
    "the process" struct Process {
        /// With true, Landlock confines the process to the directories of the configured files. If Landlock cannot
        /// confine it, the start fails. With false, there is no confinement. Default: the process is confined if
        /// the kernel has Landlock and the confinement can break no configured feature. A reload of a confined
        /// process can add files only in the same directories.
        landlock: bool,
    }

    /// The access log: records of connections. A reload may change it.
    "the access log" struct AccessLog {
        /// "stdout" (default), "off", or the path of a file to append to. The path must contain a slash.
        to: LogTarget,
        /// "json": one object a line; "text": key=value pairs; "tcplog", "httplog": the lines of HAProxy, for programs
        /// that read these. Default: "text" on a terminal, else "json".
        format: Keyword<AccessLogFormat>,
        /// The events that make a record, or an array: "start": the backend of a connection was connected; "interval":
        /// an open connection with a connected backend, each `interval`; "end": the end of a connection, also if it was
        /// refused. Default ["end"].
        events: OneOrMany<Keyword<LogEventWord>>,
        /// The time from one record of an open connection to the next, in whole seconds; "1s" to "1day". Default "60s".
        /// The event "interval" uses it.
        interval: Time<SECOND, DAY>,
        /// True if connections that ended without a byte are logged too, such as the connections of probes. Default
        /// true. Metrics always count these connections.
        empty: bool,
        /// The most lines a second, for each listener, about connections that ended before a backend was picked, 1
        /// to 1000000. Either pointsman refused such a connection, or the client ended it before the listener could
        /// route it. Default 100. A metric counts the connections that are not logged.
        refused_per_second: Number<1, 1_000_000>,
    }

    /// The program's own log, on standard error. A reload may change it.
    "the log" struct Log {
        /// The least important level that is logged: "error", "warn", "info" (default), "debug", "trace". The
        /// environment variable POINTSMAN_LOG overrides it.
        level: Keyword<LogLevel>,
        /// "text" (default) for people, "json" for programs.
        format: Keyword<LogFormat>,
    }

    /// The end of the process after SIGTERM.
    "the shutdown" struct Shutdown {
        /// The time for which connections are still accepted after SIGTERM, "0s" to "1h". During this time /ready
        /// answers 503, so that routers in front can send new connections elsewhere. Default "0s".
        grace: Time<0, HOUR>,
        /// The time that open connections get after the grace; "0s" to "7days". Then they are closed. Default
        /// "30s".
        drain: Time<0, { 7 * DAY }>,
    }

    /// The hand-over of listening sockets and open connections to a new program, with `pointsman upgrade`. A change
    /// needs a restart.
    "the hand-over" struct Handover {
        /// The Unix socket at which a new program asks for the hand-over: an absolute path of at most 107 bytes, or
        /// "off". The file has the mode 0600, and only processes of the same user or of root are answered. Default:
        /// handover.sock in the directory of the environment variable RUNTIME_DIRECTORY, which systemd sets; without
        /// the variable there is no hand-over. A program that may connect gets all connections, so the directory must
        /// not be writable for others.
        socket: SocketPath,
    }

    /// Addresses on which clients connect, and the treatment of their connections.
    #[cfg_attr(test, schemars(extend("required" = ["bind"])))]
    "a listener" struct Listener {
        /// Addresses to listen on, or an array: `"0.0.0.0:443"` or `"[::]:443"`. `":443"` means both of these, and
        /// leaves out an address family that the host does not have. `":30000-30100"` is a range of at most 1000
        /// ports. `"unix:/run/pointsman.sock"` is a Unix socket. Required.
        bind: OneOrMany<Bind>,
        /// Unix sockets only: the permissions of the socket's file, such as "0660". Users that may write to the
        /// file may connect. Default: the permissions that the umask of the process leaves.
        mode: FileMode,
        /// True if the listener may bind addresses that no interface has yet (IP_FREEBIND), such as an address that
        /// VRRP moves between hosts. Clients are served as soon as the host has the address. A misspelt address is
        /// then not reported as a fault. Default false.
        free_bind: bool,
        /// The way in which the listener finds the pool. "tcp" (default): every connection goes to `pool`. "tls":
        /// the ClientHello is read, and its server name chooses the pool. Nothing is decrypted. "postgres", "smtp",
        /// "imap", "pop3": as "tls", after the opening of that protocol (SSLRequest, STARTTLS). "socks5", "connect":
        /// the client requests a tunnel to a host, by SOCKS or by the method CONNECT of HTTP, and the host chooses the
        /// pool, which has `forward`. "auto": the first bytes show TLS, SSH, HTTP, PostgreSQL or a request for a tunnel.
        protocol: Keyword<Protocol>,
        /// Clients that are admitted: names of lists, networks such as "10.0.0.0/8", addresses, or an array. All
        /// other clients are refused. If a PROXY header gives the address of the client, that address is checked.
        /// Default: all addresses.
        allow: OneOrMany<AccessWord>,
        /// Clients that are refused, written as in `allow`. `deny` is checked before `allow`. If a PROXY header
        /// gives the address of the client, the address of the proxy is checked too. Default: none.
        deny: OneOrMany<AccessWord>,
        /// Not tcp, socks5, connect: JA4 fingerprints of clients that are refused, or beginnings of fingerprints such as "t13d*", or
        /// an array. Fingerprints are checked after the hello is read and before any route. Any client can copy a
        /// fingerprint. Default: none.
        deny_ja4: OneOrMany<Fingerprint>,
        /// The way to refuse clients by `allow`, `deny` and `deny_ja4`. "reject" (default): a TLS alert on a tls
        /// listener and after a hello, else a reset. "drop": a reset without an alert.
        refused: Keyword<RefusalWord>,
        /// PROXY headers, which come before all other bytes of a connection. Default: no header is read.
        proxy_protocol: ProxyIn,
        /// tcp, socks5, connect only: the pool of every connection that no route matches. Required on these listeners.
        pool: String,
        /// Rules from server names and other conditions to pools. The route with the most specific name wins. Among
        /// routes for one name, the route with the most specific conditions wins. On a tcp listener the only
        /// conditions are `source`, `destination` and `proxy_tlv`. On socks5 and connect, the name is that of the
        /// requested host. Default: none.
        routes: ArrayOf<Route>,
        /// The path of a TOML file with further routes, relative to the directory of the configuration file. The
        /// file is read again whenever it changes. While the file is broken, the routes from its last good version
        /// stay. Default: none.
        routes_file: FilePath,
        /// Not tcp, socks5, connect: the target of clients that send no server name, or send an IP address as the name: "reject" or a
        /// pool. Default: "reject"; on postgres, if all routes and `unmatched` lead to one pool, that pool. It stays
        /// "reject" if a route has another condition, `limits`, `split` or `action`, or if there is a
        /// `routes_file`.
        no_sni: String,
        /// Not tcp, socks5, connect: the target of clients whose server name no route matches: "reject" (default) or a pool.
        unmatched: String,
        /// postgres only: the target of sessions without TLS: "reject" (default) or a pool.
        plaintext: String,
        /// postgres only: databases, each with the pool for its sessions without TLS. Default: none.
        databases: NamedTables<String>,
        /// postgres only: users, each with the pool for its sessions without TLS. `databases` are checked first.
        /// Default: none.
        users: NamedTables<String>,
        /// postgres only: the target of requests to cancel a query: "reject" or a pool. If the pool hashes the
        /// source, it finds the backend of the session. Default: if all sessions can go to only one pool and there
        /// is no `routes_file`, that pool; else "reject".
        cancel: String,
        /// smtp, imap, pop3 only: the name that the listener sends in its greeting and to backends. Default: the name
        /// of the host.
        hostname: TlsName,
        /// postgres, smtp, imap, pop3 only: the longest time from the connect to a backend until that backend is
        /// ready for TLS; "1ms" to "10m". Default "10s".
        greeting_timeout: Time<1, { 10 * MINUTE }>,
        /// auto only: the pools for protocols other than TLS.
        detect: Detect,
        /// socks5 only: true if requests of SOCKS 4 and 4a are served too. Default false.
        legacy: bool,
        /// Not tcp: the longest time from the accept to the first byte; "1ms" to "1day". Default "60s".
        first_byte_timeout: Time<1, DAY>,
        /// Not tcp: the longest time from the first byte to the whole ClientHello, or for one message of another
        /// protocol; "1ms" to "1h". Default "5s". A value below a second closes connections of honest clients on bad links.
        hello_timeout: Time<1, HOUR>,
        /// Not tcp, socks5, connect: the longest ClientHello that is accepted, 16384 to 65536 bytes. Default 16384.
        hello_max_size: Number<16384, 65536>,
        /// The longest time without a byte in either direction; "1ms" to "30days". Then the connection is closed.
        /// Default "1h".
        idle_timeout: Time<1, { 30 * DAY }>,
        /// The longest time without a byte after one side has ended its direction; "1ms" to "30days". Then the
        /// connection is closed. Default "60s".
        half_closed_timeout: Time<1, { 30 * DAY }>,
        /// The time for which bytes are still delivered to one side after the other side reset the connection; "0s"
        /// to "1h". Only bytes that were already read are delivered. Default "1s".
        reset_linger: Time<0, HOUR>,
        /// The engine that moves bytes. "auto" (default) copies small amounts and splices streams. "splice" and
        /// "copy" force one engine.
        engine: Keyword<EngineChoice>,
        /// The most open connections of this listener. Further connections are reset. Default: only the limit of
        /// the process applies.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// New connections of this listener for each second or minute, such as "5000/s" or "600/m". Default: no
        /// limit.
        rate: RateWord,
        /// New connections that may come at once, 1 to 1000000. Default: the number in `rate`.
        burst: Number<1, 1_000_000>,
        /// Limits for each source. Default: no limits.
        per_source: PerSource,
        /// The way to refuse connections above `rate` or `per_source`. "reject" (default) and "drop": a reset.
        /// "tarpit": the connection is held unread for `limits.tarpit_timeout` and then reset.
        over: Keyword<OverWord>,
        /// The most connections that the kernel may hold until they are accepted, 1 to 1000000. The system's
        /// net.core.somaxconn is an upper bound. Default 4096.
        backlog: Number<1, 1_000_000>,
        /// TCP keepalive of clients: the idle time after which the kernel sends the first probe (TCP_KEEPIDLE), in
        /// whole seconds; "4s" to "9h". An answer to any probe starts the count again. With "off", only
        /// `idle_timeout` closes an idle connection whose client has vanished. The kernel sends no such probes
        /// while bytes are in flight. pointsman then closes the connection if the client answers nothing for 60 s.
        /// Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each keepalive probe to the next (TCP_KEEPINTVL), in whole seconds; "1s" to "9h". Default:
        /// a quarter of `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Keepalive probes in a row without an answer (TCP_KEEPCNT), 1 to 127. The kernel closes the connection
        /// one interval after the last of these probes. With the defaults, this is 120 s after the last byte.
        /// Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the client takes no byte for this time; "100ms" to
        /// "1day". The client may be gone, or it may only have stopped reading. The kernel then ignores
        /// `keepalive_count`, and closes an idle connection after this time if one probe is unanswered. With "off"
        /// (default), pointsman closes the connection if the client answers nothing for 60 s. It keeps the
        /// connection if the client answers and does not read. Before Linux 6.15, the kernel probes a client that
        /// has not read for a long time only every two minutes. If such a client vanishes, its connection is closed
        /// after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// The longest time for which a client may answer and take no byte while bytes wait for it; "1s" to
        /// "30days". pointsman closes such a connection up to 7 s late. With "off" (default), only `idle_timeout`
        /// applies. The timeout ends paused transfers. It also bounds the time for which attackers that do not read
        /// hold memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a client and has not sent yet, 16384 to 1073741824. A small value
        /// bounds the memory of clients that do not read. A large value makes streams cheaper. Default: as much as
        /// the system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes from a client that the kernel may hold while its backend does not take them, 16384 to 1073741824.
        /// The system's net.core.rmem_max is an upper bound. A distant client needs its bandwidth multiplied by the
        /// round-trip time. Default: the kernel adapts the amount, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// Pools for the protocols that the first bytes of a client show. TLS is routed by its server name.
    "a detection" struct Detect {
        /// Requests for tunnels by SOCKS 5: "reject" (default) or a pool with `forward`.
        socks5: String,
        /// Requests for tunnels by the method CONNECT of HTTP: "reject" (default) or a pool with `forward`. With "reject",
        /// such a client counts as one of HTTP.
        connect: String,
        /// SSH: "reject" (default) or a pool.
        ssh: String,
        /// HTTP without TLS: "reject" (default) or a pool.
        http: String,
        /// PostgreSQL, with or without TLS: "reject" (default) or a pool.
        postgres: String,
        /// Any other protocol: "reject" (default) or a pool.
        other: String,
        /// Clients that are silent for `timeout`, because they wait until the server sends: "reject" (default) or a
        /// pool.
        on_timeout: String,
        /// The time for which a client may be silent before `on_timeout` applies; "1ms" to "1h". Default "3s". With
        /// a value below a second, slow clients on bad links count as silent.
        timeout: Time<1, HOUR>,
    }

    /// A route: conditions, and the target of the connections that match all of them. The target is `pool`, `split`
    /// or `action`.
    "a route" struct Route {
        /// A server name, or the name of a requested host, or an array. "*.example.com" matches every name below example.com at any depth, but not
        /// example.com itself. Default: any name or none. A route without `sni` is checked after all routes with a
        /// name.
        sni: OneOrMany<SniPattern>,
        /// For names with a star. 1: the star matches one label only. Default: the star matches any number of
        /// labels.
        depth: Number<1, 1>,
        /// A regular expression that must match the whole server name, in upper or lower case, or an array. It is
        /// not allowed beside `sni`. Expressions are checked after the names of all other routes, in written order.
        /// Default: none.
        sni_regex: OneOrMany<SniRegex>,
        /// TLVs that the PROXY header of the connection must have, by kind: { "0xEA" = "vpce-08d2bf15fac5001c9" }.
        /// Each TLV must have one of the values. Ids of private links are written as their clouds write them: 0xEA
        /// is AWS, 0xEE Azure, 0xE0 Google Cloud. Default: any or none.
        proxy_tlv: NamedTables<OneOrMany<Text>>,
        /// Networks of clients, such as "10.0.0.0/8", or addresses, or an array. Default: any.
        source: OneOrMany<Network>,
        /// The address or port to which the client connected: "10.0.0.1", ":5433" or "10.0.0.1:5433", or an array.
        /// Default: any.
        destination: OneOrMany<Reached>,
        /// Protocols such as "h2", or an array. The client must offer at least one of them by ALPN. Default: any or
        /// none.
        alpn: OneOrMany<ProtocolName>,
        /// JA4 fingerprints of clients, or beginnings of fingerprints such as "t13d*", or an array. Any client can
        /// copy a fingerprint. Default: any.
        ja4: OneOrMany<Fingerprint>,
        /// True if the client must offer Encrypted ClientHello, false if the client must not offer it. Many
        /// browsers send an offer that is not genuine. Default: either.
        ech: bool,
        /// The oldest TLS version that is enough: "1.0", "1.1", "1.2" or "1.3". The client must offer this version
        /// or a later version. If a client offers only older versions and no other route for the same name matches,
        /// it is refused. Default: any.
        tls_min: Keyword<TlsVersion>,
        /// The name of the route in the access log. Metrics count its connections and bytes under this name.
        /// Default: the log has the server name and the keys of the other conditions, and the route has no metrics
        /// of its own.
        name: Name,
        /// The pool of the connections. Required, unless the route has `split` or `action`.
        pool: String,
        /// Several pools with weights. While the weights stay the same, a client stays with its pool. Required,
        /// unless the route has `pool` or `action`.
        split: ArrayOf<Share>,
        /// Refuses the connections. "reject": a TLS alert, or a reset for a connection without TLS. "drop": a reset
        /// without an alert. Required, unless the route has `pool` or `split`.
        action: Keyword<RefusalWord>,
        /// Limits of the route, for all its names together. Default: no limits.
        limits: QuotaWords,
    }

    /// One pool of a split.
    #[cfg_attr(test, schemars(extend("required" = ["pool"])))]
    "a share" struct Share {
        /// The pool's name. Required.
        pool: String,
        /// The share of the clients that this pool gets, relative to the weights of the other pools, 0 to 65535.
        /// Default 1.
        weight: Number<0, 65535>,
    }

    /// A file with routes of a listener.
    #[cfg_attr(test, schemars(extend("required" = ["routes"])))]
    "a routes file" struct RoutesFile {
        /// The routes, written as in a listener. Required.
        routes: ArrayOf<Route>,
    }

    /// Backends that serve the same clients, with a balancer, checks and limits.
    #[cfg_attr(test, schemars(extend("anyOf" = [{ "required": ["backends"] }, { "required": ["discover"] }, { "required": ["forward"] }])))]
    "a pool" struct Pool {
        /// The balancer, which picks a backend. "maglev" (default): consistent hashing. "round-robin": each backend
        /// in turn. "least-connections": the backend with the fewest connections for its weight. "random-two": of
        /// two random backends, the one with fewer connections for its weight. "failover": the first backend in
        /// written order that is up. "least-latency": of two random backends, the one with the smaller product of
        /// recent connect time and connections.
        balance: Keyword<Algorithm>,
        /// The value that maglev hashes. "source-ip" (default): the address of the client. "source-ip-port": the
        /// address and the port. "sni": the server name, on tls listeners only; clients without a name are hashed
        /// by their address. "proxy-authority": the host name in the PROXY header; clients without this name are
        /// hashed as with "sni". An array hashes all its values together.
        hash_on: OneOrMany<Keyword<HashOn>>,
        /// The number of leading bits of a source address that are hashed.
        source_prefix: SourcePrefix,
        /// maglev only: an upper bound for the open connections of each backend. The bound is a multiple of the
        /// share that the backend's weight gives it of all connections, 1.01 to 10. Connections above the bound go
        /// to other backends, which differ from client to client. 1.25 is a good value. Default: no bound. Each
        /// node counts its own connections. With a bound, nodes may therefore pick different backends for one
        /// client.
        max_load: Factor<101, 1000>,
        /// The time for which a backend gets less than its share after it comes up, or after a reload adds it;
        /// "100ms" to "1h". The share starts at a tenth and grows evenly. With "off" (default), the backend gets
        /// its whole share at once.
        slow_start: TimeOrOff<100, HOUR>,
        /// The backends: "10.0.0.1:443", "unix:/run/app.sock", "db1.internal:5432", or tables with name and weight.
        /// Each address of a host name is a backend. A backend without a port, "10.0.0.1" or "db1", is for
        /// listeners with a range of ports. It is dialled at the port that the client reached. Required, unless the
        /// pool has `discover` or `forward`.
        backends: ArrayOf<BackendWords>,
        /// The resolution of the host names in `backends`, `health` and `agent`.
        resolve: Resolve,
        /// The zones that come after the zone of the node, in order of preference. Default: the `zones` of the
        /// node.
        zones: ArrayOf<Name>,
        /// The order of the zones for each client, by the client's distance from their places. Clients whose place is
        /// not known get the zones in the order of the node. Default: all clients get the order of the node.
        near: NearWords,
        /// The part of the pool's weight that must be up, "1%" to "100%". If less is up, health is ignored and
        /// every backend is used. Some connections then fail, but the few backends that are up are not overloaded.
        /// Default: health is never ignored.
        panic_threshold: Percent<1, 100>,
        /// The most open connections of each backend, from this process. A backend may have its own limit. Default:
        /// no limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// Limits of the pool, for all its backends together, from this process. Connections above a limit are
        /// refused and do not wait in the queue. Default: no limits.
        limits: QuotaWords,
        /// The queue in which connections wait while every backend is full. Default: no queue, the connections are
        /// refused.
        queue: Queue,
        /// The connections that may wait at once while `pointsman pause` holds the pool, 1 to 1000000. Default 10000.
        /// Further connections are refused. A pause needs no `queue`.
        pause_length: Number<1, 1_000_000>,
        /// A source of further backends while the process runs, or an array of sources. Default: none, only
        /// `backends` has backends.
        discover: OneOrMany<Discover>,
        /// Forwards each client to the host that it names, instead of to backends. Default: none.
        forward: Forward,
        /// Active checks of the backends.
        health: Health,
        /// Agents on the backends' hosts that report the state of their backends. Default: none.
        agent: Agent,
        /// Ejection of backends at which clients failed in a row. Default: none. An empty table turns ejection on.
        ejection: Ejection,
        /// The treatment of open connections when their backend goes down. "keep" (default) leaves them open.
        /// "close" resets `close_rate` connections a second, so that their clients connect to other backends. With
        /// "close", a check that fails wrongly costs connections.
        on_down: Keyword<OnDownWord>,
        /// With `on_down = "close"`: the connections that are closed in a second, over all backends of the pool, 1
        /// to 1000000. Default 100. If too many clients connect again at once, they may take down the other
        /// backends.
        close_rate: Number<1, 1_000_000>,
        /// The number of different backends that are tried for one client, 1 to 32. Default 3.
        attempts: Number<1, 32>,
        /// The PROXY header that is sent to backends first: "v1", "v2" or a table. Checks send a header too.
        /// Default: none.
        proxy_protocol: ProxyOutWords,
        /// The longest time for one attempt to connect; "1ms" to "10m". Default "5s".
        connect_timeout: Time<1, { 10 * MINUTE }>,
        /// The longest time for all attempts together; "1ms" to "1h". Default "15s".
        dial_timeout: Time<1, HOUR>,
        /// The source address of connections to backends. "client": the address of the client. This value needs
        /// CAP_NET_ADMIN and the rules that `pointsman tproxy-rules` prints. Or an address of this machine, such as
        /// "10.0.0.5". Checks and agents do not use the key. Default: the kernel chooses the address.
        source: SourceAddress,
        /// TCP keepalive of backends: the idle time after which the kernel sends the first probe (TCP_KEEPIDLE), in
        /// whole seconds; "4s" to "9h". An answer to any probe starts the count again. With "off", only the
        /// listener's `idle_timeout` closes an idle connection whose backend has vanished. The kernel sends no such
        /// probes while bytes are in flight. pointsman then closes the connection if the backend answers nothing
        /// for 60 s. Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each keepalive probe to the next (TCP_KEEPINTVL), in whole seconds; "1s" to "9h". Default:
        /// a quarter of `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Keepalive probes in a row without an answer (TCP_KEEPCNT), 1 to 127. The kernel closes the connection
        /// one interval after the last of these probes. With the defaults, this is 120 s after the last byte.
        /// Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the backend takes no byte for this time; "100ms"
        /// to "1day". The backend may be gone, or it may only have stopped reading. The kernel then ignores
        /// `keepalive_count`, and closes an idle connection after this time if one probe is unanswered. With "off"
        /// (default), pointsman closes the connection if the backend answers nothing for 60 s. It keeps the
        /// connection if the backend answers and does not read. Before Linux 6.15, the kernel probes a backend that
        /// has not read for a long time only every two minutes. If such a backend vanishes, its connection is
        /// closed after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// The longest time for which a backend may answer and take no byte while bytes wait for it; "1s" to
        /// "30days". pointsman closes such a connection up to 7 s late. With "off" (default), only the listener's
        /// `idle_timeout` applies. The timeout ends paused transfers. It also bounds the time for which a backend
        /// that does not read holds memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a backend and has not sent yet, 16384 to 1073741824. Default: as much
        /// as the system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes from a backend that the kernel may hold while its client does not take them, 16384 to 1073741824.
        /// The system's net.core.rmem_max is an upper bound. A distant backend needs its bandwidth multiplied by
        /// the round-trip time. Default: the kernel adapts the amount, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// The queue in which connections wait while every backend is full. Connections are served in the order of
    /// their arrival.
    #[cfg_attr(test, schemars(extend("required" = ["length"])))]
    "a queue" struct Queue {
        /// The most connections that may wait at once, 1 to 1000000. Further connections are refused. Required.
        length: Number<1, 1_000_000>,
        /// The longest time that a connection waits; "1ms" to "1h". The `dial_timeout` begins after the wait.
        /// Default "5s".
        timeout: Time<1, HOUR>,
    }

    /// A source of further backends while the process runs: `dns` or `file`.
    "a discovery" struct Discover {
        /// The DNS name to query. The TTL of an answer sets the time of the next query. A name with a final dot is
        /// complete. The search list of the system applies to other names. If an answer fails or is empty, the
        /// backends of the last good answer stay. Default: none.
        dns: DnsName,
        /// dns only: the kind of records. "address" (default): A and AAAA records, all with the same `port`. "srv":
        /// SRV records, which have ports, weights and priorities.
        r#type: Keyword<RecordType>,
        /// dns only, not for "srv": the port of every address, 1 to 65535. Required for these records.
        port: Number<1, 65535>,
        /// dns only: the resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts,
        /// then the resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
        /// dns only: the shortest time between two queries, even if the TTL is shorter; "100ms" to "1day". Default
        /// "5s".
        min_ttl: Ttl,
        /// dns only: the longest time between two queries; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// dns only: the random part of the time between two queries, in percent, 0 to 100. With 10, a time of 10 s
        /// becomes 10 s to 11 s. Many nodes then do not query at once. Default 10.
        jitter: Number<0, 100>,
        /// The path of a JSON file that another program writes, relative to the directory of the configuration
        /// file. The file is read again whenever it changes. While the file is broken, the backends of its last
        /// good version stay. Default: none.
        file: FilePath,
        /// The time for which a backend stays after an answer left it out; "0s" (off) to "7days". Some servers
        /// answer with a changing part of the addresses. Default "30s" for dns, "0s" for file.
        hold: Time<0, { 7 * DAY }>,
        /// The time that connections to a backend get after the source no longer lists the backend; "0s" to
        /// "7days". Then they are closed. Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// The resolution of host names.
    "a resolution" struct Resolve {
        /// The resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts, then the
        /// resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
        /// The shortest time between two queries for a name, even if the TTL is shorter; "100ms" to "1day". Default
        /// "5s".
        min_ttl: Ttl,
        /// The longest time between two queries for a name; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// The random part of the time between two queries, in percent, 0 to 100. With 10, a time of 10 s becomes
        /// 10 s to 11 s. Default 10.
        jitter: Number<0, 100>,
        /// The time for which an address stays a backend after an answer left it out; "0s" (off) to "7days". Some
        /// servers answer with a changing part of the addresses. Checks and agents use the last answer only.
        /// Default "30s".
        hold: Time<0, { 7 * DAY }>,
        /// The time that connections to an address get after the name no longer has the address; "0s" to "7days".
        /// Then they are closed. Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// Forwards clients to the hosts that they name. A name is resolved, and at most `attempts` of its addresses are
    /// dialled.
    "a forward" struct Forward {
        /// The host to which a client goes. "sni" (default): the server name in its hello. "requested": the host and the
        /// port that it requests by SOCKS or CONNECT.
        to: Keyword<ForwardTo>,
        /// "sni" only: the port that is dialled, 1 to 65535. Default 443.
        port: Number<1, 65535>,
        /// "requested" only: the ports that clients may request, such as 443 or "8000-8100", or an array. Default 443.
        ports: OneOrMany<Ports>,
        /// The names that clients may use: host names, or "*.example.com" for every name below example.com, or an
        /// array. A client can reach every host with an allowed name. "requested" only: "*" allows every name. Required,
        /// unless there is `allow_networks`.
        allow: OneOrMany<HostWord>,
        /// The names that clients must not use, written as in `allow`. `deny` is stronger than `allow`. Default: none.
        deny: OneOrMany<HostWord>,
        /// "requested" only: networks such as "203.0.113.0/24", or addresses, that clients may request by address, or an
        /// array. `allow_private` is also needed for an address that is not part of the public Internet. Default: none,
        /// clients may request names only.
        allow_networks: OneOrMany<Network>,
        /// Networks to which no client is connected, whether it uses a name or an address, or an array. Default: none.
        deny_networks: OneOrMany<Network>,
        /// Networks such as "10.1.0.0/16" that may be dialled although they are not part of the public Internet, or
        /// an array. The owner of an allowed name can then send clients to any host in these networks. Default:
        /// none.
        allow_private: OneOrMany<OpenNetwork>,
        /// "requested" only: true if a TLS hello that a client sends first in its tunnel must have the requested name as its
        /// server name. Other clients, servers that send first and requests for addresses are not affected. Clients with
        /// Encrypted ClientHello are refused, because they send another name. Default false.
        verify_sni: bool,
        /// The effect of `allow`, `deny`, `allow_networks`, `deny_networks` and `ports`. "enforce" (default): they refuse
        /// clients. "report": they refuse no client, and the access log has the connections that they would refuse. Inner
        /// networks and addresses of this machine are refused with both.
        mode: Keyword<RuleMode>,
        /// The resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts, then the
        /// resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
    }

    /// A backend with more settings than its address.
    #[cfg_attr(test, schemars(extend("required" = ["address"])))]
    "a backend" struct Backend {
        /// The identity of the backend across reloads, in logs and in metrics. With a host name in `address`, each
        /// backend is named by this name and its IP address. Default: the address.
        name: Name,
        /// The address on which the backend listens: `"10.0.0.1:443"`, `"[2001:db8::1]:443"` or
        /// `"unix:/run/app.sock"`. Or a host name, `"db1.internal:5432"`: each of its addresses is a backend with
        /// these settings. Required.
        address: BackendAddress,
        /// The share of the traffic that this backend gets, relative to the weights of the other backends, 0 to
        /// 65535. With 0, it gets no new connections. Default 1.
        weight: Number<0, 65535>,
        /// The zone of the backend. Default: none. A backend without a zone counts as in a zone that `zones` does
        /// not list.
        zone: Name,
        /// True if the backend is used only while no other backend is up. Default false.
        backup: bool,
        /// The most open connections of this backend, from this process. Default: the limit of the pool.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// The state that the operator demands. "ready" (default). "drain": no new connections, open connections go
        /// on. "maintenance": as "drain", and the checks of the backend pause. A reload applies a change.
        state: Keyword<OperatorState>,
        /// The target of the checks of this backend. Default: the target in the pool's `health`.
        health: Target,
        /// The address of the agent of this backend. Default: the address in the pool's `agent`.
        agent: Target,
    }

    /// The target of the checks or the agent of one backend, if it differs from the pool's target.
    "a target" struct Target {
        /// An address or a host name, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`,
        /// `"probe.internal:8080"`, `"unix:/run/check.sock"`. Default: the address in the table of the pool.
        address: TargetAddress,
        /// The port. Default: the port in the table of the pool.
        port: Number<1, 65535>,
    }

    /// Active checks of the backends.
    "a health check" struct Health {
        /// The kind of check. "tcp" (default): a connection is opened and closed. "tls": a ClientHello is sent, and
        /// a ServerHello must be received. "http": a request is sent, and an expected status must be received.
        /// "postgres", "mysql", "redis", "smtp", "mqtt", "ssh": the first messages of that protocol are exchanged.
        /// "send-expect": your own `steps`. "off": no checks, and backends count as up.
        check: Keyword<Check>,
        /// For check = "tls", and with `tls = true`: the server name that the check sends. Default: with `tls =
        /// true` the name in `host`, else the name in `address`. If there is no such name, the check sends none.
        server_name: TlsName,
        /// http, redis, smtp, mqtt and send-expect only: true if the check uses TLS. Certificates are verified only
        /// with `ca_file`. Default false.
        tls: bool,
        /// With `tls = true`: the protocols that the check offers by ALPN, such as "http/1.1". Default: ALPN is not
        /// used.
        alpn: OneOrMany<ProtocolName>,
        /// With `tls = true`: a file with certificates in PEM, relative to the directory of the configuration file.
        /// The server's certificate must be in the file, or be issued by one of its certificates. It must also have
        /// `server_name`, or the checked address if the check sends no name. The file is read at the start and at
        /// each reload. Default: certificates are not verified.
        ca_file: FilePath,
        /// http only: the method, in capital letters. Default "GET".
        method: HttpMethod,
        /// http only: further headers by name, such as { Authorization = "Bearer x" }. Default: none.
        headers: NamedTables<HeaderValue>,
        /// http only: the statuses with which a check passes, "200-399", "200", or an array. Default "200-399".
        expect: OneOrMany<Statuses>,
        /// http only: text that the first 64 KiB of the body must contain. Default: the body is not read.
        body: Text,
        /// http only: a regular expression that must match in the first 64 KiB of the body. Default: the body is not
        /// read.
        body_regex: AnswerPattern,
        /// http only: the path of the request. Default "/".
        path: HttpPath,
        /// http only: the Host header. Default: the address or host name that is checked.
        host: HttpHost,
        /// postgres, mysql only: the user that logs in, without a password. Default: none. The first answer of the
        /// server is then enough.
        user: User,
        /// send-expect only: 1 to 32 steps, each with bytes to send or to expect. The check makes them in this
        /// order. Required for send-expect.
        steps: ArrayOf<Step>,
        /// The address to check, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`, `"probe.internal:8080"`,
        /// `"unix:/run/check.sock"`. A host name is resolved again and again, as in `backends`. If the name has
        /// several addresses, the first address that accepts a connection is checked. Default: each backend's own
        /// address.
        address: TargetAddress,
        /// The port to check. Default: the port in `address`, else each backend's own port.
        port: Number<1, 65535>,
        /// The PROXY header at the start of checks. "local", or true: the header of a connection without a client
        /// (LOCAL in version 2). "proxy": a header with the two addresses of the check's connection, for servers
        /// that close on LOCAL. false: no header, for a port that does not support it. Default: "local" if the pool
        /// sends a header.
        proxy_protocol: CheckHeaderWord,
        /// The time between the starts of two checks of one backend; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// The time between checks while the last results contradict the backend's state, "10ms" to "1day". It is
        /// at most `interval`. Default: `interval`.
        fast_interval: Time<10, DAY>,
        /// The time between checks while the backend is down; "10ms" to "1day". Default: `interval`.
        down_interval: Time<10, DAY>,
        /// The longest time for one check, "1ms" to "1h". It is at most `interval`; for smtp, at most the longer of
        /// `interval` and "10s". Default: `interval`, at most "5s"; for smtp "10s", because servers may delay their
        /// greeting.
        timeout: Time<1, HOUR>,
        /// Passed checks in a row after which a backend is up, 1 to 1000. Default 2.
        rise: Number<1, 1000>,
        /// Failed checks in a row after which a backend is down, 1 to 1000. Default 3.
        fall: Number<1, 1000>,
    }

    /// Ejection of backends at which clients failed in a row.
    "an ejection" struct Ejection {
        /// Failed clients in a row after which a backend is ejected, 1 to 1000. A client failed if the connect to
        /// the backend failed, or if the backend reset the connection before the backend sent a byte. Default 5. A
        /// client that can make a backend reset connections can eject the backend.
        consecutive_failures: Number<1, 1000>,
        /// The time for which an ejected backend gets no new connections; "100ms" to "1day". A second ejection soon
        /// after the first takes twice this time, the next takes three times this time, and so on. Default "30s".
        base_time: Time<100, DAY>,
        /// The longest time of one ejection, at least `base_time`; "100ms" to "1day". Default "300s".
        max_time: Time<100, DAY>,
        /// The largest part of the pool's backends that may be ejected at once, in percent, 1 to 100. One backend
        /// may always be ejected. The last available backend is never ejected. Default 10.
        max_ejected: Number<1, 100>,
    }

    /// One step of a send-expect check. A step has one of these keys.
    "a step" struct Step {
        /// Text to send, 1 to 4096 bytes. Default: none.
        send: Text,
        /// Bytes to send, two hexadecimal digits each; spaces are ignored. Default: none.
        send_hex: Hex,
        /// Text that must be received after the last match, 1 to 4096 bytes. Other bytes may come before it.
        /// Default: none.
        expect: Text,
        /// Bytes that must be received, two hexadecimal digits each. Default: none.
        expect_hex: Hex,
        /// A regular expression that must match in the bytes received after the last match. Default: none.
        expect_regex: AnswerPattern,
        /// Text that must not be received before the next expected bytes. If no expected bytes follow, the text
        /// must not be received before the server closes or is silent. Default: none.
        refuse: Text,
    }

    /// Agents on the backends' hosts. An agent answers a connection with a line such as "up 75%".
    "an agent" struct Agent {
        /// The agents' port. Required: here, in `address` or at each backend. There is no default.
        port: Number<1, 65535>,
        /// The address of the agents: an address or a host name, with or without port. Default: each backend's own
        /// address.
        address: TargetAddress,
        /// The time between the starts of two queries to one agent; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// The longest time for one answer, "1ms" to "1h". It is at most `interval`. Default: `interval`, at most
        /// "5s".
        timeout: Time<1, HOUR>,
        /// Text to send first, 1 to 4096 bytes. Default: nothing is sent.
        send: Text,
    }
}

/// A backend: an address alone, or a table.
#[derive(Debug)]
pub(super) struct BackendWords(pub(super) Backend);

impl Read for BackendWords {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if value.get_ref().is_table() {
            return Backend::read(value, path, found).map(Self);
        }
        let at = value.span().into();
        let address = BackendAddress::read(value, path, found)?;
        Some(Self(Backend {
            address: Key::Good(TableEntry { key: at, at, value: address }),
            ..Backend::default()
        }))
    }
}

/// The way in which a listener treats the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Tls,
    Postgres,
    Smtp,
    Imap,
    Pop3,
    Auto,
    Socks5,
    Connect,
}

impl KeywordEnum for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("postgres", Self::Postgres),
        ("smtp", Self::Smtp),
        ("imap", Self::Imap),
        ("pop3", Self::Pop3),
        ("auto", Self::Auto),
        ("socks5", Self::Socks5),
        ("connect", Self::Connect),
    ];
}

/// The way in which a route refuses clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalWord {
    Reject,
    Drop,
}

impl KeywordEnum for RefusalWord {
    const WORDS: &'static [(&'static str, Self)] = &[("reject", Self::Reject), ("drop", Self::Drop)];
}

impl KeywordEnum for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] =
        &[("1.0", Self::V1_0), ("1.1", Self::V1_1), ("1.2", Self::V1_2), ("1.3", Self::V1_3)];
}

/// The kind of DNS records that list backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordType {
    Address,
    Srv,
}

impl KeywordEnum for RecordType {
    const WORDS: &'static [(&'static str, Self)] = &[("address", Self::Address), ("srv", Self::Srv)];
}

/// The host to which a client of a forwarding pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardTo {
    Sni,
    Requested,
}

impl KeywordEnum for ForwardTo {
    const WORDS: &'static [(&'static str, Self)] = &[("sni", Self::Sni), ("requested", Self::Requested)];
}

impl KeywordEnum for RuleMode {
    const WORDS: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("report", Self::Report)];
}

/// A value of `on_down`; the rate has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDownWord {
    Keep,
    Close,
}

impl KeywordEnum for OnDownWord {
    const WORDS: &'static [(&'static str, Self)] = &[("keep", Self::Keep), ("close", Self::Close)];
}

impl KeywordEnum for OperatorState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ready", Self::Ready), ("drain", Self::Drain), ("maintenance", Self::Maintenance)];
}

/// The kind of check, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Off,
    Tcp,
    Tls,
    Http,
    Postgres,
    Mysql,
    Redis,
    Smtp,
    Mqtt,
    Ssh,
    SendExpect,
}

impl KeywordEnum for Check {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("http", Self::Http),
        ("postgres", Self::Postgres),
        ("mysql", Self::Mysql),
        ("redis", Self::Redis),
        ("smtp", Self::Smtp),
        ("mqtt", Self::Mqtt),
        ("ssh", Self::Ssh),
        ("send-expect", Self::SendExpect),
        ("off", Self::Off),
    ];
}

impl KeywordEnum for AccessLogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("text", Self::Text), ("tcplog", Self::Tcplog), ("httplog", Self::Httplog)];
}

/// An event that makes a record in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogEventWord {
    Start,
    Interval,
    End,
}

impl KeywordEnum for LogEventWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("start", Self::Start), ("interval", Self::Interval), ("end", Self::End)];
}

impl KeywordEnum for TokenFor {
    const WORDS: &'static [(&'static str, Self)] = &[("all", Self::All), ("changes", Self::Changes)];
}

impl KeywordEnum for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl KeywordEnum for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl KeywordEnum for EngineChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("splice", Self::Splice), ("copy", Self::Copy)];
}

impl KeywordEnum for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Maglev.word(), Self::Maglev),
        (Self::RoundRobin.word(), Self::RoundRobin),
        (Self::LeastConnections.word(), Self::LeastConnections),
        (Self::RandomTwo.word(), Self::RandomTwo),
        (Self::Failover.word(), Self::Failover),
        (Self::LeastLatency.word(), Self::LeastLatency),
    ];
}

impl KeywordEnum for HashOn {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::SourceIp.word(), Self::SourceIp),
        (Self::SourceIpPort.word(), Self::SourceIpPort),
        (Self::Sni.word(), Self::Sni),
        (Self::ProxyAuthority.word(), Self::ProxyAuthority),
    ];
}
