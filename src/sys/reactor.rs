//! Waits for many sockets at once: one epoll instance for each thread.
//!
//! A socket is registered once, for as long as it is open, edge-triggered and for all events. Its close removes it from
//! epoll. So a socket costs one system call for epoll instead of two or more. The reactor stores the kernel's reports
//! as a few bits. Only code that tries the socket and gets "would block" clears them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use slab::Slab;

/// The most events taken from the kernel at once. It bounds the time of one poll before tasks have their turns.
const BATCH: usize = 512;

/// The key of the wakeup's eventfd. Keys of sockets never get so large.
const WAKEUP_KEY: u64 = u64::MAX;

/// The events that the kernel has reported of a socket and that are not used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness(u8);

impl Readiness {
    /// There are bytes to read, or a connection to accept.
    pub(super) const READ: Self = Self(1);
    /// There is room for bytes.
    pub(super) const WRITE: Self = Self(1 << 1);
    /// Urgent data was announced. The bit is never cleared.
    pub(super) const URGENT: Self = Self(1 << 2);
    /// The peer has ended its direction, so a read never blocks again.
    pub(super) const ENDED: Self = Self(1 << 3);
    /// No more bytes can be written, so a write never blocks again.
    pub(super) const SHUT: Self = Self(1 << 4);
    /// The connection failed. The bit is never cleared.
    pub(super) const ERROR: Self = Self(1 << 5);
    /// No event was reported yet.
    pub(super) const NONE: Self = Self(0);

    /// A read does not block.
    pub(super) const READABLE: Self = Self(Self::READ.0 | Self::ENDED.0);
    /// A write does not block.
    pub(super) const WRITABLE: Self = Self(Self::WRITE.0 | Self::SHUT.0);

    fn of(flags: EpollFlags) -> Self {
        let when = |cause, effect: Self| if flags.intersects(cause) { effect.0 } else { 0 };
        let failed = Self::ERROR.0 | Self::ENDED.0 | Self::SHUT.0;
        Self(
            when(EpollFlags::EPOLLIN, Self::READ)
                | when(EpollFlags::EPOLLOUT, Self::WRITE)
                | when(EpollFlags::EPOLLPRI, Self::URGENT)
                | when(EpollFlags::EPOLLRDHUP, Self::ENDED)
                | when(EpollFlags::EPOLLHUP, Self(Self::ENDED.0 | Self::SHUT.0))
                | when(EpollFlags::EPOLLERR, Self(failed)),
        )
    }

    fn meets(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// The epoll instance of a thread, and the events that it has reported.
pub struct Reactor {
    epoll: Epoll,
    slots: RefCell<Slab<RegisteredSocket>>,
    /// Incremented at every registration, so that a socket differs from an earlier one in the same slot.
    generation: Cell<u32>,
    events: RefCell<Vec<EpollEvent>>,
    wakeup: Arc<EventFd>,
}

/// One registered socket.
struct RegisteredSocket {
    generation: u32,
    ready: Readiness,
    /// The task that waits for the socket, at most one at a time.
    waker: Option<Waker>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

impl Reactor {
    /// Creates a reactor without sockets.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_create1` and `eventfd`: out of descriptors or memory.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wakeup, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKEUP_KEY))?;
        Ok(Rc::new(Self {
            epoll,
            slots: RefCell::default(),
            generation: Cell::new(0),
            events: RefCell::new(vec![EpollEvent::empty(); BATCH]),
            wakeup: Arc::new(wakeup),
        }))
    }

    /// Makes this the reactor of the thread until the guard is dropped. New sockets are registered with it.
    pub fn enter(self: &Rc<Self>) -> ReactorScope {
        ReactorScope(CURRENT.replace(Some(Rc::clone(self))))
    }

    /// Returns a handle by which other threads end [`Reactor::wait`].
    pub fn wakeup(&self) -> Wakeup {
        Wakeup(Arc::clone(&self.wakeup))
    }

    /// Waits for events for at most `max_wait` (`None` is without a bound), stores them and wakes the tasks that wait
    /// for them. Returns true if another thread used the wakeup.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_wait`, none of which is expected.
    pub fn wait(&self, max_wait: Option<Duration>) -> io::Result<bool> {
        let mut events = self.events.borrow_mut();
        let count = match self.epoll.wait(&mut events, timeout(max_wait)) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut is_woken = false;
        for event in &events[..count] {
            if event.data() == WAKEUP_KEY {
                is_woken = true;
                let _ = self.wakeup.read();
            } else {
                self.report(event.data(), Readiness::of(event.events()));
            }
        }
        Ok(is_woken)
    }

    fn report(&self, data: u64, reported: Readiness) {
        let mut slots = self.slots.borrow_mut();
        let (key, generation) = split(data);
        // A socket may stay open in another process after it was closed here.
        let Some(slot) = slots.get_mut(key).filter(|slot| slot.generation == generation) else { return };
        let known = slot.ready;
        slot.ready = Readiness(known.0 | reported.0);
        // A task waits only for events that were not reported before.
        if slot.ready != known
            && let Some(waker) = &slot.waker
        {
            waker.wake_by_ref();
        }
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("sockets", &self.slots.borrow().len()).finish_non_exhaustive()
    }
}

/// Makes its reactor the current reactor of the thread while this value exists. The drop restores the previous
/// reactor, if there was one.
#[derive(Debug)]
pub struct ReactorScope(Option<Rc<Reactor>>);

impl Drop for ReactorScope {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Ends a [`Reactor::wait`] from any thread.
#[derive(Clone, Debug)]
pub struct Wakeup(Arc<EventFd>);

impl Wakeup {
    /// Ends the present wait, or else the next wait.
    pub fn wake(&self) {
        // The write fails only if the counter is full, and then the wait ends anyway.
        let _ = self.0.write(1);
    }
}

/// The registration of a socket with the reactor of its thread. The close of a socket removes it from epoll. So the
/// registration must be dropped after the close.
pub(super) struct SocketRegistration {
    reactor: Rc<Reactor>,
    key: u32,
}

impl SocketRegistration {
    /// Registers a socket for which the events of `known` hold already.
    ///
    /// # Errors
    ///
    /// Errors of `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// Panics on a thread without a reactor.
    pub(super) fn new(fd: impl AsFd, known: Readiness) -> io::Result<Self> {
        let reactor =
            CURRENT.with_borrow(Clone::clone).expect("sockets are registered by a thread with a reactor");
        let generation = reactor.generation.get().wrapping_add(1);
        reactor.generation.set(generation);
        let slot = RegisteredSocket { generation, ready: known, waker: None };
        let key =
            u32::try_from(reactor.slots.borrow_mut().insert(slot)).expect("fewer sockets than descriptors");
        let registration = Self { reactor, key };
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLET;
        registration.reactor.epoll.add(fd, EpollEvent::new(interest, join(key, generation)))?;
        Ok(registration)
    }

    /// Removes the socket from epoll although it stays open.
    pub(super) fn remove(self, fd: &OwnedFd) {
        self.leave(fd);
    }

    /// Removes a socket from epoll that is about to be closed here and stays open elsewhere.
    pub(super) fn leave(&self, fd: &OwnedFd) {
        let _ = self.reactor.epoll.delete(fd);
    }

    /// Returns true if any event of `wanted` was reported.
    pub(super) fn is(&self, wanted: Readiness) -> bool {
        self.reactor.slots.borrow()[self.key as usize].ready.meets(wanted)
    }

    /// Is ready if any event of `wanted` was reported; else the next new event wakes the task.
    pub(super) fn poll(&self, cx: &mut Context<'_>, wanted: Readiness) -> Poll<()> {
        let mut slots = self.reactor.slots.borrow_mut();
        let slot = &mut slots[self.key as usize];
        if slot.ready.meets(wanted) {
            return Poll::Ready(());
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Clears the events of `used`. The kernel reports them when they occur again.
    pub(super) fn clear(&self, used: Readiness) {
        self.reactor.slots.borrow_mut()[self.key as usize].ready.0 &= !used.0;
    }
}

impl Drop for SocketRegistration {
    fn drop(&mut self) {
        self.reactor.slots.borrow_mut().remove(self.key as usize);
    }
}

/// Converts a time to milliseconds, the unit of epoll. It rounds up, so that a timer is due when the wait ends.
fn timeout(max_wait: Option<Duration>) -> EpollTimeout {
    let Some(max_wait) = max_wait else { return EpollTimeout::NONE };
    let millis = max_wait.as_nanos().div_ceil(1_000_000);
    i32::try_from(millis)
        .ok()
        .and_then(|millis| EpollTimeout::try_from(millis).ok())
        .unwrap_or(EpollTimeout::MAX)
}

fn join(key: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(key)
}

fn split(data: u64) -> (usize, u32) {
    (data as u32 as usize, (data >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_new_events_wake() {
        let reactor = Reactor::new().unwrap();
        let _entered = reactor.enter();
        let (near, mut far) = UnixStream::pair().unwrap();
        let registration = SocketRegistration::new(&near, Readiness::WRITE).unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let woken = || count.0.load(Ordering::Relaxed);
        assert!(registration.poll(&mut cx, Readiness::READABLE).is_pending());
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 0, "that it can be written was known");
        far.write_all(b"x").unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 1);
        assert!(registration.poll(&mut cx, Readiness::READABLE).is_ready());
        far.write_all(b"x").unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 1, "no byte was read yet");
        registration.clear(Readiness::READ);
        assert!(registration.poll(&mut cx, Readiness::READABLE).is_pending());
        far.shutdown(Shutdown::Write).unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 2);
        registration.clear(Readiness::READ);
        assert!(registration.is(Readiness::READABLE), "the end stays");
        assert!(!registration.is(Readiness::ERROR));
    }

    #[test]
    fn a_slot_reports_only_its_own_socket() {
        let reactor = Reactor::new().unwrap();
        let _entered = reactor.enter();
        let (near, mut far) = UnixStream::pair().unwrap();
        let stays_open = near.try_clone().unwrap();
        let old = SocketRegistration::new(&near, Readiness::NONE).unwrap();
        let key = old.key;
        drop((near, old));
        let (other, _its_peer) = UnixStream::pair().unwrap();
        let new = SocketRegistration::new(&other, Readiness::WRITE).unwrap();
        assert_eq!(new.key, key);
        far.write_all(b"x").unwrap();
        reactor.wait(NOW).unwrap();
        assert!(!new.is(Readiness::READABLE));
        drop(stays_open);
    }

    #[test]
    fn a_wakeup_ends_one_wait() {
        let reactor = Reactor::new().unwrap();
        let wakeup = reactor.wakeup();
        std::thread::spawn(move || (wakeup.wake(), wakeup.wake())).join().unwrap();
        assert!(reactor.wait(None).unwrap());
        assert!(!reactor.wait(NOW).unwrap());
    }

    #[test]
    fn a_wait_is_never_too_short() {
        let check = |max_wait, expected: i32| {
            assert_eq!(timeout(max_wait), EpollTimeout::try_from(expected).unwrap())
        };
        check(Some(Duration::ZERO), 0);
        check(Some(Duration::from_nanos(1)), 1);
        check(Some(Duration::from_millis(5)), 5);
        assert_eq!(timeout(Some(Duration::MAX)), EpollTimeout::MAX);
        assert_eq!(timeout(None), EpollTimeout::NONE);
    }
}
