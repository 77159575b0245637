//! The machine of guests, for the run's driver thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iommu_lab::accel::Accel;
use iommu_results::{Param, names};
use iommu_workloads::CaseSpec;
use virtio_iommu::device::RequestKind;
use virtio_transport::ServiceMode;

use super::{
    cases,
    fleet::{Fleet, Kept},
    netperf,
    options::GuestOptions,
    prepare::{self, Parts},
    vm::{Kind, VmError},
};
use crate::{
    clock::process_cpu_ns,
    failure::Failure,
    interrupt::Interrupt,
    lab::LabOptions,
    machine::{Amount, CaseError, Machine, PreparedCase, RecordLimits, Recording, Slice},
    progress::Progress,
    serve::platform::Snapshot,
};

/// Why nothing is recorded of the accesses.
const UNRECORDED: &str = "machine guest does not record accesses: Linux's driver makes them, and its maps and unmaps are \
                          what its tracepoints count";

/// How many seconds netperf runs under the lab's KVM for each that was asked for.
const NESTED_SECONDS: u64 = 5;

/// What a reader of figures from a guest must know first.
pub(crate) fn note(parts: &Parts) -> String {
    let what = format!("{}, Linux {}", parts.qemu.version, parts.kernel.release);
    match &parts.accel {
        Accel::Kvm if parts.nested => format!(
            "a guest under the lab's nested KVM, which is emulated: counts exact, times an emulator's, not hardware's; kernel \
             probes saw every process of the lab ({what})"
        ),
        Accel::Kvm => format!("a guest under KVM with emulated cards ({what})"),
        Accel::Tcg { reason } => format!(
            "an emulated guest (TCG: {reason}): counts exact, times an emulator's, not hardware's ({what})"
        ),
    }
}

/// See the module.
pub(crate) struct GuestMachine {
    parts: Arc<Parts>,
    fleet: Arc<Mutex<Fleet>>,
}

impl GuestMachine {
    /// Finds or fetches what guests are made of.
    ///
    /// # Errors
    /// A missing prerequisite.
    pub(crate) fn parts(
        options: &GuestOptions,
        lab: &LabOptions,
        progress: &Progress,
    ) -> Result<Arc<Parts>, Failure> {
        let parts = prepare::parts(options, lab, &mut |what| progress.now(&format!("guest: {what}")));
        parts.map(Arc::new).map_err(|error| {
            Failure::prerequisite(
                format!("the guest cannot be prepared: {error}"),
                "docs/guest.md says what it needs, and how to get QEMU 10.1 or later; --machine local needs nothing",
            )
        })
    }

    /// A machine whose guests are not up yet.
    pub(crate) fn new(
        parts: Arc<Parts>,
        options: &GuestOptions,
        lab: &LabOptions,
        alone: bool,
        joins: bool,
        interrupt: Interrupt,
        kept: Arc<Mutex<Kept>>,
    ) -> Self {
        let words = lab.kernel_args.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned);
        let fleet = Fleet::new(
            Arc::clone(&parts),
            options.memory_mib,
            words.collect(),
            interrupt,
            alone,
            joins,
            kept,
        );
        Self { parts, fleet: Arc::new(Mutex::new(fleet)) }
    }
}

impl Machine for GuestMachine {
    fn prepare(&self, case: &CaseSpec) -> Result<Box<dyn PreparedCase>, CaseError> {
        let kind = cases::kind(case);
        let one = GuestCase {
            case: case.clone(),
            kind,
            parts: Arc::clone(&self.parts),
            fleet: Arc::clone(&self.fleet),
            slices: 0,
        };
        let mut fleet = lock(&self.fleet);
        if !fleet.alone() {
            fleet.guest(kind).map_err(|error| one.error(&error))?;
        }
        drop(fleet);
        Ok(Box::new(one))
    }

    fn record(&self, _: &CaseSpec, _: RecordLimits) -> Result<Result<Recording, String>, CaseError> {
        Ok(Err(UNRECORDED.to_owned()))
    }
}

fn lock(fleet: &Mutex<Fleet>) -> MutexGuard<'_, Fleet> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A case in its guest, which it shares with the other cases of its mode.
struct GuestCase {
    case: CaseSpec,
    kind: Kind,
    parts: Arc<Parts>,
    fleet: Arc<Mutex<Fleet>>,
    slices: u32,
}

impl GuestCase {
    fn error(&self, error: &VmError) -> CaseError {
        CaseError { case: self.case.id.clone(), cause: error.to_string() }
    }

    fn slice(&mut self, fleet: &mut Fleet, time: Duration) -> Result<Slice, VmError> {
        // In one second under emulated KVM a round trip may just not come to its end.
        let seconds = time.as_secs().max(1) * if self.parts.nested { NESTED_SECONDS } else { 1 };
        let guest = fleet.guest(self.kind)?;
        // The first slice of a case is its warm-up; what is measured is not traced.
        if self.slices > 0 {
            guest.audit()?;
        }
        guest.set_mtu(self.case.params.mtu)?;
        let packets = guest.packets()?;
        let before = guest.vm.snapshot();
        let cpu = (process_cpu_ns(), guest.vm.cpu_ns());
        let output = guest.vm.ask(&netperf::command(&self.case, seconds), Duration::from_secs(seconds))?;
        let cpu_ns = process_cpu_ns().saturating_sub(cpu.0) + guest.vm.cpu_ns().saturating_sub(cpu.1);
        let after = guest.vm.snapshot();
        let packets = guest.packets()?.saturating_sub(packets);
        let title = match self.slices {
            0 => format!("{}, warming up", self.case.id),
            n => format!("{}, slice {n}", self.case.id),
        };
        fleet.say(&title, &output);
        self.slices += 1;
        let measured = netperf::parse(&self.case, &output)?;
        let mut counts = BTreeMap::from([
            (names::PACKETS.to_owned(), packets),
            (names::BYTES_MOVED.to_owned(), measured.payload_bytes),
        ]);
        if let (Some(before), Some(after)) = (before, after) {
            counts.extend(device_counts(&before, &after, self.kind.has_iommu()));
        }
        Ok(Slice {
            elapsed_ns: Some(measured.elapsed_ns),
            cpu_ns: Some(cpu_ns),
            packets,
            payload_bytes: measured.payload_bytes,
            transactions: measured.transactions,
            counts,
            ..Slice::default()
        })
    }
}

impl PreparedCase for GuestCase {
    fn params(&self) -> BTreeMap<String, Param> {
        let doorbell = match (self.kind.ours(), self.kind.service) {
            (true, ServiceMode::Poll) => "poll",
            _ => "exit",
        };
        let service = match self.kind.service {
            _ if !self.kind.ours() => "qemu",
            ServiceMode::Inline => "inline",
            ServiceMode::Thread => "thread",
            ServiceMode::Poll => "poll",
        };
        let viommu = if self.kind.has_iommu() { self.kind.viommu.name() } else { "none" };
        let accel = match self.parts.accel {
            Accel::Kvm if self.parts.nested => "kvm, nested in the lab (emulated)",
            Accel::Kvm => "kvm",
            Accel::Tcg { .. } => "tcg (emulated)",
        };
        let texts = [
            ("accel", accel),
            ("clock", "guest"),
            ("doorbell", doorbell),
            ("endpoint_implementation", self.kind.viommu.cards()),
            ("guest_kernel", self.parts.kernel.release.as_str()),
            ("service", service),
            ("viommu", viommu),
            ("vmm", self.parts.qemu.version.as_str()),
        ];
        texts.into_iter().map(|(name, text)| (name.to_owned(), Param::from(text))).collect()
    }

    fn run_slice(&mut self, amount: Amount) -> Result<Slice, CaseError> {
        let Amount::For(time) = amount else {
            let cause = "a guest's time is not virtual".to_owned();
            return Err(CaseError { case: self.case.id.clone(), cause });
        };
        let fleet = Arc::clone(&self.fleet);
        let mut fleet = lock(&fleet);
        self.slice(&mut fleet, time).map_err(|error| self.error(&error))
    }

    fn finish(self: Box<Self>) -> Result<(), CaseError> {
        let mut fleet = lock(&self.fleet);
        if self.parts.nested && fleet.joins() {
            fleet.join(self.kind, &self.case);
        }
        fleet.end(self.kind).map_err(|error| self.error(&error))
    }
}

/// What our devices did between two looks.
fn device_counts(before: &Snapshot, after: &Snapshot, iommu: bool) -> BTreeMap<String, u64> {
    let kicks = |snapshot: &Snapshot| snapshot.nics.iter().map(|nic| nic.kicks).sum::<u64>();
    let mut counts =
        BTreeMap::from([(names::KICKS_ENDPOINT.to_owned(), kicks(after).saturating_sub(kicks(before)))]);
    if iommu {
        let requests = |snapshot: &Snapshot, kind| snapshot.iommu.requests_of(kind);
        let both = |of: &dyn Fn(&Snapshot) -> u64| of(after).saturating_sub(of(before));
        let found = [
            (names::REQUESTS_MAP, both(&|snapshot| requests(snapshot, RequestKind::Map))),
            (names::REQUESTS_UNMAP, both(&|snapshot| requests(snapshot, RequestKind::Unmap))),
            (names::KICKS_IOMMU, both(&|snapshot| snapshot.iommu.kicks)),
            (names::INVALIDATIONS, both(&|snapshot| snapshot.iommu.invalidations)),
            (names::FAULTS, both(&|snapshot| snapshot.iommu.faults.delivered)),
            (names::FAULTS_DROPPED, both(&|snapshot| snapshot.iommu.faults.dropped())),
        ];
        counts.extend(found.map(|(name, n)| (name.to_owned(), n)));
    }
    counts
}
