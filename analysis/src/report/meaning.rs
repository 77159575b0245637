//! What the figures mean and what they do not.

use iommu_results::{Machine, Mode, Run, names};

use super::page::{Cell, Page};
use crate::format;
use crate::view::{self, Group};

/// Time that a real stack spends on a packet apart from DMA mapping, ns: examples across what readers run.
const STACK_NS: [f64; 4] = [250.0, 500.0, 1000.0, 3000.0];

/// What the measured extra time per packet would mean for a stack that does more for each packet than this model.
pub(super) fn scale(page: &mut Page, groups: &[Group<'_>]) {
    page.section("scale", "Scaled to your stack");
    page.paragraph(
        "Nothing but DMA happens to a packet here, so a ratio overstates what a real stack would lose: its own work on \
         each packet dilutes the cost. The extra time per packet is what carries over. For a stack that is busy for T ns \
         on each packet without a vIOMMU, expect T / (T + extra) of its packet rate.",
    );
    let heads: Vec<String> = ["load", "mode", "extra per packet"]
        .into_iter()
        .map(str::to_owned)
        .chain(STACK_NS.iter().map(|stack| format!("T = {stack} ns")))
        .collect();
    let mut rows = Vec::new();
    for group in groups {
        let Some(off) = group.cases.iter().find(|case| case.mode == Mode::Off) else { continue };
        let Ok((base, _, _)) = view::measured(off, names::CPU_PER_PACKET) else { continue };
        let mut load = group.title.clone();
        for case in group.cases.iter().filter(|case| case.mode != Mode::Off) {
            let Ok((cost, _, _)) = view::measured(case, names::CPU_PER_PACKET) else { continue };
            let extra = cost - base;
            let mut row = vec![
                // Only the first row of a load names it.
                Cell::Text(std::mem::take(&mut load)),
                Cell::Mode(case.mode),
                Cell::Figure(format::duration_ns(extra)),
            ];
            row.extend(STACK_NS.iter().map(|stack| {
                // A mode that measures faster than off promises nothing.
                let share = stack / (stack + extra.max(0.0));
                Cell::Figure(format!("{} %", format::significant(share * 100.0)))
            }));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        page.note("n/a: it takes the time per packet of a case with mode off and of another one.");
        return;
    }
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    page.table(&heads, rows);
    page.note(
        "Modelled from the measured time per packet, not measured: a processor-bound stack on one processor. The extra \
         time is a difference of two means, and as uncertain as both together.",
    );
}

pub(super) fn limits(page: &mut Page, run: &Run) {
    page.section("meaning", "What these numbers mean and don't");
    page.sub("They mean");
    page.list(
        [
            "Counts are exact: requests, kicks and invalidations are counted as they happen, and follow from the driver's \
             behaviour and the parameters rather than from this machine. (Lazy also flushes by a timer; there, time has \
             a part in them.)",
            "strict waits for the invalidation of every unmapped buffer before the buffer is reused; lazy queues unmaps \
             and waits for many at once, so that for up to 10 ms a device can still reach a buffer that was given back; \
             identity lets the domain bypass; off has no vIOMMU.",
            "Time per packet (cpu_per_packet in run.json) is what driver, device and endpoint together spend on one \
             packet. The difference between two modes is the cost of protection; it carries over to a stack with work \
             of its own, a ratio does not.",
            "Ratios compare slices measured in turn on the same machine, and carry an interval.",
        ]
        .map(str::to_owned),
    );
    page.sub("They don't mean");
    let mut limits = vec![
        "There is no TCP stack: this is netperf-shaped DMA traffic. Packets, acknowledgements and buffers come in the \
         sizes and order of the named netperf test, but no protocol is processed and no congestion is controlled."
            .to_owned(),
    ];
    limits.extend(machine_limits(run.machine));
    limits.push(
        "A virtual or busy machine disturbs times. Compare ratios, and believe an interval rather than its middle."
            .to_owned(),
    );
    page.list(limits);
}

fn machine_limits(machine: Machine) -> Vec<String> {
    let limits: &[&str] = match machine {
        Machine::Local => &[
            "Machine local: guest driver, IOMMU device and endpoint share one process. There is no kernel IOMMU, VFIO \
             or KVM in the path: a doorbell costs a function call or a thread's wake-up rather than a VM exit, and no \
             physical IOMMU is programmed. Behind a real hypervisor each kick costs more, and strict mode loses more.",
            "Mapping here is the work of the device's own table; hardware would add its IOTLB and page-walk costs.",
        ],
        Machine::Kvm => &[
            "Machine kvm: doorbells cross a real VM boundary, but the guest is a bare payload without an operating \
             system, and no physical IOMMU is programmed.",
        ],
        Machine::Guest => &[
            "Machine guest: the driver is the guest's own; times under an emulated processor are not those of hardware, \
             counts are.",
        ],
        Machine::Lab => &[
            "Machine lab: host, IOMMU and endpoints are emulated. Counts are exact; times are the emulator's and say \
             nothing about hardware.",
        ],
    };
    limits.iter().map(|text| (*text).to_owned()).collect()
}
