//! The reader of a header in the bytes that have arrived so far.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::{
    HeaderFault, HeaderOrigin, HeaderSearch, HeaderVersion, LONGEST_UNIQUE_ID, LONGEST_V1, LONGEST_V2,
    MOST_TLVS, ProxyHeader, Tlv, V1_SIGNATURE, V2_FIXED, V2_SIGNATURE, crc32c,
};

/// The length of the address of a Unix socket.
const UNIX_PATH: usize = 108;

/// The length of a TLV's kind and length fields.
const TLV_FIXED: usize = 3;

/// Reads a header at the beginning of `bytes`, which are all bytes that the peer has sent.
///
/// Returns `None` if the result depends on bytes that have not arrived. The longer of [`LONGEST_V1`] and
/// [`LONGEST_V2`] is always enough for a result.
///
/// # Errors
///
/// Returns the fault of bytes that begin like a header but are not one.
pub fn read(bytes: &[u8]) -> Result<Option<HeaderSearch>, HeaderFault> {
    if may_become(bytes, V2_SIGNATURE) {
        return if bytes.len() < V2_FIXED { early_fault(bytes) } else { read_v2(bytes) };
    }
    if may_become(bytes, V1_SIGNATURE) {
        return if bytes.len() < V1_SIGNATURE.len() { Ok(None) } else { read_v1(bytes) };
    }
    Ok(Some(HeaderSearch::Nothing))
}

/// Returns true if bytes begin with the signature of a header, valid or not, for a connection on which no header is
/// expected. The whole signature must be there, so the result is reliable only for a first read.
pub fn begins_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_SIGNATURE) || bytes.starts_with(V2_SIGNATURE)
}

/// Returns true if bytes begin with a signature, or are the beginning of a signature.
fn may_become(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(one, other)| one == other)
}

/// Reads the line of version 1: `PROXY`, the family, two addresses, two ports, separated by one space each.
fn read_v1(bytes: &[u8]) -> Result<Option<HeaderSearch>, HeaderFault> {
    let room = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = room.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < LONGEST_V1 { Ok(None) } else { Err(HeaderFault::LongLine) };
    };
    let line = room[..end].strip_suffix(b"\r").ok_or(HeaderFault::Line)?;
    let origin = origin_of_line(&String::from_utf8_lossy(line)).ok_or(HeaderFault::Line)?;
    Ok(Some(HeaderSearch::Header(
        ProxyHeader { version: HeaderVersion::V1, origin, tlvs: Vec::new() },
        end + 1,
    )))
}

fn origin_of_line(line: &str) -> Option<HeaderOrigin> {
    let mut words = line.split(' ').skip(1);
    let read_ip: fn(&str) -> Option<IpAddr> = match words.next()? {
        // The rest of the line is to be ignored.
        "UNKNOWN" => return Some(HeaderOrigin::Unknown),
        // Leading zeros are refused, because they could mean an octal number.
        "TCP4" => |word| word.parse().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (source, destination) = (read_ip(words.next()?)?, read_ip(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    let origin = HeaderOrigin::Tcp { source: address(source, from), destination: address(destination, to) };
    words.next().is_none().then_some(origin)
}

/// Parses a port without a sign and without leading zeros.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain.then(|| word.parse().ok())?
}

/// Returns an address in the form of this program: IPv4 is never a mapped IPv6 address.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

/// Returns the faults that are known before the length has arrived, so that a broken header is refused at once.
fn early_fault(bytes: &[u8]) -> Result<Option<HeaderSearch>, HeaderFault> {
    let Some(&command) = bytes.get(V2_SIGNATURE.len()) else { return Ok(None) };
    let command = read_command(command)?;
    if let Some(&family) = bytes.get(V2_SIGNATURE.len() + 1) {
        check_family(command, family)?;
    }
    Ok(None)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderCommand {
    Local,
    Proxy,
}

fn read_command(byte: u8) -> Result<HeaderCommand, HeaderFault> {
    match (byte >> 4, byte & 0xf) {
        (2, 0) => Ok(HeaderCommand::Local),
        (2, 1) => Ok(HeaderCommand::Proxy),
        (2, _) => Err(HeaderFault::Command),
        _ => Err(HeaderFault::Version),
    }
}

/// Refuses a family that the protocol does not define. LOCAL may have any family: proxy-protocol.txt 2.2 ignores it.
fn check_family(command: HeaderCommand, byte: u8) -> Result<(), HeaderFault> {
    if command == HeaderCommand::Local || is_known(byte) { Ok(()) } else { Err(HeaderFault::Family) }
}

/// Returns true if the protocol defines this address family and this transport.
fn is_known(byte: u8) -> bool {
    let (family, transport) = (byte >> 4, byte & 0xf);
    family <= 3 && transport <= 2
}

fn read_v2(bytes: &[u8]) -> Result<Option<HeaderSearch>, HeaderFault> {
    let command = read_command(bytes[12])?;
    let family = bytes[13];
    check_family(command, family)?;
    let length = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > LONGEST_V2 {
        return Err(HeaderFault::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let origin = match command {
        HeaderCommand::Local => HeaderOrigin::Sender,
        HeaderCommand::Proxy => origin(family, &header[V2_FIXED..])?,
    };
    if !is_known(family) {
        // LOCAL with an unknown family: the offset of no field is known, not even of the checksum.
        return Ok(Some(HeaderSearch::Header(
            ProxyHeader { version: HeaderVersion::V2, origin, tlvs: Vec::new() },
            length,
        )));
    }
    let tlvs = match (command, tlvs(header, V2_FIXED + addresses(family))) {
        (_, Err(HeaderFault::Checksum)) => return Err(HeaderFault::Checksum),
        // All content of LOCAL is to be ignored. If the length of the addresses is unknown, the offset of the TLVs is
        // unknown too.
        (HeaderCommand::Local, _) => Vec::new(),
        (HeaderCommand::Proxy, Err(_)) if family >> 4 == 0 => Vec::new(),
        (HeaderCommand::Proxy, tlvs) => tlvs?,
    };
    Ok(Some(HeaderSearch::Header(ProxyHeader { version: HeaderVersion::V2, origin, tlvs }, length)))
}

/// Returns the length of the two addresses of a family.
fn addresses(family: u8) -> usize {
    match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 2 * UNIX_PATH,
        _ => 0,
    }
}

/// Reads the addresses before the TLVs.
fn origin(family: u8, block: &[u8]) -> Result<HeaderOrigin, HeaderFault> {
    let block = block.get(..addresses(family)).ok_or(HeaderFault::Addresses)?;
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    Ok(match family {
        0x11 => {
            let ip = |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]);
            HeaderOrigin::Tcp {
                source: address(ip(0).into(), port(8)),
                destination: address(ip(4).into(), port(10)),
            }
        }
        0x21 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[at..at + 16]);
                Ipv6Addr::from(octets)
            };
            HeaderOrigin::Tcp {
                source: address(ip(0).into(), port(32)),
                destination: address(ip(16).into(), port(34)),
            }
        }
        0x31 => {
            HeaderOrigin::Unix { source: path(&block[..UNIX_PATH]), destination: path(&block[UNIX_PATH..]) }
        }
        // Datagrams cannot come through a stream, and the other families have no known meaning.
        _ => HeaderOrigin::Unknown,
    })
}

/// Returns the path in a field that is padded with NUL bytes.
fn path(field: &[u8]) -> Box<[u8]> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    field[..end].into()
}

/// Reads the TLVs of a whole header, which begin at `start`.
fn tlvs(header: &[u8], start: usize) -> Result<Vec<Tlv>, HeaderFault> {
    let mut tlvs = Vec::new();
    let mut checksum = None;
    let mut at = start;
    while at < header.len() {
        let fixed = header.get(at..at + TLV_FIXED).ok_or(HeaderFault::Tlv)?;
        let range = at + TLV_FIXED..at + TLV_FIXED + usize::from(u16::from_be_bytes([fixed[1], fixed[2]]));
        let value = header.get(range.clone()).ok_or(HeaderFault::Tlv)?;
        at = range.end;
        match fixed[0] {
            Tlv::CRC32C if value.len() != 4 || checksum.is_some() => return Err(HeaderFault::Tlv),
            Tlv::CRC32C => checksum = Some(range),
            Tlv::UNIQUE_ID if value.len() > LONGEST_UNIQUE_ID => return Err(HeaderFault::Tlv),
            Tlv::NOOP => {}
            _ if tlvs.len() == MOST_TLVS => return Err(HeaderFault::Tlv),
            kind => tlvs.push(Tlv::new(kind, value)),
        }
    }
    match checksum {
        Some(range) if !is_right(header, &range) => Err(HeaderFault::Checksum),
        _ => Ok(tlvs),
    }
}

/// Returns true if the checksum at `range` equals the checksum of the header with zeros in this range.
fn is_right(header: &[u8], range: &Range<usize>) -> bool {
    let zeroed = header.iter().enumerate().map(|(at, &byte)| if range.contains(&at) { 0 } else { byte });
    header[range.clone()] == crc32c::checksum(zeroed).to_be_bytes()
}
