//! The service with real threads.

use std::sync::{Barrier, atomic::AtomicU32, mpsc};

use super::*;
use crate::NoInterrupt;

const MODES: [ServiceMode; 3] = [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll];

/// A ring reduced to what matters here: work posted and done, and the driver's wish to kick.
#[derive(Default)]
struct Ring {
    posted: AtomicU64,
    done: AtomicU64,
    suppressed: AtomicBool,
    running: AtomicU32,
    dropped: AtomicBool,
    panic_at: AtomicU64,
}

impl Ring {
    /// The driver posts one item and kicks if it is asked to.
    fn post(&self, service: &Service) {
        self.posted.fetch_add(1, Ordering::SeqCst);
        if !self.suppressed.load(Ordering::SeqCst) {
            service.notify();
        }
    }
}

struct RingWorker(Arc<Ring>);

impl QueueWorker for RingWorker {
    fn run(&mut self) -> Progress {
        assert_eq!(self.0.running.fetch_add(1, Ordering::SeqCst), 0, "two threads serve one worker");
        let done = self.0.done.load(Ordering::SeqCst);
        let work = self.0.posted.load(Ordering::SeqCst) > done;
        if work {
            let panic_at = self.0.panic_at.load(Ordering::SeqCst);
            assert!(panic_at == 0 || done + 1 < panic_at, "told to panic at {panic_at}");
            self.0.done.store(done + 1, Ordering::SeqCst);
        }
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if work { Progress::Worked } else { Progress::Idle }
    }

    fn suppress_kicks(&mut self, on: bool) {
        self.0.suppressed.store(on, Ordering::SeqCst);
    }
}

impl Drop for RingWorker {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}

fn started(mode: ServiceMode) -> (Service, Arc<Ring>) {
    let ring = Arc::new(Ring::default());
    let service = Service::new("test", mode).unwrap();
    service.start(Box::new(RingWorker(ring.clone())), Arc::new(NoInterrupt)).unwrap();
    (service, ring)
}

/// Waits for what other threads bring about; a lost wake-up hangs here, where the test runner sees it.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

#[test]
fn every_item_is_served_however_few_kicks_are_sent() {
    for mode in MODES {
        let (service, ring) = started(mode);
        for item in 1..=2000 {
            ring.post(&service);
            // One by one, so that the worker goes to sleep between many of them.
            until(|| ring.done.load(Ordering::SeqCst) == item);
        }
        service.stop();
        assert_eq!(ring.done.load(Ordering::SeqCst), 2000, "{mode:?}");
    }
}

#[test]
fn concurrent_kickers_lose_no_wake_up() {
    for mode in MODES {
        let (service, ring) = started(mode);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    for round in 0..5000 {
                        ring.post(&service);
                        if round % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        until(|| ring.done.load(Ordering::SeqCst) == 15000);
        service.stop();
        assert_eq!(service.failed(), None, "{mode:?}");
    }
}

#[test]
fn inline_serves_on_the_kicking_thread_and_before_notify_returns() {
    struct Here(mpsc::Sender<std::thread::ThreadId>);
    impl QueueWorker for Here {
        fn run(&mut self) -> Progress {
            self.0.send(std::thread::current().id()).unwrap();
            Progress::Idle
        }
        fn suppress_kicks(&mut self, _on: bool) {
            panic!("an inline service has kicks on");
        }
    }
    let (sender, served_on) = mpsc::channel();
    let service = Service::new("test", ServiceMode::Inline).unwrap();
    service.start(Box::new(Here(sender)), Arc::new(NoInterrupt)).unwrap();
    service.notify();
    service.notify();
    let threads: Vec<_> = served_on.try_iter().collect();
    assert_eq!(threads, [std::thread::current().id(); 2]);
    assert_eq!((service.kicks(), service.failed()), (2, None));
}

#[test]
fn a_kick_from_within_the_work_is_served_after_it() {
    struct Again(Arc<Service>, u32);
    impl QueueWorker for Again {
        fn run(&mut self) -> Progress {
            self.1 += 1;
            if self.1 == 1 {
                self.0.notify();
            }
            Progress::Idle
        }
        fn suppress_kicks(&mut self, _on: bool) {}
    }
    impl Drop for Again {
        fn drop(&mut self) {
            assert_eq!(self.1, 2);
        }
    }
    let service = Arc::new(Service::new("test", ServiceMode::Inline).unwrap());
    service.start(Box::new(Again(service.clone(), 0)), Arc::new(NoInterrupt)).unwrap();
    service.notify();
    service.stop();
    assert_eq!((service.kicks(), service.failed()), (2, None));
}

#[test]
fn after_stop_nothing_is_touched_and_it_starts_again() {
    for mode in MODES {
        let (service, ring) = started(mode);
        ring.post(&service);
        until(|| ring.done.load(Ordering::SeqCst) == 1);
        service.stop();
        assert!(ring.dropped.load(Ordering::SeqCst), "{mode:?}");
        ring.posted.fetch_add(1, Ordering::SeqCst);
        service.notify();
        assert_eq!(ring.done.load(Ordering::SeqCst), 1, "{mode:?}");
        service.stop();
        service.start(Box::new(RingWorker(ring.clone())), Arc::new(NoInterrupt)).unwrap();
        service.notify();
        until(|| ring.done.load(Ordering::SeqCst) == 2);
    }
}

#[test]
fn stop_ends_a_worker_that_always_has_work() {
    struct Endless;
    impl QueueWorker for Endless {
        fn run(&mut self) -> Progress {
            Progress::Worked
        }
        fn suppress_kicks(&mut self, _on: bool) {}
    }
    for mode in MODES {
        let service = Service::new("test", mode).unwrap();
        service.start(Box::new(Endless), Arc::new(NoInterrupt)).unwrap();
        std::thread::scope(|scope| {
            let kicker = scope.spawn(|| service.notify());
            until(|| service.kicks() == 1);
            service.stop();
            kicker.join().unwrap();
        });
        assert_eq!(service.failed(), None, "{mode:?}");
    }
}

#[test]
fn starting_twice_is_an_error() {
    for mode in MODES {
        let (service, ring) = started(mode);
        let again = service.start(Box::new(RingWorker(ring)), Arc::new(NoInterrupt));
        assert!(matches!(again, Err(ServiceError::Running { .. })), "{mode:?}");
    }
}

#[derive(Default)]
struct ConfigLine(AtomicU32);

impl Interrupt for ConfigLine {
    fn queue(&self, _index: u16) {}
    fn config(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_panic_is_reported_once_and_a_restart_mends_it() {
    for mode in MODES {
        let ring = Arc::new(Ring::default());
        ring.panic_at.store(3, Ordering::SeqCst);
        let line = Arc::new(ConfigLine::default());
        let service = Service::new("test", mode).unwrap();
        service.start(Box::new(RingWorker(ring.clone())), line.clone()).unwrap();
        for _ in 0..5 {
            ring.post(&service);
        }
        until(|| line.0.load(Ordering::SeqCst) == 1);
        assert_eq!(service.failed().as_deref(), Some("told to panic at 3"), "{mode:?}");
        assert!(ring.dropped.load(Ordering::SeqCst));
        service.notify();
        service.stop();
        assert_eq!((line.0.load(Ordering::SeqCst), ring.done.load(Ordering::SeqCst)), (1, 2), "{mode:?}");

        ring.panic_at.store(0, Ordering::SeqCst);
        ring.running.store(0, Ordering::SeqCst);
        service.start(Box::new(RingWorker(ring.clone())), line).unwrap();
        assert_eq!(service.failed(), None);
        service.notify();
        until(|| ring.done.load(Ordering::SeqCst) == 5);
    }
}
