//! Hints for addresses and networks in the notation of other programs: what to write here instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::route::IpPrefix;

/// The most networks of a range that a hint lists.
const LISTED: usize = 8;

/// The help for a text with a variable of a shell or of a template.
pub(super) const VARIABLES: &str =
    "the file has no variables: write the value, or make the file from a template with `envsubst`";

/// Returns the variable in a text, such as `${BIND}` or `$BIND`.
pub(super) fn variable(text: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_first = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    text.match_indices('$').find_map(|(at, _)| {
        let rest = &text[at + 1..];
        if let Some(inside) = rest.strip_prefix('{') {
            let length = inside.find('}').filter(|_| is_first(inside))?;
            return Some(&text[at..at + length + 3]);
        }
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        is_first(rest).then(|| &text[at..=at + length])
    })
}

/// Returns the hint for a text that is not one address with one port, if its notation is known.
pub(super) fn address(text: &str) -> Option<String> {
    if let Some(variable) = variable(text) {
        return Some(format!("{variable} is not replaced"));
    }
    if text.trim() != text && !text.trim().is_empty() {
        return Some(format!("remove the spaces at its ends: {:?}", text.trim()));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return Some(format!("an address has no `{scheme}://`: write {host:?}"));
    }
    if text.starts_with('/') {
        return Some(format!("a Unix socket begins with `unix:`: write \"unix:{text}\""));
    }
    if let Some((first, rest)) = text.split_once(' ')
        && first.parse::<SocketAddr>().is_ok()
    {
        return Some(settings(first, rest));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && ip.parse::<Ipv6Addr>().is_ok()
    {
        return Some(format!("the port is missing, as in \"{text}:443\""));
    }
    // `::1` is still an address.
    let port = text.strip_prefix("::").and_then(|port| port.parse::<u16>().ok());
    if let Some(port) = port.filter(|port| *port > 1) {
        return Some(format!(
            "write \":{port}\" for every local address, or \"[::]:{port}\" for those of IPv6"
        ));
    }
    scope(text).or_else(|| several(text))
}

/// Returns the hint for a text that is a broken host name with or without a port: the fault in the name.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
    if !name.contains(char::is_alphabetic) || name.contains([':', '[', ']', '/']) {
        return None;
    }
    if !name.is_ascii() {
        return Some("the name is not ASCII; write an international name in its `xn--` form".to_owned());
    }
    let other = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.');
    if let Some(other) = name.chars().find(other) {
        return Some(format!("a host name has letters, digits, `-`, `_` and dots, and no {other:?}"));
    }
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    if labels.clone().any(str::is_empty) {
        return Some(format!("the host name {name:?} has a dot at its beginning, or two dots in a row"));
    }
    if labels.clone().any(|label| label.len() > 63) {
        return Some("the part of a host name between two dots has at most 63 characters".to_owned());
    }
    let last = labels.next_back().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!(
            "{name:?} is not an IP address, and the last part of a host name is not a number"
        ));
    }
    (name.len() > 253).then(|| "a host name has at most 253 characters".to_owned())
}

/// Returns the hint for a backend with settings after its address, as in HAProxy and nginx.
fn settings(address: &str, rest: &str) -> String {
    let weight = rest.split(' ').filter_map(|word| word.strip_prefix("weight")).next();
    let weight = weight.and_then(|rest| rest.trim_start_matches('=').parse::<u16>().ok()).unwrap_or(2);
    format!("write settings in a table: {{ address = \"{address}\", weight = {weight} }}")
}

/// Returns the hint for a scope after an address that cannot have one.
fn scope(text: &str) -> Option<String> {
    let (before, behind) = text.split_once('%')?;
    let (scope, rest) = match behind.find([']', ':']) {
        Some(end) => behind.split_at(end),
        None => (behind, ""),
    };
    let ip: IpAddr = before.trim_start_matches('[').parse().ok()?;
    if let IpAddr::V6(ip) = ip
        && ip.is_unicast_link_local()
    {
        let port = rest.strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
        return port.map(|port| format!("an IPv6 address needs brackets: \"[{ip}%{scope}]:{port}\""));
    }
    Some(format!("`%{scope}` is for link-local addresses (fe80::/10): write \"{before}{rest}\""))
}

/// Returns the hint for a text with more than one address or port.
fn several(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    if let Some((first, last)) = port.split_once('-')
        && let (Ok(_), Ok(_)) = (first.parse::<u16>(), last.parse::<u16>())
    {
        return Some("one address has one port; only `bind` takes ranges of ports".to_owned());
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.contains('/')
        .then(|| host.parse::<IpPrefix>().ok())?
        .map(|network| format!("{network} is a network, and this is one address"))
}

/// Returns the hint for a text that is not a network, if its notation is known.
pub(super) fn network(text: &str) -> Option<String> {
    if let Some(variable) = variable(text) {
        return Some(format!("{variable} is not replaced"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(format!("a network has no port: write \"{}\"", address.ip()));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && ip.parse::<Ipv6Addr>().is_ok()
    {
        return Some(format!("without brackets: write \"{ip}\""));
    }
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.trim().parse::<Ipv4Addr>(), last.trim().parse::<Ipv4Addr>())
    {
        return Some(range(first, last));
    }
    netmask(text).or_else(|| starred(text)).or_else(|| out_of_range(text))
}

/// Returns a range of addresses as networks.
fn range(first: Ipv4Addr, last: Ipv4Addr) -> String {
    let (mut at, end) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
    if at > end {
        return format!("a range is written as networks, and {last} comes before {first}");
    }
    let mut networks = Vec::new();
    while at <= end && networks.len() <= LISTED {
        let mut bits = at.trailing_zeros().min(32);
        while at + (1 << bits) - 1 > end {
            bits -= 1;
        }
        let ip = Ipv4Addr::from_bits(u32::try_from(at).unwrap_or(u32::MAX));
        networks.push(format!("\"{ip}/{}\"", 32 - bits));
        at += 1 << bits;
    }
    let more = if networks.len() > LISTED { ", ..." } else { "" };
    networks.truncate(LISTED);
    format!("a range is written as networks: [{}{more}]", networks.join(", "))
}

/// Returns the hint for a network such as `10.0.0.0/255.0.0.0`.
fn netmask(text: &str) -> Option<String> {
    let (ip, mask) = text.split_once('/')?;
    let (ip, mask) = (ip.parse::<Ipv4Addr>().ok()?, mask.parse::<Ipv4Addr>().ok()?.to_bits());
    let length = mask.leading_ones();
    let network = IpPrefix::around(ip.into(), u8::try_from(length).ok()?);
    (mask.count_ones() == length).then(|| format!("write the mask as a length: \"{network}\""))
}

/// Returns the hint for a network such as `10.0.*`.
fn starred(text: &str) -> Option<String> {
    let front: Vec<u8> =
        text.split('.').take_while(|part| *part != "*").map(str::parse).collect::<Result<_, _>>().ok()?;
    let is_starred = text.split('.').skip(front.len()).all(|part| part == "*") && text.ends_with(".*");
    if !is_starred || !(1..=3).contains(&front.len()) {
        return None;
    }
    let part = |at: usize| front.get(at).copied().unwrap_or(0);
    let ip = Ipv4Addr::new(part(0), part(1), part(2), 0);
    Some(format!("write the length of the network: \"{ip}/{}\"", front.len() * 8))
}

/// Returns the hint for four numbers that are not an address.
fn out_of_range(text: &str) -> Option<String> {
    let ip = text.split('/').next().unwrap_or_default();
    let parts: Vec<&str> = ip.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (parts.len() > 1 && parts.iter().all(is_number) && ip.parse::<Ipv4Addr>().is_err())
        .then(|| format!("{ip} is not an IP address, which has four numbers from 0 to 255"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_known() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(variable(text), expected, "{text}");
        check("${BIND}", Some("${BIND}"));
        check("${HOST:-a}:443", Some("${HOST:-a}"));
        check("$HOST:443", Some("$HOST"));
        check("a/$_X/b", Some("$_X"));
        for text in ["", "$", "$$", "${}", "${", "${x", "$1", "a$", "10.0.0.1:443", "^a$"] {
            check(text, None);
        }
    }

    #[test]
    fn addresses_of_others_have_a_hint() {
        let check = |text: &str, expected: &str| {
            let hint = address(text).unwrap_or_default();
            assert!(hint.contains(expected) && expected.is_empty() == hint.is_empty(), "{text}: {hint}");
        };
        check("[::]", "the port is missing, as in \"[::]:443\"");
        check("[::1]", "\"[::1]:443\"");
        check("::443", "write \":443\"");
        check("/run/x.sock", "\"unix:/run/x.sock\"");
        check("tcp://0.0.0.0:443", "write \"0.0.0.0:443\"");
        check("http://10.0.0.1:443/path", "write \"10.0.0.1:443\"");
        check(" 127.0.0.1:443 ", "\"127.0.0.1:443\"");
        check("${BIND}:443", "${BIND} is not replaced");
        check("10.0.0.1:443 weight=5", "{ address = \"10.0.0.1:443\", weight = 5 }");
        check("10.0.0.1:443 check", "weight = 2");
        check("10.0.0.1:80-90", "ranges");
        check("10.0.0.0/24:80", "10.0.0.0/24 is a network");
        check("[2001:db8::/32]:80", "2001:db8::/32 is a network");
        check("[2001:db8::1%eth0]:443", "write \"[2001:db8::1]:443\"");
        check("::1", "");
        check("fe80::1%eth0:443", "\"[fe80::1%eth0]:443\"");
        check("10.0.0.1%eth0:443", "write \"10.0.0.1:443\"");
        for text in
            ["", " ", "host", "host:1", "10.0.0.1:1", "::1:443", "[fe80::1%eth0]:x", "a:b:c", "%", "a%b"]
        {
            check(text, "");
        }
    }

    #[test]
    fn networks_of_others_have_a_hint() {
        let check = |text: &str, expected: &str| {
            let hint = network(text).unwrap_or_default();
            assert!(hint.contains(expected) && expected.is_empty() == hint.is_empty(), "{text}: {hint}");
        };
        check("10.0.0.1-10.0.0.9", "[\"10.0.0.1/32\", \"10.0.0.2/31\", \"10.0.0.4/30\", \"10.0.0.8/31\"]");
        check("0.0.0.0-255.255.255.255", "[\"0.0.0.0/0\"]");
        check("255.255.255.255-255.255.255.255", "[\"255.255.255.255/32\"]");
        check("0.0.0.1-255.255.255.254", "\"0.0.0.128/25\", ...]");
        check("10.0.0.9-10.0.0.1", "comes before");
        check("10.0.0.0/255.0.0.0", "\"10.0.0.0/8\"");
        check("10.1.0.0/255.255.0.0", "\"10.1.0.0/16\"");
        check("10.*", "\"10.0.0.0/8\"");
        check("10.0.3.*", "\"10.0.3.0/24\"");
        check("300.1.1.1", "300.1.1.1 is not an IP address");
        check("10.0.0.300/32", "10.0.0.300 is not an IP address");
        check("10.0.0.1:80", "write \"10.0.0.1\"");
        check("[::1]", "write \"::1\"");
        for text in ["", "bans", "10.0.0.0/255.0.255.0", "*", "1.2.3.4.*", "a-b", "v1-v2", "eu.west", "7"] {
            check(text, "");
        }
    }
}
