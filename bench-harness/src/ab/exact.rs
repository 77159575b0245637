//! The first gate: what can be counted instead of timed. Requests, kicks and invalidations in virtual time; instructions
//! and allocations under valgrind.

use std::{fs, path::Path, process::Command};

use iommu_analysis::{
    callgrind::{self, Counted},
    compare::{self, Flame, Need, PerPacket},
    stats::LEVEL,
    verdict::{MetricVerdict, Missing, Verdict},
};
use iommu_results::names;

use super::{
    build::Side,
    process::{Ended, Launcher, Measured},
    sequence::Exact,
};
use crate::failure::Failure;

/// How much instructions per packet may grow. Not 0: hash maps are seeded at random, and a thread may poll once more.
pub(super) const INSTRUCTIONS_BOUND: f64 = 0.005;

/// Packets of the shorter of two processes under valgrind; the longer one has three times as many. What both do to set up
/// cancels in the difference.
const SHORT: u64 = 400;

/// What the exact gate found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) metrics: Vec<MetricVerdict>,
    pub(super) missing: Vec<Missing>,
    pub(super) per_packet: Vec<PerPacket>,
    pub(super) flame: Option<Result<Flame, String>>,
    pub(super) interrupted: bool,
}

/// Compares the counts of one process of each build.
pub(super) fn counts(
    launcher: &Launcher<'_>,
    base: &Side,
    head: &Side,
    exact: Exact,
) -> Result<Found, Failure> {
    let one = |side: &Side| launcher.exact(&side.binaries[0], exact.packets);
    let (Ended::Well(base), Ended::Well(head)) = (one(base)?, one(head)?) else {
        return Ok(Found { interrupted: true, ..Found::default() });
    };
    let (base, head) = (&base.stored.run, &head.stored.run);
    let sides = compare::sides(base, head, Need::Times).map_err(Failure::usage)?;
    let (metrics, missing, per_packet) = compare::counts(base, head, &sides, exact.bound);
    Ok(Found { metrics, missing, per_packet, ..Found::default() })
}

/// Compares instructions and allocations per packet, over all cases.
pub(super) fn instructions(
    launcher: &Launcher<'_>,
    base: &Side,
    head: &Side,
    bound: f64,
    folder: &Path,
) -> Result<Found, Failure> {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if !valgrind.is_ok_and(|output| output.status.success()) {
        let reason = "valgrind is not installed; on Debian: apt install valgrind".to_owned();
        let missing = ["instructions", "allocations"].map(|name| Missing {
            metric: name.to_owned(),
            case: "*".to_owned(),
            reason: reason.clone(),
            one_sided: false,
        });
        return Ok(Found { missing: missing.into(), flame: Some(Err(reason)), ..Found::default() });
    }
    let mut counted = Vec::new();
    for side in [base, head] {
        let of = |packets| under_valgrind(launcher, &side.binaries[0], packets, folder);
        let (Some(short), Some(long)) = (of(SHORT)?, of(3 * SHORT)?) else {
            return Ok(Found { interrupted: true, ..Found::default() });
        };
        counted.push((long.0.beyond(&short.0), long.1.saturating_sub(short.1).max(1)));
    }
    let [(base, packets), (head, head_packets)] = counted.as_slice() else { return Ok(Found::default()) };
    let per_packet = |n: u64, packets: u64| n as f64 / packets as f64;
    let verdict = |metric: &str, of: fn(&Counted) -> u64, slack: f64| {
        let (base, head) = (per_packet(of(base), *packets), per_packet(of(head), *head_packets));
        judged(metric, base, head, bound, slack)
    };
    let metrics = vec![
        verdict("instructions", Counted::instructions, 0.0),
        // Tables that double now and then: a thousandth of an allocation a packet is none.
        verdict("allocations", Counted::allocations, 0.001),
    ];
    let weights = format!("instructions of {packets} packets");
    let flame =
        compare::differential(&base.stacks, &head.stacks, &weights).map_err(|error| error.to_string());
    Ok(Found { metrics, flame: Some(flame), ..Found::default() })
}

fn judged(metric: &str, base: f64, head: f64, bound: f64, slack: f64) -> MetricVerdict {
    let ratio = (base > 0.0).then(|| head / base);
    let verdict = if head > base * (1.0 + bound) + slack {
        Verdict::Worse
    } else if head * (1.0 + bound) + slack < base {
        Verdict::Better
    } else {
        Verdict::Same
    };
    MetricVerdict {
        metric: metric.to_owned(),
        case: "*".to_owned(),
        base,
        head,
        ratio,
        ci: ratio.map(|ratio| [ratio, ratio]),
        level: LEVEL,
        noise_floor: 0.0,
        verdict,
        n: 1,
    }
}

/// What one process executed, and the packets it moved; nothing when it was interrupted.
fn under_valgrind(
    launcher: &Launcher<'_>,
    binary: &Path,
    packets: u64,
    folder: &Path,
) -> Result<Option<(Counted, u64)>, Failure> {
    let file = folder.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-callers=40", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(binary).args(launcher.arguments()).args(["--packets", &packets.to_string()]);
    let Ended::Well(measured) = launcher.run(command)? else { return Ok(None) };
    let text =
        fs::read_to_string(&file).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
    let counted = callgrind::parse(&text).map_err(Failure::failed)?;
    Ok(Some((counted, moved(&measured))))
}

fn moved(measured: &Measured) -> u64 {
    measured.stored.run.cases.iter().filter_map(|case| case.counts.get(names::PACKETS)).sum()
}
