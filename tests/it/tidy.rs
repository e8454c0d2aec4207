//! Checks of the source that a compiler does not make.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines of code of a file; at 400 lines a file should be split.
const WALL: usize = 500;

/// The number of crates that the first command of the README builds: the demo, pointsman and all their
/// dependencies.
const CRATES_OF_DEMO: usize = 205;

/// A file of the crate.
struct Source {
    /// The path from the root of the crate.
    path: String,
    /// The module of `lib.rs` that the file belongs to; `lib` and `main` for the roots themselves.
    module: String,
    /// The lines without comments and blank lines.
    code: Vec<String>,
    /// The number of lines before the tests; 0 in a file of tests.
    untested: usize,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let inside = path.strip_prefix(root.join("src")).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let text = fs::read_to_string(path).unwrap();
        let code: Vec<_> = text
            .lines()
            .map(|line| line.split(" // ").next().unwrap_or_default().trim().to_owned())
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .collect();
        let tests = code.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]"
                && (pair[1].starts_with("mod tests") || pair[1].starts_with("pub mod tests"))
        });
        let is_tests =
            inside.ends_with("tests.rs") || inside.components().any(|part| part.as_os_str() == "tests");
        let untested = if is_tests { 0 } else { tests.unwrap_or(code.len()) };
        Self {
            path: format!("src/{}", inside.display()),
            module: module.trim_end_matches(".rs").to_owned(),
            code,
            untested,
        }
    }

    /// Returns the lines that are not tests.
    fn work(&self) -> &[String] {
        &self.code[..self.untested]
    }

    /// Returns the modules of the crate that the file names, tests included.
    fn imports(&self, modules: &[String]) -> BTreeSet<String> {
        let code = self.code.join(" ");
        let mut imports = BTreeSet::new();
        for path in code.split("crate::").skip(1) {
            imports.extend(first_names(path));
        }
        // Straight below the root, `super` is another way to say `crate`.
        let below_root = format!("src/{}.rs", self.module) == self.path
            || format!("src/{}/mod.rs", self.module) == self.path;
        if below_root {
            imports.extend(
                code.split("super::").skip(1).flat_map(first_names).filter(|name| modules.contains(name)),
            );
        }
        imports
    }
}

/// Returns the first names of a path: several for a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut names = vec![word(group)];
    let mut depth = 1;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source::read(&root, &path));
            }
        }
    }
    assert!(sources.len() > 60, "only {} files seen", sources.len());
    assert!(sources.iter().map(|source| source.work().len()).sum::<usize>() > 5000);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Returns the modules in the order of `lib.rs`.
fn modules() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    assert_eq!(modules.first().map(String::as_str), Some("sys"));
    assert_eq!(modules.last().map(String::as_str), Some("cli"));
    assert!(modules.len() >= 17, "{modules:?}");
    modules
}

/// Panics with all faults, if there are any.
fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

/// Returns the lines that contain one of these words as a whole word.
fn lines_with(lines: &[String], words: &[&str]) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let has = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && (word.ends_with(':') || !after.is_some_and(is_part))
        })
    };
    lines.iter().filter(|line| words.iter().any(|word| has(line, word))).cloned().collect()
}

#[test]
fn names_are_found_in_paths() {
    let check = |path: &str, expected: &[&str]| assert_eq!(first_names(path), expected, "{path}");
    check("sys::socket;", &["sys"]);
    check("sys;", &["sys"]);
    check("{sys, pool::{Lease, Pool}, wire::Alert};", &["sys", "pool", "wire"]);
    check("{ sys::{self}, };", &["sys"]);
    check("worker::Worker { a, b }", &["worker"]);
}

#[test]
fn words_are_found_in_lines() {
    let check = |line: &str, word: &str, expected: bool| {
        assert_eq!(!lines_with(&[line.to_owned()], &[word]).is_empty(), expected, "{word} in {line}");
    };
    check("use nix::errno::Errno;", "nix::", true);
    check("use std::os::unix::fs;", "nix::", false);
    check("unsafe { x }", "unsafe", true);
    check("#![allow(unsafe_code)]", "unsafe", false);
    check("#![allow(unsafe_code)]", "unsafe_code", true);
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let modules = modules();
    let rank = |name: &str| modules.iter().position(|module| module == name);
    let (mut faults, mut seen, mut from) = (Vec::new(), 0, BTreeSet::new());
    for source in sources() {
        let Some(own) = rank(&source.module) else {
            assert!(["lib", "main"].contains(&source.module.as_str()), "{} is not in lib.rs", source.path);
            continue;
        };
        from.insert(source.module.clone());
        for import in source.imports(&modules) {
            seen += 1;
            match rank(&import) {
                Some(rank) if rank <= own => {}
                Some(_) => faults.push(format!("{} uses {import}, which stands below it", source.path)),
                None => faults.push(format!("{} uses {import}, which is no module", source.path)),
            }
        }
    }
    assert!(seen > 100, "only {seen} imports seen");
    assert_eq!(from.len(), modules.len(), "each module has a file: {from:?}");
    assert_none(&faults, "the order of modules in src/lib.rs");
}

#[test]
fn only_sys_knows_the_kernel() {
    let words = [
        "unsafe",
        "unsafe_code",
        "nix::",
        "libc",
        "libc::",
        "RawFd",
        "AsRawFd",
        "FromRawFd",
        "IntoRawFd",
        "from_raw_fd",
        "as_raw_fd",
        "into_raw_fd",
        "rustix::",
    ];
    let (mut faults, mut in_sys) = (Vec::new(), 0);
    for source in sources() {
        let lines = lines_with(&source.code, &words);
        if source.module == "sys" {
            in_sys += lines.len();
        } else {
            faults.extend(lines.iter().map(|line| format!("{}: {line}", source.path)));
        }
    }
    assert!(in_sys > 20, "only {in_sys} such lines seen in sys");
    assert_none(&faults, "unsafe, raw descriptors and the kernel's names are for src/sys alone");
}

#[test]
fn pure_modules_do_no_io_and_have_no_clock() {
    let words = [
        "tokio",
        "tokio::",
        "tracing",
        "tracing::",
        "metrics::",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::fs::",
        "std::env",
        "std::env::",
        "std::thread",
        "std::thread::",
        "File",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "socket2::",
        "std::io::",
        "println!",
    ];
    let (mut faults, mut files) = (Vec::new(), 0);
    for source in sources() {
        if !["wire", "route", "balance"].contains(&source.module.as_str()) {
            continue;
        }
        files += usize::from(!source.work().is_empty());
        faults
            .extend(lines_with(source.work(), &words).iter().map(|line| format!("{}: {line}", source.path)));
    }
    assert!(files >= 10, "only {files} files seen");
    assert_none(&faults, "wire, route and balance are pure");
}

/// The steps behind the route follow a plan, whatever the protocol of the client is.
#[test]
fn the_intent_of_a_client_ends_at_its_route() {
    let may = ["detect", "exchange", "hello", "route", "sniff", "sniffed"];
    let (mut faults, mut seen, mut cancels) = (Vec::new(), 0, 0);
    for source in sources() {
        let Some(file) = source.path.strip_prefix("src/conn/") else { continue };
        let lines = lines_with(source.work(), &["Intent"]);
        cancels += usize::from(!lines_with(&lines, &["Intent::Cancel"]).is_empty());
        if may.contains(&file.trim_end_matches(".rs")) {
            seen += usize::from(!lines.is_empty());
        } else {
            faults.extend(lines.iter().map(|line| format!("{}: {line}", source.path)));
        }
    }
    assert_eq!(seen, may.len(), "the files that make an intent or read one");
    assert_eq!(cancels, 2, "the files that make the intent of a cancel or read it");
    assert_none(&faults, "the steps behind the route use the plan and not the intent");
}

/// A TLS library decrypts. It serves checks, on the control thread, and never gets the bytes of clients.
#[test]
fn one_folder_names_the_tls_library() {
    let words = ["rustls::", "ring::"];
    let (mut faults, mut seen) = (Vec::new(), 0);
    for source in sources() {
        let lines = lines_with(source.work(), &words);
        if source.path.starts_with("src/pool/probe/tls/") || source.path == "src/pool/tls_client.rs" {
            seen += lines.len();
        } else if !source.path.contains("/tests/") {
            faults.extend(lines.iter().map(|line| format!("{}: {line}", source.path)));
        }
    }
    assert!(seen >= 5, "only {seen} lines name it where it is used");
    assert_none(&faults, "the TLS library is for checks over TLS alone");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\ntls-checks = [\"dep:rustls\"]\n"), "it can be left out");
}

/// The library of the view in the terminal is for that view alone, and one file knows the terminal itself.
#[test]
fn one_folder_names_the_library_of_the_view() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for source in sources() {
        let lines = lines_with(&source.code, &["ratatui::", "crossterm::"]);
        let terminal = lines_with(&source.code, &["crossterm::"]);
        if !source.path.starts_with("src/cli/top/") {
            faults.extend(lines.iter().map(|line| format!("{}: {line}", source.path)));
        } else if source.path != "src/cli/top/terminal.rs" {
            faults.extend(terminal.iter().map(|line| format!("{}: {line}", source.path)));
        }
        seen += lines.len();
    }
    assert!(seen >= 5, "only {seen} lines name it where it is used");
    assert_none(&faults, "the library of `pointsman top` is for the view alone");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\ntop = [\"dep:ratatui\"]\n"), "it can be left out");
}

/// The page that lists each place where the process may wait for the outside.
const OUTSIDE: &str = "docs/design/0013-outside.md";

#[test]
fn what_writes_to_the_outside_is_in_the_list() {
    let text = fs::read_to_string(root().join(OUTSIDE)).unwrap();
    let named: Vec<_> = text.split('`').skip(1).step_by(2).collect();
    let words =
        ["stderr()", "stdout()", "UnixDatagram", "println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let (mut faults, mut seen) = (Vec::new(), 0);
    for source in sources() {
        let lines = lines_with(source.work(), &words);
        seen += lines.len();
        let inside = source.path.trim_start_matches("src/");
        if !lines.is_empty() && !named.iter().any(|name| inside.starts_with(name)) {
            faults.push(format!("{}: {}", source.path, lines.join("; ")));
        }
    }
    assert!(seen >= 6, "only {seen} such lines seen");
    assert_none(
        &faults,
        "docs/design/0013-outside.md names the thread of each write to the outside, and its bound",
    );
}

#[test]
fn files_stay_below_the_wall() {
    let sources = sources();
    let faults: Vec<_> = sources
        .iter()
        .filter(|source| source.work().len() > WALL)
        .map(|source| format!("{}: {} lines of code", source.path, source.work().len()))
        .collect();
    assert!(sources.iter().any(|source| source.work().len() > 200), "no long file seen at all");
    assert_none(&faults, "a file has at most 500 lines of code before its tests");
}

/// Checks files of tests and benches. clippy allows these to read and write files, and with that also calls
/// that it forbids in the program.
#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let words = ["thread::sleep", "tokio::time::sleep(", "env::set_var"];
    // A bench measures for a time.
    let may = ["benches/compare/child.rs", "tests/it/tidy.rs"];
    let root = root();
    let mut folders: Vec<_> = ["src", "tests", "benches", "examples"].map(|name| root.join(name)).into();
    let (mut faults, mut seen) = (Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !may.contains(&&*name) {
                seen += 1;
                let text = fs::read_to_string(&path).unwrap();
                // clippy checks the program itself, without its tests.
                let is_mixed = name.starts_with("src/") && !name.contains("tests");
                let tests = if is_mixed {
                    text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests)
                } else {
                    &text
                };
                let found = tests.lines().filter(|line| words.iter().any(|word| line.contains(word)));
                faults.extend(found.map(|line| format!("{name}: {}", line.trim())));
            }
        }
    }
    assert!(seen > 200, "only {seen} files seen");
    assert_none(&faults, "no test sleeps or changes its environment");
}

/// Lists the places where the program may wait for a file system. Each place has an attribute for clippy.
#[test]
fn the_places_that_touch_files_are_listed() {
    let text = fs::read_to_string(root().join(OUTSIDE)).unwrap();
    let listed: BTreeSet<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.starts_with("src/") && word.ends_with(".rs"))
        .map(str::to_owned)
        .collect();
    let allowed: BTreeSet<_> = sources()
        .into_iter()
        .filter(|source| source.module != "lib")
        .filter(|source| source.code.concat().contains("allow(clippy::disallowed_methods"))
        .map(|source| source.path)
        .collect();
    assert!(allowed.len() > 5, "{allowed:?}");
    assert_eq!(
        allowed, listed,
        "files that may call what clippy.toml forbids, and those that its page lists"
    );
}

/// Each crate adds to the time of the first command.
#[test]
fn the_first_command_builds_few_crates() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```").nth(1).unwrap();
    assert_eq!(block.lines().nth(1), Some("cargo run --release -p demo"), "the first command of README.md");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["tree", "-p", "demo", "-e", "normal,build", "--offline", "--locked"]);
    let output = cargo.args(["--prefix", "none", "--format", "{p}"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // cargo marks a crate that it lists again.
    let lines = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> =
        lines.lines().map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert!(crates.iter().any(|name| name.starts_with("tokio ")), "{crates:?}");
    assert!(
        crates.len() <= CRATES_OF_DEMO,
        "`cargo run --release -p demo` builds {} crates, and at most {CRATES_OF_DEMO} are allowed. \
         `cargo tree -p demo -e normal,build --prefix none | sort -u`, before and after the change, shows which crate is \
         new; `cargo tree -p demo -i CRATE` shows why. Take fewer features of a dependency, or another one. If the new \
         crate is worth its time, raise CRATES_OF_DEMO and give the reason in the commit",
        crates.len()
    );
}

/// Checks that benches measure the installed code: the two profiles may differ only in symbols.
#[test]
fn benches_measure_the_program_that_is_installed() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let profile = |name: &str| {
        let profile = manifest["profile"][name].as_table();
        profile.unwrap_or_else(|| panic!("Cargo.toml has no [profile.{name}]")).clone()
    };
    let (mut installed, mut measured) = (profile("dist"), profile("bench"));
    assert_eq!(installed["lto"].as_str(), Some("fat"), "{installed:?}");
    // Without this key, `bench` takes missing values from the same profile.
    assert_eq!(installed.remove("inherits").as_ref().and_then(toml::Value::as_str), Some("release"));
    for of_symbols in ["strip", "debug"] {
        installed.remove(of_symbols);
        measured.remove(of_symbols);
    }
    assert_eq!(measured, installed, "[profile.bench] and [profile.dist] of Cargo.toml");
}
