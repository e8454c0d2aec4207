//! The hand-over to a new program as configured.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// The hand-over to a new program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HandoverSpec {
    /// At the socket in the runtime directory of the service; without such a directory there is no hand-over. The
    /// default.
    #[default]
    RuntimeDirectory,
    /// No hand-over.
    Off,
    /// At this socket.
    At(Arc<Path>),
}

impl HandoverSpec {
    /// The name of the socket in a runtime directory.
    pub const NAME: &str = "handover.sock";

    /// Returns the socket of the hand-over, or `None` if there is no hand-over. Reads the environment.
    #[must_use]
    pub fn socket(&self) -> Option<Arc<Path>> {
        match self {
            Self::RuntimeDirectory => in_runtime_directory(env::var_os("RUNTIME_DIRECTORY").as_deref()),
            Self::Off => None,
            Self::At(path) => Some(Arc::clone(path)),
        }
    }
}

/// Returns the socket in the first directory of a `:` list.
fn in_runtime_directory(directories: Option<&OsStr>) -> Option<Arc<Path>> {
    let first = env::split_paths(directories?).next()?;
    first.is_absolute().then(|| first.join(HandoverSpec::NAME).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_the_first_runtime_directory() {
        let check = |directories: Option<&str>, expected: Option<&str>| {
            let found = in_runtime_directory(directories.map(OsStr::new));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{directories:?}");
        };
        check(None, None);
        check(Some(""), None);
        check(Some("relative"), None);
        check(Some("/run/pointsman"), Some("/run/pointsman/handover.sock"));
        check(Some("/run/a:/run/b"), Some("/run/a/handover.sock"));
        assert_eq!(HandoverSpec::At(Path::new("/a").into()).socket().as_deref(), Some(Path::new("/a")));
        assert_eq!(HandoverSpec::Off.socket(), None);
    }
}
