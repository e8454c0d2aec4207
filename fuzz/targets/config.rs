//! Configurations: any text is parsed, always with the same result, or refused with faults that can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::config;

fuzz_target!(|text: &str| {
    let answer = config::parse("fuzz.toml", text);
    assert_eq!(config::parse("fuzz.toml", text), answer);
    match answer {
        Ok((_, warnings)) => check_shown(&warnings.render(true)),
        Err(faults) => {
            assert!(!faults.diagnostics().is_empty());
            check_shown(&faults.to_string());
        }
    }
});

/// Checks text for a terminal: control sequences in a file must not reach it.
fn check_shown(text: &str) {
    let colors = text.replace("\x1b[", "");
    assert!(!colors.contains('\x1b'), "{colors:?}");
}
