//! Bytes and ends, with splice forced on and off.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use pointsman::relay::EngineChoice;

use crate::support::{Backend, Proxy, pattern};

/// Runs a test with each engine.
fn with_each_engine(test: impl Fn(EngineChoice)) {
    for engine in [EngineChoice::Copy, EngineChoice::Splice, EngineChoice::Auto] {
        test(engine);
    }
}

#[test]
fn a_small_message_comes_back() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[backend.address], engine);
        let mut client = proxy.connect();
        for round in 0..3 {
            let message = format!("hello {round}");
            client.write_all(message.as_bytes()).unwrap();
            let mut answer = vec![0; message.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, message.as_bytes());
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        proxy.wait_for_metric(
            r#"pointsman_connections_closed_total{listener="main",reason="client_fin"}"#,
            1.0,
        );
    });
}

#[test]
fn much_comes_back_unchanged() {
    with_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::tcp(&[backend.address], engine);
        let mut client = proxy.connect();
        let sent = pattern(32 << 20, 42);
        let mut writer = client.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
    });
}
