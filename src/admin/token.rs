//! The token of the admin listener: a comparison in constant time, and a warning about the permissions of its
//! file.

#![allow(clippy::disallowed_methods, reason = "at the start, before anything is served")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Logs a warning if all users of this machine may read the file.
pub(super) fn warn_of_readers(path: &Path) {
    if path.metadata().is_ok_and(|found| found.mode() & 0o004 != 0) {
        tracing::warn!(
            path = %path.display(),
            "all users of this machine may read the admin token: run chmod o-r on the file"
        );
    }
}

/// Returns true if two texts are equal. Whole digests are compared, so the time depends neither on the number
/// of correct characters nor on the length of the token.
pub(super) fn equal(one: &str, other: &str) -> bool {
    let (one, other) = (Sha256::digest(one), Sha256::digest(other));
    let difference = one.iter().zip(&other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared() {
        assert!(equal("", ""));
        assert!(equal("abc", "abc"));
        assert!(!equal("abc", "abd"));
        assert!(!equal("abc", "abcd"));
        assert!(!equal("abc", ""));
    }
}
