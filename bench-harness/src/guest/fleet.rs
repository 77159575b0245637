//! The guests of a run: booted when they are needed, checked before they go.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use iommu_workloads::CaseSpec;
use serde::Serialize;

use super::{
    audit::{Check, Traced},
    joined::{self, JoinError, Joined},
    prepare::Parts,
    vm::{Boot, Kind, Vm, VmError},
};
use crate::{interrupt::Interrupt, serve::platform::Snapshot};

/// How often the accounts are read until they stand still.
const AUDIT_TRIES: u32 = 40;
/// Time between two readings: Linux flushes what it holds back after 10 ms.
const AUDIT_PAUSE: Duration = Duration::from_millis(150);
/// How long a command takes that only looks.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long the network may take.
const NETWORK: Duration = Duration::from_secs(40);

/// What is kept beside the run.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// netperf's own words, all slices.
    pub(crate) netperf: String,
    /// Consoles, by file name.
    pub(crate) consoles: Vec<(String, Vec<u8>)>,
    /// What was checked of each guest.
    pub(crate) guests: Vec<GuestRecord>,
    /// What was followed from guest to device, in the lab.
    pub(super) joined: Vec<Result<Joined, JoinError>>,
}

/// One guest, for the record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestRecord {
    /// Which.
    pub(crate) guest: String,
    /// Its kernel, as it says.
    pub(crate) kernel: String,
    /// From QEMU's start to the agent's first word.
    pub(crate) boot_ms: u64,
    /// What its tracepoints saw from boot to the first measured slice; nothing before that.
    pub(crate) traced: Option<Traced>,
    /// What was looked at.
    pub(crate) checks: Vec<Check>,
}

/// A guest that is up.
pub(super) struct Alive {
    pub(super) kind: Kind,
    pub(super) vm: Vm,
    audited: bool,
    mtu: u16,
    record: GuestRecord,
}

/// All guests.
pub(super) struct Fleet {
    parts: Arc<Parts>,
    memory_mib: u32,
    words: Vec<String>,
    interrupt: Interrupt,
    /// Only one at a time.
    alone: bool,
    /// Whether what guest, KVM and devices saw of the same requests is joined before a guest goes.
    joins: bool,
    alive: Vec<Alive>,
    kept: Arc<Mutex<Kept>>,
}

/// What is kept, even when somebody panicked while he added to it.
pub(super) fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The MTU that Linux gives a card.
const LINUX_MTU: u16 = 1500;

impl Fleet {
    pub(super) fn new(
        parts: Arc<Parts>,
        memory_mib: u32,
        words: Vec<String>,
        interrupt: Interrupt,
        alone: bool,
        joins: bool,
        kept: Arc<Mutex<Kept>>,
    ) -> Self {
        Self { parts, memory_mib, words, interrupt, alone, joins, alive: Vec::new(), kept }
    }

    pub(super) fn alone(&self) -> bool {
        self.alone
    }

    pub(super) fn joins(&self) -> bool {
        self.joins
    }

    /// One more slice of this case, followed from the guest's driver through KVM to our devices and back. What comes of it,
    /// or why nothing does, is kept.
    pub(super) fn join(&mut self, kind: Kind, case: &CaseSpec) {
        if let Some(one) = self.alive.iter_mut().find(|one| one.kind == kind && kind.ours()) {
            let joined = joined::follow(&mut one.vm, case);
            lock(&self.kept).joined.push(joined);
        }
    }

    /// The guest of this kind; boots it if it is not up.
    pub(super) fn guest(&mut self, kind: Kind) -> Result<&mut Alive, VmError> {
        let at = match self.alive.iter().position(|one| one.kind == kind) {
            Some(at) => at,
            None => {
                if self.alone {
                    self.end_all()?;
                }
                let boot = Boot {
                    parts: &self.parts,
                    kind,
                    memory_mib: self.memory_mib,
                    words: &self.words,
                    interrupt: &self.interrupt,
                };
                self.alive.push(Alive::of(kind, boot.start()?)?);
                self.alive.len() - 1
            }
        };
        Ok(&mut self.alive[at])
    }

    /// Ends this one in order, if it is up; an error if something was wrong with it.
    pub(super) fn end(&mut self, kind: Kind) -> Result<(), VmError> {
        match self.alive.iter().position(|one| one.kind == kind) {
            Some(at) => {
                let mut one = self.alive.swap_remove(at);
                let checked = one.check_at_end();
                self.keep(&one);
                checked.and_then(|()| one.sound())
            }
            None => Ok(()),
        }
    }

    fn end_all(&mut self) -> Result<(), VmError> {
        while let Some(one) = self.alive.first() {
            self.end(one.kind)?;
        }
        Ok(())
    }

    fn keep(&self, one: &Alive) {
        let mut kept = lock(&self.kept);
        kept.consoles.push((format!("console-{}.log", one.kind.name()), one.vm.console()));
        kept.guests.push(one.record.clone());
    }

    /// netperf's words of one slice.
    pub(super) fn say(&self, title: &str, text: &str) {
        let mut kept = lock(&self.kept);
        // Writing to a string cannot fail.
        let _ = writeln!(kept.netperf, "== {title}\n{}\n", text.trim_end());
    }
}

impl Drop for Fleet {
    /// Those that were not ended in order, because something broke: their consoles are wanted all the more.
    fn drop(&mut self) {
        for one in &self.alive {
            self.keep(one);
        }
    }
}

impl Alive {
    fn of(kind: Kind, vm: Vm) -> Result<Self, VmError> {
        let record = GuestRecord {
            guest: kind.name(),
            kernel: vm.release.clone(),
            boot_ms: vm.boot.as_millis() as u64,
            traced: None,
            checks: Vec::new(),
        };
        let mut one = Self { kind, vm, audited: false, mtu: LINUX_MTU, record };
        one.vm.ask("network", NETWORK)?;
        let described = one.vm.ask("described", AT_ONCE)?;
        one.record.checks.extend(groups(kind, &described));
        one.sound()?;
        Ok(one)
    }

    /// Gives both cards this MTU.
    pub(super) fn set_mtu(&mut self, mtu: u16) -> Result<(), VmError> {
        if self.mtu != mtu {
            self.vm.ask(&format!("mtu {mtu}"), AT_ONCE)?;
            self.mtu = mtu;
        }
        Ok(())
    }

    /// Compares what the guest's kernel traced since boot with what the device counted, and ends the tracing. Once.
    pub(super) fn audit(&mut self) -> Result<(), VmError> {
        if std::mem::replace(&mut self.audited, true) {
            return Ok(());
        }
        let (traced, device) = self.accounts()?;
        if let (true, Some(device)) = (self.kind.has_iommu(), device) {
            self.record.checks.extend(traced.against(&device.iommu, device.bytes));
        }
        self.record.traced = Some(traced);
        self.vm.ask("trace_off", AT_ONCE)?;
        self.sound()
    }

    /// Both accounts, at a moment when nothing moves.
    fn accounts(&mut self) -> Result<(Traced, Option<Snapshot>), VmError> {
        let mut before = self.traced()?;
        for _ in 0..AUDIT_TRIES {
            thread::sleep(AUDIT_PAUSE);
            let device = self.vm.snapshot();
            let after = self.traced()?;
            if after == before {
                return Ok((after, device));
            }
            before = after;
        }
        let device = self.vm.snapshot();
        let name = "the guest's tracepoints come to rest";
        self.record.checks.push(Check::that(name, false, format!("{before:?}")));
        Ok((before, device))
    }

    fn traced(&mut self) -> Result<Traced, VmError> {
        let text = self.vm.ask("traced", AT_ONCE)?;
        match Traced::parse(&text) {
            Ok(traced) => Ok(traced),
            Err(error) => {
                self.record.checks.push(Check::that("tracefs can be read", false, error.to_string()));
                self.sound()?;
                Ok(Traced::default())
            }
        }
    }

    /// Frames that the first card's driver sent and received.
    pub(super) fn packets(&mut self) -> Result<u64, VmError> {
        let text = self.vm.ask("counted", AT_ONCE)?;
        Ok(text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum())
    }

    fn check_at_end(&mut self) -> Result<(), VmError> {
        self.vm.ask("leave", NETWORK)?;
        let complaints = self.vm.ask("complaints", AT_ONCE)?;
        let quiet =
            Check::that("no fault and no warning in the guest's log", complaints.is_empty(), complaints);
        self.record.checks.push(quiet);
        if let Some(snapshot) = self.vm.snapshot() {
            self.record.checks.extend(healthy(&snapshot));
        }
        Ok(())
    }

    /// An error if a check failed.
    fn sound(&self) -> Result<(), VmError> {
        match self.record.checks.iter().find(|check| !check.ok) {
            Some(check) => Err(VmError::Check {
                guest: self.record.guest.clone(),
                name: check.name.clone(),
                detail: check.detail.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// What the devices counted that no healthy driver makes them count.
fn healthy(snapshot: &Snapshot) -> Vec<Check> {
    let iommu = &snapshot.iommu;
    let refused: u64 = iommu.statuses.iter().skip(1).sum();
    let garbled: u64 = iommu.garbled.iter().sum();
    let lost: u64 = snapshot.nics.iter().map(|nic| nic.malformed + nic.dma_faults).sum();
    let none = |name: &str, n: u64| Check::that(name, n == 0, n.to_string());
    let left = format!("{} bytes mapped, {} unmapped", snapshot.bytes.mapped, snapshot.bytes.unmapped);
    let balanced = iommu.mapped == iommu.unmapped && snapshot.bytes.mapped == snapshot.bytes.unmapped;
    vec![
        Check::that("nothing is left mapped when the drivers have left the cards", balanced, left),
        none("faults", iommu.faults.faults()),
        none("requests in error", refused),
        none("garbled requests", garbled),
        none("frames malformed or refused by the IOMMU", lost),
    ]
}

/// Whether the cards have the kind of group that the mode means.
fn groups(kind: Kind, described: &str) -> Vec<Check> {
    use iommu_workloads::Mode;
    let expected = match kind.mode {
        Mode::Off => "none",
        Mode::Identity => "identity",
        Mode::Lazy => "DMA-FQ",
        Mode::Strict => "DMA",
    };
    let found: Vec<&str> = described.lines().filter(|line| line.starts_with("group ")).collect();
    let right = found.len() == 2 && found.iter().all(|line| line.ends_with(&format!(" {expected}")));
    let mut checks = vec![Check::that(
        &format!("each card has an IOMMU group of type {expected}, the IOMMU none"),
        right,
        found.join("; "),
    )];
    if kind.ours() && kind.has_iommu() {
        let line = described.lines().find(|line| line.starts_with("reserved ")).unwrap_or_default();
        let window = line.contains("0x00000000fee00000 0x00000000feefffff msi");
        checks.push(Check::that("a card's reserved regions are those that PROBE reported", window, line));
    }
    checks
}

#[cfg(test)]
mod tests {
    use iommu_workloads::Mode;
    use virtio_transport::ServiceMode;

    use super::{super::options::Viommu, *};

    #[test]
    fn groups_must_be_of_the_modes_type() {
        let kind = |mode| Kind { mode, viommu: Viommu::Reference, service: ServiceMode::Inline };
        let good = "group 0000:00:09.0 DMA\ngroup 0000:00:0a.0 DMA\n\
                    reserved 0x00000000fee00000 0x00000000feefffff msi;";
        assert!(groups(kind(Mode::Strict), good).iter().all(|check| check.ok));
        assert!(groups(kind(Mode::Lazy), good).iter().any(|check| !check.ok));
        assert!(groups(kind(Mode::Off), good).iter().any(|check| !check.ok));
        let half = good.replace("0a.0 DMA", "0a.0 identity");
        assert!(groups(kind(Mode::Strict), &half).iter().any(|check| !check.ok));
        let extra = format!("{good}\ngroup 0000:00:08.0 DMA");
        assert!(groups(kind(Mode::Strict), &extra).iter().any(|check| !check.ok));
        assert!(groups(kind(Mode::Strict), &good.replace("msi", "direct")).iter().any(|check| !check.ok));
    }
}
