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
use super::limits::{Limits, OverWord, PerSource, QuotaWords, RateWord};
use super::list_keys::{AccessWord, ListWords, ListsWords};
use super::proxy::{CheckHeaderWord, ProxyIn, ProxyOutWords};
use super::read::{ArrayOf, Key, NamedTables, OneOrMany, Path, Read, TableEntry, Value, tables};
use super::script::{Hex, HttpHost, HttpPath, TargetAddress, Text, TlsName, User};
use super::words::{
    DnsName, Factor, FileMode, FilePath, HashKey, Keyword, KeywordEnum, LogTarget, Name, Number, Percent,
    SniPattern, Time, TimeOrOff,
};
use crate::balance::Algorithm;
use crate::pool::{HashOn, OperatorState};
use crate::relay::EngineChoice;
use crate::telemetry::{AccessLogFormat, LogFormat, LogLevel};
use crate::wire::TlsVersion;

/// Units of the bounds below, in milliseconds.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A bound far above the connections that one machine can hold, to catch typing errors.
const MOST_CONNECTIONS: u64 = 100_000_000;

/// A time between two queries to the DNS.
pub(super) type Ttl = Time<100, DAY>;

tables! {
    /// The configuration of pointsman. It needs at least one listener with a `bind` and one pool with a backend;
    /// everything else has a default.
    "a configuration" struct File {
        /// Worker threads, which serve the connections, 0 to 1024. Default 0: one for each core. A change needs a
        /// restart.
        workers: Number<0, 1024>,
        /// Open connections of the process; further ones are refused. Default: half of the file descriptors that the
        /// process may open, after a reserve.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// Health and agent checks in progress at once, 1 to 100000; further checks wait for a free slot. Default
        /// 1000.
        max_checks: Number<1, 100_000>,
        /// The key of the hash balancers, 32 hexadecimal digits. All nodes that share a pool need the same key: with
        /// different keys they pick different backends for the same client. Default 706f696e74736d616e2d686173682d31.
        hash_key: HashKey,
        /// The zone of this node. Backends with the same `zone` are used first, and other zones get the load that
        /// these backends cannot take. Default: none, all zones are alike.
        zone: Name,
        /// The zones to use next, in order of preference; zones that are not listed come last, all alike. A pool may
        /// have its own `zones`. Default: none.
        zones: ArrayOf<Name>,
        /// Limits of the process, and settings that the limits of listeners, routes and pools have in common.
        limits: Limits,
        /// The admin listener: metrics, health, status.
        admin: Admin,
        /// The confinement of the process.
        process: Process,
        /// The access log: one record for each connection that has ended.
        access_log: AccessLog,
        /// The program's own log, on standard error.
        log: Log,
        /// The end of the process after SIGTERM.
        shutdown: Shutdown,
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
        /// A Unix socket, `"unix:/run/pointsman/admin.sock"`, an address such as "127.0.0.1:10190", or an array.
        /// Default: none, there is no admin listener. Changes need a Unix socket or a token. An address that other
        /// machines can reach needs `token_file` or `open_metrics`.
        listen: OneOrMany<AdminAddress>,
        /// Unix sockets only: the permissions of the socket's file. Users that may write to the file may use the
        /// admin listener. Default "0660".
        mode: FileMode,
        /// The path of a file that holds a token of 16 to 1024 visible ASCII characters, relative to the directory of
        /// the configuration file. Requests then need the header "Authorization: Bearer TOKEN". The file is read at
        /// each such request, so a new token applies at once. Default: none. The admin listener has no TLS: if others
        /// can read the network, they can read the token.
        token_file: FilePath,
        /// True if changes need no token on loopback addresses: every user of this machine can then ban every client.
        /// Default false. No effect beside `token_file`.
        open_changes: bool,
        /// The requests that need the token: "all" (default), or "changes", only those that change something.
        /// "changes" is allowed for loopback addresses and Unix sockets only.
        token_for: Keyword<TokenFor>,
        /// True if /metrics, /healthz and /ready are answered without the token and with any Host header. Default
        /// false. The metrics show the names of your listeners, pools and backends.
        open_metrics: bool,
        /// Names that the header Host may have, beside IP addresses, "localhost" and the name of this machine. A
        /// request with another name is refused, because a web page can send a browser to this listener under a name
        /// of its own (DNS rebinding). Unix sockets do not check the header. Default: none.
        hosts: OneOrMany<DnsName>,
    }

    /// The confinement of the process. A change needs a restart.
    "the process" struct Process {
        /// With true, Landlock confines the process to the directories of the configured files, or the start fails;
        /// with false there is no confinement. Default: confined if the kernel has Landlock and the confinement can
        /// break no configured feature. A reload of a confined process can add files in the same directories only.
        landlock: bool,
    }

    /// The access log: one record for each connection that has ended. A reload may change it.
    "the access log" struct AccessLog {
        /// "stdout" (default), "off", or the path of a file to append to. The path must contain a slash.
        to: LogTarget,
        /// "json": one object a line; "text": key=value pairs. Default: "text" on a terminal, else "json".
        format: Keyword<AccessLogFormat>,
        /// True if connections that ended without a byte, such as those of probes, are logged too. Default true.
        /// Metrics count these connections in any case.
        empty: bool,
        /// Lines a second, for each listener, for connections that were refused before a backend was picked, or that
        /// the client ended before the listener could route them; 1 to 1000000. Default 100. A metric counts the
        /// connections that are not logged.
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
        /// The time for which connections are still accepted while /ready answers 503, so that routers in front can
        /// send new connections elsewhere; "0s" to "1h". Default "0s".
        grace: Time<0, HOUR>,
        /// The time that open connections get after the grace before they are closed; "0s" to "7days". Default "30s".
        drain: Time<0, { 7 * DAY }>,
    }

    /// Addresses on which clients connect, and the treatment of their connections.
    #[cfg_attr(test, schemars(extend("required" = ["bind"])))]
    "a listener" struct Listener {
        /// Addresses to listen on: `"0.0.0.0:443"`, `"[::]:443"`, `":443"` for both of these (an address family that
        /// the host does not have is left out), a range of at most 1000 ports, `":30000-30100"`, a Unix socket,
        /// `"unix:/run/pointsman.sock"`, or an array. Required.
        bind: OneOrMany<Bind>,
        /// Unix sockets only: the permissions of the socket's file, such as "0660". Users that may write to the file
        /// may connect. Default: as the umask leaves them.
        mode: FileMode,
        /// True if the listener may bind addresses that no interface has yet (IP_FREEBIND), such as an address that
        /// VRRP moves between hosts: clients are served as soon as the host has the address. A misspelt address is
        /// then not reported as a fault. Default false.
        free_bind: bool,
        /// "tcp" (default): every connection goes to `pool`. "tls": the ClientHello is read, and its server name
        /// chooses the pool; nothing is decrypted. "postgres", "smtp", "imap", "pop3": the same after the opening of
        /// that protocol (SSLRequest, STARTTLS). "auto": the first bytes show TLS, SSH, HTTP or PostgreSQL.
        protocol: Keyword<Protocol>,
        /// Clients that are admitted: names of lists, networks such as "10.0.0.0/8", addresses, or an array. All
        /// other clients are refused. If a PROXY header gives the address of the client, that address is checked.
        /// Default: all addresses.
        allow: OneOrMany<AccessWord>,
        /// Clients that are refused, written as in `allow`. `deny` is checked before `allow`, and the address of a
        /// proxy itself is checked too. Default: none.
        deny: OneOrMany<AccessWord>,
        /// Not tcp: JA4 fingerprints of clients that are refused, or beginnings of fingerprints such as "t13d*", or
        /// an array. Checked after the hello is read and before any route. Any client can copy a fingerprint.
        /// Default: none.
        deny_ja4: OneOrMany<Fingerprint>,
        /// The way to refuse clients by `allow`, `deny` and `deny_ja4`: "reject" (default), a TLS alert on a tls
        /// listener and after a hello, else a reset; "drop", a reset without an alert.
        refused: Keyword<RefusalWord>,
        /// PROXY headers, which come before all other bytes of a connection. Default: none is read.
        proxy_protocol: ProxyIn,
        /// tcp only: the pool of every connection that no route matches. Required there.
        pool: String,
        /// Rules from server names and other conditions to pools. The most specific name wins, and under it the most
        /// specific conditions. On a tcp listener the only conditions are `source`, `destination` and `proxy_tlv`.
        /// Default: none.
        routes: ArrayOf<Route>,
        /// The path of a TOML file with further routes, relative to the directory of the configuration file. The file
        /// is read again whenever it changes. While it is broken, the routes from its last good version stay.
        /// Default: none.
        routes_file: FilePath,
        /// Not tcp: "reject" or a pool, for clients that send no server name, or an IP address in its place. Default:
        /// "reject". On postgres the default is the pool of the routes if all routes and `unmatched` lead to one pool.
        /// It stays "reject" if a route has another condition, `limits`, `split` or `action`, or if there is a
        /// `routes_file`.
        no_sni: String,
        /// Not tcp: "reject" (default) or a pool, for clients whose server name no route matches.
        unmatched: String,
        /// postgres only: "reject" (default) or a pool, for sessions without TLS.
        plaintext: String,
        /// postgres only: databases, each with the pool for its sessions without TLS. Default: none.
        databases: NamedTables<String>,
        /// postgres only: users, each with the pool for its sessions without TLS; `databases` are checked first.
        /// Default: none.
        users: NamedTables<String>,
        /// postgres only: "reject" or a pool, for requests to cancel a query. The pool finds the backend of the
        /// session if it hashes the source. Default: the only pool to which sessions can go, unless there is a
        /// `routes_file`; else "reject".
        cancel: String,
        /// smtp, imap, pop3 only: the name that the listener sends in its greeting and to backends. Default: the name
        /// of the host.
        hostname: TlsName,
        /// postgres, smtp, imap, pop3 only: the longest time from the connect to a backend until the backend is ready
        /// for TLS; "1ms" to "10m". Default "10s".
        greeting_timeout: Time<1, { 10 * MINUTE }>,
        /// auto only: the pools for protocols other than TLS.
        detect: Detect,
        /// Not tcp: the longest time from the accept to the first byte; "1ms" to "1day". Default "60s".
        first_byte_timeout: Time<1, DAY>,
        /// Not tcp: the longest time from the first byte to the whole ClientHello; "1ms" to "1h". Default "5s". A
        /// value below a second cuts off honest clients on bad links.
        hello_timeout: Time<1, HOUR>,
        /// Not tcp: the longest ClientHello that is accepted, 16384 to 65536 bytes. Default 16384.
        hello_max_size: Number<16384, 65536>,
        /// A connection is closed after this time without a byte in either direction; "1ms" to "30days". Default
        /// "1h".
        idle_timeout: Time<1, { 30 * DAY }>,
        /// A connection is closed after this time without a byte if one side has ended its direction; "1ms" to
        /// "30days". Default "60s".
        half_closed_timeout: Time<1, { 30 * DAY }>,
        /// After a reset by one side: the time in which bytes that were already read may still be delivered to the
        /// other side; "0s" to "1h". Default "1s".
        reset_linger: Time<0, HOUR>,
        /// The engine that moves bytes: "auto" (default) copies small amounts and splices streams; "splice" and
        /// "copy" force one engine.
        engine: Keyword<EngineChoice>,
        /// Open connections of this listener; further ones are reset. Default: no limit but that of the process.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// New connections of this listener for each second or minute, such as "5000/s" or "600/m". Default: no
        /// limit.
        rate: RateWord,
        /// New connections that may come at once, 1 to 1000000. Default: the number in `rate`.
        burst: Number<1, 1_000_000>,
        /// Limits for each source. Default: no limits.
        per_source: PerSource,
        /// The way to refuse connections above `rate` or `per_source`: "reject" (default) and "drop", a reset;
        /// "tarpit", held unread for `limits.tarpit_timeout` and then reset.
        over: Keyword<OverWord>,
        /// Connections that the kernel may hold until they are accepted, 1 to 1000000. Default 4096. The system's
        /// net.core.somaxconn is an upper bound.
        backlog: Number<1, 1_000_000>,
        /// TCP keepalive of clients: the idle time of a connection after which the kernel sends the first probe
        /// (TCP_KEEPIDLE, whole seconds); "4s" to "9h", or "off": then only `idle_timeout` closes an idle connection
        /// whose client has vanished. An answer to any probe starts the count again. While bytes are in flight the
        /// kernel sends no such probes: pointsman closes clients that answer nothing for 60 s. Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each keepalive probe to the next (TCP_KEEPINTVL, whole seconds); "1s" to "9h". Default: a
        /// quarter of `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Keepalive probes in a row without an answer (TCP_KEEPCNT), 1 to 127: the kernel closes the connection one
        /// interval after the last of them, by default 120 s after the last byte. Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the client takes no byte for this time, because the
        /// client is gone or only does not read. The kernel then ignores `keepalive_count`, and closes an idle
        /// connection after this time if one probe is unanswered. "100ms" to "1day", or "off" (default): pointsman
        /// closes the connection if the client answers nothing for 60 s, and keeps the connection if the client
        /// answers and does not read. Before Linux 6.15 the kernel probes a client that has not read for a long time
        /// only every two minutes. If such a client vanishes, its connection is closed after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// The time for which a client may answer and take no byte while bytes wait for it; "1s" to "30days", or
        /// "off" (default): only `idle_timeout` applies. pointsman closes such a connection up to 7 s late. This
        /// timeout ends paused transfers, and bounds the time for which attackers that do not read hold memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a client and has not sent yet, 16384 to 1073741824. A small value
        /// bounds the memory that clients cost if they do not read; a large value makes streams cheaper. Default: as
        /// much as the system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes from a client that the kernel may hold while its backend does not take them, 16384 to 1073741824;
        /// the system's net.core.rmem_max is an upper bound. A distant client needs its bandwidth multiplied by the
        /// round-trip time. Default: the kernel adapts it, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// Pools for the protocols that the first bytes of a client show. TLS is routed by its server name.
    "a detection" struct Detect {
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
        /// The time for which a client may be silent before `on_timeout` applies; "1ms" to "1h". Default "3s". With a
        /// value below a second, clients on bad links are taken for silent ones.
        timeout: Time<1, HOUR>,
    }

    /// Conditions, all of which must match, and where the matching connections go: `pool`, `split` or `action`.
    "a route" struct Route {
        /// A server name, or "*.example.com" for every name below it (at any depth, not itself), or an array.
        /// Default: any name or none; such a route is checked after all routes with a name.
        sni: OneOrMany<SniPattern>,
        /// With a wildcard: 1, the star matches one label only. Default: the star matches any number of labels.
        depth: Number<1, 1>,
        /// A regular expression that must match the whole server name, without regard to case, or an array; not
        /// beside `sni`. Checked after the names of all other routes, in written order. Default: none.
        sni_regex: OneOrMany<SniRegex>,
        /// TLVs that the PROXY header of the connection must have, by kind, each with one of these values: { "0xEA" =
        /// "vpce-08d2bf15fac5001c9" }. Ids of private links are written as their clouds write them: 0xEA is AWS, 0xEE
        /// Azure, 0xE0 Google Cloud. Default: any or none.
        proxy_tlv: NamedTables<OneOrMany<Text>>,
        /// Networks of clients, such as "10.0.0.0/8", or addresses, or an array. Default: any.
        source: OneOrMany<Network>,
        /// The address or port to which the client connected: "10.0.0.1", ":5433" or "10.0.0.1:5433", or an array.
        /// Default: any.
        destination: OneOrMany<Reached>,
        /// Protocols such as "h2" of which the client must offer at least one (ALPN), or an array. Default: any or
        /// none.
        alpn: OneOrMany<ProtocolName>,
        /// JA4 fingerprints of clients, or beginnings of fingerprints such as "t13d*", or an array. Any client can
        /// copy a fingerprint. Default: any.
        ja4: OneOrMany<Fingerprint>,
        /// True if the client must offer Encrypted ClientHello, false if it must not. Many browsers send an offer
        /// that is not genuine. Default: either.
        ech: bool,
        /// The client must offer this version of TLS or a later one: "1.0", "1.1", "1.2" or "1.3". A client that
        /// offers only older ones is refused, unless another route for the same name matches it. Default: any.
        tls_min: Keyword<TlsVersion>,
        /// The name of the route in the access log; metrics count its connections and bytes under this name. Default:
        /// its server name and the keys of its other conditions, and no metrics of its own.
        name: Name,
        /// The pool's name. Required, unless the route has `split` or `action`.
        pool: String,
        /// Several pools with weights. A client stays with its pool while the weights stay the same. Required, unless
        /// the route has `pool` or `action`.
        split: ArrayOf<Share>,
        /// "reject": a TLS alert, without TLS a reset; "drop": a reset without an alert. Required, unless the route
        /// has `pool` or `split`.
        action: Keyword<RefusalWord>,
        /// Limits of the route, for all its names together. Default: no limits.
        limits: QuotaWords,
    }

    /// One of the pools of a split.
    #[cfg_attr(test, schemars(extend("required" = ["pool"])))]
    "a share" struct Share {
        /// The pool's name. Required.
        pool: String,
        /// The share of the clients that this pool gets, relative to the other weights, 0 to 65535. Default 1.
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
        /// The balancer, which picks a backend: "maglev" (default), consistent hashing; "round-robin", each backend
        /// in turn; "least-connections", the fewest connections for its weight; "random-two", of two random backends
        /// the one with fewer connections for its weight; "failover", the first backend in written order that is up;
        /// "least-latency", of two random backends the one with the smaller product of recent connect time and
        /// connections.
        balance: Keyword<Algorithm>,
        /// The values that maglev hashes: "source-ip" (default), "source-ip-port", "sni", the server name (tls
        /// listeners only; clients without one are hashed by their address), or "proxy-authority", the host name in
        /// the PROXY header (clients without one are hashed as with "sni"). An array hashes all its values together.
        hash_on: OneOrMany<Keyword<HashOn>>,
        /// The number of leading bits of a source address that are hashed.
        source_prefix: SourcePrefix,
        /// maglev only: the most open connections of a backend, as a multiple of its share by weight of all
        /// connections, 1.01 to 10. Connections above it go to other backends, different ones for different clients.
        /// 1.25 is a good value. Default: no bound. Each node counts its own connections, so with a bound nodes may
        /// pick different backends for one client.
        max_load: Factor<101, 1000>,
        /// The time for which a backend that comes up, or that a reload adds, gets less than its share: a tenth at
        /// first, which grows evenly; "100ms" to "1h", or "off" (default): it gets its whole share at once.
        slow_start: TimeOrOff<100, HOUR>,
        /// The backends: "10.0.0.1:443", "unix:/run/app.sock", "db1.internal:5432", or tables with name and weight. Each
        /// address of a host name is a backend. A backend without a port, "10.0.0.1" or "db1", is dialled at the port of the
        /// listener's range that the client reached. Required, unless backends are discovered or the pool forwards.
        backends: ArrayOf<BackendWords>,
        /// The resolution of the host names in `backends`, `health` and `agent`.
        resolve: Resolve,
        /// The zones that come after the zone of the node, in order of preference. Default: the `zones` of the node.
        zones: ArrayOf<Name>,
        /// If less than this part of the pool's weight is up, "1%" to "100%", health is ignored and every backend is
        /// used: some failed connections are better than an overload of the few backends that are left. Default:
        /// health is never ignored.
        panic_threshold: Percent<1, 100>,
        /// Open connections of each backend, from this process; a backend may have its own limit. Default: no limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// Limits of the pool, for all its backends together, from this process. Connections above a limit are
        /// refused and do not wait in the queue. Default: no limits.
        limits: QuotaWords,
        /// The queue in which connections wait while every backend is full. Default: none, they are refused.
        queue: Queue,
        /// Where further backends come from while the process runs, or an array of several such places. Default: only
        /// those of `backends`.
        discover: OneOrMany<Discover>,
        /// Clients go to the hosts that they name, instead of to backends. Default: none.
        forward: Forward,
        /// Active checks of the backends.
        health: Health,
        /// Agents on the backends' hosts that report the state of their backends. Default: none.
        agent: Agent,
        /// Ejection of backends at which clients failed in a row. Default: none; an empty table turns it on.
        ejection: Ejection,
        /// The treatment of open connections when their backend goes down: "keep" (default) leaves them open; "close"
        /// resets them, `close_rate` a second, so that their clients connect to other backends. With "close", a check
        /// that fails wrongly costs connections.
        on_down: Keyword<OnDownWord>,
        /// With `on_down = "close"`: connections a second that are closed, over all backends of the pool; 1 to
        /// 1000000. Default 100. If too many clients connect again at once, they may take down the backends that are
        /// left.
        close_rate: Number<1, 1_000_000>,
        /// Different backends that are tried for one client, 1 to 32. Default 3.
        attempts: Number<1, 32>,
        /// The PROXY header that is sent to backends first: "v1", "v2" or a table. Default: none. Checks send one
        /// too.
        proxy_protocol: ProxyOutWords,
        /// The longest time for one attempt to connect; "1ms" to "10m". Default "5s".
        connect_timeout: Time<1, { 10 * MINUTE }>,
        /// The longest time for all attempts together; "1ms" to "1h". Default "15s".
        dial_timeout: Time<1, HOUR>,
        /// The source address of connections to backends: "client", the address of the client, which needs
        /// CAP_NET_ADMIN and the rules that `pointsman tproxy-rules` prints; or an address of this machine, such as
        /// "10.0.0.5". Checks and agents do not use it. Default: the kernel's choice.
        source: SourceAddress,
        /// TCP keepalive of backends: the idle time of a connection after which the kernel sends the first probe
        /// (TCP_KEEPIDLE, whole seconds); "4s" to "9h", or "off": then only the listener's `idle_timeout` closes an
        /// idle connection whose backend has vanished. An answer to any probe starts the count again. While bytes are
        /// in flight the kernel sends no such probes: pointsman closes backends that answer nothing for 60 s. Default
        /// "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each keepalive probe to the next (TCP_KEEPINTVL, whole seconds); "1s" to "9h". Default: a
        /// quarter of `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Keepalive probes in a row without an answer (TCP_KEEPCNT), 1 to 127: the kernel closes the connection one
        /// interval after the last of them, by default 120 s after the last byte. Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the backend takes no byte for this time, because the
        /// backend is gone or only does not read. The kernel then ignores `keepalive_count`, and closes an idle
        /// connection after this time if one probe is unanswered. "100ms" to "1day", or "off" (default): pointsman
        /// closes the connection if the backend answers nothing for 60 s, and keeps the connection if the backend
        /// answers and does not read. Before Linux 6.15 the kernel probes a backend that has not read for a long time
        /// only every two minutes. If such a backend vanishes, its connection is closed after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// The time for which a backend may answer and take no byte while bytes wait for it; "1s" to "30days", or
        /// "off" (default): only the listener's `idle_timeout` applies. pointsman closes such a connection up to 7 s
        /// late. This timeout ends paused transfers, and bounds the time for which a backend that does not read holds
        /// memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a backend and has not sent yet, 16384 to 1073741824. Default: as much
        /// as the system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes from a backend that the kernel may hold while its client does not take them, 16384 to 1073741824;
        /// the system's net.core.rmem_max is an upper bound. A distant backend needs its bandwidth multiplied by the
        /// round-trip time. Default: the kernel adapts it, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// The queue in which connections wait while every backend is full, served in the order of their arrival.
    #[cfg_attr(test, schemars(extend("required" = ["length"])))]
    "a queue" struct Queue {
        /// Connections that may wait at once, 1 to 1000000; further ones are refused. Required.
        length: Number<1, 1_000_000>,
        /// The longest time that a connection waits; "1ms" to "1h". Default "5s". The `dial_timeout` begins after the
        /// wait.
        timeout: Time<1, HOUR>,
    }

    /// A source of further backends while the process runs: `dns` or `file`.
    "a discovery" struct Discover {
        /// The DNS name to query. It is queried again by the TTL of its answers. A name with a final dot is complete;
        /// to a name without one the system's search list applies. Default: none. If an answer fails or is empty, the
        /// backends found last are kept.
        dns: DnsName,
        /// dns only: "address" (default), A and AAAA records, all with the same `port`; "srv", SRV records, which
        /// have ports, weights and priorities.
        r#type: Keyword<RecordType>,
        /// dns only, not for "srv": the port of every address, 1 to 65535. Required there.
        port: Number<1, 65535>,
        /// dns only: the resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts,
        /// then the resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
        /// dns only: the shortest time between two queries, whatever the TTL; "100ms" to "1day". Default "5s".
        min_ttl: Ttl,
        /// dns only: the longest time between two queries; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// dns only: the random part of the time between two queries, in percent. A time of 10 s with 10 becomes 10 s
        /// to 11 s. So many nodes do not query at once; 0 to 100. Default 10.
        jitter: Number<0, 100>,
        /// The path of a JSON file that another program writes, relative to the directory of the configuration file.
        /// The file is read again whenever it changes. Default: none. While the file is broken, the backends found
        /// last are kept.
        file: FilePath,
        /// The time for which a backend stays after an answer left it out, because some servers answer with a
        /// changing part of the addresses; "0s" (off) to "7days". Default "30s" for dns, "0s" for file.
        hold: Time<0, { 7 * DAY }>,
        /// The time that connections to a backend get before they are closed, once the source no longer lists the
        /// backend; "0s" to "7days". Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// The resolution of host names.
    "a resolution" struct Resolve {
        /// The resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts, then the
        /// resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
        /// The shortest time between two queries for a name, whatever the TTL; "100ms" to "1day". Default "5s".
        min_ttl: Ttl,
        /// The longest time between two queries for a name; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// The random part of the time between two queries, in percent: with 10, a time of 10 s becomes 10 s to 11 s;
        /// 0 to 100. Default 10.
        jitter: Number<0, 100>,
        /// The time for which an address stays a backend after an answer left it out, because some servers answer
        /// with a changing part of the addresses; "0s" (off) to "7days". Checks and agents use the last answer only.
        /// Default "30s".
        hold: Time<0, { 7 * DAY }>,
        /// The time that connections to an address get before they are closed, once the name no longer has the
        /// address; "0s" to "7days". Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// Clients go to the hosts that they name: the name is resolved, and at most `attempts` of its addresses are
    /// dialled.
    #[cfg_attr(test, schemars(extend("required" = ["allow"])))]
    "a forward" struct Forward {
        /// The name that is resolved: "sni" (default), the server name in the client's hello.
        to: Keyword<ForwardTo>,
        /// The port that is dialled, 1 to 65535. Default 443.
        port: Number<1, 65535>,
        /// The names that clients may use: host names, or "*.example.com" for every name below it, or an array.
        /// Required: a client can reach every host with an allowed name.
        allow: OneOrMany<SniPattern>,
        /// Networks such as "10.1.0.0/16" that may be dialled although they are not part of the public Internet, or
        /// an array. Default: none. The owner of an allowed name can then send clients to any host in these networks.
        allow_private: OneOrMany<OpenNetwork>,
        /// The resolvers to query, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: /etc/hosts, then the
        /// resolvers of the system (/etc/resolv.conf).
        resolvers: OneOrMany<ResolverAddress>,
    }

    /// The number of leading bits of a source address that are hashed.
    "a source prefix" struct SourcePrefix {
        /// Bits of an IPv4 address, 1 to 32. Default 32.
        v4: Number<1, 32>,
        /// Bits of an IPv6 address, 1 to 128. Default 64: a user usually has a network of 64 bits.
        v6: Number<1, 128>,
    }

    /// A backend with more settings than its address.
    #[cfg_attr(test, schemars(extend("required" = ["address"])))]
    "a backend" struct Backend {
        /// The identity of the backend across reloads, in logs and in metrics. With a host name in `address`, each
        /// backend is named by this name and its IP address. Default: the address.
        name: Name,
        /// The address on which the backend listens: `"10.0.0.1:443"`, `"[2001:db8::1]:443"` or
        /// `"unix:/run/app.sock"`; or a host name, `"db1.internal:5432"`, each of whose addresses is a backend with
        /// these settings. Required.
        address: BackendAddress,
        /// The share of the traffic that this backend gets, relative to the other weights, 0 to 65535. With 0 it gets
        /// no new connections. Default 1.
        weight: Number<0, 65535>,
        /// The zone of the backend. Default: none, which counts as a zone that is in no list.
        zone: Name,
        /// True if the backend is used only while no other backend is up. Default false.
        backup: bool,
        /// Open connections of this backend, from this process. Default: the limit of the pool.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// The state that the operator demands: "ready" (default); "drain": no new connections, open ones go on;
        /// "maintenance": the same, and its checks pause. A reload applies it.
        state: Keyword<OperatorState>,
        /// The target of its checks. Default: that of the pool's `health`.
        health: Target,
        /// The address of its agent. Default: that of the pool's `agent`.
        agent: Target,
    }

    /// The target of the checks or the agent of one backend, where it differs from the pool's.
    "a target" struct Target {
        /// An address or a host name, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`, `"probe.internal:8080"`,
        /// `"unix:/run/check.sock"`. Default: the pool's.
        address: TargetAddress,
        /// The port. Default: the pool's.
        port: Number<1, 65535>,
    }

    /// Active checks of the backends.
    "a health check" struct Health {
        /// The kind of check. "tcp" (default): a connection is opened and closed. "tls": a ClientHello is sent, and a
        /// ServerHello must be received. "http": a request is sent, and an expected status must be received.
        /// "postgres", "mysql", "redis", "smtp", "mqtt", "ssh": the first messages of that protocol. "send-expect":
        /// your own `steps`. "off": no checks, backends count as up.
        check: Keyword<Check>,
        /// check = "tls", and with `tls = true`: the server name that the check sends. Default: with `tls = true` the
        /// name in `host`, else the name in `address`; if there is no name, none is sent.
        server_name: TlsName,
        /// http, redis, smtp, mqtt and send-expect only: true if the check uses TLS. Certificates are verified only
        /// with `ca_file`. Default false.
        tls: bool,
        /// With `tls = true`: the protocols that the check offers by ALPN, such as "http/1.1". Default: ALPN is not
        /// used.
        alpn: OneOrMany<ProtocolName>,
        /// With `tls = true`: a file with certificates in PEM, relative to the directory of the configuration file.
        /// The server's certificate must be issued by one of them, or be one of them, and must have `server_name`, or
        /// without a name the checked address. The file is read at the start and at each reload. Default:
        /// certificates are not verified.
        ca_file: FilePath,
        /// http only: the method, in capital letters. Default "GET".
        method: HttpMethod,
        /// http only: further headers by name, such as { Authorization = "Bearer x" }. Default: none.
        headers: NamedTables<HeaderValue>,
        /// http only: the statuses with which a check passes, "200-399", "200", or an array of such. Default
        /// "200-399".
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
        /// postgres, mysql only: the user that logs in, without a password. Default: none, the first answer of the
        /// server is enough.
        user: User,
        /// send-expect only: 1 to 32 steps, each with bytes to send or to expect, in this order. Required there.
        steps: ArrayOf<Step>,
        /// The address to check, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`, `"probe.internal:8080"`,
        /// `"unix:/run/check.sock"`. A host name is followed like those in `backends`. If it has several addresses,
        /// the first that accepts a connection is checked. Default: each backend's own address.
        address: TargetAddress,
        /// The port to check. Default: the port in `address`, else each backend's own port.
        port: Number<1, 65535>,
        /// The PROXY header at the start of checks: "local", the header of a connection without a client (LOCAL in
        /// version 2); "proxy", a header with the two addresses of the check's connection, for servers that close on
        /// LOCAL; false: none, for a port that does not support the header. true is "local". Default: "local" if the
        /// pool sends a header.
        proxy_protocol: CheckHeaderWord,
        /// The time between the starts of two checks of one backend; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// The time between checks while the last results contradict the backend's state; at most `interval`, "10ms"
        /// to "1day". Default: `interval`.
        fast_interval: Time<10, DAY>,
        /// The time between checks while the backend is down; "10ms" to "1day". Default: `interval`.
        down_interval: Time<10, DAY>,
        /// The longest time for one check, at most `interval` (for smtp the longer of `interval` and "10s"); "1ms" to
        /// "1h". Default: `interval`, at most "5s"; for smtp "10s", because servers may delay their greeting.
        timeout: Time<1, HOUR>,
        /// Passed checks in a row after which a backend is up, 1 to 1000. Default 2.
        rise: Number<1, 1000>,
        /// Failed checks in a row after which a backend is down, 1 to 1000. Default 3.
        fall: Number<1, 1000>,
    }

    /// Ejection of backends at which clients failed in a row.
    "an ejection" struct Ejection {
        /// Failed clients in a row after which a backend is ejected, 1 to 1000. A client failed if it could not be
        /// connected, or if the backend reset the connection before it had sent a byte. Default 5. A client that can
        /// make a backend reset connections can eject it.
        consecutive_failures: Number<1, 1000>,
        /// The time for which an ejected backend gets no new connections: this time at a first ejection, twice this
        /// time at one soon after it, three times at the next, and so on; "100ms" to "1day". Default "30s".
        base_time: Time<100, DAY>,
        /// The longest time of one ejection, at least `base_time`; "100ms" to "1day". Default "300s".
        max_time: Time<100, DAY>,
        /// The most backends of the pool that may be ejected at once, in percent, 1 to 100. Default 10. One backend
        /// may always be ejected; the last available backend never.
        max_ejected: Number<1, 100>,
    }

    /// One step of a send-expect check: one of these keys.
    "a step" struct Step {
        /// Text to send, 1 to 4096 bytes. Default: none.
        send: Text,
        /// Bytes to send, two hexadecimal digits each; spaces are ignored. Default: none.
        send_hex: Hex,
        /// Text that must be received, 1 to 4096 bytes, anywhere in the bytes since the last match. Default: none.
        expect: Text,
        /// Bytes that must be received, two hexadecimal digits each. Default: none.
        expect_hex: Hex,
        /// A regular expression that must match in the bytes received since the last match. Default: none.
        expect_regex: AnswerPattern,
        /// Text that must not be received before the next expected bytes, or, after the last of these, before the
        /// server closes or is silent. Default: none.
        refuse: Text,
    }

    /// Agents on the backends' hosts, which answer a connection with a line such as "up 75%".
    "an agent" struct Agent {
        /// The agents' port. Required here, in `address` or at each backend; there is no default.
        port: Number<1, 65535>,
        /// Where the agents are, an address or a host name, with or without port. Default: each backend's own address.
        address: TargetAddress,
        /// The time between the starts of two queries to one agent; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// The longest time for one answer, at most `interval`; "1ms" to "1h". Default: `interval`, at most "5s".
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

/// The name that a forwarding pool resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardTo {
    Sni,
}

impl KeywordEnum for ForwardTo {
    const WORDS: &'static [(&'static str, Self)] = &[("sni", Self::Sni)];
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
    const WORDS: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
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
        ("source-ip", Self::SourceIp),
        ("source-ip-port", Self::SourceIpPort),
        ("sni", Self::Sni),
        ("proxy-authority", Self::ProxyAuthority),
    ];
}
