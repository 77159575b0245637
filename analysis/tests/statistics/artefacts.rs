//! Sections of the report that need what lies beside the run: curves, churn, rates and latencies over time.

use iommu_analysis::report::html_with;
use iommu_results::artefacts::{
    Artefact, Axis, CaseChurn, CaseHeat, Churn, Counted, Curve, Distances, Heat, Modelled, Recording,
    ReuseBucket, SliceHeat, Sweep, Window,
};
use iommu_results::{Artefacts, CaseSeries, MetricSeries, Run, SERIES_SCHEMA, Series, SliceValue, names};

fn series(run: &Run) -> Series {
    let slice = |round: u32| SliceValue {
        round,
        at_ns: u64::from(round) * 500_000_000,
        value: 1e9 + f64::from(round),
    };
    let case = |id: &str| CaseSeries {
        id: id.to_owned(),
        metrics: [names::THROUGHPUT.to_owned()]
            .map(|name| (name, MetricSeries { unit: "bytes/s".into(), slices: (0..8).map(slice).collect() }))
            .into(),
    };
    let cases = run.cases.iter().map(|found| case(&found.id)).collect();
    Series { schema: SERIES_SCHEMA.into(), run_id: run.run_id.clone(), cases }
}

/// Many slices, so that columns are shared.
fn heat(run: &Run) -> Heat {
    let slice = |round: u32| SliceHeat {
        round,
        at_ns: u64::from(round) * 500_000_000,
        latency: [(names::MAP_LATENCY.to_owned(), vec![(64, 90), (76, 9), (1024, 1)])].into(),
    };
    let case = |id: &str| CaseHeat { case: id.to_owned(), slices: (0..200).map(slice).collect() };
    let cases = run.cases.iter().map(|found| case(&found.id)).collect();
    Heat { schema: Heat::SCHEMA.into(), run_id: run.run_id.clone(), cases }
}

fn recording() -> Recording {
    Recording {
        packets: 8000,
        payload_bytes: 8 << 20,
        streams: 1,
        counted: Counted {
            page_bytes: 4096,
            accesses: 20_000,
            invalidations: 500,
            flushes: 0,
            window_accesses: 1024,
            windows: vec![Window { unique_pages: 321, invalidations: 7 }],
            reuse: Some(Distances {
                first: 17,
                invalidated: 23,
                flushed: 0,
                buckets: [(0, 0), (1, 1), (2, 3)]
                    .map(|(from, to)| ReuseBucket { from, to, accesses: 4321 + from })
                    .into(),
            }),
        },
        modelled: Modelled {
            miss_ratio_curve: Curve {
                by: "lru_shards".into(),
                points: vec![(0, 1.0), (100, 0.25), (4000, 0.125)],
            },
            capacity_entries: 1024,
            capacity_assumed: true,
            miss_ratio: 0.25,
            misses_per_page: 1.25,
            reads_per_page: 1.25,
            reads_per_page_uncached: 5.0,
            throughput: 1.3e10,
            throughput_uncached: 4e9,
            base_ns: 65.0,
            read_ns: 197.0,
        },
    }
}

fn churn(run: &Run) -> Churn {
    let case = |found: &iommu_results::Case| match found.mode {
        iommu_results::Mode::Strict | iommu_results::Mode::Lazy => {
            CaseChurn { case: found.id.clone(), recording: Some(recording()), reason: None }
        }
        mode => {
            let reason = Some(format!("nothing is translated in mode {mode}"));
            CaseChurn { case: found.id.clone(), recording: None, reason }
        }
    };
    Churn {
        schema: Churn::SCHEMA.into(),
        run_id: run.run_id.clone(),
        cases: run.cases.iter().map(case).collect(),
    }
}

fn sweep(run: &Run) -> Sweep {
    let values = vec![64_u64.into(), 1448_u64.into(), 65_536_u64.into()];
    let axes = vec![Axis { key: "message_bytes".into(), test: None, values }];
    Sweep { schema: Sweep::SCHEMA.into(), run_id: run.run_id.clone(), axes }
}

fn page() -> String {
    let (run, histograms) = crate::common::matrix();
    let artefacts = Artefacts {
        series: Some(series(&run)),
        heat: Some(heat(&run)),
        sweep: Some(sweep(&run)),
        churn: Some(churn(&run)),
        profile: None,
    };
    html_with(&run, &histograms, &artefacts)
}

fn section<'p>(page: &'p str, id: &str) -> &'p str {
    let from = page.find(&format!("<section id=\"{id}\"")).unwrap_or_else(|| panic!("no section {id}"));
    page[from..].split("</section>").next().unwrap()
}

#[test]
fn curves_have_a_line_for_each_mode_and_axes_with_units() {
    let page = page();
    let curves = section(&page, "curves");
    // Throughput and time per packet of two tests, and the transactions of one.
    assert_eq!(curves.matches("<svg").count(), 5);
    for text in ["message, bytes", "64 B", "16 KiB", "Gbit/s", "ns", "\noff\n", "\nstrict\n"] {
        assert!(curves.contains(text), "`{text}`");
    }
}

#[test]
fn every_modelled_figure_says_so() {
    let page = page();
    let churn = section(&page, "churn");
    for text in [
        "Miss ratio against capacity (modelled)",
        "misses by access (modelled)",
        "1024 entries, assumed below",
        "miss ratio (modelled)",
        "reads per 4 KiB (modelled)",
        "predicted by Fast &amp; Safe (modelled)",
        "nothing is translated in mode off",
        "From a sample of the pages (SHARDS)",
        "Reuse distances (counted)",
        "No hardware IOTLB took part",
    ] {
        assert!(churn.contains(text), "`{text}`");
    }
    // The prediction stands beside what was observed: 1.3e10 bytes/s are 104 Gbit/s.
    assert!(churn.contains("104 Gbit/s") && churn.contains("4321"));
}

#[test]
fn time_runs_from_left_to_right_in_few_columns() {
    let page = page();
    let time = section(&page, "time");
    assert!(time.contains("Throughput over time") && time.contains("time from the start of measuring, s"));
    assert!(time.contains("Map latency over time") && time.contains("30 % or more"));
    // 200 slices in at most 48 columns: three buckets each, for four modes and three loads, and the legends.
    let cells = time.matches("opacity=\"0.").count();
    assert!(cells < 48 * 3 * 4 * 3 * 2, "{cells}");
}

#[test]
fn tags_are_closed_and_nothing_paints_a_colour_of_its_own() {
    let page = page();
    for tag in ["section", "details", "table", "tr", "td", "th", "svg", "text", "p", "figure", "rect"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        let closed = page.matches(&format!("</{tag}>")).count();
        assert!(tag == "rect" || opened == closed, "<{tag}>: {opened} {closed}");
    }
    let plots = page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next());
    assert!(plots.clone().count() > 20);
    assert!(plots.clone().all(|plot| !plot.contains("\"#")));
}

#[test]
fn what_is_not_there_has_no_section() {
    let (run, histograms) = crate::common::strict();
    let page = html_with(&run, &histograms, &Artefacts::default());
    for id in ["curves", "churn", "time"] {
        assert!(!page.contains(&format!("id=\"{id}\"")), "{id}");
    }
}
