//! Reads the first message of a TLS client, the ClientHello, out of bytes that keep arriving.
//!
//! A hello may come in any number of segments and, since a handshake message may be split at will
//! (RFC 8446, section 5.1), in any number of records. [`HelloReader`] is shown all that has arrived so
//! far, remembers how far it got, and answers in one of three ways: not yet, a [`ClientHello`], or a
//! [`HelloFault`]. The answer depends on the bytes alone, never on how they were cut.
//!
//! "Could not read" is never "no name": whoever is taken for a client without a name can end up at
//! another backend than the one its TLS library asked for. So every length is held to its parent's, and
//! what is ambiguous is a fault. Of versions only the structure counts: whatever the minor number of a
//! record or the version inside the hello, the layout is the same.
//!
//! Nothing is decrypted and nothing is changed: the caller keeps the bytes and replays them. Bytes behind
//! the hello (early data, a second message) are not looked at.

mod ja4;
mod message;
mod offer;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use tls_parser::{TlsHandshakeType, TlsRecordType, parse_tls_record_header};

use super::alert::Alert;
use super::server_name::{NameFault, ServerName};
pub use ja4::Ja4;
pub use offer::{Offer, TlsVersion};

/// Type, version and length of a record (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;

/// The longest fragment of a record (RFC 8446, section 5.1).
const MAX_FRAGMENT: u16 = 1 << 14;

/// Type and length of a handshake message (RFC 8446, section 4).
const MESSAGE_HEADER: usize = 4;

/// Reads one ClientHello out of a growing buffer.
///
/// It holds a few counters and no bytes, and looks at each byte once however the bytes are cut: one-byte
/// segments cost as much in total as one big one. The answer stays the same when it is asked again.
#[derive(Clone, Debug)]
pub struct HelloReader {
    max_size: usize,
    /// How many raw bytes have been looked at.
    position: usize,
    /// How many bytes of the record at `position` are still to come; 0 means a header is next.
    fragment: usize,
    records: u32,
    /// The first bytes of the message, as far as `gathered` says.
    header: [u8; MESSAGE_HEADER],
    /// How many handshake bytes have been looked at, record headers not counted.
    gathered: usize,
}

/// What a ClientHello says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The name asked for; `None` if the client named none, or an IP address. With Encrypted ClientHello it is the
    /// outer, public name.
    pub server_name: Option<ServerName>,
    /// How many records the hello came in, at least 1.
    pub records: u32,
    /// Its size in handshake bytes: the message with its 4-byte header, without record headers.
    pub size: usize,
}

/// Why the first bytes are not a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// The first bytes are no TLS handshake record. An SSL 2 style hello counts as this too.
    #[error("the client does not speak TLS")]
    NotTls,
    /// It began as TLS, and then broke the protocol.
    #[error("the hello is malformed: {0}")]
    Malformed(Malformed),
    /// The hello, or the records it comes in, passes the limit the reader was made with.
    #[error("the hello is too large")]
    TooLarge,
    /// The hello is well-formed, but asks for what is not a host name.
    #[error("the hello asks for a bad server name: {0}")]
    BadName(NameFault),
}

/// What in a hello is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A record of another type (an alert, data) stands before the end of the hello.
    #[error("a record of another type came before its end")]
    RecordType,
    /// A later record has another major version than 3.
    #[error("a record has an unknown version")]
    RecordVersion,
    /// A record without content, which RFC 8446, section 5.1 forbids for handshake messages.
    #[error("a record is empty")]
    EmptyRecord,
    /// A record longer than 16,384 bytes.
    #[error("a record is longer than {MAX_FRAGMENT} bytes")]
    LongRecord,
    /// The first handshake message is not a ClientHello.
    #[error("the first message is not a hello")]
    MessageType,
    /// The message ends within its version or its 32 random bytes.
    #[error("it ends before its session id")]
    Random,
    /// The session id is cut off, or longer than 32 bytes.
    #[error("the session id is cut off or too long")]
    SessionId,
    /// The cipher suites are cut off, none, or not a whole number of them.
    #[error("the cipher suites are cut off, empty or of odd length")]
    CipherSuites,
    /// The compression methods are cut off, or none.
    #[error("the compression methods are cut off or empty")]
    Compression,
    /// The block of extensions is cut off.
    #[error("the extensions are cut off")]
    Extensions,
    /// Bytes stand behind the block of extensions.
    #[error("bytes follow the extensions")]
    TrailingBytes,
    /// One extension is cut off.
    #[error("an extension is cut off")]
    Extension,
    /// Two extensions have the same type, which RFC 8446, section 4.2 forbids.
    #[error("an extension is there twice")]
    DuplicateExtension,
    /// The server name extension is not one list with one host name in it.
    #[error("the server name extension does not hold exactly one host name")]
    ServerName,
}

impl HelloReader {
    /// The usual limit for a hello: 16 KiB, the size of one full record and the limit of most TLS
    /// servers. Hellos with post-quantum keys are near 2 KiB.
    pub const DEFAULT_MAX_SIZE: usize = MAX_FRAGMENT as usize;

    /// A reader that refuses hellos of more than `max_size` handshake bytes, the message's 4-byte header
    /// included. A limit below [`HelloReader::DEFAULT_MAX_SIZE`] refuses hellos that fit one record.
    pub fn new(max_size: usize) -> HelloReader {
        HelloReader {
            max_size,
            position: 0,
            fragment: 0,
            records: 0,
            header: [0; MESSAGE_HEADER],
            gathered: 0,
        }
    }

    /// How many raw bytes, record headers included, are enough for an answer: six times the limit, as
    /// the shortest record holds one byte behind its header of five. A buffer of this size never fills
    /// up while the answer is still "not yet".
    pub fn max_raw(&self) -> usize {
        self.max_size.saturating_mul(RECORD_HEADER + 1)
    }

    /// Reads on in `raw`: all bytes received so far, which only ever get more from call to call.
    /// `Ok(None)` means that the hello is not whole yet.
    ///
    /// # Errors
    ///
    /// A [`HelloFault`] as soon as the bytes show it: who does not speak TLS is known by the first byte.
    pub fn read(&mut self, raw: &[u8]) -> Result<Option<ClientHello>, HelloFault> {
        let within = &raw[..raw.len().min(self.max_raw())];
        let Some(size) = self.gather(within)? else {
            // That no record is empty already implies this bound; it must not rest on that alone.
            return if raw.len() < self.max_raw() { Ok(None) } else { Err(HelloFault::TooLarge) };
        };
        let message = message_in(within, self.records, size);
        let server_name = message::server_name(body(&message))?;
        Ok(Some(ClientHello { server_name, records: self.records, size }))
    }

    /// The name that a whole hello asks for, byte by byte as it was sent, so that it can be shown where
    /// [`HelloReader::read`] answered [`HelloFault::BadName`], or without a name. It is hostile until proven otherwise.
    ///
    /// `raw` is what was last read. `None` if the hello is not whole, is malformed or asks for no name.
    pub fn sent_name(&self, raw: &[u8]) -> Option<Box<[u8]>> {
        let size = self.message_size().ok().flatten().filter(|&size| self.gathered >= size)?;
        let message = message_in(raw, self.records, size);
        message::sent_name(body(&message)).ok().flatten().map(Box::from)
    }

    /// Walks over records and fragments up to the end of the hello, and answers its size once it is
    /// whole. Each check happens at the earliest byte that decides it, so that the first fault in the
    /// order of the bytes is the answer for any segmentation.
    fn gather(&mut self, raw: &[u8]) -> Result<Option<usize>, HelloFault> {
        loop {
            if let Some(size) = self.message_size()?
                && self.gathered >= size
            {
                return Ok(Some(size));
            }
            let rest = raw.get(self.position..).unwrap_or_default();
            if self.fragment == 0 {
                let Some(fragment) = self.record_header(rest)? else { return Ok(None) };
                self.fragment = fragment;
                self.position += RECORD_HEADER;
                self.records = self.records.saturating_add(1);
            } else if rest.is_empty() {
                return Ok(None);
            } else {
                self.pass(&rest[..rest.len().min(self.fragment)]);
            }
        }
    }

    /// Judges the record header that `rest` starts with, as far as it is there, and answers the length
    /// of the fragment behind it.
    fn record_header(&self, rest: &[u8]) -> Result<Option<usize>, HelloFault> {
        let fault = |later| if self.records == 0 { HelloFault::NotTls } else { HelloFault::Malformed(later) };
        if rest.first().is_some_and(|&byte| byte != TlsRecordType::Handshake.0) {
            return Err(fault(Malformed::RecordType));
        }
        if rest.get(1).is_some_and(|&major| major != 3) {
            return Err(fault(Malformed::RecordVersion));
        }
        let Ok((_, header)) = parse_tls_record_header(rest) else { return Ok(None) };
        match header.len {
            0 => Err(HelloFault::Malformed(Malformed::EmptyRecord)),
            1..=MAX_FRAGMENT => Ok(Some(usize::from(header.len))),
            _ => Err(HelloFault::Malformed(Malformed::LongRecord)),
        }
    }

    /// Counts a piece of the current fragment as looked at, keeping what belongs to the message header.
    fn pass(&mut self, piece: &[u8]) {
        for (place, &byte) in self.header.iter_mut().skip(self.gathered).zip(piece) {
            *place = byte;
        }
        self.gathered += piece.len();
        self.position += piece.len();
        self.fragment -= piece.len();
    }

    /// The size of the whole message with its header, once the header is there.
    fn message_size(&self) -> Result<Option<usize>, HelloFault> {
        let [kind, high, middle, low] = self.header;
        if self.gathered > 0 && kind != u8::from(TlsHandshakeType::ClientHello) {
            return Err(HelloFault::Malformed(Malformed::MessageType));
        }
        if self.gathered < MESSAGE_HEADER {
            return Ok(None);
        }
        let body = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let size = MESSAGE_HEADER + body;
        if size > self.max_size { Err(HelloFault::TooLarge) } else { Ok(Some(size)) }
    }
}

impl ClientHello {
    /// The whole message with its header, for [`Offer::of`]: in place if it came in one record, else put together.
    /// `raw` is what it was read from.
    pub fn message<'a>(&self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        message_in(raw, self.records, self.size)
    }
}

/// The whole message: in place if it came in one record, as nearly all do, else put together.
fn message_in(raw: &[u8], records: u32, size: usize) -> Cow<'_, [u8]> {
    if records == 1 {
        let end = raw.len().min(RECORD_HEADER + size);
        return Cow::Borrowed(raw.get(RECORD_HEADER..end).unwrap_or_default());
    }
    let mut message = Vec::with_capacity(size);
    let mut rest = raw;
    while let Ok((behind, header)) = parse_tls_record_header(rest)
        && message.len() < size
    {
        let (fragment, next) = behind.split_at(behind.len().min(usize::from(header.len)));
        message.extend_from_slice(&fragment[..fragment.len().min(size - message.len())]);
        rest = next;
    }
    Cow::Owned(message)
}

/// A message without its header.
fn body(message: &[u8]) -> &[u8] {
    message.get(MESSAGE_HEADER..).unwrap_or_default()
}

impl HelloFault {
    /// The alert that tells the client; `None` for a peer that speaks no TLS and so could not read one.
    ///
    /// Where RFC 8446 names the alert (sections 5 and 5.1) it is that one. A hello that is too large
    /// gets what rustls sends, and a bad name gets what OpenSSL sends.
    pub fn alert(self) -> Option<Alert> {
        match self {
            HelloFault::NotTls => None,
            HelloFault::Malformed(Malformed::RecordType | Malformed::MessageType) => {
                Some(Alert::UnexpectedMessage)
            }
            HelloFault::Malformed(Malformed::LongRecord) => Some(Alert::RecordOverflow),
            HelloFault::Malformed(_) | HelloFault::TooLarge => Some(Alert::DecodeError),
            HelloFault::BadName(_) => Some(Alert::UnrecognizedName),
        }
    }
}
