//! The token of the admin listener, in a file of its own.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Config;
use super::code::Code;
use super::fault::{self, Diagnostic, Faults, Warnings};
use super::load::unreadable;
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
    token_in(path, file::open(path))
}

/// The same for a file that a command line names, which may be `/dev/stdin` or a shell's `<(...)`.
///
/// # Errors
///
/// As [`read_token`].
pub fn read_given_token(path: &Path) -> Result<String, TokenFault> {
    token_in(path, file::open_given(path))
}

fn token_in(path: &Path, opened: io::Result<File>) -> Result<String, TokenFault> {
    let mut bytes = Vec::new();
    // Some room for white space; whatever is longer is no token.
    let most = 2 * LONGEST as u64;
    opened
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|source| TokenFault::Unreadable { path: path.to_owned(), source })?;
    let text = str::from_utf8(bytes.trim_ascii()).ok();
    let fits = |text: &&str| {
        (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    text.filter(fits).map(str::to_owned).ok_or_else(|| TokenFault::Form { path: path.to_owned() })
}

/// Looks whether a configuration's token can be had. It is no part of loading: the token is read whenever it is
/// asked for, so that a new one needs no reload. Blocks.
///
/// The warning is that this user may not read it, which the one who runs the process may.
///
/// # Errors
///
/// When there is no such file, or no token in it.
pub fn check_token(config: &Config) -> Result<Warnings, Faults> {
    let Some(path) = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref()) else {
        return Ok(Warnings::default());
    };
    report(path, read_token(path))
}

fn report(path: &Path, read: Result<String, TokenFault>) -> Result<Warnings, Faults> {
    let name = path.display().to_string();
    match read {
        Ok(_) => Ok(Warnings::default()),
        Err(TokenFault::Unreadable { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let message = "the token of `admin.token_file` may not be read by this user";
            let warning = Diagnostic::new(Code::UnseenToken, "admin.token_file", message)
                .help("check as the user that runs the process, so that it is looked at as well");
            let Faults(report) = fault::about_text(&name, String::new(), warning);
            Ok(Warnings(report))
        }
        Err(TokenFault::Unreadable { source, .. }) => {
            Err(unreadable(&name, "the token of `admin.token_file`", &source))
        }
        Err(TokenFault::Form { .. }) => {
            let message = "the file of `admin.token_file` holds no token";
            let help = format!(
                "it takes one line of {SHORTEST} to {LONGEST} visible ASCII characters, such as those of \
                 `openssl rand -hex 32`"
            );
            let diagnostic = Diagnostic::new(Code::BadToken, "admin.token_file", message).help(help);
            Err(fault::about_text(&name, String::new(), diagnostic))
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
    fn a_token_of_another_user_is_a_warning() {
        let source = io::ErrorKind::PermissionDenied.into();
        let path = Path::new("/etc/pointsman/token");
        let warnings = report(path, Err(TokenFault::Unreadable { path: path.into(), source })).unwrap();
        insta::assert_snapshot!(warnings.render(false), @r"
        warning[C0460]: the token of `admin.token_file` may not be read by this user
        --> /etc/pointsman/token
         = help: check as the user that runs the process, so that it is looked at as well

        /etc/pointsman/token: 1 warning
        ");
    }

    #[test]
    fn a_check_looks_at_the_token() {
        let folder = std::env::temp_dir().join(format!("pointsman-tokens-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        let text = "[listener.l]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n";
        let check = |path: &Path, expected: Result<(), Code>| {
            let text =
                format!("admin = {{ listen = '127.0.0.1:1', token_file = '{}' }}\n{text}", path.display());
            let (config, _) = super::super::parse("a.toml", &text).unwrap();
            let told = check_token(&config).map(|warnings| assert!(warnings.is_empty()));
            assert_eq!(told.map_err(|faults| faults.diagnostics()[0].code), expected, "{path:?}");
        };
        std::fs::write(at("good"), "0123456789abcdef\n").unwrap();
        std::fs::write(at("short"), "0123456789").unwrap();
        check(&at("good"), Ok(()));
        check(&at("short"), Err(Code::BadToken));
        check(&at("nothing"), Err(Code::Unreadable));
        check(&folder, Err(Code::Unreadable));
        let (config, _) = super::super::parse("a.toml", text).unwrap();
        assert!(check_token(&config).unwrap().is_empty(), "without a token there is nothing to look at");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
