//! A guard over the order of files: in a folder no file uses another that, over any number of files, uses the first.
//!
//! The head of a folder, its `mod.rs`, does not count: it may use its children, and its children may use the items that
//! it defines. A name that the head passes on from a child counts as that child.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy_paths::{Segments, UsedPath, code, paths, source_texts};

/// The modules whose files have an order, in each of their folders.
const ORDERED: [&str; 10] =
    ["sys", "route", "balance", "limit", "telemetry", "live", "pool", "snapshot", "conn", "server"];

/// The files of a crate and the names that heads of folders pass on.
struct Modules {
    /// The paths of the modules from the crate's root on, with the code of each.
    codes: BTreeMap<Segments, String>,
    /// The names that a module declares with `use`: by module and name, the path behind it.
    passed_on: BTreeMap<(Segments, String), Segments>,
}

/// The uses between the children of one folder: the child that uses, the child that is used, and the paths.
type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

impl Modules {
    fn new(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let codes: BTreeMap<_, _> = sources.into_iter().map(|(path, code)| (module(&path), code)).collect();
        let mut modules = Self { codes, passed_on: BTreeMap::new() };
        for (module, code) in &modules.codes {
            let children = modules.children(module);
            let mut roots = vec!["crate", "self", "super"];
            roots.extend(children.iter().map(String::as_str));
            for declared in code.split("use ").skip(1) {
                let end = declared.find(';').unwrap_or(declared.len());
                for UsedPath { segments, name } in paths(&declared[..end], &roots) {
                    let target = absolute(module, &segments);
                    if !["crate", "self", "super"].contains(&&*name) {
                        modules.passed_on.insert((module.clone(), name), target);
                    }
                }
            }
        }
        modules
    }

    fn children(&self, module: &Segments) -> Vec<String> {
        let below =
            self.codes.keys().filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
        below.filter_map(|child| child.last().cloned()).collect()
    }

    /// The module in which the thing of a path is, if it is in this crate.
    fn home(&self, path: &Segments) -> Segments {
        let mut path = path.clone();
        // A name may be passed on from head to head. The number of steps is bounded, because the code may not compile.
        for _ in 0..10 {
            let depth =
                (0..=path.len()).rev().find(|depth| self.codes.contains_key(&path[..*depth])).unwrap_or(0);
            let Some(name) = path.get(depth) else { return path };
            match self.passed_on.get(&(path[..depth].to_vec(), name.clone())) {
                Some(target) => path = target.iter().chain(&path[depth + 1..]).cloned().collect(),
                None => return path[..depth].to_vec(),
            }
        }
        path
    }

    /// The uses between the children of each folder of a module.
    fn uses(&self, within: &str) -> BTreeMap<Segments, Uses> {
        let mut uses: BTreeMap<Segments, Uses> = BTreeMap::new();
        for (module, code) in
            self.codes.iter().filter(|(module, _)| module.first().is_some_and(|top| top == within))
        {
            for UsedPath { segments, .. } in paths(code, &["crate", "super"]) {
                let home = self.home(&absolute(module, &segments));
                let common = module.iter().zip(&home).take_while(|(own, other)| own == other).count();
                if common > 0
                    && let (Some(own), Some(other)) = (module.get(common), home.get(common))
                {
                    let uses = uses.entry(home[..common].to_vec()).or_default();
                    let used = uses.entry(own.clone()).or_default().entry(other.clone()).or_default();
                    used.insert(format!("{}: {}", module[common..].join("/"), segments.join("::")));
                }
            }
        }
        uses
    }
}

/// The module of a file: `src/pool/mod.rs` is `pool`.
fn module(path: &str) -> Segments {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    if inside == "lib" { Vec::new() } else { inside.split('/').map(str::to_owned).collect() }
}

/// A path as seen from the crate's root.
fn absolute(module: &Segments, path: &[String]) -> Segments {
    let mut absolute = module.clone();
    let mut rest = path;
    if let Some((first, behind)) = path.split_first()
        && first == "crate"
    {
        absolute.clear();
        rest = behind;
    }
    while let Some((first, behind)) = rest.split_first() {
        match &**first {
            "super" => _ = absolute.pop(),
            "self" => {}
            _ => break,
        }
        rest = behind;
    }
    absolute.extend(rest.iter().cloned());
    absolute
}

/// The first circle among the children of a folder that a search finds, from a child back to it.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    uses.keys().find_map(|start| walk(start, uses, &mut Vec::new(), &mut done))
}

fn walk(file: &str, uses: &Uses, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(at) = way.iter().position(|before| before == file) {
        return Some(way[at..].iter().cloned().chain([file.to_owned()]).collect());
    }
    if done.contains(file) {
        return None;
    }
    way.push(file.to_owned());
    let found =
        uses.get(file).into_iter().flat_map(BTreeMap::keys).find_map(|next| walk(next, uses, way, done));
    way.pop();
    done.insert(file.to_owned());
    found
}

/// A message for each folder with a circle, in a module and below it, with the paths of the circle.
fn faults(modules: &Modules, within: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, uses) in modules.uses(within) {
        let Some(circle) = circle(&uses) else { continue };
        let mut fault = format!("src/{}: {}", folder.join("/"), circle.join(" -> "));
        for pair in circle.windows(2) {
            let paths: Vec<_> = uses[&pair[0]][&pair[1]].iter().map(String::as_str).collect();
            fault += &format!("\n    {} -> {}: {}", pair[0], pair[1], paths.join(", "));
        }
        faults.push(fault);
    }
    faults
}

#[test]
fn files_of_a_folder_have_an_order() {
    let modules = Modules::new(source_texts().into_iter().map(|source| (source.path, source.code)));
    let mut found = Vec::new();
    for folder in ORDERED {
        let uses = modules.uses(folder);
        let seen: usize = uses.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        assert!(seen > 1, "only {seen} uses between the files of src/{folder} seen");
        found.extend(faults(&modules, folder));
    }
    assert!(found.is_empty(), "files use each other in a circle:\n{}", found.join("\n"));
}

#[test]
fn a_circle_of_files_is_found() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let sources = files.iter().map(|(path, text)| (format!("src/{path}"), code(text)));
        let faults = faults(&Modules::new(sources), "pool");
        let first: Vec<_> = faults.iter().map(|fault| fault.lines().next().unwrap()).collect();
        assert_eq!(first, expected, "{faults:#?}");
    };
    let head =
        ("pool/mod.rs", "mod pick;\nmod lease;\npub use lease::{Lease, Seat as Place};\nuse pick::Pick;\n");
    // The head uses its children, and they use its items.
    check(&[head, ("pool/pick.rs", "use super::Pool;"), ("pool/lease.rs", "use super::Pool;")], &[]);
    check(&[head, ("pool/pick.rs", "use super::lease::Lease;"), ("pool/lease.rs", "use super::Pool;")], &[]);
    let found = ["src/pool: lease -> pick -> lease"];
    let back = ("pool/lease.rs", "fn f() { super::pick::now(); }");
    for uses in [
        "use super::lease::Lease;",
        "use crate::pool::{Pool, lease::Lease};",
        "use super::Lease;",
        "type P = crate::pool::Place;",
    ] {
        check(&[head, back, ("pool/pick.rs", uses)], &found);
    }
    // Comments, tests and other modules do not count.
    for uses in [
        "// use super::lease::Lease;",
        "#[cfg(test)]\nmod tests {\n    use super::super::lease::Lease;\n}",
        "use crate::lease::Lease;",
    ] {
        check(&[head, back, ("pool/pick.rs", uses)], &[]);
    }
    // Over three files, and in a folder below.
    check(
        &[
            ("pool/probe/mod.rs", "mod a; mod b; mod c;"),
            ("pool/probe/a.rs", "use super::b;"),
            ("pool/probe/b.rs", "use crate::pool::probe::c::X;"),
            ("pool/probe/c.rs", "use crate::{sys, pool::probe::a::Y};"),
        ],
        &["src/pool/probe: a -> b -> c -> a"],
    );
    // A file of a folder counts as the folder.
    check(
        &[
            ("pool/mod.rs", "mod probe; mod pick;"),
            ("pool/probe/mod.rs", "mod tls;"),
            ("pool/probe/tls.rs", "use super::super::pick::Pick;"),
            ("pool/pick.rs", "use super::probe::Probe;"),
        ],
        &["src/pool: pick -> probe -> pick"],
    );
}
