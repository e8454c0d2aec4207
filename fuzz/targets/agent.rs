//! Lines of health agents: the meaning of a line does not depend on the bytes after it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::agent::{AgentDirective, LONGEST_LINE, read};
use pointsman_fuzz::endlessly;

fuzz_target!(|bytes: &[u8]| {
    let answer = pointsman_fuzz::read(bytes, &Ok(None), || read);
    if let Ok(Some(words)) = answer {
        assert!((1..=LONGEST_LINE).contains(&words.len()));
        assert!(words.iter().all(|word| !matches!(word, AgentDirective::Share(share) if *share > 100)));
    }
    if !bytes.is_empty() {
        assert_ne!(read(&endlessly(bytes, LONGEST_LINE)), Ok(None), "it must come to an end");
    }
});
