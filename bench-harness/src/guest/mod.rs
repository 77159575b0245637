//! `--machine guest`: Linux in QEMU, its own virtio-iommu driver in front of the served cards, netperf from card to card.
//!
//! There is one guest for each mode, all alive at once, so that slices of all cases can be interleaved as on other
//! machines: an idle guest waits for a line on its serial port. Only pollers, which take cores while they are idle, run one
//! guest at a time.

mod audit;
mod cases;
mod fleet;
mod joined;
mod line;
mod machine;
mod nested;
mod netperf;
mod options;
mod prepare;
mod vm;

pub(crate) use cases::{apply, checked, has_pollers, steps};
use std::{sync::Mutex, time::Duration};

pub(crate) use fleet::Kept;
use iommu_results::{Metric, Run, RunFolder, SitesPass, StoreError, names};
pub(crate) use machine::GuestMachine;
pub(crate) use nested::pack;
pub(crate) use options::GuestOptions;
pub(crate) use prepare::Parts;

/// Name of the file with netperf's own words.
const NETPERF_FILE: &str = "netperf.txt";
/// Why there are no hardware counts.
const NOT_THE_GUESTS: &str =
    "hardware counters count this process, and the guest's instructions run in QEMU's";
/// How long the driver thread may be silent: longer than any wait of its own, which says better what is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(400);

/// Says what the guests were, and what was checked of them.
pub(crate) fn describe(run: &mut Run, parts: &Parts, kept: &Mutex<Kept>) {
    run.warnings.insert(0, machine::note(parts));
    for case in &mut run.cases {
        for (_, name) in names::HARDWARE {
            if let Some(metric) = case.metrics.get_mut(name) {
                *metric = Metric::missing(NOT_THE_GUESTS);
            }
        }
    }
    let theirs = run.cases.iter().any(|case| case.id.contains("viommu=qemu-virtio"));
    if theirs {
        let text =
            "rows with viommu=qemu-virtio are another comparison: QEMU's own cards behind QEMU's own IOMMU";
        run.warnings.push(text.to_owned());
    }
    record_joined(run, kept);
    if let Ok(guests) = serde_json::to_value(&fleet::lock(kept).guests) {
        run.probes.more.insert("guests".to_owned(), guests);
    }
}

/// What was followed from the guest's driver to our devices, in the lab.
fn record_joined(run: &mut Run, kept: &Mutex<Kept>) {
    let (mut breakdown, mut accounts) = (Vec::new(), Vec::new());
    for joined in &fleet::lock(kept).joined {
        let one = match joined {
            Ok(one) => one,
            Err(error) => {
                run.warnings.push(format!("nothing was followed from the guest to the devices: {error}"));
                continue;
            }
        };
        let unmatched = one.account.queued.saturating_sub(one.account.followed);
        let pass = SitesPass { places: one.places.clone(), unmatched, ..SitesPass::default() };
        if let Err(error) = run.probes.set_sites(&pass) {
            run.warnings.push(format!("the breakdown cannot be stored: {error}"));
        }
        breakdown.extend(one.breakdown.iter().cloned());
        accounts.push(serde_json::json!({ "case": one.case, "account": one.account }));
    }
    if accounts.is_empty() {
        return;
    }
    run.probes.more.insert("joined".to_owned(), accounts.into());
    if let Err(error) = run.probes.set_breakdown(&breakdown) {
        run.warnings.push(format!("the breakdown cannot be stored: {error}"));
    }
}

/// Puts what guests left beside the run.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn store(folder: &mut RunFolder, kept: &Mutex<Kept>) -> Result<(), StoreError> {
    let kept = fleet::lock(kept);
    if !kept.netperf.is_empty() {
        folder.write(NETPERF_FILE, &kept.netperf)?;
    }
    for (number, joined) in kept.joined.iter().flatten().enumerate() {
        folder.write(&format!("joined-{number}-host.txt"), &joined.host)?;
        folder.write(&format!("joined-{number}-guest.txt"), &joined.guest)?;
    }
    for (name, console) in &kept.consoles {
        folder.write(name, console)?;
    }
    Ok(())
}
