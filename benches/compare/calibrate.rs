//! A fixed piece of loopback work: how fast the CPU of the proxy is right now.
//!
//! Machines that are shared change their speed within seconds. CPU times divided by this speed can be
//! compared across minutes; the unit is microseconds of CPU for one small and one large message, as
//! their geometric mean, so that neither calls nor copies alone decide.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use nix::time::ClockId;

/// Size and number. Some 20 ms each: longer than the scheduler's slices, short against a test. A large one
/// fits into the socket buffers, for nobody reads while it is written.
const SMALL: (usize, usize) = (64, 3000);
const LARGE: (usize, usize) = (32 * 1024, 1500);

/// Does the work and prints the speed.
///
/// # Errors
/// When loopback sockets fail.
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

/// Microseconds of this thread's CPU per message.
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
