//! The simplest proxy with tokio: a reference that every proxy on tokio should be cheaper than.
//!
//! It reads the hello without parsing it, and calls `copy_bidirectional` for the rest.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::ADDRESSES;
use crate::hello::{self, ParsedHello};

/// Serves until it is killed.
///
/// # Errors
/// Returns an error if it cannot bind.
pub(crate) fn run(port: u16, backend_port: u16) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(accept(port, backend_port))
}

async fn accept(port: u16, backend_port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (client, source) = listener.accept().await?;
        // This hash is good enough for the test, because the addresses differ in their last byte.
        let SocketAddr::V4(source) = source else { continue };
        let backend = ADDRESSES[usize::from(source.ip().octets()[3]) % ADDRESSES.len()];
        tokio::spawn(serve(client, SocketAddr::from((backend, backend_port))));
    }
}

async fn serve(client: TcpStream, backend: SocketAddr) {
    // The other end sees the close; no other process needs the error.
    let _ = forward(client, backend).await;
}

#[allow(clippy::disallowed_methods)]
async fn forward(mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let heard = read_hello(&client).await?;
    let mut backend = TcpStream::connect(backend).await?;
    backend.set_nodelay(true)?;
    backend.write_all(&heard).await?;
    drop(heard);
    copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}

async fn read_hello(client: &TcpStream) -> io::Result<Vec<u8>> {
    let mut heard = Vec::with_capacity(2048);
    loop {
        client.readable().await?;
        match client.try_read_buf(&mut heard) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match hello::read(&heard) {
            ParsedHello::Incomplete => {}
            ParsedHello::Whole(..) => return Ok(heard),
            ParsedHello::Foreign => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
