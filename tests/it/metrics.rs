//! What a scrape gives: in which form, how much of it, and whether it says what happened.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use flate2::read::GzDecoder;
use pointsman::relay::EngineChoice;

use crate::support::{Backend, PATIENCE, Proxy, config, tcp};

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
    assert!(body.len() * 3 < text.len(), "{} of {}", body.len(), text.len());
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

/// A configuration with 20 listeners, half of them for TLS, and as many pools with 50 checked backends each.
fn large() -> String {
    let mut text = String::from("access_log.to = \"off\"\n");
    for at in 0..20 {
        let protocol = if at % 2 == 0 {
            format!("protocol = \"tls\"\nunmatched = \"p{at}\"")
        } else {
            format!("pool = \"p{at}\"")
        };
        let backends: Vec<_> = (1..=50).map(|backend| format!("\"127.0.{at}.{backend}:9\"")).collect();
        let backends = backends.join(", ");
        _ = write!(
            text,
            "[listener.l{at}]\nbind = \"127.0.0.1:0\"\n{protocol}\n\
             [pool.p{at}]\nbackends = [{backends}]\nhealth = {{ interval = \"1h\" }}\n"
        );
    }
    text
}

/// How many samples each family has.
fn counted(page: &[u8]) -> BTreeMap<String, usize> {
    let text = std::str::from_utf8(page).unwrap();
    let mut families = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        *families.entry(line.split(['{', ' ']).next().unwrap().to_owned()).or_default() += 1;
    }
    families
}

/// With a series for each state of each backend and for each reason of each listener there were 26,271.
#[test]
fn a_thousand_backends_have_a_bounded_number_of_series() {
    let (_proxy, address) = Proxy::start_with_admin(config(&large()));
    let (_, page) = scrape(address, "GET", "");
    let families = counted(&page);
    assert_eq!(families["pointsman_backend_up"], 1000);
    assert_eq!(families["pointsman_backend_state"], 1000);
    let of_backends =
        families.iter().filter(|(_, count)| **count >= 1000).map(|(_, count)| count).sum::<usize>();
    let all = families.values().sum::<usize>();
    assert!(of_backends <= 12_500, "{of_backends} of backends: {families:#?}");
    assert!(all <= 15_000, "{all} in all: {families:#?}");
}
