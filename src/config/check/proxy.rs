//! Checks the PROXY protocol, of listeners and of pools.

use std::time::Duration;

use super::or;
use super::pool::PoolChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Check, Listener, Pool, Protocol};
use crate::config::findings::Findings;
use crate::config::proxy::{CheckHeaderWord, PassWords, ProxyIn, ProxyOut, TlvKind, TrustedPeer};
use crate::config::read::{Key, NamedTable, NamedTables, TableEntry};
use crate::config::words::Keyword;
use crate::pool::{AnnounceSpec, CheckHeader, Passed};
use crate::snapshot::{ProxyMode, ProxySpec, TrustedPeers};
use crate::wire::proxy_protocol::{HeaderVersion, Tlv};

/// The default of `timeout`. Balancers send the header right after the connect, or with the client's first bytes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of all values of `tlvs` together. With this bound, the whole header stays well below the longest
/// header that servers read, and below one segment.
const MOST_TLVS: usize = 1024;

/// Returns the spec of the headers that a listener reads. `path` is the path of the key.
pub(super) fn listener(words: &TableEntry<ProxyIn>, path: &str, found: &mut Findings<'_>) -> ProxySpec {
    let ProxyIn { mode, trusted, timeout } = &words.value;
    let items = trusted.value().map_or(&[][..], |list| &list.0.items);
    let is_empty = match trusted {
        Key::Good(entry) => entry.value.0.items.is_empty() && entry.value.0.complete,
        Key::Wrong => false,
        Key::Absent => true,
    };
    if is_empty {
        let message = "a listener that reads PROXY headers needs the addresses of trusted peers";
        let fault = Diagnostic::new(Code::MissingKey, format!("{path}.trusted"), message);
        let place = trusted.place().unwrap_or(words.key);
        found.add(
            fault
                .label(place, "no peer is trusted")
                .help("such as: trusted = [\"10.0.0.0/8\"], the addresses of the proxies in front"),
        );
    }
    for item in items {
        let TrustedPeer::Network(network) = item.value else { continue };
        if network.is_all() {
            let message = "every client can claim any address";
            let warning = Diagnostic::new(Code::TrustsEverybody, format!("{path}.trusted"), message);
            let help = "name the addresses of the proxies in front";
            found.add(warning.label(item.at, "all addresses").help(help));
        }
    }
    let networks = items.iter().filter_map(|item| match item.value {
        TrustedPeer::Network(network) => Some(network),
        TrustedPeer::Unix => None,
    });
    ProxySpec {
        mode: or(mode, |choice| choice.0, ProxyMode::Require),
        trusted: TrustedPeers {
            prefixes: networks.collect(),
            unix: items.iter().any(|item| matches!(item.value, TrustedPeer::Unix)),
        },
        timeout: or(timeout, |time| time.0, TIMEOUT),
    }
}

/// Warns of each listener with PROXY headers whose server sends first. If a balancer sends the header with the
/// client's first bytes, the header never comes to such a listener. A written `timeout` shows that the operator has
/// considered it, so there is no warning.
pub(super) fn warn_of_late_headers(
    listeners: &Key<NamedTables<Listener>>,
    pools: &Key<NamedTables<Pool>>,
    found: &mut Findings<'_>,
) {
    for NamedTable { name, table, .. } in listeners.value().map_or(&[][..], |named| &named.0) {
        let Some(words) = table else { continue };
        let Some(proxy) = words.proxy_protocol.entry().filter(|proxy| proxy.value.timeout.is_absent()) else {
            continue;
        };
        let Some(speaks) = first_speaker(words, pools) else { continue };
        let message =
            format!("the server sends first on listener `{name}`, and a PROXY header may come too late");
        let path = format!("listener.{name}.proxy_protocol");
        let warning =
            Diagnostic::new(Code::LateHeader, path, message).label(speaks, "the client waits for the server");
        found.add(
            warning
                .label(proxy.key, "the server waits for the header")
                .help(
                    "an AWS NLB sends the header with the client's first bytes: set the attribute \
                     proxy_protocol_v2.client_to_server.header_placement of its target group to on_first_ack",
                )
                .help("if the header comes at once, write a timeout: proxy_protocol = { timeout = \"5s\", ... }"),
        );
    }
}

/// Returns the position that shows that the server of a listener sends before the client, if a key shows it.
fn first_speaker(words: &Listener, pools: &Key<NamedTables<Pool>>) -> Option<Span> {
    let protocol = words.protocol.entry();
    match protocol.map_or(Protocol::Tcp, |entry| entry.value.0) {
        Protocol::Smtp | Protocol::Imap | Protocol::Pop3 => protocol.map(|entry| entry.at),
        Protocol::Tcp => {
            let name = words.pool.value()?;
            let pool = pools.value()?.0.iter().find(|pool| pool.name == *name)?.table.as_ref()?;
            let check = pool.health.value()?.check.entry()?;
            matches!(check.value.0, Check::Smtp | Check::Mysql | Check::Ssh).then_some(check.at)
        }
        Protocol::Tls | Protocol::Postgres | Protocol::Auto | Protocol::Socks5 | Protocol::Connect => None,
    }
}

impl PoolChecker<'_> {
    /// Returns the spec of the header that backends get.
    pub(super) fn proxy_protocol(&self, found: &mut Findings<'_>) -> Option<AnnounceSpec> {
        let entry = self.words.proxy_protocol.entry()?;
        let words = &entry.value.0;
        let version = self.version(&words.version, entry.key, found)?;
        self.refuse_tlvs_of_v1(words, version, found);
        let is_on = |key: &Key<bool>| or(key, |yes| *yes, false);
        Some(AnnounceSpec {
            authority: is_on(&words.authority),
            alpn: is_on(&words.alpn),
            unique_id: is_on(&words.unique_id),
            crc32c: is_on(&words.crc32c),
            tlvs: self.tlvs(words, found),
            pass: match words.pass.value() {
                Some(PassWords::All(true)) => Passed::All,
                Some(PassWords::Kinds(list)) => {
                    Passed::Kinds(list.items.iter().map(|item| item.value.0).collect())
                }
                Some(PassWords::All(false)) | None => Passed::Kinds(Vec::new()),
            },
            ..AnnounceSpec::new(version)
        })
    }

    /// Returns the header that checks send.
    pub(super) fn checks_announce(&self, found: &mut Findings<'_>) -> Option<CheckHeader> {
        let version = self.words.proxy_protocol.value().and_then(|words| words.0.version.value());
        let own = self.words.health.value().and_then(|health| health.proxy_protocol.entry());
        let nothing_sent = self.words.proxy_protocol.is_absent();
        if let Some(own) = own.filter(|own| own.value != CheckHeaderWord::Off && nothing_sent) {
            let message = format!("the checks of pool `{}` have no PROXY header to send", self.name);
            let warning = Diagnostic::new(Code::IdleSetting, self.key("health.proxy_protocol"), message);
            found.add(
                warning.label(own.key, "").help("write the version at the pool: proxy_protocol = \"v2\""),
            );
        }
        let version = version.map(|choice| choice.0)?;
        match own.map_or(CheckHeaderWord::Local, |own| own.value) {
            CheckHeaderWord::Off => None,
            CheckHeaderWord::Local => Some(CheckHeader::Local(version)),
            CheckHeaderWord::Proxy => Some(CheckHeader::Proxy(version)),
        }
    }

    fn version(
        &self,
        written: &Key<Keyword<HeaderVersion>>,
        place: Span,
        found: &mut Findings<'_>,
    ) -> Option<HeaderVersion> {
        if written.is_absent() {
            let message = format!("the PROXY header of pool `{}` has no version", self.name);
            let fault = Diagnostic::new(Code::MissingKey, self.key("proxy_protocol.version"), message);
            found.add(fault.label(place, "`version` is missing").help("write: version = \"v2\""));
        }
        written.value().map(|choice| choice.0)
    }

    fn refuse_tlvs_of_v1(&self, words: &ProxyOut, version: HeaderVersion, found: &mut Findings<'_>) {
        let keys = [
            ("authority", words.authority.place()),
            ("alpn", words.alpn.place()),
            ("unique_id", words.unique_id.place()),
            ("crc32c", words.crc32c.place()),
            ("tlvs", words.tlvs.place()),
            ("pass", words.pass.place()),
        ];
        for (key, place) in keys {
            let Some(place) = place.filter(|_| version == HeaderVersion::V1) else { continue };
            let message = format!("the PROXY header of pool `{}` cannot contain `{key}`", self.name);
            let path = self.key(&format!("proxy_protocol.{key}"));
            let fault = Diagnostic::new(Code::MisplacedKey, path, message).label(place, "");
            let fault = fault.help("a header of version 1 has addresses only: write version = \"v2\"");
            found.add(self.with_other(fault, &words.version));
        }
    }

    fn tlvs(&self, words: &ProxyOut, found: &mut Findings<'_>) -> Vec<Tlv> {
        let named = words.tlvs.value().map_or(&[][..], |tlvs| &tlvs.0);
        let mut tlvs: Vec<Tlv> = Vec::with_capacity(named.len());
        for tlv in named {
            let path = self.key(&format!("proxy_protocol.tlvs.{}", tlv.name));
            let kind = TlvKind::of_number(&tlv.name).filter(|kind| Tlv::is_free(*kind));
            let Some(kind) = kind.filter(|kind| tlvs.iter().all(|other| other.kind != *kind)) else {
                let is_doubled = kind.is_some();
                let message = format!("{:?} is not a kind of TLV that can be chosen", tlv.name);
                let label = if is_doubled { "it is there already" } else { "" };
                let fault = Diagnostic::new(Code::UnknownWord, path, message).label(tlv.place, label);
                found.add(fault.help("the kinds from \"0xE0\" to \"0xF7\" can be chosen"));
                continue;
            };
            if let Some(text) = &tlv.table {
                tlvs.push(Tlv::new(kind, &*text.0));
            }
        }
        let length: usize = tlvs.iter().map(|tlv| tlv.value.len()).sum();
        if let Some(entry) = words.tlvs.entry().filter(|_| length > MOST_TLVS) {
            let message = format!("the TLVs of pool `{}` are too long", self.name);
            let path = self.key("proxy_protocol.tlvs");
            let label = format!("{length} bytes; {MOST_TLVS} are allowed together");
            found.add(Diagnostic::new(Code::OutOfRange, path, message).label(entry.key, label));
        }
        tlvs
    }
}
