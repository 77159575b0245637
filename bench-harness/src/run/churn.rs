//! What the recorded streams say: facts of them, and what models make of them, as metrics and as `churn.json`.

use iommu_analysis::stats::{self, LEVEL};
use iommu_churn::{FastAndSafe, Model, Stretch, WalkModel};
use iommu_results::{
    Metric,
    artefacts::{
        Artefact as _, CaseChurn, Churn, Counted, Curve, Distances, Modelled, Recording as Stored,
        ReuseBucket, Window,
    },
    metric::{self, Of, UnknownName},
    names,
};
use iommu_workloads::{
    CaseSpec,
    scenario::{Device, Endpoint},
};

use super::collect::Gathered;
use crate::machine::{RecordedSlice, Recording};

/// Entries of the IOTLB that figures assume where the case has none.
const ASSUMED_ENTRIES: u64 = 1024;
/// Bytes of a page, of data and of a translation.
const PAGE_BYTES: u64 = 4096;
/// Accesses of a window, as the streams are followed with.
const WINDOW_ACCESSES: u64 = 1024;
/// Most points of a stored curve.
const MOST_POINTS: usize = 512;

/// What the models give for a stretch with so much payload.
struct Figures {
    miss_ratio: f64,
    misses_per_page: f64,
    reads_per_page: f64,
    throughput: f64,
}

fn capacity(spec: &CaseSpec) -> (u64, bool) {
    match u64::from(spec.params.iotlb_entries) {
        0 => (ASSUMED_ENTRIES, true),
        entries => (entries, false),
    }
}

/// Nothing where nothing was accessed or moved.
fn figures(stretch: &Stretch, payload_bytes: u64, entries: u64, walk: &WalkModel) -> Option<Figures> {
    if stretch.accesses == 0 || payload_bytes == 0 {
        return None;
    }
    let miss_ratio = stretch.curve().at(entries).modelled();
    let misses_per_page = miss_ratio * stretch.accesses as f64 / (payload_bytes as f64 / PAGE_BYTES as f64);
    let reads = walk.reads_per_page(misses_per_page).ok()?;
    let throughput = FastAndSafe::default().bytes_per_s(reads).modelled();
    Some(Figures { miss_ratio, misses_per_page, reads_per_page: reads.modelled(), throughput })
}

/// The metrics of a case's recording; of a real device, the reason why there are none.
///
/// # Errors
/// [`UnknownName`] for a metric without a row.
pub(super) fn metrics(
    spec: &CaseSpec,
    gathered: &Gathered,
    seed: u64,
) -> Result<Vec<(String, Metric)>, UnknownName> {
    if spec.test.device() == Device::Container {
        return Ok(Vec::new());
    }
    let recording = match &gathered.recording {
        Some(Ok(recording)) => recording,
        Some(Err(reason)) if spec.endpoint == Endpoint::Passthrough => {
            let missing = |name: &str| (name.to_owned(), Metric::missing(reason.clone()));
            return Ok(names::CHURN.into_iter().map(missing).collect());
        }
        _ => return Ok(Vec::new()),
    };
    let (entries, _) = capacity(spec);
    let walk = WalkModel::leaf_only();
    let value = |name: &str, slice: &RecordedSlice| -> Option<f64> {
        let stretch = &slice.stretch;
        let per_packet = |n: u64| (slice.packets > 0).then(|| n as f64 / slice.packets as f64);
        let modelled = || figures(stretch, slice.payload_bytes, entries, &walk);
        match name {
            names::RECORDED_ACCESSES => per_packet(stretch.accesses),
            names::RECORDED_INVALIDATIONS => per_packet(stretch.invalidations),
            names::RECORDED_WORKING_SET => stretch.working_set(),
            names::MODELLED_MISS_RATIO => modelled().map(|figures| figures.miss_ratio),
            names::MODELLED_MISSES_PER_PAGE => modelled().map(|figures| figures.misses_per_page),
            names::MODELLED_READS_PER_PAGE => modelled().map(|figures| figures.reads_per_page),
            names::MODELLED_THROUGHPUT => modelled().map(|figures| figures.throughput),
            _ => None,
        }
    };
    let metric = |name: &'static str| {
        let unit = metric::find(name, Of::Metric)?.unit;
        let samples: Vec<f64> = recording.slices.iter().filter_map(|slice| value(name, slice)).collect();
        Ok((name.to_owned(), above_zero(stats::metric(&samples, unit, LEVEL, seed))))
    };
    names::CHURN.into_iter().map(metric).collect()
}

/// None of these can be negative, so neither can the end of an interval.
fn above_zero(metric: Metric) -> Metric {
    match metric {
        Metric::Measured { value, unit, ci, level, n } => {
            Metric::Measured { value, unit, ci: [ci[0].max(0.0), ci[1]], level, n }
        }
        missing => missing,
    }
}

/// `churn.json`.
pub(super) fn artefact(run_id: &str, specs: &[CaseSpec], gathered: &[Gathered]) -> Churn {
    let case = |(spec, gathered): (&CaseSpec, &Gathered)| {
        let (recording, reason) = match &gathered.recording {
            Some(Ok(recording)) => (stored(spec, recording), None),
            Some(Err(reason)) => (None, Some(reason.clone())),
            None => (None, Some("the run ended before the accesses were recorded".to_owned())),
        };
        let reason = reason.or_else(|| recording.is_none().then(|| "nothing was accessed".to_owned()));
        CaseChurn { case: spec.id.clone(), recording, reason }
    };
    let cases = specs.iter().zip(gathered).map(case).collect();
    Churn { schema: Churn::SCHEMA.to_owned(), run_id: run_id.to_owned(), cases }
}

fn stored(spec: &CaseSpec, recording: &Recording) -> Option<Stored> {
    let mut whole = Stretch::default();
    recording.slices.iter().for_each(|slice| whole.merge(&slice.stretch));
    let payload_bytes = recording.slices.iter().map(|slice| slice.payload_bytes).sum();
    let (capacity_entries, capacity_assumed) = capacity(spec);
    let cached = figures(&whole, payload_bytes, capacity_entries, &WalkModel::leaf_only())?;
    let uncached = figures(&whole, payload_bytes, capacity_entries, &WalkModel::uncached())?;
    let model = FastAndSafe::default();
    Some(Stored {
        packets: recording.slices.iter().map(|slice| slice.packets).sum(),
        payload_bytes,
        streams: recording.streams,
        counted: counted(&whole),
        modelled: Modelled {
            miss_ratio_curve: curve(&whole),
            capacity_entries,
            capacity_assumed,
            miss_ratio: cached.miss_ratio,
            misses_per_page: cached.misses_per_page,
            reads_per_page: cached.reads_per_page,
            reads_per_page_uncached: uncached.reads_per_page,
            throughput: cached.throughput,
            throughput_uncached: uncached.throughput,
            base_ns: model.base_ns,
            read_ns: model.read_ns,
        },
    })
}

fn counted(whole: &Stretch) -> Counted {
    let window = |window: &iommu_churn::Window| Window {
        unique_pages: window.unique_pages,
        invalidations: window.invalidations,
    };
    Counted {
        page_bytes: PAGE_BYTES,
        accesses: whole.accesses,
        invalidations: whole.invalidations,
        flushes: whole.flushes,
        window_accesses: WINDOW_ACCESSES,
        windows: whole.windows.iter().map(window).collect(),
        reuse: whole.reuse().map(|reuse| Distances {
            first: reuse.first,
            invalidated: reuse.invalidated,
            flushed: reuse.flushed,
            buckets: reuse
                .buckets()
                .into_iter()
                .map(|bucket| ReuseBucket { from: bucket.from, to: bucket.to, accesses: bucket.accesses })
                .collect(),
        }),
    }
}

/// The curve's steps; of a long one, those that are equal factors of capacity apart, and the last.
fn curve(whole: &Stretch) -> Curve {
    let curve = whole.curve();
    let by = match curve.model() {
        Model::LruShards => "lru_shards",
        _ => "lru_stack",
    };
    let all = curve.points();
    if all.len() <= MOST_POINTS {
        return Curve { by: by.to_owned(), points: all.to_vec() };
    }
    let last = curve.saturates_at();
    let mut points: Vec<(u64, f64)> = Vec::with_capacity(MOST_POINTS);
    for step in 0..MOST_POINTS {
        let part = step as f64 / (MOST_POINTS - 1) as f64;
        // From 0 to the last step, in equal factors of capacity + 1.
        let capacity = (((last + 1) as f64).powf(part).round() as u64).saturating_sub(1).min(last);
        if points.last().is_none_or(|(before, _)| *before < capacity) {
            points.push((capacity, curve.at(capacity).modelled()));
        }
    }
    Curve { by: by.to_owned(), points }
}

#[cfg(test)]
mod tests {
    use iommu_churn::{Event, Profile, ProfileOptions};
    use iommu_workloads::Scenario;

    use super::*;

    fn spec(set: &str) -> CaseSpec {
        let mut scenario = Scenario::built_in("iotlb-churn").unwrap();
        scenario.set("modes=strict").unwrap();
        scenario.set("working_set_pages=16").unwrap();
        scenario.set(set).unwrap();
        scenario.expand().unwrap().remove(0)
    }

    /// Eight slices, each of 1000 accesses to `pages` pages in turn and as many bytes of payload as 500 pages have.
    fn recording(pages: u64) -> Recording {
        let mut profile = Profile::new(ProfileOptions::default());
        let slice = |_| {
            (0..1000).for_each(|i| profile.event(Event::Access(i % pages)));
            RecordedSlice { packets: 100, payload_bytes: 500 * PAGE_BYTES, stretch: profile.stretch() }
        };
        Recording { streams: 1, slices: (0..8).map(slice).collect() }
    }

    fn value(metrics: &[(String, Metric)], name: &str) -> f64 {
        metrics.iter().find(|(found, _)| found == name).unwrap().1.value().unwrap()
    }

    #[test]
    fn figures_worked_out_by_hand() {
        // 20 pages in turn do not fit 16 entries: every access misses, two a page of payload.
        let gathered = Gathered { recording: Some(Ok(recording(20))), ..Gathered::default() };
        let found = metrics(&spec("iotlb_entries=16"), &gathered, 1).unwrap();
        assert_eq!(value(&found, names::RECORDED_ACCESSES), 10.0);
        assert_eq!(value(&found, names::MODELLED_MISS_RATIO), 1.0);
        assert_eq!(value(&found, names::MODELLED_READS_PER_PAGE), 2.0);
        let throughput = value(&found, names::MODELLED_THROUGHPUT);
        assert!((throughput - 4096.0 / 459e-9).abs() < 1.0, "{throughput}");
        let stored = stored(&spec("iotlb_entries=16"), &recording(20)).unwrap();
        assert_eq!((stored.modelled.capacity_entries, stored.modelled.capacity_assumed), (16, false));
        assert_eq!(stored.modelled.reads_per_page_uncached, 8.0);
        assert_eq!(stored.modelled.miss_ratio_curve.points, [(0, 1.0), (20, 20.0 / 8000.0)]);
        assert_eq!(stored.counted.windows.len(), 7);
        assert!(stored.counted.windows.iter().all(|window| window.unique_pages == 20));
    }

    #[test]
    fn without_an_iotlb_an_assumed_one_is_said_to_be_assumed() {
        let stored = stored(&spec("iotlb_entries=0"), &recording(20)).unwrap();
        assert_eq!((stored.modelled.capacity_entries, stored.modelled.capacity_assumed), (1024, true));
        assert!(stored.modelled.miss_ratio < 0.01);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_both_ends() {
        let mut profile = Profile::new(ProfileOptions::default());
        // Distances of every size.
        for round in 1..1500_u64 {
            (0..round).rev().for_each(|page| profile.event(Event::Access(page)));
        }
        let whole = profile.stretch();
        let thin = curve(&whole);
        assert!(whole.curve().points().len() > MOST_POINTS && thin.points.len() <= MOST_POINTS);
        assert_eq!(thin.points.first(), Some(&(0, 1.0)));
        assert_eq!(thin.points.last().unwrap().0, whole.curve().saturates_at());
        assert!(thin.points.iter().all(|(at, ratio)| *ratio == whole.curve().at(*at).modelled()));
    }

    #[test]
    fn what_was_not_recorded_says_why() {
        let gathered =
            Gathered { recording: Some(Err("nothing is translated".to_owned())), ..Gathered::default() };
        assert!(metrics(&spec("seed=1"), &gathered, 1).unwrap().is_empty());
        let churn = artefact("r", &[spec("seed=1")], &[gathered]);
        assert_eq!(churn.cases[0].reason.as_deref(), Some("nothing is translated"));
        let mut real = spec("seed=1");
        real.endpoint = Endpoint::Passthrough;
        let gathered = Gathered { recording: Some(Err("hardware".to_owned())), ..Gathered::default() };
        let found = metrics(&real, &gathered, 1).unwrap();
        assert!(found.iter().all(|(_, metric)| *metric == Metric::missing("hardware")) && found.len() == 7);
    }
}
