//! What packages hold and what users copy: the examples.

use std::fs;
use std::process::Output;

use crate::process::run;
use crate::support::repository;

/// Names of files in a folder of the repository, sorted.
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
