//! The first gate: counts, which must match exactly where they were counted in virtual time.

use iommu_results::metric::{self, Direction, Of};
use iommu_results::{Case, Mode, Run, names};

use super::sides::is_virtual;
use super::{PerPacket, Sides};
use crate::stats::LEVEL;
use crate::verdict::{MetricVerdict, Missing, Verdict};

/// How far counts per packet of runs in wall time may lie apart: the ring is filled once a run, however long it is.
const TIMED_BOUND: f64 = 0.02;

/// A count of both sides.
struct Pair<'r> {
    case: &'r Case,
    name: &'r str,
    direction: Direction,
    base: u64,
    head: u64,
}

/// Verdicts about every count, what only one side counted, and the counts per packet.
///
/// `bound` is the relative growth that runs in virtual time with the same seed may have, 0 for an exact match. Runs in wall
/// time move different numbers of packets: there, counts per packet are compared.
pub fn counts(
    base: &Run,
    head: &Run,
    sides: &Sides<'_>,
    bound: f64,
) -> (Vec<MetricVerdict>, Vec<Missing>, Vec<PerPacket>) {
    let exact = is_virtual(base) && base.seed == head.seed;
    let (mut verdicts, mut missing, mut per_packet) = (Vec::new(), Vec::new(), Vec::new());
    for (in_base, in_head) in &sides.cases {
        missing.extend(one_sided(in_base, in_head));
        for (name, count) in &in_base.counts {
            let Some(other) = in_head.counts.get(name) else { continue };
            let rates = (in_base.per_packet(name), in_head.per_packet(name));
            if let (Some(base), Some(head)) = rates
                && name != names::PACKETS
            {
                let (case, count) = (in_base.id.clone(), name.clone());
                per_packet.push(PerPacket { case, count, base, head });
            }
            let Ok(row) = metric::find(name, Of::Count) else {
                missing.push(Missing::unknown(name, &in_base.id));
                continue;
            };
            let direction = row.direction;
            let pair = Pair { case: in_base, name, direction, base: *count, head: *other };
            if exact {
                verdicts.push(judged(&pair, (*count as f64, *other as f64), bound, true));
            } else if let (Some(base), Some(head)) = rates
                && direction != Direction::Neither
            {
                let steady = in_base.mode != Mode::Lazy;
                verdicts.push(judged(&pair, (base, head), TIMED_BOUND, steady));
            }
        }
    }
    (verdicts, missing, per_packet)
}

/// `steady` says that nothing but the code decides the count: lazy mode's timer has a part in it under wall time.
fn judged(pair: &Pair<'_>, (base, head): (f64, f64), bound: f64, steady: bool) -> MetricVerdict {
    let ratio = (base > 0.0).then(|| head / base);
    let grown = if pair.base == 0 { pair.head > 0 } else { head > base * (1.0 + bound) };
    let shrunk = head * (1.0 + bound) < base;
    let verdict = match (pair.direction, grown, shrunk) {
        (_, false, false) => Verdict::Same,
        (Direction::Lower, true, _) | (Direction::Higher, _, true) if steady => Verdict::Worse,
        (Direction::Lower, _, true) | (Direction::Higher, true, _) if steady => Verdict::Better,
        _ => Verdict::Inconclusive,
    };
    MetricVerdict {
        metric: pair.name.to_owned(),
        case: pair.case.id.clone(),
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

fn one_sided(base: &Case, head: &Case) -> Vec<Missing> {
    let lacks = |has: &Case, lacks: &Case, side: &str| -> Vec<Missing> {
        let names = has.counts.keys().filter(|name| !lacks.counts.contains_key(*name));
        let missing = |name: &String| Missing {
            metric: name.clone(),
            case: has.id.clone(),
            reason: format!("only {side} has this count"),
            one_sided: true,
        };
        names.map(missing).collect()
    };
    let mut missing = lacks(base, head, "base");
    missing.extend(lacks(head, base, "head"));
    missing
}
