//! Files with routes: any text is parsed, always with the same result, or refused with faults that can be shown.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pointsman::config::{self, RoutesReader};

const CONFIGURATION: &str = r#"
    [listener.tls]
    bind = "127.0.0.1:443"
    protocol = "tls"
    routes = [{ sni = "written.example.com", pool = "mail" }]
    routes_file = "routes.toml"

    [listener.tcp]
    bind = "127.0.0.1:5432"
    pool = "db"
    routes_file = "others.toml"

    [pool.mail]
    backends = ["10.0.0.1:443"]
    [pool.db]
    backends = ["10.0.0.1:5432"]
"#;

static READERS: LazyLock<Vec<RoutesReader>> = LazyLock::new(|| {
    let (config, _) = config::parse("fuzz.toml", CONFIGURATION).expect("it is right");
    RoutesReader::all(&config)
});

fuzz_target!(|text: &str| {
    assert_eq!(READERS.len(), 2);
    for reader in &*READERS {
        let answer = reader.parse(text);
        assert_eq!(reader.parse(text), answer);
        if let Err(faults) = answer {
            assert!(!faults.diagnostics().is_empty() && !faults.to_string().is_empty());
        }
    }
});
