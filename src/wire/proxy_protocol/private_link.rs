//! Ids of private links. All clients that connect through a cloud's private link share a few addresses; only a TLV
//! identifies the link of a connection.

use std::borrow::Cow;

use super::{ProxyHeader, Tlv};

/// The first byte of an id of AWS (PP2_SUBTYPE_AWS_VPCE_ID) and of Azure (PP2_SUBTYPE_AZURE_PRIVATEENDPOINT_LINKID).
const SUBTYPE: u8 = 1;

/// The longest accepted id of AWS; ids in use have 22 characters.
const LONGEST_ID: usize = 128;

/// Returns the id in a TLV of a private link in the form of its cloud: `vpce-...` for AWS, a number for Azure and for
/// Google Cloud. `None` if the TLV has no such id.
pub fn id(kind: u8, value: &[u8]) -> Option<Cow<'_, str>> {
    match (kind, value) {
        (Tlv::AWS, [SUBTYPE, id @ ..]) if (1..=LONGEST_ID).contains(&id.len()) => {
            let is_plain = id.iter().all(u8::is_ascii_graphic);
            str::from_utf8(id).ok().filter(|_| is_plain).map(Cow::Borrowed)
        }
        // The least significant byte is the first one.
        (Tlv::AZURE, [SUBTYPE, a, b, c, d]) => Some(u32::from_le_bytes([*a, *b, *c, *d]).to_string().into()),
        // The most significant byte is the first one. Other senders use this kind for a text.
        (Tlv::GCP, value) if !value.iter().all(u8::is_ascii_graphic) => {
            Some(u64::from_be_bytes(value.try_into().ok()?).to_string().into())
        }
        _ => None,
    }
}

/// Returns true if a TLV has the value that an operator wrote: an id in the form of its cloud, or the bytes themselves.
pub fn is_written(written: &[u8], kind: u8, value: &[u8]) -> bool {
    written == value || id(kind, value).is_some_and(|id| id.as_bytes() == written)
}

impl ProxyHeader {
    /// Returns the kind of the TLV and the id of the private link through which the connection came.
    pub fn private_link(&self) -> Option<(u8, Cow<'_, str>)> {
        let of = |kind| Some((kind, id(kind, self.tlv(kind)?)?));
        [Tlv::AWS, Tlv::AZURE, Tlv::GCP].into_iter().find_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy_protocol::{HeaderOrigin, HeaderVersion};

    fn check(kind: u8, value: &[u8], expected: Option<&str>) {
        assert_eq!(id(kind, value).as_deref(), expected, "{kind:#x} {value:?}");
        let tlvs = vec![Tlv::new(Tlv::NETNS, *b"x"), Tlv::new(kind, value)];
        let header = ProxyHeader { version: HeaderVersion::V2, origin: HeaderOrigin::Unknown, tlvs };
        assert_eq!(header.private_link(), expected.map(|id| (kind, id.into())));
    }

    #[test]
    fn ids_are_those_of_the_clouds() {
        check(Tlv::AWS, b"\x01vpce-08d2bf15fac5001c9", Some("vpce-08d2bf15fac5001c9"));
        check(Tlv::AZURE, b"\x01\x78\x56\x34\x12", Some("305419896"));
        check(Tlv::GCP, b"\0\0\0\0\0\x01\x02\x03", Some("66051"));
        check(Tlv::GCP, &[0xff; 8], Some("18446744073709551615"));
    }

    #[test]
    fn other_values_are_no_ids() {
        check(Tlv::AWS, b"", None);
        check(Tlv::AWS, b"\x01", None);
        check(Tlv::AWS, b"\x02vpce-1", None);
        check(Tlv::AWS, b"\x01vpce 1", None);
        check(Tlv::AWS, &[1; 300], None);
        check(Tlv::AZURE, b"\x01\0\0\0", None);
        check(Tlv::AZURE, b"\x02\0\0\0\0", None);
        check(Tlv::GCP, b"edge-001", None);
        check(Tlv::GCP, b"\0\0\x01", None);
        check(0xe1, b"\x01vpce-1", None);
    }

    #[test]
    fn written_values_are_ids_or_bytes() {
        let check = |written: &str, kind, value: &[u8], expected| {
            assert_eq!(is_written(written.as_bytes(), kind, value), expected, "{written} {value:?}");
        };
        check("vpce-1", Tlv::AWS, b"\x01vpce-1", true);
        check("vpce-1", Tlv::AWS, b"vpce-1", true);
        check("vpce-1", Tlv::AWS, b"\x01vpce-12", false);
        check("66051", Tlv::GCP, b"\0\0\0\0\0\x01\x02\x03", true);
        check("edge-1", Tlv::GCP, b"edge-1", true);
        check("edge-1", 0xe5, b"edge-1", true);
        check("305419896", Tlv::AZURE, b"\x01\x78\x56\x34\x12", true);
        check("", 0xe5, b"x", false);
    }
}
