//! The ring walk against rust-vmm's, and against what virtio 2.7 says of malformed chains.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use proptest::prelude::*;
use virtio_queue::{Queue as RustVmmQueue, QueueOwnedT, QueueT};
use virtio_transport::QueueLayout;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::{
    dma::{Access, DmaMemory},
    memory::GuestRam,
};

const DESC: u64 = 0x0000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const INDIRECT: u64 = 0x3000;
const MEMORY: usize = 0x10000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT_FLAG: u16 = 4;

struct Ring {
    memory: Arc<GuestMemoryMmap>,
    ram: GuestRam,
    size: u16,
    published: u16,
}

impl Ring {
    fn new(size: u16) -> (Self, Queue) {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap());
        let ram = GuestRam::new(memory.clone()).unwrap();
        let layout = QueueLayout { index: 0, size, desc: DESC, avail: AVAIL, used: USED };
        let queue = Queue::new(&layout, false).unwrap();
        queue.check(&ram).unwrap();
        (Self { memory, ram, size, published: 0 }, queue)
    }

    fn desc_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.memory.write_obj(addr.to_le(), GuestAddress(at)).unwrap();
        self.memory.write_obj(len.to_le(), GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags.to_le(), GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next.to_le(), GuestAddress(at + 14)).unwrap();
    }

    fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.desc_at(DESC, index, addr, len, flags, next);
    }

    fn make_available(&mut self, head: u16) {
        let entry = AVAIL + 4 + 2 * u64::from(self.published % self.size);
        self.memory.write_obj(head.to_le(), GuestAddress(entry)).unwrap();
        self.published = self.published.wrapping_add(1);
        self.set_avail_index(self.published);
    }

    fn set_avail_index(&self, index: u16) {
        let slice = self.ram.slice(AVAIL + 2, 2, Access::Write).unwrap();
        use vm_memory::VolatileMemory;
        slice.get_atomic_ref::<AtomicU16>(0).unwrap().store(index.to_le(), Ordering::Release);
    }

    fn rust_vmm(&self) -> RustVmmQueue {
        let mut queue = RustVmmQueue::new(self.size).unwrap();
        queue.set_size(self.size);
        queue.set_desc_table_address(Some(DESC as u32), Some(0));
        queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
        queue.set_used_ring_address(Some(USED as u32), Some(0));
        queue.set_ready(true);
        queue
    }
}

fn pop_fault(ring: &Ring, queue: &mut Queue) -> Option<ChainFault> {
    let mut chain = Chain::new();
    assert!(queue.pop(&ring.ram, &mut chain).unwrap());
    chain.fault()
}

#[test]
fn a_chain_is_read_and_written_across_descriptors() {
    let (mut ring, mut queue) = Ring::new(8);
    ring.memory.write_slice(b"headtail", GuestAddress(0x4000)).unwrap();
    ring.desc(0, 0x4000, 3, NEXT, 1);
    ring.desc(1, 0x4003, 5, NEXT, 2);
    ring.desc(2, 0x5000, 1, NEXT | WRITE, 3);
    ring.desc(3, 0x6000, 7, WRITE, 0);
    ring.make_available(0);
    let mut chain = Chain::new();
    assert!(queue.pop(&ring.ram, &mut chain).unwrap());
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len(), chain.fault()), (0, 8, 8, None));
    let mut bytes = [0; 16];
    assert_eq!(chain.read_at(&ring.ram, 2, &mut bytes), Ok(6));
    assert_eq!(&bytes[..6], b"adtail");
    assert_eq!(chain.write_at(&ring.ram, 0, b"status!!more"), Ok(8));
    assert_eq!(ring.memory.read_obj::<u8>(GuestAddress(0x5000)).unwrap(), b's');
    assert_eq!(ring.memory.read_obj::<[u8; 7]>(GuestAddress(0x6000)).unwrap(), *b"tatus!!");
    assert!(!queue.pop(&ring.ram, &mut chain).unwrap());
}

#[test]
fn used_elements_appear_once_published() {
    let (ring, mut queue) = Ring::new(4);
    let used_index = || ring.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap();
    for head in [3, 1] {
        queue.push_used(&ring.ram, head, 40 + u32::from(head)).unwrap();
    }
    assert_eq!((used_index(), queue.staged()), (0, 2));
    assert!(queue.publish(&ring.ram).unwrap(), "the driver did not suppress interrupts");
    assert_eq!((used_index(), queue.staged()), (2, 0));
    assert_eq!(ring.memory.read_obj::<[u32; 4]>(GuestAddress(USED + 4)).unwrap(), [3, 43, 1, 41]);
    ring.memory.write_obj(1u16, GuestAddress(AVAIL)).unwrap();
    queue.push_used(&ring.ram, 0, 0).unwrap();
    assert!(!queue.publish(&ring.ram).unwrap(), "NO_INTERRUPT is set");
    assert!(!queue.publish(&ring.ram).unwrap(), "nothing to publish");
}

#[test]
fn kicks_are_suppressed_and_asked_for() {
    let (ring, mut queue) = Ring::new(4);
    let flags = || ring.memory.read_obj::<u16>(GuestAddress(USED)).unwrap();
    queue.set_kicks(&ring.ram, false).unwrap();
    assert_eq!(flags(), 1);
    queue.set_kicks(&ring.ram, true).unwrap();
    assert_eq!(flags(), 0);
}

#[test]
fn event_index_asks_for_the_next_kick_only() {
    let (mut ring, _) = Ring::new(4);
    let layout = QueueLayout { index: 0, size: 4, desc: DESC, avail: AVAIL, used: USED };
    let mut queue = Queue::new(&layout, true).unwrap();
    ring.desc(0, 0x4000, 4, 0, 0);
    ring.make_available(0);
    assert!(queue.pop(&ring.ram, &mut Chain::new()).unwrap());
    let avail_event = || ring.memory.read_obj::<u16>(GuestAddress(USED + 4 + 8 * 4)).unwrap();
    queue.set_kicks(&ring.ram, true).unwrap();
    assert_eq!(avail_event(), 1);
    // used_event is 0: the first used buffer passes it, the second does not.
    queue.push_used(&ring.ram, 0, 0).unwrap();
    assert!(queue.publish(&ring.ram).unwrap());
    queue.push_used(&ring.ram, 0, 0).unwrap();
    assert!(!queue.publish(&ring.ram).unwrap());
}

#[test]
fn a_loop_is_cut_at_the_size_of_the_queue() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(0, 0x4000, 4, NEXT, 1);
    ring.desc(1, 0x4000, 4, NEXT, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::TooLong { limit: 4 }));
}

#[test]
fn a_next_index_beyond_the_table_is_a_fault() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(0, 0x4000, 4, NEXT, 4);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::BadIndex { index: 4, size: 4 }));
}

#[test]
fn readable_after_writable_is_a_fault() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(0, 0x4000, 4, NEXT | WRITE, 1);
    ring.desc(1, 0x4000, 4, 0, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::ReadableAfterWritable));
}

#[test]
fn a_wrapping_buffer_is_a_fault_and_one_that_ends_at_the_last_byte_is_not() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(0, u64::MAX, 2, 0, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::Wraps { addr: u64::MAX, len: 2 }));
    ring.desc(0, u64::MAX, 1, 0, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), None);
}

#[test]
fn indirect_tables_need_negotiation_and_must_not_nest() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(0, INDIRECT, 32, INDIRECT_FLAG, 0);
    ring.desc_at(INDIRECT, 0, 0x4000, 4, NEXT, 1);
    ring.desc_at(INDIRECT, 1, 0x5000, 4, WRITE, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::IndirectNotNegotiated));
    queue.allow_indirect();
    ring.make_available(0);
    let mut chain = Chain::new();
    assert!(queue.pop(&ring.ram, &mut chain).unwrap());
    assert_eq!((chain.fault(), chain.readable_len(), chain.writable_len()), (None, 4, 4));
    for (len, flags) in [(0, INDIRECT_FLAG), (17, INDIRECT_FLAG), (32, INDIRECT_FLAG | NEXT)] {
        ring.desc(0, INDIRECT, len, flags, 1);
        ring.make_available(0);
        assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::BadIndirect));
    }
    ring.desc(0, INDIRECT, 16, INDIRECT_FLAG, 0);
    ring.desc_at(INDIRECT, 0, INDIRECT, 16, INDIRECT_FLAG, 0);
    ring.make_available(0);
    assert_eq!(pop_fault(&ring, &mut queue), Some(ChainFault::BadIndirect));
}

#[test]
fn an_absurd_available_index_breaks_the_queue() {
    let (ring, mut queue) = Ring::new(4);
    ring.set_avail_index(5);
    let error = queue.pop(&ring.ram, &mut Chain::new());
    assert_eq!(error, Err(QueueError::IndexJump { index: 5, next: 0, size: 4 }));
    let (mut ring, mut queue) = Ring::new(4);
    ring.make_available(4);
    assert_eq!(queue.pop(&ring.ram, &mut Chain::new()), Err(QueueError::BadHead { head: 4, size: 4 }));
}

#[test]
fn layouts_that_virtio_forbids_are_refused() {
    let good = QueueLayout { index: 0, size: 8, desc: 0x1000, avail: 0x2000, used: 0x3000 };
    assert!(Queue::new(&good, false).is_ok());
    for size in [0, 3, 65535] {
        assert_eq!(
            Queue::new(&QueueLayout { size, ..good }, false).err(),
            Some(QueueError::BadSize { size })
        );
    }
    for bad in [
        QueueLayout { desc: 0x1008, ..good },
        QueueLayout { avail: 0x2001, ..good },
        QueueLayout { used: 0x3002, ..good },
        QueueLayout { desc: u64::MAX - 15, ..good },
    ] {
        assert!(matches!(Queue::new(&bad, false), Err(QueueError::BadAddress { .. })), "{bad:?}");
    }
}

#[test]
fn indices_wrap_around_the_ring_and_around_65536() {
    let (mut ring, mut queue) = Ring::new(4);
    ring.desc(2, 0x4000, 4, 0, 0);
    queue.set_indices(65534, 65534);
    ring.published = 65534;
    let mut chain = Chain::new();
    for _ in 0..6 {
        ring.make_available(2);
        assert!(queue.pop(&ring.ram, &mut chain).unwrap());
        queue.push_used(&ring.ram, chain.head(), 0).unwrap();
        queue.publish(&ring.ram).unwrap();
    }
    assert_eq!(queue.indices(), (4, 4));
}

type Descriptor = (u64, u32, u16, u16);

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![0u64..MEMORY as u64, Just(INDIRECT), any::<u64>()];
    let len = prop_oneof![0u32..64, Just(32u32), Just(16u32), any::<u32>()];
    let flags = prop_oneof![4 => 0u16..4, 1 => 0u16..8];
    (addr, len, flags, 0u16..17)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Where both accept a chain they see the same buffers; where we report a fault, what we saw before it is what
    /// rust-vmm's iterator saw (it stops without saying why).
    #[test]
    fn walks_as_rust_vmm_does(
        table in prop::collection::vec(descriptor(), 16),
        indirect in prop::collection::vec(descriptor(), 8),
        heads in prop::collection::vec(0u16..16, 1..12),
    ) {
        let (mut ring, mut queue) = Ring::new(16);
        queue.allow_indirect();
        for (index, &(addr, len, flags, next)) in table.iter().enumerate() {
            ring.desc(index as u16, addr, len, flags, next);
        }
        for (index, &(addr, len, flags, next)) in indirect.iter().enumerate() {
            ring.desc_at(INDIRECT, index as u16, addr, len, flags, next);
        }
        let mut theirs = ring.rust_vmm();
        let mut chain = Chain::new();
        for head in heads {
            ring.make_available(head);
            prop_assert!(queue.pop(&ring.ram, &mut chain).unwrap());
            let their_chain = theirs.iter(&*ring.memory).unwrap().next().unwrap();
            prop_assert_eq!(chain.head(), their_chain.head_index());
            let seen: Vec<_> = their_chain.map(|d| (d.addr().0, d.len(), d.is_write_only())).collect();
            let ours: Vec<_> = chain.readable().iter().map(|s| (s.addr, s.len, false))
                .chain(chain.writable().iter().map(|s| (s.addr, s.len, true))).collect();
            match chain.fault() {
                None => prop_assert_eq!(ours, seen),
                // Their limit on a chain's length counts differently, and they do not check direction or wrapping.
                Some(_) => prop_assert!(seen.starts_with(&ours) || ours.starts_with(&seen), "{ours:?} {seen:?}"),
            }
        }
    }

    /// Whatever the rings hold, popping ends and never reaches outside memory.
    #[test]
    fn survives_arbitrary_rings(bytes in prop::collection::vec(any::<u8>(), 0x3100), event_idx: bool) {
        let (ring, _) = Ring::new(16);
        ring.memory.write_slice(&bytes, GuestAddress(0)).unwrap();
        let layout = QueueLayout { index: 0, size: 16, desc: DESC, avail: AVAIL, used: USED };
        let mut queue = Queue::new(&layout, event_idx).unwrap();
        queue.allow_indirect();
        let mut chain = Chain::new();
        let mut popped = 0;
        while let Ok(true) = queue.pop(&ring.ram, &mut chain) {
            popped += 1;
            let mut bytes = [0; 72];
            let _ = chain.read_at(&ring.ram, 0, &mut bytes);
            let _ = chain.write_at(&ring.ram, 0, &bytes);
            queue.push_used(&ring.ram, chain.head(), 4).unwrap();
            prop_assert!(chain.readable().len() + chain.writable().len() <= 16);
            prop_assert!(popped <= 0x10000, "the driver's index does not move, so at most one lap");
        }
        let _ = queue.publish(&ring.ram);
    }
}
