//! The writer of headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{HeaderVersion, LONGEST_V2, Tlv, V2_FIXED, V2_SIGNATURE, crc32c};

/// The version in the upper half of the byte, the command in the lower half.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The family in the upper half of the byte, the transport protocol in the lower half.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header to send for a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingHeader<'a> {
    /// The version of the header.
    pub version: HeaderVersion,
    /// The addresses of the client and of its destination; `None` if it has no IP address (UNKNOWN, UNSPEC).
    pub endpoints: Option<(SocketAddr, SocketAddr)>,
    /// The TLVs, without CRC32C. They are omitted in version 1.
    pub tlvs: Vec<(u8, &'a [u8])>,
    /// True if a checksum is added; ignored in version 1.
    pub crc32c: bool,
}

impl OutgoingHeader<'_> {
    /// Returns the bytes of the header.
    ///
    /// Two addresses of different families are both written as IPv6; two IPv4-mapped addresses are written as IPv4.
    /// TLVs that would make the header longer than [`LONGEST_V2`] are omitted, because the next proxy would refuse it.
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

/// Returns the header of a connection that this program opens for itself, such as a health check.
///
/// Version 2 has LOCAL for this purpose. Version 1 has only UNKNOWN, which some servers refuse. So the header has
/// the two ends of the connection itself, if they are known.
pub fn local(version: HeaderVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match version {
        HeaderVersion::V1 => own(version, ends),
        HeaderVersion::V2 => [&V2_SIGNATURE[..], &[LOCAL, UNSPEC, 0, 0]].concat(),
    }
}

/// Returns the header of a connection that this program opens for itself, in the same form as for a client. The
/// addresses are the two ends of this connection. Some servers close a connection with LOCAL and need this form.
pub fn own(version: HeaderVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    OutgoingHeader { version, endpoints: ends, tlvs: Vec::new(), crc32c: false }.write()
}

/// Formats an IPv6 address without the dotted form of IPv4-mapped addresses, which the protocol does not allow.
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
