//! What serves a queue pair: bursts of transmission and delivery.

use std::sync::Arc;

use virtio_iommu::{
    dma::DmaMemory,
    queue::{Queue, QueueError},
};
use virtio_transport::{Activation, Interrupt, NoInterrupt, Progress};

use super::{
    INDIRECT, MERGEABLE, NetConfig, RX_QUEUE, TX_QUEUE,
    budget::Budget,
    control::{Control, Pairs},
    control_queue,
    receive::Receiver,
    transmit::Transmitter,
};
use crate::{
    DmaObserver, DmaPort, NetCounters,
    crew::{Lane, Status},
    peer::{Peer, Wire},
};

/// One queue pair, and, of the first, the control queue.
pub(super) struct Engine<P, O> {
    /// Number of the pair, and how many there are.
    pair: u16,
    of: u16,
    pairs: Arc<Pairs>,
    control: Option<Control>,
    port: P,
    pub(super) observer: O,
    card: Card,
    interrupt: Arc<dyn Interrupt>,
    status: Arc<Status<NetCounters>>,
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
    pub(super) fn new(
        config: &NetConfig,
        pair: u16,
        port: P,
        observer: O,
        pairs: Arc<Pairs>,
        status: Arc<Status<NetCounters>>,
    ) -> Self {
        let of = pairs.most();
        let control = (pair == 0 && of > 1).then(|| Control::new(Arc::clone(&pairs)));
        let card = Card {
            transmitter: Transmitter::new(),
            receiver: Receiver::new(),
            peer: Peer::new(config.peer_mac),
            wire: Wire::new(config.wire_frames),
            counters: NetCounters::default(),
            broken: false,
        };
        Self { pair, of, pairs, control, port, observer, card, interrupt: Arc::new(NoInterrupt), status }
    }

    /// Obeys the control queue, between two bursts. Whether there was anything.
    fn control(&mut self) -> Result<bool, QueueError> {
        let Some(control) = &mut self.control else { return Ok(false) };
        let (commands, wanted) = {
            let mem = self.port.pin();
            control.serve(&mem, &mut self.card.counters)?
        };
        if commands > 0 {
            self.status.count(self.card.counters);
        }
        if wanted {
            self.interrupt.queue(control.index());
        }
        Ok(commands > 0)
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    #[cold]
    fn fail(&mut self, error: &QueueError) {
        virtio_transport::complain!(warn, %error, pair = self.pair, "network device stops: broken ring");
        self.card.broken = true;
        self.card.counters.ring_failures += 1;
        self.status.fail(self.card.counters);
        self.interrupt.config();
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> Lane for Engine<P, O> {
    type Counters = NetCounters;

    fn prepare(&mut self, activation: &Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), QueueError> {
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
        let control = control_queue(activation.features, self.of);
        if let Some(own) = &mut self.control {
            match control {
                Some(index) => own.open(index, open(index)?),
                None => own.open(0, None),
            }
        }
        // Without MQ there is one pair, and another's index may be that of the control queue.
        let there = self.pair == 0 || control == Some(2 * self.of);
        let queue = |index: u16| if there { open(2 * self.pair + index) } else { Ok(None) };
        card.transmitter.open(queue(TX_QUEUE)?);
        card.receiver.open(&mem, queue(RX_QUEUE)?, activation.features & MERGEABLE != 0)?;
        self.interrupt = interrupt;
        Ok(())
    }

    fn disconnect(&mut self) {
        self.card.transmitter.close();
        self.card.receiver.close();
        if let Some(control) = &mut self.control {
            control.close();
        }
        self.interrupt = Arc::new(NoInterrupt);
    }

    #[inline]
    fn run(&mut self) -> Progress {
        if self.card.broken {
            return Progress::Idle;
        }
        let mut worked = false;
        if self.control.is_some() {
            match self.control() {
                Ok(any) => worked = any,
                Err(error) => {
                    self.fail(&error);
                    return Progress::Idle;
                }
            }
        }
        let mut budget = Budget::new();
        let burst = {
            let Some(_gate) = self.pairs.enter(self.pair) else { return Progress::Idle };
            let mem = self.port.pin();
            self.card.burst(&mem, &mut self.observer, &self.status, &mut budget)
        };
        // The view is gone: an interrupt handler may well unmap what it pinned.
        match burst {
            Ok(wanted) => {
                if wanted.receive {
                    self.interrupt.queue(2 * self.pair + RX_QUEUE);
                }
                if wanted.transmit {
                    self.interrupt.queue(2 * self.pair + TX_QUEUE);
                }
            }
            Err(error) => self.fail(&error),
        }
        if (budget.used() || worked) && !self.card.broken { Progress::Worked } else { Progress::Idle }
    }

    fn suppress_kicks(&mut self, on: bool) {
        if self.card.broken {
            return;
        }
        let mem = self.port.pin();
        let asked = self.card.transmitter.set_kicks(&mem, !on);
        let control = self.control.as_mut().map_or(Ok(()), |control| control.set_kicks(&mem, !on));
        self.card.receiver.quiet(on);
        drop(mem);
        if let Err(error) = asked.and(control) {
            self.fail(&error);
        }
    }
}

impl Card {
    #[inline]
    fn burst<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        status: &Status<NetCounters>,
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
        status.count(*counters);
        Ok(Interrupts { receive: receiver.publish(mem)?, transmit: transmitter.publish(mem)? })
    }
}
