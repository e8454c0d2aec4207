//! The files of packages and the files that users copy: the first configuration, the examples, the changelog
//! of Debian's package.

use std::fs;
use std::process::Output;

use pointsman::telemetry::VERSION;

use crate::process::{Folder, run};
use crate::support::{config, repository};

/// Returns the names of the files in a folder of the repository, sorted.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(repository(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn the_examples_have_no_fault_and_no_warning() {
    let files: Vec<_> = names("examples").into_iter().filter(|name| name.ends_with(".toml")).collect();
    let (routes, configs): (Vec<_>, Vec<_>) = files.iter().partition(|name| name.ends_with("-routes.toml"));
    assert!(configs.len() >= 6, "{configs:?}");
    let mut all = String::new();
    for name in configs {
        let path = repository("examples").join(name);
        let output = run(&["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
        assert!(output.stderr.is_empty(), "{name}: {}", text(&output));
        all += &fs::read_to_string(path).unwrap();
    }
    for name in routes {
        assert!(all.contains(&format!("routes_file = \"{name}\"")), "no example uses {name}");
    }
}

#[test]
fn the_first_configuration_listens_on_loopback_only() {
    let written = fs::read_to_string(repository("dist/config.toml")).unwrap();
    let folder = Folder::new("first");
    assert!(written.contains("\"/var/log/pointsman/access.log\""), "{written}");
    let text_of = written.replace("/var/log/pointsman", folder.path("").to_str().unwrap());
    let path = folder.write("config.toml", &text_of);
    let output = run(&["check", path.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{}", text(&output));
    let config = config(&text_of);
    let binds: Vec<_> = config.listeners.iter().flat_map(|listener| listener.binds.clone()).collect();
    assert!(!binds.is_empty());
    for bind in binds {
        assert!(bind.tcp().is_some_and(|address| address.ip().is_loopback()), "{bind}");
    }
    // An admin listener of the file would be a second one beside that of the unit.
    assert_eq!(config.admins().count(), 0);
}

#[test]
fn the_root_of_the_repository_has_known_names() {
    let known = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "Dockerfile",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "SECURITY.md",
        "benches",
        "build.rs",
        "clippy.toml",
        "config.example.toml",
        "config.schema.json",
        "deny.toml",
        "dist",
        "docs",
        "examples",
        "fuzz",
        "rustfmt.toml",
        "src",
        "tests",
    ];
    let mut found = names(".");
    // Git ignores these files.
    found.retain(|name| {
        !name.starts_with('.') && !["target", "proptest-regressions"].contains(&name.as_str())
    });
    assert_eq!(found, known, "a new file belongs into one of the folders");
}

#[test]
fn the_changelog_of_debian_begins_with_this_version() {
    let changelog = fs::read_to_string(repository("dist/deb/changelog")).unwrap();
    assert!(changelog.starts_with(&format!("pointsman ({VERSION}-1) ")), "{changelog}");
}

#[test]
fn the_files_of_a_fleet_name_what_exists() {
    let files = names("dist/fleet");
    assert!(files.len() >= 9, "{files:?}");
    let page = fs::read_to_string(repository("docs/operate/fleet.md")).unwrap();
    for name in &files {
        assert!(page.contains(name.as_str()), "docs/operate/fleet.md does not name {name}");
        let text = fs::read_to_string(repository("dist/fleet").join(name)).unwrap();
        for mentioned in text.split_whitespace().filter(|word| word.starts_with("pointsman-")) {
            let mentioned = mentioned.trim_end_matches([':', '.', ',']);
            // Files that `pointsman fleet-rules` prints are made by the operator.
            let is_file = [".sh", ".conf", ".service"].iter().any(|end| mentioned.ends_with(end));
            assert!(!is_file || files.iter().any(|file| file == mentioned), "{name}: {mentioned}");
        }
    }
    // The command that systemd runs at a stop needs less time than systemd gives it.
    let leave = fs::read_to_string(repository("dist/fleet/leave.conf")).unwrap();
    assert!(leave.contains("leave --wait 30m\n") && leave.contains("TimeoutStopSec=31m"), "{leave}");
}
