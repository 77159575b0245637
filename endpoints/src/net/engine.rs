//! What serves the queues: bursts of transmission and delivery.

use std::sync::{Arc, atomic::Ordering};

use virtio_iommu::{
    dma::DmaMemory,
    queue::{Queue, QueueError},
};
use virtio_transport::{Activation, Interrupt, NoInterrupt, Progress};

use super::{
    INDIRECT, MERGEABLE, NetConfig, RX_QUEUE, Status, TX_QUEUE, budget::Budget, lock, receive::Receiver,
    transmit::Transmitter,
};
use crate::{
    DmaObserver, DmaPort, NetCounters,
    peer::{Peer, Wire},
};

/// Survives resets: nothing is allocated per frame, and little per activation.
pub(super) struct Engine<P, O> {
    port: P,
    pub(super) observer: O,
    card: Card,
    interrupt: Arc<dyn Interrupt>,
    status: Arc<Status>,
}

/// All but the way to memory.
struct Card {
    transmitter: Transmitter,
    receiver: Receiver,
    peer: Peer,
    wire: Wire,
    counters: NetCounters,
    broken: bool,
}

/// Which queues' drivers are to be interrupted.
#[derive(Default)]
struct Interrupts {
    receive: bool,
    transmit: bool,
}

impl<P: DmaPort, O: DmaObserver> Engine<P, O> {
    pub(super) fn new(config: &NetConfig, port: P, observer: O, status: Arc<Status>) -> Self {
        let card = Card {
            transmitter: Transmitter::new(),
            receiver: Receiver::new(),
            peer: Peer::new(config.peer_mac),
            wire: Wire::new(config.wire_frames),
            counters: NetCounters::default(),
            broken: false,
        };
        Self { port, observer, card, interrupt: Arc::new(NoInterrupt), status }
    }

    /// Takes the queues the driver set up. Queues it left out are not served.
    pub(super) fn prepare(
        &mut self,
        activation: &Activation,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), QueueError> {
        let mem = self.port.pin();
        let open = |index| -> Result<Option<Queue>, QueueError> {
            let Some(layout) = activation.queues.iter().find(|layout| layout.index == index) else {
                return Ok(None);
            };
            let mut queue = Queue::new(layout, false)?;
            if activation.features & INDIRECT != 0 {
                queue.allow_indirect();
            }
            queue.check(&mem)?;
            Ok(Some(queue))
        };
        let card = &mut self.card;
        card.peer.reset();
        card.wire.clear();
        card.broken = false;
        card.transmitter.open(open(TX_QUEUE)?);
        card.receiver.open(&mem, open(RX_QUEUE)?, activation.features & MERGEABLE != 0)?;
        self.interrupt = interrupt;
        Ok(())
    }

    /// Lets go of queues and interrupt.
    pub(super) fn disconnect(&mut self) {
        self.card.transmitter.close();
        self.card.receiver.close();
        self.interrupt = Arc::new(NoInterrupt);
    }

    #[inline]
    pub(super) fn run(&mut self) -> Progress {
        if self.card.broken {
            return Progress::Idle;
        }
        let mut budget = Budget::new();
        let burst = {
            let mem = self.port.pin();
            self.card.burst(&mem, &mut self.observer, &self.status, &mut budget)
        };
        // The view is gone: an interrupt handler may well unmap what it pinned.
        match burst {
            Ok(wanted) => {
                if wanted.receive {
                    self.interrupt.queue(RX_QUEUE);
                }
                if wanted.transmit {
                    self.interrupt.queue(TX_QUEUE);
                }
            }
            Err(error) => self.fail(&error),
        }
        if budget.used() && !self.card.broken { Progress::Worked } else { Progress::Idle }
    }

    pub(super) fn suppress_kicks(&mut self, on: bool) {
        if self.card.broken {
            return;
        }
        let mem = self.port.pin();
        let asked = self.card.transmitter.set_kicks(&mem, !on);
        self.card.receiver.quiet(on);
        drop(mem);
        if let Err(error) = asked {
            self.fail(&error);
        }
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    #[cold]
    fn fail(&mut self, error: &QueueError) {
        tracing::warn!(%error, "network device stops: broken ring");
        self.card.broken = true;
        self.card.counters.ring_failures += 1;
        *lock(&self.status.counters) = self.card.counters;
        self.status.broken.store(true, Ordering::Release);
        self.interrupt.config();
    }
}

impl Card {
    #[inline]
    fn burst<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        status: &Status,
        budget: &mut Budget,
    ) -> Result<Interrupts, QueueError> {
        let Self { transmitter, receiver, peer, wire, counters, .. } = self;
        // What waited goes first, which makes room on the wire.
        receiver.deliver(mem, observer, peer, wire, counters, budget)?;
        transmitter.transmit(mem, observer, peer, wire, counters, budget)?;
        receiver.deliver(mem, observer, peer, wire, counters, budget)?;
        if !budget.used() {
            return Ok(Interrupts::default());
        }
        // Counted before the driver can see it.
        *lock(&status.counters) = *counters;
        Ok(Interrupts { receive: receiver.publish(mem)?, transmit: transmitter.publish(mem)? })
    }
}
