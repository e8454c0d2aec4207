use super::*;

#[test]
fn http_has_a_good_status() {
    check(&http(), b"HTTP/1.1 200 OK\r\n", "alive");
    check(&http(), b"HTTP/1.1 200\r\n", "alive");
    check(&http(), b"HTTP/1.0 204 No Content\r\n", "alive");
    check(&http(), b"HTTP/1.1 399 \r\n", "alive");
    check(&http(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n", "alive");
    check(&http(), b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\n", UNEXPECTED);
    check(&http(), b"HTTP/1.1 100 Continue\r\n", "more");
    check(&http(), b"HTTP/1.1 20", "more");
    check(&http(), b"HTTP/1.1 101 Switching Protocols\r\n\r\n", UNEXPECTED);
    for status in ["400", "404", "500", "503", "999", "099"] {
        check(&http(), format!("HTTP/1.1 {status} x\r\n").as_bytes(), UNEXPECTED);
    }
    check(&http(), b"HTTP/1.1 2000 x\r\n", UNEXPECTED);
    check(&http(), b"HTTP/1.x 200 x\r\n", UNEXPECTED);
    check(&http(), b"HTTP/2.0 200 x\r\n", UNEXPECTED);
    check(&http(), b"<html>", UNEXPECTED);
    check(
        &http(),
        &b"HTTP/1.1 100 x\r\n\r\n".repeat(1000),
        "more than 16384 bytes without the expected answer",
    );
}

#[test]
fn http_asks_for_path_and_host() {
    let request = |script: &Script| String::from_utf8(sent(script, b"")).unwrap();
    assert!(request(&http()).starts_with("GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n"));
    let script = HttpScript {
        path: "/up?deep=1".into(),
        host: Some("www.example.com".into()),
        ..HttpScript::default()
    };
    let script = Script::Http(script.into());
    assert!(request(&script).starts_with("GET /up?deep=1 HTTP/1.1\r\nHost: www.example.com\r\n"));
    assert!(request(&script).ends_with("\r\nConnection: close\r\n\r\n"));
    let script = HttpScript {
        method: "POST".into(),
        headers: vec![("accept".into(), "text/plain".into()), ("X-A".into(), "b c".into())],
        ..HttpScript::default()
    };
    assert_eq!(
        request(&Script::Http(script.into())),
        "POST / HTTP/1.1\r\nHost: 10.0.0.1:80\r\nUser-Agent: pointsman\r\nConnection: close\r\n\
         Content-Length: 0\r\naccept: text/plain\r\nX-A: b c\r\n\r\n"
    );
}

#[test]
fn http_heads_may_end_in_bare_line_feeds() {
    let contains = http_body(BodyMatch::Contains(b"role=primary"[..].into()));
    check(&contains, b"HTTP/1.1 200 OK\nServer: x\n\nrole=primary", "alive");
    check(&contains, b"HTTP/1.1 200 OK\r\nServer: x\n\r\nrole=primary", "alive");
    check(&contains, b"HTTP/1.1 200 OK\nContent-Length: 12\n\nrole=primary", "alive");
    check(&contains, b"HTTP/1.1 200 OK\nContent-Length: 3\n\nrole=primary", UNEXPECTED);
    check(&contains, b"HTTP/1.1 100 x\n\nHTTP/1.1 200 x\n\nrole=primary", "alive");
}

#[test]
fn http_statuses_are_expected() {
    let expecting = |expect: &[std::ops::RangeInclusive<u16>]| {
        Script::Http(HttpScript { expect: expect.into(), ..HttpScript::default() }.into())
    };
    let vault = expecting(&[200..=200, 429..=429, 472..=473]);
    for status in ["200", "429", "473"] {
        check(&vault, format!("HTTP/1.1 {status} x\r\n").as_bytes(), "alive");
    }
    for status in ["201", "301", "428", "474", "503"] {
        check(&vault, format!("HTTP/1.1 {status} x\r\n").as_bytes(), UNEXPECTED);
    }
    check(&expecting(&[503..=503]), b"HTTP/1.0 503 no\r\n", "alive");
}

#[test]
fn http_bodies_are_searched() {
    let contains = http_body(BodyMatch::Contains(b"role=primary"[..].into()));
    let matches = http_body(BodyMatch::Matches(BytePattern::new(r"^ok( |$)").unwrap()));
    let with = |head: &str, body: &[u8]| [b"HTTP/1.1 200 OK\r\n", head.as_bytes(), b"\r\n", body].concat();
    // The match counts at once, before the rest of the body.
    check(&contains, &with("", b"x role=primary"), "alive");
    check(&contains, &with("", b"x role=replica"), "more");
    assert_eq!(end_at_close(&contains, &with("", b"x role=replica")), UNEXPECTED);
    check(&contains, &with("content-length: 12\r\n", b"role=primary"), "alive");
    check(&contains, &with("Content-Length: 5\r\n", b"role=primary"), UNEXPECTED);
    check(&contains, &with("Content-Length: x\r\n", b"role=primary"), UNEXPECTED);
    check(&contains, &with("Content-Length: 0\r\n", b""), UNEXPECTED);
    // The chunks are cut inside the expected text.
    let chunked = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
    check(&contains, &with(chunked, b"5;a=b\r\nrole=\r\n7\r\nprimary\r\n0\r\n\r\n"), "alive");
    check(&contains, &with(chunked, b"5\r\nrole=\r\n0\r\n\r\n"), UNEXPECTED);
    check(&contains, &with(chunked, b"5\r\nrole=xx"), UNEXPECTED);
    check(&contains, &with(chunked, b"role=primary\r\n"), UNEXPECTED);
    assert_eq!(end_at_close(&contains, &with(chunked, b"ff\r\nrole=")), "closed before it answered");
    // A pattern is tried at the end.
    check(&matches, &with("", b"ok"), "more");
    assert_eq!(end_at_close(&matches, &with("", b"ok")), "alive");
    check(&matches, &with("Content-Length: 2\r\n", b"okay"), "alive");
    check(&matches, &with("Content-Length: 4\r\n", b"okay"), UNEXPECTED);
    check(&matches, &with("", &[b"ok ", &[b'x'; MOST_BODY][..]].concat()), "alive");
    check(&contains, &with("", &[b'x'; MOST_BODY]), UNEXPECTED);
    check(&contains, &[b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'x'; MOST_HEARD]].concat(), ENDLESS);
    check(&contains, b"HTTP/1.1 204 x\r\n\r\nrole=primary", UNEXPECTED);
    check(&contains, b"HTTP/1.1 503 x\r\n\r\nrole=primary", UNEXPECTED);
    check(&contains, b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 x\r\n\r\nrole=primary", "alive");
}
