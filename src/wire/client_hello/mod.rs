//! A reader for the first message of a TLS client, the ClientHello, that works on a growing buffer.
//!
//! A hello may come in any number of segments. It may also have any number of records, because a handshake message
//! may be split anywhere (RFC 8446, section 5.1). [`HelloReader`] reads all bytes that have arrived so far, stores
//! its position, and returns one of three results: incomplete, a [`ClientHello`], or a [`HelloFault`]. The result
//! depends on the bytes alone, never on how they were cut.
//!
//! A hello that cannot be read is never treated as a hello without a name. Otherwise a client could reach another
//! backend than its TLS library requested. So every length must fit into its parent's, and an ambiguous structure
//! is a fault. Versions do not count: the layout is the same for every minor number of a record and every version
//! inside the hello.
//!
//! Nothing is decrypted and nothing is changed: the caller keeps the bytes and replays them. Bytes after the hello
//! (early data, a second message) are not read.

mod ja4;
mod made;
mod message;
mod offer;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use tls_parser::{TlsHandshakeType, TlsRecordType, parse_tls_record_header};

use super::alert::Alert;
use super::server_name::{NameFault, ServerName};
pub use ja4::Ja4;
pub use made::made_hello;
pub use offer::{Offer, TlsVersion};

/// Type, version and length of a record (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;

/// The longest fragment of a record (RFC 8446, section 5.1).
const MAX_FRAGMENT: u16 = 1 << 14;

/// Type and length of a handshake message (RFC 8446, section 4).
const MESSAGE_HEADER: usize = 4;

/// The reader of one ClientHello in a growing buffer.
///
/// It stores a few counters and no bytes. It reads each byte once, so one-byte segments cost as much in total as one
/// large segment. A repeated call returns the same result.
#[derive(Clone, Debug)]
pub struct HelloReader {
    max_size: usize,
    /// The number of raw bytes that were read.
    position: usize,
    /// The number of bytes left in the record at `position`; 0 if a header is next.
    fragment: usize,
    records: u32,
    /// The first bytes of the message; `gathered` is their number.
    header: [u8; MESSAGE_HEADER],
    /// The number of handshake bytes that were read, not counting record headers.
    gathered: usize,
}

/// The fields of a ClientHello that routing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name; `None` if the client sent none, or an IP address. With Encrypted ClientHello it is the outer,
    /// public name.
    pub server_name: Option<ServerName>,
    /// The number of records that contain the hello, at least 1.
    pub records: u32,
    /// The size in handshake bytes: the message with its 4-byte header, without record headers.
    pub size: usize,
}

/// The fault of first bytes that are not a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// The first bytes are not a TLS handshake record. A hello in the form of SSL 2 is this fault too.
    #[error("the first bytes are not TLS")]
    NotTls,
    /// The bytes began as TLS, but are not valid.
    #[error("the hello is malformed: {0}")]
    Malformed(Malformed),
    /// The hello, or its records, exceeds the limit of the reader.
    #[error("the hello is too large")]
    TooLarge,
    /// The hello is well-formed, but its server name is not a host name.
    #[error("the hello has a bad server name: {0}")]
    BadName(NameFault),
}

/// The malformed part of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A record of another type (an alert, data) came before the end of the hello.
    #[error("a record of another type came before the end of the hello")]
    RecordType,
    /// A later record has another major version than 3.
    #[error("a record has an unknown version")]
    RecordVersion,
    /// A record is empty, which RFC 8446, section 5.1 forbids for handshake messages.
    #[error("a record is empty")]
    EmptyRecord,
    /// A record is longer than 16,384 bytes.
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
    /// The cipher suites are cut off, empty, or of odd length.
    #[error("the cipher suites are cut off, empty or of odd length")]
    CipherSuites,
    /// The compression methods are cut off or empty.
    #[error("the compression methods are cut off or empty")]
    Compression,
    /// The block of extensions is cut off.
    #[error("the extensions are cut off")]
    Extensions,
    /// Bytes follow the block of extensions.
    #[error("bytes follow the extensions")]
    TrailingBytes,
    /// One extension is cut off.
    #[error("an extension is cut off")]
    Extension,
    /// Two extensions have the same type, which RFC 8446, section 4.2 forbids.
    #[error("an extension occurs twice")]
    DuplicateExtension,
    /// The server name extension is not a list of exactly one host name.
    #[error("the server name extension does not hold exactly one host name")]
    ServerName,
}

impl HelloReader {
    /// The usual limit for a hello: 16 KiB, which is the size of one full record and the limit of most TLS servers.
    /// Hellos with post-quantum keys have about 2 KiB.
    pub const DEFAULT_MAX_SIZE: usize = MAX_FRAGMENT as usize;

    /// Creates a reader that refuses hellos of more than `max_size` handshake bytes, including the 4-byte header of the
    /// message. A limit below [`HelloReader::DEFAULT_MAX_SIZE`] refuses some hellos that fit into one record.
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

    /// Returns the number of raw bytes, including record headers, that always suffice for a result. It is six times the
    /// limit, because the shortest record has a header of five bytes and one byte of content. A buffer of this size
    /// never fills up while the hello is incomplete.
    pub fn max_raw(&self) -> usize {
        self.max_size.saturating_mul(RECORD_HEADER + 1)
    }

    /// Continues to read in `raw`, which are all bytes received so far; each call must pass the bytes of the last call
    /// and more. Returns `None` while the hello is incomplete.
    ///
    /// # Errors
    ///
    /// Returns a [`HelloFault`] as soon as the bytes show it. The first byte shows a client that does not use TLS.
    pub fn read(&mut self, raw: &[u8]) -> Result<Option<ClientHello>, HelloFault> {
        let within = &raw[..raw.len().min(self.max_raw())];
        let Some(size) = self.gather(within)? else {
            // No record is empty, which already implies this bound. The explicit check does not depend on that.
            return if raw.len() < self.max_raw() { Ok(None) } else { Err(HelloFault::TooLarge) };
        };
        let message = message_in(within, self.records, size);
        let server_name = message::server_name(body(&message))?;
        Ok(Some(ClientHello { server_name, records: self.records, size }))
    }

    /// Returns the server name of a whole hello exactly as it was sent. It serves logs if [`HelloReader::read`]
    /// returned [`HelloFault::BadName`], or no name. The bytes may be hostile.
    ///
    /// `raw` must be the bytes of the last `read`. Returns `None` if the hello is incomplete or malformed, or has no
    /// name.
    pub fn sent_name(&self, raw: &[u8]) -> Option<Box<[u8]>> {
        let size = self.message_size().ok().flatten().filter(|&size| self.gathered >= size)?;
        let message = message_in(raw, self.records, size);
        message::sent_name(body(&message)).ok().flatten().map(Box::from)
    }

    /// Reads records and fragments up to the end of the hello; returns its size once it is whole. Each check happens at
    /// the earliest byte that decides it, so every segmentation gives the first fault in the order of the bytes.
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

    /// Checks the bytes of the record header at the start of `rest`; returns the length of the fragment after it once
    /// the header is whole.
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

    /// Counts a piece of the current fragment as read, and stores the bytes of the message header.
    fn pass(&mut self, piece: &[u8]) {
        for (stored, &byte) in self.header.iter_mut().skip(self.gathered).zip(piece) {
            *stored = byte;
        }
        self.gathered += piece.len();
        self.position += piece.len();
        self.fragment -= piece.len();
    }

    /// Returns the size of the whole message with its header, once the header has arrived.
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
    /// Returns the whole message with its header, for [`Offer::of`]: borrowed if it came in one record, else joined.
    /// `raw` must be the bytes that it was read from.
    pub fn message<'a>(&self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        message_in(raw, self.records, self.size)
    }
}

/// Returns the whole message: borrowed if it came in one record, as nearly all do, else joined.
fn message_in(raw: &[u8], records: u32, size: usize) -> Cow<'_, [u8]> {
    if records == 1 {
        let end = raw.len().min(RECORD_HEADER + size);
        return Cow::Borrowed(raw.get(RECORD_HEADER..end).unwrap_or_default());
    }
    let mut message = Vec::with_capacity(size);
    let mut rest = raw;
    while let Ok((after_header, header)) = parse_tls_record_header(rest)
        && message.len() < size
    {
        let (fragment, next) = after_header.split_at(after_header.len().min(usize::from(header.len)));
        message.extend_from_slice(&fragment[..fragment.len().min(size - message.len())]);
        rest = next;
    }
    Cow::Owned(message)
}

/// Returns a message without its header.
fn body(message: &[u8]) -> &[u8] {
    message.get(MESSAGE_HEADER..).unwrap_or_default()
}

impl HelloFault {
    /// Returns the alert for the client; `None` for a peer that does not use TLS and so cannot read an alert.
    ///
    /// If RFC 8446 defines the alert (sections 5 and 5.1), this alert is returned. For a hello that is too large it is
    /// the alert that rustls sends, and for a bad name the alert that OpenSSL sends.
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
