//! The driver's ring against rust-vmm's device side.

use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

/// A chain as the device sees it: head, and address, length and writability of each segment.
type Taken = (u16, Vec<(u64, u32, bool)>);

struct Pair {
    ring: SplitRing,
    device: Queue,
    memory: Arc<GuestMemoryMmap>,
}

fn pair(size: u16) -> Pair {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let pages = PageAllocator::new(Arc::clone(&memory));
    let ring = SplitRing::new(&pages, size).unwrap();
    let mut device = Queue::new(size).unwrap();
    let (base, layout) = (GuestAddress(ring.gpa().0), ring.layout());
    device.set_size(size);
    device.try_set_desc_table_address(base.unchecked_add(layout.desc)).unwrap();
    device.try_set_avail_ring_address(base.unchecked_add(layout.avail)).unwrap();
    device.try_set_used_ring_address(base.unchecked_add(layout.used)).unwrap();
    device.set_ready(true);
    assert!(device.is_valid(&*memory));
    Pair { ring, device, memory }
}

impl Pair {
    /// Chains the device sees: (head, segments).
    fn take(&mut self) -> Vec<Taken> {
        let chains: Vec<_> = self.device.iter(&*self.memory).unwrap().collect();
        chains
            .into_iter()
            .map(|chain| {
                let head = chain.head_index();
                (head, chain.map(|d| (d.addr().0, d.len(), d.is_write_only())).collect())
            })
            .collect()
    }

    fn give(&mut self, head: u16, written: u32) {
        self.device.add_used(&*self.memory, head, written).unwrap();
    }
}

fn seg(addr: u64, len: u32) -> Segment {
    Segment { addr, len }
}

#[test]
fn a_chain_arrives_as_it_was_added_and_only_when_published() {
    let mut p = pair(8);
    p.ring.add(&[seg(0x1000, 10), seg(0x2000, 20)], &[seg(0x3000, 30)], 77).unwrap();
    assert_eq!(p.take(), []);
    assert!(p.ring.publish());
    let chains = p.take();
    assert_eq!(chains.len(), 1);
    assert_eq!(chains[0].1, [(0x1000, 10, false), (0x2000, 20, false), (0x3000, 30, true)]);
    assert_eq!(p.ring.pop(), Ok(None));
    p.give(chains[0].0, 30);
    assert_eq!(p.ring.pop(), Ok(Some(Used { token: 77, written: 30 })));
    assert_eq!((p.ring.free(), p.ring.outstanding()), (8, 0));
}

#[test]
fn a_full_ring_refuses_and_stays_usable() {
    let mut p = pair(4);
    p.ring.add(&[seg(1, 1), seg(2, 1), seg(3, 1)], &[], 0).unwrap();
    assert_eq!(p.ring.add(&[seg(4, 1), seg(5, 1)], &[], 1), Err(RingError::Full { wanted: 2, free: 1 }));
    assert_eq!(p.ring.add(&[], &[], 1), Err(RingError::EmptyChain));
    p.ring.add(&[], &[seg(6, 1)], 2).unwrap();
    p.ring.publish();
    assert_eq!(p.take().len(), 2);
}

#[test]
fn kicks_are_suppressed_by_the_device_flag() {
    let mut p = pair(4);
    let flags = GuestAddress(p.ring.gpa().0 + p.ring.layout().used);
    p.memory.write_obj(VRING_USED_F_NO_NOTIFY as u16, flags).unwrap();
    assert!(!p.ring.publish());
    p.memory.write_obj(0_u16, flags).unwrap();
    assert!(p.ring.publish());
}

#[test]
fn a_lying_device_is_found_out() {
    let mut p = pair(4);
    p.ring.add(&[seg(1, 1)], &[], 0).unwrap();
    p.ring.publish();
    p.give(3, 0);
    assert_eq!(p.ring.pop(), Err(RingError::ForeignHead { head: 3 }));
    let mut p = pair(4);
    p.give(0, 0);
    assert_eq!(p.ring.pop(), Err(RingError::UsedAhead { claimed: 1, outstanding: 0 }));
}

#[test]
fn sizes_are_checked() {
    let pages =
        PageAllocator::new(Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()));
    for size in [0, 1, 3, 100, u16::MAX] {
        assert!(matches!(SplitRing::new(&pages, size), Err(RingError::Size(s)) if s == size));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add { readable: usize, writable: usize },
    Serve { how_many: usize, newest_first: bool },
    Pop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize, 0..3_usize).prop_map(|(readable, writable)| Step::Add { readable, writable }),
        2 => (0..6_usize, any::<bool>()).prop_map(|(how_many, newest_first)| Step::Serve { how_many, newest_first }),
        2 => Just(Step::Pop),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    /// Whatever the order of completion, every chain comes back once, with its own token and length, and no
    /// descriptor is lost.
    #[test]
    fn every_chain_comes_back_once(steps in steps()) {
        let mut p = pair(16);
        let mut device: Vec<Taken> = Vec::new();
        let mut done: VecDeque<(u32, u32)> = VecDeque::new();
        let (mut token, mut held) = (0_u32, 0_usize);
        for step in steps {
            match step {
                Step::Add { readable, writable } => {
                    let r: Vec<_> = (0..readable).map(|i| seg(u64::from(token) << 8 | i as u64, token)).collect();
                    let w: Vec<_> = (0..writable).map(|i| seg(u64::from(token) << 8 | 0x80 | i as u64, token)).collect();
                    let fits = readable + writable > 0 && readable + writable <= usize::from(p.ring.free());
                    prop_assert_eq!(p.ring.add(&r, &w, token).is_ok(), fits);
                    if fits {
                        p.ring.publish();
                        held += 1;
                        token += 1;
                    }
                }
                Step::Serve { how_many, newest_first } => {
                    device.extend(p.take());
                    for _ in 0..how_many.min(device.len()) {
                        let at = if newest_first { device.len() - 1 } else { 0 };
                        let (head, segments) = device.remove(at);
                        let token = segments[0].1;
                        prop_assert!(segments.iter().all(|s| s.1 == token && s.0 >> 8 == u64::from(token)));
                        p.give(head, token ^ 0x55);
                        done.push_back((token, token ^ 0x55));
                    }
                }
                Step::Pop => {
                    let expected = done.pop_front();
                    let got = p.ring.pop().unwrap().map(|used| (used.token, used.written));
                    prop_assert_eq!(got, expected);
                    held -= usize::from(got.is_some());
                }
            }
            prop_assert_eq!(usize::from(p.ring.outstanding()), held);
        }
    }
}
