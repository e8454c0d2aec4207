//! Checks of the documentation: its generated parts, its links, the summary of the book and its language.
//!
//! Generated parts are between two comments in a page. `UPDATE=1 cargo test --test it tidy` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use pointsman::telemetry::{close_reason, metrics};

use crate::reference::configuration;

/// The most lines of the front page.
const README_LINES: usize = 150;

/// Words that hide the subject of a sentence.
const UNWANTED_WORDS: [&str; 6] = ["whom", "whoever", "somebody", "nobody", "anybody", "everybody"];

/// Files and folders that must not have these words.
const PLAIN: [&str; 7] =
    ["README.md", "docs", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "dist", "examples"];

/// Texts in these files that are quoted, such as those of a license.
const QUOTED: [&str; 1] = ["persons to whom the Software is"];

/// Files and folders whose mentions of `docs/...` must exist.
const MENTIONING: [&str; 15] = [
    ".ci",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
    "SECURITY.md",
    "benches",
    "config.example.toml",
    "config.schema.json",
    "dist",
    "docs",
    "examples",
    "src",
    "tests",
];

/// Pages outside docs/ whose links are checked, like those of docs/. A page that does not exist is skipped.
const PAGES: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// The contents of the book.
const SUMMARY: &str = "docs/SUMMARY.md";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the text files below a file or folder, by their names from the root.
fn texts(of: &str) -> BTreeMap<String, String> {
    let mut rest = vec![root().join(of)];
    let mut texts = BTreeMap::new();
    while let Some(path) = rest.pop() {
        // This is the built book.
        if path.ends_with("docs/book") {
            continue;
        }
        if path.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            texts.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text);
        }
    }
    texts
}

/// Returns the pages of the book and the pages beside it.
fn pages() -> BTreeMap<String, String> {
    let mut pages: BTreeMap<_, _> = PAGES.iter().flat_map(|name| texts(name)).collect();
    pages.extend(texts("docs").into_iter().filter(|(name, _)| name.ends_with(".md")));
    assert!(pages.len() > 25, "{:?}", pages.keys());
    pages
}

/// Returns the lines of a page outside of its blocks of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// Returns the targets of a page's links, those of images included.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(page) {
        // Text in single backticks is no link.
        let text: Vec<_> = line.split('`').step_by(2).collect();
        for part in text.join("`").split("](").skip(1) {
            links.extend(part.split_once(')').map(|(target, _)| target.to_owned()));
        }
        for attribute in ["src=\"", "href=\""] {
            links.extend(
                line.split(attribute).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
    }
    links
}

/// Returns the anchors of a page's headings, as forges and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    headings.map(anchor).collect()
}

pub(crate) fn anchor(heading: &str) -> String {
    let letters = heading.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then(|| letter.to_ascii_lowercase()),
    });
    letters.collect()
}

/// Returns the path of a link of a page, from the root, without `.` and `..`.
fn target(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => assert!(parts.pop().is_some(), "{page}: {link} leads out of the repository"),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns the reason why a link does not resolve, or `None` if it does.
fn fault(pages: &BTreeMap<String, String>, page: &str, link: &str) -> Option<String> {
    if ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme)) {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let file = if file.is_empty() { page.to_owned() } else { target(page, file) };
    if !root().join(&file).exists() {
        return Some(format!("{page}: {link}: there is no {file}"));
    }
    let text = pages.get(&file)?;
    let anchor = anchor?;
    (!anchors(text).contains(anchor)).then(|| format!("{page}: {link}: {file} has no such heading"))
}

/// Returns the mentions of files of the documentation in a text: `docs/...` with the ending of a page, a
/// schema or a plot, and its anchor.
fn mentions(text: &str) -> Vec<String> {
    let mut mentions = Vec::new();
    for (at, _) in text.match_indices("docs/") {
        let before =
            text[..at].rsplit(|c: char| c.is_whitespace() || "\"'`(<".contains(c)).next().unwrap_or("");
        // This is a part of another name, or of an address on another host.
        if before.contains("://") || before.ends_with(|c: char| c.is_alphanumeric() || "_-.".contains(c)) {
            continue;
        }
        let rest = &text[at..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_.#".contains(c))).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches(['.', '#']);
        let file = name.split('#').next().unwrap_or_default();
        if [".md", ".json", ".svg"].iter().any(|ending| file.ends_with(ending)) {
            mentions.push(name.to_owned());
        }
    }
    mentions
}

/// Panics with all faults, if there are any.
fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

/// Compares the text between two comments of a page with its current text. With UPDATE=1, writes the current
/// text there.
fn check_generated(page: &str, marker: &str, current: &str) {
    let text = read(page);
    let (open, close) = (format!("<!-- {marker} -->\n"), format!("<!-- /{marker} -->"));
    let start = text.find(&open).unwrap_or_else(|| panic!("no {open} in {page}")) + open.len();
    let length = text[start..].find(&close).unwrap_or_else(|| panic!("no {close} in {page}"));
    assert!(current.lines().count() > 5, "{marker}: {current}");
    if &text[start..start + length] == current {
        return;
    }
    assert!(
        env::var_os("UPDATE").is_some(),
        "{page}: {marker} is not current; run: UPDATE=1 cargo test --test it tidy"
    );
    fs::write(root().join(page), format!("{}{current}{}", &text[..start], &text[start + length..])).unwrap();
}

/// Returns the output of the program with these arguments: both streams, as a terminal shows them.
fn output(arguments: &[&str], directory: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = command.args(arguments).current_dir(directory).output().unwrap();
    format!("{}{}", String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Returns the help of a command and of its subcommands, each under a heading of its own.
fn help(command: &[&str], text: &mut String) {
    let help = output(&[command, &["--help"]].concat(), &root());
    let title = ["pointsman"].iter().chain(command).copied().collect::<Vec<_>>().join(" ");
    *text += &format!("## {title}\n\n```text\n{}\n```\n\n", help.trim_end());
    let below =
        help.split("\nCommands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    for line in below.lines() {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            self::help(&[command, &[name]].concat(), text);
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, and may have {README_LINES}");
}

#[test]
fn links_are_found_in_pages() {
    let page = "[a](b.md) and [c](../d.md#e), ![f](g.svg)\n```\n[no](code.md)\n```\nnot `[no](x.md)`\n<img src=\"h.svg\">\n";
    assert_eq!(links(page), ["b.md", "../d.md#e", "g.svg", "h.svg"]);
    assert_eq!(target("docs/guide/a.md", "../reference/./b.md"), "docs/reference/b.md");
    assert_eq!(anchor("Where, and how often: `a_b` (x)"), "where-and-how-often-a_b-x");
    assert_eq!(anchors("# One\n```\n# none\n```\n### Two three\n#four\n").len(), 2);
    assert_eq!(
        mentions(
            "see docs/a/b.md. include \"../../docs/c.json\" https://x/docs/d.md mydocs/e.md docs/f.md#g; docs/"
        ),
        ["docs/a/b.md", "docs/c.json", "docs/f.md#g"]
    );
}

#[test]
fn links_resolve() {
    let pages = pages();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (page, text) in &pages {
        for link in links(text) {
            seen += 1;
            faults.extend(fault(&pages, page, &link));
        }
    }
    assert!(seen > 100, "only {seen} links seen");
    assert_none(&faults, "links of the documentation lead to what is there");
}

#[test]
fn mentions_of_pages_resolve() {
    let pages = pages();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (name, text) in MENTIONING.iter().flat_map(|of| texts(of)) {
        // This file has invented mentions.
        if name == "tests/it/tidy_docs.rs" {
            continue;
        }
        for mention in mentions(&text) {
            seen += 1;
            faults.extend(fault(&pages, "", &mention).map(|fault| format!("{name}{fault}")));
        }
    }
    assert!(seen > 50, "only {seen} mentions seen");
    assert_none(&faults, "files of the documentation that are named are there");
}

#[test]
fn each_page_is_in_the_summary() {
    let summary = read(SUMMARY);
    let listed: Vec<_> = links(&summary).iter().map(|link| target(SUMMARY, link)).collect();
    let unique: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), unique.len(), "a page is listed twice in {SUMMARY}");
    let written: BTreeSet<_> =
        pages().into_keys().filter(|name| name.starts_with("docs/") && name != SUMMARY).collect();
    assert_eq!(written, unique, "the pages of docs/, and those that {SUMMARY} lists");
}

#[test]
fn pages_use_plain_words() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (name, text) in PLAIN.iter().flat_map(|of| texts(of)) {
        for (number, line) in text.lines().enumerate() {
            seen += 1;
            let line = QUOTED.iter().fold(line.to_owned(), |line, quoted| line.replace(quoted, ""));
            let is_unwanted =
                |word: &str| UNWANTED_WORDS.iter().any(|unwanted| word.eq_ignore_ascii_case(unwanted));
            if line.split(|c: char| !c.is_alphanumeric()).any(is_unwanted) {
                faults.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert!(seen > 2000, "only {seen} lines seen");
    assert_none(&faults, &format!("the documentation does not use the words {UNWANTED_WORDS:?}"));
}

/// Checks the commands in "How to repeat it" of the results: each is in a comment above a table of the method.
#[test]
fn repeated_commands_are_those_of_the_tables() {
    let results = read("docs/measured/performance.md");
    let (_, section) = results.split_once("## How to repeat it\n").expect("the section");
    let block = section.split("```").nth(1).expect("a block of commands");
    let method = read("docs/measured/performance-method.md");
    let made: BTreeSet<_> =
        method.lines().filter_map(|line| line.strip_prefix("<!-- command: ")?.strip_suffix(" -->")).collect();
    let named: Vec<_> = block.lines().filter(|line| line.contains("cargo bench")).collect();
    assert!(named.len() > 5 && made.len() > 5, "{named:?} {made:?}");
    let faults: Vec<_> =
        named.into_iter().filter(|command| !made.contains(command)).map(str::to_owned).collect();
    assert_none(&faults, "the commands of \"How to repeat it\" are in comments above tables of the method");
}

#[test]
fn generated_parts_are_current() {
    check_generated("docs/reference/close-reasons.md", "close-reasons", &close_reason::markdown_table());
    let states = close_reason::termination_table();
    check_generated("docs/reference/access-log.md", "termination-states", &states);
    check_generated("docs/reference/metrics.md", "metrics", &metrics::markdown_table());
    let schema = serde_json::from_str(&read("config.schema.json")).unwrap();
    check_generated("docs/reference/configuration.md", "configuration", &configuration(&schema));
    let mut commands = String::new();
    help(&[], &mut commands);
    check_generated("docs/reference/cli.md", "cli", &commands);
}

/// Checks that the first configuration of the README is good, and that the program prints the shown messages
/// for the shown mistakes.
#[test]
fn the_fault_in_the_readme_is_the_programs() {
    let readme = read("README.md");
    let (_, recipe) =
        readme.split_once("<!-- recipe: first -->\n```toml\n").expect("the first configuration");
    let (recipe, _) = recipe.split_once("```").unwrap();
    let (_, shown) = readme.split_once("$ pointsman check config.toml\n").expect("a check");
    let (shown, _) = shown.split_once("```").unwrap();
    let directory = env::temp_dir().join(format!("pointsman-readme-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let check = |text: &str| {
        fs::write(directory.join("config.toml"), text).unwrap();
        output(&["check", "config.toml"], &directory)
    };
    assert_eq!(check(recipe).trim_end(), "config.toml: good: 1 listener, 1 pool, 2 backends");
    let broken = recipe.replace("pool = \"mail\" }", "pool = \"mial\" }");
    assert_ne!(broken, recipe);
    assert_eq!(check(&broken).trim_end(), shown.trim_end());
    fs::remove_dir_all(directory).unwrap();
}
