//! Reads the PROXY header in front of a client's own bytes, where the listener takes the peer's word for who
//! the client is.
//!
//! It comes before everything else that is read. What arrived behind the header in the same segment is handed
//! on with the socket; nothing is read twice and nothing is lost.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::story::Story;
use super::{Surroundings, reading};
use crate::executor::timeout;
use crate::snapshot::{ProxyMode, ProxySpec};
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, ProxyOutcome};
use crate::wire::proxy_protocol::{self, HeaderFault, HeaderSearch, LONGEST_V2, ProxyHeader};

/// The most that is read at once, and so the most that may come behind a header.
const CHUNK: usize = 2048;

/// A client whose header, if there was one, is read.
pub(super) struct Announced {
    pub(super) client: OwnedFd,
    /// What has come behind the header, at most [`CHUNK`] bytes.
    pub(super) bytes: Vec<u8>,
    pub(super) header: Option<Arc<ProxyHeader>>,
    /// Why it would be refused if headers were required, where that is to be counted.
    pub(super) shadowed: Option<CloseReason>,
}

impl Announced {
    /// A client that nothing was read from.
    pub(super) fn plain(client: OwnedFd) -> Self {
        Self { client, bytes: Vec::new(), header: None, shadowed: None }
    }
}

/// Reads the header as the listener wants it, and tells the story who the client is.
pub(super) async fn open(
    client: OwnedFd,
    spec: &ProxySpec,
    story: &mut Story,
    around: &Surroundings,
) -> Result<Announced, CloseReason> {
    if !spec.trusted.contains(story.client()) {
        story.proxy_header(ProxyOutcome::Untrusted);
        return without(Announced::plain(client), CloseReason::ProxyUntrusted, spec.mode, story);
    }
    let mut reading = Reading { bytes: Vec::new(), around };
    let found = match reading.first(&client) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            let stream = reading::register(client)?;
            let patience = spec.timeout.saturating_sub(story.age());
            let found = timeout(patience, reading.rest(&stream)).await.unwrap_or(Err(Stopped::Timeout));
            return finish(stream.into_fd(), reading.bytes, found, spec.mode, story);
        }
        Err(stopped) => Err(stopped),
    };
    finish(client, reading.bytes, found, spec.mode, story)
}

/// What follows from what was found.
fn finish(
    client: OwnedFd,
    mut bytes: Vec<u8>,
    found: Result<HeaderSearch, Stopped>,
    mode: ProxyMode,
    story: &mut Story,
) -> Result<Announced, CloseReason> {
    let is_silent = bytes.is_empty();
    let (outcome, reason) = match found {
        Ok(HeaderSearch::Header(header, length)) => {
            bytes.drain(..length);
            story.announced(&header);
            return Ok(Announced { client, bytes, header: Some(Arc::new(header)), shadowed: None });
        }
        Ok(HeaderSearch::Nothing) => {
            story.proxy_header(ProxyOutcome::Missing);
            let announced = Announced { client, bytes, header: None, shadowed: None };
            return without(announced, CloseReason::ProxyMissing, mode, story);
        }
        // It may be waiting for the server to speak, or have nothing to say.
        Err(Stopped::Timeout | Stopped::End) if is_silent && mode != ProxyMode::Require => {
            story.proxy_header(ProxyOutcome::Missing);
            return without(Announced::plain(client), CloseReason::ProxyMissing, mode, story);
        }
        Err(Stopped::End | Stopped::Reset) if is_silent => return Err(CloseReason::NoData),
        Err(Stopped::End | Stopped::Reset) => (ProxyOutcome::Truncated, CloseReason::ProxyTruncated),
        Err(Stopped::Timeout) => (ProxyOutcome::Timeout, CloseReason::ProxyTimeout),
        Err(Stopped::Memory) => return Err(refuse(&client, CloseReason::HelloMemory)),
        Err(Stopped::Fault(fault)) => {
            tracing::debug!(peer = %story.client(), %fault, "a PROXY header is malformed");
            match fault {
                HeaderFault::Checksum => (ProxyOutcome::Checksum, CloseReason::ProxyChecksum),
                _ => (ProxyOutcome::Malformed, CloseReason::ProxyMalformed),
            }
        }
    };
    story.proxy_header(outcome);
    Err(refuse(&client, reason))
}

/// Goes on without a header, unless one is required.
fn without(
    announced: Announced,
    reason: CloseReason,
    mode: ProxyMode,
    story: &Story,
) -> Result<Announced, CloseReason> {
    match mode {
        ProxyMode::Require => {
            tracing::debug!(peer = %story.client(), %reason, "a peer is refused for its PROXY header");
            Err(refuse(&announced.client, reason))
        }
        ProxyMode::Shadow => Ok(Announced { shadowed: Some(reason), ..announced }),
        ProxyMode::Accept => Ok(announced),
    }
}

fn refuse(client: &OwnedFd, reason: CloseReason) -> CloseReason {
    let _ = socket::reset_on_close(client);
    reason
}

/// Why it is not known whether there is a header.
enum Stopped {
    /// The peer ended.
    End,
    /// The peer reset the connection.
    Reset,
    /// The rest did not come in time.
    Timeout,
    /// The process holds as many bytes of half-read hellos as it may.
    Memory,
    /// What came is no acceptable header.
    Fault(HeaderFault),
}

/// A header on its way in.
struct Reading<'a> {
    /// All that the peer has sent.
    bytes: Vec<u8>,
    around: &'a Surroundings,
}

impl Reading<'_> {
    /// Reads what is there before the client is registered anywhere: mostly that is all of it.
    fn first(&mut self, client: &OwnedFd) -> Result<Option<HeaderSearch>, Stopped> {
        let read = self.around.engines.with_buffer(|buffer| {
            let room = CHUNK.min(buffer.len());
            let read = socket::recv(client, &mut buffer[..room])?;
            self.bytes.extend_from_slice(&buffer[..read]);
            Ok(read)
        });
        match read {
            Ok(0) => Err(Stopped::End),
            Ok(_) => self.parse(),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Stopped::Reset),
        }
    }

    /// Reads on until it is clear what there is.
    async fn rest(&mut self, client: &Stream) -> Result<HeaderSearch, Stopped> {
        let mut memory = None;
        loop {
            if memory.is_none() && !self.bytes.is_empty() {
                // The reader waits for no more than the longest header, so this is all it can take.
                let share = self.around.bounds.hello_memory.share((LONGEST_V2 + CHUNK) as u64);
                memory = Some(share.ok_or(Stopped::Memory)?);
            }
            match self.recv(client).await {
                Ok(0) => return Err(Stopped::End),
                Ok(_) => {}
                Err(_) => return Err(Stopped::Reset),
            }
            if let Some(found) = self.parse()? {
                return Ok(found);
            }
        }
    }

    fn parse(&self) -> Result<Option<HeaderSearch>, Stopped> {
        proxy_protocol::read(&self.bytes).map_err(Stopped::Fault)
    }

    async fn recv(&mut self, client: &Stream) -> io::Result<usize> {
        let Self { bytes, around } = self;
        reading::recv(client, &around.engines, CHUNK, |read| bytes.extend_from_slice(read)).await
    }
}
