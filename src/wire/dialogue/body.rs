//! The body of an HTTP answer: its end, and the search for the expected content.
//!
//! At most [`MOST_BODY`] bytes of a body are stored and searched.

use super::http::BodyMatch;
use super::{ALIVE, DialogueFault, DialogueReply, MORE, ServerEnd};

/// The most bytes of a body that are read.
pub const MOST_BODY: usize = 64 * 1024;

/// The longest line before a chunk. It has the length, and perhaps extensions, which are ignored.
const LONGEST_SIZE_LINE: usize = 256;

/// The framing of a body, which determines its end (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The body ends with the connection.
    UntilClose,
    /// The body ends after this number of further bytes.
    Length(usize),
    /// The body ends after the last chunk.
    Chunked(ChunkPart),
}

/// The next part of a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkPart {
    /// The line with the length of the next chunk.
    Size,
    /// This number of further bytes of a chunk.
    Data(usize),
    /// The end of the line after a chunk.
    LineEnd,
}

impl Framing {
    /// Returns the framing that a head announces.
    pub(super) fn of_head(head: &[u8]) -> Result<Self, DialogueFault> {
        let mut framing = Self::UntilClose;
        for line in head.split(|&byte| byte == b'\n').skip(1) {
            let mut parts = line.splitn(2, |&byte| byte == b':');
            let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let value = value.trim_ascii();
            if name.eq_ignore_ascii_case(b"transfer-encoding") && !value.eq_ignore_ascii_case(b"identity") {
                // It takes precedence over a length.
                return Ok(Self::Chunked(ChunkPart::Size));
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                framing = Self::Length(length.ok_or(DialogueFault::Unexpected)?);
            }
        }
        Ok(framing)
    }

    /// Moves bytes of the body from `input` to `body`; returns the number of used bytes of the input, 0 if more are
    /// needed.
    fn decode(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<usize, DialogueFault> {
        let mut take = |most: usize| {
            let count = input.len().min(most);
            body.extend_from_slice(&input[..count]);
            count
        };
        match self {
            Self::UntilClose => Ok(take(usize::MAX)),
            Self::Length(left) => {
                let used = take(*left);
                *left -= used;
                Ok(used)
            }
            Self::Chunked(ChunkPart::Data(left)) => {
                let used = take(*left);
                *left -= used;
                if *left == 0 {
                    *self = Self::Chunked(ChunkPart::LineEnd);
                }
                Ok(used)
            }
            Self::Chunked(ChunkPart::LineEnd) => match input {
                [] | [b'\r'] => Ok(0),
                [b'\r', b'\n', ..] => {
                    *self = Self::Chunked(ChunkPart::Size);
                    Ok(2)
                }
                _ => Err(DialogueFault::Unexpected),
            },
            Self::Chunked(ChunkPart::Size) => match input.iter().position(|&byte| byte == b'\n') {
                None if input.len() > LONGEST_SIZE_LINE => Err(DialogueFault::Unexpected),
                None => Ok(0),
                Some(end) => {
                    let size = chunk_size(&input[..end]).ok_or(DialogueFault::Unexpected)?;
                    *self = if size == 0 { Self::Length(0) } else { Self::Chunked(ChunkPart::Data(size)) };
                    Ok(end + 1)
                }
            },
        }
    }
}

/// Parses the length in the line before a chunk.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A body that is being read.
#[derive(Clone, Debug)]
pub(super) struct Body {
    expected: BodyMatch,
    framing: Framing,
    received: Vec<u8>,
    /// The number of bytes that were searched before.
    searched: usize,
}

impl Body {
    pub(super) fn new(expected: BodyMatch, framing: Framing) -> Self {
        Self { expected, framing, received: Vec::new(), searched: 0 }
    }

    /// Returns the received bytes of the body.
    pub(super) fn received(&self) -> &[u8] {
        &self.received
    }

    pub(super) fn receive(
        &mut self,
        input: &[u8],
        end: Option<ServerEnd>,
    ) -> Result<DialogueReply, DialogueFault> {
        let (mut used, mut fault) = (0, None);
        while self.received.len() < MOST_BODY {
            match self.framing.decode(&input[used..], &mut self.received) {
                Ok(0) => break,
                Ok(more) => used += more,
                Err(broken) => {
                    fault = Some(broken);
                    break;
                }
            }
        }
        self.received.truncate(MOST_BODY);
        let is_closed = end == Some(ServerEnd::Closed);
        let is_whole = self.framing == Framing::Length(0)
            || self.received.len() >= MOST_BODY
            || (is_closed && self.framing == Framing::UntilClose);
        if self.is_found(is_whole || is_closed || fault.is_some()) {
            return Ok(ALIVE);
        }
        match (fault, is_whole, used) {
            (Some(fault), _, _) => Err(fault),
            (None, true, _) => Err(DialogueFault::Unexpected),
            (None, false, 0) => Ok(MORE),
            (None, false, used) => Ok(DialogueReply::Read { used }),
        }
    }

    /// Returns true if the received bytes match. A pattern is tried once, at the end, because its match may depend on
    /// all bytes after it.
    fn is_found(&mut self, is_end: bool) -> bool {
        match &self.expected {
            BodyMatch::Contains(bytes) => {
                let from = self.searched.saturating_sub(bytes.len().saturating_sub(1));
                self.searched = self.received.len();
                self.received[from..].windows(bytes.len().max(1)).any(|window| window == &bytes[..])
            }
            BodyMatch::Matches(pattern) => is_end && pattern.is_in(&self.received),
        }
    }
}
