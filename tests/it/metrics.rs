//! What a scrape gives: in which form, how much of it, and whether it says what happened.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use flate2::read::GzDecoder;
use pointsman::relay::EngineChoice;

use crate::support::{Backend, PATIENCE, Proxy, tcp};

/// The head and the body of the answer to a request for `/metrics` with these header lines.
fn scrape(address: SocketAddr, method: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

#[test]
fn a_page_is_compressed_for_those_who_take_it() {
    let backend = Backend::echo();
    let (_proxy, address) = Proxy::start_with_admin(tcp(&[backend.address], EngineChoice::Auto));
    let (plain_head, plain) = scrape(address, "GET", "");
    let (head, body) = scrape(address, "GET", "Accept-Encoding: gzip;q=0.9, identity\r\n");
    assert!(!plain_head.contains("content-encoding"), "{plain_head}");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    for head in [&plain_head, &head] {
        assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
    }
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    assert!(body.len() * 4 < text.len(), "{} of {}", body.len(), text.len());
    // The families come in any order.
    let names = |text: &str| {
        let mut names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert!(names(&text) == names(std::str::from_utf8(&plain).unwrap()), "{text}");
    let (head, body) = scrape(address, "HEAD", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n") && body.is_empty(), "{head}");
    let (head, _) = scrape(address, "GET", "Accept-Encoding: gzip;q=0\r\n");
    assert!(!head.contains("content-encoding"), "{head}");
}
