//! The words of the file, key by key, as an operator writes them.
//!
//! Defaults are applied by the checks, not here: a key that is not written is absent. The descriptions
//! are those of the JSON schema; each says the unit, the default and, where there is one, the danger.

use super::address::{AdminAddress, BackendAddress, Bind, ResolverAddress};
use super::findings::Findings;
use super::read::{Entry, Key, List, Named, OneOrMany, Path, Read, Value, tables};
use super::words::{
    Choice, DnsName, FilePath, HashKey, LogTarget, Name, Number, SniPattern, Time, TimeOrOff, Word,
};
use super::{LogFormat, LogLevel};
use crate::balance::Algorithm;
use crate::pool::spec::{CheckKind, HashOn};
use crate::relay::EngineChoice;
use crate::telemetry::AccessLogFormat;

/// Units of the bounds below, in milliseconds.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Far above what one machine can hold open, to catch slips of the keyboard.
const MOST_CONNECTIONS: u64 = 100_000_000;

tables! {
    /// The configuration of pointsman. At least one listener with a `bind` and one pool with a backend are
    /// needed; everything else has a default.
    "a configuration" struct File {
        /// Threads that serve, 0 to 1024. Default 0: one per core. A change needs a restart.
        workers: Number<0, 1024>,
        /// Connections the process holds open at once. Default: half of the file descriptors it may open,
        /// after a reserve.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// The key of the hash balancers, 32 hexadecimal digits. Every node that shares a pool needs the
        /// same. Default 706f696e74736d616e2d686173682d31.
        hash_key: HashKey,
        /// The admin listener: metrics, health, status.
        admin: Admin,
        /// The access log: one record for each connection that ended.
        access_log: AccessLog,
        /// The program's own log, on standard error.
        log: Log,
        /// What happens after SIGTERM.
        shutdown: Shutdown,
        /// Listeners by name: where clients connect.
        listener: Named<Listener>,
        /// Pools by name: where connections go.
        pool: Named<Pool>,
    }

    /// The admin listener: metrics, health, status.
    "the admin listener" struct Admin {
        /// Its address, such as "127.0.0.1:9100". Default: none, no admin listener. It asks nobody for a
        /// password, so keep it away from strangers.
        listen: AdminAddress,
    }

    /// The access log: one record for each connection that ended.
    "the access log" struct AccessLog {
        /// "stdout" (default), "off", or the path of a file, with a slash in it, that is appended to.
        to: LogTarget,
        /// "json" (default): one object a line; "text": key=value pairs.
        format: Choice<AccessLogFormat>,
    }

    /// The program's own log, on standard error.
    "the log" struct Log {
        /// The least important level that is written: "error", "warn", "info" (default), "debug", "trace".
        level: Choice<LogLevel>,
        /// "text" (default) for people, "json" for programs.
        format: Choice<LogFormat>,
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
        /// Addresses to listen on: `"0.0.0.0:443"`, `"[::]:443"`, `":443"` for both of these, or an array.
        /// Needed.
        bind: OneOrMany<Bind>,
        /// "tcp" (default): every connection goes to `pool`; "tls": the ClientHello is read, never
        /// decrypted, and its server name chooses the pool.
        protocol: Choice<Protocol>,
        /// tcp only: the pool of every connection. Needed there.
        pool: String,
        /// tls only: server names to pools. An exact name wins, then the longest wildcard.
        /// Default: none.
        routes: List<Route>,
        /// tls only: clients that send no server name: "reject" (default) or a pool.
        no_sni: String,
        /// tls only: clients whose server name no route matches: "reject" (default) or a pool.
        unmatched: String,
        /// tls only: from accept to the first byte; "1ms" to "1day". Default "60s".
        first_byte_timeout: Time<1, DAY>,
        /// tls only: from the first byte to the whole ClientHello; "1ms" to "1h". Default "5s". Below a
        /// second it cuts off honest clients on bad links.
        hello_timeout: Time<1, HOUR>,
        /// tls only: bytes of ClientHello accepted, 16384 to 65536. Default 16384.
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
        engine: Choice<EngineChoice>,
        /// Connections of this listener open at once. Default: only the process's own limit.
        max_connections: Number<1, MOST_CONNECTIONS>,
        /// Connections the kernel may hold before they are accepted, 1 to 1000000. Default 4096; the
        /// system's net.core.somaxconn cuts it.
        backlog: Number<1, 1_000_000>,
        /// TCP keepalive: idle time before the first probe, the time between probes is a quarter of it;
        /// "4s" to "9h", or "off": a vanished peer is then noticed only by `idle_timeout`. Default "60s".
        keepalive: TimeOrOff<{ 4 * SECOND }, { 9 * HOUR }>,
        /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged; "100ms" to "1day", or "off": the
        /// kernel's own limit of about 15 minutes. Default "60s".
        user_timeout: TimeOrOff<100, DAY>,
    }

    /// Server names and the pool they go to.
    #[cfg_attr(test, schemars(extend("required" = ["sni", "pool"])))]
    "a route" struct Route {
        /// A host name, or "*.example.com" for every name below it (any depth, not itself), or an array.
        /// Needed.
        sni: OneOrMany<SniPattern>,
        /// The pool's name. Needed.
        pool: String,
    }

    /// Where connections go: backends and how to choose between them.
    #[cfg_attr(test, schemars(extend("anyOf" = [{ "required": ["backends"] }, { "required": ["discover"] }])))]
    "a pool" struct Pool {
        /// How a backend is chosen: "maglev" (default), consistent hashing; "round-robin", each in turn.
        balance: Choice<Algorithm>,
        /// What maglev hashes: "source-ip" (default), "source-ip-port", or "sni", the server name (tls
        /// listeners only; clients without one are hashed by their address).
        hash_on: Choice<HashOn>,
        /// How many leading bits of a source address are hashed.
        source_prefix: SourcePrefix,
        /// The backends: "10.0.0.1:443", "unix:/run/app.sock", or tables with name and weight. Needed, unless
        /// they are discovered.
        backends: List<BackendWords>,
        /// Where further backends come from while the process runs. Default: only those of `backends`.
        discover: Discover,
        /// Active checks of the backends.
        health: Health,
        /// Different backends tried for one client, 1 to 32. Default 3.
        attempts: Number<1, 32>,
        /// How long one attempt to connect may take; "1ms" to "10m". Default "5s".
        connect_timeout: Time<1, { 10 * MINUTE }>,
        /// How long all attempts together may take; "1ms" to "1h". Default "15s".
        dial_timeout: Time<1, HOUR>,
    }

    /// Where further backends come from while the process runs: `dns` or `file`.
    "a discovery" struct Discover {
        /// The DNS is asked for this name, by the TTL of its answers. With a final dot it is whole, without one
        /// the system's search list applies. Default: none. What was last found is kept when an answer fails or
        /// is empty.
        dns: DnsName,
        /// dns only: "address" (default), A and AAAA records, all with the same `port`; "srv", SRV records,
        /// which have ports, weights and priorities.
        r#type: Choice<RecordType>,
        /// dns only, not for "srv": the port of every address, 1 to 65535. Needed there.
        port: Number<1, 65535>,
        /// dns only: the resolvers that are asked, as "10.0.0.53" or "10.0.0.53:5353", or an array. Default: those
        /// of the system (/etc/resolv.conf), and /etc/hosts before them.
        resolvers: OneOrMany<ResolverAddress>,
        /// dns only: the least time between two questions, whatever the TTL; "100ms" to "1day". Default "5s".
        min_ttl: Time<100, DAY>,
        /// dns only: the most time between two questions; "100ms" to "1day". Default "5m".
        max_ttl: Time<100, DAY>,
        /// dns only: up to how many percent of the time between two questions are added to it by chance, so that
        /// many nodes do not ask at once; 0 to 100. Default 10.
        jitter: Number<0, 100>,
        /// The path of a JSON file that another program writes, relative to this file's directory. It is read
        /// whenever it changes. Default: none. What was last found is kept while the file is broken.
        file: FilePath,
        /// How long connections to a backend that vanished may go on before they are closed; "0s" to "7days".
        /// Default: `shutdown.drain`.
        drain: Time<0, { 7 * DAY }>,
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
        /// Its identity over reloads, in logs and in metrics. Default: its address.
        name: Name,
        /// Where it listens: `"10.0.0.1:443"`, `"[2001:db8::1]:443"` or `"unix:/run/app.sock"`. Needed.
        address: BackendAddress,
        /// Its share of the traffic relative to the others, 0 to 65535; 0 takes no new connections.
        /// Default 1.
        weight: Number<0, 65535>,
    }

    /// Active checks of the backends.
    "a health check" struct Health {
        /// "tcp" (default): a connection is opened and closed; "off": backends count as up.
        check: Choice<Check>,
        /// Time between the starts of two checks of one backend; "10ms" to "1day". Default "2s".
        interval: Time<10, DAY>,
        /// How long one check may take, at most `interval`; "1ms" to "1h". Default: `interval`, at most "5s".
        timeout: Time<1, HOUR>,
        /// Successes in a row that bring a backend up, 1 to 1000. Default 2.
        rise: Number<1, 1000>,
        /// Failures in a row that take a backend down, 1 to 1000. Default 3.
        fall: Number<1, 1000>,
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
            address: Key::Good(Entry { key: at, at, value: address }),
            ..Backend::default()
        }))
    }
}

/// What a listener does with the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Tls,
}

impl Word for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("tls", Self::Tls)];
}

/// Which records of the DNS name backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordType {
    Address,
    Srv,
}

impl Word for RecordType {
    const WORDS: &'static [(&'static str, Self)] = &[("address", Self::Address), ("srv", Self::Srv)];
}

/// Whether and how backends are checked; `None` is "off".
type Check = Option<CheckKind>;

impl Word for Check {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Some(CheckKind::Tcp)), ("off", None)];
}

impl Word for AccessLogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Word for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Word for EngineChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("splice", Self::Splice), ("copy", Self::Copy)];
}

impl Word for Algorithm {
    const WORDS: &'static [(&'static str, Self)] =
        &[("maglev", Self::Maglev), ("round-robin", Self::RoundRobin)];
}

impl Word for HashOn {
    const WORDS: &'static [(&'static str, Self)] =
        &[("source-ip", Self::SourceIp), ("source-ip-port", Self::SourceIpPort), ("sni", Self::Sni)];
}
