//! The version and the commit of a build: the search of the build script for the commit, and the places where
//! the program shows both.

use std::fs;

use pointsman::admin;
use pointsman::sys::Address;
use pointsman::telemetry::{COMMIT, VERSION};

use crate::process::{Folder, Program, command, run};
use crate::support::{Backend, PATIENCE};

#[allow(dead_code, reason = "the build script's `main` is for cargo")]
#[path = "../../build.rs"]
mod build_script;

const FIRST: &str = "1111111111111111111111111111111111111111";
const OTHER: &str = "2222222222222222222222222222222222222222";

/// Writes files with their directories, and returns the commit that the build script finds.
fn found(folder: &Folder, files: &[(&str, &str)]) -> Option<String> {
    for (name, text) in files {
        let path = folder.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    build_script::of_repository(&folder.path(""))
}

#[test]
fn the_commit_of_a_repository_is_found() {
    let check = |case: &str, files: &[(&str, &str)], expected: Option<&str>| {
        let folder = Folder::new(&format!("commit-{case}"));
        assert_eq!(found(&folder, files).as_deref(), expected, "{case}");
    };
    let packed = format!(
        "# pack-refs with: peeled\n{OTHER} refs/heads/feature/main\n{FIRST} refs/heads/main\n^{OTHER}\n"
    );
    let head = (".git/HEAD", "ref: refs/heads/main\n");
    check("none", &[("Cargo.toml", "")], None);
    check("detached", &[(".git/HEAD", &format!("{FIRST}\n"))], Some(FIRST));
    check("loose", &[head, (".git/refs/heads/main", &format!("{FIRST}\n"))], Some(FIRST));
    check("packed", &[head, (".git/packed-refs", &packed)], Some(FIRST));
    check("both", &[head, (".git/packed-refs", &packed), (".git/refs/heads/main", OTHER)], Some(OTHER));
    check("new", &[head, (".git/refs/heads/other", FIRST)], None);
    let shared = [
        (".git", "gitdir: shared/worktrees/one\n"),
        ("shared/worktrees/one/HEAD", "ref: refs/heads/main\n"),
        ("shared/worktrees/one/commondir", "../..\n"),
        ("shared/refs/heads/main", FIRST),
    ];
    check("worktree", &shared, Some(FIRST));
    check("broken-link", &[(".git", "nothing of git")], None);
}

#[test]
fn the_commit_of_a_package_is_found() {
    let folder = Folder::new("commit-package");
    assert_eq!(build_script::of_package(&folder.path("")), None);
    let note = format!("{{\n  \"git\": {{\n    \"sha1\": \"{FIRST}\"\n  }},\n  \"path_in_vcs\": \"\"\n}}");
    folder.write(".cargo_vcs_info.json", &note);
    assert_eq!(build_script::of_package(&folder.path("")).as_deref(), Some(FIRST));
}

#[test]
fn the_program_names_its_version_and_commit_everywhere() {
    assert!((1..=12).contains(&COMMIT.len()), "{COMMIT}");
    let shown = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert_eq!(shown, format!("pointsman {VERSION} ({COMMIT})\n"));

    let (folder, backend) = (Folder::new("version"), Backend::echo());
    let socket = format!("unix:{}", folder.path("admin.sock").display());
    let backend = backend.address.to_string();
    let program = Program::start(&mut command(&[
        "run",
        "--listen",
        "127.0.0.1:0",
        "--backend",
        &backend,
        "--admin",
        &socket,
    ]));
    program.stderr.wait_for("serving");
    let line = program.stderr.all().remove(0);
    assert!(line.ends_with(&format!("starting version=\"{VERSION}\" commit=\"{COMMIT}\"")), "{line}");
    let status = String::from_utf8(run(&["status", "--admin", &socket]).stdout).unwrap();
    assert!(status.starts_with(&format!("pointsman {VERSION} ({COMMIT}): serving")), "{status}");
    let page = run(&["status", "--json", "--admin", &socket]).stdout;
    let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
    assert_eq!((page["version"].as_str(), page["commit"].as_str()), (Some(VERSION), Some(COMMIT)));
    let address: Address = socket.parse().unwrap();
    let (_, metrics) = admin::ask(address, "/metrics", PATIENCE).unwrap();
    let series = format!("pointsman_build_info{{version=\"{VERSION}\",commit=\"{COMMIT}\"}} 1\n");
    assert!(metrics.contains(&series), "{metrics}");
}
