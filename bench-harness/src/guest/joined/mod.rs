//! One request, followed from the guest's driver through KVM and the VMM to our device, and back.
//!
//! Guest and host stamp what they see with the processor's time-stamp counter. KVM says how far the guest's is from the
//! host's, so both accounts lie on one axis. A doorbell rung in the guest is one exit, and nothing else of that processor
//! comes between: so each is found again in the host's account.

mod host;
mod join;
mod text;

use std::{fs, io, path::Path, time::Duration};

use iommu_results::Breakdown;
use iommu_workloads::CaseSpec;
use thiserror::Error;

use self::{host::HostTrace, join::Account};
use super::{
    netperf,
    vm::{Vm, VmError},
};

/// Netperf runs so long meanwhile, in seconds.
const SECONDS: u64 = 6;
/// Stamps taken from the guest: each is sent over an emulated serial line.
const MOST_STAMPS: usize = 6000;
/// How long the agent takes for them.
const STAMPS: Duration = Duration::from_secs(120);
/// Where KVM describes its guests.
const KVM: &str = "/sys/kernel/debug/kvm";

/// Nothing could be followed.
#[derive(Debug, Error)]
pub(in crate::guest) enum JoinError {
    /// The guest.
    #[error(transparent)]
    Guest(#[from] VmError),
    /// The lab's tracing.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Sites.
    #[error("the program's own sites cannot be read: {0}")]
    Sites(#[from] iommu_site_reader::SitesError),
    /// No offset between the clocks.
    #[error("{KVM} does not say how far the guest's time-stamp counter is from the host's")]
    NoOffset,
    /// No scale.
    #[error("the trace has no two marks of a known time")]
    NoScale,
}

/// What was followed.
#[derive(Debug)]
pub(in crate::guest) struct Joined {
    /// The case that ran meanwhile.
    pub(crate) case: String,
    /// Where the time went.
    pub(crate) breakdown: Vec<Breakdown>,
    /// What was seen and followed.
    pub(crate) account: Account,
    /// Instructions probed, by site.
    pub(crate) places: std::collections::BTreeMap<String, u64>,
    /// Both traces as they were.
    pub(crate) host: String,
    /// See `host`.
    pub(crate) guest: String,
}

/// Runs netperf once more with everything stamped.
///
/// # Errors
/// When guest or lab cannot be traced.
pub(super) fn follow(vm: &mut Vm, case: &CaseSpec) -> Result<Joined, JoinError> {
    let offset = offset_of(vm.qemu_pid())?;
    vm.ask("stamps_on", STAMPS)?;
    let trace = HostTrace::start()?;
    let ran = vm.ask(&netperf::command(case, SECONDS), Duration::from_secs(SECONDS));
    let places = trace.places();
    let host = trace.finish()?;
    let guest = vm.ask(&format!("stamps {MOST_STAMPS}"), STAMPS)?;
    ran?;
    let moments = text::host(&host);
    let ns_per_tick = text::scale(&moments).ok_or(JoinError::NoScale)?;
    let (breakdown, account) = join::join(&case.id, &text::guest(&guest, offset), &moments, ns_per_tick);
    Ok(Joined { case: case.id.clone(), breakdown, account, places, host, guest })
}

/// The guest's time-stamp counter less the host's.
fn offset_of(pid: u32) -> Result<i64, JoinError> {
    let failed = |source| JoinError::Io { path: KVM.to_owned(), source };
    let prefix = format!("{pid}-");
    for entry in fs::read_dir(KVM).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let text =
                fs::read_to_string(Path::new(&entry.path()).join("vcpu0/tsc-offset")).map_err(failed)?;
            return text.trim().parse().map_err(|_| JoinError::NoOffset);
        }
    }
    Err(JoinError::NoOffset)
}
