//! Finds the commit that this build is made of, for `--version`, the log, the status and the metrics.
//!
//! The variable `POINTSMAN_COMMIT` comes first: packages are built from sources without a repository. Next come the
//! repository beside this file and the note that `cargo package` leaves. Without all of them it is `unknown`.

#![allow(clippy::disallowed_methods, reason = "a build may wait for files")]
#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Digits of the commit that are shown. Twelve are unique in every known repository.
const SHOWN: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=POINTSMAN_COMMIT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let commit = env::var("POINTSMAN_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = commit.or_else(|| of_repository(&root)).or_else(|| of_package(&root));
    let commit: String =
        commit.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(SHOWN).collect();
    let commit = if commit.is_empty() { "unknown" } else { &commit };
    println!("cargo::rustc-env=POINTSMAN_COMMIT={commit}");
}

/// Returns the commit that is checked out, if `root` is the root of a repository or of a further work tree of one.
pub(crate) fn of_repository(root: &Path) -> Option<String> {
    let git = root.join(".git");
    let git = if git.is_dir() {
        git
    } else {
        watch(&git);
        root.join(fs::read_to_string(&git).ok()?.strip_prefix("gitdir:")?.trim())
    };
    let head = read_watched(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else { return Some(head) };
    // References of a further work tree are in the directory that they share.
    let common = fs::read_to_string(git.join("commondir")).map_or(git.clone(), |path| git.join(path.trim()));
    let loose = common.join(name);
    if let Some(commit) = read_watched(&loose) {
        return Some(commit);
    }
    // The next commit creates the file of the reference, at times with its directories.
    if let Some(above) = loose.ancestors().skip(1).find(|above| above.is_dir()) {
        watch(above);
    }
    let packed = read_watched(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' ').map(str::to_owned))
}

/// Returns the commit that `cargo package` notes in a package.
pub(crate) fn of_package(root: &Path) -> Option<String> {
    let note = read_watched(&root.join(".cargo_vcs_info.json"))?;
    note.split("\"sha1\"").nth(1)?.split('"').nth(1).map(str::to_owned)
}

/// Returns the text of a file without spaces around it; cargo runs this script again when the file changes.
fn read_watched(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    watch(path);
    Some(text.trim().to_owned())
}

/// Only for what exists: cargo would run the script at each build for a path that does not.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
