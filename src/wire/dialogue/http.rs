//! HTTP/1.1: one request, of whose answer the status is read, and the body if something is expected of it.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::body::{Body, Framing};
use super::pattern::BytePattern;
use super::{ALIVE, DialogueFault, DialogueReply, MORE, MOST_HEARD, ServerEnd, may_begin};

const VERSION: &[u8] = b"HTTP/1.";

/// The version's last digit and a space, three digits of status, and what ends them.
const STATUS_LINE: usize = VERSION.len() + 2 + 3 + 1;

/// What is asked, and what must be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpScript {
    /// The method, such as `GET`.
    pub method: Arc<str>,
    /// What is asked for; begins with a slash.
    pub path: Arc<str>,
    /// The `Host` header; `None` sends the address that is asked.
    pub host: Option<Arc<str>>,
    /// Further headers, in this order. They go before those that are sent by themselves.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// Statuses that count as alive.
    pub expect: Vec<RangeInclusive<u16>>,
    /// What must be in the body, if anything.
    pub body: Option<BodyMatch>,
}

/// What must be in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMatch {
    /// These bytes, anywhere.
    Contains(Arc<[u8]>),
    /// Something that this matches.
    Matches(BytePattern),
}

impl Default for HttpScript {
    /// `GET /`, alive by a status from 200 to 399.
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
    /// The request, to the host that is asked.
    pub(super) fn request(&self, authority: &str) -> Vec<u8> {
        let host = self.host.as_deref().unwrap_or(authority);
        let mut request = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.path);
        let is_given = |name: &str| self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        // A request that could have a body says that it has none.
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

/// Where a request stands.
#[derive(Clone, Debug)]
pub(super) struct HttpState {
    script: Arc<HttpScript>,
    head: HeadSearch,
    /// The body, once its head is read.
    body: Option<Body>,
}

impl HttpState {
    pub(super) fn new(script: Arc<HttpScript>) -> Self {
        Self { script, head: HeadSearch::default(), body: None }
    }

    pub(super) fn receive(
        &mut self,
        heard: &[u8],
        end: Option<ServerEnd>,
    ) -> Result<DialogueReply, DialogueFault> {
        if let Some(body) = &mut self.body {
            return body.receive(heard, end);
        }
        let Some(status) = status(heard)? else { return Ok(MORE) };
        match status {
            // Hints before the answer itself; 101 would be the end of HTTP.
            101 => return Err(DialogueFault::Unexpected),
            100..=199 => return Ok(DialogueReply::Hear { used: self.head.end(heard).unwrap_or(0) }),
            _ if !self.script.expects(status) => return Err(DialogueFault::Unexpected),
            _ => {}
        }
        let Some(expected) = &self.script.body else { return Ok(ALIVE) };
        let Some(used) = self.head.end(heard) else {
            return if heard.len() < MOST_HEARD { Ok(MORE) } else { Err(DialogueFault::Endless) };
        };
        let framing = match status {
            // They have no body (RFC 9110, sections 15.3.5 and 15.4.5).
            204 | 304 => Framing::Length(0),
            _ => Framing::of_head(&heard[..used])?,
        };
        self.body = Some(Body::new(expected.clone(), framing));
        Ok(DialogueReply::Hear { used })
    }

    /// What of the body was heard, once there is some.
    pub(super) fn words(&self) -> Option<&[u8]> {
        self.body.as_ref().map(Body::heard).filter(|body| !body.is_empty())
    }
}

/// The status, once it is whole.
fn status(heard: &[u8]) -> Result<Option<u16>, DialogueFault> {
    if !may_begin(heard, VERSION) {
        return Err(DialogueFault::Unexpected);
    }
    let Some(&[minor, b' ', a, b, c, end]) =
        heard.get(VERSION.len()..STATUS_LINE).and_then(|rest| rest.first_chunk::<6>())
    else {
        return if heard.len() < STATUS_LINE { Ok(None) } else { Err(DialogueFault::Unexpected) };
    };
    let digits = [a, b, c];
    let is_status = minor.is_ascii_digit()
        && digits.iter().all(u8::is_ascii_digit)
        && matches!(end, b' ' | b'\r' | b'\n');
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'.min(*digit)));
    if is_status { Ok(Some(status)) } else { Err(DialogueFault::Unexpected) }
}

/// Finds the end of a head in bytes that come one after the other. Each byte is looked at once, but for the last two
/// before each read.
#[derive(Clone, Debug, Default)]
struct HeadSearch {
    /// No end begins before this byte.
    searched: usize,
}

impl HeadSearch {
    /// Returns the length of a head with the empty line that ends it; `None` if more must come. `heard` begins with the
    /// bytes of the call before, unless that found an end. A line may end in a bare line feed (RFC 9112, section 2.2).
    fn end(&mut self, heard: &[u8]) -> Option<usize> {
        let from = std::mem::replace(&mut self.searched, heard.len().saturating_sub(2));
        let mut line_feeds = (from..heard.len()).filter(|&at| heard[at] == b'\n');
        let end = line_feeds.find_map(|at| match heard[at + 1..] {
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
