//! A guard over the length of functions.

use crate::tidy_paths::{code, source_texts};

/// The most lines of code of a function, from its name to its closing brace.
const LONGEST: usize = 45;

/// The modules with this bound.
const SHORT: [&str; 1] = ["conn"];

/// The functions of a code, with their lines that are neither blank nor comments. A closure is part of its function.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let is_of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(is_of_word) {
            continue;
        }
        let rest = &code[at + 3..];
        let name = &rest[..rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len())];
        if !name.is_empty()
            && let Some(end) = end_of_body(rest)
        {
            functions.push((name, rest[..end].lines().filter(|line| !line.trim().is_empty()).count()));
        }
    }
    functions
}

/// The place behind the body that follows a name. A function of a trait may have none.
fn end_of_body(text: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' if braces <= 1 => return Some(at + 1),
            '}' => braces -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn functions_are_short() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for source in source_texts() {
        let functions = functions(&source.code);
        seen += functions.len();
        if SHORT.iter().any(|module| source.path.starts_with(&format!("src/{module}/"))) {
            let long = functions.iter().filter(|(_, lines)| *lines > LONGEST);
            faults.extend(long.map(|(name, lines)| format!("{}: {name}: {lines} lines", source.path)));
        }
    }
    assert!(seen > 2000, "only {seen} functions seen");
    assert!(faults.is_empty(), "a function has at most {LONGEST} lines of code:\n{}", faults.join("\n"));
}

#[test]
fn functions_and_their_lines_are_counted() {
    let text = "impl A {\n    fn one(&self) -> u8 { 1 }\n\n    /// Two.\n    pub async fn two<T>(\n        a: [u8; 2],\n    ) \
                -> Result<(), T>\n    where\n        T: Fn(u8) -> u8,\n    {\n        // Why.\n        let brace = '{';\n\n        \
                call(|| {\n            \"}\"\n        })\n    }\n}\ntrait B {\n    fn none(&self) -> [u8; 4];\n    fn last() {}\n}\n";
    assert_eq!(functions(&code(text)), [("one", 1), ("two", 11), ("last", 1)], "{text}");
    let long = format!("fn long() {{\n{}}}\n", "    call();\n".repeat(LONGEST));
    assert_eq!(functions(&code(&long)), [("long", LONGEST + 2)]);
}
