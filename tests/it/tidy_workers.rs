//! A guard over the modules that run on workers: a worker has an executor of its own, and no runtime of tokio.
//!
//! Code that needs the runtime compiles there too, and panics when it runs.

use crate::tidy_paths::{code, paths, source_texts};

/// The modules whose code runs on workers.
const ON_WORKERS: [&str; 11] = [
    "balance", "conn", "executor", "limit", "listener", "live", "relay", "route", "snapshot", "wire",
    "worker",
];

/// The parts of tokio that need its runtime.
const OF_THE_RUNTIME: [&str; 9] =
    ["fs", "net", "process", "runtime", "signal", "spawn", "task", "time", "io::unix"];

/// The paths in a code that name a part of tokio that needs its runtime.
fn uses_of_the_runtime(code: &str) -> Vec<String> {
    // A leading `::` is another way to name a crate.
    let code = code.replace(" ::tokio", " tokio");
    let paths = paths(&code, &["tokio"]).into_iter().map(|path| path.segments[1..].join("::"));
    let needs_it = |path: &String| {
        // A glob of the whole crate has all of them.
        path.is_empty()
            || OF_THE_RUNTIME.iter().any(|part| {
                path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
    };
    paths.filter(needs_it).map(|path| format!("tokio::{path}")).collect()
}

#[test]
fn workers_do_not_use_the_runtime_of_tokio() {
    let (mut faults, mut files, mut seen) = (Vec::new(), 0, 0);
    for source in source_texts() {
        let inside = source.path.trim_start_matches("src/");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let uses = uses_of_the_runtime(&source.code);
        if ON_WORKERS.contains(&module) {
            files += 1;
            faults.extend(uses.iter().map(|path| format!("{}: {path}", source.path)));
        } else {
            seen += uses.len();
        }
    }
    assert!(files > 60, "only {files} files seen");
    assert!(seen > 20, "only {seen} uses of the runtime seen in other modules");
    assert!(faults.is_empty(), "tokio's runtime is for the control thread:\n{}", faults.join("\n"));
}

#[test]
fn uses_of_the_runtime_are_found() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(uses_of_the_runtime(&code(text)), expected, "{text}");
    };
    check("use tokio::time::sleep;", &["tokio::time::sleep"]);
    check("use tokio::{select, time::{self, Instant}};", &["tokio::time", "tokio::time::Instant"]);
    check("use tokio::{\n    io::AsyncRead,\n    net as sockets,\n};", &["tokio::net"]);
    check("fn f() { ::tokio::spawn(g()); }", &["tokio::spawn"]);
    check("tokio::task::spawn_blocking(f)", &["tokio::task::spawn_blocking"]);
    check("use tokio::io::unix::AsyncFd;", &["tokio::io::unix::AsyncFd"]);
    check("use tokio::*;", &["tokio::"]);
    check("use tokio::sync::Notify; tokio::select! {}; tokio::spawner(); // tokio::spawn()", &[]);
    check("fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::time::sleep;\n}", &[]);
}
