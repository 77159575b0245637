//! The control queue (virtio 5.1.6.5): how many queue pairs are in use, and nothing else.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU16, Ordering},
};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_iommu::{
    dma::{DmaError, DmaMemory},
    queue::{Chain, Queue, QueueError},
};
use virtio_transport::Complaints;

use super::BURST_CHAINS;
use crate::NetCounters;

/// `struct virtio_net_ctrl_hdr` and, little endian, `struct virtio_net_ctrl_mq`.
const PAIRS_SET_BYTES: usize = 4;

/// Which queue pairs are in use: the first so many, one after reset.
///
/// A pair that is not in use is not touched. Its worker holds the pair's gate while it touches the queues, so that the
/// command that takes it out of use waits for the burst that is under way and for no other.
pub(super) struct Pairs {
    in_use: AtomicU16,
    gates: Box<[Mutex<()>]>,
}

impl Pairs {
    pub(super) fn new(pairs: usize) -> Arc<Self> {
        Arc::new(Self { in_use: AtomicU16::new(1), gates: (0..pairs).map(|_| Mutex::new(())).collect() })
    }

    /// Lets a pair's worker in, if the pair is in use. A card with one pair has no gate to pass.
    #[inline]
    pub(super) fn enter(&self, pair: u16) -> Option<Option<MutexGuard<'_, ()>>> {
        if pair == 0 {
            // Always in use.
            return Some(None);
        }
        let gate = self.gates.get(usize::from(pair))?;
        let guard = gate.lock().unwrap_or_else(PoisonError::into_inner);
        // Acquire pairs with the Release in `set`.
        (pair < self.in_use.load(Ordering::Acquire)).then_some(Some(guard))
    }

    /// After reset.
    pub(super) fn reset(&self) {
        self.in_use.store(1, Ordering::Release);
    }

    /// Puts the first `pairs` to use; when it returns, the others are not touched any more.
    fn set(&self, pairs: u16) {
        self.in_use.store(pairs, Ordering::Release);
        for gate in self.gates.iter().skip(usize::from(pairs)) {
            drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn most(&self) -> u16 {
        u16::try_from(self.gates.len()).unwrap_or(u16::MAX)
    }
}

/// Why a command is refused: it is answered with VIRTIO_NET_ERR.
enum Refused {
    Command([u8; 2]),
    Length(u64),
    Pairs(u16),
    Dma,
}

impl From<DmaError> for Refused {
    fn from(_: DmaError) -> Self {
        Self::Dma
    }
}

/// Serves the control queue.
pub(super) struct Control {
    /// The queue's index, when the driver has it.
    index: u16,
    queue: Option<Queue>,
    chain: Chain,
    pairs: Arc<Pairs>,
    complaints: Complaints,
}

impl Control {
    pub(super) fn new(pairs: Arc<Pairs>) -> Self {
        Self { index: 0, queue: None, chain: Chain::new(), pairs, complaints: Complaints::new() }
    }

    pub(super) fn open(&mut self, index: u16, queue: Option<Queue>) {
        (self.index, self.queue) = (index, queue);
        self.pairs.reset();
    }

    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn set_kicks<M: DmaMemory>(&mut self, mem: &M, enabled: bool) -> Result<(), QueueError> {
        self.queue.as_mut().map_or(Ok(()), |queue| queue.set_kicks(mem, enabled))
    }

    /// Obeys what has been asked, at most a burst of it. How many commands there were, and whether the driver wants an
    /// interrupt.
    pub(super) fn serve<M: DmaMemory>(
        &mut self,
        mem: &M,
        counters: &mut NetCounters,
    ) -> Result<(u32, bool), QueueError> {
        let Self { queue: Some(queue), chain, pairs, complaints, .. } = self else { return Ok((0, false)) };
        let mut commands = 0;
        while commands < BURST_CHAINS && queue.pop(mem, chain)? {
            commands += 1;
            let written = answer(mem, chain, pairs, complaints, counters);
            queue.push_used(mem, chain.head(), written)?;
        }
        let wanted = if commands > 0 { queue.publish(mem)? } else { false };
        Ok((commands, wanted))
    }
}

/// Obeys one command and writes its status byte, the first writable one; returns the used length.
fn answer<M: DmaMemory>(
    mem: &M,
    chain: &Chain,
    pairs: &Pairs,
    complaints: &Complaints,
    counters: &mut NetCounters,
) -> u32 {
    // Without room for a status nothing can be answered, so nothing is done.
    if chain.fault().is_some() || chain.writable_len() == 0 {
        counters.malformed += 1;
        return 0;
    }
    let outcome = obey(mem, chain, pairs);
    let status = if outcome.is_ok() { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
    match outcome {
        Ok(()) => counters.commands += 1,
        Err(refused) => {
            counters.commands_refused += 1;
            counters.dma_faults += u64::from(matches!(refused, Refused::Dma));
            complain(complaints, &refused);
        }
    }
    if chain.write_at(mem, 0, &[status as u8]).is_err() {
        counters.dma_faults += 1;
        return 0;
    }
    1
}

fn obey<M: DmaMemory>(mem: &M, chain: &Chain, pairs: &Pairs) -> Result<(), Refused> {
    let len = chain.readable_len();
    let mut command = [0; PAIRS_SET_BYTES];
    let here = command.len().min(usize::try_from(len).unwrap_or(usize::MAX));
    chain.read_at(mem, 0, &mut command[..here])?;
    let [class, kind, low, high] = command;
    if here < 2 {
        return Err(Refused::Length(len));
    }
    if (u32::from(class), u32::from(kind)) != (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) {
        return Err(Refused::Command([class, kind]));
    }
    if len != PAIRS_SET_BYTES as u64 {
        return Err(Refused::Length(len));
    }
    let wanted = u16::from_le_bytes([low, high]);
    if !(1..=pairs.most()).contains(&wanted) {
        return Err(Refused::Pairs(wanted));
    }
    pairs.set(wanted);
    Ok(())
}

#[cold]
fn complain(complaints: &Complaints, refused: &Refused) {
    let Some(number) = complaints.admit() else { return };
    match refused {
        Refused::Command([class, kind]) => {
            tracing::warn!(class, kind, number, "control command unknown");
        }
        Refused::Length(bytes) => tracing::warn!(bytes, number, "control command of a wrong length"),
        Refused::Pairs(pairs) => tracing::warn!(pairs, number, "so many queue pairs are not possible"),
        Refused::Dma => tracing::warn!(number, "control command out of reach"),
    }
}
