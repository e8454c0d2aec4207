//! Reads whole files for the configuration, with the faults of those that cannot be read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::code::Code;
use super::fault::{self, Diagnostic, Faults};
use crate::sys;
use crate::sys::landlock;

/// The largest file that is read: it leaves room for more than a million routes, and ends the reading of endless
/// devices.
const LARGEST_FILE: u64 = 256 * 1024 * 1024;

/// The name of the configuration in messages.
pub(super) const CONFIGURATION: &str = "the configuration";

/// Reads a whole file; `what` is its name in messages.
pub(super) fn read_text(path: &Path, what: &str) -> Result<String, Faults> {
    read_opened_text(path, what, sys::file::open(path))
}

/// Reads a whole file that was opened, or not; `what` is its name in messages.
pub(super) fn read_opened_text(path: &Path, what: &str, opened: io::Result<File>) -> Result<String, Faults> {
    let bytes = read_opened(path, what, opened)?;
    String::from_utf8(bytes).map_err(|error| not_utf8(&path.display().to_string(), what, error.as_bytes()))
}

/// Reads a whole file that need not be text; `what` is its name in messages.
pub(super) fn read_bytes(path: &Path, what: &str) -> Result<Vec<u8>, Faults> {
    read_opened(path, what, sys::file::open(path))
}

fn read_opened(path: &Path, what: &str, opened: io::Result<File>) -> Result<Vec<u8>, Faults> {
    opened.and_then(read_bounded).map_err(|error| unreadable(&path.display().to_string(), what, &error))
}

fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 256 MiB"));
    }
    Ok(bytes)
}

fn unreadable(name: &str, what: &str, error: &io::Error) -> Faults {
    let diagnostic =
        Diagnostic::new(Code::Unreadable, "", format!("{what} cannot be read: {}", reason(error)));
    let diagnostic = match (error.kind(), what == CONFIGURATION) {
        (io::ErrorKind::NotFound, true) => diagnostic.help(
            "README.md has configurations to begin with, config.example.toml has every key; `pointsman run --listen :5432 \
             --backend 10.0.0.1:5432` needs no file",
        ),
        (io::ErrorKind::NotFound, false) => {
            diagnostic.help("create the file, or correct its path, which is relative to the directory of the configuration")
        }
        (io::ErrorKind::PermissionDenied, _) => diagnostic.help(format!(
            "this command runs as user {}, which may not read the file: run the command as the user that runs the \
             process, or let this user read the file (chown, chmod; each directory of its path needs x)",
            sys::process::user()
        )),
        (io::ErrorKind::IsADirectory, true) => diagnostic.help("name the file in it, such as config.toml"),
        (io::ErrorKind::FileTooLarge, _) => diagnostic.help("lists and routes may be in separate files"),
        _ => diagnostic,
    };
    fault::about_text(name, String::new(), diagnostic)
}

/// Returns the reason, for messages, for which a file cannot be read.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => format!("permission denied{}", landlock::hint(error)),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns the fault of bytes that are not UTF-8.
pub(super) fn not_utf8(name: &str, what: &str, bytes: &[u8]) -> Faults {
    let good = str::from_utf8(bytes).err().map_or(bytes.len(), |error| error.valid_up_to());
    let text = String::from_utf8_lossy(bytes).into_owned();
    let replaced = char::REPLACEMENT_CHARACTER.len_utf8();
    let diagnostic = Diagnostic::new(Code::Unreadable, "", format!("{what} is not UTF-8"))
        .label((good..good + replaced).into(), "this byte begins no character")
        .help("save the file as UTF-8");
    fault::about_text(name, text, diagnostic)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is denied to root, so no test of the program covers this.
    #[test]
    fn a_file_that_may_not_be_read_is_told_with_the_user() {
        let denied =
            unreadable("/etc/pointsman/config.toml", CONFIGURATION, &io::ErrorKind::PermissionDenied.into());
        let user = format!("user {},", sys::process::user());
        let text = denied.to_string().replace(&user, "user UID,");
        // For root the first line has a further sentence.
        let (first, rest) = text.split_once('\n').unwrap();
        let first = first.split(';').next().unwrap();
        insta::assert_snapshot!(format!("{first}\n{rest}"), @r"
        error[C0100]: the configuration cannot be read: permission denied
        --> /etc/pointsman/config.toml
         = help: this command runs as user UID, which may not read the file: run the command as the user that runs the process, or let this user read the file (chown, chmod; each directory of its path needs x)

        /etc/pointsman/config.toml: 1 fault
        ");
    }
}
