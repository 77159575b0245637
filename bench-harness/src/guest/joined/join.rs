//! Both accounts on one axis: which exit was which doorbell, and where each request's time went.

use std::collections::BTreeMap;

use iommu_results::{Breakdown, BreakdownPart, HistogramSummary};
use serde::Serialize;

use super::text::{Moment, Stamp, What};

/// Parts of a request to the IOMMU, each from where the one before ended:
/// on the ring until the driver rings; until the guest has left; KVM, until the VMM has the doorbell; VMM and socket, until
/// our device has read the request; its effect; until the answer is visible; until the guest goes on; until the driver has
/// seen the answer.
const REQUEST: [&str; 8] = ["queued", "exit", "kvm", "vmm", "table", "publication", "entry", "taken"];
/// Parts of a packet: until the guest has left; KVM; VMM, socket and our card, until its DMA is done and the interrupt sent;
/// until that is put into the guest.
const PACKET: [&str; 4] = ["exit", "kvm", "vmm and dma", "injection"];
/// Requests by their type on the wire (virtio-iommu, 5.13.6).
const TYPES: [(u64, &str); 5] = [(1, "attach"), (2, "detach"), (3, "map"), (4, "unmap"), (5, "probe")];

/// What was seen, and how much of it could be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    /// Requests that the guest's driver queued.
    pub(crate) queued: u64,
    /// Of those, followed through all parts.
    pub(crate) followed: u64,
    /// Requests that our device read meanwhile.
    pub(crate) decoded: u64,
    /// Answers, in batches, that it made visible.
    pub(crate) completed: u64,
    /// Doorbells that the guest rang for something else than the IOMMU.
    pub(crate) doorbells: u64,
    /// Of those, followed to an interrupt in the guest.
    pub(crate) packets: u64,
    /// Exits of the guest.
    pub(crate) exits: u64,
    /// Stores of the guest to devices.
    pub(crate) stores: u64,
    /// Exits to the VMM.
    pub(crate) to_vmm: u64,
    /// ioctls, of all threads.
    pub(crate) ioctls: u64,
    /// Message-signalled interrupts sent.
    pub(crate) msis: u64,
    /// Interrupts put into the guest.
    pub(crate) injected: u64,
}

/// Ticks of each part of each request, by what was asked.
type Cuts = BTreeMap<&'static str, Vec<Vec<u64>>>;

/// Joins them.
pub(super) fn join(
    case: &str,
    guest: &[(u64, Stamp)],
    host: &[Moment],
    ns_per_tick: f64,
) -> (Vec<Breakdown>, Account) {
    let guest = &traced(guest, host)[..];
    let mut account = seen(guest, host);
    let mut cuts = Cuts::new();
    let (mut queued, mut sync, mut notify) = (Vec::new(), None, None);
    for (at, &(tsc, stamp)) in guest.iter().enumerate() {
        match stamp {
            Stamp::Add(kind) => queued.push((tsc, kind)),
            Stamp::Sync => sync = Some(tsc),
            Stamp::Synced => {
                let queued = std::mem::take(&mut queued);
                let Some(begin) = sync.take() else { continue };
                for (kind, parts) in requests(host, &queued, begin, tsc) {
                    account.followed += 1;
                    cuts.entry(kind).or_default().push(parts);
                }
            }
            Stamp::Notify if sync.is_none() => {
                account.doorbells += 1;
                notify = Some(tsc);
            }
            Stamp::Notified => {
                let Some(begin) = notify.take() else { continue };
                // The IOMMU's doorbell is rung right after its stamp; another one is a card's.
                let next =
                    guest[at..].windows(2).find(|two| two[0].1 != Stamp::Sync && two[1].1 == Stamp::Notify);
                let until = next.map_or(u64::MAX, |two| two[1].0);
                if let Some(parts) = packet(host, begin, tsc, until) {
                    account.packets += 1;
                    cuts.entry("packet").or_default().push(parts);
                }
            }
            Stamp::Notify => {}
        }
    }
    let counted = |name: &str| {
        let kind = TYPES.iter().find(|(_, other)| *other == name)?.0;
        Some(
            host.iter()
                .filter(|one| matches!(one.what, What::Decoded { kind: found, .. } if found == kind))
                .count() as u64,
        )
    };
    let breakdown = cuts.iter().map(|(name, all)| {
        let parts: &[&str] = if *name == "packet" { &PACKET } else { &REQUEST };
        broken_down(case, name, parts, all, counted(name), ns_per_tick)
    });
    (breakdown.collect(), account)
}

/// The guest's stamps while the host was traced as well.
fn traced(guest: &[(u64, Stamp)], host: &[Moment]) -> Vec<(u64, Stamp)> {
    let (Some(first), Some(last)) = (host.first(), host.last()) else { return Vec::new() };
    let during = first.tsc..=last.tsc;
    guest.iter().filter(|(tsc, _)| during.contains(tsc)).copied().collect()
}

fn seen(guest: &[(u64, Stamp)], host: &[Moment]) -> Account {
    let count = |wanted: fn(&What) -> bool| host.iter().filter(|one| wanted(&one.what)).count() as u64;
    Account {
        queued: guest.iter().filter(|(_, stamp)| matches!(stamp, Stamp::Add(_))).count() as u64,
        decoded: count(|what| matches!(what, What::Decoded { .. })),
        completed: count(|what| *what == What::Completed),
        exits: count(|what| *what == What::Exit),
        stores: count(|what| *what == What::Store),
        to_vmm: count(|what| *what == What::ToVmm),
        ioctls: count(|what| *what == What::Ioctl),
        msis: count(|what| *what == What::Msi),
        injected: count(|what| *what == What::Inject),
        ..Account::default()
    }
}

/// Moments from `begin` to `end`.
fn between(host: &[Moment], begin: u64, end: u64) -> &[Moment] {
    let first = host.partition_point(|one| one.tsc < begin);
    let last = host.partition_point(|one| one.tsc <= end);
    &host[first..last.max(first)]
}

/// A doorbell's exit: when the guest had left, and when the VMM had it.
fn doorbell(moments: &[Moment]) -> Option<(u64, u64, u64)> {
    let at = moments.iter().position(|one| one.what == What::Store)?;
    let store = moments[at];
    let mine = |one: &&Moment, what: What| one.thread == store.thread && one.what == what;
    let exit = moments[..at].iter().rev().find(|one| mine(one, What::Exit))?;
    let vmm = moments[at..].iter().find(|one| mine(one, What::IoctlDone))?;
    Some((store.thread, exit.tsc, vmm.tsc))
}

/// The parts of each request that was queued before the driver rang and waited.
fn requests(host: &[Moment], queued: &[(u64, u64)], begin: u64, end: u64) -> Vec<(&'static str, Vec<u64>)> {
    let moments = between(host, begin, end);
    let Some((thread, exit, vmm)) = doorbell(moments) else { return Vec::new() };
    let decoded = moments.iter().filter_map(|one| match one.what {
        What::Decoded { key, kind } => Some((one.tsc, key, kind)),
        _ => None,
    });
    let entry = moments.iter().rev().find(|one| one.thread == thread && one.what == What::Entry);
    let mut found = Vec::new();
    for (&(added, wanted), (read, key, kind)) in queued.iter().zip(decoded) {
        let after = |from: u64, what: What| between(moments, from, end).iter().find(|one| one.what == what);
        let Some(table) = after(read, What::TableDone { key }) else { continue };
        let Some(completed) = after(table.tsc, What::Completed) else { continue };
        let (Some(entry), true) = (entry, kind == wanted) else { continue };
        let Some((_, name)) = TYPES.iter().find(|(number, _)| *number == kind) else { continue };
        let cuts = [begin, exit, vmm, read, table.tsc, completed.tsc, entry.tsc, end];
        found.push((*name, parts(added, &cuts)));
    }
    found
}

/// The parts of a packet, if this doorbell sent one and an interrupt came of it before the next doorbell.
fn packet(host: &[Moment], begin: u64, rung: u64, until: u64) -> Option<Vec<u64>> {
    let (_, exit, vmm) = doorbell(between(host, begin, rung))?;
    let after = |from: u64, what: What| between(host, from, until).iter().find(|one| one.what == what);
    let sent = after(exit, What::Msi)?;
    let put = after(sent.tsc, What::Inject)?;
    Some(parts(begin, &[exit, vmm, sent.tsc, put.tsc]))
}

/// Lengths between cuts. A cut before the last one takes no time: what waits was overtaken.
fn parts(begin: u64, cuts: &[u64]) -> Vec<u64> {
    let mut at = begin;
    let last = cuts.last().copied().unwrap_or(begin);
    let length = |&cut: &u64| {
        let next = cut.min(last).max(at);
        next - std::mem::replace(&mut at, next)
    };
    cuts.iter().map(length).collect()
}

fn broken_down(
    case: &str,
    request: &str,
    names: &[&str],
    all: &[Vec<u64>],
    counted: Option<u64>,
    ns_per_tick: f64,
) -> Breakdown {
    let ns = |ticks: u64| (ticks as f64 * ns_per_tick).round() as u64;
    let wholes: Vec<u64> = all.iter().map(|parts| ns(parts.iter().sum())).collect();
    let whole_ns: u64 = wholes.iter().sum();
    let share = |sum: u64| if whole_ns == 0 { 0.0 } else { sum as f64 / whole_ns as f64 };
    let mut total = 0;
    let parts = names.iter().enumerate().map(|(at, name)| {
        let times: Vec<u64> = all.iter().map(|parts| ns(parts[at])).collect();
        let sum: u64 = times.iter().sum();
        total += sum;
        let mean_ns = sum as f64 / all.len().max(1) as f64;
        BreakdownPart { name: (*name).to_owned(), share: share(sum), mean_ns, histogram: summary(times) }
    });
    let parts = parts.collect();
    Breakdown {
        case: case.to_owned(),
        request: request.to_owned(),
        requests: all.len() as u64,
        counted,
        whole: summary(wholes),
        parts,
        error: share(total) - if whole_ns == 0 { 0.0 } else { 1.0 },
    }
}

/// Exact figures.
fn summary(mut times: Vec<u64>) -> HistogramSummary {
    times.sort_unstable();
    let at = |quantile: f64| {
        let rank = (quantile * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    HistogramSummary {
        unit: "ns".to_owned(),
        count: times.len() as u64,
        min: at(0.0),
        mean: times.iter().sum::<u64>() as f64 / times.len().max(1) as f64,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        max: at(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VCPU: u64 = 7;
    const DEVICE: u64 = 9;

    fn at(tsc: u64, thread: u64, what: What) -> Moment {
        Moment { tsc, thread, what }
    }

    /// A MAP whose doorbell is one exit; then a packet, whose interrupt comes back.
    fn host() -> Vec<Moment> {
        vec![
            at(90, VCPU, What::Mark(0)),
            at(120, VCPU, What::Exit),
            at(130, VCPU, What::Store),
            at(140, VCPU, What::ToVmm),
            at(150, VCPU, What::IoctlDone),
            at(180, DEVICE, What::Decoded { key: 5, kind: 3 }),
            at(190, DEVICE, What::TableDone { key: 5 }),
            at(200, DEVICE, What::Completed),
            at(230, VCPU, What::Ioctl),
            at(240, VCPU, What::Entry),
            at(310, VCPU, What::Exit),
            at(315, VCPU, What::Store),
            at(320, VCPU, What::IoctlDone),
            at(345, DEVICE, What::Msi),
            at(350, VCPU, What::Entry),
            at(360, VCPU, What::Exit),
            at(370, VCPU, What::Inject),
            at(400, VCPU, What::Mark(620)),
        ]
    }

    fn guest() -> Vec<(u64, Stamp)> {
        vec![
            // Before the host traced.
            (50, Stamp::Add(4)),
            (100, Stamp::Add(3)),
            (110, Stamp::Sync),
            (115, Stamp::Notify),
            (245, Stamp::Notified),
            (250, Stamp::Synced),
            (300, Stamp::Notify),
            (355, Stamp::Notified),
        ]
    }

    #[test]
    fn a_request_is_followed_from_the_guest_and_back() {
        let (breakdown, account) = join("case", &guest(), &host(), 2.0);
        assert_eq!((account.queued, account.followed, account.decoded), (1, 1, 1));
        assert_eq!((account.doorbells, account.packets, account.exits), (1, 1, 3));
        let means = |one: &Breakdown| one.parts.iter().map(|part| part.mean_ns as u64).collect::<Vec<_>>();
        assert_eq!(breakdown.len(), 2);
        assert_eq!((breakdown[0].request.as_str(), breakdown[0].counted), ("map", Some(1)));
        assert_eq!(means(&breakdown[0]), [20, 20, 60, 60, 20, 20, 80, 20]);
        assert_eq!(breakdown[0].whole.max, 300);
        assert_eq!(breakdown[1].request, "packet");
        assert_eq!(means(&breakdown[1]), [20, 20, 50, 50]);
        assert!(breakdown.iter().all(|one| one.error.abs() < 1e-12));
    }

    #[test]
    fn what_is_not_seen_whole_is_not_followed() {
        for (missing, _) in host().iter().enumerate().filter(|(_, one)| {
            matches!(one.what, What::Decoded { .. } | What::TableDone { .. } | What::Completed)
        }) {
            let mut host = host();
            host.remove(missing);
            let (breakdown, account) = join("case", &guest(), &host, 1.0);
            assert_eq!((account.queued, account.followed), (1, 0), "without {missing}");
            assert!(breakdown.iter().all(|one| one.request == "packet"));
        }
        // Another type than the guest queued.
        let mut other = guest();
        other[1].1 = Stamp::Add(4);
        assert_eq!(join("case", &other, &host(), 1.0).1.followed, 0);
    }

    #[test]
    fn what_overtakes_takes_no_time() {
        assert_eq!(parts(10, &[20, 40, 30, 50]), [10, 20, 0, 10]);
        assert_eq!(parts(10, &[20, 90, 50]), [10, 30, 0]);
    }
}
