//! Answers of servers to health checks of every kind. Each dialogue ends, and its end does not depend on how
//! the answer is cut. A hello that we send can be read as a hello.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pointsman::wire::dialogue::{BodyMatch, HttpScript, MOST_BODY, MOST_HEARD, ScriptStep};
use pointsman::wire::{Dialogue, DialogueFault, DialogueStep, HelloReader, Script, ServerName};
use pointsman_fuzz::{endlessly, pieces};

static SCRIPTS: LazyLock<Vec<Script>> = LazyLock::new(|| {
    let [expect, send, refuse] = [ScriptStep::Expect, ScriptStep::Send, ScriptStep::Refuse]
        .map(|step| move |bytes: &[u8]| step(bytes.into()));
    vec![
        Script::Tls { server_name: None },
        Script::SendExpect(
            [expect(b"220"), send(b"a"), send(b"b"), expect(b"aa"), expect(b"\n"), send(b"c")].into(),
        ),
        Script::SendExpect([expect(b"a"), refuse(b"bad"), refuse(b"b"), expect(b"c"), refuse(b"d")].into()),
        Script::Http(Arc::default()),
        Script::Http(Arc::new(HttpScript {
            body: Some(BodyMatch::Contains(b"ok"[..].into())),
            ..HttpScript::default()
        })),
        Script::Postgres { user: None },
        Script::Postgres { user: Some("u".into()) },
        Script::Mysql { user: None },
        Script::Mysql { user: Some("u".into()) },
        Script::Redis,
        Script::Smtp,
        Script::Mqtt,
        Script::Ssh,
    ]
});

fuzz_target!(|bytes: &[u8]| {
    for script in &*SCRIPTS {
        let at_once = outcome(script, [bytes]);
        assert_eq!(outcome(script, bytes.chunks(1)), at_once, "{script:?}");
        assert_eq!(outcome(script, pieces(bytes)), at_once, "{script:?}");
    }
    // Endless input takes longer than the rest, so it is tried with one script only.
    if let Some(&first) = bytes.first() {
        let script = &SCRIPTS[usize::from(first) % SCRIPTS.len()];
        let endless = endlessly(bytes, MOST_HEARD + MOST_BODY + 1);
        assert!(outcome(script, endless.chunks(1000)).1.is_some(), "{script:?} must come to an end");
    }
    if let Ok(name) = ServerName::from_client(bytes) {
        check_hello(name, bytes);
    }
});

/// Returns all that was sent, and the end; `None` if the server must send more.
fn outcome<'a>(
    script: &Script,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Result<(), DialogueFault>>) {
    let mut dialogue = Dialogue::new(script, "10.0.0.1:1", &[7; 64]);
    let mut pieces = pieces.into_iter();
    let mut sent = Vec::new();
    let end = loop {
        assert!(dialogue.heard().len() <= MOST_HEARD + MOST_BODY);
        match dialogue.go_on() {
            Ok(DialogueStep::Send(bytes)) => {
                assert!(!bytes.is_empty());
                sent.extend_from_slice(&bytes);
            }
            Ok(DialogueStep::Read) => match pieces.next() {
                Some(piece) => dialogue.receive(piece),
                None => break None,
            },
            Ok(DialogueStep::Listen) => match pieces.next() {
                Some(piece) => dialogue.receive(piece),
                None => dialogue.silent(),
            },
            Ok(DialogueStep::Done) => break Some(Ok(())),
            Err(fault) => break Some(Err(fault)),
        }
    };
    assert_eq!(dialogue.is_alive(), end == Some(Ok(())));
    (sent, end)
}

fn check_hello(name: ServerName, bytes: &[u8]) {
    let random = std::array::from_fn(|at| bytes[at % bytes.len()]);
    let script = Script::Tls { server_name: Some(name.clone()) };
    let Ok(DialogueStep::Send(hello)) = Dialogue::new(&script, "10.0.0.1:1", &random).go_on() else {
        panic!("the client sends first")
    };
    let read = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&hello);
    assert_eq!(read.map(|read| read.and_then(|read| read.server_name)), Ok(Some(name)));
}
