//! Threads for calls that a client can make block.
//!
//! A descriptor that came over a socket can be anything. Its last `close` may wait for a file system in user space
//! (FLUSH), for a lingering socket, for a lock that another process holds while it waits itself; adding a seal to a
//! memfd waits for the file's writers. No flag bounds such a wait and none of these calls can be taken back, so they run
//! on threads that are abandoned when they do not return: at most [`MAX_THREADS`], and no client is served while calls
//! have waited for one in vain ([`is_overdue`]). Everything else that is done with a client's descriptor never blocks:
//!
//! - F_GET_SEALS, before any other call, tells memory of the kernel's own from all else;
//! - `fstat`, `fstatfs` and `mmap` are called for such memory only;
//! - eventfds are recognised by `readlink` of `/proc/self/fd`, and signalled as [`notify`](crate::notify) says.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Most threads at a time, abandoned ones included.
const MAX_THREADS: usize = 16;
/// Most calls that wait for a thread for longer than [`OVERDUE`] before clients are turned away. One message can bring 253
/// descriptors, which are closed at once unless one of them blocks.
const MAX_BACKLOG: usize = 64;
/// Most calls that wait for a thread at all.
const MAX_CALLS: usize = 1024;
/// How long a call waits for a thread where nothing blocks, on a busy machine.
const OVERDUE: Duration = Duration::from_secs(1);
/// Idle time after which all threads but one end.
const IDLE: Duration = Duration::from_millis(50);

type Call = Box<dyn FnOnce() + Send>;

struct State {
    /// In the order in which they came, and when.
    calls: VecDeque<(Instant, Call)>,
    threads: usize,
    idle: usize,
}

static STATE: Mutex<State> = Mutex::new(State { calls: VecDeque::new(), threads: 0, idle: 0 });
static WAKE: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, State> {
    // Calls run outside of the lock, and counts change one at a time.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a call; returns at once.
fn submit(call: Call) {
    let mut state = lock();
    state.calls.push_back((Instant::now(), call));
    if state.idle < state.calls.len() && state.threads < MAX_THREADS {
        let spawned = thread::Builder::new().name("vfio-user-aside".to_owned()).spawn(work);
        match spawned {
            Ok(_) => state.threads += 1,
            // The call waits for another thread, or for the next attempt.
            Err(error) => virtio_transport::complain!(warn, %error, "no thread for a call that may block"),
        }
    }
    drop(state);
    WAKE.notify_one();
}

fn work() {
    let mut state = lock();
    loop {
        if let Some((_, call)) = state.calls.pop_front() {
            drop(state);
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                virtio_transport::complain!(error, "a call that may block panicked");
            }
            state = lock();
            continue;
        }
        state.idle += 1;
        let waited = WAKE.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = waited.0;
        state.idle -= 1;
        if waited.1.timed_out() && state.calls.is_empty() && (state.threads > 1) {
            state.threads -= 1;
            return;
        }
    }
}

/// Runs `call` on another thread; `None` when it does not return within `patience`, which abandons it.
pub(crate) fn run<T: Send + 'static>(
    patience: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (send, receive) = mpsc::sync_channel(1);
    // A result that comes too late is dropped on that thread.
    submit(Box::new(move || drop(send.send(call()))));
    receive.recv_timeout(patience).ok()
}

/// Whether too many calls wait for a thread.
pub(crate) fn is_overdue() -> bool {
    let state = lock();
    let waited = state.calls.front().map_or(Duration::ZERO, |(since, _)| since.elapsed());
    overdue(state.calls.len(), waited)
}

fn overdue(calls: usize, waited: Duration) -> bool {
    calls > MAX_CALLS || calls > MAX_BACKLOG && waited > OVERDUE
}

/// A descriptor that came from a client, or whose `close` releases such ones. It is closed on another thread.
#[derive(Debug)]
pub struct Lent(Option<OwnedFd>);

impl From<OwnedFd> for Lent {
    fn from(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Some(fd) => fd.as_fd(),
            None => unreachable!("taken by drop only"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            submit(Box::new(move || drop(fd)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that never return are abandoned, and those after them are served.
    #[test]
    fn calls_that_block_hold_up_nothing() {
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let gate = std::sync::Arc::new(Mutex::new(gate));
        let started = Instant::now();
        for _ in 0..MAX_THREADS / 2 {
            let gate = gate.clone();
            let blocked = move || drop(gate.lock().map(|gate| gate.recv()));
            assert_eq!(run(Duration::from_millis(10), blocked), None);
        }
        assert_eq!(run(Duration::from_secs(10), || 7), Some(7));
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!is_overdue());
        drop(release);
    }

    /// One message with as many descriptors as there can be does not turn the next client away; calls that nothing takes
    /// up do.
    #[test]
    fn many_calls_are_not_overdue_before_they_have_waited() {
        assert!(!overdue(253, Duration::ZERO) && !overdue(MAX_BACKLOG, 2 * OVERDUE));
        assert!(overdue(MAX_BACKLOG + 1, 2 * OVERDUE) && overdue(MAX_CALLS + 1, Duration::ZERO));
    }
}
