//! Connects to one of several addresses of a host, of which some may not answer (RFC 8305, section 5).
//!
//! A connect to the next address begins when the one before has failed, or a short time after it began. The first
//! connection is used, and the other connects end. Only this connection gets the first bytes of the client: they must not
//! go to two hosts.

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::announce::BackendPreface;
use super::attempt::{self, AttemptFailure, ConnectedBackend, DialTarget};
use crate::executor::sleep_until;
use crate::pool::DialSpec;
use crate::sys::Address;

/// The time from the start of a connect to the start of the next one (the recommended Connection Attempt Delay).
const DELAY: Duration = Duration::from_millis(250);

/// The limits of the connects, and the address of the client.
#[derive(Clone, Copy)]
pub(super) struct RaceSpec<'a> {
    pub(super) dial: &'a DialSpec,
    pub(super) client: Option<SocketAddr>,
    /// The time at which all connects end.
    pub(super) deadline: Instant,
}

/// The connects to the addresses of one host.
pub(super) struct Race<'a> {
    spec: RaceSpec<'a>,
    /// The addresses that were not tried.
    hosts: std::vec::IntoIter<SocketAddr>,
    /// The number of attempts that may still begin.
    left: u32,
    /// The connects in progress, the oldest one first.
    connects: Vec<HostConnect<'a>>,
}

/// A connect to one address.
struct HostConnect<'a> {
    host: SocketAddr,
    began: Instant,
    result: Pin<Box<dyn Future<Output = Result<ConnectedBackend, AttemptFailure>> + 'a>>,
}

/// An event of a race.
pub(super) enum RaceEvent {
    /// A connect to this address began.
    Begun(SocketAddr),
    /// The connect to this address has ended; it began at this time.
    Ended(SocketAddr, Instant, Result<ConnectedBackend, AttemptFailure>),
}

impl<'a> Race<'a> {
    /// Returns a race between at most `attempts` addresses.
    pub(super) fn new(spec: RaceSpec<'a>, hosts: std::vec::IntoIter<SocketAddr>, attempts: u32) -> Self {
        Self { spec, hosts, left: attempts, connects: Vec::new() }
    }

    /// Waits for the next event. Returns `None` if no connect is in progress and none may begin.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(super) async fn next(&mut self) -> Option<RaceEvent> {
        let due = match self.connects.last() {
            None => return self.begin().map(RaceEvent::Begun),
            Some(last) => last.began + DELAY,
        };
        let has_more = self.hosts.len() > 0 && self.left > 0 && due < self.spec.deadline;
        let pause = async { if has_more { sleep_until(due).await } else { pending().await } };
        tokio::select! {
            biased;
            (index, result) = first(&mut self.connects) => {
                let HostConnect { host, began, .. } = self.connects.remove(index);
                Some(RaceEvent::Ended(host, began, result))
            }
            () = pause => self.begin().map(RaceEvent::Begun),
        }
    }

    /// Returns the number of connects in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.connects.len()
    }

    /// Begins the connect to the next address.
    fn begin(&mut self) -> Option<SocketAddr> {
        let RaceSpec { dial, client, deadline } = self.spec;
        let began = Instant::now();
        let host = self.hosts.next().filter(|_| began < deadline && self.left > 0)?;
        self.left -= 1;
        let by = deadline.min(began + dial.connect_timeout);
        let result = Box::pin(async move {
            let address = Address::Tcp(host);
            let target = DialTarget { address: &address, spec: dial, client };
            attempt::ready(target, &BackendPreface::EMPTY, None, by, deadline).await
        });
        self.connects.push(HostConnect { host, began, result });
        Some(host)
    }
}

/// Waits for the first connect that ends. Returns its index and its result.
async fn first(connects: &mut [HostConnect<'_>]) -> (usize, Result<ConnectedBackend, AttemptFailure>) {
    poll_fn(|cx| {
        for (index, connect) in connects.iter_mut().enumerate() {
            if let Poll::Ready(result) = connect.result.as_mut().poll(cx) {
                return Poll::Ready((index, result));
            }
        }
        Poll::Pending
    })
    .await
}
