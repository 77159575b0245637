//! MAP and UNMAP allocate nothing once tables and lists have grown to what the load needs.

#![allow(unsafe_code, reason = "a global allocator that counts")]

#[path = "support/mod.rs"]
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use support::{Rig, WRITE};
use virtio_iommu::spec::{Status, request as wire};
use vm_memory::{Bytes, GuestAddress};

thread_local! {
    /// Allocations of this thread; inline service runs on it.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: passes everything on to the system's allocator; the counter is a plain thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: u64 = 0x80000;
const TAIL: u64 = 0x80100;

/// Sends one request and returns the allocations made while it was served.
fn serve(rig: &mut Rig, readable: &[u8]) -> u64 {
    rig.ram.write_slice(readable, GuestAddress(REQUEST)).unwrap();
    rig.requests.put_chain(0, &[(REQUEST, readable.len() as u32, 0), (TAIL, 4, WRITE)]);
    rig.requests.make_available(0);
    let before = ALLOCATIONS.get();
    rig.kick();
    let made = ALLOCATIONS.get() - before;
    assert_eq!(rig.requests.pop_used(), Some((0, 4)));
    assert_eq!(rig.ram.read_obj::<u8>(GuestAddress(TAIL)).unwrap(), Status::Ok as u8);
    made
}

fn cycle(rig: &mut Rig, start: u64, pages: u64) -> u64 {
    let end = start + pages * 4096 - 1;
    let map = wire::Map { domain: 1, virt_start: start, virt_end: end, phys_start: 0x10_0000, flags: 3 };
    let unmap = wire::Unmap { domain: 1, virt_start: start, virt_end: end, reserved: [0; 4] };
    serve(rig, &map.encode()) + serve(rig, &unmap.encode())
}

#[test]
fn map_and_unmap_allocate_nothing_in_a_steady_load() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    // Another participant, so that grace periods are real.
    let _port = rig.port(8);
    let round = |rig: &mut Rig| -> u64 {
        (0..512).map(|n| cycle(rig, n * 0x10_0000, [1, 16, 3, 512][n as usize % 4])).sum()
    };
    assert_ne!(round(&mut rig), 0, "the first round makes the tables, so the counter counts");
    for n in 0..8 {
        assert_eq!(round(&mut rig), 0, "round {n}");
    }
}
