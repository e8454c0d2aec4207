use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use super::*;

fn run<T>(root: impl Future<Output = T>) -> T {
    Executor::new().unwrap().block_on(root).unwrap()
}

/// A task that records each of its turns.
async fn take_turns(name: char, turns: usize, record: Rc<RefCell<String>>) -> TaskNext {
    for _ in 0..turns {
        record.borrow_mut().push(name);
        yield_now().await;
    }
    TaskNext::Done
}

#[test]
fn a_task_that_always_wakes_itself_delays_no_other_task() {
    let record = Rc::new(RefCell::new(String::new()));
    run(async {
        spawn(take_turns('a', 3, Rc::clone(&record)));
        spawn(take_turns('b', 2, Rc::clone(&record)));
        while Rc::strong_count(&record) > 1 {
            yield_now().await;
        }
    });
    assert_eq!(*record.borrow(), "ababa");
}

#[test]
fn a_task_becomes_another() {
    struct CountsDrops(Rc<Cell<u8>>);
    impl Drop for CountsDrops {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let (dropped, result) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    run(async {
        let (first, seen) = (CountsDrops(Rc::clone(&dropped)), Rc::clone(&dropped));
        let (sender, receiver) = oneshot::channel();
        spawn(async move {
            let _first = first;
            TaskNext::stage(async move {
                let _ = sender.send(seen.get());
                TaskNext::Done
            })
        });
        result.set(receiver.await.ok());
    });
    assert_eq!(result.get(), Some(1), "the first is gone when the second begins");
}

#[test]
fn a_panic_ends_its_task_alone() {
    let (sender, receiver) = oneshot::channel();
    run(async {
        spawn(async { panic!("on purpose") });
        spawn(async {
            yield_now().await;
            let _ = sender.send(7);
            TaskNext::Done
        });
        assert_eq!(receiver.await, Ok(7));
    });
}

#[test]
fn another_thread_wakes_a_sleeping_one() {
    let (asleep, wait) = mpsc::channel();
    let (sender, receiver) = oneshot::channel();
    let other = thread::spawn(move || {
        wait.recv().unwrap();
        sender.send(Instant::now()).unwrap();
    });
    let received = run(async {
        let mut receiver = pin!(receiver);
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            let polled = receiver.as_mut().poll(cx);
            let _ = asleep.send(());
            polled
        })
        .await
    });
    assert!(received.is_ok());
    other.join().unwrap();
}

#[test]
fn two_threads_wake_each_other() {
    const ROUNDS: usize = 5000;
    let (to_other, mut from_here) = tokio::sync::mpsc::unbounded_channel();
    let (to_here, mut from_other) = tokio::sync::mpsc::unbounded_channel();
    let other = thread::spawn(move || {
        run(async move {
            while let Some(round) = from_here.recv().await {
                to_here.send(round).unwrap();
            }
        });
    });
    let rounds = run(timeout(Duration::from_secs(60), async move {
        for round in 0..ROUNDS {
            to_other.send(round).unwrap();
            assert_eq!(from_other.recv().await, Some(round));
        }
        ROUNDS
    }));
    assert_eq!(rounds, Ok(ROUNDS));
    other.join().unwrap();
}

#[test]
fn timers_fire_in_order_and_not_before_their_time() {
    // Late enough that all three timers wait before the first is due, also on a busy machine.
    let from = Instant::now() + Duration::from_millis(100);
    let order = Rc::new(RefCell::new(Vec::new()));
    run(async {
        for millis in [20, 5, 10] {
            let order = Rc::clone(&order);
            spawn(async move {
                let due = from + Duration::from_millis(millis);
                sleep_until(due).await;
                order.borrow_mut().push((millis, Instant::now() >= due));
                TaskNext::Done
            });
        }
        let never = timeout(Duration::from_millis(30), std::future::pending::<()>()).await;
        assert_eq!(never, Err(Elapsed));
        assert_eq!(timeout(Duration::MAX, async { 3 }).await, Ok(3));
        while Rc::strong_count(&order) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(*order.borrow(), [(5, true), (10, true), (20, true)]);
}

#[test]
fn a_sleep_that_is_dropped_is_forgotten() {
    run(async {
        for _ in 0..100 {
            let mut sleep = sleep(Duration::from_secs(3600));
            poll_fn(|cx| {
                assert!(Pin::new(&mut sleep).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(timers().time_left(), None);
    });
}

#[test]
fn tasks_are_dropped_with_their_executor() {
    /// Starts another task when it is dropped.
    struct SpawnsOnDrop(Arc<AtomicUsize>);
    impl Drop for SpawnsOnDrop {
        fn drop(&mut self) {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                let next = SpawnsOnDrop(Arc::clone(&self.0));
                spawn(async move {
                    let _next = next;
                    TaskNext::Done
                });
            }
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let held = SpawnsOnDrop(Arc::clone(&dropped));
    run(async move {
        spawn(async move {
            let _held = held;
            std::future::pending().await
        });
        yield_now().await;
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_late_waker_does_no_harm() {
    run(async {
        let (sender, receiver) = oneshot::channel();
        spawn(async move {
            poll_fn(|cx| Poll::Ready(cx.waker().clone())).await.wake();
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            let _ = sender.send(waker);
            TaskNext::Done
        });
        let stale = receiver.await.unwrap();
        stale.wake_by_ref();
        let turns = Rc::new(Cell::new(0));
        let seen = Rc::clone(&turns);
        spawn(async move {
            poll_fn(|_| {
                seen.set(seen.get() + 1);
                if seen.get() < 2 { Poll::Pending } else { Poll::Ready(TaskNext::Done) }
            })
            .await
        });
        stale.wake();
        yield_now().await;
        yield_now().await;
        assert_eq!(turns.get(), 2, "the later task had the turn of the earlier one's waker");
    });
}

#[test]
fn a_panic_at_a_tasks_end_ends_it_alone() {
    /// A task that ends at once and panics when it is dropped.
    struct PanicsOnDrop;
    impl Future for PanicsOnDrop {
        type Output = TaskNext;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TaskNext> {
            Poll::Ready(TaskNext::Done)
        }
    }
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (sender, receiver) = oneshot::channel();
    run(async {
        spawn(PanicsOnDrop);
        spawn(async {
            let _ = sender.send(7);
            TaskNext::Done
        });
        assert_eq!(receiver.await, Ok(7));
    });
}
