//! Addresses as operators write them: of listeners, backends, resolvers and networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::hints;
use super::read::{Path, Read, Value, wrong_type};
use super::words::{is_dns_name, string};
use crate::pool::DialSource;
use crate::pool::destination::{self, DestinationFault};
use crate::route::IpPrefix;
use crate::sys::Address;
use crate::sys::address::AddressFault;

/// The most ports of one range.
const MOST_PORTS: u16 = 1000;

/// An item of `bind`. `:443` is both address families, and `:30000-30100` a range of ports.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    /// All addresses of one family, then those of the other family. Empty for a range that is not valid.
    pub(super) addresses: Vec<Address>,
    /// The ports, if they are written without an address.
    pub(super) ports_of_any_family: Vec<u16>,
    /// True if a range of ports is written.
    pub(super) is_range: bool,
}

impl Bind {
    /// A range whose ports or address are not valid.
    const BROKEN_RANGE: Self =
        Self { addresses: Vec::new(), ports_of_any_family: Vec::new(), is_range: true };

    fn at(host: &str, ports: RangeInclusive<u16>) -> Result<Self, String> {
        let is_range = ports.start() != ports.end();
        if host.is_empty() {
            let of = |ip: IpAddr| ports.clone().map(move |port| SocketAddr::new(ip, port).into());
            let addresses =
                of(Ipv4Addr::UNSPECIFIED.into()).chain(of(Ipv6Addr::UNSPECIFIED.into())).collect();
            return Ok(Self { addresses, ports_of_any_family: ports.collect(), is_range });
        }
        let addresses: Result<_, _> = ports.map(|port| one_address(&format!("{host}:{port}"))).collect();
        Ok(Self { addresses: addresses?, ports_of_any_family: Vec::new(), is_range })
    }

    fn one(address: Address) -> Self {
        Self { addresses: vec![address], ports_of_any_family: Vec::new(), is_range: false }
    }
}

/// Returns the host and the ports of `HOST:FIRST-LAST`, or `None` for a text of another form.
fn port_range(text: &str) -> Option<Result<(&str, RangeInclusive<u16>), String>> {
    let (host, ports) = text.rsplit_once(':')?;
    let (first, last) = ports.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return None;
    }
    Some(match (port(first), port(last)) {
        (Some(first @ 1..), Some(last)) if first < last => match last - first {
            0..MOST_PORTS => Ok((host, first..=last)),
            more => Err(format!(
                "a range has at most {MOST_PORTS} ports, and this range has {}",
                u32::from(more) + 1
            )),
        },
        (Some(1..), Some(_)) => Err(format!("a range begins with its lower port: \"{host}:{last}-{first}\"")),
        _ => Err("the ports of a range are from 1 to 65535".to_owned()),
    })
}

impl Read for Bind {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if let Some(port) = value.get_ref().as_integer() {
            wrong_type(value, path, &format!("an address such as \":{port}\""), found);
            return None;
        }
        let text = string(value, path, "an address such as \":443\"", found)?;
        let bind = match text.strip_prefix(':').and_then(port) {
            Some(port) => Self::at("", port..=port),
            None if text.starts_with("unix:") => {
                text.parse().map(Self::one).map_err(|fault: AddressFault| fault.to_string())
            }
            None => match port_range(text) {
                Some(range) => range.and_then(|(host, ports)| Self::at(host, ports)),
                None => one_address(text).map(Self::one),
            },
        };
        bind.or_else(|hint| {
            found.add(bad_address(value, path, text, &hint));
            // A broken range is still one: backends without a port are no second fault.
            port_range(text).map(|_| Self::BROKEN_RANGE).ok_or(())
        })
        .ok()
    }
}

/// An item of `admin.listen`.
#[derive(Clone, Debug)]
pub(super) struct AdminAddress(pub(super) Address);

impl Read for AdminAddress {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "an address such as \"127.0.0.1:10190\"", found)?;
        let address = match text.strip_prefix(':').and_then(port) {
            Some(port) => Err(format!("one address: write \"127.0.0.1:{port}\"")),
            None if text.starts_with("unix:") => {
                text.parse().map_err(|fault: AddressFault| fault.to_string())
            }
            None => one_address(text),
        };
        address.map(Self).map_err(|hint| found.add(bad_address(value, path, text, &hint))).ok()
    }
}

/// The address of a backend.
#[derive(Clone, Debug)]
pub(super) enum BackendAddress {
    /// The address on which the backend listens.
    Address(Address),
    /// A host name, each of whose addresses is a backend.
    Host(HostName),
}

/// A host name, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName {
    /// The name as written; with a final dot it is complete.
    pub(super) name: String,
    /// The port, from 1 on, if it is written.
    pub(super) port: Option<u16>,
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Read for BackendAddress {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "an address such as \"10.0.0.1:443\"", found)?;
        let address = match text.parse::<Address>() {
            Ok(address) => {
                // An IPv4-mapped address is the same backend as the IPv4 address.
                let address = address.to_canonical();
                let checked = destination::check(&address).map_err(|fault| fault.to_string());
                checked.map(|()| Self::Address(address))
            }
            Err(fault) if text.starts_with("unix:") => Err(fault.to_string()),
            Err(_) => match without_port(text) {
                // The need for a port is checked with the listeners, for host names too.
                Some(ip) => {
                    let address = SocketAddr::new(ip.to_canonical(), 0).into();
                    let checked = destination::check_host(&address).map_err(|fault| fault.to_string());
                    checked.map(|()| Self::Address(address))
                }
                None => host_name(text).map(Self::Host),
            },
        };
        address.map_err(|hint| found.add(bad_address(value, path, text, &hint))).ok()
    }
}

/// An item of `resolvers`; the default port is 53.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResolverAddress(pub(super) SocketAddr);

impl Read for ResolverAddress {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        /// The port of the DNS.
        const DNS: u16 = 53;

        let text = string(value, path, "an address such as \"10.0.0.53\"", found)?;
        let address = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => Ok(SocketAddr::new(ip, DNS)),
            (_, Ok(address)) if address.port() == 0 => {
                Err("a resolver needs a port from 1 to 65535".to_owned())
            }
            (_, Ok(address)) => Ok(address),
            (Err(_), Err(_)) => Err("a resolver is \"IP\", \"IP:PORT\" or \"[IPV6]:PORT\"".to_owned()),
        };
        address.map(Self).map_err(|hint| found.add(bad_address(value, path, text, &hint))).ok()
    }
}

/// An item of `allow_private`: a network that may be dialled.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenNetwork(pub(super) IpPrefix);

impl Read for OpenNetwork {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a network such as \"10.1.0.0/16\"", found)?;
        let network = match text.parse::<IpPrefix>() {
            Ok(prefix) if prefix.is_all() => {
                Err("this is every address: name the networks that clients may reach".to_owned())
            }
            Ok(prefix) => Ok(prefix),
            Err(fault) => Err(fault.to_string()),
        };
        network.map(Self).map_err(|hint| found.add(bad_address(value, path, text, &hint))).ok()
    }
}

/// The value of `source`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceAddress(pub(super) DialSource);

impl Read for SourceAddress {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "\"client\" or an IP address", found)?;
        let source = match (text, text.parse::<IpAddr>()) {
            ("client", _) => Ok(DialSource::Client),
            (_, Ok(ip)) if ip.is_unspecified() || ip.is_multicast() => {
                Err("this address cannot be a source; remove the key, and the kernel chooses the address"
                    .to_owned())
            }
            (_, Ok(ip)) => Ok(DialSource::Address(ip.to_canonical())),
            (_, Err(_)) => Err("\"client\", or an IP address of this machine without a port".to_owned()),
        };
        source.map(Self).map_err(|hint| found.add(bad_address(value, path, text, &hint))).ok()
    }
}

fn bad_address(value: &Value<'_>, path: Path<'_>, text: &str, hint: &str) -> Diagnostic {
    let message = format!("{text:?} is not an address that `{path}` can use");
    Diagnostic::new(Code::BadAddress, path, message).label(value.span().into(), hint)
}

/// Returns an address to bind, or a hint.
fn one_address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|_| hint(text))?;
    if let Some(tcp) = address.tcp()
        && let IpAddr::V6(ip) = tcp.ip()
        && let Some(ip) = ip.to_ipv4_mapped()
    {
        // IPv6 sockets are v6-only here, so the kernel would refuse the address.
        return Err(format!("write \"{ip}:{}\"", tcp.port()));
    }
    match destination::check_host(&address) {
        // An unspecified address is allowed here: it means every address of this host.
        Ok(()) | Err(DestinationFault::Unspecified(_)) => Ok(address),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Returns an IP address that is written without a port.
fn without_port(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inside {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(Into::into),
        // `::1:443` may be intended as an address with a port.
        None if text.rsplit_once(':').is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok()) => None,
        None => text.parse().ok(),
    }
}

/// Reads a host name, or returns a hint if the text is not a host.
pub(super) fn host_name(text: &str) -> Result<HostName, String> {
    // A name whose last label is a number is a misspelt address.
    let is_host = |name: &str| {
        let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        is_dns_name(name) && last.contains(|c: char| !c.is_ascii_digit())
    };
    match text.rsplit_once(':') {
        Some((name, written)) if is_host(name) => match port(written) {
            Some(port @ 1..) => Ok(HostName { name: name.to_owned(), port: Some(port) }),
            _ => Err(format!("{written:?} is not a port from 1 to 65535")),
        },
        None if is_host(text) => Ok(HostName { name: text.to_owned(), port: None }),
        _ => Err(hints::address(text).or_else(|| hints::host_name(text)).unwrap_or_else(|| hint(text))),
    }
}

const HOST_NAME: &str = "a host name: write the IP address";

/// Returns a hint for a text that is no address, by the likely mistake in it.
fn hint(text: &str) -> String {
    if let Some(hint) = hints::address(text) {
        return hint;
    }
    if let Some(port) = port(text) {
        return format!("write \":{port}\" for every local address, or \"IP:{port}\"");
    }
    if let Some((host, written)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return format!("an IPv6 address needs brackets: \"[{host}]:{written}\"");
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("the port is missing, as in \"{}\"", SocketAddr::new(ip, 443));
    }
    let Some((host, written)) = text.rsplit_once(':') else {
        return "an address is \"IP:PORT\" or \"[IPV6]:PORT\"".to_owned();
    };
    let Some(port) = port(written) else {
        return format!("{written:?} is not a port from 1 to 65535");
    };
    if host.is_empty() {
        return format!("the IP address is missing: \"127.0.0.1:{port}\"");
    }
    if host == "*" {
        return format!("write \":{port}\"");
    }
    if host == "localhost" {
        return format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"");
    }
    if host.contains(char::is_alphabetic) && !host.contains([':', '[', '/']) {
        return HOST_NAME.to_owned();
    }
    format!("{host:?} is not an IP address")
}

fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
