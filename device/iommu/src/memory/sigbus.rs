//! Page faults that the file behind guest memory can no longer satisfy.
//!
//! A client may punch holes into a sealed memfd, and the kernel may have no page to fill them with (huge pages, strict
//! overcommit, a failed memory module). The access then raises SIGBUS. The handler here replaces the page by empty
//! memory of this process and counts it, so that the access completes; a fault outside of guest memory goes to the
//! handler that was installed before.

#![allow(unsafe_code, reason = "sigaction, and mmap over a reservation of our own")]

use std::{
    io, mem, ptr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Logarithms of the page sizes that Linux has on any architecture we build for.
const PAGE_SHIFTS: [u32; 7] = [12, 16, 21, 25, 29, 30, 34];

/// A mapping under watch. Nodes are never freed, since a handler may be walking the list.
struct Node {
    start: usize,
    /// Equal to `start`: no longer watched.
    end: AtomicUsize,
    lost: AtomicU64,
    next: *const Node,
}

static HEAD: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
static WRITERS: Mutex<()> = Mutex::new(());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Keeps faults in one mapping from ending the process.
pub(super) struct Watch(&'static Node);

// SAFETY: `start` and `next` never change after a node is published, the other fields are atomics.
unsafe impl Send for Node {}
// SAFETY: as for Send.
unsafe impl Sync for Node {}

impl Watch {
    /// Watches `[start, start + len)`, which must be a whole mapping of the caller's own.
    pub(super) fn new(start: usize, len: usize) -> io::Result<Self> {
        install()?;
        let end = start + len;
        let _writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        let head = HEAD.load(Ordering::Relaxed).cast_const();
        let reusable =
            nodes(head).find(|node| node.start == start && node.end.load(Ordering::Relaxed) == start);
        let node = reusable.unwrap_or_else(|| {
            let node = Node { start, end: AtomicUsize::new(start), lost: AtomicU64::new(0), next: head };
            let node = Box::leak(Box::new(node));
            // Release pairs with the Acquire in `mend`: a handler that finds the node sees its fields.
            HEAD.store(node, Ordering::Release);
            node
        });
        node.lost.store(0, Ordering::Relaxed);
        // Release pairs with the Acquire in `mend`.
        node.end.store(end, Ordering::Release);
        Ok(Self(node))
    }

    /// Ends the watch, before the mapping goes.
    pub(super) fn end(&self) {
        self.0.end.store(self.0.start, Ordering::Release);
    }

    /// Number of faults that were answered with empty memory.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

fn nodes(head: *const Node) -> impl Iterator<Item = &'static Node> {
    let mut next = head;
    std::iter::from_fn(move || {
        // SAFETY: the list holds leaked nodes only.
        let node = unsafe { next.as_ref() }?;
        next = node.next;
        Some(node)
    })
}

/// Installs the handler, once per process.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: zeroes are a value of `sigaction`.
        let (mut new, mut old): (libc::sigaction, libc::sigaction) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        new.sa_sigaction = on_sigbus as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: both structures outlive the call, and the handler has the signature that SA_SIGINFO asks for.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const new, &raw mut old) } {
            0 => {
                let _ = PREVIOUS.set(old);
                Ok(())
            }
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

/// Only async-signal-safe calls: atomics, `mmap`, `sigaction`.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // A code above 0 is the kernel's: only then is there an address.
    if code > 0 && mend(address) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        return;
    }
    chain(signal, info, context);
}

/// Puts empty memory where the fault was; `false` when it was in none of the watched mappings.
fn mend(address: usize) -> bool {
    // Acquire pairs with the Release in `Watch::new`.
    let head = HEAD.load(Ordering::Acquire).cast_const();
    let found = nodes(head).find_map(|node| {
        let end = node.end.load(Ordering::Acquire);
        (node.start..end).contains(&address).then_some((node, end))
    });
    let Some((node, end)) = found else { return false };
    node.lost.fetch_add(1, Ordering::Relaxed);
    let page = |shift: u32| {
        let start = address >> shift << shift;
        let inside = start >= node.start && start.checked_add(1 << shift).is_some_and(|stop| stop <= end);
        inside && replace(start, 1 << shift)
    };
    // The kernel does not split a huge page, so the first size that works is the page's. With too many mappings to split
    // any at all, the whole space goes.
    PAGE_SHIFTS.into_iter().any(page) || replace(node.start, end - node.start)
}

fn replace(start: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let at = ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range lies in a watched mapping, whose owner holds volatile slices into it only.
    unsafe { libc::mmap(at, len, protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Calls the handler that was there before, or lets the signal end the process as it would have.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().filter(|old| ![libc::SIG_DFL, libc::SIG_IGN].contains(&old.sa_sigaction));
    let Some(previous) = previous else {
        // SAFETY: zeroes are a value of `sigaction`: the default action. The access faults again when this returns.
        unsafe {
            let default: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: with SA_SIGINFO the handler has this signature.
        let handler = unsafe { mem::transmute::<usize, Handler>(previous.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the handler has this signature.
        let handler = unsafe { mem::transmute::<usize, extern "C" fn(libc::c_int)>(previous.sa_sigaction) };
        handler(signal);
    }
}
