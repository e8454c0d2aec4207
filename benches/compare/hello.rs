//! The ClientHello that every connection begins with, and the command for the backend inside the hello.
//!
//! A layer-4 proxy must forward the hello unchanged, so its 32 random bytes can hold a command for the
//! backend. One backend serves every test then. Each connection also proves that its first bytes arrived
//! unchanged.

/// The server name in the hello; every peer routes `*.bench.test`.
pub(crate) const SERVER_NAME: &str = "a.bench.test";

/// The size of a hello: about that of a hello with a post-quantum key share, and more than one Ethernet
/// segment.
pub(crate) const HELLO_SIZE: usize = 1500;

/// The largest hello: no hello of ours is longer than one TLS record.
pub(crate) const HELLO_MOST: usize = 5 + 16_384;

/// The size of the reply to a short connection and to an idle one, in bytes.
pub(crate) const REPLY_SIZE: usize = 64;

/// Marks random bytes that hold a command.
const MARK: &[u8; 8] = b"compare\x01";

/// The offset of the random bytes: after the record header, the handshake header and the version.
const RANDOM_AT: usize = 5 + 4 + 2;

/// The work of the backend after the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Sends back the bytes that come.
    Echo,
    /// Sends this many bytes, then waits for the end.
    Reply(u64),
    /// Sends this many bytes, then finishes the sending half.
    Stream(u64),
    /// Counts the bytes until the client finishes its sending half, then sends the count in 8 bytes.
    Count,
}

impl Command {
    fn encode(self) -> [u8; 32] {
        let (kind, amount) = match self {
            Self::Echo => (1, 0),
            Self::Reply(bytes) => (2, bytes),
            Self::Stream(bytes) => (3, bytes),
            Self::Count => (4, 0),
        };
        let mut random = [0x5a; 32];
        random[..8].copy_from_slice(MARK);
        random[8] = kind;
        random[9..17].copy_from_slice(&amount.to_be_bytes());
        random
    }

    fn decode(random: &[u8]) -> Option<Self> {
        let rest = random.strip_prefix(MARK)?;
        let (kind, rest) = rest.split_first()?;
        let amount = u64::from_be_bytes(*rest.first_chunk()?);
        match kind {
            1 => Some(Self::Echo),
            2 => Some(Self::Reply(amount)),
            3 => Some(Self::Stream(amount)),
            4 => Some(Self::Count),
            _ => None,
        }
    }
}

/// The result of reading the first bytes of a connection.
pub(crate) enum ParsedHello {
    /// The hello is not whole yet.
    Incomplete,
    /// A hello of this length with this command.
    Whole(usize, Command),
    /// Bytes that this program did not send.
    Foreign,
}

/// Reads the hello at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> ParsedHello {
    let Some(header) = bytes.first_chunk::<5>() else { return ParsedHello::Incomplete };
    let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[0] != 0x16 || !(RANDOM_AT + 32..=HELLO_MOST).contains(&length) {
        return ParsedHello::Foreign;
    }
    let Some(hello) = bytes.get(..length) else { return ParsedHello::Incomplete };
    match Command::decode(&hello[RANDOM_AT..RANDOM_AT + 32]) {
        Some(command) => ParsedHello::Whole(length, command),
        None => ParsedHello::Foreign,
    }
}

/// Builds a hello of [`HELLO_SIZE`] bytes: X25519MLKEM768 and X25519 shares, and the server name after them.
pub(crate) fn build(command: Command) -> Vec<u8> {
    let mut extensions = Vec::with_capacity(HELLO_SIZE);
    extension(&mut extensions, 0x002b, &[2, 0x03, 0x04]);
    extension(&mut extensions, 0x000a, &prefixed2(&[0x11, 0xec, 0x00, 0x1d]));
    extension(&mut extensions, 0x000d, &prefixed2(&[0x04, 0x03, 0x08, 0x04, 0x04, 0x01, 0x08, 0x07]));
    let mut shares = Vec::new();
    for (group, size) in [(0x11ec_u16, 1184 + 32), (0x001d, 32)] {
        shares.extend(group.to_be_bytes());
        shares.extend(prefixed2(&filler(size)));
    }
    extension(&mut extensions, 0x0033, &prefixed2(&shares));
    let mut name = vec![0];
    name.extend(prefixed2(SERVER_NAME.as_bytes()));
    extension(&mut extensions, 0x0000, &prefixed2(&name));
    let plain = wrap(command, &extensions).len();
    extension(&mut extensions, 0x0015, &vec![0; HELLO_SIZE.saturating_sub(plain + 4)]);
    wrap(command, &extensions)
}

fn wrap(command: Command, extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![0x03, 0x03];
    body.extend(command.encode());
    body.push(32);
    body.extend(filler(32));
    body.extend(prefixed2(&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(prefixed2(extensions));
    let mut handshake = vec![1, 0];
    handshake.extend(prefixed2(&body));
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(prefixed2(&handshake));
    record
}

fn extension(to: &mut Vec<u8>, kind: u16, content: &[u8]) {
    to.extend(kind.to_be_bytes());
    to.extend(prefixed2(content));
}

fn prefixed2(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("no part of a hello is this long");
    [&length.to_be_bytes(), content].concat()
}

/// Returns bytes that pass for a key if they are not checked.
pub(crate) fn filler(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(167) >> 2) as u8).collect()
}
