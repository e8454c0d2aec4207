//! A fixed piece of loopback work, which measures the present speed of the proxy's CPU.
//!
//! Shared machines change their speed within seconds. A CPU time divided by this speed can be compared with a
//! CPU time of minutes later. The unit is microseconds of CPU for one small and one large message. Their
//! geometric mean is taken, so that neither system calls nor copies decide alone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use nix::time::ClockId;

/// The size and the number of the messages. Each kind takes some 20 ms, which is longer than the time slices
/// of the scheduler and short beside a test. A large message fits into the socket buffers, because no other
/// thread reads while it is written.
const SMALL: (usize, usize) = (64, 3000);
const LARGE: (usize, usize) = (32 * 1024, 1500);

/// Does the work and prints the speed.
///
/// # Errors
/// Returns an error if the loopback sockets fail.
pub(crate) fn run() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    // The first messages grow buffers and warm caches.
    exchange(&near, &far, LARGE.0, 50)?;
    let small = exchange(&near, &far, SMALL.0, SMALL.1)?;
    let large = exchange(&near, &far, LARGE.0, LARGE.1)?;
    println!("{}", (small * large).sqrt());
    Ok(())
}

/// Returns the CPU time of this thread for one message, in microseconds.
fn exchange(mut near: &TcpStream, mut far: &TcpStream, size: usize, count: usize) -> io::Result<f64> {
    let mut message = vec![1; size];
    let began = ClockId::CLOCK_THREAD_CPUTIME_ID.now()?;
    for _ in 0..count {
        near.write_all(&message)?;
        far.read_exact(&mut message)?;
    }
    let spent = std::time::Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?)
        .saturating_sub(std::time::Duration::from(began));
    Ok(spent.as_secs_f64() * 1e6 / count as f64)
}
