//! netperf-shaped DMA traffic: TCP_STREAM, TCP_MAERTS, TCP_RR, UDP_STREAM and UDP_RR without a network stack.
//!
//! Packets have the sizes, rate and direction that netperf over TCP gives them, payloads are real and verified, but
//! there is no TCP: no retransmission, no congestion control, no socket buffers. Figures per packet therefore contain
//! what the driver, the DMA API and the devices cost, and nothing else.
//!
//! Each queue pair of the NIC has a CPU that polls it, as NAPI does under load, and every so many-th flow: flow `n` of `p` pairs
//! is sent and received on pair `n % p` and no other. The first runs on the calling thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use virtio_iommu_spec::EndpointId;
use vm_memory::GuestMemoryMmap;

mod datagrams;
mod maerts;
mod rr;
mod stream;

use crate::{
    bus::Bus,
    clock::{Clock, Recorder},
    dma::{Counts, Dma, DmaError, DmaSettings},
    frame::{Header, Kind},
    iommu::{IommuDriver, IommuError, IommuSettings},
    net::{NetDriver, NetError, NetSettings, Slot},
    pages::PageAllocator,
    pattern::Pattern,
    scenario::{CaseSpec, Params, Test, largest_payload},
    wait::{Pause, Wait},
    workload::share,
};
use datagrams::Datagrams;
use maerts::Maerts;
use rr::RoundTrips;
use stream::Stream;

/// Frames taken in one poll, as NAPI's weight.
const POLL_BUDGET: u32 = 64;
/// The peer's address; it answers whoever asks.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A case that cannot be set up, or broke while it ran.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetperfError {
    /// The NIC's driver.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The IOMMU's driver.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// The DMA API.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The mode needs an IOMMU and the machine has none.
    #[error("mode {0} needs an IOMMU")]
    NoIommu(crate::dma::Mode),
    /// A frame of a flow that belongs to another queue pair.
    #[error("flow {flow} arrived on queue pair {pair} of {pairs}")]
    Steering {
        /// The flow.
        flow: u16,
        /// Where it arrived.
        pair: u16,
        /// How many pairs there are.
        pairs: u16,
    },
    /// A thread of the guest panicked.
    #[error("a thread of the guest panicked")]
    Panicked,
    /// A frame that answers nothing that was sent.
    #[error("unexpected {kind:?} for flow {flow}, sequence {seq}")]
    Unexpected {
        /// Its kind.
        kind: Kind,
        /// Its flow.
        flow: u16,
        /// Its sequence number.
        seq: u32,
    },
    /// Nothing happened for the watchdog's time.
    #[error(
        "no progress for {waited:?}: {in_flight} packets not transmitted, {awaited} answers missing, {faults} IOMMU faults"
    )]
    Stalled {
        /// How long.
        waited: Duration,
        /// Packets the NIC has not completed.
        in_flight: u16,
        /// Frames (ACKs, or transactions) that are missing.
        awaited: u64,
        /// Faults the IOMMU reported since the last slice.
        faults: u64,
    },
    /// The IOMMU reported faults, and yet everything arrived.
    #[error("the IOMMU reported {0} faults")]
    Faults(u64),
    /// It is none of netperf's tests.
    #[error("{0} is no test of netperf's")]
    NoTest(Test),
    /// An earlier slice failed; the state of the devices is unknown.
    #[error("the case failed in an earlier slice")]
    Broken,
}

/// What a case runs on.
pub struct Guest {
    /// Guest RAM.
    pub memory: Arc<GuestMemoryMmap>,
    /// The NIC.
    pub net_bus: Arc<dyn Bus>,
    /// The IOMMU, for modes that have one.
    pub iommu_bus: Option<Arc<dyn Bus>>,
    /// The NIC's endpoint ID.
    pub endpoint: EndpointId,
    /// Time, for deadlines, latencies and lazy mode's timer.
    pub clock: Arc<dyn Clock>,
    /// Where latencies go.
    pub recorder: Arc<dyn Recorder>,
    /// Seed of the payloads.
    pub seed: u64,
    /// Longest time to wait for a device, in real time.
    pub watchdog: Duration,
}

/// When a slice ends. What is in flight then is waited for, so that each slice's counts are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// When the clock says so (nanoseconds).
    Deadline {
        /// The time.
        at_ns: u64,
    },
    /// After exactly so many packets transmitted (TCP_STREAM, UDP_STREAM) or received (TCP_MAERTS), or transactions
    /// (TCP_RR, UDP_RR).
    Packets(u64),
}

/// What a slice did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceStats {
    /// From the first packet to the last answer, in the clock's nanoseconds.
    pub elapsed_ns: u64,
    /// What was counted.
    pub counts: Counts,
    /// It ended early because it was cancelled.
    pub cancelled: bool,
}

/// One case, set up; its state persists between slices.
pub struct Netperf {
    /// One for each queue pair.
    lanes: Vec<Lane>,
    clock: Arc<dyn Clock>,
    baseline: Counts,
    broken: bool,
}

/// A queue pair and the flows on it.
struct Lane {
    world: World,
    traffic: Traffic,
}

/// What all tests work with.
struct World {
    /// Number of the queue pair, and how many there are.
    pair: u16,
    pairs: u16,
    net: NetDriver,
    pattern: Pattern,
    params: Params,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    watchdog: Duration,
    now_ns: u64,
    /// Packets queued since the last kick.
    unkicked: u16,
    /// Packets sent, which number the payloads.
    sent: u64,
    transactions: u64,
    segments: u64,
}

enum Traffic {
    Stream(Stream),
    Maerts(Maerts),
    Datagrams(Datagrams),
    RoundTrips(RoundTrips),
}

impl Netperf {
    /// Sets the case up: probes the devices, attaches the NIC to its domain, posts the receive buffers.
    ///
    /// # Errors
    /// When a device is not there or lacks what the case needs, or guest memory is too small.
    pub fn new(guest: Guest, case: &CaseSpec) -> Result<Self, NetperfError> {
        let params = &case.params;
        let pages = PageAllocator::new(Arc::clone(&guest.memory));
        let iommu = if case.mode.has_iommu() {
            let bus = guest.iommu_bus.clone().ok_or(NetperfError::NoIommu(case.mode))?;
            let settings = IommuSettings {
                request_queues: params.request_queues,
                ring_size: params.iommu_ring_size,
                watchdog: guest.watchdog,
                ..IommuSettings::default()
            };
            Some((IommuDriver::probe(bus, &pages, settings)?, guest.endpoint))
        } else {
            None
        };
        let settings = DmaSettings {
            mode: case.mode,
            flush_entries: params.flush_entries,
            flush_ns: u64::from(params.flush_ms) * 1_000_000,
            domain: 0,
        };
        let dma = Dma::new(settings, iommu, Arc::clone(&guest.clock), Arc::clone(&guest.recorder))?;
        let longest = largest_payload(case.test, params);
        let net_settings = NetSettings::new(params, longest, guest.watchdog);
        let drivers = NetDriver::probe(guest.net_bus, &pages, dma, settings, &net_settings)?;
        let pairs = params.queue_pairs;
        let lane = |(pair, net): (u16, NetDriver)| -> Result<Lane, NetperfError> {
            // Its share of the flows; no pair is without one.
            let flows = params.flows / pairs + u16::from(pair < params.flows % pairs);
            let params = Params { flows, ..params.clone() };
            let traffic = traffic(case.test, &params, longest)?;
            let world = World {
                pair,
                pairs,
                net,
                pattern: Pattern::new(guest.seed.wrapping_add(u64::from(pair)), longest),
                params,
                clock: Arc::clone(&guest.clock),
                recorder: Arc::clone(&guest.recorder),
                watchdog: guest.watchdog,
                now_ns: 0,
                unkicked: 0,
                sent: 0,
                transactions: 0,
                segments: 0,
            };
            Ok(Lane { world, traffic })
        };
        let lanes = (0..).zip(drivers).map(lane).collect::<Result<Vec<_>, _>>()?;
        let baseline = net_counts(&lanes);
        Ok(Self { lanes, clock: guest.clock, baseline, broken: false })
    }

    /// Runs until `stop`, or until `cancel` is set, then waits for what is in flight.
    ///
    /// # Errors
    /// When a device or the driver fails, payload is corrupt, or nothing happens for the watchdog's time. The case
    /// cannot be continued then.
    pub fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, NetperfError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(NetperfError::Broken);
        }
        let before = self.counts();
        let start_ns = self.clock.now_ns();
        let cancelled = self.drive(stop, cancel)?;
        let elapsed_ns = self.clock.now_ns().saturating_sub(start_ns);
        let faults = self.lanes[0].world.net.dma().take_faults()?;
        if faults > 0 {
            return Err(NetperfError::Faults(faults));
        }
        self.broken = false;
        Ok(SliceStats { elapsed_ns, counts: self.counts() - before, cancelled })
    }

    /// One thread for each lane but the first, which runs here.
    fn drive(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, NetperfError> {
        let count = self.lanes.len();
        thread::scope(|scope| {
            let mut lanes = self.lanes.iter_mut().enumerate();
            let first = lanes.next();
            let others: Vec<_> = lanes
                .map(|(index, lane)| scope.spawn(move || lane.run(share(stop, index, count), cancel)))
                .collect();
            let mut outcome =
                first.map_or(Ok(false), |(index, lane)| lane.run(share(stop, index, count), cancel));
            for other in others {
                let other = other.join().unwrap_or(Err(NetperfError::Panicked));
                outcome = outcome.and_then(|cancelled| other.map(|more| cancelled | more));
            }
            outcome
        })
    }

    /// What was counted since set-up.
    pub fn counts(&self) -> Counts {
        let mut counts = net_counts(&self.lanes) - self.baseline;
        counts.transactions = self.lanes.iter().map(|lane| lane.world.transactions).sum();
        counts.tx_segments = self.lanes.iter().map(|lane| lane.world.segments).sum();
        counts
    }

    /// What setting the case up took: mapping rings and receive buffers.
    pub fn setup_counts(&self) -> Counts {
        self.baseline
    }

    /// Resets the NIC, unmaps everything, detaches it from its domain. Returns all counts, those of set-up and of this
    /// call included: every map has been unmapped.
    ///
    /// # Errors
    /// When a device does not do what is asked.
    pub fn shutdown(self) -> Result<Counts, NetperfError> {
        let drivers = self.lanes.into_iter().map(|lane| lane.world.net).collect();
        Ok(NetDriver::shutdown(drivers)?)
    }
}

fn net_counts(lanes: &[Lane]) -> Counts {
    let mut counts = Counts::default();
    for lane in lanes {
        counts += lane.world.net.counts();
    }
    counts
}

fn traffic(test: Test, params: &Params, longest: u32) -> Result<Traffic, NetperfError> {
    Ok(match test {
        Test::TcpStream => Traffic::Stream(Stream::new(params)),
        Test::TcpMaerts => Traffic::Maerts(Maerts::new(params)),
        Test::UdpStream => Traffic::Datagrams(Datagrams::new(params)),
        Test::TcpRr | Test::UdpRr => Traffic::RoundTrips(RoundTrips::new(params, longest)),
        Test::DmaThroughput
        | Test::IotlbChurn
        | Test::MapStorm
        | Test::FioRandread
        | Test::FioRandwrite
        | Test::VfioMap => return Err(NetperfError::NoTest(test)),
    })
}

impl Lane {
    fn run(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, NetperfError> {
        let Self { world, traffic } = self;
        match traffic {
            Traffic::Stream(stream) => drive(world, stream, stop, cancel),
            Traffic::Maerts(maerts) => drive(world, maerts, stop, cancel),
            Traffic::Datagrams(datagrams) => drive(world, datagrams, stop, cancel),
            Traffic::RoundTrips(round_trips) => drive(world, round_trips, stop, cancel),
        }
    }
}

/// What differs between the tests.
trait Load {
    /// Sends as much as it may; whether it sent anything. `quota`: packets or transactions it may still begin.
    fn send(&mut self, world: &mut World, quota: &mut u64) -> Result<bool, NetperfError>;
    /// A frame arrived.
    fn receive(&mut self, header: &Header, now: &Progress<'_>) -> Result<(), NetperfError>;
    /// Answers that are missing, once nothing more is begun.
    fn awaited(&self) -> u64;
}

/// What a received frame is judged with.
struct Progress<'a> {
    clock: &'a dyn Clock,
    recorder: &'a dyn Recorder,
}

/// Sends and receives until `stop`, then drains. Whether it was cancelled.
fn drive(
    world: &mut World,
    test: &mut impl Load,
    stop: Stop,
    cancel: &AtomicBool,
) -> Result<bool, NetperfError> {
    let mut quota = match stop {
        Stop::Packets(packets) => packets,
        Stop::Deadline { .. } => u64::MAX,
    };
    let mut cancelled = false;
    let mut wait = Wait::new(world.watchdog);
    loop {
        world.now_ns = world.clock.now_ns();
        world.net.dma().tick(world.now_ns)?;
        if matches!(stop, Stop::Deadline { at_ns } if world.now_ns >= at_ns) {
            quota = 0;
        }
        // Relaxed: it publishes nothing but itself, and a moment later is as good.
        if quota > 0 && cancel.load(Ordering::Relaxed) {
            (cancelled, quota) = (true, 0);
        }
        let mut progress = test.send(world, &mut quota)?;
        world.kick();
        progress |= world.net.reap()? > 0;
        progress |= world.receive(test)?;
        if progress {
            wait.progress();
        } else if quota == 0 && test.awaited() == 0 && world.net.in_flight() == 0 {
            break;
        } else {
            world.pause(&mut wait, test)?;
        }
    }
    world.net.refill()?;
    Ok(cancelled)
}

impl World {
    /// Publishes what is queued.
    fn kick(&mut self) {
        if self.unkicked > 0 {
            self.unkicked = 0;
            self.net.kick();
        }
    }

    /// Queues a packet whose payload is in place, and kicks after every [`Params::tx_batch`].
    fn send(&mut self, slot: Slot, header: &Header) -> Result<(), NetperfError> {
        self.net.send(slot, header)?;
        self.sent += 1;
        self.segments += u64::from(header.payload_len.div_ceil(u32::from(self.params.mss())).max(1));
        self.unkicked += 1;
        if self.unkicked >= self.params.tx_batch {
            self.kick();
        }
        Ok(())
    }

    /// A free slot, if need be after reaping what has been transmitted.
    fn slot(&mut self) -> Result<Option<Slot>, NetperfError> {
        if let Some(slot) = self.net.slot() {
            return Ok(Some(slot));
        }
        self.kick();
        self.net.reap()?;
        Ok(self.net.slot())
    }

    /// Polls until nothing is there; whether anything was.
    fn receive(&mut self, test: &mut impl Load) -> Result<bool, NetperfError> {
        let mut failed = Ok(());
        let progress = Progress { clock: &*self.clock, recorder: &*self.recorder };
        let (pair, pairs) = (self.pair, self.pairs);
        let frames = self.net.poll(POLL_BUDGET, |header| {
            if failed.is_ok() {
                failed = if header.flow % pairs == pair {
                    test.receive(&Header { flow: header.flow / pairs, ..*header }, &progress)
                } else {
                    Err(NetperfError::Steering { flow: header.flow, pair, pairs })
                };
            }
        })?;
        failed?;
        Ok(frames > 0)
    }

    fn pause(&mut self, wait: &mut Wait, test: &impl Load) -> Result<(), NetperfError> {
        match wait.pause() {
            Pause::Again => Ok(()),
            Pause::CheckDevice => Ok(self.net.check()?),
            Pause::Expired => Err(NetperfError::Stalled {
                waited: self.watchdog,
                in_flight: self.net.in_flight(),
                awaited: test.awaited(),
                faults: self.net.dma().take_faults()?,
            }),
        }
    }

    /// A header from this NIC to the peer; `flow` counts those of this pair.
    fn header(&self, kind: Kind, flow: u16, seq: u32) -> Header {
        Header {
            destination: PEER_MAC,
            source: self.net.mac(),
            kind,
            flow: flow * self.pairs + self.pair,
            seq,
            payload_len: 0,
            crc: 0,
            reply_len: 0,
            ack_every: 0,
            mss: self.params.mss(),
        }
    }
}

fn unexpected(header: &Header) -> NetperfError {
    NetperfError::Unexpected { kind: header.kind, flow: header.flow, seq: header.seq }
}
