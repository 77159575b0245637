//! A comparison for readers: eighty columns, whole names, reasons once.

use iommu_analysis::compare::{Comparison, Stacks, differential, latencies, markdown, text};
use iommu_analysis::report;
use iommu_analysis::terminal::Options;
use iommu_analysis::verdict::{MetricVerdict, Missing, Report, Verdict};
use iommu_results::Histogram;

fn metric(name: &str, case: &str, base: f64, verdict: Verdict) -> MetricVerdict {
    let (metric, case) = (name.to_owned(), case.to_owned());
    let (ratio, ci) = (Some(1.031), Some([0.8765, 1.2345]));
    MetricVerdict {
        metric,
        case,
        base,
        head: base * 1.031,
        ratio,
        ci,
        level: 0.99,
        noise_floor: 1.25,
        verdict,
        n: 48,
    }
}

/// TEST DATA: every figure is invented.
fn sample() -> Comparison {
    let count = MetricVerdict {
        base: 12_000.0,
        head: 12_009.0,
        ci: Some([1.0, 1.0]),
        noise_floor: 0.0,
        n: 1,
        ..metric("kicks_iommu", "TCP_STREAM/strict/emulated", 0.0, Verdict::Worse)
    };
    let metrics = vec![
        count,
        metric("request_service", "TCP_STREAM/strict/emulated", 101.5, Verdict::Worse),
        metric("throughput", "TCP_STREAM/strict/emulated", 1.24e9, Verdict::Inconclusive),
    ];
    let missing = |metric: &str, case: &str| Missing {
        metric: metric.to_owned(),
        case: case.to_owned(),
        reason: "no such <counter> here".to_owned(),
        one_sided: false,
    };
    let stacks =
        |own: u64| -> Stacks { [("main;serve".to_owned(), 900), ("main;serve;map".to_owned(), own)].into() };
    let mut histogram = Histogram::new();
    histogram.record_n(100, 50);
    let histograms =
        [(("TCP_STREAM/strict/emulated".to_owned(), "map_latency".to_owned()), histogram)].into();
    Comparison {
        title: "netperf-strict, measured in turn".to_owned(),
        base: "main (0123456789ab)".to_owned(),
        head: "HEAD (ba9876543210)".to_owned(),
        report: Report::new(
            metrics,
            vec![missing("cycles", "a"), missing("cycles", "b"), missing("misses", "b")],
        ),
        notes: vec!["the load average was 9.9".to_owned()],
        per_packet: Vec::new(),
        latencies: latencies(&histograms, &histograms),
        flame: differential(&stacks(100), &stacks(150), "samples").map_err(|error| error.to_string()),
    }
}

#[test]
fn text_fits_eighty_columns_and_breaks_no_name() {
    let text = text(&sample(), Options { width: 80, colour: false });
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for expected in
        ["request_service", "9.92 Gbit/s", "12000 → 12009", "exact", "0.88 to 1.23", "125 %", "inconclusive"]
    {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
    assert!(text.contains("cycles, misses of 2 cases: no such <counter> here"), "{text}");
    assert!(text.contains("+5.00 %  map"), "{text}");
    assert!(text.ends_with("verdict: worse\n"), "{text}");
}

#[test]
fn markdown_escapes_what_markdown_would_read() {
    let text = markdown(&sample());
    assert!(text.contains("cycles, misses of 2 cases: no such \\<counter\\> here"), "{text}");
    assert!(text.contains("| ❌ worse | `TCP_STREAM/strict/emulated` | request\\_service |"), "{text}");
}

#[test]
fn the_page_escapes_and_runs_no_script() {
    let page = report::comparison(&sample());
    assert!(page.contains("no such &lt;counter&gt; here") && !page.contains("<script"), "{page}");
    assert!(page.contains("Differential flame graph") && page.contains("Wasserstein"));
    assert_eq!(page.matches("<style>").count(), 1, "the graph's style sheet would reach the whole page");
}
