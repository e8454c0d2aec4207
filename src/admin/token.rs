//! The token of the admin listener: a comparison that tells nothing by its time, and who else may read it.

#![allow(clippy::disallowed_methods, reason = "at the start, before anything is served")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Warns if everybody on this machine may read the file.
pub(super) fn warn_of_readers(path: &Path) {
    if path.metadata().is_ok_and(|found| found.mode() & 0o004 != 0) {
        tracing::warn!(path = %path.display(), "everybody on this machine may read the admin token: chmod o-r");
    }
}

/// Whether two texts are equal. Digests are compared, and all of them: how long it takes tells neither how much
/// of a guess is right nor how long the token is.
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
