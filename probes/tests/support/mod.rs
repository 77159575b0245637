//! Whether this machine can run the tests that load programs.

#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::sync::OnceLock;

use iommu_probes::{Filter, Group, ProbeSet};
use kvm_payload::Payload;

/// False, loudly, where nothing can be loaded or no guest can run.
pub(crate) fn ready() -> bool {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        Payload::default().run().map_err(|error| error.to_string())?;
        let probes = ProbeSet::builder().groups([Group::Kvm]).filter(Filter::default()).start();
        if let (true, Some(skipped)) = (probes.attached().is_empty(), probes.skipped().first()) {
            return Err(format!("{}: {}", skipped.name, skipped.reason));
        }
        Ok(())
    });
    if let Err(why) = ready {
        iommu_equipment::missing(iommu_equipment::Equipment::Ebpf, why);
    }
    ready.is_ok()
}

/// Fails with the reason if a probe that the test is about is not attached.
pub(crate) fn needs(probes: &ProbeSet, names: &[&str]) {
    for name in names {
        if let Some(skipped) = probes.skipped().iter().find(|skipped| skipped.name == *name) {
            panic!("{name}: {}", skipped.reason);
        }
    }
}

/// The kernel's id of this thread.
pub(crate) fn this_thread() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").expect("procfs is mounted");
    let name = link.file_name().and_then(|name| name.to_str()).expect("a number");
    name.parse().expect("a number")
}
