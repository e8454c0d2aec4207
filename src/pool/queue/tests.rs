use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Wake;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Two primaries and a backup with slots, and the queue before them.
#[derive(Default)]
struct QueueModel {
    queue: Queue,
    free: [Cell<usize>; 3],
    /// True if no backend is left to wait for.
    is_gone: Cell<bool>,
    /// The clients served, by their numbers, in order.
    served: RefCell<Vec<usize>>,
}

/// The backends that a client can use. It has tried no primary (`None`), one of them (0, 1), or both (2).
fn of_use(tried: Option<usize>) -> &'static [usize] {
    match tried {
        None => &[0, 1],
        Some(0) => &[1],
        Some(1) => &[0],
        Some(_) => &[2],
    }
}

impl QueueModel {
    fn attempt(&self, who: usize, tried: Option<usize>) -> QueueAttempt<usize> {
        if self.is_gone.get() {
            return QueueAttempt::Gone;
        }
        let is_free = |at: &usize| self.free[*at].get() > 0;
        let Some(at) = of_use(tried).iter().copied().find(is_free) else { return QueueAttempt::Full };
        self.free[at].set(self.free[at].get() - 1);
        self.served.borrow_mut().push(who);
        QueueAttempt::Took(at)
    }

    fn release(&self, at: usize) {
        self.free[at].set(self.free[at].get() + 1);
        self.queue.freed();
    }

    fn queued(&self, who: usize, tried: Option<usize>) -> Client<'_> {
        let needs = if tried.is_some() { WaiterNeeds::Some } else { WaiterNeeds::Any };
        let turn = self.queue.join(needs, usize::MAX).unwrap();
        let future = Box::pin(turn.come(move || self.attempt(who, tried)));
        Client { who, tried, future, woken: Arc::new(Woken(AtomicBool::new(true))) }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A waiter, and if it was woken since it was last polled.
struct Client<'a> {
    who: usize,
    tried: Option<usize>,
    future: Pin<Box<dyn Future<Output = Option<usize>> + 'a>>,
    woken: Arc<Woken>,
}

impl Client<'_> {
    /// Polls the client if it was woken. Returns its result if its wait is over.
    fn poll(&mut self) -> Option<Option<usize>> {
        if !self.woken.0.swap(false, Ordering::Relaxed) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(got) => Some(got),
            Poll::Pending => None,
        }
    }
}

/// Polls the woken clients until none is woken; returns the results in order.
fn settle(clients: &mut Vec<Client<'_>>) -> Vec<Option<usize>> {
    let mut got = Vec::new();
    while clients.iter().any(|client| client.woken.0.load(Ordering::Relaxed)) {
        clients.retain_mut(|client| {
            let ended = client.poll();
            got.extend(ended);
            ended.is_none()
        });
    }
    got
}

/// Returns true if a client waits though a usable slot is free.
fn is_stuck(model: &QueueModel, clients: &[Client<'_>]) -> bool {
    let is_free = |at: &usize| model.free[*at].get() > 0;
    clients.iter().any(|client| of_use(client.tried).iter().any(is_free))
}

#[test]
fn places_go_to_who_came_first() {
    let model = QueueModel::default();
    let mut clients: Vec<_> = (0..4).map(|who| model.queued(who, None)).collect();
    assert_eq!((settle(&mut clients), model.queue.waiting()), (vec![], 4));
    model.release(0);
    assert_eq!((settle(&mut clients), model.queue.waiting()), (vec![Some(0)], 3));
    model.release(1);
    model.release(0);
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [0, 1, 2]);
    assert_eq!(model.queue.waiting(), 1);
}

#[test]
fn nobody_overtakes_who_was_called() {
    let model = QueueModel::default();
    let mut clients = vec![model.queued(0, None)];
    settle(&mut clients);
    model.release(0);
    clients.insert(0, model.queued(1, None));
    // The newcomer is polled first.
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [0]);
}

#[test]
fn a_place_that_is_free_is_had_at_once() {
    let model = QueueModel::default();
    model.free[1].set(1);
    let mut client = model.queued(0, None);
    assert_eq!(client.poll(), Some(Some(1)));
    drop(client);
    assert_eq!(model.queue.waiting(), 0);
}

#[test]
fn a_queue_has_its_length() {
    let queue = Queue::default();
    let turns: Vec<_> = (0..3).filter_map(|_| queue.join(WaiterNeeds::Any, 2)).collect();
    assert_eq!((turns.len(), queue.waiting()), (2, 2));
    assert!(queue.join(WaiterNeeds::Any, 0).is_none());
    drop(turns);
    assert_eq!(queue.waiting(), 0);
    assert!(queue.join(WaiterNeeds::Any, 0).is_none() && queue.join(WaiterNeeds::Any, 1).is_some());
}

#[test]
fn who_leaves_when_called_passes_its_place_on() {
    let model = QueueModel::default();
    let mut clients: Vec<_> = (0..3).map(|who| model.queued(who, None)).collect();
    settle(&mut clients);
    model.release(0);
    clients.remove(0);
    assert_eq!(settle(&mut clients), [Some(0)]);
    assert_eq!((*model.served.borrow()).as_slice(), [1]);
    // A client that was not called leaves no trace.
    clients.remove(0);
    assert_eq!(model.queue.waiting(), 0);
}

#[test]
fn a_place_that_will_not_do_goes_to_who_it_does_for() {
    let model = QueueModel::default();
    let mut clients = vec![model.queued(0, Some(0)), model.queued(1, Some(1)), model.queued(2, None)];
    settle(&mut clients);
    model.release(0);
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [1]);
    model.release(0);
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [1, 2]);
    model.release(0);
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [1, 2], "who tried it has no use for it");
    clients.push(model.queued(3, None));
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [1, 2, 3], "but who comes has");
    assert!(model.queue.waiting() == 1 && !model.queue.is_before_newcomers());
}

#[test]
fn many_places_at_once_are_found_by_all() {
    let model = QueueModel::default();
    let mut clients: Vec<_> = (0..5).map(|who| model.queued(who, None)).collect();
    settle(&mut clients);
    model.free[0].set(3);
    model.queue.changed();
    settle(&mut clients);
    assert_eq!((*model.served.borrow()).as_slice(), [0, 1, 2]);
    model.is_gone.set(true);
    model.queue.changed();
    assert_eq!((settle(&mut clients), model.queue.waiting()), (vec![None, None], 0));
}

/// A step of a random sequence.
#[derive(Clone, Debug)]
enum Step {
    Join(Option<usize>),
    Release(usize),
    /// More slots than before, reported at once.
    Grow(usize, usize),
    Leave(prop::sample::Index),
    Poll(prop::sample::Index),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Join(None)),
        2 => (0..3_usize).prop_map(|at| Step::Join(Some(at))),
        4 => (0..3_usize).prop_map(Step::Release),
        1 => (0..3_usize, 1..4_usize).prop_map(|(at, by)| Step::Grow(at, by)),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        5 => any::<prop::sample::Index>().prop_map(Step::Poll),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// In any order of joins, leaves and polls: once no client is woken, none waits for a slot that is free.
    #[test]
    fn no_place_is_lost(steps in prop::collection::vec(step(), 0..60)) {
        let model = QueueModel::default();
        let mut clients = Vec::new();
        for (who, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join(tried) => clients.push(model.queued(who, tried)),
                Step::Release(at) => model.release(at),
                Step::Grow(at, by) => {
                    model.free[at].set(model.free[at].get() + by);
                    model.queue.changed();
                }
                Step::Leave(_) | Step::Poll(_) if clients.is_empty() => {}
                Step::Leave(at) => {
                    clients.remove(at.index(clients.len()));
                }
                Step::Poll(at) => {
                    let at = at.index(clients.len());
                    if clients[at].poll().is_some() {
                        clients.remove(at);
                    }
                }
                Step::Settle => {
                    settle(&mut clients);
                    prop_assert!(!is_stuck(&model, &clients));
                }
            }
            prop_assert_eq!(model.queue.waiting(), clients.len());
        }
        settle(&mut clients);
        prop_assert!(!is_stuck(&model, &clients));
        // The remaining clients get the slots that are returned then.
        let left = clients.len();
        for at in [0, 1, 2].repeat(left) {
            model.release(at);
            settle(&mut clients);
            prop_assert!(!is_stuck(&model, &clients));
        }
        prop_assert!(clients.is_empty());
        prop_assert_eq!(model.queue.waiting(), 0);
    }

    /// If all clients can use any slot, and each is polled as soon as it is woken, they are served in the
    /// order of arrival.
    #[test]
    fn the_order_is_kept(steps in prop::collection::vec(0..4_u8, 0..60), leave in any::<prop::sample::Index>()) {
        let model = QueueModel::default();
        let mut clients: Vec<Client<'_>> = Vec::new();
        for (who, step) in steps.into_iter().enumerate() {
            match step {
                0 | 1 => clients.push(model.queued(who, None)),
                2 => model.release(0),
                _ if clients.is_empty() => {}
                _ => {
                    clients.remove(leave.index(clients.len()));
                }
            }
            // From the last to the first: the order of polls does not decide.
            clients.reverse();
            settle(&mut clients);
            clients.sort_by_key(|client| client.who);
        }
        prop_assert!(model.served.borrow().is_sorted(), "{:?}", model.served.borrow());
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, until it is ready or for so many polls.
fn block_on<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    for poll in 1..=polls {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(result);
        }
        if poll < polls {
            let began = Instant::now();
            thread::park_timeout(Duration::from_secs(20));
            assert!(began.elapsed() < Duration::from_secs(19), "no waiter was woken");
        }
    }
    None
}

/// Threads take slots, return them and now and then leave while they wait. A lost slot leaves a thread waiting for
/// ever.
#[test]
fn threads_lose_no_place() {
    const PLACES: usize = 2;
    let (queue, held, served) = (Queue::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let take = || {
        let one_more = |held| (held < PLACES).then_some(held + 1);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    };
    thread::scope(|threads| {
        for thread in 0..6 {
            let (queue, held, served, take) = (&queue, &held, &served, &take);
            threads.spawn(move || {
                for round in 0..3000 {
                    let mut got = !queue.is_before_newcomers() && take();
                    if !got {
                        let turn = queue.join(WaiterNeeds::Any, 100).unwrap();
                        let attempt = || if take() { QueueAttempt::Took(()) } else { QueueAttempt::Full };
                        let polls = if (round + thread) % 3 == 0 { 1 } else { usize::MAX };
                        got = block_on(turn.come(attempt), polls).is_some();
                    }
                    if got {
                        assert!(held.load(Ordering::Relaxed) <= PLACES);
                        served.fetch_add(1, Ordering::Relaxed);
                        held.fetch_sub(1, Ordering::SeqCst);
                        queue.freed();
                    }
                }
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 6 * 3000 / 3);
    assert_eq!((held.load(Ordering::Relaxed), queue.waiting()), (0, 0));
}
