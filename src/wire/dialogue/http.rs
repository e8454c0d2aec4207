//! HTTP/1.1: one request, and the status of its answer; the body is read only if an expectation is configured for it.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::body::{Body, Framing};
use super::pattern::BytePattern;
use super::{ALIVE, DialogueFault, DialogueReply, MORE, MOST_HEARD, ServerEnd, may_begin};

const VERSION: &[u8] = b"HTTP/1.";

/// The length of the needed part of a status line: the version and a space, three digits, and the byte after them.
const STATUS_LINE: usize = VERSION.len() + 2 + 3 + 1;

/// The request of an HTTP check, and its expected answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpScript {
    /// The method, such as `GET`.
    pub method: Arc<str>,
    /// The path of the request; begins with a slash.
    pub path: Arc<str>,
    /// The `Host` header; with `None` it is the address of the server.
    pub host: Option<Arc<str>>,
    /// Further headers, in this order. They replace default headers of the same name.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// The statuses that count as alive.
    pub expect: Vec<RangeInclusive<u16>>,
    /// The expected content of the body, if any.
    pub body: Option<BodyMatch>,
}

/// The expected content of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMatch {
    /// The body contains these bytes.
    Contains(Arc<[u8]>),
    /// The body matches this pattern.
    Matches(BytePattern),
}

impl Default for HttpScript {
    /// Returns a request `GET /` that expects a status from 200 to 399.
    fn default() -> Self {
        Self {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            headers: Vec::new(),
            expect: vec![200..=399],
            body: None,
        }
    }
}

impl HttpScript {
    /// Returns the bytes of the request.
    pub(super) fn request(&self, authority: &str) -> Vec<u8> {
        let host = self.host.as_deref().unwrap_or(authority);
        let mut request = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.path);
        let is_given = |name: &str| self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        // A method that may have a body needs an explicit length of 0.
        let length = ("Content-Length", "0");
        let has_body = !["GET", "HEAD", "OPTIONS", "DELETE"].contains(&&*self.method);
        let own = [("User-Agent", "pointsman"), ("Accept", "*/*"), ("Connection", "close")];
        let own = own.into_iter().chain(has_body.then_some(length)).filter(|(name, _)| !is_given(name));
        let given = self.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, value) in own.chain(given) {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        request.into_bytes()
    }

    fn expects(&self, status: u16) -> bool {
        self.expect.iter().any(|range| range.contains(&status))
    }
}

/// The state of a request.
#[derive(Clone, Debug)]
pub(super) struct HttpState {
    script: Arc<HttpScript>,
    head: HeadSearch,
    /// The body, once the head is read.
    body: Option<Body>,
}

impl HttpState {
    pub(super) fn new(script: Arc<HttpScript>) -> Self {
        Self { script, head: HeadSearch::default(), body: None }
    }

    pub(super) fn receive(
        &mut self,
        received: &[u8],
        end: Option<ServerEnd>,
    ) -> Result<DialogueReply, DialogueFault> {
        if let Some(body) = &mut self.body {
            return body.receive(received, end);
        }
        let Some(status) = status(received)? else { return Ok(MORE) };
        match status {
            // Other 1xx statuses come before the answer itself; after 101 the protocol is not HTTP.
            101 => return Err(DialogueFault::Unexpected),
            100..=199 => return Ok(DialogueReply::Read { used: self.head.end(received).unwrap_or(0) }),
            _ if !self.script.expects(status) => return Err(DialogueFault::Unexpected),
            _ => {}
        }
        let Some(expected) = &self.script.body else { return Ok(ALIVE) };
        let Some(used) = self.head.end(received) else {
            return if received.len() < MOST_HEARD { Ok(MORE) } else { Err(DialogueFault::Endless) };
        };
        let framing = match status {
            // Answers with these statuses have no body (RFC 9110, sections 15.3.5 and 15.4.5).
            204 | 304 => Framing::Length(0),
            _ => Framing::of_head(&received[..used])?,
        };
        self.body = Some(Body::new(expected.clone(), framing));
        Ok(DialogueReply::Read { used })
    }

    /// Returns the received part of the body, if it is not empty.
    pub(super) fn body(&self) -> Option<&[u8]> {
        self.body.as_ref().map(Body::received).filter(|body| !body.is_empty())
    }
}

/// Returns the status, once it is whole.
fn status(received: &[u8]) -> Result<Option<u16>, DialogueFault> {
    if !may_begin(received, VERSION) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(&[minor, b' ', a, b, c, end]) =
        received.get(VERSION.len()..STATUS_LINE).and_then(|rest| rest.first_chunk::<6>())
    else {
        return if received.len() < STATUS_LINE { Ok(None) } else { Err(DialogueFault::Unexpected) };
    };
    let digits = [a, b, c];
    let is_status = minor.is_ascii_digit()
        && digits.iter().all(u8::is_ascii_digit)
        && matches!(end, b' ' | b'\r' | b'\n');
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'.min(*digit)));
    if is_status { Ok(Some(status)) } else { Err(DialogueFault::Unexpected) }
}

/// Finds the end of a head that arrives in pieces. Each byte is read once, except the last two before each piece.
#[derive(Clone, Debug, Default)]
struct HeadSearch {
    /// No end begins before this byte.
    searched: usize,
}

impl HeadSearch {
    /// Returns the length of a head, including the empty line that ends it; `None` if more bytes must come. `received`
    /// begins with the bytes of the call before, unless that call found an end. A line may end in a bare line feed
    /// (RFC 9112, section 2.2).
    fn end(&mut self, received: &[u8]) -> Option<usize> {
        let from = std::mem::replace(&mut self.searched, received.len().saturating_sub(2));
        let mut line_feeds = (from..received.len()).filter(|&at| received[at] == b'\n');
        let end = line_feeds.find_map(|at| match received[at + 1..] {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        });
        if end.is_some() {
            self.searched = 0;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_where_its_empty_line_does_however_it_is_cut() {
        for (head, rest) in
            [("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "x"), ("HTTP/1.1 200 OK\n\n", "\r\n\r\n"), ("a\n\r\n", "")]
        {
            let bytes = [head, rest].concat().into_bytes();
            let mut search = HeadSearch::default();
            let cuts = (0..=bytes.len()).find_map(|cut| search.end(&bytes[..cut]));
            assert_eq!((cuts, search.searched), (Some(head.len()), 0), "{head:?}");
            for cut in 0..bytes.len() {
                let mut search = HeadSearch::default();
                let end = search.end(&bytes[..cut]).or_else(|| search.end(&bytes));
                assert_eq!(end, Some(head.len()), "{head:?} cut at {cut}");
            }
        }
    }

    /// A head in many pieces is searched once, not once for each piece.
    #[test]
    fn what_was_searched_is_not_searched_again() {
        let mut search = HeadSearch::default();
        let mut heard = Vec::new();
        let mut looked_at = 0;
        while heard.len() < MOST_HEARD {
            heard.extend_from_slice(b"A: b\r\n");
            let from = search.searched;
            assert_eq!(search.end(&heard), None);
            looked_at += heard.len() - from;
        }
        assert!(looked_at < 2 * heard.len(), "{looked_at} of {}", heard.len());
        // An end in the part that was searched is not seen, so that part is not read.
        heard[..2].copy_from_slice(b"\n\n");
        assert_eq!(search.end(&heard), None);
        heard.extend_from_slice(b"\r\n");
        assert_eq!(search.end(&heard), Some(heard.len()));
    }
}
