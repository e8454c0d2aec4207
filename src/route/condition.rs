//! The conditions of a route besides its server name, and the rank that orders routes which match.

use std::cell::OnceCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::prefix::Prefixes;
use crate::wire::proxy_protocol::{ProxyHeader, private_link};
use crate::wire::{Ja4, Offer, TlsVersion};

/// The conditions of a route; a connection must meet all of them. An empty list and `None` are no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The PROXY header of the connection has all of these TLVs.
    pub proxy_tlv: Vec<TlvPattern>,
    /// The client's address is in one of these networks.
    pub source: Prefixes,
    /// The client connected to one of these destinations.
    pub destination: Vec<Destination>,
    /// The hello offers one of these protocols.
    pub alpn: Vec<Box<[u8]>>,
    /// The fingerprint of the hello matches one of these patterns.
    pub ja4: Vec<Ja4Pattern>,
    /// The hello offers Encrypted ClientHello (`true`), or does not (`false`).
    pub ech: Option<bool>,
    /// The hello offers this version of TLS or a later one.
    pub tls_min: Option<TlsVersion>,
}

/// A kind of TLV and its accepted values, as an operator writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlvPattern {
    /// The kind.
    pub kind: u8,
    /// The accepted values, at least one.
    pub values: Vec<Box<[u8]>>,
}

impl TlvPattern {
    fn fits(&self, header: &ProxyHeader) -> bool {
        let is_written = |value: &[u8]| {
            self.values.iter().any(|written| private_link::is_written(written, self.kind, value))
        };
        header.tlv(self.kind).is_some_and(is_written)
    }

    /// Returns the pattern of the same kind.
    fn among<'a>(&self, others: &'a [Self]) -> Option<&'a Self> {
        others.iter().find(|other| other.kind == self.kind)
    }
}

/// A destination that clients connect to: an address, a port, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Destination {
    fn fits(self, reached: SocketAddr) -> bool {
        self.address.is_none_or(|address| address == reached.ip().to_canonical())
            && self.port.is_none_or(|port| port == reached.port())
    }

    /// Returns the rank of the destination. An address is more specific than a port.
    fn rank(self) -> u16 {
        u16::from(self.address.is_some()) * 2 + u16::from(self.port.is_some())
    }
}

/// The fault of a text that is not `IP`, `IP:PORT` or `:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a destination is an address, a colon and a port, or both: 10.0.0.1, :5433, 10.0.0.1:5433")]
pub struct DestinationFault;

impl FromStr for Destination {
    type Err = DestinationFault;

    fn from_str(text: &str) -> Result<Self, DestinationFault> {
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.starts_with(':')) {
            let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            let port =
                port.parse().ok().filter(|&port: &u16| is_number && port > 0).ok_or(DestinationFault)?;
            return Ok(Self { address: None, port: Some(port) });
        }
        if let Ok(both) = text.parse::<SocketAddr>() {
            let address = Some(both.ip().to_canonical());
            return if both.port() == 0 {
                Err(DestinationFault)
            } else {
                Ok(Self { address, port: Some(both.port()) })
            };
        }
        let address: IpAddr =
            text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| DestinationFault)?;
        Ok(Self { address: Some(address.to_canonical()), port: None })
    }
}

/// A whole fingerprint, or the beginning of a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ja4Pattern {
    text: Box<str>,
    is_whole: bool,
}

impl Ja4Pattern {
    /// Returns true if a fingerprint equals this one or begins with it.
    pub fn fits(&self, fingerprint: &Ja4) -> bool {
        match self.is_whole {
            true => *self.text == *fingerprint.as_str(),
            false => fingerprint.as_str().starts_with(&*self.text),
        }
    }
}

/// The fault of a text that is neither a fingerprint nor the beginning of a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a fingerprint has {} characters, such as t13d1516h2_8daaf6152771_e5627efa2ab1; the beginning of a fingerprint ends with `*`",
    Ja4::LENGTH
)]
pub struct Ja4Fault;

impl FromStr for Ja4Pattern {
    type Err = Ja4Fault;

    fn from_str(text: &str) -> Result<Self, Ja4Fault> {
        let (text, is_whole) = text.strip_suffix('*').map_or((text, true), |text| (text, false));
        let fits_length =
            if is_whole { text.len() == Ja4::LENGTH } else { (1..Ja4::LENGTH).contains(&text.len()) };
        let lines_fit = text.bytes().enumerate().all(|(at, byte)| match at {
            10 | 23 => byte == b'_',
            8 | 9 => byte.is_ascii_alphanumeric(),
            _ => byte.is_ascii_lowercase() || byte.is_ascii_digit(),
        });
        if fits_length && lines_fit { Ok(Self { text: text.into(), is_whole }) } else { Err(Ja4Fault) }
    }
}

/// The facts of one connection that conditions are compared with.
#[derive(Debug, Default)]
pub struct ConnectionFacts<'a> {
    /// The client's address; `None` for a client without an address.
    pub source: Option<IpAddr>,
    /// The address that the client connected to. May be `None` if no route [requires](RequiredFacts::destination) it.
    pub destination: Option<SocketAddr>,
    /// The offer of the hello. `None` without a hello, and possibly if no route [requires](RequiredFacts::offer) it.
    pub offer: Option<Offer<'a>>,
    /// The PROXY header of the connection.
    pub proxy: Option<&'a ProxyHeader>,
    /// The fingerprint, after its first use.
    ja4: OnceCell<Ja4>,
}

impl<'a> ConnectionFacts<'a> {
    /// Creates the facts of one connection.
    pub fn new(source: Option<IpAddr>, destination: Option<SocketAddr>, offer: Option<Offer<'a>>) -> Self {
        Self { source, destination, offer, proxy: None, ja4: OnceCell::new() }
    }

    /// Adds the PROXY header of the connection.
    #[must_use]
    pub fn behind(self, proxy: Option<&'a ProxyHeader>) -> Self {
        Self { proxy, ..self }
    }

    /// Returns the fingerprint of the hello, which is computed once.
    pub fn ja4(&self) -> Option<&Ja4> {
        self.offer.as_ref().map(|offer| self.ja4.get_or_init(|| Ja4::of(offer)))
    }
}

/// The facts that at least one route requires. Other facts need not be collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequiredFacts {
    /// The address that the client connected to.
    pub destination: bool,
    /// The offer of the hello.
    pub offer: bool,
}

/// The rank of a route that matches. Ranks are compared from the first number to the last; the greater one is more
/// specific. Two ranks are equal only if the same written values matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteRank([u16; 7]);

/// The result of comparing a connection with conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConditionFit {
    /// The connection does not meet the conditions.
    No,
    /// The connection meets all conditions but [`Conditions::tls_min`].
    TooOld,
    /// The connection meets the conditions.
    Fits(RouteRank),
}

impl Conditions {
    /// Returns true if there is no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the facts that the conditions require.
    pub fn asks(&self) -> RequiredFacts {
        let offer =
            !self.alpn.is_empty() || !self.ja4.is_empty() || self.ech.is_some() || self.tls_min.is_some();
        RequiredFacts { destination: !self.destination.is_empty(), offer }
    }

    /// Returns true if a connection that does not meet these conditions is refused and not routed by a wider name. This
    /// is so if the only condition is a version of TLS.
    pub fn is_final(&self) -> bool {
        *self == Self { tls_min: self.tls_min, ..Self::default() }
    }

    /// Returns true if every connection that meets these conditions also meets `other`, except for the version of TLS.
    pub fn is_within(&self, other: &Self) -> bool {
        fn all_in<T: PartialEq>(own: &[T], other: &[T]) -> bool {
            other.is_empty() || (!own.is_empty() && own.iter().all(|one| other.contains(one)))
        }
        let is_source_within =
            other.source.is_empty() || (!self.source.is_empty() && self.source.is_within(&other.source));
        let is_tlv_within = other.proxy_tlv.iter().all(|wanted| {
            wanted.among(&self.proxy_tlv).is_some_and(|own| all_in(&own.values, &wanted.values))
        });
        is_source_within
            && is_tlv_within
            && all_in(&self.destination, &other.destination)
            && all_in(&self.alpn, &other.alpn)
            && all_in(&self.ja4, &other.ja4)
            && (other.ech.is_none() || self.ech == other.ech)
    }

    /// Returns the configuration keys of the conditions that are set, in the order in which they count.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("proxy_tlv", !self.proxy_tlv.is_empty()),
            ("source", !self.source.is_empty()),
            ("destination", !self.destination.is_empty()),
            ("alpn", !self.alpn.is_empty()),
            ("ja4", !self.ja4.is_empty()),
            ("ech", self.ech.is_some()),
            ("tls_min", self.tls_min.is_some()),
        ];
        keys.into_iter().filter_map(|(key, is_set)| is_set.then_some(key))
    }

    /// Compares a connection with the conditions.
    pub(super) fn fit(&self, facts: &ConnectionFacts<'_>) -> ConditionFit {
        let Some(rank) = self.rank(facts) else { return ConditionFit::No };
        match self.tls_min {
            Some(least) if !facts.offer.is_some_and(|offer| offer.reaches(least)) => ConditionFit::TooOld,
            _ => ConditionFit::Fits(rank),
        }
    }

    /// Returns true if the connection meets all conditions.
    pub(super) fn is_met(&self, facts: &ConnectionFacts<'_>) -> bool {
        matches!(self.fit(facts), ConditionFit::Fits(_))
    }

    /// Returns the rank if the connection meets all conditions but [`Conditions::tls_min`].
    fn rank(&self, facts: &ConnectionFacts<'_>) -> Option<RouteRank> {
        let best = |is_free: bool, rank: &dyn Fn() -> Option<u16>| if is_free { Some(0) } else { rank() };
        Some(RouteRank([
            best(self.proxy_tlv.is_empty(), &|| {
                let header = facts.proxy?;
                let fits = self.proxy_tlv.iter().all(|pattern| pattern.fits(header));
                fits.then(|| self.tlv_rank())
            })?,
            best(self.source.is_empty(), &|| {
                facts.source.and_then(|source| self.source.longest(source)).map(|bits| 1 + u16::from(bits))
            })?,
            best(self.destination.is_empty(), &|| {
                let reached = facts.destination?;
                self.destination.iter().filter(|one| one.fits(reached)).map(|one| one.rank()).max()
            })?,
            best(self.alpn.is_empty(), &|| {
                // The client lists its preferred protocol first.
                let mut offered = facts.offer?.alpn();
                let at = offered.position(|name| self.alpn.iter().any(|wanted| **wanted == *name))?;
                Some(u16::MAX - u16::try_from(at).unwrap_or(u16::MAX - 1).min(u16::MAX - 1))
            })?,
            best(self.ja4.is_empty(), &|| {
                let fingerprint = facts.ja4()?;
                let fitting = self.ja4.iter().filter(|pattern| pattern.fits(fingerprint));
                fitting.map(|pattern| pattern.text.len() as u16).max()
            })?,
            best(self.ech.is_none(), &|| {
                (facts.offer.is_some_and(|offer| offer.ech()) == self.ech?).then_some(1)
            })?,
            self.tls_min.map_or(0, |least| least.0),
        ]))
    }

    /// Returns the rank by TLVs. Conditions with more kinds are more specific. If the numbers of kinds are equal, the
    /// conditions with the lowest kind are more specific.
    fn tlv_rank(&self) -> u16 {
        let lowest = self.proxy_tlv.iter().map(|pattern| pattern.kind).min().unwrap_or(u8::MAX);
        let count = u8::try_from(self.proxy_tlv.len()).unwrap_or(u8::MAX);
        (u16::from(count) << 8) | u16::from(u8::MAX - lowest)
    }

    /// Returns true if one connection can meet both with equal rank.
    pub(super) fn ties(&self, other: &Self) -> bool {
        fn share<T: PartialEq>(one: &[T], two: &[T]) -> bool {
            (one.is_empty() && two.is_empty()) || one.iter().any(|value| two.contains(value))
        }
        // If no kind that both have excludes the values of the other, one header can meet both.
        let tlvs_tie = self.tlv_rank() == other.tlv_rank()
            && self
                .proxy_tlv
                .iter()
                .all(|own| own.among(&other.proxy_tlv).is_none_or(|other| share(&own.values, &other.values)));
        tlvs_tie
            && self.ech == other.ech
            && self.tls_min == other.tls_min
            && (self.source.is_empty() && other.source.is_empty() || self.source.share(&other.source))
            && share(&self.destination, &other.destination)
            && share(&self.alpn, &other.alpn)
            && share(&self.ja4, &other.ja4)
    }
}

impl fmt::Display for Conditions {
    /// Writes the keys of the conditions that are set, such as `+source+alpn`. The form is for the log, so it omits the
    /// values, which may be many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys().try_for_each(|key| write!(f, "+{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy_protocol::{HeaderOrigin, HeaderVersion, Tlv};

    fn of_tlvs(patterns: &[(u8, &[&str])]) -> Conditions {
        let values = |values: &[&str]| values.iter().map(|value| value.as_bytes().into()).collect();
        let patterns =
            patterns.iter().map(|(kind, written)| TlvPattern { kind: *kind, values: values(written) });
        Conditions { proxy_tlv: patterns.collect(), ..Conditions::default() }
    }

    #[test]
    fn tlvs_of_the_header_must_all_fit() {
        let tlvs = vec![Tlv::new(Tlv::AWS, *b"\x01vpce-1"), Tlv::new(0xe5, *b"blue")];
        let header = ProxyHeader { version: HeaderVersion::V2, origin: HeaderOrigin::Unknown, tlvs };
        let check = |patterns: &[(u8, &[&str])], header: Option<&ProxyHeader>, expected: Option<u16>| {
            let facts = ConnectionFacts::default().behind(header);
            let rank = of_tlvs(patterns).rank(&facts).map(|rank| rank.0[0] >> 8);
            assert_eq!(rank, expected, "{patterns:?}");
        };
        check(&[], None, Some(0));
        check(&[(Tlv::AWS, &["vpce-1"])], Some(&header), Some(1));
        check(&[(Tlv::AWS, &["vpce-2", "vpce-1"])], Some(&header), Some(1));
        check(&[(Tlv::AWS, &["vpce-1"]), (0xe5, &["blue"])], Some(&header), Some(2));
        check(&[(Tlv::AWS, &["vpce-1"]), (0xe5, &["red"])], Some(&header), None);
        check(&[(Tlv::AWS, &["vpce-2"])], Some(&header), None);
        check(&[(Tlv::AZURE, &["1"])], Some(&header), None);
        check(&[(Tlv::AWS, &["vpce-1"])], None, None);
    }

    #[test]
    fn tlvs_tie_where_one_header_can_have_both() {
        let check = |one: &[(u8, &[&str])], two: &[(u8, &[&str])], ties: bool, is_within: bool| {
            let (one, two) = (of_tlvs(one), of_tlvs(two));
            assert_eq!(
                (one.ties(&two), two.ties(&one), one.is_within(&two)),
                (ties, ties, is_within),
                "{one:?} {two:?}"
            );
        };
        check(&[(1, &["a"])], &[(1, &["a"])], true, true);
        check(&[(1, &["a"])], &[(1, &["b"])], false, false);
        check(&[(1, &["a"])], &[(1, &["b", "a"])], true, true);
        check(&[(1, &["a"])], &[(2, &["a"])], false, false);
        check(&[(1, &["a"]), (2, &["a"])], &[(3, &["a"]), (1, &["a"])], true, false);
        check(&[(1, &["a"]), (2, &["b"])], &[(1, &["a"])], false, true);
        check(&[(1, &["a"])], &[], false, true);
    }

    #[test]
    fn destinations_are_read() {
        let check = |text: &str, expected: Option<(Option<&str>, Option<u16>)>| {
            let expected = expected.map(|(address, port)| Destination {
                address: address.map(|address| address.parse().unwrap()),
                port,
            });
            assert_eq!(text.parse::<Destination>().ok(), expected, "{text}");
        };
        check("10.0.0.1", Some((Some("10.0.0.1"), None)));
        check("10.0.0.1:443", Some((Some("10.0.0.1"), Some(443))));
        check(":443", Some((None, Some(443))));
        check("::1", Some((Some("::1"), None)));
        check("[::1]", Some((Some("::1"), None)));
        check("[::1]:443", Some((Some("::1"), Some(443))));
        check("::ffff:10.0.0.1", Some((Some("10.0.0.1"), None)));
        for text in ["", ":", ":0", ":+1", ":65536", "10.0.0.1:0", "10.0.0.0/8", "host", "443"] {
            check(text, None);
        }
    }

    #[test]
    fn fingerprints_are_read() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<Ja4Pattern>().is_ok(), expected, "{text}");
        };
        check("t13d1516h2_8daaf6152771_e5627efa2ab1", true);
        check("t13d1516h2_8daaf6152771_e5627efa2ab1*", false);
        check("t13d1516h2_8daaf6152771_e5627efa2ab", false);
        check("t13d1516h2_8daaf6152771*", true);
        check("t13d*", true);
        check("t12d0505Hi_8daaf6152771_*", true);
        check("T13d*", false);
        check("*", false);
        check("", false);
        check("t13d1516h2-*", false);
    }
}
