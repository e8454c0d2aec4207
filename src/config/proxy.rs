//! The tables and values of the PROXY protocol: the headers that a listener reads, and those that a pool sends to its
//! backends.

use toml::de::DeValue;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::read::{ArrayOf, Key, NamedTables, OneOrMany, Path, Read, TableEntry, Value, tables, wrong_type};
use super::script::Text;
use super::words::{Keyword, KeywordEnum, Time, string};
use crate::route::IpPrefix;
use crate::snapshot::ProxyMode;
use crate::wire::proxy_protocol::{HeaderVersion, Tlv};

const HOUR: u64 = 3_600_000;

tables! {
    /// PROXY headers that are read from connections. Headers from peers that are not in `trusted` have no effect.
    #[cfg_attr(test, schemars(extend("required" = ["trusted"])))]
    "the proxy_protocol of a listener" struct ProxyIn {
        /// The treatment of a peer that is not trusted, or that sends no header. "require" (default): the peer is
        /// refused. "accept": the peer counts as the client. "shadow": as "accept", and connections that "require"
        /// would refuse are counted.
        mode: Keyword<ProxyMode>,
        /// The peers whose headers are used: networks such as "10.0.0.0/8", addresses, or "unix" for all clients of
        /// Unix sockets; or an array. These peers can claim any client address. Required.
        trusted: OneOrMany<TrustedPeer>,
        /// The longest time from the accept to the end of the header; "1ms" to "1h". If the header is optional, a
        /// peer that sends nothing waits for this time. This wait matters if the server sends first. Default "30s".
        timeout: Time<1, HOUR>,
    }

    /// The PROXY header that is sent to backends before the client's bytes.
    #[cfg_attr(test, schemars(extend("required" = ["version"])))]
    "the proxy_protocol of a pool" struct ProxyOut {
        /// "v1": a line with the addresses. "v2": a binary header with the addresses and further values. Required.
        version: Keyword<HeaderVersion>,
        /// v2 only: send the server name in the client's hello. If the hello has no name, send the name in the
        /// header that came with the connection. Default false.
        authority: bool,
        /// v2 only: send the protocol that the client offers by ALPN. If the client does not offer exactly one,
        /// send the protocol in the header that came with the connection. Default false.
        alpn: bool,
        /// v2 only: send an id of the connection, which the access log has too. If an id came with the connection,
        /// that id is kept. Default false.
        unique_id: bool,
        /// v2 only: add a checksum. Default false.
        crc32c: bool,
        /// v2 only: further TLVs, the same for each connection: { "0xE0" = "text" }, with kinds from 0xE0 to 0xF7.
        /// Default: none.
        tlvs: NamedTables<Text>,
        /// v2 only: the TLVs to pass on from the header that came with the connection. true passes on all. An array
        /// names kinds: "alpn", "authority", "unique-id", "ssl", "netns" and numbers such as "0xE0". Default false.
        pass: PassWords,
    }
}

/// The `proxy_protocol` of a pool: a version alone, or a table.
#[derive(Debug)]
pub(super) struct ProxyOutWords(pub(super) ProxyOut);

impl Read for ProxyOutWords {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if value.get_ref().is_table() {
            return ProxyOut::read(value, path, found).map(Self);
        }
        let at = value.span().into();
        let version = Keyword::read(value, path, found)?;
        Some(Self(ProxyOut {
            version: Key::Good(TableEntry { key: at, at, value: version }),
            ..ProxyOut::default()
        }))
    }
}

/// The PROXY header of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckHeaderWord {
    Off,
    Local,
    Proxy,
}

impl Read for CheckHeaderWord {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        match (value.get_ref(), value.get_ref().as_str()) {
            (DeValue::Boolean(false), _) => Some(Self::Off),
            (DeValue::Boolean(true), _) | (_, Some("local")) => Some(Self::Local),
            (_, Some("proxy")) => Some(Self::Proxy),
            _ => {
                wrong_type(
                    value,
                    path,
                    "\"local\", \"proxy\" or false; the version is a key of the pool",
                    found,
                );
                None
            }
        }
    }
}

impl KeywordEnum for ProxyMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Require.word(), Self::Require),
        (Self::Accept.word(), Self::Accept),
        (Self::Shadow.word(), Self::Shadow),
    ];
}

impl KeywordEnum for HeaderVersion {
    const WORDS: &'static [(&'static str, Self)] =
        &[(Self::V1.word(), Self::V1), (Self::V2.word(), Self::V2)];
}

/// Peers whose headers are believed.
#[derive(Clone, Copy, Debug)]
pub(super) enum TrustedPeer {
    Network(IpPrefix),
    Unix,
}

impl Read for TrustedPeer {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a network such as \"10.0.0.0/8\"", found)?;
        if text == "unix" {
            return Some(Self::Unix);
        }
        match text.parse() {
            Ok(network) => Some(Self::Network(network)),
            Err(fault) => {
                let message = format!("{text:?} is not a network");
                let fault = Diagnostic::new(Code::BadAddress, path, message)
                    .label(value.span().into(), fault.to_string());
                found.add(fault);
                None
            }
        }
    }
}

/// The TLVs that are passed on.
#[derive(Debug)]
pub(super) enum PassWords {
    All(bool),
    Kinds(ArrayOf<TlvKind>),
}

impl Read for PassWords {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if let Some(yes) = value.get_ref().as_bool() {
            return Some(Self::All(yes));
        }
        if !value.get_ref().is_array() {
            wrong_type(value, path, "true, false or an array such as [\"0xE0\"]", found);
            return None;
        }
        ArrayOf::read(value, path, found).map(Self::Kinds)
    }
}

/// A kind of TLV, written as a word or as a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlvKind(pub(super) u8);

impl TlvKind {
    pub(super) const WORDS: [(&'static str, u8); 5] = [
        ("alpn", Tlv::ALPN),
        ("authority", Tlv::AUTHORITY),
        ("unique-id", Tlv::UNIQUE_ID),
        ("ssl", Tlv::SSL),
        ("netns", Tlv::NETNS),
    ];

    /// Returns the kind that is written as a number such as `0xE0`, or `None` for another text.
    pub(super) fn of_number(text: &str) -> Option<u8> {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 2)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
    }
}

impl Read for TlvKind {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a kind such as \"0xE0\"", found)?;
        let word = Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, kind)| *kind);
        let kind = word.or_else(|| Self::of_number(text));
        let Some(kind) = kind.filter(|kind| !matches!(*kind, Tlv::CRC32C | Tlv::NOOP)) else {
            let message = format!("{text:?} is not a kind of TLV that can be passed on");
            let words = Self::WORDS.map(|(word, _)| format!("\"{word}\"")).join(", ");
            found.add(
                Diagnostic::new(Code::UnknownWord, path, message)
                    .label(value.span().into(), "")
                    .help(format!("it takes {words} and numbers such as \"0xE0\"")),
            );
            return None;
        };
        Some(Self(kind))
    }
}
