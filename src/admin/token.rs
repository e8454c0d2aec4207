//! The token of the admin listener: a file, and a comparison that tells nothing by its time.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::sys::{file, landlock};

/// The shortest token: with letters and digits 95 bits, which nobody guesses.
const SHORTEST: usize = 16;

/// The longest one; it has to fit into a request's head.
const LONGEST: usize = 1024;

/// Why a token cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// The file cannot be read.
    #[error("cannot read the token in {}: {source}; it is the file of admin.token_file, or of --token-file{}", path.display(), landlock::hint(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What it holds is no token.
    #[error(
        "{} holds no token: it takes one line of {SHORTEST} to {LONGEST} visible ASCII characters, such as those of \
         `openssl rand -hex 32`", path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a token from its file; white space around it is no part of it. Blocks.
///
/// # Errors
///
/// When the file cannot be read, or holds something else: a token has 16 to 1024 visible ASCII characters.
pub fn read_token(path: &Path) -> Result<String, TokenFault> {
    let mut bytes = Vec::new();
    // Some room for white space; whatever is longer is no token.
    let most = 2 * LONGEST as u64;
    file::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|source| TokenFault::Unreadable { path: path.to_owned(), source })?;
    let text = str::from_utf8(bytes.trim_ascii()).ok();
    let fits = |text: &&str| {
        (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    text.filter(fits).map(str::to_owned).ok_or_else(|| TokenFault::Form { path: path.to_owned() })
}

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

    fn check(text: &[u8], expected: Option<&str>) {
        let path = std::env::temp_dir().join(format!("pointsman-token-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        assert_eq!(read_token(&path).ok().as_deref(), expected, "{:?}", String::from_utf8_lossy(text));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn tokens_are_read() {
        check(b"0123456789abcdef", Some("0123456789abcdef"));
        check(b" 0123456789abcdef\r\n", Some("0123456789abcdef"));
        check(b"0123456789abcde", None);
        check(b"", None);
        check(b"0123456789 abcdef", None);
        check(b"0123456789abcdef\n0123456789abcdef", None);
        check("0123456789abcdefé".as_bytes(), None);
        check(b"0123456789abcdef\0", None);
        check(&[b'a'; 1024], Some(&"a".repeat(1024)));
        check(&[b'a'; 1025], None);
        check(&[b'a'; 5000], None);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let fault = read_token(Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(fault.contains("/nowhere/token") && fault.contains("No such file"), "{fault}");
    }

    #[test]
    fn texts_are_compared() {
        assert!(equal("", ""));
        assert!(equal("abc", "abc"));
        assert!(!equal("abc", "abd"));
        assert!(!equal("abc", "abcd"));
        assert!(!equal("abc", ""));
    }
}
