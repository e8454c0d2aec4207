//! The client of the admin listener: sends one request to a running pointsman over a plain blocking socket,
//! and reads one answer.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::sys::socket::ConnectSource;
use crate::sys::{Address, self_connect};

/// The largest answer that is accepted: far larger than the metrics of the largest configuration. It is a
/// bound in case another program listens on that address.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The size of one read.
const CHUNK: usize = 64 * 1024;

/// An admin listener, as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTarget {
    /// Its address.
    pub address: Address,
    /// The token that is sent with requests.
    pub token: Option<String>,
}

impl<T: Into<Address>> From<T> for AdminTarget {
    fn from(address: T) -> Self {
        Self { address: address.into(), token: None }
    }
}

/// Sends a GET for `path` to an admin listener and returns the status code and the body. The whole exchange
/// may take `timeout`. It blocks, so it must not run on a thread of a runtime. An unspecified address
/// (0.0.0.0) means this host.
///
/// # Errors
///
/// - an error of the connection
/// - `TimedOut`
/// - `InvalidInput`: the path does not begin with `/`, or the path or the token has spaces, control characters or
///   characters beyond ASCII
/// - `UnexpectedEof`: the answer is truncated, or the listener has too many connections
/// - `InvalidData`: the answer is too large (64 MiB), is not UTF-8 or is not HTTP
pub fn ask(at: impl Into<AdminTarget>, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    request(at.into(), "GET", path, timeout)
}

/// Requests a change by `method`, such as `POST` or `DELETE`, without content. In all else it is like
/// [`ask`].
///
/// # Errors
///
/// Those of [`ask`].
pub fn change(
    at: impl Into<AdminTarget>,
    method: &'static str,
    path: &str,
    timeout: Duration,
) -> io::Result<(u16, String)> {
    request(at.into(), method, path, timeout)
}

fn request(at: AdminTarget, method: &str, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let AdminTarget { address, token } = at;
    let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !is_word(path) || !token.as_deref().is_none_or(is_word) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path, or not a token"));
    }
    let deadline = Instant::now() + timeout;
    let mut socket = connect(&address, deadline)?;
    socket.set_write_timeout(Some(left(deadline)?))?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    // With HTTP/1.0 the answer comes in one piece and ends with the connection.
    socket.write_all(format!("{method} {path} HTTP/1.0\r\n{token}\r\n").as_bytes()).map_err(timed_out)?;
    let answer = read(&mut socket, deadline)?;
    parse(&answer)
}

fn connect(address: &Address, deadline: Instant) -> io::Result<Socket> {
    let target = match address {
        Address::Tcp(address) => SockAddr::from(*address),
        Address::Scoped(scoped) => SockAddr::from(scoped.resolve()?),
        Address::Unix(path) => SockAddr::unix(path)?,
    };
    let socket = Socket::new(Domain::from(i32::from(target.family())), Type::STREAM, None)?;
    let timeout = left(deadline)?;
    if let Address::Unix(_) = address {
        // A blocking connect waits this long for room in the accept queue; a non-blocking one would fail at once.
        socket.set_write_timeout(Some(timeout))?;
        socket.connect(&target).map_err(timed_out)?;
    } else {
        socket.connect_timeout(&target, timeout).map_err(timed_out)?;
        // A connect to its own socket, where no listener is, would return the request as the answer.
        self_connect::refuse(&socket, address, ConnectSource::Any)?;
    }
    Ok(socket)
}

/// Returns the time until the deadline, always more than 0.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Reads to the end of the stream, or fails at the deadline or the bound.
fn read(stream: &mut Socket, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) if answer.len() + count > LARGEST_ANSWER => {
                return Err(invalid("the answer is too large"));
            }
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
}

/// Turns `WouldBlock` into `TimedOut`: the kernel returns it when the timeout of a blocking socket is over.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn parse(answer: &[u8]) -> io::Result<(u16, String)> {
    let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(cut_off)?;
    let head = str::from_utf8(&answer[..end]).map_err(|_| invalid("the answer is not HTTP"))?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let code = lines.next().and_then(status_code).ok_or_else(|| invalid("the answer is not HTTP"))?;
    if lines.find_map(content_length).is_some_and(|length| body.len() < length) {
        return Err(cut_off());
    }
    let body = str::from_utf8(body).map_err(|_| invalid("the answer is not UTF-8"))?;
    Ok((code, body.to_owned()))
}

fn status_code(line: &str) -> Option<u16> {
    let mut words = line.strip_prefix("HTTP/1.")?.split(' ');
    words.next()?;
    words.next()?.parse().ok().filter(|code| (100..600).contains(code))
}

fn content_length(line: &str) -> Option<usize> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn check(answer: &[u8], expected: Result<(u16, &str), io::ErrorKind>) {
        let expected = expected.map(|(code, body)| (code, body.to_owned()));
        let found = parse(answer).map_err(|error| error.kind());
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(answer));
    }

    #[test]
    fn answers_are_parsed() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        check(b"HTTP/1.0 200 OK\r\n\r\n", Ok((200, "")));
        check(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\ndraining\n", Ok((503, "draining\n")));
        check(b"HTTP/1.0 204\r\n\r\n", Ok((204, "")));
        check(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok((200, "abc")));
        check(b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nabc", Err(UnexpectedEof));
        check(b"HTTP/1.0 200 OK\r\n", Err(UnexpectedEof));
        check(b"", Err(UnexpectedEof));
        check(b"SSH-2.0-x\r\n\r\n", Err(InvalidData));
        check(b"HTTP/1.0 2000 OK\r\n\r\n", Err(InvalidData));
        check(b"HTTP/1.0 x\r\n\r\n", Err(InvalidData));
        check(b"HTTP/1.0 200 OK\r\n\r\n\xff", Err(InvalidData));
        check(b"\xff\r\n\r\n", Err(InvalidData));
    }

    /// Sends a request to another program, which sends `answer` and then keeps the connection open until the
    /// client ends it.
    fn ask_other_program(answer: &'static [u8], path: &str, timeout: Duration) -> io::ErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(answer).is_ok() && !answer.is_empty() {}
            let _ = stream.read_to_end(&mut Vec::new());
        });
        ask(address, path, timeout).unwrap_err().kind()
    }

    #[test]
    fn a_program_that_does_not_answer_is_not_waited_for() {
        let timeout = Duration::from_millis(100);
        assert_eq!(ask_other_program(b"", "/ready", timeout), io::ErrorKind::TimedOut);
        assert_eq!(ask_other_program(b"x", "/ready", timeout), io::ErrorKind::TimedOut);
        assert_eq!(ask_other_program(b"", "/ready", Duration::ZERO), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let answer = ask_other_program(&[b'x'; 1 << 20], "/metrics", Duration::from_secs(60));
        assert_eq!(answer, io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_path_and_a_token_cannot_forge_a_request() {
        let check = |path: &str, token: Option<&str>| {
            let address = "127.0.0.1:1".parse().unwrap();
            let at = AdminTarget { address, token: token.map(str::to_owned) };
            let kind = ask(at, path, Duration::from_secs(1)).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{path:?} {token:?}");
        };
        for path in ["", "ready", "/a b", "/a\r\nB: c", "/é"] {
            check(path, None);
        }
        for token in ["a b", "a\r\nB: c", "é", "a\n"] {
            check("/", Some(token));
        }
    }

    #[test]
    fn a_unix_socket_is_asked_with_the_token() {
        let path = std::env::temp_dir().join(format!("pointsman-ask-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let address = Address::Unix(path.as_path().into());
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 64];
            let count = stream.read(&mut asked).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nyes").unwrap();
            String::from_utf8(asked[..count].to_vec()).unwrap()
        });
        let answer = ask(
            AdminTarget { address: address.clone(), token: Some("secret".to_owned()) },
            "/ready",
            Duration::from_secs(20),
        )
        .unwrap();
        assert_eq!(answer, (200, "yes".to_owned()));
        assert_eq!(asked.join().unwrap(), "GET /ready HTTP/1.0\r\nAuthorization: Bearer secret\r\n\r\n");
        let gone = ask(address, "/", Duration::from_secs(20)).unwrap_err().kind();
        assert_eq!(gone, io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_unix_socket_with_a_full_queue_is_asked_again() {
        let path = std::env::temp_dir().join(format!("pointsman-ask-full-{}", std::process::id()));
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let listener = UnixListener::from(listener);
        let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let address = Address::Unix(path.as_path().into());
        let error = ask(address.clone(), "/", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let asked = thread::spawn(move || ask(address, "/ready", Duration::from_secs(20)));
        drop((listener.accept().unwrap(), waiting));
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nyes").unwrap();
        drop(stream);
        assert_eq!(asked.join().unwrap().unwrap(), (200, "yes".to_owned()));
        std::fs::remove_file(path).unwrap();
    }

    proptest! {
        #[test]
        fn no_answer_panics(head in "HTTP/1.[01] [0-9]{0,4}[ a-z\r\n:]{0,40}", body in any::<Vec<u8>>()) {
            let _ = parse(&body);
            let _ = parse(&[head.as_bytes(), b"\r\n\r\n", &body].concat());
        }
    }
}
