//! Where readings come from: kernel probes, the device's trace points, samples.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf};

use iommu_probes::{
    LogHistogram, ProbeSet, SiteProbes, SitesSeen, Snapshot,
    common::site::{Part, Site},
};
use iommu_profile::{Recorder, Settings};
use iommu_results::HistogramSummary;

use super::{What, output::Reading, target::Target};
use crate::failure::{Failure, warn};

/// Functions that a profile's totals name.
const HOTTEST: usize = 20;

/// Everything that is watched.
pub(super) struct Sources {
    kernel: Option<Kernel>,
    device: Option<Device>,
    profile: Option<Sampled>,
}

struct Kernel {
    set: ProbeSet,
    first: Snapshot,
    last: Snapshot,
}

struct Device {
    probes: SiteProbes,
    target: String,
    first: SitesSeen,
    last: SitesSeen,
}

struct Sampled {
    recorder: Recorder,
    target: String,
    /// Samples and losses at the last reading.
    last: (u64, u64),
}

impl Sources {
    /// Attaches what was asked for; what cannot be attached is said and left out.
    ///
    /// # Errors
    /// When nothing is left.
    pub(super) fn attach(what: &[What], target: &Target) -> Result<Self, Failure> {
        let groups: Vec<_> = what.iter().filter_map(|what| what.group()).collect();
        let kernel = (!groups.is_empty()).then(|| kernel(groups, target)).flatten();
        let device = if what.contains(&What::Device) { said("device", device(target)) } else { None };
        let profile = if what.contains(&What::Profile) { said("profile", sampled(target)) } else { None };
        if kernel.is_none() && device.is_none() && profile.is_none() {
            return Err(Failure::prerequisite(
                "nothing could be attached",
                "the lines above say why; `iommu-bench doctor` shows what this machine can do",
            ));
        }
        Ok(Self { kernel, device, profile })
    }

    /// Empties the buffers of samples, which hold a quarter of a second.
    pub(super) fn drain(&mut self) {
        if let Some(sampled) = &mut self.profile {
            sampled.recorder.drain();
        }
    }

    /// What happened since the last reading.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub(super) fn interval(&mut self) -> Result<Vec<Reading>, Failure> {
        let mut readings = Vec::new();
        if let Some(kernel) = &mut self.kernel {
            let now = kernel.set.snapshot().map_err(Failure::failed)?;
            readings.extend(kernel_readings(&kernel.set, &now.since(&kernel.last)));
            kernel.last = now;
        }
        if let Some(device) = &mut self.device {
            let now = device.probes.snapshot().map_err(Failure::failed)?;
            readings.push(device_reading(&device.target, &now.since(&device.last)));
            device.last = now;
        }
        if let Some(sampled) = &mut self.profile {
            sampled.recorder.drain();
            let now = (sampled.recorder.samples(), sampled.recorder.lost());
            let (samples, lost) = (now.0 - sampled.last.0, now.1 - sampled.last.1);
            sampled.last = now;
            readings.push(profile_reading(&sampled.target, samples, lost));
        }
        Ok(readings)
    }

    /// What happened since the beginning. Everything is detached.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub(super) fn totals(self) -> Result<Vec<Reading>, Failure> {
        let mut readings = Vec::new();
        if let Some(mut kernel) = self.kernel {
            kernel.set.detach();
            let now = kernel.set.snapshot().map_err(Failure::failed)?;
            readings.extend(kernel_readings(&kernel.set, &now.since(&kernel.first)));
        }
        if let Some(mut device) = self.device {
            device.probes.detach();
            let now = device.probes.snapshot().map_err(Failure::failed)?;
            readings.push(device_reading(&device.target, &now.since(&device.first)));
        }
        if let Some(sampled) = self.profile {
            let profile = sampled.recorder.finish();
            let mut reading = profile_reading(&sampled.target, profile.samples, profile.lost);
            let hottest = profile.hottest(HOTTEST).into_iter();
            reading.counts = hottest.map(|(name, samples)| (name.to_owned(), samples)).collect();
            readings.push(reading);
        }
        Ok(readings)
    }
}

/// A source, or why there is none, said aloud.
fn said<T>(name: &str, source: Result<T, String>) -> Option<T> {
    source.map_err(|reason| warn(&format!("{name} is left out: {reason}"))).ok()
}

fn kernel(groups: Vec<iommu_probes::Group>, target: &Target) -> Option<Kernel> {
    let set = ProbeSet::builder().groups(groups).filter(target.filter.clone()).start();
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for skipped in set.skipped() {
        by_reason.entry(skipped.reason.to_string()).or_default().push(skipped.name);
    }
    for (reason, names) in by_reason {
        warn(&format!("{} left out: {reason}", names.join(", ")));
    }
    if set.attached().is_empty() {
        return None;
    }
    let first = set.snapshot().map_err(|error| warn(&format!("kernel probes are left out: {error}"))).ok()?;
    Some(Kernel { set, last: first.clone(), first })
}

fn device(target: &Target) -> Result<Device, String> {
    let pid = target.pid.ok_or("name the process with --pid or --comm")?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    let program =
        program.map_err(|error| format!("the program of process {pid} cannot be found: {error}"))?;
    // Through /proc, so that a program in another root or one that was replaced since is found too.
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    let probes = SiteProbes::of(&path, NonZeroU32::new(pid)).map_err(|error| error.to_string())?;
    let first = probes.snapshot().map_err(|error| error.to_string())?;
    Ok(Device { probes, target: program.display().to_string(), last: first.clone(), first })
}

fn sampled(target: &Target) -> Result<Sampled, String> {
    let pid = target.pid.ok_or("name the process with --pid or --comm")?;
    let id = i32::try_from(pid).map_err(|error| error.to_string())?;
    let recorder = Recorder::attach(id, Settings::default(), &[]).map_err(|error| error.to_string())?;
    Ok(Sampled { target: format!("{} of process {pid}", recorder.event()), recorder, last: (0, 0) })
}

fn kernel_readings(set: &ProbeSet, seen: &Snapshot) -> Vec<Reading> {
    let reading = |attached: &iommu_probes::Attached| {
        let probe = seen.probe(attached.name)?;
        let name = |key| match probe.key_name(key) {
            name if name.is_empty() => "all".to_owned(),
            name => name,
        };
        let unit = probe.histogram_unit();
        Some(Reading {
            name: attached.name.to_owned(),
            kind: attached.kind(),
            target: attached.target.clone(),
            count: probe.total(),
            // What the kernel did not call the probe for is lost too.
            lost: probe.lost().saturating_add(probe.missed),
            unmatched: probe.unmatched(),
            histograms: probe.histograms.iter().map(|(key, one)| (name(key), summary(one, unit))).collect(),
            counts: probe.counts.iter().map(|(key, count)| (name(key), count.count)).collect(),
        })
    };
    set.attached().iter().filter_map(reading).collect()
}

fn device_reading(target: &str, seen: &SitesSeen) -> Reading {
    let key = |(kind, part): (u64, Part)| format!("{} {}", request_type(kind), part.name());
    Reading {
        name: "device".to_owned(),
        kind: "uprobe".to_owned(),
        target: target.to_owned(),
        count: seen.requests(Site::Completed),
        lost: seen.lost(),
        unmatched: seen.unmatched(),
        histograms: seen.parts.iter().map(|(part, one)| (key(*part), summary(one, "ns"))).collect(),
        counts: Site::ALL.iter().map(|site| (site.name().to_owned(), seen.requests(*site))).collect(),
    }
}

fn profile_reading(target: &str, samples: u64, lost: u64) -> Reading {
    Reading {
        name: "profile".to_owned(),
        kind: "perf_event".to_owned(),
        target: target.to_owned(),
        count: samples,
        lost,
        unmatched: 0,
        histograms: BTreeMap::new(),
        counts: BTreeMap::new(),
    }
}

/// A request's type on the wire in words (virtio-iommu, "Device operations").
fn request_type(kind: u64) -> String {
    match kind {
        1 => "ATTACH".to_owned(),
        2 => "DETACH".to_owned(),
        3 => "MAP".to_owned(),
        4 => "UNMAP".to_owned(),
        5 => "PROBE".to_owned(),
        other => format!("type {other}"),
    }
}

fn summary(histogram: &LogHistogram, unit: &str) -> HistogramSummary {
    HistogramSummary {
        unit: unit.to_owned(),
        count: histogram.count(),
        min: histogram.min(),
        mean: histogram.mean(),
        p50: histogram.quantile(0.5),
        p90: histogram.quantile(0.9),
        p99: histogram.quantile(0.99),
        p999: histogram.quantile(0.999),
        p9999: histogram.quantile(0.9999),
        max: histogram.max(),
    }
}
