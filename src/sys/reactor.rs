//! Waits for many sockets at once: one epoll instance for each thread.
//!
//! A socket is registered once for its whole life, edge-triggered and for everything, and leaves by
//! being closed: one call instead of two or more. What the kernel has reported is remembered as a few
//! bits, and only those who try the socket and hear "would block" take them back.

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

/// Events taken from the kernel at once: what one look may cost before the tasks have their turn.
const BATCH: usize = 512;

/// Stands for the bell among the sockets, whose keys never get so large.
const BELL: u64 = u64::MAX;

/// What the kernel has reported of a socket and nobody has found used up since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness(u8);

impl Readiness {
    /// Bytes, or a connection to accept.
    pub(super) const READ: Self = Self(1);
    /// Room for bytes.
    pub(super) const WRITE: Self = Self(1 << 1);
    /// Urgent data was announced; it stays.
    pub(super) const URGENT: Self = Self(1 << 2);
    /// The peer has ended, so reading never blocks again.
    pub(super) const ENDED: Self = Self(1 << 3);
    /// Nothing can be written any more, so writing never blocks again.
    pub(super) const SHUT: Self = Self(1 << 4);
    /// The connection failed; it stays.
    pub(super) const ERROR: Self = Self(1 << 5);
    /// Nothing was reported yet.
    pub(super) const NONE: Self = Self(0);

    /// A read would tell something.
    pub(super) const READABLE: Self = Self(Self::READ.0 | Self::ENDED.0);
    /// A write would tell something.
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

/// A thread's epoll instance and what it has told.
pub struct Reactor {
    epoll: Epoll,
    slots: RefCell<Slab<RegisteredSocket>>,
    /// Rises with every registration, to tell a socket from an earlier one in the same slot.
    generation: Cell<u32>,
    events: RefCell<Vec<EpollEvent>>,
    wakeup: Arc<EventFd>,
}

/// One registered socket.
struct RegisteredSocket {
    generation: u32,
    ready: Readiness,
    /// Who waits for it: one task at a time.
    waker: Option<Waker>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

impl Reactor {
    /// A reactor without sockets.
    ///
    /// # Errors
    ///
    /// Those of `epoll_create1` and `eventfd`: out of descriptors or memory.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wakeup, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        Ok(Rc::new(Self {
            epoll,
            slots: RefCell::default(),
            generation: Cell::new(0),
            events: RefCell::new(vec![EpollEvent::empty(); BATCH]),
            wakeup: Arc::new(wakeup),
        }))
    }

    /// Makes this the reactor of the thread until the guard is dropped; sockets are registered with it.
    pub fn enter(self: &Rc<Self>) -> ReactorScope {
        ReactorScope(CURRENT.replace(Some(Rc::clone(self))))
    }

    /// A way for other threads to end [`Reactor::wait`].
    pub fn wakeup(&self) -> Wakeup {
        Wakeup(Arc::clone(&self.wakeup))
    }

    /// Waits until something has happened or `patience` is over (`None` is for ever), remembers it and
    /// wakes those concerned. Whether the bell was rung.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait`, none of which is to be expected.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let mut events = self.events.borrow_mut();
        let count = match self.epoll.wait(&mut events, timeout(patience)) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut rung = false;
        for event in &events[..count] {
            if event.data() == BELL {
                rung = true;
                let _ = self.wakeup.read();
            } else {
                self.report(event.data(), Readiness::of(event.events()));
            }
        }
        Ok(rung)
    }

    fn report(&self, data: u64, news: Readiness) {
        let mut slots = self.slots.borrow_mut();
        let (key, generation) = split(data);
        // A socket may live on in another process after it was closed here.
        let Some(slot) = slots.get_mut(key).filter(|slot| slot.generation == generation) else { return };
        let known = slot.ready;
        slot.ready = Readiness(known.0 | news.0);
        // Whoever waits, waits for something that was not known.
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

/// Keeps a reactor the one of its thread; then the earlier one, if any, is it again.
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
    /// Ends the wait that is going on, or the next one.
    pub fn ring(&self) {
        // It can only fail because it has been rung too often already.
        let _ = self.0.write(1);
    }
}

/// A socket's place in the reactor of its thread. Dropped after the socket was closed: that takes it
/// out of epoll.
pub(super) struct SocketRegistration {
    reactor: Rc<Reactor>,
    key: u32,
}

impl SocketRegistration {
    /// Registers a socket of which `known` is true already.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// On a thread without a reactor.
    pub(super) fn new(fd: impl AsFd, known: Readiness) -> io::Result<Self> {
        let reactor =
            CURRENT.with_borrow(Clone::clone).expect("sockets are registered by a thread with a reactor");
        let generation = reactor.generation.get().wrapping_add(1);
        reactor.generation.set(generation);
        let slot = RegisteredSocket { generation, ready: known, waker: None };
        let key =
            u32::try_from(reactor.slots.borrow_mut().insert(slot)).expect("fewer sockets than descriptors");
        let watch = Self { reactor, key };
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLET;
        watch.reactor.epoll.add(fd, EpollEvent::new(interest, join(key, generation)))?;
        Ok(watch)
    }

    /// Takes the socket out of epoll although it stays open.
    pub(super) fn remove(self, fd: &OwnedFd) {
        self.leave(fd);
    }

    /// The same for a socket that is about to be closed here and stays open elsewhere.
    pub(super) fn leave(&self, fd: &OwnedFd) {
        let _ = self.reactor.epoll.delete(fd);
    }

    /// Whether any of `wanted` is known.
    pub(super) fn is(&self, wanted: Readiness) -> bool {
        self.reactor.slots.borrow()[self.key as usize].ready.meets(wanted)
    }

    /// Ready when any of `wanted` is known; otherwise the task is woken by the next news.
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

    /// Notes that `what` is used up; the kernel tells when there is more.
    pub(super) fn clear(&self, what: Readiness) {
        self.reactor.slots.borrow_mut()[self.key as usize].ready.0 &= !what.0;
    }
}

impl Drop for SocketRegistration {
    fn drop(&mut self) {
        self.reactor.slots.borrow_mut().remove(self.key as usize);
    }
}

/// epoll counts in milliseconds: rounded up, so that what is waited for has come.
fn timeout(patience: Option<Duration>) -> EpollTimeout {
    let Some(patience) = patience else { return EpollTimeout::NONE };
    let millis = patience.as_nanos().div_ceil(1_000_000);
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
    fn only_news_wakes() {
        let reactor = Reactor::new().unwrap();
        let _entered = reactor.enter();
        let (near, mut far) = UnixStream::pair().unwrap();
        let watch = SocketRegistration::new(&near, Readiness::WRITE).unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let woken = || count.0.load(Ordering::Relaxed);
        assert!(watch.poll(&mut cx, Readiness::READABLE).is_pending());
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 0, "that it can be written was known");
        far.write_all(b"x").unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 1);
        assert!(watch.poll(&mut cx, Readiness::READABLE).is_ready());
        far.write_all(b"x").unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 1, "nobody has read yet");
        watch.clear(Readiness::READ);
        assert!(watch.poll(&mut cx, Readiness::READABLE).is_pending());
        far.shutdown(Shutdown::Write).unwrap();
        reactor.wait(NOW).unwrap();
        assert_eq!(woken(), 2);
        watch.clear(Readiness::READ);
        assert!(watch.is(Readiness::READABLE), "the end stays");
        assert!(!watch.is(Readiness::ERROR));
    }

    #[test]
    fn a_slot_knows_its_own_socket() {
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
    fn the_bell_is_heard_once() {
        let reactor = Reactor::new().unwrap();
        let wakeup = reactor.wakeup();
        std::thread::spawn(move || (wakeup.ring(), wakeup.ring())).join().unwrap();
        assert!(reactor.wait(None).unwrap());
        assert!(!reactor.wait(NOW).unwrap());
    }

    #[test]
    fn a_wait_is_never_too_short() {
        let check = |patience, expected: i32| {
            assert_eq!(timeout(patience), EpollTimeout::try_from(expected).unwrap())
        };
        check(Some(Duration::ZERO), 0);
        check(Some(Duration::from_nanos(1)), 1);
        check(Some(Duration::from_millis(5)), 5);
        assert_eq!(timeout(Some(Duration::MAX)), EpollTimeout::MAX);
        assert_eq!(timeout(None), EpollTimeout::NONE);
    }
}
