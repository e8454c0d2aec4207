//! CRC32C (Castagnoli) as in RFC 4960, appendix B.
//!
//! The polynomial is reflected. The register starts with all bits 1, and at the end all bits are inverted.

/// The reflected polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut rest = index as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { (rest >> 1) ^ POLYNOMIAL } else { rest >> 1 };
            bit += 1;
        }
        table[index] = rest;
        index += 1;
    }
    table
}

/// Computes the checksum of some bytes.
pub(super) fn checksum(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let step = |sum: u32, byte: u8| (sum >> 8) ^ TABLE[usize::from((sum as u8) ^ byte)];
    !bytes.into_iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: u32) {
        assert_eq!(checksum(bytes.iter().copied()), expected, "{bytes:x?}");
    }

    /// The first value is the check value in catalogues of checksums; the others are from RFC 3720, B.4.
    #[test]
    fn known_values() {
        check(b"123456789", 0xe306_9283);
        check(&[0; 32], 0x8a91_36aa);
        check(&[0xff; 32], 0x62a8_ab43);
        check(b"", 0);
    }
}
