//! The words of the file, key by key, as an operator writes them.
//!
//! Defaults are applied by the checks, not here: a key that is not written is absent. The descriptions
//! are those of the JSON schema; each says the unit, the default and, where there is one, the danger.

use super::TokenFor;
use super::access::{AccessWord, ListWords, ListsWords};
use super::address::{AdminAddress, BackendAddress, Bind, OpenNetwork, ResolverAddress, SourceAddress};
use super::answers::{AnswerPattern, HeaderValue, HttpMethod, Statuses};
use super::conditions::{Fingerprint, Network, ProtocolName, Reached, SniRegex};
use super::findings::Findings;
use super::limits::{Limits, OverWord, PerSource, QuotaWords, RateWord};
use super::proxy::{CheckHeaderWord, ProxyIn, ProxyOutWords};
use super::read::{ArrayOf, Key, NamedTables, OneOrMany, Path, Read, TableEntry, Value, tables};
use super::script::{Hex, HttpHost, HttpPath, TargetAddress, Text, TlsName, User};
use super::words::{
    DnsName, Factor, FileMode, FilePath, HashKey, Keyword, KeywordEnum, LogTarget, Name, Number, Percent,
    SniPattern, Time, TimeOrOff,
};
use crate::balance::Algorithm;
use crate::pool::pool_spec::{HashOn, OperatorState};
use crate::relay::EngineChoice;
use crate::telemetry::{AccessLogFormat, LogFormat, LogLevel};
use crate::wire::TlsVersion;

/// Units of the bounds below, in milliseconds.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Far above what one machine can hold open, to catch slips of the keyboard.
const MOST_CONNECTIONS: u64 = 100_000_000;

/// A time between two questions to the DNS.
pub(super) type Ttl = Time<100, DAY>;

tables! {
    /// The configuration of pointsman. At least one listener with a `bind` and one pool with a backend are
    /// needed; everything else has a default.
    "a configuration" struct File {
        /// Threads that serve, 0 to 1024. Default 0: one per core. A change needs a restart.
        workers: Number<0, 1024>,
        /// Connections the process holds open at once. Default: half of the file descriptors it may open,
        /// after a reserve.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// Health and agent checks under way at once, 1 to 100000; others wait for their turn. Default 1000.
        max_checks: Number<1, 100_000>,
        /// The key of the hash balancers, 32 hexadecimal digits. Every node that shares a pool needs the
        /// same. Default 706f696e74736d616e2d686173682d31.
        hash_key: HashKey,
        /// The zone this node stands in: backends of the same `zone` come first, and others get what these
        /// cannot bear. Default: none, all zones are alike.
        zone: Name,
        /// The zones that come next, in order of preference; those in no list come last, all alike. A pool may
        /// have its own. Default: none.
        zones: ArrayOf<Name>,
        /// Limits of the process, and what stands behind the limits of listeners, routes and pools.
        limits: Limits,
        /// The admin listener: metrics, health, status.
        admin: Admin,
        /// What the process keeps itself from.
        process: Process,
        /// The access log: one record for each connection that ended.
        access_log: AccessLog,
        /// The program's own log, on standard error.
        log: Log,
        /// What happens after SIGTERM.
        shutdown: Shutdown,
        /// Listeners by name: where clients connect.
        listener: NamedTables<Listener>,
        /// Pools by name: where connections go.
        pool: NamedTables<Pool>,
        /// Lists of addresses by name, for `allow` and `deny`.
        list: NamedTables<ListWords>,
        /// What is in force for all listeners.
        lists: ListsWords,
    }

    /// The admin listener: metrics, health, status.
    "the admin listener" struct Admin {
        /// A Unix socket, `"unix:/run/pointsman/admin.sock"`, an address such as "127.0.0.1:10190", or an array.
        /// Default: none, no admin listener. Changes need a Unix socket or a token. An address that other machines
        /// reach needs `token_file` or `open_metrics`.
        listen: OneOrMany<AdminAddress>,
        /// Unix sockets only: the permissions of the socket's file; who may write may ask. Default "0660".
        mode: FileMode,
        /// The path of a file that holds a token of 16 to 1024 visible ASCII characters, relative to this file's
        /// directory. Requests then need the header "Authorization: Bearer TOKEN". Read at each such request, so
        /// a new token is in force at once. Default: none. There is no TLS: on a network that others read, they
        /// read the token.
        token_file: FilePath,
        /// Whether changes need no token on loopback addresses: every user of this machine can then ban every client.
        /// Default false. Without effect beside `token_file`.
        open_changes: bool,
        /// Which requests need the token: "all" (default), or "changes", those that change something; "changes"
        /// is for loopback addresses and Unix sockets.
        token_for: Keyword<TokenFor>,
        /// Whether /metrics, /healthz and /ready are answered without the token, whatever the header Host says.
        /// Default false. Metrics name your listeners, pools and backends.
        open_metrics: bool,
        /// Names by which it is asked, beside IP addresses, "localhost" and the name of this machine; other names
        /// in the header Host are refused, as a web page may lead a browser here by a name of its own. Unix
        /// sockets do not look at it. Default: none.
        hosts: OneOrMany<DnsName>,
    }

    /// What the process keeps itself from. A change needs a restart.
    "the process" struct Process {
        /// Whether Landlock confines the process to the directories of the files that are configured; a reload can
        /// then add files in the same directories only. true: it does, or the start fails; false: it does not.
        /// Default: it does where the kernel has it and nothing that is configured could break.
        landlock: bool,
    }

    /// The access log: one record for each connection that ended. A reload may change it.
    "the access log" struct AccessLog {
        /// "stdout" (default), "off", or the path of a file, with a slash in it, that is appended to.
        to: LogTarget,
        /// "json": one object a line; "text": key=value pairs. Default: "text" for a terminal, else "json".
        format: Keyword<AccessLogFormat>,
        /// Whether connections that came and left without a byte, as probes do, have lines too. Default true. They are
        /// counted in metrics in any case.
        empty: bool,
        /// Lines a second, for each listener, of connections that were refused before a backend was asked, or whose
        /// clients left before they had said what they want; 1 to 1000000. Default 100. The others are counted in a
        /// metric.
        refused_per_second: Number<1, 1_000_000>,
    }

    /// The program's own log, on standard error. A reload may change it.
    "the log" struct Log {
        /// The least important level that is written: "error", "warn", "info" (default), "debug", "trace". The
        /// environment variable POINTSMAN_LOG comes first.
        level: Keyword<LogLevel>,
        /// "text" (default) for people, "json" for programs.
        format: Keyword<LogFormat>,
    }

    /// What happens after SIGTERM.
    "the shutdown" struct Shutdown {
        /// How long connections are still accepted while /ready says 503, so that what routes here can
        /// turn away; "0s" to "1h". Default "0s".
        grace: Time<0, HOUR>,
        /// How long open connections may then go on before they are closed; "0s" to "7days". Default "30s".
        drain: Time<0, { 7 * DAY }>,
    }

    /// Where clients connect.
    #[cfg_attr(test, schemars(extend("required" = ["bind"])))]
    "a listener" struct Listener {
        /// Addresses to listen on: `"0.0.0.0:443"`, `"[::]:443"`, `":443"` for both of these (a family that the
        /// host does not have is left out), a range of at most 1000 ports, `":30000-30100"`, a Unix socket,
        /// `"unix:/run/pointsman.sock"`, or an array. Needed.
        bind: OneOrMany<Bind>,
        /// Unix sockets only: the permissions of the socket's file, such as "0660"; who may write may connect.
        /// Default: those that the umask leaves.
        mode: FileMode,
        /// Whether the listener may bind addresses that no interface has yet (IP_FREEBIND), such as an address that
        /// VRRP moves between hosts: clients are served as soon as the host has the address. A misspelt address is
        /// then not reported as a fault. Default false.
        free_bind: bool,
        /// "tcp" (default): every connection goes to `pool`; "tls": the ClientHello is read, never
        /// decrypted, and its server name chooses the pool. "postgres", "smtp", "imap", "pop3": the same behind
        /// the first words of that protocol, its STARTTLS. "auto": the first bytes tell TLS from SSH, HTTP and
        /// PostgreSQL.
        protocol: Keyword<Protocol>,
        /// Addresses that may come in: lists by name, networks such as "10.0.0.0/8", addresses, or an array; all others are
        /// refused. Behind a PROXY header the client's address counts. Default: all addresses.
        allow: OneOrMany<AccessWord>,
        /// Addresses that may not come in, written in the same way. `deny` comes before `allow`, and the address of a
        /// proxy itself counts too. Default: none.
        deny: OneOrMany<AccessWord>,
        /// Not tcp: JA4 fingerprints of clients that may not come in, or how they begin: "t13d*"; or an array. Asked
        /// once the hello is read, before any route. Any client can copy one. Default: none.
        deny_ja4: OneOrMany<Fingerprint>,
        /// How these are refused: "reject" (default), a TLS alert on a tls listener and behind a hello, else a reset;
        /// "drop": a reset without a word.
        refused: Keyword<RefusalWord>,
        /// PROXY headers that stand in front of all else. Default: none is read.
        proxy_protocol: ProxyIn,
        /// tcp only: the pool of every connection that no route takes. Needed there.
        pool: String,
        /// Names and other conditions to pools. Under the most specific name the most specific conditions win;
        /// on a tcp listener only `source` and `destination` can be asked for. Default: none.
        routes: ArrayOf<Route>,
        /// The path of a TOML file with further routes, relative to this file's directory. It is read again
        /// whenever it changes; while it is broken, what was last read stays. Default: none.
        routes_file: FilePath,
        /// Not tcp: clients that send no server name, or an IP address in its place: "reject" or a pool. Default:
        /// "reject"; on postgres the pool of all routes and of `unmatched`, if this is one pool, no route has another
        /// condition, `limits`, `split` or `action`, and there is no `routes_file`.
        no_sni: String,
        /// Not tcp: clients whose server name no route matches: "reject" (default) or a pool.
        unmatched: String,
        /// postgres only: sessions without TLS: "reject" (default) or a pool.
        plaintext: String,
        /// postgres only: databases and the pools of their sessions without TLS. Default: none.
        databases: NamedTables<String>,
        /// postgres only: users and the pools of their sessions without TLS; `databases` come first. Default: none.
        users: NamedTables<String>,
        /// postgres only: requests to cancel a query: "reject" or a pool, which finds the session's backend if it
        /// hashes the source. Default: the only pool that sessions can go to, unless there is a `routes_file`; else
        /// "reject".
        cancel: String,
        /// smtp, imap, pop3 only: the name the listener greets with, and gives to backends. Default: the host's.
        hostname: TlsName,
        /// postgres, smtp, imap, pop3 only: how long a connected backend may take until it is ready for TLS;
        /// "1ms" to "10m". Default "10s".
        greeting_timeout: Time<1, { 10 * MINUTE }>,
        /// auto only: where the protocols other than TLS go.
        detect: Detect,
        /// Not tcp: from accept to the first byte; "1ms" to "1day". Default "60s".
        first_byte_timeout: Time<1, DAY>,
        /// Not tcp: from the first byte to the whole ClientHello; "1ms" to "1h". Default "5s". Below a
        /// second it cuts off honest clients on bad links.
        hello_timeout: Time<1, HOUR>,
        /// Not tcp: bytes of ClientHello accepted, 16384 to 65536. Default 16384.
        hello_max_size: Number<16384, 65536>,
        /// A connection is closed when no byte moved either way for so long; "1ms" to "30days".
        /// Default "1h".
        idle_timeout: Time<1, { 30 * DAY }>,
        /// A connection is closed when one side is finished and the other silent for so long; "1ms" to
        /// "30days". Default "60s".
        half_closed_timeout: Time<1, { 30 * DAY }>,
        /// After a reset: how long what was already read may still be delivered; "0s" to "1h". Default "1s".
        reset_linger: Time<0, HOUR>,
        /// How bytes are moved: "auto" (default) copies what is small and splices what streams; "splice"
        /// and "copy" force one.
        engine: Keyword<EngineChoice>,
        /// Connections of this listener open at once. Default: only the process's own limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// New connections of this listener, such as "5000/s" or "600/m". Default: no limit.
        rate: RateWord,
        /// How many may come at once, 1 to 1000000. Default: the number in `rate`.
        burst: Number<1, 1_000_000>,
        /// What each source may have. Default: no limits.
        per_source: PerSource,
        /// What becomes of connections above `rate` or `per_source`: "reject" (default) and "drop", a reset;
        /// "tarpit", held unread for `limits.tarpit_timeout` and then reset.
        over: Keyword<OverWord>,
        /// Connections the kernel may hold before they are accepted, 1 to 1000000. Default 4096; the
        /// system's net.core.somaxconn cuts it.
        backlog: Number<1, 1_000_000>,
        /// TCP keepalive of clients: how long a connection is idle before the kernel sends the first probe
        /// (TCP_KEEPIDLE, whole seconds); "4s" to "9h", or "off": then only `idle_timeout` closes an idle
        /// connection whose client has vanished. An answer to any probe begins the count anew. While bytes are
        /// under way the kernel sends no such probes: pointsman closes clients that answer nothing for 60 s.
        /// Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each probe to the next (TCP_KEEPINTVL, whole seconds); "1s" to "9h". Default: a quarter of
        /// `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Probes in a row without an answer (TCP_KEEPCNT), 1 to 127: the kernel closes the connection one interval
        /// after the last of them, by default 120 s after the last byte. Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the client takes no byte for this time, whether
        /// the client is gone or only does not read. The kernel then ignores `keepalive_count`, and closes an idle
        /// connection after this time if one probe is unanswered. "100ms" to "1day", or "off" (default): pointsman
        /// closes the connection if the client answers nothing for 60 s, and clients that answer and do not read
        /// stay. Before Linux 6.15 the kernel probes a client that has not read for long only every two minutes, so
        /// a client that vanishes then is closed after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// How long a client may answer and take no byte while bytes wait for it; "1s" to "30days", or "off"
        /// (default): as long as `idle_timeout`. pointsman closes such a connection up to 7 s late. This timeout
        /// ends paused transfers, and bounds how long attackers that do not read hold memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a client beyond what is on its way there, 16384 to 1073741824.
        /// Less bounds what clients that do not read cost, more makes streams cheaper. Default: as much as the
        /// system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes of a client that the kernel may hold while its backend does not take them, 16384 to 1073741824; the
        /// system's net.core.rmem_max cuts it. A client that is far away needs its bandwidth times the
        /// round-trip time. Default: the kernel adapts it, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// Where the protocols go that the first bytes of a client show. TLS is routed by its server name.
    "a detection" struct Detect {
        /// SSH: "reject" (default) or a pool.
        ssh: String,
        /// HTTP without TLS: "reject" (default) or a pool.
        http: String,
        /// PostgreSQL, with or without TLS: "reject" (default) or a pool.
        postgres: String,
        /// Whatever else: "reject" (default) or a pool.
        other: String,
        /// Clients that are silent for `timeout`, because they wait for the server to speak: "reject" (default)
        /// or a pool.
        on_timeout: String,
        /// How long a client may be silent before `on_timeout` gets it; "1ms" to "1h". Default "3s". Below a
        /// second, clients on bad links go astray.
        timeout: Time<1, HOUR>,
    }

    /// Conditions, all of which must fit, and what then happens: `pool`, `split` or `action`.
    "a route" struct Route {
        /// A host name, or "*.example.com" for every name below it (any depth, not itself), or an array.
        /// Default: any name or none, which is asked after all routes with a name.
        sni: OneOrMany<SniPattern>,
        /// With a wildcard: 1, the star stands for one label only. Default: for any number.
        depth: Number<1, 1>,
        /// A regular expression for the whole name, without regard to case, or an array; not beside `sni`. Asked
        /// after the names of all other routes, in written order. Default: none.
        sni_regex: OneOrMany<SniRegex>,
        /// TLVs that the PROXY header of the connection has, by kind, each with one of these values:
        /// { "0xEA" = "vpce-08d2bf15fac5001c9" }. Ids of private links are written as their clouds do: 0xEA is AWS, 0xEE
        /// Azure, 0xE0 Google Cloud. Default: any or none.
        proxy_tlv: NamedTables<OneOrMany<Text>>,
        /// Networks of clients, such as "10.0.0.0/8", or one address. Default: any.
        source: OneOrMany<Network>,
        /// Where clients reached us: "10.0.0.1", ":5433" or "10.0.0.1:5433", or an array. Default: anywhere.
        destination: OneOrMany<Reached>,
        /// Protocols of which the client must offer one (ALPN), such as "h2", or an array. Default: any or none.
        alpn: OneOrMany<ProtocolName>,
        /// JA4 fingerprints of clients, or how they begin: "t13d*"; or an array. Any client can copy one. Default: any.
        ja4: OneOrMany<Fingerprint>,
        /// Whether the client offers Encrypted ClientHello; many browsers only pretend to. Default: either.
        ech: bool,
        /// The client offers at least this version of TLS: "1.0", "1.1", "1.2" or "1.3". One that offers only
        /// less is refused, unless another route for the same name takes it. Default: any.
        tls_min: Keyword<TlsVersion>,
        /// What the access log calls the route; metrics count its connections and bytes under this name. Default: its
        /// name and which other conditions it has, and no metrics of its own.
        name: Name,
        /// The pool's name. Needed, or `split`, or `action`.
        pool: String,
        /// Several pools with weights. A client stays with its pool while the weights do. Needed, or
        /// `pool`, or `action`.
        split: ArrayOf<Share>,
        /// "reject": a TLS alert, without TLS a reset; "drop": a reset without a word. Needed, or `pool`, or
        /// `split`.
        action: Keyword<RefusalWord>,
        /// What the route may have, all its names together. Default: no limits.
        limits: QuotaWords,
    }

    /// One of the pools of a split.
    #[cfg_attr(test, schemars(extend("required" = ["pool"])))]
    "a share" struct Share {
        /// The pool's name. Needed.
        pool: String,
        /// Its share of the clients relative to the others, 0 to 65535. Default 1.
        weight: Number<0, 65535>,
    }

    /// A file with routes of a listener.
    #[cfg_attr(test, schemars(extend("required" = ["routes"])))]
    "a routes file" struct RoutesFile {
        /// The routes, in the form that they have in a listener. Needed.
        routes: ArrayOf<Route>,
    }

    /// Where connections go: backends and how to choose between them.
    #[cfg_attr(test, schemars(extend("anyOf" = [{ "required": ["backends"] }, { "required": ["discover"] }, { "required": ["forward"] }])))]
    "a pool" struct Pool {
        /// How a backend is chosen: "maglev" (default), consistent hashing; "round-robin", each in turn;
        /// "least-connections", the fewest for its weight; "random-two", the fewer of two drawn by luck;
        /// "failover", the first in written order that is up; "least-latency", the shorter connect time of
        /// late, times connections, of two drawn by luck.
        balance: Keyword<Algorithm>,
        /// What maglev hashes: "source-ip" (default), "source-ip-port", or "sni", the server name (tls
        /// listeners only; clients without one are hashed by their address), or "proxy-authority", the host name
        /// in their PROXY header (those without one are hashed as with "sni"); an array hashes all of it together.
        hash_on: OneOrMany<Keyword<HashOn>>,
        /// How many leading bits of a source address are hashed.
        source_prefix: SourcePrefix,
        /// maglev only: the most open connections of a backend against its share by weight of all, 1.01 to
        /// 10; what is above goes to others, different ones for different clients. 1.25 is a good value.
        /// Default: no bound. Nodes count for themselves, so with a bound they may disagree about a client.
        max_load: Factor<101, 1000>,
        /// How long a backend that comes up, or is added by a reload, takes less than its share, beginning
        /// with a tenth and growing evenly; "100ms" to "1h", or "off" (default): it takes all at once.
        slow_start: TimeOrOff<100, HOUR>,
        /// The backends: "10.0.0.1:443", "unix:/run/app.sock", "db1.internal:5432", or tables with name and weight. Each
        /// address of a host name is a backend. Without a port, "10.0.0.1" or "db1", they get that of the listener's
        /// range which the client reached. Needed, unless they are discovered or the pool forwards.
        backends: ArrayOf<BackendWords>,
        /// How the host names in `backends`, `health` and `agent` are resolved.
        resolve: Resolve,
        /// The zones that come after the node's own, in order of preference. Default: the `zones` of the node.
        zones: ArrayOf<Name>,
        /// When less of the pool's weight than this is up, "1%" to "100%", health is disregarded and everything
        /// is used: better some failures than a crowd at the few that are left. Default: never.
        panic_threshold: Percent<1, 100>,
        /// Connections that each backend has at once, from this process; a backend may have its own. Default:
        /// no limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// What the pool may have, all its backends together, from this process; what is above does not wait.
        /// Default: no limits.
        limits: QuotaWords,
        /// Where connections wait while every backend is full. Default: nowhere, they are refused.
        queue: Queue,
        /// Where further backends come from while the process runs, or an array of several such places. Default: only
        /// those of `backends`.
        discover: OneOrMany<Discover>,
        /// Clients go to the hosts they name, instead of to backends. Default: none.
        forward: Forward,
        /// Active checks of the backends.
        health: Health,
        /// Agents on the backends' hosts that say how their backends are. Default: none.
        agent: Agent,
        /// Ejection of backends that fail one client after the other. Default: none; an empty table switches
        /// it on.
        ejection: Ejection,
        /// What happens to the open connections of a backend that goes down: "keep" (default) lets them go
        /// on; "close" resets them, `close_rate` a second, so that their clients come back elsewhere. A check
        /// that fails wrongly then costs connections.
        on_down: Keyword<OnDownWord>,
        /// With `on_down = "close"`: connections a second that are closed, over all backends of the pool; 1
        /// to 1000000. Default 100: what comes back all at once may take down the backends that are left.
        close_rate: Number<1, 1_000_000>,
        /// Different backends tried for one client, 1 to 32. Default 3.
        attempts: Number<1, 32>,
        /// The PROXY header that backends get first: "v1", "v2" or a table. Default: none. Checks send one too.
        proxy_protocol: ProxyOutWords,
        /// How long one attempt to connect may take; "1ms" to "10m". Default "5s".
        connect_timeout: Time<1, { 10 * MINUTE }>,
        /// How long all attempts together may take; "1ms" to "1h". Default "15s".
        dial_timeout: Time<1, HOUR>,
        /// The address that backends see: "client", the client's, which needs CAP_NET_ADMIN and the rules that
        /// `pointsman tproxy-rules` prints; or an address of this machine, such as "10.0.0.5". Default: the
        /// kernel's choice. Checks and agents are not concerned.
        source: SourceAddress,
        /// TCP keepalive of backends: how long a connection is idle before the kernel sends the first probe
        /// (TCP_KEEPIDLE, whole seconds); "4s" to "9h", or "off": then only the listener's `idle_timeout` closes an
        /// idle connection whose backend has vanished. An answer to any probe begins the count anew. While bytes
        /// are under way the kernel sends no such probes: pointsman closes backends that answer nothing for 60 s.
        /// Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// The time from each probe to the next (TCP_KEEPINTVL, whole seconds); "1s" to "9h". Default: a quarter of
        /// `keepalive`, at least "1s".
        keepalive_interval: Time<SECOND, { 9 * HOUR }>,
        /// Probes in a row without an answer (TCP_KEEPCNT), 1 to 127: the kernel closes the connection one interval
        /// after the last of them, by default 120 s after the last byte. Default 4.
        keepalive_count: Number<1, 127>,
        /// TCP_USER_TIMEOUT: the kernel closes the connection if the backend takes no byte for this time, whether
        /// the backend is gone or only does not read. The kernel then ignores `keepalive_count`, and closes an idle
        /// connection after this time if one probe is unanswered. "100ms" to "1day", or "off" (default): pointsman
        /// closes the connection if the backend answers nothing for 60 s, and backends that answer and do not read
        /// stay. Before Linux 6.15 the kernel probes a backend that has not read for long only every two minutes,
        /// so a backend that vanishes then is closed after about six minutes.
        user_timeout: TimeOrOff<100, DAY>,
        /// How long a backend may answer and take no byte while bytes wait for it; "1s" to "30days", or "off"
        /// (default): as long as the listener's `idle_timeout`. pointsman closes such a connection up to 7 s late.
        /// This timeout ends paused transfers, and bounds how long a backend that does not read holds memory.
        stall_timeout: TimeOrOff<SECOND, { 30 * DAY }>,
        /// Bytes that the kernel may hold for a backend beyond what is on its way there, 16384 to 1073741824.
        /// Default: as much as the system's net.ipv4.tcp_wmem and tcp_notsent_lowat allow.
        max_unsent: Number<16384, { 1 << 30 }>,
        /// Bytes of a backend that the kernel may hold while its client does not take them, 16384 to 1073741824; the
        /// system's net.core.rmem_max cuts it. A backend that is far away needs its bandwidth times the
        /// round-trip time. Default: the kernel adapts it, up to the last value of net.ipv4.tcp_rmem.
        max_unread: Number<16384, { 1 << 30 }>,
    }

    /// Where connections wait while every backend is full, the first come first.
    #[cfg_attr(test, schemars(extend("required" = ["length"])))]
    "a queue" struct Queue {
        /// Connections that may wait at once, 1 to 1000000; more are refused. Needed.
        length: Number<1, 1_000_000>,
        /// How long one may wait; "1ms" to "1h". Default "5s". The time of connecting begins after it.
        timeout: Time<1, HOUR>,
    }

    /// Where further backends come from while the process runs: `dns` or `file`.
    "a discovery" struct Discover {
        /// The DNS is asked for this name, by the TTL of its answers. With a final dot it is whole, without one
        /// the system's search list applies. Default: none. What was last found is kept when an answer fails or
        /// is empty.
        dns: DnsName,
        /// dns only: "address" (default), A and AAAA records, all with the same `port`; "srv", SRV records,
        /// which have ports, weights and priorities.
        r#type: Keyword<RecordType>,
        /// dns only, not for "srv": the port of every address, 1 to 65535. Needed there.
        port: Number<1, 65535>,
        /// dns only: the resolvers that are asked, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: those
        /// of the system (/etc/resolv.conf), and /etc/hosts before them.
        resolvers: OneOrMany<ResolverAddress>,
        /// dns only: the least time between two questions, whatever the TTL; "100ms" to "1day". Default "5s".
        min_ttl: Ttl,
        /// dns only: the most time between two questions; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// dns only: up to how many percent of the time between two questions are added to it by chance, so that
        /// many nodes do not ask at once; 0 to 100. Default 10.
        jitter: Number<0, 100>,
        /// The path of a JSON file that another program writes, relative to this file's directory. It is read
        /// whenever it changes. Default: none. What was last found is kept while the file is broken.
        file: FilePath,
        /// How long a backend that an answer leaves out stays before it vanishes, for servers that answer with a changing
        /// part of the addresses; "0s" (off) to "7days". Default "30s" for dns, "0s" for file.
        hold: Time<0, { 7 * DAY }>,
        /// How long connections to a backend that vanished may go on before they are closed; "0s" to "7days".
        /// Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// How the host names in `backends` are resolved.
    "a resolution" struct Resolve {
        /// The resolvers that are asked, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: those of the
        /// system (/etc/resolv.conf), and /etc/hosts before them.
        resolvers: OneOrMany<ResolverAddress>,
        /// The least time between two questions for a name, whatever the TTL; "100ms" to "1day". Default "5s".
        min_ttl: Ttl,
        /// The most time between two questions for a name; "100ms" to "1day". Default "5m".
        max_ttl: Ttl,
        /// Up to how many percent of the time between two questions are added to it by chance; 0 to 100. Default 10.
        jitter: Number<0, 100>,
        /// How long an address that an answer leaves out stays a backend, for servers that answer with a changing part of
        /// the addresses; "0s" (off) to "7days". Checks and agents use the last answer. Default "30s".
        hold: Time<0, { 7 * DAY }>,
        /// How long connections to an address that a name no longer has may go on before they are closed; "0s" to
        /// "7days". Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
    }

    /// Clients go to the hosts they name: the name is resolved and dialled, at most `attempts` of its addresses.
    #[cfg_attr(test, schemars(extend("required" = ["allow"])))]
    "a forward" struct Forward {
        /// What is resolved: "sni" (default), the server name of the client's hello.
        to: Keyword<ForwardTo>,
        /// The port that is dialled, 1 to 65535. Default 443.
        port: Number<1, 65535>,
        /// The names that may be asked for: host names, or "*.example.com" for every name below it, or an array.
        /// Needed.
        allow: OneOrMany<SniPattern>,
        /// Networks such as "10.1.0.0/16" that may be dialled although they are no part of the public Internet,
        /// or an array. Default: none. The owner of an allowed name can then lead clients to any host in
        /// them.
        allow_private: OneOrMany<OpenNetwork>,
        /// The resolvers that are asked, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: those of the
        /// system (/etc/resolv.conf), and /etc/hosts before them.
        resolvers: OneOrMany<ResolverAddress>,
    }

    /// How many leading bits of a source address are hashed.
    "a source prefix" struct SourcePrefix {
        /// For IPv4, 1 to 32 bits. Default 32.
        v4: Number<1, 32>,
        /// For IPv6, 1 to 128 bits. Default 64: one network, one user.
        v6: Number<1, 128>,
    }

    /// A backend with more than an address.
    #[cfg_attr(test, schemars(extend("required" = ["address"])))]
    "a backend" struct Backend {
        /// Its identity over reloads, in logs and in metrics; of a host name the first part, before the IP address.
        /// Default: its address.
        name: Name,
        /// Where it listens: `"10.0.0.1:443"`, `"[2001:db8::1]:443"` or `"unix:/run/app.sock"`; or a host name,
        /// `"db1.internal:5432"`, each of whose addresses is a backend with these settings. Needed.
        address: BackendAddress,
        /// Its share of the traffic relative to the others, 0 to 65535; 0 takes no new connections.
        /// Default 1.
        weight: Number<0, 65535>,
        /// The zone it stands in. Default: none, as if it stood in a zone that is in no list.
        zone: Name,
        /// Whether it is used only while no other backend is up. Default false.
        backup: bool,
        /// Connections that it has at once, from this process. Default: that of the pool.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// What you want of it: "ready" (default); "drain": no new connections, open ones stay;
        /// "maintenance": the same, and its checks pause. Obeyed at a reload.
        state: Keyword<OperatorState>,
        /// Where its checks go. Default: as the pool's `health` says.
        health: Target,
        /// Where its agent is. Default: as the pool's `agent` says.
        agent: Target,
    }

    /// Where checks or an agent of one backend are, as far as its pool does not say.
    "a target" struct Target {
        /// An address or a host name, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`, `"probe.internal:8080"`,
        /// `"unix:/run/check.sock"`. Default: the pool's.
        address: TargetAddress,
        /// The port. Default: the pool's.
        port: Number<1, 65535>,
    }

    /// Active checks of the backends.
    "a health check" struct Health {
        /// What a check does. "tcp" (default): a connection is opened and closed. "tls": a ClientHello is
        /// sent and a ServerHello must come. "http": a request, answered by an expected status. "postgres", "mysql", "redis",
        /// "smtp", "mqtt", "ssh": the first words of that protocol. "send-expect": your own `steps`. "off":
        /// backends count as up.
        check: Keyword<Check>,
        /// check = "tls", and with `tls = true`: the server name to ask for. Default: with `tls = true` the name in
        /// `host`, else that in `address`; where both are none, no name is sent.
        server_name: TlsName,
        /// http, redis, smtp, mqtt and send-expect only: whether the check goes through TLS. Certificates are judged
        /// only with `ca_file`. Default false.
        tls: bool,
        /// With `tls = true`: the protocols to offer by ALPN, such as "http/1.1". Default: ALPN is not used.
        alpn: OneOrMany<ProtocolName>,
        /// With `tls = true`: a file with certificates in PEM, relative to this file's directory. The server's
        /// certificate must come from one of them and have `server_name`, or without a name the address that is checked.
        /// Read at the start and at each reload. Default: certificates are not judged.
        ca_file: FilePath,
        /// http only: the method, in capital letters. Default "GET".
        method: HttpMethod,
        /// http only: further headers by their names, such as { Authorization = "Bearer x" }. Default: none.
        headers: NamedTables<HeaderValue>,
        /// http only: statuses that count as up, "200-399", "200", or an array of such. Default "200-399".
        expect: OneOrMany<Statuses>,
        /// http only: text that must be in the body, of which 64 KiB are read. Default: the body is not read.
        body: Text,
        /// http only: a regular expression that must match in the body, of which 64 KiB are read. Default: the body is
        /// not read.
        body_regex: AnswerPattern,
        /// http only: what to ask for. Default "/".
        path: HttpPath,
        /// http only: the Host header. Default: the address or host name that is checked.
        host: HttpHost,
        /// postgres, mysql only: the user that logs in, without a password. Default: none, the first words
        /// of the server are enough.
        user: User,
        /// send-expect only: what to send and what must come, 1 to 32 steps, in this order. Needed there.
        steps: ArrayOf<Step>,
        /// Where to check, with or without port: `"10.0.0.9"`, `"10.0.0.9:8080"`, `"probe.internal:8080"`,
        /// `"unix:/run/check.sock"`. A host name is followed as those in `backends`; of its addresses the first that
        /// accepts is checked. Default: each backend's own address.
        address: TargetAddress,
        /// The port to check. Default: that of `address`, else each backend's own.
        port: Number<1, 65535>,
        /// The PROXY header that checks begin with: "local", that of a connection on our own account (LOCAL in
        /// version 2); "proxy", one with the two ends of the check's connection, for servers that close on LOCAL; false:
        /// none, for checks at a port that does not know it. true is "local". Default: "local" where the pool sends a
        /// header.
        proxy_protocol: CheckHeaderWord,
        /// Time between the starts of two checks of one backend; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// The same while the last results speak against the backend's state; at most `interval`, "10ms" to
        /// "1day". Default: `interval`.
        fast_interval: Time<10, DAY>,
        /// The same while the backend is down; "10ms" to "1day". Default: `interval`.
        down_interval: Time<10, DAY>,
        /// How long one check may take, at most `interval`, for smtp at most "10s" or `interval`; "1ms" to "1h". Default:
        /// `interval`, at most "5s"; for smtp "10s", because servers may delay their greeting.
        timeout: Time<1, HOUR>,
        /// Successes in a row that bring a backend up, 1 to 1000. Default 2.
        rise: Number<1, 1000>,
        /// Failures in a row that take a backend down, 1 to 1000. Default 3.
        fall: Number<1, 1000>,
    }

    /// Ejection of backends that fail one client after the other.
    "an ejection" struct Ejection {
        /// Clients in a row that could not be connected, or were reset before the backend had sent a byte;
        /// 1 to 1000. Default 5. A client that can make a backend reset connections can eject it.
        consecutive_failures: Number<1, 1000>,
        /// How long a backend gets no new connections: this time for a first ejection, twice it for one right
        /// after, and so on; "100ms" to "1day". Default "30s".
        base_time: Time<100, DAY>,
        /// The longest time for one ejection, at least `base_time`; "100ms" to "1day". Default "300s".
        max_time: Time<100, DAY>,
        /// How many percent of the pool may be ejected at once, 1 to 100. Default 10. One backend always may;
        /// the last one that is available never.
        max_ejected: Number<1, 100>,
    }

    /// One step of a send-expect check: one of these keys.
    "a step" struct Step {
        /// Text to send, 1 to 4096 bytes. Default: none.
        send: Text,
        /// Bytes to send, two hexadecimal digits each; spaces are passed over. Default: none.
        send_hex: Hex,
        /// Text that must come, 1 to 4096 bytes, anywhere in what was sent since the last match. Default: none.
        expect: Text,
        /// Bytes that must come, two hexadecimal digits each. Default: none.
        expect_hex: Hex,
        /// A regular expression that must match in what was sent since the last match. Default: none.
        expect_regex: AnswerPattern,
        /// Text that must not come before the next expected bytes, or, behind the last of these, before the server
        /// closes or falls silent. Default: none.
        refuse: Text,
    }

    /// Agents on the backends' hosts, which answer a connection by a line such as "up 75%".
    "an agent" struct Agent {
        /// The agents' port. Needed, here, in `address` or at each backend; no default.
        port: Number<1, 65535>,
        /// Where the agents are, an address or a host name, with or without port. Default: each backend's own address.
        address: TargetAddress,
        /// Time between the starts of two questions to one agent; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// How long one answer may take, at most `interval`; "1ms" to "1h". Default: `interval`, at most "5s".
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

/// What a listener does with the first bytes.
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

/// A route's way to turn clients away.
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

/// Which records of the DNS name backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordType {
    Address,
    Srv,
}

impl KeywordEnum for RecordType {
    const WORDS: &'static [(&'static str, Self)] = &[("address", Self::Address), ("srv", Self::Srv)];
}

/// What a pool that forwards resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardTo {
    Sni,
}

impl KeywordEnum for ForwardTo {
    const WORDS: &'static [(&'static str, Self)] = &[("sni", Self::Sni)];
}

/// What `on_down` says; the rate stands in a key of its own.
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

/// Whether and how backends are checked.
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
