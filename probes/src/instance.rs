//! One probe in the kernel: its own copy of the object, its maps, its links.

use std::{fs, os::fd::AsFd as _, os::fd::AsRawFd as _};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, ProgramError, TracePoint, fentry::FEntryLinkId,
        fexit::FExitLinkId, kprobe::KProbeLinkId, tp_btf::BtfTracePointLinkId, trace_point::TracePointLinkId,
    },
};
use iommu_probes_common::{Config, Count, Histogram, Key, Record, Start, Tally, config::flags};

use crate::{
    Attempt, Definition, Kind, ProbeError,
    data::ProbeData,
    logger::Logger,
    resolve::{End, Side, Target},
    set::Options,
};

/// The committed object with the generic programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/events.bpf.o");

/// What is needed to load one probe in one way.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) definition: &'static Definition,
    pub(crate) open: End,
    pub(crate) close: Option<End>,
    pub(crate) config: Config,
}

impl Plan {
    pub(crate) fn new(
        definition: &'static Definition,
        open: End,
        close: Option<End>,
        options: &Options,
    ) -> Self {
        let none = iommu_probes_common::Field::NONE;
        let field = |end: &End, n: usize| end.fields.get(n).copied().unwrap_or(none);
        let close_field = |n| close.as_ref().map_or(none, |close| field(close, n));
        let mut config = Config {
            key: field(&open, 0),
            sub: field(&open, 1),
            value: field(&open, 2),
            open_when: field(&open, 3),
            open_equals: definition.open_when.map_or(0, |when| when.equals),
            close_when: close_field(0),
            close_equals: definition.close_when.map_or(0, |when| when.equals),
            close_value: close_field(1),
            ..Config::default()
        };
        for (on, flag) in [
            (close.is_some(), flags::PAIR),
            (definition.value_histogram, flags::VALUES),
            (options.ring_bytes.is_some(), flags::RING),
            (options.log, flags::LOG),
        ] {
            config.flags |= if on { flag } else { 0 };
        }
        if !definition.everybody {
            options.filter.apply(&mut config);
        }
        Self { definition, open, close, config }
    }
}

/// A loaded program's end.
#[derive(Debug)]
struct Attachment {
    program: &'static str,
    end: End,
    link: Option<Link>,
}

#[derive(Debug)]
enum Link {
    TpBtf(BtfTracePointLinkId),
    Fentry(FEntryLinkId),
    Fexit(FExitLinkId),
    Tracepoint(TracePointLinkId),
    Kprobe(KProbeLinkId),
}

/// One loaded probe.
pub(crate) struct Instance {
    pub(crate) definition: &'static Definition,
    ebpf: Ebpf,
    attachments: Vec<Attachment>,
    ring: Option<RingBuf<MapData>>,
    logger: Option<Logger>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("probe", &self.definition.name)
            .field("ends", &self.attachments)
            .finish()
    }
}

/// Why a plan failed.
pub(crate) enum Failure {
    /// The kernel refused this kind of hook; another may do.
    Refused(Attempt),
    /// The object or its maps are no good; no other kind helps.
    Broken(ProbeError),
}

impl Instance {
    /// Loads a probe's programs, not yet attached.
    pub(crate) fn load<'a>(
        loader: &mut EbpfLoader<'a>,
        plan: &'a Plan,
        types: Option<&Btf>,
        options: &Options,
    ) -> Result<Self, Failure> {
        let definition = plan.definition;
        let keys = options.max_keys.unwrap_or(definition.max_keys).max(1);
        let histograms = if definition.is_pair() || definition.value_histogram { keys } else { 1 };
        loader
            .override_global("CONFIG", &plan.config, true)
            .map_max_entries("COUNTS", if definition.is_pair() { 1 } else { keys })
            .map_max_entries("HISTOGRAMS", histograms)
            .map_max_entries("STARTS", if definition.is_pair() { options.max_open } else { 1 })
            .map_max_entries("EVENTS", options.ring_bytes.unwrap_or(1))
            .map_max_entries("AYA_LOGS", if options.log { 1 << 17 } else { 1 });
        let mut ebpf =
            loader.load(OBJECT).map_err(|error| Failure::Broken(ProbeError::Object(Box::new(error))))?;
        let mut attachments = Vec::new();
        for (side, end) in [(Side::Open, Some(&plan.open)), (Side::Close, plan.close.as_ref())] {
            let Some(end) = end else { continue };
            let program = program_name(side, end.kind);
            load_program(&mut ebpf, program, end, types).map_err(|error| refused(end.kind, &error))?;
            attachments.push(Attachment { program, end: end.clone(), link: None });
        }
        let broken = |source: MapError| {
            Failure::Broken(ProbeError::Map { probe: definition.name.to_owned(), source: Box::new(source) })
        };
        let ring = match (options.ring_bytes, ebpf.take_map("EVENTS")) {
            (Some(_), Some(map)) => Some(RingBuf::try_from(map).map_err(broken)?),
            _ => None,
        };
        let logger = options.log.then(|| Logger::new(&mut ebpf, definition.name)).flatten();
        Ok(Self { definition, ebpf, attachments, ring, logger })
    }

    /// Attaches all ends that are not attached, the closing one first, so that no opening goes without.
    pub(crate) fn attach(&mut self) -> Result<(), Failure> {
        for attachment in self.attachments.iter_mut().rev() {
            if attachment.link.is_some() {
                continue;
            }
            match attach_program(&mut self.ebpf, attachment.program, &attachment.end) {
                Ok(link) => attachment.link = Some(link),
                Err(error) => {
                    let kind = attachment.end.kind;
                    self.detach();
                    return Err(refused(kind, &error));
                }
            }
        }
        Ok(())
    }

    /// Takes all ends away from the kernel; programs and maps stay loaded.
    pub(crate) fn detach(&mut self) {
        for attachment in &mut self.attachments {
            let Some(link) = attachment.link.take() else { continue };
            if let Err(error) = detach_program(&mut self.ebpf, attachment.program, link) {
                tracing::warn!(probe = self.definition.name, %error, "a program could not be detached");
            }
        }
    }

    /// Kind and target of each end.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (Kind, &Target)> {
        self.attachments.iter().map(|attachment| (attachment.end.kind, &attachment.end.target))
    }

    /// What the probe has counted so far.
    pub(crate) fn read(&self) -> Result<ProbeData, ProbeError> {
        self.read_maps().map_err(|source| ProbeError::Map {
            probe: self.definition.name.to_owned(),
            source: Box::new(source),
        })
    }

    fn read_maps(&self) -> Result<ProbeData, MapError> {
        let map = |name: &'static str| {
            self.ebpf.map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() })
        };
        let mut data = ProbeData::new(self.definition, self.missed());
        let tally: PerCpuArray<_, Tally> = map("TALLY")?.try_into()?;
        data.tally = tally.get(&0, 0)?.iter().fold(Tally::default(), |sum, one| sum.plus(*one));
        if self.definition.is_pair() {
            let starts: HashMap<_, u64, Start> = map("STARTS")?.try_into()?;
            for start in starts.iter() {
                data.open += u64::from(start?.1.at_ns != 0);
            }
        } else {
            let counts: PerCpuHashMap<_, Key, Count> = map("COUNTS")?.try_into()?;
            for count in counts.iter() {
                let (key, values) = count?;
                data.add_counts(key, values.iter());
            }
        }
        let histograms: PerCpuHashMap<_, Key, Histogram> = map("HISTOGRAMS")?.try_into()?;
        for histogram in histograms.iter() {
            let (key, values) = histogram?;
            data.add_histograms(key, values.iter());
        }
        Ok(data)
    }

    /// Events that the kernel did not run the programs for, because one of them was running on that processor.
    fn missed(&self) -> u64 {
        let of = |program: &str| {
            let fd = self.ebpf.program(program)?.fd().ok()?.as_fd().as_raw_fd();
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse::<u64>().ok()
        };
        self.attachments.iter().filter_map(|attachment| of(attachment.program)).sum()
    }

    /// Takes the raw events out of the ring buffer, if there is one.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Record)) -> u64 {
        let Some(ring) = &mut self.ring else { return 0 };
        let mut taken = 0;
        while let Some(item) = ring.next() {
            if let Some(record) = record(&item) {
                taken += 1;
                each(record);
            }
        }
        taken
    }

    /// Passes on what the programs logged.
    pub(crate) fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// The record's bytes, by the offsets that `iommu_probes_common::tests` pins.
fn record(bytes: &[u8]) -> Option<Record> {
    let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(Record {
        at_ns: word(0)?,
        latency_ns: word(8)?,
        key: Key { id: word(16)?, sub: word(24)? },
        value: word(32)?,
        tid: half(40)?,
        tgid: half(44)?,
    })
}

const fn program_name(side: Side, kind: Kind) -> &'static str {
    match (side, kind) {
        (Side::Open, Kind::TpBtf) => "open_tp_btf",
        (Side::Open, Kind::Tracepoint) => "open_tracepoint",
        (Side::Close, Kind::TpBtf) => "close_tp_btf",
        (Side::Close, Kind::Tracepoint) => "close_tracepoint",
        (_, Kind::Fentry) => "open_fentry",
        (_, Kind::Fexit) => "close_fexit",
        (_, Kind::Kretprobe) => "close_kretprobe",
        (_, Kind::Kprobe | Kind::Uprobe) => "open_kprobe",
    }
}

/// The program of that name, as its type. The names are those of the committed object.
macro_rules! program {
    ($ebpf:expr, $name:expr, $type:ty) => {{
        let program = $ebpf.program_mut($name).ok_or(ProgramError::NotLoaded)?;
        <&mut $type>::try_from(program)?
    }};
}

fn load_program(ebpf: &mut Ebpf, name: &str, end: &End, types: Option<&Btf>) -> Result<(), ProgramError> {
    let (Target::Event { name: target, .. } | Target::Function(target)) = end.target;
    match (end.kind, types) {
        (Kind::TpBtf, Some(types)) => program!(ebpf, name, BtfTracePoint).load(target, types),
        (Kind::Fentry, Some(types)) => program!(ebpf, name, FEntry).load(target, types),
        (Kind::Fexit, Some(types)) => program!(ebpf, name, FExit).load(target, types),
        (Kind::Tracepoint, _) => program!(ebpf, name, TracePoint).load(),
        (Kind::Kprobe | Kind::Kretprobe, _) => program!(ebpf, name, KProbe).load(),
        (Kind::TpBtf | Kind::Fentry | Kind::Fexit, None) | (Kind::Uprobe, _) => {
            Err(ProgramError::UnexpectedProgramType)
        }
    }
}

fn attach_program(ebpf: &mut Ebpf, name: &str, end: &End) -> Result<Link, ProgramError> {
    match (end.kind, &end.target) {
        (Kind::TpBtf, _) => program!(ebpf, name, BtfTracePoint).attach().map(Link::TpBtf),
        (Kind::Fentry, _) => program!(ebpf, name, FEntry).attach().map(Link::Fentry),
        (Kind::Fexit, _) => program!(ebpf, name, FExit).attach().map(Link::Fexit),
        (Kind::Tracepoint, Target::Event { category, name: event }) => {
            program!(ebpf, name, TracePoint).attach(category, event).map(Link::Tracepoint)
        }
        (Kind::Kprobe | Kind::Kretprobe, Target::Function(function)) => {
            program!(ebpf, name, KProbe).attach(function, 0).map(Link::Kprobe)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn detach_program(ebpf: &mut Ebpf, name: &str, link: Link) -> Result<(), ProgramError> {
    match link {
        Link::TpBtf(link) => program!(ebpf, name, BtfTracePoint).detach(link),
        Link::Fentry(link) => program!(ebpf, name, FEntry).detach(link),
        Link::Fexit(link) => program!(ebpf, name, FExit).detach(link),
        Link::Tracepoint(link) => program!(ebpf, name, TracePoint).detach(link),
        Link::Kprobe(link) => program!(ebpf, name, KProbe).detach(link),
    }
}

fn refused(kind: Kind, error: &ProgramError) -> Failure {
    Failure::Refused(Attempt::of(kind, error))
}
