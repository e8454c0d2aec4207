//! Bytes that depend on their position, and streams that send or verify them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::tally::Tally;

/// The longest time in which no byte moves on a connection that is busy.
pub(super) const STUCK: Duration = Duration::from_secs(30);

/// The bytes that are sent or read at once.
const CHUNK: usize = 16 * 1024;

/// Any stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A stream of TCP or of a Unix socket.
pub(super) type Stream = Box<dyn Duplex>;

/// Writes the bytes of a seed that begin at a position.
pub(super) fn fill(seed: u64, from: u64, buffer: &mut [u8]) {
    let mut at = from;
    let mut rest = buffer;
    while !rest.is_empty() {
        let (word, skip) = (at / 8, (at % 8) as usize);
        let mixed = (word ^ seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes = (mixed ^ (mixed >> 29)).to_le_bytes();
        let count = rest.len().min(8 - skip);
        rest[..count].copy_from_slice(&bytes[skip..skip + count]);
        rest = &mut rest[count..];
        at += count as u64;
    }
}

/// Returns an error that names bytes which are not those that were sent.
pub(super) fn wrong(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("wrong bytes: {what}"))
}

/// Waits for a step of a busy connection.
pub(super) async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STUCK, step)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved")))
}

/// The bytes of a seed, from a position on.
pub(super) struct Sequence {
    seed: u64,
    pub(super) at: u64,
    buffer: Vec<u8>,
}

impl Sequence {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, at: 0, buffer: vec![0; CHUNK] }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Sends at most `most` bytes, and returns the number.
    pub(super) async fn send(&mut self, to: &mut (impl AsyncWrite + Unpin), most: u64) -> io::Result<u64> {
        let length = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
        fill(self.seed, self.at, &mut self.buffer[..length]);
        in_time(to.write_all(&self.buffer[..length])).await?;
        self.at += length as u64;
        Ok(length as u64)
    }

    /// Sends this many bytes.
    pub(super) async fn send_all(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        count: u64,
    ) -> io::Result<()> {
        let end = self.at + count;
        while self.at < end {
            self.send(to, end - self.at).await?;
        }
        Ok(())
    }

    /// Reads some bytes and compares them. Returns their number, 0 at the end. Waits as long as nothing comes.
    pub(super) async fn verify(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        tally: &Tally,
    ) -> io::Result<usize> {
        let count = from.read(&mut self.buffer).await?;
        let mut expected = vec![0; count];
        fill(self.seed, self.at, &mut expected);
        if self.buffer[..count] != expected[..] {
            let first = self.buffer.iter().zip(&expected).position(|(one, other)| one != other).unwrap_or(0);
            return Err(wrong(format_args!("at {} after {} right ones", self.at + first as u64, self.at)));
        }
        self.at += count as u64;
        tally.verified(count);
        Ok(count)
    }

    /// Reads and compares all bytes up to the end.
    pub(super) async fn verify_to_end(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        tally: &Tally,
    ) -> io::Result<()> {
        while in_time(self.verify(from, tally)).await? > 0 {}
        Ok(())
    }
}

/// Sends `length` bytes of a seed, reads as many, and compares them.
pub(super) async fn exchange(stream: &mut Stream, seed: u64, length: usize, tally: &Tally) -> io::Result<()> {
    let mut sent = vec![0; length];
    fill(seed, 0, &mut sent);
    in_time(stream.write_all(&sent)).await?;
    expect(stream, &sent, tally).await
}

/// Reads as many bytes and compares them.
pub(super) async fn expect(stream: &mut Stream, expected: &[u8], tally: &Tally) -> io::Result<()> {
    let mut came = vec![0; expected.len()];
    in_time(stream.read_exact(&mut came)).await?;
    tally.verified(came.len());
    if came == expected { Ok(()) } else { Err(wrong(format_args!("{} in one answer", came.len()))) }
}

/// Ends the own direction and reads the end of the other.
pub(super) async fn end(stream: &mut Stream) -> io::Result<()> {
    in_time(stream.shutdown()).await?;
    expect_end(stream).await
}

/// Reads the end of the other direction.
pub(super) async fn expect_end(stream: &mut Stream) -> io::Result<()> {
    match in_time(stream.read(&mut [0])).await? {
        0 => Ok(()),
        _ => Err(wrong("more than expected")),
    }
}
