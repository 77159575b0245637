//! The wire between two cards: whole frames, bounded, in order, none lost while both ends are up.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use virtio_transport::Service;

use super::HEADER_BYTES;

/// Frames in flight in one direction before its sender has to wait.
const CAPACITY: usize = 64;

/// A frame with the header it was sent with (`struct virtio_net_hdr_v1`).
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) header: [u8; HEADER_BYTES],
    pub(super) frame: Vec<u8>,
}

#[derive(Default)]
struct Frames {
    waiting: VecDeque<Packet>,
    /// Packets that have been delivered, for their memory.
    spare: Vec<Packet>,
    sender: Option<Arc<Service>>,
    receiver: Option<Arc<Service>>,
}

/// One direction.
#[derive(Default)]
pub(super) struct Lane {
    frames: Mutex<Frames>,
    /// The receiving card is up; what is sent while it is not is lost.
    open: AtomicBool,
    /// Features the receiver negotiated: which offloads it takes.
    features: AtomicU64,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Frames> {
        // Queues of whole packets: nothing is ever half done.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect_sender(&self, service: Option<Arc<Service>>) {
        self.lock().sender = service;
    }

    pub(super) fn connect_receiver(&self, service: Option<Arc<Service>>) {
        self.lock().receiver = service;
    }

    /// The receiver is up (with these features) or down; frames that wait are lost when it goes.
    pub(super) fn set_open(&self, features: Option<u64>) {
        self.features.store(features.unwrap_or(0), Ordering::Release);
        self.open.store(features.is_some(), Ordering::Release);
        if features.is_none() {
            self.lock().waiting.clear();
        }
        self.wake_sender();
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn features(&self) -> u64 {
        self.features.load(Ordering::Acquire)
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().waiting.len() >= CAPACITY
    }

    /// An empty packet, with room where there is one to reuse.
    pub(super) fn packet(&self) -> Packet {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Takes a packet that nobody sends.
    pub(super) fn recycle(&self, packet: Packet) {
        let mut frames = self.lock();
        if frames.spare.len() < CAPACITY {
            frames.spare.push(packet);
        }
    }

    pub(super) fn send(&self, packet: Packet) {
        self.lock().waiting.push_back(packet);
    }

    pub(super) fn receive(&self) -> Option<Packet> {
        self.lock().waiting.pop_front()
    }

    /// Puts back what there was no room for.
    pub(super) fn put_back(&self, packet: Packet) {
        self.lock().waiting.push_front(packet);
    }

    /// Not to be called under a view of memory: an inline receiver works on this thread.
    pub(super) fn wake_receiver(&self) {
        let service = self.lock().receiver.clone();
        service.iter().for_each(|service| service.notify());
    }

    /// As [`wake_receiver`](Self::wake_receiver).
    pub(super) fn wake_sender(&self) {
        let service = self.lock().sender.clone();
        service.iter().for_each(|service| service.notify());
    }
}

/// One end of a cable. A card is made with one, and its peer with the other.
pub struct CableEnd {
    pub(super) outgoing: Arc<Lane>,
    pub(super) incoming: Arc<Lane>,
}

impl CableEnd {
    /// Both ends of a new cable.
    pub fn pair() -> (Self, Self) {
        let (a, b) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        (Self { outgoing: a.clone(), incoming: b.clone() }, Self { outgoing: b, incoming: a })
    }
}
