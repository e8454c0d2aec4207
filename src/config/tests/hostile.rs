//! Tests that no text makes the reader panic, and that every fault has its position in the text.

use proptest::prelude::*;

use super::*;

fn fragment() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "\"",
        "'",
        "'''",
        "=",
        ",",
        ".",
        "\n",
        "\r\n",
        "#",
        "\\",
        "\u{0}",
        "é",
        "\u{feff}",
        "𝄞",
        "-1",
        "0x",
        "1979-05-27",
        "pool",
        "listener",
        "[listener.tls]\n",
        "[pool]\n",
        "[[pool.db]]\n",
        "bind = 1\n",
        "bind.x = 1\n",
        "\"\\u001b\"",
        "pool = \"db\"\n",
        "nan",
        "1e999",
        "''' = 1",
    ]);
    token.prop_map(str::to_owned)
}

/// Replaces a piece of a text with a fragment.
fn mutate(text: &mut String, at: usize, cut: usize, fragment: &str) {
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(at % (text.len() + 1));
    let end = boundary((start + cut).min(text.len())).max(start);
    text.replace_range(start..end, fragment);
}

/// A text to change, that with every key or the example, and the changes.
fn changes() -> impl Strategy<Value = (bool, Vec<(prop::sample::Index, usize, String)>)> {
    (any::<bool>(), prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, fragment()), 1..6))
}

/// Reads a changed text, and checks that the place of each fault is in it.
fn check_changed(
    is_full: bool,
    changes: Vec<(prop::sample::Index, usize, String)>,
) -> Result<(), TestCaseError> {
    let mut text = if is_full { example_with_every_key() } else { EXAMPLE.to_owned() };
    for (at, cut, fragment) in changes {
        let at = at.index(text.len() + 1);
        mutate(&mut text, at, cut, &fragment);
    }
    for diagnostic in diagnostics(&text) {
        for label in &diagnostic.labels {
            prop_assert!(label.span.start <= label.span.end && label.span.end <= text.len());
        }
    }
    if let Err(faults) = parse("test.toml", &text) {
        prop_assert!(!faults.diagnostics().is_empty());
        prop_assert!(faults.render(true).len() > faults.render(false).len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// For each text, reading and rendering end without a panic.
    #[test]
    fn some_texts_do_not_panic((is_full, changes) in changes()) {
        check_changed(is_full, changes)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// For any text, reading and rendering end without a panic, and every position is in the text.
    #[test]
    #[ignore = "takes long in a debug build"]
    fn no_text_panics((is_full, changes) in changes()) {
        check_changed(is_full, changes)?;
    }
}

#[test]
fn deep_nesting_is_only_a_fault() {
    for (open, close) in [("a.", "b = 1"), ("a = [", ""), ("a = {a=", ""), ("[a.", "b]"), ("[[a.", "b]]")] {
        let text = open.repeat(100_000) + close;
        assert!(!diagnostics(&text).is_empty());
    }
}
