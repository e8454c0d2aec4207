//! Checks of the language of the source: names of types, and the words of comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// The most files in which a type of one name may be.
const HOMONYMS: usize = 2;

/// The most folders in which a file of one name may be; `mod.rs` and `tests.rs` are in each.
const NAMESAKES: usize = 3;

/// Words at the start of a doc comment that make a clause of it, where a noun or a verb should be.
const CLAUSES: [&str; 7] = ["What", "Whether", "Who", "Whom", "How", "Why", "When"];

/// Words that hide the subject of a sentence.
const UNWANTED_WORDS: [&str; 6] = ["whom", "whoever", "somebody", "nobody", "anybody", "everybody"];

/// The folders of the repository that contain Rust code.
const FOLDERS: [&str; 4] = ["src", "benches", "tests", "fuzz"];

/// Returns the files of the program by their names, which begin with `src/`.
fn sources() -> BTreeMap<String, String> {
    let sources = files_of(&["src"]);
    assert!(sources.len() > 250, "only {} files", sources.len());
    sources
}

/// Returns the files of Rust code in these folders of the repository, by their names.
fn files_of(folders: &[&str]) -> BTreeMap<String, String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut rest: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut sources = BTreeMap::new();
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            sources.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    sources
}

/// Returns the name of the type that a line of code defines. Types inside inline modules count. A `type` inside a block
/// is the associated type of a trait, and does not count.
fn defined_type(line: &str) -> Option<&str> {
    let is_outermost = !line.starts_with(' ');
    let mut line = line.trim_start();
    for visibility in ["pub(crate) ", "pub(super) ", "pub "] {
        line = line.strip_prefix(visibility).unwrap_or(line);
    }
    let words = ["struct ", "enum ", "trait ", "union ", "type "];
    let words = if is_outermost { &words[..] } else { &words[..4] };
    let rest = words.iter().find_map(|word| line.strip_prefix(word))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// Returns the text of a line that is a comment.
fn comment(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//")
}

/// Returns the words of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
}

#[test]
fn a_type_name_is_in_at_most_two_modules() {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources() {
        for defined in text.lines().filter_map(defined_type) {
            files.entry(defined.to_owned()).or_default().insert(name.clone());
        }
    }
    assert!(files.len() > 500, "only {} types seen", files.len());
    let faults: Vec<_> = files.iter().filter(|(_, files)| files.len() > HOMONYMS).collect();
    assert!(faults.is_empty(), "qualify these names by a noun of docs/glossary.md: {faults:#?}");
}

#[test]
fn a_file_name_is_in_at_most_three_folders() {
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in sources().into_keys() {
        let (folder, file) = name.rsplit_once('/').unwrap();
        if !["mod.rs", "tests.rs"].contains(&file) {
            folders.entry(file.to_owned()).or_default().insert(folder.to_owned());
        }
    }
    assert!(folders.len() > 150, "only {} names seen", folders.len());
    let faults: Vec<_> = folders.iter().filter(|(_, folders)| folders.len() > NAMESAKES).collect();
    assert!(faults.is_empty(), "name these files by what they hold: {faults:#?}");
}

#[test]
fn a_module_with_a_folder_has_its_head_there() {
    let sources = sources();
    let folders: BTreeSet<_> = sources.keys().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
    let faults: Vec<_> =
        sources.keys().filter(|name| folders.contains(name.trim_end_matches(".rs"))).collect();
    assert!(folders.len() > 20, "{folders:?}");
    assert!(faults.is_empty(), "the head of a folder is its mod.rs: {faults:#?}");
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    let (mut faults, mut seen) = (Vec::new(), BTreeMap::new());
    for (name, text) in files_of(&FOLDERS) {
        let folder = name.split('/').next().unwrap().to_owned();
        for (number, line) in text.lines().enumerate() {
            let Some(doc) = comment(line).and_then(|text| text.strip_prefix(['/', '!'])) else { continue };
            *seen.entry(folder.clone()).or_insert(0) += 1;
            let first = doc.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            if CLAUSES.contains(&first) {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(seen["src"] > 3000 && FOLDERS.iter().all(|folder| seen[*folder] > 20), "{seen:?}");
    assert!(faults.is_empty(), "{} doc comments: {faults:#?}", faults.len());
}

#[test]
fn comments_use_plain_words() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (name, text) in files_of(&FOLDERS) {
        for (number, line) in text.lines().enumerate() {
            let Some(text) = comment(line) else { continue };
            seen += 1;
            if words(text)
                .any(|word| UNWANTED_WORDS.iter().any(|unwanted| word.eq_ignore_ascii_case(unwanted)))
            {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(seen > 5000, "only {seen} lines seen");
    assert!(faults.is_empty(), "{} comments use the words {UNWANTED_WORDS:?}: {faults:#?}", faults.len());
}

#[test]
fn types_and_comments_are_found() {
    assert_eq!(defined_type("pub(super) struct Waiter {"), Some("Waiter"));
    assert_eq!(defined_type("enum FlowStage {"), Some("FlowStage"));
    assert_eq!(defined_type("pub trait Words: Copy {"), Some("Words"));
    assert_eq!(defined_type("    type Target = Pipe;"), None);
    assert_eq!(defined_type("    struct SocketFolder(PathBuf);"), Some("SocketFolder"));
    assert_eq!(defined_type("pub fn struct_of() {"), None);
    assert_eq!(comment("    /// The waiters."), Some("/ The waiters."));
    assert_eq!(comment("let url = 1;"), None);
}
