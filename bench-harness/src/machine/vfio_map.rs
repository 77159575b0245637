//! VFIO_MAP: what VFIO itself takes to map and unmap memory for a device, without any IOMMU of ours in the path.
//!
//! A cycle maps the memory, moves it to another address (unmap and map, as a driver does that posts a buffer again), and
//! unmaps it. The device is never told to do anything.
//!
//! Pinning happens inside the map call, where only the kernel sees it. So each slice ends with some cycles that are watched
//! by kernel probes and timed apart: pinning's part of a map, and unpinning's of an unmap, are from those alone.

use std::{collections::BTreeMap, error::Error, fs, sync::Arc};

use iommu_passthrough::{
    Container,
    direct::{Direct, two_addresses},
    region::{self, Region},
};
use iommu_probes::{Filter, Group, ProbeSet, Snapshot};
use iommu_results::{Histogram, Param, names};
use iommu_workloads::{CaseSpec, scenario::Backing};

use super::{Amount, CaseError, PreparedCase, Slice, Time, build::chain};
use crate::{clock::WallClock, clock::process_cpu_ns};

/// Cycles that are watched at the end of a slice.
const WATCHED_CYCLES: u64 = 32;
/// But no more than this time, in nanoseconds.
const WATCHED_NS: u64 = 200_000_000;
/// Memory that stays free, in bytes.
const SPARE_BYTES: u64 = 128 << 20;
/// The kernel's functions that pin and unpin.
const PIN: &str = "vfio_pin_pages";
const UNPIN: &str = "vfio_unpin_pages";

/// Memory that cases share, by what it is made of: as much as the largest case needs, or why there is none.
#[derive(Default)]
pub(super) struct Regions {
    had: BTreeMap<Backing, Vec<Arc<Region>>>,
}

impl Regions {
    /// A region of at least `bytes`, or why there is none.
    fn region(&mut self, backing: Backing, bytes: u64) -> Result<Arc<Region>, String> {
        let had = self.had.entry(backing).or_default();
        if let Some(region) = had.iter().find(|region| region.len() as u64 >= bytes) {
            return Ok(Arc::clone(region));
        }
        let free = available(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        // Reserved pages are not part of what is free, and are had or not.
        if backing != Backing::Hugetlb
            && let Some(free) = free
            && free < bytes.saturating_add(SPARE_BYTES)
        {
            return Err(format!(
                "{} MiB of memory are wanted beside what other cases of this run hold, and {} MiB are free (in the \
                 lab: --lab-memory)",
                bytes >> 20,
                free >> 20
            ));
        }
        let kind = match backing {
            Backing::Small => region::Backing::Small,
            Backing::Transparent => region::Backing::Transparent,
            Backing::Hugetlb => region::Backing::Hugetlb,
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let region = Arc::new(Region::new(kind, bytes).map_err(|error| error.to_string())?);
        had.push(Arc::clone(&region));
        Ok(region)
    }
}

/// `MemAvailable`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A case, and all it needs; or why it cannot be had.
pub(super) struct VfioMap {
    case: CaseSpec,
    device: String,
    time: Time,
    ready: Result<Ready, String>,
    /// Probes on pinning, or why there are none.
    watch: Result<ProbeSet, String>,
}

struct Ready {
    direct: Direct,
    addresses: [u64; 2],
    bytes: u64,
}

/// What cycles took.
#[derive(Default)]
struct Timed {
    map: Latency,
    remap: Latency,
    unmap: Latency,
    cycles: u64,
}

#[derive(Default)]
struct Latency {
    histogram: Histogram,
    sum_ns: u64,
}

impl Latency {
    fn record(&mut self, ns: u64) {
        self.histogram.record(ns);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

impl VfioMap {
    /// Takes memory and addresses for a case.
    pub(super) fn new(
        case: &CaseSpec,
        container: &Arc<Container>,
        regions: &mut Regions,
        time: Time,
        probes: bool,
    ) -> Result<Self, CaseError> {
        let failed = |cause: String| CaseError { case: case.id.clone(), cause };
        let bytes = u64::from(case.params.map_bytes);
        let addresses = two_addresses(container, bytes).map_err(|error| failed(chain(&error)))?;
        let ready = match addresses {
            None => Err(format!("no two ranges of {bytes} bytes fit what the IOMMU can map")),
            Some(addresses) => regions.region(case.params.backing, bytes).map(|region| Ready {
                direct: Direct::new(Arc::clone(container), region),
                addresses,
                bytes,
            }),
        };
        Ok(Self {
            case: case.clone(),
            device: container.address().to_owned(),
            time,
            ready,
            watch: if probes { watch() } else { Err("switched off with --probes off".to_owned()) },
        })
    }

    fn clock(&self) -> Result<WallClock, CaseError> {
        self.time.wall().ok_or_else(|| self.error("virtual time measures nothing of a real device"))
    }

    fn error(&self, cause: impl Into<String>) -> CaseError {
        CaseError { case: self.case.id.clone(), cause: cause.into() }
    }
}

/// Probes on the kernel's pinning, for this process, loaded and not attached.
fn watch() -> Result<ProbeSet, String> {
    let own = Filter { tgid: Some(std::process::id()), ..Filter::default() };
    let wanted =
        iommu_probes::catalogue::group(Group::Vfio).filter(|probe| [PIN, UNPIN].contains(&probe.name));
    let mut set = ProbeSet::builder().definitions(wanted).filter(own).start();
    if let Some(skipped) = set.skipped().iter().find(|skipped| [PIN, UNPIN].contains(&skipped.name)) {
        return Err(format!("only a probe in the kernel sees pinning: {}", skipped.reason));
    }
    set.detach();
    Ok(set)
}

/// Cycles until `stop` says so, at least one.
fn cycles(
    ready: &mut Ready,
    clock: WallClock,
    mut stop: impl FnMut(u64, u64) -> bool,
) -> Result<Timed, Box<dyn Error>> {
    let Ready { direct, addresses: [first, second], bytes } = ready;
    let mut timed = Timed::default();
    let mut now = clock.now_ns();
    loop {
        direct.map(*first, *bytes)?;
        let mapped = clock.now_ns();
        direct.unmap()?;
        direct.map(*second, *bytes)?;
        let remapped = clock.now_ns();
        direct.unmap()?;
        let unmapped = clock.now_ns();
        timed.map.record(mapped.saturating_sub(now));
        timed.remap.record(remapped.saturating_sub(mapped));
        timed.unmap.record(unmapped.saturating_sub(remapped));
        timed.cycles += 1;
        if stop(timed.cycles, unmapped) {
            return Ok(timed);
        }
        now = clock.now_ns();
    }
}

impl PreparedCase for VfioMap {
    fn params(&self) -> BTreeMap<String, Param> {
        let texts = [("clock", self.time.name()), ("viommu", "none"), ("device", self.device.as_str())];
        texts.into_iter().map(|(name, text)| (name.to_owned(), Param::from(text))).collect()
    }

    fn run_slice(&mut self, amount: Amount) -> Result<Slice, CaseError> {
        let clock = self.clock()?;
        let case = self.case.id.clone();
        let failed = |error: Box<dyn Error>| CaseError { case: case.clone(), cause: chain(&*error) };
        let ready = match &mut self.ready {
            Ok(ready) => ready,
            Err(reason) => return Ok(Slice { missing: Some(reason.clone()), ..Slice::default() }),
        };
        let (start_ns, cpu_before) = (clock.now_ns(), process_cpu_ns());
        let stop = |done: u64, now_ns: u64| match amount {
            Amount::For(time) => now_ns.saturating_sub(start_ns) >= time.as_nanos() as u64,
            Amount::Packets(n) => done >= n,
        };
        let timed = cycles(ready, clock, stop).map_err(failed)?;
        let (elapsed_ns, cpu_ns) = (clock.now_ns().saturating_sub(start_ns), process_cpu_ns() - cpu_before);
        let split = match &mut self.watch {
            Ok(set) => split(set, ready, clock).map_err(failed)?,
            Err(reason) => Err(reason.clone()),
        };
        Ok(slice(timed, ready.bytes, elapsed_ns, cpu_ns, split))
    }

    fn finish(self: Box<Self>) -> Result<(), CaseError> {
        let case = self.case.id.clone();
        let Ok(mut ready) = self.ready else { return Ok(()) };
        match ready.direct.unmap() {
            Ok(0) => Ok(()),
            Ok(bytes) => {
                Err(CaseError { case, cause: format!("{bytes} bytes were still mapped at the end") })
            }
            Err(error) => Err(CaseError { case, cause: error.to_string() }),
        }
    }
}

/// Pinning's parts, in the order of [`names::PINNING`], or why they are not known.
type Split = Result<[f64; 4], String>;

/// Watches some cycles.
fn split(set: &mut ProbeSet, ready: &mut Ready, clock: WallClock) -> Result<Split, Box<dyn Error>> {
    set.attach();
    let before = set.snapshot()?;
    let start_ns = clock.now_ns();
    let timed = cycles(ready, clock, |done, now| {
        done >= WATCHED_CYCLES || now.saturating_sub(start_ns) >= WATCHED_NS
    });
    set.detach();
    let timed = timed?;
    let seen = set.snapshot()?.since(&before);
    Ok(parts(&timed, sum_ns(&seen, PIN), sum_ns(&seen, UNPIN)))
}

/// Time in a function; nothing when it was never entered or some of it was lost.
fn sum_ns(seen: &Snapshot, name: &str) -> Option<f64> {
    let probe = seen.probe(name)?;
    let whole = probe.whole();
    let complete = probe.lost() + probe.missed == 0 && whole.count() > 0;
    complete.then(|| whole.mean() * whole.count() as f64)
}

/// A cycle maps twice and unmaps twice; those of the move are in one figure, of which each takes the part it has alone.
fn parts(timed: &Timed, pin_ns: Option<f64>, unpin_ns: Option<f64>) -> Split {
    let missing = |function: &str| format!("the kernel's {function} was not seen, or not all of it");
    let pin_ns = pin_ns.ok_or_else(|| missing("vfio_pin_pages_remote"))?;
    let unpin_ns = unpin_ns.ok_or_else(|| missing("vfio_unpin_pages_remote"))?;
    let (map_ns, unmap_ns) = (timed.map.sum_ns as f64, timed.unmap.sum_ns as f64);
    let whole_ns = map_ns + unmap_ns + timed.remap.sum_ns as f64;
    let calls = 2.0 * timed.cycles as f64;
    Ok([pin_ns / calls, unpin_ns / calls, pin_ns / whole_ns, unpin_ns / whole_ns])
}

fn slice(timed: Timed, bytes: u64, elapsed_ns: u64, cpu_ns: u64, split: Split) -> Slice {
    let calls = 2 * timed.cycles;
    let counts = [
        (names::PACKETS, timed.cycles),
        (names::VFIO_MAPS, calls),
        (names::VFIO_UNMAPS, calls),
        (names::VFIO_BYTES_MAPPED, calls * bytes),
        (names::VFIO_BYTES_UNMAPPED, calls * bytes),
    ];
    let latencies = [
        (names::VFIO_MAP_LATENCY, timed.map),
        (names::VFIO_REMAP_LATENCY, timed.remap),
        (names::VFIO_UNMAP_LATENCY, timed.unmap),
    ];
    let mut slice = Slice {
        elapsed_ns: Some(elapsed_ns),
        cpu_ns: Some(cpu_ns),
        packets: timed.cycles,
        transactions: timed.cycles,
        counts: counts.map(|(name, n)| (name.to_owned(), n)).into(),
        ..Slice::default()
    };
    for (name, latency) in latencies {
        let mean = latency.sum_ns as f64 / timed.cycles as f64;
        slice.means_ns.insert(name.to_owned(), mean);
        slice.histograms.insert(name.to_owned(), latency.histogram);
    }
    for (at, name) in names::PINNING.into_iter().enumerate() {
        slice.further.insert(name, split.clone().map(|parts| parts[at]));
    }
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free() {
        assert_eq!(available("MemTotal: 5 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available(""), None);
    }

    #[test]
    fn memory_is_shared_by_cases_and_what_there_is_not_says_so() {
        let mut regions = Regions::default();
        let first = regions.region(Backing::Small, 4096).unwrap();
        assert!(Arc::ptr_eq(&first, &regions.region(Backing::Small, 65536).unwrap()));
        let reason = regions.region(Backing::Small, 1 << 60).unwrap_err();
        assert!(reason.contains("MiB are free") && reason.contains("--lab-memory"), "{reason}");
        let reason = regions.region(Backing::Hugetlb, 1 << 46).unwrap_err();
        assert!(reason.contains("vm.nr_hugepages"), "{reason}");
    }

    #[test]
    fn parts_of_watched_cycles() {
        let mut timed = Timed { cycles: 10, ..Timed::default() };
        for (latency, ns) in [(&mut timed.map, 400), (&mut timed.remap, 500), (&mut timed.unmap, 100)] {
            latency.record(ns);
        }
        assert_eq!(parts(&timed, Some(200.0), Some(50.0)), Ok([10.0, 2.5, 0.2, 0.05]));
        assert!(parts(&timed, None, Some(50.0)).unwrap_err().contains("vfio_pin_pages_remote"));
    }

    #[test]
    fn counts_of_a_slice_are_those_of_its_calls() {
        let timed = Timed { cycles: 3, ..Timed::default() };
        let slice = slice(timed, 4096, 1000, 500, Err("no probes".to_owned()));
        assert_eq!(slice.counts[names::VFIO_BYTES_MAPPED], 6 * 4096);
        assert_eq!(slice.counts[names::VFIO_UNMAPS], 6);
        assert_eq!(slice.further[names::VFIO_PIN_TIME], Err("no probes".to_owned()));
    }
}
