//! Writes a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{HeaderVersion, LONGEST_V2, Tlv, V2_FIXED, V2_SIGNATURE, crc32c};

/// The version, with the command in the low half.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The family, with the transport protocol in the low half.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header to be written, for a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingHeader<'a> {
    /// Its form.
    pub version: HeaderVersion,
    /// The client and what it connected to; `None` if it has no IP address, which is then said (UNKNOWN, UNSPEC).
    pub endpoints: Option<(SocketAddr, SocketAddr)>,
    /// What else is told; version 1 has no room for it. CRC32C is not among them.
    pub tlvs: Vec<(u8, &'a [u8])>,
    /// Whether a checksum is added; not in version 1.
    pub crc32c: bool,
}

impl OutgoingHeader<'_> {
    /// The header as it is sent.
    ///
    /// Addresses of two families are both written as IPv6, IPv4-mapped addresses of a pair as IPv4. TLVs that
    /// would make it longer than [`LONGEST_V2`] are left out: a header that the next one refuses helps nobody.
    pub fn write(&self) -> Vec<u8> {
        match self.version {
            HeaderVersion::V1 => self.write_v1(),
            HeaderVersion::V2 => self.write_v2(),
        }
    }

    fn write_v1(&self) -> Vec<u8> {
        let Some((source, destination)) = self.endpoints else { return b"PROXY UNKNOWN\r\n".to_vec() };
        let (from, to) = (source.port(), destination.port());
        let line = match pair(source, destination) {
            AddressPair::V4(source, destination) => {
                let [source, destination] = [source, destination].map(Ipv4Addr::from);
                format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
            }
            AddressPair::V6(source, destination) => {
                let [source, destination] = [source, destination].map(hexadecimal);
                format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
            }
        };
        line.into_bytes()
    }

    fn write_v2(&self) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        match self.endpoints {
            None => header.extend([PROXY, UNSPEC, 0, 0]),
            Some((source, destination)) => {
                match pair(source, destination) {
                    AddressPair::V4(source, destination) => {
                        header.extend([PROXY, TCP4, 0, 0]);
                        header.extend([source, destination].concat());
                    }
                    AddressPair::V6(source, destination) => {
                        header.extend([PROXY, TCP6, 0, 0]);
                        header.extend([source, destination].concat());
                    }
                }
                header.extend(source.port().to_be_bytes());
                header.extend(destination.port().to_be_bytes());
            }
        }
        const CHECKSUM: usize = 7;
        let room = LONGEST_V2 - if self.crc32c { CHECKSUM } else { 0 };
        for (kind, value) in &self.tlvs {
            if header.len() + 3 + value.len() <= room {
                push(&mut header, *kind, value);
            }
        }
        let checksum = self.crc32c.then(|| {
            push(&mut header, Tlv::CRC32C, &[0; 4]);
            header.len() - 4
        });
        let length = u16::try_from(header.len() - V2_FIXED).unwrap_or(u16::MAX);
        header[14..16].copy_from_slice(&length.to_be_bytes());
        if let Some(at) = checksum {
            let sum = crc32c::checksum(header.iter().copied());
            header[at..].copy_from_slice(&sum.to_be_bytes());
        }
        header
    }
}

/// The header of a connection that the sender makes on its own account, such as a health check.
///
/// Version 2 has LOCAL for it. Version 1 has not: some servers refuse UNKNOWN, so the two ends of the
/// connection itself are told where they are known.
pub fn local(version: HeaderVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match version {
        HeaderVersion::V1 => own(version, ends),
        HeaderVersion::V2 => [&V2_SIGNATURE[..], &[LOCAL, UNSPEC, 0, 0]].concat(),
    }
}

/// The header of a connection of the sender's own, in the form of a client's: with the two ends of the connection itself.
/// For servers that close on LOCAL.
pub fn own(version: HeaderVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    OutgoingHeader { version, endpoints: ends, tlvs: Vec::new(), crc32c: false }.write()
}

/// An IPv6 address without the dotted form of IPv4-mapped ones, which the protocol does not know.
fn hexadecimal(octets: [u8; 16]) -> String {
    match Ipv6Addr::from(octets).segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("::ffff:{high:x}:{low:x}"),
        _ => Ipv6Addr::from(octets).to_string(),
    }
}

fn push(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    header.push(kind);
    header.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(value);
}

/// Two addresses of one family.
enum AddressPair {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

fn pair(source: SocketAddr, destination: SocketAddr) -> AddressPair {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            AddressPair::V4(source.octets(), destination.octets())
        }
        (source, destination) => AddressPair::V6(mapped(source), mapped(destination)),
    }
}
