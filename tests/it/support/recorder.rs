//! A backend that sends first and keeps what it receives, and clients that send a hello to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use super::{Backend, PATIENCE, Proxy};

/// A backend that greets every client with its own name, and keeps the bytes of each client up to its end.
pub(crate) struct Recorder {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicU64>,
    received: Mutex<mpsc::Receiver<Vec<u8>>>,
}

impl Recorder {
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let greeting = format!("{name}\n");
        let connections = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&connections);
        let (keep, received) = mpsc::channel();
        let backend = Backend::serve(move |mut stream| {
            counter.fetch_add(1, Ordering::Relaxed);
            let mut bytes = Vec::new();
            if stream.write_all(greeting.as_bytes()).is_ok() {
                let _ = stream.read_to_end(&mut bytes);
            }
            let _ = keep.send(bytes);
        });
        Self { name, address: backend.address, connections, received: Mutex::new(received) }
    }

    /// Starts several backends, named after a letter and a number.
    pub(crate) fn several(prefix: &str, count: usize) -> Vec<Self> {
        (0..count).map(|number| Self::start(format!("{prefix}{number}"))).collect()
    }

    /// Returns the backend as an entry of a pool's list.
    pub(crate) fn written(&self) -> String {
        self.weighing(1)
    }

    pub(crate) fn weighing(&self, weight: u16) -> String {
        format!(r#"{{ name = "{}", address = "{}", weight = {weight} }}"#, self.name, self.address)
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the next client that ends.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap().recv_timeout(PATIENCE).expect("a client came to its end")
    }
}

/// Returns the list of a pool's backends.
pub(crate) fn list<'a>(backends: impl IntoIterator<Item = &'a Recorder>) -> String {
    let backends: Vec<_> = backends.into_iter().map(Recorder::written).collect();
    format!("[{}]", backends.join(", "))
}

/// Sends a hello and returns the name of the backend that greets.
pub(crate) fn ask(proxy: &Proxy, hello: &[u8]) -> Result<String, Vec<u8>> {
    ask_on(proxy.connect(), hello)
}

/// Sends a hello on this connection and returns the name of the backend that greets. Without a greeting,
/// returns the bytes that came instead.
pub(crate) fn ask_on(mut stream: TcpStream, hello: &[u8]) -> Result<String, Vec<u8>> {
    stream.write_all(hello).unwrap();
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::new();
    reader.read_until(b'\n', &mut answer).expect("an answer and no reset");
    if answer.pop_if(|last| *last == b'\n').is_none() {
        return Err(answer);
    }
    let stream = reader.into_inner();
    finish(stream).expect("an end in order");
    Ok(String::from_utf8(answer).unwrap())
}

/// Ends the sending half, and reads to the end of the other half.
pub(crate) fn finish(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(rest)
}
