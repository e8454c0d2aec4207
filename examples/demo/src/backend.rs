//! A backend: a small HTTPS server that answers with its color.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::DemoResult;

/// A TLS server on loopback that can be stopped and started.
pub(crate) struct Backend {
    color: &'static str,
    pub(crate) address: SocketAddr,
    tls: Arc<ServerConfig>,
    /// Shared with the thread that accepts.
    stopped: Arc<AtomicBool>,
}

impl Backend {
    pub(crate) fn new(color: &'static str, tls: Arc<ServerConfig>) -> DemoResult<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let backend = Self { color, address, tls, stopped: Arc::default() };
        backend.serve(listener);
        Ok(backend)
    }

    fn serve(&self, listener: TcpListener) {
        let (color, tls, stopped) = (self.color, Arc::clone(&self.tls), Arc::clone(&self.stopped));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let tls = Arc::clone(&tls);
                thread::spawn(move || answer(color, socket, tls));
            }
        });
    }

    /// Closes the listening socket, so that connections are refused. Returns false if it was already closed.
    pub(crate) fn stop(&self) -> bool {
        if self.stopped.swap(true, Ordering::Relaxed) {
            return false;
        }
        // The first connection wakes the thread that accepts, which then ends.
        while TcpStream::connect(self.address).is_ok() {}
        true
    }

    /// Listens at the same address again. Returns false if the backend was not stopped.
    pub(crate) fn start(&self) -> DemoResult<bool> {
        if !self.stopped.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let listener = TcpListener::bind(self.address)?;
        self.stopped.store(false, Ordering::Relaxed);
        self.serve(listener);
        Ok(true)
    }
}

/// Reads the head of a request and answers with the color. A client that sends no request gets the answer too.
fn answer(color: &str, socket: TcpStream, tls: Arc<ServerConfig>) {
    let Ok(session) = ServerConnection::new(tls) else { return };
    let mut reader = BufReader::new(StreamOwned::new(session, socket));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let body = format!("hello from {color}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let stream = reader.get_mut();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
