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
    /// The body, once its head is read.
    body: Option<Body>,
}

impl HttpState {
    pub(super) fn new(script: Arc<HttpScript>) -> Self {
        Self { script, body: None }
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
            100..=199 => return Ok(DialogueReply::Hear { used: head(heard).unwrap_or(0) }),
            _ if !self.script.expects(status) => return Err(DialogueFault::Unexpected),
            _ => {}
        }
        let Some(expected) = &self.script.body else { return Ok(ALIVE) };
        let Some(used) = head(heard) else {
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

/// The length of a head with the empty line that ends it. A line may end in a bare line feed (RFC 9112, section 2.2).
fn head(heard: &[u8]) -> Option<usize> {
    heard.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| match heard[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}
