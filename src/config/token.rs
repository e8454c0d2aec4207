//! Reads the token of the admin listener from its file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::code::Code;
use super::fault::Diagnostic;
use super::load::reason;
use crate::sys::{file, landlock};

/// The shortest token: with letters and digits it has 95 bits, which cannot be guessed.
const SHORTEST: usize = 16;

/// The longest token; it must fit into the head of a request.
const LONGEST: usize = 1024;

/// The reason for which no token was read.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// The file cannot be read.
    #[error("cannot read the token in {}: {source}; it is the file of admin.token_file, or of --token-file{}", path.display(), landlock::hint(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The content of the file is not a token.
    #[error(
        "{} has no valid token: it needs one line of {SHORTEST} to {LONGEST} visible ASCII characters, such as those of \
         `openssl rand -hex 32`", path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// The byte order mark of UTF-8, with which some editors begin a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a token from its file, without white space at its ends and without a byte order mark before it. Blocks.
///
/// # Errors
///
/// If the file cannot be read, or if its content is not a token: a token has 16 to 1024 visible ASCII characters.
pub fn read_token(path: &Path) -> Result<String, TokenFault> {
    token_in(path, file::open(path))
}

/// Reads a token as [`read_token`] does, from a file in a command line, which may be `/dev/stdin` or a shell's
/// `<(...)`.
///
/// # Errors
///
/// As [`read_token`].
pub fn read_given_token(path: &Path) -> Result<String, TokenFault> {
    token_in(path, file::open_given(path))
}

fn token_in(path: &Path, opened: io::Result<File>) -> Result<String, TokenFault> {
    let mut bytes = Vec::new();
    // This leaves room for white space; a longer text is not a token.
    let most = 2 * LONGEST as u64;
    opened
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|source| TokenFault::Unreadable { path: path.to_owned(), source })?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let text = str::from_utf8(bytes.trim_ascii()).ok();
    let fits = |text: &&str| {
        (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    text.filter(fits).map(str::to_owned).ok_or_else(|| TokenFault::Form { path: path.to_owned() })
}

/// Returns the fault of a token, as `check` reports it. Loading does not read the token: each request that needs it
/// does, so that a new token needs no reload.
///
/// If the user of `check` may not read the file, the fault is a warning: the user of the process may be allowed to
/// read the file.
pub(super) fn fault(read: Result<String, TokenFault>) -> Option<Diagnostic> {
    let fault = |code, message: &str| Diagnostic::new(code, "", message);
    match read {
        Ok(_) => None,
        Err(TokenFault::Unreadable { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let message = "this user may not read the token of `admin.token_file`";
            let help = "run `check` as the user that runs the process, so that it can check this file too";
            Some(fault(Code::UnseenToken, message).help(help))
        }
        Err(TokenFault::Unreadable { source, .. }) => {
            let message = format!("the token of `admin.token_file` cannot be read: {}", reason(&source));
            let help = "make one: openssl rand -hex 32 | install -m 0640 -g pointsman /dev/stdin /etc/pointsman/token";
            Some(fault(Code::Unreadable, &message).help(help))
        }
        Err(TokenFault::Form { .. }) => {
            let help = format!(
                "the file needs one line of {SHORTEST} to {LONGEST} visible ASCII characters, such as those of \
                 `openssl rand -hex 32`"
            );
            Some(fault(Code::BadToken, "the file of `admin.token_file` has no valid token").help(help))
        }
    }
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
        check(b"\xef\xbb\xbf0123456789abcdef\r\n", Some("0123456789abcdef"));
        check(b"0123456789abcdef\xef\xbb\xbf", None);
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
    fn what_is_wrong_with_a_token_has_a_code() {
        let path = || PathBuf::from("/etc/pointsman/token");
        let unreadable = |kind: io::ErrorKind| TokenFault::Unreadable { path: path(), source: kind.into() };
        let check = |read, expected: Option<Code>| assert_eq!(fault(read).map(|fault| fault.code), expected);
        check(Ok(String::new()), None);
        check(Err(unreadable(io::ErrorKind::PermissionDenied)), Some(Code::UnseenToken));
        check(Err(unreadable(io::ErrorKind::NotFound)), Some(Code::Unreadable));
        check(Err(TokenFault::Form { path: path() }), Some(Code::BadToken));
    }
}
