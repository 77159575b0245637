//! Perf events: counters, sampling, trace points of programs.

use std::process;

use iommu_profile::{CounterSet, Event, KernelStacks, ProfileError, Recorder, Settings};

use super::{Check, Finding, names, read};

pub(super) const CHECKS: &[Check] = &[
    Check { name: "pmu", enables: "cycles, instructions, TLB and cache misses per packet", look: pmu },
    Check { name: "dmar_pmu", enables: "IOTLB lookups and misses of Intel's IOMMU", look: dmar_pmu },
    Check { name: "sampling", enables: "flame graphs of runs, `trace profile`", look: sampling },
    Check { name: "uprobes", enables: "probes at the trace points in device and driver", look: uprobes },
    Check { name: "sites", enables: "the breakdown of a request's time", look: sites },
];

fn pid() -> i32 {
    i32::try_from(process::id()).unwrap_or(0)
}

fn pmu() -> Finding {
    let readings = CounterSet::attach(pid(), Event::HARDWARE).read();
    let (works, fails): (Vec<_>, Vec<_>) = readings.iter().partition(|reading| reading.value.is_ok());
    let list = |readings: &[&iommu_profile::Reading]| {
        readings.iter().map(|reading| reading.event.name()).collect::<Vec<_>>().join(", ")
    };
    let reason = fails.iter().find_map(|reading| reading.value.as_ref().err());
    let remedy = "run on bare metal, or give the guest a virtual PMU; counts per packet are n/a until then";
    match reason {
        None => Finding::yes(format!("the processor counts {}", list(&works))),
        Some(reason) if works.is_empty() => Finding::no(reason.to_string(), remedy),
        Some(reason) => {
            Finding::limited(format!("counts {}, not {}: {reason}", list(&works), list(&fails)), remedy)
        }
    }
}

fn dmar_pmu() -> Finding {
    let units: Vec<String> =
        names("/sys/bus/event_source/devices").into_iter().filter(|name| name.starts_with("dmar")).collect();
    if units.is_empty() {
        return Finding::no(
            "no PMU of an Intel IOMMU in /sys/bus/event_source/devices",
            "needs an Intel IOMMU with performance monitoring (Sapphire Rapids or later) and Linux 6.3",
        );
    }
    Finding::yes(units.join(", "))
}

fn sampling() -> Finding {
    match Recorder::attach(pid(), Settings::default(), &[]) {
        Ok(recorder) => {
            let event = recorder.event();
            let profile = recorder.finish();
            match profile.kernel {
                KernelStacks::Refused { reason } => Finding::limited(
                    format!(
                        "{event}, user stacks only: {reason}; time in the kernel is absent from flame graphs"
                    ),
                    "run as root, grant CAP_PERFMON, or set kernel.perf_event_paranoid=1",
                ),
                _ if event == "cpu-clock" => Finding::limited(
                    "cpu-clock with kernel and user stacks: sampled by a timer, so code with interrupts off is seen late",
                    "a PMU, for sampling by cycles",
                ),
                _ => Finding::yes(format!("{event} with kernel and user stacks")),
            }
        }
        Err(error @ ProfileError::Unsupported { .. }) => {
            Finding::no(error.to_string(), "a kernel with CONFIG_PERF_EVENTS")
        }
        Err(error) => {
            Finding::no(error.to_string(), "run as root, or set kernel.perf_event_paranoid to 2 or less")
        }
    }
}

fn uprobes() -> Finding {
    match read("/sys/bus/event_source/devices/uprobe/type") {
        Err(error) => Finding::no(error, "a kernel with CONFIG_UPROBE_EVENTS"),
        Ok(_) => Finding::yes(
            "there; 0.65 µs a hit where Linux turns five-byte no-operations into calls, else a trap",
        ),
    }
}

fn sites() -> Finding {
    let found = match iommu_site_reader::own_sites() {
        Ok(found) => found,
        Err(error) => {
            return Finding::no(
                error.to_string(),
                "a build for x86-64 Linux that keeps section .note.stapsdt",
            );
        }
    };
    let ours = found.iter().filter(|site| site.provider == iommu_sites::PROVIDER);
    let (mut places, mut names) = (0, std::collections::BTreeSet::new());
    for site in ours {
        places += 1;
        names.insert(&site.name);
    }
    if names.is_empty() {
        return Finding::no(
            "this build has no trace points",
            "build without the feature `off` of iommu-sites, on x86-64",
        );
    }
    Finding::yes(format!("{} trace points at {places} places of this program", names.len()))
}
